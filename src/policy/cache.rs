//! Verdicts of one source port, by the whole [`Subject`] of a frame.
//!
//! What is kept under a subject is what was judged of a frame with that very subject: nothing narrower is ever looked up, so no
//! verdict is wider than what was read to reach it (CVE-2023-1668, CVE-2023-5366). The subject holds every field that a rule or a
//! guard of plain data reads; what is not plain data is judged anew each time and never kept.
//!
//! A subject has two sets of four ways each, so that flows do not push each other out before the cache is nearly full; placement is keyed, so that nobody chooses whom he pushes out,
//! and each source port has a cache of its own, so that nobody pushes out another's.

use std::hash::{BuildHasher, RandomState};

use super::rule::RuleId;
use super::subject::{State, Subject, WORDS};
use super::track::{Direction, FlowRef};
use super::verdict::Refusal;
use crate::counters::{DropReason, PortId};

const WAYS: usize = WAYS_8 as usize;
const WAYS_8: u8 = 4;
const SETS: usize = 512;

/// What is known of frames with one subject: that the guard let them pass, and of one receiver more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    /// The policy and the state of the guard under which it was found; anything else is stale.
    stamp: Stamp,
    /// What was judged of the pair with one receiver.
    pub(super) pair: Option<(PortId, Judged)>,
}

/// The epoch of the policy and the generation of the port's guard, as far as tells two near ones apart.
///
/// A guest can have the generation change with every frame that claims another port's address, a few million times a
/// second, and an entry stays as long as nobody needs its place: 2^32 generations are not enough. Policies change by the hand of an operator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp(u64);

impl Stamp {
    const GENERATION_BITS: u32 = 44;

    pub(super) const fn new(epoch: u64, generation: u64) -> Self {
        let generation = generation & ((1 << Self::GENERATION_BITS) - 1);
        Self(epoch << Self::GENERATION_BITS | generation)
    }
}

/// A verdict on a pair, as far as it may be used again.
#[derive(Clone, Copy, Debug)]
pub(super) enum Judged {
    /// It belongs to this connection, and passes in this state.
    Flow(FlowRef, Direction, State),
    /// It passes by these rules and belongs to no connection, as long as the ports have opened no further ones.
    Pass([Decided; 2], Opened),
    /// It does not, likewise.
    Refused(DropReason, Decided, Opened),
}

/// How many connections two ports have opened, as far as tells two near numbers apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Opened(u32);

impl Opened {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "an entry does not live for 2^32 connections"
    )]
    pub(super) const fn new(from: u64, to: u64) -> Self {
        Self(from.wrapping_add(to) as u32)
    }
}

/// A rule, or none, with what is to be done besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decided(u32);

impl Decided {
    const NONE: u32 = (1 << 30) - 1;
    const ANSWER: u32 = 1 << 30;
    const LOG: u32 = 1 << 31;

    pub(super) fn by(rule: Option<RuleId>) -> Self {
        Self(rule.map_or(Self::NONE, |rule| rule.0 & Self::NONE))
    }

    pub(super) fn of(refusal: &Refusal) -> Self {
        let Self(rule) = Self::by(refusal.rule());
        let answer = if refusal.answer { Self::ANSWER } else { 0 };
        let log = if refusal.log { Self::LOG } else { 0 };
        Self(rule | answer | log)
    }

    pub(super) fn rule(self) -> Option<RuleId> {
        let rule = self.0 & Self::NONE;
        (rule != Self::NONE).then_some(RuleId(rule))
    }

    pub(super) fn refusal(self, reason: DropReason) -> Refusal {
        let (answer, log) = (self.0 & Self::ANSWER != 0, self.0 & Self::LOG != 0);
        Refusal::by(reason, self.rule(), answer, log)
    }
}

/// Where an entry lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    set: u16,
    way: u8,
}

/// In the order in which a search reads it; a subject is a cache line of its own.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
struct Set {
    tags: [u32; WAYS],
    /// The way that goes next.
    next: u8,
    known: [Known; WAYS],
    subjects: [Subject; WAYS],
}

impl Set {
    /// The ways with that tag, as bits. Without a jump in between: which way it is cannot be foreseen, and the frames behind this one
    /// need not wait for it.
    #[inline(always)]
    fn ways_of(&self, tag: u32) -> u32 {
        let [a, b, c, d] = self.tags.map(|found| u32::from(found == tag));
        a | b << 1 | c << 2 | d << 3
    }

