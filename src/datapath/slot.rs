//! One frame of a burst, from its snapshot to its outcome.
//!
//! The *snapshot* is the private copy of the first bytes of a frame: 128, or 256 when headers run on. It is
//! made once, and everything that judges a frame reads only it; what is delivered is the snapshot's bytes and then
//! the rest straight from the sender's buffers. So the bytes that were judged are the bytes that arrive, whatever the
//! guest does to its memory meanwhile.

use super::offload::Offload;
use crate::counters::DropReason;
use crate::frame::{Frame, Vid, vlan};
use crate::memory::{Extent, GuestMemory};
use crate::ring::vnet::VnetHeader;
use crate::ring::{BURST, Chain, ChainBurst};

/// Bytes of a frame that are copied before it is judged.
pub(crate) const SNAPSHOT: usize = 128;
/// Bytes that are copied when headers run on: 14 + 8 (two tags) + 40 (IPv6) + 128 (extension headers) + 60 (TCP) = 250.
pub(crate) const SNAPSHOT_MAX: usize = 256;
/// Largest virtio-net header (VIRTIO 1.2, 5.1.6).
pub(crate) const HEADER_MAX: usize = 12;
/// Largest frame, without the virtio-net header: VIRTIO 1.2, 5.1.6.3.1 asks receivers for 65,550 bytes with the Ethernet header; a tag comes on top.
pub(crate) const FRAME_MAX: u32 = 65_554;
/// Slots of a burst, as their numbers count them.
const BURST_8: u8 = 64;
const _: () = assert!(BURST_8 as usize == BURST);
const TAG: u32 = 4;
const _: () = assert!(vlan::TAG == 4);
/// Smallest frame: an Ethernet header.
pub(crate) const FRAME_MIN: u32 = 14;

/// A length as guest memory counts it.
#[inline]
pub(crate) fn bytes_of(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// A length within a snapshot.
#[inline]
fn short(len: usize) -> u16 {
    u16::try_from(len).unwrap_or(u16::MAX)
}

/// Reads the bytes of a chain in order.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cursor {
    extent: u16,
    skip: u32,
}

impl Cursor {
    /// Reads the next bytes into `into`; returns how many there were.
    pub(crate) fn read(
        &mut self,
        memory: &GuestMemory,
        extents: &[Extent],
        into: &mut [u8],
    ) -> usize {
        let mut done = 0;
        while let Some(extent) = extents.get(usize::from(self.extent)) {
            let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) else {
                break;
            };
            let part = extent
                .skip(self.skip)
                .take(u32::try_from(rest.len()).unwrap_or(u32::MAX));
            let len = part.len() as usize;
            if let Some(rest) = rest.get_mut(..len) {
                memory.read(part, rest);
            }
            done += len;
            self.skip += part.len();
            if self.skip >= extent.len() {
                self.extent += 1;
                self.skip = 0;
            }
        }
        done
    }

    /// The next `len` bytes, if they lie in one place.
    #[inline(always)]
    pub(crate) fn in_one(self, extents: &[Extent], len: u32) -> Option<Extent> {
        let rest = extents.get(usize::from(self.extent))?.skip(self.skip);
        (rest.len() >= len).then(|| rest.take(len))
    }

    /// The places that are left, in order.
    pub(crate) fn rest(self, extents: &[Extent]) -> impl Iterator<Item = Extent> {
        let mut skip = self.skip;
        extents
            .get(usize::from(self.extent)..)
            .unwrap_or_default()
            .iter()
            .map(move |extent| {
                let extent = extent.skip(skip);
                skip = 0;
                extent
            })
    }
}

/// What has become of a frame so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// On its way; nobody has it yet.
    Open,
    /// At least one receiver has it.
    Forwarded,
    /// Nobody has it, and this is why (the first reason, if there were several).
    Dropped(DropReason),
}

/// One frame of a burst.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    /// Room for a virtio-net header, then the snapshot: one contiguous piece for the receiver.
    head: [u8; HEADER_MAX + SNAPSHOT_MAX],
    have: u16,
    /// Bytes of the frame.
    pub(crate) len: u32,
    /// The sender's virtio-net header, as it was read.
    pub(crate) sent: VnetHeader,
    /// What is left to do to the frame.
    pub(crate) offload: Offload,
    /// The segment that it belongs to.
    pub(crate) vid: Vid,
    /// Whether it carries a tag.
    pub(crate) tagged: bool,
    /// Spreads flows over the queues of a receiver.
    flow: Option<u32>,
    pub(crate) outcome: Outcome,
    tail: Cursor,
}

impl Slot {
    fn empty() -> Self {
        Self {
            head: [0; HEADER_MAX + SNAPSHOT_MAX],
            have: 0,
            len: 0,
            sent: VnetHeader::default(),
            offload: Offload::None,
            vid: Vid::DEFAULT,
            tagged: false,
            flow: None,
            outcome: Outcome::Open,
            tail: Cursor::default(),
        }
    }

