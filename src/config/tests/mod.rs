//! The texts of faults are part of the interface: each names the place, the key, the trouble and the remedy.

use std::path::Path;

use super::*;
use crate::datapath::PollMode;
use crate::fabric::{FdbLimits, Mode, VidSet, VlanMembership};
use crate::frame::Vid;
use crate::port::endpoint::Endpoint;

mod gate;
mod slips;
mod triggers;

fn vids(range: std::ops::RangeInclusive<u16>) -> impl Iterator<Item = Vid> {
    range.filter_map(Vid::new)
}

fn access(vid: u16) -> VlanMembership {
    VlanMembership::Access(Vid::new(vid).unwrap())
}

fn file(text: &str) -> Result<SwitchSpec, ConfigError> {
    from_text(Some(Path::new("lan.toml")), text, &Overrides::default())
}

fn flags(ports: &[&str]) -> Result<SwitchSpec, ConfigError> {
    let overrides = Overrides {
        ports: ports.iter().map(ToString::to_string).collect(),
        ..Overrides::default()
    };
    from_text(None, "", &overrides)
}

#[track_caller]
fn refused(text: &str, expected: &[&str]) {
    let error = file(text).expect_err("accepted").to_string();
    assert_eq!(error.lines().collect::<Vec<_>>(), expected, "\n{text}");
}

#[track_caller]
fn flag_refused(ports: &[&str], expected: &str) {
    assert_eq!(flags(ports).expect_err("accepted").to_string(), expected);
}

/// `[port.web]` with these lines after its socket; the first of them is line 3.
#[track_caller]
fn port_refused(lines: &str, expected: &str) {
    let text = format!("[port.web]\nsocket = \"/run/web\"\n{lines}\n");
    refused(&text, &[expected]);
}

#[test]
fn the_smallest_file_takes_every_default() {
    let spec = file("[port.web]\nsocket = \"/run/web.sock\"\n").unwrap();
    assert_eq!(spec.name, "lan");
    assert_eq!(
        (spec.workers, spec.poll, spec.spin_us),
        (1, PollMode::Adaptive, 50)
    );
    assert_eq!(
        spec.fdb,
        FdbLimits {
            ports: 1,
            ..FdbLimits::default()
        }
    );
    assert!(spec.control_is_default);
    assert!(spec.control.ends_with("portcullis/lan.sock"));
    let [port] = spec.ports.as_slice() else {
        panic!("one port");
    };
    assert_eq!(port.endpoint, Endpoint::Listen("/run/web.sock".into()));
    assert_eq!((port.mode, port.uplink), (Mode::Bridge, false));
    assert_eq!((port.queues, port.mtu), (1, None));
    assert_eq!(port.vlan, access(1));
    assert!(port.groups.is_empty() && port.macs.is_empty());
}

#[test]
fn every_key_has_its_meaning() {
    let spec = file(
        r#"
        [switch]
        name = "lan1"
        mode = "isolated"
        control = "/run/lan1.sock"
        workers = 2
        cpus = [2, 3]
        poll = "always"
        spin_us = 100
        [fdb]
        capacity = 4096
        per_port = 64
        ageing = 60
        [port.web]
        socket = "/run/web"
        groups = ["front", "back"]
        mac = ["52:54:00:00:00:01", "52:54:00:00:00:02"]
        vlan = 10
        queues = 4
        mtu = 9000
        [port.db]
        socket = "/run/db"
        connect = true
        mode = "private"
        trunk = [10, "20-29"]
        native = 10
        [port.out]
        socket = "/run/out"
        uplink = true
        trunk = "all"
        "#,
    )
    .unwrap();
    assert_eq!((spec.name.as_str(), spec.workers), ("lan1", 2));
    assert_eq!(spec.control, Path::new("/run/lan1.sock"));
    assert_eq!(
        (spec.cpus, spec.poll, spec.spin_us),
        (vec![2, 3], PollMode::Always, 100)
    );
    assert_eq!(
        (spec.fdb.capacity, spec.fdb.per_port, spec.fdb.ageing),
        (4096, 64, 60)
    );
    let [web, db, out] = spec.ports.as_slice() else {
        panic!("three ports");
    };
    assert_eq!(web.mode, Mode::Isolated);
    assert_eq!(web.groups, ["front", "back"]);
    assert_eq!(web.macs.len(), 2);
    assert_eq!(web.vlan, access(10));
    assert_eq!((web.queues, web.mtu), (4, Some(9000)));
    assert_eq!(db.endpoint, Endpoint::Connect("/run/db".into()));
    assert_eq!(db.mode, Mode::Private);
    let (allowed, native) = (vids(10..=10).chain(vids(20..=29)).collect(), Vid::new(10));
    assert_eq!(db.vlan, VlanMembership::Trunk { allowed, native });
    assert!(out.uplink);
    let (allowed, native) = (VidSet::all(), None);
    assert_eq!(out.vlan, VlanMembership::Trunk { allowed, native });
}

