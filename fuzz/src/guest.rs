//! A small guest: three regions, two of them adjacent, with a ring where the input wants it.

use std::os::fd::AsFd;
use std::sync::Arc;

use arbitrary::Arbitrary;
use portcullis::memory::{FaultFlag, GuestMemory, Limits, Region, RegionHint, RegionSpec};
use portcullis::ring::{Layout, features};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

/// Bytes from address 0 on, in two regions.
pub const LOW: u64 = 0x1_0000;
const HIGH: u64 = 0x10_0000;
const PAGE: u64 = 0x1000;

/// Where a ring lies unless the input says otherwise.
const DESC: u64 = 0x0;
const AVAIL: u64 = 0x800;
const USED: u64 = 0xc00;

/// One page of anything that a guest can point at, mapped once and wiped for each input.
pub struct Guest {
    pub memory: Arc<GuestMemory>,
    fault: FaultFlag,
    layout: Layout,
}

/// How the input wants the ring.
#[derive(Arbitrary, Debug)]
pub struct Shape {
    size_log: u8,
    odd_layout: Option<[u16; 3]>,
    start: u16,
    indirect: bool,
    event_idx: bool,
    mergeable: bool,
}

/// What a driver does between two visits.
#[derive(Arbitrary, Debug)]
pub enum Step {
    /// Writes a descriptor into the table.
    Descriptor {
        index: u8,
        addr: Addr,
        len: u16,
        flags: u8,
        next: u8,
    },
    /// Writes one with all bits free.
    Wild { index: u8, bytes: [u8; 16] },
    /// Writes one that names a table, and an entry of that table.
    Indirect {
        index: u8,
        table: u16,
        len: u16,
        entry: u8,
        addr: Addr,
        size: u16,
        flags: u8,
        next: u8,
    },
    /// Offers a chain.
    Offer { head: u8 },
    /// Writes the available index.
    Jump { index: u16 },
    /// Writes anywhere.
    Poke { at: u16, bytes: [u8; 8] },
    /// Lets the device work.
    Visit {
        frames: u8,
        bytes: u16,
        descriptors: u8,
    },
}

/// An address that is mapped more often than a random one.
#[derive(Arbitrary, Debug)]
pub enum Addr {
    Low(u16),
    High(u16),
    Border(u8),
    Any(u64),
}

impl Addr {
    fn get(&self) -> u64 {
        match self {
            Self::Low(at) => u64::from(*at),
            Self::High(at) => HIGH + u64::from(*at % 0x1100),
            Self::Border(at) => LOW / 2 - 128 + u64::from(*at),
            Self::Any(at) => *at,
        }
    }
}

thread_local! {
    static MEMORY: (Arc<GuestMemory>, FaultFlag) = map();
}

/// Fresh memory: [`LOW`] bytes from 0 on, in two regions, and a page far away.
pub fn map() -> (Arc<GuestMemory>, FaultFlag) {
    let fd = memfd_create("fuzz", MemfdFlags::CLOEXEC).expect("memfd");
    ftruncate(&fd, LOW + PAGE).expect("room");
    let fault = FaultFlag::new();
    let region = |guest_addr, size, file_offset| {
        let spec = RegionSpec {
            guest_addr,
            size,
            user_addr: 1 << 32 | guest_addr,
            file_offset,
        };
        Region::map(fd.as_fd(), spec, &fault).expect("map")
    };
    let regions = vec![
        region(0, LOW / 2, 0),
        region(LOW / 2, LOW / 2, LOW / 2),
        region(HIGH, PAGE, LOW),
    ];
    (
        GuestMemory::new(regions, fault.clone(), Limits::default()).expect("table"),
        fault,
    )
}

impl Guest {
    /// With one ring, and all memory wiped.
    pub fn new(shape: &Shape) -> Self {
        let (memory, fault) = MEMORY.with(Clone::clone);
        wipe(&memory);
        Self::with_ring(memory, fault, shape, 0)
    }

    /// Another ring of the same guest, `base` bytes on.
    pub fn and(&self, shape: &Shape, base: u64) -> Self {
        Self::with_ring(self.memory.clone(), self.fault.clone(), shape, base)
    }

    fn with_ring(memory: Arc<GuestMemory>, fault: FaultFlag, shape: &Shape, base: u64) -> Self {
        let size = 1 << (shape.size_log % 6);
        let [desc, avail, used] = shape
            .odd_layout
            .map_or([DESC, AVAIL, USED].map(|at| base + at), |parts| {
                parts.map(u64::from)
            });
        let layout = Layout {
            size,
            desc,
            avail,
            used,
        };
        poke(&memory, avail + 2, &shape.start.to_le_bytes());
        poke(&memory, used + 2, &shape.start.to_le_bytes());
        Self {
            memory,
            fault,
            layout,
        }
    }

    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// No access of ours may leave its window.
    pub fn assert_unharmed(&self) {
        assert!(!self.fault.raised(), "{:?}", self.fault.cause());
    }

