//! Frames of one flow in a row.
//!
//! Most frames of a burst are like the one before them: the same stations, addresses and ports. What was found of a frame that
//! went to one receiver is kept for the burst as a [`Run`]. A later frame is of the run when it is of the [`Shape`]: it has the
//! same bits wherever a field lies that a rule, a guard or the tracker's key reads, and lengths as true as those of the
//! first. So it would have the same digest, which a property test holds it to, and needs none.
//!
//! A run lives no longer than its burst, under one policy and at one tick. What may still change from packet to packet is asked for each:
//! the windows of a TCP connection. What is merely counted (packets of other connections, hits of rules) is summed up and
//! entered when the run ends.

use super::cache::{Decided, Opened};
use super::digest::Digest;
use super::subject::Family;
use super::track::{Direction, FlowRef};
use crate::counters::PortId;
use crate::frame::{ipv4, ipv6, protocol, tcp, udp};

/// Bytes of a frame's beginning that a shape is about: no plain header is longer, up to the flags of TCP.
pub const HEAD: usize = 80;
const WORDS: usize = HEAD / 8;

/// Where layer 3 begins: a frame of a run has no tag.
const L3: usize = 14;
const V4_L4: usize = L3 + ipv4::HEADER;
const V6_L4: usize = L3 + ipv6::HEADER;

/// A run of frames.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) shape: Shape,
    /// Where they go.
    pub(super) to: PortId,
    pub(super) follow: Follow,
    /// Frames since the first, and their bytes.
    pub(super) frames: u32,
    pub(super) bytes: u32,
}

/// What is to be done for every frame of a run.
#[derive(Clone, Copy, Debug)]
pub(super) enum Follow {
    /// Nothing: no list judges the pair.
    Free,
    /// These rules let it pass, without a connection, as long as the ports have opened no further ones: hits are counted.
    Rules([Decided; 2], Opened),
    /// It belongs to a connection without windows: packets and bytes are counted.
    Packets(FlowRef, Direction),
    /// It belongs to a TCP connection, which is asked. The digest is the first frame's.
    Segments(FlowRef, Direction, Digest),
}

/// What frames of a run have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    value: [u64; WORDS],
    mask: &'static [u64; WORDS],
    lengths: Lengths,
}

/// Which lengths a frame states, and what they must be.
#[derive(Clone, Copy, Debug)]
enum Lengths {
    /// None that anybody reads.
    Unread,
    /// Those of an IP packet: `least` bytes, the headers, at least.
    Packet {
        family: Family,
        least: u32,
        is_udp: bool,
    },
}

impl Shape {
    /// That of frames between the same two stations, of the same EtherType.
    pub(super) fn of_stations(head: &[u8; HEAD]) -> Self {
        Self::new(head, &STATIONS, Lengths::Unread)
    }

    /// That of frames with the digest of `head`: the beginning of an untagged frame of `len` bytes. `None` when that is more than plain
    /// data.
    pub(super) fn of_flow(head: &[u8; HEAD], len: u32, digest: &Digest) -> Option<Self> {
        if digest.is_control {
            return None;
        }
        let family = digest.subject.family()?;
        let at = match family {
            Family::V4 => V4_L4,
            Family::V6 => V6_L4,
        };
        let data_offset = head
            .get(at + 12)
            .map_or(0, |byte| usize::from(byte >> 4) * 4);
        let (mask, header) = match (family, digest.subject.protocol()) {
            (Family::V4, protocol::TCP) => (&V4_TCP, data_offset),
            (Family::V4, protocol::UDP) => (&V4_UDP, udp::HEADER),
            (Family::V4, protocol::ICMP) => (&V4_ECHO, 8),
            (Family::V6, protocol::TCP) => (&V6_TCP, data_offset),
            (Family::V6, protocol::UDP) => (&V6_UDP, udp::HEADER),
            (Family::V6, protocol::ICMPV6) => (&V6_ECHO, 8),
            _ => return None,
        };
        let lengths = Lengths::Packet {
            family,
            least: u32::try_from(at - L3 + header).ok()?,
            is_udp: digest.subject.protocol() == protocol::UDP,
        };
        let shape = Self::new(head, mask, lengths);
        // A tag moves everything; and what is not of its own shape is none.
        (usize::from(digest.transport) == at && shape.has(head, len)).then_some(shape)
    }

