//! E-19: ARP and RARP.

use super::*;
use DropReason::ArpSpoofed;

const NOBODY: Mac = Mac::from_bits(0);

fn packet(dst: Mac, packet: &[u8]) -> Vec<u8> {
    ethernet(dst, OWN, 0x0806, packet)
}

#[test]
fn e_19_arp_speaks_for_the_ports_own_addresses() {
    let port = Port::of_ip();
    let all = Mac::BROADCAST;
    let no = Err(ArpSpoofed);
    check(
        &port,
        &[
            (
                "request",
                packet(all, &arp(1, OWN, OWN4, NOBODY, GATEWAY4)),
                Ok(()),
            ),
            (
                "unicast request",
                packet(GATEWAY, &arp(1, OWN, OWN4, GATEWAY, GATEWAY4)),
                Ok(()),
            ),
            (
                "probe",
                packet(all, &arp(1, OWN, ZERO4, NOBODY, OWN4)),
                Ok(()),
            ),
            (
                "announcement",
                packet(all, &arp(1, OWN, OWN4, NOBODY, OWN4)),
                Ok(()),
            ),
            (
                "answer",
                packet(GATEWAY, &arp(2, OWN, OWN4, GATEWAY, GATEWAY4)),
                Ok(()),
            ),
            (
                "gratuitous answer",
                packet(all, &arp(2, OWN, OWN4, OWN, OWN4)),
                Ok(()),
            ),
            (
                "gratuitous answer",
                packet(all, &arp(2, OWN, OWN4, all, OWN4)),
                Ok(()),
            ),
            (
                "gratuitous answer",
                packet(all, &arp(2, OWN, OWN4, NOBODY, OWN4)),
                Ok(()),
            ),
            (
                "request of another",
                packet(all, &arp(1, OWN, OTHER4, NOBODY, GATEWAY4)),
                no,
            ),
            (
                "announcement of another",
                packet(all, &arp(1, OWN, OTHER4, NOBODY, OTHER4)),
                no,
            ),
            (
                "answer of another",
                packet(GATEWAY, &arp(2, OWN, OTHER4, GATEWAY, GATEWAY4)),
                no,
            ),
            (
                "proxy answer",
                packet(OTHER, &arp(2, OWN, GATEWAY4, OTHER, OTHER4)),
                no,
            ),
            (
                "gratuitous answer of another",
                packet(all, &arp(2, OWN, GATEWAY4, OWN, GATEWAY4)),
                no,
            ),
            (
                "probe for another's",
                packet(all, &arp(1, OWN, ZERO4, NOBODY, OTHER4)),
                no,
            ),
            (
                "answer from 0.0.0.0",
                packet(GATEWAY, &arp(2, OWN, ZERO4, GATEWAY, GATEWAY4)),
                no,
            ),
            (
                "another's MAC in a request",
                packet(all, &arp(1, OTHER, OWN4, NOBODY, GATEWAY4)),
                no,
            ),
            (
                "another's MAC in an answer",
                packet(GATEWAY, &arp(2, GATEWAY, OWN4, GATEWAY, GATEWAY4)),
                no,
            ),
            (
                "group MAC",
                packet(GATEWAY, &arp(2, all, OWN4, GATEWAY, GATEWAY4)),
                no,
            ),
            (
                "answer to a third",
                packet(GATEWAY, &arp(2, OWN, OWN4, OTHER, GATEWAY4)),
                no,
            ),
        ],
    );
}

#[test]
fn e_19_other_operations_and_shapes_are_refused() {
    for port in [Port::of_ip(), Port::of_mac()] {
        for operation in (0..=65535u16).filter(|operation| !matches!(operation, 1 | 2)) {
            let frame = packet(Mac::BROADCAST, &arp(operation, OWN, OWN4, OWN, OWN4));
            assert_eq!(port.judge(&frame), Err(ArpSpoofed), "operation {operation}");
        }
        // Hardware, protocol, and the lengths of their addresses.
        for (at, value) in [
            (0, 1),
            (1, 6),
            (2, 0x86),
            (3, 0xdd),
            (4, 5),
            (4, 0),
            (5, 16),
            (5, 0),
        ] {
            let mut shape = arp(1, OWN, OWN4, NOBODY, GATEWAY4);
            shape[at] = value;
            let frame = packet(Mac::BROADCAST, &shape);
            assert_eq!(port.judge(&frame), Err(ArpSpoofed), "byte {at} = {value}");
        }
        let whole = packet(Mac::BROADCAST, &arp(1, OWN, OWN4, NOBODY, GATEWAY4));
        for len in 14..60 {
            let expected = if len < 42 {
                Err(ArpSpoofed)
            } else {
                Ok(Outcome::Pass)
            };
            assert_eq!(port.judge(&whole[..len]), expected, "{len} bytes");
        }
        let padded = [&whole[..], &[0xff; 1000]].concat();
        assert_eq!(port.judge(&padded), Ok(Outcome::Pass));
    }
}

