//! The guest's RX ring: frames go into it, whole or not at all.
//!
//! A burst is `begin`, any number of `reserve`, the copies, then `publish`. Between `reserve` and
//! `publish` the driver sees nothing: if a copy fails, `abandon` forgets all of it.
//!
//! # The rules for odd buffers
//!
//! - Mergeable: a frame fills as many chains as it needs, whatever their size, of together at most
//!   [`RESERVE_PIECES`] descriptors.
//! - Not mergeable: a frame needs one chain. If the next chain is too small the frame is dropped and
//!   the chain is kept for a smaller one. A driver that offers chains too small for its own MTU so
//!   loses its own large frames, and no buffer is burnt.
//! - A malformed chain goes back with length 0. When it turns up amid the chains of a mergeable frame,
//!   those gathered before it go back empty with it, because the chains of a frame must follow each
//!   other in the used ring, and the frame starts again behind it.

use std::iter::Zip;
use std::slice;
use std::sync::Arc;

use crate::memory::{Extent, GuestMemory, Near, RegionHint};

use super::ahead::{Ahead, Offer};
use super::chain::{Arena, ChainFault, Halt, Range, Walk, Walked};
use super::layout::{Descriptor, Layout, RingError, Rings, used_element};
use super::notify::Notifier;
use super::{Cursor, Negotiated, RingBroken};

/// Descriptors (and so buffers) that one frame may fill, at most.
pub const RESERVE_PIECES: u32 = 1024;

/// Descriptors that are walked between one `begin` and the next, at most; then every `reserve` is
/// refused. 64 frames of 64 KiB in buffers of 1.5 KiB need 2,816.
pub const RX_DESCRIPTORS: u32 = 4096;

/// Room of the receivers of one burst: the arena behind [`Reserved`].
pub struct Slots {
    arena: Arena,
}

impl Slots {
    /// An empty one. Allocated once by a worker.
    #[must_use]
    pub fn new() -> Self {
        Self {
            arena: Arena::new(),
        }
    }

    /// Where a frame goes: its vnet header and its bytes, as one stream, exactly as many as asked for.
    /// `num_buffers` of the header is [`Reserved::buffers`].
    #[inline]
    #[must_use]
    pub fn extents<'a>(&'a self, reserved: &'a Reserved) -> &'a [Extent] {
        if reserved.only.is_empty() {
            self.arena.get(reserved.range)
        } else {
            std::slice::from_ref(&reserved.only)
        }
    }

    /// Forgets all reservations.
    #[inline]
    pub fn clear(&mut self) {
        self.arena.rewind(0);
    }
}

impl Default for Slots {
    fn default() -> Self {
        Self::new()
    }
}

/// Room for one frame at one receiver.
#[derive(Clone, Copy, Debug)]
pub struct Reserved {
    /// Chains that the frame fills, at least 1.
    pub buffers: u16,
    /// All of it, when that lies in one place and was found by the short way; else it is in the arena.
    only: Extent,
    range: Range,
}

impl Reserved {
    /// No room at all.
    pub const NONE: Self = Self {
        buffers: 0,
        only: Extent::NONE,
        range: Range::NONE,
    };

    /// One buffer, which takes the whole frame.
    const fn plain(only: Extent) -> Self {
        Self {
            buffers: 1,
            only,
            range: Range::NONE,
        }
    }

    /// The one place where the whole frame goes, if it is one buffer.
    #[inline(always)]
    #[must_use]
    pub fn whole(&self) -> Option<Extent> {
        (!self.only.is_empty()).then_some(self.only)
    }
}

/// Why there is no room for a frame. Nothing was consumed but malformed chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReserveError {
    /// The guest has not offered enough buffers.
    #[error("no buffers")]
    NoBuffers,
    /// Without mergeable buffers: the next chain is too small.
    #[error("the next buffer is too small")]
    TooSmall,
    /// The frame would need more than [`RESERVE_PIECES`] descriptors, or the burst more than
    /// [`RX_DESCRIPTORS`].
    #[error("the buffers are cut into too many pieces")]
    TooManyPieces,
    /// `slots` is full: publish, clear it, and ask again. An empty one is never full.
    #[error("no room to note the buffers")]
    SlotsFull,
}

/// Malformed chains of an RX ring since the last time they were asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Malformed {
    /// How many.
    pub count: u32,
    /// What was wrong with the last.
    pub last: Option<ChainFault>,
}

