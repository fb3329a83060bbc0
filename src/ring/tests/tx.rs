//! TX: what comes out, and that everything goes back.

use std::sync::atomic::{AtomicBool, Ordering};

use super::double::*;
use crate::ring::*;

const PLENTY: Budget = Budget {
    frames: 1 << 20,
    bytes: u32::MAX,
    descriptors: u32::MAX,
};

fn ring(driver: &Driver) -> TxRing {
    TxRing::start(driver.memory.clone(), driver.layout, MODERN).unwrap()
}

/// Collects and completes one burst: for each chain its bytes or its fault.
fn round(
    driver: &Driver,
    ring: &mut TxRing,
    burst: &mut ChainBurst,
) -> Result<Vec<Result<Vec<u8>, ChainFault>>, RingBroken> {
    let count = ring.collect(burst, &mut PLENTY.clone())?;
    assert_eq!(count, burst.chains().len());
    let verdicts = burst
        .chains()
        .iter()
        .map(|chain| match chain.fault {
            Some(fault) => {
                assert_eq!((chain.len, burst.extents(chain).len()), (0, 0));
                Err(fault)
            }
            None => {
                let bytes = driver.gather(burst.extents(chain));
                assert_eq!(bytes.len(), chain.len as usize);
                Ok(bytes)
            }
        })
        .collect();
    ring.complete(burst);
    Ok(verdicts)
}

/// The verdict on the one chain with head 0, which must go back exactly once with length 0.
fn verdict(driver: &mut Driver, negotiated: Negotiated) -> Result<Vec<u8>, ChainFault> {
    let mut ring = TxRing::start(driver.memory.clone(), driver.layout, negotiated).unwrap();
    driver.offer([0]);
    let mut burst = ChainBurst::new();
    let verdicts = round(driver, &mut ring, &mut burst).unwrap();
    assert_eq!(driver.returned(), [(0, 0)]);
    assert_eq!(round(driver, &mut ring, &mut burst).unwrap(), []);
    assert_eq!(driver.returned(), []);
    assert!(!driver.memory.faulted());
    let [verdict] = <[_; 1]>::try_from(verdicts).unwrap();
    verdict
}

#[test]
fn a_burst_comes_out_in_order_and_goes_back_in_order() {
    let mut driver = Driver::new(256, 0);
    let mut ring = ring(&driver);
    let mut burst = ChainBurst::new();
    let mut heads = Vec::new();
    for i in 0..100u16 {
        let head = 2 * ((i * 7) % 100);
        let at = BUFFERS + 2048 * u64::from(i);
        driver.poke(at, &pattern(72, usize::from(i)));
        if i % 2 == 0 {
            driver.chain(head, &[(at, 72)], 0);
        } else {
            driver.chain(head, &[(at, 12), (at + 12, 60)], 0);
        }
        heads.push(head);
    }
    driver.offer(heads.iter().copied());
    let mut frames = round(&driver, &mut ring, &mut burst).unwrap();
    assert_eq!(frames.len(), BURST);
    frames.extend(round(&driver, &mut ring, &mut burst).unwrap());
    let expected: Vec<_> = (0..100).map(|i| Ok(pattern(72, i))).collect();
    assert_eq!(frames, expected);
    let returned: Vec<_> = heads.iter().map(|head| (u32::from(*head), 0)).collect();
    assert_eq!(driver.returned(), returned);
    assert_eq!(ring.next(), 100);
    assert!(!ring.pending());
}

#[test]
fn chains_that_are_put_back_are_collected_again_and_returned_once() {
    let kinds = |driver: &Driver, number: u16| {
        let at = BUFFERS + 2048 * u64::from(number);
        driver.poke(at, &pattern(72, number.into()));
        let head = 2 * number;
        match number % 4 {
            0 => driver.chain(head, &[(at, 72)], 0),
            1 => driver.chain(head, &[(at, 12), (at + 12, 60)], 0),
            2 => driver.table(head, at + 1024, &[(at, 71), (at + 71, 1)], 0),
            _ => driver.chain(head, &[(at, 72)], WRITE),
        }
        head
    };
    for base in [0, u16::MAX - 40] {
        for count in [0, 1, 17, 63, 64, 1000] {
            let mut driver = Driver::new(256, base);
            let mut ring = ring(&driver);
            let mut burst = ChainBurst::new();
            let heads: Vec<_> = (0..100).map(|number| kinds(&driver, number)).collect();
            driver.offer(heads.iter().copied());
            assert_eq!(ring.collect(&mut burst, &mut PLENTY.clone()), Ok(64));
            ring.put_back(&mut burst, count);
            let kept = 64 - count.min(64);
            assert_eq!(burst.chains().len(), kept);
            ring.complete(&burst);
            assert_eq!(driver.returned().len(), kept);
            assert_eq!(ring.next(), base.wrapping_add(kept as u16));
            assert!(ring.pending());
            let mut frames = Vec::new();
            while frames.len() < 100 - kept {
                frames.extend(round(&driver, &mut ring, &mut burst).unwrap());
            }
            assert_eq!(round(&driver, &mut ring, &mut burst).unwrap(), []);
            let expected = (kept..100).map(|number| match number % 4 {
                3 => Err(ChainFault::WrongDirection),
                _ => Ok(pattern(72, number)),
            });
            assert!(frames.into_iter().eq(expected));
            let returned = driver.returned().into_iter().map(|element| element.0);
            assert!(returned.eq(heads[kept..].iter().map(|head| u32::from(*head))));
        }
    }
}

