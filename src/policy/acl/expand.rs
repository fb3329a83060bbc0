//! From rules to triples: everything that a rule says, as plain comparisons.

use std::ops::RangeInclusive;

use ipnet::IpNet;

use crate::counters::PortId;
use crate::frame::ethernet::ethertype;
use crate::frame::protocol;

use super::super::rule::{Action, Direction, Kind, Rule, RuleId, Who};
use super::super::subject::{Depth, Family, Piece, State, WORDS, field};
use super::TooLarge;
use super::peers::{PeerSet, Peers};
use super::view;

/// Ports from the first to the last, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Span {
    pub(super) first: u16,
    pub(super) last: u16,
}

impl Span {
    pub(super) const ALL: Self = Self {
        first: 0,
        last: u16::MAX,
    };

    /// The leading bits that all its ports have in common, as a mask.
    pub(super) const fn common(self) -> u16 {
        match (self.first ^ self.last).leading_zeros() {
            16 => u16::MAX,
            same => !(u16::MAX >> same),
        }
    }
}

/// One combination of a rule's alternatives: the subject's words under `mask` are `value`, and its ports are in the
/// spans. The masks hold the leading bits that a span's ports share, so that they can be looked up by them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Triple {
    pub(super) mask: [u64; WORDS],
    pub(super) value: [u64; WORDS],
    pub(super) dst: Span,
    pub(super) src: Span,
    /// The rule's place in its list.
    pub(super) position: u32,
}

impl Triple {
    pub(super) const fn new(position: u32) -> Self {
        Self {
            mask: [0; WORDS],
            value: [0; WORDS],
            dst: Span::ALL,
            src: Span::ALL,
            position,
        }
    }

    fn require<const WORD: usize>(&mut self, mask: u64, value: u64) {
        const { assert!(WORD < WORDS) };
        if let (Some(old), Some(new)) = (self.mask.get_mut(WORD), self.value.get_mut(WORD)) {
            *old |= mask;
            *new = *new & !mask | value & mask;
        }
    }

    fn field(&mut self, (shift, width): (u32, u32), value: u64) {
        let mask = ((1u64 << width) - 1) << shift;
        self.require::<0>(mask, value << shift);
    }

    pub(super) fn ports(&mut self, dst: Span, src: Span) {
        let place = |span: Span, (shift, _): (u32, u32)| {
            (
                u64::from(span.common()) << shift,
                u64::from(span.first) << shift,
            )
        };
        for (mask, value) in [place(dst, field::DST_PORT), place(src, field::SRC_PORT)] {
            self.require::<1>(mask, value);
        }
        (self.dst, self.src) = (dst, src);
    }

    fn address<const HIGH: usize, const LOW: usize>(&mut self, prefix: IpNet) {
        match prefix {
            IpNet::V4(net) => {
                let [mask, value] = [net.netmask(), net.network()].map(|a| u64::from(a.to_bits()));
                self.require::<LOW>(mask, value);
            }
            IpNet::V6(net) => {
                let [mask, value] = [net.netmask(), net.network()].map(|a| a.to_bits());
                self.require::<HIGH>(high(mask), high(value));
                self.require::<LOW>(low(mask), low(value));
            }
        }
    }
}

fn high(bits: u128) -> u64 {
    low(bits >> 64)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the lower half is what is asked for"
)]
fn low(bits: u128) -> u64 {
    bits as u64
}

/// A triple, the view that it belongs to, and the peers that it is about.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    pub(super) view: usize,
    pub(super) peers: Option<PeerSet>,
    pub(super) triple: Triple,
}

/// One alternative of `from` with one of `to`.
struct Pair {
    peers: Option<PeerSet>,
    /// The family of its addresses, if it has any.
    family: Option<Family>,
    triple: Triple,
}

/// Which protocols a rule can be about in one family.
enum Protocols {
    All,
    These(Vec<u8>),
}

impl Protocols {
    fn of(rule: &Rule, family: Family) -> Self {
        let mut these: Option<Vec<u8>> = match rule.kind {
            Kind::Ip { protocol, .. } => protocol.map(|number| vec![number]),
            _ => None,
        };
        let mut keep = |wanted: &[u8]| {
            let old = these.take().unwrap_or_else(|| wanted.to_vec());
            these = Some(old.into_iter().filter(|n| wanted.contains(n)).collect());
        };
        if !rule.port.is_empty() || !rule.source_port.is_empty() {
            keep(&[protocol::TCP, protocol::UDP]);
        }
        if rule.flags.is_some() {
            keep(&[protocol::TCP]);
        }
        if !rule.icmp.is_empty() {
            keep(match family {
                Family::V4 => &[protocol::ICMP],
                Family::V6 => &[protocol::ICMPV6],
            });
        }
        these.map_or(Self::All, Self::These)
    }

