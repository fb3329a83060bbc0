//! Front-ends that talk nonsense, or slowly, or not at all: each costs its own connection, and nobody else anything.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use portcullis::guest::wire::{Message, RegionEntry, Request, Wire};
use portcullis::guest::{Event, Memory, protocol};

use crate::hostile::{attacked, attacked_on};
use crate::rig::{PATIENCE, Switch, Victims, expect, frame, mac, until};

/// One thing that ends a connection.
type Say = fn(&Wire);

fn negotiate(wire: &Wire) {
    let agreed = protocol::REPLY_ACK | protocol::CONFIGURE_MEM_SLOTS;
    wire.send(&Message::u64(Request::SET_PROTOCOL_FEATURES, agreed))
        .unwrap();
}

fn header(request: u32, flags: u32, size: u32) -> Vec<u8> {
    [request, flags, size].map(u32::to_ne_bytes).concat()
}

fn raw(wire: &Wire, bytes: &[u8]) {
    // Who is cut off in the middle of his sentence cannot finish it.
    let _ = wire.send_raw(bytes, &[]);
}

/// One region of a memory file of `size` bytes, declared as `region`.
fn share(wire: &Wire, size: u64, region: RegionEntry) {
    let memory = Memory::flat(size).unwrap();
    let fds: Vec<BorrowedFd<'_>> = memory.fds();
    wire.send(&Message::mem_table(&[region], vec![fds[0]]))
        .unwrap();
}

const SIZE: u64 = 0x20_0000;
const WHOLE: RegionEntry = RegionEntry {
    gpa: 0,
    size: SIZE,
    uva: 0x7000_0000_0000,
    offset: 0,
};

const NONSENSE: [(&str, Say); 26] = [
    ("P-1: a size of 4097", |w| raw(w, &header(3, 1, 4097))),
    ("P-1: a size of 2^31", |w| raw(w, &header(3, 1, 1 << 31))),
    ("P-1: a size of 2^32-1", |w| raw(w, &header(3, 1, u32::MAX))),
    ("P-1: a body behind what the size says", |w| {
        raw(w, &[header(3, 1, 0), vec![0; 16]].concat());
    }),
    ("P-1: a body too short for its request", |w| {
        raw(w, &[header(8, 1, 4), vec![0; 4]].concat());
    }),
    ("P-2: request 0", |w| raw(w, &header(0, 1, 0))),
    ("P-2: request 47", |w| raw(w, &header(47, 1, 0))),
    ("P-2: request 255", |w| raw(w, &header(255, 1, 0))),
    ("P-2: request 2^31", |w| raw(w, &header(1 << 31, 1, 0))),
    ("P-2: version 0", |w| raw(w, &header(1, 0, 0))),
    ("P-2: version 2", |w| raw(w, &header(1, 2, 0))),
    ("P-2: the bit of a reply", |w| raw(w, &header(1, 5, 0))),
    ("P-2: a reserved bit", |w| {
        raw(w, &header(1, 1 | 1 << 31, 0))
    }),
    ("P-4: a descriptor with the body of what takes none", |w| {
        let event = Event::new().unwrap();
        let whole = [header(8, 1, 8), vec![0; 8]].concat();
        w.send_raw(&whole[..13], &[]).unwrap();
        w.send_raw(&whole[13..], &[event.as_fd(); 2]).unwrap();
        raw(w, &header(0, 1, 0));
    }),
    ("P-5: two regions and one descriptor", |w| {
        let memory = Memory::flat(SIZE).unwrap();
        let half = SIZE / 2;
        let regions = [0, half].map(|at| RegionEntry {
            gpa: at,
            size: half,
            uva: WHOLE.uva + at,
            offset: at,
        });
        w.send(&Message::mem_table(&regions, memory.fds())).unwrap();
    }),
    ("P-5: a kick without its descriptor", |w| {
        let kick = Message::u64(Request::SET_VRING_KICK, 0);
        w.send(&kick).unwrap();
    }),
    ("P-5: no descriptor, it says, and one comes", |w| {
        let event = Event::new().unwrap();
        let kick = Message::u64(Request::SET_VRING_KICK, 0x100).fds(vec![event.as_fd()]);
        w.send(&kick).unwrap();
    }),
    ("P-6: 253 descriptors", |w| {
        let event = Event::new().unwrap();
        let flood = Message::new(Request::GET_FEATURES).fds(vec![event.as_fd(); 253]);
        w.send(&flood).unwrap();
    }),
    ("P-8: the base of ring 255", |w| {
        w.send(&Message::state(Request::GET_VRING_BASE, 255, 0))
            .unwrap();
    }),
    ("P-12: a file of no bytes", |w| {
        let memory = Memory::flat(SIZE).unwrap();
        memory.file(0).set_len(0).unwrap();
        w.send(&Message::mem_table(&[WHOLE], memory.fds())).unwrap();
    }),
    ("P-12: a file one page short", |w| {
        share(
            w,
            SIZE,
            RegionEntry {
                offset: 4096,
                ..WHOLE
            },
        );
    }),
    ("P-18: 8 EiB", |w| {
        let size = 1 << 62;
        share(w, SIZE, RegionEntry { size, ..WHOLE });
    }),
    ("P-18: a region around the end of addresses", |w| {
        let gpa = u64::MAX - 4095;
        share(w, SIZE, RegionEntry { gpa, ..WHOLE });
    }),
    ("P-18: a region of no bytes", |w| {
        share(w, SIZE, RegionEntry { size: 0, ..WHOLE });
    }),
    ("P-23: features that nobody offered", |w| {
        w.send(&Message::u64(Request::SET_FEATURES, 1 << 63))
            .unwrap();
    }),
    (
        "P-23: what belongs to a feature that was not agreed on",
        |w| {
            w.send(&Message::u64(
                Request::SET_PROTOCOL_FEATURES,
                protocol::REPLY_ACK,
            ))
            .unwrap();
            w.send(&Message::new(Request::GET_STATUS)).unwrap();
        },
    ),
];

