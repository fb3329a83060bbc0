//! Values that no honest front-end sends, and sequences that none thinks of.

use proptest::prelude::*;

use super::*;

#[test]
fn p_8_ring_indices_at_and_past_the_end() {
    let event = event();
    for index in [4u32, 5, 127, 128, 254, 255] {
        let mut front = Front::new();
        front.negotiate();
        let number = u64::from(index).to_ne_bytes();
        for request in [SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR] {
            assert_eq!(front.ask(request, NEED_REPLY, &number, &[event.as_fd()]), 1);
        }
    }
    for index in [4u32, 255, 256, 1 << 16, 1 << 31, u32::MAX] {
        let mut front = Front::new();
        let _file = front.negotiate();
        assert_eq!(
            front.ask(SET_VRING_NUM, NEED_REPLY, &state(index, 256), &[]),
            1
        );
        assert_eq!(
            front.ask(SET_VRING_BASE, NEED_REPLY, &state(index, 0), &[]),
            1
        );
        assert_eq!(
            front.ask(SET_VRING_ENABLE, NEED_REPLY, &state(index, 1), &[]),
            1
        );
        let at = addr_at(index, USER, USER + 0x4000, USER + 0x8000);
        assert_eq!(front.ask(SET_VRING_ADDR, NEED_REPLY, &at, &[]), 1);
        let end = front.refused(GET_VRING_BASE, NEED_REPLY, &state(index, 0), &[]);
        assert!(
            matches!(
                end,
                SessionEnd::Refused {
                    refusal: Refusal::NoSuchRing { .. },
                    ..
                }
            ),
            "{end}"
        );
    }
}

#[test]
fn p_9_only_powers_of_two_from_2_to_32768_are_sizes() {
    let mut front = Front::with(1, Limits::default());
    let _file = front.negotiate();
    for size in [
        0u32,
        1,
        3,
        6,
        255,
        32767,
        32769,
        65535,
        65536,
        65538,
        1 << 31,
        u32::MAX,
    ] {
        assert_eq!(
            front.ask(SET_VRING_NUM, NEED_REPLY, &state(1, size), &[]),
            1,
            "{size}"
        );
        // A guest can ask its front-end for such a size: it costs the ring and not the connection.
        front.tell(SET_VRING_NUM, &state(1, size), &[]);
    }
    for size in (1..=15).map(|power| 1u32 << power) {
        assert_eq!(
            front.ask(SET_VRING_NUM, NEED_REPLY, &state(1, size), &[]),
            0,
            "{size}"
        );
    }
}

#[test]
fn p_9_a_running_ring_that_gets_a_bad_size_stops() {
    let mut front = Front::new();
    let _file = front.negotiate();
    front.start_ring(1);
    front.told();
    front.tell(SET_VRING_NUM, &state(1, 300), &[]);
    assert_eq!(front.told(), [Told::Stop(1)]);
    assert!(front.session.problems().next().unwrap().1.contains("300"));
    front.tell(SET_VRING_NUM, &state(1, 256), &[]);
    assert!(front.runs(1));
    assert_eq!(front.session.problems().count(), 0);
}

