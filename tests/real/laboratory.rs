//! The laboratory itself, without our switch: what fails here is not our doing.

use crate::lab::{Bench, GuestSpec, Qemu, Testpmd, boot};

/// DPDK's vhost library between a guest of each QEMU.
#[test]
fn guests_of_both_qemus_talk_through_dpdk() {
    let bench = Bench::new();
    let (left, right) = (bench.path("left.sock"), bench.path("right.sock"));
    let devices = [
        format!("net_vhost0,iface={},queues=1", left.display()),
        format!("net_vhost1,iface={},queues=1", right.display()),
    ];
    let mut between = Testpmd::start(&bench, "between", &devices, &["--forward-mode=io"]);
    between.command("start");
    let [mut left, mut right] = boot(
        &bench,
        [
            GuestSpec::new("left", Qemu::V7, &left, 1),
            GuestSpec::new("right", Qemu::V10, &right, 2),
        ],
    );
    left.reaches("10.9.0.2");
    left.pings("10.9.0.2", 10, 56);
    left.pushes_tcp(&mut right, 1 << 20, 1);
    right.pushes_tcp(&mut left, 1 << 20, 2);
    assert!(left.pushes_udp(&mut right, 100, 1000) > 0);
    assert!(between.counter(0, "RX-packets") > 100);
    assert!(between.quit());
}
