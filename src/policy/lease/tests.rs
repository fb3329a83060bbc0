//! Leases: what is read, who gets them, and what a port may send with them.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};

use etherparse::PacketBuilder;
use proptest::prelude::*;

use super::*;
use crate::counters::DropReason;
use crate::frame::Frame;
use crate::policy::digest::Digest;
use crate::policy::spec::{GuardSpec, IpSpec, MacSpec, May};

const SERVER: Mac = Mac::new([2, 0, 0, 0, 0, 1]);
const A: Mac = Mac::new([2, 0, 0, 0, 0, 0xa]);
const B: Mac = Mac::new([2, 0, 0, 0, 0, 0xb]);
const FIVE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);
const SIX: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 6);
const FIVE6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 5);

const ACK: u8 = 5;
const NAK: u8 = 6;

/// A server's answer of that type to `client`.
fn answer(kind: u8, client: Mac, address: Ipv4Addr, seconds: u32) -> Vec<u8> {
    let mut message = vec![2, 1, 6, 0, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0];
    message.extend(address.octets());
    message.extend([0; 8]);
    message.extend(client.octets());
    message.resize(236, 0);
    message.extend([99, 130, 83, 99, 53, 1, kind, 54, 4, 10, 0, 0, 1, 51, 4]);
    message.extend(seconds.to_be_bytes());
    message.push(255);
    from(
        SERVER,
        client,
        [10, 0, 0, 1],
        address.octets(),
        67,
        68,
        &message,
    )
}

/// A client's message of that type; `ciaddr`, and the requested address.
fn renounce(kind: u8, client: Mac, ciaddr: Ipv4Addr, requested: Ipv4Addr) -> Vec<u8> {
    let mut message = vec![1, 1, 6, 0, 1, 2, 3, 4, 0, 0, 0, 0];
    message.extend(ciaddr.octets());
    message.extend([0; 12]);
    message.extend(client.octets());
    message.resize(236, 0);
    message.extend([99, 130, 83, 99, 53, 1, kind, 50, 4]);
    message.extend(requested.octets());
    message.push(255);
    from(
        client,
        SERVER,
        ciaddr.octets(),
        [10, 0, 0, 1],
        68,
        67,
        &message,
    )
}

fn from(
    src: Mac,
    dst: Mac,
    from: [u8; 4],
    to: [u8; 4],
    sport: u16,
    dport: u16,
    payload: &[u8],
) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(src.octets(), dst.octets())
        .ipv4(from, to, 64)
        .udp(sport, dport)
        .write(&mut frame, payload)
        .unwrap();
    frame
}

/// An identity association with these addresses and lifetimes; 3 is IA_NA, 4 IA_TA.
fn association(code: u16, addresses: &[(Ipv6Addr, u32)]) -> Vec<u8> {
    let mut inner = vec![0; if code == 3 { 12 } else { 4 }];
    for (address, valid) in addresses {
        inner.extend([0, 5, 0, 24]);
        inner.extend(address.octets());
        inner.extend(1800u32.to_be_bytes());
        inner.extend(valid.to_be_bytes());
    }
    [
        &code.to_be_bytes()[..],
        &(inner.len() as u16).to_be_bytes(),
        &inner,
    ]
    .concat()
}

/// A DHCPv6 message with a client identifier in front of the rest.
fn message6(kind: u8, src: Mac, dst: Mac, ports: (u16, u16), options: &[u8]) -> Vec<u8> {
    let payload = [&[kind, 1, 2, 3, 0, 1, 0, 4, 9, 9, 9, 9][..], options].concat();
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(src.octets(), dst.octets())
        .ipv6(Ipv6Addr::LOCALHOST.octets(), FIVE6.octets(), 64)
        .udp(ports.0, ports.1)
        .write(&mut frame, &payload)
        .unwrap();
    frame
}

fn reply6(client: Mac, options: &[u8]) -> Vec<u8> {
    message6(7, SERVER, client, (547, 546), options)
}

