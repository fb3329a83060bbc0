//! The order in which each front-end speaks, as a back-end hears it.

use std::{os::unix::net::UnixStream, thread::JoinHandle, time::Duration};

use crate::guest::{
    FrontEnd, Memory, Queue, RingLayout, Script, feature, protocol,
    wire::{Message, NEED_REPLY, REPLY, Request, Wire},
};

const WAIT: Duration = Duration::from_secs(10);

/// A back-end that agrees to everything and writes down what it heard, until the connection ends.
fn agreeable(stream: UnixStream) -> JoinHandle<Vec<(Request, bool, u64)>> {
    std::thread::spawn(move || {
        let wire = Wire::new(stream, WAIT).unwrap();
        let mut heard = Vec::new();
        while let Ok(message) = wire.recv() {
            let request = Request::try_from(message.request).unwrap();
            let wants_reply = message.flags & NEED_REPLY != 0;
            let value = message
                .body
                .first_chunk()
                .map_or(0, |word| u64::from_ne_bytes(*word));
            heard.push((request, wants_reply, value));
            let answer = match request {
                Request::GET_FEATURES => u64::MAX,
                Request::GET_PROTOCOL_FEATURES => {
                    protocol::MQ | protocol::REPLY_ACK | protocol::CONFIGURE_MEM_SLOTS
                }
                Request::GET_QUEUE_NUM => 8,
                Request::GET_MAX_MEM_SLOTS => 509,
                Request::GET_VRING_BASE => value & 0xffff_ffff | 77 << 32,
                _ if wants_reply => 0,
                _ => continue,
            };
            let mut reply = Message::u64(request, answer);
            reply.flags |= REPLY;
            wire.send(&reply).unwrap();
        }
        heard
    })
}

/// What is heard when `script` brings up two queue pairs.
fn heard(script: Script, wanted_protocol: u64) -> Vec<(Request, bool, u64)> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let back_end = agreeable(theirs);
    let mut front_end = FrontEnd::new(Wire::new(ours, WAIT).unwrap());
    front_end
        .negotiate(script, feature::MODERN, wanted_protocol)
        .unwrap();
    let memory = Memory::flat(1 << 20).unwrap();
    let mut queues: Vec<Queue> = (0..4)
        .map(|i| Queue::new(&memory, RingLayout::at(i << 16, 64), front_end.features()).unwrap())
        .collect();
    queues[3].without_call();
    queues[0].ring().set_avail_idx(9).unwrap();
    let setups: Vec<_> = queues
        .iter()
        .enumerate()
        .map(|(i, q)| q.setup(i as u8, 5))
        .collect();
    front_end.start(script, &memory, &setups).unwrap();
    if script != Script::Bare {
        assert_eq!(front_end.get_vring_base(2).unwrap(), 77);
    }
    drop(front_end);
    back_end.join().unwrap()
}

fn position(heard: &[(Request, bool, u64)], request: Request) -> usize {
    heard.iter().position(|(r, ..)| *r == request).unwrap()
}

fn count(heard: &[(Request, bool, u64)], request: Request) -> usize {
    heard.iter().filter(|(r, ..)| *r == request).count()
}

#[test]
fn qemu_enables_first_and_repeats_memory_for_each_pair() {
    let slots = protocol::MQ | protocol::REPLY_ACK | protocol::CONFIGURE_MEM_SLOTS;
    let heard = heard(Script::Qemu, slots);
    let last_enable = heard
        .iter()
        .rposition(|(r, ..)| *r == Request::SET_VRING_ENABLE)
        .unwrap();
    assert!(last_enable < position(&heard, Request::SET_FEATURES));
    assert!(position(&heard, Request::SET_VRING_CALL) < last_enable);
    assert!(position(&heard, Request::SET_OWNER) > position(&heard, Request::GET_FEATURES));
    assert_eq!(count(&heard, Request::ADD_MEM_REG), 2);
    assert_eq!(count(&heard, Request::SET_MEM_TABLE), 0);
    assert!(
        heard
            .iter()
            .all(|(r, wants, _)| *wants == (*r == Request::ADD_MEM_REG))
    );
}

#[test]
fn cloud_hypervisor_wants_an_answer_to_everything_and_gives_the_avail_index() {
    let heard = heard(Script::CloudHypervisor, protocol::MQ | protocol::REPLY_ACK);
    let agreed = position(&heard, Request::SET_PROTOCOL_FEATURES);
    assert!(heard[agreed + 1..].iter().all(|(_, wants, _)| *wants));
    let bases: Vec<u64> = heard
        .iter()
        .filter(|(r, ..)| *r == Request::SET_VRING_BASE)
        .map(|(.., value)| value >> 32)
        .collect();
    assert_eq!(bases, [9, 0, 0, 0]);
    assert_eq!(
        count(&heard, Request::SET_VRING_CALL),
        3,
        "one has no vector"
    );
    let first_enable = position(&heard, Request::SET_VRING_ENABLE);
    let last_kick = heard
        .iter()
        .rposition(|(r, ..)| *r == Request::SET_VRING_KICK)
        .unwrap();
    assert!(last_kick < first_enable);
}

#[test]
fn modern_sets_up_each_ring_and_then_enables_it() {
    let heard = heard(Script::Modern, protocol::MQ | protocol::REPLY_ACK);
    assert_eq!(heard[0].0, Request::SET_OWNER);
    assert_eq!(count(&heard, Request::SET_MEM_TABLE), 1);
    assert_eq!(count(&heard, Request::SET_VRING_ENABLE), 4);
    assert!(
        position(&heard, Request::SET_VRING_KICK) < position(&heard, Request::SET_VRING_ENABLE)
    );
    let base = heard[position(&heard, Request::SET_VRING_BASE)].2;
    assert_eq!(base >> 32, 5);
}

#[test]
fn bare_knows_nothing_of_protocol_features() {
    let heard = heard(Script::Bare, u64::MAX);
    for request in [
        Request::GET_PROTOCOL_FEATURES,
        Request::SET_PROTOCOL_FEATURES,
        Request::SET_VRING_ENABLE,
        Request::ADD_MEM_REG,
    ] {
        assert_eq!(count(&heard, request), 0, "{request:?}");
    }
    assert_eq!(count(&heard, Request::SET_VRING_KICK), 4);
}
