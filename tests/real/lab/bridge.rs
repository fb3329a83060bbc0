//! A guest that is nothing but a Linux bridge: a network card for each port, and the far end of each cable in the test's hand.
//!
//! The cables are Unix sockets that QEMU listens on, a length before each frame (`-netdev stream`). The cards offload nothing and
//! merge nothing, so that frames come out as they went in. The kernel and its modules are Debian's
//! (`lab/setup.sh`): it tracks connections, filters VLANs and rejects on a bridge, whatever this machine's kernel can do.

use std::io::{BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::agent::Agent;
use super::process::Process;
use super::{Bench, PATIENCE, Qemu, artefacts, until};

/// What the agent takes in one request, at most, with room for what `printf` wants escaped.
const PIECE: usize = 3000;

/// Running. Dropping it ends the VMM.
pub(crate) struct BridgeGuest {
    _vmm: Process,
    agent: Agent,
    /// The test's ends.
    cables: Vec<BufReader<UnixStream>>,
}

impl BridgeGuest {
    /// Boots it with a card for each port, which has the port's name and is up. There is no bridge yet.
    pub(crate) fn boot(bench: &Bench, ports: &[&str]) -> Self {
        let lab = artefacts();
        let line = bench.path("bridge.agent");
        let console = bench.path("bridge.console.log");
        let mut command = Qemu::V10.command();
        command
            .args(["-accel", "tcg", "-cpu", "max", "-m", "192M", "-smp", "1"])
            .args(["-nodefaults", "-no-user-config", "-display", "none"])
            .arg("-kernel")
            .arg(lab.join("kernel/vmlinuz"))
            .arg("-initrd")
            .arg(lab.join("bridge.cpio.gz"))
            .args(["-append", "console=ttyS0 quiet no_timer_check"])
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .arg("-chardev")
            .arg(format!(
                "socket,id=agent,path={},server=on,wait=off",
                line.display()
            ))
            .args(["-serial", "chardev:agent"]);
        let offloads = [
            "csum",
            "gso",
            "guest_csum",
            "guest_tso4",
            "guest_tso6",
            "guest_ecn",
            "guest_ufo",
            "guest_uso4",
            "guest_uso6",
            "host_tso4",
            "host_tso6",
            "host_ecn",
            "host_ufo",
            "host_uso",
            "mrg_rxbuf",
        ];
        let offloads: String = offloads.map(|name| format!(",{name}=off")).concat();
        let cable = |port: &&str| bench.path(&format!("bridge.{port}.cable"));
        for (n, port) in ports.iter().enumerate() {
            command
                .arg("-netdev")
                .arg(format!(
                    "stream,id=n{n},server=on,addr.type=unix,addr.path={}",
                    cable(port).display()
                ))
                .arg("-device")
                .arg(format!(
                    "virtio-net-pci,netdev=n{n},romfile=,mac=52:54:00:ff:00:{n:02x}{offloads}"
                ));
        }
        let log = bench.path("bridge.qemu.log");
        let mut vmm = Process::spawn("bridge", &mut command, &log);
        let mut agent = None;
        until("the agent of the bridge", 2 * PATIENCE, || {
            if let Some(status) = vmm.ended() {
                panic!("the VMM of the bridge ended: {status}");
            }
            let text = std::fs::read_to_string(&console).unwrap_or_default();
            assert!(!text.contains("Kernel panic"), "the bridge: {text}");
            if agent.is_none() {
                agent = Agent::connect(&line);
            }
            agent.as_mut()?.run("true", Duration::from_millis(250))
        });
        let cables = ports.iter().map(|port| {
            let stream = UnixStream::connect(cable(port)).expect("the cable's end");
            stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
            BufReader::new(stream)
        });
        let cables = cables.collect();
        let mut guest = Self {
            _vmm: vmm,
            agent: agent.expect("an agent"),
            cables,
        };
        for (n, port) in ports.iter().enumerate() {
            guest.sh(&format!(
                "until [ -e /sys/class/net/eth{n} ]; do usleep 10000; done; \
                 ethtool -K eth{n} gro off && /sbin/ip link set dev eth{n} name {port} && /sbin/ip link set dev {port} up"
            ));
        }
        guest
    }

    /// Runs a shell command that must succeed: its output.
    pub(crate) fn sh(&mut self, command: &str) -> String {
        let answer = self.agent.run(command, 2 * PATIENCE);
        let (status, output) =
            answer.unwrap_or_else(|| panic!("the bridge did not answer: {command}"));
        assert_eq!(status, 0, "the bridge: {command}: {output}");
        output
    }

    /// Runs a command that must succeed with `input` for it to read, which has no quotes and no backslashes.
    pub(crate) fn feed(&mut self, command: &str, input: &str) {
        assert!(!input.contains(['\'', '\\', '%']), "{input}");
        self.sh("rm -f /tmp/fed");
        for piece in input.as_bytes().chunks(PIECE) {
            let text = std::str::from_utf8(piece)
                .expect("ASCII")
                .replace('\n', "\\n");
            self.sh(&format!("printf '{text}' >>/tmp/fed"));
        }
        let answer = self
            .agent
            .run(&format!("{command} </tmp/fed"), 2 * PATIENCE);
        let (status, output) =
            answer.unwrap_or_else(|| panic!("the bridge did not answer: {command}"));
        assert_eq!(status, 0, "the bridge: {command}: {output}\n{input}");
    }

    /// A frame comes in by a port.
    pub(crate) fn send(&mut self, port: usize, frame: &[u8]) {
        let len = u32::try_from(frame.len()).expect("a frame");
        let bytes = [&len.to_be_bytes(), frame].concat();
        let sent = self.cables[port].get_mut().write_all(&bytes);
        sent.expect("a frame for the bridge");
    }

    /// The next frame that goes out by a port.
    pub(crate) fn receive(&mut self, port: usize) -> Vec<u8> {
        let cable = &mut self.cables[port];
        let mut len = [0; 4];
        cable
            .read_exact(&mut len)
            .unwrap_or_else(|why| panic!("a frame of the bridge's port {port}: {why}"));
        let mut frame = vec![0; u32::from_be_bytes(len) as usize];
        cable.read_exact(&mut frame).expect("the whole frame");
        frame
    }
}
