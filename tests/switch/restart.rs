//! The switch is killed while frames are on their way, at any moment: what was lost is lost, and nothing comes twice. And what
//! a ring holds when its front-end comes back is not lost.

use std::sync::atomic::{AtomicBool, Ordering};

use portcullis::guest::{FrontEnd, Guest, Script, Shape, VnetHeader, protocol};

use crate::rig::{BROADCAST, PATIENCE, Switch, Victims, all, expect, frame, mac, until};

/// A receiver of a numbered stream.
struct Receiver {
    guest: Guest,
    last: u64,
    got: u64,
}

impl Receiver {
    /// Takes what has arrived: numbers that only grow, each in a frame as it was sent.
    fn take(&mut self) {
        for got in all(&mut self.guest) {
            let number = u64::from_be_bytes(got.bytes[14..22].try_into().unwrap());
            assert!(
                number > self.last,
                "{number} after {}: twice, or out of order",
                self.last
            );
            assert_eq!(got.bytes, numbered(number), "changed");
            self.last = number;
            self.got += 1;
        }
    }
}

/// Every third to everybody, so that a burst has several receivers.
fn numbered(number: u64) -> Vec<u8> {
    let to = if number.is_multiple_of(3) {
        BROADCAST
    } else {
        mac(2)
    };
    let len = 8 + (number % 1400) as usize;
    let mut payload = vec![number as u8; len];
    payload[..8].copy_from_slice(&number.to_be_bytes());
    frame(to, mac(1), &payload)
}

/// O-1, and what the issue of restarts asks: killed at a random moment twenty times, a thousand times under
/// `./test --long`, started again, and the guests go on where their rings stand.
#[test]
fn o_1_killed_under_load_nothing_comes_twice() {
    let rounds = if crate::rig::long() { 1_000 } else { 20 };
    let ports = [1, 2, 3].map(|n| format!("mac = \"{}\"", format_args!("52:54:00:00:00:0{n}")));
    let [a, b, c] = &ports;
    let mut switch = Switch::start(&[("a", a), ("b", b), ("c", c)]);
    let mut sender = switch.guest("a", mac(1));
    let [mut b, mut c] = [("b", 2), ("c", 3)].map(|(name, n)| Receiver {
        guest: switch.guest(name, mac(n)),
        last: 0,
        got: 0,
    });
    let mut sent = 0u64;
    let mut send = |sender: &mut Guest, most: usize| {
        for _ in 0..most {
            let bytes = numbered(sent + 1);
            match sender.queue_frame(0, VnetHeader::default(), &bytes, &Shape::Together) {
                Ok(()) => sent += 1,
                Err(error) => {
                    assert!(error.is_full(), "{error}");
                    break;
                }
            }
        }
        sender.flush(0).unwrap();
        sent
    };
    for round in 0..rounds {
        // Alive, first: something new arrives.
        let (from_b, from_c) = (b.last, c.last);
        until("frames in a new round", || {
            send(&mut sender, usize::MAX);
            b.take();
            c.take();
            (b.last > from_b && c.last > from_c).then_some(())
        });
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // Now sooner, now later.
                for _ in 0..(round * 7919) % 5000 {
                    std::hint::spin_loop();
                }
                switch.kill();
                over.store(true, Ordering::Relaxed);
            });
            while !over.load(Ordering::Relaxed) {
                send(&mut sender, usize::MAX);
                b.take();
                c.take();
            }
        });
        b.take();
        c.take();
        switch.run();
        sender.reconnect().unwrap();
        b.guest.reconnect().unwrap();
        c.guest.reconnect().unwrap();
        for port in ["a", "b", "c"] {
            switch.await_state(port, "running");
        }
    }
    // All that is sent from now on arrives, since there is room for it: of what came before, b has taken all but what the
    // switch has yet to publish, a burst of 64 at most, and its ring holds 256.
    assert!(sender.drain(PATIENCE).unwrap());
    b.take();
    let before = b.got;
    let last = send(&mut sender, 128);
    until("the last frame", || {
        b.take();
        (b.last == last).then_some(())
    });
    assert!(b.got - before >= 128, "{} of 128", b.got - before);
    assert!(b.got > rounds && c.got > rounds, "{} {}", b.got, c.got);
}

/// cloud-hypervisor and virtio-user start all rings before they enable the first. What the guest has sent meanwhile waits for
/// that in its ring, kicked or not; what it sends through a ring that its front-end has disabled is discarded (vhost-user: "Ring
/// states").
#[test]
fn what_a_ring_holds_at_a_reconnect_arrives_however_late_it_is_enabled() {
    let named = ["1", "2"].map(|n| format!("mac = \"52:54:00:00:00:0{n}\""));
    let ports = [("late", named[0].as_str()), ("sink", &named[1])];
    let switch = Switch::start(&[&ports[..], &[("a", ""), ("b", "")]].concat());
    let mut victims = Victims::plug(&switch, "a", "b");
    let (mut late, mut sink) = (switch.guest("late", mac(1)), switch.guest("sink", mac(2)));
    late.disconnect();
    switch.await_state("late", "waiting");
    let numbered = |number: u8| frame(mac(2), mac(1), &[number]);
    for number in 0..20 {
        late.send(&numbered(number)).unwrap();
    }

    let mut front_end = FrontEnd::connect(&switch.socket("late"), PATIENCE).unwrap();
    front_end
        .negotiate(Script::Modern, late.features(), protocol::REPLY_ACK)
        .unwrap();
    let memory = late.memory().clone();
    front_end.set_features(late.features()).unwrap();
    front_end.share(&memory).unwrap();
    let base = late.tx(0).ring().used_idx().unwrap();
    let ring = late.tx(0).setup(1, base);
    front_end.set_vring_num(1, ring.layout.size.into()).unwrap();
    front_end.set_vring_base(1, base.into()).unwrap();
    front_end.set_vring_addr(&memory, &ring).unwrap();
    front_end.set_vring_call(1, ring.call).unwrap();
    front_end.set_vring_kick(1, Some(ring.kick)).unwrap();
    front_end.sync().unwrap();
    switch.await_state("late", "running");
    let kicks = || {
        let events = &switch.port("late")["counters"]["events"];
        events["kicks"].as_u64().unwrap()
    };
    let before = kicks();
    late.tx(0).kick_always().unwrap();
    until("the kick", || (kicks() > before).then_some(()));
    // So the worker has had its turn with everybody since.
    victims.talk(10);
    assert_eq!(late.tx(0).ring().used_idx().unwrap(), base);
    assert_eq!(switch.books("late").received, 0);

    front_end.set_vring_enable(1, true).unwrap();
    for number in 0..20 {
        assert_eq!(expect(&mut sink).bytes, numbered(number));
    }
    let books = switch.books("late");
    assert_eq!((books.forwarded, books.dropped), (20, 0));

    front_end.set_vring_enable(1, false).unwrap();
    front_end.sync().unwrap();
    for number in 20..30 {
        late.send(&numbered(number)).unwrap();
    }
    assert!(late.drain(PATIENCE).unwrap(), "they are taken");
    front_end.set_vring_enable(1, true).unwrap();
    front_end.sync().unwrap();
    late.send(&numbered(30)).unwrap();
    assert_eq!(expect(&mut sink).bytes, numbered(30));
    assert_eq!(switch.dropped("late", "ring-disabled"), 10);
}
