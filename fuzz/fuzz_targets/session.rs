//! A front-end that says anything, to a session with a device that keeps book: rings start and stop in
//! turn, nothing stays mapped, no descriptor stays open.
#![no_main]

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use portcullis::memory::{Call, Limits, mapped_bytes};
use portcullis::ring::{Budget, ChainBurst, Negotiated, RxRing, Slots, TxRing};
use portcullis::session::{Device, Discarded, RingSetup, Session, StartError};
use portcullis_fuzz::front_end::{Act, Fds, FrontEnd, Place};

const PAIRS: u16 = 2;

#[derive(Arbitrary, Debug)]
struct Input {
    asks: bool,
    /// Begins with features and memory, so that rings can run.
    ready: bool,
    acts: Vec<Act>,
}

enum Ring {
    Tx(TxRing),
    Rx(RxRing),
}

/// A device that moves what the rings offer.
struct Mock {
    rings: [Option<Ring>; 2 * PAIRS as usize],
    burst: ChainBurst,
    slots: Slots,
}

impl Mock {
    /// Uses every ring that it has: its memory must be there.
    fn work(&mut self) {
        for ring in self.rings.iter_mut().flatten() {
            match ring {
                Ring::Tx(ring) => {
                    let mut budget = Budget {
                        frames: 8,
                        bytes: 9000,
                        descriptors: 64,
                    };
                    if ring.collect(&mut self.burst, &mut budget).is_ok() {
                        ring.complete(&self.burst);
                        ring.should_notify();
                        ring.enable_kicks();
                    }
                }
                Ring::Rx(ring) => {
                    self.slots.clear();
                    if ring.begin().is_ok() {
                        let memory = ring.memory().clone();
                        if let Ok(reserved) = ring.reserve(72, &mut self.slots) {
                            for extent in self.slots.extents(&reserved) {
                                memory.write(*extent, &[0x5a; 72]);
                            }
                        }
                        ring.publish();
                    }
                }
            }
        }
    }

    fn running(&self) -> bool {
        self.rings.iter().any(Option::is_some)
    }
}

impl Device for Mock {
    fn queue_pairs(&self) -> u16 {
        PAIRS
    }

    fn mtu(&self) -> Option<u16> {
        Some(9000)
    }

    fn start_ring(&mut self, index: usize, setup: RingSetup) -> Result<(), StartError> {
        assert!(self.rings[index].is_none(), "ring {index} runs already");
        let negotiated = Negotiated::from_features(setup.features);
        let (memory, layout) = (setup.memory, setup.layout);
        self.rings[index] = Some(if index % 2 == 0 {
            Ring::Rx(RxRing::start(memory, layout, negotiated)?)
        } else {
            Ring::Tx(TxRing::start(memory, layout, negotiated)?)
        });
        Ok(())
    }

    fn stop_ring(&mut self, index: usize) -> u16 {
        match self.rings[index]
            .take()
            .expect("a ring that does not run is stopped")
        {
            Ring::Tx(ring) => ring.next(),
            Ring::Rx(ring) => ring.next(),
        }
    }

    fn enable_ring(&mut self, index: usize, _: bool) {
        assert!(
            self.rings[index].is_some(),
            "a ring that does not run is switched"
        );
    }

    fn set_call(&mut self, index: usize, _: Option<Arc<Call>>) {
        assert!(
            self.rings[index].is_some(),
            "a ring that does not run is given a call"
        );
    }

    fn set_err(&mut self, index: usize, _: Option<Arc<Call>>) {
        assert!(
            self.rings[index].is_some(),
            "a ring that does not run is given an error descriptor"
        );
    }

    fn announce(&mut self, _: [u8; 6]) {}

    fn mtu_changed(&mut self, _: u16) {}

    fn reset(&mut self) {}

    fn discard(&mut self, _: Discarded) {}

    fn is_clear(&self) -> bool {
        true
    }
}

fn open_fds() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("procfs").count()
}

fuzz_target!(|input: Input| {
    let before = open_fds();
    run(&input);
    assert_eq!(open_fds(), before, "descriptors stay open");
    assert_eq!(mapped_bytes(), 0, "memory stays mapped");
});

fn run(input: &Input) {
    let (ours, theirs) = UnixStream::pair().expect("sockets");
    let mut front_end = FrontEnd::new(theirs, input.asks);
    let mut session = Session::new(OwnedFd::from(ours), PAIRS, Limits::default());
    let mut device = Mock {
        rings: Default::default(),
        burst: ChainBurst::new(),
        slots: Slots::new(),
    };
    let ready = [
        Act::Features(1 << 30 | 1 << 32),
        // MQ, RARP, REPLY_ACK, NET_MTU, RESET_DEVICE, CONFIGURE_MEM_SLOTS, STATUS.
        Act::ProtocolFeatures(1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 13 | 1 << 15 | 1 << 16),
        Act::MemTable {
            regions: vec![Place::Whole],
            fds: Fds::Right,
        },
    ];
    let ready = ready.iter().filter(|_| input.ready);
    let mut seconds = 0;
    for act in ready.chain(input.acts.iter().take(64)) {
        seconds += front_end.act(act);
        let now = seconds * 1_000;
        let alive = session
            .readable(&mut device, now)
            .and_then(|()| session.writable(now))
            .and_then(|()| session.expired(now));
        device.work();
        front_end.drain();
        assert_eq!(session.is_running(), device.running());
        if alive.is_err() {
            break;
        }
    }
    session.close(&mut device);
    assert!(!device.running() && !session.is_running());
}
