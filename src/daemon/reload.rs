//! A reload, put in force; and what else changes the gate while the switch runs.
//!
//! See the order of a reload at the head of the room. What is here runs on the attendant's thread and takes no longer than its
//! other steps: everything that takes time has been done beside it.

use std::error::Error;
use std::io;
use std::mem;
use std::path::PathBuf;
use std::sync::Arc;

use super::prepare::{Basis, Opening, Prepared, ReloadError};
use super::quarantine::Behind;
use super::triggers::Tripped;
use super::{Ends, Switch};
use crate::clock::Tick;
use crate::control::{Answer, QuarantineAnswer, QuarantineRequest, ReloadReport, Response, Ticket};
use crate::counters::{PortId, PortSet};
use crate::datapath::{Gate, Ports, Retired};
use crate::policy::acl::TooLarge;
use crate::policy::{Heritage, Policy};

/// What is done at the desk.
#[derive(Debug)]
pub(super) enum Job {
    /// Read a configuration and prepare it; without a ticket it is SIGHUP that wants it.
    Reload {
        file: Option<PathBuf>,
        ticket: Option<Ticket>,
    },
    /// What follows another quarantine: put ports behind their lists, judge connections again, and write the book.
    Save {
        /// Who ordered it; nobody waits for a trigger's.
        ticket: Option<Ticket>,
        /// Nothing has changed but that it could not be written before.
        again: bool,
    },
    /// Write leases down.
    KeepLeases,
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Done {
    Reload {
        prepared: Box<Result<Prepared, ReloadError>>,
        ticket: Option<Ticket>,
    },
    /// Connections have been judged by a new policy.
    Settled(Box<ReloadReport>),
    Save {
        /// How often the book had been changed.
        edits: u64,
        saved: io::Result<()>,
        /// Another gate, where other ports are to be behind lists than in the one in force.
        gate: Option<Box<Result<Moved, TooLarge>>>,
        ticket: Option<Ticket>,
    },
    LeasesKept {
        /// How often they had been changed: see [`super::leases`].
        edits: (u64, u64),
        saved: io::Result<()>,
    },
}

/// A policy that differs from the one in force in who is behind which list.
#[derive(Debug)]
pub(super) struct Moved {
    policy: Policy,
    heritage: Option<Heritage>,
    behind: Behind,
}

/// A generation that is not in force any more.
#[derive(Debug)]
pub(super) struct Leaving {
    generation: Retired,
    /// Ports that went with it: their numbers are not free before it is.
    ports: Vec<PortId>,
    /// What the next has of its hits.
    heritage: Option<Heritage>,
}

impl Switch {
    /// Which policy is in force.
    pub(super) fn epoch(&self) -> u64 {
        let generation = self.workers.as_ref().map(|workers| workers.generation());
        generation.map_or(0, |generation| generation.gate.policy.epoch())
    }

    /// SIGHUP, or a [`Reloader`](super::Reloader). Any number of them before the next reload begins are one.
    pub(super) fn hang_up(&mut self) {
        Ends::hear(&self.reload.0);
        let is_such = |job: &Job| matches!(job, Job::Reload { ticket: None, .. });
        if !self.desk.any_waiting(is_such) {
            let (file, ticket) = (None, None);
            // There is no client who could fill the desk but by tickets, of which there are few.
            let _ = self.desk.put(Job::Reload { file, ticket });
        }
    }

    /// Puts a job of a client on the desk.
    pub(super) fn put(&mut self, job: Job) -> Response {
        match self.desk.put(job) {
            Ok(()) => Response::Later,
            Err(_) => Answer::Error("too much waits to be done; try again".to_owned()).into(),
        }
    }

    /// Starts the next job if there is one and none runs; frees what no worker holds any more.
    pub(super) fn work_on(&mut self) {
        self.see_off();
        if self.is_unsettled {
            // Again in the next turn when the desk is full.
            let (ticket, again) = (None, false);
            self.is_unsettled = self.desk.put(Job::Save { ticket, again }).is_err();
        }
        let Some(job) = self.desk.next() else { return };
        self.at_desk = match &job {
            Job::Reload { ticket, .. } => *ticket,
            Job::Save { ticket, .. } => *ticket,
            Job::KeepLeases => None,
        };
        let started = match job {
            Job::Reload { file, ticket } => {
                // A disconnection that the job itself may not see is noted from here on.
                self.forgotten.clear();
                let basis = self.basis();
                let result = self.desk.start(move || Done::Reload {
                    prepared: Box::new(basis.prepare(file)),
                    ticket,
                });
                result.map_err(|error| (ticket, error))
            }
            Job::Save { ticket, again } => {
                let work = self.settling(ticket, again);
                self.desk.start(work).map_err(|error| (ticket, error))
            }
            Job::KeepLeases => {
                let now = self.clock.now();
                let work = self.keeping(now);
                if let Err(error) = self.desk.start(work) {
                    self.leases_kept((0, 0), Err(error), now);
                }
                Ok(())
            }
        };
        if let Err((ticket, error)) = started {
            self.refuse(ticket, format!("cannot make a thread: {error}"));
        }
    }