    /// Takes the snapshot of a chain. `reads_header`: whether the guest may ask for offloads at all; if
    /// not, its virtio-net header is not even looked at.
    #[inline(always)]
    pub(crate) fn take(
        &mut self,
        memory: &GuestMemory,
        chain: &Chain,
        extents: &[Extent],
        header_len: usize,
        reads_header: bool,
    ) {
        self.have = 0;
        self.len = 0;
        self.offload = Offload::None;
        self.sent = VnetHeader::default();
        self.outcome = Outcome::Open;
        self.flow = None;
        if chain.fault.is_some() {
            self.outcome = Outcome::Dropped(DropReason::MalformedChain);
            return;
        }
        let header_bytes = bytes_of(header_len);
        if chain.len < header_bytes.saturating_add(FRAME_MIN) {
            self.outcome = Outcome::Dropped(DropReason::Runt);
            return;
        }
        let len = chain.len.wrapping_sub(header_bytes); // chain.len is more
        if len > FRAME_MAX {
            self.outcome = Outcome::Dropped(DropReason::Oversize);
            return;
        }
        self.len = len;
        match extents {
            [only] if only.len() == chain.len => {
                self.take_single(memory, *only, header_bytes, reads_header);
            }
            _ => self.take_pieces(memory, extents, header_bytes, reads_header),
        }
    }

    /// The fast path: the chain is one buffer of `header` and `self.len` bytes, so that what is wanted of it lies in
    /// one piece, as it will here.
    #[inline(always)]
    fn take_single(&mut self, memory: &GuestMemory, only: Extent, header: u32, reads_header: bool) {
        let want = self.len.min(bytes_of(SNAPSHOT));
        let skip = if reads_header { 0 } else { header };
        let start = HEADER_MAX.saturating_sub(header.saturating_sub(skip) as usize);
        if let Some(room) = self.head.get_mut(start..HEADER_MAX + want as usize) {
            memory.read(only.skip(skip), room);
            if reads_header && let Some(sent) = room.first_chunk() {
                self.sent = VnetHeader::parse(sent);
            }
            self.have = short(want as usize);
        }
        self.tail = Cursor {
            extent: 0,
            skip: header.saturating_add(want),
        };
    }

    #[inline(never)]
    fn take_pieces(
        &mut self,
        memory: &GuestMemory,
        extents: &[Extent],
        header: u32,
        reads_header: bool,
    ) {
        self.tail = if reads_header {
            let mut cursor = Cursor::default();
            let mut bytes = [0u8; HEADER_MAX];
            if let Some(bytes) = bytes.get_mut(..header as usize) {
                cursor.read(memory, extents, bytes);
            }
            let [first @ .., _, _] = &bytes;
            self.sent = VnetHeader::parse(first);
            cursor
        } else {
            Cursor::after(extents, header)
        };
        self.extend(memory, extents, SNAPSHOT);
    }

    /// Makes the snapshot `want` bytes long, or as long as the frame.
    pub(crate) fn extend(&mut self, memory: &GuestMemory, extents: &[Extent], want: usize) {
        let want = want.min(SNAPSHOT_MAX).min(self.len as usize);
        let have = usize::from(self.have);
        if let Some(room) = self.head.get_mut(HEADER_MAX + have..HEADER_MAX + want) {
            let read = self.tail.read(memory, extents, room);
            self.have = short(have.saturating_add(read));
        }
    }

    /// What no switch may do, and the mutant does, so that Q-14 is seen to fail: takes the judged bytes again, from memory
    /// that the guest may have changed since.
    #[cfg(portcullis_mutant = "reread")]
    pub(crate) fn read_again(&mut self, memory: Option<&GuestMemory>, extents: &[Extent]) {
        let Some(memory) = memory else { return };
        let chain = extents.iter().map(|extent| extent.len()).sum::<u32>();
        let mut cursor = Cursor::after(extents, chain.saturating_sub(self.len));
        let have = usize::from(self.have);
        if let Some(room) = self.head.get_mut(HEADER_MAX..HEADER_MAX + have) {
            cursor.read(memory, extents, room);
        }
    }

    /// Puts a frame of our own making in, whole.
    pub(crate) fn put(&mut self, frame: &[u8]) {
        *self = Self::empty();
        let len = frame.len().min(SNAPSHOT_MAX);
        if let (Some(room), Some(frame)) = (
            self.head.get_mut(HEADER_MAX..HEADER_MAX + len),
            frame.get(..len),
        ) {
            room.copy_from_slice(frame);
            self.have = short(len);
            self.len = bytes_of(len);
        }
    }

    /// The snapshot.
    #[inline]
    pub(crate) fn snapshot(&self) -> &[u8] {
        self.head
            .get(HEADER_MAX..HEADER_MAX + usize::from(self.have))
            .unwrap_or_default()
    }

