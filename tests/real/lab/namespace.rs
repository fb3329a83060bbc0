//! A network namespace of the test's own, and TAP devices in it: whole frames, tags and all, in and out of the kernel.
//!
//! It needs root (CAP_SYS_ADMIN, CAP_NET_ADMIN) and `/dev/net/tun`. Nothing of it outlives the test: the namespace goes with
//! the thread and the children that are in it, a TAP device with its descriptor.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Stdio};

use rustix::ioctl::{Setter, ioctl};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// `TUNSETIFF`, `_IOW('T', 202, int)` of linux/if_tun.h.
const TUNSETIFF: rustix::ioctl::Opcode = 0x4004_54ca;
/// Whole Ethernet frames, and no header of the kernel's before them.
const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;

/// `struct ifreq` as TUNSETIFF reads it.
#[repr(C)]
struct Request {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// Puts the calling thread, and what it starts from now on, into a network namespace of its own, without IPv6: the kernel
/// says nothing there by itself.
pub(crate) fn enter_silent_network() {
    enter_network();
    for name in ["all", "default"] {
        setting(&format!("ipv6/conf/{name}/disable_ipv6"), "1");
    }
}

/// The same with all that a host has.
#[expect(unsafe_code, reason = "there is no safe call for it")]
pub(crate) fn enter_network() {
    // SAFETY: NEWNET concerns no descriptors and no memory; other threads stay where they are.
    let entered = unsafe { unshare_unsafe(UnshareFlags::NEWNET) };
    entered.unwrap_or_else(|why| panic!("a network namespace (this test needs root): {why}"));
    command("ip", &["link", "set", "dev", "lo", "up"]);
}

/// Sets `/proc/sys/net/NAME` of the namespace.
pub(crate) fn setting(name: &str, value: &str) {
    let path = format!("/proc/sys/net/{name}");
    std::fs::write(&path, value).unwrap_or_else(|why| panic!("{path}: {why}"));
}

/// Runs a program of Debian in the namespace, which must succeed; what it printed.
pub(crate) fn command(program: &str, arguments: &[&str]) -> String {
    fed(program, arguments, "")
}

/// The same with `input` for it to read.
pub(crate) fn fed(program: &str, arguments: &[&str], input: &str) -> String {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|why| panic!("{program} (lab/setup.sh installs it): {why}"));
    let mut pipe = child.stdin.take().expect("a pipe");
    pipe.write_all(input.as_bytes()).expect("its input");
    drop(pipe);
    let output = child.wait_with_output().expect("its end");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {}: {errors}\n{input}",
        arguments.join(" ")
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A TAP device: what is sent comes in by it, what the kernel sends out by it is received.
pub(crate) struct Tap(File);

impl Tap {
    /// Makes one, and sets it up.
    #[expect(unsafe_code, reason = "there is no safe call for it")]
    pub(crate) fn new(name: &str) -> Self {
        let file = File::options()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")
            .unwrap_or_else(|why| panic!("/dev/net/tun (this test needs root): {why}"));
        let mut request = Request {
            name: [0; 16],
            flags: IFF_TAP | IFF_NO_PI,
            rest: [0; 22],
        };
        request.name[..name.len()].copy_from_slice(name.as_bytes());
        // SAFETY: the kernel reads a `struct ifreq` for TUNSETIFF, which `Request` is.
        let setter = unsafe { Setter::<TUNSETIFF, Request>::new(request) };
        // SAFETY: the descriptor is open, and the call has no effect on this process's memory.
        let made = unsafe { ioctl(&file, setter) };
        made.unwrap_or_else(|why| panic!("the TAP device {name} (this test needs root): {why}"));
        command("ip", &["link", "set", "dev", name, "up"]);
        Self(file)
    }

    /// A frame comes in.
    pub(crate) fn send(&mut self, frame: &[u8]) {
        let sent = self.0.write(frame).expect("a frame for the kernel");
        assert_eq!(sent, frame.len());
    }

    /// The next frame that went out, if there is one.
    pub(crate) fn receive(&mut self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 65_536];
        match self.0.read(&mut buffer) {
            Ok(len) => {
                buffer.truncate(len);
                Some(buffer)
            }
            Err(why) if why.kind() == ErrorKind::WouldBlock => None,
            Err(why) => panic!("a frame of the kernel's: {why}"),
        }
    }
}
