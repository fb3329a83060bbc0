//! One port of the load: its connection, its two lanes, its frames; the sending half.

use std::{path::Path, sync::Arc, time::Duration};

use super::{
    Check, Plan,
    flows::Flow,
    frames::{self, FRAME_AT, Form, Mark},
    lane::{BURST, Filled, Lane, copy_in, put_word},
    look::Counts,
};
use crate::guest::{
    Backing, Error, FrontEnd, Listening, Memory, RegionSpec, Result, RingLayout, Script,
    VnetHeader, feature, protocol,
};

/// How frames are looked at and where their parts are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lens {
    pub(super) form: Form,
    pub(super) check: Check,
    pub(super) touch: bool,
    pub(super) header: usize,
    /// Whether a frame may take more buffers than one.
    pub(super) spread: bool,
    pub(super) rx_len: u32,
}

#[derive(Debug)]
pub(super) struct Port {
    pub(super) number: u16,
    front_end: FrontEnd,
    _listening: Option<Listening>,
    pub(super) rx: Lane,
    tx: Lane,
    pub(super) lens: Lens,
    pub(super) peers: Vec<u16>,
    turn: usize,
    /// For each destination: the headers of a frame, and the next number.
    headers: Vec<Vec<u8>>,
    next: Vec<u64>,
    /// For each slot: the destination for which it was written, its body's sum, and its flow.
    written: Vec<u16>,
    sums: Vec<u64>,
    template: Vec<u8>,
    flows: u16,
    /// For each sender: what has come of it.
    pub(super) seen: Vec<Flow>,
    pub(super) filled: Vec<Filled>,
    pub(super) scratch: Vec<u8>,
    pub(super) counts: Counts,
}

impl Port {
    pub(super) fn plug_in(plan: &Plan, number: usize) -> Result<Self> {
        let path = &plan.ports[number];
        let named = |e: Error| Error::Misuse(format!("port {number} ({}): {e}", path.display()));
        Self::try_plug_in(plan, number, path).map_err(named)
    }

    fn try_plug_in(plan: &Plan, number: usize, path: &Path) -> Result<Self> {
        let form = Form::new(plan.size);
        let (mut front_end, listening) = if plan.listen {
            let listening = Listening::bind(path)?;
            (listening.accept(plan.patience)?, Some(listening))
        } else {
            (FrontEnd::connect(path, plan.patience)?, None)
        };
        front_end.negotiate(
            Script::Modern,
            wanted(plan, form),
            protocol::MQ | protocol::REPLY_ACK,
        )?;
        let features = front_end.features();
        require(features, form)?;
        let header = VnetHeader::len_for(features);
        let whole = (header + form.size) as u32;
        let rx_len = plan.rx_buffer.unwrap_or(whole.max(2048));
        let merges = features & feature::MRG_RXBUF != 0;
        if rx_len < whole && !merges {
            return Err(Error::Misuse(format!(
                "buffers of {rx_len} bytes hold no frame of {} without MRG_RXBUF",
                form.size
            )));
        }
        let lens = Lens {
            form,
            check: plan.effective_check(),
            touch: plan.touch,
            header,
            spread: rx_len < whole,
            rx_len,
        };
        let (memory, rx, tx) = lay_out(plan, lens, features)?;
        let mut port = Self::assemble(plan, number, (front_end, listening), (rx, tx), lens);
        port.write_headers(plan);
        port.rx.post_all(rx_len)?;
        port.front_end.start(
            Script::Modern,
            &memory,
            &[port.rx.setup(0), port.tx.setup(1)],
        )?;
        port.rx.kick()?;
        Ok(port)
    }

    fn assemble(
        plan: &Plan,
        number: usize,
        (front_end, listening): (FrontEnd, Option<Listening>),
        (rx, tx): (Lane, Lane),
        lens: Lens,
    ) -> Self {
        let ports = plan.ports.len();
        let ring = usize::from(plan.ring_size);
        Self {
            number: number as u16,
            front_end,
            _listening: listening,
            rx,
            tx,
            lens,
            peers: plan.peers(number),
            turn: 0,
            headers: vec![Vec::new(); ports],
            next: vec![0; ports],
            written: vec![u16::MAX; ring],
            sums: vec![0; ring],
            template: Vec::new(),
            flows: plan.flows,
            seen: vec![Flow::default(); ports],
            filled: vec![Filled::default(); if lens.spread { ring } else { BURST }],
            scratch: vec![0; lens.form.size.max(lens.rx_len as usize)],
            counts: Counts::default(),
        }
    }

