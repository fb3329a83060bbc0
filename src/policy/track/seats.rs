//! When the place of an ended connection may be given to another.
//!
//! A worker changes a live entry with plain stores and without a lock. While it is at that, the connection may end, and
//! that does no harm: it writes into an entry that nobody reads. But if the place were given to another connection
//! meanwhile, it would write into that one. So an ended place waits until every worker that was in the middle of a burst
//! when it ended has finished that burst (quiescent-state reclamation: Hart et al., 2007).
//!
//! Each worker has a *seat*. At the beginning of a burst it writes down the present *period* there, at the end a
//! zero. The period moves on only when all who are in a burst have written it down. What ended in period `p` was known as ended to
//! every burst that began in `p + 1` or later; so when the period is `p + 2`, none is left that could have taken it for live.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

/// The most workers that use one tracker at a time.
pub(super) const SEATS: usize = 64;

/// On a line of its own, since its worker writes it twice a burst.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Place {
    is_taken: AtomicBool,
    /// The period in which the burst began; 0 between bursts.
    period: AtomicU64,
}

#[derive(Debug)]
pub(super) struct Seats {
    period: AtomicU64,
    taken: AtomicU64,
    places: Box<[Place]>,
}

impl Seats {
    pub(super) fn new() -> Self {
        Self {
            period: AtomicU64::new(1),
            taken: AtomicU64::new(0),
            places: (0..SEATS).map(|_| Place::default()).collect(),
        }
    }

    pub(super) fn take(&self) -> Option<usize> {
        let free = |place: &Place| {
            place
                .is_taken
                .compare_exchange(false, true, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        };
        // Before the seat can be used: a place may be reused at once only as long as one worker is alone.
        self.taken.fetch_add(1, Ordering::SeqCst);
        let seat = self.places.iter().position(free);
        if seat.is_none() {
            self.taken.fetch_sub(1, Ordering::SeqCst);
        }
        seat
    }

    pub(super) fn leave(&self, seat: usize) {
        if let Some(place) = self.places.get(seat) {
            place.period.store(0, Ordering::Release);
            place.is_taken.store(false, Ordering::Release);
            self.taken.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// A burst begins: what is read from here on is not given to others before [`Seats::end`].
    pub(super) fn begin(&self, seat: usize) {
        if let Some(place) = self.places.get(seat) {
            let period = self.period.load(Ordering::Relaxed);
            place.period.store(period, Ordering::Relaxed);
            // The note is seen by whoever moves the period on, or whatever that one saw ended is seen here as ended.
            fence(Ordering::SeqCst);
        }
    }

    pub(super) fn end(&self, seat: usize) {
        if let Some(place) = self.places.get(seat) {
            place.period.store(0, Ordering::Release);
        }
    }

    /// The period in which something ended, whose header was written before.
    pub(super) fn stamp(&self) -> u32 {
        fence(Ordering::SeqCst);
        super::entry::low(self.period.load(Ordering::SeqCst))
    }

    /// Whether what ended in period `stamp` may be given to others. Tries to move the period on.
    pub(super) fn is_past(&self, stamp: u32) -> bool {
        if self.taken.load(Ordering::SeqCst) <= 1 {
            return true;
        }
        for _ in 0..2 {
            let period = self.period.load(Ordering::SeqCst);
            if super::entry::low(period).wrapping_sub(stamp) >= 2 {
                return true;
            }
            fence(Ordering::SeqCst);
            let has_noted = |place: &Place| {
                let noted = place.period.load(Ordering::Acquire);
                noted == 0 || noted == period
            };
            if !self.places.iter().all(has_noted) {
                return false;
            }
            let _ = self.period.compare_exchange(
                period,
                period.wrapping_add(1),
                Ordering::SeqCst,
                Ordering::Relaxed,
            );
        }
        super::entry::low(self.period.load(Ordering::SeqCst)).wrapping_sub(stamp) >= 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_waits_for_those_who_were_in_a_burst_when_it_ended() {
        let seats = Seats::new();
        let (one, two) = (seats.take().unwrap(), seats.take().unwrap());
        assert!(seats.is_past(seats.stamp()), "nobody is in a burst");

        seats.begin(one);
        let stamp = seats.stamp();
        assert!(!seats.is_past(stamp));
        // Another's bursts come and go.
        for _ in 0..5 {
            seats.begin(two);
            assert!(!seats.is_past(stamp));
            seats.end(two);
        }
        seats.end(one);
        assert!(seats.is_past(stamp));

        // A burst that began after it had ended, and after the period had moved on, does not keep it.
        let stamp = seats.stamp();
        assert!(seats.is_past(stamp));
        seats.begin(one);
        assert!(seats.is_past(stamp));
        seats.end(one);
    }

    #[test]
    fn a_lone_worker_waits_for_nobody() {
        let seats = Seats::new();
        let one = seats.take().unwrap();
        seats.begin(one);
        assert!(seats.is_past(seats.stamp()));
        let two = seats.take().unwrap();
        assert!(!seats.is_past(seats.stamp()));
        seats.leave(two);
        assert!(seats.is_past(seats.stamp()));
    }

    #[test]
    fn seats_are_bounded_and_come_back() {
        let seats = Seats::new();
        let all: Vec<usize> = (0..SEATS).map(|_| seats.take().unwrap()).collect();
        assert_eq!(seats.take(), None);
        seats.leave(all[7]);
        assert_eq!(seats.take(), Some(7));
    }
}