#[test]
fn what_was_returned_cannot_be_put_back() {
    let mut driver = Driver::new(16, 0);
    let mut ring = ring(&driver);
    let mut burst = ChainBurst::new();
    driver.chain(0, &[(BUFFERS, 72)], 0);
    driver.offer([0]);
    round(&driver, &mut ring, &mut burst).unwrap();
    ring.put_back(&mut burst, 1);
    assert_eq!(ring.next(), 1);
    assert_eq!(round(&driver, &mut ring, &mut burst).unwrap(), []);
    assert_eq!(driver.returned(), [(0, 0)]);
}

#[test]
fn a_completed_burst_is_not_returned_twice() {
    let mut driver = Driver::new(8, 65_533);
    let mut ring = ring(&driver);
    let mut burst = ChainBurst::new();
    driver.chain(0, &[(BUFFERS, 64)], 0);
    driver.offer([0, 0, 0, 0]);
    ring.collect(&mut burst, &mut PLENTY.clone()).unwrap();
    assert_eq!(driver.returned(), []);
    ring.complete(&burst);
    ring.complete(&burst);
    assert_eq!(driver.returned(), [(0, 0); 4]);
    assert_eq!(ring.next(), 1);
}

#[test]
fn q_3_an_indirect_table_is_read_like_a_chain() {
    let mut driver = Driver::new(16, 0);
    driver.poke(BUFFERS, &pattern(3000, 1));
    let pieces = [(BUFFERS, 12), (BUFFERS + 12, 988), (BUFFERS + 1000, 2000)];
    driver.table(0, BUFFERS + 0x1_0000, &pieces, 0);
    assert_eq!(verdict(&mut driver, MODERN), Ok(pattern(3000, 1)));
}

#[test]
fn q_1_loops_end_and_are_counted() {
    for period in [1, 2, 3, 8] {
        let mut driver = Driver::new(8, 0);
        for i in 0..period {
            driver.desc(i, BUFFERS, 1, NEXT, (i + 1) % period);
        }
        assert_eq!(
            verdict(&mut driver, MODERN),
            Err(ChainFault::TooManyDescriptors)
        );
    }
    for period in [1, 2, 8] {
        let mut driver = Driver::new(8, 0);
        let table = BUFFERS + 0x1000;
        for i in 0..period {
            let next = (i + 1) % period;
            driver.desc_at(table + 16 * u64::from(i), BUFFERS, 1, NEXT, next);
        }
        driver.desc(0, table, 16 * u32::from(period), INDIRECT, 0);
        assert_eq!(
            verdict(&mut driver, MODERN),
            Err(ChainFault::TooManyDescriptors)
        );
    }
}

#[test]
fn q_2_a_chain_is_as_long_as_the_queue_at_most() {
    for size in [2u16, 8, 256] {
        let mut driver = Driver::new(size, 0);
        driver.poke(BUFFERS, &pattern(1024, 2));
        let pieces: Vec<_> = (0..u64::from(size)).map(|i| (BUFFERS + i, 1)).collect();
        driver.chain(0, &pieces, 0);
        let whole = pattern(usize::from(size), 2);
        let linear = pattern(1024, 2)[..usize::from(size)].to_vec();
        assert_eq!(whole, linear);
        assert_eq!(verdict(&mut driver, MODERN), Ok(whole));
        driver.desc(size - 1, BUFFERS, 1, NEXT, 0);
        assert_eq!(
            verdict(&mut driver, MODERN),
            Err(ChainFault::TooManyDescriptors)
        );
    }
}

