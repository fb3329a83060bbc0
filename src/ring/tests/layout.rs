//! Rings that are refused before anything runs.

use super::double::*;
use crate::ring::*;

/// What a start says to the layout, for both rings; they must agree.
fn start(driver: &Driver, layout: Layout) -> Result<(), RingError> {
    let tx = TxRing::start(driver.memory.clone(), layout, MODERN).map(drop);
    let rx = RxRing::start(driver.memory.clone(), layout, MODERN).map(drop);
    let say = |outcome: &Result<(), RingError>| outcome.as_ref().map_err(ToString::to_string).err();
    assert_eq!(say(&tx), say(&rx));
    assert!(!driver.memory.faulted());
    tx
}

#[test]
fn p_9_queue_sizes_are_powers_of_two() {
    let driver = Driver::new(8, 0);
    for size in 0..=u16::MAX {
        let power = size.is_power_of_two();
        if !power || size.trailing_zeros() % 5 == 0 {
            let layout = Layout {
                size,
                ..driver.layout
            };
            match start(&driver, layout) {
                Ok(()) => assert!(power, "{size}"),
                Err(RingError::Size { .. }) => assert!(!power, "{size}"),
                Err(other) => panic!("{size}: {other}"),
            }
        }
    }
}

#[test]
fn p_11_parts_must_be_aligned() {
    let driver = Driver::new(8, 0);
    let good = driver.layout;
    for off in 1..16 {
        let desc = Layout {
            desc: good.desc + off,
            ..good
        };
        let part = Part::Descriptors;
        let error = start(&driver, desc);
        assert!(matches!(error, Err(RingError::Unaligned { part: p, .. }) if p == part));
    }
    let avail = Layout {
        avail: good.avail + 1,
        ..good
    };
    let error = start(&driver, avail);
    assert!(matches!(
        error,
        Err(RingError::Unaligned {
            part: Part::Available,
            align: 2,
            ..
        })
    ));
    for off in 1..4 {
        let used = Layout {
            used: good.used + off,
            ..good
        };
        let error = start(&driver, used);
        assert!(matches!(
            error,
            Err(RingError::Unaligned {
                part: Part::Used,
                align: 4,
                ..
            })
        ));
    }
}

#[test]
fn p_11_parts_must_be_mapped_to_the_last_byte() {
    let driver = Driver::new(8, 0);
    let good = driver.layout;
    // Eight entries: 128, 22 and 70 bytes, each at the end of the last region and one step beyond.
    for (part, len, step) in [
        (Part::Descriptors, 128, 16),
        (Part::Available, 22, 2),
        (Part::Used, 72, 4), // 70, aligned
    ] {
        let at = |address: u64| {
            let mut layout = good;
            match part {
                Part::Descriptors => layout.desc = address,
                Part::Available => layout.avail = address,
                Part::Used => layout.used = address,
            }
            start(&driver, layout)
        };
        assert!(at(ISLAND_END - len).is_ok(), "{part}");
        for address in [
            ISLAND_END - len + step,
            ISLAND_END,
            0,
            ISLAND - step,
            SEAM - step, // in two regions
        ] {
            let error = at(address);
            assert!(
                matches!(error, Err(RingError::Unmapped { part: p, .. }) if p == part),
                "{part} at {address:#x}"
            );
        }
        let error = at(u64::MAX - 15);
        assert!(
            matches!(error, Err(RingError::Wraps { part: p, .. }) if p == part),
            "{part}"
        );
    }
}

#[test]
fn q_12_parts_must_not_overlap() {
    let driver = Driver::new(8, 0);
    let base = BUFFERS;
    let lens = [128u64, 22, 70];
    let overlap = |a: (u64, u64), b: (u64, u64)| a.0 < b.0 + b.1 && b.0 < a.0 + a.1;
    let mut refused = 0;
    let mut accepted = 0;
    for desc in [0u64, 16, 64, 80] {
        for avail in (0..220).step_by(2) {
            for used in (0..260).step_by(4) {
                let layout = Layout {
                    size: 8,
                    desc: base + desc,
                    avail: base + avail,
                    used: base + used,
                };
                let spans = [(desc, lens[0]), (avail, lens[1]), (used, lens[2])];
                let clash = overlap(spans[0], spans[1])
                    || overlap(spans[0], spans[2])
                    || overlap(spans[1], spans[2]);
                match TxRing::start(driver.memory.clone(), layout, MODERN) {
                    Err(RingError::Overlap { .. }) => {
                        assert!(clash, "{layout:x?}");
                        refused += 1;
                    }
                    Ok(_) => {
                        assert!(!clash, "{layout:x?}");
                        accepted += 1;
                    }
                    Err(other) => panic!("{layout:x?}: {other}"),
                }
            }
        }
    }
    assert!(refused > 1000 && accepted > 1000);
}

#[test]
fn p_11_all_three_parts_in_one_page_work() {
    let mut driver = Driver::new(8, 0);
    driver.layout = Layout {
        size: 8,
        desc: BUFFERS,
        avail: BUFFERS + 128,
        used: BUFFERS + 152,
    };
    let mut ring = TxRing::start(driver.memory.clone(), driver.layout, MODERN).unwrap();
    driver.chain(0, &[(BUFFERS + 0x1000, 64)], 0);
    driver.offer([0]);
    let mut burst = ChainBurst::new();
    let mut budget = Budget {
        frames: 1,
        bytes: 1,
        descriptors: 1,
    };
    assert_eq!(ring.collect(&mut burst, &mut budget), Ok(1));
    ring.complete(&burst);
    assert_eq!(driver.returned(), [(0, 0)]);
}

#[test]
fn a_ring_goes_on_from_the_used_index() {
    let mut driver = Driver::new(8, 65_534);
    driver.chain(0, &[(BUFFERS, 64)], 0);
    driver.offer([0; 5]);
    let mut budget = Budget {
        frames: 3,
        bytes: 1 << 20,
        descriptors: 8,
    };
    let mut burst = ChainBurst::new();
    let mut ring = TxRing::start(driver.memory.clone(), driver.layout, MODERN).unwrap();
    assert_eq!(ring.collect(&mut burst, &mut budget), Ok(3));
    ring.complete(&burst);
    assert_eq!(ring.next(), 1);
    drop(ring);
    let mut ring = TxRing::start(driver.memory.clone(), driver.layout, MODERN).unwrap();
    assert_eq!(ring.next(), 1);
    budget.frames = 64;
    assert_eq!(ring.collect(&mut burst, &mut budget), Ok(2));
    ring.complete(&burst);
    assert_eq!(driver.returned(), [(0, 0); 5]);
}
