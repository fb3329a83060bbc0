//! Token buckets, as one word each.
//!
//! A bucket is kept as the time at which it would be full again (the "theoretical arrival time" of ITU-T I.371, annex A): what
//! passes moves that time on by its cost, and what would move it further ahead of now than the burst lasts is refused and costs nothing. One
//! atomic word needs no lock, and workers that share a bucket lose no tokens.
//!
//! Time comes in milliseconds, so a burst is at least what two of them carry.

use std::sync::atomic::{AtomicU64, Ordering};

use super::spec::Rate;
use crate::clock::Tick;

/// Units of bucket time in a nanosecond.
const FINE: u64 = 256;
/// Units in a millisecond.
const MILLI: u64 = 1_000_000 * FINE;
/// The fraction bits of the cost of a token.
const SHIFT: u32 = 24;
/// The shortest burst.
const SHORTEST: u64 = 2 * MILLI;
/// The longest: an hour.
const LONGEST: u64 = 3_600_000 * MILLI;
/// The furthest ahead that a bucket is ever full again: the longest burst, and what alone was more than it.
const FURTHEST: u64 = 2 * LONGEST;

/// A rate, compiled; zero is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Meter {
    /// Bucket time of one token, with [`SHIFT`] fraction bits; 0: no limit.
    cost: u64,
    /// How long the burst lasts.
    depth: u64,
}

/// What a meter has let pass. Shared; survives a change of the rate.
#[derive(Debug, Default)]
pub(super) struct Bucket(AtomicU64);

impl Meter {
    pub(super) fn new(rate: Rate) -> Self {
        if rate.per_second == 0 {
            return Self::default();
        }
        let per_token = (u128::from(1_000_000_000 * FINE) << SHIFT) / u128::from(rate.per_second);
        let cost = u64::try_from(per_token).unwrap_or(u64::MAX).max(1);
        let depth = u128::from(cost).saturating_mul(rate.burst.into()) >> SHIFT;
        let depth = u64::try_from(depth).unwrap_or(u64::MAX);
        Self {
            cost,
            depth: depth.clamp(SHORTEST, LONGEST),
        }
    }

    /// Whether there is a limit at all.
    #[inline]
    pub(super) fn is_set(&self) -> bool {
        self.cost != 0
    }

    /// Takes `tokens` from the bucket; false when it has too few, and then none is taken. What alone is more than the
    /// burst passes when the bucket is full.
    #[inline]
    pub(super) fn take(&self, bucket: &Bucket, tokens: u64, now: Tick) -> bool {
        if !self.is_set() {
            return true;
        }
        self.take_metered(bucket, tokens, now)
    }

    #[inline(never)]
    fn take_metered(&self, bucket: &Bucket, tokens: u64, now: Tick) -> bool {
        // Begins an hour in, so that an empty past is not before time. Wraps every 833 days.
        let now = now.as_millis().wrapping_add(3_600_000).wrapping_mul(MILLI);
        let price = u128::from(self.cost).saturating_mul(tokens.into()) >> SHIFT;
        let price = u64::try_from(price).unwrap_or(u64::MAX).min(LONGEST);
        let mut full_at = bucket.0.load(Ordering::Relaxed);
        loop {
            // No debt is longer than this, whatever the rate was: what is further ahead is past, and the time has wrapped.
            let ahead = match full_at.wrapping_sub(now) {
                _ if full_at == 0 => 0, // it was never used
                ahead @ 0..=FURTHEST => ahead.min(LONGEST),
                _ => 0,
            };
            if ahead.saturating_add(price) > self.depth && ahead != 0 {
                return false;
            }
            let next = now.wrapping_add(ahead).wrapping_add(price);
            match bucket.0.compare_exchange_weak(
                full_at,
                next,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(other) => full_at = other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn passed(meter: &Meter, bucket: &Bucket, tokens: u64, from: u64, millis: u64) -> u64 {
        (from..from + millis)
            .map(|at| {
                (0..10_000)
                    .take_while(|_| meter.take(bucket, tokens, Tick::from_millis(at)))
                    .count() as u64
                    * tokens
            })
            .sum()
    }

    #[test]
    fn no_rate_is_no_limit() {
        let (meter, bucket) = (Meter::new(Rate::default()), Bucket::default());
        assert!((0..1000).all(|_| meter.take(&bucket, u64::MAX, Tick::ZERO)));
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let meter = Meter::new(Rate {
            per_second: 1000,
            burst: 50,
        });
        let bucket = Bucket::default();
        assert_eq!(passed(&meter, &bucket, 1, 0, 1), 50);
        assert_eq!(passed(&meter, &bucket, 1, 1, 1000), 1000);
        // Nothing is saved up beyond the burst.
        assert_eq!(passed(&meter, &bucket, 1, 100_000, 1), 50);
    }

    #[test]
    fn what_is_larger_than_the_burst_passes_alone_and_is_paid_for() {
        let meter = Meter::new(Rate {
            per_second: 8_000,
            burst: 100,
        });
        let bucket = Bucket::default();
        assert!(meter.take(&bucket, 8_000, Tick::ZERO));
        assert!(!meter.take(&bucket, 1, Tick::from_millis(980)));
        assert!(meter.take(&bucket, 1, Tick::from_millis(1001)));
    }

    #[test]
    fn a_slower_rate_after_a_reload_starts_no_century_of_silence() {
        let bucket = Bucket::default();
        let slow = Meter::new(Rate {
            per_second: 1,
            burst: 3_600,
        });
        assert_eq!(passed(&slow, &bucket, 1, 0, 1), 3_600);
        let fast = Meter::new(Rate {
            per_second: 1_000_000,
            burst: 1_000,
        });
        // The debt of the old rate is an hour at most.
        assert!(fast.take(&bucket, 1, Tick::from_secs(3_601)));
    }

    /// A bucket that was full again just before stood an age ahead ever after, and nothing passed any more.
    #[test]
    fn time_that_wraps_silences_nobody() {
        let meter = Meter::new(Rate {
            per_second: 1000,
            burst: 50,
        });
        let end = u64::MAX / MILLI - 3_600_000;
        for before in [0, 1, 100, 10_000] {
            let bucket = Bucket::default();
            let at = end - before;
            assert_eq!(passed(&meter, &bucket, 1, at, 1), 50);
            assert!(passed(&meter, &bucket, 1, at + 1, before + 1000) >= 1000);
            assert_eq!(passed(&meter, &bucket, 1, end + 100_000, 1), 50);
        }
    }

    proptest! {
        #[test]
        fn in_any_span_no_more_than_burst_and_rate(
            per_second in 1u64..200_000_000_000,
            burst in 1u64..1_000_000,
            tokens in 1u64..12_000,
            start in 0u64..1 << 40,
        ) {
            let meter = Meter::new(Rate { per_second, burst });
            let bucket = Bucket::default();
            let millis = 50;
            let mut total = 0u64;
            for at in start..start + millis {
                let mut tries = 0;
                while tries < 500 && meter.take(&bucket, tokens, Tick::from_millis(at)) {
                    total += tokens;
                    tries += 1;
                }
            }
            let burst = burst.max(2 * per_second / 1000 + 1);
            let allowed = burst + per_second * millis / 1000 + tokens;
            prop_assert!(total <= allowed + allowed / 1000 + 1, "{total} of {allowed}");
        }
    }
}
