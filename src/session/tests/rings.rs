//! When a ring starts, what it starts with, and when it stops.

use super::*;

fn start(index: usize, enabled: Enabled) -> Told {
    Told::Start {
        index,
        size: 256,
        features: VERSION_1,
        enabled,
        kicked: true,
        called: true,
    }
}

#[test]
fn a_ring_starts_when_all_was_said_and_stops_when_asked() {
    let mut front = Front::new();
    let _file = front.negotiate();
    front.start_ring(1);
    assert_eq!(
        front.told(),
        [start(1, Enabled::NotYet), Told::Enable(1, true)]
    );
    assert!(front.session.is_running());
    assert_eq!(front.ask(GET_VRING_BASE, PLAIN, &state(1, 0), &[]), 1);
    assert_eq!(front.told(), [Told::Stop(1)]);
    assert!(!front.session.is_running());
}

/// What a ring needs, in any order: the last word starts it and none before.
#[test]
fn a_ring_starts_whatever_the_order_of_its_configuration() {
    type Say = fn(&mut Front, &OwnedFd);
    const SAY: [Say; 5] = [
        |front, _| front.tell(SET_FEATURES, &(VERSION_1 | PROTOCOL_BIT).to_ne_bytes(), &[]),
        |front, file| {
            front.tell(
                SET_MEM_TABLE,
                &table(&[[GUEST, MEM, USER, 0]]),
                &[file.as_fd()],
            )
        },
        |front, _| front.tell(SET_VRING_NUM, &state(2, 256), &[]),
        |front, _| front.tell(SET_VRING_ADDR, &addr(2), &[]),
        |front, _| front.tell(SET_VRING_KICK, &2u64.to_ne_bytes(), &[event().as_fd()]),
    ];
    let file = memfd(MEM);
    let mut orders = 0;
    for code in 0..5usize.pow(5) {
        let order: Vec<usize> = (0..5).map(|place| code / 5usize.pow(place) % 5).collect();
        if (0..5).any(|item| !order.contains(&item)) {
            continue;
        }
        orders += 1;
        let mut front = Front::new();
        for item in order {
            assert!(!front.runs(2));
            SAY[item](&mut front, &file);
        }
        assert!(front.runs(2));
    }
    assert_eq!(orders, 120);
}

#[test]
fn p_23_enable_before_features_is_acted_on() {
    let mut front = Front::new();
    front.tell(SET_VRING_ENABLE, &state(0, 1), &[]);
    front.tell(SET_VRING_ENABLE, &state(1, 1), &[]);
    let _file = front.negotiate();
    front.tell(SET_VRING_NUM, &state(1, 256), &[]);
    front.tell(SET_VRING_ADDR, &addr(1), &[]);
    front.tell(SET_VRING_KICK, &1u64.to_ne_bytes(), &[event().as_fd()]);
    front.tell(SET_VRING_CALL, &1u64.to_ne_bytes(), &[event().as_fd()]);
    let started = Told::Start {
        index: 1,
        size: 256,
        features: VERSION_1,
        enabled: Enabled::Yes,
        kicked: true,
        called: false,
    };
    assert_eq!(front.told(), [started, Told::Call(1, true)]);
}

#[test]
fn without_protocol_features_a_ring_starts_enabled() {
    for (features, enabled) in [
        (VERSION_1, Enabled::Yes),
        (VERSION_1 | PROTOCOL_BIT, Enabled::NotYet),
    ] {
        let mut front = Front::new();
        let _file = front.negotiate_with(features, 0);
        front.tell(SET_VRING_CALL, &0u64.to_ne_bytes(), &[event().as_fd()]);
        front.tell(SET_VRING_KICK, &0u64.to_ne_bytes(), &[event().as_fd()]);
        front.tell(SET_VRING_NUM, &state(0, 256), &[]);
        front.tell(SET_VRING_ADDR, &addr(0), &[]);
        assert_eq!(front.told(), [start(0, enabled)]);
    }
}

