//! The guard against a slow and obvious one that is given what a packet says, not its bytes.

use proptest::prelude::*;

use super::*;
use crate::policy::lease::{Binding, Change};

/// What a packet says.
#[derive(Clone, Debug)]
enum Said {
    Arp {
        operation: u16,
        sha: Mac,
        spa: Ipv4Addr,
        tha: Mac,
        tpa: Ipv4Addr,
    },
    Neighbour {
        kind: u8,
        hops: u8,
        src: Ipv6Addr,
        dst: Ipv6Addr,
        target: Ipv6Addr,
        options: Vec<(u8, Mac)>,
    },
    Router {
        hops: u8,
        src: Ipv6Addr,
        mac: Mac,
    },
    Udp4 {
        src: Ipv4Addr,
        dst: Ipv4Addr,
        ports: (u16, u16),
        message: Said4,
    },
    Udp6 {
        src: Ipv6Addr,
        ports: (u16, u16),
        kind: u8,
    },
    Typed(u16),
}

#[derive(Clone, Debug)]
struct Said4 {
    operation: u8,
    chaddr: Mac,
    ciaddr: Ipv4Addr,
    giaddr: Ipv4Addr,
}

/// How it is packed: extension headers in front, a fragment header or flag, a wrapping.
#[derive(Clone, Debug)]
struct Packing {
    extensions: usize,
    fragmented: bool,
    wrapped: Option<u8>,
}

#[derive(Clone, Debug)]
struct Case {
    spec: GuardSpec,
    src: Mac,
    dst: Mac,
    said: Said,
    packing: Packing,
}

fn mac() -> impl Strategy<Value = Mac> {
    // Mostly the port's own, so that much gets far.
    prop_oneof![
        6 => Just(OWN),
        1 => Just(OTHER),
        1 => Just(GATEWAY),
        1 => Just(Mac::BROADCAST),
        1 => Just(Mac::default()),
    ]
}

fn v4() -> impl Strategy<Value = Ipv4Addr> {
    prop_oneof![
        5 => Just(OWN4),
        2 => Just(ZERO4),
        1 => Just(OTHER4),
        1 => Just(Ipv4Addr::LOCALHOST),
        1 => Just(Ipv4Addr::new(224, 0, 0, 1)),
        1 => Just(Ipv4Addr::BROADCAST),
    ]
}

fn v6() -> impl Strategy<Value = Ipv6Addr> {
    prop_oneof![
        4 => Just(OWN6),
        4 => Just(OWN_LINK),
        3 => Just(ZERO6),
        1 => Just(OTHER6),
        1 => Just(OTHER_LINK),
        1 => Just(Ipv6Addr::LOCALHOST),
        1 => Just(ALL_NODES6),
    ]
}

fn port_number() -> impl Strategy<Value = u16> {
    prop::sample::select(vec![67, 68, 546, 547, 53])
}

fn said() -> impl Strategy<Value = Said> {
    let message = (
        1..4u8,
        mac(),
        v4(),
        prop_oneof![6 => Just(ZERO4), 1 => v4()],
    )
        .prop_map(|(operation, chaddr, ciaddr, giaddr)| Said4 {
            operation,
            chaddr,
            ciaddr,
            giaddr,
        });
    let hops = || prop_oneof![6 => Just(255u8), 1 => Just(64)];
    prop_oneof![
        (1..4u16, mac(), v4(), mac(), v4()).prop_map(|(operation, sha, spa, tha, tpa)| Said::Arp {
            operation,
            sha,
            spa,
            tha,
            tpa
        }),
        (
            prop::sample::select(vec![135u8, 136]),
            hops(),
            v6(),
            v6(),
            any::<bool>(),
            prop::collection::vec((1..4u8, mac()), 0..3)
        )
            .prop_map(
                |(kind, hops, src, target, to_group, options)| Said::Neighbour {
                    kind,
                    hops,
                    src,
                    dst: if to_group {
                        solicited(target)
                    } else {
                        ALL_NODES6
                    },
                    target,
                    options,
                }
            ),
        (hops(), v6(), mac()).prop_map(|(hops, src, mac)| Said::Router { hops, src, mac }),
        (v4(), v4(), (port_number(), port_number()), message).prop_map(
            |(src, dst, ports, message)| Said::Udp4 {
                src,
                dst,
                ports,
                message
            }
        ),
        (v6(), (port_number(), port_number()), 1..14u8).prop_map(|(src, ports, kind)| Said::Udp6 {
            src,
            ports,
            kind
        }),
        prop::sample::select(vec![0x88cc, 0x8808, 0x88b5, 0x8847]).prop_map(Said::Typed),
    ]
}

