//! E-22: servers, and clients in their own name.

use super::*;
use DropReason::{
    ControlFragmented, DhcpServerRefused, DhcpSpoofed, HeaderInvalid, SourceIpSpoofed,
};

fn v4(packet: &[u8]) -> Vec<u8> {
    ethernet(Mac::BROADCAST, OWN, 0x0800, packet)
}

fn v6(packet: &[u8]) -> Vec<u8> {
    ethernet(ALL_NODES, OWN, 0x86dd, packet)
}

fn reply() -> Vec<u8> {
    let offer = Message {
        operation: 2,
        yiaddr: OTHER4,
        chaddr: OTHER,
        ..ASK
    };
    offer.with(&[&[53, 1, 2], &[54, 4, 10, 0, 0, 5]])
}

fn discover() -> Vec<u8> {
    ASK.with(&[&[53, 1, 1]])
}

fn ports() -> [Port; 3] {
    [
        Port::of_mac(),
        Port::of_ip(),
        Port::new(&guest(IpSpec::Dhcp)),
    ]
}

const LINK_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

#[test]
fn e_22_servers_are_refused_by_their_ports() {
    let all = Ipv4Addr::BROADCAST;
    let no = Err(DhcpServerRefused);
    let anything = [0; 60];
    for port in ports() {
        check(
            &port,
            &[
                ("offer", v4(&udp4(OWN4, all, 67, 68, &reply())), no),
                (
                    "to a relay",
                    v4(&udp4(OWN4, GATEWAY4, 67, 67, &reply())),
                    no,
                ),
                (
                    "from another port",
                    v4(&udp4(OWN4, all, 4711, 68, &reply())),
                    no,
                ),
                (
                    "from a client's port",
                    v4(&udp4(OWN4, all, 68, 68, &reply())),
                    no,
                ),
                (
                    "a reply to a server's port",
                    v4(&udp4(ZERO4, all, 68, 67, &reply())),
                    no,
                ),
                ("no DHCP in it", v4(&udp4(OWN4, all, 67, 68, &anything)), no),
                ("nothing in it", v4(&udp4(OWN4, all, 67, 9, &[])), no),
                (
                    "with options",
                    v4(&ipv4_with(
                        OWN4,
                        all,
                        17,
                        &[148, 4, 0, 0],
                        0,
                        &udp(67, 68, &reply()),
                    )),
                    no,
                ),
                (
                    "first fragment",
                    v4(&ipv4_with(
                        OWN4,
                        all,
                        17,
                        &[],
                        0x2000,
                        &udp(67, 68, &reply())[..16],
                    )),
                    no,
                ),
                (
                    "with forty bytes of options",
                    v4(&ipv4_with(
                        OWN4,
                        all,
                        17,
                        &[1; 40],
                        0x2000,
                        &udp(67, 68, &reply()),
                    )),
                    no,
                ),
                (
                    "DHCPv6 advertise",
                    v6(&udp6(OWN_LINK, OTHER_LINK, 547, 546, &[2, 1, 2, 3])),
                    no,
                ),
                (
                    "from another port",
                    v6(&udp6(OWN_LINK, OTHER_LINK, 4711, 546, &[7, 1, 2, 3])),
                    no,
                ),
                (
                    "relay",
                    v6(&udp6(OWN_LINK, OTHER_LINK, 547, 547, &[12, 1, 2, 3])),
                    no,
                ),
                (
                    "reply to a server's port",
                    v6(&udp6(OWN_LINK, LINK_SERVERS, 546, 547, &[7, 1, 2, 3])),
                    no,
                ),
                (
                    "advertise to a server's port",
                    v6(&udp6(OWN_LINK, LINK_SERVERS, 5, 547, &[2, 1, 2, 3])),
                    no,
                ),
                (
                    "relay's reply",
                    v6(&udp6(OWN_LINK, LINK_SERVERS, 5, 547, &[13, 1, 2, 3])),
                    no,
                ),
                (
                    "relay's message",
                    v6(&udp6(OWN_LINK, LINK_SERVERS, 5, 547, &[12, 1, 2, 3])),
                    Err(DhcpSpoofed),
                ),
            ],
        );
        for count in 1..=8 {
            let (next, payload) = behind(count, 60, 17, &udp(547, 546, &[2, 1, 2, 3]));
            let frame = v6(&ipv6(OWN_LINK, OTHER_LINK, next, 64, &payload));
            assert_eq!(port.judge(&frame).map(drop), no, "{count}");
        }
        let payload = [&fragment(17, 0, true)[..], &udp(547, 546, &[2, 1, 2, 3])].concat();
        let frame = v6(&ipv6(OWN_LINK, OTHER_LINK, 44, 64, &payload));
        assert_eq!(port.judge(&frame).map(drop), no);
    }
    // Where anything goes but the roles.
    let mut spec = guest(IpSpec::Any);
    spec.mac = MacSpec::Any;
    let port = Port::new(&spec);
    let frame = v4(&udp4(OTHER4, all, 67, 68, &reply()));
    assert_eq!(port.judge(&frame).map(drop), no);
    let frame = v4(&udp4(ZERO4, all, 68, 67, &reply()));
    assert_eq!(port.judge(&frame).map(drop), no);
}

