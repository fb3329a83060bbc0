//! Room for one more address: whose entry goes when there is none.
//!
//! In this order: an expired entry; one's own, at the cap of the port or at one's fair share of a full table; an
//! entry of the port that has the most, if that is over its fair share. Never a static entry, and never one of a
//! port at or below its fair share.

use super::Fdb;
use super::books::Books;
use super::mixer::Key;
use super::table::{Candidate, Found, Identity, Slot, Word};
use crate::counters::PortId;

/// How many of a port's oldest entries are looked at for the one to evict.
const EVICTION_WIDTH: usize = 4;

/// How many buckets are searched for expired entries when the table is full.
const SEARCH_WIDTH: u32 = 8;

impl Fdb {
    /// How many entries a port can keep whatever the others do.
    pub(super) fn fair_share(&self) -> u32 {
        self.limits.capacity / u32::from(self.limits.ports.max(1))
    }

    /// A free slot in one of the key's buckets, freed by force if need be, and the key's identity there.
    pub(super) fn vacancy(
        &self,
        books: &mut Books,
        source: PortId,
        key: Key,
        now: u32,
    ) -> Option<(Slot, Identity)> {
        let candidates @ [primary, other] = self.table.candidates(key);
        let free = |candidate: Candidate| {
            Slot::of(candidate.bucket).filter(|slot| !self.table.word(*slot).is_valid())
        };
        // The other bucket only helps out when the first is nearly full: most look-ups then read one line.
        let (here, there) = (free(primary).count(), free(other).count());
        let chosen = if here <= 1 && there > here {
            other
        } else {
            primary
        };
        if let Some(slot) = free(chosen).next() {
            return Some((slot, chosen.identity));
        }
        let (found, port, identity) = candidates
            .into_iter()
            .flat_map(|of| Slot::of(of.bucket).map(move |slot| (slot, of.identity)))
            .map(|(slot, identity)| (self.table.at(slot), identity))
            .filter(|(found, _)| !found.word.is_static())
            .filter_map(|(found, identity)| Some((found, found.word.port()?, identity)))
            .max_by_key(|(found, port, _)| {
                (
                    self.is_expired(*found, now),
                    *port == source,
                    books.count(*port),
                )
            })?;
        let may_go = self.is_expired(found, now)
            || port == source
            || books.count(port) > self.fair_share().max(books.count(source));
        may_go.then(|| {
            self.remove(books, found);
            (found.slot, identity)
        })
    }

    /// A slot for a static entry; a learned one has to go if all are taken.
    pub(super) fn static_vacancy(&self, books: &mut Books, key: Key) -> Option<(Slot, Identity)> {
        let (found, identity) = self
            .table
            .candidates(key)
            .into_iter()
            .flat_map(|of| Slot::of(of.bucket).map(move |slot| (slot, of.identity)))
            .map(|(slot, identity)| (self.table.at(slot), identity))
            .filter(|(found, _)| !found.word.is_static())
            .min_by_key(|(found, _)| found.word.is_valid())?;
        if found.word.is_valid() {
            self.remove(books, found);
        }
        Some((found.slot, identity))
    }

    /// Frees an entry of a full table for `source`; false when none may go.
    pub(super) fn make_room(&self, books: &mut Books, source: PortId, now: u32) -> bool {
        for _ in 0..SEARCH_WIDTH {
            let bucket = books.hand;
            books.hand = bucket.wrapping_add(1) & self.table.last_bucket();
            self.expire(books, bucket, now);
        }
        if books.total() < self.limits.capacity {
            return true;
        }
        if books.count(source) >= self.fair_share() {
            return self.evict_from(books, source, now);
        }
        match books.greatest() {
            Some((port, count)) if count > self.fair_share() => self.evict_from(books, port, now),
            _ => false,
        }
    }

    /// Removes one of the port's entries: of its oldest few the one that was not heard for the longest. The others
    /// are put back as its newest, so that they are not looked at again at once. False when it has none.
    pub(super) fn evict_from(&self, books: &mut Books, port: PortId, now: u32) -> bool {
        let mut victim: Option<(Found, u32)> = None;
        for _ in 0..EVICTION_WIDTH {
            let Some(number) = books.oldest(port) else {
                break;
            };
            let slot = Slot::from_number(number);
            if victim.is_some_and(|(found, _)| found.slot == slot) {
                break;
            }
            let (found, seen) = (self.table.at(slot), self.table.seen(slot));
            if victim.is_none_or(|(_, longest)| seen < longest) {
                victim = Some((found, seen));
            }
            if self.is_expired(found, now) {
                break;
            }
            books.strike(port, number);
            books.enter(port, number);
        }
        if let Some((found, _)) = victim {
            self.remove(books, found);
        }
        victim.is_some()
    }

    /// Frees the expired entries of a bucket.
    pub(super) fn expire(&self, books: &mut Books, bucket: u32, now: u32) {
        for slot in Slot::of(bucket) {
            let found = self.table.at(slot);
            if found.word.is_valid() && self.is_expired(found, now) {
                self.remove(books, found);
            }
        }
    }

    /// Frees the slot of a learned entry.
    pub(super) fn remove(&self, books: &mut Books, found: Found) {
        self.table.store(found.slot, Word::EMPTY, 0);
        if let Some(port) = found.word.port() {
            books.strike(port, found.slot.number());
        }
    }
}
