//! Every field of a split virtqueue, readable and writable (VIRTIO 1.2, 2.7).
//!
//! Nothing here checks what is written: the good driver is [`super::Queue`], and a hostile one writes
//! what it likes. Only the addresses must lie in the guest's memory.

use std::sync::{
    Arc,
    atomic::Ordering::{Acquire, Relaxed, Release},
};

use super::{Memory, Result};

/// Size and guest-physical addresses of a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingLayout {
    /// Number of descriptors.
    pub size: u16,
    /// Descriptor table: 16 bytes a descriptor, aligned to 16.
    pub desc: u64,
    /// Available ring: flags, index, a u16 an entry, `used_event`; aligned to 2.
    pub avail: u64,
    /// Used ring: flags, index, 8 bytes an entry, `avail_event`; aligned to 4.
    pub used: u64,
}

impl RingLayout {
    /// The three parts one after the other from `base`, each on a cache line of its own.
    #[must_use]
    pub fn at(base: u64, size: u16) -> Self {
        let n = u64::from(size);
        let desc = base.next_multiple_of(64);
        let avail = (desc + 16 * n).next_multiple_of(64);
        let used = (avail + 6 + 2 * n).next_multiple_of(64);
        Self {
            size,
            desc,
            avail,
            used,
        }
    }

    /// The layout of a legacy device: the used ring on the next page (VIRTIO 1.2, 2.7.2).
    #[must_use]
    pub fn legacy_at(base: u64, size: u16) -> Self {
        let n = u64::from(size);
        let desc = base.next_multiple_of(4096);
        let avail = desc + 16 * n;
        let used = (avail + 6 + 2 * n).next_multiple_of(4096);
        Self {
            size,
            desc,
            avail,
            used,
        }
    }

    /// The first address after the used ring.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.used + 6 + 8 * u64::from(self.size)
    }
}

/// One descriptor (VIRTIO 1.2, 2.7.5).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// Guest-physical address.
    pub addr: u64,
    /// Length in bytes.
    pub len: u32,
    /// See [`super::desc_flag`].
    pub flags: u16,
    /// The next descriptor of the chain, with NEXT set.
    pub next: u16,
}

impl Descriptor {
    /// As it lies in memory.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        let whole = u128::from(self.addr)
            | u128::from(self.len) << 64
            | u128::from(self.flags) << 96
            | u128::from(self.next) << 112;
        whole.to_le_bytes()
    }

    /// From memory.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        let whole = u128::from_le_bytes(bytes);
        Self {
            addr: whole as u64,
            len: (whole >> 64) as u32,
            flags: (whole >> 96) as u16,
            next: (whole >> 112) as u16,
        }
    }
}

/// A ring in guest memory, field by field.
#[derive(Debug, Clone)]
pub struct RawRing {
    memory: Arc<Memory>,
    layout: RingLayout,
}

/// All accessors fail only with [`super::Error::NoRegion`]: when the ring does not lie in the memory, or a
/// part of it is not aligned to its integers.
impl RawRing {
    /// The ring of `layout` in `memory`; nothing is written.
    #[must_use]
    pub fn new(memory: Arc<Memory>, layout: RingLayout) -> Self {
        Self { memory, layout }
    }

    /// Where it lies.
    #[must_use]
    pub fn layout(&self) -> RingLayout {
        self.layout
    }

    /// The memory in which it lies.
    #[must_use]
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Sets all of its bytes to zero, as a driver does before it tells the device.
    ///
    /// # Errors
    ///
    /// See the type.
    pub fn clear(&self) -> Result<()> {
        let n = usize::from(self.layout.size);
        self.memory.write(self.layout.desc, &vec![0; 16 * n])?;
        self.memory.write(self.layout.avail, &vec![0; 6 + 2 * n])?;
        self.memory.write(self.layout.used, &vec![0; 6 + 8 * n])
    }

    fn slot(&self, index: u16) -> u64 {
        u64::from(index % self.layout.size)
    }

    /// Descriptor `i`, also beyond the size of the ring.
    ///
    /// # Errors
    ///
    /// See the type.
    pub fn desc(&self, i: u16) -> Result<Descriptor> {
        read_desc(&self.memory, self.layout.desc, i)
    }

    /// Writes descriptor `i`, also beyond the size of the ring.
    ///
    /// # Errors
    ///
    /// See the type.
    pub fn set_desc(&self, i: u16, desc: Descriptor) -> Result<()> {
        write_desc(&self.memory, self.layout.desc, i, desc)
    }

    fn get(&self, at: u64) -> Result<u16> {
        Ok(u16::from_le(self.memory.load(at, Acquire)?))
    }

