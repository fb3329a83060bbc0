//! A driver's RX ring, written by anybody: exactly the bytes asked for, or nothing.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use portcullis::ring::{Negotiated, RxRing, Slots};
use portcullis_fuzz::guest::{Guest, Shape, Step};

#[derive(Arbitrary, Debug)]
struct Input {
    shape: Shape,
    steps: Vec<Step>,
}

fuzz_target!(|input: Input| {
    let guest = Guest::new(&input.shape);
    let negotiated = Negotiated::from_features(input.shape.features());
    let Ok(mut ring) = RxRing::start(guest.memory.clone(), guest.layout(), negotiated) else {
        return;
    };
    let mut slots = Slots::new();
    for step in &input.steps {
        guest.drive(step);
        let Step::Visit {
            frames,
            bytes,
            descriptors,
        } = step
        else {
            continue;
        };
        let (before, before_used) = (ring.next(), guest.used_idx());
        slots.clear();
        if ring.begin().is_err() {
            assert!(!ring.has_buffers());
            continue;
        }
        let mut buffers = 0;
        for _ in 0..frames % 8 {
            let Ok(reserved) = ring.reserve(u32::from(*bytes), &mut slots) else {
                continue;
            };
            assert!(reserved.buffers >= 1);
            assert!(negotiated.mergeable || reserved.buffers == 1);
            buffers += u32::from(reserved.buffers);
            let extents = slots.extents(&reserved);
            let sum: u64 = extents.iter().map(|e| u64::from(e.len())).sum();
            assert_eq!(sum, u64::from(*bytes));
        }
        assert_eq!(
            (ring.next(), guest.used_idx()),
            (before, before_used),
            "told too early"
        );
        if *descriptors == 0 {
            ring.abandon();
            assert_eq!(ring.next(), before);
        }
        ring.publish();
        let returned = ring.next().wrapping_sub(before);
        assert!(returned <= guest.layout().size);
        if *descriptors != 0 {
            assert!(u32::from(returned) >= buffers);
        }
        if returned > 0 {
            assert_eq!(guest.used_idx(), ring.next());
        }
    }
    guest.assert_unharmed();
});
