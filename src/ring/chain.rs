//! From a descriptor chain to extents of guest memory: walked once, validated once, at one door.
//!
//! [`Walk::chain`] is the door. Of a chain that it accepts it guarantees:
//!
//! - every descriptor and every entry of an indirect table was copied out of guest memory once, and
//!   only the copy was looked at;
//! - it ended, after at most `min(queue size, MAX_CHAIN)` descriptors, not counting the one that names
//!   an indirect table (VIRTIO 1.2, 2.7.5.3.1: a chain is no longer than the queue);
//! - every descriptor has the direction of its ring: readable for TX, writable for RX;
//! - an indirect table, if negotiated, ended the chain, held no further table, and was a whole number
//!   of entries, from one to the queue size (VIRTIO 1.2, 2.7.5.3);
//! - the extents name, in order and without a gap, the bytes of the chain: for TX all of them, at most
//!   the cap; for RX the first of them, up to the cap, and nothing beyond is looked up;
//! - every extent is mapped and not empty. Descriptors of length zero leave none, and their address
//!   is not looked at.
//!
//! Buffers may lie anywhere in the guest's memory, its rings included: that is the guest's own harm.

use crate::memory::{Extent, RegionHint};

use super::layout::{DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, Descriptor, Rings};
use super::{ARENA, BURST, MAX_CHAIN};

/// Buffers of a TX chain that begin within so many bytes are prefetched: the first, and the second when
/// the first is only the vnet header.
const HEADER_ONLY: u32 = 16;

/// What is wrong with a chain. It is returned to the driver with length 0, and its port counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChainFault {
    /// The available ring names a descriptor beyond the table.
    HeadOutOfRange,
    /// A descriptor's `next` is beyond its table.
    NextOutOfRange,
    /// More descriptors than the queue has entries, or than [`MAX_CHAIN`]: a loop, most likely.
    TooManyDescriptors,
    /// More bytes than a frame can have.
    TooLong,
    /// A buffer, or an indirect table, is not wholly in guest memory.
    Unmapped,
    /// A writable buffer on a TX ring, or a readable one on an RX ring.
    WrongDirection,
    /// A chain without room for a byte, on an RX ring.
    Empty,
    /// An indirect table, and the feature was not negotiated.
    IndirectNotNegotiated,
    /// An indirect table whose length is 0, not a multiple of 16, or more than the queue size.
    IndirectLength,
    /// A descriptor names an indirect table and also goes on.
    IndirectChained,
    /// An indirect table inside an indirect table.
    IndirectNested,
}

impl ChainFault {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::HeadOutOfRange,
        Self::NextOutOfRange,
        Self::TooManyDescriptors,
        Self::TooLong,
        Self::Unmapped,
        Self::WrongDirection,
        Self::Empty,
        Self::IndirectNotNegotiated,
        Self::IndirectLength,
        Self::IndirectChained,
        Self::IndirectNested,
    ];

    /// Name for counters and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::HeadOutOfRange => "head-out-of-range",
            Self::NextOutOfRange => "next-out-of-range",
            Self::TooManyDescriptors => "too-many-descriptors",
            Self::TooLong => "too-long",
            Self::Unmapped => "unmapped",
            Self::WrongDirection => "wrong-direction",
            Self::Empty => "empty",
            Self::IndirectNotNegotiated => "indirect-not-negotiated",
            Self::IndirectLength => "indirect-length",
            Self::IndirectChained => "indirect-chained",
            Self::IndirectNested => "indirect-nested",
        }
    }
}

