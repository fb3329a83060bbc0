//! A whole guest: one network card with its front-end, its memory and its rings.
//!
//! [`Guest::builder`] says what kind of guest it is; [`Builder::connect`] or [`Builder::listen`] brings it
//! up. From then on [`Guest::send`] and [`Guest::recv`] move frames. Every received frame is checked
//! against the rules of the device (VIRTIO 1.2, 5.1.6.4): exact lengths, `num_buffers`, merged buffers
//! filled to the end, and not a byte written beyond the length that was reported.

mod builder;
mod receive;
mod transmit;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

pub use builder::Builder;
pub use receive::Received;
pub use transmit::Shape;
pub(crate) use transmit::announcement;

use self::{receive::RxQueue, transmit::TxQueue};
use super::{
    Error, FrontEnd, Listening, Memory, Queue, Result, RingSetup, Script, VnetHeader, feature,
};

/// How the guest reaches its back-end.
#[derive(Debug)]
enum Door {
    Connect(PathBuf),
    Listen(Listening),
}

/// A network card of a guest in software. See the module.
#[derive(Debug)]
pub struct Guest {
    door: Door,
    front_end: Option<FrontEnd>,
    memory: Arc<Memory>,
    rx: Vec<RxQueue>,
    tx: Vec<TxQueue>,
    plan: Builder,
    features: u64,
    next_rx: usize,
}

