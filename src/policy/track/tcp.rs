//! TCP: which segments belong to a connection, and how far it is.
//!
//! # What is kept
//!
//! Each half of a connection keeps what its own segments said, and no more: `end`, the highest sequence number sent (RFC 9293's
//! SND.NXT as far as it was seen); `acked`, the highest number acknowledged; `limit`, the right edge of the window offered, which
//! never moves back; the greatest window ever offered. The *phase* is not stored. It follows from the marks of both
//! halves ([`phase`]), so that no word has two writers.
//!
//! # Which segments belong
//!
//! After "Real Stateful TCP Packet Filtering in IP Filter" (van Rooij, 2000). A segment of one half belongs when,
//! against what the *other* half said,
//!
//! 1. it does not run past the right edge that was offered (but for two numbers: a probe of a closed window, a FIN);
//! 2. it does not lie further back than two of the greatest windows: what was outstanding, and what overtook it;
//! 3. it acknowledges nothing that was not sent;
//! 4. it acknowledges nothing that is as old.
//!
//! # SYN and RST (RFC 5961)
//!
//! RST closes only when it stands exactly where the other half is, or where its own half is; elsewhere in the window it passes,
//! for the receiver to challenge, and changes nothing; outside it is invalid. SYN from the opener on a connection that is not over passes and
//! changes nothing when it lies behind (a late duplicate, or a host that has lost its memory, which the challenge
//! tells); ahead of all that was sent it is a new connection and judged as one. If the peer answers SYN with SYN although
//! a connection is there, its memory is lost too: that answer is invalid, and the next SYN begins anew.
//!
//! # Picked up in the middle
//!
//! With `loose`, a segment without SYN may open a connection, if the lists allow it as new. Its windows are taken over as they
//! come; since their scale was never seen, the greatest is assumed.

use super::flow::Direction;
use super::phase::Phase;
use crate::frame::Frame;
use crate::frame::tcp::{Tcp, flag};
use crate::policy::digest::Digest;

/// Marks of a half: something was seen of it.
pub(super) const SEEN: u32 = 1;
/// It sent SYN.
const SYN: u32 = 1 << 1;
/// It acknowledged something.
const ACK: u32 = 1 << 2;
/// It sent FIN; its `end` is behind it.
const FIN: u32 = 1 << 3;
/// It acknowledged the other's FIN.
const DONE: u32 = 1 << 4;
/// It sent a RST that closed the connection.
const RST: u32 = 1 << 5;
/// Its SYN had the window scale option.
const SCALES: u32 = 1 << 6;
/// It was picked up in the middle.
const LOOSE: u32 = 1 << 7;
/// It sent data.
const DATA: u32 = 1 << 8;
/// The peer answered SYN as if there were no connection.
const DOUBT: u32 = 1 << 9;
/// The peer's first segment was a SYN of its own, without acknowledgment.
const CROSSED: u32 = 1 << 10;

/// RFC 7323, section 2.3: the greatest shift.
const MAX_SCALE: u8 = 14;
/// An acknowledgment or a duplicate may be that old, however small the windows are.
const MIN_WINDOW: u32 = 66_000;
/// How far a segment may run past the right edge.
const PROBE: i32 = 2;
/// The greatest window that there is (RFC 7323, section 2.3).
const MAX_WINDOW: i32 = 1 << 30;

/// One half: see the head of this file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) end: u32,
    pub(super) limit: u32,
    pub(super) acked: u32,
    /// Greatest window in units of its scale << 16 | scale << 12 | marks.
    pub(super) word: u32,
}

/// What a segment says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) seq: u32,
    pub(super) ack: u32,
    /// The number behind it: SYN and FIN count.
    pub(super) end: u32,
    pub(super) window: u16,
    pub(super) flags: u8,
    pub(super) scale: Option<u8>,
    pub(super) has_data: bool,
}

/// What becomes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It belongs to the connection; its half has changed.
    Pass,
    /// It passes for its receiver to deal with, and changes nothing.
    Idle,
    /// It would open a connection in the place of this one.
    Renew,
    /// It does not belong; the half has a mark of it nevertheless.
    Doubt,
    /// It does not belong.
    Invalid,
}

/// `a` is behind `b` or the same.
fn until(a: u32, b: u32) -> bool {
    distance(a, b) >= 0
}

/// How far `b` is ahead of `a`, on the circle of sequence numbers.
#[inline(always)]
fn distance(a: u32, b: u32) -> i32 {
    b.wrapping_sub(a).cast_signed()
}

