//! What a frame still needs before a receiver can read it: a checksum, a segmentation, or nothing.
//!
//! Promised to the rest of `datapath`:
//! - **A header that a guest wrote is never forwarded.** [`Offload::judge`] reads it once against the
//!   frame's own headers, as the gate parsed them, and keeps only what is canonical; whatever a
//!   receiver is given is built anew from that (H-1 to H-8).
//! - **Completion touches no judged byte** but the checksum field itself (H-7, H-9), and in segments the
//!   lengths, the IPv4 identification and header checksum, the TCP sequence number and the flags that
//!   belong to the first or last segment only.
//! - **What a receiver did not negotiate it is not given** ([`Offload::delivery`]; H-10): a checksum is
//!   completed, a large frame cut, in the switch's private copy.
//! - **A cut is bounded** (H-11): [`MIN_TCP_SEGMENT`], [`MIN_UDP_SEGMENT`], [`MAX_UDP_SEGMENTS`]; and
//!   [`Segment::count`] says beforehand how many frames it will make, so that they can be charged.
//!
//! Everything here is a pure function of private bytes: no allocation, no panic, no guest memory.
//!
//! # What is canonical
//!
//! NEEDS_CSUM points exactly at the TCP or UDP header that the gate judged, and at that protocol's
//! checksum field. Guests set it for nothing else: Linux completes the checksum of a tunnel's inner
//! packet, of SCTP and of fragments itself, because a virtio device has no offload for them. Anything
//! else is an attempt to have bytes rewritten after they were judged, and is dropped as `bad-offload`.
//!
//! GSO needs in addition the sender's matching HOST feature, the matching family and protocol, an IP
//! length that says exactly what follows (so that no byte behind the datagram becomes payload), no
//! fragment, no SYN or RST (they belong to one segment only), and no DHCP, of which one message was judged
//! and as many would arrive as there are segments. Else: `gso-invalid`.

mod checksum;
mod segment;

pub use checksum::complete_checksum;
pub use segment::{Cut, Segmenter};

use crate::counters::DropReason;
use crate::frame::{self, Frame, Network, Unseen};
// HOST features are what a sender may ask of us, GUEST what a receiver is ready for.
use crate::ring::features;
use crate::ring::vnet::{self, VnetHeader};

/// The smallest TCP segment that a frame may ask to be cut into. A segment size comes from the peer's
/// MSS; 216 is what FreeBSD takes as the smallest sane one (`net.inet.tcp.minmss`), for the same
/// reason: to bound the packets that a byte can cost. 64 KiB make at most 304 segments.
pub const MIN_TCP_SEGMENT: u16 = 216;
/// The smallest UDP segment. An application chooses it, and user-space tunnels cut runs of datagrams
/// of about 100 bytes (a bare ACK in WireGuard's framing takes 96).
pub const MIN_UDP_SEGMENT: u16 = 64;
/// The most UDP segments of one frame: Linux's own limit (`UDP_MAX_SEGMENTS`, since 6.9; 64 before).
pub const MAX_UDP_SEGMENTS: u32 = 128;
/// The most bytes of headers, Ethernet to L4, that a frame to be cut may have: what a snapshot holds
/// after it was extended.
pub const MAX_HEADERS: usize = 256;

const ETHERNET: u32 = 14;
const VLAN_TAG: u32 = 4;
const TCP_SYN_RST: u8 = frame::tcp::flag::SYN | frame::tcp::flag::RST;

/// IP version of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// The two protocols whose checksum a virtio device completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// Where the checksum lies in the L4 header: the one canonical `csum_offset`.
    pub const fn checksum_offset(self) -> u16 {
        match self {
            Self::Tcp => frame::tcp::CHECKSUM,
            Self::Udp => frame::udp::CHECKSUM,
        }
    }

    /// The IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => frame::protocol::TCP,
            Self::Udp => frame::protocol::UDP,
        }
    }
}

/// The headers of an unfragmented TCP or UDP frame, as the gate parsed them: offsets in bytes from the
/// Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// IP version.
    pub family: Family,
    /// L4 protocol.
    pub transport: Transport,
    /// Where the IP header begins.
    pub l3: u16,
    /// Where the L4 header begins: behind IPv4 options or IPv6 extension headers.
    pub l4: u16,
    /// Where the payload begins.
    pub payload: u16,
    /// Where the datagram ends by its IP length; Ethernet padding may follow.
    pub end: u32,
    /// TCP's flags (0 for UDP).
    pub tcp_flags: u8,
    /// Whether it is a message of DHCP or DHCPv6.
    pub is_dhcp: bool,
}

