//! The raw socket: what goes out, what comes in, and how long we wait.

use std::{
    os::{fd::AsFd, unix::net::UnixStream},
    time::Duration,
};

use crate::guest::{
    Error, Event,
    wire::{MOST_FDS, Message, NEED_REPLY, REPLY, Request, VERSION, Wire},
};

const SOON: Duration = Duration::from_millis(20);

fn pair() -> (Wire, Wire) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (
        Wire::new(ours, SOON).unwrap(),
        Wire::new(theirs, SOON).unwrap(),
    )
}

#[test]
fn a_message_arrives_with_its_descriptors() {
    let (ours, theirs) = pair();
    let event = Event::new().unwrap();
    ours.send(&Message::vring_fd(
        Request::SET_VRING_KICK,
        3,
        Some(event.as_fd()),
    ))
    .unwrap();
    let mut got = theirs.recv().unwrap();
    assert_eq!(got.request, u32::from(Request::SET_VRING_KICK));
    assert_eq!(got.flags, VERSION);
    assert_eq!(got.u64().unwrap(), 3);
    let fd = got.fds.pop().unwrap();
    rustix::io::write(&fd, &1u64.to_ne_bytes()).unwrap();
    assert_eq!(event.take().unwrap(), 1, "it is the same counter");
}

#[test]
fn every_field_can_lie() {
    let mut message = Message::u64(Request::SET_FEATURES, 7).need_reply();
    message.request = 0xdead;
    message.flags |= 0x70;
    message.size = Some(u32::MAX);
    let bytes = message.bytes();
    assert_eq!(bytes.len(), 20);
    assert_eq!(bytes[..4], 0xdeadu32.to_ne_bytes());
    assert_eq!(bytes[4..8], (VERSION | NEED_REPLY | 0x70).to_ne_bytes());
    assert_eq!(bytes[8..12], [0xff; 4]);
}

#[test]
fn as_many_descriptors_as_the_kernel_takes() {
    let (ours, theirs) = pair();
    let event = Event::new().unwrap();
    let fds = vec![event.as_fd(); MOST_FDS];
    ours.send_raw(&[1; 12], &fds).unwrap();
    let (n, got) = theirs.recv_raw(&mut [0; 12]).unwrap();
    assert_eq!((n, got.len()), (12, MOST_FDS));
    let fds = vec![event.as_fd(); MOST_FDS + 1];
    assert!(matches!(ours.send_raw(&[1], &fds), Err(Error::Io { .. })));
}

#[test]
fn silence_and_the_end_are_told_apart() {
    let (ours, theirs) = pair();
    assert!(matches!(ours.recv(), Err(Error::Timeout { .. })));
    assert!(!ours.wait_closed().unwrap());
    drop(theirs);
    assert!(ours.wait_closed().unwrap());
    assert!(matches!(ours.recv(), Err(Error::Closed { .. })));
    let message = Message::new(Request::GET_FEATURES);
    assert!(matches!(ours.call(&message), Err(Error::Closed { .. })));
}

#[test]
fn only_the_reply_to_the_request_is_taken() {
    for (request, flags, good) in [
        (Request::GET_FEATURES, VERSION | REPLY, true),
        (Request::GET_FEATURES, VERSION, false),
        (Request::GET_FEATURES, 2 | REPLY, false),
        (Request::GET_QUEUE_NUM, VERSION | REPLY, false),
    ] {
        let (ours, theirs) = pair();
        let mut reply = Message::u64(request, 5);
        reply.flags = flags;
        theirs.send(&reply).unwrap();
        let got = ours.call(&Message::new(Request::GET_FEATURES));
        assert_eq!(got.is_ok(), good, "{request:?} {flags:#x}");
    }
}

#[test]
fn a_refusal_names_its_code() {
    let (ours, theirs) = pair();
    let mut reply = Message::u64(Request::SET_FEATURES, 22);
    reply.flags |= REPLY;
    theirs.send(&reply).unwrap();
    let refusal = ours.acknowledged(Message::u64(Request::SET_FEATURES, 0));
    assert!(matches!(refusal, Err(Error::Refused { code: 22, .. })));
    assert_eq!(
        theirs.recv().unwrap().flags,
        VERSION | NEED_REPLY,
        "an acknowledgement was asked for"
    );
}
