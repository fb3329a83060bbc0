//! A FUSE file system with one file that nobody but this process can close: the server answers no other.
//!
//! It is mounted nowhere: the file is opened through the descriptor of the mount, so that nothing stays behind. And this
//! process keeps the file open no longer than it takes to give it away: killed with it open, it would itself wait for the answer.

#![allow(unreachable_pub, reason = "tests of several kinds include it")]

use std::fs::File;
use std::io::{PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};

const LOOKUP: u32 = 1;
const OPEN: u32 = 14;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const ENOSYS: u32 = 38;
const REGULAR: u32 = 0o100_000;

/// The file system. When it is dropped it ends, and whoever waits for an answer gets an error.
#[derive(Debug)]
pub struct Silent {
    end: Option<PipeWriter>,
    server: Option<JoinHandle<()>>,
    closing: Receiver<()>,
    asked: Arc<AtomicUsize>,
    mount: OwnedFd,
}

impl Silent {
    /// Makes the file system. None where that is not allowed: it takes root and /dev/fuse.
    pub fn new() -> Option<Self> {
        let device = File::options()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .ok()?;
        let mount = match mount(&device) {
            Err(Errno::PERM | Errno::ACCESS | Errno::NODEV) => return None,
            mounted => mounted.unwrap(),
        };
        let (ended, end) = std::io::pipe().unwrap();
        let (say, closing) = channel();
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        let server = std::thread::spawn(move || {
            let mut ready = [
                PollFd::new(&device, PollFlags::IN),
                PollFd::new(&ended, PollFlags::IN),
            ];
            loop {
                match poll(&mut ready, None) {
                    Err(Errno::INTR) => continue,
                    polled => polled.unwrap(),
                };
                if !ready[1].revents().is_empty() {
                    return;
                }
                counted.fetch_add(1, Ordering::SeqCst);
                if !answer(&device) {
                    let _ = say.send(());
                }
            }
        });
        Some(Self {
            end: Some(end),
            server: Some(server),
            closing,
            asked,
            mount,
        })
    }

    /// Opens the file for reading and writing, and has it used. Whoever keeps a duplicate cannot close it.
    pub fn give<T>(&self, to: impl FnOnce(BorrowedFd<'_>) -> T) -> T {
        let how = OFlags::RDWR | OFlags::CLOEXEC;
        let file = openat(&self.mount, "file", how, Mode::empty()).unwrap();
        to(file.as_fd())
    }

    /// Requests that came so far, for a file that is not asked about is not waited for.
    #[allow(dead_code, reason = "not every test that includes this needs it")]
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// Waits until somebody else asked something, and so waits for an answer that does not come.
    #[allow(dead_code, reason = "not every test that includes this needs it")]
    pub fn await_close(&self, patience: Duration) {
        self.closing.recv_timeout(patience).unwrap();
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.end = None;
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

/// Takes one request, and answers it if this process made it.
fn answer(mut device: &File) -> bool {
    let mut request = vec![0; 1 << 20];
    let len = device.read(&mut request).unwrap();
    let word = |at: usize| u32::from_ne_bytes(request[..len][at..at + 4].try_into().unwrap());
    // fuse_in_header: length, opcode, a number of 64 bits, a node of 64 bits, user, group, thread.
    let (opcode, unique, thread) = (word(4), [word(8), word(12)], word(32));
    let ours = opcode == INIT || Path::new(&format!("/proc/self/task/{thread}")).exists();
    if !ours {
        return false;
    }
    let mut body = Vec::new();
    let mut error = 0u32;
    match opcode {
        INIT => words(
            &mut body,
            &[7, 31, 0, 0, 0, 4096, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ),
        LOOKUP => {
            words(&mut body, &[2, 0, 0, 0, 60, 0, 60, 0, 0, 0]); // node 2, valid for a minute
            attributes(&mut body);
        }
        OPEN => words(&mut body, &[1, 0, 0, 0]),
        FLUSH => {}
        _ => error = ENOSYS,
    }
    let mut reply = Vec::new();
    let len = u32::try_from(16 + body.len()).unwrap();
    words(&mut reply, &[len, error.wrapping_neg()]);
    words(&mut reply, &unique);
    reply.extend(body);
    // Some requests (RELEASE, FORGET) want no answer, or none any more.
    let _ = device.write_all(&reply);
    true
}

fn mount(device: &File) -> Result<OwnedFd, Errno> {
    let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let fd = device.as_raw_fd().to_string();
    for (key, value) in [
        ("fd", fd.as_str()),
        ("rootmode", "40000"),
        ("user_id", "0"),
        ("group_id", "0"),
    ] {
        fsconfig_set_string(&context, key, value)?;
    }
    fsconfig_create(&context)?;
    fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )
}

fn words(of: &mut Vec<u8>, values: &[u32]) {
    of.extend(values.iter().flat_map(|value| value.to_ne_bytes()));
}

/// Attributes of a regular file for everybody, one page long (fuse_attr: 88 bytes).
fn attributes(of: &mut Vec<u8>) {
    words(of, &[2, 0, 4096, 0, 8, 0]); // inode, size and blocks, 64 bits each
    words(of, &[0; 9]); // times
    words(of, &[REGULAR | 0o666, 1, 0, 0, 0, 4096, 0]);
}
