//! Nothing is allocated on the way of a frame.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs,
    unreachable_pub
)]

#[path = "../benches/double/mod.rs"]
mod double;

use std::alloc::System;
use std::sync::Arc;

use double::{Double, switch, turn};
use portcullis::datapath::crank::Crank;
use portcullis::fabric::{Fdb, FdbLimits};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn allocations(of: impl FnOnce()) -> usize {
    let region = Region::new(ALLOCATOR);
    of();
    let change = region.change();
    change.allocations + change.reallocations
}

/// Unicast, learned and not, and floods to every port: after a first burst from everybody, not one allocation. The only test
/// of this program, since the allocator counts for all threads.
#[test]
fn nothing_is_allocated_on_the_path() {
    const PORTS: u16 = 8;
    assert_eq!(
        allocations(|| drop(std::hint::black_box(Box::new(7u64)))),
        1,
        "the counter counts"
    );
    for frame in [64, 1500, 9000] {
        let burst = if frame > 2000 { 8 } else { 64 };
        let (lanes, gate) = switch(PORTS, Arc::new(Fdb::new(FdbLimits::default())));
        let mut guests: Vec<_> = (0..PORTS)
            .map(|index| Double::new(index, index ^ 1, frame, false, &lanes[usize::from(index)]))
            .collect();
        let mut crank = Crank::new(lanes.clone(), gate);
        // The first frames are flooded; the later ones find their one port.
        for index in 0..PORTS {
            let counted = allocations(|| turn(&mut crank, &mut guests, index, burst));
            assert_eq!(counted, 0, "floods of {frame} bytes");
        }
        for _ in 0..20 {
            for index in 0..PORTS {
                let counted = allocations(|| turn(&mut crank, &mut guests, index, burst));
                assert_eq!(counted, 0, "frames of {frame} bytes");
            }
        }
    }
}
