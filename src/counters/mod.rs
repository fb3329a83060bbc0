//! What every port counts, and the closed set of reasons for which a frame is dropped.
//!
//! Promised to the operator: every frame is accounted for. A frame that came from a guest has exactly one
//! outcome at its source, *forwarded* (at least one receiver got it) or *dropped* for one reason. Every copy
//! that was meant for a receiver has exactly one outcome there, *delivered* or *undelivered* for one reason.
//! Hence, whenever no burst is in flight,
//!
//! ```text
//! ingress:  received = forwarded + dropped, summed over the reasons
//! egress:   offered  = delivered + undelivered, summed over the reasons
//! ```
//!
//! Both sides of an equation are counted separately, so that it can fail and a test can see it fail.
//!
//! Promised to the path: a burst counts into plain integers, a [`Tally`], and adds them to the shared
//! counters once. Counters of two ports, of the two directions of one port, and of two receive rings never share a cache
//! line, and each of these has one writer at a time: no locked operation stands between a frame and its receiver.

pub mod drops;
mod limit;
mod ports;
mod reason;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use limit::LogLimiter;
pub use ports::PortSet;
pub use reason::{DropReason, Side};

/// The most ports that one switch has.
pub const MAX_PORTS: usize = 1024;
const _: () = assert!(MAX_PORTS.is_power_of_two());

/// A port of the switch: an index below [`MAX_PORTS`], given in the order of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct PortId(u16);

impl PortId {
    /// The first port of the configuration.
    pub const FIRST: Self = Self(0);

    /// The port with that index; `None` from [`MAX_PORTS`] on.
    pub const fn new(index: u16) -> Option<Self> {
        if (index as usize) < MAX_PORTS {
            Some(Self(index))
        } else {
            None
        }
    }

    /// The index, below [`MAX_PORTS`].
    #[inline(always)]
    pub const fn index(self) -> usize {
        // `new` sees to it already; said again, the compiler knows it and checks no table of all ports a second time.
        self.0 as usize % MAX_PORTS
    }

    /// The index as it is stored.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One shared number that only grows (and wraps after 2^64). Relaxed: it orders nothing.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`; nothing is touched when `n` is zero.
    pub fn add(&self, n: u64) {
        if n != 0 {
            self.0.fetch_add(n, Ordering::Relaxed);
        }
    }

    /// As [`add`](Self::add), where nobody else adds at the same time: no locked operation, which on the path would wait
    /// for every store before it.
    #[inline]
    fn add_alone(&self, n: u64) {
        let sum = self.0.load(Ordering::Relaxed).wrapping_add(n);
        self.0.store(sum, Ordering::Relaxed);
    }

    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// The present value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One direction of a port: frames that entered the books, and what became of them.
#[derive(Debug)]
struct Flow {
    entered: Counter,
    entered_bytes: Counter,
    passed: Counter,
    passed_bytes: Counter,
    lost: [Counter; DropReason::COUNT],
}

impl Flow {
    /// One caller at a time.
    fn add(&self, tally: &mut Tally) {
        self.entered.add_alone(tally.entered.into());
        self.entered_bytes.add_alone(tally.entered_bytes);
        self.passed.add_alone(tally.passed.into());
        self.passed_bytes.add_alone(tally.passed_bytes);
        let mut seen = tally.reasons;
        while seen != 0 {
            let index = seen.trailing_zeros() as usize;
            seen &= seen - 1;
            if let (Some(counter), Some(n)) = (self.lost.get(index), tally.lost.get_mut(index)) {
                counter.add_alone((*n).into());
                *n = 0;
            }
        }
        tally.entered = 0;
        tally.entered_bytes = 0;
        tally.passed = 0;
        tally.passed_bytes = 0;
        tally.reasons = 0;
    }

    // Outcomes are read before entries: seen from outside, no frame has an outcome before it entered.
    fn drops(&self) -> Drops {
        Drops(std::array::from_fn(|index| {
            self.lost.get(index).map_or(0, Counter::get)
        }))
    }

