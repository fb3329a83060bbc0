//! A burst, looked over before its first frame is judged.
//!
//! Frames of many flows meet memory that is in no cache: a set of the flow cache, the lines of a connection. Each would be waited
//! for in its turn; asked for together, they come together. So where the frames of a port take turns, those of a
//! burst are read first, all of them: digests are made, and the memory behind them is touched.
//!
//! Nothing is decided here, and nothing that is found here decides. A digest is kept for the frame in the slot that it was
//! made of, is given out once, and only for as many bytes of it as it was made of: a snapshot that has been extended since is
//! read again.

use super::Judge;
use crate::counters::PortId;
use crate::frame::{Frame, Mac};
use crate::policy::cache::{Cache, Judged, Place, Stamp};
use crate::policy::digest::Digest;
use crate::policy::track::{ABREAST, Hint, Tracker};

/// What a burst looked for of connections: by that the next one knows whether to look ahead.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::policy) struct Searches {
    /// Frames whose connection was looked for, since nothing was kept of their flow.
    looks: u32,
    /// The most connections of a port that they were of.
    among: u32,
}

impl Searches {
    /// From so many on it is worth while.
    const LOOKS: u32 = 8;
    /// Fewer connections than these are in some cache (32 MiB), and to read all frames first costs more than it saves. Unit tests
    /// look ahead over few, too.
    const AMONG: u32 = if cfg!(test) { 1 } else { 1 << 18 };

    #[inline]
    pub(super) fn note(&mut self, tracker: &Tracker, ports: [PortId; 2]) {
        self.looks = self.looks.saturating_add(1);
        for port in ports {
            self.among = self.among.max(tracker.live(port));
        }
    }

    fn calls_for_looking_ahead(self) -> bool {
        self.looks >= Self::LOOKS && self.among >= Self::AMONG
    }
}

/// What a look ahead has found of the frames of one burst. Of one worker.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Made with the first look ahead: the one allocation of it.
    seen: Vec<Seen>,
    /// The slots whose frames were seen and not judged yet.
    fresh: u64,
}

/// One frame.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    pub(super) digest: Digest,
    /// The hash of its subject.
    pub(super) hash: u64,
    /// Where its subject seemed to be kept.
    pub(super) place: Option<Place>,
    /// Where its connection seemed to be.
    pub(super) hint: Option<Hint>,
    /// Bytes in the snapshot and of the frame.
    view: (usize, u32),
}

impl Ahead {
    /// What was seen belongs to another burst.
    #[inline]
    pub(super) fn forget(&mut self) {
        self.fresh = 0;
    }

    /// What was seen of the frame in a slot, if it is still the same.
    #[inline]
    pub(super) fn take(&mut self, slot: u8, frame: &Frame<'_>) -> Option<&Seen> {
        let bit = bit(slot.into());
        if self.fresh & bit == 0 {
            return None;
        }
        self.fresh &= !bit;
        let seen = self.seen.get(usize::from(slot))?;
        (seen.view == view(frame)).then_some(seen)
    }
}

fn view(frame: &Frame<'_>) -> (usize, u32) {
    (frame.bytes().len(), frame.total_len())
}

impl Judge<'_> {
    /// Whether it is worth while to [look ahead](Self::look_ahead) over so many frames.
    #[inline]
    pub fn looks_ahead(&self, frames: u32) -> bool {
        frames >= Searches::LOOKS && self.context.sought.calls_for_looking_ahead()
    }

    /// Reads frames of the burst, each with the number of its slot, below 64, by which [`admit`](Self::admit) then knows it.
    /// `towards` tells to which port frames for an address in a VLAN seem to go.
    #[inline(never)]
    pub fn look_ahead<'f>(
        &mut self,
        frames: impl Iterator<Item = (u8, Frame<'f>)>,
        towards: impl Fn(u16, Mac) -> Option<PortId>,
    ) {
        let Some((bound, port)) = self.bound else {
            return;
        };
        let stamp = Stamp::new(self.policy.epoch(), port.guard.generation(self.now));
        let cache = Cache::at(&mut self.context.cache);
        let Ahead { seen, fresh } = &mut *self.ahead;
        seen.resize(ABREAST, Seen::default());
        for (slot, frame) in frames {
            let Some(seen) = seen.get_mut(usize::from(slot)) else {
                continue;
            };
            let vid = bound.vid(&frame);
            seen.digest.read(&frame, vid);
            (seen.view, seen.hint) = (view(&frame), None);
            seen.place = None;
            let subject = &seen.digest.subject;
            seen.hash = cache.hash(subject, self.policy.key(subject.0[0]));
            *fresh |= bit(slot.into());
        }
        let mut flows = [None; ABREAST];
        let mut unknown = 0u64;
        for (slot, flow) in slots(*fresh).zip(&mut flows) {
            let Some(seen) = seen.get_mut(slot) else {
                continue;
            };
            if seen.digest.is_control {
                continue;
            }
            let subject = &seen.digest.subject;
            let word = self.policy.key(subject.0[0]);
            seen.place = cache.find(seen.hash, subject, word, stamp);
            match seen.place.and_then(|place| cache.get(place)?.pair) {
                Some((_, Judged::Flow(known, ..))) => *flow = Some(known),
                Some(_) => {}
                None => unknown |= bit(slot),
            }
        }
        let Some(burst) = &self.burst else { return };
        burst.fetch(flows.into_iter().flatten());
        if unknown == 0 {
            return;
        }
        let sought = slots(unknown).filter_map(|slot| {
            let subject = &seen.get(slot)?.digest.subject;
            let to = towards(subject.vid(), subject.dst_mac());
            Some((subject, to.unwrap_or(self.source)))
        });
        let hints = burst.look_ahead(self.source, sought);
        for (slot, hint) in slots(unknown).zip(hints) {
            if let Some(seen) = seen.get_mut(slot) {
                seen.hint = hint;
            }
        }
    }
}

fn bit(slot: usize) -> u64 {
    u32::try_from(slot).map_or(0, |slot| 1u64.unbounded_shl(slot))
}

/// The numbers of the bits.
fn slots(mut bits: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let slot = (bits != 0).then(|| bits.trailing_zeros() as usize)?;
        bits &= bits.wrapping_sub(1);
        Some(slot)
    })
}
