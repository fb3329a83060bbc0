//! Notifications, both ways, and when not to send them.
//!
//! Two schemes: flags (`NO_INTERRUPT`, `NO_NOTIFY`), and indices with `EVENT_IDX` (VIRTIO 1.2, 2.7.7 and
//! 2.7.10). Both sides store first and look second, with a full fence between, so that of two sides
//! that act at once at least one sees the other. What the driver writes here can only make it miss
//! its own notifications or get too many: one a burst at most.

use std::sync::atomic::{Ordering, fence};

use super::layout::Rings;

/// The driver wants no notification of used buffers.
const AVAIL_F_NO_INTERRUPT: u16 = 1;
/// We want no notification of available buffers.
const USED_F_NO_NOTIFY: u16 = 1;

/// Whether moving an index from `old` to `new` passes `event` (VIRTIO 1.2, 2.7.10: `vring_need_event`).
#[inline]
pub(super) fn need_event(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

/// The notification state of one ring.
pub(super) struct Notifier {
    event_idx: bool,
    /// The used index at the last look; none before the first, which always notifies.
    looked: Option<u16>,
    /// Whether the driver was told to kick.
    kicks: bool,
}

impl Notifier {
    /// Tells the driver at once whether to kick, since an earlier user of the ring may have left
    /// either answer there.
    pub(super) fn start(rings: &Rings, event_idx: bool, kicks: bool, next: u16) -> Self {
        let mut notifier = Self {
            event_idx,
            looked: None,
            kicks,
        };
        notifier.tell(rings, kicks, next);
        notifier
    }

    /// Whether the driver wants to know that the used index is now `used`. To be asked after the
    /// index was stored, once a burst.
    #[inline]
    pub(super) fn wanted(&mut self, rings: &Rings, used: u16) -> bool {
        if self.looked == Some(used) {
            return false; // nothing was returned since
        }
        fence(Ordering::SeqCst); // our index before the driver's wish
        let looked = self.looked.replace(used);
        if self.event_idx {
            looked.is_none_or(|old| need_event(rings.used_event(), used, old))
        } else {
            rings.avail_flags() & AVAIL_F_NO_INTERRUPT == 0
        }
    }

    /// Asks for kicks from index `next` on; true when there is something already.
    pub(super) fn enable_kicks(&mut self, rings: &Rings, next: u16) -> bool {
        self.tell(rings, true, next);
        fence(Ordering::SeqCst); // our wish before the driver's index
        rings.avail_idx() != next
    }

    /// Asks for no kicks. With `EVENT_IDX` there is nothing to write: once the driver's index has
    /// passed `avail_event` it stays silent for the next 65,535 buffers.
    #[inline]
    pub(super) fn disable_kicks(&mut self, rings: &Rings) {
        if self.kicks {
            self.kicks = false;
            if !self.event_idx {
                rings.store_used_flags(USED_F_NO_NOTIFY);
            }
        }
    }

    fn tell(&mut self, rings: &Rings, kicks: bool, next: u16) {
        self.kicks = kicks;
        if self.event_idx {
            // Flags stay 0 with EVENT_IDX (VIRTIO 1.2, 2.7.10.1). An index just passed is never reached.
            rings.store_used_flags(0);
            rings.store_avail_event(if kicks { next } else { next.wrapping_sub(1) });
        } else {
            rings.store_used_flags(if kicks { 0 } else { USED_F_NO_NOTIFY });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::need_event;
    use proptest::prelude::*;

    proptest! {
        /// Against the slow truth: stepping from `old` to `new`, one of the steps leaves `event` behind.
        #[test]
        fn q_19_need_event_is_passing_the_event(event: u16, old: u16, steps in 0u16..400) {
            let new = old.wrapping_add(steps);
            let passed = (0..steps).any(|step| old.wrapping_add(step) == event);
            prop_assert_eq!(need_event(event, new, old), passed);
        }
    }
}