#[test]
fn q_2_in_a_large_queue_a_chain_has_at_most_1024_descriptors() {
    let mut driver = Driver::new(2048, 0);
    driver.poke(BUFFERS, &pattern(1024, 3));
    let pieces: Vec<_> = (0..1024).map(|i| (BUFFERS + i, 1)).collect();
    driver.chain(0, &pieces, 0);
    assert_eq!(verdict(&mut driver, MODERN), Ok(pattern(1024, 3)));
    driver.chain(1023, &[(BUFFERS, 1), (BUFFERS, 1)], 0);
    assert_eq!(
        verdict(&mut driver, MODERN),
        Err(ChainFault::TooManyDescriptors)
    );
}

#[test]
fn q_2_a_direct_part_and_its_table_count_together() {
    let mut driver = Driver::new(8, 0);
    let table = BUFFERS + 0x1000;
    driver.poke(BUFFERS, &pattern(9, 4));
    driver.chain(0, &[(BUFFERS, 1), (BUFFERS + 1, 1), (0, 0)], 0);
    let pieces: Vec<_> = (2..8).map(|i| (BUFFERS + i, 1)).collect();
    driver.table(2, table, &pieces, 0);
    assert_eq!(verdict(&mut driver, MODERN), Ok(pattern(8, 4)));
    let pieces: Vec<_> = (2..9).map(|i| (BUFFERS + i, 1)).collect();
    driver.table(2, table, &pieces, 0);
    assert_eq!(
        verdict(&mut driver, MODERN),
        Err(ChainFault::TooManyDescriptors)
    );
}

#[test]
fn q_3_tables_that_are_not_tables() {
    let table = BUFFERS + 0x1000;
    let pieces = [(BUFFERS, 64); 8];
    let after = |change: &dyn Fn(&mut Driver)| {
        let mut driver = Driver::new(8, 0);
        driver.table(0, table, &pieces, 0);
        change(&mut driver);
        verdict(&mut driver, MODERN)
    };
    assert_eq!(after(&|_| ()).map(|frame| frame.len()), Ok(512));
    for len in [
        0,
        1,
        15,
        17,
        16 * 8 + 1,
        16 * 9,
        16 * 65_535,
        16 * 65_536,
        u32::MAX,
    ] {
        assert_eq!(
            after(&|driver| driver.desc(0, table, len, INDIRECT, 0)),
            Err(ChainFault::IndirectLength),
            "{len}"
        );
    }
    for addr in [0, CLIFF, u64::MAX - 15, ISLAND - 16] {
        assert_eq!(
            after(&|driver| driver.desc(0, addr, 32, INDIRECT, 0)),
            Err(ChainFault::Unmapped),
            "{addr:#x}"
        );
    }
    assert_eq!(
        after(&|driver| driver.desc(0, table, 128, INDIRECT | NEXT, 1)),
        Err(ChainFault::IndirectChained)
    );
    assert_eq!(
        after(&|driver| driver.desc_at(table + 16, table, 128, INDIRECT, 0)),
        Err(ChainFault::IndirectNested)
    );
    assert_eq!(
        after(&|driver| driver.desc_at(table + 16, table, 128, INDIRECT | NEXT, 2)),
        Err(ChainFault::IndirectNested)
    );
    assert_eq!(
        after(&|driver| driver.desc_at(table + 16, BUFFERS, 1, NEXT, 8)),
        Err(ChainFault::NextOutOfRange)
    );
    // The WRITE flag of the descriptor that names the table means nothing (VIRTIO 1.2, 2.7.5.3.2).
    assert_eq!(
        after(&|driver| driver.desc(0, table, 128, INDIRECT | WRITE, 0)).map(|frame| frame.len()),
        Ok(512)
    );
}

#[test]
fn q_3_a_table_needs_the_feature() {
    let mut driver = Driver::new(8, 0);
    driver.table(0, BUFFERS + 0x1000, &[(BUFFERS, 64)], 0);
    let plain = Negotiated {
        indirect: false,
        ..MODERN
    };
    assert_eq!(
        verdict(&mut driver, plain),
        Err(ChainFault::IndirectNotNegotiated)
    );
}

