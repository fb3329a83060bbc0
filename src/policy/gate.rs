//! One whole policy, compiled: admission by the source, permission by the pair.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::acl::{Classifier, Compiler, TooLarge};
use super::cache::{Cache, Decided, Judged, Opened, Stamp};
use super::context::{Context, Judging, Trace};
use super::digest::Digest;
use super::guard::{Guard, Outcome};
use super::lease::{self, Voice};
use super::meter::Meter;
use super::rule::{Action, Decision, Direction, Rule, RuleId};
use super::spec::{LimitSpec, PolicySpec, PortPolicy, Rate};
use super::state::{PortState, State};
use super::subject;
use super::track;
use super::verdict::{Admitted, Permit, Refusal, Weight};
use super::is_reserved;
use crate::clock::Tick;
use crate::counters::{DropReason, PortId, PortSet};
use crate::frame::ethernet::ethertype;
use crate::frame::{Frame, Transport, Vid, dhcp, dhcpv6, protocol};

/// Answers to rejected frames that a port is sent: ten a second, twenty at once.
const ANSWERS: Rate = Rate {
    per_second: 10,
    burst: 20,
};
/// RARP, with which a switch announces a guest that has moved.
const RARP: u16 = 0x8035;

/// One whole policy. See the head of the room.
#[derive(Debug)]
pub struct Policy {
    epoch: u64,
    ports: Box<[Option<Bound>]>,
    rules: Box<[RuleInfo]>,
    hits: Box<[AtomicU64]>,
    answers: Meter,
    /// Word 0 without the TCP flags, where no rule reads them: a connection then is one subject each way.
    read: u64,
    /// Some port has the addresses of its DHCP leases.
    watches_leases: bool,
    state: Arc<State>,
}

/// What a policy says of one port.
#[derive(Debug)]
struct Bound {
    guard: Guard,
    outbound: Option<Arc<Classifier>>,
    inbound: Option<Arc<Classifier>>,
    limits: Limits,
    untagged: u16,
    quarantine: Option<PortSet>,
    /// Nothing of its frames needs to be read but their addresses.
    is_shallow: bool,
    sends_metered: bool,
    receives_metered: bool,
}

#[derive(Debug)]
struct Limits {
    send_bits: Meter,
    send_frames: Meter,
    receive_bits: Meter,
    receive_frames: Meter,
    broadcast: Meter,
    multicast: Meter,
    unknown: Meter,
}

impl Limits {
    fn new(spec: &LimitSpec) -> Self {
        Self {
            send_bits: Meter::new(spec.send_bits),
            send_frames: Meter::new(spec.send_frames),
            receive_bits: Meter::new(spec.receive_bits),
            receive_frames: Meter::new(spec.receive_frames),
            broadcast: Meter::new(spec.broadcast),
            multicast: Meter::new(spec.multicast),
            unknown: Meter::new(spec.unknown),
        }
    }
}

/// What is known of a rule besides what it matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleInfo {
    /// For people; may be empty.
    pub name: String,
    /// Where it was written.
    pub origin: String,
    /// What it does.
    pub action: Action,
    stateless: bool,
    log: bool,
}

/// What one list says of a frame.
#[derive(Clone, Copy, Debug)]
enum Say {
    /// There is no list, or the frame is addressing that reached the end of one.
    Free,
    /// A rule.
    Rule(Decision),
    /// The end of the list.
    End,
}