fn case() -> impl Strategy<Value = Case> {
    let mac_spec = prop::sample::select(vec![
        MacSpec::Sticky,
        MacSpec::Declared(vec![OWN]),
        MacSpec::Any,
    ]);
    let ip_spec = prop::sample::select(vec![IpSpec::Any, addresses(), IpSpec::Dhcp]);
    let may = any::<[bool; 3]>().prop_map(|[dhcp_server, router, link_protocols]| May {
        dhcp_server,
        router,
        link_protocols,
    });
    let packing = (
        prop_oneof![3 => Just(0usize), 1 => 1..10usize],
        prop_oneof![4 => Just(false), 1 => Just(true)],
        prop_oneof![6 => Just(None), 1 => (0..4u8).prop_map(Some)],
    )
        .prop_map(|(extensions, fragmented, wrapped)| Packing {
            extensions,
            fragmented,
            wrapped,
        });
    (
        (mac_spec, ip_spec, may),
        prop_oneof![9 => Just(OWN), 1 => Just(OTHER)],
        mac(),
        said(),
        packing,
    )
        .prop_map(|((mac, ip, may), src, dst, said, packing)| Case {
            spec: GuardSpec {
                mac,
                ip,
                may,
                max_leases: 4,
                addressing_per_second: 0,
            },
            src,
            dst,
            said,
            packing,
        })
}

impl Case {
    fn bytes(&self) -> Vec<u8> {
        let (ethertype, packet) = self.packet();
        let typed = [&ethertype.to_be_bytes()[..], &packet].concat();
        let snap = [&[0xaa, 0xaa, 3, 0, 0, 0][..], &typed].concat();
        let body = match self.packing.wrapped {
            None => typed,
            Some(0) => [&[0x81, 0, 0, 0][..], &typed].concat(),
            Some(1) => [&[0x81, 0, 0, 1, 0x81, 0, 0, 1][..], &typed].concat(),
            Some(2) => [&[0x88, 0xa8, 0, 1][..], &typed].concat(),
            Some(_) => [&(snap.len() as u16).to_be_bytes()[..], &snap].concat(),
        };
        [&self.dst.octets()[..], &self.src.octets(), &body].concat()
    }

    fn packet(&self) -> (u16, Vec<u8>) {
        let v4_flags = if self.packing.fragmented { 0x2000 } else { 0 };
        match &self.said {
            Said::Arp {
                operation,
                sha,
                spa,
                tha,
                tpa,
            } => (0x0806, arp(*operation, *sha, *spa, *tha, *tpa)),
            Said::Neighbour {
                kind,
                hops,
                src,
                dst,
                target,
                options,
            } => {
                let options: Vec<u8> = options
                    .iter()
                    .flat_map(|(kind, mac)| option(*kind, *mac))
                    .collect();
                let message = neighbour(*kind, *target, &options);
                (0x86dd, self.over_v6(*src, *dst, 58, *hops, &message))
            }
            Said::Router { hops, src, mac } => {
                let message = advertising(*mac);
                (0x86dd, self.over_v6(*src, ALL_NODES6, 58, *hops, &message))
            }
            Said::Udp4 {
                src,
                dst,
                ports,
                message,
            } => {
                let message = Message {
                    operation: message.operation,
                    chaddr: message.chaddr,
                    ciaddr: message.ciaddr,
                    giaddr: message.giaddr,
                    ..ASK
                };
                let datagram = udp(ports.0, ports.1, &message.with(&[&[53, 1, 3]]));
                (0x0800, ipv4_with(*src, *dst, 17, &[], v4_flags, &datagram))
            }
            Said::Udp6 { src, ports, kind } => {
                let datagram = udp(ports.0, ports.1, &[*kind, 1, 2, 3]);
                (0x86dd, self.over_v6(*src, GATEWAY6, 17, 64, &datagram))
            }
            Said::Typed(number) => (*number, vec![0; 46]),
        }
    }

    fn over_v6(&self, src: Ipv6Addr, dst: Ipv6Addr, kind: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
        let (first, payload) = if self.packing.fragmented {
            (44, [&fragment(kind, 0, true)[..], payload].concat())
        } else {
            (kind, payload.to_vec())
        };
        let (next, payload) = behind(self.packing.extensions, 60, first, &payload);
        ipv6(src, dst, next, hops, &payload)
    }

    fn is_v6(&self) -> bool {
        matches!(
            self.said,
            Said::Neighbour { .. } | Said::Router { .. } | Said::Udp6 { .. }
        )
    }

