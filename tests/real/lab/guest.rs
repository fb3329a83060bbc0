//! Unmodified QEMU guests, emulated: Debian's kernel, a small ram disk, an agent on a serial line.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::agent::Agent;
use super::process::Process;
use super::{Bench, PATIENCE, artefacts, until};

/// Which QEMU runs the guest. Under emulation 7.2 crashes with vhost-user and MSI-X, so it covers
/// INTx (`vectors=0`), and 10 covers MSI-X.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Qemu {
    V7,
    V10,
}

impl Qemu {
    pub(crate) fn command(self) -> Command {
        match self {
            Self::V7 => Command::new("qemu-system-x86_64"),
            Self::V10 => {
                let tree = artefacts().join("qemu10/usr");
                let mut command = Command::new(tree.join("bin/qemu-system-x86_64"));
                command
                    .env("QEMU_MODULE_DIR", tree.join("lib/x86_64-linux-gnu/qemu"))
                    .arg("-L")
                    .arg(tree.join("share/seabios"))
                    .arg("-L")
                    .arg(tree.join("share/qemu"));
                command
            }
        }
    }

    /// The chardev option that makes a client try again after a lost connection.
    pub(crate) fn reconnect(self) -> &'static str {
        match self {
            Self::V7 => "reconnect=1",
            Self::V10 => "reconnect-ms=100",
        }
    }
}

/// What a guest is to be; `boot` makes it.
#[derive(Clone, Debug)]
pub(crate) struct GuestSpec {
    name: String,
    qemu: Qemu,
    socket: PathBuf,
    number: u8,
    serves: bool,
    pairs: u16,
    mtu: u16,
    device: Vec<String>,
}

impl GuestSpec {
    /// A guest `name` on the vhost-user socket `socket`. Its number (1 to 254) makes its MAC
    /// address 52:54:00:00:00:<number> and its IPv4 address 10.9.0.<number>.
    pub(crate) fn new(name: &str, qemu: Qemu, socket: impl AsRef<Path>, number: u8) -> Self {
        Self {
            name: name.to_owned(),
            qemu,
            socket: socket.as_ref().to_owned(),
            number,
            serves: false,
            pairs: 1,
            mtu: 1500,
            device: Vec::new(),
        }
    }

    /// QEMU listens on the socket and the switch connects.
    pub(crate) fn serving(mut self) -> Self {
        self.serves = true;
        self
    }

    pub(crate) fn pairs(mut self, pairs: u16) -> Self {
        self.pairs = pairs;
        self
    }

    /// The MTU that the guest sets on its interface.
    pub(crate) fn mtu(mut self, mtu: u16) -> Self {
        self.mtu = mtu;
        self
    }

    /// A property of the virtio-net device, for example `mrg_rxbuf=off`.
    pub(crate) fn with(mut self, property: &str) -> Self {
        self.device.push(property.to_owned());
        self
    }

    pub(crate) fn address(&self) -> String {
        format!("10.9.0.{}", self.number)
    }

    fn mac(&self) -> String {
        format!("52:54:00:00:00:{:02x}", self.number)
    }

    fn command(&self, bench: &Bench) -> Command {
        let lab = artefacts();
        let mut command = self.qemu.command();
        command
            .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-m", "192M"])
            .args(["-smp", if self.pairs > 1 { "2" } else { "1" }])
            .args(["-nodefaults", "-no-user-config", "-display", "none"])
            .args(["-object", "memory-backend-memfd,id=m,size=192M,share=on"])
            .args(["-machine", "pc,memory-backend=m"])
            .arg("-kernel")
            .arg(lab.join("kernel/vmlinuz"))
            .arg("-initrd")
            .arg(lab.join("initramfs.cpio.gz"))
            .args(["-append", "console=ttyS0 quiet no_timer_check"])
            .arg("-serial")
            .arg(format!("file:{}", self.console(bench).display()))
            .arg("-chardev")
            .arg(format!(
                "socket,id=agent,path={},server=on,wait=off",
                self.line(bench).display()
            ))
            .args(["-serial", "chardev:agent"]);
        self.network(&mut command);
        command
    }

