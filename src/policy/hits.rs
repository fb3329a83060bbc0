//! Hits of rules, from one policy to the next.
//!
//! Each policy counts by itself, by the place of a rule, so that workers search for nothing. Whoever replaces one finds out beside
//! them which of its rules are rules of the one before ([`Policy::heir_of`]), and adds what these had: once when the new policy
//! is in force, and once more when no worker holds the old one, with what was counted there in between
//! ([`Heritage::hand_on`]).
//!
//! A rule is the same when it stands in a list of the same name and means the same: verdict and conditions, ports and groups as
//! they were written. Its place in the file, its name and whether it is logged do not matter; of several such rules in a list, the first is
//! the first. Lists that are bound together are one here: they are those of before if they are bound to a port that
//! those were bound to, or else of the same names.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::acl::Compiler;
use super::gate::Policy;
use super::rule::{Direction, Rule, RuleId, Who};
use super::spec::PortPolicy;
use crate::counters::{PortId, PortSet};

/// Rules with the numbers from `first` on, and whose they are.
#[derive(Debug)]
pub(super) struct Listed {
    first: RuleId,
    rules: Arc<[Rule]>,
    outbound: PortSet,
    inbound: PortSet,
}

impl Listed {
    /// All lists of a policy. The rules of such as rest have numbers, too.
    pub(super) fn all(compiler: &mut Compiler, ports: &[Option<PortPolicy>]) -> Arc<[Self]> {
        let mut users: HashMap<RuleId, [PortSet; 2]> = HashMap::new();
        let mut note = |list: Option<&Arc<[Rule]>>, direction: Direction, id: PortId| {
            if let Some(list) = list.filter(|list| !list.is_empty()) {
                let [outbound, inbound] = users.entry(compiler.number(list)).or_default();
                match direction {
                    Direction::Outbound => outbound.insert(id),
                    Direction::Inbound => inbound.insert(id),
                };
            }
        };
        let ids = (0..).map_while(PortId::new);
        for (port, id) in ports.iter().zip(ids) {
            let Some(port) = port else { continue };
            let [outbound, inbound] = port.resting.each_ref().map(Option::as_ref);
            for (list, direction) in [
                (port.outbound.as_ref(), Direction::Outbound),
                (port.inbound.as_ref(), Direction::Inbound),
                (outbound, Direction::Outbound),
                (inbound, Direction::Inbound),
            ] {
                note(list, direction, id);
            }
        }
        let listed = |(first, rules): &(RuleId, Arc<[Rule]>)| {
            let [outbound, inbound] = users.get(first).copied().unwrap_or_default();
            Self {
                first: *first,
                rules: Arc::clone(rules),
                outbound,
                inbound,
            }
        };
        compiler.lists().iter().map(listed).collect()
    }

    /// Whether some port has both, in the same direction.
    fn shares_a_port(&self, other: &Self) -> bool {
        let meet = |a: &PortSet, b: &PortSet| a.iter().any(|id| b.contains(id));
        meet(&self.outbound, &other.outbound) || meet(&self.inbound, &other.inbound)
    }

    /// The names of what was bound together, and in which direction.
    fn title(&self) -> (bool, Vec<&str>) {
        let mut names: Vec<&str> = self.rules.iter().map(|rule| &*rule.list).collect();
        names.dedup();
        (self.outbound.is_empty(), names)
    }

    fn numbered(&self) -> impl Iterator<Item = (RuleId, &Rule)> {
        (self.first.0..).map(RuleId).zip(self.rules.iter())
    }
}

/// What a rule is the same by.
fn meaning(rule: &Rule) -> Rule {
    let whos = |whos: &[Who]| {
        let nobody = |who: &Who| match who {
            Who::Ports(_) => Who::Ports(PortSet::EMPTY),
            other => *other,
        };
        whos.iter().map(nobody).collect()
    };
    // Where nothing was written, ports are what they are.
    let (from, to) = if rule.said.is_empty() {
        (rule.from.clone(), rule.to.clone())
    } else {
        (whos(&rule.from), whos(&rule.to))
    };
    Rule {
        name: String::new(),
        origin: String::new(),
        log: false,
        from,
        to,
        ..rule.clone()
    }
}

/// Each list of `new` that was there before, with what it was: no list of `old` is two of the new.
fn pairs<'a>(old: &'a [Listed], new: &'a [Listed]) -> Vec<(&'a Listed, &'a Listed)> {
    let titled = |lists: &'a [Listed]| -> Vec<(&'a Listed, _)> {
        lists.iter().map(|list| (list, list.title())).collect()
    };
    let (mut old, mut new) = (titled(old), titled(new));
    let mut found = Vec::new();
    for (by_title, by_port) in [(true, true), (true, false), (false, true)] {
        new.retain(|(list, title)| {
            let is_it = |(before, other): &(&Listed, _)| {
                (!by_title || title == other) && (!by_port || list.shares_a_port(before))
            };
            let Some(place) = old.iter().position(is_it) else {
                return true;
            };
            found.push((old.remove(place).0, *list));
            false
        });
    }
    found
}

/// What a policy has from the one before it.
#[derive(Debug)]
pub struct Heritage {
    from: Arc<[AtomicU64]>,
    to: Arc<[AtomicU64]>,
    /// The number that a rule had, that which it has, and the hits that it was given.
    rules: Vec<(RuleId, RuleId, u64)>,
}

