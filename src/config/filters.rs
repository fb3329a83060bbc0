//! Ready-made lists, by the names and with the meaning of libvirt's network filters.
//!
//! What those filters say of a guest's own addresses (`$MAC`, `$IP`) is port security here: such a list has no rules and
//! asks for the guard. What they accept and drop are rules. They know no connections: a rule matches whatever the state,
//! and opens none.
//!
//! Two things differ, and are said in docs/configuration.md: a list ends in deny here, so that `allow-...` lists carry
//! nothing but what they name, and an address that is not declared is taken from leases, not learned from the first packet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::shared::Parameters;
use super::terms::RARP;
use crate::frame::ethernet::ethertype;
use crate::frame::{Mac, protocol};
use crate::policy::rule::{Action, Kind, Rule, Who};
use crate::policy::subject::{Family, State};

/// Their names.
pub(super) const NAMES: [&str; 24] = [
    "allow-arp",
    "allow-dhcp",
    "allow-dhcp-server",
    "allow-dhcpv6",
    "allow-dhcpv6-server",
    "allow-incoming-ipv4",
    "allow-incoming-ipv6",
    "allow-ipv4",
    "allow-ipv6",
    "clean-traffic",
    "clean-traffic-gateway",
    "no-arp-ip-spoofing",
    "no-arp-mac-spoofing",
    "no-arp-spoofing",
    "no-ip-multicast",
    "no-ip-spoofing",
    "no-ipv6-multicast",
    "no-ipv6-spoofing",
    "no-mac-broadcast",
    "no-mac-spoofing",
    "no-other-l2-traffic",
    "no-other-rarp-traffic",
    "qemu-announce-self",
    "qemu-announce-self-rarp",
];

/// Where their rules were written, for people.
pub(super) const ORIGIN: &str = "ready-made";

/// The announcement that old QEMU sends after a migration, with a slip in its EtherType.
const QEMU_ANNOUNCE: u16 = 0x0835;

/// A ready-made list.
#[derive(Debug, Default)]
pub(super) struct Filter {
    /// What the guest may send; `None` where the filter says nothing.
    pub(super) outbound: Option<Vec<Rule>>,
    /// What it may receive.
    pub(super) inbound: Option<Vec<Rule>>,
    /// Whether the guest's own MAC is to be guarded.
    pub(super) guards_mac: bool,
    /// Whether its own IP addresses are.
    pub(super) guards_ip: bool,
    /// Whether it only refuses, and says nothing of the rest.
    pub(super) takes_away: bool,
}

/// What `name` asks for: a key, and how to say it.
pub(super) fn parameter_of(name: &str) -> (&'static str, &'static str) {
    match name {
        "clean-traffic-gateway" => ("gateway_mac", "add gateway_mac = \"52:54:00:12:34:56\""),
        "allow-dhcpv6-server" => (
            "dhcp_servers",
            "add dhcp_servers = [...] with an IPv6 address",
        ),
        _ => (
            "dhcp_servers",
            "add dhcp_servers = [...] with an IPv4 address",
        ),
    }
}

/// The list of that name; `None` when there is none, or when `parameters` lacks what it needs.
pub(super) fn ready_made(name: &str, parameters: &Parameters) -> Option<Filter> {
    let arp = Kind::EtherType(ethertype::ARP);
    Some(match name {
        "allow-arp" => both(allow(arp)),
        "allow-ipv4" => both(allow(V4)),
        "allow-ipv6" => both(allow(V6)),
        "allow-incoming-ipv4" => inbound(vec![allow(V4)]),
        "allow-incoming-ipv6" => inbound(vec![allow(V6)]),
        "allow-dhcp" => dhcp(Family::V4, Vec::new()),
        "allow-dhcpv6" => dhcp(Family::V6, Vec::new()),
        "allow-dhcp-server" => dhcp(Family::V4, servers(parameters, Family::V4)?),
        "allow-dhcpv6-server" => dhcp(Family::V6, servers(parameters, Family::V6)?),
        "no-mac-spoofing" | "no-arp-mac-spoofing" => guard(true, false),
        "no-ip-spoofing" | "no-ipv6-spoofing" | "no-arp-ip-spoofing" => guard(false, true),
        "no-arp-spoofing" => guard(true, true),
        "no-ip-multicast" => refuse(
            V4,
            Who::Prefix(prefix(Ipv4Addr::new(224, 0, 0, 0).into(), 4)),
        ),
        "no-ipv6-multicast" => {
            let group = Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0);
            refuse(V6, Who::Prefix(prefix(group.into(), 8)))
        }
        "no-mac-broadcast" => refuse(V4, Who::Mac(Mac::BROADCAST)),
        "no-other-l2-traffic" => both(deny(Kind::Any)).taking_away(),
        "no-other-rarp-traffic" => both(deny(Kind::EtherType(RARP))).taking_away(),
        "qemu-announce-self-rarp" => outbound(vec![announce()]),
        "qemu-announce-self" => announce_self(),
        "clean-traffic" => clean_traffic(),
        "clean-traffic-gateway" => clean_traffic_gateway(parameters)?,
        _ => return None,
    })
}

