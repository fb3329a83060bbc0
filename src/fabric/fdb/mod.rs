//! The forwarding database: which port a MAC address was last heard on, in each VLAN.
//!
//! # The attacks that it answers
//!
//! - *Flooding it with addresses* (E-3): a port learns at most `per_port` addresses; at its cap it replaces its
//!   own. When the table is full, a port that has its fair share (capacity divided by ports) replaces its own, and
//!   one that has less takes from the port that has the most, which is over its share. So no port can push another
//!   below its fair share.
//! - *Crafted collisions* (E-31): a keyed placement, see [`mixer`]; a look-up reads two buckets at most.
//! - *Stealing a declared address* (E-1, E-2): static entries never move, never age and are never evicted; a frame
//!   that claims such an address on another port is refused. They hold for all VLANs of their port.
//!
//! # Theory of operation
//!
//! The table is an array of buckets, a cache line each, with five slots. A key has two buckets, and an entry is one
//! atomic word in a slot of either, so that readers need no lock and no retry ([`table`]). Next to the word stands the
//! second at which the address was last heard; it is stored only when the second changes.
//!
//! Whatever changes a word holds the mutex over the [`Books`], and looks again under it. The work under the lock is
//! bounded, a few cache lines for a learned address, so that a worker that waits for another waits briefly. Who has
//! to go when there is no room is decided in [`room`].
//!
//! An entry that was not heard of for more than `ageing` seconds is not an answer any more, whether or not
//! [`Fdb::age`] has yet come by to free its slot.
//!
//! Static entries are kept under VLAN 0. An address is never both declared and learned.

mod books;
mod cache;
mod mixer;
mod room;
mod table;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use self::books::Books;
use self::cache::Cached;
pub use self::cache::LookupCache;
use self::mixer::Key;
pub(super) use self::table::Witness;
use self::table::{Found, Slot, Table, Word};
use crate::clock::Tick;
use crate::counters::{DropReason, PortId};
use crate::frame::{Mac, Vid};

/// Seconds for which an address that was heard on one port cannot be claimed for another.
pub(super) const CLAIM_HOLD: u32 = 60;

/// How many entries are flushed before the lock is let go for a moment.
const FLUSH_WIDTH: usize = 256;

/// The bounds of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FdbLimits {
    /// Learned entries of all ports; at most 2^20, and best no less than there are ports.
    pub capacity: u32,
    /// Learned entries of one port.
    pub per_port: u32,
    /// Seconds after which an address that is not heard any more is forgotten.
    pub ageing: u32,
    /// How many ports share the table.
    pub ports: u16,
}

impl Default for FdbLimits {
    fn default() -> Self {
        Self {
            capacity: 65_536,
            per_port: 4096,
            ageing: 300,
            ports: 64,
        }
    }
}

/// Why a static entry was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StaticError {
    /// The address is declared for another port.
    #[error("{mac} is declared for port {owner} already; an address belongs to one port")]
    Taken {
        /// The address.
        mac: Mac,
        /// The port that has it.
        owner: PortId,
    },
    /// Another port was heard with it a moment ago.
    #[error(
        "{mac} was heard on port {on} a moment ago; declare it for the port that is to have it"
    )]
    Heard {
        /// The address.
        mac: Mac,
        /// The port that it was heard on.
        on: PortId,
    },
    /// No station has such an address.
    #[error("{0} is a group address or zero; declare the address of a station")]
    NoStation(Mac),
    /// Both buckets are full of static entries.
    #[error("no room for {0}: too many declared addresses; raise the capacity of the FDB")]
    Full(Mac),
}

/// An entry, for people to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct FdbEntry {
    /// The VLAN; `None` for a static entry, which holds for all VLANs of its port.
    pub vid: Option<Vid>,
    /// The address.
    pub mac: Mac,
    /// The port that it is on.
    pub port: PortId,
    /// Seconds since it was last heard; zero for a static entry.
    pub age: u32,
    /// Whether it was declared.
    pub is_static: bool,
}

/// The table. Shared by all workers.
#[derive(Debug)]
pub struct Fdb {
    limits: FdbLimits,
    table: Table,
    /// How many static entries there are; a table without any is not searched for them. Written under the lock.
    statics: AtomicU32,
    books: Mutex<Books>,
}

