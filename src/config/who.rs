//! Names that rules and asserts use: ports, groups, uplinks, sets of addresses.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use ipnet::IpNet;

use super::Fault;
use super::nearest::nearest;
use super::ports::{Draft, refuse_bad_name};
use super::raw::{Item, Named};
use super::reader::Reader;
use super::security::parse_prefix;
use crate::counters::{PortId, PortSet};
use crate::policy::rule::Who;
use crate::policy::subject::Family;

/// Addresses of all sets together.
const MAX_MEMBERS: usize = 65_536;
const MEMBER_RULE: &str = "give addresses or prefixes, such as [\"10.0.0.0/8\", \"fd00::5\"]";
pub(super) const WHO_RULE: &str =
    "name port:NAME, group:NAME, uplink, set:NAME, a MAC address, an IP address or prefix, or any";

/// Everything that has a name, by its name.
#[derive(Debug)]
pub(super) struct Names {
    ports: HashMap<String, PortId>,
    groups: HashMap<String, PortSet>,
    uplinks: PortSet,
    count: usize,
    sets: HashMap<String, Vec<IpNet>>,
    /// Sets that somebody has named.
    used: RefCell<HashSet<String>>,
}

/// Whom a helper of a quarantine names. A bare name is the port of that name if there is one, else the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Helper<'t> {
    /// `port:NAME`.
    Port(&'t str),
    /// `group:NAME`.
    Group(&'t str),
    /// `NAME`.
    Either(&'t str),
}

impl<'t> Helper<'t> {
    /// Reads it; names have no colon.
    #[must_use]
    pub fn of(text: &'t str) -> Self {
        match text.split_once(':') {
            Some(("port", name)) => Self::Port(name),
            Some(("group", name)) => Self::Group(name),
            _ => Self::Either(text),
        }
    }

    /// The name alone.
    #[must_use]
    pub fn name(self) -> &'t str {
        match self {
            Self::Port(name) | Self::Group(name) | Self::Either(name) => name,
        }
    }

    /// What it could be.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::Port(_) => "port",
            Self::Group(_) => "group",
            Self::Either(_) => "port or group",
        }
    }

    /// Whether it means the port of that name.
    #[must_use]
    pub fn is_port(self, port: &str) -> bool {
        !matches!(self, Self::Group(_)) && self.name() == port
    }
}

/// One word of `from` or `to`, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Party {
    /// No condition.
    Any,
    Ports(PortSet),
    /// A literal address or MAC.
    One(Who),
    /// A named set.
    Set(Vec<IpNet>),
}

impl Names {
    /// Port `n` is `drafts[n]`.
    pub(super) fn new<'g>(
        drafts: &[Draft],
        groups: impl Iterator<Item = &'g String>,
        sets: Named,
        faults: &mut Vec<Fault>,
    ) -> Self {
        let mut names = Self {
            ports: HashMap::new(),
            groups: groups.map(|name| (name.clone(), PortSet::EMPTY)).collect(),
            uplinks: PortSet::EMPTY,
            count: drafts.len(),
            sets: read_sets(sets, faults),
            used: RefCell::default(),
        };
        let ids = (0..).map_while(PortId::new);
        for (draft, id) in drafts.iter().zip(ids) {
            names.ports.entry(draft.name.clone()).or_insert(id);
            if draft.uplink {
                names.uplinks.insert(id);
            }
            for group in &draft.groups {
                names.groups.entry(group.clone()).or_default().insert(id);
            }
        }
        names
    }

    /// Whether there is such a port, or such a group that a port is in.
    pub(super) fn is_anybody(&self, helper: Helper<'_>) -> bool {
        let is_port = |name| self.ports.contains_key(name);
        let is_group = |name| self.groups.get(name).is_some_and(|ports| !ports.is_empty());
        match helper {
            Helper::Port(name) => is_port(name),
            Helper::Group(name) => is_group(name),
            Helper::Either(name) => is_port(name) || is_group(name),
        }
    }

    /// Whether there is such a group, and no port in it.
    pub(super) fn is_empty_group(&self, name: &str) -> bool {
        self.groups.get(name).is_some_and(PortSet::is_empty)
    }

    /// Whether a party was that set.
    pub(super) fn is_used_set(&self, name: &str) -> bool {
        self.used.borrow().contains(name)
    }

    /// How many ports there are, those that were refused included.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// The ports that `port:NAME`, `NAME`, `group:NAME` or `uplink` stand for.
    pub(super) fn ports(&self, text: &str) -> Result<PortSet, (String, String)> {
        let one = |name: &str, prefix| match self.ports.get(name) {
            Some(id) => Ok(PortSet::from_iter([*id])),
            None => Err(unknown("port", name, self.ports.keys(), prefix)),
        };
        match text.split_once(':') {
            None if text == "uplink" => Ok(self.uplinks),
            None => one(text, ""),
            Some(("port", name)) => one(name, "port:"),
            Some(("group", name)) => match self.groups.get(name) {
                Some(ports) => Ok(*ports),
                None => Err(unknown("group", name, self.groups.keys(), "group:")),
            },
            Some(_) => {
                let remedy = "name a port, group:NAME or uplink".to_owned();
                Err((format!("{text:?} is no port"), remedy))
            }
        }
    }

    /// What a word of `from` or `to` means; else the problem and the remedy.
    pub(super) fn party(&self, text: &str) -> Result<Party, (String, String)> {
        if text == "any" {
            return Ok(Party::Any);
        }
        if text == "uplink" || text.starts_with("port:") || text.starts_with("group:") {
            return self.ports(text).map(Party::Ports);
        }
        if let Some(name) = text.strip_prefix("set:") {
            return match self.sets.get(name) {
                Some(members) => {
                    self.used.borrow_mut().insert(name.to_owned());
                    Ok(Party::Set(members.clone()))
                }
                None => Err(unknown("set", name, self.sets.keys(), "set:")),
            };
        }
        if let Ok(mac) = text.parse() {
            return Ok(Party::One(Who::Mac(mac)));
        }
        match parse_prefix(text) {
            Ok(prefix) => Ok(Party::One(Who::Prefix(prefix))),
            Err(why) if text.contains('/') => Err((format!("{text:?} {why}"), WHO_RULE.to_owned())),
            Err(_) => {
                let problem = format!("{text:?} is no party of a rule");
                let remedy = if self.ports.contains_key(text) {
                    format!("did you mean \"port:{text}\"?")
                } else if self.groups.contains_key(text) {
                    format!("did you mean \"group:{text}\"?")
                } else if self.sets.contains_key(text) {
                    format!("did you mean \"set:{text}\"?")
                } else {
                    WHO_RULE.to_owned()
                };
                Err((problem, remedy))
            }
        }
    }
}