impl Guest {
    /// A modern guest with one queue pair of 256 descriptors, without offloads.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Its MAC address.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        self.plan.mac
    }

    /// The features in force.
    #[must_use]
    pub fn features(&self) -> u64 {
        self.features
    }

    /// Length of the network header: 10 or 12.
    #[must_use]
    pub fn header_len(&self) -> usize {
        VnetHeader::len_for(self.features)
    }

    /// Its memory, for hostile threads and for looking into it.
    #[must_use]
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// The connection, while there is one.
    #[must_use]
    pub fn front_end(&self) -> Option<&FrontEnd> {
        self.front_end.as_ref()
    }

    /// Queue pairs.
    #[must_use]
    pub fn queues(&self) -> usize {
        self.rx.len()
    }

    /// The RX ring of pair `pair`.
    #[must_use]
    pub fn rx(&mut self, pair: usize) -> &mut Queue {
        &mut self.rx[pair].queue
    }

    /// The TX ring of pair `pair`.
    #[must_use]
    pub fn tx(&mut self, pair: usize) -> &mut Queue {
        &mut self.tx[pair].queue
    }

    /// All rings as they are announced, in the order of their numbers; `base` chooses the base of each.
    fn setups(&self, base: impl Fn(&Queue) -> u16) -> Vec<RingSetup<'_>> {
        self.rx
            .iter()
            .map(|rx| &rx.queue)
            .zip(self.tx.iter().map(|tx| &tx.queue))
            .enumerate()
            .flat_map(|(pair, (rx, tx))| [(2 * pair, rx), (2 * pair + 1, tx)])
            .map(|(index, queue)| queue.setup(index as u8, base(queue)))
            .collect()
    }

    /// Negotiates on a fresh connection; what is in force must not change under a running driver.
    fn greet(&mut self) -> Result<FrontEnd> {
        let mut front_end = match &self.door {
            Door::Connect(path) => FrontEnd::connect(path, self.plan.timeout)?,
            Door::Listen(listening) => listening.accept(self.plan.timeout)?,
        };
        front_end.negotiate(self.plan.script, self.plan.features, self.plan.protocol)?;
        Ok(front_end)
    }

    /// Closes the connection without a word, as a VMM that is killed; rings and memory stay.
    pub fn disconnect(&mut self) {
        self.front_end = None;
    }

    /// Connects again with the same memory and goes on where the rings stand, as a VMM whose back-end was
    /// started again: the base is the used index, or the avail index as cloud-hypervisor has it.
    ///
    /// # Errors
    ///
    /// When the back-end does not come, or offers less than the driver has in force.
    pub fn reconnect(&mut self) -> Result<()> {
        self.front_end = None;
        let front_end = self.greet()?;
        if front_end.features() != self.features {
            return Err(Error::Protocol(format!(
                "after the reconnect features {:#x} are possible, but the driver runs with {:#x}",
                front_end.features(),
                self.features
            )));
        }
        for rx in &mut self.rx {
            rx.inherit();
        }
        let setups = self.setups(|q| q.ring().used_idx().unwrap_or_else(|_| q.used()));
        front_end.start(self.plan.script, &self.memory, &setups)?;
        // Rings are enabled last, and without an answer.
        front_end.sync()?;
        self.front_end = Some(front_end);
        Ok(())
    }

    /// Stops every ring with GET_VRING_BASE and returns the bases in the order of the rings' numbers.
    ///
    /// # Errors
    ///
    /// When there is no connection or the back-end does not answer.
    pub fn stop(&self) -> Result<Vec<u32>> {
        let front_end = self.connected()?;
        (0..2 * self.queues())
            .map(|ring| front_end.get_vring_base(ring as u8))
            .collect()
    }

    /// Starts the rings again after [`Guest::stop`], each from its `bases`.
    ///
    /// # Errors
    ///
    /// When there is no connection or the back-end refuses.
    pub fn resume(&self, bases: &[u32]) -> Result<()> {
        let mut setups = self.setups(Queue::used);
        for (setup, base) in setups.iter_mut().zip(bases) {
            setup.base = *base as u16;
        }
        self.connected()?
            .start(self.plan.script, &self.memory, &setups)
    }

    /// A reboot of the guest: the rings are stopped, cleared and started again from zero, on the same
    /// connection, with `features` of those that the back-end offered.
    ///
    /// # Errors
    ///
    /// When there is no connection or the back-end refuses.
    pub fn reboot(&mut self, features: u64) -> Result<()> {
        self.stop()?;
        let mut front_end = self.front_end.take().ok_or(NOT_CONNECTED)?;
        front_end.choose(features);
        self.features = front_end.features();
        self.reset_rings()?;
        self.run(front_end)
    }

    /// Starts the rings for the first time since they were cleared. DPDK's driver has posted its receive
    /// buffers by then; Linux posts them once the device runs, which is why cloud-hypervisor gets away
    /// with the avail index as the base.
    fn run(&mut self, front_end: FrontEnd) -> Result<()> {
        let posted_first = self.plan.script == Script::Modern;
        if posted_first {
            self.post()?;
        }
        let setups = self.setups(Queue::used);
        front_end.start(self.plan.script, &self.memory, &setups)?;
        // Rings are enabled last, and without an answer.
        front_end.sync()?;
        self.front_end = Some(front_end);
        if !posted_first {
            self.post()?;
        }
        for rx in &mut self.rx {
            rx.queue.kick()?;
        }
        Ok(())
    }

    /// Posts every receive buffer that is idle.
    fn post(&mut self) -> Result<()> {
        for rx in &mut self.rx {
            rx.fill(&self.memory)?;
        }
        Ok(())
    }

    fn reset_rings(&mut self) -> Result<()> {
        for rx in &mut self.rx {
            rx.reset(self.features, self.plan.base)?;
        }
        for tx in &mut self.tx {
            tx.reset(self.features, self.plan.base)?;
        }
        Ok(())
    }

    fn connected(&self) -> Result<&FrontEnd> {
        self.front_end.as_ref().ok_or(NOT_CONNECTED)
    }

    /// Brings the card up for the first time.
    fn start(plan: Builder, door: Door) -> Result<Self> {
        let mut guest = Self {
            door,
            front_end: None,
            memory: Memory::new(&plan.backing, &[])?,
            rx: Vec::new(),
            tx: Vec::new(),
            plan,
            features: 0,
            next_rx: 0,
        };
        let front_end = guest.greet()?;
        guest.features = front_end.features();
        guest.lay_out()?;
        guest.run(front_end)?;
        Ok(guest)
    }
}

const NOT_CONNECTED: Error = Error::Closed {
    what: "use of a guest without a connection",
};