    fn network(&self, command: &mut Command) {
        let direction = if self.serves {
            "server=on,wait=off".to_owned()
        } else {
            self.qemu.reconnect().to_owned()
        };
        command
            .arg("-chardev")
            .arg(format!(
                "socket,id=c,path={},{direction}",
                self.socket.display()
            ))
            .arg("-netdev")
            .arg(format!("vhost-user,id=n,chardev=c,queues={}", self.pairs));
        let mut device = format!("virtio-net-pci,netdev=n,romfile=,mac={}", self.mac());
        match self.qemu {
            Qemu::V7 => device.push_str(",vectors=0"),
            Qemu::V10 => device.push_str(&format!(",vectors={}", 2 * self.pairs + 2)),
        }
        if self.pairs > 1 {
            device.push_str(",mq=on");
        }
        for property in &self.device {
            device.push(',');
            device.push_str(property);
        }
        command.arg("-device").arg(device);
    }

    fn console(&self, bench: &Bench) -> PathBuf {
        bench.path(&format!("{}.console.log", self.name))
    }

    fn line(&self, bench: &Bench) -> PathBuf {
        bench.path(&format!("{}.agent", self.name))
    }

    /// Starts the VMM; the guest is not up yet.
    pub(crate) fn start(&self, bench: &Bench) -> Guest {
        let log = bench.path(&format!("{}.qemu.log", self.name));
        let vmm = Process::spawn(&self.name, &mut self.command(bench), &log);
        Guest {
            spec: self.clone(),
            line: self.line(bench),
            console: self.console(bench),
            vmm,
            agent: None,
        }
    }
}

/// Boots several guests at once, and waits until each has its interface up with its address.
pub(crate) fn boot<const N: usize>(bench: &Bench, specs: [GuestSpec; N]) -> [Guest; N] {
    let mut guests = specs.map(|spec| spec.start(bench));
    for guest in &mut guests {
        guest.ready();
    }
    guests
}

/// A running guest. Dropping it ends the VMM.
pub(crate) struct Guest {
    spec: GuestSpec,
    line: PathBuf,
    console: PathBuf,
    vmm: Process,
    agent: Option<Agent>,
}

impl Guest {
    /// Waits for the agent, then brings the interface up.
    pub(crate) fn ready(&mut self) {
        self.await_agent();
        self.bring_up();
    }

    fn await_agent(&mut self) {
        let name = self.spec.name.clone();
        until(&format!("the agent of guest {name}"), 2 * PATIENCE, || {
            if let Some(status) = self.vmm.ended() {
                panic!("the VMM of guest {name} ended: {status}");
            }
            let console = std::fs::read_to_string(&self.console).unwrap_or_default();
            assert!(!console.contains("Kernel panic"), "guest {name}: {console}");
            if self.agent.is_none() {
                self.agent = Agent::connect(&self.line);
            }
            self.agent.as_mut()?.run("true", Duration::from_millis(250))
        });
    }

    /// Brings the interface up with the guest's address, as after a boot or a driver's return.
    pub(crate) fn bring_up(&mut self) {
        let (address, mtu) = (self.spec.address(), self.spec.mtu);
        self.sh("until [ -e /sys/class/net/eth0 ]; do usleep 10000; done");
        if mtu != 1500 {
            self.sh(&format!("ip link set eth0 mtu {mtu}"));
        }
        if self.spec.pairs > 1 {
            self.sh(&format!("ethtool -L eth0 combined {}", self.spec.pairs));
        }
        self.sh(&format!(
            "ip addr add {address}/24 dev eth0; ip link set eth0 up"
        ));
    }

    pub(crate) fn name(&self) -> &str {
        &self.spec.name
    }

    pub(crate) fn address(&self) -> String {
        self.spec.address()
    }

    pub(crate) fn vmm_pid(&self) -> u32 {
        self.vmm.pid()
    }

    /// Runs a shell command: its exit status and output.
    pub(crate) fn try_sh(&mut self, command: &str) -> (i32, String) {
        let name = &self.spec.name;
        let agent = self
            .agent
            .as_mut()
            .unwrap_or_else(|| panic!("guest {name} is not ready"));
        agent
            .run(command, 2 * PATIENCE)
            .unwrap_or_else(|| panic!("guest {name} did not answer: {command}"))
    }

