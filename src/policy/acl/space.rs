//! Tables in which a packet looks its rule up.
//!
//! A table holds triples that all have conditions on the bits of its mask. The bits of a packet under that mask lead,
//! through a keyed hash, to the few triples that agree there, and these are compared whole. So no answer ever
//! comes from a hash, and what a table costs does not depend on how many triples it holds.
//!
//! The tables of a view stand in the order of their best rule, and the search ends at the first whose best is no
//! better than what was found.

use std::hash::{BuildHasher, RandomState};

use super::super::subject::WORDS;
use super::expand::{Span, Triple};
use super::plan::{Scratch, plan};
use super::view::VIEWS;

/// No rule: behind every position.
pub(super) const NONE: u32 = u32::MAX;

/// The words that most triples have conditions on, flags and states, ports and IPv4 addresses, and the others.
const NEAR: [usize; 4] = [0, 1, 3, 5];
const FAR: [usize; 4] = [2, 4, 6, 7];

/// The multipliers of the hash: drawn anew for each list, so that nobody outside can choose packets that meet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keys([u64; WORDS]);

impl Keys {
    pub(super) fn draw() -> Self {
        let secrets = RandomState::new();
        let mut keys = [0; WORDS];
        for (n, key) in (0u8..).zip(&mut keys) {
            *key = secrets.hash_one(n) | 1;
        }
        Self(keys)
    }

    /// Multiply and add: its upper bits are the good ones.
    #[inline(always)]
    pub(super) fn hash(&self, mask: &[u64; WORDS], words: &[u64; WORDS], is_wide: bool) -> u64 {
        let (m, w, k) = (mask, words, &self.0);
        let part = |hash: u64, word: usize| -> u64 {
            #[expect(clippy::indexing_slicing, reason = "constant places in an array")]
            hash.wrapping_add((w[word] & m[word]).wrapping_mul(k[word]))
        };
        let near = NEAR.into_iter().fold(0, part);
        if is_wide {
            FAR.into_iter().fold(near, part)
        } else {
            near
        }
    }
}

/// The number of the slot where a hash is looked for first, of 2^(64 - `shift`).
#[inline(always)]
pub(super) fn slot_of(hash: u64, shift: u32) -> usize {
    #[expect(clippy::cast_possible_truncation, reason = "at most 32 bits are left")]
    let slot = (hash >> shift) as usize;
    slot
}

/// What a slot holds of a hash.
#[inline(always)]
pub(super) const fn tag_of(hash: u64) -> u32 {
    (hash >> 32) as u32
}

/// Whether a mask has bits beyond the near words.
fn is_wide(mask: &[u64; WORDS]) -> bool {
    let [_, _, a, _, b, _, c, d] = mask;
    a | b | c | d != 0
}

/// Four words of a triple.
#[derive(Clone, Copy, Debug, Default)]
struct Half {
    mask: [u64; 4],
    value: [u64; 4],
}

impl Half {
    fn of(triple: &Triple, places: [usize; 4]) -> Self {
        let pick = |words: &[u64; WORDS]| places.map(|at| words.get(at).copied().unwrap_or(0));
        Self {
            mask: pick(&triple.mask),
            value: pick(&triple.value),
        }
    }

    /// Zero when all that is under the mask is as in the value.
    #[inline(always)]
    fn differs(&self, words: [u64; 4]) -> u64 {
        let [m0, m1, m2, m3] = self.mask;
        let [v0, v1, v2, v3] = self.value;
        let [w0, w1, w2, w3] = words;
        (w0 & m0 ^ v0) | (w1 & m1 ^ v1) | (w2 & m2 ^ v2) | (w3 & m3 ^ v3)
    }
}

/// A triple as it is compared.
#[derive(Clone, Copy, Debug)]
struct Entry {
    near: Half,
    /// First port, and how many follow it.
    dst: [u16; 2],
    src: [u16; 2],
    position: u32,
    /// Whether it is the last of those that one slot leads to.
    is_last: bool,
}

