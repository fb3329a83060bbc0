//! The switch's end of the control socket.
//!
//! # Theory of operation
//!
//! The server has an epoll of its own, with the listener and its clients in it; the attendant waits on that one descriptor and
//! calls [`Server::serve`] when it is ready. A client is in one of three states:
//!
//! - *Asking*: bytes are gathered until a newline. Registered for input.
//! - *Busy*: an answer waits to be written, or another question is already here. Registered for output; input stays in
//!   the socket, so a client that does not read its answers cannot make more of them.
//! - *Waiting*: the answer takes its time and comes with [`Server::reply`]. Registered for nothing but its end.
//!
//! Each call serves each ready client once, with one read and at most one question: no client has more of the attendant's time
//! than its share.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{SendFlags, SocketFlags, accept_with, send};

use super::protocol::{self, Answer, MAX_REQUEST, Question};
use crate::port::socket::{BindError, Listening, Peer, directory_of};

/// Clients that are served at a time.
pub const MAX_CLIENTS: usize = 32;
/// Connections taken from the listener in one call.
const MAX_ACCEPTS: usize = 8;
/// The listener's token; clients have their place in the table.
const LISTENER: u64 = u64::MAX;

/// Why the control socket was not made.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The path.
    #[error("control {0}")]
    Bind(#[from] BindError),
    /// Its default directory.
    #[error(
        "control socket: cannot make its directory {directory}; choose another path with --control"
    )]
    Directory {
        /// The directory.
        directory: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The process is out of descriptors or memory.
    #[error("control socket: cannot be waited for")]
    System(#[source] io::Error),
}

/// The control socket and its clients.
#[derive(Debug)]
pub struct Server {
    epoll: OwnedFd,
    listening: Listening,
    /// Set when no connection could be taken for want of descriptors: the listener rests until the next [`Server::tick`].
    resting: bool,
    /// A descriptor to let go of when there is no other, so that a process that is out of them can still be asked why (O-7).
    spare: Option<OwnedFd>,
    clients: Vec<Option<Client>>,
    /// Counts calls, to tell who was silent longest.
    turn: u64,
    /// Clients so far.
    serial: u64,
}

/// Whom a late answer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    place: usize,
    serial: u64,
}

/// What becomes of a question.
#[derive(Debug)]
pub enum Response {
    /// It is answered.
    Now(Answer),
    /// It will be, with [`Server::reply`].
    Later,
}

impl From<Answer> for Response {
    fn from(answer: Answer) -> Self {
        Self::Now(answer)
    }
}

#[derive(Debug)]
struct Client {
    /// Tells it from others that had its place.
    serial: u64,
    waiting: bool,
    socket: UnixStream,
    asked: Vec<u8>,
    answer: Vec<u8>,
    written: usize,
    last_turn: u64,
}

/// Whether a client is to be kept.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Keep,
    Close,
}

