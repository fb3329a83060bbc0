//! The vhost-user state machine of one connection.
//!
//! Promised to the port: whatever bytes and descriptors a front-end sends, at whatever speed, a [`Session`] neither
//! panics, waits, nor grows; it does what the specification says or refuses, and its [`Device`] sees only whole and
//! checked ring setups. Promised to the front-end: each request that asks for an answer gets one, in order.
//!
//! # Theory of operation
//!
//! A session is driven by its port: [`Session::readable`] when the socket has something, [`Session::writable`] when it
//! takes something again, [`Session::expired`] when the time of [`Session::deadline`] has come. Each call does a bounded
//! amount and returns. Bytes become messages in `wire`, messages become values in `message`, a table in `dispatch` finds
//! the function that serves a request, and what the requests say about rings is kept and acted on in `rings`, about
//! memory in `memory`.
//!
//! ```text
//! connected --GET/SET_FEATURES, PROTOCOL_FEATURES, SET_OWNER, QUEUE_NUM--> negotiated
//!     in any order: memory (SET_MEM_TABLE, ADD/REM_MEM_REG) and, for each ring, NUM, ADDR, BASE, KICK, CALL, ENABLE
//! a ring runs as soon as features, memory, NUM, ADDR and KICK are there
//! GET_VRING_BASE, RESET_DEVICE, status 0, or a part of it changing: it stops
//! ```
//!
//! # Refusals
//!
//! 1. *The stream is broken* (version, flags, length, too many descriptors): the connection ends.
//! 2. *A request is refused*: if REPLY_ACK was negotiated and the request asked for a reply and has none of its own, the
//!    answer is 1 and the conversation goes on. Otherwise the front-end would not know, and would go on from a state that we are not
//!    in: the connection ends.
//! 3. *A ring cannot be started* because of what the guest's driver may have written into its registers (size, addresses):
//!    the ring stays stopped, the refusal is told if that was asked, and the connection goes on. A guest must not be able to make
//!    its front-end look guilty.
//!
//! # Threads
//!
//! None here. The device stops a ring by taking it away from the workers; when [`Device::stop_ring`] has returned, nothing
//! reads or writes the ring or its buffers, so GET_VRING_BASE may be answered and memory may be given back (P-20, P-21).

mod backend;
mod dispatch;
pub mod features;
mod memory;
mod message;
mod refusal;
mod rings;
mod wire;

#[cfg(test)]
pub(crate) mod tests;

use std::error::Error;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use vhost::vhost_user::message::VhostUserProtocolFeatures as Protocol;

use crate::memory::{Call, GuestMemory, Kick, Limits};
use crate::ring::Layout;

use backend::Backend;
use dispatch::{Answer, Asked};
use rings::Ring;
use wire::Wire;

pub use refusal::{Broken, Refusal, SessionEnd};

/// Messages that one call of [`Session::readable`] handles at most, so that a talkative front-end delays no
/// other.
const MESSAGES_AT_ONCE: usize = 64;

/// A moment: milliseconds on a monotonic clock. The clock is the law's, and the law is not known here.
pub type Millis = u64;

/// Why a device would not start a ring.
pub type StartError = Box<dyn Error + Send + Sync>;

/// What came from a front-end and is not needed any more: descriptors, memory. Dropping it may take any time.
pub type Discarded = Box<dyn Send>;

/// Whether a ring is enabled (vhost-user: "Ring states").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enabled {
    /// It is.
    Yes,
    /// It is not, and the front-end has said so: nothing is supplied to it, and what it transmits is discarded.
    No,
    /// Nothing has been said yet: nothing is supplied to it, and what lies in it stays there.
    NotYet,
}

impl From<bool> for Enabled {
    fn from(enabled: bool) -> Self {
        if enabled { Self::Yes } else { Self::No }
    }
}

/// What a ring is started with. Complete and checked, but for the ring's own structures, which
/// the device checks.
#[derive(Debug)]
pub struct RingSetup {
    /// The memory that the ring and its buffers lie in.
    pub memory: Arc<GuestMemory>,
    /// Where the ring lies, in guest-physical addresses.
    pub layout: Layout,
    /// The virtio features that the guest's driver accepted; see [`features::effective`].
    pub features: u64,
    /// Written by the guest when it made buffers available; None: the ring is to be polled.
    pub kick: Option<Arc<Kick>>,
    /// Written by us when buffers were used; None: the guest polls.
    pub call: Option<Arc<Call>>,
    /// Written by us when the ring broke (vhost-user: SET_VRING_ERR); None: nobody asked for it.
    pub err: Option<Arc<Call>>,
    /// Whether it is enabled.
    pub enabled: Enabled,
}

