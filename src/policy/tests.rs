//! The gate as a whole: what one port says to another, frame by frame.

use std::sync::Arc;

use etherparse::PacketBuilder;

use super::rule::{Action, Kind, Rule, Who};
use super::spec::{
    ConnectionQuota, GuardSpec, IpSpec, LimitSpec, MacSpec, PolicySpec, PortPolicy, Rate,
};
use super::*;
use crate::clock::Tick;
use crate::counters::{DropReason, PortId, PortSet};
use crate::frame::{Frame, Mac, Vid, protocol};

mod opened;
mod runs;

fn port(index: u16) -> PortId {
    PortId::new(index).unwrap()
}

fn mac(n: u8) -> [u8; 6] {
    [0x52, 0x54, 0, 0, 0, n]
}

fn ip(n: u8) -> [u8; 4] {
    [10, 0, 0, n]
}

/// TCP from station `from` to station `to`.
fn tcp(from: (u8, u16), to: (u8, u16), flags: &str, sequence: u32, ack: u32) -> Vec<u8> {
    let mut step = PacketBuilder::ethernet2(mac(from.0), mac(to.0))
        .ipv4(ip(from.0), ip(to.0), 64)
        .tcp(from.1, to.1, sequence, 65_535);
    for flag in flags.chars() {
        step = match flag {
            'S' => step.syn(),
            'F' => step.fin(),
            'R' => step.rst(),
            'A' => step.ack(ack),
            'P' => step.psh(),
            _ => panic!("{flag}"),
        };
    }
    let mut bytes = Vec::new();
    step.write(&mut bytes, &[]).unwrap();
    bytes
}

fn udp(from: (u8, u16), to: (u8, u16)) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(mac(from.0), mac(to.0))
        .ipv4(ip(from.0), ip(to.0), 64)
        .udp(from.1, to.1)
        .write(&mut bytes, &[7; 20])
        .unwrap();
    bytes
}

fn arp(from: u8) -> Vec<u8> {
    let mut bytes = vec![0xff; 6];
    bytes.extend(mac(from));
    bytes.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    bytes.extend(mac(from));
    bytes.extend(ip(from));
    bytes.extend([0; 6]);
    bytes.extend(ip(99));
    bytes.resize(60, 0);
    bytes
}

/// A policy over ports 0, 1, 2 and one context each.
struct Bench {
    policy: Policy,
    contexts: Vec<Context>,
    desk: Desk,
    now: Tick,
}

fn free() -> PortPolicy {
    PortPolicy {
        guard: GuardSpec::open(),
        untagged: Some(Vid::DEFAULT),
        ..PortPolicy::default()
    }
}

fn list(rules: Vec<Rule>) -> Option<Arc<[Rule]>> {
    Some(rules.into())
}

fn allow_tcp(port: u16) -> Rule {
    Rule {
        kind: Kind::Ip {
            family: None,
            protocol: Some(protocol::TCP),
        },
        port: vec![port..=port],
        ..Rule::any(Action::Allow)
    }
}

impl Bench {
    fn new(ports: Vec<PortPolicy>) -> Self {
        Self::of(PolicySpec {
            ports: ports.into_iter().map(Some).collect(),
            ..PolicySpec::default()
        })
    }

    fn of(spec: PolicySpec) -> Self {
        let contexts = spec.ports.iter().map(|_| Context::default()).collect();
        let policy = Policy::compile(1, &spec, State::new()).unwrap();
        policy.make_room(&spec.tracking);
        Self {
            policy,
            contexts,
            desk: Desk::default(),
            now: Tick::from_secs(1),
        }
    }

    /// Another policy in the place of the old one.
    fn replace(&mut self, ports: Vec<PortPolicy>) {
        let spec = PolicySpec {
            ports: ports.into_iter().map(Some).collect(),
            ..PolicySpec::default()
        };
        let state = Arc::clone(self.policy.state());
        self.policy = Policy::compile(self.policy.epoch() + 1, &spec, state).unwrap();
        self.policy.make_room(&spec.tracking);
    }