impl Policy {
    /// Compiles a specification; whoever replaces a policy counts the epoch up and hands on the state.
    ///
    /// # Errors
    ///
    /// [`TooLarge`] when the lists come to more than the classifier takes.
    pub fn compile(epoch: u64, spec: &PolicySpec, state: Arc<State>) -> Result<Self, TooLarge> {
        let mut compiler = Compiler::new(crate::counters::MAX_PORTS);
        let nothing: Arc<[Rule]> = Arc::new([]);
        let ports = spec.ports.iter().zip(0..).map(|(port, index)| {
            match (port, PortId::new(index)) {
                (Some(port), Some(id)) => {
                    let default = spec.default_deny.then_some(&nothing);
                    Bound::new(id, port, default, &mut compiler).map(Some)
                }
                _ => Ok(None),
            }
        });
        let ports = ports.collect::<Result<Box<[_]>, TooLarge>>()?;
        let rules: Box<[RuleInfo]> = compiler
            .lists()
            .iter()
            .flat_map(|(_, list)| list.iter().map(RuleInfo::of))
            .collect();
        let watches_leases = ports.iter().flatten().any(|bound| bound.guard.max_leases() != 0);
        let reads_flags = compiler.lists().iter().any(|(_, list)| list.iter().any(|rule| rule.flags.is_some()));
        Ok(Self {
            epoch,
            ports,
            read: if reads_flags { u64::MAX } else { !subject::mask(subject::field::FLAGS) },
            hits: rules.iter().map(|_| AtomicU64::new(0)).collect(),
            rules,
            answers: Meter::new(ANSWERS),
            watches_leases,
            state,
        })
    }

    /// No policy at all: these ports may do what they like. For benches and tests of what is not policy.
    pub fn open(epoch: u64, ports: impl IntoIterator<Item = PortId>) -> Self {
        let spec = PolicySpec::open(ports);
        let state = State::new(&spec.tracking);
        // Without lists nothing is compiled that could be too large; and without ports nothing passes.
        Self::compile(epoch, &spec, Arc::clone(&state)).unwrap_or_else(|_| Self {
            epoch,
            ports: Box::default(),
            rules: Box::default(),
            hits: Box::default(),
            answers: Meter::default(),
            read: u64::MAX,
            watches_leases: false,
            state,
        })
    }

    /// Which policy this is: what was judged under another epoch is to be judged again.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// What policies of this switch remember.
    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// Whether the policy names that port; frames of and to others do not pass.
    pub fn binds(&self, port: PortId) -> bool {
        self.bound(port).is_some()
    }

    /// A rule by its id.
    pub fn rule(&self, id: RuleId) -> Option<&RuleInfo> {
        self.rules.get(id.0 as usize)
    }

    /// Each rule with the number of frames that it decided: of a connection the one that opened it.
    pub fn rules(&self) -> impl Iterator<Item = (RuleId, &RuleInfo, u64)> {
        (0..)
            .map(RuleId)
            .zip(&self.rules)
            .zip(&self.hits)
            .map(|((id, rule), hits)| (id, rule, hits.load(Ordering::Relaxed)))
    }

    #[inline(always)]
    fn bound(&self, port: PortId) -> Option<&Bound> {
        self.ports.get(port.index())?.as_ref()
    }

