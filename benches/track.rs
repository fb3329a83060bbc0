//! What connection tracking costs for each packet, from private snapshots and with the frame read already.
//!
//! The argument is how many connections there are; packets go to all of them by turns, in an order that helps no cache. `advance` goes
//! on with a connection by a reference that was kept, `look` finds it by its addresses, as its opener's packet and as a reply, and
//! `look_floor` reads as many lines of memory, one after the other, and does nothing else;
//! `open_end` opens one more and ends it. Times are for one packet. First, what memory the connections take is printed.
//!
//! `cargo bench --bench track`; with `-- --test` everything runs once.

use std::sync::Arc;

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use portcullis::clock::Tick;
use portcullis::counters::PortId;
use portcullis::frame::Frame;
use portcullis::policy::digest::Digest;
use portcullis::policy::spec::TrackingSpec;
use portcullis::policy::track::{Direction, FlowRef, Seat, Terms, Tracker};

const FLOWS: [u32; 4] = [1, 1_000, 100_000, 1_000_000];
const NOW: Tick = Tick::from_secs(100);

fn main() {
    let is_test = std::env::args().any(|arg| arg == "--test");
    memory(if is_test { 10_000 } else { 1_000_000 });
    divan::main();
}

fn port(index: u16) -> PortId {
    PortId::new(index).expect("a port")
}

/// The packet of connection `n`: TCP from 10.0.0.0/8 to 10.255.0.1, or back.
fn packet(n: u32, direction: Direction, flags: u8) -> [u8; 128] {
    let mut bytes = [0; 128];
    bytes[5] = 2;
    bytes[11] = 1;
    bytes[12] = 8;
    bytes[14..26].copy_from_slice(&[0x45, 0, 0, 114, 0, 0, 0, 0, 64, 6, 0, 0]);
    let client = (0x0a00_0000 | n >> 8).to_be_bytes();
    let server = [10, 255, 0, 1];
    let [.., low] = n.to_be_bytes();
    let (client_port, server_port) = ([100, low], [0, 80]);
    let ends = match direction {
        Direction::Original => [client, server],
        Direction::Reply => [server, client],
    };
    let ports = match direction {
        Direction::Original => [client_port, server_port],
        Direction::Reply => [server_port, client_port],
    };
    bytes[26..34].copy_from_slice(ends.as_flattened());
    bytes[34..38].copy_from_slice(ports.as_flattened());
    // Both sides begin at 0 and offer 64 kB.
    let is_syn = flags & 2 != 0;
    bytes[41] = u8::from(!is_syn);
    bytes[45] = u8::from(flags & 0x10 != 0);
    bytes[46] = 0x50;
    bytes[47] = flags;
    bytes[48..50].fill(0xff);
    if is_syn {
        bytes[17] = 40;
    }
    bytes
}

const SYN: u8 = 2;
const ACK: u8 = 0x10;

struct Switch {
    seat: Seat,
    flows: Vec<FlowRef>,
}

fn spec(flows: u32) -> TrackingSpec {
    TrackingSpec {
        per_port: flows + 1,
        half_open_per_port: flows + 1,
        ..TrackingSpec::default()
    }
}

impl Switch {
    /// With that many established connections of port 0 to port 1.
    fn new(flows: u32) -> Self {
        let tracker = Arc::new(Tracker::new(&spec(flows), 2));
        let mut switch = Self {
            seat: tracker.seat().expect("a seat"),
            flows: Vec::with_capacity(flows as usize),
        };
        for n in 0..flows {
            let flow = switch.open(n);
            switch.flows.push(flow);
            let answer = packet(n, Direction::Reply, SYN | ACK);
            assert!(switch.advance(flow, Direction::Reply, &answer));
            let ack = packet(n, Direction::Original, ACK);
            assert!(switch.advance(flow, Direction::Original, &ack));
        }
        assert_eq!(tracker.usage(port(0)).half_open, 0);
        switch
    }

    fn open(&mut self, n: u32) -> FlowRef {
        let bytes = packet(n, Direction::Original, SYN);
        let frame = Frame::parse(&bytes, 128).expect("a frame");
        let digest = Digest::of(&frame, 1);
        let terms = Terms::default();
        let burst = self.seat.burst();
        let opened = burst.open(&digest, &frame, port(0), port(1), &terms, 1, NOW);
        opened.expect("room").0
    }

    fn advance(&mut self, flow: FlowRef, direction: Direction, bytes: &[u8]) -> bool {
        let frame = Frame::parse(bytes, 128).expect("a frame");
        let digest = Digest::of(&frame, 1);
        let burst = self.seat.burst();
        burst
            .advance(flow, direction, &digest, &frame, NOW)
            .is_some()
    }
}

/// Packets in a round: so many that a round meets most of a table's pages, or so few that nothing but the work is timed.
fn round(flows: u32) -> u32 {
    match flows {
        1 => 64,
        2..10_000 => 4096,
        _ => 65_536,
    }
}

/// A number below `flows` that differs with `n` as if it were drawn.
fn draw(n: u32, flows: u32) -> u32 {
    n.wrapping_mul(0x9e37_79b9)
        .rotate_left(13)
        .wrapping_mul(0x85eb_ca6b)
        % flows
}

type Packets = Vec<(FlowRef, [u8; 128])>;

fn packets(switch: &Switch, flows: u32, direction: Direction) -> Packets {
    (0..round(flows))
        .map(|n| {
            let n = draw(n, flows);
            (switch.flows[n as usize], packet(n, direction, ACK))
        })
        .collect()
}