#[test]
fn ports_keep_the_order_in_which_they_were_written() {
    let text = "[port.z]\nsocket='/z'\n[port.a]\nsocket='/a'\n[port.m]\nsocket='/m'\n";
    let names: Vec<String> = file(text)
        .unwrap()
        .ports
        .into_iter()
        .map(|p| p.name)
        .collect();
    assert_eq!(names, ["z", "a", "m"]);
}

#[test]
fn a_flag_says_what_a_section_says() {
    let mut by_flag = flags(&[
        "web=/run/web,connect=yes,mode=isolated,uplink=yes,mac=52:54:00:00:00:01,mac=52:54:00:00:00:02,\
         group=a,group=b,vlan=7,queues=2,mtu=1400",
        "t=/run/t,trunk=10,trunk=20-29,native=10",
    ])
    .unwrap();
    let mut by_file = file(
        r#"
        [port.web]
        socket = "/run/web"
        connect = true
        mode = "isolated"
        uplink = true
        mac = ["52:54:00:00:00:01", "52:54:00:00:00:02"]
        groups = ["a", "b"]
        vlan = 7
        queues = 2
        mtu = 1400
        [port.t]
        socket = "/run/t"
        trunk = [10, "20-29"]
        native = 10
        "#,
    )
    .unwrap();
    for port in by_flag.ports.iter_mut().chain(&mut by_file.ports) {
        port.origin = Place::Whole(String::new());
        (port.mac_origin, port.ip_origin) = (None, None);
    }
    assert_eq!(by_flag.ports, by_file.ports);
}

#[test]
fn flags_win_over_the_file_and_add_ports_to_it() {
    let overrides = Overrides {
        name: Some("other".into()),
        mode: Some("private".into()),
        control: Some("/run/c".into()),
        workers: Some("2".into()),
        cpus: vec!["4".into(), "5".into()],
        poll: Some("never".into()),
        ports: vec!["b=/b".into()],
    };
    let text = "[switch]\nname = \"lan\"\nworkers = 1\n[port.a]\nsocket = \"/a\"\n";
    let spec = from_text(Some(Path::new("lan.toml")), text, &overrides).unwrap();
    assert_eq!(
        (spec.name.as_str(), spec.workers, spec.cpus),
        ("other", 2, vec![4, 5])
    );
    assert_eq!(
        (spec.poll, spec.control),
        (PollMode::Never, "/run/c".into())
    );
    assert_eq!(spec.ports.len(), 2);
    assert!(spec.ports.iter().all(|port| port.mode == Mode::Private));
}

