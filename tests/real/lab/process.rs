//! A child process that does not outlive its owner.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::until;

/// Ended by its own pid when dropped.
pub(crate) struct Process {
    child: Child,
    name: String,
}

impl Process {
    /// Starts it with both outputs in `log`; what the log held before stays.
    pub(crate) fn spawn(name: &str, command: &mut Command, log: &Path) -> Self {
        let log = File::options()
            .create(true)
            .append(true)
            .open(log)
            .expect("a log file");
        let errors = log.try_clone().expect("a second handle of the log");
        let child = command
            .stdout(log)
            .stderr(errors)
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|why| panic!("{name}: {}: {why}", command.get_program().display()));
        Self {
            child,
            name: name.to_owned(),
        }
    }

    /// Takes a child that was started with other pipes.
    pub(crate) fn adopt(name: &str, child: Child) -> Self {
        Self {
            child,
            name: name.to_owned(),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap_or_else(|why| panic!("{}: {why}", self.name));
    }

    /// The exit status, if it has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child
            .try_wait()
            .unwrap_or_else(|why| panic!("{}: {why}", self.name))
    }

    /// Waits for its end.
    pub(crate) fn finish(&mut self, deadline: Duration) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        until(&what, deadline, || self.ended())
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