fn read(frame: &[u8]) -> Option<LeaseEvent> {
    observe(&Frame::parse(frame, frame.len() as u32).unwrap())
}

fn changes(frame: &[u8]) -> Option<(Voice, Mac, Vec<Change>)> {
    read(frame).map(|event| (event.voice, event.client, event.changes().collect()))
}

fn granted(address: impl Into<IpAddr>, seconds: u32) -> Change {
    Change::Granted {
        address: address.into(),
        seconds,
    }
}

fn ended(address: impl Into<IpAddr>) -> Change {
    Change::Ended {
        address: address.into(),
    }
}

#[test]
fn answers_of_servers_are_read() {
    let server = |client, change| Some((Voice::Server, client, vec![change]));
    assert_eq!(
        changes(&answer(ACK, A, FIVE, 600)),
        server(A, granted(FIVE, 600))
    );
    assert_eq!(
        changes(&answer(ACK, A, FIVE, u32::MAX)),
        server(A, granted(FIVE, u32::MAX))
    );
    assert_eq!(
        changes(&answer(NAK, B, Ipv4Addr::UNSPECIFIED, 0)),
        server(B, Change::EndedAllV4)
    );
    for kind in [1, 2, 3, 4, 7, 8] {
        assert_eq!(changes(&answer(kind, A, FIVE, 600)), None, "{kind}");
    }
    for address in ["0.0.0.0", "127.0.0.1", "224.0.0.5", "255.255.255.255"] {
        let address = address.parse().unwrap();
        assert_eq!(changes(&answer(ACK, A, address, 600)), None, "{address}");
    }
    assert_eq!(changes(&answer(ACK, A, FIVE, 0)), None);
    assert_eq!(changes(&answer(ACK, Mac::BROADCAST, FIVE, 600)), None);
}

#[test]
fn what_is_no_answer_teaches_nothing() {
    let ack = answer(ACK, A, FIVE, 600);
    // Every byte of the message that decides, wrong: operation, hardware, cookie, options.
    for at in [0, 1, 2, 236, 240, 241, 242, 249, 250] {
        let mut frame = ack.clone();
        frame[42 + at] ^= 0x40;
        assert_eq!(changes(&frame), None, "byte {at}");
    }
    // Another port on either side, another protocol, a fragment.
    for (at, value) in [(35, 68), (37, 67), (23, 6), (20, 0x20), (21, 1)] {
        let mut frame = ack.clone();
        frame[at] = value;
        assert_eq!(changes(&frame), None, "byte {at}");
    }
    // Not wholly in the snapshot, whatever is missing.
    for shown in 14..ack.len() {
        let frame = Frame::parse(&ack[..shown], ack.len() as u32).unwrap();
        assert_eq!(observe(&frame), None, "{shown}");
    }
    // In a VLAN it is the same.
    let tagged = [&ack[..12], &[0x81, 0, 0, 5], &ack[12..]].concat();
    assert_eq!(read(&tagged), read(&ack));
}

#[test]
fn clients_renounce_their_own() {
    let zero = Ipv4Addr::UNSPECIFIED;
    let client = |change| Some((Voice::Client, A, vec![change]));
    assert_eq!(changes(&renounce(7, A, FIVE, zero)), client(ended(FIVE)));
    assert_eq!(changes(&renounce(4, A, zero, SIX)), client(ended(SIX)));
    assert_eq!(changes(&renounce(3, A, FIVE, SIX)), None);
    let release = association(3, &[(FIVE6, 0)]);
    for (kind, expected) in [
        (8, client(ended(FIVE6))),
        (9, client(ended(FIVE6))),
        (5, None),
    ] {
        let frame = message6(kind, A, SERVER, (546, 547), &release);
        assert_eq!(changes(&frame), expected, "{kind}");
    }
}

