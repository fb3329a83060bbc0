//! The switch under test, as its own process, seen through its status.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use portcullis::control::Question;
use rustix::process::Signal;
use serde_json::Value;

use super::process::Process;
use super::{Bench, PATIENCE, until};

/// Killed when dropped.
pub(crate) struct Switch {
    process: Option<Process>,
    config: PathBuf,
    control: PathBuf,
    notify: PathBuf,
    log: PathBuf,
}

/// What one port's counters say, as seen at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traffic {
    /// Frames that the guest sent and the switch judged.
    pub(crate) received: u64,
    /// Of those, the ones that went to somebody.
    pub(crate) forwarded: u64,
    /// Of those, the ones that went to nobody.
    pub(crate) dropped: u64,
    /// Frames meant for the guest.
    pub(crate) offered: u64,
    /// Of those, the ones put into its memory.
    pub(crate) delivered: u64,
    /// Of those, the ones that it had no room for, or was not there to take.
    pub(crate) undelivered: u64,
}

impl Switch {
    /// Starts a switch on `ports`, the `[port.NAME]` tables of a configuration, and waits until it
    /// says that it is ready.
    pub(crate) fn start(bench: &Bench, ports: &str) -> Self {
        let mut switch = Self {
            process: None,
            config: bench.path("lan.toml"),
            control: bench.path("control.sock"),
            notify: bench.path("notify.sock"),
            log: bench.path("switch.log"),
        };
        switch.write(ports);
        switch.run();
        switch
    }

    fn write(&self, ports: &str) {
        let text = format!(
            "[switch]\nname = \"lab\"\ncontrol = {:?}\n\n{ports}",
            self.control
        );
        std::fs::write(&self.config, text).expect("the configuration");
    }

    /// Has it take up other tables while it runs.
    pub(crate) fn change(&self, ports: &str) {
        self.write(ports);
        let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(["reload", "--control"])
            .arg(&self.control)
            .output()
            .expect("portcullis reload");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "portcullis reload: {errors}\n{ports}"
        );
    }

    /// Starts the process, as at first or after a kill, and waits for its readiness.
    pub(crate) fn run(&mut self) {
        let _ = std::fs::remove_file(&self.notify);
        let ready = UnixDatagram::bind(&self.notify).expect("the notification socket");
        ready
            .set_read_timeout(Some(Duration::from_millis(50)))
            .expect("a timeout");
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command
            .arg("run")
            .arg(&self.config)
            .env("NOTIFY_SOCKET", &self.notify);
        let mut process = Process::spawn("portcullis", &mut command, &self.log);
        until("the switch's readiness", PATIENCE, || {
            if let Some(status) = process.ended() {
                panic!("the switch ended: {status}");
            }
            let mut buffer = [0; 512];
            let got = ready.recv(&mut buffer).ok()?;
            buffer[..got]
                .split(|byte| *byte == b'\n')
                .find(|line| *line == b"READY=1")
                .map(drop)
        });
        self.process = Some(process);
    }

    /// SIGKILL, as a crash would.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    /// SIGTERM, and a clean end.
    pub(crate) fn stop(&mut self) {
        let mut process = self.process.take().expect("a running switch");
        process.signal(Signal::TERM);
        let status = process.finish(PATIENCE);
        assert!(status.success(), "the switch ended with {status}");
    }

    pub(crate) fn alive(&mut self) -> bool {
        self.process
            .as_mut()
            .is_some_and(|process| process.ended().is_none())
    }

    /// The whole status, asked without a process in between, so that a loop of questions leaves the machine to others.
    pub(crate) fn status(&self) -> Value {
        let status = portcullis::control::ask(&self.control, &Question::Status);
        status.unwrap_or_else(|why| panic!("status: {why}"))
    }

    /// The status of one port.
    pub(crate) fn port(&self, name: &str) -> Value {
        Self::port_of(&self.status(), name).clone()
    }

    fn port_of<'a>(status: &'a Value, name: &str) -> &'a Value {
        let ports = status["ports"].as_array().expect("ports");
        let port = ports.iter().find(|port| port["name"] == name);
        port.unwrap_or_else(|| panic!("no port {name}: {status}"))
    }

    /// The traffic of one port, once no frame is on its way: every received frame was forwarded or
    /// dropped, every offered one delivered or not.
    pub(crate) fn traffic(&self, name: &str) -> Traffic {
        let traffic = self.settled(name);
        // A burst is counted before it is published, under its ring's lock, which a status enters.
        self.status();
        traffic
    }

    fn settled(&self, name: &str) -> Traffic {
        until(
            &format!("settled accounts of port {name}"),
            PATIENCE,
            || {
                let traffic = self.traffic_in_flight(name);
                let settled = traffic.received == traffic.forwarded + traffic.dropped
                    && traffic.offered == traffic.delivered + traffic.undelivered;
                settled.then_some(traffic)
            },
        )
    }

    /// The traffic of one port while frames may be on their way.
    pub(crate) fn traffic_in_flight(&self, name: &str) -> Traffic {
        Self::traffic_of(&self.status(), name)
    }

    /// The traffic of one port in a status that was taken before.
    pub(crate) fn traffic_of(status: &Value, name: &str) -> Traffic {
        let port = Self::port_of(status, name);
        let of = |way: &str, key: &str| {
            let counter = &port["counters"][way][key];
            counter
                .as_u64()
                .unwrap_or_else(|| panic!("{way}.{key}: {port}"))
        };
        let sum = |way: &str, key: &str| -> u64 {
            let reasons = port["counters"][way][key].as_object();
            let reasons = reasons.unwrap_or_else(|| panic!("{way}.{key}: {port}"));
            reasons.values().filter_map(Value::as_u64).sum()
        };
        Traffic {
            received: of("ingress", "received"),
            forwarded: of("ingress", "forwarded"),
            dropped: sum("ingress", "dropped"),
            offered: of("egress", "offered"),
            delivered: of("egress", "delivered"),
            undelivered: sum("egress", "undelivered"),
        }
    }

    /// How many frames from a port were dropped for this reason.
    pub(crate) fn dropped(&self, name: &str, reason: &str) -> u64 {
        self.port(name)["counters"]["ingress"]["dropped"][reason]
            .as_u64()
            .unwrap_or(0)
    }

    /// What `portcullis drops` prints of a port: its last dropped frames.
    pub(crate) fn drops(&self, name: &str) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(["drops", name, "--control"])
            .arg(&self.control)
            .output()
            .expect("portcullis drops");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The virtio features that a port's guest accepted, by name.
    pub(crate) fn features(&self, name: &str) -> Vec<String> {
        let port = self.port(name);
        let features = port["features"].as_array();
        let features = features.unwrap_or_else(|| panic!("features: {port}"));
        features
            .iter()
            .filter_map(|feature| feature.as_str().map(str::to_owned))
            .collect()
    }

    /// How many rings of a port run.
    pub(crate) fn rings(&self, name: &str) -> usize {
        let port = self.port(name);
        port["rings"]
            .as_array()
            .unwrap_or_else(|| panic!("rings: {port}"))
            .len()
    }

    /// Waits until each of `ports` is in use by a guest.
    pub(crate) fn await_running(&self, ports: &[&str]) {
        for name in ports {
            until(&format!("port {name} running"), PATIENCE, || {
                (self.port(name)["state"] == "running").then_some(())
            });
        }
    }
}