#[test]
fn q_3_a_table_may_lie_unaligned_and_across_regions() {
    let pieces = [(BUFFERS, 12), (BUFFERS + 12, 700), (BUFFERS + 712, 88)];
    for table in [BUFFERS + 1, BUFFERS + 0x1007] {
        let mut driver = Driver::new(8, 0);
        driver.table(0, table + 0x1000, &pieces, 0);
        driver.poke(BUFFERS, &pattern(800, 5));
        assert_eq!(verdict(&mut driver, MODERN), Ok(pattern(800, 5)));
    }
    for before in 1..48 {
        let mut driver = Driver::new(8, 0);
        driver.poke(BUFFERS, &pattern(800, 6));
        driver.table(0, SEAM - before, &pieces, 0);
        assert_eq!(
            verdict(&mut driver, MODERN),
            Ok(pattern(800, 6)),
            "{before}"
        );
    }
    // One entry is outside: of a chain that gets there, nothing is taken.
    let mut driver = Driver::new(8, 0);
    for i in 0..2u16 {
        driver.desc_at(CLIFF - 32 + 16 * u64::from(i), BUFFERS, 1, NEXT, i + 1);
    }
    driver.desc(0, CLIFF - 32, 48, INDIRECT, 0);
    assert_eq!(verdict(&mut driver, MODERN), Err(ChainFault::Unmapped));
}

#[test]
fn q_4_heads_and_nexts_beyond_the_table() {
    for head in [8u16, 9, 0x8000, 0xffff] {
        let mut driver = Driver::new(8, 0);
        let mut ring = ring(&driver);
        let mut burst = ChainBurst::new();
        driver.chain(0, &[(BUFFERS, 64)], 0);
        driver.offer([0, head, 0]);
        let verdicts = round(&driver, &mut ring, &mut burst).unwrap();
        assert_eq!(verdicts[1], Err(ChainFault::HeadOutOfRange));
        assert!(verdicts[0].is_ok() && verdicts[2].is_ok());
        assert_eq!(driver.returned(), [(0, 0), (u32::from(head), 0), (0, 0)]);
        assert!(!driver.memory.faulted());
    }
    for next in [8u16, 9, 0xffff] {
        let mut driver = Driver::new(8, 0);
        driver.desc(0, BUFFERS, 64, NEXT, next);
        assert_eq!(
            verdict(&mut driver, MODERN),
            Err(ChainFault::NextOutOfRange)
        );
    }
}

#[test]
fn q_4_a_next_into_a_chain_in_flight_is_only_read() {
    let mut driver = Driver::new(8, 0);
    let mut ring = ring(&driver);
    let mut burst = ChainBurst::new();
    driver.poke(BUFFERS, &pattern(100, 7));
    driver.chain(0, &[(BUFFERS, 40), (BUFFERS + 40, 60)], 0);
    driver.desc(2, BUFFERS, 40, NEXT, 1);
    driver.offer([0, 2, 1]);
    let verdicts = round(&driver, &mut ring, &mut burst).unwrap();
    let whole = pattern(100, 7);
    let tail = whole[40..].to_vec();
    assert_eq!(verdicts, [Ok(whole.clone()), Ok(whole), Ok(tail)]);
    assert_eq!(driver.returned(), [(0, 0), (2, 0), (1, 0)]);
}

#[test]
fn q_5_descriptors_of_length_zero_leave_nothing() {
    for addr in [BUFFERS, 0, u64::MAX, CLIFF] {
        let z = (addr, 0);
        let a = (BUFFERS, 12);
        let b = (BUFFERS + 12, 60);
        for pieces in [
            vec![z, a, b],
            vec![a, z, b],
            vec![a, b, z],
            vec![z, z, a, z, b, z],
        ] {
            let mut driver = Driver::new(8, 0);
            driver.poke(BUFFERS, &pattern(72, 8));
            driver.chain(0, &pieces, 0);
            assert_eq!(verdict(&mut driver, MODERN), Ok(pattern(72, 8)));
        }
        let mut driver = Driver::new(8, 0);
        driver.chain(0, &[z, z, z], 0);
        assert_eq!(verdict(&mut driver, MODERN), Ok(vec![]));
    }
}

#[test]
fn q_6_buffers_outside_of_memory() {
    let inside = (BUFFERS, 64);
    for outside in [
        (0, 1),
        (u64::MAX, 1),
        (u64::MAX - 63, 64),
        (u64::MAX - 10, 64),
        (CLIFF, 1),
        (CLIFF - 63, 64),
        (ISLAND - 1, 2),
        (ISLAND_END - 59, 60),
        (ISLAND_END, 1),
        (CLIFF - 1, 65_000),
    ] {
        for pieces in [
            vec![outside],
            vec![inside, outside],
            vec![outside, inside],
            vec![inside, outside, inside],
        ] {
            let mut driver = Driver::new(8, 0);
            driver.chain(0, &pieces, 0);
            assert_eq!(
                verdict(&mut driver, MODERN),
                Err(ChainFault::Unmapped),
                "{pieces:x?}"
            );
        }
    }
}

