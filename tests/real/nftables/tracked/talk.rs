//! Conversations by lot: what two stations say to each other, mostly as hosts do, and what they would not.
//!
//! Neither waits for what the other says to arrive: what a policy refuses is answered all the same, so that there are
//! answers without a question. Windows and numbers are drawn so that a segment lies well inside or far outside: at the edges the
//! two sides differ on purpose, which is an oddity of its own; where it leaves the connection in two minds, it is the
//! conversation's last.

use super::super::dice::Dice;
use super::super::world::{STATIONS, mac};
use super::Oddity;
use super::layout::Layout;
use super::packet::{ACK, Address, FIN, NETS, Packet, RST, SYN, TCP, UDP, URG, icmp_of, packet_of};
use super::rules::{OTHER, SERVICES};

/// A frame that a station sends.
pub(super) struct Sent {
    pub(super) port: usize,
    pub(super) bytes: Vec<u8>,
    pub(super) oddity: Option<Oddity>,
    /// For people.
    pub(super) what: String,
}

/// Outside of every window: the greatest is 2^23.
const FAR: u32 = 1 << 26;

/// One of the two.
struct End {
    port: usize,
    station: usize,
    tags: Vec<Option<u16>>,
}

/// What an end of a TCP connection has said.
#[derive(Clone, Default)]
struct Half {
    next: u32,
    window: u16,
    scale: Option<u8>,
    syn: bool,
    fin: bool,
    is_acked: bool,
}

/// Something that was said, to be said again, or to be quoted.
#[derive(Clone)]
struct Said {
    side: usize,
    packet: Packet,
    has_arrived: bool,
}

/// How far a TCP connection is that both have seen: what is said out of its turn means other things to them.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Stage {
    None,
    Asked,
    Answered,
    Complete,
}

/// What the last frame was.
#[derive(Clone, Copy, Default)]
struct Last {
    /// Of what was said, which.
    said: Option<usize>,
    /// Of TCP: who sent it, and its flags.
    segment: Option<(usize, u8)>,
    /// It begins another connection in the place of one.
    begins_anew: bool,
}

pub(super) struct Talk {
    v6: bool,
    protocol: u8,
    ends: [End; 2],
    addresses: [Address; 2],
    ports: [u16; 2],
    halves: [Half; 2],
    past: Vec<Said>,
    last: Last,
    stage: Stage,
    is_reset: bool,
    /// The policy has not changed yet.
    is_fresh: bool,
    /// Something has arrived since it changed last: what connection there is, is judged.
    is_live: bool,
    /// Nothing more is to be said that would mean the same to both.
    pub(super) is_over: bool,
    /// A third in the same VLAN, if there is one, and the same ends in another VLAN.
    third: Option<End>,
    elsewhere: Option<[End; 2]>,
}

impl Talk {
    /// Between two ports that share a VLAN; `n` is its own number.
    pub(super) fn new(dice: &mut Dice, layout: &Layout, n: u16) -> Option<Self> {
        let vlans: Vec<u16> = layout.vlans().collect();
        let vid = dice.one(&vlans);
        let mut members = layout.members(vid);
        if members.len() < 2 {
            return None;
        }
        let mut take = |dice: &mut Dice| members.swap_remove(dice.below(members.len()));
        let pair = [take(dice), take(dice)];
        let stations = [dice.below(STATIONS), dice.below(STATIONS)];
        let end = |port: usize, station: usize, vid: u16| End {
            port,
            station,
            tags: layout.tags(port, vid),
        };
        let ends = |vid: u16| [0, 1].map(|side: usize| end(pair[side], stations[side], vid));
        let third = (!members.is_empty()).then(|| end(dice.one(&members), 0, vid));
        let others = vlans.iter().copied().filter(|other| {
            let members = layout.members(*other);
            *other != vid && pair.iter().all(|port| members.contains(port))
        });
        let others: Vec<u16> = others.collect();
        let v6 = dice.once_in(2);
        let protocol = dice.one(&[TCP, TCP, TCP, TCP, UDP, UDP, icmp_of(v6), OTHER]);
        let half = |dice: &mut Dice| Half {
            next: dice.number() as u32,
            window: dice.one(&[8000, 20_000, 65_535]),
            scale: dice.one(&[None, Some(0), Some(2), Some(7)]),
            ..Half::default()
        };
        let talk = Self {
            v6,
            protocol,
            ends: ends(vid),
            addresses: [0, 1].map(|_| Address {
                net: dice.below(NETS),
                host: n,
            }),
            ports: [20_000 + n, dice.one(&SERVICES) + dice.one(&[0, 0, 25])],
            halves: [half(dice), half(dice)],
            past: Vec::new(),
            last: Last::default(),
            stage: Stage::None,
            is_reset: false,
            is_fresh: true,
            is_live: false,
            is_over: false,
            third,
            elsewhere: (!others.is_empty()).then(|| ends(dice.one(&others))),
        };
        Some(talk.apart())
    }

