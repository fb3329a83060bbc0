//! Frames by lot, each with what is known of it beforehand: whether both sides must agree on it.

use super::dice::Dice;
use super::world::{
    ETHERTYPES, HOSTS, KINDS, NATIVE, NETS, NUMBERS, PLACES, STATIONS, TAGS, ipv4, ipv6, mac,
};

/// What we see otherwise than the bridge and nftables do, and mean to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Oddity {
    NativeTag,
    NoVlan,
    ServiceTag,
    SecondTag,
    ReservedGroup,
    BrokenIp,
    Layer4CutShort,
    TcpOffset,
    ExtensionOrder,
    LaterFragmentOfHeaders,
    RareExtension,
    AuthenticationHeader,
}

/// How what we deliver stands to what the bridge delivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relation {
    /// We deliver nothing that it does not.
    Stricter,
    /// Either may deliver what the other does not.
    Other,
}

impl Relation {
    /// Whether what each port received with us stands to what it received on the bridge otherwise than so.
    pub(crate) fn is_broken(self, ours: &[Option<Vec<u8>>], theirs: &[Option<Vec<u8>>]) -> bool {
        let mut both = ours.iter().zip(theirs);
        self == Self::Stricter && both.any(|(ours, theirs)| ours.is_some() && ours != theirs)
    }
}

/// Every intended difference, and why it is one.
pub(crate) const INTENDED: [(Oddity, Relation, &str); 12] = [
    (
        Oddity::NativeTag,
        Relation::Other,
        "a tag of the port's native VLAN is that VLAN: it leaves without its tag, where a bridge that filters no VLANs leaves it on",
    ),
    (
        Oddity::NoVlan,
        Relation::Stricter,
        "the tags of VLAN 0 and 4095 are payload to a bridge; we refuse them, since what is behind them passes other filters \
         unseen (VU#855201)",
    ),
    (
        Oddity::ServiceTag,
        Relation::Stricter,
        "to a bridge of 802.1Q a tag of 802.1ad is payload; we refuse every tag but 0x8100",
    ),
    (
        Oddity::SecondTag,
        Relation::Stricter,
        "the bridge carries a tag behind a tag as payload; whoever strips the outer one meets a VLAN that no rule saw",
    ),
    (
        Oddity::ReservedGroup,
        Relation::Stricter,
        "without spanning tree the bridge forwards BPDUs, and MVRP and CDP always; we forward no reserved group",
    ),
    (
        Oddity::BrokenIp,
        Relation::Stricter,
        "of a header that contradicts the frame nftables reads addresses and no protocol, so that denying rules about \
         protocols miss it; with us they meet it, and allowing ones do not",
    ),
    (
        Oddity::Layer4CutShort,
        Relation::Stricter,
        "nftables reads ports behind the packet's end, or of half a header; with us that is unknown: never allowed, and denied \
         by any rule that might mean it",
    ),
    (
        Oddity::TcpOffset,
        Relation::Stricter,
        "nftables reads a TCP header whose length contradicts the packet; with us it is unknown",
    ),
    (
        Oddity::ExtensionOrder,
        Relation::Stricter,
        "hop-by-hop options that are not the first, a second fragment header, more than eight headers, one that ends behind the \
         packet: nftables walks on, or matches no rule about protocols; with us they are unknown",
    ),
    (
        Oddity::LaterFragmentOfHeaders,
        Relation::Stricter,
        "a later fragment whose headers go on in the first: its protocol is unknown to both, which with us a denying rule meets",
    ),
    (
        Oddity::RareExtension,
        Relation::Other,
        "nftables takes mobility, HIP and shim6 headers for protocols; we walk them (RFC 6564) and judge what is behind them",
    ),
    (
        Oddity::AuthenticationHeader,
        Relation::Other,
        "over IPv6 nftables takes AH for the protocol; we judge what it authenticates, which is readable",
    ),
];

/// A frame that a station sends.
pub(crate) struct Sent {
    pub(crate) port: usize,
    pub(crate) bytes: Vec<u8>,
    pub(crate) oddity: Option<Oddity>,
}

