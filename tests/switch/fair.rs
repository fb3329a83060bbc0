//! What one port does in excess or out of place, and what it costs the others: nothing. By the names of the threat model.

use std::sync::atomic::{AtomicBool, Ordering};

use portcullis::guest::{Guest, Shape, VnetHeader};

use crate::hostile::{Ends, attacked};
use crate::rig::{BROADCAST, PATIENCE, Switch, Victims, all, expect, frame, hear, mac, until};

/// A UDP packet over IPv4; checksums are as they are given.
fn udp(to: u8, from: u8, port: u16, checksums: [u16; 2]) -> Vec<u8> {
    let mut bytes = [
        &mac(to)[..],
        &mac(from),
        &[8, 0, 0x45, 0, 0, 46, 0, 7, 0x40, 0, 64, 17],
    ]
    .concat();
    bytes.extend(checksums[0].to_be_bytes());
    bytes.extend([10, 0, 0, from, 10, 0, 0, to, 0x30, 0x39]);
    bytes.extend(port.to_be_bytes());
    bytes.extend([0, 26]);
    bytes.extend(checksums[1].to_be_bytes());
    bytes.resize(60, 7);
    bytes
}

/// Sends `bytes` as fast as the switch takes them, until it is over; says how many went out.
fn flood(guests: &mut [Guest], bytes: &[Vec<u8>], over: &AtomicBool) -> u64 {
    let mut sent = 0;
    while !over.load(Ordering::Relaxed) {
        for (guest, bytes) in guests.iter_mut().zip(bytes) {
            for _ in 0..32 {
                // Full: the switch has not taken the last ones yet. It is told again and asked again.
                let queued = guest.queue_frame(0, VnetHeader::default(), bytes, &Shape::Together);
                if queued.is_err() {
                    break;
                }
                sent += 1;
            }
            guest.flush(0).unwrap();
        }
    }
    sent
}

/// E-5: a guest that bridges two of its own ports. What comes in by the one would go out by the other and come back;
/// but it bears another guest's address, so that it goes nowhere.
#[test]
fn e_5_a_loop_through_a_guest_ends_at_its_first_turn() {
    let ports = [("a", ""), ("b", ""), ("left", ""), ("right", "")];
    let switch = Switch::start(&ports);
    let mut victims = Victims::plug(&switch, "a", "b");
    let mut bridge = [
        switch.guest("left", mac(66)),
        switch.guest("right", mac(67)),
    ];
    for (guest, n) in bridge.iter_mut().zip([66, 67]) {
        guest.send(&frame(mac(0xa), mac(n), b"here")).unwrap();
        hear(&mut victims.a, mac(n));
    }
    let mut bridged = 0;
    for round in 0..50u8 {
        let shout = frame(BROADCAST, mac(0xa), &[round]);
        victims.a.send(&shout).unwrap();
        assert_eq!(hear(&mut victims.b, mac(0xa)).bytes, shout);
        for side in 0..2 {
            let heard = hear(&mut bridge[side], mac(0xa));
            bridge[1 - side].send(&heard.bytes).unwrap();
            bridged += 1;
            switch.await_received(["right", "left"][side], 1 + bridged / 2);
        }
        victims.talk(1);
    }
    let spoofed = |port| {
        let taken = switch.dropped(port, "mac-of-other-port");
        taken + switch.dropped(port, "source-mac-spoofed")
    };
    assert_eq!(spoofed("left") + spoofed("right"), bridged);
    // Nobody heard anything twice.
    assert_eq!(all(&mut victims.b), []);
    assert_eq!(all(&mut victims.a), []);
}

/// E-27: checksums are carried and not looked at, neither to judge nor to mend: a wrong one is the receiver's to find. So a
/// wrong one evades nothing, and a filter and a host cannot disagree about what the headers say.
#[test]
fn e_27_a_wrong_checksum_neither_evades_a_rule_nor_is_mended() {
    let open = "outbound = [{ allow = \"udp\", port = 53 }, { deny = \"any\" }]\ninbound = [{ allow = \"any\" }]";
    let acl = format!("[acl.dns]\n{open}\n");
    let switch = Switch::with("", &[("b", ""), ("a", &format!("acl = \"dns\"\n{acl}"))]);
    let mut a = switch.guest("a", mac(0xa));
    let mut b = switch.guest("b", mac(0xb));
    b.send(&frame(BROADCAST, mac(0xb), b"here")).unwrap();
    switch.await_received("b", 1);
    for sums in [[0, 0], [0xbeef, 0], [0, 0xbeef], [0xffff, 0xffff]] {
        let asked = udp(0xb, 0xa, 53, sums);
        a.send(&asked).unwrap();
        assert_eq!(hear(&mut b, mac(0xa)).bytes, asked);
        let before = switch.dropped("a", "denied-outbound");
        a.send(&udp(0xb, 0xa, 54, sums)).unwrap();
        until("the drop", || {
            (switch.dropped("a", "denied-outbound") == before + 1).then_some(())
        });
    }
    assert_eq!(all(&mut b), []);
}

