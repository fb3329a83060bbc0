//! What an ICMP or ICMPv6 error is about: the beginning of a packet that its receiver had sent (RFC 792; RFC 4443, section 2.4).

use crate::frame::ipv4::Ipv4;
use crate::frame::ipv6::{self, Ipv6};
use crate::frame::{Frame, icmp, protocol};
use crate::policy::digest::Digest;
use crate::policy::subject::{Family, Subject};

use super::key::{ECHO_REPLY, ECHO_REPLY_V6, ECHO_REQUEST, ECHO_REQUEST_V6, Key};

/// The packet that is quoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quote {
    /// As it was sent.
    pub(super) key: Key,
    /// Its sequence number, of TCP.
    pub(super) seq: Option<u32>,
    /// For an echo: whether it was a request.
    pub(super) is_request: Option<bool>,
}

impl Quote {
    /// `None` when the quotation is too short or broken, is a later fragment or itself an error, or was not sent by
    /// the one that the error is sent to.
    pub(super) fn of(digest: &Digest, frame: &Frame<'_>) -> Option<Self> {
        let subject = &digest.subject;
        let at = usize::from(digest.transport).checked_add(icmp::HEADER)?;
        let bytes = frame.bytes().get(at..)?;
        let quote = match subject.family()? {
            Family::V4 => Self::v4(subject, bytes)?,
            Family::V6 => Self::v6(subject, bytes)?,
        };
        let receiver = [subject.0[4], subject.0[5]];
        (quote.key.src == receiver).then_some(quote)
    }

    fn v4(subject: &Subject, bytes: &[u8]) -> Option<Self> {
        // As long as it says: the rest was cut off.
        let ip = Ipv4::parse(bytes, usize::from(u16::MAX)).ok()?;
        if ip.fragment().is_some_and(|fragment| fragment.offset != 0) {
            return None;
        }
        let src = [0, ip.src().to_bits().into()];
        let dst = [0, ip.dst().to_bits().into()];
        let rest = bytes.get(ip.header_len()..)?;
        Self::build(subject, Family::V4, ip.protocol(), src, dst, rest)
    }

    fn v6(subject: &Subject, bytes: &[u8]) -> Option<Self> {
        let ip = Ipv6::parse(bytes, usize::MAX).ok()?;
        let payload = bytes.get(ipv6::HEADER..)?;
        let walk = ipv6::walk(ip.next_header(), payload, ip.payload_len().into()).ok()?;
        if walk.fragment.is_some_and(|fragment| fragment.offset != 0) {
            return None;
        }
        let halves = |bits: u128| {
            let [high, low] = [bits >> 64, bits & u128::from(u64::MAX)];
            Some([u64::try_from(high).ok()?, u64::try_from(low).ok()?])
        };
        let src = halves(ip.src().to_bits())?;
        let dst = halves(ip.dst().to_bits())?;
        let rest = payload.get(walk.len..)?;
        Self::build(subject, Family::V6, walk.protocol, src, dst, rest)
    }

    fn build(
        subject: &Subject,
        family: Family,
        number: u8,
        src: [u64; 2],
        dst: [u64; 2],
        rest: &[u8],
    ) -> Option<Self> {
        let (mut ports, mut seq, mut is_request) = (0, None, None);
        match (number, family) {
            (protocol::TCP | protocol::UDP, _) => {
                let &[a, b, c, d, e, f, g, h] = rest.first_chunk::<8>()?;
                ports = u32::from_be_bytes([a, b, c, d]);
                if number == protocol::TCP {
                    seq = Some(u32::from_be_bytes([e, f, g, h]));
                }
            }
            (protocol::ICMP, Family::V4) | (protocol::ICMPV6, Family::V6) => {
                let &[kind, _, _, _, a, b, _, _] = rest.first_chunk::<{ icmp::HEADER }>()?;
                is_request = Some(match (kind, family) {
                    (ECHO_REQUEST, Family::V4) | (ECHO_REQUEST_V6, Family::V6) => true,
                    (ECHO_REPLY, Family::V4) | (ECHO_REPLY_V6, Family::V6) => false,
                    _ => return None,
                });
                ports = u32::from(u16::from_be_bytes([a, b])) << 16;
            }
            (protocol::ICMP | protocol::ICMPV6, _) => return None,
            _ => {}
        }
        Some(Self {
            key: Key::build(subject.vid(), number, family, src, dst, ports),
            seq,
            is_request,
        })
    }
}
