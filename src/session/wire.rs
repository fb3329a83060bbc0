//! The socket of one connection: whole messages in, replies out, nothing waited for.
//!
//! # Which descriptors belong to which message
//!
//! A stream socket hands over descriptors together with the first of the bytes that they were sent with, and never
//! reads on past them in the same call. So a message is read in two steps, its 12 header bytes and then exactly its
//! body: a read never crosses the end of a message, and every descriptor that arrives during it belongs to
//! it (P-4). What a request does not take is given away to be closed before the next one is read (P-5, P-6, P-17).
//!
//! # Why not `vmm-sys-util`
//!
//! Its `ScmSocket::recv_with_fds` gives `recvmsg` no flags, so the descriptors arrive without
//! close-on-exec, its interface is unsafe, and it reports a truncated control message as ENOBUFS only after the bytes are gone. `rustix`
//! says MSG_CMSG_CLOEXEC and MSG_DONTWAIT, and owns each descriptor from the moment it exists.
//!
//! # Bounds
//!
//! One message is held at a time, at most [`MAX_BODY`] bytes and [`MAX_FDS`] descriptors. There is room to receive as many as the
//! kernel passes at once, so that it is we who close what is too much, and not the kernel while we read. Replies that the socket does
//! not take wait in a buffer of [`MAX_UNREAD`] bytes; one more and the connection is over (P-28).

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags, recvmsg, send,
};

use super::Millis;
use super::message::{HEADER_LEN, Header, MAX_BODY, MAX_FDS, reply_header};
use super::refusal::{Broken, SessionEnd};

/// A message that was begun must be finished, and a reply taken, within this time, in milliseconds.
pub(super) const PATIENCE: Millis = 5_000;

/// Descriptors that the kernel passes with one byte at most (unix(7): SCM_MAX_FD).
const SCM_MAX_FD: usize = 253;

/// Bytes of replies that may wait for the front-end to read them. A reply has 20.
pub(super) const MAX_UNREAD: usize = 16 * 1024;

/// One end of a connection.
#[derive(Debug)]
pub(super) struct Wire {
    socket: OwnedFd,
    /// Header and body of the message that is being read.
    bytes: Box<[u8]>,
    filled: usize,
    header: Option<Header>,
    fds: Vec<OwnedFd>,
    /// When the first byte of an unfinished message came.
    begun: Option<Millis>,
    unread: Vec<u8>,
    /// Since when replies wait.
    waiting: Option<Millis>,
}

/// A whole message.
#[derive(Debug)]
pub(super) struct Message<'a> {
    pub(super) header: Header,
    pub(super) body: &'a [u8],
    /// What of it is not taken stays with the wire, for [`Wire::take_fds`].
    pub(super) fds: &'a mut Vec<OwnedFd>,
}

