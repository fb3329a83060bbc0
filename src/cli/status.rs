//! `portcullis status`: asks a running switch and shows the answer.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::args::StatusArgs;
use super::{Failure, print, table};
use crate::config::{default_control_path, runtime_directory};
use crate::control::{AskError, Question, SwitchReport, ask};

/// Clears the terminal and goes to its first place (ECMA-48: ED, CUP).
const CLEAR: &str = "\x1b[2J\x1b[H";

pub(super) fn status(args: &StatusArgs) -> Result<(), Failure> {
    let path = which(args)?;
    let Some(seconds) = args.watch else {
        return print(&shown(&path, args.json)?);
    };
    let clear = if args.json { "" } else { CLEAR };
    loop {
        print(&format!("{clear}{}", shown(&path, args.json)?))?;
        std::thread::sleep(Duration::from_secs(seconds.max(1).into()));
    }
}

fn shown(path: &std::path::Path, json: bool) -> Result<String, Failure> {
    let value = ask(path, Question::Status)?;
    if json {
        // As it came: a newer switch may say more than this program knows.
        return Ok(format!("{value:#}\n"));
    }
    let strange = |source| AskError::Strange {
        path: path.to_owned(),
        source,
    };
    let report: SwitchReport = serde_json::from_value(value).map_err(strange)?;
    Ok(table::render(&report))
}

/// The control socket that is meant.
fn which(args: &StatusArgs) -> Result<PathBuf, Failure> {
    if let Some(path) = &args.control {
        return Ok(path.clone());
    }
    if let Some(name) = &args.name {
        return Ok(default_control_path(name));
    }
    let directory = runtime_directory();
    let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
    let is_socket = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "sock");
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(is_socket)
        .collect();
    found.sort();
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(Failure::Which(format!(
            "no switch in {}; start one, or name its socket with --control PATH",
            directory.display()
        ))),
        several => {
            let names = several.iter().filter_map(|path| path.file_stem()?.to_str());
            Err(Failure::Which(format!(
                "several switches in {}; name one of {}",
                directory.display(),
                names.collect::<Vec<_>>().join(", ")
            )))
        }
    }
}
