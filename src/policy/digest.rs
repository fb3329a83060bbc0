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
    /// Where the IP packet ends in the frame, or 65,535 if that is further on; 0 without one.
    pub end: u16,
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
            end: u16::try_from(layers.end).unwrap_or(u16::MAX),
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
                let ports = word(bytes, 0)? >> 48;
                is_echo(icmp, ports >> 8).then_some(Self { ports, flags: 0 })
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
            end: u16::try_from(end).ok()?,
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
