//! Packets, byte by byte.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::frame::Mac;

pub(super) const OWN: Mac = Mac::new([0x52, 0x54, 0, 0x12, 0x34, 5]);
pub(super) const OTHER: Mac = Mac::new([0x52, 0x54, 0, 0x12, 0x34, 6]);
pub(super) const GATEWAY: Mac = Mac::new([0x52, 0x54, 0, 0x12, 0x34, 1]);
pub(super) const ALL_NODES: Mac = Mac::new([0x33, 0x33, 0, 0, 0, 1]);

pub(super) const OWN4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);
pub(super) const OTHER4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 6);
pub(super) const GATEWAY4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub(super) const ZERO4: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

pub(super) const OWN6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 5);
pub(super) const OTHER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 6);
pub(super) const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
pub(super) const ZERO6: Ipv6Addr = Ipv6Addr::UNSPECIFIED;
/// Of [`OWN`]: the second bit of the first octet turned, ff:fe in the middle.
pub(super) const OWN_LINK: Ipv6Addr =
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0x5054, 0x00ff, 0xfe12, 0x3405);
pub(super) const OTHER_LINK: Ipv6Addr =
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0x5054, 0x00ff, 0xfe12, 0x3406);
pub(super) const ALL_NODES6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

pub(super) fn ethernet(dst: Mac, src: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [
        &dst.octets()[..],
        &src.octets(),
        &ethertype.to_be_bytes(),
        payload,
    ]
    .concat();
    frame.resize(frame.len().max(60), 0);
    frame
}

pub(super) fn arp(
    operation: u16,
    sender_mac: Mac,
    sender: Ipv4Addr,
    target_mac: Mac,
    target: Ipv4Addr,
) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4];
    packet.extend(operation.to_be_bytes());
    packet.extend(sender_mac.octets());
    packet.extend(sender.octets());
    packet.extend(target_mac.octets());
    packet.extend(target.octets());
    packet
}

/// With `options` of a multiple of four bytes, and the word of flags and offset.
pub(super) fn ipv4_with(
    src: Ipv4Addr,
    dst: Ipv4Addr,
    protocol: u8,
    options: &[u8],
    fragment: u16,
    payload: &[u8],
) -> Vec<u8> {
    let header = 20 + options.len();
    let mut packet = vec![0x40 | (header / 4) as u8, 0];
    packet.extend(((header + payload.len()) as u16).to_be_bytes());
    packet.extend([0x12, 0x34]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(src.octets());
    packet.extend(dst.octets());
    packet.extend(options);
    packet.extend(payload);
    packet
}

pub(super) fn ipv4(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    ipv4_with(src, dst, protocol, &[], 0, payload)
}

pub(super) fn ipv6(src: Ipv6Addr, dst: Ipv6Addr, next: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, hops]);
    packet.extend(src.octets());
    packet.extend(dst.octets());
    packet.extend(payload);
    packet
}

pub(super) fn udp(src: u16, dst: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    packet.extend(src.to_be_bytes());
    packet.extend(dst.to_be_bytes());
    packet.extend((8 + payload.len() as u16).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}

pub(super) fn udp4(src: Ipv4Addr, dst: Ipv4Addr, from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    ipv4(src, dst, 17, &udp(from, to, payload))
}

pub(super) fn udp6(src: Ipv6Addr, dst: Ipv6Addr, from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    ipv6(src, dst, 17, 64, &udp(from, to, payload))
}

/// An extension header of 8 bytes: padding options, or whatever `kind` makes of them.
pub(super) fn extension(next: u8) -> [u8; 8] {
    [next, 0, 1, 4, 0, 0, 0, 0]
}

/// `payload` of the type `next` behind `count` extension headers; the type of the first.
pub(super) fn behind(count: usize, kind: u8, next: u8, payload: &[u8]) -> (u8, Vec<u8>) {
    let mut bytes = Vec::new();
    for left in (0..count).rev() {
        bytes.extend(extension(if left == 0 { next } else { kind }));
    }
    bytes.extend(payload);
    (if count == 0 { next } else { kind }, bytes)
}

pub(super) fn fragment(next: u8, offset: u16, more: bool) -> [u8; 8] {
    let [high, low] = (offset | u16::from(more)).to_be_bytes();
    [next, 0, high, low, 0, 0, 0, 7]
}

pub(super) fn icmpv6(kind: u8, rest: &[u8]) -> Vec<u8> {
    [&[kind, 0, 0, 0][..], rest].concat()
}

/// A link-layer address option.
pub(super) fn option(kind: u8, mac: Mac) -> Vec<u8> {
    [&[kind, 1][..], &mac.octets()].concat()
}

/// A neighbour solicitation or advertisement, alone.
pub(super) fn neighbour(kind: u8, target: Ipv6Addr, options: &[u8]) -> Vec<u8> {
    icmpv6(kind, &[&[0; 4][..], &target.octets(), options].concat())
}

pub(super) fn solicited(target: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = target.octets();
    Ipv6Addr::new(
        0xff02,
        0,
        0,
        0,
        0,
        1,
        0xff00 | u16::from(a),
        u16::from_be_bytes([b, c]),
    )
}

pub(super) fn solicitation(src: Ipv6Addr, target: Ipv6Addr, options: &[u8]) -> Vec<u8> {
    ipv6(
        src,
        solicited(target),
        58,
        255,
        &neighbour(135, target, options),
    )
}

pub(super) fn answer(src: Ipv6Addr, target: Ipv6Addr, options: &[u8]) -> Vec<u8> {
    ipv6(src, ALL_NODES6, 58, 255, &neighbour(136, target, options))
}

/// A router advertisement without its IPv6 header.
pub(super) fn advertising(mac: Mac) -> Vec<u8> {
    icmpv6(
        134,
        &[&[64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0][..], &option(1, mac)].concat(),
    )
}

/// A router advertisement from the link-local address of [`OWN`].
pub(super) fn advertisement(hops: u8, mac: Mac) -> Vec<u8> {
    ipv6(OWN_LINK, ALL_NODES6, 58, hops, &advertising(mac))
}

/// What a DHCP message has besides its options.
#[derive(Clone, Copy)]
pub(super) struct Message {
    pub(super) operation: u8,
    pub(super) hardware: [u8; 2],
    pub(super) ciaddr: Ipv4Addr,
    pub(super) yiaddr: Ipv4Addr,
    pub(super) giaddr: Ipv4Addr,
    pub(super) chaddr: Mac,
}

pub(super) const ASK: Message = Message {
    operation: 1,
    hardware: [1, 6],
    ciaddr: ZERO4,
    yiaddr: ZERO4,
    giaddr: ZERO4,
    chaddr: OWN,
};

impl Message {
    pub(super) fn with(self, options: &[&[u8]]) -> Vec<u8> {
        let mut packet = vec![self.operation, self.hardware[0], self.hardware[1], 0];
        packet.extend([1, 2, 3, 4, 0, 0, 0, 0]);
        for address in [self.ciaddr, self.yiaddr, ZERO4, self.giaddr] {
            packet.extend(address.octets());
        }
        packet.extend(self.chaddr.octets());
        packet.resize(236, 0);
        packet.extend([99, 130, 83, 99]);
        packet.extend(options.concat());
        packet.push(255);
        packet
    }
}

/// From a client that has no address yet.
pub(super) fn dhcp_client(payload: &[u8]) -> Vec<u8> {
    udp4(ZERO4, Ipv4Addr::BROADCAST, 68, 67, payload)
}
