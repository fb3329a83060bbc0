//! Files in which a switch keeps what is to survive a restart, by name.
//!
//! They lie in the state directory that systemd gives (`$STATE_DIRECTORY/NAME.KIND`), or beside the control socket. One is there
//! exactly while there is something to keep, and is replaced as a whole: a crash at any moment leaves the old or the new.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::config::SwitchSpec;

/// Where what this switch keeps of that kind lies.
pub(super) fn path(spec: &SwitchSpec, kind: &str) -> PathBuf {
    let given = std::env::var_os("STATE_DIRECTORY").filter(|given| !given.is_empty());
    // systemd separates several by colons; the first is as good as any.
    let first = given
        .as_ref()
        .and_then(|given| std::env::split_paths(given).next());
    match first {
        Some(directory) => directory.join(format!("{}.{kind}", spec.name)),
        None => {
            let mut path = spec.control.clone().into_os_string();
            path.push(".");
            path.push(kind);
            path.into()
        }
    }
}

/// Writes `text` beside the file, and puts it in its place when it is safe on disk; without a text the file goes. Waits for the
/// disk: not for the attendant.
pub(super) fn replace(file: &Path, text: Option<&[u8]>) -> io::Result<()> {
    let mut beside = file.to_owned().into_os_string();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let removed = |path: &Path| match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    removed(&beside)?;
    let Some(text) = text else {
        return removed(file);
    };
    let written = write(&beside, text).and_then(|()| fs::rename(&beside, file));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written?;
    let directory = file.parent().unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

fn write(beside: &Path, text: &[u8]) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(beside)?;
    file.write_all(text)?;
    file.sync_all()
}