    fn refusal(&mut self, from: u16, to: u16, bytes: &[u8]) -> Result<(), Refusal> {
        let len = u32::try_from(bytes.len()).unwrap();
        let frame = Frame::parse(&bytes[..bytes.len().min(128)], len).unwrap();
        let weight = Weight {
            frames: 1,
            bytes: len,
        };
        let context = &mut self.contexts[usize::from(from)];
        let mut judge = self
            .policy
            .judge(port(from), context, &mut self.desk, self.now);
        let admitted = judge.admit(None, &frame, || weight)?;
        let permit = judge.permit(admitted, port(to))?;
        assert_eq!((permit.from(), permit.to()), (port(from), port(to)));
        Ok(())
    }

    fn send(&mut self, from: u16, to: u16, bytes: &[u8]) -> Result<(), DropReason> {
        self.refusal(from, to, bytes)
            .map_err(|refusal| refusal.reason)
    }

    fn hits(&self) -> Vec<u64> {
        self.policy.rules().map(|(_, _, hits)| hits).collect()
    }
}

fn judge(dst: &str, src: &str) -> Result<(), DropReason> {
    let mut bytes = [0; 60];
    bytes[..6].copy_from_slice(&dst.parse::<Mac>().unwrap().octets());
    bytes[6..12].copy_from_slice(&src.parse::<Mac>().unwrap().octets());
    Bench::new(vec![free(), free()]).send(0, 1, &bytes)
}

const STATION: &str = "52:54:00:00:00:01";

#[test]
fn e_1_a_source_that_no_station_has_is_refused() {
    assert_eq!(judge(STATION, "52:54:00:00:00:02"), Ok(()));
    for source in [
        "00:00:00:00:00:00",
        "ff:ff:ff:ff:ff:ff",
        "01:00:5e:00:00:01",
        "53:54:00:00:00:01",
    ] {
        let verdict = judge(STATION, source);
        assert_eq!(verdict, Err(DropReason::SourceMacInvalid), "{source}");
    }
}

#[test]
fn e_10_reserved_groups_are_refused_and_their_neighbours_are_not() {
    for low in 0..=0x3fu64 {
        let group = Mac::from_bits(0x0180_c200_0000 | low).to_string();
        let expected = if low < 0x10 || (0x20..0x30).contains(&low) {
            Err(DropReason::ReservedGroup)
        } else {
            Ok(())
        };
        assert_eq!(judge(&group, STATION), expected, "{group}");
    }
    for group in ["01:00:0c:cc:cc:cc", "01:00:0c:cc:cc:cd"] {
        let verdict = judge(group, STATION);
        assert_eq!(verdict, Err(DropReason::ReservedGroup), "{group}");
    }
    for group in [
        "01:00:0c:cc:cc:ce",
        "33:33:00:00:00:01",
        "01:00:5e:00:00:fb",
        "ff:ff:ff:ff:ff:ff",
    ] {
        assert_eq!(judge(group, STATION), Ok(()), "{group}");
    }
}

#[test]
fn a_port_without_policy_passes_nothing_either_way() {
    let policy = Policy::open(7, [port(0), port(1023)]);
    let bytes = [2; 60];
    let frame = Frame::parse(&bytes, 60).unwrap();
    let weight = Weight {
        frames: 1,
        bytes: 60,
    };
    let (mut context, mut desk) = (Context::default(), Desk::default());
    let refused = policy
        .judge(port(1), &mut context, &mut desk, Tick::ZERO)
        .admit(None, &frame, || weight)
        .map(drop);
    assert_eq!(refused, Err(DropReason::NoPolicy));
    let mut judge = policy.judge(port(1023), &mut context, &mut desk, Tick::ZERO);
    let admitted = judge.admit(None, &frame, || weight).unwrap();
    assert_eq!(
        judge.permit(admitted, port(1)),
        Err(DropReason::NoPolicy.into())
    );
    let permit = judge.permit(admitted, port(0)).unwrap();
    assert_eq!((permit.from(), permit.to()), (port(1023), port(0)));
}

