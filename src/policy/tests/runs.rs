//! Frames of one flow in a row: a run decides nothing that its frames, one by one, would not have.

use proptest::prelude::*;

use super::super::lease::{Binding, Change};
use super::super::testing::Dice;
use super::*;
use crate::frame::Mac;

/// The head of a frame as a slot holds it: behind the frame's end are bytes of another.
fn head(bytes: &[u8]) -> [u8; HEAD] {
    let mut head = [0xa5; HEAD];
    let len = bytes.len().min(HEAD);
    head[..len].copy_from_slice(&bytes[..len]);
    head
}

/// As a slot shows it: DHCP whole.
fn parse(bytes: &[u8]) -> Option<Frame<'_>> {
    let len = u32::try_from(bytes.len()).unwrap();
    let frame = Frame::parse(&bytes[..bytes.len().min(128)], len).ok()?;
    if Policy::is_dhcp(&frame) {
        return Frame::parse(bytes, len).ok();
    }
    Some(frame)
}

impl Bench {
    /// A burst to one receiver.
    pub(super) fn burst(&mut self, from: u16, to: u16, frames: &[Vec<u8>]) -> (Said, usize) {
        let frames: Vec<_> = frames.iter().map(|bytes| (to, bytes.clone())).collect();
        self.burst_to(from, &frames)
    }

    /// A burst of frames to a receiver each, in runs where there are some: what is said of each frame, and how many were of a
    /// run. Frames to two receivers are not between the same stations.
    fn burst_to(&mut self, from: u16, frames: &[(u16, Vec<u8>)]) -> (Said, usize) {
        let context = &mut self.contexts[usize::from(from)];
        let mut judge = self
            .policy
            .judge(port(from), context, &mut self.desk, self.now);
        let mut of_runs = 0;
        // What is seen ahead changes nothing, wherever it may seem to go. Of some frames more is shown later.
        if frames.len() > 1 {
            let seen = (0u8..).zip(frames);
            let seen = seen.filter_map(|(slot, (_, bytes))| {
                let len = u32::try_from(bytes.len()).unwrap();
                let shown = &bytes[..bytes.len().min(128)];
                Some((slot, Frame::parse(shown, len).ok()?))
            });
            judge.look_ahead(seen, |_, to| PortId::new((to.bits() & 3) as u16));
        }
        let said = (0u8..).zip(frames).map(|(slot, &(to, ref bytes))| {
            let len = u32::try_from(bytes.len()).unwrap();
            let head = head(bytes);
            if let Some(permit) = judge.again(&head, len, || parse(bytes)) {
                assert_eq!((permit.from(), permit.to()), (port(from), port(to)));
                of_runs += 1;
                return Ok(());
            }
            let frame = parse(bytes).unwrap();
            let weight = Weight {
                frames: 1,
                bytes: len,
            };
            let admitted = judge.admit(Some(slot), &frame, || weight)?;
            judge
                .permit(admitted, port(to))
                .map_err(|refusal| refusal.reason)?;
            if frame.tag().is_none() {
                judge.begin_run(&head, len, port(to));
            }
            Ok(())
        });
        (said.collect(), of_runs)
    }

    /// What the tracker has counted.
    fn counted(&self) -> Vec<String> {
        let flows = self.policy.state().tracker().flows(self.now);
        let mut counted: Vec<_> = flows.map(|flow| format!("{flow:?}")).collect();
        counted.sort();
        counted
    }
}

pub(super) type Said = Vec<Result<(), DropReason>>;

