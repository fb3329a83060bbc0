//! Every request of the protocol as a value, all fields open.

use std::os::fd::BorrowedFd;

use super::{HEADER, NEED_REPLY, NO_FD, Request, VERSION};
use crate::guest::RegionSpec;

/// A memory region on the wire (vhost-user: memory region description).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegionEntry {
    /// Guest-physical address.
    pub gpa: u64,
    /// Length in bytes.
    pub size: u64,
    /// The front-end's own address.
    pub uva: u64,
    /// Offset in the file whose descriptor is attached.
    pub offset: u64,
}

impl From<RegionSpec> for RegionEntry {
    fn from(spec: RegionSpec) -> Self {
        Self {
            gpa: spec.gpa,
            size: spec.size,
            uva: spec.uva,
            offset: spec.offset,
        }
    }
}

impl RegionEntry {
    fn push(self, body: &mut Vec<u8>) {
        for word in [self.gpa, self.size, self.uva, self.offset] {
            body.extend_from_slice(&word.to_ne_bytes());
        }
    }
}

/// The addresses of a ring on the wire (vhost-user: vring address description), in the front-end's own
/// addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VringAddr {
    /// Number of the ring.
    pub index: u32,
    /// Bit 0: log writes to the used ring.
    pub flags: u32,
    /// Descriptor table.
    pub desc: u64,
    /// Used ring.
    pub used: u64,
    /// Available ring.
    pub avail: u64,
    /// Guest-physical address for logging.
    pub log: u64,
}

/// One message to be sent. All fields are open, so that a test can break what it wants to break.
#[derive(Debug, Clone)]
pub struct Message<'f> {
    /// Number of the request.
    pub request: u32,
    /// Version, REPLY and NEED_REPLY bits.
    pub flags: u32,
    /// The size field, when it shall not be the length of the body.
    pub size: Option<u32>,
    /// What follows the header.
    pub body: Vec<u8>,
    /// Descriptors to attach to the first byte.
    pub fds: Vec<BorrowedFd<'f>>,
}

impl<'f> Message<'f> {
    /// A message with nothing but a header.
    #[must_use]
    pub fn new(request: impl Into<u32>) -> Self {
        Self {
            request: request.into(),
            flags: VERSION,
            size: None,
            body: Vec::new(),
            fds: Vec::new(),
        }
    }

    /// A message whose body is one u64.
    #[must_use]
    pub fn u64(request: impl Into<u32>, value: u64) -> Self {
        Self::new(request).body(value.to_ne_bytes().to_vec())
    }

    /// A message whose body is a vring state: ring number and value.
    #[must_use]
    pub fn state(request: impl Into<u32>, index: u32, value: u32) -> Self {
        let mut body = index.to_ne_bytes().to_vec();
        body.extend_from_slice(&value.to_ne_bytes());
        Self::new(request).body(body)
    }

    /// SET_VRING_KICK, SET_VRING_CALL or SET_VRING_ERR with or without its descriptor.
    #[must_use]
    pub fn vring_fd(request: impl Into<u32>, index: u8, fd: Option<BorrowedFd<'f>>) -> Self {
        let no_fd = if fd.is_none() { NO_FD } else { 0 };
        let mut message = Self::u64(request, u64::from(index) | no_fd);
        message.fds.extend(fd);
        message
    }

    /// SET_VRING_ADDR.
    #[must_use]
    pub fn vring_addr(addr: VringAddr) -> Self {
        let mut body = addr.index.to_ne_bytes().to_vec();
        body.extend_from_slice(&addr.flags.to_ne_bytes());
        for word in [addr.desc, addr.used, addr.avail, addr.log] {
            body.extend_from_slice(&word.to_ne_bytes());
        }
        Self::new(Request::SET_VRING_ADDR).body(body)
    }

    /// SET_MEM_TABLE.
    #[must_use]
    pub fn mem_table(regions: &[RegionEntry], fds: Vec<BorrowedFd<'f>>) -> Self {
        let mut body = (regions.len() as u32).to_ne_bytes().to_vec();
        body.extend_from_slice(&[0; 4]);
        for region in regions {
            region.push(&mut body);
        }
        Self::new(Request::SET_MEM_TABLE).body(body).fds(fds)
    }

    /// ADD_MEM_REG (one descriptor) or REM_MEM_REG (none or one).
    #[must_use]
    pub fn mem_reg(
        request: impl Into<u32>,
        region: RegionEntry,
        fd: Option<BorrowedFd<'f>>,
    ) -> Self {
        let mut body = vec![0; 8];
        region.push(&mut body);
        Self::new(request).body(body).fds(fd.into_iter().collect())
    }

    /// SEND_RARP: the MAC address in the first six bytes of a u64.
    #[must_use]
    pub fn send_rarp(mac: [u8; 6]) -> Self {
        let mut body = mac.to_vec();
        body.extend_from_slice(&[0; 2]);
        Self::new(Request::SEND_RARP).body(body)
    }

    /// GET_CONFIG or SET_CONFIG: offset, size, flags and the bytes (for GET, of the size to be filled).
    #[must_use]
    pub fn config(request: impl Into<u32>, offset: u32, flags: u32, bytes: &[u8]) -> Self {
        let mut body = Vec::with_capacity(12 + bytes.len());
        for word in [offset, bytes.len() as u32, flags] {
            body.extend_from_slice(&word.to_ne_bytes());
        }
        body.extend_from_slice(bytes);
        Self::new(request).body(body)
    }

    /// The same with this body.
    #[must_use]
    pub fn body(mut self, body: Vec<u8>) -> Self {
        self.body = body;
        self
    }

    /// The same with these descriptors.
    #[must_use]
    pub fn fds(mut self, fds: Vec<BorrowedFd<'f>>) -> Self {
        self.fds = fds;
        self
    }

    /// The same with NEED_REPLY.
    #[must_use]
    pub fn need_reply(mut self) -> Self {
        self.flags |= NEED_REPLY;
        self
    }

    /// The bytes as they go onto the socket.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let size = self.size.unwrap_or(self.body.len() as u32);
        let mut bytes = Vec::with_capacity(HEADER + self.body.len());
        for word in [self.request, self.flags, size] {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        bytes.extend_from_slice(&self.body);
        bytes
    }
}
