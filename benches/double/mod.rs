//! Guests in one process with the switch, whose driver's side costs two stores a burst.

use std::os::fd::AsFd;
use std::sync::Arc;

use portcullis::clock::Tick;
use portcullis::counters::PortId;
use portcullis::datapath::Gate;
use portcullis::datapath::crank::Crank;
use portcullis::fabric::{Fabric, Fdb, PortRow};
use portcullis::guest::{Descriptor, Memory, RawRing, RingLayout};
use portcullis::memory::{FaultFlag, GuestMemory, Limits, Region, RegionSpec};
use portcullis::policy::Policy;
use portcullis::port::door::Door;
use portcullis::port::lanes::{FaultBell, Lanes};
use portcullis::ring::{Layout, features};
use portcullis::session::{Enabled, RingSetup};

/// Entries of every ring.
pub(crate) const RING: u16 = 256;
/// Bytes of the virtio-net header.
pub(crate) const HEADER: u64 = 12;
const FEATURES: u64 = features::VIRTIO_F_VERSION_1
    | features::VIRTIO_NET_F_MRG_RXBUF
    | features::VIRTIO_F_IN_ORDER
    | features::VIRTIO_RING_F_INDIRECT_DESC;

/// A guest whose rings only ever offer the same buffers again.
pub(crate) struct Double {
    pub(crate) memory: Arc<Memory>,
    rx: RawRing,
    tx: RawRing,
    tx_offered: u16,
    rx_offered: u16,
    chosen: u32,
    stride: u64,
}

impl Double {
    pub(crate) fn new(index: u16, to: u16, frame: usize, spread: bool, lanes: &Lanes) -> Self {
        // `spread`: buffers over more memory than the second-level cache holds, so that frames come out of the third.
        let stride = if spread {
            16 * 1024
        } else {
            (frame as u64 + HEADER).next_multiple_of(2048)
        };
        let size = (0x20_0000 + 2 * u64::from(RING) * stride).next_multiple_of(0x20_0000);
        let memory = Memory::flat(size).unwrap();
        let rx = RingLayout::at(0x1000, RING);
        let tx = RingLayout::at(rx.end().next_multiple_of(4096), RING);
        assert!(tx.end() <= 0x20_0000);
        let double = Self {
            rx: RawRing::new(memory.clone(), rx),
            tx: RawRing::new(memory.clone(), tx),
            memory,
            tx_offered: 0,
            rx_offered: 0,
            chosen: 0,
            stride,
        };
        let mut bytes = vec![0u8; HEADER as usize + frame];
        let head = &mut bytes[HEADER as usize..];
        head[..12].copy_from_slice(&[mac(to), mac(index)].concat());
        if frame >= 14 {
            head[12..14].copy_from_slice(&[0x88, 0xb5]);
        }
        for entry in 0..RING {
            double
                .memory
                .write(double.tx_buffer(entry), &bytes)
                .unwrap();
            double
                .tx
                .set_desc(
                    entry,
                    Descriptor {
                        addr: double.tx_buffer(entry),
                        len: bytes.len() as u32,
                        flags: 0,
                        next: 0,
                    },
                )
                .unwrap();
            double
                .rx
                .set_desc(
                    entry,
                    Descriptor {
                        addr: double.rx_buffer(entry),
                        len: stride as u32,
                        flags: 2,
                        next: 0,
                    },
                )
                .unwrap();
            double.tx.set_avail_entry(entry, entry).unwrap();
            double.rx.set_avail_entry(entry, entry).unwrap();
        }
        // No interrupts, as a polling driver asks.
        double.tx.set_avail_flags(1).unwrap();
        double.rx.set_avail_flags(1).unwrap();
        double.plug(lanes);
        double
    }

    pub(crate) fn tx_buffer(&self, entry: u16) -> u64 {
        0x20_0000 + u64::from(entry) * self.stride
    }

    pub(crate) fn rx_buffer(&self, entry: u16) -> u64 {
        0x20_0000 + u64::from(RING + entry) * self.stride
    }

    fn plug(&self, lanes: &Lanes) {
        let fault = FaultFlag::new();
        let regions = self
            .memory
            .regions()
            .zip(self.memory.fds())
            .map(|(region, fd)| {
                let spec = RegionSpec {
                    guest_addr: region.gpa,
                    size: region.size,
                    user_addr: region.uva,
                    file_offset: region.offset,
                };
                Region::map(fd.as_fd(), spec, &fault).unwrap()
            })
            .collect();
        let memory = GuestMemory::new(regions, fault, Limits::default()).unwrap();
        for (index, ring) in [(0, &self.rx), (1, &self.tx)] {
            let at = ring.layout();
            let layout = Layout {
                size: at.size,
                desc: at.desc,
                avail: at.avail,
                used: at.used,
            };
            let setup = RingSetup {
                memory: memory.clone(),
                layout,
                features: FEATURES,
                kick: None,
                call: None,
                err: None,
                enabled: Enabled::Yes,
            };
            lanes.start(index, setup).unwrap();
        }
    }