#[test]
fn q_6_a_buffer_may_go_on_in_the_adjacent_region() {
    for before in [1u64, 5, 11, 12, 13, 71] {
        let mut driver = Driver::new(8, 0);
        let bytes = pattern(72, before as usize);
        let (first, second) = bytes.split_at(before as usize);
        driver.poke(SEAM - before, first);
        driver.poke(SEAM, second);
        driver.chain(0, &[(SEAM - before, 72)], 0);
        assert_eq!(verdict(&mut driver, MODERN), Ok(bytes.clone()));
        driver.chain(0, &[(SEAM - before, 30), (SEAM - before + 30, 42)], 0);
        assert_eq!(verdict(&mut driver, MODERN), Ok(bytes));
    }
    // The last bytes of the last region are bytes like others.
    let mut driver = Driver::new(8, 0);
    driver.poke(ISLAND_END - 60, &pattern(60, 9));
    driver.chain(0, &[(ISLAND_END - 60, 60)], 0);
    assert_eq!(verdict(&mut driver, MODERN), Ok(pattern(60, 9)));
}

#[test]
fn q_7_the_longest_frame_and_one_byte_more() {
    let longest = MAX_FRAME + 12;
    let cases: [(&[(u64, u32)], bool); 7] = [
        (&[(BUFFERS, longest)], true),
        (&[(BUFFERS, longest + 1)], false),
        (&[(BUFFERS, 12), (BUFFERS, MAX_FRAME)], true),
        (&[(BUFFERS, 12), (BUFFERS, MAX_FRAME + 1)], false),
        (&[(BUFFERS, longest), (BUFFERS, 1)], false),
        (&[(BUFFERS, u32::MAX); 8], false),
        (&[(BUFFERS, 12), (BUFFERS, u32::MAX), (BUFFERS, 1)], false),
    ];
    for (pieces, fits) in cases {
        let mut driver = Driver::new(8, 0);
        driver.chain(0, pieces, 0);
        let expected = if fits {
            Ok(longest as usize)
        } else {
            Err(ChainFault::TooLong)
        };
        let got = verdict(&mut driver, MODERN).map(|frame| frame.len());
        assert_eq!(got, expected, "{pieces:x?}");
    }
}

#[test]
fn q_8_avail_jump_breaks_only_the_ring() {
    for (at, jump) in [
        (0u16, 9u16),
        (0, 40_000),
        (0, 65_535),
        (100, 65_535),
        (65_530, 9),
        (65_530, 60_000),
    ] {
        let driver = Driver::new(8, at);
        driver.chain(0, &[(BUFFERS, 64)], 0);
        let mut ring = ring(&driver);
        let mut burst = ChainBurst::new();
        let avail = at.wrapping_add(jump);
        driver.avail_idx(avail);
        let broken = RingBroken {
            avail,
            used: at,
            size: 8,
        };
        assert_eq!(round(&driver, &mut ring, &mut burst), Err(broken));
        assert_eq!(burst.chains().len(), 0);
        // It stays broken, also when the index is put right; nothing was popped or returned.
        driver.avail_idx(at.wrapping_add(1));
        assert_eq!(round(&driver, &mut ring, &mut burst), Err(broken));
        assert!(!ring.pending());
        assert!(!ring.enable_kicks());
        assert_eq!(driver.used_idx(), at);
        assert_eq!(ring.next(), at);
        // Stopped and started, it goes on.
        let mut ring = TxRing::start(driver.memory.clone(), driver.layout, MODERN).unwrap();
        assert_eq!(round(&driver, &mut ring, &mut burst).unwrap().len(), 1);
    }
}

