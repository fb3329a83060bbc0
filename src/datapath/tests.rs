//! What only a test inside the room can do: let a step panic on purpose; and what a burst may cost.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::Gate;
use super::crank::Crank;
use crate::clock::Tick;
use crate::counters::{DropReason, PortId, PortSnapshot};
use crate::fabric::{Fabric, Fdb, FdbLimits, PortRow};
use crate::frame::{Mac, protocol};
use crate::guest::{Descriptor, Memory, RawRing, RingLayout};
use crate::memory::{FaultFlag, GuestMemory, Limits, Region, RegionSpec};
use crate::policy::Policy;
use crate::policy::rule::{Action, Kind, Rule};
use crate::policy::spec::{GuardSpec, IpSpec, LimitSpec, MacSpec, PortPolicy, Rate};
use crate::port::door::Door;
use crate::port::lanes::{Enabled, Fault, FaultBell, Lanes, RingSetup};
use crate::ring::{Layout, features};

mod bursts;
mod floods;

use bursts::{free, list, switch_under, udp};

const RING: u16 = 256;
const BASIC: u64 = features::VIRTIO_F_VERSION_1 | features::VIRTIO_NET_F_MRG_RXBUF;
const SENDS_GIANTS: u64 = BASIC | features::VIRTIO_NET_F_CSUM | features::VIRTIO_NET_F_HOST_TSO4;
const RX_BUFFERS: u64 = 0x20_0000;
const TX_BUFFERS: u64 = 0x40_0000;
const TX_BUFFER: u64 = 0x1_0000;

fn port(index: u16) -> PortId {
    PortId::new(index).unwrap()
}

/// A driver's side without haste: all receive buffers are offered from the beginning.
struct Guest {
    memory: Arc<Memory>,
    rx: RawRing,
    tx: RawRing,
    sent: u16,
}

impl Guest {
    fn plug(lanes: &Lanes, features: u64) -> Self {
        let memory = Memory::flat(0x80_0000).unwrap();
        let rx = RingLayout::at(0x1000, RING);
        let tx = RingLayout::at(rx.end().next_multiple_of(4096), RING);
        let guest = Self {
            rx: RawRing::new(memory.clone(), rx),
            tx: RawRing::new(memory.clone(), tx),
            memory,
            sent: 0,
        };
        for entry in 0..RING {
            let desc = Descriptor {
                addr: RX_BUFFERS + u64::from(entry) * 2048,
                len: 2048,
                flags: 2,
                next: 0,
            };
            guest.rx.set_desc(entry, desc).unwrap();
            guest.rx.set_avail_entry(entry, entry).unwrap();
        }
        guest.rx.set_avail_idx(RING).unwrap();
        let fault = FaultFlag::new();
        let pairs = guest.memory.regions().zip(guest.memory.fds());
        let regions = pairs.map(|(region, fd)| {
            let spec = RegionSpec {
                guest_addr: region.gpa,
                size: region.size,
                user_addr: region.uva,
                file_offset: region.offset,
            };
            Region::map(fd.as_fd(), spec, &fault).unwrap()
        });
        let regions = regions.collect();
        let mapped = GuestMemory::new(regions, fault, Limits::default()).unwrap();
        for (index, at) in [(0, rx), (1, tx)] {
            let setup = RingSetup {
                memory: mapped.clone(),
                layout: Layout {
                    size: at.size,
                    desc: at.desc,
                    avail: at.avail,
                    used: at.used,
                },
                features,
                kick: None,
                call: None,
                err: None,
                enabled: Enabled::Yes,
            };
            lanes.start(index, setup).unwrap();
        }
        guest
    }

    /// Offers a frame behind a virtio-net header.
    fn send(&mut self, header: [u8; 12], frame: &[u8]) {
        let entry = self.sent % 32;
        let addr = TX_BUFFERS + u64::from(entry) * TX_BUFFER;
        let bytes = [&header, frame].concat();
        self.memory.write(addr, &bytes).unwrap();
        let desc = Descriptor {
            addr,
            len: bytes.len() as u32,
            flags: 0,
            next: 0,
        };
        self.tx.set_desc(entry, desc).unwrap();
        self.tx.set_avail_entry(self.sent, entry).unwrap();
        self.sent += 1;
        self.tx.set_avail_idx(self.sent).unwrap();
    }

