//! RX: whole frames or nothing.

use super::double::*;
use crate::ring::*;

fn ring(driver: &Driver, mergeable: bool) -> RxRing {
    let negotiated = Negotiated {
        mergeable,
        ..MODERN
    };
    RxRing::start(driver.memory.clone(), driver.layout, negotiated).unwrap()
}

#[test]
fn q_18_a_frame_fills_merged_buffers_exactly() {
    let mut driver = Driver::new(16, 65_530);
    let mut ring = ring(&driver, true);
    let mut slots = Slots::new();
    for i in 0..16 {
        driver.desc(i, BUFFERS + 4096 * u64::from(i), 1000, WRITE, 0);
        driver.poke(BUFFERS + 4096 * u64::from(i), &[0xee; 1100]);
    }
    driver.offer((0..16).rev());
    ring.begin().unwrap();
    let small = ring.reserve(72, &mut slots).unwrap();
    let large = ring.reserve(2500, &mut slots).unwrap();
    assert_eq!((small.buffers, large.buffers), (1, 3));
    driver.scatter(slots.extents(&small), &pattern(72, 1));
    driver.scatter(slots.extents(&large), &pattern(2500, 2));
    assert_eq!(driver.used_idx(), 65_530);
    assert!(ring.publish());
    assert_eq!(
        driver.returned(),
        [(15, 72), (14, 1000), (13, 1000), (12, 500)]
    );
    let at = |i: u64| BUFFERS + 4096 * i;
    assert_eq!(driver.peek(at(15), 72), pattern(72, 1));
    assert_eq!(driver.peek(at(15) + 72, 1000), [0xee; 1000]);
    let merged = [
        driver.peek(at(14), 1000),
        driver.peek(at(13), 1000),
        driver.peek(at(12), 500),
    ];
    assert_eq!(merged.concat(), pattern(2500, 2));
    assert_eq!(driver.peek(at(12) + 500, 600), [0xee; 600]);
    assert!(!ring.publish());
}

/// One buffer of `len` bytes for each head `0..count`, 4 KiB apart, poisoned.
fn buffers(driver: &Driver, count: u16, len: u32) {
    for head in 0..count {
        driver.desc(head, place(head), len, WRITE, 0);
        driver.poke(place(head), &[0xee; 4096]);
    }
}

fn place(head: u16) -> u64 {
    BUFFERS + 4096 * u64::from(head)
}

/// Reserves, writes a pattern and says how many buffers it took.
fn deliver(
    driver: &Driver,
    ring: &mut RxRing,
    slots: &mut Slots,
    bytes: u32,
    salt: usize,
) -> Result<u16, ReserveError> {
    let reserved = ring.reserve(bytes, slots)?;
    let extents = slots.extents(&reserved);
    let room: u32 = extents.iter().map(|extent| extent.len()).sum();
    assert_eq!(room, bytes);
    driver.scatter(extents, &pattern(bytes as usize, salt));
    Ok(reserved.buffers)
}

#[test]
fn q_16_no_buffers_consumes_nothing() {
    let mut driver = Driver::new(8, 0);
    let mut ring = ring(&driver, true);
    let mut slots = Slots::new();
    buffers(&driver, 8, 1000);
    ring.begin().unwrap();
    assert!(!ring.has_buffers());
    let none = Err(ReserveError::NoBuffers);
    assert_eq!(deliver(&driver, &mut ring, &mut slots, 72, 0), none);
    driver.offer([0, 1, 2]);
    assert!(ring.has_buffers());
    // Not before the next burst: the index is read once.
    assert_eq!(deliver(&driver, &mut ring, &mut slots, 72, 0), none);
    ring.begin().unwrap();
    assert_eq!(deliver(&driver, &mut ring, &mut slots, 3001, 0), none);
    assert_eq!(deliver(&driver, &mut ring, &mut slots, 3001, 0), none);
    assert_eq!(deliver(&driver, &mut ring, &mut slots, 3000, 1), Ok(3));
    assert_eq!(deliver(&driver, &mut ring, &mut slots, 1, 0), none);
    ring.publish();
    assert_eq!(driver.returned(), [(0, 1000), (1, 1000), (2, 1000)]);
    // A frame refused for lack of buffers fits when more are there.
    driver.offer([3, 4, 5]);
    ring.begin().unwrap();
    assert_eq!(deliver(&driver, &mut ring, &mut slots, 3500, 0), none);
    driver.offer([6]);
    ring.begin().unwrap();
    assert_eq!(deliver(&driver, &mut ring, &mut slots, 3500, 2), Ok(4));
    ring.publish();
    assert_eq!(
        driver.returned(),
        [(3, 1000), (4, 1000), (5, 1000), (6, 500)]
    );
}