/// Who says that a ring is disabled means it, whenever it is said, and until something else is.
#[test]
fn a_ring_that_was_disabled_before_its_start_starts_disabled_and_not_merely_unspoken_of() {
    for features in [VERSION_1, VERSION_1 | PROTOCOL_BIT] {
        let mut front = Front::new();
        let _file = front.negotiate_with(features, 0);
        front.tell(SET_VRING_ENABLE, &state(1, 0), &[]);
        front.tell(SET_VRING_CALL, &1u64.to_ne_bytes(), &[event().as_fd()]);
        front.tell(SET_VRING_KICK, &1u64.to_ne_bytes(), &[event().as_fd()]);
        front.tell(SET_VRING_NUM, &state(1, 256), &[]);
        front.tell(SET_VRING_ADDR, &addr(1), &[]);
        assert_eq!(front.told(), [start(1, Enabled::No)]);
        // The word stands while the ring is stopped.
        front.ask(GET_VRING_BASE, PLAIN, &state(1, 0), &[]);
        front.tell(SET_VRING_KICK, &1u64.to_ne_bytes(), &[event().as_fd()]);
        front.tell(SET_VRING_ADDR, &addr(1), &[]);
        assert_eq!(front.told(), [Told::Stop(1), start(1, Enabled::No)]);
    }
}

#[test]
fn a_ring_needs_no_call_and_no_kick_descriptor_but_a_word_about_the_kick() {
    let mut front = Front::new();
    let _file = front.negotiate();
    front.tell(SET_VRING_NUM, &state(3, 256), &[]);
    front.tell(SET_VRING_ADDR, &addr(3), &[]);
    front.tell(SET_VRING_CALL, &0x103u64.to_ne_bytes(), &[]);
    assert!(!front.runs(3));
    front.tell(SET_VRING_KICK, &0x103u64.to_ne_bytes(), &[]);
    let started = Told::Start {
        index: 3,
        size: 256,
        features: VERSION_1,
        enabled: Enabled::NotYet,
        kicked: false,
        called: false,
    };
    assert_eq!(front.told(), [started]);
}

#[test]
fn p_22_after_get_vring_base_only_a_whole_new_configuration_starts_a_ring() {
    let mut front = Front::new();
    let _file = front.negotiate();
    front.start_ring(1);
    front.ask(GET_VRING_BASE, PLAIN, &state(1, 0), &[]);
    front.told();
    front.tell(SET_VRING_ENABLE, &state(1, 1), &[]);
    front.tell(SET_VRING_KICK, &1u64.to_ne_bytes(), &[event().as_fd()]);
    front.tell(SET_VRING_NUM, &state(1, 256), &[]);
    assert_eq!(front.told(), []);
    front.tell(SET_VRING_ADDR, &addr(1), &[]);
    assert_eq!(front.told(), [start(1, Enabled::Yes)]);
}

#[test]
fn p_21_get_vring_base_answers_where_the_ring_stands_and_again_the_same() {
    let mut front = Front::new();
    let file = front.negotiate();
    // The used index of ring 1, as a switch that served before left it.
    rustix::io::pwrite(&file, &77u16.to_le_bytes(), 0x1_0000 + 0x8000 + 2).unwrap();
    // cloud-hypervisor names the available index here; buffers between the two must not be lost.
    front.tell(SET_VRING_BASE, &state(1, 99), &[]);
    assert_eq!(
        front.ask(GET_VRING_BASE, PLAIN, &state(1, 0), &[]),
        1 | 99 << 32
    );
    front.start_ring(1);
    assert_eq!(
        front.ask(GET_VRING_BASE, PLAIN, &state(1, 0), &[]),
        1 | 77 << 32
    );
    assert_eq!(
        front.ask(GET_VRING_BASE, PLAIN, &state(1, 0), &[]),
        1 | 77 << 32
    );
}

#[test]
fn p_10_a_change_of_a_running_ring_is_stop_change_start() {
    let mut front = Front::new();
    let _file = front.negotiate();
    front.start_ring(1);
    front.told();
    // The same again changes nothing.
    front.tell(SET_VRING_NUM, &state(1, 256), &[]);
    front.tell(SET_VRING_ADDR, &addr(1), &[]);
    front.tell(SET_VRING_BASE, &state(1, 5), &[]);
    assert_eq!(front.told(), []);
    front.tell(SET_VRING_NUM, &state(1, 128), &[]);
    let smaller = Told::Start {
        index: 1,
        size: 128,
        features: VERSION_1,
        enabled: Enabled::Yes,
        kicked: true,
        called: true,
    };
    assert_eq!(front.told(), [Told::Stop(1), smaller.clone()]);
    front.tell(
        SET_VRING_ADDR,
        &addr_at(1, USER + 0x2_0000, USER + 0x2_4000, USER + 0x2_8000),
        &[],
    );
    assert_eq!(front.told(), [Told::Stop(1), smaller.clone()]);
    assert_eq!(
        front.device.rings[1].as_ref().unwrap().0.layout.desc,
        GUEST + 0x2_0000
    );
    front.tell(SET_VRING_KICK, &1u64.to_ne_bytes(), &[event().as_fd()]);
    assert_eq!(front.told(), [Told::Stop(1), smaller]);
}

