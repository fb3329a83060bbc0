//! Rules and frames by lot, for property tests and fuzzing: out of small pools, so that they meet.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::counters::{PortId, PortSet};
use crate::frame::Mac;

use super::rule::{Action, Flags, Kind, Rule, Who};
use super::subject::{Family, State};

/// Ports of the switch that frames come from and go to.
pub const PORTS: u16 = 12;

/// Where the lot comes from: given bytes, and when they are used up, a generator that a seed starts.
#[derive(Clone, Debug)]
pub struct Dice<'a> {
    bytes: &'a [u8],
    state: u64,
}

impl<'a> Dice<'a> {
    /// Bytes, then zeros.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, state: 0 }
    }

    /// Numbers that the seed determines.
    pub fn seeded(seed: u64) -> Dice<'static> {
        Dice {
            bytes: &[],
            state: seed | 1,
        }
    }

    /// Any byte.
    pub fn byte(&mut self) -> u8 {
        if let Some((byte, rest)) = self.bytes.split_first() {
            self.bytes = rest;
            return *byte;
        }
        // Vigna, xorshift64*; it stays at zero.
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        (self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 56) as u8
    }

    /// Any 16 bits.
    pub fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// True once in `n` times; false when only zeros are left.
    pub fn once_in(&mut self, n: u8) -> bool {
        self.byte() % n == n - 1
    }

    /// One of these.
    pub fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::from(self.byte()) % of.len()]
    }

    /// Up to `most` of what is drawn, seldom more than two; none two times of three.
    fn some<T>(&mut self, most: u8, mut draw: impl FnMut(&mut Self) -> T) -> Vec<T> {
        if !self.once_in(3) {
            return Vec::new();
        }
        let count = if self.once_in(4) {
            1 + self.byte() % most
        } else {
            1
        };
        (0..count).map(|_| draw(self)).collect()
    }

    /// A port of the switch.
    pub fn port(&mut self) -> PortId {
        let index = u16::from(self.byte()) % PORTS;
        PortId::new(index).unwrap_or(PortId::new(0).expect("a port"))
    }

    /// Any state.
    pub fn state(&mut self) -> State {
        self.one(&[
            State::Untracked,
            State::New,
            State::Established,
            State::Related,
            State::Invalid,
        ])
    }

    /// A segment.
    pub fn vid(&mut self) -> u16 {
        self.one(&[1, 2, 10, 11, 100, 4094])
    }

    pub(super) fn mac(&mut self) -> Mac {
        Mac::from_bits(self.one(&[
            0x5254_0000_0001,
            0x5254_0000_0002,
            0x5254_0000_0101,
            0xffff_ffff_ffff,
        ]))
    }

    pub(super) fn ipv4(&mut self) -> Ipv4Addr {
        let net = self.one(&[[10, 0, 0], [10, 0, 1], [10, 1, 0], [192, 168, 7], [0, 0, 0]]);
        let [a, b, c] = net;
        Ipv4Addr::new(a, b, c, self.one(&[0, 1, 2, 3, 128, 255]))
    }

    pub(super) fn ipv6(&mut self) -> Ipv6Addr {
        let net: u16 = self.one(&[0xfd00, 0xfd01, 0xfe80, 0]);
        let subnet = self.one(&[0u16, 1, 0x100]);
        Ipv6Addr::new(net, 0, 0, subnet, 0, 0, 0, self.one(&[0, 1, 2, 0x8000]))
    }

    /// A port of TCP or UDP.
    pub(super) fn number(&mut self) -> u16 {
        self.one(&[
            0, 1, 22, 53, 67, 68, 80, 443, 546, 1023, 1024, 2048, 8000, 8080, 8081, 0x8000, 65535,
        ])
    }

    fn protocol(&mut self) -> u8 {
        self.one(&[
            6, 17, 1, 58, 6, 17, 0, 2, 43, 44, 47, 50, 51, 59, 60, 132, 200, 253,
        ])
    }

    fn ethertype(&mut self) -> u16 {
        self.one(&[
            0x0800, 0x86dd, 0x0806, 0x8035, 0x8847, 0x8864, 0x88b5, 0x8100, 0x88a8, 0, 0x40,
            0x05ff, 0x0600,
        ])
    }

    fn ports(&mut self) -> RangeInclusive<u16> {
        let first = self.number();
        match self.byte() % 4 {
            0..=1 => first..=first,
            2 => first..=first.saturating_add(self.number()),
            _ => first..=self.number(),
        }
    }

    fn who(&mut self) -> Who {
        match self.byte() % 8 {
            0..=1 => {
                let members = self.word();
                let ports = (0..PORTS).filter(|index| members >> index & 1 != 0);
                Who::Ports(ports.filter_map(PortId::new).collect::<PortSet>())
            }
            2 => Who::Mac(self.mac()),
            3..=5 => {
                let len = self.one(&[32, 24, 16, 8, 0, 31, 25, 9]);
                let net = Ipv4Net::new(self.ipv4(), len).expect("a length up to 32");
                Who::Prefix(IpNet::V4(net.trunc()))
            }
            _ => {
                let len = self.one(&[128, 64, 48, 16, 0, 127, 65, 56]);
                let net = Ipv6Net::new(self.ipv6(), len).expect("a length up to 128");
                // With bits behind the prefix, which say nothing.
                Who::Prefix(IpNet::V6(net))
            }
        }
    }

    /// Any rule.
    pub fn rule(&mut self) -> Rule {
        let action = self.one(&[Action::Allow, Action::Deny, Action::Allow, Action::Reject]);
        let kind = match self.byte() % 8 {
            0 => Kind::Any,
            1 => Kind::Llc,
            2 => Kind::EtherType(self.ethertype()),
            _ => Kind::Ip {
                family: self.one(&[None, None, Some(Family::V4), Some(Family::V6)]),
                protocol: self.once_in(2).then(|| self.protocol()),
            },
        };
        let mut rule = Rule {
            kind,
            fragments: self.once_in(3),
            from: self.some(4, Self::who),
            to: self.some(4, Self::who),
            vlan: self.some(3, |dice| {
                let first = dice.vid();
                first..=first.saturating_add(dice.one(&[0, 0, 1, 9, 5000]))
            }),
            states: self.some(5, Self::state),
            ..Rule::any(action)
        };
        match self.byte() % 8 {
            0..=2 => {}
            3..=5 => {
                rule.port = self.some(5, Self::ports);
                rule.source_port = self.some(2, Self::ports);
            }
            6 => {
                rule.icmp = self.some(3, |dice| {
                    (dice.kind(), dice.once_in(2).then(|| dice.code()))
                })
            }
            _ => {
                let mask = self.one(&[0x17, 0x02, 0xff, 0x12]);
                let value = self.one(&[0x02, 0x12, 0, 0xff]);
                rule.flags = Some(Flags { mask, value });
                if self.once_in(3) {
                    rule.port = self.some(2, Self::ports);
                }
                if self.once_in(8) {
                    rule.icmp = vec![(self.kind(), None)];
                }
            }
        }
        rule
    }

    /// A list of up to `most` rules.
    pub fn rules(&mut self, most: u8) -> Vec<Rule> {
        let count = self.byte() % most.saturating_add(1).max(1);
        (0..count).map(|_| self.rule()).collect()
    }

    /// A type of ICMP or ICMPv6.
    fn kind(&mut self) -> u8 {
        self.one(&[0, 3, 8, 11, 128, 129, 133, 134, 135, 136, 137, 255])
    }

    fn code(&mut self) -> u8 {
        self.one(&[0, 1, 4, 255])
    }

    /// A frame of some hundred bytes at most: nearly always with a sense, sometimes cut short or with one byte changed.
    pub fn frame(&mut self) -> Vec<u8> {
        let mut frame = Vec::new();
        for _ in 0..2 {
            frame.extend(self.mac().octets());
        }
        if self.once_in(4) {
            frame.extend(self.one(&[[0x81u8, 0], [0x88, 0xa8], [0x91, 0]]));
            frame.extend(self.vid().to_be_bytes());
        }
        match self.byte() % 8 {
            0..=2 => self.packet_v4(&mut frame),
            3..=5 => self.packet_v6(&mut frame),
            6 => {
                frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
                frame.extend([self.byte(); 20]);
            }
            _ => {
                frame.extend(self.ethertype().to_be_bytes());
                let len = self.byte();
                frame.extend((0..len % 64).map(|_| self.byte()));
            }
        }
        // Padding, or what looks like it.
        if self.once_in(4) {
            frame.extend([0; 18]);
        }
        if self.once_in(6) {
            let len = usize::from(self.byte()).max(18).min(frame.len());
            frame.truncate(len);
        }
        if self.once_in(6) {
            let at = 12 + usize::from(self.byte()) % (frame.len() - 12);
            frame[at] = self.byte();
        }
        frame
    }

    fn packet_v4(&mut self, frame: &mut Vec<u8>) {
        let options = if self.once_in(4) { self.byte() % 11 } else { 0 };
        let number = self.protocol();
        let fragment: u16 = if self.once_in(3) {
            self.one(&[0x2000, 0x0001, 0x2001, 0x00b9, 0x20b9, 0x4000, 0x8000])
        } else {
            0
        };
        let payload = self.payload(number);
        frame.extend([8, 0, 0x45 + options, 0]);
        let len = 20 + usize::from(options) * 4 + payload.len();
        frame.extend((len as u16).to_be_bytes());
        frame.extend([0, 7]);
        frame.extend(fragment.to_be_bytes());
        frame.extend([64, number, 0, 0]);
        frame.extend(self.ipv4().octets());
        frame.extend(self.ipv4().octets());
        frame.extend(vec![1; usize::from(options) * 4]);
        frame.extend(payload);
    }

    fn packet_v6(&mut self, frame: &mut Vec<u8>) {
        let mut chain = Vec::new();
        let headers = if self.once_in(2) { self.byte() % 11 } else { 0 };
        let mut kinds: Vec<u8> = (0..headers)
            .map(|n| {
                let kind = self.one(&[60, 43, 44, 51, 60, 135, 0]);
                if n == 0 && self.once_in(2) { 0 } else { kind }
            })
            .collect();
        let last = self.protocol();
        let first = kinds.first().copied().unwrap_or(last);
        kinds.push(last);
        for pair in kinds.windows(2) {
            let len = self.one(&[0u8, 0, 1, 2]);
            let size = match pair[0] {
                44 => 8,
                51 => (usize::from(len) + 2) * 4,
                _ => (usize::from(len) + 1) * 8,
            };
            let mut header = vec![0; size.max(8)];
            (header[0], header[1]) = (pair[1], len);
            if pair[0] == 44 {
                let place = self.one(&[0u16, 1, 8, 9, 0x05b9]);
                header[2..4].copy_from_slice(&place.to_be_bytes());
            }
            chain.extend(header);
        }
        let payload = self.payload(last);
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend(((chain.len() + payload.len()) as u16).to_be_bytes());
        frame.extend([first, 64]);
        frame.extend(self.ipv6().octets());
        frame.extend(self.ipv6().octets());
        frame.extend(chain);
        frame.extend(payload);
    }

    fn payload(&mut self, number: u8) -> Vec<u8> {
        let mut payload = Vec::new();
        match number {
            1 | 58 => payload.extend([self.kind(), self.code(), 0, 0, 0, 0, 0, 0]),
            _ => {
                payload.extend(self.number().to_be_bytes());
                payload.extend(self.number().to_be_bytes());
                payload.extend([0; 8]);
                let offset = if self.once_in(6) { self.byte() } else { 0x50 };
                payload.extend([
                    offset,
                    self.one(&[0x02, 0x10, 0x12, 0x18]),
                    0,
                    0,
                    0,
                    0,
                    0,
                    0,
                ]);
            }
        }
        let more = if self.once_in(2) { self.byte() } else { 0 };
        payload.extend(vec![0x5a; usize::from(more % 64)]);
        if self.once_in(8) {
            payload.truncate(usize::from(self.byte() % 24));
        }
        payload
    }
}