/// An index that is another at each read: what is popped was offered by one of them, and all of it goes back.
#[test]
fn q_8_an_index_that_is_another_at_each_read() {
    let driver = Driver::new(8, 0);
    driver.chain(0, &[(BUFFERS, 64)], 0);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let layout = driver.layout;
        let writer = Driver {
            memory: driver.memory.clone(),
            layout,
            avail: 0,
            seen: 0,
        };
        let _stop = Stop(&stop);
        let stop = &stop;
        scope.spawn(move || {
            let mut index = 0u16;
            while !stop.load(Ordering::Relaxed) {
                index = index.wrapping_mul(25_173).wrapping_add(13_849);
                // Up to fifteen ahead, of which eight may be; and now and then anything.
                let near = writer.used_idx().wrapping_add(index >> 12);
                writer.avail_idx(if index & 15 == 0 { index } else { near });
            }
        });
        let (mut broke, mut popped) = (0, 0);
        let mut burst = ChainBurst::new();
        while broke < 1_000 || popped < 1_000 {
            let mut ring = ring(&driver);
            let from = ring.next();
            let mut back = 0;
            loop {
                match ring.collect(&mut burst, &mut PLENTY.clone()) {
                    Ok(count) => {
                        assert!(count <= 8);
                        ring.complete(&burst);
                        back += count;
                        popped += count;
                    }
                    Err(broken) => {
                        assert!(broken.avail.wrapping_sub(broken.used) > 8);
                        broke += 1;
                        break;
                    }
                }
                assert_eq!(ring.next(), from.wrapping_add(back as u16));
                assert_eq!(driver.used_idx(), ring.next());
            }
        }
    });
    assert!(!driver.memory.faulted());
}

#[test]
fn q_8_a_full_ring_is_not_a_jump() {
    for base in [0, 65_529, 65_535] {
        let mut driver = Driver::new(8, base);
        driver.chain(0, &[(BUFFERS, 64)], 0);
        let mut ring = ring(&driver);
        let mut burst = ChainBurst::new();
        driver.offer([0; 8]);
        assert_eq!(round(&driver, &mut ring, &mut burst).unwrap().len(), 8);
        assert_eq!(driver.returned(), [(0, 0); 8]);
    }
}

#[test]
fn q_8_an_index_that_goes_back_behind_what_was_popped_breaks_the_ring() {
    let mut driver = Driver::new(8, 0);
    driver.chain(0, &[(BUFFERS, 64)], 0);
    let mut ring = ring(&driver);
    let mut burst = ChainBurst::new();
    driver.offer([0; 4]);
    ring.collect(&mut burst, &mut PLENTY.clone()).unwrap();
    driver.avail_idx(2);
    assert!(
        ring.collect(&mut ChainBurst::new(), &mut PLENTY.clone())
            .is_err()
    );
    ring.complete(&burst);
    assert_eq!(driver.returned(), [(0, 0); 4]);
}

#[test]
fn q_8_a_head_offered_twice_is_returned_twice() {
    let mut driver = Driver::new(8, 0);
    driver.poke(BUFFERS, &pattern(64, 1));
    driver.chain(0, &[(BUFFERS, 64)], 0);
    let mut ring = ring(&driver);
    let mut burst = ChainBurst::new();
    driver.offer([0, 0, 0]);
    let verdicts = round(&driver, &mut ring, &mut burst).unwrap();
    assert_eq!(verdicts, vec![Ok(pattern(64, 1)); 3]);
    assert_eq!(driver.returned(), [(0, 0); 3]);
}

#[test]
fn q_9_a_writable_descriptor_makes_a_tx_chain_malformed() {
    let wrong = Err(ChainFault::WrongDirection);
    let mut driver = Driver::new(8, 0);
    driver.chain(0, &[(BUFFERS, 64)], WRITE);
    assert_eq!(verdict(&mut driver, MODERN), wrong);
    for odd in 0..3 {
        let mut driver = Driver::new(8, 0);
        driver.chain(0, &[(BUFFERS, 64); 3], 0);
        let more = if odd == 2 { 0 } else { NEXT };
        driver.desc(odd, BUFFERS, 64, WRITE | more, odd + 1);
        assert_eq!(verdict(&mut driver, MODERN), wrong, "{odd}");
        // Also when it has no byte.
        driver.desc(odd, BUFFERS, 0, WRITE | more, odd + 1);
        assert_eq!(verdict(&mut driver, MODERN), wrong, "{odd}");
    }
    let mut driver = Driver::new(8, 0);
    driver.table(0, BUFFERS + 0x1000, &[(BUFFERS, 64); 2], WRITE);
    assert_eq!(verdict(&mut driver, MODERN), wrong);
}

/// All ways to cut `len` bytes into pieces.
fn compositions(len: u32) -> impl Iterator<Item = Vec<u32>> {
    (0..1u32 << (len - 1)).map(move |cuts| {
        let mut pieces = vec![1];
        for byte in 1..len {
            if cuts >> (byte - 1) & 1 == 1 {
                pieces.push(1);
            } else {
                *pieces.last_mut().unwrap() += 1;
            }
        }
        pieces
    })
}

