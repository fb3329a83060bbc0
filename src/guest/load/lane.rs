//! A ring driven at speed: one fixed slot of memory for each descriptor, bursts, and as few touches of
//! the shared cache lines as the specification allows.
//!
//! The index of the used ring is read once a burst, the index of the available ring stored once a burst,
//! each with the order that makes everything before it visible. With IN_ORDER the used ring of a sender is
//! not read at all: its index tells how many of the oldest chains are done (VIRTIO 1.2, 2.7.9). An entry
//! of the available ring is written only where it changes. Descriptors are written anew for each frame, as
//! every driver does: a back-end must not look faster here than it is for a guest.

use std::sync::{
    Arc,
    atomic::{
        Ordering::{Acquire, Relaxed, Release, SeqCst},
        fence,
    },
};

use vm_memory::{Bytes, VolatileArrayRef, VolatileMemory, VolatileSlice};

use crate::guest::{Error, Event, Memory, Result, RingLayout, RingSetup, desc_flag};

/// Most frames that are taken or published at once.
pub(super) const BURST: usize = 64;

/// One ring with its slots.
#[derive(Debug)]
pub(super) struct Lane {
    memory: Arc<Memory>,
    layout: RingLayout,
    kick: Event,
    call: Event,
    in_order: bool,
    event_idx: bool,
    /// First slot and the distance between two.
    slots: u64,
    stride: u64,
    /// Where the buffer begins in its slot; what is written into a descriptor besides the address.
    offset: u64,
    /// Free descriptors, when they may come back in any order.
    free: Vec<u16>,
    /// What each entry of the available ring holds.
    entries: Vec<u16>,
    avail: u16,
    published: u16,
    used: u16,
    kicks: u64,
}

/// What the device has used: the slot and the length that it reports.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Filled {
    pub(super) slot: u16,
    pub(super) len: u32,
}

#[cold]
fn outside(what: &str) -> Error {
    Error::Device(format!("load: {what}"))
}

impl Lane {
    /// A cleared ring of `layout`, with slots of `stride` bytes from `slots` on; buffers begin `offset`
    /// bytes into their slots.
    pub(super) fn new(
        memory: &Arc<Memory>,
        layout: RingLayout,
        (in_order, event_idx): (bool, bool),
        (slots, stride, offset): (u64, u64, u64),
    ) -> Result<Self> {
        crate::guest::RawRing::new(Arc::clone(memory), layout).clear()?;
        let lane = Self {
            memory: Arc::clone(memory),
            layout,
            kick: Event::new()?,
            call: Event::new()?,
            in_order,
            event_idx,
            slots,
            stride,
            offset,
            free: (0..layout.size).rev().collect(),
            entries: vec![0; usize::from(layout.size)],
            avail: 0,
            published: 0,
            used: 0,
            kicks: 0,
        };
        // The generator looks by itself: no calls. With EVENT_IDX the event stays one behind.
        if event_idx {
            lane.memory.store(
                layout.avail + 4 + 2 * u64::from(layout.size),
                u16::MAX.to_le(),
                Relaxed,
            )?;
        } else {
            lane.memory.store(layout.avail, 1u16.to_le(), Relaxed)?;
        }
        Ok(lane)
    }

