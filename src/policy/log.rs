//! What rules with `log = true` have decided, on its way to whoever writes the log.
//!
//! Workers write no log: one that decides a frame by such a rule leaves a note with the sender's port, and whoever attends to the
//! ports fetches the notes now and then. So that a guest can neither fill a disk nor hold a worker up, a port has
//! [`LINES`] notes in each [`SECONDS`] seconds, and room for as many; what is more, or comes while the notes are being
//! fetched, is counted, and the next note says how many there were.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use super::gate::{Policy, RuleInfo};
use super::rule::RuleId;
use super::state::State;
use super::subject::Subject;
use crate::clock::Tick;
use crate::counters::{LogLimiter, PortId};

/// Notes of one port in each [`SECONDS`], and notes that wait to be fetched.
pub const LINES: u32 = 16;
/// See [`LINES`].
pub const SECONDS: u32 = 10;
const ROOM: usize = LINES as usize;

/// A frame that a rule decided which asks for a line in the log.
#[derive(Clone, Debug)]
pub struct Logged {
    /// The rules of the policy that judged it.
    rules: Arc<[RuleInfo]>,
    rule: RuleId,
    /// The receiver.
    pub to: PortId,
    /// What rules can read of the frame.
    pub subject: Subject,
    /// How many of this sender's were not noted since the last that was.
    pub suppressed: u64,
}

impl Logged {
    /// The rule.
    pub fn rule(&self) -> Option<&RuleInfo> {
        self.rules.get(self.rule.0 as usize)
    }
}

/// The notes of one sender.
#[derive(Debug)]
pub(super) struct RuleLog {
    limiter: LogLimiter,
    waiting: Mutex<Vec<Logged>>,
    /// Such as the limiter let pass and for which there was no room.
    lost: AtomicU64,
}

impl Default for RuleLog {
    fn default() -> Self {
        Self {
            limiter: LogLimiter::new(LINES, SECONDS),
            waiting: Mutex::new(Vec::with_capacity(ROOM)),
            lost: AtomicU64::new(0),
        }
    }
}

impl RuleLog {
    /// Leaves a note, if there is to be one now. Waits for nobody and allocates nothing.
    fn note(&self, logged: impl FnOnce(u64) -> Logged, now: Tick) {
        let Some(held) = self.limiter.admit(now) else {
            return;
        };
        let suppressed = held.saturating_add(self.lost.swap(0, Ordering::Relaxed));
        let waiting = match self.waiting.try_lock() {
            Ok(waiting) => Some(waiting),
            Err(TryLockError::Poisoned(waiting)) => Some(waiting.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        };
        match waiting {
            Some(mut waiting) if waiting.len() < ROOM => waiting.push(logged(suppressed)),
            _ => {
                let lost = suppressed.saturating_add(1);
                self.lost.fetch_add(lost, Ordering::Relaxed);
            }
        }
    }

    fn fetch(&self) -> Vec<Logged> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.is_empty() {
            return Vec::new();
        }
        std::mem::replace(&mut *waiting, Vec::with_capacity(ROOM))
    }
}

impl Policy {
    /// Notes that `rule`, which asks for it, has decided a frame.
    #[cold]
    pub(super) fn note(
        &self,
        (from, to): (PortId, PortId),
        rule: RuleId,
        subject: &Subject,
        now: Tick,
    ) {
        let Some(port) = self.state().port(from) else {
            return;
        };
        let logged = |suppressed| Logged {
            rules: Arc::clone(self.rule_infos()),
            rule,
            to,
            subject: *subject,
            suppressed,
        };
        port.log.note(logged, now);
    }
}

impl State {
    /// Takes the notes about frames of `port`, the oldest first.
    pub fn fetch_logged(&self, port: PortId) -> Vec<Logged> {
        self.port(port)
            .map_or_else(Vec::new, |port| port.log.fetch())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logged(suppressed: u64) -> Logged {
        Logged {
            rules: Arc::new([]),
            rule: RuleId(0),
            to: PortId::FIRST,
            subject: Subject::default(),
            suppressed,
        }
    }

    fn suppressed(log: &RuleLog) -> Vec<u64> {
        log.fetch().iter().map(|logged| logged.suppressed).collect()
    }

    #[test]
    fn a_flood_leaves_a_few_notes_and_the_number_of_the_rest() {
        let log = RuleLog::default();
        for _ in 0..1_000_000 {
            log.note(logged, Tick::from_secs(1));
        }
        assert_eq!(suppressed(&log), [0; ROOM]);
        assert!(suppressed(&log).is_empty());
        log.note(logged, Tick::from_secs(u64::from(SECONDS)));
        assert_eq!(suppressed(&log), [1_000_000 - u64::from(LINES)]);
    }

    #[test]
    fn notes_that_nobody_fetches_are_counted_and_take_no_room() {
        let log = RuleLog::default();
        let windows = 100;
        for window in 0..windows {
            for _ in 0..LINES {
                log.note(logged, Tick::from_secs(window * u64::from(SECONDS)));
            }
        }
        assert_eq!(suppressed(&log), [0; ROOM]);
        log.note(logged, Tick::from_secs(windows * u64::from(SECONDS)));
        assert_eq!(suppressed(&log), [(windows - 1) * u64::from(LINES)]);
    }

    #[test]
    fn whoever_writes_does_not_wait_for_whoever_fetches() {
        let log = RuleLog::default();
        let held = log.waiting.lock().unwrap();
        log.note(logged, Tick::ZERO);
        drop(held);
        log.note(logged, Tick::ZERO);
        assert_eq!(suppressed(&log), [1]);
    }
}
