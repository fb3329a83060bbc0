//! The half of a port that workers see: its rings, its counters and its faults.
//!
//! # Theory of operation
//!
//! A *lane* is one ring of a port, transmit or receive, with what belongs to it: the call descriptor,
//! whether the front-end has enabled it, what the guest negotiated. A lane lives in a slot behind a lock.
//!
//! - A worker holds the lock of a slot for one burst, never longer, and waits for nothing meanwhile.
//! - The attendant starts a ring by putting a lane into its slot and stops it by *taking the lane out*. What
//!   is not in the slot cannot be touched by any worker, and a lane owns the memory map that it uses; so
//!   when [`Lanes::stop`] has returned, GET_VRING_BASE may answer and the memory may go.
//! - Nothing about a ring in a slot is ever changed, but for what a front-end changes while it runs: the call and error
//!   descriptors and the enabled flag.
//!
//! Locks are taken in one order: a transmit slot before a receive slot, and never two receive slots.
//! A panic under a lock is contained at the port step (see `datapath`); the lock is then entered all the same,
//! and whoever enters a receive slot next forgets the visit that the panic cut off ([`RxLane::settle`]).

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use super::door::{Door, Note, RingKey};
use crate::counters::{PortCounters, PortId};
use crate::memory::{Call, Kick};
use crate::ring::{Negotiated, RingBroken, RingError, RxRing, TxRing};
pub(crate) use crate::session::{Enabled, RingSetup}; // what `Lanes::start` takes

/// Queue pairs that a port can have (VIRTIO 1.2, 5.1.2: a receive and a transmit queue each).
pub const MAX_PAIRS: u16 = 8;

/// What made the switch give up on a connection. The port's own, always.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The front-end took away memory that it had given: the file behind it was truncated.
    #[error("guest memory was taken away: its file is shorter than when it was mapped")]
    MemoryLost,
    /// Writing to a call or error descriptor blocked.
    #[error("a call or error eventfd blocked: its counter is saturated and it is not non-blocking")]
    CallBlocked,
    /// A step of this port panicked. A bug of ours that a guest can reach: report it.
    #[error("a step of this port panicked; please report it, see SECURITY.md")]
    Panicked,
}

impl Fault {
    const fn code(self) -> u32 {
        match self {
            Self::MemoryLost => 1,
            Self::CallBlocked => 2,
            Self::Panicked => 3,
        }
    }

    const fn from_code(code: u64) -> Option<Self> {
        match code {
            1 => Some(Self::MemoryLost),
            2 => Some(Self::CallBlocked),
            3 => Some(Self::Panicked),
            _ => None,
        }
    }
}

/// Which connection of a port: counted up when one has ended, so that what a worker finds out late about a connection
/// that is gone cannot be held against its successor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Epoch(u32);

/// Who has a receive ring on its list of those to be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner(u32);

impl Owner {
    /// An owner like no other.
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// Why a ring was not started.
#[derive(Debug, thiserror::Error)]
pub enum LaneError {
    /// The port has no such ring.
    #[error("the port has no such ring")]
    NoSuchRing,
    /// It runs already.
    #[error("the ring runs already")]
    Running,
    /// Its layout was refused.
    #[error(transparent)]
    Ring(#[from] RingError),
}

/// A transmit ring in its slot: the guest sends, the switch reads.
pub struct TxLane {
    pub(crate) ring: TxRing,
    pub(crate) call: Option<Arc<Call>>,
    pub(crate) err: Option<Arc<Call>>,
    pub(crate) features: u64,
    pub(crate) header_len: usize,
    pub(crate) enabled: Enabled,
    pub(crate) polled: bool,
    pub(crate) epoch: Epoch,
    pub(crate) broken: Option<RingBroken>,
    size: u16,
    kick: Option<Arc<Kick>>,
}

/// A receive ring in its slot: the switch writes, the guest receives.
pub struct RxLane {
    /// Frames were written that are not published yet, and this worker sees to it that they will be.
    pub(crate) unpublished: Option<Owner>,
    /// A visit has begun and is not concluded. Since a visit holds the lock, whoever enters and finds this finds what a
    /// panic has left.
    visited: bool,
    pub(crate) epoch: Epoch,
    pub(crate) ring: RxRing,
    pub(crate) call: Option<Arc<Call>>,
    pub(crate) err: Option<Arc<Call>>,
    pub(crate) features: u64,
    pub(crate) header_len: usize,
    pub(crate) broken: Option<RingBroken>,
    size: u16,
    enabled: bool,
    /// Held open for as long as the ring runs; nobody waits on it, a full receiver is not waited for.
    _kick: Option<Arc<Kick>>,
}

impl RxLane {
    /// Begins a visit: what an earlier one left unfinished is forgotten, the driver's index is read.
    ///
    /// # Errors
    /// The driver lost its ring.
    pub(crate) fn begin(&mut self) -> Result<(), RingBroken> {
        self.settle();
        self.ring.begin()?;
        self.visited = true;
        Ok(())
    }

