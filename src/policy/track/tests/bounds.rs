//! Each port pays for itself.

use super::*;
use crate::policy::spec::Rate;

fn bounds(per_port: u32, half_open_per_port: u32) -> TrackingSpec {
    TrackingSpec {
        per_port,
        half_open_per_port,
        ..spec()
    }
}

fn usage(world: &World, index: u16) -> Usage {
    world.tracker().usage(port(index))
}

/// One that is answered.
fn stream(world: &mut World, n: u16) -> Result<(FlowRef, Direction), DropReason> {
    let (a, b) = ((v4(0), n), (v4(1), 53));
    let opened = world.open(a.0, b.0, &udp(a, b));
    if opened.is_ok() {
        assert_eq!(world.pass(b.0, a.0, &udp(b, a)), State::Established);
    }
    opened
}

#[test]
fn a_port_full_of_answered_connections_opens_no_more_until_one_expires() {
    let mut world = World::new(&bounds(100, 50));
    for n in 0..100 {
        stream(&mut world, n).unwrap();
    }
    assert_eq!(stream(&mut world, 100), Err(DropReason::ConnectionLimit));
    assert_eq!(usage(&world, 0).turnover.refused, 1);
    // Another port is not concerned.
    assert_eq!(
        world.pass(v4(2), v4(0), &udp((v4(2), 1), (v4(0), 1))),
        State::New
    );
    world.wait(100);
    assert_eq!(
        world.pass(v4(0), v4(1), &udp((v4(0), 70), (v4(1), 53))),
        State::Established
    );
    world.wait(80);
    // Room is looked for among some of the places at a time.
    let before = usage(&world, 0).flows;
    assert!(stream(&mut world, 100).is_ok());
    let usage = usage(&world, 0);
    assert_eq!(usage.turnover.expired, u64::from(before - usage.flows + 1));
    assert_eq!(
        world
            .look(v4(0), v4(1), &udp((v4(0), 70), (v4(1), 53)))
            .state,
        State::Established
    );
}

#[test]
fn the_oldest_half_open_connection_makes_room_and_no_other() {
    for (per_port, half_open) in [(100, 50), (70, 1000)] {
        let mut world = World::new(&bounds(per_port, half_open));
        for n in 0..20 {
            stream(&mut world, n).unwrap();
        }
        let ask = |n: u16| udp((v4(0), n), (v4(1), 54));
        for n in 0..50 {
            assert_eq!(world.pass(v4(0), v4(1), &ask(n)), State::New);
        }
        // The oldest is answered and no longer half open; it lies at the head of the list.
        assert_eq!(
            world.pass(v4(1), v4(0), &udp((v4(1), 54), (v4(0), 0))),
            State::Established
        );
        for n in 50..150 {
            assert_eq!(world.pass(v4(0), v4(1), &ask(n)), State::New);
        }
        let expected = per_port.min(half_open + 21);
        assert_eq!(usage(&world, 0).flows, expected);
        let mut kept: Vec<u16> = world
            .flows()
            .iter()
            .filter(|flow| flow.dst_port == 54)
            .map(|flow| flow.src_port)
            .collect();
        kept.sort_unstable();
        let youngest = 150 - u16::try_from(expected - 21).unwrap();
        assert_eq!(
            kept,
            std::iter::once(0).chain(youngest..150).collect::<Vec<_>>()
        );
        for n in 0..20 {
            let answer = udp((v4(1), 53), (v4(0), n));
            assert_eq!(world.look(v4(1), v4(0), &answer).state, State::Established);
        }
    }
}

#[test]
fn a_connection_that_is_over_makes_room() {
    let mut world = World::new(&bounds(1, 1));
    let c = world.connect(v4(0), v4(1));
    let other = Tcp::new((v4(0), 1), (v4(1), 1), SYN).made();
    assert_eq!(
        world.open(v4(0), v4(1), &other),
        Err(DropReason::ConnectionLimit)
    );
    assert_eq!(
        world.by_b(c, c.b(crate::frame::tcp::flag::RST).at(5000, 0)),
        State::Established
    );
    assert!(world.open(v4(0), v4(1), &other).is_ok());
}

#[test]
fn no_half_open_connection_is_one_too_many_where_none_is_allowed() {
    let mut world = World::new(&bounds(10, 0));
    let ask = udp((v4(0), 1), (v4(1), 1));
    assert_eq!(
        world.open(v4(0), v4(1), &ask),
        Err(DropReason::HalfOpenLimit)
    );
}

