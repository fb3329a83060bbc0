//! QEMU without a guest: the real front-end, and a driver that the test plays by hand.
//!
//! The processor halts at its first instruction; the test programs the PCI device over QEMU's qtest
//! line, as a legacy driver does (VIRTIO 1.2, 4.1.4.8 and 2.7.2): a forged guest may write what no
//! kernel would. It starts in a fraction of a second.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Stdio};

use super::process::Process;
use super::{Bench, Qemu};

/// Where the device's registers are put, in I/O space.
const REGISTERS: u32 = 0xc000;
/// Slot 4 of the first bus.
const SLOT: u32 = 0x8000_0000 | (4 << 11);
/// Guest memory: the rings of queue n begin at `RINGS + n * RING_STRIDE`, buffers at `BUFFERS`.
const RINGS: u64 = 0x10_0000;
const RING_STRIDE: u64 = 0x1_0000;
const BUFFERS: u64 = 0x40_0000;
/// A buffer holds the legacy header and the largest frame without offloads.
const BUFFER: u64 = 2048;
/// `struct virtio_net_hdr` of a legacy driver without mergeable buffers (VIRTIO 1.2, 5.1.6.1).
const HEADER: usize = 10;

/// Registers of a legacy device (VIRTIO 1.2, 4.1.4.8).
mod register {
    pub(super) const HOST_FEATURES: u32 = 0;
    pub(super) const GUEST_FEATURES: u32 = 4;
    pub(super) const QUEUE_ADDRESS: u32 = 8;
    pub(super) const QUEUE_SIZE: u32 = 12;
    pub(super) const QUEUE_SELECT: u32 = 14;
    pub(super) const QUEUE_NOTIFY: u32 = 16;
    pub(super) const STATUS: u32 = 18;
}

/// The guest receives on queue 0 and transmits on queue 1.
pub(crate) const RX: u16 = 0;
pub(crate) const TX: u16 = 1;

/// A VMM whose guest is the test.
pub(crate) struct Bare {
    _vmm: Process,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
    sizes: [u16; 2],
    next_avail: [u16; 2],
    next_used: [u16; 2],
}

impl Bare {
    /// Starts QEMU on the socket, which must have a back-end. The device is not driven yet.
    pub(crate) fn start(bench: &Bench, name: &str, qemu: Qemu, socket: &Path) -> Self {
        let mut command = qemu.command();
        let firmware = bench.path("halt.bin");
        // `cli; hlt` everywhere, so also where the processor begins.
        std::fs::write(&firmware, [0xfa_u8, 0xf4].repeat(32 * 1024)).expect("the firmware");
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(bench.path(&format!("{name}.qemu.log")))
            .expect("a log file");
        let mut child = command
            .args(["-accel", "tcg", "-qtest", "stdio", "-m", "64M"])
            .args(["-nodefaults", "-no-user-config", "-display", "none"])
            .args(["-object", "memory-backend-memfd,id=m,size=64M,share=on"])
            .args(["-machine", "pc,memory-backend=m"])
            .arg("-bios")
            .arg(firmware)
            .arg("-chardev")
            .arg(format!(
                "socket,id=c,path={},{}",
                socket.display(),
                qemu.reconnect()
            ))
            .args(["-netdev", "vhost-user,id=n,chardev=c"])
            .args([
                "-device",
                "virtio-net-pci,netdev=n,romfile=,addr=4,vectors=0,mrg_rxbuf=off",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|why| panic!("{name}: {why}"));
        let ask = child.stdin.take().expect("piped");
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        let vmm = Process::adopt(name, child);
        let mut bare = Self {
            _vmm: vmm,
            ask,
            answers,
            sizes: [0; 2],
            next_avail: [0; 2],
            next_used: [0; 2],
        };
        bare.configure();
        bare
    }

    fn command(&mut self, text: &str) -> String {
        writeln!(self.ask, "{text}").expect("QEMU is there");
        loop {
            let mut line = String::new();
            let got = self.answers.read_line(&mut line).expect("QEMU's answer");
            assert!(got > 0, "QEMU ended at: {text}");
            // "[R +0.1] ..." is its log and "IRQ ..." an interrupt; the rest is the answer.
            if let Some(answer) = line.strip_prefix("OK") {
                return answer.trim().to_owned();
            }
            assert!(
                !line.starts_with("FAIL") && !line.starts_with("ERR"),
                "{text}: {line}"
            );
        }
    }

    fn number(&mut self, text: &str) -> u64 {
        let answer = self.command(text);
        let digits = answer.trim_start_matches("0x");
        u64::from_str_radix(digits, 16).unwrap_or_else(|why| panic!("{text}: {answer}: {why}"))
    }

    /// Gives the device its registers and lets it reach memory (PCI 3.0, 6.2).
    fn configure(&mut self) {
        for (offset, value) in [(0x10, REGISTERS), (0x04, 0b111)] {
            self.command(&format!("outl 0xcf8 {:#x}", SLOT | offset));
            self.command(&format!("outl 0xcfc {value:#x}"));
        }
    }

    fn set(&mut self, width: char, register: u32, value: u32) {
        self.command(&format!(
            "out{width} {:#x} {value:#x}",
            REGISTERS + register
        ));
    }

    fn get(&mut self, width: char, register: u32) -> u64 {
        self.number(&format!("in{width} {:#x}", REGISTERS + register))
    }

    pub(crate) fn write(&mut self, address: u64, bytes: &[u8]) {
        let mut text = format!("write {address:#x} {:#x} 0x", bytes.len());
        for byte in bytes {
            let _ = write!(text, "{byte:02x}");
        }
        self.command(&text);
    }

    pub(crate) fn read(&mut self, address: u64, length: usize) -> Vec<u8> {
        let text = self.command(&format!("read {address:#x} {length:#x}"));
        let digits = text.trim_start_matches("0x");
        let byte = |at: usize| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).expect("hex");
        (0..length).map(byte).collect()
    }

