//! Front-ends that die, that come in floods, and that take their memory away over and over: their own port pays. By the names
//! of the threat model.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use portcullis::guest::{Guest, Shape, VnetHeader};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::hostile::{Ends, attacked, attacked_on, descriptors};
use crate::rig::{PATIENCE, Switch, Victims, expect, frame, hear, long, mac, until};
use crate::rings::pour;

/// Declared, so that nothing is flooded when it has gone.
const DECLARED: &str = "mac = \"52:54:00:00:00:42\"";
const PORTS: [(&str, &str); 4] = [("a", ""), ("b", ""), ("mallory", DECLARED), ("witness", "")];

/// Names the socket to the process that plays the front-end.
const CHILD: &str = "PORTCULLIS_TEST_FRONT_END";
/// More than the frames that are sent to it.
const RING: u16 = 16_384;
const QUEUED: u64 = 10_000;

/// A process of its own, killed with the test.
struct FrontEnd(Child);

impl FrontEnd {
    /// Has this test program play [`flooding_front_end`] at a port.
    fn start(switch: &Switch) -> Self {
        let before = (events(switch, "connections"), received(switch));
        let test = "departing::p_31_a_front_end_killed_with_frames_on_their_way";
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--test-threads=1"])
            .env(CHILD, switch.socket("mallory"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let front_end = Self(child);
        until("what the front-end sends", || {
            let now = (events(switch, "connections"), received(switch));
            (now.0 > before.0 && now.1 > before.1).then_some(())
        });
        front_end
    }

    fn kill(&mut self) {
        let _ = self.0.kill();
        self.0.wait().unwrap();
    }
}

impl Drop for FrontEnd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whether the switch has closed the connection.
fn is_cut(guest: &Guest) -> bool {
    let wire = guest.front_end().unwrap().wire();
    wire.wait_closed_for(Duration::ZERO).unwrap()
}

/// Sends all the time and takes nothing, until it is killed or the switch has gone.
fn flooding_front_end(socket: &Path) {
    let builder = Guest::builder().mac(mac(66)).ring_size(RING);
    let mut guest = builder.timeout(PATIENCE).connect(socket).unwrap();
    let bytes = frame(mac(77), mac(66), b"from a process");
    while !is_cut(&guest) {
        for _ in 0..1_000 {
            let header = VnetHeader::default();
            let queued = guest.queue_frame(0, header, &bytes, &Shape::Together);
            if queued.is_err() {
                break;
            }
        }
        guest.flush(0).unwrap();
    }
}

fn events(switch: &Switch, key: &str) -> u64 {
    let events = &switch.port("mallory")["counters"]["events"];
    events[key].as_u64().unwrap()
}

/// While it floods, its books need not balance.
fn received(switch: &Switch) -> u64 {
    let ingress = &switch.port("mallory")["counters"]["ingress"];
    ingress["received"].as_u64().unwrap()
}

/// P-31: a process that is killed with its rings running, frames of its own on their way and ten thousand on their way to it:
/// before they are let go, at once after, and in the midst of them.
#[test]
fn p_31_a_front_end_killed_with_frames_on_their_way() {
    if let Some(socket) = std::env::var_os(CHILD) {
        return flooding_front_end(Path::new(&socket));
    }
    attacked_on(&PORTS, |switch, victims| {
        let builder = Guest::builder().mac(mac(77)).ring_size(RING);
        let mut witness = switch.plug("witness", builder);
        witness.send(&frame(mac(0xa), mac(77), b"here")).unwrap();
        expect(&mut victims.a);
        for round in 0..6 {
            let mut front_end = FrontEnd::start(switch);
            assert_eq!(switch.port("mallory")["peer"]["pid"], front_end.0.id());
            let before = (switch.books("witness"), delivered(switch));
            for number in 0..QUEUED {
                let bytes = frame(mac(66), mac(77), &number.to_be_bytes());
                let header = VnetHeader::default();
                witness
                    .queue_frame(0, header, &bytes, &Shape::Together)
                    .unwrap();
            }
            match round % 3 {
                0 => {
                    front_end.kill();
                    witness.flush(0).unwrap();
                }
                1 => {
                    witness.flush(0).unwrap();
                    front_end.kill();
                }
                _ => {
                    witness.flush(0).unwrap();
                    until("the first of them", || {
                        (witness.tx(0).pending().unwrap() > 0).then_some(())
                    });
                    front_end.kill();
                }
            }
            victims.talk(20);
            assert!(witness.drain(PATIENCE).unwrap());
            switch.await_state("mallory", "waiting");
            // Each of them is in the books, on both sides: delivered to memory that nobody has any more, or lost.
            let after = (switch.books("witness"), delivered(switch));
            assert_eq!(after.0.received - before.0.received, QUEUED);
            let forwarded = after.0.forwarded - before.0.forwarded;
            assert_eq!(forwarded, after.1 - before.1, "round {round}");
            let mallory = switch.books("mallory");
            assert_eq!(mallory.received, mallory.forwarded + mallory.dropped);
        }
        // To be killed is no fault, and the next one need not wait.
        assert_eq!(events(switch, "faults"), 0);
        drop(witness);
        switch.await_state("witness", "waiting");
    });
}

fn delivered(switch: &Switch) -> u64 {
    switch.books("mallory").delivered
}

/// P-14: memory that is cut and given back without end, on four ports at once that connect again and again, beside ports with
/// all the traffic they can carry: two faults of each, a minute under `./test --long`.
#[test]
fn p_14_memory_cut_and_given_back_without_end() {
    const MALLORIES: [&str; 4] = ["mallory", "m1", "m2", "m3"];
    let declared: Vec<_> = (66..70)
        .map(|n| format!("mac = \"52:54:00:00:00:{n:02x}\""))
        .collect();
    let mut ports = vec![("a", ""), ("b", ""), ("witness", ""), ("sink", "")];
    ports.extend(
        MALLORIES
            .iter()
            .copied()
            .zip(declared.iter().map(String::as_str)),
    );
    attacked_on(&ports, |switch, victims| {
        let mut witness = switch.guest("witness", mac(77));
        let mut sink = switch.guest("sink", mac(78));
        sink.send(&frame(mac(0xa), mac(78), b"here")).unwrap();
        hear(&mut victims.a, mac(78));
        let over = AtomicBool::new(false);
        let begun = Instant::now();
        std::thread::scope(|scope| {
            let _ends = Ends(&over);
            for (name, n) in MALLORIES.into_iter().zip(66..) {
                let over = &over;
                scope.spawn(move || cut_and_connect(switch, name, n, over));
            }
            // To each of them, and to one that can take it.
            scope.spawn(|| {
                let to: Vec<_> = (66..70).chain([78]).map(mac).collect();
                pour(&mut witness, &to, &over);
            });
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    sink.recv(Duration::from_millis(1)).unwrap();
                }
            });
            let faults = |name: &str| {
                let events = &switch.port(name)["counters"]["events"];
                events["faults"].as_u64().unwrap()
            };
            let is_enough = || {
                if long() {
                    begun.elapsed() >= Duration::from_secs(60)
                } else {
                    MALLORIES.iter().all(|name| faults(name) >= 2)
                }
            };
            let mut rounds = 0;
            while rounds < 10 || !is_enough() {
                victims.stream(320, 32);
                rounds += 1;
                assert!(long() || begun.elapsed() < 4 * PATIENCE, "too few faults");
            }
        });
        let books = switch.books("witness");
        assert_eq!(books.received, books.forwarded + books.dropped);
        for name in ["a", "b", "witness", "sink"] {
            let events = &switch.port(name)["counters"]["events"];
            assert_eq!(
                (&events["faults"], &events["connections"]),
                (&0.into(), &1.into())
            );
        }
        drop((witness, sink));
        for name in MALLORIES.into_iter().chain(["witness", "sink"]) {
            until("the ports free, or looking away", || {
                let port = switch.port(name);
                (port["state"] != "running" && port["peer"].is_null()).then_some(())
            });
        }
    });
}