    /// Two ends of one network are two hosts.
    fn apart(mut self) -> Self {
        self.addresses[1].host |= 0x8000;
        self
    }

    /// The policy has changed.
    pub(super) fn forget(&mut self) {
        self.is_fresh = false;
        self.is_live = false;
        for said in &mut self.past {
            said.has_arrived = false;
        }
    }

    /// Whether the last frame has arrived, on the bridge.
    pub(super) fn heard(&mut self, has_arrived: bool) {
        let last = std::mem::take(&mut self.last);
        self.is_over |= last.begins_anew && !has_arrived;
        if !has_arrived {
            return;
        }
        if let Some(said) = last.said {
            // An echo reply without a request opens nothing, and is no part of what a request opens later.
            let is_stray = self.protocol == icmp_of(self.v6) && self.past[said].side == 1;
            if self.is_live || !is_stray {
                self.is_live = true;
                self.past[said].has_arrived = true;
            }
        }
        let Some(segment) = last.segment else { return };
        match (segment, self.stage) {
            ((0, SYN), stage) if stage == Stage::None || last.begins_anew || self.is_reset => {
                self.stage = Stage::Asked;
                self.is_reset = false;
            }
            ((1, flags), Stage::Asked) if flags == SYN | ACK => self.stage = Stage::Answered,
            ((0, flags), Stage::Answered) if flags & SYN == 0 => self.stage = Stage::Complete,
            ((_, flags), Stage::Complete) if flags & RST != 0 => self.is_reset = true,
            _ => {}
        }
    }

    /// The next frame, with that number.
    pub(super) fn next(&mut self, dice: &mut Dice, number: u16) -> Sent {
        if !self.past.is_empty() {
            match dice.below(24) {
                0..=2 => return self.repeated(dice, number),
                3..=4 if self.is_live || self.is_fresh => return self.error(dice, number),
                5 => {
                    if let Some(sent) = self.by_another(dice, number) {
                        return sent;
                    }
                }
                6..=9 if self.protocol == TCP => return self.odd_segment(dice, number),
                _ => {}
            }
        }
        let (side, packet, what) = match self.protocol {
            TCP => self.segment(dice),
            UDP => {
                // The other end begins now and then.
                let side = usize::from(dice.once_in(3));
                let len = dice.below(100);
                let packet = Packet::udp(self.v6, self.way(side), self.ports_of(side), len);
                (side, packet, "datagram".to_owned())
            }
            1 | 58 => self.echo(dice),
            _ => {
                let side = usize::from(dice.once_in(3));
                let packet = Packet::other(self.v6, self.way(side), self.protocol);
                (side, packet, "other".to_owned())
            }
        };
        self.past.push(Said {
            side,
            packet,
            has_arrived: false,
        });
        self.say(dice, self.past.len() - 1, number, what)
    }

    fn say(&mut self, dice: &mut Dice, at: usize, number: u16, what: String) -> Sent {
        let Said { side, packet, .. } = self.past[at].clone();
        self.last.said = Some(at);
        let mut oddity = None;
        if self.protocol == TCP {
            let flags = packet.load[13];
            self.last.segment = Some((side, flags));
            oddity = self.turn(side, flags);
            // Who knows what this begins.
            let is_closing = self.halves.iter().any(|half| half.fin);
            let is_unknown = self.stage != Stage::None && !self.is_live || is_closing;
            self.is_over |= flags & SYN != 0 && is_unknown && !self.last.begins_anew;
        }
        self.sent(dice, side, &packet, number, what, oddity)
    }

