//! indices wrap at 65,535, entries at the ring's size, and nobody notices.

use super::double::*;
use crate::ring::*;

/// Frames for each ring size: the index passes 65,535 fifteen times.
const FRAMES: u32 = 1_000_000;

/// Buffers lie in slots of 64 bytes, one for each descriptor.
fn slot(head: u16) -> u64 {
    BUFFERS + 64 * u64::from(head)
}

/// A stream of numbers without a pattern, for batch sizes.
fn step(state: &mut u32) -> u32 {
    *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    *state >> 16
}

fn sizes() -> impl Iterator<Item = u16> {
    (0..16).map(|power| 1u16 << power)
}

#[test]
fn q_20_tx_wraps_at_every_size() {
    for size in sizes() {
        let mut driver = Driver::new(size, 65_500);
        let mut ring = TxRing::start(driver.memory.clone(), driver.layout, MODERN).unwrap();
        let mut burst = ChainBurst::new();
        for head in 0..size {
            driver.desc(head, slot(head), 64, 0, 0);
        }
        let (mut sent, mut received, mut state) = (0u32, 0u32, u32::from(size));
        let mut in_flight = 0u32;
        while received < FRAMES {
            let free = u32::from(size) - in_flight;
            let batch = if free == 0 {
                0
            } else {
                1 + step(&mut state) % free
            };
            let first = sent;
            sent += batch;
            let heads: Vec<u16> = (first..sent)
                .map(|n| (n % u32::from(size)) as u16)
                .collect();
            for (number, head) in (first..sent).zip(&heads) {
                driver.poke(slot(*head), &number.to_le_bytes());
            }
            driver.offer(heads);
            in_flight += batch;
            let mut budget = Budget {
                frames: 1 + step(&mut state) % 64,
                bytes: 1 << 20,
                descriptors: 64,
            };
            ring.collect(&mut burst, &mut budget).unwrap();
            for chain in burst.chains() {
                assert_eq!((chain.len, chain.fault), (64, None));
                let bytes = driver.gather(burst.extents(chain));
                assert_eq!(bytes[..4], received.to_le_bytes());
                received += 1;
            }
            ring.complete(&burst);
            let done = burst.chains().len() as u32;
            let expected = received - done;
            for (element, number) in driver.returned().iter().zip(expected..) {
                assert_eq!(*element, (number % u32::from(size), 0));
            }
            in_flight -= done;
            assert_eq!(driver.seen, 65_500u16.wrapping_add(received as u16));
        }
    }
}

#[test]
fn q_20_rx_wraps_at_every_size() {
    for size in sizes() {
        let mut driver = Driver::new(size, 65_500);
        let mut ring = RxRing::start(driver.memory.clone(), driver.layout, MODERN).unwrap();
        let mut slots = Slots::new();
        for head in 0..size {
            driver.desc(head, slot(head), 64, WRITE, 0);
        }
        let (mut posted, mut used, mut state) = (0u32, 0u32, u32::from(size));
        while used < FRAMES {
            let free = u32::from(size) - (posted - used);
            let batch = if free == 0 {
                0
            } else {
                1 + step(&mut state) % free
            };
            driver.offer((posted..posted + batch).map(|n| (n % u32::from(size)) as u16));
            posted += batch;
            slots.clear();
            ring.begin().unwrap();
            let before = used;
            for _ in 0..1 + step(&mut state) % 64 {
                let buffers = 1 + step(&mut state) % 3;
                let bytes = 64 * buffers - step(&mut state) % 64;
                match ring.reserve(bytes, &mut slots) {
                    Ok(reserved) => {
                        assert_eq!(u32::from(reserved.buffers), buffers);
                        let stream = pattern(bytes as usize, used as usize);
                        driver.scatter(slots.extents(&reserved), &stream);
                        used += buffers;
                        assert!(used <= posted);
                    }
                    Err(error) => {
                        assert_eq!(error, ReserveError::NoBuffers);
                        assert!(used + buffers > posted);
                    }
                }
            }
            ring.publish();
            let heads = (before..used).map(|n| n % u32::from(size));
            let returned = driver.returned();
            assert!(returned.iter().map(|element| element.0).eq(heads));
            assert!(returned.iter().all(|element| (1..=64).contains(&element.1)));
            assert_eq!(ring.next(), 65_500u16.wrapping_add(used as u16));
        }
    }
}
