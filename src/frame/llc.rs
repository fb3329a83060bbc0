//! LLC headers (IEEE 802.2), which stand behind the length of an IEEE 802.3 frame.

use super::layers::Unseen;

/// Length of the shortest header.
pub const HEADER: usize = 3;

/// The longest payload of an IEEE 802.3 frame; above it and below the first EtherType no value has a meaning.
pub const MAX_LENGTH: u16 = 1500;

/// Service access points, without the bit that makes the one a group and the other a response.
pub mod sap {
    /// The Internet Protocol (RFC 948).
    pub const IP: u8 = 0x06;
    /// Spanning tree (IEEE 802.1D).
    pub const BRIDGE: u8 = 0x42;
    /// ARP (RFC 1042's predecessor).
    pub const ARP: u8 = 0x98;
    /// SNAP: an OUI and an EtherType follow (IEEE 802, RFC 1042).
    pub const SNAP: u8 = 0xaa;
    /// ISO network layer: IS-IS, ES-IS.
    pub const ISO: u8 = 0xfe;
}

/// An LLC header.
#[derive(Clone, Copy, Debug)]
pub struct Llc<'a>(&'a [u8; HEADER]);

impl<'a> Llc<'a> {
    /// Reads a header from the beginning of `bytes`. `length` is the value of the frame's length field, `available` how
    /// much of the frame there is from here on.
    ///
    /// # Errors
    ///
    /// [`Unseen::Malformed`] when the length is under a header's, over [`MAX_LENGTH`] or over what there is.
    pub fn parse(bytes: &'a [u8], length: u16, available: usize) -> Result<Self, Unseen> {
        let claimed = usize::from(length);
        if length > MAX_LENGTH || claimed < HEADER || claimed > available {
            return Err(Unseen::Malformed);
        }
        let header = bytes
            .first_chunk::<HEADER>()
            .ok_or(Unseen::past(available, HEADER))?;
        Ok(Self(header))
    }

    /// The destination service access point, see [`sap`].
    pub fn destination(&self) -> u8 {
        self.0[0] & 0xfe
    }

    /// The source service access point.
    pub fn source(&self) -> u8 {
        self.0[1] & 0xfe
    }

    /// Whether either of the two is `sap`.
    pub fn names(&self, sap: u8) -> bool {
        self.destination() == sap || self.source() == sap
    }
}
