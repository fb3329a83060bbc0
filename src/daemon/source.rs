//! Reading the configuration file, at the start and at each reload: only what its owner can have meant.
//!
//! Whoever can write the file decides what the switch lets pass. So it must be a regular file, named directly and not by a
//! symbolic link, that belongs to root or to the switch's own user and that nobody else can write to. The checks are made on
//! the descriptor that is then read: what was checked is what is read. A file that changes while it is read is refused.

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

use super::trial;
use crate::config::{self, ConfigError, Overrides, SwitchSpec};

/// The longest configuration, in bytes: far more than the rules that a switch takes.
const MAX_BYTES: u64 = 16 << 20;

/// Where a switch has its configuration from; what a reload reads again.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// The file; of a running switch its absolute path.
    pub file: Option<PathBuf>,
    /// The same as it was first named, as places name it.
    pub named: Option<PathBuf>,
    /// What it said.
    pub text: String,
    /// What the command line says; it wins over the file, at each reload as at the start.
    pub overrides: Overrides,
}

/// Why a configuration was not read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The file itself.
    #[error("{}: {problem}; {remedy}", file.display())]
    File {
        /// As it was named.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// What it says.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl Source {
    /// Reads `file`, if there is one, adds the flags, validates the whole, and holds the rules against every `[[assert]]`.
    ///
    /// # Errors
    /// See [`SourceError`].
    pub fn read(
        file: Option<&Path>,
        overrides: Overrides,
    ) -> Result<(Self, SwitchSpec), SourceError> {
        let (source, spec) = Self::read_untried(file, overrides)?;
        trial::try_out(&spec)?;
        Ok((source, spec))
    }

    /// The same, whatever becomes of an `[[assert]]`: for who wants to know why one fails.
    ///
    /// # Errors
    /// See [`SourceError`].
    pub fn read_untried(
        file: Option<&Path>,
        overrides: Overrides,
    ) -> Result<(Self, SwitchSpec), SourceError> {
        Self::read_named(file, file, overrides)
    }

    /// Reads the file again if `file` is the same, else the other; what is one file keeps one name in all places.
    ///
    /// # Errors
    /// See [`SourceError`].
    pub(super) fn read_again(&self, file: &Path) -> Result<(Self, SwitchSpec), SourceError> {
        let is_same = self.file.as_ref().is_some_and(|own| {
            let real = |path: &Path| path.canonicalize().ok();
            own == file || real(own).is_some_and(|own| real(file) == Some(own))
        });
        let (file, named) = match (&self.file, &self.named) {
            (Some(own), Some(named)) if is_same => (own.as_path(), named.as_path()),
            _ => (file, file),
        };
        let (source, spec) = Self::read_named(Some(file), Some(named), self.overrides.clone())?;
        trial::try_out(&spec)?;
        Ok((source, spec))
    }

    fn read_named(
        file: Option<&Path>,
        named: Option<&Path>,
        overrides: Overrides,
    ) -> Result<(Self, SwitchSpec), SourceError> {
        let text = file.map_or(Ok(String::new()), text_of)?;
        let spec = config::from_text(named, &text, &overrides)?;
        let source = Self {
            file: file.map(Path::to_owned),
            named: named.map(Path::to_owned),
            text,
            overrides,
        };
        Ok((source, spec))
    }
}

/// The whole text of `file`.
fn text_of(file: &Path) -> Result<String, SourceError> {
    let named = |file: PathBuf, problem, remedy| SourceError::File {
        file,
        problem,
        remedy,
    };
    let bytes = read_trusted(file, MAX_BYTES).map_err(|refusal| match refusal {
        Refusal::Unreadable(source) => {
            let file = file.to_owned();
            ConfigError::Unreadable { file, source }.into()
        }
        Refusal::Distrusted(problem, remedy) => named(file.to_owned(), problem, remedy),
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let lines = error.as_bytes().iter().take(good);
        let line = 1 + lines.filter(|byte| **byte == b'\n').count();
        let file = PathBuf::from(format!("{}:{line}", file.display()));
        named(file, "not UTF-8".to_owned(), "save the file as UTF-8")
    })
}

/// Why a file is not believed.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It cannot be read.
    Unreadable(io::Error),
    /// What is wrong with it, and what to do.
    Distrusted(String, &'static str),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Unreadable(error)
    }
}

