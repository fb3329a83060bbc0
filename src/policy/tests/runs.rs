//! Frames of one flow in a row: a run decides nothing that its frames, one by one, would not have.

use proptest::prelude::*;

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

fn parse(bytes: &[u8]) -> Option<Frame<'_>> {
    let len = u32::try_from(bytes.len()).unwrap();
    Frame::parse(&bytes[..bytes.len().min(128)], len).ok()
}

impl Bench {
    /// A burst to one receiver, in runs where there are some: what is said of each frame, and how many were of a run.
    fn burst(
        &mut self,
        from: u16,
        to: u16,
        frames: &[Vec<u8>],
    ) -> (Vec<Result<(), DropReason>>, usize) {
        let context = &mut self.contexts[usize::from(from)];
        let mut judge = self
            .policy
            .judge(port(from), context, &mut self.desk, self.now);
        let mut of_runs = 0;
        let said = frames.iter().map(|bytes| {
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
            let admitted = judge.admit(frame, || weight)?;
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

/// Lists of many kinds over guarded ports.
fn policy(dice: &mut Dice<'_>) -> Vec<PortPolicy> {
    let ip = |protocol| Kind::Ip {
        family: None,
        protocol: Some(protocol),
    };
    (0..2u8)
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
                ..GuardSpec::default()
            };
            PortPolicy {
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

/// A few frames of few flows, mostly as they should be.
fn frames(dice: &mut Dice<'_>, from: u8, to: u8) -> Vec<Vec<u8>> {
    let count = 1 + dice.byte() % 40;
    let mut last: Option<Vec<u8>> = None;
    let mut sequence = 100;
    (0..count)
        .map(|_| {
            if let Some(last) = &last
                && !dice.once_in(5)
            {
                let mut again = last.clone();
                if dice.once_in(5) {
                    let at = 12 + usize::from(dice.byte()) % (again.len() - 12);
                    again[at] ^= 1 << (dice.byte() % 8);
                }
                return again;
            }
            sequence += 1;
            let frame = match dice.byte() % 5 {
                0 => tcp((from, 4000), (to, 80), "S", sequence, 0),
                1 => tcp((from, 4000), (to, 80), "AP", sequence, 200),
                2 => udp((from, 5000), (to, 53)),
                3 => echo(from, to, 7, dice.once_in(2)),
                _ => {
                    let mut frame = dice.frame();
                    frame[..6].copy_from_slice(&mac(to));
                    frame[6..12].copy_from_slice(&mac(from));
                    frame
                }
            };
            last = Some(frame.clone());
            frame
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Verdicts, hits of rules and what connections have counted are the same.
    #[test]
    fn a_run_says_what_its_frames_would_be_told_one_by_one(seed: u64) {
        let mut dice = Dice::seeded(seed);
        let ports = policy(&mut dice);
        let (mut in_runs, mut alone) = (Bench::new(ports.clone()), Bench::new(ports));
        for _ in 0..12 {
            let (from, to) = if dice.once_in(2) { (0, 1) } else { (1, 0) };
            let burst = frames(&mut dice, from as u8, to as u8);
            let burst: Vec<_> = burst.into_iter().filter(|bytes| parse(bytes).is_some()).collect();
            let (said, _) = in_runs.burst(from, to, &burst);
            let of_each: Vec<_> = burst.iter().map(|bytes| alone.send(from, to, bytes)).collect();
            prop_assert_eq!(said, of_each);
            prop_assert_eq!(in_runs.hits(), alone.hits());
            prop_assert_eq!(in_runs.counted(), alone.counted());
        }
    }
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
