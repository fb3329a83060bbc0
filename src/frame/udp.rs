//! UDP headers (RFC 768).

use super::layers::Unseen;
use super::{dhcp, dhcpv6};

/// Length of the header.
pub const HEADER: usize = 8;

/// Where the checksum stands in the header.
pub const CHECKSUM: u16 = 6;

/// A UDP header.
#[derive(Clone, Copy, Debug)]
pub struct Udp<'a>(&'a [u8; HEADER]);

impl<'a> Udp<'a> {
    /// Reads a header from the beginning of `bytes`; `available` is how much of the packet there is from here on.
    ///
    /// # Errors
    ///
    /// [`Unseen::Malformed`] when the packet ends within the header. The length field is not judged: in a first
    /// fragment it is rightly longer than the packet.
    pub fn parse(bytes: &'a [u8], available: usize) -> Result<Self, Unseen> {
        let header = bytes
            .first_chunk::<HEADER>()
            .ok_or(Unseen::past(available, HEADER))?;
        Ok(Self(header))
    }

    /// The source port.
    pub fn src_port(&self) -> u16 {
        u16::from_be_bytes([self.0[0], self.0[1]])
    }

    /// The destination port.
    pub fn dst_port(&self) -> u16 {
        u16::from_be_bytes([self.0[2], self.0[3]])
    }

    /// Whether it comes from, or goes to, a port of DHCP or DHCPv6.
    pub fn is_dhcp(&self) -> bool {
        let is_one = |port| {
            matches!(
                port,
                dhcp::SERVER | dhcp::CLIENT | dhcpv6::SERVER | dhcpv6::CLIENT
            )
        };
        is_one(self.src_port()) || is_one(self.dst_port())
    }

    /// Length of header and payload, as it claims.
    pub fn length(&self) -> u16 {
        u16::from_be_bytes([self.0[4], self.0[5]])
    }

    /// Whether the length that it claims covers a header and lies within `available`, which is how much of the packet there
    /// is from the header on. Less than that is no lie: what is left may be options (RFC 9868).
    pub fn is_length_true(&self, available: usize) -> bool {
        (HEADER..=available).contains(&usize::from(self.length()))
    }

    /// The checksum as it stands, unverified; zero over IPv4 means none.
    pub fn checksum(&self) -> u16 {
        u16::from_be_bytes([self.0[6], self.0[7]])
    }
}
