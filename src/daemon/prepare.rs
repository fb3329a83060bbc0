//! Everything about a reload that takes time or can fail, before anything that runs is touched.
//!
//! The result is whole: sockets are bound (and looked at by nobody yet), the gate is compiled, every port has its number.
//! Dropping it takes it all back. Putting it in force cannot fail.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use super::change::{self, Fate};
use super::plan::{self, Live};
use super::quarantine::Behind;
use super::source::{Source, SourceError};
use crate::clock::Clock;
use crate::config::{Place, SwitchSpec};
use crate::control::ChangeReport;
use crate::counters::{PortId, PortSet};
use crate::datapath::{Gate, Ports};
use crate::fabric::{Fdb, StaticError, VlanMembership};
use crate::policy::acl::TooLarge;
use crate::policy::quarantine::Quarantine;
use crate::policy::{Heritage, Policy, State};
use crate::port::door::Door;
use crate::port::endpoint::Endpoint;
use crate::port::lanes::{FaultBell, Lanes};
use crate::port::port::{OpenError, Port};

/// Why a configuration was not taken up.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReloadError {
    /// There is nothing to read.
    #[error("the switch was started from flags alone; name the file that it is to take up")]
    NoFile,
    /// The file, or what it says.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// What cannot be changed while the switch runs.
    #[error("{file}: restart needed: {} cannot be changed while the switch runs; put it back, or restart", keys.join(", "))]
    Restart {
        /// The file.
        file: String,
        /// What differs.
        keys: Vec<String>,
    },
    /// A port's socket.
    #[error("{place}: cannot open a port")]
    Port {
        /// Where the port was written.
        place: Place,
        /// Why.
        #[source]
        source: OpenError,
    },
    /// An address of the configuration.
    #[error("port {port:?}: cannot declare its address")]
    Address {
        /// The port.
        port: String,
        /// Why.
        #[source]
        source: StaticError,
    },
    /// The lists are too much.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// More ports come and go at once than there are numbers.
    #[error(
        "no number is free for a new port: 1,024 are there or going; take ports away first, and reload again"
    )]
    Full,
}

/// What a reload starts from.
#[derive(Debug)]
pub(super) struct Basis {
    pub(super) live: Arc<Live>,
    pub(super) ports: Ports,
    pub(super) fdb: Arc<Fdb>,
    pub(super) state: Arc<State>,
    /// That which is in force.
    pub(super) policy: Option<Policy>,
    pub(super) epoch: u64,
    /// Ports in quarantine that are to be behind lists.
    pub(super) behind: Behind,
    /// Numbers that may not be given out.
    pub(super) taken: PortSet,
    /// Paths at which ports listen.
    pub(super) held: HashMap<PathBuf, PortId>,
    pub(super) doors: Vec<Arc<Door>>,
    pub(super) bell: Arc<FaultBell>,
    pub(super) epoll: Arc<OwnedFd>,
    pub(super) clock: Clock,
}

/// A port that is to be opened.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) port: Port,
    /// The port whose socket it takes over.
    pub(super) inherits: Option<PortId>,
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) live: Live,
    pub(super) ports: Ports,
    pub(super) gate: Gate,
    /// Hits of rules that the policy before has, too.
    pub(super) heritage: Option<Heritage>,
    /// With whom behind which list the gate was compiled.
    pub(super) behind: Behind,
    pub(super) opening: Vec<Opening>,
    /// Ports of the old configuration that are not there, or not as they were, in the new.
    pub(super) leaving: Vec<PortId>,
    pub(super) change: ChangeReport,
}

impl Basis {
    /// Reads `file`, or the file of the switch, and prepares what it says.
    pub(super) fn prepare(&self, file: Option<PathBuf>) -> Result<Prepared, ReloadError> {
        let live = &self.live;
        let file = file
            .or_else(|| live.source.file.clone())
            .ok_or(ReloadError::NoFile)?;
        let (source, mut spec) = live.source.read_again(&file)?;
        keep_defaults(&mut spec, &live.spec, &file);
        let keys = change::needing_restart(&live.spec, &spec);
        if !keys.is_empty() {
            let file = file.display().to_string();
            return Err(ReloadError::Restart { file, keys });
        }
        self.prepare_spec(source, spec)
    }

    fn prepare_spec(&self, source: Source, spec: SwitchSpec) -> Result<Prepared, ReloadError> {
        let old = &self.live;
        let fates = change::fates(&old.spec, &old.ids, &spec);
        let ids = change::numbers(&fates, &self.taken).ok_or(ReloadError::Full)?;
        let stay: PortSet = fates
            .iter()
            .filter_map(|fate| match fate {
                Fate::Stays(id) => Some(*id),
                _ => None,
            })
            .collect();
        let leaving: Vec<PortId> = old
            .ids
            .iter()
            .copied()
            .filter(|id| !stay.contains(*id))
            .collect();
        let fdb = self.fdb(&spec, &ids, &fates, &leaving)?;
        let remembered = (fdb, Arc::clone(&self.state));
        let epoch = self.epoch + 1;
        let gate = plan::gate(
            &spec,
            &ids,
            epoch,
            (Quarantine::default(), &self.behind),
            remembered,
        )?;
        let workers = self.workers(&fates);
        let opening = self.openings(&spec, &ids, &workers, &fates, &leaving)?;
        let staying = stay.iter().filter_map(|id| self.ports.get(id));
        let opened = opening.iter().map(|opening| opening.port.lanes());
        let ports: Ports = staying.chain(opened).map(Arc::clone).collect();
        Ok(Prepared {
            change: change::compare(&old.spec, &spec),
            live: Live {
                source,
                spec,
                ids,
                workers,
            },
            ports,
            heritage: self
                .policy
                .as_ref()
                .map(|before| gate.policy.heir_of(before)),
            gate,
            behind: self.behind.clone(),
            opening,
            leaving,
        })
    }

