//! Sending: a frame is laid into a slot of its own and described by a chain of any shape.

use super::*;
use crate::guest::{Buffer, Used};

/// How header and frame are cut into descriptors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Shape {
    /// Both in one descriptor; a legacy driver without ANY_LAYOUT uses [`Shape::Apart`] in its place.
    #[default]
    Together,
    /// The header in a descriptor of its own.
    Apart,
    /// Pieces of these lengths over header and frame; zero is a length, and what is left is one more
    /// piece.
    Pieces(Vec<usize>),
    /// The same in an indirect table.
    Indirect(Vec<usize>),
}

/// A TX ring with a slot of memory for each descriptor.
#[derive(Debug)]
pub(super) struct TxQueue {
    pub(super) queue: Queue,
    at: u64,
    slot: u64,
    tables: u64,
    free: Vec<u64>,
    done: Vec<Used>,
}

impl TxQueue {
    pub(super) fn new(queue: Queue, at: u64, slot: u64, tables: u64) -> Self {
        let size = queue.size();
        Self {
            free: (0..u64::from(size)).rev().collect(),
            done: Vec::with_capacity(usize::from(size)),
            queue,
            at,
            slot,
            tables,
        }
    }

    pub(super) fn reset(&mut self, features: u64, base: u16) -> Result<()> {
        self.free = (0..u64::from(self.queue.size())).rev().collect();
        self.queue.reset(features, base)
    }

    /// Takes back the slots whose frames the device is done with.
    fn reap(&mut self) -> Result<usize> {
        self.done.clear();
        let taken = self.queue.reap(usize::MAX, &mut self.done);
        self.free.extend(self.done.iter().map(|u| u.token));
        taken
    }

    /// Lays header and frame into a free slot and adds the chain.
    fn put(&mut self, memory: &Memory, header: &[u8], frame: &[u8], shape: &Shape) -> Result<()> {
        let total = header.len() + frame.len();
        if total as u64 > self.slot {
            return Err(Error::Misuse(format!("a frame of {total} bytes")));
        }
        self.reap()?;
        let slot = self.free.pop().ok_or(Error::Full { wanted: 1, free: 0 })?;
        let at = self.at + slot * self.slot;
        let added = (|| {
            memory.write(at, header)?;
            memory.write(at + header.len() as u64, frame)?;
            match shape {
                Shape::Together => self.queue.add(&cut(at, total, &[]), slot),
                Shape::Apart => self.queue.add(&cut(at, total, &[header.len()]), slot),
                Shape::Pieces(pieces) => self.queue.add(&cut(at, total, pieces), slot),
                Shape::Indirect(pieces) => self.queue.add_indirect(
                    &cut(at, total, pieces),
                    self.tables + slot * builder::TABLE,
                    slot,
                ),
            }
        })();
        if added.is_err() {
            self.free.push(slot);
        }
        added.map(drop)
    }
}

/// Cuts `total` bytes at `at` into `pieces` and what is left.
fn cut(at: u64, total: usize, pieces: &[usize]) -> Vec<Buffer> {
    let mut done = 0;
    let mut buffers = Vec::with_capacity(pieces.len() + 1);
    let mut push = |len: usize, done: &mut usize| {
        buffers.push(Buffer {
            gpa: at + *done as u64,
            len: len as u32,
            write: false,
        });
        *done += len;
    };
    for piece in pieces {
        push((*piece).min(total - done), &mut done);
    }
    if done < total {
        push(total - done, &mut done);
    }
    buffers
}

impl Guest {
    /// Sends `frame` on the first queue with a header of zeros.
    ///
    /// # Errors
    ///
    /// [`Error::Full`] when the device holds every slot; [`Error::Device`] when it broke a rule.
    pub fn send(&mut self, frame: &[u8]) -> Result<()> {
        self.send_with_header(VnetHeader::default(), frame)
    }

    /// Sends `frame` on the first queue with `header`.
    ///
    /// # Errors
    ///
    /// As [`Guest::send`].
    pub fn send_with_header(&mut self, header: VnetHeader, frame: &[u8]) -> Result<()> {
        self.send_shaped(0, header, frame, &Shape::Together)
    }

    /// Sends `frame` on queue pair `pair` with `header`, cut as `shape` says.
    ///
    /// # Errors
    ///
    /// As [`Guest::send`].
    pub fn send_shaped(
        &mut self,
        pair: usize,
        header: VnetHeader,
        frame: &[u8],
        shape: &Shape,
    ) -> Result<()> {
        self.queue_frame(pair, header, frame, shape)?;
        self.flush(pair)
    }

    /// Adds `frame` to queue pair `pair` without letting the device see it: many frames go out with one
    /// [`Guest::flush`].
    ///
    /// # Errors
    ///
    /// As [`Guest::send`].
    pub fn queue_frame(
        &mut self,
        pair: usize,
        header: VnetHeader,
        frame: &[u8],
        shape: &Shape,
    ) -> Result<()> {
        let any_layout = self.features & (feature::VERSION_1 | feature::ANY_LAYOUT) != 0;
        let shape = match shape {
            Shape::Together if !any_layout => &Shape::Apart,
            shape => shape,
        };
        let len = self.header_len();
        self.tx[pair].put(&self.memory, &header.to_bytes()[..len], frame, shape)
    }

    /// Lets the device see what was added to queue pair `pair`, and kicks it if it asks for it.
    ///
    /// # Errors
    ///
    /// When the eventfd is saturated.
    pub fn flush(&mut self, pair: usize) -> Result<()> {
        let queue = &mut self.tx[pair].queue;
        queue.publish()?;
        queue.kick().map(drop)
    }

    /// Waits until the device has given back every frame that was sent; false when `timeout` passed first.
    ///
    /// # Errors
    ///
    /// [`Error::Device`] when the device broke a rule.
    pub fn drain(&mut self, timeout: Duration) -> Result<bool> {
        let deadline = std::time::Instant::now() + timeout;
        for tx in &mut self.tx {
            while tx.queue.in_flight() > 0 {
                let left = deadline.saturating_duration_since(std::time::Instant::now());
                if tx.reap()? == 0 && !tx.queue.wait(left)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Broadcasts a RARP request with its own MAC address, so that a learning switch knows where it is.
    ///
    /// # Errors
    ///
    /// As [`Guest::send`].
    pub fn announce(&mut self) -> Result<()> {
        self.send(&announcement(self.plan.mac))
    }
}

/// A reverse ARP request from `mac` (RFC 903), as VMMs send after a migration.
pub(crate) fn announcement(mac: [u8; 6]) -> [u8; 60] {
    let mut frame = [0; 60];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&mac);
    frame[12..22].copy_from_slice(&[0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3]);
    frame[22..28].copy_from_slice(&mac);
    frame[32..38].copy_from_slice(&mac);
    frame
}
