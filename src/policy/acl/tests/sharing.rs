//! Lists that many ports share, and lists that tell many ports apart.

use super::*;

fn ports(members: &[u16]) -> Who {
    Who::Ports(members.iter().copied().map(port).collect::<PortSet>())
}

fn from(who: Who, action: Action) -> Rule {
    Rule {
        from: vec![who],
        ..Rule::any(action)
    }
}

fn ask(classifier: &Classifier, peer: u16) -> Option<u32> {
    let bytes = [2; 60];
    let frame = Frame::parse(&bytes, 60).unwrap();
    let subject = Digest::of(&frame, 1).subject;
    let decision = classifier.judge(port(peer), &subject);
    decision
        .and_then(|decision| decision.rule)
        .map(|rule| rule.0)
}

#[test]
fn one_list_is_compiled_once_for_all_its_ports() {
    let mut compiler = Compiler::new(64);
    let list: Arc<[Rule]> =
        vec![from(ports(&[1, 2]), Action::Deny), Rule::any(Action::Allow)].into();
    let other: Arc<[Rule]> = list.to_vec().into();
    let first = compiler
        .compile(&list, Direction::Inbound, port(5))
        .unwrap();
    for own in 6..64 {
        let again = compiler
            .compile(&list, Direction::Inbound, port(own))
            .unwrap();
        assert!(Arc::ptr_eq(&first, &again));
    }
    // The same rules in the other direction name the list's own side.
    let outbound: Vec<_> = (0..4)
        .map(|own| {
            compiler
                .compile(&list, Direction::Outbound, port(own))
                .unwrap()
        })
        .collect();
    assert!(Arc::ptr_eq(&outbound[1], &outbound[2]));
    assert!(Arc::ptr_eq(&outbound[0], &outbound[3]));
    assert!(!Arc::ptr_eq(&outbound[0], &outbound[1]));
    assert_eq!(
        (ask(&outbound[0], 9), ask(&outbound[1], 9)),
        (Some(1), Some(0))
    );
    assert_eq!((ask(&first, 2), ask(&first, 3)), (Some(0), Some(1)));
    // Another list of the same text has ids of its own.
    let second = compiler
        .compile(&other, Direction::Inbound, port(5))
        .unwrap();
    assert!(!Arc::ptr_eq(&first, &second));
    assert_eq!((ask(&second, 2), ask(&second, 3)), (Some(2), Some(3)));
    let firsts: Vec<_> = compiler
        .lists()
        .iter()
        .map(|(id, list)| (id.0, list.len()))
        .collect();
    assert_eq!(firsts, [(0, 2), (2, 2)]);
    assert_eq!(compiler.number(&other), RuleId(2));
}

#[test]
fn empty_lists_are_lists() {
    let mut compiler = Compiler::new(4);
    let empty: Arc<[Rule]> = Vec::new().into();
    let some: Arc<[Rule]> = vec![Rule::any(Action::Allow)].into();
    let classifier = compiler
        .compile(&empty, Direction::Inbound, port(0))
        .unwrap();
    assert_eq!(ask(&classifier, 1), None);
    let classifier = compiler
        .compile(&some, Direction::Inbound, port(0))
        .unwrap();
    assert_eq!(ask(&classifier, 1), Some(0));
    assert_eq!(compiler.lists().len(), 1);
}

/// The bound is one of the whole policy, and a list that was shared counts once.
#[test]
fn what_many_lists_come_to_is_bounded() {
    let mut compiler = Compiler::new(4);
    let list = || -> Arc<[Rule]> {
        vec![Rule {
            port: (0..100).map(|n| n..=n).collect(),
            source_port: (0..25).map(|n| n..=n).collect(),
            kind: Kind::Ip {
                family: Some(Family::V4),
                protocol: Some(6),
            },
            ..Rule::any(Action::Allow)
        }]
        .into()
    };
    compiler.shrink(6_000);
    let first = list();
    for own in 0..4 {
        compiler
            .compile(&first, Direction::Inbound, port(own))
            .unwrap();
    }
    compiler
        .compile(&list(), Direction::Inbound, port(0))
        .unwrap();
    let error = compiler
        .compile(&list(), Direction::Inbound, port(0))
        .unwrap_err();
    assert_eq!(error.rule, RuleId(2));
}

/// Every port a class of its own, and rules for all: these are kept once.
#[test]
fn a_list_that_tells_all_ports_apart_does_not_repeat_the_others_rules() {
    let mut rules: Vec<Rule> = (0..1000)
        .map(|n| {
            from(
                ports(&[n]),
                if n % 2 == 0 {
                    Action::Deny
                } else {
                    Action::Allow
                },
            )
        })
        .collect();
    for last in 2..10 {
        let mac = crate::frame::Mac::new([2, 2, 2, 2, 2, last]);
        rules.insert(500, from(Who::Mac(mac), Action::Reject));
    }
    rules.push(from(ports(&[3, 999]), Action::Allow));
    let rules = numbered(&rules);
    let classifier = Classifier::compile(&rules, Direction::Inbound, port(0), 1024).unwrap();
    assert!(classifier.common.is_some());
    assert_eq!(classifier.spaces.len(), 1001);
    let of = |peer: u16| ask(&classifier, peer).map(|rule| rule - 100);
    for peer in 0..1024 {
        // That which all the others come to was put in first, and stands behind the seven.
        let expected = if peer < 500 { peer } else { 507 };
        assert_eq!(of(peer), Some(expected.into()), "{peer}");
    }
}
