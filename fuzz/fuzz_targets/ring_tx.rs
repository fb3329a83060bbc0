//! A driver's TX ring, written by anybody: no panic, no access outside, every head returned once.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use portcullis::ring::{BURST, Budget, ChainBurst, Negotiated, TxRing};
use portcullis_fuzz::guest::{Guest, Shape, Step};

#[derive(Arbitrary, Debug)]
struct Input {
    shape: Shape,
    steps: Vec<Step>,
}

fuzz_target!(|input: Input| {
    let guest = Guest::new(&input.shape);
    let negotiated = Negotiated::from_features(input.shape.features());
    let Ok(mut ring) = TxRing::start(guest.memory.clone(), guest.layout(), negotiated) else {
        return;
    };
    let mut burst = ChainBurst::new();
    let mut bytes = [0; 256];
    for step in &input.steps {
        guest.drive(step);
        let Step::Visit {
            frames,
            bytes: most,
            descriptors,
        } = step
        else {
            continue;
        };
        let mut budget = Budget {
            frames: u32::from(*frames),
            bytes: u32::from(*most),
            descriptors: u32::from(*descriptors),
        };
        let before = ring.next();
        let Ok(count) = ring.collect(&mut burst, &mut budget) else {
            assert!(burst.chains().is_empty() && !ring.pending());
            continue;
        };
        assert!(count == burst.chains().len() && count <= BURST.min((*frames).into()));
        for chain in burst.chains() {
            let sum: u64 = burst
                .extents(chain)
                .iter()
                .map(|e| u64::from(e.len()))
                .sum();
            assert_eq!(sum, u64::from(chain.len));
            assert!(chain.fault.is_none() || chain.len == 0);
            for extent in burst.extents(chain) {
                assert!(!extent.is_empty());
                guest.memory.read(*extent, &mut bytes);
            }
        }
        ring.complete(&burst);
        assert_eq!(usize::from(ring.next().wrapping_sub(before)), count);
        if count > 0 {
            assert_eq!(guest.used_idx(), ring.next());
        }
        ring.should_notify();
        ring.enable_kicks();
        ring.disable_kicks();
    }
    guest.assert_unharmed();
});
