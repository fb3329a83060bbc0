//! The configurations that we ship say what they claim to say.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use portcullis::config::{Overrides, from_text, load};
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

/// Every key of every section, as the reader itself tells them to whoever writes an unknown one.
fn keys() -> BTreeMap<&'static str, Vec<String>> {
    let wrong = "qqqqqqqqqqqq = 1";
    let sections = [
        ("[switch]", format!("[switch]\n{wrong}\n")),
        ("[fdb]", format!("[fdb]\n{wrong}\n")),
        ("[conntrack]", format!("[conntrack]\n{wrong}\n")),
        ("timeouts", format!("[conntrack.timeouts]\n{wrong}\n")),
        ("[defaults]", format!("[defaults]\n{wrong}\n")),
        ("limits", format!("[defaults.limits]\n{wrong}\n")),
        ("quarantine", format!("[defaults.quarantine]\n{wrong}\n")),
        (
            "[port.NAME]",
            format!("[port.b]\nsocket = \"/b\"\n{wrong}\n"),
        ),
        ("[group.NAME]", format!("[group.g]\n{wrong}\n")),
        ("[acl.NAME]", format!("[acl.x]\noutbound = []\n{wrong}\n")),
        (
            "rule",
            format!("[acl.x]\noutbound = [{{ allow = \"tcp\", {wrong} }}]\n"),
        ),
        (
            "[set.NAME]",
            format!("[set.s]\nmembers = \"10.0.0.1\"\n{wrong}\n"),
        ),
        ("[[assert]]", format!("[[assert]]\n{wrong}\n")),
    ];
    let mut keys = BTreeMap::new();
    for (name, text) in sections {
        let text = format!("{text}[port.a]\nsocket = \"/a\"\n");
        let error = from_text(None, &text, &Overrides::default()).unwrap_err();
        let error = error.to_string();
        let told = error
            .lines()
            .find_map(|line| line.split_once("the keys here are "));
        let (_, told) = told.unwrap_or_else(|| panic!("{name}: {error}"));
        keys.insert(name, told.split(", ").map(str::to_owned).collect());
    }
    keys
}

/// A key that is missing from the commented examples would be a key that nobody finds.
#[test]
fn the_commented_examples_show_every_key() {
    let text = ["lan.toml", "vlans.toml"];
    let text = text.map(|name| std::fs::read_to_string(examples().join(name)).unwrap());
    let text = text.concat();
    for (section, keys) in keys() {
        for key in keys {
            let shown = text.match_indices(&format!("{key} = ")).any(|(at, _)| {
                let before = text[..at].chars().next_back();
                matches!(before, None | Some('\n' | ' ' | '{'))
            });
            let is_table = text.contains(&format!(".{key}]"));
            assert!(shown || is_table, "{section}: {key}");
        }
    }
}

/// The reference has every key, in the table of its section.
#[test]
fn the_reference_names_every_key() {
    let text = std::fs::read_to_string(examples().join("../docs/configuration.md")).unwrap();
    for (section, keys) in keys() {
        for key in keys {
            let named = text.lines().any(|line| {
                let first = line
                    .strip_prefix('|')
                    .and_then(|line| line.split('|').next());
                first.is_some_and(|cell| cell.contains(&format!("`{key}`")))
            });
            assert!(named, "{section}: {key}");
        }
    }
}

/// The reference gives the bounds of every number, as whoever goes past them is told.
#[test]
fn the_reference_names_the_bounds_of_numbers() {
    let text = std::fs::read_to_string(examples().join("../docs/configuration.md")).unwrap();
    let (mut told, mut missing) = (0, Vec::new());
    for (section, keys) in keys() {
        let (title, socket) = match section {
            "timeouts" => ("[conntrack.timeouts]", ""),
            "limits" => ("[port.a.limits]", ""),
            "[port.NAME]" => ("[port.b]", "socket = \"/b\""),
            "[switch]" | "[fdb]" | "[conntrack]" | "[defaults]" => (section, ""),
            _ => continue,
        };
        for key in keys {
            let number = format!("{title}\n{socket}\n{key} = 99999999999\n");
            let whole = format!("[port.a]\nsocket = \"/a\"\n{number}");
            let Err(error) = from_text(None, &whole, &Overrides::default()) else {
                continue;
            };
            let error = error.to_string();
            let Some((_, bounds)) = error.split_once("choose a whole number from ") else {
                continue;
            };
            let mut lines = text.lines();
            let is_told = lines.any(|line| {
                let is_its_own = match section {
                    "timeouts" => line.starts_with("`[conntrack.timeouts]`"),
                    _ => line.starts_with("| ") && line.contains(&format!("`{key}`")),
                };
                // A key may have a bound that another key gives.
                is_its_own && (line.contains(bounds) || line.contains("1 to `"))
            });
            if is_told {
                told += 1;
            } else {
                missing.push(format!("{section}: {key}: {bounds}"));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    assert!(told > 15, "{told}");
}

/// The tiers are told by groups, and everything else is closed.
#[test]
fn three_tier_closes_what_it_does_not_name() {
    let spec = load(
        Some(&examples().join("three-tier.toml")),
        &Overrides::default(),
    )
    .unwrap();
    let policy = spec.policy();
    assert!(policy.default_deny);
    for (port, spec) in policy.ports.iter().zip(&spec.ports) {
        assert!(
            port.as_ref()
                .is_some_and(|port| port.outbound.is_some() && port.inbound.is_some()),
            "{}",
            spec.name
        );
        assert_eq!(
            spec.switched_off().is_empty(),
            !spec.uplink,
            "{}",
            spec.name
        );
    }
    assert!(spec.asserts.len() >= 16);
}

/// Who starts from an example is told of nothing that he did not do.
#[test]
fn examples_leave_nothing_to_note() {
    for name in ["lan.toml", "three-tier.toml", "vlans.toml"] {
        let spec = load(Some(&examples().join(name)), &Overrides::default()).unwrap();
        assert_eq!(spec.notes, [], "{name}");
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