    /// Whether it passes: the rules one after the other, as the documentation has them.
    fn passes(&self) -> bool {
        let spec = &self.spec;
        let may = spec.may;
        let any_mac = spec.mac == MacSpec::Any;
        let any_ip = spec.ip == IpSpec::Any;
        if any_mac && any_ip && may.dhcp_server && may.router && may.link_protocols {
            return true;
        }
        if !any_mac && self.src != OWN || self.packing.wrapped.is_some() {
            return false;
        }
        // Two fragment headers are one extension header too many at most.
        let headers = self.packing.extensions + usize::from(self.packing.fragmented);
        if self.is_v6() && headers > 8 {
            return false;
        }
        match &self.said {
            Said::Arp { .. } => any_mac && any_ip || self.arp_passes(),
            Said::Neighbour { kind, src, .. } => {
                let is_source_good = self.source6(*src) || *src == ZERO6 && *kind == 135;
                !self.packing.fragmented
                    && is_source_good
                    && (any_mac && any_ip || self.neighbour_passes())
            }
            Said::Router { hops, src, mac } => {
                may.router
                    && !self.packing.fragmented
                    && self.source6(*src)
                    && (any_mac && any_ip
                        || *hops == 255 && [OWN_LINK, OTHER_LINK].contains(src) && *mac == self.src)
            }
            Said::Udp4 {
                src, dst, ports, ..
            } => {
                let is_server = ports.0 == 67 || ports.1 == 68;
                let is_client = !is_server && (ports.0 == 68 || ports.1 == 67);
                let is_first = *src == ZERO4 && *dst == Ipv4Addr::BROADCAST && is_client;
                let is_source_good = is_first || self.source4(*src);
                let is_role_good = may.dhcp_server
                    || !is_server && !is_client
                    || is_client && !self.packing.fragmented && self.client_passes();
                is_source_good && is_role_good
            }
            Said::Udp6 { src, ports, kind } => {
                let is_server = ports.0 == 547 || ports.1 == 546;
                let is_client = !is_server && (ports.0 == 546 || ports.1 == 547);
                let is_servers = [2, 7, 10, 12, 13].contains(kind);
                self.source6(*src)
                    && (may.dhcp_server
                        || !is_server && !is_client
                        || is_client && !self.packing.fragmented && !is_servers)
            }
            Said::Typed(0x88cc | 0x8808) => may.link_protocols,
            Said::Typed(_) => any_ip,
        }
    }

    fn owns4(&self, address: Ipv4Addr) -> bool {
        match self.spec.ip {
            IpSpec::Any => true,
            IpSpec::Declared(_) => address == OWN4,
            IpSpec::Dhcp => address == OWN4 && self.src == OWN,
        }
    }

    fn owns6(&self, address: Ipv6Addr) -> bool {
        let is_link =
            (self.src, address) == (OWN, OWN_LINK) || (self.src, address) == (OTHER, OTHER_LINK);
        match self.spec.ip {
            IpSpec::Any => true,
            IpSpec::Declared(_) => address == OWN6 || is_link,
            IpSpec::Dhcp => address == OWN6 && self.src == OWN || is_link,
        }
    }

    fn source4(&self, address: Ipv4Addr) -> bool {
        [OWN4, OTHER4].contains(&address) && self.owns4(address)
    }

    fn source6(&self, address: Ipv6Addr) -> bool {
        [OWN6, OTHER6, OWN_LINK, OTHER_LINK].contains(&address) && self.owns6(address)
    }

    fn arp_passes(&self) -> bool {
        let Said::Arp {
            operation,
            sha,
            spa,
            tha,
            tpa,
        } = &self.said
        else {
            return false;
        };
        let is_answer_good = [self.dst, *sha, Mac::BROADCAST, Mac::default()].contains(tha);
        *sha == self.src
            && match operation {
                1 => self.source4(*spa) || *spa == ZERO4 && self.owns4(*tpa),
                2 => self.source4(*spa) && is_answer_good,
                _ => false,
            }
    }

    fn neighbour_passes(&self) -> bool {
        let Said::Neighbour {
            kind,
            hops,
            src,
            dst,
            target,
            options,
        } = &self.said
        else {
            return false;
        };
        let are_options_good = options.iter().all(|(kind, mac)| match kind {
            1 => *mac == self.src && *src != ZERO6,
            2 => *mac == self.src,
            _ => true,
        });
        let is_unicast = *target != ALL_NODES6;
        let is_target_good = match (*kind, *src == ZERO6) {
            (135, true) => self.owns6(*target) && *dst == solicited(*target),
            (135, false) => is_unicast,
            (_, true) => false,
            (_, false) => self.owns6(*target) && is_unicast,
        };
        *hops == 255 && are_options_good && is_target_good
    }

    fn client_passes(&self) -> bool {
        let Said::Udp4 { message, .. } = &self.said else {
            return false;
        };
        let any_mac = self.spec.mac == MacSpec::Any;
        let any_ip = self.spec.ip == IpSpec::Any;
        let is_named = message.chaddr == self.src || any_mac && any_ip;
        let is_address_good = message.ciaddr == ZERO4 || self.owns4(message.ciaddr);
        message.operation == 1 && message.giaddr == ZERO4 && is_named && is_address_good
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn the_guard_judges_as_the_reference_does(case in case()) {
        let port = Port::new(&case.spec);
        // As if it had been heard before, and had leases.
        if case.spec.mac == MacSpec::Sticky {
            port.state.keep(OWN);
        }
        for address in [OWN4.into(), OWN6.into()] {
            let grant = Change::Granted { address, seconds: u32::MAX };
            port.state.apply(grant, Binding { client: OWN, vid: 1 }, 4, port.now);
        }
        let judged = port.judge(&case.bytes());
        prop_assert_eq!(judged.is_ok(), case.passes(), "{:?}", judged);
    }
}