    fn new(head: &[u8; HEAD], mask: &'static [u64; WORDS], lengths: Lengths) -> Self {
        let mut value = words(head);
        for (value, mask) in value.iter_mut().zip(mask) {
            *value &= mask;
        }
        Self {
            value,
            mask,
            lengths,
        }
    }

    /// Whether a frame of `len` bytes that begins with `head` is of the shape. Bytes of `head` past the frame's end may be
    /// anything.
    #[inline(always)]
    pub(super) fn has(&self, head: &[u8; HEAD], len: u32) -> bool {
        let words = words(head);
        let differ = |of: std::ops::Range<usize>| {
            let (Some(words), Some(value), Some(mask)) = (
                words.get(of.clone()),
                self.value.get(of.clone()),
                self.mask.get(of),
            ) else {
                return 1;
            };
            let each = words.iter().zip(value).zip(mask);
            each.fold(0, |differ, ((word, value), mask)| {
                differ | (word & mask) ^ value
            })
        };
        // The stations first: between others it is not even the same kind of frame.
        if differ(0..2) != 0 {
            return false;
        }
        match self.lengths {
            Lengths::Unread => true,
            Lengths::Packet {
                family,
                least,
                is_udp,
            } => {
                let rest = match family {
                    Family::V4 => differ(2..6),
                    Family::V6 => differ(2..WORDS),
                };
                let (packet, datagram) = stated(head, family);
                rest == 0
                    && packet >= least
                    && packet.wrapping_add(L3_LEN) <= len
                    && (!is_udp || datagram)
            }
        }
    }

    /// Where the IP packet of a frame of the shape ends.
    #[inline(always)]
    pub(super) fn end(&self, head: &[u8; HEAD]) -> u32 {
        match self.lengths {
            Lengths::Unread => 0,
            Lengths::Packet { family, .. } => stated(head, family).0.wrapping_add(L3_LEN), // at most 65,589
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "14")]
const L3_LEN: u32 = L3 as u32;

/// The length of the IP packet by its header, and whether UDP's header would say the same.
#[inline(always)]
fn stated(head: &[u8; HEAD], family: Family) -> (u32, bool) {
    let (at, fixed, datagram, header) = match family {
        Family::V4 => (L3 + 2, 0, V4_L4 + 4, ipv4::HEADER),
        Family::V6 => (L3 + 4, ipv6::HEADER, V6_L4 + 4, ipv6::HEADER),
    };
    let number = |at: usize| {
        let bytes = head.get(at..).and_then(|bytes| bytes.first_chunk());
        bytes.map_or(0, |bytes| u32::from(u16::from_be_bytes(*bytes)))
    };
    #[expect(clippy::cast_possible_truncation, reason = "20 or 40")]
    let (fixed, header) = (fixed as u32, header as u32);
    let packet = number(at).wrapping_add(fixed); // at most 65,575
    (packet, number(datagram).wrapping_add(header) == packet)
}

#[inline(always)]
fn words(head: &[u8; HEAD]) -> [u64; WORDS] {
    let (chunks, _) = head.as_chunks::<8>();
    let mut words = [0; WORDS];
    for (word, chunk) in words.iter_mut().zip(chunks) {
        *word = u64::from_le_bytes(*chunk);
    }
    words
}

/// Bits of one byte, or of all from one byte to another.
type Bits = (usize, usize, u8);

const STATIONS: [u64; WORDS] = mask(&[(0, L3, 0xff)]);

/// Version and length; neither an offset nor "more fragments"; protocol; addresses.
const V4: [Bits; 5] = [
    (0, L3 + 1, 0xff),
    (L3 + 6, L3 + 7, 0x3f),
    (L3 + 7, L3 + 8, 0xff),
    (L3 + 9, L3 + 10, 0xff),
    (L3 + 12, V4_L4, 0xff),
];
/// Version; next header; addresses.
const V6: [Bits; 4] = [
    (0, L3, 0xff),
    (L3, L3 + 1, 0xf0),
    (L3 + 6, L3 + 7, 0xff),
    (L3 + 8, V6_L4, 0xff),
];

const V4_TCP: [u64; WORDS] = both(mask(&V4), mask(&tcp_at(V4_L4)));
const V4_UDP: [u64; WORDS] = both(mask(&V4), mask(&[(V4_L4, V4_L4 + 4, 0xff)]));
const V4_ECHO: [u64; WORDS] = both(mask(&V4), mask(&echo_at(V4_L4)));
const V6_TCP: [u64; WORDS] = both(mask(&V6), mask(&tcp_at(V6_L4)));
const V6_UDP: [u64; WORDS] = both(mask(&V6), mask(&[(V6_L4, V6_L4 + 4, 0xff)]));
const V6_ECHO: [u64; WORDS] = both(mask(&V6), mask(&echo_at(V6_L4)));

const _: () = assert!(V6_L4 + 14 <= HEAD && tcp::HEADER >= 14);

/// Ports; data offset; flags.
const fn tcp_at(at: usize) -> [Bits; 3] {
    [
        (at, at + 4, 0xff),
        (at + 12, at + 13, 0xf0),
        (at + 13, at + 14, 0xff),
    ]
}

/// Type and code; identifier.
const fn echo_at(at: usize) -> [Bits; 2] {
    [(at, at + 2, 0xff), (at + 4, at + 6, 0xff)]
}

#[expect(
    clippy::indexing_slicing,
    reason = "at compile time, where a wrong index does not compile"
)]
const fn mask(bits: &[Bits]) -> [u64; WORDS] {
    let mut words = [0; WORDS];
    let mut each = 0;
    while each < bits.len() {
        let (mut at, until, of) = bits[each];
        while at < until {
            words[at / 8] |= (of as u64) << (at % 8 * 8);
            at += 1;
        }
        each += 1;
    }
    words
}

