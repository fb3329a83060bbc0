//! `[acl.NAME]`, and what lists come to where they are bound.
//!
//! The lists of a port add up in order: its own, those of its groups, those of `[defaults]`. A direction of which none
//! of them says anything has no list.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::acl::read_rule;
use super::filters::{self, Filter};
use super::nearest::nearest;
use super::ports::refuse_bad_name;
use super::raw::Named;
use super::reader::Reader;
use super::shared::{Binding, Parameters, Shared};
use super::spec::RuleList;
use super::who::Names;
use super::{Fault, Place};
use crate::policy::rule::{Action, Kind, Rule};
use crate::policy::spec::IpSpec;
use crate::policy::subject::State;

/// Rules of one configuration.
const MAX_RULES: usize = 65_536;

/// One `[acl.NAME]`; `None` for a direction of which it says nothing.
#[derive(Debug)]
struct List {
    outbound: Option<Vec<Rule>>,
    inbound: Option<Vec<Rule>>,
}

/// What is bound to a port.
#[derive(Debug, Clone)]
pub(super) struct Bound {
    pub(super) outbound: Option<Arc<[Rule]>>,
    pub(super) inbound: Option<Arc<[Rule]>>,
}

/// What a binding depends on: the lists, what ready-made ones ask for, and whether an uplink is meant.
type Key = (Vec<String>, Parameters, bool);

/// All lists, and the bindings that were made of them.
#[derive(Debug)]
pub(super) struct Lists {
    by_name: HashMap<String, List>,
    default_deny: bool,
    made: HashMap<Key, Bound>,
}

impl Lists {
    pub(super) fn read(
        sections: Named,
        names: &Names,
        default_deny: bool,
        faults: &mut Vec<Fault>,
    ) -> Self {
        let mut by_name = HashMap::new();
        let mut total = 0;
        for (name, section) in sections {
            let mut reader = Reader::new(section, faults);
            refuse_bad_name(&mut reader, &name);
            if filters::NAMES.contains(&name.as_str()) {
                let problem = "is the name of a ready-made list".to_owned();
                let place = reader.place();
                reader.fault(place, "", problem, "choose another name");
            }
            let list = List {
                outbound: read_rules(&mut reader, &name, "outbound", names, &mut total),
                inbound: read_rules(&mut reader, &name, "inbound", names, &mut total),
            };
            if list.outbound.is_none() && list.inbound.is_none() {
                let remedy = "write outbound = [...], inbound = [...] or both; [] allows nothing";
                let place = reader.place();
                reader.fault(place, "", "has no rules".to_owned(), remedy);
            }
            reader.finish();
            by_name.insert(name, list);
        }
        Self {
            by_name,
            default_deny,
            made: HashMap::new(),
        }
    }

    /// What the lists of `shared` come to for one port, and what they ask of its port security.
    pub(super) fn bind(
        &mut self,
        port: &str,
        place: &Place,
        uplink: bool,
        shared: &mut Shared,
        faults: &mut Vec<Fault>,
    ) -> Bound {
        let mut refuse = |(name, place): &Binding, key: &str, problem: &str, remedy: &str| {
            faults.push(Fault {
                place: place.clone(),
                subject: format!("port {port:?}: {key}"),
                problem: format!("{name:?} {problem}"),
                remedy: remedy.to_owned(),
            });
        };
        let mut is_known = true;
        for binding in &shared.lists {
            let name = binding.0.as_str();
            if filters::NAMES.contains(&name) {
                is_known &= ask(binding, shared, &mut refuse);
            } else if !self.by_name.contains_key(name) {
                refuse(binding, "acl", "is no list", &self.remedy_for(name));
                is_known = false;
            }
        }
        harden(shared);
        if !is_known {
            return Bound {
                outbound: None,
                inbound: None,
            };
        }
        let names = shared.lists.iter().map(|(name, _)| name.clone()).collect();
        let key = (names, shared.parameters.clone(), uplink);
        if let Some(bound) = self.made.get(&key) {
            return bound.clone();
        }
        let bound = Bound {
            outbound: self.concatenate(
                shared,
                |list| &list.outbound,
                |filter| &filter.outbound,
                &mut refuse,
            ),
            inbound: self.concatenate(
                shared,
                |list| &list.inbound,
                |filter| &filter.inbound,
                &mut refuse,
            ),
        };
        let bound = if uplink && self.default_deny {
            opened(bound, place)
        } else {
            bound
        };
        self.made.insert(key, bound.clone());
        bound
    }

