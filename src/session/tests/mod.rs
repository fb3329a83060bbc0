//! A scripted front-end against a session with a device that keeps book.

mod hostile;
mod memory;
mod negotiation;
mod rings;
mod wire;

use std::io::{ErrorKind, IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::*;
use crate::ring::{Negotiated, RxRing, TxRing};

// Numbers of the specification, written down a second time on purpose.
pub(crate) const GET_FEATURES: u32 = 1;
pub(crate) const SET_FEATURES: u32 = 2;
pub(crate) const SET_OWNER: u32 = 3;
pub(crate) const RESET_OWNER: u32 = 4;
pub(crate) const SET_MEM_TABLE: u32 = 5;
pub(crate) const SET_VRING_NUM: u32 = 8;
pub(crate) const SET_VRING_ADDR: u32 = 9;
pub(crate) const SET_VRING_BASE: u32 = 10;
pub(crate) const GET_VRING_BASE: u32 = 11;
pub(crate) const SET_VRING_KICK: u32 = 12;
pub(crate) const SET_VRING_CALL: u32 = 13;
pub(crate) const SET_VRING_ERR: u32 = 14;
pub(crate) const GET_PROTOCOL_FEATURES: u32 = 15;
pub(crate) const SET_PROTOCOL_FEATURES: u32 = 16;
pub(crate) const GET_QUEUE_NUM: u32 = 17;
pub(crate) const SET_VRING_ENABLE: u32 = 18;
pub(crate) const SEND_RARP: u32 = 19;
pub(crate) const NET_SET_MTU: u32 = 20;
pub(crate) const RESET_DEVICE: u32 = 34;
pub(crate) const GET_MAX_MEM_SLOTS: u32 = 36;
pub(crate) const ADD_MEM_REG: u32 = 37;
pub(crate) const REM_MEM_REG: u32 = 38;
pub(crate) const SET_STATUS: u32 = 39;
pub(crate) const GET_STATUS: u32 = 40;

pub(crate) const PLAIN: u32 = 1;
pub(crate) const NEED_REPLY: u32 = 1 | 8;
pub(crate) const IS_REPLY: u32 = 1 | 4;

pub(crate) const PROTOCOL_BIT: u64 = 1 << 30;
pub(crate) const VERSION_1: u64 = 1 << 32;
pub(crate) const REPLY_ACK: u64 = 1 << 3;

/// Size of the guest's memory, and where it lies for the guest and for the front-end.
pub(crate) const MEM: u64 = 0x10_0000;
pub(crate) const GUEST: u64 = 0x4000_0000;
pub(crate) const USER: u64 = 0x7f00_0000_0000;

/// A running ring of either kind.
enum Kept {
    Rx(RxRing),
    Tx(TxRing),
}

/// What the device was told, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    Start {
        index: usize,
        size: u16,
        features: u64,
        enabled: Enabled,
        kicked: bool,
        called: bool,
    },
    Stop(usize),
    Enable(usize, bool),
    Call(usize, bool),
    Err(usize, bool),
    Announce([u8; 6]),
    Mtu(u16),
    Reset,
}

struct Mock {
    pairs: u16,
    told: Vec<Told>,
    rings: Vec<Option<(RingSetup, Kept)>>,
    /// What was discarded is gone.
    clear: bool,
    /// What was discarded, where it is not to be dropped at once.
    kept: Option<Vec<Discarded>>,
}

impl Device for Mock {
    fn queue_pairs(&self) -> u16 {
        self.pairs
    }

    fn mtu(&self) -> Option<u16> {
        Some(9000)
    }

    fn start_ring(&mut self, index: usize, setup: RingSetup) -> Result<(), StartError> {
        assert!(self.rings[index].is_none(), "ring {index} is started twice");
        let negotiated = Negotiated::from_features(setup.features);
        let memory = Arc::clone(&setup.memory);
        let kept = if index.is_multiple_of(2) {
            Kept::Rx(RxRing::start(memory, setup.layout, negotiated)?)
        } else {
            Kept::Tx(TxRing::start(memory, setup.layout, negotiated)?)
        };
        self.told.push(Told::Start {
            index,
            size: setup.layout.size,
            features: setup.features,
            enabled: setup.enabled,
            kicked: setup.kick.is_some(),
            called: setup.call.is_some(),
        });
        self.rings[index] = Some((setup, kept));
        Ok(())
    }

