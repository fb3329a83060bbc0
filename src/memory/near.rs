//! One region of a table, looked up once for a run of accesses.

use std::ptr::NonNull;
use std::sync::Arc;

use vm_memory::VolatileSlice;

use super::copy::{get, prefetch, put};
use super::extent::Extent;
use super::region::Region;
use super::table::GuestMemory;

/// What the path needs of a region, together in memory. Whoever has one also holds the table that keeps the region
/// mapped: it is made by the table, lives in it, and is lent out in a [`Near`] that borrows the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) guest_addr: u64,
    pub(super) size: u64,
    base: NonNull<u8>,
}

impl Span {
    /// No byte.
    pub(super) const NONE: Self = Self {
        guest_addr: 0,
        size: 0,
        base: NonNull::dangling(),
    };

    pub(super) fn of(region: &Arc<Region>) -> Self {
        Self {
            guest_addr: region.spec().guest_addr,
            size: region.spec().size,
            base: region.base(),
        }
    }

    /// Guest address of `at`, which `slice` accepted.
    #[inline(always)]
    pub(super) fn guest_addr(&self, at: Extent) -> u64 {
        self.guest_addr.wrapping_add(at.offset)
    }

    /// The bytes of `at`, which names this region, as they lie in memory now; `None` when it has no such bytes.
    #[inline(always)]
    pub(super) fn slice(&self, at: Extent) -> Option<VolatileSlice<'_>> {
        let left = self.size.checked_sub(at.offset)?;
        if u64::from(at.len) > left {
            return None;
        }
        let offset = usize::try_from(at.offset).ok()?;
        // SAFETY: offset <= size, and `size` bytes from `base` belong to the mapping (Region::base; NONE has none).
        let start = unsafe { self.base.add(offset) };
        // SAFETY: `len` bytes from `start` are mapped for reading and writing (checked above) until the region is
        // dropped, which the table that `self` is in or was lent by prevents for the life of the slice. Other
        // processes write there at any time; a VolatileSlice allows that and gives out no reference to plain bytes.
        Some(unsafe { VolatileSlice::new(start.as_ptr(), at.len as usize) })
    }
}

/// One region of a table: see [`GuestMemory::near`]. What the path needs of it is here by value, so that a loop keeps
/// it in registers. What is elsewhere is the table's to serve.
#[derive(Clone, Copy, Debug)]
pub struct Near<'a> {
    memory: &'a GuestMemory,
    region: u32,
    span: Span,
}

impl<'a> Near<'a> {
    #[inline(always)]
    pub(super) fn new(memory: &'a GuestMemory, region: u32, span: Span) -> Self {
        Self {
            memory,
            region,
            span,
        }
    }

    /// The `len` bytes from `guest_addr` on, if all of them are in this region; `None` says nothing about other
    /// regions. Their first two cache lines are asked for, to be written (`WRITE`) or read soon.
    #[inline(always)]
    #[must_use]
    pub fn locate<const WRITE: bool>(self, guest_addr: u64, len: u32) -> Option<Extent> {
        let offset = guest_addr.wrapping_sub(self.span.guest_addr);
        let left = self.span.size.checked_sub(offset)?;
        if u64::from(len) > left {
            return None;
        }
        let place = usize::try_from(offset).ok()?;
        let start = self.span.base.as_ptr().wrapping_add(place);
        prefetch::<WRITE>(start);
        if len > 64 {
            prefetch::<WRITE>(start.wrapping_add(64));
        }
        Some(Extent {
            region: self.region,
            len,
            offset,
        })
    }

    /// Fills `into` with what follows the first `skip` bytes of `at`, as [`GuestMemory::read`] does. False, and nothing
    /// was read, when `at` is not in this region or has not so many bytes.
    #[inline(always)]
    #[must_use]
    pub fn read(self, at: Extent, skip: u32, into: &mut [u8]) -> bool {
        match self.part(at, skip, into.len()) {
            Some(slice) => {
                get(&slice, into);
                true
            }
            None => false,
        }
    }

    /// Writes `from` to the beginning of `at`, as [`GuestMemory::write`] does. False, and nothing was
    /// written, when `at` is not in this region or has not so many bytes.
    #[inline(always)]
    #[must_use]
    pub fn write(self, at: Extent, from: &[u8]) -> bool {
        match self.part(at, 0, from.len()) {
            Some(slice) => {
                let guest_addr = self.span.guest_addr(at);
                self.memory
                    .mutate(guest_addr, &slice, |slice| put(slice, from));
                true
            }
            None => false,
        }
    }

    /// `len` bytes of `at` behind the first `skip`.
    #[inline(always)]
    fn part(&self, at: Extent, skip: u32, len: usize) -> Option<VolatileSlice<'_>> {
        let slice = self.span.slice(at)?;
        let skip = skip as usize;
        let end = skip.checked_add(len)?;
        if at.region != self.region || end > slice.len() {
            return None;
        }
        let start = slice.ptr_guard_mut().as_ptr();
        // SAFETY: skip <= end <= the bytes of `slice`.
        let start = unsafe { start.add(skip) };
        // SAFETY: `len` bytes from `start` end where `slice` ends or before.
        Some(unsafe { VolatileSlice::new(start, len) })
    }
}
