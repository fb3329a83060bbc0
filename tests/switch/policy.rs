//! What a policy says, end to end: lists, answers, port security, limits, quarantine, and their change under live guests.

use std::time::Instant;

use etherparse::PacketBuilder;
use portcullis::control::{QuarantineRequest, Question, ReleaseRequest};
use portcullis::guest::{Guest, VnetHeader, vnet};

use crate::rig::{BROADCAST, PATIENCE, Switch, all, expect, frame, hear, mac, until};

/// The address of guest `n`.
pub fn ip(n: u8) -> [u8; 4] {
    [10, 0, 0, n]
}

/// The other one.
fn ip6(n: u8) -> [u8; 16] {
    let mut address = [0; 16];
    (address[0], address[15]) = (0xfd, n);
    address
}

/// A table with the addresses of guest `n`, and more keys.
pub fn station(n: u8, keys: &str) -> String {
    format!("mac = \"52:54:00:00:00:{n:02x}\"\nip = [\"10.0.0.{n}\", \"fd00::{n:x}\"]\n{keys}\n")
}

/// The same without the IP addresses: any will do.
pub fn card(n: u8, keys: &str) -> String {
    format!("mac = \"52:54:00:00:00:{n:02x}\"\n{keys}\n")
}

/// A guest and a port of it.
pub type End = (u8, u16);

/// A TCP segment, with the flags that the letters name.
pub fn tcp(from: End, to: End, flags: &str, sequence: u32, ack: u32) -> Vec<u8> {
    let mut step = PacketBuilder::ethernet2(mac(from.0), mac(to.0))
        .ipv4(ip(from.0), ip(to.0), 64)
        .tcp(from.1, to.1, sequence, 64_000);
    for flag in flags.chars() {
        step = match flag {
            'S' => step.syn(),
            'F' => step.fin(),
            'R' => step.rst(),
            'A' => step.ack(ack),
            _ => panic!("{flag}"),
        };
    }
    let mut bytes = Vec::new();
    step.write(&mut bytes, &[]).unwrap();
    bytes.resize(60, 0);
    bytes
}

pub fn udp(from: End, to: End) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(mac(from.0), mac(to.0))
        .ipv4(ip(from.0), ip(to.0), 64)
        .udp(from.1, to.1)
        .write(&mut bytes, &[7; 20])
        .unwrap();
    bytes
}

fn udp6(from: End, to: End) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(mac(from.0), mac(to.0))
        .ipv6(ip6(from.0), ip6(to.0), 64)
        .udp(from.1, to.1)
        .write(&mut bytes, &[7; 20])
        .unwrap();
    bytes
}

/// ARP (or RARP) over Ethernet: the sender's addresses as they are said.
fn arp(kind: u16, operation: u16, from: u8, says: ([u8; 6], [u8; 4])) -> Vec<u8> {
    let mut bytes = [&BROADCAST[..], &mac(from), &kind.to_be_bytes()].concat();
    bytes.extend([0, 1, 8, 0, 6, 4]);
    bytes.extend(operation.to_be_bytes());
    bytes.extend(says.0);
    bytes.extend(says.1);
    // RARP asks about a hardware address (RFC 903), ARP about a protocol address (RFC 826).
    let (hardware, protocol) = if kind == 0x8035 {
        (says.0, [0; 4])
    } else {
        ([0; 6], ip(99))
    };
    bytes.extend(hardware);
    bytes.extend(protocol);
    bytes.resize(60, 0);
    bytes
}

/// ICMPv6 from and to any addresses, with its checksum and hop limit 255, as neighbour discovery is sent.
fn icmp6(from: u8, to: [u8; 6], src: [u8; 16], dst: [u8; 16], kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut first = [0; 4];
    first.copy_from_slice(&body[..4]);
    PacketBuilder::ethernet2(mac(from), to)
        .ipv6(src, dst, 255)
        .icmpv6_raw(kind, 0, first)
        .write(&mut bytes, &body[4..])
        .unwrap();
    bytes
}

/// The solicited-node group of guest `n`, and its Ethernet address (RFC 4291, 2.7.1; RFC 2464, 7).
fn solicited(n: u8) -> ([u8; 16], [u8; 6]) {
    let mut group = [0; 16];
    group[0..2].copy_from_slice(&[0xff, 2]);
    group[11..16].copy_from_slice(&[1, 0xff, 0, 0, n]);
    (group, [0x33, 0x33, 0xff, 0, 0, n])
}

/// A neighbour solicitation from guest `from` for the address of guest `of`.
fn solicitation(from: u8, of: u8) -> Vec<u8> {
    let (group, to) = solicited(of);
    let body = [&[0; 4][..], &ip6(of), &[1, 1], &mac(from)].concat();
    icmp6(from, to, ip6(from), group, 135, &body)
}

