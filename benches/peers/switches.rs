//! Portcullis and its peers as processes of our own: started for one run, ended by their process ids.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use portcullis::control::{Question, SwitchReport, ask};
use tempfile::TempDir;

use super::{Failure, interrupted, rules};

const PATIENCE: Duration = Duration::from_secs(20);
const OVS: &str = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk";
const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";

/// Which switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Ours.
    Portcullis(Ours),
    /// The limit of the load: descriptors only, see [`super::descriptors`].
    Descriptors,
    /// DPDK's testpmd, vhost driver, io forward: no lookup at all.
    Testpmd,
    /// Open vSwitch with DPDK, action NORMAL.
    Ovs,
    /// The same behind its connection tracking and ten rules: [`rules::flows`].
    OvsRules,
}

/// How ours runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ours {
    /// As it comes: port security on, adaptive.
    Plain,
    /// The same, always polling.
    Always,
    /// No policy at all.
    Open,
    /// Port security with addresses, and ten stateful rules: [`rules::config`].
    Rules,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Portcullis(Ours::Plain) => "portcullis",
            Self::Portcullis(Ours::Always) => "  always",
            Self::Portcullis(Ours::Open) => "no policy",
            Self::Portcullis(Ours::Rules) => "10 rules",
            Self::Descriptors => "the load",
            Self::Testpmd => "testpmd",
            Self::Ovs => "OVS-DPDK",
            Self::OvsRules => "OVS ct",
        }
    }

    pub(super) fn is_peer(self) -> bool {
        matches!(self, Self::Testpmd | Self::Ovs | Self::OvsRules)
    }

    pub(super) fn is_ours(self) -> bool {
        matches!(self, Self::Portcullis(_))
    }

    /// What has to be installed first, if anything: a program and its Debian package.
    pub(super) fn missing(self) -> Option<(&'static str, &'static str)> {
        let needed: &[_] = match self {
            Self::Portcullis(_) | Self::Descriptors => &[],
            Self::Testpmd => &[("dpdk-testpmd", "dpdk-dev"), ("stdbuf", "coreutils")],
            Self::Ovs | Self::OvsRules => &[
                (OVS, "openvswitch-switch-dpdk"),
                (SCHEMA, "openvswitch-switch"),
                ("ovsdb-tool", "openvswitch-common"),
                ("ovsdb-server", "openvswitch-common"),
                ("ovs-vsctl", "openvswitch-switch"),
                ("ovs-appctl", "openvswitch-common"),
                ("ovs-ofctl", "openvswitch-common"),
                ("unshare", "util-linux"),
            ],
        };
        needed.iter().copied().find(|(program, _)| !exists(program))
    }
}

fn exists(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // An absolute program replaces the directory that it is joined to.
    std::env::split_paths(&path).any(|directory| directory.join(program).exists())
}

/// One running switch; ended when dropped, its files with it.
pub(super) struct Switch {
    kind: Kind,
    children: Vec<Child>,
    dir: TempDir,
    ports: Vec<PathBuf>,
}

impl Switch {
    /// Starts it with `ports` ports, on processor 1 if `pinned`, and waits for their sockets.
    pub(super) fn start(kind: Kind, ports: usize, pinned: bool) -> Result<Self, Failure> {
        let dir = tempfile::Builder::new().prefix("peers").tempdir()?;
        let ports = (0..ports).map(|n| dir.path().join(format!("p{n}")));
        let mut switch = Self {
            kind,
            children: Vec::new(),
            ports: ports.collect(),
            dir,
        };
        match kind {
            Kind::Portcullis(ours) => switch.portcullis(ours, pinned)?,
            Kind::Descriptors => switch.descriptors(pinned)?,
            Kind::Testpmd => switch.testpmd()?,
            Kind::Ovs => switch.ovs()?,
            Kind::OvsRules => {
                switch.ovs()?;
                switch.ovs_rules()?;
            }
        }
        Ok(switch)
    }

    pub(super) fn is_ours(&self) -> bool {
        self.kind.is_ours()
    }

    pub(super) fn ports(&self) -> &[PathBuf] {
        &self.ports
    }

    pub(super) fn pids(&self) -> Vec<u32> {
        self.children.iter().map(Child::id).collect()
    }

    /// Kills ours and starts it again, on the same sockets.
    pub(super) fn restart(&mut self, pinned: bool) -> Result<(), Failure> {
        for mut child in self.children.drain(..) {
            child.kill()?;
            child.wait()?;
        }
        match self.kind {
            Kind::Portcullis(ours) => self.portcullis(ours, pinned),
            other => Err(format!("{} is not restarted here", other.name()).into()),
        }
    }

