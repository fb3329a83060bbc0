//! IPv6 neighbour discovery: a port speaks for its own addresses only, and is a router only where it may be.
//!
//! Judged in the order of RFC 4861, 6.1, 7.1 and 8.1: whole packets only (RFC 6980), hop limit 255, code 0, options that
//! add up; then the options with link-layer addresses are the port's, and with `ip` so are the target of an
//! advertisement, and that of a solicitation from `::`, which claims it (RFC 4862, 5.4; RFC 6620).

use std::net::Ipv6Addr;

use super::speaker::Speaker;
use crate::counters::DropReason;
use crate::frame::ipv6::{self, Ipv6};
use crate::frame::nd::{self, Message, kind, option};
use crate::frame::{Frame, Layers, Transport, Unseen};

/// ICMPv6 types of multicast listeners' reports (RFC 2710, RFC 3810).
const LISTENER_REPORT: u8 = 131;
const LISTENER_DONE: u8 = 132;
const LISTENER_REPORT_V2: u8 = 143;
/// Router renumbering (RFC 2894).
const RENUMBERING: u8 = 138;

/// Whether an ICMPv6 message of that type may come from `::`: solicitations (RFC 4861, 4.1 and 4.3) and listeners' reports
/// (RFC 3590).
pub(super) fn may_be_unspecified(kind: u8) -> bool {
    matches!(
        kind,
        kind::ROUTER_SOLICITATION
            | kind::NEIGHBOUR_SOLICITATION
            | LISTENER_REPORT
            | LISTENER_DONE
            | LISTENER_REPORT_V2
    )
}

/// Judges an ICMPv6 message but for its source address.
pub(super) fn judge(
    speaker: &Speaker<'_>,
    frame: &Frame<'_>,
    layers: &Layers<'_>,
    header: &Ipv6<'_>,
) -> Result<(), DropReason> {
    let Transport::Icmpv6(icmp) = layers.transport else {
        return Ok(());
    };
    let is_routers = matches!(
        icmp.kind(),
        kind::ROUTER_ADVERTISEMENT | kind::REDIRECT | RENUMBERING
    );
    if is_routers && !speaker.guard.may.router {
        return Err(DropReason::RouterRefused);
    }
    let is_inverse = matches!(
        icmp.kind(),
        kind::INVERSE_SOLICITATION | kind::INVERSE_ADVERTISEMENT
    );
    if is_inverse && speaker.has_name() {
        return Err(DropReason::NdSpoofed);
    }
    if !nd::is_discovery(icmp.kind()) {
        return Ok(());
    }
    if layers.fragment.is_some() {
        return Err(DropReason::ControlFragmented);
    }
    if !speaker.has_name() {
        return Ok(());
    }
    let (bytes, len) = layers.layer_4(frame);
    let message = Message::parse(bytes, len).map_err(reason)?;
    if header.hop_limit() != 255 || message.code() != 0 {
        return Err(DropReason::NdSpoofed);
    }
    judge_options(speaker, &message, header.src())?;
    if is_target_own(speaker, &message, header) {
        Ok(())
    } else {
        Err(DropReason::NdSpoofed)
    }
}

/// Walks all options; those with a link-layer address of the sender must be the port's.
fn judge_options(
    speaker: &Speaker<'_>,
    message: &Message<'_>,
    source: Ipv6Addr,
) -> Result<(), DropReason> {
    for opt in message.options() {
        let opt = opt.map_err(reason)?;
        let is_senders = match opt.kind {
            option::SOURCE_LINK_LAYER => true,
            // In a redirect it is another's.
            option::TARGET_LINK_LAYER => message.kind() != kind::REDIRECT,
            _ => false,
        };
        let is_own = || opt.mac().is_some_and(|mac| speaker.owns_mac(mac));
        // Who has no address cannot be answered at one (RFC 4861, 4.1, 4.3).
        let has_no_source =
            opt.kind == option::SOURCE_LINK_LAYER && source == Ipv6Addr::UNSPECIFIED;
        if is_senders && (!is_own() || has_no_source) {
            return Err(DropReason::NdSpoofed);
        }
    }
    Ok(())
}

/// Whether the message claims no target but the port's own.
fn is_target_own(speaker: &Speaker<'_>, message: &Message<'_>, header: &Ipv6<'_>) -> bool {
    let Some(target) = message.target() else {
        // A router's addresses are its link-local ones (RFC 4861, 4.2).
        return message.kind() != kind::ROUTER_ADVERTISEMENT || ipv6::is_link_local(header.src());
    };
    match message.kind() {
        kind::NEIGHBOUR_ADVERTISEMENT => speaker.owns_v6(target) && !target.is_multicast(),
        kind::NEIGHBOUR_SOLICITATION if header.src() == Ipv6Addr::UNSPECIFIED => {
            speaker.owns_v6(target) && header.dst() == solicited_node(target)
        }
        kind::NEIGHBOUR_SOLICITATION => !target.is_multicast(),
        _ => true,
    }
}

/// The group in which the owner of an address hears solicitations (RFC 4291, 2.7.1).
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    const GROUP: u128 = 0xff02_0000_0000_0000_0000_0001_ff00_0000;
    Ipv6Addr::from_bits(GROUP | address.to_bits() & 0x00ff_ffff)
}

fn reason(unseen: Unseen) -> DropReason {
    match unseen {
        Unseen::BeyondSnapshot => DropReason::HeadersTooLong,
        Unseen::Malformed | Unseen::TooMany => DropReason::NdSpoofed,
    }
}
