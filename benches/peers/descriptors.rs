//! The limit of the load: a back-end that moves descriptors and no byte of a frame.
//!
//! Two ports. What the one sends comes back to it at once, and as many receive chains of the same lengths are given to the
//! other. No switch can be faster than this, so where a switch comes near it the load is what was measured. The frames that arrive hold
//! what the buffers held before: only a load that does not look at them may be used.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;

use portcullis::memory::{Call, Limits};
use portcullis::ring::{Budget, ChainBurst, Negotiated, RxRing, Slots, TxRing};
use portcullis::session::{Device, Discarded, RingSetup, Session, StartError};
use rustix::thread::{CpuSet, sched_setaffinity};

use super::Failure;

/// Rounds between two looks at the sockets.
const ROUNDS: u32 = 4096;

/// One port's rings, as its session sets them up.
#[derive(Default)]
struct Rings {
    tx: Option<(TxRing, Option<Arc<Call>>)>,
    rx: Option<(RxRing, Option<Arc<Call>>)>,
}

impl Device for Rings {
    fn queue_pairs(&self) -> u16 {
        1
    }

    fn mtu(&self) -> Option<u16> {
        None
    }

    fn start_ring(&mut self, index: usize, setup: RingSetup) -> Result<(), StartError> {
        let negotiated = Negotiated::from_features(setup.features);
        if index == 0 {
            let ring = RxRing::start(setup.memory, setup.layout, negotiated)?;
            self.rx = Some((ring, setup.call));
        } else {
            let mut ring = TxRing::start(setup.memory, setup.layout, negotiated)?;
            ring.disable_kicks();
            self.tx = Some((ring, setup.call));
        }
        Ok(())
    }

    fn stop_ring(&mut self, index: usize) -> u16 {
        if index == 0 {
            self.rx.take().map_or(0, |(ring, _)| ring.next())
        } else {
            self.tx.take().map_or(0, |(ring, _)| ring.next())
        }
    }

    fn enable_ring(&mut self, _: usize, _: bool) {}

    fn set_call(&mut self, index: usize, call: Option<Arc<Call>>) {
        if index == 0 {
            self.rx.iter_mut().for_each(|rx| rx.1.clone_from(&call));
        } else {
            self.tx.iter_mut().for_each(|tx| tx.1.clone_from(&call));
        }
    }

    fn set_err(&mut self, _: usize, _: Option<Arc<Call>>) {}

    fn announce(&mut self, _: [u8; 6]) {}

    fn mtu_changed(&mut self, _: u16) {}

    fn reset(&mut self) {}

    fn discard(&mut self, _: Discarded) {}

    fn is_clear(&self) -> bool {
        true
    }
}

fn tell(call: Option<&Arc<Call>>) {
    // A load that does not want to be told has no call, or has suppressed it.
    if let Some(call) = call {
        let _ = call.ring();
    }
}

/// Serves two ports, on processor 1 if `pinned`, until it is killed.
pub(super) fn serve(paths: &[PathBuf], pinned: bool) -> Result<(), Failure> {
    let listeners = paths
        .iter()
        .map(UnixListener::bind)
        .collect::<Result<Vec<_>, _>>()?;
    if pinned {
        let mut one = CpuSet::new();
        one.set(1);
        sched_setaffinity(None, &one)?;
    }
    let mut sessions = Vec::new();
    for listener in listeners {
        let (stream, _) = listener.accept()?;
        let session = Session::new(OwnedFd::from(stream), 1, Limits::default());
        sessions.push((session, Rings::default()));
    }
    let (mut burst, mut slots) = (ChainBurst::new(), Slots::new());
    loop {
        for (session, rings) in &mut sessions {
            // The end of the load is the end of this.
            session.writable(0)?;
            session.readable(rings, 0)?;
        }
        let [(_, one), (_, other)] = sessions.as_mut_slice() else {
            return Err("two ports are needed".into());
        };
        for _ in 0..ROUNDS {
            pass(one, other, &mut burst, &mut slots)?;
            pass(other, one, &mut burst, &mut slots)?;
        }
    }
}

/// One burst from one port to the other.
fn pass(
    from: &mut Rings,
    to: &mut Rings,
    burst: &mut ChainBurst,
    slots: &mut Slots,
) -> Result<(), Failure> {
    let Some((tx, tx_call)) = &mut from.tx else {
        return Ok(());
    };
    let mut budget = Budget {
        frames: 64,
        bytes: u32::MAX,
        descriptors: 4096,
    };
    if tx.collect(burst, &mut budget)? == 0 {
        return Ok(());
    }
    if let Some((rx, rx_call)) = &mut to.rx {
        slots.clear();
        rx.begin()?;
        for chain in burst.chains() {
            // A full receiver loses the frame.
            if rx.reserve(chain.len, slots).is_err() {
                break;
            }
        }
        tx.complete(burst);
        if rx.publish() {
            tell(rx_call.as_ref());
        }
    } else {
        tx.complete(burst);
    }
    if tx.should_notify() {
        tell(tx_call.as_ref());
    }
    Ok(())
}
