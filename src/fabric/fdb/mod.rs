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
//! The table is an array of buckets, a cache line each, with five slots. A key has two buckets. A slot is one
//! atomic word that holds everything that must be consistent: the part of the key that the bucket's number
//! does not tell, the port, and the flags. An entry never moves between slots. So a reader needs no lock and no
//! retry: a word that it finds is a whole entry, true at that moment. Next to it stands the second at which the
//! address was last heard; it is stored only when the second changes, and a race there can only lengthen the life
//! of an entry that was just replaced.
//!
//! Whatever changes a word holds the mutex over the [`Books`], and looks again under it. The work under the lock is
//! bounded, a few cache lines for a learned address, so that a worker that waits for another waits briefly.
//!
//! An entry that was not heard of for more than `ageing` seconds is not an answer any more, whether or not
//! [`Fdb::age`] has yet come by to free its slot.

mod books;
mod mixer;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use self::books::Books;
use self::mixer::{Key, Mixer, Place};
use crate::clock::Tick;
use crate::counters::{DropReason, PortId};
use crate::frame::{Mac, Vid};

/// Slots in a bucket.
const WAYS: u32 = 5;

/// How many of a port's oldest entries are looked at for the one to evict.
const EVICTION_WIDTH: usize = 4;

/// How many buckets are searched for expired entries when the table is full.
const SEARCH_WIDTH: u32 = 8;

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

/// An entry in one word: `valid:1 static:1 other-bucket:1 port:10 remainder:51`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Word(u64);

impl Word {
    const VALID: u64 = 1 << 63;
    const STATIC: u64 = 1 << 62;
    const OTHER: u64 = 1 << 61;
    const PORT_AT: u32 = 51;
    const REMAINDER: u64 = (1 << Self::PORT_AT) - 1;
    const IDENTITY: u64 = Self::VALID | Self::OTHER | Self::REMAINDER;

    fn port(self) -> Option<PortId> {
        PortId::new((self.0 >> Self::PORT_AT & 0x3ff) as u16)
    }

    fn is_on(self, port: PortId) -> bool {
        self.0 >> Self::PORT_AT & 0x3ff == u64::from(port.get())
    }

    fn is_valid(self) -> bool {
        self.0 & Self::VALID != 0
    }

    fn is_static(self) -> bool {
        self.0 & Self::STATIC != 0
    }

    fn is_in_other(self) -> bool {
        self.0 & Self::OTHER != 0
    }

    fn with_port(identity: u64, port: PortId) -> Self {
        Self(identity | u64::from(port.get()) << Self::PORT_AT)
    }
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Bucket {
    words: [AtomicU64; WAYS as usize],
    seen: [AtomicU32; WAYS as usize],
}

/// A slot: its bucket and its way there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Slot {
    bucket: u32,
    way: u32,
}

impl Slot {
    fn number(self) -> u32 {
        self.bucket.wrapping_mul(WAYS).wrapping_add(self.way)
    }

    fn from_number(number: u32) -> Self {
        Self {
            bucket: number / WAYS,
            way: number % WAYS,
        }
    }
}

/// An entry that was found, and what was found there.
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    slot: Slot,
    word: Word,
}

/// What one caller found last: good for as long as the slot still holds the very same word, which is looked at each
/// time. So a cache is never wrong, whoever changes the table meanwhile; keep one for each source port.
#[derive(Clone, Debug, Default)]
pub struct LookupCache {
    source: Cached,
    destinations: [Cached; 8],
}

#[derive(Clone, Copy, Debug, Default)]
struct Cached {
    key: Key,
    found: Found,
}

impl LookupCache {
    fn destination(&mut self, key: Key) -> &mut Cached {
        let bits = key.bits();
        let [a, b, c, d, e, f, g, h] = &mut self.destinations;
        match (bits ^ bits >> 3 ^ bits >> 8) & 7 {
            0 => a,
            1 => b,
            2 => c,
            3 => d,
            4 => e,
            5 => f,
            6 => g,
            _ => h,
        }
    }
}

