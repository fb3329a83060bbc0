//! What the gate's reading and judging cost for each frame, and what compiling a list costs.
//!
//! `digest` reads a frame's subject. `hit` and `miss` ask a list of so many rules about packets of 1,024 flows in turn: one in
//! four of `hit`'s was drawn for a rule of its own out of all of the list, the others meet some rule likewise drawn; `miss`
//! comes to the end of the list. `same` asks about one packet again and again. The lists are such as people
//! write: services of hosts and networks, ranges of ports, groups, refused networks, both families. Times are for one
//! packet; `compile` is for a whole list.
//!
//! `cargo bench --bench policy`; with `-- --test` everything runs once.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use ipnet::IpNet;
use portcullis::counters::{PortId, PortSet};
use portcullis::frame::Frame;
use portcullis::policy::acl::Classifier;
use portcullis::policy::digest::Digest;
use portcullis::policy::rule::{Action, Direction, Kind, Rule, RuleId, Who};
use portcullis::policy::subject::{Family, State, Subject};

const PORTS: u16 = 64;
const FLOWS: usize = 1024;
const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];

fn main() {
    divan::main();
}

fn port(index: usize) -> PortId {
    let index = u16::try_from(index % usize::from(PORTS)).expect("a small number");
    PortId::new(index).expect("a port")
}

/// A number that differs with `n` as if it were drawn.
fn draw(n: usize, below: usize) -> usize {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29) % below
}

fn small(n: usize, below: usize) -> u16 {
    u16::try_from(draw(n, below)).expect("a small number")
}

fn octet(n: usize) -> u8 {
    u8::try_from(draw(n, 256)).expect("eight bits")
}

/// A network of the operator's: in 10.0.0.0/8.
fn network(n: usize, len: u8) -> IpNet {
    let host = u32::try_from(draw(n, 1 << 24)).expect("24 bits");
    let address = IpAddr::V4(Ipv4Addr::from_bits(10 << 24 | host));
    IpNet::new(address, len).expect("a length up to 32").trunc()
}

fn network_v6(n: usize, len: u8) -> IpNet {
    let address = Ipv6Addr::new(0xfd00, 0, small(n, 256), small(n + 7, 65_536), 0, 0, 0, 1);
    IpNet::new(IpAddr::V6(address), len)
        .expect("a length up to 128")
        .trunc()
}

const SERVICES: [u16; 12] = [22, 25, 53, 80, 123, 443, 3306, 5432, 6379, 8080, 9090, 9200];

fn ip(family: Option<Family>, protocol: Option<u8>) -> Kind {
    Kind::Ip { family, protocol }
}

/// Rule `n` of a list; inbound.
fn rule(n: usize) -> Rule {
    let service = SERVICES[draw(n + 1, SERVICES.len())];
    let [allow, deny] = [Action::Allow, Action::Deny].map(Rule::any);
    let v4 = |len| vec![Who::Prefix(network(n, len))];
    let group = || {
        let members = (0..8).map(|member| port(draw(n, 8) * 8 + member));
        vec![Who::Ports(members.collect::<PortSet>())]
    };
    let tcp = ip(None, Some(6));
    match n % 20 {
        0..=4 => Rule {
            kind: tcp,
            from: v4(32),
            port: vec![service..=service],
            ..allow
        },
        5..=7 => Rule {
            kind: tcp,
            from: v4(24),
            port: vec![service..=service],
            ..allow
        },
        8 => Rule {
            kind: tcp,
            from: v4(16),
            port: vec![8000..=8099],
            ..allow
        },
        9 => {
            let first = 10_000 + small(n, 50) * 100;
            Rule {
                kind: tcp,
                from: v4(28),
                port: vec![first..=first + 99],
                ..allow
            }
        }
        10..=11 => Rule {
            kind: ip(None, Some(17)),
            from: v4(32),
            port: vec![service..=service],
            ..allow
        },
        12 => Rule {
            kind: ip(None, None),
            from: v4(24),
            ..deny
        },
        13 => Rule {
            kind: ip(None, None),
            from: v4(22),
            ..allow
        },
        14 => Rule {
            kind: tcp,
            from: group(),
            port: vec![service..=service],
            ..allow
        },
        15 => Rule {
            kind: ip(Some(Family::V4), Some(1)),
            icmp: vec![(8, Some(0))],
            from: v4(24),
            ..allow
        },
        16..=17 => Rule {
            kind: tcp,
            from: vec![Who::Prefix(network_v6(
                n,
                if n.is_multiple_of(3) { 48 } else { 64 },
            ))],
            port: vec![service..=service],
            ..allow
        },
        18 => Rule {
            kind: tcp,
            from: v4(32),
            port: vec![80..=80, 443..=443, 8080..=8089],
            ..allow
        },
        _ => {
            let first = 20_000 + small(n, 200) * 16;
            Rule {
                kind: tcp,
                port: vec![first..=first + small(n + 3, 16)],
                ..allow
            }
        }
    }
}

fn list(rules: usize) -> Vec<Rule> {
    (0..rules).map(rule).collect()
}

fn compile(rules: &[Rule]) -> Classifier {
    let rules: Vec<(RuleId, &Rule)> = (0u32..).map(RuleId).zip(rules).collect();
    Classifier::compile(&rules, Direction::Inbound, port(0), PORTS.into())
        .expect("a list of usual size")
}

