//! Where a port meets its front-end: a socket that we listen on, or one that we connect to.
//!
//! Promised: no call here waits for a peer. Connecting to a Unix socket succeeds or fails at once; a full queue at the other
//! side is a failure like any other and is tried again.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, connect, socket_with,
};

use super::socket::Listening;
use crate::clock::Tick;

/// Which side of the socket we are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// We make the socket and the front-end connects.
    Listen(PathBuf),
    /// The front-end makes it, and we connect, again and again.
    Connect(PathBuf),
}

impl Endpoint {
    /// The socket's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Listen(path) | Self::Connect(path) => path,
        }
    }
}

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

/// Connects to the socket at `path`.
///
/// # Errors
/// Nobody listens there, nothing is there, its queue is full, or it is not ours to use.
pub(super) fn dial(path: &Path) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, FLAGS, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// What came of looking for a connection.
#[derive(Debug)]
pub(super) enum Accepted {
    /// Somebody.
    Connection(OwnedFd),
    /// Nobody waits.
    Nobody,
    /// The process is out of descriptors or memory; nobody can be let in for now (O-7).
    Exhausted(Errno),
}

/// Takes one connection from the queue.
///
/// # Errors
/// The listening socket failed.
pub(super) fn admit(listening: &Listening) -> io::Result<Accepted> {
    loop {
        return match accept_with(listening, FLAGS) {
            Ok(socket) => Ok(Accepted::Connection(socket)),
            Err(Errno::AGAIN) => Ok(Accepted::Nobody),
            Err(Errno::INTR | Errno::CONNABORTED) => continue,
            Err(errno @ (Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)) => {
                Ok(Accepted::Exhausted(errno))
            }
            Err(error) => Err(error.into()),
        };
    }
}

/// How many connections a port looks at: a burst, and then a steady rate (P-29).
#[derive(Clone, Copy, Debug)]
pub(super) struct AcceptRate {
    tokens: u64,
    counted: Tick,
}

impl AcceptRate {
    /// Connections at once.
    pub(super) const BURST: u64 = 32;
    /// Milliseconds in which one more is earned.
    pub(super) const EARN: u64 = 10;
    /// Milliseconds for which a port that spent all looks away.
    pub(super) const REST: u64 = 100;

    pub(super) fn new(now: Tick) -> Self {
        Self {
            tokens: Self::BURST,
            counted: now,
        }
    }

    /// Whether one more may be taken now.
    pub(super) fn allows(&mut self, now: Tick) -> bool {
        let earned = now.millis_since(self.counted) / Self::EARN;
        if earned > 0 {
            self.tokens = self.tokens.saturating_add(earned).min(Self::BURST);
            self.counted = now;
        }
        self.tokens > 0
    }

    /// One was taken.
    pub(super) fn spend(&mut self) {
        self.tokens = self.tokens.saturating_sub(1);
    }
}

/// How long a port that had faults waits before the next connection.
///
/// The first fault costs nothing: a front-end that is started again must find the port. Repeated ones
/// cost 1 s, 2 s, 4 s and so on up to 30 s; a minute without a fault pays for all.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BackOff {
    strikes: u32,
    last: Option<Tick>,
}

impl BackOff {
    const LONGEST: u64 = 30_000;
    const FORGIVEN_AFTER: u64 = 60_000;

    /// A fault happened. Milliseconds to wait.
    pub(super) fn strike(&mut self, now: Tick) -> u64 {
        if self
            .last
            .is_some_and(|last| now.millis_since(last) >= Self::FORGIVEN_AFTER)
        {
            self.strikes = 0;
        }
        self.last = Some(now);
        let doublings = self.strikes.checked_sub(1);
        self.strikes = self.strikes.saturating_add(1);
        doublings.map_or(0, |n| {
            1_000u64
                .checked_shl(n.min(10))
                .unwrap_or(Self::LONGEST)
                .min(Self::LONGEST)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_fault_is_free_and_the_wait_is_bounded() {
        let mut back_off = BackOff::default();
        let now = Tick::from_secs(100);
        let waits: Vec<u64> = (0..9).map(|_| back_off.strike(now)).collect();
        assert_eq!(
            waits,
            [
                0, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000
            ]
        );
        assert_eq!(back_off.strike(now.after_millis(60_000)), 0);
    }

    #[test]
    fn p_29_connections_are_taken_in_a_burst_and_then_at_a_rate() {
        let now = Tick::from_secs(5);
        let mut rate = AcceptRate::new(now);
        let mut take = |now| {
            (0..1000)
                .filter(|_| {
                    let allowed = rate.allows(now);
                    if allowed {
                        rate.spend();
                    }
                    allowed
                })
                .count() as u64
        };
        assert_eq!(take(now), AcceptRate::BURST);
        assert_eq!(take(now.after_millis(5 * AcceptRate::EARN)), 5);
    }

    #[test]
    fn dialling_nobody_fails_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("nobody.sock");
        assert_eq!(dial(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert_eq!(
            dial(&path).unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
    }
}
