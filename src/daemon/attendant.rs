//! The attendant's loop.
//!
//! Each turn: wait until a descriptor is ready, a port's deadline has come or a second is over; then give each ready port its
//! one bounded step. A port that always has something to say is served once a turn, like every other.

use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll;
use rustix::io::Errno;

use super::{DaemonError, Switch};
use crate::clock::Tick;
use crate::control::{Answer, Question};
use crate::fabric::Fdb;
use crate::memory::Metronome;
use crate::port::port::{Port, Source};

/// Tokens of what is no port; ports have those below [`Source::TOKENS`].
pub(super) const CONTROL: u64 = Source::TOKENS;
pub(super) const BELL: u64 = Source::TOKENS + 1;
pub(super) const STOP: u64 = Source::TOKENS + 2;

/// Descriptors looked at in one turn.
const EVENTS: usize = 256;
/// Milliseconds between two readings of the counters.
const SECOND: u64 = 1000;
/// Seconds between two searches for expired addresses.
const AGEING_ROUND: u64 = 5;

impl Switch {
    /// Serves sessions, faults and the control socket until it is stopped. The workers move frames with or without it.
    ///
    /// # Errors
    /// The epoll failed, which no guest can cause.
    pub fn run(&mut self) -> Result<(), DaemonError> {
        let mut events = Vec::with_capacity(EVENTS);
        let mut next_second = self.clock.now().after_millis(SECOND);
        // Descriptors of front-ends are closed elsewhere (port::closer), but for those that the kernel could not pass and closes while we
        // read, and such a close may wait: a TCP socket lingers as long as its owner says. A signal ends that, as it ends a write to
        // a call descriptor.
        let metronome = Metronome::new();
        if let Err(error) = &metronome {
            tracing::warn!(%error, "no timer for the sessions: a front-end's descriptor that lingers could hold them up");
        }
        loop {
            let timeout = self.timeout(next_second);
            if let Ok(metronome) = &metronome {
                metronome.stop();
            }
            let waited = epoll::wait(
                &*self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                Some(&timeout),
            );
            if let Ok(metronome) = &metronome {
                metronome.start();
            }
            match waited {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(DaemonError::System("wait", errno.into())),
            }
            let now = self.clock.now();
            for event in events.drain(..) {
                match event.data.u64() {
                    CONTROL => self.answer(now),
                    BELL => self.mend(now),
                    STOP => return Ok(()),
                    token => self.serve(token, now),
                }
            }
            self.meet_deadlines(now);
            if next_second <= now {
                self.every_second(now);
                next_second = now.after_millis(SECOND);
            }
        }
    }

    fn timeout(&self, next_second: Tick) -> Timespec {
        let deadlines = self.ports.iter().filter_map(|port| port.next_deadline());
        let next = deadlines
            .min()
            .map_or(next_second, |at| at.min(next_second));
        let wait = Duration::from_millis(next.millis_since(self.clock.now()));
        // Seconds at most: it fits.
        Timespec::try_from(wait).unwrap_or(Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        })
    }

    fn serve(&mut self, token: u64, now: Tick) {
        let Some((id, source)) = Source::from_token(token) else {
            return;
        };
        if let Some(port) = self.ports.get_mut(id.index()) {
            port.on_ready(source, now);
            forget(port, &self.fdb);
        }
    }

    /// The bell does not say whose fault it is.
    fn mend(&mut self, now: Tick) {
        self.bell.silence();
        for port in &mut self.ports {
            port.on_bell(now);
            forget(port, &self.fdb);
        }
    }

    fn meet_deadlines(&mut self, now: Tick) {
        for port in &mut self.ports {
            if port.next_deadline().is_some_and(|at| at <= now) {
                port.on_deadline(now);
                forget(port, &self.fdb);
            }
        }
    }

    fn answer(&mut self, now: Tick) {
        let Some(workers) = &self.workers else { return };
        let (record, specs, ports, fdb) = (&self.record, &self.specs, &self.ports, &self.fdb);
        self.control.serve(|question| match question {
            Question::Status => {
                let report = record.report(specs, ports, workers, fdb, now);
                Answer::Status(Box::new(report))
            }
        });
    }

    fn every_second(&mut self, now: Tick) {
        self.control.tick();
        for port in &mut self.ports {
            port.on_second(now);
            forget(port, &self.fdb);
        }
        if let Some(workers) = &self.workers {
            self.record.sample(&self.ports, workers, &self.clock);
        }
        if now.as_secs().is_multiple_of(AGEING_ROUND) {
            self.fdb.age(now);
        }
    }
}

/// Forgets the addresses of a guest that has gone, so that nothing of theirs goes to whoever comes next.
fn forget(port: &mut Port, fdb: &Fdb) {
    if port.take_ended() {
        fdb.flush_port(port.id());
    }
}
