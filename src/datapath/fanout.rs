//! A burst, sorted by receiver.
//!
//! The frames of one source are judged one by one and delivered receiver by receiver, so that each receiver's
//! ring is entered, published and notified once a burst. Between the two stands a set of frames for each receiver:
//! a burst has 64 frames at most and a frame goes to a receiver once, so a set is one word, its order is the order
//! of arrival, and even a burst of broadcasts to a thousand ports is noted without allocating.

use crate::counters::{MAX_PORTS, PortId};
use crate::policy::Permit;
use crate::ring::BURST;

/// Frames of a burst, by their slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Frames(u64);

const _: () = assert!(BURST <= u64::BITS as usize);

impl Frames {
    /// The first `count` frames of a burst.
    pub(crate) fn first(count: usize) -> Self {
        let unused = BURST.saturating_sub(count);
        Self(u64::MAX.checked_shr(bits(unused)).unwrap_or(0))
    }

    /// Adds the frame in slot `slot`.
    #[inline(always)]
    pub(crate) fn insert(&mut self, slot: u8) {
        self.0 |= 1u64.wrapping_shl(slot.into()); // slot < BURST
    }

    /// Whether the frame in slot `slot` is one of them.
    #[inline(always)]
    pub(crate) fn contains(self, slot: u8) -> bool {
        self.0 & 1u64.wrapping_shl(slot.into()) != 0
    }

    /// The first of them.
    #[inline(always)]
    pub(crate) fn peek(self) -> Option<u8> {
        (self.0 != 0).then(|| narrow(self.0.trailing_zeros()))
    }

    /// These and those, together.
    #[inline]
    pub(crate) const fn with(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// These without those.
    #[inline]
    pub(crate) const fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    /// How many there are.
    #[inline]
    pub(crate) const fn count(self) -> u32 {
        self.0.count_ones()
    }

    /// Whether there is none.
    #[inline]
    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

fn bits(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// The number of a slot, from the number of its bit.
#[inline(always)]
fn narrow(bit: u32) -> u8 {
    (bit & 0xff) as u8 // at most 64
}

/// In order of arrival.
impl Iterator for Frames {
    type Item = u8;

    #[inline(always)]
    fn next(&mut self) -> Option<u8> {
        let slot = self.peek()?;
        self.0 &= self.0.wrapping_sub(1);
        Some(slot)
    }
}

/// The sets. See the head of this file.
///
/// The frames of a burst come in runs to the same receiver, often in one: the run that is being noted is kept apart, and
/// enters the sets when it ends.
#[derive(Debug)]
pub(crate) struct Fanout {
    /// Where the run goes, and what it consists of.
    run_to: Option<PortId>,
    run: Frames,
    frames: Box<[Frames; MAX_PORTS]>,
    /// The receivers whose set is not empty.
    receivers: Vec<PortId>,
}

impl Fanout {
    pub(crate) fn new() -> Self {
        Self {
            run_to: None,
            run: Frames::default(),
            frames: Box::new([Frames::default(); MAX_PORTS]),
            receivers: Vec::with_capacity(MAX_PORTS),
        }
    }

    /// Notes that frame `slot` goes to the port of `permit`.
    #[inline(always)]
    pub(crate) fn push(&mut self, permit: &Permit, slot: u8) {
        if self.run_to != Some(permit.to()) {
            self.end_run();
            self.run_to = Some(permit.to());
        }
        self.run.insert(slot);
    }

    /// Takes back that frame `slot` goes anywhere.
    #[cold]
    pub(crate) fn withdraw(&mut self, slot: u8) {
        self.end_run();
        let mut one = Frames::default();
        one.insert(slot);
        let sets = &mut self.frames;
        self.receivers.retain(|to| {
            let Some(frames) = sets.get_mut(to.index()) else {
                return false;
            };
            *frames = frames.without(one);
            !frames.is_empty()
        });
    }

    /// Enters the run into the set of its receiver.
    #[inline(never)]
    fn end_run(&mut self) {
        let run = std::mem::take(&mut self.run);
        if let Some(to) = self.run_to.take()
            && let Some(frames) = self.frames.get_mut(to.index())
        {
            if frames.is_empty() && !run.is_empty() {
                self.receivers.push(to); // one of MAX_PORTS, once: it does not grow
            }
            *frames = frames.with(run);
        }
    }

    /// Takes one receiver with its frames.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<(PortId, Frames)> {
        if self.receivers.is_empty() {
            // All of the burst, or what is left of it, in one run.
            let to = self.run_to.take()?;
            return Some((to, std::mem::take(&mut self.run)));
        }
        self.end_run();
        let to = self.receivers.pop()?;
        let frames = self.frames.get_mut(to.index())?;
        Some((to, std::mem::take(frames)))
    }

    /// Forgets everything: after a panic in the middle of a burst.
    pub(crate) fn clear(&mut self) {
        while self.take().is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_in_order_of_arrival() {
        let mut frames = Frames::default();
        assert!(frames.is_empty());
        for slot in [63, 0, 7, 7, 31] {
            frames.insert(slot);
        }
        assert_eq!((frames.count(), frames.peek()), (4, Some(0)));
        assert!(frames.contains(31) && !frames.contains(30));
        assert!(frames.eq([0, 7, 31, 63]));
    }

    #[test]
    fn the_first_frames_of_a_burst() {
        for count in 0..=BURST {
            let frames = Frames::first(count);
            assert_eq!(
                frames.map(usize::from).collect::<Vec<_>>(),
                Vec::from_iter(0..count)
            );
        }
    }
}
