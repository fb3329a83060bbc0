//! A burst, sorted by receiver.
//!
//! The frames of one source are judged one by one and delivered receiver by receiver, so that each receiver's
//! ring is entered, published and notified once a burst. Between the two stands a list for each receiver, in
//! order of arrival, threaded through one arena: sorting costs a few stores a copy and no allocation.

use crate::counters::{MAX_PORTS, PortId};
use crate::policy::Permit;

/// Copies that fit before the lists must be delivered. A burst of unicast needs 64; a burst of
/// broadcasts to a thousand ports is delivered in several turns.
const COPIES: usize = 4096;
const NONE: u16 = u16::MAX;

#[derive(Clone, Copy, Debug)]
struct Copy {
    slot: u8,
    next: u16,
}

#[derive(Clone, Copy, Debug)]
struct List {
    first: u16,
    last: u16,
}

/// The lists. See the head of this file.
#[derive(Debug)]
pub(crate) struct Fanout {
    copies: Vec<Copy>,
    lists: Box<[List]>,
    receivers: Vec<PortId>,
}

impl Fanout {
    pub(crate) fn new() -> Self {
        Self {
            copies: Vec::with_capacity(COPIES),
            lists: vec![
                List {
                    first: NONE,
                    last: NONE
                };
                MAX_PORTS
            ]
            .into_boxed_slice(),
            receivers: Vec::with_capacity(MAX_PORTS),
        }
    }

    /// Copies for which there is room.
    #[inline]
    pub(crate) fn room(&self) -> usize {
        COPIES.saturating_sub(self.copies.len())
    }

    /// Notes that frame `slot` goes to the port of `permit`. The caller has made room.
    #[inline]
    pub(crate) fn push(&mut self, permit: &Permit, slot: u8) {
        let to = permit.to();
        let Ok(at) = u16::try_from(self.copies.len()) else {
            return;
        };
        let Some(list) = self.lists.get_mut(to.index()) else {
            return;
        };
        self.copies.push(Copy { slot, next: NONE });
        let last = std::mem::replace(&mut list.last, at);
        if last == NONE {
            list.first = at;
            self.receivers.push(to);
        } else if let Some(copy) = self.copies.get_mut(usize::from(last)) {
            copy.next = at;
        }
    }

    /// Takes one receiver with its list; the frames are written to `into` in order of arrival.
    pub(crate) fn take(&mut self, into: &mut Vec<u8>) -> Option<PortId> {
        into.clear();
        let Some(to) = self.receivers.pop() else {
            self.copies.clear();
            return None;
        };
        let list = self.lists.get_mut(to.index())?;
        let mut at = list.first;
        *list = List {
            first: NONE,
            last: NONE,
        };
        while let Some(copy) = self.copies.get(usize::from(at)) {
            into.push(copy.slot);
            at = copy.next;
        }
        Some(to)
    }

    /// Forgets everything: after a panic in the middle of a burst.
    pub(crate) fn clear(&mut self) {
        for to in self.receivers.drain(..) {
            if let Some(list) = self.lists.get_mut(to.index()) {
                *list = List {
                    first: NONE,
                    last: NONE,
                };
            }
        }
        self.copies.clear();
    }
}
