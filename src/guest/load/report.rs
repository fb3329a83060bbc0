//! What came of a load, as text and as JSON.

use std::{fmt, time::Duration};

use hdrhistogram::Histogram;
use serde::Serialize;

/// The outcome of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Seconds of measuring.
    pub seconds: f64,
    /// Bytes of a frame.
    pub size: usize,
    /// Frames that arrived in that time, a second, in millions.
    pub mpps: f64,
    /// Bits of those frames a second, in thousand millions.
    pub gbps: f64,
    /// Frames sent in the whole run.
    pub sent: u64,
    /// Frames of it that arrived where they should.
    pub received: u64,
    /// Frames that did not.
    pub lost: u64,
    /// Frames that an open loop could not send in time, because the back-end had not taken earlier ones.
    pub held_back: u64,
    /// What must not be.
    pub faults: Faults,
    /// One-way latency; absent when nothing was timed.
    pub latency: Option<Latency>,
    /// Each port by itself.
    pub ports: Vec<PortReport>,
}

/// What a correct back-end never does, and what it may do (late frames, frames of others).
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Faults {
    /// Frames that arrived a second time.
    pub duplicates: u64,
    /// Frames whose length or content had changed.
    pub corrupt: u64,
    /// Frames that arrived at a port to which they were not sent.
    pub strays: u64,
    /// Frames that arrived after a later one.
    pub late: u64,
    /// Frames that are not of this load.
    pub foreign: u64,
}

impl Faults {
    /// Whether a frame was duplicated or corrupted.
    #[must_use]
    pub fn broken(&self) -> bool {
        self.duplicates > 0 || self.corrupt > 0
    }
}

/// One-way latency in microseconds, from before the frame was published to after it was taken.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Latency {
    /// Frames that were timed.
    pub frames: u64,
    /// The least.
    pub min: f64,
    /// Half were faster.
    pub p50: f64,
    /// 90 % were faster.
    pub p90: f64,
    /// 99 % were faster.
    pub p99: f64,
    /// 99.9 % were faster.
    pub p999: f64,
    /// The most.
    pub max: f64,
}

impl Latency {
    pub(super) fn of(histogram: &Histogram<u64>) -> Option<Self> {
        let micros = |ns: u64| ns as f64 / 1000.0;
        (!histogram.is_empty()).then(|| Self {
            frames: histogram.len(),
            min: micros(histogram.min()),
            p50: micros(histogram.value_at_quantile(0.5)),
            p90: micros(histogram.value_at_quantile(0.9)),
            p99: micros(histogram.value_at_quantile(0.99)),
            p999: micros(histogram.value_at_quantile(0.999)),
            max: micros(histogram.max()),
        })
    }
}

/// One port.
#[derive(Debug, Clone, Serialize)]
pub struct PortReport {
    /// Its socket.
    pub socket: String,
    /// Frames that it sent.
    pub sent: u64,
    /// Frames that it received.
    pub received: u64,
    /// Of the measured time: frames received a second, in millions.
    pub mpps: f64,
    /// Kicks that the back-end asked for.
    pub kicks: u64,
}

impl Report {
    /// The share of the sent frames that were lost.
    #[must_use]
    pub fn loss(&self) -> f64 {
        if self.sent == 0 {
            0.0
        } else {
            self.lost as f64 / self.sent as f64
        }
    }

    pub(super) fn set_rates(&mut self, frames: u64, time: Duration) {
        self.seconds = time.as_secs_f64();
        if self.seconds > 0.0 {
            let rate = frames as f64 / self.seconds;
            self.mpps = rate / 1e6;
            self.gbps = rate * self.size as f64 * 8.0 / 1e9;
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:.3} Mpps  {:.3} Gbit/s  ({} B frames, {:.2} s, {} ports)",
            self.mpps,
            self.gbps,
            self.size,
            self.seconds,
            self.ports.len()
        )?;
        writeln!(
            f,
            "sent {}  received {}  lost {} ({:.4} %)  held back {}",
            self.sent,
            self.received,
            self.lost,
            self.loss() * 100.0,
            self.held_back
        )?;
        let faults = self.faults;
        writeln!(
            f,
            "duplicates {}  corrupt {}  strays {}  late {}  foreign {}",
            faults.duplicates, faults.corrupt, faults.strays, faults.late, faults.foreign
        )?;
        if let Some(l) = &self.latency {
            writeln!(
                f,
                "one-way latency in us: min {:.2}  p50 {:.2}  p90 {:.2}  p99 {:.2}  p99.9 {:.2}  \
                 max {:.2}  ({} frames)",
                l.min, l.p50, l.p90, l.p99, l.p999, l.max, l.frames
            )?;
        }
        for port in &self.ports {
            writeln!(
                f,
                "  {}: sent {}  received {}  {:.3} Mpps  kicks {}",
                port.socket, port.sent, port.received, port.mpps, port.kicks
            )?;
        }
        Ok(())
    }
}
