//! IPv6 headers and the walk over extension headers (RFC 8200).

use std::net::Ipv6Addr;

use super::layers::{Fragment, Unseen};
use super::mac::Mac;

/// Length of the fixed header.
pub const HEADER: usize = 40;

/// The most extension headers that are walked.
pub const MAX_EXTENSIONS: usize = 8;

/// Extension headers (IANA, "IPv6 Extension Header Types").
pub mod extension {
    /// Hop-by-hop options; only ever the first.
    pub const HOP_BY_HOP: u8 = 0;
    /// Routing.
    pub const ROUTING: u8 = 43;
    /// Fragment.
    pub const FRAGMENT: u8 = 44;
    /// Encapsulating security payload: what follows is not readable.
    pub const ESP: u8 = 50;
    /// Authentication header.
    pub const AUTHENTICATION: u8 = 51;
    /// Nothing follows.
    pub const NO_NEXT: u8 = 59;
    /// Destination options.
    pub const DESTINATION: u8 = 60;
    /// Mobility.
    pub const MOBILITY: u8 = 135;
    /// Host identity protocol.
    pub const HIP: u8 = 139;
    /// Shim6.
    pub const SHIM6: u8 = 140;
    /// For experiments (RFC 4727): an extension header or a protocol, nobody can tell.
    pub const EXPERIMENTS: [u8; 2] = [253, 254];
}

/// An IPv6 header. Its version is 6 and its payload lies within the frame.
#[derive(Clone, Copy, Debug)]
pub struct Ipv6<'a>(&'a [u8; HEADER]);

impl<'a> Ipv6<'a> {
    /// Reads a header from the beginning of `bytes`; `available` is how much of the frame there is from here on.
    ///
    /// # Errors
    ///
    /// [`Unseen::Malformed`] on another version or a payload longer than the frame; a jumbogram (RFC 2675) has a
    /// payload length of zero with a payload behind it and comes out as a packet with an empty payload.
    pub fn parse(bytes: &'a [u8], available: usize) -> Result<Self, Unseen> {
        let fixed = bytes
            .first_chunk::<HEADER>()
            .ok_or(Unseen::past(available, HEADER))?;
        let header = Self(fixed);
        let sane = fixed[0] >> 4 == 6 && usize::from(header.payload_len()) + HEADER <= available;
        if sane {
            Ok(header)
        } else {
            Err(Unseen::Malformed)
        }
    }

    /// Length of everything behind the fixed header.
    pub fn payload_len(&self) -> u16 {
        u16::from_be_bytes([self.0[4], self.0[5]])
    }

    /// DSCP and ECN.
    pub fn traffic_class(&self) -> u8 {
        self.0[0] << 4 | self.0[1] >> 4
    }

    /// The type of what follows the fixed header.
    pub fn next_header(&self) -> u8 {
        self.0[6]
    }

    /// Hop limit.
    pub fn hop_limit(&self) -> u8 {
        self.0[7]
    }

    /// The source address.
    pub fn src(&self) -> Ipv6Addr {
        self.address::<8>()
    }

    /// The destination address.
    pub fn dst(&self) -> Ipv6Addr {
        self.address::<24>()
    }

    fn address<const AT: usize>(&self) -> Ipv6Addr {
        let octets = self.0.get(AT..).and_then(|rest| rest.first_chunk::<16>());
        octets.map_or(Ipv6Addr::UNSPECIFIED, |octets| Ipv6Addr::from(*octets))
    }
}

/// The end of a walk over extension headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walk {
    /// The first type that is no extension header: the protocol above, ESP, "nothing follows", or an unknown one.
    pub protocol: u8,
    /// Length of the extension headers in bytes: the protocol begins so far behind the fixed header.
    pub len: usize,
    /// The fragment header, if there was one.
    pub fragment: Option<Fragment>,
}

