//! Classes of peers: ports that no condition of a list tells apart.

use std::collections::HashMap;

use crate::counters::{PortId, PortSet};

use super::super::rule::{Direction, Rule, Who};

/// One of the sets of ports that a list names on the side of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PeerSet(usize);

/// The sets that a list names, and the classes that they make.
#[derive(Debug)]
pub(super) struct Peers {
    sets: HashMap<PortSet, usize>,
    /// How many classes are in each set.
    classes_in: Vec<usize>,
    /// The class of each port; ports behind the end are in class 0, that of the ports in no set.
    class_of: Vec<u16>,
    /// The sets that each class is in.
    members: Vec<Vec<PeerSet>>,
}

impl Peers {
    pub(super) fn of<'a>(
        rules: impl Iterator<Item = &'a Rule>,
        direction: Direction,
        ports: usize,
    ) -> Self {
        let mut sets: HashMap<PortSet, usize> = HashMap::new();
        let mut sets_of: Vec<Vec<usize>> = vec![Vec::new(); ports];
        for rule in rules {
            let side = match direction {
                Direction::Outbound => &rule.to,
                Direction::Inbound => &rule.from,
            };
            for who in side {
                let Who::Ports(set) = who else { continue };
                let number = sets.len();
                if sets.contains_key(set) {
                    continue;
                }
                sets.insert(*set, number);
                for port in set.iter() {
                    if sets_of.len() <= port.index() {
                        sets_of.resize(port.index() + 1, Vec::new());
                    }
                    if let Some(of) = sets_of.get_mut(port.index()) {
                        of.push(number);
                    }
                }
            }
        }
        Self::classes(sets, sets_of)
    }

    fn classes(sets: HashMap<PortSet, usize>, sets_of: Vec<Vec<usize>>) -> Self {
        let mut classes_in = vec![0; sets.len()];
        let mut members: Vec<Vec<PeerSet>> = vec![Vec::new()];
        let mut known: HashMap<Vec<usize>, u16> = HashMap::from([(Vec::new(), 0)]);
        let mut class_of = Vec::with_capacity(sets_of.len());
        for of in sets_of {
            let next = u16::try_from(known.len()).unwrap_or(u16::MAX);
            let class = *known.entry(of).or_insert_with_key(|of| {
                for set in of {
                    if let Some(classes) = classes_in.get_mut(*set) {
                        *classes += 1;
                    }
                }
                members.push(of.iter().copied().map(PeerSet).collect());
                next
            });
            class_of.push(class);
        }
        Self {
            sets,
            classes_in,
            class_of,
            members,
        }
    }

    /// The number of a set that the list names.
    pub(super) fn set(&self, set: &PortSet) -> Option<PeerSet> {
        self.sets.get(set).copied().map(PeerSet)
    }

    /// How many classes are in a set.
    pub(super) fn classes_in(&self, set: PeerSet) -> usize {
        self.classes_in.get(set.0).copied().unwrap_or(0)
    }

    /// The sets that each class is in; class 0 is in none.
    pub(super) fn members(&self) -> &[Vec<PeerSet>] {
        &self.members
    }

    /// The class of each port; none at all when there is but one class.
    pub(super) fn into_classes(self) -> Box<[u16]> {
        if self.members.len() == 1 {
            Box::default()
        } else {
            self.class_of.into()
        }
    }
}

impl PeerSet {
    pub(super) const fn index(self) -> usize {
        self.0
    }
}

/// Whether the peer is in each of the sets that a rule names on the list's own side: what makes a list of one
/// port differ from the same list of another.
pub(super) fn own_part(rules: &[Rule], direction: Direction, own: PortId) -> Vec<bool> {
    let side = |rule: &Rule| match direction {
        Direction::Outbound => rule.from.clone(),
        Direction::Inbound => rule.to.clone(),
    };
    rules
        .iter()
        .flat_map(side)
        .filter_map(|who| match who {
            Who::Ports(set) => Some(set.contains(own)),
            Who::Mac(_) | Who::Prefix(_) => None,
        })
        .collect()
}
