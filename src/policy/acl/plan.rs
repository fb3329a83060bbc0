//! Which tables the triples of a view are put into.
//!
//! A triple may stand in every table whose mask is a part of its own: then fewer bits choose the triples to compare, and
//! fewer tables are looked into. One table for each shape of rules would be exact and slow, since a list of some
//! size has dozens; one table for all would be a list again. So shapes are rounded to the prefix lengths that
//! people use, then tables are joined while that makes the search cheaper by a simple reckoning, and never so that
//! more than [`MOST`] triples are behind one slot. After Daly et al., "TupleMerge" (2019), but for a list that is
//! known whole.

use std::collections::{HashMap, HashSet};

use super::super::subject::{WORDS, field};
use super::expand::{Triple, prefixes};
use super::space::{Keys, slot_of, tag_of};

/// The most triples behind one slot, duplicates of a hash aside.
pub(super) const MOST: u32 = 8;

/// What looking into a table costs, and comparing one triple there; in the same unit, about two cycles.
const TABLE: u64 = 4;
const COMPARISON: u64 = 3;

/// Triples that one table will hold.
pub(super) struct Group {
    pub(super) mask: [u64; WORDS],
    pub(super) triples: Vec<Triple>,
}

/// The tables for the triples of one view.
pub(super) fn plan(triples: Vec<&Triple>, scratch: &mut Scratch) -> Vec<Group> {
    let mut seen = HashSet::new();
    let mut rest: Vec<Triple> = Vec::new();
    // In the order of their rules: of two that say the same, the first decides.
    for triple in triples {
        if seen.insert((&triple.mask, &triple.value, triple.dst, triple.src)) {
            rest.push(triple.clone());
        }
    }
    let mut groups = Vec::new();
    for stage in [Stage::Rounded, Stage::Exact, Stage::Split] {
        if rest.is_empty() {
            break;
        }
        let mut by_mask: HashMap<[u64; WORDS], Vec<Triple>> = HashMap::new();
        let mut seen = HashSet::new();
        for triple in rest.drain(..) {
            match stage {
                Stage::Rounded => by_mask.entry(round(&triple.mask)).or_default().push(triple),
                Stage::Exact => by_mask.entry(triple.mask).or_default().push(triple),
                Stage::Split => {
                    for piece in split(&triple) {
                        if seen.insert((piece.mask, piece.value)) {
                            by_mask.entry(piece.mask).or_default().push(piece);
                        }
                    }
                }
            }
        }
        for (mask, triples) in by_mask {
            let (fit, crowded) = scratch.part(&mask, triples);
            rest.extend(crowded);
            if !fit.is_empty() {
                groups.push(Group { mask, triples: fit });
            }
        }
    }
    join(groups, scratch)
}

enum Stage {
    /// By masks of common lengths.
    Rounded,
    /// What would be crowded there, by its own mask.
    Exact,
    /// What is crowded even so, which takes many ranges of ports beside each other: by the prefixes of its ranges.
    Split,
}

/// A mask rounded down to lengths that many rules share.
fn round(mask: &[u64; WORDS]) -> [u64; WORDS] {
    const HIGH: [u64; 3] = [!0, !0 << 16, !0 << 32];
    const LOW: [u64; 5] = [!0, 0xffff_ffff, 0xffff_ff00, 0xffff_0000, 0xff00_0000];
    const PORT: [u64; 2] = [0xffff, 0xff00];
    let down = |mask: u64, to: &[u64]| to.iter().copied().find(|to| mask & to == *to).unwrap_or(0);
    let port = |mask: u64, (shift, _): (u32, u32)| down(mask >> shift & 0xffff, &PORT) << shift;
    let [w0, w1, w2, w3, w4, w5, w6, w7] = *mask;
    [
        w0,
        port(w1, field::DST_PORT) | port(w1, field::SRC_PORT),
        down(w2, &HIGH),
        down(w3, &LOW),
        down(w4, &HIGH),
        down(w5, &LOW),
        w6,
        w7,
    ]
}

/// A triple with its ranges of ports as prefixes.
fn split(triple: &Triple) -> Vec<Triple> {
    let mut pieces = Vec::new();
    for dst in prefixes(triple.dst) {
        for src in prefixes(triple.src) {
            let mut piece = triple.clone();
            piece.ports(dst, src);
            pieces.push(piece);
        }
    }
    pieces
}

