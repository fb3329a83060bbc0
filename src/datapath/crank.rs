//! A worker that is turned by hand, for tests, fuzzing and benchmarks.
//!
//! It takes the very steps that a [worker](super::Workers) takes, on the caller's thread, one visit at a call: what is
//! left out is the polling, the sleeping and the sharing of time between rings.

use std::sync::Arc;

use super::Gate;
use super::budget::Credit;
use super::generation::Ports;
use super::step::{Memory, Step};
use super::worker::Visit;
use crate::clock::Tick;
use crate::counters::{MAX_PORTS, PortId};
use crate::port::lanes::Lanes;

/// See the head of this file.
pub struct Crank {
    step: Step,
    gate: Gate,
    ports: Ports,
    kept: Vec<Memory>,
    credit: Credit,
}

impl Crank {
    /// A crank over all ports of a switch.
    #[must_use]
    pub fn new(ports: Vec<Arc<Lanes>>, gate: Gate) -> Self {
        Self {
            step: Step::new(),
            gate,
            ports: ports.into_iter().collect(),
            kept: (0..MAX_PORTS).map(|_| Memory::default()).collect(),
            credit: Credit::default(),
        }
    }

    /// Visits transmit ring `pair` of `port` once; returns the frames taken, `None` when the ring does not run, or is not enabled
    /// yet.
    #[inline(never)] // a name that a profile can be taken by
    pub fn turn(&mut self, port: PortId, pair: u16, now: Tick) -> Option<u32> {
        let lanes = self.ports.get(port)?;
        let kept = self.kept.get_mut(port.index())?;
        self.credit = Credit::default();
        self.credit.replenish();
        let mut greeted = true;
        match self.step.visit(
            lanes,
            pair,
            &self.ports,
            &self.gate,
            now,
            &mut self.credit,
            kept,
            &mut greeted,
        ) {
            Visit::Worked(frames) => Some(frames),
            Visit::Idle | Visit::Skipped => Some(0),
            Visit::Gone => None,
        }
    }

    /// Rounds that a worker would pass the ring over for what the last visit cost.
    #[must_use]
    pub fn rounds_in_debt(&self) -> u32 {
        let mut credit = self.credit;
        let mut rounds = 0u32;
        credit.replenish();
        while credit.budget().is_none() {
            credit.replenish();
            rounds = rounds.saturating_add(1);
        }
        rounds
    }

    /// Lets the visit to a receiver after `visits` more panic.
    #[cfg(test)]
    pub(super) fn sabotage(&mut self, visits: u32) {
        self.step.sabotage(visits);
    }

    /// Puts another gate in force; returns the one before.
    pub fn replace_gate(&mut self, gate: Gate) -> Gate {
        std::mem::replace(&mut self.gate, gate)
    }

    /// The gate.
    #[must_use]
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// The ports.
    #[must_use]
    pub fn ports(&self) -> &Ports {
        &self.ports
    }
}
