//! What tells one connection from another, and where it is put: the key and its hash.
//!
//! The hash folds products with secret numbers that are drawn anew for each table. Whoever does not know them
//! cannot choose addresses and ports that meet in one bucket (case E-31); and even a lucky choice makes a look-up
//! no longer than two buckets.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::frame::{Frame, icmp, protocol};
use crate::policy::digest::Digest;
use crate::policy::subject::{Depth, Family, Piece, Subject};

pub(super) const ECHO_REPLY: u8 = 0;
pub(super) const ECHO_REQUEST: u8 = 8;
pub(super) const ECHO_REQUEST_V6: u8 = 128;
pub(super) const ECHO_REPLY_V6: u8 = 129;

/// The bits of [`Key::kind`]; those below are left to the entry.
const V6: u32 = 1 << 10;
const PROTOCOL: u32 = 11;
const VID: u32 = 19;
/// All bits of an entry's word that belong to the key.
pub(super) const KIND: u32 = !((1 << 10) - 1);

/// The addresses of one direction. An IPv4 address is the low half's low 32 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) src: [u64; 2],
    pub(super) dst: [u64; 2],
    /// Source port << 16 | destination port; an echo's identifier is the source port of both directions.
    pub(super) ports: u32,
    /// VLAN, protocol, family.
    pub(super) kind: u32,
}

/// What a packet is to connection tracking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// It has no connections.
    Untracked,
    /// Announced as one that has, and unreadable.
    Unreadable,
    /// TCP, UDP, or a protocol of which only addresses are known: either side may begin.
    Either(Key),
    /// An echo request: the original direction.
    Request(Key),
    /// An echo reply: the reply direction.
    Answer(Key),
    /// An ICMP or ICMPv6 error: about the packet that it quotes.
    Error,
}

impl Class {
    #[inline]
    pub(super) fn of(digest: &Digest, frame: &Frame<'_>) -> Self {
        let subject = &digest.subject;
        let Some(family) = subject.family() else {
            return Self::Untracked;
        };
        let is_readable = subject.piece() == Piece::Whole && subject.depth() == Depth::Ports;
        if !is_readable || subject.dst_mac().is_group() || has_group_address(subject, family) {
            return Self::Untracked;
        }
        let key = |ports| Key::new(subject, family, ports);
        match (subject.protocol(), family) {
            (protocol::TCP | protocol::UDP, _) => Self::Either(key(u32::from(subject.src_port())
                << 16
                | u32::from(subject.dst_port()))),
            (protocol::ICMP, Family::V4) => {
                let [kind, _] = subject.dst_port().to_be_bytes();
                match kind {
                    ECHO_REQUEST => echo_of(digest, frame, |id| Self::Request(key(id))),
                    ECHO_REPLY => echo_of(digest, frame, |id| Self::Answer(key(id))),
                    // Unreachable, time exceeded, parameter problem. A redirect changes a route and is about none of
                    // its receiver's connections; source quench is no longer heeded (RFC 6633).
                    3 | 11 | 12 => Self::Error,
                    _ => Self::Untracked,
                }
            }
            (protocol::ICMPV6, Family::V6) => {
                let [kind, _] = subject.dst_port().to_be_bytes();
                match kind {
                    ECHO_REQUEST_V6 => echo_of(digest, frame, |id| Self::Request(key(id))),
                    ECHO_REPLY_V6 => echo_of(digest, frame, |id| Self::Answer(key(id))),
                    // RFC 4443, section 2.1: errors have the high bit clear.
                    0..128 => Self::Error,
                    _ => Self::Untracked,
                }
            }
            // Over the other family neither is what its number says.
            (protocol::ICMP | protocol::ICMPV6, _) => Self::Untracked,
            _ => Self::Either(key(0)),
        }
    }
}

fn echo_of(digest: &Digest, frame: &Frame<'_>, class: impl Fn(u32) -> Class) -> Class {
    let header = frame.bytes().get(usize::from(digest.transport)..);
    match header.and_then(|bytes| bytes.first_chunk::<{ icmp::HEADER }>()) {
        Some(&[.., a, b, _, _]) => class(u32::from(u16::from_be_bytes([a, b])) << 16),
        None => Class::Unreadable,
    }
}

