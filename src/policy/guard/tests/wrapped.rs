//! E-13 to E-18 (VU#855201): what is refused plain, in every wrapping, for every kind of guarded port.

use super::*;
use DropReason::{
    ArpSpoofed, DhcpServerRefused, EncapsulationRefused, NdSpoofed, RouterRefused, SourceIpSpoofed,
};

/// Name, EtherType, packet, and the reason for which it is refused plain where addresses are bound.
fn kinds() -> Vec<(&'static str, u16, Vec<u8>, DropReason)> {
    let offer = Message {
        operation: 2,
        yiaddr: OTHER4,
        chaddr: OTHER,
        ..ASK
    };
    let offer = offer.with(&[&[53, 1, 2]]);
    vec![
        (
            "ARP",
            0x0806,
            arp(2, OWN, GATEWAY4, OTHER, OTHER4),
            ArpSpoofed,
        ),
        (
            "IPv4",
            0x0800,
            udp4(OTHER4, GATEWAY4, 1000, 53, &[0; 20]),
            SourceIpSpoofed,
        ),
        ("RA", 0x86dd, advertisement(255, OWN), RouterRefused),
        (
            "DHCPv4",
            0x0800,
            udp4(OWN4, Ipv4Addr::BROADCAST, 67, 68, &offer),
            DhcpServerRefused,
        ),
        (
            "DHCPv6",
            0x86dd,
            udp6(OWN_LINK, OTHER_LINK, 547, 546, &[2, 1, 2, 3]),
            DhcpServerRefused,
        ),
        (
            "NA",
            0x86dd,
            answer(OWN6, GATEWAY6, &option(2, OWN)),
            NdSpoofed,
        ),
    ]
}

fn typed(ethertype: u16, packet: &[u8]) -> Vec<u8> {
    [&ethertype.to_be_bytes()[..], packet].concat()
}

/// `typed` behind `count` tags of VLAN 0; begins with a type again.
fn vlan_0(count: usize, tpid: u16, mut typed: Vec<u8>) -> Vec<u8> {
    for _ in 0..count {
        typed = [&tpid.to_be_bytes()[..], &[0, 0], &typed].concat();
    }
    typed
}

/// `typed` behind LLC and SNAP; begins with a length, which is wrong by `lie`.
fn snap(oui: [u8; 3], lie: i32, typed: &[u8]) -> Vec<u8> {
    let llc = [&[0xaa, 0xaa, 3][..], &oui, typed].concat();
    let length = (llc.len() as i32 + lie) as u16;
    [&length.to_be_bytes()[..], &llc].concat()
}

/// Every wrapping of the set: case, and the frame from its type on.
fn wrappings(ethertype: u16, packet: &[u8]) -> Vec<(String, Vec<u8>)> {
    let plain = typed(ethertype, packet);
    let ethernet = [0, 0, 0];
    let mut all = vec![("E-13 VLAN 0".to_owned(), vlan_0(1, 0x8100, plain.clone()))];
    for count in 2..=8 {
        all.push((
            format!("E-14 VLAN 0 x {count}"),
            vlan_0(count, 0x8100, plain.clone()),
        ));
    }
    for tpid in [0x88a8, 0x9100] {
        all.push((format!("E-13 {tpid:#x}"), vlan_0(1, tpid, plain.clone())));
        let mixed = vlan_0(1, 0x8100, vlan_0(1, tpid, plain.clone()));
        all.push((format!("E-14 0x8100 and {tpid:#x}"), mixed));
    }
    // Ethernet's, a bridge tunnel's (IEEE 802.1H), IEEE 802.1's, Cisco's.
    for oui in [ethernet, [0, 0, 0xf8], [0, 0x80, 0xc2], [0, 0, 0x0c]] {
        all.push((format!("E-15 SNAP of {oui:02x?}"), snap(oui, 0, &plain)));
    }
    let len = 8 + packet.len() as i32;
    for lie in [1, -1, 1000, -len, 3 - len, 1501 - len, 0x5ff - len] {
        all.push((
            format!("E-16 SNAP wrong by {lie}"),
            snap(ethernet, lie, &plain),
        ));
    }
    all.push((
        "E-17 VLAN 0 + SNAP".to_owned(),
        vlan_0(1, 0x8100, snap(ethernet, 0, &plain)),
    ));
    all.push((
        "E-17 VLAN 0 x 2 + SNAP".to_owned(),
        vlan_0(2, 0x8100, snap(ethernet, 0, &plain)),
    ));
    all.push((
        "E-18 SNAP + VLAN 0".to_owned(),
        snap(ethernet, 0, &vlan_0(1, 0x8100, plain.clone())),
    ));
    let tag_5 = [&[0x81, 0, 0, 5][..], &plain].concat();
    all.push(("E-18 SNAP + VLAN 5".to_owned(), snap(ethernet, 0, &tag_5)));
    all.push((
        "E-18 SNAP + SNAP".to_owned(),
        snap(ethernet, 0, &snap(ethernet, 0, &plain)),
    ));
    all
}

#[test]
fn e_13_to_e_18_nothing_comes_wrapped() {
    let stickily = GuardSpec {
        mac: MacSpec::Sticky,
        ..guest(IpSpec::Any)
    };
    let freely = GuardSpec {
        mac: MacSpec::Any,
        ..guest(IpSpec::Any)
    };
    let router = GuardSpec {
        may: May {
            router: true,
            dhcp_server: true,
            link_protocols: true,
        },
        ..guest(addresses())
    };
    let specs = [
        guest(addresses()),
        guest(IpSpec::Dhcp),
        guest(IpSpec::Any),
        stickily,
        freely,
        router,
    ];
    let mut count = 0;
    for (kind, ethertype, packet, reason) in kinds() {
        for (at, spec) in specs.iter().enumerate() {
            let port = Port::new(spec);
            let head = [GATEWAY.octets(), OWN.octets()].concat();
            if at == 0 {
                let plain = [&head[..], &typed(ethertype, &packet)].concat();
                assert_eq!(port.judge(&plain).map(drop), Err(reason), "{kind} plain");
            }
            for (case, bytes) in wrappings(ethertype, &packet) {
                let frame = [&head[..], &bytes].concat();
                let judged = port.judge(&frame).map(drop);
                assert_eq!(
                    judged,
                    Err(EncapsulationRefused),
                    "{kind} in {case}, port {at}"
                );
                // And whatever a worker's snapshot shows of it.
                for shown in [128, 256] {
                    let judged = port.judge_shown(&frame, shown.min(frame.len())).map(drop);
                    assert_eq!(
                        judged,
                        Err(EncapsulationRefused),
                        "{kind} in {case}, {shown} bytes"
                    );
                }
                count += 1;
            }
        }
    }
    assert!(count > 900, "{count}");
}

#[test]
fn e_13_to_e_18_nor_does_what_would_pass_plain() {
    let port = Port::of_ip();
    let packet = udp4(OWN4, GATEWAY4, 1000, 53, &[0; 20]);
    let head = [GATEWAY.octets(), OWN.octets()].concat();
    let plain = [&head[..], &typed(0x0800, &packet)].concat();
    assert_eq!(port.judge(&plain), Ok(Outcome::Pass));
    for (case, bytes) in wrappings(0x0800, &packet) {
        let frame = [&head[..], &bytes].concat();
        assert_eq!(port.judge(&frame), Err(EncapsulationRefused), "{case}");
    }
}
