//! A policy of tiers, as every guest sees it: each tries everything at every other, and what it gets is what the policy says.

use std::collections::BTreeSet;

use crate::lab::{Bench, Guest, GuestSpec, PATIENCE, Qemu, Switch, boot, until};

const NAMES: [&str; 4] = ["web", "app", "db", "bastion"];
const TCP_PORTS: [u16; 4] = [22, 443, 5432, 8080];

const LISTS: &str = r#"
[acl.web]
inbound = [
    { allow = "tcp", from = "group:bastion", port = 22, name = "admin" },
    { allow = "icmp", from = "group:bastion", icmp = "echo-request" },
]
outbound = [
    { allow = "tcp", to = "group:app", port = 8080 },
    { allow = "udp", to = "group:app", port = 5353 },
    { reject = "ip" },
]
[acl.app]
inbound = [
    { allow = "tcp", from = "group:web", port = 8080 },
    { allow = "udp", from = "group:web", port = 5353 },
    { allow = "tcp", from = "group:bastion", port = 22, name = "admin" },
]
outbound = [{ allow = "tcp", to = "group:db", port = 5432 }]
[acl.db]
inbound = [
    { allow = "tcp", from = "group:app", port = 5432 },
    { allow = "tcp", from = "group:bastion", port = 22, name = "admin" },
]
outbound = []
[acl.bastion]
inbound = []
outbound = [
    { allow = "tcp", to = ["group:web", "group:app", "group:db"], port = 22 },
    { allow = "icmp", to = ["group:web", "group:app", "group:db"], icmp = "echo-request" },
]
"#;

/// Who gets what from whom, by the lists above: everything else is refused.
const ALLOWED: [(&str, &str, &str); 6] = [
    ("web", "app", "8080"),
    ("app", "db", "5432"),
    ("bastion", "web", "22"),
    ("bastion", "app", "22"),
    ("bastion", "db", "22"),
    ("bastion", "web", "ping"),
];

/// What a guest gets of its peers when it tries all at once: `PEER PORT` or `PEER ping`.
fn probe(guest: &mut Guest, peers: &[(&'static str, String)]) -> BTreeSet<(String, String)> {
    let mut command = String::from("rm -f /tmp/got; touch /tmp/got; ");
    for (name, address) in peers {
        command += &format!(
            "(ping -c 1 -W 5 {address} >/dev/null 2>&1 && echo {name} ping >>/tmp/got) & "
        );
        for port in TCP_PORTS {
            command += &format!(
                "(nc -w 5 {address} {port} </dev/null 2>/dev/null | grep -q here && echo {name} {port} >>/tmp/got) & "
            );
        }
    }
    command += "wait; cat /tmp/got";
    let got = guest.sh(&command);
    let words = got.lines().filter_map(|line| line.split_once(' '));
    words
        .map(|(name, what)| (name.to_owned(), what.to_owned()))
        .collect()
}

/// Datagrams that a guest has received.
fn datagrams(guest: &mut Guest) -> u32 {
    let text = guest.sh("cat /tmp/udp");
    let words: Vec<&str> = text.split_whitespace().collect();
    match words.as_slice() {
        ["received", received, ..] => received.parse().expect("a number"),
        _ => 0,
    }
}

#[test]
fn tiers_reach_each_other_as_their_policy_says_and_in_no_other_way() {
    let bench = Bench::new();
    let mut ports = LISTS.to_owned();
    for (name, number) in NAMES.iter().zip(1..) {
        let socket = bench.path(&format!("{name}.sock"));
        ports += &format!(
            "[port.{name}]\nsocket = {socket:?}\ngroups = {name:?}\nacl = {name:?}\nmac = \"52:54:00:00:00:{number:02x}\"\nip = \"10.9.0.{number}\"\n"
        );
    }
    let switch = Switch::start(&bench, &format!("default = \"deny\"\n{ports}"));
    let mut number = 0;
    let specs = NAMES.map(|name| {
        number += 1;
        GuestSpec::new(name, Qemu::V7, bench.path(&format!("{name}.sock")), number)
    });
    let mut guests = boot(&bench, specs);
    for guest in &mut guests {
        for port in TCP_PORTS {
            guest.sh(&format!(
                "(nc -ll -p {port} -e echo here >/dev/null 2>&1 &); until netstat -ltn | grep -q ':{port} '; do usleep 20000; done"
            ));
        }
        guest.sh("(lab udp serve 5353 file=/tmp/udp >/tmp/udp.err 2>&1 &); until [ -e /tmp/udp ]; do usleep 20000; done");
    }
    let addresses = guests.each_ref().map(|guest| guest.address());
    for at in 0..NAMES.len() {
        let peers: Vec<(&str, String)> = (0..NAMES.len())
            .filter(|other| *other != at)
            .map(|other| (NAMES[other], addresses[other].clone()))
            .collect();
        let got = probe(&mut guests[at], &peers);
        let expected: BTreeSet<(String, String)> = ALLOWED
            .iter()
            .filter(|(from, ..)| *from == NAMES[at])
            .map(|(_, to, what)| ((*to).to_owned(), (*what).to_owned()))
            .collect();
        assert_eq!(got, expected, "what {} gets", NAMES[at]);
        // That the others were asked for, and that it was we who refused: in the end of a list, or by its rule.
        let refused =
            switch.dropped(NAMES[at], "not-allowed") + switch.dropped(NAMES[at], "rejected");
        let tried = peers.len() * (TCP_PORTS.len() + 1) - expected.len();
        assert!(
            refused >= tried as u64,
            "{}: {refused} of {tried}",
            NAMES[at]
        );
        assert!(switch.traffic(NAMES[at]).forwarded > 0);
        for (_, address) in &peers {
            // A guest that is told that it may not counts as one that has tried.
            guests[at].try_sh(&format!("lab udp push {address} 5353 3 100 gap-us=1000"));
        }
        if NAMES[at] == "web" {
            until("a datagram from web to app", PATIENCE, || {
                (datagrams(&mut guests[1]) > 0).then_some(())
            });
        }
    }
    // Nothing is on its way any more: what the others sent, nobody has.
    let traffic = NAMES.map(|name| switch.traffic(name));
    let received = guests.each_mut().map(datagrams);
    assert!(matches!(received, [0, 1..=3, 0, 0]), "{received:?}");
    assert_eq!(traffic.map(|port| port.undelivered), [0; 4]);
    assert!(switch.dropped("web", "rejected") > 0);
    assert!(switch.dropped("db", "not-allowed") > 0);
}
