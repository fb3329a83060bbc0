//! What the law costs for each frame: layer 2 read, admitted, forwarded, permitted; from private snapshots, without any
//! ring or copy.
//!
//! `same` is one station talking to another, the case of the caches; `many` draws a source and a destination anew for
//! each frame out of all that the FDB knows, so that nothing but the table itself helps; `flood` goes to all ports.
//! The argument is the number of entries in the FDB. Times are for one frame.
//!
//! `cargo bench --bench fabric`; with `-- --test` everything runs once.

use std::sync::Arc;

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use portcullis::clock::Tick;
use portcullis::counters::PortId;
use portcullis::fabric::{Fabric, Fdb, FdbLimits, Kind, LookupCache, PortRow};
use portcullis::frame::{Frame, Mac, Vid};
use portcullis::policy::{Context, Desk, Policy, Weight};

const PORTS: u16 = 64;
const SNAPSHOT: usize = 128;
/// Frames in a round: enough that `many` does not repeat itself in the first cache level of the branch predictor.
const ROUND: usize = 4096;

fn main() {
    divan::main();
}

fn port(index: usize) -> PortId {
    let index = u16::try_from(index % usize::from(PORTS)).expect("a small number");
    PortId::new(index).expect("a port")
}

fn station(n: usize) -> Mac {
    Mac::from_bits(0x5254_0000_0000 | n as u64)
}

struct Switch {
    policy: Policy,
    fabric: Fabric,
    caches: Vec<LookupCache>,
    context: Context,
    desk: Desk,
    entries: usize,
}

impl Switch {
    fn new(entries: usize) -> Self {
        let limits = FdbLimits {
            capacity: 65_536,
            per_port: 65_536,
            ageing: 300,
            ports: PORTS,
        };
        let fdb = Fdb::new(limits);
        for n in 0..entries {
            fdb.learn(port(n), Vid::DEFAULT, station(n), Tick::ZERO)
                .expect("learned");
        }
        let rows = vec![PortRow::default(); PORTS.into()];
        Self {
            policy: Policy::open(1, (0..usize::from(PORTS)).map(port)),
            fabric: Fabric::new(&rows, Arc::new(fdb)),
            caches: vec![LookupCache::default(); PORTS.into()],
            context: Context::default(),
            desk: Desk::default(),
            entries,
        }
    }

    /// A number that differs with `n` as if it were drawn.
    fn draw(&self, n: usize) -> usize {
        n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29) % self.entries
    }

    fn forward(&mut self, source: PortId, snapshot: &[u8], now: Tick) -> u32 {
        let cache = self.caches.get_mut(source.index()).expect("a cache");
        let Ok(frame) = Frame::parse(snapshot, 1500) else {
            return 0;
        };
        let mut judge = self
            .policy
            .judge(source, &mut self.context, &mut self.desk, now);
        let weight = Weight {
            frames: 1,
            bytes: 1500,
        };
        let Ok(admitted) = judge.admit(None, &frame, || weight) else {
            return 0;
        };
        let destinations = self.fabric.forward(&admitted, now, cache);
        match destinations.kind() {
            Kind::Drop(_) => 0,
            Kind::Port(to) => u32::from(judge.permit(admitted, to).is_ok()),
            Kind::Flood => self
                .fabric
                .ports(&destinations)
                .iter()
                .map(|to| u32::from(to.get()))
                .sum(),
        }
    }
}

type Snapshots = Vec<(PortId, [u8; SNAPSHOT])>;

fn snapshot(dst: Mac, src: Mac) -> [u8; SNAPSHOT] {
    let mut bytes = [0; SNAPSHOT];
    bytes[..6].copy_from_slice(&dst.octets());
    bytes[6..12].copy_from_slice(&src.octets());
    bytes[12] = 8;
    bytes
}

fn run(bencher: Bencher<'_, '_>, switch: &mut Switch, frames: &Snapshots) {
    for (source, bytes) in frames {
        assert_ne!(
            switch.forward(*source, bytes, Tick::ZERO),
            0,
            "every frame goes somewhere"
        );
    }
    bencher
        .counter(ItemsCount::new(frames.len()))
        .bench_local(|| {
            let now = black_box(Tick::from_secs(7));
            let mut sum = 0u32;
            for (source, bytes) in black_box(frames) {
                sum = sum.wrapping_add(switch.forward(*source, bytes, now));
            }
            sum
        });
}

#[divan::bench(args = [2, 65_536])]
fn same(bencher: Bencher<'_, '_>, entries: usize) {
    let mut switch = Switch::new(entries);
    let frames = vec![(port(0), snapshot(station(1), station(0))); 64];
    run(bencher, &mut switch, &frames);
}

#[divan::bench(args = [2, 1024, 65_536])]
fn many(bencher: Bencher<'_, '_>, entries: usize) {
    let mut switch = Switch::new(entries);
    let frames = (0..ROUND)
        .map(|n| {
            let src = switch.draw(n);
            let drawn = switch.draw(n + ROUND);
            let dst = if port(drawn) == port(src) {
                (src + 1) % entries
            } else {
                drawn
            };
            (port(src), snapshot(station(dst), station(src)))
        })
        .collect();
    run(bencher, &mut switch, &frames);
}

#[divan::bench]
fn flood(bencher: Bencher<'_, '_>) {
    let mut switch = Switch::new(2);
    let frames = vec![(port(0), snapshot(Mac::BROADCAST, station(0))); 64];
    run(bencher, &mut switch, &frames);
}

/// Reading layers 3 and 4, which a policy without rules does not need.
#[divan::bench]
fn layers(bencher: Bencher<'_, '_>) {
    let mut bytes = snapshot(station(1), station(0));
    let ip = [
        0x45, 0, 0, 100, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
    ];
    bytes[14..34].copy_from_slice(&ip);
    bytes[46] = 0x50;
    bencher
        .counter(ItemsCount::new(1usize))
        .bench_local(|| Frame::parse(black_box(&bytes), 114).map(|frame| frame.flow_hash(1)));
}