    /// Whether the frame is longer than its snapshot, and the snapshot may still grow.
    pub(crate) fn can_extend(&self) -> bool {
        usize::from(self.have) < SNAPSHOT_MAX && u32::from(self.have) < self.len
    }

    /// Bytes behind the snapshot.
    #[inline]
    pub(crate) fn tail_len(&self) -> u32 {
        self.len.saturating_sub(u32::from(self.have))
    }

    /// Where the bytes behind the snapshot lie.
    #[inline]
    pub(crate) fn tail(&self) -> Cursor {
        self.tail
    }

    /// Puts a virtio-net header of `len` bytes for a frame that needs nothing and fills `buffers` chains in front of
    /// the snapshot.
    #[inline(always)]
    pub(crate) fn set_plain_header(&mut self, buffers: u16, len: usize) {
        if len == HEADER_MAX
            && let Some(room) = self.head.first_chunk_mut::<HEADER_MAX>()
        {
            // All zero, and `num_buffers` at the end: two stores.
            let [n0, n1] = buffers.to_le_bytes();
            *room = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n0, n1];
        } else {
            self.set_header(&[0; HEADER_MAX], len);
        }
    }

    /// Puts the first `len` bytes of a receiver's virtio-net header in front of the snapshot.
    #[inline]
    pub(crate) fn set_header(&mut self, header: &[u8; HEADER_MAX], len: usize) {
        let start = HEADER_MAX.saturating_sub(len);
        if let Some(room) = self.head.get_mut(start..HEADER_MAX)
            && let Some(header) = header.get(..room.len())
        {
            room.copy_from_slice(header);
        }
    }

    /// The `len` bytes of virtio-net header that were set last, then the snapshot, in one piece.
    #[inline]
    pub(crate) fn framed(&self, len: usize) -> &[u8] {
        let start = HEADER_MAX.saturating_sub(len);
        self.head
            .get(start..HEADER_MAX + usize::from(self.have))
            .unwrap_or_default()
    }

    /// The header alone.
    pub(crate) fn header(&self, len: usize) -> &[u8] {
        self.head
            .get(HEADER_MAX.saturating_sub(len)..HEADER_MAX)
            .unwrap_or_default()
    }

    /// Whether the frame is longer than a receiver with that MTU takes. A frame to be cut is as long as its segments.
    #[inline]
    pub(crate) fn exceeds(&self, mtu: Option<u16>) -> bool {
        let Some(mtu) = mtu else { return false };
        let packet = match self.offload {
            Offload::Segment(segment) => segment.packet_len(),
            _ => self
                .len
                .saturating_sub(FRAME_MIN + if self.tagged { TAG } else { 0 }),
        };
        packet > u32::from(mtu)
    }

    /// The hash of the flow, made once.
    pub(crate) fn hash_flow(&mut self, seed: u64) -> u32 {
        if let Some(flow) = self.flow {
            return flow;
        }
        let flow = Frame::parse(self.snapshot(), self.len).map_or(0, |frame| frame.flow_hash(seed));
        self.flow = Some(flow);
        flow
    }

    /// One receiver has the frame.
    #[inline]
    pub(crate) fn delivered(&mut self) {
        self.outcome = Outcome::Forwarded;
    }

    /// One receiver will not have the frame.
    #[inline]
    pub(crate) fn refused(&mut self, reason: DropReason) {
        if self.outcome == Outcome::Open {
            self.outcome = Outcome::Dropped(reason);
        }
    }
}

impl Cursor {
    /// Stands behind the first `skip` bytes.
    fn after(extents: &[Extent], mut skip: u32) -> Self {
        let mut at = 0u16;
        for extent in extents {
            if skip < extent.len() {
                break;
            }
            skip -= extent.len();
            at += 1;
        }
        Self { extent: at, skip }
    }
}

/// The slots of a burst, one for each chain.
#[derive(Debug)]
pub(crate) struct Slots(Box<[Slot; BURST]>);

impl Slots {
    pub(crate) fn new() -> Self {
        Self(Box::new(std::array::from_fn(|_| Slot::empty())))
    }

    /// The slots of the chains that were collected, numbered, each with its chain.
    #[inline]
    pub(crate) fn of<'a>(
        &'a mut self,
        chains: &'a ChainBurst,
    ) -> impl Iterator<Item = (u8, &'a mut Slot, &'a Chain)> {
        (0..BURST_8)
            .zip(self.0.iter_mut().zip(chains.chains()))
            .map(|(index, (slot, chain))| (index, slot, chain))
    }

    /// Slot `index`.
    #[inline]
    pub(crate) fn get_mut(&mut self, index: u8) -> Option<&mut Slot> {
        self.0.get_mut(usize::from(index))
    }

    /// The first slots.
    #[inline]
    pub(crate) fn first(&self, count: usize) -> &[Slot] {
        self.0.get(..count).unwrap_or_default()
    }
}