/// Joins tables while that is cheaper: the smallest with whichever leaves the most bits to choose by.
fn join(groups: Vec<Group>, scratch: &mut Scratch) -> Vec<Group> {
    let mut done: Vec<Group> = Vec::new();
    let mut open: Vec<(Group, u64)> = groups
        .into_iter()
        .map(|group| {
            let cost = scratch
                .cost(&group.mask, group.triples.iter())
                .unwrap_or(u64::MAX);
            (group, cost)
        })
        .collect();
    // The smallest last; the mask makes the order the same each time.
    open.sort_unstable_by_key(|(group, _)| (std::cmp::Reverse(group.triples.len()), group.mask));
    while let Some((group, cost)) = open.pop() {
        let mut partners: Vec<(u32, usize)> = open
            .iter()
            .enumerate()
            .map(|(at, (other, _))| (bits(&common(&group.mask, &other.mask)), at))
            .collect();
        partners.sort_unstable_by_key(|(bits, at)| (std::cmp::Reverse(*bits), *at));
        let joined = partners.into_iter().find_map(|(_, at)| {
            let (other, other_cost) = open.get(at)?;
            let mask = common(&group.mask, &other.mask);
            let both = group.triples.iter().chain(&other.triples);
            let together = scratch.cost(&mask, both)?;
            (together <= cost.saturating_add(*other_cost)).then_some((at, mask, together))
        });
        let Some((at, mask, together)) = joined else {
            done.push(group);
            continue;
        };
        let (mut other, _) = open.swap_remove(at);
        other.mask = mask;
        other.triples.extend(group.triples);
        open.push((other, together));
        open.sort_unstable_by_key(|(group, _)| {
            (std::cmp::Reverse(group.triples.len()), group.mask)
        });
    }
    done
}

fn common(a: &[u64; WORDS], b: &[u64; WORDS]) -> [u64; WORDS] {
    let mut both = *a;
    for (word, other) in both.iter_mut().zip(b) {
        *word &= other;
    }
    both
}

fn bits(mask: &[u64; WORDS]) -> u32 {
    mask.iter().map(|word| word.count_ones()).sum()
}

/// A table of counters that is used again and again.
pub(super) struct Scratch {
    keys: Keys,
    /// Round, hash, count: only those of this round are there.
    cells: Vec<(u32, u32, u32)>,
    round: u32,
}

impl Scratch {
    pub(super) fn new() -> Self {
        Self {
            keys: Keys::draw(),
            cells: Vec::new(),
            round: 0,
        }
    }

    fn begin(&mut self, entries: usize) {
        let wanted = (entries * 2).next_power_of_two().max(64);
        if self.cells.len() < wanted {
            self.cells = vec![(0, 0, 0); wanted];
            self.round = 0;
        }
        self.round = self.round.wrapping_add(1);
        if self.round == 0 {
            self.cells.fill((0, 0, 0));
            self.round = 1;
        }
    }

    /// How many triples there are behind the slot of this one; `add`ed first.
    fn count(&mut self, mask: &[u64; WORDS], triple: &Triple, add: u32) -> u32 {
        let hash = self.keys.hash(mask, &triple.value, true);
        let tag = tag_of(hash);
        let size = self.cells.len();
        let shift = u64::BITS - size.ilog2();
        let (before, from) = self.cells.split_at_mut(slot_of(hash, shift));
        for cell in from.iter_mut().chain(before) {
            if cell.0 != self.round {
                *cell = (self.round, tag, add);
                return add;
            }
            if cell.1 == tag {
                cell.2 += add;
                return cell.2;
            }
        }
        u32::MAX
    }

    /// What a search in a table with these triples costs when it finds a slot; `None` when a slot were crowded.
    fn cost<'t>(
        &mut self,
        mask: &[u64; WORDS],
        triples: impl Iterator<Item = &'t Triple>,
    ) -> Option<u64> {
        let triples: Vec<&Triple> = triples.collect();
        self.begin(triples.len());
        let mut squares = 0u64;
        for triple in &triples {
            let count = self.count(mask, triple, 1);
            if count > MOST {
                return None;
            }
            // n squared is the sum of the first n odd numbers.
            squares += 2 * u64::from(count) - 1;
        }
        let mean = squares * COMPARISON / (triples.len() as u64).max(1);
        Some(TABLE + mean)
    }

    /// The triples that are behind slots with at most [`MOST`] others, and those that are not.
    fn part(&mut self, mask: &[u64; WORDS], triples: Vec<Triple>) -> (Vec<Triple>, Vec<Triple>) {
        self.begin(triples.len());
        for triple in &triples {
            self.count(mask, triple, 1);
        }
        triples
            .into_iter()
            .partition(|triple| self.count(mask, triple, 0) <= MOST)
    }
}
