mod messages;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, IpAuthHeader, IpFragOffset, IpHeaders,
    IpNumber, Ipv4Extensions, Ipv4Header, Ipv6Extensions, Ipv6FragmentHeader, Ipv6Header,
    Ipv6RawExtHeader, Ipv6RoutingExtensions, NetSlice, PacketBuilder, SlicedPacket, TransportSlice,
    VlanId,
};
use proptest::prelude::*;

use super::ethernet::ethertype;
use super::*;
use crate::counters::DropReason;

const DST: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
const SRC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 2];

/// Both addresses, then whatever is given.
fn raw(rest: &[u8]) -> Vec<u8> {
    [&DST[..], &SRC[..], rest].concat()
}

fn whole(bytes: &[u8]) -> Frame<'_> {
    Frame::parse(bytes, bytes.len() as u32).unwrap()
}

/// An IPv6 frame with `payload` behind a header that announces `next`.
fn ipv6_frame(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut rest = vec![0x86, 0xdd, 0x60, 0, 0, 0];
    rest.extend((payload.len() as u16).to_be_bytes());
    rest.extend([next, 64]);
    rest.extend([0x20; 32]);
    rest.extend(payload);
    raw(&rest)
}

fn ipv4_frame(protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let mut rest = vec![8, 0, 0x45, 0];
    rest.extend((20 + payload.len() as u16).to_be_bytes());
    rest.extend([0x12, 0x34]);
    rest.extend(fragment.to_be_bytes());
    rest.extend([64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    rest.extend(payload);
    raw(&rest)
}

fn unseen(frame: &[u8]) -> Option<Unseen> {
    let layers = whole(frame).layers();
    match (layers.network, layers.transport) {
        (Network::Unseen(why), _) | (_, Transport::Unseen(why)) => Some(why),
        _ => None,
    }
}

#[test]
fn e_7_runts_are_refused_and_short_frames_are_not() {
    let bytes = [2; 64];
    for len in 0..=60 {
        let result = Frame::parse(&bytes[..len], len as u32).map(|frame| frame.bytes().len());
        assert_eq!(
            result,
            if len < 14 {
                Err(DropReason::Runt)
            } else {
                Ok(len)
            },
            "{len}"
        );
        // The snapshot may be longer than the frame; what is behind the frame is not read.
        let result = Frame::parse(&bytes, len as u32).map(|frame| frame.bytes().len());
        assert_eq!(
            result,
            if len < 14 {
                Err(DropReason::Runt)
            } else {
                Ok(len)
            },
            "{len}"
        );
    }
}

#[test]
fn e_7_oversize_is_refused() {
    let bytes = [2; 128];
    assert!(Frame::parse(&bytes, MAX_FRAME).is_ok());
    for len in [MAX_FRAME + 1, u32::MAX] {
        assert_eq!(
            Frame::parse(&bytes, len).map(drop),
            Err(DropReason::Oversize)
        );
    }
}

#[test]
fn layer_2_is_read_as_it_stands() {
    let frame = raw(&[0x08, 0x06, 1, 2, 3, 4]);
    let frame = whole(&frame);
    assert_eq!((frame.dst().octets(), frame.src().octets()), (DST, SRC));
    assert_eq!(
        (frame.tag(), frame.ethertype(), frame.l3_offset()),
        (None, 0x0806, 14)
    );
    assert!(frame.is_whole() && !frame.is_stacked());
}

#[test]
fn e_8_tags_are_taken_in_once_and_stacks_are_seen() {
    for tpid in [0x8100u16, 0x88a8, 0x9100, 0x9200, 0x9300] {
        let [high, low] = tpid.to_be_bytes();
        let bytes = raw(&[high, low, 0xaf, 0xff, 8, 0]);
        let frame = whole(&bytes);
        let tag = frame.tag().unwrap();
        assert_eq!(
            (tag.tpid(), tag.vid(), tag.vlan(), tag.priority()),
            (tpid, 4095, None, 0xa000)
        );
        assert_eq!(
            (frame.ethertype(), frame.l3_offset()),
            (ethertype::IPV4, 18)
        );
        assert!(!frame.is_stacked());
        for depth in 2..=8 {
            let bytes = raw(&[high, low, 0, 10].repeat(depth));
            if depth > 1 {
                assert!(whole(&bytes).is_stacked(), "{tpid:#x} x {depth}");
            }
        }
    }
}

#[test]
fn e_8_a_tag_cut_short_is_refused() {
    for len in 14..18 {
        let bytes = raw(&[0x81, 0, 0, 10, 8, 0]);
        let cut = Frame::parse(&bytes[..len], len as u32).map(drop);
        assert_eq!(cut, Err(DropReason::VlanSmuggled), "{len}");
    }
}

#[test]
fn e_12_what_the_type_says_must_be_there() {
    // Lengths of 802.3, valid or not, and the gap up to 0x05ff.
    for length in [0u16, 3, 46, 1500, 0x05dd, 0x05ff] {
        let bytes = raw(&[&length.to_be_bytes()[..], &[0xaa, 0xaa, 3, 0, 0, 0, 8, 0]].concat());
        assert!(
            matches!(whole(&bytes).layers().network, Network::Llc),
            "{length:#x}"
        );
    }
    let v4 = ipv4_frame(6, 0, &[0; 20]);
    let v6 = ipv6_frame(6, &[0; 20]);
    for (frame, ethertype) in [(v4, [0x86, 0xdd]), (v6, [8, 0])] {
        let mut frame = frame;
        frame[12..14].copy_from_slice(&ethertype);
        assert_eq!(unseen(&frame), Some(Unseen::Malformed));
    }
    // Header length under 20, over the total length; total length over the frame.
    for (at, value) in [(14, 0x44), (14, 0x4f), (14, 0x55), (16, 0xff), (17, 19)] {
        let mut frame = ipv4_frame(17, 0, &[0; 8]);
        frame[at] = value;
        assert_eq!(
            unseen(&frame),
            Some(Unseen::Malformed),
            "byte {at} = {value:#x}"
        );
    }
}

#[test]
fn e_24_extension_headers_are_walked_to_the_eighth() {
    let option = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
    for count in 0..=12 {
        let mut payload = Vec::new();
        for left in (0..count).rev() {
            payload.extend(option(if left == 0 { protocol::UDP } else { 60 }));
        }
        payload.extend([0, 53, 0, 54, 0, 8, 0, 0]);
        let frame = ipv6_frame(if count == 0 { protocol::UDP } else { 60 }, &payload);
        let layers = whole(&frame).layers();
        match layers.transport {
            Transport::Udp(udp) if count <= 8 => {
                assert_eq!(
                    (udp.src_port(), layers.transport_offset),
                    (53, 54 + 8 * count)
                );
            }
            Transport::Unseen(Unseen::TooMany) if count > 8 => {}
            other => panic!("{count} headers: {other:?}"),
        }
    }
}

#[test]
fn e_24_odd_chains_have_a_verdict() {
    let hop = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
    // Hop-by-hop behind another header; two fragment headers; a header longer than the packet.
    assert_eq!(
        unseen(&ipv6_frame(60, &[hop(0), hop(17), [0; 8]].concat())),
        Some(Unseen::Malformed)
    );
    assert_eq!(
        unseen(&ipv6_frame(
            44,
            &[[44, 0, 0, 1, 0, 0, 0, 1], [17, 0, 0, 1, 0, 0, 0, 1]].concat()
        )),
        Some(Unseen::Malformed)
    );
    assert_eq!(
        unseen(&ipv6_frame(60, &[17, 9, 0, 0, 0, 0, 0, 0])),
        Some(Unseen::Malformed)
    );
    // ESP, "nothing follows" and the unknown are values.
    for number in [50, 59, 132, 253] {
        let frame = ipv6_frame(number, &[0; 8]);
        assert!(matches!(whole(&frame).layers().transport, Transport::Unknown(n) if n == number));
    }
    // ICMP over the wrong family is not ICMP.
    let frame = ipv6_frame(protocol::ICMP, &[0; 8]);
    assert!(matches!(
        whole(&frame).layers().transport,
        Transport::Unknown(1)
    ));
    let frame = ipv4_frame(protocol::ICMPV6, 0, &[0; 8]);
    assert!(matches!(
        whole(&frame).layers().transport,
        Transport::Unknown(58)
    ));
}

#[test]
fn e_25_a_later_fragment_has_no_ports() {
    let frame = ipv4_frame(6, 0x0001, &[0xff; 20]);
    let layers = whole(&frame).layers();
    assert!(matches!(layers.transport, Transport::Fragment));
    assert_eq!(
        layers.fragment,
        Some(Fragment {
            offset: 8,
            more: false,
            ident: 0x1234
        })
    );
    let frame = ipv6_frame(44, &[&[6, 0, 0, 9, 0, 0, 0, 7], &[0xff; 20][..]].concat());
    let layers = whole(&frame).layers();
    assert!(matches!(layers.transport, Transport::Fragment));
    assert_eq!(
        layers.fragment,
        Some(Fragment {
            offset: 8,
            more: true,
            ident: 7
        })
    );
}

#[test]
fn e_25_a_tiny_first_fragment_shows_no_tcp() {
    assert_eq!(
        unseen(&ipv4_frame(6, 0x2000, &[0; 8])),
        Some(Unseen::Malformed)
    );
}

#[test]
fn e_26_padding_behind_the_packet_is_no_header() {
    // 8 bytes of TCP, and the rest of a TCP header as padding.
    let mut frame = ipv4_frame(6, 0, &[0x50; 8]);
    frame.extend([0x50; 40]);
    assert_eq!(unseen(&frame), Some(Unseen::Malformed));
    assert_eq!(whole(&frame).layers().end, 14 + 28);
    let mut frame = ipv6_frame(60, &[17, 1, 0, 0, 0, 0, 0, 0]);
    frame.extend([0; 40]);
    assert_eq!(unseen(&frame), Some(Unseen::Malformed));
}

#[test]
fn e_26_a_tcp_data_offset_under_five_or_over_the_segment_is_malformed() {
    for (offset, expected) in [(0, true), (4, true), (5, false), (6, true), (15, true)] {
        let mut tcp = [0; 20];
        tcp[12] = offset << 4;
        assert_eq!(
            unseen(&ipv4_frame(6, 0, &tcp)).is_some(),
            expected,
            "{offset}"
        );
    }
}

#[test]
fn macs_are_read_and_written() {
    let mac: Mac = "52:54:00:AB:cd:ef".parse().unwrap();
    assert_eq!(mac.to_string(), "52:54:00:ab:cd:ef");
    assert_eq!("52-54-00-ab-cd-ef".parse(), Ok(mac));
    for text in [
        "",
        "52:54:00:ab:cd",
        "52:54:00:ab:cd:ef:00",
        "5254:00:ab:cd:ef",
        "+2:54:00:ab:cd:ef",
        "52:54:00:ab-cd:ef",
    ] {
        assert!(
            text.parse::<Mac>()
                .unwrap_err()
                .to_string()
                .contains("52:54:00:12:34:56"),
            "{text}"
        );
    }
    assert_eq!(
        serde_json::to_string(&mac).unwrap(),
        r#""52:54:00:ab:cd:ef""#
    );
    assert_eq!(
        serde_json::from_str::<Mac>(r#""52:54:00:ab:cd:ef""#).unwrap(),
        mac
    );
}

#[test]
fn fragments_of_one_packet_and_only_they_share_a_hash_without_ports() {
    let udp = |ports: [u8; 4]| [&ports[..], &[0, 8, 0, 0]].concat();
    let hash = |fragment, ports| whole(&ipv4_frame(17, fragment, &udp(ports))).flow_hash(7);
    assert_eq!(hash(0x2000, [1, 2, 3, 4]), hash(0x0001, [9, 9, 9, 9]));
    assert_ne!(hash(0, [1, 2, 3, 4]), hash(0x2000, [1, 2, 3, 4]));
    assert_ne!(hash(0, [1, 2, 3, 4]), hash(0, [1, 2, 3, 5]));
}

#[test]
fn flows_spread_over_queues() {
    for seed in [0, 1, u64::MAX, 0x1234_5678_9abc_def0] {
        let mut queues = [0u32; 8];
        for port in 0u16..4096 {
            let [a, b] = port.to_be_bytes();
            let frame = ipv4_frame(6, 0, &[&[a, b, 0, 80], &[0x50; 16][..]].concat());
            queues[whole(&frame).flow_hash(seed) as usize % 8] += 1;
        }
        assert!(
            queues.iter().all(|n| (400..640).contains(n)),
            "{seed}: {queues:?}"
        );
    }
}

/// A frame that another implementation wrote: the arguments of [`Built::write`].
#[derive(Clone, Debug)]
struct Built {
    vlan: Option<u16>,
    v6: bool,
    options: usize,
    extensions: [Option<u8>; 5],
    transport: u8,
    ports: (u16, u16),
    payload: usize,
}

fn built() -> impl Strategy<Value = Built> {
    let vlan = prop::option::of(0u16..4096);
    let extensions = prop::array::uniform5(prop::option::of(0u8..3));
    (
        vlan,
        any::<bool>(),
        0usize..=10,
        extensions,
        0u8..4,
        any::<(u16, u16)>(),
        0usize..300,
    )
        .prop_map(
            |(vlan, v6, options, extensions, transport, ports, payload)| Built {
                vlan,
                v6,
                options,
                extensions,
                transport,
                ports,
                payload,
            },
        )
}

impl Built {
    fn write(&self) -> Vec<u8> {
        let payload = vec![0xa5; self.payload];
        let link = PacketBuilder::ethernet2(SRC, DST);
        let ip = match self.vlan {
            Some(vid) => link
                .single_vlan(VlanId::try_new(vid).unwrap())
                .ip(self.ip()),
            None => link.ip(self.ip()),
        };
        let mut bytes = Vec::new();
        let (src, dst) = self.ports;
        match self.transport {
            0 => ip
                .tcp(src, dst, 0x0102_0304, 512)
                .ack(0x0506_0708)
                .options_raw(&vec![1; self.options * 4])
                .unwrap()
                .write(&mut bytes, &payload),
            1 => ip.udp(src, dst).write(&mut bytes, &payload),
            _ if self.v6 => ip.icmpv6_echo_request(src, dst).write(&mut bytes, &payload),
            _ => ip.icmpv4_echo_request(src, dst).write(&mut bytes, &payload),
        }
        .unwrap();
        bytes
    }

    fn ip(&self) -> IpHeaders {
        if !self.v6 {
            let mut header =
                Ipv4Header::new(0, 61, IpNumber::TCP, [10, 1, 2, 3], [10, 4, 5, 6]).unwrap();
            header.identification = self.ports.0;
            header.options = vec![1u8; self.options * 4].as_slice().try_into().unwrap();
            return IpHeaders::Ipv4(header, Ipv4Extensions::default());
        }
        let raw = |len: u8| {
            Ipv6RawExtHeader::new_raw(IpNumber::TCP, &vec![0; 6 + 8 * usize::from(len)]).unwrap()
        };
        let [hop, destination, routing, fragment, auth] = self.extensions;
        let header = Ipv6Header {
            source: [0x20; 16],
            destination: [0xfd; 16],
            hop_limit: 61,
            ..Default::default()
        };
        let extensions = Ipv6Extensions {
            hop_by_hop_options: hop.map(raw),
            destination_options: destination.map(raw),
            routing: routing.map(|len| Ipv6RoutingExtensions {
                routing: raw(len),
                final_destination_options: None,
            }),
            // An atomic fragment: the other dissector reads on only behind those.
            fragment: fragment.map(|_| {
                Ipv6FragmentHeader::new(IpNumber::TCP, IpFragOffset::try_new(0).unwrap(), false, 9)
            }),
            auth: auth.map(|len| {
                IpAuthHeader::new(IpNumber::TCP, 1, 2, &vec![0; 4 * usize::from(len)]).unwrap()
            }),
        };
        IpHeaders::Ipv6(header, extensions)
    }
}

/// What a dissector says of a frame, as far as both know it.
#[derive(Debug, PartialEq)]
struct Dissection {
    vid: Option<u16>,
    addresses: Option<(IpAddr, IpAddr)>,
    transport: Option<(u8, u16, u16, usize)>,
}

fn ours(frame: &Frame<'_>) -> Dissection {
    let layers = frame.layers();
    Dissection {
        vid: frame.tag().map(Tag::vid),
        addresses: match layers.network {
            Network::Ipv4(ip) => Some((ip.src().into(), ip.dst().into())),
            Network::Ipv6(ip) => Some((ip.src().into(), ip.dst().into())),
            _ => None,
        },
        transport: match layers.transport {
            Transport::Tcp(tcp) => Some((6, tcp.src_port(), tcp.dst_port(), tcp.header_len())),
            Transport::Udp(udp) => Some((17, udp.src_port(), udp.dst_port(), udp::HEADER)),
            Transport::Icmp(icmp) => {
                Some((1, icmp.kind().into(), icmp.code().into(), icmp::HEADER))
            }
            Transport::Icmpv6(icmp) => {
                Some((58, icmp.kind().into(), icmp.code().into(), icmp::HEADER))
            }
            _ => None,
        },
    }
}

fn theirs(packet: &SlicedPacket<'_>) -> Dissection {
    Dissection {
        vid: packet.vlan_ids().first().map(|vid| vid.value()),
        addresses: match &packet.net {
            Some(NetSlice::Ipv4(ip)) => Some((
                ip.header().source_addr().into(),
                ip.header().destination_addr().into(),
            )),
            Some(NetSlice::Ipv6(ip)) => Some((
                ip.header().source_addr().into(),
                ip.header().destination_addr().into(),
            )),
            _ => None,
        },
        transport: match &packet.transport {
            Some(TransportSlice::Tcp(tcp)) => Some((
                6,
                tcp.source_port(),
                tcp.destination_port(),
                tcp.header_slice().len(),
            )),
            Some(TransportSlice::Udp(udp)) => {
                Some((17, udp.source_port(), udp.destination_port(), 8))
            }
            Some(TransportSlice::Icmpv4(icmp)) => {
                Some((1, icmp.type_u8().into(), icmp.code_u8().into(), 8))
            }
            Some(TransportSlice::Icmpv6(icmp)) => {
                Some((58, icmp.type_u8().into(), icmp.code_u8().into(), 8))
            }
            _ => None,
        },
    }
}

proptest! {
    #[test]
    fn valid_frames_read_as_another_dissector_reads_them(built in built()) {
        let bytes = built.write();
        let frame = whole(&bytes);
        let packet = SlicedPacket::from_ethernet(&bytes).unwrap();
        prop_assert_eq!(ours(&frame), theirs(&packet));
        let layers = frame.layers();
        prop_assert!(!layers.runs_on());
        prop_assert!(ours(&frame).transport.is_some());
        prop_assert_eq!(layers.end, bytes.len());
        match packet.net {
            Some(NetSlice::Ipv4(ip)) => {
                let Network::Ipv4(read) = layers.network else { panic!("not IPv4") };
                prop_assert_eq!(read.ident(), ip.header().identification());
                prop_assert_eq!(read.ttl(), 61);
                prop_assert_eq!(read.checksum(), ip.header().header_checksum());
                prop_assert_eq!(read.protocol(), ip.header().protocol().0);
            }
            Some(NetSlice::Ipv6(ip)) => {
                let Network::Ipv6(read) = layers.network else { panic!("not IPv6") };
                prop_assert_eq!((read.hop_limit(), read.payload_len()), (61, ip.header().payload_length()));
                let behind = bytes.len() - ip.payload().payload.len();
                prop_assert_eq!(layers.transport_offset, behind);
            }
            _ => panic!("not IP"),
        }
    }

    #[test]
    fn damaged_frames_read_alike_where_both_can_read(
        built in built(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = built.write();
        for (at, value) in damage {
            let at = at.index(bytes.len().min(110));
            bytes[at] = value;
        }
        let Ok(frame) = Frame::parse(&bytes, bytes.len() as u32) else { return Ok(()) };
        let (Ok(packet), false) = (SlicedPacket::from_ethernet(&bytes), frame.is_stacked()) else {
            return Ok(());
        };
        let (ours, theirs) = (ours(&frame), theirs(&packet));
        if ours.addresses.is_some() && theirs.addresses.is_some() {
            prop_assert_eq!(ours.addresses, theirs.addresses);
        }
        if ours.transport.is_some() && theirs.transport.is_some() {
            prop_assert_eq!(ours.transport, theirs.transport);
        }
    }

    #[test]
    fn arp_reads_as_another_dissector_reads_it(
        operation in any::<u16>(),
        macs in any::<([u8; 6], [u8; 6])>(),
        ips in any::<([u8; 4], [u8; 4])>(),
    ) {
        let packet = ArpPacket::new(
            ArpHardwareId::ETHERNET, EtherType::IPV4, ArpOperation(operation), &macs.0, &ips.0, &macs.1, &ips.1,
        ).unwrap();
        let mut bytes = Vec::new();
        PacketBuilder::ethernet2(SRC, DST).arp(packet).write(&mut bytes).unwrap();
        let Network::Arp(arp) = whole(&bytes).layers().network else { panic!("not ARP") };
        prop_assert_eq!(arp.operation(), operation);
        prop_assert_eq!((arp.sender_mac(), arp.target_mac()), (Mac::new(macs.0), Mac::new(macs.1)));
        prop_assert_eq!((arp.sender_ip(), arp.target_ip()), (Ipv4Addr::from(ips.0), Ipv4Addr::from(ips.1)));
        // Another hardware, protocol or address length is not ARP to us.
        for at in 14..20 {
            let mut other = bytes.clone();
            other[at] ^= 1;
            prop_assert_eq!(unseen(&other), Some(Unseen::Malformed));
        }
    }

    #[test]
    fn a_shorter_snapshot_never_reads_differently(built in built(), cut in 18usize..400) {
        let bytes = built.write();
        let cut = cut.min(bytes.len());
        let seen = Frame::parse(&bytes[..cut], bytes.len() as u32).unwrap();
        let (short, long) = (seen.layers(), whole(&bytes).layers());
        if short.runs_on() {
            prop_assert!(!seen.is_whole());
            prop_assert!(cut < 256, "headers ran past 256 bytes");
        } else {
            prop_assert_eq!(format!("{:?}", short), format!("{:?}", long));
            prop_assert_eq!(seen.flow_hash(3), whole(&bytes).flow_hash(3));
        }
    }

    #[test]
    fn no_bytes_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..300),
        kind in 0usize..8,
        total in prop_oneof![0u32..70_000, any::<u32>()],
        nibble in any::<u8>(),
    ) {
        let kinds: [&[u8]; 8] = [
            &[], &[8, 0], &[0x86, 0xdd], &[8, 6], &[0x81, 0, 0, 1, 8, 0], &[0x81, 0, 0, 1, 0x86, 0xdd],
            &[0x88, 0xa8, 0, 1, 0x81, 0], &[0, 10],
        ];
        // Random bytes behind a type that is known, with the right version, get further than random bytes.
        let at = 12 + kinds[kind].len();
        if bytes.len() > at {
            bytes[12..at].copy_from_slice(kinds[kind]);
            let version = if kinds[kind].ends_with(&[8, 0]) { 0x40 } else { 0x60 };
            bytes[at] = version | nibble & 0xf;
        }
        for total in [total, bytes.len() as u32] {
            let Ok(frame) = Frame::parse(&bytes, total) else { continue };
            let layers = frame.layers();
            let _ = (ours(&frame), frame.flow_hash(total.into()), format!("{layers:?}"));
            prop_assert!(layers.end <= total as usize);
            prop_assert!(layers.transport_offset <= total as usize);
            if matches!(layers.transport, Transport::Tcp(_) | Transport::Udp(_)) {
                prop_assert!(layers.transport_offset < layers.end);
            }
            let head = vlan::retag(&frame, Vid::new(7));
            prop_assert_eq!(head.bytes().len(), 18);
        }
    }

    #[test]
    fn any_extension_headers_walk_within_their_payload(
        first in any::<u8>(),
        payload in prop::collection::vec(prop_oneof![Just(0u8), Just(44), Just(60), Just(43), Just(51), any::<u8>()], 0..200),
        available in 0usize..400,
    ) {
        if let Ok(walk) = ipv6::walk(first, &payload, available) {
            prop_assert!(walk.len <= available && walk.len <= payload.len());
        }
    }

    #[test]
    fn a_tag_goes_in_and_out_without_a_trace(built in built(), vid in 1u16..=4094) {
        let vid = Vid::new(vid).unwrap();
        let bytes = built.write();
        let rebuild = |frame: &Frame<'_>, head: vlan::Head| {
            [head.bytes(), &frame.bytes()[head.replaces()..]].concat()
        };
        let frame = whole(&bytes);
        let head = vlan::retag(&frame, Some(vid));
        let tagged = rebuild(&frame, head);
        prop_assert_eq!(tagged.len() as i16 - bytes.len() as i16, head.shift());
        let tagged = whole(&tagged);
        prop_assert_eq!(tagged.tag().map(Tag::tpid), Some(vlan::TPID));
        prop_assert_eq!(tagged.tag().and_then(Tag::vlan), Some(vid));
        prop_assert_eq!(tagged.tag().map(Tag::priority), Some(frame.tag().map_or(0, Tag::priority)));
        let head = vlan::retag(&tagged, None);
        prop_assert_eq!(head.shift(), -4);
        let bare = rebuild(&tagged, head);
        if frame.tag().is_none() {
            prop_assert_eq!(&bare, &bytes);
        }
        let bare = whole(&bare);
        prop_assert_eq!((bare.dst(), bare.src(), bare.ethertype()), (frame.dst(), frame.src(), frame.ethertype()));
        prop_assert_eq!(&bare.bytes()[14..], &frame.bytes()[frame.l3_offset()..]);
    }
}

#[test]
fn addresses_of_ipv6_are_read_from_their_places() {
    let mut frame = ipv6_frame(59, &[]);
    let (src, dst): (Ipv6Addr, Ipv6Addr) =
        ("fd00::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
    frame[22..38].copy_from_slice(&src.octets());
    frame[38..54].copy_from_slice(&dst.octets());
    let Network::Ipv6(ip) = whole(&frame).layers().network else {
        panic!("not IPv6")
    };
    assert_eq!((ip.src(), ip.dst()), (src, dst));
}