    /// The table that runs, if nothing that concerns it has changed; else a new one, which has what still holds of the old.
    /// A new table knows nothing of ports that have gone, whatever a worker may still write into the old one.
    fn fdb(
        &self,
        spec: &SwitchSpec,
        ids: &[PortId],
        fates: &[Fate],
        leaving: &[PortId],
    ) -> Result<Arc<Fdb>, ReloadError> {
        let old = &self.live.spec;
        let concerned = |id: PortId, index: usize| {
            let before = self.live.ports().find(|(_, other)| *other == id);
            let after = spec.ports.get(index);
            before.zip(after).is_none_or(|((old, _), new)| {
                old.macs != new.macs
                    || old.vlan != new.vlan
                    || old.max_macs != new.max_macs
                    || old.guard.mac != new.guard.mac
            })
        };
        let is_as_before = leaving.is_empty()
            && old.fdb == spec.fdb
            && fates.iter().enumerate().all(|(index, fate)| match fate {
                Fate::Stays(id) => !concerned(*id, index),
                _ => false,
            });
        if is_as_before {
            return Ok(Arc::clone(&self.fdb));
        }
        let fdb = plan::fdb(spec, ids).map_err(|error| ReloadError::Address {
            port: error.port,
            source: error.source,
        })?;
        let ports = spec.ports.iter().zip(ids).zip(fates);
        let stay: Vec<(PortId, &VlanMembership)> = ports
            .filter(|(_, fate)| !fate.is_opened())
            .map(|((port, id), _)| (*id, &port.vlan))
            .collect();
        plan::carry_over(&self.fdb, &fdb, &stay, self.clock.now());
        Ok(Arc::new(fdb))
    }

    /// Who polls each port: those that stay stay with their worker, each of the others goes to the one with the fewest.
    fn workers(&self, fates: &[Fate]) -> Vec<usize> {
        let mut load = vec![0usize; self.doors.len().max(1)];
        let staying = |fate: &Fate| match fate {
            Fate::Stays(id) => {
                let place = self.live.ids.iter().position(|other| other == id)?;
                self.live.workers.get(place).copied()
            }
            _ => None,
        };
        for worker in fates.iter().filter_map(staying) {
            if let Some(count) = load.get_mut(worker) {
                *count += 1;
            }
        }
        let place = |fate: &Fate| {
            staying(fate).unwrap_or_else(|| {
                let least = load.iter().enumerate().min_by_key(|(_, count)| **count);
                let least = least.map_or(0, |(worker, _)| worker);
                if let Some(count) = load.get_mut(least) {
                    *count += 1;
                }
                least
            })
        };
        fates.iter().map(place).collect()
    }

    /// All ports that are to be opened or, with the first error, none.
    fn openings(
        &self,
        spec: &SwitchSpec,
        ids: &[PortId],
        workers: &[usize],
        fates: &[Fate],
        leaving: &[PortId],
    ) -> Result<Vec<Opening>, ReloadError> {
        let now = self.clock.now();
        let mut openings = Vec::new();
        let ports = spec.ports.iter().zip(ids).zip(workers).zip(fates);
        for (((port, id), worker), fate) in ports {
            let Some(door) = self.doors.get(*worker).filter(|_| fate.is_opened()) else {
                continue;
            };
            let lanes = Lanes::new(*id, port.queues, Arc::clone(door), Arc::clone(&self.bell));
            let (setup, epoll) = (plan::port_setup(port), Arc::clone(&self.epoll));
            let inherits = match &port.endpoint {
                Endpoint::Listen(path) => self.held.get(path).copied(),
                Endpoint::Connect(_) => None,
            };
            // Who may open a socket is decided when it is made.
            let suits = |holder: PortId| {
                let mut before = self.live.ports();
                before.any(|(old, id)| id == holder && old.access == port.access)
            };
            let inherits = inherits.filter(|holder| leaving.contains(holder) && suits(*holder));
            let port = match inherits {
                Some(_) => Port::heir(setup, lanes, epoll, now),
                None => Port::prepare(setup, lanes, epoll, now).map_err(|source| {
                    let place = port.origin.clone();
                    ReloadError::Port { place, source }
                })?,
            };
            openings.push(Opening { port, inherits });
        }
        Ok(openings)
    }
}

/// A name and a control socket that the file does not state follow from its own name at the start. A reload from another file
/// does not mean to change them.
pub fn keep_defaults(spec: &mut SwitchSpec, old: &SwitchSpec, file: &std::path::Path) {
    let stem = file.file_stem().and_then(|stem| stem.to_str());
    if stem == Some(&spec.name) || spec.name == "default" {
        spec.name.clone_from(&old.name);
        if spec.control_is_default && old.control_is_default {
            spec.control.clone_from(&old.control);
        }
    }
}
