//! The vhost-user socket, without judgement: any bytes, any descriptors, with a deadline on each call.
//!
//! [`Message`] has one constructor for each request of the protocol; every field can be changed before it
//! is sent, and [`Wire::send_raw`] sends what no message can say. Numbers are in native byte order, as the
//! protocol has them.

mod message;

use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
    },
};
pub use vhost::vhost_user::message::FrontendReq as Request;

pub use self::message::{Message, RegionEntry, VringAddr};

use super::{Error, Result, event::wait_readable};

/// Length of a message header: request, flags, size, of four bytes each.
pub const HEADER: usize = 12;
/// Protocol version, in the low two bits of the flags.
pub const VERSION: u32 = 1;
/// Flag: this message is a reply.
pub const REPLY: u32 = 1 << 2;
/// Flag: the sender wants an acknowledgement (with REPLY_ACK negotiated).
pub const NEED_REPLY: u32 = 1 << 3;
/// In the u64 of SET_VRING_KICK, CALL and ERR: no descriptor is attached.
pub const NO_FD: u64 = 1 << 8;
/// Most descriptors that the kernel takes in one message.
pub const MOST_FDS: usize = 253;

/// A message that came in.
#[derive(Debug)]
pub struct Incoming {
    /// Number of the request that it answers.
    pub request: u32,
    /// Its flags.
    pub flags: u32,
    /// What followed the header.
    pub body: Vec<u8>,
    /// Descriptors that came with it.
    pub fds: Vec<OwnedFd>,
}

impl Incoming {
    /// The body as one u64.
    ///
    /// # Errors
    ///
    /// When it is not eight bytes long.
    pub fn u64(&self) -> Result<u64> {
        <[u8; 8]>::try_from(self.body.as_slice())
            .map(u64::from_ne_bytes)
            .map_err(|_| {
                Error::Protocol(format!(
                    "the reply to request {} has {} bytes, not 8",
                    self.request,
                    self.body.len()
                ))
            })
    }

    /// The body as a vring state: ring number and value.
    ///
    /// # Errors
    ///
    /// When it is not eight bytes long.
    pub fn state(&self) -> Result<(u32, u32)> {
        let whole = self.u64()?.to_ne_bytes();
        let word = |at: usize| {
            u32::from_ne_bytes([whole[at], whole[at + 1], whole[at + 2], whole[at + 3]])
        };
        Ok((word(0), word(4)))
    }
}

/// One connection, seen from the front-end.
#[derive(Debug)]
pub struct Wire {
    stream: UnixStream,
    timeout: Duration,
}

impl Wire {
    /// Takes over a connected stream; every call below gives up after `timeout`.
    ///
    /// # Errors
    ///
    /// When the timeout cannot be set (zero is not allowed).
    pub fn new(stream: UnixStream, timeout: Duration) -> Result<Self> {
        stream
            .set_read_timeout(Some(timeout))
            .and_then(|()| stream.set_write_timeout(Some(timeout)))
            .map_err(|e| Error::io("set the socket's timeout", e))?;
        Ok(Self { stream, timeout })
    }

