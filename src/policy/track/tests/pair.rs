//! A pair of TCP hosts, and a network that loses, repeats and reorders between them and the tracker: no segment that a host may
//! send is invalid (RFC 9293, RFC 7323).

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::frame::tcp::flag::{FIN, RST};

#[derive(Clone, Copy, Debug)]
struct Seg {
    seq: u32,
    ack: u32,
    flags: u8,
    window: u16,
    scale: Option<u8>,
    len: usize,
}

/// A host. Numbers count from its SYN, which is 0; data begins at 1.
#[derive(Clone, Debug)]
struct End {
    isn: u32,
    /// What it has to send in all; FIN stands behind it.
    total: u64,
    scale: Option<u8>,
    /// How much it holds for its reader, and how much of that was not read.
    room: u64,
    unread: u64,
    una: u64,
    nxt: u64,
    /// The right edge that it was offered.
    edge: u64,
    /// Of the other, in the other's numbers: once its SYN was seen.
    their_isn: Option<u32>,
    their_scale: Option<u8>,
    rcv_nxt: u64,
    ahead: Vec<(u64, u64)>,
    /// The right edge that it offers.
    offered: u64,
}

impl End {
    fn new(isn: u32, total: u64, scale: Option<u8>, room: u64) -> Self {
        Self {
            isn,
            total,
            scale,
            // Some windows that its scale can tell apart.
            room: room.max(64 << scale.unwrap_or(0)),
            unread: 0,
            una: 0,
            nxt: 0,
            edge: 0,
            their_isn: None,
            their_scale: None,
            rcv_nxt: 1,
            ahead: Vec::new(),
            offered: 1,
        }
    }

    fn behind_fin(&self) -> u64 {
        2 + self.total
    }

    fn segment(&mut self, seq: u64, end: u64) -> Seg {
        let has_syn = seq == 0 && end > 0;
        let has_fin = end == self.behind_fin() && seq < end;
        let flags = if self.their_isn.is_some() { ACK } else { 0 }
            | if has_syn { SYN } else { 0 }
            | if has_fin { FIN } else { 0 };
        let shift = match (has_syn, self.scale, self.their_scale) {
            (false, Some(shift), Some(_)) => shift,
            _ => 0,
        };
        let edge = (self.rcv_nxt + self.room - self.unread).max(self.offered);
        let window = u16::try_from((edge - self.rcv_nxt) >> shift).unwrap_or(u16::MAX);
        let offered = self.rcv_nxt + (u64::from(window) << shift);
        self.offered = self.offered.max(offered);
        Seg {
            seq: self.isn.wrapping_add(seq as u32),
            ack: self
                .their_isn
                .map_or(0, |isn| isn.wrapping_add(self.rcv_nxt as u32)),
            flags,
            window,
            scale: if has_syn { self.scale } else { None },
            len: (end - seq - u64::from(has_syn) - u64::from(has_fin)) as usize,
        }
    }

    /// What it sends next, as drawn.
    fn send(&mut self, draw: u16, is_opener: bool) -> Option<Seg> {
        if self.una == 0 {
            if !is_opener && self.their_isn.is_none() {
                return None;
            }
            self.nxt = 1;
            return Some(self.segment(0, 1));
        }
        let (nxt, behind_fin) = (self.nxt, self.behind_fin());
        let some = (u64::from(draw >> 4) * 16).clamp(1, 65_000);
        let (seq, end) = match draw % 16 {
            // New data, as far as the window goes.
            0..8 => (nxt, (nxt + some).min(self.edge).min(behind_fin).max(nxt)),
            // What was not acknowledged once more, cut anew.
            8..11 if self.una < nxt => (self.una, (self.una + some).min(nxt)),
            // A probe of a closed window.
            11 if nxt == self.una && nxt >= self.edge && nxt < behind_fin => (nxt, nxt + 1),
            // Is anybody there? (RFC 9293, section 3.8.4)
            12 if nxt == self.una && nxt > 1 && nxt < behind_fin => {
                let seg = self.segment(nxt, nxt);
                return Some(Seg {
                    seq: seg.seq.wrapping_sub(1),
                    ..seg
                });
            }
            // The reader reads.
            13 | 14 => {
                self.unread -= self.unread.min(some * 4);
                (nxt, nxt)
            }
            _ => (nxt, nxt),
        };
        self.nxt = nxt.max(end);
        Some(self.segment(seq, end))
    }

