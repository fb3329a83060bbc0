//! The frames of a burst, from their snapshots to their outcomes.
//!
//! What becomes of a frame is a bit in one of a few words, so that the common outcome of a whole burst, all of it
//! delivered, is one operation.

use super::fanout::Frames;
use super::slot::{Framing, Slot, bytes_of};
use crate::clock::Tick;
use crate::counters::drops::{DropLog, Dropped};
use crate::counters::{DropReason, PortId, Tally};
use crate::frame::Frame;
use crate::memory::{Extent, GuestMemory, RegionHint};
use crate::policy::Policy;
use crate::policy::digest::Digest;
use crate::policy::reject::Answer;
use crate::ring::{BURST, Chain, ChainBurst};

/// Slots of a burst, as their numbers count them.
const BURST_8: u8 = 64;
const _: () = assert!(BURST_8 as usize == BURST);

/// Where the bytes behind the snapshots come from.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    /// The sender's memory; none for a frame of our own making, which is all snapshot.
    pub(crate) memory: Option<&'a GuestMemory>,
    pub(crate) chains: &'a ChainBurst,
}

impl Source<'_> {
    #[inline(always)]
    pub(crate) fn chain(&self, slot: u8) -> Option<&Chain> {
        self.chains.chains().get(usize::from(slot))
    }

    pub(crate) fn extents(&self, slot: u8) -> &[Extent] {
        self.chain(slot)
            .map(|chain| self.chains.extents(chain))
            .unwrap_or_default()
    }

    pub(crate) fn faulted(&self) -> bool {
        self.memory.is_some_and(GuestMemory::faulted)
    }
}

/// The slots of a burst, one for each chain.
#[derive(Debug)]
pub(crate) struct Slots {
    slots: Box<[Slot; BURST]>,
    /// Frames in the burst.
    all: Frames,
    /// Their bytes.
    bytes: u64,
    /// Those that need more than to be copied: they carry a tag, or ask for an offload.
    special: Frames,
    /// Those that at least one receiver has.
    forwarded: Frames,
    /// Those that some receiver, or everybody, was refused: the first reason counts.
    refused: Frames,
    reasons: Box<[DropReason; BURST]>,
}

impl Slots {
    pub(crate) fn new() -> Self {
        Self {
            slots: Box::new(std::array::from_fn(|_| Slot::empty())),
            all: Frames::default(),
            bytes: 0,
            special: Frames::default(),
            forwarded: Frames::default(),
            refused: Frames::default(),
            reasons: Box::new([DropReason::MalformedChain; BURST]),
        }
    }

    /// A burst of the first `count` slots.
    fn begin(&mut self, count: usize) {
        self.all = Frames::first(count);
        self.bytes = 0;
        self.special = Frames::default();
        self.forwarded = Frames::default();
        self.refused = Frames::default();
    }

    /// Takes the snapshots of a burst; what is no frame is refused at once. Returns how many chains were malformed.
    pub(crate) fn take(
        &mut self,
        memory: &GuestMemory,
        chains: &ChainBurst,
        framing: Framing,
    ) -> u64 {
        if framing.reads_header {
            self.take_all::<true>(memory, chains, framing)
        } else {
            self.take_all::<false>(memory, chains, framing)
        }
    }

    #[inline(always)]
    fn take_all<const READS_HEADER: bool>(
        &mut self,
        memory: &GuestMemory,
        chains: &ChainBurst,
        framing: Framing,
    ) -> u64 {
        self.begin(chains.chains().len());
        let first = chains.chains().first().and_then(Chain::whole);
        let near = memory.near(first.map_or_else(RegionHint::default, Extent::hint));
        let header = bytes_of(framing.header_len);
        let (mut malformed, mut bytes) = (0u64, 0u64);
        for (index, (slot, chain)) in (0..BURST_8).zip(self.slots.iter_mut().zip(chains.chains())) {
            if !slot.take_whole::<READS_HEADER>(near, chain, header)
                && let Err(because) = slot.take(memory, chain, chains.extents(chain), framing)
            {
                malformed = malformed.wrapping_add(chain.fault.is_some().into()); // at most BURST
                self.refused.insert(index);
                if let Some(reason) = self.reasons.get_mut(usize::from(index)) {
                    *reason = because;
                }
            }
            bytes = bytes.wrapping_add(slot.len.into()); // at most BURST frames of FRAME_MAX bytes
        }
        self.bytes = bytes;
        malformed
    }

    /// Leaves only the first `count` frames in the burst: the others were not judged, and go to nobody.
    #[cold]
    pub(crate) fn keep(&mut self, count: usize) {
        let kept = Frames::first(count);
        let left = self.all.without(kept);
        let bytes = left.filter_map(|index| self.get(index).map(|slot| u64::from(slot.len)));
        let bytes = bytes.sum::<u64>(); // at most BURST frames of FRAME_MAX bytes
        self.bytes = self.bytes.saturating_sub(bytes);
        self.all = self.all.without(left);
    }

