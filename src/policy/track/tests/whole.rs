//! What is tracked, and how it is found.

use super::*;
use crate::frame::tcp::flag::RST;

fn echo(src: Host, dst: Host, is_request: bool, id: u16) -> Made {
    let kind = match (src.ip, is_request) {
        (IpAddr::V4(_), true) => 8,
        (IpAddr::V4(_), false) => 0,
        (IpAddr::V6(_), true) => 128,
        (IpAddr::V6(_), false) => 129,
    };
    let [a, b] = id.to_be_bytes();
    icmp(src, dst, kind, &[a, b, 0, 1])
}

#[test]
fn udp_belongs_to_the_two_ports_that_opened_it() {
    let mut world = World::new(&spec());
    let (a, b) = ((v4(0), 4000), (v4(1), 53));
    let (query, answer) = (udp(a, b), udp(b, a));
    assert_eq!(world.pass(a.0, b.0, &query), State::New);
    assert_eq!(world.phase(), Phase::Single);
    assert_eq!(world.pass(a.0, b.0, &query), State::Established);
    assert_eq!(world.phase(), Phase::Single);
    assert_eq!(world.tracker().usage(port(0)).half_open, 1);
    // A third port with the same addresses is another's.
    let third = Host {
        port: port(2),
        ..b.0
    };
    let look = world.look(third, a.0, &answer);
    assert_eq!((look.state, look.flow), (State::New, None));
    let look = world.look(b.0, a.0, &answer);
    assert_eq!(look.state, State::Established);
    assert_eq!(look.flow.unwrap().1, Direction::Reply);
    assert_eq!(
        (look.terms, look.is_of(1), look.is_of(2)),
        (terms(), true, false)
    );
    assert_eq!(world.phase(), Phase::Stream);
    assert_eq!(world.tracker().usage(port(0)).half_open, 0);
    // Another segment is another network.
    let (frame, _) = query.digest();
    let digest = Digest::of(&frame, VID + 1);
    let (from, to, now) = (a.0.port, b.0.port, world.now);
    let look = world.seat.burst().look(&digest, &frame, from, to, now);
    assert_eq!(look.state, State::New);
}

#[test]
fn echo_is_found_by_its_identifier_and_only_a_request_opens() {
    for (a, b) in [(v4(0), v4(1)), (v6(0), v6(1))] {
        let mut world = World::new(&spec());
        assert_eq!(
            world.look(b, a, &echo(b, a, false, 7)).state,
            State::Invalid
        );
        assert_eq!(world.pass(a, b, &echo(a, b, true, 7)), State::New);
        assert_eq!(world.phase(), Phase::Unanswered);
        assert_eq!(
            world.look(b, a, &echo(b, a, false, 8)).state,
            State::Invalid
        );
        assert_eq!(
            world.look(a, b, &echo(a, b, false, 7)).state,
            State::Invalid
        );
        // A request the other way, with the same number, is another connection.
        assert_eq!(world.pass(b, a, &echo(b, a, true, 7)), State::New);
        assert_eq!(world.pass(b, a, &echo(b, a, false, 7)), State::Established);
        assert_eq!(world.pass(a, b, &echo(a, b, false, 7)), State::Established);
        let flows = world.flows();
        assert_eq!(flows.len(), 2);
        for flow in flows {
            assert_eq!(flow.state, Phase::Answered);
            assert_eq!((flow.src_port, flow.dst_port), (7, 0));
        }
    }
}

#[test]
fn other_protocols_are_tracked_by_their_addresses() {
    let mut world = World::new(&spec());
    for (a, b) in [(v4(0), v4(1)), (v6(0), v6(1))] {
        let gre = |src: Host, dst: Host| ip(src.ip, dst.ip, 47, &[0; 8], 8);
        assert_eq!(world.pass(a, b, &gre(a, b)), State::New);
        assert_eq!(world.pass(b, a, &gre(b, a)), State::Established);
        assert_eq!(
            world.pass(b, a, &ip(b.ip, a.ip, 50, &[0; 8], 8)),
            State::New
        );
    }
}

