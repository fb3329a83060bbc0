//! IPv4 headers (RFC 791).

use std::net::Ipv4Addr;

use super::layers::{Fragment, Unseen};

/// Length of the header without options.
pub const HEADER: usize = 20;

/// An IPv4 header. Its version, header length and total length are consistent with each other and with the frame.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4<'a> {
    fixed: &'a [u8; HEADER],
    options: &'a [u8],
}

impl<'a> Ipv4<'a> {
    /// Reads a header from the beginning of `bytes`; `available` is how much of the frame there is from here on.
    ///
    /// # Errors
    ///
    /// [`Unseen::Malformed`] on another version, a header length under 20 or over the total length, a total length
    /// over the frame's; [`Unseen::BeyondSnapshot`] when the options end beyond `bytes`.
    pub fn parse(bytes: &'a [u8], available: usize) -> Result<Self, Unseen> {
        let (fixed, rest) = bytes
            .split_first_chunk::<HEADER>()
            .ok_or(Unseen::past(available, HEADER))?;
        let header = Self {
            fixed,
            options: &[],
        };
        let header_len = header.ihl();
        let total_len = usize::from(header.total_len());
        let sane = fixed[0] >> 4 == 4
            && header_len >= HEADER
            && header_len <= total_len
            && total_len <= available;
        if !sane {
            return Err(Unseen::Malformed);
        }
        let options = rest
            .get(..header_len.wrapping_sub(HEADER))
            .ok_or(Unseen::BeyondSnapshot)?;
        Ok(Self { fixed, options })
    }

    fn ihl(&self) -> usize {
        usize::from(self.fixed[0] & 0x0f) * 4
    }

    /// Length of the header with its options: 20 to 60 bytes.
    pub fn header_len(&self) -> usize {
        HEADER + self.options.len()
    }

    /// The options, unread.
    pub fn options(&self) -> &'a [u8] {
        self.options
    }

    /// Whether an option asks for a source route, loose or strict (RFC 791, 3.1); `None` when the options contradict
    /// themselves.
    pub fn is_source_routed(&self) -> Option<bool> {
        const END: u8 = 0;
        const NOTHING: u8 = 1;
        const LOOSE: u8 = 131;
        const STRICT: u8 = 137;
        let mut options = self.options;
        loop {
            options = match options {
                [] | [END, ..] => return Some(false),
                [LOOSE | STRICT, ..] => return Some(true),
                [NOTHING, rest @ ..] => rest,
                [_, len @ 2..=u8::MAX, ..] => options.get(usize::from(*len)..)?,
                [_, ..] => return None,
            };
        }
    }

    /// Length of header and payload.
    pub fn total_len(&self) -> u16 {
        u16::from_be_bytes([self.fixed[2], self.fixed[3]])
    }

    /// DSCP and ECN.
    pub fn tos(&self) -> u8 {
        self.fixed[1]
    }

    /// The identification.
    pub fn ident(&self) -> u16 {
        u16::from_be_bytes([self.fixed[4], self.fixed[5]])
    }

    /// Whether fragmenting it is forbidden.
    pub fn dont_fragment(&self) -> bool {
        self.fixed[6] & 0x40 != 0
    }

    /// Its place in a fragmented packet; `None` when it is whole.
    pub fn fragment(&self) -> Option<Fragment> {
        let word = u16::from_be_bytes([self.fixed[6], self.fixed[7]]);
        let (offset, more) = ((word & 0x1fff) * 8, word & 0x2000 != 0);
        (offset != 0 || more).then_some(Fragment {
            offset,
            more,
            ident: self.ident().into(),
        })
    }

    /// Time to live.
    pub fn ttl(&self) -> u8 {
        self.fixed[8]
    }

    /// The protocol above, see [`super::protocol`].
    pub fn protocol(&self) -> u8 {
        self.fixed[9]
    }

    /// The header checksum as it stands, unverified.
    pub fn checksum(&self) -> u16 {
        u16::from_be_bytes([self.fixed[10], self.fixed[11]])
    }

    /// The source address.
    pub fn src(&self) -> Ipv4Addr {
        Ipv4Addr::new(
            self.fixed[12],
            self.fixed[13],
            self.fixed[14],
            self.fixed[15],
        )
    }

    /// The destination address.
    pub fn dst(&self) -> Ipv4Addr {
        Ipv4Addr::new(
            self.fixed[16],
            self.fixed[17],
            self.fixed[18],
            self.fixed[19],
        )
    }
}
