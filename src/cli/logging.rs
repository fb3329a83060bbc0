//! Logs, on standard error. `--log` or PORTCULLIS_LOG choose what is said: a level, or `tracing` directives.

use std::io::{self, IsTerminal as _};

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
        .with_writer(io::stderr)
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
