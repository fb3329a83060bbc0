//! MAC addresses.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A 48-bit MAC address, kept as a number so that comparing two is one instruction.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(u64);

impl Mac {
    /// `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: Self = Self(0xffff_ffff_ffff);

    const GROUP: u64 = 1 << 40;

    /// The address with these octets, as they stand on the wire.
    pub const fn new(octets: [u8; 6]) -> Self {
        let [a, b, c, d, e, f] = octets;
        Self(u64::from_be_bytes([0, 0, a, b, c, d, e, f]))
    }

    /// The address in the low 48 bits of `bits`; the rest is ignored.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits & Self::BROADCAST.0)
    }

    /// The address as a number below 2^48; the first octet on the wire is the highest.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The octets as they stand on the wire.
    pub const fn octets(self) -> [u8; 6] {
        let [_, _, a, b, c, d, e, f] = self.0.to_be_bytes();
        [a, b, c, d, e, f]
    }

    /// A multicast address, or broadcast.
    pub const fn is_group(self) -> bool {
        self.0 & Self::GROUP != 0
    }

    /// `ff:ff:ff:ff:ff:ff`.
    pub const fn is_broadcast(self) -> bool {
        self.0 == Self::BROADCAST.0
    }

    /// `00:00:00:00:00:00`.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// Whether a station may have this address and send from it: neither zero nor a group address.
    pub const fn is_station(self) -> bool {
        !self.is_group() && !self.is_zero()
    }
}

impl From<[u8; 6]> for Mac {
    fn from(octets: [u8; 6]) -> Self {
        Self::new(octets)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.octets();
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

/// What is wrong with the text of a MAC address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a MAC address; write six pairs of hexadecimal digits, such as 52:54:00:12:34:56"
)]
pub struct MacError(String);

/// Six pairs of hexadecimal digits with `:` or `-` between them.
impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let wrong = || MacError(text.to_owned());
        let mut octets = [0; 6];
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut parts = text.split(separator);
        for octet in &mut octets {
            let part = parts.next().ok_or_else(wrong)?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(wrong());
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() {
            Err(wrong())
        } else {
            Ok(Self::new(octets))
        }
    }
}

impl TryFrom<String> for Mac {
    type Error = MacError;

    fn try_from(text: String) -> Result<Self, MacError> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}