/// Lists of many kinds over guarded ports, some with little room for connections, some with leases for addresses.
fn policy(dice: &mut Dice<'_>) -> Vec<PortPolicy> {
    let ip = |protocol| Kind::Ip {
        family: None,
        protocol: Some(protocol),
    };
    (0..3u8)
        .map(|n| {
            let mut rules = || {
                let mut rules = Vec::new();
                for kind in [
                    ip(protocol::TCP),
                    ip(protocol::UDP),
                    ip(protocol::ICMP),
                    Kind::Any,
                ] {
                    if dice.once_in(4) {
                        continue;
                    }
                    rules.push(Rule {
                        kind,
                        stateless: dice.once_in(3),
                        ..Rule::any(if dice.once_in(6) {
                            Action::Deny
                        } else {
                            Action::Allow
                        })
                    });
                }
                rules
            };
            let (outbound, inbound) = (list(rules()), list(rules()));
            let guard = GuardSpec {
                mac: MacSpec::Declared(vec![Mac::from(mac(n))]),
                ip: if dice.once_in(3) {
                    IpSpec::Dhcp
                } else {
                    IpSpec::Any
                },
                max_leases: 2,
                ..GuardSpec::default()
            };
            let quota = ConnectionQuota {
                connections: 3,
                half_open: 2,
                new_per_second: Rate {
                    per_second: 1,
                    burst: 20,
                },
            };
            PortPolicy {
                quota: dice.once_in(2).then_some(quota),
                outbound: outbound.filter(|_| !dice.once_in(3)),
                inbound: inbound.filter(|_| !dice.once_in(3)),
                guard: if dice.once_in(3) {
                    GuardSpec::open()
                } else {
                    guard
                },
                untagged: Some(Vid::DEFAULT),
                ..PortPolicy::default()
            }
        })
        .collect()
}

fn echo(from: u8, to: u8, id: u16, is_request: bool) -> Vec<u8> {
    let step = PacketBuilder::ethernet2(mac(from), mac(to)).ipv4(ip(from), ip(to), 64);
    let step = if is_request {
        step.icmpv4_echo_request(id, 1)
    } else {
        step.icmpv4_echo_reply(id, 1)
    };
    let mut bytes = Vec::new();
    step.write(&mut bytes, &[7; 20]).unwrap();
    bytes
}

/// A message of DHCP about the address `10.0.0.client`: an ACK of a server, or the client's RELEASE.
fn dhcp(from: u8, to: u8, client: u8, is_ack: bool) -> Vec<u8> {
    let mut message = vec![if is_ack { 2 } else { 1 }, 1, 6, 0];
    message.resize(240, 0);
    message[if is_ack { 16..20 } else { 12..16 }].copy_from_slice(&ip(client));
    message[28..34].copy_from_slice(&mac(client));
    message[236..240].copy_from_slice(&[99, 130, 83, 99]);
    message.extend([53, 1, if is_ack { 5 } else { 7 }]);
    message.extend([51, 4, 0, 0, 0, 60, 255]);
    let ports = if is_ack { (67, 68) } else { (68, 67) };
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(mac(from), mac(to))
        .ipv4(ip(from), ip(to), 64)
        .udp(ports.0, ports.1)
        .write(&mut bytes, &message)
        .unwrap();
    bytes
}

