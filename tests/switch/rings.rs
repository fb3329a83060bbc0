//! Rings as weapons, end to end: what costs the most, what lies in each other's way, what goes away meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};

use portcullis::guest::{Descriptor, Guest, RingLayout, Shape, VnetHeader, desc_flag, feature};

use crate::hostile::{Ends, attacked, attacked_on};
use crate::rig::{PATIENCE, expect, frame, hear, mac, until};

/// Sends to guests in turn for as long as a test likes.
pub fn pour(from: &mut Guest, to: &[[u8; 6]], over: &AtomicBool) {
    let frames: Vec<_> = to
        .iter()
        .map(|to| frame(*to, from.mac(), &[7; 1000]))
        .collect();
    let mut frames = frames.iter().cycle();
    while !over.load(Ordering::Relaxed) {
        for bytes in frames.by_ref().take(32) {
            let queued = from.queue_frame(0, VnetHeader::default(), bytes, &Shape::Together);
            if queued.is_err() {
                break;
            }
        }
        from.flush(0).unwrap();
    }
}

/// receive buffers that lie in the guest's own rings, the other one included, so that what we write changes
/// what we read: bounded work, and nobody else's affair.
#[test]
fn q_12_q_16_buffers_in_the_guests_own_rings() {
    type Place = fn(RingLayout) -> u64;
    const PLACES: [Place; 3] = [|at| at.desc, |at| at.avail, |at| at.used];
    for ring in [0, 1] {
        for place in PLACES {
            attacked(|switch, victims| {
                let mut mallory = switch.guest("mallory", mac(66));
                mallory.send(&frame(mac(0xa), mac(66), b"here")).unwrap();
                expect(&mut victims.a);
                let mut witness = switch.guest("witness", mac(77));
                let target = match ring {
                    0 => mallory.rx(0).ring().layout(),
                    _ => mallory.tx(0).ring().layout(),
                };
                for entry in 0..mallory.rx(0).size() {
                    let desc = Descriptor {
                        addr: place(target),
                        len: 2048,
                        flags: desc_flag::WRITE,
                        next: 0,
                    };
                    mallory.rx(0).ring().set_desc(entry, desc).unwrap();
                }
                for number in 0..300u64 {
                    // Of all bytes, so that indices, flags and addresses become anything.
                    let pattern: Vec<u8> = (0..600).map(|at| (at * 7 + number) as u8).collect();
                    witness.send(&frame(mac(66), mac(77), &pattern)).unwrap();
                    mallory.tx(0).kick_always().unwrap();
                    if number % 10 == 0 {
                        victims.talk(1);
                    }
                }
                assert!(witness.drain(PATIENCE).unwrap());
                let books = switch.books("mallory");
                assert_eq!(books.offered, 300, "{books:?}");
                drop((mallory, witness));
                switch.await_state("mallory", "waiting");
                switch.await_state("witness", "waiting");
            });
        }
    }
}

/// receive memory that goes away while frames are written into it: the port faults, and its used index stands still.
#[test]
fn q_17_receive_memory_that_goes_amid_frames() {
    // Declared, so that nothing is flooded when it has gone.
    let declared = "mac = \"52:54:00:00:00:42\"";
    let ports = [("a", ""), ("b", ""), ("mallory", declared), ("witness", "")];
    attacked_on(&ports, |switch, victims| {
        let mut mallory = switch.guest("mallory", mac(66));
        mallory.send(&frame(mac(0xa), mac(66), b"here")).unwrap();
        expect(&mut victims.a);
        let mut witness = switch.guest("witness", mac(77));
        let over = AtomicBool::new(false);
        let rings = mallory.tx(0).ring().layout().end().next_multiple_of(4096);
        std::thread::scope(|scope| {
            let _ends = Ends(&over);
            scope.spawn(|| pour(&mut witness, &[mac(66)], &over));
            for _ in 0..20 {
                // Each frame whole, and buffers offered anew, so that some are always on their way.
                hear(&mut mallory, mac(77));
            }
            mallory.memory().file(0).set_len(rings).unwrap();
            // The guest may not look at its buffers any more; its rings are still there. With the last of them used up
            // nothing would touch what is gone.
            let offered = mallory.rx(0).ring().used_idx().unwrap();
            let size = mallory.rx(0).size();
            mallory
                .rx(0)
                .ring()
                .set_avail_idx(offered.wrapping_add(size / 2))
                .unwrap();
            switch.await_faults("mallory", 1);
            let used = mallory.rx(0).ring().used_idx().unwrap();
            victims.talk(100);
            assert_eq!(mallory.rx(0).ring().used_idx().unwrap(), used);
        });
        drop((mallory, witness));
        switch.await_state("mallory", "waiting");
        switch.await_state("witness", "waiting");
    });
}

