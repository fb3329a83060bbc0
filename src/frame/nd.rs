//! IPv6 neighbour discovery messages (RFC 4861).

use std::net::Ipv6Addr;

use super::layers::Unseen;
use super::mac::Mac;

/// ICMPv6 types of neighbour discovery.
pub mod kind {
    /// Router solicitation.
    pub const ROUTER_SOLICITATION: u8 = 133;
    /// Router advertisement.
    pub const ROUTER_ADVERTISEMENT: u8 = 134;
    /// Neighbour solicitation.
    pub const NEIGHBOUR_SOLICITATION: u8 = 135;
    /// Neighbour advertisement.
    pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    /// Redirect.
    pub const REDIRECT: u8 = 137;
    /// Inverse neighbour discovery solicitation (RFC 3122).
    pub const INVERSE_SOLICITATION: u8 = 141;
    /// Inverse neighbour discovery advertisement (RFC 3122).
    pub const INVERSE_ADVERTISEMENT: u8 = 142;
}

/// Types of options.
pub mod option {
    /// Source link-layer address.
    pub const SOURCE_LINK_LAYER: u8 = 1;
    /// Target link-layer address.
    pub const TARGET_LINK_LAYER: u8 = 2;
}

/// Whether an ICMPv6 type is one of RFC 4861.
pub const fn is_discovery(kind: u8) -> bool {
    matches!(kind, kind::ROUTER_SOLICITATION..=kind::REDIRECT)
}

/// Length of the ICMPv6 header in front, and of each address.
const ICMP: usize = 8;
const ADDRESS: usize = 16;

/// A neighbour discovery message, with all of its fixed part.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    header: &'a [u8; ICMP],
    target: Option<Ipv6Addr>,
    options: Options<'a>,
}

impl<'a> Message<'a> {
    /// Reads a message from the beginning of `bytes`, the ICMPv6 header; `available` is how much of the packet there is
    /// from there on.
    ///
    /// # Errors
    ///
    /// [`Unseen::Malformed`] when the packet ends within the fixed part, or the type is no message of RFC 4861.
    pub fn parse(bytes: &'a [u8], available: usize) -> Result<Self, Unseen> {
        let header = bytes
            .first_chunk::<ICMP>()
            .ok_or(Unseen::past(available, ICMP))?;
        let fixed = match header[0] {
            kind::ROUTER_SOLICITATION => ICMP,
            kind::ROUTER_ADVERTISEMENT => ICMP + 8,
            kind::NEIGHBOUR_SOLICITATION | kind::NEIGHBOUR_ADVERTISEMENT => ICMP + ADDRESS,
            kind::REDIRECT => ICMP + 2 * ADDRESS,
            _ => return Err(Unseen::Malformed),
        };
        let options = bytes.get(fixed..).ok_or(Unseen::past(available, fixed))?;
        let has_target = fixed >= ICMP + ADDRESS;
        let target = bytes
            .get(ICMP..)
            .and_then(|rest| rest.first_chunk::<ADDRESS>());
        Ok(Self {
            header,
            target: target
                .filter(|_| has_target)
                .map(|octets| Ipv6Addr::from(*octets)),
            options: Options {
                bytes: options,
                available: available.saturating_sub(fixed),
            },
        })
    }

    /// The type, see [`kind`].
    pub fn kind(&self) -> u8 {
        self.header[0]
    }

    /// The code; 0 in every message that is defined.
    pub fn code(&self) -> u8 {
        self.header[1]
    }

    /// The target, in solicitations and advertisements of neighbours and in redirects.
    pub fn target(&self) -> Option<Ipv6Addr> {
        self.target
    }

    /// The options.
    pub fn options(&self) -> Options<'a> {
        self.options
    }
}

/// An option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opt<'a> {
    /// Its type, see [`option`].
    pub kind: u8,
    /// What stands behind type and length.
    pub value: &'a [u8],
}

impl Opt<'_> {
    /// The value as an Ethernet address (RFC 2464, 6); `None` unless it has the length of one.
    pub fn mac(&self) -> Option<Mac> {
        let octets: [u8; 6] = self.value.try_into().ok()?;
        Some(Mac::new(octets))
    }
}

/// The options of a message, one after the other (RFC 4861, 4.6). An error is the last thing that comes.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    bytes: &'a [u8],
    available: usize,
}

impl<'a> Options<'a> {
    fn read(&mut self) -> Result<Opt<'a>, Unseen> {
        let &[kind, eights] = self
            .bytes
            .first_chunk::<2>()
            .ok_or(Unseen::past(self.available, 2))?;
        let len = usize::from(eights) * 8;
        if len == 0 {
            return Err(Unseen::Malformed);
        }
        let value = self
            .bytes
            .get(2..len)
            .ok_or(Unseen::past(self.available, len))?;
        self.bytes = self.bytes.get(len..).unwrap_or(&[]);
        self.available = self.available.saturating_sub(len);
        Ok(Opt { kind, value })
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