impl Server {
    /// Binds `path`. With `make_directory`, its directory is made first when it is missing, for this user alone.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub fn bind(path: &Path, make_directory: bool) -> Result<Self, ControlError> {
        if make_directory {
            let directory = directory_of(path);
            private_directory(directory).map_err(|source| ControlError::Directory {
                directory: directory.display().to_string(),
                source,
            })?;
        }
        let listening = Listening::bind(path)?;
        let failed = |errno: Errno| ControlError::System(errno.into());
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(failed)?;
        epoll::add(
            &epoll,
            &listening,
            EventData::new_u64(LISTENER),
            EventFlags::IN,
        )
        .map_err(failed)?;
        Ok(Self {
            epoll,
            listening,
            resting: false,
            spare: spare(),
            clients: Vec::new(),
            turn: 0,
            serial: 0,
        })
    }

    /// Where it is bound.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.listening.path()
    }

    /// Serves whoever is ready; never waits. `answer` is called at most once for each client.
    pub fn serve(&mut self, mut answer: impl FnMut(Ticket, Question) -> Response) {
        self.turn += 1;
        let mut events = Vec::with_capacity(MAX_CLIENTS + 1);
        let now = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let spare = rustix::buffer::spare_capacity(&mut events);
        if epoll::wait(&self.epoll, spare, Some(&now)).is_err() {
            return;
        }
        // Newcomers last: a place that one of them takes is not mistaken for its former owner's.
        let mut newcomers = false;
        for event in events {
            match event.data.u64() {
                LISTENER => newcomers = true,
                place => self.serve_client(place, &mut answer),
            }
        }
        if newcomers {
            self.accept();
        }
    }

    /// Gives an answer that took its time. A client that has gone meanwhile does not hear it.
    pub fn reply(&mut self, to: Ticket, answer: Answer) {
        let Some(slot) = self.clients.get_mut(to.place) else {
            return;
        };
        let Some(client) = slot
            .as_mut()
            .filter(|client| client.waiting && client.serial == to.serial)
        else {
            return;
        };
        client.waiting = false;
        client.last_turn = self.turn;
        if client.say(answer) == Fate::Close || !client.register(&self.epoll, to.place) {
            self.release(to.place);
        }
    }

    /// To be called once a second.
    pub fn tick(&mut self) {
        self.look_again();
    }

    /// How many clients are connected.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.clients.iter().flatten().count()
    }

    fn serve_client(&mut self, place: u64, answer: &mut impl FnMut(Ticket, Question) -> Response) {
        let Ok(place) = usize::try_from(place) else {
            return;
        };
        let Some(slot) = self.clients.get_mut(place) else {
            return;
        };
        let Some(client) = slot else { return };
        let ticket = Ticket {
            place,
            serial: client.serial,
        };
        client.last_turn = self.turn;
        let before = client.interest();
        let fate = if client.waiting {
            // Nothing was asked for but the end of the connection.
            Fate::Close
        } else if client.is_answered() {
            client.write()
        } else if client.is_busy() {
            client.answer_next(ticket, answer)
        } else {
            client.read(ticket, answer)
        };
        let keep = fate == Fate::Keep
            && (client.interest() == before || client.register(&self.epoll, place));
        if !keep {
            self.release(place);
        }
    }

    /// A client has gone, and its descriptor may be what the next one waits for.
    fn release(&mut self, place: usize) {
        if let Some(slot) = self.clients.get_mut(place) {
            *slot = None;
        }
        self.look_again();
    }

    fn look_again(&mut self) {
        self.spare = self.spare.take().or_else(spare);
        if self.resting {
            let data = EventData::new_u64(LISTENER);
            self.resting =
                epoll::modify(&self.epoll, &self.listening, data, EventFlags::IN).is_err();
        }
    }

    fn accept(&mut self) {
        for _ in 0..MAX_ACCEPTS {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match accept_with(&self.listening, flags) {
                Ok(socket) => self.admit(UnixStream::from(socket)),
                Err(Errno::CONNABORTED | Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(Errno::MFILE | Errno::NFILE) if self.spare.take().is_some() => {
                    // One, and no look at the next: without a descriptor the kernel does not say whether there is one.
                    if let Ok(socket) = accept_with(&self.listening, flags) {
                        self.admit(UnixStream::from(socket));
                    }
                    return;
                }
                Err(_) => {
                    // No descriptors, most likely. The connection stays in the queue and would wake us for ever.
                    let data = EventData::new_u64(LISTENER);
                    let rest =
                        epoll::modify(&self.epoll, &self.listening, data, EventFlags::empty());
                    self.resting = rest.is_ok();
                    return;
                }
            }
        }
    }

    fn admit(&mut self, socket: UnixStream) {
        let us = rustix::process::geteuid().as_raw();
        match Peer::of(&socket) {
            Ok(peer) if peer.uid == us || peer.uid == 0 => {}
            _ => return,
        }
        let place = match self.clients.iter().position(Option::is_none) {
            Some(place) => place,
            None if self.clients.len() < MAX_CLIENTS => {
                self.clients.push(None);
                self.clients.len() - 1
            }
            None => {
                // Whoever waits for an answer is silent because of us.
                let ages = self.clients.iter().enumerate();
                let silent = ages.min_by_key(|(_, client)| {
                    client
                        .as_ref()
                        .map_or((false, 0), |client| (client.waiting, client.last_turn))
                });
                silent.map_or(0, |(place, _)| place)
            }
        };
        let data = EventData::new_u64(place as u64);
        self.serial += 1;
        if epoll::add(&self.epoll, &socket, data, EventFlags::IN).is_ok()
            && let Some(slot) = self.clients.get_mut(place)
        {
            *slot = Some(Client {
                serial: self.serial,
                waiting: false,
                socket,
                asked: Vec::new(),
                answer: Vec::new(),
                written: 0,
                last_turn: self.turn,
            });
        }
    }
}

