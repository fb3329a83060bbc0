//! What kind of guest it is, and where things lie in its memory.

use super::*;
use crate::guest::{Backing, RegionSpec, RingLayout, protocol};

/// Bytes of a frame of 64 KiB with all its headers.
pub(super) const GIANT: u32 = 65_536 + 64;
/// Room for the indirect table of one slot.
pub(super) const TABLE: u64 = 4096;

/// The description of a [`Guest`].
#[derive(Debug, Clone)]
pub struct Builder {
    pub(super) mac: [u8; 6],
    pub(super) features: u64,
    pub(super) protocol: u64,
    pub(super) script: Script,
    pub(super) queues: usize,
    pub(super) ring_size: u16,
    pub(super) base: u16,
    pub(super) rx_buffer: Option<u32>,
    pub(super) rx_pieces: Vec<u32>,
    pub(super) calls: bool,
    pub(super) legacy_layout: bool,
    pub(super) backing: Backing,
    pub(super) regions: u64,
    pub(super) poison: Vec<u8>,
    pub(super) timeout: Duration,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            mac: [0x52, 0x54, 0, 0, 0, 1],
            features: feature::MODERN & !feature::OFFLOADS,
            protocol: protocol::MQ
                | protocol::REPLY_ACK
                | protocol::MTU
                | protocol::RARP
                | protocol::RESET_DEVICE,
            script: Script::Modern,
            queues: 1,
            ring_size: 256,
            base: 0,
            rx_buffer: None,
            rx_pieces: Vec::new(),
            calls: true,
            legacy_layout: false,
            backing: Backing::Memfd,
            regions: 1,
            poison: Vec::new(),
            timeout: Duration::from_secs(10),
        }
    }
}

impl Builder {
    /// The card's MAC address, used by [`Guest::announce`] only.
    #[must_use]
    pub fn mac(mut self, mac: [u8; 6]) -> Self {
        self.mac = mac;
        self
    }

    /// The features that the driver wants; in force is what the back-end offers of them. A single one is
    /// added or removed with [`Builder::with`] and [`Builder::without`].
    #[must_use]
    pub fn features(mut self, features: u64) -> Self {
        self.features = features;
        self
    }

    /// Also wants these features.
    #[must_use]
    pub fn with(mut self, features: u64) -> Self {
        self.features |= features;
        self
    }

    /// Does not want these features.
    #[must_use]
    pub fn without(mut self, features: u64) -> Self {
        self.features &= !features;
        self
    }

    /// Checksum and segmentation offloads in both directions.
    #[must_use]
    pub fn offloads(self) -> Self {
        self.with(feature::OFFLOADS)
    }

    /// A legacy driver: no VERSION_1, no mergeable buffers, a 10-byte header in a descriptor of its own,
    /// the ring layout of legacy devices.
    #[must_use]
    pub fn legacy(mut self) -> Self {
        self.features = feature::LEGACY;
        self.legacy_layout = true;
        self.rx_pieces = vec![10];
        self
    }

    /// The protocol features that the front-end wants.
    #[must_use]
    pub fn protocol(mut self, protocol: u64) -> Self {
        self.protocol = protocol;
        self
    }

    /// Whose order of messages is spoken.
    #[must_use]
    pub fn script(mut self, script: Script) -> Self {
        self.script = script;
        self
    }

    /// Queue pairs.
    #[must_use]
    pub fn queues(mut self, pairs: usize) -> Self {
        self.queues = pairs;
        self
    }

    /// Descriptors of every ring, a power of two up to 32768.
    #[must_use]
    pub fn ring_size(mut self, size: u16) -> Self {
        self.ring_size = size;
        self
    }

    /// The index at which all rings begin.
    #[must_use]
    pub fn base(mut self, base: u16) -> Self {
        self.base = base;
        self
    }

    /// Bytes of each receive buffer. Unset: 2048, or 64 KiB for a driver that takes segmented frames
    /// without mergeable buffers (VIRTIO 1.2, 5.1.6.3.1).
    #[must_use]
    pub fn rx_buffer(mut self, bytes: u32) -> Self {
        self.rx_buffer = Some(bytes);
        self
    }

    /// Posts each receive buffer as a chain of pieces of these lengths; what is left is one more piece.
    #[must_use]
    pub fn rx_pieces(mut self, pieces: &[u32]) -> Self {
        self.rx_pieces = pieces.to_vec();
        self
    }

    /// A driver without vectors: no SET_VRING_CALL descriptor, it looks by itself.
    #[must_use]
    pub fn without_calls(mut self) -> Self {
        self.calls = false;
        self
    }

    /// What kind of file holds its memory.
    #[must_use]
    pub fn backing(mut self, backing: Backing) -> Self {
        self.backing = backing;
        self
    }

    /// Cuts the memory behind the rings into this many regions with adjacent addresses, so that buffers
    /// cross from one into the next.
    #[must_use]
    pub fn regions(mut self, count: u64) -> Self {
        self.regions = count.max(1);
        self
    }

