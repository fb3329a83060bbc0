//! Descriptors that cannot be closed, and floods of them: what front-ends give costs nobody else anything.

use std::os::fd::{AsFd, BorrowedFd};

use portcullis::guest::wire::{Message, RegionEntry, Request, Wire};

use crate::hostile::{attacked, descriptors};
use crate::rig::{PATIENCE, Switch, frame, hear, mac, until};
use crate::silent::Silent;

/// REPLY_ACK, and MQ and so on are not asked for.
const REPLY_ACK: u64 = 1 << 3;

fn connect(switch: &Switch, port: &str) -> Wire {
    Wire::connect(&switch.socket(port), PATIENCE).unwrap()
}

/// Gives a descriptor to the switch in one of many ways.
type Give = fn(&Wire, BorrowedFd<'_>);

fn as_memory(wire: &Wire, file: BorrowedFd<'_>) {
    let region = RegionEntry {
        gpa: 0,
        size: 4096,
        uva: 0,
        offset: 0,
    };
    wire.send(&Message::mem_table(&[region], vec![file]))
        .unwrap();
}

fn as_a_kick(wire: &Wire, file: BorrowedFd<'_>) {
    wire.send(&Message::u64(Request::SET_PROTOCOL_FEATURES, REPLY_ACK))
        .unwrap();
    let kick = Message::vring_fd(Request::SET_VRING_KICK, 1, Some(file));
    wire.send(&kick.need_reply()).unwrap();
}

fn as_a_surplus(wire: &Wire, file: BorrowedFd<'_>) {
    wire.send(&Message::new(Request::GET_FEATURES).fds(vec![file]))
        .unwrap();
}

fn as_far_too_many(wire: &Wire, file: BorrowedFd<'_>) {
    wire.send(&Message::new(Request::GET_FEATURES).fds(vec![file; 253]))
        .unwrap();
}

fn with_half_a_message(wire: &Wire, file: BorrowedFd<'_>) {
    wire.send_raw(&[1], &[file]).unwrap();
    wire.stream().shutdown(std::net::Shutdown::Both).unwrap();
}

const WAYS: [Give; 5] = [
    as_memory,
    as_a_kick,
    as_a_surplus,
    as_far_too_many,
    with_half_a_message,
];

fn held_up(switch: &Switch) {
    until("word of what holds mallory's port up", || {
        let port = switch.port("mallory");
        let why = port["why"].as_str().unwrap_or_default();
        (port["state"] == "quarantined" && why.contains("cannot be closed")).then_some(())
    });
}

/// P-17: a file whose server never answers, so that whoever closes it waits, and cannot be interrupted.
#[test]
fn p_17_a_descriptor_that_cannot_be_closed_holds_up_its_own_port_only() {
    for give in WAYS {
        attacked(|switch, victims| {
            let Some(silent) = Silent::new() else {
                eprintln!("no FUSE without privilege here: not tried");
                return;
            };
            let mallory = connect(switch, "mallory");
            silent.give(|file| give(&mallory, file));
            // From here on something in the switch hangs, for as long as we like.
            silent.await_close(PATIENCE);
            drop(mallory);
            victims.talk(100);
            held_up(switch);
            // Who comes to that port waits; who comes to others does not.
            let next = connect(switch, "mallory");
            next.send(&Message::new(Request::GET_FEATURES)).unwrap();
            for _ in 0..3 {
                drop(switch.guest("witness", mac(77)));
                switch.await_state("witness", "waiting");
            }
            victims.talk(100);
            held_up(switch);
            drop(silent);
            assert_eq!(
                next.recv().unwrap().request,
                u32::from(Request::GET_FEATURES)
            );
            drop(next);
            switch.await_state("mallory", "waiting");
        });
    }
}

/// P-17: a guest whose port is held up goes on receiving and sending.
#[test]
fn p_17_rings_go_on_while_their_front_end_is_not_heard() {
    attacked(|switch, victims| {
        let Some(silent) = Silent::new() else {
            eprintln!("no FUSE without privilege here: not tried");
            return;
        };
        let mut mallory = switch.guest("mallory", mac(66));
        let mut witness = switch.guest("witness", mac(77));
        let wire = mallory.front_end().unwrap().wire();
        silent.give(|file| {
            let err = Message::vring_fd(Request::SET_VRING_ERR, 1, Some(file));
            wire.send(&err.need_reply()).unwrap();
        });
        silent.await_close(PATIENCE);
        assert_eq!(wire.recv().unwrap().u64().unwrap(), 1, "refused");
        for number in 0..100u64 {
            let there = frame(mac(77), mac(66), &number.to_be_bytes());
            mallory.send(&there).unwrap();
            assert_eq!(hear(&mut witness, mac(66)).bytes, there);
            let back = frame(mac(66), mac(77), &number.to_be_bytes());
            witness.send(&back).unwrap();
            assert_eq!(hear(&mut mallory, mac(77)).bytes, back);
        }
        victims.talk(100);
        drop(witness);
        // Its front-end dies: that is seen, and the port is free as soon as it can be.
        drop(mallory);
        held_up(switch);
        drop(silent);
        switch.await_state("mallory", "waiting");
        switch.await_state("witness", "waiting");
    });
}

/// P-17: the switch stops serving when it is told to; its process can end only when the file can be closed.
#[test]
fn p_17_a_switch_with_a_descriptor_that_cannot_be_closed_stops() {
    let Some(silent) = Silent::new() else {
        eprintln!("no FUSE without privilege here: not tried");
        return;
    };
    let mut switch = Switch::start(&[("a", ""), ("mallory", "")]);
    let mallory = connect(&switch, "mallory");
    silent.give(|file| as_memory(&mallory, file));
    silent.await_close(PATIENCE);
    switch.ask_to_stop();
    until("the sockets gone", || {
        (!switch.socket("mallory").exists() && !switch.socket("control").exists()).then_some(())
    });
    drop(silent);
    switch.await_end();
}

/// P-6: surplus descriptors on one connection, message after message.
#[test]
fn p_6_floods_of_descriptors_are_closed_as_they_come() {
    attacked(|switch, victims| {
        let mallory = connect(switch, "mallory");
        mallory
            .send(&Message::u64(Request::SET_PROTOCOL_FEATURES, REPLY_ACK))
            .unwrap();
        let (pipe, _other) = rustix::pipe::pipe().unwrap();
        mallory
            .send(&Message::new(Request::SET_OWNER).need_reply())
            .unwrap();
        assert_eq!(mallory.recv().unwrap().u64().unwrap(), 0);
        let idle = descriptors(switch);
        for round in 0..1_000 {
            let flood = Message::new(Request::SET_OWNER)
                .fds(vec![pipe.as_fd(); 1 + round % 64])
                .need_reply();
            mallory.send(&flood).unwrap();
            assert_eq!(mallory.recv().unwrap().u64().unwrap(), 1, "refused");
            if round % 100 == 0 {
                victims.talk(5);
            }
            // What came with the last message, and no more.
            assert!(descriptors(switch) <= idle + 64, "round {round}");
        }
        drop(mallory);
        switch.await_state("mallory", "waiting");
    });
}
