//! What the gate remembers of each port while policies come and go.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::groups::Groups;
use super::guard::GuardState;
use super::log::RuleLog;
use super::meter::Bucket;
use super::scan::Ends;
use super::spec::TrackingSpec;
use super::track::Tracker;
use crate::counters::{MAX_PORTS, PortId};

/// The buckets of one port's limits.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    pub(super) send_bits: Bucket,
    pub(super) send_frames: Bucket,
    pub(super) receive_bits: Bucket,
    pub(super) receive_frames: Bucket,
    pub(super) broadcast: Bucket,
    pub(super) multicast: Bucket,
    pub(super) unknown: Bucket,
    pub(super) membership: Bucket,
    /// Answers to what was rejected.
    pub(super) answers: Bucket,
}

/// One port.
#[derive(Debug, Default)]
pub(super) struct PortState {
    pub(super) guard: GuardState,
    pub(super) buckets: Buckets,
    pub(super) log: RuleLog,
    pub(super) groups: Groups,
    /// Ends that lists have refused it; made when somebody first asks for their number.
    pub(super) refused: OnceLock<Box<Ends>>,
}

/// Sticky addresses, leases, buckets and connections of all ports. Shared by the policies of a switch in turn, and by all
/// workers.
#[derive(Debug)]
pub struct State {
    /// Made when a policy first names a port; in place of what it was, since workers may look at it.
    ports: Box<[OnceLock<Box<PortState>>]>,
    tracker: Arc<Tracker>,
    /// Connections that a change of policy has ended.
    ended: AtomicU64,
}

impl State {
    /// Nothing is known yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            ports: (0..MAX_PORTS).map(|_| OnceLock::new()).collect(),
            tracker: Arc::new(Tracker::new(&TrackingSpec::default(), 0)),
            ended: AtomicU64::new(0),
        })
    }

    pub(super) fn port(&self, port: PortId) -> Option<&PortState> {
        self.ports.get(port.index())?.get().map(Box::as_ref)
    }

    /// Sees to it that there is something to remember of a port.
    pub(super) fn know(&self, port: PortId) {
        if let Some(place) = self.ports.get(port.index()) {
            place.get_or_init(Box::default);
        }
    }

    pub(super) fn guards(&self) -> impl Iterator<Item = &GuardState> + Clone {
        self.ports
            .iter()
            .filter_map(|port| port.get().map(|port| &port.guard))
    }

    /// The connections.
    pub fn tracker(&self) -> &Arc<Tracker> {
        &self.tracker
    }

    /// How many connections changes of policy have ended since the start.
    pub fn ended(&self) -> u64 {
        self.ended.load(Ordering::Relaxed)
    }

    pub(super) fn note_ended(&self, connections: u64) {
        self.ended.fetch_add(connections, Ordering::Relaxed);
    }

    /// What port security has learned of a port.
    pub fn guard(&self, port: PortId) -> Option<&GuardState> {
        self.port(port).map(|port| &port.guard)
    }

    /// The guest of `port` is gone: its sticky address and its connections go with it. Its leases stay, each bound to
    /// the address that it was granted to: see [`GuardState::forget`].
    pub fn forget(&self, port: PortId) {
        if let Some(state) = self.port(port) {
            state.guard.forget();
        }
        self.tracker.end_port(port);
    }
}
