//! Messages that a guard reads, where nothing was said of their bytes: what a well-behaved guest or server would send, so
//! that what is refused is refused for its addresses.

use std::net::{IpAddr, Ipv6Addr};

use super::{Station, Upper};
use crate::frame::dhcp::{self, operation};
use crate::frame::nd::{self, kind, option};
use crate::frame::{Mac, dhcpv6};

/// Where the options of a DHCP message begin.
const COOKIE_AT: usize = 236;
/// A client looks for servers, and a server offers (RFC 2132, 9.6).
const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
/// A DHCPv6 client looks for servers (RFC 8415, 7.3).
const SOLICIT: u8 = 1;
/// A client's identifier (RFC 8415, 21.2).
const CLIENT_ID: u16 = 1;

/// Sender and receiver of a packet.
#[derive(Clone, Copy)]
pub(super) struct Ends {
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
    pub(super) src_mac: Mac,
    /// Of the receiver, if it is one station.
    pub(super) dst_mac: Option<Mac>,
}

/// Whether `upper` is a message of neighbour discovery.
pub(super) fn is_discovery(upper: Upper) -> bool {
    matches!(upper, Upper::Icmp { kind, is_v6: true, .. } if nd::is_discovery(kind))
}

/// Whom a solicitation asks for and where it goes, or whom an advertisement speaks for: the target and the destination.
///
/// As an ARP request is for everybody, a solicitation of an address goes to the group in which its owner hears it
/// (RFC 4291, 2.7.1), unless its target is said besides.
pub(super) fn target(
    upper: Upper,
    said: Option<Ipv6Addr>,
    (src, dst): (Ipv6Addr, Ipv6Addr),
    (from, to): (Option<&Station>, Option<&Station>),
) -> (Ipv6Addr, Ipv6Addr) {
    let is_solicitation = matches!(
        upper,
        Upper::Icmp { kind, .. } if kind == kind::NEIGHBOUR_SOLICITATION
    );
    match said {
        Some(target) => (target, dst),
        None if !is_solicitation => (src, dst),
        None if !dst.is_multicast() => (dst, solicited_node(dst)),
        None => {
            let asks_for_itself = src.is_unspecified().then_some(from).flatten();
            let stations = [asks_for_itself, to];
            let known = stations.into_iter().flatten();
            let mut known = known.flat_map(Station::addresses_v6);
            let found = known.find(|address| solicited_node(*address) == dst);
            (found.unwrap_or_else(|| beside(src, dst)), dst)
        }
    }
}

/// The group in which the owner of an address hears solicitations.
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    const GROUP: u128 = 0xff02_0000_0000_0000_0000_0001_ff00_0000;
    Ipv6Addr::from_bits(GROUP | address.to_bits() & 0x00ff_ffff)
}

/// An address that is heard in `group`, on the sender's link.
fn beside(src: Ipv6Addr, group: Ipv6Addr) -> Ipv6Addr {
    const LINK_LOCAL: u128 = 0xfe80_0000_0000_0000_0000_0000_0000_0000;
    let link = if src.is_unspecified() {
        LINK_LOCAL
    } else {
        src.to_bits()
    };
    Ipv6Addr::from_bits(link & !0x00ff_ffff | group.to_bits() & 0x00ff_ffff)
}