#[test]
fn text_that_is_not_toml_is_refused_with_its_line() {
    let error = file("[port.web]\nsocket = /run/web\n")
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("lan.toml:2: not valid TOML: "), "{error}");
    let twice = "[port.web]\nsocket = \"/a\"\n[port.web]\nsocket = \"/b\"\n";
    refused(
        twice,
        &["lan.toml:3: not valid TOML: duplicate key; \
           a key stands once in its section, and every port has a name of its own"],
    );
}

#[test]
fn unknown_keys_are_refused_and_the_nearest_is_named() {
    port_refused(
        "mods = \"bridge\"",
        "lan.toml:3: port \"web\": mods: unknown key; did you mean mode?",
    );
    port_refused(
        "bandwidth = 5",
        "lan.toml:3: port \"web\": bandwidth: unknown key; the keys here are \
         socket, connect, uplink, groups, mac, mode, vlan, trunk, native, queues, mtu, spoofing, ip, link_local, \
         dhcp_server, router, link_protocols, max_leases, addressing_rate, acl, gateway_mac, dhcp_servers, limits, \
         quarantine, connections, half_open, new_connections, max_macs, socket_mode, socket_owner, socket_group",
    );
    refused(
        "[swich]\nname = \"x\"\n[ports.a]\nsocket = \"/a\"\n[port.b]\nsocket = \"/b\"\n[fdb]\naging = 3\n",
        &[
            "lan.toml:1: swich: unknown section; did you mean [switch]?",
            "lan.toml:3: ports: unknown section; did you mean [port.NAME]?",
            "lan.toml:8: [fdb]: aging: unknown key; did you mean ageing?",
        ],
    );
    refused(
        "name = \"x\"\n[port]\nsocket = \"/b\"\n",
        &[
            "lan.toml:1: name: unknown key; the sections are [switch], [fdb], [conntrack], [defaults], [port.NAME], \
             [group.NAME], [acl.NAME], [set.NAME], [[assert]]",
            "lan.toml:3: port.socket: is not a section; \
             [port] holds ports only: write [port.socket], or put the key into one",
        ],
    );
}

#[test]
fn all_faults_are_told_at_once() {
    refused(
        "[port.web]\nsocket = \"/run/web\"\nmode = \"bridged\"\nqueues = 9\nmtu = \"big\"\nuplink = 1\n",
        &[
            "lan.toml:3: port \"web\": mode: \"bridged\" is not known; \
             did you mean \"bridge\"? The choices are bridge, isolated, private",
            "lan.toml:4: port \"web\": queues: 9 is out of range; choose a whole number from 1 to 8",
            "lan.toml:5: port \"web\": mtu: is a string, not a number; choose a whole number from 68 to 65535",
            "lan.toml:6: port \"web\": uplink: is a number, not true or false; write true or false",
        ],
    );
}

#[test]
fn a_port_without_a_socket_is_refused() {
    refused(
        "\n[port.web]\nmode = \"bridge\"\n",
        &["lan.toml:2: port \"web\": socket: is missing; \
           name the Unix socket, such as socket = \"/run/portcullis/web.sock\""],
    );
}

#[test]
fn a_switch_without_ports_is_refused() {
    let remedy = "a switch without ports; add [port.NAME] with its socket, or --port NAME=PATH";
    refused(
        "[switch]\nname = \"x\"\n",
        &[&format!("lan.toml: {remedy}")],
    );
    flag_refused(&[], &format!("command line: {remedy}"));
}

#[test]
fn a_switch_has_1024_ports_and_no_more() {
    let text = |count: usize| {
        let port = |n| format!("[port.p{n}]\nsocket = \"/run/{n}\"\n");
        (0..count).map(port).collect::<String>()
    };
    assert_eq!(file(&text(1024)).unwrap().ports.len(), 1024);
    refused(
        &text(1025),
        &["lan.toml: 1025 ports, and a switch has 1024 at most; run a second switch for the rest"],
    );
}