/// Names of as many ports, each a target of its own: who repeats a violation has to wait for his port.
fn targets(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("m{n}")).collect()
}

/// P-1, P-2, P-4 to P-6, P-8, P-12, P-18, P-23: the connection ends, the port counts one fault, and serves the next.
#[test]
fn p_1_to_p_23_nonsense_ends_its_own_connection_only() {
    let names = targets(NONSENSE.len());
    let mut ports = vec![("a", ""), ("b", ""), ("mallory", "")];
    ports.extend(names.iter().map(|name| (name.as_str(), "")));
    attacked_on(&ports, |switch, victims| {
        let faults = |name: &str| switch.port(name)["counters"]["events"]["faults"].clone();
        for ((what, say), name) in NONSENSE.iter().zip(&names) {
            let wire = Wire::connect(&switch.socket(name), PATIENCE).unwrap();
            // Said by somebody who had agreed on something, so that each arrives where it is judged.
            if !what.starts_with("P-23: what belongs") {
                negotiate(&wire);
            }
            say(&wire);
            victims.talk(2);
            assert!(wire.wait_closed_for(PATIENCE).unwrap(), "{what}");
            switch.await_state(name, "waiting");
            assert_eq!(faults(name), 1, "{what}: {}", switch.port(name));
        }
        for (name, number) in names.iter().zip(100..) {
            let mut next = switch.guest(name, mac(number));
            next.send(&frame(mac(0xa), mac(number), b"well")).unwrap();
            assert_eq!(
                expect(&mut victims.a).bytes,
                frame(mac(0xa), mac(number), b"well")
            );
            drop(next);
            switch.await_state(name, "waiting");
        }
        assert_eq!((faults("a"), faults("b")), (0.into(), 0.into()));
    });
}

