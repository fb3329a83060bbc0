//! Who may reach whom under a configuration, as far as that can be said without a frame: a pair is *open* if the modes, groups
//! and segments let frames pass from the one to the other, and neither list refuses all of them.
//!
//! What a pair may say to each other is for the rules, and `explain`. Addressing (ARP, neighbour discovery) is not counted.

use std::collections::{BTreeMap, BTreeSet};

use super::plan::Live;
use super::trial::Trial;
use crate::counters::{PortId, PortSet};
use crate::policy::rule::{Action, Kind, Rule, Who};

/// For each port, by name, the ports that it may send to.
pub type Pairs = BTreeMap<String, BTreeSet<String>>;

impl Trial {
    /// The pairs that are open.
    #[must_use]
    pub fn pairs(&self) -> Pairs {
        let (live, fabric, wards) = self.parts();
        let behind = wards.behind();
        let quarantine = wards.resolve(live, &behind);
        let all: PortSet = live.ids.iter().copied().collect();
        let deny = live.spec.default_deny;
        let lists = |side: Side| {
            let sets = live.spec.ports.iter().map(|port| {
                let instead = behind.get(&port.name);
                let instead = instead.and_then(|list| live.spec.lists.get(list));
                let list = match (instead, side) {
                    (Some(list), Side::To) => Some(&*list.outbound),
                    (Some(list), Side::From) => Some(&*list.inbound),
                    (None, Side::To) => port.outbound.as_deref(),
                    (None, Side::From) => port.inbound.as_deref(),
                };
                peers(list, side, deny, &all)
            });
            sets.collect::<Vec<PortSet>>()
        };
        let (sends, takes) = (lists(Side::To), lists(Side::From));
        let shared = segments(live);
        let mut pairs = Pairs::new();
        for ((from, from_id), sends) in live.ports().zip(&sends) {
            let mut reached = BTreeSet::new();
            for ((to, to_id), takes) in live.ports().zip(&takes) {
                let is_open = fabric.reach().allows(from_id, to_id)
                    && sends.contains(to_id)
                    && takes.contains(from_id)
                    && shared(from_id, to_id)
                    && !quarantine.separates(from_id, to_id);
                if is_open {
                    reached.insert(to.name.clone());
                }
            }
            pairs.insert(from.name.clone(), reached);
        }
        pairs
    }
}

/// Pairs that are in `after` and not in `before`.
#[must_use]
pub fn gained(before: &Pairs, after: &Pairs) -> Pairs {
    let none = BTreeSet::new();
    let new = after.iter().filter_map(|(from, to)| {
        let had = before.get(from).unwrap_or(&none);
        let new: BTreeSet<String> = to.difference(had).cloned().collect();
        (!new.is_empty()).then(|| (from.clone(), new))
    });
    new.collect()
}

#[derive(Clone, Copy)]
enum Side {
    To,
    From,
}

/// The ports with which a list lets anything at all be exchanged.
fn peers(list: Option<&[Rule]>, side: Side, default_deny: bool, all: &PortSet) -> PortSet {
    let Some(rules) = list else {
        return if default_deny { PortSet::EMPTY } else { *all };
    };
    let (mut open, mut left) = (PortSet::EMPTY, *all);
    for rule in rules {
        let who = match side {
            Side::To => &rule.to,
            Side::From => &rule.from,
        };
        let named = ports(who, all);
        if rule.action == Action::Allow {
            open = open.union(&named.intersection(&left));
        } else if refuses_all(rule, side) {
            for port in named.iter() {
                left.remove(port);
            }
        }
    }
    open
}

/// The ports that may be meant; whoever is meant by an address may be anywhere.
fn ports(who: &[Who], all: &PortSet) -> PortSet {
    let is_by_port = |who: &Who| matches!(who, Who::Ports(_));
    if who.is_empty() || !who.iter().all(is_by_port) {
        return *all;
    }
    who.iter().fold(PortSet::EMPTY, |set, who| match who {
        Who::Ports(ports) => set.union(ports),
        _ => set,
    })
}

/// Whether nothing passes a rule that does not allow, of those whom it names by their ports.
fn refuses_all(rule: &Rule, side: Side) -> bool {
    let (peer, own) = match side {
        Side::To => (&rule.to, &rule.from),
        Side::From => (&rule.from, &rule.to),
    };
    let by_port = peer.iter().all(|who| matches!(who, Who::Ports(_)));
    rule.kind == Kind::Any
        && by_port
        && own.is_empty()
        && !rule.reads_layer_4()
        && rule.vlan.is_empty()
        && rule.states.is_empty()
}

