//! A front-end that says anything: whole requests, half ones, with descriptors of every kind.

use std::io::{IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use arbitrary::Arbitrary;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, Mode, OFlags, ftruncate, memfd_create, open};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// GET_FEATURES, SET_OWNER, RESET_OWNER, GET_PROTOCOL_FEATURES, GET_QUEUE_NUM, RESET_DEVICE,
/// GET_MAX_MEM_SLOTS, GET_STATUS.
const PLAIN: [u32; 8] = [1, 3, 4, 15, 17, 34, 36, 40];
/// SET_FEATURES, SET_PROTOCOL_FEATURES, SEND_RARP, NET_SET_MTU, SET_STATUS.
const VALUE: [u32; 5] = [2, 16, 19, 20, 39];
/// SET_VRING_NUM, SET_VRING_BASE, GET_VRING_BASE, SET_VRING_ENABLE.
const STATE: [u32; 4] = [8, 10, 11, 18];

const MEMORY: u64 = 0x2_0000;
const USER: u64 = 0x7f00_0000_0000;
/// Indices of rings that are made up: half of them exist.
const RINGS: u8 = 8;
/// Descriptors of one message, at most: one more than the protocol allows.
const MAX_FDS: usize = 33;

/// What it does next.
#[derive(Arbitrary, Debug)]
pub enum Act {
    /// Features: what is offered, and perhaps more.
    Features(u64),
    ProtocolFeatures(u32),
    /// A request without a body, of [`PLAIN`].
    Plain(u8),
    /// A request with a 64-bit value, of [`VALUE`].
    Value {
        request: u8,
        value: u64,
    },
    /// A request with two 32-bit values, of [`STATE`].
    State {
        request: u8,
        index: u8,
        value: u16,
    },
    MemTable {
        regions: Vec<Place>,
        fds: Fds,
    },
    Region {
        add: bool,
        place: Place,
        fds: Fds,
    },
    /// SET_VRING_ADDR.
    Addr {
        index: u8,
        at: u16,
        odd: Option<[u64; 3]>,
    },
    /// Everything that a ring needs, so that it runs.
    Ring {
        index: u8,
        size_log: u8,
        at: u8,
    },
    /// SET_VRING_KICK, CALL or ERR.
    Doorbell {
        which: u8,
        index: u8,
        without: bool,
        fds: Fds,
    },
    /// Any header, any body.
    Raw {
        request: u32,
        flags: u32,
        size: u32,
        body: Vec<u8>,
        fds: Fds,
    },
    /// Bytes, in the middle of anything.
    Bytes {
        bytes: Vec<u8>,
        fds: Fds,
    },
    /// The file behind the memory shrinks.
    Truncate(u16),
    /// Writes to the memory.
    Poke {
        at: u16,
        bytes: [u8; 8],
    },
    /// Time passes, in seconds.
    Wait(u8),
}

/// A region of guest memory.
#[derive(Arbitrary, Debug)]
pub enum Place {
    /// All of the file.
    Whole,
    /// Half of it, where the other half can be beside it.
    Half { second: bool },
    Any {
        guest: u64,
        size: u64,
        user: u64,
        offset: u64,
    },
}

/// Descriptors of a message.
#[derive(Arbitrary, Debug)]
pub enum Fds {
    /// Those that it needs.
    Right,
    None,
    Any(Vec<Kind>),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Kind {
    Memory,
    Eventfd,
    Null,
    Socket,
    Directory,
}

/// One end of the connection, and what it hands out.
pub struct FrontEnd {
    socket: UnixStream,
    memory: OwnedFd,
    eventfd: OwnedFd,
    null: OwnedFd,
    directory: OwnedFd,
    /// Whether requests ask for a reply.
    pub asks: bool,
}

impl FrontEnd {
    pub fn new(socket: UnixStream, asks: bool) -> Self {
        socket.set_nonblocking(true).expect("nonblocking");
        let memory = memfd_create("fuzz", MemfdFlags::CLOEXEC).expect("memfd");
        ftruncate(&memory, MEMORY).expect("room");
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC).expect("eventfd");
        let open = |path| open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let (null, directory) = (open("/dev/null").expect("null"), open("/").expect("root"));
        Self {
            socket,
            memory,
            eventfd,
            null,
            directory,
            asks,
        }
    }