    /// Connects to the back-end that listens at `path`, trying again until `timeout` has passed while
    /// nobody listens there yet.
    ///
    /// # Errors
    ///
    /// The last failure to connect.
    pub fn connect(path: &Path, timeout: Duration) -> Result<Self> {
        let deadline = Instant::now() + timeout;
        loop {
            match UnixStream::connect(path) {
                Ok(stream) => return Self::new(stream, timeout),
                Err(e) if Instant::now() >= deadline => {
                    return Err(Error::io("connect to the back-end's socket", e));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    /// The stream itself, to shut it down, poll it or write to it byte by byte.
    #[must_use]
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Sends `bytes` in one call with `fds` attached to the first of them; returns how many the kernel
    /// took.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] when the peer is gone, [`Error::Timeout`] when it does not read.
    pub fn send_raw(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<usize> {
        let message = SendAncillaryMessage::ScmRights(fds);
        let mut space = vec![MaybeUninit::uninit(); message.size()];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            control.push(message);
        }
        loop {
            match sendmsg(
                &self.stream,
                &[IoSlice::new(bytes)],
                &mut control,
                SendFlags::NOSIGNAL,
            ) {
                Ok(n) => return Ok(n),
                Err(Errno::INTR) => {}
                Err(e) => return Err(self.fault("send", e)),
            }
        }
    }

    /// Sends `message` whole.
    ///
    /// # Errors
    ///
    /// As [`Wire::send_raw`].
    pub fn send(&self, message: &Message<'_>) -> Result<()> {
        let bytes = message.bytes();
        let mut sent = self.send_raw(&bytes, &message.fds)?;
        while sent < bytes.len() {
            sent += self.send_raw(&bytes[sent..], &[])?;
        }
        Ok(())
    }

    /// Receives at most `into.len()` bytes and the descriptors that come with them; zero bytes mean that
    /// the peer has closed the connection.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] when nothing comes; [`Error::Protocol`] when descriptors were cut off.
    pub fn recv_raw(&self, into: &mut [u8]) -> Result<(usize, Vec<OwnedFd>)> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            match recvmsg(
                &self.stream,
                &mut [IoSliceMut::new(into)],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            ) {
                Ok(received) => break received,
                Err(Errno::INTR) => {}
                // A peer that closes with our bytes unread resets the connection.
                Err(Errno::CONNRESET) => return Ok((0, Vec::new())),
                Err(e) => return Err(self.fault("receive", e)),
            }
        };
        let fds = control
            .drain()
            .filter_map(|m| match m {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                _ => None,
            })
            .flatten()
            .collect();
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(Error::Protocol("descriptors were cut off".into()));
        }
        Ok((received.bytes, fds))
    }

    /// Receives one whole message.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`], [`Error::Timeout`], or [`Error::Protocol`] for a body of more than 64 KiB.
    pub fn recv(&self) -> Result<Incoming> {
        let mut fds = Vec::new();
        let mut header = [0; HEADER];
        self.fill(&mut header, &mut fds)?;
        let word = |at: usize| {
            u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let size = word(8) as usize;
        if size > 65_536 {
            return Err(Error::Protocol(format!(
                "a message of {size} bytes came back"
            )));
        }
        let mut body = vec![0; size];
        self.fill(&mut body, &mut fds)?;
        Ok(Incoming {
            request: word(0),
            flags: word(4),
            body,
            fds,
        })
    }

    fn fill(&self, into: &mut [u8], fds: &mut Vec<OwnedFd>) -> Result<()> {
        let mut done = 0;
        while done < into.len() {
            let (n, more) = self.recv_raw(&mut into[done..])?;
            if n == 0 {
                return Err(Error::Closed { what: "receive" });
            }
            done += n;
            fds.extend(more);
        }
        Ok(())
    }

    /// Sends `message` and returns the reply, which must carry the same number, version 1 and the REPLY
    /// flag (vhost-user: header).
    ///
    /// # Errors
    ///
    /// As [`Wire::send`] and [`Wire::recv`], and [`Error::Protocol`] for another message than the reply.
    pub fn call(&self, message: &Message<'_>) -> Result<Incoming> {
        self.send(message)?;
        let reply = self.recv()?;
        if reply.request != message.request || reply.flags & 7 != VERSION | REPLY {
            return Err(Error::Protocol(format!(
                "request {} was answered by request {} with flags {:#x}",
                message.request, reply.request, reply.flags
            )));
        }
        Ok(reply)
    }

    /// Sends `message` with NEED_REPLY and takes the acknowledgement.
    ///
    /// # Errors
    ///
    /// As [`Wire::call`], and [`Error::Refused`] for a code other than zero.
    pub fn acknowledged(&self, message: Message<'_>) -> Result<()> {
        let request = message.request;
        match self.call(&message.need_reply())?.u64()? {
            0 => Ok(()),
            code => Err(Error::Refused { request, code }),
        }
    }

    /// Whether the peer closes the connection within the timeout, without another byte.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] when a byte came instead.
    pub fn wait_closed(&self) -> Result<bool> {
        match self.recv_raw(&mut [0]) {
            Ok((0, _)) | Err(Error::Closed { .. }) => Ok(true),
            Ok(_) => Err(Error::Protocol("a byte came instead of the end".into())),
            Err(Error::Timeout { .. }) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Whether the peer has closed the connection, or does within `timeout`; a byte that comes instead is
    /// left where it is.
    ///
    /// # Errors
    ///
    /// When the socket cannot be looked at.
    pub fn wait_closed_for(&self, timeout: Duration) -> Result<bool> {
        if !wait_readable(&[self.as_fd()], timeout)? {
            return Ok(false);
        }
        match rustix::net::recv(
            &self.stream,
            &mut [0u8; 1],
            RecvFlags::PEEK | RecvFlags::DONTWAIT,
        ) {
            Ok((_, n)) => Ok(n == 0),
            Err(Errno::CONNRESET) => Ok(true),
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Err(e) => Err(self.fault("look at the connection", e)),
        }
    }

    fn fault(&self, what: &'static str, e: Errno) -> Error {
        match e {
            // WOULDBLOCK is the same number.
            Errno::AGAIN => Error::Timeout {
                what,
                after: self.timeout,
            },
            Errno::PIPE | Errno::CONNRESET => Error::Closed { what },
            e => Error::io(what, e),
        }
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
