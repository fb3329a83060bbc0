//! What `status` answers: plain values, each with its unit. Directions are the guest's: it *sends* frames to the switch and
//! *receives* frames from it.

use serde::{Deserialize, Serialize};

use crate::counters::PortSnapshot;

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
    /// Addresses known now, static ones included.
    pub entries: u64,
    /// The most that it holds.
    pub capacity: u64,
}

/// One worker.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkerReport {
    /// The share of the last second that it spent with frames, 0 to 1.
    pub busy: f64,
    /// Nanoseconds spent with frames since the start.
    pub busy_ns: u64,
    /// CPU cycles spent with frames since the start.
    pub busy_cycles: u64,
    /// Frames since the start.
    pub frames: u64,
    /// Bursts since the start.
    pub bursts: u64,
    /// Times that it slept since the start.
    pub sleeps: u64,
}

/// One port.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PortReport {
    /// Its name.
    pub name: String,
    /// Its socket.
    pub socket: String,
    /// Whether we connect to it; else the front-end does.
    pub connect: bool,
    /// `bridge`, `isolated` or `private`.
    pub mode: String,
    /// Whether it leads outside.
    pub uplink: bool,
    /// Its groups.
    pub groups: Vec<String>,
    /// Its segments: `10`, or `trunk 10,20-29 native 10`.
    pub vlan: String,
    /// `waiting`, `negotiating`, `running` or `quarantined`.
    pub state: String,
    /// Why, when there is something to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Who is connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<PeerReport>,
    /// What was negotiated; empty until then.
    pub features: FeatureReport,
    /// Rings that run.
    pub rings: Vec<RingReport>,
    /// Addresses behind it.
    pub macs: MacReport,
    /// Over the last second.
    pub rates: Rates,
    /// Since the start.
    pub counters: PortSnapshot,
}

/// A front-end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerReport {
    /// Its process; absent when it is outside our pid namespace.
    pub pid: Option<i32>,
    /// Its user.
    pub uid: u32,
}

/// Feature bits, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeatureReport {
    /// Virtio features that the guest's driver accepted.
    pub virtio: Vec<String>,
    /// vhost-user protocol features that the front-end accepted.
    pub protocol: Vec<String>,
}

/// A ring that runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingReport {
    /// As in the vhost-user protocol: 2k receives, 2k + 1 sends.
    pub index: u16,
    /// Entries.
    pub size: u16,
    /// Whether the front-end enabled it.
    pub enabled: bool,
    /// Why it is not processed any more, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broken: Option<String>,
}

/// Addresses of a port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MacReport {
    /// From the configuration.
    pub fixed: Vec<String>,
    /// Learned, the first few.
    pub learned: Vec<String>,
    /// Learned, all of them.
    pub learned_count: u64,
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
