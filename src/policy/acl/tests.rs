use proptest::prelude::*;

use super::super::digest::Digest;
use super::super::reference::{self, Meeting};
use super::super::rule::{Action, Direction};
use super::super::testing::{Dice, PORTS};
use super::*;
use crate::frame::Frame;

fn numbered(rules: &[Rule]) -> Vec<(RuleId, &Rule)> {
    // With a gap, as in a policy of several lists.
    (100u32..).map(RuleId).zip(rules).collect()
}

/// Judges with both, in all that a frame can meet, and gives how many rules matched.
fn both(rules: &[Rule], frames: &[Vec<u8>], dice: &mut Dice<'_>) -> Result<usize, TestCaseError> {
    let rules = numbered(rules);
    let mut matched = 0;
    for direction in [Direction::Outbound, Direction::Inbound] {
        let own = dice.port();
        let classifier = Classifier::compile(&rules, direction, own, usize::from(PORTS)).unwrap();
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn the_classifier_says_what_the_reference_says(seed: u64, most in 1u8..=40) {
        let mut dice = Dice::seeded(seed);
        let rules = dice.rules(most);
        let frames: Vec<_> = (0..32).map(|_| dice.frame()).collect();
        both(&rules, &frames, &mut dice)?;
    }
}
