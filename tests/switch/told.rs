//! What the program tells of a switch that runs: connections, plans, dropped frames in a file.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::policy::{opens, pair, refused, station, tables, tcp, udp};
use crate::rig::{Switch, mac};

/// The program with these arguments, asked of this switch; what it prints.
fn tells(switch: &Switch, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(arguments)
        .arg("--control")
        .arg(switch.socket("control"))
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

const BOTH: &str =
    "{ allow = \"tcp\", port = 80, name = \"web\" }, { allow = \"tcp\", port = 443 }";

#[test]
fn flows_lists_connections_with_what_they_carried_and_the_rules_that_opened_them() {
    let ports = pair(BOTH);
    let switch = Switch::start(&tables(&ports));
    let mut client = switch.guest("client", mac(1));
    let mut server = switch.guest("server", mac(2));
    let title = "PROTO  STATE         AGE      IDLE     SENT       RECEIVED   CONNECTION\n";
    assert_eq!(tells(&switch, &["flows"]), title);
    opens(&mut client, &mut server, (1, 40_000), (2, 80));
    opens(&mut client, &mut server, (1, 40_001), (2, 443));
    refused(
        &switch,
        "client",
        &mut client,
        &udp((1, 1), (2, 53)),
        "not-allowed",
    );
    let table = tells(&switch, &["flows"]);
    let lines: Vec<&str> = table.strip_prefix(title).unwrap().lines().collect();
    assert_eq!(lines.len(), 2, "{table}");
    for (source, port) in [(40_000, 80), (40_001, 443)] {
        let end = format!("client > server: 10.0.0.1:{source} > 10.0.0.2:{port}");
        let line = lines.iter().find(|line| line.ends_with(&end)).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[..2], ["tcp", "established"], "{line}");
        // Two segments there, one back.
        assert_eq!(words[6..8], ["2", "1"], "{line}");
    }
    let flow = |arguments: &[&str]| -> Vec<Value> {
        let text = tells(&switch, arguments);
        let lines = text.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let all = flow(&["flows", "--json"]);
    let web = all.iter().find(|flow| flow["dst_port"] == 80).unwrap();
    assert_eq!(web["rules"][0]["name"], "web");
    assert_eq!(web["rules"][1], Value::Null);
    assert_eq!(
        (&web["from"], &web["to"]),
        (&"client".into(), &"server".into())
    );
    let bytes = tcp((1, 1), (2, 1), "S", 0, 0).len();
    assert_eq!(web["sent"]["bytes"], 2 * bytes);
    for (arguments, count) in [
        (&["flows", "--json", "--port", "server"][..], 2),
        (&["flows", "--json", "--proto", "tcp"], 2),
        (&["flows", "--json", "--proto", "udp"], 0),
        (&["flows", "--json", "--limit", "1"], 1),
    ] {
        assert_eq!(flow(arguments).len(), count, "{arguments:?}");
    }
    // What is reset is over, or closing at least.
    client
        .send(&tcp((1, 40_000), (2, 80), "R", 1001, 0))
        .unwrap();
    switch.await_received("client", 6);
    let states: Vec<String> = flow(&["flows", "--json"])
        .iter()
        .filter(|flow| flow["dst_port"] == 80)
        .map(|flow| flow["state"].to_string())
        .collect();
    assert!(
        !states.iter().any(|state| state.contains("established")),
        "{states:?}"
    );
}

#[test]
fn plan_names_the_live_connections_that_would_end_and_ends_none() {
    let (wide, narrow) = (pair(BOTH), pair("{ allow = \"tcp\", port = 443 }"));
    let switch = Switch::start(&tables(&wide));
    let mut client = switch.guest("client", mac(1));
    let mut server = switch.guest("server", mac(2));
    opens(&mut client, &mut server, (1, 40_000), (2, 80));
    opens(&mut client, &mut server, (1, 40_001), (2, 443));
    let plan = |ports: &[(&str, &str)]| {
        let file = switch.socket("new.toml");
        std::fs::write(&file, switch.text("", ports)).unwrap();
        tells(&switch, &["plan", file.to_str().unwrap()])
    };
    let ending = "  connections that would end\n";
    assert!(!plan(&tables(&wide)).contains(ending));
    let told = plan(&tables(&narrow));
    let (_, flows) = told.split_once(ending).expect(&told);
    assert_eq!(
        flows,
        "    client > server: protocol 6 10.0.0.1:40000 > 10.0.0.2:80\n"
    );
    // A port that goes takes its connections along, whatever its list says.
    let told = plan(&[("client", &wide[0].1), ("other", &wide[1].1)]);
    let (_, flows) = told.split_once(ending).expect(&told);
    assert_eq!(flows.lines().count(), 2, "{told}");
    // It was a plan.
    opens(&mut client, &mut server, (1, 40_002), (2, 80));
    assert_eq!(tells(&switch, &["flows"]).lines().count(), 4);
}

/// `explain` of each frame of a file.
fn explained(config: &Path, file: &Path, from: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["explain", "--from", from, "-c"])
        .arg(config)
        .arg("--pcap")
        .arg(file)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn dropped_frames_go_into_a_file_that_explain_judges_again() {
    let closed = station(
        2,
        "acl = \"closed\"\n[acl.closed]\ninbound = [ { reject = \"udp\", name = \"no-udp\" } ]",
    );
    let open = station(1, "");
    let switch = Switch::start(&[("a", &open), ("b", &closed)]);
    let mut a = switch.guest("a", mac(1));
    let _b = switch.guest("b", mac(2));
    refused(&switch, "a", &mut a, &udp((1, 7), (2, 53)), "rejected");
    let file = switch.socket("drops.pcapng");
    let said = tells(&switch, &["drops", "--pcap", file.to_str().unwrap()]);
    assert_eq!(said, format!("1 frame of 1 port in {}\n", file.display()));
    let bytes = std::fs::read(&file).unwrap();
    let has = |words: &[u8]| bytes.windows(words.len()).any(|window| window == words);
    assert!(has(b"rejected to b, ") && has(b"(no-udp)"), "the comment");
    let told = explained(&switch.file(), &file, "a");
    for words in [
        "1: 52:54:00:00:00:01 > 52:54:00:00:00:02 10.0.0.1:7 > 10.0.0.2:53 udp, 62 bytes\n",
        "(no-udp)",
        "reject: rejected\n",
    ] {
        assert!(told.contains(words), "{words} in {told}");
    }
}