/// All bytes of a file that nobody but root and this user can have written; see the head of this file.
pub(super) fn read_trusted(file: &Path, max: u64) -> Result<Vec<u8>, Refusal> {
    let distrusted = |problem: String, remedy| Err(Refusal::Distrusted(problem, remedy));
    // Without O_NONBLOCK a FIFO would be waited for.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = match open(file, flags, Mode::empty()) {
        Err(Errno::LOOP) => {
            let remedy = "name the file that it points to";
            return distrusted("is a symbolic link".to_owned(), remedy);
        }
        other => other.map_err(io::Error::from)?,
    };
    let mut opened = File::from(opened);
    let before = opened.metadata()?;
    if let Some((problem, remedy)) = objection(&before) {
        return distrusted(problem, remedy);
    }
    let mut bytes = Vec::new();
    let mut limited = (&mut opened).take(max + 1);
    limited.read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max {
        return distrusted(format!("is longer than {max} bytes"), "name another file");
    }
    let after = opened.metadata()?;
    let state = |of: &Metadata| (of.size(), of.mtime(), of.mtime_nsec());
    if state(&before) != state(&after) || before.size() != bytes.len() as u64 {
        let remedy = "write it under another name and rename it, then try again";
        return distrusted("changed while it was read".to_owned(), remedy);
    }
    Ok(bytes)
}

/// What speaks against believing this file.
fn objection(metadata: &Metadata) -> Option<(String, &'static str)> {
    let (uid, gid) = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    let (owner, mode) = (metadata.uid(), metadata.mode());
    if !metadata.is_file() {
        return Some(("is not a regular file".to_owned(), "name a file"));
    }
    if owner != 0 && owner != uid {
        return Some((
            format!("belongs to uid {owner}, who could change what the switch lets pass"),
            "give it to root or to the switch's own user",
        ));
    }
    let others = mode & 0o002 != 0;
    // A group of the switch itself, or root's, is taken for its user.
    let group = mode & 0o020 != 0 && ![0, gid].contains(&metadata.gid());
    if others || group {
        return Some((
            format!(
                "can be written to by others (mode {:04o}), who could change what the switch lets pass",
                mode & 0o7777
            ),
            "take that away with chmod go-w",
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    const GOOD: &str = "[port.a]\nsocket = \"/a\"\n";

    fn room() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("lan.toml");
        fs::write(&file, GOOD).unwrap();
        (directory, file)
    }

    fn refusal(file: &Path) -> String {
        let read = Source::read(Some(file), Overrides::default());
        read.unwrap_err().to_string()
    }

    #[test]
    fn a_private_file_is_read() {
        let (_directory, file) = room();
        for mode in [0o600, 0o644, 0o400] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            let (source, spec) = Source::read(Some(&file), Overrides::default()).unwrap();
            assert_eq!((source.text.as_str(), spec.name.as_str()), (GOOD, "lan"));
        }
    }

    #[test]
    fn places_name_a_file_as_it_was_named_first() {
        let (directory, file) = room();
        let read = Source::read(Some(&file), Overrides::default());
        let mut first = read.unwrap().0;
        // As `run` has it of somebody who stands there.
        first.named = Some("lan.toml".into());
        let place = |source: &Source, file: &Path| {
            let (source, spec) = source.read_again(file).unwrap();
            (source, spec.ports[0].origin.to_string())
        };
        let (again, origin) = place(&first, &file);
        assert_eq!(origin, "lan.toml:2");
        let name = directory.path().file_name().unwrap();
        let around = directory.path().join("..").join(name).join("lan.toml");
        let (again, origin) = place(&again, &around);
        assert_eq!(origin, "lan.toml:2");
        assert_eq!(again.file, Some(file));
        let other = directory.path().join("other.toml");
        fs::write(&other, GOOD).unwrap();
        let (_, origin) = place(&again, &other);
        assert_eq!(origin, format!("{}:2", other.display()));
    }

    #[test]
    fn o_4_a_file_that_others_can_write_is_refused() {
        let (_directory, file) = room();
        for mode in [0o666, 0o602] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            let text = refusal(&file);
            assert!(text.contains(&format!("mode {mode:04o}")), "{text}");
            assert!(text.contains("chmod go-w"), "{text}");
        }
    }

    #[test]
    fn o_4_what_is_no_file_is_refused_and_not_waited_for() {
        let (directory, file) = room();
        let link = directory.path().join("link.toml");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(refusal(&link).contains("is a symbolic link"));
        assert!(refusal(directory.path()).contains("is not a regular file"));
        let fifo = directory.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, Mode::RUSR | Mode::WUSR).unwrap();
        assert!(refusal(&fifo).contains("is not a regular file"));
        fs::remove_file(&file).unwrap();
        assert!(refusal(&file).contains("cannot read the configuration"));
    }

    #[test]
    fn o_4_text_that_is_none_is_refused_with_its_line() {
        let (_directory, file) = room();
        fs::write(&file, b"# fine\n# \xff\n").unwrap();
        let text = refusal(&file);
        assert!(text.contains("lan.toml:2: not UTF-8"), "{text}");
        fs::write(&file, vec![b'#'; 17 << 20]).unwrap();
        assert!(refusal(&file).contains("is longer than"));
    }

    /// Only root can give a file away.
    #[test]
    fn o_4_a_file_of_another_user_is_refused() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let (_directory, file) = room();
        std::os::unix::fs::chown(&file, Some(65534), None).unwrap();
        assert!(refusal(&file).contains("belongs to uid 65534"));
    }
}
