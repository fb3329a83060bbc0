//! Into the receivers' rings.
//!
//! A burst arrives sorted by receiver (see [`super::fanout`]). For each receiver: enter its ring once, reserve chains
//! for all frames, then copy all frames. Reserving first lets the destinations' lines be on their way while earlier
//! frames are copied. When everybody has been served and the sender has its buffers back, each receiver is published
//! with one store and notified once ([`Egress::publish`]).
//!
//! - *Lost, never duplicated.* The sender's buffers are returned before a receiver is told: a switch that is killed
//!   between the two loses the frames; the other way round, its successor would find them offered once more (O-1).
//!
//! - *All or nothing.* Nothing is published before every byte and header of it is written. When the
//!   memory of either side failed meanwhile, the receiver's whole visit is abandoned: its used index does not move.
//! - *A full receiver* loses the frame at once; nobody waits and nothing is queued (F-3).
//! - *Offloads* that the receiver did not negotiate are completed on a private linear copy.

mod completion;
mod writer;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use super::fanout::Frames;
use super::offload::{Delivery, Offload};
use super::slot::{FRAME_MAX, Slots, bytes_of};
use crate::counters::{DropReason, MAX_PORTS, PortId, Tally};
use crate::fabric::Fabric;
use crate::memory::{Extent, GuestMemory};
use crate::port::lanes::{Fault, Lanes, MAX_PAIRS, RxLane};
use crate::ring::vnet::VnetHeader;
use crate::ring::{BURST, ChainBurst, ReserveError, Reserved, Slots as Places};
use writer::{TagEdit, Writer};

/// Where the bytes behind the snapshots come from.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    /// The sender's memory; none for a frame of our own making, which is all snapshot.
    pub(crate) memory: Option<&'a GuestMemory>,
    pub(crate) chains: &'a ChainBurst,
}

impl Source<'_> {
    pub(crate) fn extents(&self, slot: u8) -> &[Extent] {
        self.chains
            .chains()
            .get(usize::from(slot))
            .map(|chain| self.chains.extents(chain))
            .unwrap_or_default()
    }

    fn faulted(&self) -> bool {
        self.memory.is_some_and(GuestMemory::faulted)
    }
}

/// A frame for which chains are reserved, to be copied when all are.
#[derive(Clone, Copy, Debug)]
struct Pending {
    slot: u8,
    reserved: Reserved,
    edit: TagEdit,
    /// Already written: it was completed in software.
    written: bool,
}

/// Scratch of one worker for the way out.
pub(crate) struct Egress {
    places: Places,
    pending: Vec<Pending>,
    linear: Vec<u8>,
    tally: Tally,
    /// Receive rings that were written to in this burst, each once.
    unpublished: Vec<(PortId, u16)>,
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
            pending: Vec::with_capacity(BURST),
            linear: vec![0; FRAME_MAX as usize],
            tally: Tally::new(),
            unpublished: Vec::with_capacity(MAX_PORTS * usize::from(MAX_PAIRS)),
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

    /// Delivers the frames of `list` to one receiver, in order.
    pub(crate) fn deliver(
        &mut self,
        source: Source<'_>,
        slots: &mut Slots,
        list: Frames,
        to: &Lanes,
        fabric: &Fabric,
    ) {
        let receiving = to.receiving();
        if receiving & receiving.wrapping_sub(1) == 0 {
            let pair = u16::try_from(receiving.trailing_zeros()).unwrap_or(u16::MAX);
            self.visit(source, slots, list, to, pair, fabric);
        } else {
            self.spread(source, slots, list, to, receiving, fabric);
        }
        to.counters().add_egress(&mut self.tally);
    }

    /// A receiver with several queues: a flow stays on one of them, so that it keeps its order.
    fn spread(
        &mut self,
        source: Source<'_>,
        slots: &mut Slots,
        list: Frames,
        to: &Lanes,
        receiving: u32,
        fabric: &Fabric,
    ) {
        let count = receiving.count_ones().max(1);
        let mut left = receiving;
        for turn in 0..count {
            let pair = u16::try_from(left.trailing_zeros()).unwrap_or(u16::MAX);
            left &= left.wrapping_sub(1);
            let mut mine = Frames::default();
            for index in list {
                if let Some(slot) = slots.get_mut(index)
                    && slot.hash_flow(self.flow_seed) % count == turn
                {
                    mine.insert(index);
                }
            }
            if !mine.is_empty() {
                self.visit(source, slots, mine, to, pair, fabric);
            }
        }
    }

