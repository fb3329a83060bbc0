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

/// Room for [`ARENA`] extents, allocated once.
pub(super) struct Arena(Vec<Extent>);

/// The arena has no room left.
#[derive(Debug)]
pub(super) struct Full;

impl Arena {
    pub(super) fn new() -> Self {
        Self(Vec::with_capacity(ARENA))
    }

    #[inline]
    pub(super) fn push(&mut self, extent: Extent) -> Result<(), Full> {
        if self.0.len() < ARENA {
            self.0.push(extent);
            Ok(())
        } else {
            Err(Full)
        }
    }

    /// Where the next extent goes.
    #[inline]
    pub(super) fn mark(&self) -> u16 {
        u16::try_from(self.0.len()).unwrap_or(u16::MAX) // at most ARENA
    }

    #[inline]
    pub(super) fn rewind(&mut self, mark: u16) {
        self.0.truncate(usize::from(mark));
    }

    #[inline]
    pub(super) fn since(&self, mark: u16) -> Range {
        Range {
            start: mark,
            end: self.mark(),
        }
    }

    #[inline]
    pub(super) fn get(&self, range: Range) -> &[Extent] {
        self.0
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
    pub(super) range: Range,
}

/// Up to [`BURST`] chains of one ring and their extents: allocated once by a worker, used for one ring
/// after the other.
pub struct ChainBurst {
    pub(super) chains: Vec<Chain>,
    pub(super) arena: Arena,
}

impl ChainBurst {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self {
            chains: Vec::with_capacity(BURST),
            arena: Arena::new(),
        }
    }

    /// The chains, in the order the driver offered them.
    #[inline]
    #[must_use]
    pub fn chains(&self) -> &[Chain] {
        &self.chains
    }

    /// The bytes of a chain of this burst.
    #[inline]
    #[must_use]
    pub fn extents(&self, chain: &Chain) -> &[Extent] {
        self.arena.get(chain.range)
    }

    /// Forgets the chains; `TxRing::collect` does so first.
    #[inline]
    pub fn clear(&mut self) {
        self.chains.clear();
        self.arena.rewind(0);
    }

