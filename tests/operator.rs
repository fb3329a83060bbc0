//! What an operator types while he finds his way: packets in words, a configuration with a slip, help.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// A file of its own for each test.
struct Room {
    directory: tempfile::TempDir,
}

impl Room {
    fn new(text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let room = Self { directory };
        std::fs::write(room.file(), text).unwrap();
        room
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("lan.toml")
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(arguments)
            .current_dir(self.directory.path())
            .env("XDG_RUNTIME_DIR", self.directory.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    #[track_caller]
    fn explain(&self, arguments: &[&str]) -> String {
        let output = self.run(&[&["explain", "-c", "lan.toml"], arguments].concat());
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stdout)
    }
}

const LAN: &str = r#"
[switch]
default = "deny"

[port.web]
socket = "web.sock"
mac = "52:54:00:00:00:01"
ip = ["10.0.0.1", "fd00::1"]
acl = ["allow-dhcp", "web"]

[port.db]
socket = "db.sock"
mac = "52:54:00:00:00:02"
ip = ["10.0.0.2", "fd00::2"]

[port.dhcp]
socket = "dhcp.sock"
mac = "52:54:00:00:00:03"
ip = "10.0.0.3"
dhcp_server = true

[acl.web]
outbound = [{ allow = "tcp", port = 5432, name = "sql" }, { reject = "any" }]
"#;

#[test]
fn what_guests_need_to_be_addressed_is_explained_as_it_is() {
    let room = Room::new(LAN);
    let verdict = |from: &str, to: &str, packet: &str| {
        let text = room.explain(&["--from", from, "--to", to, packet]);
        text.lines().last().unwrap().to_owned()
    };
    let solicitation = "icmp=neighbour-solicitation";
    for (packet, expected) in [
        (
            &*format!("icmpv6 fd00::1 > fd00::2 {solicitation}"),
            "allow: db",
        ),
        (&*format!("icmpv6 :: > fd00::1 {solicitation}"), "allow: db"),
        (
            &*format!("icmpv6 :: > fd00::2 {solicitation}"),
            "deny: nd-spoofed",
        ),
        (
            "icmpv6 fd00::1 > fd00::2 icmp=neighbour-advertisement",
            "allow: db",
        ),
        (
            "icmpv6 fd00::1 > fd00::2 icmp=neighbour-advertisement target=fd00::9",
            "deny: nd-spoofed",
        ),
        (
            "icmpv6 fe80::5054:ff:fe00:1 > ff02::1 icmp=router-advertisement",
            "deny: router-refused",
        ),
        ("arp 0.0.0.0 > 10.0.0.1", "allow: db"),
        ("arp 10.0.0.2 > 10.0.0.1", "deny: arp-spoofed"),
        ("rarp", "allow: db"),
        ("tcp > :80 vlan=0", "deny: encapsulation-refused"),
        ("0x88b5 payload=46", "deny: protocol-refused"),
    ] {
        assert_eq!(verdict("web", "db", packet), expected, "{packet}");
    }
    // What its list allows, and what another would say in a server's place.
    let discover = "udp 0.0.0.0:68 > 255.255.255.255:67";
    assert_eq!(verdict("web", "dhcp", discover), "deny: not-allowed");
    assert_eq!(
        verdict("db", "web", "udp :67 > :68"),
        "deny: dhcp-server-refused"
    );
}

#[test]
fn without_a_receiver_it_is_whoever_declares_the_address() {
    let room = Room::new(LAN);
    let said = room.explain(&["--from", "web", "tcp 10.0.0.1:40000 > 10.0.0.2:5432"]);
    assert!(said.contains("forwarding     to db, vlan 1\n"), "{said}");
    let output = room.run(&[
        "explain",
        "-c",
        "lan.toml",
        "--from",
        "web",
        "tcp 10.0.0.1:1 > 10.0.0.9:1",
    ]);
    assert_eq!(output.status.code(), Some(2));
    // Once, and not again as its own cause.
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "error: the packet: the MAC address of the receiver is not known; name the port (--from, --to), or add mac \
         52:54:00:00:00:01 > 52:54:00:00:00:02\n"
    );
    let output = room.run(&["explain", "-c", "lan.toml", "--from", "wbe", "tcp > :1"]);
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "error: lan.toml: no port is called \"wbe\"; there are web, db, dhcp\n"
    );
    assert_eq!(output.status.code(), Some(2));
    for ward in ["wbe", "web=none"] {
        let flags = ["--from", "web", "--quarantined", ward, "tcp > :1"];
        let output = room.run(&[&["explain", "-c", "lan.toml"], &flags[..]].concat());
        assert_eq!(output.status.code(), Some(2), "{ward}");
    }
}

#[test]
fn each_step_has_its_port_verdict_and_rule_for_scripts() {
    let room = Room::new(LAN);
    let said = room.explain(&["--json", "--from", "web", "--to", "db", "tcp > :5432"]);
    let said: Value = serde_json::from_str(&said).unwrap();
    let steps = said["steps"].as_array().unwrap();
    let step = |name: &str| {
        let found = steps.iter().find(|step| step["name"] == name);
        found.unwrap_or_else(|| panic!("no {name}: {said}"))
    };
    let outbound = step("outbound");
    assert_eq!(
        (&outbound["port"], &outbound["action"]),
        (&"db".into(), &"allow".into())
    );
    assert_eq!(outbound["rule"]["name"], "sql");
    assert_eq!(outbound["rule"]["origin"], "lan.toml:23:13");
    assert_eq!(step("inbound")["action"], "deny");
    assert_eq!(step("inbound").get("rule"), None);
    assert_eq!(step("verdict")["action"], "deny");
    assert_eq!(
        (&said["verdict"], &said["reason"]),
        (&"deny".into(), &"not-allowed".into())
    );
}

#[test]
fn a_failing_assert_can_be_looked_into() {
    let assert =
        "[[assert]]\nfrom = \"web\"\nto = \"db\"\npacket = \"tcp > :22\"\nexpect = \"allow\"\n";
    let room = Room::new(&format!("{LAN}\n{assert}"));
    let check = room.run(&["check", "lan.toml"]);
    assert_eq!(check.status.code(), Some(3));
    let error = String::from_utf8(check.stderr).unwrap();
    assert!(
        error.contains("expected allow, but it is reject"),
        "{error}"
    );
    let said = room.explain(&["--from", "web", "--to", "db", "tcp > :22"]);
    assert!(said.ends_with("reject: rejected\n"), "{said}");
}

#[test]
fn notes_are_for_people_and_refuse_nothing() {
    let room = Room::new(&format!("{LAN}\n[group.app]\nmode = \"isolated\"\n"));
    let check = room.run(&["check", "lan.toml"]);
    assert_eq!(check.status.code(), Some(0));
    assert_eq!(check.stdout, b"lan: 3 ports, good\n");
    let notes = String::from_utf8(check.stderr).unwrap();
    assert_eq!(
        notes,
        "note: lan.toml:25: group \"app\": no port is in this group; name it in groups of a port\n"
    );
}

#[test]
fn the_help_of_each_command_has_an_example_and_the_exit_codes() {
    let room = Room::new("");
    for command in [
        "run",
        "check",
        "status",
        "reload",
        "plan",
        "explain",
        "fdb",
        "drops",
        "flows",
        "quarantine",
        "release",
    ] {
        let help = String::from_utf8(room.run(&[command, "--help"]).stdout).unwrap();
        assert!(
            help.contains(&format!("Example:\n  portcullis {command}")),
            "{help}"
        );
        assert!(help.contains("Exit codes: 0 done;"), "{help}");
    }
}
