//! What a look ahead points to.

use super::*;

/// Most connections are in the first of their buckets, the others in the second: all are found ahead, from both sides.
#[test]
fn every_connection_is_found_ahead_from_both_sides() {
    let mut world = World::new(&TrackingSpec {
        per_port: 5000,
        half_open_per_port: 5000,
        ..spec()
    });
    let (client, server) = (v4(0), v4(1));
    let query = |n| udp((client, n), (server, 53));
    let answer = |n| udp((server, 53), (client, n));
    let opened: Vec<_> = (1..=4096u16)
        .map(|n| world.open(client, server, &query(n)).unwrap().0)
        .collect();
    let (mut right, mut wrong) = (0, 0);
    for (from, to, made) in [
        (client, server, &query as &dyn Fn(u16) -> Made),
        (server, client, &answer),
    ] {
        let packets: Vec<_> = (1..=4096).map(made).collect();
        for (packets, flows) in packets.chunks(ABREAST).zip(opened.chunks(ABREAST)) {
            let hints = world.ahead(from, to, packets);
            for (hint, flow) in hints.iter().zip(flows) {
                let slot = hint.expect("a hint").at(client.port);
                let is_right = slot.expect("in the table of the client") == flow.slot;
                *(if is_right { &mut right } else { &mut wrong }) += 1;
            }
        }
    }
    // Of two with the same tag in one bucket the first is taken for both.
    assert_eq!(right + wrong, 2 * 4096);
    assert!(wrong < 400, "{wrong}");
}

/// A hint decides nothing: whatever it points to, the same is found.
#[test]
fn a_wrong_hint_leads_nowhere_else() {
    let mut world = World::new(&spec());
    let (a, b) = (v4(0), v4(1));
    let flow = |n| udp((a, n), (b, 53));
    let first = world.open(a, b, &flow(1)).unwrap().0;
    let second = world.open(a, b, &flow(2)).unwrap().0;
    let hints = world.ahead(a, b, &[flow(1), flow(2), flow(3)]);
    let [Some(of_first), Some(of_second), None, ..] = hints[..] else {
        panic!("{hints:?}");
    };
    for (hint, n, found) in [
        (of_second, 1, Some(first)),
        (of_first, 2, Some(second)),
        (of_first, 3, None),
    ] {
        let look = world.look_near(a, b, &flow(n), Some(hint));
        assert_eq!(look.flow.map(|(flow, _)| flow), found);
    }
    assert!(world.tracker().end(first));
    let look = world.look_near(a, b, &flow(1), Some(of_first));
    assert_eq!((look.state, look.flow), (State::New, None), "it has ended");
    // Of the answers too.
    let answer = udp((b, 53), (a, 2));
    let look = world.look_near(b, a, &answer, Some(of_second));
    assert_eq!(look.flow, Some((second, Direction::Reply)));
}
