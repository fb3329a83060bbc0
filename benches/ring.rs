//! What the two rings cost for each frame, in-process and on one core: no copy, no forwarding, no other
//! core that writes the rings. Bounds from below what a port can cost.
//!
//! `cargo bench --bench ring`; with `-- --test` everything runs once.

use std::os::fd::AsFd;
use std::sync::Arc;

use divan::counter::ItemsCount;
use portcullis::memory::{FaultFlag, GuestMemory, Limits, Region, RegionHint, RegionSpec};
use portcullis::ring::features::{
    VIRTIO_F_VERSION_1, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_RING_F_INDIRECT_DESC,
};
use portcullis::ring::{BURST, Budget, ChainBurst, Layout, Negotiated, RxRing, Slots, TxRing};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

const SIZE: u16 = 256;
const FRAMES: u16 = 64;
const BUFFERS: u64 = 0x10_0000;
const TABLES: u64 = 0x8_0000;
const BYTES: u64 = 0x40_0000;

/// A driver that offers a burst and takes it back.
struct Driver {
    memory: Arc<GuestMemory>,
    layout: Layout,
    avail: u16,
}

impl Driver {
    fn new() -> Self {
        let fault = FaultFlag::new();
        let fd = memfd_create("ring-bench", MemfdFlags::CLOEXEC).expect("memfd");
        ftruncate(&fd, BYTES).expect("size");
        let spec = RegionSpec {
            guest_addr: 0,
            size: BYTES,
            user_addr: 0x7000_0000_0000,
            file_offset: 0,
        };
        let region = Region::map(fd.as_fd(), spec, &fault).expect("region");
        let memory = GuestMemory::new(vec![region], fault, Limits::default()).expect("table");
        let layout = Layout {
            size: SIZE,
            desc: 0,
            avail: 0x1_0000,
            used: 0x2_0000,
        };
        let driver = Self {
            memory,
            layout,
            avail: 0,
        };
        for entry in 0..SIZE {
            driver.head(entry, entry);
            // Pages that nobody touched have no translation, and a prefetch would look for it in vain.
            driver.poke(buffer(entry), &[0; 2048]);
        }
        driver
    }

    fn poke(&self, at: u64, bytes: &[u8]) {
        let len = u32::try_from(bytes.len()).expect("short");
        let extent = self.memory.locate(at, len, &mut RegionHint::default());
        self.memory.write(extent.expect("inside"), bytes);
    }

    /// Writes an entry of the available ring.
    fn head(&self, entry: u16, head: u16) {
        let at = self.layout.avail + 4 + 2 * u64::from(entry);
        self.poke(at, &head.to_le_bytes());
    }

    fn desc(&self, at: u64, addr: u64, len: u32, flags: u16, next: u16) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&addr.to_le_bytes());
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..].copy_from_slice(&next.to_le_bytes());
        self.poke(at, &bytes);
    }

    /// The entries stay as they are: offering is moving the index.
    fn offer(&mut self, count: u16) {
        self.avail = self.avail.wrapping_add(count);
        self.poke(self.layout.avail + 2, &self.avail.to_le_bytes());
    }
}

fn negotiated() -> Negotiated {
    Negotiated::from_features(
        VIRTIO_F_VERSION_1 | VIRTIO_NET_F_MRG_RXBUF | VIRTIO_RING_F_INDIRECT_DESC,
    )
}

fn entry(head: u16) -> u64 {
    16 * u64::from(head)
}

fn buffer(head: u16) -> u64 {
    BUFFERS + 2048 * u64::from(head)
}

/// Collects and completes bursts of 64 chains.
fn collect(bencher: divan::Bencher<'_, '_>, mut driver: Driver) {
    let mut ring = TxRing::start(driver.memory.clone(), driver.layout, negotiated()).expect("ring");
    let mut burst = ChainBurst::new();
    let bencher = bencher.counter(ItemsCount::new(BURST));
    bencher.bench_local(|| {
        driver.offer(FRAMES);
        let mut budget = Budget {
            frames: 256,
            bytes: 1 << 20,
            descriptors: 4096,
        };
        let count = ring.collect(&mut burst, &mut budget);
        assert_eq!(count, Ok(BURST));
        ring.complete(&burst);
        ring.should_notify()
    });
}

#[divan::bench]
fn tx_one_descriptor(bencher: divan::Bencher<'_, '_>) {
    let driver = Driver::new();
    for head in 0..SIZE {
        driver.desc(entry(head), buffer(head), 76, 0, 0);
    }
    collect(bencher, driver);
}

#[divan::bench]
fn tx_header_apart(bencher: divan::Bencher<'_, '_>) {
    let driver = Driver::new();
    for head in (0..SIZE).step_by(2) {
        driver.desc(entry(head), buffer(head), 12, 1, head + 1);
        driver.desc(entry(head + 1), buffer(head + 1), 64, 0, 0);
    }
    for entry in 0..SIZE {
        driver.head(entry, entry & !1);
    }
    collect(bencher, driver);
}

#[divan::bench]
fn tx_indirect_two(bencher: divan::Bencher<'_, '_>) {
    let driver = Driver::new();
    for head in 0..SIZE {
        let table = TABLES + 64 * u64::from(head);
        driver.desc(entry(head), table, 32, 4, 0);
        driver.desc(table, buffer(head), 12, 1, 1);
        driver.desc(table + 16, buffer(head) + 12, 64, 0, 0);
    }
    collect(bencher, driver);
}

/// Reserves and publishes bursts of frames of so many bytes, in buffers of 2048.
#[divan::bench(args = [76, 1526, 9012])]
fn rx_reserve(bencher: divan::Bencher<'_, '_>, bytes: u32) {
    let mut driver = Driver::new();
    for head in 0..SIZE {
        driver.desc(entry(head), buffer(head), 2048, 2, 0);
    }
    let buffers = u16::try_from(bytes.div_ceil(2048)).expect("few");
    let frames = (SIZE / buffers).min(FRAMES);
    let mut ring = RxRing::start(driver.memory.clone(), driver.layout, negotiated()).expect("ring");
    let mut slots = Slots::new();
    let bencher = bencher.counter(ItemsCount::new(frames));
    bencher.bench_local(|| {
        driver.offer(frames * buffers);
        slots.clear();
        ring.begin().expect("sound");
        for _ in 0..frames {
            ring.reserve(bytes, &mut slots).expect("room");
        }
        ring.publish()
    });
}

fn main() {
    divan::main();
}
