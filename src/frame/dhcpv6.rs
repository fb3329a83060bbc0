//! DHCPv6 messages between clients and servers (RFC 8415).

use std::net::Ipv6Addr;

use super::layers::Unseen;

/// Port of clients.
pub const CLIENT: u16 = 546;
/// Port of servers and relays.
pub const SERVER: u16 = 547;

/// Length of type and transaction.
pub const HEADER: usize = 4;

/// Message types.
pub mod kind {
    /// A server offers itself.
    pub const ADVERTISE: u8 = 2;
    /// A server answers.
    pub const REPLY: u8 = 7;
    /// A client gives addresses back.
    pub const RELEASE: u8 = 8;
    /// A client has found addresses in use.
    pub const DECLINE: u8 = 9;
    /// A server has a client ask again.
    pub const RECONFIGURE: u8 = 10;
    /// From a relay.
    pub const RELAY_FORWARD: u8 = 12;
    /// To a relay.
    pub const RELAY_REPLY: u8 = 13;
}

/// Options.
pub mod option {
    /// Identity association of addresses: 12 bytes, then options.
    pub const IA_NA: u16 = 3;
    /// The same of temporary ones: 4 bytes, then options.
    pub const IA_TA: u16 = 4;
    /// An address within them: see [`super::Address`].
    pub const IAADDR: u16 = 5;
}

/// A message.
#[derive(Clone, Copy, Debug)]
pub struct Dhcpv6<'a> {
    fixed: &'a [u8; HEADER],
    options: Options<'a>,
}

impl<'a> Dhcpv6<'a> {
    /// Reads a message from the beginning of `bytes`, behind the UDP header; `available` is how much of the packet there is
    /// from there on.
    ///
    /// # Errors
    ///
    /// [`Unseen::Malformed`] when the packet ends within type and transaction.
    pub fn parse(bytes: &'a [u8], available: usize) -> Result<Self, Unseen> {
        let (fixed, rest) = bytes
            .split_first_chunk::<HEADER>()
            .ok_or(Unseen::past(available, HEADER))?;
        let options = Options {
            bytes: rest,
            available: available.saturating_sub(HEADER),
        };
        Ok(Self { fixed, options })
    }

    /// The message type, see [`kind`]; anything is possible.
    pub fn kind(&self) -> u8 {
        self.fixed[0]
    }

    /// The options. Those of a relay's message stand elsewhere.
    pub fn options(&self) -> Options<'a> {
        self.options
    }
}

/// An option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opt<'a> {
    /// Its code, see [`option`].
    pub code: u16,
    /// What stands behind code and length.
    pub value: &'a [u8],
}

impl<'a> Opt<'a> {
    /// The options within an identity association; `None` when this is none, or cut short.
    pub fn association(&self) -> Option<Options<'a>> {
        let fixed = match self.code {
            option::IA_NA => 12,
            option::IA_TA => 4,
            _ => return None,
        };
        let bytes = self.value.get(fixed..)?;
        Some(Options {
            bytes,
            available: bytes.len(),
        })
    }

    /// The address and its lifetime; `None` when this is no address, or cut short.
    pub fn address(&self) -> Option<Address> {
        if self.code != option::IAADDR {
            return None;
        }
        let (octets, rest) = self.value.split_first_chunk::<16>()?;
        let (_preferred, rest) = rest.split_first_chunk::<4>()?;
        let (valid, _) = rest.split_first_chunk::<4>()?;
        Some(Address {
            address: Ipv6Addr::from(*octets),
            valid: u32::from_be_bytes(*valid),
        })
    }
}

/// An address in an identity association.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub address: Ipv6Addr,
    /// Its valid lifetime in seconds; 0: it has none any more, `u32::MAX`: for ever.
    pub valid: u32,
}

/// Options one after the other. An error is the last thing that comes.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    bytes: &'a [u8],
    available: usize,
}

impl<'a> Options<'a> {
    fn read(&mut self) -> Result<Opt<'a>, Unseen> {
        let &[c0, c1, l0, l1] = self
            .bytes
            .first_chunk::<4>()
            .ok_or(Unseen::past(self.available, 4))?;
        let end = usize::from(u16::from_be_bytes([l0, l1])) + 4;
        let value = self
            .bytes
            .get(4..end)
            .ok_or(Unseen::past(self.available, end))?;
        self.bytes = self.bytes.get(end..).unwrap_or(&[]);
        self.available = self.available.saturating_sub(end);
        let code = u16::from_be_bytes([c0, c1]);
        Ok(Opt { code, value })
    }
}

impl<'a> Iterator for Options<'a> {
    type Item = Result<Opt<'a>, Unseen>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.available == 0 {
            return None;
        }
        let read = self.read();
        if read.is_err() {
            self.available = 0;
        }
        Some(read)
    }
}
