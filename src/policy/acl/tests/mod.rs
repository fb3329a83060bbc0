mod faults;
mod sharing;

use std::sync::Arc;

use etherparse::{PacketBuilder, VlanId};
use proptest::prelude::*;

use super::super::digest::Digest;
use super::super::reference::{self, Meeting};
use super::super::rule::{Action, Direction, Kind, Who};
use super::super::subject::{Family, State};
use super::super::testing::{Dice, PORTS};
use super::expand::{Span, prefixes};
use super::*;
use crate::counters::PortSet;
use crate::frame::Frame;

fn port(index: u16) -> PortId {
    PortId::new(index).unwrap()
}

fn numbered(rules: &[Rule]) -> Vec<(RuleId, &Rule)> {
    // Not from zero, as in a policy of several lists.
    (100u32..).map(RuleId).zip(rules).collect()
}

/// Judges frames with both, in whatever they can meet, and gives how many met a rule.
fn both(rules: &[Rule], frames: &[Vec<u8>], dice: &mut Dice<'_>) -> Result<usize, TestCaseError> {
    let rules = numbered(rules);
    let mut matched = 0;
    for direction in [Direction::Outbound, Direction::Inbound] {
        let own = dice.port();
        // Some ports are not known when the list is compiled.
        let ports = usize::from(dice.one(&[PORTS, 4]));
        let classifier = Classifier::compile(&rules, direction, own, ports).unwrap();
        for bytes in frames {
            let Ok(frame) = Frame::parse(bytes, bytes.len() as u32) else {
                continue;
            };
            let meeting = Meeting {
                own,
                peer: dice.port(),
                direction,
                vid: dice.vid(),
                state: dice.state(),
            };
            let subject = Digest::of(&frame, meeting.vid)
                .subject
                .in_state(meeting.state);
            let expected = reference::judge(&rules, meeting, &frame);
            let found = classifier.judge(meeting.peer, &subject);
            prop_assert_eq!(found, expected, "{:?} {:x?} {:x?}", meeting, subject, bytes);
            matched += usize::from(found.is_some());
        }
    }
    Ok(matched)
}

/// A frame that etherparse wrote.
fn built(dice: &mut Dice<'_>) -> Vec<u8> {
    let mac = |dice: &mut Dice<'_>| dice.mac().octets();
    let ethernet = PacketBuilder::ethernet2(mac(dice), mac(dice));
    let vlan = dice
        .once_in(3)
        .then(|| VlanId::try_new(dice.vid()).unwrap());
    let is_v6 = dice.once_in(2);
    let (v4, v6) = ([dice.ipv4(), dice.ipv4()], [dice.ipv6(), dice.ipv6()]);
    let [src, dst] = [dice.number(), dice.number()];
    let [v4_src, v4_dst] = v4.map(|address| address.octets());
    let [v6_src, v6_dst] = v6.map(|address| address.octets());
    let ip = match (vlan, is_v6) {
        (None, false) => ethernet.ipv4(v4_src, v4_dst, 64),
        (None, true) => ethernet.ipv6(v6_src, v6_dst, 64),
        (Some(vid), false) => ethernet.single_vlan(vid).ipv4(v4_src, v4_dst, 64),
        (Some(vid), true) => ethernet.single_vlan(vid).ipv6(v6_src, v6_dst, 64),
    };
    let mut bytes = Vec::new();
    let payload = [0x5a; 20];
    match dice.byte() % 4 {
        0 => ip.tcp(src, dst, 7, 1024).write(&mut bytes, &payload),
        1 => ip.tcp(src, dst, 7, 1024).syn().write(&mut bytes, &payload),
        2 => ip.udp(src, dst).write(&mut bytes, &payload),
        _ if is_v6 => ip.icmpv6_echo_reply(1, 2).write(&mut bytes, &payload),
        _ => ip.icmpv4_echo_request(1, 2).write(&mut bytes, &payload),
    }
    .unwrap();
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn the_classifier_says_what_the_reference_says(seed: u64, most in 1u8..=40) {
        let mut dice = Dice::seeded(seed);
        let rules = dice.rules(most);
        let frames: Vec<_> = (0..32)
            .map(|_| if dice.once_in(4) { built(&mut dice) } else { dice.frame() })
            .collect();
        both(&rules, &frames, &mut dice)?;
    }

    #[test]
    fn prefixes_make_up_their_span(first: u16, last: u16) {
        let pieces = prefixes(Span { first, last });
        prop_assert_eq!(pieces.is_empty(), first > last);
        let mut next = u32::from(first);
        for piece in &pieces {
            prop_assert_eq!(u32::from(piece.first), next);
            let size = u32::from(piece.last) - u32::from(piece.first) + 1;
            prop_assert!(size.is_power_of_two());
            prop_assert_eq!(size, u32::from(!piece.common()) + 1);
            next = u32::from(piece.last) + 1;
        }
        prop_assert!(pieces.is_empty() || next == u32::from(last) + 1);
        prop_assert!(pieces.len() <= 30);
    }
}

/// A test that compares nothing with nothing would pass, too.
#[test]
fn rules_and_frames_by_lot_meet_each_other() {
    let mut dice = Dice::seeded(7);
    let (mut asked, mut matched) = (0, 0);
    for _ in 0..200 {
        let rules = dice.rules(20);
        let frames: Vec<_> = (0..16).map(|_| dice.frame()).collect();
        matched += both(&rules, &frames, &mut dice).unwrap();
        asked += 32;
    }
    assert!(
        matched > asked / 6 && matched < asked * 9 / 10,
        "{matched} of {asked}"
    );
}