    pub(super) fn setup(&self, index: u8) -> RingSetup<'_> {
        RingSetup {
            index,
            layout: self.layout,
            base: 0,
            kick: &self.kick,
            call: Some(&self.call),
            enable: true,
        }
    }

    pub(super) fn kicks(&self) -> u64 {
        self.kicks
    }

    /// Descriptors that are free for sending.
    #[inline]
    pub(super) fn room(&self) -> usize {
        usize::from(self.layout.size - self.avail.wrapping_sub(self.used))
    }

    /// The memory of all slots.
    pub(super) fn slots(&self) -> Result<VolatileSlice<'_>> {
        self.memory
            .slice(self.slots, self.stride * u64::from(self.layout.size))
    }

    /// Where slot `slot` begins in [`Lane::slots`].
    #[inline]
    pub(super) fn place(&self, slot: u16) -> usize {
        (u64::from(slot) * self.stride) as usize
    }

    #[inline]
    fn used_idx(&self) -> Result<u16> {
        let index: u16 = self.memory.load(self.layout.used + 2, Acquire)?;
        let index = u16::from_le(index);
        if index.wrapping_sub(self.used) > self.avail.wrapping_sub(self.used) {
            return Err(outside("the used index went past the available index"));
        }
        Ok(index)
    }

    #[inline]
    fn used_entries(&self) -> Result<VolatileSlice<'_>> {
        self.memory
            .slice(self.layout.used + 4, 8 * u64::from(self.layout.size))
    }

    /// Takes back what the device has sent; returns how many.
    #[inline]
    pub(super) fn reap_sent(&mut self) -> Result<usize> {
        let index = self.used_idx()?;
        let count = index.wrapping_sub(self.used);
        if !self.in_order && count > 0 {
            let mask = self.layout.size - 1;
            for i in 0..count {
                let at = self.used.wrapping_add(i) & mask;
                let id = entry(&self.used_entries()?, at)?.0;
                if id >= u32::from(self.layout.size) {
                    return Err(outside("a used entry names no descriptor"));
                }
                self.free.push(id as u16);
            }
        }
        self.used = index;
        Ok(usize::from(count))
    }

    /// Takes at most `into.len()` filled buffers; returns how many.
    #[inline]
    pub(super) fn take_filled(&mut self, into: &mut [Filled]) -> Result<usize> {
        let waiting = usize::from(self.used_idx()?.wrapping_sub(self.used));
        let count = waiting.min(into.len());
        if count == 0 {
            return Ok(0);
        }
        let mask = self.layout.size - 1;
        let entries = self.used_entries()?;
        for (i, filled) in into[..count].iter_mut().enumerate() {
            let at = self.used.wrapping_add(i as u16) & mask;
            let (id, len) = entry(&entries, at)?;
            if id > u32::from(mask) {
                return Err(outside("a used entry names no descriptor"));
            }
            *filled = Filled {
                slot: id as u16,
                len,
            };
        }
        self.used = self.used.wrapping_add(count as u16);
        Ok(count)
    }

    /// Posts all slots to be filled with `len` bytes each.
    pub(super) fn post_all(&mut self, len: u32) -> Result<()> {
        let all: Vec<Filled> = (0..self.layout.size)
            .map(|slot| Filled { slot, len: 0 })
            .collect();
        self.post(&all, len)
    }

    /// Posts the slots of `emptied` again and publishes them.
    #[inline]
    pub(super) fn post(&mut self, emptied: &[Filled], len: u32) -> Result<()> {
        self.offer(emptied.iter().map(|f| f.slot), len, desc_flag::WRITE)?;
        self.publish()
    }

    /// The slots of the next `count` frames to be sent; there must be [`Lane::room`] for them.
    #[inline]
    pub(super) fn claim(&mut self, count: usize, into: &mut [u16; BURST]) -> usize {
        let count = count.min(BURST).min(self.room());
        for (i, slot) in into[..count].iter_mut().enumerate() {
            *slot = if self.in_order {
                self.avail.wrapping_add(i as u16) & (self.layout.size - 1)
            } else {
                self.free.pop().unwrap_or_default()
            };
        }
        count
    }

    /// Offers the claimed `slots` with `len` bytes each and publishes them.
    #[inline]
    pub(super) fn send(&mut self, slots: &[u16], len: u32) -> Result<()> {
        self.offer(slots.iter().copied(), len, 0)?;
        self.publish()
    }

    #[inline]
    fn offer(&mut self, slots: impl Iterator<Item = u16>, len: u32, flags: u16) -> Result<()> {
        let size = u64::from(self.layout.size);
        let table = self.memory.slice(self.layout.desc, 16 * size)?;
        let table: VolatileArrayRef<'_, u64> = table
            .get_array_ref(0, 2 * size as usize)
            .map_err(|_| outside("no descriptor table"))?;
        let ring = self.memory.slice(self.layout.avail + 4, 2 * size)?;
        let ring: VolatileArrayRef<'_, u16> = ring
            .get_array_ref(0, size as usize)
            .map_err(|_| outside("no available ring"))?;
        let mask = self.layout.size - 1;
        let rest = (u64::from(len) | u64::from(flags) << 32).to_le();
        for slot in slots {
            let addr = self.slots + u64::from(slot) * self.stride + self.offset;
            table.store(2 * usize::from(slot), addr.to_le());
            table.store(2 * usize::from(slot) + 1, rest);
            let at = usize::from(self.avail & mask);
            if self.entries[at] != slot || self.avail < self.layout.size {
                self.entries[at] = slot;
                ring.store(at, slot.to_le());
            }
            self.avail = self.avail.wrapping_add(1);
        }
        Ok(())
    }

    /// One store of the index, and a kick where the device asks for one.
    #[inline]
    fn publish(&mut self) -> Result<()> {
        if self.avail == self.published {
            return Ok(());
        }
        self.memory
            .store(self.layout.avail + 2, self.avail.to_le(), Release)?;
        fence(SeqCst);
        let old = self.published;
        self.published = self.avail;
        let wanted = if self.event_idx {
            let event: u16 = self.memory.load(
                self.layout.used + 4 + 8 * u64::from(self.layout.size),
                Relaxed,
            )?;
            let passed = self.avail.wrapping_sub(u16::from_le(event)).wrapping_sub(1);
            passed < self.avail.wrapping_sub(old)
        } else {
            let flags: u16 = self.memory.load(self.layout.used, Relaxed)?;
            u16::from_le(flags) & 1 == 0
        };
        if wanted {
            self.kicks += 1;
            // A saturated counter is a kick that nobody took: the device will see it.
            drop(self.kick.signal());
        }
        Ok(())
    }

    /// Kicks in any case: a ring may wait for its first kick before it starts (vhost-user: starting and
    /// stopping rings).
    pub(super) fn kick(&mut self) -> Result<()> {
        self.kicks += 1;
        self.kick.signal()
    }
}

