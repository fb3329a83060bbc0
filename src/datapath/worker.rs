//! One worker: rounds over the rings that have work, sleep when none has.
//!
//! # Theory of operation
//!
//! A worker owns the transmit rings of its ports. A ring is either *polled*, then it is visited every round, or
//! *armed*, then its guest has been asked to kick. A started or kicked ring is polled; one that was silent for as long
//! as a wake-up costs is armed, looked at once more, and left. So a round costs what the active rings cost, however many
//! silent neighbours there are, and a worker none of whose rings is polled sleeps in `epoll_wait`.
//!
//! ```text
//!            kick, start                       silent for `spin`
//!   armed ---------------> polled --- visit --------------------> arm, fence, look again
//!     ^                      ^                                          |
//!     |                      +------- work arrived meanwhile -----------+
//!     +------------------------------ none -----------------------------+
//! ```
//!
//! While it runs, a worker looks at its door every [`LOOK`] for kicks of armed rings and for notes. Each visit has a budget
//! (see [`super::budget`]). A step that panics is caught (see [`super::step`]): its port is faulted, everything else goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use arc_swap::cache::Cache;
use rustix::event::epoll;

use super::PollMode;
use super::budget::Credit;
use super::generation::{Generation, Ports};
use super::step::{Memory, Step};
use crate::clock::{Clock, Tick};
use crate::counters::{MAX_PORTS, PortId};
use crate::memory::Metronome;
use crate::port::door::{Door, Knock, Note, RingKey};
use crate::port::lanes::{Fault, MAX_PAIRS};

/// How often a busy worker looks at its door: a system call of some 200 ns, so under 1 % of its time.
const LOOK: Duration = Duration::from_micros(25);
/// Events taken from the door at once.
const EVENTS: usize = 256;

/// What a worker has done, for status. Written by the worker once a round.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Effort {
    /// Cycles spent in visits that found work.
    pub(crate) busy: AtomicU64,
    /// Frames taken from rings.
    pub(crate) frames: AtomicU64,
    /// Visits that found work.
    pub(crate) bursts: AtomicU64,
    /// Times that it went to sleep.
    pub(crate) sleeps: AtomicU64,
}

impl Effort {
    /// Notes a visit that found work. For the worker alone, so that no locked operation is needed.
    fn note(&self, cycles: u64, frames: u32) {
        let add = |to: &AtomicU64, n: u64| {
            to.store(
                to.load(Ordering::Relaxed).wrapping_add(n),
                Ordering::Relaxed,
            );
        };
        add(&self.busy, cycles);
        add(&self.frames, frames.into());
        add(&self.bursts, 1);
    }
}

/// A ring that is visited every round.
#[derive(Debug)]
struct Polled {
    key: RingKey,
    credit: Credit,
    /// Cycle counter when it last had work.
    last_work: u64,
    /// Whether its guest may skip kicks: set at the first visit.
    greeted: bool,
}

/// What a visit found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Visit {
    /// Nothing to do.
    Idle,
    /// That many frames.
    Worked(u32),
    /// The ring is in debt to the others.
    Skipped,
    /// The ring does not run, or is broken: do not come again unasked.
    Gone,
}

/// One worker. Lives on a thread of its own.
pub(crate) struct Worker {
    door: Arc<Door>,
    generation: Cache<Arc<ArcSwap<Generation>>, Arc<Generation>>,
    clock: Clock,
    poll: PollMode,
    spin: u64,
    look: u64,
    effort: Arc<Effort>,
    polled: Vec<Polled>,
    is_polled: Box<[bool]>,
    step: Step,
    /// What the gate keeps for each source port, from its first ring on.
    kept: Box<[Option<Box<Memory>>]>,
    notes: Vec<Note>,
    now: Tick,
    stopping: bool,
}

