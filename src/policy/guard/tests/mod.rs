//! The guard against the cases of its name. `frames` makes packets byte by byte; nothing of the code under test does.

mod addressing;
mod data;
mod dhcp;
mod discovery;
mod frames;
mod layer2;
mod properties;
mod reference;
mod wrapped;

use std::net::{Ipv4Addr, Ipv6Addr};

use super::*;
use ipnet::IpNet;

use frames::*;

/// A port with its guard, as the gate has it.
struct Port {
    guard: Guard,
    state: GuardState,
    now: Tick,
}

impl Port {
    fn new(spec: &GuardSpec) -> Self {
        Self {
            guard: Guard::new(spec),
            state: GuardState::new(),
            now: Tick::ZERO,
        }
    }

    /// Of a guest with the declared MAC address [`OWN`] and any IP address.
    fn of_mac() -> Self {
        Self::new(&guest(IpSpec::Any))
    }

    /// The same with the addresses of [`addresses`].
    fn of_ip() -> Self {
        Self::new(&guest(addresses()))
    }

    fn judge(&self, bytes: &[u8]) -> Result<Outcome, DropReason> {
        self.judge_shown(bytes, bytes.len())
    }

    /// The same when the snapshot holds `shown` bytes.
    fn judge_shown(&self, bytes: &[u8], shown: usize) -> Result<Outcome, DropReason> {
        let frame = Frame::parse(&bytes[..shown], bytes.len() as u32).unwrap();
        self.guard
            .judge(&self.state, &frame, &digest(&frame), self.now)
    }
}

fn digest(frame: &Frame<'_>) -> Digest {
    Digest::of(frame, frame.tag().map_or(1, |tag| tag.vid()))
}

fn guest(ip: IpSpec) -> GuardSpec {
    GuardSpec {
        mac: MacSpec::Declared(vec![OWN]),
        ip,
        may: May::default(),
        max_leases: 4,
        addressing_per_second: 0,
    }
}

/// 10.0.0.5 and fd00::5.
fn addresses() -> IpSpec {
    IpSpec::Declared(vec![
        "10.0.0.5/32".parse().unwrap(),
        "fd00::5/128".parse().unwrap(),
    ])
}

fn uplink() -> GuardSpec {
    GuardSpec {
        mac: MacSpec::Any,
        may: ALL,
        ..guest(IpSpec::Any)
    }
}

const ALL: May = May {
    dhcp_server: true,
    router: true,
    link_protocols: true,
};

/// Asserts on a table: what, the frame, the answer.
fn check(port: &Port, table: &[(&str, Vec<u8>, Result<(), DropReason>)]) {
    for (what, frame, expected) in table {
        assert_eq!(port.judge(frame).map(drop), *expected, "{what}");
    }
}

#[test]
fn e_1_only_declared_addresses_are_sent_from() {
    let mut spec = guest(IpSpec::Any);
    let second = Mac::new([2, 0, 0, 0, 0, 7]);
    spec.mac = MacSpec::Declared(vec![OWN, second]);
    let port = Port::new(&spec);
    for (source, expected) in [
        (OWN, Ok(Outcome::Pass)),
        (second, Ok(Outcome::Pass)),
        (OTHER, Err(DropReason::SourceMacSpoofed)),
        (GATEWAY, Err(DropReason::SourceMacSpoofed)),
        (Mac::BROADCAST, Err(DropReason::SourceMacInvalid)),
        (Mac::default(), Err(DropReason::SourceMacInvalid)),
        (
            Mac::new([1, 0, 0x5e, 0, 0, 1]),
            Err(DropReason::SourceMacInvalid),
        ),
    ] {
        for frame in [
            ethernet(GATEWAY, source, 0x0800, &udp4(OWN4, GATEWAY4, 1, 2, &[])),
            ethernet(
                Mac::BROADCAST,
                source,
                0x0806,
                &arp(1, source, OWN4, Mac::default(), GATEWAY4),
            ),
        ] {
            assert_eq!(port.judge(&frame), expected, "{source}");
        }
    }
}

