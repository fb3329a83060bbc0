//! A switch of its own for each test, as its own process, and guests in software that plug into it.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use portcullis::guest::{Builder, Guest, Received, Shape, VnetHeader};
use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take before a test gives up: generous, since machines are shared.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Whether `./test --long` runs this, so that a test may take minutes.
pub fn long() -> bool {
    std::env::var_os("PORTCULLIS_LONG").is_some()
}

/// The MAC of guest `n`.
pub fn mac(n: u8) -> [u8; 6] {
    [0x52, 0x54, 0, 0, 0, n]
}

/// The group address of everybody.
pub const BROADCAST: [u8; 6] = [0xff; 6];

/// An Ethernet frame of an experimental type with a payload.
pub fn frame(to: [u8; 6], from: [u8; 6], payload: &[u8]) -> Vec<u8> {
    let mut frame = [&to[..], &from[..], &[0x88, 0xb5], payload].concat();
    frame.resize(frame.len().max(60), 0);
    frame
}

/// The same with a VLAN tag.
pub fn tagged(to: [u8; 6], from: [u8; 6], tci: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = frame(to, from, payload);
    let [high, low] = tci.to_be_bytes();
    frame.splice(12..12, [0x81, 0x00, high, low]);
    frame
}

/// Waits for `what` to give a value.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = look() {
            return value;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::yield_now();
    }
}

/// The books of one port: sums over the reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Books {
    pub received: u64,
    pub forwarded: u64,
    pub dropped: u64,
    pub offered: u64,
    pub delivered: u64,
    pub undelivered: u64,
}

/// A running switch. Ended, by its own process id, when dropped.
pub struct Switch {
    dir: TempDir,
    child: Option<Child>,
    /// The control group that it runs in, if not that of the test.
    group: Option<PathBuf>,
    /// Where it logs, if not to the file that [`Switch::log`] reads.
    log: Option<std::fs::File>,
}

impl Switch {
    /// A switch with these ports, given as `[port.NAME]` tables without their sockets: each port listens on
    /// [`Switch::socket`] unless its table names a socket.
    pub fn start(ports: &[(&str, &str)]) -> Self {
        Self::with("", ports)
    }

    /// The same with lines for `[switch]`.
    pub fn with(lines: &str, ports: &[(&str, &str)]) -> Self {
        Self::within(None, lines, ports)
    }

    /// The same in the control group of this directory.
    pub fn within(group: Option<PathBuf>, lines: &str, ports: &[(&str, &str)]) -> Self {
        Self::made(group, None, lines, ports)
    }

