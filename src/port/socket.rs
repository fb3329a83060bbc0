//! Unix sockets that we make: for ports, and for the control socket.
//!
//! Promised to the operator:
//!
//! - A *stale* socket file, left behind by a killed process, is replaced. A *live* one is never touched, nor is anything
//!   that is not a socket. The two are told apart by connecting: the kernel refuses at once when nobody listens.
//! - Of two switches started together on one path, one gets it and the other is refused (case O-3): looking, removing
//!   and binding happen under a lock of the directory.
//! - Stopping removes the file only if it is still ours.
//! - The file is made with mode 0600, so that there is no moment at which others may connect; an [`Access`] opens it further
//!   once it has the owner and group that it names.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::{Group, User};
use rustix::fs::{
    AtFlags, FlockOperation, Gid, Mode, OFlags, Uid, chmod, chownat, fchmod, flock, fstat, open,
};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};

/// Connections that may wait to be accepted. One front-end a port: the rest are refused soon after.
const BACKLOG: i32 = 16;
/// How often, and how long apart, the lock of a directory is tried: one second in all.
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Who is at the other end of a connection, as the kernel noted when it was made (unix(7): SO_PEERCRED).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// None when the process is outside our pid namespace.
    pub pid: Option<i32>,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
}

impl Peer {
    /// The peer of a connected socket. On the connecting side this is the process that listens.
    ///
    /// # Errors
    /// Those of `getsockopt(2)`.
    pub fn of(socket: &impl AsFd) -> io::Result<Self> {
        let found = getsockopt(&socket.as_fd(), PeerCredentials)?;
        Ok(Self {
            pid: Some(found.pid()).filter(|pid| *pid > 0),
            uid: found.uid(),
            gid: found.gid(),
        })
    }
}

/// Who may open a socket that we make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Permission bits, `0o600` by default.
    pub mode: u32,
    /// The file's owner, by name or number; `None`: ours.
    pub owner: Option<String>,
    /// The file's group, by name or number; `None`: ours.
    pub group: Option<String>,
}

impl Default for Access {
    fn default() -> Self {
        Self {
            mode: 0o600,
            owner: None,
            group: None,
        }
    }
}

impl Access {
    /// The numbers of owner and group.
    ///
    /// # Errors
    /// This system has no such user or group, or cannot tell; the text says which.
    pub fn ids(&self) -> Result<(Option<Uid>, Option<Gid>), String> {
        Ok((self.owner_id()?, self.group_id()?))
    }

    /// The number of the owner.
    ///
    /// # Errors
    /// As [`Access::ids`].
    pub fn owner_id(&self) -> Result<Option<Uid>, String> {
        let Some(name) = self.owner.as_deref() else {
            return Ok(None);
        };
        if let Some(id) = number(name) {
            return Ok(Some(Uid::from_raw(id)));
        }
        match User::from_name(name) {
            Ok(Some(user)) => Ok(Some(Uid::from_raw(user.uid.as_raw()))),
            Ok(None) => Err(format!("there is no user {name:?}")),
            Err(error) => Err(format!("cannot look up user {name:?}: {error}")),
        }
    }

    /// The number of the group.
    ///
    /// # Errors
    /// As [`Access::ids`].
    pub fn group_id(&self) -> Result<Option<Gid>, String> {
        let Some(name) = self.group.as_deref() else {
            return Ok(None);
        };
        if let Some(id) = number(name) {
            return Ok(Some(Gid::from_raw(id)));
        }
        match Group::from_name(name) {
            Ok(Some(group)) => Ok(Some(Gid::from_raw(group.gid.as_raw()))),
            Ok(None) => Err(format!("there is no group {name:?}")),
            Err(error) => Err(format!("cannot look up group {name:?}: {error}")),
        }
    }
}

/// A user or group that is given by its number.
fn number(name: &str) -> Option<u32> {
    name.parse().ok().filter(|id| *id != u32::MAX)
}

