//! The receiving half of a port: what each frame is found to be.

use super::{
    Check,
    flows::{Arrival, Flow},
    frames::{self, FRAME_AT, Mark},
    lane::{BURST, copy_out, half, word},
    port::Port,
};
use crate::guest::{Error, Result};

/// What was counted, since the start.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) gaps: u64,
    pub(super) late: u64,
    pub(super) duplicates: u64,
    pub(super) corrupt: u64,
    pub(super) strays: u64,
    pub(super) foreign: u64,
}

/// What a burst of received frames says to the rest of the engine.
pub(super) trait Observer {
    /// A burst was taken from the ring at this moment.
    fn taken(&mut self);
    /// A frame that `from` has sent arrived.
    fn arrived(&mut self, from: u16);
    /// A frame that was sent at `time` arrived now.
    fn timed(&mut self, time: u64);
}

impl Port {
    /// Takes what has come, looks at it and posts the buffers again; returns how many frames.
    #[inline]
    pub(super) fn receive(&mut self, observer: &mut impl Observer) -> Result<usize> {
        let count = self.rx.take_filled(&mut self.filled)?;
        if count == 0 {
            return Ok(0);
        }
        observer.taken();
        let frames = if self.lens.spread {
            self.look_at_spread(count, observer)?
        } else {
            self.look_at(count, observer)?;
            count
        };
        self.rx.post(&self.filled[..count], self.lens.rx_len)?;
        Ok(frames)
    }

    #[inline]
    fn look_at(&mut self, count: usize, observer: &mut impl Observer) -> Result<()> {
        let Self {
            rx,
            filled,
            scratch,
            lens,
            counts,
            seen,
            number,
            ..
        } = self;
        let slots = rx.slots()?;
        let whole = (lens.header + lens.form.size) as u32;
        if lens.check == Check::None {
            for f in &filled[..count] {
                if lens.touch {
                    let len = (f.len as usize).min(scratch.len());
                    let at = rx.place(f.slot) + FRAME_AT as usize - lens.header;
                    copy_out(&slots, at, &mut scratch[..len])?;
                }
                counts.corrupt += u64::from(f.len != whole);
            }
            counts.received += count as u64;
            for _ in 0..count {
                observer.arrived(*number ^ 1);
            }
            return Ok(());
        }
        // Two passes: the loads of the first do not wait for each other.
        let mut marks = [(0u64, 0u64); BURST];
        let mark_at = FRAME_AT as usize + lens.form.mark() as usize;
        for (f, mark) in filled[..count].iter().zip(&mut marks) {
            let at = rx.place(f.slot) + mark_at;
            *mark = (word(&slots, at)?, word(&slots, at + 8)?);
        }
        for (f, (mark, time)) in filled[..count].iter().zip(marks) {
            if f.len != whole {
                counts.misshapen(mark);
                continue;
            }
            let at = rx.place(f.slot) + FRAME_AT as usize;
            if lens.touch || lens.check == Check::Full {
                copy_out(&slots, at, &mut scratch[..lens.form.size])?;
            }
            let sealed = lens.check < Check::Full
                || half(&slots, at + lens.form.mark() as usize + 16)?
                    == frames::seal(
                        mark,
                        time,
                        frames::body_sum(&scratch[lens.form.body()..lens.form.size]),
                    );
            counts.judge(*number, seen, (mark, time), sealed, observer);
        }
        Ok(())
    }

    /// The same for frames that take several buffers: they are put together first.
    fn look_at_spread(&mut self, count: usize, observer: &mut impl Observer) -> Result<usize> {
        let Self {
            rx,
            filled,
            scratch,
            lens,
            counts,
            seen,
            number,
            ..
        } = self;
        let slots = rx.slots()?;
        let mut frames_seen = 0;
        let mut i = 0;
        while i < count {
            let start = FRAME_AT as usize - lens.header;
            let header_at = rx.place(filled[i].slot) + start;
            let mut number_of = [0; 2];
            copy_out(&slots, header_at + 10, &mut number_of)?;
            let buffers = usize::from(u16::from_le_bytes(number_of)).max(1);
            let Some(parts) = filled.get(i..i + buffers).filter(|_| i + buffers <= count) else {
                return Err(Error::Device(format!(
                    "num_buffers is {buffers}, but only {} were used",
                    count - i
                )));
            };
            i += buffers;
            frames_seen += 1;
            let whole = lens.header + lens.form.size;
            scratch.resize(whole.max(scratch.len()), 0);
            let mut done = 0;
            for part in parts {
                let len = (part.len as usize).min(whole - done);
                let at = rx.place(part.slot) + start;
                copy_out(&slots, at, &mut scratch[done..done + len])?;
                done += len;
            }
            let length: u64 = parts.iter().map(|p| u64::from(p.len)).sum();
            let frame = &scratch[lens.header..whole];
            let at = lens.form.mark() as usize;
            let mark = little(&frame[at..]);
            let time = little(&frame[at + 8..]);
            if length != whole as u64 {
                counts.misshapen(mark);
                continue;
            }
            if lens.check == Check::None {
                counts.received += 1;
                observer.arrived(*number ^ 1);
                continue;
            }
            let seal = frames::seal(mark, time, frames::body_sum(&frame[lens.form.body()..]));
            let sealed = lens.check < Check::Full || frame[at + 16..at + 20] == seal.to_le_bytes();
            counts.judge(*number, seen, (mark, time), sealed, observer);
        }
        Ok(frames_seen)
    }
}

fn little(bytes: &[u8]) -> u64 {
    bytes
        .first_chunk()
        .map_or(0, |word| u64::from_le_bytes(*word))
}

impl Counts {
    /// A frame of another length than was sent: ours and damaged, or somebody else's.
    #[cold]
    fn misshapen(&mut self, mark: u64) {
        if Mark::from_word(mark).is_some() {
            self.corrupt += 1;
        } else {
            self.foreign += 1;
        }
    }

    #[inline]
    fn judge(
        &mut self,
        port: u16,
        seen: &mut [Flow],
        (word, time): (u64, u64),
        sealed: bool,
        observer: &mut impl Observer,
    ) {
        let Some(mark) = Mark::from_word(word) else {
            self.foreign += 1;
            return;
        };
        let Some(flow) = seen.get_mut(usize::from(mark.from)) else {
            self.corrupt += 1;
            return;
        };
        if !sealed {
            self.corrupt += 1;
            return;
        }
        if mark.to != port {
            self.strays += 1;
            return;
        }
        match flow.arrive(mark.sequence) {
            Arrival::InOrder => {}
            Arrival::AfterGap(missing) => self.gaps += missing,
            Arrival::Late => self.late += 1,
            Arrival::Duplicate | Arrival::Ancient => {
                self.duplicates += 1;
                return;
            }
        }
        self.received += 1;
        observer.arrived(mark.from);
        if time != 0 {
            observer.timed(time);
        }
    }
}