    fn is_all(&self) -> bool {
        matches!(self, Self::All)
    }

    fn is_none(&self) -> bool {
        matches!(self, Self::These(these) if these.is_empty())
    }

    /// Each of them; `None` alone for all.
    fn each(&self) -> Vec<Option<u8>> {
        match self {
            Self::All => vec![None],
            Self::These(these) => these.iter().copied().map(Some).collect(),
        }
    }
}

const FAMILIES: [(Family, u16); 2] = [(Family::V4, ethertype::IPV4), (Family::V6, ethertype::IPV6)];

/// Expands a list.
pub(super) struct Expansion<'a> {
    peers: &'a Peers,
    direction: Direction,
    own: PortId,
    /// How many more triples there may be.
    left: usize,
    out: Vec<Placed>,
}

/// What all triples of one rule are made from.
struct Terms<'a> {
    rule: &'a Rule,
    /// `None` for any of the view.
    states: Vec<(bool, Option<State>)>,
    /// Mask and value of the VLAN.
    vlans: Vec<(u16, u16)>,
    dst: Vec<Span>,
    src: Vec<Span>,
}

/// A triple may not be added.
struct Full;

impl<'a> Expansion<'a> {
    pub(super) fn new(peers: &'a Peers, direction: Direction, own: PortId, limit: usize) -> Self {
        Self {
            peers,
            direction,
            own,
            left: limit,
            out: Vec::new(),
        }
    }

    /// Adds the triples of a list, and gives them with how many there may still be.
    pub(super) fn run(
        mut self,
        rules: &[(RuleId, &Rule)],
    ) -> Result<(Vec<Placed>, usize), TooLarge> {
        for (position, (id, rule)) in (0u32..).zip(rules) {
            self.rule(position, rule)
                .map_err(|Full| TooLarge::new(*id, rule))?;
        }
        Ok((self.out, self.left))
    }

    fn rule(&mut self, position: u32, rule: &Rule) -> Result<(), Full> {
        let terms = Terms::of(rule);
        for from in sides(&rule.from) {
            for to in sides(&rule.to) {
                let Some(pair) = self.pair(position, from, to) else {
                    continue;
                };
                self.plain(&terms, &pair)?;
                self.not_ip(&terms, &pair)?;
                self.unclear(&terms, &pair)?;
            }
        }
        Ok(())
    }

    /// Both sides at once; `None` where they cannot both hold.
    fn pair(&self, position: u32, from: Option<&Who>, to: Option<&Who>) -> Option<Pair> {
        let mut pair = Pair {
            peers: None,
            family: None,
            triple: Triple::new(position),
        };
        let own_is_from = self.direction == Direction::Outbound;
        for (who, is_from) in [(from, true), (to, false)] {
            match who {
                None => {}
                Some(Who::Ports(set)) if is_from == own_is_from => {
                    set.contains(self.own).then_some(())?;
                }
                Some(Who::Ports(set)) => pair.peers = Some(self.peers.set(set)?),
                Some(Who::Mac(mac)) => {
                    const ALL: u64 = (1 << 48) - 1;
                    if is_from {
                        pair.triple.require::<6>(ALL, mac.bits());
                    } else {
                        pair.triple.require::<7>(ALL, mac.bits());
                    }
                }
                Some(Who::Prefix(prefix)) => {
                    let family = match prefix {
                        IpNet::V4(_) => Family::V4,
                        IpNet::V6(_) => Family::V6,
                    };
                    if pair.family.is_some_and(|other| other != family) {
                        return None;
                    }
                    pair.family = Some(family);
                    if is_from {
                        pair.triple.address::<2, 3>(*prefix);
                    } else {
                        pair.triple.address::<4, 5>(*prefix);
                    }
                }
            }
        }
        Some(pair)
    }