/// What says two things says nothing, and whoever gives back more than is read gives back all.
#[test]
fn what_is_said_twice_teaches_nothing_and_what_is_too_much_ends_all() {
    let ack = answer(ACK, A, FIVE, 600);
    for option in [
        &[53, 1, ACK][..],
        &[51, 4, 0, 0, 2, 88],
        &[50, 4, 10, 0, 0, 5],
    ] {
        let mut message = ack[42..].to_vec();
        message.pop();
        let with = |options: &[&[u8]]| {
            let message = [&message[..], &options.concat(), &[255]].concat();
            from(SERVER, A, [10, 0, 0, 1], FIVE.octets(), 67, 68, &message)
        };
        // The requested address is nothing that a server says, so that the first is not yet twice.
        let said = if option[0] == 50 {
            vec![option, option]
        } else {
            vec![option]
        };
        assert_eq!(changes(&with(&said)), None, "{option:?}");
    }
    let many: Vec<_> = (1..=MAX_CHANGES as u16 + 1)
        .map(|low| (Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 1, low), 0))
        .collect();
    for (count, expected) in [(MAX_CHANGES, MAX_CHANGES), (MAX_CHANGES + 1, 1)] {
        for split in [0, count / 2] {
            let (one, other) = many[..count].split_at(split);
            let options = [association(3, one), association(4, other)].concat();
            let frame = message6(8, A, SERVER, (546, 547), &options);
            let (_, _, read) = changes(&frame).unwrap();
            assert_eq!(read.len(), expected);
            assert_eq!(read.contains(&Change::EndedAllV6), expected == 1);
        }
    }
    let port = Port::new(A, 4);
    let now = Tick::from_secs(1000);
    port.learns(&ack, 1, &[], now);
    port.learns(&reply6(A, &association(3, &[(FIVE6, 600)])), 1, &[], now);
    port.learns(&reply6(A, &association(3, &[(FIVE6, 600)])), 2, &[], now);
    let release = message6(8, A, SERVER, (546, 547), &association(3, &many));
    assert!(port.learns(&release, 1, &[], now));
    let left: Vec<_> = port
        .state
        .leases(now)
        .iter()
        .map(|lease| (lease.address, lease.binding.vid))
        .collect();
    assert_eq!(left, [(IpAddr::from(FIVE), 1), (FIVE6.into(), 2)]);
}

#[test]
fn replies_of_dhcpv6_are_read() {
    let other: Ipv6Addr = "fd00::6".parse().unwrap();
    let options = [
        association(3, &[(FIVE6, 600), (other, 0)]),
        association(4, &[("fd00::7".parse().unwrap(), u32::MAX)]),
    ];
    assert_eq!(
        changes(&reply6(A, &options.concat())),
        Some((
            Voice::Server,
            A,
            vec![
                granted(FIVE6, 600),
                ended(other),
                granted("fd00::7".parse::<Ipv6Addr>().unwrap(), u32::MAX)
            ]
        ))
    );
    // A delegated prefix, a reply without addresses, an advertisement, an address that nobody can have.
    let prefix = [&[0, 25, 0, 41][..], &[0; 12], &[0, 26, 0, 25], &[1; 25]].concat();
    assert_eq!(changes(&reply6(A, &prefix)), None);
    assert_eq!(changes(&reply6(A, &association(3, &[]))), None);
    let frame = message6(2, SERVER, A, (547, 546), &options[0]);
    assert_eq!(changes(&frame), None);
    let group = association(3, &[("ff02::5".parse().unwrap(), 600)]);
    assert_eq!(changes(&reply6(A, &group)), None);
    // Options that overrun, outside and inside.
    let mut cut = reply6(A, &[&options[0][..], &[0, 9, 0, 9]].concat());
    assert_eq!(changes(&cut), None);
    cut = reply6(A, &options[0]);
    let at = cut.iter().position(|byte| *byte == 24).unwrap();
    cut[at] = 200;
    assert_eq!(changes(&cut), None);
    // No more than are read, and no less.
    let many: Vec<_> = (1..=20u16)
        .map(|low| (Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 1, low), 600))
        .collect();
    let (_, _, read) = changes(&reply6(A, &association(3, &many))).unwrap();
    assert_eq!(read.len(), MAX_CHANGES);
}

