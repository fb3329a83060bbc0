//! What a reload under load costs the frames: the longest time between the ends of two bursts, while policies of 10,000 rules are
//! compiled on the other processor and put in force one after the other.
//!
//! One thread, pinned to processor 1, turns the worker's step over two guests as fast as it can and notes how long each turn took;
//! the other, on processor 0, compiles, hands over and judges connections again, as `portcullis reload` does. The same is measured
//! before without reloads: what the machine itself takes away. On a shared machine single turns are cut off by others in both.
//!
//! ```sh
//! cargo bench --bench reload            # 10 s without, 10 s with
//! cargo bench --bench reload -- --test  # shortly
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use double::{Double, switch};
use portcullis::clock::{Clock, Tick};
use portcullis::counters::PortId;
use portcullis::datapath::Gate;
use portcullis::datapath::crank::Crank;
use portcullis::fabric::{Fdb, FdbLimits};
use portcullis::policy::State;

#[allow(dead_code, reason = "shared with other benches")]
mod double;
#[path = "double/lists.rs"]
mod lists;

const RULES: u32 = 10_000;
const FRAME: usize = 64;
const BURST: u16 = 64;

/// Turns, by how long they took.
#[derive(Default)]
struct Turns {
    nanos: Vec<u32>,
    /// The longest of those that took up another gate.
    changing: u32,
}

impl Turns {
    fn report(&mut self, name: &str, reloads: u32) {
        self.nanos.sort_unstable();
        let at = |share: f64| {
            let last = self.nanos.len() - 1;
            f64::from(self.nanos[(share * last as f64) as usize]) / 1e3
        };
        let over = |micros: u32| {
            let nanos = self.nanos.iter().rev();
            nanos.take_while(|&&nanos| nanos > micros * 1000).count()
        };
        println!(
            "{name:<16} {reloads:>7} {:>9} {:>8.1} {:>8.1} {:>8.1} {:>8} {:>8} {:>12.1}",
            self.nanos.len(),
            at(0.5),
            at(0.999_99),
            at(1.0),
            over(100),
            over(1000),
            f64::from(self.changing) / 1e3,
        );
    }
}

fn pin(cpu: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    if rustix::thread::sched_setaffinity(None, &set).is_err() {
        println!("reload: processor {cpu} is not ours: nothing is pinned, figures mean little");
    }
}

/// Turns until it is told to stop, under whatever gate came last; used ones go back.
fn turn(
    mut crank: Crank,
    mut guests: Vec<Double>,
    gates: &Receiver<Gate>,
    used: &Sender<Gate>,
    stop: &AtomicBool,
    room: usize,
) -> (Turns, Crank, Vec<Double>) {
    let clock = Clock::new();
    // Touched beforehand, since a fault would wait for what the other thread maps and unmaps.
    let mut nanos = vec![1; room];
    nanos.clear();
    let mut turns = Turns { nanos, changing: 0 };
    let mut last = clock.cycles();
    while !stop.load(Ordering::Relaxed) && turns.nanos.len() < room {
        let gate = gates.try_recv();
        let changes = gate.is_ok();
        if let Ok(gate) = gate {
            used.send(crank.replace_gate(gate)).unwrap();
        }
        for index in 0..2u16 {
            guests[usize::from(index)].offer(BURST);
            guests[usize::from(index ^ 1)].accept(BURST);
            let taken = crank.turn(PortId::new(index).unwrap(), 0, Tick::from_secs(1));
            assert_eq!(taken, Some(BURST.into()));
        }
        let now = clock.cycles();
        let nanos = clock.nanos_between(last, now);
        let nanos = u32::try_from(nanos).unwrap_or(u32::MAX);
        if changes {
            turns.changing = turns.changing.max(nanos);
        }
        turns.nanos.push(nanos);
        last = now;
    }
    (turns, crank, guests)
}

fn main() {
    let says = |word: &str| std::env::args().any(|argument| argument == word);
    let once = says("--test") || !says("--bench");
    let time = Duration::from_millis(if once { 200 } else { 10_000 });
    let room = if once { 1 << 18 } else { 1 << 23 };
    let state = State::new();
    let (lanes, mut gate) = switch(2, Arc::new(Fdb::new(FdbLimits::default())));
    let fabric = gate.fabric.clone();
    gate.policy = lists::policy(2, Some(lists::rules(10)), 1, 1, Arc::clone(&state));
    let mut guests: Vec<_> = (0..2u16)
        .map(|index| Double::new(index, index ^ 1, FRAME, false, &lanes[usize::from(index)]))
        .collect();
    for (guest, index) in guests.iter_mut().zip(0..) {
        guest.speak_udp(index, index ^ 1, FRAME);
    }
    let mut world = Some((Crank::new(lanes, gate), guests));
    let mut epoch = 1;
    println!(
        "{:<16} {:>7} {:>9} {:>8} {:>8} {:>8} {:>8} {:>8} {:>12}",
        "turns of 128",
        "reloads",
        "turns",
        "p50 us",
        "p99.999",
        "longest",
        ">100 us",
        ">1 ms",
        "at a change"
    );
    pin(0);
    for reloading in [false, true] {
        let (gates, to_take) = channel();
        let (to_return, used) = channel::<Gate>();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let (crank, guests) = world.take().unwrap();
        let turner = std::thread::spawn(move || {
            pin(1);
            turn(crank, guests, &to_take, &to_return, &stopped, room)
        });
        let begun = Instant::now();
        let mut reloads = 0;
        while begun.elapsed() < time {
            if !reloading {
                std::thread::sleep(Duration::from_millis(10));
                continue;
            }
            epoch += 1;
            let rules = lists::rules(RULES);
            let policy = lists::policy(2, Some(rules), 1, epoch, Arc::clone(&state));
            let next = Gate {
                policy: policy.clone(),
                fabric: fabric.clone(),
            };
            if gates.send(next).is_err() {
                break;
            }
            policy.rejudge_all(Tick::from_secs(1));
            // It has let the old one go: that is dropped here, where nobody waits.
            if used.recv().is_err() {
                break;
            }
            reloads += 1;
        }
        stop.store(true, Ordering::Relaxed);
        let (mut turns, crank, guests) = turner.join().unwrap();
        let name = if reloading { "with reloads" } else { "without" };
        turns.report(name, reloads);
        world = Some((crank, guests));
    }
}
