//! The driver of one split virtqueue, as a good guest runs it (VIRTIO 1.2, 2.7.13 and 2.7.14).
//!
//! Chains are added, published in batches, kicked where the device asks for it, and taken back from the
//! used ring. What the device returns is checked: every head once, in order where IN_ORDER is in force,
//! and never a length beyond what it was allowed to write. A hostile guest goes through
//! [`Queue::ring`] and past all of it.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{Ordering, fence},
    },
    time::{Duration, Instant},
};

use super::{
    Descriptor, Error, Event, Memory, RawRing, Result, RingLayout, RingSetup, desc_flag, feature,
    ring::write_desc,
};

/// One piece of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffer {
    /// Guest-physical address.
    pub gpa: u64,
    /// Length in bytes.
    pub len: u32,
    /// Whether the device writes it.
    pub write: bool,
}

/// A chain that the device has given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// The token with which it was added.
    pub token: u64,
    /// Its head.
    pub head: u16,
    /// Bytes that the device has written. For a chain that the device skipped in an in-order batch: all
    /// that it could have written.
    pub len: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Chain {
    token: u64,
    writable: u32,
    descriptors: u16,
    in_flight: bool,
}

/// The driver's side of one ring.
#[derive(Debug)]
pub struct Queue {
    ring: RawRing,
    kick: Event,
    call: Option<Event>,
    event_idx: bool,
    in_order: bool,
    /// Descriptors that are free: a stack, or with IN_ORDER the run from `next_desc` on.
    free: Vec<u16>,
    free_in_order: u16,
    next_desc: u16,
    /// The chain of each head, and for each descriptor the next one of its chain.
    chains: Vec<Chain>,
    links: Vec<u16>,
    outstanding: VecDeque<u16>,
    avail: u16,
    kicked_at: u16,
    used: u16,
    kicks: u64,
}

impl Queue {
    /// A cleared ring of `layout` in `memory`, whose indices both begin at zero. Of `features`, EVENT_IDX
    /// and IN_ORDER matter.
    ///
    /// # Errors
    ///
    /// When the layout does not lie in the memory, or out of file descriptors.
    pub fn new(memory: &Arc<Memory>, layout: RingLayout, features: u64) -> Result<Self> {
        Self::with_base(memory, layout, features, 0)
    }

    /// The same, with both indices beginning at `base` (HOSTILE Q-20).
    ///
    /// # Errors
    ///
    /// As [`Queue::new`].
    pub fn with_base(
        memory: &Arc<Memory>,
        layout: RingLayout,
        features: u64,
        base: u16,
    ) -> Result<Self> {
        let ring = RawRing::new(Arc::clone(memory), layout);
        let mut queue = Self {
            ring,
            kick: Event::new()?,
            call: Some(Event::new()?),
            event_idx: false,
            in_order: false,
            free: Vec::new(),
            free_in_order: 0,
            next_desc: 0,
            chains: Vec::new(),
            links: Vec::new(),
            outstanding: VecDeque::new(),
            avail: 0,
            kicked_at: 0,
            used: 0,
            kicks: 0,
        };
        queue.reset(features, base)?;
        Ok(queue)
    }

    /// Forgets every chain and starts again at `base`, as a driver does after a device reset. The events
    /// stay.
    ///
    /// # Errors
    ///
    /// When the layout does not lie in the memory.
    pub fn reset(&mut self, features: u64, base: u16) -> Result<()> {
        let size = self.size();
        self.ring.clear()?;
        self.ring.set_avail_idx(base)?;
        self.ring.set_used_idx(base)?;
        self.event_idx = features & feature::EVENT_IDX != 0;
        self.in_order = features & feature::IN_ORDER != 0;
        if self.event_idx {
            self.ring.set_used_event(base)?;
        }
        self.free = (0..size).rev().collect();
        self.free_in_order = size;
        self.next_desc = 0;
        self.chains = vec![Chain::default(); usize::from(size)];
        self.links = vec![0; usize::from(size)];
        self.outstanding = VecDeque::with_capacity(usize::from(size));
        self.avail = base;
        self.kicked_at = base;
        self.used = base;
        Ok(())
    }

