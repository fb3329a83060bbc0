//! Who gets which frame: modes, groups, VLANs, learning, and what the books say of it.

use portcullis::guest::{Backing, Guest, protocol};

use crate::rig::{BROADCAST, Switch, all, expect, frame, mac, tagged};

#[test]
fn two_guests_talk_both_ways() {
    let switch = Switch::start(&[("a", ""), ("b", "")]);
    let (mut a, mut b) = (switch.guest("a", mac(1)), switch.guest("b", mac(2)));
    for number in 0..200u8 {
        a.send(&frame(mac(2), mac(1), &[number])).unwrap();
        assert_eq!(expect(&mut b).bytes, frame(mac(2), mac(1), &[number]));
        b.send(&frame(mac(1), mac(2), &[number])).unwrap();
        assert_eq!(expect(&mut a).bytes, frame(mac(1), mac(2), &[number]));
    }
    let (a, b) = (switch.books("a"), switch.books("b"));
    assert_eq!((a.received, a.forwarded, a.delivered), (200, 200, 200));
    assert_eq!((b.received, b.forwarded, b.delivered), (200, 200, 200));
}

#[test]
fn every_length_arrives_byte_for_byte() {
    let switch = Switch::start(&[("a", ""), ("b", "")]);
    let (mut a, mut b) = (switch.guest("a", mac(1)), switch.guest("b", mac(2)));
    let lengths = (14..300).chain([511, 512, 1499, 1500, 1514, 1515, 2047, 4096, 9014, 9018]);
    for len in lengths {
        let mut sent = frame(mac(2), mac(1), &[]);
        sent.truncate(14);
        sent.extend((14..len).map(|at: usize| (at * 7 % 251) as u8));
        a.send(&sent).unwrap();
        let got = expect(&mut b);
        assert_eq!(got.bytes, sent, "{len} bytes");
    }
}

/// E-6: the reachability table, end to end: every kind of port sends broadcast and unicast to every other.
#[test]
fn e_6_modes_and_groups_decide_who_hears_whom() {
    let ports = [
        ("bridge1", "mode = \"bridge\""),
        ("bridge2", "mode = \"bridge\""),
        ("red1", "mode = \"isolated\"\ngroups = [\"red\"]"),
        ("red2", "mode = \"isolated\"\ngroups = [\"red\", \"blue\"]"),
        ("blue", "mode = \"isolated\"\ngroups = [\"blue\"]"),
        ("alone", "mode = \"isolated\""),
        ("private1", "mode = \"private\""),
        ("private2", "mode = \"private\""),
        ("uplink", "uplink = true"),
    ];
    let switch = Switch::start(&ports);
    let mut guests: Vec<Guest> = ports
        .iter()
        .zip(1..)
        .map(|((name, _), n)| switch.guest(name, mac(n)))
        .collect();
    let groups = |name: &str| match name {
        "red1" => vec!["red"],
        "red2" => vec!["red", "blue"],
        "blue" => vec!["blue"],
        _ => vec![],
    };
    let kind = |name: &str| match name.trim_end_matches(char::is_numeric) {
        "red" | "blue" | "alone" => "isolated",
        other => ["bridge", "private", "uplink"]
            .into_iter()
            .find(|kind| *kind == other)
            .unwrap(),
    };
    let reaches = |from: &str, to: &str| match (kind(from), kind(to)) {
        ("uplink", _) | (_, "uplink") => true,
        ("private", _) | (_, "private") => false,
        ("isolated", "isolated") => groups(from).iter().any(|group| groups(to).contains(group)),
        _ => true,
    };
    let multicast = [0x33, 0x33, 0, 0, 0, 1];
    let unknown = [0x52, 0x54, 0, 9, 9, 9];
    for (from, (name, _)) in ports.iter().enumerate() {
        for to in [BROADCAST, multicast, unknown] {
            guests[from]
                .send(&frame(to, mac(from as u8 + 1), name.as_bytes()))
                .unwrap();
        }
        switch.await_received(name, 3);
        for (at, (other, _)) in ports.iter().enumerate() {
            let expected = if at != from && reaches(name, other) {
                3
            } else {
                0
            };
            assert_eq!(
                all(&mut guests[at]).len(),
                expected,
                "floods from {name} at {other}"
            );
        }
    }
    // Every address is known now. Unicast reaches its owner or nobody.
    for (from, (name, _)) in ports.iter().enumerate() {
        let before = switch.books(name).received;
        for at in 0..ports.len() {
            guests[from]
                .send(&frame(mac(at as u8 + 1), mac(from as u8 + 1), &[at as u8]))
                .unwrap();
        }
        switch.await_received(name, before + ports.len() as u64);
        for (at, (other, _)) in ports.iter().enumerate() {
            let expected = usize::from(at != from && reaches(name, other));
            assert_eq!(
                all(&mut guests[at]).len(),
                expected,
                "unicast from {name} at {other}"
            );
        }
    }
    assert!(switch.dropped("alone", "unreachable") > 0);
    assert_eq!(switch.dropped("bridge1", "hairpin"), 1);
}