    /// What was published here, with its virtio-net headers.
    fn received(&self) -> Vec<Vec<u8>> {
        let published = self.rx.used_idx().unwrap();
        let frames = (0..published).map(|index| {
            let (head, len) = self.rx.used_entry(index).unwrap();
            let at = RX_BUFFERS + u64::from(head) * 2048;
            self.memory.bytes(at, len as usize).unwrap()
        });
        frames.collect()
    }
}

/// A switch of bridge ports with a guest each.
fn switch(guests: &[u64]) -> (Crank, Vec<Guest>) {
    let door = Arc::new(Door::new().unwrap());
    let bell = FaultBell::new().unwrap();
    let lanes: Vec<_> = (0..guests.len() as u16)
        .map(|index| Lanes::new(port(index), 1, door.clone(), bell.clone()))
        .collect();
    let rows = vec![PortRow::default(); guests.len()];
    let gate = Gate {
        policy: Policy::open(1, lanes.iter().map(|lanes| lanes.id())),
        fabric: Fabric::new(&rows, Arc::new(Fdb::new(FdbLimits::default()))),
    };
    let plug = |(lanes, features): (&Arc<Lanes>, &u64)| Guest::plug(lanes, *features);
    let guests = lanes.iter().zip(guests).map(plug).collect();
    (Crank::new(lanes, gate), guests)
}

fn mac(station: u16) -> [u8; 6] {
    let [high, low] = station.to_be_bytes();
    [0x52, 0x54, 0, 0, high, low]
}

const BROADCAST: [u8; 6] = [0xff; 6];

fn frame(dst: [u8; 6], src: u16, number: u8) -> Vec<u8> {
    let mut frame = [&dst[..], &mac(src), &[0x88, 0xb5]].concat();
    frame.resize(60, number);
    frame
}

fn lanes(crank: &Crank, index: u16) -> &Lanes {
    crank.ports().get(port(index)).unwrap()
}

fn books(crank: &Crank, index: u16) -> PortSnapshot {
    let books = lanes(crank, index).counters().snapshot();
    let (ingress, egress) = (&books.ingress, &books.egress);
    assert_eq!(
        ingress.received,
        ingress.forwarded + ingress.dropped.total(),
        "port {index}"
    );
    assert_eq!(
        egress.offered,
        egress.delivered + egress.undelivered.total(),
        "port {index}"
    );
    books
}

fn turn(crank: &mut Crank, index: u16) -> Option<u32> {
    crank.turn(port(index), 0, Tick::from_secs(1))
}

/// Not yet enabled is not disabled: see `session::rings`.
#[test]
fn what_lies_in_a_ring_waits_until_it_is_enabled_and_is_discarded_while_it_is_disabled() {
    let (mut crank, mut guests) = switch(&[BASIC; 2]);
    lanes(&crank, 0).tx(0).unwrap().as_mut().unwrap().enabled = Enabled::NotYet;
    for number in 0..3 {
        guests[0].send([0; 12], &frame(mac(1), 0, number));
    }
    for _ in 0..2 {
        assert_eq!(turn(&mut crank, 0), None);
        assert_eq!(guests[0].tx.used_idx().unwrap(), 0);
        assert_eq!(books(&crank, 0).ingress.received, 0);
    }
    lanes(&crank, 0).enable(1, true);
    assert_eq!(turn(&mut crank, 0), Some(3));
    let sent: Vec<_> = (0..3).map(|number| frame(mac(1), 0, number)).collect();
    let got = guests[1].received();
    assert!(got.iter().map(|frame| &frame[12..]).eq(sent.iter()));

    lanes(&crank, 0).enable(1, false);
    guests[0].send([0; 12], &frame(mac(1), 0, 3));
    assert_eq!(turn(&mut crank, 0), Some(1));
    assert_eq!(guests[0].tx.used_idx().unwrap(), 4, "given back");
    let dropped = books(&crank, 0).ingress.dropped;
    assert_eq!(dropped.get(DropReason::RingDisabled), 1);
    assert_eq!(guests[1].received().len(), 3);
    // From the beginning, too, when the front-end says so.
    lanes(&crank, 0).tx(0).unwrap().as_mut().unwrap().enabled = Enabled::NotYet;
    guests[0].send([0; 12], &frame(mac(1), 0, 4));
    assert_eq!(turn(&mut crank, 0), None);
    lanes(&crank, 0).enable(1, false);
    assert_eq!(turn(&mut crank, 0), Some(1));
    let dropped = books(&crank, 0).ingress.dropped;
    assert_eq!(dropped.get(DropReason::RingDisabled), 2);
}

