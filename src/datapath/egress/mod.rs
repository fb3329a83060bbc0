//! Into the receivers' rings.
//!
//! A burst arrives sorted by receiver (see [`super::fanout`]). For each receiver: enter its ring once, reserve chains
//! for all frames, then copy all frames. Reserving first lets the destinations' lines be on their way while earlier
//! frames are copied. When everybody has been served and the sender has its buffers back, each receiver is published
//! with one store ([`Egress::publish`]), and when all locks are released those that want it are told ([`Egress::ring`]).
//!
//! - *Lost, never duplicated.* The sender's buffers are returned before a receiver is told: a switch that is killed
//!   between the two loses the frames; the other way round, its successor would find them offered once more (O-1). Of a ring
//!   that several workers write to, whoever publishes first publishes all that is written, since it must go out in order: a
//!   switch that is killed in that instant may find frames of the others offered once more. The other choice, to wait for
//!   them, would let a guest's long burst hold up frames that are none of its business.
//!
//! - *All or nothing.* Nothing is published before every byte and header of it is written. When the
//!   memory of either side failed meanwhile, the receiver's whole visit is abandoned: its used index does not move.
//! - *A full receiver* loses the frame at once; nobody waits and nothing is queued (F-3).
//! - *Offloads* that the receiver did not negotiate are completed on a private linear copy.

mod completion;
mod copy;
mod reserve;
mod writer;

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, MutexGuard};

use super::budget::COPIED;
use super::fanout::Frames;
use super::generation::Ports;
use super::slot::FRAME_MAX;
use super::slots::{Slots, Source};
use crate::counters::{DropReason, MAX_PORTS, PortId, Tally};
use crate::fabric::Fabric;
use crate::memory::Call;
use crate::port::lanes::{Epoch, Fault, Lanes, MAX_PAIRS, Owner, RxLane};
use crate::ring::{BURST, Slots as Places};
use copy::PendingList;

/// Receive rings of all ports, at most.
const RINGS: usize = MAX_PORTS * MAX_PAIRS as usize;

/// Segments of one visit from which on a giant is cut no more for receivers beyond its first.
///
/// The sender pays for segments, but only when they are made, and a flood makes them for every receiver: one visit of three
/// giants in a switch of a thousand ports would hold up everybody else for a second. The first receiver of a frame is always
/// served, so nothing that goes to one port meets this bound; what is collected at once (128 KiB and a chain) bounds that.
/// Later receivers are refused rather than put off, since a frame that is put off would have to be kept, and nothing here
/// waits for a receiver. It costs them what a full ring costs: a frame of a flood.
pub(super) const CUTS: u32 = 1024;

/// A receive ring with frames that are not published yet, and its lock.
pub(crate) struct Entered<'a> {
    to: &'a Lanes,
    pair: u16,
    slot: MutexGuard<'a, Option<RxLane>>,
}

/// Scratch of one worker for the way out.
pub(crate) struct Egress {
    places: Places,
    pending: PendingList,
    /// Frames for which there is room in the present visit, and their bytes.
    placed: Frames,
    placed_bytes: u64,
    linear: Vec<u8>,
    tally: Tally,
    /// Receive rings that were written to in this burst, each once.
    unpublished: Vec<(PortId, u16)>,
    /// Guests that want to be told of something.
    calls: Vec<(PortId, Epoch, Option<Arc<Call>>)>,
    /// Rings that broke, each once, and what tells their front-ends.
    broken: Vec<(PortId, Epoch, Option<Arc<Call>>)>,
    owner: Owner,
    #[cfg(test)]
    sabotaged: Option<u32>,
    /// Keys the choice of a receiver's queue, so that no guest can aim at one.
    flow_seed: u64,
    /// Copies that the burst came to, over all receivers: a broadcast costs its sender as many frames (F-5).
    copies: u32,
    /// Their bytes.
    copied_bytes: u64,
    /// Segments that the burst was cut into.
    extra_frames: u32,
    /// Bytes that were made private whole.
    extra_bytes: u64,
}

