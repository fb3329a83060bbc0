//! One frame of a burst: its snapshot, and what was found out about it.
//!
//! The *snapshot* is the private copy of the first bytes of a frame: 128, or 256 when headers run on. It is
//! made once, and everything that judges a frame reads only it; what is delivered is the snapshot's bytes and then
//! the rest straight from the sender's buffers. So the bytes that were judged are the bytes that arrive, whatever the
//! guest does to its memory meanwhile.

use std::mem::offset_of;

use super::cursor::Cursor;
use super::offload::Offload;
use crate::counters::DropReason;
use crate::frame::{Frame, Vid, vlan};
use crate::memory::{Extent, GuestMemory, Near};
use crate::policy::{HEAD, Weight};
use crate::ring::Chain;
use crate::ring::vnet::VnetHeader;

/// Bytes of a frame that are copied before it is judged.
pub(crate) const SNAPSHOT: usize = 128;
/// Bytes that are copied when headers run on: 14 + 8 (two tags) + 40 (IPv6) + 128 (extension headers) + 60 (TCP) = 250.
pub(crate) const SNAPSHOT_MAX: usize = 256;
/// Bytes that are copied of a DHCP packet that leases are learned from: its options lie behind 282 bytes of headers, and
/// answers are of 576 bytes (RFC 2131, section 2), or a little more.
pub(crate) const LONG_MAX: usize = 1024;
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

/// The form of a sender's virtio-net headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Framing {
    /// Bytes of the header.
    pub(crate) header_len: usize,
    /// Whether the guest may ask for offloads at all; if not, its headers are not even looked at.
    pub(crate) reads_header: bool,
}

/// One frame of a burst. A cache line of what is known of it and the virtio-net header, then the snapshot.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub(crate) struct Slot {
    /// What is left to do to the frame.
    pub(crate) offload: Offload,
    tail: Cursor,
    /// Bytes of the frame.
    pub(crate) len: u32,
    have: u16,
    /// The segment that it belongs to.
    pub(crate) vid: Vid,
    /// Whether it carries a tag.
    pub(crate) tagged: bool,
    /// So that the snapshot begins with a cache line.
    _space: [u8; 15],
    /// Room for a virtio-net header, then the snapshot: one contiguous piece for the receiver. The header is the
    /// sender's until the frame was judged, then each receiver's in turn.
    head: [u8; HEADER_MAX + LONG_MAX],
}

const _: () = assert!(offset_of!(Slot, head) + HEADER_MAX == 64);
const _: () = assert!(size_of::<Slot>() == 64 + LONG_MAX);

impl Slot {
    pub(crate) fn empty() -> Self {
        Self {
            offload: Offload::None,
            tail: Cursor::default(),
            len: 0,
            have: 0,
            vid: Vid::DEFAULT,
            tagged: false,
            _space: [0; 15],
            head: [0; HEADER_MAX + LONG_MAX],
        }
    }

    /// Takes the snapshot of a chain of one buffer, so that what is wanted of it lies in one piece, as it will here.
    /// False when anything is out of the ordinary: then [`take`](Self::take) knows what to do.
    #[inline(always)]
    pub(crate) fn take_whole<const READS_HEADER: bool>(
        &mut self,
        memory: Near<'_>,
        chain: &Chain,
        header: u32,
    ) -> bool {
        let len = chain.len.wrapping_sub(header);
        let (Some(whole), FRAME_MIN..=FRAME_MAX) = (chain.whole(), len) else {
            return false;
        };
        let want = len.min(bytes_of(SNAPSHOT));
        let (start, skip) = if READS_HEADER {
            (HEADER_MAX.saturating_sub(header as usize), 0)
        } else {
            (HEADER_MAX, header)
        };
        let end = HEADER_MAX.wrapping_add(want as usize); // at most HEADER_MAX + SNAPSHOT
        let Some(room) = self.head.get_mut(start..end) else {
            return false;
        };
        if !memory.read(whole, skip, room) {
            return false;
        }
        self.begin(
            len,
            short(want as usize),
            Cursor::in_first(header.wrapping_add(want)),
        );
        true
    }

