//! A part of one region that holds a ring structure.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use vm_memory::{Bytes, VolatileSlice};

use super::copy::{get, put};
use super::fault::FaultCause;
use super::table::GuestMemory;

/// Why there is no window.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// Not all bytes lie in one region.
    #[error("guest address {guest_addr:#x}: {len} bytes are not inside one memory region")]
    NotMapped {
        /// Guest-physical address asked for.
        guest_addr: u64,
        /// Bytes asked for.
        len: usize,
    },
    /// The address is not a multiple of the alignment.
    #[error("guest address {guest_addr:#x}: not a multiple of {align}")]
    Unaligned {
        /// Guest-physical address asked for.
        guest_addr: u64,
        /// Alignment asked for.
        align: u64,
    },
}

/// A fixed range of guest memory, bounds and alignment checked once; keeps its table alive.
///
/// Offsets are in bytes from its start. An access out of bounds, or a 16-bit access at an odd address, is a
/// defect of the caller: it reads zero, writes nothing and raises the fault flag, so that the port is
/// closed and nobody else is harmed.
#[derive(Debug)]
pub struct Window {
    memory: Arc<GuestMemory>,
    guest_addr: u64,
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: `base` points into a region of `memory`, which is `Send` and `Sync` and is kept alive.
unsafe impl Send for Window {}
// SAFETY: as above; nothing changes after construction, and the memory is accessed by copies and atomics.
unsafe impl Sync for Window {}

impl Window {
    /// `GuestMemory::window` checked that `len` bytes at `base` are a part of one of `memory`'s regions.
    pub(super) fn over(
        memory: Arc<GuestMemory>,
        guest_addr: u64,
        base: NonNull<u8>,
        len: usize,
    ) -> Self {
        Self {
            memory,
            guest_addr,
            base,
            len,
        }
    }

    /// Length in bytes.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The table it belongs to.
    #[inline]
    #[must_use]
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// `len` bytes at `offset`; `None`, and the fault flag raised, when they are not inside.
    #[inline(always)]
    fn part(&self, offset: usize, len: usize) -> Option<VolatileSlice<'_>> {
        // SAFETY: `GuestMemory::window` checked that `self.len` bytes from `base` lie in one region, and
        // `memory` keeps it mapped for the life of the slice. The guest writes there at any time, which a
        // VolatileSlice allows.
        let all = unsafe { VolatileSlice::new(self.base.as_ptr(), self.len) };
        let part = all.subslice(offset, len).ok();
        if part.is_none() {
            self.out_of_bounds();
        }
        part
    }

    #[cold]
    fn out_of_bounds(&self) {
        self.memory.fault().raise(FaultCause::OutOfBounds);
    }

    #[inline(always)]
    fn load(&self, offset: usize, order: Ordering) -> u16 {
        let Some(part) = self.part(offset, 2) else {
            return 0;
        };
        part.load(0, order).unwrap_or_else(|_| {
            self.out_of_bounds();
            0
        })
    }

    /// Loads a little-endian `u16`; what the guest wrote before it stored this value is visible afterwards.
    #[inline]
    #[must_use]
    pub fn load_u16(&self, offset: usize) -> u16 {
        u16::from_le(self.load(offset, Ordering::Acquire))
    }

    /// Loads a little-endian `u16`, with no order to other accesses.
    #[inline]
    #[must_use]
    pub fn load_u16_relaxed(&self, offset: usize) -> u16 {
        u16::from_le(self.load(offset, Ordering::Relaxed))
    }

    /// Stores a little-endian `u16`; whoever loads it sees everything written before.
    #[inline]
    pub fn store_u16(&self, offset: usize, value: u16) {
        let Some(part) = self.part(offset, 2) else {
            return;
        };
        let stored = self.memory.mutate(self.address(offset), &part, |part| {
            part.store(value.to_le(), 0, Ordering::Release)
        });
        if stored.is_err() {
            self.out_of_bounds();
        }
    }

    /// Copies `N` bytes out. Each byte is read once; 8 and 16 bytes at an aligned place in whole words.
    #[inline]
    #[must_use]
    pub fn read<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut bytes = [0; N];
        let Some(part) = self.part(offset, N) else {
            return bytes;
        };
        // A descriptor: atomic loads keep it in registers, and the compiler does not repeat them.
        if N == 16
            && let Ok(low) = part.load::<u64>(0, Ordering::Relaxed)
            && let Ok(high) = part.load::<u64>(8, Ordering::Relaxed)
        {
            let halves = [low.to_ne_bytes(), high.to_ne_bytes()];
            bytes.copy_from_slice(halves.as_flattened());
            return bytes;
        }
        get(&part, &mut bytes);
        bytes
    }

    /// Loads `N` little-endian words of eight bytes, each once and with no order to other accesses:
    /// a descriptor, without a detour through memory. `offset` is a multiple of 8.
    #[inline(always)]
    #[must_use]
    pub fn load_words<const N: usize>(&self, offset: usize) -> [u64; N] {
        let mut words = [0; N];
        if let Some(part) = self.part(offset, 8 * N) {
            for (index, word) in words.iter_mut().enumerate() {
                match part.load::<u64>(8 * index, Ordering::Relaxed) {
                    Ok(value) => *word = u64::from_le(value),
                    Err(_) => self.out_of_bounds(),
                }
            }
        }
        words
    }

    /// Copies out as many bytes as `into` has. Each byte is read once.
    #[inline]
    pub fn read_into(&self, offset: usize, into: &mut [u8]) {
        match self.part(offset, into.len()) {
            Some(part) => get(&part, into),
            None => into.fill(0),
        }
    }

    /// Copies in. Not ordered: publish with [`store_u16`](Self::store_u16) afterwards.
    #[inline]
    pub fn write(&self, offset: usize, from: &[u8]) {
        if let Some(part) = self.part(offset, from.len()) {
            let address = self.address(offset);
            self.memory.mutate(address, &part, |part| put(part, from));
        }
    }

    /// Guest address of `offset`, which `part` accepted.
    #[inline(always)]
    fn address(&self, offset: usize) -> u64 {
        self.guest_addr.wrapping_add(offset as u64)
    }
}