#[expect(
    clippy::indexing_slicing,
    reason = "at compile time, where a wrong index does not compile"
)]
const fn both(a: [u64; WORDS], b: [u64; WORDS]) -> [u64; WORDS] {
    let mut words = a;
    let mut each = 0;
    while each < WORDS {
        words[each] |= b[each];
        each += 1;
    }
    words
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::Dice;
    use super::*;
    use crate::frame::Frame;

    /// The head of a frame, and behind its end bytes of another.
    fn head(bytes: &[u8], stale: u8) -> [u8; HEAD] {
        let mut head = [stale; HEAD];
        let len = bytes.len().min(HEAD);
        head[..len].copy_from_slice(&bytes[..len]);
        head
    }

    /// What a frame of the run would be judged by.
    fn digest(bytes: &[u8], total: u32) -> Option<(Digest, bool)> {
        let frame = Frame::parse(bytes.get(..128).unwrap_or(bytes), total).ok()?;
        Some((Digest::slowly(&frame, 7), frame.tag().is_some()))
    }

    /// Changes a few bytes, or none; rather early ones, and rather little.
    fn change(dice: &mut Dice<'_>, bytes: &mut Vec<u8>, hints: &[(u8, u8)]) {
        for &(at, bit) in hints {
            if let Some(byte) = bytes.get_mut(usize::from(at) % 100) {
                *byte ^= 1 << (bit % 8);
            }
        }
        if hints.len() == 1 {
            *bytes = dice.frame();
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

        /// Whatever is of a frame's shape has the frame's digest, but for where it ends.
        #[test]
        fn a_frame_of_the_shape_has_the_same_digest(
            seed: u64,
            hints in proptest::collection::vec(any::<(u8, u8)>(), 0..4),
            longer in 0u32..1500,
            stale: u8,
        ) {
            let mut dice = Dice::seeded(seed);
            let first = dice.frame();
            let len = first.len() as u32;
            let Some((of_first, is_tagged)) = digest(&first, len) else { return Ok(()) };
            let Some(shape) = Shape::of_flow(&head(&first, stale), len, &of_first) else {
                // All plain data without a tag has a shape, but for datagrams with something behind them (RFC 9868).
                let has_one = match of_first.subject.protocol() {
                    1 | 6 | 58 => true,
                    17 => {
                        let at = usize::from(of_first.transport);
                        let length = first.get(at + 4..at + 6).map(|length| {
                            let length = [length[0], length[1]];
                            u32::from(u16::from_be_bytes(length))
                        });
                        length == of_first.end.checked_sub(at as u32)
                    }
                    _ => false,
                };
                prop_assert!(of_first.is_control || is_tagged || !has_one);
                return Ok(());
            };
            let mut other = first.clone();
            change(&mut dice, &mut other, &hints);
            for total in [other.len() as u32, other.len() as u32 + longer] {
                if shape.has(&head(&other, !stale), total) {
                    let (of_other, is_tagged) = digest(&other, total).unwrap();
                    prop_assert!(!is_tagged && !of_other.is_control && !of_other.runs_on);
                    prop_assert_eq!(of_other.subject, of_first.subject);
                    prop_assert_eq!(of_other.transport, of_first.transport);
                    prop_assert_eq!(of_other.end, shape.end(&head(&other, stale)));
                } else {
                    prop_assert!(!hints.is_empty(), "its own shape");
                }
            }
        }
    }

    fn udp(len: u16, total: u16) -> Vec<u8> {
        let mut bytes = vec![0x52, 0x54, 0, 0, 0, 1, 0x52, 0x54, 0, 0, 0, 2, 8, 0];
        bytes.extend([0x45, 0]);
        bytes.extend(total.to_be_bytes());
        bytes.extend([0, 7, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        bytes.extend([0x12, 0x34, 0, 80]);
        bytes.extend(len.to_be_bytes());
        bytes.resize(60, 0);
        bytes
    }

    /// One bit or length after the other.
    #[test]
    fn every_bit_that_is_read_counts_and_no_other() {
        let first = udp(26, 46);
        let (digest, _) = digest(&first, 60).unwrap();
        let shape = Shape::of_flow(&head(&first, 0), 60, &digest).unwrap();
        let free: Vec<usize> = [15, 16, 17, 18, 19, 22, 24, 25, 38, 39]
            .into_iter()
            .chain(42..HEAD)
            .chain([40, 41])
            .collect();
        for at in 0..HEAD {
            for bit in 0..8 {
                let mut other = head(&first, 0);
                other[at] ^= 1 << bit;
                let is_free = free.contains(&at) || at == 20 && bit >= 6;
                let is_length = [16, 17, 38, 39].contains(&at);
                assert_eq!(
                    shape.has(&other, 60),
                    is_free && !is_length,
                    "byte {at} bit {bit}"
                );
            }
        }
        for (udp_len, total, frame, is_one) in [
            (26, 46, 60, true),
            (100, 120, 134, true),
            (100, 120, 1500, true),
            (100, 120, 133, false),
            (99, 120, 134, false),
            (8, 28, 60, true),
            (7, 27, 60, false),
            (0xfff8, 12, 60, false),
        ] {
            let other = udp(udp_len, total);
            assert_eq!(
                shape.has(&head(&other, 9), frame),
                is_one,
                "{udp_len} {total} {frame}"
            );
        }
    }

    #[test]
    fn an_echo_is_of_its_identifier() {
        let mut first = udp(0, 46);
        first[23] = 1;
        first[34..42].copy_from_slice(&[8, 0, 1, 2, 0, 7, 0, 1]);
        let (digest, _) = digest(&first, 60).unwrap();
        let shape = Shape::of_flow(&head(&first, 0), 60, &digest).unwrap();
        let with = |at: usize, byte: u8| {
            let mut other = head(&first, 0);
            other[at] = byte;
            shape.has(&other, 60)
        };
        assert!(with(41, 9) && with(37, 1));
        assert!(!with(39, 8) && !with(34, 0));
    }
}
