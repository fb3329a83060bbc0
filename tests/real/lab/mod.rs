//! The laboratory: real QEMU guests, DPDK's drivers and the switch under test, as processes.
//!
//! Everything that a test starts lives in its [`Bench`]: a directory of its own for sockets and
//! logs, gone at the end. A process is ended by its own pid when its owner is dropped. When a test
//! fails, its logs are kept in `.lab/logs/<test>`. What a test waits for is a condition with a
//! generous deadline (emulated guests are slow), never a span of time.

mod agent;
mod bare;
mod bridge;
mod guest;
mod libvirt;
pub(crate) mod namespace;
mod process;
mod recorder;
mod switch;
mod testpmd;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

pub(crate) use bare::{Bare, RX, TX};
pub(crate) use bridge::BridgeGuest;
pub(crate) use guest::{Guest, GuestSpec, Qemu, boot};
pub(crate) use libvirt::Libvirt;
pub(crate) use process::Process;
pub(crate) use recorder::{Message, Recorder};
pub(crate) use switch::Switch;
pub(crate) use testpmd::Testpmd;

/// Long enough for anything that works, on a machine that is busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Where the artefacts of `lab/setup.sh` are.
pub(crate) fn artefacts() -> PathBuf {
    std::env::var_os("PORTCULLIS_LAB").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join(".lab"),
        PathBuf::from,
    )
}

/// One test's place: its directory, and what is kept of it when the test fails.
pub(crate) struct Bench {
    directory: tempfile::TempDir,
}

impl Bench {
    /// Sets up the laboratory if it is not (from Debian's packages; the first time takes a while),
    /// and makes the test's directory.
    pub(crate) fn new() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("lab/setup.sh");
        let output = Command::new(&script)
            .output()
            .unwrap_or_else(|why| panic!("{}: {why}", script.display()));
        assert!(
            output.status.success(),
            "the laboratory could not be set up: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        let directory = tempfile::Builder::new()
            .prefix("portcullis-lab-")
            .tempdir()
            .expect("a temporary directory");
        Self { directory }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn keep_logs(&self) {
        let test = std::thread::current()
            .name()
            .unwrap_or("unnamed")
            .replace("::", ".");
        let kept = artefacts().join("logs").join(test);
        let _ = std::fs::remove_dir_all(&kept);
        if std::fs::create_dir_all(&kept).is_err() {
            return;
        }
        for entry in std::fs::read_dir(self.directory.path())
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = entry.file_name();
            let Some(text) = name.to_str().filter(|name| name.contains(".log")) else {
                continue;
            };
            let _ = std::fs::copy(entry.path(), kept.join(text));
            eprintln!("---- {text}, its end ----\n{}", tail(&entry.path()));
        }
        eprintln!("the whole logs: {}", kept.display());
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.keep_logs();
        }
    }
}

/// The last lines of a log.
fn tail(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}

/// Asks until there is an answer, and gives up with the name of what did not come.
pub(crate) fn until<T>(what: &str, deadline: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(
            start.elapsed() < deadline,
            "did not come within {deadline:?}: {what}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}
