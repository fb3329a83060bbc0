//! One burst of one source before the gate.
//!
//! A [`Judge`] is called for a burst: what does not change from frame to frame is looked up once. Frame by frame it is asked
//! [`admit`](Judge::admit), and then for each receiver [`permit`](Judge::permit); or, for one that is like an earlier one of the
//! burst, [`again`](Judge::again).

use std::sync::Arc;

use super::cache::{Cache, Decided, Judged, Opened, Place, Stamp};
use super::context::{Context, Trace};
use super::digest::Digest;
use super::gate::{Bound, Policy};
use super::groups::is_membership;
use super::guard::Outcome;
use super::is_reserved;
use super::lease::{self, Voice};
use super::lists::{Say, consult, covered};
use super::rule::Action;
use super::run::{Follow, HEAD, Run, Shape};
use super::scan::is_of_a_scan;
use super::state::PortState;
use super::subject::State;
use super::track::{self, Burst, Seat, Terms};
use super::verdict::{Admitted, Permit, Refusal, Weight};
use crate::clock::Tick;
use crate::counters::{DropReason, PortId};
use crate::frame::{Frame, Mac, protocol};

/// A worker's place before the gate. One for each worker.
#[derive(Debug, Default)]
pub struct Desk(Option<Seat>);

/// See the head of this file.
#[derive(Debug)]
pub struct Judge<'a> {
    policy: &'a Policy,
    source: PortId,
    bound: Option<(&'a Bound, &'a PortState)>,
    /// Nothing is refused but what nobody may send: neither the port nor anybody else has a policy that would ask for more.
    is_plain: bool,
    context: &'a mut Context,
    /// Where nothing is tracked there is none.
    burst: Option<Burst<'a>>,
    run: Option<Run>,
    now: Tick,
}

impl Policy {
    /// Begins a burst of frames from `source`. `context` is that port's, `desk` the worker's.
    #[inline]
    pub fn judge<'a>(
        &'a self,
        source: PortId,
        context: &'a mut Context,
        desk: &'a mut Desk,
        now: Tick,
    ) -> Judge<'a> {
        let burst = if self.tracks() { self.sit(desk) } else { None };
        let bound = self.bound(source).zip(self.state().port(source));
        Judge {
            policy: self,
            source,
            bound,
            is_plain: self.is_plain()
                && bound.is_some_and(|(bound, _)| bound.is_shallow && !bound.sends_metered),
            context,
            burst,
            run: None,
            now,
        }
    }

    #[inline(never)]
    fn sit<'a>(&self, desk: &'a mut Desk) -> Option<Burst<'a>> {
        let tracker = self.state().tracker();
        if !matches!(&desk.0, Some(seat) if Arc::ptr_eq(seat.tracker(), tracker)) {
            desk.0 = tracker.seat();
        }
        desk.0.as_mut().map(Seat::burst)
    }
}