impl Segment {
    /// Reads it; `None` when there is no TCP header, or its flags are such as no host sends: none, SYN with FIN, RST or URG, RST
    /// with FIN, FIN without ACK.
    #[inline]
    pub(super) fn read(digest: &Digest, frame: &Frame<'_>) -> Option<Self> {
        let at = usize::from(digest.transport);
        let available = (digest.end as usize).checked_sub(at)?;
        let tcp = Tcp::parse(frame.bytes().get(at..)?, available).ok()?;
        let flags = tcp.flags() & (flag::SYN | flag::ACK | flag::FIN | flag::RST | flag::URG);
        // One bit for each combination of the lower six flags.
        const LEGAL: u64 = 1 << flag::ACK
            | 1 << (flag::FIN | flag::ACK)
            | 1 << flag::SYN
            | 1 << (flag::SYN | flag::ACK)
            | 1 << flag::RST
            | 1 << (flag::RST | flag::ACK)
            | 1 << (flag::ACK | flag::URG)
            | 1 << (flag::FIN | flag::ACK | flag::URG);
        if LEGAL >> flags & 1 == 0 {
            return None;
        }
        let len = u32::try_from(available.checked_sub(tcp.header_len())?).ok()?;
        let controls = u32::from(flags & flag::SYN != 0) + u32::from(flags & flag::FIN != 0);
        let scale = match flags & flag::SYN {
            0 => None,
            _ => scale_of(tcp.options()),
        };
        Some(Self {
            seq: tcp.sequence(),
            ack: tcp.acknowledgment(),
            end: tcp.sequence().wrapping_add(len).wrapping_add(controls),
            window: tcp.window(),
            flags,
            scale,
            has_data: len != 0,
        })
    }

    pub(super) fn has(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }

    /// Whether it could be the first of a connection.
    pub(super) fn opens(&self, loose: bool) -> bool {
        let is_syn = self.flags == flag::SYN;
        is_syn || loose && self.has(flag::ACK) && !self.has(flag::SYN | flag::RST | flag::FIN)
    }
}

/// The shift in the window scale option (RFC 7323, section 2.2).
fn scale_of(mut options: &[u8]) -> Option<u8> {
    loop {
        match *options {
            [3, 3, shift, ..] => return Some(shift.min(MAX_SCALE)),
            [1, ref rest @ ..] => options = rest,
            [0, ..] | [] | [_] => return None,
            [_, len, ..] => options = options.get(usize::from(len).max(2)..)?,
        }
    }
}

impl Window {
    #[inline(always)]
    fn has(&self, marks: u32) -> bool {
        self.word & marks != 0
    }

    #[inline(always)]
    fn mark(&mut self, marks: u32) {
        self.word |= marks;
    }

    #[inline(always)]
    fn scale(&self) -> u32 {
        self.word >> 12 & 0xf
    }

    /// The greatest window that it offered, in bytes.
    #[inline(always)]
    fn greatest(&self) -> u32 {
        (self.word >> 16) << self.scale()
    }

    /// How far back what is sent to it, or what it acknowledges, may lie: one window for what was outstanding when it was sent, one
    /// for what overtook it.
    #[inline(always)]
    fn reach(&self) -> i32 {
        let window = self.greatest().max(MIN_WINDOW);
        // At most 2^31 - 2^15.
        window.wrapping_mul(2).cast_signed()
    }

    #[inline(always)]
    fn offer(&mut self, bytes: u32) {
        if bytes > self.greatest() {
            let scale = self.scale();
            let units = bytes.div_ceil(1 << scale).min(0xffff);
            self.word = self.word & 0xffff | units << 16;
        }
    }

    /// The window of a segment, in bytes.
    #[inline(always)]
    fn offered(&self, other: &Self, segment: &Segment) -> u32 {
        let window = u32::from(segment.window);
        let is_scaled =
            !segment.has(flag::SYN) && (self.has(LOOSE) || self.has(SCALES) && other.has(SCALES));
        if is_scaled {
            window << self.scale()
        } else {
            window
        }
    }

    /// A half without numbers, for other protocols than TCP.
    pub(super) fn seen() -> Self {
        Self {
            word: SEEN,
            ..Self::default()
        }
    }

    /// The first that was seen of this half.
    pub(super) fn first(segment: &Segment) -> Self {
        let (scale, mark) = match (segment.has(flag::SYN), segment.scale) {
            (true, Some(scale)) => (scale, SYN | SCALES),
            (true, None) => (0, SYN),
            (false, _) => (MAX_SCALE, LOOSE),
        };
        let mut window = Self {
            end: segment.end,
            limit: 0,
            acked: 0,
            word: u32::from(scale) << 12 | mark | SEEN,
        };
        let none = Self::default();
        window.follow(&none, segment);
        window
    }

