//! Any text as a configuration, any flags beside it: an error that says where, or a valid model.
#![no_main]

use std::path::Path;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use portcullis::config::{Overrides, from_text};
use portcullis::counters::PortId;
use portcullis::frame::MAX_FRAME;

/// What a configuration is written with. Random text alone would hardly ever make a key.
const WORDS: &[&str] = &[
    "[switch]\n",
    "[fdb]\n",
    "[port.a]\n",
    "[port.b]\n",
    "[defaults]\n",
    "[conntrack]\n",
    "[conntrack.timeouts]\n",
    "[group.g]\n",
    "[acl.x]\n",
    "[set.s]\n",
    "[port.a.limits]\n",
    "[port.a.quarantine]\n",
    "drops = { arp-spoofed = ",
    "scan = ",
    "helpers = ",
    "allow = \"x\"\n",
    "\"100 in 10s\"\n",
    "[[assert]]\n",
    "outbound = [",
    "inbound = [",
    "]\n",
    "{ allow = ",
    "{ deny = ",
    "{ reject = ",
    " },\n",
    ", from = ",
    ", to = ",
    ", port = ",
    ", icmp = ",
    ", flags = ",
    ", state = ",
    ", stateless = true",
    ", fragments = true",
    "acl = ",
    "ip = ",
    "spoofing = ",
    "members = ",
    "send = ",
    "broadcast = ",
    "socket_mode = ",
    "packet = ",
    "expect = ",
    "\"tcp\"",
    "\"any\"",
    "\"icmp\"",
    "\"0x88b5\"",
    "\"uplink\"",
    "\"group:g\"",
    "\"port:a\"",
    "\"set:s\"",
    "\"10.0.0.0/8\"",
    "\"fd00::5\"",
    "\"8000-8100\"",
    "\"syn/syn,ack\"",
    "\"clean-traffic\"\n",
    "\"dhcp\"\n",
    "\"deny\"\n",
    "\"100Mbit/s burst 1Mbit\"\n",
    "\"tcp > :443\"\n",
    "name = ",
    "mode = ",
    "control = ",
    "workers = ",
    "cpus = ",
    "poll = ",
    "spin_us = ",
    "capacity = ",
    "per_port = ",
    "ageing = ",
    "socket = ",
    "connect = ",
    "groups = ",
    "uplink = ",
    "mac = ",
    "vlan = ",
    "trunk = ",
    "native = ",
    "queues = ",
    "mtu = ",
    "true\n",
    "false\n",
    "0\n",
    "1\n",
    "2\n",
    "4095\n",
    "65536\n",
    "-1\n",
    "\"bridge\"\n",
    "\"isolated\"\n",
    "\"private\"\n",
    "\"adaptive\"\n",
    "\"/tmp/a\"\n",
    "\"/tmp/b\"\n",
    "\"x\"\n",
    "[\"g\", \"h\"]\n",
    "[1, 2]\n",
    "[0, 1]\n",
    "\"52:54:00:00:00:01\"\n",
    "[\"52:54:00:00:00:01\"]\n",
    "socket = \"/tmp/c\"\n",
    "a=/tmp/a",
    ",connect=yes",
    ",mode=isolated",
    ",group=g",
    ",mac=52:54:00:00:00:02",
    ",uplink=yes",
    ",vlan=7",
    ",trunk=1-9",
    ",native=3",
    ",queues=2",
    ",mtu=9000",
    "=",
    ",",
    "#",
];

#[derive(Arbitrary, Debug)]
enum Piece<'a> {
    Word(u8),
    Text(&'a str),
}

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    named: bool,
    ports: Vec<Vec<Piece<'a>>>,
    mode: Option<Piece<'a>>,
    workers: Option<&'a str>,
    text: Vec<Piece<'a>>,
    packet: &'a str,
}

impl Piece<'_> {
    fn text(&self) -> &str {
        match self {
            Self::Word(index) => WORDS[usize::from(*index) % WORDS.len()],
            Self::Text(text) => text,
        }
    }
}

fn join(pieces: &[Piece<'_>]) -> String {
    pieces.iter().map(Piece::text).collect()
}

fuzz_target!(|input: Input<'_>| {
    let overrides = Overrides {
        ports: input.ports.iter().map(|pieces| join(pieces)).collect(),
        mode: input.mode.map(|piece| piece.text().to_owned()),
        workers: input.workers.map(str::to_owned),
        ..Overrides::default()
    };
    let file = input.named.then(|| Path::new("lan.toml"));
    match from_text(file, &join(&input.text), &overrides) {
        Ok(spec) => {
            for (index, port) in spec.ports.iter().enumerate() {
                assert!(!port.name.is_empty());
                assert!(
                    spec.ports[..index]
                        .iter()
                        .all(|other| other.name != port.name)
                );
            }
            let policy = spec.policy();
            assert_eq!(policy.ports.len(), spec.ports.len());
            for found in &spec.asserts {
                assert!(found.from != found.to && found.frame.len() >= 14);
            }
            if let Ok(frame) = spec.packet(input.packet, PortId::new(0).unwrap(), PortId::new(1)) {
                assert!((14..=MAX_FRAME as usize).contains(&frame.len()));
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
