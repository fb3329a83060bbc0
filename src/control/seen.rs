//! Pages of what the gate has seen: dropped frames, connections, rules with their hits.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Which dropped frames.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DropsQuery {
    /// Only those from this port.
    pub port: Option<String>,
    /// Where to go on: the `next` of the page before.
    pub from: u32,
}

/// Dropped frames of some ports.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropsPage {
    /// Ports that have any, in the order of the configuration.
    pub ports: Vec<PortDrops>,
    /// Where the next page begins; none behind the last.
    pub next: Option<u32>,
}

/// The last frames from one port that were dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortDrops {
    /// The port.
    pub port: String,
    /// The oldest first.
    pub frames: Vec<DropReport>,
}

/// A frame that was dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropReport {
    /// When: milliseconds since the epoch of Unix.
    pub time_ms: u64,
    /// Why, by the reason's name.
    pub reason: String,
    /// The rule that said so.
    pub rule: Option<RuleName>,
    /// The receiver that it was refused for.
    pub to: Option<String>,
    /// Its length on the wire, in bytes.
    pub len: u32,
    /// Its first bytes, in hexadecimal.
    pub bytes: String,
}

/// A rule, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleName {
    /// As the configuration calls it; may be empty.
    pub name: String,
    /// Where it was written: `lan.toml:12`.
    pub origin: String,
}

/// `lan.toml:12 (admin)`.
impl std::fmt::Display for RuleName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.origin)?;
        if self.name.is_empty() {
            return Ok(());
        }
        write!(f, " ({})", self.name)
    }
}

/// Which connections.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FlowsQuery {
    /// Only those from or to this port.
    pub port: Option<String>,
    /// Only those of this IP protocol.
    pub protocol: Option<u8>,
    /// Where to go on: the `next` of the page before.
    pub from: u64,
}

/// Some connections.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowsPage {
    /// Port by port.
    pub flows: Vec<FlowReport>,
    /// Where the next page begins; none behind the last.
    pub next: Option<u64>,
}

/// A tracked connection. *Source* is the side that opened it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowReport {
    /// The port that opened it.
    pub from: String,
    /// The port that it was opened to.
    pub to: String,
    /// Its segment.
    pub vlan: u16,
    /// IP protocol.
    pub protocol: u8,
    /// Source address.
    pub src: IpAddr,
    /// Source port; the identifier of an echo; 0 without ports.
    pub src_port: u16,
    /// Destination address.
    pub dst: IpAddr,
    /// Destination port; 0 without ports.
    pub dst_port: u16,
    /// Source and destination MAC address.
    pub macs: [String; 2],
    /// How far it is.
    pub state: String,
    /// Packets and bytes from the source.
    pub sent: Traffic,
    /// Packets and bytes to the source.
    pub received: Traffic,
    /// Seconds since it was opened.
    pub age: u32,
    /// Seconds since its last packet.
    pub idle: u32,
    /// The rules that let it open: of the source's list, and of the destination's.
    pub rules: [Option<RuleName>; 2],
}

/// One direction of a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Frames; a GSO frame is one.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Which rules.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RulesQuery {
    /// Where to go on: the `next` of the page before.
    pub from: u32,
}

/// Some rules of the policy in force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RulesPage {
    /// Of which policy. Another one than the page before: begin again.
    pub epoch: u64,
    /// In the order in which they are numbered.
    pub rules: Vec<RuleReport>,
    /// Where the next page begins; none behind the last.
    pub next: Option<u32>,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleReport {
    /// Which.
    #[serde(flatten)]
    pub rule: RuleName,
    /// What it does: `allow`, `deny` or `reject`.
    pub action: String,
    /// Frames that it has decided since its policy is in force; of a connection, the one that opened it.
    pub hits: u64,
}