impl Fdb {
    /// An empty table, with all of its memory.
    pub fn new(limits: FdbLimits) -> Self {
        let limits = FdbLimits {
            capacity: limits.capacity.min(1 << 20),
            ..limits
        };
        // Two of five slots filled at capacity: hardly ever are both buckets of a key full.
        let buckets = (limits.capacity / 2).next_power_of_two().max(512);
        let table = Table::new(buckets.trailing_zeros());
        let books = Mutex::new(Books::new(table.slots(), limits.per_port));
        Self {
            limits,
            table,
            statics: AtomicU32::new(0),
            books,
        }
    }

    /// Lets a port learn so many addresses, where that is less than what all may; at least one. What it has learned stays.
    pub fn cap_port(&self, port: PortId, most: u32) {
        let most = most.clamp(1, self.limits.per_port.max(1));
        self.books().cap(port, most);
    }

    /// The bounds that it was made with.
    pub fn limits(&self) -> FdbLimits {
        self.limits
    }

    /// The port on which `mac` was heard in `vid`, or for which it was declared.
    pub fn lookup(&self, vid: Vid, mac: Mac, now: Tick) -> Option<PortId> {
        self.lookup_cached(vid, mac, seconds(now), &mut LookupCache::default())
    }

    pub(super) fn lookup_cached(
        &self,
        vid: Vid,
        mac: Mac,
        now: u32,
        cache: &mut LookupCache,
    ) -> Option<PortId> {
        let found = self.lookup_witnessed(vid, mac, now, cache);
        found.map(|(port, _)| port)
    }

    /// As [`lookup`](Self::lookup); with a witness when the answer was remembered.
    #[inline(always)]
    pub(super) fn lookup_witnessed(
        &self,
        vid: Vid,
        mac: Mac,
        now: u32,
        cache: &mut LookupCache,
    ) -> Option<(PortId, Option<Witness<'_>>)> {
        let key = Key::new(vid.get(), mac);
        let cached = cache.destination(key);
        if cached.key == key
            && let Some((found, seen)) = self.table.witness(cached.found)
        {
            let age = now.saturating_sub(seen.load(Ordering::Relaxed));
            let word = cached.found.word;
            let is_fresh = age <= self.limits.ageing || word.is_static();
            return if is_fresh {
                Some((word.port()?, Some(found)))
            } else {
                None
            };
        }
        Some((self.lookup_uncached(key, now, cached)?, None))
    }

    #[inline(never)]
    fn lookup_uncached(&self, key: Key, now: u32, cached: &mut Cached) -> Option<PortId> {
        let found = self.find_either(key)?;
        *cached = Cached { key, found };
        if self.is_expired(found, now) {
            None
        } else {
            found.word.port()
        }
    }

    /// Notes that `mac` was heard on `source`.
    ///
    /// # Errors
    ///
    /// [`DropReason::MacOfOtherPort`] when it is declared for another port.
    pub fn learn(&self, source: PortId, vid: Vid, mac: Mac, now: Tick) -> Result<(), DropReason> {
        self.learn_cached(source, vid, mac, seconds(now), &mut LookupCache::default())
    }

    pub(super) fn learn_cached(
        &self,
        source: PortId,
        vid: Vid,
        mac: Mac,
        now: u32,
        cache: &mut LookupCache,
    ) -> Result<(), DropReason> {
        self.learn_witnessed(source, vid, mac, now, cache).map(drop)
    }