#[test]
fn learned_addresses_end_flooding_and_static_ones_never_move() {
    let switch = Switch::start(&[("a", ""), ("b", "mac = [\"52:54:00:00:00:02\"]"), ("c", "")]);
    let (mut a, mut b, mut c) = (
        switch.guest("a", mac(1)),
        switch.guest("b", mac(2)),
        switch.guest("c", mac(3)),
    );
    // `b` has said nothing, and is known all the same.
    a.send(&frame(mac(2), mac(1), b"to b")).unwrap();
    expect(&mut b);
    // `c` claims b's address: refused, and b keeps its frames.
    c.send(&frame(mac(1), mac(2), b"forged")).unwrap();
    switch.await_received("c", 1);
    assert_eq!(switch.dropped("c", "mac-of-other-port"), 1);
    a.send(&frame(mac(2), mac(1), b"still to b")).unwrap();
    expect(&mut b);
    assert!(all(&mut a).is_empty());
    assert!(all(&mut c).is_empty());
    // Unknown to all: flooded. Once heard: not.
    a.send(&frame(mac(3), mac(1), b"where are you")).unwrap();
    expect(&mut b);
    expect(&mut c);
    c.send(&frame(mac(1), mac(3), b"here")).unwrap();
    expect(&mut a);
    a.send(&frame(mac(3), mac(1), b"there you are")).unwrap();
    expect(&mut c);
    switch.await_received("a", 4);
    assert!(all(&mut b).is_empty());
}

#[test]
fn e_8_vlans_keep_apart_and_tags_cannot_be_smuggled() {
    let switch = Switch::start(&[
        ("a10", "vlan = 10"),
        ("b10", "vlan = 10"),
        ("c20", "vlan = 20"),
        ("trunk", "trunk = [10, 20]\nnative = 30"),
    ]);
    let mut a = switch.guest("a10", mac(1));
    let mut b = switch.guest("b10", mac(2));
    let mut c = switch.guest("c20", mac(3));
    let mut trunk = switch.guest("trunk", mac(4));
    let hello = frame(BROADCAST, mac(1), b"hello");
    a.send(&hello).unwrap();
    assert_eq!(expect(&mut b).bytes, hello);
    assert_eq!(
        expect(&mut trunk).bytes,
        tagged(BROADCAST, mac(1), 10, b"hello")
    );
    // From the trunk into each VLAN, the tag taken off.
    trunk.send(&tagged(mac(3), mac(4), 20, b"twenty")).unwrap();
    assert_eq!(expect(&mut c).bytes, frame(mac(3), mac(4), b"twenty"));
    trunk.send(&tagged(mac(1), mac(4), 0x600a, b"ten")).unwrap();
    assert_eq!(expect(&mut a).bytes, frame(mac(1), mac(4), b"ten"));
    switch.await_received("trunk", 2);
    all(&mut b);
    // Smuggling: a tag on an access port, its own VLAN's included; a priority tag; two tags; a VLAN that the trunk has not.
    let mut double = tagged(BROADCAST, mac(4), 10, b"");
    double.splice(12..12, [0x81, 0x00, 0, 20]);
    for (guest, frames) in [
        (
            &mut a,
            vec![
                tagged(BROADCAST, mac(1), 20, b""),
                tagged(BROADCAST, mac(1), 10, b""),
                tagged(BROADCAST, mac(1), 0, b""),
            ],
        ),
        (
            &mut trunk,
            vec![
                tagged(BROADCAST, mac(4), 0, b""),
                tagged(BROADCAST, mac(4), 4095, b""),
                tagged(BROADCAST, mac(4), 99, b""),
                double,
            ],
        ),
    ] {
        for bytes in frames {
            guest.send(&bytes).unwrap();
        }
    }
    switch.await_received("a10", 4);
    switch.await_received("trunk", 6);
    for guest in [&mut a, &mut b, &mut c, &mut trunk] {
        assert!(all(guest).is_empty());
    }
    assert_eq!(switch.books("a10").dropped, 3);
    assert_eq!(switch.books("trunk").dropped, 4);
}

