//! What one visit may come to when its frames go to many, by the books of the ports (F-5).

use super::*;
use crate::datapath::budget::{ASKED, COPIED, FLOODED};

fn long_frame(dst: [u8; 6], number: u8, len: usize) -> Vec<u8> {
    let mut bytes = frame(dst, 0, number);
    bytes.resize(len, number);
    bytes
}

/// Frames and bytes that went to these ports.
fn delivered(crank: &Crank, ports: std::ops::Range<u16>) -> (u64, u64) {
    let egress = ports.map(|index| books(crank, index).egress);
    egress.fold((0, 0), |(frames, bytes), egress| {
        (frames + egress.delivered, bytes + egress.delivered_bytes)
    })
}

/// The frames behind are taken when it is the ring's turn again: in order, each judged, paid for and given back once.
#[test]
fn f_5_floods_end_the_visit_that_they_come_to_too_much_for() {
    const RECEIVERS: u16 = 31;
    const LEN: u32 = 1514;
    let limited = PortPolicy {
        limits: LimitSpec {
            send_frames: Rate {
                per_second: 1,
                burst: 31,
            },
            ..LimitSpec::default()
        },
        ..free()
    };
    let ports = std::iter::once(limited).chain((0..RECEIVERS).map(|_| free()));
    let (mut crank, mut guests) = switch_under(&[BASIC; 32], ports.collect());
    let frames: Vec<_> = (0..31)
        .map(|number| long_frame(BROADCAST, number, LEN as usize))
        .collect();
    for bytes in &frames {
        guests[0].send([0; 12], bytes);
    }
    // And a chain that is none: one of the device's.
    guests[0].send([0; 12], &frames[0]);
    let wrong = Descriptor {
        addr: TX_BUFFERS,
        len: 64,
        flags: 2,
        next: 0,
    };
    guests[0].tx.set_desc(31, wrong).unwrap();

    let one = u32::from(RECEIVERS) * (ASKED + LEN);
    let first = FLOODED.div_ceil(one);
    assert!((10..30).contains(&first));
    assert_eq!(turn(&mut crank, 0), Some(first));
    assert!(crank.rounds_in_debt() > 0);
    let (_, bytes) = delivered(&crank, 1..32);
    assert!(bytes < u64::from(FLOODED + one), "{bytes}");
    assert_eq!(u32::from(guests[0].tx.used_idx().unwrap()), first);
    let sender = books(&crank, 0);
    assert_eq!(sender.ingress.received, u64::from(first));
    assert_eq!(sender.ingress.received_bytes, u64::from(first * LEN));
    assert_eq!(sender.events.malformed_chains, 0);

    assert_eq!(turn(&mut crank, 0), Some(32 - first));
    assert_eq!(turn(&mut crank, 0), Some(0));
    assert_eq!(guests[0].tx.used_idx().unwrap(), 32);
    for guest in &guests[1..] {
        let got = guest.received();
        assert!(got.iter().map(|frame| &frame[12..]).eq(frames.iter()));
    }
    let sender = books(&crank, 0);
    assert_eq!(
        (sender.ingress.received, sender.ingress.forwarded),
        (32, 31)
    );
    assert_eq!(sender.ingress.dropped.get(DropReason::MalformedChain), 1);
    assert_eq!(sender.events.malformed_chains, 1);

    // Paid for once: the limit was met by these frames and not before.
    guests[0].send([0; 12], &frames[0]);
    assert_eq!(turn(&mut crank, 0), Some(1));
    let dropped = books(&crank, 0).ingress.dropped;
    assert_eq!(dropped.get(DropReason::SendRate), 1);
}

#[test]
fn f_5_to_ask_many_that_refuse_ends_a_visit_too() {
    const RECEIVERS: u16 = 199;
    let deaf = PortPolicy {
        inbound: list(vec![Rule::any(Action::Deny)]),
        ..free()
    };
    let ports = std::iter::once(free()).chain((0..RECEIVERS).map(|_| deaf.clone()));
    let (mut crank, mut guests) = switch_under(&[BASIC; 200], ports.collect());
    for number in 0..32 {
        guests[0].send([0; 12], &frame(BROADCAST, 0, number));
    }
    let first = FLOODED.div_ceil(u32::from(RECEIVERS) * ASKED);
    assert!((10..30).contains(&first));
    assert_eq!(turn(&mut crank, 0), Some(first));
    assert_eq!(turn(&mut crank, 0), Some(32 - first));
    let ingress = books(&crank, 0).ingress;
    assert_eq!(ingress.dropped.get(DropReason::DeniedInbound), 32);
}

#[test]
fn f_5_frames_to_one_port_never_end_a_visit() {
    let (mut crank, mut guests) = switch(&[BASIC; 3]);
    guests[1].send([0; 12], &frame(BROADCAST, 1, 0));
    assert_eq!(turn(&mut crank, 1), Some(1));
    for number in 0..32 {
        guests[0].send([0; 12], &long_frame(mac(1), number, 4000));
    }
    assert_eq!(turn(&mut crank, 0), Some(32));
    assert_eq!(delivered(&crank, 1..2), (32, 32 * 4000));
}

/// One frame is not divided among visits, and so it is bounded by itself.
#[test]
fn f_5_a_giant_to_hundreds_is_copied_as_often_as_one_visit_may_copy() {
    const LEN: u64 = 65_000;
    const PORTS: u16 = 300;
    let (mut crank, mut guests) = switch(&[BASIC; PORTS as usize]);
    guests[1].send([0; 12], &frame(BROADCAST, 1, 0));
    assert_eq!(turn(&mut crank, 1), Some(1));
    let before = delivered(&crank, 1..PORTS);
    // Port 1 is entered last. What is for it alone it gets, whatever the visit came to.
    let own = frame(mac(1), 0, 7);
    guests[0].send([0; 12], &own);
    guests[0].send([0; 12], &long_frame(BROADCAST, 9, LEN as usize));
    assert_eq!(turn(&mut crank, 0), Some(2));
    let after = delivered(&crank, 1..PORTS);
    let served = COPIED.div_ceil(LEN);
    assert_eq!(after.0 - before.0, served + 1);
    assert_eq!(after.1 - before.1, served * LEN + 60);
    let got = guests[1].received();
    assert_eq!(got.last().unwrap()[12..], own);
    let lost = (1..PORTS).map(|index| {
        let undelivered = books(&crank, index).egress.undelivered;
        assert_eq!(undelivered.total(), undelivered.get(DropReason::FloodLimit));
        undelivered.total()
    });
    assert_eq!(lost.sum::<u64>(), u64::from(PORTS) - 1 - served);
    let ingress = books(&crank, 0).ingress;
    assert_eq!((ingress.received, ingress.forwarded), (2, 2));
    assert!(u64::from(crank.rounds_in_debt()) >= COPIED / (128 * 1024) - 1);
}
