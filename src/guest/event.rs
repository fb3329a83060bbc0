//! Event counters: the kick and the call of a ring.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    io::{Errno, read, write},
};

use super::{Error, Result};

/// An eventfd, non-blocking unless made by [`Event::blocking`].
#[derive(Debug)]
pub struct Event(OwnedFd);

impl Event {
    /// A new counter at zero, non-blocking and close-on-exec.
    ///
    /// # Errors
    ///
    /// When the process is out of file descriptors.
    pub fn new() -> Result<Self> {
        eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)
            .map(Self)
            .map_err(|e| Error::io("eventfd", e))
    }

    /// A new counter in blocking mode, as a hostile front-end passes (HOSTILE P-25).
    ///
    /// # Errors
    ///
    /// When the process is out of file descriptors.
    pub fn blocking() -> Result<Self> {
        eventfd(0, EventfdFlags::CLOEXEC)
            .map(Self)
            .map_err(|e| Error::io("eventfd", e))
    }

    /// Adds `n` to the counter.
    ///
    /// # Errors
    ///
    /// `EAGAIN` when the counter is saturated.
    pub fn add(&self, n: u64) -> Result<()> {
        write(&self.0, &n.to_ne_bytes())
            .map(drop)
            .map_err(|e| Error::io("write to an eventfd", e))
    }

    /// Adds one.
    ///
    /// # Errors
    ///
    /// As [`Event::add`].
    pub fn signal(&self) -> Result<()> {
        self.add(1)
    }

    /// Reads the counter and sets it to zero; zero when it was not signalled.
    ///
    /// # Errors
    ///
    /// When the read fails for another reason than an empty counter.
    pub fn take(&self) -> Result<u64> {
        let mut count = [0u8; 8];
        match read(&self.0, &mut count) {
            Ok(_) => Ok(u64::from_ne_bytes(count)),
            Err(Errno::AGAIN) => Ok(0),
            Err(e) => Err(Error::io("read from an eventfd", e)),
        }
    }

    /// Waits until the counter is signalled, and takes it; false when `timeout` passed first.
    ///
    /// # Errors
    ///
    /// When polling fails.
    pub fn wait(&self, timeout: Duration) -> Result<bool> {
        wait_any(&[self], timeout)?;
        Ok(self.take()? > 0)
    }

    /// Another descriptor for the same counter.
    ///
    /// # Errors
    ///
    /// When the process is out of file descriptors.
    pub fn try_clone(&self) -> Result<Self> {
        self.0
            .try_clone()
            .map(Self)
            .map_err(|e| Error::io("duplicate an eventfd", e))
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits until one of `events` is signalled; none is taken. False when `timeout` passed first.
///
/// # Errors
///
/// When polling fails.
pub(super) fn wait_any(events: &[&Event], timeout: Duration) -> Result<bool> {
    let fds: Vec<BorrowedFd<'_>> = events.iter().map(AsFd::as_fd).collect();
    wait_readable(&fds, timeout)
}

/// Waits until one of `fds` can be read. False when `timeout` passed first.
pub(super) fn wait_readable(fds: &[BorrowedFd<'_>], timeout: Duration) -> Result<bool> {
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let spec = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        let mut polled: Vec<PollFd<'_>> = fds
            .iter()
            .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
            .collect();
        match poll(&mut polled, Some(&spec)) {
            Ok(n) => return Ok(n > 0),
            Err(Errno::INTR) => {}
            Err(e) => return Err(Error::io("poll", e)),
        }
    }
}
