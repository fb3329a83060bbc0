//! The last dropped frames of a port, for whoever wants to know what is being dropped and why.
//!
//! Promised to the path: writing waits for nobody and allocates nothing. Of each reason four frames a second are kept at most,
//! so that under a flood a note costs one load and one comparison, and a rare reason is not washed away by a frequent one.
//! An entry that is being read or written at that moment is left alone, and the note is lost: the counters have it.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, TryLockError};

use super::{DropReason, PortId};
use crate::clock::Tick;

/// Frames that are kept for each port.
pub const KEPT: usize = 16;
/// Bytes that are kept of a frame.
pub const KEPT_BYTES: usize = 256;
/// Milliseconds between two notes of one reason.
const SPACING: u64 = 250;

/// A frame that was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped<'a> {
    /// Why.
    pub reason: DropReason,
    /// The rule that said so, by its number in the policy of that epoch; none when no rule did.
    pub rule: Option<(u64, u32)>,
    /// The receiver that it was refused for; none when it was dropped before receivers were looked at.
    pub to: Option<PortId>,
    /// Its length on the wire, in bytes.
    pub len: u32,
    /// Its first bytes; those past [`KEPT_BYTES`] are left out.
    pub bytes: &'a [u8],
}

/// The same, kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DroppedFrame {
    /// When.
    pub at: Tick,
    /// Why.
    pub reason: DropReason,
    /// The rule, and the epoch of its policy.
    pub rule: Option<(u64, u32)>,
    /// The receiver.
    pub to: Option<PortId>,
    /// Its length on the wire, in bytes.
    pub len: u32,
    /// Its first bytes.
    pub bytes: Vec<u8>,
}

/// One place of the ring.
#[derive(Debug)]
struct Entry {
    /// 0: nothing was written here yet; else counts up with each note of the port.
    number: u64,
    at: Tick,
    reason: DropReason,
    rule: Option<(u64, u32)>,
    to: Option<PortId>,
    len: u32,
    kept: u16,
    bytes: [u8; KEPT_BYTES],
}

impl Entry {
    const EMPTY: Self = Self {
        number: 0,
        at: Tick::ZERO,
        reason: DropReason::MalformedChain,
        rule: None,
        to: None,
        len: 0,
        kept: 0,
        bytes: [0; KEPT_BYTES],
    };

    fn write(&mut self, number: u64, dropped: &Dropped<'_>, now: Tick) {
        let bytes = dropped.bytes.get(..KEPT_BYTES).unwrap_or(dropped.bytes);
        if let Some(place) = self.bytes.get_mut(..bytes.len()) {
            place.copy_from_slice(bytes);
        }
        self.kept = u16::try_from(bytes.len()).unwrap_or(0);
        self.number = number;
        self.at = now;
        self.reason = dropped.reason;
        self.rule = dropped.rule;
        self.to = dropped.to;
        self.len = dropped.len;
    }

    fn read(&self) -> DroppedFrame {
        DroppedFrame {
            at: self.at,
            reason: self.reason,
            rule: self.rule,
            to: self.to,
            len: self.len,
            bytes: self
                .bytes
                .get(..usize::from(self.kept))
                .unwrap_or_default()
                .to_vec(),
        }
    }
}

/// See the head of this file.
#[derive(Debug)]
pub struct DropLog {
    entries: Box<[Mutex<Entry>]>,
    /// Notes so far.
    noted: AtomicU64,
    /// For each reason when it may be noted again, in steps of [`SPACING`] since the clock's beginning.
    due: [AtomicU32; DropReason::COUNT],
}

impl Default for DropLog {
    fn default() -> Self {
        Self {
            entries: (0..KEPT).map(|_| Mutex::new(Entry::EMPTY)).collect(),
            noted: AtomicU64::new(0),
            due: std::array::from_fn(|_| AtomicU32::new(0)),
        }
    }
}

impl DropLog {
    /// Whether a note of this reason would be kept now. Cheap: to be asked before anything is gathered for one.
    #[inline]
    pub fn wants(&self, reason: DropReason, now: Tick) -> bool {
        let due = self.due.get(reason.index());
        due.is_some_and(|due| due.load(Ordering::Relaxed) <= step(now))
    }

