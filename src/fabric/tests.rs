//! The forwarding decision against an independent model: the table of reachability as it is written for people, VLAN
//! rules as sentences, and an FDB that is a map.

use std::collections::{BTreeSet, HashMap};

use proptest::prelude::*;

use super::*;
use crate::frame::{Frame, Mac};
use crate::policy::{Admitted, Context, Desk, Policy, Weight};

fn port(index: u16) -> PortId {
    PortId::new(index).unwrap()
}

fn vid(n: u16) -> Vid {
    Vid::new(n).unwrap()
}

fn station(n: u16) -> Mac {
    Mac::from_bits(0x5254_0000_0000 | u64::from(n))
}

const STRANGER: Mac = Mac::new([0x52, 0x54, 0xff, 0xff, 0xff, 0xff]);
const MULTICAST: Mac = Mac::new([0x01, 0, 0x5e, 0, 0, 0xfb]);

/// How a port is described in the model.
#[derive(Clone, Debug, PartialEq)]
struct Spec {
    kind: &'static str,
    groups: Vec<u16>,
    access: Option<u16>,
    trunk: Vec<u16>,
    native: Option<u16>,
}

impl Spec {
    fn row(&self) -> PortRow {
        let mode = match self.kind {
            "isolated" => Mode::Isolated,
            "private" | "private uplink" => Mode::Private,
            _ => Mode::Bridge,
        };
        let vlan = match self.access {
            Some(n) => VlanMembership::Access(vid(n)),
            None => VlanMembership::Trunk {
                allowed: self.trunk.iter().copied().map(vid).collect(),
                native: self.native.map(vid),
            },
        };
        let groups = self.groups.iter().copied().map(GroupId).collect();
        PortRow {
            mode,
            uplink: self.kind.ends_with("uplink"),
            groups,
            vlan,
        }
    }

    fn carries(&self, vlan: u16) -> bool {
        self.access == Some(vlan) || self.native == Some(vlan) || self.trunk.contains(&vlan)
    }
}

/// The table of the documentation, line by line.
fn model_reaches(a: &Spec, b: &Spec) -> bool {
    const TABLE: [(&str, [&str; 4]); 4] = [
        ("bridge", ["yes", "yes", "no", "yes"]),
        ("isolated", ["yes", "group", "no", "yes"]),
        ("private", ["no", "no", "no", "yes"]),
        ("uplink", ["yes", "yes", "yes", "yes"]),
    ];
    let name = |spec: &Spec| {
        if spec.kind.ends_with("uplink") {
            "uplink"
        } else {
            spec.kind
        }
    };
    let column = TABLE.iter().position(|(kind, _)| *kind == name(b)).unwrap();
    let (_, line) = TABLE.iter().find(|(kind, _)| *kind == name(a)).unwrap();
    match line[column] {
        "group" => a.groups.iter().any(|group| b.groups.contains(group)),
        answer => answer == "yes",
    }
}

#[derive(Debug, PartialEq)]
enum Outcome {
    Dropped(DropReason),
    To(BTreeSet<(u16, Option<u16>)>),
}

/// The switch as one would explain it.
#[derive(Default)]
struct Model {
    ports: Vec<Spec>,
    known: HashMap<(u16, Mac), u16>,
    declared: HashMap<Mac, u16>,
}

