//! What is allowed and may not be what was meant. Notes refuse nothing: `check` shows them, and a switch logs them.

use std::collections::HashSet;

use ipnet::IpNet;

use super::leased;
use super::raw::Named;
use super::spec::{PortSpec, SwitchSpec};
use super::who::Names;
use super::{Fault, Place};
use crate::fabric::VlanMembership;
use crate::policy::rule::{Action, Kind, Rule, Who};
use crate::policy::spec::IpSpec;
use crate::policy::subject::State;

/// The most that are told of one configuration.
const MOST: usize = 50;
/// Rules of a list that are held against each other.
const COMPARED: usize = 1_024;

/// Sections that somebody has to name for them to mean anything, with their places.
#[derive(Debug)]
pub(super) struct Sections {
    groups: Vec<(String, Place)>,
    sets: Vec<(String, Place)>,
    lists: Vec<(String, Place)>,
}

impl Sections {
    pub(super) fn new(groups: &Named, sets: &Named, lists: &Named) -> Self {
        let places = |named: &Named| {
            let places = named.iter();
            places
                .map(|(name, section)| (name.clone(), section.place.clone()))
                .collect()
        };
        Self {
            groups: places(groups),
            sets: places(sets),
            lists: places(lists),
        }
    }
}

/// All notes of a configuration that was read without a fault.
pub(super) fn notes(spec: &SwitchSpec, sections: &Sections, names: &Names) -> Vec<Fault> {
    let mut notes = Vec::new();
    unused(spec, sections, names, &mut notes);
    shared_addresses(&spec.ports, &mut notes);
    for (name, list) in &spec.lists {
        for (direction, rules) in [("outbound", &list.outbound), ("inbound", &list.inbound)] {
            covered(&format!("acl {name:?}: {direction}"), rules, &mut notes);
        }
    }
    leased::unreachable(spec, &mut notes);
    notes.truncate(MOST);
    notes
}

pub(super) fn note(place: Place, subject: String, problem: String, remedy: &str) -> Fault {
    Fault {
        place,
        subject,
        problem,
        remedy: remedy.to_owned(),
    }
}

fn unused(spec: &SwitchSpec, sections: &Sections, names: &Names, notes: &mut Vec<Fault>) {
    let lists = spec.ports.iter().flat_map(|port| &port.lists);
    let behind = spec.ports.iter().flat_map(|port| &port.triggers.allow);
    let bound: HashSet<&String> = lists.chain(behind).collect();
    for (name, place) in &sections.lists {
        if !bound.contains(name) {
            notes.push(note(
                place.clone(),
                format!("acl {name:?}"),
                "no port is behind this list".to_owned(),
                "bind it with acl in a port, a group or [defaults], unless it is kept for `portcullis quarantine --allow`",
            ));
        }
    }
    for (name, place) in &sections.groups {
        if names.is_empty_group(name) {
            notes.push(note(
                place.clone(),
                format!("group {name:?}"),
                "no port is in this group".to_owned(),
                "name it in groups of a port",
            ));
        }
    }
    for (name, place) in &sections.sets {
        if !names.is_used_set(name) {
            notes.push(note(
                place.clone(),
                format!("set {name:?}"),
                "no rule names this set".to_owned(),
                "name it as \"set:NAME\" in from or to, or take it out",
            ));
        }
    }
}

/// IP addresses that two ports of a segment may use.
fn shared_addresses(ports: &[PortSpec], notes: &mut Vec<Fault>) {
    let declared = ports.iter().flat_map(|port| {
        match &port.guard.ip {
            IpSpec::Declared(prefixes) => prefixes.as_slice(),
            IpSpec::Any | IpSpec::Dhcp => &[],
        }
        .iter()
        .map(move |prefix| (*prefix, port))
    });
    let mut declared: Vec<(IpNet, &PortSpec)> = declared.collect();
    declared.sort_by_key(|(prefix, _)| *prefix);
    // Prefixes are within each other or apart: those around the one that is looked at.
    let mut around: Vec<(IpNet, &PortSpec)> = Vec::new();
    for (prefix, port) in declared {
        while around
            .pop_if(|(outer, _)| !outer.contains(&prefix))
            .is_some()
        {}
        let other = around
            .iter()
            .rev()
            .find(|(_, other)| other.name != port.name && may_meet(port, other));
        if let Some((outer, other)) = other {
            let place = other.ip_origin.as_ref().unwrap_or(&other.origin);
            let within = if *outer == prefix {
                String::new()
            } else {
                format!(", in {outer},")
            };
            notes.push(note(
                port.ip_origin.as_ref().unwrap_or(&port.origin).clone(),
                format!("port {:?}: ip", port.name),
                format!(
                    "{}{within} is an address of port {:?} at {place}, too",
                    plain(prefix),
                    other.name
                ),
                "both may use it; give it to one of them unless they take turns",
            ));
        }
        around.push((prefix, port));
    }
}

