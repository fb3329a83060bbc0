//! Arguments, errors and exit codes.
//!
//! # Exit codes
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done; a switch that was asked to stop has stopped cleanly |
//! | 1 | it failed while it ran: a socket could not be made, a switch could not be reached |
//! | 2 | the arguments are wrong |
//! | 3 | the configuration was refused; nothing was started, nothing was changed |
//!
//! An error is printed on standard error with its whole chain of causes.

mod args;
mod capture;
mod check;
mod demo;
mod explain;
mod fdb;
mod import;
pub mod load;
mod logging;
mod plan;
mod quarantine;
mod reload;
mod run;
mod seen;
mod status;
mod summary;
mod table;
mod target;

use std::error::Error;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write as _};

use clap::Parser as _;

use crate::config::nwfilter::ImportError;
use crate::config::{ConfigError, PacketError};
use crate::control::AskError;
use crate::daemon::{DaemonError, SourceError, TrialError};
use args::{Arguments, Command};

/// Why the program ends with something else than 0.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The arguments are wrong, or help was asked for; clap has its own way of saying so.
    #[error(transparent)]
    Arguments(#[from] clap::Error),
    /// The configuration was refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The file of the configuration was refused.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A running switch refused a configuration.
    #[error("{0}\nnothing was changed: the configuration before stays in force")]
    NotTakenUp(String),
    /// A filter was not converted at all.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// `import --strict`: so many things were left out; each has been named.
    #[error("{0} left out; each line above says what and why")]
    LeftOut(usize),
    /// A load came to nothing, or to damage.
    #[error(transparent)]
    Load(#[from] load::LoadError),
    /// A switch did not start, or failed.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// The demonstration.
    #[error(transparent)]
    Demo(#[from] demo::DemoError),
    /// A switch did not answer.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// A configuration that cannot be compiled.
    #[error(transparent)]
    Trial(#[from] TrialError),
    /// The text of a packet.
    #[error("the packet: {0}")]
    Packet(#[from] PacketError),
    /// A file of frames.
    #[error(transparent)]
    Capture(#[from] capture::CaptureError),
    /// A file that was to be written.
    #[error("cannot write {0}")]
    Unwritten(String, #[source] io::Error),
    /// A list changed while it was shown.
    #[error("the policy changed while its rules were listed; ask again")]
    Changed,
    /// It was done, and would not survive a restart.
    #[error(
        "it is in force, and would not survive a restart: {0}; make room there and say it again"
    )]
    NotSaved(String),
    /// Which switch is meant cannot be told.
    #[error("{0}")]
    Which(String),
    /// An argument names a port or a list that the configuration given beside it does not have.
    #[error("{0}")]
    Unknown(String),
    /// `--log` or PORTCULLIS_LOG.
    #[error(transparent)]
    Log(#[from] logging::LogError),
    /// Nobody reads our standard output any more, or it cannot be written.
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
}

impl Failure {
    /// The exit code; the module's table says what it means.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Arguments(error) => u8::try_from(error.exit_code()).unwrap_or(2),
            Self::Config(_) | Self::Trial(_) | Self::Source(_) | Self::NotTakenUp(_) => 3,
            Self::Log(_) | Self::Packet(_) | Self::Unknown(_) => 2,
            Self::Import(_)
            | Self::LeftOut(_)
            | Self::Load(_)
            | Self::Daemon(_)
            | Self::Demo(_)
            | Self::Ask(_)
            | Self::Which(_)
            | Self::NotSaved(_)
            | Self::Changed
            | Self::Capture(_)
            | Self::Unwritten(..)
            | Self::Output(_) => 1,
        }
    }

    /// Tells the user. A closed pipe is not worth a word.
    pub fn report(&self) {
        match self {
            Self::Arguments(error) => {
                let _ = error.print();
            }
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            other => {
                let _ = writeln!(io::stderr(), "{}", Chain(other));
            }
        }
    }
}

/// An error with its causes, one a line.
struct Chain<'e>(&'e dyn Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = Vec::new();
        for line in self.0.to_string().lines() {
            // What a switch tells of its own causes is indented already.
            let begins = if line.starts_with(' ') { "" } else { "error: " };
            lines.push(format!("{begins}{line}"));
        }
        let mut cause = self.0.source();
        while let Some(error) = cause {
            // A cause that the line above ends with is told already.
            let text = error.to_string();
            if !lines.last().is_some_and(|line| line.ends_with(&text)) {
                lines.push(format!("  caused by: {text}"));
            }
            cause = error.source();
        }
        f.write_str(&lines.join("\n"))
    }
}

/// Runs the command that `arguments` name; the first of them is the program's name.
///
/// # Errors
/// See [`Failure`]; nothing has been printed about it yet.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Result<(), Failure> {
    let arguments = Arguments::try_parse_from(arguments)?;
    match arguments.command {
        Command::Run(args) => run::run(&args),
        Command::Check(switch) => check::check(&switch),
        Command::Demo(args) => demo::demo(&args),
        Command::Import(args) => import::run(&args),
        Command::Load(load) => Ok(load::run(&load)?),
        Command::Status(args) => status::status(&args),
        Command::Reload(args) => reload::reload(&args),
        Command::Plan(args) => plan::plan(&args),
        Command::Explain(args) => explain::explain(&args),
        Command::Fdb(args) => fdb::fdb(&args),
        Command::Drops(args) => seen::drops(&args),
        Command::Flows(args) => seen::flows(&args),
        Command::Quarantine(args) => quarantine::quarantine(&args),
        Command::Release(args) => quarantine::release(&args),
    }
}

/// Writes `text` to standard output.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(Failure::Output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_printed_whole() {
        let source = io::Error::other("no such thing");
        let failure = Failure::Config(ConfigError::Unreadable {
            file: "lan.toml".into(),
            source,
        });
        assert_eq!(
            Chain(&failure).to_string(),
            "error: lan.toml: cannot read the configuration; check the path and its permissions\n  \
             caused by: no such thing"
        );
    }

    #[test]
    fn the_arguments_are_consistent() {
        use clap::CommandFactory as _;
        Arguments::command().debug_assert();
    }
}
