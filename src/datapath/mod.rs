//! Workers: rounds with a budget for each port, ingress, egress, offload completion.
//!
//! Promised to the ports:
//! - a frame takes the six hops of the design in order, and the types at the doors make it impossible to skip one: a
//!   checked chain, a private snapshot, a parsed frame, `Admitted`, destinations, `Permit`, reserved places;
//! - every head that was taken from a ring is returned exactly once;
//! - every frame has one outcome at its source, every copy one at its receiver (see [`crate::counters`]);
//! - nobody waits: a full receiver loses the frame, a ring in debt is skipped, a call that blocks is a fault;
//! - no allocation after start.

mod budget;
mod court;
pub mod crank;
mod cursor;
mod egress;
mod fanout;
mod generation;
pub mod offload;
mod slot;
mod slots;
mod step;
#[cfg(test)]
mod tests;
mod worker;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::clock::Clock;
use crate::fabric::Fabric;
use crate::policy::Policy;
use crate::port::door::{Door, Note};
use crate::port::lanes::Lanes;
use worker::{Effort, Worker};

pub use generation::{Generation, Ports, Retired};
pub(crate) use slot::{LONG_MAX, SNAPSHOT, SNAPSHOT_MAX};

/// What judges frames: one immutable whole, part of a [`Generation`].
#[derive(Debug)]
pub struct Gate {
    /// Who may send what, and to whom.
    pub policy: Policy,
    /// Where frames go.
    pub fabric: Fabric,
}

/// When a worker that finds no work sleeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PollMode {
    /// After `spin` without work.
    #[default]
    Adaptive,
    /// Never: one core each, and no wake-up ever.
    Always,
    /// At once: least CPU, a wake-up for each burst.
    Never,
}

/// How workers work.
#[derive(Clone, Debug)]
pub struct Options {
    /// When to sleep.
    pub poll: PollMode,
    /// How long to look for work before sleeping; about what a wake-up costs.
    pub spin: Duration,
    /// CPU of each worker; workers beyond the list are not pinned.
    pub cpus: Vec<usize>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            poll: PollMode::Adaptive,
            spin: Duration::from_micros(50),
            cpus: Vec::new(),
        }
    }
}

/// What a worker has done since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
pub struct WorkerStatus {
    /// Cycles of the time stamp counter spent in visits that found work.
    pub busy_cycles: u64,
    /// The same in nanoseconds.
    pub busy_nanos: u64,
    /// Frames taken from transmit rings.
    pub frames: u64,
    /// Bursts that they came in.
    pub bursts: u64,
    /// Times that it went to sleep.
    pub sleeps: u64,
}

/// The running workers.
#[derive(Debug)]
pub struct Workers {
    doors: Vec<Arc<Door>>,
    efforts: Vec<Arc<Effort>>,
    threads: Vec<JoinHandle<()>>,
    generation: Arc<ArcSwap<Generation>>,
    clock: Clock,
}

impl Workers {
    /// Starts a worker for each door. `ports` are all ports of the switch.
    ///
    /// # Errors
    /// A thread could not be made, or not be pinned to its CPU; those that were made are stopped.
    pub fn start(
        options: &Options,
        doors: Vec<Arc<Door>>,
        ports: Vec<Arc<Lanes>>,
        gate: Gate,
        clock: &Clock,
    ) -> io::Result<Self> {
        let first = Generation::new(1, ports.into_iter().collect(), gate);
        let mut workers = Self {
            doors: Vec::new(),
            efforts: Vec::new(),
            threads: Vec::new(),
            generation: Arc::new(ArcSwap::from_pointee(first)),
            clock: clock.clone(),
        };
        for (index, door) in doors.into_iter().enumerate() {
            let effort = Arc::new(Effort::default());
            let cpu = options.cpus.get(index).copied();
            let worker = Worker::new(
                Arc::clone(&door),
                &workers.generation,
                clock.clone(),
                options.poll,
                options.spin,
                Arc::clone(&effort),
            );
            match spawn(index, cpu, worker) {
                Ok(thread) => {
                    workers.doors.push(door);
                    workers.efforts.push(effort);
                    workers.threads.push(thread);
                }
                Err(error) => {
                    workers.stop();
                    return Err(error);
                }
            }
        }
        Ok(workers)
    }