    fn put(&self, at: u64, value: u16) -> Result<()> {
        self.memory.store(at, value.to_le(), Release)
    }

    /// Flags of the available ring: bit 0 asks for no calls.
    ///
    /// # Errors
    ///
    /// See the type.
    pub fn avail_flags(&self) -> Result<u16> {
        self.get(self.layout.avail)
    }

    /// Writes the flags of the available ring.
    ///
    /// # Errors
    ///
    /// See the type.
    pub fn set_avail_flags(&self, flags: u16) -> Result<()> {
        self.put(self.layout.avail, flags)
    }

    /// Index of the available ring.
    ///
    /// # Errors
    ///
    /// See the type.
    pub fn avail_idx(&self) -> Result<u16> {
        self.get(self.layout.avail + 2)
    }

    /// Writes the index of the available ring, with release order.
    ///
    /// # Errors
    ///
    /// See the type.
    pub fn set_avail_idx(&self, index: u16) -> Result<()> {
        self.put(self.layout.avail + 2, index)
    }

    /// The entry of the available ring for `index`, which is taken modulo the size.
    ///
    /// # Errors
    ///
    /// See the type.
    pub fn avail_entry(&self, index: u16) -> Result<u16> {
        self.get(self.layout.avail + 4 + 2 * self.slot(index))
    }

    /// Writes the entry of the available ring for `index`, which is taken modulo the size.
    ///
    /// # Errors
    ///
    /// See the type.
    pub fn set_avail_entry(&self, index: u16, head: u16) -> Result<()> {
        let at = self.layout.avail + 4 + 2 * self.slot(index);
        self.memory.store(at, head.to_le(), Relaxed)
    }

    /// `used_event`: after which used entry the driver wants a call (EVENT_IDX).
    ///
    /// # Errors
    ///
    /// See the type.
    pub fn used_event(&self) -> Result<u16> {
        self.get(self.layout.avail + 4 + 2 * u64::from(self.layout.size))
    }

    /// Writes `used_event`.
    ///
    /// # Errors
    ///
    /// See the type.
    pub fn set_used_event(&self, index: u16) -> Result<()> {
        self.put(
            self.layout.avail + 4 + 2 * u64::from(self.layout.size),
            index,
        )
    }

    /// Flags of the used ring: bit 0 asks for no kicks.
    ///
    /// # Errors
    ///
    /// See the type.
    pub fn used_flags(&self) -> Result<u16> {
        self.get(self.layout.used)
    }

    /// Writes the flags of the used ring, which belong to the device.
    ///
    /// # Errors
    ///
    /// See the type.
    pub fn set_used_flags(&self, flags: u16) -> Result<()> {
        self.put(self.layout.used, flags)
    }

    /// Index of the used ring.
    ///
    /// # Errors
    ///
    /// See the type.
    pub fn used_idx(&self) -> Result<u16> {
        self.get(self.layout.used + 2)
    }

    /// Writes the index of the used ring, which belongs to the device.
    ///
    /// # Errors
    ///
    /// See the type.
    pub fn set_used_idx(&self, index: u16) -> Result<()> {
        self.put(self.layout.used + 2, index)
    }

    /// The used entry for `index`, which is taken modulo the size: head and length.
    ///
    /// # Errors
    ///
    /// See the type.
    pub fn used_entry(&self, index: u16) -> Result<(u32, u32)> {
        let at = self.layout.used + 4 + 8 * self.slot(index);
        let id: u32 = self.memory.load(at, Relaxed)?;
        let len: u32 = self.memory.load(at + 4, Relaxed)?;
        Ok((u32::from_le(id), u32::from_le(len)))
    }

    /// `avail_event`: after which available entry the device wants a kick (EVENT_IDX).
    ///
    /// # Errors
    ///
    /// See the type.
    pub fn avail_event(&self) -> Result<u16> {
        self.get(self.layout.used + 4 + 8 * u64::from(self.layout.size))
    }
}

/// Reads descriptor `i` of the table at `table`: a ring's own or an indirect one.
pub(super) fn read_desc(memory: &Memory, table: u64, i: u16) -> Result<Descriptor> {
    let mut bytes = [0; 16];
    memory.read(table.wrapping_add(16 * u64::from(i)), &mut bytes)?;
    Ok(Descriptor::from_bytes(bytes))
}

/// Writes descriptor `i` of the table at `table`.
pub(super) fn write_desc(memory: &Memory, table: u64, i: u16, desc: Descriptor) -> Result<()> {
    memory.write(table.wrapping_add(16 * u64::from(i)), &desc.to_bytes())
}