impl Worker {
    pub(crate) fn new(
        door: Arc<Door>,
        generation: &Arc<ArcSwap<Generation>>,
        clock: Clock,
        poll: PollMode,
        spin: Duration,
        effort: Arc<Effort>,
    ) -> Self {
        // Ports come and go while it runs: there is room for all that there can be.
        let rings = MAX_PORTS * usize::from(MAX_PAIRS);
        let cycles = |span: Duration| cycles_in(&clock, span);
        let (spin, look) = (cycles(spin), cycles(LOOK));
        Self {
            door,
            generation: Cache::new(Arc::clone(generation)),
            poll,
            spin,
            look,
            effort,
            polled: Vec::with_capacity(rings),
            is_polled: vec![false; rings].into_boxed_slice(),
            step: Step::new(),
            kept: (0..MAX_PORTS).map(|_| None).collect(),
            notes: Vec::new(),
            now: clock.now(),
            clock,
            stopping: false,
        }
    }

    /// Runs until [`Note::Stop`].
    pub(crate) fn run(mut self) {
        let metronome = Metronome::new();
        match &metronome {
            Ok(metronome) => metronome.start(),
            Err(error) => {
                tracing::warn!(%error, "no timer for this worker: a front-end whose call descriptor blocks could hold it up");
            }
        }
        let mut events = Vec::with_capacity(EVENTS);
        let mut looked = 0;
        loop {
            let cycles = self.clock.cycles();
            if cycles.wrapping_sub(looked) >= self.look {
                looked = cycles;
                self.look_at_door(&mut events);
            }
            if self.stopping {
                return;
            }
            self.round(cycles);
            if self.polled.is_empty() {
                self.sleep(&mut events, metronome.as_ref().ok());
            }
        }
    }

    /// Takes the kicks and notes that are there.
    fn look_at_door(&mut self, events: &mut Vec<epoll::Event>) {
        let door = Arc::clone(&self.door);
        self.answer(door.wait(events, Some(0)));
    }

    /// Sleeps until there is a kick or a note, and takes it. The metronome rests meanwhile, but no longer: what a note asks for
    /// may ring a call that blocks (P-25).
    fn sleep(&mut self, events: &mut Vec<epoll::Event>, metronome: Option<&Metronome>) {
        self.effort.sleeps.fetch_add(1, Ordering::Relaxed);
        let door = Arc::clone(&self.door);
        if let Some(metronome) = metronome {
            metronome.stop();
        }
        let knocks = door.wait(events, None);
        if let Some(metronome) = metronome {
            metronome.start();
        }
        self.answer(knocks);
    }

    fn answer(&mut self, knocks: impl Iterator<Item = Knock>) {
        self.now = self.clock.now();
        for knock in knocks {
            if let Knock::Kicked(key) = knock {
                if let Some(lanes) = self.generation.load().ports.get(key.port) {
                    lanes.counters().events.kicks.increment();
                }
                self.poll(key);
            }
        }
        let mut notes = std::mem::take(&mut self.notes);
        self.door.collect(&mut notes);
        for note in notes.drain(..) {
            match note {
                Note::Started(key) => self.poll(key),
                Note::Announce(port) => self.announce(port),
                Note::Ring(key) => self.ring(key),
                // One that nobody looks at would be kept by a worker that sleeps.
                Note::Generation => drop(self.generation.load()),
                Note::Stop => self.stopping = true,
            }
        }
        self.notes = notes;
    }

    fn flag(&mut self, key: RingKey) -> Option<&mut bool> {
        self.is_polled
            .get_mut(key.port.index() * usize::from(MAX_PAIRS) + usize::from(key.pair))
    }

    /// From now on, visits this ring every round.
    fn poll(&mut self, key: RingKey) {
        let last_work = self.clock.cycles();
        let Some(flag) = self.flag(key) else { return };
        if !std::mem::replace(flag, true) {
            if let Some(kept) = self.kept.get_mut(key.port.index()) {
                kept.get_or_insert_default();
            }
            self.polled.push(Polled {
                key,
                credit: Credit::default(),
                last_work,
                greeted: false,
            });
        }
    }