/// E-36: what is sent to a port without a guest is lost, and not kept for the guest that comes.
#[test]
fn e_36_nothing_waits_for_a_guest_that_is_not_there() {
    let switch = Switch::start(&[("a", ""), ("late", "mac = [\"52:54:00:00:00:42\"]")]);
    let mut a = switch.guest("a", mac(0xa));
    for number in 0..100u8 {
        let to = if number % 2 == 0 { mac(66) } else { BROADCAST };
        a.send(&frame(to, mac(0xa), &[number])).unwrap();
    }
    switch.await_received("a", 100);
    let lost = switch.dropped("a", "receiver-down") + switch.dropped("a", "no-destination");
    assert_eq!(lost, 100);
    let mut late = switch.guest("late", mac(66));
    let fresh = frame(mac(66), mac(0xa), b"fresh");
    a.send(&fresh).unwrap();
    assert_eq!(expect(&mut late).bytes, fresh);
    assert_eq!(switch.books("late").delivered, 1);
}

/// F-2: sixteen ports that send as fast as they can, each in its own way, beside two that talk.
#[test]
fn f_2_sixteen_attackers_cost_two_others_no_frame() {
    let names: Vec<_> = (0..16).map(|n| format!("m{n}")).collect();
    let mut ports = vec![("a", ""), ("b", ""), ("sink", "")];
    ports.extend(names.iter().map(|name| (name.as_str(), "")));
    let mut switch = Switch::start(&ports);
    let mut victims = Victims::plug(&switch, "a", "b");
    let mut sink = switch.guest("sink", mac(77));
    sink.send(&frame(mac(0xa), mac(77), b"here")).unwrap();
    hear(&mut victims.a, mac(77));
    let mut attackers: Vec<_> = names
        .iter()
        .map(|name| switch.guest(name, mac(100)))
        .collect();
    // The same address sixteen times: it is the first one's, and the others only knock.
    let bytes: Vec<_> = (0..16u8)
        .map(|n| match n % 4 {
            0 => frame(mac(77), mac(100), &[n]),
            1 => frame(mac(77), mac(0xa), &[n]),
            2 => udp(77, 100, u16::from(n), [0, 0]),
            _ => vec![0xff; 20],
        })
        .collect();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _ends = Ends(&over);
        let (first, second) = attackers.split_at_mut(8);
        let (of_first, of_second) = bytes.split_at(8);
        scope.spawn(|| flood(first, of_first, &over));
        scope.spawn(|| flood(second, of_second, &over));
        for name in &names {
            switch.await_received(name, 1);
        }
        victims.talk(300);
        for name in &names {
            let before = switch.books(name).received;
            switch.await_received(name, before + 1);
        }
    });
    assert!(switch.is_alive());
    for port in ["a", "b"] {
        let books = switch.books(port);
        assert_eq!((books.dropped, books.undelivered), (0, 0), "{port}");
    }
}

/// F-4: a receiver that takes a frame now and then. Its senders lose what it has no room for, others lose nothing; what
/// arrives is in order and once, and nothing waits in the switch.
#[test]
fn f_4_a_slow_receiver_gets_what_it_has_room_for_and_holds_up_nobody() {
    attacked(|switch, victims| {
        let mut slow = switch.plug("mallory", Guest::builder().mac(mac(66)).ring_size(4));
        slow.send(&frame(mac(0xa), mac(66), b"here")).unwrap();
        expect(&mut victims.a);
        let mut witness = switch.guest("witness", mac(77));
        let mut heard = Vec::new();
        for number in 0..400u32 {
            let numbered = frame(mac(66), mac(77), &number.to_be_bytes());
            witness.send(&numbered).unwrap();
            switch.await_received("witness", u64::from(number) + 1);
            if number % 8 == 7 {
                heard.extend(slow.try_recv().unwrap());
                victims.talk(1);
            }
        }
        heard.extend(all(&mut slow));
        let numbers: Vec<_> = heard
            .iter()
            .map(|got| u32::from_be_bytes(got.bytes[14..18].try_into().unwrap()))
            .collect();
        assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
        let books = switch.books("mallory");
        assert_eq!(books.delivered, numbers.len() as u64);
        assert_eq!(
            books.delivered + switch.undelivered("mallory", "receiver-full"),
            400
        );
        drop(witness);
        drop(slow);
        for port in ["witness", "mallory"] {
            switch.await_state(port, "waiting");
        }
    });
}