    /// The ports and the gate in force.
    #[must_use]
    pub fn generation(&self) -> Arc<Generation> {
        self.generation.load_full()
    }

    /// Puts other ports and another gate in force, together: each worker takes them up with its next visit. What was in
    /// force comes back, for the caller to keep until it is released.
    pub fn replace(&self, ports: Ports, gate: Gate) -> Retired {
        let number = self.generation.load().number().saturating_add(1);
        let next = Generation::new(number, ports, gate);
        let old = self.generation.swap(Arc::new(next));
        for door in &self.doors {
            door.leave(Note::Generation);
        }
        Retired(old)
    }

    /// What each worker has done.
    #[must_use]
    pub fn status(&self) -> Vec<WorkerStatus> {
        let read = |effort: &Arc<Effort>| {
            let busy_cycles = effort.busy.load(Ordering::Relaxed);
            WorkerStatus {
                busy_cycles,
                busy_nanos: self.clock.nanos_between(0, busy_cycles),
                frames: effort.frames.load(Ordering::Relaxed),
                bursts: effort.bursts.load(Ordering::Relaxed),
                sleeps: effort.sleeps.load(Ordering::Relaxed),
            }
        };
        self.efforts.iter().map(read).collect()
    }

    /// Stops every worker and waits until the last has left its loop: a burst at most.
    pub fn stop(self) {
        for door in &self.doors {
            door.leave(Note::Stop);
        }
        for thread in self.threads {
            // Steps are caught, so a worker that panicked did so outside of one; there is nothing left to do for it.
            let _ = thread.join();
        }
    }
}

/// Starts one worker, pinned if it is to be.
fn spawn(index: usize, cpu: Option<usize>, worker: Worker) -> io::Result<JoinHandle<()>> {
    let (report, pinned) = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new()
        .name(format!("worker-{index}"))
        .spawn(move || {
            let result = cpu.map_or(Ok(()), pin);
            let failed = result.is_err();
            let _ = report.send(result);
            if !failed {
                worker.run();
            }
        })?;
    match pinned.recv() {
        Ok(Ok(())) => Ok(thread),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::Error::other(format!(
            "worker {index} ended while it started"
        ))),
    }
}

/// Keeps the calling thread, and those that it starts from now on, off the CPUs of workers, so that neither a session nor a
/// reload takes time from frames. Where there are no other CPUs everything stays as it is.
///
/// # Errors
/// The system does not let it.
pub fn keep_off(cpus: &[usize]) -> io::Result<()> {
    let mut set = rustix::thread::sched_getaffinity(None)?;
    let of_workers = cpus
        .iter()
        .filter(|&&cpu| cpu < rustix::thread::CpuSet::MAX_CPU);
    for &cpu in of_workers {
        set.unset(cpu);
    }
    if set.count() != 0 {
        rustix::thread::sched_setaffinity(None, &set)?;
    }
    Ok(())
}

/// Whether a worker could be pinned to `cpu`: a thread tries, and ends.
///
/// # Errors
/// The system does not let it.
pub fn can_run_on(cpu: usize) -> io::Result<()> {
    let tried = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, || pin(cpu))?;
        Ok(thread.join())
    });
    // It does not panic; if it did, the worker would.
    tried.and_then(|ended| ended.unwrap_or(Ok(())))
}

/// Pins the calling thread to `cpu`.
fn pin(cpu: usize) -> io::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    if cpu >= rustix::thread::CpuSet::MAX_CPU {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("CPU {cpu} does not exist"),
        ));
    }
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot run on CPU {cpu}: {error}")))
}
