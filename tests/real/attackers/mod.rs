//! Attack tools of Debian behind a guarded port, against what is expected of each.
//!
//! The tools run in a network namespace of the test's own. Their network card `evil` is a TAP device; what they send goes into the
//! switch by a guest in software on the port `evil`, and what the switch has for that guest goes back. Behind `victim` is a guest that
//! writes down what arrives; `third` and it exchange frames all the while, and lose none.
//!
//! Whatever the tool, the victim receives nothing that lies: see [`lie`]. Each row says in addition which drop reasons of
//! the attacker's port count it, and what still arrives because it is the attacker's own.
//!
//! Left out, since they need somebody to answer them, or a machine to themselves: `parasite6` and `dos-new-ip6` (they answer the
//! solicitations of others, which the switch keeps from nobody; what they answer is `fake_advertise6`), ettercap and
//! dsniff's sniffers (they read what `arpspoof` would bring them), `smurf6` and `thcping6` (what a target does with true packets),
//! yersinia's DTP, VTP and HSRP (EtherTypes and groups of its STP and CDP, or UDP).

mod table;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use portcullis::guest::Guest;
use serde_json::Value;

use self::table::{DENIED, GUARDED, ICMPV6, Row};
use crate::lab::namespace::{Tap, command, enter_network, setting};
use crate::lab::{Bench, PATIENCE, Process, Switch, until};

const NAMES: [&str; 3] = ["evil", "victim", "third"];
const EVIL: [u8; 6] = mac(1);
const EVIL_V4: [u8; 4] = [10, 9, 0, 1];

const fn mac(n: u8) -> [u8; 6] {
    [0x52, 0x54, 0, 0, 0, n]
}

/// Says in how far a frame from the attacker's port speaks for somebody else, or as somebody that the attacker may not be.
fn lie(frame: &[u8]) -> Option<String> {
    if frame[6..12] != EVIL {
        return Some("another's MAC address".to_owned());
    }
    let packet = match SlicedPacket::from_ethernet(frame) {
        Ok(packet) => packet,
        Err(why) => return Some(format!("unreadable: {why}")),
    };
    if !packet.link_exts.is_empty() {
        return Some("a tag".to_owned());
    }
    match &packet.net {
        None => return Some("neither IP nor ARP".to_owned()),
        Some(NetSlice::Arp(arp)) => {
            let is_own = arp.sender_hw_addr() == EVIL && arp.sender_protocol_addr() == EVIL_V4;
            return (!is_own).then(|| "ARP for another".to_owned());
        }
        Some(NetSlice::Ipv4(ip)) => {
            if ip.header().source() != EVIL_V4 {
                return Some(format!("from {}", ip.header().source_addr()));
            }
        }
        Some(NetSlice::Ipv6(ip)) => {
            let from = ip.header().source_addr().to_string();
            if !["fd00:9::1", "fe80::5054:ff:fe00:1", "::"].contains(&from.as_str()) {
                return Some(format!("from {from}"));
            }
        }
    }
    match &packet.transport {
        Some(TransportSlice::Icmpv6(icmp)) => match icmp.type_u8() {
            134 | 137 => Some("a router".to_owned()),
            // RFC 4861, 4.4: the target's last byte tells the stations of this test apart.
            136 if icmp.slice().get(23) != Some(&1) => {
                Some("an advertisement for another".to_owned())
            }
            _ => None,
        },
        _ => None,
    }
}

/// Whether the attacker's kernel says it by itself: a report of its groups (RFC 3810, 5.2.14). These come whenever its timers
/// have it, and no tool here sends any; a row must not be met by one.
fn is_the_kernels(frame: &[u8]) -> bool {
    frame.starts_with(&[0x33, 0x33, 0, 0, 0, 0x16])
}

/// The protocol above IP.
fn protocol(frame: &[u8]) -> Option<u8> {
    match SlicedPacket::from_ethernet(frame).ok()?.net? {
        NetSlice::Ipv4(ip) => Some(ip.payload().ip_number.0),
        NetSlice::Ipv6(ip) => Some(ip.payload().ip_number.0),
        NetSlice::Arp(_) => None,
    }
}

/// What the victim says when somebody looks for its addresses.
fn answer(frame: &[u8]) -> Option<Vec<u8>> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let mut answer = Vec::new();
    match (&packet.net, &packet.transport) {
        (Some(NetSlice::Arp(arp)), _) if arp.target_protocol_addr() == [10, 9, 0, 2] => {
            answer.extend([EVIL, mac(2)].concat());
            answer.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
            answer.extend(mac(2));
            answer.extend([10, 9, 0, 2]);
            answer.extend(EVIL);
            answer.extend(EVIL_V4);
        }
        (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Icmpv6(icmp))) if icmp.type_u8() == 135 => {
            let target: [u8; 16] = icmp.slice().get(8..24)?.try_into().ok()?;
            let (to, own) = (
                ip.header().source(),
                std::net::Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 2).octets(),
            );
            if target != own || to == [0; 16] {
                return None;
            }
            // Solicited, override; the option with its own MAC address.
            let body = [&own[..], &[2, 1], &mac(2)].concat();
            let builder = PacketBuilder::ethernet2(mac(2), EVIL)
                .ipv6(own, to, 255)
                .icmpv6_raw(136, 0, [0x60, 0, 0, 0]);
            builder.write(&mut answer, &body).ok()?;
        }
        _ => return None,
    }
    Some(answer)
}