const V4: Kind = Kind::Ip {
    family: Some(Family::V4),
    protocol: None,
};
const V6: Kind = Kind::Ip {
    family: Some(Family::V6),
    protocol: None,
};

impl Filter {
    fn taking_away(self) -> Self {
        Self {
            takes_away: true,
            ..self
        }
    }
}

fn rule(action: Action, kind: Kind) -> Rule {
    Rule {
        origin: ORIGIN.to_owned(),
        kind,
        stateless: action == Action::Allow,
        states: super::terms::STATES.map(|(_, state)| state).to_vec(),
        ..Rule::any(action)
    }
}

fn allow(kind: Kind) -> Rule {
    rule(Action::Allow, kind)
}

/// What refuses everything refuses no answer of a connection that a rule before it let open.
fn deny(kind: Kind) -> Rule {
    let mut rule = rule(Action::Deny, kind);
    if kind == Kind::Any {
        rule.states
            .retain(|state| !matches!(state, State::Established | State::Related));
    }
    rule
}

fn both(rule: Rule) -> Filter {
    Filter {
        outbound: Some(vec![rule.clone()]),
        inbound: Some(vec![rule]),
        ..Filter::default()
    }
}

fn outbound(rules: Vec<Rule>) -> Filter {
    Filter {
        outbound: Some(rules),
        ..Filter::default()
    }
}

fn inbound(rules: Vec<Rule>) -> Filter {
    Filter {
        inbound: Some(rules),
        ..Filter::default()
    }
}

fn guard(guards_mac: bool, guards_ip: bool) -> Filter {
    Filter {
        guards_mac,
        guards_ip,
        ..Filter::default()
    }
}

/// Nothing of `kind` towards `to`; the receiving side is left alone.
fn refuse(kind: Kind, to: Who) -> Filter {
    outbound(vec![Rule {
        to: vec![to],
        ..deny(kind)
    }])
    .taking_away()
}

/// Requests of a client, and answers of `from`; of anybody when it is empty.
fn dhcp(family: Family, from: Vec<Who>) -> Filter {
    let udp = Kind::Ip {
        family: Some(family),
        protocol: Some(protocol::UDP),
    };
    let (client, server, src, dst) = match family {
        Family::V4 => {
            let (src, dst) = (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST);
            (68, 67, prefix(src.into(), 32), prefix(dst.into(), 32))
        }
        Family::V6 => {
            let link_local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0);
            let relays = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
            (
                546,
                547,
                prefix(link_local.into(), 10),
                prefix(relays.into(), 128),
            )
        }
    };
    let request = Rule {
        from: vec![Who::Prefix(src)],
        to: vec![Who::Prefix(dst)],
        source_port: vec![client..=client],
        port: vec![server..=server],
        ..allow(udp)
    };
    let answer = Rule {
        from,
        source_port: vec![server..=server],
        port: vec![client..=client],
        ..allow(udp)
    };
    Filter {
        inbound: Some(vec![answer]),
        ..outbound(vec![request])
    }
}

fn servers(parameters: &Parameters, family: Family) -> Option<Vec<Who>> {
    let of_family = |server: &&IpAddr| server.is_ipv4() == (family == Family::V4);
    let servers = parameters.dhcp_servers.iter().filter(of_family);
    let servers: Vec<Who> = servers
        .map(|server| Who::Prefix(IpNet::from(*server)))
        .collect();
    (!servers.is_empty()).then_some(servers)
}

