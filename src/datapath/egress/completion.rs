//! Frames that a receiver cannot take as they are: a checksum completed, a giant cut, on a private linear copy.

use super::copy::Pending;
use super::writer::{TagEdit, Writer};
use super::{CUTS, Egress};
use crate::counters::DropReason;
use crate::datapath::offload::{Checksum, Segment, Segmenter, complete_checksum};
use crate::datapath::slots::{Slots, Source};
use crate::port::lanes::RxLane;
use crate::ring::Reserved;
use crate::ring::vnet::VnetHeader;

impl Egress {
    /// Writes one frame whose checksum the receiver wants complete.
    pub(super) fn complete(
        &mut self,
        source: Source<'_>,
        slots: &mut Slots,
        index: u8,
        edit: TagEdit,
        lane: &mut RxLane,
        plan: Checksum,
    ) -> Result<(), DropReason> {
        let len = self.linearise(source, slots, index)?;
        let frame = self
            .linear
            .get_mut(..len)
            .ok_or(DropReason::NotSegmentable)?;
        if !complete_checksum(frame, plan) {
            return Err(DropReason::NotSegmentable);
        }
        let reserved = self.room(
            source,
            slots,
            lane,
            edit.grown(u32::try_from(len).unwrap_or(u32::MAX)),
        )?;
        let header = VnetHeader::default()
            .with_buffers(reserved.buffers)
            .encode();
        let mut writer = Writer::new(lane.ring.memory(), self.places.extents(&reserved));
        writer.put(header.get(..lane.header_len).unwrap_or_default());
        edit.write(&mut writer, self.linear.get(..len).unwrap_or_default());
        self.pending.push(Pending {
            slot: index,
            reserved,
            edit,
            written: true,
        });
        Ok(())
    }

    /// Writes one frame as the segments that it stands for. If the receiver's buffers run out on the way, what was
    /// written of it is delivered and the frame counts as undelivered, as on any path where segments get lost.
    #[expect(
        clippy::too_many_arguments,
        reason = "the whole context of one frame on its way out"
    )]
    pub(super) fn cut(
        &mut self,
        source: Source<'_>,
        slots: &mut Slots,
        index: u8,
        edit: TagEdit,
        lane: &mut RxLane,
        segment: Segment,
        partial: bool,
    ) -> Result<(), DropReason> {
        if self.extra_frames >= CUTS && slots.is_forwarded(index) {
            return Err(DropReason::CutLimit);
        }
        let len = self.linearise(source, slots, index)?;
        // Taken out while segments are read from it, since `room` may have to write other frames meanwhile.
        let linear = std::mem::take(&mut self.linear);
        let frame = linear.get(..len).unwrap_or_default();
        let last = self.cut_frame(frame, source, slots, edit, lane, segment, partial);
        self.linear = linear;
        let reserved = last?;
        self.pending.push(Pending {
            slot: index,
            reserved,
            edit,
            written: true,
        });
        Ok(())
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the whole context of one frame on its way out"
    )]
    fn cut_frame(
        &mut self,
        frame: &[u8],
        source: Source<'_>,
        slots: &mut Slots,
        edit: TagEdit,
        lane: &mut RxLane,
        segment: Segment,
        partial: bool,
    ) -> Result<Reserved, DropReason> {
        let segmenter = if partial {
            Segmenter::partial(segment, frame)
        } else {
            Segmenter::complete(segment, frame)
        };
        let mut segmenter = segmenter.ok_or(DropReason::NotSegmentable)?;
        let header = segmenter.header(edit.shift());
        let mut last = None;
        while let Some(cut) = segmenter.next_cut() {
            let len = edit.grown(u32::try_from(cut.len()).unwrap_or(u32::MAX));
            let reserved = self.room(source, slots, lane, len)?;
            let header = header.with_buffers(reserved.buffers).encode();
            let mut writer = Writer::new(lane.ring.memory(), self.places.extents(&reserved));
            writer.put(header.get(..lane.header_len).unwrap_or_default());
            edit.write(&mut writer, cut.head);
            writer.put(frame.get(cut.payload.clone()).unwrap_or_default());
            self.extra_frames = self.extra_frames.saturating_add(1);
            last = Some(reserved);
        }
        last.ok_or(DropReason::NotSegmentable)
    }

    /// Copies a frame into private memory, whole; returns its length.
    fn linearise(
        &mut self,
        source: Source<'_>,
        slots: &mut Slots,
        index: u8,
    ) -> Result<usize, DropReason> {
        let slot = slots.get_mut(index).ok_or(DropReason::NotSegmentable)?;
        let snapshot = slot.snapshot();
        let (head, rest) = self
            .linear
            .split_at_mut_checked(snapshot.len())
            .ok_or(DropReason::NotSegmentable)?;
        head.copy_from_slice(snapshot);
        if let (Some(memory), Some(rest)) =
            (source.memory, rest.get_mut(..slot.tail_len() as usize))
        {
            slot.tail().read(memory, source.extents(index), rest);
        }
        self.extra_bytes = self.extra_bytes.saturating_add(u64::from(slot.len));
        Ok(slot.len as usize)
    }
}
