//! Which running switch is meant.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::Failure;
use crate::config::{default_control_path, runtime_directory};

/// A running switch, by its name or its control socket.
#[derive(Debug, Args)]
pub(super) struct Target {
    /// The switch's name; not needed when only one runs
    #[arg(long = "switch", value_name = "NAME", conflicts_with = "control")]
    name: Option<String>,

    /// Its control socket [default: portcullis/NAME.sock in $XDG_RUNTIME_DIR or /run]
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
}

impl Target {
    /// The one of that name or path.
    pub(super) fn new(name: Option<String>, control: Option<PathBuf>) -> Self {
        Self { name, control }
    }

    /// The control socket that is meant.
    pub(super) fn socket(&self) -> Result<PathBuf, Failure> {
        if let Some(path) = &self.control {
            return Ok(path.clone());
        }
        if let Some(name) = &self.name {
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
        // A switch that is killed leaves its socket behind.
        let (left, found): (Vec<_>, Vec<_>) = found.into_iter().partition(|path| is_left(path));
        match found.as_slice() {
            [one] => Ok(one.clone()),
            [] => {
                let left: Vec<_> = left.iter().map(|path| path.display().to_string()).collect();
                let left = match left.as_slice() {
                    [] => String::new(),
                    [one] => format!(" ({one} is left of one that was killed)"),
                    several => format!(
                        " ({} are left of ones that were killed)",
                        several.join(", ")
                    ),
                };
                Err(Failure::Which(format!(
                    "no switch in {}{left}; start one, or name its socket with --control PATH",
                    directory.display()
                )))
            }
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
}

/// Whether nobody listens at this socket. Does not wait: a switch whose clients queue up is there.
fn is_left(path: &Path) -> bool {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let answer = || {
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        connect(&socket, &SocketAddrUnix::new(path)?)
    };
    answer() == Err(Errno::CONNREFUSED)
}