#[test]
fn e_22_a_server_may_serve_from_its_own_address() {
    let mut spec = guest(addresses());
    spec.may.dhcp_server = true;
    check(
        &Port::new(&spec),
        &[
            (
                "offer",
                v4(&udp4(OWN4, Ipv4Addr::BROADCAST, 67, 68, &reply())),
                Ok(()),
            ),
            (
                "of another",
                v4(&udp4(OTHER4, Ipv4Addr::BROADCAST, 67, 68, &reply())),
                Err(SourceIpSpoofed),
            ),
            (
                "DHCPv6",
                v6(&udp6(OWN_LINK, OTHER_LINK, 547, 546, &[7, 1, 2, 3])),
                Ok(()),
            ),
            (
                "advertisement of a router",
                v6(&advertisement(255, OWN)),
                Err(DropReason::RouterRefused),
            ),
        ],
    );
}

#[test]
fn clients_ask_in_their_own_name() {
    let no = Err(DhcpSpoofed);
    let asks = |message: Message| v4(&dhcp_client(&message.with(&[&[53, 1, 1]])));
    for port in ports() {
        check(
            &port,
            &[
                ("discover", v4(&dhcp_client(&discover())), Ok(())),
                (
                    "another's chaddr",
                    asks(Message {
                        chaddr: OTHER,
                        ..ASK
                    }),
                    no,
                ),
                (
                    "a relay's",
                    asks(Message {
                        giaddr: OWN4,
                        ..ASK
                    }),
                    no,
                ),
                (
                    "hardware type",
                    asks(Message {
                        hardware: [6, 6],
                        ..ASK
                    }),
                    no,
                ),
                (
                    "hardware length",
                    asks(Message {
                        hardware: [1, 16],
                        ..ASK
                    }),
                    no,
                ),
                (
                    "no operation",
                    asks(Message {
                        operation: 3,
                        ..ASK
                    }),
                    no,
                ),
                (
                    "in fragments",
                    v4(&ipv4_with(
                        ZERO4,
                        Ipv4Addr::BROADCAST,
                        17,
                        &[],
                        0x2000,
                        &udp(68, 67, &discover()),
                    )),
                    Err(ControlFragmented),
                ),
                (
                    "cut short",
                    v4(&dhcp_client(&discover()[..43])),
                    Err(HeaderInvalid),
                ),
                (
                    "from 0.0.0.0 to one",
                    v4(&udp4(ZERO4, GATEWAY4, 68, 67, &discover())),
                    Err(SourceIpSpoofed),
                ),
                ("BOOTP", v4(&dhcp_client(&discover()[..236])), Ok(())),
                (
                    "solicit",
                    v6(&udp6(OWN_LINK, LINK_SERVERS, 546, 547, &[1, 1, 2, 3])),
                    Ok(()),
                ),
                (
                    "solicit from ::",
                    v6(&udp6(ZERO6, LINK_SERVERS, 546, 547, &[1, 1, 2, 3])),
                    Err(SourceIpSpoofed),
                ),
                (
                    "cut short",
                    v6(&udp6(OWN_LINK, LINK_SERVERS, 546, 547, &[1, 1, 2])),
                    Err(HeaderInvalid),
                ),
            ],
        );
    }
    let renewing = |address| {
        let message = Message {
            ciaddr: address,
            ..ASK
        }
        .with(&[&[53, 1, 3]]);
        v4(&udp4(address, GATEWAY4, 68, 67, &message))
    };
    let asking_for = |address| {
        v4(&dhcp_client(
            &Message {
                ciaddr: address,
                ..ASK
            }
            .with(&[&[53, 1, 3]]),
        ))
    };
    check(
        &Port::of_ip(),
        &[
            ("renewing", renewing(OWN4), Ok(())),
            ("renewing another's", renewing(OTHER4), no),
            ("another's ciaddr", asking_for(OTHER4), no),
        ],
    );
    assert_eq!(Port::of_mac().judge(&asking_for(OTHER4)), Ok(Outcome::Pass));
}

