//! From text to a validated model of the switch.
//!
//! Two steps. `raw` turns a TOML file and the `--port` flags into one plain shape, entries with the place
//! where each was written; `validate` turns that into a [`SwitchSpec`] in which every value has its meaning and
//! every rule between ports holds. Nobody behind this room looks at text again, and one typed [`PortSpec`]
//! serves the file and the flags alike.
//!
//! What a caller may rely on:
//!
//! - An unknown key, section or value is refused; nothing is skipped in silence.
//! - Every [`Fault`] names the file and line (or the flag), the key, what is wrong and what to do. All faults that can be
//!   found are reported at once.
//! - Reading a configuration touches nothing: no socket is made, no running port is changed. [`check_paths`] is the
//!   one step that looks at the file system, and it makes nothing either.

mod acl;
mod asserts;
mod between;
mod error;
mod filters;
mod flags;
mod leased;
mod limits;
mod lists;
mod nearest;
mod notes;
pub mod nwfilter;
pub mod packet;
mod paths;
mod ports;
mod raw;
mod reader;
mod security;
mod shared;
mod spec;
mod terms;
mod triggers;
mod validate;
mod who;

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::fabric::Mode;
use reader::Reader;

pub use error::{ConfigError, Fault, Place};
pub use packet::PacketError;
pub use paths::{check_paths, default_control_path, runtime_directory};
pub use spec::{
    Assert, MAX_MTU, MAX_NAME, MAX_QUEUES, MAX_SOCKET_PATH, MIN_MTU, PortSpec, SwitchSpec,
    Threshold, TriggerSpec,
};
pub use who::Helper;

/// What the command line says about the switch; it wins over the file.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--name`
    pub name: Option<String>,
    /// `--mode`
    pub mode: Option<String>,
    /// `--control`
    pub control: Option<PathBuf>,
    /// `--workers`
    pub workers: Option<String>,
    /// `--cpus`, in order
    pub cpus: Vec<String>,
    /// `--poll`
    pub poll: Option<String>,
    /// `--port`, in order; ports of flags come after those of the file
    pub ports: Vec<String>,
}

/// Reads the file, if there is one, adds the flags, and validates the whole.
pub fn load(file: Option<&Path>, overrides: &Overrides) -> Result<SwitchSpec, ConfigError> {
    match file {
        None => from_text(None, "", overrides),
        Some(path) => {
            let text = read(path).map_err(|source| ConfigError::Unreadable {
                file: path.to_owned(),
                source,
            })?;
            from_text(Some(path), &text, overrides)
        }
    }
}

/// The file's text, or as much of it as is too long.
fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    file.take(MAX_TEXT + 1).read_to_string(&mut text)?;
    Ok(text)
}

/// The same from a text in memory; `file` is what its errors are named after.
pub fn from_text(
    file: Option<&Path>,
    text: &str,
    overrides: &Overrides,
) -> Result<SwitchSpec, ConfigError> {
    if text.len() as u64 > MAX_TEXT {
        let file = file.map_or("command line".to_owned(), |path| path.display().to_string());
        return Err(ConfigError::Invalid(vec![Fault {
            place: Place::Whole(file),
            subject: String::new(),
            problem: "more than 16 MiB of text".to_owned(),
            remedy: "use sets and ranges, or run a second switch for the rest".to_owned(),
        }]));
    }
    let mut raw = raw::parse_file(file, text)?;
    let mut faults = Vec::new();
    flags::add_overrides(&mut raw, overrides, &mut faults);
    let spec = validate::validate(raw, file, &mut faults);
    if faults.is_empty() {
        Ok(spec)
    } else {
        // As they stand in the file; those of flags and of the whole come last.
        faults.sort_by_key(|fault| match fault.place {
            Place::Line { line, column, .. } => (line, column),
            Place::Flag(_) | Place::Whole(_) => (u32::MAX, None),
        });
        Err(ConfigError::Invalid(faults))
    }
}

/// Whether a ready-made list is called that.
#[must_use]
pub fn is_ready_made(name: &str) -> bool {
    filters::NAMES.contains(&name)
}

const MODES: [(&str, Mode); 3] = [
    ("bridge", Mode::Bridge),
    ("isolated", Mode::Isolated),
    ("private", Mode::Private),
];
/// Bytes of a configuration: room for as many rules, members of sets and ports as there may be.
const MAX_TEXT: u64 = 16 << 20;
const MAX_FDB: u32 = 1 << 20;
const NAME_RULE: &str = "choose 1 to 32 of A-Z a-z 0-9 _ . - and begin with a letter, a digit or _";

fn valid_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    let first = bytes.next();
    first.is_some_and(|c| c.is_ascii_alphanumeric() || c == b'_')
        && name.len() <= MAX_NAME
        && bytes.all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-'))
}

/// The value is already known to fit: the range of its key said so.
fn narrow(number: u32) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

fn socket_path(
    reader: &mut Reader<'_>,
    key: &'static str,
    path: String,
    place: &Place,
) -> Option<PathBuf> {
    let problem = if path.len() > MAX_SOCKET_PATH {
        format!("a path of {} bytes", path.len())
    } else if path.contains('\0') {
        "a path with a NUL in it".to_owned()
    } else if path.ends_with('/') {
        format!("{path:?} names a directory")
    } else {
        return Some(PathBuf::from(path));
    };
    let remedy = "a Unix socket's path is a file name of at most 107 bytes: choose another";
    reader.fault(place.clone(), key, problem, remedy);
    None
}

#[cfg(test)]
mod tests;