/// What a session drives: the network device behind the protocol. Ring 2k is the receive ring of queue pair k (the guest
/// receives), ring 2k + 1 its transmit ring.
pub trait Device {
    /// Queue pairs; as many are announced, and twice as many rings exist.
    fn queue_pairs(&self) -> u16;

    /// The largest MTU that the front-end may set, in bytes; None for any.
    fn mtu(&self) -> Option<u16>;

    /// Starts a ring that does not run, from its used index on.
    ///
    /// # Errors
    /// The layout does not make a ring. Nothing was started.
    fn start_ring(&mut self, index: usize, setup: RingSetup) -> Result<(), StartError>;

    /// Stops a running ring and says the index of the next available entry. When this has returned, nothing
    /// reads or writes the ring or its buffers any more.
    fn stop_ring(&mut self, index: usize) -> u16;

    /// Enables or disables a running ring.
    fn enable_ring(&mut self, index: usize, enabled: bool);

    /// Replaces the call descriptor of a running ring.
    fn set_call(&mut self, index: usize, call: Option<Arc<Call>>);

    /// Replaces the error descriptor of a running ring.
    fn set_err(&mut self, index: usize, err: Option<Arc<Call>>);

    /// Announces `mac` to the segment (vhost-user: SEND_RARP).
    fn announce(&mut self, mac: [u8; 6]);

    /// The front-end told the guest this MTU, in bytes (vhost-user: NET_SET_MTU).
    fn mtu_changed(&mut self, mtu: u16);

    /// The device was reset (vhost-user: RESET_DEVICE). All its rings are stopped.
    fn reset(&mut self);

    /// Takes what is to be dropped, which may take any time: a descriptor may belong to a file server that does not
    /// answer, and a mapping may be large (P-17).
    fn discard(&mut self, what: Discarded);

    /// Whether what was discarded before is gone. The session reads no message until it is.
    fn is_clear(&self) -> bool;
}

/// What a session has negotiated, for status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Virtio features as accepted; None before SET_FEATURES.
    pub features: Option<u64>,
    /// Protocol features as accepted.
    pub protocol: u64,
    /// Memory regions shared.
    pub regions: usize,
    /// Bytes in them.
    pub bytes: u64,
    /// Requests served.
    pub served: u64,
    /// Requests refused.
    pub refused: u64,
}

/// One connection.
#[derive(Debug)]
pub struct Session {
    wire: Wire,
    backend: Backend,
    served: u64,
    refused: u64,
    /// The last refusal, until somebody asks.
    complaint: Option<String>,
}

impl Session {
    /// A session on a connected stream socket, for a device with `pairs` queue pairs that may map `limits`.
    #[must_use]
    pub fn new(socket: OwnedFd, pairs: u16, limits: Limits) -> Self {
        let rings = (0..usize::from(pairs).saturating_mul(2))
            .map(Ring::new)
            .collect();
        let shared = memory::Shared::new(limits);
        let backend = Backend {
            shared,
            features: None,
            protocol: 0,
            status: 0,
            rings,
        };
        Self {
            wire: Wire::new(socket),
            backend,
            served: 0,
            refused: 0,
            complaint: None,
        }
    }

    /// Reads and serves what the socket has, a bounded number of messages and as long as the device is clear
    /// ([`Device::is_clear`]); the socket stays readable if there is more.
    ///
    /// # Errors
    /// The connection is over: [`Session::close`] is to be called.
    pub fn readable(&mut self, device: &mut dyn Device, now: Millis) -> Result<(), SessionEnd> {
        for _ in 0..MESSAGES_AT_ONCE {
            if !device.is_clear() {
                return Ok(());
            }
            let Some(message) = self.wire.receive(now)? else {
                return Ok(());
            };
            let header = message.header;
            let mut asked = Asked {
                body: message.body,
                fds: message.fds,
            };
            let row = dispatch::find(header.request);
            let result = match row {
                Some(row) => row
                    .admit(&self.backend, &asked)
                    .and_then(|()| (row.serve)(&mut self.backend, &mut asked, device)),
                None => Err(Refusal::Unknown(header.request)),
            };
            let replies = row.is_some_and(|row| row.replies);
            self.discard(device);
            self.answer(header, replies, result, now)?;
        }
        Ok(())
    }