    /// Ends a visit: what it wrote is whole, or was abandoned.
    pub(crate) fn conclude(&mut self) {
        self.visited = false;
    }

    /// Forgets the visit that a panic cut off, if one did: its frames were not all written, and nobody may get them.
    pub(crate) fn settle(&mut self) {
        if std::mem::take(&mut self.visited) {
            self.ring.abandon();
        }
    }
}

#[derive(Default)]
struct Pair {
    tx: Mutex<Option<TxLane>>,
    rx: Mutex<Option<RxLane>>,
}

/// What one ring is doing, for status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingView {
    /// Ring index as in the vhost-user protocol: 2k receives, 2k + 1 transmits.
    pub index: u16,
    /// Entries.
    pub size: u16,
    /// The next entry of the available ring that the switch will look at.
    pub next: u16,
    /// Enabled by the front-end.
    pub enabled: bool,
    /// Why the switch stopped processing it, if it did.
    pub broken: Option<RingBroken>,
}

/// The rings, counters and faults of one port. Shared by the attendant and all workers.
pub struct Lanes {
    id: PortId,
    counters: PortCounters,
    pairs: Box<[Pair]>,
    /// Bit k: the receive ring of pair k runs and is enabled. Lets a sender choose a queue without a lock.
    receiving: AtomicU32,
    /// The epoch in the high half, the code of the fault that waits, or 0, in the low.
    fault: AtomicU64,
    /// Bit 48 set: the low 48 bits are a MAC to announce.
    announce: AtomicU64,
    /// Largest frame in bytes behind the Ethernet header and tag; 0: no limit but the ring's.
    mtu: AtomicU16,
    door: Arc<Door>,
    bell: Arc<FaultBell>,
}

impl fmt::Debug for Lanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lanes")
            .field("id", &self.id)
            .field("rings", &self.rings())
            .finish_non_exhaustive()
    }
}

/// Rung by workers when a port has a fault for the attendant to deal with, and by closers when they are through.
#[derive(Debug)]
pub struct FaultBell(OwnedFd);

impl FaultBell {
    /// Makes a bell.
    ///
    /// # Errors
    /// Those of `eventfd(2)`.
    pub fn new() -> std::io::Result<Arc<Self>> {
        Ok(Arc::new(Self(eventfd(
            0,
            EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK,
        )?)))
    }

