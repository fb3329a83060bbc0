//! Lists once more, slow and obvious: one rule after the other, on the frame itself. What the classifier is held against.
//!
//! Written from the prose of [`rule`](super::rule) and of [`acl`](super::acl), and independent of how a
//! [`Subject`](super::subject::Subject) is packed and of how rules are compiled.

use std::ops::RangeInclusive;

use ipnet::IpNet;

use crate::counters::PortId;
use crate::frame::ethernet::ethertype;
use crate::frame::{Frame, Layers, Network, Transport, protocol};

use super::rule::{Action, Decision, Direction, Kind, Rule, RuleId, Who};
use super::subject::{Family, State};

/// What can be said of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Truth {
    Fails,
    /// What it asks for could not be read.
    Open,
    Holds,
}

use Truth::{Fails, Holds, Open};

impl From<bool> for Truth {
    fn from(holds: bool) -> Self {
        if holds { Holds } else { Fails }
    }
}

/// Where a frame is met: the list's own port and the other one, the segment and the state of its connection.
#[derive(Clone, Copy, Debug)]
pub struct Meeting {
    /// Whose list it is.
    pub own: PortId,
    /// The sender for an inbound list, the receiver for an outbound one.
    pub peer: PortId,
    /// Which of them it is.
    pub direction: Direction,
    /// The segment.
    pub vid: u16,
    /// The state.
    pub state: State,
}

/// The first rule that matches the frame.
pub fn judge(rules: &[(RuleId, &Rule)], meeting: Meeting, frame: &Frame<'_>) -> Option<Decision> {
    let packet = Packet::of(frame);
    let matching =
        rules.iter().find(
            |(_, rule)| match (packet.meets(rule, meeting), rule.action) {
                (Holds, _) => true,
                (Open, Action::Allow) | (Fails, _) => false,
                (Open, Action::Deny | Action::Reject) => true,
            },
        );
    matching.map(|(id, rule)| Decision {
        action: rule.action,
        rule: Some(*id),
    })
}

struct Packet<'a> {
    frame: &'a Frame<'a>,
    layers: Layers<'a>,
    /// What its EtherType says.
    announced: Option<Family>,
    /// Whether there is an IP header to read.
    has_header: bool,
}

impl<'a> Packet<'a> {
    fn of(frame: &'a Frame<'a>) -> Self {
        let layers = frame.layers();
        Self {
            frame,
            layers,
            announced: match frame.ethertype() {
                ethertype::IPV4 => Some(Family::V4),
                ethertype::IPV6 => Some(Family::V6),
                _ => None,
            },
            has_header: matches!(layers.network, Network::Ipv4(_) | Network::Ipv6(_)),
        }
    }

    fn meets(&self, rule: &Rule, meeting: Meeting) -> Truth {
        let (sender, receiver) = match meeting.direction {
            Direction::Outbound => (meeting.own, meeting.peer),
            Direction::Inbound => (meeting.peer, meeting.own),
        };
        let conditions = [
            self.kind(rule),
            self.protocol(rule),
            self.layer_4(rule),
            self.side(&rule.from, sender, true),
            self.side(&rule.to, receiver, false),
            vlan(rule, meeting.vid),
            state(rule, meeting.state),
        ];
        // All of them: as true as the least true.
        conditions.into_iter().min().unwrap_or(Holds)
    }

    fn kind(&self, rule: &Rule) -> Truth {
        let number = self.frame.ethertype();
        match rule.kind {
            Kind::Any => Holds,
            Kind::Llc => Truth::from(number < ethertype::FIRST),
            Kind::EtherType(wanted) => Truth::from(number >= ethertype::FIRST && number == wanted),
            Kind::Ip { family, .. } => match self.announced {
                None => Fails,
                Some(announced) if family.is_some_and(|family| family != announced) => Fails,
                Some(_) if !self.has_header => Open,
                Some(_) => Holds,
            },
        }
    }

