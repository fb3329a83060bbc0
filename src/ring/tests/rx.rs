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