#[test]
fn p_23_log_all_may_be_switched_on_and_off_under_a_running_ring() {
    let mut front = Front::new();
    let _file = front.negotiate();
    front.start_ring(1);
    front.told();
    let agreed = VERSION_1 | PROTOCOL_BIT;
    for features in [agreed | 1 << 26, agreed, agreed | 1 << 26] {
        assert_eq!(
            front.ask(SET_FEATURES, NEED_REPLY, &features.to_ne_bytes(), &[]),
            0
        );
        assert_eq!(front.told(), []);
        assert_eq!(front.session.terms().features, Some(features));
    }
}

#[test]
fn other_features_restart_what_runs() {
    let mut front = Front::new();
    let _file = front.negotiate();
    front.start_ring(0);
    front.start_ring(1);
    front.told();
    front.tell(
        SET_FEATURES,
        &(1u64 << 15 | PROTOCOL_BIT).to_ne_bytes(),
        &[],
    );
    let restarted = |index| Told::Start {
        index,
        size: 256,
        features: 1 << 15,
        enabled: Enabled::Yes,
        kicked: true,
        called: true,
    };
    assert_eq!(
        front.told(),
        [Told::Stop(0), Told::Stop(1), restarted(0), restarted(1)]
    );
}

#[test]
fn a_reset_stops_all_and_keeps_the_memory() {
    let mut front = Front::new();
    let _file = front.negotiate();
    front.start_ring(0);
    front.start_ring(1);
    front.told();
    front.tell(RESET_DEVICE, &[], &[]);
    assert_eq!(front.told(), [Told::Stop(0), Told::Stop(1), Told::Reset]);
    assert_eq!(front.session.terms().features, None);
    front.tell(SET_FEATURES, &(VERSION_1 | PROTOCOL_BIT).to_ne_bytes(), &[]);
    front.start_ring(1);
    assert!(front.runs(1) && !front.runs(0));
}

/// QEMU sets status 0 when the guest's driver goes, before or after it stops the rings.
#[test]
fn status_zero_stops_the_rings_and_their_base_can_still_be_asked() {
    let mut front = Front::new();
    let file = front.negotiate();
    rustix::io::pwrite(&file, &7u16.to_le_bytes(), 0x1_0000 + 0x8000 + 2).unwrap();
    front.start_ring(1);
    front.told();
    front.tell(SET_STATUS, &0u64.to_ne_bytes(), &[]);
    assert_eq!(front.told(), [Told::Stop(1)]);
    assert_eq!(
        front.ask(GET_VRING_BASE, PLAIN, &state(1, 0), &[]),
        1 | 7 << 32
    );
    front.start_ring(1);
    assert!(front.runs(1));
}

#[test]
fn a_session_that_ends_stops_its_rings() {
    let mut front = Front::new();
    let _file = front.negotiate();
    front.start_ring(0);
    front.start_ring(3);
    front.told();
    front.stream.shutdown(std::net::Shutdown::Both).unwrap();
    assert!(matches!(front.step(), Err(SessionEnd::Closed)));
    front.session.close(&mut front.device);
    assert_eq!(front.told(), [Told::Stop(0), Told::Stop(3)]);
}

#[test]
fn an_error_descriptor_is_kept_through_a_restart_and_may_be_taken_back() {
    let mut front = Front::new();
    let _file = front.negotiate();
    let err = event();
    front.tell(SET_VRING_ERR, &1u64.to_ne_bytes(), &[err.as_fd()]);
    front.start_ring(1);
    let kept = |front: &Front| front.device.rings[1].as_ref().unwrap().0.err.is_some();
    assert!(kept(&front));
    front.told();
    front.tell(SET_VRING_ERR, &0x101u64.to_ne_bytes(), &[]);
    assert_eq!(front.told(), [Told::Err(1, false)]);
    front.tell(SET_VRING_ERR, &1u64.to_ne_bytes(), &[err.as_fd()]);
    assert_eq!(front.told(), [Told::Err(1, true)]);
    front.ask(GET_VRING_BASE, PLAIN, &state(1, 0), &[]);
    front.start_ring(1);
    assert!(kept(&front), "forgotten by GET_VRING_BASE");
}
