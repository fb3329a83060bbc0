//! One burst of one ring: the way of a frame, stage by stage.
//!
//! ```text
//! collect   chains, checked                          (ring)
//! take      the first bytes of each, made private    (slot)
//! judge     offload asked for, guard, fabric, gate   (offload, policy, fabric)
//! deliver   receiver by receiver                     (fanout, egress)
//! complete  every head goes back, one notification   (ring)
//! ```
//!
//! Each stage passes over the whole burst before the next begins, so that the memory that a stage needs was asked
//! for by the one before it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::Gate;
use super::budget::Credit;
use super::court::Court;
use super::egress::{Egress, Entered};
use super::fanout::{Fanout, Frames};
use super::generation::Ports;
use super::offload::Sender;
use super::slot::Framing;
use super::slots::{Slots, Source};
use super::worker::Visit;
use crate::clock::Tick;
use crate::counters::{DropReason, Tally};
use crate::fabric::LookupCache;
use crate::policy::{Context, Desk};
use crate::port::lanes::{Enabled, Epoch, Fault, Lanes, TxLane};
use crate::ring::{ChainBurst, TxRing};

/// The longest IP packet of a port that was told no MTU.
const NO_MTU: u16 = u16::MAX;

/// What is kept of one source port from burst to burst.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// Where its stations and those that it speaks to were found last.
    pub(crate) stations: LookupCache,
    /// What was judged of its flows.
    pub(crate) flows: Context,
    /// Under which generation of ports and gate the stations were found.
    generation: u64,
    /// When it was announced last.
    announced: Option<Tick>,
}

impl Memory {
    /// Forgets the stations that were found under another generation.
    pub(crate) fn renew(&mut self, generation: u64) {
        if std::mem::replace(&mut self.generation, generation) != generation {
            self.stations = LookupCache::default();
        }
    }

    /// Whether the port may be announced now, and then not again at once: an announcement goes to everybody, and no ring
    /// pays for it.
    pub(crate) fn may_announce(&mut self, now: Tick) -> bool {
        const SPACING: u64 = 10;
        let may = self
            .announced
            .is_none_or(|last| now.millis_since(last) >= SPACING);
        if may {
            self.announced = Some(now);
        }
        may
    }
}

/// The scratch of a worker, and the stages.
pub(crate) struct Step {
    chains: ChainBurst,
    slots: Slots,
    fanout: Fanout,
    egress: Egress,
    tally: Tally,
    /// The worker's place before the gate.
    desk: Desk,
    /// The connection whose burst is under way.
    epoch: Epoch,
    /// Frames of that burst that are in nobody's books yet.
    unbooked: usize,
}

impl Step {
    pub(crate) fn new() -> Self {
        Self {
            chains: ChainBurst::new(),
            slots: Slots::new(),
            fanout: Fanout::new(),
            egress: Egress::new(),
            tally: Tally::new(),
            desk: Desk::default(),
            epoch: Epoch::default(),
            unbooked: 0,
        }
    }

    /// Takes a burst from transmit ring `pair` of a port and delivers it. A panic on the way is caught here and becomes the
    /// port's fault.
    #[allow(clippy::too_many_arguments)]
    #[inline]
    pub(crate) fn visit(
        &mut self,
        lanes: &Lanes,
        pair: u16,
        ports: &Ports,
        gate: &Gate,
        now: Tick,
        credit: &mut Credit,
        kept: &mut Memory,
        greeted: &mut bool,
    ) -> Visit {
        self.epoch = lanes.epoch();
        catch_unwind(AssertUnwindSafe(|| {
            self.lock(lanes, pair, ports, gate, now, credit, kept, greeted)
        }))
        .unwrap_or_else(|_| {
            self.recover(lanes, ports);
            Visit::Gone
        })
    }

    #[allow(clippy::too_many_arguments)]
    #[inline(always)]
    fn lock(
        &mut self,
        lanes: &Lanes,
        pair: u16,
        ports: &Ports,
        gate: &Gate,
        now: Tick,
        credit: &mut Credit,
        kept: &mut Memory,
        greeted: &mut bool,
    ) -> Visit {
        let Some(mut slot) = lanes.tx(pair) else {
            return Visit::Gone;
        };
        let Some(lane) = slot.as_mut() else {
            return Visit::Gone;
        };
        self.epoch = lane.epoch;
        let visit = self.enter(lanes, lane, ports, gate, now, credit, kept, greeted);
        drop(slot);
        if let Visit::Worked(_) | Visit::Gone = visit {
            self.egress.ring(ports);
        }
        visit
    }

