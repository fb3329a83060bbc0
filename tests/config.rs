//! The configurations that we ship say what they claim to say.

use std::path::{Path, PathBuf};

use portcullis::config::{Overrides, load};
use portcullis::fabric::{Mode, VlanMembership};

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

#[test]
fn every_example_is_valid() {
    let mut seen = 0;
    for entry in std::fs::read_dir(examples()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "toml") {
            load(Some(&path), &Overrides::default()).unwrap();
            seen += 1;
        }
    }
    assert!(seen >= 2);
}

/// A key that is missing from the commented example would be a key that nobody finds.
#[test]
fn the_commented_examples_show_every_key() {
    let text =
        ["lan.toml", "vlans.toml"].map(|name| std::fs::read_to_string(examples().join(name)));
    let text = text.map(Result::unwrap).concat();
    let keys = [
        "name", "mode", "control", "workers", "cpus", "poll", "spin_us", "capacity", "per_port",
        "ageing", "socket", "connect", "uplink", "groups", "mac", "vlan", "trunk", "native",
        "queues", "mtu",
    ];
    for key in keys {
        let shown = text.lines().any(|line| {
            let line = line.trim_start_matches("# ");
            line.strip_prefix(key)
                .is_some_and(|rest| rest.trim_start().starts_with('='))
        });
        assert!(shown, "{key}");
    }
}

#[test]
fn lan_shows_every_mode() {
    let spec = load(Some(&examples().join("lan.toml")), &Overrides::default()).unwrap();
    for mode in [Mode::Bridge, Mode::Isolated, Mode::Private] {
        assert!(spec.ports.iter().any(|port| port.mode == mode));
    }
    assert!(spec.ports.iter().any(|port| port.uplink));
}

#[test]
fn vlans_shows_access_and_trunk() {
    let spec = load(Some(&examples().join("vlans.toml")), &Overrides::default()).unwrap();
    assert!(
        spec.ports
            .iter()
            .any(|port| matches!(port.vlan, VlanMembership::Access(vid) if vid.get() == 20))
    );
    assert!(
        spec.ports
            .iter()
            .any(|port| matches!(port.vlan, VlanMembership::Trunk { .. }))
    );
}
