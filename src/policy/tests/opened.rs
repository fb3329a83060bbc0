//! What is said of the packet that opens a connection, and what of those behind it.

use super::*;
use crate::policy::subject::State as Of;

fn of(states: &[Of], rule: Rule) -> Rule {
    Rule {
        states: states.to_vec(),
        ..rule
    }
}

#[test]
fn a_rule_about_established_packets_meets_the_second_of_a_connection() {
    let sender = PortPolicy {
        outbound: list(vec![
            of(&[Of::Established], Rule::any(Action::Deny)),
            Rule::any(Action::Allow),
        ]),
        ..free()
    };
    let mut bench = Bench::new(vec![sender, free()]);
    let frame = udp((0, 4000), (1, 53));
    assert_eq!(bench.send(0, 1, &frame), Ok(()));
    for _ in 0..3 {
        assert_eq!(bench.send(0, 1, &frame), Err(DropReason::DeniedOutbound));
    }
}

#[test]
fn a_stateless_rule_about_new_packets_lets_the_first_pass_alone() {
    let sender = PortPolicy {
        outbound: list(vec![Rule {
            stateless: true,
            ..of(&[Of::New], Rule::any(Action::Allow))
        }]),
        ..free()
    };
    let receiver = PortPolicy {
        inbound: list(vec![Rule::any(Action::Allow)]),
        ..free()
    };
    let mut bench = Bench::new(vec![sender, receiver]);
    let frame = udp((0, 4000), (1, 53));
    assert_eq!(bench.send(0, 1, &frame), Ok(()));
    for _ in 0..3 {
        assert_eq!(bench.send(0, 1, &frame), Err(DropReason::NotAllowed));
    }
}

/// The same in one burst: no run begins with the packet that opens.
#[test]
fn no_run_begins_with_the_packet_that_opens() {
    let sender = PortPolicy {
        outbound: list(vec![
            of(&[Of::Established], Rule::any(Action::Deny)),
            Rule::any(Action::Allow),
        ]),
        ..free()
    };
    let mut bench = Bench::new(vec![sender, free()]);
    let frames = vec![udp((0, 4000), (1, 53)); 8];
    let (said, in_runs) = bench.burst(0, 1, &frames);
    assert_eq!(
        said.iter().filter(|said| said.is_ok()).count(),
        1,
        "{said:?}"
    );
    assert_eq!(in_runs, 0);
}

/// What was kept of a connection that has ended since was taken for the one that opened in its place, and counted nowhere.
#[test]
fn no_run_goes_on_in_the_connection_that_was_before() {
    let server = PortPolicy {
        inbound: list(vec![Rule::any(Action::Allow)]),
        ..free()
    };
    let mut bench = Bench::new(vec![free(), server]);
    let frame = udp((0, 4000), (1, 53));
    for _ in 0..3 {
        bench.burst(0, 1, std::slice::from_ref(&frame));
    }
    bench.now = Tick::from_secs(3600);
    let (said, _) = bench.burst(0, 1, &vec![frame; 5]);
    assert_eq!(said, [Ok(()); 5]);
    let tracker = bench.policy.state().tracker();
    let flows = tracker.flows(bench.now);
    let counted: Vec<_> = flows.map(|flow| flow.sent.packets).collect();
    assert_eq!(counted, [5]);
}

/// Behind one port there may be many stations. A connection that was opened to one that a list allows is no way to another that it does not.
#[test]
fn a_connection_does_not_move_to_a_station_that_a_rule_refuses() {
    let gateway = Mac::new(mac(1));
    let to_gateway = Rule {
        to: vec![Who::Mac(gateway)],
        ..Rule::any(Action::Allow)
    };
    let of_gateway = Rule {
        from: vec![Who::Mac(gateway)],
        ..Rule::any(Action::Allow)
    };
    let guest = PortPolicy {
        outbound: list(vec![to_gateway, Rule::any(Action::Deny)]),
        inbound: list(vec![of_gateway]),
        ..free()
    };
    let mut bench = Bench::new(vec![guest, free()]);
    let with = |bytes: &[u8], at: usize, station: u8| {
        let mut bytes = bytes.to_vec();
        bytes[at..at + 6].copy_from_slice(&mac(station));
        bytes
    };
    let segment = |flags| tcp((0, 4000), (1, 80), flags, 77, 0);
    let answer = tcp((1, 80), (0, 4000), "SA", 500, 78);
    for (there, back) in [
        (udp((0, 4000), (1, 53)), udp((1, 53), (0, 4000))),
        (segment("S"), answer),
    ] {
        let elsewhere = with(&there, 0, 7);
        assert_eq!(
            bench.send(0, 1, &elsewhere),
            Err(DropReason::DeniedOutbound)
        );
        for _ in 0..3 {
            assert_eq!(bench.send(0, 1, &there), Ok(()));
            assert_eq!(
                bench.send(0, 1, &elsewhere),
                Err(DropReason::DeniedOutbound)
            );
        }
        let from_elsewhere = with(&back, 6, 7);
        assert_eq!(
            bench.send(1, 0, &from_elsewhere),
            Err(DropReason::NotAllowed)
        );
        assert_eq!(bench.send(1, 0, &back), Ok(()));
    }
    // The same the other way about: what comes in is no way out.
    let (there, back) = (udp((1, 9), (0, 9)), udp((0, 9), (1, 9)));
    assert_eq!(bench.send(1, 0, &there), Ok(()));
    assert_eq!(
        bench.send(0, 1, &with(&back, 0, 7)),
        Err(DropReason::DeniedOutbound)
    );
    assert_eq!(bench.send(0, 1, &back), Ok(()));
}

/// A list without such rules does not mind: routers answer from another address than they are spoken to at.
#[test]
fn a_router_may_answer_from_another_address() {
    let guest = PortPolicy {
        outbound: list(vec![Rule::any(Action::Allow)]),
        inbound: list(vec![]),
        ..free()
    };
    let mut bench = Bench::new(vec![guest, free()]);
    assert_eq!(bench.send(0, 1, &udp((0, 4000), (1, 53))), Ok(()));
    let mut back = udp((1, 53), (0, 4000));
    back[6..12].copy_from_slice(&mac(7));
    assert_eq!(bench.send(1, 0, &back), Ok(()));
}
