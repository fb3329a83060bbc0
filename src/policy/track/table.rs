//! The connections that one port has opened.
//!
//! Looking one up takes no lock. Opening and ending take the table's: [`Books`] are what only its holder knows.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::entry::{Entry, GENERATION, HALF, LIVE, low};
use super::flow::{Direction, FlowRef, Terms};
use super::found::Found;
use super::index::{Bucket, Choice, Index};
use super::key::{Hasher, Key};
use super::phase::Settings;
use super::seats::Seats;
use super::slab::{Links, MAX_SLOTS, Slab};
use super::tcp::Window;
use crate::clock::Tick;
use crate::counters::{DropReason, PortId};
use crate::frame::Mac;
use crate::policy::spec::ConnectionQuota;

/// Places beyond the bound of connections: for such as have ended and cannot be given away yet.
const SPARE: u32 = 1024;
/// The most connections of one port.
pub(super) const MAX_FLOWS: u32 = MAX_SLOTS / 2;
/// Entries that an opening may look at to make room.
const EFFORT: u32 = 32;

/// A link to a slot is its number + 1; 0 is none. The first word of an entry's links leads to what follows.
const NEXT: usize = 0;
/// The second leads back; of an ended entry it is the period in which it ended.
const BACK: usize = 1;
/// Set in the second word of what is in the list of half-open connections.
const LISTED: u32 = 1 << 31;

/// Connections that the table has ended of itself, and such as it did not open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Turnover {
    /// Connections that were opened.
    pub opened: u64,
    /// Connections that ended since no packet came.
    pub expired: u64,
    /// Half-open connections that ended to make room for new ones.
    pub reclaimed: u64,
    /// Connections that were not opened, for want of room or by the rate.
    pub refused: u64,
}

#[derive(Debug, Default)]
pub(super) struct Books {
    /// What the port may have open.
    quota: Option<ConnectionQuota>,
    /// Places that there are.
    slots: u32,
    /// Places that were used at least once.
    used: u32,
    /// Ended places, in the order of their ends.
    ended: List,
    /// Half-open connections, in the order of their opening; some are no longer, and are taken out when met.
    half: List,
    /// Where the next look for room begins, and where the sweep has come to.
    hand: u32,
    swept: u32,
    /// Thousandths of a connection that may still be opened, and when that was reckoned.
    tokens: u64,
    reckoned: Tick,
    pub(super) turnover: Turnover,
}

#[derive(Clone, Copy, Debug, Default)]
struct List {
    first: u32,
    last: u32,
}

#[derive(Debug)]
pub(super) struct Table {
    pub(super) port: PortId,
    slab: Slab,
    index: Index,
    hasher: Hasher,
    live: AtomicU32,
    half_open: AtomicU32,
    /// Connections that were opened or bound to another port, for whoever keeps a verdict that they would change.
    opens: AtomicU64,
    books: Mutex<Books>,
}

/// What is to be opened.
pub(super) struct Opening<'a> {
    pub(super) key: &'a Key,
    pub(super) macs: (Mac, Mac),
    pub(super) peer: PortId,
    pub(super) terms: &'a Terms,
    pub(super) epoch: u64,
    pub(super) window: Window,
    pub(super) len: u32,
    pub(super) now: Tick,
}

impl Table {
    pub(super) fn new(port: PortId) -> Self {
        Self {
            port,
            slab: Slab::default(),
            index: Index::default(),
            hasher: Hasher::new(),
            live: AtomicU32::new(0),
            half_open: AtomicU32::new(0),
            opens: AtomicU64::new(0),
            books: Mutex::new(Books::default()),
        }
    }

    /// Sets the port's own bounds, and sees to memory for so many connections; none is used before they come.
    pub(super) fn bind(&self, quota: ConnectionQuota) {
        let flows = quota.connections.min(MAX_FLOWS);
        self.grow(flows);
        self.lock().quota = Some(ConnectionQuota {
            connections: flows,
            ..quota
        });
    }

    fn grow(&self, flows: u32) {
        let have = self.slab.grow(flows.saturating_add(SPARE));
        self.index.grow(flows);
        self.lock().slots = have;
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn live(&self) -> u32 {
        self.live.load(Relaxed)
    }

    pub(super) fn half_open(&self) -> u32 {
        self.half_open.load(Relaxed)
    }

    /// The entry of a slot, if it is live.
    fn live_at(&self, slot: u32) -> Option<Found<'_>> {
        let entry = self.slab.entry(slot)?;
        let header = entry.header();
        (header & LIVE != 0).then_some(Found {
            entry,
            slot,
            header,
        })
    }

