//! Any list of rules and any frames: the compiled list says what the reference says, reading neither outside of the
//! snapshot nor, on the fast way, anything else than on the slow one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::frame::Frame;
use portcullis::policy::acl::Classifier;
use portcullis::policy::digest::Digest;
use portcullis::policy::reference::{self, Meeting};
use portcullis::policy::rule::{Direction, Rule, RuleId};
use portcullis::policy::testing::{Dice, PORTS};

fuzz_target!(|input: &[u8]| {
    let mut dice = Dice::new(input);
    let own = dice.port();
    let direction = dice.one(&[Direction::Outbound, Direction::Inbound]);
    let rules = dice.rules(24);
    let rules: Vec<(RuleId, &Rule)> = (7..).map(RuleId).zip(&rules).collect();
    let Ok(classifier) = Classifier::compile(&rules, direction, own, usize::from(PORTS)) else {
        panic!("a list of a few rules is too large");
    };
    for _ in 0..8 {
        let bytes = dice.frame();
        // A snapshot of its own size, so that the sanitizer sees what is read behind it.
        let end = bytes.len()
            - usize::from(dice.once_in(4)) * usize::from(dice.byte() % 64).min(bytes.len() - 14);
        let snapshot = bytes[..end].to_vec().into_boxed_slice();
        let Ok(frame) = Frame::parse(&snapshot, bytes.len() as u32) else {
            continue;
        };
        let meeting = Meeting {
            own,
            peer: dice.port(),
            direction,
            vid: dice.vid(),
            state: dice.state(),
        };
        let [fast, slow] = [Digest::of, Digest::slowly].map(|way| way(&frame, meeting.vid));
        assert_eq!(fast.subject, slow.subject);
        assert_eq!((fast.transport, fast.end), (slow.transport, slow.end));
        assert_eq!(
            (fast.is_control, fast.runs_on),
            (slow.is_control, slow.runs_on)
        );
        let subject = fast.subject.in_state(meeting.state);
        assert_eq!(
            classifier.judge(meeting.peer, &subject),
            reference::judge(&rules, meeting, &frame),
            "{meeting:?} {rules:?}"
        );
    }
});
