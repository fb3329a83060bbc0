//! From a frame to its [`Subject`], and to the places that connection tracking reads.

use crate::frame::ethernet::ethertype;
use crate::frame::{Frame, Layers, Network, Transport, Unseen, ipv4, ipv6, protocol, vlan};

use super::subject::{Depth, Family, Piece, Subject, field, put};

/// A frame as the gate sees it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Digest {
    /// What rules read; its state is still [`State::Untracked`](super::subject::State).
    pub subject: Subject,
    /// Where layer 4 begins in the frame; 0 when there is none to read.
    pub transport: u16,
    /// Where the IP packet ends in the frame; 0 without one.
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
    pub fn of(frame: &Frame<'_>, vid: u16) -> Self {
        let layers = frame.layers();
        let mut word = put(0, field::VID, vid.into());
        if frame.ethertype() >= ethertype::FIRST {
            word = put(word, field::ETHERTYPE, frame.ethertype().into());
        }
        let mut subject = Subject::default();
        let (mut depth, mut number) = (Depth::Ports, 0u8);
        match layers.network {
            Network::Ipv4(ip) => {
                word = put(word, field::FAMILY, Family::V4 as u64);
                number = ip.protocol();
                subject.0[3] = u64::from(ip.src().to_bits());
                subject.0[5] = u64::from(ip.dst().to_bits());
            }
            Network::Ipv6(ip) => {
                word = put(word, field::FAMILY, Family::V6 as u64);
                [subject.0[2], subject.0[3]] = halves(ip.src().to_bits());
                [subject.0[4], subject.0[5]] = halves(ip.dst().to_bits());
                number = v6_protocol(&layers).unwrap_or_else(|| {
                    depth = Depth::Nothing;
                    0
                });
            }
            Network::Unseen(_) => depth = Depth::Nothing,
            Network::Arp(_) | Network::Llc | Network::Unknown => {}
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
            Transport::Fragment => depth = Depth::Protocol,
            Transport::Unseen(_) if depth == Depth::Ports => depth = Depth::Protocol,
            Transport::Unknown(_) | Transport::Unseen(_) | Transport::None => {}
        }
        let piece = match layers.fragment {
            None => Piece::Whole,
            Some(fragment) if fragment.offset == 0 => Piece::First,
            Some(_) => Piece::Later,
        };
        word = put(word, field::PROTOCOL, number.into());
        word = put(word, field::DEPTH, depth as u64);
        word = put(word, field::PIECE, piece as u64);
        subject.0[0] = word;
        subject.0[1] = ports;
        subject.0[6] = frame.src().bits();
        subject.0[7] = frame.dst().bits();
        Self {
            subject,
            transport: u16::try_from(layers.transport_offset).unwrap_or(0),
            end: u16::try_from(layers.end).unwrap_or(0),
            is_control: is_control(&layers, number, ports, piece, depth) || is_odd(frame, &layers),
            runs_on: layers.runs_on(),
        }
    }
}

/// The protocol behind an IPv6 packet's extension headers; `None` when the walk did not reach it.
fn v6_protocol(layers: &Layers<'_>) -> Option<u8> {
    match layers.transport {
        Transport::Tcp(_) => Some(protocol::TCP),
        Transport::Udp(_) => Some(protocol::UDP),
        Transport::Icmpv6(_) => Some(protocol::ICMPV6),
        Transport::Unknown(number) => Some(number),
        Transport::Icmp(_) => Some(protocol::ICMP),
        Transport::Unseen(Unseen::BeyondSnapshot | Unseen::Malformed | Unseen::TooMany)
        | Transport::Fragment
        | Transport::None => None,
    }
}

/// Whether a packet is more than plain data: see [`Digest::is_control`].
fn is_control(layers: &Layers<'_>, number: u8, ports: u64, piece: Piece, depth: Depth) -> bool {
    if !matches!(layers.network, Network::Ipv4(_) | Network::Ipv6(_)) {
        return true;
    }
    if piece != Piece::Whole || depth != Depth::Ports {
        return true;
    }
    match number {
        protocol::TCP => false,
        protocol::UDP => {
            let is_dhcp = |port| matches!(port, 67 | 68 | 546 | 547);
            is_dhcp(ports & 0xffff) || is_dhcp(ports >> 16 & 0xffff)
        }
        // Echo is plain data; errors and discovery are not.
        protocol::ICMP => !matches!(ports >> 8 & 0xff, 0 | 8),
        protocol::ICMPV6 => !matches!(ports >> 8 & 0xff, 128 | 129),
        _ => true,
    }
}

/// Whether a guard reads something of a frame that its subject does not tell.
fn is_odd(frame: &Frame<'_>, layers: &Layers<'_>) -> bool {
    let has_odd_tag = frame
        .tag()
        .is_some_and(|tag| tag.tpid() != vlan::TPID || tag.vlan().is_none());
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
    has_odd_tag || has_options || does_lie
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the lower half is what is asked for"
)]
fn halves(address: u128) -> [u64; 2] {
    [(address >> 64) as u64, address as u64]
}
