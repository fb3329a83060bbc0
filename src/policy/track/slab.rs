//! Where the entries of one table lie: chunks that double, zeroed by the kernel page by page as they are first used.
//!
//! A chunk is never moved or given back, so that a reader needs no lock to find an entry. All chunks that a table may
//! come to need are asked for when it is made or its bound is raised, not when a connection opens.

use std::sync::OnceLock;
use std::sync::atomic::AtomicU32;

use zerocopy::FromZeros;

use super::entry::{Entry, WORDS};

/// Words of a cache line.
const LINE: usize = 16;
const FIRST_BITS: u32 = 12;
/// Entries of the first chunk; the second has as many, and each further one twice as many as the one before.
const FIRST: u32 = 1 << FIRST_BITS;
const CHUNKS: usize = 12;
/// The most entries of one table.
pub(super) const MAX_SLOTS: u32 = FIRST << (CHUNKS - 1);

/// Zeroed words that begin at a cache line.
#[derive(Debug)]
pub(super) struct Lines {
    words: Box<[AtomicU32]>,
    skip: usize,
}

impl Lines {
    /// `None` without memory.
    pub(super) fn new(words: usize) -> Option<Self> {
        // An alignment over 16 would have the allocator write the zeros itself, and so use all of the memory at once.
        let words = <[AtomicU32]>::new_box_zeroed_with_elems(words.checked_add(LINE)?).ok()?;
        let past = words.as_ptr().addr() / size_of::<AtomicU32>() % LINE;
        let skip = (LINE - past) % LINE;
        Some(Self { words, skip })
    }

    #[inline(always)]
    pub(super) fn get<const N: usize>(&self, at: usize) -> Option<&[AtomicU32; N]> {
        self.words.get(self.skip.wrapping_add(at)..)?.first_chunk()
    }
}

/// One chunk: its entries, and behind them two words of links for each.
#[derive(Debug)]
struct Chunk {
    lines: Lines,
    entries: usize,
}

/// What binds an entry into the lists of its table; only its holder of the table's lock reads or writes it.
pub(super) type Links = [AtomicU32; 2];

#[derive(Debug, Default)]
pub(super) struct Slab {
    chunks: [OnceLock<Chunk>; CHUNKS],
}

impl Slab {
    /// Sees to `slots` entries; returns how many there are now.
    pub(super) fn grow(&self, slots: u32) -> u32 {
        let mut have = 0u32;
        for (n, chunk) in self.chunks.iter().enumerate() {
            let entries = FIRST << n.saturating_sub(1);
            if chunk.get().is_none() {
                if have >= slots {
                    break;
                }
                let entries = entries as usize;
                let Some(lines) = Lines::new(entries * (WORDS + 2)) else {
                    break;
                };
                // Whoever else grows it at the same time was as good.
                let _ = chunk.set(Chunk { lines, entries });
            }
            have = have.saturating_add(entries);
        }
        have
    }

    #[inline(always)]
    fn place(&self, slot: u32) -> Option<(&Chunk, usize)> {
        // The chunk of slots below FIRST is 0, below 2 FIRST 1, below 4 FIRST 2, ...
        let chunk = (u32::BITS - (slot >> FIRST_BITS).leading_zeros()) as usize;
        let first = if chunk == 0 {
            0
        } else {
            1u32 << (FIRST_BITS as usize + chunk - 1)
        };
        let chunk = self.chunks.get(chunk)?.get()?;
        Some((chunk, slot.wrapping_sub(first) as usize))
    }

    #[inline(always)]
    pub(super) fn entry(&self, slot: u32) -> Option<Entry<'_>> {
        let (chunk, at) = self.place(slot)?;
        if at >= chunk.entries {
            return None;
        }
        chunk.lines.get(at * WORDS).map(Entry)
    }

    pub(super) fn links(&self, slot: u32) -> Option<&Links> {
        let (chunk, at) = self.place(slot)?;
        if at >= chunk.entries {
            return None;
        }
        chunk.lines.get(chunk.entries * WORDS + at * 2)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_slot_has_a_place_of_its_own_on_two_lines() {
        let slab = Slab::default();
        let slots = 5 * FIRST;
        assert!(slab.entry(0).is_none());
        assert_eq!(slab.grow(slots), 8 * FIRST);
        assert_eq!(slab.grow(1), 8 * FIRST, "nothing is given back");
        let mut places = BTreeSet::new();
        for slot in 0..8 * FIRST {
            let entry = slab.entry(slot).unwrap();
            let address = entry.0.as_ptr().addr();
            assert_eq!(address % 64, 0);
            assert!(places.insert(address));
            let links = slab.links(slot).unwrap().as_ptr().addr();
            assert!(places.insert(links));
        }
        assert!(slab.entry(8 * FIRST).is_none());
        assert!(slab.links(8 * FIRST).is_none());
        assert!(slab.entry(u32::MAX).is_none());
    }
}
