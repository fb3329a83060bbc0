//! What the two lists of a pair say of a frame.

use super::acl::Classifier;
use super::gate::Policy;
use super::rule::{Action, Decision, RuleId};
use super::subject::{Depth, Piece, State, Subject};
use super::track::{Direction, Terms};
use crate::counters::PortId;
use crate::frame::ethernet::ethertype;
use crate::frame::protocol;

/// RARP, with which a switch announces a guest that has moved.
const RARP: u16 = 0x8035;

/// What one list says of a frame.
#[derive(Clone, Copy, Debug)]
pub(super) enum Say {
    /// There is no list, or a connection that covers this side.
    Free,
    /// The end of the list, which addressing passes.
    Addressing,
    /// A rule.
    Rule(Decision),
    /// The end of the list.
    End,
}

impl Say {
    pub(super) fn decision(self) -> Option<Decision> {
        match self {
            Self::Free | Self::Addressing => None,
            Self::Rule(decision) => Some(decision),
            Self::End => Some(Decision {
                action: Action::Deny,
                rule: None,
            }),
        }
    }

    pub(super) fn rule(self) -> Option<RuleId> {
        self.decision()?.rule
    }
}

/// What a list says of a frame, whose connection covers that side or not.
pub(super) fn consult(
    policy: &Policy,
    list: Option<&Classifier>,
    peer: PortId,
    subject: &Subject,
    covered: bool,
) -> Say {
    let Some(list) = list else { return Say::Free };
    if let Some(decision) = list.judge(peer, subject) {
        if is_addressing(subject) && policy.spares_addressing(&decision) {
            return Say::Addressing;
        }
        return Say::Rule(decision);
    }
    if matches!(subject.state(), State::Established | State::Related) {
        if covered {
            return Say::Free;
        }
        // No rule let this side open it: it is judged like any packet without a connection.
        let alone = subject.in_state(State::Untracked);
        if let Some(decision) = list.judge(peer, &alone) {
            return Say::Rule(decision);
        }
    }
    if subject.state() == State::Invalid {
        // It can belong to no connection; a rule that wants none does not mind.
        let alone = subject.in_state(State::Untracked);
        let decision = list.judge(peer, &alone);
        if let Some(decision) =
            decision.filter(|found| found.rule.is_some_and(|rule| policy.is_stateless(rule)))
        {
            return Say::Rule(decision);
        }
    }
    if is_addressing(subject) {
        Say::Addressing
    } else {
        Say::End
    }
}

/// ARP, RARP and neighbour discovery: without them a guest cannot be reached at all.
fn is_addressing(subject: &Subject) -> bool {
    match subject.ethertype() {
        ethertype::ARP | RARP => true,
        ethertype::IPV6 => {
            subject.protocol() == protocol::ICMPV6
                && subject.depth() == Depth::Ports
                && subject.piece() == Piece::Whole
                && matches!(subject.dst_port() >> 8, 133..=136)
        }
        _ => false,
    }
}

/// Whether the outbound list of a packet's source and the inbound list of its receiver are covered by its connection.
pub(super) fn covered(terms: &Terms, direction: Direction) -> [bool; 2] {
    let sides = [terms.opener.covered, terms.peer.covered];
    match direction {
        Direction::Original => sides,
        Direction::Reply => [sides[1], sides[0]],
    }
}
