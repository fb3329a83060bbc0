use etherparse::{NetSlice, SlicedPacket, TransportSlice};

use super::*;
use crate::frame::{Frame, Network, Transport};
use crate::policy::digest::Digest;

fn station(name: &str, mac: u64, prefixes: &[&str]) -> Station {
    Station {
        name: name.to_owned(),
        mac: Mac::from_bits(mac),
        prefixes: prefixes
            .iter()
            .map(|prefix| prefix.parse().unwrap())
            .collect(),
    }
}

fn a() -> Station {
    station("a", 0x5254_0000_0001, &["10.0.0.5/32", "fd00::5/128"])
}

fn b() -> Station {
    station("b", 0x5254_0000_0002, &["10.0.1.0/24", "fd00:1::/64"])
}

#[track_caller]
fn made(text: &str) -> Vec<u8> {
    build(text, Some(&a()), Some(&b())).unwrap()
}

#[track_caller]
fn refused(text: &str, expected: &str) {
    let error = build(text, Some(&a()), Some(&b())).unwrap_err().to_string();
    assert_eq!(error, expected, "{text}");
}

/// Every checksum is right, as an independent dissector computes it.
#[track_caller]
fn check_sums(frame: &[u8]) {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let (src, dst) = match packet.net.as_ref().unwrap() {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            assert_eq!(
                header.header_checksum(),
                header.to_header().calc_header_checksum()
            );
            (header.source().to_vec(), header.destination().to_vec())
        }
        NetSlice::Ipv6(ip) => (
            ip.header().source().to_vec(),
            ip.header().destination().to_vec(),
        ),
        NetSlice::Arp(_) => panic!("no IP"),
    };
    let v4 = |bytes: &[u8]| -> [u8; 4] { bytes.try_into().unwrap() };
    let v6 = |bytes: &[u8]| -> [u8; 16] { bytes.try_into().unwrap() };
    let is_v4 = src.len() == 4;
    match packet.transport.as_ref().unwrap() {
        TransportSlice::Tcp(tcp) => {
            let sum = if is_v4 {
                tcp.calc_checksum_ipv4(v4(&src), v4(&dst))
            } else {
                tcp.calc_checksum_ipv6(v6(&src), v6(&dst))
            };
            assert_eq!(tcp.checksum(), sum.unwrap());
        }
        TransportSlice::Udp(udp) => {
            let header = udp.to_header();
            let sum = if is_v4 {
                header.calc_checksum_ipv4_raw(v4(&src), v4(&dst), udp.payload())
            } else {
                header.calc_checksum_ipv6_raw(v6(&src), v6(&dst), udp.payload())
            };
            assert_eq!(udp.checksum(), sum.unwrap());
        }
        TransportSlice::Icmpv4(icmp) => {
            let sum = icmp.icmp_type().calc_checksum(icmp.payload());
            assert_eq!(icmp.checksum(), sum);
        }
        TransportSlice::Igmp(_) => panic!("nobody asked for IGMP"),
        TransportSlice::Icmpv6(icmp) => assert!(icmp.is_checksum_valid(v6(&src), v6(&dst))),
    }
}

#[test]
fn the_frames_are_what_their_words_say() {
    for text in [
        "tcp 10.0.0.5:40000 > 10.0.0.6:5432",
        "tcp 10.0.0.5:40000>10.0.0.6:5432 flags=syn,ack payload=7",
        "tcp [fd00::5]:1 > [fd00::6]:443 payload=1401",
        "udp 10.0.0.5 > 10.0.0.6:53 payload=100",
        "udp fd00::5 > [fd00::6]:53 payload=3",
        "icmp 10.0.0.5 > 10.0.0.6 icmp=3/4 payload=28",
        "icmp 10.0.0.5 > 10.0.0.6",
        "icmpv6 fd00::5 > fd00::6 icmp=echo-reply payload=9",
    ] {
        check_sums(&made(text));
    }
}

