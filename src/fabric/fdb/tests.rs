use std::collections::{HashMap, HashSet};
use std::sync::atomic::AtomicBool;

use proptest::prelude::*;

use super::*;

fn port(index: u16) -> PortId {
    PortId::new(index).unwrap()
}

fn mac(n: u64) -> Mac {
    Mac::from_bits(0x5254_0000_0000 | n)
}

fn vlan(n: u16) -> Vid {
    Vid::new(n).unwrap()
}

fn at(secs: u64) -> Tick {
    Tick::from_secs(secs)
}

fn table(capacity: u32, per_port: u32, ports: u16) -> Fdb {
    Fdb::new(FdbLimits {
        capacity,
        per_port,
        ageing: 10,
        ports,
    })
}

const VLAN: Vid = Vid::DEFAULT;

#[test]
fn an_address_is_learned_moves_ages_and_is_flushed() {
    let fdb = table(16, 8, 4);
    assert_eq!(fdb.lookup(VLAN, mac(1), at(0)), None);
    fdb.learn(port(1), VLAN, mac(1), at(0)).unwrap();
    assert_eq!(fdb.lookup(VLAN, mac(1), at(10)), Some(port(1)));
    assert_eq!(fdb.lookup(VLAN, mac(1), at(11)), None);
    assert_eq!(fdb.lookup(vlan(2), mac(1), at(0)), None);
    fdb.learn(port(2), VLAN, mac(1), at(5)).unwrap();
    assert_eq!(fdb.lookup(VLAN, mac(1), at(15)), Some(port(2)));
    assert_eq!((fdb.learned(port(1)), fdb.learned(port(2))), (0, 1));
    fdb.flush_port(port(2));
    assert_eq!(fdb.lookup(VLAN, mac(1), at(5)), None);
    assert_eq!(fdb.learned_total(), 0);
}

#[test]
fn being_heard_keeps_an_address_young() {
    let fdb = table(16, 8, 4);
    for secs in (0..100).step_by(10) {
        fdb.learn(port(1), VLAN, mac(1), at(secs)).unwrap();
        fdb.age(at(secs));
    }
    assert_eq!(fdb.lookup(VLAN, mac(1), at(100)), Some(port(1)));
    assert_eq!(fdb.learned_total(), 1);
    fdb.age(at(101));
    assert_eq!(fdb.learned_total(), 0);
}

#[test]
fn a_flush_takes_many_entries_of_one_port_and_leaves_the_others() {
    let fdb = table(4096, 2048, 2);
    for n in 0..2000 {
        fdb.learn(port((n % 2) as u16), VLAN, mac(n), at(0))
            .unwrap();
    }
    fdb.add_static(port(0), mac(9999)).unwrap();
    fdb.flush_port(port(0));
    assert_eq!((fdb.learned(port(0)), fdb.learned(port(1))), (0, 1000));
    assert_eq!(fdb.lookup(VLAN, mac(1), at(0)), Some(port(1)));
    assert_eq!(fdb.lookup(VLAN, mac(2), at(0)), None);
    assert_eq!(fdb.lookup(VLAN, mac(9999), at(0)), Some(port(0)));
}

#[test]
fn e_1_a_declared_address_is_refused_on_other_ports_in_every_vlan() {
    let fdb = table(16, 8, 4);
    fdb.learn(port(3), vlan(7), mac(1), at(0)).unwrap();
    fdb.add_static(port(1), mac(1)).unwrap();
    assert_eq!(
        fdb.lookup(vlan(7), mac(1), at(0)),
        Some(port(1)),
        "what was learned is forgotten"
    );
    assert_eq!(fdb.learned_total(), 0);
    for vid in [1, 7, 4094] {
        assert_eq!(
            fdb.learn(port(3), vlan(vid), mac(1), at(0)),
            Err(DropReason::MacOfOtherPort)
        );
        assert_eq!(fdb.learn(port(1), vlan(vid), mac(1), at(0)), Ok(()));
        assert_eq!(fdb.lookup(vlan(vid), mac(1), at(100_000)), Some(port(1)));
    }
    assert_eq!(
        fdb.learned_total(),
        0,
        "a declared address is not learned as well"
    );
}