/// A frame of 64 bytes; what it does not say is zero.
fn frame(src: IpAddr, protocol: u8, ports: [u16; 2]) -> [u8; 96] {
    let mut bytes = [0; 96];
    bytes[..12].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
    let layer_4 = match src {
        IpAddr::V4(src) => {
            bytes[12..24].copy_from_slice(&[8, 0, 0x45, 0, 0, 82, 0, 0, 0x40, 0, 64, protocol]);
            bytes[26..30].copy_from_slice(&src.octets());
            bytes[30..34].copy_from_slice(&[10, 200, 0, 1]);
            34
        }
        IpAddr::V6(src) => {
            bytes[12..22].copy_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0, 0, 42, protocol, 64]);
            bytes[22..38].copy_from_slice(&src.octets());
            bytes[38..54].copy_from_slice(&Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 9).octets());
            54
        }
    };
    bytes[layer_4..layer_4 + 2].copy_from_slice(&ports[0].to_be_bytes());
    bytes[layer_4 + 2..layer_4 + 4].copy_from_slice(&ports[1].to_be_bytes());
    bytes[layer_4 + 12] = 0x50;
    bytes[layer_4 + 13] = 0x02;
    bytes
}

/// A packet that the rule means, and the port that it comes from.
fn packet(rule: &Rule, n: usize) -> (PortId, [u8; 96]) {
    let Kind::Ip { protocol, .. } = rule.kind else {
        panic!("a rule about IP");
    };
    let (mut peer, mut src) = (port(draw(n, 64)), IpAddr::V4(Ipv4Addr::new(172, 16, 0, 1)));
    match rule.from.first() {
        Some(Who::Prefix(net)) => src = net.hosts().next().expect("an address"),
        Some(Who::Ports(set)) => peer = set.iter().next().expect("a member"),
        _ => {}
    }
    let dst = rule.port.first().map_or(7, |range| *range.start());
    let number = protocol.unwrap_or(6);
    let ports = if number == 1 {
        [0x0800, 0]
    } else {
        [40_000 + small(n, 1000), dst]
    };
    (peer, frame(src, number, ports))
}

type Asked = Vec<(PortId, Subject)>;

fn subject(bytes: &[u8; 96]) -> Subject {
    let frame = Frame::parse(bytes, 96).expect("a frame");
    Digest::of(&frame, 1).subject.in_state(State::New)
}

fn run(bencher: Bencher<'_, '_>, rules: usize, asked: &Asked, is_hit: bool) {
    let classifier = compile(&list(rules));
    for (peer, subject) in asked {
        assert_eq!(
            classifier.judge(*peer, subject).is_some(),
            is_hit,
            "{subject:x?}"
        );
    }
    bencher
        .counter(ItemsCount::new(asked.len()))
        .bench_local(|| {
            let mut sum = 0u32;
            for (peer, subject) in black_box(asked) {
                let found = classifier.judge(*peer, subject);
                sum = sum.wrapping_add(found.and_then(|found| found.rule).map_or(0, |rule| rule.0));
            }
            sum
        });
}

/// Packets for rules all over the list.
fn hits(rules: usize, flows: usize) -> Asked {
    let rules = list(rules);
    let packets = (0..flows).map(|n| packet(&rules[draw(n, rules.len())], n));
    packets
        .map(|(peer, bytes)| (peer, subject(&bytes)))
        .collect()
}

#[divan::bench(args = SIZES)]
fn hit(bencher: Bencher<'_, '_>, rules: usize) {
    run(bencher, rules, &hits(rules, FLOWS), true);
}

#[divan::bench(args = SIZES)]
fn miss(bencher: Bencher<'_, '_>, rules: usize) {
    let packets = (0..FLOWS).map(|n| {
        let src = IpAddr::V4(Ipv4Addr::new(172, 16, octet(n), octet(n + 5)));
        (
            port(n),
            subject(&frame(
                src,
                6,
                [40_000 + small(n, 999), 30_000 + small(n, 9_999)],
            )),
        )
    });
    run(bencher, rules, &packets.collect(), false);
}

#[divan::bench(args = SIZES)]
fn same(bencher: Bencher<'_, '_>, rules: usize) {
    let rule = list(rules).pop().expect("a rule");
    let (peer, bytes) = packet(&rule, 1);
    run(bencher, rules, &vec![(peer, subject(&bytes)); FLOWS], true);
}

#[divan::bench(args = SIZES)]
fn compiling(bencher: Bencher<'_, '_>, rules: usize) {
    let rules = list(rules);
    bencher.bench_local(|| compile(black_box(&rules)));
}

#[divan::bench(args = ["tcp over IPv4", "tcp over IPv6", "udp over IPv4"])]
fn digest(bencher: Bencher<'_, '_>, kind: &str) {
    let src = if kind.ends_with('4') {
        IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1))
    } else {
        IpAddr::V6(Ipv6Addr::LOCALHOST)
    };
    let number = if kind.starts_with("tcp") { 6 } else { 17 };
    let frames = vec![frame(src, number, [40_000, 443]); 64];
    bencher
        .counter(ItemsCount::new(frames.len()))
        .bench_local(|| {
            let mut sum = 0;
            for bytes in black_box(&frames) {
                if let Ok(frame) = Frame::parse(bytes, 96) {
                    let digest = black_box(Digest::of(&frame, 1));
                    sum += digest.end;
                }
            }
            sum
        });
}
