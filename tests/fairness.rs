//! What a burst costs its sender's share of a worker.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs,
    dead_code
)]

#[path = "../benches/double/mod.rs"]
mod double;

use std::sync::Arc;

use double::{Double, switch, turn};
use portcullis::clock::Tick;
use portcullis::counters::PortId;
use portcullis::datapath::crank::Crank;
use portcullis::fabric::{Fdb, FdbLimits};

/// F-5: a broadcast to 63 receivers costs its sender 63 frames, so that it has a 63rd of the turns; a frame to one costs one.
#[test]
fn f_5_a_flood_is_paid_for_by_the_copy() {
    const PORTS: u16 = 64;
    let (lanes, gate) = switch(PORTS, Arc::new(Fdb::new(FdbLimits::default())));
    let mut guests: Vec<_> = (0..PORTS)
        .map(|index| Double::new(index, index ^ 1, 64, false, &lanes[usize::from(index)]))
        .collect();
    let mut crank = Crank::new(lanes.clone(), gate);
    for guest in &mut guests {
        guest.accept(128);
    }
    // Nobody knows port 1 yet: 64 frames to 63 ports each.
    guests[0].offer(64);
    let (mut taken, mut debt) = (0, 0);
    while taken < 64 {
        taken += crank.turn(PortId::new(0).unwrap(), 0, Tick::ZERO).unwrap();
        debt += crank.rounds_in_debt();
    }
    assert_eq!(lanes[63].counters().snapshot().egress.delivered, 64);
    assert!(debt >= 60, "{debt}");
    // Both ends are known: 64 frames to one port.
    turn(&mut crank, &mut guests, 1, 64);
    turn(&mut crank, &mut guests, 0, 64);
    assert_eq!(crank.rounds_in_debt(), 0);
}