/// QEMU's announcement after a migration, as RARP to everybody; whose address it carries is the guard's affair.
fn announce() -> Rule {
    Rule {
        to: vec![Who::Mac(Mac::BROADCAST)],
        ..allow(Kind::EtherType(RARP))
    }
}

fn announce_self() -> Filter {
    let other = deny(Kind::EtherType(RARP));
    Filter {
        inbound: Some(vec![other.clone()]),
        ..outbound(vec![
            announce(),
            other,
            allow(Kind::EtherType(QEMU_ANNOUNCE)),
        ])
    }
}

/// IPv4 and ARP both ways in the guest's own name, and nothing else.
fn clean_traffic() -> Filter {
    let mut filter = announce_self();
    let arp = Kind::EtherType(ethertype::ARP);
    for rules in [&mut filter.outbound, &mut filter.inbound]
        .into_iter()
        .flatten()
    {
        rules.splice(0..0, [allow(V4), allow(arp)]);
        rules.push(deny(Kind::Any));
    }
    Filter {
        guards_mac: true,
        guards_ip: true,
        ..filter
    }
}

/// ARP with everybody, all else with the gateway only.
fn clean_traffic_gateway(parameters: &Parameters) -> Option<Filter> {
    let gateways: Vec<Who> = parameters.gateways.iter().copied().map(Who::Mac).collect();
    if gateways.is_empty() {
        return None;
    }
    let mut filter = announce_self();
    let arp = Kind::EtherType(ethertype::ARP);
    let towards = Rule {
        to: gateways.clone(),
        ..allow(Kind::Any)
    };
    let of = Rule {
        from: gateways,
        ..allow(Kind::Any)
    };
    for (rules, of_gateway) in [(&mut filter.outbound, towards), (&mut filter.inbound, of)] {
        let Some(rules) = rules else { continue };
        rules.insert(0, allow(arp));
        rules.extend([of_gateway, deny(Kind::Any)]);
    }
    Some(Filter {
        guards_mac: true,
        guards_ip: true,
        ..filter
    })
}

/// The lengths here are constants within their family's.
fn prefix(address: IpAddr, len: u8) -> IpNet {
    IpNet::new(address, len).unwrap_or_else(|_| IpNet::from(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters() -> Parameters {
        Parameters {
            gateways: vec!["52:54:00:00:00:01".parse().unwrap()],
            dhcp_servers: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        }
    }

    #[test]
    fn every_name_has_its_list_and_no_other() {
        for name in NAMES {
            let filter = ready_made(name, &parameters()).unwrap();
            let is_empty = filter.outbound.is_none() && filter.inbound.is_none();
            assert_eq!(is_empty, name.ends_with("-spoofing"), "{name}");
            assert_eq!(
                filter.guards_ip || filter.guards_mac,
                is_empty || name.starts_with("clean"),
                "{name}"
            );
        }
        assert!(ready_made("web", &parameters()).is_none());
    }

    #[test]
    fn what_a_list_needs_is_asked_for() {
        for name in NAMES {
            let needs = ready_made(name, &Parameters::default()).is_none();
            let expected = name.ends_with("-server") || name.ends_with("-gateway");
            assert_eq!(needs, expected, "{name}");
        }
    }

    #[test]
    fn clean_traffic_in_order() {
        let filter = clean_traffic();
        let kinds = |rules: &Option<Vec<Rule>>| -> Vec<(Action, Kind)> {
            rules
                .iter()
                .flatten()
                .map(|rule| (rule.action, rule.kind))
                .collect()
        };
        let ether = Kind::EtherType;
        assert_eq!(
            kinds(&filter.outbound),
            [
                (Action::Allow, V4),
                (Action::Allow, ether(0x0806)),
                (Action::Allow, ether(0x8035)),
                (Action::Deny, ether(0x8035)),
                (Action::Allow, ether(0x0835)),
                (Action::Deny, Kind::Any),
            ]
        );
        assert_eq!(
            kinds(&filter.inbound),
            [
                (Action::Allow, V4),
                (Action::Allow, ether(0x0806)),
                (Action::Deny, ether(0x8035)),
                (Action::Deny, Kind::Any),
            ]
        );
    }
}