    pub fn poke(&self, at: u64, bytes: &[u8]) {
        poke(&self.memory, at, bytes);
    }

    pub fn peek_u16(&self, at: u64) -> u16 {
        u16::from_le_bytes(peek(&self.memory, at))
    }

    pub fn used_idx(&self) -> u16 {
        self.peek_u16(self.layout.used + 2)
    }

    /// Offers one buffer that is read, as a driver does.
    pub fn send(&self, at: u64, len: u32) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&at.to_le_bytes());
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        self.poke(self.layout.desc, &bytes);
        self.drive(&Step::Offer { head: 0 });
    }

    /// Does what a driver does; a visit is the target's to do.
    pub fn drive(&self, step: &Step) {
        let layout = self.layout;
        let entry = |addr: u64, len: u32, flags: u8, next: u8| {
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&addr.to_le_bytes());
            bytes[8..12].copy_from_slice(&len.to_le_bytes());
            bytes[12..14].copy_from_slice(&u16::from(flags & 7).to_le_bytes());
            bytes[14..].copy_from_slice(&u16::from(next).to_le_bytes());
            bytes
        };
        let slot = |index: u8| layout.desc + u64::from(u16::from(index) % layout.size) * 16;
        match step {
            Step::Descriptor {
                index,
                addr,
                len,
                flags,
                next,
            } => {
                self.poke(
                    slot(*index),
                    &entry(addr.get(), u32::from(*len), *flags, *next),
                );
            }
            Step::Wild { index, bytes } => self.poke(slot(*index), bytes),
            Step::Indirect {
                index,
                table,
                len,
                entry: at,
                addr,
                size,
                flags,
                next,
            } => {
                let table = u64::from(*table);
                self.poke(slot(*index), &entry(table, u32::from(*len), 4, 0));
                self.poke(
                    table + u64::from(*at) * 16,
                    &entry(addr.get(), u32::from(*size), *flags, *next),
                );
            }
            Step::Offer { head } => {
                let index = self.peek_u16(layout.avail + 2);
                let at = layout.avail + 4 + u64::from(index % layout.size) * 2;
                self.poke(at, &u16::from(*head).to_le_bytes());
                self.poke(layout.avail + 2, &index.wrapping_add(1).to_le_bytes());
            }
            Step::Jump { index } => self.poke(layout.avail + 2, &index.to_le_bytes()),
            Step::Poke { at, bytes } => self.poke(u64::from(*at), bytes),
            Step::Visit { .. } => {}
        }
    }
}

pub fn wipe(memory: &GuestMemory) {
    poke(memory, 0, &[0; LOW as usize]);
}

/// Writes where there is memory.
pub fn poke(memory: &GuestMemory, mut at: u64, mut bytes: &[u8]) {
    let mut hint = RegionHint::default();
    while !bytes.is_empty()
        && let Some(extent) = memory.locate(at, bytes.len() as u32, &mut hint)
    {
        memory.write(extent, bytes);
        at = at.wrapping_add(u64::from(extent.len()));
        bytes = &bytes[extent.len() as usize..];
    }
}

/// Reads where there is memory, and zeros elsewhere.
pub fn peek<const N: usize>(memory: &GuestMemory, at: u64) -> [u8; N] {
    let mut bytes = [0; N];
    peek_into(memory, at, &mut bytes);
    bytes
}

pub fn peek_into(memory: &GuestMemory, mut at: u64, mut into: &mut [u8]) {
    let mut hint = RegionHint::default();
    while !into.is_empty()
        && let Some(extent) = memory.locate(at, into.len() as u32, &mut hint)
    {
        memory.read(extent, into);
        at = at.wrapping_add(u64::from(extent.len()));
        into = &mut into[extent.len() as usize..];
    }
}

impl Shape {
    pub fn features(&self) -> u64 {
        [
            (self.indirect, features::VIRTIO_RING_F_INDIRECT_DESC),
            (self.event_idx, features::VIRTIO_RING_F_EVENT_IDX),
            (self.mergeable, features::VIRTIO_NET_F_MRG_RXBUF),
        ]
        .into_iter()
        .filter_map(|(set, bit)| set.then_some(bit))
        .sum()
    }
}
