//! The copies out of guest memory, into it and across, and prefetches: what runs for every frame.
//!
//! `VolatileSlice` has the same copies behind a function that picks a width for each call; for the few dozen bytes of a
//! small frame that costs more than the copy. Here they are one memcpy or memmove. Whoever calls has checked the bounds:
//! the slice is the proof.

use vm_memory::VolatileSlice;

/// Copies out as much as both have. Each byte is read once.
#[inline(always)]
pub(super) fn get(slice: &VolatileSlice<'_>, into: &mut [u8]) {
    let from = slice.ptr_guard();
    let len = slice.len().min(into.len());
    // SAFETY: a VolatileSlice names `slice.len()` mapped bytes, `into` is as long, and the two do not overlap:
    // no reference to guest memory exists, so `into` is not in it. The guest may write meanwhile; the bytes are
    // then a mixture, which is all that is claimed of them.
    unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), into.as_mut_ptr(), len) };
    settle(into);
}

/// Copies in as much as both have.
#[inline(always)]
pub(super) fn put(slice: &VolatileSlice<'_>, from: &[u8]) {
    let to = slice.ptr_guard_mut();
    let len = slice.len().min(from.len());
    // SAFETY: as in `get`, the other way round; the bytes are mapped for writing.
    unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.as_ptr(), len) };
}

/// Copies as much as both have, from one guest to another or within one: they may overlap.
#[inline(always)]
pub(super) fn across(from: &VolatileSlice<'_>, to: &VolatileSlice<'_>) {
    let (source, target) = (from.ptr_guard(), to.ptr_guard_mut());
    let len = from.len().min(to.len());
    // SAFETY: both name at least `len` mapped bytes, and `copy` allows them to overlap.
    unsafe { std::ptr::copy(source.as_ptr(), target.as_ptr(), len) };
}

/// Makes the private copy the only source of what follows.
///
/// The compiler may replace a read of a copy by a second read of what was copied, as long as it sees that
/// nothing wrote in between. It cannot see through this, which produces no instruction.
#[inline(always)]
fn settle(copy: &mut [u8]) {
    // SAFETY: an empty body. Without `nomem` the compiler must take it to read and write all memory that is
    // reachable from elsewhere, the guest's and `copy` among it.
    unsafe {
        std::arch::asm!("/* {0} */", in(reg) copy.as_mut_ptr(), options(nostack, preserves_flags));
    }
}

/// Asks for the cache line of `line`, to be written (`WRITE`) or read soon.
#[inline(always)]
pub(super) fn prefetch<const WRITE: bool>(line: *const u8) {
    #[cfg(target_arch = "x86_64")]
    if WRITE {
        // SAFETY: a hint: it neither faults nor changes anything, whatever the address. A no-operation on
        // processors that lack it.
        unsafe {
            std::arch::asm!("prefetchw [{}]", in(reg) line, options(nostack, preserves_flags, readonly));
        }
    } else {
        // SAFETY: as above; every processor of this architecture has it.
        unsafe {
            std::arch::asm!("prefetcht0 [{}]", in(reg) line, options(nostack, preserves_flags, readonly));
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}