#[inline]
fn entry(entries: &VolatileSlice<'_>, at: u16) -> Result<(u32, u32)> {
    let whole: u64 = entries
        .get_ref::<u64>(8 * usize::from(at))
        .map_err(|_| outside("no used ring"))?
        .load();
    let whole = u64::from_le(whole);
    Ok((whole as u32, (whole >> 32) as u32))
}

/// Reads a u64 at `at`.
#[inline]
pub(super) fn word(slots: &VolatileSlice<'_>, at: usize) -> Result<u64> {
    Ok(u64::from_le(
        slots
            .get_ref::<u64>(at)
            .map_err(|_| outside("a slot outside the memory"))?
            .load(),
    ))
}

/// Writes a u64 at `at`.
#[inline]
pub(super) fn put_word(slots: &VolatileSlice<'_>, at: usize, value: u64) -> Result<()> {
    slots
        .get_ref::<u64>(at)
        .map_err(|_| outside("a slot outside the memory"))?
        .store(value.to_le());
    Ok(())
}

/// Reads a u32 at `at`.
#[inline]
pub(super) fn half(slots: &VolatileSlice<'_>, at: usize) -> Result<u32> {
    Ok(u32::from_le(
        slots
            .get_ref::<u32>(at)
            .map_err(|_| outside("a slot outside the memory"))?
            .load(),
    ))
}

/// Copies slot bytes into `into`.
#[inline]
pub(super) fn copy_out(slots: &VolatileSlice<'_>, at: usize, into: &mut [u8]) -> Result<()> {
    slots
        .read_slice(into, at)
        .map_err(|_| outside("a slot outside the memory"))
}

/// Copies `bytes` into the slot.
#[inline]
pub(super) fn copy_in(slots: &VolatileSlice<'_>, at: usize, bytes: &[u8]) -> Result<()> {
    slots
        .write_slice(bytes, at)
        .map_err(|_| outside("a slot outside the memory"))
}
