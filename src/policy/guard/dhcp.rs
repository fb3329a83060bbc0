//! DHCP: servers where they may be, clients in their own name.
//!
//! A packet is a server's by its ports, whatever it holds: it comes from a server's port, or goes to a client's, since
//! clients do not ask where it came from. A reply (BOOTREPLY, Advertise, ...) is a server's on any of DHCP's ports. Fragments
//! and relays are no client's business.
//!
//! With `ip`, a client also names no other client by its identifier (option 61 of type Ethernet), because servers keep
//! leases by that name, and says nothing in a relay's name (option 82, which servers choose addresses by); so its options
//! must be seen up to their end. And what it gives back it gives back for the server and
//! for the switch alike: options that leases are about are said once and have their length, and where leases are learned a
//! Release or Decline of DHCPv6 is seen up to its end and adds up.

use super::speaker::Speaker;
use crate::counters::DropReason;
use crate::frame::dhcp::{self, Dhcp, Opt, operation, option};
use crate::frame::dhcpv6::{self, Dhcpv6, kind};
use crate::frame::{Frame, Layers, Mac, Unseen};

/// What a UDP packet's ports make it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// No DHCP.
    None,
    /// A client's packet.
    Client,
    /// A server's or a relay's.
    Server,
}

pub(super) fn role_v4(source: u16, destination: u16) -> Role {
    role(source, destination, dhcp::SERVER, dhcp::CLIENT)
}

pub(super) fn role_v6(source: u16, destination: u16) -> Role {
    role(source, destination, dhcpv6::SERVER, dhcpv6::CLIENT)
}

fn role(source: u16, destination: u16, server: u16, client: u16) -> Role {
    if source == server || destination == client {
        Role::Server
    } else if source == client || destination == server {
        Role::Client
    } else {
        Role::None
    }
}

/// Refuses what a port says that may not serve, or in another's name.
pub(super) fn judge_v4(
    speaker: &Speaker<'_>,
    frame: &Frame<'_>,
    layers: &Layers<'_>,
    role: Role,
) -> Result<(), DropReason> {
    if role == Role::None || speaker.guard.may.dhcp_server {
        return Ok(());
    }
    judge_role(layers, role)?;
    let (bytes, len) = layers.datagram(frame);
    let message = Dhcp::parse(bytes, len).map_err(reason)?;
    if message.operation() == operation::REPLY {
        return Err(DropReason::DhcpServerRefused);
    }
    if message.operation() != operation::REQUEST || !message.relay_ip().is_unspecified() {
        return Err(DropReason::DhcpSpoofed);
    }
    if !speaker.has_name() {
        return Ok(());
    }
    if !message.is_ethernet() || !speaker.owns_mac(message.client_mac()) {
        return Err(DropReason::DhcpSpoofed);
    }
    if !speaker.has_addresses() {
        return Ok(());
    }
    let client = message.client_ip();
    if !client.is_unspecified() && !speaker.owns_v4(client) {
        return Err(DropReason::DhcpSpoofed);
    }
    judge_options(speaker, &message)
}

/// The same of IPv6.
pub(super) fn judge_v6(
    speaker: &Speaker<'_>,
    frame: &Frame<'_>,
    layers: &Layers<'_>,
    role: Role,
) -> Result<(), DropReason> {
    if role == Role::None || speaker.guard.may.dhcp_server {
        return Ok(());
    }
    judge_role(layers, role)?;
    let (bytes, len) = layers.datagram(frame);
    let message = Dhcpv6::parse(bytes, len).map_err(reason)?;
    match message.kind() {
        kind::ADVERTISE | kind::REPLY | kind::RECONFIGURE | kind::RELAY_REPLY => {
            Err(DropReason::DhcpServerRefused)
        }
        kind::RELAY_FORWARD => Err(DropReason::DhcpSpoofed),
        kind::RELEASE | kind::DECLINE if speaker.guard.max_leases() != 0 => {
            for opt in message.options() {
                for inner in opt.map_err(reason)?.association().into_iter().flatten() {
                    inner.map_err(reason)?;
                }
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn judge_role(layers: &Layers<'_>, role: Role) -> Result<(), DropReason> {
    if role == Role::Server {
        Err(DropReason::DhcpServerRefused)
    } else if layers.fragment.is_some() {
        Err(DropReason::ControlFragmented)
    } else {
        Ok(())
    }
}

/// Refuses identifiers of others, what only relays say, and options that are said twice or stand where they are not read.
fn judge_options(speaker: &Speaker<'_>, message: &Dhcp<'_>) -> Result<(), DropReason> {
    let (mut is_named, mut has_kind) = (false, false);
    let (mut has_time, mut has_address) = (false, false);
    for opt in message.options() {
        let opt = opt.map_err(reason)?;
        match opt.code {
            option::OVERLOAD | option::RELAY_AGENT => return Err(DropReason::DhcpSpoofed),
            option::CLIENT_ID => {
                let is_other = match opt.value {
                    [1, a, b, c, d, e, f] => !speaker.owns_mac(Mac::new([*a, *b, *c, *d, *e, *f])),
                    _ => false,
                };
                if is_other {
                    return Err(DropReason::DhcpSpoofed);
                }
                said_once(&mut is_named)?;
            }
            option::MESSAGE_TYPE => fixed(&opt, 1, &mut has_kind)?,
            option::LEASE_TIME => fixed(&opt, 4, &mut has_time)?,
            option::REQUESTED_ADDRESS => fixed(&opt, 4, &mut has_address)?,
            _ => {}
        }
    }
    Ok(())
}

/// Refuses an option of another length than it has, or that was said before.
fn fixed(opt: &Opt<'_>, len: usize, was_said: &mut bool) -> Result<(), DropReason> {
    if opt.value.len() != len {
        return Err(DropReason::HeaderInvalid);
    }
    said_once(was_said)
}

fn said_once(was_said: &mut bool) -> Result<(), DropReason> {
    if std::mem::replace(was_said, true) {
        Err(DropReason::DhcpSpoofed)
    } else {
        Ok(())
    }
}

fn reason(unseen: Unseen) -> DropReason {
    match unseen {
        Unseen::BeyondSnapshot => DropReason::HeadersTooLong,
        Unseen::Malformed | Unseen::TooMany => DropReason::HeaderInvalid,
    }
}
