//! What a rule can read of a frame, and nothing else: eight words.
//!
//! The [`Subject`] is the *only* thing that the classifier is given, and it is the whole key of the flow cache. So no
//! cached verdict can be wider than what was read to reach it (CVE-2023-1668, CVE-2023-5366): two frames with one
//! subject have one verdict, by type.
//!
//! ```text
//! word 0   bits  0..16  EtherType behind the tag; 0 for IEEE 802.3 with LLC
//!               16..28  VLAN (segment), 1 to 4094
//!               28..36  IP protocol; 0 when there is no IP or it could not be found
//!               36..38  how much of layer 4 is known: [`Depth`]
//!               38..46  TCP flags; 0 without a readable TCP header
//!               46..49  connection state: [`State`]
//!               49..51  family: 0 none, 1 IPv4, 2 IPv6
//!               51..53  fragment: 0 whole, 1 first, 2 later
//! word 1   bits  0..16  destination port, or ICMP type << 8 | code
//!               16..32  source port, or the identifier of an echo, which tracking reads and no rule
//! word 2,3 source IP address (IPv4: word 2 is 0, word 3 the 32 bits)
//! word 4,5 destination IP address
//! word 6   source MAC
//! word 7   destination MAC
//! ```

use std::net::IpAddr;

use crate::frame::Mac;

/// Words of a subject.
pub const WORDS: usize = 8;

/// How much of a packet's layer 4 the snapshot shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Depth {
    /// The ports (TCP, UDP) or type and code (ICMP, ICMPv6) are there; or the protocol has none that rules could name.
    Ports = 0,
    /// The protocol is known, its ports are not: a later fragment, or a header cut short.
    Protocol = 1,
    /// Not even the protocol: the headers contradict themselves, run on, or are too many.
    Nothing = 2,
}

/// What connection tracking says of a packet.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum State {
    /// Not tracked: no IP, a fragment, multicast, a protocol without connections.
    Untracked = 0,
    /// It could open a connection.
    New = 1,
    /// It belongs to one.
    Established = 2,
    /// An ICMP error about one.
    Related = 3,
    /// It belongs to none and can open none.
    Invalid = 4,
}

/// The family of an IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Family {
    /// IPv4.
    V4 = 1,
    /// IPv6.
    V6 = 2,
}

/// Whether a packet is a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Piece {
    /// No fragment.
    Whole = 0,
    /// The first fragment, which has the headers.
    First = 1,
    /// A later one, which has none.
    Later = 2,
}

/// The fields that rules read, packed: see the head of this file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(align(64))]
pub struct Subject(pub [u64; WORDS]);

/// Where the fields lie: shift and width in bits of word 0 and word 1.
pub mod field {
    /// EtherType.
    pub const ETHERTYPE: (u32, u32) = (0, 16);
    /// VLAN.
    pub const VID: (u32, u32) = (16, 12);
    /// IP protocol.
    pub const PROTOCOL: (u32, u32) = (28, 8);
    /// [`super::Depth`].
    pub const DEPTH: (u32, u32) = (36, 2);
    /// TCP flags.
    pub const FLAGS: (u32, u32) = (38, 8);
    /// [`super::State`].
    pub const STATE: (u32, u32) = (46, 3);
    /// [`super::Family`].
    pub const FAMILY: (u32, u32) = (49, 2);
    /// [`super::Piece`].
    pub const PIECE: (u32, u32) = (51, 2);
    /// Destination port, or ICMP type and code (word 1).
    pub const DST_PORT: (u32, u32) = (0, 16);
    /// Source port (word 1).
    pub const SRC_PORT: (u32, u32) = (16, 16);
}

/// The field `(shift, width)` of `word`.
#[inline(always)]
pub const fn get(word: u64, (shift, width): (u32, u32)) -> u64 {
    word >> shift & ((1 << width) - 1)
}

/// `word` with `value` in the field `(shift, width)`; higher bits of `value` are cut off.
#[inline(always)]
pub const fn put(word: u64, (shift, width): (u32, u32), value: u64) -> u64 {
    let mask = (1u64 << width) - 1;
    word & !(mask << shift) | (value & mask) << shift
}

/// The mask of a field within its word.
pub const fn mask((shift, width): (u32, u32)) -> u64 {
    ((1u64 << width) - 1) << shift
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a field is cut to its width"
)]
impl Subject {
    /// The EtherType behind the tag; 0 for LLC.
    pub fn ethertype(&self) -> u16 {
        get(self.0[0], field::ETHERTYPE) as u16
    }

    /// The segment.
    pub fn vid(&self) -> u16 {
        get(self.0[0], field::VID) as u16
    }

    /// The IP protocol; 0 when unknown.
    pub fn protocol(&self) -> u8 {
        get(self.0[0], field::PROTOCOL) as u8
    }

    /// How much of layer 4 is known.
    pub fn depth(&self) -> Depth {
        match get(self.0[0], field::DEPTH) {
            0 => Depth::Ports,
            1 => Depth::Protocol,
            _ => Depth::Nothing,
        }
    }

    /// TCP flags.
    pub fn flags(&self) -> u8 {
        get(self.0[0], field::FLAGS) as u8
    }

    /// The connection state that was put in last.
    pub fn state(&self) -> State {
        match get(self.0[0], field::STATE) {
            1 => State::New,
            2 => State::Established,
            3 => State::Related,
            4 => State::Invalid,
            _ => State::Untracked,
        }
    }

    /// The same subject in another connection state.
    #[inline]
    #[must_use]
    pub fn in_state(mut self, state: State) -> Self {
        self.0[0] = put(self.0[0], field::STATE, state as u64);
        self
    }

    /// The family of the IP packet, if it is one.
    pub fn family(&self) -> Option<Family> {
        match get(self.0[0], field::FAMILY) {
            1 => Some(Family::V4),
            2 => Some(Family::V6),
            _ => None,
        }
    }

    /// Whether it is a fragment.
    pub fn piece(&self) -> Piece {
        match get(self.0[0], field::PIECE) {
            0 => Piece::Whole,
            1 => Piece::First,
            _ => Piece::Later,
        }
    }

    /// Destination port, or ICMP type << 8 | code.
    pub fn dst_port(&self) -> u16 {
        get(self.0[1], field::DST_PORT) as u16
    }

    /// Source port, or the identifier of an echo.
    pub fn src_port(&self) -> u16 {
        get(self.0[1], field::SRC_PORT) as u16
    }

    /// The source address, if there is an IP packet.
    pub fn src_ip(&self) -> Option<IpAddr> {
        self.address(self.0[2], self.0[3])
    }

    /// The destination address, if there is an IP packet.
    pub fn dst_ip(&self) -> Option<IpAddr> {
        self.address(self.0[4], self.0[5])
    }

    fn address(&self, high: u64, low: u64) -> Option<IpAddr> {
        let bits = u128::from(high) << 64 | u128::from(low);
        match self.family()? {
            Family::V4 => Some(IpAddr::V4((low as u32).into())),
            Family::V6 => Some(IpAddr::V6(bits.into())),
        }
    }

    /// The source MAC.
    pub fn src_mac(&self) -> Mac {
        Mac::from_bits(self.0[6])
    }

    /// The destination MAC.
    pub fn dst_mac(&self) -> Mac {
        Mac::from_bits(self.0[7])
    }
}
