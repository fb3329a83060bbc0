//! The second question, of a sender and one receiver: quarantine, what is kept, connection tracking, the two lists.

use super::Judge;
use crate::counters::{DropReason, PortId};
use crate::frame::{Frame, protocol};
use crate::policy::cache::{Decided, Judged, Opened, Place};
use crate::policy::context::{Heard, Trace};
use crate::policy::gate::Bound;
use crate::policy::lease::{self, Voice};
use crate::policy::lists::{Say, consult, covered};
use crate::policy::rule::Action;
use crate::policy::scan::is_of_a_scan;
use crate::policy::state::PortState;
use crate::policy::subject::State;
use crate::policy::track::{self, Terms};
use crate::policy::verdict::{Admitted, Permit, Refusal};

impl Judge<'_> {
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
            let hash = self.look_up(source, port, admitted.frame);
            if self.context.frame.place.is_none() && !self.context.frame.digest.is_control {
                self.keep(hash);
            }
        }
        match self.known(admitted.frame, to) {
            Some(Ok(())) => {
                self.context.frame.is_kept = true;
                Ok(())
            }
            Some(Err(refusal)) => {
                // Nothing more of it is kept, but an earlier frame's trace is not this one's.
                self.context.frame.last = Trace {
                    to: Some(to),
                    ..Trace::default()
                };
                Err(refusal)
            }
            None => self.ask(source, receiver, admitted.frame, to),
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
    pub(super) fn opened(&self, to: PortId) -> Opened {
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
        let digest = &self.context.frame.digest;
        if digest.runs_on {
            return Err(DropReason::HeadersTooLong.into());
        }
        // Before anything is looked at: what changes meanwhile makes the verdict stale, not wrong.
        let opened = self.opened(to);
        let from = self.source;
        self.sought.note(self.policy.state().tracker(), [from, to]);
        let Some(burst) = self.burst.as_ref() else {
            return Err(DropReason::ConnectionLimit.into());
        };
        let hint = self.context.frame.hint;
        let mut look = burst.look_near(digest, frame, from, to, hint, self.now);
        if !self.is_current(&mut look) {
            look = burst.look(digest, frame, from, to, self.now);
        }
        let [outbound, inbound] = self.covers(source, receiver, &look);
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
        let flow = self.follow(&look, terms.as_ref(), frame, to)?;
        for rule in [outbound, inbound].into_iter().filter_map(Say::rule) {
            if policy.logs(rule) {
                let subject = &self.context.frame.digest.subject;
                policy.note((from, to), rule, subject, self.now);
            }
        }
        let rules = [outbound, inbound].map(|say| Decided::by(say.rule()));
        match flow {
            // What is said of the packet that opens is not said of those behind it: rules tell new ones from established ones.
            Some(_) if look.state == State::New => {}
            Some((flow, direction)) => {
                self.remember(to, Judged::Flow(flow, direction, State::Established));
            }
            None if self.keeps(&look) => self.remember(to, Judged::Pass(rules, opened)),
            None => {}
        }
        Ok(())
    }

    /// Whether the outbound list of the source and the inbound list of the receiver are covered by the packet's connection. One
    /// with rules about MAC addresses is, between the two stations that opened it, and no others: behind a port there may be many.
    fn covers(&self, source: &Bound, receiver: &Bound, look: &track::Look) -> [bool; 2] {
        let Some((flow, direction)) = look.flow else {
            return [false; 2];
        };
        let [outbound, inbound] = covered(&look.terms, direction);
        let (sends, receives) = (source.outbound_reads_macs, receiver.inbound_reads_macs);
        if !(outbound && sends || inbound && receives) {
            return [outbound, inbound];
        }
        let tracker = self.policy.state().tracker();
        let is_between = tracker.describe(flow, self.now).is_some_and(|flow| {
            let subject = &self.context.frame.digest.subject;
            let (opener, peer) = match direction {
                track::Direction::Original => (subject.src_mac(), subject.dst_mac()),
                track::Direction::Reply => (subject.dst_mac(), subject.src_mac()),
            };
            (flow.src_mac, flow.dst_mac) == (opener, peer)
        });
        [
            outbound && (is_between || !sends),
            inbound && (is_between || !receives),
        ]
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
    ) -> Result<Option<(track::FlowRef, track::Direction)>, Refusal> {
        if look.state == State::Established {
            return Ok(look.flow);
        }
        let (Some(terms), State::New, Some(burst)) = (terms, look.state, self.burst.as_ref())
        else {
            return Ok(None);
        };
        let (epoch, digest) = (self.policy.epoch(), &self.context.frame.digest);
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
            self.context.frame.is_kept = true;
        }
    }

    /// Learns from a DHCP packet that goes from one port to another whose an address is.
    #[cold]
    fn overhear(&mut self, source: &Bound, receiver: &Bound, admitted: &Admitted<'_>, to: PortId) {
        let heard = match self.context.frame.heard {
            Heard::NotYet => lease::observe(admitted.frame),
            Heard::Nothing => None,
            Heard::Event(event) => Some(event),
        };
        // What a client says is about its own leases, whoever else hears it.
        self.context.frame.heard = match heard {
            Some(event) if event.voice == Voice::Server => Heard::Event(event),
            _ => Heard::Nothing,
        };
        let Some(event) = heard else { return };
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