/// What stands at the path of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occupant {
    /// Nothing.
    Nobody,
    /// A socket that nobody serves.
    Stale,
    /// A process that serves it; its pid when that can be known.
    Process(Option<i32>),
    /// Something else than a stream socket, by name.
    Other(&'static str),
}

impl Occupant {
    /// Looks at `path`. Makes and removes nothing; a process that serves the socket sees one connection
    /// that ends at once.
    ///
    /// # Errors
    /// When it cannot be told: those of `lstat(2)` and `connect(2)`, permissions above all.
    pub fn of(path: &Path) -> io::Result<Self> {
        let kind = match fs::symlink_metadata(path) {
            Ok(metadata) => metadata.file_type(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::Nobody),
            Err(error) => return Err(error),
        };
        if kind.is_symlink() {
            return Ok(Self::Other("a symbolic link"));
        }
        if kind.is_dir() {
            return Ok(Self::Other("a directory"));
        }
        if !kind.is_socket() {
            return Ok(Self::Other("a file that is not a socket"));
        }
        let socket = stream_socket()?;
        match connect(&socket, &SocketAddrUnix::new(path)?) {
            Ok(()) => Ok(Self::Process(
                Peer::of(&socket).ok().and_then(|peer| peer.pid),
            )),
            Err(Errno::CONNREFUSED) => Ok(Self::Stale),
            Err(Errno::NOENT) => Ok(Self::Nobody),
            // The queue of connections is full: somebody listens, and is slow.
            Err(Errno::AGAIN) => Ok(Self::Process(None)),
            Err(Errno::PROTOTYPE) => Ok(Self::Other("a socket of another type")),
            Err(error) => Err(error.into()),
        }
    }
}

