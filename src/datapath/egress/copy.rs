//! The second pass over a receiver's frames: headers, snapshots, and the rest from guest to guest.

use super::Egress;
use super::writer::{TagEdit, Writer};
use crate::datapath::slot::{HEADER_MAX, Slot, bytes_of};
use crate::datapath::slots::{Slots, Source};
use crate::memory::{Extent, GuestMemory, Near, RegionHint};
use crate::port::lanes::RxLane;
use crate::ring::vnet::LEGACY_LEN;
use crate::ring::{BURST, Reserved};

/// A frame for which chains are reserved, to be copied when all are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    pub(super) slot: u8,
    pub(super) reserved: Reserved,
    pub(super) edit: TagEdit,
    /// Already written: it was completed in software.
    pub(super) written: bool,
}

impl Pending {
    const NONE: Self = Self {
        slot: 0,
        reserved: Reserved::NONE,
        edit: TagEdit::Keep,
        written: true,
    };
}

/// The pending frames of one visit, each frame of the burst once at most.
pub(super) struct PendingList {
    list: Box<[Pending; BURST]>,
    len: usize,
}

impl PendingList {
    pub(super) fn new() -> Self {
        Self {
            list: Box::new([Pending::NONE; BURST]),
            len: 0,
        }
    }

    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    pub(super) fn push(&mut self, pending: Pending) {
        if let Some(last) = self.list.get_mut(self.len) {
            *last = pending;
            self.len = self.len.wrapping_add(1); // at most BURST
        }
    }

    /// Room for more, to be [`filled`](Self::filled) from its beginning.
    #[inline(always)]
    pub(super) fn room(&mut self) -> &mut [Pending] {
        self.list.get_mut(self.len..).unwrap_or_default()
    }

    #[inline(always)]
    pub(super) fn filled(&mut self, count: usize) {
        self.len = self.len.saturating_add(count).min(BURST);
    }

    #[inline(always)]
    pub(super) fn all(&self) -> &[Pending] {
        self.list.get(..self.len).unwrap_or_default()
    }

    #[inline(always)]
    pub(super) fn all_mut(&mut self) -> &mut [Pending] {
        self.list.get_mut(..self.len).unwrap_or_default()
    }
}

impl Egress {
    /// Second pass: headers, snapshots, and the rest from guest to guest.
    #[inline(never)]
    pub(super) fn copy(&mut self, source: Source<'_>, slots: &Slots, lane: &RxLane) {
        let memory = lane.ring.memory();
        let first = self.pending.all().first();
        let first = first.and_then(|pending| pending.reserved.whole());
        let near = memory.near(first.map_or_else(RegionHint::default, Extent::hint));
        if lane.header_len == HEADER_MAX {
            self.copy_all::<HEADER_MAX>(source, slots, lane, near);
        } else {
            self.copy_all::<LEGACY_LEN>(source, slots, lane, near);
        }
    }

    /// Behind headers of `HEADER` bytes.
    #[inline(always)]
    fn copy_all<const HEADER: usize>(
        &mut self,
        source: Source<'_>,
        slots: &Slots,
        lane: &RxLane,
        near: Near<'_>,
    ) {
        for pending in self.pending.all_mut() {
            if std::mem::replace(&mut pending.written, true) {
                continue;
            }
            let Some(slot) = slots.get(pending.slot) else {
                continue;
            };
            if !copy_plain::<HEADER>(source, slot, pending, near, lane) {
                let places = self.places.extents(&pending.reserved);
                copy_any(source, slot, pending, places, lane);
            }
        }
    }
}

/// The common case: one buffer takes the frame, and what is behind the snapshot, if anything, lies in one piece. False,
/// and nothing was copied, when anything is otherwise.
#[inline(always)]
fn copy_plain<const HEADER: usize>(
    source: Source<'_>,
    slot: &Slot,
    pending: &Pending,
    near: Near<'_>,
    lane: &RxLane,
) -> bool {
    let Some(place) = pending.reserved.whole() else {
        return false;
    };
    if pending.edit != TagEdit::Keep {
        return false;
    }
    let head = slot.framed(HEADER);
    let tail_len = slot.tail_len();
    if tail_len == 0 {
        return near.write(place, head);
    }
    let (Some(from), Some(chain)) = (source.memory, source.chain(pending.slot)) else {
        return false;
    };
    let Some(tail) = slot.tail().in_one(source.chains.extents(chain), tail_len) else {
        return false;
    };
    let rest = place.skip(bytes_of(head.len()));
    GuestMemory::copy((from, tail), (lane.ring.memory(), rest));
    near.write(place, head)
}

/// Any frame, in any pieces, into any pieces.
#[inline(never)]
fn copy_any(source: Source<'_>, slot: &Slot, pending: &Pending, places: &[Extent], lane: &RxLane) {
    let mut writer = Writer::new(lane.ring.memory(), places);
    if pending.edit == TagEdit::Keep {
        writer.put(slot.framed(lane.header_len));
    } else {
        writer.put(slot.header(lane.header_len));
        pending.edit.write(&mut writer, slot.snapshot());
    }
    let tail_len = slot.tail_len();
    if tail_len > 0
        && let Some(from) = source.memory
    {
        writer.put_from(from, slot.tail(), source.extents(pending.slot), tail_len);
    }
}