#[test]
fn clients_that_are_bound_name_no_other_by_its_identifier() {
    let id = |mac: Mac| [&[61, 7, 1][..], &mac.octets()].concat();
    let (own, other) = (id(OWN), id(OTHER));
    let kind = [53, 1, 3];
    let asks = |options: &[&[u8]]| v4(&dhcp_client(&ASK.with(options)));
    let mut uncut = ASK.with(&[&kind]);
    uncut.pop();
    for port in [Port::of_ip(), Port::new(&guest(IpSpec::Dhcp))] {
        check(
            &port,
            &[
                ("own", asks(&[&kind, &own]), Ok(())),
                ("opaque", asks(&[&kind, &[61, 5, 255, 1, 2, 3, 4]]), Ok(())),
                ("padded", asks(&[&[0; 9], &kind, &[0; 9], &own]), Ok(())),
                ("without an end", v4(&dhcp_client(&uncut)), Ok(())),
                ("another's", asks(&[&kind, &other]), Err(DhcpSpoofed)),
                ("twice", asks(&[&own, &kind, &own]), Err(DhcpSpoofed)),
                (
                    "in two pieces",
                    asks(&[&[61, 4, 1, 0x52, 0x54, 0], &[61, 3, 0x12, 0x34, 6]]),
                    Err(DhcpSpoofed),
                ),
                (
                    "in the name fields",
                    asks(&[&kind, &[52, 1, 3]]),
                    Err(DhcpSpoofed),
                ),
                (
                    "a relay's",
                    asks(&[&kind, &own, &[82, 6, 1, 4, 0, 0, 0, 7]]),
                    Err(DhcpSpoofed),
                ),
                (
                    "overrun",
                    v4(&dhcp_client(&[&uncut[..], &[61, 9, 1]].concat())),
                    Err(HeaderInvalid),
                ),
            ],
        );
        // What cannot be seen may be another's.
        let frame = asks(&[&kind, &other]);
        assert_eq!(
            port.judge_shown(&frame, 128),
            Err(DropReason::HeadersTooLong)
        );
        assert_eq!(
            port.judge_shown(&frame, 256),
            Err(DropReason::HeadersTooLong)
        );
        assert_eq!(
            port.judge_shown(&frame, frame.len()).map(drop),
            Err(DhcpSpoofed)
        );
    }
    // Without addresses the first 128 bytes are enough.
    let frame = asks(&[&kind, &other]);
    assert_eq!(Port::of_mac().judge_shown(&frame, 128), Ok(Outcome::Pass));
}

/// A release that the server understands and the switch does not would leave the port an address that is granted to another.
#[test]
fn what_a_server_may_read_as_a_release_is_read_as_one_or_refused() {
    let release = |options: &[&[u8]]| v4(&dhcp_client(&ASK.with(options)));
    let (kind, address) = ([53, 1, 7], [50, 4, 10, 0, 0, 5]);
    for port in [Port::of_ip(), Port::new(&guest(IpSpec::Dhcp))] {
        check(
            &port,
            &[
                ("release", release(&[&kind]), Ok(())),
                ("decline", release(&[&[53, 1, 4], &address]), Ok(())),
                (
                    "two types",
                    release(&[&kind, &[53, 1, 1]]),
                    Err(DhcpSpoofed),
                ),
                (
                    "two addresses",
                    release(&[&[53, 1, 4], &address, &[50, 4, 10, 0, 0, 9]]),
                    Err(DhcpSpoofed),
                ),
                (
                    "a type of two bytes",
                    release(&[&[53, 2, 7, 0]]),
                    Err(HeaderInvalid),
                ),
                (
                    "an address of three bytes",
                    release(&[&kind, &[50, 3, 10, 0, 0]]),
                    Err(HeaderInvalid),
                ),
                (
                    "a time of two bytes",
                    release(&[&kind, &[51, 2, 0, 0]]),
                    Err(HeaderInvalid),
                ),
            ],
        );
    }
    let id = [0, 1, 0, 4, 9, 9, 9, 9];
    let gives_back = |kind: u8, options: &[&[u8]]| {
        let message = [&[kind, 1, 2, 3], &id[..], &options.concat()].concat();
        v6(&udp6(OWN_LINK, LINK_SERVERS, 546, 547, &message))
    };
    let mut one = vec![0, 3, 0, 40];
    one.extend([0; 12]);
    one.extend([0, 5, 0, 24]);
    one.extend(OWN6.octets());
    one.extend([0; 8]);
    let mut overrun = one.clone();
    overrun[19] = 99;
    let port = Port::new(&guest(IpSpec::Dhcp));
    for kind in [8, 9] {
        check(
            &port,
            &[
                ("one address", gives_back(kind, &[&one]), Ok(())),
                (
                    "something behind it",
                    gives_back(kind, &[&one, &[0, 9, 0]]),
                    Err(HeaderInvalid),
                ),
                (
                    "an overrun within",
                    gives_back(kind, &[&overrun]),
                    Err(HeaderInvalid),
                ),
            ],
        );
        // What cannot be seen may be an address.
        let long = gives_back(kind, &[&[0, 16, 0, 120], &[7; 120], &one]);
        for shown in [128, 200] {
            let judged = port.judge_shown(&long, shown);
            assert_eq!(judged, Err(DropReason::HeadersTooLong), "{shown}");
        }
        assert_eq!(port.judge(&long), Ok(Outcome::Pass));
    }
    // Nothing is learned of what other messages hold, nor of ports whose addresses are declared.
    let odd = [0, 9, 0];
    assert_eq!(port.judge(&gives_back(1, &[&odd])), Ok(Outcome::Pass));
    let declared = Port::of_ip();
    assert_eq!(declared.judge(&gives_back(8, &[&odd])), Ok(Outcome::Pass));
}
