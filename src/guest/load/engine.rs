//! The loop: all ports from one thread.
//!
//! Three phases. *Announce*: each port says where it is, and the back-end must take that within the
//! patience. *Load*: rounds over the ports, receive before send, first to warm up and then measured; a
//! closed loop whose frames do not come back for [`STALL`] gives them up for lost and goes on. *Drain*: what
//! is still under way is waited for, so that late is not lost.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use quanta::Clock;

use super::{
    Check, Error, Limit, Pace, Pattern, Plan, Result,
    lane::BURST,
    look::{Counts, Observer},
    port::Port,
    report::{Faults, Latency, PortReport, Report},
};

/// How long a closed loop waits for a frame before it gives up all that are in flight.
const STALL: Duration = Duration::from_millis(200);
/// How long it must be quiet before the load begins.
const QUIET: Duration = Duration::from_millis(30);
/// How long the last frames may take.
const DRAIN: Duration = Duration::from_secs(1);
/// How often the slow questions are asked: is the back-end there, does anything move.
const GLANCE: Duration = Duration::from_millis(10);

/// What the ports share while they receive.
struct Ledger {
    clock: Clock,
    /// For each port: frames that it has sent and that have not arrived.
    flying: Vec<u64>,
    latency: Histogram<u64>,
    /// The time of the burst at hand.
    now: u64,
    measuring: bool,
}

impl Observer for Ledger {
    #[inline]
    fn taken(&mut self) {
        self.now = self.clock.raw();
    }

    #[inline]
    fn arrived(&mut self, from: u16) {
        let flying = &mut self.flying[usize::from(from)];
        *flying = flying.saturating_sub(1);
    }

    #[inline]
    fn timed(&mut self, time: u64) {
        if self.measuring {
            let nanos = self.clock.delta_as_nanos(time, self.now);
            self.latency.saturating_record(nanos);
        }
    }
}

pub(super) struct Engine<'p> {
    plan: &'p Plan,
    ports: Vec<Port>,
    ledger: Ledger,
    /// Ping-pong: who has the ball.
    ball: Vec<bool>,
    /// Open loop: frames that were due so far, for each port.
    due: Vec<u64>,
    held_back: u64,
    /// Rounds between two looks at the wall clock.
    rounds: usize,
}

/// The counts when the measuring began.
struct Start {
    at: Instant,
    received: Vec<u64>,
}

impl<'p> Engine<'p> {
    pub(super) fn plug_in(plan: &'p Plan) -> Result<Self> {
        let ports: Vec<Port> = (0..plan.ports.len())
            .map(|number| Port::plug_in(plan, number))
            .collect::<Result<_>>()?;
        let latency = Histogram::new_with_max(60_000_000_000, 3)
            .map_err(|e| Error::Misuse(format!("latency histogram: {e}")))?;
        Ok(Self {
            plan,
            ledger: Ledger {
                clock: Clock::new(),
                flying: vec![0; ports.len()],
                latency,
                now: 0,
                measuring: false,
            },
            ball: (0..ports.len()).map(|p| p.is_multiple_of(2)).collect(),
            due: vec![0; ports.len()],
            held_back: 0,
            rounds: (64 / ports.len()).max(1),
            ports,
        })
    }

    pub(super) fn run(mut self) -> Result<Report> {
        self.announce()?;
        for port in &mut self.ports {
            port.build_frames()?;
        }
        let start = self.load()?;
        let elapsed = start.at.elapsed();
        let received: Vec<u64> = self.ports.iter().map(|p| p.counts.received).collect();
        self.ledger.measuring = false;
        self.drain()?;
        Ok(self.report(&start, elapsed, &received))
    }

    /// Every port sends one frame with its address; what comes of it is thrown away.
    fn announce(&mut self) -> Result<()> {
        for port in &mut self.ports {
            port.announce(self.plan)?;
        }
        let begun = Instant::now();
        let mut last = begun;
        let mut taken = false;
        while !taken || last.elapsed() < QUIET {
            if !taken {
                taken = true;
                for port in &mut self.ports {
                    taken &= port.all_taken()?;
                }
                if !taken && begun.elapsed() > self.plan.patience {
                    return Err(Error::Device(format!(
                        "the back-end has taken no frame within {:?}; is the port up?",
                        self.plan.patience
                    )));
                }
            }
            for port in &mut self.ports {
                if port.discard()? > 0 {
                    last = Instant::now();
                }
                port.still_there()?;
            }
            if begun.elapsed() > self.plan.patience + Duration::from_secs(1) {
                return Err(Error::Device(
                    "frames keep coming before the load has begun: is there a loop?".into(),
                ));
            }
        }
        Ok(())
    }

    /// The load itself; returns when the measuring began.
    fn load(&mut self) -> Result<Start> {
        let begun = Instant::now();
        let warm_up = match self.plan.limit {
            Limit::Time(_) => self.plan.warm_up,
            Limit::Frames(_) => Duration::ZERO,
        };
        let mut start: Option<Start> = None;
        let mut glanced = begun;
        let mut progress = begun;
        let mut received = 0;
        loop {
            for _ in 0..self.rounds {
                self.round(begun)?;
            }
            let now = Instant::now();
            if start.is_none() && now - begun >= warm_up {
                self.ledger.measuring = true;
                start = Some(self.start_measuring(now));
            }
            if let Some(start) = start.take_if(|s| self.is_over(s, now)) {
                return Ok(start);
            }
            if now - glanced >= GLANCE {
                glanced = now;
                // Frames that come back to their sender are no progress.
                if self.received() != received {
                    received = self.received();
                    progress = now;
                }
                self.glance(now - progress)?;
            }
        }
    }