    /// One visit to one receive ring.
    fn visit(
        &mut self,
        source: Source<'_>,
        slots: &mut Slots,
        list: Frames,
        to: &Lanes,
        pair: u16,
        fabric: &Fabric,
    ) {
        let mut guard = to.rx(pair);
        let lane = guard.as_mut().and_then(|slot| slot.as_mut());
        let Some(lane) = lane.filter(|_| !to.faulted()) else {
            return self.lose_all(slots, list, DropReason::ReceiverDown);
        };
        if lane.broken.is_some() {
            return self.lose_all(slots, list, DropReason::ReceiverFault);
        }
        if let Err(broken) = lane.ring.begin() {
            if lane.ring.memory().faulted() {
                to.raise(Fault::MemoryLost);
                return self.lose_all(slots, list, DropReason::ReceiverFault);
            }
            lane.broken = Some(broken);
            let err = lane.err.clone();
            drop(guard);
            to.ring_broke(err);
            return self.lose_all(slots, list, DropReason::ReceiverFault);
        }
        self.reserve(source, slots, list, lane, to, fabric);
        self.copy(source, slots, lane);
        let malformed = lane.ring.take_malformed();
        to.counters()
            .events
            .malformed_chains
            .add(u64::from(malformed.count));
        if self.conclude(source, slots, lane, to) && !std::mem::replace(&mut lane.unpublished, true)
        {
            self.unpublished.push((to.id(), pair));
        }
    }

    /// Tells every receiver of the burst what it has got. To be called when the sender's buffers have been returned.
    pub(crate) fn publish(&mut self, ports: &[Arc<Lanes>]) {
        for (port, pair) in self.unpublished.drain(..) {
            let Some(to) = ports.get(port.index()) else {
                continue;
            };
            let mut guard = to.rx(pair);
            let Some(lane) = guard.as_mut().and_then(|slot| slot.as_mut()) else {
                continue;
            };
            if !std::mem::replace(&mut lane.unpublished, false) {
                continue;
            }
            if !lane.ring.publish() {
                to.counters().events.calls_suppressed.increment();
                continue;
            }
            let call = lane.call.clone();
            drop(guard);
            to.counters().events.calls.increment();
            // A front-end whose call has blocked once is not waited for again, however many queues it has.
            if !to.faulted() && call.is_some_and(|call| call.ring().is_err()) {
                to.raise(Fault::CallBlocked);
            }
        }
    }

    /// First pass: chains for every frame. What needs completion in software is cut and written at once, in its turn.
    #[inline(never)]
    fn reserve(
        &mut self,
        source: Source<'_>,
        slots: &mut Slots,
        list: Frames,
        lane: &mut RxLane,
        to: &Lanes,
        fabric: &Fabric,
    ) {
        self.places.clear();
        self.pending.clear();
        let (id, mtu) = (to.id(), to.mtu());
        let (mut frames, mut bytes) = (0u32, 0u64);
        for index in list {
            let Some(slot) = slots.get_mut(index) else {
                continue;
            };
            frames = frames.wrapping_add(1); // at most BURST
            bytes = bytes.wrapping_add(slot.len.into()); // at most BURST times FRAME_MAX
            let edit = TagEdit::of(slot, fabric.egress_tag(id, slot.vid));
            let len = edit.grown(slot.len);
            let reserved = match slot.offload {
                _ if slot.exceeds(mtu) => Err(DropReason::OverMtu),
                Offload::None => self.whole(source, slots, index, len, edit, lane, None),
                offload => self.offloaded(source, slots, index, len, edit, lane, offload),
            };
            if let Err(reason) = reserved {
                self.tally.lose(reason);
                if let Some(slot) = slots.get_mut(index) {
                    slot.refused(reason);
                }
            }
        }
        self.tally.enter_all(frames, bytes);
        self.copies = self.copies.saturating_add(frames);
        self.copied_bytes = self.copied_bytes.saturating_add(bytes);
    }

