//! Walks over all connections, [`STEP`] places at a time: no table's lock is held longer than that takes, so that no worker
//! waits for more.

use std::sync::atomic::Ordering::Relaxed;

use super::Tracker;
use super::entry::short_epoch;
use super::flow::{Flow, FlowRef, Terms};
use super::found::Found;
use super::table::Table;
use crate::clock::Tick;
use crate::counters::PortId;

/// Places that are looked at under one lock.
const STEP: u32 = 64;

impl Tracker {
    /// Ends connections that have expired, looking at `budget` places at most from where it stopped before. Returns
    /// how many it ended. For a thread that has the time: an expired connection goes no further in any case, but it is
    /// counted, and takes up room, until somebody has met it.
    pub fn sweep(&self, now: Tick, budget: u32) -> u64 {
        let tables = self.tables.len();
        let (mut ended, mut left) = (0u64, budget);
        // The table at which it stopped before comes first and last.
        for _ in 0..=tables {
            let turn = self.turn.load(Relaxed) % tables;
            let table = self.tables.get(turn).and_then(|table| table.get());
            let mut is_through = table.is_none_or(|table| table.live() == 0);
            while let Some(table) = table
                && !is_through
            {
                if left == 0 {
                    return ended;
                }
                let step = left.min(STEP);
                let (gone, is_end) = table.sweep(&self.seats, &self.settings, now, step);
                ended = ended.saturating_add(gone.into());
                left = left.saturating_sub(step);
                is_through = is_end;
            }
            self.turn.store(turn.wrapping_add(1), Relaxed);
        }
        ended
    }

    /// Ends all connections that a port has opened or was opened to; returns how many. For a port whose guest has gone.
    pub fn end_port(&self, port: PortId) -> u64 {
        let mut ended = 0u64;
        for table in self.tables().filter(|table| table.live() != 0) {
            let is_own = table.port == port;
            for from in steps(table) {
                let books = &mut *table.lock();
                table.walk(books, from, STEP, |books, found| {
                    if is_own || found.entry.peer() == port.get() {
                        table.end(books, &self.seats, &found);
                        ended = ended.saturating_add(1);
                    }
                });
            }
        }
        ended
    }

    /// Judges all connections under the policy `epoch` that were not yet: `judge` says on which terms each stays, or
    /// `None` for those that end. Returns how many ended. No lock is held while `judge` works.
    pub fn rejudge(
        &self,
        epoch: u64,
        now: Tick,
        mut judge: impl FnMut(&Flow) -> Option<Terms>,
    ) -> u64 {
        let mut ended = 0u64;
        let mut some: Vec<(FlowRef, Flow)> = Vec::with_capacity(STEP as usize);
        for table in self.tables().filter(|table| table.live() != 0) {
            for from in steps(table) {
                some.clear();
                table.walk(&mut table.lock(), from, STEP, |_, found| {
                    if found.entry.epoch() != short_epoch(epoch) {
                        let flow = found.flow(table.port, now);
                        some.extend(flow.map(|flow| (table.reference(&found), flow)));
                    }
                });
                for (reference, flow) in &some {
                    let is_gone = match judge(flow) {
                        Some(terms) => {
                            self.affirm(*reference, &terms, epoch);
                            false
                        }
                        None => self.end(*reference),
                    };
                    ended = ended.saturating_add(is_gone.into());
                }
            }
        }
        ended
    }

    /// A connection as it is now; `None` when it has ended.
    pub fn describe(&self, flow: FlowRef, now: Tick) -> Option<Flow> {
        let table = self.table(flow.port)?;
        let found = table.get(flow.slot, flow.generation)?;
        found.flow(table.port, now)
    }

    /// All connections, port by port. Each is shown as it is when the iterator comes to it; what opens or ends
    /// meanwhile may be shown or not.
    pub fn flows(&self, now: Tick) -> Flows<'_> {
        self.flows_from(now, 0)
    }

    /// The same from a [position](Flows::position) on.
    pub fn flows_from(&self, now: Tick, position: u64) -> Flows<'_> {
        Flows {
            tracker: self,
            now,
            table: usize::try_from(position >> 32).unwrap_or(usize::MAX),
            from: u32::try_from(position & u64::from(u32::MAX)).unwrap_or(u32::MAX),
            some: Vec::with_capacity(STEP as usize),
        }
    }
}

fn steps(table: &Table) -> impl Iterator<Item = u32> {
    (0..table.used()).step_by(STEP as usize)
}

/// See [`Tracker::flows`].
#[derive(Debug)]
pub struct Flows<'a> {
    tracker: &'a Tracker,
    now: Tick,
    table: usize,
    from: u32,
    /// Of the last step, those that are still to be shown, the first at the end.
    some: Vec<Flow>,
}

impl Flows<'_> {
    /// Where another walk can go on, when all that this one has looked at has been shown.
    pub fn position(&self) -> Option<u64> {
        let table = u64::try_from(self.table).ok()?;
        self.some
            .is_empty()
            .then_some(table << 32 | u64::from(self.from))
    }
}

impl Iterator for Flows<'_> {
    type Item = Flow;

    fn next(&mut self) -> Option<Flow> {
        while self.some.is_empty() {
            let slot = self.tracker.tables.get(self.table)?;
            let rest = slot
                .get()
                .filter(|table| table.live() != 0)
                .filter(|table| self.from < table.used());
            let Some(table) = rest else {
                self.table += 1;
                self.from = 0;
                continue;
            };
            let show = |found: Found<'_>| found.flow(table.port, self.now);
            table.walk(&mut table.lock(), self.from, STEP, |_, found| {
                self.some.extend(show(found));
            });
            self.some.reverse();
            self.from = self.from.saturating_add(STEP);
        }
        self.some.pop()
    }
}