    /// The protocol: the one that the rule names, and one that has what it asks for.
    fn protocol(&self, rule: &Rule) -> Truth {
        let named = match rule.kind {
            Kind::Ip { protocol, .. } => protocol,
            _ => None,
        };
        if named.is_none() && !rule.reads_layer_4() {
            return Holds;
        }
        let Some(family) = self.announced else {
            return Fails;
        };
        let has_ports = !rule.port.is_empty() || !rule.source_port.is_empty();
        let icmp = match family {
            Family::V4 => protocol::ICMP,
            Family::V6 => protocol::ICMPV6,
        };
        let suits = |number: u8| {
            named.is_none_or(|named| named == number)
                && (!has_ports || number == protocol::TCP || number == protocol::UDP)
                && (rule.flags.is_none() || number == protocol::TCP)
                && (rule.icmp.is_empty() || number == icmp)
        };
        match self.layers.protocol {
            Some(number) => Truth::from(suits(number)),
            None if (0..=u8::MAX).any(suits) => Open,
            None => Fails,
        }
    }

    fn layer_4(&self, rule: &Rule) -> Truth {
        let is_later = self.layers.fragment.is_some_and(|part| part.offset != 0);
        let is_waived = rule.action == Action::Allow && rule.fragments && is_later;
        let is_void = |ranges: &[RangeInclusive<u16>]| {
            !ranges.is_empty() && ranges.iter().all(RangeInclusive::is_empty)
        };
        if is_void(&rule.port) || is_void(&rule.source_port) {
            return Fails;
        }
        if is_waived && self.layers.protocol.is_some() {
            return Holds;
        }
        let (src, dst) = match self.layers.transport {
            Transport::Tcp(tcp) => (Some(tcp.src_port()), Some(tcp.dst_port())),
            Transport::Udp(udp) => (Some(udp.src_port()), Some(udp.dst_port())),
            _ => (None, None),
        };
        let icmp = match self.layers.transport {
            Transport::Icmp(icmp) | Transport::Icmpv6(icmp) => Some((icmp.kind(), icmp.code())),
            _ => None,
        };
        let flags = match self.layers.transport {
            Transport::Tcp(tcp) => Some(tcp.flags()),
            _ => None,
        };
        let types =
            match icmp {
                _ if rule.icmp.is_empty() => Holds,
                None => Open,
                Some((kind, code)) => Truth::from(rule.icmp.iter().any(|(wanted, with)| {
                    *wanted == kind && with.is_none_or(|wanted| wanted == code)
                })),
            };
        let bits = match (rule.flags, flags) {
            (None, _) => Holds,
            (Some(_), None) => Open,
            (Some(wanted), Some(flags)) => {
                Truth::from(flags & wanted.mask == wanted.value & wanted.mask)
            }
        };
        let src = one_of(&rule.source_port, src);
        let dst = one_of(&rule.port, dst);
        types.min(bits).min(src).min(dst)
    }

    fn side(&self, who: &[Who], port: PortId, is_sender: bool) -> Truth {
        if who.is_empty() {
            return Holds;
        }
        let each = who.iter().map(|who| match who {
            Who::Ports(set) => Truth::from(set.contains(port)),
            Who::Mac(mac) if is_sender => Truth::from(self.frame.src() == *mac),
            Who::Mac(mac) => Truth::from(self.frame.dst() == *mac),
            Who::Prefix(prefix) => self.within(prefix, is_sender),
        });
        // One of them: as true as the most true.
        each.max().unwrap_or(Fails)
    }

    fn within(&self, prefix: &IpNet, is_sender: bool) -> Truth {
        let family = match prefix {
            IpNet::V4(_) => Family::V4,
            IpNet::V6(_) => Family::V6,
        };
        if self.announced != Some(family) {
            return Fails;
        }
        let (src, dst) = match self.layers.network {
            Network::Ipv4(ip) => (ip.src().into(), ip.dst().into()),
            Network::Ipv6(ip) => (ip.src().into(), ip.dst().into()),
            _ => return Open,
        };
        let address: std::net::IpAddr = if is_sender { src } else { dst };
        Truth::from(prefix.contains(&address))
    }
}

/// Whether a port is in one of the ranges, of which an empty list asks nothing.
fn one_of(ranges: &[RangeInclusive<u16>], port: Option<u16>) -> Truth {
    match port {
        _ if ranges.is_empty() => Holds,
        Some(port) => Truth::from(ranges.iter().any(|range| range.contains(&port))),
        None => Open,
    }
}

fn vlan(rule: &Rule, vid: u16) -> Truth {
    Truth::from(rule.vlan.is_empty() || rule.vlan.iter().any(|range| range.contains(&vid)))
}

fn state(rule: &Rule, state: State) -> Truth {
    Truth::from(if rule.states.is_empty() {
        matches!(state, State::New | State::Untracked)
    } else {
        rule.states.contains(&state)
    })
}