#[test]
fn p_11_ring_addresses_that_do_not_make_a_ring() {
    let end = USER + MEM;
    let (desc, avail, used) = (USER, USER + 0x4000, USER + 0x8000);
    for (what, at) in [
        ("descriptors unaligned", [desc + 8, avail, used]),
        ("available ring unaligned", [desc, avail + 1, used]),
        ("used ring unaligned", [desc, avail, used + 2]),
        ("descriptors in no region", [end + 0x1000, avail, used]),
        ("available ring in no region", [desc, 0, used]),
        ("used ring in no region", [desc, avail, USER - 4]),
        (
            "last byte of the descriptors outside",
            [end - 4096 + 16, avail, used],
        ),
        (
            "last byte of the available ring outside",
            [desc, end - 512, used],
        ),
        (
            "last byte of the used ring outside",
            [desc, avail, end - 2048],
        ),
        ("descriptors wrap", [u64::MAX - 15, avail, used]),
        ("used ring wraps", [desc, avail, u64::MAX - 3]),
        ("all in one place", [desc, desc, desc]),
        ("used ring on the descriptors", [desc, avail, desc + 64]),
        ("available ring on the used ring", [desc, used + 4, used]),
    ] {
        let mut front = Front::new();
        let _file = front.negotiate();
        front.start_ring(1);
        front.told();
        let [desc, avail, used] = at;
        let body = addr_at(1, desc, avail, used);
        assert_eq!(
            front.ask(SET_VRING_ADDR, NEED_REPLY, &body, &[]),
            1,
            "{what}"
        );
        assert_eq!(front.told(), [Told::Stop(1)], "{what}");
        assert_eq!(front.session.problems().count(), 1, "{what}");
        // Not asked: the ring is stopped all the same and the connection stays.
        front.tell(SET_VRING_ADDR, &body, &[]);
        assert!(!front.runs(1), "{what}");
        front.tell(SET_VRING_ADDR, &addr(1), &[]);
        assert!(front.runs(1), "{what}");
    }
}

#[test]
fn p_11_a_ring_across_two_regions_is_refused() {
    let file = memfd(2 * MEM);
    let mut front = Front::new();
    front.negotiate();
    let two = table(&[[GUEST, MEM, USER, 0], [GUEST + MEM, MEM, USER + MEM, MEM]]);
    front.tell(SET_MEM_TABLE, &two, &[file.as_fd(); 2]);
    front.start_ring(1);
    let across = addr_at(1, USER + MEM - 2048, USER, USER + 0x4000);
    assert_eq!(front.ask(SET_VRING_ADDR, NEED_REPLY, &across, &[]), 1);
    assert!(!front.runs(1));
    let apart = addr_at(1, USER + MEM, USER, USER + 0x4000);
    assert_eq!(front.ask(SET_VRING_ADDR, NEED_REPLY, &apart, &[]), 0);
    assert!(front.runs(1));
}

#[test]
fn p_7_only_eventfds_are_kicks_and_calls() {
    let (pipe, _other) = rustix::pipe::pipe().unwrap();
    let null = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    let memory = memfd(4096);
    let mut front = Front::new();
    let _file = front.negotiate();
    for fd in [&pipe, &null, &memory] {
        for request in [SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR] {
            assert_eq!(
                front.ask(request, NEED_REPLY, &0u64.to_ne_bytes(), &[fd.as_fd()]),
                1
            );
        }
    }
    let event = event();
    let region = table(&[[GUEST, 4096, USER, 0]]);
    assert_eq!(
        front.ask(SET_MEM_TABLE, NEED_REPLY, &region, &[event.as_fd()]),
        1
    );
    assert_eq!(
        front.ask(SET_MEM_TABLE, NEED_REPLY, &region, &[null.as_fd()]),
        1
    );
}

#[test]
fn p_24_a_second_kick_or_call_takes_the_place_of_the_first() {
    let mut front = Front::new();
    let _file = front.negotiate();
    front.start_ring(1);
    let (kick, call) = {
        let setup = &front.device.rings[1].as_ref().unwrap().0;
        (
            Arc::downgrade(setup.kick.as_ref().unwrap()),
            Arc::downgrade(setup.call.as_ref().unwrap()),
        )
    };
    front.tell(SET_VRING_KICK, &1u64.to_ne_bytes(), &[event().as_fd()]);
    assert!(kick.upgrade().is_none(), "the old kick is still open");
    front.told();
    front.tell(SET_VRING_CALL, &1u64.to_ne_bytes(), &[event().as_fd()]);
    assert_eq!(front.told(), [Told::Call(1, true)]);
    front.tell(SET_VRING_KICK, &0x101u64.to_ne_bytes(), &[]);
    assert!(front.device.rings[1].as_ref().unwrap().0.kick.is_none());
    assert!(call.upgrade().is_none(), "the old call is still open");
}

