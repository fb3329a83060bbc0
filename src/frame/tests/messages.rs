//! LLC, neighbour discovery, DHCP: what is read, and that any bytes can be.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use crate::frame::arp::Arp;
use crate::frame::dhcp::Dhcp;
use crate::frame::dhcpv6::{self, Dhcpv6};
use crate::frame::llc::{Llc, sap};
use crate::frame::nd::{self, Message};
use crate::frame::{Frame, Mac, Network, Unseen, dhcp, ipv6};

#[test]
fn llc_is_read_without_its_flag_bits() {
    let bytes = [0x43, 0xab, 3, 9];
    let header = Llc::parse(&bytes, 4, 4).unwrap();
    assert_eq!(
        (header.destination(), header.source()),
        (sap::BRIDGE, sap::SNAP)
    );
    assert!(header.names(sap::SNAP) && header.names(sap::BRIDGE) && !header.names(sap::ISO));
    for (length, available, expected) in [
        (2, 60, Unseen::Malformed),
        (61, 60, Unseen::Malformed),
        (1501, 2000, Unseen::Malformed),
        (46, 60, Unseen::BeyondSnapshot),
    ] {
        let read = Llc::parse(&bytes[..2], length, available).map(drop);
        assert_eq!(read, Err(expected), "{length} of {available}");
    }
}

#[test]
fn discovery_is_read_by_its_type() {
    let mut bytes = vec![0; 8];
    bytes.extend([0xfd; 16]);
    bytes.extend([0xfe; 16]);
    bytes.extend([1, 1, 2, 0, 0, 0, 0, 7, 5, 1, 0, 0, 0, 0, 5, 220]);
    let target = Ipv6Addr::from([0xfd; 16]);
    let read = |kind: u8| {
        let mut bytes = bytes.clone();
        bytes[0] = kind;
        Message::parse(&bytes, bytes.len())
            .map(|message| (message.target(), message.options().count()))
    };
    assert_eq!(read(137), Ok((Some(target), 2)));
    for kind in [135, 136] {
        // 0xfefe is an option that overruns.
        assert_eq!(read(kind), Ok((Some(target), 1)), "{kind}");
    }
    for kind in [133, 134] {
        assert_eq!(read(kind).map(|(target, _)| target), Ok(None), "{kind}");
    }
    for kind in [0, 128, 130, 132, 138, 141] {
        assert_eq!(read(kind), Err(Unseen::Malformed), "{kind}");
        assert!(!nd::is_discovery(kind));
    }
    bytes[0] = 137;
    let message = Message::parse(&bytes, bytes.len()).unwrap();
    let options: Vec<_> = message
        .options()
        .map(|opt| opt.map(|opt| (opt.kind, opt.mac())))
        .collect();
    assert_eq!(
        options,
        [
            Ok((1, Some(Mac::new([2, 0, 0, 0, 0, 7])))),
            Ok((5, Some(Mac::new([0, 0, 0, 0, 5, 220]))))
        ]
    );
    // Cut in the fixed part, and in an option.
    assert_eq!(
        Message::parse(&bytes[..39], 39).map(drop),
        Err(Unseen::Malformed)
    );
    assert_eq!(
        Message::parse(&bytes[..39], 56).map(drop),
        Err(Unseen::BeyondSnapshot)
    );
    for (available, expected) in [(47, Unseen::Malformed), (48, Unseen::BeyondSnapshot)] {
        let message = Message::parse(&bytes[..47], available).unwrap();
        assert_eq!(message.options().collect::<Vec<_>>(), [Err(expected)]);
    }
}

