//! What attackers try, by the names of the threat model. A pair of victims talks throughout; the attacker's own port pays.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use portcullis::guest::wire::{Message, Request};
use portcullis::guest::{Descriptor, Event, Guest, Shape, VnetHeader, desc_flag};

use crate::rig::{BROADCAST, Switch, Victims, all, expect, frame, hear, mac, until};

const PORTS: [(&str, &str); 4] = [("a", ""), ("b", ""), ("mallory", ""), ("witness", "")];

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

/// What a process holds.
#[derive(Debug)]
struct Footprint {
    descriptors: usize,
    threads: usize,
    /// Mappings of guests, and all of them.
    guests: usize,
    mappings: usize,
    /// Memory that is nobody else's, in KiB.
    private: u64,
}

impl Footprint {
    fn of(switch: &Switch) -> Self {
        let proc = format!("/proc/{}", switch.pid());
        let maps = std::fs::read_to_string(format!("{proc}/maps")).unwrap();
        let status = std::fs::read_to_string(format!("{proc}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("RssAnon:"));
        let private = line.and_then(|line| line.split_whitespace().nth(1));
        Self {
            descriptors: descriptors(switch),
            threads: std::fs::read_dir(format!("{proc}/task")).unwrap().count(),
            guests: maps.lines().filter(|line| line.contains("memfd:")).count(),
            mappings: maps.lines().count(),
            private: private.unwrap().parse().unwrap(),
        }
    }

    /// Whether nothing was left behind since `before`.
    fn is_within(&self, before: &Self) -> bool {
        // The allocator keeps heaps for threads that there were, of two mappings each, up to eight for each processor.
        let cpus = std::thread::available_parallelism().unwrap().get();
        self.descriptors <= before.descriptors
            && self.threads <= before.threads
            && self.guests <= before.guests
            && self.mappings <= before.mappings + 16 * cpus
            && self.private <= before.private + 1024
    }
}

/// Runs an attack between two talks of the victims and checks that nothing of it stays.
pub fn attacked(attack: impl FnOnce(&Switch, &mut Victims)) {
    attacked_on(&PORTS, attack);
}

/// The same on a switch of these ports, with `a`, `b` and `mallory` among them.
pub fn attacked_on(ports: &[(&str, &str)], attack: impl FnOnce(&Switch, &mut Victims)) {
    let mut switch = Switch::start(ports);
    let mut victims = Victims::plug(&switch, "a", "b");
    // Once before, so that what a first guest brings along is there already.
    drop(switch.guest("mallory", mac(66)));
    switch.await_state("mallory", "waiting");
    let before = Footprint::of(&switch);
    attack(&switch, &mut victims);
    victims.talk(50);
    assert!(switch.is_alive());
    assert!(!switch.log().contains("panicked"), "{}", switch.log());
    until(&format!("{before:?} again"), || {
        Footprint::of(&switch).is_within(&before).then_some(())
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

/// Waits until the worker sleeps: nobody sends anything.
fn asleep(switch: &Switch) {
    let tasks = format!("/proc/{}/task", switch.pid());
    until("a worker that sleeps", || {
        let threads = std::fs::read_dir(&tasks).unwrap().flatten();
        let states =
            threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("stat")).ok());
        states
            .filter(|stat| stat.contains("(worker-0)"))
            .find(|stat| stat.contains(") S "))
            .map(drop)
    });
}

/// P-25: nor does one that a worker rings which was asleep: an announcement wakes it, and goes to everybody.
#[test]
fn p_25_a_blocking_call_holds_up_no_worker_that_has_just_woken() {
    attacked(|switch, victims| {
        let mut mallory = switch.guest("mallory", mac(66));
        mallory.send(&frame(mac(0xa), mac(66), b"here")).unwrap();
        expect(&mut victims.a);
        let witness = switch.guest("witness", mac(77));
        let call = mallory.rx(0).call_event().unwrap();
        let flags = rustix::fs::fcntl_getfl(call.as_fd()).unwrap();
        rustix::fs::fcntl_setfl(call.as_fd(), flags - rustix::fs::OFlags::NONBLOCK).unwrap();
        rustix::io::write(call.as_fd(), &(u64::MAX - 1).to_ne_bytes()).unwrap();
        asleep(switch);
        let wire = witness.front_end().unwrap().wire();
        wire.send(&Message::send_rarp(mac(77))).unwrap();
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

/// F-3: a receiver that posts nothing loses its own frames; those that the same sender sends to others in between all arrive.
#[test]
fn f_3_a_receiver_without_buffers_holds_up_nobody() {
    const FRAMES: u64 = 5_000;
    attacked(|switch, victims| {
        let mut mallory = switch.plug("mallory", Guest::builder().mac(mac(66)).ring_size(4));
        mallory.send(&frame(mac(0xa), mac(66), b"here")).unwrap();
        expect(&mut victims.a);
        let mut witness = switch.guest("witness", mac(77));
        for first in (0..FRAMES).step_by(50) {
            for number in first..first + 50 {
                for to in [mac(66), mac(0xb)] {
                    let bytes = frame(to, mac(77), &number.to_be_bytes());
                    witness
                        .queue_frame(0, VnetHeader::default(), &bytes, &Shape::Together)
                        .unwrap();
                }
            }
            witness.flush(0).unwrap();
            for number in first..first + 50 {
                let sent = frame(mac(0xb), mac(77), &number.to_be_bytes());
                assert_eq!(hear(&mut victims.b, mac(77)).bytes, sent);
            }
            victims.talk(1);
        }
        assert!(witness.drain(crate::rig::PATIENCE).unwrap());
        let books = switch.books("witness");
        assert_eq!(books.received, 2 * FRAMES);
        let lost = switch.undelivered("mallory", "receiver-full");
        // It had four buffers, and posts none anew.
        assert!((FRAMES - 4..=FRAMES).contains(&lost), "{lost}");
        assert_eq!(switch.dropped("witness", "receiver-full"), lost);
        assert_eq!(books.forwarded, 2 * FRAMES - lost);
        drop((mallory, witness));
        switch.await_state("mallory", "waiting");
        switch.await_state("witness", "waiting");
    });
}

/// E-35: no byte that a guest did not send reaches another: not of its memory, not of the switch's.
#[test]
fn e_35_nothing_leaks_but_what_was_sent() {
    const POISON: &[u8] = b"\xde\xad\xbe\xef\xfa\xce\xfe\xed";
    let switch = Switch::start(&PORTS);
    let mallory = Guest::builder().mac(mac(66)).offloads().poison(POISON);
    let mut mallory = switch.plug("mallory", mallory);
    let mut witness = switch.plug(
        "witness",
        Guest::builder()
            .mac(mac(77))
            .ring_size(8)
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
    // Giants that are cut, whole for two and broken off in the midst for the witness, who has eight buffers.
    let (header, giant) = crate::mixed::giant(BROADCAST, mac(66), &crate::mixed::payload(40_000));
    for _ in 0..20 {
        mallory.send_with_header(header, &giant).unwrap();
        sent += 1;
        switch.await_received("mallory", sent);
        for guest in [&mut victims.a, &mut victims.b, &mut witness] {
            all(guest);
        }
    }
    assert!(switch.undelivered("witness", "receiver-full") > 0);
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
            // A stream each way, of 32 frames at a time: it goes on at the victims' pace, and no frame of it is lost.
            victims.stream(10_000, 32);
            while switch.books("mallory").received < 100_000 {
                victims.stream(320, 32);
            }
        });
        drop((mallory, witness));
        switch.await_state("mallory", "waiting");
        switch.await_state("witness", "waiting");
    });
}