/// The last resort, for a bug that nobody knows yet: the step panics in the middle of a receiver, its lock held.
#[test]
fn a_step_that_panics_costs_its_own_port_and_nobody_else() {
    // The second receiver of a flood panics: the first has its frames, whole.
    let (mut crank, mut guests) = switch(&[BASIC; 4]);
    for number in 0..3 {
        guests[0].send([0; 12], &frame(BROADCAST, 0, number));
    }
    crank.sabotage(1);
    assert_eq!(turn(&mut crank, 0), None);
    assert_eq!(lanes(&crank, 0).fault(), Some(Fault::Panicked));
    assert!((1..4).all(|index| lanes(&crank, index).fault().is_none()));
    let ingress = books(&crank, 0).ingress;
    assert_eq!(ingress.dropped.get(DropReason::StepAbandoned), 3);
    let mut served = 0;
    for index in 1..4 {
        let got = guests[usize::from(index)].received();
        assert_eq!(books(&crank, index).egress.delivered, got.len() as u64);
        if !got.is_empty() {
            served += 1;
            let sent: Vec<_> = (0..3).map(|number| frame(BROADCAST, 0, number)).collect();
            assert!(got.iter().map(|frame| &frame[12..]).eq(sent.iter()));
        }
    }
    assert_eq!(served, 1);

    // The port is left alone, and everybody else goes on: the buffers of the cut-off visit serve the next frames.
    assert_eq!(turn(&mut crank, 0), None);
    let before: Vec<_> = guests.iter().map(|guest| guest.received().len()).collect();
    for number in 10..14 {
        guests[3].send([0; 12], &frame(BROADCAST, 3, number));
    }
    assert_eq!(turn(&mut crank, 3), Some(4));
    assert_eq!(books(&crank, 3).ingress.forwarded, 4);
    for index in 1..3 {
        let got = guests[usize::from(index)].received();
        let sent: Vec<_> = (10..14).map(|number| frame(BROADCAST, 3, number)).collect();
        let fresh = got[before[usize::from(index)]..].iter();
        assert!(
            fresh.map(|frame| &frame[12..]).eq(sent.iter()),
            "port {index}"
        );
        assert_eq!(books(&crank, index).egress.delivered, got.len() as u64);
    }
    // The faulted port receives nothing meanwhile, and says so.
    let egress = books(&crank, 0).egress;
    assert_eq!(egress.undelivered.get(DropReason::ReceiverDown), 4);
}

/// Another worker enters the receiver before the panicked one has come to clean up.
#[test]
fn what_a_panic_cut_off_is_forgotten_by_whoever_comes_next() {
    let (mut crank, mut guests) = switch(&[BASIC; 2]);
    let mut slots = crate::ring::Slots::new();
    {
        let mut slot = lanes(&crank, 1).rx(0).unwrap();
        let lane = slot.as_mut().unwrap();
        lane.begin().unwrap();
        lane.ring.reserve(72, &mut slots).unwrap();
        // Not concluded: here it panicked.
    }
    guests[0].send([0; 12], &frame(BROADCAST, 0, 7));
    assert_eq!(turn(&mut crank, 0), Some(1));
    let got = guests[1].received();
    assert_eq!(got.len(), 1);
    assert_eq!(got[0][12..], frame(BROADCAST, 0, 7));
}

