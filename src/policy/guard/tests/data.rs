//! E-12, E-23, E-24, E-26: sources, extension headers, headers that lie.

use super::*;
use DropReason::{ControlFragmented, HeaderInvalid, SourceIpSpoofed};

fn v4(packet: &[u8]) -> Vec<u8> {
    ethernet(GATEWAY, OWN, 0x0800, packet)
}

fn v6(packet: &[u8]) -> Vec<u8> {
    ethernet(GATEWAY, OWN, 0x86dd, packet)
}

fn tcp() -> [u8; 20] {
    let mut header = [0; 20];
    header[12] = 0x50;
    header
}

/// Data of every kind that a source address can stand on.
fn from_v4(src: Ipv4Addr) -> Vec<Vec<u8>> {
    vec![
        v4(&udp4(src, GATEWAY4, 1000, 53, &[0; 20])),
        v4(&ipv4(src, GATEWAY4, 6, &tcp())),
        v4(&ipv4(src, GATEWAY4, 1, &[8, 0, 0, 0, 0, 0, 0, 0])),
        v4(&ipv4(src, GATEWAY4, 1, &[3, 1, 0, 0, 0, 0, 0, 0])),
        v4(&ipv4(src, GATEWAY4, 50, &[0; 20])),
        v4(&ipv4_with(
            src,
            GATEWAY4,
            17,
            &[],
            0x2000,
            &udp(1000, 53, &[0; 20]),
        )),
        v4(&ipv4_with(src, GATEWAY4, 17, &[], 5, &[0; 20])),
        v4(&ipv4_with(src, GATEWAY4, 6, &[1, 1, 1, 0], 0, &tcp())),
    ]
}

fn from_v6(src: Ipv6Addr) -> Vec<Vec<u8>> {
    let (next, payload) = behind(2, 60, 6, &tcp());
    vec![
        v6(&udp6(src, GATEWAY6, 1000, 53, &[0; 20])),
        v6(&ipv6(src, GATEWAY6, 6, 64, &tcp())),
        v6(&ipv6(src, GATEWAY6, 58, 64, &icmpv6(128, &[0; 4]))),
        v6(&ipv6(src, GATEWAY6, 58, 64, &icmpv6(1, &[0; 4]))),
        v6(&ipv6(src, GATEWAY6, 132, 64, &[0; 20])),
        v6(&ipv6(
            src,
            GATEWAY6,
            44,
            64,
            &[&fragment(6, 0, true)[..], &tcp()].concat(),
        )),
        v6(&ipv6(
            src,
            GATEWAY6,
            44,
            64,
            &[&fragment(6, 64, false)[..], &[0; 8]].concat(),
        )),
        v6(&ipv6(src, GATEWAY6, next, 64, &payload)),
    ]
}

fn check_all(port: &Port, frames: &[Vec<u8>], expected: Result<(), DropReason>, what: &str) {
    for (at, frame) in frames.iter().enumerate() {
        assert_eq!(port.judge(frame).map(drop), expected, "{what}, frame {at}");
    }
}

