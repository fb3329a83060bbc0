//! rings that are rewritten while they are read, from another CPU.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use portcullis::guest::{Guest, Memory, RawRing, RingLayout, desc_flag, feature};

use crate::hostile::{Ends, attacked_on};
use crate::policy::udp;
use crate::rig::{PATIENCE, expect, frame, long, mac};

/// What mallory may send: to the witness, to one port. All else is refused, and so is what another would have sent.
const POLICY: &str = "mac = \"52:54:00:00:00:42\"
acl = \"one\"
[acl.one]
outbound = [{ allow = \"udp\", to = \"port:witness\", port = 53, stateless = true }]
";
const ALLOWED: u16 = 53;
const DENIED: u16 = 54;

/// Bytes of a header and a frame.
const HEADER: u64 = 12;
const FRAME: u64 = 400;
/// Between two of them.
const STRIDE: u64 = 1024;
/// Entries of an indirect table.
const ENTRIES: u64 = 16;

/// A sequence that looks random (xorshift64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[(self.roll() >> 8) as usize % all.len()]
    }
}

/// Where mallory's frames and indirect tables lie.
#[derive(Clone, Copy)]
struct Places {
    frames: u64,
    tables: u64,
    size: u16,
}

impl Places {
    /// Rewrites one field of the descriptor at `at`: mostly into what makes a frame, or half of one and half of another.
    fn flip(self, memory: &Memory, at: u64, dice: &mut Dice) {
        const NEXT: u16 = desc_flag::NEXT;
        let any = dice.roll();
        let put = |offset: u64, bytes: &[u8]| memory.write(at + offset, bytes).unwrap();
        match any % 4 {
            0 => {
                let frame = self.frames + STRIDE * (any >> 8 & 3);
                let begins = dice.one_of(&[0, 0, 0, HEADER, HEADER + 6, HEADER + 12, HEADER + 34]);
                let addr = match any >> 16 & 31 {
                    0 => 1 << 60,
                    1 => 0x1000,
                    2 | 3 => self.tables,
                    _ => frame + begins,
                };
                put(0, &addr.to_le_bytes());
            }
            1 => {
                let whole = (HEADER + FRAME) as u32;
                let table = 16 * ENTRIES as u32;
                let lens = [whole, whole, whole, 12, 18, 24, 46, 1, 0, table, u32::MAX];
                put(8, &dice.one_of(&lens).to_le_bytes());
            }
            2 => {
                let odd = [
                    desc_flag::INDIRECT,
                    desc_flag::WRITE,
                    NEXT | desc_flag::INDIRECT,
                ];
                let flags = match any >> 16 & 15 {
                    0 => dice.one_of(&odd),
                    1..6 => NEXT,
                    _ => 0,
                };
                put(12, &flags.to_le_bytes());
            }
            _ => {
                let next = (any >> 16) as u16 % (self.size + 4);
                put(14, &next.to_le_bytes());
            }
        }
    }

    /// Rewrites entries of every kind until it is over.
    fn rewrite(
        self,
        memory: &Arc<Memory>,
        layout: RingLayout,
        seed: u64,
        over: &AtomicBool,
    ) -> u64 {
        let ring = RawRing::new(Arc::clone(memory), layout);
        let mut dice = Dice(seed);
        let mut flips = 0;
        while !over.load(Ordering::Relaxed) {
            for _ in 0..64 {
                let which = dice.roll();
                match which % 4 {
                    0 => {
                        let head = (which >> 8) as u16 % (self.size + 1);
                        ring.set_avail_entry((which >> 32) as u16, head).unwrap();
                    }
                    1 => {
                        let entry = (which >> 8) % (4 * ENTRIES);
                        self.flip(memory, self.tables + 16 * entry, &mut dice);
                    }
                    _ => {
                        let entry = (which >> 8) % u64::from(self.size);
                        self.flip(memory, layout.desc + 16 * entry, &mut dice);
                    }
                }
            }
            flips += 64;
        }
        flips
    }
}

/// Whether a frame is one of those that mallory may send: its own, UDP over IPv4, to the one port. (Whom it is addressed to does
/// not matter: what nobody is known for is flooded, to whom the policy allows.)
fn is_allowed(bytes: &[u8]) -> bool {
    let ports = 14 + 4 * usize::from(bytes[14] & 0xf);
    bytes[6..14] == [&mac(66)[..], &[8, 0]].concat()
        && bytes[14] >> 4 == 4
        && bytes[23] == 17
        && bytes[ports + 2..ports + 4] == ALLOWED.to_be_bytes()
}

