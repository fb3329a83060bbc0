//! Ports whose addresses are those of their leases, and that can get none.
//!
//! A request goes to everybody and opens no connection, so that it needs a rule that lets it out and another that lets the answer
//! in. Told is only what is certain: that no rule of the port's lists could be about it, whatever stands before, and that over
//! IPv6 it is the same.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::Fault;
use super::notes::note;
use super::spec::SwitchSpec;
use crate::frame::ethernet::ethertype;
use crate::frame::protocol;
use crate::policy::rule::{Action, Kind, Rule, Who};
use crate::policy::spec::IpSpec;
use crate::policy::subject::{Family, State};

/// One of the packets without which there is no lease.
struct Packet {
    family: Family,
    source_port: u16,
    port: u16,
    /// Where they are the same for every guest and server.
    src: Option<IpAddr>,
    dst: Option<IpAddr>,
}

const REQUEST: Packet = Packet {
    family: Family::V4,
    source_port: 68,
    port: 67,
    src: Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
    dst: Some(IpAddr::V4(Ipv4Addr::BROADCAST)),
};
const ANSWER: Packet = Packet {
    family: Family::V4,
    source_port: 67,
    port: 68,
    src: None,
    dst: None,
};
const REQUEST_V6: Packet = Packet {
    family: Family::V6,
    source_port: 546,
    port: 547,
    src: None,
    dst: Some(IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2))),
};
const ANSWER_V6: Packet = Packet {
    family: Family::V6,
    source_port: 547,
    port: 546,
    src: None,
    dst: None,
};

impl Packet {
    fn may_pass(&self, rules: &[Rule]) -> bool {
        rules.iter().any(|rule| self.may_be_allowed(rule))
    }

    fn may_be_allowed(&self, rule: &Rule) -> bool {
        let is_of_kind = match rule.kind {
            Kind::Any => true,
            Kind::Llc => false,
            Kind::EtherType(number) => match self.family {
                Family::V4 => number == ethertype::IPV4,
                Family::V6 => number == ethertype::IPV6,
            },
            Kind::Ip { family, protocol } => {
                family.is_none_or(|family| family == self.family)
                    && protocol.is_none_or(|number| number == protocol::UDP)
            }
        };
        let is_fresh = |state: &State| matches!(state, State::New | State::Untracked);
        rule.action == Action::Allow
            && is_of_kind
            && (rule.states.is_empty() || rule.states.iter().any(is_fresh))
            && is_among(&rule.source_port, |range| range.contains(&self.source_port))
            && is_among(&rule.port, |range| range.contains(&self.port))
            && is_among(&rule.from, |who| self.may_be(who, self.src))
            && is_among(&rule.to, |who| self.may_be(who, self.dst))
    }

    fn may_be(&self, who: &Who, address: Option<IpAddr>) -> bool {
        match (who, address) {
            (Who::Ports(ports), _) => !ports.is_empty(),
            (Who::Mac(_), _) => true,
            (Who::Prefix(prefix), Some(address)) => prefix.contains(&address),
            (Who::Prefix(prefix), None) => prefix.addr().is_ipv4() == (self.family == Family::V4),
        }
    }
}

/// Alternatives, of which none is no condition.
fn is_among<T>(alternatives: &[T], is: impl Fn(&T) -> bool) -> bool {
    alternatives.is_empty() || alternatives.iter().any(is)
}

/// What may pass a list: the packet over IPv4, and over IPv6.
type Passes = [bool; 2];

/// Ports that wait for leases that their lists keep from them.
pub(super) fn unreachable(spec: &SwitchSpec, notes: &mut Vec<Fault>) {
    let mut known: HashMap<(*const Rule, bool), Passes> = HashMap::new();
    let mut passes = |list: &Option<Arc<[Rule]>>, is_outbound: bool| -> Passes {
        let Some(rules) = list else {
            return [!spec.default_deny; 2];
        };
        let packets = if is_outbound {
            [REQUEST, REQUEST_V6]
        } else {
            [ANSWER, ANSWER_V6]
        };
        // An empty list has no address of its own, and is soon read.
        let found = || packets.map(|packet| packet.may_pass(rules));
        if rules.is_empty() {
            return found();
        }
        *known
            .entry((rules.as_ptr(), is_outbound))
            .or_insert_with(found)
    };
    for port in &spec.ports {
        if port.guard.ip != IpSpec::Dhcp {
            continue;
        }
        let ([out4, out6], [in4, in6]) =
            (passes(&port.outbound, true), passes(&port.inbound, false));
        if out4 && in4 || out6 && in6 {
            continue;
        }
        let out = "{ allow = \"udp\", source_port = 68, port = 67 } to outbound rules";
        let back = "{ allow = \"udp\", source_port = 67, port = 68 } to inbound rules";
        let (what, remedy) = match (out4, in4) {
            (false, false) => (
                "requests out, or answers in",
                format!("add {out} of the port and {back}"),
            ),
            (false, true) => ("requests out", format!("add {out} of the port")),
            _ => ("answers in", format!("add {back} of the port")),
        };
        let problem =
            format!("\"dhcp\", and no rule lets {what}: the guest gets no address by DHCP");
        notes.push(note(
            port.ip_origin.as_ref().unwrap_or(&port.origin).clone(),
            format!("port {:?}: ip", port.name),
            problem,
            &remedy,
        ));
    }
}
