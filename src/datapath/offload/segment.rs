//! Cutting a large TCP or UDP frame.
//!
//! The headers are copied once into the segmenter, and mended there for one segment after another; the
//! payload is never moved: a [`Cut`] names its range in the frame, and egress writes headers and range
//! straight into the receiver's buffers. With checksums left to the receiver the payload is not even
//! read.
//!
//! In each segment: IPv4 total length, identification (one up) and header checksum, or IPv6 payload
//! length; TCP sequence number, FIN and PSH on the last segment only, CWR on the first only (RFC 3168,
//! section 6.1.2); UDP length. The L4 checksum is computed from the addresses of the header, not from
//! what the driver left in the field: drivers differ in whether that counts the length. (With an IPv6
//! routing header another destination would count; RFC 8200, section 8.1. No driver offloads those, and
//! such a segment is refused where it arrives.)

use core::ops::Range;

use super::{Family, MAX_HEADERS, Segment, Transport, partial_header};
use crate::frame::checksum::Sum;
use crate::frame::tcp::flag::{CWR, FIN, PSH};
use crate::ring::vnet::VnetHeader;

/// One segment: a whole frame in two parts.
#[derive(Debug, PartialEq, Eq)]
pub struct Cut<'a> {
    /// Ethernet to L4 header. The rest of the frame is `payload`.
    pub head: &'a [u8],
    /// Where the payload lies, in bytes from the Ethernet header of the frame that is cut.
    pub payload: Range<usize>,
}

impl Cut<'_> {
    /// Bytes of the segment's frame. (There is always a header, so never 0.)
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.head.len().saturating_add(self.payload.len())
    }

    /// Writes the segment's frame to the front of `out`, the payload from `frame`, the one that is cut.
    /// `None`: one of them is too short.
    pub fn write(&self, frame: &[u8], out: &mut [u8]) -> Option<usize> {
        let (head, rest) = out.split_at_mut_checked(self.head.len())?;
        head.copy_from_slice(self.head);
        rest.get_mut(..self.payload.len())?
            .copy_from_slice(frame.get(self.payload.clone())?);
        Some(self.len())
    }
}

/// Yields the segments of a frame, in order, each once.
#[derive(Debug)]
pub struct Segmenter<'a> {
    segment: Segment,
    /// The frame's headers, mended for the segment in hand.
    head: [u8; MAX_HEADERS],
    /// The frame, if checksums are to be completed.
    summed: Option<&'a [u8]>,
    /// Where the next segment's payload begins.
    at: usize,
    end: usize,
    /// Segments made.
    made: u16,
    identification: u16,
    sequence: u32,
    tcp_flags: u8,
    /// Addresses and protocol, which all pseudo headers begin with.
    pseudo: Sum,
}

impl<'a> Segmenter<'a> {
    /// Starts a cut with checksums completed. `frame` is the private copy that `segment` was judged on.
    /// `None`: it is not (too short for what the plan says).
    pub fn complete(segment: Segment, frame: &'a [u8]) -> Option<Self> {
        let end = usize::try_from(segment.headers.end).ok()?;
        Self::start(segment, frame, Some(frame.get(..end)?))
    }

    /// Starts a cut with checksums left to the receiver: of `head` only the headers are read, so the
    /// payload may stay in the sender's memory. `None`: it is shorter than the headers.
    pub fn partial(segment: Segment, head: &[u8]) -> Option<Self> {
        Self::start(segment, head, None)
    }

    fn start(segment: Segment, head: &[u8], summed: Option<&'a [u8]>) -> Option<Self> {
        let headers = segment.headers;
        let (l3, l4) = (usize::from(headers.l3), usize::from(headers.l4));
        let payload = usize::from(headers.payload);
        let end = usize::try_from(headers.end).ok()?;
        if payload > end || segment.size == 0 {
            return None;
        }
        let mut copy = [0; MAX_HEADERS];
        copy.get_mut(..payload)?
            .copy_from_slice(head.get(..payload)?);
        let (identification, addresses) = match headers.family {
            Family::V4 => (field::<2>(&copy, l3 + 4)?, copy.get(l3 + 12..l3 + 20)?),
            Family::V6 => ([0; 2], copy.get(l3 + 8..l3 + 40)?),
        };
        let (sequence, tcp_flags, shortest) = match headers.transport {
            Transport::Tcp => (field::<4>(&copy, l4 + 4)?, field::<1>(&copy, l4 + 13)?, 20),
            Transport::Udp => ([0; 4], [0], 8),
        };
        if l4 <= l3 || payload < l4 + shortest {
            return None;
        }
        let pseudo = Sum::default()
            .bytes(addresses)
            .word(headers.transport.number().into());
        Some(Self {
            segment,
            summed,
            at: payload,
            end,
            made: 0,
            identification: u16::from_be_bytes(identification),
            sequence: u32::from_be_bytes(sequence),
            tcp_flags: u8::from_be_bytes(tcp_flags),
            pseudo,
            head: copy,
        })
    }