struct Arena {
    switch: Switch,
    tap: Tap,
    /// Where the tools may leave what they write.
    directory: PathBuf,
    evil: Guest,
    victim: Guest,
    third: Guest,
    /// What third has sent to the victim, and what of it has arrived.
    talk: [u32; 2],
    /// What has arrived of the attacker's.
    arrived: Vec<Vec<u8>>,
}

impl Arena {
    fn new(bench: &Bench) -> Self {
        enter_network();
        // The kernel is to send little by itself.
        for name in ["accept_ra", "router_solicitations", "dad_transmits"] {
            setting(&format!("ipv6/conf/default/{name}"), "0");
        }
        let tap = Tap::new("evil");
        for words in [
            // Its link-local address is to be made of this MAC address.
            "link set dev evil down",
            "link set dev evil address 52:54:00:00:00:01",
            "link set dev evil up",
            "addr add 10.9.0.1/24 dev evil",
            "addr add fd00:9::1/64 dev evil nodad",
            "neigh add 10.9.0.2 lladdr 52:54:00:00:00:02 dev evil nud permanent",
            "neigh add 10.9.0.3 lladdr 52:54:00:00:00:03 dev evil nud permanent",
            "neigh add fd00:9::2 lladdr 52:54:00:00:00:02 dev evil nud permanent",
        ] {
            command("ip", &words.split(' ').collect::<Vec<_>>());
        }
        let switch = Switch::start(bench, &ports(bench, false));
        // All that the other two may have on their way at once has room at the victim's, however late this looks.
        let [evil, victim, third] =
            [(NAMES[0], 1024), (NAMES[1], 4096), (NAMES[2], 1024)].map(|(name, size)| {
                let guest = Guest::builder().ring_size(size);
                guest
                    .connect(bench.path(&format!("{name}.sock")))
                    .expect("a guest")
            });
        switch.await_running(&NAMES);
        Self {
            switch,
            tap,
            directory: bench.path(""),
            evil,
            victim,
            third,
            talk: [0, 0],
            arrived: Vec::new(),
        }
    }

    /// Some frames from the attacker's card, those for it, and one from third to the victim. Whether there were any.
    fn shovel(&mut self) -> bool {
        let mut any = false;
        for _ in 0..200 {
            let Some(frame) = self.tap.receive() else {
                break;
            };
            any = true;
            if is_the_kernels(&frame) {
                continue;
            }
            until("a place in the attacker's ring", PATIENCE, || {
                self.evil.send(&frame).ok()
            });
        }
        while let Some(back) = self.evil.try_recv().expect("a frame") {
            self.tap.send(&back.bytes);
        }
        self.speak();
        self.hear();
        any
    }

    /// Third says something to the victim.
    fn speak(&mut self) {
        let builder = PacketBuilder::ethernet2(mac(3), mac(2))
            .ipv4([10, 9, 0, 3], [10, 9, 0, 2], 64)
            .udp(9, 9);
        let mut frame = Vec::new();
        builder
            .write(&mut frame, &self.talk[0].to_be_bytes())
            .expect("a frame");
        until("a place in the third's ring", PATIENCE, || {
            self.third.send(&frame).ok()
        });
        self.talk[0] += 1;
    }

    /// Everything that was sent has been judged, and has arrived where it may: what third says after the switch has taken
    /// all of the attacker's arrives after that.
    fn settle(&mut self, tool: &str) {
        while self.shovel() {}
        assert!(self.evil.drain(PATIENCE).expect("its ring"), "{tool}");
        self.speak();
        until("what third said last", PATIENCE, || {
            self.hear();
            (self.talk[0] <= self.talk[1]).then_some(())
        });
        assert_eq!(self.talk[0], self.talk[1], "{tool}: what third said");
    }

    fn hear(&mut self) {
        while let Some(got) = self.victim.try_recv().expect("a frame") {
            if got.bytes[6..12] == mac(3) {
                self.talk[1] += 1;
            } else {
                if let Some(answer) = answer(&got.bytes) {
                    self.victim
                        .send(&answer)
                        .expect("a place in the victim's ring");
                }
                self.arrived.push(got.bytes);
            }
        }
    }

