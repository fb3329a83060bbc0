//! The layers above Ethernet, as far as the snapshot shows them.

use super::arp::Arp;
use super::ethernet::{Frame, ethertype};
use super::icmp::Icmp;
use super::ipv4::Ipv4;
use super::ipv6::{self, Ipv6};
use super::protocol;
use super::tcp::Tcp;
use super::udp::{self, Udp};

/// Why a header that was announced could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unseen {
    /// The snapshot ends before the header does; a longer snapshot would show it.
    BeyondSnapshot,
    /// The frame or the packet ends before the header does, or the header contradicts itself.
    Malformed,
    /// More extension headers than are walked.
    TooMany,
}

impl Unseen {
    /// Why a header that ends `end` bytes on is not in the snapshot, where `available` bytes were sent.
    pub(super) const fn past(available: usize, end: usize) -> Self {
        if end <= available {
            Self::BeyondSnapshot
        } else {
            Self::Malformed
        }
    }
}

/// A packet's place in the fragmented packet that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Its offset in bytes.
    pub offset: u16,
    /// Whether more follow.
    pub more: bool,
    /// What the fragments of one packet have in common.
    pub ident: u32,
}

/// Layer 3.
#[derive(Clone, Copy, Debug)]
pub enum Network<'a> {
    /// ARP for IPv4 over Ethernet.
    Arp(Arp<'a>),
    /// IPv4.
    Ipv4(Ipv4<'a>),
    /// IPv6.
    Ipv6(Ipv6<'a>),
    /// IEEE 802.3 with LLC: the type field is a length.
    Llc,
    /// Another EtherType (or another VLAN tag).
    Unknown,
    /// One of the known, and unreadable.
    Unseen(Unseen),
}

/// Layer 4.
#[derive(Clone, Copy, Debug)]
pub enum Transport<'a> {
    /// TCP.
    Tcp(Tcp<'a>),
    /// UDP.
    Udp(Udp<'a>),
    /// ICMP over IPv4.
    Icmp(Icmp<'a>),
    /// ICMPv6 over IPv6.
    Icmpv6(Icmp<'a>),
    /// A fragment that is not the first: its bytes are no header.
    Fragment,
    /// Another protocol, with its number. Also ICMP and ICMPv6 over the other family.
    Unknown(u8),
    /// One of the known, or an extension header before it, and unreadable.
    Unseen(Unseen),
    /// There is no layer 4: no IP, or an unreadable one.
    None,
}

/// What was read of a frame above layer 2. Offsets count from the frame's first byte.
#[derive(Clone, Copy, Debug)]
pub struct Layers<'a> {
    /// Layer 3.
    pub network: Network<'a>,
    /// Where it begins.
    pub network_offset: usize,
    /// The number of the protocol above IP, if the headers lead to it: also where its own header cannot be read. Of
    /// later IPv6 fragments it is what the fragment header names (RFC 8200, section 4.5), unless that is one more
    /// extension header; numbers for experiments, which may be either, name none over IPv6.
    pub protocol: Option<u8>,
    /// Layer 4.
    pub transport: Transport<'a>,
    /// Where it begins: behind IP's options or extension headers. Zero without a readable layer 3.
    pub transport_offset: usize,
    /// Where the IP packet ends; what follows in the frame is padding. Zero without a readable layer 3.
    pub end: usize,
    /// Set when the packet is a fragment, the first included.
    pub fragment: Option<Fragment>,
}

impl<'a> Layers<'a> {
    pub(super) fn parse(frame: &Frame<'a>) -> Self {
        let at = frame.l3_offset();
        let bytes = frame.bytes().get(at..).unwrap_or(&[]);
        let available = (frame.total_len() as usize).saturating_sub(at);
        let mut layers = Self {
            network: Network::Unknown,
            network_offset: at,
            protocol: None,
            transport: Transport::None,
            transport_offset: 0,
            end: 0,
            fragment: None,
        };
        match frame.ethertype() {
            ethertype::IPV4 => layers.parse_ipv4(bytes, available),
            ethertype::IPV6 => layers.parse_ipv6(bytes, available),
            ethertype::ARP => {
                layers.network =
                    Arp::parse(bytes, available).map_or_else(Network::Unseen, Network::Arp);
            }
            length if length < ethertype::FIRST => layers.network = Network::Llc,
            _ => {}
        }
        layers
    }

    fn parse_ipv4(&mut self, bytes: &'a [u8], available: usize) {
        let header = match Ipv4::parse(bytes, available) {
            Ok(header) => header,
            Err(unseen) => return self.network = Network::Unseen(unseen),
        };
        self.network = Network::Ipv4(header);
        self.fragment = header.fragment();
        self.protocol = Some(header.protocol());
        self.parse_transport(
            bytes,
            header.header_len(),
            usize::from(header.total_len()),
            header.protocol(),
            false,
        );
    }

    fn parse_ipv6(&mut self, bytes: &'a [u8], available: usize) {
        let header = match Ipv6::parse(bytes, available) {
            Ok(header) => header,
            Err(unseen) => return self.network = Network::Unseen(unseen),
        };
        self.network = Network::Ipv6(header);
        let payload = bytes.get(ipv6::HEADER..).unwrap_or(&[]);
        let payload_len = usize::from(header.payload_len());
        let packet_len = ipv6::HEADER + payload_len;
        match ipv6::walk(header.next_header(), payload, payload_len) {
            Ok(walk) => {
                self.fragment = walk.fragment;
                self.protocol = ipv6::is_upper_layer(walk.protocol).then_some(walk.protocol);
                self.parse_transport(
                    bytes,
                    ipv6::HEADER.wrapping_add(walk.len),
                    packet_len,
                    walk.protocol,
                    true,
                );
            }
            Err(unseen) => {
                self.end = self.network_offset.wrapping_add(packet_len);
                self.transport = Transport::Unseen(unseen);
            }
        }
    }

    /// `bytes` begin with the IP header, the packet is `packet_len` long and layer 4 begins at `at`, not behind it.
    fn parse_transport(
        &mut self,
        bytes: &'a [u8],
        at: usize,
        packet_len: usize,
        number: u8,
        over_ipv6: bool,
    ) {
        self.transport_offset = self.network_offset.wrapping_add(at);
        self.end = self.network_offset.wrapping_add(packet_len);
        if self.fragment.is_some_and(|fragment| fragment.offset != 0) {
            self.transport = Transport::Fragment;
            return;
        }
        let available = packet_len.saturating_sub(at);
        let bytes = bytes.get(at..).unwrap_or(&[]);
        // Padding behind the packet is no part of any header.
        let bytes = bytes.get(..available).unwrap_or(bytes);
        let read = match (number, over_ipv6) {
            (protocol::TCP, _) => Tcp::parse(bytes, available).map(Transport::Tcp),
            (protocol::UDP, _) => Udp::parse(bytes, available).map(Transport::Udp),
            (protocol::ICMP, false) => Icmp::parse(bytes, available).map(Transport::Icmp),
            (protocol::ICMPV6, true) => Icmp::parse(bytes, available).map(Transport::Icmpv6),
            _ => Ok(Transport::Unknown(number)),
        };
        self.transport = read.unwrap_or_else(Transport::Unseen);
    }

    /// Layer 4, from its header on: what the snapshot shows of it, and its length in the packet.
    pub fn layer_4(&self, frame: &Frame<'a>) -> (&'a [u8], usize) {
        let bytes = frame.bytes();
        let bytes = bytes.get(..self.end).unwrap_or(bytes);
        let shown = bytes.get(self.transport_offset..).unwrap_or(&[]);
        (shown, self.end.saturating_sub(self.transport_offset))
    }

    /// What a UDP header says that it carries: what the snapshot shows of it, and its length. Nothing without one, or
    /// where its length is a lie.
    pub fn datagram(&self, frame: &Frame<'a>) -> (&'a [u8], usize) {
        let Transport::Udp(header) = self.transport else {
            return (&[], 0);
        };
        let (shown, len) = self.layer_4(frame);
        if !header.is_length_true(len) {
            return (&[], 0);
        }
        let claimed = usize::from(header.length());
        let shown = shown.get(..claimed).unwrap_or(shown);
        (
            shown.get(udp::HEADER..).unwrap_or(&[]),
            claimed.saturating_sub(udp::HEADER),
        )
    }

    /// Whether a longer snapshot would show more.
    pub fn runs_on(&self) -> bool {
        matches!(self.network, Network::Unseen(Unseen::BeyondSnapshot))
            || matches!(self.transport, Transport::Unseen(Unseen::BeyondSnapshot))
    }
}

impl Frame<'_> {
    /// A hash of the flow that the frame belongs to, keyed by `seed`: the frames of one direction of a flow
    /// have one hash. It reads IP addresses and ports; fragments of one packet hash alike, so no ports are taken
    /// of any fragment; what is not IP hashes by its MAC addresses.
    pub fn flow_hash(&self, seed: u64) -> u32 {
        let layers = self.layers();
        let addresses = match layers.network {
            Network::Ipv4(ip) => mix(
                u64::from(ip.src().to_bits()) << 32 | u64::from(ip.dst().to_bits()),
                seed,
            ),
            Network::Ipv6(ip) => {
                let [src, dst] = [ip.src().to_bits(), ip.dst().to_bits()];
                let mut hash = seed;
                for part in [high(src), low(src), high(dst), low(dst)] {
                    hash = mix(part, hash);
                }
                hash
            }
            _ => mix(self.src().bits(), mix(self.dst().bits(), seed)),
        };
        let ports = match layers.transport {
            _ if layers.fragment.is_some() => None,
            Transport::Tcp(tcp) => Some((tcp.src_port(), tcp.dst_port(), protocol::TCP)),
            Transport::Udp(udp) => Some((udp.src_port(), udp.dst_port(), protocol::UDP)),
            _ => None,
        };
        let hash = match ports {
            Some((src, dst, number)) => mix(
                u64::from(src) << 32 | u64::from(dst) << 16 | u64::from(number),
                addresses,
            ),
            None => mix(0, addresses),
        };
        low32(hash)
    }
}

fn high(address: u128) -> u64 {
    low(address >> 64)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the lower half is what is asked for"
)]
fn low(address: u128) -> u64 {
    address as u64
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the lower half is what is asked for"
)]
fn low32(hash: u64) -> u32 {
    (hash ^ hash >> 32) as u32
}

/// Folds the 128-bit product of two words that depend on the key: cheap, and not to be steered without it.
fn mix(word: u64, key: u64) -> u64 {
    let product = u128::from(word ^ key ^ 0x9e37_79b9_7f4a_7c15)
        .wrapping_mul(u128::from(key | 1).wrapping_add(0x2545_f491_4f6c_dd1d));
    high(product) ^ low(product)
}
