//! Who reaches whom: one table of legal destinations for each source port, made when the configuration changes.
//!
//! |          | bridge | isolated              | private | uplink |
//! |----------|--------|-----------------------|---------|--------|
//! | bridge   | yes    | yes                   | no      | yes    |
//! | isolated | yes    | within a common group | no      | yes    |
//! | private  | no     | no                    | no      | yes    |
//! | uplink   | yes    | yes                   | yes     | yes    |
//!
//! The table is symmetric, and no port reaches itself. It is the same for unicast, broadcast, multicast and
//! unknown unicast, and bounds what the FDB may answer. Whatever is built on it can only take away.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::vlans::VlanMembership;
use crate::counters::{MAX_PORTS, PortId, PortSet};

/// How a port relates to the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Reaches every port but the private ones.
    #[default]
    Bridge,
    /// Reaches bridge ports and uplinks, and isolated ports of a common group.
    Isolated,
    /// Reaches uplinks only.
    Private,
}

/// A group of isolated ports; which name has which number is the configuration's affair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u16);

/// What the fabric needs to know of one port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortRow {
    /// Its mode; of no effect on an uplink.
    pub mode: Mode,
    /// Whether it leads outside.
    pub uplink: bool,
    /// The groups that it is in; of effect on isolated ports only.
    pub groups: Vec<GroupId>,
    /// The VLANs that it is in.
    pub vlan: VlanMembership,
}

/// The table of legal destinations.
#[derive(Clone, Debug)]
pub struct Reach {
    rows: Box<[PortSet]>,
}

impl Reach {
    /// Makes the table; the row of port `n` is `rows[n]`. Rows past [`MAX_PORTS`] are no ports and reach nothing.
    pub fn compile(rows: &[PortRow]) -> Self {
        let mut bridges = PortSet::EMPTY;
        let mut isolated = PortSet::EMPTY;
        let mut uplinks = PortSet::EMPTY;
        let mut groups: HashMap<GroupId, PortSet> = HashMap::new();
        let all = PortSet::from_iter(ports(rows).map(|(port, _)| port));
        for (port, row) in ports(rows) {
            match row.mode {
                _ if row.uplink => uplinks.insert(port),
                Mode::Bridge => bridges.insert(port),
                Mode::Isolated => {
                    isolated.insert(port);
                    for group in &row.groups {
                        groups.entry(*group).or_default().insert(port);
                    }
                }
                Mode::Private => {}
            }
        }
        let reached = ports(rows).map(|(port, row)| {
            let mut set = match row.mode {
                _ if row.uplink => all,
                Mode::Bridge => bridges.union(&isolated).union(&uplinks),
                Mode::Isolated => row
                    .groups
                    .iter()
                    .filter_map(|group| groups.get(group))
                    .fold(bridges.union(&uplinks), |set, members| set.union(members)),
                Mode::Private => uplinks,
            };
            set.remove(port);
            set
        });
        Self {
            rows: reached.collect(),
        }
    }

    /// The ports that `source` reaches; none for a port without a row.
    #[inline]
    pub fn of(&self, source: PortId) -> &PortSet {
        self.rows.get(source.index()).unwrap_or(&PortSet::EMPTY)
    }

    /// Whether `source` reaches `to`.
    #[inline]
    pub fn allows(&self, source: PortId, to: PortId) -> bool {
        self.of(source).contains(to)
    }
}

/// The rows with their ports.
pub(super) fn ports(rows: &[PortRow]) -> impl Iterator<Item = (PortId, &PortRow)> {
    rows.iter()
        .take(MAX_PORTS)
        .enumerate()
        .filter_map(|(index, row)| Some((PortId::new(u16::try_from(index).ok()?)?, row)))
}
