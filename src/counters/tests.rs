use super::*;

#[test]
fn reasons_have_distinct_kebab_names_and_indices() {
    for (index, reason) in DropReason::ALL.iter().enumerate() {
        assert_eq!(reason.index(), index);
        assert_eq!(DropReason::from_name(reason.name()), Some(*reason));
        assert!(
            reason
                .name()
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b == b'-')
        );
        assert!(reason.describe().ends_with('.'), "{reason}");
        assert!(!reason.describe().starts_with(' '), "{reason}");
    }
    assert_eq!(DropReason::from_name("no-such"), None);
}

#[test]
fn port_ids_stop_at_the_limit() {
    assert_eq!(PortId::new(1023).map(PortId::index), Some(1023));
    assert_eq!(PortId::new(1024), None);
}

#[test]
fn a_tally_is_added_once_and_emptied() {
    let counters = PortCounters::new(1);
    let mut tally = Tally::new();
    assert!(tally.is_empty());
    for bytes in [60, 1500] {
        tally.enter(bytes);
    }
    tally.pass(60);
    tally.lose(DropReason::ReceiverFull);
    assert!(!tally.is_empty());
    counters.add_ingress(&mut tally);
    assert!(tally.is_empty());
    counters.add_ingress(&mut tally);

    let seen = counters.snapshot();
    assert_eq!(
        (seen.ingress.received, seen.ingress.received_bytes),
        (2, 1560)
    );
    assert_eq!(
        (seen.ingress.forwarded, seen.ingress.forwarded_bytes),
        (1, 60)
    );
    assert_eq!(seen.ingress.dropped.get(DropReason::ReceiverFull), 1);
    assert_eq!(
        seen.ingress.received,
        seen.ingress.forwarded + seen.ingress.dropped.total()
    );
    assert_eq!(seen.egress, EgressSnapshot::default());
}

#[test]
fn every_reason_is_counted_by_itself() {
    let counters = PortCounters::new(1);
    let mut tally = Tally::new();
    for (index, reason) in DropReason::ALL.iter().enumerate() {
        for _ in 0..=index {
            tally.enter(14);
            tally.lose(*reason);
        }
    }
    counters.add_egress(0, &mut tally);
    let seen = counters.snapshot().egress;
    for (index, reason) in DropReason::ALL.iter().enumerate() {
        assert_eq!(seen.undelivered.get(*reason), index as u64 + 1);
    }
    assert_eq!(seen.offered, seen.undelivered.total());
    assert_eq!(seen.undelivered.iter().count(), DropReason::COUNT);
}

#[test]
fn directions_and_ports_do_not_share_a_cache_line() {
    let two = [PortCounters::new(2), PortCounters::new(2)];
    let at = |r: *const Counter| r as usize / 128;
    let ends = |flow: &Flow| [at(&flow.entered), at(flow.lost.last().unwrap())];
    let mut spans: Vec<_> = two
        .iter()
        .flat_map(|port| {
            let events = [at(&port.events.malformed_chains), at(&port.events.faults)];
            let egress = port.egress.iter().map(|egress| ends(&egress.0));
            egress.chain([ends(&port.ingress.0), events])
        })
        .collect();
    spans.sort_unstable();
    assert_eq!(spans.len(), 8);
    assert!(
        spans
            .array_windows()
            .all(|[before, after]| before[1] < after[0])
    );
}

#[test]
fn a_snapshot_survives_json_and_ignores_unknown_reasons() {
    let counters = PortCounters::new(1);
    let mut tally = Tally::new();
    tally.enter(14);
    tally.lose(DropReason::VlanSmuggled);
    counters.add_ingress(&mut tally);
    counters.events.kicks.increment();
    let seen = counters.snapshot();
    let text = serde_json::to_string(&seen).unwrap();
    assert!(text.contains(r#""dropped":{"vlan-smuggled":1}"#), "{text}");
    assert_eq!(serde_json::from_str::<PortSnapshot>(&text).unwrap(), seen);
    let newer = text.replace("vlan-smuggled", "a-reason-of-tomorrow");
    assert_eq!(
        serde_json::from_str::<PortSnapshot>(&newer)
            .unwrap()
            .ingress
            .dropped
            .total(),
        0
    );
}

#[test]
fn concurrent_bursts_lose_no_count() {
    let counters = &PortCounters::new(2);
    std::thread::scope(|scope| {
        for ring in 0..2 {
            scope.spawn(move || {
                let mut tally = Tally::new();
                for n in 0..1000 {
                    tally.enter(60);
                    if n % 3 == 0 {
                        tally.lose(DropReason::ReceiverDown)
                    } else {
                        tally.pass(60)
                    }
                    counters.add_egress(ring, &mut tally);
                }
            });
        }
    });
    let seen = counters.snapshot().egress;
    assert_eq!(seen.offered, 2000);
    assert_eq!(seen.offered, seen.delivered + seen.undelivered.total());
}