#[test]
fn a_stateful_rule_lets_replies_pass_and_nothing_else() {
    let server = PortPolicy {
        inbound: list(vec![allow_tcp(80)]),
        outbound: list(vec![]),
        ..free()
    };
    let mut bench = Bench::new(vec![free(), server, free()]);
    // The server may not begin, nor answer what was never asked.
    let answer = tcp((1, 80), (0, 4000), "SA", 900, 101);
    assert_eq!(
        bench.send(1, 0, &answer),
        Err(DropReason::ConnectionInvalid)
    );
    assert_eq!(
        bench.send(0, 1, &tcp((0, 4000), (1, 80), "S", 100, 0)),
        Ok(())
    );
    // Only the port that was asked, and only the port that asked it.
    assert_eq!(
        bench.send(1, 2, &answer),
        Err(DropReason::ConnectionInvalid)
    );
    assert_eq!(bench.send(1, 0, &answer), Ok(()));
    assert_eq!(
        bench.send(0, 1, &tcp((0, 4000), (1, 80), "A", 101, 901)),
        Ok(())
    );
    for _ in 0..3 {
        assert_eq!(
            bench.send(1, 0, &tcp((1, 80), (0, 4000), "PA", 901, 101)),
            Ok(())
        );
    }
    // Another port of the same server is another matter.
    let other = bench.send(0, 1, &tcp((0, 4000), (1, 81), "S", 100, 0));
    assert_eq!(other, Err(DropReason::NotAllowed));
    // The rule decided the first frame; the connection the others.
    assert_eq!(bench.hits(), [1]);
}

#[test]
fn a_stateless_rule_opens_no_way_back() {
    let rule = Rule {
        stateless: true,
        ..allow_tcp(80)
    };
    let server = PortPolicy {
        inbound: list(vec![rule]),
        outbound: list(vec![]),
        ..free()
    };
    let mut bench = Bench::new(vec![free(), server]);
    for _ in 0..3 {
        assert_eq!(
            bench.send(0, 1, &tcp((0, 4000), (1, 80), "S", 100, 0)),
            Ok(())
        );
    }
    let answer = tcp((1, 80), (0, 4000), "SA", 900, 101);
    assert_eq!(
        bench.send(1, 0, &answer),
        Err(DropReason::ConnectionInvalid)
    );
    assert_eq!(bench.hits(), [3]);
}

#[test]
fn stateless_rules_of_both_directions_carry_a_connection_without_tracking() {
    let answers = Rule {
        port: vec![],
        source_port: vec![80..=80],
        stateless: true,
        ..allow_tcp(80)
    };
    let asked = Rule {
        stateless: true,
        ..allow_tcp(80)
    };
    let server = PortPolicy {
        inbound: list(vec![asked]),
        outbound: list(vec![answers]),
        ..free()
    };
    let mut bench = Bench::new(vec![free(), server]);
    for (from, flags) in [
        (0, "S"),
        (1, "SA"),
        (0, "A"),
        (1, "PA"),
        (0, "FA"),
        (1, "R"),
    ] {
        let frame = if from == 0 {
            tcp((0, 4000), (1, 80), flags, 100, 900)
        } else {
            tcp((1, 80), (0, 4000), flags, 900, 101)
        };
        assert_eq!(bench.send(from, 1 - from, &frame), Ok(()), "{flags}");
    }
    assert_eq!(bench.policy.state().tracker().usage(port(0)).flows, 0);
}