#[test]
fn bad_names_are_refused() {
    let rule = "choose 1 to 32 of A-Z a-z 0-9 _ . - and begin with a letter, a digit or _";
    let long = "n".repeat(33);
    for name in ["", "..", "-x", "a/b", "a b", "\u{e9}", &long] {
        refused(
            &format!("[port.\"{name}\"]\nsocket = \"/x\"\n"),
            &[&format!(
                "lan.toml:1: port {name:?}: {name:?} is not a name; {rule}"
            )],
        );
        assert!(
            file(&format!(
                "[switch]\nname = \"{name}\"\n[port.a]\nsocket = \"/x\"\n"
            ))
            .is_err()
        );
        assert!(
            file(&format!(
                "[port.a]\nsocket = \"/x\"\ngroups = [\"{name}\"]\n"
            ))
            .is_err()
        );
    }
    assert!(file(&format!("[port.{}]\nsocket = \"/x\"\n", "n".repeat(32))).is_ok());
}

#[test]
fn two_ports_share_no_name_no_socket_and_no_address() {
    flag_refused(
        &["web=/a", "web=/b"],
        "--port web=/b: port \"web\": the name is taken at --port web=/a; give each port its own name",
    );
    refused(
        "[port.a]\nsocket = \"/run/x\"\n[port.b]\nsocket = \"/run/./x\"\n",
        &[
            "lan.toml:4: port \"b\": socket: /run/./x is the socket of port \"a\" at lan.toml:2; \
           give each port its own socket",
        ],
    );
    refused(
        "[port.a]\nsocket = \"/a\"\nmac = \"52:54:00:00:00:01\"\n\
         [port.b]\nsocket = \"/b\"\nmac = \"52:54:00:00:00:01\"\n",
        &[
            "lan.toml:6: port \"b\": mac: 52:54:00:00:00:01 is an address of port \"a\" at lan.toml:3; \
           an address belongs to one port",
        ],
    );
    refused(
        "[switch]\ncontrol = \"/run/x\"\n[port.a]\nsocket = \"/run/x\"\n",
        &[
            "lan.toml:2: [switch]: control: /run/x is the socket of port \"a\"; \
           give the control socket a path of its own",
        ],
    );
}

#[test]
fn bad_addresses_are_refused() {
    let cases = [
        ("01:00:5e:00:00:01", "is a multicast address"),
        ("ff:ff:ff:ff:ff:ff", "is the broadcast address"),
        ("00:00:00:00:00:00", "is zero"),
        ("52:54:00:00:00", "is not a MAC address"),
        ("52:54:00:00:00:01:02", "is not a MAC address"),
        ("52:54:00:00:00:0g", "is not a MAC address"),
        ("52:54:00:00:00:+1", "is not a MAC address"),
        ("525400000001", "is not a MAC address"),
        ("", "is not a MAC address"),
    ];
    for (mac, why) in cases {
        port_refused(
            &format!("mac = [\n  \"{mac}\",\n]"),
            &format!(
                "lan.toml:4: port \"web\": mac: {mac:?} {why}; \
                 give a guest's own address, such as 52:54:00:12:34:56"
            ),
        );
    }
    port_refused(
        "mac = [\"52:54:00:00:00:01\", \"52:54:00:00:00:01\"]",
        "lan.toml:3: port \"web\": mac: 52:54:00:00:00:01 stands there twice; name it once",
    );
}