#[test]
fn declarations_are_checked_and_can_be_taken_back() {
    let fdb = table(16, 8, 4);
    assert_eq!(fdb.add_static(port(1), mac(1)), Ok(()));
    assert_eq!(fdb.add_static(port(1), mac(1)), Ok(()));
    assert_eq!(
        fdb.add_static(port(2), mac(1)),
        Err(StaticError::Taken {
            mac: mac(1),
            owner: port(1)
        })
    );
    for wrong in [Mac::default(), Mac::BROADCAST] {
        assert_eq!(
            fdb.add_static(port(1), wrong),
            Err(StaticError::NoStation(wrong))
        );
    }
    assert!(!fdb.remove_static(port(2), mac(1)));
    assert!(fdb.remove_static(port(1), mac(1)));
    assert!(!fdb.remove_static(port(1), mac(1)));
    assert_eq!(fdb.lookup(VLAN, mac(1), at(0)), None);
    assert_eq!(fdb.learn(port(2), VLAN, mac(1), at(0)), Ok(()));
    assert_eq!(fdb.lookup(VLAN, mac(1), at(0)), Some(port(2)));
}

#[test]
fn e_2_a_cache_follows_every_move_and_a_declared_address_never_moves() {
    let fdb = table(16, 8, 4);
    fdb.add_static(port(1), mac(1)).unwrap();
    let mut cache = LookupCache::default();
    for n in 0..1000u32 {
        let mover = port((n % 2 + 2) as u16);
        fdb.learn(mover, VLAN, mac(2), at(0)).unwrap();
        assert_eq!(fdb.lookup_cached(VLAN, mac(2), 0, &mut cache), Some(mover));
        assert!(fdb.learn(mover, VLAN, mac(1), at(0)).is_err());
        assert_eq!(
            fdb.lookup_cached(VLAN, mac(1), 0, &mut cache),
            Some(port(1))
        );
    }
    assert_eq!(fdb.learned_total(), 1);
}

#[test]
fn a_source_cache_of_another_port_or_time_is_not_believed() {
    let fdb = table(16, 8, 4);
    let mut cache = LookupCache::default();
    fdb.learn_cached(port(1), VLAN, mac(1), 0, &mut cache)
        .unwrap();
    // The same cache, used for another port: the station moves.
    fdb.learn_cached(port(2), VLAN, mac(1), 0, &mut cache)
        .unwrap();
    assert_eq!(fdb.lookup(VLAN, mac(1), at(0)), Some(port(2)));
    // It was flushed: learned anew, through the same cache.
    fdb.flush_port(port(2));
    fdb.learn_cached(port(2), VLAN, mac(1), 0, &mut cache)
        .unwrap();
    assert_eq!(fdb.lookup(VLAN, mac(1), at(0)), Some(port(2)));
    // It is declared elsewhere meanwhile: refused.
    fdb.add_static(port(3), mac(1)).unwrap();
    let refused = fdb.learn_cached(port(2), VLAN, mac(1), 0, &mut cache);
    assert_eq!(refused, Err(DropReason::MacOfOtherPort));
    // A destination that aged behind the cache's back.
    fdb.learn(port(1), VLAN, mac(2), at(0)).unwrap();
    assert_eq!(
        fdb.lookup_cached(VLAN, mac(2), 0, &mut cache),
        Some(port(1))
    );
    assert_eq!(fdb.lookup_cached(VLAN, mac(2), 11, &mut cache), None);
}

#[test]
fn e_3_a_flood_of_sources_stays_within_its_port() {
    let fdb = table(1024, 256, 8);
    for n in 0..100 {
        fdb.learn(port(1), VLAN, mac(n), at(0)).unwrap();
    }
    for n in 0..1 << 16 {
        fdb.learn(port(2), VLAN, mac(1_000_000 + n), at(0)).unwrap();
        assert!(fdb.learned(port(2)) <= 256);
    }
    assert_eq!((fdb.learned(port(1)), fdb.learned(port(2))), (100, 256));
    for n in 0..100 {
        assert_eq!(fdb.lookup(VLAN, mac(n), at(0)), Some(port(1)));
    }
    assert_eq!(
        fdb.lookup(VLAN, mac(1_000_000 + (1 << 16) - 1), at(0)),
        Some(port(2)),
        "the newest is known"
    );
}