#[test]
fn e_29_a_port_has_a_quota_of_its_own() {
    let guest = |connections| PortPolicy {
        outbound: list(vec![Rule::any(Action::Allow)]),
        quota: Some(ConnectionQuota {
            connections,
            half_open: connections,
            new_per_second: Rate::default(),
        }),
        ..free()
    };
    let mut bench = Bench::new(vec![guest(2), guest(5), free()]);
    for (from, most) in [(0u16, 2u16), (1, 5)] {
        let station = from as u8;
        for turn in 0..2 * most {
            let syn = tcp((station, 1000 + turn), (2, 80), "S", 1, 0);
            // Half-open ones make room for the next: nothing is refused, and nothing grows.
            assert_eq!(bench.send(from, 2, &syn), Ok(()));
        }
        let usage = bench.policy.state().tracker().usage(port(from));
        assert_eq!(usage.flows, u32::from(most));
    }
}

#[test]
fn both_lists_are_asked_and_isolation_by_ports_cannot_be_forged() {
    let only_from_0 = Rule {
        from: vec![Who::Ports(PortSet::from_iter([port(0)]))],
        ..Rule::any(Action::Allow)
    };
    let mut bench = Bench::new(vec![
        free(),
        PortPolicy {
            inbound: list(vec![only_from_0]),
            ..free()
        },
        free(),
    ]);
    // Port 2 says that it is station 0; where the frame really came from counts.
    let frame = udp((0, 1), (1, 2));
    assert_eq!(bench.send(0, 1, &frame), Ok(()));
    assert_eq!(bench.send(2, 1, &frame), Err(DropReason::NotAllowed));
    assert_eq!(bench.send(2, 0, &frame), Ok(()));
}

#[test]
fn a_list_that_closes_with_reject_any_cuts_nobody_off_from_addressing() {
    let closed = |kind| PortPolicy {
        outbound: list(vec![Rule {
            kind,
            ..Rule::any(Action::Reject)
        }]),
        ..free()
    };
    let mut bench = Bench::new(vec![
        closed(Kind::Any),
        free(),
        closed(Kind::EtherType(0x0806)),
    ]);
    assert_eq!(bench.send(0, 1, &arp(0)), Ok(()));
    assert_eq!(
        bench.send(0, 1, &udp((0, 1), (1, 2))),
        Err(DropReason::Rejected)
    );
    assert_eq!(bench.send(2, 1, &arp(2)), Err(DropReason::Rejected));
}

#[test]
fn default_deny_carries_addressing_and_nothing_else() {
    let mut bench = Bench::of(PolicySpec {
        ports: vec![Some(free()), Some(free())],
        default_deny: true,
        ..PolicySpec::default()
    });
    assert_eq!(bench.send(0, 1, &arp(0)), Ok(()));
    assert_eq!(
        bench.send(0, 1, &udp((0, 1), (1, 2))),
        Err(DropReason::NotAllowed)
    );
    let syn = tcp((0, 4000), (1, 80), "S", 100, 0);
    assert_eq!(bench.send(0, 1, &syn), Err(DropReason::NotAllowed));
}

#[test]
fn cve_2023_5366_a_kept_verdict_is_no_wider_than_what_was_read() {
    let server = PortPolicy {
        inbound: list(vec![allow_tcp(80)]),
        ..free()
    };
    let mut bench = Bench::new(vec![free(), server]);
    for turn in 0..100u16 {
        let allowed = tcp((0, 4000), (1, 80), "S", 100, 0);
        assert_eq!(bench.send(0, 1, &allowed), Ok(()));
        // Each differs from what is kept in one field.
        for (from, to) in [(4000, 81), (4000, 79), (80, 4000), (turn, 443)] {
            let denied = tcp((0, from), (1, to), "S", 100, 0);
            assert_eq!(bench.send(0, 1, &denied), Err(DropReason::NotAllowed));
        }
        assert_eq!(
            bench.send(0, 1, &udp((0, 4000), (1, 80))),
            Err(DropReason::NotAllowed)
        );
    }
}

