//! What a port says of itself: the plain values of [`status`](super::status), filled in.

use super::endpoint::Endpoint;
use super::port::{Connection, Port, STUCK, State};
use super::status::{Direction, PeerStatus, PortState, PortStatus, RingStatus};
use crate::session::features;

impl Port {
    /// What the port is doing.
    #[must_use]
    pub fn status(&self) -> PortStatus {
        let mut status = PortStatus {
            name: self.setup.name.clone(),
            id: self.lanes.id().get(),
            state: PortState::Waiting,
            why: None,
            last_fault: self.last_fault.clone(),
            socket: self.setup.endpoint.path().to_owned(),
            direction: match self.setup.endpoint {
                Endpoint::Listen(_) => Direction::Listen,
                Endpoint::Connect(_) => Direction::Connect,
            },
            peer: None,
            features: Vec::new(),
            protocol_features: Vec::new(),
            memory_regions: 0,
            memory_bytes: 0,
            rings: self.rings(),
            counters: self.lanes.counters().snapshot(),
        };
        match &self.state {
            State::Waiting => {}
            State::Quarantined { why, .. } => {
                status.state = PortState::Quarantined;
                status.why = Some(why.clone());
            }
            State::Connected(connection) => describe(connection, &mut status),
        }
        if self.stuck && self.closer.is_busy() {
            if status.state == PortState::Waiting {
                status.state = PortState::Quarantined;
            }
            status.why.get_or_insert_with(|| STUCK.to_owned());
        }
        status
    }

    fn rings(&self) -> Vec<RingStatus> {
        let running = self.lanes.rings().into_iter().map(|ring| RingStatus {
            index: ring.index,
            running: true,
            size: ring.size,
            next: ring.next,
            enabled: ring.enabled,
            problem: ring.broken.map(|broken| format!("ring broken: {broken}")),
        });
        let mut rings: Vec<RingStatus> = running.collect();
        if let State::Connected(connection) = &self.state {
            rings.extend(
                connection
                    .session
                    .problems()
                    .map(|(index, problem)| RingStatus {
                        index: u16::try_from(index).unwrap_or(u16::MAX),
                        running: false,
                        size: 0,
                        next: 0,
                        enabled: false,
                        problem: Some(problem.to_owned()),
                    }),
            );
        }
        rings.sort_by_key(|ring| ring.index);
        rings
    }
}

fn describe(connection: &Connection, status: &mut PortStatus) {
    let terms = connection.session.terms();
    status.state = if connection.session.is_running() {
        PortState::Running
    } else {
        PortState::Negotiating
    };
    let broken = status
        .rings
        .iter()
        .find(|ring| ring.running && ring.problem.is_some());
    if let Some(ring) = broken {
        status.state = PortState::Quarantined;
        status.why = ring
            .problem
            .as_ref()
            .map(|problem| format!("ring {}: {problem}", ring.index));
    }
    status.peer = connection.peer.map(|peer| PeerStatus {
        pid: peer.pid,
        uid: peer.uid,
    });
    let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
    status.features = owned(features::names(terms.features.unwrap_or(0)));
    status.protocol_features = owned(features::protocol_names(terms.protocol));
    status.memory_regions = u64::try_from(terms.regions).unwrap_or(u64::MAX);
    status.memory_bytes = terms.bytes;
}
