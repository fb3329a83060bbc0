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
//! peer: every step that it takes for one port is bounded, and frames are not its business.

mod attendant;
mod limits;
mod plan;
mod record;
mod signals;

use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use crate::clock::Clock;
use crate::config::{PortSpec, SwitchSpec};
use crate::control::{ControlError, Server};
use crate::datapath::Workers;
use crate::fabric::{Fdb, StaticError};
use crate::memory::install_fault_handler;
use crate::port::door::Door;
use crate::port::lanes::{FaultBell, Lanes};
use crate::port::port::{OpenError, Port};
use plan::Plan;
use record::Record;

pub use signals::stop_on_signals;

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

#[derive(Debug)]
struct Ends {
    /// Written by whoever wants the switch to stop.
    said: UnixStream,
    /// Ready when somebody did. Never read: once is enough.
    heard: UnixStream,
}

impl Stopper {
    /// One that no switch listens to yet.
    ///
    /// # Errors
    /// The system is out of descriptors.
    pub fn new() -> Result<Self, DaemonError> {
        let failed = |source| DaemonError::System("wait for the end", source);
        let (said, heard) = UnixStream::pair().map_err(failed)?;
        said.set_nonblocking(true).map_err(failed)?;
        Ok(Self(Arc::new(Ends { said, heard })))
    }

    /// Has [`Switch::run`] return soon, or as soon as it is called.
    pub fn stop(&self) {
        // It can only fail when the buffer is full: then it has been said often enough.
        let _ = (&self.0.said).write(&[1]);
    }
}

/// A switch: its sockets are there and its workers run. Dropping it stops it.
#[derive(Debug)]
pub struct Switch {
    specs: Vec<PortSpec>,
    clock: Clock,
    epoll: Arc<OwnedFd>,
    stop: Stopper,
    bell: Arc<FaultBell>,
    fdb: Arc<Fdb>,
    ports: Vec<Port>,
    control: Server,
    /// Absent only while it is dropped.
    workers: Option<Workers>,
    record: Record,
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
        install_fault_handler();
        limits::raise_descriptors();
        let failed = |what: &'static str| move |source| DaemonError::System(what, source);
        let clock = Clock::new();
        let plan = Plan::new(spec)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC);
        let epoll = Arc::new(epoll.map_err(|errno| failed("wait")(errno.into()))?);
        let bell = FaultBell::new().map_err(failed("wait for faults"))?;
        let doors: io::Result<Vec<_>> = (0..spec.workers)
            .map(|_| Door::new().map(Arc::new))
            .collect();
        let doors = doors.map_err(failed("make the workers' doors"))?;
        let lanes = plan.lanes(spec, &doors, &bell);
        let ports = open_ports(spec, &lanes, &epoll, &clock)?;
        let control = Server::bind(&spec.control, spec.control_is_default)?;
        let watched: [(&dyn AsFd, u64); 3] = [
            (&control, attendant::CONTROL),
            (&*bell, attendant::BELL),
            (&stop.0.heard, attendant::STOP),
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
        let fdb = Arc::clone(plan.gate.fabric.fdb());
        let options = plan::options(spec);
        let workers = Workers::start(&options, doors, lanes, plan.gate, &clock)
            .map_err(DaemonError::Workers)?;
        let record = Record::new(spec, &ports, &workers, &clock);
        Ok(Self {
            specs: spec.ports.clone(),
            clock,
            epoll,
            stop,
            bell,
            fdb,
            ports,
            control,
            workers: Some(workers),
            record,
        })
    }

    /// What stops it.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        self.stop.clone()
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let now = self.clock.now();
        for port in &mut self.ports {
            port.close(now);
        }
        if let Some(workers) = self.workers.take() {
            workers.stop();
        }
        // Guests' memory is given back when this returns, but for what hangs: that ends with the process, or keeps it.
        let end = self.clock.now().after_millis(PATIENCE);
        for port in &self.ports {
            port.drain(Duration::from_millis(end.millis_since(self.clock.now())));
        }
    }
}

/// All ports or, with the first error, none: those that were opened are dropped, and their sockets with them.
fn open_ports(
    spec: &SwitchSpec,
    lanes: &[Arc<Lanes>],
    epoll: &Arc<OwnedFd>,
    clock: &Clock,
) -> Result<Vec<Port>, DaemonError> {
    let now = clock.now();
    let ports = spec.ports.iter().zip(lanes).map(|(port, lanes)| {
        let setup = plan::port_setup(port);
        Port::open(setup, Arc::clone(lanes), Arc::clone(epoll), now)
    });
    Ok(ports.collect::<Result<_, _>>()?)
}
