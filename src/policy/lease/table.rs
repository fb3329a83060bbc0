//! The leases of one port: places that workers read without a lock.
//!
//! Each place is a sequence lock of its own. Its `state` holds a count in the upper 16 bits and the moment at which the
//! lease ends below; the other words are changed only while that moment is 0, "free", and the count goes up with every
//! change of them. So a reader who finds the same state before and after has read the words of one lease. A reader in
//! the midst of a change finds no lease, which is the answer of the moment before or after.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Applied, Binding, Change, Lease, MAX_LEASES};
use crate::clock::Tick;
use crate::frame::Mac;

const PLACES: usize = MAX_LEASES as usize;

/// The moment of a lease that never ends; a lease that does ends before.
const NEVER: u64 = END;
/// The bits of `state` that are the moment.
const END: u64 = (1 << 48) - 1;

/// How many leases a second may come anew, and how many at once: each makes workers judge the port's flows again.
const NEW_PER_SECOND: u64 = 8;
const NEW_AT_ONCE: u64 = 32;

#[derive(Debug, Default)]
struct Place {
    state: AtomicU64,
    /// Family, segment and client: see [`Key`].
    who: AtomicU64,
    high: AtomicU64,
    low: AtomicU64,
}

/// What a lease is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    who: u64,
    high: u64,
    low: u64,
}

impl Key {
    fn new(address: IpAddr, binding: Binding) -> Self {
        let (family, bits) = match address {
            IpAddr::V4(address) => (0, address.to_bits().into()),
            IpAddr::V6(address) => (1, address.to_bits()),
        };
        let [high, low] = halves(bits);
        Self {
            who: family << 60 | u64::from(binding.vid & 0xfff) << 48 | binding.client.bits(),
            high,
            low,
        }
    }

    fn binding(self) -> Binding {
        Binding {
            client: Mac::from_bits(self.who),
            vid: ((self.who >> 48) & 0xfff) as u16,
        }
    }

    fn is_v4(self) -> bool {
        self.who >> 60 == 0
    }

    fn address(self) -> IpAddr {
        let bits = u128::from(self.high) << 64 | u128::from(self.low);
        if self.is_v4() {
            IpAddr::V4(((self.low & 0xffff_ffff) as u32).into())
        } else {
            IpAddr::V6(bits.into())
        }
    }

    /// The same but for the client.
    fn anyones(self) -> Self {
        Self {
            who: self.who >> 48,
            ..self
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the lower half is what is asked for"
)]
fn halves(bits: u128) -> [u64; 2] {
    [(bits >> 64) as u64, bits as u64]
}

impl Place {
    /// The moment at which the lease ends; 0 when there is none.
    fn end(&self) -> u64 {
        self.state.load(Ordering::Acquire) & END
    }

    fn key(&self) -> Key {
        // Acquire, so that a state that is read next is not older than these.
        Key {
            who: self.who.load(Ordering::Acquire),
            high: self.high.load(Ordering::Acquire),
            low: self.low.load(Ordering::Acquire),
        }
    }

    fn is(&self, key: Key) -> bool {
        let before = self.state.load(Ordering::Acquire);
        before & END != 0 && self.key() == key && self.was_filled_since(before)
    }

    /// Whether the lease that was there in the state `before` was there all the time since. It may have got another end.
    fn was_filled_since(&self, before: u64) -> bool {
        let after = self.state.load(Ordering::Acquire);
        after & END != 0 && after >> 48 == before >> 48
    }

    /// Only under the lock.
    fn free(&self) {
        let state = self.state.load(Ordering::Relaxed);
        self.state.store(state & !END, Ordering::Release);
    }

    /// Only under the lock.
    fn renew(&self, end: u64) {
        let state = self.state.load(Ordering::Relaxed);
        self.state.store(state & !END | end, Ordering::Release);
    }

    /// Only under the lock.
    fn fill(&self, key: Key, end: u64) {
        let count = self.state.load(Ordering::Relaxed) >> 48;
        let count = count.wrapping_add(1) << 48;
        self.state.store(count, Ordering::Relaxed);
        // Release, so that who reads one of these reads the state of before them, or a later one.
        self.who.store(key.who, Ordering::Release);
        self.high.store(key.high, Ordering::Release);
        self.low.store(key.low, Ordering::Release);
        self.state.store(count | end, Ordering::Release);
    }
}

/// What only writers need.
#[derive(Debug, Default)]
struct Books {
    /// The moment, in milliseconds, up to which new leases have used up their rate.
    paced_to: u64,
}

/// The leases of one port.
#[derive(Debug)]
pub(in crate::policy) struct Leases {
    places: Box<[Place; PLACES]>,
    /// Places from here on were never filled.
    used: AtomicUsize,
    /// No lease ends before this moment.
    next_end: AtomicU64,
    /// How often something in it was changed.
    edits: AtomicU64,
    writer: Mutex<Books>,
}

impl Default for Leases {
    fn default() -> Self {
        Self {
            places: Box::new(std::array::from_fn(|_| Place::default())),
            used: AtomicUsize::new(0),
            next_end: AtomicU64::new(NEVER),
            edits: AtomicU64::new(0),
            writer: Mutex::default(),
        }
    }
}

impl Leases {
    /// Whether some lease may have ended by `now`.
    #[inline]
    pub(in crate::policy) fn are_due(&self, now: Tick) -> bool {
        self.next_end.load(Ordering::Acquire) <= now.as_millis()
    }

