//! One burst of one ring: the way of a frame, stage by stage.
//!
//! ```text
//! collect   chains, checked                          (ring)
//! judge     the first bytes of each, made private    (slot)
//!           offload asked for, guard, fabric, gate   (offload, policy, fabric)
//! deliver   receiver by receiver                     (fanout, egress)
//! complete  every head goes back, one notification   (ring)
//! ```
//!
//! Each stage passes over the whole burst before the next begins, so that the memory that a stage needs was asked
//! for by the one before it.

use super::Gate;
use super::budget::Credit;
use super::egress::{Egress, Source};
use super::fanout::{Fanout, Frames};
use super::generation::Ports;
use super::offload::{Headers, Offload, Sender};
use super::slot::{LONG_MAX, Outcome, SNAPSHOT_MAX, Slot, Slots};
use super::worker::Visit;
use crate::clock::Tick;
use crate::counters::{DropReason, Tally};
use crate::fabric::{Destinations, Kind, LookupCache};
use crate::frame::{Frame, Mac};
use crate::policy::digest::Digest;
use crate::policy::reject::Answer;
use crate::policy::{Admitted, Context, Desk, Judge, Refusal, Weight};
use crate::port::lanes::{Fault, Lanes, TxLane};
use crate::ring::ChainBurst;

/// The longest IP packet of a port that was told no MTU.
const NO_MTU: u16 = u16::MAX;

/// The scratch of a worker, and the stages.
pub(crate) struct Step {
    chains: ChainBurst,
    slots: Slots,
    fanout: Fanout,
    egress: Egress,
    tally: Tally,
    desk: Desk,
}

impl Step {
    pub(crate) fn new() -> Self {
        Self {
            chains: ChainBurst::new(),
            slots: Slots::new(),
            fanout: Fanout::new(),
            egress: Egress::new(),
            tally: Tally::new(),
            desk: Desk::default(),
        }
    }

    /// Takes a burst from transmit ring `pair` of a port and delivers it.
    #[allow(clippy::too_many_arguments)]
    #[inline]
    pub(crate) fn visit(
        &mut self,
        lanes: &Lanes,
        pair: u16,
        ports: &Ports,
        gate: &Gate,
        now: Tick,
        credit: &mut Credit,
        cache: &mut LookupCache,
        context: &mut Context,
        greeted: &mut bool,
    ) -> Visit {
        let Some(mut slot) = lanes.tx(pair) else {
            return Visit::Gone;
        };
        let Some(lane) = slot.as_mut() else {
            return Visit::Gone;
        };
        if lane.broken.is_some() || lanes.faulted() {
            return Visit::Gone;
        }
        if !std::mem::replace(greeted, true) {
            lane.ring.disable_kicks();
        }
        let Some(mut budget) = credit.budget() else {
            return Visit::Skipped;
        };
        let before = budget;
        match lane.ring.collect(&mut self.chains, &mut budget) {
            Ok(0) if lane.ring.memory().faulted() => {
                lanes.raise(Fault::MemoryLost);
                return Visit::Gone;
            }
            Ok(0) => return Visit::Idle,
            Ok(_) => {}
            // Memory that was lost reads as zeros, and zeros look like an index that jumped: the cause comes first.
            Err(_) if lane.ring.memory().faulted() => {
                lanes.raise(Fault::MemoryLost);
                return Visit::Gone;
            }
            Err(broken) => {
                lane.broken = Some(broken);
                lanes.counters().events.faults.increment();
                return Visit::Gone;
            }
        }
        let frames = self.burst(lanes, lane, ports, gate, now, cache, context);
        let bytes = u64::from(before.bytes.saturating_sub(budget.bytes));
        let (cost_frames, cost_bytes) = self.egress.cost(frames, bytes);
        let descriptors = before.descriptors.saturating_sub(budget.descriptors);
        credit.spend(cost_frames, cost_bytes, descriptors);
        if lane.ring.memory().faulted() {
            lanes.raise(Fault::MemoryLost);
            return Visit::Gone;
        }
        if lane.ring.should_notify() {
            let call = lane.call.clone();
            drop(slot);
            lanes.counters().events.calls.increment();
            if call.is_some_and(|call| call.ring().is_err()) {
                lanes.raise(Fault::CallBlocked);
            }
        } else {
            lanes.counters().events.calls_suppressed.increment();
        }
        Visit::Worked(frames)
    }

