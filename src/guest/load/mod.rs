//! The load generator: ports of a back-end under load, and what came of it.
//!
//! [`run`] plugs one guest into each socket of a [`Plan`] (any vhost-user network back-end: this switch,
//! DPDK's vhost driver, Open vSwitch with DPDK), announces their addresses, and drives all of them from one
//! thread that polls. Load is given as a *closed loop* (so many frames in flight for each sender, which
//! measures throughput and hides nothing in a queue), an *open loop* (so many frames a second, whatever
//! comes back, which shows loss and the latency under a given load), or *ping-pong* (one frame, back and
//! forth, which measures latency alone).
//!
//! Every frame can carry a number and a checksum; [`Check`] says how much of it is looked at, because
//! looking costs. What is reported is what arrived. A back-end that moves nothing is an error and never a
//! hang.

mod engine;
mod flows;
mod frames;
mod lane;
mod look;
mod port;
mod report;

use std::{path::PathBuf, time::Duration};

pub use frames::{LARGEST, LARGEST_PLAIN, MOST_PORTS, SMALLEST};
pub use report::{Faults, Latency, PortReport, Report};

use super::{Error, Result};

/// Who sends to whom.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Pattern {
    /// The ports two by two (0 and 1, 2 and 3, ...), both directions at once.
    #[default]
    Pairs,
    /// The ports two by two, from the even to the odd one only.
    OneToOne,
    /// Every port to every other, in turn.
    AllToAll,
    /// The ports two by two, one frame going back and forth in each pair.
    PingPong,
}

/// How much is sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// A closed loop: each sender has this many frames in flight.
    InFlight(u32),
    /// An open loop: each sender sends this many frames a second.
    Rate(f64),
}

/// How closely a received frame is looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    /// Not at all; frames are counted.
    None,
    /// Its number: order, gaps, duplicates, frames at the wrong port; and latency by its time of sending.
    #[default]
    Order,
    /// Also every byte of its body, by a checksum.
    Full,
}

/// When it ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    /// After this time of measuring.
    Time(Duration),
    /// After this many frames were sent in all.
    Frames(u64),
}

/// A whole run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The sockets, one for each port.
    pub ports: Vec<PathBuf>,
    /// Whether we listen on them and the back-end connects.
    pub listen: bool,
    /// Who sends to whom.
    pub pattern: Pattern,
    /// How much.
    pub pace: Pace,
    /// Bytes of a frame, [`SMALLEST`] to [`LARGEST`]; above [`LARGEST_PLAIN`] as one TCP segment that
    /// the device is to cut.
    pub size: usize,
    /// UDP or TCP flows of each sender, told apart by their source port; at most as many as the ring has
    /// descriptors.
    pub flows: u16,
    /// Whether the sender writes each frame anew and the receiver reads every byte.
    pub touch: bool,
    /// How closely received frames are looked at.
    pub check: Check,
    /// When it ends.
    pub limit: Limit,
    /// How long the load runs before the measuring begins.
    pub warm_up: Duration,
    /// Descriptors of each ring.
    pub ring_size: u16,
    /// Bytes of a receive buffer; unset: one that holds a whole frame, 2048 at least.
    pub rx_buffer: Option<u32>,
    /// Whether IN_ORDER is wanted.
    pub in_order: bool,
    /// Whether MRG_RXBUF is wanted.
    pub mergeable: bool,
    /// Whether EVENT_IDX is wanted; DPDK's driver does without.
    pub event_idx: bool,
    /// The MAC address of the first port; the others count up from it.
    pub mac: [u8; 6],
    /// How long to wait for the back-end: for its socket, for each answer, and for the first frame.
    pub patience: Duration,
    /// The processor to run on.
    pub cpu: Option<usize>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            ports: Vec::new(),
            listen: false,
            pattern: Pattern::default(),
            pace: Pace::InFlight(256),
            size: 64,
            flows: 1,
            touch: false,
            check: Check::default(),
            limit: Limit::Time(Duration::from_secs(2)),
            warm_up: Duration::from_millis(200),
            ring_size: 1024,
            rx_buffer: None,
            in_order: true,
            mergeable: true,
            event_idx: false,
            mac: [0x52, 0x54, 0, 0x4c, 0, 1],
            patience: Duration::from_secs(5),
            cpu: None,
        }
    }
}

impl Plan {
    fn validate(&self) -> Result<()> {
        let wrong = |what: String| Err(Error::Misuse(what));
        let ports = self.ports.len();
        if !(2..=MOST_PORTS).contains(&ports) {
            return wrong(format!(
                "{ports} ports were named; name 2 to {MOST_PORTS}, each with --port PATH"
            ));
        }
        if self.pattern != Pattern::AllToAll && !ports.is_multiple_of(2) {
            return wrong(format!(
                "{ports} ports cannot be paired; add one, or send from all to all"
            ));
        }
        if !(SMALLEST..=LARGEST).contains(&self.size) {
            return wrong(format!(
                "frames of {} bytes; choose {SMALLEST} to {LARGEST}",
                self.size
            ));
        }
        if !self.ring_size.is_power_of_two() || !(2..=32_768).contains(&self.ring_size) {
            return wrong(format!(
                "a ring of {} descriptors; choose a power of two, 2 to 32768",
                self.ring_size
            ));
        }
        if self.flows == 0 || self.flows > self.ring_size {
            return wrong(format!(
                "{} flows over a ring of {}; choose 1 to the size of the ring",
                self.flows, self.ring_size
            ));
        }
        match self.pace {
            Pace::InFlight(0) => wrong("no frames in flight; choose 1 or more".into()),
            Pace::Rate(rate) if !(rate > 0.0 && rate.is_finite()) => {
                wrong(format!("a rate of {rate}; choose frames a second above 0"))
            }
            _ => Ok(()),
        }
    }

    /// To whom port `port` sends.
    fn peers(&self, port: usize) -> Vec<u16> {
        match self.pattern {
            Pattern::Pairs | Pattern::PingPong => vec![(port ^ 1) as u16],
            Pattern::OneToOne if port.is_multiple_of(2) => vec![(port ^ 1) as u16],
            Pattern::OneToOne => Vec::new(),
            Pattern::AllToAll => (0..self.ports.len())
                .map(|step| (port + step) % self.ports.len())
                .filter(|to| *to != port)
                .map(|to| to as u16)
                .collect(),
        }
    }

    /// The check in force: from all to all the sender must be read from the frame.
    fn effective_check(&self) -> Check {
        if self.pattern == Pattern::AllToAll {
            self.check.max(Check::Order)
        } else {
            self.check
        }
    }
}

/// Runs `plan` on this thread and reports.
///
/// # Errors
///
/// When the plan makes no sense, a port cannot be plugged in, the back-end breaks a rule or goes away, or
/// no frame arrives at all.
pub fn run(plan: &Plan) -> Result<Report> {
    plan.validate()?;
    if let Some(cpu) = plan.cpu {
        let mut set = rustix::thread::CpuSet::new();
        if cpu >= rustix::thread::CpuSet::MAX_CPU {
            return Err(Error::Misuse(format!("there is no processor {cpu}")));
        }
        set.set(cpu);
        rustix::thread::sched_setaffinity(None, &set)
            .map_err(|e| Error::io("pin the load to its processor", e))?;
    }
    engine::Engine::plug_in(plan)?.run()
}
