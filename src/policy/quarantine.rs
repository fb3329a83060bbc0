//! Ports that were put aside: by an operator, or by a trigger.
//!
//! A port in quarantine sends to its *helpers* and receives from them, and nothing else passes either way, whatever the
//! lists, the modes and the connections that were there before say. Without helpers it is alone. What does pass is
//! judged as always: a quarantine only takes away.

use std::collections::BTreeMap;

use crate::counters::{PortId, PortSet};

/// The ports in quarantine, each with its helpers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quarantine {
    /// All ports in quarantine: most switches have none, and this says so in one look.
    ports: PortSet,
    /// Those of them that have no helper.
    alone: PortSet,
    helpers: BTreeMap<PortId, PortSet>,
}

impl Quarantine {
    /// Whether no port is in quarantine.
    pub fn is_empty(&self) -> bool {
        self.helpers.is_empty()
    }

    /// Whether this port is in quarantine.
    #[inline]
    pub fn holds(&self, port: PortId) -> bool {
        self.ports.contains(port)
    }

    /// Whether this port is in quarantine without a helper: then nothing is even learned from what it sends.
    #[inline]
    pub fn silences(&self, port: PortId) -> bool {
        self.alone.contains(port)
    }

    /// Whether a quarantine of either stands between the two.
    #[inline]
    pub fn separates(&self, from: PortId, to: PortId) -> bool {
        (self.holds(from) && !self.helps(to, from)) || (self.holds(to) && !self.helps(from, to))
    }

    fn helps(&self, helper: PortId, port: PortId) -> bool {
        self.helpers
            .get(&port)
            .is_some_and(|helpers| helpers.contains(helper))
    }
}

impl FromIterator<(PortId, PortSet)> for Quarantine {
    fn from_iter<I: IntoIterator<Item = (PortId, PortSet)>>(ports: I) -> Self {
        let helpers: BTreeMap<PortId, PortSet> = ports.into_iter().collect();
        Self {
            ports: helpers.keys().copied().collect(),
            alone: helpers
                .iter()
                .filter(|(_, helpers)| helpers.is_empty())
                .map(|(port, _)| *port)
                .collect(),
            helpers,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(index: u16) -> PortId {
        PortId::new(index).unwrap()
    }

    #[test]
    fn a_port_in_quarantine_reaches_its_helpers_and_nobody_else() {
        let helpers = PortSet::from_iter([port(2)]);
        let quarantine: Quarantine = [(port(0), helpers), (port(3), PortSet::EMPTY)]
            .into_iter()
            .collect();
        assert!(quarantine.holds(port(0)) && !quarantine.holds(port(2)));
        assert!(quarantine.silences(port(3)) && !quarantine.silences(port(0)));
        let passes = |from, to| !quarantine.separates(port(from), port(to));
        let passing: Vec<(u16, u16)> = (0..5)
            .flat_map(|from| (0..5).map(move |to| (from, to)))
            .filter(|(from, to)| from != to && passes(*from, *to))
            .collect();
        assert_eq!(
            passing,
            [
                (0, 2),
                (1, 2),
                (1, 4),
                (2, 0),
                (2, 1),
                (2, 4),
                (4, 1),
                (4, 2)
            ]
        );
    }

    #[test]
    fn two_ports_in_quarantine_must_help_each_other() {
        let only = |index| PortSet::from_iter([port(index)]);
        let one_sided: Quarantine = [(port(0), only(1)), (port(1), PortSet::EMPTY)]
            .into_iter()
            .collect();
        assert!(one_sided.separates(port(0), port(1)));
        let both: Quarantine = [(port(0), only(1)), (port(1), only(0))]
            .into_iter()
            .collect();
        assert!(!both.separates(port(0), port(1)) && !both.separates(port(1), port(0)));
    }
}