    /// The header that goes in front of each segment, with `shift` as in [`super::Offload::delivery`]
    /// (`num_buffers` still to be set).
    pub fn header(&self, shift: i16) -> VnetHeader {
        match self.summed {
            Some(_) => VnetHeader::default(),
            None => {
                let headers = self.segment.headers;
                partial_header(headers.transport, headers.l4, shift)
            }
        }
    }

    /// The next segment, or `None` after the last.
    pub fn next_cut(&mut self) -> Option<Cut<'_>> {
        if self.at >= self.end {
            return None;
        }
        let payload = self.at
            ..self
                .end
                .min(self.at.saturating_add(self.segment.size.into()));
        let l4_len = payload.len().saturating_add(usize::from(
            self.segment.headers.payload - self.segment.headers.l4,
        ));
        self.mend_ip(l4_len);
        match self.segment.headers.transport {
            Transport::Tcp => self.mend_tcp(&payload),
            Transport::Udp => self.mend_udp(l4_len),
        }
        self.mend_checksum(l4_len, &payload);
        self.at = payload.end;
        self.made = self.made.wrapping_add(1);
        let head = self.head.get(..usize::from(self.segment.headers.payload))?;
        Some(Cut { head, payload })
    }

    fn mend_ip(&mut self, l4_len: usize) {
        let (l3, l4) = (
            usize::from(self.segment.headers.l3),
            usize::from(self.segment.headers.l4),
        );
        match self.segment.headers.family {
            Family::V4 => {
                put(&mut self.head, l3 + 2, be16(l4 - l3 + l4_len));
                let identification = self.identification.wrapping_add(self.made);
                put(&mut self.head, l3 + 4, identification.to_be_bytes());
                put(&mut self.head, l3 + 10, [0; 2]);
                let sum = Sum::default().bytes(self.head.get(l3..l4).unwrap_or_default());
                put(&mut self.head, l3 + 10, sum.complement());
            }
            // Extension headers count as payload (RFC 8200, section 3).
            Family::V6 => put(
                &mut self.head,
                l3 + 4,
                be16((l4 - l3).saturating_sub(40) + l4_len),
            ),
        }
    }

    fn mend_tcp(&mut self, payload: &Range<usize>) {
        let headers = self.segment.headers;
        let sent = payload.start.saturating_sub(headers.payload.into());
        // A frame has fewer bytes than 2^32; sequence numbers wrap by definition.
        let sequence = self
            .sequence
            .wrapping_add(u32::try_from(sent).unwrap_or_default());
        let mut flags = self.tcp_flags;
        if self.made != 0 {
            flags &= !CWR;
        }
        if payload.end < self.end {
            flags &= !(FIN | PSH);
        }
        put(
            &mut self.head,
            usize::from(headers.l4) + 4,
            sequence.to_be_bytes(),
        );
        put(&mut self.head, usize::from(headers.l4) + 13, [flags]);
    }

    fn mend_udp(&mut self, l4_len: usize) {
        put(
            &mut self.head,
            usize::from(self.segment.headers.l4) + 4,
            be16(l4_len),
        );
    }

    fn mend_checksum(&mut self, l4_len: usize, payload: &Range<usize>) {
        let headers = self.segment.headers;
        let l4 = usize::from(headers.l4);
        let field = l4 + usize::from(headers.transport.checksum_offset());
        let pseudo = self.pseudo.word(u16::from_be_bytes(be16(l4_len)));
        let Some(frame) = self.summed else {
            put(&mut self.head, field, pseudo.seed());
            return;
        };
        put(&mut self.head, field, [0; 2]);
        let sum = pseudo
            .bytes(
                self.head
                    .get(l4..usize::from(headers.payload))
                    .unwrap_or_default(),
            )
            .bytes(frame.get(payload.clone()).unwrap_or_default());
        let sum = match headers.transport {
            Transport::Tcp => sum.complement(),
            Transport::Udp => sum.complement_nonzero(),
        };
        put(&mut self.head, field, sum);
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// Writes a field; one beyond the end is left out, which [`Segmenter::start`] has excluded.
fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    if let Some(field) = bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *field = value;
    }
}

/// A length on the wire. A segment is shorter than 64 KiB: its size is a `u16` that holds the payload,
/// and the whole packet fitted an IP length.
fn be16(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes()
}