impl Headers {
    /// The headers of `frame` as the gate read them; `None` for what is not whole TCP or UDP over IP:
    /// fragments (an atomic one too), other protocols, a second tag, headers that contradict themselves.
    ///
    /// # Errors
    /// `headers-too-long` when the snapshot does not show them: extend it first if
    /// [`runs_on`](frame::Layers::runs_on) says so.
    pub fn of(frame: &Frame<'_>) -> Result<Option<Self>, DropReason> {
        let layers = frame.layers();
        let family = match layers.network {
            Network::Ipv4(_) => Family::V4,
            Network::Ipv6(_) => Family::V6,
            Network::Unseen(unseen) => return too_long(unseen),
            _ => return Ok(None),
        };
        let (transport, len, tcp_flags, is_dhcp) = match layers.transport {
            frame::Transport::Tcp(tcp) => (Transport::Tcp, tcp.header_len(), tcp.flags(), false),
            frame::Transport::Udp(udp) => (Transport::Udp, frame::udp::HEADER, 0, udp.is_dhcp()),
            frame::Transport::Unseen(unseen) => return too_long(unseen),
            _ => return Ok(None),
        };
        if layers.fragment.is_some() {
            return Ok(None);
        }
        let place = |at: usize| u16::try_from(at).map_err(|_| DropReason::HeadersTooLong);
        Ok(Some(Self {
            family,
            transport,
            l3: place(layers.network_offset)?,
            l4: place(layers.transport_offset)?,
            payload: place(layers.transport_offset.saturating_add(len))?,
            end: u32::try_from(layers.end).map_err(|_| DropReason::Oversize)?,
            tcp_flags,
            is_dhcp,
        }))
    }
}

fn too_long(unseen: Unseen) -> Result<Option<Headers>, DropReason> {
    match unseen {
        Unseen::BeyondSnapshot | Unseen::TooMany => Err(DropReason::HeadersTooLong),
        Unseen::Malformed => Ok(None),
    }
}

/// Who sent the frame: what it negotiated, and what it was told.
#[derive(Clone, Copy, Debug)]
pub struct Sender {
    /// The features of its connection.
    pub features: u64,
    /// The longest IP packet it may send in one piece; 65,535 where it was told no MTU.
    pub mtu: u16,
}

impl Sender {
    /// Whether its virtio-net headers mean anything: without CSUM a guest has nothing to say there
    /// (all HOST offloads depend on it; VIRTIO 1.2, 5.1.3.1), so they need not be read.
    pub const fn has_offloads(self) -> bool {
        self.features & features::VIRTIO_NET_F_CSUM != 0
    }

    /// The longest frame that is not to be cut, in bytes. Its tags are the fabric's business; here a tag only lengthens it.
    #[inline]
    pub const fn longest(self) -> u32 {
        let longest = ETHERNET + VLAN_TAG + self.mtu as u32;
        if longest < frame::MAX_FRAME {
            longest
        } else {
            frame::MAX_FRAME
        }
    }
}

/// A checksum to be completed. Made by [`Offload::judge`] only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checksum {
    /// Whose.
    transport: Transport,
    /// Where the L4 header begins.
    start: u16,
    /// Where the datagram ends.
    end: u32,
}

/// A frame to be cut, or given whole to a receiver that cuts or merges by itself. Implies a
/// checksum to be completed. Made by [`Offload::judge`] only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The frame's headers. `headers.end` is the end of the frame.
    headers: Headers,
    /// Payload bytes of each segment but the last. At least 1, and less than the payload.
    size: u16,
    /// TCP with CWR set, for the first segment only.
    ecn: bool,
}

/// What a frame needs. Made by [`Offload::judge`] only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offload {
    /// Nothing: it is whole.
    None,
    /// Its L4 checksum.
    Checksum(Checksum),
    /// Its L4 checksum, and to be cut.
    Segment(Segment),
}

/// The form in which one receiver gets the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The sender's bytes behind this header (`num_buffers` still to be set).
    AsIs(VnetHeader),
    /// The bytes of a linear copy after [`complete_checksum`], behind a header of zeros.
    Complete(Checksum),
    /// What a [`Segmenter`] yields; with `partial`, checksums are left to the receiver.
    Segments {
        /// The cut.
        segment: Segment,
        /// Whether the receiver completes checksums by itself (GUEST_CSUM).
        partial: bool,
    },
}