    /// Runs a shell command that must succeed: its output.
    pub(crate) fn sh(&mut self, command: &str) -> String {
        let (status, output) = self.try_sh(command);
        assert_eq!(status, 0, "guest {}: {command}: {output}", self.spec.name);
        output
    }

    /// Waits for one answered ping.
    pub(crate) fn reaches(&mut self, address: &str) {
        let command = format!("ping -c 1 -W 1 {address}");
        let what = format!("an answer of {address} to guest {}", self.spec.name);
        until(&what, PATIENCE, || {
            (self.try_sh(&command).0 == 0).then_some(())
        });
    }

    /// As after an interruption: what was there before goes on by itself, and at once. A frame or two
    /// may be lost while it does.
    pub(crate) fn resumes(&mut self, address: &str) {
        let answered = (0..3).any(|_| self.try_sh(&format!("ping -c 1 -W 10 {address}")).0 == 0);
        assert!(
            answered,
            "guest {} does not reach {address} any more",
            self.spec.name
        );
    }

    /// Several pings that must each be answered, with `size` bytes of payload.
    pub(crate) fn pings(&mut self, address: &str, count: u32, size: u32) {
        let output = self.sh(&format!(
            "ping -c {count} -i 0.05 -W 5 -s {size} -q {address}"
        ));
        let want = format!("{count} packets transmitted, {count} packets received");
        assert!(output.contains(&want), "guest {}: {output}", self.spec.name);
    }

    /// True if `address` answers one of `count` pings. Only for what must not: the caller sees by
    /// the switch's counters that they were judged.
    pub(crate) fn hears_from(&mut self, address: &str, count: u32) -> bool {
        self.try_sh(&format!("ping -c {count} -i 0.1 -W 1 -q {address}"))
            .0
            == 0
    }

    /// Moves `bytes` over TCP to `other`, checked byte by byte there.
    pub(crate) fn pushes_tcp(&mut self, other: &mut Self, bytes: u64, seed: u64) {
        let address = other.address();
        self.pushes_tcp_to(other, &address, bytes, seed);
    }

    /// The same to one of the other addresses of `other`.
    pub(crate) fn pushes_tcp_to(&mut self, other: &mut Self, address: &str, bytes: u64, seed: u64) {
        other.sh("rm -f /tmp/tcp; (lab tcp serve 5000 >/tmp/tcp 2>&1 &); until netstat -ltn | grep -q :5000; do usleep 20000; done");
        self.sh(&format!("lab tcp push {address} 5000 {bytes} {seed}"));
        let got = until("the receiver's verdict", PATIENCE, || {
            let text = other.sh("cat /tmp/tcp");
            (!text.is_empty()).then_some(text)
        });
        assert_eq!(
            got,
            format!("ok {bytes}\n"),
            "{} to {}",
            self.spec.name,
            other.spec.name
        );
    }

    /// Gives the guest an IPv6 address, fd00::<number>: it.
    pub(crate) fn speaks_ipv6(&mut self) -> String {
        let address = format!("fd00::{:x}", self.spec.number);
        self.sh(&format!(
            "echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad; echo 0 >/proc/sys/net/ipv6/conf/eth0/disable_ipv6; ip addr add {address}/64 dev eth0"
        ));
        address
    }

    /// Gives the guest an interface in a VLAN, with the address 10.9.<vlan>.<number>: it.
    pub(crate) fn joins_vlan(&mut self, vlan: u8) -> String {
        let address = format!("10.9.{vlan}.{}", self.spec.number);
        self.sh(&format!(
            "ip link add link eth0 name eth0.{vlan} type vlan id {vlan}; ip addr add {address}/24 dev eth0.{vlan}; ip link set eth0.{vlan} up"
        ));
        address
    }