#[test]
fn q_16_without_merging_a_chain_too_small_is_kept_for_a_smaller_frame() {
    let mut driver = Driver::new(8, 0);
    let mut ring = ring(&driver, false);
    let mut slots = Slots::new();
    buffers(&driver, 8, 1000);
    driver.chain(2, &[(place(2), 12), (place(3), 1000)], WRITE);
    driver.offer([0, 1, 2]);
    ring.begin().unwrap();
    let small = Err(ReserveError::TooSmall);
    assert_eq!(deliver(&driver, &mut ring, &mut slots, 1001, 0), small);
    assert_eq!(deliver(&driver, &mut ring, &mut slots, 1500, 0), small);
    assert_eq!(deliver(&driver, &mut ring, &mut slots, 1000, 1), Ok(1));
    assert_eq!(deliver(&driver, &mut ring, &mut slots, 1001, 0), small);
    assert_eq!(deliver(&driver, &mut ring, &mut slots, 72, 2), Ok(1));
    assert_eq!(deliver(&driver, &mut ring, &mut slots, 1012, 3), Ok(1));
    ring.publish();
    assert_eq!(driver.returned(), [(0, 1000), (1, 72), (2, 1012)]);
    let split = [driver.peek(place(2), 12), driver.peek(place(3), 1000)];
    assert_eq!(split.concat(), pattern(1012, 3));
    assert_eq!(driver.peek(place(1) + 72, 1000), [0xee; 1000]);
}

#[test]
fn q_16_a_frame_of_no_bytes_takes_no_buffer() {
    let mut driver = Driver::new(8, 0);
    let mut ring = ring(&driver, true);
    let mut slots = Slots::new();
    buffers(&driver, 8, 1000);
    driver.offer([0]);
    ring.begin().unwrap();
    let refused = ring.reserve(0, &mut slots).unwrap_err();
    assert_eq!(refused, ReserveError::TooSmall);
    assert!(!ring.publish());
}

#[test]
fn q_16_one_byte_buffers_are_refused_within_a_budget() {
    let mut driver = Driver::new(32_768, 0);
    let mut ring = ring(&driver, true);
    let mut slots = Slots::new();
    for head in 0..32_768u16 {
        let at = BUFFERS + 2 * u64::from(head);
        driver.desc(head, at, 1, WRITE, 0);
    }
    driver.offer(0..32_768);
    ring.begin().unwrap();
    let many = Err(ReserveError::TooManyPieces);
    assert_eq!(deliver(&driver, &mut ring, &mut slots, 1025, 0), many);
    assert_eq!(deliver(&driver, &mut ring, &mut slots, 65_550, 0), many);
    assert_eq!(driver.used_idx(), 0);
    // What fits the limit is delivered, as long as the burst's allowance lasts: 1024 are spent.
    assert_eq!(deliver(&driver, &mut ring, &mut slots, 1024, 1), Ok(1024));
    assert_eq!(deliver(&driver, &mut ring, &mut slots, 1024, 2), Ok(1024));
    assert_eq!(deliver(&driver, &mut ring, &mut slots, 1000, 3), Ok(1000));
    assert_eq!(deliver(&driver, &mut ring, &mut slots, 25, 4), many);
    assert_eq!(deliver(&driver, &mut ring, &mut slots, 1, 4), many);
    ring.publish();
    assert_eq!(driver.returned().len(), 3048);
    slots.clear();
    ring.begin().unwrap();
    assert_eq!(deliver(&driver, &mut ring, &mut slots, 25, 4), Ok(25));
    ring.publish();
    let returned = driver.returned();
    assert_eq!(returned.len(), 25);
    assert_eq!(returned[0], (3048, 1));
}

#[test]
fn q_16_a_buffer_of_4_gib_is_used_as_far_as_needed() {
    for mergeable in [false, true] {
        let mut driver = Driver::new(8, 0);
        let mut ring = ring(&driver, mergeable);
        let mut slots = Slots::new();
        buffers(&driver, 1, u32::MAX);
        driver.chain(1, &[(place(1), u32::MAX), (0, u32::MAX)], WRITE);
        driver.offer([0, 1]);
        ring.begin().unwrap();
        assert_eq!(deliver(&driver, &mut ring, &mut slots, 1514, 1), Ok(1));
        assert_eq!(deliver(&driver, &mut ring, &mut slots, 65_562, 2), Ok(1));
        ring.publish();
        assert_eq!(driver.returned(), [(0, 1514), (1, 65_562)]);
        assert_eq!(driver.peek(place(0), 1514), pattern(1514, 1));
        assert_eq!(driver.peek(place(0) + 1514, 1000), [0xee; 1000]);
    }
}

