//! Feature bits of virtio-net and of virtqueues, as masks, and what they mean for a ring.
//!
//! Names and numbers are those of VIRTIO 1.2, 5.1.3 (network device), 6 (reserved bits) and 6.3
//! (legacy). vhost-user adds bit 30 (vhost-user: "Feature negotiation").

/// The device handles packets with a partial checksum (guest to host).
pub const VIRTIO_NET_F_CSUM: u64 = 1 << 0;
/// The driver handles packets with a partial checksum (host to guest).
pub const VIRTIO_NET_F_GUEST_CSUM: u64 = 1 << 1;
/// The device reports the MTU it was given.
pub const VIRTIO_NET_F_MTU: u64 = 1 << 3;
/// The device has a MAC address in its configuration.
pub const VIRTIO_NET_F_MAC: u64 = 1 << 5;
/// The driver can receive TSOv4.
pub const VIRTIO_NET_F_GUEST_TSO4: u64 = 1 << 7;
/// The driver can receive TSOv6.
pub const VIRTIO_NET_F_GUEST_TSO6: u64 = 1 << 8;
/// The driver can receive TSO with ECN.
pub const VIRTIO_NET_F_GUEST_ECN: u64 = 1 << 9;
/// The driver can receive UFO.
pub const VIRTIO_NET_F_GUEST_UFO: u64 = 1 << 10;
/// The device can receive TSOv4.
pub const VIRTIO_NET_F_HOST_TSO4: u64 = 1 << 11;
/// The device can receive TSOv6.
pub const VIRTIO_NET_F_HOST_TSO6: u64 = 1 << 12;
/// The device can receive TSO with ECN.
pub const VIRTIO_NET_F_HOST_ECN: u64 = 1 << 13;
/// The device can receive UFO.
pub const VIRTIO_NET_F_HOST_UFO: u64 = 1 << 14;
/// The driver can merge receive buffers.
pub const VIRTIO_NET_F_MRG_RXBUF: u64 = 1 << 15;
/// The configuration's status field is there.
pub const VIRTIO_NET_F_STATUS: u64 = 1 << 16;
/// There is a control virtqueue.
pub const VIRTIO_NET_F_CTRL_VQ: u64 = 1 << 17;
/// Control: receive mode.
pub const VIRTIO_NET_F_CTRL_RX: u64 = 1 << 18;
/// Control: VLAN filtering.
pub const VIRTIO_NET_F_CTRL_VLAN: u64 = 1 << 19;
/// The driver can send gratuitous packets.
pub const VIRTIO_NET_F_GUEST_ANNOUNCE: u64 = 1 << 21;
/// Several queue pairs.
pub const VIRTIO_NET_F_MQ: u64 = 1 << 22;
/// Control: the MAC address.
pub const VIRTIO_NET_F_CTRL_MAC_ADDR: u64 = 1 << 23;
/// Legacy: notify when the queue is empty, whatever the driver asked (VIRTIO 1.2, 6.3).
pub const VIRTIO_F_NOTIFY_ON_EMPTY: u64 = 1 << 24;
/// Legacy: descriptors may be cut in any way (VIRTIO 1.2, 6.3). Modern drivers always may.
pub const VIRTIO_F_ANY_LAYOUT: u64 = 1 << 27;
/// Indirect descriptor tables (VIRTIO 1.2, 2.7.5.3).
pub const VIRTIO_RING_F_INDIRECT_DESC: u64 = 1 << 28;
/// `used_event` and `avail_event` (VIRTIO 1.2, 2.7.7 and 2.7.10).
pub const VIRTIO_RING_F_EVENT_IDX: u64 = 1 << 29;
/// vhost-user: protocol features may be negotiated (`VHOST_USER_F_PROTOCOL_FEATURES`).
pub const VHOST_USER_F_PROTOCOL_FEATURES: u64 = 1 << 30;
/// vhost: log of written pages (`VHOST_F_LOG_ALL`).
pub const VHOST_F_LOG_ALL: u64 = 1 << 26;
/// Not a legacy device (VIRTIO 1.2, 6).
pub const VIRTIO_F_VERSION_1: u64 = 1 << 32;
/// An IOMMU may stand between.
pub const VIRTIO_F_ACCESS_PLATFORM: u64 = 1 << 33;
/// Packed virtqueues. Not supported here.
pub const VIRTIO_F_RING_PACKED: u64 = 1 << 34;
/// Buffers are used in the order in which they were made available (VIRTIO 1.2, 2.7.9).
pub const VIRTIO_F_IN_ORDER: u64 = 1 << 35;
/// The driver can receive USO.
pub const VIRTIO_NET_F_GUEST_USO4: u64 = 1 << 54;
/// The driver can receive USO over IPv6.
pub const VIRTIO_NET_F_GUEST_USO6: u64 = 1 << 55;
/// The device can receive USO.
pub const VIRTIO_NET_F_HOST_USO: u64 = 1 << 56;
/// The driver tells the exact header length of a GSO packet.
pub const VIRTIO_NET_F_GUEST_HDRLEN: u64 = 1 << 59;

