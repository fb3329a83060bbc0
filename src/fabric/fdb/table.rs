//! The slots of the FDB: what one holds, where a key may be, and reading without a lock.
//!
//! A slot is one atomic word that holds everything that must be consistent: the part of the key that the bucket's
//! number does not tell, the port, and the flags. An entry never moves between slots, so a word that a reader finds
//! is a whole entry, true at that moment; and a reader that remembers slot and word may later look whether the
//! slot still holds the very same word, which then stands for the very same entry.
//!
//! Writing is for the holder of the lock over the [`Books`](super::books::Books) only.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::mixer::{Key, Mixer, Place};
use crate::counters::PortId;

/// Slots in a bucket: with their seconds they fill a cache line.
pub(super) const WAYS: u32 = 5;

/// An entry in one word: `valid:1 static:1 other-bucket:1 port:10 remainder:51`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Word(u64);

impl Word {
    const VALID: u64 = 1 << 63;
    const STATIC: u64 = 1 << 62;
    const OTHER: u64 = 1 << 61;
    const PORT_AT: u32 = 51;
    const PORT: u64 = 0x3ff;
    const REMAINDER: u64 = (1 << Self::PORT_AT) - 1;
    const IDENTITY: u64 = Self::VALID | Self::OTHER | Self::REMAINDER;

    /// An empty slot.
    pub(super) const EMPTY: Self = Self(0);

    pub(super) fn port(self) -> Option<PortId> {
        PortId::new((self.0 >> Self::PORT_AT & Self::PORT) as u16)
    }

    #[inline]
    pub(super) fn is_on(self, port: PortId) -> bool {
        self.0 >> Self::PORT_AT & Self::PORT == u64::from(port.get())
    }

    pub(super) fn is_valid(self) -> bool {
        self.0 & Self::VALID != 0
    }

    #[inline]
    pub(super) fn is_static(self) -> bool {
        self.0 & Self::STATIC != 0
    }

    /// The bits by which a key's word is known in its bucket.
    pub(super) fn identity(self) -> Identity {
        Identity(self.0 & Self::IDENTITY)
    }
}

/// What a word in a bucket must have for it to be a certain key's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Identity(u64);

impl Identity {
    pub(super) fn learned_on(self, port: PortId) -> Word {
        Word(self.0 | u64::from(port.get()) << Word::PORT_AT)
    }

    pub(super) fn declared_for(self, port: PortId) -> Word {
        Word(self.learned_on(port).0 | Word::STATIC)
    }
}

/// A slot: its bucket and its way there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Slot {
    bucket: u32,
    way: u32,
}

impl Slot {
    pub(super) fn number(self) -> u32 {
        self.bucket.wrapping_mul(WAYS).wrapping_add(self.way)
    }

    pub(super) fn from_number(number: u32) -> Self {
        Self {
            bucket: number / WAYS,
            way: number % WAYS,
        }
    }

    /// The slots of a bucket.
    pub(super) fn of(bucket: u32) -> impl Iterator<Item = Self> + Clone {
        (0..WAYS).map(move |way| Self { bucket, way })
    }
}

/// A slot, and the word that was found there.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Found {
    pub(super) slot: Slot,
    pub(super) word: Word,
}

/// Vouches for an entry for as long as its slot holds the very same word.
#[derive(Clone, Copy, Debug)]
pub(in crate::fabric) struct Witness<'a> {
    word: &'a AtomicU64,
    was: Word,
}

impl Witness<'_> {
    /// Whether the entry is still what it was.
    #[inline(always)]
    pub(in crate::fabric) fn holds(self) -> bool {
        self.word.load(Ordering::Acquire) == self.was.0
    }
}

/// One of the two buckets of a key, and the key's identity there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) bucket: u32,
    pub(super) identity: Identity,
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Bucket {
    words: [AtomicU64; WAYS as usize],
    seen: [AtomicU32; WAYS as usize],
}

#[derive(Debug)]
pub(super) struct Table {
    mixer: Mixer,
    buckets: Box<[Bucket]>,
}

impl Table {
    /// An empty table of `1 << bucket_bits` buckets; 9 bits or more.
    pub(super) fn new(bucket_bits: u32) -> Self {
        Self {
            mixer: Mixer::new(bucket_bits),
            buckets: (0..1u32 << bucket_bits)
                .map(|_| Bucket::default())
                .collect(),
        }
    }

    pub(super) fn slots(&self) -> usize {
        self.buckets.len().saturating_mul(WAYS as usize)
    }

    pub(super) fn last_bucket(&self) -> u32 {
        u32::try_from(self.buckets.len())
            .unwrap_or(u32::MAX)
            .saturating_sub(1)
    }

