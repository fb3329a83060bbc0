//! Eventfds shared with a peer that we do not trust.
//!
//! The peer holds the same open file description. It can read the counter empty, fill it up, and set or
//! clear O_NONBLOCK, all between any two instructions of ours. So:
//!
//! - A [`Kick`] is waited for with epoll (edge-triggered) and needs no reading. Where the counter is to be
//!   emptied, preadv2(RWF_NOWAIT) does not wait, whatever the flags of the file are.
//! - A [`Call`] has no such help: pwritev2(RWF_NOWAIT) is not supported by eventfds. O_NONBLOCK is set when
//!   it is taken over; then a full counter answers EAGAIN, which is no error, because the peer
//!   has its signal already. A peer that clears the flag and fills the counter can make one write
//!   wait until the next tick of the thread's [`Metronome`](super::Metronome), and loses its
//!   connection for it.

use std::io;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::io::{Errno, FdFlags, ReadWriteFlags};

/// Why a descriptor was not accepted as an eventfd.
#[derive(Debug, thiserror::Error)]
pub enum DoorbellError {
    /// It is something else.
    #[error("the descriptor is {kind:?}, not an eventfd")]
    NotEventfd {
        /// What the kernel calls it.
        kind: String,
    },
    /// The kernel refused.
    #[error("{call}: {source}")]
    System {
        /// The system call.
        call: &'static str,
        /// Its error.
        source: io::Error,
    },
}

/// Whether `fd` is an eventfd. To be asked before it is given away for good: closing anything else may wait.
///
/// # Errors
///
/// When it is not.
pub fn judge_eventfd(fd: BorrowedFd<'_>) -> Result<(), DoorbellError> {
    use std::os::fd::AsRawFd;
    let system = |call| {
        move |errno: Errno| DoorbellError::System {
            call,
            source: errno.into(),
        }
    };
    // The name is made by the kernel. A file's begins with a slash, so no file can be called this.
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let name = rustix::fs::readlink(path, Vec::new()).map_err(system("readlink /proc/self/fd"))?;
    if name.as_bytes() != b"anon_inode:[eventfd]" {
        return Err(DoorbellError::NotEventfd {
            kind: name.to_string_lossy().into_owned(),
        });
    }
    Ok(())
}

/// Accepts `fd` only if it is an eventfd; makes it close-on-exec.
fn adopt(fd: &OwnedFd) -> Result<(), DoorbellError> {
    judge_eventfd(fd.as_fd())?;
    rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC).map_err(|errno| DoorbellError::System {
        call: "fcntl F_SETFD",
        source: errno.into(),
    })
}

/// The guest's signal to us: an eventfd to be registered with epoll, edge-triggered.
///
/// It has to be deleted from the epoll set before it is dropped. Closing does not do that here: the peer
/// keeps the file open, and its writes would go on waking us.
#[derive(Debug)]
pub struct Kick(OwnedFd);

impl Kick {
    /// Takes over a descriptor of the front-end (vhost-user: SET_VRING_KICK).
    ///
    /// # Errors
    ///
    /// When it is not an eventfd.
    pub fn new(fd: OwnedFd) -> Result<Self, DoorbellError> {
        adopt(&fd)?;
        Ok(Self(fd))
    }

    /// Empties the counter without waiting; `true` when there was something in it.
    #[must_use]
    pub fn drain(&self) -> bool {
        let mut counter = [0u8; 8];
        let mut into = [IoSliceMut::new(&mut counter)];
        // Offset -1: at the file's position, which an eventfd ignores.
        let read = rustix::io::preadv2(&self.0, &mut into, u64::MAX, ReadWriteFlags::NOWAIT);
        read.is_ok()
    }
}

impl AsFd for Kick {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Why a signal to the guest was not given.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The peer made the eventfd blocking and filled it; the write was interrupted.
    #[error("the peer made its call eventfd blocking and filled it")]
    Blocked,
    /// The kernel refused.
    #[error("write to the call eventfd: {0}")]
    System(#[from] io::Error),
}

/// Our signal to the guest: an eventfd.
#[derive(Debug)]
pub struct Call(OwnedFd);

impl Call {
    /// Takes over a descriptor of the front-end (vhost-user: SET_VRING_CALL, SET_VRING_ERR).
    ///
    /// # Errors
    ///
    /// When it is not an eventfd.
    pub fn new(fd: OwnedFd) -> Result<Self, DoorbellError> {
        adopt(&fd)?;
        let system = |errno: Errno| DoorbellError::System {
            call: "fcntl F_SETFL",
            source: errno.into(),
        };
        let flags = rustix::fs::fcntl_getfl(&fd).map_err(system)?;
        rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK).map_err(system)?;
        Ok(Self(fd))
    }

    /// Adds one to the counter.
    ///
    /// Waits only against a hostile peer, and then until the next signal of the thread: the thread must
    /// run a [`Metronome`](super::Metronome).
    ///
    /// # Errors
    ///
    /// [`CallError::Blocked`] when it had to be interrupted: the port's connection is to be closed.
    #[inline]
    pub fn ring(&self) -> Result<(), CallError> {
        match rustix::io::write(&self.0, &1u64.to_ne_bytes()) {
            // EAGAIN: full, so the peer has not even seen the last 2^64 signals.
            Ok(_) | Err(Errno::AGAIN) => Ok(()),
            // A write to an eventfd is interrupted only while it waits.
            Err(Errno::INTR) => Err(CallError::Blocked),
            Err(errno) => Err(CallError::System(errno.into())),
        }
    }
}

impl AsFd for Call {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