#[test]
fn q_16_buffers_in_the_own_rings_harm_their_owner_only() {
    let mut driver = Driver::new(8, 0);
    let mut ring = ring(&driver, true);
    let mut slots = Slots::new();
    let layout = driver.layout;
    driver.desc(0, layout.desc, 128, WRITE, 0);
    driver.desc(1, layout.avail, 22, WRITE, 0);
    driver.desc(2, layout.used, 70, WRITE, 0);
    driver.offer([0, 1, 2]);
    ring.begin().unwrap();
    assert_eq!(deliver(&driver, &mut ring, &mut slots, 220, 1), Ok(3));
    ring.publish();
    assert_eq!(driver.used_idx(), 3);
    // The driver's index is now a pattern: a jump, or else bounded work.
    if ring.begin().is_ok() {
        let _ = ring.reserve(72, &mut slots);
        ring.publish();
    }
    assert!(!driver.memory.faulted());
}

#[test]
fn q_17_nothing_is_visible_before_publish_and_nothing_ever_after_abandon() {
    let mut driver = Driver::new(8, 65_535);
    let mut ring = ring(&driver, true);
    let mut slots = Slots::new();
    buffers(&driver, 8, 1000);
    driver.offer(0..8);
    let used_ring = driver.peek(driver.layout.used, 70);
    ring.begin().unwrap();
    deliver(&driver, &mut ring, &mut slots, 2500, 1).unwrap();
    assert_eq!(driver.peek(driver.layout.used, 70), used_ring);
    assert_eq!(ring.next(), 65_535);
    ring.abandon();
    assert!(!ring.publish());
    assert_eq!(driver.peek(driver.layout.used, 70), used_ring);
    slots.clear();
    // The same buffers serve the next frame.
    ring.begin().unwrap();
    deliver(&driver, &mut ring, &mut slots, 1500, 2).unwrap();
    ring.publish();
    assert_eq!(driver.returned(), [(0, 1000), (1, 500)]);
}

#[test]
fn q_8_an_rx_jump_breaks_only_the_ring() {
    for (at, jump) in [(0u16, 9u16), (0, 65_535), (65_530, 40_000)] {
        let mut driver = Driver::new(8, at);
        let mut ring = ring(&driver, true);
        let mut slots = Slots::new();
        buffers(&driver, 8, 1000);
        driver.avail_idx(at.wrapping_add(jump));
        assert!(ring.begin().is_err());
        let none = Err(ReserveError::NoBuffers);
        assert_eq!(deliver(&driver, &mut ring, &mut slots, 72, 0), none);
        driver.offer([0]);
        assert!(ring.begin().is_err());
        assert!(!ring.has_buffers());
        assert_eq!(driver.used_idx(), at);
    }
}

#[test]
fn q_8_an_index_that_goes_back_amid_a_burst_breaks_the_ring() {
    let mut driver = Driver::new(8, 0);
    let mut ring = ring(&driver, true);
    let mut slots = Slots::new();
    buffers(&driver, 8, 1000);
    driver.offer(0..4);
    ring.begin().unwrap();
    deliver(&driver, &mut ring, &mut slots, 3000, 1).unwrap();
    driver.avail_idx(1);
    assert!(ring.begin().is_err());
    let none = Err(ReserveError::NoBuffers);
    assert_eq!(deliver(&driver, &mut ring, &mut slots, 72, 0), none);
    ring.publish();
    assert_eq!(driver.returned(), [(0, 1000), (1, 1000), (2, 1000)]);
}

#[test]
fn q_8_a_head_offered_twice_is_filled_twice() {
    let mut driver = Driver::new(8, 0);
    let mut ring = ring(&driver, true);
    let mut slots = Slots::new();
    buffers(&driver, 8, 1000);
    driver.offer([3, 3, 4]);
    ring.begin().unwrap();
    for salt in 0..3 {
        deliver(&driver, &mut ring, &mut slots, 72, salt).unwrap();
    }
    ring.publish();
    assert_eq!(driver.returned(), [(3, 72), (3, 72), (4, 72)]);
    assert_eq!(driver.peek(place(3), 72), pattern(72, 1));
    assert_eq!(driver.peek(place(4), 72), pattern(72, 2));
}