    /// Judges a frame by the port that it came from: what it may say ([`super::guard`]) and how much.
    ///
    /// # Errors
    ///
    /// The reasons of the guard and of the sender's limits; [`DropReason::HeadersTooLong`] when a longer snapshot may
    /// change the answer: then the caller extends it and asks once more.
    #[inline]
    pub fn admit<'a>(
        &self,
        source: PortId,
        frame: Frame<'a>,
        weight: Weight,
        context: &mut Context,
        now: Tick,
    ) -> Result<Admitted<'a>, DropReason> {
        let Some(bound) = self.bound(source) else {
            return Err(DropReason::NoPolicy);
        };
        if !frame.src().is_station() {
            return Err(DropReason::SourceMacInvalid);
        }
        if frame.dst().is_group() && is_reserved(frame.dst()) {
            return Err(DropReason::ReservedGroup);
        }
        context.frame.is_digested = false;
        let mut claims = false;
        if !bound.is_shallow {
            claims = self.guarded(source, bound, &frame, context, now)?;
        }
        if bound.sends_metered {
            self.send_metered(source, bound, &frame, weight, now)?;
        }
        Ok(Admitted {
            source,
            frame,
            claims,
        })
    }

    /// Digest, flow cache, and on a miss the guard. Says whether the frame claims its source address.
    #[inline(always)]
    fn guarded(
        &self,
        source: PortId,
        bound: &Bound,
        frame: &Frame<'_>,
        context: &mut Context,
        now: Tick,
    ) -> Result<bool, DropReason> {
        let Some(port) = self.state.port(source) else {
            return Err(DropReason::NoPolicy);
        };
        let hash = self.look_up(bound, port, frame, context, now);
        if context.frame.place.is_some() {
            return Ok(false);
        }
        self.guard_missed(bound, port, frame, context, hash, now)
    }

    #[inline(never)]
    fn guard_missed(
        &self,
        bound: &Bound,
        port: &PortState,
        frame: &Frame<'_>,
        context: &mut Context,
        hash: u64,
        now: Tick,
    ) -> Result<bool, DropReason> {
        let digest = &context.frame.digest;
        if digest.runs_on && (bound.outbound.is_some() || bound.inbound.is_some()) {
            return Err(DropReason::HeadersTooLong);
        }
        let outcome = bound.guard.judge(&port.guard, frame, digest, now)?;
        if !digest.is_control && outcome == Outcome::Pass {
            keep(context, hash);
        }
        Ok(outcome != Outcome::Pass)
    }

    /// Makes the digest and looks for its subject in the cache; returns the subject's hash.
    #[inline(always)]
    fn look_up(
        &self,
        bound: &Bound,
        port: &PortState,
        frame: &Frame<'_>,
        context: &mut Context,
        now: Tick,
    ) -> u64 {
        let vid = match frame.tag() {
            None => bound.untagged,
            Some(tag) => tag.vid(),
        };
        let stamp = Stamp::new(self.epoch, port.guard.generation(now));
        let digest = Digest::of(frame, vid);
        let mut key = digest.subject;
        key.0[0] &= self.read;
        let cache = context.cache.get_or_insert_with(|| Box::new(Cache::new()));
        let (hash, place) = if digest.is_control {
            (0, None)
        } else {
            cache.find(&key, stamp)
        };
        context.frame = Judging {
            digest,
            key,
            is_digested: true,
            place,
            stamp,
            last: Trace::default(),
        };
        hash
    }

    #[inline(never)]
    fn send_metered(
        &self,
        source: PortId,
        bound: &Bound,
        frame: &Frame<'_>,
        weight: Weight,
        now: Tick,
    ) -> Result<(), DropReason> {
        let Some(port) = self.state.port(source) else {
            return Ok(());
        };
        let (limits, buckets) = (&bound.limits, &port.buckets);
        let frames = u64::from(weight.frames);
        if frame.dst().is_group() {
            let (meter, bucket, reason) = if frame.dst().is_broadcast() {
                (&limits.broadcast, &buckets.broadcast, DropReason::StormBroadcast)
            } else {
                (&limits.multicast, &buckets.multicast, DropReason::StormMulticast)
            };
            if !meter.take(bucket, frames, now) {
                return Err(reason);
            }
        }
        let bits = u64::from(weight.bytes).saturating_mul(8);
        let passes = limits.send_frames.take(&buckets.send_frames, frames, now)
            && limits.send_bits.take(&buckets.send_bits, bits, now);
        if passes {
            Ok(())
        } else {
            Err(DropReason::SendRate)
        }
    }

    /// Whether a frame to an unknown destination may be flooded.
    ///
    /// # Errors
    ///
    /// [`DropReason::StormUnknown`].
    pub fn may_flood(
        &self,
        admitted: &Admitted<'_>,
        weight: Weight,
        now: Tick,
    ) -> Result<(), DropReason> {
        let (Some(bound), Some(port)) = (
            self.bound(admitted.source),
            self.state.port(admitted.source),
        ) else {
            return Err(DropReason::NoPolicy);
        };
        let (meter, bucket) = (&bound.limits.unknown, &port.buckets.unknown);
        if admitted.frame.dst().is_group() || meter.take(bucket, weight.frames.into(), now) {
            Ok(())
        } else {
            Err(DropReason::StormUnknown)
        }
    }

    /// Whether what a port is sent is limited at all: else [`may_receive`](Self::may_receive) need not be asked.
    #[inline]
    pub fn limits_receiving(&self, to: PortId) -> bool {
        self.bound(to).is_some_and(|bound| bound.receives_metered)
    }

    /// Whether a port may be sent so much.
    ///
    /// # Errors
    ///
    /// [`DropReason::ReceiveRate`].
    pub fn may_receive(&self, to: PortId, weight: Weight, now: Tick) -> Result<(), DropReason> {
        let (Some(bound), Some(port)) = (self.bound(to), self.state.port(to)) else {
            return Err(DropReason::NoPolicy);
        };
        let (limits, buckets) = (&bound.limits, &port.buckets);
        let bits = u64::from(weight.bytes).saturating_mul(8);
        let passes = limits
            .receive_frames
            .take(&buckets.receive_frames, weight.frames.into(), now)
            && limits.receive_bits.take(&buckets.receive_bits, bits, now);
        if passes {
            Ok(())
        } else {
            Err(DropReason::ReceiveRate)
        }
    }

    /// Judges the pair of a frame's source and one receiver. `context` is that of [`admit`](Self::admit).
    ///
    /// # Errors
    ///
    /// The reasons of the two lists, of connection tracking, and of quarantine.
    #[inline]
    pub fn permit(
        &self,
        admitted: &Admitted<'_>,
        to: PortId,
        context: &mut Context,
        now: Tick,
    ) -> Result<Permit, Refusal> {
        let from = admitted.source;
        let (Some(source), Some(receiver)) = (self.bound(from), self.bound(to)) else {
            return Err(DropReason::NoPolicy.into());
        };
        if !(source.is_free() && receiver.is_free()) {
            self.permit_pair(source, receiver, admitted, to, context, now)?;
        }
        if self.watches_leases && context.frame.is_digested && context.frame.digest.is_control {
            self.overhear(source, receiver, admitted, to, context, now);
        }
        Ok(Permit { from, to })
    }

    /// Learns from a DHCP packet that goes from one port to another whose an address is.
    #[cold]
    fn overhear(
        &self,
        source: &Bound,
        receiver: &Bound,
        admitted: &Admitted<'_>,
        to: PortId,
        context: &Context,
        now: Tick,
    ) {
        let Some(event) = lease::observe(&admitted.frame) else {
            return;
        };
        let (bound, port) = match event.voice {
            Voice::Server if source.guard.may().dhcp_server => (receiver, to),
            Voice::Server => return,
            Voice::Client => (source, admitted.source),
        };
        if let Some(state) = self.state.port(port) {
            let vid = context.frame.digest.subject.vid();
            let all = self.state.guards();
            lease::settle(&event, vid, (&bound.guard, &state.guard), all, now);
        }
    }

    /// Whether a frame says something about leases, so that all of it has to be private before it is judged.
    #[inline]
    pub fn wants_whole(&self, source: PortId, frame: &Frame<'_>) -> bool {
        self.watches_leases && !frame.is_whole() && self.speaks_of_leases(source, frame)
    }

    #[cold]
    fn speaks_of_leases(&self, source: PortId, frame: &Frame<'_>) -> bool {
        let concerned = self
            .bound(source)
            .is_some_and(|bound| bound.guard.may().dhcp_server || bound.guard.max_leases() != 0);
        let Transport::Udp(udp) = frame.layers().transport else {
            return false;
        };
        let is_dhcp = |port| matches!(port, dhcp::SERVER | dhcp::CLIENT | dhcpv6::SERVER | dhcpv6::CLIENT);
        concerned && is_dhcp(udp.src_port()) && is_dhcp(udp.dst_port())
    }

    #[inline(never)]
    fn permit_pair(
        &self,
        source: &Bound,
        receiver: &Bound,
        admitted: &Admitted<'_>,
        to: PortId,
        context: &mut Context,
        now: Tick,
    ) -> Result<(), Refusal> {
        let from = admitted.source;
        if source.shuns(to) || receiver.shuns(from) {
            return Err(DropReason::Quarantined.into());
        }
        if !context.frame.is_digested {
            let Some(port) = self.state.port(from) else {
                return Err(DropReason::NoPolicy.into());
            };
            let hash = self.look_up(source, port, &admitted.frame, context, now);
            if context.frame.place.is_none() && !context.frame.digest.is_control {
                keep(context, hash);
            }
        }
        match self.known(admitted, to, context, now) {
            Some(verdict) => verdict,
            None => self.judge_pair(source, receiver, admitted, to, context, now),
        }
    }

    /// The verdict that is kept for the frame and this receiver, if it still holds.
    #[inline(always)]
    fn known(
        &self,
        admitted: &Admitted<'_>,
        to: PortId,
        context: &Context,
        now: Tick,
    ) -> Option<Result<(), Refusal>> {
        let judging = &context.frame;
        let known = context.cache.as_ref()?.get(judging.place?)?;
        let (peer, judged) = known.pair?;
        if peer != to {
            return None;
        }
        match judged {
            Judged::Flow(flow, direction, state) => {
                let tracker = self.state.tracker();
                let found = tracker.advance(flow, direction, &judging.digest, &admitted.frame, now);
                (found == Some(state)).then_some(Ok(()))
            }
            Judged::Pass(rules, opened) => {
                if opened != self.opened(admitted.source, to) {
                    return None;
                }
                for rule in rules.into_iter().filter_map(Decided::rule) {
                    self.hit(rule);
                }
                Some(Ok(()))
            }
            Judged::Refused(reason, decided, opened) => {
                if opened != self.opened(admitted.source, to) {
                    return None;
                }
                let refusal = decided.refusal(reason);
                if let Some(rule) = refusal.rule {
                    self.hit(rule);
                }
                let answer = refusal.answer && self.may_answer(admitted.source, now);
                Some(Err(Refusal { answer, ..refusal }))
            }
        }
    }

    /// How many connections the two ports have opened: while it stays, no packet without one has become part of one.
    fn opened(&self, from: PortId, to: PortId) -> Opened {
        let tracker = self.state.tracker();
        Opened::new(tracker.opened(from), tracker.opened(to))
    }

    fn hit(&self, rule: RuleId) {
        if let Some(hits) = self.hits.get(rule.0 as usize) {
            hits.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn may_answer(&self, to: PortId, now: Tick) -> bool {
        let port = self.state.port(to);
        port.is_some_and(|port| self.answers.take(&port.buckets.answers, 1, now))
    }

    /// Connection tracking and the two lists.
    #[inline(never)]
    fn judge_pair(
        &self,
        source: &Bound,
        receiver: &Bound,
        admitted: &Admitted<'_>,
        to: PortId,
        context: &mut Context,
        now: Tick,
    ) -> Result<(), Refusal> {
        if context.frame.digest.runs_on {
            return Err(DropReason::HeadersTooLong.into());
        }
        let from = admitted.source;
        // Before anything is looked at: what changes meanwhile makes the verdict stale, not wrong.
        let opened = self.opened(from, to);
        let tracker = self.state.tracker();
        let digest = context.frame.digest;
        let look = tracker.look(&digest, &admitted.frame, from, to, now);
        let lists = [
            (source.outbound.as_deref(), to),
            (receiver.inbound.as_deref(), from),
        ];
        let subject = digest.subject.in_state(look.state);
        let covered = look.flow.map_or([false; 2], |(flow, direction)| {
            covered(tracker.cover(flow), direction)
        });
        let mut says = [Say::Free; 2];
        for ((say, (list, peer)), covered) in says.iter_mut().zip(lists).zip(covered) {
            *say = consult(list, peer, &subject, covered);
        }
        let [outbound, inbound] = says;
        context.frame.last = Trace {
            state: Some(look.state),
            outbound: outbound.decision(),
            inbound: inbound.decision(),
            to: Some(to),
        };
        let verdict = self
            .heed(outbound, look.state, DropReason::DeniedOutbound)
            .and_then(|()| self.heed(inbound, look.state, DropReason::DeniedInbound));
        let judged = match verdict {
            Err(refusal) => {
                let decided = Decided::of(&refusal);
                self.remember(context, to, Judged::Refused(refusal.reason, decided, opened));
                let answer = refusal.answer && self.may_answer(from, now);
                return Err(Refusal { answer, ..refusal });
            }
            Ok(()) => self.follow(look, says, admitted, to, &digest, now)?,
        };
        let rules = says.map(|say| Decided::by(say.rule()));
        self.remember(context, to, judged.unwrap_or(Judged::Pass(rules, opened)));
        Ok(())
    }

    /// What a say comes to.
    fn heed(&self, say: Say, state: subject::State, denied: DropReason) -> Result<(), Refusal> {
        match say {
            Say::Free => Ok(()),
            Say::End if state == subject::State::Invalid => {
                Err(DropReason::ConnectionInvalid.into())
            }
            Say::End => Err(DropReason::NotAllowed.into()),
            Say::Rule(decision) => {
                if let Some(rule) = decision.rule {
                    self.hit(rule);
                }
                let reason = match decision.action {
                    Action::Allow => return Ok(()),
                    Action::Deny => denied,
                    Action::Reject => DropReason::Rejected,
                };
                let info = decision.rule.and_then(|rule| self.rule(rule));
                Err(Refusal {
                    reason,
                    rule: decision.rule,
                    answer: decision.action == Action::Reject,
                    log: info.is_some_and(|info| info.log),
                })
            }
        }
    }

    /// The connection that a permitted frame belongs to, or opens.
    fn follow(
        &self,
        look: track::Look,
        says: [Say; 2],
        admitted: &Admitted<'_>,
        to: PortId,
        digest: &Digest,
        now: Tick,
    ) -> Result<Option<Judged>, Refusal> {
        let tracker = self.state.tracker();
        if let Some((flow, direction)) = look.flow {
            return Ok(Some(Judged::Flow(flow, direction, look.state)));
        }
        let stateful = says.map(|say| self.is_stateful(say));
        if look.state != subject::State::New || !stateful.contains(&Some(true)) {
            return Ok(None);
        }
        let cover = cover_of(stateful.map(|side| side != Some(false)));
        let rules = says.map(Say::rule);
        let flow = tracker.open(
            digest,
            &admitted.frame,
            (admitted.source, to),
            cover,
            rules,
            self.epoch,
            now,
        )?;
        // The packet that opened it will not come again in this state.
        Ok(Some(Judged::Flow(
            flow,
            track::Direction::Original,
            subject::State::New,
        )))
    }

    /// Whether an allow rule opens connections; `None` where no rule was needed.
    fn is_stateful(&self, say: Say) -> Option<bool> {
        let rule = say.rule()?;
        self.rule(rule).map(|info| !info.stateless)
    }

    fn remember(&self, context: &mut Context, to: PortId, judged: Judged) {
        let place = context.frame.place;
        if let (Some(place), Some(cache)) = (place, context.cache.as_mut())
            && let Some(known) = cache.get_mut(place)
        {
            known.pair = Some((to, judged));
        }
    }
}

/// Keeps the subject of the frame that is being judged: nothing is known yet of any receiver.
fn keep(context: &mut Context, hash: u64) {
    let Judging { key, stamp, .. } = context.frame;
    if let Some(cache) = context.cache.as_mut() {
        context.frame.place = cache.keep(hash, &key, stamp);
    }
}

/// What a list says of a frame, whose connection covers that side or not.
fn consult(
    list: Option<&Classifier>,
    peer: PortId,
    subject: &subject::Subject,
    covered: bool,
) -> Say {
    let Some(list) = list else { return Say::Free };
    if let Some(decision) = list.judge(peer, subject) {
        return Say::Rule(decision);
    }
    match subject.state() {
        subject::State::Established | subject::State::Related if covered => return Say::Free,
        subject::State::Established | subject::State::Related => {
            // No rule let this side open it: it is judged like any packet without a connection.
            let alone = subject.in_state(subject::State::Untracked);
            if let Some(decision) = list.judge(peer, &alone) {
                return Say::Rule(decision);
            }
        }
        _ => {}
    }
    if is_addressing(subject) {
        Say::Free
    } else {
        Say::End
    }
}

/// ARP, RARP and neighbour discovery: without them a guest cannot be reached at all.
fn is_addressing(subject: &subject::Subject) -> bool {
    match subject.ethertype() {
        ethertype::ARP | RARP => true,
        ethertype::IPV6 => {
            subject.protocol() == protocol::ICMPV6
                && subject.depth() == subject::Depth::Ports
                && subject.piece() == subject::Piece::Whole
                && matches!(subject.dst_port() >> 8, 133..=136)
        }
        _ => false,
    }
}

/// The sides of a connection that were covered when it opened, as one number.
fn cover_of([opener, peer]: [bool; 2]) -> u8 {
    u8::from(opener) | u8::from(peer) << 1
}

/// Whether the outbound list of a packet's source and the inbound list of its receiver are covered.
fn covered(cover: u8, direction: track::Direction) -> [bool; 2] {
    let [opener, peer] = [cover & 1 != 0, cover & 2 != 0];
    match direction {
        track::Direction::Original => [opener, peer],
        track::Direction::Reply => [peer, opener],
    }
}

impl Say {
    fn decision(self) -> Option<Decision> {
        match self {
            Self::Free => None,
            Self::Rule(decision) => Some(decision),
            Self::End => Some(Decision {
                action: Action::Deny,
                rule: None,
            }),
        }
    }

    fn rule(self) -> Option<RuleId> {
        self.decision()?.rule
    }
}

impl Bound {
    fn new(
        id: PortId,
        spec: &PortPolicy,
        default: Option<&Arc<[Rule]>>,
        compiler: &mut Compiler,
    ) -> Result<Self, TooLarge> {
        let mut compile = |list: Option<&Arc<[Rule]>>, direction| {
            list.or(default)
                .map(|list| compiler.compile(list, direction, id))
                .transpose()
        };
        let limits = Limits::new(&spec.limits);
        let guard = Guard::new(&spec.guard);
        let send = [
            &limits.send_bits,
            &limits.send_frames,
            &limits.broadcast,
            &limits.multicast,
        ];
        Ok(Self {
            outbound: compile(spec.outbound.as_ref(), Direction::Outbound)?,
            inbound: compile(spec.inbound.as_ref(), Direction::Inbound)?,
            untagged: spec.untagged.map_or(0, Vid::get),
            quarantine: spec.quarantine,
            is_shallow: guard.is_open(),
            sends_metered: send.into_iter().any(Meter::is_set),
            receives_metered: limits.receive_bits.is_set() || limits.receive_frames.is_set(),
            guard,
            limits,
        })
    }

    /// Whether no pair with this port is judged but by what the other says.
    #[inline(always)]
    fn is_free(&self) -> bool {
        self.outbound.is_none() && self.inbound.is_none() && self.quarantine.is_none()
    }

    fn shuns(&self, other: PortId) -> bool {
        self.quarantine.is_some_and(|helpers| !helpers.contains(other))
    }
}

impl RuleInfo {
    fn of(rule: &Rule) -> Self {
        Self {
            name: rule.name.clone(),
            origin: rule.origin.clone(),
            action: rule.action,
            stateless: rule.stateless,
            log: rule.log,
        }
    }
}
