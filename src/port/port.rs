//! The half of a port that the attendant sees: its socket, its front-end, its state.
//!
//! # Theory of operation
//!
//! A port is in one of four states.
//!
//! ```text
//! waiting ----connection----> negotiating --rings start--> running
//!    ^                            |                           |
//!    |<------front-end closed-----+---------------------------+
//!    |                            | violation, memory lost, call blocked, panic
//!    +<---after the back-off--- quarantined
//! ```
//!
//! - One connection at a time. Another one is taken and closed at once, so that it hears; the first is unharmed.
//! - Whatever ends a connection ends the same way: every ring is stopped, memory unmapped, descriptors closed. A
//!   fault is also counted, and repeated faults make the port look away for a while (`BackOff`).
//! - A broken ring stops by itself and is shown as quarantined; its connection goes on, and the front-end mends it
//!   by stopping and starting it (a guest that reboots does).
//! - A port that connects tries every 100 ms.
//!
//! # Who calls
//!
//! One thread, the attendant. It gives its epoll when it opens the port; the port registers its own descriptors with
//! tokens that [`Source::from_token`] understands, all level-triggered. The attendant calls [`Port::on_ready`] for each
//! event, [`Port::on_fault`] when the fault bell rang, and [`Port::on_deadline`] when the time of [`Port::next_deadline`] has
//! come. None of them waits.

use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rustix::event::epoll::{self, EventData, EventFlags};

use super::endpoint::{AcceptRate, Accepted, BackOff, Endpoint, admit, dial};
use super::lanes::{Fault, Lanes};
use super::plug::Plug;
use super::socket::{Access, BindError, Listening, Peer};
use super::status::{Direction, PeerStatus, PortState, PortStatus, RingStatus};
use crate::clock::Tick;
use crate::counters::{LogLimiter, PortId, PortSnapshot};
use crate::memory::Limits;
use crate::session::{Session, SessionEnd, features};

/// Milliseconds between two attempts to connect.
const RETRY: u64 = 100;

/// Milliseconds in which a front-end that connected to us must have said something. It keeps the port from others.
const HANDSHAKE: u64 = 5_000;

/// Connections looked at in one call.
const ACCEPTS_AT_ONCE: usize = 16;

/// What a port is made from.
#[derive(Clone, Debug)]
pub struct PortSetup {
    /// Its name.
    pub name: String,
    /// Where it meets its front-end.
    pub endpoint: Endpoint,
    /// Who may open the socket, where we make it.
    pub access: Access,
    /// The largest payload of a frame, in bytes; None for any.
    pub mtu: Option<u16>,
    /// What it may map.
    pub limits: Limits,
}

/// Which descriptor of a port became ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Somebody connects.
    Listener,
    /// The front-end said something, or takes something again.
    Connection,
}

impl Source {
    /// Epoll tokens of ports are below this number.
    pub const TOKENS: u64 = 1 << 17;

    /// The epoll token.
    #[must_use]
    pub fn token(self, port: PortId) -> u64 {
        u64::from(port.get()) << 1 | u64::from(self == Self::Connection)
    }

    /// The port and source of an epoll token; None for a token that is not a port's.
    #[must_use]
    pub fn from_token(token: u64) -> Option<(PortId, Self)> {
        let source = if token & 1 == 0 {
            Self::Listener
        } else {
            Self::Connection
        };
        let port = u16::try_from(token >> 1).ok().and_then(PortId::new)?;
        Some((port, source))
    }
}

/// Why a port could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its socket.
    #[error("port \"{name}\": {source}")]
    Bind {
        /// The port.
        name: String,
        /// Why.
        source: BindError,
    },
    /// The kernel refused to watch it.
    #[error("port \"{name}\": cannot watch its socket: {source}")]
    Watch {
        /// The port.
        name: String,
        /// What the system said.
        source: io::Error,
    },
}

/// A front-end, served.
#[derive(Debug)]
struct Connection {
    session: Session,
    peer: Option<Peer>,
    since: Tick,
    writing: bool,
}