/// A reservation that failed: it fails again as long as nothing was consumed, or offered in addition.
struct Hopeless {
    bytes: u32,
    /// For [`ReserveError::NoBuffers`]: the driver's index at the time.
    avail: Option<u16>,
    error: ReserveError,
}

/// A running RX ring. Dropping it, or taking it out of its lane, stops it.
pub struct RxRing {
    rings: Rings,
    negotiated: Negotiated,
    cursor: Cursor,
    /// The driver's index at the last `begin`.
    avail: u16,
    /// Descriptors that may still be walked before the next `begin`.
    allowance: u32,
    ahead: Ahead,
    hint: RegionHint,
    /// Used elements not yet published, one for each head in flight: room for a full ring.
    staged: Box<[[u8; 8]]>,
    /// Where the present burst began: what `abandon` leaves alone.
    mark: u16,
    hopeless: Option<Hopeless>,
    malformed: Malformed,
    notifier: Notifier,
}

impl RxRing {
    /// Starts at the used index that lies in guest memory. Kicks are disabled for good: nobody waits
    /// for buffers.
    ///
    /// # Errors
    /// The layout is refused: see [`RingError`].
    pub fn start(
        memory: Arc<GuestMemory>,
        layout: Layout,
        negotiated: Negotiated,
    ) -> Result<Self, RingError> {
        let rings = Rings::open(memory, layout)?;
        let cursor = Cursor::at(rings.used_idx());
        let notifier = Notifier::start(&rings, negotiated.event_idx, false, cursor.popped);
        Ok(Self {
            avail: cursor.popped,
            allowance: 0,
            ahead: Ahead::new(),
            hint: RegionHint::default(),
            staged: vec![[0; 8]; usize::from(rings.size())].into_boxed_slice(),
            mark: cursor.popped,
            hopeless: None,
            malformed: Malformed::default(),
            rings,
            negotiated,
            cursor,
            notifier,
        })
    }

    /// The memory that the extents of this ring's reservations name.
    #[inline]
    #[must_use]
    pub fn memory(&self) -> &Arc<GuestMemory> {
        self.rings.memory()
    }

    /// What was negotiated at the start.
    #[inline]
    #[must_use]
    pub fn negotiated(&self) -> &Negotiated {
        &self.negotiated
    }

    /// Begins a burst: reads the driver's index, once.
    ///
    /// # Errors
    /// The driver lost its ring; every later call gives the same answer. Reservations not yet published
    /// may still be.
    #[inline]
    pub fn begin(&mut self) -> Result<(), RingBroken> {
        let avail = self.rings.avail_idx();
        if let Err(broken) = self.cursor.judge(avail, self.rings.size()) {
            self.avail = self.cursor.popped;
            return Err(broken);
        }
        self.avail = avail;
        self.allowance = RX_DESCRIPTORS;
        self.mark = self.cursor.popped;
        Ok(())
    }

    /// Finds room for `bytes` bytes, vnet header included, and stages the return of the chains.
    /// There is no frame of 0 bytes: refused as [`ReserveError::TooSmall`]. The first lines of each chain are
    /// prefetched, to be written.
    ///
    /// # Errors
    /// There is no room; nothing was consumed but malformed chains.
    #[inline]
    pub fn reserve(&mut self, bytes: u32, slots: &mut Slots) -> Result<Reserved, ReserveError> {
        let plain = self.run().take(bytes);
        match plain {
            Some(reserved) => Ok(reserved),
            None => self.reserve_any(bytes, slots),
        }
    }

