//! Virtqueues, device side: split rings (VIRTIO 1.2, 2.7), a burst at a time.
//!
//! What the rooms above get: of a TX ring, bursts of chains that were walked and validated once
//! ([`TxRing::collect`]), and of an RX ring, room for whole frames ([`RxRing::reserve`]). Both are
//! [`Extent`](crate::memory::Extent)s: checked names of guest memory. No index, flag or address that a
//! guest wrote leaves this room.
//!
//! # What is promised
//!
//! - Every head that was popped is returned exactly once, in the order it was offered, malformed ones
//!   with length 0 and a [`ChainFault`].
//! - Each field that a guest writes is fetched once, into private memory, and judged there.
//! - The work for a chain is bounded by [`MAX_CHAIN`], for a burst by [`Budget`] (TX) and
//!   [`RX_DESCRIPTORS`] (RX), whatever the guest writes.
//! - The used index moves only after every byte it announces was written, once a burst.
//! - A driver whose index jumps by more than the ring holds has lost it: [`RingBroken`], for ever, until
//!   the front-end stops the ring and starts it again.
//! - Nothing here panics, waits, or allocates after the start.
//!
//! # What is not done
//!
//! With `IN_ORDER` a device may write one used element for a whole batch (VIRTIO 1.2, 2.7.9). Every
//! element is written here all the same: it is one copy of 512 bytes at most, and drivers that read
//! each length need it.
//!
//! A second layout (packed rings) fits behind the same two types: nothing outside this room knows what a
//! descriptor is.

mod ahead;
mod chain;
pub mod features;
mod layout;
mod notify;
mod rx;
mod tx;
pub mod vnet;

#[cfg(test)]
mod tests;

pub use chain::{Chain, ChainBurst, ChainFault};
pub use features::Negotiated;
pub use layout::{Layout, Part, RingError};
pub use rx::{
    Malformed, RESERVE_PIECES, RX_DESCRIPTORS, ReserveError, Reserved, Run, RxRing, Slots,
};
pub use tx::TxRing;

/// Chains in a burst, at most.
pub const BURST: usize = BURST_16 as usize;
const BURST_16: u16 = 64;

/// Descriptors in a chain, at most; the queue size bounds it too.
pub const MAX_CHAIN: u32 = 1024;

/// Bytes of a frame without its vnet header, at most: the largest IPv4 or IPv6 packet that GSO makes,
/// behind an Ethernet header, and a little for a tag.
pub const MAX_FRAME: u32 = 65_550;

/// Bytes of the vnet header, at most.
const MAX_HEADER: u32 = 12;

/// Extents that a burst has room for. A chain needs at most two for each descriptor, where buffers end
/// in the next region, and one for each further region that a frame crosses, which are 17 at most: any
/// chain fits an empty arena.
const ARENA: usize = 4096;

/// What one visit to a TX ring may cost, in three currencies. `collect` takes from each and stops
/// before the next chain when one is spent, so that a visit exceeds it by one chain at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Chains.
    pub frames: u32,
    /// Bytes of chains.
    pub bytes: u32,
    /// Descriptors, indirect ones included.
    pub descriptors: u32,
}

impl Budget {
    #[inline]
    fn spent(&self) -> bool {
        self.frames == 0 || self.bytes == 0 || self.descriptors == 0
    }

    #[inline]
    fn pay(&mut self, bytes: u32, descriptors: u32) {
        self.frames = self.frames.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
        self.descriptors = self.descriptors.saturating_sub(descriptors);
    }
}

/// The driver's available index is not one that it can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("available index {avail} with {used} returned, in a ring of {size}")]
pub struct RingBroken {
    /// What the driver wrote.
    pub avail: u16,
    /// How far we had returned.
    pub used: u16,
    /// Entries of the ring.
    pub size: u16,
}

/// How far a ring has come. In between are the heads that are in our hands.
struct Cursor {
    /// Index of the next head to pop.
    popped: u16,
    /// Our used index, as the driver knows it.
    returned: u16,
    broken: Option<RingBroken>,
}

impl Cursor {
    fn at(used: u16) -> Self {
        Self {
            popped: used,
            returned: used,
            broken: None,
        }
    }

    /// Heads popped and not yet returned.
    #[inline]
    fn in_flight(&self) -> u16 {
        self.popped.wrapping_sub(self.returned)
    }

    /// Judges the driver's index: from what was popped up to a full ring ahead of what was returned.
    #[inline]
    fn judge(&mut self, avail: u16, size: u16) -> Result<u16, RingBroken> {
        if let Some(broken) = self.broken {
            return Err(broken);
        }
        let offered = avail.wrapping_sub(self.returned);
        if offered > size || offered < self.in_flight() {
            let broken = RingBroken {
                avail,
                used: self.returned,
                size,
            };
            self.broken = Some(broken);
            return Err(broken);
        }
        Ok(avail.wrapping_sub(self.popped))
    }
}
