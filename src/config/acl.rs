//! One rule of a list, from its table to its type.
//!
//! What a rule cannot mean is refused here, not left to match nothing: parts of different families, ports of a protocol
//! that has none, flags of what is no TCP.

use std::ops::RangeInclusive;

use super::Place;
use super::raw::{Section, Value};
use super::reader::Reader;
use super::terms::{
    FLAGS_RULE, KIND_RULE, STATES, icmp_names, kind_remedy, parse_flags, parse_icmp, parse_kind,
};
use super::who::{Names, Party, WHO_RULE, family_of};
use crate::counters::PortSet;
use crate::frame::ethernet::ethertype;
use crate::frame::{Vid, protocol};
use crate::policy::rule::{Action, Flags, Kind, Rule, Who};
use crate::policy::subject::{Family, State};

const ACTIONS: [(&str, Action); 3] = [
    ("allow", Action::Allow),
    ("deny", Action::Deny),
    ("reject", Action::Reject),
];
const MAX_RULE_NAME: usize = 64;
/// The keys of a rule.
const KEYS: [&str; 15] = [
    "allow",
    "deny",
    "reject",
    "from",
    "to",
    "port",
    "source_port",
    "icmp",
    "flags",
    "vlan",
    "state",
    "stateless",
    "fragments",
    "log",
    "name",
];

/// Reads one rule; `None` when it was refused.
pub(super) fn read_rule(section: Section, names: &Names, reader: &mut Reader<'_>) -> Option<Rule> {
    let mut reader = reader.within(section);
    let before = reader.faults();
    let place = reader.place();
    let Some((action, kind)) = read_verb(&mut reader, &place) else {
        // A slip in the verdict is an unknown key, too.
        reader.finish_beside(&KEYS);
        return None;
    };
    let mut rule = Rule {
        kind,
        origin: place.to_string(),
        ..Rule::any(action)
    };
    rule.name = read_name(&mut reader);
    let from = read_parties(&mut reader, "from", names, &mut rule.said);
    let to = read_parties(&mut reader, "to", names, &mut rule.said);
    rule.source_port = read_ports(&mut reader, "source_port", kind);
    rule.port = read_ports(&mut reader, "port", kind);
    rule.icmp = read_icmp(&mut reader, kind);
    rule.flags = read_flags(&mut reader, kind);
    rule.vlan = reader.ranges("vlan", 1..=Vid::MAX.get());
    rule.states = read_states(&mut reader, kind);
    read_switches(&mut reader, &mut rule);
    check_families(&mut reader, kind, &from, &to, &place);
    rule.from = whos(from);
    rule.to = whos(to);
    let is_good = reader.faults() == before;
    reader.finish();
    is_good.then_some(rule)
}

/// `allow = "tcp"`: exactly one of the three.
fn read_verb(reader: &mut Reader<'_>, place: &Place) -> Option<(Action, Kind)> {
    let was_said = ACTIONS.iter().any(|(verb, _)| reader.has(verb));
    let mut found = None;
    for (verb, action) in ACTIONS {
        let Some((text, place)) = reader.text(verb, KIND_RULE) else {
            continue;
        };
        let kind = parse_kind(&text);
        if let Err(why) = &kind {
            let remedy = kind_remedy(&text);
            reader.fault(place.clone(), verb, format!("{text:?} {why}"), &remedy);
        }
        if found.is_some() {
            let problem = "stands beside another verdict".to_owned();
            reader.fault(
                place,
                verb,
                problem,
                "a rule has one: allow, deny or reject",
            );
            return None;
        }
        found = Some((action, kind));
    }
    if found.is_none() && !was_said {
        let remedy = "write { allow = \"tcp\", ... }, or deny or reject in its place";
        reader.fault(place.clone(), "", "has no verdict".to_owned(), remedy);
    }
    let (action, kind) = found?;
    Some((action, kind.ok()?))
}

fn read_name(reader: &mut Reader<'_>) -> String {
    let remedy = "choose a name of at most 64 characters, without control characters";
    let Some((name, place)) = reader.text("name", remedy) else {
        return String::new();
    };
    if name.chars().count() > MAX_RULE_NAME || name.chars().any(char::is_control) {
        reader.fault(place, "name", "is not a name of a rule".to_owned(), remedy);
    }
    name
}