    fn write_headers(&mut self, plan: &Plan) {
        let from = frames::mac(plan.mac, usize::from(self.number));
        for to in &self.peers {
            let to_mac = frames::mac(plan.mac, usize::from(*to));
            let frame = self.lens.form.build(from, to_mac, 0, 1);
            self.headers[usize::from(*to)] = frame[..self.lens.form.mark() as usize].to_vec();
        }
    }

    /// Sends one announcement of the port's own address.
    pub(super) fn announce(&mut self, plan: &Plan) -> Result<()> {
        let mac = frames::mac(plan.mac, usize::from(self.number));
        let mut slots = [0; BURST];
        self.tx.claim(1, &mut slots);
        let at = self.tx.place(slots[0]) + FRAME_AT as usize;
        let frame = crate::guest::announcement(mac);
        copy_in(&self.tx.slots()?, at - self.lens.header, &[0; 12])?;
        copy_in(&self.tx.slots()?, at, &frame)?;
        self.tx
            .send(&slots[..1], (self.lens.header + frame.len()) as u32)
    }

    /// Whether the back-end has taken everything that was sent.
    pub(super) fn all_taken(&mut self) -> Result<bool> {
        self.tx.reap_sent()?;
        Ok(self.tx.room() == self.written.len())
    }

    /// Throws away what has come; returns how many buffers.
    pub(super) fn discard(&mut self) -> Result<usize> {
        let count = self.rx.take_filled(&mut self.filled)?;
        self.rx.post(&self.filled[..count], self.lens.rx_len)?;
        Ok(count)
    }

    /// Writes the frames into all slots, once.
    pub(super) fn build_frames(&mut self) -> Result<()> {
        let form = self.lens.form;
        let header = form.header().to_bytes();
        for slot in 0..self.written.len() {
            let seed = slot as u64 * 0x9e37_79b9 + u64::from(self.number);
            let frame = form.build([0; 6], [0; 6], slot as u16 % self.flows, seed);
            let at = self.tx.place(slot as u16) + FRAME_AT as usize;
            let slots = self.tx.slots()?;
            copy_in(&slots, at - self.lens.header, &header[..self.lens.header])?;
            copy_in(&slots, at, &frame)?;
            self.sums[slot] = frames::body_sum(&frame[form.body()..]);
            if slot == 0 {
                self.template = frame;
            }
        }
        if self.lens.touch {
            // Every frame is written anew from the same template.
            let sum = self.sums[0];
            self.sums.fill(sum);
        }
        self.written.fill(u16::MAX);
        Ok(())
    }

    /// Takes back what was sent; returns how many more fit.
    #[inline]
    pub(super) fn reap(&mut self) -> Result<usize> {
        self.tx.reap_sent()?;
        Ok(self.tx.room())
    }

    /// Sends at most `count` frames to the next peer in turn, the first stamped with `now`; returns how
    /// many.
    #[inline]
    pub(super) fn transmit(&mut self, count: usize, now: u64) -> Result<usize> {
        let mut claimed = [0; BURST];
        let count = self.tx.claim(count, &mut claimed);
        let Some(to) = self.peers.get(self.turn).copied().filter(|_| count > 0) else {
            return Ok(0);
        };
        self.turn = if self.turn + 1 == self.peers.len() {
            0
        } else {
            self.turn + 1
        };
        for (i, slot) in claimed[..count].iter().enumerate() {
            let stamp = if i == 0 { now } else { 0 };
            self.dress(*slot, to, stamp)?;
        }
        let len = self.lens.header + self.lens.form.size;
        self.tx.send(&claimed[..count], len as u32)?;
        self.counts.sent += count as u64;
        Ok(count)
    }

