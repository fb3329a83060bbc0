//! Whether this machine has what is named: the one step of this room that looks at the file system.
//!
//! It finds what [`Listening::bind`](crate::port::socket::Listening::bind) would refuse, before anything is made, and says
//! where in the configuration it comes from.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::{ConfigError, Fault, Place, SwitchSpec};
use crate::port::socket::{Occupant, directory_of};

/// Where control sockets live by default: `$XDG_RUNTIME_DIR/portcullis`, else `/run/portcullis`.
#[must_use]
pub fn runtime_directory() -> PathBuf {
    let of_user = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty());
    of_user
        .map_or_else(|| PathBuf::from("/run"), PathBuf::from)
        .join("portcullis")
}

/// The default path of the control socket of the switch called `name`.
#[must_use]
pub fn default_control_path(name: &str) -> PathBuf {
    runtime_directory().join(format!("{name}.sock"))
}

/// Checks every path that `run` would bind (the directory is there, and nobody serves the socket), and that there are the users, groups
/// and CPUs that are named. Makes nothing.
pub fn check_paths(spec: &SwitchSpec) -> Result<(), ConfigError> {
    let mut faults = Vec::new();
    let mut seen: HashMap<PathBuf, String> = HashMap::new();
    let mut check = |place: &Place, subject: String, path: &Path, ours: bool, made: bool| {
        let fault = |problem: String, remedy: &str| Fault {
            place: place.clone(),
            subject: subject.clone(),
            problem,
            remedy: remedy.to_owned(),
        };
        let found = if ours {
            check_ours(path, made)
        } else {
            check_theirs(path)
        };
        if let Err((problem, remedy)) = found {
            faults.push(fault(problem, remedy));
        } else if let Some(other) =
            real_path(path).and_then(|real| seen.insert(real, subject.clone()))
        {
            let problem = format!("{} is the same file as that of {other}", path.display());
            faults.push(fault(problem, "give each its own socket"));
        }
    };
    for port in &spec.ports {
        let subject = format!("port {:?}: socket", port.name);
        let ours = !port.is_connecting();
        check(&port.origin, subject, port.endpoint.path(), ours, false);
    }
    let subject = "[switch]: control".to_owned();
    let made = spec.control_is_default;
    check(&spec.control_origin, subject, &spec.control, true, made);
    for cpu in &spec.cpus {
        if let Err(error) = crate::datapath::can_run_on(usize::from(*cpu)) {
            faults.push(Fault {
                place: spec.cpus_origin.clone(),
                subject: "[switch]: cpus".to_owned(),
                problem: error.to_string(),
                remedy: "name CPUs of this machine that the switch may use".to_owned(),
            });
        }
    }
    for port in &spec.ports {
        let owner = (port.access.owner_id().err(), &port.owner_origin);
        let group = (port.access.group_id().err(), &port.group_origin);
        for (key, what, (problem, place)) in [
            ("socket_owner", "user", owner),
            ("socket_group", "group", group),
        ] {
            faults.extend(problem.map(|problem| Fault {
                place: place.as_ref().unwrap_or(&port.origin).clone(),
                subject: format!("port {:?}: {key}", port.name),
                problem,
                remedy: format!("name a {what} of this system"),
            }));
        }
    }
    if faults.is_empty() {
        Ok(())
    } else {
        Err(ConfigError::Invalid(faults))
    }
}

type Refusal = (String, &'static str);

/// A path that we are to bind. With `made`, a missing directory is made later and is no fault.
fn check_ours(path: &Path, made: bool) -> Result<(), Refusal> {
    let shown = path.display();
    let directory = directory_of(path);
    match fs::metadata(directory) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => {
            let problem = format!("{shown}: {} is not a directory", directory.display());
            return Err((problem, "choose another path"));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && made => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let problem = format!("{shown}: the directory {} is missing", directory.display());
            return Err((problem, "make it, or choose another path"));
        }
        Err(error) => {
            let problem = format!("{shown}: cannot look into {}: {error}", directory.display());
            return Err((problem, "check its permissions, or choose another path"));
        }
    }
    match Occupant::of(path) {
        Ok(Occupant::Nobody | Occupant::Stale) => Ok(()),
        Ok(Occupant::Process(pid)) => {
            let who = pid.map_or("another process".to_owned(), |pid| format!("pid {pid}"));
            let problem = format!("{shown}: in use by {who}");
            Err((problem, "stop it or choose another path"))
        }
        Ok(Occupant::Other(what)) => {
            let problem = format!("{shown}: {what} is in the way");
            Err((problem, "remove it or choose another path"))
        }
        Err(error) => {
            let problem = format!("{shown}: cannot tell whether a process serves it: {error}");
            Err((
                problem,
                "check its permissions, remove it or choose another path",
            ))
        }
    }
}

/// A path that the front-end is to bind: it may not be there yet.
fn check_theirs(path: &Path) -> Result<(), Refusal> {
    match fs::metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            let problem = format!("{}: not a socket", path.display());
            Err((
                problem,
                "name the socket that the front-end makes, or drop connect",
            ))
        }
        _ => Ok(()),
    }
}

/// The directory as it really is, and the name in it.
fn real_path(path: &Path) -> Option<PathBuf> {
    let directory = fs::canonicalize(directory_of(path)).ok()?;
    Some(directory.join(path.file_name().unwrap_or(OsStr::new(""))))
}