#[test]
fn e_1_the_first_address_is_kept_until_it_is_forgotten() {
    let mut spec = guest(IpSpec::Any);
    spec.mac = MacSpec::Sticky;
    let port = Port::new(&spec);
    let data = |source| ethernet(GATEWAY, source, 0x0800, &udp4(OWN4, GATEWAY4, 1, 2, &[]));
    let generation = || port.state.generation(port.now);

    // What is refused claims nothing.
    let rogue = ethernet(ALL_NODES, OTHER, 0x86dd, &advertisement(255, GATEWAY));
    assert_eq!(port.judge(&rogue), Err(DropReason::RouterRefused));
    assert_eq!(port.state.kept(), None);
    assert!(!port.guard.owns_mac(&port.state, OTHER));

    let before = generation();
    assert_eq!(port.judge(&data(OWN)), Ok(Outcome::Claim(OWN)));
    assert_ne!(generation(), before);
    assert_eq!(port.state.kept(), Some(OWN));
    assert_eq!(port.judge(&data(OWN)), Ok(Outcome::Pass));
    assert_eq!(port.judge(&data(OTHER)), Err(DropReason::SourceMacSpoofed));
    assert!(port.guard.owns_mac(&port.state, OWN));

    let before = generation();
    port.state.release(OTHER);
    assert_eq!((port.state.kept(), generation()), (Some(OWN), before));
    port.state.release(OWN);
    assert_ne!(generation(), before);
    assert_eq!(port.judge(&data(OTHER)), Ok(Outcome::Claim(OTHER)));

    let before = generation();
    port.state.forget();
    assert_ne!(generation(), before);
    assert_eq!(port.judge(&data(OWN)), Ok(Outcome::Claim(OWN)));
}

/// To find out whether an address is another's takes a look-up in each VLAN, which a guest could ask for with each frame.
#[test]
fn e_1_a_refused_claim_bars_the_next_for_a_second() {
    let mut spec = guest(IpSpec::Any);
    spec.mac = MacSpec::Sticky;
    let mut port = Port::new(&spec);
    let data = |source| ethernet(GATEWAY, source, 0x0800, &udp4(OWN4, GATEWAY4, 1, 2, &[]));
    assert_eq!(port.judge(&data(OTHER)), Ok(Outcome::Claim(OTHER)));
    port.state.bar_claims(OTHER, port.now);
    assert_eq!(port.state.kept(), None);
    let generation = port.state.generation(port.now);
    for source in [OTHER, OWN] {
        assert_eq!(port.judge(&data(source)), Err(DropReason::MacOfOtherPort));
    }
    assert_eq!(port.state.generation(port.now), generation);
    port.now = port.now.after_millis(999);
    assert_eq!(port.judge(&data(OWN)), Err(DropReason::MacOfOtherPort));
    port.now = port.now.after_millis(1);
    assert_eq!(port.judge(&data(OWN)), Ok(Outcome::Claim(OWN)));
    // Another guest is not barred for what one before it did.
    port.state.bar_claims(OWN, port.now);
    port.state.forget();
    assert_eq!(port.judge(&data(OWN)), Ok(Outcome::Claim(OWN)));
}

#[test]
fn e_1_of_two_workers_one_claims() {
    let mut spec = guest(IpSpec::Any);
    spec.mac = MacSpec::Sticky;
    for _ in 0..200 {
        let port = Port::new(&spec);
        let start = std::sync::Barrier::new(2);
        let claim = |source| {
            let data = ethernet(GATEWAY, source, 0x0800, &udp4(OWN4, GATEWAY4, 1, 2, &[]));
            start.wait();
            port.judge(&data)
        };
        let [a, b] = std::thread::scope(|scope| {
            let a = scope.spawn(|| claim(OWN));
            let b = scope.spawn(|| claim(OTHER));
            [a.join().unwrap(), b.join().unwrap()]
        });
        let refused = Err(DropReason::SourceMacSpoofed);
        match port.state.kept() {
            Some(OWN) => assert_eq!((a, b), (Ok(Outcome::Claim(OWN)), refused)),
            Some(OTHER) => assert_eq!((a, b), (refused, Ok(Outcome::Claim(OTHER)))),
            kept => panic!("{kept:?}"),
        }
    }
}