#[derive(Debug)]
enum State {
    Waiting,
    Connected(Box<Connection>),
    Quarantined { why: String, until: Tick },
}

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error(transparent)]
    Session(#[from] SessionEnd),
    #[error("{0}")]
    Fault(Fault),
    #[error("the front-end said nothing for 5 s")]
    Silent,
    #[error("the port is closed")]
    Closing,
}

impl End {
    fn is_fault(&self) -> bool {
        match self {
            Self::Session(end) => end.is_violation(),
            Self::Fault(_) => true,
            Self::Silent | Self::Closing => false,
        }
    }
}

/// One port.
#[derive(Debug)]
pub struct Port {
    setup: PortSetup,
    lanes: Arc<Lanes>,
    epoll: Arc<OwnedFd>,
    listening: Option<Listening>,
    /// The listener is watched.
    watching: bool,
    state: State,
    /// When to try to connect, or to look at the listener again.
    again: Option<Tick>,
    rate: AcceptRate,
    back_off: BackOff,
    last_fault: Option<String>,
    log: LogLimiter,
    /// A connection ended that nobody asked for yet.
    ended: bool,
}

impl Port {
    /// Opens the port: binds and listens, or makes the first attempt to connect.
    ///
    /// # Errors
    /// The path cannot be had, or the kernel refused. Nothing stays behind.
    pub fn open(
        setup: PortSetup,
        lanes: Arc<Lanes>,
        epoll: Arc<OwnedFd>,
        now: Tick,
    ) -> Result<Self, OpenError> {
        let listening = match &setup.endpoint {
            Endpoint::Listen(path) => {
                Some(Listening::bind_for(path, &setup.access).map_err(|source| {
                    OpenError::Bind {
                        name: setup.name.clone(),
                        source,
                    }
                })?)
            }
            Endpoint::Connect(_) => None,
        };
        let mut port = Self {
            lanes,
            epoll,
            listening,
            watching: false,
            state: State::Waiting,
            again: None,
            rate: AcceptRate::new(now),
            back_off: BackOff::default(),
            last_fault: None,
            log: LogLimiter::new(10, 10),
            ended: false,
            setup,
        };
        port.lanes.set_mtu(port.setup.mtu);
        if let Some(listening) = &port.listening {
            let token = EventData::new_u64(Source::Listener.token(port.lanes.id()));
            epoll::add(&port.epoll, listening, token, EventFlags::IN).map_err(|errno| {
                OpenError::Watch {
                    name: port.setup.name.clone(),
                    source: errno.into(),
                }
            })?;
            port.watching = true;
        } else {
            port.call_out(now);
        }
        Ok(port)
    }

    /// The port's number.
    #[must_use]
    pub fn id(&self) -> PortId {
        self.lanes.id()
    }

