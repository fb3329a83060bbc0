//! One whole policy, compiled.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::acl::{Classifier, Compiler, TooLarge};
use super::guard::Guard;
use super::hits::Listed;
use super::lease::{self, Lease};
use super::lists::{Say, consult};
use super::meter::Meter;
use super::quarantine::Quarantine;
use super::rule::{Action, Decision, Direction, Kind, Rule, RuleId};
use super::spec::{ConnectionQuota, LimitSpec, PolicySpec, PortPolicy, Rate, TrackingSpec};
use super::state::State;
use super::subject;
use super::track::{Flow, Side, Terms};
use super::verdict::Weight;
use crate::clock::Tick;
use crate::counters::{DropReason, PortId, PortSet};
use crate::frame::{Frame, Mac, Transport, Vid};

/// Answers to rejected frames that a port is sent: ten a second, twenty at once.
const ANSWERS: Rate = Rate {
    per_second: 10,
    burst: 20,
};

/// One whole policy. See the head of the room.
#[derive(Clone, Debug)]
pub struct Policy {
    epoch: u64,
    quarantine: Arc<Quarantine>,
    /// The ports that it names.
    named: PortSet,
    ports: Arc<[Option<Bound>]>,
    rules: Arc<[RuleInfo]>,
    /// The lists that they stand in.
    listed: Arc<[Listed]>,
    hits: Arc<[AtomicU64]>,
    answers: Meter,
    /// Word 0 without the TCP flags, where no rule reads them: a connection then is one subject each way.
    read: u64,
    /// Some port has the addresses of its DHCP leases.
    watches_leases: bool,
    /// Some port has a list.
    tracks: bool,
    state: Arc<State>,
}

/// What a policy says of one port.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) guard: Guard,
    pub(super) outbound: Option<Arc<Classifier>>,
    pub(super) inbound: Option<Arc<Classifier>>,
    pub(super) limits: Limits,
    pub(super) untagged: u16,
    quota: Option<ConnectionQuota>,
    /// Nothing of its frames needs to be read but their addresses.
    pub(super) is_shallow: bool,
    pub(super) sends_metered: bool,
    pub(super) receives_metered: bool,
    /// The list tells stations apart, by rules about MAC addresses: a copy of what it says, near what is read anyway.
    pub(super) outbound_reads_macs: bool,
    pub(super) inbound_reads_macs: bool,
}