/// One request of a random conversation.
#[derive(Clone, Debug)]
struct Said {
    request: u32,
    flags: u32,
    body: Vec<u8>,
    fds: Vec<u8>,
}

fn a_number() -> impl Strategy<Value = u32> {
    prop_oneof![0u32..6, Just(256), Just(128), Just(300), any::<u32>()]
}

fn an_address() -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => (0u64..64).prop_map(|page| USER + page * 0x1000),
        1 => Just(USER + MEM),
        1 => any::<u64>(),
    ]
}

fn a_region() -> impl Strategy<Value = [u64; 4]> {
    let whole = Just([GUEST, MEM, USER, 0]);
    let half = Just([GUEST + MEM, MEM / 2, USER + MEM, MEM / 2]);
    prop_oneof![4 => whole, 2 => half, 1 => any::<[u64; 4]>()]
}

fn a_body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(vec![]),
        any::<u64>().prop_map(|value| value.to_ne_bytes().to_vec()),
        (0u64..0x104).prop_map(|value| value.to_ne_bytes().to_vec()),
        Just((VERSION_1 | PROTOCOL_BIT).to_ne_bytes().to_vec()),
        Just(features::PROTOCOL_OFFERED.to_ne_bytes().to_vec()),
        (0u32..5, a_number()).prop_map(|(index, number)| state(index, number)),
        (0u32..5).prop_map(addr),
        (0u32..5, an_address(), an_address(), an_address())
            .prop_map(|(i, d, a, u)| addr_at(i, d, a, u)),
        prop::collection::vec(a_region(), 0..3).prop_map(|regions| table(&regions)),
        a_region().prop_map(single),
        prop::collection::vec(any::<u8>(), 0..64),
    ]
}

fn a_request() -> impl Strategy<Value = Said> {
    let request = prop_oneof![9 => 1u32..21, 3 => 33u32..42, 1 => any::<u32>()];
    let flags = prop_oneof![8 => Just(NEED_REPLY), 3 => Just(PLAIN), 1 => any::<u32>()];
    let fds = prop_oneof![
        6 => Just(vec![]),
        4 => Just(vec![0]),
        4 => Just(vec![1]),
        1 => prop::collection::vec(0u8..3, 0..4),
    ];
    (request, flags, a_body(), fds).prop_map(|(request, flags, body, fds)| Said {
        request,
        flags,
        body,
        fds,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// P-36 in small: whatever is said in whatever order, the device sees no ring started twice, none stopped
    /// that does not run (the mock asserts both), and none left running at the end.
    #[test]
    fn p_36_random_conversations(said in prop::collection::vec(a_request(), 1..80)) {
        let things = [memfd(2 * MEM), event(), OwnedFd::from(std::fs::File::open("/dev/null").unwrap())];
        let mut front = Front::new();
        let _file = front.negotiate();
        front.start_ring(0);
        front.start_ring(1);
        for one in said {
            let fds: Vec<BorrowedFd<'_>> = one.fds.iter().map(|n| things[usize::from(*n)].as_fd()).collect();
            front.send(one.request, one.flags, &one.body, &fds);
            if front.step().is_err() {
                // A new connection of the same front-end to the same device.
                front.session.close(&mut front.device);
                prop_assert!(front.device.rings.iter().all(Option::is_none));
                let mut next = Front::new();
                std::mem::swap(&mut next.device, &mut front.device);
                front = next;
                front.negotiate();
                front.start_ring(1);
            }
            while front.reply().is_some() {}
        }
        front.session.close(&mut front.device);
        prop_assert!(front.device.rings.iter().all(Option::is_none));
        prop_assert!(!front.session.is_running());
    }
}
