//! Reading what DHCP packets say about leases.

use std::net::IpAddr;

use super::{Change, LeaseEvent, MAX_CHANGES, Voice};
use crate::frame::dhcp::{self, Dhcp, message, operation, option};
use crate::frame::dhcpv6::{self, Dhcpv6, kind};
use crate::frame::{Frame, Mac, Network, Transport};
use crate::policy::guard;

/// What a frame says about leases; `None` for everything but the DHCP packets listed at the head of this module, and for
/// these, too, when they are not wholly in the snapshot, are fragments, or contradict themselves.
pub fn observe(frame: &Frame<'_>) -> Option<LeaseEvent> {
    let layers = frame.layers();
    let Transport::Udp(udp) = layers.transport else {
        return None;
    };
    if layers.fragment.is_some() {
        return None;
    }
    let (bytes, len) = layers.datagram(frame);
    let bytes = bytes.get(..len)?;
    match (layers.network, udp.src_port(), udp.dst_port()) {
        (Network::Ipv4(_), dhcp::SERVER, dhcp::CLIENT) => from_server_v4(bytes),
        (Network::Ipv4(_), _, dhcp::SERVER) => from_client_v4(bytes),
        (Network::Ipv6(_), dhcpv6::SERVER, dhcpv6::CLIENT) => from_server_v6(frame, bytes),
        (Network::Ipv6(_), _, dhcpv6::SERVER) => from_client_v6(frame, bytes),
        _ => None,
    }
}

/// The options that leases are about.
#[derive(Default)]
struct Options {
    message: Option<u8>,
    lease_time: Option<u32>,
    requested: Option<[u8; 4]>,
}

fn read_v4(bytes: &[u8], operation: u8) -> Option<(Dhcp<'_>, Options)> {
    let packet = Dhcp::parse(bytes, bytes.len()).ok()?;
    if packet.operation() != operation || !packet.is_ethernet() {
        return None;
    }
    let mut options = Options::default();
    for opt in packet.options() {
        let opt = opt.ok()?;
        let is_second = match opt.code {
            option::MESSAGE_TYPE => {
                let [kind] = opt.value.try_into().ok()?;
                options.message.replace(kind).is_some()
            }
            option::LEASE_TIME => {
                let seconds = u32::from_be_bytes(opt.value.try_into().ok()?);
                options.lease_time.replace(seconds).is_some()
            }
            option::REQUESTED_ADDRESS => {
                let address = opt.value.try_into().ok()?;
                options.requested.replace(address).is_some()
            }
            _ => false,
        };
        if is_second {
            return None;
        }
    }
    Some((packet, options))
}

fn from_server_v4(bytes: &[u8]) -> Option<LeaseEvent> {
    let (packet, options) = read_v4(bytes, operation::REPLY)?;
    let change = match options.message? {
        // Without a lease time it answers a DHCPINFORM (RFC 2131, 4.3.5).
        message::ACK => granted(IpAddr::V4(packet.your_ip()), options.lease_time?)?,
        message::NAK => Change::EndedAllV4,
        _ => return None,
    };
    one(Voice::Server, packet.client_mac(), change)
}

fn from_client_v4(bytes: &[u8]) -> Option<LeaseEvent> {
    let (packet, options) = read_v4(bytes, operation::REQUEST)?;
    let address = match options.message? {
        message::RELEASE => packet.client_ip(),
        message::DECLINE => options.requested?.into(),
        _ => return None,
    };
    let address = IpAddr::V4(address);
    one(
        Voice::Client,
        packet.client_mac(),
        Change::Ended { address },
    )
}

fn from_server_v6(frame: &Frame<'_>, bytes: &[u8]) -> Option<LeaseEvent> {
    let packet = Dhcpv6::parse(bytes, bytes.len()).ok()?;
    if packet.kind() != kind::REPLY {
        return None;
    }
    addresses(Voice::Server, frame.dst(), &packet, |address| {
        let addr = IpAddr::V6(address.address);
        if address.valid == 0 {
            Some(Change::Ended { address: addr })
        } else {
            granted(addr, address.valid)
        }
    })
}

fn from_client_v6(frame: &Frame<'_>, bytes: &[u8]) -> Option<LeaseEvent> {
    let packet = Dhcpv6::parse(bytes, bytes.len()).ok()?;
    if !matches!(packet.kind(), kind::RELEASE | kind::DECLINE) {
        return None;
    }
    addresses(Voice::Client, frame.src(), &packet, |address| {
        let address = IpAddr::V6(address.address);
        Some(Change::Ended { address })
    })
}

/// The changes that a message makes of the addresses in its identity associations: of a server's as many as are read; of a
/// client's, which gives them back, all or each.
fn addresses(
    voice: Voice,
    client: Mac,
    packet: &Dhcpv6<'_>,
    change: impl Fn(dhcpv6::Address) -> Option<Change>,
) -> Option<LeaseEvent> {
    let mut changes = [None; MAX_CHANGES];
    let mut places = changes.iter_mut();
    for opt in packet.options() {
        let Some(association) = opt.ok()?.association() else {
            continue;
        };
        for opt in association {
            if let Some(change) = opt.ok()?.address().and_then(&change) {
                match places.next() {
                    Some(place) => *place = Some(change),
                    None if voice == Voice::Client => {
                        return one(voice, client, Change::EndedAllV6);
                    }
                    None => break,
                }
            }
        }
    }
    event(voice, client, changes)
}

/// A grant, unless of an address that nobody can be granted, or for no time.
pub(super) fn granted(address: IpAddr, seconds: u32) -> Option<Change> {
    let is_possible = match address {
        IpAddr::V4(address) => guard::is_possible_v4(address),
        IpAddr::V6(address) => guard::is_possible_v6(address),
    };
    (is_possible && seconds != 0).then_some(Change::Granted { address, seconds })
}

fn one(voice: Voice, client: Mac, change: Change) -> Option<LeaseEvent> {
    let mut changes = [None; MAX_CHANGES];
    if let Some(first) = changes.first_mut() {
        *first = Some(change);
    }
    event(voice, client, changes)
}

fn event(voice: Voice, client: Mac, changes: [Option<Change>; MAX_CHANGES]) -> Option<LeaseEvent> {
    let says_something = changes.iter().any(Option::is_some);
    (client.is_station() && says_something).then_some(LeaseEvent {
        voice,
        client,
        changes,
    })
}