    /// Chains for a frame that the receiver gets as the sender wrote it, behind `header`: none when it needs nothing.
    #[expect(
        clippy::too_many_arguments,
        reason = "the whole context of one frame on its way out"
    )]
    #[inline(always)]
    fn whole(
        &mut self,
        source: Source<'_>,
        slots: &mut Slots,
        index: u8,
        len: u32,
        edit: TagEdit,
        lane: &mut RxLane,
        header: Option<VnetHeader>,
    ) -> Result<(), DropReason> {
        let reserved = self.room(source, slots, lane, len)?;
        if let Some(slot) = slots.get_mut(index) {
            match header {
                None => slot.set_plain_header(reserved.buffers, lane.header_len),
                Some(header) => {
                    let header = header.with_buffers(reserved.buffers).encode();
                    slot.set_header(&header, lane.header_len);
                }
            }
        }
        self.pending.push(Pending {
            slot: index,
            reserved,
            edit,
            written: false,
        });
        Ok(())
    }

    /// A frame that needs something still, which the receiver may or may not do by itself.
    #[expect(
        clippy::too_many_arguments,
        reason = "the whole context of one frame on its way out"
    )]
    #[inline(never)]
    fn offloaded(
        &mut self,
        source: Source<'_>,
        slots: &mut Slots,
        index: u8,
        len: u32,
        edit: TagEdit,
        lane: &mut RxLane,
        offload: Offload,
    ) -> Result<(), DropReason> {
        match offload.delivery(lane.features, edit.shift()) {
            Delivery::AsIs(header) => {
                self.whole(source, slots, index, len, edit, lane, Some(header))
            }
            Delivery::Complete(plan) => self.complete(source, slots, index, edit, lane, plan),
            Delivery::Segments { segment, partial } => {
                self.cut(source, slots, index, edit, lane, segment, partial)
            }
        }
    }

    /// Chains for one frame of `len` bytes. When the notes are full, what is noted is written first.
    #[inline(always)]
    fn room(
        &mut self,
        source: Source<'_>,
        slots: &mut Slots,
        lane: &mut RxLane,
        len: u32,
    ) -> Result<Reserved, DropReason> {
        let want = len.saturating_add(bytes_of(lane.header_len));
        match lane.ring.reserve(want, &mut self.places) {
            Err(ReserveError::SlotsFull) => self.room_again(source, slots, lane, want),
            other => other.map_err(reason_of),
        }
    }

    #[cold]
    #[inline(never)]
    fn room_again(
        &mut self,
        source: Source<'_>,
        slots: &mut Slots,
        lane: &mut RxLane,
        want: u32,
    ) -> Result<Reserved, DropReason> {
        self.copy(source, slots, lane);
        self.places.clear();
        lane.ring.reserve(want, &mut self.places).map_err(reason_of)
    }

    /// Second pass: headers, snapshots, and the rest from guest to guest.
    fn copy(&mut self, source: Source<'_>, slots: &mut Slots, lane: &RxLane) {
        let memory = lane.ring.memory();
        for pending in self.pending.iter_mut().filter(|pending| !pending.written) {
            pending.written = true;
            let Some(slot) = slots.get_mut(pending.slot) else {
                continue;
            };
            #[cfg(portcullis_mutant = "reread")]
            slot.read_again(source.memory, source.extents(pending.slot));
            let places = self.places.extents(&pending.reserved);
            let tail_len = slot.tail_len();
            // The fast path: one buffer takes the frame, and what is behind the snapshot, if anything, lies in one piece.
            if let [place] = places
                && pending.edit == TagEdit::Keep
            {
                let head = slot.framed(lane.header_len);
                if tail_len == 0 {
                    memory.write(*place, head);
                    continue;
                }
                let head_len = bytes_of(head.len());
                if let Some(from) = source.memory
                    && let Some(tail) = slot.tail().in_one(source.extents(pending.slot), tail_len)
                {
                    memory.write(place.take(head_len), head);
                    GuestMemory::copy((from, tail), (memory, place.skip(head_len)));
                    continue;
                }
            }
            let mut writer = Writer::new(memory, places);
            if pending.edit == TagEdit::Keep {
                writer.put(slot.framed(lane.header_len));
            } else {
                writer.put(slot.header(lane.header_len));
                pending.edit.write(&mut writer, slot.snapshot());
            }
            if tail_len > 0
                && let Some(from) = source.memory
            {
                writer.put_from(from, slot.tail(), source.extents(pending.slot), tail_len);
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
            to.raise(Fault::MemoryLost);
            Some(DropReason::ReceiverFault)
        } else if source.faulted() {
            Some(DropReason::SenderFault)
        } else {
            None
        };
        if let Some(reason) = reason {
            lane.ring.abandon();
            for pending in self.pending.drain(..) {
                self.tally.lose(reason);
                if let Some(slot) = slots.get_mut(pending.slot) {
                    slot.refused(reason);
                }
            }
            return false;
        }
        let (mut frames, mut bytes) = (0u32, 0u64);
        for pending in self.pending.drain(..) {
            if let Some(slot) = slots.get_mut(pending.slot) {
                frames = frames.wrapping_add(1); // as in `reserve`
                bytes = bytes.wrapping_add(slot.len.into());
                slot.delivered();
            }
        }
        self.tally.pass_all(frames, bytes);
        true
    }

    fn lose_all(&mut self, slots: &mut Slots, list: Frames, reason: DropReason) {
        for index in list {
            if let Some(slot) = slots.get_mut(index) {
                self.tally.enter(slot.len);
                self.tally.lose(reason);
                slot.refused(reason);
            }
        }
    }
}

/// What the receiver's ring had against a frame.
const fn reason_of(error: ReserveError) -> DropReason {
    match error {
        ReserveError::NoBuffers => DropReason::ReceiverFull,
        ReserveError::TooSmall | ReserveError::TooManyPieces | ReserveError::SlotsFull => {
            DropReason::ReceiverTooSmall
        }
    }
}
