//! Unmodified QEMU guests through the switch.
//!
//! Booting is what costs, so that each test asks several things of the guests it has booted.

use crate::lab::{Bench, Guest, GuestSpec, PATIENCE, Qemu, Switch, boot, until};

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
    for (left_offloads, right_offloads) in [("off", "on"), ("off", "off"), ("on", "off")] {
        left.sh(&offloads(left_offloads));
        right.sh(&offloads(right_offloads));
        left.pushes_tcp(right, 1 << 20, 3);
        right.pushes_tcp(left, 1 << 20, 4);
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
        left.reaches(&right.address());
        right.pings(&left.address(), 3, 56);
        assert!(switch.traffic(right.name()).forwarded >= 3);
    }
    left.unbind();
    left.bind();
    left.reaches(&right.address());
    right.reaches(&left.address());

    right.mark();
    right.reboot();
    left.reaches(&right.address());
    left.pushes_tcp(right, 1 << 20, 5);
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
    let none = "csum=off,gso=off,guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off,\
                host_tso4=off,host_tso6=off,host_ecn=off,host_ufo=off";
    let specs = [
        spec(&bench, "full", Qemu::V10, 1),
        spec(&bench, "legacy", Qemu::V7, 2)
            .with("disable-modern=on")
            .with("mrg_rxbuf=off"),
        spec(&bench, "plain", Qemu::V7, 3)
            .with(none)
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
