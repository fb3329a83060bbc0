//! About how many different ends a port was refused: what tells a port scan from a client that tries again.
//!
//! An end is an address with protocol and port (of ICMP the type), or what a frame that is no IP has in their place. They are
//! not kept but hashed into a field of bits, from whose fill their number follows (linear counting; Whang et al. 1990): a
//! few per cent right as long as there are not more than [`MOST`] of them, and never more than half a kilobyte. The hash is keyed, so that
//! nobody can scan ends that all have one bit.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use super::state::State;
use super::subject::{Subject, field, mask};
use crate::counters::{DropReason, PortId};

/// Up to how many ends are counted with sense.
pub const MOST: u32 = BITS as u32;
const BITS: u16 = 4096;
const WORDS: usize = BITS as usize / 64;

/// See the head of this file. Written by workers, read and emptied beside them.
#[derive(Debug)]
pub(super) struct Ends {
    bits: [AtomicU64; WORDS],
    key: RandomState,
}

impl Default for Ends {
    fn default() -> Self {
        Self {
            bits: std::array::from_fn(|_| AtomicU64::new(0)),
            key: RandomState::new(),
        }
    }
}

impl Ends {
    /// Notes the end that a frame was to reach.
    #[cold]
    fn note(&self, subject: &Subject) {
        const KIND: u64 = mask(field::ETHERTYPE) | mask(field::PROTOCOL);
        let [kind, ports, _, _, high, low, _, mac] = subject.0;
        // A frame without an IP packet goes to a station.
        let mac = if high | low == 0 { mac } else { 0 };
        let end = (kind & KIND, ports & mask(field::DST_PORT), high, low, mac);
        let hash = self.key.hash_one(end) % u64::from(BITS);
        let (word, bit) = (hash / 64, 1u64 << (hash % 64));
        let word = usize::try_from(word)
            .ok()
            .and_then(|word| self.bits.get(word));
        // Most were seen before: then nothing is written.
        if let Some(word) = word.filter(|word| word.load(Ordering::Relaxed) & bit == 0) {
            word.fetch_or(bit, Ordering::Relaxed);
        }
    }

    /// About how many different ends were noted.
    fn count(&self) -> u32 {
        let ones: u32 = self
            .bits
            .iter()
            .map(|word| word.load(Ordering::Relaxed).count_ones())
            .sum();
        let (all, zeros) = (f64::from(BITS), u32::from(BITS).saturating_sub(ones));
        // With one bit left or none it is at least as many as can be told.
        let number = all * (all / f64::from(zeros.max(1))).ln();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "from 0 to 4096 times the logarithm of 4096"
        )]
        let number = number.round() as u32;
        number
    }

    fn clear(&self) {
        for word in &self.bits {
            word.store(0, Ordering::Relaxed);
        }
    }
}

/// Whether a refusal is of the kind that a scan meets: lists that do not let it through.
pub(super) fn is_of_a_scan(reason: DropReason) -> bool {
    matches!(
        reason,
        DropReason::DeniedOutbound
            | DropReason::DeniedInbound
            | DropReason::NotAllowed
            | DropReason::Rejected
    )
}

impl State {
    /// Notes an end that lists refused a port, where somebody counts them.
    #[inline]
    pub(super) fn note_refused(&self, from: PortId, subject: &Subject) {
        if let Some(ends) = self.port(from).and_then(|port| port.refused.get()) {
            ends.note(subject);
        }
    }

    /// About how many different ends lists have refused a port since the count was begun; the first call begins it.
    pub fn ends_refused(&self, port: PortId) -> u32 {
        let port = self.port(port);
        port.map_or(0, |port| port.refused.get_or_init(Box::default).count())
    }

    /// Begins the count of [`ends_refused`](Self::ends_refused) anew.
    pub fn forget_ends_refused(&self, port: PortId) {
        if let Some(ends) = self.port(port).and_then(|port| port.refused.get()) {
            ends.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::subject::{Family, put};

    fn tcp(address: u32, port: u16) -> Subject {
        let word = put(0, field::PROTOCOL, 6);
        let word = put(word, field::FAMILY, Family::V4 as u64);
        Subject([word, port.into(), 0, 1, 0, address.into(), 1, 2])
    }

    #[test]
    fn ends_are_counted_once_and_about_right() {
        let ends = Ends::default();
        for number in [10u32, 100, 1000, 4000] {
            ends.clear();
            for _ in 0..3 {
                for n in 0..number {
                    ends.note(&tcp(0x0a00_0000 + n % 7, (n / 7) as u16));
                }
            }
            let counted = ends.count();
            let wrong = counted.abs_diff(number);
            assert!(wrong <= 2 + number / 10, "{counted} of {number}");
        }
        ends.clear();
        assert_eq!(ends.count(), 0);
    }

    #[test]
    fn what_does_not_make_another_end_is_not_counted() {
        let ends = Ends::default();
        let mut subject = tcp(1, 80);
        for n in 0..1000u64 {
            // Other source ports, addresses and flags of one client.
            subject.0[0] = put(subject.0[0], field::FLAGS, n);
            subject.0[1] = n << 16 | 80;
            subject.0[3] = n;
            subject.0[6] = n;
            ends.note(&subject);
        }
        assert_eq!(ends.count(), 1);
    }

    #[test]
    fn a_full_field_is_many_and_no_nonsense() {
        let ends = Ends::default();
        for n in 0..1_000_000 {
            ends.note(&tcp(n, 80));
        }
        assert!(ends.count() >= MOST);
    }
}