    fn start_measuring(&self, at: Instant) -> Start {
        Start {
            at,
            received: self.ports.iter().map(|p| p.counts.received).collect(),
        }
    }

    fn is_over(&self, start: &Start, now: Instant) -> bool {
        match self.plan.limit {
            Limit::Time(time) => now - start.at >= time,
            Limit::Frames(frames) => self.sent() >= frames,
        }
    }

    fn sent(&self) -> u64 {
        self.ports.iter().map(|p| p.counts.sent).sum()
    }

    fn received(&self) -> u64 {
        self.ports.iter().map(|p| p.counts.received).sum()
    }

    /// The slow questions, after `silence` without a frame.
    fn glance(&mut self, silence: Duration) -> Result<()> {
        for port in &self.ports {
            port.still_there()?;
        }
        if silence < STALL {
            return Ok(());
        }
        if silence > self.plan.patience {
            return Err(Error::Device(format!(
                "no frame has arrived for {silence:?}, after {} of {} sent",
                self.received(),
                self.sent()
            )));
        }
        self.ledger.flying.fill(0);
        for (number, ball) in self.ball.iter_mut().enumerate() {
            *ball = number.is_multiple_of(2);
        }
        Ok(())
    }

    /// One round over all ports.
    #[inline]
    fn round(&mut self, begun: Instant) -> Result<()> {
        for number in 0..self.ports.len() {
            let arrived = self.ports[number].receive(&mut self.ledger)?;
            if arrived > 0 && self.plan.pattern == Pattern::PingPong {
                self.ball[number] = true;
            }
            let allowed = self.allowed(number, begun)?;
            if allowed > 0 {
                let now = self.ledger.clock.raw();
                let sent = self.ports[number].transmit(allowed, now)?;
                self.ledger.flying[number] += sent as u64;
                self.due[number] += sent as u64;
                self.ball[number] = false;
            }
        }
        Ok(())
    }

    /// How many frames port `number` may send now.
    #[inline]
    fn allowed(&mut self, number: usize, begun: Instant) -> Result<usize> {
        let port = &mut self.ports[number];
        if port.peers.is_empty() {
            return Ok(0);
        }
        let room = port.reap()?.min(BURST);
        if let Limit::Frames(frames) = self.plan.limit
            && self.ports.iter().map(|p| p.counts.sent).sum::<u64>() >= frames
        {
            return Ok(0);
        }
        if self.plan.pattern == Pattern::PingPong {
            return Ok(usize::from(self.ball[number]).min(room));
        }
        match self.plan.pace {
            Pace::InFlight(most) => {
                let left = u64::from(most).saturating_sub(self.ledger.flying[number]);
                Ok(room.min(left as usize))
            }
            Pace::Rate(rate) => {
                let due = due_by(begun.elapsed(), rate);
                let mut behind = due.saturating_sub(self.due[number]);
                // More than a burst behind: the back-end is the brake. What is overdue is not made up
                // for, or the load would no longer be the one that was asked for.
                let most = BURST as u64;
                if behind > most {
                    let skipped = behind - most;
                    self.held_back += skipped;
                    self.due[number] += skipped;
                    behind = most;
                }
                Ok(room.min(behind as usize))
            }
        }
    }

    /// Waits for what is under way.
    fn drain(&mut self) -> Result<()> {
        let mut last = Instant::now();
        while last.elapsed() < DRAIN && self.received() < self.sent() {
            for port in &mut self.ports {
                if port.receive(&mut self.ledger)? > 0 {
                    last = Instant::now();
                }
            }
        }
        Ok(())
    }

    fn report(&self, start: &Start, elapsed: Duration, received: &[u64]) -> Report {
        let sum = |of: fn(&Counts) -> u64| self.ports.iter().map(|p| of(&p.counts)).sum::<u64>();
        let seconds = elapsed.as_secs_f64();
        let in_time = |number: usize| received[number] - start.received[number];
        let mut report = Report {
            seconds,
            size: self.plan.size,
            mpps: 0.0,
            gbps: 0.0,
            sent: self.sent(),
            received: self.received(),
            lost: self.sent().saturating_sub(self.received()),
            held_back: self.held_back,
            faults: Faults {
                duplicates: self.duplicates(),
                corrupt: sum(|c| c.corrupt),
                strays: sum(|c| c.strays),
                late: sum(|c| c.late),
                foreign: sum(|c| c.foreign),
            },
            latency: Latency::of(&self.ledger.latency),
            ports: self
                .ports
                .iter()
                .enumerate()
                .map(|(number, port)| PortReport {
                    socket: self.plan.ports[number].display().to_string(),
                    sent: port.counts.sent,
                    received: port.counts.received,
                    mpps: in_time(number) as f64 / seconds / 1e6,
                    kicks: port.kicks(),
                })
                .collect(),
        };
        report.set_rates((0..self.ports.len()).map(in_time).sum(), elapsed);
        report
    }

    /// Without numbers in the frames a surplus is all that can be seen.
    fn duplicates(&self) -> u64 {
        if self.plan.effective_check() == Check::None {
            self.received().saturating_sub(self.sent())
        } else {
            self.ports.iter().map(|p| p.counts.duplicates).sum()
        }
    }
}

/// Frames that are due after `elapsed` at `rate` a second.
#[inline]
#[allow(
    clippy::cast_sign_loss,
    reason = "both factors are positive; the plan is validated"
)]
fn due_by(elapsed: Duration, rate: f64) -> u64 {
    (elapsed.as_secs_f64() * rate) as u64
}