    /// One visit to each polled ring.
    fn round(&mut self, mut cycles: u64) {
        let mut index = 0;
        while index < self.polled.len() {
            let visit = self.visit(index);
            let Some(polled) = self.polled.get_mut(index) else {
                return;
            };
            let leave = match visit {
                Visit::Worked(frames) => {
                    let end = self.clock.cycles();
                    self.effort.note(end.wrapping_sub(cycles), frames);
                    polled.last_work = end;
                    cycles = end;
                    false
                }
                Visit::Skipped => false,
                Visit::Gone => true,
                Visit::Idle => match self.poll {
                    PollMode::Always => false,
                    PollMode::Adaptive if cycles.saturating_sub(polled.last_work) < self.spin => {
                        false
                    }
                    PollMode::Adaptive | PollMode::Never => {
                        arm(&self.generation.load().ports, polled)
                    }
                },
            };
            if leave {
                let key = self.polled.swap_remove(index).key;
                if let Some(flag) = self.flag(key) {
                    *flag = false;
                }
            } else {
                index += 1;
            }
        }
        std::hint::spin_loop();
    }

    /// One visit to one ring.
    fn visit(&mut self, index: usize) -> Visit {
        let generation = self.generation.load();
        let Some(polled) = self.polled.get_mut(index) else {
            return Visit::Gone;
        };
        let (ports, gate) = (&generation.ports, &generation.gate);
        let Some(lanes) = ports.get(polled.key.port) else {
            return Visit::Gone;
        };
        let kept = self.kept.get_mut(polled.key.port.index());
        let Some(kept) = kept.and_then(Option::as_mut) else {
            return Visit::Gone;
        };
        kept.renew(generation.number());
        polled.credit.replenish();
        self.step.visit(
            lanes,
            polled.key.pair,
            ports,
            gate,
            self.now,
            &mut polled.credit,
            kept,
            &mut polled.greeted,
        )
    }

    /// Sends the announcement of a guest that has moved here.
    fn announce(&mut self, port: PortId) {
        let generation = self.generation.load();
        let (ports, gate) = (&generation.ports, &generation.gate);
        let Some(lanes) = ports.get(port) else {
            return;
        };
        let kept = self.kept.get_mut(port.index());
        if let Some(mac) = lanes.take_announcement()
            && kept.is_some_and(|kept| kept.get_or_insert_default().may_announce(self.now))
        {
            self.step.announce(lanes, mac, ports, gate, self.now);
        }
    }

    /// Gives one notification, asked for or not.
    fn ring(&mut self, key: RingKey) {
        let Some(lanes) = self.generation.load().ports.get(key.port) else {
            return;
        };
        let tx = lanes.tx(key.pair).and_then(|slot| {
            let lane = slot.as_ref()?;
            Some((lane.epoch, lane.call.clone()?))
        });
        let rx = lanes.rx(key.pair).and_then(|slot| {
            let lane = slot.as_ref()?;
            Some((lane.epoch, lane.call.clone()?))
        });
        for (epoch, call) in [tx, rx].into_iter().flatten() {
            if call.ring().is_err() {
                return lanes.raise(epoch, Fault::CallBlocked);
            }
        }
    }
}

/// Asks the guest to kick, looks once more, and says whether the ring may be left.
fn arm(ports: &Ports, polled: &mut Polled) -> bool {
    let Some(lanes) = ports.get(polled.key.port) else {
        return true;
    };
    let Some(mut slot) = lanes.tx(polled.key.pair) else {
        return true;
    };
    let Some(lane) = slot.as_mut() else {
        return true;
    };
    if lane.polled {
        return false;
    }
    polled.greeted = false;
    !lane.ring.enable_kicks()
}

/// Cycles of the clock's counter in `span`.
fn cycles_in(clock: &Clock, span: Duration) -> u64 {
    // The counter's rate, from how many nanoseconds a fixed number of cycles is.
    const SAMPLE: u64 = 1 << 30;
    let nanos = clock.nanos_between(0, SAMPLE).max(1);
    let span = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
    u64::try_from(u128::from(span) * u128::from(SAMPLE) / u128::from(nanos)).unwrap_or(u64::MAX)
}