/// A port whose addresses are those of its leases.
struct Port {
    guard: Guard,
    state: GuardState,
}

impl Port {
    fn new(mac: Mac, max_leases: u16) -> Self {
        let spec = GuardSpec {
            mac: MacSpec::Declared(vec![mac]),
            ip: IpSpec::Dhcp,
            may: May::default(),
            max_leases,
            addressing_per_second: 0,
        };
        Self {
            guard: Guard::new(&spec),
            state: GuardState::new(),
        }
    }

    fn sends(&self, src: Mac, address: Ipv4Addr, now: Tick) -> Result<(), DropReason> {
        let frame = from(
            src,
            SERVER,
            address.octets(),
            [10, 0, 0, 1],
            1000,
            53,
            b"data",
        );
        let frame = Frame::parse(&frame, frame.len() as u32).unwrap();
        self.guard
            .judge(&self.state, &frame, &Digest::of(&frame, 1), now)
            .map(drop)
    }

    fn learns(&self, frame: &[u8], vid: u16, others: &[&Port], now: Tick) -> bool {
        let all = std::iter::once(self).chain(others.iter().copied());
        let states: Vec<&GuardState> = all.map(|port| &port.state).collect();
        let event = read(frame).unwrap();
        settle(
            &event,
            vid,
            (&self.guard, &self.state),
            states.into_iter(),
            now,
        )
    }
}

const SPOOFED: Result<(), DropReason> = Err(DropReason::SourceIpSpoofed);

#[test]
fn a_lease_is_what_a_port_may_send_from_as_long_as_it_lasts() {
    let (a, b) = (Port::new(A, 4), Port::new(B, 4));
    let now = Tick::from_secs(1000);
    assert_eq!(a.sends(A, FIVE, now), SPOOFED);
    let before = a.state.generation(now);
    let ack = answer(ACK, A, FIVE, 600);
    // Another client's answer teaches nothing.
    assert!(!b.learns(&ack, 1, &[&a], now));
    assert!(a.learns(&ack, 1, &[&b], now));
    assert_ne!(a.state.generation(now), before);
    assert_eq!(a.sends(A, FIVE, now), Ok(()));
    assert_eq!(a.sends(A, SIX, now), SPOOFED);
    assert_eq!(b.sends(B, FIVE, now), SPOOFED);
    // Again, it changes nothing; renewed, it lasts longer.
    let before = a.state.generation(now);
    assert!(!a.learns(&ack, 1, &[&b], now));
    let later = Tick::from_secs(1300);
    assert!(!a.learns(&ack, 1, &[&b], later));
    assert_eq!(a.state.generation(later), before);
    assert_eq!(a.sends(A, FIVE, Tick::from_millis(1_899_999)), Ok(()));
    assert_eq!(a.state.generation(Tick::from_millis(1_899_999)), before);
    // At its end the number changes by itself.
    assert_ne!(a.state.generation(Tick::from_secs(1900)), before);
    assert_eq!(a.sends(A, FIVE, Tick::from_secs(1900)), SPOOFED);
}

#[test]
fn an_address_belongs_to_the_port_that_was_granted_it_last() {
    let (a, b) = (Port::new(A, 4), Port::new(B, 4));
    let now = Tick::from_secs(1);
    assert!(a.learns(&answer(ACK, A, FIVE, 600), 1, &[&b], now));
    // In another segment it is another address.
    assert!(b.learns(&answer(ACK, B, FIVE, 600), 2, &[&a], now));
    assert_eq!(
        (a.sends(A, FIVE, now), b.sends(B, FIVE, now)),
        (Ok(()), SPOOFED)
    );
    let before = a.state.generation(now);
    assert!(b.learns(&answer(ACK, B, FIVE, 600), 1, &[&a], now));
    assert_eq!(
        (a.sends(A, FIVE, now), b.sends(B, FIVE, now)),
        (SPOOFED, Ok(()))
    );
    assert_ne!(a.state.generation(now), before);
    assert_eq!(a.state.leases(now), []);
    assert_eq!(b.state.leases(now).len(), 2);
}