/// What this room supports of the bits that concern every virtqueue.
///
/// `IN_ORDER` is kept by construction: both rings return heads in the order they were offered.
pub const RING_FEATURES: u64 = VIRTIO_F_VERSION_1
    | VIRTIO_F_ANY_LAYOUT
    | VIRTIO_RING_F_INDIRECT_DESC
    | VIRTIO_RING_F_EVENT_IDX
    | VIRTIO_F_IN_ORDER
    | VIRTIO_NET_F_MRG_RXBUF;

/// What the negotiated features mean for the two rings of a queue pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// Notifications are suppressed by index and not by flag.
    pub event_idx: bool,
    /// Indirect tables are allowed.
    pub indirect: bool,
    /// Buffers are returned in the order they were offered. They always are; the bit tells that the
    /// driver knows.
    pub in_order: bool,
    /// A received frame may fill several chains.
    pub mergeable: bool,
    /// Bytes of the header in front of each frame: 12, or 10 for a legacy driver without mergeable
    /// buffers (VIRTIO 1.2, 5.1.6.1).
    pub header_len: usize,
}

impl Negotiated {
    /// From the feature bits that both sides accepted.
    #[must_use]
    pub const fn from_features(features: u64) -> Self {
        Self {
            event_idx: features & VIRTIO_RING_F_EVENT_IDX != 0,
            indirect: features & VIRTIO_RING_F_INDIRECT_DESC != 0,
            in_order: features & VIRTIO_F_IN_ORDER != 0,
            mergeable: features & VIRTIO_NET_F_MRG_RXBUF != 0,
            header_len: if features & (VIRTIO_F_VERSION_1 | VIRTIO_NET_F_MRG_RXBUF) != 0 {
                12
            } else {
                10
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_short_only_for_a_legacy_driver_without_mergeable_buffers() {
        for (features, len) in [
            (0, 10),
            (VIRTIO_F_VERSION_1, 12),
            (VIRTIO_NET_F_MRG_RXBUF, 12),
            (VIRTIO_F_VERSION_1 | VIRTIO_NET_F_MRG_RXBUF, 12),
            (VIRTIO_RING_F_EVENT_IDX | VIRTIO_F_IN_ORDER, 10),
        ] {
            assert_eq!(
                Negotiated::from_features(features).header_len,
                len,
                "{features:#x}"
            );
        }
    }

    #[test]
    fn each_bit_sets_its_own_field() {
        let all = Negotiated::from_features(RING_FEATURES);
        assert!(all.event_idx && all.indirect && all.in_order && all.mergeable);
        let none = Negotiated::from_features(!RING_FEATURES);
        assert!(!none.event_idx && !none.indirect && !none.in_order && !none.mergeable);
    }
}