/// One port of it. The guest's own mapping is not looked at once the cutting has begun: all is offered before, and only the
/// eventfd is used after.
fn cut_and_connect(switch: &Switch, name: &str, n: u8, over: &AtomicBool) {
    // A port that has had faults looks away for a while, and who connects waits.
    let builder = Guest::builder().mac(mac(n)).timeout(2 * PATIENCE);
    while !over.load(Ordering::Relaxed) {
        let Ok(mut guest) = builder.clone().connect(switch.socket(name)) else {
            // It was given up for what the last one had done.
            continue;
        };
        let bytes = frame(mac(78), mac(n), &[n; 1000]);
        for _ in 0..200 {
            let header = VnetHeader::default();
            guest
                .queue_frame(0, header, &bytes, &Shape::Together)
                .unwrap();
        }
        guest.flush(0).unwrap();
        let memory = guest.memory().clone();
        let whole = memory.regions().map(|region| region.size).sum();
        let rings = guest.tx(0).ring().layout().end().next_multiple_of(4096);
        for turn in 0u64.. {
            let left = [0, 4096, rings][turn as usize % 3];
            memory.file(0).set_len(left).unwrap();
            guest.tx(0).kick_event().signal().unwrap();
            memory.file(0).set_len(whole).unwrap();
            let is_gone = turn % 16 == 15 && is_cut(&guest);
            // Memory that came back as zeros makes a ring that stands still, and no more faults: another connection.
            if is_gone || turn == 2_000 || over.load(Ordering::Relaxed) {
                break;
            }
        }
    }
}