/// Whether a packet is from nobody or to many: such have no connections.
fn has_group_address(subject: &Subject, family: Family) -> bool {
    let [src_high, src, dst_high, dst] = [subject.0[2], subject.0[3], subject.0[4], subject.0[5]];
    match family {
        Family::V4 => dst >> 28 == 0xe || dst == 0xffff_ffff || src == 0,
        Family::V6 => dst_high >> 56 == 0xff || src_high | src == 0,
    }
}

impl Key {
    /// The key of a packet that has one, by its subject alone; of one that has none it may be anything.
    #[inline(always)]
    pub(super) fn of_plain(subject: &Subject) -> Option<Self> {
        let family = subject.family()?;
        let ports = match subject.protocol() {
            protocol::TCP | protocol::UDP => {
                u32::from(subject.src_port()) << 16 | u32::from(subject.dst_port())
            }
            // An echo's identifier.
            protocol::ICMP | protocol::ICMPV6 => u32::from(subject.src_port()) << 16,
            _ => 0,
        };
        Some(Self::new(subject, family, ports))
    }

    #[inline]
    pub(super) fn new(subject: &Subject, family: Family, ports: u32) -> Self {
        Self::build(
            subject.vid(),
            subject.protocol(),
            family,
            [subject.0[2], subject.0[3]],
            [subject.0[4], subject.0[5]],
            ports,
        )
    }

    pub(super) fn build(
        vid: u16,
        protocol: u8,
        family: Family,
        src: [u64; 2],
        dst: [u64; 2],
        ports: u32,
    ) -> Self {
        let v6 = if family == Family::V6 { V6 } else { 0 };
        let kind = u32::from(vid & 0xfff) << VID | u32::from(protocol) << PROTOCOL | v6;
        Self {
            src,
            dst,
            ports,
            kind,
        }
    }

    /// The key of the other direction, as it is of the original one.
    #[inline]
    pub(super) fn reversed(&self) -> Self {
        let ports = match self.protocol() {
            protocol::ICMP | protocol::ICMPV6 => self.ports,
            _ => self.ports.rotate_left(16),
        };
        Self {
            src: self.dst,
            dst: self.src,
            ports,
            kind: self.kind,
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "cut to the field")]
    pub(super) fn protocol(&self) -> u8 {
        (self.kind >> PROTOCOL) as u8
    }

    pub(super) fn vid(&self) -> u16 {
        (self.kind >> VID) as u16
    }

    pub(super) fn is_v6(&self) -> bool {
        self.kind & V6 != 0
    }

    /// Whether only the opener sends packets of the original kind: an echo's request and reply differ.
    pub(super) fn has_one_opener(&self) -> bool {
        matches!(self.protocol(), protocol::ICMP | protocol::ICMPV6)
    }

    pub(super) fn addresses(&self) -> (IpAddr, IpAddr) {
        (self.address(self.src), self.address(self.dst))
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "an IPv4 address has 32 bits"
    )]
    fn address(&self, [high, low]: [u64; 2]) -> IpAddr {
        if self.is_v6() {
            Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low)).into()
        } else {
            Ipv4Addr::from_bits(low as u32).into()
        }
    }
}

/// The secrets of one table.
#[derive(Clone, Debug)]
pub(super) struct Hasher([u64; 4]);

impl Hasher {
    pub(super) fn new() -> Self {
        let random = RandomState::new();
        Self(std::array::from_fn(|n| random.hash_one(n)))
    }

    #[inline]
    pub(super) fn hash(&self, key: &Key) -> u64 {
        let [a, b, c, d] = self.0;
        let meta = u64::from(key.kind) << 32 | u64::from(key.ports);
        if key.is_v6() {
            let src = fold(key.src[0] ^ a, key.src[1] ^ b);
            let dst = fold(key.dst[0] ^ src ^ c, key.dst[1] ^ d);
            fold(dst ^ meta ^ b, src ^ c)
        } else {
            let both = key.src[1] << 32 | key.dst[1];
            fold(fold(both ^ a, meta ^ b) ^ c, d)
        }
    }
}

/// Both halves of the product, in one word.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the halves are folded")]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a).wrapping_mul(u128::from(b));
    (product >> 64) as u64 ^ product as u64
}
