//! Unmodified QEMU guests through the switch.
//!
//! Booting is what costs, so that each test asks several things of the guests it has booted.

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};

use crate::lab::{Bench, Guest, GuestSpec, PATIENCE, Qemu, Switch, boot, until};

/// A guest that can neither complete a checksum nor cut or merge segments.
const NO_OFFLOADS: &str = "csum=off,gso=off,guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,\
                           guest_ufo=off,host_tso4=off,host_tso6=off,host_ecn=off,host_ufo=off";

/// A `[port.NAME]` table on the socket that is named after it.
fn port(bench: &Bench, name: &str, keys: &str) -> String {
    let socket = bench.path(&format!("{name}.sock"));
    format!("[port.{name}]\nsocket = {socket:?}\n{keys}\n")
}

fn spec(bench: &Bench, name: &str, qemu: Qemu, number: u8) -> GuestSpec {
    GuestSpec::new(name, qemu, bench.path(&format!("{name}.sock")), number)
}

/// Both directions of everything that two guests that may talk must be able to do, and that it was
/// our process that did it.
fn talk(switch: &Switch, left: &mut Guest, right: &mut Guest) {
    let before = switch.traffic(left.name());
    left.reaches(&right.address());
    left.pings(&right.address(), 10, 56);
    right.pings(&left.address(), 5, 1400);
    left.pushes_tcp(right, 4 << 20, 1);
    right.pushes_tcp(left, 4 << 20, 2);
    // UDP may lose what finds no buffer, but never doubles or changes it; some must arrive.
    assert!(left.pushes_udp(right, 200, 1000) > 100);
    assert!(right.pushes_udp(left, 50, 4000) > 10, "fragments");
    let after = switch.traffic(left.name());
    let (sent, got) = (
        after.forwarded - before.forwarded,
        after.delivered - before.delivered,
    );
    // 15 pings, a connection each way with its acknowledgements, the datagrams.
    assert!(
        sent > 300 && got > 200,
        "{}: {before:?} to {after:?}",
        left.name()
    );
}

/// Checksums and segmentation on and off, in each combination of the two sides.
fn talk_with_and_without_offloads(left: &mut Guest, right: &mut Guest) {
    let (left6, right6) = (left.speaks_ipv6(), right.speaks_ipv6());
    for (left_offloads, right_offloads) in [("off", "on"), ("off", "off"), ("on", "off")] {
        left.sh(&offloads(left_offloads));
        right.sh(&offloads(right_offloads));
        left.pushes_tcp(right, 1 << 20, 3);
        right.pushes_tcp(left, 1 << 20, 4);
        left.pushes_tcp_to(right, &right6, 1 << 20, 5);
        right.pushes_tcp_to(left, &left6, 1 << 20, 6);
        assert!(left.pushes_udp(right, 20, 1400) > 5);
    }
    left.sh(&offloads("on"));
    right.sh(&offloads("on"));
}

fn offloads(state: &str) -> String {
    format!("ethtool -K eth0 tx {state} sg {state} tso {state} gso {state} gro {state}")
}

/// The switch goes away and comes back under running guests; a guest reboots; a driver leaves and
/// returns. After each of them traffic goes on by itself.
fn survive(switch: &mut Switch, left: &mut Guest, right: &mut Guest) {
    for clean in [true, false] {
        if clean {
            switch.stop();
        } else {
            switch.kill();
        }
        switch.run();
        switch.await_running(&[left.name(), right.name()]);
        left.resumes(&right.address());
        right.pings(&left.address(), 3, 56);
        assert!(switch.traffic(right.name()).forwarded >= 3);
    }
    left.unbind();
    left.bind();
    left.resumes(&right.address());
    right.resumes(&left.address());

    right.mark();
    right.reboot();
    left.resumes(&right.address());
    left.pushes_tcp(right, 1 << 20, 7);
    assert!(switch.alive());
}

#[test]
fn two_guests_of_qemu_7_we_listen() {
    let bench = Bench::new();
    let ports = port(&bench, "left", "") + &port(&bench, "right", "");
    let mut switch = Switch::start(&bench, &ports);
    let specs = [
        spec(&bench, "left", Qemu::V7, 1),
        spec(&bench, "right", Qemu::V7, 2),
    ];
    let [mut left, mut right] = boot(&bench, specs);
    talk(&switch, &mut left, &mut right);
    talk_with_and_without_offloads(&mut left, &mut right);
    survive(&mut switch, &mut left, &mut right);
}