/// A connection, if there is room in the queue of those who wait.
fn knock(path: &Path) -> Option<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
    match connect(&socket, &SocketAddrUnix::new(path).unwrap()) {
        Ok(()) => Some(socket),
        Err(Errno::AGAIN) => None,
        Err(errno) => panic!("{errno}"),
    }
}

/// What is told of a connection that is closed from the other side.
fn hears_the_end(socket: &OwnedFd) -> bool {
    matches!(
        rustix::io::read(socket, &mut [0u8; 1]),
        Ok(0) | Err(Errno::CONNRESET)
    )
}

/// P-29: ten thousand connections to a port in use, as many as a thousand of them at once: its guest keeps it, and talks. Under
/// `./test --long` ten thousand that are taken, which takes as many times ten milliseconds.
#[test]
fn p_29_a_flood_of_connections_to_a_port_in_use() {
    attacked(|switch, victims| {
        let mut owner = switch.guest("mallory", mac(66));
        let mut number = 0u64;
        let mut talk = |victims: &mut Victims| {
            number += 1;
            let bytes = frame(mac(0xa), mac(66), &number.to_be_bytes());
            owner.send(&bytes).unwrap();
            assert_eq!(hear(&mut victims.a, mac(66)).bytes, bytes);
            victims.talk(2);
        };
        talk(victims);
        let path = switch.socket("mallory");
        let idle = descriptors(switch);
        let refused = || events(switch, "connections_refused");
        let mut taken = 0;
        for turn in 1..u64::MAX {
            taken += u64::from(knock(&path).is_some());
            if turn % 500 == 0 {
                talk(victims);
                // The one that is being looked at, and those that wait to be closed.
                assert!(descriptors(switch) <= idle + 20);
            }
            if turn >= 10_000 && (!long() || taken >= 10_000) {
                break;
            }
        }
        let held: Vec<_> = (0..1_000).map(|_| knock(&path)).collect();
        let held: Vec<_> = held.into_iter().flatten().collect();
        taken += held.len() as u64;
        // The other ports' sockets answer meanwhile.
        for _ in 0..3 {
            drop(switch.guest("witness", mac(77)));
            switch.await_state("witness", "waiting");
            talk(victims);
        }
        let second = until("room in the queue", || knock(&path));
        taken += 1;
        until("its end", || hears_the_end(&second).then_some(()));
        until("all of them refused", || (refused() == taken).then_some(()));
        assert!(held.iter().all(hears_the_end));
        talk(victims);
        // The guest's, and the one of the guest before the attack.
        assert_eq!(events(switch, "connections"), 2);
        assert_eq!(events(switch, "faults"), 0);
        drop(owner);
        switch.await_state("mallory", "waiting");
    });
}

/// P-29: a thousand that connect to a free port at once and say nothing. One has it, for five seconds at most; when they are gone a
/// guest gets it, and the others never lost theirs.
#[test]
fn p_29_idle_connections_hold_their_own_port_alone() {
    attacked(|switch, victims| {
        let path = switch.socket("mallory");
        let held: Vec<_> = (0..1_000).filter_map(|_| knock(&path)).collect();
        assert!(held.len() > 10, "{}", held.len());
        until("one of them let in", || {
            (switch.port("mallory")["state"] == "negotiating").then_some(())
        });
        let idle = descriptors(switch);
        for _ in 0..3 {
            drop(switch.guest("witness", mac(77)));
            switch.await_state("witness", "waiting");
            victims.talk(20);
        }
        assert!(descriptors(switch) <= idle + 20);
        drop(held);
        drop(switch.guest("mallory", mac(66)));
        switch.await_state("mallory", "waiting");
        assert_eq!(events(switch, "faults"), 0);
    });
}
