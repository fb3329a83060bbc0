//! Order, duplicates and gaps: what one receiver has seen of one sender.

use super::frames::SEQUENCES;

/// How far back a late frame can be told from a duplicate.
const WINDOW: u64 = 512;

/// What a sequence number was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrival {
    /// The next one.
    InOrder,
    /// Some before it are missing.
    AfterGap(u64),
    /// One that was missing.
    Late,
    /// One that was there already.
    Duplicate,
    /// Older than can be told.
    Ancient,
}

/// The memory of one flow: the next number, and which of the last 512 were seen.
#[derive(Debug, Clone)]
pub(super) struct Flow {
    next: u64,
    seen: [u64; (WINDOW / 64) as usize],
}

impl Default for Flow {
    fn default() -> Self {
        Self {
            next: 0,
            seen: [u64::MAX; (WINDOW / 64) as usize],
        }
    }
}

impl Flow {
    /// Takes the number of a frame that has arrived.
    #[inline]
    pub(super) fn arrive(&mut self, sequence: u64) -> Arrival {
        if sequence == self.next {
            self.mark(sequence, true);
            self.next = (sequence + 1) % SEQUENCES;
            return Arrival::InOrder;
        }
        self.out_of_turn(sequence)
    }

    #[cold]
    fn out_of_turn(&mut self, sequence: u64) -> Arrival {
        let ahead = sequence.wrapping_sub(self.next) % SEQUENCES;
        if ahead < SEQUENCES / 2 {
            for missing in 0..ahead.min(WINDOW) {
                let number = sequence.wrapping_sub(missing + 1) % SEQUENCES;
                self.mark(number, false);
            }
            self.mark(sequence, true);
            self.next = (sequence + 1) % SEQUENCES;
            return Arrival::AfterGap(ahead);
        }
        let behind = self.next.wrapping_sub(sequence) % SEQUENCES;
        if behind > WINDOW {
            return Arrival::Ancient;
        }
        if self.has(sequence) {
            return Arrival::Duplicate;
        }
        self.mark(sequence, true);
        Arrival::Late
    }

    #[inline]
    fn mark(&mut self, sequence: u64, seen: bool) {
        let bit = sequence % WINDOW;
        let word = &mut self.seen[(bit / 64) as usize];
        if seen {
            *word |= 1 << (bit % 64);
        } else {
            *word &= !(1 << (bit % 64));
        }
    }

    fn has(&self, sequence: u64) -> bool {
        let bit = sequence % WINDOW;
        self.seen[(bit / 64) as usize] >> (bit % 64) & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_gaps_late_ones_and_duplicates_are_told_apart() {
        let mut flow = Flow::default();
        assert_eq!(flow.arrive(0), Arrival::InOrder);
        assert_eq!(flow.arrive(3), Arrival::AfterGap(2));
        assert_eq!(flow.arrive(2), Arrival::Late);
        assert_eq!(flow.arrive(2), Arrival::Duplicate);
        assert_eq!(flow.arrive(3), Arrival::Duplicate);
        assert_eq!(flow.arrive(4), Arrival::InOrder);
        assert_eq!(flow.arrive(1), Arrival::Late);
        assert_eq!(flow.arrive(1000), Arrival::AfterGap(995));
        assert_eq!(flow.arrive(999), Arrival::Late);
        assert_eq!(flow.arrive(5), Arrival::Ancient);
    }

    #[test]
    fn the_window_turns_over_without_forgetting() {
        let mut flow = Flow::default();
        for number in 0..10 * WINDOW {
            assert_eq!(flow.arrive(number), Arrival::InOrder);
            if let Some(old) = number.checked_sub(WINDOW - 1) {
                assert_eq!(flow.arrive(old), Arrival::Duplicate);
            }
        }
    }

    #[test]
    fn numbers_wrap() {
        let mut flow = Flow {
            next: SEQUENCES - 1,
            ..Flow::default()
        };
        assert_eq!(flow.arrive(SEQUENCES - 1), Arrival::InOrder);
        assert_eq!(flow.arrive(1), Arrival::AfterGap(1));
        assert_eq!(flow.arrive(0), Arrival::Late);
    }
}
