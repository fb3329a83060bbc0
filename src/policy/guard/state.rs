//! What the guard of one port remembers.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::Tick;
use crate::frame::Mac;
use crate::policy::lease::{Applied, Binding, Change, Lease, Leases};

/// What the guard of one port remembers from frame to frame: the MAC address that it was first heard with, its
/// leases, and how much addressing it has sent.
///
/// One for each port, for as long as the port exists: it outlives connections and policies, and is shared by all
/// workers. Nothing in it grows: leases have [`MAX_LEASES`](crate::policy::lease::MAX_LEASES) places.
#[derive(Debug, Default)]
pub struct GuardState {
    generation: AtomicU64,
    /// The address that was kept; zero, which no station has, for none.
    kept: AtomicU64,
    /// The moment, in milliseconds, before which no address is claimed.
    barred_to: AtomicU64,
    /// The moment, in nanoseconds, up to which addressing has used up what the port may send.
    paced_to: AtomicU64,
    leases: Leases,
}

impl GuardState {
    /// Of a port that was never heard.
    pub fn new() -> Self {
        Self::default()
    }

    /// A number that changes whenever the answer to plain data may have changed: an address was kept or forgotten, a
    /// lease came or went. Leases that end by `now` go.
    ///
    /// Whoever keeps an answer reads this *before* he asks for it, and keeps both: the answer holds as long as the
    /// number stays.
    #[inline]
    pub fn generation(&self, now: Tick) -> u64 {
        self.age(now);
        self.generation.load(Ordering::Acquire)
    }

    /// The MAC address that the port was first heard with, where the guard keeps it.
    #[inline]
    pub fn kept(&self) -> Option<Mac> {
        let mac = Mac::from_bits(self.kept.load(Ordering::Acquire));
        mac.is_station().then_some(mac)
    }

    /// Forgets the MAC address that was kept: at disconnect. Leases stay, since each is bound to the MAC address that
    /// it was granted to: a guest that reconnects goes on, and another in its place cannot use them.
    pub fn forget(&self) {
        self.kept.store(0, Ordering::Release);
        self.barred_to.store(0, Ordering::Release);
        self.changed();
    }

    /// As [`release`](Self::release), and bars the next claim for a second: to find out has cost more than a frame may.
    pub fn bar_claims(&self, mac: Mac, now: Tick) {
        const BAR: u64 = 1000;
        let end = now.after_millis(BAR).as_millis();
        self.barred_to.store(end, Ordering::Release);
        self.release(mac);
    }

    /// Whether a claim was refused a moment ago.
    #[inline]
    pub(super) fn is_barred(&self, now: Tick) -> bool {
        now.as_millis() < self.barred_to.load(Ordering::Acquire)
    }

    /// Takes back a claim that could not be met: forgets `mac` if it is the address that was kept.
    pub fn release(&self, mac: Mac) {
        let released =
            self.kept
                .compare_exchange(mac.bits(), 0, Ordering::AcqRel, Ordering::Acquire);
        if released.is_ok() {
            self.changed();
        }
    }

    /// Forgets all leases: when the port itself is gone, and its number may become another's.
    pub fn forget_leases(&self) {
        if self.leases.clear() {
            self.changed();
        }
    }

    /// Applies a change of a lease that the port's guest was granted in segment `vid`; at most `max` leases are held at
    /// once, and the one that ends first makes room.
    pub fn apply(&self, change: Change, binding: Binding, max: u16, now: Tick) -> Applied {
        self.age(now);
        let applied = self.leases.apply(change, binding, max, now);
        if applied == Applied::Changed {
            self.changed();
        }
        applied
    }

    /// Gives back a lease that the port had before the switch was started again; like [`apply`](Self::apply), but any number at
    /// once.
    pub(in crate::policy) fn restore(&self, lease: &Lease, max: u16, now: Tick) -> Applied {
        let applied = self.leases.restore(lease, max, now);
        self.changed();
        applied
    }

    /// A number that changes whenever a lease comes, goes, or gets another end.
    pub fn lease_edits(&self) -> u64 {
        self.leases.edits()
    }

    /// Ends every lease of `address` in segment `vid`: it was granted to another port. Says whether there was one.
    pub fn revoke(&self, address: IpAddr, vid: u16) -> bool {
        let revoked = self.leases.revoke(address, vid);
        if revoked {
            self.changed();
        }
        revoked
    }

    /// The leases that the port has, for status and to be kept over a restart.
    pub fn leases(&self, now: Tick) -> Vec<Lease> {
        self.age(now);
        self.leases.list(now)
    }

    #[inline]
    pub(super) fn age(&self, now: Tick) {
        if self.leases.are_due(now) && self.leases.expire(now) {
            self.changed();
        }
    }

    pub(in crate::policy) fn holds(&self, address: IpAddr, binding: Binding) -> bool {
        self.leases.holds(address, binding)
    }

    /// Keeps `mac` unless another is kept; says whether it is kept now, and by this call.
    pub(super) fn keep(&self, mac: Mac) -> Kept {
        let before = self
            .kept
            .compare_exchange(0, mac.bits(), Ordering::AcqRel, Ordering::Acquire);
        match before {
            Ok(_) => {
                self.changed();
                Kept::Now
            }
            Err(kept) if kept == mac.bits() => Kept::Already,
            Err(_) => Kept::Another,
        }
    }

    /// Takes one packet, which uses up `step` nanoseconds, out of the second's worth that may be saved up.
    pub(super) fn pace(&self, step: u64, now: Tick) -> bool {
        const SECOND: u64 = 1_000_000_000;
        let now = now.as_millis().saturating_mul(1_000_000);
        let taken = self
            .paced_to
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |paced_to| {
                let next = paced_to.max(now).saturating_add(step);
                (next <= now.saturating_add(SECOND)).then_some(next)
            });
        taken.is_ok()
    }

    fn changed(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }
}

/// Whether an address is the one that was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// By this call.
    Now,
    /// Before.
    Already,
    /// Another is.
    Another,
}