impl Entry {
    fn of(triple: &Triple) -> Self {
        let span = |span: Span| [span.first, span.last.wrapping_sub(span.first)];
        Self {
            near: Half::of(triple, NEAR),
            dst: span(triple.dst),
            src: span(triple.src),
            position: triple.position,
            is_last: false,
        }
    }

    #[inline(always)]
    fn matches(&self, words: &[u64; WORDS]) -> bool {
        let [w0, w1, _, w3, _, w5, _, _] = *words;
        #[expect(clippy::cast_possible_truncation, reason = "two fields of 16 bits")]
        let [dst, src] = [w1 as u16, (w1 >> 16) as u16];
        let within = |port: u16, [first, more]: [u16; 2]| port.wrapping_sub(first) <= more;
        self.near.differs([w0, w1, w3, w5]) == 0 && within(dst, self.dst) & within(src, self.src)
    }
}

/// Where the entries of one hash begin.
#[derive(Clone, Copy, Debug)]
struct Slot {
    tag: u32,
    /// [`NONE`] in an empty slot.
    first: u32,
}

impl Slot {
    const EMPTY: Self = Self {
        tag: 0,
        first: NONE,
    };
}

#[derive(Clone, Copy, Debug)]
struct Table {
    mask: [u64; WORDS],
    /// The best position in it.
    best: u32,
    /// Its first slot.
    base: u32,
    /// How far a hash is shifted to be the number of a slot.
    shift: u32,
    is_wide: bool,
}

/// The tables of all views, for one class of peers.
#[derive(Debug)]
pub(super) struct Space {
    keys: Keys,
    /// Of each view: its first table and the one behind its last.
    views: [(u32, u32); VIEWS],
    tables: Box<[Table]>,
    /// Every table ends in an empty one.
    slots: Box<[Slot]>,
    entries: Box<[Entry]>,
    /// The other halves of the entries, where a view has any, each at the place of its entry.
    far: Box<[Half]>,
}

impl Space {
    /// The better of `best` and the first rule that the words match.
    #[inline]
    pub(super) fn find(&self, view: usize, words: &[u64; WORDS], mut best: u32) -> u32 {
        let (first, end) = self.views.get(view).copied().unwrap_or((0, 0));
        let tables = self.tables.get(first as usize..end as usize);
        for table in tables.unwrap_or(&[]) {
            if table.best >= best {
                break;
            }
            if let Some(found) = self.look(table, words, best) {
                best = found;
            }
        }
        best
    }

    /// The first rule better than `best` that the words match in one table.
    #[inline(always)]
    fn look(&self, table: &Table, words: &[u64; WORDS], best: u32) -> Option<u32> {
        let hash = self.keys.hash(&table.mask, words, table.is_wide);
        let slots = self
            .slots
            .get(table.base as usize + slot_of(hash, table.shift)..)?;
        let tag = tag_of(hash);
        let slot = slots
            .iter()
            .take_while(|slot| slot.first != NONE)
            .find(|slot| slot.tag == tag)?;
        for at in slot.first as usize.. {
            let entry = self.entries.get(at)?;
            if entry.position >= best {
                return None;
            }
            if entry.matches(words) && (!table.is_wide || self.matches_far(at, words)) {
                return Some(entry.position);
            }
            if entry.is_last {
                return None;
            }
        }
        None
    }

    #[inline(always)]
    fn matches_far(&self, at: usize, words: &[u64; WORDS]) -> bool {
        let [_, _, w2, _, w4, _, w6, w7] = *words;
        self.far
            .get(at)
            .is_some_and(|half| half.differs([w2, w4, w6, w7]) == 0)
    }