    /// Takes the snapshot of any chain.
    ///
    /// # Errors
    ///
    /// [`DropReason::MalformedChain`], [`DropReason::Runt`], [`DropReason::Oversize`].
    #[inline(never)]
    pub(crate) fn take(
        &mut self,
        memory: &GuestMemory,
        chain: &Chain,
        extents: &[Extent],
        framing: Framing,
    ) -> Result<(), DropReason> {
        self.begin(0, 0, Cursor::default());
        if chain.fault.is_some() {
            return Err(DropReason::MalformedChain);
        }
        let header = bytes_of(framing.header_len);
        let len = match chain.len.checked_sub(header) {
            Some(len @ FRAME_MIN..=FRAME_MAX) => len,
            Some(len) if len > FRAME_MAX => return Err(DropReason::Oversize),
            _ => return Err(DropReason::Runt),
        };
        let mut cursor = Cursor::after(extents, header);
        if framing.reads_header
            && let Some(room) = self.header_mut(framing.header_len)
        {
            cursor = Cursor::default();
            cursor.read(memory, extents, room);
        }
        self.begin(len, 0, cursor);
        self.extend(memory, extents, SNAPSHOT);
        Ok(())
    }

    /// A frame of `len` bytes of which `have` are here and `tail` is the rest, and nothing is known.
    #[inline(always)]
    fn begin(&mut self, len: u32, have: u16, tail: Cursor) {
        self.offload = Offload::None;
        self.tagged = false;
        self.tail = tail;
        self.len = len;
        self.have = have;
    }

    /// The sender's virtio-net header, as it was read: until the frame was judged.
    #[inline(always)]
    pub(crate) fn sent(&self, framing: Framing) -> VnetHeader {
        let sent = self
            .head
            .get(HEADER_MAX.saturating_sub(framing.header_len)..);
        match sent.and_then(|sent| sent.first_chunk()) {
            Some(sent) if framing.reads_header => VnetHeader::parse(sent),
            _ => VnetHeader::default(),
        }
    }

    /// Makes the snapshot `want` bytes long, or as long as the frame.
    pub(crate) fn extend(&mut self, memory: &GuestMemory, extents: &[Extent], want: usize) {
        let want = want.min(LONG_MAX).min(self.len as usize);
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

    /// What the frame counts as: one that is to be cut, as its segments.
    #[inline(always)]
    pub(crate) fn weight(&self) -> Weight {
        match self.offload {
            Offload::Segment(segment) => Weight {
                frames: segment.count(),
                bytes: segment.bytes(),
            },
            Offload::None | Offload::Checksum(_) => Weight {
                frames: 1,
                bytes: self.len,
            },
        }
    }

    /// The snapshot.
    #[inline]
    pub(crate) fn snapshot(&self) -> &[u8] {
        let have = usize::from(self.have).min(LONG_MAX); // it is never more
        self.head
            .get(HEADER_MAX..HEADER_MAX + have)
            .unwrap_or_default()
    }

    /// The first bytes of the frame, whatever they are past its end.
    #[inline(always)]
    pub(crate) fn beginning(&self) -> &[u8; HEAD] {
        const NOTHING: &[u8; HEAD] = &[0; HEAD];
        let beginning = self.head.get(HEADER_MAX..).and_then(<[u8]>::first_chunk);
        beginning.unwrap_or(NOTHING) // it is always there
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

    /// Puts a virtio-net header of `len` bytes for a frame that needs nothing and fills one chain in front of the
    /// snapshot.
    #[inline(always)]
    pub(crate) fn set_plain_header(&mut self, len: usize) {
        const PLAIN: [u8; HEADER_MAX] = VnetHeader::PLAIN.with_buffers(1).encode();
        if len == HEADER_MAX
            && let Some(room) = self.head.first_chunk_mut::<HEADER_MAX>()
        {
            *room = PLAIN; // two stores
        } else {
            self.set_header(&PLAIN, len);
        }
    }

    /// Puts the first `len` bytes of a receiver's virtio-net header in front of the snapshot.
    #[inline]
    pub(crate) fn set_header(&mut self, header: &[u8; HEADER_MAX], len: usize) {
        if let Some(room) = self.header_mut(len)
            && let Some(header) = header.get(..room.len())
        {
            room.copy_from_slice(header);
        }
    }

    #[inline(always)]
    fn header_mut(&mut self, len: usize) -> Option<&mut [u8]> {
        let start = HEADER_MAX.saturating_sub(len);
        self.head.get_mut(start..HEADER_MAX)
    }

    /// The `len` bytes of virtio-net header that were set last, then the snapshot, in one piece.
    #[inline]
    pub(crate) fn framed(&self, len: usize) -> &[u8] {
        let start = HEADER_MAX.saturating_sub(len);
        let have = usize::from(self.have).min(LONG_MAX); // it is never more
        self.head.get(start..HEADER_MAX + have).unwrap_or_default()
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

    /// The hash of the flow: spreads flows over the queues of a receiver.
    pub(crate) fn hash_flow(&self, seed: u64) -> u32 {
        Frame::parse(self.snapshot(), self.len).map_or(0, |frame| frame.flow_hash(seed))
    }
}