/// Cuts `[start, start + cut)` of a frame of `whole` bytes in all ways; each must come out linear.
fn every_cut(start: u32, cut: u32, whole: u32) {
    let mut driver = Driver::new(64, 0);
    let bytes = pattern(whole as usize, 11);
    driver.poke(BUFFERS, &bytes);
    let mut ring = ring(&driver);
    let mut burst = ChainBurst::new();
    for (number, mut lens) in compositions(cut).enumerate() {
        if start > 0 {
            lens.insert(0, start);
        }
        lens.push(whole - start - cut);
        if number % 2 == 1 {
            lens = lens.iter().flat_map(|len| [0, *len]).collect();
        }
        let mut offset = 0;
        let mut pieces = Vec::new();
        for len in lens {
            pieces.push((BUFFERS + u64::from(offset), len));
            offset += len;
        }
        if number % 3 == 0 {
            driver.table(0, BUFFERS + 0x8000, &pieces, 0);
        } else {
            driver.chain(0, &pieces, 0);
        }
        driver.offer([0]);
        let verdicts = round(&driver, &mut ring, &mut burst).unwrap();
        assert_eq!(verdicts, [Ok(bytes.clone())], "{pieces:x?}");
        assert_eq!(driver.returned(), [(0, 0)]);
    }
}

#[test]
fn q_10_the_vnet_header_in_every_composition() {
    every_cut(0, 12, 72);
    every_cut(0, 10, 70);
}

#[test]
fn q_10_the_ethernet_header_in_every_composition() {
    every_cut(12, 14, 72);
}

#[test]
fn q_11_short_chains_are_chains() {
    for len in 0..26u32 {
        let mut driver = Driver::new(8, 0);
        driver.poke(BUFFERS, &pattern(26, 12));
        driver.chain(0, &[(BUFFERS, len)], 0);
        let bytes = pattern(26, 12)[..len as usize].to_vec();
        assert_eq!(verdict(&mut driver, MODERN), Ok(bytes));
    }
}

#[test]
fn q_12_buffers_and_tables_may_lie_in_the_rings() {
    let mut driver = Driver::new(8, 0);
    let layout = driver.layout;
    driver.chain(
        0,
        &[(layout.used, 64), (layout.avail, 20), (layout.desc, 8 * 16)],
        0,
    );
    let got = verdict(&mut driver, MODERN).unwrap();
    assert_eq!(got.len(), 64 + 20 + 128);
    // The table of a chain is the descriptor table itself: head 0 names head 1 as its table.
    let mut driver = Driver::new(8, 0);
    driver.poke(BUFFERS, &pattern(64, 1));
    driver.desc(0, layout.desc + 16, 16, INDIRECT, 0);
    driver.desc(1, BUFFERS, 64, 0, 0);
    assert_eq!(verdict(&mut driver, MODERN), Ok(pattern(64, 1)));
}

/// Ends the other thread, also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn q_13_a_table_rewritten_during_the_walk_never_leaves_memory() {
    let mut driver = Driver::new(64, 0);
    let table = BUFFERS + 0x8000;
    for i in 0..64 {
        driver.table(i, table, &[(BUFFERS, 12), (BUFFERS + 12, 60)], 0);
    }
    let mut ring = ring(&driver);
    let mut burst = ChainBurst::new();
    let stop = AtomicBool::new(false);
    let rounds = if cfg!(debug_assertions) { 400 } else { 20_000 };
    std::thread::scope(|scope| {
        let layout = driver.layout;
        let flipper = Driver {
            memory: driver.memory.clone(),
            layout,
            avail: 0,
            seen: 0,
        };
        let _stop = Stop(&stop);
        let stop = &stop;
        scope.spawn(move || {
            let addrs = [BUFFERS, SEAM - 20, CLIFF - 20, u64::MAX - 3, 0, table];
            let lens = [0, 12, 60, 32, 4096, 70_000, u32::MAX];
            let flags = [0, NEXT, WRITE, INDIRECT, NEXT | INDIRECT, NEXT, 0];
            let mut step = 0usize;
            while !stop.load(Ordering::Relaxed) {
                step = step.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(99);
                let r = step >> 20;
                let (addr, len) = (addrs[r % 6], lens[(r >> 8) % 7]);
                let flags = flags[(r >> 16) % 7];
                let next = (r >> 24) as u16 % 70;
                flipper.desc((r >> 30) as u16 % 64, addr, len, flags, next);
                flipper.desc_at(table + 16 * (r as u64 % 4), addr, len, flags, next);
                let entry = layout.avail + 4 + 2 * ((r >> 4) as u64 % 64);
                flipper.poke(entry, &(next).to_le_bytes());
            }
        });
        for round_number in 0..rounds {
            driver.offer((0..64).map(|i| (i * 7 + round_number as u16) % 64));
            let verdicts = round(&driver, &mut ring, &mut burst).unwrap();
            assert_eq!(verdicts.len(), 64);
            for frame in verdicts.into_iter().flatten() {
                assert!(frame.len() <= (MAX_FRAME + 12) as usize);
            }
            assert_eq!(driver.returned().len(), 64);
        }
    });
    assert!(!driver.memory.faulted());
}