impl Egress {
    pub(crate) fn new() -> Self {
        Self {
            places: Places::new(),
            pending: PendingList::new(),
            placed: Frames::default(),
            placed_bytes: 0,
            linear: vec![0; FRAME_MAX as usize],
            tally: Tally::new(),
            unpublished: Vec::with_capacity(RINGS),
            calls: Vec::with_capacity(RINGS.saturating_add(1)), // the sender's own, too
            broken: Vec::with_capacity(RINGS.saturating_add(1)),
            owner: Owner::new(),
            #[cfg(test)]
            sabotaged: None,
            flow_seed: RandomState::new().hash_one(BURST),
            copies: 0,
            copied_bytes: 0,
            extra_frames: 0,
            extra_bytes: 0,
        }
    }

    /// Begins to count what a burst costs.
    pub(crate) fn begin(&mut self) {
        (self.copies, self.copied_bytes) = (0, 0);
        (self.extra_frames, self.extra_bytes) = (0, 0);
    }

    /// What the burst cost, in frames and bytes, where taking it from the ring cost `frames` and `bytes`.
    pub(crate) fn cost(&self, frames: u32, bytes: u64) -> (u32, u64) {
        (
            frames.max(self.copies).saturating_add(self.extra_frames),
            bytes
                .max(self.copied_bytes)
                .saturating_add(self.extra_bytes),
        )
    }

    /// Notes what a burst costs besides what is delivered of it, in copies.
    pub(crate) fn charge(&mut self, copies: u32) {
        self.copies = self.copies.saturating_add(copies);
    }

