//! E-20 and E-21: neighbour discovery and routers.

use super::*;
use DropReason::{ControlFragmented, HeaderInvalid, NdSpoofed, RouterRefused};

fn packet(packet: &[u8]) -> Vec<u8> {
    ethernet(ALL_NODES, OWN, 0x86dd, packet)
}

fn router() -> Port {
    let mut spec = guest(addresses());
    spec.may.router = true;
    Port::new(&spec)
}

#[test]
fn e_20_discovery_speaks_for_the_ports_own_addresses() {
    let no = Err(NdSpoofed);
    let (mine, theirs) = (option(1, OWN), option(1, OTHER));
    let (target_mine, target_theirs) = (option(2, OWN), option(2, OTHER));
    let nonce = [14, 1, 1, 2, 3, 4, 5, 6];
    let to = |dst, message: &[u8]| packet(&ipv6(OWN6, dst, 58, 255, message));
    check(
        &Port::of_ip(),
        &[
            (
                "solicitation",
                packet(&solicitation(OWN6, GATEWAY6, &mine)),
                Ok(()),
            ),
            (
                "from the link-local address",
                packet(&solicitation(OWN_LINK, GATEWAY6, &mine)),
                Ok(()),
            ),
            (
                "without an option",
                packet(&solicitation(OWN6, GATEWAY6, &[])),
                Ok(()),
            ),
            (
                "unicast probe",
                to(GATEWAY6, &neighbour(135, GATEWAY6, &mine)),
                Ok(()),
            ),
            ("DAD", packet(&solicitation(ZERO6, OWN6, &[])), Ok(())),
            (
                "DAD with a nonce",
                packet(&solicitation(ZERO6, OWN6, &nonce)),
                Ok(()),
            ),
            (
                "DAD of the link-local",
                packet(&solicitation(ZERO6, OWN_LINK, &[])),
                Ok(()),
            ),
            ("answer", packet(&answer(OWN6, OWN6, &target_mine)), Ok(())),
            (
                "answer for the link-local",
                packet(&answer(OWN6, OWN_LINK, &target_mine)),
                Ok(()),
            ),
            (
                "router solicitation",
                to(ALL_NODES6, &icmpv6(133, &[&[0; 4][..], &mine].concat())),
                Ok(()),
            ),
            (
                "of another",
                packet(&solicitation(OTHER6, GATEWAY6, &mine)),
                no,
            ),
            (
                "of another's link-local",
                packet(&solicitation(OTHER_LINK, GATEWAY6, &mine)),
                no,
            ),
            (
                "another's SLLA",
                packet(&solicitation(OWN6, GATEWAY6, &theirs)),
                no,
            ),
            (
                "another's SLLA, second",
                packet(&solicitation(
                    OWN6,
                    GATEWAY6,
                    &[&mine[..], &theirs].concat(),
                )),
                no,
            ),
            (
                "DAD for another's",
                packet(&solicitation(ZERO6, OTHER6, &[])),
                no,
            ),
            (
                "DAD with SLLA",
                packet(&solicitation(ZERO6, OWN6, &mine)),
                no,
            ),
            (
                "DAD to all nodes",
                packet(&ipv6(
                    ZERO6,
                    ALL_NODES6,
                    58,
                    255,
                    &neighbour(135, OWN6, &[]),
                )),
                no,
            ),
            (
                "answer for another",
                packet(&answer(OWN6, OTHER6, &target_mine)),
                no,
            ),
            (
                "answer from another",
                packet(&answer(OTHER6, OWN6, &target_mine)),
                no,
            ),
            (
                "answer from ::",
                packet(&answer(ZERO6, OWN6, &target_mine)),
                no,
            ),
            (
                "another's TLLA",
                packet(&answer(OWN6, OWN6, &target_theirs)),
                no,
            ),
            (
                "multicast target",
                packet(&solicitation(OWN6, ALL_NODES6, &mine)),
                no,
            ),
            (
                "hop limit 254",
                packet(&ipv6(
                    OWN6,
                    solicited(GATEWAY6),
                    58,
                    254,
                    &neighbour(135, GATEWAY6, &mine),
                )),
                no,
            ),
            (
                "router solicitation with SLLA from ::",
                packet(&ipv6(
                    ZERO6,
                    ALL_NODES6,
                    58,
                    255,
                    &icmpv6(133, &[&[0; 4][..], &mine].concat()),
                )),
                no,
            ),
            (
                "inverse solicitation",
                to(ALL_NODES6, &icmpv6(141, &[0; 28])),
                no,
            ),
            ("inverse answer", to(ALL_NODES6, &icmpv6(142, &[0; 28])), no),
        ],
    );
}

