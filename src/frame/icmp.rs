//! The common head of ICMP (RFC 792) and ICMPv6 (RFC 4443) messages.

use super::layers::Unseen;

/// Length of what every message begins with.
pub const HEADER: usize = 8;

/// The beginning of an ICMP or ICMPv6 message.
#[derive(Clone, Copy, Debug)]
pub struct Icmp<'a>(&'a [u8; HEADER]);

impl<'a> Icmp<'a> {
    /// Reads a header from the beginning of `bytes`; `available` is how much of the packet there is from here on.
    ///
    /// # Errors
    ///
    /// [`Unseen::Malformed`] when the packet ends within the header.
    pub fn parse(bytes: &'a [u8], available: usize) -> Result<Self, Unseen> {
        let header = bytes
            .first_chunk::<HEADER>()
            .ok_or(Unseen::past(available, HEADER))?;
        Ok(Self(header))
    }

    /// The type.
    pub fn kind(&self) -> u8 {
        self.0[0]
    }

    /// The code.
    pub fn code(&self) -> u8 {
        self.0[1]
    }

    /// The checksum as it stands, unverified.
    pub fn checksum(&self) -> u16 {
        u16::from_be_bytes([self.0[2], self.0[3]])
    }

    /// The four bytes whose meaning depends on the type.
    pub fn rest(&self) -> [u8; 4] {
        [self.0[4], self.0[5], self.0[6], self.0[7]]
    }
}
