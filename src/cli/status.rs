//! `portcullis status`: asks a running switch and shows the answer.

use std::time::Duration;

use super::args::StatusArgs;
use super::target::Target;
use super::{Failure, print, seen, table};
use crate::control::{AskError, Question, SwitchReport, ask};

/// Clears the terminal and goes to its first place (ECMA-48: ED, CUP).
const CLEAR: &str = "\x1b[2J\x1b[H";

pub(super) fn status(args: &StatusArgs) -> Result<(), Failure> {
    let path = Target::new(
        args.name.clone().or(args.switch.clone()),
        args.control.clone(),
    )
    .socket()?;
    if args.rules {
        return seen::rules(&path, args.json);
    }
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
    let value = ask(path, &Question::Status)?;
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
