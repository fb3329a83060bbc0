//! Cases E-28 to E-31 of the threat model, as far as they are the tracker's.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::frame::tcp::flag::RST;

/// A generator that needs no seed to be kept.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

#[test]
fn e_28_an_error_with_a_spoofed_quotation_is_about_nobody_elses_connection() {
    let mut world = World::new(&spec());
    let c = world.connect(v4(0), v4(1));
    let third = v4(2);
    let sent = c.a(ACK).at(1000, 5000).made();
    let answered = c.b(ACK).at(5000, 1000).made();
    let before = world.flows();
    for (to, about) in [(c.a.0, &sent), (c.b.0, &answered)] {
        // Under its own address, and under that of the other side.
        for address in [third.ip, c.a.0.ip, c.b.0.ip] {
            let source = Host {
                ip: address,
                ..third
            };
            let look = world.look(source, to, &error(source, to, about));
            assert_eq!((look.state, look.flow), (State::Invalid, None));
        }
    }
    // Between the right ports, but about a segment that cannot be under way (RFC 5927).
    for seq in [1001, 0x8000_0000] {
        let about = c.a(ACK).at(seq, 5000).made();
        assert_eq!(
            world.look(c.b.0, c.a.0, &error(c.b.0, c.a.0, &about)).state,
            State::Invalid
        );
    }
    assert_eq!(
        world.look(c.b.0, c.a.0, &error(c.b.0, c.a.0, &sent)).state,
        State::Related
    );
    assert_eq!(world.flows(), before, "an error changes nothing either way");
}

#[test]
fn e_29_a_flood_of_syn_costs_the_port_that_it_comes_from() {
    let many = if cfg!(debug_assertions) {
        100_000
    } else {
        10_000_000
    };
    let mut world = World::new(&TrackingSpec {
        per_port: 4096,
        half_open_per_port: 512,
        ..spec()
    });
    let (victim, server, attacker) = (v4(1), v4(2), v4(3));
    let theirs = world.connect(victim, server);
    // Behind the attacker's port, as behind an uplink, there is an honest host as well.
    let honest = Host {
        ip: v4(4).ip,
        ..attacker
    };
    let its = world.connect(honest, server);
    let mut draw = Draw(0x9e37_79b9_7f4a_7c15);
    for n in 0..many {
        let bits = draw.next();
        let [a, b, c, d, e, f, g, h] = bits.to_le_bytes();
        let source = Host {
            ip: Ipv4Addr::new(11, a, b, c).into(),
            ..attacker
        };
        let ports = (u16::from_le_bytes([d, e]), u16::from_le_bytes([f, g]));
        let syn = Tcp::new((source, ports.0), (server, ports.1), SYN).at(u32::from(h), 0);
        world.pass(source, server, &syn.made());
        if n % (many / 100) == 0 {
            // New connections are still admitted: from another port, and from the same.
            let port = 1000 + u16::try_from(n / (many / 100)).unwrap();
            for host in [victim, honest] {
                let syn = Tcp::new((host, port), (server, 80), SYN).made();
                assert_eq!(world.pass(host, server, &syn), State::New);
                let answer = Tcp::new((server, 80), (host, port), SYN | ACK).at(9, 1);
                assert_eq!(world.pass(server, host, &answer.made()), State::Established);
                let ack = Tcp::new((host, port), (server, 80), ACK).at(1, 10);
                assert_eq!(world.pass(host, server, &ack.made()), State::Established);
            }
        }
    }
    let usage = |host: Host| world.tracker().usage(host.port);
    let flood = usage(attacker);
    assert_eq!((flood.half_open, flood.flows), (512, 512 + 1 + 100));
    assert_eq!(flood.turnover.refused, 0);
    assert_eq!((usage(victim).flows, usage(victim).half_open), (101, 0));
    assert_eq!(usage(victim).turnover.reclaimed, 0);
    for c in [theirs, its] {
        assert_eq!(
            world.by_a(c, c.a(ACK).at(1000, 5000).data(10)),
            State::Established
        );
        assert_eq!(
            world.by_b(c, c.b(ACK).at(5000, 1010).data(10)),
            State::Established
        );
    }
}

#[test]
fn e_29_a_flood_of_udp_ends_no_answered_connection() {
    let mut world = World::new(&TrackingSpec {
        per_port: 1000,
        half_open_per_port: 1000,
        ..spec()
    });
    let (a, b) = (v4(0), v4(1));
    for n in 0..500 {
        world.pass(a, b, &udp((a, n), (b, 53)));
        world.pass(b, a, &udp((b, 53), (a, n)));
    }
    for n in 0..50_000u16 {
        world.pass(a, b, &udp((a, n), (b, 99)));
    }
    assert_eq!(world.tracker().usage(a.port).flows, 1000);
    for n in 0..500 {
        assert_eq!(
            world.look(b, a, &udp((b, 53), (a, n))).state,
            State::Established
        );
    }
}

/// Keys that meet in a few buckets under one table's secrets are spread under another's like any others.
#[test]
fn e_31_who_does_not_know_the_key_cannot_make_hashes_meet() {
    use super::super::key::Hasher;
    let (known, secret) = (Hasher::new(), Hasher::new());
    let bucket = |hash: u64| hash & 0x3ff;
    let crafted: Vec<Key> = (0..2_000_000u32)
        .map(udp_key)
        .filter(|key| bucket(known.hash(key)) == 5)
        .take(1024)
        .collect();
    assert_eq!(crafted.len(), 1024);
    for half in [0, 32] {
        let mut load = BTreeMap::new();
        for key in &crafted {
            *load.entry(bucket(secret.hash(key) >> half)).or_insert(0u32) += 1;
        }
        // One in each bucket on average; twelve and more in one happen once in a million tables.
        assert!(load.values().all(|count| *count < 12), "{load:?}");
    }
}

