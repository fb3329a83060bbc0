//! Quarantine end to end: behind a list, by a trigger; and the bounds of multicast groups.

use std::time::Instant;

use etherparse::{IpNumber, PacketBuilder};
use portcullis::control::{QuarantineRequest, Question, ReleaseRequest};

use crate::policy::{card, ip, opens, passes, refused, send, station, tcp, udp};
use crate::rig::{Switch, all, frame, mac, until};

fn behind(switch: &Switch, port: &str, list: &str) {
    let request = Question::Quarantine(QuarantineRequest {
        port: port.to_owned(),
        helpers: Vec::new(),
        allow: Some(list.to_owned()),
    });
    let answer = switch.ask(&request).unwrap();
    assert_eq!(answer["ports"][0]["allow"], list);
    assert_eq!(answer["not_saved"], serde_json::Value::Null);
}

fn release(switch: &Switch, port: &str) {
    let port = port.to_owned();
    switch
        .ask(&Question::Release(ReleaseRequest { port }))
        .unwrap();
}

/// Waits until a port is in quarantine; who put it there.
fn await_quarantine(switch: &Switch, port: &str) -> String {
    until("the quarantine", || {
        let by = switch.port(port)["quarantine"]["by"].clone();
        by.as_str().map(str::to_owned)
    })
}

/// Waits until the attendant has looked at the counters as they are now.
fn await_a_look(switch: &Switch) {
    let uptime = || switch.status()["uptime_s"].as_u64().unwrap();
    let now = uptime();
    until("two seconds", || (uptime() >= now + 2).then_some(()));
    // The turn that gave that answer has looked before it gives another.
    uptime();
}

const SICK: &str =
    "[acl.sick]\noutbound = [ { allow = \"tcp\", to = \"port:helper\", port = 22 } ]\n";

#[test]
fn a_port_behind_a_list_does_what_that_allows_through_reload_and_restart() {
    let (client, server) = (station(1, ""), station(2, ""));
    let with_list = station(3, SICK);
    let ports = [
        ("client", client.as_str()),
        ("server", server.as_str()),
        ("helper", with_list.as_str()),
    ];
    let mut switch = Switch::start(&ports);
    let mut client = switch.guest("client", mac(1));
    let mut server = switch.guest("server", mac(2));
    let mut helper = switch.guest("helper", mac(3));
    opens(&mut client, &mut server, (1, 40_000), (2, 80));
    behind(&switch, "client", "sick");
    // What was open is over, and what the list allows is open.
    let more = tcp((1, 40_000), (2, 80), "A", 1001, 5001);
    refused(&switch, "client", &mut client, &more, "not-allowed");
    let back = tcp((2, 80), (1, 40_000), "A", 5001, 1001);
    refused(&switch, "server", &mut server, &back, "not-allowed");
    opens(&mut client, &mut helper, (1, 40_001), (3, 22));
    let other = tcp((1, 40_002), (3, 80), "S", 1, 0);
    refused(&switch, "client", &mut client, &other, "not-allowed");
    // Others are not concerned.
    passes(&mut server, &mut helper, &udp((2, 1), (3, 1)));
    // A reload for another reason leaves it there.
    let ports_and_one = [&ports[..], &[("more", "")]].concat();
    switch.change(&ports_and_one);
    let again = tcp((1, 40_003), (2, 80), "S", 1, 0);
    refused(&switch, "client", &mut client, &again, "not-allowed");
    opens(&mut client, &mut helper, (1, 40_003), (3, 22));
    // So does a restart.
    switch.kill();
    switch.run();
    let told = "in quarantine by operator, reaches what list sick allows";
    assert!(switch.log().contains(told), "{}", switch.log());
    let mut client = switch.guest("client", mac(1));
    let mut server = switch.guest("server", mac(2));
    let mut helper = switch.guest("helper", mac(3));
    refused(&switch, "client", &mut client, &again, "not-allowed");
    opens(&mut client, &mut helper, (1, 40_004), (3, 22));
    // Without the list it is alone.
    let plain = station(3, "");
    switch.change(&[ports[0], ports[1], ("helper", plain.as_str())]);
    let alone = tcp((1, 40_005), (3, 22), "S", 1, 0);
    refused(&switch, "client", &mut client, &alone, "quarantined");
    let told = &switch.port("client")["quarantine"];
    assert_eq!(
        (&told["allow"], &told["list_is_gone"]),
        (&"sick".into(), &true.into())
    );
    let told = "in quarantine by operator, reaches nobody: there is no list sick";
    assert!(switch.log().contains(told), "{}", switch.log());
    release(&switch, "client");
    passes(
        &mut client,
        &mut server,
        &tcp((1, 40_006), (2, 80), "S", 1, 0),
    );
}