    /// Whether what the row says has come about since `before`, after some more frames.
    fn is_met(&mut self, row: &Row, before: &Value) -> bool {
        self.shovel();
        let now = &self.switch.port("evil")["counters"]["ingress"];
        let has_risen = |of: fn(&Value, &str) -> u64, name: &str| of(now, name) > of(before, name);
        let dropped =
            |counters: &Value, name: &str| counters["dropped"][name].as_u64().unwrap_or(0);
        let total = |counters: &Value, name: &str| counters[name].as_u64().unwrap_or(0);
        let has_come = row.arrives.is_none_or(|wanted| {
            self.arrived
                .iter()
                .any(|frame| protocol(frame) == Some(wanted))
        });
        row.counted.iter().all(|reason| has_risen(dropped, reason))
            && has_risen(total, "received")
            && has_come
    }

    /// Runs the tool until its row is met, and no longer. Some ask for an address first, and give up when the answer takes
    /// a busy machine too long: what has ended is started again.
    fn meet(&mut self, row: &Row) {
        let before = self.switch.port("evil")["counters"]["ingress"].clone();
        self.arrived.clear();
        let mut tool = Process::adopt(row.tool, start(row.tool, &self.directory));
        let end = Instant::now() + PATIENCE;
        while !self.is_met(row, &before) {
            assert!(
                Instant::now() < end,
                "{}: expected {:?} and {:?}\n{}\n{}",
                row.tool,
                row.counted,
                row.arrives,
                self.switch.port("evil"),
                self.switch.drops("evil")
            );
            if tool.ended().is_some() {
                tool = Process::adopt(row.tool, start(row.tool, &self.directory));
            }
        }
        tool.kill();
        self.settle(row.tool);
        for frame in &self.arrived {
            let lie = lie(frame);
            assert!(lie.is_none(), "{}: {lie:?}: {frame:02x?}", row.tool);
        }
        assert!(self.switch.alive(), "{}", row.tool);
    }
}

/// The three ports, all guarded. On a switch that denies, third may still talk to the victim.
fn ports(bench: &Bench, denies: bool) -> String {
    let mut text = String::new();
    let mut acl = "";
    if denies {
        text += "default = \"deny\"\n\n[acl.talk]\n";
        text += "outbound = [{ allow = \"udp\", from = \"port:third\" }]\n";
        text += "inbound = [{ allow = \"udp\", from = \"port:third\" }]\n";
        acl = "acl = \"talk\"\n";
    }
    for (name, n) in NAMES.iter().zip(1..) {
        let socket = bench.path(&format!("{name}.sock"));
        text += &format!(
            "[port.{name}]\nsocket = {socket:?}\nmac = \"52:54:00:00:00:0{n}\"\nip = [\"10.9.0.{n}\", \"fd00:9::{n}\"]\n{acl}"
        );
    }
    text
}

/// What scapy's rows are made of.
const SCAPY: &str = "
from scapy.all import *
ADVERT = ICMPv6ND_RA()/ICMPv6NDOptPrefixInfo(prefix='fd00:bad::', prefixlen=64)
IPV6 = IPv6(src='fe80::5054:ff:fe00:1', dst='ff02::1', hlim=255)
RA = IPV6/ADVERT
SNAPPED = LLC(dsap=0xaa, ssap=0xaa, ctrl=3)/SNAP(code=0x86dd)
";

/// Starts a tool. It has an input that never ends: some stop at a key, or at its end.
fn start(tool: &str, directory: &Path) -> Child {
    let words: Vec<String> = match tool.strip_prefix("scapy ") {
        Some(packet) => {
            let ether = if packet.starts_with("SNAPPED") {
                "Dot3"
            } else {
                "Ether"
            };
            let send = format!(
                "sendp({ether}(src='52:54:00:00:00:01', dst='33:33:00:00:00:01')/{packet}, iface='evil', verbose=0)"
            );
            vec![
                "/usr/bin/python3".to_owned(),
                "-c".to_owned(),
                format!("{SCAPY}{send}"),
            ]
        }
        None => tool.split(' ').map(str::to_owned).collect(),
    };
    // Kept when the test fails.
    let log = directory.join("tools.log");
    let log = File::options().create(true).append(true).open(log);
    let log = log.expect("a log file");
    let errors = log.try_clone().expect("a second handle of the log");
    Command::new(&words[0])
        .args(&words[1..])
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(log)
        .stderr(errors)
        .spawn()
        .unwrap_or_else(|why| panic!("{tool} (lab/setup.sh installs it): {why}"))
}

#[test]
fn what_attackers_send_is_counted_by_its_reason_and_nothing_that_lies_arrives() {
    let bench = Bench::new();
    let mut arena = Arena::new(&bench);
    for row in GUARDED {
        arena.meet(row);
    }
    arena.switch.change(&ports(&bench, true));
    for row in DENIED {
        arena.meet(row);
        assert!(
            arena
                .arrived
                .iter()
                .all(|frame| matches!(protocol(frame), None | Some(ICMPV6))),
            "{}",
            row.tool
        );
    }
}
