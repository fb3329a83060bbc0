//! The judgement of a burst: what is asked for, guard, fabric, permit, frame by frame.

use super::Gate;
use super::budget::{ASKED, FLOODED};
use super::fanout::{Fanout, Frames};
use super::generation::Ports;
use super::offload::{Headers, Offload, Sender};
use super::slot::{Framing, LONG_MAX, SNAPSHOT_MAX, Slot};
use super::slots::{Slots, Source};
use super::step::Memory;
use crate::clock::Tick;
use crate::counters::DropReason;
use crate::counters::drops::{DropLog, Dropped};
use crate::fabric::{Destinations, Ingress, Kind, Standing, StaticError};
use crate::frame::{Frame, Mac, Vid};
use crate::policy::{Admitted, Desk, Judge, Policy, Refusal};
use crate::port::lanes::Lanes;
use crate::ring::BURST;

/// What the frames of one burst are judged by.
pub(super) struct Court<'a> {
    source: Source<'a>,
    sender: Sender,
    framing: Framing,
    /// The longest frame that asks for nothing.
    longest: u32,
    ports: &'a Ports,
    gate: &'a Gate,
    ingress: Ingress<'a>,
    judge: Judge<'a>,
    /// Where dropped frames are kept.
    drops: &'a DropLog,
    now: Tick,
    /// Frames that need more than to be copied.
    special: Frames,
    /// Pairs of frames that go to many, judged and refused: each costs its sender a copy.
    pub(super) refused: u32,
    /// What the floods of this burst came to: see [`FLOODED`].
    flooded: u32,
    /// Slots before this one were heard.
    pub(super) heard: usize,
    /// The present run: see [`Judge::again`].
    run: Option<Running<'a>>,
}

/// What the fabric has to say about a run of frames.
#[derive(Clone, Copy)]
struct Running<'a> {
    standing: Standing<'a>,
    vid: Vid,
}

impl<'a> Court<'a> {
    /// Calls it for a burst from `lanes`.
    #[inline(always)]
    pub(super) fn call(
        lanes: &'a Lanes,
        (ports, gate): (&'a Ports, &'a Gate),
        (source, now): (Source<'a>, Tick),
        (sender, framing): (Sender, Framing),
        kept: &'a mut Memory,
        desk: &'a mut Desk,
    ) -> Self {
        Self {
            source,
            sender,
            framing,
            longest: sender.longest(),
            ports,
            gate,
            ingress: gate.fabric.ingress(now, &mut kept.stations),
            judge: gate.policy.judge(lanes.id(), &mut kept.flows, desk, now),
            drops: &lanes.counters().drops,
            now,
            special: Frames::default(),
            refused: 0,
            flooded: 0,
            heard: BURST,
            run: None,
        }
    }
}

impl Court<'_> {
    /// Judges the frames of a burst and notes where they go: all of them, or those before [`heard`](Self::heard) when they flood
    /// as much as one visit may. Returns those whose sender is to be answered.
    pub(super) fn sit(&mut self, slots: &mut Slots, fanout: &mut Fanout) -> Frames {
        let mut answers = Frames::default();
        if self.judge.looks_ahead(slots.open().count()) {
            self.look_ahead(slots);
        }
        for index in slots.open() {
            if let Err(refusal) = self.hear(slots, index, fanout) {
                slots.refuse(index, refusal.reason);
                if self.drops.wants(refusal.reason, self.now) {
                    self.note(slots, index, refusal);
                }
                if refusal.answer {
                    answers.insert(index);
                }
            }
            if self.flooded >= FLOODED {
                self.heard = usize::from(index).saturating_add(1);
                break;
            }
        }
        slots.mark_special(self.special);
        answers
    }

    /// Has the memory at hand that the judgement of all these frames will ask for.
    #[inline(never)]
    fn look_ahead(&mut self, slots: &Slots) {
        let frames = slots.open().filter_map(|index| {
            let slot = slots.get(index)?;
            Some((index, Frame::parse(slot.snapshot(), slot.len).ok()?))
        });
        let ingress = &self.ingress;
        self.judge
            .look_ahead(frames, |vid, mac| ingress.guess(vid, mac));
    }

