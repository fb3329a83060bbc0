//! The copies out of guest memory, into it and across, and prefetches: what runs for every frame.
//!
//! `VolatileSlice` has the same copies behind a function that picks a width for each call; for the few dozen bytes of a
//! small frame that costs more than the copy. Here they are one memcpy or memmove, and for the lengths that small frames
//! have a few moves in place, since a call makes the loop around it spill its registers. Whoever calls has checked the
//! bounds: the slice is the proof.

use std::ptr::copy_nonoverlapping;

use vm_memory::VolatileSlice;

/// Lengths from here on are left to memcpy.
const LONG: usize = 192;

/// Copies `len` bytes without a call, where that pays: in two pieces of a fixed size which overlap unless `len` is their
/// sum, so that no loop and no table is needed.
///
/// # Safety
/// As for [`copy_nonoverlapping`].
#[inline(always)]
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    match len {
        // SAFETY: `len` bytes at both places are the caller's promise, here and below; 32 <= len.
        33..=64 => unsafe { ends::<32>(from, to, len) },
        // SAFETY: 64 <= len.
        65..=128 => unsafe { ends::<64>(from, to, len) },
        129..=LONG => {
            // SAFETY: 64 <= len.
            unsafe { copy_nonoverlapping(from, to, 64) };
            let (from, to) = (from.wrapping_add(64), to.wrapping_add(64));
            // SAFETY: behind the first 64 bytes there are `len - 64` more, at least 64.
            unsafe { ends::<64>(from, to, len.wrapping_sub(64)) };
        }
        // SAFETY: the caller's promise itself.
        _ => unsafe { copy_nonoverlapping(from, to, len) },
    }
}

/// Copies the first and the last `N` of `len` bytes, which are all of them when there are `N` to `2 * N`.
///
/// # Safety
/// As for [`copy_nonoverlapping`]; `len` is at least `N`.
#[inline(always)]
unsafe fn ends<const N: usize>(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: N <= len bytes at both places are the caller's promise.
    unsafe { copy_nonoverlapping(from, to, N) };
    let last = len.wrapping_sub(N);
    let (from, to) = (from.wrapping_add(last), to.wrapping_add(last));
    // SAFETY: the last N of the `len` bytes at both places.
    unsafe { copy_nonoverlapping(from, to, N) };
}

/// Copies out as much as both have. What is where two pieces overlap may be read twice; `into` then holds one of the
/// two readings, and nothing but `into` is looked at afterwards.
#[inline(always)]
pub(super) fn get(slice: &VolatileSlice<'_>, into: &mut [u8]) {
    let from = slice.ptr_guard();
    let len = slice.len().min(into.len());
    // SAFETY: a VolatileSlice names `slice.len()` mapped bytes, `into` is as long, and the two do not overlap:
    // no reference to guest memory exists, so `into` is not in it. The guest may write meanwhile; the bytes are
    // then a mixture, which is all that is claimed of them.
    unsafe { copy(from.as_ptr(), into.as_mut_ptr(), len) };
    settle(into);
}

/// Copies in as much as both have.
#[inline(always)]
pub(super) fn put(slice: &VolatileSlice<'_>, from: &[u8]) {
    let to = slice.ptr_guard_mut();
    let len = slice.len().min(from.len());
    // SAFETY: as in `get`, the other way round; the bytes are mapped for writing.
    unsafe { copy(from.as_ptr(), to.as_ptr(), len) };
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
