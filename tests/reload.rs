//! A switch whose configuration changes while guests talk: what goes on, what ends, and that nothing is ever in between.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs,
    unreachable_pub
)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use portcullis::control::{QuarantineRequest, Question, ReleaseRequest};
use portcullis::guest::Guest;
use rig::{BROADCAST, PATIENCE, Switch, Victims, all, expect, frame, hear, mac, until};
use rustix::process::{Pid, Signal, kill_process};

#[path = "switch/rig.rs"]
#[allow(dead_code, reason = "shared with the tests of the switch")]
mod rig;

/// Runs `change` again and again while two victims talk, until it has been done `times` times.
fn under_load(victims: &mut Victims, times: u32, mut change: impl FnMut(u32)) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                victims.talk(10);
            }
            victims.talk(10);
        });
        // The victims' thread is let go even if this one fails.
        let _done = Done(&done);
        for turn in 0..times {
            change(turn);
        }
    });
}

struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn epoch(switch: &Switch) -> u64 {
    switch.status()["epoch"].as_u64().unwrap()
}

fn signal(switch: &Switch, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(switch.pid()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// Waits until the switch has closed the front-end's connection.
fn await_cut(guest: &Guest) {
    let wire = guest.front_end().unwrap().wire();
    assert!(wire.wait_closed_for(PATIENCE).unwrap());
}

#[test]
fn traffic_goes_on_through_100_reloads() {
    let plain = [("a", ""), ("b", ""), ("c", "")];
    let switch = Switch::start(&plain);
    let mut victims = Victims::plug(&switch, "a", "b");
    let variants: [&[(&str, &str)]; 5] = [
        // Every kind of change that leaves a and b as they are, or that their connections must survive.
        &[("a", ""), ("b", ""), ("c", "mode = \"private\"")],
        &[
            ("a", "mac = \"52:54:00:00:00:0a\""),
            ("b", ""),
            ("c", "vlan = 9"),
        ],
        &[("b", "uplink = true"), ("a", "mode = \"private\"")],
        &[
            ("a", "groups = [\"g\"]\nmode = \"isolated\""),
            ("b", ""),
            ("d", ""),
            ("c", ""),
        ],
        &plain,
    ];
    under_load(&mut victims, 100, |turn| {
        let report = switch.change(variants[turn as usize % variants.len()]);
        assert_eq!(report["epoch"], turn + 2);
    });
    for name in ["a", "b"] {
        let books = switch.books(name);
        assert_eq!((books.dropped, books.undelivered), (0, 0), "{name}");
        let events = &switch.port(name)["counters"]["events"];
        assert_eq!(events["connections"], 1, "{name} kept its connection");
    }
}

/// Case O-4, and what has happened elsewhere: a rule set that fails to load and leaves a port without any.
#[test]
fn failed_reload_leaving_a_port_open() {
    let ports = [
        ("a", "mode = \"isolated\""),
        ("b", "mode = \"isolated\""),
        ("c", ""),
    ];
    let switch = Switch::start(&ports);
    let (mut a, mut b, mut c) = (
        switch.guest("a", mac(1)),
        switch.guest("b", mac(2)),
        switch.guest("c", mac(3)),
    );
    // Everybody is known.
    for guest in [&mut a, &mut b, &mut c] {
        let hello = frame(BROADCAST, guest.mac(), b"hello");
        guest.send(&hello).unwrap();
    }
    hear(&mut c, mac(1));
    switch.await_received("b", 1);
    let file = switch.file();
    let good = switch.text("", &ports);
    let opened = [("a", ""), ("b", ""), ("c", "")];
    let with = |lines: &str, more: &str| switch.text(lines, &opened) + more;
    let nowhere = "[port.new]\nsocket = \"/nowhere/new\"\n";
    let beside = format!(
        "[port.first]\nsocket = \"{}\"\n",
        switch.socket("first").display()
    );
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (with("", "[port.d\n").into(), "lan.toml:14: not valid TOML"),
        (
            with("", "[port.d]\nsokcet = \"/d\"\n").into(),
            "lan.toml:15: port \"d\": sokcet: unknown key",
        ),
        (
            with("", "[port.a]\nsocket = \"/x\"\n").into(),
            "lan.toml:14: not valid TOML: duplicate key",
        ),
        (with("", "").into_bytes()[..140].to_vec(), "lan.toml:"),
        (
            [with("", "").as_bytes(), b"# \xff\n"].concat(),
            "lan.toml:14: not UTF-8",
        ),
        (
            with("workers = 2", "").into(),
            "restart needed: workers (1 to 2)",
        ),
        (
            with("poll = \"always\"", "").into(),
            "restart needed: poll (adaptive to always)",
        ),
        (
            with("", &(beside + nowhere)).into(),
            "lan.toml:17: cannot open a port\n  caused by: port \"new\": its socket cannot be had\n  caused by: socket /nowhere/new: cannot open its directory",
        ),
        (b"".to_vec(), "port"),
    ];
    let mut refused = |why: &str| {
        let text = switch.reload().expect_err(why);
        assert!(text.contains(why), "{why:?} in {text:?}");
        assert!(
            text.contains(&switch.file().display().to_string()),
            "{text}"
        );
        assert_eq!(epoch(&switch), 1);
        // a still reaches c, and nothing of it reaches b.
        let there = frame(mac(3), mac(1), why.as_bytes());
        a.send(&there).unwrap();
        assert_eq!(hear(&mut c, mac(1)).bytes, there);
        let before = switch.dropped("a", "unreachable");
        a.send(&frame(mac(2), mac(1), why.as_bytes())).unwrap();
        until("the drop", || {
            (switch.dropped("a", "unreachable") == before + 1).then_some(())
        });
    };
    for (text, why) in &cases {
        fs::write(&file, text).unwrap();
        refused(why);
    }
    fs::write(&file, with("", "")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    refused("mode 0666");
    let other = switch.socket("other.toml");
    fs::rename(&file, &other).unwrap();
    refused("cannot read the configuration");
    fs::set_permissions(&other, fs::Permissions::from_mode(0o600)).unwrap();
    std::os::unix::fs::symlink(&other, &file).unwrap();
    refused("is a symbolic link");
    assert!(!switch.socket("first").exists(), "a socket stayed behind");
    assert!(all(&mut b).iter().all(|got| got.bytes[6..12] != mac(1)));
    // And the good one again.
    fs::remove_file(&file).unwrap();
    fs::write(&file, good).unwrap();
    switch.reload().unwrap();
    assert_eq!(epoch(&switch), 2);
}

#[test]
fn ports_come_and_go_under_load() {
    let without = [("a", ""), ("b", "")];
    let switch = Switch::start(&without);
    let mut victims = Victims::plug(&switch, "a", "b");
    let with: Vec<(&str, &str)> = ["c", "d", "e"].map(|name| (name, "")).to_vec();
    let with = [&without[..], &with].concat();
    under_load(&mut victims, 20, |turn| {
        let report = switch.change(&with);
        assert_eq!(
            report["change"]["added"],
            serde_json::json!(["c", "d", "e"])
        );
        let mut guests: Vec<Guest> = ["c", "d", "e"]
            .iter()
            .zip(0x20..)
            .map(|(name, n)| switch.guest(name, mac(n)))
            .collect();
        let greeting = frame(mac(0x21), mac(0x20), &turn.to_be_bytes());
        guests[0].send(&greeting).unwrap();
        assert_eq!(hear(&mut guests[1], mac(0x20)).bytes, greeting);
        let report = switch.change(&without);
        assert_eq!(
            report["change"]["removed"],
            serde_json::json!(["c", "d", "e"])
        );
        for (guest, name) in guests.iter().zip(["c", "d", "e"]) {
            await_cut(guest);
            assert!(!switch.socket(name).exists());
        }
    });
    // Numbers of ports that have gone are given again: these are not the 61st to 63rd.
    switch.change(&with);
    for name in ["c", "d", "e"] {
        assert!(switch.port(name)["id"].as_u64().unwrap() < 16, "{name}");
    }
    assert_eq!(switch.books("a").dropped, 0);
}

#[test]
fn a_port_is_replaced_at_its_own_socket_and_two_can_change_places() {
    let switch = Switch::start(&[("a", ""), ("b", ""), ("c", "")]);
    let (a, c) = (switch.socket("a"), switch.socket("c"));
    let mut guests = [switch.guest("a", mac(1)), switch.guest("c", mac(3))];
    let mut b = switch.guest("b", mac(2));
    let swapped = [
        ("a", format!("socket = \"{}\"", c.display())),
        ("b", String::new()),
        (
            "c",
            format!(
                "socket = \"{}\"\nqueues = 4\nmode = \"private\"",
                a.display()
            ),
        ),
    ];
    let swapped: Vec<(&str, &str)> = swapped.iter().map(|(n, t)| (*n, t.as_str())).collect();
    let report = switch.change(&swapped);
    let replaced = report["change"]["replaced"].as_array().unwrap();
    assert_eq!(replaced.len(), 2, "{report}");
    for guest in &mut guests {
        await_cut(guest);
    }
    // What is plugged into the path of old is another port now: that of c may not reach b.
    let connect = |path: &PathBuf, n| Guest::builder().mac(mac(n)).connect(path).unwrap();
    let (mut at_a, mut at_c) = (connect(&a, 0x11), connect(&c, 0x13));
    for name in ["a", "c"] {
        switch.await_state(name, "running");
        assert_eq!(switch.port(name)["counters"]["events"]["connections"], 1);
    }
    at_a.send(&frame(BROADCAST, mac(0x11), b"from c")).unwrap();
    let hello = frame(BROADCAST, mac(0x13), b"from a");
    at_c.send(&hello).unwrap();
    assert_eq!(expect(&mut b).bytes, hello);
    until("the drop", || {
        (switch.dropped("c", "no-destination") == 1).then_some(())
    });
    assert_eq!(switch.port("b")["counters"]["events"]["connections"], 1);
}

/// Case O-5 (CVE-2015-5240): whoever plugs in at the very moment passes nothing before the policy of its port is bound.
#[test]
fn o_5_attached_in_the_moment_of_a_reload() {
    let without = [("a", "mode = \"isolated\"")];
    let switch = Switch::start(&without);
    let mut a = switch.guest("a", mac(1));
    let with = [without[0], ("c", "mode = \"isolated\"")];
    for turn in 0..20u32 {
        let path = switch.socket("c");
        let mut c = std::thread::scope(|scope| {
            let early = scope.spawn(|| {
                // The socket is there before the reload is in force: be the first.
                until("the socket", || path.exists().then_some(()));
                let mut c = until("a connection", || {
                    Guest::builder().mac(mac(3)).connect(&path).ok()
                });
                for _ in 0..8 {
                    c.send(&frame(mac(1), mac(3), &turn.to_be_bytes())).unwrap();
                    c.send(&frame(BROADCAST, mac(3), &turn.to_be_bytes()))
                        .unwrap();
                }
                c
            });
            switch.change(&with);
            early.join().unwrap()
        });
        switch.await_received("c", 16);
        let books = switch.books("c");
        assert_eq!((books.forwarded, books.dropped), (0, books.received));
        // The other way: a is heard by nobody.
        a.send(&frame(BROADCAST, mac(1), &turn.to_be_bytes()))
            .unwrap();
        until("the books of a", || {
            (switch.books("a").received == u64::from(turn) + 1).then_some(())
        });
        assert!(all(&mut c).is_empty());
        switch.change(&without);
    }
    assert!(all(&mut a).is_empty());
    assert_eq!(switch.books("a").offered, 0);
}

/// Both sides of a frame's way change in one reload, and change back, again and again. A frame that was classified by the one
/// configuration and forwarded by the other would go nowhere, or arrive with a tag that neither gives it.
#[test]
fn no_frame_is_judged_by_a_mixture() {
    let ports = |vlan: u16| {
        [
            ("a", format!("vlan = {vlan}")),
            ("t", format!("trunk = [{vlan}]")),
        ]
    };
    let texts = [10, 20].map(ports);
    let tables = texts.each_ref().map(|ports| {
        ports
            .each_ref()
            .map(|(name, table)| (*name, table.as_str()))
    });
    let switch = Switch::start(&tables[0]);
    let (mut a, mut t) = (switch.guest("a", mac(1)), switch.guest("t", mac(2)));
    let done = AtomicBool::new(false);
    let (sent, tags) = std::thread::scope(|scope| {
        let traffic = scope.spawn(|| {
            let (mut sent, mut tags) = (0u64, [0u64; 2]);
            while !done.load(Ordering::Relaxed) {
                sent += 1;
                a.send(&frame(BROADCAST, mac(1), &sent.to_be_bytes()))
                    .unwrap();
                let got = expect(&mut t).bytes;
                // Lost, it would be waited for in vain.
                assert_eq!(got[18..26], sent.to_be_bytes());
                match got[12..16] {
                    [0x81, 0x00, 0, 10] => tags[0] += 1,
                    [0x81, 0x00, 0, 20] => tags[1] += 1,
                    ref other => panic!("a tag that nobody gives: {other:x?}"),
                }
            }
            (sent, tags)
        });
        let _done = Done(&done);
        for turn in 1..=100 {
            switch.change(&tables[turn % 2]);
        }
        drop(_done);
        traffic.join().unwrap()
    });
    assert_eq!(tags[0] + tags[1], sent);
    assert!(tags[0] > 0 && tags[1] > 0, "{tags:?}");
    let books = switch.books("a");
    assert_eq!((books.forwarded, books.dropped), (sent, 0));
}

#[test]
fn o_11_sighup_reloads_and_a_storm_of_it_does_no_harm() {
    let mut switch = Switch::start(&[("a", ""), ("b", "")]);
    let mut victims = Victims::plug(&switch, "a", "b");
    fs::write(
        switch.file(),
        switch.text("", &[("a", ""), ("b", ""), ("c", "")]),
    )
    .unwrap();
    signal(&switch, Signal::HUP);
    until("the new port", || switch.socket("c").exists().then_some(()));
    until("the new policy", || (epoch(&switch) == 2).then_some(()));
    fs::write(switch.file(), "[port.").unwrap();
    signal(&switch, Signal::HUP);
    until("the refusal", || {
        let log = switch.log();
        (log.contains("reload refused") && log.contains("lan.toml:1")).then_some(())
    });
    assert_eq!(epoch(&switch), 2);
    fs::write(switch.file(), switch.text("", &[("a", ""), ("b", "")])).unwrap();
    under_load(&mut victims, 1000, |_| signal(&switch, Signal::HUP));
    until("the port's end", || {
        (!switch.socket("c").exists()).then_some(())
    });
    // Told to stop in the middle of a reload, it stops and leaves no socket.
    fs::write(
        switch.file(),
        switch.text("", &[("a", ""), ("b", ""), ("d", "")]),
    )
    .unwrap();
    signal(&switch, Signal::HUP);
    signal(&switch, Signal::TERM);
    until("the end", || (!switch.is_alive()).then_some(()));
    for name in ["a", "b", "c", "d", "control"] {
        assert!(!switch.socket(name).exists(), "{name}");
    }
}

fn hold(switch: &Switch, port: &str, helpers: &[&str]) -> serde_json::Value {
    let request = Question::Quarantine(QuarantineRequest {
        port: port.to_owned(),
        helpers: helpers.iter().map(|name| (*name).to_owned()).collect(),
        allow: None,
    });
    switch.ask(&request).unwrap()
}

#[test]
fn quarantine_holds_through_reload_and_restart_until_released() {
    let ports = [("a", ""), ("b", ""), ("c", "")];
    let mut switch = Switch::start(&ports);
    let mut guests = ["a", "b", "c"].map(|name| switch.guest(name, mac(name.as_bytes()[0])));
    // Who hears a broadcast of the first guest.
    let audience = |switch: &Switch, guests: &mut [Guest; 3], number: u8| {
        let before = switch.books("a").received;
        guests[0]
            .send(&frame(BROADCAST, mac(b'a'), &[number]))
            .unwrap();
        switch.await_received("a", before + 1);
        guests[1..]
            .iter_mut()
            .map(|guest| all(guest).iter().any(|got| got.bytes[14] == number))
            .collect::<Vec<bool>>()
    };
    assert_eq!(audience(&switch, &mut guests, 1), [true, true]);
    let answer = hold(&switch, "a", &["c"]);
    assert_eq!(answer["ports"][0]["port"], "a");
    assert_eq!(answer["not_saved"], serde_json::Value::Null);
    assert_eq!(audience(&switch, &mut guests, 2), [false, true]);
    assert_eq!(switch.port("a")["quarantine"]["helpers"][0], "c");
    hold(&switch, "a", &[]);
    assert_eq!(audience(&switch, &mut guests, 3), [false, false]);
    assert_eq!(switch.dropped("a", "quarantined"), 1);
    switch.change(&[("c", ""), ("a", "mode = \"bridge\""), ("b", "")]);
    assert_eq!(audience(&switch, &mut guests, 4), [false, false]);
    switch.kill();
    switch.run();
    let mut guests = ["a", "b", "c"].map(|name| switch.guest(name, mac(name.as_bytes()[0])));
    assert_eq!(audience(&switch, &mut guests, 5), [false, false]);
    let release = Question::Release(ReleaseRequest {
        port: "a".to_owned(),
    });
    switch.ask(&release).unwrap();
    assert_eq!(audience(&switch, &mut guests, 6), [true, true]);
    assert!(!switch.socket("control.quarantine").exists());
    let error = switch.ask(&release).unwrap_err().to_string();
    assert!(error.contains("not in quarantine"), "{error}");
}

/// Names and hits of the rules, in order.
fn hits(switch: &Switch) -> Vec<(String, u64)> {
    let answer = switch.ask(&Question::Rules(Default::default())).unwrap();
    let rule = |rule: &serde_json::Value| {
        let name = rule["name"].as_str().unwrap().to_owned();
        (name, rule["hits"].as_u64().unwrap())
    };
    answer["rules"]
        .as_array()
        .unwrap()
        .iter()
        .map(rule)
        .collect()
}

/// UDP from 10.0.0.1:1024 to 10.0.0.2:53, without a checksum.
fn query() -> Vec<u8> {
    let ip = [
        0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0x66, 0xcf, 10, 0, 0, 1, 10, 0, 0, 2, //
        4, 0, 0, 53, 0, 8, 0, 0,
    ];
    let mut query = [&mac(2)[..], &mac(1)[..], &[0x08, 0x00], &ip].concat();
    query.resize(60, 0);
    query
}

/// A rule that is there before and after goes on counting, wherever it stands in the file; also while its list rests.
#[test]
fn hits_of_rules_go_on_through_reloads_and_a_quarantine() {
    let dns = "{ deny = \"udp\", port = 53, name = \"dns\" }";
    let rest = "{ allow = \"any\", name = \"rest\" }";
    let ports = |outbound: &str| {
        let lists = format!(
            "[acl.quiet]\noutbound = [ {outbound} ]\n\
             [acl.alone]\noutbound = [ {{ allow = \"arp\", name = \"alone\" }} ]\n"
        );
        [("a", "acl = \"quiet\"".to_owned()), ("b", lists)]
    };
    let first = ports(&format!("{dns}, {rest}"));
    let tables = first
        .each_ref()
        .map(|(name, table)| (*name, table.as_str()));
    let switch = Switch::start(&tables);
    let (mut a, mut b) = (switch.guest("a", mac(1)), switch.guest("b", mac(2)));
    let query = query();
    let mut talk = |queries: u8| {
        for _ in 0..queries {
            a.send(&query).unwrap();
        }
        let passes = frame(mac(2), mac(1), b"passes");
        a.send(&passes).unwrap();
        assert_eq!(expect(&mut b).bytes, passes);
    };
    let is = |expected: &[(&str, u64)]| {
        let found = hits(&switch);
        let found: Vec<(&str, u64)> = found.iter().map(|(name, n)| (name.as_str(), *n)).collect();
        assert_eq!(found, expected);
    };
    let change = |tables: &[(&'static str, String); 2]| {
        let tables = tables
            .each_ref()
            .map(|(name, table)| (*name, table.as_str()));
        switch.change(&tables);
    };
    talk(2);
    is(&[("dns", 2), ("rest", 1)]);
    switch.reload().unwrap();
    is(&[("dns", 2), ("rest", 1)]);
    // Another rule before it, and the list begins anew with the line after.
    let web = "\n{ deny = \"tcp\", port = 80, name = \"web\" }";
    change(&ports(&format!("{web}, {dns},\n {rest}")));
    is(&[("web", 0), ("dns", 2), ("rest", 1)]);
    talk(1);
    is(&[("web", 0), ("dns", 3), ("rest", 2)]);
    // It means something else now.
    let other = dns.replace("53", "54");
    change(&ports(&format!("{web}, {other}, {rest}")));
    is(&[("web", 0), ("dns", 0), ("rest", 2)]);
    change(&ports(&format!("{dns}, {rest}")));
    talk(3);
    is(&[("dns", 3), ("rest", 3)]);
    let behind = QuarantineRequest {
        port: "a".to_owned(),
        helpers: Vec::new(),
        allow: Some("alone".to_owned()),
    };
    switch.ask(&Question::Quarantine(behind)).unwrap();
    until("the list of the quarantine", || {
        (hits(&switch).len() == 3).then_some(())
    });
    is(&[("alone", 0), ("dns", 3), ("rest", 3)]);
    let release = ReleaseRequest {
        port: "a".to_owned(),
    };
    switch.ask(&Question::Release(release)).unwrap();
    until("its own list", || (hits(&switch).len() == 2).then_some(()));
    is(&[("dns", 3), ("rest", 3)]);
    talk(1);
    is(&[("dns", 4), ("rest", 4)]);
}

/// Case O-6: what cannot be written is in force all the same, and said.
#[test]
fn o_6_a_quarantine_that_cannot_be_saved_holds_and_says_so() {
    let switch = Switch::start(&[("a", ""), ("b", "")]);
    let mut victims = Victims::plug(&switch, "a", "b");
    // Something that cannot be replaced by a file stands where the file is written.
    fs::create_dir(switch.socket("control.quarantine.new")).unwrap();
    let answer = hold(&switch, "a", &["b"]);
    let why = answer["not_saved"].as_str().unwrap();
    assert!(why.contains("control.quarantine"), "{why}");
    assert_eq!(switch.port("a")["quarantine"]["port"], "a");
    victims.talk(10);
}

/// And is written when it can be.
#[test]
fn o_6_a_quarantine_that_could_not_be_saved_is_saved_later() {
    let switch = Switch::start(&[("a", ""), ("b", "")]);
    let in_the_way = switch.socket("control.quarantine.new");
    fs::create_dir(&in_the_way).unwrap();
    assert!(hold(&switch, "a", &[])["not_saved"].is_string());
    fs::remove_dir(&in_the_way).unwrap();
    let file = switch.socket("control.quarantine");
    until("the book", || file.exists().then_some(()));
}

/// Whatever waits to be written when the switch stops is written.
#[test]
fn a_quarantine_is_on_disk_when_the_switch_has_stopped() {
    let mut switch = Switch::start(&[("a", ""), ("b", "")]);
    let in_the_way = switch.socket("control.quarantine.new");
    fs::create_dir(&in_the_way).unwrap();
    assert!(hold(&switch, "a", &[])["not_saved"].is_string());
    fs::remove_dir(&in_the_way).unwrap();
    switch.ask_to_stop();
    switch.await_end();
    switch.run();
    assert_eq!(switch.port("a")["quarantine"]["port"], "a");
}

#[test]
fn dropped_frames_are_kept_with_their_reason_and_rule() {
    use portcullis::control::DropsQuery;
    let acl = "[acl.quiet]\noutbound = [ { deny = \"udp\", port = 53, name = \"no-dns\" }, { allow = \"any\" } ]\n";
    let tables = [("a", "acl = \"quiet\"".to_owned()), ("b", acl.to_owned())];
    let tables = tables
        .each_ref()
        .map(|(name, table)| (*name, table.as_str()));
    let switch = Switch::start(&tables);
    let (mut a, mut b) = (switch.guest("a", mac(1)), switch.guest("b", mac(2)));
    let query = query();
    a.send(&query).unwrap();
    let passes = frame(mac(2), mac(1), b"passes");
    a.send(&passes).unwrap();
    assert_eq!(expect(&mut b).bytes, passes);
    let answer = switch.ask(&Question::Drops(DropsQuery::default())).unwrap();
    let ports = answer["ports"].as_array().unwrap();
    assert_eq!(ports.len(), 1, "{answer}");
    let frame = &ports[0]["frames"][0];
    assert_eq!(frame["reason"], "denied-outbound");
    assert_eq!(frame["rule"]["name"], "no-dns");
    assert_eq!(frame["to"], "b");
    assert_eq!(frame["len"], 60);
    let hex: String = query.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(frame["bytes"], hex);
    // And the rule's hits.
    let rules = switch.ask(&Question::Rules(Default::default())).unwrap();
    let rule = &rules["rules"][0];
    assert_eq!(
        (&rule["name"], &rule["hits"]),
        (&"no-dns".into(), &1.into())
    );
    assert_eq!(rule["action"], "deny");
}