    /// A way that is empty or stale.
    fn vacancy(&self, stamp: Stamp) -> Option<u8> {
        (0u8..)
            .zip(self.tags.iter().zip(&self.known))
            .find(|(_, (tag, known))| **tag == 0 || known.stamp != stamp)
            .map(|(way, _)| way)
    }

    /// The way whose turn it is to go.
    fn evict(&mut self) -> u8 {
        let way = self.next;
        self.next = way.wrapping_add(1) % WAYS_8;
        way
    }
}

/// The cache of one source port.
#[derive(Clone, Debug)]
pub(super) struct Cache {
    keys: [u64; WORDS],
    sets: Box<[Set]>,
}

impl Cache {
    /// The one there, which is made when it is needed first.
    #[inline(always)]
    pub(super) fn at(place: &mut Option<Box<Self>>) -> &mut Self {
        place.get_or_insert_with(|| Box::new(Self::new()))
    }

    pub(super) fn new() -> Self {
        let random = RandomState::new();
        let empty = Set {
            tags: [0; WAYS],
            next: 0,
            known: [Known {
                stamp: Stamp::default(),
                pair: None,
            }; WAYS],
            subjects: [Subject::default(); WAYS],
        };
        Self {
            keys: std::array::from_fn(|word| random.hash_one(word)),
            sets: vec![empty; SETS].into_boxed_slice(),
        }
    }

    /// Where something is known of a subject with that hash, under that stamp. Word 0 is taken to be `word`.
    #[inline(always)]
    pub(super) fn find(
        &self,
        hash: u64,
        subject: &Subject,
        word: u64,
        stamp: Stamp,
    ) -> Option<Place> {
        let [first, second] = sets_of(hash);
        let (tag, key) = (tag_of(hash), (subject, word));
        match self.find_in(first, tag, key, stamp) {
            Some(place) => Some(place),
            None => self.find_in(second, tag, key, stamp),
        }
    }

    /// The same, when it was at `place` a moment ago.
    #[inline(always)]
    pub(super) fn find_near(
        &self,
        place: Option<Place>,
        hash: u64,
        subject: &Subject,
        word: u64,
        stamp: Stamp,
    ) -> Option<Place> {
        match place {
            Some(place) if self.holds(place, (subject, word), stamp) => Some(place),
            _ => self.find(hash, subject, word, stamp),
        }
    }

    /// Whether the entry at a place is that of a subject.
    #[inline(always)]
    fn holds(
        &self,
        Place { set, way }: Place,
        (subject, word): (&Subject, u64),
        stamp: Stamp,
    ) -> bool {
        let (set, way) = (self.sets.get(usize::from(set)), usize::from(way));
        set.is_some_and(|set| {
            set.subjects
                .get(way)
                .is_some_and(|kept| is_same(kept, subject, word))
                && set.known.get(way).is_some_and(|known| known.stamp == stamp)
        })
    }

    #[inline(always)]
    fn find_in(
        &self,
        index: u16,
        tag: u32,
        (subject, word): (&Subject, u64),
        stamp: Stamp,
    ) -> Option<Place> {
        let set = self.sets.get(usize::from(index))?;
        let mut ways = set.ways_of(tag);
        while ways != 0 {
            let way = ways.trailing_zeros();
            let at = way as usize;
            if is_same(set.subjects.get(at)?, subject, word) && set.known.get(at)?.stamp == stamp {
                let way = (way & 0xff) as u8; // below WAYS
                return Some(Place { set: index, way });
            }
            ways &= ways.wrapping_sub(1);
        }
        None
    }

    /// The entry at a place.
    #[inline]
    pub(super) fn get(&self, place: Place) -> Option<&Known> {
        self.sets
            .get(usize::from(place.set))?
            .known
            .get(usize::from(place.way))
    }

    /// The same, to be changed.
    #[inline]
    pub(super) fn get_mut(&mut self, place: Place) -> Option<&mut Known> {
        self.sets
            .get_mut(usize::from(place.set))?
            .known
            .get_mut(usize::from(place.way))
    }

    /// Keeps a subject under a stamp, in either of its sets; if both are full, another one goes for it.
    pub(super) fn keep(&mut self, hash: u64, subject: &Subject, stamp: Stamp) -> Option<Place> {
        let [first, second] = sets_of(hash);
        let vacant = |index| Some((index, self.sets.get(usize::from(index))?.vacancy(stamp)?));
        let (index, way) = match vacant(first).or_else(|| vacant(second)) {
            Some(found) => found,
            None => (first, self.sets.get_mut(usize::from(first))?.evict()),
        };
        let (set, at) = (self.sets.get_mut(usize::from(index))?, usize::from(way));
        *set.tags.get_mut(at)? = tag_of(hash);
        *set.subjects.get_mut(at)? = *subject;
        *set.known.get_mut(at)? = Known { stamp, pair: None };
        Some(Place { set: index, way })
    }