    fn egress(&self) -> EgressSnapshot {
        EgressSnapshot {
            undelivered: self.drops(),
            delivered: self.passed.get(),
            delivered_bytes: self.passed_bytes.get(),
            offered: self.entered.get(),
            offered_bytes: self.entered_bytes.get(),
        }
    }
}

impl Default for Flow {
    fn default() -> Self {
        Self {
            entered: Counter::default(),
            entered_bytes: Counter::default(),
            passed: Counter::default(),
            passed_bytes: Counter::default(),
            lost: std::array::from_fn(|_| Counter::default()),
        }
    }
}

/// What one burst counts for one direction of one port, in plain integers; emptied by
/// [`PortCounters::add_ingress`] or [`PortCounters::add_egress`].
///
/// A burst must be added before it holds 2^32 frames; numbers saturate there rather than wrap.
#[derive(Clone, Debug)]
pub struct Tally {
    entered: u32,
    passed: u32,
    entered_bytes: u64,
    passed_bytes: u64,
    reasons: u64,
    lost: [u32; DropReason::COUNT],
}

impl Tally {
    /// An empty tally.
    pub const fn new() -> Self {
        Self {
            entered: 0,
            passed: 0,
            entered_bytes: 0,
            passed_bytes: 0,
            reasons: 0,
            lost: [0; DropReason::COUNT],
        }
    }

    /// A frame of `bytes` bytes came from the guest (ingress: received) or is meant for it (egress: offered).
    pub fn enter(&mut self, bytes: u32) {
        self.enter_all(1, bytes.into());
    }

    /// As [`enter`](Self::enter), for `frames` frames of together `bytes` bytes.
    pub fn enter_all(&mut self, frames: u32, bytes: u64) {
        self.entered = self.entered.saturating_add(frames);
        self.entered_bytes = self.entered_bytes.saturating_add(bytes);
    }

    /// Its outcome: at least one receiver has it (ingress: forwarded), or this one has it (egress: delivered).
    pub fn pass(&mut self, bytes: u32) {
        self.pass_all(1, bytes.into());
    }

    /// As [`pass`](Self::pass), for `frames` frames of together `bytes` bytes.
    pub fn pass_all(&mut self, frames: u32, bytes: u64) {
        self.passed = self.passed.saturating_add(frames);
        self.passed_bytes = self.passed_bytes.saturating_add(bytes);
    }

    /// Its outcome: nobody has it (ingress: dropped), or this receiver has it not (egress: undelivered).
    pub fn lose(&mut self, reason: DropReason) {
        self.reasons |= 1 << reason.index();
        if let Some(n) = self.lost.get_mut(reason.index()) {
            *n = n.saturating_add(1);
        }
    }

    /// Whether nothing was counted since the last time it was added.
    pub fn is_empty(&self) -> bool {
        self.entered == 0 && self.passed == 0 && self.reasons == 0
    }
}

impl Default for Tally {
    fn default() -> Self {
        Self::new()
    }
}

/// Ingress counters: written by the worker that polls the port.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Ingress(Flow);

/// Egress counters of one receive ring: written by whichever worker has entered it.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Egress(Flow);

/// What happens to a port beside its frames. Each is added to at most once a burst.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Events {
    /// Chains, of either ring, that broke a rule and went back with length 0.
    pub malformed_chains: Counter,
    /// Wake-ups by the guest's kick eventfd.
    pub kicks: Counter,
    /// Notifications sent to the guest.
    pub calls: Counter,
    /// Notifications that the guest had asked to be spared.
    pub calls_suppressed: Counter,
    /// Front-ends that connected and were served.
    pub connections: Counter,
    /// Connections closed at once because the port was in use, or the peer was not allowed.
    pub connections_refused: Counter,
    /// Faults that ended a connection or broke a ring.
    pub faults: Counter,
}

/// The counters of one port; shared by all workers and read by status at any time.
#[derive(Debug)]
pub struct PortCounters {
    ingress: Ingress,
    egress: Box<[Egress]>,
    /// What happens to the port beside its frames.
    pub events: Events,
    /// The last frames from it that were dropped.
    pub drops: drops::DropLog,
}

impl PortCounters {
    /// All zero, for a port with `receivers` receive rings.
    pub fn new(receivers: usize) -> Self {
        Self {
            ingress: Ingress::default(),
            egress: (0..receivers).map(|_| Egress::default()).collect(),
            events: Events::default(),
            drops: drops::DropLog::default(),
        }
    }

    /// Adds what a burst from this port counted, and empties the tally. For the one worker that polls the port.
    pub fn add_ingress(&self, tally: &mut Tally) {
        self.ingress.0.add(tally);
    }

    /// Adds what a burst towards receive ring `receiver` of this port counted, and empties the tally. For the one worker
    /// that has entered the ring at the time.
    pub fn add_egress(&self, receiver: usize, tally: &mut Tally) {
        if let Some(egress) = self.egress.get(receiver) {
            egress.0.add(tally);
        }
    }

