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
//! - Whatever ends a connection ends the same way: every ring is stopped, the socket shut down, and memory and descriptors
//!   given to the [`Closer`]. A fault is also counted, and repeated faults make the port look away for a while (`BackOff`).
//! - While the closer is busy, the port neither lets anybody in nor reads what its front-end says. Usually that is over before
//!   anybody looks; when it takes more than a second, status and log say so. Connections that are refused have a closer of their own:
//!   one of them that hangs keeps further strangers waiting, and not the owner.
//! - A broken ring stops by itself and is shown as quarantined; its connection goes on, and the front-end mends it
//!   by stopping and starting it (a guest that reboots does).
//! - A port that connects tries every 100 ms.
//!
//! # Who calls
//!
//! One thread, the attendant. It gives its epoll when it opens the port; the port registers its own descriptors with
//! tokens that [`Source::from_token`] understands, all level-triggered. The attendant calls [`Port::on_ready`] for each
//! event, [`Port::on_bell`] when the bell rang, [`Port::on_deadline`] when the time of [`Port::next_deadline`] has
//! come, and [`Port::on_second`] once a second. None of them waits.

use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{Shutdown, shutdown};

use super::closer::Closer;
use super::endpoint::{AcceptRate, BackOff, Endpoint};
use super::lanes::{Fault, Lanes};
use super::plug::Plug;
use super::socket::{Access, BindError, Listening, Peer};
use crate::clock::Tick;
use crate::counters::{LogLimiter, PortId, PortSnapshot};
use crate::memory::Limits;
use crate::session::{Session, SessionEnd};

/// Milliseconds between two attempts to connect.
pub(super) const RETRY: u64 = 100;

/// Milliseconds in which a front-end that connected to us must have said something. It keeps the port from others.
const HANDSHAKE: u64 = 5_000;

/// Why a port with a busy closer lets nobody in.
pub(super) const STUCK: &str = "what a front-end gave cannot be closed yet: a file whose server does not answer, or very much memory; \
    nobody is let in, and no request served, until it is";

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
    #[error("port \"{name}\": its socket cannot be had")]
    Bind {
        /// The port.
        name: String,
        /// Why.
        source: BindError,
    },
    /// The kernel refused to watch it.
    #[error("port \"{name}\": its socket cannot be watched")]
    Watch {
        /// The port.
        name: String,
        /// What the system said.
        source: io::Error,
    },
}

/// A front-end, served.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) session: Session,
    pub(super) peer: Option<Peer>,
    pub(super) since: Tick,
    /// What epoll is asked for.
    pub(super) watched: EventFlags,
}

