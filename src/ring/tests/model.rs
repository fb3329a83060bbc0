//! Random descriptor tables: the walk must say what an obvious one says.

use proptest::collection::vec;
use proptest::prelude::*;

use super::double::*;
use crate::ring::ChainFault as Fault;
use crate::ring::*;

/// Where the indirect tables of these tests lie: aligned, unaligned, across two regions, and with the
/// end outside.
const TABLES: [u64; 4] = [
    BUFFERS + 0x8_0000,
    BUFFERS + 0x8_1001,
    SEAM - 40,
    CLIFF - 24,
];

#[derive(Clone, Copy, Debug)]
struct Desc {
    addr: u64,
    len: u32,
    flags: u16,
    next: u16,
}

fn mapped(addr: u64) -> bool {
    (0x10_0000..CLIFF).contains(&addr) || (ISLAND..ISLAND_END).contains(&addr)
}

/// The addresses of a buffer's bytes, one by one.
fn addresses(addr: u64, len: u32) -> Option<Vec<u64>> {
    (0..u64::from(len))
        .map(|i| addr.checked_add(i).filter(|at| mapped(*at)))
        .collect()
}

fn read(driver: &Driver, at: u64) -> Option<Desc> {
    let bytes: Vec<u8> = addresses(at, 16)?
        .iter()
        .map(|at| driver.peek(*at, 1)[0])
        .collect();
    let field = |from: usize, to: usize| {
        bytes[from..to]
            .iter()
            .rev()
            .fold(0u64, |value, byte| value << 8 | u64::from(*byte))
    };
    Some(Desc {
        addr: field(0, 8),
        len: field(8, 12) as u32,
        flags: field(12, 14) as u16,
        next: field(14, 16) as u16,
    })
}

/// First flattens the chain, then judges it descriptor by descriptor. `cap` is the longest frame (TX) or
/// the bytes wanted (RX). Gives the addresses of the bytes.
fn model(driver: &Driver, head: u16, writable: bool, cap: u32) -> Result<Vec<u64>, Fault> {
    let size = driver.layout.size;
    let mut flat: Vec<Result<Desc, Fault>> = Vec::new();
    let mut table = driver.layout.desc;
    let mut entries = u32::from(size);
    let mut index = u32::from(head);
    let mut inside = false;
    while flat.len() <= usize::from(size) {
        let Some(desc) = read(driver, table + 16 * u64::from(index)) else {
            flat.push(Err(Fault::Unmapped));
            break;
        };
        if desc.flags & INDIRECT != 0 {
            let fault = if inside {
                Fault::IndirectNested
            } else if desc.flags & NEXT != 0 {
                Fault::IndirectChained
            } else if desc.len == 0 || desc.len % 16 != 0 || desc.len > 16 * u32::from(size) {
                Fault::IndirectLength
            } else if !mapped(desc.addr) {
                Fault::Unmapped
            } else {
                (table, entries, index, inside) = (desc.addr, desc.len / 16, 0, true);
                continue;
            };
            flat.push(Err(fault));
            break;
        }
        flat.push(Ok(desc));
        if desc.flags & NEXT == 0 {
            break;
        }
        index = u32::from(desc.next);
        if index >= entries {
            flat.push(Err(Fault::NextOutOfRange));
            break;
        }
    }
    let mut bytes = Vec::new();
    for (number, desc) in flat.into_iter().enumerate() {
        // The one beyond the limit is not looked at, except for where it is.
        if number == usize::from(size) && !(inside && matches!(desc, Err(Fault::NextOutOfRange))) {
            return Err(Fault::TooManyDescriptors);
        }
        let desc = desc?;
        if (desc.flags & WRITE != 0) != writable {
            return Err(Fault::WrongDirection);
        }
        let room = cap - bytes.len() as u32;
        if !writable && desc.len > room {
            return Err(Fault::TooLong);
        }
        let taken = desc.len.min(room);
        bytes.extend(addresses(desc.addr, taken).ok_or(Fault::Unmapped)?);
    }
    if writable && bytes.is_empty() {
        return Err(Fault::Empty);
    }
    Ok(bytes)
}

fn address() -> impl Strategy<Value = u64> {
    let place = prop_oneof![
        6 => Just(BUFFERS),
        1 => Just(SEAM),
        1 => Just(CLIFF),
        1 => Just(ISLAND),
        1 => Just(ISLAND_END),
        1 => Just(0u64),
    ];
    (place, 0u64..400).prop_map(|(place, offset)| place.wrapping_add(offset).wrapping_sub(100))
}

fn length() -> impl Strategy<Value = u32> {
    prop_oneof![
        2 => Just(0u32),
        10 => 0u32..200,
        1 => 60_000u32..70_000,
        1 => Just(u32::MAX),
    ]
}

/// A descriptor, mostly of the right direction, going on to one of `next`.
fn descriptor(writable: bool, next: u16) -> impl Strategy<Value = Desc> {
    let right = if writable { WRITE } else { 0 };
    let flags = prop_oneof![
        8 => Just(right | NEXT),
        6 => Just(right),
        1 => Just((right ^ WRITE) | NEXT),
        1 => any::<u16>(),
    ];
    (address(), length(), flags, 0..next).prop_map(|(addr, len, flags, next)| Desc {
        addr,
        len,
        flags,
        next,
    })
}

/// A descriptor that names one of the tables.
fn pointer() -> impl Strategy<Value = Desc> {
    let len = prop_oneof![8 => (0u32..10).prop_map(|n| 16 * n), 1 => 0u32..200];
    let flags = prop_oneof![
        8 => Just(INDIRECT),
        1 => Just(INDIRECT | WRITE),
        1 => Just(INDIRECT | NEXT)
    ];
    (0..TABLES.len(), len, flags).prop_map(|(table, len, flags)| Desc {
        addr: TABLES[table],
        len,
        flags,
        next: 0,
    })
}