#[test]
fn e_19_without_addresses_only_macs_and_the_impossible_are_judged() {
    let port = Port::of_mac();
    let all = Mac::BROADCAST;
    let no = Err(ArpSpoofed);
    let from = |sender| packet(all, &arp(1, OWN, sender, NOBODY, GATEWAY4));
    check(
        &port,
        &[
            ("any address", from(OTHER4), Ok(())),
            (
                "probe",
                packet(all, &arp(1, OWN, ZERO4, NOBODY, OTHER4)),
                Ok(()),
            ),
            ("loopback", from(Ipv4Addr::LOCALHOST), no),
            ("broadcast", from(Ipv4Addr::BROADCAST), no),
            ("multicast", from(Ipv4Addr::new(224, 0, 0, 1)), no),
            ("this network", from(Ipv4Addr::new(0, 0, 0, 1)), no),
            (
                "another's MAC",
                packet(all, &arp(1, OTHER, OTHER4, NOBODY, GATEWAY4)),
                no,
            ),
        ],
    );
    // Where anything goes, so does this; where only addresses are bound, the frame's own source is meant.
    let mut spec = guest(IpSpec::Any);
    spec.mac = MacSpec::Any;
    let port = Port::new(&spec);
    let lie = packet(all, &arp(2, OTHER, OTHER4, NOBODY, GATEWAY4));
    assert_eq!(port.judge(&lie), Ok(Outcome::Pass));
    spec.ip = addresses();
    let port = Port::new(&spec);
    let lie = packet(all, &arp(2, OTHER, OWN4, NOBODY, GATEWAY4));
    assert_eq!(port.judge(&lie), Err(ArpSpoofed));
    let own = packet(all, &arp(2, OWN, OWN4, NOBODY, GATEWAY4));
    assert_eq!(port.judge(&own), Ok(Outcome::Pass));
}

#[test]
fn e_19_rarp_announces_the_ports_own_mac_and_does_nothing_else() {
    let rarp = |packet: &[u8]| ethernet(Mac::BROADCAST, OWN, 0x8035, packet);
    let no = Err(ArpSpoofed);
    for port in [
        Port::of_ip(),
        Port::of_mac(),
        Port::new(&guest(IpSpec::Dhcp)),
    ] {
        check(
            &port,
            &[
                ("SEND_RARP", rarp(&arp(3, OWN, ZERO4, OWN, ZERO4)), Ok(())),
                ("for another", rarp(&arp(3, OWN, ZERO4, OTHER, ZERO4)), no),
                ("of another", rarp(&arp(3, OTHER, ZERO4, OWN, ZERO4)), no),
                ("answer", rarp(&arp(4, OWN, OWN4, OWN, OWN4)), no),
                ("as ARP", rarp(&arp(1, OWN, OWN4, NOBODY, GATEWAY4)), no),
                (
                    "cut short",
                    rarp(&arp(3, OWN, ZERO4, OWN, ZERO4))[..41].to_vec(),
                    no,
                ),
                (
                    "RARP as ARP",
                    packet(Mac::BROADCAST, &arp(3, OWN, ZERO4, OWN, ZERO4)),
                    no,
                ),
                (
                    "InARP",
                    packet(Mac::BROADCAST, &arp(8, OWN, OWN4, OWN, OWN4)),
                    no,
                ),
                (
                    "InARP answer",
                    packet(Mac::BROADCAST, &arp(9, OWN, OWN4, OWN, OWN4)),
                    no,
                ),
            ],
        );
    }
    let port = Port::of_ip();
    let claiming = rarp(&arp(3, OWN, OTHER4, OWN, ZERO4));
    assert_eq!(port.judge(&claiming), Err(ArpSpoofed));
    let claiming = rarp(&arp(3, OWN, OWN4, OWN, OTHER4));
    assert_eq!(port.judge(&claiming), Err(ArpSpoofed));
}