    pub(super) fn ring(&self) {
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Silences the bell; the attendant then asks every port.
    pub fn silence(&self) {
        let mut count = [0u8; 8];
        let _ = rustix::io::read(&self.0, &mut count);
    }
}

impl AsFd for FaultBell {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

const ANNOUNCE: u64 = 1 << 48;
/// The part of the fault word that holds the code.
const FAULT: u64 = 0xffff_ffff;

impl Lanes {
    /// The lanes of port `id`, with room for `pairs` queue pairs, polled by the worker behind `door`.
    ///
    /// There are two at least: cloud-hypervisor takes the number that is announced (vhost-user: GET_QUEUE_NUM) for one of
    /// rings, and would find no room for a single pair.
    #[must_use]
    pub fn new(id: PortId, pairs: u16, door: Arc<Door>, bell: Arc<FaultBell>) -> Arc<Self> {
        let pairs = pairs.clamp(2, MAX_PAIRS);
        Arc::new(Self {
            id,
            counters: PortCounters::new(pairs.into()),
            pairs: (0..pairs).map(|_| Pair::default()).collect(),
            receiving: AtomicU32::new(0),
            fault: AtomicU64::new(0),
            announce: AtomicU64::new(0),
            mtu: AtomicU16::new(0),
            door,
            bell,
        })
    }

    /// The port.
    #[must_use]
    pub const fn id(&self) -> PortId {
        self.id
    }

    /// The bell that brings the attendant.
    pub(super) fn bell(&self) -> &Arc<FaultBell> {
        &self.bell
    }

    /// What the port counts.
    #[must_use]
    pub const fn counters(&self) -> &PortCounters {
        &self.counters
    }

    /// Queue pairs that the port has room for.
    #[must_use]
    pub fn pairs(&self) -> u16 {
        u16::try_from(self.pairs.len()).unwrap_or(MAX_PAIRS)
    }

    /// Starts ring `index` (2k receives, 2k + 1 transmits). It must not run.
    ///
    /// # Errors
    /// [`LaneError`] when the index is out of range, the ring runs, or its layout is refused.
    pub fn start(&self, index: u16, setup: RingSetup) -> Result<(), LaneError> {
        let pair = self
            .pairs
            .get(usize::from(index / 2))
            .ok_or(LaneError::NoSuchRing)?;
        let negotiated = Negotiated::from_features(setup.features);
        if is_receive(index) {
            let mut slot = lock(&pair.rx);
            if slot.is_some() {
                return Err(LaneError::Running);
            }
            *slot = Some(RxLane {
                unpublished: None,
                visited: false,
                epoch: self.epoch(),
                ring: RxRing::start(setup.memory, setup.layout, negotiated)?,
                call: setup.call,
                err: setup.err,
                features: setup.features,
                header_len: negotiated.header_len,
                broken: None,
                size: setup.layout.size,
                enabled: setup.enabled == Enabled::Yes,
                _kick: setup.kick,
            });
            self.mark_receiving(index / 2, setup.enabled == Enabled::Yes);
            return Ok(());
        }
        let key = RingKey {
            port: self.id,
            pair: index / 2,
        };
        let mut slot = lock(&pair.tx);
        if slot.is_some() {
            return Err(LaneError::Running);
        }
        let ring = TxRing::start(setup.memory, setup.layout, negotiated)?;
        // A kick that cannot be waited for makes a polled ring: slower for the host, never deaf.
        let admitted = setup
            .kick
            .as_ref()
            .is_some_and(|kick| self.door.admit(kick.as_fd(), key).is_ok());
        *slot = Some(TxLane {
            ring,
            call: setup.call,
            err: setup.err,
            features: setup.features,
            header_len: negotiated.header_len,
            enabled: setup.enabled,
            polled: !admitted,
            epoch: self.epoch(),
            broken: None,
            size: setup.layout.size,
            kick: setup.kick,
        });
        drop(slot);
        self.door.leave(Note::Started(key));
        Ok(())
    }

    /// Stops ring `index` and says where it stood: the index of the next available entry, which is
    /// what GET_VRING_BASE answers. When this has returned, nothing reads or writes the ring or its buffers.
    pub fn stop(&self, index: u16) -> Option<u16> {
        let pair = self.pairs.get(usize::from(index / 2))?;
        if is_receive(index) {
            self.mark_receiving(index / 2, false);
            let lane = lock(&pair.rx).take()?;
            return Some(lane.ring.next());
        }
        let lane = lock(&pair.tx).take()?;
        if let Some(kick) = &lane.kick {
            self.door.dismiss(kick.as_fd());
        }
        Some(lane.ring.next())
    }