    /// What a segment of the handshake's time is, if it is no part of it. It is the last then.
    fn turn(&mut self, side: usize, flags: u8) -> Option<Oddity> {
        let is_due = match (self.stage, side) {
            (Stage::None | Stage::Complete, _) => true,
            (_, 0) if flags == SYN => true,
            (_, 1) if flags == SYN | ACK => true,
            (Stage::Answered, 0) => flags & (SYN | RST | FIN) == 0,
            _ => false,
        };
        self.is_over |= !is_due;
        let is_reset = self.stage == Stage::Asked && side == 0 && flags & RST != 0;
        (!is_due).then_some(if is_reset {
            Oddity::OpenersReset
        } else {
            Oddity::OutOfTurn
        })
    }

    fn way(&self, side: usize) -> [Address; 2] {
        [self.addresses[side], self.addresses[1 - side]]
    }

    fn ports_of(&self, side: usize) -> [u16; 2] {
        [self.ports[side], self.ports[1 - side]]
    }

    fn sent(
        &self,
        dice: &mut Dice,
        side: usize,
        packet: &Packet,
        number: u16,
        what: String,
        oddity: Option<Oddity>,
    ) -> Sent {
        let ends = [&self.ends[side], &self.ends[1 - side]];
        framed(dice, ends, &packet.bytes(number), what, oddity)
    }

    /// Something once more, byte for byte.
    fn repeated(&mut self, dice: &mut Dice, number: u16) -> Sent {
        let at = dice.below(self.past.len());
        let is_reset = self.protocol == TCP && self.past[at].packet.load[13] & RST != 0;
        let mut sent = self.say(dice, at, number, "again".to_owned());
        if is_reset {
            self.is_over = true;
            sent.oddity = Some(Oddity::StrayReset);
        }
        sent
    }

    /// What was said before by a third, or in another VLAN: to nobody a part of this connection.
    fn by_another(&mut self, dice: &mut Dice, number: u16) -> Option<Sent> {
        let Said { side, packet, .. } = &self.past[dice.below(self.past.len())];
        let (side, bytes) = (*side, packet.bytes(number));
        if dice.once_in(2) {
            let ends = [self.third.as_ref()?, &self.ends[1 - side]];
            Some(framed(dice, ends, &bytes, "by a third".to_owned(), None))
        } else {
            let ends = self.elsewhere.as_ref()?;
            let ends = [&ends[side], &ends[1 - side]];
            Some(framed(
                dice,
                ends,
                &bytes,
                "in another VLAN".to_owned(),
                None,
            ))
        }
    }

    fn echo(&mut self, dice: &mut Dice) -> (usize, Packet, String) {
        let is_request = self.past.is_empty() && !dice.once_in(8) || dice.once_in(2);
        let kind = match (self.v6, is_request) {
            (false, true) => 8,
            (false, false) => 0,
            (true, true) => 128,
            (true, false) => 129,
        };
        let side = usize::from(!is_request);
        let rest = [self.ports[0].to_be_bytes(), [0, self.past.len() as u8]].concat();
        let packet = Packet::icmp(self.v6, self.way(side), kind, 0, &rest);
        (side, packet, format!("echo {kind}"))
    }