#[test]
fn what_has_no_connections_is_untracked() {
    let mut world = World::new(&spec());
    let (a, b) = (v4(0), v4(1));
    let to = |ip: &str| Host {
        ip: ip.parse().unwrap(),
        ..b
    };
    let mut arp = udp((a, 1), (b, 2));
    arp.bytes[12..14].copy_from_slice(&[8, 6]);
    let mut broadcast = udp((a, 1), (b, 2));
    broadcast.bytes[..6].copy_from_slice(&[0xff; 6]);
    let mut fragment = udp((a, 1), (b, 2));
    fragment.bytes[20] = 0x20;
    let mut later = udp((a, 1), (b, 2));
    later.bytes[21] = 5;
    let mut short = udp((a, 1), (b, 2));
    short.bytes[17] = 24;
    let mut broken = udp((a, 1), (b, 2));
    broken.bytes[14] = 0x43;
    let (c, d) = (v6(0), v6(1));
    let group = Host {
        ip: "ff02::1".parse().unwrap(),
        ..d
    };
    for (what, made) in [
        ("ARP", arp),
        ("broadcast", broadcast),
        ("first fragment", fragment),
        ("later fragment", later),
        ("UDP cut short", short),
        ("header length under 20", broken),
        ("multicast", udp((a, 1), (to("224.0.0.251"), 2))),
        ("to all", udp((a, 1), (to("255.255.255.255"), 2))),
        ("from nobody", udp((to("0.0.0.0"), 1), (b, 2))),
        ("multicast", udp((c, 1), (group, 2))),
        ("timestamp", icmp(a, b, 13, &[0; 16])),
        ("redirect", icmp(a, b, 5, &[0; 32])),
        ("neighbour solicitation", icmp(c, d, 135, &[0; 20])),
        (
            "ICMP over IPv6",
            ip(c.ip, d.ip, 1, &[8, 0, 0, 0, 0, 1, 0, 1], 0),
        ),
        (
            "ICMPv6 over IPv4",
            ip(a.ip, b.ip, 58, &[128, 0, 0, 0, 0, 1, 0, 1], 0),
        ),
    ] {
        assert_eq!(world.look(a, b, &made).state, State::Untracked, "{what}");
        assert_eq!(world.open(a, b, &made), Err(DropReason::ConnectionInvalid));
    }
}

#[test]
fn errors_are_related_to_what_they_quote_either_way() {
    for (a, b) in [(v4(0), v4(1)), (v6(0), v6(1))] {
        let mut world = World::new(&spec());
        let (ask, answer) = (udp((a, 4000), (b, 53)), udp((b, 53), (a, 4000)));
        assert_eq!(world.look(b, a, &error(b, a, &ask)).state, State::Invalid);
        world.pass(a, b, &ask);
        // Nothing was sent yet that this could be about.
        assert_eq!(
            world.look(a, b, &error(a, b, &answer)).state,
            State::Invalid
        );
        world.pass(b, a, &answer);
        for (from, to, about, direction) in [
            (b, a, &ask, Direction::Reply),
            (a, b, &answer, Direction::Original),
        ] {
            let look = world.look(from, to, &error(from, to, about));
            assert_eq!(look.state, State::Related);
            assert_eq!(look.flow.unwrap().1, direction);
            assert_eq!(look.terms, terms());
        }
        // Pings, of which request and reply differ.
        world.pass(a, b, &echo(a, b, true, 9));
        world.pass(b, a, &echo(b, a, false, 9));
        for (is_request, expected) in [(true, State::Related), (false, State::Invalid)] {
            let about = echo(a, b, is_request, 9);
            assert_eq!(world.look(b, a, &error(b, a, &about)).state, expected);
            let about = echo(b, a, !is_request, 9);
            assert_eq!(world.look(a, b, &error(a, b, &about)).state, expected);
        }
    }
}