#[test]
fn an_open_guard_passes_everything() {
    let port = Port::new(&uplink());
    for frame in [
        ethernet(ALL_NODES, OTHER, 0x86dd, &advertisement(7, OWN)),
        ethernet(GATEWAY, OTHER, 0x88cc, &[0; 46]),
        ethernet(GATEWAY, OTHER, 0x0800, &[0xff; 46]),
        ethernet(GATEWAY, OTHER, 0x0806, &[0xff; 46]),
    ] {
        assert_eq!(port.judge(&frame), Ok(Outcome::Pass));
    }
}

#[test]
fn every_prefix_counts_and_nothing_beside_them() {
    let nets: Vec<IpNet> = ["10.0.0.0/31", "10.0.0.2/32", "10.0.1.0/24", "10.0.1.128/25"]
        .iter()
        .chain(&[
            "0.0.0.4/32",
            "255.255.255.255/32",
            "fd00::/64",
            "fd00:0:0:1::/64",
            "fe80::7/128",
        ])
        .map(|net| net.parse().unwrap())
        .collect();
    let set = Addresses::compile(&nets);
    for address in [
        "10.0.0.0",
        "10.0.0.2",
        "10.0.1.255",
        "0.0.0.4",
        "255.255.255.255",
    ] {
        assert!(set.contains_v4(address.parse().unwrap()), "{address}");
    }
    for address in [
        "9.255.255.255",
        "10.0.0.3",
        "10.0.2.0",
        "0.0.0.3",
        "0.0.0.5",
        "255.255.255.254",
    ] {
        assert!(!set.contains_v4(address.parse().unwrap()), "{address}");
    }
    for (address, expected) in [
        ("fd00::ffff:ffff:ffff:ffff", true),
        ("fd00:0:0:1:ffff:ffff:ffff:ffff", true),
        ("fd00:0:0:2::", false),
        ("fcff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", false),
        ("fe80::7", true),
        ("fe80::8", false),
        // An IPv4 address is no IPv6 address.
        ("::10.0.0.0", false),
        ("::ffff:10.0.0.0", false),
    ] {
        assert_eq!(
            set.contains_v6(address.parse().unwrap()),
            expected,
            "{address}"
        );
    }
    let all = Addresses::compile(&["0.0.0.0/0".parse().unwrap(), "0.0.0.0/8".parse().unwrap()]);
    assert!(all.contains_v4(Ipv4Addr::BROADCAST) && all.contains_v4(Ipv4Addr::UNSPECIFIED));
    assert!(!all.contains_v6(Ipv6Addr::UNSPECIFIED));
}

#[test]
fn addressing_is_held_to_its_rate_and_nothing_else_is() {
    let mut spec = guest(addresses());
    spec.addressing_per_second = 4;
    let mut port = Port::new(&spec);
    let asking = ethernet(
        Mac::BROADCAST,
        OWN,
        0x0806,
        &arp(1, OWN, OWN4, Mac::default(), GATEWAY4),
    );
    let soliciting = ethernet(ALL_NODES, OWN, 0x86dd, &solicitation(OWN6, GATEWAY6, &[]));
    let spoofed = ethernet(
        Mac::BROADCAST,
        OWN,
        0x0806,
        &arp(1, OWN, OTHER4, Mac::default(), GATEWAY4),
    );
    let data = ethernet(GATEWAY, OWN, 0x0800, &udp4(OWN4, GATEWAY4, 1, 2, &[]));
    let slow = Err(DropReason::AddressingRate);
    port.now = Tick::from_secs(100);
    // A second's worth at once; what is refused for another reason takes nothing.
    for frame in [&asking, &soliciting, &asking, &soliciting] {
        assert_eq!(port.judge(&spoofed), Err(DropReason::ArpSpoofed));
        assert_eq!(port.judge(frame), Ok(Outcome::Pass));
    }
    assert_eq!(port.judge(&asking), slow);
    assert_eq!(port.judge(&soliciting), slow);
    assert_eq!(port.judge(&data), Ok(Outcome::Pass));
    // 250 ms a packet.
    port.now = port.now.after_millis(249);
    assert_eq!(port.judge(&asking), slow);
    port.now = port.now.after_millis(1);
    assert_eq!(port.judge(&asking), Ok(Outcome::Pass));
    assert_eq!(port.judge(&asking), slow);
    // A long silence saves up no more than a second's worth.
    port.now = port.now.after_millis(60_000);
    let passed = (0..100).filter(|_| port.judge(&asking).is_ok()).count();
    assert_eq!(passed, 4);
}