#[test]
fn the_switch_reads_what_was_written() {
    let read = |text: &str| {
        let frame = made(text);
        let frame = Frame::parse(&frame, frame.len() as u32).unwrap();
        let subject = Digest::of(&frame, 1).subject;
        let (src, dst) = (subject.src_ip().unwrap(), subject.dst_ip().unwrap());
        (
            src.to_string(),
            subject.src_port(),
            dst.to_string(),
            subject.dst_port(),
            subject.flags(),
        )
    };
    let line = |src: &str, src_port, dst: &str, dst_port, flags| {
        (src.to_owned(), src_port, dst.to_owned(), dst_port, flags)
    };
    assert_eq!(
        read("tcp 10.9.9.9:7 > 10.8.8.8:8 flags=rst,ack"),
        line("10.9.9.9", 7, "10.8.8.8", 8, 0x14)
    );
    // What is not said is the ports' own.
    assert_eq!(
        read("tcp > :443"),
        line("10.0.0.5", 40_000, "10.0.1.1", 443, 0x02)
    );
    assert_eq!(read("udp :5 > :53"), line("10.0.0.5", 5, "10.0.1.1", 53, 0));
    assert_eq!(
        read("tcp/ipv6 > :443"),
        line("fd00::5", 40_000, "fd00:1::1", 443, 0x02)
    );
    assert_eq!(
        read("tcp [fd00::7]:5 > :443"),
        line("fd00::7", 5, "fd00:1::1", 443, 0x02)
    );
    assert_eq!(
        read("icmp icmp=3/4"),
        line("10.0.0.5", 0, "10.0.1.1", 0x0304, 0)
    );
    // An echo, with its identifier.
    assert_eq!(read("icmpv6"), line("fd00::5", 1, "fd00:1::1", 0x8000, 0));
    assert_eq!(read("esp 10.0.0.5 > 10.0.0.6 payload=8").3, 0);
}

#[test]
fn layer_2_is_that_of_the_ports_unless_it_is_said() {
    let macs = |text: &str| {
        let frame = made(text);
        let frame = Frame::parse(&frame, frame.len() as u32).unwrap();
        (
            frame.src().bits(),
            frame.dst().bits(),
            frame.tag().map(|tag| tag.vid()),
        )
    };
    let (a, b) = (0x5254_0000_0001, 0x5254_0000_0002);
    assert_eq!(macs("tcp > :1"), (a, b, None));
    let said = macs("tcp > :1 vlan=10 mac 52:54:00:00:00:03 > 52:54:00:00:00:04");
    assert_eq!((said.0, said.1), (0x5254_0000_0003, 0x5254_0000_0004));
    assert_eq!(said.2, Some(10));
    assert_eq!(macs("tcp > :1 mac > 52:54:00:00:00:04").0, a);
    assert_eq!(macs("udp > 255.255.255.255:67").1, 0xffff_ffff_ffff);
    assert_eq!(macs("udp > 239.129.2.3:67").1, 0x0100_5e01_0203);
    assert_eq!(macs("udp > [ff02::1:2]:547").1, 0x3333_0001_0002);
    assert_eq!(macs("arp").1, 0xffff_ffff_ffff);
    assert_eq!(macs("arp reply").1, b);
    assert_eq!(macs("0x88b5 payload=46"), (a, b, None));
}

#[test]
fn arp_speaks_for_its_sender() {
    let frame = made("arp 10.0.0.9 > 10.0.0.6 reply");
    let frame = Frame::parse(&frame, frame.len() as u32).unwrap();
    let Network::Arp(arp) = frame.layers().network else {
        panic!("no ARP");
    };
    assert_eq!((arp.operation(), arp.sender_mac()), (2, a().mac));
    assert_eq!(
        (arp.sender_ip().to_string(), arp.target_ip().to_string()),
        ("10.0.0.9".into(), "10.0.0.6".into())
    );
    assert_eq!(arp.target_mac(), b().mac);
}

