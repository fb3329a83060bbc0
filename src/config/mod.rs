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

mod error;
mod nearest;
mod paths;
mod raw;
mod reader;
mod spec;
mod validate;

use std::path::{Path, PathBuf};

pub use error::{ConfigError, Fault, Place};
pub use paths::{check_paths, default_control_path, runtime_directory};
pub use spec::{MAX_MTU, MAX_NAME, MAX_QUEUES, MAX_SOCKET_PATH, MIN_MTU, PortSpec, SwitchSpec};

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
            let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
                file: path.to_owned(),
                source,
            })?;
            from_text(Some(path), &text, overrides)
        }
    }
}

/// The same from a text in memory; `file` is what its errors are named after.
pub fn from_text(
    file: Option<&Path>,
    text: &str,
    overrides: &Overrides,
) -> Result<SwitchSpec, ConfigError> {
    let mut raw = raw::parse_file(file, text)?;
    let mut faults = Vec::new();
    raw::add_overrides(&mut raw, overrides, &mut faults);
    let spec = validate::validate(raw, file, &mut faults);
    if faults.is_empty() {
        Ok(spec)
    } else {
        Err(ConfigError::Invalid(faults))
    }
}

#[cfg(test)]
mod tests;
