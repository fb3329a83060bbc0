//! The forward path in one process: cycles and nanoseconds a frame, beside its bounds.
//!
//! One worker is turned by hand between guests whose rings the benchmark refills with two stores a burst, so what is
//! measured is the switch's own side: chains, snapshot, guard, learning, lookup, copy, both used rings. The bounds are
//! measured in the same run: `memcpy`, the same bytes copied from the same buffers to the same buffers; `descriptors`, the
//! path with frames of 14 bytes, which leaves little but the rings.
//!
//! ```sh
//! cargo bench --bench forward            # medians of several rounds
//! cargo bench --bench forward -- --test  # each case once
//! cargo bench --bench forward -- "64 B"  # the cases with exactly that name
//! cargo bench --bench forward -- "64 B" --rounds=1000  # so many rounds of 128 frames, once: see below
//! ```
//!
//! Instructions repeat where cycles do not: run the executable with two numbers of rounds under `valgrind
//! --tool=callgrind --toggle-collect='*Crank*turn*'`; the difference over the difference of the frames is what one costs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use double::{Double, HEADER, RING, switch, turn};
use portcullis::clock::{Clock, Tick};
use portcullis::counters::PortId;
use portcullis::datapath::crank::Crank;
use portcullis::fabric::{Fdb, FdbLimits};
use portcullis::policy::{Policy, State};

mod double;
#[path = "double/lists.rs"]
mod lists;

struct Case {
    name: &'static str,
    frame: usize,
    burst: u16,
    ports: u16,
    spread: bool,
    addresses: u32,
    gate: Rules,
    /// Connections that the frames of a pair of ports belong to, under a policy.
    flows: u32,
}

/// What the frames are judged by.
#[derive(Clone, Copy, PartialEq)]
enum Rules {
    /// No policy.
    None,
    /// Port security: declared MAC and IP addresses.
    Security,
    /// The same, and a stateful list of so many rules for what is sent and what is received; the last one matches.
    List(u32),
}

struct Figures {
    cycles: f64,
    nanos: f64,
    memcpy: f64,
}

fn run(case: &Case, clock: &Clock, rounds: u32, passes: u32) -> Figures {
    let fdb = Arc::new(Fdb::new(FdbLimits {
        capacity: 1 << 17,
        per_port: 1 << 17,
        ..FdbLimits::default()
    }));
    let (lanes, mut gate) = switch(case.ports, fdb.clone());
    if case.gate != Rules::None {
        gate.policy = policy(case);
    }
    for other in 0..case.addresses {
        let address = portcullis::frame::Mac::from_bits(0x0a00_0000_0000 | u64::from(other));
        let _ = fdb.learn(
            PortId::new(1).unwrap(),
            portcullis::frame::Vid::DEFAULT,
            address,
            Tick::ZERO,
        );
    }
    // Each pair of ports talks both ways, in turn.
    let mut guests: Vec<_> = (0..case.ports)
        .map(|index| {
            Double::new(
                index,
                index ^ 1,
                case.frame,
                case.spread,
                &lanes[usize::from(index)],
            )
        })
        .collect();
    if case.gate != Rules::None {
        for (guest, index) in guests.iter().zip(0..) {
            guest.speak_udp(index, index ^ 1, case.frame);
        }
    }
    let mut crank = Crank::new(lanes.clone(), gate);
    // Both ends are known before the clock runs.
    for index in 0..case.ports {
        turn(&mut crank, &mut guests, index, case.burst);
    }
    if case.gate != Rules::None {
        // Every connection is open before the clock runs, and was met by its second packet too.
        for _ in 0..2 * case.flows.div_ceil(case.burst.into()) + 2 {
            for index in 0..case.ports {
                guests[usize::from(index)].choose_flows(index, case.burst, case.flows);
                timed_turn(&mut crank, &mut guests, index, case.burst, clock);
            }
        }
    }
    let mut cycles = Vec::new();
    for _ in 0..passes {
        let mut spent = 0;
        for _ in 0..rounds {
            for index in 0..case.ports {
                if case.flows > 1 {
                    guests[usize::from(index)].choose_flows(index, case.burst, case.flows);
                }
                spent += timed_turn(&mut crank, &mut guests, index, case.burst, clock);
            }
        }
        cycles
            .push(spent as f64 / f64::from(rounds) / f64::from(case.ports) / f64::from(case.burst));
    }
    for lanes in &lanes {
        let books = lanes.counters().snapshot();
        assert_eq!(
            books.ingress.received,
            books.ingress.forwarded + books.ingress.dropped.total()
        );
        assert!(
            books.ingress.dropped.total() <= u64::from(case.burst),
            "{:?}",
            books.ingress.dropped
        );
    }
    let cycles = median(&mut cycles);
    let memcpy = copy_bound(case, &guests, clock, rounds, passes);
    let nanos = clock.nanos_between(0, (cycles * 1e6) as u64) as f64 / 1e6;
    Figures {
        cycles,
        nanos,
        memcpy,
    }
}

/// The policy of a case, compiled.
fn policy(case: &Case) -> Policy {
    let rules = match case.gate {
        Rules::List(count) => Some(lists::rules(count)),
        Rules::None | Rules::Security => None,
    };
    lists::policy(case.ports, rules, case.flows, 1, State::new())
}