    /// The two buckets of a key, the preferred first.
    #[inline]
    pub(super) fn candidates(&self, key: Key) -> [Candidate; 2] {
        let Place { primary, remainder } = self.mixer.place(key);
        [
            Candidate {
                bucket: primary,
                identity: Identity(Word::VALID | remainder),
            },
            Candidate {
                bucket: self.mixer.other(primary, remainder),
                identity: Identity(Word::VALID | Word::OTHER | remainder),
            },
        ]
    }

    #[inline]
    pub(super) fn find(&self, key: Key) -> Option<Found> {
        let [primary, other] = self.candidates(key);
        self.find_in(primary).or_else(|| self.find_in(other))
    }

    #[inline]
    fn find_in(&self, Candidate { bucket, identity }: Candidate) -> Option<Found> {
        let words = &self.buckets.get(bucket as usize)?.words;
        for (way, word) in (0u32..).zip(words) {
            let word = Word(word.load(Ordering::Acquire));
            if word.0 & Word::IDENTITY == identity.0 {
                return Some(Found {
                    slot: Slot { bucket, way },
                    word,
                });
            }
        }
        None
    }

    #[inline]
    pub(super) fn word(&self, slot: Slot) -> Word {
        let bucket = self.buckets.get(slot.bucket as usize);
        let word = bucket.and_then(|bucket| bucket.words.get(slot.way as usize));
        Word(word.map_or(0, |word| word.load(Ordering::Acquire)))
    }

    pub(super) fn at(&self, slot: Slot) -> Found {
        Found {
            slot,
            word: self.word(slot),
        }
    }

    /// The second at which the address in the slot was last heard.
    #[inline]
    pub(super) fn seen(&self, slot: Slot) -> u32 {
        self.second(slot)
            .map_or(0, |seen| seen.load(Ordering::Relaxed))
    }

    /// Notes that the address in the slot was heard; stores only when the second is another. Needs no lock: if the
    /// slot has just changed hands, the new entry lives a little longer.
    #[inline]
    pub(super) fn refresh(&self, slot: Slot, now: u32) {
        if let Some(seen) = self.second(slot) {
            Self::refresh_second(seen, now);
        }
    }

    /// As [`refresh`](Self::refresh), of a slot that was looked at.
    #[inline]
    pub(super) fn refresh_second(seen: &AtomicU32, now: u32) {
        if seen.load(Ordering::Relaxed) < now {
            seen.store(now, Ordering::Relaxed);
        }
    }

    /// What vouches for an entry that was found before, and the second at which its address was last heard; `None`
    /// when its slot does not hold it any more.
    #[inline]
    pub(super) fn witness(&self, found: Found) -> Option<(Witness<'_>, &AtomicU32)> {
        let Found { slot, word: was } = found;
        let bucket = self.buckets.get(slot.bucket as usize)?;
        let word = bucket.words.get(slot.way as usize)?;
        let seen = bucket.seen.get(slot.way as usize)?;
        let witness = Witness { word, was };
        witness.holds().then_some((witness, seen))
    }

    #[inline]
    /// The second at which what is in a slot was last heard.
    pub(super) fn heard(&self, slot: Slot) -> u32 {
        self.second(slot)
            .map_or(0, |seen| seen.load(Ordering::Relaxed))
    }

    fn second(&self, slot: Slot) -> Option<&AtomicU32> {
        self.buckets
            .get(slot.bucket as usize)?
            .seen
            .get(slot.way as usize)
    }

    /// Only under the lock. The second comes first, so that nobody finds a new entry with the second of an old one.
    pub(super) fn store(&self, slot: Slot, word: Word, now: u32) {
        let bucket = self.buckets.get(slot.bucket as usize);
        let stored = bucket.and_then(|bucket| bucket.words.get(slot.way as usize));
        if let (Some(seen), Some(stored)) = (self.second(slot), stored) {
            seen.store(now, Ordering::Relaxed);
            stored.store(word.0, Ordering::Release);
        }
    }

    /// All entries from one slot on, each as it is when its slot's turn comes.
    pub(super) fn all_from(&self, first: Slot) -> impl Iterator<Item = Found> + '_ {
        (first.bucket..=self.last_bucket())
            .flat_map(Slot::of)
            .skip(first.way as usize)
            .map(|slot| self.at(slot))
            .filter(|found| found.word.is_valid())
    }

    /// The key that a word in its slot stands for.
    pub(super) fn key(&self, Found { slot, word }: Found) -> Key {
        let remainder = word.0 & Word::REMAINDER;
        let primary = if word.0 & Word::OTHER != 0 {
            self.mixer.other(slot.bucket, remainder)
        } else {
            slot.bucket
        };
        self.mixer.key(Place { primary, remainder })
    }
}
