//! What a port tells about itself: plain values, for the control socket and its readers.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::counters::PortSnapshot;

/// What a port is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PortState {
    /// No front-end is connected.
    Waiting,
    /// A front-end is connected; no ring runs yet.
    Negotiating,
    /// Rings run.
    Running,
    /// A fault stopped it, or one of its rings, or what its front-end gave cannot be closed. Why is said beside.
    Quarantined,
}

impl PortState {
    /// The word for tables; the same as in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Negotiating => "negotiating",
            Self::Running => "running",
            Self::Quarantined => "quarantined",
        }
    }
}

/// Which side of the socket we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// The front-end connects to us.
    Listen,
    /// We connect to the front-end.
    Connect,
}

/// The process at the other end (unix(7): SO_PEERCRED).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// None when it is outside our pid namespace.
    pub pid: Option<i32>,
    /// Its effective user.
    pub uid: u32,
}

/// One ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingStatus {
    /// As in the vhost-user protocol: 2k is the receive ring of pair k, 2k + 1 its transmit ring.
    pub index: u16,
    /// Whether it runs.
    pub running: bool,
    /// Entries; 0 when it does not run.
    pub size: u16,
    /// The next entry of the available ring that we will look at.
    pub next: u16,
    /// Enabled by the front-end.
    pub enabled: bool,
    /// Why it was not started, or why we stopped processing it.
    pub problem: Option<String>,
}

/// A port at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortStatus {
    /// Its name.
    pub name: String,
    /// Its number: its place in the configuration.
    pub id: u16,
    /// What it is doing.
    pub state: PortState,
    /// Why it is quarantined, or held up.
    pub why: Option<String>,
    /// The last fault, though the port may have recovered since.
    pub last_fault: Option<String>,
    /// The socket.
    pub socket: PathBuf,
    /// Our side of it.
    pub direction: Direction,
    /// The front-end, when one is connected.
    pub peer: Option<PeerStatus>,
    /// Virtio features that were accepted, by name.
    pub features: Vec<String>,
    /// Protocol features that were accepted, by name.
    pub protocol_features: Vec<String>,
    /// Regions of guest memory that are mapped.
    pub memory_regions: u64,
    /// Bytes in them.
    pub memory_bytes: u64,
    /// Rings that run, and rings that were refused.
    pub rings: Vec<RingStatus>,
    /// What was counted since the start.
    pub counters: PortSnapshot,
}