/// A long list, with so many ranges beside each other that slots would be crowded, against the reference.
#[test]
fn a_long_list_of_overlapping_ranges_is_judged_right() {
    let mut dice = Dice::seeded(3);
    let mut rules: Vec<Rule> = (0u16..600)
        .map(|n| {
            let first = n.wrapping_mul(101);
            Rule {
                kind: Kind::Ip {
                    family: None,
                    protocol: Some(17),
                },
                port: vec![first..=first.saturating_add(n)],
                source_port: if n % 3 == 0 {
                    vec![0..=n, 2 * n..=3 * n]
                } else {
                    vec![]
                },
                ..Rule::any(if n % 2 == 0 {
                    Action::Allow
                } else {
                    Action::Deny
                })
            }
        })
        .collect();
    rules.reverse();
    let mut frames = Vec::new();
    for _ in 0..4000 {
        let mut frame = Vec::new();
        let builder =
            PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9);
        builder
            .udp(dice.word(), dice.word())
            .write(&mut frame, &[])
            .unwrap();
        frames.push(frame);
    }
    let rules = numbered(&rules);
    let classifier = Classifier::compile(&rules, Direction::Outbound, port(0), 4).unwrap();
    for bytes in &frames {
        let frame = Frame::parse(bytes, bytes.len() as u32).unwrap();
        let meeting = Meeting {
            own: port(0),
            peer: port(1),
            direction: Direction::Outbound,
            vid: 1,
            state: State::New,
        };
        let subject = Digest::of(&frame, 1).subject.in_state(State::New);
        assert_eq!(
            classifier.judge(port(1), &subject),
            reference::judge(&rules, meeting, &frame)
        );
    }
}

/// Services of hosts and networks, ranges, refused networks: a list as people write it.
fn usual(rules: u32) -> Vec<Rule> {
    let spread = |n: u32| n.wrapping_mul(0x9e37_79b1);
    (0..rules)
        .map(|n| {
            let len = [32, 32, 24, 24, 28, 16, 20][(n % 7) as usize];
            let host = std::net::Ipv4Addr::from_bits(10 << 24 | spread(n) >> 8);
            let net = ipnet::Ipv4Net::new(host, len).unwrap().trunc();
            let first = [22, 80, 443, 5432, 8000, 8443][(spread(n) >> 5) as usize % 6];
            let more = if n % 5 == 0 {
                (spread(n) >> 20) as u16 % 100
            } else {
                0
            };
            Rule {
                kind: Kind::Ip {
                    family: None,
                    protocol: [None, Some(6), Some(17), Some(6)][(n % 4) as usize],
                },
                from: vec![Who::Prefix(net.into())],
                port: if n % 4 == 0 {
                    vec![]
                } else {
                    vec![first..=first + more]
                },
                ..Rule::any(if n % 8 == 0 {
                    Action::Deny
                } else {
                    Action::Allow
                })
            }
        })
        .collect()
}

/// Why judging costs the same whatever the length of a list: the number of tables, and what is behind one slot.
#[test]
fn a_long_list_takes_few_tables() {
    let tables = |rules: u32| {
        let rules = usual(rules);
        let classifier =
            Classifier::compile(&numbered(&rules), Direction::Inbound, port(0), 16).unwrap();
        assert!(classifier.common.is_none());
        let [space] = &*classifier.spaces else {
            panic!("one class of peers")
        };
        assert!(
            space.longest() <= plan::MOST as usize + 1,
            "{}",
            space.longest()
        );
        (0..view::VIEWS)
            .map(|view| space.tables(view))
            .max()
            .unwrap()
    };
    let (short, long) = (tables(100), tables(10_000));
    assert!(short <= 8 && long <= 10, "{short} and {long}");
}

#[test]
fn the_words_of_too_large_name_the_rule() {
    let mut rules = vec![Rule::any(Action::Allow), Rule::any(Action::Deny)];
    rules[1].port = (0..100).map(|n| n..=n).collect();
    rules[1].source_port = rules[1].port.clone();
    rules[1].name = "all of it".to_owned();
    rules[1].origin = "lan.toml:12".to_owned();
    let rules = numbered(&rules);
    let within = |limit| Classifier::within(limit, &rules, Direction::Inbound, port(0), 4);
    let error = within(5_000).unwrap_err();
    assert_eq!(error.rule, RuleId(101));
    assert_eq!(
        error.to_string(),
        "lan.toml:12: rule 101 \"all of it\": with it the policy comes to more than 2000000 combinations of \
         conditions; give it fewer alternatives, or prefixes and ranges that take several together"
    );
    // TCP and UDP over both families, and what may be them.
    assert!(within(50_000).is_ok());
}

#[test]
fn an_empty_list_says_nothing() {
    let classifier = Classifier::compile(&[], Direction::Inbound, port(0), 4).unwrap();
    let mut dice = Dice::seeded(1);
    for _ in 0..100 {
        let bytes = dice.frame();
        if let Ok(frame) = Frame::parse(&bytes, bytes.len() as u32) {
            let subject = Digest::of(&frame, 1).subject;
            assert_eq!(classifier.judge(dice.port(), &subject), None);
        }
    }
}
