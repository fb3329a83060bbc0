//! Packets with everything right in them, so that both sides read them alike.

use std::net::{Ipv4Addr, Ipv6Addr};

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;

pub(super) const FIN: u8 = 1;
pub(super) const SYN: u8 = 2;
pub(super) const RST: u8 = 4;
pub(super) const ACK: u8 = 16;
pub(super) const URG: u8 = 32;

/// The networks that rules name, by their numbers.
pub(super) const NETS: usize = 4;

/// Of a network, the address of one end of a conversation: nobody else has it.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Address {
    pub(super) net: usize,
    pub(super) host: u16,
}

impl Address {
    fn octets(self, v6: bool) -> Vec<u8> {
        let (net, [high, low]) = (self.net as u8, self.host.to_be_bytes());
        if v6 {
            Ipv6Addr::new(0xfd00, net.into(), 0, 0, 0, 0, 1, self.host)
                .octets()
                .to_vec()
        } else {
            Ipv4Addr::new(10, net, high, low).octets().to_vec()
        }
    }
}

/// The prefix of a network.
pub(super) fn prefix(net: usize, v6: bool) -> String {
    if v6 {
        format!("fd00:{net:x}::/32")
    } else {
        format!("10.{net}.0.0/16")
    }
}

pub(super) fn icmp_of(v6: bool) -> u8 {
    if v6 { 58 } else { 1 }
}

/// A packet, but for its number.
#[derive(Clone)]
pub(super) struct Packet {
    pub(super) v6: bool,
    pub(super) ends: [Address; 2],
    pub(super) protocol: u8,
    /// Layer 4, without a checksum yet.
    pub(super) load: Vec<u8>,
}

impl Packet {
    #[expect(clippy::too_many_arguments, reason = "what a segment says")]
    pub(super) fn tcp(
        v6: bool,
        ends: [Address; 2],
        ports: [u16; 2],
        [seq, ack]: [u32; 2],
        flags: u8,
        window: u16,
        options: &[u8],
        len: usize,
    ) -> Self {
        let mut load = [ports[0].to_be_bytes(), ports[1].to_be_bytes()].concat();
        load.extend(seq.to_be_bytes());
        load.extend(ack.to_be_bytes());
        let words = 5 + (options.len() / 4) as u8;
        load.extend([words << 4, flags]);
        load.extend(window.to_be_bytes());
        load.extend([0; 4]);
        load.extend(options);
        load.resize(load.len() + len, 0x5a);
        Self {
            v6,
            ends,
            protocol: TCP,
            load,
        }
    }

    pub(super) fn udp(v6: bool, ends: [Address; 2], ports: [u16; 2], len: usize) -> Self {
        let mut load = [ports[0].to_be_bytes(), ports[1].to_be_bytes()].concat();
        load.extend((8 + len as u16).to_be_bytes());
        load.resize(8 + len, 0);
        Self {
            v6,
            ends,
            protocol: UDP,
            load,
        }
    }

    /// An ICMP message, with what is behind its checksum.
    pub(super) fn icmp(v6: bool, ends: [Address; 2], kind: u8, code: u8, rest: &[u8]) -> Self {
        Self {
            v6,
            ends,
            protocol: icmp_of(v6),
            load: [&[kind, code, 0, 0], rest].concat(),
        }
    }

    pub(super) fn other(v6: bool, ends: [Address; 2], protocol: u8) -> Self {
        Self {
            v6,
            ends,
            protocol,
            load: vec![7; 40],
        }
    }

    /// The packet from its IP header on; its number is where no rule looks: the identification, the flow label.
    pub(super) fn bytes(&self, number: u16) -> Vec<u8> {
        let [src, dst] = self.ends.map(|end| end.octets(self.v6));
        let mut load = self.load.clone();
        let pseudo = [src.as_slice(), &dst, &[0, self.protocol]].concat();
        let at = match self.protocol {
            TCP => Some(16),
            UDP => Some(6),
            1 | 58 => Some(2),
            _ => None,
        };
        if let Some(at) = at {
            let len = load.len() as u32;
            let mut over = sum(&load);
            if self.protocol != 1 {
                over += sum(&pseudo) + len;
            }
            load[at..at + 2].copy_from_slice(&folded(over));
        }
        let mut bytes = Vec::new();
        if self.v6 {
            let [high, low] = number.to_be_bytes();
            bytes.extend([0x60, 0, high, low]);
            bytes.extend((load.len() as u16).to_be_bytes());
            bytes.extend([self.protocol, 64]);
            bytes.extend([src, dst].concat());
        } else {
            bytes.extend([0x45, 0]);
            bytes.extend((20 + load.len() as u16).to_be_bytes());
            bytes.extend(number.to_be_bytes());
            bytes.extend([0x40, 0, 64, self.protocol, 0, 0]);
            bytes.extend([src, dst].concat());
            let header = folded(sum(&bytes));
            bytes[10..12].copy_from_slice(&header);
        }
        bytes.extend(load);
        bytes
    }
}

fn sum(bytes: &[u8]) -> u32 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    bytes.chunks(2).map(word).sum()
}

fn folded(mut sum: u32) -> [u8; 2] {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!sum as u16).to_be_bytes()
}

/// Where the packet begins, its EtherType before it: behind at most one tag.
pub(super) fn packet_of(frame: &[u8]) -> (u16, &[u8]) {
    let at = if frame[12..14] == [0x81, 0] { 16 } else { 12 };
    let kind = u16::from_be_bytes([frame[at], frame[at + 1]]);
    (kind, &frame[at + 2..])
}

/// The number of a frame that was sent; 0 of one that was not.
pub(super) fn number(frame: &[u8]) -> u16 {
    let (kind, packet) = packet_of(frame);
    let at = match kind {
        0x0800 => 4,
        0x86dd => 2,
        _ => 0,
    };
    u16::from_be_bytes([packet[at], packet[at + 1]])
}