/// F-5: one burst of broadcasts, more than a visit may copy. The rest is taken without another kick, and everybody gets
/// everything, in order.
#[test]
fn f_5_a_burst_of_broadcasts_takes_several_visits_and_arrives_whole() {
    const RECEIVERS: u8 = 24;
    let names: Vec<_> = (0..RECEIVERS).map(|n| format!("r{n}")).collect();
    let mut ports = vec![("mallory", "")];
    ports.extend(names.iter().map(|name| (name.as_str(), "")));
    let switch = Switch::start(&ports);
    let mut receivers: Vec<_> = names
        .iter()
        .zip(100..)
        .map(|(name, n)| switch.guest(name, mac(n)))
        .collect();
    let mut mallory = switch.guest("mallory", mac(66));
    let numbered = |number: u8| frame(BROADCAST, mac(66), &[number; 1400]);
    for number in 0..64 {
        let header = VnetHeader::default();
        mallory
            .queue_frame(0, header, &numbered(number), &Shape::Together)
            .unwrap();
    }
    mallory.flush(0).unwrap();
    for receiver in &mut receivers {
        for number in 0..64 {
            assert_eq!(expect(receiver).bytes, numbered(number));
        }
    }
    let books = switch.books("mallory");
    assert_eq!((books.received, books.forwarded), (64, 64));
    let kicks = &switch.port("mallory")["counters"]["events"]["kicks"];
    assert!(kicks.as_u64().unwrap() <= 2, "{kicks}");
}

/// F-6: frames that cost the most of a policy: ten thousand rules, of which the last one matches, and each frame another flow, so
/// that nothing is found in a cache.
#[test]
fn f_6_ten_thousand_rules_cost_the_port_that_makes_them_work() {
    let rules: String = (0..10_000u32)
        .map(|n| {
            let (net, port) = (n / 250, 1000 + n % 250);
            format!("  {{ deny = \"tcp\", to = \"172.16.{net}.0/24\", port = {port} }},\n")
        })
        .collect();
    let acl = format!(
        "acl = \"long\"\n[acl.long]\noutbound = [\n{rules}  {{ allow = \"udp\", stateless = true }},\n]\n"
    );
    let ports = [
        ("a", ""),
        ("b", ""),
        ("sink", ""),
        ("mallory", acl.as_str()),
    ];
    let mut switch = Switch::start(&ports);
    let mut victims = Victims::plug(&switch, "a", "b");
    let mut sink = switch.guest("sink", mac(77));
    sink.send(&frame(BROADCAST, mac(77), b"here")).unwrap();
    hear(&mut victims.a, mac(77));
    hear(&mut victims.b, mac(77));
    let mut mallory = switch.guest("mallory", mac(66));
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _ends = Ends(&over);
        scope.spawn(|| {
            let mut port = 0u16;
            while !over.load(Ordering::Relaxed) {
                for _ in 0..32 {
                    port = port % 65_000 + 1;
                    let bytes = udp(77, 66, port, [0, 0]);
                    let header = VnetHeader::default();
                    if mallory
                        .queue_frame(0, header, &bytes, &Shape::Together)
                        .is_err()
                    {
                        break;
                    }
                }
                mallory.flush(0).unwrap();
            }
        });
        switch.await_received("mallory", 1000);
        victims.talk(300);
    });
    assert!(switch.is_alive());
    for port in ["a", "b"] {
        let books = switch.books(port);
        assert_eq!((books.dropped, books.undelivered), (0, 0), "{port}");
    }
    // The last rule lets them pass, whether there is room for them or not.
    let offered = switch.books("sink").offered;
    assert!(offered >= 990, "{offered}");
    assert_eq!(switch.dropped("mallory", "denied-outbound"), 0);
}

