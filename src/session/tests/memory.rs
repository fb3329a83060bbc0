//! What is shared, and how it changes under running rings.

use super::*;

fn reason(end: SessionEnd) -> Refusal {
    match end {
        SessionEnd::Refused { refusal, .. } => refusal,
        other => panic!("{other}"),
    }
}

#[test]
fn p_12_a_file_shorter_than_its_region_is_refused() {
    for (size, region) in [
        (0, [GUEST, MEM, USER, 0]),
        (MEM - 4096, [GUEST, MEM, USER, 0]),
        (MEM, [GUEST, MEM, USER, 4096]),
    ] {
        let file = memfd(size);
        let mut front = Front::new();
        front.negotiate();
        let whole = [
            region[0] + (1 << 30),
            region[1],
            region[2] + (1 << 30),
            region[3],
        ];
        assert_eq!(
            front.ask(ADD_MEM_REG, NEED_REPLY, &single(whole), &[file.as_fd()]),
            1
        );
        assert_eq!(front.session.terms().regions, 1);
        let end = front.refused(SET_MEM_TABLE, PLAIN, &table(&[region]), &[file.as_fd()]);
        assert!(matches!(reason(end), Refusal::Map(_)));
    }
}

#[test]
fn p_18_numbers_of_regions() {
    let file = memfd(MEM);
    let regions = |count: u64| -> Vec<[u64; 4]> {
        (0..count)
            .map(|n| [GUEST + n * 0x1000, 0x1000, USER + n * 0x1000, n * 0x1000])
            .collect()
    };
    let mut front = Front::new();
    front.negotiate();
    assert_eq!(front.ask(SET_MEM_TABLE, NEED_REPLY, &table(&[]), &[]), 1);
    let fds = [file.as_fd(); 65];
    for (count, answer) in [(1, 0), (8, 0), (64, 0), (65, 1)] {
        let (body, fds) = (
            table(&regions(count)),
            &fds[..usize::try_from(count).unwrap().min(64)],
        );
        assert_eq!(
            front.ask(SET_MEM_TABLE, NEED_REPLY, &body, fds),
            answer,
            "{count}"
        );
    }
    assert_eq!(front.session.terms().regions, 64);
}

#[test]
fn p_18_slots_end_where_it_was_said() {
    let file = memfd(MEM);
    let mut front = Front::with(
        1,
        Limits {
            regions: 70,
            bytes: 1 << 30,
        },
    );
    front.negotiate();
    assert_eq!(front.ask(GET_MAX_MEM_SLOTS, PLAIN, &[], &[]), 70);
    let mut add = |n: u64| {
        let region = single([GUEST + n * MEM, MEM, USER + n * MEM, 0]);
        front.ask(ADD_MEM_REG, NEED_REPLY, &region, &[file.as_fd()])
    };
    assert!((1..70).all(|n| add(n) == 0));
    assert_eq!(add(70), 1);
}

#[test]
fn p_18_regions_that_are_nonsense_are_refused_and_leave_the_old_table() {
    let file = memfd(4 * MEM);
    for regions in [
        vec![
            [GUEST, MEM, USER, 0],
            [GUEST + MEM / 2, MEM, USER + 8 * MEM, 0],
        ],
        vec![
            [GUEST, MEM, USER, 0],
            [GUEST + 8 * MEM, MEM, USER + MEM / 2, 0],
        ],
        vec![[GUEST, MEM, USER, 0], [GUEST, MEM, USER, 0]],
        vec![[u64::MAX - MEM + 1, 2 * MEM, USER, 0]],
        vec![[GUEST, 2 * MEM, u64::MAX - MEM + 1, 0]],
        vec![[GUEST, MEM, USER, u64::MAX - 4095]],
        vec![[GUEST, 0, USER, 0]],
        vec![[GUEST, MEM - 1, USER, 0]],
        vec![[GUEST, 1 << 62, USER, 0]],
    ] {
        let mut front = Front::new();
        let _file = front.negotiate();
        front.start_ring(1);
        front.told();
        let fds = vec![file.as_fd(); regions.len()];
        assert_eq!(
            front.ask(SET_MEM_TABLE, NEED_REPLY, &table(&regions), &fds),
            1,
            "{regions:x?}"
        );
        assert_eq!(front.told(), [], "{regions:x?}");
        assert!(front.runs(1));
    }
    let adjacent = [[GUEST, MEM, USER, 0], [GUEST + MEM, MEM, USER + MEM, MEM]];
    let mut front = Front::new();
    front.tell(SET_MEM_TABLE, &table(&adjacent), &[file.as_fd(); 2]);
    assert_eq!(front.session.terms().bytes, 2 * MEM);
}

