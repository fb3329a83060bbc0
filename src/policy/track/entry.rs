//! The 128 bytes of a tracked connection.
//!
//! Two cache lines of 32-bit words, all atomic and all relaxed unless it says otherwise. The first line says which
//! connection it is; it is written before the header makes the entry live, and but for the words that
//! [`Entry::bind`] and [`Entry::set_macs`] set never again until the place is given to another. The second line is what packets change:
//!
//! ```text
//! word  0..4   source IP address       10..13  source and destination MAC
//!       4..8   destination IP address  13      rule of the opener's list + 1
//!       8      ports                   14      rule of the peer's list + 1
//!       9      VLAN, protocol, family, peer    15  policy epoch, covered sides
//!
//!      16      header: generation, LIVE, HALF  17  second of opening
//!      18..25  the opener's half               25..32  the peer's half:
//!              highest sequence sent, right edge offered, highest acknowledged,
//!              greatest window | scale | marks, second of the last packet | bytes (high), packets, bytes (low)
//! ```
//!
//! Each half is written by one thread only: the worker that handles that port's packets. So plain loads and stores
//! suffice, and a reader on another thread sees numbers that were true a moment ago. A segment that answers
//! another was sent after that one had come through here, so its judge sees at least what it answers.
//!
//! Only the header is changed by several: a generation ends under the table's lock, and [`HALF`] is taken away by
//! whichever half completes the connection.

use std::sync::atomic::{AtomicU32, Ordering};

use super::flow::{Count, Direction, Side, Terms};
use super::key::{KIND, Key};
use super::tcp::Window;
use crate::counters::PortId;
use crate::frame::Mac;
use crate::policy::rule::RuleId;

pub(super) const WORDS: usize = 32;

const _: () = assert!(size_of::<[AtomicU32; WORDS]>() == 128);

/// There is a connection.
pub(super) const LIVE: u32 = 1 << 1;
/// It is half open, and counted as such.
pub(super) const HALF: u32 = 1;
/// Where the generation begins in the header.
pub(super) const GENERATION: u32 = 2;

const PORTS: usize = 8;
const KIND_AND_PEER: usize = 9;
const SRC_MAC: usize = 10;
const DST_MAC: usize = 11;
const MACS_HIGH: usize = 12;
const RULES: [usize; 2] = [13, 14];
const EPOCH: usize = 15;
const HEADER: usize = 16;
const OPENED: usize = 17;

const END: usize = 0;
const LIMIT: usize = 1;
const ACKED: usize = 2;
const MARKS: usize = 3;
const TIME: usize = 4;
const PACKETS: usize = 5;
const BYTES: usize = 6;
const HALF_WORDS: usize = 7;

const _: () = assert!(OPENED + 1 + 2 * HALF_WORDS == WORDS);

/// The bits of a half's time stamp; above it are the high bits of its bytes.
const TIME_BITS: u32 = 20;
const TIME_MASK: u32 = (1 << TIME_BITS) - 1;
const MAX_BYTES: u64 = (1 << (64 - TIME_BITS)) - 1;

const COVER_BITS: u32 = 2;

/// How much of a policy's epoch an entry keeps. Every change judges all connections again, so two are never further apart.
pub(super) fn short_epoch(epoch: u64) -> u32 {
    low(epoch) << COVER_BITS >> COVER_BITS
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the lower half is what is asked for"
)]
pub(super) fn low(word: u64) -> u32 {
    word as u32
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'a>(pub(super) &'a [AtomicU32; WORDS]);

impl<'a> Entry<'a> {
    #[inline(always)]
    fn load(self, word: usize) -> u32 {
        self.0
            .get(word)
            .map_or(0, |word| word.load(Ordering::Relaxed))
    }