/// F-7, P-27: kicks without end, with no work behind them. Others talk on, and when it is over the worker sleeps again.
#[test]
fn f_7_a_storm_of_kicks_costs_no_frame_and_leaves_no_worker_awake() {
    attacked(|switch, victims| {
        let mallory = switch.guest("mallory", mac(66));
        let mut mallory = mallory;
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _ends = Ends(&over);
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    mallory.tx(0).kick_always().unwrap();
                    mallory.rx(0).kick_always().unwrap();
                }
            });
            let kicks = || {
                switch.port("mallory")["counters"]["events"]["kicks"]
                    .as_u64()
                    .unwrap()
            };
            let before = kicks();
            until("the storm", || (kicks() > before + 10).then_some(()));
            victims.talk(300);
        });
        drop(mallory);
        switch.await_state("mallory", "waiting");
        // Every round of this wakes the worker, and it goes back to sleep.
        for _ in 0..3 {
            let sleeps = || switch.status()["workers"][0]["sleeps"].as_u64().unwrap();
            let before = sleeps();
            victims.talk(1);
            until("the worker asleep", || (sleeps() > before).then_some(()));
        }
    });
}

/// P-27: a kick for every frame, each alone in the ring when it can be. Every one of them is taken and counted, and others lose
/// nothing.
#[test]
fn p_27_a_storm_of_kicks_with_a_frame_each() {
    const FRAMES: u64 = 20_000;
    attacked(|switch, victims| {
        let mut mallory = switch.guest("mallory", mac(66));
        let witness = victims.meet(switch, &mut mallory);
        let kicks = || {
            let events = &switch.port("mallory")["counters"]["events"];
            events["kicks"].as_u64().unwrap()
        };
        let before = kicks();
        std::thread::scope(|scope| {
            let storm = scope.spawn(|| {
                for number in 0..FRAMES {
                    let bytes = frame(mac(77), mac(66), &number.to_be_bytes());
                    until("a place in mallory's ring", || {
                        let sent = mallory.send(&bytes);
                        mallory.tx(0).kick_always().unwrap();
                        sent.ok()
                    });
                }
            });
            while !storm.is_finished() {
                victims.talk(10);
            }
        });
        assert!(mallory.drain(PATIENCE).unwrap());
        let books = switch.books("mallory");
        assert_eq!(books.received, FRAMES);
        let sink = switch.books("witness");
        assert_eq!((books.forwarded, sink.offered), (sink.delivered, FRAMES));
        // The worker hears of one now and then, and of none while it polls.
        let heard = kicks() - before;
        assert!(heard > 0);
        drop((mallory, witness));
        switch.await_state("mallory", "waiting");
        switch.await_state("witness", "waiting");
        let sleeps = || switch.status()["workers"][0]["sleeps"].as_u64().unwrap();
        let before = sleeps();
        victims.talk(1);
        until("the worker asleep", || (sleeps() > before).then_some(()));
    });
}

/// F-9: a front-end that asks and asks. Its port's frames and everybody else's go on, and the control socket answers.
#[test]
fn f_9_a_flood_of_messages_delays_nobody_else() {
    attacked(|switch, victims| {
        let mallory = switch.guest("mallory", mac(66));
        let over = AtomicBool::new(false);
        let asked = std::thread::scope(|scope| {
            let _ends = Ends(&over);
            let flood = scope.spawn(|| {
                let front_end = mallory.front_end().unwrap();
                let mut asked = 0u64;
                while !over.load(Ordering::Relaxed) || asked < 10_000 {
                    front_end.sync().unwrap();
                    asked += 1;
                }
                asked
            });
            for _ in 0..20 {
                victims.talk(10);
                assert_eq!(switch.port("mallory")["state"], "running");
            }
            over.store(true, Ordering::Relaxed);
            flood.join().unwrap()
        });
        assert!(asked >= 10_000, "{asked}");
        drop(mallory);
        switch.await_state("mallory", "waiting");
    });
}

/// a driver that resets its device over and over, with frames in between.
#[test]
fn q_22_a_storm_of_resets_costs_its_own_port_alone() {
    attacked(|switch, victims| {
        let mut mallory = switch.guest("mallory", mac(66));
        let mut witness = switch.guest("witness", mac(77));
        let features = mallory.features();
        for round in 0..300u32 {
            let numbered = frame(mac(0xa), mac(66), &round.to_be_bytes());
            mallory.send(&numbered).unwrap();
            assert_eq!(hear(&mut victims.a, mac(66)).bytes, numbered);
            // Some are on their way when the rings are taken away.
            for _ in 0..round % 8 {
                let lost = frame(mac(66), mac(77), b"lost");
                witness.send(&lost).unwrap();
            }
            mallory.reboot(features).unwrap();
            victims.talk(1);
        }
        assert!(mallory.drain(PATIENCE).unwrap());
        drop((mallory, witness));
        switch.await_state("mallory", "waiting");
        switch.await_state("witness", "waiting");
    });
}