    /// Stops every ring.
    pub fn stop_all(&self) {
        for index in 0..self.pairs() * 2 {
            self.stop(index);
        }
        self.announce.store(0, Ordering::Relaxed);
    }

    /// Enables or disables ring `index` (vhost-user: SET_VRING_ENABLE). A ring that does not run is left alone.
    pub fn enable(&self, index: u16, enabled: bool) {
        let Some(pair) = self.pairs.get(usize::from(index / 2)) else {
            return;
        };
        if is_receive(index) {
            if let Some(lane) = lock(&pair.rx).as_mut() {
                lane.enabled = enabled;
                self.mark_receiving(index / 2, enabled);
            }
            return;
        }
        if let Some(lane) = lock(&pair.tx).as_mut() {
            lane.enabled = enabled.into();
        }
        // What lay in it until now had its kick long ago.
        self.door.leave(Note::Started(RingKey {
            port: self.id,
            pair: index / 2,
        }));
    }

    /// Replaces the call descriptor of ring `index`. A ring that does not run is left alone.
    pub fn set_call(&self, index: u16, call: Option<Arc<Call>>) {
        let Some(pair) = self.pairs.get(usize::from(index / 2)) else {
            return;
        };
        if is_receive(index) {
            if let Some(lane) = lock(&pair.rx).as_mut() {
                lane.call = call;
            }
        } else if let Some(lane) = lock(&pair.tx).as_mut() {
            lane.call = call;
        }
        // The old descriptor may have swallowed an interrupt that the guest waits for. The worker gives one more: it is
        // the only thread that may ring, since it alone is guarded against a descriptor that blocks.
        self.door.leave(Note::Ring(RingKey {
            port: self.id,
            pair: index / 2,
        }));
    }

    /// Replaces the error descriptor of ring `index`. A ring that does not run is left alone.
    pub fn set_err(&self, index: u16, err: Option<Arc<Call>>) {
        let Some(pair) = self.pairs.get(usize::from(index / 2)) else {
            return;
        };
        if is_receive(index) {
            if let Some(lane) = lock(&pair.rx).as_mut() {
                lane.err = err;
            }
        } else if let Some(lane) = lock(&pair.tx).as_mut() {
            lane.err = err;
        }
    }

    /// Counts a ring that broke and tells its front-end, if it asked for that. For workers only, which are guarded against a
    /// descriptor that blocks; the ring's slot must not be held meanwhile.
    pub(crate) fn ring_broke(&self, epoch: Epoch, err: Option<Arc<Call>>) {
        self.counters.events.faults.increment();
        if !self.faulted() && err.is_some_and(|err| err.ring().is_err()) {
            self.raise(epoch, Fault::CallBlocked);
        }
    }

    /// Has the worker announce `mac` on this port's segment (vhost-user: SEND_RARP).
    pub fn announce(&self, mac: [u8; 6]) {
        let [a, b, c, d, e, f] = mac;
        let bits = u64::from_be_bytes([0, 0, a, b, c, d, e, f]);
        self.announce.store(bits | ANNOUNCE, Ordering::Release);
        self.door.leave(Note::Announce(self.id));
    }

    /// The announcement that waits, once.
    pub(crate) fn take_announcement(&self) -> Option<[u8; 6]> {
        let bits = self.announce.swap(0, Ordering::Acquire);
        let [_, _, a, b, c, d, e, f] = bits.to_be_bytes();
        (bits & ANNOUNCE != 0).then_some([a, b, c, d, e, f])
    }

    /// Sets the largest payload of a frame, in bytes; `None` for no limit.
    pub fn set_mtu(&self, mtu: Option<u16>) {
        self.mtu.store(mtu.unwrap_or(0), Ordering::Relaxed);
    }

    /// The largest payload of a frame, in bytes.
    pub(crate) fn mtu(&self) -> Option<u16> {
        Some(self.mtu.load(Ordering::Relaxed)).filter(|mtu| *mtu != 0)
    }

