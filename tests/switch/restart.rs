//! The switch is killed while frames are on their way, at any moment: what was lost is lost, and nothing comes twice.

use std::sync::atomic::{AtomicBool, Ordering};

use portcullis::guest::{Guest, Shape, VnetHeader};

use crate::rig::{BROADCAST, Switch, all, frame, mac, until};

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
    let mut send = |sender: &mut Guest| {
        loop {
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
            send(&mut sender);
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
                send(&mut sender);
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
    // All that is sent from now on arrives.
    assert!(sender.drain(crate::rig::PATIENCE).unwrap());
    let last = send(&mut sender);
    until("the last frame", || {
        b.take();
        (b.last >= last - 2).then_some(())
    });
    assert!(b.got > rounds && c.got > rounds, "{} {}", b.got, c.got);
}