    /// Makes the frame in `slot` one for `to`, with the next number.
    #[inline]
    fn dress(&mut self, slot: u16, to: u16, stamp: u64) -> Result<()> {
        let lens = self.lens;
        let at = self.tx.place(slot) + FRAME_AT as usize;
        let slots = self.tx.slots()?;
        if lens.touch {
            copy_in(&slots, at, &self.template)?;
        }
        if lens.touch || self.written[usize::from(slot)] != to {
            self.written[usize::from(slot)] = to;
            copy_in(&slots, at, &self.headers[usize::from(to)])?;
            let port = 10_000 + slot % self.flows;
            copy_in(&slots, at + 34, &port.to_be_bytes())?;
        }
        if lens.check == Check::None {
            return Ok(());
        }
        let next = &mut self.next[usize::from(to)];
        let mark = Mark {
            from: self.number,
            to,
            sequence: *next,
        }
        .word();
        *next = (*next + 1) % frames::SEQUENCES;
        let at = at + lens.form.mark() as usize;
        put_word(&slots, at, mark)?;
        put_word(&slots, at + 8, stamp)?;
        if lens.check == Check::Full {
            let seal = frames::seal(mark, stamp, self.sums[usize::from(slot)]);
            copy_in(&slots, at + 16, &seal.to_le_bytes())?;
        }
        Ok(())
    }

    /// Whether the back-end still holds the connection.
    pub(super) fn still_there(&self) -> Result<()> {
        match self.front_end.wire().wait_closed_for(Duration::ZERO)? {
            true => Err(Error::Closed {
                what: "load on a port",
            }),
            false => Ok(()),
        }
    }

    /// Kicks that the back-end asked for.
    pub(super) fn kicks(&self) -> u64 {
        self.rx.kicks() + self.tx.kicks()
    }
}

fn wanted(plan: &Plan, form: Form) -> u64 {
    let mut wanted = feature::VERSION_1 | feature::PROTOCOL_FEATURES;
    for (on, bits) in [
        (plan.in_order, feature::IN_ORDER),
        (plan.mergeable, feature::MRG_RXBUF),
        (plan.event_idx, feature::EVENT_IDX),
        (
            form.giant,
            feature::CSUM | feature::GUEST_CSUM | feature::HOST_TSO4 | feature::GUEST_TSO4,
        ),
    ] {
        if on {
            wanted |= bits;
        }
    }
    wanted
}

fn require(features: u64, form: Form) -> Result<()> {
    if features & feature::VERSION_1 == 0 {
        return Err(Error::Misuse(
            "the back-end does not offer VERSION_1, which the load needs".into(),
        ));
    }
    if form.giant && features & feature::HOST_TSO4 == 0 {
        return Err(Error::Misuse(format!(
            "the back-end does not offer HOST_TSO4: choose frames of at most {} bytes",
            frames::LARGEST_PLAIN
        )));
    }
    Ok(())
}

/// Memory with both rings and their slots.
fn lay_out(plan: &Plan, lens: Lens, features: u64) -> Result<(Arc<Memory>, Lane, Lane)> {
    let size = u64::from(plan.ring_size);
    let rx_ring = RingLayout::at(4096, plan.ring_size);
    let tx_ring = RingLayout::at(rx_ring.end().next_multiple_of(4096), plan.ring_size);
    // An odd number of cache lines, so that the slots spread over all sets of the caches.
    let stride = |len: u64| (len.div_ceil(64) | 1) * 64;
    let rx_stride = stride(FRAME_AT + u64::from(lens.rx_len));
    let tx_stride = stride(FRAME_AT + (lens.form.size as u64).max(2048));
    let rx_slots = tx_ring.end().next_multiple_of(4096);
    let tx_slots = (rx_slots + size * rx_stride).next_multiple_of(4096);
    let end = (tx_slots + size * tx_stride).next_multiple_of(2 << 20);
    let memory = Memory::new(
        &Backing::Memfd,
        &[RegionSpec {
            gpa: 0,
            uva: 0x7e00_0000_0000,
            size: end,
            file: 0,
            offset: 0,
        }],
    )?;
    let kind = (
        features & feature::IN_ORDER != 0,
        features & feature::EVENT_IDX != 0,
    );
    let offset = FRAME_AT - lens.header as u64;
    let rx = Lane::new(&memory, rx_ring, kind, (rx_slots, rx_stride, offset))?;
    let tx = Lane::new(&memory, tx_ring, kind, (tx_slots, tx_stride, offset))?;
    Ok((memory, rx, tx))
}