impl Offload {
    /// Judges the header that a guest put in front of a frame of `total_len` bytes (without that header).
    /// `headers` is [`Headers::of`] the frame, asked only if the answer matters.
    ///
    /// `hdr_len`, `num_buffers` and all flags but NEEDS_CSUM are ignored (H-3, H-4, H-5).
    ///
    /// # Errors
    /// `bad-offload`, `gso-invalid`, `oversize` (H-13), or that of `headers`.
    #[inline(always)]
    pub fn judge(
        header: &VnetHeader,
        total_len: u32,
        sender: Sender,
        headers: impl FnOnce() -> Result<Option<Headers>, DropReason>,
    ) -> Result<Self, DropReason> {
        if header.asks() && sender.has_offloads() {
            Self::judge_asked(*header, total_len, sender, headers)
        } else {
            Self::judge_length(total_len, sender).map(|()| Self::None)
        }
    }

    #[inline(always)]
    fn judge_length(total_len: u32, sender: Sender) -> Result<(), DropReason> {
        if total_len > sender.longest() {
            return Err(DropReason::Oversize);
        }
        Ok(())
    }

    /// A header that asks for something.
    #[inline(never)]
    fn judge_asked(
        asks: VnetHeader,
        total_len: u32,
        sender: Sender,
        headers: impl FnOnce() -> Result<Option<Headers>, DropReason>,
    ) -> Result<Self, DropReason> {
        if asks.gso_type == vnet::GSO_NONE {
            Self::judge_length(total_len, sender)?;
        } else if asks.flags & vnet::NEEDS_CSUM == 0 {
            // VIRTIO 1.2, 5.1.6.2.1: whoever sets gso_type sets NEEDS_CSUM.
            return Err(DropReason::GsoInvalid);
        }
        let headers = headers()?;
        let headers = headers.ok_or(if asks.gso_type == vnet::GSO_NONE {
            DropReason::BadOffload
        } else {
            DropReason::GsoInvalid
        })?;
        let checksum = Self::judge_checksum(&asks, total_len, &headers)?;
        if asks.gso_type == vnet::GSO_NONE {
            return Ok(Self::Checksum(checksum));
        }
        Self::judge_segment(&asks, total_len, sender, headers)?
            .map_or(Ok(Self::Checksum(checksum)), |segment| {
                Ok(Self::Segment(segment))
            })
    }

    /// NEEDS_CSUM aims at the one field that it may aim at (H-6, H-7).
    fn judge_checksum(
        asks: &VnetHeader,
        total_len: u32,
        headers: &Headers,
    ) -> Result<Checksum, DropReason> {
        let Headers {
            transport, l4, end, ..
        } = *headers;
        let field_end = u32::from(l4) + u32::from(transport.checksum_offset()) + 2;
        let canonical = asks.csum_start == l4
            && asks.csum_offset == transport.checksum_offset()
            && field_end <= end
            && end <= total_len;
        if canonical {
            Ok(Checksum {
                transport,
                start: l4,
                end,
            })
        } else {
            Err(DropReason::BadOffload)
        }
    }

    /// `None`: the payload fits one segment, so there is nothing to cut (Linux reads it so, too).
    fn judge_segment(
        asks: &VnetHeader,
        total_len: u32,
        sender: Sender,
        headers: Headers,
    ) -> Result<Option<Segment>, DropReason> {
        const INVALID: DropReason = DropReason::GsoInvalid;
        let ecn = asks.gso_type & vnet::GSO_ECN != 0;
        let needed = match (
            asks.gso_type & !vnet::GSO_ECN,
            headers.family,
            headers.transport,
        ) {
            (vnet::GSO_TCPV4, Family::V4, Transport::Tcp) => features::VIRTIO_NET_F_HOST_TSO4,
            (vnet::GSO_TCPV6, Family::V6, Transport::Tcp) => features::VIRTIO_NET_F_HOST_TSO6,
            (vnet::GSO_UDP_L4, _, Transport::Udp) if !ecn => features::VIRTIO_NET_F_HOST_USO,
            _ => return Err(INVALID),
        } | if ecn {
            features::VIRTIO_NET_F_HOST_ECN
        } else {
            0
        };
        let (min, one_segment_flags) = match headers.transport {
            Transport::Tcp => (MIN_TCP_SEGMENT, headers.tcp_flags & TCP_SYN_RST),
            Transport::Udp => (MIN_UDP_SEGMENT, 0),
        };
        if sender.features & needed != needed
            || asks.gso_size < min
            || one_segment_flags != 0
            || headers.is_dhcp
            || headers.end != total_len
            || usize::from(headers.payload) > MAX_HEADERS
            || headers.l3 < 14
            || headers.l4 <= headers.l3
            || headers.payload <= headers.l4
        {
            return Err(INVALID);
        }
        let payload = headers
            .end
            .checked_sub(u32::from(headers.payload))
            .ok_or(INVALID)?;
        let packet = u32::from(headers.payload - headers.l3) + payload.min(asks.gso_size.into());
        if packet > u32::from(sender.mtu) {
            return Err(DropReason::Oversize);
        }
        if payload <= u32::from(asks.gso_size) {
            return Ok(None);
        }
        let segment = Segment {
            headers,
            size: asks.gso_size,
            ecn,
        };
        if headers.transport == Transport::Udp && segment.count() > MAX_UDP_SEGMENTS {
            return Err(INVALID);
        }
        Ok(Some(segment))
    }

