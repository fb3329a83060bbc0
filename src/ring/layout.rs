//! Where the three parts of a split virtqueue lie, and the only accesses to them.
//!
//! [`Rings::open`] is the door: afterwards the parts are known to be mapped, aligned and disjoint, and
//! no access here can leave them (VIRTIO 1.2, 2.7). Disjoint matters: the used ring is what *we* write,
//! and a used ring on top of the descriptor table would make our own stores change our own input.

use std::sync::Arc;

use crate::memory::{GuestMemory, Window, WindowError};

/// Guest-physical addresses of a split virtqueue, and its number of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Entries: a power of two, at most 32768.
    pub size: u16,
    /// Descriptor table, 16 bytes an entry, aligned to 16.
    pub desc: u64,
    /// Available ring (the driver's), `6 + 2 * size` bytes, aligned to 2.
    pub avail: u64,
    /// Used ring (the device's), `6 + 8 * size` bytes, aligned to 4.
    pub used: u64,
}

/// A part of a virtqueue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The descriptor table.
    Descriptors,
    /// The available ring.
    Available,
    /// The used ring.
    Used,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Descriptors => "descriptor table",
            Self::Available => "available ring",
            Self::Used => "used ring",
        })
    }
}

/// Why a ring cannot be started. The front-end gave these numbers, so it is the front-end's to mend.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// VIRTIO 1.2, 2.7: the queue size is a power of two, at most 32768.
    #[error("queue size {size}: not a power of two from 1 to 32768")]
    Size {
        /// Entries asked for.
        size: u16,
    },
    /// VIRTIO 1.2, 2.7: alignment of the parts.
    #[error("{part} at {address:#x}: not aligned to {align} bytes")]
    Unaligned {
        /// The part.
        part: Part,
        /// Guest-physical address.
        address: u64,
        /// Alignment needed.
        align: u64,
    },
    /// The part would end after the last address.
    #[error("{part} at {address:#x}: {len} bytes from there wrap the address space")]
    Wraps {
        /// The part.
        part: Part,
        /// Guest-physical address.
        address: u64,
        /// Bytes needed.
        len: u64,
    },
    /// Two parts share bytes.
    #[error("{first} and {second} overlap")]
    Overlap {
        /// One part.
        first: Part,
        /// The other.
        second: Part,
    },
    /// The part is not wholly inside one region of guest memory.
    #[error("{part} at {address:#x}: not inside one region of guest memory")]
    Unmapped {
        /// The part.
        part: Part,
        /// Guest-physical address.
        address: u64,
        /// What memory said.
        #[source]
        source: WindowError,
    },
}

/// Offset of `idx` in the available and the used ring, behind `flags`.
const IDX: usize = 2;
/// Offset of the entries in the available and the used ring.
const ENTRIES: usize = 4;
/// Bytes of a descriptor.
const DESCRIPTOR: usize = 16;
/// Bytes of an entry of the used ring.
const USED_ELEMENT: usize = 8;

/// The descriptor continues by `next`.
pub(super) const DESC_F_NEXT: u16 = 1;
/// The device writes the buffer; else it reads it.
pub(super) const DESC_F_WRITE: u16 = 2;
/// The buffer is a table of descriptors.
pub(super) const DESC_F_INDIRECT: u16 = 4;

/// A descriptor, copied out of guest memory in one piece: address, then length, flags and next
/// (VIRTIO 1.2, 2.7.5). Kept as the two words that it is, so that it stays in registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Descriptor([u64; 2]);