    /// The tables for these triples, each with its view.
    pub(super) fn build(triples: Vec<(usize, &Triple)>, scratch: &mut Scratch) -> Self {
        let mut views: [Vec<&Triple>; VIEWS] = std::array::from_fn(|_| Vec::new());
        for (view, triple) in triples {
            if let Some(view) = views.get_mut(view) {
                view.push(triple);
            }
        }
        let mut builder = Builder {
            keys: Keys::draw(),
            tables: Vec::new(),
            slots: Vec::new(),
            entries: Vec::new(),
            far: Vec::new(),
        };
        let mut ranges = [(0, 0); VIEWS];
        for (range, view) in ranges.iter_mut().zip(views) {
            range.0 = place(builder.tables.len());
            builder.view(view, scratch);
            range.1 = place(builder.tables.len());
        }
        Self {
            keys: builder.keys,
            views: ranges,
            tables: builder.tables.into(),
            slots: builder.slots.into(),
            entries: builder.entries.into(),
            far: builder.far.into(),
        }
    }

    /// How many tables a packet of that view may have to look into.
    #[cfg(test)]
    pub(super) fn tables(&self, view: usize) -> usize {
        self.views
            .get(view)
            .map_or(0, |(first, end)| (end - first) as usize)
    }

    /// The most entries behind one slot.
    #[cfg(test)]
    pub(super) fn longest(&self) -> usize {
        let buckets = self.entries.split_inclusive(|entry| entry.is_last);
        buckets.map(<[Entry]>::len).max().unwrap_or(0)
    }
}

struct Builder {
    keys: Keys,
    tables: Vec<Table>,
    slots: Vec<Slot>,
    entries: Vec<Entry>,
    far: Vec<Half>,
}

/// A place in one of the vectors, which the bound on triples keeps far below 2^32.
fn place(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(NONE)
}

impl Builder {
    fn view(&mut self, triples: Vec<&Triple>, scratch: &mut Scratch) {
        let first = self.tables.len();
        for group in plan(triples, scratch) {
            self.table(&group.mask, &group.triples);
        }
        if let Some(tables) = self.tables.get_mut(first..) {
            tables.sort_by_key(|table| table.best);
        }
    }

    fn table(&mut self, mask: &[u64; WORDS], triples: &[Triple]) {
        let is_wide = triples.iter().any(|triple| is_wide(&triple.mask));
        let mut hashed: Vec<(u64, &Triple)> = triples
            .iter()
            .map(|triple| (self.keys.hash(mask, &triple.value, is_wide), triple))
            .collect();
        hashed.sort_unstable_by_key(|(hash, triple)| (tag_of(*hash), triple.position));
        // At most half full; of the hash's upper half, so that the tag tells all that the number of a slot does.
        let bits = (triples.len() * 2).next_power_of_two().ilog2().clamp(1, 32);
        let shift = u64::BITS - bits;
        let base = self.slots.len();
        self.slots.resize(base + (1 << bits), Slot::EMPTY);
        if is_wide {
            self.far.resize(self.entries.len(), Half::default());
        }
        for bucket in hashed.chunk_by(|(a, _), (b, _)| tag_of(*a) == tag_of(*b)) {
            let Some((hash, _)) = bucket.first() else {
                continue;
            };
            let slot = Slot {
                tag: tag_of(*hash),
                first: place(self.entries.len()),
            };
            self.insert(base + slot_of(*hash, shift), slot);
            for (_, triple) in bucket {
                self.entries.push(Entry::of(triple));
                if is_wide {
                    self.far.push(Half::of(triple, FAR));
                }
            }
            if let Some(entry) = self.entries.last_mut() {
                entry.is_last = true;
            }
        }
        self.slots.push(Slot::EMPTY);
        self.tables.push(Table {
            mask: *mask,
            best: triples.iter().map(|t| t.position).min().unwrap_or(NONE),
            base: place(base),
            shift,
            is_wide,
        });
    }

    /// Puts a slot at the first empty place from `at` on; the table grows at its end rather than wrap.
    fn insert(&mut self, at: usize, slot: Slot) {
        let free = self
            .slots
            .get(at..)
            .and_then(|slots| slots.iter().position(|slot| slot.first == NONE));
        match free.and_then(|free| self.slots.get_mut(at + free)) {
            Some(place) => *place = slot,
            None => self.slots.push(slot),
        }
    }
}
