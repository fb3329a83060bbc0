//! What attackers try, by the names of the threat model. A pair of victims talks throughout; the attacker's own port pays.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use portcullis::guest::wire::{Message, Request};
use portcullis::guest::{Descriptor, Event, Guest, Shape, VnetHeader, desc_flag};

use crate::rig::{BROADCAST, Switch, Victims, all, expect, frame, hear, mac, until};

const PORTS: [(&str, &str); 4] = [("a", ""), ("b", ""), ("mallory", ""), ("witness", "")];

/// What Q-14 says when it fails; `./test` looks for it in the mutant's run.
const CAUGHT: &str = "a frame for the other guest";

/// Ends the threads of a test when it ends, by failing too.
pub struct Ends<'a>(pub &'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

pub fn descriptors(switch: &Switch) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", switch.pid()))
        .unwrap()
        .count()
}

/// Mappings of guests, and all of them.
fn mappings(switch: &Switch) -> (usize, usize) {
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", switch.pid())).unwrap();
    let guests = maps.lines().filter(|line| line.contains("memfd:"));
    (guests.count(), maps.lines().count())
}

/// Runs an attack between two talks of the victims and checks that nothing of it stays.
pub fn attacked(attack: impl FnOnce(&Switch, &mut Victims)) {
    let mut switch = Switch::start(&PORTS);
    let mut victims = Victims::plug(&switch, "a", "b");
    // Once before, so that what a first guest brings along is there already.
    drop(switch.guest("mallory", mac(66)));
    switch.await_state("mallory", "waiting");
    let (fds, (guests, maps)) = (descriptors(&switch), mappings(&switch));
    attack(&switch, &mut victims);
    victims.talk(50);
    assert!(switch.is_alive());
    assert!(!switch.log().contains("panicked"), "{}", switch.log());
    until("descriptors and mappings as before", || {
        let (of_guests, all) = mappings(&switch);
        // The allocator keeps a few of its own, for each thread that there was at one time.
        (descriptors(&switch) <= fds && of_guests <= guests && all <= maps + 16).then_some(())
    });
    for port in ["a", "b"] {
        let books = switch.books(port);
        assert_eq!((books.dropped, books.undelivered), (0, 0), "{port}");
    }
}

/// P-13: memory that is taken away while mapped costs its own port the connection.
#[test]
fn p_13_truncated_memory_faults_its_own_port() {
    for left in [0, 4096] {
        attacked(|switch, victims| {
            let mut mallory = switch.guest("mallory", mac(66));
            mallory.send(&frame(mac(0xa), mac(66), b"hello")).unwrap();
            expect(&mut victims.a);
            mallory.memory().file(0).set_len(left).unwrap();
            // Idle until kicked: the kick makes the switch look at the ring.
            mallory.tx(0).kick_always().unwrap();
            switch.await_faults("mallory", 1);
            victims.talk(20);
            drop(mallory);
            switch.await_state("mallory", "waiting");
            // And the port serves the next guest.
            let mut next = switch.guest("mallory", mac(67));
            expect_through(&mut next, victims);
        });
    }
}

fn expect_through(guest: &mut Guest, victims: &mut Victims) {
    guest.send(&frame(mac(0xa), mac(67), b"well")).unwrap();
    let got = until("mallory's successor heard", || {
        victims.a.recv(Duration::from_secs(1)).unwrap()
    });
    assert_eq!(got.bytes, frame(mac(0xa), mac(67), b"well"));
}

/// P-25: a call descriptor that would block holds up nobody.
#[test]
fn p_25_a_saturated_blocking_call_holds_up_nobody() {
    attacked(|switch, victims| {
        let mut mallory = switch.guest("mallory", mac(66));
        mallory.send(&frame(mac(0xa), mac(66), b"here")).unwrap();
        expect(&mut victims.a);
        let call = mallory.rx(0).call_event().unwrap();
        // The description is shared: what the peer clears is cleared for us.
        let flags = rustix::fs::fcntl_getfl(call.as_fd()).unwrap();
        rustix::fs::fcntl_setfl(call.as_fd(), flags - rustix::fs::OFlags::NONBLOCK).unwrap();
        rustix::io::write(call.as_fd(), &(u64::MAX - 1).to_ne_bytes()).unwrap();
        let mut witness = switch.guest("witness", mac(77));
        for _ in 0..5 {
            witness
                .send(&frame(mac(66), mac(77), b"ring, please"))
                .unwrap();
        }
        switch.await_faults("mallory", 1);
        victims.talk(50);
        drop((mallory, witness));
        switch.await_state("mallory", "waiting");
        switch.await_state("witness", "waiting");
    });
}