impl Descriptor {
    /// From the bytes as they lie in guest memory.
    #[inline]
    pub(super) fn from_bytes(bytes: [u8; DESCRIPTOR]) -> Self {
        let [
            a0,
            a1,
            a2,
            a3,
            a4,
            a5,
            a6,
            a7,
            r0,
            r1,
            r2,
            r3,
            r4,
            r5,
            r6,
            r7,
        ] = bytes;
        Self([
            u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]),
            u64::from_le_bytes([r0, r1, r2, r3, r4, r5, r6, r7]),
        ])
    }

    /// From the two words.
    #[inline]
    pub(super) fn from_words(words: [u64; 2]) -> Self {
        Self(words)
    }

    #[inline]
    pub(super) fn addr(self) -> u64 {
        self.0[0]
    }

    #[inline]
    pub(super) fn len(self) -> u32 {
        let [l0, l1, l2, l3, ..] = self.0[1].to_le_bytes();
        u32::from_le_bytes([l0, l1, l2, l3])
    }

    /// Whether one of these flags is set.
    #[inline]
    pub(super) fn has(self, flags: u16) -> bool {
        self.0[1] & (u64::from(flags) << 32) != 0
    }

    /// Whether it is readable, ends its chain and names no table.
    #[inline]
    pub(super) fn is_plain_read(self) -> bool {
        !self.has(DESC_F_WRITE | DESC_F_NEXT | DESC_F_INDIRECT)
    }

    /// Whether it is writable, ends its chain and names no table.
    #[inline]
    pub(super) fn is_plain_write(self) -> bool {
        let [.., f0, f1, _, _] = self.0[1].to_le_bytes();
        let flags = u16::from_le_bytes([f0, f1]);
        flags & (DESC_F_WRITE | DESC_F_NEXT | DESC_F_INDIRECT) == DESC_F_WRITE
    }

    #[inline]
    pub(super) fn next(self) -> u16 {
        let [.., n0, n1] = self.0[1].to_le_bytes();
        u16::from_le_bytes([n0, n1])
    }
}

/// The element of the used ring that returns `head` with `len` bytes written (VIRTIO 1.2, 2.7.8).
#[inline]
pub(super) fn used_element(head: u16, len: u32) -> [u8; USED_ELEMENT] {
    ((u64::from(len) << 32) | u64::from(head)).to_le_bytes()
}

/// A span of guest-physical addresses that one part occupies.
struct Span {
    part: Part,
    start: u64,
    len: u64,
    end: u64,
}

impl Span {
    fn new(part: Part, start: u64, len: u64, align: u64) -> Result<Self, RingError> {
        if !start.is_multiple_of(align) {
            return Err(RingError::Unaligned {
                part,
                address: start,
                align,
            });
        }
        let end = start.checked_add(len).ok_or(RingError::Wraps {
            part,
            address: start,
            len,
        })?;
        Ok(Self {
            part,
            start,
            len,
            end,
        })
    }

    fn disjoint(&self, other: &Self) -> Result<(), RingError> {
        if self.end <= other.start || other.end <= self.start {
            Ok(())
        } else {
            Err(RingError::Overlap {
                first: self.part,
                second: other.part,
            })
        }
    }

    fn open(&self, memory: &Arc<GuestMemory>, align: usize) -> Result<Window, RingError> {
        // At most 16 * 32768 bytes: it fits.
        let len = usize::try_from(self.len).unwrap_or(usize::MAX);
        memory
            .window(self.start, len, align)
            .map_err(|source| RingError::Unmapped {
                part: self.part,
                address: self.start,
                source,
            })
    }
}

/// The three parts, open for access.
///
/// Guaranteed by [`Rings::open`]: `size` is a power of two from 1 to 32768; each part is aligned, lies
/// in one region and shares no byte with the others. Indices are taken modulo `size` here, and a
/// descriptor index is the caller's to compare with `size` before it is used.
pub(super) struct Rings {
    memory: Arc<GuestMemory>,
    size: u16,
    mask: u16,
    desc: Window,
    avail: Window,
    used: Window,
}