#[test]
fn vlans_are_1_to_4094_and_either_access_or_trunk() {
    let range = "choose a whole number from 1 to 4094";
    for vid in [
        "0",
        "4095",
        "-1",
        "99999999999999999999999999999999999999999",
    ] {
        let error = file(&format!("[port.a]\nsocket = \"/a\"\nvlan = {vid}\n"));
        assert!(
            error
                .unwrap_err()
                .to_string()
                .starts_with("lan.toml:3: port \"a\": vlan: ")
        );
    }
    port_refused(
        "trunk = [10, \"0-5\"]",
        &format!("lan.toml:3: port \"web\": trunk: 0 is out of range; {range}"),
    );
    port_refused(
        "trunk = [\"20-10\"]",
        "lan.toml:3: port \"web\": trunk: 20-10 runs backwards; write the smaller number first",
    );
    port_refused(
        "trunk = []",
        "lan.toml:3: port \"web\": trunk: allows no segment; \
         name segments, such as trunk = [10, \"20-29\"], or trunk = \"all\"",
    );
    port_refused(
        "native = 5",
        "lan.toml:3: port \"web\": native: is for trunk ports; add trunk = [...], or write vlan instead",
    );
    port_refused(
        "vlan = 5\ntrunk = [6]",
        "lan.toml:4: port \"web\": trunk: stands beside vlan; \
         vlan is for access ports and trunk for trunk ports: keep one",
    );
}

#[test]
fn socket_paths_fit_into_sun_path() {
    let longest = format!("/{}", "s".repeat(106));
    assert!(file(&format!("[port.a]\nsocket = \"{longest}\"\n")).is_ok());
    let remedy = "a Unix socket's path is a file name of at most 107 bytes: choose another";
    refused(
        &format!("[port.a]\nsocket = \"{longest}s\"\n"),
        &[&format!(
            "lan.toml:2: port \"a\": socket: a path of 108 bytes; {remedy}"
        )],
    );
    refused(
        "[port.a]\nsocket = \"/run/\"\n",
        &[&format!(
            "lan.toml:2: port \"a\": socket: \"/run/\" names a directory; {remedy}"
        )],
    );
    refused(
        "[port.a]\nsocket = \"/run/\\u0000x\"\n",
        &[&format!(
            "lan.toml:2: port \"a\": socket: a path with a NUL in it; {remedy}"
        )],
    );
}

#[test]
fn workers_and_their_cpus_agree() {
    let with = |switch: &str| file(&format!("[switch]\n{switch}\n[port.a]\nsocket = \"/a\"\n"));
    assert_eq!(with("cpus = [1, 2, 3]").unwrap().workers, 3);
    assert_eq!(
        with("workers = 2\ncpus = [1]").unwrap_err().to_string(),
        "lan.toml:3: [switch]: cpus: 1 CPUs for 2 workers; name one CPU for each worker"
    );
    assert_eq!(
        with("cpus = [1, 1]").unwrap_err().to_string(),
        "lan.toml:2: [switch]: cpus: names a CPU twice; give each worker a CPU of its own"
    );
    assert!(with("workers = 0").is_err());
    assert!(with("poll = \"sometimes\"").is_err());
}

#[test]
fn the_table_is_bounded_and_its_bounds_agree() {
    let with = |fdb: &str| file(&format!("[fdb]\n{fdb}\n[port.a]\nsocket = \"/a\"\n"));
    assert_eq!(
        with("capacity = 100\nper_port = 200")
            .unwrap_err()
            .to_string(),
        "lan.toml:3: [fdb]: per_port: 200 is more than capacity, 100; raise capacity or lower per_port"
    );
    assert_eq!(with("capacity = 100").unwrap().fdb.per_port, 100);
    assert!(with("capacity = 0").is_err());
    assert!(with("capacity = 2000000").is_err());
    assert!(with("ageing = 0").is_err());
}

#[test]
fn flags_are_refused_by_name() {
    let form = "write --port NAME=PATH[,key=value]...";
    for flag in ["", "web", "=x", "web=", "web,mode=bridge"] {
        flag_refused(&[flag], &format!("--port {flag}: has no NAME=PATH; {form}"));
    }
    flag_refused(
        &["web=/w,isolated"],
        &format!("--port web=/w,isolated: port \"web\": \"isolated\" is not key=value; {form}"),
    );
    flag_refused(
        &["web=/w,groop=a"],
        "--port web=/w,groop=a: port \"web\": groop: unknown key; did you mean group?",
    );
    flag_refused(
        &["web=/w,mode=bridge,mode=private"],
        "--port web=/w,mode=bridge,mode=private: port \"web\": mode: given twice; give it once",
    );
    flag_refused(
        &["web=/w,connect=maybe"],
        "--port web=/w,connect=maybe: port \"web\": connect: \"maybe\" is neither yes nor no; write yes or no",
    );
    flag_refused(
        &["web=/w,mtu=67"],
        "--port web=/w,mtu=67: port \"web\": mtu: 67 is out of range; choose a whole number from 68 to 65535",
    );
}