#[test]
fn e_23_sources_are_the_ports_own() {
    let no = Err(SourceIpSpoofed);
    let (bound, free) = (Port::of_ip(), Port::of_mac());
    for (src, of_bound, of_free) in [
        ("10.0.0.5", Ok(()), Ok(())),
        ("10.0.0.4", no, Ok(())),
        ("10.0.0.6", no, Ok(())),
        ("169.254.1.1", no, Ok(())),
        ("240.0.0.1", no, Ok(())),
        ("0.0.0.0", no, no),
        ("0.0.0.5", no, no),
        ("127.0.0.1", no, no),
        ("127.255.255.254", no, no),
        ("224.0.0.1", no, no),
        ("239.255.255.255", no, no),
        ("255.255.255.255", no, no),
    ] {
        let frames = from_v4(src.parse().unwrap());
        check_all(&bound, &frames, of_bound, src);
        check_all(&free, &frames, of_free, src);
    }
    for (src, of_bound, of_free) in [
        ("fd00::5", Ok(()), Ok(())),
        ("fe80::5054:ff:fe12:3405", Ok(()), Ok(())),
        ("fd00::6", no, Ok(())),
        ("fe80::5054:ff:fe12:3406", no, Ok(())),
        ("fe80::1", no, Ok(())),
        ("2002:a00:5::1", no, Ok(())),
        ("2001:0:a00:5::1", no, Ok(())),
        ("::10.0.0.5", no, Ok(())),
        ("64:ff9b::10.0.0.5", no, Ok(())),
        ("::", no, no),
        ("::1", no, no),
        ("::ffff:10.0.0.5", no, no),
        ("::ffff:0.0.0.0", no, no),
        ("ff02::1", no, no),
        ("ff0e::5", no, no),
    ] {
        let frames = from_v6(src.parse().unwrap());
        check_all(&bound, &frames, of_bound, src);
        check_all(&free, &frames, of_free, src);
    }
}

#[test]
fn e_23_no_declared_prefix_makes_an_impossible_source_possible() {
    let all = IpSpec::Declared(vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()]);
    let port = Port::new(&guest(all));
    for src in ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"] {
        let no = Err(SourceIpSpoofed);
        check_all(&port, &from_v4(src.parse().unwrap()), no, src);
    }
    for src in ["::", "::1", "::ffff:10.0.0.5", "ff02::1"] {
        let no = Err(SourceIpSpoofed);
        check_all(&port, &from_v6(src.parse().unwrap()), no, src);
    }
    check_all(&port, &from_v4(OTHER4), Ok(()), "another");
    check_all(&port, &from_v6(OTHER6), Ok(()), "another");
}

#[test]
fn e_23_a_family_that_is_not_declared_is_not_the_ports() {
    let port = Port::new(&guest(IpSpec::Declared(vec![
        "fd00::5/128".parse().unwrap(),
    ])));
    check_all(&port, &from_v4(OWN4), Err(SourceIpSpoofed), "IPv4");
    check_all(&port, &from_v6(OWN6), Ok(()), "IPv6");
    // No address at all.
    let port = Port::new(&guest(IpSpec::Declared(Vec::new())));
    check_all(&port, &from_v4(OWN4), Err(SourceIpSpoofed), "IPv4");
    check_all(&port, &from_v6(OWN6), Err(SourceIpSpoofed), "IPv6");
}

#[test]
fn e_23_source_routes_are_refused() {
    for port in [Port::of_ip(), Port::of_mac()] {
        for (what, options, expected) in [
            ("none", &[][..], Ok(())),
            ("timestamp", &[68, 8, 5, 0, 0, 0, 0, 0], Ok(())),
            ("router alert", &[148, 4, 0, 0], Ok(())),
            ("loose", &[131, 7, 4, 10, 0, 0, 6, 0], Err(HeaderInvalid)),
            ("strict", &[137, 7, 4, 10, 0, 0, 6, 0], Err(HeaderInvalid)),
            (
                "strict, behind others",
                &[1, 148, 4, 0, 0, 137, 3, 4],
                Err(HeaderInvalid),
            ),
            ("behind the end", &[0, 137, 3, 4], Ok(())),
            ("length 0", &[148, 0, 0, 0], Err(HeaderInvalid)),
            ("length 1", &[148, 1, 0, 0], Err(HeaderInvalid)),
            ("overrun", &[148, 5, 0, 0], Err(HeaderInvalid)),
            ("no length", &[1, 1, 1, 148], Err(HeaderInvalid)),
        ] {
            let frame = v4(&ipv4_with(OWN4, GATEWAY4, 6, options, 0, &tcp()));
            assert_eq!(port.judge(&frame).map(drop), expected, "{what}");
        }
    }
}

