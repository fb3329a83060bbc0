//! TCP headers (RFC 9293).

use super::layers::Unseen;

/// Length of the header without options.
pub const HEADER: usize = 20;

/// Where the checksum stands in the header.
pub const CHECKSUM: u16 = 16;

/// The flags, as bits of [`Tcp::flags`].
pub mod flag {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// The acknowledgment field counts.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer counts.
    pub const URG: u8 = 0x20;
    /// ECN echo.
    pub const ECE: u8 = 0x40;
    /// Congestion window reduced.
    pub const CWR: u8 = 0x80;
}

/// A TCP header. Its data offset is at least 5 words, and the header lies within the packet.
#[derive(Clone, Copy, Debug)]
pub struct Tcp<'a> {
    fixed: &'a [u8; HEADER],
    options: &'a [u8],
}

impl<'a> Tcp<'a> {
    /// Reads a header from the beginning of `bytes`; `available` is how much of the packet there is from here on.
    ///
    /// # Errors
    ///
    /// [`Unseen::Malformed`] when the data offset is under 5 or the header ends beyond the packet.
    pub fn parse(bytes: &'a [u8], available: usize) -> Result<Self, Unseen> {
        let (fixed, rest) = bytes
            .split_first_chunk::<HEADER>()
            .ok_or(Unseen::past(available, HEADER))?;
        let header_len = usize::from(fixed[12] >> 4) * 4;
        let options_len = header_len.checked_sub(HEADER).ok_or(Unseen::Malformed)?;
        let options = rest
            .get(..options_len)
            .ok_or(Unseen::past(available, header_len))?;
        if header_len > available {
            return Err(Unseen::Malformed);
        }
        Ok(Self { fixed, options })
    }

    /// Length of the header with its options: 20 to 60 bytes.
    pub fn header_len(&self) -> usize {
        HEADER + self.options.len()
    }

    /// The options, unread.
    pub fn options(&self) -> &'a [u8] {
        self.options
    }

    /// The source port.
    pub fn src_port(&self) -> u16 {
        u16::from_be_bytes([self.fixed[0], self.fixed[1]])
    }

    /// The destination port.
    pub fn dst_port(&self) -> u16 {
        u16::from_be_bytes([self.fixed[2], self.fixed[3]])
    }

    /// The sequence number.
    pub fn sequence(&self) -> u32 {
        u32::from_be_bytes([self.fixed[4], self.fixed[5], self.fixed[6], self.fixed[7]])
    }

    /// The acknowledgment number.
    pub fn acknowledgment(&self) -> u32 {
        u32::from_be_bytes([self.fixed[8], self.fixed[9], self.fixed[10], self.fixed[11]])
    }

    /// The flags, see [`flag`].
    pub fn flags(&self) -> u8 {
        self.fixed[13]
    }

    /// The window, unscaled.
    pub fn window(&self) -> u16 {
        u16::from_be_bytes([self.fixed[14], self.fixed[15]])
    }

    /// The checksum as it stands, unverified.
    pub fn checksum(&self) -> u16 {
        u16::from_be_bytes([self.fixed[16], self.fixed[17]])
    }
}