    /// The work of [`Job::Save`], for the quarantine as it is now.
    fn settling(
        &self,
        ticket: Option<Ticket>,
        again: bool,
    ) -> impl FnOnce() -> Done + Send + use<> {
        let (saving, clock) = (self.wards.saving(), self.clock.clone());
        let generation = self.workers.as_ref().map(|workers| workers.generation());
        let policy = generation.filter(|_| !again);
        let policy = policy.map(|generation| generation.gate.policy.clone());
        let (behind, live) = (self.wards.behind(), Arc::clone(&self.live));
        let is_other = behind != self.behind;
        let (epoch, state) = (self.epoch() + 1, Arc::clone(&self.state));
        move || {
            let gate = is_other.then(|| {
                let spec = live.spec.policy_behind(&live.ids, &behind);
                let compiled = Policy::compile(epoch, &spec, state);
                Box::new(compiled.map(|moved| Moved {
                    heritage: policy.as_ref().map(|before| moved.heir_of(before)),
                    policy: moved,
                    behind,
                }))
            });
            if let Some(policy) = policy {
                policy.rejudge_all(clock.now());
            }
            Done::Save {
                edits: saving.edits,
                saved: saving.save(),
                gate,
                ticket,
            }
        }
    }

    /// What a reload has to know of what runs.
    fn basis(&self) -> Basis {
        let held = self.ports.iter().filter_map(|(id, port)| {
            let path = port.listens_at()?;
            Some((path.to_owned(), *id))
        });
        let going = self.leaving.iter().flat_map(|leaving| &leaving.ports);
        let taken = self.ports.keys().chain(going).copied();
        let lanes = self.ports.values().map(|port| Arc::clone(port.lanes()));
        Basis {
            live: Arc::clone(&self.live),
            ports: lanes.collect(),
            fdb: Arc::clone(&self.fdb),
            state: Arc::clone(&self.state),
            policy: self.policy(),
            epoch: self.epoch(),
            behind: self.wards.behind(),
            taken: PortSet::from_iter(taken),
            held: held.collect(),
            doors: self.doors.clone(),
            bell: Arc::clone(&self.bell),
            epoll: Arc::clone(&self.epoll),
            clock: self.clock.clone(),
        }
    }

    /// A job is done.
    pub(super) fn job_done(&mut self, now: Tick) {
        let Some(done) = self.desk.collect() else {
            return;
        };
        match done {
            Some(Done::Reload { prepared, ticket }) => match *prepared {
                Ok(prepared) => {
                    let report = self.take_up(prepared, now);
                    let file = report.file.display();
                    tracing::info!(%file, epoch = report.epoch, "configuration taken up");
                    for note in &self.live.spec.notes {
                        tracing::warn!("{note}");
                    }
                    self.settle(report);
                }
                Err(error) => self.refuse(ticket, whole(&error)),
            },
            Some(Done::Settled(report)) => {
                if let Some(ticket) = self.at_desk.take() {
                    self.control.reply(ticket, Answer::Reload(*report));
                }
            }
            Some(Done::Save {
                edits,
                saved,
                gate,
                ticket,
            }) => {
                match gate.map(|gate| *gate) {
                    None => {}
                    Some(Ok(moved)) => self.put_behind(moved),
                    // Nobody is let out by it: whoever was to be behind a list stays alone.
                    Some(Err(error)) => {
                        tracing::error!(%error, "a port in quarantine stays alone, its list cannot be compiled");
                    }
                }
                let not_saved = self.wards.saved(edits, saved, now);
                let names = self.wards.reports().into_iter().map(|ward| ward.port);
                let told = names.filter_map(|name| self.wards.told(&self.live, &name));
                let ports = told.collect();
                if let Some(ticket) = ticket {
                    let answer = Answer::Quarantine(QuarantineAnswer { ports, not_saved });
                    self.control.reply(ticket, answer);
                }
            }
            Some(Done::LeasesKept { edits, saved }) => self.leases_kept(edits, saved, now),
            None => {
                self.leases.came_to_nothing();
                let why = "a job panicked; please report it, see SECURITY.md";
                self.refuse(self.at_desk, why.to_owned());
            }
        }
    }