    fn read_u16(&mut self, address: u64) -> u16 {
        let bytes = self.read(address, 2);
        u16::from_le_bytes([bytes[0], bytes[1]])
    }

    /// Resets the device, as a driver does first, and as a reboot does.
    pub(crate) fn reset(&mut self) {
        self.set('b', register::STATUS, 0);
        self.next_avail = [0; 2];
        self.next_used = [0; 2];
    }

    /// Drives the device up to DRIVER_OK (VIRTIO 1.2, 3.1.1) with fresh rings, no offloads, and
    /// every RX buffer posted.
    pub(crate) fn drive(&mut self) {
        self.reset();
        self.set('b', register::STATUS, 1);
        self.set('b', register::STATUS, 3);
        // Nothing of what the device has: only that its registers answer.
        assert_ne!(self.get('l', register::HOST_FEATURES), 0);
        self.set('l', register::GUEST_FEATURES, 0);
        for queue in [RX, TX] {
            self.set('w', register::QUEUE_SELECT, u32::from(queue));
            let size = self.get('w', register::QUEUE_SIZE);
            self.sizes[usize::from(queue)] = u16::try_from(size).expect("a queue size");
            let rings = ring(queue);
            self.command(&format!("memset {rings:#x} {RING_STRIDE:#x} 0x0"));
            let page = u32::try_from(rings / 4096).expect("low memory");
            self.set('l', register::QUEUE_ADDRESS, page);
        }
        for index in 0..self.sizes[0] {
            self.describe(
                RX,
                index,
                buffer(RX, index),
                u32::try_from(BUFFER).expect("small"),
                2,
            );
            self.offer(RX, index);
        }
        self.set('b', register::STATUS, 7);
        self.notify(RX);
    }

    /// Writes one descriptor: VIRTIO 1.2, 2.7.5.
    pub(crate) fn describe(&mut self, queue: u16, at: u16, address: u64, length: u32, flags: u16) {
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&flags.to_le_bytes());
        bytes.extend_from_slice(&[0, 0]);
        self.write(ring(queue) + 16 * u64::from(at), &bytes);
    }

    /// Puts a head into the available ring and moves its index.
    pub(crate) fn offer(&mut self, queue: u16, head: u16) {
        let n = usize::from(queue);
        let at = self.avail(queue) + 4 + 2 * u64::from(self.next_avail[n] % self.sizes[n]);
        self.write(at, &head.to_le_bytes());
        self.next_avail[n] = self.next_avail[n].wrapping_add(1);
        self.forge_avail_index(queue, self.next_avail[n]);
    }

    /// Writes the available index itself, right or wrong.
    pub(crate) fn forge_avail_index(&mut self, queue: u16, index: u16) {
        let at = self.avail(queue) + 2;
        self.write(at, &index.to_le_bytes());
    }

    pub(crate) fn notify(&mut self, queue: u16) {
        self.set('w', register::QUEUE_NOTIFY, u32::from(queue));
    }

    /// Sends a frame; its buffer is used again only after the ring went round.
    pub(crate) fn send(&mut self, frame: &[u8]) {
        let head = self.next_avail[1] % self.sizes[1];
        let mut bytes = vec![0; HEADER];
        bytes.extend_from_slice(frame);
        let at = buffer(TX, head);
        self.write(at, &bytes);
        self.describe(TX, head, at, u32::try_from(bytes.len()).expect("small"), 0);
        self.offer(TX, head);
        self.notify(TX);
    }

    /// The next received frame, without its header, if there is one. Its buffer is posted again.
    pub(crate) fn receive(&mut self) -> Option<Vec<u8>> {
        let used = self.used(RX);
        if self.read_u16(used + 2) == self.next_used[0] {
            return None;
        }
        let entry = used + 4 + 8 * u64::from(self.next_used[0] % self.sizes[0]);
        let head = self.read_u16(entry);
        let length = usize::from(self.read_u16(entry + 4));
        let bytes = self.read(buffer(RX, head), length);
        self.next_used[0] = self.next_used[0].wrapping_add(1);
        self.offer(RX, head);
        Some(bytes[HEADER..].to_vec())
    }

    /// How many heads of a queue the switch has returned, modulo 2^16.
    pub(crate) fn returned(&mut self, queue: u16) -> u16 {
        let used = self.used(queue);
        self.read_u16(used + 2)
    }

    fn avail(&self, queue: u16) -> u64 {
        ring(queue) + 16 * u64::from(self.sizes[usize::from(queue)])
    }

    /// VIRTIO 1.2, 2.7.2: the used ring begins on the next page.
    fn used(&self, queue: u16) -> u64 {
        let end = self.avail(queue) + 4 + 2 * u64::from(self.sizes[usize::from(queue)]) + 2;
        end.next_multiple_of(4096)
    }
}

fn ring(queue: u16) -> u64 {
    RINGS + RING_STRIDE * u64::from(queue)
}

fn buffer(queue: u16, index: u16) -> u64 {
    BUFFERS + BUFFER * (u64::from(queue) * 1024 + u64::from(index))
}
