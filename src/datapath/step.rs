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

use std::sync::Arc;

use super::Gate;
use super::budget::Credit;
use super::egress::{Egress, Source};
use super::fanout::Fanout;
use super::offload::{Headers, Offload, Sender};
use super::slot::{Outcome, SNAPSHOT_MAX, Slot, Slots};
use super::worker::Visit;
use crate::clock::Tick;
use crate::counters::{DropReason, PortId, Tally};
use crate::fabric::{Destinations, Kind, LookupCache};
use crate::frame::Frame;
use crate::policy::Admitted;
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
}

impl Step {
    pub(crate) fn new() -> Self {
        Self {
            chains: ChainBurst::new(),
            slots: Slots::new(),
            fanout: Fanout::new(),
            egress: Egress::new(),
            tally: Tally::new(),
        }
    }

    /// Takes a burst from transmit ring `pair` of a port and delivers it.
    #[allow(clippy::too_many_arguments)]
    #[inline]
    pub(crate) fn visit(
        &mut self,
        lanes: &Lanes,
        pair: u16,
        ports: &[Arc<Lanes>],
        gate: &Gate,
        now: Tick,
        credit: &mut Credit,
        cache: &mut LookupCache,
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
                let err = lane.err.clone();
                drop(slot);
                lanes.ring_broke(err);
                return Visit::Gone;
            }
        }
        let frames = self.burst(lanes, lane, ports, gate, now, cache);
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
    fn burst(
        &mut self,
        lanes: &Lanes,
        lane: &mut TxLane,
        ports: &[Arc<Lanes>],
        gate: &Gate,
        now: Tick,
        cache: &mut LookupCache,
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
        for (index, slot, chain) in self.slots.of(&self.chains) {
            let extents = self.chains.extents(chain);
            slot.take(memory, chain, extents, header_len, reads_header);
            if slot.outcome != Outcome::Open {
                malformed = malformed.wrapping_add(chain.fault.is_some().into()); // at most BURST
                continue;
            }
            let judged = if memory.faulted() {
                Err(DropReason::SenderFault)
            } else if lane.enabled {
                judge(
                    slot,
                    index,
                    source,
                    sender,
                    lanes.id(),
                    ports,
                    gate,
                    now,
                    cache,
                    &mut self.fanout,
                )
            } else {
                Err(DropReason::RingDisabled)
            };
            if let Err(reason) = judged {
                slot.refused(reason);
            }
        }
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
        self.egress.publish(ports);
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Sends a RARP frame of `mac` as if the guest had (vhost-user: SEND_RARP), so that switches learn where it is.
    pub(crate) fn announce(
        &mut self,
        lanes: &Lanes,
        mac: [u8; 6],
        ports: &[Arc<Lanes>],
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
        let mut cache = LookupCache::default();
        let judged = judge(
            slot,
            0,
            source,
            sender,
            lanes.id(),
            ports,
            gate,
            now,
            &mut cache,
            &mut self.fanout,
        );
        if let Err(reason) = judged {
            slot.refused(reason);
        }
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
    pub(crate) fn recover(&mut self, lanes: &Lanes, ports: &[Arc<Lanes>]) {
        for receiver in ports {
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

/// Judges one frame and notes where it goes.
#[allow(clippy::too_many_arguments)]
#[inline(always)]
fn judge(
    slot: &mut Slot,
    index: u8,
    source: Source<'_>,
    sender: Sender,
    from: PortId,
    ports: &[Arc<Lanes>],
    gate: &Gate,
    now: Tick,
    cache: &mut LookupCache,
    fanout: &mut Fanout,
) -> Result<(), DropReason> {
    match Offload::judge_plain(&slot.sent, slot.len, sender) {
        Some(judged) => judged?,
        None => slot.offload = asked_for(slot, index, source, sender)?,
    }
    let frame = Frame::parse(slot.snapshot(), slot.len)?;
    let tagged = frame.tag().is_some();
    let admitted = gate.policy.admit(from, frame)?;
    let destinations = gate.fabric.forward(&admitted, now, cache);
    match destinations.kind() {
        Kind::Drop(reason) => return Err(reason),
        Kind::Port(to) => fanout.push(&gate.policy.permit(&admitted, to)?, index),
        Kind::Flood => flood(&admitted, destinations, index, ports, gate, fanout)?,
    }
    slot.vid = destinations.vid();
    slot.tagged = tagged;
    Ok(())
}

/// Notes all receivers of a frame that goes to many.
#[inline(never)]
fn flood(
    admitted: &Admitted<'_>,
    destinations: Destinations,
    index: u8,
    ports: &[Arc<Lanes>],
    gate: &Gate,
    fanout: &mut Fanout,
) -> Result<(), DropReason> {
    let mut refusal = DropReason::NoDestination;
    let mut copies = 0u32;
    for to in gate.fabric.ports(&destinations).iter() {
        // A port without a guest is no destination of a flood; a guest that is not ready loses nothing.
        if !ports
            .get(to.index())
            .is_some_and(|lanes| lanes.is_receiving())
        {
            continue;
        }
        match gate.policy.permit(admitted, to) {
            Ok(permit) => {
                fanout.push(&permit, index);
                copies = copies.wrapping_add(1); // at most MAX_PORTS
            }
            Err(reason) => refusal = reason,
        }
    }
    if copies == 0 { Err(refusal) } else { Ok(()) }
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
    ports: &[Arc<Lanes>],
    gate: &Gate,
) {
    while let Some((to, frames)) = fanout.take() {
        if let Some(lanes) = ports.get(to.index()) {
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