#[test]
fn leases_end_by_naks_and_renunciations() {
    let a = Port::new(A, 4);
    let now = Tick::from_secs(1);
    let zero = Ipv4Addr::UNSPECIFIED;
    let both = || {
        a.learns(&answer(ACK, A, FIVE, 600), 1, &[], now);
        a.learns(&answer(ACK, A, SIX, 600), 1, &[], now);
        a.learns(&reply6(A, &association(3, &[(FIVE6, 600)])), 1, &[], now);
    };
    both();
    assert!(a.learns(&renounce(7, A, FIVE, zero), 1, &[], now));
    assert_eq!(
        (a.sends(A, FIVE, now), a.sends(A, SIX, now)),
        (SPOOFED, Ok(()))
    );
    assert!(a.learns(&renounce(4, A, zero, SIX), 1, &[], now));
    assert_eq!(a.sends(A, SIX, now), SPOOFED);
    assert!(!a.learns(&renounce(4, A, zero, SIX), 1, &[], now));
    both();
    // In its own segment only, and of IPv4 only.
    assert!(!a.learns(&answer(NAK, A, zero, 0), 2, &[], now));
    assert!(a.learns(&answer(NAK, A, zero, 0), 1, &[], now));
    let left: Vec<IpAddr> = a
        .state
        .leases(now)
        .iter()
        .map(|lease| lease.address)
        .collect();
    assert_eq!(left, [IpAddr::V6(FIVE6)]);
    both();
    let before = a.state.generation(now);
    a.state.forget_leases();
    assert_ne!(a.state.generation(now), before);
    assert_eq!(a.state.leases(now), []);
}

#[test]
fn leases_outlive_a_connection_but_only_for_their_client() {
    let mut a = Port::new(A, 4);
    let sticky = GuardSpec {
        ip: IpSpec::Dhcp,
        max_leases: 4,
        ..GuardSpec::default()
    };
    a.guard = Guard::new(&sticky);
    let now = Tick::from_secs(1);
    // Heard first in its question.
    assert!(!a.guard.owns_mac(&a.state, A));
    let ack = answer(ACK, A, FIVE, 600);
    assert!(!a.learns(&ack, 1, &[], now));
    let ask = renounce(3, A, Ipv4Addr::UNSPECIFIED, FIVE);
    let mut ask = ask.clone();
    ask[30..34].fill(255);
    let frame = Frame::parse(&ask, ask.len() as u32).unwrap();
    let outcome = a.guard.judge(&a.state, &frame, &Digest::of(&frame, 1), now);
    assert_eq!(outcome, Ok(crate::policy::guard::Outcome::Claim(A)));
    assert!(a.learns(&ack, 1, &[], now));
    a.state.forget();
    assert_eq!(a.sends(B, FIVE, now), SPOOFED);
    assert_eq!(a.state.kept(), None);
    assert_eq!(a.sends(A, FIVE, now), Ok(()));
    assert_eq!(a.state.kept(), Some(A));
}