    /// For packets of which all is known.
    fn plain(&mut self, terms: &Terms<'_>, pair: &Pair) -> Result<(), Full> {
        for (family, number) in FAMILIES {
            if !terms.can_be(family, number, pair) {
                continue;
            }
            for protocol in Protocols::of(terms.rule, family).each() {
                let mut triple = pair.triple.clone();
                let classes = match protocol {
                    None => 0..=view::PINNED.len(),
                    Some(protocol) => {
                        let pinned = view::PINNED.iter().position(|pinned| *pinned == protocol);
                        if pinned.is_none() {
                            triple.field(field::PROTOCOL, protocol.into());
                        }
                        let class = pinned.unwrap_or(view::PINNED.len());
                        class..=class
                    }
                };
                if let Some(flags) = terms.rule.flags {
                    let (shift, _) = field::FLAGS;
                    triple.require::<0>(
                        u64::from(flags.mask) << shift,
                        u64::from(flags.value) << shift,
                    );
                }
                for class in classes {
                    self.emit(terms, pair, view::plain(family, class), &triple, true)?;
                }
            }
        }
        Ok(())
    }

    /// For frames that are known not to be IP.
    fn not_ip(&mut self, terms: &Terms<'_>, pair: &Pair) -> Result<(), Full> {
        if terms.rule.reads_layer_4() || pair.family.is_some() {
            return Ok(());
        }
        let mut triple = pair.triple.clone();
        match terms.rule.kind {
            Kind::Any => {}
            Kind::Llc => triple.field(field::ETHERTYPE, 0),
            Kind::EtherType(number) if number >= ethertype::FIRST => {
                triple.field(field::ETHERTYPE, number.into());
            }
            Kind::EtherType(_) | Kind::Ip { .. } => return Ok(()),
        }
        self.emit(terms, pair, view::NOT_IP, &triple, false)?;
        // Or whose header is not to be read, whatever it is.
        triple.field(field::FAMILY, 0);
        triple.field(field::DEPTH, Depth::Nothing as u64);
        self.emit(terms, pair, view::UNCLEAR, &triple, false)
    }

    /// For IP packets of which not all is known: "What is not known" in the head of the module.
    fn unclear(&mut self, terms: &Terms<'_>, pair: &Pair) -> Result<(), Full> {
        let rule = terms.rule;
        let refuses = rule.action != Action::Allow;
        for (family, number) in FAMILIES {
            let protocols = Protocols::of(rule, family);
            if !terms.can_be(family, number, pair) || protocols.is_none() || terms.is_void() {
                continue;
            }
            if !rule.reads_layer_4() || refuses || rule.fragments {
                let mut triple = pair.triple.clone();
                triple.field(field::FAMILY, family as u64);
                triple.field(field::DEPTH, Depth::Protocol as u64);
                if rule.reads_layer_4() && !refuses {
                    triple.field(field::PIECE, Piece::Later as u64);
                }
                for protocol in protocols.each() {
                    if let Some(protocol) = protocol {
                        triple.field(field::PROTOCOL, protocol.into());
                    }
                    self.emit(terms, pair, view::UNCLEAR, &triple, false)?;
                }
            }
            if protocols.is_all() || refuses {
                let mut triple = pair.triple.clone();
                triple.field(field::FAMILY, family as u64);
                triple.field(field::DEPTH, Depth::Nothing as u64);
                self.emit(terms, pair, view::UNCLEAR, &triple, false)?;
            }
            if refuses {
                let mut triple = pair.triple.clone();
                for word in 2..=5 {
                    if let Some(mask) = triple.mask.get_mut(word) {
                        *mask = 0;
                    }
                    if let Some(value) = triple.value.get_mut(word) {
                        *value = 0;
                    }
                }
                triple.field(field::FAMILY, 0);
                triple.field(field::DEPTH, Depth::Nothing as u64);
                triple.field(field::ETHERTYPE, number.into());
                self.emit(terms, pair, view::UNCLEAR, &triple, false)?;
            }
        }
        Ok(())
    }

    /// Multiplies out states, VLANs and, `with_ports`, ports.
    fn emit(
        &mut self,
        terms: &Terms<'_>,
        pair: &Pair,
        view: usize,
        triple: &Triple,
        with_ports: bool,
    ) -> Result<(), Full> {
        let weight = pair.peers.map_or(1, |set| self.peers.classes_in(set));
        let all = [Span::ALL];
        let (dst, src) = if with_ports {
            (&terms.dst[..], &terms.src[..])
        } else {
            (&all[..], &all[..])
        };
        for (is_bound, state) in &terms.states {
            let view = if *is_bound { view::bound(view) } else { view };
            let mut triple = triple.clone();
            if let Some(state) = state {
                triple.field(field::STATE, *state as u64);
            }
            for (mask, value) in &terms.vlans {
                let (shift, _) = field::VID;
                let mut triple = triple.clone();
                triple.require::<0>(u64::from(*mask) << shift, u64::from(*value) << shift);
                for dst in dst {
                    for src in src {
                        let mut triple = triple.clone();
                        triple.ports(*dst, *src);
                        self.left = self.left.checked_sub(weight).ok_or(Full)?;
                        self.out.push(Placed {
                            view,
                            peers: pair.peers,
                            triple,
                        });
                    }
                }
            }
        }
        Ok(())
    }
}

