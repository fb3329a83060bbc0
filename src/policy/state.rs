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

    /// The port itself is gone, and its number may become another's: what waits for its guest to come back goes, too.
    pub fn forget_port(&self, port: PortId) {
        self.forget(port);
        if let Some(state) = self.port(port) {
            state.guard.forget_leases();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Tick;
    use crate::frame::Mac;
    use crate::policy::lease::{Binding, Change};

    /// Nothing took them away: another port that got the number had them.
    #[test]
    fn leases_wait_for_a_guest_and_go_with_its_port() {
        let (state, now) = (State::new(), Tick::from_secs(1));
        let port = PortId::new(7).unwrap();
        state.know(port);
        let guard = state.guard(port).unwrap();
        let granted = Change::Granted {
            address: [10, 0, 0, 1].into(),
            seconds: 600,
        };
        let client = Mac::new([2, 0, 0, 0, 0, 1]);
        guard.apply(granted, Binding { client, vid: 1 }, 1, now);
        state.forget(port);
        assert_eq!(guard.leases(now).len(), 1);
        state.forget_port(port);
        assert_eq!(guard.leases(now), []);
    }
}
