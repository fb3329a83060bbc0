//! A packet in words, as a frame: for `explain` and `[[assert]]`.
//!
//! ```text
//! tcp 10.0.0.5:40000 > 10.0.0.6:5432 flags=syn,ack      TCP; without flags a SYN
//! udp [fd00::5]:40000 > [fd00::6]:53 payload=100        UDP with 100 bytes
//! tcp > :443                                            addresses that the ports declare, source port 40000
//! icmp 10.0.0.5 > 10.0.0.6 icmp=3/4                     ICMP; without a type an echo request
//! arp 10.0.0.5 > 10.0.0.6 reply                         ARP; without a word a request
//! esp 10.0.0.5 > 10.0.0.6                               any protocol that rules know by name, or proto:47
//! 0x88b5 payload=46                                     a frame of that EtherType
//! hex 525400...                                         the frame itself
//! ```
//!
//! Further words: `vlan=10` for a tag, `mac A > B` for other MAC addresses than those of the ports, `fragment=first` and
//! `fragment=later`, `ttl=1`, `target=fd00::6` of neighbour discovery. Without `payload=`, what a guard reads is there: messages
//! of neighbour discovery, of DHCP between its ports, and of RARP are those of a well-behaved sender. Checksums are right. The words of protocols, ICMP types and flags are those of rules.

mod build;
mod messages;
mod read;

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

use super::spec::PortSpec;
use crate::counters::PortId;
use crate::frame::Mac;
use crate::frame::ipv6::link_local_of;
use crate::policy::spec::IpSpec;
use crate::policy::subject::Family;

/// What is wrong with the text of a packet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}; {remedy}")]
pub struct PacketError {
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub remedy: String,
}

impl PacketError {
    fn new(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }
}

/// What a port lends a packet that does not name its addresses.
#[derive(Debug, Clone)]
pub struct Station {
    name: String,
    mac: Mac,
    prefixes: Vec<IpNet>,
}

impl Station {
    /// The guest at `port`, which has the id `id`. A port without a declared MAC gets one that is locally administered.
    pub(super) fn of(port: &PortSpec, id: PortId) -> Self {
        let stand_in = || Mac::from_bits(0x0200_0000_0000 | id.index() as u64);
        Self {
            name: port.name.clone(),
            mac: port.macs.first().copied().unwrap_or_else(stand_in),
            prefixes: match &port.guard.ip {
                IpSpec::Declared(prefixes) => prefixes.clone(),
                IpSpec::Any | IpSpec::Dhcp => Vec::new(),
            },
        }
    }

    /// Its addresses that are whole: no prefixes.
    fn addresses_v6(&self) -> impl Iterator<Item = Ipv6Addr> + '_ {
        let own = self.prefixes.iter().filter_map(|prefix| match prefix {
            IpNet::V6(net) if net.prefix_len() == 128 => Some(net.addr()),
            _ => None,
        });
        own.chain([link_local_of(self.mac)])
    }

    /// Its first address of a family: of a prefix, the first that a station can have.
    fn address(&self, family: Family) -> Option<IpAddr> {
        self.prefixes
            .iter()
            .find_map(|prefix| match (prefix, family) {
                (IpNet::V4(net), Family::V4) => {
                    let first = u32::from(net.network());
                    let first = if net.prefix_len() < 31 {
                        first.wrapping_add(1)
                    } else {
                        first
                    };
                    Some(IpAddr::V4(first.into()))
                }
                (IpNet::V6(net), Family::V6) => {
                    let first = u128::from(net.network());
                    let first = if net.prefix_len() < 127 {
                        first.wrapping_add(1)
                    } else {
                        first
                    };
                    Some(IpAddr::V6(first.into()))
                }
                _ => None,
            })
    }
}

/// A packet, read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Packet {
    src_mac: Option<Mac>,
    dst_mac: Option<Mac>,
    /// 0 is a priority tag.
    vlan: Option<u16>,
    body: Body,
    /// Bytes behind the last header, if that was said.
    payload: Option<u16>,
}

/// What is behind the Ethernet header.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Body {
    Arp {
        src: Option<IpAddr>,
        dst: Option<IpAddr>,
        is_reply: bool,
    },
    /// Nothing that we know.
    Other(u16),
    /// A RARP request for the sender's own address.
    Rarp,
    Ip {
        family: Option<Family>,
        src: Option<IpAddr>,
        dst: Option<IpAddr>,
        ttl: Option<u8>,
        piece: Option<Fragment>,
        /// Whom neighbour discovery is about.
        target: Option<Ipv6Addr>,
        upper: Upper,
    },
}

/// What is behind the IP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Upper {
    Tcp { ports: (u16, u16), flags: u8 },
    Udp { ports: (u16, u16) },
    Icmp { kind: u8, code: u8, is_v6: bool },
    Other(u8),
}

/// Which fragment of a packet it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fragment {
    First,
    Later,
}

/// The frame that `text` describes, sent by `from` to `to`.
///
/// # Errors
/// The text is no packet, or leaves out what the stations do not have.
pub fn build(
    text: &str,
    from: Option<&Station>,
    to: Option<&Station>,
) -> Result<Vec<u8>, PacketError> {
    match read::hex(text)? {
        Some(frame) => Ok(frame),
        None => build::frame(&read::packet(text)?, from, to),
    }
}

/// The IP address that a packet goes to, if it is said.
pub(super) fn receiver(text: &str) -> Option<IpAddr> {
    match read::packet(text).ok()?.body {
        Body::Ip { dst, .. } | Body::Arp { dst, .. } => dst,
        Body::Other(_) | Body::Rarp => None,
    }
}

#[cfg(test)]
mod tests;