    #[inline(always)]
    fn store(self, word: usize, value: u32) {
        if let Some(word) = self.0.get(word) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// The header. What was written before it was made live can be read after it was seen live.
    #[inline(always)]
    pub(super) fn header(self) -> u32 {
        self.0[HEADER].load(Ordering::Acquire)
    }

    /// Reads a word of each of its lines, so that they are near when they are asked: returns what means nothing.
    #[inline(always)]
    pub(super) fn touch(self) -> u32 {
        self.load(PORTS) ^ self.load(HEADER)
    }

    pub(super) fn publish(self, header: u32) {
        self.0[HEADER].store(header, Ordering::Release);
    }

    /// Sets another header, returns the one that was.
    pub(super) fn swap(self, header: u32) -> u32 {
        self.0[HEADER].swap(header, Ordering::AcqRel)
    }

    /// Takes [`HALF`] away; false when somebody else did, or the generation has ended.
    pub(super) fn complete(self, header: u32) -> bool {
        self.0[HEADER]
            .compare_exchange(header, header & !HALF, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    /// Counts the generation up, in one step with whatever a half does to the header; returns what it is then.
    pub(super) fn renumber(self) -> u32 {
        const ONE: u32 = 1 << GENERATION;
        self.0[HEADER]
            .fetch_add(ONE, Ordering::AcqRel)
            .wrapping_add(ONE)
    }

    #[inline]
    pub(super) fn matches(self, key: &Key) -> bool {
        let wide = |high, low| u64::from(self.load(high)) << 32 | u64::from(self.load(low));
        self.load(PORTS) == key.ports
            && (self.load(KIND_AND_PEER) ^ key.kind) & KIND == 0
            && wide(2, 3) == key.src[1]
            && wide(6, 7) == key.dst[1]
            && wide(0, 1) == key.src[0]
            && wide(4, 5) == key.dst[0]
    }

    pub(super) fn key(self) -> Key {
        let wide = |high, low| u64::from(self.load(high)) << 32 | u64::from(self.load(low));
        Key {
            src: [wide(0, 1), wide(2, 3)],
            dst: [wide(4, 5), wide(6, 7)],
            ports: self.load(PORTS),
            kind: self.load(KIND_AND_PEER) & KIND,
        }
    }

    pub(super) fn set_key(self, key: &Key, src: Mac, dst: Mac) {
        let addresses = [key.src[0], key.src[1], key.dst[0], key.dst[1]];
        for (address, at) in addresses.into_iter().zip([0, 2, 4, 6]) {
            self.store(at, low(address >> 32));
            self.store(at + 1, low(address));
        }
        self.store(PORTS, key.ports);
        self.store(KIND_AND_PEER, key.kind);
        self.set_macs(src, dst);
    }

    /// Sets the stations that it is between. Who reads meanwhile may find a part of the one and of the other.
    pub(super) fn set_macs(self, src: Mac, dst: Mac) {
        self.store(SRC_MAC, low(src.bits()));
        self.store(DST_MAC, low(dst.bits()));
        self.store(
            MACS_HIGH,
            low(src.bits() >> 32) << 16 | low(dst.bits() >> 32),
        );
    }

    pub(super) fn macs(self) -> (Mac, Mac) {
        let high = u64::from(self.load(MACS_HIGH));
        let src = (high >> 16) << 32 | u64::from(self.load(SRC_MAC));
        let dst = (high & 0xffff) << 32 | u64::from(self.load(DST_MAC));
        (Mac::from_bits(src), Mac::from_bits(dst))
    }

    #[inline]
    pub(super) fn peer(self) -> u16 {
        let [low, high, ..] = (self.load(KIND_AND_PEER) & !KIND).to_le_bytes();
        u16::from_le_bytes([low, high])
    }

    /// Binds it to a port.
    pub(super) fn bind(self, peer: PortId) {
        let kind = self.load(KIND_AND_PEER) & KIND;
        self.store(KIND_AND_PEER, kind | u32::from(peer.get()) & !KIND);
    }

    pub(super) fn set_terms(self, terms: &Terms, epoch: u64) {
        let sides = [terms.opener, terms.peer];
        for (word, side) in RULES.into_iter().zip(sides) {
            self.store(word, side.rule.map_or(0, |rule| rule.0.saturating_add(1)));
        }
        let cover = u32::from(terms.opener.covered) | u32::from(terms.peer.covered) << 1;
        self.store(EPOCH, short_epoch(epoch) << COVER_BITS | cover);
    }

    pub(super) fn terms(self) -> (Terms, u32) {
        let word = self.load(EPOCH);
        let side = |at, bit: u32| Side {
            covered: word & bit != 0,
            rule: self.load(at).checked_sub(1).map(RuleId),
        };
        let terms = Terms {
            opener: side(RULES[0], 1),
            peer: side(RULES[1], 2),
        };
        (terms, word >> COVER_BITS)
    }

    pub(super) fn epoch(self) -> u32 {
        self.load(EPOCH) >> COVER_BITS
    }

    pub(super) fn opened(self) -> u32 {
        self.load(OPENED)
    }

    /// Forgets both halves; the connection was opened at that second.
    pub(super) fn begin(self, second: u32) {
        self.store(OPENED, second);
        for word in self.0.iter().skip(OPENED + 1) {
            word.store(0, Ordering::Relaxed);
        }
    }

    #[inline(always)]
    pub(super) fn half(self, direction: Direction) -> Half<'a> {
        let (_, halves) = self.0.split_at(OPENED + 1);
        let (original, reply) = halves.split_at(HALF_WORDS);
        Half(match direction {
            Direction::Original => original,
            Direction::Reply => reply,
        })
    }
}

/// One direction of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Half<'a>(&'a [AtomicU32]);

impl Half<'_> {
    #[inline(always)]
    fn load(self, word: usize) -> u32 {
        self.0
            .get(word)
            .map_or(0, |word| word.load(Ordering::Relaxed))
    }

    #[inline(always)]
    fn store(self, word: usize, value: u32) {
        if let Some(word) = self.0.get(word) {
            word.store(value, Ordering::Relaxed);
        }
    }

    #[inline(always)]
    pub(super) fn window(self) -> Window {
        Window {
            end: self.load(END),
            limit: self.load(LIMIT),
            acked: self.load(ACKED),
            word: self.load(MARKS),
        }
    }

    /// Writes what differs from what was read.
    #[inline(always)]
    pub(super) fn set_window(self, was: &Window, is: &Window) {
        if was.end != is.end {
            self.store(END, is.end);
        }
        if was.limit != is.limit {
            self.store(LIMIT, is.limit);
        }
        if was.acked != is.acked {
            self.store(ACKED, is.acked);
        }
        if was.word != is.word {
            self.store(MARKS, is.word);
        }
    }

    #[inline(always)]
    pub(super) fn marks(self) -> u32 {
        self.load(MARKS)
    }

    #[inline(always)]
    pub(super) fn set_marks(self, word: u32) {
        self.store(MARKS, word);
    }

    /// The second of the last packet, as far as it is kept; 0 before the first.
    #[inline(always)]
    pub(super) fn time(self) -> u32 {
        self.load(TIME) & TIME_MASK
    }

    /// Counts packets at that second.
    #[inline(always)]
    pub(super) fn count(self, second: u32, packets: u32, len: u32) {
        self.store(PACKETS, self.load(PACKETS).saturating_add(packets));
        let (time, low) = (self.load(TIME), self.load(BYTES));
        let (mut bytes, carry) = low.overflowing_add(len);
        let mut high = time & !TIME_MASK;
        if carry {
            match high.checked_add(1 << TIME_BITS) {
                Some(sum) => high = sum,
                None => bytes = u32::MAX,
            }
        }
        self.store(BYTES, bytes);
        let stamp = high | second & TIME_MASK;
        if stamp != time {
            self.store(TIME, stamp);
        }
    }

    pub(super) fn counted(self) -> Count {
        let high = u64::from(self.load(TIME) >> TIME_BITS);
        Count {
            packets: self.load(PACKETS),
            bytes: (high << 32 | u64::from(self.load(BYTES))).min(MAX_BYTES),
        }
    }
}

/// Seconds from the second `then`, as far as an entry keeps it, to `now`; 0 when `then` is in fact later.
#[inline(always)]
pub(super) fn seconds_since(then: u32, now: u32) -> u32 {
    let passed = now.wrapping_sub(then) & TIME_MASK;
    if passed > TIME_MASK / 2 { 0 } else { passed }
}