fn anything(writable: bool) -> impl Strategy<Value = Desc> {
    prop_oneof![4 => descriptor(writable, 9), 1 => pointer()]
}

/// The ring's table of eight, and nine entries for each indirect one.
fn tables(writable: bool) -> impl Strategy<Value = (Vec<Desc>, Vec<Desc>)> {
    (
        vec(anything(writable), 8),
        vec(descriptor(writable, 10), 36),
    )
}

/// Writes the tables, and a pattern wherever buffers may lie.
fn build(ring: &[Desc], indirect: &[Desc]) -> Driver {
    let driver = Driver::new(8, 0);
    for (at, len) in [
        (BUFFERS - 100, 70_000),
        (SEAM - 70_200, 70_200),
        (SEAM, 70_500),
        (CLIFF - 70_200, 70_200),
        (ISLAND, 70_500),
        (ISLAND_END - 70_200, 70_200),
    ] {
        driver.poke(at, &pattern(len, at as usize >> 12));
    }
    for (index, desc) in (0..).zip(ring) {
        driver.desc(index, desc.addr, desc.len, desc.flags, desc.next);
    }
    for (number, desc) in indirect.iter().enumerate() {
        let at = TABLES[number / 9] + 16 * (number as u64 % 9);
        if addresses(at, 16).is_some() {
            driver.desc_at(at, desc.addr, desc.len, desc.flags, desc.next);
        }
    }
    driver
}

fn bytes_at(driver: &Driver, addresses: &[u64]) -> Vec<u8> {
    addresses.iter().map(|at| driver.peek(*at, 1)[0]).collect()
}

proptest! {
    #[test]
    fn tx_chains_are_judged_as_an_obvious_walk_judges_them(
        (ring, indirect) in tables(false),
        heads in vec(0u16..9, 1..8),
    ) {
        let mut driver = build(&ring, &indirect);
        let mut tx = TxRing::start(driver.memory.clone(), driver.layout, MODERN).unwrap();
        let mut burst = ChainBurst::new();
        let mut budget = Budget { frames: 8, bytes: u32::MAX, descriptors: u32::MAX };
        driver.offer(heads.iter().copied());
        prop_assert_eq!(tx.collect(&mut burst, &mut budget), Ok(heads.len()));
        for (chain, head) in burst.chains().iter().zip(&heads) {
            let expected = if *head < 8 {
                model(&driver, *head, false, MAX_FRAME + 12)
            } else {
                Err(Fault::HeadOutOfRange)
            };
            let got = chain.fault.map_or_else(|| Ok(driver.gather(burst.extents(chain))), Err);
            prop_assert_eq!(got, expected.map(|at| bytes_at(&driver, &at)));
        }
        tx.complete(&burst);
        let returned: Vec<_> = heads.iter().map(|head| (u32::from(*head), 0)).collect();
        prop_assert_eq!(driver.returned(), returned);
        prop_assert!(!driver.memory.faulted());
    }

    #[test]
    fn rx_room_is_found_as_an_obvious_walk_finds_it(
        (ring, indirect) in tables(true),
        heads in vec(0u16..9, 1..8),
        mergeable: bool,
        wanted in vec(prop_oneof![1u32..200, Just(1526u32), Just(65_562)], 1..6),
    ) {
        let mut driver = build(&ring, &indirect);
        let negotiated = Negotiated { mergeable, ..MODERN };
        let mut rx = RxRing::start(driver.memory.clone(), driver.layout, negotiated).unwrap();
        let mut slots = Slots::new();
        driver.offer(heads.iter().copied());
        let mut left = &heads[..];
        let mut elements: Vec<(u32, u32)> = Vec::new();
        let mut malformed = 0;
        rx.begin().unwrap();
        for bytes in wanted {
            // The model: chains are gathered until the frame fits, malformed ones start it again.
            let (mut rest, mut gathered, mut at) = (left, Vec::new(), Vec::new());
            let outcome = loop {
                let [head, others @ ..] = rest else { break Err(ReserveError::NoBuffers) };
                let room = bytes - at.len() as u32;
                let judged = if *head < 8 {
                    model(&driver, *head, true, room)
                } else {
                    Err(Fault::HeadOutOfRange)
                };
                match judged {
                    Err(_) => {
                        malformed += 1;
                        elements.extend(gathered.drain(..).map(|(head, _)| (head, 0)));
                        elements.push((u32::from(*head), 0));
                        at.clear();
                        left = others;
                    }
                    Ok(filled) if !mergeable && (filled.len() as u32) < bytes => {
                        break Err(ReserveError::TooSmall);
                    }
                    Ok(filled) => {
                        gathered.push((u32::from(*head), filled.len() as u32));
                        at.extend(filled);
                    }
                }
                rest = others;
                if at.len() as u32 == bytes {
                    left = rest;
                    break Ok(gathered.len());
                }
            };
            match rx.reserve(bytes, &mut slots) {
                Ok(reserved) => {
                    prop_assert_eq!(Ok(usize::from(reserved.buffers)), outcome);
                    let got = driver.gather(slots.extents(&reserved));
                    prop_assert_eq!(got, bytes_at(&driver, &at));
                    elements.extend(gathered);
                }
                Err(error) => prop_assert_eq!(Err(error), outcome),
            }
        }
        rx.publish();
        prop_assert_eq!(driver.returned(), elements);
        prop_assert_eq!(rx.take_malformed().count, malformed);
        prop_assert!(!driver.memory.faulted());
    }
}
