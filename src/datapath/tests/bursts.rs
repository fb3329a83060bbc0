//! A burst against its frames one by one: the same frames go the same ways, and leave the same behind.

use std::sync::Arc;

use etherparse::PacketBuilder;
use proptest::prelude::*;

use super::*;
use crate::fabric::{VidSet, VlanMembership};
use crate::frame::{Mac, Vid, protocol};
use crate::policy::State;
use crate::policy::lease::{Binding, Change};
use crate::policy::quarantine::Quarantine;
use crate::policy::rule::{Action, Kind, Rule};
use crate::policy::spec::{
    ConnectionQuota, GuardSpec, IpSpec, LimitSpec, MacSpec, PolicySpec, PortPolicy, Rate,
};
use crate::policy::testing::Dice;

const PORTS: u16 = 4;
const ALL: u64 = SENDS_GIANTS
    | features::VIRTIO_NET_F_GUEST_CSUM
    | features::VIRTIO_NET_F_GUEST_TSO4
    | features::VIRTIO_NET_F_HOST_TSO6
    | features::VIRTIO_NET_F_GUEST_TSO6;

pub(super) fn free() -> PortPolicy {
    PortPolicy {
        guard: GuardSpec::open(),
        untagged: Some(Vid::DEFAULT),
        ..PortPolicy::default()
    }
}

pub(super) fn policy(epoch: u64, ports: Vec<PortPolicy>, state: Arc<State>) -> Policy {
    let spec = PolicySpec {
        ports: ports.into_iter().map(Some).collect(),
        ..PolicySpec::default()
    };
    let policy = Policy::compile(epoch, &spec, state).unwrap();
    policy.make_room(&spec.tracking);
    policy
}

/// A switch of bridge ports, one for each guest, under a policy of its own.
pub(super) fn switch_under(guests: &[u64], ports: Vec<PortPolicy>) -> (Crank, Vec<Guest>) {
    let (mut crank, guests) = switch(guests);
    let fdb = Arc::clone(crank.gate().fabric.fdb());
    crank.replace_gate(Gate {
        policy: policy(2, ports, State::new()),
        fabric: Fabric::new(&vec![PortRow::default(); guests.len()], fdb),
    });
    (crank, guests)
}

pub(super) fn list(rules: Vec<Rule>) -> Option<Arc<[Rule]>> {
    Some(rules.into())
}

pub(super) fn ip(station: u16) -> [u8; 4] {
    [10, 0, 0, station.to_be_bytes()[1]]
}

pub(super) fn udp(from: (u16, u16), to: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(mac(from.0), mac(to.0))
        .ipv4(ip(from.0), ip(to.0), 64)
        .udp(from.1, to.1)
        .write(&mut bytes, payload)
        .unwrap();
    bytes
}

/// A frame, and the header that asks for what is left to do to it.
type Sent = ([u8; 12], Vec<u8>);

fn rules(dice: &mut Dice<'_>) -> Option<Arc<[Rule]>> {
    if dice.once_in(3) {
        return None;
    }
    let mut rules = Vec::new();
    if dice.once_in(3) {
        rules = dice.rules(6);
    }
    for number in [protocol::TCP, protocol::UDP, protocol::ICMP] {
        rules.push(Rule {
            kind: Kind::Ip {
                family: None,
                protocol: Some(number),
            },
            stateless: dice.once_in(4),
            ..Rule::any(dice.one(&[
                Action::Allow,
                Action::Allow,
                Action::Allow,
                Action::Allow,
                Action::Deny,
                Action::Reject,
            ]))
        });
    }
    if dice.once_in(2) {
        rules.push(Rule::any(dice.one(&[
            Action::Allow,
            Action::Allow,
            Action::Reject,
        ])));
    }
    list(rules)
}

fn rate(dice: &mut Dice<'_>) -> Rate {
    if dice.once_in(6) {
        Rate {
            per_second: 8000,
            burst: 10 + u64::from(dice.byte()),
        }
    } else {
        Rate::default()
    }
}

fn of_port(dice: &mut Dice<'_>, index: u16) -> PortPolicy {
    let guard = GuardSpec {
        mac: if dice.once_in(2) {
            MacSpec::Sticky
        } else {
            MacSpec::Declared(vec![Mac::from(mac(index))])
        },
        ip: if dice.once_in(3) {
            IpSpec::Dhcp
        } else {
            IpSpec::Any
        },
        max_leases: 2,
        ..GuardSpec::default()
    };
    let quota = ConnectionQuota {
        connections: 4,
        half_open: 2,
        new_per_second: Rate::default(),
    };
    PortPolicy {
        guard: if dice.once_in(2) {
            guard
        } else {
            GuardSpec::open()
        },
        outbound: rules(dice),
        inbound: rules(dice),
        resting: [None, None],
        limits: LimitSpec {
            send_bits: rate(dice),
            send_frames: rate(dice),
            receive_frames: rate(dice),
            broadcast: rate(dice),
            unknown: rate(dice),
            ..LimitSpec::default()
        },
        quota: dice.once_in(2).then_some(quota),
        untagged: Some(Vid::DEFAULT),
    }
}

