//! Work that takes its time, beside the attendant: one job after the other, each on a thread of its own.
//!
//! The attendant serves sessions and may not wait. Whatever reads files, compiles thousands of rules, makes sockets or waits
//! for a disk is a job: it gets all it needs, touches nothing that runs, and hands back a value that the attendant puts
//! in force at once, or an error. Jobs do not overlap, so that each starts from what the one before has left.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, eventfd};

/// Jobs that wait, at most. Each client of the control socket waits for one at most, so this is never reached by them.
const MAX_WAITING: usize = 64;

/// See the head of this file. `J` says what to do, `R` what came of it; `None` of a job that panicked.
#[derive(Debug)]
pub(super) struct Desk<J, R> {
    waiting: VecDeque<J>,
    running: Option<JoinHandle<()>>,
    done: Receiver<Option<R>>,
    finish: Sender<Option<R>>,
    bell: Arc<OwnedFd>,
}

impl<J, R: Send + 'static> Desk<J, R> {
    pub(super) fn new() -> io::Result<Self> {
        let (finish, done) = channel();
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            waiting: VecDeque::new(),
            running: None,
            done,
            finish,
            bell: Arc::new(bell),
        })
    }

    /// Puts a job behind the others; gives it back when too many wait.
    pub(super) fn put(&mut self, job: J) -> Result<(), J> {
        if self.waiting.len() >= MAX_WAITING {
            return Err(job);
        }
        self.waiting.push_back(job);
        Ok(())
    }

    /// Whether such a job waits.
    pub(super) fn any_waiting(&self, is_such: impl FnMut(&J) -> bool) -> bool {
        self.waiting.iter().any(is_such)
    }

    /// The next job, when none runs: to be started with [`Desk::start`].
    pub(super) fn next(&mut self) -> Option<J> {
        if self.running.is_some() {
            return None;
        }
        self.waiting.pop_front()
    }

    /// Starts `work` on a thread of its own.
    ///
    /// # Errors
    /// No thread could be made.
    pub(super) fn start(&mut self, work: impl FnOnce() -> R + Send + 'static) -> io::Result<()> {
        let (finish, bell) = (self.finish.clone(), Arc::clone(&self.bell));
        let thread = std::thread::Builder::new()
            .name("desk".to_owned())
            .spawn(move || {
                let result = catch_unwind(AssertUnwindSafe(work)).ok();
                // Both fail only when the switch is gone; what was made is then dropped here.
                let _ = finish.send(result);
                let _ = rustix::io::write(&*bell, &1u64.to_ne_bytes());
            })?;
        self.running = Some(thread);
        Ok(())
    }

    /// What came of the job that runs, if it is done.
    pub(super) fn collect(&mut self) -> Option<Option<R>> {
        let mut count = [0u8; 8];
        let _ = rustix::io::read(&*self.bell, &mut count);
        let result = self.done.try_recv().ok()?;
        if let Some(thread) = self.running.take() {
            // It has nothing left to do.
            let _ = thread.join();
        }
        Some(result)
    }
}

/// Ready when a job is done.
impl<J, R> AsFd for Desk<J, R> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

impl<J, R> Desk<J, R> {
    /// Waits for the job that runs, if one does.
    pub(super) fn finish(&mut self) {
        if let Some(thread) = self.running.take() {
            let _ = thread.join();
        }
    }
}

/// What a job has made is taken back before this returns.
impl<J, R> Drop for Desk<J, R> {
    fn drop(&mut self) {
        self.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};

    fn wait(desk: &Desk<u8, u8>) {
        let mut polled = [PollFd::new(desk, PollFlags::IN)];
        assert_eq!(poll(&mut polled, None), Ok(1));
    }

    #[test]
    fn one_job_runs_at_a_time_and_the_next_after_it() {
        let mut desk: Desk<u8, u8> = Desk::new().unwrap();
        desk.put(1).unwrap();
        desk.put(2).unwrap();
        let mut results = Vec::new();
        while let Some(job) = desk.next() {
            desk.start(move || job * 10).unwrap();
            assert_eq!(desk.next(), None, "one runs");
            wait(&desk);
            results.push(desk.collect().unwrap());
        }
        assert_eq!(results, [Some(10), Some(20)]);
        assert!(desk.collect().is_none());
    }

    #[test]
    fn a_job_that_panics_is_done_without_a_result() {
        let mut desk: Desk<u8, u8> = Desk::new().unwrap();
        desk.start(|| panic!("a bug")).unwrap();
        wait(&desk);
        assert_eq!(desk.collect(), Some(None));
        assert!(desk.next().is_none());
    }

    #[test]
    fn jobs_do_not_pile_up() {
        let mut desk: Desk<u8, u8> = Desk::new().unwrap();
        for _ in 0..MAX_WAITING {
            desk.put(0).unwrap();
        }
        assert_eq!(desk.put(7), Err(7));
    }

    #[test]
    fn a_desk_that_is_cleared_takes_back_what_its_job_made() {
        let made = Arc::new(());
        let mut desk: Desk<u8, Arc<()>> = Desk::new().unwrap();
        let ours = Arc::clone(&made);
        desk.start(move || ours).unwrap();
        drop(desk);
        assert_eq!(Arc::strong_count(&made), 1);
    }
}