impl std::fmt::Display for ChainFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A range of an [`Arena`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Range {
    start: u16,
    end: u16,
}

impl Range {
    pub(super) const NONE: Self = Self { start: 0, end: 0 };
}

/// Room for [`ARENA`] extents, allocated once.
pub(super) struct Arena {
    extents: Box<[Extent]>,
    len: u16,
}

impl Arena {
    pub(super) fn new() -> Self {
        Self {
            extents: vec![Extent::default(); ARENA].into_boxed_slice(),
            len: 0,
        }
    }

    #[inline(always)]
    pub(super) fn push(&mut self, extent: Extent) -> Result<(), Halt> {
        let slot = self
            .extents
            .get_mut(usize::from(self.len))
            .ok_or(Halt::ArenaFull)?;
        *slot = extent;
        self.len = self.len.wrapping_add(1); // at most ARENA
        Ok(())
    }

    /// Where the next extent goes.
    #[inline]
    pub(super) fn mark(&self) -> u16 {
        self.len
    }

    /// Forgets the extents from `mark` on.
    #[inline]
    pub(super) fn rewind(&mut self, mark: u16) {
        self.len = self.len.min(mark);
    }

    /// The extents from `mark` on.
    #[inline]
    pub(super) fn since(&self, mark: u16) -> Range {
        Range {
            start: mark,
            end: self.len,
        }
    }

    #[inline]
    pub(super) fn get(&self, range: Range) -> &[Extent] {
        self.extents
            .get(usize::from(range.start)..usize::from(range.end))
            .unwrap_or_default()
    }
}

/// A chain that was popped from a TX ring.
#[derive(Clone, Copy, Debug)]
pub struct Chain {
    /// Bytes, vnet header included; 0 when there is a fault.
    pub len: u32,
    /// Why it is not a frame; its extents are then none.
    pub fault: Option<ChainFault>,
    pub(super) head: u16,
    /// All of it, when that lies in one place and was found by the short way; else it is in the arena.
    pub(super) only: Extent,
    pub(super) range: Range,
}

impl Chain {
    pub(super) const NONE: Self = Self {
        len: 0,
        fault: None,
        head: 0,
        only: Extent::NONE,
        range: Range::NONE,
    };

    /// The one place where all of its bytes lie, of a chain of one buffer.
    #[inline(always)]
    #[must_use]
    pub fn whole(&self) -> Option<Extent> {
        (!self.only.is_empty()).then_some(self.only)
    }
}

/// Up to [`BURST`] chains of one ring and their extents: allocated once by a worker, used for one ring
/// after the other.
pub struct ChainBurst {
    chains: Box<[Chain]>,
    count: usize,
    pub(super) arena: Arena,
}

impl ChainBurst {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self {
            chains: vec![Chain::NONE; BURST].into_boxed_slice(),
            count: 0,
            arena: Arena::new(),
        }
    }

    /// The chains, in the order the driver offered them.
    #[inline]
    #[must_use]
    pub fn chains(&self) -> &[Chain] {
        self.chains.get(..self.count).unwrap_or_default()
    }

    /// The bytes of a chain of this burst.
    #[inline]
    #[must_use]
    pub fn extents<'a>(&'a self, chain: &'a Chain) -> &'a [Extent] {
        if chain.only.is_empty() {
            self.arena.get(chain.range)
        } else {
            std::slice::from_ref(&chain.only)
        }
    }

    /// Forgets the chains; `TxRing::collect` does so first.
    #[inline]
    pub fn clear(&mut self) {
        self.count = 0;
        self.arena.rewind(0);
    }

    /// Forgets the last `count` chains, or all that there are; says how many that were.
    pub(super) fn forget_last(&mut self, count: usize) -> usize {
        let forgotten = count.min(self.count);
        self.count = self.count.saturating_sub(forgotten);
        forgotten
    }

    /// Room for more chains, and where to note how many of it were filled.
    #[inline(always)]
    pub(super) fn room(&mut self) -> (&mut [Chain], &mut usize) {
        let free = self.chains.get_mut(self.count..).unwrap_or_default();
        (free, &mut self.count)
    }

    pub(super) fn push(&mut self, chain: Chain) {
        if let Some(slot) = self.chains.get_mut(self.count) {
            *slot = chain;
            self.count = self.count.wrapping_add(1); // at most BURST
        }
    }
}

impl Default for ChainBurst {
    fn default() -> Self {
        Self::new()
    }
}

/// Why a walk ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Halt {
    /// The chain is malformed.
    Fault(ChainFault),
    /// There is no room for its extents: nothing is known about it yet.
    ArenaFull,
}

impl From<ChainFault> for Halt {
    fn from(fault: ChainFault) -> Self {
        Self::Fault(fault)
    }
}

/// What a walk found, and what it cost.
pub(super) struct Walked {
    /// Bytes of the chain, at most the cap; or why there are none. Then the arena holds a part of the
    /// chain all the same: the caller rewinds it.
    pub(super) bytes: Result<u32, Halt>,
    /// Descriptors read, the one that names an indirect table included.
    pub(super) descriptors: u32,
}