#[test]
fn a_port_opens_no_faster_than_it_may() {
    let new_per_second = Rate {
        per_second: 10,
        burst: 5,
    };
    let mut world = World::new(&TrackingSpec {
        new_per_second,
        ..spec()
    });
    let mut n = 0;
    let mut open = |world: &mut World| {
        n += 1;
        world.open(v4(0), v4(1), &udp((v4(0), n), (v4(1), 53)))
    };
    let mut many = |world: &mut World| (0..100).filter(|_| open(world).is_ok()).count();
    assert_eq!(many(&mut world), 5);
    world.now = world.now.after_millis(99);
    assert_eq!(many(&mut world), 0);
    world.now = world.now.after_millis(1);
    assert_eq!(many(&mut world), 1);
    world.wait(3600);
    assert_eq!(many(&mut world), 5);
    assert_eq!(open(&mut world), Err(DropReason::ConnectionRate));
    assert_eq!(
        world.pass(v4(2), v4(1), &udp((v4(2), 1), (v4(1), 53))),
        State::New
    );
}

#[test]
fn bounds_and_ports_change_while_connections_are_open() {
    let mut world = World::new(&bounds(10, 10));
    for n in 0..10 {
        stream(&mut world, n).unwrap();
    }
    assert_eq!(stream(&mut world, 10), Err(DropReason::ConnectionLimit));
    let late = Host {
        port: port(900),
        ..v4(3)
    };
    let ask = udp((late, 1), (v4(0), 1));
    assert_eq!(
        world.open(late, v4(0), &ask),
        Err(DropReason::ConnectionLimit)
    );

    world.tracker().reconfigure(&bounds(20_000, 10), 901);
    assert!(world.open(late, v4(0), &ask).is_ok());
    for n in 10..20_000 {
        stream(&mut world, n).unwrap();
    }
    assert_eq!(stream(&mut world, 20_000), Err(DropReason::ConnectionLimit));
    assert_eq!(world.flows().len(), 20_001);
    world.tracker().reconfigure(&bounds(5, 10), 901);
    assert_eq!(stream(&mut world, 20_000), Err(DropReason::ConnectionLimit));
    for n in [0, 9, 10, 12_345, 19_999] {
        assert_eq!(
            world
                .look(v4(1), v4(0), &udp((v4(1), 53), (v4(0), n)))
                .state,
            State::Established
        );
    }
}

/// A place may still be in use by another worker's burst when its connection ends.
#[test]
fn the_place_of_an_ended_connection_is_not_given_away_under_a_burst() {
    let mut world = World::new(&bounds(10, 10));
    let ask = |n: u16| udp((v4(0), n), (v4(1), 53));
    let (flow, _) = world.open(v4(0), v4(1), &ask(0)).unwrap();
    let mut other = world.tracker().seat().unwrap();
    let burst = other.burst();
    assert!(world.tracker().end(flow));
    for n in 1..500 {
        let (new, _) = world.open(v4(0), v4(1), &ask(n)).unwrap();
        assert_ne!(new.slot, flow.slot);
    }
    drop(burst);
    let mut comes_back = false;
    for n in 500..2000 {
        let (new, _) = world.open(v4(0), v4(1), &ask(n)).unwrap();
        comes_back |= new.slot == flow.slot;
        assert!(new.slot < 2000);
    }
    assert!(comes_back);
    assert_eq!(usage(&world, 0).flows, 10);
}

#[test]
fn places_run_out_when_a_burst_does_not_end() {
    let mut world = World::new(&bounds(10, 10));
    let mut other = world.tracker().seat().unwrap();
    let burst = other.burst();
    let mut refused = 0;
    for n in 0..10_000 {
        match world.open(v4(0), v4(1), &udp((v4(0), n), (v4(1), 53))) {
            Ok(_) => assert_eq!(refused, 0),
            Err(reason) => {
                assert_eq!(reason, DropReason::ConnectionLimit);
                refused += 1;
            }
        }
    }
    assert!(refused > 0);
    assert_eq!(usage(&world, 0).flows, 10, "nothing ended for nothing");
    drop(burst);
    assert!(
        world
            .open(v4(0), v4(1), &udp((v4(0), 1), (v4(1), 53)))
            .is_ok()
    );
}