    /// The form for a receiver with `features`. `shift` is what egress adds before L3 by inserting
    /// (+4) or removing (-4) a VLAN tag, and moves the offsets of a header that goes with the sender's
    /// bytes; plans for a private copy count from the copy as it came from the sender.
    pub fn delivery(&self, features: u64, shift: i16) -> Delivery {
        let partial = features & features::VIRTIO_NET_F_GUEST_CSUM != 0;
        match *self {
            Self::None => Delivery::AsIs(VnetHeader::default()),
            Self::Checksum(plan) if partial => {
                Delivery::AsIs(partial_header(plan.transport, plan.start, shift))
            }
            Self::Checksum(plan) => Delivery::Complete(plan),
            Self::Segment(segment) => {
                let needed = segment.receiver_needs();
                if features & needed == needed {
                    Delivery::AsIs(segment.whole_header(shift))
                } else {
                    Delivery::Segments { segment, partial }
                }
            }
        }
    }
}

/// The header of a frame whose checksum is left to the receiver.
fn partial_header(transport: Transport, l4: u16, shift: i16) -> VnetHeader {
    VnetHeader {
        flags: vnet::NEEDS_CSUM,
        csum_start: l4.saturating_add_signed(shift),
        csum_offset: transport.checksum_offset(),
        ..VnetHeader::default()
    }
}

impl Segment {
    /// How many frames the cut makes: at least 2, at most 304.
    pub fn count(&self) -> u32 {
        let payload = self
            .headers
            .end
            .saturating_sub(u32::from(self.headers.payload));
        payload.div_ceil(u32::from(self.size).max(1))
    }

    /// Bytes of the frame's headers, Ethernet to L4: what [`Segmenter::partial`] reads.
    pub fn header_len(&self) -> usize {
        self.headers.payload.into()
    }

    /// Bytes of the IP packet of each segment but the last: what an MTU is held against.
    pub fn packet_len(&self) -> u32 {
        let headers = self.headers.payload.saturating_sub(self.headers.l3);
        u32::from(headers).saturating_add(self.size.into())
    }

    /// Payload bytes of each segment but the last.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// How many bytes these frames have together.
    pub fn bytes(&self) -> u32 {
        let more = self.count().saturating_sub(1);
        self.headers
            .end
            .saturating_add(more.saturating_mul(self.headers.payload.into()))
    }

    /// The features without which a receiver may not see the frame whole (VIRTIO 1.2, 5.1.6.4.1).
    fn receiver_needs(&self) -> u64 {
        let kind = match (self.headers.family, self.headers.transport) {
            (Family::V4, Transport::Tcp) => features::VIRTIO_NET_F_GUEST_TSO4,
            (Family::V6, Transport::Tcp) => features::VIRTIO_NET_F_GUEST_TSO6,
            (Family::V4, Transport::Udp) => features::VIRTIO_NET_F_GUEST_USO4,
            (Family::V6, Transport::Udp) => features::VIRTIO_NET_F_GUEST_USO6,
        };
        features::VIRTIO_NET_F_GUEST_CSUM
            | kind
            | if self.ecn {
                features::VIRTIO_NET_F_GUEST_ECN
            } else {
                0
            }
    }

    /// The header for a receiver that takes the frame whole.
    fn whole_header(&self, shift: i16) -> VnetHeader {
        let kind = match (self.headers.family, self.headers.transport) {
            (Family::V4, Transport::Tcp) => vnet::GSO_TCPV4,
            (Family::V6, Transport::Tcp) => vnet::GSO_TCPV6,
            (_, Transport::Udp) => vnet::GSO_UDP_L4,
        };
        VnetHeader {
            gso_type: kind | if self.ecn { vnet::GSO_ECN } else { 0 },
            gso_size: self.size,
            hdr_len: self.headers.payload.saturating_add_signed(shift),
            ..partial_header(self.headers.transport, self.headers.l4, shift)
        }
    }
}

#[cfg(test)]
mod tests;
