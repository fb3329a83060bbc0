//! Ethernet II and IEEE 802.3 frames, without preamble and FCS, with at most one VLAN tag taken in.

use crate::counters::DropReason;

use super::layers::Layers;
use super::mac::Mac;
use super::vlan::{self, Tag};

/// Length of the header without a tag.
pub const HEADER: usize = 14;

/// The longest frame that the switch takes, in bytes: 65,535 of IP and an Ethernet header, rounded up to what
/// virtio-net drivers allow themselves for a segmented packet (VIRTIO 1.2, 5.1.6.3.1: 65,550).
pub const MAX_FRAME: u32 = 65_550;

/// EtherTypes (IANA, "IEEE 802 Numbers").
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// RARP (RFC 903), of ARP's shape.
    pub const RARP: u16 = 0x8035;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// Below this value the field is the length of an IEEE 802.3 frame and its LLC payload.
    pub const FIRST: u16 = 0x0600;
}

/// A frame: its layer 2, read and checked, over the snapshot of its first bytes.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    bytes: &'a [u8],
    dst: Mac,
    src: Mac,
    total_len: u32,
    ethertype: u16,
    /// Whether there is one; beside it and not around it, so that both stay in registers.
    is_tagged: bool,
    tag: Tag,
}

impl<'a> Frame<'a> {
    /// Reads layer 2. `snapshot` is the frame's beginning, `total_len` the length of the whole frame in bytes.
    ///
    /// # Errors
    ///
    /// [`DropReason::Runt`] when it is shorter than its header, [`DropReason::Oversize`] over [`MAX_FRAME`],
    /// [`DropReason::VlanSmuggled`] when a tag is announced and the frame ends within it.
    #[inline(always)]
    pub fn parse(snapshot: &'a [u8], total_len: u32) -> Result<Self, DropReason> {
        let bytes = snapshot.get(..total_len as usize).unwrap_or(snapshot);
        let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else {
            return Err(DropReason::Runt);
        };
        // Two words that overlap: the one begins with the destination, the other with the source and ends with the type.
        let (Some(first), Some(last)) = (header.first_chunk(), header.last_chunk()) else {
            return Err(DropReason::Runt);
        };
        let (first, last) = (u64::from_be_bytes(*first), u64::from_be_bytes(*last));
        if total_len > MAX_FRAME {
            return Err(DropReason::Oversize);
        }
        let mut frame = Self {
            bytes,
            dst: Mac::from_bits(first >> 16),
            src: Mac::from_bits(last >> 16),
            total_len,
            ethertype: (last & 0xffff) as u16,
            is_tagged: false,
            tag: Tag::new(0, 0),
        };
        if vlan::is_tpid(frame.ethertype) {
            let Some(&[c0, c1, e0, e1]) = rest.first_chunk::<{ vlan::TAG }>() else {
                return Err(DropReason::VlanSmuggled);
            };
            frame.is_tagged = true;
            frame.tag = Tag::new(frame.ethertype, u16::from_be_bytes([c0, c1]));
            frame.ethertype = u16::from_be_bytes([e0, e1]);
        }
        Ok(frame)
    }

    /// The destination address.
    pub fn dst(&self) -> Mac {
        self.dst
    }

    /// The source address.
    pub fn src(&self) -> Mac {
        self.src
    }

    /// The outermost VLAN tag.
    pub fn tag(&self) -> Option<Tag> {
        self.is_tagged.then_some(self.tag)
    }

    /// The type behind the outermost tag, or the length of an 802.3 frame when it is below [`ethertype::FIRST`].
    pub fn ethertype(&self) -> u16 {
        self.ethertype
    }

    /// Whether there is another tag behind the outermost.
    pub fn is_stacked(&self) -> bool {
        self.is_tagged && vlan::is_tpid(self.ethertype)
    }

    /// Where layer 3 begins: 14, or 18 behind a tag.
    pub fn l3_offset(&self) -> usize {
        if self.is_tagged {
            HEADER + vlan::TAG
        } else {
            HEADER
        }
    }

    /// Length of the whole frame in bytes.
    pub fn total_len(&self) -> u32 {
        self.total_len
    }

    /// The snapshot of the frame's first bytes; never longer than the frame.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether the snapshot holds the whole frame.
    pub fn is_whole(&self) -> bool {
        self.bytes.len() >= self.total_len as usize
    }

    /// Reads the deeper layers, as far as the snapshot shows them.
    pub fn layers(&self) -> Layers<'a> {
        Layers::parse(self)
    }
}