    fn stop_ring(&mut self, index: usize) -> u16 {
        self.told.push(Told::Stop(index));
        match self.rings[index]
            .take()
            .expect("only a running ring is stopped")
            .1
        {
            Kept::Rx(ring) => ring.next(),
            Kept::Tx(ring) => ring.next(),
        }
    }

    fn enable_ring(&mut self, index: usize, enabled: bool) {
        assert!(self.rings[index].is_some());
        self.told.push(Told::Enable(index, enabled));
    }

    fn set_call(&mut self, index: usize, call: Option<Arc<Call>>) {
        assert!(self.rings[index].is_some());
        self.told.push(Told::Call(index, call.is_some()));
    }

    fn set_err(&mut self, index: usize, err: Option<Arc<Call>>) {
        assert!(self.rings[index].is_some());
        self.told.push(Told::Err(index, err.is_some()));
    }

    fn announce(&mut self, mac: [u8; 6]) {
        self.told.push(Told::Announce(mac));
    }

    fn mtu_changed(&mut self, mtu: u16) {
        self.told.push(Told::Mtu(mtu));
    }

    fn reset(&mut self) {
        assert!(self.rings.iter().all(Option::is_none));
        self.told.push(Told::Reset);
    }

    fn discard(&mut self, what: Discarded) {
        if let Some(kept) = &mut self.kept {
            kept.push(what);
        }
    }

    fn is_clear(&self) -> bool {
        self.clear
    }
}

/// A reply as it came: request, flags, body.
pub(crate) type Reply = (u32, u32, Vec<u8>);

struct Front {
    stream: UnixStream,
    session: Session,
    device: Mock,
    now: Millis,
}

impl Front {
    fn new() -> Self {
        Self::with(2, Limits::default())
    }

