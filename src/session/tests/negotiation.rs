//! What is agreed before a ring runs, and how it is answered.

use super::*;

#[test]
fn features_are_told_and_taken() {
    let mut front = Front::new();
    let offered = front.ask(GET_FEATURES, PLAIN, &[], &[]);
    assert_eq!(offered, features::OFFERED);
    assert_eq!(
        front.ask(GET_PROTOCOL_FEATURES, PLAIN, &[], &[]),
        features::PROTOCOL_OFFERED
    );
    front.tell(SET_FEATURES, &offered.to_ne_bytes(), &[]);
    assert_eq!(front.session.terms().features, Some(offered));
}

#[test]
fn what_is_offered_is_what_the_documentation_says() {
    let set = |bits: &[u32]| bits.iter().fold(0u64, |set, bit| set | 1 << bit);
    let virtio = set(&[
        0, 1, 3, 7, 8, 9, 11, 12, 13, 15, 17, 21, 22, 27, 28, 29, 30, 32, 35, 54, 55, 56,
    ]);
    assert_eq!(features::OFFERED, virtio);
    // MQ, RARP, REPLY_ACK, NET_MTU, RESET_DEVICE, CONFIGURE_MEM_SLOTS, STATUS; not CONFIG (9), not INFLIGHT (12).
    assert_eq!(features::PROTOCOL_OFFERED, set(&[0, 2, 3, 4, 13, 15, 16]));
}

#[test]
fn p_23_features_that_were_not_offered_are_refused() {
    for bit in (0..64).filter(|bit| features::OFFERED & 1 << bit == 0 && *bit != 26) {
        let end = Front::new().refused(SET_FEATURES, PLAIN, &(1u64 << bit).to_ne_bytes(), &[]);
        assert!(
            matches!(
                end,
                SessionEnd::Refused {
                    refusal: Refusal::NotOffered(_),
                    ..
                }
            ),
            "{end}"
        );
        assert!(end.is_violation());
    }
    let end = Front::new().refused(
        SET_PROTOCOL_FEATURES,
        PLAIN,
        &(1u64 << 9).to_ne_bytes(),
        &[],
    );
    assert!(
        matches!(
            end,
            SessionEnd::Refused {
                refusal: Refusal::NotOffered(0x200),
                ..
            }
        ),
        "{end}"
    );
}

#[test]
fn p_23_what_belongs_to_a_protocol_feature_needs_it() {
    let without = features::PROTOCOL_OFFERED & !(1 << 15 | 1 << 2 | 1 << 4 | 1 << 13 | 1 << 16);
    for (request, body) in [
        (GET_MAX_MEM_SLOTS, vec![]),
        (ADD_MEM_REG, single([0; 4])),
        (REM_MEM_REG, single([0; 4])),
        (SEND_RARP, vec![0; 8]),
        (NET_SET_MTU, vec![0; 8]),
        (RESET_DEVICE, vec![]),
        (SET_STATUS, vec![0; 8]),
        (GET_STATUS, vec![]),
    ] {
        let mut front = Front::new();
        front.negotiate_with(VERSION_1 | PROTOCOL_BIT, without);
        let end = front.refused(request, PLAIN, &body, &[]);
        assert!(
            matches!(
                end,
                SessionEnd::Refused {
                    refusal: Refusal::NotNegotiated,
                    ..
                }
            ),
            "{end}"
        );
    }
}

#[test]
fn a_request_is_answered_once_even_if_it_asks_and_has_a_reply_of_its_own() {
    let mut front = Front::new();
    front.negotiate();
    for request in [
        GET_FEATURES,
        GET_PROTOCOL_FEATURES,
        GET_QUEUE_NUM,
        GET_MAX_MEM_SLOTS,
        GET_STATUS,
    ] {
        front.ask(request, NEED_REPLY, &[], &[]);
        assert!(
            front.reply().is_none(),
            "request {request} is answered twice"
        );
    }
    front.ask(GET_VRING_BASE, NEED_REPLY, &state(0, 0), &[]);
    assert!(front.reply().is_none());
}

#[test]
fn nothing_is_acknowledged_before_acknowledging_was_agreed() {
    let mut front = Front::new();
    front.send(SET_OWNER, NEED_REPLY, &[], &[]);
    front.step().unwrap();
    assert!(front.reply().is_none());
    // The request that agrees on it may ask itself.
    assert_eq!(
        front.ask(
            SET_PROTOCOL_FEATURES,
            NEED_REPLY,
            &REPLY_ACK.to_ne_bytes(),
            &[]
        ),
        0
    );
    assert_eq!(front.ask(SET_OWNER, NEED_REPLY, &[], &[]), 0);
}