    /// The visit to a ring whose lock is held.
    #[allow(clippy::too_many_arguments)]
    #[inline(always)]
    fn enter(
        &mut self,
        lanes: &Lanes,
        lane: &mut TxLane,
        ports: &Ports,
        gate: &Gate,
        now: Tick,
        credit: &mut Credit,
        kept: &mut Memory,
        greeted: &mut bool,
    ) -> Visit {
        // What lies in a ring that nobody has enabled yet stays there; whoever enables it has it visited.
        if lane.broken.is_some() || lanes.faulted() || lane.enabled == Enabled::NotYet {
            return Visit::Gone;
        }
        if !std::mem::replace(greeted, true) {
            lane.ring.disable_kicks();
        }
        let Some(mut budget) = credit.budget() else {
            return Visit::Skipped;
        };
        let before = budget;
        match lane.ring.collect(&mut self.chains, &mut budget) {
            Ok(0) if lane.ring.memory().faulted() => {
                lanes.raise(lane.epoch, Fault::MemoryLost);
                return Visit::Gone;
            }
            Ok(0) => return Visit::Idle,
            Ok(_) => {}
            // Memory that was lost reads as zeros, and zeros look like an index that jumped: the cause comes first.
            Err(_) if lane.ring.memory().faulted() => {
                lanes.raise(lane.epoch, Fault::MemoryLost);
                return Visit::Gone;
            }
            Err(broken) => {
                lane.broken = Some(broken);
                self.egress.broke(lanes, lane.epoch, lane.err.clone());
                return Visit::Gone;
            }
        }
        let frames = self.burst(lanes, lane, ports, gate, now, kept);
        let bytes = u64::from(before.bytes.saturating_sub(budget.bytes));
        let (cost_frames, cost_bytes) = self.egress.cost(frames, bytes);
        let descriptors = before.descriptors.saturating_sub(budget.descriptors);
        credit.spend(cost_frames, cost_bytes, descriptors);
        if lane.ring.memory().faulted() {
            lanes.raise(lane.epoch, Fault::MemoryLost); // the port is left alone from the next visit on
        } else if lane.ring.should_notify() {
            self.egress.call(lanes, lane.epoch, lane.call.clone());
        } else {
            lanes.counters().events.calls_suppressed.increment();
        }
        Visit::Worked(frames)
    }

    /// See [`Egress::sabotage`].
    #[cfg(test)]
    pub(super) fn sabotage(&mut self, visits: u32) {
        self.egress.sabotage(visits);
    }

    /// Take, judge, deliver, complete, count.
    fn burst(
        &mut self,
        lanes: &Lanes,
        lane: &mut TxLane,
        ports: &Ports,
        gate: &Gate,
        now: Tick,
        kept: &mut Memory,
    ) -> u32 {
        self.unbooked = self.chains.chains().len();
        self.egress.begin();
        let memory = lane.ring.memory();
        let sender = Sender {
            features: lane.features,
            mtu: lanes.mtu().unwrap_or(NO_MTU),
        };
        let framing = Framing {
            header_len: lane.header_len,
            reads_header: sender.has_offloads(),
        };
        let source = Source {
            memory: Some(memory),
            chains: &self.chains,
        };
        let malformed = self.slots.take(memory, &self.chains, framing);
        if memory.faulted() {
            self.slots.refuse_all(DropReason::SenderFault);
        } else if lane.enabled == Enabled::No {
            self.slots.refuse_all(DropReason::RingDisabled);
        }
        let mut court = Court::call(
            lanes,
            (ports, gate),
            (source, now),
            (sender, framing),
            kept,
            &mut self.desk,
        );
        let answers = court.sit(&mut self.slots, &mut self.fanout);
        self.egress.charge(court.refused);
        let heard = court.heard;
        drop(court);
        let unheard = self.put_back(&mut lane.ring, heard);
        let malformed = malformed.saturating_sub(unheard);
        lanes.counters().events.malformed_chains.add(malformed);
        let memory = lane.ring.memory();
        let source = Source {
            memory: Some(memory),
            chains: &self.chains,
        };
        let entered = deliver(
            &mut self.egress,
            &mut self.fanout,
            source,
            &mut self.slots,
            ports,
            gate,
            now,
        );
        lane.ring.complete(&self.chains);
        // Before anybody is told, so that whoever has a frame finds it in the books.
        self.count(lanes, now);
        let entered = if answers.is_empty() {
            entered
        } else {
            self.egress.leave(entered);
            self.answer(lanes, answers, gate)
        };
        self.egress.publish(entered, ports);
        u32::try_from(self.chains.chains().len()).unwrap_or(u32::MAX)
    }

    /// Leaves in the ring what was not heard, so that it is the others' turn: see [`budget`](super::budget). Returns how many
    /// of it are no chains; they will be found again. That it was collected is not paid back: what ended the visit costs the ring
    /// more turns.
    #[inline(always)]
    fn put_back(&mut self, ring: &mut TxRing, heard: usize) -> u64 {
        match self.chains.chains().get(heard..) {
            None | Some([]) => 0,
            Some(unheard) => {
                let malformed = unheard.iter().filter(|chain| chain.fault.is_some());
                let (malformed, count) = (malformed.count(), unheard.len());
                self.slots.keep(heard);
                ring.put_back(&mut self.chains, count);
                self.unbooked = self.chains.chains().len();
                u64::try_from(malformed).unwrap_or(0)
            }
        }
    }