#[derive(Debug)]
pub(super) struct Limits {
    pub(super) send_bits: Meter,
    pub(super) send_frames: Meter,
    pub(super) receive_bits: Meter,
    pub(super) receive_frames: Meter,
    pub(super) broadcast: Meter,
    pub(super) multicast: Meter,
    pub(super) unknown: Meter,
    pub(super) membership: Meter,
    /// Multicast groups in a window; 0: any number.
    pub(super) groups: u32,
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
            membership: Meter::new(spec.membership),
            groups: spec.groups,
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
    is_about_everything: bool,
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
        let ports =
            spec.ports
                .iter()
                .zip(0..)
                .map(|(port, index)| match (port, PortId::new(index)) {
                    (Some(port), Some(id)) => {
                        state.know(id);
                        let default = spec.default_deny.then_some(&nothing);
                        Bound::new(id, port, default, &mut compiler).map(Some)
                    }
                    _ => Ok(None),
                });
        let ports = ports.collect::<Result<Arc<[_]>, TooLarge>>()?;
        let listed = Listed::all(&mut compiler, &spec.ports);
        let rules: Arc<[RuleInfo]> = compiler
            .lists()
            .iter()
            .flat_map(|(_, list)| list.iter().map(RuleInfo::of))
            .collect();
        let watches_leases = ports
            .iter()
            .flatten()
            .any(|bound| bound.guard.max_leases() != 0);
        let named = (0..)
            .map_while(PortId::new)
            .zip(ports.iter())
            .filter(|(_, bound)| bound.is_some())
            .map(|(id, _)| id)
            .collect();
        let tracks = ports.iter().flatten().any(|bound| !bound.is_free());
        // Without a connection the flags of a segment tell what it is: see `Judge::keeps`.
        let reads_flags = compiler.lists().iter().any(|(_, list)| {
            list.iter()
                .any(|rule| rule.flags.is_some() || rule.stateless)
        });
        Ok(Self {
            epoch,
            quarantine: Arc::default(),
            named,
            ports,
            read: if reads_flags {
                u64::MAX
            } else {
                !subject::mask(subject::field::FLAGS)
            },
            hits: rules.iter().map(|_| AtomicU64::new(0)).collect(),
            rules,
            listed,
            answers: Meter::new(ANSWERS),
            watches_leases,
            tracks,
            state,
        })
    }

    /// No policy at all: these ports may do what they like. For benches and tests of what is not policy.
    pub fn open(epoch: u64, ports: impl IntoIterator<Item = PortId>) -> Self {
        let spec = PolicySpec::open(ports);
        let state = State::new();
        // Without lists nothing is compiled that could be too large; and without ports nothing passes.
        Self::compile(epoch, &spec, Arc::clone(&state)).unwrap_or_else(|_| Self {
            epoch,
            quarantine: Arc::default(),
            named: PortSet::EMPTY,
            ports: Arc::default(),
            rules: Arc::default(),
            listed: Arc::default(),
            hits: Arc::default(),
            answers: Meter::default(),
            read: u64::MAX,
            watches_leases: false,
            tracks: false,
            state,
        })
    }

    /// Which policy this is: what was judged under another epoch is to be judged again.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The same policy with these ports in quarantine and no others, under another epoch.
    #[must_use]
    pub fn with_quarantine(&self, epoch: u64, quarantine: Quarantine) -> Self {
        Self {
            epoch,
            quarantine: Arc::new(quarantine),
            ..self.clone()
        }
    }

    /// The ports in quarantine.
    pub(super) fn quarantine(&self) -> &Quarantine {
        &self.quarantine
    }

    /// What policies of this switch remember.
    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// Whether the policy names that port; frames of and to others do not pass.
    #[inline(always)]
    pub fn binds(&self, port: PortId) -> bool {
        self.named.contains(port)
    }

    /// Whether no pair of ports needs more than to be named: no lists, no quarantine, no leases to learn.
    #[inline(always)]
    pub(super) fn is_plain(&self) -> bool {
        !self.tracks && !self.watches_leases && self.quarantine.is_empty()
    }

    /// A rule by its id.
    pub fn rule(&self, id: RuleId) -> Option<&RuleInfo> {
        self.rules.get(id.0 as usize)
    }

    /// Each rule with the number of frames that it decided: of a connection the one that opened it.
    pub fn rules(&self) -> impl Iterator<Item = (RuleId, &RuleInfo, u64)> {
        (0..)
            .map(RuleId)
            .zip(self.rules.iter())
            .zip(self.hits.iter())
            .map(|((id, rule), hits)| (id, rule, hits.load(Ordering::Relaxed)))
    }

    pub(super) fn listed(&self) -> &[Listed] {
        &self.listed
    }

    pub(super) fn hits(&self) -> &Arc<[AtomicU64]> {
        &self.hits
    }

    pub(super) fn rule_infos(&self) -> &Arc<[RuleInfo]> {
        &self.rules
    }

    #[inline(always)]
    pub(super) fn bound(&self, port: PortId) -> Option<&Bound> {
        self.ports.get(port.index())?.as_ref()
    }

    /// Whether any port has a list, so that connections are tracked at all.
    #[inline(always)]
    pub(super) fn tracks(&self) -> bool {
        self.tracks
    }

    /// Whether verdicts are kept under the flags of a segment too.
    #[inline]
    pub(super) fn reads_flags(&self) -> bool {
        self.read == u64::MAX
    }

    /// Word 0 of what a verdict is kept under: without what no rule reads.
    #[inline(always)]
    pub(super) fn key(&self, word: u64) -> u64 {
        word & self.read
    }

    pub(super) fn hit(&self, rule: RuleId) {
        self.hit_often(rule, 1);
    }

    pub(super) fn hit_often(&self, rule: RuleId, times: u64) {
        if let Some(hits) = self.hits.get(rule.0 as usize) {
            hits.fetch_add(times, Ordering::Relaxed);
        }
    }

    pub(super) fn logs(&self, rule: RuleId) -> bool {
        self.rule(rule).is_some_and(|rule| rule.log)
    }

    pub(super) fn may_answer(&self, to: PortId, now: Tick) -> bool {
        let port = self.state.port(to);
        port.is_some_and(|port| self.answers.take(&port.buckets.answers, 1, now))
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

    /// Whether leases are learned from frames at all: else [`wants_whole`](Self::wants_whole) need not be asked.
    #[inline(always)]
    pub fn watches_leases(&self) -> bool {
        self.watches_leases
    }

    /// Whether a frame says something about leases, so that all of it has to be private before it is judged.
    #[cold]
    pub fn wants_whole(&self, source: PortId, frame: &Frame<'_>) -> bool {
        let concerned = self
            .bound(source)
            .is_some_and(|bound| bound.guard.may().dhcp_server || bound.guard.max_leases() != 0);
        concerned && !frame.is_whole() && Self::is_dhcp(frame)
    }

    /// Whether a frame is one of DHCP, whose options lie behind where other headers end.
    #[cold]
    pub fn is_dhcp(frame: &Frame<'_>) -> bool {
        matches!(frame.layers().transport, Transport::Udp(udp) if udp.is_dhcp())
    }

    /// The terms on which a frame that both sides let pass would open a connection; `None` if it is to open none. A
    /// missing list leaves the way free, and the way back is then judged by the other list of that port, if it has one.
    pub(super) fn terms(
        &self,
        source: &Bound,
        receiver: &Bound,
        outbound: Say,
        inbound: Say,
    ) -> Option<Terms> {
        let [opener, peer] = [outbound, inbound].map(|say| Some(!self.is_stateless(say.rule()?)));
        let is_wanted = opener.unwrap_or(source.inbound.is_some())
            || peer.unwrap_or(receiver.outbound.is_some());
        let side = |say: Say, stateful: Option<bool>| Side {
            covered: stateful.unwrap_or(true),
            rule: say.rule(),
        };
        is_wanted.then(|| Terms {
            opener: side(outbound, opener),
            peer: side(inbound, peer),
        })
    }

    /// Whether a refusal is by a rule about everything, which does not mean addressing: a list that closes with
    /// `reject = "any"` is to cut nobody off. A rule that names ARP, or ICMPv6, does mean it.
    pub(super) fn spares_addressing(&self, decision: &Decision) -> bool {
        let info = decision.rule.and_then(|rule| self.rule(rule));
        decision.action != Action::Allow && info.is_some_and(|info| info.is_about_everything)
    }

    /// Whether a rule opens no connections.
    pub(super) fn is_stateless(&self, rule: RuleId) -> bool {
        self.rule(rule).is_some_and(|rule| rule.stateless)
    }

    /// Sees to it that connections can be tracked for the ports of this policy, within these bounds: to be called before it is
    /// put in force, and not before it is certain that it will be. Without it every opening is refused. A policy that
    /// tracks nothing takes no memory for it.
    pub fn make_room(&self, tracking: &TrackingSpec) {
        if self.tracks {
            let tracker = self.state.tracker();
            tracker.reconfigure(tracking, self.ports.len());
            let ids = (0..).map_while(PortId::new);
            for (port, bound) in ids.zip(self.ports.iter()) {
                if let Some(quota) = bound.as_ref().and_then(|bound| bound.quota) {
                    tracker.bind(port, quota);
                }
            }
        }
    }

    /// Gives a port a lease back that it had before the switch was started again; false when it can have none. That nobody
    /// else has the address is for the caller to see to.
    pub fn restore_lease(&self, port: PortId, lease: &Lease, now: Tick) -> bool {
        let port = self.bound(port).zip(self.state.port(port));
        port.is_some_and(|(bound, port)| lease::restore(lease, &bound.guard, &port.guard, now))
    }

    /// The address that a port keeps, if its guard keeps one and has heard it: whoever makes a new FDB enters it there.
    pub fn kept_mac(&self, port: PortId) -> Option<Mac> {
        let bound = self.bound(port)?;
        let kept = self.state.guard(port)?.kept()?;
        bound
            .guard
            .owns_mac(self.state.guard(port)?, kept)
            .then_some(kept)
    }

    /// Judges all connections again that earlier policies let open. What workers meet before is judged by them in the same
    /// way; [`State::ended`] counts both.
    pub fn rejudge_all(&self, now: Tick) {
        let tracker = self.state.tracker();
        let ended = tracker.rejudge(self.epoch, now, |flow| self.rejudge(flow));
        self.state.note_ended(ended);
    }

    /// Judges a connection again that an earlier policy let open: the terms on which this one would let it open, `None` if
    /// it would not.
    pub fn rejudge(&self, flow: &Flow) -> Option<Terms> {
        let (source, receiver) = (self.bound(flow.opener)?, self.bound(flow.peer)?);
        if self.quarantine.separates(flow.opener, flow.peer) {
            return None;
        }
        let subject = flow.subject();
        let outbound = consult(self, source.outbound.as_deref(), flow.peer, &subject, false);
        let inbound = consult(
            self,
            receiver.inbound.as_deref(),
            flow.opener,
            &subject,
            false,
        );
        let allows = |say: Say| match say {
            Say::Free | Say::Addressing => true,
            Say::Rule(decision) => decision.action == Action::Allow,
            Say::End => false,
        };
        if !allows(outbound) || !allows(inbound) {
            return None;
        }
        // One that would not be tracked any more may go on: nothing asks for it.
        Some(
            self.terms(source, receiver, outbound, inbound)
                .unwrap_or_default(),
        )
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
        let sends_metered = [
            limits.send_bits,
            limits.send_frames,
            limits.broadcast,
            limits.multicast,
        ]
        .iter()
        .any(Meter::is_set);
        let outbound = compile(spec.outbound.as_ref(), Direction::Outbound)?;
        let inbound = compile(spec.inbound.as_ref(), Direction::Inbound)?;
        let reads_macs = |list: &Option<Arc<Classifier>>| {
            let list = list.as_deref();
            list.is_some_and(Classifier::reads_macs)
        };
        Ok(Self {
            outbound_reads_macs: reads_macs(&outbound),
            inbound_reads_macs: reads_macs(&inbound),
            outbound,
            inbound,
            untagged: spec.untagged.map_or(0, Vid::get),
            quota: spec.quota,
            is_shallow: guard.is_open(),
            sends_metered,
            receives_metered: limits.receive_bits.is_set() || limits.receive_frames.is_set(),
            guard,
            limits,
        })
    }

    /// The VLAN of a frame from the port.
    #[inline(always)]
    pub(super) fn vid(&self, frame: &Frame<'_>) -> u16 {
        match frame.tag() {
            None => self.untagged,
            Some(tag) => tag.vid(),
        }
    }

    /// Whether no pair with this port is judged but by what the other says.
    #[inline(always)]
    pub(super) fn is_free(&self) -> bool {
        self.outbound.is_none() && self.inbound.is_none()
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
            is_about_everything: rule.kind == Kind::Any,
        }
    }
}