#[test]
fn two_guests_of_qemu_10_we_listen() {
    let bench = Bench::new();
    let ports = port(&bench, "left", "") + &port(&bench, "right", "");
    let mut switch = Switch::start(&bench, &ports);
    let specs = [
        spec(&bench, "left", Qemu::V10, 1),
        spec(&bench, "right", Qemu::V10, 2),
    ];
    let [mut left, mut right] = boot(&bench, specs);
    talk(&switch, &mut left, &mut right);
    talk_with_and_without_offloads(&mut left, &mut right);
    survive(&mut switch, &mut left, &mut right);
}

/// QEMU listens, we connect; the VMM of one guest is killed and started again.
#[test]
fn guests_of_both_qemus_we_connect_and_a_vmm_is_killed() {
    let bench = Bench::new();
    let ports = port(&bench, "left", "connect = true") + &port(&bench, "right", "connect = true");
    let mut switch = Switch::start(&bench, &ports);
    let specs = [
        spec(&bench, "left", Qemu::V7, 1).serving(),
        spec(&bench, "right", Qemu::V10, 2).serving(),
    ];
    let [mut left, mut right] = boot(&bench, specs);
    talk(&switch, &mut left, &mut right);
    survive(&mut switch, &mut left, &mut right);

    let pid = right.vmm_pid();
    let again = right.kill();
    until("the port of the killed VMM to be free", PATIENCE, || {
        (switch.port("right")["state"] != "running").then_some(())
    });
    // Frames towards nobody are dropped and counted, and hold nothing up.
    assert!(!left.hears_from("10.9.0.2", 1));
    let [mut right] = boot(&bench, [again]);
    assert_ne!(pid, right.vmm_pid());
    switch.await_running(&["right"]);
    talk(&switch, &mut left, &mut right);
}

/// All three modes and an uplink, over four guests; what may not pass is seen dropped.
#[test]
fn every_mode_reaches_whom_it_may() {
    let bench = Bench::new();
    let ports = [
        port(&bench, "bridge", "mode = \"bridge\""),
        port(&bench, "lonely", "mode = \"isolated\""),
        port(&bench, "secret", "mode = \"private\""),
        port(&bench, "world", "uplink = true"),
    ]
    .concat();
    let switch = Switch::start(&bench, &ports);
    let specs = [
        spec(&bench, "bridge", Qemu::V7, 1),
        spec(&bench, "lonely", Qemu::V7, 2),
        spec(&bench, "secret", Qemu::V10, 3),
        spec(&bench, "world", Qemu::V10, 4),
    ];
    let [mut bridge, mut lonely, mut secret, mut world] = boot(&bench, specs);
    for guest in [&mut bridge, &mut lonely, &mut secret] {
        guest.reaches("10.9.0.4");
        world.reaches(&guest.address());
    }
    bridge.reaches("10.9.0.2");
    lonely.pushes_tcp(&mut bridge, 1 << 20, 1);

    // Neither ARP's broadcast nor, with the address known, unicast passes between these.
    for (asker, target) in [(&mut bridge, 3_u8), (&mut lonely, 3)] {
        let address = format!("10.9.0.{target}");
        assert!(
            !asker.hears_from(&address, 2),
            "{} hears {address}",
            asker.name()
        );
        let before = switch.dropped(asker.name(), "unreachable");
        asker.sh(&format!("arp -s {address} 52:54:00:00:00:{target:02x}"));
        assert!(
            !asker.hears_from(&address, 2),
            "{} hears {address}",
            asker.name()
        );
        let after = switch.dropped(asker.name(), "unreachable");
        assert!(
            after >= before + 2,
            "{}: unreachable {before} to {after}",
            asker.name()
        );
    }
    secret.sh("arp -s 10.9.0.1 52:54:00:00:00:01");
    assert!(!secret.hears_from("10.9.0.1", 2));
    assert!(switch.dropped("secret", "unreachable") >= 2);

    // Nor does anything that a program makes by hand: to each of the others and to all, with a source
    // address of one's own or of another. What lonely gets is only what bridge sent after it.
    lonely.watches(MADE_BY_HAND);
    for to in [
        [0x52, 0x54, 0, 0, 0, 2],
        [0xff; 6],
        [0x33, 0x33, 0, 0, 0, 1],
        [0x52, 0x54, 0, 0, 0, 0x77],
    ] {
        for from in [3, 0x55] {
            secret.sends(&made_by_hand(to, [0x52, 0x54, 0, 0, 0, from], b"secret"), 3);
        }
    }
    secret.reaches("10.9.0.4");
    bridge.sends(
        &made_by_hand([0xff; 6], [0x52, 0x54, 0, 0, 0, 1], b"open"),
        1,
    );
    let seen = lonely.watched(1);
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert!(seen[0].bytes[14..].starts_with(b"open"), "{seen:?}");
    assert_eq!(seen[0].length, 60);
}

