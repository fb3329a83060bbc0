//! `portcullis check`: everything that `run` does before it makes anything.

use std::io::{self, Write as _};

use super::args::SwitchArgs;
use super::{Failure, print};
use crate::config::{self, SwitchSpec};
use crate::daemon::Source;

pub(super) fn check(args: &SwitchArgs) -> Result<(), Failure> {
    let (_, spec) = validated(args)?;
    let ports = spec.ports.len();
    // Standard output is for scripts.
    for note in &spec.notes {
        let _ = writeln!(io::stderr(), "note: {note}");
    }
    let plural = if ports == 1 { "" } else { "s" };
    print(&format!("{}: {ports} port{plural}, good\n", spec.name))
}

/// Reads, validates, and checks every path.
pub(super) fn validated(args: &SwitchArgs) -> Result<(Source, SwitchSpec), Failure> {
    let (source, spec) = Source::read(args.file.as_deref(), args.overrides())?;
    config::check_paths(&spec)?;
    Ok((source, spec))
}
