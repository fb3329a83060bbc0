//! ARP for IPv4 over Ethernet (RFC 826). Other address kinds are not ARP to us.

use std::net::Ipv4Addr;

use super::layers::Unseen;
use super::mac::Mac;

/// Length of the packet.
pub const LEN: usize = 28;

/// Ethernet, IPv4, 6 and 4 bytes of address: the only shape that is read.
const SHAPE: [u8; 6] = [0, 1, 0x08, 0x00, 6, 4];

/// Operations (IANA, "ARP Parameters"). All but the first two are of protocols that share ARP's shape: RARP, DRARP and
/// InARP.
pub mod operation {
    /// Who has that IP address?
    pub const REQUEST: u16 = 1;
    /// An answer.
    pub const REPLY: u16 = 2;
    /// RARP: which IP address has that MAC address? (RFC 903)
    pub const REVERSE_REQUEST: u16 = 3;
}

/// An ARP packet.
#[derive(Clone, Copy, Debug)]
pub struct Arp<'a>(&'a [u8; LEN]);

impl<'a> Arp<'a> {
    /// Reads a packet from the beginning of `bytes`; `available` is how much of the frame there is from here on.
    ///
    /// # Errors
    ///
    /// [`Unseen::Malformed`] when the frame ends within the packet, or it is of another shape.
    pub fn parse(bytes: &'a [u8], available: usize) -> Result<Self, Unseen> {
        let packet = bytes
            .first_chunk::<LEN>()
            .ok_or(Unseen::past(available, LEN))?;
        if packet.starts_with(&SHAPE) {
            Ok(Self(packet))
        } else {
            Err(Unseen::Malformed)
        }
    }

    /// See [`operation`]; anything is possible.
    pub fn operation(&self) -> u16 {
        u16::from_be_bytes([self.0[6], self.0[7]])
    }

    /// The sender's MAC address.
    pub fn sender_mac(&self) -> Mac {
        Mac::new([
            self.0[8], self.0[9], self.0[10], self.0[11], self.0[12], self.0[13],
        ])
    }

    /// The sender's IPv4 address.
    pub fn sender_ip(&self) -> Ipv4Addr {
        Ipv4Addr::new(self.0[14], self.0[15], self.0[16], self.0[17])
    }

    /// The target's MAC address.
    pub fn target_mac(&self) -> Mac {
        Mac::new([
            self.0[18], self.0[19], self.0[20], self.0[21], self.0[22], self.0[23],
        ])
    }

    /// The target's IPv4 address.
    pub fn target_ip(&self) -> Ipv4Addr {
        Ipv4Addr::new(self.0[24], self.0[25], self.0[26], self.0[27])
    }
}