/// Sends a frame, as soon as there is room in the ring.
fn push(guest: &mut Guest, bytes: &[u8]) {
    until("room in the ring", || match guest.send(bytes) {
        Ok(()) => Some(()),
        Err(error) => {
            assert!(error.is_full(), "{error}");
            None
        }
    });
}

/// Sends frames of port `from` and waits until the switch has judged them.
pub fn send(switch: &Switch, name: &str, guest: &mut Guest, frames: &[Vec<u8>]) {
    let before = switch.books(name).received;
    for bytes in frames {
        push(guest, bytes);
    }
    switch.await_received(name, before + frames.len() as u64);
}

/// Sends one frame that must be dropped at its source for this reason, and be offered to nobody.
pub fn refused(switch: &Switch, name: &str, guest: &mut Guest, bytes: &[u8], reason: &str) {
    let before = (switch.dropped(name, reason), switch.books(name).forwarded);
    send(switch, name, guest, &[bytes.to_vec()]);
    let status = switch.port(name);
    assert_eq!(
        (switch.dropped(name, reason), switch.books(name).forwarded),
        (before.0 + 1, before.1),
        "{reason} of {bytes:02x?}: {}",
        status["counters"]["ingress"]
    );
}

/// Sends one frame that must arrive as it is.
pub fn passes(from: &mut Guest, to: &mut Guest, bytes: &[u8]) {
    from.send(bytes).unwrap();
    assert_eq!(expect(to).bytes, bytes);
}

/// The three segments that open a connection.
pub fn opens(client: &mut Guest, server: &mut Guest, from: End, to: End) {
    passes(client, server, &tcp(from, to, "S", 1000, 0));
    passes(server, client, &tcp(to, from, "SA", 5000, 1001));
    passes(client, server, &tcp(from, to, "A", 1001, 5001));
}