/// The parties of `from` or `to`, with the place of each; ports and groups go into `said` as they were written, too.
fn read_parties(
    reader: &mut Reader<'_>,
    key: &'static str,
    names: &Names,
    said: &mut Vec<String>,
) -> Vec<(Party, Place)> {
    let Some((items, place)) = reader.list(key) else {
        return Vec::new();
    };
    if items.is_empty() {
        let problem = "is an empty list".to_owned();
        reader.fault(
            place.clone(),
            key,
            problem,
            "name somebody, or leave the key out",
        );
    }
    let mut parties: Vec<(Party, Place)> = Vec::new();
    for item in items {
        let Some((text, place)) = reader.text_of(key, item, WHO_RULE) else {
            continue;
        };
        match names.party(&text) {
            Ok(party) => {
                if matches!(party, Party::Ports(_)) {
                    said.push(format!("{key} {text}"));
                }
                parties.push((party, place));
            }
            Err((problem, remedy)) => reader.fault(place, key, problem, &remedy),
        }
    }
    let is_any = parties.iter().any(|(party, _)| *party == Party::Any);
    if is_any && parties.len() > 1 {
        let problem = "names others beside \"any\"".to_owned();
        reader.fault(place, key, problem, "keep any alone, or leave it out");
    }
    parties
}

/// The same as conditions. A set without members, which was refused, is somebody whom no packet comes from, not the absence of a
/// condition.
fn whos(parties: Vec<(Party, Place)>) -> Vec<Who> {
    let mut whos = Vec::new();
    for (party, _) in parties {
        match party {
            Party::Any => {}
            Party::Ports(ports) => whos.push(Who::Ports(ports)),
            Party::One(who) => whos.push(who),
            Party::Set(members) if members.is_empty() => whos.push(Who::Ports(PortSet::EMPTY)),
            Party::Set(members) => whos.extend(members.into_iter().map(Who::Prefix)),
        }
    }
    whos
}

fn read_ports(reader: &mut Reader<'_>, key: &'static str, kind: Kind) -> Vec<RangeInclusive<u16>> {
    let place = reader.place_of(key);
    let ports = reader.ranges(key, 0..=u16::MAX);
    let has_ports = matches!(
        kind,
        Kind::Ip {
            protocol: Some(protocol::TCP | protocol::UDP),
            ..
        }
    );
    if let Some(place) = place
        && !has_ports
    {
        let problem = "is for tcp and udp".to_owned();
        let remedy = "write one rule for tcp and one for udp, or leave the key out";
        reader.fault(place, key, problem, remedy);
    }
    ports
}

fn read_icmp(reader: &mut Reader<'_>, kind: Kind) -> Vec<(u8, Option<u8>)> {
    let key = "icmp";
    let Some((items, place)) = reader.list(key) else {
        return Vec::new();
    };
    let family = match kind {
        Kind::Ip {
            family: Some(Family::V4),
            protocol: Some(protocol::ICMP),
        } => Family::V4,
        Kind::Ip {
            family: Some(Family::V6),
            protocol: Some(protocol::ICMPV6),
        } => Family::V6,
        _ => {
            let problem = "is for icmp and icmpv6".to_owned();
            reader.fault(
                place,
                key,
                problem,
                "write one rule for each of the two, or leave the key out",
            );
            return Vec::new();
        }
    };
    if items.is_empty() {
        let remedy = "name at least one, or leave the key out";
        reader.fault(place, key, "is an empty list".to_owned(), remedy);
    }
    let remedy = format!(
        "write a type, type/code, or one of {}",
        icmp_names(family).join(", ")
    );
    let mut types = Vec::new();
    for item in items {
        let text = match &item.value {
            Value::Number(number) => number.to_string(),
            _ => match reader.text_of(key, item.clone(), &remedy) {
                Some((text, _)) => text,
                None => continue,
            },
        };
        match parse_icmp(&text, family) {
            Some(icmp) => types.push(icmp),
            None => {
                let problem = format!("{text:?} is no type of this protocol");
                reader.fault(item.place, key, problem, &remedy);
            }
        }
    }
    types
}

fn read_flags(reader: &mut Reader<'_>, kind: Kind) -> Option<Flags> {
    let (text, place) = reader.text("flags", FLAGS_RULE)?;
    if !matches!(
        kind,
        Kind::Ip {
            protocol: Some(protocol::TCP),
            ..
        }
    ) {
        reader.fault(place, "flags", "is for tcp".to_owned(), "leave it out");
        return None;
    }
    match parse_flags(&text) {
        Ok(flags) => Some(flags),
        Err(why) => {
            reader.fault(place, "flags", format!("{text:?}: {why}"), FLAGS_RULE);
            None
        }
    }
}

/// States of `state`; `"any"` stands for all of them.
fn read_states(reader: &mut Reader<'_>, kind: Kind) -> Vec<State> {
    let key = "state";
    let Some((items, place)) = reader.filled_list(key) else {
        return Vec::new();
    };
    let names: Vec<&str> = STATES
        .iter()
        .map(|(name, _)| *name)
        .chain(["any"])
        .collect();
    let mut states = Vec::new();
    for item in items {
        if item.is_word("any") {
            states.extend(STATES.map(|(_, state)| state));
            continue;
        }
        let Some((word, place)) = reader.text_of(key, item, "name states of connections") else {
            continue;
        };
        match STATES.iter().find(|(name, _)| *name == word) {
            Some((_, state)) => states.push(*state),
            None => reader.unknown_word(place, key, &word, &names),
        }
    }
    states.sort_unstable();
    states.dedup();
    let is_tracked = matches!(kind, Kind::Any | Kind::Ip { .. });
    if !is_tracked && !states.is_empty() && !states.contains(&State::Untracked) {
        let problem = "asks for connections, and this kind of frame has none".to_owned();
        reader.fault(place, key, problem, "leave it out");
    }
    states
}

