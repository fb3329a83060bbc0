//! Bytes into the places that were reserved for them, with the tag that the receiver is to see.

use crate::datapath::cursor::Cursor;
use crate::datapath::slot::Slot;
use crate::fabric::EgressTag;
use crate::frame::{Frame, vlan};
use crate::memory::{Extent, GuestMemory};

/// Bytes of a VLAN tag.
const TAG: i16 = 4;

/// What must happen to the tag of a frame on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TagEdit {
    Keep,
    To(EgressTag),
}

impl TagEdit {
    #[inline(always)]
    pub(super) fn of(slot: &Slot, egress: EgressTag) -> Self {
        match (slot.tagged, egress) {
            (false, EgressTag::Untagged) | (true, EgressTag::Tagged(_)) => Self::Keep,
            _ => Self::To(egress),
        }
    }

    /// Bytes that the frame grows by.
    pub(super) const fn shift(self) -> i16 {
        match self {
            Self::Keep => 0,
            Self::To(EgressTag::Tagged(_)) => TAG,
            Self::To(EgressTag::Untagged) => -TAG,
        }
    }

    /// The bytes of a frame after the edit.
    #[inline(always)]
    pub(super) fn grown(self, len: u32) -> u32 {
        match self {
            Self::Keep => len,
            edit => len.saturating_add_signed(i32::from(edit.shift())),
        }
    }

    /// Writes the beginning of a frame, Ethernet header included, with its tag as it must be.
    pub(super) fn write(self, writer: &mut Writer<'_>, bytes: &[u8]) {
        let tag = match self {
            Self::Keep => return writer.put(bytes),
            Self::To(EgressTag::Tagged(vid)) => Some(vid),
            Self::To(EgressTag::Untagged) => None,
        };
        // The bytes were parsed when they were judged; they parse again.
        let Ok(frame) = Frame::parse(bytes, u32::try_from(bytes.len()).unwrap_or(u32::MAX)) else {
            return;
        };
        let head = vlan::retag(&frame, tag);
        writer.put(head.bytes());
        writer.put(bytes.get(head.replaces()..).unwrap_or_default());
    }
}

/// Writes one byte stream over the places that were reserved for it.
pub(super) struct Writer<'a> {
    memory: &'a GuestMemory,
    next: std::slice::Iter<'a, Extent>,
    place: Extent,
}

impl<'a> Writer<'a> {
    #[inline]
    pub(super) fn new(memory: &'a GuestMemory, places: &'a [Extent]) -> Self {
        let mut next = places.iter();
        let place = next.next().copied().unwrap_or_default();
        Self {
            memory,
            next,
            place,
        }
    }

    /// The next `want` bytes' place, as far as it lies in one piece.
    #[inline]
    fn advance(&mut self, want: u32) -> Option<Extent> {
        while self.place.is_empty() {
            self.place = *self.next.next()?;
        }
        let here = self.place.take(want);
        self.place = self.place.skip(want);
        Some(here)
    }

    #[inline]
    pub(super) fn put(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let Some(here) = self.advance(u32::try_from(bytes.len()).unwrap_or(u32::MAX)) else {
                return;
            };
            let Some((now, later)) = bytes.split_at_checked(here.len() as usize) else {
                return;
            };
            self.memory.write(here, now);
            bytes = later;
        }
    }

    /// Copies `len` bytes from another guest's memory.
    pub(super) fn put_from(
        &mut self,
        from: &GuestMemory,
        tail: Cursor,
        extents: &[Extent],
        mut len: u32,
    ) {
        for mut extent in tail.rest(extents) {
            extent = extent.take(len);
            len = len.wrapping_sub(extent.len());
            while !extent.is_empty() {
                let Some(here) = self.advance(extent.len()) else {
                    return;
                };
                GuestMemory::copy((from, extent.take(here.len())), (self.memory, here));
                extent = extent.skip(here.len());
            }
            if len == 0 {
                return;
            }
        }
    }
}