/// Whether two ports have a segment in common.
fn segments(live: &Live) -> impl Fn(PortId, PortId) -> bool {
    use crate::fabric::VlanMembership;
    use crate::frame::Vid;
    // A thousand ports have a few memberships: each pair of those is compared once.
    let mut kinds: Vec<&VlanMembership> = Vec::new();
    let mut kind_of: BTreeMap<PortId, usize> = BTreeMap::new();
    for (port, id) in live.ports() {
        let kind = kinds.iter().position(|kind| **kind == port.vlan);
        let kind = kind.unwrap_or_else(|| {
            kinds.push(&port.vlan);
            kinds.len() - 1
        });
        kind_of.insert(id, kind);
    }
    let members = |membership: &VlanMembership| -> BTreeSet<Vid> {
        match membership {
            VlanMembership::Access(vid) => [*vid].into(),
            VlanMembership::Trunk { allowed, native } => allowed.iter().chain(*native).collect(),
        }
    };
    let sets: Vec<BTreeSet<Vid>> = kinds.into_iter().map(members).collect();
    let table: Vec<Vec<bool>> = sets
        .iter()
        .map(|a| sets.iter().map(|b| !a.is_disjoint(b)).collect())
        .collect();
    move |a, b| {
        let (Some(a), Some(b)) = (kind_of.get(&a), kind_of.get(&b)) else {
            return false;
        };
        table
            .get(*a)
            .and_then(|row| row.get(*b))
            .is_some_and(|shared| *shared)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Overrides, from_text};
    use crate::control::QuarantineReport;

    fn pairs(text: &str) -> Vec<String> {
        pairs_with(text, [])
    }

    fn pairs_with<const N: usize>(text: &str, wards: [QuarantineReport; N]) -> Vec<String> {
        let spec = from_text(Some("lan.toml".as_ref()), text, &Overrides::default()).unwrap();
        let pairs = Trial::with_quarantine(spec, wards).unwrap().pairs();
        let told = pairs.iter().flat_map(|(from, to)| {
            let from = from.clone();
            to.iter().map(move |to| format!("{from} {to}"))
        });
        told.collect()
    }

    #[test]
    fn modes_segments_and_lists_close_pairs() {
        let found = pairs(
            r#"
            [acl.server]
            inbound = [ { deny = "any", from = "port:d" }, { allow = "tcp", from = ["port:a", "port:d"], port = 80 } ]
            [port.a]
            socket = "/a"
            [port.b]
            socket = "/b"
            acl = "server"
            [port.c]
            socket = "/c"
            vlan = 7
            [port.d]
            socket = "/d"
            [port.e]
            socket = "/e"
            mode = "private"
            "#,
        );
        assert_eq!(found, ["a b", "a d", "b a", "b d", "d a"]);
    }

    #[test]
    fn a_quarantine_closes_pairs() {
        let text = "[acl.sick]\noutbound = [ { allow = \"tcp\", to = \"port:b\", port = 22 } ]\n\
                    [port.a]\nsocket = \"/a\"\n[port.b]\nsocket = \"/b\"\n[port.c]\nsocket = \"/c\"\n";
        let ward = |helpers: &[&str], allow: Option<&str>| QuarantineReport {
            port: "a".to_owned(),
            helpers: helpers.iter().map(|name| (*name).to_owned()).collect(),
            allow: allow.map(str::to_owned),
            list_is_gone: false,
            since: 0,
            by: "operator".to_owned(),
        };
        assert_eq!(pairs_with(text, [ward(&[], None)]), ["b c", "c b"]);
        assert_eq!(
            pairs_with(text, [ward(&["c"], None)]),
            ["a c", "b c", "c a", "c b"]
        );
        assert_eq!(
            pairs_with(text, [ward(&[], Some("sick"))]),
            ["a b", "b c", "c b"]
        );
        assert_eq!(pairs_with(text, [ward(&[], Some("gone"))]), ["b c", "c b"]);
    }

    #[test]
    fn a_switch_that_denies_by_default_has_no_open_pair() {
        let ports =
            "[switch]\ndefault = \"deny\"\n[port.a]\nsocket = \"/a\"\n[port.b]\nsocket = \"/b\"\n";
        assert_eq!(pairs(ports), [""; 0]);
    }

    #[test]
    fn what_is_gained_is_what_was_not_there() {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let before = Pairs::from([("a".to_owned(), set(&["b"]))]);
        let after = Pairs::from([
            ("a".to_owned(), set(&["b", "c"])),
            ("b".to_owned(), set(&[])),
        ]);
        assert_eq!(
            gained(&before, &after),
            Pairs::from([("a".to_owned(), set(&["c"]))])
        );
        assert_eq!(gained(&after, &before), Pairs::new());
    }
}