fn read_switches(reader: &mut Reader<'_>, rule: &mut Rule) {
    let at = reader.place_of("stateless");
    rule.stateless = reader.boolean("stateless").unwrap_or(false);
    if let (true, Some(place)) = (rule.stateless && rule.action != Action::Allow, at) {
        let problem = "is for allow rules: only they open connections".to_owned();
        reader.fault(place, "stateless", problem, "leave it out");
    }
    let at = reader.place_of("fragments");
    rule.fragments = reader.boolean("fragments").unwrap_or(false);
    if let (true, Some(place)) = (rule.fragments, at)
        && (rule.action != Action::Allow || !rule.reads_layer_4())
    {
        let problem = "is for allow rules with port, source_port, icmp or flags".to_owned();
        let remedy = "leave it out: without these, later fragments match as every packet does";
        reader.fault(place, "fragments", problem, remedy);
    }
    rule.log = reader.boolean("log").unwrap_or(false);
}

/// Families that a side of a rule can be of.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Families {
    v4: bool,
    v6: bool,
}

impl Families {
    const BOTH: Self = Self { v4: true, v6: true };
    const NONE: Self = Self {
        v4: false,
        v6: false,
    };

    fn has(self, family: Family) -> bool {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }

    fn and(self, other: Self) -> Self {
        Self {
            v4: self.v4 && other.v4,
            v6: self.v6 && other.v6,
        }
    }

    fn of_kind(kind: Kind) -> Self {
        match kind {
            Kind::Any | Kind::Ip { family: None, .. } => Self::BOTH,
            Kind::Ip {
                family: Some(family),
                ..
            } => Self::just(family),
            Kind::EtherType(ethertype::IPV4) => Self::just(Family::V4),
            Kind::EtherType(ethertype::IPV6) => Self::just(Family::V6),
            Kind::Llc | Kind::EtherType(_) => Self::NONE,
        }
    }

    fn just(family: Family) -> Self {
        Self {
            v4: family == Family::V4,
            v6: family == Family::V6,
        }
    }

    /// What the parties of one side leave possible.
    fn of_side(parties: &[(Party, Place)]) -> Self {
        let mut families = Self::NONE;
        for (party, _) in parties {
            for family in [Family::V4, Family::V6] {
                let is_of = match party {
                    Party::Any | Party::Ports(_) | Party::One(Who::Mac(_) | Who::Ports(_)) => true,
                    Party::One(Who::Prefix(prefix)) => family_of(prefix) == family,
                    Party::Set(members) => {
                        members.is_empty()
                            || members.iter().any(|member| family_of(member) == family)
                    }
                };
                match family {
                    Family::V4 => families.v4 |= is_of,
                    Family::V6 => families.v6 |= is_of,
                }
            }
        }
        if parties.is_empty() {
            Self::BOTH
        } else {
            families
        }
    }
}

/// Refuses addresses that no packet of the rule's kind, or towards its other side, can have.
fn check_families(
    reader: &mut Reader<'_>,
    kind: Kind,
    from: &[(Party, Place)],
    to: &[(Party, Place)],
    place: &Place,
) {
    let of_kind = Families::of_kind(kind);
    let before = reader.faults();
    for (key, side, other) in [("from", from, to), ("to", to, from)] {
        let possible = of_kind.and(Families::of_side(other));
        for (party, place) in side {
            let found = match party {
                Party::One(Who::Prefix(prefix)) if !possible.has(family_of(prefix)) => {
                    format!("{prefix} can be in no packet that this rule is about")
                }
                Party::Set(members)
                    if !members.is_empty()
                        && !members.iter().any(|member| possible.has(family_of(member))) =>
                {
                    "no member of the set can be in a packet that this rule is about".to_owned()
                }
                _ => continue,
            };
            let remedy = if of_kind == Families::NONE {
                "only IP packets have IP addresses: name ports or MAC addresses here"
            } else {
                "families do not mix: write one rule for IPv4 and one for IPv6"
            };
            reader.fault(place.clone(), key, found, remedy);
        }
    }
    let all = of_kind
        .and(Families::of_side(from))
        .and(Families::of_side(to));
    let is_ip = of_kind != Families::NONE;
    if is_ip && all == Families::NONE && reader.faults() == before {
        let problem = "from and to are of different families".to_owned();
        let remedy = "families do not mix: write one rule for IPv4 and one for IPv6";
        reader.fault(place.clone(), "", problem, remedy);
    }
}