#[test]
fn p_2_an_unknown_request_is_answered_with_non_zero_if_it_asks() {
    let known_to_others = [0, 24, 25, 27, 31, 32, 35, 41, 44];
    let known_to_nobody = (47..=255).chain([1 << 31, u32::MAX]);
    for request in known_to_others.into_iter().chain(known_to_nobody) {
        let mut front = Front::new();
        front.negotiate();
        assert_eq!(
            front.ask(request, NEED_REPLY, &[1; 12], &[]),
            1,
            "request {request}"
        );
        // The conversation goes on.
        assert_eq!(front.ask(GET_QUEUE_NUM, PLAIN, &[], &[]), 2);
        let end = front.refused(request, PLAIN, &[], &[]);
        assert!(
            matches!(
                end,
                SessionEnd::Refused {
                    refusal: Refusal::Unknown(_),
                    ..
                }
            ),
            "{end}"
        );
    }
}

#[test]
fn p_23_a_second_owner_and_a_reset_owner_do_no_harm() {
    let mut front = Front::new();
    front.negotiate();
    front.start_ring(1);
    front.tell(SET_OWNER, &[], &[]);
    assert!(front.runs(1));
    front.told();
    front.tell(RESET_OWNER, &[], &[]);
    assert_eq!(front.told(), [Told::Enable(1, false)]);
}

#[test]
fn as_many_pairs_as_there_are_and_twice_as_many_rings() {
    let mut front = Front::with(3, Limits::default());
    front.negotiate();
    assert_eq!(front.ask(GET_QUEUE_NUM, PLAIN, &[], &[]), 3);
    for index in 0..6 {
        assert_eq!(
            front.ask(SET_VRING_ENABLE, NEED_REPLY, &state(index, 1), &[]),
            0
        );
    }
    assert_eq!(
        front.ask(SET_VRING_ENABLE, NEED_REPLY, &state(6, 1), &[]),
        1
    );
}

#[test]
fn status_reads_back_what_was_set_and_features_ok_only_with_features() {
    let mut front = Front::new();
    front.tell(
        SET_PROTOCOL_FEATURES,
        &features::PROTOCOL_OFFERED.to_ne_bytes(),
        &[],
    );
    assert_eq!(front.ask(GET_STATUS, PLAIN, &[], &[]), 0);
    front.tell(SET_STATUS, &11u64.to_ne_bytes(), &[]);
    assert_eq!(front.ask(GET_STATUS, PLAIN, &[], &[]), 3);
    front.tell(SET_FEATURES, &VERSION_1.to_ne_bytes(), &[]);
    front.tell(SET_STATUS, &11u64.to_ne_bytes(), &[]);
    assert_eq!(front.ask(GET_STATUS, PLAIN, &[], &[]), 11);
    assert_eq!(
        front.ask(SET_STATUS, NEED_REPLY, &256u64.to_ne_bytes(), &[]),
        1
    );
    assert_eq!(front.ask(GET_STATUS, PLAIN, &[], &[]), 11);
}

#[test]
fn a_mac_is_announced_and_only_a_unicast_one() {
    let mut front = Front::new();
    front.negotiate();
    front.told();
    let body = |mac: [u8; 6]| [&mac[..], &[0, 0]].concat();
    front.tell(SEND_RARP, &body([0x52, 0x54, 0, 1, 2, 3]), &[]);
    assert_eq!(front.told(), [Told::Announce([0x52, 0x54, 0, 1, 2, 3])]);
    for mac in [[0; 6], [1, 0, 0, 0, 0, 1], [0xff; 6]] {
        assert_eq!(front.ask(SEND_RARP, NEED_REPLY, &body(mac), &[]), 1);
    }
    assert_eq!(front.told(), []);
}

#[test]
fn an_mtu_is_taken_up_to_the_ports_own() {
    let mut front = Front::new();
    front.negotiate();
    front.told();
    for (mtu, answer) in [
        (68u64, 0),
        (1500, 0),
        (9000, 0),
        (67, 1),
        (9001, 1),
        (1 << 32, 1),
    ] {
        assert_eq!(
            front.ask(NET_SET_MTU, NEED_REPLY, &mtu.to_ne_bytes(), &[]),
            answer,
            "{mtu}"
        );
    }
    assert_eq!(
        front.told(),
        [Told::Mtu(68), Told::Mtu(1500), Told::Mtu(9000)]
    );
}

#[test]
fn at_least_64_memory_slots_are_offered() {
    let mut front = Front::new();
    front.negotiate();
    assert!(front.ask(GET_MAX_MEM_SLOTS, PLAIN, &[], &[]) >= 64);
}