/// What stands behind the first four bytes of a neighbour discovery message (RFC 4861, section 4).
pub(super) fn discovery(number: u8, target: Ipv6Addr, ends: &Ends) -> Vec<u8> {
    let link_address = |kind: u8| {
        let mut bytes = vec![kind, 1];
        bytes.extend(ends.src_mac.octets());
        bytes
    };
    let (fixed, opt) = match number {
        kind::ROUTER_SOLICITATION => (vec![0; 4], option::SOURCE_LINK_LAYER),
        // A hop limit of 64, and a router for half an hour.
        kind::ROUTER_ADVERTISEMENT => {
            let fixed = vec![64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
            (fixed, option::SOURCE_LINK_LAYER)
        }
        kind::NEIGHBOUR_ADVERTISEMENT => {
            let is_asked = matches!(ends.dst, IpAddr::V6(dst) if !dst.is_multicast());
            // Override, and Solicited.
            let flags = if is_asked { 0x60 } else { 0x20 };
            let fixed = [&[flags, 0, 0, 0][..], &target.octets()].concat();
            (fixed, option::TARGET_LINK_LAYER)
        }
        kind::REDIRECT => {
            let fixed = [&[0; 4][..], &target.octets(), &octets(ends.dst)].concat();
            return fixed;
        }
        _ => {
            let fixed = [&[0; 4][..], &target.octets()].concat();
            (fixed, option::SOURCE_LINK_LAYER)
        }
    };
    // Who has no address cannot be answered at one.
    let has_no_source = opt == option::SOURCE_LINK_LAYER && ends.src.is_unspecified();
    let opt = if has_no_source {
        Vec::new()
    } else {
        link_address(opt)
    };
    [fixed, opt].concat()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// What stands behind a UDP header with these ports: a message between DHCP's.
pub(super) fn datagram(ports: (u16, u16), ends: &Ends) -> Vec<u8> {
    let client = ends.src_mac;
    match (ports, ends.src, ends.dst) {
        ((dhcp::CLIENT, dhcp::SERVER), IpAddr::V4(src), _) => {
            let kind = if src.is_unspecified() {
                DISCOVER
            } else {
                REQUEST
            };
            bootp(operation::REQUEST, kind, src.octets(), [0; 4], client)
        }
        ((dhcp::SERVER, dhcp::CLIENT), _, IpAddr::V4(dst)) => {
            let client = ends.dst_mac.unwrap_or_default();
            bootp(operation::REPLY, OFFER, [0; 4], dst.octets(), client)
        }
        ((dhcpv6::CLIENT, dhcpv6::SERVER), IpAddr::V6(_), _) => solicit(SOLICIT, client),
        ((dhcpv6::SERVER, dhcpv6::CLIENT), _, IpAddr::V6(_)) => {
            solicit(dhcpv6::kind::ADVERTISE, ends.dst_mac.unwrap_or_default())
        }
        _ => Vec::new(),
    }
}

/// RFC 2131, section 2.
fn bootp(op: u8, kind: u8, has: [u8; 4], gets: [u8; 4], client: Mac) -> Vec<u8> {
    let mut bytes = vec![op, 1, 6, 0, 0, 0, 0, 1, 0, 0, 0, 0];
    bytes.extend(has);
    bytes.extend(gets);
    bytes.extend([0; 8]);
    bytes.extend(client.octets());
    bytes.resize(COOKIE_AT, 0);
    bytes.extend([99, 130, 83, 99]);
    bytes.extend([dhcp::option::MESSAGE_TYPE, 1, kind]);
    // The end, and up to the 300 bytes that BOOTP had (RFC 1542, 2.1).
    bytes.push(255);
    bytes.resize(300, 0);
    bytes
}

/// RFC 8415, section 8, with an identifier by link-layer address (11.4).
fn solicit(kind: u8, client: Mac) -> Vec<u8> {
    let mut bytes = vec![kind, 0, 0, 1];
    bytes.extend(CLIENT_ID.to_be_bytes());
    bytes.extend([0, 10, 0, 3, 0, 1]);
    bytes.extend(client.octets());
    bytes
}

/// A guest's announcement of its MAC address, as QEMU and vhost-user's SEND_RARP have it.
pub(super) fn reverse_arp(mac: Mac) -> Vec<u8> {
    let mut bytes = vec![0, 1, 8, 0, 6, 4, 0, 3];
    bytes.extend(mac.octets());
    bytes.extend([0; 4]);
    bytes.extend(mac.octets());
    bytes.extend([0; 4]);
    bytes
}
