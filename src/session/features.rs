//! The features that this switch offers, and their names.

use vhost::vhost_user::message::VhostUserProtocolFeatures as Protocol;

use crate::ring::features::*;

/// The virtio features offered to every front-end (VIRTIO 1.2, 5.1.3 and 6), with the bit that allows
/// protocol features.
///
/// Not here, and why: NOTIFY_ON_EMPTY (a legacy interrupt that no current driver asks for), GSO (bit 6; it would promise
/// every kind of segmentation, UFO too), VHOST_F_LOG_ALL (writes are not logged yet; a front-end that wants to migrate
/// must hear so), ACCESS_PLATFORM (there is no IOTLB), RING_PACKED.
/// MQ, GUEST_ANNOUNCE and CTRL_VQ describe a control queue that the front-end serves itself: they are
/// offered because a front-end masks with our offer what it then offers to the guest.
pub const OFFERED: u64 = RING_FEATURES
    | VHOST_USER_F_PROTOCOL_FEATURES
    | VIRTIO_NET_F_CSUM
    | VIRTIO_NET_F_GUEST_CSUM
    | VIRTIO_NET_F_MTU
    | VIRTIO_NET_F_GUEST_TSO4
    | VIRTIO_NET_F_GUEST_TSO6
    | VIRTIO_NET_F_GUEST_ECN
    | VIRTIO_NET_F_GUEST_USO4
    | VIRTIO_NET_F_GUEST_USO6
    | VIRTIO_NET_F_HOST_TSO4
    | VIRTIO_NET_F_HOST_TSO6
    | VIRTIO_NET_F_HOST_ECN
    | VIRTIO_NET_F_HOST_USO
    | VIRTIO_NET_F_CTRL_VQ
    | VIRTIO_NET_F_GUEST_ANNOUNCE
    | VIRTIO_NET_F_MQ;

/// Bits that concern the conversation with the front-end and not the guest's driver.
const OF_THE_FRONT_END: u64 = VHOST_USER_F_PROTOCOL_FEATURES | VHOST_F_LOG_ALL;

/// The protocol features offered (vhost-user: "Protocol features").
///
/// Not here: CONFIG (a front-end would then ask us for the MAC and the link state, which are its own), INFLIGHT_SHMFD (both
/// rings are used in order and nothing is kept in flight), LOG_SHMFD, BACKEND_REQ, PAGEFAULT.
pub const PROTOCOL_OFFERED: u64 = Protocol::MQ.bits()
    | Protocol::REPLY_ACK.bits()
    | Protocol::MTU.bits()
    | Protocol::RARP.bits()
    | Protocol::CONFIGURE_MEM_SLOTS.bits()
    | Protocol::RESET_DEVICE.bits()
    | Protocol::STATUS.bits();

/// What the guest's driver accepted, cleaned: the front-end's own bits removed, and an offload without
/// the one it needs (VIRTIO 1.2, 5.1.3.1) taken as not accepted.
///
/// MQ and GUEST_ANNOUNCE need CTRL_VQ too, but that bit is the front-end's business and it does not tell us.
#[must_use]
pub const fn effective(accepted: u64) -> u64 {
    const fn unless(features: u64, needed: u64, dependent: u64) -> u64 {
        if features & needed == 0 {
            features & !dependent
        } else {
            features
        }
    }
    const GUEST_TSO: u64 = VIRTIO_NET_F_GUEST_TSO4 | VIRTIO_NET_F_GUEST_TSO6;
    const HOST_TSO: u64 = VIRTIO_NET_F_HOST_TSO4 | VIRTIO_NET_F_HOST_TSO6;
    const GUEST_USO: u64 = VIRTIO_NET_F_GUEST_USO4 | VIRTIO_NET_F_GUEST_USO6;
    let features = accepted & !OF_THE_FRONT_END;
    let features = unless(features, VIRTIO_NET_F_GUEST_CSUM, GUEST_TSO | GUEST_USO);
    let features = unless(
        features,
        VIRTIO_NET_F_CSUM,
        HOST_TSO | VIRTIO_NET_F_HOST_USO,
    );
    let features = unless(features, GUEST_TSO, VIRTIO_NET_F_GUEST_ECN);
    unless(features, HOST_TSO, VIRTIO_NET_F_HOST_ECN)
}

