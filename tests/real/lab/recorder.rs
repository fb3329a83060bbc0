//! Between a front-end and a back-end: passes every vhost-user message on with its descriptors, and
//! writes down what went by. What QEMU really sends, in its order, is thereby on record.

use std::fmt::Write as _;
use std::io::{IoSlice, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// vhost-user, "Header": request, flags, size, each 32 bits.
const HEADER: usize = 12;
const REPLY: u32 = 1 << 2;
/// vhost-user: VHOST_MEMORY_BASELINE_NREGIONS; no message carries more descriptors.
const MAX_FDS: usize = 8;

/// One message that went by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) request: u32,
    pub(crate) flags: u32,
    pub(crate) body: Vec<u8>,
    pub(crate) fds: usize,
}

impl Message {
    pub(crate) fn is_reply(&self) -> bool {
        self.flags & REPLY != 0
    }

    /// One line: direction, request, flags, descriptors, body.
    pub(crate) fn line(&self) -> String {
        let arrow = if self.is_reply() { '<' } else { '>' };
        let mut line = format!(
            "{arrow} {} {:#x} fds={} ",
            name(self.request),
            self.flags,
            self.fds
        );
        for byte in &self.body {
            let _ = write!(line, "{byte:02x}");
        }
        line
    }

    pub(crate) fn name(&self) -> &'static str {
        name(self.request)
    }

    /// The body as a number, which most requests have.
    pub(crate) fn value(&self) -> u64 {
        self.body
            .first_chunk()
            .map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }
}

/// vhost-user, "Front-end message types".
fn name(request: u32) -> &'static str {
    const NAMES: [&str; 44] = [
        "NONE",
        "GET_FEATURES",
        "SET_FEATURES",
        "SET_OWNER",
        "RESET_OWNER",
        "SET_MEM_TABLE",
        "SET_LOG_BASE",
        "SET_LOG_FD",
        "SET_VRING_NUM",
        "SET_VRING_ADDR",
        "SET_VRING_BASE",
        "GET_VRING_BASE",
        "SET_VRING_KICK",
        "SET_VRING_CALL",
        "SET_VRING_ERR",
        "GET_PROTOCOL_FEATURES",
        "SET_PROTOCOL_FEATURES",
        "GET_QUEUE_NUM",
        "SET_VRING_ENABLE",
        "SEND_RARP",
        "NET_SET_MTU",
        "SET_BACKEND_REQ_FD",
        "IOTLB_MSG",
        "SET_VRING_ENDIAN",
        "GET_CONFIG",
        "SET_CONFIG",
        "CREATE_CRYPTO_SESSION",
        "CLOSE_CRYPTO_SESSION",
        "POSTCOPY_ADVISE",
        "POSTCOPY_LISTEN",
        "POSTCOPY_END",
        "GET_INFLIGHT_FD",
        "SET_INFLIGHT_FD",
        "GPU_SET_SOCKET",
        "RESET_DEVICE",
        "VRING_KICK",
        "GET_MAX_MEM_SLOTS",
        "ADD_MEM_REG",
        "REM_MEM_REG",
        "SET_STATUS",
        "GET_STATUS",
        "GET_SHARED_OBJECT",
        "SET_DEVICE_STATE_FD",
        "CHECK_DEVICE_STATE",
    ];
    usize::try_from(request)
        .ok()
        .and_then(|at| NAMES.get(at))
        .copied()
        .unwrap_or("UNKNOWN")
}

/// Records until both sides are gone.
pub(crate) struct Recorder {
    seen: Arc<Mutex<Vec<Message>>>,
}

impl Recorder {
    /// Listens on `front` for one front-end after the other, and connects each to `back`.
    pub(crate) fn start(front: &Path, back: &Path) -> Self {
        let listener = UnixListener::bind(front).expect("the recorder's socket");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (back, messages) = (back.to_owned(), Arc::clone(&seen));
        // The threads end with their sockets; the listener's with the process.
        std::thread::spawn(move || {
            while let Ok((front, _)) = listener.accept() {
                let Ok(back) = UnixStream::connect(&back) else {
                    continue;
                };
                let (front_too, back_too) = (front.try_clone(), back.try_clone());
                let (Ok(front_too), Ok(back_too)) = (front_too, back_too) else {
                    continue;
                };
                let replies = Arc::clone(&messages);
                std::thread::spawn(move || pass(&back_too, &front_too, &replies));
                let requests = Arc::clone(&messages);
                std::thread::spawn(move || pass(&front, &back, &requests));
            }
        });
        Self { seen }
    }

    /// What has gone by so far.
    pub(crate) fn seen(&self) -> Vec<Message> {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Passes messages from one side to the other until one of them is gone; then closes both.
fn pass(from: &UnixStream, to: &UnixStream, seen: &Mutex<Vec<Message>>) {
    while let Some((message, bytes, fds)) = read(from) {
        // Written down first: whoever saw the answer finds the question on record.
        seen.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(message);
        if !write(to, &bytes, &fds) {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
    let _ = from.shutdown(std::net::Shutdown::Both);
}

fn read(from: &UnixStream) -> Option<(Message, Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = vec![0; HEADER];
    let mut fds = Vec::new();
    fill(from, &mut bytes, &mut fds)?;
    let word = |at: usize| {
        let word = bytes.get(at..at + 4)?.first_chunk()?;
        Some(u32::from_le_bytes(*word))
    };
    let (request, flags, size) = (word(0)?, word(4)?, word(8)?);
    let mut body = vec![0; usize::try_from(size).ok().filter(|size| *size <= 4096)?];
    fill(from, &mut body, &mut fds)?;
    bytes.extend_from_slice(&body);
    Some((
        Message {
            request,
            flags,
            body,
            fds: fds.len(),
        },
        bytes,
        fds,
    ))
}

fn fill(from: &UnixStream, mut into: &mut [u8], fds: &mut Vec<OwnedFd>) -> Option<()> {
    while !into.is_empty() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let slices = &mut [IoSliceMut::new(into)];
        let got = recvmsg(from, slices, &mut control, RecvFlags::CMSG_CLOEXEC)
            .ok()?
            .bytes;
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(passed) = part {
                fds.extend(passed);
            }
        }
        if got == 0 {
            return None;
        }
        into = &mut into[got..];
    }
    Some(())
}

fn write(mut to: &UnixStream, bytes: &[u8], fds: &[OwnedFd]) -> bool {
    let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !borrowed.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&borrowed)) {
        return false;
    }
    match sendmsg(
        to,
        &[IoSlice::new(bytes)],
        &mut control,
        SendFlags::NOSIGNAL,
    ) {
        Ok(sent) => to.write_all(&bytes[sent..]).is_ok(),
        Err(_) => false,
    }
}
