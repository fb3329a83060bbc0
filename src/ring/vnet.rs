//! The virtio-net header (VIRTIO 1.2, 5.1.6) as a plain value.
//!
//! Promised to `datapath`: [`VnetHeader::parse`] only turns private bytes into fields and judges
//! nothing; [`VnetHeader::encode`] writes exactly the fields it was given. What of a sender's header
//! may reach a receiver is decided in `datapath::offload`, which builds a new one: a header that came
//! from a guest is never forwarded (HOSTILE cases H-1 to H-8).
//!
//! All fields are little-endian (VERSION_1; a legacy guest on a little-endian machine agrees).
//!
//! ```text
//! offset  0      1         2        4         6           8            10
//!         flags  gso_type  hdr_len  gso_size  csum_start  csum_offset  num_buffers
//! ```
//!
//! The 10-byte form, without `num_buffers`, is used when neither VERSION_1 nor MRG_RXBUF was
//! negotiated; else there are 12 bytes, in both directions (VIRTIO 1.2, 5.1.6.1). HASH_REPORT, which
//! would make it 20, is never offered.

/// Bytes of the header when neither VERSION_1 nor MRG_RXBUF was negotiated.
pub const LEGACY_LEN: usize = 10;
/// Bytes of the header in every other case.
pub const LEN: usize = 12;

/// `flags`: the checksum must still be completed from `csum_start` on (`VIRTIO_NET_HDR_F_NEEDS_CSUM`).
pub const NEEDS_CSUM: u8 = 1;
/// `flags`: the device found the checksum correct (`VIRTIO_NET_HDR_F_DATA_VALID`). We check no
/// checksum, so we never say this.
pub const DATA_VALID: u8 = 2;
/// `flags`: coalescing information is present (`VIRTIO_NET_HDR_F_RSC_INFO`). Never offered.
pub const RSC_INFO: u8 = 4;

/// `gso_type`: one frame, not to be cut.
pub const GSO_NONE: u8 = 0;
/// `gso_type`: TCP over IPv4.
pub const GSO_TCPV4: u8 = 1;
/// `gso_type`: UDP fragmentation (UFO). Never offered.
pub const GSO_UDP: u8 = 3;
/// `gso_type`: TCP over IPv6.
pub const GSO_TCPV6: u8 = 4;
/// `gso_type`: UDP segmentation (USO), either family.
pub const GSO_UDP_L4: u8 = 5;
/// Bit of `gso_type`: the TCP header carries CWR (RFC 3168), which belongs to the first segment only.
pub const GSO_ECN: u8 = 0x80;

/// A virtio-net header. The default is the header of a whole frame that needs nothing: all zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// [`NEEDS_CSUM`], [`DATA_VALID`], [`RSC_INFO`].
    pub flags: u8,
    /// One of the `GSO_` types, perhaps with [`GSO_ECN`].
    pub gso_type: u8,
    /// Bytes of all headers of a frame to be cut, from the Ethernet header to the end of L4's.
    pub hdr_len: u16,
    /// Payload bytes of each segment (the last may have fewer).
    pub gso_size: u16,
    /// Where the checksum starts, in bytes from the Ethernet header.
    pub csum_start: u16,
    /// Where its field lies, in bytes from `csum_start`.
    pub csum_offset: u16,
    /// RX chains that the frame takes; written by us only, and at least 1 on the wire.
    pub num_buffers: u16,
}

impl VnetHeader {
    /// The header of a whole frame that needs nothing: the default.
    pub const PLAIN: Self = Self {
        flags: 0,
        gso_type: GSO_NONE,
        hdr_len: 0,
        gso_size: 0,
        csum_start: 0,
        csum_offset: 0,
        num_buffers: 0,
    };

    /// Reads the header in front of a guest's frame. `num_buffers` means nothing in that direction
    /// (VIRTIO 1.2, 5.1.6.2.1), so it is not read and stays 0 (H-4).
    pub const fn parse(bytes: &[u8; LEGACY_LEN]) -> Self {
        let [flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1] = *bytes;
        Self {
            flags,
            gso_type,
            hdr_len: u16::from_le_bytes([h0, h1]),
            gso_size: u16::from_le_bytes([g0, g1]),
            csum_start: u16::from_le_bytes([s0, s1]),
            csum_offset: u16::from_le_bytes([o0, o1]),
            num_buffers: 0,
        }
    }

    /// Whether it asks for anything: a checksum, or a cut.
    #[inline]
    pub const fn asks(&self) -> bool {
        self.gso_type != GSO_NONE || self.flags & NEEDS_CSUM != 0
    }

    /// The wire form. A receiver with the 10-byte header is given the first [`LEGACY_LEN`] bytes.
    pub const fn encode(&self) -> [u8; LEN] {
        let [h0, h1] = self.hdr_len.to_le_bytes();
        let [g0, g1] = self.gso_size.to_le_bytes();
        let [s0, s1] = self.csum_start.to_le_bytes();
        let [o0, o1] = self.csum_offset.to_le_bytes();
        let [n0, n1] = self.num_buffers.to_le_bytes();
        [
            self.flags,
            self.gso_type,
            h0,
            h1,
            g0,
            g1,
            s0,
            s1,
            o0,
            o1,
            n0,
            n1,
        ]
    }

    /// The same header for a frame that takes `buffers` RX chains.
    #[must_use]
    pub const fn with_buffers(self, buffers: u16) -> Self {
        Self {
            num_buffers: buffers,
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fields_lie_where_the_specification_puts_them() {
        let header = VnetHeader {
            flags: NEEDS_CSUM,
            gso_type: GSO_TCPV4 | GSO_ECN,
            hdr_len: 0x0302,
            gso_size: 0x0504,
            csum_start: 0x0706,
            csum_offset: 0x0908,
            num_buffers: 0x0b0a,
        };
        assert_eq!(header.encode(), [1, 0x81, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    }

    #[test]
    fn a_frame_that_needs_nothing_has_a_header_of_zeros() {
        assert_eq!(VnetHeader::default().encode(), [0; LEN]);
        assert_eq!(VnetHeader::default().with_buffers(3).encode()[10..], [3, 0]);
    }

    proptest! {
        #[test]
        fn parse_undoes_encode(bytes in any::<[u8; LEGACY_LEN]>()) {
            let header = VnetHeader::parse(&bytes);
            prop_assert_eq!(&header.encode()[..LEGACY_LEN], &bytes[..]);
            prop_assert_eq!(header.num_buffers, 0);
        }
    }
}
