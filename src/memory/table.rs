//! The table of a guest's regions: addresses become extents, extents are copied.

use std::mem::size_of;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use vm_memory::{Bytes, VolatileSlice};

use super::copy::{across, get, prefetch, put};
use super::extent::{Extent, RegionHint};
use super::fault::{FaultCause, FaultFlag};
use super::near::{Near, Span};
use super::region::{MapError, Region, RegionSpec};
use super::window::{Window, WindowError};

/// What one port may map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Regions.
    pub regions: usize,
    /// Bytes in all of them.
    pub bytes: u64,
}

impl Default for Limits {
    /// 509 regions, as the kernel's vhost allows by default, and 1 TiB.
    fn default() -> Self {
        Self {
            regions: 509,
            bytes: 1 << 40,
        }
    }
}

impl Limits {
    /// Judges a whole table. To be asked before anything of it is mapped, so that a refused table never
    /// takes address space from other ports.
    ///
    /// # Errors
    ///
    /// See [`TableError`]; the first offence found.
    pub fn check<'a>(
        &self,
        specs: impl IntoIterator<Item = &'a RegionSpec>,
    ) -> Result<(), TableError> {
        let mut specs: Vec<RegionSpec> = specs.into_iter().copied().collect();
        if specs.len() > self.regions {
            return Err(TableError::TooManyRegions {
                regions: specs.len(),
                limit: self.regions,
            });
        }
        let mut bytes = 0u64;
        for spec in &specs {
            spec.check()?;
            bytes = bytes.saturating_add(spec.size);
        }
        if bytes > self.bytes {
            return Err(TableError::TooManyBytes {
                bytes,
                limit: self.bytes,
            });
        }
        // None of the ranges is empty or wraps, so neighbours in order tell about all pairs.
        specs.sort_unstable_by_key(|spec| spec.guest_addr);
        for pair in specs.array_windows::<2>() {
            let [low, high] = *pair;
            if low.guest_end() > high.guest_addr {
                return Err(TableError::GuestOverlap { low, high });
            }
        }
        specs.sort_unstable_by_key(|spec| spec.user_addr);
        for pair in specs.array_windows::<2>() {
            let [low, high] = *pair;
            if low.user_end() > high.user_addr {
                return Err(TableError::UserOverlap { low, high });
            }
        }
        Ok(())
    }
}

