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
    /// Adds the frame in slot `slot`.
    #[inline]
    pub(crate) fn insert(&mut self, slot: u8) {
        self.0 |= 1u64.wrapping_shl(slot.into()); // slot < BURST
    }

    /// Whether there is none.
    #[inline]
    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// In order of arrival.
impl Iterator for Frames {
    type Item = u8;

    #[inline]
    fn next(&mut self) -> Option<u8> {
        if self.0 == 0 {
            return None;
        }
        let slot = self.0.trailing_zeros();
        self.0 &= self.0.wrapping_sub(1);
        u8::try_from(slot).ok()
    }
}

/// The sets. See the head of this file.
#[derive(Debug)]
pub(crate) struct Fanout {
    frames: Box<[Frames; MAX_PORTS]>,
    /// The receivers whose set is not empty.
    receivers: Vec<PortId>,
}

impl Fanout {
    pub(crate) fn new() -> Self {
        Self {
            frames: Box::new([Frames::default(); MAX_PORTS]),
            receivers: Vec::with_capacity(MAX_PORTS),
        }
    }

    /// Notes that frame `slot` goes to the port of `permit`.
    #[inline]
    pub(crate) fn push(&mut self, permit: &Permit, slot: u8) {
        let to = permit.to();
        if let Some(frames) = self.frames.get_mut(to.index()) {
            if frames.is_empty() {
                self.receivers.push(to); // one of MAX_PORTS, once: it does not grow
            }
            frames.insert(slot);
        }
    }

    /// Takes one receiver with its frames.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<(PortId, Frames)> {
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
        assert!(frames.eq([0, 7, 31, 63]));
    }
}