#[test]
fn e_3_many_flooding_ports_leave_a_quiet_one_its_share() {
    let fdb = table(800, 800, 8);
    for n in 0..800 {
        fdb.learn(port(1), VLAN, mac(n), at(0)).unwrap();
    }
    // The first flooder fills the table; the quiet port, greedy before, is pushed back to its share, not below.
    for attacker in 2..8u16 {
        for n in 0..5000 {
            fdb.learn(
                port(attacker),
                VLAN,
                mac(u64::from(attacker) * 100_000 + n),
                at(0),
            )
            .unwrap();
            assert!(fdb.learned_total() <= 800);
            assert!(fdb.learned(port(1)) >= 100);
        }
    }
    // Somebody who was never heard still gets the whole of a share.
    for n in 0..100 {
        fdb.learn(port(0), VLAN, mac(10_000_000 + n), at(0))
            .unwrap();
        assert_eq!(u64::from(fdb.learned(port(0))), n + 1);
    }
    for victim in 0..8 {
        assert_eq!(fdb.learned(port(victim)), 100, "port {victim}");
    }
}

#[test]
fn at_its_cap_a_port_loses_what_was_not_heard_for_the_longest() {
    let fdb = table(64, 4, 4);
    for n in 0..4 {
        fdb.learn(port(1), VLAN, mac(n), at(n)).unwrap();
    }
    fdb.learn(port(1), VLAN, mac(0), at(5)).unwrap();
    fdb.learn(port(1), VLAN, mac(9), at(6)).unwrap();
    let known: Vec<_> = (0..10)
        .filter(|n| fdb.lookup(VLAN, mac(*n), at(6)).is_some())
        .collect();
    assert_eq!(known, [0, 2, 3, 9]);
}

#[test]
fn a_full_table_frees_expired_entries_first() {
    let fdb = table(8, 8, 2);
    for n in 0..8 {
        fdb.learn(port(1), VLAN, mac(n), at(0)).unwrap();
    }
    // Their slots are found within as many insertions as the hand needs to go round.
    for n in 0..1000 {
        fdb.learn(port(0), VLAN, mac(100 + n), at(20)).unwrap();
    }
    assert_eq!((fdb.learned(port(0)), fdb.learned(port(1))), (8, 0));
}

#[test]
fn nothing_is_learned_without_room() {
    for fdb in [table(0, 8, 4), table(8, 0, 4)] {
        fdb.learn(port(1), VLAN, mac(1), at(0)).unwrap();
        assert_eq!(fdb.lookup(VLAN, mac(1), at(0)), None);
        assert_eq!(fdb.learned_total(), 0);
    }
}

#[test]
fn e_1_what_was_heard_lately_on_another_port_cannot_be_claimed() {
    let ageing = |ageing| {
        let fdb = Fdb::new(FdbLimits {
            ageing,
            ..FdbLimits::default()
        });
        fdb.learn(port(1), vlan(7), mac(1), at(100)).unwrap();
        fdb.learn(port(1), vlan(8), mac(2), at(100)).unwrap();
        fdb
    };
    let fdb = ageing(300);
    for now in [100, 160] {
        let claimed = fdb.claim(port(2), mac(1), at(now));
        let on = port(1);
        assert_eq!(claimed, Err(StaticError::Heard { mac: mac(1), on }));
        assert_eq!(fdb.lookup(vlan(7), mac(1), at(now)), Some(on));
    }
    // Heard again, it is held anew.
    fdb.learn(port(1), vlan(7), mac(1), at(150)).unwrap();
    assert!(fdb.claim(port(2), mac(1), at(210)).is_err());
    fdb.claim(port(2), mac(1), at(211)).unwrap();
    assert_eq!(fdb.lookup(vlan(7), mac(1), at(211)), Some(port(2)));
    // Another address, and what the port itself was heard with.
    fdb.claim(port(2), mac(3), at(100)).unwrap();
    fdb.claim(port(1), mac(2), at(100)).unwrap();
    assert_eq!(fdb.lookup(vlan(9), mac(2), at(100)), Some(port(1)));
    // What the table does not answer with any more is nobody's.
    let fdb = ageing(10);
    assert!(fdb.claim(port(2), mac(1), at(110)).is_err());
    fdb.claim(port(2), mac(1), at(111)).unwrap();
}

