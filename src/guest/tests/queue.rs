//! The driver against `virtio-queue`'s device side in the same memory.

use std::sync::Arc;

use proptest::prelude::*;
use virtio_queue::{Queue as Device, QueueT};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};

use crate::guest::{
    Buffer, Descriptor, Error, Memory, Queue, RingLayout, Used, desc_flag, feature,
};

/// Buffers lie from here on; nothing is read from them.
const BUFFERS: u64 = 1 << 20;
const TABLES: u64 = 3 << 20;

/// A driver and the device behind it.
struct Bench {
    driver: Queue,
    device: Device,
    memory: GuestMemoryMmap,
    done: Vec<Used>,
}

impl Bench {
    fn new(size: u16, features: u64, base: u16) -> Self {
        let shared = Memory::flat(4 << 20).unwrap();
        let layout = RingLayout::at(4096, size);
        let driver = Queue::with_base(&shared, layout, features, base).unwrap();
        let file = shared.file(0).try_clone().unwrap();
        let memory = GuestMemoryMmap::from_ranges_with_files([(
            GuestAddress(0),
            4 << 20,
            Some(FileOffset::new(file, 0)),
        )])
        .unwrap();
        let mut device = Device::new(32_768).unwrap();
        device.set_size(size);
        device
            .try_set_desc_table_address(GuestAddress(layout.desc))
            .unwrap();
        device
            .try_set_avail_ring_address(GuestAddress(layout.avail))
            .unwrap();
        device
            .try_set_used_ring_address(GuestAddress(layout.used))
            .unwrap();
        device.set_next_avail(base);
        device.set_next_used(base);
        device.set_event_idx(features & feature::EVENT_IDX != 0);
        device.set_ready(true);
        assert!(device.is_valid(&memory));
        Self {
            driver,
            device,
            memory,
            done: Vec::new(),
        }
    }

    /// What the device sees next: the head and the buffers of its chain.
    fn pop(&mut self) -> Option<(u16, Vec<Buffer>)> {
        let chain = self.device.pop_descriptor_chain(&self.memory)?;
        let head = chain.head_index();
        let buffers = chain
            .map(|d| Buffer {
                gpa: d.addr().0,
                len: d.len(),
                write: d.is_write_only(),
            })
            .collect();
        Some((head, buffers))
    }

    fn give_back(&mut self, head: u16, len: u32) {
        self.device.add_used(&self.memory, head, len).unwrap();
    }

    fn reap(&mut self) -> Result<Vec<Used>, Error> {
        self.done.clear();
        self.driver.reap(usize::MAX, &mut self.done)?;
        Ok(self.done.clone())
    }
}

fn one(len: u32) -> [Buffer; 1] {
    [Buffer {
        gpa: BUFFERS,
        len,
        write: true,
    }]
}