    /// An error about something that the other has said, or has not.
    fn error(&mut self, dice: &mut Dice, number: u16) -> Sent {
        let said = self.past[dice.below(self.past.len())].clone();
        let (side, mut about) = (1 - said.side, said.packet);
        let mut oddity = (!said.has_arrived).then_some(Oddity::QuotedNeverSent);
        let mut what = "error".to_owned();
        match dice.below(6) {
            0 => {
                // Of another host.
                about.ends[1].host ^= 0x4000;
                what += " about nothing";
            }
            1 if self.protocol == TCP => {
                about.load[4..8].copy_from_slice(&(dice.number() as u32).to_be_bytes());
                oddity = Some(Oddity::QuotedNeverSent);
                what += " about what was never sent";
            }
            _ => {}
        }
        let quote = about.bytes(0x7777);
        let quote = &quote[..quote
            .len()
            .min(
                dice.one(&[28, 48, 68, 128])
                    .max(if self.v6 { 48 } else { 28 }),
            )];
        let (kind, code) = if self.v6 {
            dice.one(&[(1, 4), (1, 1), (2, 0), (3, 0), (4, 1)])
        } else {
            dice.one(&[(3, 1), (3, 3), (3, 4), (11, 0), (12, 0), (5, 1)])
        };
        if (kind, self.v6) == (5, false) {
            what += ", a redirect";
        }
        let rest = [&[0; 4], quote].concat();
        let packet = Packet::icmp(self.v6, self.way(side), kind, code, &rest);
        self.sent(dice, side, &packet, number, what, oddity)
    }

    fn build(&self, side: usize, seq: u32, ack: u32, flags: u8, len: usize) -> Packet {
        let half = &self.halves[side];
        let mut options = Vec::new();
        if flags & SYN != 0 {
            options.extend([2, 4, 5, 0xb4]);
            if let Some(scale) = half.scale {
                options.extend([1, 3, 3, scale]);
            }
        }
        let ack = if flags & ACK == 0 { 0 } else { ack };
        let numbers = [seq, ack];
        let (way, ports) = (self.way(side), self.ports_of(side));
        Packet::tcp(
            self.v6,
            way,
            ports,
            numbers,
            flags,
            half.window,
            &options,
            len,
        )
    }

    /// What a host says next.
    fn segment(&mut self, dice: &mut Dice) -> (usize, Packet, String) {
        let [client, server] = self.halves.clone();
        let (side, flags, len) = if client.fin && server.fin && client.is_acked && server.is_acked {
            match dice.below(3) {
                0 => {
                    // The same ports once more.
                    let ahead = 1_000_000 + dice.number() as u32 % 1_000_000;
                    for half in &mut self.halves {
                        half.next = half.next.wrapping_add(ahead);
                        (half.syn, half.fin, half.is_acked) = (false, false, false);
                    }
                    self.past.clear();
                    self.last.begins_anew = true;
                    (0, SYN, 0)
                }
                _ => (dice.below(2), ACK, 0),
            }
        } else if !client.syn {
            (0, SYN, 0)
        } else if !server.syn {
            (1, SYN | ACK, 0)
        } else if !server.is_acked {
            (0, ACK, 0)
        } else {
            let side = dice.below(2);
            let half = &self.halves[side];
            match dice.below(12) {
                0..=5 if !half.fin => (side, ACK | 8, 1 + dice.below(200)),
                6..=7 if !half.fin => (side, FIN | ACK, 0),
                8 if dice.once_in(3) => (side, RST | ACK, 0),
                _ => (side, ACK, 0),
            }
        };
        let (seq, ack) = (self.halves[side].next, self.halves[1 - side].next);
        let packet = self.build(side, seq, ack, flags, len);
        let controls = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        let half = &mut self.halves[side];
        half.next = seq.wrapping_add(len as u32 + controls);
        half.syn |= flags & SYN != 0;
        half.fin |= flags & FIN != 0;
        if flags & ACK != 0 {
            let other = &mut self.halves[1 - side];
            other.is_acked = true;
        }
        // What comes after a FIN is not acknowledged before it was sent.
        if flags & FIN != 0 {
            self.halves[side].is_acked = false;
        }
        (side, packet, describe(side, flags, len))
    }

