//! From the validated model to the parts of the house.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::quarantine::Behind;
use super::source::Source;
use crate::clock::Tick;
use crate::config::{PortSpec, SwitchSpec};
use crate::counters::PortId;
use crate::datapath::{Gate, Options};
use crate::fabric::{Fabric, Fdb, GroupId, Mode, PortRow, StaticError, VidSet, VlanMembership};
use crate::frame::{Mac, Vid};
use crate::memory::Limits;
use crate::policy::acl::TooLarge;
use crate::policy::quarantine::Quarantine;
use crate::policy::{Policy, State};
use crate::port::port::PortSetup;

/// The configuration that runs, and which port has which number.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) source: Source,
    pub(super) spec: SwitchSpec,
    /// The number of each port of the model. A port keeps its number for as long as it is there.
    pub(super) ids: Vec<PortId>,
    /// Which worker polls it, by place.
    pub(super) workers: Vec<usize>,
}

impl Live {
    /// What a switch starts with: numbers in the order of the configuration, ports dealt out to the workers in turn.
    pub(super) fn first(source: Source, spec: SwitchSpec) -> Self {
        let ids: Vec<PortId> = (0..)
            .map_while(PortId::new)
            .take(spec.ports.len())
            .collect();
        let workers = (0..usize::from(spec.workers)).cycle().take(ids.len());
        Self {
            workers: workers.collect(),
            source,
            spec,
            ids,
        }
    }

    /// All ports with their numbers, in the order of the configuration.
    pub(super) fn ports(&self) -> impl Iterator<Item = (&PortSpec, PortId)> {
        self.spec.ports.iter().zip(self.ids.iter().copied())
    }

    /// Whether the configuration gives a port that address.
    pub(super) fn declares(&self, id: PortId, mac: Mac) -> bool {
        self.ports()
            .any(|(port, other)| other == id && port.macs.contains(&mac))
    }

    /// The port of that name.
    pub(super) fn port(&self, name: &str) -> Option<PortId> {
        self.ports()
            .find(|(port, _)| port.name == name)
            .map(|(_, id)| id)
    }
}

/// Everything that judges frames, with some ports behind lists that are not their own.
///
/// # Errors
/// The lists come to more than the classifier takes.
pub(super) fn gate(
    spec: &SwitchSpec,
    ids: &[PortId],
    epoch: u64,
    (quarantine, behind): (Quarantine, &Behind),
    (fdb, state): (Arc<Fdb>, Arc<State>),
) -> Result<Gate, TooLarge> {
    let policy = Policy::compile(epoch, &spec.policy_behind(ids, behind), state)?;
    Ok(Gate {
        policy: policy.with_quarantine(epoch, quarantine),
        fabric: Fabric::new(&rows(&spec.ports, ids), fdb),
    })
}

/// An address that could not be declared, and for which port.
#[derive(Debug)]
pub(super) struct Undeclared {
    pub(super) port: String,
    pub(super) source: StaticError,
}

/// A forwarding table that knows the declared addresses.
pub(super) fn fdb(spec: &SwitchSpec, ids: &[PortId]) -> Result<Fdb, Undeclared> {
    let fdb = Fdb::new(spec.fdb);
    for (port, id) in spec.ports.iter().zip(ids) {
        if let Some(most) = port.max_macs {
            fdb.cap_port(*id, most);
        }
        for mac in &port.macs {
            fdb.add_static(*id, *mac).map_err(|source| Undeclared {
                port: port.name.clone(),
                source,
            })?;
        }
    }
    Ok(fdb)
}

/// Copies into `fdb` what `old` has learned on ports that stay and in segments that they are still in, with its age.
pub(super) fn carry_over(old: &Fdb, fdb: &Fdb, stay: &[(PortId, &VlanMembership)], now: Tick) {
    let stay: HashMap<PortId, &VlanMembership> = stay.iter().copied().collect();
    for entry in old.entries(now) {
        let (Some(vid), Some(vlan)) = (entry.vid, stay.get(&entry.port)) else {
            continue;
        };
        if is_member(vlan, vid) {
            let heard = Tick::from_secs(now.as_secs().saturating_sub(entry.age.into()));
            // What is declared now is not learned, and what finds no room is heard of again.
            let _ = fdb.learn(entry.port, vid, entry.mac, heard);
        }
    }
}