fn rows(dice: &mut Dice<'_>) -> Vec<PortRow> {
    let mut rows = vec![PortRow::default(); PORTS.into()];
    if dice.once_in(3) {
        rows[3].vlan = VlanMembership::Trunk {
            allowed: VidSet::all(),
            native: dice.once_in(2).then_some(Vid::DEFAULT),
        };
    }
    rows
}

/// Half a connection, a datagram, an echo, an answer of DHCP, or something else.
fn draw(dice: &mut Dice<'_>, from: u16, features: u64) -> Sent {
    let to = (from + 1 + u16::from(dice.byte()) % (PORTS - 1)) % PORTS;
    let port = 4000 + u16::from(dice.byte() % 2);
    let payload =
        vec![7; usize::from(dice.one(&[0u8, 20, 90, 200])) * usize::from(dice.one(&[1u8, 6]))];
    let mut header = [0; 12];
    let step = PacketBuilder::ethernet2(mac(from), mac(to)).ipv4(ip(from), ip(to), 64);
    let mut bytes = Vec::new();
    match dice.byte() % 8 {
        0 => step
            .tcp(port, 80, 100, 65_535)
            .syn()
            .write(&mut bytes, &[])
            .unwrap(),
        1 => step
            .tcp(80, port, 500, 65_535)
            .syn()
            .ack(101)
            .write(&mut bytes, &[])
            .unwrap(),
        2 => {
            let (src, dst, ack) = dice.one(&[(port, 80, 501), (80, port, 101)]);
            let sequence = dice.one(&[101, 501, 300]);
            step.tcp(src, dst, sequence, 65_535)
                .ack(ack)
                .write(&mut bytes, &payload)
                .unwrap();
            if features & features::VIRTIO_NET_F_CSUM != 0 && dice.once_in(2) {
                // NEEDS_CSUM, and a giant at times.
                header = [1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0];
                if payload.len() > 100 {
                    header[1..6].copy_from_slice(&[1, 54, 0, 100, 0]);
                }
            }
        }
        3 | 4 => {
            let (src, dst) = dice.one(&[(port, 53), (53, port)]);
            bytes = udp((from, src), (to, dst), &payload);
        }
        5 => {
            let step = if dice.once_in(2) {
                step.icmpv4_echo_reply(7, 1)
            } else {
                step.icmpv4_echo_request(7, 1)
            };
            step.write(&mut bytes, &payload).unwrap();
        }
        6 => {
            let is_ack = dice.once_in(2);
            bytes = dhcp(
                from,
                to,
                if is_ack { to } else { from },
                is_ack,
                payload.len(),
            );
        }
        _ => {
            bytes = dice.frame();
            bytes[..6].copy_from_slice(&mac(to));
            bytes[6..12].copy_from_slice(&mac(from));
        }
    }
    let nobody = [0x52, 0x54, 0, 9, 9, 9];
    match dice.byte() % 16 {
        0 => bytes[..6].copy_from_slice(&BROADCAST),
        1 => bytes[..6].copy_from_slice(&nobody),
        2 => bytes[..6].copy_from_slice(&mac(dice.byte().into())),
        3 if dice.once_in(3) => bytes[6..12].copy_from_slice(&mac((from + 1) % PORTS)),
        4 if dice.once_in(3) => bytes[6..12].copy_from_slice(&nobody),
        _ => {}
    }
    (header, bytes)
}

/// A DHCPACK for the guest of `client`, or its DHCPRELEASE, with so many bytes of a strange option and padding behind it.
pub(super) fn dhcp(from: u16, to: u16, client: u16, is_ack: bool, more: usize) -> Vec<u8> {
    let mut message = vec![if is_ack { 2 } else { 1 }, 1, 6, 0];
    message.resize(240, 0);
    message[if is_ack { 16..20 } else { 12..16 }].copy_from_slice(&ip(client));
    message[28..34].copy_from_slice(&mac(client));
    message[236..240].copy_from_slice(&[99, 130, 83, 99]);
    message.extend([53, 1, if is_ack { 5 } else { 7 }]);
    message.extend([51, 4, 0, 0, 0, 60, 255]);
    message.extend((0..more).map(|n| n.to_le_bytes()[0] | 1));
    let ports = if is_ack { (67, 68) } else { (68, 67) };
    udp((from, ports.0), (to, ports.1), &message)
}