    /// Keeps a refused frame for whoever wants to know.
    #[cold]
    fn note(&self, slots: &Slots, index: u8, refusal: Refusal) {
        let Some(slot) = slots.get(index) else { return };
        let epoch = self.gate.policy.epoch();
        // What is found out about a pair; else the trace is that of an earlier frame.
        let is_of_pair =
            (DropReason::DeniedOutbound..=DropReason::ConnectionRate).contains(&refusal.reason);
        let dropped = Dropped {
            reason: refusal.reason,
            rule: refusal.rule().map(|rule| (epoch, rule.0)),
            to: self.judge.trace().to.filter(|_| is_of_pair),
            len: slot.len,
            bytes: slot.snapshot(),
        };
        self.drops.note(&dropped, self.now);
    }

    /// Judges one frame and notes where it goes.
    #[inline(always)]
    fn hear(&mut self, slots: &mut Slots, index: u8, fanout: &mut Fanout) -> Result<(), Refusal> {
        let slot = slots.get_mut(index).ok_or(DropReason::NoDestination)?;
        if slot.sent(self.framing).asks() {
            slot.offload = self.asked_for(slot, index)?;
            self.special.insert(index);
        } else if slot.len > self.longest {
            return Err(DropReason::Oversize.into());
        }
        if let Err(refusal) = self.pass(slot, index, fanout) {
            self.pass_longer(refusal, slot, index, fanout)?;
        }
        if slot.tagged {
            self.special.insert(index);
        }
        Ok(())
    }

    /// Guard, fabric, permit; or nothing of it, for a frame like one before it.
    #[inline(always)]
    fn pass(&mut self, slot: &mut Slot, index: u8, fanout: &mut Fanout) -> Result<(), Refusal> {
        if let Some(run) = &self.run
            && run.standing.holds()
            && let Some(permit) = self.judge.again(slot.beginning(), slot.len, || {
                Frame::parse(slot.snapshot(), slot.len).ok()
            })
        {
            fanout.push(&permit, index);
            slot.vid = run.vid;
            return Ok(());
        }
        self.pass_alone(slot, index, fanout)
    }

    /// Guard, fabric, permit.
    #[inline(never)]
    fn pass_alone(
        &mut self,
        slot: &mut Slot,
        index: u8,
        fanout: &mut Fanout,
    ) -> Result<(), Refusal> {
        if self.gate.policy.watches_leases() {
            self.see_whole(slot, index);
        }
        let frame = Frame::parse(slot.snapshot(), slot.len)?;
        let tagged = frame.tag().is_some();
        let admitted = self.judge.admit(Some(index), &frame, || slot.weight())?;
        if let Some(mac) = admitted.claim() {
            self.claim(mac)?;
        }
        let destinations = self.ingress.forward(&admitted);
        // Set for a refused frame too: it may be answered.
        let vid = destinations.vid();
        let noted = match destinations.kind() {
            Kind::Port(to) => self
                .judge
                .permit(admitted, to)
                .map(|permit| fanout.push(&permit, index)),
            Kind::Flood => self.flood(admitted, slot, destinations, index, fanout),
            Kind::Drop(reason) => Err(reason.into()),
        };
        slot.vid = vid;
        slot.tagged = tagged;
        if let (Ok(()), Kind::Port(to), Some(standing)) =
            (noted, destinations.kind(), self.ingress.standing())
            && self.judge.begin_run(slot.beginning(), slot.len, to)
        {
            self.run = Some(Running { standing, vid });
        }
        noted
    }