#[test]
fn q_9_malformed_rx_chains_go_back_empty_and_the_frame_takes_the_next() {
    type Write = fn(&Driver);
    let cases: [(ChainFault, Write); 9] = [
        (ChainFault::WrongDirection, |driver| {
            driver.desc(1, place(1), 1000, 0, 0);
        }),
        (ChainFault::WrongDirection, |driver| {
            driver.desc(1, place(1), 1000, NEXT, 2); // readable before writable
            driver.desc(2, place(2), 1000, WRITE, 0);
        }),
        (ChainFault::WrongDirection, |driver| {
            driver.desc(1, place(1), 1000, WRITE | NEXT, 2); // readable after writable
            driver.desc(2, place(2), 1000, 0, 0);
        }),
        (ChainFault::Unmapped, |driver| {
            driver.desc(1, CLIFF - 10, 1000, WRITE, 0);
        }),
        (ChainFault::Empty, |driver| {
            driver.chain(1, &[(place(1), 0), (u64::MAX, 0)], WRITE);
        }),
        (ChainFault::TooManyDescriptors, |driver| {
            driver.desc(1, place(1), 1, WRITE | NEXT, 1);
        }),
        (ChainFault::NextOutOfRange, |driver| {
            driver.desc(1, place(1), 1000, WRITE | NEXT, 8);
        }),
        (ChainFault::IndirectLength, |driver| {
            driver.desc(1, BUFFERS + 0x8_0000, 17, INDIRECT | WRITE, 0);
        }),
        (ChainFault::IndirectNested, |driver| {
            driver.table(1, BUFFERS + 0x8_0000, &[(place(1), 100)], WRITE | INDIRECT);
        }),
    ];
    for (fault, write) in cases {
        for mergeable in [false, true] {
            let mut driver = Driver::new(8, 0);
            let mut ring = ring(&driver, mergeable);
            let mut slots = Slots::new();
            buffers(&driver, 8, 1000);
            write(&driver);
            // The malformed chain comes first, and behind a good one, where it is copied ahead.
            driver.offer([1, 5, 1, 6]);
            ring.begin().unwrap();
            for salt in 1..3 {
                let got = deliver(&driver, &mut ring, &mut slots, 72, salt);
                assert_eq!(got, Ok(1), "{fault}");
            }
            ring.publish();
            assert_eq!(driver.returned(), [(1, 0), (5, 72), (1, 0), (6, 72)]);
            let malformed = Malformed {
                count: 2,
                last: Some(fault),
            };
            assert_eq!(ring.take_malformed(), malformed);
            assert_eq!(ring.take_malformed(), Malformed::default());
            assert_eq!(driver.peek(place(5), 72), pattern(72, 1));
            assert!(!driver.memory.faulted());
        }
    }
}

#[test]
fn q_9_only_malformed_chains_go_back_without_a_frame() {
    let mut driver = Driver::new(8, 0);
    let mut ring = ring(&driver, true);
    let mut slots = Slots::new();
    driver.desc(0, place(0), 1000, 0, 0);
    driver.offer([0, 0xffff, 0]);
    ring.begin().unwrap();
    let none = Err(ReserveError::NoBuffers);
    assert_eq!(deliver(&driver, &mut ring, &mut slots, 72, 1), none);
    assert!(ring.publish());
    assert_eq!(driver.returned(), [(0, 0), (0xffff, 0), (0, 0)]);
    assert_eq!(ring.take_malformed().count, 3);
}

#[test]
fn q_9_a_malformed_chain_amid_a_merged_frame_starts_it_again() {
    let mut driver = Driver::new(8, 0);
    let mut ring = ring(&driver, true);
    let mut slots = Slots::new();
    buffers(&driver, 8, 1000);
    driver.desc(3, place(3), 1000, 0, 0);
    driver.offer([0, 1, 2, 3, 4, 5, 6]);
    ring.begin().unwrap();
    assert_eq!(deliver(&driver, &mut ring, &mut slots, 500, 1), Ok(1));
    assert_eq!(deliver(&driver, &mut ring, &mut slots, 2500, 2), Ok(3));
    ring.publish();
    assert_eq!(
        driver.returned(),
        [
            (0, 500),
            (1, 0),
            (2, 0),
            (3, 0),
            (4, 1000),
            (5, 1000),
            (6, 500)
        ]
    );
    assert_eq!(ring.take_malformed().count, 1);
    assert_eq!(driver.peek(place(0), 500), pattern(500, 1));
    assert_eq!(driver.peek(place(1), 1000), [0xee; 1000]);
}