impl<'a> Terms<'a> {
    fn of(rule: &'a Rule) -> Self {
        let icmp = rule.icmp.iter().map(|(kind, code)| {
            let [first, last] = code.map_or([0, u8::MAX], |code| [code, code]);
            Span {
                first: u16::from_be_bytes([*kind, first]),
                last: u16::from_be_bytes([*kind, last]),
            }
        });
        let dst = if rule.icmp.is_empty() {
            spans(&rule.port)
        } else {
            icmp.collect()
        };
        Self {
            rule,
            states: states(&rule.states),
            vlans: vlans(&rule.vlan),
            dst,
            src: spans(&rule.source_port),
        }
    }

    /// Whether no port at all meets its conditions.
    fn is_void(&self) -> bool {
        self.dst.is_empty() || self.src.is_empty()
    }

    /// Whether it can be about packets of a family at all.
    fn can_be(&self, family: Family, number: u16, pair: &Pair) -> bool {
        let kind = match self.rule.kind {
            Kind::Any => true,
            Kind::Llc => false,
            Kind::EtherType(raw) => raw == number,
            Kind::Ip { family: of, .. } => of.is_none_or(|of| of == family),
        };
        kind && pair.family.is_none_or(|of| of == family)
    }
}

/// The alternatives of one side; `None` alone when it says nothing.
fn sides(who: &[Who]) -> impl Iterator<Item = Option<&Who>> + Clone {
    let nothing = who.is_empty().then_some(None);
    who.iter().map(Some).chain(nothing)
}

/// The ranges that are not empty; everything for no range at all.
fn spans(ranges: &[RangeInclusive<u16>]) -> Vec<Span> {
    if ranges.is_empty() {
        return vec![Span::ALL];
    }
    ranges
        .iter()
        .filter(|range| !range.is_empty())
        .map(|range| Span {
            first: *range.start(),
            last: *range.end(),
        })
        .collect()
}

fn states(named: &[State]) -> Vec<(bool, Option<State>)> {
    const FRESH: [State; 2] = [State::Untracked, State::New];
    const BOUND: [State; 3] = [State::Established, State::Related, State::Invalid];
    if named.is_empty() {
        return vec![(false, None)];
    }
    let mut terms = Vec::new();
    for (is_bound, all) in [(false, &FRESH[..]), (true, &BOUND[..])] {
        if all.iter().all(|state| named.contains(state)) {
            terms.push((is_bound, None));
        } else {
            let some = all.iter().filter(|state| named.contains(state));
            terms.extend(some.map(|state| (is_bound, Some(*state))));
        }
    }
    terms
}

/// Ranges of VLANs as prefixes of their 12 bits.
fn vlans(ranges: &[RangeInclusive<u16>]) -> Vec<(u16, u16)> {
    const BITS: u16 = 0xfff;
    if ranges.is_empty() {
        return vec![(0, 0)];
    }
    let cut = ranges.iter().filter_map(|range| {
        let span = Span {
            first: *range.start(),
            last: *range.end().min(&BITS),
        };
        (span.first <= span.last).then_some(span)
    });
    cut.flat_map(prefixes)
        .map(|span| (span.common() & BITS, span.first))
        .collect()
}

/// The fewest spans that make up a span and have each all numbers with their leading bits.
pub(super) fn prefixes(span: Span) -> Vec<Span> {
    let mut pieces = Vec::new();
    let (mut first, last) = (u32::from(span.first), u32::from(span.last));
    while first <= last {
        let aligned = first.trailing_zeros().min(16);
        let fitting = (last - first + 1).ilog2();
        let size = 1u32 << aligned.min(fitting);
        let end = first + size - 1;
        if let (Ok(first), Ok(last)) = (u16::try_from(first), u16::try_from(end)) {
            pieces.push(Span { first, last });
        }
        first = end + 1;
    }
    pieces
}