#[test]
fn a_table_at_capacity_holds_nearly_all() {
    let fdb = Fdb::new(FdbLimits {
        capacity: 65_536,
        per_port: 1024,
        ageing: 10,
        ports: 64,
    });
    for n in 0..65_536u64 {
        fdb.learn(port((n / 1024) as u16), VLAN, mac(n), at(0))
            .unwrap();
    }
    let known = (0..65_536)
        .filter(|n| fdb.lookup(VLAN, mac(*n), at(0)).is_some())
        .count();
    assert!(known > 65_536 * 998 / 1000, "{known}");
    assert_eq!(fdb.entries(at(0)).count(), known);
    assert_eq!(fdb.learned_total() as usize, known);
}

#[test]
fn entries_are_shown_as_they_were_learned() {
    let fdb = table(16, 8, 4);
    fdb.learn(port(1), vlan(7), mac(1), at(3)).unwrap();
    fdb.add_static(port(2), mac(2)).unwrap();
    let mut seen: Vec<_> = fdb.entries(at(5)).collect();
    seen.sort_by_key(|entry| entry.mac);
    let learned = FdbEntry {
        vid: Some(vlan(7)),
        mac: mac(1),
        port: port(1),
        age: 2,
        is_static: false,
    };
    let declared = FdbEntry {
        vid: None,
        mac: mac(2),
        port: port(2),
        age: 0,
        is_static: true,
    };
    assert_eq!(seen, [learned, declared]);
    assert_eq!(fdb.entries(at(14)).count(), 1);
}

/// What happens to a table.
#[derive(Clone, Debug)]
enum Event {
    Learn { port: u16, vid: u16, mac: u64 },
    Flush { port: u16 },
    Wait { secs: u64 },
    Age,
    Declare { port: u16, mac: u64 },
    Retract { port: u16, mac: u64 },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        20 => (0u16..4, 1u16..3, 0u64..24).prop_map(|(port, vid, mac)| Event::Learn { port, vid, mac }),
        1 => (0u16..4).prop_map(|port| Event::Flush { port }),
        3 => (0u64..6).prop_map(|secs| Event::Wait { secs }),
        1 => Just(Event::Age),
        1 => (0u16..4, 0u64..24).prop_map(|(port, mac)| Event::Declare { port, mac }),
        1 => (0u16..4, 0u64..24).prop_map(|(port, mac)| Event::Retract { port, mac }),
    ]
}

/// The obvious table: when each address was last heard where, and the declared addresses. It forgets nothing for want
/// of room; what the real one forgot beyond it must be explained by the caps.
#[derive(Default)]
struct Model {
    now: u64,
    heard: HashMap<(u16, u64), (u16, u64)>,
    declared: HashMap<u64, u16>,
}

impl Model {
    fn lookup(&self, vid: u16, mac: u64) -> Option<u16> {
        let declared = self.declared.get(&mac).copied();
        declared.or_else(|| {
            let (port, heard) = self.heard.get(&(vid, mac))?;
            (self.now - heard <= 10).then_some(*port)
        })
    }

    fn apply(&mut self, fdb: &Fdb, caches: &mut [LookupCache], event: &Event) {
        match *event {
            Event::Learn {
                port: p,
                vid,
                mac: m,
            } => {
                let cache = &mut caches[usize::from(p)];
                let learned = fdb.learn_cached(port(p), vlan(vid), mac(m), self.now as u32, cache);
                match self.declared.get(&m) {
                    Some(owner) if *owner != p => {
                        assert_eq!(learned, Err(DropReason::MacOfOtherPort))
                    }
                    Some(_) => assert_eq!(learned, Ok(())),
                    None => {
                        assert_eq!(learned, Ok(()));
                        self.heard.insert((vid, m), (p, self.now));
                    }
                }
            }
            Event::Flush { port: p } => {
                fdb.flush_port(port(p));
                self.heard.retain(|_, (owner, _)| *owner != p);
            }
            Event::Wait { secs } => self.now += secs,
            Event::Age => fdb.age(at(self.now)),
            Event::Declare { port: p, mac: m } => {
                let expected = match self.declared.get(&m) {
                    Some(owner) if *owner != p => Err(StaticError::Taken {
                        mac: mac(m),
                        owner: port(*owner),
                    }),
                    _ => Ok(()),
                };
                assert_eq!(fdb.add_static(port(p), mac(m)), expected);
                if expected.is_ok() {
                    self.declared.insert(m, p);
                    self.heard.retain(|(_, heard), _| *heard != m);
                }
            }
            Event::Retract { port: p, mac: m } => {
                let had = self.declared.get(&m) == Some(&p);
                assert_eq!(fdb.remove_static(port(p), mac(m)), had);
                if had {
                    self.declared.remove(&m);
                }
            }
        }
    }
}