    /// Answers frames that were rejected, to their sender. Their own outcome is counted; their slots are free for the
    /// answers.
    #[cold]
    fn answer<'a>(
        &mut self,
        lanes: &'a Lanes,
        rejected: Frames,
        gate: &Gate,
    ) -> Option<Entered<'a>> {
        let answers = self.slots.turn_round(rejected);
        let own = Source {
            memory: None,
            chains: &self.chains,
        };
        self.egress
            .deliver(own, &mut self.slots, answers, lanes, &gate.fabric)
    }

    /// Sends a RARP frame of `mac` as if the guest had (vhost-user: SEND_RARP), so that switches learn where it is. A panic
    /// is caught as in [`visit`](Self::visit).
    pub(crate) fn announce(
        &mut self,
        lanes: &Lanes,
        mac: [u8; 6],
        ports: &Ports,
        gate: &Gate,
        now: Tick,
    ) {
        self.epoch = lanes.epoch();
        let caught = catch_unwind(AssertUnwindSafe(|| {
            self.announcement(lanes, mac, ports, gate, now);
        }));
        if caught.is_err() {
            self.recover(lanes, ports);
        }
    }

    fn announcement(&mut self, lanes: &Lanes, mac: [u8; 6], ports: &Ports, gate: &Gate, now: Tick) {
        self.chains.clear();
        self.egress.begin();
        self.slots.put(&rarp(mac));
        let source = Source {
            memory: None,
            chains: &self.chains,
        };
        let mut kept = Memory::default();
        let sender = Sender {
            features: 0,
            mtu: NO_MTU,
        };
        let framing = Framing {
            header_len: 0,
            reads_header: false,
        };
        let mut court = Court::call(
            lanes,
            (ports, gate),
            (source, now),
            (sender, framing),
            &mut kept,
            &mut self.desk,
        );
        court.sit(&mut self.slots, &mut self.fanout);
        drop(court);
        let entered = deliver(
            &mut self.egress,
            &mut self.fanout,
            source,
            &mut self.slots,
            ports,
            gate,
            now,
        );
        self.count(lanes, now);
        self.egress.publish(entered, ports);
        self.egress.ring(ports);
    }

    /// After a panic in the middle of a burst from `lanes`: the port is faulted; those of its frames that are in no book yet are
    /// counted as abandoned, what was under way anywhere is forgotten, and what was finished is published.
    fn recover(&mut self, lanes: &Lanes, ports: &Ports) {
        lanes.raise(self.epoch, Fault::Panicked);
        self.egress.recover(ports);
        self.fanout.clear();
        self.tally = Tally::new();
        for _ in 0..std::mem::take(&mut self.unbooked) {
            self.tally.enter(0);
            self.tally.lose(DropReason::StepAbandoned);
        }
        lanes.counters().add_ingress(&mut self.tally);
        self.chains.clear();
    }

    /// Puts the outcome of the burst into the port's books.
    fn count(&mut self, lanes: &Lanes, now: Tick) {
        self.slots
            .count(&mut self.tally, &lanes.counters().drops, now);
        lanes.counters().add_ingress(&mut self.tally);
        self.unbooked = 0;
    }
}

/// Hands the sorted burst to the receivers. The last of them stays entered.
fn deliver<'a>(
    egress: &mut Egress,
    fanout: &mut Fanout,
    source: Source<'_>,
    slots: &mut Slots,
    ports: &'a Ports,
    gate: &Gate,
    now: Tick,
) -> Option<Entered<'a>> {
    let mut entered = None;
    while let Some((to, mut frames)) = fanout.take() {
        if let Some(lanes) = ports.get(to) {
            egress.leave(entered.take());
            if gate.policy.limits_receiving(to) {
                let over = slots.over_limit(frames, &gate.policy, to, now);
                egress.refuse(slots, over, lanes, DropReason::ReceiveRate);
                frames = frames.without(over);
                if frames.is_empty() {
                    continue;
                }
            }
            entered = egress.deliver(source, slots, frames, lanes, &gate.fabric);
        }
    }
    entered
}

/// A RARP request for `mac` (RFC 903), as a guest's host sends it for a guest that has moved.
fn rarp(mac: [u8; 6]) -> [u8; 60] {
    let mut frame = [0u8; 60];
    let parts: [&[u8]; 7] = [
        &[0xff; 6],
        &mac,
        // RARP; Ethernet, IPv4, 6 and 4 bytes of address; request reverse.
        &[0x80, 0x35, 0x00, 0x01, 0x08, 0x00, 6, 4, 0x00, 0x03],
        &mac,
        &[0; 4],
        &mac,
        &[0; 4],
    ];
    for (to, from) in frame.iter_mut().zip(parts.into_iter().flatten()) {
        *to = *from;
    }
    frame
}
