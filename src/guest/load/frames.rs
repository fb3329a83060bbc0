//! The frames of the load: what they look like, and the mark by which a receiver knows them.
//!
//! ```text
//!  0  Ethernet: destination, source (the MACs of the ports), IPv4
//! 14  IPv4: 10.76.x.x -> 10.76.y.y, UDP, or TCP when the frame is to be segmented by the device
//! 34  UDP: ports of the flow, no checksum       34  TCP: ports, ACK, partial checksum
//! 42  the mark, 20 bytes                        54  the mark, 20 bytes
//!     u64 magic, source, destination, sequence number
//!     u64 time of sending, or zero where it is not taken
//!     u32 checksum over the mark and the body
//!     the body, up to the end of the frame
//! ```
//!
//! A frame lies in its slot so that the Ethernet header begins a cache line and the network header ends
//! the line before, as in DPDK's buffers.

use crate::guest::{VnetHeader, vnet};

/// Bytes between the start of a slot and its frame; the network header ends here.
pub(super) const FRAME_AT: u64 = 64;
/// Where the mark of a UDP frame begins.
const UDP_MARK: usize = 42;
/// Where the mark of a TCP frame begins.
const TCP_MARK: usize = 54;
/// Length of the mark.
const MARK: usize = 20;
/// The smallest frame that has room for its mark.
pub const SMALLEST: usize = UDP_MARK + MARK;
/// The largest: IPv4's 65,535 bytes behind the Ethernet header.
pub const LARGEST: usize = 65_535 + 14;
/// Frames above this are handed to the device as one TCP segment to be cut.
pub const LARGEST_PLAIN: usize = 1514;
/// Payload of a segment, as over an MTU of 1500 without options.
const SEGMENT: u16 = 1460;

const MAGIC: u64 = 0xa7;
const SEQUENCE_BITS: u32 = 36;
/// Sequence numbers count modulo this.
pub(super) const SEQUENCES: u64 = 1 << SEQUENCE_BITS;
/// Ports are numbered in 10 bits.
pub const MOST_PORTS: usize = 1024;

/// Who sent a frame to whom, and which one it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) from: u16,
    pub(super) to: u16,
    pub(super) sequence: u64,
}

impl Mark {
    pub(super) fn word(self) -> u64 {
        let from = u64::from(self.from) << 46;
        let to = u64::from(self.to) << SEQUENCE_BITS;
        (MAGIC << 56) | from | to | (self.sequence % SEQUENCES)
    }

    /// None for a frame that is not of this load.
    #[inline]
    pub(super) fn from_word(word: u64) -> Option<Self> {
        (word >> 56 == MAGIC).then_some(Self {
            from: (word >> 46 & 0x3ff) as u16,
            to: (word >> SEQUENCE_BITS & 0x3ff) as u16,
            sequence: word % SEQUENCES,
        })
    }
}

/// Places within a frame of one size.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form {
    /// Bytes of the frame.
    pub(super) size: usize,
    /// Whether it is cut by the device.
    pub(super) giant: bool,
}

impl Form {
    pub(super) fn new(size: usize) -> Self {
        Self {
            size,
            giant: size > LARGEST_PLAIN,
        }
    }

    /// Where the mark begins in the frame.
    pub(super) fn mark(self) -> u64 {
        if self.giant {
            TCP_MARK as u64
        } else {
            UDP_MARK as u64
        }
    }

    /// Where the body begins in the frame.
    pub(super) fn body(self) -> usize {
        self.mark() as usize + MARK
    }

    /// The network header that goes with every frame.
    pub(super) fn header(self) -> VnetHeader {
        if !self.giant {
            return VnetHeader::default();
        }
        VnetHeader {
            flags: vnet::NEEDS_CSUM,
            gso_type: vnet::GSO_TCPV4,
            hdr_len: TCP_MARK as u16,
            gso_size: SEGMENT,
            csum_start: 34,
            csum_offset: 16,
            num_buffers: 0,
        }
    }