    /// As [`learn`](Self::learn); with a witness when the address was known to be here.
    #[inline(always)]
    pub(super) fn learn_witnessed(
        &self,
        source: PortId,
        vid: Vid,
        mac: Mac,
        now: u32,
        cache: &mut LookupCache,
    ) -> Result<Option<Witness<'_>>, DropReason> {
        let key = Key::new(vid.get(), mac);
        let cached = &cache.source;
        if cached.key == key
            && let Some((heard, seen)) = self.table.witness(cached.found)
            && cached.found.word.is_on(source)
        {
            Table::refresh_second(seen, now);
            return Ok(Some(heard));
        }
        if let Some(found) = self.learn_uncached(source, key, now)? {
            cache.source = Cached { key, found };
        }
        Ok(None)
    }

    /// The entry under which the address is known now; `None` when there was no room for it.
    #[inline(never)]
    fn learn_uncached(
        &self,
        source: PortId,
        key: Key,
        now: u32,
    ) -> Result<Option<Found>, DropReason> {
        match self.find_either(key) {
            Some(found) if found.word.is_on(source) => {
                self.table.refresh(found.slot, now);
                Ok(Some(found))
            }
            Some(found) if found.word.is_static() => Err(DropReason::MacOfOtherPort),
            _ => self.learn_locked(source, key, now),
        }
    }

    #[cold]
    fn learn_locked(
        &self,
        source: PortId,
        key: Key,
        now: u32,
    ) -> Result<Option<Found>, DropReason> {
        let mut books = self.books();
        match self.find_either(key) {
            Some(found) if found.word.is_on(source) => Ok(Some(found)),
            Some(found) if found.word.is_static() => Err(DropReason::MacOfOtherPort),
            _ if self.limits.per_port == 0 || self.limits.capacity == 0 => Ok(None),
            Some(found) => Ok(Some(self.move_to(&mut books, source, found, now))),
            None => Ok(self.insert(&mut books, source, key, now)),
        }
    }

    /// A learned station is on another port now. Its entry stays in its slot and changes hands.
    fn move_to(&self, books: &mut Books, source: PortId, found: Found, now: u32) -> Found {
        if books.is_full(source) {
            self.evict_from(books, source, now);
        }
        if let Some(before) = found.word.port() {
            books.strike(before, found.slot.number());
        }
        self.enter(
            books,
            source,
            found.slot,
            found.word.identity().learned_on(source),
            now,
        )
    }

    fn insert(&self, books: &mut Books, source: PortId, key: Key, now: u32) -> Option<Found> {
        let (slot, identity) = self.vacancy(books, source, key, now)?;
        if books.is_full(source) {
            self.evict_from(books, source, now);
        } else if books.total() >= self.limits.capacity && !self.make_room(books, source, now) {
            return None;
        }
        books.note_vid(key.vid());
        Some(self.enter(books, source, slot, identity.learned_on(source), now))
    }

    fn enter(&self, books: &mut Books, source: PortId, slot: Slot, word: Word, now: u32) -> Found {
        self.table.store(slot, word, now);
        books.enter(source, slot.number());
        Found { slot, word }
    }

    /// Declares `mac` for `port`, in all of its VLANs; what was learned about it is forgotten.
    ///
    /// # Errors
    ///
    /// See [`StaticError`]; nothing has changed then.
    pub fn add_static(&self, port: PortId, mac: Mac) -> Result<(), StaticError> {
        self.declare(port, mac, |_, _| true)
    }

    /// The same for an address that a guest was first heard with: whoever comes first does not get what another port was heard with
    /// in the last [`CLAIM_HOLD`] seconds (E-1), in whatever VLAN.
    ///
    /// Looks in every VLAN that anything was learned in, before it says [`StaticError::Heard`]: not to be asked for each frame.
    ///
    /// # Errors
    ///
    /// See [`StaticError`]; no address has changed hands then.
    pub fn claim(&self, port: PortId, mac: Mac, now: Tick) -> Result<(), StaticError> {
        let hold = CLAIM_HOLD.min(self.limits.ageing);
        self.declare(port, mac, |word, heard| {
            word.is_on(port) || seconds(now).saturating_sub(heard) > hold
        })
    }

    /// Declares an address, unless something was learned about it that is not to be forgotten; `may_go` is told the entry and the second
    /// at which it was last heard.
    fn declare(
        &self,
        port: PortId,
        mac: Mac,
        may_go: impl Fn(Word, u32) -> bool,
    ) -> Result<(), StaticError> {
        if !mac.is_station() {
            return Err(StaticError::NoStation(mac));
        }
        let mut books = self.books();
        let key = Key::new(0, mac);
        if let Some(found) = self.table.find(key) {
            return match found.word.port() {
                Some(owner) if owner != port => Err(StaticError::Taken { mac, owner }),
                _ => Ok(()),
            };
        }
        // In each VLAN that anything was learned in: a look-up, as for a frame.
        let learned_in = |vid| self.table.find(Key::new(vid, mac));
        for found in books.vids().filter_map(learned_in) {
            if let Some(on) = found.word.port()
                && !may_go(found.word, self.table.heard(found.slot))
            {
                return Err(StaticError::Heard { mac, on });
            }
        }
        let (slot, identity) = self
            .static_vacancy(&mut books, key)
            .ok_or(StaticError::Full(mac))?;
        for found in books.vids().filter_map(learned_in) {
            self.remove(&mut books, found);
        }
        self.table.store(slot, identity.declared_for(port), 0);
        self.statics.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// Takes the declaration of `mac` for `port` back; false when there is none.
    pub fn remove_static(&self, port: PortId, mac: Mac) -> bool {
        let _books = self.books();
        match self.table.find(Key::new(0, mac)) {
            Some(found) if found.word.is_on(port) => {
                self.table.store(found.slot, Word::EMPTY, 0);
                self.statics.fetch_sub(1, Ordering::Release);
                true
            }
            _ => false,
        }
    }

    /// Forgets what was learned on `port`: its guest is gone. Declared addresses stay. The caller sees to it that the
    /// port sends nothing meanwhile; what it learns during the call may stay.
    pub fn flush_port(&self, port: PortId) {
        let mut left = self.learned(port) as usize;
        while left > 0 {
            let mut books = self.books();
            for _ in 0..left.min(FLUSH_WIDTH) {
                let Some(number) = books.oldest(port) else {
                    return;
                };
                self.remove(&mut books, self.table.at(Slot::from_number(number)));
            }
            left = left.saturating_sub(FLUSH_WIDTH);
        }
    }

    /// Frees the slots of expired entries. Reads the whole table (2 MiB for 65,536 entries), and takes the lock only
    /// for buckets in which something expired: for the thread that has time, every few seconds.
    pub fn age(&self, now: Tick) {
        let now = seconds(now);
        for bucket in 0..=self.table.last_bucket() {
            let is_due = |slot| {
                let found = self.table.at(slot);
                found.word.is_valid() && self.is_expired(found, now)
            };
            if Slot::of(bucket).any(is_due) {
                self.expire(&mut self.books(), bucket, now);
            }
        }
    }

    /// How many addresses the port has learned, expired ones included until they are freed.
    pub fn learned(&self, port: PortId) -> u32 {
        self.books().count(port)
    }

    /// How many addresses all ports have learned, expired ones included until they are freed.
    pub fn learned_total(&self) -> u32 {
        self.books().total()
    }

    /// The entries at this moment, in no order. Entries that change meanwhile may be seen before or after.
    pub fn entries(&self, now: Tick) -> impl Iterator<Item = FdbEntry> + '_ {
        self.entries_from(0, now).map(|(_, entry)| entry)
    }

    /// The same from place `from` of the table on, each with the place behind it: so that whoever lists them in several
    /// turns can go on where it stopped. An entry never moves, so that none that stays is missed or seen twice.
    pub fn entries_from(&self, from: u32, now: Tick) -> impl Iterator<Item = (u32, FdbEntry)> + '_ {
        let now = seconds(now);
        let fresh = move |found: &Found| !self.is_expired(*found, now);
        let all = self.table.all_from(Slot::from_number(from));
        all.filter(fresh).filter_map(move |found| {
            let key = self.table.key(found);
            let is_static = found.word.is_static();
            let age = now.saturating_sub(self.table.seen(found.slot));
            let entry = FdbEntry {
                vid: Vid::new(key.vid()),
                mac: key.mac(),
                port: found.word.port()?,
                age: if is_static { 0 } else { age },
                is_static,
            };
            Some((found.slot.number().saturating_add(1), entry))
        })
    }

    /// The entry of a key, learned or declared.
    #[inline]
    fn find_either(&self, key: Key) -> Option<Found> {
        let found = self.table.find(key);
        if found.is_none() && self.statics.load(Ordering::Acquire) != 0 {
            return self.table.find(Key::new(0, key.mac()));
        }
        found
    }

    #[inline]
    fn is_expired(&self, found: Found, now: u32) -> bool {
        let age = now.saturating_sub(self.table.seen(found.slot));
        !found.word.is_static() && age > self.limits.ageing
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The table counts in whole seconds.
#[inline]
pub(super) fn seconds(now: Tick) -> u32 {
    u32::try_from(now.as_secs()).unwrap_or(u32::MAX)
}
