use etherparse::{NetSlice, SlicedPacket, TransportSlice};

use super::*;
use crate::frame::{Frame, Network, Transport, arp, dhcp, nd};
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
    assert_eq!(macs("tcp > :1 vlan=0"), (a, b, Some(0)));
    assert_eq!(macs("tcp > :1 mac > 52:54:00:00:00:04").0, a);
    assert_eq!(macs("udp > 255.255.255.255:67").1, 0xffff_ffff_ffff);
    assert_eq!(macs("udp > 239.129.2.3:67").1, 0x0100_5e01_0203);
    assert_eq!(macs("udp > [ff02::1:2]:547").1, 0x3333_0001_0002);
    assert_eq!(macs("arp").1, 0xffff_ffff_ffff);
    assert_eq!(macs("arp reply").1, b);
    assert_eq!(macs("0x88b5 payload=46"), (a, b, None));
    assert_eq!(macs("rarp"), (a, 0xffff_ffff_ffff, None));
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

/// Destination, hop limit, type, target and link-layer address of a neighbour discovery message.
fn discovered(text: &str) -> (String, u8, u8, Option<String>, Option<Mac>) {
    let frame = made(text);
    check_sums(&frame);
    let frame = Frame::parse(&frame, frame.len() as u32).unwrap();
    let layers = frame.layers();
    let Network::Ipv6(ip) = layers.network else {
        panic!("no IPv6: {text}");
    };
    let (bytes, len) = layers.layer_4(&frame);
    let message = nd::Message::parse(bytes, len).unwrap();
    let options: Vec<_> = message.options().map(|opt| opt.unwrap()).collect();
    let target = message.target().map(|target| target.to_string());
    (
        ip.dst().to_string(),
        ip.hop_limit(),
        message.kind(),
        target,
        options.first().and_then(nd::Opt::mac),
    )
}

#[test]
fn neighbour_discovery_is_whole() {
    let own = Some(a().mac);
    let some = |text: &str| Some(text.to_owned());
    let asks = |text: &str| discovered(&format!("icmpv6 {text} icmp=neighbour-solicitation"));
    // As ARP asks everybody, a solicitation asks the group of the address.
    let group = "ff02::1:ff00:6".to_owned();
    let question = (group.clone(), 255, 135, some("fd00::6"), own);
    assert_eq!(asks("fd00::5 > fd00::6"), question);
    assert_eq!(asks("fd00::5 > ff02::1:ff00:6"), question);
    // Who looks whether an address is taken names no address of its own.
    let claim = ("ff02::1:ff00:5".to_owned(), 255, 135, some("fd00::5"), None);
    assert_eq!(asks(":: > fd00::5"), claim);
    assert_eq!(asks(":: > ff02::1:ff00:5"), claim);
    assert_eq!(
        asks("fd00::5 > fd00::6 target=fd00::7"),
        ("fd00::6".to_owned(), 255, 135, some("fd00::7"), own)
    );
    assert_eq!(
        discovered("icmpv6 fd00::5 > fd00::6 icmp=neighbour-advertisement"),
        ("fd00::6".to_owned(), 255, 136, some("fd00::5"), own)
    );
    assert_eq!(
        discovered("icmpv6 fd00::5 > ff02::1 icmp=136 target=fd00::9 ttl=64"),
        ("ff02::1".to_owned(), 64, 136, some("fd00::9"), own)
    );
    assert_eq!(
        discovered("icmpv6 fe80::1 > ff02::1 icmp=router-advertisement"),
        ("ff02::1".to_owned(), 255, 134, None, own)
    );
    assert_eq!(
        discovered("icmpv6 :: > ff02::2 icmp=router-solicitation"),
        ("ff02::2".to_owned(), 255, 133, None, None)
    );
    let redirect = discovered("icmpv6 fe80::1 > fd00::6 icmp=redirect");
    assert_eq!(redirect.3, some("fe80::1"));
    refused(
        "icmpv6 > fd00::6 target=fd00::6",
        "target has no place in this packet; it is of neighbour discovery: add icmp=neighbour-solicitation or another of its types",
    );
    refused(
        "icmpv6 > fd00::6 icmp=135 target=fd00::6 payload=16",
        "target stands beside payload, which takes its place; keep one of the two",
    );
    refused(
        "tcp > :1 target=fd00::6",
        "target has no place in this packet; leave it out",
    );
}

#[test]
fn dhcp_and_rarp_speak_for_their_sender() {
    let datagram = |text: &str| {
        let bytes = made(text);
        check_sums(&bytes);
        let frame = Frame::parse(&bytes, bytes.len() as u32).unwrap();
        frame.layers().datagram(&frame).0.to_vec()
    };
    let v4 = |text: &str| {
        let bytes = datagram(text);
        let message = dhcp::Dhcp::parse(&bytes, bytes.len()).unwrap();
        let options: Vec<_> = message.options().map(|opt| opt.unwrap()).collect();
        assert_eq!(options.len(), 1);
        (
            message.operation(),
            message.client_mac(),
            message.client_ip().to_string(),
            message.your_ip().to_string(),
            options[0].value.to_vec(),
        )
    };
    let none = || "0.0.0.0".to_owned();
    assert_eq!(
        v4("udp 0.0.0.0:68 > 255.255.255.255:67"),
        (1, a().mac, none(), none(), vec![1])
    );
    assert_eq!(
        v4("udp 10.0.0.5:68 > 10.0.0.1:67"),
        (1, a().mac, "10.0.0.5".to_owned(), none(), vec![3])
    );
    assert_eq!(
        v4("udp 10.0.0.1:67 > 10.0.0.5:68"),
        (2, b().mac, none(), "10.0.0.5".to_owned(), vec![2])
    );
    let solicit = datagram("udp [fe80::5]:546 > [ff02::1:2]:547");
    assert_eq!((solicit[0], &solicit[12..]), (1, &a().mac.octets()[..]));
    let advertise = datagram("udp [fe80::1]:547 > [fe80::5]:546");
    assert_eq!((advertise[0], &advertise[12..]), (2, &b().mac.octets()[..]));
    // What was said stands.
    assert_eq!(
        datagram("udp 0.0.0.0:68 > 255.255.255.255:67 payload=9"),
        [0; 9]
    );

    let frame = made("rarp");
    let packet = arp::Arp::parse(&frame[14..], frame.len() - 14).unwrap();
    assert_eq!((packet.operation(), packet.sender_mac()), (3, a().mac));
    assert_eq!(packet.target_mac(), a().mac);
    assert_eq!(made("rarp payload=5").len(), 19);
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
        "tcp > :1 vlan=4095",
        "vlan=4095 is no VLAN; choose one from 1 to 4094, or 0 for a priority tag",
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
        "\"urgent\" is not known; the words are flags=, icmp=, vlan=, payload=, fragment=, ttl=, target=, mac A > B, request and reply",
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