#[test]
fn e_20_unsolicited_answers_that_override_speak_for_the_ports_own() {
    // Router, solicited and override flags in all combinations.
    for flags in 0..8u8 {
        for (target, expected) in [
            (OWN6, Ok(())),
            (OTHER6, Err(NdSpoofed)),
            (GATEWAY6, Err(NdSpoofed)),
        ] {
            let mut frame = packet(&answer(OWN6, target, &option(2, OWN)));
            frame[14 + 40 + 4] = flags << 5;
            assert_eq!(
                Port::of_ip().judge(&frame).map(drop),
                expected,
                "{flags} {target}"
            );
        }
    }
}

#[test]
fn e_20_options_must_add_up() {
    for port in [Port::of_ip(), Port::of_mac()] {
        for (what, options) in [
            ("length 0", vec![1, 0, 0, 0, 0, 0, 0, 0]),
            ("length 0 of an unknown one", vec![200, 0, 0, 0, 0, 0, 0, 0]),
            ("overrun", vec![1, 2, 0x52, 0x54, 0, 0x12, 0x34, 5]),
            (
                "overrun of an unknown one",
                vec![200, 255, 0, 0, 0, 0, 0, 0],
            ),
            ("one byte", vec![1]),
            ("cut short", vec![200, 1, 0, 0]),
            ("long SLLA", [&[1, 2][..], &OWN.octets(), &[0; 8]].concat()),
            (
                "bad behind good",
                [&option(1, OWN)[..], &[5, 0, 0, 0, 0, 0, 0, 0]].concat(),
            ),
        ] {
            let frame = packet(&solicitation(OWN6, GATEWAY6, &options));
            assert_eq!(port.judge(&frame).map(drop), Err(NdSpoofed), "{what}");
        }
        // A message that ends within its fixed part, and a code that none has.
        for len in 8..24 {
            let cut = &neighbour(135, GATEWAY6, &[])[..len];
            let frame = packet(&ipv6(OWN6, GATEWAY6, 58, 255, cut));
            assert_eq!(port.judge(&frame).map(drop), Err(NdSpoofed), "{len}");
        }
        let mut frame = packet(&solicitation(OWN6, GATEWAY6, &[]));
        frame[14 + 40 + 1] = 1;
        assert_eq!(port.judge(&frame).map(drop), Err(NdSpoofed));
    }
}

#[test]
fn e_20_without_addresses_options_are_judged_all_the_same() {
    check(
        &Port::of_mac(),
        &[
            (
                "any address",
                packet(&solicitation(OTHER6, GATEWAY6, &option(1, OWN))),
                Ok(()),
            ),
            (
                "DAD for any",
                packet(&solicitation(ZERO6, OTHER6, &[])),
                Ok(()),
            ),
            (
                "answer for any",
                packet(&answer(OTHER6, OTHER6, &option(2, OWN))),
                Ok(()),
            ),
            (
                "another's SLLA",
                packet(&solicitation(OWN6, GATEWAY6, &option(1, OTHER))),
                Err(NdSpoofed),
            ),
            (
                "another's TLLA",
                packet(&answer(OWN6, OWN6, &option(2, OTHER))),
                Err(NdSpoofed),
            ),
        ],
    );
}

