//! A well-behaved guest beside the hostile one. It keeps its receive ring full, and looks at all that it
//! gets, and at all of its memory that it did not offer.

use std::cell::RefCell;
use std::sync::Arc;

use portcullis::memory::{FaultFlag, GuestMemory};
use portcullis::port::lanes::Lanes;
use portcullis::ring::vnet::{self, VnetHeader};
use portcullis::ring::{Layout, Negotiated};
use portcullis::session::{Enabled, RingSetup};

use crate::guest::{LOW, map, peek, peek_into, poke};

const SIZE: u16 = 16;
/// Bytes of a receive buffer. Sixteen of them lie from here to the end.
const BUFFER: u64 = 2048;
const BUFFERS: u64 = LOW - SIZE as u64 * BUFFER;
/// The rings: receive, transmit.
const RINGS: [u64; 2] = [0, 0x1000];
/// What the transmit ring offers.
const OUTGOING: u64 = 0x2000;
/// Between that and the buffers there is nothing that anybody may write.
const FORBIDDEN: u64 = 0x3000;
const FILL: u8 = 0x77;

/// See the head of this file.
pub struct Victim {
    memory: Arc<GuestMemory>,
    features: u64,
    header_len: usize,
    seen: u16,
    offered: u16,
    sent: u16,
}

/// A frame that it received.
pub struct Received {
    pub header: VnetHeader,
    pub frame: Vec<u8>,
}

thread_local! {
    /// Memories, mapped once.
    static MEMORIES: RefCell<Vec<(Arc<GuestMemory>, FaultFlag)>> = const { RefCell::new(Vec::new()) };
}

fn layout(base: u64) -> Layout {
    Layout {
        size: SIZE,
        desc: base,
        avail: base + 0x800,
        used: base + 0xc00,
    }
}

impl Victim {
    /// Number `index` of the guests, plugged into `lanes`.
    pub fn plug(index: usize, features: u64, lanes: &Lanes) -> Self {
        let memory = MEMORIES.with_borrow_mut(|memories| {
            while memories.len() <= index {
                memories.push(map());
            }
            memories[index].0.clone()
        });
        poke(&memory, 0, &[0; BUFFERS as usize]);
        poke(&memory, FORBIDDEN, &[FILL; (BUFFERS - FORBIDDEN) as usize]);
        let header_len = Negotiated::from_features(features).header_len;
        let mut victim = Self {
            memory,
            features,
            header_len,
            seen: 0,
            offered: 0,
            sent: 0,
        };
        for entry in 0..SIZE {
            victim.describe(
                RINGS[0],
                entry,
                BUFFERS + u64::from(entry) * BUFFER,
                BUFFER as u32,
                2,
            );
        }
        victim.offer(SIZE);
        for (ring, base) in RINGS.into_iter().enumerate() {
            let setup = RingSetup {
                memory: victim.memory.clone(),
                layout: layout(base),
                features: victim.features,
                kick: None,
                call: None,
                err: None,
                enabled: Enabled::Yes,
            };
            lanes.start(ring as u16, setup).expect("a good ring");
        }
        victim
    }

    /// Sends a frame.
    pub fn send(&mut self, frame: &[u8]) {
        let bytes = [&vec![0; self.header_len], frame].concat();
        poke(&self.memory, OUTGOING, &bytes);
        self.describe(RINGS[1], 0, OUTGOING, bytes.len() as u32, 0);
        // Entry 0 of the available ring is as good as any other: they all say descriptor 0.
        self.sent = self.sent.wrapping_add(1);
        poke(
            &self.memory,
            layout(RINGS[1]).avail + 2,
            &self.sent.to_le_bytes(),
        );
    }

    /// Everything that came since the last time; the buffers are offered again.
    pub fn receive(&mut self) -> Vec<Received> {
        let used = layout(RINGS[0]).used;
        let until = u16::from_le_bytes(peek(&self.memory, used + 2));
        assert!(
            until.wrapping_sub(self.seen) <= SIZE,
            "used index beyond what was offered"
        );
        let mut frames = Vec::new();
        let mut bytes = Vec::new();
        let mut missing = 0;
        while self.seen != until {
            let [i0, i1, i2, i3, l0, l1, l2, l3] =
                peek(&self.memory, used + 4 + u64::from(self.seen % SIZE) * 8);
            let id = u32::from_le_bytes([i0, i1, i2, i3]);
            let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
            assert_eq!(id, u32::from(self.seen % SIZE), "not in order");
            assert!(len > 0 && len <= BUFFER as usize, "used length {len}");
            let at = bytes.len();
            bytes.resize(at + len, 0);
            peek_into(
                &self.memory,
                BUFFERS + u64::from(id) * BUFFER,
                &mut bytes[at..],
            );
            if missing == 0 {
                missing = match self.header_len {
                    vnet::LEN => u16::from_le_bytes([bytes[10], bytes[11]]),
                    _ => 1,
                };
                assert!(missing > 0, "num_buffers is 0");
            }
            missing -= 1;
            if missing == 0 {
                let header =
                    VnetHeader::parse(bytes.first_chunk().expect("a header is always whole"));
                frames.push(Received {
                    header,
                    frame: bytes.split_off(self.header_len),
                });
                bytes.clear();
            }
            self.seen = self.seen.wrapping_add(1);
        }
        assert_eq!(missing, 0, "a frame was published in part");
        self.offer(self.seen.wrapping_add(SIZE).wrapping_sub(self.offered));
        frames
    }

    /// Nobody wrote where nothing was offered.
    pub fn assert_unharmed(&self) {
        let mut bytes = vec![0; (BUFFERS - FORBIDDEN) as usize];
        peek_into(&self.memory, FORBIDDEN, &mut bytes);
        assert!(
            bytes.iter().all(|byte| *byte == FILL),
            "memory that was never offered changed"
        );
    }

    fn offer(&mut self, count: u16) {
        let avail = layout(RINGS[0]).avail;
        for _ in 0..count {
            let entry = self.offered % SIZE;
            poke(
                &self.memory,
                avail + 4 + u64::from(entry) * 2,
                &entry.to_le_bytes(),
            );
            self.offered = self.offered.wrapping_add(1);
        }
        poke(&self.memory, avail + 2, &self.offered.to_le_bytes());
    }

    fn describe(&mut self, ring: u64, entry: u16, addr: u64, len: u32, flags: u16) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&addr.to_le_bytes());
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        poke(
            &self.memory,
            layout(ring).desc + u64::from(entry) * 16,
            &bytes,
        );
    }
}