    /// Judges all connections by the policy that is in force now; whoever wanted the reload is told how many ended. A packet of
    /// one that has not been reached yet is judged by the path itself, in the same way.
    fn settle(&mut self, report: ReloadReport) {
        let Some(workers) = &self.workers else { return };
        let policy = workers.generation().gate.policy.clone();
        let (clock, state) = (self.clock.clone(), Arc::clone(&self.state));
        let shown = report.clone();
        let started = self.desk.start(move || {
            policy.rejudge_all(clock.now());
            let flows_ended = state.ended().saturating_sub(report.flows_ended);
            Done::Settled(Box::new(ReloadReport {
                flows_ended,
                ..report
            }))
        });
        if let Err(error) = started {
            tracing::error!(%error, "no thread: silent connections are judged with their next packets");
            if let Some(ticket) = self.at_desk.take() {
                let flows_ended = 0;
                let report = ReloadReport {
                    flows_ended,
                    ..shown
                };
                self.control.reply(ticket, Answer::Reload(report));
            }
        }
    }

    /// Says that a job came to nothing.
    fn refuse(&mut self, ticket: Option<Ticket>, why: String) {
        tracing::error!("reload refused, the configuration before stays in force: {why}");
        if let Some(ticket) = ticket {
            self.control.reply(ticket, Answer::Error(why));
        }
    }

    /// Puts what was prepared in force. Frames are judged by the old until the one store, and by the new after it.
    fn take_up(&mut self, prepared: Prepared, now: Tick) -> ReloadReport {
        let Prepared {
            live,
            ports,
            gate,
            heritage,
            behind,
            opening,
            leaving,
            change,
        } = prepared;
        // A quarantine that was ordered meanwhile is not lost, and commands may have moved the epoch on.
        let epoch = self.epoch() + 1;
        let quarantine = self.wards.resolve(&live, &behind);
        self.behind = behind;
        let gate = Gate {
            policy: gate.policy.with_quarantine(epoch, quarantine),
            fabric: gate.fabric,
        };
        self.fdb = Arc::clone(gate.fabric.fdb());
        let policy = gate.policy.clone();
        self.keep_addresses(&policy, &live.ids);
        policy.make_room(&live.spec.tracking);
        let ended = self.state.ended();
        // While the ports that go still have their names.
        self.write_journal();
        self.replace(ports, gate, leaving.clone(), heritage);
        // Addresses that were claimed while the new table was made.
        self.keep_addresses(&policy, &live.ids);
        let mut gone: Vec<_> = leaving
            .iter()
            .filter_map(|id| Some((*id, self.ports.remove(id)?)))
            .collect();
        for Opening { mut port, inherits } in opening {
            let heritage = gone.iter_mut().find(|(id, _)| Some(*id) == inherits);
            if let Some((_, other)) = heritage {
                port.inherit(other, now);
            }
            self.ports.insert(port.id(), port);
        }
        for (id, mut port) in gone {
            port.close(now);
            self.record.forget(id);
        }
        let before = PortSet::from_iter(self.live.ids.iter().copied());
        for (_, port) in self
            .ports
            .iter_mut()
            .filter(|(id, _)| !before.contains(**id))
        {
            port.begin(now);
        }
        for id in mem::take(&mut self.forgotten) {
            self.fdb.flush_port(id);
        }
        self.live = Arc::new(live);
        self.wards.log(&self.live);
        ReloadReport {
            file: self.live.source.file.clone().unwrap_or_default(),
            epoch,
            change,
            // Until they have been judged, the number from which they are counted.
            flows_ended: ended,
        }
    }

    /// Frees what no worker holds any more, and what is remembered of the ports that went with it: nobody can add to that now.
    fn see_off(&mut self) {
        if self.leaving.is_empty() {
            return;
        }
        let (mut gone, left) = mem::take(&mut self.leaving)
            .into_iter()
            .partition::<Vec<_>, _>(|leaving| leaving.generation.is_released());
        self.leaving = left;
        for heritage in gone
            .iter_mut()
            .filter_map(|leaving| leaving.heritage.as_mut())
        {
            // What workers counted there after they could have known better.
            heritage.hand_on();
        }
        for id in gone.iter().flat_map(|leaving| &leaving.ports) {
            self.state.forget_port(*id);
            // What a worker noted while the port was being taken away: the next of this number is another.
            drop(self.state.fetch_logged(*id));
        }
        if let Some(workers) = self.workers.as_ref().filter(|_| !gone.is_empty()) {
            // A worker that still had the old one may have given a port its address there.
            let policy = workers.generation().gate.policy.clone();
            self.keep_addresses(&policy, &self.live.ids);
        }
    }