/// a full ring of the longest chains there are, offered again and again, and loops that end nowhere.
#[test]
fn q_21_the_costliest_chains_are_paid_for_by_their_sender() {
    attacked(|switch, victims| {
        let mut mallory = switch.plug(
            "mallory",
            Guest::builder()
                .mac(mac(66))
                .ring_size(1024)
                .with(feature::INDIRECT_DESC),
        );
        let mut witness = switch.guest("witness", mac(77));
        witness.send(&frame(mac(66), mac(77), b"here")).unwrap();
        expect(&mut mallory);
        for guest in [&mut victims.a, &mut victims.b] {
            crate::rig::all(guest);
        }
        // A frame of 1,012 bytes and its header, a byte to each descriptor; and a table whose last entry is its first.
        let memory = mallory.memory().clone();
        let last = memory.regions().last().unwrap();
        let at = last.gpa + last.size - 0x10_000;
        let bytes = [&[0; 12][..], &frame(mac(77), mac(66), &[7; 998])].concat();
        assert_eq!(bytes.len(), 1024);
        memory.write(at, &bytes).unwrap();
        let (table, circle) = (at + 0x4000, at + 0x8000);
        for n in 0..1024u16 {
            let desc = |next: u16, more: bool| Descriptor {
                addr: at + u64::from(n),
                len: 1,
                flags: if more { desc_flag::NEXT } else { 0 },
                next,
            };
            let entry = 16 * u64::from(n);
            let (chain, looped) = (desc(n + 1, n < 1023), desc((n + 1) % 1024, true));
            memory.write(table + entry, &chain.to_bytes()).unwrap();
            memory.write(circle + entry, &looped.to_bytes()).unwrap();
        }
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _ends = Ends(&over);
            scope.spawn(|| {
                let mut reaped = Vec::new();
                let mut number = 0u64;
                while !over.load(Ordering::Relaxed) {
                    while mallory.tx(0).free() > 0 {
                        number += 1;
                        let chain = Descriptor {
                            addr: if number.is_multiple_of(2) {
                                table
                            } else {
                                circle
                            },
                            len: 16 * 1024,
                            flags: desc_flag::INDIRECT,
                            next: 0,
                        };
                        mallory.tx(0).add_raw(&[chain], 0).unwrap();
                    }
                    mallory.tx(0).publish().unwrap();
                    mallory.tx(0).kick_always().unwrap();
                    until("some of them back", || {
                        let back = mallory.tx(0).reap(1024, &mut reaped).unwrap();
                        (back > 0 || over.load(Ordering::Relaxed)).then_some(())
                    });
                    reaped.clear();
                }
            });
            victims.stream(2_000, 32);
            while switch.port("mallory")["counters"]["ingress"]["received"]
                .as_u64()
                .unwrap()
                < 10_000
            {
                victims.stream(320, 32);
            }
        });
        let books = switch.books("mallory");
        let malformed = switch.dropped("mallory", "malformed-chain");
        assert!(malformed > 1_000 && books.received - malformed > 1_000);
        drop((mallory, witness));
        switch.await_state("mallory", "waiting");
        switch.await_state("witness", "waiting");
    });
}

/// P-21: rings stopped with frames on their way, a hundred times: after the reply nothing of the guest's memory changes, the
/// base is the number of heads that were given back, and what was given back arrived once.
#[test]
fn p_21_a_ring_stopped_in_mid_flight_is_left_alone() {
    attacked(|switch, victims| {
        let mut mallory = switch.guest("mallory", mac(66));
        let mut witness = victims.meet(switch, &mut mallory);
        let (mut sent, mut got) = (0u64, 0u64);
        for turn in 0..100 {
            for _ in 0..200 {
                sent += 1;
                let bytes = frame(mac(77), mac(66), &sent.to_be_bytes());
                let shape = Shape::Together;
                mallory
                    .queue_frame(0, VnetHeader::default(), &bytes, &shape)
                    .unwrap();
            }
            mallory.flush(0).unwrap();
            // Now here, now there in the midst of it.
            for _ in 0..turn % 7 {
                got += 1;
                let bytes = frame(mac(77), mac(66), &got.to_be_bytes());
                assert_eq!(expect(&mut witness).bytes, bytes, "turn {turn}");
            }
            let bases = mallory.stop().unwrap();
            let size = mallory
                .memory()
                .regions()
                .map(|region| region.size)
                .sum::<u64>();
            let after = mallory.memory().bytes(0, size as usize).unwrap();
            let used = mallory.tx(0).ring().used_idx().unwrap();
            assert_eq!(bases[1], u32::from(used), "turn {turn}");
            victims.talk(3);
            witness.send(&frame(mac(66), mac(77), b"anybody?")).unwrap();
            assert!(witness.drain(PATIENCE).unwrap());
            let now = mallory.memory().bytes(0, size as usize).unwrap();
            assert!(now == after, "turn {turn}: written after the reply");
            mallory.resume(&bases).unwrap();
            mallory.tx(0).kick_always().unwrap();
            while got < sent {
                got += 1;
                let bytes = frame(mac(77), mac(66), &got.to_be_bytes());
                assert_eq!(expect(&mut witness).bytes, bytes, "turn {turn}");
            }
        }
        drop((mallory, witness));
        switch.await_state("mallory", "waiting");
        switch.await_state("witness", "waiting");
    });
}