impl Model {
    fn send(&mut self, from: u16, tags: &[(u16, u16)], dst: Mac, src: Mac) -> Outcome {
        use DropReason::*;
        let source = &self.ports[usize::from(from)];
        let vlan = match tags {
            [] => source.access.or(source.native).ok_or(VlanNotAllowed),
            _ if source.access.is_some() => Err(VlanSmuggled),
            [(0x8100, 1..=4094)] if !source.carries(tags[0].1) => Err(VlanNotAllowed),
            [(0x8100, n @ 1..=4094)] => Ok(*n),
            _ => Err(VlanSmuggled),
        };
        let vlan = match vlan {
            Ok(vlan) => vlan,
            Err(reason) => return Outcome::Dropped(reason),
        };
        match self.declared.get(&src) {
            Some(owner) if *owner != from => return Outcome::Dropped(MacOfOtherPort),
            Some(_) => {}
            None => {
                self.known.insert((vlan, src), from);
            }
        }
        let legal = |to: u16| {
            let spec = &self.ports[usize::from(to)];
            to != from && model_reaches(source, spec) && spec.carries(vlan)
        };
        let known = self
            .declared
            .get(&dst)
            .or_else(|| self.known.get(&(vlan, dst)))
            .copied();
        let targets: Vec<u16> = match known.filter(|_| dst.bits() >> 40 & 1 == 0) {
            Some(to) if to == from => return Outcome::Dropped(Hairpin),
            Some(to) if !legal(to) => return Outcome::Dropped(Unreachable),
            Some(to) => vec![to],
            None => (0..self.ports.len() as u16)
                .filter(|to| legal(*to))
                .collect(),
        };
        if targets.is_empty() {
            return Outcome::Dropped(NoDestination);
        }
        let tag = |to: u16| {
            let spec = &self.ports[usize::from(to)];
            if spec.access.is_some() || spec.native == Some(vlan) {
                None
            } else {
                Some(vlan)
            }
        };
        Outcome::To(targets.into_iter().map(|to| (to, tag(to))).collect())
    }
}

/// The switch under test, asked the same questions.
struct Subject {
    fabric: Fabric,
    policy: Policy,
    caches: Vec<LookupCache>,
}

/// A frame that may enter, by a policy that refuses none.
fn admit<'a>(policy: &Policy, from: PortId, frame: &'a Frame<'a>) -> Admitted<'a> {
    let (mut context, mut desk) = (Context::default(), Desk::default());
    let mut judge = policy.judge(from, &mut context, &mut desk, Tick::ZERO);
    let weight = Weight {
        frames: 1,
        bytes: frame.total_len(),
    };
    judge.admit(None, frame, || weight).unwrap()
}

impl Subject {
    fn new(ports: &[Spec]) -> Self {
        let rows: Vec<_> = ports.iter().map(Spec::row).collect();
        let limits = FdbLimits {
            capacity: 1000,
            per_port: 1000,
            ageing: 300,
            ports: 16,
        };
        Self {
            fabric: Fabric::new(&rows, Arc::new(Fdb::new(limits))),
            policy: Policy::open(1, (0..rows.len() as u16).map(port)),
            caches: vec![LookupCache::default(); rows.len()],
        }
    }

    fn send(&mut self, from: u16, tags: &[(u16, u16)], dst: Mac, src: Mac) -> Outcome {
        let mut bytes = [dst.octets(), src.octets()].concat();
        for (tpid, tci) in tags {
            bytes.extend(tpid.to_be_bytes());
            bytes.extend(tci.to_be_bytes());
        }
        bytes.extend([8, 0]);
        bytes.resize(60, 0);
        let frame = Frame::parse(&bytes, 60).unwrap();
        let admitted = admit(&self.policy, port(from), &frame);
        let cache = &mut self.caches[usize::from(from)];
        let destinations = self.fabric.forward(&admitted, Tick::ZERO, cache);
        let ports = self.fabric.ports(&destinations);
        assert!(!ports.contains(port(from)), "back to its source");
        match destinations.kind() {
            Kind::Drop(reason) => {
                assert!(ports.is_empty());
                return Outcome::Dropped(reason);
            }
            Kind::Port(to) => assert_eq!(ports.iter().collect::<Vec<_>>(), [to]),
            Kind::Flood => assert!(!ports.is_empty()),
        }
        let tag = |to| {
            self.fabric
                .egress_tag(to, destinations.vid())
                .vlan()
                .map(Vid::get)
        };
        Outcome::To(ports.iter().map(|to| (to.get(), tag(to))).collect())
    }
}

fn kinds() -> Vec<(&'static str, Vec<u16>)> {
    vec![
        ("bridge", vec![]),
        ("bridge", vec![1]),
        ("isolated", vec![]),
        ("isolated", vec![1]),
        ("isolated", vec![2]),
        ("isolated", vec![1, 2]),
        ("private", vec![]),
        ("private", vec![1]),
        ("uplink", vec![]),
        ("private uplink", vec![1]),
    ]
}

fn memberships() -> Vec<(Option<u16>, Vec<u16>, Option<u16>)> {
    vec![
        (Some(10), vec![], None),
        (Some(20), vec![], None),
        (None, vec![10, 20], None),
        (None, vec![10], Some(20)),
        (None, vec![], Some(10)),
        (None, vec![], None),
    ]
}