#[test]
fn a_guest_that_comes_back_is_served_again() {
    let switch = Switch::start(&[("a", ""), ("b", "")]);
    let (mut a, mut b) = (switch.guest("a", mac(1)), switch.guest("b", mac(2)));
    for round in 0..5u8 {
        a.send(&frame(mac(2), mac(1), &[round])).unwrap();
        assert_eq!(expect(&mut b).bytes[14], round);
        b.disconnect();
        switch.await_state("b", "waiting");
        b.reconnect().unwrap();
        switch.await_state("b", "running");
    }
}

#[test]
fn traffic_resumes_when_the_switch_was_killed_and_started_again() {
    let mut switch = Switch::start(&[("a", ""), ("b", "")]);
    let (mut a, mut b) = (switch.guest("a", mac(1)), switch.guest("b", mac(2)));
    for round in 0..3u8 {
        a.send(&frame(mac(2), mac(1), &[round])).unwrap();
        assert_eq!(expect(&mut b).bytes[14], round);
        switch.kill();
        switch.run();
        a.reconnect().unwrap();
        b.reconnect().unwrap();
        switch.await_state("a", "running");
        switch.await_state("b", "running");
    }
    a.send(&frame(mac(2), mac(1), b"again")).unwrap();
    assert_eq!(expect(&mut b).bytes, frame(mac(2), mac(1), b"again"));
    assert!(all(&mut b).is_empty(), "nothing twice");
}

/// Nothing has to be said again, nor waited for: what lies in a ring when both ends are there goes out, though its kick went
/// to a switch that was gone.
#[test]
fn what_was_sent_while_the_switch_was_away_goes_out_when_it_is_back() {
    let mut switch = Switch::start(&[("a", ""), ("b", "mac = \"52:54:00:00:00:02\"")]);
    let (mut a, mut b) = (switch.guest("a", mac(1)), switch.guest("b", mac(2)));
    a.send(&frame(mac(2), mac(1), b"before")).unwrap();
    expect(&mut b);
    switch.kill();
    for number in 0..20u8 {
        a.send(&frame(mac(2), mac(1), &[number])).unwrap();
    }
    // The kick, too: the next switch finds none.
    let kick = a.tx(0).kick_event();
    if kick.wait(std::time::Duration::ZERO).unwrap() {
        kick.take().unwrap();
    }
    switch.run();
    b.reconnect().unwrap();
    a.reconnect().unwrap();
    switch.await_received("a", 20);
    for number in 0..20u8 {
        assert_eq!(expect(&mut b).bytes, frame(mac(2), mac(1), &[number]));
    }
    assert!(all(&mut b).is_empty());
    let books = switch.books("a");
    assert_eq!((books.forwarded, books.dropped), (20, 0));
}

