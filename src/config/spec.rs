//! The validated model: what the rest of the house is built from.

use std::fmt;
use std::path::{Path, PathBuf};

use super::Place;

/// Ports of one switch.
pub const MAX_PORTS: usize = 1024;
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
    /// How workers wait.
    pub poll: Poll,
    /// How long a worker goes on looking after the last frame, in microseconds, before it sleeps.
    pub spin_us: u32,
    /// The forwarding table.
    pub fdb: FdbSpec,
    /// 1 to [`MAX_PORTS`], in the order they were written.
    pub ports: Vec<PortSpec>,
}

/// How a worker waits for frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Poll {
    /// Looks for a short time after the last frame, then sleeps until a guest kicks.
    #[default]
    Adaptive,
    /// Never sleeps: a core for each worker.
    Always,
    /// Sleeps as soon as there is nothing to do.
    Never,
}

/// The bounds of the forwarding table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FdbSpec {
    /// Entries of all ports together.
    pub capacity: u32,
    /// Entries learned from one port.
    pub per_port: u32,
    /// Seconds after which an address that was not seen is forgotten.
    pub ageing: u32,
}

impl Default for FdbSpec {
    fn default() -> Self {
        Self {
            capacity: 16384,
            per_port: 1024,
            ageing: 300,
        }
    }
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
    pub macs: Vec<MacAddr>,
    /// Segments.
    pub vlan: Vlan,
    /// Queue pairs, 1 to [`MAX_QUEUES`].
    pub queues: u16,
    /// What the guest is told (VIRTIO_NET_F_MTU); not offered when absent.
    pub mtu: Option<u16>,
    /// Where the socket was named.
    pub origin: Place,
}

/// Which side of the socket we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// We make the socket and the front-end connects.
    Listen(PathBuf),
    /// The front-end makes it, and we connect, again and again.
    Connect(PathBuf),
}

impl Endpoint {
    /// The socket's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Listen(path) | Self::Connect(path) => path,
        }
    }
}

/// Whom a port reaches; the table is in `docs/design.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// All bridge and isolated ports, and uplinks.
    #[default]
    Bridge,
    /// Bridge ports, uplinks, and isolated ports of a common group.
    Isolated,
    /// Uplinks only.
    Private,
}

/// Segments of a port (IEEE 802.1Q); identifiers are 1 to 4094.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Vlan {
    /// One segment; frames are untagged.
    Access(u16),
    /// Several segments; frames are tagged.
    Trunk {
        /// Inclusive ranges, in the order they were written.
        allowed: Vec<(u16, u16)>,
        /// The segment of untagged frames; without it they are dropped.
        native: Option<u16>,
    },
}

/// A unicast Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacAddr(pub [u8; 6]);

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
