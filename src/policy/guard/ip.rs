//! IP packets: headers that can be followed, roles, and the source address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::speaker::Speaker;
use super::{dhcp, discovery};
use crate::counters::DropReason;
use crate::frame::ipv4::Ipv4;
use crate::frame::ipv6::{self, Ipv6};
use crate::frame::{Frame, Layers, Transport, Unseen, nd, protocol};
use crate::policy::subject::Subject;

/// Whether any station can have that IPv4 address: not of "this network" (RFC 1122, 3.2.1.3), loopback, multicast or
/// broadcast. 0.0.0.0 is no station's.
pub(in crate::policy) fn is_possible_v4(address: Ipv4Addr) -> bool {
    let first = address.octets()[0];
    !matches!(first, 0 | 127 | 224..=239) && !address.is_broadcast()
}

/// Whether any station can have that IPv6 address: not multicast, loopback, unspecified or IPv4-mapped (RFC 4291, 2.5).
pub(in crate::policy) fn is_possible_v6(address: Ipv6Addr) -> bool {
    const MAPPED: u128 = 0xffff;
    let bits = address.to_bits();
    !address.is_multicast() && bits > 1 && bits >> 32 != MAPPED
}

/// Judges plain data, by its subject and by nothing else.
#[inline]
pub(super) fn judge_data(speaker: &Speaker<'_>, subject: &Subject) -> Result<(), DropReason> {
    let is_own = match subject.src_ip() {
        Some(IpAddr::V4(source)) => is_possible_v4(source) && speaker.owns_v4(source),
        Some(IpAddr::V6(source)) => is_possible_v6(source) && speaker.owns_v6(source),
        None => false,
    };
    if is_own {
        Ok(())
    } else {
        Err(DropReason::SourceIpSpoofed)
    }
}

/// Judges an IPv4 packet that is more than plain data. Says whether it is addressing.
pub(super) fn judge_v4(
    speaker: &Speaker<'_>,
    frame: &Frame<'_>,
    layers: &Layers<'_>,
    header: &Ipv4<'_>,
) -> Result<bool, DropReason> {
    judge_headers(frame, layers)?;
    if header.is_source_routed() != Some(false) {
        return Err(DropReason::HeaderInvalid);
    }
    let mut may_be_unspecified = false;
    match layers.transport {
        Transport::Udp(udp) => {
            let role = dhcp::role_v4(udp.src_port(), udp.dst_port());
            dhcp::judge_v4(speaker, frame, layers, role)?;
            may_be_unspecified = role == dhcp::Role::Client && header.dst().is_broadcast();
        }
        // A redirect, a router's advertisement (RFC 1256).
        Transport::Icmp(icmp) if matches!(icmp.kind(), 5 | 9) && !speaker.guard.may.router => {
            return Err(DropReason::RouterRefused);
        }
        // RFC 3376, 4.2.13.
        Transport::Unknown(protocol::IGMP) => {
            may_be_unspecified = header.dst().is_multicast() && layers.fragment.is_none();
        }
        _ => {}
    }
    let source = header.src();
    let is_own = if source.is_unspecified() {
        may_be_unspecified
    } else {
        is_possible_v4(source) && speaker.owns_v4(source)
    };
    if is_own {
        Ok(false)
    } else {
        Err(DropReason::SourceIpSpoofed)
    }
}

/// Judges an IPv6 packet that is more than plain data. Says whether it is addressing.
pub(super) fn judge_v6(
    speaker: &Speaker<'_>,
    frame: &Frame<'_>,
    layers: &Layers<'_>,
    header: &Ipv6<'_>,
) -> Result<bool, DropReason> {
    judge_headers(frame, layers)?;
    let payload = frame
        .bytes()
        .get(layers.network_offset..)
        .and_then(|packet| packet.get(ipv6::HEADER..))
        .unwrap_or(&[]);
    if ipv6::is_source_routed(header.next_header(), payload) {
        return Err(DropReason::HeaderInvalid);
    }
    let mut may_be_unspecified = false;
    let mut is_addressing = false;
    match layers.transport {
        Transport::Udp(udp) => {
            let role = dhcp::role_v6(udp.src_port(), udp.dst_port());
            dhcp::judge_v6(speaker, frame, layers, role)?;
        }
        Transport::Icmpv6(icmp) => {
            discovery::judge(speaker, frame, layers, header)?;
            is_addressing = nd::is_discovery(icmp.kind());
            may_be_unspecified = discovery::may_be_unspecified(icmp.kind());
        }
        _ => {}
    }
    let source = header.src();
    let is_own = if source.is_unspecified() {
        may_be_unspecified && layers.fragment.is_none()
    } else {
        is_possible_v6(source) && speaker.owns_v6(source)
    };
    if is_own {
        Ok(is_addressing)
    } else if is_addressing {
        Err(DropReason::NdSpoofed)
    } else {
        Err(DropReason::SourceIpSpoofed)
    }
}

/// Refuses headers that cannot be followed to layer 4, whatever is behind them (RFC 7112; RFC 7113, 2), and lengths that
/// lie. A later fragment has no header to follow: without its first, which was judged, nobody can put it together.
fn judge_headers(frame: &Frame<'_>, layers: &Layers<'_>) -> Result<(), DropReason> {
    match layers.transport {
        Transport::Unseen(Unseen::BeyondSnapshot) => Err(DropReason::HeadersTooLong),
        Transport::Unseen(Unseen::TooMany) => Err(DropReason::ControlFragmented),
        Transport::Unseen(Unseen::Malformed) if layers.fragment.is_some() => {
            Err(DropReason::ControlFragmented)
        }
        Transport::Unseen(Unseen::Malformed) => Err(DropReason::HeaderInvalid),
        Transport::Udp(udp) => {
            let (_, len) = layers.layer_4(frame);
            // The first fragment of many rightly claims more than it has.
            let len = match layers.fragment {
                Some(fragment) if fragment.more => usize::from(u16::MAX),
                _ => len,
            };
            if udp.is_length_true(len) {
                Ok(())
            } else {
                Err(DropReason::HeaderInvalid)
            }
        }
        _ => Ok(()),
    }
}
