//! From a [`Packet`] to its bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::messages::{self, Ends};
use super::{Body, Fragment, Packet, PacketError, Station, Upper};
use crate::config::terms::RARP;
use crate::frame::ethernet::ethertype;
use crate::frame::ipv6::extension;
use crate::frame::tcp::flag;
use crate::frame::{Mac, protocol};
use crate::policy::subject::Family;

/// IEEE 802.1Q.
const TPID: u16 = 0x8100;
/// Where a later fragment begins, in units of eight bytes: behind 1,480 bytes, as on a link with an MTU of 1,500.
const LATER: u16 = 185;
const MORE: u16 = 1;
const IDENT: u16 = 1;
const DEFAULT_TTL: u8 = 64;
/// Neighbour discovery shows by it that no router was on the way (RFC 4861, 3.1).
const DISCOVERY_TTL: u8 = 255;

/// The whole frame.
pub(super) fn frame(
    packet: &Packet,
    from: Option<&Station>,
    to: Option<&Station>,
) -> Result<Vec<u8>, PacketError> {
    let src_mac = match packet.src_mac.or(from.map(|station| station.mac)) {
        Some(mac) => mac,
        None => return Err(no_mac("sender")),
    };
    let (number, dst_mac, body) = match &packet.body {
        Body::Other(number) => (*number, None, vec![0; packet.payload.unwrap_or(0).into()]),
        Body::Rarp => (RARP, Some(Mac::BROADCAST), messages::reverse_arp(src_mac)),
        Body::Arp { src, dst, is_reply } => {
            let [src, dst] = [(*src, from), (*dst, to)]
                .map(|(said, station)| address(said, station, Family::V4));
            let receiver = packet.dst_mac.or(to.map(|station| station.mac));
            let target = if *is_reply { receiver } else { None };
            let dst_mac = if *is_reply {
                None
            } else {
                Some(Mac::BROADCAST)
            };
            let body = arp(src_mac, src?, target, dst?, *is_reply);
            (ethertype::ARP, dst_mac, body)
        }
        Body::Ip {
            family,
            src,
            dst,
            ttl,
            piece,
            target,
            upper,
        } => {
            let family = match family {
                Some(family) => *family,
                None => common_family(from, to)?,
            };
            let src = address(*src, from, family)?;
            let dst = address(*dst, to, family)?;
            let is_discovery = messages::is_discovery(*upper);
            let (target, dst) = match (src, dst) {
                (IpAddr::V6(src), IpAddr::V6(dst)) if is_discovery && packet.payload.is_none() => {
                    let (target, dst) = messages::target(*upper, *target, (src, dst), (from, to));
                    (target, IpAddr::V6(dst))
                }
                _ => (Ipv6Addr::UNSPECIFIED, dst),
            };
            let ends = Ends {
                src,
                dst,
                src_mac,
                dst_mac: packet.dst_mac.or(to.map(|station| station.mac)),
            };
            let ttl = ttl.unwrap_or(if is_discovery {
                DISCOVERY_TTL
            } else {
                DEFAULT_TTL
            });
            let upper = upper_bytes(*upper, &ends, target, packet.payload);
            let (number, body) = ip(src, dst, ttl, *piece, upper);
            (number, group_mac(dst), body)
        }
    };
    let dst_mac = packet.dst_mac.or(dst_mac).or(to.map(|station| station.mac));
    let dst_mac = dst_mac.ok_or_else(|| no_mac("receiver"))?;
    let mut bytes = Vec::with_capacity(body.len() + 18);
    bytes.extend(dst_mac.octets());
    bytes.extend(src_mac.octets());
    if let Some(vlan) = packet.vlan {
        bytes.extend(TPID.to_be_bytes());
        bytes.extend(vlan.to_be_bytes());
    }
    bytes.extend(number.to_be_bytes());
    bytes.extend(body);
    Ok(bytes)
}

fn no_mac(who: &str) -> PacketError {
    let problem = format!("the MAC address of the {who} is not known");
    PacketError::new(
        problem,
        "name the port (--from, --to), or add mac 52:54:00:00:00:01 > 52:54:00:00:00:02",
    )
}