impl Heritage {
    /// Adds what the old policy has counted and the new one was not given yet.
    pub fn hand_on(&mut self) {
        for (before, after, given) in &mut self.rules {
            let from = self.from.get(before.0 as usize);
            if let Some((from, to)) = from.zip(self.to.get(after.0 as usize)) {
                let counted = from.load(Ordering::Relaxed);
                to.fetch_add(counted.wrapping_sub(*given), Ordering::Relaxed);
                *given = counted;
            }
        }
    }
}

impl Policy {
    /// Finds the rules that `before` has, too. Takes some time.
    #[must_use]
    pub fn heir_of(&self, before: &Self) -> Heritage {
        let mut rules = Vec::new();
        for (old, new) in pairs(before.listed(), self.listed()) {
            let mut known: HashMap<Rule, VecDeque<RuleId>> = HashMap::new();
            for (id, rule) in old.numbered() {
                known.entry(meaning(rule)).or_default().push_back(id);
            }
            rules.extend(new.numbered().filter_map(|(id, rule)| {
                let was = known.get_mut(&meaning(rule))?.pop_front()?;
                Some((was, id, 0))
            }));
        }
        Heritage {
            from: Arc::clone(before.hits()),
            to: Arc::clone(self.hits()),
            rules,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::rule::Action;
    use crate::policy::spec::PolicySpec;
    use crate::policy::state::State;

    fn rule(list: &str, port: u16) -> Rule {
        Rule {
            list: list.into(),
            port: vec![port..=port],
            ..Rule::any(Action::Allow)
        }
    }

    fn list(rules: &[(&str, u16)]) -> Arc<[Rule]> {
        rules.iter().map(|(list, port)| rule(list, *port)).collect()
    }

    /// Port `n` has the list `outbound[n]`.
    fn policy(outbound: &[Option<Arc<[Rule]>>]) -> Policy {
        let port = |list: &Option<Arc<[Rule]>>| {
            Some(PortPolicy {
                outbound: list.clone(),
                ..PortPolicy::default()
            })
        };
        let spec = PolicySpec {
            ports: outbound.iter().map(port).collect(),
            ..PolicySpec::default()
        };
        Policy::compile(1, &spec, State::new()).unwrap()
    }

    fn hits(policy: &Policy) -> Vec<u64> {
        policy.rules().map(|(_, _, hits)| hits).collect()
    }

    /// What the rules of `after` have when those of `before` were hit 1, 2, 3, ... times.
    fn inherited(before: &[Option<Arc<[Rule]>>], after: &[Option<Arc<[Rule]>>]) -> Vec<u64> {
        let (before, after) = (policy(before), policy(after));
        for (id, _, _) in before.rules() {
            before.hit_often(id, u64::from(id.0) + 1);
        }
        after.heir_of(&before).hand_on();
        hits(&after)
    }

    #[test]
    fn what_was_counted_late_is_handed_on_once() {
        let web = [Some(list(&[("web", 80)]))];
        let (before, after) = (policy(&web), policy(&web));
        let rule = RuleId(0);
        before.hit_often(rule, 5);
        let mut heritage = after.heir_of(&before);
        heritage.hand_on();
        after.hit_often(rule, 10);
        before.hit_often(rule, 2);
        heritage.hand_on();
        heritage.hand_on();
        assert_eq!(hits(&after), [17]);
    }

    #[test]
    fn rules_alike_are_told_apart_by_list_and_port() {
        let (web, other) = (list(&[("web", 80)]), list(&[("other", 80)]));
        let both = list(&[("web", 80), ("more", 81)]);
        // Another list with the same rule is another rule.
        assert_eq!(inherited(&[Some(web.clone())], &[Some(other.clone())]), [0]);
        // Ports change places: each list keeps its own.
        let [first, second] = [Some(web.clone()), Some(both.clone())];
        assert_eq!(
            inherited(
                &[first.clone(), second.clone()],
                &[second.clone(), first.clone()]
            ),
            [2, 3, 1]
        );
        // The first is gone, the second is not taken for it.
        assert_eq!(
            inherited(&[first.clone(), second.clone()], &[None, second.clone()]),
            [2, 3]
        );
        // Another list is bound beside it.
        assert_eq!(inherited(std::slice::from_ref(&first), &[second]), [1, 0]);
        // The port has another number.
        assert_eq!(inherited(&[first], &[None, Some(web)]), [1]);
    }

    #[test]
    fn a_group_is_a_group_whoever_is_in_it() {
        let rule = |ports: &[u16], said: &str| {
            let ports = ports.iter().filter_map(|n| PortId::new(*n)).collect();
            let rule = Rule {
                to: vec![Who::Ports(ports)],
                said: vec![format!("to {said}")],
                name: said.to_owned(),
                ..rule("web", 80)
            };
            [Some(Arc::from([rule]))]
        };
        let before = rule(&[1, 2], "group:app");
        assert_eq!(inherited(&before, &rule(&[1, 3], "group:app")), [1]);
        assert_eq!(inherited(&before, &rule(&[1, 2], "group:db")), [0]);
    }
}