    /// Snapshot, judge, deliver, complete, count.
    #[allow(clippy::too_many_arguments)]
    fn burst(
        &mut self,
        lanes: &Lanes,
        lane: &mut TxLane,
        ports: &Ports,
        gate: &Gate,
        now: Tick,
        cache: &mut LookupCache,
        context: &mut Context,
    ) -> u32 {
        self.egress.begin();
        let sender = Sender {
            features: lane.features,
            mtu: lanes.mtu().unwrap_or(NO_MTU),
        };
        let memory = lane.ring.memory();
        let count = self.chains.chains().len();
        let source = Source {
            memory: Some(memory),
            chains: &self.chains,
        };
        let (header_len, reads_header) = (lane.header_len, sender.has_offloads());
        let mut malformed = 0u64;
        let mut answers = Frames::default();
        let mut hearing = Hearing {
            judge: gate.policy.judge(lanes.id(), context, &mut self.desk, now),
            source,
            sender,
            ports,
            gate,
            now,
            cache,
            fanout: &mut self.fanout,
        };
        for (index, slot, chain) in self.slots.of(&self.chains) {
            let extents = self.chains.extents(chain);
            slot.take(memory, chain, extents, header_len, reads_header);
            if slot.outcome != Outcome::Open {
                malformed = malformed.wrapping_add(chain.fault.is_some().into()); // at most BURST
                continue;
            }
            let judged = if memory.faulted() {
                Err(DropReason::SenderFault.into())
            } else if lane.enabled {
                hearing.hear(slot, index)
            } else {
                Err(DropReason::RingDisabled.into())
            };
            if let Err(refusal) = judged {
                slot.refused(refusal.reason);
                if refusal.answer {
                    answers.insert(index);
                }
            }
        }
        drop(hearing);
        lanes.counters().events.malformed_chains.add(malformed);
        deliver(
            &mut self.egress,
            &mut self.fanout,
            source,
            &mut self.slots,
            ports,
            gate,
        );
        lane.ring.complete(&self.chains);
        // Before anybody is told, so that whoever has a frame finds it in the books.
        self.count(lanes, count);
        if !answers.is_empty() {
            self.answer(lanes, answers, gate);
        }
        self.egress.publish(ports);
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Answers frames that were rejected: the sender is sent what [`Answer::to`] makes of each. Their own outcome is
    /// counted; their slots are free for the answers.
    #[cold]
    fn answer(&mut self, lanes: &Lanes, rejected: Frames, gate: &Gate) {
        let mut answers = Frames::default();
        for index in rejected {
            if let Some(slot) = self.slots.get_mut(index)
                && let Some(answer) = answer_to(slot)
            {
                let vid = slot.vid;
                slot.put(answer.bytes());
                slot.vid = vid;
                answers.insert(index);
            }
        }
        let own = Source {
            memory: None,
            chains: &self.chains,
        };
        self.egress
            .deliver(own, &mut self.slots, answers, lanes, &gate.fabric);
    }

    /// Sends a RARP frame of `mac` as if the guest had (vhost-user: SEND_RARP), so that switches learn where it is.
    pub(crate) fn announce(
        &mut self,
        lanes: &Lanes,
        mac: [u8; 6],
        ports: &Ports,
        gate: &Gate,
        now: Tick,
    ) {
        self.chains.clear();
        self.egress.begin();
        let Some(slot) = self.slots.get_mut(0) else {
            return;
        };
        slot.put(&rarp(mac));
        let source = Source {
            memory: None,
            chains: &self.chains,
        };
        let sender = Sender {
            features: 0,
            mtu: NO_MTU,
        };
        let mut context = Context::default();
        let mut hearing = Hearing {
            judge: gate
                .policy
                .judge(lanes.id(), &mut context, &mut self.desk, now),
            source,
            sender,
            ports,
            gate,
            now,
            cache: &mut LookupCache::default(),
            fanout: &mut self.fanout,
        };
        if let Err(refusal) = hearing.hear(slot, 0) {
            slot.refused(refusal.reason);
        }
        drop(hearing);
        deliver(
            &mut self.egress,
            &mut self.fanout,
            source,
            &mut self.slots,
            ports,
            gate,
        );
        self.count(lanes, 1);
        self.egress.publish(ports);
    }

    /// After a panic: forgets the burst, counts its frames as abandoned, and takes back what it had reserved anywhere.
    pub(crate) fn recover(&mut self, lanes: &Lanes, ports: &Ports) {
        for receiver in ports.iter() {
            for pair in 0..receiver.pairs() {
                if let Some(lane) = receiver.rx(pair).as_mut().and_then(|slot| slot.as_mut()) {
                    lane.ring.abandon();
                    // What earlier visits had finished is told now: the list of who waits to be told is lost.
                    if std::mem::take(&mut lane.unpublished)
                        && lane.ring.publish()
                        && let Some(call) = &lane.call
                        && call.ring().is_err()
                    {
                        receiver.raise(Fault::CallBlocked);
                    }
                }
            }
        }
        self.fanout.clear();
        self.egress = Egress::new();
        self.tally = Tally::new();
        for _ in self.chains.chains() {
            self.tally.enter(0);
            self.tally.lose(DropReason::StepAbandoned);
        }
        lanes.counters().add_ingress(&mut self.tally);
        self.chains.clear();
    }

    /// Puts the outcome of the first `count` slots into the port's books.
    fn count(&mut self, lanes: &Lanes, count: usize) {
        let (mut frames, mut bytes) = (0u32, 0u64);
        let (mut passed, mut passed_bytes) = (0u32, 0u64);
        for slot in self.slots.first(count) {
            // At most BURST frames of FRAME_MAX bytes.
            frames = frames.wrapping_add(1);
            bytes = bytes.wrapping_add(slot.len.into());
            match slot.outcome {
                Outcome::Forwarded => {
                    passed = passed.wrapping_add(1);
                    passed_bytes = passed_bytes.wrapping_add(slot.len.into());
                }
                Outcome::Dropped(reason) => self.tally.lose(reason),
                // A frame that was judged and offered to nobody: every way out above gives an outcome.
                Outcome::Open => self.tally.lose(DropReason::NoDestination),
            }
        }
        self.tally.enter_all(frames, bytes);
        self.tally.pass_all(passed, passed_bytes);
        lanes.counters().add_ingress(&mut self.tally);
    }
}

/// A burst of one source while it is judged.
struct Hearing<'a> {
    judge: Judge<'a>,
    source: Source<'a>,
    sender: Sender,
    ports: &'a Ports,
    gate: &'a Gate,
    now: Tick,
    cache: &'a mut LookupCache,
    fanout: &'a mut Fanout,
}