    /// Delivers the frames of `list` to one receiver, in order. Its last ring stays entered, so that the receiver that
    /// comes last, often the only one, need not be entered a second time to be published.
    pub(crate) fn deliver<'a>(
        &mut self,
        source: Source<'_>,
        slots: &mut Slots,
        mut list: Frames,
        to: &'a Lanes,
        fabric: &Fabric,
    ) -> Option<Entered<'a>> {
        if self.copied_bytes >= COPIED {
            list = self.first_only(slots, list, to);
        }
        if list.is_empty() {
            return None;
        }
        let receiving = to.receiving();
        if receiving & receiving.wrapping_sub(1) == 0 {
            // When none receives, the first ring's books note the loss.
            let pair = receiving.trailing_zeros() % u32::BITS;
            let pair = u16::try_from(pair).unwrap_or(0);
            self.visit(source, slots, list, to, pair, fabric)
        } else {
            self.spread(source, slots, list, to, receiving, fabric)
        }
    }

    /// Those of `list` that nobody has yet; the others are refused.
    #[cold]
    #[inline(never)]
    fn first_only(&mut self, slots: &mut Slots, list: Frames, to: &Lanes) -> Frames {
        let first = slots.without_forwarded(list);
        self.refuse(slots, list.without(first), to, DropReason::FloodLimit);
        first
    }

    /// A receiver with several queues: a flow stays on one of them, so that it keeps its order.
    fn spread<'a>(
        &mut self,
        source: Source<'_>,
        slots: &mut Slots,
        list: Frames,
        to: &'a Lanes,
        receiving: u32,
        fabric: &Fabric,
    ) -> Option<Entered<'a>> {
        let count = receiving.count_ones().max(1);
        let mut shares = [Frames::default(); MAX_PAIRS as usize];
        for index in list {
            let hash = slots
                .get(index)
                .map_or(0, |slot| slot.hash_flow(self.flow_seed));
            if let Some(share) = shares.get_mut((hash % count) as usize) {
                share.insert(index);
            }
        }
        let mut left = receiving;
        let mut entered = None;
        for share in shares {
            let pair = u16::try_from(left.trailing_zeros()).unwrap_or(u16::MAX);
            left &= left.wrapping_sub(1);
            if !share.is_empty() {
                self.leave(entered.take());
                entered = self.visit(source, slots, share, to, pair, fabric);
            }
        }
        entered
    }

    /// One visit to one receive ring, its lock held. Nothing when nothing is to be published.
    fn visit<'a>(
        &mut self,
        source: Source<'_>,
        slots: &mut Slots,
        list: Frames,
        to: &'a Lanes,
        pair: u16,
        fabric: &Fabric,
    ) -> Option<Entered<'a>> {
        let mut slot = to.rx(pair)?;
        let lane = slot
            .as_mut()
            .filter(|_| !to.faulted() && to.receiving() != 0);
        let has_frames = match lane {
            Some(lane) => self.fill(source, slots, list, lane, to, fabric),
            None => {
                self.lose_all(slots, list, DropReason::ReceiverDown);
                false
            }
        };
        to.counters().add_egress(pair.into(), &mut self.tally);
        has_frames.then_some(Entered { to, pair, slot })
    }

    /// Fills a receive ring; whether there is anything to be published then.
    fn fill(
        &mut self,
        source: Source<'_>,
        slots: &mut Slots,
        list: Frames,
        lane: &mut RxLane,
        to: &Lanes,
        fabric: &Fabric,
    ) -> bool {
        if lane.broken.is_some() {
            self.lose_all(slots, list, DropReason::ReceiverFault);
            return false;
        }
        if let Err(broken) = lane.begin() {
            if lane.ring.memory().faulted() {
                to.raise(lane.epoch, Fault::MemoryLost);
            } else {
                lane.broken = Some(broken);
                self.broke(to, lane.epoch, lane.err.clone());
            }
            self.lose_all(slots, list, DropReason::ReceiverFault);
            return false;
        }
        self.reserve(source, slots, list, lane, to, fabric);
        #[cfg(portcullis_mutant = "reread")]
        for pending in self.pending.all() {
            if let Some(slot) = slots.get_mut(pending.slot) {
                slot.read_again(source.memory, source.extents(pending.slot));
            }
        }
        self.copy(source, slots, lane);
        let malformed = lane.ring.take_malformed();
        to.counters()
            .events
            .malformed_chains
            .add(u64::from(malformed.count));
        #[cfg(test)]
        self.visit_sabotaged();
        self.conclude(source, slots, lane, to)
    }

    /// Lets the visit to a receiver after `visits` more panic, between its copies and its end.
    #[cfg(test)]
    pub(super) fn sabotage(&mut self, visits: u32) {
        self.sabotaged = Some(visits);
    }

    #[cfg(test)]
    fn visit_sabotaged(&mut self) {
        self.sabotaged = match self.sabotaged {
            Some(0) => panic!("a test wants to see what becomes of it"),
            more => more.map(|visits| visits - 1),
        };
    }

    /// Leaves a ring that is to be published later.
    pub(crate) fn leave(&mut self, entered: Option<Entered<'_>>) {
        if let Some(Entered { to, pair, .. }) = entered {
            self.unpublished.push((to.id(), pair)); // once a burst for each ring: it does not grow
        }
    }

    /// Publishes what every receiver of the burst has got, the one that was not left among them. To be called when the
    /// sender's buffers have been returned.
    pub(crate) fn publish(&mut self, entered: Option<Entered<'_>>, ports: &Ports) {
        if let Some(Entered { to, mut slot, .. }) = entered
            && let Some(lane) = slot.as_mut()
        {
            self.publish_one(lane, to);
        }
        while let Some((port, pair)) = self.unpublished.pop() {
            let Some(to) = ports.get(port) else {
                continue;
            };
            if let Some(mut slot) = to.rx(pair)
                && let Some(lane) = slot.as_mut()
            {
                self.publish_one(lane, to);
            }
        }
    }

    /// Nothing to do when another worker that wrote to the ring, too, was here first.
    fn publish_one(&mut self, lane: &mut RxLane, to: &Lanes) {
        if lane.unpublished.take().is_none() {
            return;
        }
        lane.settle();
        if lane.ring.publish() {
            self.call(to, lane.epoch, lane.call.clone());
        } else {
            to.counters().events.calls_suppressed.increment();
        }
    }

    /// Notes that a guest wants to be told: see [`ring`](Self::ring).
    pub(crate) fn call(&mut self, to: &Lanes, epoch: Epoch, call: Option<Arc<Call>>) {
        self.calls.push((to.id(), epoch, call)); // once a burst for each ring: it does not grow
    }

    /// After a panic: forgets the visit that it cut off, and publishes what earlier ones of this worker had finished,
    /// wherever that is.
    pub(crate) fn recover(&mut self, ports: &Ports) {
        for to in ports.iter() {
            for pair in 0..to.pairs() {
                if let Some(mut slot) = to.rx(pair)
                    && let Some(lane) = slot.as_mut()
                {
                    lane.settle();
                    if lane.unpublished == Some(self.owner) {
                        self.publish_one(lane, to);
                    }
                }
            }
        }
        self.ring(ports);
        *self = Self::new();
    }

    /// Notes a ring that broke: its front-end is told by [`ring`](Self::ring).
    #[cold]
    pub(crate) fn broke(&mut self, of: &Lanes, epoch: Epoch, err: Option<Arc<Call>>) {
        self.broken.push((of.id(), epoch, err)); // once for each ring: it does not grow
    }

    /// Tells the guests that want to be told. To be called when every lock is released: a call may wait, for a hostile
    /// front-end's descriptor.
    pub(crate) fn ring(&mut self, ports: &Ports) {
        for (port, epoch, err) in self.broken.drain(..) {
            if let Some(lanes) = ports.get(port) {
                lanes.ring_broke(epoch, err);
            }
        }
        for (port, epoch, call) in self.calls.drain(..) {
            let Some(to) = ports.get(port) else {
                continue;
            };
            to.counters().events.calls.increment();
            // A front-end whose call has blocked once is not waited for again, however many queues it has.
            if !to.faulted() && call.is_some_and(|call| call.ring().is_err()) {
                to.raise(epoch, Fault::CallBlocked);
            }
        }
    }

    /// Keeps what was written, or abandons the visit when the memory of either side failed.
    fn conclude(
        &mut self,
        source: Source<'_>,
        slots: &mut Slots,
        lane: &mut RxLane,
        to: &Lanes,
    ) -> bool {
        let reason = if lane.ring.memory().faulted() {
            to.raise(lane.epoch, Fault::MemoryLost);
            Some(DropReason::ReceiverFault)
        } else if source.faulted() {
            Some(DropReason::SenderFault)
        } else {
            None
        };
        lane.conclude();
        if let Some(reason) = reason {
            lane.ring.abandon();
            for index in self.placed {
                self.tally.lose(reason);
                slots.refuse(index, reason);
            }
            return false;
        }
        lane.unpublished = Some(self.owner);
        slots.delivered(self.placed);
        self.tally.pass_all(self.placed.count(), self.placed_bytes);
        true
    }

    /// Refuses these frames to a receiver, whatever room it has.
    pub(crate) fn refuse(
        &mut self,
        slots: &mut Slots,
        list: Frames,
        to: &Lanes,
        reason: DropReason,
    ) {
        if let Some(_slot) = to.rx(0) {
            self.lose_all(slots, list, reason);
            to.counters().add_egress(0, &mut self.tally);
        }
    }

    fn lose_all(&mut self, slots: &mut Slots, list: Frames, reason: DropReason) {
        self.charge(list.count());
        for index in list {
            self.tally
                .enter(slots.get(index).map_or(0, |slot| slot.len));
            self.tally.lose(reason);
            slots.refuse(index, reason);
        }
    }
}