/// Frames read beforehand, so that only the tracking is timed.
fn read(packets: &Packets) -> Vec<(FlowRef, Frame<'_>, Digest)> {
    packets
        .iter()
        .map(|(flow, bytes)| {
            let frame = Frame::parse(bytes, 128).expect("a frame");
            let digest = Digest::of(&frame, 1);
            (*flow, frame, digest)
        })
        .collect()
}

fn advance(bencher: Bencher<'_, '_>, flows: u32, direction: Direction) {
    let mut switch = Switch::new(flows);
    let packets = packets(&switch, flows, direction);
    let packets = read(&packets);
    bencher
        .counter(ItemsCount::new(packets.len()))
        .bench_local(|| {
            let mut passed = 0u32;
            for some in black_box(&packets).chunks(64) {
                let burst = switch.seat.burst();
                for (flow, frame, digest) in some {
                    let state = burst.advance(*flow, direction, digest, frame, NOW);
                    passed += u32::from(state.is_some());
                }
            }
            assert_eq!(passed, round(flows));
        });
}

fn look(bencher: Bencher<'_, '_>, flows: u32, direction: Direction) {
    let mut switch = Switch::new(flows);
    let packets = packets(&switch, flows, direction);
    let packets = read(&packets);
    let (from, to) = match direction {
        Direction::Original => (port(0), port(1)),
        Direction::Reply => (port(1), port(0)),
    };
    bencher
        .counter(ItemsCount::new(packets.len()))
        .bench_local(|| {
            let mut found = 0u32;
            for some in black_box(&packets).chunks(64) {
                let burst = switch.seat.burst();
                for (_, frame, digest) in some {
                    let look = burst.look(digest, frame, from, to, NOW);
                    found += u32::from(look.flow.is_some());
                }
            }
            assert_eq!(found, round(flows));
        });
}

#[divan::bench(args = FLOWS)]
fn advance_original(bencher: Bencher<'_, '_>, flows: u32) {
    advance(bencher, flows, Direction::Original);
}

#[divan::bench(args = FLOWS)]
fn advance_reply(bencher: Bencher<'_, '_>, flows: u32) {
    advance(bencher, flows, Direction::Reply);
}

#[divan::bench(args = FLOWS)]
fn look_original(bencher: Bencher<'_, '_>, flows: u32) {
    look(bencher, flows, Direction::Original);
}

#[divan::bench(args = FLOWS)]
fn look_reply(bencher: Bencher<'_, '_>, flows: u32) {
    look(bencher, flows, Direction::Reply);
}

/// What the memory itself costs a look-up, one after the other: a line of an index, and the two lines of the entry that it names, in tables
/// as long as those of so many connections.
#[divan::bench(args = FLOWS)]
fn look_floor(bencher: Bencher<'_, '_>, flows: u32) {
    const LINE: usize = 8;
    const ENTRY: usize = 17;
    let buckets = (flows as usize / 8).next_power_of_two();
    let index = vec![0usize; buckets * LINE];
    let entries = vec![0usize; flows as usize * ENTRY];
    // Written once, since memory that nobody has written is one page of zeros.
    let (mut index, mut entries) = (black_box(index), black_box(entries));
    index.fill(1);
    entries.fill(1);
    let drawn: Vec<_> = (0..round(flows)).map(|n| draw(n, flows) as usize).collect();
    bencher
        .counter(ItemsCount::new(drawn.len()))
        .bench_local(|| {
            let mut one = 1;
            for &n in black_box(&drawn) {
                // Each place is known only when the line before it is there.
                let tag = index[(n + one - 1).wrapping_mul(0x9e37_79b9) % buckets * LINE];
                let at = (n + tag - 1) * ENTRY;
                one = entries[at] & entries[at + LINE];
            }
            one
        });
}

/// One more connection, opened and ended.
#[divan::bench(args = FLOWS)]
fn open_end(bencher: Bencher<'_, '_>, flows: u32) {
    let mut switch = Switch::new(flows);
    let tracker = Arc::clone(switch.seat.tracker());
    let mut n = flows;
    bencher.counter(ItemsCount::new(1usize)).bench_local(|| {
        n = flows | n.wrapping_add(1) & 0xffff;
        let flow = switch.open(black_box(n));
        assert!(tracker.end(flow));
    });
}

/// Resident memory of this process, in kB.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
    kilobytes.expect("a number")
}

#[expect(clippy::print_stdout, reason = "a figure for people")]
fn memory(flows: u32) {
    let before = resident();
    let tracker = Arc::new(Tracker::new(&spec(flows), 64));
    let empty = resident();
    let mut seat = tracker.seat().expect("a seat");
    for n in 0..flows {
        let bytes = packet(n, Direction::Original, SYN);
        let frame = Frame::parse(&bytes, 128).expect("a frame");
        let digest = Digest::of(&frame, 1);
        let terms = Terms::default();
        let burst = seat.burst();
        let opened = burst.open(&digest, &frame, port(0), port(1), &terms, 1, NOW);
        assert!(opened.is_ok(), "{n}: {opened:?}");
    }
    let full = resident();
    println!(
        "memory: {} kB for the empty tables of 64 ports, {} bytes for each of {flows} connections ({} MiB)",
        empty.saturating_sub(before),
        full.saturating_sub(empty) * 1024 / u64::from(flows),
        full.saturating_sub(empty) >> 10,
    );
}