/// Walks chains of one ring. `WRITABLE` is the direction of the ring: false for TX, true for RX.
///
/// Its parts are passed by value and what a walk counts is kept in locals: on the path all of it lives in
/// registers.
#[derive(Clone, Copy)]
pub(super) struct Walk<'a, const WRITABLE: bool> {
    pub(super) rings: &'a Rings,
    /// Indirect tables were negotiated.
    pub(super) indirect: bool,
    /// TX: more bytes than this are a fault. RX: bytes beyond this are not looked up.
    pub(super) cap: u32,
}

impl<const WRITABLE: bool> Walk<'_, WRITABLE> {
    /// Walks the chain that starts with `first`, a private copy of the head's descriptor, and leaves
    /// its extents in the arena. The module's head tells what is guaranteed.
    #[inline(always)]
    pub(super) fn chain(
        self,
        first: Descriptor,
        hint: &mut RegionHint,
        arena: &mut Arena,
    ) -> Walked {
        let mut descriptors = 1;
        let mut descriptor = first;
        let mut bytes = 0;
        let end = loop {
            if descriptor.has(DESC_F_INDIRECT) {
                return self.table(descriptor, bytes, descriptors, hint, arena);
            }
            match self.piece(descriptor, bytes, hint, arena) {
                Ok(more) => bytes = more,
                Err(halt) => break Err(halt),
            }
            if !descriptor.has(DESC_F_NEXT) {
                break self.end(bytes);
            }
            if descriptors >= self.limit() {
                break Err(ChainFault::TooManyDescriptors.into());
            }
            if descriptor.next() >= self.rings.size() {
                break Err(ChainFault::NextOutOfRange.into());
            }
            descriptors = descriptors.wrapping_add(1); // at most MAX_CHAIN
            descriptor = self.rings.descriptor(descriptor.next());
        };
        Walked {
            bytes: end,
            descriptors,
        }
    }

    /// The longest chain that is walked; at least 1.
    #[inline(always)]
    fn limit(self) -> u32 {
        u32::from(self.rings.size()).min(MAX_CHAIN)
    }

    #[inline(always)]
    fn end(self, bytes: u32) -> Result<u32, Halt> {
        if WRITABLE && bytes == 0 {
            return Err(ChainFault::Empty.into());
        }
        Ok(bytes)
    }

    /// Adds the buffer of one descriptor to the `bytes` so far, and gives the new number.
    #[inline(always)]
    fn piece(
        self,
        descriptor: Descriptor,
        bytes: u32,
        hint: &mut RegionHint,
        arena: &mut Arena,
    ) -> Result<u32, Halt> {
        if descriptor.has(DESC_F_WRITE) != WRITABLE {
            return Err(ChainFault::WrongDirection.into());
        }
        let room = self.cap.wrapping_sub(bytes); // bytes <= cap
        let len = if WRITABLE {
            descriptor.len().min(room)
        } else if descriptor.len() <= room {
            descriptor.len()
        } else {
            return Err(ChainFault::TooLong.into());
        };
        if len == 0 {
            return Ok(bytes);
        }
        let memory = self.rings.memory();
        let extent = memory
            .locate(descriptor.addr(), len, hint)
            .ok_or(ChainFault::Unmapped)?;
        arena.push(extent)?;
        if WRITABLE {
            memory.prefetch_write(extent); // the copy will write it
        } else if bytes <= HEADER_ONLY {
            memory.prefetch_read(extent); // the snapshot will read it
        }
        if extent.len() < len {
            self.further(descriptor.addr(), len, extent.len(), hint, arena)?;
        }
        Ok(bytes.wrapping_add(len)) // len <= cap - bytes
    }

    /// The rest of a buffer that goes on in the next region.
    #[cold]
    #[inline(never)]
    fn further(
        self,
        addr: u64,
        len: u32,
        mut done: u32,
        hint: &mut RegionHint,
        arena: &mut Arena,
    ) -> Result<(), Halt> {
        while done < len {
            let rest = len.wrapping_sub(done); // done < len
            let extent = addr
                .checked_add(u64::from(done))
                .and_then(|at| self.rings.memory().locate(at, rest, hint))
                .filter(|extent| !extent.is_empty())
                .ok_or(ChainFault::Unmapped)?;
            arena.push(extent)?;
            done = done.saturating_add(extent.len());
        }
        Ok(())
    }

    /// Walks an indirect table, which ends the chain. Its own `WRITE` flag means nothing
    /// (VIRTIO 1.2, 2.7.5.3.2). `bytes` and `descriptors` are those before it, itself included.
    #[inline(never)]
    fn table(
        self,
        table: Descriptor,
        bytes: u32,
        descriptors: u32,
        hint: &mut RegionHint,
        arena: &mut Arena,
    ) -> Walked {
        let mut descriptors = descriptors;
        let bytes = self.entries(table, bytes, &mut descriptors, hint, arena);
        Walked { bytes, descriptors }
    }

    #[inline(always)]
    fn entries(
        self,
        table: Descriptor,
        mut bytes: u32,
        descriptors: &mut u32,
        hint: &mut RegionHint,
        arena: &mut Arena,
    ) -> Result<u32, Halt> {
        if !self.indirect {
            return Err(ChainFault::IndirectNotNegotiated.into());
        }
        if table.has(DESC_F_NEXT) {
            return Err(ChainFault::IndirectChained.into());
        }
        let entries = table.len() / 16;
        if entries == 0 || !table.len().is_multiple_of(16) || entries > self.limit() {
            return Err(ChainFault::IndirectLength.into());
        }
        let memory = self.rings.memory();
        let whole = memory
            .locate(table.addr(), table.len(), hint)
            .ok_or(ChainFault::Unmapped)?;
        let mut index = 0;
        loop {
            // The descriptor that named the table is no part of the chain's length.
            if *descriptors > self.limit() {
                return Err(ChainFault::TooManyDescriptors.into());
            }
            *descriptors = descriptors.wrapping_add(1); // at most MAX_CHAIN + 1
            let entry = self.entry(table.addr(), whole, index, hint)?;
            if entry.has(DESC_F_INDIRECT) {
                return Err(ChainFault::IndirectNested.into());
            }
            bytes = self.piece(entry, bytes, hint, arena)?;
            if !entry.has(DESC_F_NEXT) {
                return self.end(bytes);
            }
            index = u32::from(entry.next());
            if index >= entries {
                return Err(ChainFault::NextOutOfRange.into());
            }
        }
    }

    /// Copies one entry of an indirect table; `whole` is the part of it in the first region.
    #[inline(always)]
    fn entry(
        self,
        addr: u64,
        whole: Extent,
        index: u32,
        hint: &mut RegionHint,
    ) -> Result<Descriptor, ChainFault> {
        let offset = index.wrapping_mul(16); // index < limit <= MAX_CHAIN
        let at = whole.skip(offset).take(16);
        if at.len() == 16 {
            let memory = self.rings.memory();
            Ok(match memory.load_words(at) {
                Some(words) => Descriptor::from_words(words),
                None => {
                    let mut bytes = [0; 16]; // the driver did not align its table: it need not
                    memory.read(at, &mut bytes);
                    Descriptor::from_bytes(bytes)
                }
            })
        } else {
            self.split_entry(addr, offset, hint)
        }
    }

    /// An entry beyond the table's first region, perhaps itself in two.
    #[cold]
    #[inline(never)]
    fn split_entry(
        self,
        addr: u64,
        offset: u32,
        hint: &mut RegionHint,
    ) -> Result<Descriptor, ChainFault> {
        let mut bytes = [0; 16];
        let mut at = addr
            .checked_add(u64::from(offset))
            .ok_or(ChainFault::Unmapped)?;
        let mut rest = bytes.as_mut_slice();
        while !rest.is_empty() {
            let want = u32::try_from(rest.len()).unwrap_or(u32::MAX); // at most 16
            let memory = self.rings.memory();
            let extent = memory
                .locate(at, want, hint)
                .filter(|extent| !extent.is_empty())
                .ok_or(ChainFault::Unmapped)?;
            let (now, later) = rest
                .split_at_mut_checked(extent.len() as usize)
                .ok_or(ChainFault::Unmapped)?;
            memory.read(extent, now);
            at = at
                .checked_add(u64::from(extent.len()))
                .ok_or(ChainFault::Unmapped)?;
            rest = later;
        }
        Ok(Descriptor::from_bytes(bytes))
    }
}
