//! What connection tracking costs for each packet, from private snapshots and with the frame read already.
//!
//! The argument is how many connections there are; packets are drawn from all of them, others each time. They come in bursts of 64,
//! and the memory of a burst is asked for at once, as the gate does it. `advance` goes on with a connection by a reference that
//! was kept, `look` finds it by its addresses, as its opener's packet and as a reply; `look_alone` does so for one packet after the
//! other; `floor` reads as many lines of memory and does nothing else; `open_end` opens 64 more and ends them. `made` is what all
//! rows have in them besides: the packets are written and read.
//! Divide 1 s by the rate for the time of one packet. First, what memory the connections take is printed.
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
use portcullis::policy::track::{ABREAST as BURST, Direction, FlowRef, Seat, Terms, Tracker};

const BURST_32: u32 = 64;
const _: () = assert!(BURST == 64);
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
        per_port: flows + BURST_32,
        half_open_per_port: flows + BURST_32,
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

/// Packets in a round: bursts enough that the clock does not matter.
const BURSTS: u32 = 16;
const ROUND: u32 = BURSTS * BURST_32;

/// Numbers below `flows`, as if they were drawn, and others in each round: so that no cache has what is asked for, unless it has
/// all of it.
struct Draw {
    flows: u32,
    n: u32,
}

impl Draw {
    fn new(flows: u32) -> Self {
        Self { flows, n: 0 }
    }

    fn next(&mut self) -> u32 {
        self.n = self.n.wrapping_add(0x9e37_79b9);
        let mixed = (self.n ^ self.n >> 15).wrapping_mul(0x85eb_ca6b);
        ((u64::from(mixed ^ mixed >> 13) * u64::from(self.flows)) >> 32) as u32
    }
}

type Packets = [[u8; 128]; BURST];

/// The packets of a burst, written over those of the one before.
fn write(packets: &mut Packets, draw: &mut Draw, direction: Direction) -> [u32; BURST] {
    std::array::from_fn(|at| {
        let n = draw.next();
        packets[at] = packet(n, direction, ACK);
        n
    })
}