    /// What no host says, or seldom.
    fn odd_segment(&mut self, dice: &mut Dice, number: u16) -> Sent {
        let side = dice.below(2);
        let (seq, ack) = (self.halves[side].next, self.halves[1 - side].next);
        let is_early = self.stage < Stage::Complete;
        let mut oddity = None;
        let mut is_past = false;
        let (seq, ack, flags, len) = match dice.below(15) {
            0 => (seq.wrapping_add(FAR), ack, ACK, 10),
            1 => {
                is_past = true;
                (seq.wrapping_sub(FAR), ack, ACK, 10)
            }
            2 => (seq, ack.wrapping_add(FAR), ACK, 10),
            3 => {
                is_past = true;
                (seq, ack.wrapping_sub(FAR), ACK, 10)
            }
            4 => (seq.wrapping_add(FAR), ack, FIN | ACK, 0),
            5 => {
                oddity = Some(Oddity::StrayReset);
                (seq.wrapping_add(FAR), 0, RST, 0)
            }
            6 if is_early => (seq, 0, RST, 0),
            6 => (seq.wrapping_add(100), ack, RST | ACK, 0),
            7 => {
                oddity = Some(Oddity::AnsweredAnew);
                (seq, ack, SYN | ACK, 0)
            }
            8 => {
                // On a connection that is there, it is answered with a challenge.
                let is_closing = self.halves.iter().any(|half| half.fin);
                self.is_over |= is_early || !self.is_live || self.is_reset || is_closing;
                if side == 1 && (self.is_reset || !self.is_live) {
                    oddity = Some(Oddity::PeersSyn);
                }
                (seq.wrapping_sub(FAR), 0, SYN, 0)
            }
            9 => (seq, 0, dice.one(&[FIN, 0, URG, FIN | URG]), 5),
            10 => (
                seq,
                ack,
                dice.one(&[SYN | FIN, SYN | RST, FIN | RST | ACK]),
                0,
            ),
            11 => {
                oddity = Some(Oddity::UrgentSyn);
                (seq, 0, SYN | URG, 0)
            }
            12 => {
                // Begins in the window and ends behind it.
                oddity = Some(Oddity::WindowEdge);
                let other = &self.halves[1 - side];
                let shift = match (other.scale, self.halves[side].scale) {
                    (Some(shift), Some(_)) => shift,
                    _ => 0,
                };
                let window = u32::from(other.window) << shift;
                (seq.wrapping_add(window).wrapping_sub(600), ack, ACK, 1200)
            }
            13 if !is_early => {
                self.last.segment = Some((side, RST));
                (seq, ack, RST | ACK, 0)
            }
            _ => {
                self.last.segment = Some((side, RST));
                (seq, 0, RST, 0)
            }
        };
        // What a connection is after these, is another thing to both.
        self.is_over |= oddity.is_some();
        if flags != SYN {
            oddity = self.turn(side, flags).or(oddity);
        }
        if is_past {
            oddity = oddity.or(Some(Oddity::LongPast));
        }
        let packet = self.build(side, seq, ack, flags, len);
        let what = format!("odd {}", describe(side, flags, len));
        self.sent(dice, side, &packet, number, what, oddity)
    }
}

fn describe(side: usize, flags: u8, len: usize) -> String {
    let names = ["fin", "syn", "rst", "psh", "ack", "urg"];
    let set = names
        .iter()
        .enumerate()
        .filter(|(bit, _)| flags >> bit & 1 != 0);
    let set: Vec<&str> = set.map(|(_, name)| *name).collect();
    let end = ["opener", "peer"][side];
    format!("{} of the {end} with {len} bytes", set.join(","))
}

fn framed(
    dice: &mut Dice,
    [from, to]: [&End; 2],
    packet: &[u8],
    what: String,
    oddity: Option<Oddity>,
) -> Sent {
    let mut bytes = [mac(to.port, to.station), mac(from.port, from.station)].concat();
    if let Some(vid) = dice.one(&from.tags) {
        let priority = dice.one(&[0u16, 0, 0x6000]);
        bytes.extend(0x8100u16.to_be_bytes());
        bytes.extend((priority | vid).to_be_bytes());
    }
    let kind: u16 = if packet[0] >> 4 == 6 { 0x86dd } else { 0x0800 };
    bytes.extend(kind.to_be_bytes());
    bytes.extend(packet);
    debug_assert_eq!(packet_of(&bytes).1, packet);
    Sent {
        port: from.port,
        bytes,
        oddity,
        what,
    }
}