/// Whether two ports share a segment, as far as access ports tell.
fn may_meet(a: &PortSpec, b: &PortSpec) -> bool {
    match (&a.vlan, &b.vlan) {
        (VlanMembership::Access(a), VlanMembership::Access(b)) => a == b,
        _ => true,
    }
}

/// An address as people write it.
fn plain(prefix: IpNet) -> String {
    if prefix.prefix_len() == prefix.max_prefix_len() {
        prefix.addr().to_string()
    } else {
        prefix.to_string()
    }
}

/// Rules that one before them decides for.
fn covered(title: &str, rules: &[Rule], notes: &mut Vec<Fault>) {
    if rules.len() > COMPARED {
        return;
    }
    for (at, rule) in rules.iter().enumerate() {
        let before = rules.get(..at).unwrap_or_default();
        let Some(first) = before.iter().find(|first| covers(first, rule)) else {
            continue;
        };
        // A packet that cannot be read is allowed by no rule that would have to read it, and denied by one that might mean it.
        let but = if first.action == Action::Allow && rule.action != Action::Allow {
            ", but for packets that cannot be read, such as later fragments"
        } else {
            ""
        };
        notes.push(note(
            Place::Whole(rule.origin.clone()),
            title.to_owned(),
            format!(
                "the rule at {} decides all that this one is about{but}",
                first.origin
            ),
            "put it earlier, or take it out",
        ));
    }
}

/// Whether whatever `rule` matches, `first` matches, packets that cannot be read aside.
fn covers(first: &Rule, rule: &Rule) -> bool {
    let looks_deeper = !first.port.is_empty()
        || !first.source_port.is_empty()
        || !first.icmp.is_empty()
        || first.flags.is_some();
    covers_kind(first.kind, rule.kind)
        && covers_states(first, rule)
        && covers_each(&first.from, &rule.from, covers_who)
        && covers_each(&first.to, &rule.to, covers_who)
        && covers_each(&first.source_port, &rule.source_port, covers_range)
        && covers_each(&first.port, &rule.port, covers_range)
        && covers_each(&first.vlan, &rule.vlan, covers_range)
        && covers_each(&first.icmp, &rule.icmp, |(kind, code), (other, of)| {
            kind == other && (code.is_none() || code == of)
        })
        && (first.flags.is_none() || first.flags == rule.flags)
        && (first.fragments || !rule.fragments || !looks_deeper)
}

fn covers_kind(first: Kind, rule: Kind) -> bool {
    match (first, rule) {
        (Kind::Any, _) => true,
        (
            Kind::Ip { family, protocol },
            Kind::Ip {
                family: of,
                protocol: over,
            },
        ) => (family.is_none() || family == of) && (protocol.is_none() || protocol == over),
        _ => first == rule,
    }
}

fn covers_states(first: &Rule, rule: &Rule) -> bool {
    const FRESH: [State; 2] = [State::New, State::Untracked];
    let of = |rule: &Rule| {
        if rule.states.is_empty() {
            FRESH.to_vec()
        } else {
            rule.states.clone()
        }
    };
    let first = of(first);
    of(rule).iter().all(|state| first.contains(state))
}

/// Alternatives, of which none is no condition.
fn covers_each<T>(first: &[T], rule: &[T], covers: impl Fn(&T, &T) -> bool) -> bool {
    let is_covered = |alternative| first.iter().any(|one| covers(one, alternative));
    first.is_empty() || !rule.is_empty() && rule.iter().all(is_covered)
}

fn covers_who(first: &Who, rule: &Who) -> bool {
    match (first, rule) {
        (Who::Ports(first), Who::Ports(rule)) => rule.iter().all(|port| first.contains(port)),
        (Who::Prefix(first), Who::Prefix(rule)) => first.contains(rule),
        _ => first == rule,
    }
}

fn covers_range(
    first: &std::ops::RangeInclusive<u16>,
    rule: &std::ops::RangeInclusive<u16>,
) -> bool {
    first.contains(rule.start()) && first.contains(rule.end())
}