    #[inline]
    pub(super) fn push(&mut self, chain: Chain) {
        if self.chains.len() < BURST {
            self.chains.push(chain);
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

impl From<Full> for Halt {
    fn from(Full: Full) -> Self {
        Self::ArenaFull
    }
}

impl From<ChainFault> for Halt {
    fn from(fault: ChainFault) -> Self {
        Self::Fault(fault)
    }
}

/// One walk along one chain. `WRITABLE` is the direction of the ring: false for TX, true for RX.
pub(super) struct Walk<'a, const WRITABLE: bool> {
    rings: &'a Rings,
    hint: &'a mut RegionHint,
    arena: &'a mut Arena,
    indirect: bool,
    /// TX: more bytes than this are a fault. RX: bytes beyond this are not looked up.
    cap: u32,
    /// Bytes so far; at most `cap`.
    pub(super) bytes: u32,
    /// Descriptors read so far, the one that names an indirect table included.
    pub(super) descriptors: u32,
}

impl<'a, const WRITABLE: bool> Walk<'a, WRITABLE> {
    #[inline]
    pub(super) fn new(
        rings: &'a Rings,
        hint: &'a mut RegionHint,
        arena: &'a mut Arena,
        indirect: bool,
        cap: u32,
    ) -> Self {
        Self {
            rings,
            hint,
            arena,
            indirect,
            cap,
            bytes: 0,
            descriptors: 0,
        }
    }

    /// Walks the chain that starts with `first`, a private copy of the head's descriptor, and leaves
    /// its extents in the arena. The module's head tells what is guaranteed.
    ///
    /// # Errors
    /// On any error the arena holds a part of the chain: the caller rewinds it.
    #[inline]
    pub(super) fn chain(&mut self, first: Descriptor) -> Result<(), Halt> {
        let mut left = self.limit();
        let mut descriptor = first;
        loop {
            self.descriptors = self.descriptors.wrapping_add(1); // at most MAX_CHAIN
            if descriptor.flags & DESC_F_INDIRECT != 0 {
                return self.table(descriptor, left);
            }
            self.piece(descriptor)?;
            if descriptor.flags & DESC_F_NEXT == 0 {
                break;
            }
            left = left.wrapping_sub(1); // was at least 1
            if left == 0 {
                return Err(ChainFault::TooManyDescriptors.into());
            }
            if descriptor.next >= self.rings.size() {
                return Err(ChainFault::NextOutOfRange.into());
            }
            descriptor = self.rings.descriptor(descriptor.next);
        }
        self.end()
    }

    /// The longest chain that is walked; at least 1.
    #[inline]
    fn limit(&self) -> u32 {
        u32::from(self.rings.size()).min(MAX_CHAIN)
    }

    #[inline]
    fn end(&self) -> Result<(), Halt> {
        if WRITABLE && self.bytes == 0 {
            return Err(ChainFault::Empty.into());
        }
        Ok(())
    }

    /// Adds the buffer of one descriptor.
    #[inline]
    fn piece(&mut self, descriptor: Descriptor) -> Result<(), Halt> {
        if (descriptor.flags & DESC_F_WRITE != 0) != WRITABLE {
            return Err(ChainFault::WrongDirection.into());
        }
        let room = self.cap.wrapping_sub(self.bytes); // bytes <= cap
        let len = if WRITABLE {
            descriptor.len.min(room)
        } else if descriptor.len <= room {
            descriptor.len
        } else {
            return Err(ChainFault::TooLong.into());
        };
        if len == 0 {
            return Ok(());
        }
        let extent = self
            .rings
            .memory()
            .locate(descriptor.addr, len, self.hint)
            .ok_or(ChainFault::Unmapped)?;
        self.arena.push(extent)?;
        self.bytes = self.bytes.wrapping_add(len); // len <= cap - bytes
        if extent.len() < len {
            self.further(descriptor.addr, len, extent.len())?;
        }
        Ok(())
    }

    /// The rest of a buffer that goes on in the next region.
    #[cold]
    fn further(&mut self, addr: u64, len: u32, mut done: u32) -> Result<(), Halt> {
        while done < len {
            let rest = len.wrapping_sub(done); // done < len
            let extent = addr
                .checked_add(u64::from(done))
                .and_then(|at| self.rings.memory().locate(at, rest, self.hint))
                .filter(|extent| !extent.is_empty())
                .ok_or(ChainFault::Unmapped)?;
            self.arena.push(extent)?;
            done = done.saturating_add(extent.len());
        }
        Ok(())
    }

    /// Walks an indirect table, which ends the chain. Its own `WRITE` flag means nothing
    /// (VIRTIO 1.2, 2.7.5.3.2).
    #[inline(never)]
    fn table(&mut self, table: Descriptor, mut left: u32) -> Result<(), Halt> {
        if !self.indirect {
            return Err(ChainFault::IndirectNotNegotiated.into());
        }
        if table.flags & DESC_F_NEXT != 0 {
            return Err(ChainFault::IndirectChained.into());
        }
        let entries = table.len / 16;
        if entries == 0 || !table.len.is_multiple_of(16) || entries > self.limit() {
            return Err(ChainFault::IndirectLength.into());
        }
        let whole = self
            .rings
            .memory()
            .locate(table.addr, table.len, self.hint)
            .ok_or(ChainFault::Unmapped)?;
        let mut index = 0;
        loop {
            if left == 0 {
                return Err(ChainFault::TooManyDescriptors.into());
            }
            left = left.wrapping_sub(1); // was at least 1
            self.descriptors = self.descriptors.wrapping_add(1); // at most MAX_CHAIN + 1
            let entry = self.entry(table.addr, whole, index)?;
            if entry.flags & DESC_F_INDIRECT != 0 {
                return Err(ChainFault::IndirectNested.into());
            }
            self.piece(entry)?;
            if entry.flags & DESC_F_NEXT == 0 {
                return self.end();
            }
            index = u32::from(entry.next);
            if index >= entries {
                return Err(ChainFault::NextOutOfRange.into());
            }
        }
    }

    /// Copies one entry of an indirect table; `whole` is the part of it in the first region.
    #[inline]
    fn entry(&mut self, addr: u64, whole: Extent, index: u32) -> Result<Descriptor, ChainFault> {
        let mut bytes = [0; 16];
        let offset = index.wrapping_mul(16); // index < limit <= MAX_CHAIN
        let at = whole.skip(offset).take(16);
        if at.len() == 16 {
            self.rings.memory().read(at, &mut bytes);
        } else {
            self.split_entry(addr, offset, &mut bytes)?;
        }
        Ok(Descriptor::from_bytes(bytes))
    }

    /// An entry beyond the table's first region, perhaps itself in two.
    #[cold]
    fn split_entry(&mut self, addr: u64, offset: u32, into: &mut [u8]) -> Result<(), ChainFault> {
        let mut at = addr
            .checked_add(u64::from(offset))
            .ok_or(ChainFault::Unmapped)?;
        let mut rest = into;
        while !rest.is_empty() {
            let want = u32::try_from(rest.len()).unwrap_or(u32::MAX); // at most 16
            let extent = self
                .rings
                .memory()
                .locate(at, want, self.hint)
                .filter(|extent| !extent.is_empty())
                .ok_or(ChainFault::Unmapped)?;
            let (now, later) = rest
                .split_at_mut_checked(extent.len() as usize)
                .ok_or(ChainFault::Unmapped)?;
            self.rings.memory().read(extent, now);
            at = at
                .checked_add(u64::from(extent.len()))
                .ok_or(ChainFault::Unmapped)?;
            rest = later;
        }
        Ok(())
    }
}
