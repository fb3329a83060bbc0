//! Where things of a front-end are dropped that may take their time.
//!
//! # Theory of operation
//!
//! Closing a descriptor that somebody else opened may wait for whoever serves the file, and nothing can interrupt it: the
//! last words to a FUSE server, a socket that lingers (P-17). Unmapping a large guest, and freeing its memory if ours was the last
//! mapping, takes as long as there are pages. So the attendant closes none of these itself. It gives them to the port's closer,
//! which drops them on a thread of its own: made when there is something to do, gone when there is not.
//!
//! - One thread a port, and one for connections that it refused: what hangs, hangs its own port, and not for a stranger.
//! - Nothing piles up. The port reads no further message and lets nobody in while its closer is busy, so what waits is at most
//!   what came with one message and one connection.
//! - When it is through it rings the bell, and the port goes on.
//!
//! Eventfds are not given to it: closing one waits for nobody, and they come and go with every ring.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::lanes::FaultBell;
use crate::session::Discarded;

/// One port's closer.
pub(super) struct Closer(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    through: Condvar,
    bell: Arc<FaultBell>,
}

#[derive(Default)]
struct State {
    waiting: Vec<Discarded>,
    /// The thread is there.
    running: bool,
    /// What has been dropped so far.
    dropped: u64,
}

impl State {
    fn is_busy(&self) -> bool {
        self.running || !self.waiting.is_empty()
    }
}

impl Closer {
    /// One with nothing to do, that rings `bell` whenever it is through.
    pub(super) fn new(bell: Arc<FaultBell>) -> Self {
        Self(Arc::new(Shared {
            state: Mutex::default(),
            through: Condvar::new(),
            bell,
        }))
    }

    /// Has `what` dropped soon, by another thread.
    pub(super) fn close(&self, what: Discarded) {
        self.0.lock().waiting.push(what);
        self.tend();
    }

    /// Whether anything is still to be dropped.
    pub(super) fn is_busy(&self) -> bool {
        self.0.lock().is_busy()
    }

    /// How many things it has dropped, if there are more; None when it is through. Twice the same: something hangs.
    pub(super) fn progress(&self) -> Option<u64> {
        let state = self.0.lock();
        state.is_busy().then_some(state.dropped)
    }

    /// Makes the thread if there is work for one. To be called now and then: the system may have had no thread to give.
    pub(super) fn tend(&self) {
        let mut state = self.0.lock();
        if state.running || state.waiting.is_empty() {
            return;
        }
        let shared = Arc::clone(&self.0);
        let made = thread::Builder::new()
            .name("closer".to_owned())
            .spawn(move || shared.work());
        state.running = made.is_ok();
    }

    /// Waits until it is through, or for so long.
    pub(super) fn wait(&self, patience: Duration) {
        let state = self.0.lock();
        let _ = self
            .0
            .through
            .wait_timeout_while(state, patience, |state| state.is_busy());
    }
}

impl fmt::Debug for Closer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Closer")
            .field("busy", &self.is_busy())
            .finish()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread.
    fn work(&self) {
        while let Some(what) = self.next() {
            // A panic here would be a bug of ours; it must not leave the port waiting for ever.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(what)));
            let mut state = self.lock();
            state.dropped = state.dropped.wrapping_add(1);
        }
        self.through.notify_all();
        self.bell.ring();
    }

    /// The next thing to drop; None: the thread is to end, and is counted as gone already.
    fn next(&self) -> Option<Discarded> {
        let mut state = self.lock();
        let next = state.waiting.pop();
        state.running = next.is_some();
        next
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// Tells the thread that drops it, after it was allowed to.
    struct Told(mpsc::Sender<thread::ThreadId>, Option<mpsc::Receiver<()>>);

    impl Drop for Told {
        fn drop(&mut self) {
            if let Some(allowed) = &self.1 {
                let _ = allowed.recv();
            }
            let _ = self.0.send(thread::current().id());
        }
    }

    fn rung(bell: &FaultBell) -> bool {
        use std::os::fd::AsFd;
        let bell = bell.as_fd();
        let mut fds = [rustix::event::PollFd::new(
            &bell,
            rustix::event::PollFlags::IN,
        )];
        let patience = rustix::event::Timespec {
            tv_sec: 20,
            tv_nsec: 0,
        };
        rustix::event::poll(&mut fds, Some(&patience)) == Ok(1)
    }

    #[test]
    fn what_hangs_hangs_elsewhere_and_the_rest_waits_behind_it() {
        let bell = FaultBell::new().unwrap();
        let closer = Closer::new(Arc::clone(&bell));
        let (say, told) = mpsc::channel();
        let (allow, allowed) = mpsc::channel();
        assert!(!closer.is_busy());
        assert_eq!(closer.progress(), None);
        closer.close(Box::new(Told(say.clone(), Some(allowed))));
        closer.close(Box::new(Told(say.clone(), None)));
        assert!(closer.is_busy());
        assert_eq!(closer.progress(), Some(0));
        assert!(told.try_recv().is_err());
        allow.send(()).unwrap();
        let first = told.recv_timeout(PATIENCE).unwrap();
        assert_eq!(told.recv_timeout(PATIENCE).unwrap(), first);
        assert_ne!(first, thread::current().id());
        closer.wait(PATIENCE);
        assert_eq!(closer.progress(), None);
        assert!(rung(&bell));
        // And again, by another thread: the first is gone.
        closer.close(Box::new(Told(say, None)));
        assert_ne!(told.recv_timeout(PATIENCE).unwrap(), first);
    }

    #[test]
    fn a_panic_does_not_stop_it() {
        struct Bad;
        impl Drop for Bad {
            fn drop(&mut self) {
                panic!("as a test");
            }
        }
        let closer = Closer::new(FaultBell::new().unwrap());
        closer.close(Box::new(Bad));
        closer.wait(PATIENCE);
        assert!(!closer.is_busy());
    }

    /// Many threads of our own after one another, and closing from several at once.
    #[test]
    fn nothing_is_forgotten() {
        let closer = Closer::new(FaultBell::new().unwrap());
        let (say, told) = mpsc::channel();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        closer.close(Box::new(Told(say.clone(), None)));
                    }
                });
            }
        });
        closer.wait(PATIENCE);
        assert_eq!(told.try_iter().count(), 2_000);
    }
}