    /// Takes over what an accepted segment says.
    #[inline(always)]
    fn follow(&mut self, other: &Self, segment: &Segment) {
        if distance(self.end, segment.end) > 0 {
            self.end = segment.end;
        }
        let bytes = self.offered(other, segment);
        let before = self.greatest();
        self.offer(bytes.max(1));
        let mut marks = 0;
        if segment.has_data {
            marks |= DATA;
        }
        if segment.has(flag::ACK) {
            let is_first = !self.has(ACK);
            // What its SYN offered counts from here, and is not taken back by a smaller window.
            let offered = if is_first { bytes.max(before) } else { bytes };
            let edge = segment.ack.wrapping_add(offered);
            if is_first || distance(self.acked, segment.ack) > 0 {
                self.acked = segment.ack;
            }
            if is_first || distance(self.limit, edge) > 0 {
                self.limit = edge;
            }
            marks |= ACK;
            if other.has(FIN) && distance(other.end, segment.ack) >= 0 {
                marks |= DONE;
            }
        }
        if segment.has(flag::FIN) {
            marks |= FIN;
        }
        self.mark(marks);
    }

    /// Whether a segment of this half lies where it may: conditions 1 to 4.
    #[inline(always)]
    fn admits(&self, other: &Self, segment: &Segment) -> bool {
        let limit = if other.has(ACK) {
            other.limit
        } else {
            self.end.wrapping_add(other.greatest())
        };
        let (mut theirs, mut ours, mut past, mut unsent) = (other.reach(), self.reach(), PROBE, 0);
        if (self.word | other.word) & LOOSE != 0 {
            // Picked up in the middle: what was said before, and how great the windows were, was not seen.
            (past, unsent) = (theirs, ours);
            (theirs, ours) = (MAX_WINDOW, MAX_WINDOW);
        }
        let is_in_sequence =
            distance(limit, segment.end) <= past && distance(segment.end, self.end) <= theirs;
        let acknowledges = distance(other.end, segment.ack);
        let ends_twice = self.has(FIN) && distance(self.end, segment.end) > 0;
        is_in_sequence
            && acknowledges <= unsent
            && acknowledges >= ours.wrapping_neg()
            && !ends_twice
    }

    /// Whether this half may have sent a packet with that sequence number, of which an ICMP error can tell
    /// (RFC 5927, section 4.1).
    pub(super) fn may_have_sent(&self, other: &Self, seq: u32) -> bool {
        let oldest = other.greatest().max(MIN_WINDOW).cast_signed();
        let behind = distance(seq, self.end);
        (0..=oldest).contains(&behind)
    }
}

/// Whether both halves have acknowledged each other.
#[inline(always)]
pub(super) fn is_complete(own: u32, other: u32) -> bool {
    own & other & ACK != 0
}

/// How far a connection is, by the marks of the opener's half and of the peer's.
#[inline(always)]
pub(super) fn phase(original: u32, reply: u32) -> Phase {
    let (both, either) = (original & reply, original | reply);
    if either & RST != 0 {
        Phase::Closed
    } else if both & (FIN | DONE) == FIN | DONE {
        Phase::TimeWait
    } else if either & FIN != 0 {
        Phase::Closing
    } else if both & ACK != 0 {
        Phase::Established
    } else if reply & SEEN != 0 {
        Phase::SynReceived
    } else {
        Phase::SynSent
    }
}

/// Judges a segment of the half `own`, which goes that way.
#[inline]
pub(super) fn step(
    direction: Direction,
    own: &mut Window,
    other: &Window,
    segment: &Segment,
) -> Step {
    // Nearly all segments of nearly all connections.
    let is_plain = segment.flags & (flag::SYN | flag::RST) == 0;
    if is_plain && own.word & other.word & ACK != 0 {
        return if own.admits(other, segment) {
            own.follow(other, segment);
            Step::Pass
        } else {
            Step::Invalid
        };
    }
    let phase = match direction {
        Direction::Original => phase(own.word, other.word),
        Direction::Reply => phase(other.word, own.word),
    };
    if segment.has(flag::RST) {
        on_rst(own, other, segment)
    } else if !segment.has(flag::SYN) {
        on_early(own, other, segment)
    } else if segment.has(flag::ACK) {
        on_syn_ack(direction, phase, own, other, segment)
    } else {
        on_syn(direction, phase, own, other, segment)
    }
}

fn on_syn(
    direction: Direction,
    phase: Phase,
    own: &mut Window,
    other: &Window,
    segment: &Segment,
) -> Step {
    let is_behind = own.has(SEEN) && until(segment.seq, own.end);
    match (direction, phase) {
        (_, Phase::TimeWait | Phase::Closed) => Step::Renew,
        (Direction::Original, Phase::SynSent) if own.has(SYN) => {
            // The same once more, or another attempt; nothing was promised yet.
            *own = Window::first(segment);
            Step::Pass
        }
        // Simultaneous open (RFC 9293, section 3.5).
        (Direction::Reply, Phase::SynSent) if other.has(SYN) => {
            *own = Window::first(segment);
            own.mark(CROSSED);
            Step::Pass
        }
        (Direction::Original, _) if !is_behind || other.has(DOUBT) => Step::Renew,
        (Direction::Original, _) => Step::Idle,
        (Direction::Reply, _) if is_behind && own.has(CROSSED) => Step::Idle,
        (Direction::Reply, _) => Step::Invalid,
    }
}

