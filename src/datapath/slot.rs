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
    pub(crate) flow: Option<u32>,
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
    #[inline]
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
        let Some(len) = chain
            .len
            .checked_sub(header_bytes)
            .filter(|len| *len >= FRAME_MIN)
        else {
            self.outcome = Outcome::Dropped(DropReason::Runt);
            return;
        };
        if len > FRAME_MAX {
            self.outcome = Outcome::Dropped(DropReason::Oversize);
            return;
        }
        self.len = len;
        let mut cursor = Cursor::default();
        let mut header = [0u8; HEADER_MAX];
        if reads_header {
            if let Some(header) = header.get_mut(..header_len) {
                cursor.read(memory, extents, header);
            }
            let [first @ .., _, _] = &header;
            self.sent = VnetHeader::parse(first);
        } else {
            cursor = Cursor::after(extents, header_bytes);
        }
        self.tail = cursor;
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

    /// A virtio-net header of `len` bytes, then the snapshot, in one piece.
    #[inline]
    pub(crate) fn framed(&mut self, header: &[u8; HEADER_MAX], len: usize) -> &[u8] {
        let start = HEADER_MAX.saturating_sub(len);
        if let (Some(room), Some(header)) =
            (self.head.get_mut(start..HEADER_MAX), header.get(..len))
        {
            room.copy_from_slice(header);
        }
        self.head
            .get(start..HEADER_MAX + usize::from(self.have))
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

    /// Makes sure that the flow is hashed.
    pub(crate) fn hash_flow(&mut self, seed: u64) {
        if self.flow.is_none() {
            self.flow = Some(
                Frame::parse(self.snapshot(), self.len).map_or(0, |frame| frame.flow_hash(seed)),
            );
        }
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
    #[inline]
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
pub(crate) struct Slots(Box<[Slot]>);

impl Slots {
    pub(crate) fn new() -> Self {
        Self(vec![Slot::empty(); BURST].into_boxed_slice())
    }

    /// The slots of the chains that were collected, each with its chain.
    pub(crate) fn of<'a>(
        &'a mut self,
        chains: &'a ChainBurst,
    ) -> impl Iterator<Item = (&'a mut Slot, &'a Chain)> {
        self.0.iter_mut().zip(chains.chains())
    }

    /// Slot `index`.
    #[inline]
    pub(crate) fn get_mut(&mut self, index: u8) -> Option<&mut Slot> {
        self.0.get_mut(usize::from(index))
    }

    /// The first slots.
    pub(crate) fn first(&self, count: usize) -> &[Slot] {
        self.0.get(..count).unwrap_or_default()
    }
}
