//! Who comes to a port: connections that are made to it, and those that it makes.

use std::os::fd::OwnedFd;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::net::{Shutdown, shutdown};

use super::endpoint::{AcceptRate, Accepted, Endpoint, admit, dial};
use super::port::{Connection, Port, RETRY, Source, State};
use super::socket::Peer;
use crate::clock::Tick;
use crate::session::Session;

/// Connections looked at in one call.
const ACCEPTS_AT_ONCE: usize = 16;

impl Port {
    /// Tries to connect; the next attempt is set if it fails.
    pub(super) fn call_out(&mut self, now: Tick) {
        let Endpoint::Connect(path) = &self.setup.endpoint else {
            return;
        };
        if !matches!(self.state, State::Waiting) {
            return;
        }
        if self.closer.is_busy() {
            self.held = true;
            return;
        }
        match dial(path) {
            Ok(socket) => self.connected(socket, now),
            Err(_) => self.again = Some(now.after_millis(RETRY)),
        }
    }

    /// Takes the connections that wait: the first if the port is free, and closes the others.
    pub(super) fn admit(&mut self, now: Tick) {
        for _ in 0..ACCEPTS_AT_ONCE {
            if !self.rate.allows(now) {
                return self.look_away(now);
            }
            // The one before may have gone without our having looked yet.
            self.serve(now);
            if self.shuts_out() {
                self.held = true;
                return self.watch(false);
            }
            let Some(listening) = &self.listening else {
                return;
            };
            match admit(listening) {
                Ok(Accepted::Connection(socket)) => {
                    self.rate.spend();
                    self.newcomer(socket, now);
                }
                Ok(Accepted::Nobody) => return,
                Ok(Accepted::Exhausted(error)) => {
                    self.say(now, |name, suppressed| {
                        tracing::error!(
                            port = name,
                            %error,
                            suppressed,
                            "nobody can be let in: this process is out of file descriptors or memory; raise its limits \
                             (systemd: LimitNOFILE=)"
                        );
                    });
                    return self.look_away(now);
                }
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
        if matches!(self.state, State::Waiting) {
            return self.connected(socket, now);
        }
        let peer = Peer::of(&socket).ok();
        let _ = shutdown(&socket, Shutdown::Both);
        self.strangers.close(Box::new(socket));
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
            self.closer.close(Box::new(socket));
            self.again = Some(now.after_millis(RETRY));
            return;
        }
        let session = Session::new(socket, self.lanes.pairs(), self.setup.limits);
        self.state = State::Connected(Box::new(Connection {
            session,
            peer,
            since: now,
            watched: EventFlags::IN,
        }));
        self.lanes.counters().events.connections.increment();
        let (pid, uid) = (peer.and_then(|peer| peer.pid), peer.map(|peer| peer.uid));
        self.say(now, |name, suppressed| {
            tracing::info!(port = name, pid, uid, suppressed, "front-end connected");
        });
    }

    /// Leaves the listener alone for a while: those who wait there, wait.
    fn look_away(&mut self, now: Tick) {
        self.watch(false);
        self.again = Some(now.after_millis(AcceptRate::REST));
    }

    /// Watches the listener, or does not.
    pub(super) fn watch(&mut self, watching: bool) {
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
}