    /// Whether `address` is leased to that client in that segment.
    pub(in crate::policy) fn holds(&self, address: IpAddr, binding: Binding) -> bool {
        let key = Key::new(address, binding);
        self.filled().iter().any(|place| place.is(key))
    }

    /// Applies a change; see [`GuardState::apply`](crate::policy::guard::GuardState::apply).
    pub(in crate::policy) fn apply(
        &self,
        change: Change,
        binding: Binding,
        max: u16,
        now: Tick,
    ) -> Applied {
        let mut books = self.lock();
        let applied = match change {
            Change::Granted { address, seconds } => {
                let (key, end) = (Key::new(address, binding), end_of(seconds, now));
                self.grant(key, end, max, || books.pace(now))
            }
            Change::Ended { address } => {
                let key = Key::new(address, binding);
                changed_if(self.free_where(|place| place == key))
            }
            Change::EndedAllV4 => {
                changed_if(self.free_where(|place| place.is_v4() && place.binding() == binding))
            }
            Change::EndedAllV6 => {
                changed_if(self.free_where(|place| !place.is_v4() && place.binding() == binding))
            }
        };
        self.note_next_end();
        if matches!(applied, Applied::Renewed | Applied::Changed) {
            self.note_edit();
        }
        applied
    }

    /// Enters a lease that the port had before, however many come at once.
    pub(in crate::policy) fn restore(&self, lease: &Lease, max: u16, now: Tick) -> Applied {
        let _books = self.lock();
        let (key, end) = (
            Key::new(lease.address, lease.binding),
            end_of(lease.seconds, now),
        );
        let applied = self.grant(key, end, max, || true);
        self.note_next_end();
        self.note_edit();
        applied
    }

    /// A number that changes whenever a lease comes, goes, or gets another end.
    pub(in crate::policy) fn edits(&self) -> u64 {
        self.edits.load(Ordering::Acquire)
    }

    /// Ends the leases of an address in a segment, whoever's they are.
    pub(in crate::policy) fn revoke(&self, address: IpAddr, vid: u16) -> bool {
        let client = Mac::default();
        let key = Key::new(address, Binding { client, vid }).anyones();
        // Two ports that are granted one address at the same moment each enter their own lease, then look for the
        // other's: with this between, at least one of them finds it.
        fence(Ordering::SeqCst);
        if !self
            .filled()
            .iter()
            .any(|place| place.key().anyones() == key)
        {
            return false;
        }
        let _books = self.lock();
        let revoked = self.free_where(|place| place.anyones() == key);
        self.note_next_end();
        self.note_edit();
        revoked
    }

    /// Ends what ends by `now`.
    pub(in crate::policy) fn expire(&self, now: Tick) -> bool {
        let _books = self.lock();
        let mut any = false;
        for place in self.filled() {
            if (1..=now.as_millis()).contains(&place.end()) {
                place.free();
                any = true;
            }
        }
        self.note_next_end();
        if any {
            self.note_edit();
        }
        any
    }

    /// Ends all.
    pub(in crate::policy) fn clear(&self) -> bool {
        let _books = self.lock();
        let any = self.free_where(|_| true);
        self.note_next_end();
        self.note_edit();
        any
    }

    /// All of them.
    pub(in crate::policy) fn list(&self, now: Tick) -> Vec<Lease> {
        let _books = self.lock();
        let filled = self.filled().iter().filter(|place| place.end() != 0);
        filled
            .map(|place| Lease {
                address: place.key().address(),
                binding: place.key().binding(),
                seconds: match place.end() {
                    NEVER => u32::MAX,
                    end => {
                        let left = Tick::from_millis(end).millis_since(now) / 1000;
                        u32::try_from(left).unwrap_or(u32::MAX - 1)
                    }
                },
            })
            .collect()
    }