#[test]
fn a_broken_quotation_is_about_nothing() {
    let mut world = World::new(&spec());
    let (a, b) = (v4(0), v4(1));
    let ask = udp((a, 4000), (b, 53));
    world.pass(a, b, &ask);
    let good = error(b, a, &ask);
    assert_eq!(world.look(b, a, &good).state, State::Related);
    const QUOTE: usize = 14 + 20 + 8;
    let changed = |at: usize, value: u8| {
        let mut made = good.clone();
        made.bytes[QUOTE + at] = value;
        made
    };
    for (what, made) in [
        ("version", changed(0, 0x65)),
        ("header length", changed(0, 0x4f)),
        ("a later fragment", changed(7, 1)),
        ("protocol", changed(9, protocol::TCP)),
        ("source", changed(15, 9)),
        ("destination", changed(19, 9)),
        ("port", changed(20, 9)),
        ("an error", changed(9, protocol::ICMP)),
    ] {
        assert_eq!(world.look(b, a, &made).state, State::Invalid, "{what}");
    }
    let mut cut = good.clone();
    cut.bytes.truncate(QUOTE + 24);
    cut.len = u32::try_from(cut.bytes.len()).unwrap();
    cut.bytes[17] = u8::try_from(cut.len - 14).unwrap();
    assert_eq!(world.look(b, a, &cut).state, State::Invalid);
    // To another than the one that had sent it.
    let mut other = good.clone();
    other.bytes[33] = 77;
    assert_eq!(world.look(b, a, &other).state, State::Invalid);
    // Headers before the ICMPv6 header are no obstacle, in the quotation neither.
    let (c, d) = (v6(0), v6(1));
    let head = [[17, 0, 1, 4, 0, 0, 0, 0], [0x0f, 0xa0, 0, 53, 0, 8, 0, 0]].concat();
    let ask = ip(c.ip, d.ip, 60, &head, 0);
    assert_eq!(world.pass(c, d, &ask), State::New);
    let mut rest = vec![0; 4];
    rest.extend(&ask.bytes[14..]);
    assert_eq!(
        world.look(d, c, &icmp(d, c, 3, &rest)).state,
        State::Related
    );
}

#[test]
fn a_connection_that_now_goes_to_another_port_is_bound_anew_and_not_before() {
    let mut world = World::new(&spec());
    let c = world.connect(v4(0), v4(1));
    let moved = Host {
        port: port(2),
        ..c.b.0
    };
    let data = c.a(ACK).at(1000, 5000).data(10).made();
    let look = world.look(c.a.0, c.b.0, &data);
    let old = look.flow.unwrap();

    let look = world.look(c.a.0, moved, &data);
    assert_eq!((look.state, look.flow), (State::New, None));
    let flow = look.elsewhere.unwrap();
    assert_eq!(flow, old.0);
    assert_eq!(world.advance(old, &data), Some(State::Established));

    let rebind = |world: &mut World, made: &Made| {
        let (frame, digest) = made.digest();
        let now = world.now;
        let burst = world.seat.burst();
        burst.rebind(flow, &digest, &frame, moved.port, &terms(), 2, now)
    };
    let outside = c.a(ACK).at(0x9000_0000, 5000).made();
    assert_eq!(rebind(&mut world, &outside), None);
    let new = rebind(&mut world, &data).unwrap();
    assert_eq!(world.advance(old, &data), None, "old references are void");
    assert_eq!(
        world.advance((new, Direction::Original), &data),
        Some(State::Established)
    );
    assert_eq!(rebind(&mut world, &data), None);
    assert_eq!(world.flows()[0].peer, moved.port);
    // The old peer is a third port now.
    let reply = c.b(ACK).at(5000, 1010).made();
    assert_eq!(world.look(c.b.0, c.a.0, &reply).state, State::Invalid);
    let look = world.look(moved, c.a.0, &reply);
    assert_eq!(look.state, State::Established);
    assert!(look.is_of(2));
}