    /// The port's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.setup.name
    }

    /// Whether a connection has ended since the last time that this was asked: what was known of the guest behind it is
    /// void, even if another one stands in its place already.
    pub fn take_ended(&mut self) -> bool {
        std::mem::take(&mut self.ended)
    }

    /// What the port has counted.
    #[must_use]
    pub fn counters(&self) -> PortSnapshot {
        self.lanes.counters().snapshot()
    }

    /// One of the port's descriptors is ready. A call for nothing does no harm.
    pub fn on_ready(&mut self, source: Source, now: Tick) {
        match source {
            Source::Listener => self.admit(now),
            Source::Connection => self.serve(now),
        }
    }

    /// The fault bell rang; it may have been for another port.
    pub fn on_fault(&mut self, now: Tick) {
        if let Some(fault) = self.lanes.fault() {
            self.end(&End::Fault(fault), now);
        }
    }

    /// When [`Port::on_deadline`] is to be called.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Tick> {
        let of_state = match &self.state {
            State::Waiting => None,
            State::Quarantined { until, .. } => Some(*until),
            State::Connected(connection) => [
                self.handshake_deadline(connection),
                connection.session.deadline().map(Tick::from_millis),
            ]
            .into_iter()
            .flatten()
            .min(),
        };
        [of_state, self.again].into_iter().flatten().min()
    }

    /// Time has passed. A call too early does no harm.
    pub fn on_deadline(&mut self, now: Tick) {
        match &self.state {
            State::Waiting => {}
            State::Quarantined { until, .. } => {
                if now < *until {
                    return;
                }
                self.state = State::Waiting;
                self.again = Some(now);
            }
            State::Connected(connection) => {
                if self
                    .handshake_deadline(connection)
                    .is_some_and(|at| at <= now)
                {
                    return self.end(&End::Silent, now);
                }
                if let Err(end) = connection.session.expired(now.as_millis()) {
                    return self.end(&End::Session(end), now);
                }
            }
        }
        if self.again.is_some_and(|at| at <= now) {
            self.again = None;
            match self.setup.endpoint {
                Endpoint::Listen(_) => self.watch(true),
                Endpoint::Connect(_) => self.call_out(now),
            }
        }
    }

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
        status
    }

    /// Ends the connection and gives up the socket; its file is removed.
    pub fn close(&mut self, now: Tick) {
        self.end(&End::Closing, now);
        self.watch(false);
        self.listening = None;
        self.again = None;
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

    fn handshake_deadline(&self, connection: &Connection) -> Option<Tick> {
        let listens = self.listening.is_some();
        (listens && !connection.session.has_spoken())
            .then(|| connection.since.after_millis(HANDSHAKE))
    }

    /// Tries to connect; the next attempt is set if it fails.
    fn call_out(&mut self, now: Tick) {
        let Endpoint::Connect(path) = &self.setup.endpoint else {
            return;
        };
        if !matches!(self.state, State::Waiting) {
            return;
        }
        match dial(path) {
            Ok(socket) => self.connected(socket, now),
            Err(_) => self.again = Some(now.after_millis(RETRY)),
        }
    }

    /// Takes the connections that wait: the first if the port is free, and closes the others.
    fn admit(&mut self, now: Tick) {
        for _ in 0..ACCEPTS_AT_ONCE {
            let Some(listening) = &self.listening else {
                return;
            };
            if !self.rate.allows(now) {
                return self.look_away(now);
            }
            match admit(listening) {
                Ok(Accepted::Connection(socket)) => {
                    self.rate.spend();
                    self.newcomer(socket, now);
                }
                Ok(Accepted::Nobody) => return,
                Ok(Accepted::Exhausted) => return self.look_away(now),
                Err(error) => {
                    self.say(now, |name, suppressed| {
                        tracing::error!(port = name, %error, suppressed, "cannot accept connections");
                    });
                    return self.look_away(now);
                }
            }
        }
    }

    fn newcomer(&mut self, socket: OwnedFd, now: Tick) {
        // The one before may have gone without our having looked yet.
        self.serve(now);
        if matches!(self.state, State::Waiting) {
            return self.connected(socket, now);
        }
        let peer = Peer::of(&socket).ok();
        drop(socket);
        self.lanes.counters().events.connections_refused.increment();
        let (pid, uid) = (peer.and_then(|peer| peer.pid), peer.map(|peer| peer.uid));
        self.say(now, |name, suppressed| {
            tracing::warn!(
                port = name,
                pid,
                uid,
                suppressed,
                "refused a connection: the port is in use"
            );
        });
    }

    fn connected(&mut self, socket: OwnedFd, now: Tick) {
        let peer = Peer::of(&socket).ok();
        let token = EventData::new_u64(Source::Connection.token(self.lanes.id()));
        if let Err(error) = epoll::add(&self.epoll, &socket, token, EventFlags::IN) {
            self.say(now, |name, suppressed| {
                tracing::error!(port = name, %error, suppressed, "cannot watch a connection");
            });
            self.again = Some(now.after_millis(RETRY));
            return;
        }
        let session = Session::new(socket, self.lanes.pairs(), self.setup.limits);
        self.state = State::Connected(Box::new(Connection {
            session,
            peer,
            since: now,
            writing: false,
        }));
        self.lanes.counters().events.connections.increment();
        let (pid, uid) = (peer.and_then(|peer| peer.pid), peer.map(|peer| peer.uid));
        self.say(now, |name, suppressed| {
            tracing::info!(port = name, pid, uid, suppressed, "front-end connected");
        });
    }

    /// Lets the session do what it can do now.
    fn serve(&mut self, now: Tick) {
        let State::Connected(connection) = &mut self.state else {
            return;
        };
        let mut device = Plug {
            lanes: &self.lanes,
            mtu: self.setup.mtu,
        };
        let session = &mut connection.session;
        // A panic here is a bug of ours that a front-end reached. It costs this port its connection (the session is
        // not used again but to be taken down) and nobody else anything.
        let step = catch_unwind(AssertUnwindSafe(|| {
            session.writable(now.as_millis())?;
            session.readable(&mut device, now.as_millis())
        }));
        let end = match step {
            Ok(Ok(())) => {
                if let Some(complaint) = session.take_complaint() {
                    self.say(now, |name, suppressed| {
                        tracing::warn!(port = name, complaint, suppressed, "refused a request");
                    });
                }
                return self.watch_connection();
            }
            Ok(Err(end)) => End::Session(end),
            Err(_) => End::Fault(Fault::Panicked),
        };
        self.end(&end, now);
    }

    /// Asks epoll for writability exactly while replies wait.
    fn watch_connection(&mut self) {
        let State::Connected(connection) = &mut self.state else {
            return;
        };
        let writing = connection.session.wants_write();
        if writing == connection.writing {
            return;
        }
        let token = EventData::new_u64(Source::Connection.token(self.lanes.id()));
        let flags = if writing {
            EventFlags::IN | EventFlags::OUT
        } else {
            EventFlags::IN
        };
        // If it fails the replies wait for the session's deadline, which ends the connection.
        if epoll::modify(&self.epoll, &connection.session, token, flags).is_ok() {
            connection.writing = writing;
        }
    }

    /// Takes the connection down, whatever ended it, and decides what comes next.
    fn end(&mut self, end: &End, now: Tick) {
        let state = std::mem::replace(&mut self.state, State::Waiting);
        if let State::Connected(mut connection) = state {
            let _ = epoll::delete(&self.epoll, &connection.session);
            connection.session.close(&mut Plug {
                lanes: &self.lanes,
                mtu: self.setup.mtu,
            });
            self.lanes.stop_all();
            self.lanes.set_mtu(self.setup.mtu);
        }
        self.lanes.forgive();
        self.ended = true;
        if end.is_fault() {
            return self.quarantine(end.to_string(), now);
        }
        self.say(
            now,
            |name, suppressed| tracing::info!(port = name, reason = %end, suppressed, "front-end gone"),
        );
        if matches!(self.setup.endpoint, Endpoint::Connect(_)) {
            self.again = Some(now.after_millis(RETRY));
        }
    }

    fn quarantine(&mut self, why: String, now: Tick) {
        self.lanes.counters().events.faults.increment();
        let wait = self.back_off.strike(now);
        self.say(now, |name, suppressed| {
            tracing::warn!(
                port = name,
                reason = why,
                wait_ms = wait,
                suppressed,
                "connection closed for a fault"
            );
        });
        self.last_fault = Some(why.clone());
        if wait > 0 {
            self.watch(false);
            self.again = None;
            self.state = State::Quarantined {
                why,
                until: now.after_millis(wait),
            };
        } else if matches!(self.setup.endpoint, Endpoint::Connect(_)) {
            self.again = Some(now.after_millis(RETRY));
        }
    }

    /// Leaves the listener alone for a while: those who wait there, wait.
    fn look_away(&mut self, now: Tick) {
        self.watch(false);
        self.again = Some(now.after_millis(AcceptRate::REST));
    }

    /// Watches the listener, or does not.
    fn watch(&mut self, watching: bool) {
        let Some(listening) = &self.listening else {
            return;
        };
        if watching == self.watching {
            return;
        }
        let token = EventData::new_u64(Source::Listener.token(self.lanes.id()));
        let flags = if watching {
            EventFlags::IN
        } else {
            EventFlags::empty()
        };
        if epoll::modify(&self.epoll, listening, token, flags).is_ok() {
            self.watching = watching;
        }
    }

    /// Logs, within the port's limit; `suppressed` is the number of lines that were held back before, if any.
    fn say(&self, now: Tick, line: impl FnOnce(&str, Option<u64>)) {
        if let Some(held) = self.log.admit(now) {
            line(&self.setup.name, (held > 0).then_some(held));
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.lanes.stop_all();
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
