//! What `status` answers: plain values, each with its unit. Directions are the guest's: it *sends* frames to the switch and
//! *receives* frames from it.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::change::QuarantineReport;
use crate::counters::PortSnapshot;
use crate::datapath::WorkerStatus;
use crate::fabric::Mode;
use crate::port::status::PortStatus;

/// One switch.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SwitchReport {
    /// Its name.
    pub name: String,
    /// The program's version.
    pub program: String,
    /// Its process.
    pub pid: u32,
    /// Seconds since it was ready.
    pub uptime_s: u64,
    /// Which policy is in force: counts up with each change.
    #[serde(default)]
    pub epoch: u64,
    /// The file that its configuration is from; none for a switch of flags alone.
    #[serde(default)]
    pub configuration: Option<PathBuf>,
    /// The forwarding table.
    pub fdb: FdbReport,
    /// Each worker.
    pub workers: Vec<WorkerReport>,
    /// Each port, in the order of the configuration.
    pub ports: Vec<PortReport>,
}

/// The forwarding table.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FdbReport {
    /// Addresses learned from all ports.
    pub learned: u32,
    /// The most that are kept.
    pub capacity: u32,
}

/// One worker.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkerReport {
    /// The share of the last second that it spent with frames, 0 to 1.
    pub busy: f64,
    /// Since the start.
    #[serde(flatten)]
    pub since_start: WorkerStatus,
}

/// One port.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PortReport {
    /// What the port says of itself.
    #[serde(flatten)]
    pub status: PortStatus,
    /// Whom it reaches.
    pub mode: Mode,
    /// Whether it leads outside.
    pub uplink: bool,
    /// Its groups.
    pub groups: Vec<String>,
    /// Its segments: `10`, or `trunk 10,20-29 native 10`.
    pub vlan: String,
    /// Queue pairs that it has room for.
    pub queue_pairs: u16,
    /// Addresses behind it.
    pub macs: MacReport,
    /// Addresses that a DHCP server has granted its guest.
    #[serde(default)]
    pub leases: Vec<LeaseReport>,
    /// Which IP addresses it may use.
    #[serde(default)]
    pub ip: IpReport,
    /// Over the last second.
    pub rates: Rates,
    /// What of port security was switched off for it, in the configuration's words.
    #[serde(default)]
    pub switched_off: Vec<String>,
    /// The lists of rules that are bound to it, by name.
    #[serde(default)]
    pub lists: Vec<String>,
    /// Its limits, in words: `sends 100000000 bit/s`.
    #[serde(default)]
    pub limits: Vec<String>,
    /// Connections that it has opened, and how many it may have open at once.
    #[serde(default)]
    pub connections: (u32, u32),
    /// If it is in quarantine: since when, and whom it still reaches.
    #[serde(default)]
    pub quarantine: Option<QuarantineReport>,
}

impl PortReport {
    /// How it relates to the others, in one word.
    #[must_use]
    pub fn role(&self) -> &'static str {
        match self.mode {
            _ if self.uplink => "uplink",
            Mode::Bridge => "bridge",
            Mode::Isolated => "isolated",
            Mode::Private => "private",
        }
    }
}

/// A lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseReport {
    /// The address.
    pub address: IpAddr,
    /// The MAC address that it was granted to.
    pub mac: String,
    /// The segment in which it was granted.
    pub vlan: u16,
    /// What is left of it; `None`: it never ends.
    pub seconds: Option<u32>,
}

/// Addresses of a port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MacReport {
    /// From the configuration.
    pub fixed: Vec<String>,
    /// The first that was heard, which is this port's alone until its guest disconnects.
    #[serde(default)]
    pub kept: Vec<String>,
    /// Learned, the first few.
    pub learned: Vec<String>,
    /// Learned, how many in all.
    pub learned_count: u32,
}

/// IP addresses of a port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpReport {
    /// `declared`, `dhcp`, or `any`: MAC rules only.
    pub bound: String,
    /// Declared addresses and prefixes, the first few.
    #[serde(default)]
    pub declared: Vec<String>,
    /// How many more there are.
    #[serde(default)]
    pub more: u32,
}

/// Both directions of a port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// From the guest.
    pub sent: Flow,
    /// To the guest.
    pub received: Flow,
    /// Frames of either direction that were dropped, a second.
    pub dropped: f64,
}

/// One direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Flow {
    /// Frames a second.
    pub frames: f64,
    /// Bytes a second.
    pub bytes: f64,
}

impl Rates {
    /// From two readings of a port's counters, `seconds` apart.
    #[must_use]
    pub fn between(before: &PortSnapshot, after: &PortSnapshot, seconds: f64) -> Self {
        let per_second = |before: u64, after: u64| {
            #[expect(clippy::cast_precision_loss, reason = "a rate for people to read")]
            let difference = after.wrapping_sub(before) as f64;
            if seconds > 0.0 {
                difference / seconds
            } else {
                0.0
            }
        };
        let lost = |snapshot: &PortSnapshot| {
            let dropped = snapshot.ingress.dropped.total();
            dropped.wrapping_add(snapshot.egress.undelivered.total())
        };
        Self {
            sent: Flow {
                frames: per_second(before.ingress.received, after.ingress.received),
                bytes: per_second(before.ingress.received_bytes, after.ingress.received_bytes),
            },
            received: Flow {
                frames: per_second(before.egress.delivered, after.egress.delivered),
                bytes: per_second(before.egress.delivered_bytes, after.egress.delivered_bytes),
            },
            dropped: per_second(lost(before), lost(after)),
        }
    }
}
