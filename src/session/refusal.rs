//! Why a request was not carried out, and why a connection ended.

use std::io;

use super::StartError;
use crate::memory::{DoorbellError, MapError, TableError};

/// What breaks the stream of messages itself. The connection ends: nobody knows where the next message starts, or
/// which descriptors belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The version in the header is not 1.
    #[error("protocol version {0} in a header; only version 1 exists")]
    Version(u32),
    /// The REPLY flag in a request.
    #[error("a reply, though nothing was asked")]
    ReplyToNothing,
    /// Flags without a meaning.
    #[error("reserved flags in a header: {0:#x}")]
    ReservedFlags(u32),
    /// A body longer than any request's.
    #[error("a body of {0} bytes; no request is that long")]
    TooLong(u32),
    /// More descriptors than a message can use.
    #[error("more file descriptors in one message than any request takes")]
    TooManyFds,
}

/// Why one request was refused. It had no effect, other than to leave stopped what it would have changed.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The request is not known, or not one that this device serves.
    #[error("request {0} is not served here")]
    Unknown(u32),
    /// The request belongs to a protocol feature that was not negotiated.
    #[error("its protocol feature was not negotiated")]
    NotNegotiated,
    /// The body has the wrong size for the request.
    #[error("its body has {found} bytes instead of {expected}")]
    BodySize {
        /// In bytes.
        expected: usize,
        /// In bytes.
        found: usize,
    },
    /// The request came with too few or too many descriptors.
    #[error("{found} file descriptors came with it, {expected} expected")]
    FdCount {
        /// The most it may bring.
        expected: usize,
        /// What it brought.
        found: usize,
    },
    /// Bits that have no meaning are set.
    #[error("bits without meaning in {0:#x}")]
    ReservedBits(u64),
    /// No such ring.
    #[error("ring {index} does not exist, there are {rings}")]
    NoSuchRing {
        /// Asked for.
        index: u32,
        /// Rings of the port.
        rings: usize,
    },
    /// Bits were accepted that had not been offered.
    #[error("features {0:#x} were not offered")]
    NotOffered(u64),
    /// SET_MEM_TABLE with no region or too many.
    #[error("{found} memory regions in one table, 1 to 64 expected")]
    RegionCount {
        /// Regions named.
        found: u32,
    },
    /// A region overlaps one that is there and is not the same.
    #[error("the region at guest address {0:#x} overlaps another one, or is only a part of it")]
    RegionOverlap(u64),
    /// A region could not be mapped.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The regions do not make a memory.
    #[error(transparent)]
    Table(#[from] TableError),
    /// A kick or call descriptor is not an eventfd.
    #[error(transparent)]
    Doorbell(#[from] DoorbellError),
    /// A value out of its range.
    #[error("{what} {value} is out of range")]
    Range {
        /// What it is.
        what: &'static str,
        /// What was asked for.
        value: u64,
    },
    /// A ring size that a split virtqueue cannot have (VIRTIO 1.2, 2.7).
    #[error("ring {index}: size {size} is not a power of two from 2 to 32768")]
    RingSize {
        /// The ring.
        index: usize,
        /// Asked for.
        size: u32,
    },
    /// A ring part is not aligned as VIRTIO 1.2, 2.7 asks.
    #[error("ring {index}: {part} at {address:#x} is not aligned")]
    RingAlignment {
        /// The ring.
        index: usize,
        /// Descriptor table, available ring or used ring.
        part: &'static str,
        /// The front-end's address.
        address: u64,
    },
    /// A ring part lies outside the memory that was shared.
    #[error("ring {index}: {part} at {address:#x} is not in shared memory")]
    RingNotInMemory {
        /// The ring.
        index: usize,
        /// Descriptor table, available ring or used ring.
        part: &'static str,
        /// The front-end's address.
        address: u64,
    },
    /// The ring was refused when it was to start.
    #[error("ring {index}: {source}")]
    RingStart {
        /// The ring.
        index: usize,
        /// Why.
        source: StartError,
    },
}

impl Refusal {
    /// Whether the guest alone may have caused it, by what it wrote into its device's registers. Such a
    /// refusal stops the ring; the front-end did nothing wrong and keeps its connection.
    pub(super) const fn is_guests_own(&self) -> bool {
        matches!(
            self,
            Self::RingSize { .. }
                | Self::RingAlignment { .. }
                | Self::RingNotInMemory { .. }
                | Self::RingStart { .. }
        )
    }
}

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
pub enum SessionEnd {
    /// The front-end closed it.
    #[error("the front-end closed the connection")]
    Closed,
    /// The socket failed.
    #[error("the socket failed: {0}")]
    Socket(#[from] io::Error),
    /// The front-end broke the protocol's framing.
    #[error("protocol violation: {0}")]
    Broken(#[from] Broken),
    /// A request was refused and the front-end had not asked to be told.
    #[error("protocol violation: {request}: {refusal}")]
    Refused {
        /// Its name.
        request: String,
        /// Why.
        refusal: Refusal,
    },
    /// A message was begun and not finished in time.
    #[error("protocol violation: a message was begun and not finished in 5 s")]
    Stalled,
    /// The front-end asks and does not read the answers.
    #[error("protocol violation: the front-end does not read its replies")]
    Unread,
    /// The kernel had no descriptor left to put one of the front-end's into, or may not pass it.
    #[error(
        "what the front-end passed could not be taken: this process is out of file descriptors; raise its limit (systemd: LimitNOFILE=)"
    )]
    NoDescriptors,
}

impl SessionEnd {
    /// Whether the front-end is to blame, so that the port is quarantined.
    #[must_use]
    pub const fn is_violation(&self) -> bool {
        !matches!(self, Self::Closed | Self::Socket(_) | Self::NoDescriptors)
    }
}
