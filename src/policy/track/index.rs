//! From a hash to a slot: buckets of one cache line, two for each hash, and as many buckets as there is need of.
//!
//! The table grows by linear hashing (Litwin, 1980): one bucket is divided at a time, so that no insertion waits for all
//! to be moved, memory is used as connections come, and a look-up costs one line or two at 1,000 connections as at 4 million. A
//! connection goes into the first of its two buckets, and when little is free there into the emptier of both. When both are
//! full, which half-filled buckets make as good as impossible, it is not taken in: no chain grows.
//!
//! One thread at a time changes the index (the holder of the table's lock); others read meanwhile. A connection that moves
//! to another bucket is missing for a moment, so a reader that found nothing asks [`Index::is_calm`] whether to believe it.

use std::sync::atomic::{AtomicU32, Ordering, fence};

use super::slab::Chunks;

/// Slots of a bucket.
const WAYS: usize = 16;
/// Entries in a bucket, on average, from which on the next one is divided.
const FILL: u32 = 8;
/// Free places in its first bucket down to which a connection goes there and not into the emptier of both.
const SCARCE: usize = 4;
/// Buckets in the beginning.
const FIRST: u32 = 64;

/// A word of a bucket: a tag, never 0, above the number of a slot. 0: empty.
const SLOT_BITS: u32 = 23;
const SLOT: u32 = (1 << SLOT_BITS) - 1;

const _: () = assert!(super::slab::MAX_SLOTS <= SLOT + 1);

pub(super) type Bucket = [AtomicU32; WAYS];

#[derive(Debug, Default)]
pub(super) struct Index {
    chunks: Chunks,
    /// How many buckets are in use.
    buckets: AtomicU32,
    /// Odd while a bucket is being divided.
    moves: AtomicU32,
}

/// One of the two buckets of a hash. Most connections are in the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// The first.
    First,
    /// The other.
    Second,
}

/// Two bucket selectors and the tag.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the hash is cut up")]
fn parts(hash: u64) -> (u32, u32, u32) {
    let tag = (hash >> 55) as u32;
    (hash as u32, (hash >> 32) as u32, tag.max(1) << SLOT_BITS)
}

/// The bucket of a selector among `buckets`.
#[inline(always)]
fn address(selector: u32, buckets: u32) -> u32 {
    let low = 1u32 << (buckets.max(1).ilog2());
    let wide = selector & low.wrapping_mul(2).wrapping_sub(1);
    if wide < buckets {
        wide
    } else {
        selector & low.wrapping_sub(1)
    }
}

/// Reads a word, so that its line is near when it is asked; the word means nothing.
#[inline(always)]
pub(super) fn touch(bucket: &Bucket) -> u32 {
    let [word, ..] = bucket;
    word.load(Ordering::Relaxed)
}

/// The words of a bucket, and a bit for each that has the tag: without a jump, since which it is cannot be foreseen.
#[inline(always)]
fn matches(bucket: &Bucket, tag: u32) -> ([u32; WAYS], u32) {
    let words = bucket.each_ref().map(|word| word.load(Ordering::Acquire));
    let bits = words.iter().zip(0..);
    let bits = bits.fold(0, |bits, (word, at)| {
        bits | u32::from(word & !SLOT == tag) << at
    });
    (words, bits)
}

/// A slot that a bucket has for a hash: very often the right one, if it has the right one.
#[inline(always)]
pub(super) fn guess(bucket: &Bucket, hash: u64) -> Option<u32> {
    let (_, _, tag) = parts(hash);
    let (words, bits) = matches(bucket, tag);
    Some(words.get(bits.trailing_zeros() as usize)? & SLOT)
}

impl Index {
    /// Sees to memory for `entries`.
    pub(super) fn grow(&self, entries: u32) {
        // One more than are needed for the last one to be divided.
        let most = (entries / FILL).saturating_add(1).max(FIRST);
        if self.chunks.grow(most, WAYS) < FIRST {
            return;
        }
        if self.buckets.load(Ordering::Relaxed) == 0 {
            self.buckets.store(FIRST, Ordering::Release);
        }
    }

    #[inline(always)]
    fn bucket(&self, n: u32) -> Option<&Bucket> {
        let (chunk, at) = self.chunks.place(n)?;
        chunk.get(at * WAYS)
    }

    #[inline(always)]
    fn pair(&self, hash: u64) -> [Option<&Bucket>; 2] {
        let buckets = self.buckets.load(Ordering::Acquire);
        let (first, second, _) = parts(hash);
        [
            self.bucket(address(first, buckets)),
            self.bucket(address(second, buckets)),
        ]
    }

    /// What `is_it` makes of the first slot that it does not decline.
    #[inline]
    pub(super) fn find<T>(&self, hash: u64, is_it: impl Fn(u32) -> Option<T>) -> Option<T> {
        let (_, _, tag) = parts(hash);
        for bucket in self.pair(hash).into_iter().flatten() {
            let (words, mut bits) = matches(bucket, tag);
            while let Some(word) = words.get(bits.trailing_zeros() as usize) {
                if let Some(found) = is_it(word & SLOT) {
                    return Some(found);
                }
                bits &= bits.wrapping_sub(1);
            }
        }
        None
    }

    /// One of the buckets of a hash.
    #[inline(always)]
    pub(super) fn choose(&self, hash: u64, choice: Choice) -> Option<&Bucket> {
        let buckets = self.buckets.load(Ordering::Acquire);
        let (first, second, _) = parts(hash);
        let selector = match choice {
            Choice::First => first,
            Choice::Second => second,
        };
        self.bucket(address(selector, buckets))
    }

