//! What offloads need to know of a frame's headers: the parser's view, in the offsets that a virtio-net header speaks of.

use super::offload::{Family, Headers, Transport};
use crate::counters::DropReason;
use crate::frame::{self, Frame, Network, Unseen};

/// The headers of a whole TCP or UDP datagram; `None` for everything else (ARP, fragments, other protocols, headers
/// that contradict themselves).
///
/// # Errors
/// `headers-too-long` when they run past the snapshot; `runt` when there is not even an Ethernet header.
pub(super) fn of(snapshot: &[u8], total_len: u32) -> Result<Option<Headers>, DropReason> {
    let frame = Frame::parse(snapshot, total_len)?;
    let layers = frame.layers();
    let family = match layers.network {
        Network::Ipv4(_) => Family::V4,
        Network::Ipv6(_) => Family::V6,
        Network::Unseen(Unseen::BeyondSnapshot) => return Err(DropReason::HeadersTooLong),
        _ => return Ok(None),
    };
    let (transport, header_len, tcp_flags) = match layers.transport {
        frame::Transport::Tcp(tcp) => (Transport::Tcp, tcp.header_len(), tcp.flags()),
        frame::Transport::Udp(_) => (Transport::Udp, frame::udp::HEADER, 0),
        frame::Transport::Unseen(Unseen::BeyondSnapshot | Unseen::TooMany) => {
            return Err(DropReason::HeadersTooLong);
        }
        _ => return Ok(None),
    };
    if layers.fragment.is_some() {
        return Ok(None);
    }
    let offset = |at: usize| u16::try_from(at).map_err(|_| DropReason::HeadersTooLong);
    Ok(Some(Headers {
        family,
        transport,
        l3: offset(layers.network_offset)?,
        l4: offset(layers.transport_offset)?,
        payload: offset(layers.transport_offset.saturating_add(header_len))?,
        end: u32::try_from(layers.end).map_err(|_| DropReason::Oversize)?,
        tcp_flags,
    }))
}