    /// The same that logs to this file.
    #[allow(
        dead_code,
        reason = "each of the test programs that share this uses its part"
    )]
    pub fn logging_to(log: std::fs::File, ports: &[(&str, &str)]) -> Self {
        Self::made(None, Some(log), "", ports)
    }

    fn made(
        group: Option<PathBuf>,
        log: Option<std::fs::File>,
        lines: &str,
        ports: &[(&str, &str)],
    ) -> Self {
        let dir = tempfile::Builder::new().prefix("pc").tempdir().unwrap();
        let child = None;
        let mut switch = Self {
            dir,
            child,
            group,
            log,
        };
        std::fs::write(switch.file(), switch.text(lines, ports)).unwrap();
        switch.run();
        switch
    }

    /// The configuration of a switch with these ports, and lines for `[switch]`.
    pub fn text(&self, lines: &str, ports: &[(&str, &str)]) -> String {
        let mut text = format!(
            "[switch]\nname = \"t\"\ncontrol = \"{}/control\"\n{lines}\n",
            self.dir.path().display()
        );
        for (name, table) in ports {
            let socket = format!("socket = \"{}/{name}\"\n", self.dir.path().display());
            let socket = if table.contains("socket =") {
                ""
            } else {
                &socket
            };
            text += &format!("[port.{name}]\n{socket}{table}\n");
        }
        text
    }

    /// The configuration's file.
    pub fn file(&self) -> PathBuf {
        self.dir.path().join("lan.toml")
    }

    /// Has the switch read its file again; its report, or why it refused.
    #[allow(
        dead_code,
        reason = "each of the test programs that share this uses its part"
    )]
    pub fn reload(&self) -> Result<Value, String> {
        use portcullis::control::{AskError, Question, ReloadRequest};
        let request = Question::Reload(ReloadRequest::default());
        self.ask(&request).map_err(|error| match error {
            AskError::Refused { why, .. } => why,
            other => panic!("{other}"),
        })
    }

    /// Has it take up these ports instead.
    #[allow(
        dead_code,
        reason = "each of the test programs that share this uses its part"
    )]
    pub fn change(&self, ports: &[(&str, &str)]) -> Value {
        std::fs::write(self.file(), self.text("", ports)).unwrap();
        self.reload().unwrap()
    }

    /// Asks the control socket.
    pub fn ask(
        &self,
        question: &portcullis::control::Question,
    ) -> Result<Value, portcullis::control::AskError> {
        portcullis::control::ask(&self.dir.path().join("control"), question)
    }

    /// Starts the process and waits until it says that it is ready.
    pub fn run(&mut self) {
        let notify = self.dir.path().join("notify");
        let _ = std::fs::remove_file(&notify);
        let ready = UnixDatagram::bind(&notify).unwrap();
        ready
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        let log = match &self.log {
            Some(log) => log.try_clone(),
            None => std::fs::File::options()
                .create(true)
                .append(true)
                .open(self.dir.path().join("log")),
        }
        .unwrap();
        let program = env!("CARGO_BIN_EXE_portcullis");
        let mut command = match &self.group {
            None => Command::new(program),
            Some(group) => {
                let mut command = Command::new("sh");
                let enter = "echo $$ >\"$0/cgroup.procs\" && exec \"$@\"";
                command.args(["-c", enter]).arg(group).arg(program);
                command
            }
        };
        let child = command
            .arg("run")
            .arg(self.dir.path().join("lan.toml"))
            .env("NOTIFY_SOCKET", &notify)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        until("readiness", || {
            if let Some(status) = self.child.as_mut().unwrap().try_wait().unwrap() {
                panic!("the switch ended with {status}: {}", self.log());
            }
            let mut buffer = [0; 256];
            let len = ready.recv(&mut buffer).ok()?;
            buffer[..len].starts_with(b"READY=1").then_some(())
        });
    }

    /// Ends the process as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Has the process stop, as its service manager would. [`Switch::await_end`] sees it off.
    pub fn ask_to_stop(&self) {
        let pid = rustix::process::Pid::from_raw(self.pid() as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// Waits until the process has ended by itself, and well.
    pub fn await_end(&mut self) {
        let mut child = self.child.take().unwrap();
        let status = until("the end", || child.try_wait().unwrap());
        assert!(status.success(), "{status}");
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// The socket of a port.
    pub fn socket(&self, port: &str) -> PathBuf {
        self.dir.path().join(port)
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Whether the process is still there.
    pub fn is_alive(&mut self) -> bool {
        self.child.is_some() && self.ended().is_none()
    }

    /// How the process ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().unwrap()
    }

    /// Plugs in a guest of any kind.
    pub fn plug(&self, port: &str, builder: Builder) -> Guest {
        let guest = builder.connect(self.socket(port)).unwrap();
        self.await_state(port, "running");
        guest
    }

    /// Plugs in a modern guest.
    pub fn guest(&self, port: &str, mac: [u8; 6]) -> Guest {
        self.plug(port, Guest::builder().mac(mac))
    }

    /// The whole status.
    pub fn status(&self) -> Value {
        self.ask(&portcullis::control::Question::Status).unwrap()
    }

    /// One port's status.
    pub fn port(&self, name: &str) -> Value {
        let status = self.status();
        let ports = status["ports"].as_array().unwrap();
        ports
            .iter()
            .find(|port| port["name"] == name)
            .unwrap_or_else(|| panic!("no port {name}"))
            .clone()
    }

    /// Waits until a port is in this state.
    pub fn await_state(&self, port: &str, state: &str) {
        until(&format!("port {port} {state}"), || {
            (self.port(port)["state"] == state).then_some(())
        });
    }

    /// Waits until `count` faults of a port have been counted.
    pub fn await_faults(&self, port: &str, count: u64) {
        until(&format!("{count} faults of {port}"), || {
            (self.port(port)["counters"]["events"]["faults"]
                .as_u64()
                .unwrap()
                >= count)
                .then_some(())
        });
    }

    /// A port's books, once no frame is on its way, and all that they count is in its receiver's hands. That they balance is
    /// asserted by the waiting.
    pub fn books(&self, name: &str) -> Books {
        let books = self.balanced(name);
        // A burst is counted before it is published, so that who has a frame finds it in the books. A worker that is held up
        // in between holds the lock of the burst's ring, which a status enters.
        self.status();
        books
    }

    fn balanced(&self, name: &str) -> Books {
        until(&format!("balanced books of {name}"), || {
            let counters = &self.port(name)["counters"];
            let number = |way: &str, key: &str| counters[way][key].as_u64().unwrap();
            let sum = |way: &str, key: &str| {
                counters[way][key]
                    .as_object()
                    .unwrap()
                    .values()
                    .map(|n| n.as_u64().unwrap())
                    .sum()
            };
            let books = Books {
                received: number("ingress", "received"),
                forwarded: number("ingress", "forwarded"),
                dropped: sum("ingress", "dropped"),
                offered: number("egress", "offered"),
                delivered: number("egress", "delivered"),
                undelivered: sum("egress", "undelivered"),
            };
            let balanced = books.received == books.forwarded + books.dropped
                && books.offered == books.delivered + books.undelivered;
            balanced.then_some(books)
        })
    }

    /// How many frames from a port were dropped for a reason.
    pub fn dropped(&self, name: &str, reason: &str) -> u64 {
        self.port(name)["counters"]["ingress"]["dropped"][reason]
            .as_u64()
            .unwrap_or(0)
    }

    /// How many copies towards a port were lost for a reason.
    pub fn undelivered(&self, name: &str, reason: &str) -> u64 {
        self.port(name)["counters"]["egress"]["undelivered"][reason]
            .as_u64()
            .unwrap_or(0)
    }

    /// Waits until a port has received `count` frames from its guest.
    pub fn await_received(&self, name: &str, count: u64) {
        until(&format!("{count} frames from {name}"), || {
            (self.balanced(name).received >= count).then_some(())
        });
        self.status();
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            match self.ended() {
                Some(status) => eprintln!("the switch ended with {status}"),
                None if self.child.is_some() => {
                    eprintln!("the switch's status:\n{:#}", self.status());
                }
                None => {}
            }
            eprintln!("the switch's log:\n{}", self.log());
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The next frame of a guest; the test fails when none comes.
pub fn expect(guest: &mut Guest) -> Received {
    guest.recv(PATIENCE).unwrap().expect("a frame")
}

/// The next frame from one sender; what others flood meanwhile is passed over.
pub fn hear(guest: &mut Guest, from: [u8; 6]) -> Received {
    loop {
        let got = expect(guest);
        if got.bytes[6..12] == from {
            return got;
        }
    }
}

/// Everything that a guest has received by now. To be asked when the books say that nothing is on its way.
pub fn all(guest: &mut Guest) -> Vec<Received> {
    std::iter::from_fn(|| guest.try_recv().unwrap()).collect()
}

/// Two guests that exchange a numbered stream while something else happens.
pub struct Victims {
    pub a: Guest,
    pub b: Guest,
    next: u64,
}

impl Victims {
    pub fn plug(switch: &Switch, a: &str, b: &str) -> Self {
        let mut victims = Self {
            a: switch.guest(a, mac(0xa)),
            b: switch.guest(b, mac(0xb)),
            next: 0,
        };
        victims.talk(1);
        victims
    }

    /// Plugs in a witness, who greets `mallory`, of address 66, unknown as yet: so everybody has heard from it.
    #[allow(
        dead_code,
        reason = "each of the test programs that share this uses its part"
    )]
    pub fn meet(&mut self, switch: &Switch, mallory: &mut Guest) -> Guest {
        let mut witness = switch.guest("witness", mac(77));
        witness.send(&frame(mac(66), mac(77), b"here")).unwrap();
        for guest in [&mut self.a, &mut self.b, mallory] {
            hear(guest, mac(77));
        }
        witness
    }

    /// `rounds` frames each way, one at a time: each must arrive, in order, once and unchanged.
    pub fn talk(&mut self, rounds: u64) {
        for _ in 0..rounds {
            self.next += 1;
            let number = self.next.to_be_bytes();
            let there = frame(mac(0xb), mac(0xa), &number);
            self.a.send(&there).unwrap();
            assert_eq!(
                hear(&mut self.b, mac(0xa)).bytes,
                there,
                "frame {} towards b",
                self.next
            );
            let back = frame(mac(0xa), mac(0xb), &number);
            self.b.send(&back).unwrap();
            assert_eq!(
                hear(&mut self.a, mac(0xb)).bytes,
                back,
                "frame {} towards a",
                self.next
            );
        }
    }

    /// `frames` frames each way, `window` at a time: each must arrive, in order, once and unchanged.
    pub fn stream(&mut self, frames: u64, window: u64) {
        for _ in 0..frames / window {
            let first = self.next + 1;
            self.next += window;
            for number in first..=self.next {
                let number = number.to_be_bytes();
                let (there, back) = (
                    frame(mac(0xb), mac(0xa), &number),
                    frame(mac(0xa), mac(0xb), &number),
                );
                for (guest, bytes) in [(&mut self.a, &there), (&mut self.b, &back)] {
                    guest
                        .queue_frame(0, VnetHeader::default(), bytes, &Shape::Together)
                        .unwrap();
                }
            }
            self.a.flush(0).unwrap();
            self.b.flush(0).unwrap();
            for number in first..=self.next {
                let number = number.to_be_bytes();
                let there = frame(mac(0xb), mac(0xa), &number);
                assert_eq!(hear(&mut self.b, mac(0xa)).bytes, there);
                let back = frame(mac(0xa), mac(0xb), &number);
                assert_eq!(hear(&mut self.a, mac(0xb)).bytes, back);
            }
        }
    }
}