/// Why a path cannot be bound. The texts follow the name of the thing: `port "web": socket ...`.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A live process has it.
    #[error("socket {}: in use by {}; stop it or choose another path", path.display(), name(*pid))]
    InUse {
        /// The path.
        path: PathBuf,
        /// Its pid, when that can be known.
        pid: Option<i32>,
    },
    /// A file of another kind has it.
    #[error("socket {}: {what} is in the way; remove it or choose another path", path.display())]
    InTheWay {
        /// The path.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// The directory is locked for too long.
    #[error("socket {}: another process holds the lock of its directory; try again or choose another path", .0.display())]
    Locked(PathBuf),
    /// The owner or group of its [`Access`] cannot be had.
    #[error("socket {}: {problem}; name a user and group of this system", path.display())]
    Nobody {
        /// The path.
        path: PathBuf,
        /// Who is missing.
        problem: String,
    },
    /// Anything that the system refused.
    #[error("socket {}: cannot {step}; check that its directory exists and may be written to", path.display())]
    System {
        /// The path.
        path: PathBuf,
        /// What was tried.
        step: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

fn name(pid: Option<i32>) -> String {
    pid.map_or("another process".to_owned(), |pid| format!("pid {pid}"))
}

/// A socket of ours, listening, non-blocking. Dropping it closes it and removes the file.
#[derive(Debug)]
pub struct Listening {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file as we made it.
    file: (u64, u64),
}

impl Listening {
    /// Binds `path` and listens, for this user alone.
    ///
    /// # Errors
    /// See [`BindError`]; nothing was changed then.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        Self::bind_for(path, &Access::default())
    }

    /// Binds `path` and listens, for those whom `access` names.
    ///
    /// # Errors
    /// See [`BindError`]; nothing stays behind then.
    pub fn bind_for(path: &Path, access: &Access) -> Result<Self, BindError> {
        let failed = |step: &'static str| {
            move |source: io::Error| BindError::System {
                path: path.to_owned(),
                step,
                source,
            }
        };
        let address =
            SocketAddrUnix::new(path).map_err(|errno| failed("be named")(errno.into()))?;
        let _lock = lock_directory(path)?;
        match Occupant::of(path).map_err(failed("be examined"))? {
            Occupant::Nobody => {}
            Occupant::Stale => fs::remove_file(path).map_err(failed("replace a stale file"))?,
            Occupant::Process(pid) => {
                let path = path.to_owned();
                return Err(BindError::InUse { path, pid });
            }
            Occupant::Other(what) => {
                let path = path.to_owned();
                return Err(BindError::InTheWay { path, what });
            }
        }
        let socket = stream_socket().map_err(failed("make a socket"))?;
        // On Linux the file that bind makes takes its mode from the socket.
        fchmod(&socket, Mode::RUSR | Mode::WUSR)
            .and_then(|()| bind(&socket, &address))
            .map_err(|errno| failed("bind")(errno.into()))?;
        let metadata = fs::symlink_metadata(path).map_err(failed("be found after bind"))?;
        let listening = Self {
            listener: UnixListener::from(socket),
            path: path.to_owned(),
            file: (metadata.dev(), metadata.ino()),
        };
        listening.open_for(access)?;
        listen(&listening.listener, BACKLOG).map_err(|errno| failed("listen")(errno.into()))?;
        Ok(listening)
    }

    /// Gives the file its owner and group, and then its mode, which no umask narrows.
    fn open_for(&self, access: &Access) -> Result<(), BindError> {
        if *access == Access::default() {
            return Ok(());
        }
        let path = &self.path;
        let failed = |step: &'static str| {
            move |errno: Errno| BindError::System {
                path: path.clone(),
                step,
                source: errno.into(),
            }
        };
        let nobody = |problem| BindError::Nobody {
            path: path.clone(),
            problem,
        };
        let (owner, group) = access.ids().map_err(nobody)?;
        // By a descriptor of this very file: who may write to the directory could put another in its place.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = open(path, flags, Mode::empty()).map_err(failed("be found after bind"))?;
        let found = fstat(&file).map_err(failed("be found after bind"))?;
        if (found.st_dev, found.st_ino) != self.file {
            let path = path.clone();
            let what = "a file that took our socket's place";
            return Err(BindError::InTheWay { path, what });
        }
        if owner.is_some() || group.is_some() {
            chownat(&file, "", owner, group, AtFlags::EMPTY_PATH)
                .map_err(failed("be given to its owner and group"))?;
        }
        let through = format!("/proc/self/fd/{}", file.as_raw_fd());
        chmod(through, Mode::from_raw_mode(access.mode & 0o777))
            .map_err(failed("be given its mode"))
    }

    /// The listener, for `accept`.
    #[must_use]
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Where it is bound.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file at its path is still the one that it made: nobody has removed or replaced it.
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.file)
    }
}

