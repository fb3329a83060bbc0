//! The driver's side of a split ring, as plain as the tests allow: it writes what it is told to.

use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use crate::memory::{Extent, FaultFlag, GuestMemory, Limits, Region, RegionHint, RegionSpec};
use crate::ring::{Layout, Negotiated};

pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;
pub(super) const INDIRECT: u16 = 4;

/// Where the rings lie, in the first region.
const RINGS: u64 = 0x10_0000;
/// Start of the buffers, in the first region.
pub(super) const BUFFERS: u64 = 0x20_0000;
/// Where the first region ends and the second begins.
pub(super) const SEAM: u64 = 0x50_0000;
/// Where the second region ends; nothing follows.
pub(super) const CLIFF: u64 = 0x60_0000;
/// A third region, alone.
pub(super) const ISLAND: u64 = 0x100_0000;
/// Where the third region ends.
pub(super) const ISLAND_END: u64 = 0x110_0000;

/// Everything that VIRTIO 1 drivers negotiate, and mergeable buffers.
pub(super) const MODERN: Negotiated = Negotiated {
    event_idx: false,
    indirect: true,
    in_order: false,
    mergeable: true,
    header_len: 12,
};

pub(super) struct Driver {
    pub(super) memory: Arc<GuestMemory>,
    pub(super) layout: Layout,
    /// Index of the next entry of the available ring.
    pub(super) avail: u16,
    /// Used index up to which elements were taken.
    pub(super) seen: u16,
}

