//! From the validated model to the parts of the house.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::DaemonError;
use crate::config::{PortSpec, SwitchSpec};
use crate::counters::PortId;
use crate::datapath::{Gate, Options};
use crate::fabric::{Fabric, Fdb, GroupId, PortRow};
use crate::memory::Limits;
use crate::policy::Policy;
use crate::port::door::Door;
use crate::port::lanes::{FaultBell, Lanes};
use crate::port::port::PortSetup;

/// What follows from the configuration alone.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) gate: Gate,
    ids: Vec<PortId>,
}

impl Plan {
    pub(super) fn new(spec: &SwitchSpec) -> Result<Self, DaemonError> {
        let ids: Vec<PortId> = (0..)
            .map_while(PortId::new)
            .take(spec.ports.len())
            .collect();
        let fdb = Fdb::new(spec.fdb);
        for (port, id) in spec.ports.iter().zip(&ids) {
            for mac in &port.macs {
                fdb.add_static(*id, *mac)
                    .map_err(|source| DaemonError::Address {
                        port: port.name.clone(),
                        source,
                    })?;
            }
        }
        let fabric = Fabric::new(&rows(&spec.ports), Arc::new(fdb));
        let policy = Policy::new(1, ids.iter().copied());
        Ok(Self {
            gate: Gate { policy, fabric },
            ids,
        })
    }

    /// The ports' lanes, dealt out to the workers in turn.
    pub(super) fn lanes(
        &self,
        spec: &SwitchSpec,
        doors: &[Arc<Door>],
        bell: &Arc<FaultBell>,
    ) -> Vec<Arc<Lanes>> {
        let ports = self.ids.iter().zip(&spec.ports).zip(doors.iter().cycle());
        ports
            .map(|((id, port), door)| {
                Lanes::new(*id, port.queues, Arc::clone(door), Arc::clone(bell))
            })
            .collect()
    }
}

pub(super) fn options(spec: &SwitchSpec) -> Options {
    Options {
        poll: spec.poll,
        spin: Duration::from_micros(spec.spin_us.into()),
        cpus: spec.cpus.iter().copied().map(usize::from).collect(),
    }
}

pub(super) fn port_setup(port: &PortSpec) -> PortSetup {
    PortSetup {
        name: port.name.clone(),
        endpoint: port.endpoint.clone(),
        access: port.access.clone(),
        mtu: port.mtu,
        limits: Limits::default(),
    }
}

/// The fabric's view; groups get numbers in the order in which their names appear.
fn rows(ports: &[PortSpec]) -> Vec<PortRow> {
    let mut numbers: HashMap<&str, GroupId> = HashMap::new();
    let mut rows = Vec::with_capacity(ports.len());
    for port in ports {
        let mut groups = Vec::new();
        for name in &port.groups {
            // 1,024 ports in 64 groups each are 65,536 names at most, and each has a number.
            let next = GroupId(u16::try_from(numbers.len()).unwrap_or(u16::MAX));
            groups.push(*numbers.entry(name).or_insert(next));
        }
        rows.push(PortRow {
            mode: port.mode,
            uplink: port.uplink,
            groups,
            vlan: port.vlan.clone(),
        });
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Overrides, from_text};

    #[test]
    fn a_group_has_one_number_wherever_it_is_named() {
        let overrides = Overrides {
            ports: ["a=/a,group=x,group=y", "b=/b,group=z", "c=/c,group=y"]
                .map(str::to_owned)
                .to_vec(),
            ..Overrides::default()
        };
        let spec = from_text(None, "", &overrides).unwrap();
        let groups: Vec<_> = rows(&spec.ports)
            .into_iter()
            .map(|row| row.groups)
            .collect();
        assert_eq!(
            groups,
            [
                vec![GroupId(0), GroupId(1)],
                vec![GroupId(2)],
                vec![GroupId(1)]
            ]
        );
    }

    #[test]
    fn every_port_is_bound_to_the_policy_and_none_else() {
        let overrides = Overrides {
            ports: ["a=/a,mac=52:54:00:00:00:01", "b=/b"]
                .map(str::to_owned)
                .to_vec(),
            ..Overrides::default()
        };
        let plan = Plan::new(&from_text(None, "", &overrides).unwrap()).unwrap();
        let bound = |index| plan.gate.policy.binds(PortId::new(index).unwrap());
        assert_eq!([bound(0), bound(1), bound(2)], [true, true, false]);
        let now = crate::clock::Tick::ZERO;
        assert_eq!(plan.gate.fabric.fdb().entries(now).count(), 1);
    }
}