    /// Enters the addresses that ports keep in the table: what they are the table alone does not remember.
    fn keep_addresses(&self, policy: &Policy, ids: &[PortId]) {
        for id in ids {
            if let Some(mac) = policy.kept_mac(*id) {
                // Where the new configuration declares it for another port, the guard meets its match there.
                let _ = self.fdb.add_static(*id, mac);
            }
        }
    }

    /// The one store.
    fn replace(
        &mut self,
        ports: Ports,
        gate: Gate,
        leaving: Vec<PortId>,
        mut heritage: Option<Heritage>,
    ) {
        if let Some(workers) = &self.workers {
            let generation = workers.replace(ports, gate);
            if let Some(heritage) = &mut heritage {
                heritage.hand_on();
            }
            self.leaving.push(Leaving {
                generation,
                ports: leaving,
                heritage,
            });
        }
    }

    /// Puts a port in quarantine, at once; the answer comes when that is on disk.
    pub(super) fn hold(&mut self, request: QuarantineRequest, ticket: Ticket) -> Response {
        let name = request.port.clone();
        if let Err(why) = self.wards.hold(&self.live, request, "operator") {
            return Answer::Error(why).into();
        }
        self.quarantine();
        tracing::warn!(port = name, "in quarantine, by the operator");
        self.save(ticket)
    }

    /// Lets a port out, at once.
    pub(super) fn release(&mut self, name: &str, ticket: Ticket) -> Response {
        if let Err(why) = self.wards.release(&self.live, name) {
            return Answer::Error(why).into();
        }
        self.quarantine();
        tracing::warn!(port = name, "released from quarantine, by the operator");
        self.save(ticket)
    }

    /// Puts the present quarantine in force.
    fn quarantine(&mut self) {
        let Some(workers) = &self.workers else { return };
        let before = workers.generation();
        let quarantine = self.wards.resolve(&self.live, &self.behind);
        let policy = before
            .gate
            .policy
            .with_quarantine(self.epoch() + 1, quarantine);
        let gate = Gate {
            policy,
            fabric: before.gate.fabric.clone(),
        };
        let ports = before.ports.clone();
        drop(before);
        self.replace(ports, gate, Vec::new(), None);
    }

    /// Puts a gate in force that differs from the one before in who is behind a list.
    fn put_behind(&mut self, moved: Moved) {
        let Moved {
            policy,
            heritage,
            behind,
        } = moved;
        let Some(workers) = &self.workers else { return };
        let before = workers.generation();
        let quarantine = self.wards.resolve(&self.live, &behind);
        policy.make_room(&self.live.spec.tracking);
        let gate = Gate {
            policy: policy.with_quarantine(self.epoch() + 1, quarantine),
            fabric: before.gate.fabric.clone(),
        };
        let ports = before.ports.clone();
        drop(before);
        self.behind = behind;
        self.replace(ports, gate, Vec::new(), heritage);
        // Connections that are silent; the others are judged with their next packets.
        self.is_unsettled = true;
    }

    /// Puts ports aside that have done too much of something.
    pub(super) fn watch_triggers(&mut self, now: Tick) {
        let tripped = self
            .triggers
            .look(&self.live, &self.ports, &self.wards, &self.state, now);
        let mut is_any = false;
        for Tripped { request, by } in tripped {
            let port = request.port.clone();
            let mut held = self.wards.hold(&self.live, request, &by);
            if let Err(why) = &held {
                // A configuration is checked for it. Should it be so, alone is safer than free.
                tracing::error!(port, "in quarantine without helpers: {why}");
                let alone = QuarantineRequest {
                    port: port.clone(),
                    helpers: Vec::new(),
                    allow: None,
                };
                held = self.wards.hold(&self.live, alone, &by);
            }
            if held.is_ok() {
                is_any = true;
                tracing::warn!(port, "in quarantine, {by}");
            }
        }
        if is_any {
            self.quarantine();
            self.is_unsettled = true;
        }
    }

    fn save(&mut self, ticket: Ticket) -> Response {
        let (ticket, again) = (Some(ticket), false);
        let response = self.put(Job::Save { ticket, again });
        // It holds all the same.
        self.is_unsettled |= matches!(response, Response::Now(_));
        response
    }

    /// Has the book written that could not be written before.
    pub(super) fn keep_quarantine(&mut self, now: Tick) {
        let (ticket, again) = (None, true);
        let is_save = |job: &Job| matches!(job, Job::Save { .. });
        if self.wards.is_due(now) && !self.desk.any_waiting(is_save) {
            let _ = self.desk.put(Job::Save { ticket, again });
        }
    }
}

/// An error with its causes, one a line.
fn whole(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str("\n  caused by: ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
