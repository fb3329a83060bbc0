//! What a ring may cost its worker in one round.
//!
//! Deficit round robin in three currencies. A round adds a quantum to the credit of every polled ring; a visit
//! spends what its frames, bytes and descriptors came to. A ring that overdrew (one chain may, since a
//! frame is never cut) waits until its credit is positive again. So a guest of minimum-size frames, one of 64 KiB
//! frames and one whose chains are a thousand descriptors long get the same share of a worker (F-1, F-6, Q-21).
//!
//! What frames cost is known when they were delivered, and a frame to many costs as much as frames to each of them. It is
//! paid for afterwards, and bounded within the visit besides (F-5):
//!
//! - A visit whose floods come to [`FLOODED`] judges no further frame. The others stay in the ring, and are collected again when
//!   it is the ring's turn. That is looked at between frames: one frame goes to all its receivers in one visit, since
//!   to go on with it in another would mean to judge it twice, pay for it twice, and perhaps under another policy.
//! - So that one frame is bounded, too, it goes to no further receivers when [`COPIED`] bytes were copied in its visit. A frame
//!   of a thousand receivers may be as long as a jumbo frame and meet no bound; a giant of 64 KiB that goes to more than some
//!   250 ports is lost to the rest of them (`flood-limit`).

use crate::ring::{BURST, Budget};

/// Frames added a round.
const FRAMES: i64 = BURST as i64;
/// Bytes added a round: a burst of full-size Ethernet frames, or two of the largest GSO frames.
const BYTES: i64 = 128 * 1024;
/// Descriptors added a round: one chain of the longest kind, or a burst of 16 each.
const DESCRIPTORS: i64 = 1024;

/// What the floods of one visit may come to, in bytes, before it ends: a tenth of a millisecond or two.
pub(crate) const FLOODED: u32 = 1024 * 1024;
/// What it costs to ask whether a receiver may have a frame, and to enter its ring, in bytes of the above.
pub(crate) const ASKED: u32 = 256;
/// Bytes copied in one visit from which on a frame goes to no receiver but its first. So a visit copies no more than this and
/// twice what was collected: to the receiver at which the bound is met, and to those that are the first of a frame.
pub(crate) const COPIED: u64 = 16 * 1024 * 1024;

/// The credit of one ring.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Credit {
    frames: i64,
    bytes: i64,
    descriptors: i64,
}

impl Credit {
    /// Adds a round's quantum. Credit does not pile up: an idle ring cannot save for a storm.
    pub(crate) fn replenish(&mut self) {
        self.frames = (self.frames + FRAMES).min(FRAMES);
        self.bytes = (self.bytes + BYTES).min(BYTES);
        self.descriptors = (self.descriptors + DESCRIPTORS).min(DESCRIPTORS);
    }

    /// What the ring may spend now; `None` while it is in debt.
    pub(crate) fn budget(self) -> Option<Budget> {
        if self.frames <= 0 || self.bytes <= 0 || self.descriptors <= 0 {
            return None;
        }
        Some(Budget {
            frames: u32::try_from(self.frames).unwrap_or(u32::MAX),
            bytes: u32::try_from(self.bytes).unwrap_or(u32::MAX),
            descriptors: u32::try_from(self.descriptors).unwrap_or(u32::MAX),
        })
    }

    /// Takes away what a visit cost. Costs are bounded by the caller: one burst, one segmented frame.
    pub(crate) fn spend(&mut self, frames: u32, bytes: u64, descriptors: u32) {
        self.frames = self.frames.saturating_sub(i64::from(frames));
        self.bytes = self
            .bytes
            .saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.descriptors = self.descriptors.saturating_sub(i64::from(descriptors));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f_1_a_ring_of_large_frames_and_one_of_small_ones_get_the_same_bytes() {
        let mut large = Credit::default();
        let (mut large_bytes, mut rounds) = (0u64, 0u64);
        while rounds < 1_000 {
            rounds += 1;
            large.replenish();
            if large.budget().is_some() {
                // A burst of the largest frames is spent whole, far over the quantum.
                large.spend(64, 64 * 65_536, 64);
                large_bytes += 64 * 65_536;
            }
        }
        let fair = rounds * BYTES.unsigned_abs();
        assert!(
            large_bytes >= fair && large_bytes <= fair + 64 * 65_536,
            "{large_bytes} of {fair}"
        );
    }

    #[test]
    fn idle_rounds_do_not_add_up() {
        let mut credit = Credit::default();
        for _ in 0..100 {
            credit.replenish();
        }
        let budget = credit.budget().unwrap();
        assert_eq!(
            (
                i64::from(budget.frames),
                i64::from(budget.bytes),
                i64::from(budget.descriptors)
            ),
            (FRAMES, BYTES, DESCRIPTORS)
        );
    }

    #[test]
    fn q_21_a_chain_of_the_longest_kind_costs_its_ring_the_round() {
        let mut credit = Credit::default();
        credit.replenish();
        credit.spend(1, 64, 1_024);
        assert!(credit.budget().is_none());
        credit.replenish();
        assert!(credit.budget().is_some());
    }
}
