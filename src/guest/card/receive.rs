//! Receiving: posted buffers, merged frames, and the checks of what the device did.

use std::{collections::VecDeque, time::Instant};

use super::*;
use crate::guest::{Buffer, Event, Used, event::wait_any};

/// What fills a posted buffer: a byte that the device writes beyond what it reports is seen.
const FILL: u8 = 0xd7;

/// A received frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// The network header; `num_buffers` is 1 where there is no such field.
    pub header: VnetHeader,
    /// The frame.
    pub bytes: Vec<u8>,
    /// The queue pair on which it came.
    pub queue: usize,
}

/// An RX ring with a buffer for each chain.
#[derive(Debug)]
pub(super) struct RxQueue {
    pub(super) queue: Queue,
    at: u64,
    bytes: u32,
    pieces: Vec<u32>,
    /// Buffers that are not posted.
    idle: Vec<u64>,
    /// Buffers that a back-end had which is gone: it may have begun to write to any of them.
    begun: Vec<bool>,
    done: Vec<Used>,
    waiting: VecDeque<Used>,
}

impl RxQueue {
    pub(super) fn new(queue: Queue, at: u64, bytes: u32, pieces: &[u32]) -> Self {
        let size = usize::from(queue.size());
        let chain = pieces.len() + 1;
        Self {
            idle: (0..(size / chain) as u64).rev().collect(),
            begun: vec![false; size],
            done: Vec::with_capacity(size),
            waiting: VecDeque::with_capacity(size),
            queue,
            at,
            bytes,
            pieces: pieces.to_vec(),
        }
    }

    pub(super) fn reset(&mut self, features: u64, base: u16) -> Result<()> {
        let count = usize::from(self.queue.size()) / (self.pieces.len() + 1);
        self.idle = (0..count as u64).rev().collect();
        self.waiting.clear();
        self.begun.fill(false);
        self.queue.reset(features, base)
    }

    /// The back-end is gone, and another goes on with what is posted.
    pub(super) fn inherit(&mut self) {
        self.begun.fill(true);
    }

    /// Posts every idle buffer.
    pub(super) fn fill(&mut self, memory: &Memory) -> Result<()> {
        while let Some(number) = self.idle.pop() {
            let at = self.at + number * u64::from(self.bytes);
            memory.write(at, &vec![FILL; self.bytes as usize])?;
            self.begun[number as usize] = false;
            let mut chain = Vec::with_capacity(self.pieces.len() + 1);
            let mut done = 0;
            for piece in self.pieces.iter().copied().chain([self.bytes]) {
                let len = piece.min(self.bytes - done);
                if len > 0 {
                    chain.push(Buffer {
                        gpa: at + u64::from(done),
                        len,
                        write: true,
                    });
                }
                done += len;
            }
            self.queue.add(&chain, number)?;
        }
        self.queue.publish()
    }

    /// Takes the next used buffer, if any.
    fn next(&mut self) -> Result<Option<Used>> {
        if self.waiting.is_empty() {
            self.done.clear();
            self.queue.reap(1, &mut self.done)?;
            self.waiting.extend(self.done.iter());
        }
        Ok(self.waiting.pop_front())
    }

    /// The bytes of one used buffer; checks that nothing was written behind them, and makes the buffer
    /// idle.
    fn take(&mut self, memory: &Memory, used: Used) -> Result<Vec<u8>> {
        let at = self.at + used.token * u64::from(self.bytes);
        let mut bytes = memory.bytes(at, self.bytes as usize)?;
        self.idle.push(used.token);
        let begun = self.begun[used.token as usize];
        let tail = &bytes[used.len as usize..];
        if let Some(place) = tail.iter().position(|b| *b != FILL && !begun) {
            return Err(Error::Device(format!(
                "{} bytes were reported in head {}, but byte {} was written",
                used.len,
                used.head,
                used.len as usize + place
            )));
        }
        bytes.truncate(used.len as usize);
        Ok(bytes)
    }

    /// The next frame with its header, merged if need be.
    fn frame(&mut self, memory: &Memory, features: u64) -> Result<Option<(VnetHeader, Vec<u8>)>> {
        let Some(first) = self.next()? else {
            return Ok(None);
        };
        let header_len = VnetHeader::len_for(features);
        let mut bytes = self.take(memory, first)?;
        let header = bytes
            .get(..header_len)
            .and_then(VnetHeader::from_bytes)
            .ok_or_else(|| {
                Error::Device(format!(
                    "a buffer came back with {} bytes, less than a header",
                    bytes.len()
                ))
            })?;
        let count = if features & feature::MRG_RXBUF != 0 {
            header.num_buffers
        } else {
            1
        };
        // All of them are used together (VIRTIO 1.2, 5.1.6.4.1), so that a missing one is a fault.
        if count == 0 {
            return Err(Error::Device("num_buffers is 0".into()));
        }
        for number in 1..count {
            if bytes.len() < self.bytes as usize * usize::from(number) {
                return Err(Error::Device(format!(
                    "buffer {number} of {count} was not filled to its end"
                )));
            }
            let next = self.next()?.ok_or_else(|| {
                Error::Device(format!(
                    "num_buffers is {count}, but only {number} were used"
                ))
            })?;
            bytes.extend(self.take(memory, next)?);
        }
        bytes.drain(..header_len);
        Ok(Some((header, bytes)))
    }
}

impl Guest {
    /// The next frame that is there already, from the queues in turn. Its buffers are posted again.
    ///
    /// # Errors
    ///
    /// [`Error::Device`] when the device broke a rule.
    pub fn try_recv(&mut self) -> Result<Option<Received>> {
        for _ in 0..self.rx.len() {
            let queue = self.next_rx;
            self.next_rx = (queue + 1) % self.rx.len();
            let rx = &mut self.rx[queue];
            if let Some((header, bytes)) = rx.frame(&self.memory, self.features)? {
                rx.fill(&self.memory)?;
                rx.queue.kick()?;
                return Ok(Some(Received {
                    header,
                    bytes,
                    queue,
                }));
            }
        }
        Ok(None)
    }

    /// The next frame, waited for by the call of each RX ring; none when `timeout` passed first.
    ///
    /// # Errors
    ///
    /// As [`Guest::try_recv`].
    pub fn recv(&mut self, timeout: Duration) -> Result<Option<Received>> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(received) = self.try_recv()? {
                return Ok(Some(received));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.sleep(left)?;
        }
    }

    /// Sleeps until a call comes on any RX ring, or a frame is there.
    fn sleep(&mut self, timeout: Duration) -> Result<()> {
        for rx in &mut self.rx {
            if rx.queue.want_calls(true)? {
                return Ok(());
            }
        }
        let calls: Vec<&Event> = self
            .rx
            .iter()
            .filter_map(|rx| rx.queue.call_event())
            .collect();
        if calls.is_empty() {
            std::thread::yield_now();
            return Ok(());
        }
        wait_any(&calls, timeout)?;
        for call in calls {
            call.take()?;
        }
        Ok(())
    }
}
