//! What the gate gives out: the types that only it can make.

use super::rule::RuleId;
use crate::counters::{DropReason, PortId};
use crate::frame::{Frame, Mac};

/// What a frame counts as: a GSO frame as the frames that it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weight {
    /// Frames.
    pub frames: u32,
    /// Bytes, Ethernet headers of all of them included.
    pub bytes: u32,
}

/// A frame that may enter the switch, with the port that it came from.
#[derive(Clone, Copy, Debug)]
pub struct Admitted<'a> {
    pub(super) source: PortId,
    pub(super) frame: &'a Frame<'a>,
    pub(super) claims: bool,
}

impl<'a> Admitted<'a> {
    /// The port that it came from.
    #[inline]
    pub fn source(&self) -> PortId {
        self.source
    }

    /// The frame.
    #[inline]
    pub fn frame(&self) -> &'a Frame<'a> {
        self.frame
    }

    /// The source address, if this frame made it the one that the port keeps: whoever forwards enters it as the port's own.
    #[inline]
    pub fn claim(&self) -> Option<Mac> {
        self.claims.then(|| self.frame.src())
    }
}

/// The leave to deliver one frame to one receiver.
#[derive(Debug, PartialEq, Eq)]
pub struct Permit {
    pub(super) from: PortId,
    pub(super) to: PortId,
}

impl Permit {
    /// The port that the frame came from.
    #[inline]
    pub fn from(&self) -> PortId {
        self.from
    }

    /// The receiver.
    #[inline]
    pub fn to(&self) -> PortId {
        self.to
    }
}

/// Why a frame was not admitted, or a pair not permitted, and what is to be done about it besides. One word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub reason: DropReason,
    /// The sender is to be answered: see [`super::reject`].
    pub answer: bool,
    /// The rule asks for a line in the log.
    pub log: bool,
    /// [`NOBODY`] for none.
    rule: u32,
}

const NOBODY: u32 = u32::MAX;
const _: () = assert!(size_of::<Result<(), Refusal>>() == 8);

impl Refusal {
    pub(super) fn by(reason: DropReason, rule: Option<RuleId>, answer: bool, log: bool) -> Self {
        Self {
            reason,
            answer,
            log,
            rule: rule.map_or(NOBODY, |rule| rule.0),
        }
    }

    /// The same, with an answer to the sender or without.
    pub(super) fn with_answer(mut self, answer: bool) -> Self {
        self.answer = answer;
        self
    }

    /// The rule that said so, if one did.
    pub fn rule(&self) -> Option<RuleId> {
        (self.rule != NOBODY).then_some(RuleId(self.rule))
    }
}

impl From<DropReason> for Refusal {
    #[inline]
    fn from(reason: DropReason) -> Self {
        Self {
            reason,
            answer: false,
            log: false,
            rule: NOBODY,
        }
    }
}