fn specs() -> Vec<Spec> {
    let mut specs = Vec::new();
    for (kind, groups) in kinds() {
        for (access, trunk, native) in memberships() {
            let groups = groups.clone();
            specs.push(Spec {
                kind,
                groups,
                access,
                trunk,
                native,
            });
        }
    }
    specs
}

fn tag_stacks() -> Vec<Vec<(u16, u16)>> {
    let one = |tci| vec![(0x8100, tci)];
    vec![
        vec![],
        one(10),
        one(20),
        one(1),
        one(0),
        one(4095),
        vec![(0x88a8, 10)],
        vec![(0x9100, 10)],
        vec![(0x8100, 10), (0x8100, 20)],
        vec![(0x8100, 20), (0x8100, 10)],
        vec![(0x88a8, 10), (0x8100, 10)],
        vec![(0x8100, 10); 8],
    ]
}

/// Every pair of kinds, groups and VLANs, with every kind of frame and tag, against the model. A third port listens, a
/// bridge port on a trunk of both VLANs, so that "the other port is not told" is told from "nobody is".
#[test]
fn e_6_every_pair_every_vlan_every_kind_of_frame() {
    let listener = Spec {
        kind: "bridge",
        groups: vec![],
        access: None,
        trunk: vec![10, 20],
        native: None,
    };
    let specs = specs();
    let mut cases = 0;
    for a in &specs {
        for b in &specs {
            let ports = vec![a.clone(), b.clone(), listener.clone()];
            let mut subject = Subject::new(&ports);
            let mut model = Model {
                ports,
                ..Default::default()
            };
            for tags in tag_stacks() {
                // Before the other station is heard, then after; in both directions.
                for dst in [station(1), STRANGER, Mac::BROADCAST, MULTICAST, station(0)] {
                    let expected = model.send(0, &tags, dst, station(0));
                    let found = subject.send(0, &tags, dst, station(0));
                    assert_eq!(found, expected, "{a:?} -> {b:?}, {tags:x?} to {dst}");
                    cases += 1;
                }
                for dst in [station(0), STRANGER, Mac::BROADCAST] {
                    let expected = model.send(1, &tags, dst, station(1));
                    let found = subject.send(1, &tags, dst, station(1));
                    assert_eq!(found, expected, "{b:?} <- {a:?}, {tags:x?} to {dst}");
                    cases += 1;
                }
            }
        }
    }
    assert_eq!(cases, 60 * 60 * 12 * 8);
}

#[test]
fn reachability_is_symmetric_and_never_reflexive() {
    let rows: Vec<_> = specs().iter().map(Spec::row).collect();
    let reach = Reach::compile(&rows);
    for a in (0..rows.len() as u16).map(port) {
        assert!(!reach.allows(a, a));
        for b in (0..rows.len() as u16).map(port) {
            assert_eq!(reach.allows(a, b), reach.allows(b, a));
        }
    }
}

#[test]
fn a_port_that_does_not_exist_reaches_nothing_and_is_reached_by_nobody() {
    let rows = vec![PortRow::default(); 3];
    let reach = Reach::compile(&rows);
    assert!(reach.of(port(3)).is_empty());
    assert!((0..3).all(|from| !reach.allows(port(from), port(3))));
    let vlans = Vlans::compile(&rows);
    let bytes = [2; 60];
    let frame = Frame::parse(&bytes, 60).unwrap();
    assert_eq!(
        vlans.classify(port(3), &frame),
        Err(DropReason::VlanNotAllowed)
    );
}

#[test]
fn a_thousand_and_twenty_four_ports_fit_and_more_are_no_ports() {
    let rows = vec![PortRow::default(); 1030];
    let reach = Reach::compile(&rows);
    assert_eq!(reach.of(port(0)).len(), 1023);
    assert_eq!(reach.of(port(1023)).len(), 1023);
    assert_eq!(Vlans::compile(&rows).segment(Vid::DEFAULT).len(), 1024);
}