    /// Whether there is such a list, ready-made ones aside.
    pub(super) fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// All of them, each as a list of its own.
    pub(super) fn all(&self) -> BTreeMap<String, RuleList> {
        let rules = |rules: &Option<Vec<Rule>>| rules.as_deref().unwrap_or_default().into();
        let list = |(name, list): (&String, &List)| {
            let list = RuleList {
                outbound: rules(&list.outbound),
                inbound: rules(&list.inbound),
            };
            (name.clone(), list)
        };
        self.by_name.iter().map(list).collect()
    }

    fn remedy_for(&self, name: &str) -> String {
        let mut known: Vec<&str> = self.by_name.keys().map(String::as_str).collect();
        known.sort_unstable();
        known.extend(filters::NAMES);
        match nearest(name, &known) {
            Some(near) => format!("did you mean {near:?}?"),
            None => format!("add [acl.{name}], or name one that there is"),
        }
    }

    /// One direction of all the lists together.
    fn concatenate(
        &self,
        shared: &Shared,
        of_list: impl Fn(&List) -> &Option<Vec<Rule>>,
        of_filter: impl Fn(&Filter) -> &Option<Vec<Rule>>,
        refuse: &mut impl FnMut(&Binding, &str, &str, &str),
    ) -> Option<Arc<[Rule]>> {
        let mut rules: Option<Vec<Rule>> = None;
        let mut only_takes_away = true;
        for binding in &shared.lists {
            let ready = filters::ready_made(&binding.0, &shared.parameters);
            let (more, takes_away) = match (&ready, self.by_name.get(&binding.0)) {
                (Some(filter), _) => (of_filter(filter), filter.takes_away),
                (None, Some(list)) => (of_list(list), false),
                (None, None) => (&None, false),
            };
            let Some(more) = more else { continue };
            let rules = rules.get_or_insert_default();
            let shadow = rules.iter().find(|rule| is_catch_all(rule));
            if let (Some(shadow), Some(first)) =
                (shadow, more.iter().find(|rule| is_shadowed(rule)))
            {
                let problem = format!(
                    "is never reached: the rule at {} catches everything before that at {}",
                    shadow.origin, first.origin
                );
                refuse(
                    binding,
                    "acl",
                    &problem,
                    "bind it earlier, or leave the last rule of the list before it out",
                );
            }
            only_takes_away &= takes_away;
            let list: Arc<str> = binding.0.as_str().into();
            rules.extend(more.iter().map(|rule| Rule {
                list: Arc::clone(&list),
                ..rule.clone()
            }));
        }
        let mut rules = rules?;
        // What only takes away says nothing of the rest: it is as without a list.
        if only_takes_away && !self.default_deny && !rules.iter().any(is_catch_all) {
            rules.push(Rule {
                name: "the rest".to_owned(),
                origin: filters::ORIGIN.to_owned(),
                ..Rule::any(Action::Allow)
            });
        }
        Some(rules.into())
    }
}

