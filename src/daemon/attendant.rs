//! The attendant's loop.
//!
//! Each turn: wait until a descriptor is ready, a port's deadline has come or a second is over; then give each ready port its
//! one bounded step. A port that always has something to say is served once a turn, like every other.

use std::path::Path;
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll;
use rustix::io::Errno;

use super::plan::Live;
use super::quarantine::unknown_port;
use super::reload::Job;
use super::{DaemonError, Switch};
use crate::clock::Tick;
use crate::control::{
    AddressReport, Answer, ConfigurationReport, FdbPage, FdbQuery, Flags, Question, ReloadRequest,
    Response, Ticket,
};
use crate::counters::PortId;
use crate::fabric::Fdb;
use crate::memory::{Metronome, chargeable_bytes};
use crate::policy::State;
use crate::policy::guard::GuardState;
use crate::port::port::{Port, Source};

/// Tokens of what is no port; ports have those below [`Source::TOKENS`].
pub(super) const CONTROL: u64 = Source::TOKENS;
pub(super) const BELL: u64 = Source::TOKENS + 1;
pub(super) const STOP: u64 = Source::TOKENS + 2;
pub(super) const RELOAD: u64 = Source::TOKENS + 3;
pub(super) const DESK: u64 = Source::TOKENS + 4;