fn timed_turn(
    crank: &mut Crank,
    guests: &mut [Double],
    index: u16,
    burst: u16,
    clock: &Clock,
) -> u64 {
    guests[usize::from(index)].offer(burst);
    guests[usize::from(index ^ 1)].accept(burst);
    let start = clock.cycles();
    let taken = crank
        .turn(PortId::new(index).unwrap(), 0, Tick::from_secs(1))
        .unwrap();
    let spent = clock.cycles() - start;
    assert_eq!(taken, u32::from(burst));
    spent
}

/// The same bytes between the same buffers, and nothing else.
fn copy_bound(case: &Case, guests: &[Double], clock: &Clock, rounds: u32, passes: u32) -> f64 {
    let len = HEADER + case.frame as u64;
    let slices: Vec<Vec<_>> = (0..case.ports)
        .map(|index| {
            let (from, to) = (&guests[usize::from(index)], &guests[usize::from(index ^ 1)]);
            (0..RING)
                .map(|entry| {
                    (
                        from.memory.slice(from.tx_buffer(entry), len).unwrap(),
                        to.memory.slice(to.rx_buffer(entry), len).unwrap(),
                    )
                })
                .collect()
        })
        .collect();
    let mut cycles = Vec::new();
    let mut at = 0;
    for _ in 0..passes {
        let mut spent = 0;
        for _ in 0..rounds {
            for pairs in &slices {
                let start = clock.cycles();
                for offset in 0..usize::from(case.burst) {
                    let (from, to) = &pairs[(at + offset) % usize::from(RING)];
                    from.copy_to_volatile_slice(black_box(*to));
                }
                spent += clock.cycles() - start;
            }
            at += usize::from(case.burst);
        }
        cycles
            .push(spent as f64 / f64::from(rounds) / f64::from(case.ports) / f64::from(case.burst));
    }
    std::sync::atomic::fence(Ordering::SeqCst);
    median(&mut cycles)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    // `cargo bench` says `--bench`; `cargo test --benches` does not, and wants to see that everything still works.
    let says = |word: &str| std::env::args().any(|argument| argument == word);
    let once = says("--test") || !says("--bench");
    let only: Vec<_> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with("--"))
        .collect();
    let counted = std::env::args().find_map(|argument| {
        let rounds = argument.strip_prefix("--rounds=")?;
        rounds.parse::<u32>().ok()
    });
    let (rounds, passes) = match counted {
        Some(rounds) => (rounds, 1),
        None if once => (4, 1),
        None => (2_000, 21),
    };
    let clock = Clock::new();
    let case = |name, frame, burst, ports, spread, addresses| Case {
        name,
        frame,
        burst,
        ports,
        spread,
        addresses,
        gate: Rules::None,
        flows: 1,
    };
    let judged = |name, frame, gate, flows| Case {
        gate,
        flows,
        ..case(name, frame, 64, 2, false, 0)
    };
    let cases = [
        case("descriptors only (14 B)", 14, 64, 2, false, 0),
        case("64 B", 64, 64, 2, false, 0),
        case("64 B, bursts of 32", 64, 32, 2, false, 0),
        case("64 B, bursts of 8", 64, 8, 2, false, 0),
        case("64 B, one at a time", 64, 1, 2, false, 0),
        case("256 B", 256, 64, 2, false, 0),
        case("1500 B", 1500, 64, 2, false, 0),
        case("1500 B, out of L3", 1500, 64, 2, true, 0),
        case("9000 B, bursts of 14", 9000, 14, 2, false, 0),
        case("64 B, 65,536 addresses known", 64, 64, 2, false, 65_536),
        case("64 B, 256 ports", 64, 64, 256, false, 0),
        judged("64 B, port security", 64, Rules::Security, 1),
        judged("64 B, 10 rules, 1 flow", 64, Rules::List(10), 1),
        judged("64 B, 10 rules, 1,000 flows", 64, Rules::List(10), 1_000),
        judged("64 B, 1,000 rules, 1 flow", 64, Rules::List(1_000), 1),
        judged(
            "64 B, 1,000 rules, 1,000 flows",
            64,
            Rules::List(1_000),
            1_000,
        ),
        judged("64 B, 10,000 rules, 1 flow", 64, Rules::List(10_000), 1),
        judged(
            "64 B, 10,000 rules, 1,000 flows",
            64,
            Rules::List(10_000),
            1_000,
        ),
        judged(
            "64 B, 10 rules, 100,000 flows",
            64,
            Rules::List(10),
            100_000,
        ),
        judged(
            "64 B, 10 rules, 1,000,000 flows",
            64,
            Rules::List(10),
            1_000_000,
        ),
        judged("1500 B, port security", 1500, Rules::Security, 1),
        judged("1500 B, 10 rules, 1 flow", 1500, Rules::List(10), 1),
    ];
    println!(
        "{:32} {:>12} {:>10} {:>16} {:>8}",
        "case", "cycles/frame", "ns/frame", "memcpy cycles", "ratio"
    );
    for case in cases
        .iter()
        .filter(|case| only.is_empty() || only.iter().any(|name| name == case.name))
    {
        // As many frames for every case.
        let rounds = (rounds * 64 / u32::from(case.burst) * 2 / u32::from(case.ports)).max(2);
        let figures = run(case, &clock, rounds, passes);
        println!(
            "{:32} {:>12.1} {:>10.1} {:>16.1} {:>8.2}",
            case.name,
            figures.cycles,
            figures.nanos,
            figures.memcpy,
            figures.cycles / figures.memcpy
        );
    }
}
