//! DPDK's testpmd, driven by its prompt: as a guest (virtio-user) and as a switch (vhost).

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::process::Process;
use super::{Bench, PATIENCE, until};

/// Ended when dropped, and its runtime directory removed. No huge pages are needed.
pub(crate) struct Testpmd {
    process: Process,
    prompt: ChildStdin,
    output: Arc<Mutex<String>>,
    runtime: PathBuf,
}

impl Testpmd {
    /// Starts it with these virtual devices and testpmd's own options, not yet forwarding.
    pub(crate) fn start(bench: &Bench, name: &str, devices: &[String], options: &[&str]) -> Self {
        let prefix = format!("portcullis-{}-{name}", std::process::id());
        // Unbuffered, so that the prompt comes behind the output of the command before it.
        let mut command = Command::new("stdbuf");
        command
            .args(["-o0", "dpdk-testpmd"])
            .args([
                "-l",
                "0,1",
                "--main-lcore",
                "0",
                "--no-pci",
                "--no-huge",
                "-m",
                "256",
            ])
            .args(["--no-telemetry", &format!("--file-prefix={prefix}")]);
        for device in devices {
            command.arg(format!("--vdev={device}"));
        }
        command.args([
            "--",
            "-i",
            "--no-numa",
            "--nb-cores=1",
            "--total-num-mbufs=16384",
        ]);
        command
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|why| panic!("dpdk-testpmd: {why}"));
        let output = Arc::new(Mutex::new(String::new()));
        let log = bench.path(&format!("{name}.testpmd.log"));
        collect(
            child.stdout.take().expect("piped"),
            Arc::clone(&output),
            log.clone(),
        );
        // Apart, or a message could stand in the middle of the prompt.
        let errors = child.stderr.take().expect("piped");
        collect(errors, Arc::default(), log);
        let prompt = child.stdin.take().expect("piped");
        let runtime = PathBuf::from("/var/run/dpdk").join(&prefix);
        let mut testpmd = Self {
            process: Process::adopt("dpdk-testpmd", child),
            prompt,
            output,
            runtime,
        };
        testpmd.answer("testpmd> ");
        testpmd
    }

    /// Gives a command and waits for the prompt behind its output.
    pub(crate) fn command(&mut self, command: &str) -> String {
        self.output
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        writeln!(self.prompt, "{command}").expect("testpmd is there");
        self.answer("testpmd> ")
    }

    fn answer(&mut self, end: &str) -> String {
        until("testpmd's prompt", PATIENCE, || {
            if let Some(status) = self.process.ended() {
                panic!("testpmd ended: {status}");
            }
            let output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
            output.contains(end).then(|| output.clone())
        })
    }

    /// A counter of a port, for example `RX-packets`.
    pub(crate) fn counter(&mut self, port: u16, name: &str) -> u64 {
        let text = self.command(&format!("show port stats {port}"));
        let at = text
            .find(&format!("{name}:"))
            .unwrap_or_else(|| panic!("{name}: {text}"));
        let value = text[at..].split_whitespace().nth(1);
        value
            .and_then(|value| value.parse().ok())
            .unwrap_or_else(|| panic!("{name}: {text}"))
    }

    /// Stops forwarding and quits; true if it ended well.
    pub(crate) fn quit(mut self) -> bool {
        let _ = writeln!(self.prompt, "quit");
        self.process.finish(Duration::from_secs(30)).success()
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        self.process.kill();
        let _ = std::fs::remove_dir_all(&self.runtime);
    }
}

/// Reads a pipe until it closes, into the shared text and the log.
fn collect(mut pipe: impl Read + Send + 'static, output: Arc<Mutex<String>>, log: PathBuf) {
    std::thread::spawn(move || {
        let mut log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(log)
            .ok();
        let mut buffer = [0; 4096];
        while let Ok(got) = pipe.read(&mut buffer) {
            if got == 0 {
                break;
            }
            if let Some(log) = log.as_mut() {
                let _ = log.write_all(&buffer[..got]);
            }
            let text = String::from_utf8_lossy(&buffer[..got]);
            output
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push_str(&text);
        }
    });
}