    /// Sends datagrams to `other`; each that arrives does so once and whole. How many arrived.
    pub(crate) fn pushes_udp(&mut self, other: &mut Self, count: u32, size: u32) -> u32 {
        other.sh("rm -f /tmp/udp; (lab udp serve 5001 file=/tmp/udp >/tmp/udp.err 2>&1 & echo $! >/tmp/udp.pid); until [ -e /tmp/udp ]; do usleep 20000; done");
        self.sh(&format!(
            "lab udp push {} 5001 {count} {size} gap-us=200",
            other.address()
        ));
        // What is on its way arrives before a ping that follows it.
        self.reaches(&other.address());
        let text = other.sh("cat /tmp/udp; kill $(cat /tmp/udp.pid)");
        let words: Vec<&str> = text.split_whitespace().collect();
        let ["received", received, "duplicates", "0", "corrupted", "0"] = words.as_slice() else {
            panic!("{} to {}: {text}", self.spec.name, other.spec.name);
        };
        received.parse().expect("a number")
    }

    /// Sends a raw frame as it is.
    pub(crate) fn sends(&mut self, frame: &[u8], count: u32) {
        self.sh(&format!(
            "lab frames send eth0 {} count={count}",
            hex(frame)
        ));
    }

    /// Sends a raw frame with what its vnet header asks for, as a program does that offloads.
    pub(crate) fn sends_offloaded(&mut self, frame: &[u8], header: &str) {
        self.sh(&format!("lab frames offload eth0 {} {header}", hex(frame)));
    }

    /// Begins to write down received frames of this Ethertype.
    pub(crate) fn watches(&mut self, ethertype: u16) {
        self.sh(&format!(
            "rm -f /tmp/watch; (lab frames watch eth0 file=/tmp/watch match=12:{ethertype:04x} >/tmp/watch.err 2>&1 &); until grep -q ready /tmp/watch; do usleep 20000; done"
        ));
    }

    /// The frames written down, once there are as many.
    pub(crate) fn watched(&mut self, count: usize) -> Vec<Watched> {
        let name = self.spec.name.clone();
        until(&format!("{count} frames at guest {name}"), PATIENCE, || {
            let text = self.sh("tail -n +2 /tmp/watch");
            let frames: Vec<Watched> = text.lines().filter_map(Watched::parse).collect();
            (frames.len() >= count).then_some(frames)
        })
    }

    /// Reboots the guest; the VMM lives on.
    pub(crate) fn reboot(&mut self) {
        if let Some(agent) = self.agent.as_mut() {
            agent.run("echo b > /proc/sysrq-trigger", Duration::from_millis(300));
        }
        let what = format!("guest {} after its reboot", self.spec.name);
        until(&what, 2 * PATIENCE, || {
            let agent = self.agent.as_mut()?;
            // The boot is new if its mark is not there yet.
            let (status, _) = agent.run("[ ! -e /tmp/before ]", Duration::from_millis(250))?;
            (status == 0).then_some(())
        });
        self.bring_up();
    }

    /// Leaves a mark that a reboot removes.
    pub(crate) fn mark(&mut self) {
        self.sh("touch /tmp/before");
    }

    /// Takes the network driver off its device.
    pub(crate) fn unbind(&mut self) {
        self.sh("basename $(readlink /sys/class/net/eth0/device) > /tmp/device");
        self.sh("cat /tmp/device > /sys/bus/virtio/drivers/virtio_net/unbind");
    }

    /// Gives the device back to its driver.
    pub(crate) fn bind(&mut self) {
        self.sh("cat /tmp/device > /sys/bus/virtio/drivers/virtio_net/bind");
        self.bring_up();
    }

    /// Kills the VMM, as a crash would.
    pub(crate) fn kill(mut self) -> GuestSpec {
        self.vmm.kill();
        self.spec.clone()
    }
}

/// A frame as a guest's packet socket got it.
#[derive(Debug)]
pub(crate) struct Watched {
    /// Its whole length, which may be more than its bytes here.
    pub(crate) length: usize,
    /// `struct virtio_net_hdr`: flags, kind of segmentation, and four numbers of 16 bits.
    pub(crate) header: Vec<u8>,
    pub(crate) bytes: Vec<u8>,
}

impl Watched {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let length = words.next()?.parse().ok()?;
        let header = unhex(words.next()?)?;
        Some(Self {
            length,
            header,
            bytes: unhex(words.next()?)?,
        })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    digits
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}