    fn receive(&mut self, seg: &Seg) {
        let has_syn = seg.flags & SYN != 0;
        if has_syn && self.their_isn.is_none() {
            self.their_isn = Some(seg.seq);
            self.their_scale = seg.scale;
            self.edge = 1 + u64::from(seg.window);
        }
        let Some(isn) = self.their_isn else {
            return;
        };
        if seg.flags & ACK != 0 {
            let more = seg.ack.wrapping_sub(self.isn.wrapping_add(self.una as u32));
            let ack = self.una + u64::from(more);
            if ack <= self.nxt {
                self.una = ack;
                let shift = match (has_syn, self.scale, self.their_scale) {
                    (false, Some(_), Some(shift)) => shift,
                    _ => 0,
                };
                self.edge = self.edge.max(ack + (u64::from(seg.window) << shift));
            }
        }
        let behind = isn.wrapping_add(self.rcv_nxt as u32).wrapping_sub(seg.seq);
        let from = self
            .rcv_nxt
            .wrapping_sub(i64::from(behind.cast_signed()) as u64)
            .cast_signed();
        let len = seg.len + usize::from(has_syn) + usize::from(seg.flags & FIN != 0);
        let from = from.max(0) as u64;
        let to = (from + len as u64).min(self.offered + 1);
        if from < to {
            self.ahead.push((from, to));
        }
        let before = self.rcv_nxt;
        while let Some(&(_, to)) = self
            .ahead
            .iter()
            .find(|(from, to)| *from <= self.rcv_nxt && self.rcv_nxt < *to)
        {
            self.rcv_nxt = to;
        }
        self.ahead.retain(|(_, to)| *to > self.rcv_nxt);
        self.unread = (self.unread + self.rcv_nxt - before).min(self.room);
    }

    fn is_done(&self) -> bool {
        self.una == self.behind_fin()
    }
}

/// Segments on their way; at most two overtake one.
#[derive(Default)]
struct Line(VecDeque<(Seg, u8)>);

impl Line {
    fn push(&mut self, seg: Seg) {
        self.0.push_back((seg, 0));
    }

    fn pop(&mut self, draw: u16) -> Option<Seg> {
        let mut at = usize::from(draw % 3).min(self.0.len().saturating_sub(1));
        if self.0.iter().take(at).any(|(_, overtaken)| *overtaken >= 2) {
            at = 0;
        }
        self.0
            .iter_mut()
            .take(at)
            .for_each(|(_, overtaken)| *overtaken += 1);
        self.0.remove(at).map(|(seg, _)| seg)
    }
}

struct Net {
    world: World,
    hosts: [(Host, u16); 2],
    ends: [End; 2],
    before: [Line; 2],
    behind: [Line; 2],
    opened: bool,
}

impl Net {
    fn made(&self, from: usize, seg: &Seg) -> Made {
        let mut tcp = Tcp::new(self.hosts[from], self.hosts[1 - from], seg.flags)
            .at(seg.seq, seg.ack)
            .window(seg.window)
            .data(seg.len);
        tcp.scale = seg.scale;
        tcp.made()
    }

    /// A segment comes to the tracker; whether it goes on.
    fn judge(&mut self, from: usize, seg: &Seg) -> Result<bool, TestCaseError> {
        let made = self.made(from, seg);
        let (a, b) = (self.hosts[from].0, self.hosts[1 - from].0);
        let look = self.world.look(a, b, &made);
        match look.state {
            State::New if !self.opened => {
                self.opened = true;
                self.world.open(a, b, &made).unwrap();
            }
            State::Established => {}
            // A duplicate of the first SYN, later than all the rest.
            State::New if seg.flags == SYN && self.world.phase().is_over() => return Ok(false),
            state => prop_assert!(
                false,
                "{:?} from {}: {:?} {:?}",
                state,
                from,
                seg,
                self.world.flows()
            ),
        }
        Ok(true)
    }

