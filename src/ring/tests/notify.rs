//! Who tells whom, and when not.

use super::double::*;
use crate::ring::*;

const EVENTS: Negotiated = Negotiated {
    event_idx: true,
    ..MODERN
};

fn burst_of(ring: &mut TxRing, driver: &mut Driver, count: u16) {
    let mut burst = ChainBurst::new();
    let mut budget = Budget {
        frames: 64,
        bytes: u32::MAX,
        descriptors: u32::MAX,
    };
    driver.offer((0..count).map(|_| 0));
    assert_eq!(
        ring.collect(&mut burst, &mut budget),
        Ok(usize::from(count))
    );
    ring.complete(&burst);
}

fn started(size: u16, base: u16, negotiated: Negotiated) -> (Driver, TxRing) {
    let driver = Driver::new(size, base);
    driver.chain(0, &[(BUFFERS, 64)], 0);
    let ring = TxRing::start(driver.memory.clone(), driver.layout, negotiated).unwrap();
    (driver, ring)
}

#[test]
fn q_19_flags_suppress_and_a_burst_notifies_once() {
    let (mut driver, mut ring) = started(16, 0, MODERN);
    burst_of(&mut ring, &mut driver, 5);
    assert!(ring.should_notify());
    assert!(!ring.should_notify());
    driver.avail_flags(1);
    burst_of(&mut ring, &mut driver, 5);
    assert!(!ring.should_notify());
    driver.avail_flags(0);
    burst_of(&mut ring, &mut driver, 5);
    assert!(ring.should_notify());
}

#[test]
fn q_19_events_notify_when_the_burst_passes_the_index() {
    let (mut driver, mut ring) = started(16, 65_530, EVENTS);
    driver.avail_flags(1); // means nothing with EVENT_IDX
    driver.used_event(7);
    burst_of(&mut ring, &mut driver, 1);
    assert!(ring.should_notify(), "the first look always notifies");
    burst_of(&mut ring, &mut driver, 12); // used index 65531 -> 7: element 7 is not yet used
    assert!(!ring.should_notify());
    burst_of(&mut ring, &mut driver, 1);
    assert!(ring.should_notify());
    burst_of(&mut ring, &mut driver, 1);
    assert!(!ring.should_notify(), "used_event lies behind");
    driver.used_event(9);
    burst_of(&mut ring, &mut driver, 16);
    assert!(ring.should_notify(), "it lies amid the burst");
}

#[test]
fn kicks_by_flag_are_enabled_with_a_second_look() {
    let (mut driver, mut ring) = started(16, 0, MODERN);
    assert_eq!(driver.used_flags(), 0);
    ring.disable_kicks();
    assert_eq!(driver.used_flags(), 1);
    assert!(!ring.enable_kicks());
    assert_eq!(driver.used_flags(), 0);
    ring.disable_kicks();
    driver.offer([0]);
    assert!(ring.pending());
    assert!(ring.enable_kicks());
}

#[test]
fn kicks_by_event_are_enabled_with_a_second_look() {
    let (mut driver, mut ring) = started(16, 65_535, EVENTS);
    assert_eq!((driver.used_flags(), driver.avail_event()), (0, 65_535));
    ring.disable_kicks();
    burst_of(&mut ring, &mut driver, 3);
    assert!(!ring.enable_kicks());
    assert_eq!((driver.used_flags(), driver.avail_event()), (0, 2));
    driver.offer([0]);
    assert!(ring.enable_kicks());
}

#[test]
fn a_start_undoes_what_an_earlier_user_of_the_ring_asked() {
    let (driver, mut ring) = started(16, 0, MODERN);
    ring.disable_kicks();
    drop(ring);
    let _ring = TxRing::start(driver.memory.clone(), driver.layout, MODERN).unwrap();
    assert_eq!(driver.used_flags(), 0);
}

#[test]
fn an_rx_ring_never_asks_for_kicks() {
    let driver = Driver::new(16, 100);
    let _flags = RxRing::start(driver.memory.clone(), driver.layout, MODERN).unwrap();
    assert_eq!(driver.used_flags(), 1);
    let _events = RxRing::start(driver.memory.clone(), driver.layout, EVENTS).unwrap();
    assert_eq!((driver.used_flags(), driver.avail_event()), (0, 99));
}

#[test]
fn a_published_burst_notifies_by_the_same_rules() {
    let mut driver = Driver::new(16, 0);
    driver.desc(0, BUFFERS, 2048, WRITE, 0);
    let mut ring = RxRing::start(driver.memory.clone(), driver.layout, EVENTS).unwrap();
    let mut slots = Slots::new();
    driver.used_event(4);
    driver.offer([0; 6]);
    let told: Vec<bool> = (0..6)
        .map(|_| {
            ring.begin().unwrap();
            ring.reserve(72, &mut slots).unwrap();
            ring.publish()
        })
        .collect();
    assert_eq!(told, [true, false, false, false, true, false]);
}