/// The address that was said, or the station's own.
fn address(
    said: Option<IpAddr>,
    station: Option<&Station>,
    family: Family,
) -> Result<IpAddr, PacketError> {
    if let Some(address) = said.or_else(|| station?.address(family)) {
        return Ok(address);
    }
    let name = match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    };
    let problem = match station {
        Some(station) => format!("port {:?} declares no {name} address", station.name),
        None => format!("an {name} address is missing"),
    };
    Err(PacketError::new(
        problem,
        "write the packet with its addresses, or declare ip = [...]",
    ))
}

/// The first family that both have.
fn common_family(from: Option<&Station>, to: Option<&Station>) -> Result<Family, PacketError> {
    let has =
        |station: Option<&Station>, family| station.is_some_and(|s| s.address(family).is_some());
    let families = [Family::V4, Family::V6];
    let both = families
        .into_iter()
        .find(|family| has(from, *family) && has(to, *family));
    both.ok_or_else(|| {
        let problem = "the ports declare no addresses of one family";
        PacketError::new(
            problem,
            "write the packet with its addresses, or declare ip = [...]",
        )
    })
}

/// The MAC address of a group (RFC 1112, section 6.4; RFC 2464, section 7), if it is one.
fn group_mac(dst: IpAddr) -> Option<Mac> {
    match dst {
        IpAddr::V4(Ipv4Addr::BROADCAST) => Some(Mac::BROADCAST),
        IpAddr::V4(dst) if dst.is_multicast() => Some(Mac::from_bits(
            0x0100_5e00_0000 | u64::from(dst.to_bits() & 0x7f_ffff),
        )),
        IpAddr::V6(dst) if dst.is_multicast() => {
            let [.., a, b, c, d] = dst.octets();
            Some(Mac::new([0x33, 0x33, a, b, c, d]))
        }
        _ => None,
    }
}

