//! What the driver offers, copied ahead: ring entries and the first descriptor of each chain.
//!
//! One burst is read in two short loops (entries, then descriptors), so that the cache misses on lines
//! the driver has just written overlap instead of standing in line behind each chain's own work. What
//! was copied and not used stays valid: a driver does not touch what it made available until it
//! gets it back.

use super::BURST;
use super::layout::{Descriptor, Rings};

/// An offered head and its first descriptor, which means nothing when the head is beyond the table.
#[derive(Clone, Copy, Default)]
pub(super) struct Offer {
    pub(super) first: Descriptor,
    pub(super) head: u16,
}

/// A private copy of up to [`BURST`] offers.
pub(super) struct Ahead {
    /// Index of the available ring that the first copy was made of.
    base: u16,
    /// How many there are.
    len: u16,
    offers: [Offer; BURST],
}

impl Ahead {
    pub(super) fn new() -> Self {
        Self {
            base: 0,
            len: 0,
            offers: [Offer::default(); BURST],
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
        for (offer, entry) in self.offers.iter_mut().zip(bytes.as_chunks::<2>().0) {
            offer.head = u16::from_le_bytes(*entry);
            // A head beyond the table has no descriptor; who takes it will look at the head first.
            if offer.head < rings.size() {
                offer.first = rings.descriptor(offer.head);
            }
        }
        self.base = from;
        self.len = u16::try_from(wanted).unwrap_or(0); // at most BURST
    }

    /// The offers from index `at` on, `count` at most, as far as they were copied.
    #[inline(always)]
    pub(super) fn offers(&self, at: u16, count: u16) -> &[Offer] {
        let position = at.wrapping_sub(self.base);
        let count = self.len.saturating_sub(position).min(count);
        let range = usize::from(position)..usize::from(position).wrapping_add(count.into());
        self.offers.get(range).unwrap_or_default()
    }

    /// The offer at index `at`, if copied.
    #[inline(always)]
    pub(super) fn offer(&self, at: u16) -> Option<Offer> {
        self.offers(at, 1).first().copied()
    }
}
