//! Pages of the forwarding table.

use serde::{Deserialize, Serialize};

/// Which entries of the forwarding table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FdbQuery {
    /// Only those of this port.
    pub port: Option<String>,
    /// Where to go on: the `next` of the page before.
    pub from: u32,
}

/// Some entries of the forwarding table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FdbPage {
    /// In no order.
    pub entries: Vec<AddressReport>,
    /// Where the next page begins; none behind the last.
    pub next: Option<u32>,
}

/// One address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressReport {
    /// The address.
    pub mac: String,
    /// Its VLAN; none for a declared or kept address, which holds for all VLANs of its port.
    pub vlan: Option<u16>,
    /// The port that it is on.
    pub port: String,
    /// Seconds since it was last heard.
    pub age: u32,
    /// Whether it was declared in the configuration.
    pub declared: bool,
    /// Whether port security keeps it for its port, though nobody declared it.
    #[serde(default)]
    pub kept: bool,
}
