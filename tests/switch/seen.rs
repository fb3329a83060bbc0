//! What the commands show of a switch with guests on it.

use std::process::{Command, Output};

use portcullis::guest::Guest;
use serde_json::Value;

use crate::rig::{Switch, all, expect, frame, mac, until};

fn portcullis(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(arguments)
        .output()
        .unwrap()
}

/// What a command prints, when it ends well.
fn prints(arguments: &[&str]) -> String {
    let output = portcullis(arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn status_shows_who_is_there_what_was_agreed_and_what_was_lost() {
    let switch = Switch::start(&[
        ("web", "mac = [\"52:54:00:00:00:01\"]\nspoofing = \"allow\""),
        ("db", ""),
        ("idle", ""),
    ]);
    let control = switch.socket("control").display().to_string();
    let mut web = switch.plug("web", Guest::builder().mac(mac(1)).offloads());
    let mut db = switch.guest("db", mac(2));
    db.send(&frame(mac(1), mac(2), b"here")).unwrap();
    expect(&mut web);
    // A runt, and somebody else's address.
    web.send(&[0; 13]).unwrap();
    web.send(&frame(mac(1), mac(2), b"I am db")).unwrap();
    switch.await_received("web", 2);
    // A rate is of the last whole second: frames go on until one is shown.
    let status = until("rates", || {
        web.send(&frame(mac(2), mac(1), &[1; 400])).unwrap();
        expect(&mut db);
        let text = prints(&["status", "--control", &control, "--json"]);
        let status: Value = serde_json::from_str(&text).unwrap();
        let rates = |at: usize, way: &str, what: &str| {
            let rate = &status["ports"][at]["rates"][way][what];
            rate.as_f64().unwrap()
        };
        let all = [
            rates(0, "sent", "frames"),
            rates(0, "sent", "bytes"),
            rates(1, "received", "frames"),
            rates(1, "received", "bytes"),
        ];
        all.iter().all(|rate| *rate > 0.0).then_some(status)
    });
    let [seen, other, idle] = status["ports"].as_array().unwrap().as_slice() else {
        panic!("three ports");
    };
    let own = u64::from(std::process::id());
    let uid = u64::from(rustix::process::getuid().as_raw());
    for port in [seen, other] {
        assert_eq!(port["state"], "running");
        assert_eq!(port["peer"]["pid"], own);
        assert_eq!(port["peer"]["uid"], uid);
    }
    assert_eq!(
        (&idle["state"], &idle["peer"]),
        (&"waiting".into(), &Value::Null)
    );
    let features =
        |port: &Value| -> Vec<String> { serde_json::from_value(port["features"].clone()).unwrap() };
    for feature in ["version-1", "mrg-rxbuf", "event-idx", "csum", "guest-tso4"] {
        assert!(
            features(seen).iter().any(|known| known == feature),
            "{feature}"
        );
    }
    assert!(!features(other).iter().any(|known| known == "guest-tso4"));
    assert_eq!(seen["macs"]["fixed"][0], "52:54:00:00:00:01");
    assert_eq!(other["macs"]["kept"][0], "52:54:00:00:00:02");
    let drops = &seen["counters"]["ingress"]["dropped"];
    assert_eq!(
        (&drops["runt"], &drops["mac-of-other-port"]),
        (&1.into(), &1.into())
    );

    let table = prints(&["status", "--control", &control]);
    let line = |words: &[&str]| {
        let found = table
            .lines()
            .any(|line| words.iter().all(|word| line.contains(word)));
        assert!(found, "{words:?} in {table}");
    };
    let peer = format!("pid {own} uid {uid}");
    line(&["web", "bridge", "running", &peer]);
    line(&["db", "bridge", "running", &peer, "bit/s"]);
    line(&["idle", "waiting", " - "]);
    line(&["features", "version-1", "guest-tso4"]);
    line(&["addresses", "52:54:00:00:00:01 (fixed)"]);
    line(&["addresses", "52:54:00:00:00:02 (kept)"]);
    line(&["dropped", "runt 1", "mac-of-other-port 1"]);
    assert_eq!(
        prints(&["fdb", "--port", "db", "--control", &control]),
        "ADDRESS            VLAN  AGE        PORT\n\
         52:54:00:00:00:02  all   kept       db\n"
    );
    all(&mut db);
}

#[test]
fn load_says_what_arrived_as_text_and_as_json() {
    let switch = Switch::start(&[("a", ""), ("b", "")]);
    let (a, b) = (switch.socket("a"), switch.socket("b"));
    let (a, b) = (a.display().to_string(), b.display().to_string());
    let load = |more: &[&str]| {
        let all = ["load", "--port", &a, "--port", &b, "--check", "full"];
        prints(&[&all[..], &["--touch", "--count", "5000"], more].concat())
    };
    let text = load(&["--json", "--size", "1500", "--in-flight", "64"]);
    let report: Value = serde_json::from_str(&text).unwrap();
    let sent = report["sent"].as_u64().unwrap();
    assert!(sent >= 5000, "{report:#}");
    assert_eq!(report["received"], sent, "{report:#}");
    for fault in ["corrupt", "duplicates"] {
        assert_eq!(report["faults"][fault], 0, "{report:#}");
    }
    let books = (switch.books("a"), switch.books("b"));
    assert!(books.0.forwarded + books.1.forwarded >= sent);
    for port in ["a", "b"] {
        switch.await_state(port, "waiting");
    }
    let text = load(&["--pattern", "ping-pong"]);
    for word in ["sent", "received", "p50", "p99"] {
        assert!(text.contains(word), "{word} in {text}");
    }
}
