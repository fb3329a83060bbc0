//! A limiter for log lines that a guest can cause.
//!
//! A guest that is wrong a million times a second must not fill a disk (case F-8): its lines are let through a few at
//! a time, and the next one that passes says how many were held back. The events themselves are counted
//! elsewhere, every one.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::clock::Tick;

/// Lets `lines` through in each window of `seconds`. Shared freely: a race lets a line more or less through, and
/// loses no count.
#[derive(Debug)]
pub struct LogLimiter {
    lines: u32,
    millis: u64,
    /// When the window began, in milliseconds.
    began: AtomicU64,
    passed: AtomicU32,
    held: AtomicU64,
}

impl LogLimiter {
    /// `lines` in each `seconds`.
    #[must_use]
    pub const fn new(lines: u32, seconds: u32) -> Self {
        Self {
            lines,
            millis: seconds as u64 * 1000,
            began: AtomicU64::new(0),
            passed: AtomicU32::new(0),
            held: AtomicU64::new(0),
        }
    }

    /// Whether a line may be written now. If so, how many were held back since the last one: to be written as
    /// `suppressed`.
    pub fn admit(&self, now: Tick) -> Option<u64> {
        let began = Tick::from_millis(self.began.load(Ordering::Relaxed));
        if now.millis_since(began) >= self.millis {
            self.began.store(now.as_millis(), Ordering::Relaxed);
            self.passed.store(0, Ordering::Relaxed);
        }
        if self.passed.load(Ordering::Relaxed) < self.lines {
            self.passed.fetch_add(1, Ordering::Relaxed);
            return Some(self.held.swap(0, Ordering::Relaxed));
        }
        self.held.fetch_add(1, Ordering::Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_passes_a_few_lines_and_is_counted() {
        let limiter = LogLimiter::new(3, 10);
        let passed = (0..1_000_000).filter(|_| limiter.admit(Tick::from_secs(1)).is_some());
        assert_eq!(passed.count(), 3);
        assert_eq!(limiter.admit(Tick::from_secs(9)), None);
        assert_eq!(limiter.admit(Tick::from_secs(10)), Some(999_998));
        assert_eq!(limiter.admit(Tick::from_secs(10)), Some(0));
    }

    #[test]
    fn the_first_line_ever_passes() {
        assert_eq!(LogLimiter::new(1, 60).admit(Tick::ZERO), Some(0));
    }
}