/// RFC 826, for IPv4 over Ethernet.
fn arp(src_mac: Mac, src: IpAddr, target: Option<Mac>, dst: IpAddr, is_reply: bool) -> Vec<u8> {
    let mut bytes = vec![0, 1, 8, 0, 6, 4, 0, if is_reply { 2 } else { 1 }];
    bytes.extend(src_mac.octets());
    bytes.extend(octets(src));
    bytes.extend(target.unwrap_or_default().octets());
    bytes.extend(octets(dst));
    bytes
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The protocol's number, its header with the right checksum, and the payload: what was said, or the message that is there
/// in such a packet.
fn upper_bytes(upper: Upper, ends: &Ends, target: Ipv6Addr, payload: Option<u16>) -> (u8, Vec<u8>) {
    let rest = match (payload, upper) {
        (Some(payload), _) => vec![0; payload.into()],
        (None, Upper::Udp { ports }) => messages::datagram(ports, ends),
        (None, _) => Vec::new(),
    };
    let len = u16::try_from(rest.len()).unwrap_or(u16::MAX);
    let (number, mut bytes, checksum) = match upper {
        Upper::Tcp { ports, flags } => {
            let ack = u32::from(flags & flag::ACK != 0);
            let mut bytes = ports_bytes(ports);
            bytes.extend(1u32.to_be_bytes());
            bytes.extend(ack.to_be_bytes());
            bytes.extend([5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
            (protocol::TCP, bytes, Some(16))
        }
        Upper::Udp { ports } => {
            let mut bytes = ports_bytes(ports);
            bytes.extend(len.saturating_add(8).to_be_bytes());
            bytes.extend([0, 0]);
            (protocol::UDP, bytes, Some(6))
        }
        Upper::Icmp { kind, code, .. } if payload.is_none() && messages::is_discovery(upper) => {
            let mut bytes = vec![kind, code, 0, 0];
            bytes.extend(messages::discovery(kind, target, ends));
            (protocol::ICMPV6, bytes, Some(2))
        }
        Upper::Icmp { kind, code, is_v6 } => {
            let number = if is_v6 {
                protocol::ICMPV6
            } else {
                protocol::ICMP
            };
            // An echo has an identifier and a sequence number; elsewhere these bytes mean something else.
            let is_echo = matches!((is_v6, kind), (false, 0 | 8) | (true, 128 | 129));
            let mark = u8::from(is_echo);
            (number, vec![kind, code, 0, 0, 0, mark, 0, mark], Some(2))
        }
        Upper::Other(number) => (number, Vec::new(), None),
    };
    bytes.extend(rest);
    if let Some(at) = checksum {
        let pseudo = match number {
            protocol::ICMP => Vec::new(),
            _ => pseudo_header(number, ends.src, ends.dst, bytes.len()),
        };
        let sum = sum(&[&pseudo, &bytes]);
        // RFC 768: a checksum of zero is sent as all ones.
        let sum = if number == protocol::UDP && sum == 0 {
            0xffff
        } else {
            sum
        };
        put(&mut bytes, at, sum);
    }
    (number, bytes)
}

fn ports_bytes((src, dst): (u16, u16)) -> Vec<u8> {
    [src.to_be_bytes(), dst.to_be_bytes()].concat()
}

fn put(bytes: &mut [u8], at: usize, word: u16) {
    if let Some(field) = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
        *field = word.to_be_bytes();
    }
}

/// What the checksum covers besides the packet itself (RFC 9293, section 3.1; RFC 8200, section 8.1). The two families'
/// forms have one sum.
fn pseudo_header(number: u8, src: IpAddr, dst: IpAddr, len: usize) -> Vec<u8> {
    let mut bytes = octets(src);
    bytes.extend(octets(dst));
    bytes.extend(u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend([0, 0, 0, number]);
    bytes
}

/// The internet checksum (RFC 1071) over parts of which all but the last have an even length.
fn sum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u64;
    for pair in parts.iter().flat_map(|part| part.chunks(2)) {
        let high = pair.first().copied().unwrap_or(0);
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u64::from(u16::from_be_bytes([high, low]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

/// The EtherType, the header and what it carries.
fn ip(
    src: IpAddr,
    dst: IpAddr,
    ttl: u8,
    piece: Option<Fragment>,
    upper: (u8, Vec<u8>),
) -> (u16, Vec<u8>) {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => (ethertype::IPV4, ipv4(src, dst, ttl, piece, upper)),
        (IpAddr::V6(src), IpAddr::V6(dst)) => (ethertype::IPV6, ipv6(src, dst, ttl, piece, upper)),
        // Both were asked for by one family.
        _ => (ethertype::IPV4, Vec::new()),
    }
}

fn ipv4(
    src: Ipv4Addr,
    dst: Ipv4Addr,
    ttl: u8,
    piece: Option<Fragment>,
    (number, upper): (u8, Vec<u8>),
) -> Vec<u8> {
    let total = u16::try_from(upper.len() + 20).unwrap_or(u16::MAX);
    let place: u16 = match piece {
        None => 0x4000,
        Some(Fragment::First) => MORE << 13,
        Some(Fragment::Later) => LATER,
    };
    let mut bytes = vec![0x45, 0];
    bytes.extend(total.to_be_bytes());
    bytes.extend(IDENT.to_be_bytes());
    bytes.extend(place.to_be_bytes());
    bytes.extend([ttl, number, 0, 0]);
    bytes.extend(src.octets());
    bytes.extend(dst.octets());
    let header_sum = sum(&[&bytes]);
    put(&mut bytes, 10, header_sum);
    bytes.extend(upper);
    bytes
}

fn ipv6(
    src: Ipv6Addr,
    dst: Ipv6Addr,
    hops: u8,
    piece: Option<Fragment>,
    (number, upper): (u8, Vec<u8>),
) -> Vec<u8> {
    let fragment = piece.map(|piece| {
        let place = match piece {
            Fragment::First => MORE,
            Fragment::Later => LATER << 3,
        };
        let [high, low] = place.to_be_bytes();
        let [a, b] = IDENT.to_be_bytes();
        [number, 0, high, low, 0, 0, a, b]
    });
    let extensions = fragment.map_or(Vec::new(), |header| header.to_vec());
    let next = if piece.is_some() {
        extension::FRAGMENT
    } else {
        number
    };
    let len = u16::try_from(extensions.len() + upper.len()).unwrap_or(u16::MAX);
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend(len.to_be_bytes());
    bytes.extend([next, hops]);
    bytes.extend(src.octets());
    bytes.extend(dst.octets());
    bytes.extend(extensions);
    bytes.extend(upper);
    bytes
}