#[test]
fn connections_end_when_their_time_is_over() {
    let timeouts = crate::policy::spec::Timeouts {
        tcp_opening: 10,
        tcp_established: 100,
        tcp_closing: 20,
        udp_single: 5,
        udp_stream: 50,
        other: 7,
    };
    let mut world = World::new(&TrackingSpec { timeouts, ..spec() });
    let (a, b) = (v4(0), v4(1));
    let usage = |world: &World| world.tracker().usage(port(0));
    // Met on look-up: one second before, and at the time.
    let ask = udp((a, 1), (b, 2));
    world.pass(a, b, &ask);
    let flow = world.look(a, b, &ask).flow.unwrap();
    world.wait(4);
    assert_eq!(world.advance(flow, &ask), Some(State::Established));
    world.wait(5);
    assert_eq!(world.advance(flow, &ask), None);
    assert_eq!(world.look(b, a, &udp((b, 2), (a, 1))).state, State::New);
    assert_eq!(world.pass(a, b, &ask), State::New);
    // Answered, it is kept for longer.
    world.pass(b, a, &udp((b, 2), (a, 1)));
    world.wait(49);
    assert_eq!(world.look(a, b, &ask).state, State::Established);
    world.wait(50);
    // Met by the sweep.
    assert_eq!(usage(&world).flows, 1);
    assert_eq!(world.tracker().sweep(world.now, 10), 1);
    assert_eq!((usage(&world).flows, usage(&world).half_open), (0, 0));

    let c = world.connect(a, b);
    world.pass(a, b, &echo(a, b, true, 1));
    world.pass(a, b, &Tcp::new((a, 9), (b, 9), SYN).made());
    world.wait(7);
    assert_eq!(world.tracker().sweep(world.now, 10), 1);
    world.wait(3);
    assert_eq!(world.tracker().sweep(world.now, 10), 1);
    world.wait(89);
    assert_eq!(world.tracker().sweep(world.now, 10), 0);
    assert_eq!(world.by_b(c, c.b(RST).at(5000, 0)), State::Established);
    world.wait(19);
    assert_eq!(world.tracker().sweep(world.now, 10), 0);
    world.wait(1);
    assert_eq!(world.tracker().sweep(world.now, 10), 1);
    assert_eq!(usage(&world).turnover.expired, 4);
    assert_eq!(usage(&world).turnover.opened, 5);
}

/// O-9: a time stamp from another worker may be a moment ahead of one's own reading of the clock.
#[test]
fn a_packet_from_the_future_ends_nothing() {
    let mut world = World::new(&spec());
    let ask = udp((v4(0), 1), (v4(1), 2));
    world.pass(v4(0), v4(1), &ask);
    world.now = Tick::from_secs(90);
    assert_eq!(world.look(v4(0), v4(1), &ask).state, State::Established);
    assert_eq!(world.tracker().sweep(world.now, 10), 0);
}

#[test]
fn all_connections_of_a_port_end_when_its_guest_is_gone() {
    let mut world = World::new(&spec());
    let hosts = [v4(0), v4(1), v4(2)];
    for n in 0..300 {
        for (from, to) in [(0, 1), (1, 0), (1, 2), (2, 0)] {
            world.pass(
                hosts[from],
                hosts[to],
                &udp((hosts[from], n), (hosts[to], 1000)),
            );
        }
    }
    assert_eq!(world.flows().len(), 1200);
    assert_eq!(world.tracker().end_port(port(0)), 900);
    let left = world.flows();
    assert_eq!(left.len(), 300);
    assert!(
        left.iter()
            .all(|flow| (flow.opener, flow.peer) == (port(1), port(2)))
    );
    assert_eq!(world.tracker().end_port(port(0)), 0);
    assert_eq!(world.tracker().usage(port(1)).flows, 300);
}