    /// Does it. Seconds that pass.
    pub fn act(&self, act: &Act) -> u64 {
        match act {
            Act::Features(bits) => self.say(2, &bits.to_le_bytes(), &[]),
            Act::ProtocolFeatures(bits) => self.say(16, &u64::from(*bits).to_le_bytes(), &[]),
            Act::Plain(request) => self.say(pick(&PLAIN, *request), &[], &[]),
            Act::Value { request, value } => {
                self.say(pick(&VALUE, *request), &value.to_le_bytes(), &[]);
            }
            Act::State {
                request,
                index,
                value,
            } => {
                self.say(pick(&STATE, *request), &state(*index % RINGS, *value), &[]);
            }
            Act::MemTable { regions, fds } => {
                let mut body = [(regions.len() as u32).to_le_bytes(), [0; 4]].concat();
                body.extend(regions.iter().flat_map(Place::bytes));
                self.say(5, &body, &fds.of(&vec![Kind::Memory; regions.len()]));
            }
            Act::Region { add, place, fds } => {
                let body = [[0; 8].as_slice(), &place.bytes()].concat();
                let right: &[Kind] = if *add { &[Kind::Memory] } else { &[] };
                self.say(if *add { 37 } else { 38 }, &body, &fds.of(right));
            }
            Act::Addr { index, at, odd } => {
                let at = USER + u64::from(*at);
                self.address(*index, odd.unwrap_or([at, at + 0x800, at + 0x400]));
            }
            Act::Ring {
                index,
                size_log,
                at,
            } => {
                let index = &(index % RINGS);
                let at = USER + u64::from(*at % 16) * 0x1000;
                self.say(8, &state(*index, 1 << (size_log % 6)), &[]);
                self.say(10, &state(*index, 0), &[]);
                self.address(*index, [at, at + 0x800, at + 0x400]);
                self.say(13, &u64::from(*index).to_le_bytes(), &[Kind::Eventfd]);
                self.say(12, &u64::from(*index).to_le_bytes(), &[Kind::Eventfd]);
                self.say(18, &state(*index, 1), &[]);
            }
            Act::Doorbell {
                which,
                index,
                without,
                fds,
            } => {
                let value = u64::from(*index) | if *without { 0x100 } else { 0 };
                let right: &[Kind] = if *without { &[] } else { &[Kind::Eventfd] };
                self.say(
                    12 + u32::from(which % 3),
                    &value.to_le_bytes(),
                    &fds.of(right),
                );
            }
            Act::Raw {
                request,
                flags,
                size,
                body,
                fds,
            } => {
                let header = [request, flags, size]
                    .map(|field| field.to_le_bytes())
                    .concat();
                self.send(&[header, body.clone()].concat(), &fds.of(&[]));
            }
            Act::Bytes { bytes, fds } => self.send(bytes, &fds.of(&[])),
            Act::Truncate(len) => ftruncate(&self.memory, u64::from(*len)).expect("shrink"),
            Act::Poke { at, bytes } => {
                let _ = rustix::io::pwrite(&self.memory, bytes, u64::from(*at));
            }
            Act::Wait(seconds) => return (*seconds).into(),
        }
        0
    }

    /// Reads what came back and throws it away.
    pub fn drain(&mut self) {
        let mut bytes = [0; 4096];
        while self.socket.read(&mut bytes).is_ok_and(|len| len > 0) {}
    }

    fn address(&self, index: u8, [desc, used, avail]: [u64; 3]) {
        let mut body = [u32::from(index).to_le_bytes(), [0; 4]].concat();
        body.extend([desc, used, avail, 0].map(u64::to_le_bytes).concat());
        self.say(9, &body, &[]);
    }

    /// A request with a true header.
    fn say(&self, request: u32, body: &[u8], fds: &[Kind]) {
        let flags = if self.asks { 1 | 8 } else { 1 };
        let header = [request, flags, body.len() as u32]
            .map(u32::to_le_bytes)
            .concat();
        self.send(&[&header, body].concat(), fds);
    }

    fn send(&self, bytes: &[u8], kinds: &[Kind]) {
        let fds: Vec<BorrowedFd<'_>> = kinds
            .iter()
            .take(MAX_FDS)
            .map(|kind| match kind {
                Kind::Memory => self.memory.as_fd(),
                Kind::Eventfd => self.eventfd.as_fd(),
                Kind::Null => self.null.as_fd(),
                Kind::Socket => self.socket.as_fd(),
                Kind::Directory => self.directory.as_fd(),
            })
            .collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        }
        // A peer that hung up, or reads too slowly, is the front-end's trouble.
        let _ = sendmsg(
            &self.socket,
            &[IoSlice::new(bytes)],
            &mut control,
            SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
        );
    }
}

impl Place {
    fn bytes(&self) -> [u8; 32] {
        let fields = match self {
            Self::Whole => [0, MEMORY, USER, 0],
            Self::Half { second } => {
                let start = if *second { MEMORY / 2 } else { 0 };
                [start, MEMORY / 2, USER + start, start]
            }
            Self::Any {
                guest,
                size,
                user,
                offset,
            } => [*guest, *size, *user, *offset],
        };
        let mut bytes = [0; 32];
        for (to, field) in bytes.chunks_exact_mut(8).zip(fields) {
            to.copy_from_slice(&field.to_le_bytes());
        }
        bytes
    }
}

impl Fds {
    fn of(&self, right: &[Kind]) -> Vec<Kind> {
        match self {
            Self::Right => right.to_vec(),
            Self::None => Vec::new(),
            Self::Any(kinds) => kinds.clone(),
        }
    }
}

fn pick(requests: &[u32], index: u8) -> u32 {
    requests[usize::from(index) % requests.len()]
}

fn state(index: u8, value: u16) -> [u8; 8] {
    let [i, v] = [u32::from(index), u32::from(value)].map(u32::to_le_bytes);
    [i[0], i[1], i[2], i[3], v[0], v[1], v[2], v[3]]
}
