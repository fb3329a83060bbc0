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
use super::slot::{FRAME_MAX, FRAME_MIN, HEADER_MAX, Slot, bytes_of};
use super::slots::{Slots, Source};
use crate::counters::{DropReason, MAX_PORTS, PortId, Tally};
use crate::fabric::Fabric;
use crate::memory::{Extent, GuestMemory, Near, RegionHint};
use crate::port::lanes::{Fault, Lanes, MAX_PAIRS, RxLane};
use crate::ring::vnet::{LEGACY_LEN, VnetHeader};
use crate::ring::{BURST, ReserveError, Reserved, Slots as Places};
use writer::{TagEdit, Writer};

/// A frame for which chains are reserved, to be copied when all are.
#[derive(Clone, Copy, Debug)]
struct Pending {
    slot: u8,
    reserved: Reserved,
    edit: TagEdit,
    /// Already written: it was completed in software.
    written: bool,
}

impl Pending {
    const NONE: Self = Self {
        slot: 0,
        reserved: Reserved::NONE,
        edit: TagEdit::Keep,
        written: true,
    };
}

/// The pending frames of one visit, each frame of the burst once at most.
struct PendingList {
    list: Box<[Pending; BURST]>,
    len: usize,
}

impl PendingList {
    fn new() -> Self {
        Self {
            list: Box::new([Pending::NONE; BURST]),
            len: 0,
        }
    }

    fn clear(&mut self) {
        self.len = 0;
    }

    fn push(&mut self, pending: Pending) {
        if let Some(last) = self.list.get_mut(self.len) {
            *last = pending;
            self.len = self.len.wrapping_add(1); // at most BURST
        }
    }

    /// Room for more, to be [`filled`](Self::filled) from its beginning.
    #[inline(always)]
    fn room(&mut self) -> &mut [Pending] {
        self.list.get_mut(self.len..).unwrap_or_default()
    }

    #[inline(always)]
    fn filled(&mut self, count: usize) {
        self.len = self.len.saturating_add(count).min(BURST);
    }

    #[inline(always)]
    fn all(&self) -> &[Pending] {
        self.list.get(..self.len).unwrap_or_default()
    }

    #[inline(always)]
    fn all_mut(&mut self) -> &mut [Pending] {
        self.list.get_mut(..self.len).unwrap_or_default()
    }
}

