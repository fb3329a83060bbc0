//! The validated model: what the rest of the house is built from.

use std::path::PathBuf;

use super::Place;
use crate::datapath::PollMode;
use crate::fabric::{FdbLimits, Mode, VlanMembership};
use crate::frame::Mac;
use crate::port::endpoint::Endpoint;

/// Queue pairs of one port.
pub const MAX_QUEUES: u16 = 8;
/// Characters of a name (switch, port, group).
pub const MAX_NAME: usize = 32;
/// Bytes of a socket path: `sun_path` holds 108 with the closing NUL (unix(7)).
pub const MAX_SOCKET_PATH: usize = 107;
/// The smallest MTU a guest may be told (VIRTIO 1.2, 5.1.4.1).
pub const MIN_MTU: u16 = 68;
/// The largest MTU a guest may be told (VIRTIO 1.2, 5.1.4.1).
pub const MAX_MTU: u16 = 65535;

/// One switch, complete and consistent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwitchSpec {
    /// `[A-Za-z0-9_.-]`, at most [`MAX_NAME`].
    pub name: String,
    /// Where the control socket is to be.
    pub control: PathBuf,
    /// Where that was said.
    pub control_origin: Place,
    /// Whether the path of the control socket is the default, whose directory is made when it is missing.
    pub control_is_default: bool,
    /// Worker threads, from 1.
    pub workers: u16,
    /// One CPU for each worker, or none at all.
    pub cpus: Vec<u16>,
    /// When a worker without work sleeps.
    pub poll: PollMode,
    /// How long a worker goes on looking after the last frame, in microseconds, before it sleeps.
    pub spin_us: u32,
    /// The forwarding table.
    pub fdb: FdbLimits,
    /// 1 to [`MAX_PORTS`](crate::counters::MAX_PORTS), in the order they were written.
    pub ports: Vec<PortSpec>,
}

/// One port: what `[port.NAME]` and `--port NAME=...` both say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSpec {
    /// `[A-Za-z0-9_.-]`, at most [`MAX_NAME`], unique in the switch.
    pub name: String,
    /// Which side of the socket we are.
    pub endpoint: Endpoint,
    /// Whom it reaches.
    pub mode: Mode,
    /// Towards the outside: reaches every port, whatever the modes.
    pub uplink: bool,
    /// For isolated ports: those that share a group reach each other.
    pub groups: Vec<String>,
    /// The guest's own addresses: static entries of the forwarding table.
    pub macs: Vec<Mac>,
    /// Segments.
    pub vlan: VlanMembership,
    /// Queue pairs, 1 to [`MAX_QUEUES`].
    pub queues: u16,
    /// What the guest is told (VIRTIO_NET_F_MTU); not offered when absent.
    pub mtu: Option<u16>,
    /// Where the socket was named.
    pub origin: Place,
}

impl PortSpec {
    /// Whether we connect to the front-end; else it connects to us.
    #[must_use]
    pub fn is_connecting(&self) -> bool {
        matches!(self.endpoint, Endpoint::Connect(_))
    }
}