/// IEEE 802: for local experiments.
const MADE_BY_HAND: u16 = 0x88b5;

fn made_by_hand(to: [u8; 6], from: [u8; 6], text: &[u8]) -> Vec<u8> {
    let mut frame = [to.as_slice(), &from, &MADE_BY_HAND.to_be_bytes(), text].concat();
    frame.resize(60, 0);
    frame
}

/// A guest that tags beside two that do not: each segment for itself, with offloads on tagged frames.
#[test]
fn a_trunk_guest_reaches_each_segment_and_they_do_not_reach_each_other() {
    let bench = Bench::new();
    let ports = [
        port(&bench, "router", "trunk = [\"10\", \"20\"]"),
        port(&bench, "ten", "vlan = 10"),
        port(&bench, "twenty", "vlan = 20"),
    ]
    .concat();
    let switch = Switch::start(&bench, &ports);
    let specs = [
        spec(&bench, "router", Qemu::V10, 1),
        spec(&bench, "ten", Qemu::V10, 2),
        spec(&bench, "twenty", Qemu::V7, 3)
            .with("mrg_rxbuf=off")
            .with(NO_OFFLOADS),
    ];
    let [mut router, mut ten, mut twenty] = boot(&bench, specs);
    router.joins_vlan(10);
    router.joins_vlan(20);
    ten.sh("ip addr add 10.9.10.2/24 dev eth0");
    twenty.sh("ip addr add 10.9.20.3/24 dev eth0");
    router.reaches("10.9.10.2");
    router.reaches("10.9.20.3");
    router.pushes_tcp_to(&mut ten, "10.9.10.2", 1 << 20, 1);
    ten.pushes_tcp_to(&mut router, "10.9.10.1", 1 << 20, 2);
    // Checksums and segments are made for the receiver that can do neither, at another offset.
    router.pushes_tcp_to(&mut twenty, "10.9.20.3", 1 << 20, 3);
    twenty.pushes_tcp_to(&mut router, "10.9.20.1", 1 << 20, 4);
    let before = switch.traffic("twenty").delivered;
    assert!(!ten.hears_from("10.9.0.3", 2));
    assert_eq!(switch.traffic("twenty").delivered, before);
    assert!(switch.traffic("router").forwarded > 100);
}