impl Rings {
    pub(super) fn open(memory: Arc<GuestMemory>, layout: Layout) -> Result<Self, RingError> {
        let Layout { size, .. } = layout;
        if !size.is_power_of_two() {
            return Err(RingError::Size { size });
        }
        let entries = u64::from(size);
        // At most 16 * 2^15 + 6: no overflow.
        let desc = Span::new(Part::Descriptors, layout.desc, entries * 16, 16)?;
        let avail = Span::new(Part::Available, layout.avail, entries * 2 + 6, 2)?;
        let used = Span::new(Part::Used, layout.used, entries * 8 + 6, 4)?;
        desc.disjoint(&avail)?;
        desc.disjoint(&used)?;
        avail.disjoint(&used)?;
        Ok(Self {
            size,
            mask: size.wrapping_sub(1), // size is a power of two, so at least 1
            desc: desc.open(&memory, 16)?,
            avail: avail.open(&memory, 2)?,
            used: used.open(&memory, 4)?,
            memory,
        })
    }

    #[inline]
    pub(super) fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    #[inline]
    pub(super) fn size(&self) -> u16 {
        self.size
    }

    /// The driver's index; Acquire: what it made available before is seen after.
    #[inline]
    pub(super) fn avail_idx(&self) -> u16 {
        self.avail.load_u16(IDX)
    }

    /// Copies the available ring's entries from index `from` on into `into`, two bytes each: in one
    /// copy, or two where the ring ends in between. At most `size` entries.
    #[inline]
    pub(super) fn read_avail(&self, from: u16, into: &mut [u8]) {
        let position = usize::from(from & self.mask);
        let until_end = (usize::from(self.size) - position) * 2; // position < size
        let (before, after) = into.split_at_mut(until_end.min(into.len()));
        self.avail.read_into(ENTRIES + 2 * position, before);
        if !after.is_empty() {
            self.avail.read_into(ENTRIES, after);
        }
    }

    /// Copies one descriptor. `index` must be less than `size`.
    #[inline(always)]
    pub(super) fn descriptor(&self, index: u16) -> Descriptor {
        Descriptor(self.desc.load_words(DESCRIPTOR * usize::from(index)))
    }

    /// Our own index, as it was left there: read at start only.
    pub(super) fn used_idx(&self) -> u16 {
        self.used.load_u16(IDX)
    }

    /// Writes elements of the used ring from index `from` on, in one or two copies. At most `size`.
    #[inline]
    pub(super) fn write_used(&self, from: u16, elements: &[[u8; USED_ELEMENT]]) {
        let position = usize::from(from & self.mask);
        let until_end = usize::from(self.size) - position; // position < size
        let (before, after) = elements.split_at(until_end.min(elements.len()));
        self.used
            .write(ENTRIES + USED_ELEMENT * position, before.as_flattened());
        if !after.is_empty() {
            self.used.write(ENTRIES, after.as_flattened());
        }
    }

    /// Publishes the used ring up to `idx`; Release: all bytes written before are seen with it.
    #[inline]
    pub(super) fn store_used_idx(&self, idx: u16) {
        self.used.store_u16(IDX, idx);
    }

    /// The driver's `flags` (VIRTIO 1.2, 2.7.6).
    #[inline]
    pub(super) fn avail_flags(&self) -> u16 {
        self.avail.load_u16(0)
    }

    /// The driver's `used_event`, behind the available ring (VIRTIO 1.2, 2.7.7).
    #[inline]
    pub(super) fn used_event(&self) -> u16 {
        self.avail.load_u16(ENTRIES + 2 * usize::from(self.size))
    }

    /// Our `flags` (VIRTIO 1.2, 2.7.8).
    pub(super) fn store_used_flags(&self, flags: u16) {
        self.used.store_u16(0, flags);
    }

    /// Our `avail_event`, behind the used ring (VIRTIO 1.2, 2.7.10).
    pub(super) fn store_avail_event(&self, idx: u16) {
        self.used
            .store_u16(ENTRIES + USED_ELEMENT * usize::from(self.size), idx);
    }
}