const NAMES: [(u64, &str); 25] = [
    (VIRTIO_NET_F_CSUM, "csum"),
    (VIRTIO_NET_F_GUEST_CSUM, "guest-csum"),
    (VIRTIO_NET_F_MTU, "mtu"),
    (VIRTIO_NET_F_GUEST_TSO4, "guest-tso4"),
    (VIRTIO_NET_F_GUEST_TSO6, "guest-tso6"),
    (VIRTIO_NET_F_GUEST_ECN, "guest-ecn"),
    (VIRTIO_NET_F_HOST_TSO4, "host-tso4"),
    (VIRTIO_NET_F_HOST_TSO6, "host-tso6"),
    (VIRTIO_NET_F_HOST_ECN, "host-ecn"),
    (VIRTIO_NET_F_MRG_RXBUF, "mrg-rxbuf"),
    (VIRTIO_NET_F_CTRL_VQ, "ctrl-vq"),
    (VIRTIO_NET_F_GUEST_ANNOUNCE, "guest-announce"),
    (VIRTIO_NET_F_MQ, "mq"),
    (VHOST_F_LOG_ALL, "log-all"),
    (VIRTIO_F_ANY_LAYOUT, "any-layout"),
    (VIRTIO_RING_F_INDIRECT_DESC, "indirect-desc"),
    (VIRTIO_RING_F_EVENT_IDX, "event-idx"),
    (VHOST_USER_F_PROTOCOL_FEATURES, "protocol-features"),
    (VIRTIO_F_VERSION_1, "version-1"),
    (VIRTIO_F_IN_ORDER, "in-order"),
    (VIRTIO_NET_F_GUEST_USO4, "guest-uso4"),
    (VIRTIO_NET_F_GUEST_USO6, "guest-uso6"),
    (VIRTIO_NET_F_HOST_USO, "host-uso"),
    (VIRTIO_NET_F_STATUS, "status"),
    (VIRTIO_NET_F_MAC, "mac"),
];

const PROTOCOL_NAMES: [(u64, &str); 7] = [
    (Protocol::MQ.bits(), "mq"),
    (Protocol::RARP.bits(), "rarp"),
    (Protocol::REPLY_ACK.bits(), "reply-ack"),
    (Protocol::MTU.bits(), "net-mtu"),
    (Protocol::RESET_DEVICE.bits(), "reset-device"),
    (Protocol::CONFIGURE_MEM_SLOTS.bits(), "configure-mem-slots"),
    (Protocol::STATUS.bits(), "status"),
];

fn named(bits: u64, names: &[(u64, &'static str)]) -> Vec<&'static str> {
    names
        .iter()
        .filter(|(bit, _)| bits & bit != 0)
        .map(|(_, name)| *name)
        .collect()
}

/// The names of virtio features, as status shows them.
#[must_use]
pub fn names(features: u64) -> Vec<&'static str> {
    named(features, &NAMES)
}

/// The names of protocol features, as status shows them.
#[must_use]
pub fn protocol_names(features: u64) -> Vec<&'static str> {
    named(features, &PROTOCOL_NAMES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_offered_bit_has_a_name() {
        assert_eq!(names(OFFERED).len(), OFFERED.count_ones() as usize);
        assert_eq!(
            protocol_names(PROTOCOL_OFFERED).len(),
            PROTOCOL_OFFERED.count_ones() as usize
        );
    }

    #[test]
    fn an_offload_without_what_it_needs_counts_as_not_accepted() {
        let gso = VIRTIO_NET_F_GUEST_TSO4 | VIRTIO_NET_F_GUEST_ECN | VIRTIO_NET_F_GUEST_USO6;
        assert_eq!(effective(gso), 0);
        assert_eq!(
            effective(gso | VIRTIO_NET_F_GUEST_CSUM),
            gso | VIRTIO_NET_F_GUEST_CSUM
        );
        let host = VIRTIO_NET_F_HOST_TSO6 | VIRTIO_NET_F_HOST_ECN | VIRTIO_NET_F_HOST_USO;
        assert_eq!(effective(host), 0);
        assert_eq!(
            effective(host | VIRTIO_NET_F_CSUM),
            host | VIRTIO_NET_F_CSUM
        );
        assert_eq!(
            effective(VIRTIO_NET_F_CSUM | VIRTIO_NET_F_HOST_ECN),
            VIRTIO_NET_F_CSUM
        );
    }

    #[test]
    fn what_is_offered_is_whole_in_itself() {
        assert_eq!(effective(OFFERED), OFFERED & !OF_THE_FRONT_END);
    }

    #[test]
    fn the_front_ends_own_bits_do_not_reach_a_ring() {
        assert_eq!(
            effective(VHOST_F_LOG_ALL | VHOST_USER_F_PROTOCOL_FEATURES),
            0
        );
    }
}
