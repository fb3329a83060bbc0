//! The door between a port and the worker that polls it.
//!
//! The attendant (the thread that serves the vhost-user sessions) starts and stops rings; the worker
//! polls them. A [`Door`] carries the little that must pass between the two without either waiting:
//! the kick descriptors that may wake the worker, and a note of what is new.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, epoll, eventfd};

use crate::counters::PortId;

/// A transmit ring of the switch: which port, which queue pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RingKey {
    /// The port.
    pub port: PortId,
    /// The queue pair, counted from 0.
    pub pair: u16,
}

impl RingKey {
    const WAKE: u64 = u64::MAX;

    fn token(self) -> u64 {
        u64::from(self.port.get()) << 16 | u64::from(self.pair)
    }

    fn from_token(token: u64) -> Option<Self> {
        let port = u16::try_from(token >> 16).ok()?;
        Some(Self {
            port: PortId::new(port)?,
            pair: (token & 0xffff) as u16,
        })
    }
}

/// What the attendant tells a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// This ring has been started: poll it.
    Started(RingKey),
    /// This port has an announcement to send (vhost-user: SEND_RARP).
    Announce(PortId),
    /// Ring both call descriptors of this pair once, whatever the guest asked for.
    Ring(RingKey),
    /// Another generation of ports and gate is in force: let the old one go.
    Generation,
    /// Leave the loop.
    Stop,
}

/// What ended a wait at the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knock {
    /// A guest kicked this ring.
    Kicked(RingKey),
    /// There are notes.
    Notes,
}

/// One worker's door. Shared by the worker and by every port that it polls.
#[derive(Debug)]
pub struct Door {
    epoll: OwnedFd,
    wake: OwnedFd,
    notes: Mutex<Vec<Note>>,
    any_notes: AtomicBool,
}

impl Door {
    /// Makes a door.
    ///
    /// # Errors
    /// Those of `epoll_create1(2)`, `eventfd(2)` and `epoll_ctl(2)`: the process is out of descriptors or memory.
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(
            &epoll,
            &wake,
            epoll::EventData::new_u64(RingKey::WAKE),
            epoll::EventFlags::IN | epoll::EventFlags::ET,
        )?;
        Ok(Self {
            epoll,
            wake,
            notes: Mutex::new(Vec::new()),
            any_notes: AtomicBool::new(false),
        })
    }

    /// Leaves a note and wakes the worker if it sleeps.
    pub fn leave(&self, note: Note) {
        {
            let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
            // A front-end may ask for the same a thousand times before the worker looks; once is all it means.
            if !notes.contains(&note) {
                notes.push(note);
            }
        }
        self.any_notes.store(true, Ordering::Release);
        // The counter of an eventfd that nobody reads saturates and then refuses: the edge was given long before.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Moves the notes into `into`; cheap when there are none.
    pub fn collect(&self, into: &mut Vec<Note>) {
        if !self.any_notes.load(Ordering::Relaxed) {
            return;
        }
        self.any_notes.store(false, Ordering::Relaxed);
        let mut count = [0u8; 8];
        let _ = rustix::io::read(&self.wake, &mut count);
        into.append(&mut self.notes.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Lets `kick` wake the worker. Edge-triggered: the descriptor is never read, so a guest that
    /// writes to it a million times costs one event a wait, and a drained or blocking one costs nothing (P-26, P-27).
    ///
    /// # Errors
    /// Those of `epoll_ctl(2)`.
    pub fn admit(&self, kick: BorrowedFd<'_>, key: RingKey) -> io::Result<()> {
        Ok(epoll::add(
            &self.epoll,
            kick,
            epoll::EventData::new_u64(key.token()),
            epoll::EventFlags::IN | epoll::EventFlags::ET,
        )?)
    }

    /// Stops listening to `kick`. Must come before the descriptor is closed: the peer may hold another
    /// descriptor of the same eventfd, and epoll would go on reporting it (P-24).
    pub fn dismiss(&self, kick: BorrowedFd<'_>) {
        // The only failure left is that it was never admitted, and then there is nothing to undo.
        let _ = epoll::delete(&self.epoll, kick);
    }

    /// Waits for a kick or a note; `timeout_ms` of 0 only looks, `None` waits for ever.
    pub fn wait(
        &self,
        events: &mut Vec<epoll::Event>,
        timeout_ms: Option<u32>,
    ) -> impl Iterator<Item = Knock> {
        let timeout = timeout_ms.map(|ms| rustix::event::Timespec {
            tv_sec: i64::from(ms / 1000),
            tv_nsec: i64::from(ms % 1000) * 1_000_000,
        });
        events.clear();
        // An interrupted wait is an empty one: the caller looks at its rings and waits again.
        let _ = epoll::wait(
            self.epoll.as_fd(),
            rustix::buffer::spare_capacity(events),
            timeout.as_ref(),
        );
        events.drain(..).filter_map(|event| match event.data.u64() {
            RingKey::WAKE => Some(Knock::Notes),
            token => RingKey::from_token(token).map(Knock::Kicked),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_note_left_again_and_again_is_one_note() {
        let door = Door::new().unwrap();
        let port = PortId::new(3).unwrap();
        for _ in 0..10_000 {
            door.leave(Note::Ring(RingKey { port, pair: 1 }));
            door.leave(Note::Announce(port));
        }
        let mut notes = Vec::new();
        door.collect(&mut notes);
        assert_eq!(
            notes,
            [Note::Ring(RingKey { port, pair: 1 }), Note::Announce(port)]
        );
        door.collect(&mut notes);
        assert_eq!(notes.len(), 2, "collected once");
    }

    #[test]
    fn a_kick_wakes_by_its_ring_and_a_dismissed_one_does_not() {
        let door = Door::new().unwrap();
        let key = RingKey {
            port: PortId::new(1023).unwrap(),
            pair: 7,
        };
        let kick = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        door.admit(kick.as_fd(), key).unwrap();
        rustix::io::write(&kick, &1u64.to_ne_bytes()).unwrap();
        let mut events = Vec::with_capacity(8);
        assert_eq!(
            door.wait(&mut events, Some(0)).collect::<Vec<_>>(),
            [Knock::Kicked(key)]
        );
        // Edge-triggered: not again without another kick (P-27).
        assert_eq!(door.wait(&mut events, Some(0)).count(), 0);
        door.dismiss(kick.as_fd());
        rustix::io::write(&kick, &1u64.to_ne_bytes()).unwrap();
        assert_eq!(door.wait(&mut events, Some(0)).count(), 0);
    }
}