#[derive(Debug)]
pub(super) enum State {
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
    pub(super) setup: PortSetup,
    pub(super) lanes: Arc<Lanes>,
    pub(super) closer: Closer,
    /// What drops connections that were refused, with what they left unread: they are not the owner's, who is not to wait for it.
    pub(super) strangers: Closer,
    /// A closer was found busy, and something was left undone.
    pub(super) held: bool,
    /// How far the closer was a second ago, and whether it got no further since.
    progress: Option<u64>,
    pub(super) stuck: bool,
    pub(super) epoll: Arc<OwnedFd>,
    pub(super) listening: Option<Listening>,
    /// The listener is watched.
    pub(super) watching: bool,
    pub(super) state: State,
    /// When to try to connect, or to look at the listener again.
    pub(super) again: Option<Tick>,
    pub(super) rate: AcceptRate,
    pub(super) back_off: BackOff,
    pub(super) last_fault: Option<String>,
    pub(super) log: LogLimiter,
    /// A connection ended that nobody asked for yet.
    pub(super) ended: bool,
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
        let mut port = Self::prepare(setup, lanes, epoll, now)?;
        port.begin(now);
        Ok(port)
    }

    /// The first half of [`Port::open`], which can fail: the socket is there, and who connects to it waits. Any thread may
    /// do this; dropping the port takes it back.
    ///
    /// # Errors
    /// Those of [`Port::open`].
    pub fn prepare(
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
        let mut port = Self::heir(setup, lanes, epoll, now);
        if let Some(listening) = &listening {
            let token = EventData::new_u64(Source::Listener.token(port.lanes.id()));
            epoll::add(&port.epoll, listening, token, EventFlags::empty()).map_err(|errno| {
                OpenError::Watch {
                    name: port.setup.name.clone(),
                    source: errno.into(),
                }
            })?;
        }
        port.listening = listening;
        Ok(port)
    }

    /// A port that will get its socket from another, by [`Port::inherit`]: a file that somebody knows is not taken away from
    /// under those who wait at it. The epoll must be the other's too.
    #[must_use]
    pub fn heir(setup: PortSetup, lanes: Arc<Lanes>, epoll: Arc<OwnedFd>, now: Tick) -> Self {
        lanes.set_mtu(setup.mtu);
        Self {
            closer: Closer::new(Arc::clone(lanes.bell())),
            strangers: Closer::new(Arc::clone(lanes.bell())),
            held: false,
            progress: None,
            stuck: false,
            lanes,
            epoll,
            listening: None,
            watching: false,
            state: State::Waiting,
            again: None,
            rate: AcceptRate::new(now),
            back_off: BackOff::default(),
            last_fault: None,
            log: LogLimiter::new(10, 10),
            ended: false,
            setup,
        }
    }

    /// Where the port listens, if the file there is still its own: then it can be inherited.
    #[must_use]
    pub fn listens_at(&self) -> Option<&Path> {
        let listening = self.listening.as_ref();
        let in_place = listening.filter(|listening| listening.is_in_place());
        in_place.map(Listening::path)
    }

    /// Takes over the socket of `other`, which is closed by that.
    pub fn inherit(&mut self, other: &mut Self, now: Tick) {
        other.end(&End::Closing, now);
        other.watch(false);
        other.again = None;
        self.listening = other.listening.take();
        if let Some(listening) = &self.listening {
            let token = EventData::new_u64(Source::Listener.token(self.lanes.id()));
            // The descriptor is in the epoll already; nothing is allocated, so there is nothing to fail.
            let _ = epoll::modify(&self.epoll, listening, token, EventFlags::empty());
        }
    }

    /// The second half of [`Port::open`]: those who wait are served from now on, or the first attempt to connect is made.
    /// For the attendant, when the workers know the port.
    pub fn begin(&mut self, now: Tick) {
        match self.setup.endpoint {
            Endpoint::Listen(_) => {
                self.watch(true);
                if !self.watching {
                    self.again = Some(now.after_millis(AcceptRate::REST));
                }
            }
            Endpoint::Connect(_) => self.call_out(now),
        }
    }

    /// The port's number.
    #[must_use]
    pub fn id(&self) -> PortId {
        self.lanes.id()
    }

    /// The half that the workers see.
    #[must_use]
    pub fn lanes(&self) -> &Arc<Lanes> {
        &self.lanes
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

    /// The bell rang, for a fault or since a closer is through; it may have been for another port.
    pub fn on_bell(&mut self, now: Tick) {
        if let Some(fault) = self.lanes.fault() {
            self.end(&End::Fault(fault), now);
        }
        self.resume(now);
    }

    /// A second has passed, or so.
    pub fn on_second(&mut self, now: Tick) {
        self.closer.tend();
        self.strangers.tend();
        let progress = self.closer.progress();
        let stuck = progress.is_some() && progress == self.progress;
        if stuck && !self.stuck {
            self.say(now, |name, suppressed| {
                tracing::warn!(port = name, reason = STUCK, suppressed, "port held up");
            });
        }
        (self.progress, self.stuck) = (progress, stuck);
    }

    /// Goes on where a busy closer held the port up, if it did and is through.
    fn resume(&mut self, now: Tick) {
        if !self.held || self.closer.is_busy() {
            return;
        }
        self.held = false;
        self.serve(now);
        if self.shuts_out() {
            self.held = true;
            return;
        }
        if !matches!(self.state, State::Quarantined { .. }) && self.again.is_none() {
            self.look(now);
        }
    }

    /// Whether nobody can be let in, or sent away, before a closer is through.
    pub(super) fn shuts_out(&self) -> bool {
        let is_free = matches!(self.state, State::Waiting);
        self.closer.is_busy() || !is_free && self.strangers.is_busy()
    }

    /// Looks for somebody who connects, or to connect to.
    fn look(&mut self, now: Tick) {
        match self.setup.endpoint {
            Endpoint::Listen(_) => self.watch(true),
            Endpoint::Connect(_) => self.call_out(now),
        }
    }

    /// When [`Port::on_deadline`] is to be called.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Tick> {
        let of_state = match &self.state {
            State::Waiting => None,
            State::Quarantined { until, .. } => Some(*until),
            // What we do not read is not late.
            State::Connected(_) if self.closer.is_busy() => None,
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
            State::Connected(_) if self.closer.is_busy() => {}
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
            self.look(now);
        }
    }

    /// Ends the connection and gives up the socket; its file is removed.
    pub fn close(&mut self, now: Tick) {
        self.end(&End::Closing, now);
        self.watch(false);
        self.listening = None;
        self.again = None;
        self.held = false;
    }

    /// Waits until all that came from front-ends is closed, or for so long. The only call that waits: for the end of the switch.
    pub fn drain(&self, patience: Duration) {
        self.closer.wait(patience);
        self.strangers.wait(patience);
    }

    fn handshake_deadline(&self, connection: &Connection) -> Option<Tick> {
        let listens = self.listening.is_some();
        (listens && !connection.session.has_spoken())
            .then(|| connection.since.after_millis(HANDSHAKE))
    }

    /// Lets the session do what it can do now.
    pub(super) fn serve(&mut self, now: Tick) {
        let State::Connected(connection) = &mut self.state else {
            return;
        };
        let mut device = Plug {
            lanes: &self.lanes,
            closer: &self.closer,
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
                if !self.gone_unheard() {
                    return self.watch_connection();
                }
                End::Session(SessionEnd::Closed)
            }
            Ok(Err(end)) => End::Session(end),
            Err(_) => End::Fault(Fault::Panicked),
        };
        self.end(&end, now);
    }

    /// Whether the front-end went away while the closer keeps us from reading that it did. What it said before that is not
    /// served any more.
    fn gone_unheard(&self) -> bool {
        let State::Connected(connection) = &self.state else {
            return false;
        };
        if !self.closer.is_busy() {
            return false;
        }
        let mut looked_at = [PollFd::new(&connection.session, PollFlags::empty())];
        let looked = poll(&mut looked_at, Some(&Timespec::default()));
        looked.is_ok_and(|ready| ready > 0)
    }

    /// Asks epoll for writability exactly while replies wait, and for nothing to read while the closer is busy.
    fn watch_connection(&mut self) {
        let State::Connected(connection) = &mut self.state else {
            return;
        };
        let mut wanted = EventFlags::empty();
        if self.closer.is_busy() {
            self.held = true;
        } else {
            wanted |= EventFlags::IN;
        }
        if connection.session.wants_write() {
            wanted |= EventFlags::OUT;
        }
        if wanted == connection.watched {
            return;
        }
        let token = EventData::new_u64(Source::Connection.token(self.lanes.id()));
        // If it fails the replies wait for the session's deadline, which ends the connection.
        if epoll::modify(&self.epoll, &connection.session, token, wanted).is_ok() {
            connection.watched = wanted;
        }
    }

    /// Takes the connection down, whatever ended it, and decides what comes next.
    fn end(&mut self, end: &End, now: Tick) {
        let state = std::mem::replace(&mut self.state, State::Waiting);
        if let State::Connected(mut connection) = state {
            let _ = epoll::delete(&self.epoll, &connection.session);
            connection.session.close(&mut Plug {
                lanes: &self.lanes,
                closer: &self.closer,
                mtu: self.setup.mtu,
            });
            self.lanes.stop_all();
            self.lanes.set_mtu(self.setup.mtu);
            // The front-end hears of it now, whatever hangs in the closer.
            let _ = shutdown(&connection.session, Shutdown::Both);
            self.closer.close(connection);
        }
        self.lanes.forgive();
        self.ended = true;
        if end.is_fault() {
            return self.quarantine(end.to_string(), now);
        }
        self.say(now, |name, suppressed| {
            if matches!(end, End::Session(SessionEnd::NoDescriptors)) {
                tracing::error!(port = name, reason = %end, suppressed, "connection closed");
            } else {
                tracing::info!(port = name, reason = %end, suppressed, "front-end gone");
            }
        });
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

    /// Logs, within the port's limit; `suppressed` is the number of lines that were held back before, if any.
    pub(super) fn say(&self, now: Tick, line: impl FnOnce(&str, Option<u64>)) {
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