    fn turn(&mut self, draw: u16) -> Result<(), TestCaseError> {
        let (from, what, draw) = (usize::from(draw & 1), draw >> 1 & 7, draw >> 4);
        match what {
            0..3 if self.before[from].0.len() < 6 => {
                let seg = self.ends[from].send(draw.rotate_left(4), from == 0);
                seg.into_iter().for_each(|seg| self.before[from].push(seg));
            }
            3..6 => {
                if let Some(seg) = self.before[from].pop(draw)
                    && draw % 16 != 0
                    && self.judge(from, &seg)?
                {
                    self.behind[from].push(seg);
                }
            }
            _ => {
                if let Some(seg) = self.behind[from].pop(draw)
                    && draw % 16 != 0
                {
                    self.ends[1 - from].receive(&seg);
                }
            }
        }
        Ok(())
    }

    /// Without losses from here on, until both have closed.
    fn finish(&mut self) -> Result<(), TestCaseError> {
        for round in 0u16.. {
            if self.ends.iter().all(End::is_done)
                && self
                    .before
                    .iter()
                    .chain(&self.behind)
                    .all(|line| line.0.is_empty())
            {
                return Ok(());
            }
            prop_assert!(round < 30_000, "stuck: {:?}", self.ends);
            for from in [0, 1] {
                // New data, again, probe, read.
                let draw = [0xfff0, 0xfff8, 0xfffb, 0xfffd][usize::from(round % 4)];
                let seg = self.ends[from].send(draw, from == 0);
                seg.into_iter().for_each(|seg| self.before[from].push(seg));
                while let Some(seg) = self.before[from].pop(0) {
                    self.judge(from, &seg)?;
                    self.behind[from].push(seg);
                }
                while let Some(seg) = self.behind[from].pop(0) {
                    self.ends[1 - from].receive(&seg);
                }
            }
            if self.ends.iter().all(End::is_done) {
                return Ok(());
            }
        }
        Ok(())
    }
}

fn ends() -> impl Strategy<Value = End> {
    ends_with(prop_oneof![0u64..100, 0u64..400_000])
}

fn ends_with(total: impl Strategy<Value = u64>) -> impl Strategy<Value = End> {
    let isn = prop_oneof![
        any::<u32>(),
        u32::MAX - 100_000..=u32::MAX,
        0x7fff_0000u32..0x8001_0000
    ];
    let scale = prop_oneof![Just(None), (0u8..=14).prop_map(Some)];
    let room = prop_oneof![1u64..3000, 1u64..65_536, 1u64..4_000_000];
    (isn, total, scale, room)
        .prop_map(|(isn, total, scale, room)| End::new(isn, total, scale, room))
}

