//! Numbers and layouts of VIRTIO 1.2 and of the vhost-user protocol, as this side reads them.

/// Device features, as masks (VIRTIO 1.2, 5.1.3 and 6; `PROTOCOL_FEATURES` and `LOG_ALL` are vhost-user's).
pub mod feature {
    /// Device handles packets with partial checksum.
    pub const CSUM: u64 = 1 << 0;
    /// Driver handles packets with partial checksum.
    pub const GUEST_CSUM: u64 = 1 << 1;
    /// Device reports a maximum MTU.
    pub const MTU: u64 = 1 << 3;
    /// Device has a MAC address.
    pub const MAC: u64 = 1 << 5;
    /// Driver can receive TSOv4.
    pub const GUEST_TSO4: u64 = 1 << 7;
    /// Driver can receive TSOv6.
    pub const GUEST_TSO6: u64 = 1 << 8;
    /// Driver can receive TSO with ECN.
    pub const GUEST_ECN: u64 = 1 << 9;
    /// Driver can receive UFO.
    pub const GUEST_UFO: u64 = 1 << 10;
    /// Device can receive TSOv4.
    pub const HOST_TSO4: u64 = 1 << 11;
    /// Device can receive TSOv6.
    pub const HOST_TSO6: u64 = 1 << 12;
    /// Device can receive TSO with ECN.
    pub const HOST_ECN: u64 = 1 << 13;
    /// Device can receive UFO.
    pub const HOST_UFO: u64 = 1 << 14;
    /// Driver can merge receive buffers.
    pub const MRG_RXBUF: u64 = 1 << 15;
    /// Configuration status field is available.
    pub const NET_STATUS: u64 = 1 << 16;
    /// Control channel is available.
    pub const CTRL_VQ: u64 = 1 << 17;
    /// Driver can send gratuitous packets.
    pub const GUEST_ANNOUNCE: u64 = 1 << 21;
    /// Device supports several queue pairs.
    pub const MQ: u64 = 1 << 22;
    /// Legacy: the driver is told when the avail ring is empty.
    pub const NOTIFY_ON_EMPTY: u64 = 1 << 24;
    /// vhost: log all writes into guest memory.
    pub const LOG_ALL: u64 = 1 << 26;
    /// Legacy: any descriptor layout is accepted.
    pub const ANY_LAYOUT: u64 = 1 << 27;
    /// Indirect descriptors.
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// `used_event` and `avail_event`.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// vhost-user: protocol features may be negotiated.
    pub const PROTOCOL_FEATURES: u64 = 1 << 30;
    /// Not legacy.
    pub const VERSION_1: u64 = 1 << 32;
    /// Packed virtqueues.
    pub const RING_PACKED: u64 = 1 << 34;
    /// Buffers are used in the order in which they were made available.
    pub const IN_ORDER: u64 = 1 << 35;
    /// Driver can receive USO over IPv4.
    pub const GUEST_USO4: u64 = 1 << 54;
    /// Driver can receive USO over IPv6.
    pub const GUEST_USO6: u64 = 1 << 55;
    /// Device can receive USO.
    pub const HOST_USO: u64 = 1 << 56;

    /// Everything that a present-day Linux guest takes, offloads included.
    pub const MODERN: u64 = VERSION_1
        | MRG_RXBUF
        | INDIRECT_DESC
        | EVENT_IDX
        | IN_ORDER
        | MQ
        | PROTOCOL_FEATURES
        | OFFLOADS;
    /// Checksum and segmentation offloads in both directions.
    pub const OFFLOADS: u64 = CSUM
        | GUEST_CSUM
        | HOST_TSO4
        | HOST_TSO6
        | HOST_ECN
        | GUEST_TSO4
        | GUEST_TSO6
        | GUEST_ECN
        | HOST_USO
        | GUEST_USO4
        | GUEST_USO6;
    /// What lets a driver receive frames larger than its MTU.
    pub const GUEST_GSO: u64 = GUEST_TSO4 | GUEST_TSO6 | GUEST_UFO | GUEST_USO4 | GUEST_USO6;
    /// A legacy driver with nothing: the header has 10 bytes (VIRTIO 1.2, 5.1.6.1).
    pub const LEGACY: u64 = PROTOCOL_FEATURES;
}

