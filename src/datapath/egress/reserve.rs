//! The first pass over a receiver's frames: chains for every one of them.

use super::Egress;
use super::copy::Pending;
use super::writer::TagEdit;
use crate::counters::DropReason;
use crate::datapath::fanout::Frames;
use crate::datapath::offload::{Delivery, Offload};
use crate::datapath::slot::{FRAME_MIN, bytes_of};
use crate::datapath::slots::{Slots, Source};
use crate::fabric::Fabric;
use crate::port::lanes::{Lanes, RxLane};
use crate::ring::vnet::VnetHeader;
use crate::ring::{ReserveError, Reserved};

/// Which frames a receiver gets as they are, behind a header of zeros.
#[derive(Clone, Copy)]
struct Plain {
    header_len: usize,
    /// Bytes, at most.
    longest: u32,
    /// None of these.
    not: Frames,
}

impl Egress {
    /// First pass: chains for every frame. What needs completion in software is cut and written at once, in its turn.
    #[inline(never)]
    pub(super) fn reserve(
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
    pub(super) fn room(
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