    fn with(pairs: u16, limits: Limits) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let session = Session::new(OwnedFd::from(theirs), pairs, limits);
        let rings = (0..pairs * 2).map(|_| None).collect();
        let device = Mock {
            pairs,
            told: Vec::new(),
            rings,
            clear: true,
            kept: None,
        };
        Self {
            stream: ours,
            session,
            device,
            now: 1_000,
        }
    }

    /// Sends bytes with descriptors as one piece.
    fn send_raw(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        send_raw(&self.stream, bytes, fds);
    }

    fn send(&self, request: u32, flags: u32, body: &[u8], fds: &[BorrowedFd<'_>]) {
        self.send_raw(&message(request, flags, body), fds);
    }

    /// Lets the session work.
    fn step(&mut self) -> Result<(), SessionEnd> {
        self.session.readable(&mut self.device, self.now)
    }

    /// Sends a request without asking for a reply; it must not end the connection.
    fn tell(&mut self, request: u32, body: &[u8], fds: &[BorrowedFd<'_>]) {
        self.send(request, PLAIN, body, fds);
        self.step().unwrap();
    }

    /// Sends a request that has a reply or asks for one, and returns its number.
    fn ask(&mut self, request: u32, flags: u32, body: &[u8], fds: &[BorrowedFd<'_>]) -> u64 {
        self.send(request, flags, body, fds);
        self.step().unwrap();
        let (answered, flags, body) = self.reply().expect("a reply");
        assert_eq!((answered, flags), (request, IS_REPLY));
        u64::from_ne_bytes(body.try_into().unwrap())
    }

    /// Sends a request that must end the connection.
    fn refused(
        mut self,
        request: u32,
        flags: u32,
        body: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> SessionEnd {
        self.send(request, flags, body, fds);
        let end = self.step().unwrap_err();
        self.session.close(&mut self.device);
        assert!(self.device.rings.iter().all(Option::is_none));
        end
    }

    /// The next reply, if there is one.
    fn reply(&mut self) -> Option<Reply> {
        reply(&mut self.stream)
    }

    /// Features, owner and memory; REPLY_ACK and everything else that is offered.
    fn negotiate(&mut self) -> OwnedFd {
        self.negotiate_with(VERSION_1 | PROTOCOL_BIT, features::PROTOCOL_OFFERED)
    }

    fn negotiate_with(&mut self, features: u64, protocol: u64) -> OwnedFd {
        self.tell(SET_PROTOCOL_FEATURES, &protocol.to_ne_bytes(), &[]);
        self.tell(SET_OWNER, &[], &[]);
        self.tell(SET_FEATURES, &features.to_ne_bytes(), &[]);
        let file = memfd(MEM);
        self.tell(
            SET_MEM_TABLE,
            &table(&[[GUEST, MEM, USER, 0]]),
            &[file.as_fd()],
        );
        file
    }

    /// Says all that a ring of 256 entries needs, and enables it.
    fn start_ring(&mut self, index: u32) {
        self.tell(SET_VRING_NUM, &state(index, 256), &[]);
        self.tell(SET_VRING_BASE, &state(index, 0), &[]);
        self.tell(SET_VRING_ADDR, &addr(index), &[]);
        self.tell(
            SET_VRING_CALL,
            &u64::from(index).to_ne_bytes(),
            &[event().as_fd()],
        );
        self.tell(
            SET_VRING_KICK,
            &u64::from(index).to_ne_bytes(),
            &[event().as_fd()],
        );
        self.tell(SET_VRING_ENABLE, &state(index, 1), &[]);
    }

    fn runs(&self, index: usize) -> bool {
        self.device.rings[index].is_some()
    }

    /// What the device was told since the last time.
    fn told(&mut self) -> Vec<Told> {
        std::mem::take(&mut self.device.told)
    }
}

/// Sends bytes with descriptors as one piece.
pub(crate) fn send_raw(stream: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    }
    let sent = sendmsg(
        stream,
        &[IoSlice::new(bytes)],
        &mut control,
        SendFlags::NOSIGNAL,
    );
    assert_eq!(sent.unwrap(), bytes.len());
}

/// The next reply on a non-blocking stream, if there is one.
pub(crate) fn reply(stream: &mut UnixStream) -> Option<Reply> {
    let mut header = [0; 12];
    match stream.read_exact(&mut header) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
        Err(error) => panic!("{error}"),
    }
    let word = |at: usize| u32::from_ne_bytes(header[at..at + 4].try_into().unwrap());
    let mut body = vec![0; word(8) as usize];
    stream.read_exact(&mut body).unwrap();
    Some((word(0), word(4), body))
}

pub(crate) fn message(request: u32, flags: u32, body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(body.len()).unwrap();
    let mut bytes = [request, flags, size].map(u32::to_ne_bytes).concat();
    bytes.extend_from_slice(body);
    bytes
}

pub(crate) fn state(index: u32, num: u32) -> Vec<u8> {
    [index, num].map(u32::to_ne_bytes).concat()
}

/// Ring `index` in the guest's memory: 64 KiB for each, its parts on pages of their own.
pub(crate) fn addr(index: u32) -> Vec<u8> {
    let base = USER + u64::from(index) * 0x1_0000;
    addr_at(index, base, base + 0x4000, base + 0x8000)
}

pub(crate) fn addr_at(index: u32, desc: u64, avail: u64, used: u64) -> Vec<u8> {
    let mut bytes = [index, 0].map(u32::to_ne_bytes).concat();
    bytes.extend([desc, used, avail, 0].map(u64::to_ne_bytes).concat());
    bytes
}

/// Regions as guest address, size, front-end address, file offset.
pub(crate) fn table(regions: &[[u64; 4]]) -> Vec<u8> {
    let mut bytes = [u32::try_from(regions.len()).unwrap(), 0]
        .map(u32::to_ne_bytes)
        .concat();
    for region in regions {
        bytes.extend(region.map(u64::to_ne_bytes).concat());
    }
    bytes
}

pub(crate) fn single(region: [u64; 4]) -> Vec<u8> {
    let [a, b, c, d] = region;
    [0, a, b, c, d].map(u64::to_ne_bytes).concat()
}

pub(crate) fn memfd(size: u64) -> OwnedFd {
    let file = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&file, size).unwrap();
    file
}

pub(crate) fn event() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC).unwrap()
}