/// Descriptors looked at in one turn.
const EVENTS: usize = 256;
/// Milliseconds between two readings of the counters.
const SECOND: u64 = 1000;
/// Addresses in one answer: some 100 KiB.
const PAGE: usize = 1024;
/// Entries of the forwarding table that are looked at for one answer: a millisecond or two.
const SEARCH: usize = 65_536;
/// Places of the connection tables that are looked at a second for what has expired.
const SWEEP: u32 = 65_536;
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
                    RELOAD => self.hang_up(),
                    DESK => self.job_done(now),
                    token => self.serve(token, now),
                }
            }
            self.meet_deadlines(now);
            self.work_on();
            if next_second <= now {
                self.every_second(now);
                next_second = now.after_millis(SECOND);
            }
        }
    }

    fn timeout(&self, next_second: Tick) -> Timespec {
        let deadlines = self.ports.values().filter_map(Port::next_deadline);
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
        // A port that has gone since the event was taken is not there any more.
        if let Some(port) = self.ports.get_mut(&id) {
            port.on_ready(source, now);
            self.memory_bound
                .look(self.live.spec.ports.len(), chargeable_bytes(), port.name());
            forget(
                port,
                &self.live,
                &self.fdb,
                &self.state,
                &mut self.forgotten,
            );
        }
    }

    /// The bell does not say whose fault it is.
    fn mend(&mut self, now: Tick) {
        self.bell.silence();
        for port in self.ports.values_mut() {
            port.on_bell(now);
            forget(
                port,
                &self.live,
                &self.fdb,
                &self.state,
                &mut self.forgotten,
            );
        }
    }

    fn meet_deadlines(&mut self, now: Tick) {
        for port in self.ports.values_mut() {
            if port.next_deadline().is_some_and(|at| at <= now) {
                port.on_deadline(now);
                forget(
                    port,
                    &self.live,
                    &self.fdb,
                    &self.state,
                    &mut self.forgotten,
                );
            }
        }
    }

    fn answer(&mut self, now: Tick) {
        let mut asked = Vec::new();
        self.control.serve(|ticket, question| {
            asked.push((ticket, question));
            Response::Later
        });
        for (ticket, question) in asked {
            if let Response::Now(answer) = self.respond(ticket, question, now) {
                self.control.reply(ticket, answer);
            }
        }
    }

    fn respond(&mut self, ticket: Ticket, question: Question, now: Tick) -> Response {
        match question {
            Question::Status => self.status(now).into(),
            Question::Reload(ReloadRequest { file: Some(file) }) if !is_plain(&file) => {
                let why = "a reload names an absolute path without control characters";
                Answer::Error(why.to_owned()).into()
            }
            Question::Reload(request) => self.put(Job::Reload {
                file: request.file,
                ticket: Some(ticket),
            }),
            Question::Configuration => self.configuration().into(),
            Question::Fdb(query) => self.addresses(&query, now).into(),
            Question::Drops(query) => self.drops(&query, now).into(),
            Question::Flows(query) => self.flows(&query, now).into(),
            Question::Rules(query) => self.rules(&query).into(),
            Question::Quarantine(request) => self.hold(request, ticket),
            Question::Release(request) => self.release(&request.port, ticket),
        }
    }

    fn status(&self, now: Tick) -> Answer {
        let Some(workers) = &self.workers else {
            return Answer::Error("the switch stops".to_owned());
        };
        let (live, wards, ports) = (&self.live, &self.wards, &self.ports);
        let report = self.record.report(live, wards, ports, workers, now);
        Answer::Status(Box::new(report))
    }

    fn configuration(&self) -> Answer {
        let (source, overrides) = (&self.live.source, &self.live.source.overrides);
        let flags = Flags {
            name: overrides.name.clone(),
            mode: overrides.mode.clone(),
            control: overrides.control.clone(),
            workers: overrides.workers.clone(),
            cpus: overrides.cpus.clone(),
            poll: overrides.poll.clone(),
            ports: overrides.ports.clone(),
        };
        Answer::Configuration(Box::new(ConfigurationReport {
            file: source.file.clone(),
            text: source.text.clone(),
            flags,
            epoch: self.epoch(),
        }))
    }

    /// One page of addresses: as many entries as are listed at once, or fewer when the search for them has become long.
    fn addresses(&self, query: &FdbQuery, now: Tick) -> Answer {
        let wanted = match &query.port {
            None => None,
            Some(name) => match self.live.port(name) {
                Some(id) => Some(id),
                None => return Answer::Error(unknown_port(&self.live, name)),
            },
        };
        let mut page = FdbPage::default();
        let found = self.fdb.entries_from(query.from, now);
        for (looked, (next, entry)) in found.enumerate() {
            if wanted.is_none_or(|id| id == entry.port)
                && let Some(port) = self.ports.get(&entry.port)
            {
                let declared = self.live.declares(entry.port, entry.mac);
                page.entries.push(AddressReport {
                    mac: entry.mac.to_string(),
                    vlan: entry.vid.map(|vid| vid.get()),
                    port: port.name().to_owned(),
                    age: entry.age,
                    declared: entry.is_static && declared,
                    kept: entry.is_static && !declared,
                });
            }
            if page.entries.len() >= PAGE || looked >= SEARCH {
                page.next = Some(next);
                break;
            }
        }
        Answer::Fdb(page)
    }

    fn every_second(&mut self, now: Tick) {
        self.control.tick();
        for port in self.ports.values_mut() {
            port.on_second(now);
            forget(
                port,
                &self.live,
                &self.fdb,
                &self.state,
                &mut self.forgotten,
            );
        }
        if let Some(workers) = &self.workers {
            self.record.sample(&self.ports, workers, &self.clock);
        }
        if now.as_secs().is_multiple_of(AGEING_ROUND) {
            self.fdb.age(now);
        }
        self.state.tracker().sweep(now, SWEEP);
        self.write_journal();
        self.watch_triggers(now);
        self.keep_quarantine(now);
        self.keep_leases(now);
    }
}

/// A path that means the same here as to whoever named it, and that may stand in a line of the log.
fn is_plain(path: &Path) -> bool {
    path.is_absolute() && !path.to_string_lossy().contains(char::is_control)
}

/// Forgets the addresses of a guest that has gone, so that nothing of theirs goes to whoever comes next; noted for a job
/// that may have copied them already.
fn forget(port: &mut Port, live: &Live, fdb: &Fdb, state: &State, forgotten: &mut Vec<PortId>) {
    if !port.take_ended() {
        return;
    }
    let id = port.id();
    if let Some(mac) = state.guard(id).and_then(GuardState::kept)
        && !live.declares(id, mac)
    {
        fdb.remove_static(id, mac);
    }
    state.forget(id);
    fdb.flush_port(id);
    if !forgotten.contains(&id) {
        forgotten.push(id);
    }
}
