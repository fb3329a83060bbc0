//! What the driver offers, copied ahead: ring entries and the first descriptor of each chain.
//!
//! One burst is read in two short loops (entries, then descriptors), so that the cache misses on lines
//! the driver has just written overlap instead of standing in line behind each chain's own work. What
//! was copied and not used stays valid: a driver does not touch what it made available until it
//! gets it back.

use super::BURST;
use super::layout::{Descriptor, Rings};

/// A private copy of up to [`BURST`] offered heads.
pub(super) struct Ahead {
    /// Index of the available ring that the first copy was made of.
    base: u16,
    /// How many there are.
    len: u16,
    heads: [u16; BURST],
    first: [Descriptor; BURST],
}

impl Ahead {
    pub(super) fn new() -> Self {
        Self {
            base: 0,
            len: 0,
            heads: [0; BURST],
            first: [Descriptor::default(); BURST],
        }
    }

    /// Makes sure that index `from` is here, and on a miss copies up to `count` from it on; all of
    /// `from .. from + count` must have been offered.
    #[inline]
    pub(super) fn cover(&mut self, rings: &Rings, from: u16, count: u16) {
        if from.wrapping_sub(self.base) >= self.len {
            self.fill(rings, from, count);
        }
    }

    #[inline(never)]
    fn fill(&mut self, rings: &Rings, from: u16, count: u16) {
        let mut bytes = [0; 2 * BURST];
        let wanted = usize::from(count).min(BURST);
        let (bytes, _) = bytes.split_at_mut(2 * wanted);
        rings.read_avail(from, bytes);
        for ((head, first), entry) in self
            .heads
            .iter_mut()
            .zip(&mut self.first)
            .zip(bytes.as_chunks::<2>().0)
        {
            *head = u16::from_le_bytes(*entry);
            // A head beyond the table has no descriptor; who takes it will look at the head first.
            if *head < rings.size() {
                *first = rings.descriptor(*head);
            }
        }
        self.base = from;
        self.len = u16::try_from(wanted).unwrap_or(0); // at most BURST
    }

    /// The heads from index `at` on with their first descriptors, `count` at most, as far as they were copied. A
    /// descriptor means nothing when its head is beyond the table.
    #[inline(always)]
    pub(super) fn entries(&self, at: u16, count: u16) -> (&[u16], &[Descriptor]) {
        let position = at.wrapping_sub(self.base);
        let count = self.len.saturating_sub(position).min(count);
        let range = usize::from(position)..usize::from(position).wrapping_add(count.into());
        match (self.heads.get(range.clone()), self.first.get(range)) {
            (Some(heads), Some(first)) => (heads, first),
            _ => (&[], &[]),
        }
    }

    /// The head at index `at` and its first descriptor, if copied. The descriptor means nothing when
    /// the head is beyond the table.
    #[inline(always)]
    pub(super) fn entry(&self, at: u16) -> Option<(u16, Descriptor)> {
        let (heads, first) = self.entries(at, 1);
        Some((*heads.first()?, *first.first()?))
    }
}