    /// Judges a frame once more that was refused since its headers run past the snapshot; any other stays refused.
    #[cold]
    #[inline(never)]
    fn pass_longer(
        &mut self,
        refusal: Refusal,
        slot: &mut Slot,
        index: u8,
        fanout: &mut Fanout,
    ) -> Result<(), Refusal> {
        if refusal.reason != DropReason::HeadersTooLong || !slot.can_extend() {
            return Err(refusal);
        }
        let frame = Frame::parse(slot.snapshot(), slot.len)?;
        let want = if Policy::is_dhcp(&frame) {
            LONG_MAX
        } else {
            SNAPSHOT_MAX
        };
        self.extend(slot, index, want);
        self.judge.see_again();
        self.pass_alone(slot, index, fanout)
    }

    /// Makes a frame private whole from which leases are learned.
    #[cold]
    #[inline(never)]
    fn see_whole(&self, slot: &mut Slot, index: u8) {
        let wanted = Frame::parse(slot.snapshot(), slot.len)
            .is_ok_and(|frame| self.gate.policy.wants_whole(self.judge.source(), &frame));
        if wanted {
            self.extend(slot, index, LONG_MAX);
        }
    }

    /// Makes more of the frame private: headers run on, or a DHCP packet is to be read.
    #[cold]
    fn extend(&self, slot: &mut Slot, index: u8, want: usize) {
        if let Some(memory) = self.source.memory {
            slot.extend(memory, self.source.extents(index), want);
        }
    }

    /// The first frame of a guest: its address becomes its port's own, unless another port has it or was heard with it lately.
    #[cold]
    fn claim(&self, mac: Mac) -> Result<(), DropReason> {
        let fdb = self.gate.fabric.fdb();
        let taken = fdb.claim(self.judge.source(), mac, self.now);
        taken.map_err(|error| {
            let was_sought = matches!(error, StaticError::Heard { .. });
            self.judge.refuse_claim(mac, was_sought);
            DropReason::MacOfOtherPort
        })
    }

    /// Notes all receivers of a frame that goes to many.
    #[inline(never)]
    fn flood(
        &mut self,
        admitted: Admitted<'_>,
        slot: &Slot,
        destinations: Destinations,
        index: u8,
        fanout: &mut Fanout,
    ) -> Result<(), Refusal> {
        self.judge.may_flood(admitted.frame(), slot.weight())?;
        let mut refusal = Refusal::from(DropReason::NoDestination);
        let mut copies = 0u32;
        for to in self.gate.fabric.ports(&destinations).iter() {
            // A port without a guest is no destination of a flood; a guest that is not ready loses nothing.
            if !self.ports.get(to).is_some_and(|lanes| lanes.is_receiving()) {
                continue;
            }
            self.flooded = self.flooded.saturating_add(ASKED);
            match self.judge.permit(admitted, to) {
                Ok(permit) => {
                    self.flooded = self.flooded.saturating_add(slot.len);
                    fanout.push(&permit, index);
                    copies = copies.wrapping_add(1); // at most MAX_PORTS
                }
                Err(refused) => {
                    self.refused = self.refused.saturating_add(1);
                    refusal = refused;
                    if refused.reason == DropReason::HeadersTooLong && slot.can_extend() {
                        // Judged anew for all, those too that have no list and asked for no more.
                        fanout.withdraw(index);
                        return Err(refused);
                    }
                }
            }
        }
        if copies == 0 { Err(refusal) } else { Ok(()) }
    }

    /// What the sender asks for, judged against the headers of the frame. Headers that run past the snapshot extend it,
    /// once.
    #[inline(never)]
    fn asked_for(&self, slot: &mut Slot, index: u8) -> Result<Offload, DropReason> {
        match self.judge_offload(slot) {
            Err(DropReason::HeadersTooLong) if slot.can_extend() => {
                self.extend(slot, index, SNAPSHOT_MAX);
                self.judge_offload(slot)
            }
            first => first,
        }
    }

    fn judge_offload(&self, slot: &Slot) -> Result<Offload, DropReason> {
        Offload::judge(&slot.sent(self.framing), slot.len, self.sender, || {
            Headers::of(&Frame::parse(slot.snapshot(), slot.len)?)
        })
    }
}