fn net(a: End, b: End, loose: bool) -> Net {
    let spec = TrackingSpec {
        per_port: 16,
        loose,
        ..spec()
    };
    Net {
        world: World::new(&spec),
        hosts: [(v4(0), 40_000), (v4(1), 80)],
        ends: [a, b],
        before: Default::default(),
        behind: Default::default(),
        opened: false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 64 } else { 2000 }))]

    #[test]
    fn no_segment_of_two_hosts_is_invalid(
        a in ends(),
        b in ends(),
        draws in prop::collection::vec(any::<u16>(), 0..1500),
    ) {
        let mut net = net(a, b, false);
        for draw in draws {
            net.turn(draw)?;
        }
        net.finish()?;
        // Both FINs and their acknowledgments came through; whoever is last may still repeat.
        let flows = net.world.flows();
        prop_assert_eq!(flows.len(), 1);
        prop_assert_eq!(flows[0].state, Phase::TimeWait);
    }

    /// At any moment either host may give up, exactly where it is.
    #[test]
    fn a_reset_by_either_host_closes(
        a in ends(),
        b in ends(),
        draws in prop::collection::vec(any::<u16>(), 0..600),
        from in 0usize..2,
    ) {
        let mut net = net(a, b, false);
        for draw in draws {
            net.turn(draw)?;
        }
        // In order, so that the tracker has seen all.
        for from in [0, 1] {
            while let Some(seg) = net.before[from].pop(0) {
                net.judge(from, &seg)?;
                net.ends[1 - from].receive(&seg);
            }
        }
        prop_assume!(net.ends.iter().all(|end| end.una > 0));
        // And what was lost on the way to it, once more: of a number that it has not seen it cannot know that it is the host's.
        let (mut at, nxt) = (net.ends[from].una, net.ends[from].nxt);
        while at < nxt {
            let end = nxt.min(at + 65_000);
            let seg = net.ends[from].segment(at, end);
            net.judge(from, &seg)?;
            at = end;
        }
        let seg = net.ends[from].segment(nxt, nxt);
        net.judge(from, &Seg { flags: RST | ACK, len: 0, ..seg })?;
        let state = net.world.flows()[0].state;
        prop_assert!(state == Phase::Closed, "{:?}", state);
    }

    /// What an attacker sends who does not know where the connection is changes nothing: with sequence numbers
    /// drawn out of all, and by a third port.
    #[test]
    fn e_28_injected_segments_change_nothing(
        a in ends(),
        b in ends(),
        draws in prop::collection::vec(any::<u16>(), 0..400),
        injected in prop::collection::vec((any::<u32>(), any::<u32>(), any::<u8>(), 0usize..1400, 0usize..2), 1..50),
    ) {
        let mut net = net(a, b, false);
        for draw in draws {
            net.turn(draw)?;
        }
        let before = net.world.flows();
        prop_assume!(before.len() == 1);
        for (seq, ack, flags, len, from) in injected {
            let seg = Seg { seq, ack, flags, window: 1000, scale: None, len };
            let made = net.made(from, &seg);
            // The same bytes by a third port, to either.
            let third = Host { port: port(2), ..net.hosts[from].0 };
            let look = net.world.look(third, net.hosts[1 - from].0, &made);
            let is_syn = look.state == State::New;
            prop_assert!(look.flow.is_none());
            prop_assert!(look.state == State::Invalid || is_syn && flags & (SYN | ACK) == SYN);
            prop_assert_eq!(net.world.flows(), before.clone());
            for to in net.hosts {
                let about = net.made(from, &seg);
                let error = error(third, to.0, &about);
                prop_assert_eq!(net.world.look(third, to.0, &error).state, State::Invalid);
            }
            prop_assert_eq!(net.world.flows(), before.clone());
        }
    }

    /// A connection that was under way before the switch was: from wherever it is picked up, it goes on.
    #[test]
    fn a_connection_that_is_picked_up_goes_on(
        a in ends_with(300_000u64..400_000),
        b in ends_with(300_000u64..400_000),
        unseen in prop::collection::vec(any::<u16>(), 100..300),
        draws in prop::collection::vec(any::<u16>(), 0..600),
    ) {
        let mut net = net(a, b, true);
        for draw in unseen {
            // Another switch was there then.
            net.turn(draw)?;
        }
        prop_assume!(net.ends.iter().all(|end| end.una > 0 && end.nxt <= 1 + end.total));
        let old = std::mem::replace(&mut net.world, World::new(&TrackingSpec { loose: true, ..spec() }));
        drop(old);
        net.before = Default::default();
        net.opened = false;
        // The opener is heard first, with nothing but an acknowledgment or data.
        let nxt = net.ends[0].nxt;
        let seg = net.ends[0].segment(nxt, nxt);
        net.judge(0, &seg)?;
        net.behind[0].push(seg);
        for draw in draws {
            net.turn(draw)?;
        }
        net.finish()?;
    }
}
