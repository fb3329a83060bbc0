//! Logs, on standard error. `--log` or PORTCULLIS_LOG choose what is said: a level, or `tracing` directives.
//!
//! A log that cannot be written (a full disk, a pipe that nobody reads any more) costs its lines and nothing else: they are
//! counted, and the first line that can be written again says how many they were (O-6).

use std::io::{self, IsTerminal as _, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

const VARIABLE: &str = "PORTCULLIS_LOG";
const DEFAULT: &str = "info";

/// Starts logging, once for the process.
pub(super) fn start(flag: Option<&str>) -> Result<(), LogError> {
    let from_environment = std::env::var(VARIABLE).ok().filter(|text| !text.is_empty());
    let directives = flag.or(from_environment.as_deref()).unwrap_or(DEFAULT);
    let filter = EnvFilter::try_new(directives).map_err(|source| LogError {
        directives: directives.to_owned(),
        source,
    })?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| Careful {
            to: io::stderr(),
            lost: &LOST,
        })
        .with_target(false)
        .with_ansi(io::stderr().is_terminal());
    // The journal has its own time stamps.
    let in_journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let started = if in_journal {
        subscriber.without_time().try_init()
    } else {
        subscriber.try_init()
    };
    // A program that embeds us may have its own logging: it stays.
    drop(started);
    Ok(())
}

/// Lines that could not be written since the last that could.
static LOST: AtomicU64 = AtomicU64::new(0);

/// A writer of whole lines that never fails. One that did would have `tracing-subscriber` complain on standard error, and
/// `eprintln` ends the process when that cannot be written to.
struct Careful<'a, W> {
    to: W,
    lost: &'a AtomicU64,
}

impl<W: Write> Write for Careful<'_, W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        let mut said = Ok(());
        if lost > 0 {
            said = writeln!(self.to, "{lost} lines of this log could not be written");
        }
        let written = said.is_ok() && self.to.write_all(line).is_ok();
        let again = if said.is_err() { lost } else { 0 };
        let lost = again.saturating_add(u64::from(!written));
        self.lost.fetch_add(lost, Ordering::Relaxed);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.to.flush();
        Ok(())
    }
}

/// `--log` or PORTCULLIS_LOG cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error(
    "--log or {VARIABLE}: {directives:?} is neither a level nor a directive; choose error, warn, info, debug or trace"
)]
pub struct LogError {
    directives: String,
    #[source]
    source: ParseError,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk with room for so many bytes.
    struct Disk(Vec<u8>, usize);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let room = self.1.saturating_sub(self.0.len());
            if room == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let written = bytes.len().min(room);
            self.0.extend_from_slice(&bytes[..written]);
            Ok(written)
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::StorageFull.into())
        }
    }

    #[test]
    fn o_6_lines_that_cannot_be_written_are_counted_and_told() {
        let lost = AtomicU64::new(0);
        let mut log = Careful {
            to: Disk(Vec::new(), 10),
            lost: &lost,
        };
        for line in ["first\n", "second\n", "third\n", "fourth\n"] {
            log.write_all(line.as_bytes()).unwrap();
            log.flush().unwrap();
        }
        // Of the second, what there was room for.
        assert_eq!(log.to.0, b"first\nseco");
        assert_eq!(lost.load(Ordering::Relaxed), 3);
        log.to = Disk(Vec::new(), 100);
        log.write_all(b"fifth\n").unwrap();
        let told = "3 lines of this log could not be written\nfifth\n";
        assert_eq!(String::from_utf8_lossy(&log.to.0), told);
        assert_eq!(lost.load(Ordering::Relaxed), 0);
    }
}