#[test]
fn a_second_front_end_is_refused_and_the_first_unharmed() {
    let switch = Switch::start(&[("a", ""), ("b", "")]);
    let (mut a, mut b) = (switch.guest("a", mac(1)), switch.guest("b", mac(2)));
    for _ in 0..10 {
        assert!(
            Guest::builder()
                .mac(mac(3))
                .connect(switch.socket("a"))
                .is_err()
        );
        a.send(&frame(mac(2), mac(1), b"mine")).unwrap();
        expect(&mut b);
    }
    let refused = switch.port("a")["counters"]["events"]["connections_refused"]
        .as_u64()
        .unwrap();
    assert!(refused >= 10, "{refused}");
}

#[test]
fn a_port_that_connects_finds_its_front_end_whenever_it_comes() {
    let switch = Switch::start(&[("a", ""), ("b", "connect = true")]);
    let mut a = switch.guest("a", mac(1));
    let listening = std::thread::spawn({
        let path = switch.socket("b");
        move || Guest::builder().mac(mac(2)).listen(path).unwrap()
    });
    let mut b = listening.join().unwrap();
    switch.await_state("b", "running");
    a.send(&frame(mac(2), mac(1), b"found")).unwrap();
    expect(&mut b);
}

/// Free huge pages for a test, taken from the host and given back. `None` where the host has none to give.
struct HugePages {
    before: String,
}

const POOL: &str = "/proc/sys/vm/nr_hugepages";

impl HugePages {
    fn take(pages: u32) -> Option<Self> {
        let before = std::fs::read_to_string(POOL).ok()?;
        let wanted = before.trim().parse::<u32>().ok()? + pages;
        let taken = Self { before };
        std::fs::write(POOL, wanted.to_string()).ok()?;
        let now = std::fs::read_to_string(POOL)
            .ok()?
            .trim()
            .parse::<u32>()
            .ok()?;
        (now >= wanted).then_some(taken)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        let _ = std::fs::write(POOL, self.before.trim());
    }
}

#[test]
fn memory_of_every_kind_carries_frames() {
    let shm = std::path::PathBuf::from("/dev/shm");
    let huge = HugePages::take(64);
    let mut kinds = vec![Backing::Memfd, Backing::SealedMemfd, Backing::FileIn(shm)];
    if huge.is_some() {
        kinds.push(Backing::HugeMemfd);
    } else {
        eprintln!(
            "no huge pages to be had (root and 128 MiB are needed): memory of huge pages is left out"
        );
    }
    for kind in kinds {
        let switch = Switch::start(&[("a", ""), ("b", "")]);
        let mut a = switch.plug("a", Guest::builder().mac(mac(1)).backing(kind.clone()));
        let mut b = switch.plug("b", Guest::builder().mac(mac(2)).backing(kind.clone()));
        for len in [60, 1514, 9000] {
            let mut sent = frame(mac(2), mac(1), &[]);
            sent.resize(len, 0x5a);
            a.send(&sent).unwrap();
            assert_eq!(expect(&mut b).bytes, sent, "{kind:?}");
        }
    }
}

/// Sixty-four slots of memory, used to the last.
#[test]
fn a_guest_in_sixty_four_pieces_is_one_guest() {
    let switch = Switch::start(&[("a", ""), ("b", "")]);
    // More than eight regions are offered one by one (vhost-user: CONFIGURE_MEM_SLOTS).
    let pieces = |n| {
        Guest::builder()
            .mac(mac(n))
            .protocol(protocol::REPLY_ACK | protocol::CONFIGURE_MEM_SLOTS)
            .regions(64)
    };
    let mut a = switch.plug("a", pieces(1));
    let mut b = switch.plug("b", pieces(2));
    assert!(switch.port("a")["memory_regions"].as_u64().unwrap() >= 64);
    for number in 0..600u16 {
        let sent = frame(mac(2), mac(1), &number.to_be_bytes());
        a.send(&sent).unwrap();
        assert_eq!(expect(&mut b).bytes, sent);
    }
}