/// QEMU 7.2 with several queue pairs says everything about memory once for each pair.
#[test]
fn p_19_repeated_additions_and_removals_are_taken() {
    let mut front = Front::new();
    front.tell(
        SET_PROTOCOL_FEATURES,
        &features::PROTOCOL_OFFERED.to_ne_bytes(),
        &[],
    );
    front.tell(SET_FEATURES, &(VERSION_1 | PROTOCOL_BIT).to_ne_bytes(), &[]);
    let file = memfd(2 * MEM);
    let low = single([GUEST, MEM, USER, 0]);
    let high = single([GUEST + MEM, MEM, USER + MEM, MEM]);
    for _pair in 0..3 {
        for region in [&low, &high] {
            assert_eq!(
                front.ask(ADD_MEM_REG, NEED_REPLY, region, &[file.as_fd()]),
                0
            );
        }
    }
    assert_eq!(front.session.terms().regions, 2);
    front.start_ring(1);
    front.told();
    // A repetition does not disturb what runs.
    assert_eq!(front.ask(ADD_MEM_REG, NEED_REPLY, &low, &[file.as_fd()]), 0);
    assert_eq!(front.told(), []);
    for _pair in 0..3 {
        assert_eq!(front.ask(REM_MEM_REG, NEED_REPLY, &high, &[]), 0);
    }
    assert_eq!(front.session.terms().regions, 1);
    assert!(front.runs(1));
}

#[test]
fn p_19_a_part_of_a_region_cannot_be_added_or_removed() {
    let mut front = Front::new();
    let file = front.negotiate();
    for region in [
        [GUEST, MEM / 2, USER, 0],
        [GUEST + MEM / 2, MEM, USER + MEM / 2, 0],
        [GUEST, MEM, USER + MEM, 0],
        [GUEST - MEM, 4 * MEM, USER - MEM, 0],
    ] {
        assert_eq!(front.ask(REM_MEM_REG, NEED_REPLY, &single(region), &[]), 1);
        assert_eq!(
            front.ask(ADD_MEM_REG, NEED_REPLY, &single(region), &[file.as_fd()]),
            1
        );
    }
    assert_eq!(front.session.terms().regions, 1);
    // The file offset does not name a region, and a descriptor may come and is closed.
    let same = single([GUEST, MEM, USER, 0x1000]);
    assert_eq!(
        front.ask(REM_MEM_REG, NEED_REPLY, &same, &[file.as_fd()]),
        0
    );
    assert_eq!(front.session.terms().regions, 0);
}

#[test]
fn p_19_removing_the_memory_of_a_running_ring_stops_it_cleanly() {
    let mut front = Front::new();
    let file = front.negotiate();
    front.start_ring(0);
    front.start_ring(1);
    front.told();
    let region = single([GUEST, MEM, USER, 0]);
    assert_eq!(front.ask(REM_MEM_REG, NEED_REPLY, &region, &[]), 0);
    assert_eq!(front.told(), [Told::Stop(0), Told::Stop(1)]);
    // Ten thousand times there and back; the ring goes on each time.
    for _ in 0..10_000 {
        front.tell(ADD_MEM_REG, &region, &[file.as_fd()]);
        assert!(front.runs(0) && front.runs(1));
        front.tell(REM_MEM_REG, &region, &[]);
        assert!(!front.session.is_running());
    }
    assert_eq!(front.session.terms().regions, 0);
}

#[test]
fn p_20_a_new_table_is_in_place_before_the_reply() {
    let mut front = Front::new();
    let first = front.negotiate();
    front.start_ring(1);
    front.told();
    let second = memfd(MEM);
    let body = table(&[[GUEST, MEM, USER, 0]]);
    for turn in 0..1_000 {
        let file = if turn % 2 == 0 { &second } else { &first };
        let old = Arc::downgrade(&front.device.rings[1].as_ref().unwrap().0.memory);
        assert_eq!(
            front.ask(SET_MEM_TABLE, NEED_REPLY, &body, &[file.as_fd()]),
            0
        );
        let told = front.told();
        assert!(matches!(
            told.as_slice(),
            [Told::Stop(1), Told::Start { index: 1, .. }]
        ));
        assert!(
            old.upgrade().is_none(),
            "the old table is still held after the reply"
        );
    }
}

#[test]
fn a_ring_that_does_not_lie_in_the_new_table_waits_for_one_that_holds_it() {
    let mut front = Front::new();
    let file = front.negotiate();
    front.start_ring(1);
    front.told();
    let elsewhere = table(&[[GUEST + MEM, MEM, USER + MEM, 0]]);
    // The change was made, but not everything that ran runs: that is not a success.
    assert_eq!(
        front.ask(SET_MEM_TABLE, NEED_REPLY, &elsewhere, &[file.as_fd()]),
        1
    );
    assert_eq!(front.told(), [Told::Stop(1)]);
    assert_eq!(
        front
            .session
            .problems()
            .map(|(index, _)| index)
            .collect::<Vec<_>>(),
        [1]
    );
    front.tell(
        SET_MEM_TABLE,
        &table(&[[GUEST, MEM, USER, 0]]),
        &[file.as_fd()],
    );
    assert!(front.runs(1));
    assert_eq!(front.session.problems().count(), 0);
}
