//! What a worker keeps for each source port between frames, and between the steps of one frame.

use super::cache::{Cache, Place, Stamp};
use super::digest::Digest;
use super::judge::Searches;
use super::lease::LeaseEvent;
use super::rule::Decision;
use super::subject::{State, Subject};
use super::track::Hint;
use crate::counters::PortId;

/// One source port's flow cache, and the frame that is being judged. Of one worker; never shared.
#[derive(Debug, Default)]
pub struct Context {
    /// Made with the first frame that is looked at deeper than its addresses.
    pub(super) cache: Option<Box<Cache>>,
    pub(super) frame: Judging,
    /// Where the frame before was kept: a second one with the same subject may begin a run.
    pub(super) latest: Option<Place>,
    /// What the burst before looked for of connections.
    pub(super) sought: Searches,
}

/// The frame that is being judged: from [`admit`](super::Judge::admit) to the last [`permit`](super::Judge::permit).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Judging {
    pub(super) digest: Digest,
    /// What its verdict is kept under, together with the other words of the subject: word 0, but for fields that no rule reads.
    pub(super) word: u64,
    /// Whether the digest is that of this frame.
    pub(super) is_digested: bool,
    /// Where its subject is kept, if it is.
    pub(super) place: Option<Place>,
    pub(super) stamp: Stamp,
    /// Whether what was said of it, and not of an earlier frame, is what is kept there of its receiver.
    pub(super) is_kept: bool,
    /// The slot by which a look ahead knows it, until its digest is asked for.
    pub(super) slot: Option<u8>,
    /// Where its connection seems to be.
    pub(super) hint: Option<Hint>,
    pub(super) last: Trace,
    /// Whether it is judged once more, with more of it to be seen: it pays for nothing twice.
    pub(super) is_seen_again: bool,
    pub(super) paid: Paid,
    pub(super) heard: Heard,
}

/// The sender's limits that a frame was counted under.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Paid {
    pub(super) membership: bool,
    pub(super) sending: bool,
    pub(super) unknown: bool,
}

/// What a frame says about leases, which is read once, however many receive it.
#[derive(Clone, Copy, Debug, Default)]
#[expect(
    clippy::large_enum_variant,
    reason = "one for each context, in place, so that listening allocates nothing"
)]
pub(super) enum Heard {
    /// Nobody has listened yet.
    #[default]
    NotYet,
    /// Nothing, or nothing that is not done already.
    Nothing,
    /// This, to be asked of each receiver.
    Event(LeaseEvent),
}

impl Judging {
    /// Another frame is to be judged, or more of the one before.
    #[inline(always)]
    pub(super) fn begin(&mut self) {
        if !std::mem::take(&mut self.is_seen_again) {
            self.paid = Paid::default();
        }
        self.heard = Heard::NotYet;
    }

    /// What its verdict is kept under.
    pub(super) fn key(&self) -> Subject {
        let mut key = self.digest.subject;
        key.0[0] = self.word;
        key
    }
}

/// How the last pair was judged, for `explain`, logs and the drop log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// What connection tracking said; `None` when nobody asked.
    pub state: Option<State>,
    /// What the sender's list said; `None` without a list, or when it was not asked.
    pub outbound: Option<Decision>,
    /// What the receiver's list said.
    pub inbound: Option<Decision>,
    /// The receiver.
    pub to: Option<PortId>,
}

impl Context {
    /// How the last pair was judged. Of a pair whose verdict was known nothing is told but that it passed.
    pub fn trace(&self) -> Trace {
        self.frame.last
    }

    /// The digest of the frame that was judged last, if it was made.
    pub fn digest(&self) -> Option<&Digest> {
        self.frame.is_digested.then_some(&self.frame.digest)
    }
}