    /// Puts in a burst of one frame of our own making.
    pub(crate) fn put(&mut self, frame: &[u8]) {
        self.begin(1);
        if let Some(slot) = self.get_mut(0) {
            slot.put(frame);
            self.bytes = slot.len.into();
        }
    }

    /// Those of `frames` that are more than `to` may be sent.
    #[cold]
    pub(crate) fn over_limit(
        &self,
        frames: Frames,
        policy: &Policy,
        to: PortId,
        now: Tick,
    ) -> Frames {
        let mut over = Frames::default();
        for index in frames {
            if let Some(slot) = self.get(index)
                && policy.may_receive(to, slot.weight(), now).is_err()
            {
                over.insert(index);
            }
        }
        over
    }

    /// Makes answers of rejected frames, in their slots; returns those for which there is one.
    pub(crate) fn turn_round(&mut self, rejected: Frames) -> Frames {
        let mut answers = Frames::default();
        for index in rejected {
            let Some(slot) = self.get_mut(index) else {
                continue;
            };
            let vid = slot.vid;
            let answer = Frame::parse(slot.snapshot(), slot.len)
                .ok()
                .and_then(|frame| Answer::to(&frame, &Digest::of(&frame, vid.get())));
            if let Some(answer) = answer {
                slot.put(answer.bytes());
                slot.vid = vid;
                answers.insert(index);
            }
        }
        // Nothing of them is asked of the receiver, and none has a tag.
        self.special = self.special.without(answers);
        answers
    }

    /// Slot `index`.
    #[inline(always)]
    pub(crate) fn get_mut(&mut self, index: u8) -> Option<&mut Slot> {
        self.slots.get_mut(usize::from(index))
    }

    /// Slot `index`.
    #[inline(always)]
    pub(crate) fn get(&self, index: u8) -> Option<&Slot> {
        self.slots.get(usize::from(index))
    }

    /// Frames whose way is still open: nobody has them, and nobody was refused them.
    #[inline]
    pub(crate) fn open(&self) -> Frames {
        self.all.without(self.forwarded).without(self.refused)
    }

    /// Frames that need more than to be copied.
    #[inline]
    pub(crate) fn special(&self) -> Frames {
        self.special
    }

    /// These frames need more than to be copied.
    #[inline]
    pub(crate) fn mark_special(&mut self, frames: Frames) {
        self.special = frames;
    }

    /// Whether some receiver has the frame already.
    #[inline]
    pub(crate) fn is_forwarded(&self, index: u8) -> bool {
        self.forwarded.contains(index)
    }

    /// Those of `frames` that no receiver has.
    pub(crate) fn without_forwarded(&self, frames: Frames) -> Frames {
        frames.without(self.forwarded)
    }

    /// One receiver has these frames.
    #[inline]
    pub(crate) fn delivered(&mut self, frames: Frames) {
        self.forwarded = self.forwarded.with(frames);
    }

    /// One receiver will not have the frame, or nobody.
    #[cold]
    pub(crate) fn refuse(&mut self, index: u8, because: DropReason) {
        if self.open().contains(index)
            && let Some(reason) = self.reasons.get_mut(usize::from(index))
        {
            *reason = because;
            self.refused.insert(index);
        }
    }

    /// As [`refuse`](Self::refuse), for all frames whose way is open.
    pub(crate) fn refuse_all(&mut self, because: DropReason) {
        for index in self.open() {
            self.refuse(index, because);
        }
    }

    /// Counts what has become of the burst, for its source, and keeps some of what was dropped.
    pub(crate) fn count(&self, tally: &mut Tally, drops: &DropLog, now: Tick) {
        let mut passed_bytes = self.bytes;
        for index in self.all.without(self.forwarded) {
            let reason = self.reasons.get(usize::from(index));
            let reason = reason.filter(|_| self.refused.contains(index));
            // A frame that was judged and offered to nobody: every way out gives a reason.
            let reason = reason.copied().unwrap_or(DropReason::NoDestination);
            tally.lose(reason);
            if drops.wants(reason, now) {
                self.note(index, reason, drops, now);
            }
            let len = self.get(index).map_or(0, |slot| slot.len);
            passed_bytes = passed_bytes.wrapping_sub(len.into()); // it is a part of `bytes`
        }
        tally.enter_all(self.all.count(), self.bytes);
        tally.pass_all(self.forwarded.count(), passed_bytes);
    }

    /// Keeps a frame that was lost without a word from the gate.
    #[cold]
    fn note(&self, index: u8, reason: DropReason, drops: &DropLog, now: Tick) {
        let Some(slot) = self.get(index) else { return };
        let dropped = Dropped {
            reason,
            rule: None,
            to: None,
            len: slot.len,
            bytes: slot.snapshot(),
        };
        drops.note(&dropped, now);
    }
}