/// Frames read beforehand, as they are in the switch.
fn read(packets: &Packets) -> [(Frame<'_>, Digest); BURST] {
    packets.each_ref().map(|bytes| {
        let frame = Frame::parse(bytes, 128).expect("a frame");
        let digest = Digest::of(&frame, 1);
        (frame, digest)
    })
}

/// What all of these rows have in them: packets are written and read.
#[divan::bench]
fn made(bencher: Bencher<'_, '_>) {
    let mut draw = Draw::new(1_000_000);
    let mut packets = [[0; 128]; BURST];
    bencher.counter(ItemsCount::new(ROUND)).bench_local(|| {
        for _ in 0..BURSTS {
            write(&mut packets, &mut draw, Direction::Original);
            black_box(read(&packets));
        }
    });
}

fn advance(bencher: Bencher<'_, '_>, flows: u32, direction: Direction) {
    let mut switch = Switch::new(flows);
    let mut draw = Draw::new(flows);
    let mut packets = [[0; 128]; BURST];
    bencher.counter(ItemsCount::new(ROUND)).bench_local(|| {
        let mut passed = 0u32;
        for _ in 0..BURSTS {
            let numbers = write(&mut packets, &mut draw, direction);
            let burst = switch.seat.burst();
            let flows = numbers.map(|n| switch.flows[n as usize]);
            burst.fetch(flows.into_iter());
            for (flow, (frame, digest)) in flows.into_iter().zip(&read(&packets)) {
                let state = burst.advance(flow, direction, digest, frame, NOW);
                passed += u32::from(state.is_some());
            }
        }
        assert_eq!(passed, ROUND);
    });
}

fn look(bencher: Bencher<'_, '_>, flows: u32, direction: Direction) {
    let mut switch = Switch::new(flows);
    let mut draw = Draw::new(flows);
    let mut packets = [[0; 128]; BURST];
    let (from, to) = match direction {
        Direction::Original => (port(0), port(1)),
        Direction::Reply => (port(1), port(0)),
    };
    bencher.counter(ItemsCount::new(ROUND)).bench_local(|| {
        let mut found = 0u32;
        for _ in 0..BURSTS {
            write(&mut packets, &mut draw, direction);
            let packets = read(&packets);
            let burst = switch.seat.burst();
            let subjects = packets.iter().map(|(_, digest)| (&digest.subject, to));
            let hints = burst.look_ahead(from, subjects);
            for ((frame, digest), hint) in packets.iter().zip(hints) {
                let look = burst.look_near(digest, frame, from, to, hint, NOW);
                found += u32::from(look.flow.is_some());
            }
        }
        assert_eq!(found, ROUND);
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

/// What the memory itself costs: a line of an index for each port, and then the two of an entry, of tables as long as those of so many
/// connections, for all packets of a burst at once, and nothing else.
#[divan::bench(args = FLOWS)]
fn floor(bencher: Bencher<'_, '_>, flows: u32) {
    const LINE: usize = 16;
    let buckets = (flows / 8).next_power_of_two();
    // Written once, since memory that nobody has written is one page of zeros.
    let [index, entries] = [buckets, 2 * flows].map(|lines| {
        let mut words = black_box(vec![0u32; lines as usize * LINE]);
        words.fill(1);
        words
    });
    let (mut draw, mut draw_line) = (Draw::new(flows), Draw::new(buckets));
    bencher.counter(ItemsCount::new(ROUND)).bench_local(|| {
        for _ in 0..BURSTS {
            let lines: [_; BURST] = std::array::from_fn(|_| [draw_line.next(), draw_line.next()]);
            let named = lines.map(|lines| {
                let [own, theirs] = lines.map(|line| index[line as usize * LINE]);
                (own ^ theirs) as usize + draw.next() as usize
            });
            for at in black_box(named) {
                let line = at * 2 * LINE;
                black_box(entries[line] ^ entries[line + LINE]);
            }
        }
    });
}

/// A packet alone, with no other beside it whose memory could be asked for at the same time.
#[divan::bench(args = FLOWS)]
fn look_alone(bencher: Bencher<'_, '_>, flows: u32) {
    let mut switch = Switch::new(flows);
    let mut draw = Draw::new(flows);
    let mut packets = [[0; 128]; BURST];
    bencher.counter(ItemsCount::new(ROUND)).bench_local(|| {
        let mut found = 0u32;
        for _ in 0..BURSTS {
            write(&mut packets, &mut draw, Direction::Original);
            let burst = switch.seat.burst();
            for (frame, digest) in &read(&packets) {
                let look = burst.look(digest, frame, port(0), port(1), NOW);
                found += u32::from(look.flow.is_some());
            }
        }
        assert_eq!(found, ROUND);
    });
}

/// A burst of connections more, opened and ended.
#[divan::bench(args = FLOWS)]
fn open_end(bencher: Bencher<'_, '_>, flows: u32) {
    let mut switch = Switch::new(flows);
    let tracker = Arc::clone(switch.seat.tracker());
    let mut n = 0u32;
    bencher.counter(ItemsCount::new(BURST)).bench_local(|| {
        let packets: Packets = std::array::from_fn(|_| {
            n = n.wrapping_add(1) & 0x000f_ffff;
            packet(1 << 23 | n, Direction::Original, SYN)
        });
        let packets = read(&packets);
        let burst = switch.seat.burst();
        let subjects = packets.iter().map(|(_, digest)| (&digest.subject, port(1)));
        black_box(burst.look_ahead(port(0), subjects));
        let opened = packets.each_ref().map(|(frame, digest)| {
            let terms = Terms::default();
            burst
                .open(digest, frame, port(0), port(1), &terms, 1, NOW)
                .expect("room")
                .0
        });
        for flow in opened {
            assert!(tracker.end(flow));
        }
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
