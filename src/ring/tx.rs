//! The guest's TX ring: frames come out of it.

use std::sync::Arc;

use crate::memory::{GuestMemory, RegionHint};

use super::ahead::{Ahead, Offer};
use super::chain::{Chain, ChainBurst, ChainFault, Halt, Walk, Walked};
use super::layout::{Descriptor, Layout, RingError, Rings, used_element};
use super::notify::Notifier;
use super::{BURST, BURST_16, Budget, Cursor, MAX_FRAME, MAX_HEADER, Negotiated, RingBroken};

/// Bytes of a chain, at most.
const MAX_CHAIN_BYTES: u32 = MAX_FRAME + MAX_HEADER;

/// A running TX ring. Dropping it, or taking it out of its lane, stops it.
pub struct TxRing {
    rings: Rings,
    negotiated: Negotiated,
    cursor: Cursor,
    ahead: Ahead,
    hint: RegionHint,
    notifier: Notifier,
}

impl TxRing {
    /// Starts at the used index that lies in guest memory, so that a ring goes on after a reconnect.
    /// Kicks are enabled.
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
        let notifier = Notifier::start(&rings, negotiated.event_idx, true, cursor.popped);
        Ok(Self {
            rings,
            negotiated,
            cursor,
            ahead: Ahead::new(),
            hint: RegionHint::default(),
            notifier,
        })
    }

    /// The memory that the extents of this ring's chains name.
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

    /// Clears `burst` and fills it with what the driver offered, as far as the budget goes. Each chain
    /// must then be returned by [`complete`](Self::complete), before the next call.
    ///
    /// The first lines of each frame are prefetched. A chain of `len` 0 without fault is possible: the
    /// driver offered no byte.
    ///
    /// # Errors
    /// The driver lost its ring. The burst is empty, and every later call gives the same answer.
    pub fn collect(
        &mut self,
        burst: &mut ChainBurst,
        budget: &mut Budget,
    ) -> Result<usize, RingBroken> {
        burst.clear();
        let offered = self
            .cursor
            .judge(self.rings.avail_idx(), self.rings.size())?;
        let frames = u16::try_from(budget.frames).unwrap_or(u16::MAX);
        let wanted = offered.min(frames).min(BURST_16);
        if wanted == 0 {
            return Ok(0);
        }
        self.ahead.cover(&self.rings, self.cursor.popped, wanted);
        let until = self.cursor.popped.wrapping_add(wanted);
        while self.cursor.popped != until && !budget.spent() {
            let left = until.wrapping_sub(self.cursor.popped);
            self.collect_plain(left, burst, budget);
            if self.cursor.popped == until || budget.spent() {
                break;
            }
            let Some(Offer { head, first }) = self.ahead.offer(self.cursor.popped) else {
                break; // the rest was not copied ahead: next time
            };
            let Some((chain, descriptors)) = self.collect_any(head, first, burst) else {
                break; // it fits an empty arena: next time
            };
            burst.push(chain);
            budget.pay(chain.len, descriptors);
            self.cursor.popped = self.cursor.popped.wrapping_add(1);
        }
        Ok(burst.chains().len())
    }

    /// The common case: chains of one direct descriptor, readable and in the region of the last one. Takes `count` at
    /// most, up to the first that is otherwise.
    #[inline(always)]
    fn collect_plain(&mut self, count: u16, burst: &mut ChainBurst, budget: &mut Budget) {
        let size = self.rings.size();
        let near = self.rings.memory().near(self.hint);
        let affordable = u16::try_from(budget.descriptors).unwrap_or(u16::MAX);
        let offers = self.ahead.offers(self.cursor.popped, count.min(affordable));
        let (room, filled) = burst.room();
        let mut bytes = budget.bytes;
        let mut taken = 0u16;
        for (offer, chain) in offers.iter().zip(room) {
            let Offer { head, first: only } = *offer;
            let len = only.len();
            let is_sound = head < size && only.is_plain_read();
            if bytes == 0 || !is_sound || len.wrapping_sub(1) >= MAX_CHAIN_BYTES {
                break;
            }
            let Some(extent) = near.locate::<false>(only.addr(), len) else {
                break;
            };
            *chain = Chain {
                len,
                head,
                only: extent,
                ..Chain::NONE
            };
            bytes = bytes.saturating_sub(len);
            taken = taken.wrapping_add(1); // at most BURST
        }
        *filled = filled.wrapping_add(taken.into());
        self.cursor.popped = self.cursor.popped.wrapping_add(taken);
        let taken = u32::from(taken);
        *budget = Budget {
            frames: budget.frames.saturating_sub(taken),
            bytes,
            descriptors: budget.descriptors.saturating_sub(taken),
        };
    }

    /// A chain of any number of descriptors, and what it cost. None when the arena has no room for it and is not
    /// empty.
    #[inline(never)]
    fn collect_any(
        &mut self,
        head: u16,
        first: Descriptor,
        burst: &mut ChainBurst,
    ) -> Option<(Chain, u32)> {
        let mark = burst.arena.mark();
        let walked = self.walk(head, first, burst);
        let fault = match walked.bytes {
            Ok(len) => {
                let chain = Chain {
                    len,
                    head,
                    range: burst.arena.since(mark),
                    ..Chain::NONE
                };
                return Some((chain, walked.descriptors));
            }
            Err(Halt::ArenaFull) if mark > 0 => {
                burst.arena.rewind(mark);
                return None;
            }
            Err(Halt::ArenaFull) => ChainFault::TooManyDescriptors,
            Err(Halt::Fault(fault)) => fault,
        };
        burst.arena.rewind(mark);
        let chain = Chain {
            fault: Some(fault),
            head,
            ..Chain::NONE
        };
        Some((chain, walked.descriptors))
    }

    #[inline(always)]
    fn walk(&mut self, head: u16, first: Descriptor, burst: &mut ChainBurst) -> Walked {
        if head >= self.rings.size() {
            let bytes = Err(ChainFault::HeadOutOfRange.into());
            return Walked {
                bytes,
                descriptors: 1,
            };
        }
        let walk = Walk::<'_, false> {
            rings: &self.rings,
            indirect: self.negotiated.indirect,
            cap: MAX_CHAIN_BYTES,
        };
        walk.chain(first, &mut self.hint, &mut burst.arena)
    }

    /// Leaves the last `count` chains of the burst with the driver, as if they had not been collected: they are taken out of
    /// it, and the next [`collect`](Self::collect) begins with them. Nothing that was read of them is kept but what was
    /// copied ahead.
    #[cold]
    pub fn put_back(&mut self, burst: &mut ChainBurst, count: usize) {
        let forgotten = burst.forget_last(count.min(self.cursor.in_flight().into()));
        let forgotten = u16::try_from(forgotten).unwrap_or(0); // at most BURST
        self.cursor.popped = self.cursor.popped.wrapping_sub(forgotten);
    }

    /// Returns each chain of the burst to the driver, with length 0: we write nothing into a TX chain.
    /// The used index is stored once. A second call for the same burst returns nothing.
    pub fn complete(&mut self, burst: &ChainBurst) {
        let mut elements = [[0; 8]; BURST];
        let chains = burst.chains();
        let collected = u16::try_from(chains.len()).unwrap_or(0); // at most BURST
        let count = self.cursor.in_flight().min(collected);
        if count == 0 {
            return;
        }
        for (element, chain) in elements.iter_mut().zip(chains) {
            *element = used_element(chain.head, 0);
        }
        let (elements, _) = elements.split_at(usize::from(count).min(BURST));
        self.rings.write_used(self.cursor.returned, elements);
        self.cursor.returned = self.cursor.returned.wrapping_add(count);
        self.rings.store_used_idx(self.cursor.returned);
    }

    /// Whether the driver wants to be told of what was completed since the last call. Once a burst.
    #[inline]
    pub fn should_notify(&mut self) -> bool {
        self.notifier.wanted(&self.rings, self.cursor.returned)
    }

    /// Whether the driver has offered anything, or broken its ring: a look at its index.
    #[inline]
    #[must_use]
    pub fn pending(&self) -> bool {
        self.cursor.broken.is_none() && self.rings.avail_idx() != self.cursor.popped
    }

    /// Asks the driver to kick for the next chain; true when one arrived meanwhile and no kick may
    /// come for it. A broken ring has nothing more to tell.
    pub fn enable_kicks(&mut self) -> bool {
        self.notifier.enable_kicks(&self.rings, self.cursor.popped) && self.cursor.broken.is_none()
    }

    /// Asks the driver not to kick while the ring is polled.
    #[inline]
    pub fn disable_kicks(&mut self) {
        self.notifier.disable_kicks(&self.rings);
    }

    /// The index that a successor starts from: everything before was returned (vhost-user:
    /// GET_VRING_BASE).
    #[must_use]
    pub fn next(&self) -> u16 {
        self.cursor.returned
    }
}