impl Wire {
    /// Takes over a connected stream socket. It need not be non-blocking: no call here waits.
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            bytes: vec![0; HEADER_LEN + MAX_BODY].into_boxed_slice(),
            filled: 0,
            header: None,
            fds: Vec::new(),
            begun: None,
            unread: Vec::new(),
            waiting: None,
        }
    }

    /// Reads until a message is whole. `Ok(None)`: no more bytes are there.
    ///
    /// # Errors
    /// The connection is over.
    pub(super) fn receive(&mut self, now: Millis) -> Result<Option<Message<'_>>, SessionEnd> {
        loop {
            let wanted = match self.header {
                None => HEADER_LEN,
                Some(header) => HEADER_LEN.saturating_add(header.body_len()),
            };
            if self.filled < wanted {
                match self.fill(wanted) {
                    Ok(0) => return Err(SessionEnd::Closed),
                    Ok(_) => self.begun = self.begun.or(Some(now)),
                    Err(error) => return error.map_or(Ok(None), Err),
                }
                continue;
            }
            if let Some(header) = self.header.take() {
                self.filled = 0;
                self.begun = None;
                let body = self.bytes.get(HEADER_LEN..wanted).unwrap_or_default();
                return Ok(Some(Message {
                    header,
                    body,
                    fds: &mut self.fds,
                }));
            }
            let head = self
                .bytes
                .first_chunk::<HEADER_LEN>()
                .ok_or(Broken::TooLong(0))?;
            self.header = Some(Header::decode(head)?);
        }
    }

    /// One read, not past `end`. `Err(None)`: nothing there.
    fn fill(&mut self, end: usize) -> Result<usize, Option<SessionEnd>> {
        let mut space = [MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(SCM_MAX_FD))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let into = self.bytes.get_mut(self.filled..end).unwrap_or_default();
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = loop {
            match recvmsg(
                &self.socket,
                &mut [IoSliceMut::new(into)],
                &mut control,
                flags,
            ) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Err(None),
                // The front-end is gone: killed, or it closed with our replies unread.
                Err(Errno::CONNRESET) => return Err(Some(SessionEnd::Closed)),
                Err(error) => return Err(Some(SessionEnd::Socket(error.into()))),
                Ok(received) => break received,
            }
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.fds.extend(fds.inspect(do_not_linger));
            }
        }
        if self.fds.len() > MAX_FDS {
            return Err(Some(Broken::TooManyFds.into()));
        }
        // There was room for all that can be passed: it is our own process that cannot have one more, and no fault of theirs (O-7).
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(Some(SessionEnd::NoDescriptors));
        }
        self.filled = self.filled.saturating_add(received.bytes);
        Ok(received.bytes)
    }

    /// The descriptors that came with the last message and that nobody took. Closing them may take any time.
    pub(super) fn take_fds(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.fds)
    }

    /// Answers `request` with `body`; what the socket does not take now waits.
    ///
    /// # Errors
    /// More than [`MAX_UNREAD`] bytes wait, or the socket failed.
    pub(super) fn reply(
        &mut self,
        request: u32,
        body: &[u8],
        now: Millis,
    ) -> Result<(), SessionEnd> {
        let size = u32::try_from(body.len()).unwrap_or(0);
        let waiting = self
            .unread
            .len()
            .saturating_add(HEADER_LEN)
            .saturating_add(body.len());
        if waiting > MAX_UNREAD {
            return Err(SessionEnd::Unread);
        }
        self.unread.extend_from_slice(&reply_header(request, size));
        self.unread.extend_from_slice(body);
        self.flush(now)
    }

    /// Sends what waits, as far as the socket takes it.
    ///
    /// # Errors
    /// The socket failed.
    pub(super) fn flush(&mut self, now: Millis) -> Result<(), SessionEnd> {
        while !self.unread.is_empty() {
            match send(
                &self.socket,
                &self.unread,
                SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
            ) {
                Ok(sent) => drop(self.unread.drain(..sent.min(self.unread.len()))),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.waiting = self.waiting.or(Some(now));
                    return Ok(());
                }
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(SessionEnd::Closed),
                Err(error) => return Err(SessionEnd::Socket(io::Error::from(error))),
            }
        }
        self.waiting = None;
        Ok(())
    }

    /// Whether replies wait for the socket to become writable.
    pub(super) fn wants_write(&self) -> bool {
        !self.unread.is_empty()
    }

    /// When patience with a half message or an unread reply ends.
    pub(super) fn deadline(&self) -> Option<Millis> {
        [self.begun, self.waiting]
            .into_iter()
            .flatten()
            .min()
            .map(|since| since.saturating_add(PATIENCE))
    }

    /// Whether patience has ended.
    pub(super) fn overdue(&self, now: Millis) -> Option<SessionEnd> {
        let over = |since: Option<Millis>| {
            since.is_some_and(|since| now.saturating_sub(since) >= PATIENCE)
        };
        if over(self.begun) {
            return Some(SessionEnd::Stalled);
        }
        over(self.waiting).then_some(SessionEnd::Unread)
    }
}

/// Whatever came, closing it must not wait. A TCP socket with SO_LINGER whose other end reads nothing would hold up the last
/// close(2), and with it every port, for as long as its owner liked (P-7). Anything but a socket says so, and is let be.
fn do_not_linger(fd: &OwnedFd) {
    let _ = rustix::net::sockopt::set_socket_linger(fd, None);
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
