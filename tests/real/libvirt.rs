//! The example for libvirt, started by libvirt.

use crate::lab::{Bench, GuestSpec, Libvirt, Qemu, Switch, artefacts, boot};

/// `examples/libvirt.xml` as it stands, with this test's socket and a guest to boot.
fn domain(bench: &Bench) -> String {
    let xml = std::fs::read_to_string("examples/libvirt.xml").expect("the example");
    let socket = bench.path("web.sock");
    let lab = artefacts();
    let guest = format!(
        "<kernel>{}</kernel><initrd>{}</initrd>\
         <cmdline>console=ttyS0 quiet no_timer_check demo=10.9.0.1,10.9.0.2</cmdline></os>",
        lab.join("kernel/vmlinuz").display(),
        lab.join("initramfs.cpio.gz").display()
    );
    let console = bench.path("libvirt.console.log");
    let serial = format!(
        "<serial type='file'><source path='{}'/></serial>",
        console.display()
    );
    [
        (
            "/tmp/portcullis-web.sock",
            socket.to_str().expect("plain text"),
        ),
        ("</os>", &guest),
        ("<serial type='pty'/>", &serial),
    ]
    .into_iter()
    .fold(xml, |xml, (from, to)| {
        assert!(xml.contains(from), "examples/libvirt.xml has no {from}");
        xml.replace(from, to)
    })
}

#[test]
fn the_example_for_libvirt_joins_a_switch() {
    let bench = Bench::new();
    let ports: String = ["web", "peer"]
        .iter()
        .map(|name| {
            let socket = bench.path(&format!("{name}.sock"));
            format!("[port.{name}]\nsocket = {socket:?}\n")
        })
        .collect();
    let switch = Switch::start(&bench, &ports);
    let _libvirt = Libvirt::start(&bench, &domain(&bench));
    let socket = bench.path("peer.sock");
    let [mut peer] = boot(&bench, [GuestSpec::new("peer", Qemu::V10, socket, 2)]);
    switch.await_running(&["web", "peer"]);
    peer.reaches("10.9.0.1");
    peer.pings("10.9.0.1", 5, 1000);
    let traffic = switch.traffic("web");
    assert!(
        traffic.forwarded >= 5 && traffic.delivered >= 5,
        "{traffic:?}"
    );
}