    /// A mark for [`Index::is_calm`].
    pub(super) fn watch(&self) -> u32 {
        self.moves.load(Ordering::Acquire)
    }

    /// Whether nothing was moved since that mark.
    pub(super) fn is_calm(&self, mark: u32) -> bool {
        fence(Ordering::Acquire);
        mark & 1 == 0 && self.moves.load(Ordering::Relaxed) == mark
    }

    /// Takes a slot in; false when both its buckets are full.
    pub(super) fn insert(&self, hash: u64, slot: u32) -> bool {
        let (_, _, tag) = parts(hash);
        let vacancy = |bucket: &'_ Bucket| {
            let free = bucket
                .iter()
                .filter(|word| word.load(Ordering::Relaxed) == 0);
            free.count()
        };
        let mut best: Option<(&Bucket, usize)> = None;
        for bucket in self.pair(hash).into_iter().flatten() {
            let free = vacancy(bucket);
            if best.is_none_or(|(_, most)| free > most) {
                best = Some((bucket, free));
            }
            if free > SCARCE {
                break;
            }
        }
        let mut words = best.into_iter().flat_map(|(bucket, _)| bucket);
        match words.find(|word| word.load(Ordering::Relaxed) == 0) {
            Some(word) => {
                word.store(tag | slot & SLOT, Ordering::Release);
                true
            }
            None => false,
        }
    }

    /// Takes a slot out.
    pub(super) fn remove(&self, hash: u64, slot: u32) {
        let (_, _, tag) = parts(hash);
        for bucket in self.pair(hash).into_iter().flatten() {
            for word in bucket {
                if word.load(Ordering::Relaxed) == tag | slot & SLOT {
                    word.store(0, Ordering::Release);
                    return;
                }
            }
        }
    }

    /// Whether the index of that many entries wants another bucket.
    pub(super) fn is_crowded(&self, entries: u32) -> bool {
        entries / FILL >= self.buckets.load(Ordering::Relaxed)
    }

    /// Divides the next bucket; `hash_of` tells the hash of a slot.
    pub(super) fn split(&self, hash_of: impl Fn(u32) -> Option<u64>) {
        let buckets = self.buckets.load(Ordering::Relaxed);
        let from = address(buckets, buckets);
        let (Some(old), Some(new)) = (self.bucket(from), self.bucket(buckets)) else {
            return;
        };
        self.moves.fetch_add(1, Ordering::AcqRel);
        fence(Ordering::Release);
        let more = buckets.wrapping_add(1);
        let mut free = new.iter();
        for word in old {
            let value = word.load(Ordering::Relaxed);
            if value == 0 {
                continue;
            }
            let Some(hash) = hash_of(value & SLOT) else {
                continue;
            };
            let (first, second, _) = parts(hash);
            let selector = if address(first, buckets) == from {
                first
            } else {
                second
            };
            if address(selector, more) == buckets
                && let Some(place) = free.next()
            {
                place.store(value, Ordering::Release);
                word.store(0, Ordering::Release);
            }
        }
        self.buckets.store(more, Ordering::Release);
        self.moves.fetch_add(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher, RandomState};

    use super::*;

    #[test]
    fn what_was_put_in_is_found_while_it_grows_and_nothing_else_is() {
        const MANY: u32 = 40_000;
        let random = RandomState::new();
        let hash = |slot: u32| random.hash_one(slot);
        let index = Index::default();
        index.grow(MANY);
        for slot in 0..MANY {
            let mark = index.watch();
            if index.is_crowded(slot) {
                index.split(|slot| Some(hash(slot)));
                assert!(!index.is_calm(mark));
            }
            assert!(index.insert(hash(slot), slot), "slot {slot}");
            let some = slot / 2;
            assert_eq!(
                index.find(hash(some), |found| (found == some).then_some(found)),
                Some(some)
            );
        }
        assert_eq!(index.buckets.load(Ordering::Relaxed), MANY / FILL);
        let likely = (0..MANY).filter(|slot| {
            index
                .choose(hash(*slot), Choice::First)
                .and_then(|bucket| guess(bucket, hash(*slot)))
                == Some(*slot)
        });
        let likely = u32::try_from(likely.count()).unwrap();
        for slot in 0..MANY {
            let is_it = |found| (found == slot).then_some(());
            assert_eq!(index.find(hash(slot), is_it), Some(()));
            index.remove(hash(slot), slot);
            assert_eq!(index.find(hash(slot), is_it), None);
        }
        assert!(likely > MANY / 5 * 4, "{likely}");
        let used = (0..MANY / FILL)
            .filter_map(|n| index.bucket(n))
            .flatten()
            .filter(|word| word.load(Ordering::Relaxed) != 0);
        assert_eq!(used.count(), 0);
    }

    /// What nobody without the key can bring about: all in one bucket. It is refused, not chained.
    #[test]
    fn e_31_one_hash_for_all_fills_two_buckets_and_no_more() {
        let index = Index::default();
        index.grow(1024);
        let hash = 0x5_0000_0003;
        let taken = (0..100).filter(|slot| index.insert(hash, *slot)).count();
        assert_eq!(taken, 2 * WAYS);
    }

    #[test]
    fn addresses_stay_where_they_are_but_for_the_divided_bucket() {
        for buckets in FIRST..4 * FIRST {
            let divided = address(buckets, buckets);
            for selector in (0..10_000u32).map(|n| n.wrapping_mul(0x9e37_79b9)) {
                let (before, after) = (address(selector, buckets), address(selector, buckets + 1));
                assert!(before < buckets);
                assert!(before == after || (before == divided && after == buckets));
            }
        }
    }
}
