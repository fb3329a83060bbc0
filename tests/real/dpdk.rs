//! DPDK's virtio-user through the switch: a polling driver, without EVENT_IDX and STATUS, in shapes
//! that no kernel driver has.

use crate::lab::{Bench, PATIENCE, Switch, Testpmd, until};

/// How a driver is to be.
struct Shape {
    name: &'static str,
    /// Properties of both devices.
    device: &'static str,
    ring: u16,
    /// DPDK listens, we connect.
    serves: bool,
}

/// A closed loop through both ports: each returns what it gets to the other's address. Our counters
/// and DPDK's must agree that frames went round and round.
fn loop_through(shape: &Shape) {
    const FRAMES: u64 = 20_000;
    let bench = Bench::new();
    let (connect, server) = if shape.serves {
        ("connect = true\n", ",server=1")
    } else {
        ("", "")
    };
    let ports: String = (0..2)
        .map(|n| {
            format!(
                "[port.p{n}]\nsocket = {:?}\n{connect}",
                bench.path(&format!("p{n}.sock"))
            )
        })
        .collect();
    let mut switch = Switch::start(&bench, &ports);
    let devices = [0, 1].map(|n| {
        format!(
            "net_virtio_user{n},path={},queues=1,queue_size={},mac=52:54:00:00:00:0{}{server}{}",
            bench.path(&format!("p{n}.sock")).display(),
            shape.ring,
            n + 1,
            shape.device
        )
    });
    let descriptors = [
        format!("--txd={}", shape.ring),
        format!("--rxd={}", shape.ring),
    ];
    let options = [
        "--forward-mode=mac",
        "--eth-peer=0,52:54:00:00:00:02",
        "--eth-peer=1,52:54:00:00:00:01",
        "--burst=32",
        descriptors[0].as_str(),
        descriptors[1].as_str(),
    ];
    let mut guest = Testpmd::start(&bench, shape.name, &devices, &options);
    switch.await_running(&["p0", "p1"]);
    guest.command("set txpkts 128");
    guest.command("start tx_first 2");
    until(
        &format!("{}: {FRAMES} frames each way", shape.name),
        PATIENCE,
        || {
            let [left, right] = ["p0", "p1"].map(|name| switch.traffic_in_flight(name));
            (left.delivered >= FRAMES && right.delivered >= FRAMES).then_some(())
        },
    );
    guest.command("stop");
    for (n, name) in [(0, "p0"), (1, "p1")] {
        let ours = switch.traffic(name);
        assert_eq!(
            guest.counter(n, "TX-packets"),
            ours.received,
            "{}: {name}",
            shape.name
        );
        let got = guest.counter(n, "RX-packets");
        // What we delivered after it stopped looking lies in its ring still.
        assert!(
            got <= ours.delivered && got + 1024 >= ours.delivered,
            "{}: {got} of {ours:?}",
            shape.name
        );
        assert_eq!(guest.counter(n, "RX-errors"), 0, "{}", shape.name);
    }
    assert!(guest.quit());
    assert!(switch.alive());
    switch.stop();
}

#[test]
fn mergeable_in_order() {
    loop_through(&Shape {
        name: "mrg-inorder",
        device: "",
        ring: 256,
        serves: false,
    });
}

#[test]
fn mergeable_not_in_order() {
    loop_through(&Shape {
        name: "mrg",
        device: ",in_order=0",
        ring: 512,
        serves: false,
    });
}

#[test]
fn not_mergeable_in_order() {
    loop_through(&Shape {
        name: "inorder",
        device: ",mrg_rxbuf=0",
        ring: 1024,
        serves: false,
    });
}

#[test]
fn not_mergeable_not_in_order() {
    let device = ",mrg_rxbuf=0,in_order=0";
    loop_through(&Shape {
        name: "plain",
        device,
        ring: 256,
        serves: false,
    });
}

#[test]
fn vectorized() {
    let device = ",mrg_rxbuf=0,in_order=1,vectorized=1";
    loop_through(&Shape {
        name: "vector",
        device,
        ring: 256,
        serves: false,
    });
}

#[test]
fn large_ring() {
    loop_through(&Shape {
        name: "large",
        device: "",
        ring: 4096,
        serves: false,
    });
}

#[test]
fn small_ring() {
    loop_through(&Shape {
        name: "small",
        device: "",
        ring: 64,
        serves: false,
    });
}

#[test]
fn dpdk_listens_and_we_connect() {
    loop_through(&Shape {
        name: "serving",
        device: "",
        ring: 256,
        serves: true,
    });
}

/// The driver asks for a layout that we do not offer, and does without.
#[test]
fn a_wish_for_packed_rings_is_not_granted() {
    loop_through(&Shape {
        name: "packed",
        device: ",packed_vq=1",
        ring: 256,
        serves: false,
    });
}