/// A broadcast that asks for a checksum, and one that asks for segmentation, among receivers of both
/// kinds: whole for the one, complete and cut for the other.
#[test]
fn a_broadcast_reaches_each_receiver_in_the_form_it_takes() {
    let bench = Bench::new();
    let names = ["sender", "full", "plain"];
    let ports: String = names.iter().map(|name| port(&bench, name, "")).collect();
    let _switch = Switch::start(&bench, &ports);
    let specs = [
        spec(&bench, "sender", Qemu::V10, 1),
        spec(&bench, "full", Qemu::V10, 2),
        spec(&bench, "plain", Qemu::V7, 3)
            .with("mrg_rxbuf=off")
            .with(NO_OFFLOADS),
    ];
    let [mut sender, mut full, mut plain] = boot(&bench, specs);
    // Or its kernel would put the segments together again before the watcher sees them.
    plain.sh("ethtool -K eth0 gro off");
    full.watches(0x0800);
    plain.watches(0x0800);

    // UDP, 200 bytes: VIRTIO_NET_HDR_F_NEEDS_CSUM from byte 34 on, to be put at 6.
    let builder = PacketBuilder::ethernet2([0x52, 0x54, 0, 0, 0, 1], [0xff; 6])
        .ipv4([10, 9, 0, 1], [10, 9, 0, 255], 9)
        .udp(7, 7);
    let mut udp = Vec::new();
    builder.write(&mut udp, &[0x5a; 200]).expect("a datagram");
    let right = u16::from_be_bytes([udp[40], udp[41]]);
    // The sender leaves the sum over the pseudo header there.
    let pseudo = pseudo_header([10, 9, 0, 1], [10, 9, 0, 255], 17, 208);
    udp[40..42].copy_from_slice(&pseudo.to_be_bytes());
    sender.sends_offloaded(&udp, "flags=1 start=34 offset=6");
    let at_full = full.watched(1).remove(0);
    let at_plain = plain.watched(1).remove(0);
    assert_eq!((at_full.length, at_plain.length), (242, 242));
    assert_eq!(at_plain.bytes[40..42], right.to_be_bytes(), "complete");
    assert_eq!(at_plain.header[0] & 1, 0);
    let complete = at_full.bytes[40..42] == right.to_be_bytes();
    assert!(complete || at_full.header[0] & 1 == 1, "{at_full:?}");

    // TCP, 4000 bytes in segments of 1000.
    let builder = PacketBuilder::ethernet2([0x52, 0x54, 0, 0, 0, 1], [0xff; 6])
        .ipv4([10, 9, 0, 1], [10, 9, 0, 255], 9)
        .tcp(9, 9, 1_000_000, 1024);
    let mut tcp = Vec::new();
    builder.write(&mut tcp, &[0xa5; 4000]).expect("a segment");
    let pseudo = pseudo_header([10, 9, 0, 1], [10, 9, 0, 255], 6, 4020);
    tcp[50..52].copy_from_slice(&pseudo.to_be_bytes());
    sender.sends_offloaded(
        &tcp,
        "flags=1 gso=1 hdr-len=54 gso-size=1000 start=34 offset=16",
    );
    let at_full = full.watched(2).remove(1);
    assert_eq!(at_full.length, 4054);
    assert_eq!(at_full.header[1], 1, "{at_full:?}");
    let at_plain = plain.watched(5).split_off(1);
    assert_eq!(at_plain.len(), 4, "{at_plain:?}");
    for (n, segment) in at_plain.iter().enumerate() {
        assert_eq!(segment.length, 1054, "{segment:?}");
        assert_eq!(segment.header[..2], [0, 0], "{segment:?}");
        // The watcher keeps 128 bytes; the rest is known.
        let mut whole = segment.bytes.clone();
        whole.resize(1054, 0xa5);
        let parsed = SlicedPacket::from_ethernet(&whole).expect("a frame");
        let Some(NetSlice::Ipv4(ip)) = &parsed.net else {
            panic!("{segment:?}")
        };
        let Some(TransportSlice::Tcp(tcp)) = &parsed.transport else {
            panic!("{segment:?}")
        };
        assert_eq!(
            tcp.sequence_number(),
            1_000_000 + 1000 * u32::try_from(n).expect("few")
        );
        let header = ip.header().to_header();
        assert_eq!(header.calc_header_checksum(), header.header_checksum);
        let sum = tcp.calc_checksum_ipv4(header.source, header.destination);
        assert_eq!(sum.expect("short enough"), tcp.checksum(), "segment {n}");
    }
}

/// The sum that stands in the checksum field before an offload completes it (RFC 1071), not inverted.
fn pseudo_header(source: [u8; 4], destination: [u8; 4], protocol: u16, length: u16) -> u16 {
    let words = source.chunks(2).chain(destination.chunks(2));
    let sum: u32 = words
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let sum = sum + u32::from(protocol) + u32::from(length);
    let folded = (sum & 0xffff) + (sum >> 16);
    u16::try_from((folded & 0xffff) + (folded >> 16)).expect("folded")
}

/// Isolated guests reach each other only within a common group; a third guest is in none.
#[test]
fn isolated_guests_reach_each_other_within_their_group() {
    let bench = Bench::new();
    let ports = [
        port(&bench, "one", "mode = \"isolated\"\ngroups = [\"team\"]"),
        port(
            &bench,
            "two",
            "mode = \"isolated\"\ngroups = [\"team\", \"other\"]",
        ),
        port(&bench, "three", "mode = \"isolated\""),
    ]
    .concat();
    let switch = Switch::start(&bench, &ports);
    let specs = [
        spec(&bench, "one", Qemu::V10, 1),
        spec(&bench, "two", Qemu::V7, 2),
        spec(&bench, "three", Qemu::V7, 3),
    ];
    let [mut one, mut two, mut three] = boot(&bench, specs);
    one.reaches("10.9.0.2");
    one.pushes_tcp(&mut two, 1 << 20, 1);
    assert!(!one.hears_from("10.9.0.3", 2));
    assert!(!three.hears_from("10.9.0.1", 2));
    assert!(
        switch.dropped("three", "no-destination") >= 1,
        "{}",
        switch.port("three")
    );
    assert_eq!(
        switch.traffic("three").delivered,
        0,
        "{}",
        switch.port("three")
    );
}