/// descriptors, indirect entries and heads are rewritten by two threads while the switch walks them, for as long as it
/// takes to see enough of every outcome, and for a minute under `./test --long`. What arrives anywhere is what the policy allows.
#[test]
fn q_13_rings_rewritten_while_they_are_read() {
    let ports = [
        ("a", ""),
        ("b", ""),
        ("mallory", POLICY),
        ("witness", "mac = \"52:54:00:00:00:4d\""),
    ];
    attacked_on(&ports, |switch, victims| {
        let builder = Guest::builder().mac(mac(66)).with(feature::INDIRECT_DESC);
        let mut mallory = switch.plug("mallory", builder);
        let mut witness = switch.guest("witness", mac(77));
        witness.send(&frame(mac(0xa), mac(77), b"here")).unwrap();
        expect(&mut victims.a);
        let memory = mallory.memory().clone();
        let layout = mallory.tx(0).ring().layout();
        let last = memory.regions().last().unwrap();
        let frames = last.gpa + last.size - 0x10_000;
        let places = Places {
            frames,
            tables: frames + 0x4000,
            size: layout.size,
        };
        // Allowed; refused for its port, for its receiver, and for whom it would come from.
        let mut spoofed = udp((77, 1), (77, ALLOWED));
        spoofed[6..12].copy_from_slice(&mac(0xa));
        let all = [
            udp((66, 1), (77, ALLOWED)),
            udp((66, 1), (77, DENIED)),
            udp((66, 1), (0xa, ALLOWED)),
            spoofed,
        ];
        for (n, mut bytes) in (0..).zip(all) {
            bytes.resize(FRAME as usize, n as u8);
            memory
                .write(frames + STRIDE * n, &[0; HEADER as usize])
                .unwrap();
            memory.write(frames + STRIDE * n + HEADER, &bytes).unwrap();
        }
        let mut dice = Dice(7);
        for entry in 0..u64::from(layout.size) {
            for _ in 0..16 {
                places.flip(&memory, layout.desc + 16 * entry, &mut dice);
            }
        }
        let over = AtomicBool::new(false);
        let heard = AtomicU64::new(0);
        let flips = std::thread::scope(|scope| {
            let _ends = Ends(&over);
            let rewriters = [0x9e37_79b9, 0x85eb_ca6b].map(|seed| {
                let (memory, over) = (&memory, &over);
                scope.spawn(move || places.rewrite(memory, layout, seed, over))
            });
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    // All of them, again and again, whatever they are by now.
                    let ring = mallory.tx(0).ring();
                    let used = ring.used_idx().unwrap();
                    ring.set_avail_idx(used.wrapping_add(layout.size)).unwrap();
                    mallory.tx(0).kick_always().unwrap();
                }
            });
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let Some(got) = witness.recv(Duration::from_millis(1)).unwrap() else {
                        continue;
                    };
                    assert!(is_allowed(&got.bytes), "out of policy: {:02x?}", got.bytes);
                    heard.fetch_add(1, Ordering::Relaxed);
                }
            });
            let begun = Instant::now();
            let dropped = |reason| switch.dropped("mallory", reason);
            let is_enough = || {
                heard.load(Ordering::Relaxed) > 2_000
                    && dropped("malformed-chain") > 2_000
                    && dropped("not-allowed") > 200
                    && dropped("source-mac-spoofed") + dropped("mac-of-other-port") > 200
                    && (!long() || begun.elapsed() >= Duration::from_secs(60))
            };
            while !is_enough() {
                victims.stream(320, 32);
                let status = switch.port("mallory");
                assert_eq!(status["state"], "running", "{status}");
                assert!(long() || begun.elapsed() < 2 * PATIENCE, "{status}");
            }
            over.store(true, Ordering::Relaxed);
            rewriters
                .map(|rewriter| rewriter.join().unwrap())
                .iter()
                .sum::<u64>()
        });
        assert!(flips > 10_000, "{flips}");
        for name in ["a", "b", "witness", "mallory"] {
            let events = &switch.port(name)["counters"]["events"];
            assert_eq!(events["faults"], 0, "{name}");
        }
        // The witness said one thing; all else that a and b got they said to each other.
        let (a, b) = (switch.books("a"), switch.books("b"));
        assert_eq!((a.delivered, b.delivered), (b.received + 1, a.received));
        drop((mallory, witness));
        switch.await_state("mallory", "waiting");
        switch.await_state("witness", "waiting");
    });
}
