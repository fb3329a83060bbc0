//! The answer to a frame that a rule rejects: a TCP reset, or "administratively prohibited".
//!
//! The answer is made from the judged bytes alone and goes to the port that the frame came from, as if the station that it was
//! for had sent it: addresses swapped at every layer. There is none to what must not be answered (RFC 1122, 3.2.2;
//! RFC 4443, 2.4): a reset, an ICMP error, a later fragment, a broadcast or multicast, a source that is no station's, and
//! whatever is no IP. How often a port is answered is limited where the answers are sent.

use super::digest::Digest;
use super::subject::{Depth, Family, Piece};
use crate::frame::checksum::Sum;
use crate::frame::ethernet::ethertype;
use crate::frame::{Frame, Network, Transport, protocol, tcp};

/// Bytes of an answer, at most: Ethernet, IPv6, ICMPv6 and a quoted packet of 128 bytes.
pub const ANSWER_MAX: usize = 14 + 40 + 8 + 128;
/// Bytes of the rejected packet that are quoted, at most; RFC 792 asks for the IP header and 8 more.
const QUOTE: usize = 128;
/// Hop limit of an answer.
const HOPS: u8 = 64;

/// An answer, from the Ethernet header on, without a tag.
#[derive(Clone, Debug)]
pub struct Answer {
    bytes: [u8; ANSWER_MAX],
    len: usize,
}

impl Answer {
    /// The answer to `frame`, if there is to be one.
    pub fn to(frame: &Frame<'_>, digest: &Digest) -> Option<Self> {
        let subject = &digest.subject;
        if frame.dst().is_group() || subject.piece() == Piece::Later {
            return None;
        }
        let layers = frame.layers();
        let packet = frame.bytes().get(layers.network_offset..)?;
        let packet = packet
            .get(..layers.end.saturating_sub(layers.network_offset))
            .unwrap_or(packet);
        let mut answer = Self {
            bytes: [0; ANSWER_MAX],
            len: 0,
        };
        let (to, from) = (frame.src().octets(), frame.dst().octets());
        answer.put(&to)?;
        answer.put(&from)?;
        match (layers.network, subject.family()?) {
            (Network::Ipv4(ip), Family::V4) => {
                if ip.src().is_unspecified()
                    || ip.src().is_multicast()
                    || ip.src().is_broadcast()
                    || ip.dst().is_multicast()
                    || ip.dst().is_broadcast()
                {
                    return None;
                }
                answer.put(&ethertype::IPV4.to_be_bytes())?;
                let (asked, asker) = (ip.dst().octets(), ip.src().octets());
                let pseudo = pseudo_header(&asked, &asker);
                let at = answer.len;
                answer.put(&[0; 20])?;
                let number = answer.payload(&layers.transport, digest, packet, pseudo, false)?;
                let len = u16::try_from(answer.len.saturating_sub(at)).ok()?;
                let [l0, l1] = len.to_be_bytes();
                let ([d0, d1, d2, d3], [s0, s1, s2, s3]) = (asked, asker);
                let mut header = [
                    0x45, 0, l0, l1, 0, 0, 0x40, 0, HOPS, number, 0, 0, d0, d1, d2, d3, s0, s1, s2,
                    s3,
                ];
                [header[10], header[11]] = Sum::default().bytes(&header).complement();
                answer.set(at, &header)?;
            }
            (Network::Ipv6(ip), Family::V6) => {
                if ip.src().is_unspecified() || ip.src().is_multicast() || ip.dst().is_multicast() {
                    return None;
                }
                answer.put(&ethertype::IPV6.to_be_bytes())?;
                let (asked, asker) = (ip.dst().octets(), ip.src().octets());
                let pseudo = pseudo_header(&asked, &asker);
                let at = answer.len;
                answer.put(&[0; 40])?;
                let number = answer.payload(&layers.transport, digest, packet, pseudo, true)?;
                let len = u16::try_from(answer.len.saturating_sub(at.saturating_add(40))).ok()?;
                let [l0, l1] = len.to_be_bytes();
                answer.set(at, &[0x60, 0, 0, 0, l0, l1, number, HOPS])?;
                answer.set(at.saturating_add(8), &asked)?;
                answer.set(at.saturating_add(24), &asker)?;
            }
            _ => return None,
        }
        Some(answer)
    }