/// Frames of 9000 bytes, several queues, and MTU told to the guest, QEMU 10 with MSI-X.
#[test]
fn large_frames_and_several_queues() {
    let bench = Bench::new();
    let keys = "queues = 2\nmtu = 9000";
    let ports = port(&bench, "left", keys) + &port(&bench, "right", keys);
    let mut switch = Switch::start(&bench, &ports);
    let specs = [
        spec(&bench, "left", Qemu::V10, 1).pairs(2).mtu(9000),
        spec(&bench, "right", Qemu::V7, 2).pairs(2).mtu(9000),
    ];
    let [mut left, mut right] = boot(&bench, specs);
    assert_eq!(switch.rings("left"), 4);
    assert_eq!(switch.rings("right"), 4);
    left.reaches("10.9.0.2");
    left.pings("10.9.0.2", 5, 8900);
    talk(&switch, &mut left, &mut right);
    talk_with_and_without_offloads(&mut left, &mut right);
    survive(&mut switch, &mut left, &mut right);
    left.pings("10.9.0.2", 5, 8900);
}

/// Guests that lack something beside one that has everything: a legacy driver with a 10-byte
/// header, no mergeable buffers, no offloads, no event index.
#[test]
fn mixed_guests_beside_a_full_one() {
    let bench = Bench::new();
    let names = ["full", "legacy", "plain", "spare"];
    let ports: String = names.iter().map(|name| port(&bench, name, "")).collect();
    let switch = Switch::start(&bench, &ports);
    let specs = [
        spec(&bench, "full", Qemu::V10, 1),
        spec(&bench, "legacy", Qemu::V7, 2)
            .with("disable-modern=on")
            .with("mrg_rxbuf=off"),
        spec(&bench, "plain", Qemu::V7, 3)
            .with(NO_OFFLOADS)
            .with("mrg_rxbuf=off"),
        spec(&bench, "spare", Qemu::V10, 4)
            .with("event_idx=off")
            .with("indirect_desc=off")
            .with("disable-modern=on"),
    ];
    let [mut full, mut legacy, mut plain, mut spare] = boot(&bench, specs);
    // They are what they were meant to be.
    for (name, lacks) in [
        ("full", &[][..]),
        ("legacy", &["version-1", "mrg-rxbuf"]),
        (
            "plain",
            &["mrg-rxbuf", "csum", "guest-csum", "host-tso4", "guest-tso4"],
        ),
        ("spare", &["version-1", "event-idx", "indirect-desc"]),
    ] {
        let features = switch.features(name);
        for feature in ["version-1", "mrg-rxbuf", "csum", "guest-tso4", "event-idx"] {
            let there = features.iter().any(|accepted| accepted == feature);
            assert_eq!(
                there,
                !lacks.contains(&feature),
                "{name}: {feature}: {features:?}"
            );
        }
    }
    talk(&switch, &mut full, &mut legacy);
    talk(&switch, &mut full, &mut plain);
    talk(&switch, &mut full, &mut spare);
    talk(&switch, &mut legacy, &mut plain);
    talk(&switch, &mut plain, &mut spare);
}

/// What the examples show to people is true: three guests as `examples/qemu-guest` starts them, two of
/// which may talk.
#[test]
fn the_demonstration_with_real_guests_ends_well() {
    let bench = Bench::new();
    let log = std::fs::File::create(bench.path("demo.log")).expect("a log");
    let errors = log.try_clone().expect("a second handle");
    let status = std::process::Command::new("examples/qemu-demo")
        .arg("--once")
        .env("PORTCULLIS", env!("CARGO_BIN_EXE_portcullis"))
        .stdout(log)
        .stderr(errors)
        .status()
        .expect("the demonstration");
    let text = std::fs::read_to_string(bench.path("demo.log")).expect("its output");
    assert!(status.success(), "{text}");
    assert!(
        text.contains("ann  10.9.0.1:  10.9.0.2 answers  10.9.0.3 is silent"),
        "{text}"
    );
}