impl AsFd for Listening {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if self.is_in_place() {
            // When it cannot be removed it is stale from now on, and the next start replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn stream_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    Ok(socket)
}

/// The directory of `path`; `.` for a bare file name.
#[must_use]
pub fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Holds the lock until dropped.
fn lock_directory(path: &Path) -> Result<OwnedFd, BindError> {
    let failed = |errno: Errno| BindError::System {
        path: path.to_owned(),
        step: "open its directory",
        source: errno.into(),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = open(directory_of(path), flags, Mode::empty()).map_err(failed)?;
    for _ in 0..LOCK_TRIES {
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(directory),
            Err(Errno::WOULDBLOCK | Errno::INTR) => std::thread::sleep(LOCK_PAUSE),
            Err(errno) => return Err(failed(errno)),
        }
    }
    Err(BindError::Locked(path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::{UnixDatagram, UnixStream};

    fn room() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.sock");
        (directory, path)
    }

    #[test]
    fn a_socket_is_private_and_gone_when_dropped() {
        let (_directory, path) = room();
        let listening = Listening::bind(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();
        drop(listening);
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_may_be_shared_with_a_group() {
        let (_directory, path) = room();
        let us = rustix::process::getgid().as_raw();
        let access = Access {
            mode: 0o660,
            owner: None,
            group: Some(us.to_string()),
        };
        let listening = Listening::bind_for(&path, &access).unwrap();
        let metadata = fs::metadata(&path).unwrap();
        // Whatever the umask is.
        assert_eq!(metadata.permissions().mode() & 0o777, 0o660);
        assert_eq!(metadata.gid(), us);
        UnixStream::connect(&path).unwrap();
        drop(listening);
        assert!(!path.exists());
    }

    #[test]
    fn only_root_may_give_a_socket_to_another_user() {
        let (_directory, path) = room();
        let access = Access {
            mode: 0o660,
            owner: Some("1234".to_owned()),
            group: Some("root".to_owned()),
        };
        let bound = Listening::bind_for(&path, &access);
        if rustix::process::geteuid().is_root() {
            let metadata = fs::metadata(&path).unwrap();
            assert_eq!((metadata.uid(), metadata.gid()), (1234, 0));
        } else {
            assert!(matches!(bound, Err(BindError::System { .. })));
            assert!(!path.exists());
        }
    }

    #[test]
    fn a_socket_for_nobody_leaves_nothing_behind() {
        let (_directory, path) = room();
        let access = Access {
            group: Some("no such group here".to_owned()),
            ..Access::default()
        };
        let error = Listening::bind_for(&path, &access).unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "socket {}: there is no group \"no such group here\"; name a user and group of this system",
                path.display()
            )
        );
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced() {
        let (_directory, path) = room();
        drop(UnixListener::bind(&path).unwrap());
        assert_eq!(Occupant::of(&path).unwrap(), Occupant::Stale);
        let _listening = Listening::bind(&path).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_live_socket_is_never_touched_and_its_pid_is_named() {
        let (_directory, path) = room();
        let theirs = UnixListener::bind(&path).unwrap();
        let error = Listening::bind(&path).unwrap_err();
        let pid = std::process::id();
        assert_eq!(
            error.to_string(),
            format!(
                "socket {}: in use by pid {pid}; stop it or choose another path",
                path.display()
            )
        );
        theirs.accept().unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_live_socket_with_a_full_queue_is_still_live() {
        let (_directory, path) = room();
        let socket = stream_socket().unwrap();
        bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        listen(&socket, 0).unwrap();
        let _waiting = UnixStream::connect(&path).unwrap();
        assert_eq!(Occupant::of(&path).unwrap(), Occupant::Process(None));
    }

    #[test]
    fn what_is_not_a_stream_socket_stays() {
        let (directory, path) = room();
        fs::write(&path, "precious").unwrap();
        assert!(matches!(
            Listening::bind(&path),
            Err(BindError::InTheWay { .. })
        ));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");

        let link = directory.path().join("link.sock");
        std::os::unix::fs::symlink(directory.path().join("nowhere"), &link).unwrap();
        assert!(matches!(
            Listening::bind(&link),
            Err(BindError::InTheWay { .. })
        ));

        let datagram = directory.path().join("d.sock");
        let _datagram = UnixDatagram::bind(&datagram).unwrap();
        assert!(matches!(
            Listening::bind(&datagram),
            Err(BindError::InTheWay { .. })
        ));
    }

    #[test]
    fn a_socket_that_took_our_place_is_not_removed() {
        let (_directory, path) = room();
        let listening = Listening::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _theirs = UnixListener::bind(&path).unwrap();
        drop(listening);
        assert!(path.exists());
    }

    #[test]
    fn of_many_started_together_one_gets_the_path() {
        let (_directory, path) = room();
        drop(UnixListener::bind(&path).unwrap());
        let start = std::sync::Barrier::new(8);
        let results: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        start.wait();
                        Listening::bind(&path)
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_missing_directory_is_an_error_with_the_path_in_it() {
        let (directory, _) = room();
        let path = directory.path().join("missing/a.sock");
        let error = Listening::bind(&path).unwrap_err().to_string();
        assert!(error.contains("missing/a.sock"), "{error}");
    }

    #[test]
    fn a_peer_is_known_from_both_ends() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        for end in [ours, theirs] {
            let peer = Peer::of(&end).unwrap();
            assert_eq!(peer.pid, Some(i32::try_from(std::process::id()).unwrap()));
            assert_eq!(peer.uid, rustix::process::getuid().as_raw());
        }
    }
}
