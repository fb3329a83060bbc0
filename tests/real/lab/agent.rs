//! The tests' side of the serial line to a guest's agent (`lab/agent`).

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// One request at a time; each has a number, so that an answer is never taken for another's.
pub(crate) struct Agent {
    line: UnixStream,
    received: Vec<u8>,
    last: u64,
}

impl Agent {
    pub(crate) fn connect(socket: &Path) -> Option<Self> {
        let line = UnixStream::connect(socket).ok()?;
        line.set_read_timeout(Some(Duration::from_millis(100)))
            .ok()?;
        Some(Self {
            line,
            received: Vec::new(),
            last: 0,
        })
    }

    /// Runs a shell command in the guest: its exit status and output; nothing when no answer came
    /// in time or the line went away.
    pub(crate) fn run(&mut self, command: &str, patience: Duration) -> Option<(i32, String)> {
        assert!(!command.contains('\n'), "a request is one line: {command}");
        self.last += 1;
        self.received.clear();
        // 0x01 marks where the request begins, whatever the guest had in its buffer before.
        writeln!(self.line, "\n\u{1}#{} {command}", self.last).ok()?;
        let start = Instant::now();
        while start.elapsed() < patience {
            let mut buffer = [0; 4096];
            match self.line.read(&mut buffer) {
                Ok(0) => return None,
                Ok(got) => self.received.extend_from_slice(&buffer[..got]),
                Err(why) if matches!(why.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => return None,
            }
            if let Some(answer) = self.answer() {
                return Some(answer);
            }
        }
        None
    }

    fn answer(&self) -> Option<(i32, String)> {
        let mark = format!("@{} ", self.last).into_bytes();
        let at = self
            .received
            .windows(mark.len())
            .position(|there| there == mark)?;
        let rest = &self.received[at + mark.len()..];
        let line = rest.iter().position(|byte| *byte == b'\n')?;
        let head = std::str::from_utf8(&rest[..line]).ok()?;
        let (status, length) = head.split_once(' ')?;
        let body = rest[line + 1..].get(..length.parse().ok()?)?;
        Some((
            status.parse().ok()?,
            String::from_utf8_lossy(body).into_owned(),
        ))
    }
}