impl AsFd for Server {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

impl Client {
    /// Something can be done without reading: an answer waits, or a whole question that came together with another.
    fn is_busy(&self) -> bool {
        self.is_answered() || self.asked.contains(&b'\n')
    }

    fn is_answered(&self) -> bool {
        self.written < self.answer.len()
    }

    /// What is waited for on its socket.
    fn interest(&self) -> EventFlags {
        if self.waiting {
            EventFlags::empty()
        } else if self.is_busy() {
            EventFlags::OUT
        } else {
            EventFlags::IN
        }
    }

    fn register(&self, epoll: &OwnedFd, place: usize) -> bool {
        let data = EventData::new_u64(place as u64);
        epoll::modify(epoll, &self.socket, data, self.interest()).is_ok()
    }

    /// One read, and one question if it is complete.
    fn read(
        &mut self,
        ticket: Ticket,
        answer: &mut impl FnMut(Ticket, Question) -> Response,
    ) -> Fate {
        let mut buffer = [0u8; MAX_REQUEST];
        let room = MAX_REQUEST.saturating_sub(self.asked.len());
        let Some(space) = buffer.get_mut(..room) else {
            return Fate::Close;
        };
        match rustix::io::read(&self.socket, &mut *space) {
            Ok(0) => return Fate::Close,
            Ok(count) => {
                let read = space.get(..count).unwrap_or_default();
                self.asked.extend_from_slice(read);
            }
            Err(Errno::AGAIN | Errno::INTR) => return Fate::Keep,
            Err(_) => return Fate::Close,
        }
        self.answer_next(ticket, answer)
    }

    fn answer_next(
        &mut self,
        ticket: Ticket,
        answer: &mut impl FnMut(Ticket, Question) -> Response,
    ) -> Fate {
        let Some(end) = self.asked.iter().position(|byte| *byte == b'\n') else {
            let too_long = self.asked.len() >= MAX_REQUEST;
            return if too_long { Fate::Close } else { Fate::Keep };
        };
        let line: Vec<u8> = self.asked.drain(..=end).collect();
        let response = match protocol::parse(&line) {
            Ok(question) => answer(ticket, question),
            Err(why) => Answer::Error(why).into(),
        };
        match response {
            Response::Now(answer) => self.say(answer),
            Response::Later => {
                self.waiting = true;
                Fate::Keep
            }
        }
    }

    fn say(&mut self, answer: Answer) -> Fate {
        self.answer = protocol::line(answer);
        self.written = 0;
        self.write()
    }

    /// As much as the socket takes now.
    fn write(&mut self) -> Fate {
        while let Some(rest) = self.answer.get(self.written..)
            && !rest.is_empty()
        {
            match send(
                &self.socket,
                rest,
                SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
            ) {
                Ok(count) => self.written += count,
                Err(Errno::AGAIN) => return Fate::Keep,
                Err(Errno::INTR) => {}
                Err(_) => return Fate::Close,
            }
        }
        self.answer = Vec::new();
        self.written = 0;
        Fate::Keep
    }
}

/// A descriptor of nothing in particular, if there is one to be had.
fn spare() -> Option<OwnedFd> {
    epoll::create(CreateFlags::CLOEXEC).ok()
}

/// Makes `directory` for this user alone, or accepts it when it is there and nobody else could have put things into it.
fn private_directory(directory: &Path) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
    match std::fs::DirBuilder::new().mode(0o700).create(directory) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let metadata = std::fs::symlink_metadata(directory)?;
    let owner = metadata.uid();
    let ours = owner == 0 || owner == rustix::process::geteuid().as_raw();
    if !metadata.is_dir() || !ours || metadata.mode() & 0o002 != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "it is there already, and is not a directory that only root or this user may write to",
        ));
    }
    Ok(())
}