    /// Gives away what a message left behind: descriptors that it did not need, or only to map them, and the memory whose
    /// place it gave to other.
    fn discard(&mut self, device: &mut dyn Device) {
        let fds = self.wire.take_fds();
        let memory = self.backend.shared.take_old();
        if !fds.is_empty() || memory.is_some() {
            device.discard(Box::new((fds, memory)));
        }
    }

    /// Answers a request, once, if it has a reply of its own or asked for one. Whether it may ask is judged after it was
    /// served: SET_PROTOCOL_FEATURES with REPLY_ACK may itself ask.
    fn answer(
        &mut self,
        header: message::Header,
        replies: bool,
        result: Result<Answer, Refusal>,
        now: Millis,
    ) -> Result<(), SessionEnd> {
        let asks = header.need_reply && self.backend.protocol & Protocol::REPLY_ACK.bits() != 0;
        let refusal = match result {
            Ok(answer) => {
                self.served = self.served.saturating_add(1);
                if replies || asks {
                    self.wire.reply(header.request, &answer.body(), now)?;
                }
                return Ok(());
            }
            Err(refusal) => refusal,
        };
        let request = dispatch::name(header.request);
        self.refused = self.refused.saturating_add(1);
        self.complaint = Some(format!("{request}: {refusal}"));
        if asks && !replies {
            return self.wire.reply(header.request, &1u64.to_ne_bytes(), now);
        }
        if refusal.is_guests_own() && !replies {
            Ok(())
        } else {
            Err(SessionEnd::Refused { request, refusal })
        }
    }

    /// Sends replies that waited for the socket.
    ///
    /// # Errors
    /// The connection is over.
    pub fn writable(&mut self, now: Millis) -> Result<(), SessionEnd> {
        self.wire.flush(now)
    }

    /// Whether replies wait for the socket to become writable.
    #[must_use]
    pub fn wants_write(&self) -> bool {
        self.wire.wants_write()
    }

    /// When [`Session::expired`] is to be asked, if the front-end does nothing until then.
    #[must_use]
    pub fn deadline(&self) -> Option<Millis> {
        self.wire.deadline()
    }

    /// Whether the front-end left a message unfinished or a reply unread for too long.
    ///
    /// # Errors
    /// It did, and the connection is over.
    pub fn expired(&self, now: Millis) -> Result<(), SessionEnd> {
        self.wire.overdue(now).map_or(Ok(()), Err)
    }

    /// Stops every ring. To be called before the session is dropped, whatever ended it. Dropping it may take any time, as with
    /// what is discarded: its socket may hold descriptors that were never read.
    pub fn close(&mut self, device: &mut dyn Device) {
        for ring in &mut self.backend.rings {
            ring.retire(device);
        }
    }

    /// Whether any message was served or refused.
    #[must_use]
    pub fn has_spoken(&self) -> bool {
        self.served.saturating_add(self.refused) > 0
    }

    /// The last refusal since this was asked before, for the log.
    pub fn take_complaint(&mut self) -> Option<String> {
        self.complaint.take()
    }

    /// Whether any ring runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.backend.rings.iter().any(Ring::is_running)
    }

    /// Rings that were not started though all was said about them, and why.
    pub fn problems(&self) -> impl Iterator<Item = (usize, &str)> {
        self.backend
            .rings
            .iter()
            .enumerate()
            .filter_map(|(index, ring)| Some((index, ring.problem()?)))
    }

    /// What was negotiated.
    #[must_use]
    pub fn terms(&self) -> Terms {
        let table = self.backend.shared.table();
        Terms {
            features: self.backend.features,
            protocol: self.backend.protocol,
            regions: table.map_or(0, |table| table.regions().len()),
            bytes: table.map_or(0, |table| table.bytes()),
            served: self.served,
            refused: self.refused,
        }
    }
}

impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wire.as_fd()
    }
}