/// Walks the extension headers at the beginning of `payload`, of which the packet has `available` bytes and the
/// first has the type `first`. Stops behind the header of a later fragment, where no header can follow.
///
/// # Errors
///
/// [`Unseen::TooMany`] past [`MAX_EXTENSIONS`]; [`Unseen::Malformed`] when a header ends beyond the packet, when
/// hop-by-hop options are not the first, or when there are two fragment headers.
pub fn walk(first: u8, payload: &[u8], available: usize) -> Result<Walk, Unseen> {
    let mut walk = Walk {
        protocol: first,
        len: 0,
        fragment: None,
    };
    let mut rest = payload;
    for walked in 0..=MAX_EXTENSIONS {
        let kind = walk.protocol;
        if !is_extension(kind) || walk.fragment.is_some_and(|fragment| fragment.offset != 0) {
            return Ok(walk);
        }
        if walked == MAX_EXTENSIONS {
            break;
        }
        if kind == extension::HOP_BY_HOP && walked != 0 {
            return Err(Unseen::Malformed);
        }
        let end = walk.len.wrapping_add(8);
        let head = rest
            .first_chunk::<8>()
            .ok_or(Unseen::past(available, end))?;
        let len = len_of(kind, head);
        if kind == extension::FRAGMENT {
            if walk.fragment.is_some() {
                return Err(Unseen::Malformed);
            }
            let word = u16::from_be_bytes([head[2], head[3]]);
            walk.fragment = Some(Fragment {
                offset: word & 0xfff8,
                more: word & 1 != 0,
                ident: u32::from_be_bytes([head[4], head[5], head[6], head[7]]),
            });
        }
        walk.protocol = head[0];
        walk.len = walk.len.wrapping_add(len);
        rest = rest.get(len..).ok_or(Unseen::past(available, walk.len))?;
        if walk.len > available {
            return Err(Unseen::Malformed);
        }
    }
    Err(Unseen::TooMany)
}

/// Whether there is a routing header of type 0 that was not used up among the extension headers at the beginning of
/// `payload`, of which the first has the type `first` and which [`walk`] accepts (RFC 5095).
pub fn is_source_routed(first: u8, payload: &[u8]) -> bool {
    let (mut kind, mut rest) = (first, payload);
    for _ in 0..MAX_EXTENSIONS {
        let Some(head) = rest.first_chunk::<8>().filter(|_| is_extension(kind)) else {
            return false;
        };
        if kind == extension::ROUTING && head[2] == 0 && head[3] != 0 {
            return true;
        }
        let is_later = u16::from_be_bytes([head[2], head[3]]) & 0xfff8 != 0;
        if kind == extension::FRAGMENT && is_later {
            return false;
        }
        rest = rest.get(len_of(kind, head)..).unwrap_or(&[]);
        kind = head[0];
    }
    false
}

/// Whether an address is one of fe80::/10.
pub const fn is_link_local(address: Ipv6Addr) -> bool {
    address.to_bits() >> 118 == 0xfe80 >> 6
}

/// The link-local address that a station makes of its MAC address (RFC 4291, appendix A; RFC 2464, 5).
pub const fn link_local_of(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.octets();
    Ipv6Addr::from_octets([
        0xfe,
        0x80,
        0,
        0,
        0,
        0,
        0,
        0,
        a ^ 2,
        b,
        c,
        0xff,
        0xfe,
        d,
        e,
        f,
    ])
}

/// Length of an extension header that begins with `head`.
fn len_of(kind: u8, head: &[u8; 8]) -> usize {
    match kind {
        extension::FRAGMENT => 8,
        extension::AUTHENTICATION => (usize::from(head[1]) + 2) * 4,
        _ => (usize::from(head[1]) + 1) * 8,
    }
}

/// Whether a type is surely no extension header. Those that are not assigned count as protocols, since a node that does not
/// know one discards the packet (RFC 8200, section 4).
pub(super) fn is_upper_layer(kind: u8) -> bool {
    !is_extension(kind) && !extension::EXPERIMENTS.contains(&kind)
}

/// Whether a type is that of an extension header that [`walk`] looks behind.
pub fn is_extension(kind: u8) -> bool {
    use extension::*;
    matches!(
        kind,
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION | MOBILITY | HIP | SHIM6
    )
}
