//! Names for ranges of guest memory.

/// A range of bytes inside one region of a [`GuestMemory`](super::GuestMemory).
///
/// It is a name and not a pointer: it is checked against the table each time it is used, so it may be
/// kept in an arena without a lifetime. Used with another table than the one that made it, it names
/// other bytes of that table's guest, or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    pub(super) region: u32,
    pub(super) len: u32,
    pub(super) offset: u64,
}

impl Extent {
    /// No byte.
    pub const NONE: Self = Self {
        region: 0,
        len: 0,
        offset: 0,
    };

    /// Length in bytes.
    #[inline]
    #[must_use]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether it names no byte.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The region that it lies in.
    #[inline]
    #[must_use]
    pub fn hint(self) -> RegionHint {
        RegionHint(self.region)
    }

    /// What is left after the first `bytes`; empty when there are not so many.
    #[inline]
    #[must_use]
    pub fn skip(self, bytes: u32) -> Self {
        let skipped = bytes.min(self.len);
        Self {
            region: self.region,
            len: self.len.wrapping_sub(skipped), // skipped <= len
            offset: self.offset.wrapping_add(u64::from(skipped)), // stays inside the region
        }
    }

    /// The first `bytes`, or all of it when there are not so many.
    #[inline]
    #[must_use]
    pub fn take(self, bytes: u32) -> Self {
        Self {
            len: self.len.min(bytes),
            ..self
        }
    }
}

/// The region that answered last; most descriptors of a ring lie in the same one.
#[derive(Clone, Copy, Debug, Default)]
pub struct RegionHint(pub(super) u32);
