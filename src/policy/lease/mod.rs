//! Leases: which addresses a DHCP server has granted to whom (RFC 7513, SAVI for DHCP).
//!
//! A port with `ip = "dhcp"` may use the addresses that a server granted to it, and no others. [`observe()`] reads a
//! server's answer on its way to a client, or a client's renunciation; [`settle`] gives the lease to the port that has
//! the client's MAC address, and takes it from every other port, since an address belongs to one port: the newest
//! grant counts.
//!
//! ```text
//! DHCPACK          to chaddr        yiaddr for option 51 seconds         RFC 2131, 3.1
//! DHCPNAK          to chaddr        ends all IPv4 leases of the client   RFC 2131, 3.2
//! DHCPRELEASE      from chaddr      ends ciaddr                          RFC 2131, 4.4.6
//! DHCPDECLINE      from chaddr      ends option 50                       RFC 2131, 3.1.5
//! Reply            to the MAC       each IAADDR of IA_NA and IA_TA       RFC 8415, 18.3, 21.6
//! Release/Decline  from the MAC     ends each IAADDR, or, of more than   RFC 8415, 18.2.7, 18.2.8
//!                                   are read, all IPv6 leases of it
//! ```
//!
//! A lease ends with the time that the server gave it, is bound to the client's MAC address and segment, and every port
//! has a bounded number of them. Delegated prefixes are not learned: a port that routes declares its prefixes.
//!
//! What is trusted: the ports that may serve DHCP, and that they grant an address to one client at a time. Nothing is
//! learned of a packet that is a fragment, or that the snapshot does not hold whole. A client's that could be read in two
//! ways is refused by its guard, so that no address is given back behind the switch's back.

mod observe;
mod table;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use observe::granted;
pub use observe::observe;
pub(in crate::policy) use table::Leases;

use super::guard::{Guard, GuardState};
use crate::clock::Tick;
use crate::frame::Mac;

/// The most leases that any port can have.
pub const MAX_LEASES: u16 = 64;

/// The most changes that are read of one packet.
pub const MAX_CHANGES: usize = 8;

/// To whom an address is granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The client's MAC address.
    pub client: Mac,
    /// The segment in which it was granted.
    pub vid: u16,
}

/// A lease that a port has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The address.
    pub address: IpAddr,
    /// Whose it is.
    pub binding: Binding,
    /// Seconds that are left; `u32::MAX`: it never ends.
    pub seconds: u32,
}

/// What happens to a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The address may be used for so many seconds; `u32::MAX`: for ever.
    Granted {
        /// The address.
        address: IpAddr,
        /// From now on; never 0.
        seconds: u32,
    },
    /// The address may not be used any more.
    Ended {
        /// The address.
        address: IpAddr,
    },
    /// The client has to begin anew: none of its IPv4 addresses may be used any more.
    EndedAllV4,
    /// The client gives back more IPv6 addresses than are read of one packet: none of them may be used any more.
    EndedAllV6,
}

/// Who says what happens to a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Voice {
    /// A server; to be believed of a port that may serve DHCP, about the port that the packet goes to.
    Server,
    /// A client, about its own leases.
    Client,
}

/// What a DHCP packet says about a client's leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseEvent {
    /// Who says it.
    pub voice: Voice,
    /// Whose leases they are.
    pub client: Mac,
    changes: [Option<Change>; MAX_CHANGES],
}

impl LeaseEvent {
    /// What happens to them; at least one.
    pub fn changes(&self) -> impl Iterator<Item = Change> + '_ {
        self.changes.iter().flatten().copied()
    }
}

/// What came of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Nothing: there was no such lease.
    Nothing,
    /// A lease that the port already had has another end.
    Renewed,
    /// A lease came or went.
    Changed,
    /// The port may have no leases, or has got too many too fast.
    Refused,
}

/// Gives and takes what `event` says, in segment `vid`, to the port of `guard` and `state`: the one that a server's packet
/// goes to, or the one that a client's came from. `others` are the states of all ports; those but `state` lose what is
/// granted here.
///
/// Nothing happens unless the port takes leases and has the client's MAC address. Says whether a lease came or went.
/// Called again for the same packet, it changes nothing.
pub fn settle<'a>(
    event: &LeaseEvent,
    vid: u16,
    (guard, state): (&Guard, &GuardState),
    others: impl Iterator<Item = &'a GuardState> + Clone,
    now: Tick,
) -> bool {
    let max = guard.max_leases();
    if max == 0 || !guard.owns_mac(state, event.client) {
        return false;
    }
    let binding = Binding {
        client: event.client,
        vid,
    };
    let mut any = false;
    for change in event.changes() {
        let applied = state.apply(change, binding, max, now);
        any |= applied == Applied::Changed;
        if let (Change::Granted { address, .. }, Applied::Changed) = (change, applied) {
            for other in others.clone().filter(|other| !std::ptr::eq(*other, state)) {
                any |= other.revoke(address, vid);
            }
        }
    }
    any
}

/// Gives the port of `guard` and `state` a lease back that it had before the switch was started again, for what is left of
/// it. False when there can be none: the port takes no leases, or has other MAC addresses now. One that keeps the first MAC address
/// that it hears has heard none yet: the lease is that client's, should it come.
///
/// That nobody else has the address is for the caller to see to.
pub(in crate::policy) fn restore(
    lease: &Lease,
    guard: &Guard,
    state: &GuardState,
    now: Tick,
) -> bool {
    let Binding { client, vid } = lease.binding;
    let is_possible = granted(lease.address, lease.seconds).is_some() && client.is_station();
    is_possible
        && vid < 0xfff
        && guard.max_leases() != 0
        && guard.may_own_mac(client)
        && state.restore(lease, guard.max_leases(), now) == Applied::Changed
}