    /// The present values. While bursts are in flight, `received` and `offered` may be ahead of their outcomes
    /// by what came in during the reading, never behind.
    pub fn snapshot(&self) -> PortSnapshot {
        let ingress = &self.ingress.0;
        PortSnapshot {
            ingress: IngressSnapshot {
                dropped: ingress.drops(),
                forwarded: ingress.passed.get(),
                forwarded_bytes: ingress.passed_bytes.get(),
                received: ingress.entered.get(),
                received_bytes: ingress.entered_bytes.get(),
            },
            egress: self
                .egress
                .iter()
                .fold(EgressSnapshot::default(), |sum, egress| {
                    sum.and(egress.0.egress())
                }),
            events: EventsSnapshot {
                malformed_chains: self.events.malformed_chains.get(),
                kicks: self.events.kicks.get(),
                calls: self.events.calls.get(),
                calls_suppressed: self.events.calls_suppressed.get(),
                connections: self.events.connections.get(),
                connections_refused: self.events.connections_refused.get(),
                faults: self.events.faults.get(),
            },
        }
    }
}

/// A count for each [`DropReason`]. Serialised as a map from the reasons' names, without the zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drops([u64; DropReason::COUNT]);

impl Drops {
    /// The count of one reason.
    pub fn get(&self, reason: DropReason) -> u64 {
        self.0.get(reason.index()).copied().unwrap_or(0)
    }

    /// The sum over all reasons.
    pub fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, n| sum.wrapping_add(*n))
    }

    /// The sums of two.
    fn and(&self, other: &Self) -> Self {
        let mut sum = *self;
        for (n, more) in sum.0.iter_mut().zip(other.0) {
            *n = n.wrapping_add(more);
        }
        sum
    }

    /// The reasons that have occurred, in the order of [`DropReason::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL
            .iter()
            .copied()
            .zip(self.0)
            .filter(|&(_, n)| n != 0)
    }
}

impl Default for Drops {
    fn default() -> Self {
        Self([0; DropReason::COUNT])
    }
}

impl Serialize for Drops {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter().map(|(reason, n)| (reason.name(), n)))
    }
}

/// Names that this build does not know, from a switch of another version, are passed over.
impl<'de> Deserialize<'de> for Drops {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut drops = Self::default();
        for (name, n) in BTreeMap::<String, u64>::deserialize(deserializer)? {
            let slot = DropReason::from_name(&name).and_then(|r| drops.0.get_mut(r.index()));
            if let Some(slot) = slot {
                *slot = n;
            }
        }
        Ok(drops)
    }
}

/// Plain values of [`PortCounters`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortSnapshot {
    /// Frames from the guest.
    pub ingress: IngressSnapshot,
    /// Frames towards the guest.
    pub egress: EgressSnapshot,
    /// What happened beside frames.
    pub events: EventsSnapshot,
}

/// Frames from the guest: `received = forwarded + dropped`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngressSnapshot {
    /// Frames taken from the TX ring, malformed chains included.
    pub received: u64,
    /// Their bytes, without the virtio-net header.
    pub received_bytes: u64,
    /// Frames that at least one receiver got.
    pub forwarded: u64,
    /// Their bytes, each frame once.
    pub forwarded_bytes: u64,
    /// Frames that nobody got, by reason.
    pub dropped: Drops,
}

/// Frames towards the guest: `offered = delivered + undelivered`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressSnapshot {
    /// Copies meant for this port.
    pub offered: u64,
    /// Their bytes, without the virtio-net header.
    pub offered_bytes: u64,
    /// Copies published in the RX ring.
    pub delivered: u64,
    /// Their bytes.
    pub delivered_bytes: u64,
    /// Copies that it did not get, by reason.
    pub undelivered: Drops,
}

impl EgressSnapshot {
    /// The sum of two rings.
    fn and(self, other: Self) -> Self {
        Self {
            offered: self.offered.wrapping_add(other.offered),
            offered_bytes: self.offered_bytes.wrapping_add(other.offered_bytes),
            delivered: self.delivered.wrapping_add(other.delivered),
            delivered_bytes: self.delivered_bytes.wrapping_add(other.delivered_bytes),
            undelivered: self.undelivered.and(&other.undelivered),
        }
    }
}

/// What happened to a port beside its frames; see [`Events`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields of `Events`, described there")]
pub struct EventsSnapshot {
    pub malformed_chains: u64,
    pub kicks: u64,
    pub calls: u64,
    pub calls_suppressed: u64,
    pub connections: u64,
    pub connections_refused: u64,
    pub faults: u64,
}