    /// The entry that was meant, if it is still there.
    #[inline(always)]
    pub(super) fn get(&self, slot: u32, generation: u32) -> Option<Found<'_>> {
        let entry = self.slab.entry(slot)?;
        let header = entry.header();
        (header & LIVE != 0 && header >> GENERATION == generation).then_some(Found {
            entry,
            slot,
            header,
        })
    }

    #[inline]
    fn probe(&self, hash: u64, key: &Key) -> Option<Found<'_>> {
        self.index.find(hash, |slot| {
            let found = self.live_at(slot)?;
            found.entry.matches(key).then_some(found)
        })
    }

    #[inline(always)]
    pub(super) fn hash(&self, key: &Key) -> u64 {
        self.hasher.hash(key)
    }

    /// One of the two buckets of a hash.
    #[inline(always)]
    pub(super) fn bucket(&self, hash: u64, choice: Choice) -> Option<&Bucket> {
        self.index.choose(hash, choice)
    }

    /// The entry of a slot, live or not.
    #[inline(always)]
    pub(super) fn entry(&self, slot: u32) -> Option<Entry<'_>> {
        self.slab.entry(slot)
    }

    /// The connection with that key, which may be at the place of the hint.
    #[inline]
    pub(super) fn find_near(&self, hint: Option<u32>, key: &Key) -> Option<Found<'_>> {
        if let Some(found) = hint.and_then(|slot| self.live_at(slot))
            && found.entry.matches(key)
        {
            return Some(found);
        }
        self.find(key)
    }

    /// The connection with that key.
    #[inline]
    pub(super) fn find(&self, key: &Key) -> Option<Found<'_>> {
        if self.live() == 0 {
            return None;
        }
        let hash = self.hasher.hash(key);
        let mark = self.index.watch();
        let found = self.probe(hash, key);
        if found.is_some() || self.index.is_calm(mark) {
            return found;
        }
        let _books = self.lock();
        self.probe(hash, key)
    }

    pub(super) fn reference(&self, found: &Found<'_>) -> FlowRef {
        FlowRef {
            port: self.port,
            slot: found.slot,
            generation: found.header >> GENERATION,
        }
    }

    /// Takes an answered connection out of the count of half-open ones.
    pub(super) fn complete(&self, found: &Found<'_>) {
        if found.entry.complete(found.header) {
            self.half_open.fetch_sub(1, Relaxed);
        }
    }

    /// Ends a generation and begins another of the same connection; returns the new header.
    pub(super) fn renumber(&self, found: &Found<'_>) -> u32 {
        found.entry.renumber()
    }

    /// Ends a connection.
    pub(super) fn end(&self, books: &mut Books, seats: &Seats, found: &Found<'_>) {
        let generation = (found.header >> GENERATION).wrapping_add(1);
        let was = found.entry.swap(generation << GENERATION);
        if was & HALF != 0 {
            self.half_open.fetch_sub(1, Relaxed);
        }
        self.live.fetch_sub(1, Relaxed);
        self.index
            .remove(self.hasher.hash(&found.entry.key()), found.slot);
        self.unlist(books, found.slot);
        self.append(&mut books.ended, found.slot, seats.stamp());
    }

    /// How often a connection was opened, or bound to another port.
    pub(super) fn opens(&self) -> u64 {
        self.opens.load(Relaxed)
    }

    /// A connection was bound to another port.
    pub(super) fn rebound(&self) {
        self.opens.fetch_add(1, Relaxed);
    }

    /// Opens a connection; one with the same key ends.
    ///
    /// # Errors
    ///
    /// [`DropReason::ConnectionRate`], [`DropReason::HalfOpenLimit`], [`DropReason::ConnectionLimit`].
    pub(super) fn open(
        &self,
        seats: &Seats,
        settings: &Settings,
        opening: &Opening<'_>,
    ) -> Result<FlowRef, DropReason> {
        let books = &mut *self.lock();
        let hash = self.hasher.hash(opening.key);
        if let Some(old) = self.probe(hash, opening.key) {
            self.end(books, seats, &old);
        }
        let opened = self.try_open(books, seats, settings, opening, hash);
        match opened {
            Ok(_) => {
                books.turnover.opened += 1;
                self.opens.fetch_add(1, Relaxed);
            }
            Err(_) => books.turnover.refused += 1,
        }
        opened
    }

    fn try_open(
        &self,
        books: &mut Books,
        seats: &Seats,
        settings: &Settings,
        opening: &Opening<'_>,
        hash: u64,
    ) -> Result<FlowRef, DropReason> {
        if !books.may_open(opening.now) {
            return Err(DropReason::ConnectionRate);
        }
        if !self.has_place(books, seats) {
            return Err(DropReason::ConnectionLimit);
        }
        self.tidy(books);
        let quota = books.quota.ok_or(DropReason::ConnectionLimit)?;
        if self.half_open() >= quota.half_open {
            self.make_room(books, seats, settings, opening.now);
            if self.half_open() >= quota.half_open {
                return Err(DropReason::HalfOpenLimit);
            }
        }
        if self.live() >= quota.connections {
            self.make_room(books, seats, settings, opening.now);
            if self.live() >= quota.connections {
                return Err(DropReason::ConnectionLimit);
            }
        }
        if self.index.is_crowded(self.live()) {
            self.index.split(|slot| {
                let entry = self.slab.entry(slot)?;
                Some(self.hasher.hash(&entry.key()))
            });
        }
        let slot = self
            .place(books, seats)
            .ok_or(DropReason::ConnectionLimit)?;
        let entry = self.slab.entry(slot).ok_or(DropReason::ConnectionLimit)?;
        let header = fill(entry, opening);
        if !self.index.insert(hash, slot) {
            entry.publish(header & !(LIVE | HALF));
            self.append(&mut books.ended, slot, seats.stamp());
            return Err(DropReason::ConnectionLimit);
        }
        self.live.fetch_add(1, Relaxed);
        self.half_open.fetch_add(1, Relaxed);
        self.append(&mut books.half, slot, LISTED);
        Ok(FlowRef {
            port: self.port,
            slot,
            generation: header >> GENERATION,
        })
    }

    /// Whether [`Table::place`] has one: asked before anything ends to make room.
    fn has_place(&self, books: &Books, seats: &Seats) -> bool {
        let vacated = books.ended.first.checked_sub(1);
        books.used < books.slots
            || vacated
                .and_then(|slot| self.slab.links(slot))
                .is_some_and(|links| seats.is_past(links[BACK].load(Relaxed)))
    }

    /// A place for another connection: one that has been vacated for long enough, or a new one.
    fn place(&self, books: &mut Books, seats: &Seats) -> Option<u32> {
        if let Some(slot) = books.ended.first.checked_sub(1) {
            let links = self.slab.links(slot)?;
            if seats.is_past(links[BACK].load(Relaxed)) {
                let next = links[NEXT].load(Relaxed);
                books.ended.first = next;
                if next == 0 {
                    books.ended.last = 0;
                }
                links[NEXT].store(0, Relaxed);
                links[BACK].store(0, Relaxed);
                return Some(slot);
            }
        }
        (books.used < books.slots).then(|| {
            books.used += 1;
            books.used - 1
        })
    }

    /// Ends what has expired or is over among the next few, and else the oldest that is half open; never an
    /// established one.
    fn make_room(&self, books: &mut Books, seats: &Seats, settings: &Settings, now: Tick) {
        let ended = self.look_for_room(books, seats, settings, now);
        let half = books.quota.map_or(0, |quota| quota.half_open);
        if ended > 0 && self.half_open() < half {
            return;
        }
        for _ in 0..EFFORT {
            let Some(slot) = books.half.first.checked_sub(1) else {
                return;
            };
            match self.live_at(slot) {
                Some(found) if found.header & HALF != 0 => {
                    books.turnover.reclaimed += 1;
                    return self.end(books, seats, &found);
                }
                _ => self.unlist(books, slot),
            }
        }
    }

    /// Takes answered connections off the head of the list of half-open ones: more than one opening puts in, so that
    /// hardly any is left to pass over when there is need of room.
    fn tidy(&self, books: &mut Books) {
        for _ in 0..2 {
            match books.half.first.checked_sub(1) {
                Some(slot)
                    if self
                        .live_at(slot)
                        .is_none_or(|found| found.header & HALF == 0) =>
                {
                    self.unlist(books, slot);
                }
                _ => return,
            }
        }
    }

    /// Ends what has expired or is over among the next few places; returns how many.
    fn look_for_room(
        &self,
        books: &mut Books,
        seats: &Seats,
        settings: &Settings,
        now: Tick,
    ) -> u32 {
        let from = books.hand;
        books.hand = after(from, EFFORT, books.used);
        self.end_expired(books, seats, settings, now, (from, EFFORT), true)
    }

    /// Ends what has expired among the next `count` places of the sweep. Returns how many it ended, and whether it
    /// has come to the end of the table.
    pub(super) fn sweep(
        &self,
        seats: &Seats,
        settings: &Settings,
        now: Tick,
        count: u32,
    ) -> (u32, bool) {
        let books = &mut *self.lock();
        let from = books.swept;
        books.swept = after(from, count, books.used);
        let ended = self.end_expired(books, seats, settings, now, (from, count), false);
        (ended, books.swept == 0)
    }

    fn end_expired(
        &self,
        books: &mut Books,
        seats: &Seats,
        settings: &Settings,
        now: Tick,
        (from, count): (u32, u32),
        in_need: bool,
    ) -> u32 {
        let mut ended = 0u32;
        self.walk(books, from, count, |books, found| {
            if found.is_expired(settings, now) {
                books.turnover.expired += 1;
            } else if !in_need || !found.phase().is_over() {
                if found.header & HALF == 0 {
                    self.unlist(books, found.slot);
                }
                return;
            }
            self.end(books, seats, &found);
            ended = ended.saturating_add(1);
        });
        ended
    }

    /// How many places were ever used: the length of a walk with [`Table::walk`].
    pub(super) fn used(&self) -> u32 {
        self.lock().used
    }

    /// Shows the live entries among `count` places from `from` on.
    pub(super) fn walk(
        &self,
        books: &mut Books,
        from: u32,
        count: u32,
        mut show: impl FnMut(&mut Books, Found<'_>),
    ) {
        let to = from.saturating_add(count).min(books.used);
        for slot in from..to {
            if let Some(found) = self.live_at(slot) {
                show(books, found);
            }
        }
    }

    fn links(&self, slot: u32) -> Option<&Links> {
        self.slab.links(slot)
    }

    fn append(&self, list: &mut List, slot: u32, back: u32) {
        let Some(links) = self.links(slot) else {
            return;
        };
        links[NEXT].store(0, Relaxed);
        let is_listed = back & LISTED != 0;
        let back = if is_listed { LISTED | list.last } else { back };
        links[BACK].store(back, Relaxed);
        match list.last.checked_sub(1).and_then(|last| self.links(last)) {
            Some(last) => last[NEXT].store(slot + 1, Relaxed),
            None => list.first = slot + 1,
        }
        list.last = slot + 1;
    }

    /// Takes an entry out of the list of half-open connections, if it is there.
    fn unlist(&self, books: &mut Books, slot: u32) {
        let Some(links) = self.links(slot) else {
            return;
        };
        let (next, back) = (links[NEXT].load(Relaxed), links[BACK].load(Relaxed));
        if back & LISTED == 0 {
            return;
        }
        let before = back & !LISTED;
        match before.checked_sub(1).and_then(|slot| self.links(slot)) {
            Some(before) => before[NEXT].store(next, Relaxed),
            None => books.half.first = next,
        }
        match next.checked_sub(1).and_then(|slot| self.links(slot)) {
            Some(next) => next[BACK].store(back, Relaxed),
            None => books.half.last = before,
        }
        links[NEXT].store(0, Relaxed);
        links[BACK].store(0, Relaxed);
    }
}

