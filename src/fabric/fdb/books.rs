//! Which slots each port has learned: for counting, for eviction and for flushing, in constant time an entry.
//!
//! Every learned slot is a link in the list of its port, the newest first. All of it is allocated at the start.

use crate::counters::{MAX_PORTS, PortId};

/// Links hold slot numbers plus one, so that zero is "none" and the table begins as zeros.
#[derive(Clone, Copy, Debug, Default)]
struct Link {
    newer: u32,
    older: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Ends {
    newest: u32,
    oldest: u32,
}

#[derive(Debug)]
pub(super) struct Books {
    links: Box<[Link]>,
    ends: Box<[Ends]>,
    counts: Box<[u32]>,
    /// The most that each port may learn.
    caps: Box<[u32]>,
    total: u32,
    /// The VLANs in which anything was ever learned, as bits.
    vids: Box<[u64; 64]>,
    /// Where the next search for expired entries begins: a bucket.
    pub(super) hand: u32,
}

impl Books {
    pub(super) fn new(slots: usize, cap: u32) -> Self {
        Self {
            links: vec![Link::default(); slots].into(),
            ends: vec![Ends::default(); MAX_PORTS].into(),
            counts: vec![0; MAX_PORTS].into(),
            caps: vec![cap; MAX_PORTS].into(),
            total: 0,
            vids: Box::new([0; 64]),
            hand: 0,
        }
    }

    /// How many entries the port has learned.
    pub(super) fn count(&self, port: PortId) -> u32 {
        self.counts.get(port.index()).copied().unwrap_or(0)
    }

    /// Whether the port has learned as many as it may.
    pub(super) fn is_full(&self, port: PortId) -> bool {
        self.count(port) >= self.caps.get(port.index()).copied().unwrap_or(0)
    }

    /// Sets how many the port may learn.
    pub(super) fn cap(&mut self, port: PortId, cap: u32) {
        if let Some(place) = self.caps.get_mut(port.index()) {
            *place = cap;
        }
    }

    /// How many entries all ports have learned.
    pub(super) fn total(&self) -> u32 {
        self.total
    }

    /// Notes that something is learned in a VLAN.
    pub(super) fn note_vid(&mut self, vid: u16) {
        if let Some(word) = self.vids.get_mut(usize::from(vid / 64)) {
            *word |= 1 << (vid % 64);
        }
    }

    /// The VLANs in which there may be learned entries, as they are now.
    pub(super) fn vids(&self) -> impl Iterator<Item = u16> + use<> {
        let all = (0u16..64).zip(*self.vids);
        all.flat_map(|(at, word)| {
            let bits = (0..64).filter(move |bit| word >> bit & 1 != 0);
            bits.map(move |bit| at * 64 + bit)
        })
    }

    /// The port with the most entries, and how many.
    pub(super) fn greatest(&self) -> Option<(PortId, u32)> {
        let (index, count) = self
            .counts
            .iter()
            .enumerate()
            .max_by_key(|(_, count)| **count)?;
        Some((PortId::new(u16::try_from(index).ok()?)?, *count))
    }

    /// The slot that the port learned first.
    pub(super) fn oldest(&self, port: PortId) -> Option<u32> {
        self.ends.get(port.index())?.oldest.checked_sub(1)
    }

    /// Enters a slot as the port's newest.
    pub(super) fn enter(&mut self, port: PortId, slot: u32) {
        let mark = slot.saturating_add(1);
        let Some(ends) = self.ends.get_mut(port.index()) else {
            return;
        };
        let before = std::mem::replace(&mut ends.newest, mark);
        if before == 0 {
            ends.oldest = mark;
        }
        if let Some(link) = self.link(before) {
            link.newer = mark;
        }
        if let Some(link) = self.link(mark) {
            *link = Link {
                newer: 0,
                older: before,
            };
        }
        if let Some(count) = self.counts.get_mut(port.index()) {
            *count = count.saturating_add(1);
        }
        self.total = self.total.saturating_add(1);
    }

    /// Strikes a slot from the port's list; it must be in it.
    pub(super) fn strike(&mut self, port: PortId, slot: u32) {
        let mark = slot.saturating_add(1);
        let Some(link) = self.link(mark).map(std::mem::take) else {
            return;
        };
        if let Some(newer) = self.link(link.newer) {
            newer.older = link.older;
        }
        if let Some(older) = self.link(link.older) {
            older.newer = link.newer;
        }
        if let Some(ends) = self.ends.get_mut(port.index()) {
            if ends.newest == mark {
                ends.newest = link.older;
            }
            if ends.oldest == mark {
                ends.oldest = link.newer;
            }
        }
        if let Some(count) = self.counts.get_mut(port.index()) {
            *count = count.saturating_sub(1);
        }
        self.total = self.total.saturating_sub(1);
    }

    fn link(&mut self, mark: u32) -> Option<&mut Link> {
        self.links.get_mut(mark.checked_sub(1)? as usize)
    }
}
