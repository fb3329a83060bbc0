//! DHCP and BOOTP messages over IPv4 (RFC 2131, RFC 951).

use std::net::Ipv4Addr;

use super::layers::Unseen;
use super::mac::Mac;

/// Port of servers, and of relays.
pub const SERVER: u16 = 67;
/// Port of clients.
pub const CLIENT: u16 = 68;

/// Length of the part that is always read: up to the client's hardware address.
pub const HEADER: usize = 44;

/// Where the options begin, behind the magic cookie.
const OPTIONS: usize = 240;
const COOKIE: [u8; 4] = [99, 130, 83, 99];

/// Values of [`Dhcp::operation`].
pub mod operation {
    /// From a client.
    pub const REQUEST: u8 = 1;
    /// From a server.
    pub const REPLY: u8 = 2;
}

/// Options (RFC 2132).
pub mod option {
    /// Requested IP address.
    pub const REQUESTED_ADDRESS: u8 = 50;
    /// Lease time in seconds.
    pub const LEASE_TIME: u8 = 51;
    /// Options stand in the fields for names, too.
    pub const OVERLOAD: u8 = 52;
    /// Message type, see [`super::message`].
    pub const MESSAGE_TYPE: u8 = 53;
    /// Client identifier.
    pub const CLIENT_ID: u8 = 61;
    /// What a relay says of where the client is (RFC 3046).
    pub const RELAY_AGENT: u8 = 82;
    pub(super) const PAD: u8 = 0;
    pub(super) const END: u8 = 255;
}

/// Values of the option "message type".
pub mod message {
    /// The client has found the address in use.
    pub const DECLINE: u8 = 4;
    /// The address is granted.
    pub const ACK: u8 = 5;
    /// The address is refused.
    pub const NAK: u8 = 6;
    /// The client gives the address back.
    pub const RELEASE: u8 = 7;
}

/// A message, up to the client's hardware address.
#[derive(Clone, Copy, Debug)]
pub struct Dhcp<'a> {
    fixed: &'a [u8; HEADER],
    bytes: &'a [u8],
    available: usize,
}

impl<'a> Dhcp<'a> {
    /// Reads a message from the beginning of `bytes`, behind the UDP header; `available` is how much of the packet there is
    /// from there on.
    ///
    /// # Errors
    ///
    /// [`Unseen::Malformed`] when the packet ends within the fixed part.
    pub fn parse(bytes: &'a [u8], available: usize) -> Result<Self, Unseen> {
        let fixed = bytes
            .first_chunk::<HEADER>()
            .ok_or(Unseen::past(available, HEADER))?;
        Ok(Self {
            fixed,
            bytes,
            available,
        })
    }

    /// Request or reply, see [`operation`]; anything is possible.
    pub fn operation(&self) -> u8 {
        self.fixed[0]
    }

    /// Whether the hardware address is an Ethernet address.
    pub fn is_ethernet(&self) -> bool {
        self.fixed[1] == 1 && self.fixed[2] == 6
    }

    /// The address that the client has.
    pub fn client_ip(&self) -> Ipv4Addr {
        self.address::<12>()
    }

    /// The address that it is given.
    pub fn your_ip(&self) -> Ipv4Addr {
        self.address::<16>()
    }

    /// The relay's address; 0.0.0.0 without a relay.
    pub fn relay_ip(&self) -> Ipv4Addr {
        self.address::<24>()
    }

    /// The client's hardware address, as an Ethernet address.
    pub fn client_mac(&self) -> Mac {
        Mac::new([
            self.fixed[28],
            self.fixed[29],
            self.fixed[30],
            self.fixed[31],
            self.fixed[32],
            self.fixed[33],
        ])
    }

    /// The options behind the cookie; none without it (BOOTP).
    pub fn options(&self) -> Options<'a> {
        match self.bytes.get(OPTIONS - COOKIE.len()..) {
            Some([a, b, c, d, rest @ ..]) if [*a, *b, *c, *d] == COOKIE => Options {
                bytes: rest,
                available: self.available.saturating_sub(OPTIONS),
            },
            Some([_, _, _, _, ..]) => Options::NONE,
            // The cookie is not in the snapshot; it may be in the packet.
            _ if self.available >= OPTIONS => Options {
                bytes: &[],
                available: self.available,
            },
            _ => Options::NONE,
        }
    }

    fn address<const AT: usize>(&self) -> Ipv4Addr {
        let octets = self
            .fixed
            .get(AT..)
            .and_then(|rest| rest.first_chunk::<4>());
        octets.map_or(Ipv4Addr::UNSPECIFIED, |octets| Ipv4Addr::from(*octets))
    }
}

/// An option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opt<'a> {
    /// Its code, see [`option`].
    pub code: u8,
    /// What stands behind code and length.
    pub value: &'a [u8],
}

/// The options of a message up to the end option, or to the packet's end where there is none. An error is the last
/// thing that comes.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    bytes: &'a [u8],
    available: usize,
}

impl<'a> Options<'a> {
    const NONE: Self = Self {
        bytes: &[],
        available: 0,
    };

    /// The first byte, or the first two.
    fn read(&mut self) -> Result<Option<Opt<'a>>, Unseen> {
        let code = *self.bytes.first().ok_or(Unseen::past(self.available, 1))?;
        if code == option::PAD {
            self.skip(1);
            return Ok(None);
        }
        if code == option::END {
            self.available = 0;
            return Ok(None);
        }
        let len = *self.bytes.get(1).ok_or(Unseen::past(self.available, 2))?;
        let end = usize::from(len) + 2;
        let value = self
            .bytes
            .get(2..end)
            .ok_or(Unseen::past(self.available, end))?;
        self.skip(end);
        Ok(Some(Opt { code, value }))
    }

    fn skip(&mut self, len: usize) {
        self.bytes = self.bytes.get(len..).unwrap_or(&[]);
        self.available = self.available.saturating_sub(len);
    }
}

impl<'a> Iterator for Options<'a> {
    type Item = Result<Opt<'a>, Unseen>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.available != 0 {
            match self.read() {
                Ok(None) => {}
                Ok(Some(opt)) => return Some(Ok(opt)),
                Err(unseen) => {
                    self.available = 0;
                    return Some(Err(unseen));
                }
            }
        }
        None
    }
}
