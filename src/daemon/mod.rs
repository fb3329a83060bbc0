//! One switch, wired and running.
//!
//! # Order of start
//!
//! 1. The configuration has been read and every path checked ([`crate::config`]).
//! 2. SIGTERM and SIGINT become a wish to stop, before there is anything that a killed process would leave behind; the SIGBUS
//!    handler, before any guest memory is mapped; the limit of descriptors, before any is made.
//! 3. Every socket is bound. The first that fails takes the others back: all of them or none.
//! 4. Workers start. Front-ends may have connected since 3; they wait in the sockets' queues.
//! 5. Readiness is announced, last of all: whoever waits for it finds every socket there.
//!
//! Stopping is the reverse: sockets go, every ring is stopped, workers are joined. Guests then wait for the next switch.
//!
//! # Threads
//!
//! [`Switch::run`] is the *attendant*: one epoll for sessions, the control socket, faults and the wish to stop. It waits for no
//! peer: every step that it takes for one port is bounded, and frames are not its business. What takes its time is done by a
//! `desk` beside it, one job after the other.
//!
//! # Order of a reload
//!
//! 1. Beside the attendant (`prepare`): the file is read and validated, what cannot be changed live is refused, new sockets
//!    are bound, the gate is compiled. Each step may fail; the switch has not noticed anything yet.
//! 2. One store puts the new ports and the new gate in force (`reload`). Nothing from here on can fail.
//! 3. Ports that have gone are closed, new ones begin. A front-end that has connected to a new socket before has waited.
//! 4. When the last worker has let the old generation go, it is freed, and so are the numbers of the ports that have gone.

mod attendant;
mod change;
mod desk;
mod journal;
mod leases;
mod limits;
mod plan;
mod prepare;
mod quarantine;
mod reach;
mod record;
mod reload;
mod seen;
mod signals;
mod source;
mod store;
mod trial;
mod triggers;

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use crate::clock::Clock;
use crate::config::SwitchSpec;
use crate::control::{ControlError, Server, Ticket};
use crate::counters::PortId;
use crate::datapath::{Workers, keep_off};
use crate::fabric::{Fdb, StaticError};
use crate::memory::install_fault_handler;
use crate::policy::State;
use crate::policy::acl::TooLarge;
use crate::port::door::Door;
use crate::port::lanes::{FaultBell, Lanes};
use crate::port::port::{OpenError, Port};
use desk::Desk;
use leases::LeaseBook;
use limits::MemoryBound;
use plan::Live;
use quarantine::{Behind, Wards};
use record::Record;
use reload::{Done, Job, Leaving};
use triggers::Triggers;

pub use change::{compare, needing_restart};
pub use prepare::keep_defaults;
pub use quarantine::StateError;
pub use reach::{Pairs, gained};
pub use signals::{ignore_user_signals, reload_on_hangup, stop_on_signals};
pub use source::{Source, SourceError};
pub use trial::{Explanation, Step, Trial, TrialError, in_full, would_go_on};

/// Milliseconds that a switch that stops gives to the closing of what front-ends gave.
const PATIENCE: u64 = 1000;