/// The place after `count` from `from` on, of `used`; the first again at the end.
fn after(from: u32, count: u32, used: u32) -> u32 {
    let next = from.saturating_add(count);
    if next < used { next } else { 0 }
}

/// Writes a new connection into its place and shows it; returns its header.
fn fill(entry: Entry<'_>, opening: &Opening<'_>) -> u32 {
    let (src, dst) = opening.macs;
    let second = low(opening.now.as_secs());
    entry.set_key(opening.key, src, dst);
    entry.bind(opening.peer);
    entry.set_terms(opening.terms, opening.epoch);
    entry.begin(second);
    let half = entry.half(Direction::Original);
    half.set_window(&Window::default(), &opening.window);
    half.count(second, 1, opening.len);
    let header = entry.header() | LIVE | HALF;
    entry.publish(header);
    header
}

impl Books {
    /// Whether the rate allows another connection; takes it off.
    fn may_open(&mut self, now: Tick) -> bool {
        const ONE: u64 = 1000;
        let rate = self
            .quota
            .map(|quota| quota.new_per_second)
            .unwrap_or_default();
        if rate.per_second == 0 {
            return true;
        }
        let most = rate.burst.max(1).saturating_mul(ONE);
        // A thousandth a millisecond for each a second.
        let passed = if self.reckoned == Tick::ZERO {
            u64::MAX
        } else {
            now.millis_since(self.reckoned)
        };
        let more = passed.saturating_mul(rate.per_second);
        self.tokens = self.tokens.saturating_add(more).min(most);
        self.reckoned = now.max(self.reckoned).max(Tick::from_millis(1));
        match self.tokens.checked_sub(ONE) {
            Some(left) => {
                self.tokens = left;
                true
            }
            None => false,
        }
    }
}