/// an index that jumps breaks that ring only; a stop and a start mend it.
#[test]
fn q_8_an_index_that_jumps_breaks_the_ring_only() {
    attacked(|switch, victims| {
        let mut mallory = switch.guest("mallory", mac(66));
        let avail = mallory.tx(0).ring().avail_idx().unwrap();
        mallory
            .tx(0)
            .ring()
            .set_avail_idx(avail.wrapping_add(40_000))
            .unwrap();
        mallory.tx(0).kick_always().unwrap();
        switch.await_state("mallory", "quarantined");
        victims.talk(20);
        // Its receive ring still works.
        victims.a.send(&frame(mac(0xb), mac(0xa), b"x")).unwrap();
        expect(&mut victims.b);
        drop(mallory);
        switch.await_state("mallory", "waiting");
    });
}

/// A broken ring is told to its front-end (vhost-user: SET_VRING_ERR), and a descriptor for that which blocks is no better than
/// a call that does (P-25).
#[test]
fn q_8_a_front_end_hears_of_its_broken_ring() {
    for blocks in [false, true] {
        for ring in [0u8, 1] {
            attacked(|switch, victims| {
                let mut mallory = switch.guest("mallory", mac(66));
                mallory.send(&frame(mac(0xa), mac(66), b"here")).unwrap();
                expect(&mut victims.a);
                let err = Event::blocking().unwrap();
                let wire = mallory.front_end().unwrap().wire();
                let message = Message::vring_fd(Request::SET_VRING_ERR, ring, Some(err.as_fd()));
                wire.send(&message.need_reply()).unwrap();
                assert_eq!(wire.recv().unwrap().u64().unwrap(), 0);
                if blocks {
                    let flags = rustix::fs::fcntl_getfl(err.as_fd()).unwrap();
                    let blocking = flags - rustix::fs::OFlags::NONBLOCK;
                    rustix::fs::fcntl_setfl(err.as_fd(), blocking).unwrap();
                    err.add(u64::MAX - 1).unwrap();
                }
                let queue = match ring {
                    0 => mallory.rx(0),
                    _ => mallory.tx(0),
                };
                let avail = queue.ring().avail_idx().unwrap();
                let jumped = avail.wrapping_add(40_000);
                queue.ring().set_avail_idx(jumped).unwrap();
                mallory.tx(0).kick_always().unwrap();
                // A receive ring is looked at when there is something for it.
                let mut witness = switch.guest("witness", mac(77));
                witness
                    .send(&frame(mac(66), mac(77), b"are you there"))
                    .unwrap();
                if blocks {
                    switch.await_faults("mallory", 2);
                } else {
                    assert!(err.wait(crate::rig::PATIENCE).unwrap(), "not told");
                    switch.await_state("mallory", "quarantined");
                }
                victims.talk(20);
                drop((mallory, witness));
                switch.await_state("mallory", "waiting");
                switch.await_state("witness", "waiting");
            });
        }
    }
}