#[test]
fn a_port_has_no_more_leases_than_it_may() {
    let now = Tick::from_secs(1);
    let address = |low: u8| Ipv4Addr::new(10, 0, 1, low);
    let a = Port::new(A, 3);
    for low in 1..=3 {
        // The second ends first.
        let seconds = if low == 2 { 100 } else { 600 };
        assert!(a.learns(&answer(ACK, A, address(low), seconds), 1, &[], now));
    }
    assert!(a.learns(&answer(ACK, A, address(4), 600), 1, &[], now));
    let may: Vec<bool> = (1..=4)
        .map(|low| a.sends(A, address(low), now).is_ok())
        .collect();
    assert_eq!(may, [true, false, true, true]);
    assert_eq!(a.state.leases(now).len(), 3);
    // None at all where the port takes none.
    let none = Port::new(A, 0);
    assert!(!none.learns(&answer(ACK, A, FIVE, 600), 1, &[], now));
    let mut spec = GuardSpec {
        mac: MacSpec::Declared(vec![A]),
        max_leases: 9,
        ..GuardSpec::default()
    };
    for ip in [
        IpSpec::Any,
        IpSpec::Declared(vec!["10.0.0.7/32".parse().unwrap()]),
    ] {
        spec.ip = ip;
        let guard = Guard::new(&spec);
        let state = GuardState::new();
        let event = read(&answer(ACK, A, FIVE, 600)).unwrap();
        assert!(!settle(&event, 1, (&guard, &state), [].into_iter(), now));
        assert_eq!(state.leases(now), []);
    }
    // Whatever the policy says.
    let many = GuardState::new();
    for low in 0..200u16 {
        let now = Tick::from_secs(low.into());
        let [high, low] = low.to_be_bytes();
        let change = granted(Ipv4Addr::new(10, 1, high, low), u32::MAX);
        let binding = Binding { client: A, vid: 1 };
        assert_eq!(many.apply(change, binding, u16::MAX, now), Applied::Changed);
    }
    assert_eq!(many.leases(now).len(), usize::from(MAX_LEASES));
}

#[test]
fn new_leases_come_at_a_rate_and_renewals_at_any() {
    let state = GuardState::new();
    let binding = Binding { client: A, vid: 1 };
    let grant = |low: u8, now| {
        let change = granted(Ipv4Addr::new(10, 2, 0, low), 600);
        state.apply(change, binding, MAX_LEASES, now)
    };
    let now = Tick::from_secs(5);
    let new = (0..100)
        .filter(|low| grant(*low, now) == Applied::Changed)
        .count();
    assert_eq!(new, 32);
    for _ in 0..1000 {
        assert_eq!(grant(0, now), Applied::Renewed);
    }
    assert_eq!(grant(200, now.after_millis(124)), Applied::Refused);
    assert_eq!(grant(200, now.after_millis(125)), Applied::Changed);
    assert_eq!(grant(201, now.after_millis(125)), Applied::Refused);
}

#[test]
fn one_reads_whole_leases_only_while_another_writes() {
    let state = GuardState::new();
    let stop = AtomicBool::new(false);
    let low = |n: u16| IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, n, 0, 0, 0, n));
    let torn = |n: u16| IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, n, 0, 0, 0, 3 - n));
    let binding = |n: u16| Binding {
        client: if n == 1 { A } else { B },
        vid: n,
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..200_000u64 {
                // Each takes the place of the other.
                let n = if round % 2 == 0 { 1 } else { 2 };
                let now = Tick::from_secs(round);
                state.apply(granted(low(n), u32::MAX), binding(n), 1, now);
            }
            stop.store(true, Ordering::Release);
        });
        while !stop.load(Ordering::Acquire) {
            for n in [1, 2] {
                assert!(!state.holds(torn(n), binding(n)));
                assert!(!state.holds(low(n), binding(3 - n)));
            }
        }
    });
    assert!(state.holds(low(2), binding(2)));
}

