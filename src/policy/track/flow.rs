//! What the outside sees of a connection.

use std::net::IpAddr;

use serde::Serialize;

use super::found::Found;
use super::phase::Phase;
use crate::counters::PortId;
use crate::frame::ethernet::ethertype;
use crate::frame::{Mac, protocol, tcp};
use crate::policy::rule::RuleId;
use crate::policy::subject::{Family, State, Subject, field, put};

/// A tracked connection, by its place. It stays cheap to ask whether the connection that it was made for is still
/// there: the place may be given to another, the generation is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowRef {
    pub(super) port: PortId,
    pub(super) slot: u32,
    pub(super) generation: u32,
}

impl FlowRef {
    /// The port that opened the connection.
    pub fn opener(self) -> PortId {
        self.port
    }
}

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From the port that opened the connection.
    Original,
    /// To it.
    Reply,
}

impl Direction {
    /// The other way.
    #[must_use]
    pub fn reversed(self) -> Self {
        match self {
            Self::Original => Self::Reply,
            Self::Reply => Self::Original,
        }
    }
}

/// On which terms a connection was let open, side by side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Terms {
    /// The opener's side.
    pub opener: Side,
    /// The side of the port that it opened to.
    pub peer: Side,
}

/// What the list of one side said when the connection opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Side {
    /// A stateful rule of this side's list let it open, or there is no list: replies need no leave of that list.
    pub covered: bool,
    /// The rule, if one matched.
    pub rule: Option<RuleId>,
}

/// What is known of a packet's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// The packet's state.
    pub state: State,
    /// The connection that it belongs to, or is about ([`State::Related`]), and which way it goes itself.
    pub flow: Option<(FlowRef, Direction)>,
    /// A connection of this opener with these addresses that is bound to another port than the packet goes to: if
    /// the packet, judged as new, may pass, then `rebind` it instead of opening another.
    pub elsewhere: Option<FlowRef>,
    /// On which terms `flow` was opened.
    pub terms: Terms,
    /// Under which policy that was judged last; compare with [`Look::is_of`].
    pub(super) epoch: u32,
}

impl Look {
    /// A packet of a connection that was found, or about it.
    #[inline(always)]
    pub(super) fn at(flow: FlowRef, direction: Direction, state: State, found: &Found<'_>) -> Self {
        let (terms, epoch) = found.entry.terms();
        Self {
            state,
            flow: Some((flow, direction)),
            elsewhere: None,
            terms,
            epoch,
        }
    }

    pub(super) const fn without_flow(state: State) -> Self {
        const NOTHING: Side = Side {
            covered: false,
            rule: None,
        };
        Self {
            state,
            flow: None,
            elsewhere: None,
            terms: Terms {
                opener: NOTHING,
                peer: NOTHING,
            },
            epoch: 0,
        }
    }

    /// Whether the terms of the connection are those of that policy.
    pub fn is_of(&self, epoch: u64) -> bool {
        self.flow.is_some() && self.epoch == super::entry::short_epoch(epoch)
    }
}

/// A tracked connection as it was at one moment: for `portcullis flows`, and for judging it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Flow {
    /// The port that opened it.
    pub opener: PortId,
    /// The port that it was opened to.
    pub peer: PortId,
    /// Segment.
    pub vid: u16,
    /// IP protocol.
    pub protocol: u8,
    /// Source address of the packet that opened it.
    pub src_ip: IpAddr,
    /// Its destination address.
    pub dst_ip: IpAddr,
    /// Its source port; the identifier of an echo; 0 for other protocols.
    pub src_port: u16,
    /// Its destination port; 0 without ports.
    pub dst_port: u16,
    /// Its source MAC.
    pub src_mac: Mac,
    /// Its destination MAC.
    pub dst_mac: Mac,
    /// How far the connection is.
    pub state: Phase,
    /// On which terms it was let open.
    pub terms: Terms,
    /// Packets and bytes from the opener.
    pub sent: Count,
    /// Packets and bytes to the opener.
    pub received: Count,
    /// Seconds since it was opened.
    pub age: u32,
    /// Seconds since its last packet.
    pub idle: u32,
    /// Under which policy it was judged last, shortened.
    #[serde(skip)]
    pub(super) epoch: u32,
}

/// Packets of one direction. Both numbers stop at their greatest value: 2^32 - 1 packets, 2^44 - 1 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Frames; a GSO frame is one.
    pub packets: u32,
    /// Their bytes, Ethernet headers included.
    pub bytes: u64,
}

impl Flow {
    /// A connection of which no more is known than who talks to whom, between these stations: to be judged as one that is
    /// opened.
    pub fn of(
        [opener, peer]: [PortId; 2],
        vid: u16,
        protocol: u8,
        [src_ip, dst_ip]: [IpAddr; 2],
        [src_port, dst_port]: [u16; 2],
        [src_mac, dst_mac]: [Mac; 2],
    ) -> Self {
        Self {
            opener,
            peer,
            vid,
            protocol,
            src_ip,
            dst_ip,
            src_port,
            dst_port,
            src_mac,
            dst_mac,
            state: Phase::Unanswered,
            terms: Terms::default(),
            sent: Count::default(),
            received: Count::default(),
            age: 0,
            idle: 0,
            epoch: 0,
        }
    }

    /// What a rule reads of a packet that would open this connection: TCP with nothing but SYN, an echo request.
    pub fn subject(&self) -> Subject {
        let mut word = put(0, field::VID, self.vid.into());
        let mut subject = Subject::default();
        let family = match (self.src_ip, self.dst_ip) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                subject.0[3] = src.to_bits().into();
                subject.0[5] = dst.to_bits().into();
                Family::V4
            }
            (src, dst) => {
                [subject.0[2], subject.0[3]] = halves(src);
                [subject.0[4], subject.0[5]] = halves(dst);
                Family::V6
            }
        };
        let kind = match family {
            Family::V4 => ethertype::IPV4,
            Family::V6 => ethertype::IPV6,
        };
        word = put(word, field::ETHERTYPE, kind.into());
        word = put(word, field::FAMILY, family as u64);
        word = put(word, field::PROTOCOL, self.protocol.into());
        word = put(word, field::STATE, State::New as u64);
        if self.protocol == protocol::TCP {
            word = put(word, field::FLAGS, tcp::flag::SYN.into());
        }
        subject.0[0] = word;
        subject.0[1] = match self.protocol {
            protocol::ICMP => {
                u64::from(self.src_port) << 16 | u64::from(super::key::ECHO_REQUEST) << 8
            }
            protocol::ICMPV6 => {
                u64::from(self.src_port) << 16 | u64::from(super::key::ECHO_REQUEST_V6) << 8
            }
            _ => u64::from(self.src_port) << 16 | u64::from(self.dst_port),
        };
        subject.0[6] = self.src_mac.bits();
        subject.0[7] = self.dst_mac.bits();
        subject
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the lower half is what is asked for"
)]
fn halves(address: IpAddr) -> [u64; 2] {
    let bits = match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    };
    [(bits >> 64) as u64, bits as u64]
}