#[test]
fn dhcp_is_read_up_to_its_end_option() {
    let mut bytes = vec![1, 1, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    bytes.extend([10, 0, 0, 1, 10, 0, 0, 2, 10, 0, 0, 3, 10, 0, 0, 4]);
    bytes.extend([2, 0, 0, 0, 0, 7]);
    bytes.resize(236, 0);
    bytes.extend([99, 130, 83, 99, 0, 53, 1, 5, 0, 61, 0, 255, 51, 9]);
    let options = |shown: usize, available| -> Vec<_> {
        let message = Dhcp::parse(&bytes[..shown], available).unwrap();
        message
            .options()
            .map(|opt| opt.map(|opt| (opt.code, opt.value.to_vec())))
            .collect()
    };
    let message = Dhcp::parse(&bytes, bytes.len()).unwrap();
    assert!(message.is_ethernet());
    assert_eq!(message.operation(), dhcp::operation::REQUEST);
    assert_eq!(message.client_ip(), Ipv4Addr::new(10, 0, 0, 1));
    assert_eq!(message.your_ip(), Ipv4Addr::new(10, 0, 0, 2));
    assert_eq!(message.relay_ip(), Ipv4Addr::new(10, 0, 0, 4));
    assert_eq!(message.client_mac(), Mac::new([2, 0, 0, 0, 0, 7]));
    // What stands behind the end is no option.
    let whole = vec![Ok((53, vec![5])), Ok((61, vec![]))];
    assert_eq!(options(250, 250), whole);
    // The end option is enough, whatever follows unseen; the packet's end is, too.
    assert_eq!(options(248, 1400), whole);
    assert_eq!(options(247, 247), whole);
    let cut = [&whole[..], &[Err(Unseen::BeyondSnapshot)]].concat();
    assert_eq!(options(247, 248), cut);
    assert_eq!(options(243, 244), [Err(Unseen::BeyondSnapshot)]);
    assert_eq!(options(243, 243), [Err(Unseen::Malformed)]);
    // The cookie beyond the snapshot, and none.
    for shown in 44..240 {
        assert_eq!(
            options(shown, 250),
            [Err(Unseen::BeyondSnapshot)],
            "{shown}"
        );
        assert_eq!(options(shown, shown), [], "{shown}");
    }
    bytes[236] = 0;
    let message = Dhcp::parse(&bytes, bytes.len()).unwrap();
    assert_eq!(message.options().count(), 0);
}

#[test]
fn dhcpv6_options_lie_within_each_other() {
    let mut bytes = vec![7, 1, 2, 3, 0, 1, 0, 2, 9, 9, 0, 3, 0, 40];
    bytes.extend([0; 12]);
    bytes.extend([0, 5, 0, 24]);
    bytes.extend([0xfd; 16]);
    bytes.extend([0, 0, 0, 1, 0, 0, 0, 2]);
    let message = Dhcpv6::parse(&bytes, bytes.len()).unwrap();
    assert_eq!(message.kind(), dhcpv6::kind::REPLY);
    let options: Vec<_> = message.options().map(Result::unwrap).collect();
    assert_eq!(
        options.iter().map(|opt| opt.code).collect::<Vec<_>>(),
        [1, 3]
    );
    assert!(options[0].association().is_none() && options[0].address().is_none());
    let inner: Vec<_> = options[1]
        .association()
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let address = inner[0].address().unwrap();
    assert_eq!(
        (address.address, address.valid),
        (Ipv6Addr::from([0xfd; 16]), 2)
    );
    let cut = Dhcpv6::parse(&bytes[..53], 53).unwrap();
    assert_eq!(cut.options().last(), Some(Err(Unseen::Malformed)));
    let cut = Dhcpv6::parse(&bytes[..53], 54).unwrap();
    assert_eq!(cut.options().last(), Some(Err(Unseen::BeyondSnapshot)));
}

#[test]
fn link_local_addresses_are_made_of_macs() {
    // RFC 4291, appendix A: 34:56:78:9a:bc:de.
    let mac = Mac::new([0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde]);
    let address = ipv6::link_local_of(mac);
    assert_eq!(
        address,
        "fe80::3656:78ff:fe9a:bcde".parse::<Ipv6Addr>().unwrap()
    );
    for (text, expected) in [
        ("fe80::", true),
        ("febf:ffff::", true),
        ("fec0::", false),
        ("fe7f::", false),
    ] {
        assert_eq!(
            ipv6::is_link_local(text.parse().unwrap()),
            expected,
            "{text}"
        );
    }
}

proptest! {
    #[test]
    fn any_bytes_can_be_read(bytes in prop::collection::vec(any::<u8>(), 0..320), more in 0..64usize, number: u16) {
        let available = bytes.len() + more;
        let _ = Llc::parse(&bytes, number, available).map(|header| header.names(0));
        let _ = Arp::parse(&bytes, available).map(|packet| packet.operation());
        for kind in [133, 134, 135, 136, 137, bytes.first().copied().unwrap_or(0)] {
            let mut bytes = bytes.clone();
            if let Some(first) = bytes.first_mut() {
                *first = kind;
            }
            if let Ok(message) = Message::parse(&bytes, available) {
                let seen: usize = message.options().flatten().map(|opt| opt.value.len() + 2).sum();
                prop_assert!(seen <= bytes.len());
                prop_assert!(more != 0 || !message.options().any(|opt| opt == Err(Unseen::BeyondSnapshot)));
            }
        }
        if let Ok(message) = Dhcpv6::parse(&bytes, available) {
            for opt in message.options().flatten() {
                let _ = (opt.address(), opt.association().map(Iterator::count));
            }
        }
        // With the cookie in its place, so that options are read.
        let mut bytes = bytes;
        if let Some(cookie) = bytes.get_mut(236..240) {
            cookie.copy_from_slice(&[99, 130, 83, 99]);
        }
        if let Ok(message) = Dhcp::parse(&bytes, available) {
            let seen: usize = message.options().flatten().map(|opt| opt.value.len() + 2).sum();
            prop_assert!(seen <= bytes.len());
            prop_assert!(more != 0 || !message.options().any(|opt| opt == Err(Unseen::BeyondSnapshot)));
        }
    }

    #[test]
    fn routes_are_looked_for_in_any_bytes(mut bytes in prop::collection::vec(any::<u8>(), 14..200), first: u8, v4: bool) {
        let (ethertype, version) = if v4 { ([8, 0], 0x40) } else { ([0x86, 0xdd], 0x60) };
        bytes[12..14].copy_from_slice(&ethertype);
        if let Some(byte) = bytes.get_mut(14) {
            *byte = version | *byte & 0xf;
        }
        let frame = Frame::parse(&bytes, bytes.len() as u32).unwrap();
        let layers = frame.layers();
        match layers.network {
            Network::Ipv4(header) => {
                // Options without a route in them hold neither code at their beginning.
                let begins = matches!(header.options().first(), Some(131 | 137));
                prop_assert!(!begins || header.is_source_routed() == Some(true));
            }
            Network::Ipv6(header) => {
                let _ = ipv6::is_source_routed(header.next_header(), &bytes[54..]);
            }
            _ => {}
        }
        let _ = ipv6::is_source_routed(first, &bytes);
        let (shown, len) = layers.layer_4(&frame);
        prop_assert!(shown.len() <= len);
        let (shown, len) = layers.datagram(&frame);
        prop_assert!(shown.len() <= len);
    }
}