#[test]
fn a_file_that_is_not_there_keeps_its_cause() {
    let error = load(Some(Path::new("/nowhere/lan.toml")), &Overrides::default()).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("/nowhere/lan.toml: cannot read the configuration;")
    );
    assert!(std::error::Error::source(&error).is_some());
}

mod paths {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// The faults of one port at `name` in a directory made by `prepare`; `DIR` stands for the directory.
    fn check(name: &str, prepare: impl FnOnce(&Path)) -> Result<(), String> {
        let directory = tempfile::tempdir().unwrap();
        prepare(directory.path());
        let at = directory.path().display().to_string();
        let text =
            format!("[switch]\ncontrol = \"{at}/control\"\n[port.web]\nsocket = \"{at}/{name}\"\n");
        let spec = file(&text).unwrap();
        check_paths(&spec).map_err(|error| error.to_string().replace(&at, "DIR"))
    }

    #[test]
    fn nothing_in_the_way_is_fine_and_nothing_is_made() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().display();
        let text = format!("[switch]\ncontrol = \"{at}/c\"\n[port.a]\nsocket = \"{at}/a\"\n");
        check_paths(&file(&text).unwrap()).unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_stale_socket_is_fine() {
        let stale = |at: &Path| drop(UnixListener::bind(at.join("web")).unwrap());
        assert_eq!(check("web", stale), Ok(()));
    }

    #[test]
    fn a_served_socket_is_refused_with_the_pid() {
        let mut server = None;
        let live = |at: &Path| server = Some(UnixListener::bind(at.join("web")).unwrap());
        let pid = std::process::id();
        assert_eq!(
            check("web", live),
            Err(format!(
                "lan.toml:4: port \"web\": socket: DIR/web: in use by pid {pid}; stop it or choose another path"
            ))
        );
        drop(server);
    }

    #[test]
    fn a_file_in_the_way_is_refused() {
        let write = |at: &Path| std::fs::write(at.join("web"), "x").unwrap();
        assert_eq!(
            check("web", write),
            Err("lan.toml:4: port \"web\": socket: DIR/web: a file that is not a socket is in the way; \
                 remove it or choose another path"
                .to_owned())
        );
    }

    #[test]
    fn a_missing_directory_is_refused() {
        assert_eq!(
            check("missing/web", |_| {}),
            Err("lan.toml:4: port \"web\": socket: DIR/missing/web: the directory DIR/missing is missing; \
                 make it, or choose another path"
                .to_owned())
        );
    }

    #[test]
    fn one_file_under_two_names_is_refused() {
        let link = |at: &Path| std::os::unix::fs::symlink(at, at.join("link")).unwrap();
        assert_eq!(
            check("link/control", link),
            Err("lan.toml:2: [switch]: control: DIR/control is the same file as that of port \"web\": socket; \
                 give each its own socket"
                .to_owned())
        );
    }

    #[test]
    fn a_socket_that_the_front_end_makes_may_be_missing_or_served() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().display();
        let text = format!(
            "[switch]\ncontrol = \"{at}/c\"\n[port.a]\nsocket = \"{at}/a\"\nconnect = true\n"
        );
        let spec = file(&text).unwrap();
        check_paths(&spec).unwrap();
        let _server = UnixListener::bind(directory.path().join("a")).unwrap();
        check_paths(&spec).unwrap();
    }
}