#[test]
fn e_1_the_address_of_another_port_is_refused_before_anything_is_learned() {
    let spec = Spec {
        kind: "bridge",
        groups: vec![],
        access: Some(1),
        trunk: vec![],
        native: None,
    };
    let mut subject = Subject::new(&[spec.clone(), spec.clone(), spec]);
    subject
        .fabric
        .fdb()
        .add_static(port(1), station(1))
        .unwrap();
    let spoofed = subject.send(0, &[], Mac::BROADCAST, station(1));
    assert_eq!(spoofed, Outcome::Dropped(DropReason::MacOfOtherPort));
    assert_eq!(subject.fabric.fdb().learned_total(), 0);
    assert_eq!(
        subject.send(2, &[], station(1), station(2)),
        Outcome::To([(1, None)].into())
    );
}

#[test]
fn a_smuggled_frame_teaches_nothing() {
    let spec = Spec {
        kind: "bridge",
        groups: vec![],
        access: Some(1),
        trunk: vec![],
        native: None,
    };
    let mut subject = Subject::new(&[spec.clone(), spec]);
    for tags in tag_stacks().into_iter().filter(|tags| !tags.is_empty()) {
        let outcome = subject.send(0, &tags, Mac::BROADCAST, station(0));
        assert_eq!(outcome, Outcome::Dropped(DropReason::VlanSmuggled));
    }
    assert_eq!(subject.fabric.fdb().learned_total(), 0);
}

#[test]
fn a_decision_is_one_word() {
    assert!(size_of::<Destinations>() <= 8);
}

#[test]
fn sets_of_vlans_hold_what_was_put_in() {
    let set: VidSet = [1, 63, 64, 4094].into_iter().map(vid).collect();
    assert_eq!(
        set.iter().map(Vid::get).collect::<Vec<_>>(),
        [1, 63, 64, 4094]
    );
    assert_eq!(VidSet::all().iter().count(), 4094);
    assert_eq!(VidSet::empty().iter().count(), 0);
    assert_eq!(format!("{set:?}"), "{1, 63, 64, 4094}");
}

fn spec() -> impl Strategy<Value = Spec> {
    let kind = prop::sample::select(vec![
        "bridge",
        "isolated",
        "private",
        "uplink",
        "private uplink",
    ]);
    let groups = prop::collection::vec(1u16..4, 0..3);
    let vlans = prop::collection::vec(1u16..5, 0..4);
    (
        kind,
        groups,
        prop::option::of(1u16..5),
        vlans,
        prop::option::of(1u16..5),
    )
        .prop_map(|(kind, groups, access, vlans, native)| match access {
            Some(_) => Spec {
                kind,
                groups,
                access,
                trunk: vec![],
                native: None,
            },
            None => Spec {
                kind,
                groups,
                access,
                trunk: vlans,
                native,
            },
        })
}

proptest! {
    /// Any switch, any sequence of frames: each goes where the model says, with the tag that the model says.
    #[test]
    fn any_switch_forwards_as_the_model(
        ports in prop::collection::vec(spec(), 1..12),
        declared in prop::collection::vec((0u16..12, 0u16..16), 0..4),
        frames in prop::collection::vec(
            (any::<prop::sample::Index>(), prop::collection::vec((prop::sample::select(vec![0x8100u16, 0x8100, 0x8100, 0x88a8]), 0u16..6), 0..3), 0u16..18, 0u16..16),
            1..60,
        ),
    ) {
        let mut subject = Subject::new(&ports);
        let mut model = Model { ports, ..Default::default() };
        for (owner, n) in declared {
            if usize::from(owner) < model.ports.len() && !model.declared.contains_key(&station(n)) {
                model.declared.insert(station(n), owner);
                subject.fabric.fdb().add_static(port(owner), station(n)).unwrap();
            }
        }
        for (from, tags, dst, src) in frames {
            let from = from.index(model.ports.len()) as u16;
            let dst = match dst { 16 => Mac::BROADCAST, 17 => MULTICAST, n => station(n) };
            let expected = model.send(from, &tags, dst, station(src));
            let found = subject.send(from, &tags, dst, station(src));
            prop_assert_eq!(found, expected, "port {}, {:x?} to {} from {}", from, tags, dst, station(src));
        }
    }

    #[test]
    fn port_sets_are_sets(a in prop::collection::btree_set(0u16..1024, 0..40), b in prop::collection::btree_set(0u16..1024, 0..40)) {
        let make = |set: &BTreeSet<u16>| set.iter().copied().map(port).collect::<PortSet>();
        let list = |set: PortSet| set.iter().map(PortId::get).collect::<BTreeSet<_>>();
        let (x, y) = (make(&a), make(&b));
        prop_assert_eq!(list(x.union(&y)), &a | &b);
        prop_assert_eq!(list(x.intersection(&y)), &a & &b);
        prop_assert_eq!((x.len(), x.is_empty()), (a.len(), a.is_empty()));
        let mut less = x;
        for n in &b {
            less.remove(port(*n));
        }
        prop_assert_eq!(list(less), &a - &b);
        prop_assert!(x.iter().map(PortId::get).is_sorted());
    }
}