    /// Number of descriptors.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.ring.layout().size
    }

    /// Every field of the ring, for reading and for hostile writing.
    #[must_use]
    pub fn ring(&self) -> &RawRing {
        &self.ring
    }

    /// The kick.
    #[must_use]
    pub fn kick_event(&self) -> &Event {
        &self.kick
    }

    /// The call, unless the ring has no vector.
    #[must_use]
    pub fn call_event(&self) -> Option<&Event> {
        self.call.as_ref()
    }

    /// Takes the vector away: the device will have no call to signal.
    pub fn without_call(&mut self) {
        self.call = None;
    }

    /// How often the device was kicked.
    #[must_use]
    pub fn kicks(&self) -> u64 {
        self.kicks
    }

    /// Index up to which chains were added.
    #[must_use]
    pub fn avail(&self) -> u16 {
        self.avail
    }

    /// Index up to which chains were taken back.
    #[must_use]
    pub fn used(&self) -> u16 {
        self.used
    }

    /// Chains that the device has.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.outstanding.len()
    }

    /// Descriptors that are free.
    #[must_use]
    pub fn free(&self) -> usize {
        if self.in_order {
            usize::from(self.free_in_order)
        } else {
            self.free.len()
        }
    }

    /// What the front-end announces of this ring as number `index`, going on from `base`.
    #[must_use]
    pub fn setup(&self, index: u8, base: u16) -> RingSetup<'_> {
        RingSetup {
            index,
            layout: self.ring.layout(),
            base,
            kick: &self.kick,
            call: self.call.as_ref(),
            enable: true,
        }
    }

    /// Adds a chain of one descriptor for each of `buffers`; it is seen by the device after
    /// [`Queue::publish`]. `token` comes back with it.
    ///
    /// # Errors
    ///
    /// [`Error::Full`]; [`Error::Misuse`] for a chain without buffers.
    pub fn add(&mut self, buffers: &[Buffer], token: u64) -> Result<u16> {
        let head = self.take_free(buffers.len())?;
        let mut at = head;
        for (i, buffer) in buffers.iter().enumerate() {
            let last = i + 1 == buffers.len();
            self.ring
                .set_desc(at, descriptor(*buffer, self.links[usize::from(at)], last))?;
            at = self.links[usize::from(at)];
        }
        self.enter(head, buffers.len(), writable(buffers), token)?;
        Ok(head)
    }

    /// Adds a chain of one descriptor that points to a table at `table`, which is written with one
    /// descriptor for each of `buffers` (VIRTIO 1.2, 2.7.5.3).
    ///
    /// # Errors
    ///
    /// As [`Queue::add`], and [`Error::NoRegion`].
    pub fn add_indirect(&mut self, buffers: &[Buffer], table: u64, token: u64) -> Result<u16> {
        if buffers.is_empty() || buffers.len() > usize::from(u16::MAX) {
            return Err(Error::Misuse(
                "an indirect table of no or too many buffers".into(),
            ));
        }
        for (i, buffer) in buffers.iter().enumerate() {
            let last = i + 1 == buffers.len();
            let i = i as u16;
            write_desc(
                self.ring.memory(),
                table,
                i,
                descriptor(*buffer, i.wrapping_add(1), last),
            )?;
        }
        let head = self.take_free(1)?;
        self.ring.set_desc(
            head,
            Descriptor {
                addr: table,
                len: 16 * buffers.len() as u32,
                flags: desc_flag::INDIRECT,
                next: 0,
            },
        )?;
        self.enter(head, 1, writable(buffers), token)?;
        Ok(head)
    }

    /// Adds a chain exactly as `chain` has it, one descriptor after the other; `next` counts from the
    /// head where NEXT is set, so that a loop or a step outside can be written. For hostile use; what comes
    /// back is taken as of any length.
    ///
    /// # Errors
    ///
    /// As [`Queue::add`].
    pub fn add_raw(&mut self, chain: &[Descriptor], token: u64) -> Result<u16> {
        let head = self.take_free(chain.len())?;
        let mut places = vec![head];
        for i in 1..chain.len() {
            places.push(self.links[usize::from(places[i - 1])]);
        }
        for (desc, at) in chain.iter().zip(&places) {
            let mut desc = *desc;
            if desc.flags & desc_flag::NEXT != 0 {
                desc.next = places
                    .get(usize::from(desc.next))
                    .copied()
                    .unwrap_or(desc.next);
            }
            self.ring.set_desc(*at, desc)?;
        }
        self.enter(head, chain.len(), u32::MAX, token)?;
        Ok(head)
    }

    /// Writes `head` into the next entry of the available ring, whatever it is; nothing is remembered of
    /// it. For hostile use.
    ///
    /// # Errors
    ///
    /// When the ring does not lie in the memory.
    pub fn offer_head(&mut self, head: u16) -> Result<()> {
        self.ring.set_avail_entry(self.avail, head)?;
        self.avail = self.avail.wrapping_add(1);
        Ok(())
    }

    /// Takes `count` free descriptors and links them; returns the first.
    fn take_free(&mut self, count: usize) -> Result<u16> {
        let free = self.free();
        if count == 0 {
            return Err(Error::Misuse("a chain of no descriptors".into()));
        }
        if count > free {
            return Err(Error::Full {
                wanted: count,
                free,
            });
        }
        let size = self.size();
        let mut head = self.next_desc;
        let mut last = None;
        for i in 0..count {
            let this = if self.in_order {
                let this = self.next_desc;
                self.next_desc = (this + 1) % size;
                self.free_in_order -= 1;
                this
            } else {
                self.free.pop().unwrap_or_default()
            };
            match last {
                Some(last) => self.links[usize::from(last)] = this,
                None => head = this,
            }
            last = Some(this);
            debug_assert!(i < usize::from(size));
        }
        Ok(head)
    }

    fn enter(&mut self, head: u16, count: usize, writable: u32, token: u64) -> Result<()> {
        self.chains[usize::from(head)] = Chain {
            token,
            writable,
            descriptors: count as u16,
            in_flight: true,
        };
        self.outstanding.push_back(head);
        self.offer_head(head)
    }

    /// Lets the device see everything that was added: one store of the index, with release order.
    ///
    /// # Errors
    ///
    /// When the ring does not lie in the memory.
    pub fn publish(&mut self) -> Result<()> {
        self.ring.set_avail_idx(self.avail)
    }

    /// Kicks the device if it asks for it (VIRTIO 1.2, 2.7.13.4.1); returns whether it was kicked.
    ///
    /// # Errors
    ///
    /// When the eventfd is saturated.
    pub fn kick(&mut self) -> Result<bool> {
        fence(Ordering::SeqCst);
        let wanted = if self.event_idx {
            needs_event(self.ring.avail_event()?, self.avail, self.kicked_at)
        } else {
            self.avail != self.kicked_at && self.ring.used_flags()? & 1 == 0
        };
        self.kicked_at = self.avail;
        if wanted {
            self.kick_always()?;
        }
        Ok(wanted)
    }

    /// Kicks the device whether it asks for it or not.
    ///
    /// # Errors
    ///
    /// When the eventfd is saturated.
    pub fn kick_always(&mut self) -> Result<()> {
        self.kicks += 1;
        self.kick.signal()
    }

    /// Used entries that wait to be taken.
    ///
    /// # Errors
    ///
    /// [`Error::Device`] when there are more than chains in flight.
    pub fn pending(&self) -> Result<u16> {
        let pending = self.ring.used_idx()?.wrapping_sub(self.used);
        if usize::from(pending) > self.outstanding.len() {
            return Err(Error::Device(format!(
                "the used index stands {pending} after ours, but only {} chains are in flight",
                self.outstanding.len()
            )));
        }
        Ok(pending)
    }

    /// Takes back at most `most` chains and appends them to `into`; returns how many.
    ///
    /// # Errors
    ///
    /// [`Error::Device`] when the used ring breaks a rule. What was taken before stays taken.
    pub fn reap(&mut self, most: usize, into: &mut Vec<Used>) -> Result<usize> {
        let mut left = usize::from(self.pending()?).min(most);
        let mut taken = 0;
        while left > 0 {
            let (id, len) = self.ring.used_entry(self.used)?;
            let head = u16::try_from(id)
                .ok()
                .filter(|h| *h < self.size() && self.chains[usize::from(*h)].in_flight)
                .ok_or_else(|| {
                    Error::Device(format!(
                        "used entry {} names head {id}, which is not in flight",
                        self.used
                    ))
                })?;
            let place = self.place_of(head)?;
            // With IN_ORDER one entry may stand for a batch and names its last chain.
            for _ in 0..place {
                let Some(skipped) = self.outstanding.pop_front() else {
                    break;
                };
                let len = self.chains[usize::from(skipped)].writable;
                self.give_back(skipped, len, into)?;
            }
            self.outstanding.retain(|h| *h != head);
            self.give_back(head, len, into)?;
            let batch = place + 1;
            taken += batch;
            left = left.saturating_sub(batch);
        }
        Ok(taken)
    }

    /// How many outstanding chains come before `head`, if that matters.
    fn place_of(&self, head: u16) -> Result<usize> {
        if !self.in_order {
            return Ok(0);
        }
        let place = self.outstanding.iter().position(|h| *h == head);
        let pending = usize::from(self.pending()?);
        place.filter(|p| *p < pending).ok_or_else(|| {
            Error::Device(format!(
                "head {head} was used out of order: {pending} entries are pending"
            ))
        })
    }

    fn give_back(&mut self, head: u16, len: u32, into: &mut Vec<Used>) -> Result<()> {
        let chain = self.chains[usize::from(head)];
        self.chains[usize::from(head)].in_flight = false;
        self.used = self.used.wrapping_add(1);
        if self.in_order {
            self.free_in_order += chain.descriptors;
        } else {
            let mut at = head;
            for _ in 0..chain.descriptors {
                self.free.push(at);
                at = self.links[usize::from(at)];
            }
        }
        if len > chain.writable {
            return Err(Error::Device(format!(
                "head {head} was used with {len} bytes written, but it has room for {}",
                chain.writable
            )));
        }
        into.push(Used {
            token: chain.token,
            head,
            len,
        });
        Ok(())
    }

    /// Asks the device for calls, or to spare them. When they are asked for: whether used entries were
    /// there already, which will not be called for.
    ///
    /// # Errors
    ///
    /// As [`Queue::pending`].
    pub fn want_calls(&mut self, wanted: bool) -> Result<bool> {
        if self.event_idx {
            // One behind us is as far away as an index can be.
            let event = if wanted {
                self.used
            } else {
                self.used.wrapping_sub(1)
            };
            self.ring.set_used_event(event)?;
        } else {
            self.ring.set_avail_flags(u16::from(!wanted))?;
        }
        fence(Ordering::SeqCst);
        Ok(wanted && self.pending()? > 0)
    }

    /// Waits until a used entry is there, by the call where there is one, else by looking again.
    /// False when `timeout` passed first.
    ///
    /// # Errors
    ///
    /// As [`Queue::pending`].
    pub fn wait(&mut self, timeout: Duration) -> Result<bool> {
        let deadline = Instant::now() + timeout;
        while !self.want_calls(true)? {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            match &self.call {
                Some(call) => drop(call.wait(left)?),
                None => std::thread::yield_now(),
            }
        }
        Ok(true)
    }
}

fn descriptor(buffer: Buffer, next: u16, last: bool) -> Descriptor {
    Descriptor {
        addr: buffer.gpa,
        len: buffer.len,
        flags: if buffer.write { desc_flag::WRITE } else { 0 }
            | if last { 0 } else { desc_flag::NEXT },
        next: if last { 0 } else { next },
    }
}

fn writable(buffers: &[Buffer]) -> u32 {
    buffers
        .iter()
        .filter(|b| b.write)
        .fold(0, |sum, b| sum.saturating_add(b.len))
}

/// Whether the step from `old` to `new` passes `event` (VIRTIO 1.2, 2.7.10, `vring_need_event`).
fn needs_event(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}
