//! Leases, end to end: granted over the wire, shown, and kept when the switch is started again.

use etherparse::PacketBuilder;
use portcullis::guest::Guest;

use crate::policy::{card, ip, passes, refused};
use crate::rig::{Switch, expect, frame, hear, mac, until};

/// The server's, guest 1, answer that gives guest 2 the address of guest `n` (RFC 2131, 3.1).
fn grant(n: u8, seconds: u32) -> Vec<u8> {
    let mut bytes = vec![2, 1, 6, 0];
    bytes.resize(16, 0);
    bytes.extend(ip(n));
    bytes.resize(28, 0);
    bytes.extend(mac(2));
    bytes.resize(236, 0);
    bytes.extend([0x63, 0x82, 0x53, 0x63, 53, 1, 5, 51, 4]);
    bytes.extend(seconds.to_be_bytes());
    bytes.push(255);
    bytes.resize(300, 0);
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(mac(1), mac(2))
        .ipv4(ip(1), ip(n), 64)
        .udp(67, 68)
        .write(&mut frame, &bytes)
        .unwrap();
    frame
}

/// What guest 2 says to the server under the address of guest `n`.
fn says(n: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(mac(2), mac(1))
        .ipv4(ip(n), ip(1), 64)
        .udp(5000, 53)
        .write(&mut bytes, &[0; 18])
        .unwrap();
    bytes
}

fn again(switch: &mut Switch, guests: [&mut Guest; 2]) {
    switch.run();
    for guest in guests {
        guest.reconnect().unwrap();
    }
    for port in ["server", "web"] {
        switch.await_state(port, "running");
    }
}

fn addresses(switch: &Switch) -> Vec<String> {
    let leases = switch.port("web")["leases"].as_array().unwrap().clone();
    let of = |lease: &serde_json::Value| lease["address"].as_str().unwrap().to_owned();
    leases.iter().map(of).collect()
}

/// They were forgotten: guests were cut off until they renewed.
#[test]
fn leases_outlive_a_switch_that_is_killed_and_one_that_is_stopped() {
    let (server, web) = (card(1, "dhcp_server = true"), card(2, "ip = \"dhcp\""));
    let mut switch = Switch::start(&[("server", &server), ("web", &web)]);
    let file = switch.socket("control.leases");
    let [mut server, mut web] = [("server", 1), ("web", 2)].map(|(p, n)| switch.guest(p, mac(n)));
    refused(&switch, "web", &mut web, &says(5), "source-ip-spoofed");
    assert!(addresses(&switch).is_empty() && !file.exists());
    passes(&mut server, &mut web, &grant(5, 600));
    passes(&mut web, &mut server, &says(5));
    assert_eq!(addresses(&switch), ["10.0.0.5"]);
    let lease = &switch.port("web")["leases"][0];
    assert_eq!(lease["mac"], "52:54:00:00:00:02");
    assert!((500..=600).contains(&lease["seconds"].as_u64().unwrap()));

    // Killed, as soon as it is written down.
    until("the file", || file.exists().then_some(()));
    switch.kill();
    again(&mut switch, [&mut server, &mut web]);
    passes(&mut web, &mut server, &says(5));
    refused(&switch, "web", &mut web, &says(6), "source-ip-spoofed");

    // Stopped, at once.
    passes(&mut server, &mut web, &grant(6, u32::MAX));
    switch.ask_to_stop();
    switch.await_end();
    again(&mut switch, [&mut server, &mut web]);
    passes(&mut web, &mut server, &says(6));
    passes(&mut web, &mut server, &says(5));
    assert_eq!(addresses(&switch), ["10.0.0.5", "10.0.0.6"]);

    // What is given back is gone for the next one, too: here all of it (DHCPNAK).
    let mut nak = grant(0, 600);
    nak[14 + 20 + 8 + 242] = 6;
    // No checksum: it would be another one.
    nak[40..42].fill(0);
    server.send(&nak).unwrap();
    assert_eq!(expect(&mut web).bytes, nak);
    assert!(addresses(&switch).is_empty());
    switch.ask_to_stop();
    switch.await_end();
    assert!(!file.exists());
    again(&mut switch, [&mut server, &mut web]);
    refused(&switch, "web", &mut web, &says(5), "source-ip-spoofed");
}

/// A port that takes the number of one that is gone has nothing of what its guest was granted.
#[test]
fn leases_go_with_their_port() {
    let (server, web) = (card(1, "dhcp_server = true"), card(2, "ip = \"dhcp\""));
    let before = [("server", &*server), ("peer", "")];
    let with = |name| [&before[..], &[(name, &*web)]].concat();
    let switch = Switch::start(&with("old"));
    let mut server = switch.guest("server", mac(1));
    let mut peer = switch.guest("peer", mac(3));
    let mut old = switch.guest("old", mac(2));
    passes(&mut server, &mut old, &grant(5, 600));
    passes(&mut old, &mut server, &says(5));
    switch.change(&before);
    drop(old);
    // The workers have let go of the port when they have moved frames since, and the number is free with the next report.
    for _ in 0..10 {
        let bytes = frame(mac(3), mac(1), b"since");
        server.send(&bytes).unwrap();
        hear(&mut peer, mac(1));
        switch.status();
    }
    switch.change(&with("new"));
    let mut new = switch.guest("new", mac(2));
    refused(&switch, "new", &mut new, &says(5), "source-ip-spoofed");
}
