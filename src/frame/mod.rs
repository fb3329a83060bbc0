//! Views over private bytes: Ethernet, VLAN, ARP, IPv4, IPv6, TCP, UDP, ICMP, LLC, neighbour discovery, DHCP.
//!
//! # Promises
//!
//! - A view is made by its `parse`, which checks every length once and keeps the fixed part of the header as an
//!   array. **After that check no accessor panics, and none reads outside the bytes that it was given.** This holds
//!   for every wire format here and is not repeated.
//! - *Unknown is a value.* A frame whose deeper layers are of no known kind, or lie about their lengths, is still a
//!   [`Frame`]; what could not be seen, and why, is told by [`Unseen`].
//! - The bytes are the switch's own (the snapshot), never the guest's memory: two readings give the same value.
//!
//! # What the snapshot holds
//!
//! A frame is `total_len` bytes long; the snapshot holds the first 128 of them, 256 after it was extended, or all
//! of a shorter frame. So a header may end beyond the snapshot ([`Unseen::BeyondSnapshot`]: extend it, or drop) or
//! beyond the frame itself ([`Unseen::Malformed`]: nobody can see more).
//!
//! Each wire format is one file with the same parts in the same order: constants, the view, `parse`, accessors.

pub mod arp;
pub mod checksum;
pub mod dhcp;
pub mod dhcpv6;
pub mod ethernet;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
mod layers;
pub mod llc;
mod mac;
pub mod nd;
pub mod tcp;
#[cfg(test)]
mod tests;
pub mod udp;
pub mod vlan;

pub use ethernet::{Frame, MAX_FRAME};
pub use layers::{Fragment, Layers, Network, Transport, Unseen};
pub use mac::{Mac, MacError};
pub use vlan::{Tag, Vid};

/// The numbers of protocols above IP that the switch knows (IANA, "Protocol Numbers").
pub mod protocol {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// IGMP.
    pub const IGMP: u8 = 2;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
}