#[test]
fn a_new_policy_judges_what_the_old_one_let_open() {
    let mut world = World::new(&spec());
    let (a, b) = (v4(0), v6(1));
    for n in 0..200 {
        world.pass(a, v4(1), &udp((a, n), (v4(1), 53)));
        world.pass(b, v6(0), &udp((b, n), (v6(0), 53)));
    }
    let c = world.connect(a, v4(1));
    let flow = world
        .look(a, v4(1), &c.a(ACK).at(1000, 5000).made())
        .flow
        .unwrap();
    let other = Terms {
        peer: Side {
            covered: true,
            rule: Some(RuleId(0)),
        },
        ..terms()
    };
    let (tracker, now) = (world.tracker(), world.now);
    let mut judged = 0;
    let ended = tracker.rejudge(2, now, |flow| {
        judged += 1;
        let subject = flow.subject();
        assert_eq!(subject.src_ip(), Some(flow.src_ip));
        assert_eq!(subject.dst_ip(), Some(flow.dst_ip));
        assert_eq!((subject.vid(), subject.state()), (VID, State::New));
        (subject.protocol() == protocol::TCP || flow.src_port % 2 == 0).then_some(other)
    });
    assert_eq!((judged, ended), (401, 200));
    let left = world.flows();
    assert_eq!(left.len(), 201);
    assert!(left.iter().all(|flow| flow.terms == other));
    let data = c.a(ACK).at(1000, 5000).made();
    assert_eq!(
        world.advance(flow, &data),
        Some(State::Established),
        "it was not disturbed"
    );
    assert!(world.look(a, v4(1), &data).is_of(2));
    assert_eq!(tracker.rejudge(2, now, |_| panic!("all are judged")), 0);
}

/// The packet that a connection is judged by afterwards reads like the one that had opened it.
#[test]
fn a_connection_tells_the_subject_of_its_first_packet() {
    for (a, b) in [(v4(0), v4(1)), (v6(0), v6(1))] {
        for made in [
            Tcp::new((a, 4), (b, 5), SYN).made(),
            udp((a, 6), (b, 7)),
            echo(a, b, true, 8),
            ip(a.ip, b.ip, 47, &[0; 8], 0),
        ] {
            let mut world = World::new(&spec());
            assert_eq!(world.pass(a, b, &made), State::New);
            let (_, digest) = made.digest();
            let expected = digest.subject.in_state(State::New);
            assert_eq!(world.flows()[0].subject(), expected);
        }
    }
}

#[test]
fn a_connection_reads_well_as_json() {
    let mut world = World::new(&spec());
    world.connect(v4(0), v4(1));
    world.wait(4);
    let json = serde_json::to_value(world.flows()[0]).unwrap();
    let expected = serde_json::json!({
        "opener": 0, "peer": 1, "vid": 7, "protocol": 6,
        "src_ip": "10.0.0.1", "dst_ip": "10.0.0.2", "src_port": 40_000, "dst_port": 80,
        "src_mac": "52:54:00:00:00:01", "dst_mac": "52:54:00:00:00:02",
        "state": "established",
        "terms": {
            "opener": { "covered": true, "rule": 3 },
            "peer": { "covered": false, "rule": null },
        },
        "sent": { "packets": 2, "bytes": 108 }, "received": { "packets": 1, "bytes": 54 },
        "age": 4, "idle": 4,
    });
    assert_eq!(json, expected);
    for phase in [Phase::SynReceived, Phase::TimeWait, Phase::Single] {
        assert_eq!(serde_json::to_value(phase).unwrap(), phase.name());
    }
}

/// Two ports that open the same connection at the same moment, neither seeing the other's, end up with one.
#[test]
fn what_both_ports_open_at_once_is_one_connection() {
    let (a, b) = ((v4(0), 500), (v4(1), 500));
    for lower_first in [true, false] {
        let mut world = World::new(&spec());
        let (first, second) = if lower_first { (a, b) } else { (b, a) };
        // Both were looked up as new before.
        let opened = world.open(first.0, second.0, &udp(first, second)).unwrap();
        assert_eq!(opened.1, Direction::Original);
        let (flow, direction) = world.open(second.0, first.0, &udp(second, first)).unwrap();
        let flows = world.flows();
        assert_eq!(flows.len(), 1);
        assert_eq!(flows[0].opener, port(0));
        assert_eq!(flow.opener(), port(0));
        let expected = if lower_first {
            Direction::Reply
        } else {
            Direction::Original
        };
        assert_eq!(direction, expected);
        assert_eq!(
            world.look(b.0, a.0, &udp(b, a)).flow.unwrap().1,
            Direction::Reply
        );
    }
}
