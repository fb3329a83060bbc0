//! A connection that was found in a table: how far it is, and what can be told of it.

use super::entry::{Entry, low, seconds_since};
use super::flow::{Direction, Flow};
use super::phase::{Phase, Settings};
use super::tcp;
use crate::clock::Tick;
use crate::counters::PortId;
use crate::frame::protocol;

/// A live entry, and the header that it had when it was seen live.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found<'a> {
    pub(super) entry: Entry<'a>,
    pub(super) slot: u32,
    pub(super) header: u32,
}

impl Found<'_> {
    /// What is known of it now. `None` when it is bound to no port that there can be.
    pub(super) fn flow(&self, opener: PortId, now: Tick) -> Option<Flow> {
        let Found { entry, .. } = self;
        let key = entry.key();
        let (src_ip, dst_ip) = key.addresses();
        let (src_mac, dst_mac) = entry.macs();
        let (terms, epoch) = entry.terms();
        let [a, b, c, d] = key.ports.to_be_bytes();
        Some(Flow {
            opener,
            peer: PortId::new(entry.peer())?,
            vid: key.vid(),
            protocol: key.protocol(),
            src_ip,
            dst_ip,
            src_port: u16::from_be_bytes([a, b]),
            dst_port: u16::from_be_bytes([c, d]),
            src_mac,
            dst_mac,
            state: self.phase(),
            terms,
            sent: entry.half(Direction::Original).counted(),
            received: entry.half(Direction::Reply).counted(),
            age: low(now.as_secs()).saturating_sub(entry.opened()),
            idle: self.idle(now),
            epoch,
        })
    }

    pub(super) fn phase(&self) -> Phase {
        let kind = self.entry.key().protocol();
        let original = self.entry.half(Direction::Original).marks();
        let reply = self.entry.half(Direction::Reply).marks();
        phase(kind, original, reply)
    }

    /// Seconds since the last packet of either direction.
    #[inline]
    pub(super) fn idle(&self, now: Tick) -> u32 {
        let now = low(now.as_secs());
        let original = seconds_since(self.entry.half(Direction::Original).time(), now);
        let reply = self.entry.half(Direction::Reply);
        if reply.marks() & tcp::SEEN == 0 {
            original
        } else {
            original.min(seconds_since(reply.time(), now))
        }
    }

    /// Whether it has ended for want of packets.
    #[inline]
    pub(super) fn is_expired(&self, settings: &Settings, now: Tick) -> bool {
        let idle = self.idle(now);
        idle > 0 && idle >= settings.timeout(self.phase())
    }
}

/// How far a connection is, by its protocol and the marks of its halves.
pub(super) fn phase(number: u8, original: u32, reply: u32) -> Phase {
    let is_answered = reply & tcp::SEEN != 0;
    match (number, is_answered) {
        (protocol::TCP, _) => tcp::phase(original, reply),
        (protocol::UDP, false) => Phase::Single,
        (protocol::UDP, true) => Phase::Stream,
        (_, false) => Phase::Unanswered,
        (_, true) => Phase::Answered,
    }
}