/// in one storm: every malformed chain comes back once and is counted.
#[test]
fn q_storm_of_malformed_chains() {
    attacked(|switch, victims| {
        let mut mallory = switch.guest("mallory", mac(66));
        let size = mallory.tx(0).size();
        let bad: Vec<Vec<Descriptor>> = vec![
            // nowhere, and wrapping.
            vec![Descriptor {
                addr: u64::MAX - 4,
                len: 64,
                flags: 0,
                next: 0,
            }],
            vec![Descriptor {
                addr: 1 << 60,
                len: 64,
                flags: 0,
                next: 0,
            }],
            // far too long.
            vec![Descriptor {
                addr: 0x1000,
                len: u32::MAX,
                flags: 0,
                next: 0,
            }],
            // a buffer to be written among those to be read.
            vec![Descriptor {
                addr: 0x1000,
                len: 64,
                flags: desc_flag::WRITE,
                next: 0,
            }],
            // an indirect table that is no table.
            vec![Descriptor {
                addr: 0x1000,
                len: 15,
                flags: desc_flag::INDIRECT,
                next: 0,
            }],
            vec![Descriptor {
                addr: 0x1000,
                len: 0,
                flags: desc_flag::INDIRECT,
                next: 0,
            }],
            vec![Descriptor {
                addr: 0x1000,
                len: 16 * 65_535,
                flags: desc_flag::INDIRECT,
                next: 0,
            }],
        ];
        let rounds = 300;
        for round in 0..rounds {
            for chain in &bad {
                let used = mallory.tx(0).used();
                let mut reaped = Vec::new();
                mallory.tx(0).add_raw(chain, round).unwrap();
                mallory.tx(0).publish().unwrap();
                mallory.tx(0).kick_always().unwrap();
                until("the head", || {
                    (mallory.tx(0).reap(8, &mut reaped).unwrap() == 1).then_some(())
                });
                assert_eq!(mallory.tx(0).used(), used.wrapping_add(1));
            }
            if round % 50 == 0 {
                victims.talk(2);
            }
        }
        // a head that is no descriptor.
        mallory.tx(0).offer_head(size).unwrap();
        mallory.tx(0).publish().unwrap();
        mallory.tx(0).kick_always().unwrap();
        let sent = rounds * bad.len() as u64 + 1;
        switch.await_received("mallory", sent);
        assert_eq!(switch.dropped("mallory", "malformed-chain"), sent);
        drop(mallory);
        switch.await_state("mallory", "waiting");
    });
}

/// F-3: a receiver that posts nothing loses its own frames and holds up nobody.
#[test]
fn f_3_a_receiver_without_buffers_holds_up_nobody() {
    attacked(|switch, victims| {
        let mut mallory = switch.plug("mallory", Guest::builder().mac(mac(66)).ring_size(4));
        mallory.send(&frame(mac(0xa), mac(66), b"here")).unwrap();
        expect(&mut victims.a);
        let mut witness = switch.guest("witness", mac(77));
        for _ in 0..50 {
            witness
                .send(&frame(mac(66), mac(77), b"take this"))
                .unwrap();
            victims.talk(1);
        }
        switch.await_received("witness", 50);
        let lost = switch.undelivered("mallory", "receiver-full");
        assert!(lost >= 40, "{lost}");
        assert_eq!(switch.dropped("witness", "receiver-full"), lost);
        drop(witness);
        switch.await_state("witness", "waiting");
    });
}

