//! Triggers of quarantine; the bounds of groups and memberships; what flags say of limits.

use super::*;
use crate::counters::DropReason;
use crate::policy::spec::Rate;

#[test]
fn triggers_are_a_port_s_own_or_its_groups_or_the_defaults() {
    let text = "
        [defaults]
        quarantine = { drops = { arp-spoofed = \"100 in 10s\", runt = \"1 in 3600s\" }, helpers = [\"group:care\", \"own\"] }
        [group.g]
        quarantine = { scan = \"50 in 60s\", allow = \"sick\" }
        [acl.sick]
        outbound = []
        [port.own]
        socket = \"/own\"
        quarantine = {}
        [port.of-group]
        socket = \"/of-group\"
        groups = [\"g\"]
        [port.default]
        socket = \"/default\"
        groups = [\"care\"]
        [port.up]
        socket = \"/up\"
        uplink = true
        ";
    let spec = file(text).unwrap();
    let triggers = |name: &str| {
        let mut ports = spec.ports.iter();
        ports
            .find(|port| port.name == name)
            .unwrap()
            .triggers
            .clone()
    };
    let threshold = |count, seconds| Threshold { count, seconds };
    assert_eq!(triggers("own"), TriggerSpec::default());
    assert!(!triggers("own").is_any() && !triggers("up").is_any());
    let of_group = TriggerSpec {
        scan: Some(threshold(50, 60)),
        allow: Some("sick".to_owned()),
        ..TriggerSpec::default()
    };
    assert_eq!(triggers("of-group"), of_group);
    let default = TriggerSpec {
        drops: vec![
            (DropReason::Runt, threshold(1, 3600)),
            (DropReason::ArpSpoofed, threshold(100, 10)),
        ],
        helpers: vec!["group:care".to_owned(), "own".to_owned()],
        ..TriggerSpec::default()
    };
    assert_eq!(triggers("default"), default);
    // Every list is kept, bound or not; what it does not say it does not allow.
    assert!(spec.lists["sick"].inbound.is_empty());
}

#[test]
fn triggers_that_could_mean_nothing_are_refused() {
    let at = "lan.toml:3: port \"web\": quarantine";
    for (table, expected) in [
        (
            "scan = \"many\"",
            ": scan: \"many\" is no such number; write how many in how long, such as \"100 in 10s\": 1 to 4096, within 1 to 3600 seconds",
        ),
        (
            "scan = \"0 in 10s\"",
            ": scan: \"0 in 10s\" is no such number; write how many in how long, such as \"100 in 10s\": 1 to 4096, within 1 to 3600 seconds",
        ),
        (
            "drops = { runt = \"+1 in 10s\" }",
            ": drops: runt: \"+1 in 10s\" is no such number; write how many in how long, such as \"100 in 10s\": 1 to 1000000000, within 1 to 3600 seconds",
        ),
        (
            "drops = { arp-spoof = \"1 in 1s\" }",
            ": drops: arp-spoof: unknown key; did you mean arp-spoofed?",
        ),
        (
            "helpers = [\"a b\"]",
            ": helpers: \"a b\" is not a name; choose 1 to 32 of A-Z a-z 0-9 _ . - and begin with a letter, a digit or _",
        ),
    ] {
        port_refused(
            &format!("quarantine = {{ {table} }}"),
            &format!("{at}{expected}"),
        );
    }
    // What is found out at a receiver is not the sender's doing.
    let error = file(
        "[port.web]\nsocket = \"/w\"\nquarantine = { drops = { receiver-full = \"1 in 1s\" } }\n",
    );
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("drops: receiver-full: unknown key"),
        "{error}"
    );
    for (table, expected) in [
        (
            "helpers = \"x\"",
            "helpers: no port or group is called \"x\"; name a port, or a group that a port is in",
        ),
        (
            "helpers = \"port:g\"",
            "helpers: no port is called \"g\"; name a port, or a group that a port is in",
        ),
        (
            "helpers = \"group:web\"",
            "helpers: no group is called \"web\"; name a port, or a group that a port is in",
        ),
        (
            "allow = \"x\"",
            "allow: there is no list \"x\"; name a list that stands as [acl.NAME]",
        ),
    ] {
        let text = format!("quarantine = {{ scan = \"1 in 1s\", {table} }}");
        let expected = format!("lan.toml:3: port \"web\": quarantine: {expected}");
        port_refused(&text, &expected);
    }
}

#[test]
fn groups_and_memberships_are_generous_and_an_uplink_is_free() {
    let limits = |lines: &str| {
        let text = format!("[port.web]\nsocket = \"/w\"\n{lines}\n");
        let limits = file(&text).unwrap().ports[0].limits;
        (limits.groups, limits.membership)
    };
    let rate = |per_second, burst| Rate { per_second, burst };
    assert_eq!(limits(""), (512, rate(100, 200)));
    assert_eq!(limits("uplink = true"), (0, rate(0, 0)));
    let said = "limits = { multicast_groups = 7, membership = \"5/s burst 9\" }";
    assert_eq!(limits(said), (7, rate(5, 9)));
    let none = "limits = { multicast_groups = 0, membership = \"none\" }";
    assert_eq!(limits(none), (0, rate(0, 0)));
    port_refused(
        "limits = { multicast_groups = 1025 }",
        "lan.toml:3: port \"web\": limits: multicast_groups: 1025 is out of range; choose a whole number from 0 to 1024",
    );
}

#[test]
fn a_flag_says_what_a_table_of_limits_says() {
    let flag = "web=/w,send=100Mbit/s burst 4Mbit,receive=1Gbit/s,send_frames=50k/s,receive_frames=60k/s,\
                broadcast=10/s,multicast=20/s,unknown=30/s,membership=5/s,multicast_groups=9,burst=50ms,\
                addressing_rate=100/s,max_leases=3,connections=1000,half_open=100,new_connections=10/s,max_macs=5";
    let from_flag = flags(&[flag]).unwrap().ports.remove(0);
    let text = "[port.web]\nsocket = \"/w\"\naddressing_rate = \"100/s\"\nmax_leases = 3\nconnections = 1000\n\
                half_open = 100\nnew_connections = \"10/s\"\nmax_macs = 5\n[port.web.limits]\n\
                send = \"100Mbit/s burst 4Mbit\"\nreceive = \"1Gbit/s\"\nsend_frames = \"50k/s\"\n\
                receive_frames = \"60k/s\"\nbroadcast = \"10/s\"\nmulticast = \"20/s\"\nunknown = \"30/s\"\n\
                membership = \"5/s\"\nmulticast_groups = 9\nburst = \"50ms\"\n";
    let from_file = file(text).unwrap().ports.remove(0);
    assert_eq!(from_flag.limits, from_file.limits);
    assert_eq!(from_flag.guard, from_file.guard);
    assert_eq!(from_flag.quota, from_file.quota);
    assert_eq!(from_flag.max_macs, from_file.max_macs);
    assert_eq!(from_flag.limits.send_bits.per_second, 100_000_000);
    let twice = "web=/w,send=1Mbit/s,send=2Mbit/s";
    flag_refused(
        &[twice],
        &format!("--port {twice}: port \"web\": send: given twice; give it once"),
    );
    let wrong = "web=/w,send=1Mb";
    let error = flags(&[wrong]).unwrap_err().to_string();
    assert!(
        error.starts_with(&format!(
            "--port {wrong}: port \"web\": limits: send: \"1Mb\" is no rate"
        )),
        "{error}"
    );
}

/// Wherever they were written, in a group or for everybody: not the line of the port's socket.
#[test]
fn what_depends_on_others_is_told_with_its_own_line() {
    let text = "[fdb]\nper_port = 10\n[defaults.quarantine]\nscan = \"1 in 1s\"\nhelpers = [\"b\",\n\"nobody\"]\n\
                [group.g]\nmax_macs = 11\n[group.g.quarantine]\nscan = \"1 in 1s\"\nallow = \"gone\"\n\
                [port.a]\nsocket = \"/a\"\ngroups = \"g\"\n[port.b]\nsocket = \"/b\"\n";
    refused(
        text,
        &[
            "lan.toml:6: port \"b\": quarantine: helpers: no port or group is called \"nobody\"; name a port, or a group that a port is in",
            "lan.toml:8: port \"a\": max_macs: 11 addresses, and [fdb] per_port is 10; raise per_port or choose fewer",
            "lan.toml:11: port \"a\": quarantine: allow: there is no list \"gone\"; name a list that stands as [acl.NAME]",
        ],
    );
    let text = "[port.a]\nsocket = \"/tmp/a\"\n\nsocket_owner = \"no-such-user-here\"\n\nsocket_group = \"no-such-group-here\"\n";
    let error = check_paths(&file(text).unwrap()).unwrap_err().to_string();
    let expected = [
        "lan.toml:4: port \"a\": socket_owner: there is no user \"no-such-user-here\"; name a user of this system",
        "lan.toml:6: port \"a\": socket_group: there is no group \"no-such-group-here\"; name a group of this system",
    ];
    assert!(
        error.lines().collect::<Vec<_>>().ends_with(&expected),
        "{error}"
    );
}

/// An empty list could be taken for what it is not: no address at all, nobody, none of the lists of `[defaults]`.
#[test]
fn lists_that_could_mean_nothing_are_refused() {
    for key in ["mac", "acl", "ip", "gateway_mac", "dhcp_servers"] {
        port_refused(
            &format!("{key} = []"),
            &format!(
                "lan.toml:3: port \"web\": {key}: is an empty list; name at least one, or leave the key out"
            ),
        );
    }
    refused(
        "[set.s]\nmembers = []\n[switch]\ncpus = []\n[port.web]\nsocket = \"/w\"\n",
        &[
            "lan.toml:2: set \"s\": members: is an empty list; name at least one, or drop the set and the rules that use it",
            "lan.toml:4: [switch]: cpus: is an empty list; name at least one, or leave the key out",
        ],
    );
    for (key, value) in [("helpers", "web"), ("allow", "x")] {
        let text = format!(
            "[acl.x]\noutbound = []\n[port.web]\nsocket = \"/w\"\nquarantine = {{ {key} = \"{value}\" }}\n"
        );
        let why = "is for what puts the port aside, and nothing here does";
        let remedy =
            "add drops or scan; `portcullis quarantine` is told helpers or a list by itself";
        refused(
            &text,
            &[&format!(
                "lan.toml:5: port \"web\": quarantine: {key}: {why}; {remedy}"
            )],
        );
    }
}

#[test]
fn caps_that_would_be_cut_in_silence_are_refused() {
    port_refused(
        "max_leases = 65",
        "lan.toml:3: port \"web\": max_leases: 65 is out of range; choose a whole number from 1 to 64",
    );
    refused(
        "[fdb]\nper_port = 100\n[port.a]\nsocket = \"/a\"\nmax_macs = 100\n[port.b]\nsocket = \"/b\"\nmax_macs = 101\n",
        &[
            "lan.toml:8: port \"b\": max_macs: 101 addresses, and [fdb] per_port is 100; raise per_port or choose fewer",
        ],
    );
}