    /// The frame.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    fn put(&mut self, part: &[u8]) -> Option<()> {
        let at = self.len;
        self.len = at.saturating_add(part.len());
        self.set(at, part)
    }

    fn set(&mut self, at: usize, part: &[u8]) -> Option<()> {
        let room = self.bytes.get_mut(at..)?.get_mut(..part.len())?;
        room.copy_from_slice(part);
        Some(())
    }

    /// Puts layer 4; returns its protocol.
    fn payload(
        &mut self,
        transport: &Transport<'_>,
        digest: &Digest,
        packet: &[u8],
        pseudo: impl Fn(u8, usize) -> Sum,
        over_ipv6: bool,
    ) -> Option<u8> {
        let at = self.len;
        match transport {
            Transport::Tcp(segment) if digest.subject.depth() == Depth::Ports => {
                let header = reset(segment, digest)?;
                let sum = pseudo(protocol::TCP, header.len())
                    .bytes(&header)
                    .complement();
                self.put(&header)?;
                self.set(at.saturating_add(16), &sum)?;
                Some(protocol::TCP)
            }
            Transport::Icmp(icmp) if !matches!(icmp.kind(), 0 | 8) => None,
            Transport::Icmpv6(icmp) if !matches!(icmp.kind(), 128 | 129) => None,
            _ => {
                let quote = packet.get(..QUOTE).unwrap_or(packet);
                // Destination unreachable, administratively prohibited: RFC 1812, 5.2.7.1; RFC 4443, 3.1.
                let (number, kind, code) = if over_ipv6 {
                    (protocol::ICMPV6, 1, 1)
                } else {
                    (protocol::ICMP, 3, 13)
                };
                self.put(&[kind, code, 0, 0, 0, 0, 0, 0])?;
                self.put(quote)?;
                let bytes = self.bytes.get(at..self.len)?;
                let sum = if over_ipv6 {
                    pseudo(number, bytes.len())
                } else {
                    Sum::default()
                };
                let sum = sum.bytes(bytes).complement();
                self.set(at.saturating_add(2), &sum)?;
                Some(number)
            }
        }
    }
}

/// Begins the checksum of what `from` says to `to`, of so many bytes of a protocol (RFC 9293, 3.1; RFC 8200, 8.1).
fn pseudo_header(from: &[u8], to: &[u8]) -> impl Fn(u8, usize) -> Sum {
    let addresses = Sum::default().bytes(from).bytes(to);
    move |number, len| {
        addresses
            .word(u16::from(number))
            .word(u16::try_from(len).unwrap_or(0))
    }
}

/// The reset to a segment (RFC 9293, 3.5.2, group 1); none to a reset.
fn reset(segment: &tcp::Tcp<'_>, digest: &Digest) -> Option<[u8; tcp::HEADER]> {
    let flags = segment.flags();
    if flags & tcp::flag::RST != 0 {
        return None;
    }
    let (sequence, acknowledgment, kind) = if flags & tcp::flag::ACK != 0 {
        (segment.acknowledgment(), 0, tcp::flag::RST)
    } else {
        let payload = (digest.end as usize)
            .saturating_sub(usize::from(digest.transport))
            .saturating_sub(segment.header_len());
        let controls = u32::from(flags & tcp::flag::SYN != 0)
            .wrapping_add(u32::from(flags & tcp::flag::FIN != 0));
        let next = segment
            .sequence()
            .wrapping_add(u32::try_from(payload).unwrap_or(0))
            .wrapping_add(controls);
        (0, next, tcp::flag::RST | tcp::flag::ACK)
    };
    let [s0, s1] = segment.dst_port().to_be_bytes();
    let [d0, d1] = segment.src_port().to_be_bytes();
    let [q0, q1, q2, q3] = sequence.to_be_bytes();
    let [a0, a1, a2, a3] = acknowledgment.to_be_bytes();
    Some([
        s0, s1, d0, d1, q0, q1, q2, q3, a0, a1, a2, a3, 0x50, kind, 0, 0, 0, 0, 0, 0,
    ])
}

#[cfg(test)]
mod tests {
    use etherparse::{
        Icmpv4Type, Icmpv6Type, NetSlice, PacketBuilder, SlicedPacket, TransportSlice,
        icmpv4::DestUnreachableHeader as V4, icmpv6::DestUnreachableCode as V6,
    };

    use super::*;

    const A: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
    const B: [u8; 6] = [0x52, 0x54, 0, 0, 0, 2];