/// What a ready-made list asks of the port; whether it has it.
fn ask(
    binding: &Binding,
    shared: &Shared,
    refuse: &mut impl FnMut(&Binding, &str, &str, &str),
) -> bool {
    let Some(filter) = filters::ready_made(&binding.0, &shared.parameters) else {
        let (key, remedy) = filters::parameter_of(&binding.0);
        refuse(binding, key, "needs it, and it is missing", remedy);
        return false;
    };
    if let (true, Some((true, place))) = (
        filter.guards_mac || filter.guards_ip,
        &shared.security.spoofing,
    ) {
        let problem = format!("refuses what spoofing = \"allow\" at {place} allows");
        refuse(binding, "acl", &problem, "keep one of the two");
        return false;
    }
    if let (true, Some((IpSpec::Any, place))) = (filter.guards_ip, &shared.security.ip) {
        let problem = format!("binds addresses, and ip = \"any\" at {place} binds none");
        refuse(
            binding,
            "acl",
            &problem,
            "name the guest's addresses with ip, or \"dhcp\"",
        );
        return false;
    }
    true
}

/// Takes what ready-made lists ask of port security over: addresses that nobody declared are those of its leases.
fn harden(shared: &mut Shared) {
    for (name, place) in &shared.lists {
        let Some(filter) = filters::ready_made(name, &shared.parameters) else {
            continue;
        };
        if filter.guards_mac || filter.guards_ip {
            shared
                .security
                .spoofing
                .get_or_insert((false, place.clone()));
        }
        if filter.guards_ip {
            shared
                .security
                .ip
                .get_or_insert((IpSpec::Dhcp, place.clone()));
        }
    }
}

/// An uplink leads outside, where `default = "deny"` has nobody to protect: what may pass is the guests' lists' affair.
fn opened(bound: Bound, place: &Place) -> Bound {
    let open = || {
        Arc::from([Rule {
            name: "uplink".to_owned(),
            origin: place.to_string(),
            ..Rule::any(Action::Allow)
        }])
    };
    Bound {
        outbound: bound.outbound.or_else(|| Some(open())),
        inbound: bound.inbound.or_else(|| Some(open())),
    }
}

fn read_rules(
    reader: &mut Reader<'_>,
    name: &str,
    key: &'static str,
    names: &Names,
    total: &mut usize,
) -> Option<Vec<Rule>> {
    let (items, place) = reader.list(key)?;
    *total = total.saturating_add(items.len());
    if *total > MAX_RULES {
        let problem = format!("{total} rules up to here");
        reader.fault(
            place,
            key,
            problem,
            "65536 are the most in one configuration: use sets and ranges",
        );
        return Some(Vec::new());
    }
    let list: Arc<str> = name.into();
    let mut rules: Vec<Rule> = Vec::with_capacity(items.len());
    let mut shadow: Option<String> = None;
    for item in items {
        let at = item.place.clone();
        let remedy = "write a rule such as { allow = \"tcp\", port = 443 }";
        let Some(section) = reader.section_of(key, item, remedy) else {
            continue;
        };
        let Some(mut rule) = read_rule(section, names, reader) else {
            continue;
        };
        rule.list = Arc::clone(&list);
        if let (true, Some(shadow)) = (is_shadowed(&rule), &shadow) {
            let problem = format!("is never reached: the rule at {shadow} catches everything");
            reader.fault(at, key, problem, "put it earlier, or take the other out");
        }
        if shadow.is_none() && is_catch_all(&rule) {
            shadow = Some(rule.origin.clone());
        }
        rules.push(rule);
    }
    Some(rules)
}

/// Whether nothing that is new or untracked gets past the rule.
fn is_catch_all(rule: &Rule) -> bool {
    let names = |state| rule.states.is_empty() || rule.states.contains(&state);
    rule.kind == Kind::Any
        && rule.from.is_empty()
        && rule.to.is_empty()
        && rule.vlan.is_empty()
        && names(State::New)
        && names(State::Untracked)
}

/// Whether a rule behind a catch-all can match nothing.
fn is_shadowed(rule: &Rule) -> bool {
    let beyond = [State::Established, State::Related, State::Invalid];
    !beyond.iter().any(|state| rule.states.contains(state))
}
