//! From a frame to its [`Subject`], and to the places that connection tracking reads.

use crate::frame::ethernet::ethertype;
use crate::frame::{Frame, Layers, Network, Transport, ipv4, ipv6, protocol, tcp, vlan};

use super::subject::{Depth, Family, Piece, Subject, field, put};

/// A frame as the gate sees it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Digest {
    /// What rules read; its state is still [`State::Untracked`](super::subject::State).
    pub subject: Subject,
    /// Where layer 4 begins in the frame; 0 when there is none to read.
    pub transport: u16,
    /// Where the IP packet ends in the frame; 0 without one.
    pub end: u32,
    /// Whether the frame has to be judged as a whole each time, and its verdict is not kept: ARP, neighbour
    /// discovery, DHCP, ICMP errors, whatever is not plain data; and data with something that the subject does not tell:
    /// IP options or extension headers, a UDP length that lies, a tag that is no plain VLAN tag.
    pub is_control: bool,
    /// Headers run past the snapshot: a longer one would show more.
    pub runs_on: bool,
}

impl Digest {
    /// Reads a frame of segment `vid`.
    #[inline(always)]
    pub fn of(frame: &Frame<'_>, vid: u16) -> Self {
        let plain = match frame.ethertype() {
            _ if has_odd_tag(frame) => None,
            ethertype::IPV4 => plain_ipv4(frame, vid),
            ethertype::IPV6 => plain_ipv6(frame, vid),
            _ => None,
        };
        plain.unwrap_or_else(|| Self::slowly(frame, vid))
    }

    /// Reads a frame of segment `vid` into the place of another.
    #[inline(always)]
    pub(super) fn read(&mut self, frame: &Frame<'_>, vid: u16) {
        let plain = match frame.ethertype() {
            _ if has_odd_tag(frame) => None,
            ethertype::IPV4 => plain_ipv4(frame, vid),
            ethertype::IPV6 => plain_ipv6(frame, vid),
            _ => None,
        };
        match plain {
            Some(digest) => *self = digest,
            None => *self = Self::slowly(frame, vid),
        }
    }

    /// The same for every kind of frame.
    #[inline(never)]
    pub fn slowly(frame: &Frame<'_>, vid: u16) -> Self {
        let layers = frame.layers();
        let mut word = put(0, field::VID, vid.into());
        if frame.ethertype() >= ethertype::FIRST {
            word = put(word, field::ETHERTYPE, frame.ethertype().into());
        }
        let mut subject = Subject::default();
        match layers.network {
            Network::Ipv4(ip) => {
                word = put(word, field::FAMILY, Family::V4 as u64);
                subject.0[3] = u64::from(ip.src().to_bits());
                subject.0[5] = u64::from(ip.dst().to_bits());
            }
            Network::Ipv6(ip) => {
                word = put(word, field::FAMILY, Family::V6 as u64);
                [subject.0[2], subject.0[3]] = halves(ip.src().to_bits());
                [subject.0[4], subject.0[5]] = halves(ip.dst().to_bits());
            }
            Network::Unseen(_) | Network::Arp(_) | Network::Llc | Network::Unknown => {}
        }
        let mut ports = 0u64;
        match layers.transport {
            Transport::Tcp(tcp) => {
                ports = u64::from(tcp.src_port()) << 16 | u64::from(tcp.dst_port());
                word = put(word, field::FLAGS, tcp.flags().into());
            }
            Transport::Udp(udp) => {
                ports = u64::from(udp.src_port()) << 16 | u64::from(udp.dst_port());
            }
            Transport::Icmp(icmp) | Transport::Icmpv6(icmp) => {
                ports = u64::from(icmp.kind()) << 8 | u64::from(icmp.code());
                let number = layers.protocol.unwrap_or(0);
                if is_echo(number, icmp.kind().into()) {
                    let [a, b, ..] = icmp.rest();
                    ports |= u64::from(u16::from_be_bytes([a, b])) << 16;
                }
            }
            Transport::Fragment
            | Transport::Unknown(_)
            | Transport::Unseen(_)
            | Transport::None => {}
        }
        let piece = match layers.fragment {
            None => Piece::Whole,
            Some(fragment) if fragment.offset == 0 => Piece::First,
            Some(_) => Piece::Later,
        };
        word = put(word, field::PROTOCOL, layers.protocol.unwrap_or(0).into());
        word = put(word, field::DEPTH, depth(&layers) as u64);
        word = put(word, field::PIECE, piece as u64);
        subject.0[0] = word;
        subject.0[1] = ports;
        subject.0[6] = frame.src().bits();
        subject.0[7] = frame.dst().bits();
        Self {
            subject,
            transport: u16::try_from(layers.transport_offset).unwrap_or(0),
            end: u32::try_from(layers.end).unwrap_or(0),
            is_control: is_control(&layers, ports) || is_odd(frame, &layers),
            runs_on: layers.runs_on(),
        }
    }
}