/// Protocol features, as masks (vhost-user: protocol features).
pub mod protocol {
    /// Several queues.
    pub const MQ: u64 = 1 << 0;
    /// Dirty log in shared memory.
    pub const LOG_SHMFD: u64 = 1 << 1;
    /// SEND_RARP.
    pub const RARP: u64 = 1 << 2;
    /// NEED_REPLY and acknowledgements.
    pub const REPLY_ACK: u64 = 1 << 3;
    /// NET_SET_MTU.
    pub const MTU: u64 = 1 << 4;
    /// A channel for requests of the back-end.
    pub const BACKEND_REQ: u64 = 1 << 5;
    /// GET_CONFIG and SET_CONFIG.
    pub const CONFIG: u64 = 1 << 9;
    /// GET_INFLIGHT_FD and SET_INFLIGHT_FD.
    pub const INFLIGHT_SHMFD: u64 = 1 << 12;
    /// RESET_DEVICE.
    pub const RESET_DEVICE: u64 = 1 << 13;
    /// ADD_MEM_REG, REM_MEM_REG and GET_MAX_MEM_SLOTS.
    pub const CONFIGURE_MEM_SLOTS: u64 = 1 << 15;
    /// SET_STATUS and GET_STATUS.
    pub const STATUS: u64 = 1 << 16;
}

/// Flags of a descriptor (VIRTIO 1.2, 2.7.5).
pub mod desc_flag {
    /// The chain goes on at `next`.
    pub const NEXT: u16 = 1;
    /// The device writes this buffer; otherwise it reads it.
    pub const WRITE: u16 = 2;
    /// The buffer is a table of descriptors.
    pub const INDIRECT: u16 = 4;
}

/// Values of the network header (VIRTIO 1.2, 5.1.6).
pub mod vnet {
    /// Flag: the checksum from `csum_start` on is still to be computed.
    pub const NEEDS_CSUM: u8 = 1;
    /// Flag: the device has checked the checksum.
    pub const DATA_VALID: u8 = 2;
    /// No segmentation.
    pub const GSO_NONE: u8 = 0;
    /// TCP over IPv4.
    pub const GSO_TCPV4: u8 = 1;
    /// UDP fragmentation (removed).
    pub const GSO_UDP: u8 = 3;
    /// TCP over IPv6.
    pub const GSO_TCPV6: u8 = 4;
    /// UDP segmentation.
    pub const GSO_UDP_L4: u8 = 5;
    /// TCP with ECN, with one of the above.
    pub const GSO_ECN: u8 = 0x80;
}

/// The header in front of every frame (VIRTIO 1.2, 5.1.6: `struct virtio_net_hdr`), little-endian on the
/// ring. `num_buffers` exists only in the 12-byte form.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// Flags, see [`vnet`].
    pub flags: u8,
    /// Kind of segmentation, see [`vnet`].
    pub gso_type: u8,
    /// Length of the headers, a hint.
    pub hdr_len: u16,
    /// Payload bytes of a segment.
    pub gso_size: u16,
    /// Where the checksum begins, from the start of the frame.
    pub csum_start: u16,
    /// Where the checksum is stored, from `csum_start`.
    pub csum_offset: u16,
    /// Buffers over which a received frame is spread.
    pub num_buffers: u16,
}

impl VnetHeader {
    /// The 12-byte form; a legacy guest without MRG_RXBUF uses the first 10.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[0] = self.flags;
        bytes[1] = self.gso_type;
        bytes[2..4].copy_from_slice(&self.hdr_len.to_le_bytes());
        bytes[4..6].copy_from_slice(&self.gso_size.to_le_bytes());
        bytes[6..8].copy_from_slice(&self.csum_start.to_le_bytes());
        bytes[8..10].copy_from_slice(&self.csum_offset.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.num_buffers.to_le_bytes());
        bytes
    }

    /// Reads 10 or 12 bytes; in the 10-byte form `num_buffers` is 1.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u16::from_le_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
        Some(Self {
            flags: *bytes.first()?,
            gso_type: *bytes.get(1)?,
            hdr_len: word(2)?,
            gso_size: word(4)?,
            csum_start: word(6)?,
            csum_offset: word(8)?,
            num_buffers: if bytes.len() >= 12 { word(10)? } else { 1 },
        })
    }

    /// The length of the header that goes with `features`: 12 with VERSION_1 or MRG_RXBUF, else 10.
    #[must_use]
    pub fn len_for(features: u64) -> usize {
        if features & (feature::VERSION_1 | feature::MRG_RXBUF) == 0 {
            10
        } else {
            12
        }
    }
}
