//! P-20 under full load: a guest's memory is replaced a thousand times while another guest fills it.

use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use portcullis::guest::wire::Wire;
use portcullis::guest::{
    Backing, Event, FrontEnd, Memory, RegionSpec, RingLayout, RingSetup, Script, Shape, VnetHeader,
    feature, protocol,
};

use crate::hostile::Ends;
use crate::rig::{PATIENCE, Switch, Victims, frame, mac, until};

const SIZE: u64 = 0x10_0000;
const LAYOUT: RingLayout = RingLayout {
    size: 256,
    desc: 0,
    avail: 0x2000,
    used: 0x3000,
};
const BUFFERS: u64 = 0x1_0000;
const BUFFER: u64 = 2048;
const POISON: u8 = 0xdb;
const HEADER: usize = 12;
const FRAME: usize = 1000;

/// One of the two layouts: in one region or in two, whose front-end addresses do not adjoin.
fn memory(regions: u64) -> std::sync::Arc<Memory> {
    let each = SIZE / regions;
    let specs: Vec<RegionSpec> = (0..regions)
        .map(|n| RegionSpec {
            gpa: n * each,
            uva: 0x7000_0000_0000 + n * each * 2,
            size: each,
            file: 0,
            offset: n * each,
        })
        .collect();
    let memory = Memory::new(&Backing::Memfd, &specs).unwrap();
    for n in 0..256u64 {
        let mut descriptor = (BUFFERS + n * BUFFER).to_le_bytes().to_vec();
        descriptor.extend([2048u32, 2].map(u32::to_le_bytes).concat());
        put(&memory, LAYOUT.desc + 16 * n, &descriptor);
        put(&memory, LAYOUT.avail + 4 + 2 * n, &(n as u16).to_le_bytes());
    }
    memory
}

fn put(memory: &Memory, at: u64, bytes: &[u8]) {
    memory.file(0).write_all_at(bytes, at).unwrap();
}

fn contents(memory: &Memory) -> Vec<u8> {
    let mut bytes = vec![0; SIZE as usize];
    memory.file(0).read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn used(memory: &Memory) -> u16 {
    let mut index = [0; 2];
    let at = LAYOUT.used + 2;
    memory.file(0).read_exact_at(&mut index, at).unwrap();
    u16::from_le_bytes(index)
}

/// Poisons every buffer, and offers all of them.
fn offer(memory: &Memory) {
    put(memory, BUFFERS, &vec![POISON; 256 * BUFFER as usize]);
    let index = used(memory).wrapping_add(256);
    put(memory, LAYOUT.avail + 2, &index.to_le_bytes());
}

/// Every buffer is poison, or a whole frame and poison behind it. How many are frames.
fn frames(contents: &[u8]) -> usize {
    let buffers = contents[BUFFERS as usize..]
        .chunks_exact(BUFFER as usize)
        .take(256);
    let full = buffers.filter(|buffer| {
        if buffer.iter().all(|byte| *byte == POISON) {
            return false;
        }
        let (got, rest) = buffer[HEADER..].split_at(FRAME);
        let sent = frame(mac(66), mac(77), &vec![got[14]; FRAME - 14]);
        assert_eq!(got, sent, "a frame of mixed content");
        assert!(rest.iter().all(|byte| *byte == POISON));
        true
    });
    full.count()
}

#[test]
fn p_20_memory_is_replaced_a_thousand_times_under_load() {
    let declared = "mac = [\"52:54:00:00:00:42\"]";
    let ports = [("a", ""), ("b", ""), ("mallory", declared), ("witness", "")];
    let switch = Switch::start(&ports);
    let mut victims = Victims::plug(&switch, "a", "b");
    let mut witness = switch.guest("witness", mac(77));
    let mut front = FrontEnd::new(Wire::connect(&switch.socket("mallory"), PATIENCE).unwrap());
    let features = feature::VERSION_1 | feature::PROTOCOL_FEATURES;
    let reply_ack = protocol::REPLY_ACK;
    front
        .negotiate(Script::Modern, features, reply_ack)
        .unwrap();
    let memories = [memory(1), memory(2)];
    let (kick, call) = (Event::new().unwrap(), Event::new().unwrap());
    let ring = RingSetup {
        index: 0,
        layout: LAYOUT,
        base: 0,
        kick: &kick,
        call: Some(&call),
        enable: true,
    };
    offer(&memories[0]);
    front.start(Script::Modern, &memories[0], &[ring]).unwrap();
    let over = AtomicBool::new(false);
    let mut delivered = 0;
    std::thread::scope(|scope| {
        let _ends = Ends(&over);
        scope.spawn(|| {
            let mut number = 0u8;
            while !over.load(Ordering::Relaxed) {
                for _ in 0..32 {
                    number = number.wrapping_add(1);
                    let bytes = frame(mac(66), mac(77), &[number; FRAME - 14]);
                    let queued =
                        witness.queue_frame(0, VnetHeader::default(), &bytes, &Shape::Together);
                    if queued.is_err() {
                        break;
                    }
                }
                witness.flush(0).unwrap();
            }
        });
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                victims.talk(5);
            }
        });
        for turn in 0..1_000 {
            let (old, new) = (&memories[turn % 2], &memories[(turn + 1) % 2]);
            offer(new);
            let from = used(new);
            front.set_mem_table(new).unwrap();
            let after = contents(old);
            until("frames in the new memory", || {
                (used(new) != from).then_some(())
            });
            assert!(
                contents(old) == after,
                "turn {turn}: the old memory was written after the reply"
            );
            delivered += frames(&after);
        }
    });
    assert!(delivered > 1_000, "{delivered}");
    assert_eq!(switch.port("mallory")["state"], "running");
    victims.talk(10);
    for port in ["a", "b"] {
        let books = switch.books(port);
        assert_eq!((books.dropped, books.undelivered), (0, 0), "{port}");
    }
}
