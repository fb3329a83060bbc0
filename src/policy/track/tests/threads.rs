//! An opener, a replier and a sweeper at once.

use std::sync::Barrier;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::sync_channel;

use super::*;

/// Numbers that differ from connection to connection: a word that strays into another's entry makes its next segment invalid.
fn numbers(n: u32) -> (u32, u32) {
    let spread = n.wrapping_mul(0x9e37_79b9);
    (spread, spread.wrapping_add(0x4000_0000))
}

fn tuple(n: u32) -> ((Host, u16), (Host, u16)) {
    let low = u16::try_from(n % 50_000).unwrap();
    ((v4(0), low), (v4(1), 80))
}

struct Worker {
    seat: Seat,
    now: Tick,
}

impl Worker {
    /// One packet in a burst of its own; what is new opens. `None` when it was refused.
    fn send(&mut self, from: Host, to: Host, tcp: Tcp) -> (State, Option<(FlowRef, Direction)>) {
        let made = tcp.made();
        let (frame, digest) = made.digest();
        let (from, to, now) = (from.port, to.port, self.now);
        let burst = self.seat.burst();
        let look = burst.look(&digest, &frame, from, to, now);
        if look.state != State::New {
            return (look.state, look.flow);
        }
        let opened = burst.open(&digest, &frame, from, to, &terms(), 1, now);
        (look.state, opened.ok())
    }

    fn go_on(&mut self, flow: (FlowRef, Direction), tcp: Tcp) -> Option<State> {
        let made = tcp.made();
        let (frame, digest) = made.digest();
        let burst = self.seat.burst();
        burst.advance(flow.0, flow.1, &digest, &frame, self.now)
    }
}

/// Segments of connections that are opened and ended as fast as can be: none that belongs to a live connection is
/// invalid, by way of a look-up or of a reference that was kept, and at the end nothing is left over.
#[test]
fn e_30_no_half_strays_into_another_connection() {
    const MANY: u32 = 30_000;
    let spec = TrackingSpec {
        per_port: 64,
        half_open_per_port: 16,
        ..spec()
    };
    let tracker = Arc::new(Tracker::new(&spec, 2));
    let now = Tick::from_secs(5);
    let [mut opener, mut replier] = [0, 1].map(|_| Worker {
        seat: tracker.seat().unwrap(),
        now,
    });
    let is_over = AtomicBool::new(false);
    let begin = Barrier::new(3);
    let (to_replier, from_opener) = sync_channel::<u32>(64);
    let (to_opener, from_replier) = sync_channel::<u32>(64);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            begin.wait();
            while !is_over.load(std::sync::atomic::Ordering::Acquire) {
                // A connection of this second expires for this sweep only now and then.
                tracker.sweep(now, 1000);
                tracker.rejudge(2, now, |flow| (flow.src_port % 3 != 0).then(terms));
                tracker.rejudge(1, now, |_| Some(terms()));
            }
        });
        let begin = &begin;
        scope.spawn(move || {
            begin.wait();
            let mut kept = Vec::new();
            while let Ok(n) = from_opener.recv() {
                let ((a, b), (x, y)) = (tuple(n), numbers(n));
                let answer = Tcp::new(b, a, SYN | ACK).at(y, x.wrapping_add(1));
                let (state, flow) = replier.send(b.0, a.0, answer);
                if state == State::Established {
                    kept.push((n, flow.unwrap()));
                }
                // Also for such as have long ended, and whose places are others'.
                if kept.len() > 40 {
                    kept.remove(0);
                }
                for (n, flow) in &kept {
                    let ((a, b), (x, y)) = (tuple(*n), numbers(*n));
                    let data = Tcp::new(b, a, ACK)
                        .at(y.wrapping_add(1), x.wrapping_add(1))
                        .data(100);
                    assert_ne!(replier.go_on(*flow, data), Some(State::Invalid), "{n}");
                }
                if to_opener.send(n).is_err() {
                    return;
                }
            }
        });
        begin.wait();
        let mut established = 0u32;
        for n in 0..MANY {
            let ((a, b), (x, y)) = (tuple(n), numbers(n));
            let (state, flow) = opener.send(a.0, b.0, Tcp::new(a, b, SYN).at(x, 0));
            assert_eq!(state, State::New);
            to_replier.send(n).unwrap();
            from_replier.recv().unwrap();
            let Some(flow) = flow else {
                continue;
            };
            let ack = Tcp::new(a, b, ACK).at(x.wrapping_add(1), y.wrapping_add(1));
            match opener.go_on(flow, ack) {
                Some(State::Established) => established += 1,
                // It has ended meanwhile, by the new policy.
                None => {}
                Some(state) => panic!("{n}: {state:?}"),
            }
            if n % 40 > 20 {
                tracker.end(flow.0);
            }
        }
        drop(to_replier);
        is_over.store(true, std::sync::atomic::Ordering::Release);
        assert!(established > 0);
    });
    tracker.end_port(port(1));
    let usage = tracker.usage(port(0));
    assert_eq!((usage.flows, usage.half_open), (0, 0));
    assert!(usage.turnover.opened > 64);
}

/// While buckets are divided under it, a reader finds what is there.
#[test]
fn a_reply_is_found_while_the_index_grows() {
    const MANY: u16 = 20_000;
    let spec = TrackingSpec {
        per_port: 40_000,
        half_open_per_port: 40_000,
        ..spec()
    };
    let tracker = Arc::new(Tracker::new(&spec, 2));
    let now = Tick::from_secs(5);
    let [mut opener, mut replier] = [0, 1].map(|_| Worker {
        seat: tracker.seat().unwrap(),
        now,
    });
    let shown = std::sync::atomic::AtomicU32::new(0);
    let ask = |n: u16| udp((v4(0), n), (v4(1), 53));
    std::thread::scope(|scope| {
        let shown = &shown;
        scope.spawn(move || {
            let mut turn = 0u32;
            loop {
                let there = shown.load(std::sync::atomic::Ordering::Acquire);
                if there > 0 {
                    turn = turn.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
                    let n = u16::try_from(turn % there).unwrap();
                    let made = udp((v4(1), 53), (v4(0), n));
                    let (frame, digest) = made.digest();
                    let burst = replier.seat.burst();
                    let look = burst.look(&digest, &frame, port(1), port(0), now);
                    assert_eq!(look.state, State::Established, "{n} of {there}");
                }
                if there == u32::from(MANY) {
                    return;
                }
            }
        });
        for n in 0..MANY {
            let made = ask(n);
            let (frame, digest) = made.digest();
            let burst = opener.seat.burst();
            burst
                .open(&digest, &frame, port(0), port(1), &terms(), 1, now)
                .unwrap();
            shown.store(u32::from(n) + 1, std::sync::atomic::Ordering::Release);
        }
    });
}