    fn v4() -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
        PacketBuilder::ethernet2(A, B).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9)
    }

    fn v6() -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
        let (a, b) = ([0xfd; 16], [0xfe; 16]);
        PacketBuilder::ethernet2(A, B).ipv6(a, b, 9)
    }

    fn answer(frame: &[u8]) -> Option<Vec<u8>> {
        let len = u32::try_from(frame.len()).unwrap();
        let snapshot = &frame[..frame.len().min(128)];
        let frame = Frame::parse(snapshot, len).ok()?; // what is no frame has no answer
        Answer::to(&frame, &Digest::of(&frame, 1)).map(|answer| answer.bytes().to_vec())
    }

    fn build(step: etherparse::PacketBuilderStep<etherparse::TcpHeader>, load: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        step.write(&mut bytes, load).unwrap();
        bytes
    }

    fn swapped(bytes: &[u8]) -> SlicedPacket<'_> {
        assert_eq!((&bytes[..6], &bytes[6..12]), (&A[..], &B[..]));
        SlicedPacket::from_ethernet(bytes).unwrap()
    }

    fn check_tcp(bytes: &[u8], sequence: u32, acknowledgment: Option<u32>) {
        let packet = swapped(bytes);
        let Some(TransportSlice::Tcp(tcp)) = &packet.transport else {
            panic!("no TCP");
        };
        let sum = match &packet.net {
            Some(NetSlice::Ipv4(ip)) => {
                let header = ip.header().to_header();
                assert_eq!(header.header_checksum, header.calc_header_checksum());
                assert_eq!(
                    (header.source, header.destination),
                    ([10, 0, 0, 2], [10, 0, 0, 1])
                );
                tcp.to_header().calc_checksum_ipv4(&header, &[]).unwrap()
            }
            Some(NetSlice::Ipv6(ip)) => {
                let header = ip.header().to_header();
                assert_eq!(
                    (header.source, header.destination),
                    ([0xfe; 16], [0xfd; 16])
                );
                tcp.to_header().calc_checksum_ipv6(&header, &[]).unwrap()
            }
            _ => panic!("no IP"),
        };
        assert_eq!(tcp.checksum(), sum);
        assert_eq!((tcp.source_port(), tcp.destination_port()), (80, 4000));
        assert!(tcp.rst() && !tcp.syn() && !tcp.fin());
        assert_eq!(tcp.sequence_number(), sequence);
        assert_eq!(tcp.ack(), acknowledgment.is_some());
        assert_eq!(tcp.acknowledgment_number(), acknowledgment.unwrap_or(0));
    }

    #[test]
    fn a_segment_is_answered_with_a_reset_that_its_sender_believes() {
        for syn in [build(v4().tcp(4000, 80, 77, 500).syn(), &[]), {
            build(v6().tcp(4000, 80, 77, 500).syn(), &[])
        }] {
            check_tcp(&answer(&syn).unwrap(), 0, Some(78));
        }
        let data = build(v4().tcp(4000, 80, 77, 500).ack(900), &[1; 300]);
        check_tcp(&answer(&data).unwrap(), 900, None);
        // Without ACK the whole length counts, although most of it lies beyond the snapshot.
        let data = build(v4().tcp(4000, 80, 77, 500).fin(), &[1; 300]);
        check_tcp(&answer(&data).unwrap(), 0, Some(77 + 300 + 1));
    }

    #[test]
    fn a_reset_is_not_answered() {
        assert_eq!(answer(&build(v4().tcp(4000, 80, 77, 500).rst(), &[])), None);
    }

    #[test]
    fn what_is_no_tcp_is_answered_with_administratively_prohibited() {
        let mut frame = Vec::new();
        v4().udp(4000, 53).write(&mut frame, &[9; 400]).unwrap();
        let bytes = answer(&frame).unwrap();
        let packet = swapped(&bytes);
        let Some(TransportSlice::Icmpv4(icmp)) = &packet.transport else {
            panic!("no ICMP");
        };
        assert_eq!(
            icmp.icmp_type(),
            Icmpv4Type::DestinationUnreachable(V4::FilterProhibited)
        );
        assert_eq!(icmp.payload()[..28], frame[14..42]);
        let header = icmp.header();
        assert_eq!(
            header.checksum,
            header.icmp_type.calc_checksum(icmp.payload())
        );

        let mut frame = Vec::new();
        v6().udp(4000, 53).write(&mut frame, &[9; 400]).unwrap();
        let bytes = answer(&frame).unwrap();
        let packet = swapped(&bytes);
        let Some(TransportSlice::Icmpv6(icmp)) = &packet.transport else {
            panic!("no ICMPv6");
        };
        assert_eq!(
            icmp.icmp_type(),
            Icmpv6Type::DestinationUnreachable(V6::Prohibited)
        );
        assert!(icmp.is_checksum_valid([0xfe; 16], [0xfd; 16]));
        assert_eq!(icmp.payload()[..48], frame[14..62]);
    }

    #[test]
    fn what_must_not_be_answered_is_not() {
        let mut error = Vec::new();
        v4().icmpv4(Icmpv4Type::DestinationUnreachable(V4::Host))
            .write(&mut error, &[0; 28])
            .unwrap();
        let mut broadcast = build(v4().tcp(1, 2, 3, 4).syn(), &[]);
        broadcast[..6].fill(0xff);
        let mut nobody = build(
            PacketBuilder::ethernet2(A, B)
                .ipv4([0; 4], [10, 0, 0, 2], 9)
                .tcp(1, 2, 3, 4)
                .syn(),
            &[],
        );
        let mut later = build(v4().tcp(1, 2, 3, 4).syn(), &[]);
        later[20..22].copy_from_slice(&[0, 4]);
        let mut arp = vec![0; 60];
        arp[6..12].copy_from_slice(&A);
        arp[12..14].copy_from_slice(&[8, 6]);
        for frame in [
            &mut error,
            &mut broadcast,
            &mut nobody,
            &mut later,
            &mut arp,
        ] {
            assert_eq!(answer(frame), None);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_survived(frame in proptest::collection::vec(proptest::num::u8::ANY, 14..256)) {
            let _ = answer(&frame);
        }
    }
}