/// How much of layer 4 is known.
fn depth(layers: &Layers<'_>) -> Depth {
    match (layers.network, layers.transport) {
        (Network::Unseen(_), _) => Depth::Nothing,
        (Network::Ipv4(_) | Network::Ipv6(_), transport) => match transport {
            _ if layers.protocol.is_none() => Depth::Nothing,
            Transport::Fragment | Transport::Unseen(_) => Depth::Protocol,
            _ => Depth::Ports,
        },
        _ => Depth::Ports,
    }
}

/// An IPv4 packet that is whole and plain data: TCP, UDP or ICMP echo, with its layer 4 header in the snapshot.
#[inline(always)]
fn plain_ipv4(frame: &Frame<'_>, vid: u16) -> Option<Digest> {
    let at = frame.l3_offset();
    let bytes = frame.bytes().get(at..)?;
    let header = bytes.first_chunk::<{ ipv4::HEADER }>()?;
    let [first, second] = [word(header, 0)?, word(header, 8)?];
    let dst = u64::from(u32::from_be_bytes(*header.last_chunk()?));
    let total = (first >> 32 & 0xffff) as usize;
    let len = (first >> 56 & 0xf) as usize * 4;
    // Version 4, and neither an offset nor "more fragments".
    let is_plain = first >> 60 == 4 && first & 0x3fff == 0;
    // Options make it control.
    if !is_plain || len != ipv4::HEADER || at + total > frame.total_len() as usize {
        return None;
    }
    let packet = bytes.get(..total).unwrap_or(bytes);
    let number = (second >> 48 & 0xff) as u8;
    let layer_4 = Plain::read(
        packet.get(len..)?,
        total.checked_sub(len)?,
        number,
        protocol::ICMP,
    )?;
    let mut subject = Subject::default();
    subject.0[3] = second & 0xffff_ffff;
    subject.0[5] = dst;
    let head = head(ethertype::IPV4, Family::V4, number, vid);
    layer_4.digest(frame, subject, head, at + len, at + total)
}

/// The same for IPv6 without extension headers.
#[inline(always)]
fn plain_ipv6(frame: &Frame<'_>, vid: u16) -> Option<Digest> {
    let at = frame.l3_offset();
    let bytes = frame.bytes().get(at..)?;
    let header = bytes.first_chunk::<{ ipv6::HEADER }>()?;
    let first = word(header, 0)?;
    let total = (first >> 16 & 0xffff) as usize + ipv6::HEADER;
    if first >> 60 != 6 || at + total > frame.total_len() as usize {
        return None;
    }
    let packet = bytes.get(..total).unwrap_or(bytes);
    let number = (first >> 8 & 0xff) as u8;
    let payload = total.checked_sub(ipv6::HEADER)?;
    let layer_4 = Plain::read(
        packet.get(ipv6::HEADER..)?,
        payload,
        number,
        protocol::ICMPV6,
    )?;
    let mut subject = Subject::default();
    subject.0[2] = word(header, 8)?;
    subject.0[3] = word(header, 16)?;
    subject.0[4] = word(header, 24)?;
    subject.0[5] = word(header, 32)?;
    let head = head(ethertype::IPV6, Family::V6, number, vid);
    layer_4.digest(frame, subject, head, at + ipv6::HEADER, at + total)
}

/// What is read of a plain packet's layer 4: the words that hold it.
struct Plain {
    ports: u64,
    flags: u64,
}