impl Hearing<'_> {
    /// Judges one frame and notes where it goes.
    #[inline(always)]
    fn hear(&mut self, slot: &mut Slot, index: u8) -> Result<(), Refusal> {
        match Offload::judge_plain(&slot.sent, slot.len, self.sender) {
            Some(judged) => judged?,
            None => slot.offload = asked_for(slot, index, self.source, self.sender)?,
        }
        match self.pass(slot, index) {
            Err(refusal) if refusal.reason == DropReason::HeadersTooLong && slot.can_extend() => {
                self.extend(slot, index, SNAPSHOT_MAX);
                self.pass(slot, index)
            }
            verdict => verdict,
        }
    }

    /// Guard, fabric, permit.
    #[inline(always)]
    fn pass(&mut self, slot: &mut Slot, index: u8) -> Result<(), Refusal> {
        let mut frame = Frame::parse(slot.snapshot(), slot.len)?;
        if self.gate.policy.wants_whole(self.judge.source(), &frame) {
            self.extend(slot, index, LONG_MAX);
            frame = Frame::parse(slot.snapshot(), slot.len)?;
        }
        let weight = weight(slot);
        let tagged = frame.tag().is_some();
        let admitted = self.judge.admit(frame, weight)?;
        if let Some(mac) = admitted.claim() {
            self.claim(mac)?;
        }
        let destinations = self.gate.fabric.forward(&admitted, self.now, self.cache);
        let vid = destinations.vid();
        match destinations.kind() {
            Kind::Drop(reason) => return Err(reason.into()),
            Kind::Port(to) => {
                let permit = self.judge.permit(&admitted, to);
                slot.vid = vid;
                self.fanout.push(&permit?, index);
            }
            Kind::Flood => {
                let flooded = self.flood(&admitted, weight, destinations, index);
                slot.vid = vid;
                flooded?;
            }
        }
        slot.tagged = tagged;
        Ok(())
    }

    /// Makes more of the frame private: headers run on, or a DHCP packet is read.
    #[cold]
    fn extend(&mut self, slot: &mut Slot, index: u8, want: usize) {
        if let Some(memory) = self.source.memory {
            slot.extend(memory, self.source.extents(index), want);
        }
    }

    /// The first frame of a guest: its address becomes its port's own, unless another port has it.
    #[cold]
    fn claim(&mut self, mac: Mac) -> Result<(), DropReason> {
        let from = self.judge.source();
        let taken = self.gate.fabric.fdb().add_static(from, mac);
        taken.map_err(|_| {
            self.judge.release(mac);
            DropReason::MacOfOtherPort
        })
    }

    /// Notes all receivers of a frame that goes to many.
    #[inline(never)]
    fn flood(
        &mut self,
        admitted: &Admitted<'_>,
        weight: Weight,
        destinations: Destinations,
        index: u8,
    ) -> Result<(), Refusal> {
        self.judge.may_flood(admitted.frame(), weight)?;
        let mut refusal = Refusal::from(DropReason::NoDestination);
        let mut copies = 0u32;
        for to in self.gate.fabric.ports(&destinations).iter() {
            // A port without a guest is no destination of a flood; a guest that is not ready loses nothing.
            if !self.ports.get(to).is_some_and(|lanes| lanes.is_receiving()) {
                continue;
            }
            match self.judge.permit(admitted, to) {
                Ok(permit) => {
                    self.fanout.push(&permit, index);
                    copies = copies.wrapping_add(1); // at most MAX_PORTS
                }
                Err(refused) => refusal = refused,
            }
        }
        if copies == 0 { Err(refusal) } else { Ok(()) }
    }
}