    /// A frame of flow number `flow` without its mark, the body filled from `seed`.
    pub(super) fn build(self, from: [u8; 6], to: [u8; 6], flow: u16, seed: u64) -> Vec<u8> {
        let mut frame = vec![0; self.size];
        frame[..6].copy_from_slice(&to);
        frame[6..12].copy_from_slice(&from);
        frame[12..14].copy_from_slice(&[8, 0]);
        let length = (self.size - 14) as u16;
        let ip = &mut frame[14..34];
        ip[0] = 0x45;
        ip[2..4].copy_from_slice(&length.to_be_bytes());
        ip[6] = 0x40;
        ip[8] = 64;
        ip[9] = if self.giant { 6 } else { 17 };
        ip[12..16].copy_from_slice(&[10, 76, from[4], from[5]]);
        ip[16..20].copy_from_slice(&[10, 76, to[4], to[5]]);
        let sum = !fold(ones_sum(ip));
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        frame[34..36].copy_from_slice(&(10_000 + flow).to_be_bytes());
        frame[36..38].copy_from_slice(&7676u16.to_be_bytes());
        if self.giant {
            frame[46] = 5 << 4;
            frame[47] = 0x10;
            frame[48..50].copy_from_slice(&u16::MAX.to_be_bytes());
            // The sum of the pseudo header: the device goes on from it (VIRTIO 1.2, 5.1.6.2).
            let mut pseudo = frame[26..34].to_vec();
            pseudo.extend_from_slice(&[0, 6]);
            pseudo.extend_from_slice(&(length - 20).to_be_bytes());
            let sum = fold(ones_sum(&pseudo));
            frame[50..52].copy_from_slice(&sum.to_be_bytes());
        } else {
            frame[38..40].copy_from_slice(&(length - 20).to_be_bytes());
        }
        let mut state = seed | 1;
        for word in frame[self.body()..].chunks_mut(8) {
            state = mix(state);
            word.copy_from_slice(&state.to_le_bytes()[..word.len()]);
        }
        frame
    }
}

fn ones_sum(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Spreads each bit over the word (the finaliser of MurmurHash3).
fn mix(mut x: u64) -> u64 {
    x ^= x >> 33;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 33;
    x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ x >> 33
}

/// A sum over a body that depends on the place of each byte.
pub(super) fn body_sum(body: &[u8]) -> u64 {
    let (words, rest) = body.as_chunks::<8>();
    let mut sum = words.iter().fold(0u64, |sum, word| {
        sum.rotate_left(5).wrapping_add(u64::from_le_bytes(*word))
    });
    for byte in rest {
        sum = sum.rotate_left(5).wrapping_add(u64::from(*byte));
    }
    sum
}

/// The checksum in the mark.
#[inline]
pub(super) fn seal(word: u64, time: u64, body: u64) -> u32 {
    let whole = mix(word ^ time.rotate_left(17) ^ body.rotate_left(41));
    (whole ^ whole >> 32) as u32
}

/// The MAC address of port `number`, counted from `first`.
pub(super) fn mac(first: [u8; 6], number: usize) -> [u8; 6] {
    let mut low = u32::from_be_bytes([first[2], first[3], first[4], first[5]]);
    low = low.wrapping_add(number as u32);
    let low = low.to_be_bytes();
    [first[0], first[1], low[0], low[1], low[2], low[3]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_survives_its_word() {
        let mark = Mark {
            from: 1023,
            to: 512,
            sequence: SEQUENCES - 1,
        };
        assert_eq!(Mark::from_word(mark.word()), Some(mark));
        assert_eq!(Mark::from_word(0), None);
    }

    #[test]
    fn every_size_is_a_frame_that_a_dissector_understands() {
        for size in [SMALLEST, 64, 1514, 1515, 9014, LARGEST] {
            let form = Form::new(size);
            let frame = form.build([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], 3, 9);
            assert_eq!(frame.len(), size);
            let parsed = etherparse::SlicedPacket::from_ethernet(&frame).unwrap();
            match parsed.transport.unwrap() {
                etherparse::TransportSlice::Udp(udp) => {
                    assert!(!form.giant);
                    assert_eq!(udp.source_port(), 10_003);
                    assert_eq!(usize::from(udp.length()), size - 34);
                }
                etherparse::TransportSlice::Tcp(tcp) => {
                    assert!(form.giant);
                    assert_eq!(tcp.source_port(), 10_003);
                    assert_eq!(tcp.slice().len(), size - 34);
                }
                other => panic!("{other:?}"),
            }
            let (header, _) = etherparse::Ipv4Header::from_slice(&frame[14..]).unwrap();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
        }
    }

    #[test]
    fn the_seal_sees_a_changed_or_moved_byte() {
        let body: Vec<u8> = (0..100).collect();
        let seal_of = |body: &[u8]| seal(5, 6, body_sum(body));
        let whole = seal_of(&body);
        for i in 0..body.len() {
            let mut changed = body.clone();
            changed[i] ^= 0x10;
            assert_ne!(seal_of(&changed), whole, "byte {i}");
        }
        let mut moved = body.clone();
        moved.swap(3, 11);
        assert_ne!(seal_of(&moved), whole);
        assert_ne!(seal(4, 6, body_sum(&body)), whole);
    }
}