/// P-3: messages that come a byte at a time, that stop amid their header, and that break off amid their body.
#[test]
fn p_3_who_dribbles_or_stalls_delays_nobody_else() {
    let names = targets(24);
    let mut ports = vec![("a", ""), ("b", ""), ("mallory", "")];
    ports.extend(names.iter().map(|name| (name.as_str(), "")));
    attacked_on(&ports, |switch, victims| {
        let connect = |name: &String| {
            let wire = Wire::connect(&switch.socket(name), PATIENCE).unwrap();
            // So that it is the half of a message that is waited for, not the first one.
            wire.send(&Message::new(Request::GET_FEATURES)).unwrap();
            wire.recv().unwrap();
            wire
        };
        let wires: Vec<Wire> = names.iter().map(connect).collect();
        let (dribble, stall, part) = (&wires[..8], &wires[8..16], &wires[16..]);
        let whole = Message::u64(Request::SET_FEATURES, 1 << 32).bytes();
        for (at, byte) in whole.iter().enumerate() {
            for wire in dribble {
                wire.send_raw(&[*byte], &[]).unwrap();
            }
            for (wire, number) in stall.iter().zip(1..) {
                if at < number {
                    wire.send_raw(&[*byte], &[]).unwrap();
                }
            }
            for wire in part {
                if at < 15 {
                    wire.send_raw(&[*byte], &[]).unwrap();
                }
            }
            victims.talk(20);
        }
        // What was whole in the end was served.
        for wire in dribble {
            wire.send(&Message::new(Request::GET_FEATURES)).unwrap();
            assert_eq!(
                wire.recv().unwrap().request,
                u32::from(Request::GET_FEATURES)
            );
        }
        for wire in part {
            wire.stream().shutdown(std::net::Shutdown::Both).unwrap();
        }
        // What never becomes whole is waited for five seconds, in which everybody else goes on.
        for (wire, name) in stall.iter().zip(&names[8..16]) {
            while !wire.wait_closed_for(Duration::ZERO).unwrap() {
                victims.talk(10);
            }
            let fault = switch.port(name)["last_fault"].clone();
            assert!(fault.as_str().unwrap().contains("not finished"), "{fault}");
        }
        drop(wires);
        for name in &names {
            switch.await_state(name, "waiting");
        }
    });
}

/// Entries in all epoll sets of the switch (`proc(5)`: fdinfo of an epoll).
fn watched(switch: &Switch) -> usize {
    let dir = format!("/proc/{}/fdinfo", switch.pid());
    std::fs::read_dir(dir)
        .unwrap()
        .filter_map(|entry| std::fs::read_to_string(entry.unwrap().path()).ok())
        .map(|info| info.lines().filter(|line| line.starts_with("tfd:")).count())
        .sum()
}

/// P-24: kick and call are replaced again and again on live rings, and the old ones, which the front-end still holds, are
/// signalled: the switch watches no more than before, and the newest kick is the one that counts.
#[test]
fn p_24_replaced_kicks_are_watched_no_more() {
    attacked(|switch, victims| {
        let mut mallory = switch.guest("mallory", mac(66));
        let talk = |guest: &mut portcullis::guest::Guest, victims: &mut Victims, number: u64| {
            let bytes = frame(mac(0xa), mac(66), &number.to_be_bytes());
            guest.send(&bytes).unwrap();
            assert_eq!(expect(&mut victims.a).bytes, bytes);
        };
        talk(&mut mallory, victims, 0);
        let (before, fds) = (watched(switch), crate::hostile::descriptors(switch));
        let mut old = Vec::new();
        for round in 1..=200 {
            let (kick, call) = (Event::new().unwrap(), Event::new().unwrap());
            let front = mallory.front_end().unwrap();
            for ring in [0, 1] {
                front.set_vring_kick(ring, Some(&kick)).unwrap();
                front.set_vring_call(ring, Some(&call)).unwrap();
            }
            old.extend([kick, call]);
            for event in &old {
                event.signal().unwrap();
            }
            if round % 20 == 0 {
                victims.talk(2);
            }
        }
        let front = mallory.front_end().unwrap();
        for (ring, kick) in [(0, None), (1, Some(()))] {
            front.set_vring_call(ring, None).unwrap();
            if kick.is_none() {
                front.set_vring_kick(ring, None).unwrap();
            }
        }
        let kick = mallory.tx(0).kick_event().try_clone().unwrap();
        let front = mallory.front_end().unwrap();
        front.set_vring_kick(1, Some(&kick)).unwrap();
        front.sync().unwrap();
        until("no more watched than before", || {
            (watched(switch) <= before && crate::hostile::descriptors(switch) <= fds).then_some(())
        });
        let kicks = |switch: &Switch| {
            let events = &switch.port("mallory")["counters"]["events"];
            events["kicks"].as_u64().unwrap()
        };
        let counted = kicks(switch);
        for event in &old {
            event.signal().unwrap();
        }
        victims.talk(20);
        // There are two hundred of the old ones, on two rings each. Of the new one a signal may have been under way still.
        let heard = kicks(switch) - counted;
        assert!(heard <= 1, "{heard} old kicks still wake");
        for number in 1..20 {
            talk(&mut mallory, victims, number);
        }
        drop((mallory, old));
        switch.await_state("mallory", "waiting");
    });
}