    /// Makes UDP packets over IPv4 of the frames that are offered.
    #[allow(dead_code, reason = "of the benches that share this, one has policies")]
    pub(crate) fn speak_udp(&self, index: u16, to: u16, frame: usize) {
        let total = (frame - 14) as u16;
        let mut head = vec![0x08, 0x00, 0x45, 0];
        head.extend(total.to_be_bytes());
        head.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
        head.extend(ip(index));
        head.extend(ip(to));
        head.extend([0x10, 0, 0x20, 0]);
        head.extend((total - 20).to_be_bytes());
        head.extend([0, 0]);
        for entry in 0..RING {
            let at = self.tx_buffer(entry) + HEADER + 12;
            self.memory.write(at, &head).unwrap();
        }
    }

    /// Gives the next `frames` frames the ports of `flows` connections, the next ones in an order that helps no cache. Not to be
    /// timed. The even guest of a pair opens them, the odd one answers.
    #[allow(dead_code, reason = "of the benches that share this, one has policies")]
    pub(crate) fn choose_flows(&mut self, index: u16, frames: u16, flows: u32) {
        const CLIENTS: u32 = 60_000;
        for offset in 0..frames {
            // A stride that has no divisor in common with any number of flows here.
            let flow = (u64::from(self.chosen) * 982_451_653 % u64::from(flows)) as u32;
            self.chosen = (self.chosen + 1) % flows;
            let mut ports =
                [1_024 + flow % CLIENTS, 8_192 + flow / CLIENTS].map(|port| port as u16);
            if index % 2 == 1 {
                ports.reverse();
            }
            let number = self.tx_offered.wrapping_add(offset);
            let at = self.tx_buffer(number % RING) + HEADER + 34;
            let bytes = ports.map(u16::to_be_bytes);
            self.memory.write(at, bytes.as_flattened()).unwrap();
        }
    }

    pub(crate) fn offer(&mut self, frames: u16) {
        self.tx_offered = self.tx_offered.wrapping_add(frames);
        self.tx.set_avail_idx(self.tx_offered).unwrap();
    }

    pub(crate) fn accept(&mut self, frames: u16) {
        self.rx_offered = self.rx_offered.wrapping_add(frames);
        self.rx.set_avail_idx(self.rx_offered).unwrap();
    }
}

pub(crate) fn mac(index: u16) -> [u8; 6] {
    let [high, low] = index.to_be_bytes();
    [0x52, 0x54, 0, 0, high, low]
}

/// The address of guest `index`.
#[allow(dead_code, reason = "of the benches that share this, one has policies")]
pub(crate) fn ip(index: u16) -> [u8; 4] {
    let [high, low] = index.to_be_bytes();
    [10, 0, high, low.wrapping_add(1)]
}

/// One burst from guest `index` to its neighbour: one visit, or more while they do not know each other, since floods end a visit.
pub(crate) fn turn(crank: &mut Crank, guests: &mut [Double], index: u16, burst: u16) {
    guests[usize::from(index)].offer(burst);
    guests[usize::from(index ^ 1)].accept(burst);
    let mut left = u32::from(burst);
    while left > 0 {
        let taken = crank.turn(PortId::new(index).unwrap(), 0, Tick::from_secs(1));
        let taken = taken.unwrap();
        assert!((1..=left).contains(&taken), "{taken} of {left}");
        left -= taken;
    }
}

/// The lanes of a switch with `ports` bridge ports, and its gate over `fdb`.
pub(crate) fn switch(ports: u16, fdb: Arc<Fdb>) -> (Vec<Arc<Lanes>>, Gate) {
    let door = Arc::new(Door::new().unwrap());
    let bell = FaultBell::new().unwrap();
    let lanes: Vec<_> = (0..ports)
        .map(|index| Lanes::new(PortId::new(index).unwrap(), 1, door.clone(), bell.clone()))
        .collect();
    let rows = vec![PortRow::default(); usize::from(ports)];
    let gate = Gate {
        policy: Policy::open(1, lanes.iter().map(|lanes| lanes.id())),
        fabric: Fabric::new(&rows, fdb),
    };
    (lanes, gate)
}