/// A few frames of few flows to one of two receivers, mostly as they should be.
fn frames(dice: &mut Dice<'_>, from: u8, tos: [u8; 2]) -> Vec<(u16, Vec<u8>)> {
    let count = 1 + dice.byte() % 40;
    let mut some: Vec<(u8, Vec<u8>)> = Vec::new();
    let mut sequence = 100;
    let frames = (0..count).map(|_| {
        if !some.is_empty() && !dice.once_in(4) {
            // The last one, rather.
            let at = if dice.once_in(4) {
                usize::from(dice.byte()) % some.len()
            } else {
                some.len() - 1
            };
            let (to, mut again) = some[at].clone();
            if dice.once_in(6) {
                let at = 12 + usize::from(dice.byte()) % (again.len() - 12);
                again[at] ^= 1 << (dice.byte() % 8);
            }
            return (to, again);
        }
        sequence += 1;
        let to = tos[usize::from(dice.once_in(3))];
        // The station, or the address behind another one.
        let at = if dice.once_in(4) { tos[0] } else { to };
        let port = 4000 + u16::from(dice.byte() % 3);
        let mut frame = match dice.byte() % 6 {
            0 => tcp((from, port), (at, 80), "S", sequence, 0),
            1 => tcp((from, port), (at, 80), "AP", sequence, 200),
            2 | 3 => udp((from, port), (at, 53)),
            4 if dice.once_in(2) => dhcp(
                from,
                at,
                [from, to][usize::from(dice.once_in(2))],
                dice.once_in(2),
            ),
            4 => echo(from, at, 7, dice.once_in(2)),
            _ => dice.frame(),
        };
        frame[..6].copy_from_slice(&mac(to));
        frame[6..12].copy_from_slice(&mac(from));
        some.push((to, frame.clone()));
        (to, frame)
    });
    frames.map(|(to, frame)| (u16::from(to), frame)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Verdicts, hits of rules and what connections have counted are the same.
    #[test]
    fn a_run_says_what_its_frames_would_be_told_one_by_one(seed: u64) {
        let mut dice = Dice::seeded(seed);
        let ports = policy(&mut dice);
        let (mut in_runs, mut alone) = (Bench::new(ports.clone()), Bench::new(ports));
        for (n, bench) in [&in_runs, &alone].into_iter().flat_map(|bench| (0..3u8).map(move |n| (n, bench))) {
            let change = Change::Granted { address: ip(n).into(), seconds: 3600 };
            let binding = Binding { client: Mac::from(mac(n)), vid: 1 };
            bench.policy.state().guard(port(n.into())).unwrap().apply(change, binding, 2, bench.now);
        }
        for _ in 0..12 {
            let (from, tos) = dice.one(&[(0, [1, 2]), (1, [0, 2]), (0, [2, 1]), (1, [0, 0])]);
            let burst = frames(&mut dice, from, tos);
            let burst: Vec<_> = burst.into_iter().filter(|(_, bytes)| parse(bytes).is_some()).collect();
            let (said, _) = in_runs.burst_to(from.into(), &burst);
            let mut of_each = Vec::new();
            for frame in &burst {
                of_each.extend(alone.burst_to(from.into(), std::slice::from_ref(frame)).0);
            }
            prop_assert_eq!(said, of_each);
            prop_assert_eq!(in_runs.hits(), alone.hits());
            prop_assert_eq!(in_runs.counted(), alone.counted());
        }
    }
}

/// The run went on in a connection that had ended to make room, or was another port's by then.
#[test]
fn a_run_ends_when_a_connection_opens_or_moves() {
    let server = || PortPolicy {
        inbound: list(vec![Rule::any(Action::Allow)]),
        ..free()
    };
    let quota = ConnectionQuota {
        connections: 10,
        half_open: 1,
        new_per_second: Rate::default(),
    };
    let asker = PortPolicy {
        quota: Some(quota),
        ..free()
    };
    let first = udp((0, 5000), (1, 53));
    let second = udp((0, 5001), (1, 53));
    let mut moved = first.clone();
    moved[..6].copy_from_slice(&mac(2));
    for (to, between) in [(1, second), (2, moved)] {
        let burst = [
            (1, &first),
            (1, &first),
            (1, &first),
            (to, &between),
            (1, &first),
        ];
        let burst = burst.map(|(to, bytes)| (to, bytes.clone()));
        let ports = vec![asker.clone(), server(), server()];
        let (mut in_run, mut alone) = (Bench::new(ports.clone()), Bench::new(ports));
        let (said, of_runs) = in_run.burst_to(0, &burst);
        assert_eq!((said, of_runs), (vec![Ok(()); 5], 1));
        for (to, bytes) in &burst {
            alone.send(0, *to, bytes).unwrap();
        }
        assert_eq!(in_run.counted(), alone.counted());
        assert_eq!(in_run.counted().len(), 1);
    }
}

/// The run went on from an address that its guest had given back.
#[test]
fn a_run_ends_when_its_lease_does() {
    let leased = PortPolicy {
        guard: GuardSpec {
            mac: MacSpec::Declared(vec![Mac::from(mac(0))]),
            ip: IpSpec::Dhcp,
            max_leases: 1,
            ..GuardSpec::default()
        },
        untagged: Some(Vid::DEFAULT),
        ..PortPolicy::default()
    };
    let mut bench = Bench::new(vec![leased, free()]);
    assert_eq!(
        bench.burst(1, 0, &[dhcp(1, 0, 0, true)]).0,
        [Ok(())],
        "the lease"
    );
    let data = udp((0, 5000), (1, 53));
    let mut burst = vec![data; 5];
    burst[3] = dhcp(0, 1, 0, false);
    let (said, of_runs) = bench.burst(0, 1, &burst);
    let spoofed = Err(DropReason::SourceIpSpoofed);
    assert_eq!(said, [Ok(()), Ok(()), Ok(()), Ok(()), spoofed]);
    assert_eq!(of_runs, 1);
}

#[test]
fn a_burst_of_one_flow_is_a_run() {
    let guarded = |n: u8| PortPolicy {
        guard: GuardSpec {
            mac: MacSpec::Declared(vec![Mac::from(mac(n))]),
            ip: IpSpec::Declared(vec![format!("10.0.0.{n}/32").parse().unwrap()]),
            ..GuardSpec::default()
        },
        inbound: list(vec![Rule::any(Action::Allow)]),
        ..free()
    };
    let mut bench = Bench::new(vec![guarded(0), guarded(1)]);
    for frame in [udp((0, 5000), (1, 53)), echo(0, 1, 7, true)] {
        let reply = udp((1, 53), (0, 5000));
        let answer = echo(1, 0, 7, false);
        bench.send(0, 1, &frame).unwrap();
        bench
            .send(
                1,
                0,
                if frame.get(23) == Some(&17) {
                    &reply
                } else {
                    &answer
                },
            )
            .unwrap();
        bench.send(0, 1, &frame).unwrap();
        let (said, of_runs) = bench.burst(0, 1, &vec![frame; 20]);
        assert_eq!((said, of_runs), (vec![Ok(()); 20], 18));
    }
    // And a spoofed frame amid one is none of it.
    let mut burst = vec![udp((0, 5000), (1, 53)); 10];
    burst[5][29] = 9;
    let (said, of_runs) = bench.burst(0, 1, &burst);
    assert_eq!(said[5], Err(DropReason::SourceIpSpoofed));
    assert_eq!((said.iter().flatten().count(), of_runs), (9, 7));
}

/// What was kept of one echo was heard for another with the same addresses.
#[test]
fn an_echo_of_another_identifier_is_no_part_of_a_kept_connection() {
    let asker = PortPolicy {
        outbound: list(vec![Rule::any(Action::Allow)]),
        inbound: list(vec![]),
        ..free()
    };
    let mut bench = Bench::new(vec![asker, free()]);
    for _ in 0..3 {
        bench.send(0, 1, &echo(0, 1, 7, true)).unwrap();
        bench.send(1, 0, &echo(1, 0, 7, false)).unwrap();
        let stray = bench.send(1, 0, &echo(1, 0, 8, false));
        assert_eq!(stray, Err(DropReason::ConnectionInvalid));
    }
    let (said, _) = bench.burst(1, 0, &[7, 7, 8, 7, 9].map(|id| echo(1, 0, id, false)));
    let stray = Err(DropReason::ConnectionInvalid);
    assert_eq!(said, [Ok(()), Ok(()), stray, Ok(()), stray]);
    bench.send(0, 1, &echo(0, 1, 8, true)).unwrap();
    bench.send(1, 0, &echo(1, 0, 8, false)).unwrap();
}

/// A verdict on a segment was kept for all segments of its connection.
#[test]
fn a_stray_segment_does_not_cut_off_its_connection() {
    let server = PortPolicy {
        inbound: list(vec![allow_tcp(80)]),
        ..free()
    };
    let mut bench = Bench::new(vec![free(), server]);
    bench
        .send(0, 1, &tcp((0, 4000), (1, 80), "S", 100, 0))
        .unwrap();
    bench
        .send(1, 0, &tcp((1, 80), (0, 4000), "SA", 500, 101))
        .unwrap();
    let segment = tcp((0, 4000), (1, 80), "A", 101, 501);
    bench.send(0, 1, &segment).unwrap();
    let stray = tcp((0, 4000), (1, 80), "A", 0x7000_0000, 501);
    for _ in 0..3 {
        assert_eq!(bench.send(0, 1, &stray), Err(DropReason::ConnectionInvalid));
        assert_eq!(bench.send(0, 1, &segment), Ok(()));
    }
    let burst = [&segment, &segment, &segment, &stray, &segment].map(Clone::clone);
    let (said, of_runs) = bench.burst(0, 1, &burst);
    let stray = Err(DropReason::ConnectionInvalid);
    assert_eq!(said, [Ok(()), Ok(()), Ok(()), stray, Ok(())]);
    assert_eq!(of_runs, 2);
}

/// A refusal of what opens nothing was kept for what does.
#[test]
fn a_segment_without_a_connection_does_not_keep_one_from_opening() {
    let server = PortPolicy {
        inbound: list(vec![allow_tcp(80)]),
        ..free()
    };
    let mut bench = Bench::new(vec![free(), server]);
    for _ in 0..2 {
        let stray = bench.send(0, 1, &tcp((0, 4000), (1, 80), "R", 7, 0));
        assert_eq!(stray, Err(DropReason::ConnectionInvalid));
    }
    assert_eq!(
        bench.send(0, 1, &tcp((0, 4000), (1, 80), "S", 100, 0)),
        Ok(())
    );
}

/// What was read ahead of a shorter snapshot would refuse it for the headers that are there by now.
#[test]
fn a_snapshot_that_has_grown_since_the_look_ahead_is_read_again() {
    let server = PortPolicy {
        inbound: list(vec![allow_tcp(80)]),
        ..free()
    };
    let mut bytes = [
        &mac(1)[..],
        &mac(0),
        &[0x86, 0xdd, 0x60, 0, 0, 0, 0, 132, 60, 64],
    ]
    .concat();
    bytes.extend([[0xfd; 16], [0xfe; 16]].as_flattened());
    // Destination options: their padding reaches beyond 128 bytes.
    bytes.extend([6, 13, 1, 108]);
    bytes.resize(bytes.len() + 108, 0);
    bytes.extend(&tcp((0, 4000), (1, 80), "S", 100, 0)[34..54]);
    let len = u32::try_from(bytes.len()).unwrap();
    let [shown, whole] = [128, 186].map(|have| Frame::parse(&bytes[..have], len).unwrap());
    let weight = Weight {
        frames: 1,
        bytes: len,
    };
    for (seen, given, said) in [
        (&shown, &shown, Err(DropReason::HeadersTooLong)),
        (&whole, &whole, Ok(())),
        (&shown, &whole, Ok(())),
    ] {
        let mut bench = Bench::new(vec![free(), server.clone()]);
        let mut judge =
            bench
                .policy
                .judge(port(0), &mut bench.contexts[0], &mut bench.desk, bench.now);
        judge.look_ahead([(3, *seen)].into_iter(), |_, _| None);
        let admitted = judge.admit(Some(3), given, || weight).unwrap();
        let permit = judge.permit(admitted, port(1));
        assert_eq!(permit.map(drop).map_err(|refusal| refusal.reason), said);
    }
}