/// Why a table was refused.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// More regions than the port may have.
    #[error("{regions} memory regions, the limit is {limit}")]
    TooManyRegions {
        /// Regions asked for.
        regions: usize,
        /// Regions allowed.
        limit: usize,
    },
    /// More bytes than the port may map.
    #[error("{bytes:#x} bytes of memory, the limit is {limit:#x}")]
    TooManyBytes {
        /// Bytes asked for.
        bytes: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// Two regions share guest-physical addresses.
    #[error("{low} overlaps {high} in guest addresses")]
    GuestOverlap {
        /// The region that starts first.
        low: RegionSpec,
        /// The other.
        high: RegionSpec,
    },
    /// Two regions share addresses of the front-end.
    #[error("{low} overlaps {high} in front-end addresses")]
    UserOverlap {
        /// The region that starts first.
        low: RegionSpec,
        /// The other.
        high: RegionSpec,
    },
    /// A region to be removed is not in the table.
    #[error("{spec}: not in the table")]
    NoSuchRegion {
        /// The region asked for.
        spec: RegionSpec,
    },
    /// A single region is at fault.
    #[error(transparent)]
    Region(#[from] MapError),
}

/// The memory of one guest: an immutable table of regions, in order of their guest addresses.
///
/// A change makes a new table ([`with_region`](Self::with_region), [`without_region`](Self::without_region));
/// regions that stay are shared, not mapped again. A region is unmapped when the last table, window or
/// ring that holds it is dropped.
#[derive(Debug)]
pub struct GuestMemory {
    /// Parallel to `regions`, which keep the memory behind `base` mapped.
    spans: Box<[Span]>,
    regions: Box<[Arc<Region>]>,
    fault: FaultFlag,
    limits: Limits,
}

// SAFETY: the pointers in `spans` point into `regions`, which are `Send` and `Sync` and live as long.
// The memory behind them is accessed by copies and atomics only (`slice`).
unsafe impl Send for GuestMemory {}
// SAFETY: as above; nothing changes after construction.
unsafe impl Sync for GuestMemory {}

impl GuestMemory {
    /// A table of `regions`, which were mapped with the same `fault`. No regions is a valid table.
    ///
    /// # Errors
    ///
    /// Too many regions or bytes, or two that overlap in guest or front-end addresses.
    pub fn new(
        mut regions: Vec<Arc<Region>>,
        fault: FaultFlag,
        limits: Limits,
    ) -> Result<Arc<Self>, TableError> {
        limits.check(regions.iter().map(|region| region.spec()))?;
        regions.sort_unstable_by_key(|region| region.spec().guest_addr);
        let spans = regions.iter().map(Span::of);
        Ok(Arc::new(Self {
            spans: spans.collect(),
            regions: regions.into_boxed_slice(),
            fault,
            limits,
        }))
    }

    /// A table with one region more (vhost-user: ADD_MEM_REG).
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn with_region(&self, region: Arc<Region>) -> Result<Arc<Self>, TableError> {
        let mut regions = self.regions.to_vec();
        regions.push(region);
        Self::new(regions, self.fault.clone(), self.limits)
    }

    /// A table without one of the regions (vhost-user: REM_MEM_REG: the file offset is not compared).
    ///
    /// # Errors
    ///
    /// [`TableError::NoSuchRegion`] unless guest address, front-end address and size all match.
    pub fn without_region(&self, spec: &RegionSpec) -> Result<Arc<Self>, TableError> {
        let same = |region: &Arc<Region>| {
            let have = region.spec();
            have.guest_addr == spec.guest_addr
                && have.user_addr == spec.user_addr
                && have.size == spec.size
        };
        let mut regions = self.regions.to_vec();
        regions.retain(|region| !same(region));
        if regions.len() == self.regions.len() {
            return Err(TableError::NoSuchRegion { spec: *spec });
        }
        Self::new(regions, self.fault.clone(), self.limits)
    }

    /// The regions, in order of their guest addresses.
    #[must_use]
    pub fn regions(&self) -> &[Arc<Region>] {
        &self.regions
    }

    /// Bytes in all regions.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let sizes = self.spans.iter().map(|span| span.size);
        sizes.fold(0, u64::saturating_add)
    }

    /// Whether an access failed since the connection began; nothing read since then can be trusted.
    #[inline]
    #[must_use]
    pub fn faulted(&self) -> bool {
        self.fault.raised()
    }

    /// The flag of the connection.
    #[must_use]
    pub fn fault(&self) -> &FaultFlag {
        &self.fault
    }

    /// The bytes from `guest_addr` on, at most `len`, as far as they lie in one region.
    ///
    /// The answer may be shorter than asked, when the region ends before: the caller asks again for
    /// the rest, which may begin in an adjacent region. `None` when no region holds `guest_addr`.
    #[inline(always)]
    #[must_use]
    pub fn locate(&self, guest_addr: u64, len: u32, hint: &mut RegionHint) -> Option<Extent> {
        if let Some(span) = self.spans.get(hint.0 as usize) {
            let offset = guest_addr.wrapping_sub(span.guest_addr);
            if offset < span.size {
                return Some(extent(hint.0, span, offset, len));
            }
        }
        self.search(guest_addr, len, hint)
    }

    /// The region of `hint`, for a run of accesses most of which lie in it.
    #[inline(always)]
    #[must_use]
    pub fn near(&self, hint: RegionHint) -> Near<'_> {
        let span = self.spans.get(hint.0 as usize).copied();
        Near::new(self, hint.0, span.unwrap_or(Span::NONE))
    }

    #[cold]
    #[inline(never)]
    fn search(&self, guest_addr: u64, len: u32, hint: &mut RegionHint) -> Option<Extent> {
        let after = self
            .spans
            .partition_point(|span| span.guest_addr <= guest_addr);
        let region = after.checked_sub(1)?;
        let span = self.spans.get(region)?;
        let offset = guest_addr.wrapping_sub(span.guest_addr);
        if offset >= span.size {
            return None;
        }
        *hint = RegionHint(u32::try_from(region).ok()?);
        Some(extent(hint.0, span, offset, len))
    }

    /// Translates an address of the front-end (vhost-user: SET_VRING_ADDR).
    #[must_use]
    pub fn guest_addr_of_user(&self, user_addr: u64) -> Option<u64> {
        self.regions.iter().find_map(|region| {
            let spec = region.spec();
            let offset = user_addr.wrapping_sub(spec.user_addr);
            (offset < spec.size).then(|| spec.guest_addr.wrapping_add(offset))
        })
    }

    /// The bytes of `at` as they lie in memory now; `None` when the table has no such bytes.
    #[inline(always)]
    pub(super) fn slice(&self, at: Extent) -> Option<VolatileSlice<'_>> {
        self.spans.get(at.region as usize)?.slice(at)
    }

    /// The one way to write guest memory: runs `write` on the bytes at `guest_addr`.
    ///
    /// Dirty pages for live migration are to be marked here, after the write.
    #[inline(always)]
    pub(super) fn mutate<R>(
        &self,
        _guest_addr: u64,
        target: &VolatileSlice<'_>,
        write: impl FnOnce(&VolatileSlice<'_>) -> R,
    ) -> R {
        write(target)
    }

    /// Guest address of `at`, which `slice` accepted.
    #[inline(always)]
    fn guest_addr(&self, at: Extent) -> u64 {
        let span = self.spans.get(at.region as usize);
        span.map_or(0, |span| span.guest_addr(at))
    }

    /// Copies from guest memory, as much as both have. Each byte is read once.
    ///
    /// An extent of another table that this one does not have reads as zeros and raises the fault flag.
    #[inline(always)]
    pub fn read(&self, at: Extent, into: &mut [u8]) {
        let wanted = u32::try_from(into.len()).unwrap_or(u32::MAX);
        match self.slice(at.take(wanted)) {
            Some(slice) => get(&slice, into),
            None => {
                into.fill(0);
                self.out_of_bounds();
            }
        }
    }

    /// Loads the first `N` little-endian words of `at`, of eight bytes each, once and with no order to
    /// other accesses. `None`, and nothing was loaded, when they are not aligned or not all there.
    #[inline(always)]
    #[must_use]
    pub fn load_words<const N: usize>(&self, at: Extent) -> Option<[u64; N]> {
        let slice = self.slice(at)?;
        let part = slice.subslice(0, 8 * N).ok()?;
        let mut words = [0; N];
        for (index, word) in words.iter_mut().enumerate() {
            *word = u64::from_le(part.load::<u64>(8 * index, Ordering::Relaxed).ok()?);
        }
        Some(words)
    }

    /// Copies to guest memory, as much as both have.
    ///
    /// An extent of another table that this one does not have is not written; the fault flag is raised.
    #[inline(always)]
    pub fn write(&self, at: Extent, from: &[u8]) {
        let wanted = u32::try_from(from.len()).unwrap_or(u32::MAX);
        let at = at.take(wanted);
        match self.slice(at) {
            Some(slice) => self.mutate(self.guest_addr(at), &slice, |slice| put(slice, from)),
            None => self.out_of_bounds(),
        }
    }

    /// Copies from one guest's memory into another's, as much as both extents have. The two may overlap.
    ///
    /// When one table does not have its extent, nothing is written and its fault flag is raised.
    #[inline]
    pub fn copy(from: (&GuestMemory, Extent), to: (&GuestMemory, Extent)) {
        let (source, source_at) = from;
        let (target, target_at) = to;
        let source_at = source_at.take(target_at.len);
        let target_at = target_at.take(source_at.len);
        let Some(bytes) = source.slice(source_at) else {
            return source.out_of_bounds();
        };
        let Some(place) = target.slice(target_at) else {
            return target.out_of_bounds();
        };
        target.mutate(target.guest_addr(target_at), &place, |place| {
            across(&bytes, place);
        });
    }

    #[cold]
    #[inline(never)]
    pub(super) fn out_of_bounds(&self) {
        self.fault.raise(FaultCause::OutOfBounds);
    }

    /// Asks for the first two cache lines of `at`, to be read soon.
    #[inline]
    pub fn prefetch_read(&self, at: Extent) {
        if let Some(slice) = self.slice(at) {
            let start = slice.ptr_guard().as_ptr();
            prefetch::<false>(start);
            if at.len > 64 {
                prefetch::<false>(start.wrapping_add(64));
            }
        }
    }

    /// Asks for the first two cache lines of `at`, to be written soon.
    #[inline]
    pub fn prefetch_write(&self, at: Extent) {
        if let Some(slice) = self.slice(at) {
            let start = slice.ptr_guard().as_ptr();
            prefetch::<true>(start);
            if at.len > 64 {
                prefetch::<true>(start.wrapping_add(64));
            }
        }
    }

    /// A window of `len` bytes at `guest_addr` for a ring structure, inside one region.
    ///
    /// # Errors
    ///
    /// When the bytes are not all in one region, or the address is not a multiple of `align` (a power of two).
    pub fn window(
        self: &Arc<Self>,
        guest_addr: u64,
        len: usize,
        align: usize,
    ) -> Result<Window, WindowError> {
        let unmapped = WindowError::NotMapped { guest_addr, len };
        let wanted = u32::try_from(len).map_err(|_| unmapped.clone())?;
        let found = self.locate(guest_addr, wanted, &mut RegionHint::default());
        let extent = found
            .filter(|extent| extent.len == wanted)
            .ok_or_else(|| unmapped.clone())?;
        let slice = self.slice(extent).ok_or(unmapped)?;
        let base = slice.ptr_guard().as_ptr();
        let host = u64::try_from(base.addr()).unwrap_or(u64::MAX);
        let align = u64::try_from(align).unwrap_or(u64::MAX).max(1);
        if !guest_addr.is_multiple_of(align) || !host.is_multiple_of(align) {
            return Err(WindowError::Unaligned { guest_addr, align });
        }
        let base =
            NonNull::new(base.cast_mut()).ok_or(WindowError::NotMapped { guest_addr, len })?;
        Ok(Window::over(Arc::clone(self), guest_addr, base, len))
    }
}

#[inline(always)]
fn extent(region: u32, span: &Span, offset: u64, len: u32) -> Extent {
    // offset < size, so this does not wrap.
    let left = span.size.wrapping_sub(offset);
    let len = if left >= u64::from(len) {
        len
    } else {
        u32::try_from(left).unwrap_or(len) // less than `len`, so it fits
    };
    Extent {
        region,
        len,
        offset,
    }
}

// An extent is passed by value and kept in arenas by the thousand.
const _: () = assert!(size_of::<Extent>() == 16);