/// What may happen to the table between two frames of a burst.
#[derive(Clone, Debug)]
enum Meanwhile {
    Nothing,
    /// Another worker hears the station on that port.
    Heard(u16, u16),
    Flushed(u16),
    Declared(u16, u16),
    Revoked(u16, u16),
}

fn meanwhile() -> impl Strategy<Value = Meanwhile> {
    prop_oneof![
        6 => Just(Meanwhile::Nothing),
        1 => (0..3u16, 0..3u16).prop_map(|(on, who)| Meanwhile::Heard(on, who)),
        1 => (0..3u16).prop_map(Meanwhile::Flushed),
        1 => (0..3u16, 0..3u16).prop_map(|(on, who)| Meanwhile::Declared(on, who)),
        1 => (0..3u16, 0..3u16).prop_map(|(on, who)| Meanwhile::Revoked(on, who)),
    ]
}

fn happen(fdb: &Fdb, meanwhile: &Meanwhile) {
    match *meanwhile {
        Meanwhile::Nothing => {}
        Meanwhile::Heard(on, who) => {
            let _ = fdb.learn(port(on), vid(10), station(who), Tick::from_secs(7));
        }
        Meanwhile::Flushed(on) => fdb.flush_port(port(on)),
        Meanwhile::Declared(on, who) => {
            let _ = fdb.add_static(port(on), station(who));
        }
        Meanwhile::Revoked(on, who) => {
            fdb.remove_static(port(on), station(who));
        }
    }
}

proptest! {
    /// The last decision of a burst is used again only where the same would be decided: frame by frame, beside a fabric
    /// that is asked anew each time and remembers nothing, while the table changes between any two frames.
    #[test]
    fn a_frame_of_a_burst_goes_where_it_would_go_alone(
        steps in prop::collection::vec((prop::bool::weighted(0.75), 0..3u16, 0..4u16, any::<bool>(), meanwhile()), 1..90),
    ) {
        let spec = |access, native| Spec {
            kind: "bridge", groups: vec![], access, trunk: vec![10], native,
        };
        let ports = [spec(None, Some(10)), spec(Some(10), None), spec(Some(10), None)];
        let (burst, alone) = (Subject::new(&ports), Subject::new(&ports));
        let mut cache = LookupCache::default();
        let mut ingress = burst.fabric.ingress(Tick::from_secs(7), &mut cache);
        for who in 0..3 {
            happen(burst.fabric.fdb(), &Meanwhile::Heard(who, who));
            happen(alone.fabric.fdb(), &Meanwhile::Heard(who, who));
        }
        let mut last = (0, 1, false);
        for (again, src, dst, tagged, between) in steps {
            // In runs, since a run is what is remembered.
            let (src, dst, tagged) = if again { last } else { (src, dst, tagged) };
            last = (src, dst, tagged);
            let mut bytes = [station(dst).octets(), station(src).octets()].concat();
            bytes.extend(if tagged { &[0x81, 0, 0, 10][..] } else { &[] });
            bytes.extend([8, 0]);
            let frame = Frame::parse(&bytes, 60).unwrap();
            let admitted = admit(&burst.policy, port(0), &frame);
            let expected = alone.fabric.forward(&admitted, Tick::from_secs(7), &mut LookupCache::default());
            prop_assert_eq!(ingress.forward(&admitted), expected);
            happen(burst.fabric.fdb(), &between);
            happen(alone.fabric.fdb(), &between);
        }
        let known = |subject: &Subject| {
            let mut known: Vec<_> = subject.fabric.fdb().entries(Tick::from_secs(7))
                .map(|entry| (entry.mac, entry.port, entry.age, entry.is_static))
                .collect();
            known.sort_unstable();
            known
        };
        prop_assert_eq!(known(&burst), known(&alone));
    }
}