impl Driver {
    /// A ring of `size` entries whose indices stand at `base`.
    pub(super) fn new(size: u16, base: u16) -> Self {
        let fault = FaultFlag::new();
        let places = [
            (RINGS, SEAM - RINGS),
            (SEAM, CLIFF - SEAM),
            (ISLAND, ISLAND_END - ISLAND),
        ];
        let fd = memfd_create("ring-test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, places.iter().map(|place| place.1).sum()).unwrap();
        let mut file_offset = 0;
        let mut regions = Vec::new();
        for (guest_addr, size) in places {
            let spec = RegionSpec {
                guest_addr,
                size,
                user_addr: 0x7000_0000_0000 + guest_addr,
                file_offset,
            };
            regions.push(Region::map(fd.as_fd(), spec, &fault).unwrap());
            file_offset += size;
        }
        let memory = GuestMemory::new(regions, fault, Limits::default()).unwrap();
        let layout = Layout {
            size,
            desc: RINGS,
            avail: RINGS + 0x8_0000,
            used: RINGS + 0xa_0000,
        };
        let driver = Self {
            memory,
            layout,
            avail: base,
            seen: base,
        };
        driver.poke(layout.avail + 2, &base.to_le_bytes());
        driver.poke(layout.used + 2, &base.to_le_bytes());
        driver
    }

    fn at(&self, addr: u64, len: usize) -> Extent {
        let extent = self
            .memory
            .locate(addr, len as u32, &mut RegionHint::default())
            .unwrap();
        assert_eq!(extent.len() as usize, len, "a test accesses across regions");
        extent
    }

    pub(super) fn poke(&self, addr: u64, bytes: &[u8]) {
        self.memory.write(self.at(addr, bytes.len()), bytes);
    }

    pub(super) fn peek(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read(self.at(addr, len), &mut bytes);
        bytes
    }

    pub(super) fn peek_u16(&self, addr: u64) -> u16 {
        u16::from_le_bytes(self.peek(addr, 2).try_into().unwrap())
    }

    /// Writes 16 bytes of a descriptor at any address.
    pub(super) fn desc_at(&self, at: u64, addr: u64, len: u32, flags: u16, next: u16) {
        let mut bytes = addr.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        for (offset, byte) in bytes.iter().enumerate() {
            self.poke(at + offset as u64, &[*byte]); // tables may lie across regions
        }
    }

    pub(super) fn desc(&self, index: u16, addr: u64, len: u32, flags: u16, next: u16) {
        self.desc_at(
            self.layout.desc + 16 * u64::from(index),
            addr,
            len,
            flags,
            next,
        );
    }

    /// Writes a chain of descriptors `first, first + 1, ...`, each with `flags`.
    pub(super) fn chain(&self, first: u16, pieces: &[(u64, u32)], flags: u16) {
        for (i, (addr, len)) in pieces.iter().enumerate() {
            let index = first + i as u16;
            let last = i + 1 == pieces.len();
            let more = if last { 0 } else { NEXT };
            self.desc(index, *addr, *len, flags | more, index + 1);
        }
    }

    /// Writes an indirect table and the descriptor `index` that names it.
    pub(super) fn table(&self, index: u16, at: u64, pieces: &[(u64, u32)], flags: u16) {
        for (i, (addr, len)) in pieces.iter().enumerate() {
            let more = if i + 1 == pieces.len() { 0 } else { NEXT };
            self.desc_at(at + 16 * i as u64, *addr, *len, flags | more, i as u16 + 1);
        }
        self.desc(index, at, 16 * pieces.len() as u32, INDIRECT, 0);
    }

    /// Makes heads available.
    pub(super) fn offer(&mut self, heads: impl IntoIterator<Item = u16>) {
        for head in heads {
            let entry = u64::from(self.avail % self.layout.size);
            self.poke(self.layout.avail + 4 + 2 * entry, &head.to_le_bytes());
            self.avail = self.avail.wrapping_add(1);
        }
        self.avail_idx(self.avail);
    }

    /// Writes the available index, whatever it is.
    pub(super) fn avail_idx(&self, idx: u16) {
        self.poke(self.layout.avail + 2, &idx.to_le_bytes());
    }

    /// Writes the available ring's flags.
    pub(super) fn avail_flags(&self, flags: u16) {
        self.poke(self.layout.avail, &flags.to_le_bytes());
    }

    pub(super) fn used_event(&self, idx: u16) {
        let at = self.layout.avail + 4 + 2 * u64::from(self.layout.size);
        self.poke(at, &idx.to_le_bytes());
    }

    pub(super) fn avail_event(&self) -> u16 {
        self.peek_u16(self.layout.used + 4 + 8 * u64::from(self.layout.size))
    }

    pub(super) fn used_flags(&self) -> u16 {
        self.peek_u16(self.layout.used)
    }

    pub(super) fn used_idx(&self) -> u16 {
        self.peek_u16(self.layout.used + 2)
    }

    /// Takes what was returned since the last call: head and length.
    pub(super) fn returned(&mut self) -> Vec<(u32, u32)> {
        let mut elements = Vec::new();
        while self.seen != self.used_idx() {
            let entry = u64::from(self.seen % self.layout.size);
            let bytes = self.peek(self.layout.used + 4 + 8 * entry, 8);
            let (id, len) = bytes.split_at(4);
            elements.push((
                u32::from_le_bytes(id.try_into().unwrap()),
                u32::from_le_bytes(len.try_into().unwrap()),
            ));
            self.seen = self.seen.wrapping_add(1);
        }
        elements
    }

    /// Reads the bytes that extents name.
    pub(super) fn gather(&self, extents: &[Extent]) -> Vec<u8> {
        let mut all = Vec::new();
        for extent in extents {
            let mut bytes = vec![0; extent.len() as usize];
            self.memory.read(*extent, &mut bytes);
            all.extend(bytes);
        }
        all
    }

    /// Writes one stream of bytes over extents; they must have room for exactly so many.
    pub(super) fn scatter(&self, extents: &[Extent], mut bytes: &[u8]) {
        for extent in extents {
            let (now, later) = bytes.split_at(extent.len() as usize);
            self.memory.write(*extent, now);
            bytes = later;
        }
        assert!(bytes.is_empty());
    }
}

/// Bytes that tell where they come from.
pub(super) fn pattern(len: usize, salt: usize) -> Vec<u8> {
    (0..len)
        .map(|i| (i.wrapping_mul(31) ^ (i >> 8) ^ salt.wrapping_mul(97)) as u8)
        .collect()
}