#[test]
fn q_21_a_visit_costs_its_budget_and_one_chain() {
    let mut driver = Driver::new(1024, 0);
    let table = BUFFERS + 0x1_0000;
    let pieces: Vec<_> = (0..1024).map(|i| (BUFFERS + i, 1)).collect();
    for head in 0..256 {
        driver.desc(head, table, 16 * 1024, INDIRECT, 0);
    }
    driver.table(0, table, &pieces, 0);
    driver.offer(0..256);
    let mut ring = ring(&driver);
    let mut burst = ChainBurst::new();
    let mut visits = 0;
    let mut seen = 0;
    while seen < 256 {
        let mut budget = Budget {
            frames: 256,
            bytes: 1 << 20,
            descriptors: 2000,
        };
        let count = ring.collect(&mut burst, &mut budget).unwrap();
        assert!((1..=2).contains(&count), "{count}");
        assert_eq!(budget.descriptors, if count == 2 { 0 } else { 975 });
        assert!(burst.chains().iter().all(|chain| chain.len == 1024));
        ring.complete(&burst);
        seen += count;
        visits += 1;
    }
    assert_eq!(visits, 128);
    assert_eq!(driver.returned().len(), 256);
}

#[test]
fn q_21_malformed_chains_cost_descriptors_too() {
    let mut driver = Driver::new(1024, 0);
    driver.desc(0, BUFFERS, 1, NEXT, 0); // a loop: 1024 descriptors
    driver.offer([0; 64]);
    let mut ring = ring(&driver);
    let mut burst = ChainBurst::new();
    let mut budget = Budget {
        frames: 64,
        bytes: 1 << 20,
        descriptors: 4096,
    };
    assert_eq!(ring.collect(&mut burst, &mut budget), Ok(4));
    assert_eq!(budget.frames, 60);
    ring.complete(&burst);
    assert_eq!(driver.returned(), [(0, 0); 4]);
}

#[test]
fn q_21_a_full_arena_ends_the_burst_and_loses_nothing() {
    let mut driver = Driver::new(1024, 0);
    // Each piece lies across two regions, so that a chain of 1024 needs 2048 extents.
    let pieces = vec![(SEAM - 1, 2); 1024];
    driver.poke(SEAM - 1, &[1]);
    driver.poke(SEAM, &[2]);
    driver.table(0, BUFFERS, &pieces, 0);
    driver.offer([0; 10]);
    let mut ring = ring(&driver);
    let mut burst = ChainBurst::new();
    let mut total = 0;
    while total < 10 {
        let verdicts = round(&driver, &mut ring, &mut burst).unwrap();
        assert_eq!(verdicts.len(), 2);
        for verdict in verdicts {
            assert_eq!(verdict, Ok([1, 2].repeat(1024)));
            total += 1;
        }
    }
    assert_eq!(driver.returned(), [(0, 0); 10]);
}

#[test]
fn budgets_of_frames_and_bytes_end_a_burst() {
    let mut driver = Driver::new(64, 0);
    driver.chain(0, &[(BUFFERS, 1000)], 0);
    driver.offer([0; 40]);
    let mut ring = ring(&driver);
    let mut burst = ChainBurst::new();
    let mut budget = Budget {
        frames: 10,
        bytes: 1 << 20,
        descriptors: 1000,
    };
    assert_eq!(ring.collect(&mut burst, &mut budget), Ok(10));
    ring.complete(&burst);
    assert_eq!(budget.frames, 0);
    assert_eq!(budget.bytes, (1 << 20) - 10_000);
    assert_eq!(budget.descriptors, 990);
    assert_eq!(ring.collect(&mut burst, &mut budget), Ok(0));
    let mut budget = Budget {
        frames: 64,
        bytes: 2500,
        descriptors: 1000,
    };
    assert_eq!(ring.collect(&mut burst, &mut budget), Ok(3));
    ring.complete(&burst);
    assert_eq!(budget.bytes, 0);
    // What was copied ahead and not taken comes with the next visit.
    assert_eq!(round(&driver, &mut ring, &mut burst).unwrap().len(), 27);
    assert_eq!(driver.returned().len(), 40);
}