/// The table. Shared by all workers.
#[derive(Debug)]
pub struct Fdb {
    mixer: Mixer,
    limits: FdbLimits,
    buckets: Box<[Bucket]>,
    /// Mirrors [`Books::statics`], so that a table without static entries is not searched for them.
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
        Self {
            mixer: Mixer::new(buckets.trailing_zeros()),
            limits,
            buckets: (0..buckets).map(|_| Bucket::default()).collect(),
            statics: AtomicU32::new(0),
            books: Mutex::new(Books::new(buckets as usize * WAYS as usize)),
        }
    }

    /// The bounds that it was made with.
    pub fn limits(&self) -> FdbLimits {
        self.limits
    }

    /// The port on which `mac` was heard in `vid`, or for which it was declared.
    pub fn lookup(&self, vid: Vid, mac: Mac, now: Tick) -> Option<PortId> {
        self.lookup_cached(vid, mac, seconds(now), &mut LookupCache::default())
    }

    #[inline]
    pub(super) fn lookup_cached(
        &self,
        vid: Vid,
        mac: Mac,
        now: u32,
        cache: &mut LookupCache,
    ) -> Option<PortId> {
        let key = Key::new(vid.get(), mac);
        let cached = cache.destination(key);
        if cached.key != key || self.word(cached.found.slot) != cached.found.word {
            *cached = Cached {
                key,
                found: self.find(key).or_else(|| self.find_static(mac))?,
            };
        }
        let found = cached.found;
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

    #[inline]
    pub(super) fn learn_cached(
        &self,
        source: PortId,
        vid: Vid,
        mac: Mac,
        now: u32,
        cache: &mut LookupCache,
    ) -> Result<(), DropReason> {
        let key = Key::new(vid.get(), mac);
        let cached = cache.source;
        let holds = cached.key == key && self.word(cached.found.slot) == cached.found.word;
        if holds && cached.found.word.is_on(source) {
            self.refresh(cached.found.slot, now);
            return Ok(());
        }
        if let Some(found) = self.learn_uncached(source, key, now)? {
            cache.source = Cached { key, found };
        }
        Ok(())
    }

    /// The entry under which the address is known now; `None` when there was no room for it.
    #[inline(never)]
    fn learn_uncached(
        &self,
        source: PortId,
        key: Key,
        now: u32,
    ) -> Result<Option<Found>, DropReason> {
        if let Some(found) = self.find_static(key.mac()) {
            return claim(found, source).map(Some);
        }
        match self.find(key) {
            Some(found) if found.word.is_on(source) => {
                self.refresh(found.slot, now);
                Ok(Some(found))
            }
            _ => self.learn_locked(source, key, now),
        }
    }

    fn learn_locked(
        &self,
        source: PortId,
        key: Key,
        now: u32,
    ) -> Result<Option<Found>, DropReason> {
        let mut books = self.books();
        if let Some(found) = self.find_static(key.mac()) {
            return claim(found, source).map(Some);
        }
        let Some(found) = self.find(key) else {
            return Ok(self.insert(&mut books, source, key, now));
        };
        if found.word.is_on(source) {
            self.refresh(found.slot, now);
            return Ok(Some(found));
        }
        // The station moved. Its entry stays in its slot and changes hands.
        if self.limits.per_port == 0 {
            return Ok(None);
        }
        if books.count(source) >= self.limits.per_port {
            self.evict_from(&mut books, source, now);
        }
        if let Some(before) = found.word.port() {
            books.strike(before, found.slot.number());
        }
        let word = Word::with_port(found.word.0 & Word::IDENTITY, source);
        self.store(found.slot, word, now);
        books.enter(source, found.slot.number());
        Ok(Some(Found {
            slot: found.slot,
            word,
        }))
    }

    fn insert(&self, books: &mut Books, source: PortId, key: Key, now: u32) -> Option<Found> {
        if self.limits.per_port == 0 || self.limits.capacity == 0 {
            return None;
        }
        let (slot, identity) = self.vacancy(books, source, key, now)?;
        if books.count(source) >= self.limits.per_port {
            self.evict_from(books, source, now);
        } else if books.total() >= self.limits.capacity && !self.make_room(books, source, now) {
            return None;
        }
        let word = Word::with_port(identity, source);
        self.store(slot, word, now);
        books.enter(source, slot.number());
        Some(Found { slot, word })
    }

    /// A free slot in one of the key's buckets, freed by force if need be, and the key's identity there.
    fn vacancy(
        &self,
        books: &mut Books,
        source: PortId,
        key: Key,
        now: u32,
    ) -> Option<(Slot, u64)> {
        let place = self.mixer.place(key);
        let candidates = self.candidates(place);
        let free = |bucket| {
            (0..WAYS)
                .map(move |way| Slot { bucket, way })
                .filter(|slot| !self.word(*slot).is_valid())
        };
        let [(primary, _), (other, _)] = candidates;
        // The other bucket only helps out when the first is nearly full: most look-ups then read one line.
        let helps = free(primary).count() <= 1 && free(other).count() > free(primary).count();
        let (bucket, identity) = if helps { candidates[1] } else { candidates[0] };
        if let Some(slot) = free(bucket).next() {
            return Some((slot, identity));
        }
        let (found, port, identity) = candidates
            .iter()
            .flat_map(|&(bucket, identity)| {
                (0..WAYS).map(move |way| (Slot { bucket, way }, identity))
            })
            .filter_map(|(slot, identity)| {
                let word = self.word(slot);
                Some((Found { slot, word }, word.port()?, identity))
            })
            .filter(|(found, ..)| !found.word.is_static())
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

    /// Frees an entry of a full table for `source`; false when none may go.
    fn make_room(&self, books: &mut Books, source: PortId, now: u32) -> bool {
        for _ in 0..SEARCH_WIDTH {
            let bucket = books.hand;
            books.hand = bucket.wrapping_add(1) & self.last_bucket();
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
    /// are put back as its newest, so that they are not looked at again at once.
    fn evict_from(&self, books: &mut Books, port: PortId, now: u32) -> bool {
        let mut victim: Option<(Found, u32)> = None;
        for _ in 0..EVICTION_WIDTH {
            let Some(number) = books.oldest(port) else {
                break;
            };
            let slot = Slot::from_number(number);
            let seen = self.seen(slot);
            let found = Found {
                slot,
                word: self.word(slot),
            };
            if victim.is_some_and(|(victim, _)| victim.slot == slot) {
                break;
            }
            if self.is_expired(found, now) {
                victim = Some((found, seen));
                break;
            }
            if victim.is_none_or(|(_, oldest)| seen < oldest) {
                victim = Some((found, seen));
            }
            if books.newer(number).is_some() {
                books.strike(port, number);
                books.enter(port, number);
            }
        }
        match victim {
            Some((found, _)) => {
                self.remove(books, found);
                true
            }
            None => false,
        }
    }

    /// How many entries a port can keep whatever the others do.
    fn fair_share(&self) -> u32 {
        self.limits.capacity / u32::from(self.limits.ports.max(1))
    }

    /// Declares `mac` for `port`, in all of its VLANs; what was learned about it is forgotten.
    ///
    /// # Errors
    ///
    /// See [`StaticError`]; nothing has changed then.
    pub fn add_static(&self, port: PortId, mac: Mac) -> Result<(), StaticError> {
        if !mac.is_station() {
            return Err(StaticError::NoStation(mac));
        }
        let mut books = self.books();
        let key = Key::new(0, mac);
        if let Some(found) = self.find(key) {
            return match found.word.port() {
                Some(owner) if owner != port => Err(StaticError::Taken { mac, owner }),
                _ => Ok(()),
            };
        }
        let (slot, identity) = self
            .static_vacancy(&mut books, key)
            .ok_or(StaticError::Full(mac))?;
        if books.total() != 0 {
            for found in self.all() {
                if self.key(found).mac() == mac {
                    self.remove(&mut books, found);
                }
            }
        }
        self.store(slot, Word::with_port(identity | Word::STATIC, port), 0);
        books.statics = books.statics.saturating_add(1);
        self.statics.store(books.statics, Ordering::Release);
        Ok(())
    }

    fn static_vacancy(&self, books: &mut Books, key: Key) -> Option<(Slot, u64)> {
        let place = self.mixer.place(key);
        let (found, identity) = self
            .candidates(place)
            .into_iter()
            .flat_map(|(bucket, identity)| {
                (0..WAYS).map(move |way| (Slot { bucket, way }, identity))
            })
            .map(|(slot, identity)| {
                (
                    Found {
                        slot,
                        word: self.word(slot),
                    },
                    identity,
                )
            })
            .filter(|(found, _)| !found.word.is_static())
            .min_by_key(|(found, _)| found.word.is_valid())?;
        if found.word.is_valid() {
            self.remove(books, found);
        }
        Some((found.slot, identity))
    }

    /// Takes the declaration of `mac` for `port` back; false when there is none.
    pub fn remove_static(&self, port: PortId, mac: Mac) -> bool {
        let mut books = self.books();
        match self.find(Key::new(0, mac)) {
            Some(found) if found.word.is_on(port) => {
                self.store(found.slot, Word::default(), 0);
                books.statics = books.statics.saturating_sub(1);
                self.statics.store(books.statics, Ordering::Release);
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
                let slot = Slot::from_number(number);
                self.remove(
                    &mut books,
                    Found {
                        slot,
                        word: self.word(slot),
                    },
                );
            }
            left = left.saturating_sub(FLUSH_WIDTH);
        }
    }

    /// Frees the slots of expired entries. Reads the whole table (2 MiB for 65,536 entries), and takes the lock only
    /// for buckets in which something expired: for the thread that has time, every few seconds.
    pub fn age(&self, now: Tick) {
        let now = seconds(now);
        for bucket in 0..=self.last_bucket() {
            let is_due = |way| {
                let slot = Slot { bucket, way };
                let word = self.word(slot);
                word.is_valid() && self.is_expired(Found { slot, word }, now)
            };
            if (0..WAYS).any(is_due) {
                self.expire(&mut self.books(), bucket, now);
            }
        }
    }

    fn expire(&self, books: &mut Books, bucket: u32, now: u32) {
        for way in 0..WAYS {
            let slot = Slot { bucket, way };
            let found = Found {
                slot,
                word: self.word(slot),
            };
            if found.word.is_valid() && self.is_expired(found, now) {
                self.remove(books, found);
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
        let now = seconds(now);
        self.all()
            .filter(move |found| !self.is_expired(*found, now))
            .filter_map(move |found| {
                let key = self.key(found);
                let is_static = found.word.is_static();
                let age = if is_static {
                    0
                } else {
                    now.saturating_sub(self.seen(found.slot))
                };
                Some(FdbEntry {
                    vid: Vid::new(key.vid()),
                    mac: key.mac(),
                    port: found.word.port()?,
                    age,
                    is_static,
                })
            })
    }

    fn all(&self) -> impl Iterator<Item = Found> + '_ {
        (0..=self.last_bucket())
            .flat_map(|bucket| (0..WAYS).map(move |way| Slot { bucket, way }))
            .map(|slot| Found {
                slot,
                word: self.word(slot),
            })
            .filter(|found| found.word.is_valid())
    }

    /// The key that a word in its slot stands for.
    fn key(&self, found: Found) -> Key {
        let remainder = found.word.0 & Word::REMAINDER;
        let bucket = found.slot.bucket;
        let primary = if found.word.is_in_other() {
            self.mixer.other(bucket, remainder)
        } else {
            bucket
        };
        self.mixer.key(Place { primary, remainder })
    }

    /// The two buckets of a place, each with the bits by which the key's word is known there.
    fn candidates(&self, place: Place) -> [(u32, u64); 2] {
        let Place { primary, remainder } = place;
        [
            (primary, Word::VALID | remainder),
            (
                self.mixer.other(primary, remainder),
                Word::VALID | Word::OTHER | remainder,
            ),
        ]
    }

    #[inline]
    fn find(&self, key: Key) -> Option<Found> {
        let place = self.mixer.place(key);
        let [(primary, here), (other, there)] = self.candidates(place);
        self.find_in(primary, here)
            .or_else(|| self.find_in(other, there))
    }

    #[inline]
    fn find_in(&self, bucket: u32, identity: u64) -> Option<Found> {
        let words = &self.buckets.get(bucket as usize)?.words;
        for (way, word) in (0u32..).zip(words) {
            let word = Word(word.load(Ordering::Acquire));
            if word.0 & Word::IDENTITY == identity {
                return Some(Found {
                    slot: Slot { bucket, way },
                    word,
                });
            }
        }
        None
    }

    fn find_static(&self, mac: Mac) -> Option<Found> {
        if self.statics.load(Ordering::Acquire) == 0 {
            None
        } else {
            self.find(Key::new(0, mac))
        }
    }

    #[inline]
    fn word(&self, slot: Slot) -> Word {
        let bucket = self.buckets.get(slot.bucket as usize);
        let word = bucket.and_then(|bucket| bucket.words.get(slot.way as usize));
        Word(word.map_or(0, |word| word.load(Ordering::Acquire)))
    }

    #[inline]
    fn seen(&self, slot: Slot) -> u32 {
        let bucket = self.buckets.get(slot.bucket as usize);
        let seen = bucket.and_then(|bucket| bucket.seen.get(slot.way as usize));
        seen.map_or(0, |seen| seen.load(Ordering::Relaxed))
    }

    #[inline]
    fn refresh(&self, slot: Slot, now: u32) {
        let bucket = self.buckets.get(slot.bucket as usize);
        if let Some(seen) = bucket.and_then(|bucket| bucket.seen.get(slot.way as usize))
            && seen.load(Ordering::Relaxed) < now
        {
            seen.store(now, Ordering::Relaxed);
        }
    }

    /// Only under the lock. The second comes first, so that nobody finds a new entry with an old one.
    fn store(&self, slot: Slot, word: Word, now: u32) {
        let Some(bucket) = self.buckets.get(slot.bucket as usize) else {
            return;
        };
        let way = slot.way as usize;
        if let (Some(seen), Some(stored)) = (bucket.seen.get(way), bucket.words.get(way)) {
            seen.store(now, Ordering::Relaxed);
            stored.store(word.0, Ordering::Release);
        }
    }

    /// Only under the lock, and only for a learned entry.
    fn remove(&self, books: &mut Books, found: Found) {
        self.store(found.slot, Word::default(), 0);
        if let Some(port) = found.word.port() {
            books.strike(port, found.slot.number());
        }
    }

    #[inline]
    fn is_expired(&self, found: Found, now: u32) -> bool {
        !found.word.is_static() && now.saturating_sub(self.seen(found.slot)) > self.limits.ageing
    }

    fn last_bucket(&self) -> u32 {
        u32::try_from(self.buckets.len())
            .unwrap_or(u32::MAX)
            .saturating_sub(1)
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A declared address may be used by its own port only.
fn claim(found: Found, source: PortId) -> Result<Found, DropReason> {
    if found.word.is_on(source) {
        Ok(found)
    } else {
        Err(DropReason::MacOfOtherPort)
    }
}

#[inline]
pub(super) fn seconds(now: Tick) -> u32 {
    u32::try_from(now.as_secs()).unwrap_or(u32::MAX)
}