#[test]
fn a_kept_refusal_does_not_outlive_a_connection_that_opens() {
    let quiet = PortPolicy {
        inbound: list(vec![]),
        ..free()
    };
    let mut bench = Bench::new(vec![free(), quiet]);
    let answer = tcp((0, 80), (1, 4000), "SA", 900, 101);
    for _ in 0..3 {
        assert_eq!(
            bench.send(0, 1, &answer),
            Err(DropReason::ConnectionInvalid)
        );
    }
    // Without an outbound list the guest may begin what it likes, and hear the answer.
    assert_eq!(
        bench.send(1, 0, &tcp((1, 4000), (0, 80), "S", 100, 0)),
        Ok(())
    );
    assert_eq!(bench.send(0, 1, &answer), Ok(()));
}

#[test]
fn a_policy_that_changed_is_asked_again() {
    let server = || PortPolicy {
        inbound: list(vec![allow_tcp(80)]),
        ..free()
    };
    let mut bench = Bench::new(vec![free(), server()]);
    let frame = udp((0, 1), (1, 2));
    assert_eq!(bench.send(0, 1, &frame), Err(DropReason::NotAllowed));
    bench.replace(vec![free(), free()]);
    assert_eq!(bench.send(0, 1, &frame), Ok(()));
    bench.replace(vec![free(), server()]);
    assert_eq!(bench.send(0, 1, &frame), Err(DropReason::NotAllowed));
}

#[test]
fn a_rejected_frame_is_answered_and_not_without_end() {
    let server = PortPolicy {
        inbound: list(vec![Rule::any(Action::Reject)]),
        ..free()
    };
    let mut bench = Bench::new(vec![free(), server]);
    let answers = (0..100)
        .filter(|_| {
            let refusal = bench.refusal(0, 1, &udp((0, 1), (1, 2))).unwrap_err();
            assert_eq!(refusal.reason, DropReason::Rejected);
            refusal.answer
        })
        .count();
    assert_eq!(answers, 20);
    bench.now = Tick::from_secs(2);
    assert!(
        bench
            .refusal(0, 1, &udp((0, 1), (1, 2)))
            .unwrap_err()
            .answer
    );
}

#[test]
fn a_port_in_quarantine_speaks_to_its_helpers_alone() {
    let mut bench = Bench::new(vec![free(), free(), free()]);
    let shut = |helpers: &[u16]| {
        let helpers = helpers.iter().map(|index| port(*index)).collect();
        [(port(1), helpers)].into_iter().collect()
    };
    bench.policy = bench.policy.with_quarantine(2, shut(&[2]));
    for (from, to) in [(0, 1), (1, 0)] {
        assert_eq!(bench.send(from, to, &arp(0)), Err(DropReason::Quarantined));
    }
    for (from, to) in [(2, 1), (1, 2), (0, 2)] {
        assert_eq!(bench.send(from, to, &arp(0)), Ok(()));
    }
    bench.policy = bench.policy.with_quarantine(3, shut(&[]));
    for (from, to) in [(2, 1), (1, 2)] {
        assert_eq!(bench.send(from, to, &arp(0)), Err(DropReason::Quarantined));
    }
}

#[test]
fn e_4_a_storm_is_bounded_by_class_and_other_frames_pass() {
    let noisy = PortPolicy {
        limits: LimitSpec {
            broadcast: Rate {
                per_second: 1000,
                burst: 10,
            },
            ..LimitSpec::default()
        },
        ..free()
    };
    let mut bench = Bench::new(vec![noisy, free()]);
    let passed = (0..1000)
        .filter(|_| bench.send(0, 1, &arp(0)).is_ok())
        .count();
    assert_eq!(passed, 10);
    assert_eq!(bench.send(0, 1, &arp(0)), Err(DropReason::StormBroadcast));
    assert_eq!(bench.send(0, 1, &udp((0, 1), (1, 2))), Ok(()));
    assert_eq!(bench.send(1, 0, &arp(1)), Ok(()));
}