/// A chain as VIRTIO wants it: what the device reads comes before what it writes.
fn chains() -> impl Strategy<Value = Vec<(Vec<Buffer>, bool)>> {
    let piece = (0u64..1000, 1u32..5000, any::<bool>());
    let chain = (prop::collection::vec(piece, 1..9), any::<bool>());
    prop::collection::vec(chain, 1..60).prop_map(|chains| {
        chains
            .into_iter()
            .map(|(mut pieces, indirect)| {
                pieces.sort_by_key(|p| p.2);
                let buffers = pieces
                    .into_iter()
                    .map(|(at, len, write)| Buffer {
                        gpa: BUFFERS + at * 16,
                        len,
                        write,
                    })
                    .collect();
                (buffers, indirect)
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn every_chain_arrives_as_it_was_added_and_comes_back_once(
        chains in chains(),
        size in prop::sample::select(vec![8u16, 16, 64]),
        features in prop::sample::select(vec![0, feature::EVENT_IDX, feature::IN_ORDER]),
        base in prop::sample::select(vec![0u16, 1, 65_530]),
        backwards: bool,
    ) {
        let mut bench = Bench::new(size, features, base);
        let mut waiting = chains.iter().enumerate().peekable();
        let mut came_back = Vec::new();
        while came_back.len() < chains.len() {
            let mut added = Vec::new();
            while let Some((number, (buffers, indirect))) = waiting.peek().copied() {
                let token = number as u64;
                let table = TABLES + token * 4096 % (1 << 20);
                let head = if *indirect {
                    bench.driver.add_indirect(buffers, table, token)
                } else {
                    bench.driver.add(buffers, token)
                };
                match head {
                    Ok(head) => added.push((head, token, buffers)),
                    Err(e) => {
                        prop_assert!(e.is_full());
                        break;
                    }
                }
                waiting.next();
            }
            prop_assert_eq!(bench.pop(), None, "nothing is seen before it is published");
            bench.driver.publish().unwrap();
            let mut expected = Vec::new();
            for (head, token, buffers) in &added {
                prop_assert_eq!(bench.pop(), Some((*head, buffers.to_vec())));
                let len: u32 = buffers.iter().filter(|b| b.write).map(|b| b.len).sum();
                expected.push(Used { token: *token, head: *head, len });
            }
            prop_assert_eq!(bench.pop(), None);
            if backwards && features & feature::IN_ORDER == 0 {
                expected.reverse();
            }
            for used in &expected {
                bench.give_back(used.head, used.len);
            }
            prop_assert_eq!(bench.reap().unwrap(), expected.clone());
            came_back.extend(expected);
        }
        prop_assert_eq!(bench.driver.free(), usize::from(size));
        prop_assert_eq!(bench.driver.in_flight(), 0);
    }
}

#[test]
fn indices_wrap_at_every_size() {
    for size in [2u16, 4, 32, 256] {
        for features in [0, feature::IN_ORDER] {
            let mut bench = Bench::new(size, features, 65_000);
            let mut token = 0;
            while token < 70_000 {
                let first = token;
                while bench.driver.add(&one(64), token).is_ok() {
                    token += 1;
                }
                bench.driver.publish().unwrap();
                for _ in first..token {
                    let (head, _) = bench.pop().unwrap();
                    bench.give_back(head, 1);
                }
                let tokens: Vec<u64> = bench.reap().unwrap().iter().map(|u| u.token).collect();
                assert_eq!(tokens, (first..token).collect::<Vec<_>>());
            }
        }
    }
}

#[test]
fn a_full_ring_takes_nothing_and_loses_nothing() {
    let mut bench = Bench::new(4, 0, 0);
    bench.driver.add(&[one(1)[0]; 3], 1).unwrap();
    let error = bench.driver.add(&[one(1)[0]; 2], 2).unwrap_err();
    assert!(matches!(error, Error::Full { wanted: 2, free: 1 }));
    bench.driver.add(&one(1), 3).unwrap();
    assert!(bench.driver.add(&one(1), 4).unwrap_err().is_full());
    assert!(bench.driver.add(&[], 5).is_err());
}

#[test]
fn kicks_come_when_the_device_asks_for_them() {
    for features in [0, feature::EVENT_IDX] {
        let mut bench = Bench::new(16, features, 65_534);
        let add = |bench: &mut Bench| {
            bench.driver.add(&one(9), 0).unwrap();
            bench.driver.publish().unwrap();
            bench.driver.kick().unwrap()
        };
        assert!(!bench.device.enable_notification(&bench.memory).unwrap());
        assert!(add(&mut bench), "the first is asked for");
        assert!(!bench.driver.kick().unwrap(), "nothing new");
        if features == 0 {
            bench.device.disable_notification(&bench.memory).unwrap();
        }
        assert!(!add(&mut bench), "not asked for again");
        while bench.pop().is_some() {}
        bench.device.enable_notification(&bench.memory).unwrap();
        assert!(add(&mut bench), "asked for again");
        assert_eq!(bench.driver.kicks(), 2);
        assert_eq!(bench.driver.kick_event().take().unwrap(), 2);
    }
}

#[test]
fn calls_are_asked_for_and_spared() {
    for features in [0, feature::EVENT_IDX] {
        let mut bench = Bench::new(16, features, 0);
        for token in 0..4 {
            bench.driver.add(&one(9), token).unwrap();
        }
        bench.driver.publish().unwrap();
        assert!(!bench.driver.want_calls(true).unwrap());
        let (head, _) = bench.pop().unwrap();
        bench.give_back(head, 0);
        assert!(bench.device.needs_notification(&bench.memory).unwrap());
        assert!(
            bench.driver.want_calls(true).unwrap(),
            "one is there already"
        );
        bench.reap().unwrap();
        assert!(!bench.driver.want_calls(false).unwrap());
        let (head, _) = bench.pop().unwrap();
        bench.give_back(head, 0);
        if features != 0 {
            // `virtio-queue` knows of no NO_INTERRUPT flag.
            assert!(!bench.device.needs_notification(&bench.memory).unwrap());
        } else {
            assert_eq!(bench.driver.ring().avail_flags().unwrap(), 1);
        }
    }
}

/// A driver with four published chains of one descriptor with `len` bytes each.
fn four(features: u64, len: u32) -> Bench {
    let mut bench = Bench::new(8, features, 0);
    for token in 0..4 {
        bench.driver.add(&one(len), token).unwrap();
    }
    bench.driver.publish().unwrap();
    bench
}

/// What the driver says of used entries written by hand.
fn after(bench: &mut Bench, entries: &[(u32, u32)], index: u16) -> Result<Vec<Used>, Error> {
    let ring = bench.driver.ring().clone();
    for (i, (id, len)) in entries.iter().enumerate() {
        let at = ring.layout().used + 4 + 8 * i as u64;
        ring.memory().write(at, &id.to_le_bytes()).unwrap();
        ring.memory().write(at + 4, &len.to_le_bytes()).unwrap();
    }
    ring.set_used_idx(index).unwrap();
    bench.reap()
}

#[test]
fn a_device_that_breaks_the_used_ring_is_found_out() {
    for (features, entries, index) in [
        (0, vec![(8, 0)], 1),
        (0, vec![(5, 0)], 1),
        (0, vec![(0x1_0000, 0)], 1),
        (0, vec![(0, 0), (0, 0)], 2),
        (0, vec![(0, 65)], 1),
        (0, vec![], 5),
        (0, vec![], 0xffff),
        (feature::IN_ORDER, vec![(1, 0)], 1),
        (feature::IN_ORDER, vec![(0, 65)], 1),
    ] {
        let mut bench = four(features, 64);
        let result = after(&mut bench, &entries, index);
        assert!(
            matches!(result, Err(Error::Device(_))),
            "{entries:?} {index}: {result:?}"
        );
    }
}

#[test]
fn one_entry_may_stand_for_an_in_order_batch() {
    let mut bench = four(feature::IN_ORDER, 64);
    let used = after(&mut bench, &[(2, 10)], 3).unwrap();
    let came: Vec<_> = used.iter().map(|u| (u.token, u.len)).collect();
    assert_eq!(came, [(0, 64), (1, 64), (2, 10)]);
    assert_eq!(bench.driver.in_flight(), 1);
}

#[test]
fn raw_chains_are_written_as_they_are() {
    let mut bench = Bench::new(8, 0, 0);
    let lap = Descriptor {
        addr: BUFFERS,
        len: 1,
        flags: desc_flag::NEXT,
        next: 0,
    };
    let head = bench.driver.add_raw(&[lap], 0).unwrap();
    assert_eq!(bench.driver.ring().desc(head).unwrap().next, head);
    let far = Descriptor { next: 999, ..lap };
    let head = bench.driver.add_raw(&[lap, far], 1).unwrap();
    let first = bench.driver.ring().desc(head).unwrap();
    assert_eq!(first.next, head, "next counts within the chain");
    bench.driver.offer_head(77).unwrap();
    bench.driver.publish().unwrap();
    assert_eq!(bench.driver.ring().avail_idx().unwrap(), 3);
    assert_eq!(bench.driver.ring().avail_entry(2).unwrap(), 77);
}

#[test]
fn memory_crosses_adjacent_regions_and_no_gap() {
    let adjacent = Memory::pieces(&crate::guest::Backing::Memfd, 3, 4096, 0).unwrap();
    let bytes: Vec<u8> = (0..6000).map(|i| (i % 251) as u8).collect();
    adjacent.write(3000, &bytes).unwrap();
    assert_eq!(adjacent.bytes(3000, 6000).unwrap(), bytes);
    assert_eq!(adjacent.find(&bytes[..64]), Some(3000));
    assert!(adjacent.slice(3000, 6000).is_err());
    let apart = Memory::pieces(&crate::guest::Backing::Memfd, 2, 4096, 4096).unwrap();
    assert!(apart.write(4000, &bytes[..200]).is_err());
    assert_ne!(apart.uva(0).unwrap(), 0);
    apart.poison(b"poison!");
    assert_eq!(apart.bytes(8192, 7).unwrap(), b"poison!");
    assert_eq!(Arc::strong_count(&apart), 1);
}