impl Plain {
    /// `bytes` begin with the header and do not reach beyond the packet, of which `payload` bytes are left; `icmp` is the
    /// family's.
    #[inline(always)]
    fn read(bytes: &[u8], payload: usize, number: u8, icmp: u8) -> Option<Self> {
        match number {
            protocol::TCP => {
                let header = bytes.first_chunk::<{ tcp::HEADER }>()?;
                let len = usize::from(header[12] >> 4) * 4;
                (len >= tcp::HEADER && len <= bytes.len()).then_some(Self {
                    ports: word(header, 0)? >> 32,
                    flags: header[13].into(),
                })
            }
            protocol::UDP => {
                let header = word(bytes, 0)?;
                let (ports, len) = (header >> 32, (header >> 16 & 0xffff) as usize);
                (!is_dhcp(ports >> 16) && !is_dhcp(ports & 0xffff) && len == payload)
                    .then_some(Self { ports, flags: 0 })
            }
            _ if number == icmp => {
                let header = word(bytes, 0)?;
                let ports = (header >> 16 & 0xffff) << 16 | header >> 48;
                is_echo(icmp, header >> 56).then_some(Self { ports, flags: 0 })
            }
            _ => None,
        }
    }

    #[inline(always)]
    fn digest(
        self,
        frame: &Frame<'_>,
        mut subject: Subject,
        head: u64,
        transport: usize,
        end: usize,
    ) -> Option<Digest> {
        subject.0[0] = head | self.flags << field::FLAGS.0;
        subject.0[1] = self.ports;
        subject.0[6] = frame.src().bits();
        subject.0[7] = frame.dst().bits();
        Some(Digest {
            subject,
            transport: u16::try_from(transport).ok()?,
            end: u32::try_from(end).ok()?,
            is_control: false,
            runs_on: false,
        })
    }
}

/// Word 0 of a packet of which all is known, but for its flags.
#[inline(always)]
fn head(ethertype: u16, family: Family, number: u8, vid: u16) -> u64 {
    let fixed = u64::from(ethertype) | (family as u64) << field::FAMILY.0;
    fixed | u64::from(vid & 0xfff) << field::VID.0 | u64::from(number) << field::PROTOCOL.0
}

/// The eight bytes from `at` on.
#[inline(always)]
fn word(bytes: &[u8], at: usize) -> Option<u64> {
    let word = bytes.get(at..)?.first_chunk::<8>()?;
    Some(u64::from_be_bytes(*word))
}

/// Whether a UDP port is one of DHCP's (RFC 2131) or DHCPv6's (RFC 8415).
#[inline(always)]
const fn is_dhcp(port: u64) -> bool {
    port.wrapping_sub(67) < 2 || port.wrapping_sub(546) < 2
}

/// Whether an ICMP or ICMPv6 type is that of an echo request or reply: plain data, as errors and discovery are not.
#[inline(always)]
const fn is_echo(number: u8, kind: u64) -> bool {
    match number {
        protocol::ICMP => matches!(kind, 0 | 8),
        protocol::ICMPV6 => matches!(kind, 128 | 129),
        _ => false,
    }
}

/// Whether a packet is more than plain data: see [`Digest::is_control`].
fn is_control(layers: &Layers<'_>, ports: u64) -> bool {
    if layers.fragment.is_some() {
        return true;
    }
    match layers.transport {
        Transport::Tcp(_) => false,
        Transport::Udp(_) => is_dhcp(ports >> 16) || is_dhcp(ports & 0xffff),
        Transport::Icmp(icmp) => !is_echo(protocol::ICMP, icmp.kind().into()),
        Transport::Icmpv6(icmp) => !is_echo(protocol::ICMPV6, icmp.kind().into()),
        Transport::Fragment | Transport::Unknown(_) | Transport::Unseen(_) | Transport::None => {
            true
        }
    }
}

/// Whether a guard reads something of a frame that its subject does not tell.
fn is_odd(frame: &Frame<'_>, layers: &Layers<'_>) -> bool {
    let plain = match layers.network {
        Network::Ipv6(_) => ipv6::HEADER,
        _ => ipv4::HEADER,
    };
    let has_options = layers.transport_offset.wrapping_sub(layers.network_offset) != plain;
    let does_lie = match layers.transport {
        Transport::Udp(udp) => {
            !udp.is_length_true(layers.end.wrapping_sub(layers.transport_offset))
        }
        _ => false,
    };
    has_odd_tag(frame) || has_options || does_lie
}