    /// Whether any guest receives here now.
    #[must_use]
    pub fn is_receiving(&self) -> bool {
        self.receiving.load(Ordering::Relaxed) != 0
    }

    /// Bit k: the receive ring of pair k runs and is enabled.
    pub(crate) fn receiving(&self) -> u32 {
        self.receiving.load(Ordering::Relaxed)
    }

    /// The present connection.
    pub(crate) fn epoch(&self) -> Epoch {
        let [e0, e1, e2, e3, ..] = self.fault.load(Ordering::Acquire).to_be_bytes();
        Epoch(u32::from_be_bytes([e0, e1, e2, e3]))
    }

    /// Reports a fault of the connection of `epoch`. The first one counts, and the attendant is told; one of a connection
    /// that is gone counts for nothing.
    pub(crate) fn raise(&self, epoch: Epoch, fault: Fault) {
        let clear = u64::from(epoch.0) << 32;
        let raised = clear | u64::from(fault.code());
        let change =
            self.fault
                .compare_exchange(clear, raised, Ordering::AcqRel, Ordering::Relaxed);
        if change.is_ok() {
            self.bell.ring();
        }
    }

    /// Whether a fault waits for the attendant: workers leave the port alone meanwhile.
    #[inline]
    pub(crate) fn faulted(&self) -> bool {
        self.fault.load(Ordering::Relaxed) & FAULT != 0
    }

    /// The fault that waits. It stays until [`Lanes::forgive`].
    #[must_use]
    pub fn fault(&self) -> Option<Fault> {
        Fault::from_code(self.fault.load(Ordering::Acquire) & FAULT)
    }

    /// Ends a connection and its fault, if it had one: to be called when every ring has been stopped.
    pub fn forgive(&self) {
        // After 2^32 connections a fault of the first could be taken for one of the last: it would have waited for years.
        let next = self.epoch().0.wrapping_add(1);
        self.fault.store(u64::from(next) << 32, Ordering::Release);
    }

    /// What each running ring is doing.
    #[must_use]
    pub fn rings(&self) -> Vec<RingView> {
        let mut views = Vec::new();
        for (pair, index) in self.pairs.iter().zip((0u16..).step_by(2)) {
            if let Some(lane) = lock(&pair.rx).as_ref() {
                views.push(RingView {
                    index,
                    size: lane.size,
                    next: lane.ring.next(),
                    enabled: lane.enabled,
                    broken: lane.broken,
                });
            }
            if let Some(lane) = lock(&pair.tx).as_ref() {
                views.push(RingView {
                    index: index + 1,
                    size: lane.size,
                    next: lane.ring.next(),
                    enabled: lane.enabled == Enabled::Yes,
                    broken: lane.broken,
                });
            }
        }
        views
    }

    /// Enters the transmit slot of pair `pair` for a burst.
    pub(crate) fn tx(&self, pair: u16) -> Option<MutexGuard<'_, Option<TxLane>>> {
        self.pairs.get(usize::from(pair)).map(|pair| lock(&pair.tx))
    }

    /// Enters the receive slot of pair `pair` for a burst.
    pub(crate) fn rx(&self, pair: u16) -> Option<MutexGuard<'_, Option<RxLane>>> {
        self.pairs.get(usize::from(pair)).map(|pair| lock(&pair.rx))
    }

    fn mark_receiving(&self, pair: u16, receives: bool) {
        let bit = 1u32 << (pair % 32);
        if receives {
            self.receiving.fetch_or(bit, Ordering::Release);
        } else {
            self.receiving.fetch_and(!bit, Ordering::Release);
        }
    }
}

/// Whether ring `index` is one that the guest receives on.
const fn is_receive(index: u16) -> bool {
    index & 1 == 0
}

/// Enters a lock, poisoned or not: see the head of this file.
fn lock<T>(slot: &Mutex<T>) -> MutexGuard<'_, T> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}