/// IPv4 and IPv6 by turns, addresses and ports that count up.
fn udp_key(n: u32) -> Key {
    let ports = n << 16 | 53;
    let (src, dst) = (u64::from(0x0a00_0000 + (n >> 8)), 0x0a00_0001);
    let (family, high) = if n.is_multiple_of(2) {
        (crate::policy::subject::Family::V4, 0)
    } else {
        (crate::policy::subject::Family::V6, 0xfd00 << 48)
    };
    Key::build(VID, protocol::UDP, family, [high, src], [high, dst], ports)
}

/// Keys as they come: none of the tables grows a crowd.
#[test]
fn ascending_keys_are_all_taken_in() {
    let mut world = World::new(&TrackingSpec {
        per_port: 60_000,
        half_open_per_port: 60_000,
        ..spec()
    });
    for n in 0..60_000u16 {
        assert_eq!(
            world.pass(v4(0), v4(1), &udp((v4(0), n), (v4(1), 53))),
            State::New
        );
    }
    assert_eq!(world.tracker().usage(port(0)).turnover.refused, 0);
    for n in 0..60_000u16 {
        assert_eq!(
            world
                .look(v4(0), v4(1), &udp((v4(0), n), (v4(1), 53)))
                .state,
            State::Established
        );
    }
}

/// A packet of a small world: who, to whom, what.
#[derive(Clone, Copy, Debug)]
struct Event {
    from: u16,
    to: u16,
    kind: u8,
    ports: (u16, u16),
    seq: u32,
    seconds: u8,
}

impl Event {
    /// The packet; hosts are `base` to `base + 1`, under the addresses of hosts 0 and 1.
    fn run(self, world: &mut World, base: u16) -> (State, Option<Direction>) {
        let host = |n: u16| Host {
            port: port(base + n),
            ip: v4(n).ip,
        };
        let (a, b) = (
            (host(self.from), self.ports.0),
            (host(self.to), self.ports.1),
        );
        let tcp = |flags| Tcp::new(a, b, flags).at(self.seq, self.seq / 2).made();
        let made = match self.kind {
            0 => tcp(SYN),
            1 => tcp(SYN | ACK),
            2 => tcp(ACK),
            3 => tcp(RST),
            4 => udp(a, b),
            5 => icmp(a.0, b.0, 8, &[0, 0, 0, 1]),
            6 => icmp(a.0, b.0, 0, &[0, 0, 0, 1]),
            _ => error(a.0, b.0, &udp(b, a)),
        };
        let look = world.look(a.0, b.0, &made);
        if look.state == State::New {
            let _ = world.open(a.0, b.0, &made);
        }
        (look.state, look.flow.map(|(_, direction)| direction))
    }
}

fn events(len: usize) -> impl Strategy<Value = Vec<Event>> {
    let event = (
        0u16..2,
        0u16..2,
        0u8..8,
        (0u16..3, 0u16..3),
        0u32..4,
        0u8..40,
    )
        .prop_map(|(from, to, kind, ports, seq, seconds)| Event {
            from,
            to,
            kind,
            ports,
            seq,
            seconds,
        });
    prop::collection::vec(event, 0..len)
}

proptest! {
    /// E-30: what two ports make of their packets is the same, whatever two others do with the same addresses meanwhile.
    #[test]
    fn e_30_others_connections_change_no_verdict(
        mine in events(60),
        others in events(60),
        per_port in 1u32..8,
    ) {
        let spec = TrackingSpec { per_port, half_open_per_port: 3, ..spec() };
        let (mut alone, mut beside) = (World::new(&spec), World::new(&spec));
        let mut others = others.into_iter();
        for event in mine {
            for other in others.by_ref().take(2) {
                other.run(&mut beside, 2);
            }
            alone.wait(event.seconds.into());
            beside.now = alone.now;
            prop_assert_eq!(event.run(&mut alone, 0), event.run(&mut beside, 0));
        }
        for n in [0, 1] {
            prop_assert_eq!(alone.tracker().usage(port(n)), beside.tracker().usage(port(n)));
        }
    }

    /// Whatever comes, in whatever order: the books agree with what is there, and no bound is passed.
    #[test]
    fn the_counts_are_those_of_what_is_there(
        events in events(200),
        per_port in 1u32..8,
        half_open_per_port in 0u32..5,
    ) {
        let mut world = World::new(&TrackingSpec { per_port, half_open_per_port, loose: true, ..spec() });
        for event in events {
            world.wait(event.seconds.into());
            event.run(&mut world, 0);
            if event.seconds == 7 {
                let (tracker, now) = (world.tracker(), world.now);
                tracker.sweep(now, 5);
            }
            for n in [0, 1] {
                let usage = world.tracker().usage(port(n));
                let flows = world.flows().iter().filter(|flow| flow.opener == port(n)).count();
                prop_assert_eq!(usize::try_from(usage.flows).unwrap(), flows);
                prop_assert!(usage.flows <= per_port && usage.half_open <= half_open_per_port);
            }
        }
        world.wait(100_000);
        let (tracker, now) = (world.tracker(), world.now);
        tracker.sweep(now, 1000);
        for n in [0, 1] {
            let usage = tracker.usage(port(n));
            prop_assert_eq!((usage.flows, usage.half_open), (0, 0));
        }
    }
}