/// Which frames a receiver gets as they are, behind a header of zeros.
#[derive(Clone, Copy)]
struct Plain {
    header_len: usize,
    /// Bytes, at most.
    longest: u32,
    /// None of these.
    not: Frames,
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
        for share in shares {
            let pair = u16::try_from(left.trailing_zeros()).unwrap_or(u16::MAX);
            left &= left.wrapping_sub(1);
            if !share.is_empty() {
                self.visit(source, slots, share, to, pair, fabric);
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
            to.counters().events.faults.increment();
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
        let mtu = to.mtu();
        let plain = Plain {
            header_len: lane.header_len,
            longest: mtu.map_or(u32::MAX, |mtu| u32::from(mtu).saturating_add(FRAME_MIN)),
            // Tags come and go on a trunk.
            not: if fabric.is_trunk(to.id()) {
                list
            } else {
                slots.special()
            },
        };
        (self.placed, self.placed_bytes) = (Frames::default(), 0);
        let mut lost_bytes = 0u64;
        let mut left = list;
        loop {
            let before = left;
            let bytes = self.reserve_plain(slots, &mut left, lane, plain);
            self.placed = self.placed.with(before.without(left));
            self.placed_bytes = self.placed_bytes.wrapping_add(bytes); // at most BURST times FRAME_MAX
            if bytes != 0 && !left.is_empty() {
                continue; // there may be more behind what was copied ahead
            }
            let Some(index) = left.next() else { break };
            let len = u64::from(slots.get(index).map_or(0, |slot| slot.len));
            match self.reserve_any(source, slots, index, lane, to, fabric) {
                Ok(()) => {
                    self.placed.insert(index);
                    self.placed_bytes = self.placed_bytes.wrapping_add(len); // as above
                }
                Err(reason) => {
                    lost_bytes = lost_bytes.wrapping_add(len); // as above
                    self.tally.lose(reason);
                    slots.refuse(index, reason);
                }
            }
        }
        let frames = list.count();
        let bytes = self.placed_bytes.wrapping_add(lost_bytes); // as above
        self.tally.enter_all(frames, bytes);
        self.copies = self.copies.saturating_add(frames);
        self.copied_bytes = self.copied_bytes.saturating_add(bytes);
    }

    /// Chains for frames that need nothing, one buffer each, up to the first of `left` that is otherwise. Returns their
    /// bytes.
    #[inline(always)]
    fn reserve_plain(
        &mut self,
        slots: &mut Slots,
        left: &mut Frames,
        lane: &mut RxLane,
        plain: Plain,
    ) -> u64 {
        let mut run = lane.ring.run();
        let mut bytes = 0u64;
        let mut placed = 0usize;
        for pending in self.pending.room() {
            let Some(index) = left.peek() else { break };
            let Some(slot) = slots.get_mut(index) else {
                break;
            };
            if plain.not.contains(index) || slot.len > plain.longest {
                break;
            }
            let want = slot.len.wrapping_add(bytes_of(plain.header_len)); // at most FRAME_MAX and 12
            let Some(reserved) = run.take(want) else {
                break;
            };
            slot.set_plain_header(plain.header_len);
            *pending = Pending {
                slot: index,
                reserved,
                edit: TagEdit::Keep,
                written: false,
            };
            bytes = bytes.wrapping_add(slot.len.into()); // at most BURST times FRAME_MAX
            placed = placed.wrapping_add(1); // at most BURST
            left.next();
        }
        drop(run);
        self.pending.filled(placed);
        bytes
    }

    /// Chains for any frame.
    #[inline(never)]
    fn reserve_any(
        &mut self,
        source: Source<'_>,
        slots: &mut Slots,
        index: u8,
        lane: &mut RxLane,
        to: &Lanes,
        fabric: &Fabric,
    ) -> Result<(), DropReason> {
        let slot = slots.get_mut(index).ok_or(DropReason::ReceiverFault)?;
        if slot.exceeds(to.mtu()) {
            return Err(DropReason::OverMtu);
        }
        let edit = TagEdit::of(slot, fabric.egress_tag(to.id(), slot.vid));
        let len = edit.grown(slot.len);
        match slot.offload {
            Offload::None => self.whole(source, slots, index, len, edit, lane, None),
            offload => self.offloaded(source, slots, index, len, edit, lane, offload),
        }
    }

    /// Chains for a frame that the receiver gets as the sender wrote it, behind `header`: none when it needs nothing.
    #[expect(
        clippy::too_many_arguments,
        reason = "the whole context of one frame on its way out"
    )]
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
            let header = header.unwrap_or(VnetHeader::PLAIN);
            let header = header.with_buffers(reserved.buffers).encode();
            slot.set_header(&header, lane.header_len);
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
    #[inline(never)]
    fn copy(&mut self, source: Source<'_>, slots: &Slots, lane: &RxLane) {
        let memory = lane.ring.memory();
        let first = self.pending.all().first();
        let first = first.and_then(|pending| pending.reserved.whole());
        let near = memory.near(first.map_or_else(RegionHint::default, Extent::hint));
        if lane.header_len == HEADER_MAX {
            self.copy_all::<HEADER_MAX>(source, slots, lane, near);
        } else {
            self.copy_all::<LEGACY_LEN>(source, slots, lane, near);
        }
    }

    /// Behind headers of `HEADER` bytes.
    #[inline(always)]
    fn copy_all<const HEADER: usize>(
        &mut self,
        source: Source<'_>,
        slots: &Slots,
        lane: &RxLane,
        near: Near<'_>,
    ) {
        for pending in self.pending.all_mut() {
            if std::mem::replace(&mut pending.written, true) {
                continue;
            }
            let Some(slot) = slots.get(pending.slot) else {
                continue;
            };
            if !copy_plain::<HEADER>(source, slot, pending, near, lane) {
                let places = self.places.extents(&pending.reserved);
                copy_any(source, slot, pending, places, lane);
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
            for index in self.placed {
                self.tally.lose(reason);
                slots.refuse(index, reason);
            }
            return false;
        }
        slots.delivered(self.placed);
        self.tally.pass_all(self.placed.count(), self.placed_bytes);
        true
    }

    fn lose_all(&mut self, slots: &mut Slots, list: Frames, reason: DropReason) {
        for index in list {
            self.tally
                .enter(slots.get(index).map_or(0, |slot| slot.len));
            self.tally.lose(reason);
            slots.refuse(index, reason);
        }
    }
}

/// The common case: one buffer takes the frame, and what is behind the snapshot, if anything, lies in one piece. False,
/// and nothing was copied, when anything is otherwise.
#[inline(always)]
fn copy_plain<const HEADER: usize>(
    source: Source<'_>,
    slot: &Slot,
    pending: &Pending,
    near: Near<'_>,
    lane: &RxLane,
) -> bool {
    let Some(place) = pending.reserved.whole() else {
        return false;
    };
    if pending.edit != TagEdit::Keep {
        return false;
    }
    let head = slot.framed(HEADER);
    let tail_len = slot.tail_len();
    if tail_len == 0 {
        return near.write(place, head);
    }
    let (Some(from), Some(chain)) = (source.memory, source.chain(pending.slot)) else {
        return false;
    };
    let Some(tail) = slot.tail().in_one(source.chains.extents(chain), tail_len) else {
        return false;
    };
    let rest = place.skip(bytes_of(head.len()));
    GuestMemory::copy((from, tail), (lane.ring.memory(), rest));
    near.write(place, head)
}

/// Any frame, in any pieces, into any pieces.
#[inline(never)]
fn copy_any(source: Source<'_>, slot: &Slot, pending: &Pending, places: &[Extent], lane: &RxLane) {
    let mut writer = Writer::new(lane.ring.memory(), places);
    if pending.edit == TagEdit::Keep {
        writer.put(slot.framed(lane.header_len));
    } else {
        writer.put(slot.header(lane.header_len));
        pending.edit.write(&mut writer, slot.snapshot());
    }
    let tail_len = slot.tail_len();
    if tail_len > 0
        && let Some(from) = source.memory
    {
        writer.put_from(from, slot.tail(), source.extents(pending.slot), tail_len);
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