/// The family of a prefix.
pub(super) fn family_of(prefix: &IpNet) -> Family {
    match prefix {
        IpNet::V4(_) => Family::V4,
        IpNet::V6(_) => Family::V6,
    }
}

fn unknown<'n>(
    what: &str,
    name: &str,
    known: impl Iterator<Item = &'n String>,
    prefix: &str,
) -> (String, String) {
    let mut known: Vec<&str> = known.map(String::as_str).collect();
    known.sort_unstable();
    let problem = format!("there is no {what} {name:?}");
    let remedy = match nearest(name, &known) {
        Some(near) => format!("did you mean \"{prefix}{near}\"?"),
        None if known.is_empty() => format!("this configuration has no {what}s"),
        None if known.len() > 16 => format!("name one of its {} {what}s", known.len()),
        None => format!("the {what}s are {}", known.join(", ")),
    };
    (problem, remedy)
}

fn read_sets(sections: Named, faults: &mut Vec<Fault>) -> HashMap<String, Vec<IpNet>> {
    let mut sets = HashMap::new();
    let mut total = 0usize;
    for (name, section) in sections {
        let mut reader = Reader::new(section, faults);
        refuse_bad_name(&mut reader, &name);
        let (place, was_said) = (reader.place(), reader.has("members"));
        let mut members = Vec::new();
        if let Some((items, place)) = reader.list("members") {
            if items.is_empty() {
                let problem = "is an empty list".to_owned();
                let remedy = "name at least one, or drop the set and the rules that use it";
                reader.fault(place.clone(), "members", problem, remedy);
            }
            total = total.saturating_add(items.len());
            if total > MAX_MEMBERS {
                let problem = format!("{total} members of sets");
                reader.fault(
                    place,
                    "members",
                    problem,
                    "65536 are the most in one configuration",
                );
            } else {
                read_members(&mut reader, items, &mut members);
            }
        }
        if !was_said {
            reader.fault(place, "members", "is missing".to_owned(), MEMBER_RULE);
        }
        reader.finish();
        sets.insert(name, members);
    }
    sets
}

fn read_members(reader: &mut Reader<'_>, items: Vec<Item>, members: &mut Vec<IpNet>) {
    for item in items {
        let Some((text, place)) = reader.text_of("members", item, MEMBER_RULE) else {
            continue;
        };
        match parse_prefix(&text) {
            Ok(prefix) => members.push(prefix),
            Err(why) => reader.fault(place, "members", format!("{text:?} {why}"), MEMBER_RULE),
        }
    }
    *members = IpNet::aggregate(members);
}