    /// The common case, for many frames in a row: each takes the next chain, which is one direct descriptor, large
    /// enough, in the region of the last. It goes as far as chains were copied ahead; a new one goes on from there.
    #[inline(always)]
    pub fn run(&mut self) -> Run<'_> {
        let popped = self.cursor.popped;
        let offered = self.avail.wrapping_sub(popped);
        let allowed = u16::try_from(self.allowance).unwrap_or(u16::MAX);
        if offered != 0 {
            self.ahead.cover(&self.rings, popped, offered);
        }
        let offers = self.ahead.offers(popped, offered.min(allowed));
        let in_flight = usize::from(self.cursor.in_flight());
        // In flight are at most `size`: Cursor::judge.
        let staged = self.staged.get_mut(in_flight..).unwrap_or_default();
        Run {
            size: self.rings.size(),
            near: self.rings.memory().near(self.hint),
            offers: offers.iter().zip(staged),
            taken: 0,
            popped: &mut self.cursor.popped,
            allowance: &mut self.allowance,
            hopeless: &mut self.hopeless,
        }
    }

    /// Any number of chains of any number of descriptors.
    #[inline(never)]
    fn reserve_any(&mut self, bytes: u32, slots: &mut Slots) -> Result<Reserved, ReserveError> {
        if bytes == 0 {
            return Err(ReserveError::TooSmall);
        }
        if let Some(error) = self.known_hopeless(bytes) {
            return Err(error);
        }
        let mut attempt = Attempt::at(self, slots);
        loop {
            if self.avail == self.cursor.popped {
                return Err(self.give_up(&attempt, slots, bytes, ReserveError::NoBuffers));
            }
            if self.allowance == 0 {
                self.roll_back(&attempt, slots);
                return Err(ReserveError::TooManyPieces);
            }
            let offered = self.avail.wrapping_sub(self.cursor.popped);
            self.ahead.cover(&self.rings, self.cursor.popped, offered);
            let Some(Offer { head, first }) = self.ahead.offer(self.cursor.popped) else {
                return Err(self.give_up(&attempt, slots, bytes, ReserveError::NoBuffers));
            };
            let wanted = bytes.wrapping_sub(attempt.bytes); // attempt.bytes < bytes
            let walked = self.walk(head, first, wanted, slots);
            attempt.pieces = attempt.pieces.saturating_add(walked.descriptors);
            self.allowance = self.allowance.saturating_sub(walked.descriptors);
            match walked.bytes {
                Ok(filled) if filled < wanted && !self.negotiated.mergeable => {
                    return Err(self.give_up(&attempt, slots, bytes, ReserveError::TooSmall));
                }
                Ok(filled) => {
                    self.stage(head, filled);
                    attempt.buffers = attempt.buffers.wrapping_add(1); // at most RESERVE_PIECES
                    attempt.bytes = attempt.bytes.wrapping_add(filled); // at most bytes
                    if attempt.bytes >= bytes {
                        return Ok(Reserved {
                            buffers: attempt.buffers,
                            only: Extent::NONE,
                            range: slots.arena.since(attempt.arena),
                        });
                    }
                    if attempt.pieces >= RESERVE_PIECES {
                        let error = ReserveError::TooManyPieces;
                        return Err(self.give_up(&attempt, slots, bytes, error));
                    }
                }
                Err(Halt::Fault(fault)) => {
                    self.return_malformed(&attempt, head, fault);
                    slots.arena.rewind(attempt.arena);
                    attempt = Attempt::at(self, slots);
                }
                Err(Halt::ArenaFull) if attempt.arena > 0 => {
                    self.roll_back(&attempt, slots);
                    return Err(ReserveError::SlotsFull);
                }
                Err(Halt::ArenaFull) => {
                    let error = ReserveError::TooManyPieces;
                    return Err(self.give_up(&attempt, slots, bytes, error));
                }
            }
        }
    }

    #[inline(always)]
    fn walk(&mut self, head: u16, first: Descriptor, wanted: u32, slots: &mut Slots) -> Walked {
        if head >= self.rings.size() {
            let bytes = Err(ChainFault::HeadOutOfRange.into());
            return Walked {
                bytes,
                descriptors: 1,
            };
        }
        let walk = Walk::<'_, true> {
            rings: &self.rings,
            indirect: self.negotiated.indirect,
            cap: wanted,
        };
        walk.chain(first, &mut self.hint, &mut slots.arena)
    }

    /// Returns what was reserved to the driver: the used elements, then the used index, once. To be
    /// called when every byte of every reservation was written. True when the driver wants to be told.
    #[inline]
    pub fn publish(&mut self) -> bool {
        let in_flight = usize::from(self.cursor.in_flight());
        if in_flight == 0 {
            return false;
        }
        self.rings.write_used(
            self.cursor.returned,
            self.staged.get(..in_flight).unwrap_or_default(),
        );
        self.cursor.returned = self.cursor.popped;
        self.mark = self.cursor.popped;
        self.rings.store_used_idx(self.cursor.returned);
        self.notifier.wanted(&self.rings, self.cursor.returned)
    }

    /// Forgets what was reserved since [`begin`](Self::begin). The driver never hears of it.
    pub fn abandon(&mut self) {
        self.cursor.popped = self.mark;
        self.hopeless = None;
    }

    /// Whether the driver offers a chain that is not reserved: a look at its index.
    #[inline]
    #[must_use]
    pub fn has_buffers(&self) -> bool {
        self.cursor.broken.is_none() && self.rings.avail_idx() != self.cursor.popped
    }

    /// Takes the count of malformed chains.
    #[inline]
    pub fn take_malformed(&mut self) -> Malformed {
        std::mem::take(&mut self.malformed)
    }

    /// The index that a successor starts from: everything before was returned (vhost-user:
    /// GET_VRING_BASE).
    #[must_use]
    pub fn next(&self) -> u16 {
        self.cursor.returned
    }

    /// Pops the head and notes its return with `len` bytes.
    #[inline(always)]
    fn stage(&mut self, head: u16, len: u32) {
        // In flight are at most `size`: Cursor::judge.
        if let Some(element) = self.staged.get_mut(usize::from(self.cursor.in_flight())) {
            *element = used_element(head, len);
        }
        self.cursor.popped = self.cursor.popped.wrapping_add(1);
        self.hopeless = None;
    }

    #[cold]
    fn return_malformed(&mut self, attempt: &Attempt, head: u16, fault: ChainFault) {
        let before = usize::from(attempt.popped.wrapping_sub(self.cursor.returned));
        let until = usize::from(self.cursor.in_flight());
        for element in self.staged.get_mut(before..until).unwrap_or_default() {
            let [h0, h1, ..] = *element;
            *element = used_element(u16::from_le_bytes([h0, h1]), 0);
        }
        self.stage(head, 0);
        self.malformed.count = self.malformed.count.saturating_add(1);
        self.malformed.last = Some(fault);
    }

    fn roll_back(&mut self, attempt: &Attempt, slots: &mut Slots) {
        self.cursor.popped = attempt.popped;
        slots.arena.rewind(attempt.arena);
    }

    /// Rolls back, and remembers why, so that the next frame does not walk the same chains in vain.
    fn give_up(
        &mut self,
        attempt: &Attempt,
        slots: &mut Slots,
        bytes: u32,
        error: ReserveError,
    ) -> ReserveError {
        self.roll_back(attempt, slots);
        let avail = (error == ReserveError::NoBuffers).then_some(self.avail);
        self.hopeless = Some(Hopeless {
            bytes,
            avail,
            error,
        });
        error
    }

    #[inline]
    fn known_hopeless(&self, bytes: u32) -> Option<ReserveError> {
        let known = self.hopeless.as_ref()?;
        let same = bytes >= known.bytes && known.avail.is_none_or(|avail| avail == self.avail);
        same.then_some(known.error)
    }
}