#[test]
fn too_many_drops_of_a_reason_put_a_port_aside_until_it_is_released() {
    let keys = "quarantine = { drops = { source-ip-spoofed = \"10 in 3600s\" }, helpers = [\"helper\", \"bad\"] }";
    let (bad, good, helper) = (station(1, keys), station(2, ""), station(3, ""));
    let mut switch = Switch::start(&[("bad", &bad), ("good", &good), ("helper", &helper)]);
    let mut bad = switch.guest("bad", mac(1));
    let mut good = switch.guest("good", mac(2));
    let spoofed = {
        let mut bytes = udp((1, 1), (2, 1));
        bytes[26..30].copy_from_slice(&ip(99));
        bytes
    };
    // The first look finds the counters as they are.
    await_a_look(&switch);
    send(&switch, "bad", &mut bad, &vec![spoofed.clone(); 9]);
    send(
        &switch,
        "bad",
        &mut bad,
        &vec![frame(mac(2), mac(7), b"other reasons"); 50],
    );
    await_a_look(&switch);
    assert!(switch.port("bad")["quarantine"].is_null());
    send(&switch, "bad", &mut bad, &[spoofed]);
    let by = await_quarantine(&switch, "bad");
    assert_eq!(by, "trigger: 10 source-ip-spoofed within 3600 s");
    // As a table in `[defaults]` would have it, that names a helper of everybody: it is not its own.
    let helpers = &switch.port("bad")["quarantine"]["helpers"];
    assert_eq!(helpers, &serde_json::json!(["helper"]));
    refused(
        &switch,
        "bad",
        &mut bad,
        &udp((1, 1), (2, 1)),
        "quarantined",
    );
    // It is on disk, though nobody waited for that.
    let book = switch.socket("control.quarantine");
    until("the book", || {
        let text = std::fs::read_to_string(&book).ok()?;
        text.contains("source-ip-spoofed").then_some(())
    });
    switch.kill();
    switch.run();
    let mut again = switch.guest("bad", mac(1));
    let mut hears = switch.guest("good", mac(2));
    refused(
        &switch,
        "bad",
        &mut again,
        &udp((1, 1), (2, 1)),
        "quarantined",
    );
    release(&switch, "bad");
    await_a_look(&switch);
    passes(&mut again, &mut hears, &udp((1, 1), (2, 1)));
    assert!(all(&mut good).is_empty());
}

#[test]
fn a_port_scan_puts_a_port_aside_and_a_client_that_tries_again_does_not() {
    let keys = "quarantine = { scan = \"100 in 3600s\" }";
    let closed = station(
        2,
        "acl = \"closed\"\n[acl.closed]\ninbound = [ { reject = \"tcp\" } ]",
    );
    let switch = Switch::start(&[("a", &station(1, keys)), ("b", &closed)]);
    let mut a = switch.guest("a", mac(1));
    let _b = switch.guest("b", mac(2));
    await_a_look(&switch);
    let tries: Vec<_> = (0..1000)
        .map(|n| udp((1, 1024 + n), (2, 53 + n % 20)))
        .collect();
    send(&switch, "a", &mut a, &tries);
    await_a_look(&switch);
    assert!(switch.port("a")["quarantine"].is_null());
    let scan: Vec<_> = (1..=130)
        .map(|port| tcp((1, 40_000), (2, port), "S", 1, 0))
        .collect();
    send(&switch, "a", &mut a, &scan);
    let by = await_quarantine(&switch, "a");
    assert!(
        by.starts_with("trigger: a scan of 1") && by.ends_with(" ends or so within 3600 s"),
        "{by}"
    );
    refused(&switch, "a", &mut a, &udp((1, 1), (2, 1)), "quarantined");
}

/// An IGMP report of guest `from`.
fn report(from: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(mac(from), [0x01, 0, 0x5e, 0, 0, 0x16])
        .ipv4(ip(from), [224, 0, 0, 22], 1)
        .write(&mut bytes, IpNumber::IGMP, &[0x22, 0, 0, 0, 0, 0, 0, 0])
        .unwrap();
    bytes.resize(60, 0);
    bytes
}

/// Case E-33.
#[test]
fn e_33_multicast_groups_and_reports_are_bounded_for_each_port() {
    let keys = "limits = { multicast_groups = 3, membership = \"1/s burst 20\" }";
    let switch = Switch::start(&[("a", &card(1, keys)), ("b", &card(2, ""))]);
    let mut a = switch.guest("a", mac(1));
    let mut b = switch.guest("b", mac(2));
    let start = Instant::now();
    let report = report(1);
    passes(&mut a, &mut b, &report);
    send(&switch, "a", &mut a, &vec![report; 99]);
    let heard = all(&mut b).len() as u64 + 1;
    assert_eq!(switch.dropped("a", "membership-rate"), 100 - heard);
    let most = 20 + start.elapsed().as_secs() + 1;
    assert!((20..=most).contains(&heard), "{heard}, 20 to {most}");
    // The reports' group is one. A window that ends in between lets three more through.
    let groups: Vec<_> = (0..600u16)
        .map(|n| {
            let [high, low] = n.to_be_bytes();
            frame([0x01, 0, 0x5e, 1, high, low], mac(1), b"group")
        })
        .collect();
    send(&switch, "a", &mut a, &groups);
    let heard = all(&mut b).len() as u64;
    let windows = 1 + start.elapsed().as_secs() / 60 + 1;
    assert!((2..=3 * windows).contains(&heard), "{heard}");
    assert_eq!(switch.dropped("a", "group-limit"), 600 - heard);
    // Broadcast is no group in this sense, and others have their own bounds.
    passes(&mut a, &mut b, &frame([0xff; 6], mac(1), b"all"));
    passes(
        &mut b,
        &mut a,
        &frame([0x01, 0, 0x5e, 9, 9, 9], mac(2), b"group"),
    );
}