#[test]
fn q_10_an_rx_chain_may_be_cut_anywhere() {
    for cut in 1..72u32 {
        for mergeable in [false, true] {
            let mut driver = Driver::new(8, 0);
            let mut ring = ring(&driver, mergeable);
            let mut slots = Slots::new();
            buffers(&driver, 4, 1000);
            let pieces = [(place(0), cut), (u64::MAX, 0), (place(1), 100 - cut)];
            if cut % 2 == 0 {
                driver.chain(4, &pieces, WRITE);
            } else {
                driver.table(4, BUFFERS + 0x8_0001, &pieces, WRITE);
            }
            driver.offer([4]);
            ring.begin().unwrap();
            assert_eq!(deliver(&driver, &mut ring, &mut slots, 72, 1), Ok(1));
            ring.publish();
            assert_eq!(driver.returned(), [(4, 72)]);
            let cut = cut as usize;
            let seen = [driver.peek(place(0), cut), driver.peek(place(1), 72 - cut)];
            assert_eq!(seen.concat(), pattern(72, 1));
            // E-35, Q-18: nothing behind the frame is touched.
            assert_eq!(driver.peek(place(0) + cut as u64, 100), [0xee; 100]);
            assert_eq!(driver.peek(place(1) + 72 - cut as u64, 100), [0xee; 100]);
        }
    }
}

#[test]
fn q_6_an_rx_buffer_may_go_on_in_the_adjacent_region() {
    for mergeable in [false, true] {
        let mut driver = Driver::new(8, 0);
        let mut ring = ring(&driver, mergeable);
        let mut slots = Slots::new();
        driver.desc(0, SEAM - 5, 1000, WRITE, 0);
        driver.desc(1, SEAM - 7, 1000, WRITE, 0);
        driver.offer([0, 1]);
        ring.begin().unwrap();
        // The second is copied ahead with the first, and so judged in the short way first.
        assert_eq!(deliver(&driver, &mut ring, &mut slots, 72, 1), Ok(1));
        let seen = [driver.peek(SEAM - 5, 5), driver.peek(SEAM, 67)];
        assert_eq!(seen.concat(), pattern(72, 1));
        assert_eq!(deliver(&driver, &mut ring, &mut slots, 72, 2), Ok(1));
        ring.publish();
        let seen = [driver.peek(SEAM - 7, 7), driver.peek(SEAM, 65)];
        assert_eq!(seen.concat(), pattern(72, 2));
        assert_eq!(driver.returned(), [(0, 72), (1, 72)]);
    }
}

#[test]
fn full_slots_are_cleared_and_the_frame_fits() {
    let mut driver = Driver::new(32_768, 0);
    let mut ring = ring(&driver, true);
    let mut slots = Slots::new();
    for head in 0..8_000u16 {
        driver.desc(head, SEAM - 1, 2, WRITE, 0); // two extents each
    }
    driver.offer(0..8_000);
    ring.begin().unwrap();
    assert_eq!(deliver(&driver, &mut ring, &mut slots, 2000, 1), Ok(1000));
    assert_eq!(deliver(&driver, &mut ring, &mut slots, 2000, 2), Ok(1000));
    let full = Err(ReserveError::SlotsFull);
    assert_eq!(deliver(&driver, &mut ring, &mut slots, 2000, 3), full);
    ring.publish();
    slots.clear();
    assert_eq!(deliver(&driver, &mut ring, &mut slots, 2000, 3), Ok(1000));
    ring.publish();
    let returned = driver.returned();
    assert_eq!(returned.len(), 3000);
    assert!(
        returned
            .iter()
            .enumerate()
            .all(|(i, element)| *element == (i as u32, 2))
    );
}

#[test]
fn q_21_hopeless_chains_are_walked_once() {
    let mut driver = Driver::new(1024, 0);
    let mut ring = ring(&driver, false);
    let mut slots = Slots::new();
    let pieces: Vec<_> = (0..1000).map(|i| (BUFFERS + i, 1)).collect();
    driver.table(0, BUFFERS + 0x8_0000, &pieces, WRITE);
    driver.offer([0, 0, 0]);
    ring.begin().unwrap();
    let small = Err(ReserveError::TooSmall);
    // Without the memory of the first answer the fifth would exceed the burst's allowance.
    for _ in 0..64 {
        assert_eq!(deliver(&driver, &mut ring, &mut slots, 1514, 0), small);
    }
    assert_eq!(deliver(&driver, &mut ring, &mut slots, 1000, 1), Ok(1));
    ring.publish();
    assert_eq!(driver.returned(), [(0, 1000)]);
}