fn entry_set(fdb: &Fdb, now: u64) -> HashSet<(Option<Vid>, Mac, PortId)> {
    fdb.entries(at(now))
        .map(|entry| (entry.vid, entry.mac, entry.port))
        .collect()
}

proptest! {
    /// With room for all, the table is the model.
    #[test]
    fn a_roomy_table_is_a_map(events in prop::collection::vec(event(), 1..200)) {
        let fdb = table(1000, 1000, 4);
        let mut model = Model::default();
        let mut caches = vec![LookupCache::default(); 4];
        for event in &events {
            model.apply(&fdb, &mut caches, event);
            for (vid, m) in (1..3).flat_map(|vid| (0..24).map(move |m| (vid, m))) {
                let expected = model.lookup(vid, m).map(port);
                prop_assert_eq!(fdb.lookup(vlan(vid), mac(m), at(model.now)), expected);
                let cached = fdb.lookup_cached(vlan(vid), mac(m), model.now as u32, &mut caches[0]);
                prop_assert_eq!(cached, expected);
            }
        }
    }

    /// With little room it knows no more than the model, keeps its caps, and forgets only what it may.
    #[test]
    fn a_small_table_is_fair(
        events in prop::collection::vec(event(), 1..300),
        capacity in 4u32..16,
        per_port in 1u32..8,
    ) {
        let fdb = table(capacity, per_port, 4);
        let share = capacity / 4;
        let mut model = Model::default();
        let mut caches = vec![LookupCache::default(); 4];
        for event in &events {
            let before = entry_set(&fdb, model.now);
            let counts: Vec<_> = (0..4).map(|p| fdb.learned(port(p))).collect();
            model.apply(&fdb, &mut caches, event);
            let after = entry_set(&fdb, model.now);

            prop_assert!(fdb.learned_total() <= capacity);
            prop_assert_eq!(fdb.learned_total(), (0..4).map(|p| fdb.learned(port(p))).sum::<u32>());
            for p in 0..4 {
                prop_assert!(fdb.learned(port(p)) <= per_port);
            }
            for (vid, mac, port) in &after {
                let (vid, mac) = (vid.map_or(0, Vid::get), mac.bits() & 0xffff);
                let known = if vid == 0 { model.declared.get(&mac).copied() } else { model.lookup(vid, mac) };
                prop_assert_eq!(known, Some(port.get()));
            }
            prop_assert_eq!(after.iter().filter(|(vid, ..)| vid.is_none()).count(), model.declared.len());
            if let Event::Learn { port: learner, vid, mac: m } = *event {
                if !model.declared.contains_key(&m) {
                    prop_assert_eq!(fdb.lookup(vlan(vid), mac(m), at(model.now)), Some(port(learner)));
                }
                let moved = (Some(vlan(vid)), mac(m));
                for (vid, mac, owner) in before.difference(&after).filter(|(vid, mac, _)| (*vid, *mac) != moved) {
                    let owned = counts[owner.index()];
                    prop_assert!(
                        owner.get() == learner || owned > share,
                        "{:?} {} of port {} went, of {} entries and a share of {}", vid, mac, owner, owned, share
                    );
                }
            }
        }
    }
}