#[test]
fn e_23_igmp_may_come_from_nobody() {
    let igmp = |src, dst| {
        v4(&ipv4_with(
            src,
            dst,
            2,
            &[148, 4, 0, 0],
            0,
            &[0x22, 0, 0, 0, 0, 0, 0, 0],
        ))
    };
    let group = Ipv4Addr::new(224, 0, 0, 22);
    check(
        &Port::of_ip(),
        &[
            ("report", igmp(OWN4, group), Ok(())),
            ("report without an address", igmp(ZERO4, group), Ok(())),
            ("of another", igmp(OTHER4, group), Err(SourceIpSpoofed)),
            ("to a station", igmp(ZERO4, OTHER4), Err(SourceIpSpoofed)),
        ],
    );
}

#[test]
fn e_24_extension_headers_have_a_verdict() {
    let at = |next, payload: &[u8]| v6(&ipv6(OWN6, GATEWAY6, next, 64, payload));
    let hop = extension;
    let routing = |next, kind, left| [next, 0, kind, left, 0, 0, 0, 0];
    let eight = behind(8, 60, 6, &tcp());
    let nine = behind(9, 60, 6, &tcp());
    // 2040 bytes of options each, which no snapshot shows.
    let long = [
        &[60, 254, 1, 4][..],
        &[0; 2036],
        &[6, 254, 1, 4],
        &[0; 2036],
        &tcp(),
    ]
    .concat();
    let jumbo = [&[6, 0, 0xc2, 4, 0, 1, 0, 0][..], &tcp()].concat();
    let mut jumbo = at(0, &jumbo);
    jumbo[14 + 4..14 + 6].copy_from_slice(&[0, 0]);
    for port in [Port::of_ip(), Port::of_mac()] {
        check(
            &port,
            &[
                (
                    "hop-by-hop first",
                    at(0, &[&hop(6)[..], &tcp()].concat()),
                    Ok(()),
                ),
                (
                    "hop-by-hop second",
                    at(60, &[&hop(0)[..], &hop(6), &tcp()].concat()),
                    Err(HeaderInvalid),
                ),
                (
                    "hop-by-hop twice",
                    at(0, &[&hop(0)[..], &hop(6), &tcp()].concat()),
                    Err(HeaderInvalid),
                ),
                (
                    "destination options twice",
                    at(60, &[&hop(60)[..], &hop(6), &tcp()].concat()),
                    Ok(()),
                ),
                ("eight", at(eight.0, &eight.1), Ok(())),
                ("nine", at(nine.0, &nine.1), Err(ControlFragmented)),
                (
                    "routing type 0",
                    at(43, &[&routing(6, 0, 1)[..], &tcp()].concat()),
                    Err(HeaderInvalid),
                ),
                (
                    "routing type 0 behind others",
                    at(
                        0,
                        &[&hop(60)[..], &hop(43), &routing(6, 0, 1), &tcp()].concat(),
                    ),
                    Err(HeaderInvalid),
                ),
                (
                    "routing type 0 used up",
                    at(43, &[&routing(6, 0, 0)[..], &tcp()].concat()),
                    Ok(()),
                ),
                (
                    "routing type 2",
                    at(43, &[&routing(6, 2, 1)[..], &tcp()].concat()),
                    Ok(()),
                ),
                ("nothing follows", at(59, &[]), Ok(())),
                ("ESP", at(50, &[0; 20]), Ok(())),
                (
                    "AH",
                    at(
                        51,
                        &[&[6, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &tcp()].concat(),
                    ),
                    Ok(()),
                ),
                ("unknown", at(253, &[0; 20]), Ok(())),
                (
                    "two fragment headers",
                    at(
                        44,
                        &[&fragment(44, 0, true)[..], &fragment(6, 0, true), &tcp()].concat(),
                    ),
                    Err(HeaderInvalid),
                ),
                ("jumbogram", jumbo.clone(), Err(HeaderInvalid)),
                (
                    "a header that overruns",
                    at(60, &[6, 9, 0, 0, 0, 0, 0, 0]),
                    Err(HeaderInvalid),
                ),
            ],
        );
        let long = at(60, &long);
        assert_eq!(port.judge(&long), Ok(Outcome::Pass));
        assert_eq!(
            port.judge_shown(&long, 256),
            Err(DropReason::HeadersTooLong)
        );
    }
}

#[test]
fn e_12_e_26_headers_that_lie_are_refused() {
    for port in [Port::of_ip(), Port::of_mac()] {
        let good = v4(&udp4(OWN4, GATEWAY4, 1000, 53, &[0; 40]));
        let good6 = v6(&udp6(OWN6, GATEWAY6, 1000, 53, &[0; 40]));
        assert_eq!(port.judge(&good), Ok(Outcome::Pass));
        assert_eq!(port.judge(&good6), Ok(Outcome::Pass));
        let lie = |frame: &[u8], at: usize, bytes: &[u8]| {
            let mut frame = frame.to_vec();
            frame[at..at + bytes.len()].copy_from_slice(bytes);
            port.judge(&frame).map(drop)
        };
        let no = Err(HeaderInvalid);
        // The type of the other family; version, header length, total length.
        assert_eq!(lie(&good, 12, &[0x86, 0xdd]), no);
        assert_eq!(lie(&good6, 12, &[8, 0]), no);
        for version in [0x05, 0x15, 0x55, 0x65, 0xf5, 0x44, 0x40] {
            assert_eq!(lie(&good, 14, &[version]), no, "{version:#x}");
        }
        for len in [0u16, 19, 69, 0xffff] {
            assert_eq!(lie(&good, 16, &len.to_be_bytes()), no, "{len}");
        }
        assert_eq!(lie(&good6, 14, &[0x40]), no);
        assert_eq!(lie(&good6, 18, &[0, 49]), no);
        // UDP: under a header, over the packet; less than the packet is no lie.
        for (frame, at) in [(&good, 14 + 20 + 4), (&good6, 14 + 40 + 4)] {
            for (len, expected) in [
                (0u16, no),
                (7, no),
                (8, Ok(())),
                (48, Ok(())),
                (49, no),
                (0xffff, no),
            ] {
                assert_eq!(lie(frame, at, &len.to_be_bytes()), expected, "{len}");
            }
        }
        // TCP: the data offset.
        let good = v4(&ipv4(OWN4, GATEWAY4, 6, &tcp()));
        for (offset, expected) in [
            (0x40, no),
            (0x00, no),
            (0x50, Ok(())),
            (0x60, no),
            (0xf0, no),
        ] {
            assert_eq!(lie(&good, 14 + 20 + 12, &[offset]), expected, "{offset:#x}");
        }
        // What stands behind the packet is no part of it.
        let mut trailing = v4(&ipv4(OWN4, GATEWAY4, 6, &tcp()[..8]));
        trailing.extend([0x50; 100]);
        assert_eq!(port.judge(&trailing).map(drop), no);
    }
}

#[test]
fn e_25_first_fragments_have_the_whole_header_or_are_refused() {
    let at = |fragment, payload: &[u8]| v4(&ipv4_with(OWN4, GATEWAY4, 6, &[], fragment, payload));
    for port in [Port::of_ip(), Port::of_mac()] {
        check(
            &port,
            &[
                ("tiny", at(0x2000, &tcp()[..8]), Err(ControlFragmented)),
                ("first", at(0x2000, &tcp()), Ok(())),
                ("later", at(0x2005, &[0; 8]), Ok(())),
                (
                    "UDP that goes on",
                    v4(&ipv4_with(
                        OWN4,
                        GATEWAY4,
                        17,
                        &[],
                        0x2000,
                        &[1, 0, 2, 0, 0x20, 0, 0, 0],
                    )),
                    Ok(()),
                ),
                (
                    "UDP under a header",
                    v4(&ipv4_with(
                        OWN4,
                        GATEWAY4,
                        17,
                        &[],
                        0x2000,
                        &[1, 0, 2, 0, 0, 7, 0, 0],
                    )),
                    Err(HeaderInvalid),
                ),
            ],
        );
    }
}