#[test]
fn e_20_a_declared_link_local_address_takes_the_place_of_the_macs() {
    let declared: Ipv6Addr = "fe80::77".parse().unwrap();
    let spec = IpSpec::Declared(vec![
        "fd00::5/128".parse().unwrap(),
        "fe80::77/128".parse().unwrap(),
    ]);
    check(
        &Port::new(&guest(spec)),
        &[
            (
                "declared",
                packet(&solicitation(declared, GATEWAY6, &[])),
                Ok(()),
            ),
            ("DAD", packet(&solicitation(ZERO6, declared, &[])), Ok(())),
            (
                "of the MAC",
                packet(&solicitation(OWN_LINK, GATEWAY6, &[])),
                Err(NdSpoofed),
            ),
            (
                "data of the MAC",
                packet(&udp6(OWN_LINK, GATEWAY6, 1, 2, &[])),
                Err(DropReason::SourceIpSpoofed),
            ),
        ],
    );
    // Only IPv4 declared: the link-local address of the MAC is there still, and no other IPv6 address.
    let port = Port::new(&guest(IpSpec::Declared(vec![
        "10.0.0.5/32".parse().unwrap(),
    ])));
    check(
        &port,
        &[
            (
                "of the MAC",
                packet(&solicitation(OWN_LINK, GATEWAY6, &[])),
                Ok(()),
            ),
            (
                "another",
                packet(&solicitation(OWN6, GATEWAY6, &[])),
                Err(NdSpoofed),
            ),
        ],
    );
}

/// Redirects `OTHER6` to itself.
fn redirect() -> Vec<u8> {
    let body = [
        &[0; 4][..],
        &OTHER6.octets(),
        &OTHER6.octets(),
        &option(2, OTHER),
    ]
    .concat();
    ipv6(OWN_LINK, ALL_NODES6, 58, 255, &icmpv6(137, &body))
}

#[test]
fn e_21_routers_are_refused_however_they_come() {
    let refused = Err(RouterRefused);
    let plain = packet(&advertisement(255, OWN));
    for mut spec in [guest(IpSpec::Any), guest(addresses()), guest(IpSpec::Dhcp)] {
        for mac in [MacSpec::Declared(vec![OWN]), MacSpec::Sticky, MacSpec::Any] {
            spec.mac = mac;
            let port = Port::new(&spec);
            check(
                &port,
                &[
                    ("plain", plain.clone(), refused),
                    ("hop limit 64", packet(&advertisement(64, OWN)), refused),
                    ("redirect", packet(&redirect()), refused),
                    (
                        "renumbering",
                        packet(&ipv6(OWN_LINK, ALL_NODES6, 58, 255, &icmpv6(138, &[0; 12]))),
                        refused,
                    ),
                    (
                        "IPv4 redirect",
                        ethernet(
                            OTHER,
                            OWN,
                            0x0800,
                            &ipv4(OWN4, OTHER4, 1, &[5, 1, 0, 0, 10, 0, 0, 5]),
                        ),
                        refused,
                    ),
                    (
                        "IPv4 advertisement",
                        ethernet(
                            OTHER,
                            OWN,
                            0x0800,
                            &ipv4(OWN4, OTHER4, 1, &[9, 0, 0, 0, 1, 2, 0, 0]),
                        ),
                        refused,
                    ),
                ],
            );
            for count in 1..=10 {
                for kind in [60, 43, 135] {
                    let (next, payload) = behind(count, kind, 58, &advertising(OWN));
                    let frame = packet(&ipv6(OWN_LINK, ALL_NODES6, next, 255, &payload));
                    let expected = match (count, kind) {
                        (9.., _) => Err(ControlFragmented),
                        _ => refused,
                    };
                    assert_eq!(port.judge(&frame).map(drop), expected, "{count} of {kind}");
                }
            }
            // Hop-by-hop options first, then destination options.
            let (next, payload) = behind(3, 60, 58, &advertising(OWN));
            let payload = [&extension(next)[..], &payload].concat();
            let frame = packet(&ipv6(OWN_LINK, ALL_NODES6, 0, 255, &payload));
            assert_eq!(port.judge(&frame).map(drop), refused);
        }
    }
}