impl Judge<'_> {
    /// Whose frames are judged.
    #[inline]
    pub fn source(&self) -> PortId {
        self.source
    }

    /// Takes back a claim that could not be met: see [`Admitted::claim`].
    pub fn release(&self, mac: Mac) {
        if let Some((_, port)) = self.bound {
            port.guard.release(mac);
        }
    }

    /// How the last pair was judged.
    pub fn trace(&self) -> Trace {
        self.context.trace()
    }

    /// Judges a frame by the port that it came from: what it may say ([`super::guard`]) and how much.
    ///
    /// # Errors
    ///
    /// The reasons of the guard and of the sender's limits; [`DropReason::HeadersTooLong`] when a longer snapshot may
    /// change the answer: then the caller extends it and asks once more.
    #[inline(always)]
    pub fn admit<'f>(
        &mut self,
        frame: Frame<'f>,
        weight: impl FnOnce() -> Weight,
    ) -> Result<Admitted<'f>, DropReason> {
        if !frame.src().is_station() {
            return Err(DropReason::SourceMacInvalid);
        }
        if frame.dst().is_group() {
            self.admit_group(frame.dst())?;
        }
        let claims = !self.is_plain && self.admit_guarded(frame, weight)?;
        Ok(Admitted {
            source: self.source,
            frame,
            claims,
        })
    }

    /// Whether any port may send to that group, and this one to one more.
    #[inline(never)]
    fn admit_group(&self, group: Mac) -> Result<(), DropReason> {
        if is_reserved(group) {
            return Err(DropReason::ReservedGroup);
        }
        match self.bound {
            Some((bound, port)) if bound.limits.groups != 0 && !group.is_broadcast() => {
                let may = port.groups.admit(group, bound.limits.groups, self.now);
                may.then_some(()).ok_or(DropReason::GroupLimit)
            }
            _ => Ok(()),
        }
    }

    /// Quarantine, guard and meters. Says whether the frame claims its source address.
    #[inline(always)]
    fn admit_guarded(
        &mut self,
        frame: Frame<'_>,
        weight: impl FnOnce() -> Weight,
    ) -> Result<bool, DropReason> {
        let Some((bound, port)) = self.bound else {
            return Err(DropReason::NoPolicy);
        };
        if self.policy.quarantine().silences(self.source) {
            return Err(DropReason::Quarantined);
        }
        self.context.frame.is_digested = false;
        let mut claims = false;
        if !bound.is_shallow {
            let hash = self.look_up(bound, port, &frame);
            if self.context.frame.place.is_none() {
                claims = self.guard(bound, port, frame, hash)?;
            }
        }
        if bound.sends_metered
            && let Err(reason) = self.send_metered(bound, port, frame, weight())
        {
            if claims {
                // Nobody enters the address of a frame that is refused: a later one has to claim it.
                port.guard.release(frame.src());
            }
            return Err(reason);
        }
        Ok(claims)
    }

    /// Asks the guard about a frame that nothing is known of. Says whether it claims its source address.
    #[inline(never)]
    fn guard(
        &mut self,
        bound: &Bound,
        port: &PortState,
        frame: Frame<'_>,
        hash: u64,
    ) -> Result<bool, DropReason> {
        let digest = &self.context.frame.digest;
        // Before the guard, which may keep an address with the frame that it lets pass.
        if digest.is_control && is_membership(&digest.subject) {
            let (meter, bucket) = (&bound.limits.membership, &port.buckets.membership);
            if !meter.take(bucket, 1, self.now) {
                return Err(DropReason::MembershipRate);
            }
        }
        let outcome = bound.guard.judge(&port.guard, &frame, digest, self.now)?;
        if !digest.is_control && outcome == Outcome::Pass {
            self.keep(hash);
        }
        Ok(outcome != Outcome::Pass)
    }

    /// Makes the digest and looks for its subject in the cache; returns the subject's hash.
    #[inline(always)]
    fn look_up(&mut self, bound: &Bound, port: &PortState, frame: &Frame<'_>) -> u64 {
        let vid = match frame.tag() {
            None => bound.untagged,
            Some(tag) => tag.vid(),
        };
        let judging = &mut self.context.frame;
        judging.stamp = Stamp::new(self.policy.epoch(), port.guard.generation(self.now));
        judging.digest.read(frame, vid);
        judging.word = self.policy.key(judging.digest.subject.0[0]);
        judging.is_digested = true;
        judging.place = None;
        if judging.digest.is_control {
            return 0;
        }
        let cache = self
            .context
            .cache
            .get_or_insert_with(|| Box::new(Cache::new()));
        let (hash, place) = cache.find(&judging.digest.subject, judging.word, judging.stamp);
        judging.place = place;
        hash
    }

    /// Keeps the subject of the frame that is being judged: nothing is known yet of any receiver.
    fn keep(&mut self, hash: u64) {
        let (key, stamp) = (self.context.frame.key(), self.context.frame.stamp);
        if let Some(cache) = self.context.cache.as_mut() {
            self.context.frame.place = cache.keep(hash, &key, stamp);
        }
    }

    #[inline(never)]
    fn send_metered(
        &self,
        bound: &Bound,
        port: &PortState,
        frame: Frame<'_>,
        weight: Weight,
    ) -> Result<(), DropReason> {
        let (limits, buckets) = (&bound.limits, &port.buckets);
        let frames = u64::from(weight.frames);
        if frame.dst().is_group() {
            let (meter, bucket, reason) = if frame.dst().is_broadcast() {
                let reason = DropReason::StormBroadcast;
                (&limits.broadcast, &buckets.broadcast, reason)
            } else {
                let reason = DropReason::StormMulticast;
                (&limits.multicast, &buckets.multicast, reason)
            };
            if !meter.take(bucket, frames, self.now) {
                return Err(reason);
            }
        }
        let bits = u64::from(weight.bytes).saturating_mul(8);
        let passes = limits
            .send_frames
            .take(&buckets.send_frames, frames, self.now)
            && limits.send_bits.take(&buckets.send_bits, bits, self.now);
        if passes {
            Ok(())
        } else {
            Err(DropReason::SendRate)
        }
    }

    /// Whether a frame whose destination is unknown may be flooded. Group frames may, as far as this goes.
    ///
    /// # Errors
    ///
    /// [`DropReason::StormUnknown`].
    pub fn may_flood(&self, frame: &Frame<'_>, weight: Weight) -> Result<(), DropReason> {
        let Some((bound, port)) = self.bound else {
            return Err(DropReason::NoPolicy);
        };
        let (meter, bucket) = (&bound.limits.unknown, &port.buckets.unknown);
        if frame.dst().is_group() || meter.take(bucket, weight.frames.into(), self.now) {
            Ok(())
        } else {
            Err(DropReason::StormUnknown)
        }
    }

    /// The leave for a frame that nothing tells from those of the present run ([`super::run`]): they were admitted, and permitted
    /// to that one receiver. `head` is the beginning of a frame of `len` bytes; what it holds past the frame's end does not
    /// matter. `None` for any other frame, which is to be judged.
    #[inline(always)]
    pub fn again<'f>(
        &mut self,
        head: &[u8; HEAD],
        len: u32,
        frame: impl FnOnce() -> Option<Frame<'f>>,
    ) -> Option<Permit> {
        let run = self.run.as_mut()?;
        if !run.shape.has(head, len) {
            return None;
        }
        if let Follow::Segments(flow, direction, digest) = &mut run.follow {
            digest.end = run.shape.end(head);
            let burst = self.burst.as_ref()?;
            let state = burst.advance(*flow, *direction, digest, &frame()?, self.now)?;
            if state != State::Established {
                return None;
            }
        }
        if let Follow::Rules(_, opened) = run.follow {
            let to = run.to;
            if opened != self.opened(to) {
                return None;
            }
        }
        let run = self.run.as_mut()?;
        run.frames = run.frames.wrapping_add(1); // a burst has 64 frames at most
        run.bytes = run.bytes.wrapping_add(len); // of 65,554 bytes at most
        Some(Permit {
            from: self.source,
            to: run.to,
        })
    }

    /// Begins a run with the untagged frame that was admitted last and permitted to this one receiver, if there may be one: `head`
    /// is its beginning. Says whether there is; if not, the one before it goes on.
    #[inline(never)]
    pub fn begin_run(&mut self, head: &[u8; HEAD], len: u32, to: PortId) -> bool {
        let run = self.run_of(head, len, to);
        let begins = run.is_some();
        if begins {
            self.end_run();
            self.run = run;
        }
        begins
    }

    fn run_of(&mut self, head: &[u8; HEAD], len: u32, to: PortId) -> Option<Run> {
        let (source, _) = self.bound?;
        let is_free = source.is_free() && self.policy.bound(to)?.is_free();
        let run = |shape, follow| Run {
            shape,
            to,
            follow,
            frames: 0,
            bytes: 0,
        };
        if source.sends_metered {
            return None;
        }
        let is_unread = source.is_shallow && is_free && !self.policy.watches_leases();
        if self.is_plain || is_unread {
            return Some(run(Shape::of_stations(head), Follow::Free));
        }
        let judging = &self.context.frame;
        let place = judging.place.filter(|_| judging.is_digested);
        let before = std::mem::replace(&mut self.context.latest, place);
        let judging = &self.context.frame;
        if place.is_none() || place != before {
            return None; // flows take turns, as it seems
        }
        let follow = if is_free {
            Follow::Free
        } else {
            let known = self.context.cache.as_ref()?.get(place?)?;
            match known.pair.filter(|(peer, _)| *peer == to)?.1 {
                Judged::Pass(rules, opened) => Follow::Rules(rules, opened),
                Judged::Flow(flow, direction, State::Established) => {
                    if judging.digest.subject.protocol() == protocol::TCP {
                        Follow::Segments(flow, direction, judging.digest)
                    } else {
                        Follow::Packets(flow, direction)
                    }
                }
                Judged::Flow(..) | Judged::Refused(..) => return None,
            }
        };
        let shape = Shape::of_flow(head, len, &judging.digest)?;
        Some(run(shape, follow))
    }

    /// Enters into the books what a run has come to.
    fn end_run(&mut self) {
        let Some(run) = self.run.take() else { return };
        match run.follow {
            Follow::Free | Follow::Segments(..) => {}
            Follow::Rules(rules, _) => {
                for rule in rules.into_iter().filter_map(Decided::rule) {
                    self.policy.hit_often(rule, run.frames.into());
                }
            }
            Follow::Packets(flow, direction) => {
                if let Some(burst) = &self.burst
                    && run.frames != 0
                {
                    burst.count(flow, direction, run.frames, run.bytes, self.now);
                }
            }
        }
    }

    /// Judges the pair of the source of the frame that was admitted last and one receiver.
    ///
    /// # Errors
    ///
    /// The reasons of the two lists, of connection tracking, and of quarantine.
    #[inline(always)]
    pub fn permit(&mut self, admitted: Admitted<'_>, to: PortId) -> Result<Permit, Refusal> {
        if !self.policy.binds(to) {
            return Err(DropReason::NoPolicy.into());
        }
        if !self.is_plain {
            self.permit_judged(admitted, to)?;
        }
        Ok(Permit {
            from: self.source,
            to,
        })
    }

    /// Quarantine, connection tracking, lists.
    #[inline(never)]
    fn permit_judged(&mut self, admitted: Admitted<'_>, to: PortId) -> Result<(), Refusal> {
        let (Some((source, port)), Some(receiver)) = (self.bound, self.policy.bound(to)) else {
            return Err(DropReason::NoPolicy.into());
        };
        if self.policy.quarantine().separates(self.source, to) {
            return Err(DropReason::Quarantined.into());
        }
        if !(source.is_free() && receiver.is_free()) {
            self.judge_pair(source, port, receiver, &admitted, to)?;
        }
        if self.policy.watches_leases() {
            self.overhear(source, receiver, &admitted, to);
        }
        Ok(())
    }

    #[inline(always)]
    fn judge_pair(
        &mut self,
        source: &Bound,
        port: &PortState,
        receiver: &Bound,
        admitted: &Admitted<'_>,
        to: PortId,
    ) -> Result<(), Refusal> {
        if !self.context.frame.is_digested {
            let hash = self.look_up(source, port, &admitted.frame);
            if self.context.frame.place.is_none() && !self.context.frame.digest.is_control {
                self.keep(hash);
            }
        }
        match self.known(&admitted.frame, to) {
            Some(Ok(())) => Ok(()),
            Some(Err(refusal)) => {
                // Nothing more of it is kept, but an earlier frame's trace is not this one's.
                self.context.frame.last = Trace {
                    to: Some(to),
                    ..Trace::default()
                };
                Err(refusal)
            }
            None => self.ask(source, receiver, &admitted.frame, to),
        }
    }

    /// The verdict that is kept for the frame and this receiver, if it still holds.
    #[inline(always)]
    fn known(&self, frame: &Frame<'_>, to: PortId) -> Option<Result<(), Refusal>> {
        let place = self.context.frame.place?;
        let known = self.context.cache.as_ref()?.get(place)?;
        let (peer, judged) = known.pair?;
        if peer != to {
            return None;
        }
        match judged {
            Judged::Flow(flow, direction, state) => {
                let digest = &self.context.frame.digest;
                let burst = self.burst.as_ref()?;
                let found = burst.advance(flow, direction, digest, frame, self.now);
                (found == Some(state)).then_some(Ok(()))
            }
            Judged::Pass(rules, opened) => {
                if opened != self.opened(to) {
                    return None;
                }
                for rule in rules.into_iter().filter_map(Decided::rule) {
                    self.policy.hit(rule);
                }
                Some(Ok(()))
            }
            Judged::Refused(reason, decided, opened) => {
                if opened != self.opened(to) {
                    return None;
                }
                if let Some(rule) = decided.rule() {
                    self.policy.hit(rule);
                }
                let refusal = decided.refusal(reason);
                self.note(to, refusal);
                Some(Err(self.answered(refusal)))
            }
        }
    }

    /// How many connections the two ports have opened: while it stays, no packet without one has become part of one.
    fn opened(&self, to: PortId) -> Opened {
        let tracker = self.policy.state().tracker();
        Opened::new(tracker.opened(self.source), tracker.opened(to))
    }

    /// A refusal, with an answer to the sender only as often as he is answered at all.
    fn answered(&self, refusal: Refusal) -> Refusal {
        let answer = refusal.answer && self.policy.may_answer(self.source, self.now);
        refusal.with_answer(answer)
    }

    /// Leaves notes of a frame that is refused: for the log, if the rule asks for it, and for the count of ends.
    #[inline]
    fn note(&self, to: PortId, refusal: Refusal) {
        if is_of_a_scan(refusal.reason) {
            let subject = &self.context.frame.digest.subject;
            self.policy.state().note_refused(self.source, subject);
        }
        if let Some(rule) = refusal.rule().filter(|_| refusal.log) {
            let subject = &self.context.frame.digest.subject;
            self.policy.note((self.source, to), rule, subject, self.now);
        }
    }

    /// Connection tracking and the two lists.
    #[inline(never)]
    fn ask(
        &mut self,
        source: &Bound,
        receiver: &Bound,
        frame: &Frame<'_>,
        to: PortId,
    ) -> Result<(), Refusal> {
        let digest = self.context.frame.digest;
        if digest.runs_on {
            return Err(DropReason::HeadersTooLong.into());
        }
        // Before anything is looked at: what changes meanwhile makes the verdict stale, not wrong.
        let opened = self.opened(to);
        let from = self.source;
        let Some(burst) = self.burst.as_ref() else {
            return Err(DropReason::ConnectionLimit.into());
        };
        let mut look = burst.look(&digest, frame, from, to, self.now);
        if !self.is_current(&mut look) {
            look = burst.look(&digest, frame, from, to, self.now);
        }
        let [outbound, inbound] = match look.flow {
            None => [false; 2],
            Some((_, direction)) => covered(&look.terms, direction),
        };
        let subject = digest.subject.in_state(look.state);
        let policy = self.policy;
        let outbound = consult(policy, source.outbound.as_deref(), to, &subject, outbound);
        let inbound = consult(policy, receiver.inbound.as_deref(), from, &subject, inbound);
        self.context.frame.last = Trace {
            state: Some(look.state),
            outbound: outbound.decision(),
            inbound: inbound.decision(),
            to: Some(to),
        };
        let verdict = self
            .heed(outbound, look.state, DropReason::DeniedOutbound)
            .and_then(|()| self.heed(inbound, look.state, DropReason::DeniedInbound));
        if let Err(refusal) = verdict {
            let decided = Decided::of(&refusal);
            if self.keeps(&look) {
                self.remember(to, Judged::Refused(refusal.reason, decided, opened));
            }
            self.note(to, refusal);
            return Err(self.answered(refusal));
        }
        let terms = self.policy.terms(source, receiver, outbound, inbound);
        if look.state == State::New && terms.is_some() {
            // What opens may end the connection of the present run, for want of room, or take it elsewhere.
            self.end_run();
        }
        let flow = self.follow(&look, terms.as_ref(), frame, to, &digest)?;
        for rule in [outbound, inbound].into_iter().filter_map(Say::rule) {
            if policy.logs(rule) {
                policy.note((from, to), rule, &digest.subject, self.now);
            }
        }
        let rules = [outbound, inbound].map(|say| Decided::by(say.rule()));
        match flow {
            Some((flow, direction)) => {
                self.remember(to, Judged::Flow(flow, direction, State::Established));
            }
            None if self.keeps(&look) => self.remember(to, Judged::Pass(rules, opened)),
            None => {}
        }
        Ok(())
    }

    /// Whether a verdict that rests on no connection is that of every frame with the same subject, as long as none opens. Where
    /// there is one, it depends on more; and a segment without one opens it or not by its flags.
    fn keeps(&self, look: &track::Look) -> bool {
        let is_tcp = self.context.frame.digest.subject.protocol() == protocol::TCP;
        look.flow.is_none() && look.elsewhere.is_none() && (!is_tcp || self.policy.reads_flags())
    }

    /// Judges a connection again that an earlier policy let open; false if this one would not, and it is over.
    fn is_current(&self, look: &mut track::Look) -> bool {
        let (policy, tracker) = (self.policy, self.policy.state().tracker());
        let Some((flow, _)) = look.flow.filter(|_| !look.is_of(policy.epoch())) else {
            return true;
        };
        let terms = tracker
            .describe(flow, self.now)
            .and_then(|flow| policy.rejudge(&flow));
        match terms {
            Some(terms) => {
                tracker.affirm(flow, &terms, policy.epoch());
                look.terms = terms;
                true
            }
            None => {
                policy.state().note_ended(tracker.end(flow).into());
                false
            }
        }
    }

    /// What a say comes to.
    fn heed(&self, say: Say, state: State, denied: DropReason) -> Result<(), Refusal> {
        match say {
            Say::Free | Say::Addressing => Ok(()),
            Say::End if state == State::Invalid => Err(DropReason::ConnectionInvalid.into()),
            Say::End => Err(DropReason::NotAllowed.into()),
            Say::Rule(decision) => {
                if let Some(rule) = decision.rule {
                    self.policy.hit(rule);
                }
                let reason = match decision.action {
                    Action::Allow => return Ok(()),
                    Action::Deny => denied,
                    Action::Reject => DropReason::Rejected,
                };
                let log = decision.rule.is_some_and(|rule| self.policy.logs(rule));
                let answer = decision.action == Action::Reject;
                Err(Refusal::by(reason, decision.rule, answer, log))
            }
        }
    }

    /// The connection that a permitted frame belongs to, or opens on these terms.
    fn follow(
        &self,
        look: &track::Look,
        terms: Option<&Terms>,
        frame: &Frame<'_>,
        to: PortId,
        digest: &Digest,
    ) -> Result<Option<(track::FlowRef, track::Direction)>, Refusal> {
        if look.state == State::Established {
            return Ok(look.flow);
        }
        let (Some(terms), State::New, Some(burst)) = (terms, look.state, self.burst.as_ref())
        else {
            return Ok(None);
        };
        let epoch = self.policy.epoch();
        if let Some(moved) = look.elsewhere {
            let bound = burst.rebind(moved, digest, frame, to, terms, epoch, self.now);
            if let Some(flow) = bound {
                return Ok(Some((flow, track::Direction::Original)));
            }
        }
        let opened = burst.open(digest, frame, self.source, to, terms, epoch, self.now)?;
        Ok(Some(opened))
    }

    fn remember(&mut self, to: PortId, judged: Judged) {
        let place: Option<Place> = self.context.frame.place;
        if let (Some(place), Some(cache)) = (place, self.context.cache.as_mut())
            && let Some(known) = cache.get_mut(place)
        {
            known.pair = Some((to, judged));
        }
    }

    /// Learns from a DHCP packet that goes from one port to another whose an address is.
    #[cold]
    fn overhear(&mut self, source: &Bound, receiver: &Bound, admitted: &Admitted<'_>, to: PortId) {
        let Some(event) = lease::observe(&admitted.frame) else {
            return;
        };
        let (bound, port) = match event.voice {
            Voice::Server if source.guard.may().dhcp_server => (receiver, to),
            Voice::Server => return,
            Voice::Client => (source, self.source),
        };
        let policy = self.policy;
        let state = policy.state();
        if let Some(port) = state.port(port) {
            let vid = admitted
                .frame
                .tag()
                .map_or(source.untagged, |tag| tag.vid());
            let is_other = lease::settle(
                &event,
                vid,
                (&bound.guard, &port.guard),
                state.guards(),
                self.now,
            );
            if is_other {
                // The lease that came or went may have been what the frames of the present run rest on.
                self.end_run();
            }
        }
    }
}

impl Drop for Judge<'_> {
    fn drop(&mut self) {
        self.end_run();
    }
}