/// Whether there is a tag, and it is no plain VLAN tag.
#[inline(always)]
fn has_odd_tag(frame: &Frame<'_>) -> bool {
    frame
        .tag()
        .is_some_and(|tag| tag.tpid() != vlan::TPID || tag.vlan().is_none())
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the lower half is what is asked for"
)]
fn halves(address: u128) -> [u64; 2] {
    [(address >> 64) as u64, address as u64]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::Dice;
    use super::*;

    /// What must be the same of two digests.
    fn parts(digest: &Digest) -> (Subject, [u32; 2], [bool; 2]) {
        (
            digest.subject,
            [digest.transport.into(), digest.end],
            [digest.is_control, digest.runs_on],
        )
    }

    /// Both ways over the same frame, with no byte behind the snapshot that could be read.
    fn agree(bytes: &[u8], snapshot: usize, total: u32, vid: u16) -> Result<(), TestCaseError> {
        let exactly = bytes.get(..snapshot).unwrap_or(bytes).to_vec();
        if let Ok(frame) = Frame::parse(&exactly, total) {
            let (fast, slow) = (Digest::of(&frame, vid), Digest::slowly(&frame, vid));
            prop_assert_eq!(parts(&fast), parts(&slow), "{} of {:x?}", total, exactly);
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

        #[test]
        fn the_fast_way_reads_what_the_slow_one_reads(seed: u64, vid: u16, total: u32) {
            let mut dice = Dice::seeded(seed);
            let bytes = dice.frame();
            let len = bytes.len() as u32;
            for snapshot in 14..=bytes.len() {
                agree(&bytes, snapshot, len, vid)?;
            }
            agree(&bytes, bytes.len(), total, vid)?;
            agree(&bytes, bytes.len(), len + total % 1600, vid)?;
        }

        /// Long ones, as they come before segmentation, and lengths that lie.
        #[test]
        fn of_long_packets_too(seed: u64, announced: u16, total in 14u32..=66_000) {
            let mut dice = Dice::seeded(seed);
            let mut bytes = dice.frame();
            let at = if bytes.get(12..14) == Some(&[8, 0]) { 16 } else { 18 };
            if let Some(length) = bytes.get_mut(at..at + 2) {
                length.copy_from_slice(&announced.to_be_bytes());
            }
            agree(&bytes, bytes.len(), total, 1)?;
        }

        #[test]
        fn of_any_bytes_too(bytes in proptest::collection::vec(any::<u8>(), 0..160), total: u32) {
            agree(&bytes, bytes.len(), total, 1)?;
        }
    }

    fn frame(ethertype: u16, packet: &[u8]) -> Vec<u8> {
        let mut frame = vec![0x52, 0x54, 0, 0, 0, 1, 0x52, 0x54, 0, 0, 0, 2];
        frame.extend(ethertype.to_be_bytes());
        frame.extend(packet);
        frame
    }

    fn v4(number: u8, options: usize, payload: &[u8]) -> Vec<u8> {
        let len = 20 + options * 4 + payload.len();
        let mut packet = vec![
            0x45 + options as u8,
            0,
            0,
            len as u8,
            0,
            7,
            0x40,
            0,
            64,
            number,
        ];
        packet.extend([0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        packet.extend(vec![1; options * 4]);
        packet.extend(payload);
        frame(ethertype::IPV4, &packet)
    }

    fn v6(number: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, payload.len() as u8, number, 64];
        packet.extend([0xfd; 16]);
        packet.extend([0xfe; 16]);
        packet.extend(payload);
        frame(ethertype::IPV6, &packet)
    }

    const SEGMENT: [u8; 20] = [
        0x12, 0x34, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x12, 1, 0, 0, 0, 0, 0,
    ];

    fn is_plain(bytes: &[u8]) -> bool {
        let frame = Frame::parse(bytes, bytes.len() as u32).unwrap();
        let plain = match frame.ethertype() {
            ethertype::IPV4 => plain_ipv4(&frame, 1),
            _ => plain_ipv6(&frame, 1),
        };
        plain.is_some()
    }

    /// The fast way is the way of plain data, and of nothing else.
    #[test]
    fn plain_data_goes_the_fast_way() {
        let echo = |kind| [kind, 0, 0, 0, 0, 1, 0, 1];
        let datagram = |dst: u8| [0x12, 0x34, 0, dst, 0, 8, 0, 0];
        assert!(is_plain(&v4(6, 0, &SEGMENT)));
        for options in 1..=10 {
            // A guard reads them, and the subject does not tell.
            assert!(!is_plain(&v4(6, options, &SEGMENT)), "{options}");
        }
        assert!(is_plain(&v4(17, 0, &datagram(53))));
        assert!(is_plain(&v4(1, 0, &echo(8))) && is_plain(&v4(1, 0, &echo(0))));
        assert!(is_plain(&v6(6, &SEGMENT)) && is_plain(&v6(17, &datagram(53))));
        assert!(is_plain(&v6(58, &echo(128))) && is_plain(&v6(58, &echo(129))));
        let others = [
            v4(17, 0, &datagram(67)),
            v4(17, 0, &datagram(68)),
            v4(1, 0, &echo(3)),
            v4(58, 0, &echo(128)),
            v4(6, 0, &SEGMENT[..19]),
            v4(47, 0, &SEGMENT),
            v6(58, &echo(135)),
            v6(1, &echo(8)),
            v6(60, &[6, 0, 1, 4, 0, 0, 0, 0]),
            v6(17, &[2, 34, 0, 80, 0, 8, 0, 0]),
        ];
        for other in &others {
            assert!(!is_plain(other), "{other:x?}");
            let frame = Frame::parse(other, other.len() as u32).unwrap();
            assert!(Digest::of(&frame, 1).is_control);
        }
    }

    #[test]
    fn a_subject_holds_what_the_frame_says() {
        let bytes = v4(6, 1, &SEGMENT);
        let digest = Digest::of(&Frame::parse(&bytes, 58).unwrap(), 10);
        let subject = digest.subject;
        assert_eq!(
            (subject.ethertype(), subject.vid(), subject.protocol()),
            (0x0800, 10, 6)
        );
        assert_eq!(
            (subject.src_port(), subject.dst_port(), subject.flags()),
            (0x1234, 80, 0x12)
        );
        assert_eq!(subject.src_ip(), Some("10.0.0.1".parse().unwrap()));
        assert_eq!(subject.dst_ip(), Some("10.0.0.2".parse().unwrap()));
        assert_eq!(subject.src_mac().to_string(), "52:54:00:00:00:02");
        assert_eq!((digest.transport, digest.end), (38, 58));
        // It has options.
        assert_eq!((digest.is_control, digest.runs_on), (true, false));
    }

    /// Of a later fragment over IPv6 the fragment header tells the protocol, and of a header that is cut short the one before it.
    #[test]
    fn the_protocol_is_known_where_it_is_named() {
        let of = |bytes: &[u8]| {
            let digest = Digest::of(&Frame::parse(bytes, bytes.len() as u32).unwrap(), 1);
            assert!(digest.is_control);
            let subject = digest.subject;
            (subject.depth(), subject.protocol(), subject.piece())
        };
        let part = |next, offset| [&[next, 0, 0, offset, 0, 0, 0, 7], &SEGMENT[..]].concat();
        assert_eq!(of(&v6(44, &part(6, 8))), (Depth::Protocol, 6, Piece::Later));
        assert_eq!(
            of(&v6(44, &part(59, 8))),
            (Depth::Protocol, 59, Piece::Later)
        );
        assert_eq!(of(&v6(44, &part(60, 8))), (Depth::Nothing, 0, Piece::Later));
        assert_eq!(of(&v6(44, &part(6, 1))), (Depth::Ports, 6, Piece::First));
        assert_eq!(
            of(&v6(6, &SEGMENT[..8])),
            (Depth::Protocol, 6, Piece::Whole)
        );
        assert_eq!(of(&v6(253, &SEGMENT)), (Depth::Nothing, 0, Piece::Whole));
        assert_eq!(of(&v4(253, 0, &SEGMENT)), (Depth::Ports, 253, Piece::Whole));
    }
}