#[test]
fn e_21_nothing_of_discovery_comes_in_fragments() {
    let solicit = neighbour(135, GATEWAY6, &[]);
    for (port, of_router) in [
        (Port::of_mac(), RouterRefused),
        (Port::of_ip(), RouterRefused),
        (router(), ControlFragmented),
    ] {
        let judge = |next, payload: &[u8]| {
            port.judge(&packet(&ipv6(OWN_LINK, ALL_NODES6, next, 255, payload)))
                .map(drop)
        };
        for (message, expected) in [
            (&advertising(OWN), of_router),
            (&solicit, ControlFragmented),
        ] {
            // Atomic, first of several, and with options before and behind the fragment header.
            for more in [false, true] {
                let whole = [&fragment(58, 0, more)[..], message].concat();
                assert_eq!(judge(44, &whole), Err(expected));
                let behind_options = [&extension(44)[..], &whole].concat();
                assert_eq!(judge(60, &behind_options), Err(expected));
                let before_options = [&fragment(60, 0, more)[..], &extension(58), message].concat();
                assert_eq!(judge(44, &before_options), Err(expected));
            }
        }
        // A first fragment that ends before the message (RFC 7112), within its header, or within the options.
        for first in [
            [&fragment(60, 0, true)[..], &extension(58)].concat(),
            [&fragment(60, 0, true)[..], &extension(60), &extension(58)].concat(),
            [&fragment(58, 0, true)[..], &[134, 0, 0, 0]].concat(),
            [&fragment(58, 0, true)[..]].concat(),
        ] {
            assert_eq!(judge(44, &first), Err(ControlFragmented));
        }
        let cut = [&fragment(60, 0, true)[..], &[58, 9, 1, 4, 0, 0, 0, 0]].concat();
        assert_eq!(judge(44, &cut), Err(HeaderInvalid));
        // Later fragments have no header; their first was refused.
        assert_eq!(
            judge(44, &[&fragment(58, 8, false)[..], &[0; 16]].concat()),
            Ok(())
        );
    }
}

#[test]
fn e_21_a_router_may_advertise_in_its_own_name() {
    check(
        &router(),
        &[
            ("advertisement", packet(&advertisement(255, OWN)), Ok(())),
            ("redirect", packet(&redirect()), Ok(())),
            (
                "hop limit 64",
                packet(&advertisement(64, OWN)),
                Err(NdSpoofed),
            ),
            (
                "another's SLLA",
                packet(&advertisement(255, OTHER)),
                Err(NdSpoofed),
            ),
            (
                "another's address",
                packet(&ipv6(OTHER_LINK, ALL_NODES6, 58, 255, &advertising(OWN))),
                Err(NdSpoofed),
            ),
            (
                "global address",
                packet(&ipv6(OWN6, ALL_NODES6, 58, 255, &advertising(OWN))),
                Err(NdSpoofed),
            ),
            (
                "IPv4 redirect",
                ethernet(
                    OTHER,
                    OWN,
                    0x0800,
                    &ipv4(OWN4, OTHER4, 1, &[5, 1, 0, 0, 10, 0, 0, 5]),
                ),
                Ok(()),
            ),
        ],
    );
}

#[test]
fn listeners_report_from_everywhere_that_rfc_3590_lets_them() {
    // Behind hop-by-hop options with a router alert, as every report is.
    let report = |src, kind| {
        let payload = [&[58, 0, 5, 2, 0, 0, 1, 0][..], &icmpv6(kind, &[0; 24])].concat();
        packet(&ipv6(src, "ff02::16".parse().unwrap(), 0, 1, &payload))
    };
    for port in [Port::of_ip(), Port::of_mac()] {
        for kind in [131, 132, 143] {
            assert_eq!(
                port.judge(&report(ZERO6, kind)),
                Ok(Outcome::Pass),
                "{kind}"
            );
            assert_eq!(
                port.judge(&report(OWN_LINK, kind)),
                Ok(Outcome::Pass),
                "{kind}"
            );
        }
        let query = report(ZERO6, 130);
        assert_eq!(port.judge(&query), Err(DropReason::SourceIpSpoofed));
    }
    assert_eq!(
        Port::of_ip().judge(&report(OTHER_LINK, 143)),
        Err(DropReason::SourceIpSpoofed)
    );
}