impl Sent {
    /// Its last four bytes are `number`, by which it is known again: within the packet, or behind it as padding.
    pub(crate) fn new(dice: &mut Dice, number: u32) -> Self {
        let port = dice.below(PLACES.len());
        let mut writer = Writer {
            dice,
            oddity: None,
            number,
        };
        let mut bytes = writer.addresses(port);
        writer.tags(&mut bytes);
        // One oddity a frame: more would hide each other.
        let is_plain = writer.oddity.is_some();
        match writer.dice.below(12) {
            0..=4 => writer.ipv4(&mut bytes, is_plain),
            5..=9 => writer.ipv6(&mut bytes, is_plain),
            10 => writer.address_resolution(&mut bytes),
            _ => writer.other(&mut bytes),
        }
        if bytes.last_chunk::<4>() != Some(&number.to_be_bytes()) {
            bytes.extend(number.to_be_bytes());
        }
        Self {
            port,
            bytes,
            oddity: writer.oddity,
        }
    }
}

struct Writer<'a> {
    dice: &'a mut Dice,
    oddity: Option<Oddity>,
    number: u32,
}

impl Writer<'_> {
    /// From a station of the port, to any.
    fn addresses(&mut self, port: usize) -> Vec<u8> {
        let station = self.dice.below(STATIONS);
        let to = match self.dice.below(40) {
            0..=4 => [0xff; 6],
            5..=6 => [0x33, 0x33, 0, 0, 0, 1],
            7 => [1, 0, 0x5e, 0, 0, 5],
            8..=9 => mac(99, 1),
            10 => {
                self.oddity = Some(Oddity::ReservedGroup);
                self.dice.one(&[
                    [0x01, 0x80, 0xc2, 0, 0, 0],
                    [0x01, 0x80, 0xc2, 0, 0, 0x0e],
                    [0x01, 0x80, 0xc2, 0, 0, 0x21],
                    [0x01, 0x00, 0x0c, 0xcc, 0xcc, 0xcc],
                ])
            }
            _ => mac(self.dice.below(PLACES.len()), self.dice.below(STATIONS)),
        };
        let mut from = mac(port, station);
        if self.dice.once_in(50) {
            // A group is no sender: both sides refuse it.
            from[0] |= 1;
        }
        [to, from].concat()
    }

    fn tags(&mut self, bytes: &mut Vec<u8>) {
        let mut tag = if self.dice.once_in(2) {
            None
        } else {
            self.dice.one(&TAGS)
        };
        if self.oddity.is_none() && self.dice.once_in(20) {
            if self.dice.once_in(2) {
                let (outer, inner) = self.dice.one(&[
                    (0x88a8u16, 0x8100u16),
                    (0x88a8, 0x88b5),
                    (0x8100, 0x8100),
                    (0x8100, 0x88a8),
                    (0x9100, 0x8100),
                ]);
                self.oddity = Some(match outer {
                    0x8100 => Oddity::SecondTag,
                    _ => Oddity::ServiceTag,
                });
                bytes.extend(outer.to_be_bytes());
                bytes.extend(self.dice.one(&[10u16, 20]).to_be_bytes());
                bytes.extend(inner.to_be_bytes());
                bytes.extend(20u16.to_be_bytes());
                return;
            }
            let vid = self.dice.one(&[0, 0x0fff, NATIVE]);
            self.oddity = Some(match vid {
                NATIVE => Oddity::NativeTag,
                _ => Oddity::NoVlan,
            });
            tag = Some(vid);
        }
        if let Some(vid) = tag {
            let priority = self.dice.one(&[0u16, 0, 0x6000, 0xe000]);
            bytes.extend(0x8100u16.to_be_bytes());
            bytes.extend((priority | vid).to_be_bytes());
        }
    }

    fn address_resolution(&mut self, bytes: &mut Vec<u8>) {
        bytes.extend(self.dice.one(&[0x0806u16, 0x8035]).to_be_bytes());
        bytes.extend([0, 1, 8, 0, 6, 4, 0, self.dice.one(&[1, 2])]);
        bytes.extend([self.dice.byte(); 20]);
    }

    fn other(&mut self, bytes: &mut Vec<u8>) {
        if self.dice.once_in(3) {
            let len = self.dice.one(&[4u16, 46, 100]);
            bytes.extend(len.to_be_bytes());
            bytes.extend(self.dice.one(&[
                [0x42, 0x42, 3],
                [0xe0, 0xe0, 3],
                [0xff, 0xff, 0],
                [0xaa, 0xaa, 3],
            ]));
            bytes.extend(vec![0; usize::from(len) - 3]);
        } else {
            bytes.extend(self.dice.one(&ETHERTYPES).to_be_bytes());
            bytes.extend([self.dice.byte(); 46]);
        }
    }

    fn ipv4(&mut self, bytes: &mut Vec<u8>, is_plain: bool) {
        let protocol = self.protocol(1);
        let words = if self.dice.once_in(6) {
            self.dice.below(11)
        } else {
            0
        };
        let fragment = self.fragment();
        let payload = self.payload(protocol, is_plain, fragment & 0x1fff != 0);
        let len = 20 + words * 4 + payload.len();
        let (mut first, mut total) = (0x45 + words as u8, len as u16);
        if !is_plain && self.oddity.is_none() && self.dice.once_in(25) {
            self.oddity = Some(Oddity::BrokenIp);
            match self.dice.below(4) {
                0 => first = 0x44,
                1 => first = 0x65,
                2 => total = total.wrapping_add(40),
                _ => total = 19,
            }
        }
        bytes.extend([8, 0, first, 0]);
        bytes.extend(total.to_be_bytes());
        bytes.extend([0, 7]);
        bytes.extend(fragment.to_be_bytes());
        bytes.extend([64, protocol, 0, 0]);
        for _ in 0..2 {
            bytes.extend(ipv4(self.dice.below(NETS), self.dice.one(&HOSTS)).octets());
        }
        bytes.extend(vec![1; words * 4]);
        bytes.extend(payload);
    }

    /// Offset and "more fragments", mostly neither.
    fn fragment(&mut self) -> u16 {
        if self.dice.once_in(6) {
            self.dice.one(&[0x2000, 0x0001, 0x2001, 0x00b9, 0x4000])
        } else {
            0
        }
    }

    fn ipv6(&mut self, bytes: &mut Vec<u8>, is_plain: bool) {
        let protocol = self.protocol(58);
        let (first, chain, is_later) = self.extensions(protocol, is_plain);
        let payload = self.payload(protocol, is_plain, is_later);
        let (mut version, mut len) = (0x60, (chain.len() + payload.len()) as u16);
        if !is_plain && self.oddity.is_none() && self.dice.once_in(25) {
            self.oddity = Some(Oddity::BrokenIp);
            if self.dice.once_in(2) {
                version = 0x40;
            } else {
                len = len.wrapping_add(40);
            }
        }
        bytes.extend([0x86, 0xdd, version, 0, 0, 0]);
        bytes.extend(len.to_be_bytes());
        bytes.extend([first, self.dice.one(&[64, 255])]);
        for _ in 0..2 {
            bytes.extend(ipv6(self.dice.below(NETS), self.dice.one(&HOSTS)).octets());
        }
        bytes.extend(chain);
        bytes.extend(payload);
    }

    /// The first next header, the extension headers, and whether they make it a later fragment.
    fn extensions(&mut self, last: u8, is_plain: bool) -> (u8, Vec<u8>, bool) {
        let mut kinds: Vec<u8> = Vec::new();
        if self.dice.once_in(2) {
            // Hop-by-hop first, a fragment header at most once.
            for kind in [0, 60, 43, 44, 60] {
                if self.dice.once_in(3) {
                    kinds.push(kind);
                }
            }
        }
        let is_odd = !is_plain && self.oddity.is_none();
        let mut is_cut = false;
        if is_odd && self.dice.once_in(12) {
            self.oddity = Some(Oddity::ExtensionOrder);
            match self.dice.below(4) {
                0 => kinds.extend([60, 0]),
                1 => kinds.extend([44, 44]),
                2 => kinds = vec![60; 9],
                _ => {
                    kinds.push(60);
                    is_cut = true;
                }
            }
        } else if is_odd && self.dice.once_in(12) {
            self.oddity = Some(Oddity::RareExtension);
            kinds.push(self.dice.one(&[135, 139, 140]));
        } else if is_odd && self.dice.once_in(12) {
            self.oddity = Some(Oddity::AuthenticationHeader);
            kinds.push(51);
        }
        let first = kinds.first().copied().unwrap_or(last);
        let nexts = kinds.iter().skip(1).copied().chain([last]);
        let mut chain = Vec::new();
        let mut is_later = false;
        for (kind, next) in kinds.iter().zip(nexts) {
            let units = self.dice.one(&[0u8, 0, 1, 2]);
            let len = match kind {
                44 => 8,
                // In words of four bytes, and a whole number of eight.
                51 => (usize::from(units) * 2 + 4) * 4,
                _ => (usize::from(units) + 1) * 8,
            };
            let mut header = vec![0; len];
            header[0] = next;
            match kind {
                44 => {
                    let place = self.dice.one(&[0u16, 1, 8, 9, 0x05b9]);
                    is_later |= place & 0xfff8 != 0;
                    if is_later && matches!(next, 43 | 44 | 60) && self.oddity.is_none() {
                        self.oddity = Some(Oddity::LaterFragmentOfHeaders);
                    }
                    header[2..4].copy_from_slice(&place.to_be_bytes());
                }
                51 => header[1] = units * 2 + 2,
                _ => header[1] = units,
            }
            chain.extend(header);
        }
        if is_cut && let Some(at) = chain.len().checked_sub(8) {
            // The last header, whichever eight bytes that is, claims two thousand.
            chain.truncate(at);
            chain.extend([last, 255, 0, 0, 0, 0, 0, 0]);
        }
        (first, chain, is_later)
    }

    fn protocol(&mut self, icmp: u8) -> u8 {
        match self.dice.below(12) {
            0..=3 => 6,
            4..=7 => 17,
            8..=9 => icmp,
            // The other family's ICMP, and "nothing follows", are protocols like any other; so is AH over IPv4.
            _ => {
                let security = if icmp == 1 { 51 } else { 50 };
                self.dice
                    .one(&[2, 47, 132, 50, security, 59, 1, 58, 136, 200])
            }
        }
    }

    /// A header of layer 4 and some bytes. Behind a later fragment's header they are no header, whatever they look like.
    fn payload(&mut self, protocol: u8, is_plain: bool, is_later: bool) -> Vec<u8> {
        let mut payload = Vec::new();
        let mut header_len = 0;
        match protocol {
            6 => {
                payload.extend(self.dice.one(&NUMBERS).to_be_bytes());
                payload.extend(self.dice.one(&NUMBERS).to_be_bytes());
                payload.extend([0; 8]);
                payload.extend([
                    0x50,
                    self.dice.one(&[0x02, 0x10, 0x12, 0x18, 0x04, 0xff]),
                    0,
                    0,
                ]);
                payload.extend([0; 4]);
                header_len = 20;
            }
            17 => {
                payload.extend(self.dice.one(&NUMBERS).to_be_bytes());
                payload.extend(self.dice.one(&NUMBERS).to_be_bytes());
                payload.extend([0, 0, 0, 0]);
                header_len = 8;
            }
            1 | 58 => {
                payload.extend([
                    self.dice.one(&KINDS),
                    self.dice.one(&[0, 1, 4]),
                    0,
                    0,
                    0,
                    0,
                    0,
                    0,
                ]);
                header_len = 8;
            }
            _ => payload.extend([self.dice.byte(); 12]),
        }
        if header_len > 0
            && !is_plain
            && !is_later
            && self.oddity.is_none()
            && self.dice.once_in(12)
        {
            if protocol == 6 && self.dice.once_in(2) {
                self.oddity = Some(Oddity::TcpOffset);
                payload[12] = self.dice.one(&[0x40, 0xf0]);
            } else {
                self.oddity = Some(Oddity::Layer4CutShort);
                payload.truncate(self.dice.below(header_len));
                return payload;
            }
        } else if self.dice.once_in(2) {
            let more = self.dice.below(200);
            payload.extend(vec![0x5a; more]);
        }
        if self.dice.once_in(2) {
            payload.extend(self.number.to_be_bytes());
        }
        if protocol == 17 {
            let len = payload.len() as u16;
            payload[4..6].copy_from_slice(&len.to_be_bytes());
        }
        payload
    }
}