/// One step of the model.
#[derive(Clone, Debug)]
enum Step {
    Apply(Change, Binding),
    Revoke(IpAddr, u16),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let address = prop_oneof![
        (1..6u8).prop_map(|low| IpAddr::V4(Ipv4Addr::new(10, 0, 0, low))),
        (1..6u16).prop_map(|low| IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, low))),
    ];
    let binding = (prop::sample::select(vec![A, B]), 1..3u16)
        .prop_map(|(client, vid)| Binding { client, vid });
    let seconds = prop_oneof![Just(u32::MAX), 1..100u32];
    let change = prop_oneof![
        6 => (address.clone(), seconds).prop_map(|(address, seconds)| Change::Granted { address, seconds }),
        2 => address.clone().prop_map(|address| Change::Ended { address }),
        1 => Just(Change::EndedAllV4),
        1 => Just(Change::EndedAllV6),
    ];
    prop_oneof![
        6 => (change, binding).prop_map(|(change, binding)| Step::Apply(change, binding)),
        1 => (address, 1..3u16).prop_map(|(address, vid)| Step::Revoke(address, vid)),
        3 => (0..50_000u64).prop_map(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn the_table_is_as_a_map(steps in prop::collection::vec(step(), 1..120)) {
        let state = GuardState::new();
        // Above what the model ever holds, so that nothing makes room: 10 addresses of 2 clients in 2 segments.
        let mut model: BTreeMap<(IpAddr, u64, u16), u64> = BTreeMap::new();
        let mut now = Tick::from_secs(1000);
        for step in steps {
            // Far enough apart for the rate of new leases.
            now = now.after_millis(125);
            let before: Vec<_> = {
                model.retain(|_, end| *end > now.as_millis());
                model.keys().copied().collect()
            };
            let generation = state.generation(now);
            match step {
                Step::Apply(change, binding) => {
                    let key = |address| (address, binding.client.bits(), binding.vid);
                    state.apply(change, binding, MAX_LEASES, now);
                    match change {
                        Change::Granted { address, seconds } => {
                            let end = match seconds {
                                u32::MAX => u64::MAX,
                                seconds => now.as_millis() + u64::from(seconds) * 1000,
                            };
                            model.insert(key(address), end);
                        }
                        Change::Ended { address } => {
                            model.remove(&key(address));
                        }
                        Change::EndedAllV4 => model.retain(|(address, client, vid), _| {
                            !address.is_ipv4() || *client != binding.client.bits() || *vid != binding.vid
                        }),
                        Change::EndedAllV6 => model.retain(|(address, client, vid), _| {
                            !address.is_ipv6() || *client != binding.client.bits() || *vid != binding.vid
                        }),
                    }
                }
                Step::Revoke(address, vid) => {
                    state.revoke(address, vid);
                    model.retain(|(theirs, _, segment), _| *theirs != address || *segment != vid);
                }
                Step::Wait(millis) => {
                    now = now.after_millis(millis);
                    model.retain(|_, end| *end > now.as_millis());
                }
            }
            let after: Vec<_> = model.keys().copied().collect();
            // The number changes if, and only if, an answer does.
            prop_assert_eq!(state.generation(now) != generation, before != after);
            let mut held: Vec<_> = state
                .leases(now)
                .iter()
                .map(|lease| (lease.address, lease.binding.client.bits(), lease.binding.vid))
                .collect();
            held.sort_unstable();
            prop_assert_eq!(&held, &after);
            for (address, client, vid) in held {
                let binding = Binding { client: Mac::from_bits(client), vid };
                prop_assert!(state.holds(address, binding));
            }
        }
    }

    #[test]
    fn any_bytes_teach_nothing_impossible(
        mut bytes in prop::collection::vec(any::<u8>(), 42..600),
        changes in prop::collection::vec((0..400usize, any::<u8>()), 0..8),
        base in 0..4u8,
        shown in 18..600usize,
    ) {
        let template = match base {
            0 => answer(ACK, A, FIVE, 600),
            1 => renounce(7, A, FIVE, SIX),
            2 => reply6(A, &association(3, &[(FIVE6, 600)])),
            _ => Vec::new(),
        };
        for (to, from) in bytes.iter_mut().zip(&template) {
            *to = *from;
        }
        for (at, value) in changes {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        let shown = bytes.get(..shown).unwrap_or(&bytes);
        if let Some(event) = Frame::parse(shown, bytes.len() as u32).ok().as_ref().and_then(observe) {
            prop_assert!(event.client.is_station());
            prop_assert!((1..=MAX_CHANGES).contains(&event.changes().count()));
            for change in event.changes() {
                if let Change::Granted { address, seconds } = change {
                    prop_assert!(seconds != 0 && !address.is_multicast() && !address.is_unspecified());
                }
            }
        }
    }
}