    /// The state of ours.
    pub(super) fn status(&self) -> Result<SwitchReport, Failure> {
        let answer = ask(&self.dir.path().join("control"), &Question::Status)?;
        Ok(serde_json::from_value(answer)?)
    }

    /// Cycles a frame of a peer over all that it has forwarded, where it says so.
    pub(super) fn cycles_of_peer(&mut self) -> Option<f64> {
        match self.kind {
            Kind::Portcullis(_) | Kind::Descriptors => None,
            Kind::Testpmd => {
                let mut input = self.children.first()?.stdin.as_ref()?;
                input.write_all(b"show fwd stats all\n").ok()?;
                let log = self.dir.path().join("log");
                let found = || number_after(&fs::read_to_string(&log).ok()?, "CPU cycles/packet=");
                await_some("testpmd's statistics", &mut [], found).ok()
            }
            Kind::Ovs | Kind::OvsRules => {
                let text = self.appctl("dpif-netdev/pmd-stats-show").ok()?;
                number_after(&text, "avg processing cycles per packet: ")
            }
        }
    }

    fn portcullis(&mut self, ours: Ours, pinned: bool) -> Result<(), Failure> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        let poll = match ours {
            Ours::Always => "always",
            Ours::Plain | Ours::Open | Ours::Rules => "adaptive",
        };
        command.args(["run", "--workers", "1", "--poll", poll]);
        command.args(["--log", "warn"]);
        command
            .arg("--control")
            .arg(self.dir.path().join("control"));
        if pinned {
            command.args(["--cpus", "1"]);
        }
        if ours == Ours::Rules {
            let config = self.dir.path().join("peers.toml");
            fs::write(&config, rules::config(&self.ports))?;
            command.arg(config);
        } else {
            let keys = if ours == Ours::Open {
                ",spoofing=allow"
            } else {
                ""
            };
            for (n, path) in self.ports.iter().enumerate() {
                command.arg("--port");
                command.arg(format!("p{n}={}{keys}", path.display()));
            }
        }
        self.spawn(command, "log")?;
        self.await_ports()?;
        // It answers when the ports are open and the worker runs.
        let control = self.dir.path().join("control");
        self.await_until("the answer of the switch", || {
            ask(&control, &Question::Status).is_ok()
        })
    }

    fn descriptors(&mut self, pinned: bool) -> Result<(), Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        if pinned {
            command.arg("--pinned");
        }
        for path in &self.ports {
            command.arg("--descriptors").arg(path);
        }
        self.spawn(command, "log")?;
        self.await_ports()
    }

    fn testpmd(&mut self) -> Result<(), Failure> {
        // By the line: what it prints into a file would otherwise wait for its end.
        let mut command = Command::new("stdbuf");
        command.args(["-oL", "dpdk-testpmd"]);
        command.env("RUNTIME_DIRECTORY", self.dir.path());
        command.args([
            "-l",
            "0,1",
            "--main-lcore",
            "0",
            "--no-pci",
            "--no-telemetry",
        ]);
        command.args(["--in-memory", "-m", "512"]);
        for (n, path) in self.ports.iter().enumerate() {
            command.arg(format!(
                "--vdev=net_vhost{n},iface={},queues=1",
                path.display()
            ));
        }
        command.args(["--", "-i", "--no-numa", "--nb-cores=1"]);
        command.args(["--forward-mode=io", "--auto-start", "--record-core-cycles"]);
        self.spawn(command, "log")?;
        let log = self.dir.path().join("log");
        self.await_until("testpmd to forward", || {
            fs::read_to_string(&log).is_ok_and(|text| text.contains("io packet forwarding - ports"))
        })
    }

    fn ovs(&mut self) -> Result<(), Failure> {
        let dir = self.dir.path().to_owned();
        let at = |name: &str| dir.join(name).display().to_string();
        let socket = format!("unix:{}", at("db.sock"));
        completed(
            self.in_dir("ovsdb-tool")
                .args(["create", &at("db"), SCHEMA]),
        )?;

        let mut command = self.in_dir("ovsdb-server");
        command.args([&at("db"), &format!("--remote=p{socket}"), "--no-chdir"]);
        command.arg(format!("--unixctl={}", at("db.ctl")));
        self.spawn(command, "db.log")?;
        let database = dir.join("db.sock");
        self.await_until("the database of Open vSwitch", || database.exists())?;

        let mut command = self.in_dir("ovs-vsctl");
        command.args([&format!("--db={socket}"), "--no-wait", "--", "init"]);
        command.args([
            "--",
            "set",
            "Open_vSwitch",
            ".",
            "other_config:dpdk-init=true",
        ]);
        command.args([
            "other_config:dpdk-lcore-mask=0x1",
            "other_config:pmd-cpu-mask=0x2",
        ]);
        command.arg("other_config:dpdk-socket-mem=512");
        command.arg("other_config:dpdk-extra=--no-pci --no-telemetry --in-memory");
        command.args(["--", "add-br", "br0"]);
        command.args(["--", "set", "bridge", "br0", "datapath_type=netdev"]);
        for n in 0..self.ports.len() {
            let port = format!("p{n}");
            command.args(["--", "add-port", "br0", &port]);
            command.args(["--", "set", "Interface", &port, "type=dpdkvhostuser"]);
        }
        completed(&mut command)?;

        // Its tap for the bridge lies in the network namespace: give it one of its own.
        let mut command = self.in_dir("unshare");
        command.args(["-n", OVS, &socket, "--no-chdir"]);
        command.arg(format!("--unixctl={}", at("switch.ctl")));
        self.spawn(command, "log")?;
        self.await_ports()?;
        // Its main thread goes on setting up after the sockets are there, and answers no guest meanwhile.
        let end = Instant::now() + PATIENCE;
        loop {
            let polled = self.appctl("dpif-netdev/pmd-rxq-show").unwrap_or_default();
            if polled.matches("port: p").count() == self.ports.len() {
                return Ok(());
            }
            interrupted()?;
            if Instant::now() > end {
                return Err(format!("Open vSwitch does not poll its ports:\n{polled}").into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Flows in the place of NORMAL alone.
    fn ovs_rules(&self) -> Result<(), Failure> {
        let flows = self.dir.path().join("flows");
        fs::write(&flows, rules::flows())?;
        let bridge = format!("unix:{}", self.dir.path().join("br0.mgmt").display());
        completed(self.in_dir("ovs-ofctl").args(["del-flows", &bridge]))?;
        completed(
            self.in_dir("ovs-ofctl")
                .args(["add-flows", &bridge])
                .arg(flows),
        )
    }

    fn appctl(&self, question: &str) -> Result<String, Failure> {
        let target = self.dir.path().join("switch.ctl");
        let mut command = Command::new("ovs-appctl");
        command.arg("-t").arg(target).arg(question);
        let output = command.output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A command whose Open vSwitch and DPDK keep all their files here.
    fn in_dir(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for name in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"] {
            command.env(name, self.dir.path());
        }
        command.env("RUNTIME_DIRECTORY", self.dir.path());
        command
    }

    fn spawn(&mut self, mut command: Command, log: &str) -> Result<(), Failure> {
        let log = File::create(self.dir.path().join(log))?;
        command
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command
            .spawn()
            .map_err(|error| format!("{}: {error}", command.get_program().display()))?;
        self.children.push(child);
        Ok(())
    }

    fn await_ports(&mut self) -> Result<(), Failure> {
        let ports = self.ports.clone();
        self.await_until("the sockets of the ports", || {
            ports.iter().all(|port| port.exists())
        })
    }

    fn await_until(&mut self, what: &str, look: impl Fn() -> bool) -> Result<(), Failure> {
        await_some(what, &mut self.children, || look().then_some(()))
            .map_err(|error| format!("{error}\n{}", tail(&self.dir.path().join("log"))).into())
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        for child in self.children.iter_mut().rev() {
            // It may have ended by itself; its files go with the directory, its namespace with it.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// Waits for `look` to find something, for `children` to end, or for an interruption.
fn await_some<T>(
    what: &str,
    children: &mut [Child],
    look: impl Fn() -> Option<T>,
) -> Result<T, Failure> {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        for child in &mut *children {
            if let Some(status) = child.try_wait()? {
                return Err(format!("waited for {what}, and the process ended: {status}").into());
            }
        }
        interrupted()?;
        if Instant::now() > end {
            return Err(format!("waited {PATIENCE:?} in vain for {what}").into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn completed(command: &mut Command) -> Result<(), Failure> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(format!(
        "{}: {}: {error}",
        command.get_program().display(),
        output.status
    )
    .into())
}

/// The last lines of a log, for a message.
fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}

fn number_after(text: &str, label: &str) -> Option<f64> {
    let (_, rest) = text.split_once(label)?;
    rest.split([' ', '\n']).next()?.parse().ok()
}
