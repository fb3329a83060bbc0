//! ARP and RARP: a port speaks for its own addresses only.
//!
//! The sender's MAC address is the frame's source. The sender's IP address is the port's, or 0.0.0.0 in a probe for one of
//! the port's (RFC 5227, 2.1.1); so announcements and gratuitous answers speak for the port's own, too. An answer is
//! addressed to whom the frame goes to. Without `ip`, only MAC addresses are judged, and addresses that nobody can have.
//!
//! Only requests and answers pass. RARP passes as what a host sends for a guest that has moved, vhost-user's SEND_RARP
//! among them: a request for the sender's own MAC address, with no or the port's IP address in it.

use super::ip;
use super::speaker::Speaker;
use crate::counters::DropReason;
use crate::frame::arp::{Arp, operation};
use crate::frame::{Frame, Unseen};

/// Judges an ARP packet, which is addressing.
pub(super) fn judge(
    speaker: &Speaker<'_>,
    frame: &Frame<'_>,
    packet: &Arp<'_>,
) -> Result<bool, DropReason> {
    if !speaker.has_name() {
        return Ok(true);
    }
    let (sender, target) = (packet.sender_ip(), packet.target_ip());
    let is_probe = sender.is_unspecified();
    let is_own = match packet.operation() {
        operation::REQUEST if is_probe => speaker.owns_v4(target),
        operation::REQUEST => speaker.owns_v4(sender) && ip::is_possible_v4(sender),
        operation::REPLY => {
            speaker.owns_v4(sender)
                && ip::is_possible_v4(sender)
                && is_answer_to_receiver(frame, packet)
        }
        _ => false,
    };
    if is_own && packet.sender_mac() == frame.src() {
        Ok(true)
    } else {
        Err(DropReason::ArpSpoofed)
    }
}

/// Whether an answer names the one that it is sent to; an answer that nobody asked for may name its sender or nobody.
fn is_answer_to_receiver(frame: &Frame<'_>, packet: &Arp<'_>) -> bool {
    let target = packet.target_mac();
    target == frame.dst()
        || target == packet.sender_mac()
        || target.is_broadcast()
        || target.is_zero()
}

/// Judges a RARP packet, which is addressing.
pub(super) fn judge_rarp(speaker: &Speaker<'_>, frame: &Frame<'_>) -> Result<bool, DropReason> {
    let bytes = frame.bytes().get(frame.l3_offset()..).unwrap_or(&[]);
    let available = (frame.total_len() as usize).saturating_sub(frame.l3_offset());
    let packet = match Arp::parse(bytes, available) {
        Ok(packet) => packet,
        Err(Unseen::BeyondSnapshot) => return Err(DropReason::HeadersTooLong),
        Err(Unseen::Malformed | Unseen::TooMany) => return Err(DropReason::ArpSpoofed),
    };
    let owns = |address: std::net::Ipv4Addr| address.is_unspecified() || speaker.owns_v4(address);
    let is_own = !speaker.has_name()
        || packet.sender_mac() == frame.src()
            && packet.target_mac() == frame.src()
            && owns(packet.sender_ip())
            && owns(packet.target_ip());
    // Whoever answers gives out addresses, as a DHCP server does.
    let is_request = packet.operation() == operation::REVERSE_REQUEST;
    if is_own && (is_request || speaker.guard.may.dhcp_server) {
        Ok(true)
    } else {
        Err(DropReason::ArpSpoofed)
    }
}
