//! What can go wrong on the guest's side.

use std::{io, time::Duration};

/// An error of the guest in software: its own mistake, or a back-end that broke the specification.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed; `what` names the step.
    #[error("{what}: {source}")]
    Io {
        /// The step that failed.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The peer did not answer in time.
    #[error("{what}: no answer within {after:?}")]
    Timeout {
        /// What was waited for.
        what: &'static str,
        /// How long.
        after: Duration,
    },
    /// The peer closed the connection.
    #[error("{what}: the back-end closed the connection")]
    Closed {
        /// What was under way.
        what: &'static str,
    },
    /// The back-end answered, but not as the vhost-user protocol says.
    #[error("vhost-user: {0}")]
    Protocol(String),
    /// The back-end answered a request with a non-zero code.
    #[error("vhost-user: the back-end refused request {request} with code {code}")]
    Refused {
        /// The number of the request.
        request: u32,
        /// The code in the reply.
        code: u64,
    },
    /// An address that lies in no region of the guest's memory.
    #[error("guest memory: {len} bytes at {gpa:#x} lie in no region")]
    NoRegion {
        /// The guest-physical address.
        gpa: u64,
        /// The length of the access.
        len: u64,
    },
    /// A ring that has not enough free descriptors; nothing was added.
    #[error("ring full: {wanted} descriptors wanted, {free} free")]
    Full {
        /// Descriptors that the chain needs.
        wanted: usize,
        /// Descriptors that are free.
        free: usize,
    },
    /// The device broke the rules of the ring or of the network header (VIRTIO 1.2, 2.7 and 5.1.6).
    #[error("device: {0}")]
    Device(String),
    /// The caller asked for something that cannot be.
    #[error("{0}")]
    Misuse(String),
}

impl Error {
    /// Names the step `what` for a failed system call.
    pub fn io(what: &'static str, source: impl Into<io::Error>) -> Self {
        Self::Io {
            what,
            source: source.into(),
        }
    }

    /// Whether this is [`Error::Full`].
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. })
    }
}