/// A run of plain reservations: see [`RxRing::run`]. What it consumed is the ring's from the moment it is dropped.
pub struct Run<'a> {
    size: u16,
    near: Near<'a>,
    /// Each with its place among the used elements.
    offers: Zip<slice::Iter<'a, Offer>, slice::IterMut<'a, [u8; 8]>>,
    /// How many were consumed.
    taken: u16,
    popped: &'a mut u16,
    allowance: &'a mut u32,
    hopeless: &'a mut Option<Hopeless>,
}

impl Run<'_> {
    /// Room for `bytes` bytes, vnet header included, in the next chain. None when anything is out of the ordinary, and
    /// when there is no chain: then nothing was consumed, the run is over, and [`RxRing::reserve`] knows what to do.
    #[inline(always)]
    pub fn take(&mut self, bytes: u32) -> Option<Reserved> {
        let (&Offer { head, first: only }, element) = self.offers.next()?;
        if head >= self.size || !only.is_plain_write() || only.len() < bytes || bytes == 0 {
            return None;
        }
        let place = self.near.locate::<true>(only.addr(), bytes)?;
        *element = used_element(head, bytes);
        self.taken = self.taken.wrapping_add(1); // at most BURST
        Some(Reserved::plain(place))
    }
}

impl Drop for Run<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        if self.taken != 0 {
            *self.popped = self.popped.wrapping_add(self.taken);
            *self.allowance = self.allowance.saturating_sub(self.taken.into());
            *self.hopeless = None;
        }
    }
}

/// Where a reservation started, and how far it has come.
struct Attempt {
    popped: u16,
    arena: u16,
    bytes: u32,
    pieces: u32,
    buffers: u16,
}

impl Attempt {
    #[inline(always)]
    fn at(ring: &RxRing, slots: &Slots) -> Self {
        Self {
            popped: ring.cursor.popped,
            arena: slots.arena.mark(),
            bytes: 0,
            pieces: 0,
            buffers: 0,
        }
    }
}
