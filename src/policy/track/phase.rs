//! How far a connection is, and how long it is kept there.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use serde::Serialize;

use crate::policy::spec::{Timeouts, TrackingSpec};

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// TCP: the opener has sent SYN, or was picked up in the middle; there was no answer yet.
    SynSent,
    /// TCP: the peer has answered, the opener has not confirmed.
    SynReceived,
    /// TCP: both sides have acknowledged each other.
    Established,
    /// TCP: one side has sent FIN, or both have and one was not acknowledged.
    Closing,
    /// TCP: both FINs were acknowledged.
    TimeWait,
    /// TCP: reset.
    Closed,
    /// UDP: in one direction only.
    Single,
    /// UDP: in both.
    Stream,
    /// Echo and other protocols: in one direction only.
    Unanswered,
    /// Echo and other protocols: in both.
    Answered,
}

impl Phase {
    /// The name, in kebab case.
    pub fn name(self) -> &'static str {
        match self {
            Self::SynSent => "syn-sent",
            Self::SynReceived => "syn-received",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::TimeWait => "time-wait",
            Self::Closed => "closed",
            Self::Single => "single",
            Self::Stream => "stream",
            Self::Unanswered => "unanswered",
            Self::Answered => "answered",
        }
    }

    /// Whether the connection is over: the same addresses and ports may open another.
    pub fn is_over(self) -> bool {
        matches!(self, Self::TimeWait | Self::Closed)
    }
}

/// The longest timeout in seconds: half of what a time stamp of an entry can tell apart, about six days.
pub(super) const MAX_TIMEOUT: u32 = (1 << 19) - 1;

/// The bounds in force. Replaced word by word: each is read alone.
#[derive(Debug, Default)]
pub(super) struct Settings {
    loose: AtomicBool,
    opening: AtomicU32,
    established: AtomicU32,
    closing: AtomicU32,
    single: AtomicU32,
    stream: AtomicU32,
    other: AtomicU32,
}

impl Settings {
    pub(super) fn set(&self, spec: &TrackingSpec) {
        self.loose.store(spec.loose, Relaxed);
        let Timeouts {
            tcp_opening,
            tcp_established,
            tcp_closing,
            udp_single,
            udp_stream,
            other,
        } = spec.timeouts;
        for (word, seconds) in [
            (&self.opening, tcp_opening),
            (&self.established, tcp_established),
            (&self.closing, tcp_closing),
            (&self.single, udp_single),
            (&self.stream, udp_stream),
            (&self.other, other),
        ] {
            word.store(seconds.clamp(1, MAX_TIMEOUT), Relaxed);
        }
    }

    pub(super) fn is_loose(&self) -> bool {
        self.loose.load(Relaxed)
    }

    /// Seconds without a packet after which a connection in that phase has ended.
    pub(super) fn timeout(&self, phase: Phase) -> u32 {
        let word = match phase {
            Phase::SynSent | Phase::SynReceived => &self.opening,
            Phase::Established => &self.established,
            Phase::Closing | Phase::TimeWait | Phase::Closed => &self.closing,
            Phase::Single => &self.single,
            Phase::Stream => &self.stream,
            Phase::Unanswered | Phase::Answered => &self.other,
        };
        word.load(Relaxed)
    }
}