/// Each address is used by two ports only. Whatever writers do in a crowded table, readers, cached or not, are never
/// told of a third port, and the books agree with the table at the end.
#[test]
fn concurrent_readers_see_whole_entries_only() {
    const ADDRESSES: u64 = 512;
    let fdb = Fdb::new(FdbLimits {
        capacity: 64,
        per_port: 48,
        ageing: 10,
        ports: 8,
    });
    let owners = |m: u64| [port((m % 8) as u16), port((m / 8 % 8) as u16)];
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..2u64)
            .map(|writer| {
                let fdb = &fdb;
                scope.spawn(move || {
                    let mut state = writer + 1;
                    for n in 0..60_000u32 {
                        // A linear congruential generator: any order will do, it only has to differ.
                        state = state
                            .wrapping_mul(6_364_136_223_846_793_005)
                            .wrapping_add(1);
                        let m = state >> 40 & (ADDRESSES - 1);
                        let owner = owners(m)[(state >> 60 & 1) as usize];
                        fdb.learn(owner, VLAN, mac(m), at(u64::from(n / 10_000)))
                            .unwrap();
                        if n % 5000 == 0 {
                            fdb.flush_port(owner);
                        }
                        if n % 7001 == 0 {
                            fdb.age(at(u64::from(n / 10_000)));
                        }
                    }
                })
            })
            .collect();
        for _ in 0..2 {
            scope.spawn(|| {
                let mut cache = LookupCache::default();
                let mut m = 0;
                while !done.load(Ordering::Relaxed) {
                    m = (m + 1) % ADDRESSES;
                    for found in [
                        fdb.lookup(VLAN, mac(m), at(0)),
                        fdb.lookup_cached(VLAN, mac(m), 0, &mut cache),
                        fdb.lookup_cached(VLAN, mac(m), 0, &mut cache),
                    ] {
                        assert!(
                            found.is_none_or(|owner| owners(m).contains(&owner)),
                            "{m} on {found:?}"
                        );
                    }
                }
            });
        }
        for writer in writers {
            writer.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    let mut counted = HashMap::new();
    let mut addresses = HashSet::new();
    for entry in fdb.entries(at(0)) {
        *counted.entry(entry.port).or_insert(0) += 1;
        assert!(addresses.insert(entry.mac), "{} twice", entry.mac);
    }
    for owner in (0..8).map(port) {
        assert_eq!(
            fdb.learned(owner),
            counted.get(&owner).copied().unwrap_or(0)
        );
    }
    assert!(fdb.learned_total() <= 64);
}

#[test]
fn entries_can_be_listed_in_pages_without_missing_one_that_stays() {
    let fdb = table(4096, 4096, 4);
    for n in 0..1000 {
        fdb.learn(port(1), VLAN, mac(n), at(1)).unwrap();
    }
    let (mut from, mut seen) = (0, HashSet::new());
    loop {
        let page: Vec<_> = fdb.entries_from(from, at(1)).take(7).collect();
        for (_, entry) in &page {
            assert!(seen.insert(entry.mac), "{} twice", entry.mac);
        }
        let Some((next, _)) = page.last() else { break };
        from = *next;
        // Others come meanwhile.
        fdb.learn(port(2), VLAN, mac(5000 + u64::from(from)), at(1))
            .unwrap();
    }
    assert!((0..1000).all(|n| seen.contains(&mac(n))));
    assert_eq!(fdb.entries_from(u32::MAX, at(1)).count(), 0);
}

#[test]
fn e_3_a_port_may_be_capped_below_the_others() {
    let fdb = Fdb::new(FdbLimits {
        capacity: 1000,
        per_port: 100,
        ageing: 300,
        ports: 4,
    });
    let (small, other) = (PortId::new(1).unwrap(), PortId::new(2).unwrap());
    fdb.cap_port(small, 3);
    for n in 0..50u64 {
        for port in [small, other] {
            let mac = Mac::from_bits(0x5254_0000_0000 | u64::from(port.get()) << 16 | n);
            fdb.learn(port, Vid::DEFAULT, mac, Tick::ZERO).unwrap();
        }
    }
    assert_eq!((fdb.learned(small), fdb.learned(other)), (3, 50));
    // The newest are the ones that stay.
    let newest = Mac::from_bits(0x5254_0000_0000 | 1 << 16 | 49);
    assert_eq!(fdb.lookup(Vid::DEFAULT, newest, Tick::ZERO), Some(small));
}