fn frames(dice: &mut Dice<'_>, from: u16, features: u64) -> Vec<Sent> {
    let mut frames: Vec<Sent> = Vec::new();
    for _ in 0..=dice.byte() % 12 {
        let next = match frames.last() {
            Some(_) if dice.once_in(3) => frames[usize::from(dice.byte()) % frames.len()].clone(),
            _ => draw(dice, from, features),
        };
        let times = if dice.once_in(2) {
            1 + dice.byte() % 4
        } else {
            1
        };
        frames.extend((0..times).map(|_| next.clone()));
    }
    frames.truncate(32);
    frames
}

/// What a switch has come to: what arrived, the books, connections, stations and leases, hits of rules.
fn outcome(crank: &Crank, guests: &[Guest], now: Tick) -> Vec<String> {
    let Gate { policy, fabric } = crank.gate();
    let mut told = Vec::new();
    for (guest, index) in guests.iter().zip(0..) {
        let books = books(crank, index);
        told.extend(
            guest
                .received()
                .iter()
                .map(|frame| format!("{index} has {frame:02x?}")),
        );
        told.push(format!("{index} {:?} {:?}", books.ingress, books.egress));
        let guard = policy.state().guard(port(index)).unwrap();
        told.push(format!(
            "{index} {:?} {:?}",
            guard.kept(),
            guard.leases(now)
        ));
        told.push(format!(
            "{index} {:?}",
            policy.state().tracker().usage(port(index))
        ));
    }
    let mut flows: Vec<_> = policy
        .state()
        .tracker()
        .flows(now)
        .map(|flow| format!("{flow:?}"))
        .collect();
    let mut stations: Vec<_> = fabric
        .fdb()
        .entries(now)
        .map(|entry| format!("{entry:?}"))
        .collect();
    flows.sort();
    stations.sort();
    told.extend(flows.into_iter().chain(stations));
    told.extend(policy.rules().map(|(id, _, hits)| format!("{id:?} {hits}")));
    told
}

/// Another policy for both switches, as a reload brings it, or a quarantine.
fn change(dice: &mut Dice<'_>, epoch: u64, cranks: [&mut Crank; 2], now: Tick) {
    let ports: Vec<_> = (0..PORTS).map(|index| of_port(dice, index)).collect();
    let rows = rows(dice);
    let quarantine = dice.once_in(2).then(|| {
        Quarantine::from_iter([(
            port(u16::from(dice.byte()) % PORTS),
            [port(0)].into_iter().collect(),
        )])
    });
    for crank in cranks {
        let (old, fdb) = (&crank.gate().policy, Arc::clone(crank.gate().fabric.fdb()));
        let policy = match &quarantine {
            Some(quarantine) => old.with_quarantine(epoch, quarantine.clone()),
            None => policy(epoch, ports.clone(), Arc::clone(old.state())),
        };
        policy.rejudge_all(now);
        let fabric = Fabric::new(&rows, fdb);
        crank.replace_gate(Gate { policy, fabric });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_burst_leaves_what_its_frames_leave_one_by_one(seed: u64) {
        let mut dice = Dice::seeded(seed);
        let features: Vec<_> = (0..PORTS).map(|_| dice.one(&[BASIC, SENDS_GIANTS, ALL])).collect();
        let ports: Vec<_> = (0..PORTS).map(|index| of_port(&mut dice, index)).collect();
        let (mut crank, mut guests) = switch_under(&features, ports.clone());
        let (mut other, mut others) = switch_under(&features, ports);
        let mut now = Tick::from_secs(1);
        for policy in [&crank.gate().policy, &other.gate().policy] {
            for index in 0..PORTS {
                let change = Change::Granted { address: ip(index).into(), seconds: 60 };
                let binding = Binding { client: Mac::from(mac(index)), vid: 1 };
                policy.state().guard(port(index)).unwrap().apply(change, binding, 2, now);
            }
        }
        for round in 0..8 {
            let from = u16::from(dice.byte()) % PORTS;
            let burst = frames(&mut dice, from, features[usize::from(from)]);
            for (header, frame) in &burst {
                guests[usize::from(from)].send(*header, frame);
                others[usize::from(from)].send(*header, frame);
                prop_assert_eq!(other.turn(port(from), 0, now), Some(1));
            }
            let mut left = burst.len() as u32;
            while left != 0 {
                left -= crank.turn(port(from), 0, now).unwrap();
            }
            prop_assert_eq!(outcome(&crank, &guests, now), outcome(&other, &others, now), "round {}", round);
            now = now.after_millis(dice.one(&[0, 0, 1, 900, 31_000]));
            if dice.once_in(4) {
                change(&mut dice, 3 + round, [&mut crank, &mut other], now);
            }
        }
    }
}
