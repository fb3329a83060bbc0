//! Where the entries of one table lie: zeroed memory that the kernel gives page by page as it is first used.
//!
//! A chunk is never moved or given back, so that a reader needs no lock to find an entry. What a table may come to need is asked
//! for when it is made or its bound is raised, not when a connection opens: in one piece, since an allocator takes small pieces
//! from a heap and writes their zeros itself, and so uses all of them at once.

use std::sync::OnceLock;
use std::sync::atomic::AtomicU32;

use zerocopy::FromZeros;

use super::entry::{Entry, WORDS};

/// Words of two cache lines: an entry's, which processors like to fetch as a pair.
const LINES: usize = 32;
/// The most entries of one table.
pub(super) const MAX_SLOTS: u32 = 1 << 23;

/// Items in chunks: the first as long as was asked for in the beginning, and for what was asked for later one of [`Chunks::STEP`]
/// items, one as long, and each further one twice as long as the one before.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    chunks: [OnceLock<Chunk>; 13],
}

#[derive(Debug)]
pub(super) struct Chunk {
    lines: Lines,
    items: u32,
}

impl Chunks {
    const STEP_BITS: u32 = 12;
    const STEP: u32 = 1 << Self::STEP_BITS;

    /// Sees to `items` of `words` words each; returns how many there are now.
    pub(super) fn grow(&self, items: u32, words: usize) -> u32 {
        let mut have = 0u32;
        for (n, chunk) in self.chunks.iter().enumerate() {
            if chunk.get().is_none() {
                if have >= items {
                    break;
                }
                let items = match n.checked_sub(1) {
                    None => items.next_multiple_of(Self::STEP),
                    Some(n) => Self::STEP << n.saturating_sub(1),
                };
                let Some(lines) = Lines::new((items as usize).saturating_mul(words)) else {
                    break;
                };
                // Whoever else grows it at the same time was as good.
                let _ = chunk.set(Chunk { lines, items });
            }
            have = have.saturating_add(chunk.get().map_or(0, |chunk| chunk.items));
        }
        have
    }

    /// The chunk of an item, and its place in there.
    #[inline(always)]
    pub(super) fn place(&self, item: u32) -> Option<(&Chunk, usize)> {
        let first = self.chunks[0].get()?;
        if item < first.items {
            return Some((first, item as usize));
        }
        let item = item.wrapping_sub(first.items);
        // Below STEP it is the second chunk, below 2 STEP the third, below 4 STEP the fourth, ...
        let n = (u32::BITS - (item >> Self::STEP_BITS).leading_zeros()) as usize;
        let before = if n == 0 {
            0
        } else {
            Self::STEP << n.saturating_sub(1)
        };
        let chunk = self.chunks.get(n.wrapping_add(1))?.get()?;
        Some((chunk, item.wrapping_sub(before) as usize))
    }
}

impl Chunk {
    /// The words from `at` on.
    #[inline(always)]
    pub(super) fn get<const N: usize>(&self, at: usize) -> Option<&[AtomicU32; N]> {
        self.lines.get(at)
    }
}

/// Zeroed words that begin at a pair of cache lines.
#[derive(Debug)]
pub(super) struct Lines {
    words: Box<[AtomicU32]>,
    skip: usize,
}

impl Lines {
    /// `None` without memory.
    pub(super) fn new(words: usize) -> Option<Self> {
        // An alignment over 16 would have the allocator write the zeros itself, and so use all of the memory at once.
        let words = <[AtomicU32]>::new_box_zeroed_with_elems(words.checked_add(LINES)?).ok()?;
        let past = words.as_ptr().addr() / size_of::<AtomicU32>() % LINES;
        let skip = (LINES - past) % LINES;
        Some(Self { words, skip })
    }

    #[inline(always)]
    pub(super) fn get<const N: usize>(&self, at: usize) -> Option<&[AtomicU32; N]> {
        self.words.get(self.skip.wrapping_add(at)..)?.first_chunk()
    }
}

/// What binds an entry into the lists of its table; only its holder of the table's lock reads or writes it.
pub(super) type Links = [AtomicU32; 2];

/// Entries, and behind those of a chunk two words of links for each.
#[derive(Debug, Default)]
pub(super) struct Slab(Chunks);

impl Slab {
    /// Sees to `slots` entries; returns how many there are now.
    pub(super) fn grow(&self, slots: u32) -> u32 {
        self.0.grow(slots, WORDS + 2).min(MAX_SLOTS)
    }

    #[inline(always)]
    pub(super) fn entry(&self, slot: u32) -> Option<Entry<'_>> {
        let (chunk, at) = self.0.place(slot)?;
        if at >= chunk.items as usize {
            return None;
        }
        chunk.get(at * WORDS).map(Entry)
    }

    pub(super) fn links(&self, slot: u32) -> Option<&Links> {
        let (chunk, at) = self.0.place(slot)?;
        let items = chunk.items as usize;
        if at >= items {
            return None;
        }
        chunk.get(items * WORDS + at * 2)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_slot_has_a_place_of_its_own_on_two_lines() {
        let slab = Slab::default();
        assert!(slab.entry(0).is_none());
        assert_eq!(slab.grow(5000), 8192);
        assert_eq!(slab.grow(1), 8192, "nothing is given back");
        assert!(slab.entry(8192).is_none());
        assert_eq!(slab.grow(20_000), 8192 + 4096 + 4096 + 8192);
        let slots = slab.grow(30_000);
        assert_eq!(slots, 8192 + 4096 + 4096 + 8192 + 16_384);
        let mut places = BTreeSet::new();
        for slot in 0..slots {
            let entry = slab.entry(slot).unwrap();
            let address = entry.0.as_ptr().addr();
            assert_eq!(address % 128, 0);
            assert!(places.insert(address));
            let links = slab.links(slot).unwrap().as_ptr().addr();
            assert!(places.insert(links));
        }
        assert!(slab.entry(slots).is_none());
        assert!(slab.links(slots).is_none());
        assert!(slab.entry(u32::MAX).is_none());
    }
}