    /// Fills the whole memory with `pattern` first, to recognise a leak.
    #[must_use]
    pub fn poison(mut self, pattern: &[u8]) -> Self {
        self.poison = pattern.to_vec();
        self
    }

    /// How long to wait for the back-end to listen, to connect, and to answer each message.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Connects to the back-end that listens at `path` and starts the card.
    ///
    /// # Errors
    ///
    /// When the back-end does not come up within the timeout or breaks the protocol.
    pub fn connect(self, path: impl AsRef<Path>) -> Result<Guest> {
        let door = Door::Connect(path.as_ref().to_owned());
        Guest::start(self, door)
    }

    /// Listens at `path` until the back-end connects, and starts the card. The socket stays for
    /// [`Guest::reconnect`] and goes with the guest.
    ///
    /// # Errors
    ///
    /// As [`Builder::connect`].
    pub fn listen(self, path: impl AsRef<Path>) -> Result<Guest> {
        let door = Door::Listen(Listening::bind(path.as_ref())?);
        Guest::start(self, door)
    }

    /// The same on a socket that listens already, so that the back-end may be started in between.
    ///
    /// # Errors
    ///
    /// As [`Builder::connect`].
    pub fn accept(self, listening: Listening) -> Result<Guest> {
        Guest::start(self, Door::Listen(listening))
    }

    fn rx_bytes(&self, features: u64) -> u32 {
        let merges = features & feature::MRG_RXBUF != 0;
        let giants = features & feature::GUEST_GSO != 0;
        self.rx_buffer
            .unwrap_or(if giants && !merges { GIANT } else { 2048 })
    }
}

/// The next free guest-physical address; rings first, so that they lie in the first region.
struct Ground(u64);

impl Ground {
    fn take(&mut self, bytes: u64) -> u64 {
        let at = self.0;
        self.0 = (at + bytes).next_multiple_of(PAGE);
        at
    }
}

const PAGE: u64 = 4096;
/// A region is a multiple of this, also of a huge page.
const CHUNK: u64 = 2 << 20;

impl Guest {
    /// Makes the memory and the queues for the features in force.
    pub(super) fn lay_out(&mut self) -> Result<()> {
        let plan = self.plan.clone();
        let size = u64::from(plan.ring_size);
        // The first page stays empty: an address of zero is a mistake.
        let mut ground = Ground(PAGE);
        let layouts: Vec<RingLayout> = (0..2 * plan.queues)
            .map(|_| {
                let layout = if plan.legacy_layout {
                    RingLayout::legacy_at(ground.0, plan.ring_size)
                } else {
                    RingLayout::at(ground.0, plan.ring_size)
                };
                ground.take(layout.end() - ground.0);
                layout
            })
            .collect();
        let rings_end = ground.0.next_multiple_of(CHUNK);
        ground.0 = rings_end;
        let rx_bytes = plan.rx_bytes(self.features);
        let tx_bytes = u64::from(GIANT);
        let places: Vec<(u64, u64, u64)> = (0..plan.queues)
            .map(|_| {
                (
                    ground.take(size * u64::from(rx_bytes)),
                    ground.take(size * tx_bytes),
                    ground.take(size * TABLE),
                )
            })
            .collect();
        self.memory = Memory::new(&plan.backing, &regions(rings_end, ground.0, plan.regions))?;
        self.memory.poison(&plan.poison);
        for (pair, (rx_at, tx_at, tables_at)) in layouts.chunks(2).zip(places) {
            let queue = |layout| {
                let mut queue = Queue::with_base(&self.memory, layout, self.features, plan.base)?;
                if !plan.calls {
                    queue.without_call();
                }
                Ok::<_, Error>(queue)
            };
            let [rx_layout, tx_layout] = *pair else {
                continue;
            };
            self.rx.push(RxQueue::new(
                queue(rx_layout)?,
                rx_at,
                rx_bytes,
                &plan.rx_pieces,
            ));
            self.tx
                .push(TxQueue::new(queue(tx_layout)?, tx_at, tx_bytes, tables_at));
        }
        Ok(())
    }
}

/// One region for the rings, then `count` adjacent ones up to `end`; all one if `count` is 1.
fn regions(rings_end: u64, end: u64, count: u64) -> Vec<RegionSpec> {
    let uva = |gpa: u64, number: u64| 0x7e00_0000_0000 + gpa + (number << 36);
    if count == 1 {
        return vec![RegionSpec {
            gpa: 0,
            uva: uva(0, 0),
            size: end.next_multiple_of(CHUNK),
            file: 0,
            offset: 0,
        }];
    }
    let each = (end - rings_end).div_ceil(count).next_multiple_of(PAGE);
    let mut specs = vec![RegionSpec {
        gpa: 0,
        uva: uva(0, 0),
        size: rings_end,
        file: 0,
        offset: 0,
    }];
    specs.extend((0..count).map(|i| RegionSpec {
        gpa: rings_end + i * each,
        uva: uva(rings_end + i * each, i + 1),
        size: each,
        file: i as usize + 1,
        offset: 0,
    }));
    specs
}