/// Why a switch was not started, or ended.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// A port's socket.
    #[error("cannot open a port; nothing was started")]
    Port(#[from] OpenError),
    /// The control socket.
    #[error("cannot open the control socket; nothing was started")]
    Control(#[from] ControlError),
    /// An address of the configuration.
    #[error("port {port:?}: cannot declare its address; nothing was started")]
    Address {
        /// The port.
        port: String,
        /// Why.
        #[source]
        source: StaticError,
    },
    /// The lists are too much.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// The book of the quarantine.
    #[error(transparent)]
    State(#[from] StateError),
    /// A worker.
    #[error("cannot start the workers; check workers and cpus. Nothing was started")]
    Workers(#[source] io::Error),
    /// Descriptors, memory, signals.
    #[error("cannot {0}: the system is out of descriptors or memory")]
    System(&'static str, #[source] io::Error),
}

/// Stops a switch from any thread, or from a signal handler.
#[derive(Debug, Clone)]
pub struct Stopper(Arc<Ends>);

/// Has a switch read its configuration again, from any thread, or from a signal handler.
#[derive(Debug, Clone)]
pub struct Reloader(Arc<Ends>);

/// A word for the attendant.
#[derive(Debug)]
struct Ends {
    /// Written by whoever has something to say.
    said: UnixStream,
    /// Ready when somebody had.
    heard: UnixStream,
}

impl Ends {
    fn new() -> Result<Arc<Self>, DaemonError> {
        let failed = |source| DaemonError::System("wait for a word", source);
        let (said, heard) = UnixStream::pair().map_err(failed)?;
        for end in [&said, &heard] {
            end.set_nonblocking(true).map_err(failed)?;
        }
        Ok(Arc::new(Self { said, heard }))
    }

    fn say(&self) {
        // It can only fail when the buffer is full: then it has been said often enough.
        let _ = (&self.said).write(&[1]);
    }

    /// Takes what was said: however often, it is one word.
    fn hear(&self) {
        let mut said = [0; 64];
        while (&self.heard).read(&mut said).is_ok_and(|count| count > 0) {}
    }
}

impl Stopper {
    /// One that no switch listens to yet.
    ///
    /// # Errors
    /// The system is out of descriptors.
    pub fn new() -> Result<Self, DaemonError> {
        Ends::new().map(Self)
    }

    /// Has [`Switch::run`] return soon, or as soon as it is called.
    pub fn stop(&self) {
        self.0.say();
    }
}

impl Reloader {
    /// One that no switch listens to yet.
    ///
    /// # Errors
    /// The system is out of descriptors.
    pub fn new() -> Result<Self, DaemonError> {
        Ends::new().map(Self)
    }

    /// Has the switch reload soon; said again before it has begun, it is said once.
    pub fn reload(&self) {
        self.0.say();
    }
}

/// A switch: its sockets are there and its workers run. Dropping it stops it.
#[derive(Debug)]
pub struct Switch {
    live: Arc<Live>,
    clock: Clock,
    epoll: Arc<OwnedFd>,
    stop: Stopper,
    reload: Reloader,
    bell: Arc<FaultBell>,
    doors: Vec<Arc<Door>>,
    fdb: Arc<Fdb>,
    /// What the gate remembers while policies come and go.
    state: Arc<State>,
    ports: BTreeMap<PortId, Port>,
    control: Server,
    /// Absent only while it is dropped.
    workers: Option<Workers>,
    record: Record,
    desk: Desk<Job, Done>,
    /// Who waits for the job that runs.
    at_desk: Option<Ticket>,
    wards: Wards,
    /// With whom behind which list the gate in force was compiled.
    behind: Behind,
    triggers: Triggers,
    leases: LeaseBook,
    /// Something of the quarantine is to be settled at the desk, which was full.
    is_unsettled: bool,
    /// Generations that a worker may still hold, with the ports that went with them.
    leaving: Vec<Leaving>,
    /// Ports whose guest has gone since the job at the desk began.
    forgotten: Vec<PortId>,
    memory_bound: MemoryBound,
}

impl Switch {
    /// Binds every socket and starts the workers.
    ///
    /// # Errors
    /// See [`DaemonError`]; whatever had been made is gone again.
    pub fn start(spec: &SwitchSpec) -> Result<Self, DaemonError> {
        Self::start_under(spec, Stopper::new()?)
    }

    /// The same, to be stopped by `stop`, which may have been said already.
    ///
    /// # Errors
    /// Those of [`Switch::start`].
    pub fn start_under(spec: &SwitchSpec, stop: Stopper) -> Result<Self, DaemonError> {
        Self::start_from(Source::default(), spec.clone(), stop, Reloader::new()?)
    }

    /// The same for a switch that can read its configuration again, from `source`, when `reload` is said.
    ///
    /// # Errors
    /// Those of [`Switch::start`].
    pub fn start_from(
        source: Source,
        spec: SwitchSpec,
        stop: Stopper,
        reload: Reloader,
    ) -> Result<Self, DaemonError> {
        install_fault_handler();
        limits::raise_descriptors();
        let memory_bound = MemoryBound::find(spec.ports.len());
        let failed = |what: &'static str| move |source| DaemonError::System(what, source);
        let clock = Clock::new();
        let live = Live::first(source, spec);
        let spec = &live.spec;
        let fdb = plan::fdb(spec, &live.ids).map_err(|error| DaemonError::Address {
            port: error.port,
            source: error.source,
        })?;
        let wards = Wards::load(spec)?;
        wards.log(&live);
        let fdb = Arc::new(fdb);
        let state = State::new();
        let remembered = (Arc::clone(&fdb), Arc::clone(&state));
        let behind = wards.behind();
        let quarantine = wards.resolve(&live, &behind);
        let gate = plan::gate(spec, &live.ids, 1, (quarantine, &behind), remembered)?;
        gate.policy.make_room(&spec.tracking);
        let mut leases = LeaseBook::new(spec);
        leases.restore(&live, &gate.policy, clock.now());
        let epoll = epoll::create(CreateFlags::CLOEXEC);
        let epoll = Arc::new(epoll.map_err(|errno| failed("wait")(errno.into()))?);
        let bell = FaultBell::new().map_err(failed("wait for faults"))?;
        let desk = Desk::new().map_err(failed("wait for a job"))?;
        let doors: io::Result<Vec<_>> = (0..spec.workers)
            .map(|_| Door::new().map(Arc::new))
            .collect();
        let doors = doors.map_err(failed("make the workers' doors"))?;
        let ports = open_ports(&live, &doors, &bell, &epoll, &clock)?;
        let control = Server::bind(&spec.control, spec.control_is_default)?;
        let watched: [(&dyn AsFd, u64); 5] = [
            (&control, attendant::CONTROL),
            (&*bell, attendant::BELL),
            (&stop.0.heard, attendant::STOP),
            (&reload.0.heard, attendant::RELOAD),
            (&desk, attendant::DESK),
        ];
        for (descriptor, token) in watched {
            epoll::add(
                &*epoll,
                descriptor,
                EventData::new_u64(token),
                EventFlags::IN,
            )
            .map_err(|errno| failed("wait")(errno.into()))?;
        }
        let lanes = ports.values().map(|port| Arc::clone(port.lanes()));
        let workers = Workers::start(
            &plan::options(spec),
            doors.clone(),
            lanes.collect(),
            gate,
            &clock,
        )
        .map_err(DaemonError::Workers)?;
        let cpus: Vec<usize> = spec.cpus.iter().copied().map(usize::from).collect();
        keep_off(&cpus).map_err(DaemonError::Workers)?;
        let record = Record::new(spec, &ports, &workers, &clock);
        Ok(Self {
            live: Arc::new(live),
            clock,
            epoll,
            stop,
            reload,
            bell,
            doors,
            fdb,
            state,
            ports,
            control,
            workers: Some(workers),
            record,
            desk,
            at_desk: None,
            wards,
            behind,
            triggers: Triggers::default(),
            leases,
            is_unsettled: false,
            leaving: Vec::new(),
            forgotten: Vec::new(),
            memory_bound,
        })
    }

    /// What stops it.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        self.stop.clone()
    }

    /// What has it reload.
    #[must_use]
    pub fn reloader(&self) -> Reloader {
        self.reload.clone()
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let now = self.clock.now();
        for port in self.ports.values_mut() {
            port.close(now);
        }
        self.desk.finish();
        self.wards.save_last();
        self.keep_last_leases();
        if let Some(workers) = self.workers.take() {
            workers.stop();
        }
        // Guests' memory is given back when this returns, but for what hangs: that ends with the process, or keeps it.
        let end = self.clock.now().after_millis(PATIENCE);
        for port in self.ports.values() {
            port.drain(Duration::from_millis(end.millis_since(self.clock.now())));
        }
    }
}

/// All ports or, with the first error, none: those that were opened are dropped, and their sockets with them.
fn open_ports(
    live: &Live,
    doors: &[Arc<Door>],
    bell: &Arc<FaultBell>,
    epoll: &Arc<OwnedFd>,
    clock: &Clock,
) -> Result<BTreeMap<PortId, Port>, DaemonError> {
    let now = clock.now();
    let ports = live.ports().zip(&live.workers);
    let opened = ports.filter_map(|((port, id), worker)| {
        let door = Arc::clone(doors.get(*worker)?);
        let lanes = Lanes::new(id, port.queues, door, Arc::clone(bell));
        let port = Port::open(plan::port_setup(port), lanes, Arc::clone(epoll), now);
        Some(port.map(|port| (id, port)))
    });
    Ok(opened.collect::<Result<_, _>>()?)
}