#[test]
fn gso_frames_count_as_the_frames_that_they_stand_for() {
    let slow = PortPolicy {
        limits: LimitSpec {
            send_frames: Rate {
                per_second: 1000,
                burst: 100,
            },
            ..LimitSpec::default()
        },
        ..free()
    };
    let mut bench = Bench::new(vec![slow, free()]);
    let bytes = tcp((0, 1), (1, 2), "A", 1, 1);
    let frame = Frame::parse(&bytes, 54).unwrap();
    let weight = Weight {
        frames: 45,
        bytes: 65_000,
    };
    let context = &mut bench.contexts[0];
    let mut judge = bench
        .policy
        .judge(port(0), context, &mut bench.desk, bench.now);
    let passed = (0..10)
        .filter(|_| judge.admit(None, &frame, || weight).is_ok())
        .count();
    assert_eq!(passed, 2);
}

#[test]
fn a_sticky_address_is_claimed_once_and_forgotten_with_its_guest() {
    let guest = || PortPolicy {
        guard: GuardSpec::default(),
        untagged: Some(Vid::DEFAULT),
        ..PortPolicy::default()
    };
    let mut bench = Bench::new(vec![guest(), free()]);
    let (first, other) = (udp((0, 1), (1, 2)), udp((5, 1), (1, 2)));
    let claim = |bench: &mut Bench, bytes: &[u8]| {
        let frame = Frame::parse(bytes, u32::try_from(bytes.len()).unwrap()).unwrap();
        let weight = Weight {
            frames: 1,
            bytes: 60,
        };
        let context = &mut bench.contexts[0];
        let mut judge = bench
            .policy
            .judge(port(0), context, &mut bench.desk, bench.now);
        judge
            .admit(None, &frame, || weight)
            .map(|admitted| admitted.claim())
    };
    assert_eq!(claim(&mut bench, &first), Ok(Some(Mac::new(mac(0)))));
    assert_eq!(claim(&mut bench, &first), Ok(None));
    assert_eq!(claim(&mut bench, &other), Err(DropReason::SourceMacSpoofed));
    bench.policy.state().forget(port(0));
    assert_eq!(claim(&mut bench, &other), Ok(Some(Mac::new(mac(5)))));
    assert_eq!(claim(&mut bench, &first), Err(DropReason::SourceMacSpoofed));
}

/// Nobody entered the address, and no later frame claimed it: it was the port's to keep, and anybody's to have.
#[test]
fn a_claim_that_was_over_the_limit_is_taken_back() {
    let guest = PortPolicy {
        limits: LimitSpec {
            broadcast: Rate {
                per_second: 1,
                burst: 1,
            },
            ..LimitSpec::default()
        },
        untagged: Some(Vid::DEFAULT),
        ..PortPolicy::default()
    };
    let mut bench = Bench::new(vec![guest, free()]);
    bench.send(0, 1, &arp(0)).unwrap();
    bench.policy.state().forget(port(0));
    // The next guest of the port: its first frame is over the limit.
    assert_eq!(bench.send(0, 1, &arp(0)), Err(DropReason::StormBroadcast));
    assert_eq!(bench.policy.kept_mac(port(0)), None);
    let bytes = udp((0, 1), (1, 2));
    let frame = Frame::parse(&bytes, u32::try_from(bytes.len()).unwrap()).unwrap();
    let weight = Weight {
        frames: 1,
        bytes: 60,
    };
    let mut judge = bench
        .policy
        .judge(port(0), &mut bench.contexts[0], &mut bench.desk, bench.now);
    let admitted = judge.admit(None, &frame, || weight).unwrap();
    assert_eq!(admitted.claim(), Some(Mac::new(mac(0))));
}

/// The drop log named the receiver of an earlier frame.
#[test]
fn a_kept_refusal_tells_whom_it_was_for() {
    let deaf = || PortPolicy {
        inbound: list(vec![Rule::any(Action::Deny)]),
        ..free()
    };
    let mut bench = Bench::new(vec![free(), deaf(), deaf()]);
    for to in [1, 2, 1, 2, 2, 1] {
        let frame = udp((0, 1), (to, 2));
        let denied = bench.send(0, to.into(), &frame);
        assert_eq!(denied, Err(DropReason::DeniedInbound));
        assert_eq!(bench.contexts[0].trace().to, Some(port(to.into())));
    }
}