fn on_syn_ack(
    direction: Direction,
    phase: Phase,
    own: &mut Window,
    other: &Window,
    segment: &Segment,
) -> Step {
    let is_answer = acknowledges_syn(other, segment);
    if direction == Direction::Reply && phase == Phase::SynSent {
        if !is_answer {
            return Step::Invalid;
        }
        *own = Window::first(segment);
        return Step::Pass;
    }
    // Simultaneous open: both sides repeat their SYN with an ACK. Or the answer, once more.
    let is_repeated = own.has(SYN) && until(segment.end, own.end);
    let fits = if other.has(ACK) || own.has(ACK) {
        own.admits(other, segment)
    } else {
        is_answer && segment.end == own.end
    };
    if is_repeated && fits {
        own.follow(other, segment);
        return Step::Pass;
    }
    if direction == Direction::Reply && own.has(SYN | LOOSE) && !phase.is_over() {
        own.mark(DOUBT);
        return Step::Doubt;
    }
    Step::Invalid
}

/// Whether a segment acknowledges the other half's SYN, of which a part of the data may not be taken (RFC 7413).
fn acknowledges_syn(other: &Window, segment: &Segment) -> bool {
    let left = distance(segment.ack, other.end);
    let data = if other.has(DATA) { MIN_WINDOW } else { 0 };
    other.has(SYN) && (0..=data.cast_signed()).contains(&left)
}

fn on_rst(own: &mut Window, other: &Window, segment: &Segment) -> Step {
    let has_ack = segment.has(flag::ACK);
    if !own.has(SEEN) {
        // The refusal of a SYN acknowledges it (RFC 9293, section 3.10.7.3). Of a connection that was picked up, only
        // the opener's own words tell where it is.
        let is_refusal = has_ack && acknowledges_syn(other, segment)
            || other.has(LOOSE) && segment.seq == other.acked;
        if !is_refusal {
            return Step::Invalid;
        }
    } else if !other.has(SEEN) {
        // The opener gives up; nobody has said anything that this could contradict.
    } else {
        let oldest = own.end.wrapping_sub(other.greatest().max(MIN_WINDOW));
        let (from, to) = if other.has(ACK) {
            (other.acked, other.limit)
        } else {
            (oldest, own.end.wrapping_add(other.greatest()))
        };
        let is_exact = segment.seq == own.end || other.has(ACK) && segment.seq == other.acked;
        let is_inside = until(from, segment.seq) && until(segment.seq, to);
        let is_loose = (own.word | other.word) & LOOSE != 0;
        let acks_unsent = has_ack && !is_loose && !until(segment.ack, other.end);
        if acks_unsent || !is_exact && !is_inside {
            return Step::Invalid;
        }
        if !is_exact {
            return Step::Idle;
        }
    }
    own.mark(RST | SEEN);
    Step::Pass
}

/// A segment without SYN and RST, before both halves have acknowledged each other.
fn on_early(own: &mut Window, other: &Window, segment: &Segment) -> Step {
    if !own.has(SEEN) {
        if other.has(LOOSE) {
            let ahead = distance(other.end, segment.ack);
            if !(MAX_WINDOW.wrapping_neg()..=other.reach()).contains(&ahead) {
                return Step::Invalid;
            }
            *own = Window::first(segment);
            return Step::Pass;
        }
        // The challenge to a SYN by a host that still has an old connection (RFC 5961, section 4).
        let is_challenge = segment.flags == flag::ACK && !segment.has_data;
        return if is_challenge {
            Step::Idle
        } else {
            Step::Invalid
        };
    }
    if !other.has(SEEN) {
        // Before any answer only a connection that was picked up goes on.
        if !own.has(LOOSE) {
            return Step::Invalid;
        }
        // How great the peer's window is, was not seen.
        let ahead = distance(own.end, segment.end);
        if !(MAX_WINDOW.wrapping_neg()..=MAX_WINDOW).contains(&ahead) {
            return Step::Invalid;
        }
        own.follow(other, segment);
        return Step::Pass;
    }
    // The handshake's last part acknowledges the other's SYN, not some number near it.
    let is_handshake = !own.has(ACK) && other.has(SYN);
    if is_handshake && !acknowledges_syn(other, segment) || !own.admits(other, segment) {
        return Step::Invalid;
    }
    own.follow(other, segment);
    Step::Pass
}