const TIERS: &str = "
[acl.web]
outbound = [
    { deny = \"tcp\", to = \"group:app\", port = 22, name = \"no-shell\" },
    { allow = \"tcp\", to = \"group:app\", port = [22, 8080] },
    { allow = \"udp\", port = 53 },
]
[acl.app]
inbound = [
    { deny = \"udp\", name = \"no-datagrams\" },
    { allow = \"tcp\", from = \"group:web\", port = 8080 },
]
outbound = []
";

#[test]
fn lists_by_group_and_port_let_connections_through_and_the_rest_is_counted_at_its_source() {
    let app = station(2, "groups = \"app\"\nacl = \"app\"");
    let other = station(3, TIERS);
    let web = station(1, "groups = \"web\"\nacl = \"web\"");
    let switch = Switch::start(&[("web", &web), ("app", &app), ("other", &other)]);
    let mut web = switch.guest("web", mac(1));
    let mut app = switch.guest("app", mac(2));
    let mut other = switch.guest("other", mac(3));
    opens(&mut web, &mut app, (1, 40_000), (2, 8080));
    for _ in 0..50 {
        let there = tcp((1, 40_000), (2, 8080), "A", 1001, 5001);
        passes(&mut web, &mut app, &there);
        let back = tcp((2, 8080), (1, 40_000), "A", 5001, 1001);
        passes(&mut app, &mut web, &back);
    }
    let syn = |from: End, to: End| tcp(from, to, "S", 1, 0);
    // A rule, the end of a list, the other side's list.
    let cases = [
        (syn((1, 40_000), (2, 22)), "denied-outbound"),
        (syn((1, 40_000), (2, 8081)), "not-allowed"),
        (syn((1, 40_000), (3, 8080)), "not-allowed"),
        (udp((1, 40_000), (2, 53)), "denied-inbound"),
        (udp6((1, 40_000), (2, 53)), "denied-inbound"),
        // Of no connection, or beyond its windows.
        (
            tcp((1, 41_000), (2, 8080), "SA", 1, 1),
            "connection-invalid",
        ),
        (
            tcp((1, 40_000), (2, 8080), "A", 0x7000_0000, 5001),
            "connection-invalid",
        ),
        // Of a port with addresses, port security carries nothing that they do not stand in.
        (frame(mac(2), mac(1), b"of no protocol"), "protocol-refused"),
    ];
    for (bytes, reason) in &cases {
        refused(&switch, "web", &mut web, bytes, reason);
    }
    // Not by the group that is allowed, and not in the name of one of it.
    refused(
        &switch,
        "other",
        &mut other,
        &syn((3, 40_000), (2, 8080)),
        "not-allowed",
    );
    refused(
        &switch,
        "other",
        &mut other,
        &syn((1, 40_000), (2, 8080)),
        "source-mac-spoofed",
    );
    // The server may answer, and begin nothing: not even from its own port to the client's next one.
    for bytes in [syn((2, 8080), (1, 40_001)), syn((2, 40_000), (3, 80))] {
        refused(&switch, "app", &mut app, &bytes, "not-allowed");
    }
    for (name, guest) in [("web", &mut web), ("app", &mut app), ("other", &mut other)] {
        assert!(all(guest).is_empty(), "{name} heard what was refused");
        let books = switch.books(name);
        assert_eq!(books.undelivered, 0, "{name}: its peers pay");
    }
    assert_eq!(switch.books("other").offered, 0);
    assert_eq!(switch.books("web").dropped, cases.len() as u64);
}

#[test]
fn a_rejected_packet_is_answered_and_answers_are_limited() {
    let lists = "[acl.closed]\noutbound = [ { reject = \"any\" } ]\n";
    let a = card(1, "acl = \"closed\"");
    let b = card(2, lists);
    let switch = Switch::start(&[("a", &a), ("b", &b)]);
    let (mut a, mut b) = (switch.guest("a", mac(1)), switch.guest("b", mac(2)));
    // RFC 9293, 3.10.7.1: a reset that acknowledges the SYN, as if the peer had sent it.
    a.send(&tcp((1, 40_000), (2, 23), "S", 7000, 0)).unwrap();
    let reset = expect(&mut a).bytes;
    assert_eq!(reset[..14], [&mac(1)[..], &mac(2), &[8, 0]].concat());
    assert_eq!(
        (reset[23], &reset[26..34]),
        (6, &[ip(2), ip(1)].concat()[..])
    );
    assert_eq!(reset[34..38], [[0, 23], 40_000u16.to_be_bytes()].concat());
    assert_eq!(reset[42..46], 7001u32.to_be_bytes());
    assert_eq!(reset[47] & 0x3f, 0x14, "RST and ACK");
    // RFC 1812, 5.2.7.1: unreachable, communication administratively prohibited, and what it is about.
    let datagram = udp((1, 40_000), (2, 53));
    a.send(&datagram).unwrap();
    let error = expect(&mut a).bytes;
    assert_eq!((error[23], &error[34..36]), (1, &[3, 13][..]));
    assert_eq!(error[42..70], datagram[14..42]);
    // RFC 4443, 3.1.
    let datagram = udp6((1, 40_000), (2, 53));
    a.send(&datagram).unwrap();
    let error = expect(&mut a).bytes;
    assert_eq!((error[20], &error[54..56]), (58, &[1, 1][..]));
    assert_eq!(error[62..110], datagram[14..62]);
    // What must not be answered: a reset, an error, a broadcast, and what is no IP.
    let mut error = Vec::new();
    PacketBuilder::ethernet2(mac(1), mac(2))
        .ipv4(ip(1), ip(2), 64)
        .icmpv4_raw(3, 3, [0; 4])
        .write(&mut error, &udp((2, 1), (1, 2))[14..42])
        .unwrap();
    let mut broadcast = udp((1, 40_000), (2, 53));
    broadcast[..6].copy_from_slice(&BROADCAST);
    let silent = [
        tcp((1, 40_000), (2, 23), "R", 7000, 0),
        error,
        broadcast,
        frame(mac(2), mac(1), b"no IP"),
    ];
    send(&switch, "a", &mut a, &silent);
    assert!(all(&mut a).is_empty());
    // Twenty at once and ten a second: never more, however long this takes.
    let start = Instant::now();
    const STORM: u64 = 5_000;
    let mut answers = 0;
    for port in 0..STORM {
        push(&mut a, &tcp((1, 1024 + port as u16), (2, 23), "S", 7000, 0));
        answers += all(&mut a).len() as u64;
    }
    switch.await_received("a", STORM);
    answers += all(&mut a).len() as u64;
    let bound = 20 + 10 * (start.elapsed().as_secs() + 1);
    assert!((1..=bound).contains(&answers), "{answers} of {bound}");
    let rejected = switch.dropped("a", "rejected") + switch.dropped("a", "connection-invalid");
    assert_eq!(rejected, STORM + 3 + silent.len() as u64);
    assert!(all(&mut b).is_empty());
    assert_eq!(switch.books("b").offered, 0);
}

#[test]
fn under_default_deny_a_port_without_a_list_is_addressed_and_no_more() {
    let (a, b) = (station(1, ""), station(2, ""));
    let switch = Switch::with("default = \"deny\"", &[("a", &a), ("b", &b)]);
    let (mut a, mut b) = (switch.guest("a", mac(1)), switch.guest("b", mac(2)));
    passes(&mut a, &mut b, &arp(0x0806, 1, 1, (mac(1), ip(1))));
    let mut answer = arp(0x0806, 2, 2, (mac(2), ip(2)));
    answer[..6].copy_from_slice(&mac(1));
    answer[32..42].copy_from_slice(&[&mac(1)[..], &ip(1)].concat());
    passes(&mut b, &mut a, &answer);
    passes(&mut a, &mut b, &solicitation(1, 2));
    let mut broadcast = udp((1, 40_000), (2, 53));
    broadcast[..6].copy_from_slice(&BROADCAST);
    for bytes in [
        tcp((1, 40_000), (2, 80), "S", 1, 0),
        udp((1, 40_000), (2, 53)),
        udp6((1, 40_000), (2, 53)),
        icmp6(1, mac(2), ip6(1), ip6(2), 128, &[0; 8]),
        broadcast,
    ] {
        refused(&switch, "a", &mut a, &bytes, "not-allowed");
    }
    // Nothing was opened that an answer could come back by.
    let answer = tcp((2, 80), (1, 40_000), "SA", 1, 2);
    send(&switch, "b", &mut b, &[answer]);
    assert_eq!(switch.books("b").forwarded, 1);
    assert!(all(&mut a).is_empty() && all(&mut b).is_empty());
}

#[test]
fn the_first_mac_is_kept_until_the_guest_leaves_and_is_nobody_elses() {
    let switch = Switch::start(&[("a", ""), ("b", ""), ("c", "")]);
    let (mut a, mut b) = (switch.guest("a", mac(1)), switch.guest("b", mac(2)));
    passes(&mut a, &mut b, &frame(mac(2), mac(1), b"first"));
    passes(&mut b, &mut a, &frame(mac(1), mac(2), b"first"));
    let other = frame(mac(2), mac(9), b"another");
    refused(&switch, "a", &mut a, &other, "source-mac-spoofed");
    let of_b = frame(BROADCAST, mac(2), b"b's");
    refused(&switch, "a", &mut a, &of_b, "source-mac-spoofed");
    // One that has kept nothing yet cannot take it either.
    let mut c = switch.guest("c", mac(3));
    let of_a = frame(mac(2), mac(1), b"a's");
    for _ in 0..3 {
        refused(&switch, "c", &mut c, &of_a, "mac-of-other-port");
    }
    passes(&mut b, &mut a, &frame(mac(1), mac(2), b"still a's"));
    passes(&mut c, &mut a, &frame(mac(1), mac(3), b"c's own"));
    // Gone, and it is free for the next.
    a.disconnect();
    switch.await_state("a", "waiting");
    a.reconnect().unwrap();
    switch.await_state("a", "running");
    passes(&mut a, &mut b, &other);
    refused(&switch, "a", &mut a, &of_a, "source-mac-spoofed");
    assert!(all(&mut a).is_empty() && all(&mut b).is_empty() && all(&mut c).is_empty());
}

/// Frames that speak for what is not guest 1's, and why each is refused.
fn spoofed() -> Vec<(Vec<u8>, &'static str)> {
    let rogue = |bytes: Vec<u8>, to: [u8; 6]| [&to[..], &mac(1), &bytes[12..]].concat();
    let mut link = [0; 16];
    link[0..2].copy_from_slice(&[0xfe, 0x80]);
    link[8..16].copy_from_slice(&[0x50, 0x54, 0, 0xff, 0xfe, 0, 0, 1]);
    let all_nodes = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let everybody = [0x33, 0x33, 0, 0, 0, 1];
    let claim = [&[0x20, 0, 0, 0][..], &ip6(2), &[2, 1], &mac(1)].concat();
    let advertisement = [&[64, 0, 7, 8][..], &[0; 8], &[1, 1], &mac(1)].concat();
    let mut offer = Vec::new();
    PacketBuilder::ethernet2(mac(1), BROADCAST)
        .ipv4(ip(1), [255; 4], 64)
        .udp(67, 68)
        .write(&mut offer, &dhcp(2, mac(2)))
        .unwrap();
    let mut request = Vec::new();
    PacketBuilder::ethernet2(mac(1), BROADCAST)
        .ipv4([0; 4], [255; 4], 64)
        .udp(68, 67)
        .write(&mut request, &dhcp(1, mac(2)))
        .unwrap();
    let plain = arp(0x0806, 1, 1, (mac(1), ip(2)));
    let mut wrapped = [
        &plain[..12],
        &[0, 36, 0xaa, 0xaa, 3, 0, 0, 0],
        &plain[12..42],
    ]
    .concat();
    wrapped.resize(60, 0);
    vec![
        (rogue(udp((2, 1), (3, 2)), mac(2)), "source-ip-spoofed"),
        (rogue(udp6((2, 1), (3, 2)), mac(2)), "source-ip-spoofed"),
        (plain, "arp-spoofed"),
        (arp(0x0806, 2, 1, (mac(1), ip(2))), "arp-spoofed"),
        (arp(0x0806, 1, 1, (mac(2), ip(1))), "arp-spoofed"),
        (
            icmp6(1, everybody, ip6(1), all_nodes, 136, &claim),
            "nd-spoofed",
        ),
        (
            icmp6(1, everybody, link, all_nodes, 134, &advertisement),
            "router-refused",
        ),
        (offer, "dhcp-server-refused"),
        (request, "dhcp-spoofed"),
        (wrapped, "encapsulation-refused"),
    ]
}

/// BOOTP with a DHCP message of type DISCOVER or OFFER (RFC 2131).
fn dhcp(operation: u8, client: [u8; 6]) -> Vec<u8> {
    let mut bytes = vec![operation, 1, 6, 0];
    bytes.resize(28, 0);
    bytes.extend(client);
    bytes.resize(236, 0);
    bytes.extend([0x63, 0x82, 0x53, 0x63, 53, 1, operation, 255]);
    bytes.resize(300, 0);
    bytes
}

#[test]
fn who_speaks_for_another_address_than_its_own_is_refused() {
    let (a, b) = (station(1, ""), station(2, ""));
    let switch = Switch::start(&[("a", &a), ("b", &b)]);
    let (mut a, mut b) = (switch.guest("a", mac(1)), switch.guest("b", mac(2)));
    for (bytes, reason) in spoofed() {
        refused(&switch, "a", &mut a, &bytes, reason);
    }
    assert!(all(&mut b).is_empty());
    // The same guest in its own name.
    passes(&mut a, &mut b, &udp((1, 1), (2, 2)));
    passes(&mut a, &mut b, &udp6((1, 1), (2, 2)));
    passes(&mut a, &mut b, &arp(0x0806, 1, 1, (mac(1), ip(1))));
    // Whether anybody has the address that it is given (RFC 5227, 2.1.1).
    let mut probe = arp(0x0806, 1, 1, (mac(1), [0; 4]));
    probe[38..42].copy_from_slice(&ip(1));
    passes(&mut a, &mut b, &probe);
    passes(&mut a, &mut b, &solicitation(1, 2));
}

/// Datagrams behind one header, to be cut: of a client of DHCP only the first would have been judged, and those behind it could
/// speak in anybody's name.
#[test]
fn dhcp_messages_that_are_to_be_cut_are_refused() {
    let (a, b) = (station(1, ""), station(2, ""));
    let switch = Switch::start(&[("a", &a), ("b", &b)]);
    let mut a = switch.plug("a", Guest::builder().mac(mac(1)).offloads());
    let mut b = switch.guest("b", mac(2));
    let (own, others) = (dhcp(1, mac(1)), dhcp(1, mac(2)));
    let size = own.len() as u16;
    for port in [67, 4011] {
        let mut bytes = Vec::new();
        PacketBuilder::ethernet2(mac(1), mac(2))
            .ipv4(ip(1), ip(2), 64)
            .udp(if port == 67 { 68 } else { port }, port)
            .write(&mut bytes, &[own.clone(), others.clone()].concat())
            .unwrap();
        let header = VnetHeader {
            flags: vnet::NEEDS_CSUM,
            gso_type: vnet::GSO_UDP_L4,
            gso_size: size,
            csum_start: 34,
            csum_offset: 6,
            ..VnetHeader::default()
        };
        a.send_with_header(header, &bytes).unwrap();
    }
    // Of another protocol both come, and nothing before them.
    for message in [own, others] {
        let got = expect(&mut b).bytes;
        assert_eq!(
            (&got[36..38], &got[42..]),
            (&[0x0f, 0xab][..], &message[..])
        );
    }
    assert_eq!(switch.dropped("a", "gso-invalid"), 1);
    assert_eq!(switch.books("a").forwarded, 1);
}

/// CVE-2025-52889 and CVE-2025-52890: an access list there took frames past the filters of addresses, and past isolation.
#[test]
fn cve_2025_52889_52890_an_allow_rule_reopens_neither_isolation_nor_spoofing() {
    let lists = "[acl.open]\ninbound = [ { allow = \"any\" } ]\noutbound = [ { allow = \"any\", state = \"any\" } ]\n";
    let keys = "mode = \"isolated\"\nacl = \"open\"";
    let (a, b) = (station(1, keys), station(2, keys));
    let c = station(3, lists);
    let switch = Switch::start(&[("a", &a), ("b", &b), ("c", &c)]);
    let mut a = switch.guest("a", mac(1));
    let mut b = switch.guest("b", mac(2));
    let mut c = switch.guest("c", mac(3));
    for bytes in [
        tcp((1, 40_000), (2, 80), "S", 1, 0),
        udp((1, 40_000), (2, 53)),
        udp6((1, 40_000), (2, 53)),
        icmp6(1, mac(2), ip6(1), ip6(2), 128, &[0; 8]),
    ] {
        refused(&switch, "a", &mut a, &bytes, "unreachable");
    }
    // To all: the port that it may reach hears it, the other does not.
    for bytes in [arp(0x0806, 1, 1, (mac(1), ip(1))), solicitation(1, 2)] {
        passes(&mut a, &mut c, &bytes);
    }
    for (bytes, reason) in spoofed() {
        refused(&switch, "a", &mut a, &bytes, reason);
    }
    assert!(all(&mut b).is_empty() && all(&mut c).is_empty());
    assert_eq!(switch.books("b").offered, 0);
}

#[test]
fn a_limit_lets_its_burst_through_and_then_its_rate() {
    let limits = "limits = { broadcast = \"1/s burst 10\", multicast = \"1/s burst 20\", unknown = \"1/s burst 30\", send_frames = \"1/s burst 200\" }";
    let (sender, free) = (card(1, limits), card(3, ""));
    let switch = Switch::start(&[("a", &sender), ("c", &free)]);
    let mut a = switch.guest("a", mac(1));
    let mut c = switch.guest("c", mac(3));
    let start = Instant::now();
    // What a bucket may have let through by now: never more, however slow the machine.
    let within = |got: u64, burst: u64| {
        let most = burst + start.elapsed().as_secs() + 1;
        assert!((burst..=most).contains(&got), "{got}, {burst} to {most}");
    };
    let storm = |to: [u8; 6]| vec![frame(to, mac(1), b"storm"); 100];
    for (to, burst, reason) in [
        (BROADCAST, 10, "storm-broadcast"),
        ([0x33, 0x33, 0, 0, 0, 1], 20, "storm-multicast"),
        (mac(9), 30, "storm-unknown"),
    ] {
        send(&switch, "a", &mut a, &storm(to));
        let heard = all(&mut c).len() as u64;
        within(heard, burst);
        assert_eq!(switch.dropped("a", reason), 100 - heard, "{reason}");
    }
    // What the storms did not use of the whole; what was dropped before it was asked cost nothing.
    send(
        &switch,
        "a",
        &mut a,
        &vec![frame(mac(3), mac(1), b"plain"); 300],
    );
    let passed = switch.books("a").forwarded;
    assert_eq!(
        switch.dropped("a", "send-rate") + all(&mut c).len() as u64,
        300
    );
    assert!(passed <= 200 + start.elapsed().as_secs() + 1, "{passed}");
}

/// The receiver's limit is counted at the receiver, and costs nobody else.
#[test]
fn a_limit_of_what_a_port_is_sent_is_counted_at_the_receiver() {
    let slow = card(3, "limits = { receive_frames = \"1/s burst 40\" }");
    let switch = Switch::start(&[("a", &card(1, "")), ("b", &card(2, "")), ("c", &slow)]);
    let mut a = switch.guest("a", mac(1));
    let mut b = switch.guest("b", mac(2));
    let mut c = switch.guest("c", mac(3));
    let start = Instant::now();
    send(
        &switch,
        "a",
        &mut a,
        &vec![frame(mac(3), mac(1), b"much"); 100],
    );
    let heard = all(&mut c).len() as u64;
    let most = 40 + start.elapsed().as_secs() + 1;
    assert!((40..=most).contains(&heard), "{heard}, 40 to {most}");
    let books = switch.books("c");
    assert_eq!((books.offered, books.delivered), (100, heard));
    assert_eq!(books.undelivered, 100 - heard);
    assert_eq!(switch.dropped("a", "receive-rate"), 100 - heard);
    send(
        &switch,
        "a",
        &mut a,
        &vec![frame(mac(2), mac(1), b"much"); 100],
    );
    assert_eq!(all(&mut b).len(), 100);
}

/// A web server, a client with a list, and the table of a second one.
pub fn pair(list: &str) -> [(&'static str, String); 2] {
    [
        ("client", station(1, "acl = \"client\"")),
        (
            "server",
            station(
                2,
                &format!("[acl.client]\noutbound = [ {list} ]\ninbound = []\n"),
            ),
        ),
    ]
}

pub fn tables<'a>(ports: &'a [(&'static str, String); 2]) -> [(&'static str, &'a str); 2] {
    ports
        .each_ref()
        .map(|(name, table)| (*name, table.as_str()))
}

const BOTH: &str = "{ allow = \"tcp\", port = 80 }, { allow = \"tcp\", port = 443 }";

#[test]
fn a_reload_ends_the_connection_that_is_no_longer_allowed_and_no_other() {
    let (wide, narrow) = (pair(BOTH), pair("{ allow = \"tcp\", port = 443 }"));
    let switch = Switch::start(&tables(&wide));
    let mut client = switch.guest("client", mac(1));
    let mut server = switch.guest("server", mac(2));
    opens(&mut client, &mut server, (1, 40_000), (2, 80));
    opens(&mut client, &mut server, (1, 40_001), (2, 443));
    // Something else changes: both go on.
    let mut taller = wide.clone();
    taller[1].1.insert_str(0, "max_macs = 9\n");
    assert_eq!(switch.change(&tables(&taller))["flows_ended"], 0);
    let data = |port| {
        tcp(
            (1, 40_000 + u16::from(port == 443)),
            (2, port),
            "A",
            1001,
            5001,
        )
    };
    let back = |port| {
        tcp(
            (2, port),
            (1, 40_000 + u16::from(port == 443)),
            "A",
            5001,
            1001,
        )
    };
    for port in [80, 443] {
        passes(&mut client, &mut server, &data(port));
        passes(&mut server, &mut client, &back(port));
    }
    assert_eq!(switch.change(&tables(&narrow))["flows_ended"], 1);
    refused(&switch, "client", &mut client, &data(80), "not-allowed");
    let before = switch.books("server");
    send(&switch, "server", &mut server, &[back(80)]);
    assert_eq!(switch.books("server").dropped, before.dropped + 1);
    passes(&mut client, &mut server, &data(443));
    passes(&mut server, &mut client, &back(443));
    assert!(all(&mut client).is_empty() && all(&mut server).is_empty());
}

#[test]
fn quarantine_cuts_a_live_connection_off_at_once_and_both_ways() {
    let ports = pair(BOTH);
    let switch = Switch::start(&tables(&ports));
    let mut client = switch.guest("client", mac(1));
    let mut server = switch.guest("server", mac(2));
    opens(&mut client, &mut server, (1, 40_000), (2, 80));
    let request = Question::Quarantine(QuarantineRequest {
        port: "client".to_owned(),
        helpers: Vec::new(),
        allow: None,
    });
    switch.ask(&request).unwrap();
    let data = tcp((1, 40_000), (2, 80), "A", 1001, 5001);
    let back = tcp((2, 80), (1, 40_000), "A", 5001, 1001);
    refused(&switch, "client", &mut client, &data, "quarantined");
    refused(&switch, "server", &mut server, &back, "quarantined");
    // What a guest needs to be addressed does not pass either.
    let question = arp(0x0806, 1, 1, (mac(1), ip(1)));
    refused(&switch, "client", &mut client, &question, "quarantined");
    assert!(all(&mut client).is_empty() && all(&mut server).is_empty());
    let release = Question::Release(ReleaseRequest {
        port: "client".to_owned(),
    });
    switch.ask(&release).unwrap();
    opens(&mut client, &mut server, (1, 40_001), (2, 80));
}

/// CVE-2015-5240 on a port that connects: its front-end is there first, and sends in the moment of the reload that makes the port.
#[test]
fn cve_2015_5240_a_port_that_connects_passes_nothing_before_its_policy() {
    let list = "[acl.nothing]\noutbound = []\ninbound = []\n";
    let a = station(1, list);
    let c = station(3, "acl = \"nothing\"\nconnect = true");
    let without = [("a", a.as_str())];
    let with = [("a", a.as_str()), ("c", c.as_str())];
    let switch = Switch::start(&without);
    let mut a = switch.guest("a", mac(1));
    let mut broadcast = udp((3, 1), (1, 9));
    broadcast[..6].copy_from_slice(&BROADCAST);
    for turn in 0..20u16 {
        let path = switch.socket("c");
        let _ = std::fs::remove_file(&path);
        let mut c = std::thread::scope(|scope| {
            let early = scope.spawn(|| {
                let mut c = Guest::builder().mac(mac(3)).listen(&path).unwrap();
                for _ in 0..8 {
                    c.send(&udp((3, turn), (1, 9))).unwrap();
                    c.send(&broadcast).unwrap();
                }
                c
            });
            until("the socket", || path.exists().then_some(()));
            switch.change(&with);
            early.join().unwrap()
        });
        switch.await_received("c", 16);
        let books = switch.books("c");
        assert_eq!((books.forwarded, books.dropped), (0, books.received));
        assert_eq!(switch.dropped("c", "not-allowed"), 16);
        send(&switch, "a", &mut a, &[udp((1, turn), (3, 9))]);
        assert!(all(&mut c).is_empty());
        switch.change(&without);
    }
    assert!(all(&mut a).is_empty());
    assert_eq!(switch.books("a").offered, 0);
}

/// What QEMU sends for a guest that has moved (`qemu_announce_self`): it passes the end of a list, for this guest alone.
#[test]
fn an_announcement_after_a_migration_passes_the_end_of_a_list() {
    let lists = "[acl.narrow]\noutbound = [ { allow = \"tcp\", port = 80 } ]\ninbound = []\n[acl.mute]\noutbound = [ { deny = \"rarp\" }, { allow = \"any\" } ]\n";
    let a = station(1, "acl = \"narrow\"");
    let b = station(2, "acl = \"narrow\"");
    let mute = station(3, &format!("acl = \"mute\"\n{lists}"));
    let switch = Switch::start(&[("a", &a), ("b", &b), ("mute", &mute)]);
    let mut a = switch.guest("a", mac(1));
    let mut b = switch.guest("b", mac(2));
    let mut mute = switch.guest("mute", mac(3));
    let announcement = |n| arp(0x8035, 3, n, (mac(n), [0; 4]));
    a.send(&announcement(1)).unwrap();
    for guest in [&mut b, &mut mute] {
        assert_eq!(hear(guest, mac(1)).bytes, announcement(1));
    }
    let of_another = arp(0x8035, 3, 1, (mac(2), [0; 4]));
    refused(&switch, "a", &mut a, &of_another, "arp-spoofed");
    refused(
        &switch,
        "mute",
        &mut mute,
        &announcement(3),
        "denied-outbound",
    );
    assert!(all(&mut a).is_empty() && all(&mut b).is_empty());
}

/// Lines come with the next second; a flood of refusals is a few of them, and says how many it was.
#[test]
fn rules_that_log_leave_lines_of_what_they_decided() {
    let ports = [
        ("a", station(1, "")),
        (
            "b",
            station(
                2,
                "acl = \"b\"\n[acl.b]\ninbound = [ { allow = \"tcp\", port = 22, log = true, name = \"admin\" },\n\
                 { allow = \"tcp\", port = 80 }, { deny = \"any\", log = true } ]",
            ),
        ),
    ];
    let switch = Switch::start(&tables(&ports));
    let (mut a, mut b) = (switch.guest("a", mac(1)), switch.guest("b", mac(2)));
    opens(&mut a, &mut b, (1, 40_000), (2, 22));
    opens(&mut a, &mut b, (1, 40_001), (2, 80));
    for _ in 0..100 {
        push(&mut a, &udp((1, 5000), (2, 53)));
    }
    switch.await_received("a", 100);
    let line = |words: &str| {
        until(words, || {
            let log = switch.log();
            let found = log.lines().find(|line| line.contains(words));
            found.map(str::to_owned)
        })
    };
    let admin = line("name=\"admin\"");
    for words in [
        "port=\"a\" peer=\"b\" verdict=\"allow\"",
        "lan.toml:",
        "packet=\"tcp 10.0.0.1:40000 > 10.0.0.2:22 mac 52:54:00:00:00:01 > 52:54:00:00:00:02\"",
        "vlan=1 suppressed=0",
    ] {
        assert!(admin.contains(words), "{words} in {admin}");
    }
    line("packet=\"udp 10.0.0.1:5000 > 10.0.0.2:53");
    let log = switch.log();
    let count = |words: &str| log.lines().filter(|line| line.contains(words)).count();
    assert_eq!(count("name=\"admin\""), 1, "one for the connection: {log}");
    assert_eq!(count(":80 mac"), 0, "{log}");
    assert!(count("udp 10.0.0.1:5000") <= 32, "{log}");
}

/// Its first frame gave it the gateway's address, and took the gateway's frames for spoofed from then on.
#[test]
fn e_1_a_first_frame_from_the_gateways_address_gets_nobody_its_place() {
    let switch = Switch::start(&[("up", "uplink = true"), ("a", ""), ("rogue", "")]);
    let [mut up, mut a] = [("up", 1), ("a", 2)].map(|(name, n)| switch.guest(name, mac(n)));
    passes(&mut up, &mut a, &udp((1, 1), (2, 2)));
    passes(&mut a, &mut up, &udp((2, 2), (1, 1)));
    let mut rogue = switch.guest("rogue", mac(1));
    for to in [2, 9] {
        let forged = udp((1, 1), (to, 2));
        refused(&switch, "rogue", &mut rogue, &forged, "mac-of-other-port");
    }
    all(&mut rogue);
    // The gateway stays where it is, and goes on.
    passes(&mut a, &mut up, &udp((2, 2), (1, 1)));
    passes(&mut up, &mut a, &udp((1, 1), (2, 2)));
    assert_eq!(switch.dropped("up", "mac-of-other-port"), 0);
    assert!(all(&mut rogue).is_empty());
    // With an address of its own it is let in, when it is heard again.
    let own = udp((7, 1), (2, 2));
    until("a claim that may be made", || {
        rogue.send(&own).unwrap();
        assert!(rogue.drain(PATIENCE).unwrap());
        all(&mut a).iter().any(|got| got.bytes == own).then_some(())
    });
}