#[test]
fn e_23_an_address_that_is_not_the_ports_is_refused_in_spite_of_the_cache() {
    let guest = PortPolicy {
        guard: GuardSpec {
            mac: MacSpec::Declared(vec![Mac::new(mac(0))]),
            ip: IpSpec::Declared(vec!["10.0.0.0/32".parse().unwrap()]),
            ..GuardSpec::default()
        },
        untagged: Some(Vid::DEFAULT),
        ..PortPolicy::default()
    };
    let mut bench = Bench::new(vec![guest, free()]);
    let mut spoofed = udp((0, 1), (1, 2));
    spoofed[29] = 9;
    for _ in 0..3 {
        assert_eq!(bench.send(0, 1, &udp((0, 1), (1, 2))), Ok(()));
        assert_eq!(bench.send(0, 1, &spoofed), Err(DropReason::SourceIpSpoofed));
    }
}

#[test]
fn a_rule_that_asks_for_it_leaves_a_note_for_the_log() {
    let logging = |rule: Rule, name: &str| Rule {
        log: true,
        name: name.to_owned(),
        origin: format!("lan.toml:{name}"),
        ..rule
    };
    let server = PortPolicy {
        inbound: list(vec![
            logging(allow_tcp(22), "admin"),
            allow_tcp(80),
            logging(Rule::any(Action::Deny), "rest"),
        ]),
        ..free()
    };
    let mut bench = Bench::new(vec![free(), server]);
    let notes = |bench: &Bench| -> Vec<(String, u16, u64)> {
        let fetched = bench.policy.state().fetch_logged(port(0));
        assert!(fetched.iter().all(|logged| logged.to == port(1)));
        let told = |logged: &log::Logged| {
            let name = logged.rule().unwrap().name.clone();
            (name, logged.subject.dst_port(), logged.suppressed)
        };
        fetched.iter().map(told).collect()
    };
    let one = |name: &str, port, suppressed| vec![(name.to_owned(), port, suppressed)];
    // Of a connection the packet that opens it; of others nothing.
    for _ in 0..3 {
        bench
            .send(0, 1, &tcp((1, 1000), (2, 22), "S", 1, 0))
            .unwrap();
        bench
            .send(0, 1, &tcp((1, 1000), (2, 80), "S", 1, 0))
            .unwrap();
    }
    assert_eq!(notes(&bench), one("admin", 22, 0));
    // Of what is refused every one, whether its verdict was known or not, but for the limit.
    for _ in 0..1000 {
        let refused = bench.send(0, 1, &udp((1, 1000), (2, 53)));
        assert_eq!(refused, Err(DropReason::DeniedInbound));
    }
    let found = notes(&bench);
    assert_eq!(found.len(), log::LINES as usize - 1);
    assert!(found.iter().all(|note| *note == ("rest".to_owned(), 53, 0)));
    bench.now = Tick::from_secs(1 + u64::from(log::SECONDS));
    bench.send(0, 1, &udp((1, 1000), (2, 54))).unwrap_err();
    let held = 1000 - u64::from(log::LINES - 1);
    assert_eq!(notes(&bench), one("rest", 54, held));
    // Notes keep the rules that were in force.
    bench.send(0, 1, &udp((1, 1000), (2, 55))).unwrap_err();
    bench.replace(vec![free(), free()]);
    assert_eq!(notes(&bench), one("rest", 55, 0));
}

#[test]
fn a_refusal_that_was_known_tells_its_own_receiver() {
    let deny = PortPolicy {
        inbound: list(vec![Rule::any(Action::Deny)]),
        ..free()
    };
    let mut bench = Bench::new(vec![free(), deny.clone(), deny]);
    for to in [1, 2, 1, 1, 2] {
        let station = u8::try_from(to).unwrap() + 1;
        bench
            .send(0, to, &udp((1, 1000), (station, 53)))
            .unwrap_err();
        assert_eq!(bench.contexts[0].trace().to, Some(port(to)));
    }
}