    /// Keeps a dropped frame, if its reason is due.
    pub fn note(&self, dropped: &Dropped<'_>, now: Tick) {
        let Some(due) = self.due.get(dropped.reason.index()) else {
            return;
        };
        let before = due.load(Ordering::Relaxed);
        if before > step(now) {
            return;
        }
        // Of several workers that find it due one notes.
        let next = step(now).saturating_add(1);
        let claimed = due.compare_exchange(before, next, Ordering::Relaxed, Ordering::Relaxed);
        if claimed.is_err() {
            return;
        }
        let number = self.noted.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let place = usize::try_from(number).unwrap_or(0) % KEPT;
        let Some(entry) = self.entries.get(place) else {
            return;
        };
        match entry.try_lock() {
            Ok(mut entry) => entry.write(number, dropped, now),
            Err(TryLockError::Poisoned(entry)) => entry.into_inner().write(number, dropped, now),
            Err(TryLockError::WouldBlock) => {}
        }
    }

    /// The frames that are kept, the oldest first.
    pub fn read(&self) -> Vec<DroppedFrame> {
        let mut found: Vec<(u64, DroppedFrame)> = self
            .entries
            .iter()
            .map(|entry| entry.lock().unwrap_or_else(PoisonError::into_inner))
            .filter(|entry| entry.number != 0)
            .map(|entry| (entry.number, entry.read()))
            .collect();
        found.sort_unstable_by_key(|(number, _)| *number);
        found.into_iter().map(|(_, frame)| frame).collect()
    }
}

fn step(now: Tick) -> u32 {
    u32::try_from(now.as_millis() / SPACING).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dropped(reason: DropReason, bytes: &[u8]) -> Dropped<'_> {
        Dropped {
            reason,
            rule: None,
            to: None,
            len: 1514,
            bytes,
        }
    }

    #[test]
    fn what_is_noted_is_read_as_it_was() {
        let log = DropLog::default();
        let long: Vec<u8> = (0..=255).cycle().take(300).collect();
        let note = Dropped {
            rule: Some((7, 3)),
            to: PortId::new(9),
            ..dropped(DropReason::DeniedInbound, &long)
        };
        log.note(&note, Tick::from_secs(5));
        let frames = log.read();
        assert_eq!(
            frames,
            [DroppedFrame {
                at: Tick::from_secs(5),
                reason: DropReason::DeniedInbound,
                rule: Some((7, 3)),
                to: PortId::new(9),
                len: 1514,
                bytes: long[..KEPT_BYTES].to_vec(),
            }]
        );
        // A shorter frame in the same place has nothing of the longer.
        for n in 1..=KEPT as u64 {
            log.note(&dropped(DropReason::Runt, &[7; 5]), Tick::from_secs(5 + n));
        }
        assert_eq!(log.read().len(), KEPT);
        assert!(log.read().iter().all(|frame| frame.bytes == [7; 5]));
    }

    #[test]
    fn a_flood_of_one_reason_leaves_room_for_others() {
        let log = DropLog::default();
        log.note(&dropped(DropReason::ArpSpoofed, b"rare"), Tick::ZERO);
        for millis in 0..1000 {
            for _ in 0..1000 {
                let now = Tick::from_millis(millis);
                log.note(&dropped(DropReason::SendRate, b"flood"), now);
            }
        }
        let reasons: Vec<DropReason> = log.read().iter().map(|frame| frame.reason).collect();
        let flood = DropReason::SendRate;
        assert_eq!(
            reasons,
            [DropReason::ArpSpoofed, flood, flood, flood, flood]
        );
        assert!(!log.wants(flood, Tick::from_millis(999)));
        assert!(log.wants(flood, Tick::from_millis(1000)));
        assert!(log.wants(DropReason::Runt, Tick::ZERO));
    }

    #[test]
    fn the_last_are_kept_in_order() {
        let log = DropLog::default();
        for second in 0..100u8 {
            let now = Tick::from_secs(second.into());
            log.note(&dropped(DropReason::Runt, &[second]), now);
        }
        let first: Vec<u8> = log.read().iter().map(|frame| frame.bytes[0]).collect();
        assert_eq!(first, (84..100).collect::<Vec<u8>>());
    }

    #[test]
    fn writers_and_a_reader_see_whole_entries() {
        let log = DropLog::default();
        std::thread::scope(|scope| {
            for writer in 0..4u8 {
                let log = &log;
                scope.spawn(move || {
                    for n in 0..20_000u32 {
                        let byte = writer * 64 + (n % 64) as u8;
                        let bytes = [byte; KEPT_BYTES];
                        let note = Dropped {
                            len: byte.into(),
                            ..dropped(DropReason::ALL[usize::from(writer)], &bytes)
                        };
                        log.note(&note, Tick::from_millis(u64::from(n) * SPACING));
                    }
                });
            }
            for _ in 0..1000 {
                for frame in log.read() {
                    let byte = frame.len as u8;
                    assert!(frame.bytes.iter().all(|b| *b == byte));
                    assert_eq!(frame.reason, DropReason::ALL[usize::from(byte / 64)]);
                }
            }
        });
    }
}
