//! A place in the bytes of a chain.

use crate::memory::{Extent, GuestMemory};

/// Reads the bytes of a chain in order.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cursor {
    extent: u16,
    skip: u32,
}

impl Cursor {
    /// Stands in the first place, behind `skip` bytes of it.
    #[inline(always)]
    pub(crate) const fn in_first(skip: u32) -> Self {
        Self { extent: 0, skip }
    }

    /// Stands behind the first `skip` bytes.
    pub(crate) fn after(extents: &[Extent], mut skip: u32) -> Self {
        let mut at = 0u16;
        for extent in extents {
            if skip < extent.len() {
                break;
            }
            skip -= extent.len();
            at += 1;
        }
        Self { extent: at, skip }
    }

    /// Reads the next bytes into `into`; returns how many there were.
    pub(crate) fn read(
        &mut self,
        memory: &GuestMemory,
        extents: &[Extent],
        into: &mut [u8],
    ) -> usize {
        let mut done = 0;
        while let Some(extent) = extents.get(usize::from(self.extent)) {
            let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) else {
                break;
            };
            let part = extent
                .skip(self.skip)
                .take(u32::try_from(rest.len()).unwrap_or(u32::MAX));
            let len = part.len() as usize;
            if let Some(rest) = rest.get_mut(..len) {
                memory.read(part, rest);
            }
            done += len;
            self.skip += part.len();
            if self.skip >= extent.len() {
                self.extent += 1;
                self.skip = 0;
            }
        }
        done
    }

    /// The next `len` bytes, if they lie in one place.
    #[inline(always)]
    pub(crate) fn in_one(self, extents: &[Extent], len: u32) -> Option<Extent> {
        let rest = extents.get(usize::from(self.extent))?.skip(self.skip);
        (rest.len() >= len).then(|| rest.take(len))
    }

    /// The places that are left, in order.
    pub(crate) fn rest(self, extents: &[Extent]) -> impl Iterator<Item = Extent> {
        let mut skip = self.skip;
        extents
            .get(usize::from(self.extent)..)
            .unwrap_or_default()
            .iter()
            .map(move |extent| {
                let extent = extent.skip(skip);
                skip = 0;
                extent
            })
    }
}