/// a guest that rewrites the address of a frame while the switch reads it. Either address may win, but what is
/// delivered is what was judged: no receiver ever sees a frame that is addressed to the other.
///
/// A million frames; a hundred million under `./test --long`. `./test` also builds a mutant of the switch that reads the
/// address again before it delivers, in which this test has to fail with [`CAUGHT`].
#[test]
fn q_14_what_was_judged_is_what_arrives() {
    let switch = Switch::start(&PORTS);
    let mut a = switch.guest("a", mac(0xa));
    let mut b = switch.guest("b", mac(0xb));
    let mut mallory = switch.guest("mallory", mac(66));
    for guest in [&mut a, &mut b] {
        let me = guest.mac();
        guest.send(&frame(mac(66), me, b"here")).unwrap();
        expect(&mut mallory);
    }
    all(&mut a);
    all(&mut b);
    let memory = mallory.memory().clone();
    let last = memory.regions().last().unwrap();
    // A network header of zeros, then the frame: longer than a snapshot, so that its end is copied later than its beginning.
    let at = last.gpa + last.size - 4096;
    let bytes = [&[0u8; 12][..], &frame(mac(0xa), mac(66), &[7; 400])].concat();
    memory.write(at, &bytes).unwrap();
    let address = at + 12 + 5;
    let frames = if crate::rig::long() {
        100_000_000
    } else {
        1_000_000
    };
    let over = AtomicBool::new(false);
    let (mut to_a, mut to_b) = (0u64, 0u64);
    std::thread::scope(|scope| {
        let _ends = Ends(&over);
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                for last in [0xau8, 0xb] {
                    memory.store(address, last, Ordering::Relaxed).unwrap();
                }
            }
        });
        let chain = [Descriptor {
            addr: at,
            len: bytes.len() as u32,
            flags: 0,
            next: 0,
        }];
        let mut reaped = Vec::new();
        while to_a + to_b < frames {
            for _ in 0..128 {
                mallory.tx(0).add_raw(&chain, 0).unwrap();
            }
            mallory.tx(0).publish().unwrap();
            mallory.tx(0).kick().unwrap();
            until("the burst", || {
                mallory.tx(0).reap(128, &mut reaped).unwrap();
                (mallory.tx(0).in_flight() == 0).then_some(())
            });
            reaped.clear();
            for (guest, own, count) in [(&mut a, 0xau8, &mut to_a), (&mut b, 0xb, &mut to_b)] {
                for got in all(guest).into_iter().filter(|got| got.bytes[11] == 66) {
                    assert_eq!(got.bytes[5], own, "{CAUGHT}");
                    assert_eq!(got.bytes.len(), bytes.len() - 12);
                    *count += 1;
                }
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(
        to_a > 100 && to_b > 100,
        "the address did change while frames were read: {to_a}, {to_b}"
    );
}

/// E-35: no byte that a guest did not send reaches another: not of its memory, not of the switch's.
#[test]
fn e_35_nothing_leaks_but_what_was_sent() {
    const POISON: &[u8] = b"\xde\xad\xbe\xef\xfa\xce\xfe\xed";
    let switch = Switch::start(&PORTS);
    let mut mallory = switch.plug("mallory", Guest::builder().mac(mac(66)).poison(POISON));
    let mut witness = switch.plug(
        "witness",
        Guest::builder()
            .mac(mac(77))
            .without(portcullis::guest::feature::MRG_RXBUF),
    );
    let mut victims = Victims::plug(&switch, "a", "b");
    // Runts, frames without padding, frames longer than a snapshot, a tag cut in half, chains that fail half-way.
    let mut sent = 0;
    for len in (14..200).chain([255, 256, 257, 1000, 1514, 9000]) {
        let mut bytes = frame(BROADCAST, mac(66), &[]);
        bytes.resize(len, 0x11);
        mallory.send(&bytes).unwrap();
        sent += 1;
        for guest in [&mut victims.a, &mut victims.b, &mut witness] {
            // The witness has buffers of 2 KiB and cannot merge them.
            if guest.mac() == mac(77) && len > 2000 {
                continue;
            }
            assert_eq!(hear(guest, mac(66)).bytes, bytes, "exactly what was sent");
        }
    }
    for chain in [
        vec![Descriptor {
            addr: 0x1000,
            len: 13 + 12,
            flags: 0,
            next: 0,
        }],
        vec![
            Descriptor {
                addr: 0x1000,
                len: 100,
                flags: desc_flag::NEXT,
                next: 1,
            },
            Descriptor {
                addr: 1 << 60,
                len: 100,
                flags: 0,
                next: 0,
            },
        ],
    ] {
        mallory.tx(0).add_raw(&chain, 0).unwrap();
        mallory.tx(0).publish().unwrap();
        mallory.tx(0).kick_always().unwrap();
        sent += 1;
        switch.await_received("mallory", sent);
    }
    victims.talk(5);
    for guest in [&victims.a, &victims.b, &witness] {
        assert_eq!(
            guest.memory().find(POISON),
            None,
            "mallory's memory in another guest"
        );
    }
}

/// F-1: a guest that floods with the smallest frames costs others none of theirs.
#[test]
fn f_1_a_flood_costs_others_nothing() {
    attacked(|switch, victims| {
        let mut mallory = switch.guest("mallory", mac(66));
        let mut witness = switch.guest("witness", mac(77));
        witness.send(&frame(mac(66), mac(77), b"here")).unwrap();
        expect(&mut mallory);
        for guest in [&mut victims.a, &mut victims.b] {
            all(guest);
        }
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _ends = Ends(&over);
            scope.spawn(|| {
                let bytes = frame(mac(77), mac(66), &[]);
                while !over.load(Ordering::Relaxed) {
                    for _ in 0..64 {
                        // Full: the switch has not taken the last ones yet. It is told again and asked again.
                        let queued =
                            mallory.queue_frame(0, VnetHeader::default(), &bytes, &Shape::Together);
                        if queued.is_err() {
                            break;
                        }
                    }
                    mallory.flush(0).unwrap();
                }
            });
            victims.talk(500);
        });
        let flood = switch.books("mallory").received;
        assert!(flood > 500, "{flood}");
        drop((mallory, witness));
        switch.await_state("mallory", "waiting");
        switch.await_state("witness", "waiting");
    });
}