#[test]
fn fragments_are_fragments() {
    for (text, offset, more) in [
        ("tcp > :80 fragment=first", 0, true),
        ("tcp > :80 fragment=later", 1480, false),
        ("udp/ipv6 > :80 fragment=first", 0, true),
        ("udp/ipv6 > :80 fragment=later", 1480, false),
    ] {
        let frame = made(text);
        let frame = Frame::parse(&frame, frame.len() as u32).unwrap();
        let layers = frame.layers();
        let fragment = layers.fragment.unwrap();
        assert_eq!((fragment.offset, fragment.more), (offset, more), "{text}");
        assert_eq!(
            matches!(layers.transport, Transport::Fragment),
            offset != 0,
            "{text}"
        );
    }
}

#[test]
fn a_frame_in_hex_is_taken_as_it_is() {
    let frame = made("tcp > :443");
    let digits: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(made(&digits), frame);
    assert_eq!(made(&format!("hex {digits}")), frame);
    let spaced: Vec<&str> = digits
        .as_bytes()
        .chunks(4)
        .map(|four| std::str::from_utf8(four).unwrap())
        .collect();
    assert_eq!(build(&spaced.join(" "), None, None).unwrap(), frame);
    refused(
        "hex 52540",
        "not an even number of hexadecimal digits; give a whole frame, two digits for each byte",
    );
    refused(
        "hex 5254",
        "a frame has 14 to 65550 bytes; give a whole frame, two digits for each byte",
    );
}

#[test]
fn what_is_no_packet_is_refused() {
    let form = "write it such as \"tcp 10.0.0.5:40000 > 10.0.0.6:5432\"";
    refused("", &format!("is empty; {form}"));
    refused("tcp 10.0.0.5:1", &format!("has no receiver; {form}"));
    refused(
        "tcp 10.0.0.5 > 10.0.0.6",
        "names no destination port; write it behind the receiver, such as 10.0.0.6:443 or :443",
    );
    refused(
        "tcp 10.0.0.5:x > :1",
        "\"x\" is no port; choose one from 0 to 65535",
    );
    refused(
        "tcp 10.0.0:5 > :1",
        &format!("\"10.0.0\" is no IP address; {form}"),
    );
    refused(
        "icmp fd00::1 > 10.0.0.1",
        &format!("\"fd00::1\" is no IPv4 address; {form}"),
    );
    refused(
        "tcp 10.0.0.5:1 > [fd00::1]:1",
        "sender and receiver are of different families; give two IPv4 or two IPv6 addresses",
    );
    refused(
        "udp > :1 flags=syn",
        "flags has no place in this packet; leave it out",
    );
    refused(
        "tcp > :1 flags=sin",
        "\"sin\" is no TCP flag; write flags such as flags=syn,ack",
    );
    refused(
        "tcp > :1 vlan=0",
        "vlan=0 is no VLAN; choose one from 1 to 4094",
    );
    refused(
        "tcp > :1 payload=60001",
        "payload=60001 is out of range; choose a whole number from 0 to 60000",
    );
    refused(
        "tcp > :1 ttl=1 ttl=2",
        "ttl stands there twice; give it once",
    );
    refused(
        "tcp > :1 urgent",
        "\"urgent\" is not known; the words are flags=, icmp=, vlan=, payload=, fragment=, ttl=, mac A > B, request and reply",
    );
    refused(
        "ip 10.0.0.5 > 10.0.0.6",
        "is no packet that could be made; name its protocol, such as tcp, udp, icmp, arp or proto:47, or give it in hex",
    );
    let error = build("tcp > :1", Some(&a()), Some(&station("c", 1, &[]))).unwrap_err();
    assert_eq!(
        error.problem,
        "the ports declare no addresses of one family"
    );
    let error = build(
        "tcp > 10.0.0.1:1",
        Some(&station("c", 1, &["fd00::1/128"])),
        None,
    )
    .unwrap_err();
    assert_eq!(error.problem, "port \"c\" declares no IPv4 address");
    let error = build("tcp 10.0.0.1:1 > 10.0.0.2:1", Some(&a()), None).unwrap_err();
    assert_eq!(
        error.problem,
        "the MAC address of the receiver is not known"
    );
}