/// What a frame counts as.
#[inline(always)]
fn weight(slot: &Slot) -> Weight {
    match slot.offload {
        Offload::Segment(segment) => Weight {
            frames: segment.count(),
            bytes: segment.bytes(),
        },
        _ => Weight {
            frames: 1,
            bytes: slot.len,
        },
    }
}

/// What a rejected frame is answered with.
fn answer_to(slot: &Slot) -> Option<Answer> {
    let frame = Frame::parse(slot.snapshot(), slot.len).ok()?;
    Answer::to(&frame, &Digest::of(&frame, slot.vid.get()))
}

/// What the sender asks for, judged against the headers of the frame. Headers that run past the snapshot extend it, once.
#[inline(never)]
fn asked_for(
    slot: &mut Slot,
    index: u8,
    source: Source<'_>,
    sender: Sender,
) -> Result<Offload, DropReason> {
    let first = judge_offload(slot, sender);
    match (first, source.memory) {
        (Err(DropReason::HeadersTooLong), Some(memory)) if slot.can_extend() => {
            slot.extend(memory, source.extents(index), SNAPSHOT_MAX);
            judge_offload(slot, sender)
        }
        _ => first,
    }
}

fn judge_offload(slot: &Slot, sender: Sender) -> Result<Offload, DropReason> {
    Offload::judge(&slot.sent, slot.len, sender, || {
        Headers::of(&Frame::parse(slot.snapshot(), slot.len)?)
    })
}

/// Hands the sorted burst to the receivers.
fn deliver(
    egress: &mut Egress,
    fanout: &mut Fanout,
    source: Source<'_>,
    slots: &mut Slots,
    ports: &Ports,
    gate: &Gate,
) {
    while let Some((to, frames)) = fanout.take() {
        if let Some(lanes) = ports.get(to) {
            egress.deliver(source, slots, frames, lanes, &gate.fabric);
        }
    }
}

/// A RARP request for `mac` (RFC 903), as a guest's host sends it for a guest that has moved.
fn rarp(mac: [u8; 6]) -> [u8; 60] {
    let mut frame = [0u8; 60];
    let parts: [&[u8]; 7] = [
        &[0xff; 6],
        &mac,
        // RARP; Ethernet, IPv4, 6 and 4 bytes of address; request reverse.
        &[0x80, 0x35, 0x00, 0x01, 0x08, 0x00, 6, 4, 0x00, 0x03],
        &mac,
        &[0; 4],
        &mac,
        &[0; 4],
    ];
    for (to, from) in frame.iter_mut().zip(parts.into_iter().flatten()) {
        *to = *from;
    }
    frame
}