    /// The hash of a subject, with `a0` for word 0: folded products of pairs of words, each with a key: cheap, and not to be steered without the keys.
    #[inline(always)]
    pub(super) fn hash(&self, subject: &Subject, a0: u64) -> u64 {
        let ([_, a1, a2, a3, a4, a5, a6, a7], [k0, k1, k2, k3, k4, k5, k6, k7]) =
            (subject.0, self.keys);
        fold(a0 ^ k0, a1 ^ k1)
            ^ fold(a2 ^ k2, a3 ^ k3)
            ^ fold(a4 ^ k4, a5 ^ k5)
            ^ fold(a6 ^ k6, a7 ^ k7)
    }
}

#[inline]
#[expect(
    clippy::cast_possible_truncation,
    reason = "both halves of the product are taken"
)]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a).wrapping_mul(u128::from(b));
    product as u64 ^ (product >> 64) as u64
}

/// Whether all words are equal, without a jump in between.
#[inline(always)]
fn is_same(kept: &Subject, subject: &Subject, word: u64) -> bool {
    let ([k0, kept @ ..], [_, words @ ..]) = (&kept.0, &subject.0);
    let differ = kept
        .iter()
        .zip(words)
        .fold(k0 ^ word, |differ, (a, b)| differ | a ^ b);
    differ == 0
}

/// The two sets that a subject may be in.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "below SETS")]
fn sets_of(hash: u64) -> [u16; 2] {
    [hash, hash >> 16].map(|part| (part % SETS as u64) as u16)
}

/// Never zero, which is the tag of what is empty.
#[inline]
fn tag_of(hash: u64) -> u32 {
    let upper = (hash >> 32) as u32;
    upper | 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(n: u64) -> Subject {
        Subject([n, n ^ 1, 0, n << 9, 0, 7, n, 9])
    }

    fn find(cache: &Cache, subject: Subject, stamp: Stamp) -> (u64, Option<Place>) {
        let hash = cache.hash(&subject, subject.0[0]);
        (hash, cache.find(hash, &subject, subject.0[0], stamp))
    }

    #[test]
    fn an_entry_is_small() {
        assert!(size_of::<Set>() * SETS <= 240 << 10, "{}", size_of::<Set>());
    }

    #[test]
    fn what_was_kept_is_found_under_its_stamp_and_its_whole_subject_only() {
        let mut cache = Cache::new();
        let stamp = Stamp::new(1, 1);
        let (hash, none) = find(&cache, subject(5), stamp);
        assert_eq!(none, None);
        let place = cache.keep(hash, &subject(5), stamp).unwrap();
        assert_eq!(find(&cache, subject(5), stamp), (hash, Some(place)));
        let long_after = Stamp::new(1, (1 << 32) + 1);
        for other in [Stamp::new(2, 1), Stamp::new(1, 2), long_after] {
            assert_eq!(find(&cache, subject(5), other), (hash, None));
        }
        for word in 0..WORDS {
            for bit in 0..64 {
                let mut other = subject(5);
                other.0[word] ^= 1 << bit;
                assert_eq!(find(&cache, other, stamp).1, None, "{word} {bit}");
            }
        }
    }

    #[test]
    fn a_thousand_flows_stay_while_they_are_used() {
        let mut cache = Cache::new();
        let stamp = Stamp::new(1, 1);
        let mut misses = 0;
        for round in 0..20 {
            for n in 0..1000 {
                let (hash, place) = find(&cache, subject(n), stamp);
                if place.is_none() {
                    cache.keep(hash, &subject(n), stamp);
                    misses += u32::from(round > 4);
                }
            }
        }
        // Of 15,000 look-ups.
        assert!(misses < 150, "{misses}");
    }

    #[test]
    fn a_rule_and_what_is_to_be_done_fit_one_word() {
        for rule in [None, Some(RuleId(0)), Some(RuleId(12_345))] {
            for (answer, log) in [(false, false), (true, false), (false, true)] {
                let refusal = Refusal::by(DropReason::Rejected, rule, answer, log);
                assert_eq!(Decided::of(&refusal).refusal(DropReason::Rejected), refusal);
            }
        }
    }
}