fn is_member(vlan: &VlanMembership, vid: Vid) -> bool {
    match vlan {
        VlanMembership::Access(access) => *access == vid,
        VlanMembership::Trunk { allowed, native } => allowed.contains(vid) || *native == Some(vid),
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

/// The fabric's view; groups get numbers in the order in which their names appear. A number between that no port has is in
/// no segment: nothing goes there.
fn rows(ports: &[PortSpec], ids: &[PortId]) -> Vec<PortRow> {
    let nobody = PortRow {
        mode: Mode::Private,
        uplink: false,
        groups: Vec::new(),
        vlan: VlanMembership::Trunk {
            allowed: VidSet::empty(),
            native: None,
        },
    };
    let room = ids.iter().map(|id| id.index() + 1).max().unwrap_or(0);
    let mut rows = vec![nobody; room];
    let mut numbers: HashMap<&str, GroupId> = HashMap::new();
    for (port, id) in ports.iter().zip(ids) {
        let mut groups = Vec::new();
        for name in &port.groups {
            // 1,024 ports in 64 groups each are 65,536 names at most, and each has a number.
            let next = GroupId(u16::try_from(numbers.len()).unwrap_or(u16::MAX));
            groups.push(*numbers.entry(name).or_insert(next));
        }
        if let Some(row) = rows.get_mut(id.index()) {
            *row = PortRow {
                mode: port.mode,
                uplink: port.uplink,
                groups,
                vlan: port.vlan.clone(),
            };
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Overrides, from_text};

    fn spec(ports: &[&str]) -> SwitchSpec {
        let overrides = Overrides {
            ports: ports.iter().map(|port| (*port).to_owned()).collect(),
            ..Overrides::default()
        };
        from_text(None, "", &overrides).unwrap()
    }

    fn id(index: u16) -> PortId {
        PortId::new(index).unwrap()
    }

    fn gate_of(spec: &SwitchSpec, ids: &[PortId]) -> Gate {
        let fdb = Arc::new(fdb(spec, ids).unwrap());
        let state = State::new();
        let quarantine = (Quarantine::default(), &Behind::new());
        gate(spec, ids, 1, quarantine, (fdb, state)).unwrap()
    }

    #[test]
    fn a_group_has_one_number_wherever_it_is_named() {
        let spec = spec(&["a=/a,group=x,group=y", "b=/b,group=z", "c=/c,group=y"]);
        let groups: Vec<_> = rows(&spec.ports, &[id(0), id(1), id(2)])
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
        let gate = gate_of(
            &spec(&["a=/a,mac=52:54:00:00:00:01", "b=/b"]),
            &[id(0), id(1)],
        );
        let bound = |index| gate.policy.binds(id(index));
        assert_eq!([bound(0), bound(1), bound(2)], [true, true, false]);
        let now = crate::clock::Tick::ZERO;
        assert_eq!(gate.fabric.fdb().entries(now).count(), 1);
    }

    #[test]
    fn a_number_without_a_port_is_nobody_s() {
        let spec = spec(&["a=/a", "b=/b,uplink=yes"]);
        let gate = gate_of(&spec, &[id(4), id(1)]);
        let bound: Vec<u16> = (0..6).filter(|n| gate.policy.binds(id(*n))).collect();
        assert_eq!(bound, [1, 4]);
        for vid in [1, 2, 4094].into_iter().filter_map(Vid::new) {
            let members: Vec<PortId> = gate.fabric.vlans().segment(vid).iter().collect();
            let expected = if vid == Vid::DEFAULT {
                vec![id(1), id(4)]
            } else {
                vec![]
            };
            assert_eq!(members, expected);
        }
    }

    #[test]
    fn what_was_learned_goes_on_where_it_still_holds() {
        let mac = |n: u64| Mac::from_bits(0x5254_0000_0000 | n);
        let vid = |n| Vid::new(n).unwrap();
        let before = spec(&["a=/a,vlan=7", "b=/b,trunk=7,trunk=8", "c=/c"]);
        let ids = [id(0), id(1), id(2)];
        let old = fdb(&before, &ids).unwrap();
        let at = Tick::from_secs;
        for (port, vlan, n) in [(0, 7, 1), (1, 7, 2), (1, 8, 3), (2, 1, 4), (0, 7, 5)] {
            old.learn(id(port), vid(vlan), mac(n), at(100)).unwrap();
        }
        // c is gone, b has left VLAN 8, and one of a's addresses is declared for b now.
        let after = spec(&["a=/a,vlan=7", "b=/b,trunk=7,mac=52:54:00:00:00:05"]);
        let new = fdb(&after, &ids[..2]).unwrap();
        let stay = [(id(0), &after.ports[0].vlan), (id(1), &after.ports[1].vlan)];
        carry_over(&old, &new, &stay, at(150));
        let mut found: Vec<_> = new
            .entries(at(150))
            .map(|entry| (entry.mac, entry.port, entry.age, entry.is_static))
            .collect();
        found.sort();
        assert_eq!(
            found,
            [
                (mac(1), id(0), 50, false),
                (mac(2), id(1), 50, false),
                (mac(5), id(1), 0, true)
            ]
        );
    }
}
