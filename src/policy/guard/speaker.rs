//! In whose name a frame speaks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Guard, GuardState, IpRule, MacRule};
use crate::frame::{Mac, ipv6};
use crate::policy::lease::Binding;

/// The sender of a frame whose source MAC address has been judged already: what is its own.
pub(super) struct Speaker<'a> {
    pub(super) guard: &'a Guard,
    pub(super) state: &'a GuardState,
    /// The frame's source.
    pub(super) mac: Mac,
    /// The frame's segment.
    pub(super) vid: u16,
}

impl Speaker<'_> {
    /// Whether MAC addresses in packets are judged: not where anything goes. Where any MAC address goes but IP addresses
    /// are bound, the frame's own source is meant.
    pub(super) fn has_name(&self) -> bool {
        !matches!(self.guard.mac, MacRule::Any) || self.has_addresses()
    }

    /// Whether IP addresses are judged.
    pub(super) fn has_addresses(&self) -> bool {
        !matches!(self.guard.ip, IpRule::Any)
    }

    /// Whether a MAC address that stands in a packet is the port's.
    pub(super) fn owns_mac(&self, mac: Mac) -> bool {
        mac == self.mac || self.guard.owns_mac(self.state, mac)
    }

    /// Whether the port may use that IPv4 address; any, where none is bound.
    pub(super) fn owns_v4(&self, address: Ipv4Addr) -> bool {
        match &self.guard.ip {
            IpRule::Any => true,
            IpRule::Declared { addresses, .. } => addresses.contains_v4(address),
            IpRule::Dhcp => self.holds(address.into()),
        }
    }

    /// Whether the port may use that IPv6 address; any, where none is bound.
    pub(super) fn owns_v6(&self, address: Ipv6Addr) -> bool {
        let is_of_mac = || address == ipv6::link_local_of(self.mac);
        match &self.guard.ip {
            IpRule::Any => true,
            IpRule::Declared {
                addresses,
                link_local_of_mac,
            } => addresses.contains_v6(address) || *link_local_of_mac && is_of_mac(),
            IpRule::Dhcp => is_of_mac() || self.holds(address.into()),
        }
    }

    fn holds(&self, address: IpAddr) -> bool {
        let binding = Binding {
            client: self.mac,
            vid: self.vid,
        };
        self.state.holds(address, binding)
    }
}