    /// Only under the lock. `may` says whether there may be one more, if it would be one.
    fn grant(&self, key: Key, end: u64, max: u16, may: impl FnOnce() -> bool) -> Applied {
        let places = self.filled();
        if let Some(place) = places.iter().find(|place| place.is(key)) {
            // Another end changes no answer now.
            place.renew(end);
            return Applied::Renewed;
        }
        let max = usize::from(max.min(MAX_LEASES));
        if max == 0 || !may() {
            return Applied::Refused;
        }
        let held = || places.iter().filter(|place| place.end() != 0);
        // A policy with a lower limit may have come since.
        while held().count() >= max {
            match held().min_by_key(|place| place.end()) {
                Some(first) => first.free(),
                None => break,
            }
        }
        let used = places.len();
        if let Some(place) = places.iter().find(|place| place.end() == 0) {
            place.fill(key, end);
        } else if let Some(place) = self.places.get(used) {
            place.fill(key, end);
            // After the place was filled; readers that do not see it yet find no lease.
            self.used.store(used.wrapping_add(1), Ordering::Release);
        } else {
            return Applied::Refused;
        }
        Applied::Changed
    }

    fn free_where(&self, matches: impl Fn(Key) -> bool) -> bool {
        let mut any = false;
        for place in self.filled() {
            if place.end() != 0 && matches(place.key()) {
                place.free();
                any = true;
            }
        }
        any
    }

    /// The places that were ever filled.
    fn filled(&self) -> &[Place] {
        let used = self.used.load(Ordering::Acquire);
        self.places.get(..used).unwrap_or(&*self.places)
    }

    fn note_next_end(&self) {
        let ends = self.filled().iter().map(Place::end).filter(|end| *end != 0);
        let next = ends.min().unwrap_or(NEVER);
        self.next_end.store(next, Ordering::Release);
    }

    fn note_edit(&self) {
        self.edits.fetch_add(1, Ordering::AcqRel);
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        // A writer that panicked leaves every place either as it was or free.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Books {
    fn pace(&mut self, now: Tick) -> bool {
        const STEP: u64 = 1000 / NEW_PER_SECOND;
        let now = now.as_millis();
        let next = self.paced_to.max(now).saturating_add(STEP);
        if next > now.saturating_add(STEP * NEW_AT_ONCE) {
            return false;
        }
        self.paced_to = next;
        true
    }
}

/// The moment at which a lease of so many seconds ends.
fn end_of(seconds: u32, now: Tick) -> u64 {
    match seconds {
        u32::MAX => NEVER,
        seconds => {
            let millis = u64::from(seconds).wrapping_mul(1000);
            now.after_millis(millis).as_millis().clamp(1, NEVER - 1)
        }
    }
}

fn changed_if(changed: bool) -> Applied {
    if changed {
        Applied::Changed
    } else {
        Applied::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_changed_since_it_was_looked_at_is_found_out() {
        let client = Mac::new([2, 0, 0, 0, 0, 1]);
        let key = |low: u8| {
            let address = IpAddr::from([10, 0, 0, low]);
            Key::new(address, Binding { client, vid: 1 })
        };
        let place = Place::default();
        assert!(!place.is(key(1)));
        place.fill(key(1), 1000);
        let seen = place.state.load(Ordering::Acquire);
        assert!(place.is(key(1)) && !place.is(key(2)));
        place.renew(2000);
        assert!(place.was_filled_since(seen) && place.is(key(1)));
        place.free();
        assert!(!place.was_filled_since(seen) && !place.is(key(1)));
        // Even if it is filled with the same again, and with the same end.
        place.fill(key(1), 1000);
        assert!(!place.was_filled_since(seen) && place.is(key(1)));
        let seen = place.state.load(Ordering::Acquire);
        place.free();
        place.fill(key(2), 1000);
        assert!(!place.was_filled_since(seen));
    }

    #[test]
    fn a_key_tells_families_segments_and_clients_apart() {
        let [a, b] = [1, 2].map(|last| Mac::new([0xfe, 0xff, 0xff, 0xff, 0xff, last]));
        let binding = |client, vid| Binding { client, vid };
        let v4 = IpAddr::from([10, 0, 0, 1]);
        let v6: IpAddr = "::10.0.0.1".parse().expect("an address");
        let keys = [
            Key::new(v4, binding(a, 1)),
            Key::new(v4, binding(b, 1)),
            Key::new(v4, binding(a, 4094)),
            Key::new(v6, binding(a, 1)),
        ];
        for (at, key) in keys.iter().enumerate() {
            assert_eq!(keys.iter().filter(|other| *other == key).count(), 1, "{at}");
        }
        assert_eq!(
            (keys[2].binding(), keys[2].address()),
            (binding(a, 4094), v4)
        );
        assert_eq!((keys[3].binding(), keys[3].address()), (binding(a, 1), v6));
        assert_eq!(keys[0].anyones(), keys[1].anyones());
        assert_ne!(keys[0].anyones(), keys[2].anyones());
        assert_ne!(keys[0].anyones(), keys[3].anyones());
    }
}