/// A TCP giant of `segments` segments of 216 bytes, and the header that asks for the cut.
fn giant(dst: [u8; 6], src: u16, segments: usize) -> ([u8; 12], Vec<u8>) {
    let payload = 216 * segments;
    let total = u16::try_from(40 + payload).unwrap().to_be_bytes();
    let mut frame = [&dst[..], &mac(src), &[0x08, 0x00]].concat();
    frame.extend([0x45, 0, total[0], total[1], 0, 1, 0, 0, 64, 6, 0, 0]);
    frame.extend([10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend([
        0, 80, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0,
    ]);
    frame.resize(54 + payload, 0x55);
    // NEEDS_CSUM, TCPV4, hdr_len 54, gso_size 216, csum_start 34, csum_offset 16.
    ([1, 1, 54, 0, 216, 0, 34, 0, 16, 0, 0, 0], frame)
}

#[test]
fn h_11_a_giant_to_many_is_cut_for_as_many_as_one_visit_may_cost() {
    const SEGMENTS: usize = 100;
    let mut features = [BASIC; 17];
    features[0] = SENDS_GIANTS;
    let (mut crank, mut guests) = switch(&features);
    let (header, bytes) = giant(BROADCAST, 0, SEGMENTS);
    guests[0].send(header, &bytes);
    assert_eq!(turn(&mut crank, 0), Some(1));
    assert!(crank.rounds_in_debt() > 10, "the segments are paid for");
    let served: Vec<_> = guests[1..]
        .iter()
        .map(|guest| guest.received().len())
        .collect();
    let bound = super::egress::CUTS as usize + SEGMENTS;
    assert!(served.iter().sum::<usize>() <= bound, "{served:?}");
    assert!(
        served.iter().all(|&count| count == SEGMENTS || count == 0),
        "{served:?}"
    );
    let refused = (1..17).map(|index| {
        books(&crank, index)
            .egress
            .undelivered
            .get(DropReason::CutLimit)
    });
    assert_eq!(
        refused.sum::<u64>(),
        served.iter().filter(|&&count| count == 0).count() as u64
    );
    assert!(served.contains(&0) && served.contains(&SEGMENTS));
    assert_eq!(books(&crank, 0).ingress.forwarded, 1);

    // The first receiver of a frame always gets it, whatever the visit has cost before.
    for station in 1..17 {
        guests[usize::from(station)].send([0; 12], &frame(mac(0), station, 0));
        assert_eq!(turn(&mut crank, station), Some(1));
    }
    let dropped = |crank: &Crank| {
        let lost = (1..17).map(|index| {
            books(crank, index)
                .egress
                .undelivered
                .get(DropReason::CutLimit)
        });
        lost.sum::<u64>()
    };
    let before = dropped(&crank);
    for station in 1..17 {
        let (header, bytes) = giant(mac(station), 0, 20);
        guests[0].send(header, &bytes);
    }
    let mut taken = 0;
    while taken < 16 {
        taken += turn(&mut crank, 0).unwrap();
    }
    assert_eq!(dropped(&crank), before);
}

/// What was made private whole was delivered as if it were no longer than any other snapshot: short of some of its bytes, and behind a
/// checksum that the switch completes with bytes of whose frame was there before.
#[test]
fn a_dhcp_packet_that_was_made_private_whole_arrives_whole() {
    let leased = PortPolicy {
        guard: GuardSpec {
            mac: MacSpec::Declared(vec![Mac::from(mac(0))]),
            ip: IpSpec::Dhcp,
            max_leases: 4,
            ..GuardSpec::default()
        },
        ..free()
    };
    let (mut crank, mut guests) = switch_under(&[BASIC, SENDS_GIANTS], vec![leased, free()]);
    let mut sent = Vec::new();
    for more in [0, 100, 700, 1100] {
        for header in [[0; 12], [1, 0, 0, 0, 0, 0, 34, 0, 6, 0, 0, 0]] {
            let mut bytes = bursts::dhcp(1, 0, 0, true, more);
            guests[1].send(header, &bytes);
            bytes[40..42].fill(0);
            sent.push(bytes);
        }
    }
    assert_eq!(turn(&mut crank, 1), Some(8));
    let got = guests[0].received().into_iter().map(|mut frame| {
        frame[12 + 40..12 + 42].fill(0);
        frame.split_off(12)
    });
    assert_eq!(got.collect::<Vec<_>>(), sent);
    // And so it could be read.
    let guard = crank.gate().policy.state().guard(port(0)).unwrap();
    assert_eq!(guard.leases(Tick::from_secs(1)).len(), 1);
    guests[0].send([0; 12], &udp((0, 5000), (1, 53), &[]));
    assert_eq!(turn(&mut crank, 0), Some(1));
    assert_eq!(books(&crank, 0).ingress.forwarded, 1);
}

/// A client's options are looked through to their end, wherever that is.
#[test]
fn a_client_with_an_address_of_its_own_may_speak_dhcp() {
    let bound = PortPolicy {
        guard: GuardSpec {
            mac: MacSpec::Declared(vec![Mac::from(mac(0))]),
            ip: IpSpec::Declared(vec!["10.0.0.0/32".parse().unwrap()]),
            ..GuardSpec::default()
        },
        ..free()
    };
    let (mut crank, mut guests) = switch_under(&[BASIC; 2], vec![bound, free()]);
    let bytes = bursts::dhcp(0, 1, 0, false, 300);
    guests[0].send([0; 12], &bytes);
    assert_eq!(turn(&mut crank, 0), Some(1));
    let dropped = books(&crank, 0).ingress.dropped;
    assert_eq!(
        (dropped.total(), dropped.get(DropReason::HeadersTooLong)),
        (0, 0)
    );
    assert_eq!(guests[1].received()[0][12..], bytes);
}

/// What had been counted was counted as abandoned besides.
#[test]
fn a_panic_after_the_books_were_closed_counts_nothing_twice() {
    let rejects = PortPolicy {
        inbound: list(vec![Rule::any(Action::Reject)]),
        ..free()
    };
    let (mut crank, mut guests) = switch_under(&[BASIC; 2], vec![free(), rejects]);
    guests[0].send([0; 12], &udp((0, 5000), (1, 53), &[]));
    crank.sabotage(0); // the answer
    assert_eq!(turn(&mut crank, 0), None);
    assert_eq!(lanes(&crank, 0).fault(), Some(Fault::Panicked));
    let ingress = books(&crank, 0).ingress;
    assert_eq!(ingress.received, 1);
    assert_eq!(ingress.dropped.get(DropReason::Rejected), 1);
}

/// Everybody was asked, and nothing but the frame was paid for.
#[test]
fn f_5_a_broadcast_that_everybody_refuses_costs_what_it_costs_to_ask() {
    let deaf = || PortPolicy {
        inbound: list(vec![Rule::any(Action::Deny)]),
        ..free()
    };
    let ports = std::iter::once(free()).chain((1..17).map(|_| deaf()));
    let (mut crank, mut guests) = switch_under(&[BASIC; 17], ports.collect());
    for number in 0..32 {
        guests[0].send([0; 12], &frame(BROADCAST, 0, number));
    }
    assert_eq!(turn(&mut crank, 0), Some(32));
    assert_eq!(
        books(&crank, 0)
            .ingress
            .dropped
            .get(DropReason::DeniedInbound),
        32
    );
    assert!(crank.rounds_in_debt() >= 32 * 16 / 64 - 1);
}

/// A datagram to `dst` with 96 bytes of hop-by-hop options in front of UDP, whose ports lie beyond the first 128 bytes.
fn with_long_headers(dst: [u8; 6]) -> Vec<u8> {
    let mut bytes = [&dst[..], &mac(0), &[0x86, 0xdd]].concat();
    bytes.extend([0x60, 0, 0, 0, 0, 112, 0, 64]);
    bytes.extend("fe80::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
    bytes.extend("ff02::fb".parse::<std::net::Ipv6Addr>().unwrap().octets());
    bytes.extend([17, 11, 1, 92]);
    bytes.extend([0; 92]);
    bytes.extend([0x14, 0xe9, 0x14, 0xe9, 0, 16, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    bytes
}

const MDNS: [u8; 6] = [0x33, 0x33, 0, 0, 0, 0xfb];

/// A port that takes nothing but multicast DNS.
fn takes_mdns() -> PortPolicy {
    let kind = Kind::Ip {
        family: None,
        protocol: Some(protocol::UDP),
    };
    let rule = Rule {
        kind,
        port: vec![5353..=5353],
        ..Rule::any(Action::Allow)
    };
    PortPolicy {
        inbound: list(vec![rule]),
        ..free()
    }
}

/// One receiver without a list was enough, and those with one were refused what they would have been let have.
#[test]
fn a_frame_to_many_is_looked_at_as_deep_as_any_of_them_asks() {
    let ports = vec![free(), takes_mdns(), free(), takes_mdns()];
    let (mut crank, mut guests) = switch_under(&[BASIC; 4], ports);
    let bytes = with_long_headers(MDNS);
    guests[0].send([0; 12], &bytes);
    assert_eq!(turn(&mut crank, 0), Some(1));
    for guest in &guests[1..] {
        let got = guest.received();
        assert_eq!(got.len(), 1);
        assert_eq!(got[0][12..], bytes);
    }
}

/// It was counted twice; and one that the second count refused had gone to those who had not asked for more of it.
#[test]
fn a_frame_that_is_looked_at_twice_is_counted_once() {
    let rate = |burst| Rate {
        per_second: 1,
        burst,
    };
    let limited = PortPolicy {
        limits: LimitSpec {
            send_frames: rate(3),
            multicast: rate(1),
            unknown: rate(1),
            ..LimitSpec::default()
        },
        ..free()
    };
    let ports = vec![limited, free(), takes_mdns(), free()];
    let (mut crank, mut guests) = switch_under(&[BASIC; 4], ports);
    let to_group = with_long_headers(MDNS);
    let to_unknown = with_long_headers(mac(77));
    let to_another = with_long_headers(mac(78));
    for bytes in [&to_group, &to_group, &to_unknown, &to_another] {
        guests[0].send([0; 12], bytes);
    }
    assert_eq!(turn(&mut crank, 0), Some(4));
    for guest in &guests[1..] {
        let got = guest.received().into_iter();
        let got: Vec<_> = got.map(|mut frame| frame.split_off(12)).collect();
        assert_eq!(got, [to_group.clone(), to_unknown.clone()]);
    }
    let ingress = books(&crank, 0).ingress;
    let reasons = [DropReason::StormMulticast, DropReason::StormUnknown];
    assert_eq!(reasons.map(|reason| ingress.dropped.get(reason)), [1, 1]);
    assert_eq!((ingress.forwarded, ingress.dropped.total()), (2, 2));
}

/// Each goes to everybody, and a front-end may ask as often as it likes.
#[test]
fn f_5_a_port_is_announced_a_hundred_times_a_second_at_most() {
    let mut memory = super::step::Memory::default();
    let asked = (0..20_000).map(|n| Tick::from_secs(7).after_millis(n / 20));
    assert_eq!(asked.filter(|now| memory.may_announce(*now)).count(), 100);
}

/// The other has not returned its sender's buffers by then: see the head of `egress`.
#[test]
fn frames_of_two_workers_in_one_ring_go_out_with_the_first_and_once() {
    use super::egress::Egress;
    use super::fanout::Frames;
    use super::slots::{Slots, Source};
    use crate::ring::ChainBurst;

    let (mut crank, mut guests) = switch(&[BASIC; 3]);
    let (mut worker, mut slots, chains) = (Egress::new(), Slots::new(), ChainBurst::new());
    let first = frame(mac(1), 0, 1);
    let second = frame(mac(1), 2, 2);
    slots.put(&first);
    let source = Source {
        memory: None,
        chains: &chains,
    };
    let (to, fabric) = (lanes(&crank, 1), &crank.gate().fabric);
    let entered = worker.deliver(source, &mut slots, Frames::first(1), to, fabric);
    worker.leave(entered);
    assert!(guests[1].received().is_empty());
    guests[2].send([0; 12], &second);
    assert_eq!(turn(&mut crank, 2), Some(1));
    let got = |guest: &Guest| -> Vec<_> {
        let frames = guest.received().into_iter();
        frames.map(|mut frame| frame.split_off(12)).collect()
    };
    assert_eq!(got(&guests[1]), [first.clone(), second.clone()]);
    worker.publish(None, crank.ports());
    assert_eq!(got(&guests[1]), [first, second]);
    assert_eq!(books(&crank, 1).egress.delivered, 2);
}
