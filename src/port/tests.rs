//! A port on a real socket with a clock of our own, and rings that a thread works on like a worker.

use std::cell::Cell;
use std::io::{Read, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::event::epoll;

use super::door::{Door, Knock, Note};
use super::endpoint::Endpoint;
use super::lanes::{Enabled, Fault, FaultBell, Lanes};
use super::port::{Port, PortSetup, Source};
use super::status::PortState;
use crate::clock::Tick;
use crate::counters::PortId;
use crate::memory::{Limits, RegionHint};
use crate::ring::Slots;
use crate::session::features::PROTOCOL_OFFERED;
use crate::session::tests::*;

const DESC: u64 = 0;
const AVAIL: u64 = 0x4000;
const USED: u64 = 0x8000;
const BUFFERS: u64 = 0x4_0000;
const BUFFER: u64 = 2048;

struct Room {
    directory: tempfile::TempDir,
    epoll: Arc<OwnedFd>,
    door: Arc<Door>,
    lanes: Arc<Lanes>,
    now: Cell<Tick>,
}

impl Room {
    fn new() -> Self {
        let door = Arc::new(Door::new().unwrap());
        let id = PortId::new(3).unwrap();
        let lanes = Lanes::new(id, 2, Arc::clone(&door), FaultBell::new().unwrap());
        Self {
            directory: tempfile::tempdir().unwrap(),
            epoll: Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC).unwrap()),
            door,
            lanes,
            now: Cell::new(Tick::from_secs(1_000)),
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("port.sock")
    }

    fn setup(&self, endpoint: Endpoint) -> PortSetup {
        PortSetup {
            name: "web".to_owned(),
            endpoint,
            access: super::socket::Access::default(),
            mtu: None,
            limits: Limits::default(),
        }
    }

    fn open(&self, endpoint: Endpoint) -> Port {
        Port::open(
            self.setup(endpoint),
            Arc::clone(&self.lanes),
            Arc::clone(&self.epoll),
            self.now.get(),
        )
        .unwrap()
    }

    fn listen(&self) -> Port {
        self.open(Endpoint::Listen(self.path()))
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.path()).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream
    }

    /// Gives the port every event that waits, until none does.
    fn settle(&self, port: &mut Port) {
        for _ in 0..10_000 {
            // What closes, closes; the bell is rung for that by a thread that is not waited for.
            port.drain(Duration::from_secs(20));
            port.on_bell(self.now.get());
            let events = self.events();
            if events.is_empty() {
                return;
            }
            for source in events {
                port.on_ready(source, self.now.get());
            }
        }
        panic!("the port spins");
    }

    /// What epoll reports now.
    fn events(&self) -> Vec<Source> {
        let mut events = Vec::with_capacity(8);
        let zero = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        epoll::wait(
            &*self.epoll,
            rustix::buffer::spare_capacity(&mut events),
            Some(&zero),
        )
        .unwrap();
        let source = |event: &epoll::Event| {
            let (port, source) = Source::from_token(event.data.u64()).unwrap();
            assert_eq!(port, self.lanes.id());
            source
        };
        events.iter().map(source).collect()
    }

    fn kicked(&self) -> bool {
        let mut events = Vec::with_capacity(8);
        let mut knocks = self.door.wait(&mut events, Some(0));
        knocks.any(|knock| matches!(knock, Knock::Kicked(_)))
    }
}

fn closed(stream: &mut UnixStream) -> bool {
    matches!(stream.read(&mut [0]), Ok(0) | Err(_)) && {
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(count) => count == 0,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

/// A front-end on a port.
struct Client<'a> {
    room: &'a Room,
    stream: UnixStream,
}

impl Client<'_> {
    fn tell(&self, port: &mut Port, request: u32, body: &[u8], fds: &[BorrowedFd<'_>]) {
        send_raw(&self.stream, &message(request, PLAIN, body), fds);
        self.room.settle(port);
    }

    fn ask(&mut self, port: &mut Port, request: u32, body: &[u8], fds: &[BorrowedFd<'_>]) -> u64 {
        send_raw(&self.stream, &message(request, NEED_REPLY, body), fds);
        self.room.settle(port);
        let (_, _, body) = reply(&mut self.stream).expect("a reply");
        u64::from_ne_bytes(body.try_into().unwrap())
    }

    fn negotiate(&mut self, port: &mut Port, memory: &OwnedFd) {
        self.tell(
            port,
            SET_PROTOCOL_FEATURES,
            &PROTOCOL_OFFERED.to_ne_bytes(),
            &[],
        );
        self.tell(
            port,
            SET_FEATURES,
            &(VERSION_1 | PROTOCOL_BIT).to_ne_bytes(),
            &[],
        );
        assert_eq!(self.share(port, memory), 0);
    }

    fn share(&mut self, port: &mut Port, memory: &OwnedFd) -> u64 {
        let regions = table(&[[GUEST, MEM, USER, 0]]);
        self.ask(port, SET_MEM_TABLE, &regions, &[memory.as_fd()])
    }

    fn start(&self, port: &mut Port, index: u32, kick: &OwnedFd) {
        self.place(port, index);
        self.tell(port, SET_VRING_ENABLE, &state(index, 1), &[]);
        self.kick(port, index, kick);
    }

    /// Says where a ring is.
    fn place(&self, port: &mut Port, index: u32) {
        self.tell(port, SET_VRING_NUM, &state(index, 256), &[]);
        let at = addr_at(index, USER + DESC, USER + AVAIL, USER + USED);
        self.tell(port, SET_VRING_ADDR, &at, &[]);
    }

    fn kick(&self, port: &mut Port, index: u32, kick: &OwnedFd) {
        self.tell(
            port,
            SET_VRING_KICK,
            &u64::from(index).to_ne_bytes(),
            &[kick.as_fd()],
        );
    }
}

impl Room {
    fn client(&self, port: &mut Port) -> Client<'_> {
        let stream = self.connect();
        self.settle(port);
        Client { room: self, stream }
    }
}

#[test]
fn tokens_come_back() {
    for index in [0, 1, 1023] {
        let id = PortId::new(index).unwrap();
        for source in [Source::Listener, Source::Connection] {
            let token = source.token(id);
            assert!(token < Source::TOKENS);
            assert_eq!(Source::from_token(token), Some((id, source)));
        }
    }
    assert_eq!(Source::from_token(2048), None);
    assert_eq!(Source::from_token(u64::MAX), None);
}

#[test]
fn from_waiting_to_running_and_back() {
    let room = Room::new();
    let mut port = room.listen();
    assert_eq!(port.status().state, PortState::Waiting);
    let mut client = room.client(&mut port);
    let status = port.status();
    assert_eq!(status.state, PortState::Negotiating);
    assert_eq!(status.peer.unwrap().uid, rustix::process::getuid().as_raw());
    let memory = memfd(MEM);
    client.negotiate(&mut port, &memory);
    client.start(&mut port, 1, &event());
    let status = port.status();
    assert_eq!(status.state, PortState::Running);
    assert_eq!((status.memory_regions, status.memory_bytes), (1, MEM));
    assert_eq!(status.features, ["protocol-features", "version-1"]);
    assert!(status.protocol_features.contains(&"reply-ack".to_owned()));
    let [ring] = status.rings.as_slice() else {
        panic!("one ring runs")
    };
    assert_eq!(
        (ring.index, ring.size, ring.enabled, ring.running),
        (1, 256, true, true)
    );
    let json = serde_json::to_string(&status).unwrap();
    assert_eq!(
        serde_json::from_str::<super::status::PortStatus>(&json).unwrap(),
        status
    );
    drop(client);
    room.settle(&mut port);
    let status = port.status();
    assert_eq!(
        (status.state, status.last_fault),
        (PortState::Waiting, None)
    );
    assert!(status.rings.is_empty() && room.lanes.rings().is_empty());
    assert_eq!(status.counters.events.connections, 1);
}

/// Nothing said, disabled, enabled: three states of a transmit ring, and whoever changes one sends the worker there.
#[test]
fn a_ring_is_not_yet_enabled_until_its_front_end_says_something() {
    let room = Room::new();
    let mut port = room.listen();
    let mut client = room.client(&mut port);
    let memory = memfd(MEM);
    client.negotiate(&mut port, &memory);
    client.place(&mut port, 1);
    client.kick(&mut port, 1, &event());
    let stands = |port: &Port| {
        let enabled = room.lanes.tx(0).unwrap().as_ref().unwrap().enabled;
        assert_eq!(port.status().rings[0].enabled, enabled == Enabled::Yes);
        enabled
    };
    assert_eq!(port.status().state, PortState::Running);
    assert_eq!(stands(&port), Enabled::NotYet);
    let mut notes = Vec::new();
    for (word, enabled) in [(0, Enabled::No), (1, Enabled::Yes), (0, Enabled::No)] {
        notes.clear();
        room.door.collect(&mut notes);
        notes.clear();
        client.tell(&mut port, SET_VRING_ENABLE, &state(1, word), &[]);
        assert_eq!(stands(&port), enabled);
        room.door.collect(&mut notes);
        let told = |note: &Note| matches!(note, Note::Started(key) if key.pair == 0);
        assert!(notes.iter().any(told), "{notes:?}");
    }
    // The next connection starts from nothing.
    drop(client);
    room.settle(&mut port);
    let mut client = room.client(&mut port);
    client.negotiate(&mut port, &memory);
    client.place(&mut port, 1);
    client.kick(&mut port, 1, &event());
    assert_eq!(stands(&port), Enabled::NotYet);
}

#[test]
fn p_29_a_second_connection_is_closed_and_the_first_unharmed() {
    let room = Room::new();
    let mut port = room.listen();
    let mut client = room.client(&mut port);
    let memory = memfd(MEM);
    client.negotiate(&mut port, &memory);
    client.start(&mut port, 1, &event());
    for refused in 1..=3 {
        let mut second = room.connect();
        room.settle(&mut port);
        assert!(closed(&mut second));
        assert_eq!(port.status().counters.events.connections_refused, refused);
        assert_eq!(port.status().state, PortState::Running);
    }
    assert_eq!(client.ask(&mut port, SET_OWNER, &[], &[]), 0);
}

/// A stranger that shares the way to the socket may leave descriptors in its connection that are closed with it, such as a TCP
/// socket that lingers.
#[test]
fn p_29_what_a_refused_connection_brought_holds_up_no_owner() {
    let room = Room::new();
    let mut port = room.listen();
    let mut client = room.client(&mut port);
    client.tell(&mut port, SET_OWNER, &[], &[]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (receiver, _) = listener.accept().unwrap();
    sender.set_nonblocking(true).unwrap();
    while (&sender).write(&[0; 4096]).is_ok() {}
    let a_minute = Some(Duration::from_secs(60));
    rustix::net::sockopt::set_socket_linger(&sender, a_minute).unwrap();
    let second = room.connect();
    send_raw(&second, &[0], &[sender.as_fd()]);
    drop((second, sender));
    room.pump(&mut port);
    assert_eq!(port.status().counters.events.connections_refused, 1);
    let mut third = room.connect();
    room.pump(&mut port);
    send_raw(&client.stream, &message(GET_FEATURES, PLAIN, &[]), &[]);
    room.pump(&mut port);
    assert_eq!(reply(&mut client.stream).unwrap().0, GET_FEATURES);
    // One at a time of such, too; and whoever waits is let in when the port is free.
    assert!(room.events().is_empty(), "the listener is still watched");
    assert_eq!(port.status().counters.events.connections_refused, 1);
    drop(client);
    room.pump(&mut port);
    port.closer.wait(Duration::from_secs(20));
    room.pump(&mut port);
    room.pump(&mut port);
    assert_eq!(port.status().state, PortState::Negotiating);
    send_raw(&third, &message(GET_FEATURES, PLAIN, &[]), &[]);
    room.pump(&mut port);
    room.pump(&mut port);
    assert_eq!(reply(&mut third).unwrap().0, GET_FEATURES);
    drop(receiver);
}

#[test]
fn a_front_end_that_comes_back_at_once_is_not_taken_for_a_second_one() {
    let room = Room::new();
    let mut port = room.listen();
    drop(room.client(&mut port));
    let _again = room.connect();
    // The listener is looked at first.
    port.on_ready(Source::Listener, room.now.get());
    room.settle(&mut port);
    assert_eq!(port.status().state, PortState::Negotiating);
    assert_eq!(port.status().counters.events.connections_refused, 0);
}

#[test]
fn p_29_a_flood_of_connections_is_taken_at_a_rate() {
    let room = Room::new();
    let mut port = room.listen();
    let mut owner = room.client(&mut port);
    let mut clients = Vec::new();
    let mut refused = 0;
    while refused < 40 {
        // The queue of the socket is bounded: look whenever somebody is there.
        clients.push(room.connect());
        room.settle(&mut port);
        let now = port.status().counters.events.connections_refused;
        if now == refused {
            break;
        }
        refused = now;
    }
    assert!((30..40).contains(&refused), "{refused} were taken at once");
    assert!(room.events().is_empty(), "the listener is still watched");
    assert_eq!(
        owner.ask(
            &mut port,
            SET_PROTOCOL_FEATURES,
            &REPLY_ACK.to_ne_bytes(),
            &[]
        ),
        0
    );
    room.now.set(port.next_deadline().unwrap());
    port.on_deadline(room.now.get());
    room.settle(&mut port);
    assert_eq!(
        port.status().counters.events.connections_refused,
        refused + 1
    );
    assert!(closed(clients.last_mut().unwrap()));
}

#[test]
fn a_silent_connection_is_closed_after_five_seconds() {
    let room = Room::new();
    let mut port = room.listen();
    let mut client = room.client(&mut port);
    assert_eq!(
        port.next_deadline(),
        Some(room.now.get().after_millis(5_000))
    );
    room.now.set(room.now.get().after_millis(4_999));
    port.on_deadline(room.now.get());
    assert_eq!(port.status().state, PortState::Negotiating);
    room.now.set(room.now.get().after_millis(1));
    port.on_deadline(room.now.get());
    assert_eq!(port.status().state, PortState::Waiting);
    assert!(closed(&mut client.stream));
    // Who said something may then be silent for as long as he likes.
    let client = room.client(&mut port);
    client.tell(&mut port, SET_OWNER, &[], &[]);
    assert_eq!(port.next_deadline(), None);
}

#[test]
fn p_3_half_a_message_is_waited_for_five_seconds() {
    let room = Room::new();
    let mut port = room.listen();
    let mut client = room.client(&mut port);
    client.tell(&mut port, SET_OWNER, &[], &[]);
    send_raw(&client.stream, &message(SET_OWNER, PLAIN, &[])[..7], &[]);
    room.settle(&mut port);
    room.now.set(port.next_deadline().unwrap());
    port.on_deadline(room.now.get());
    assert!(closed(&mut client.stream));
    assert!(port.status().last_fault.unwrap().contains("not finished"));
}

#[test]
fn the_first_violation_is_free_and_the_next_cost_time() {
    let room = Room::new();
    let mut port = room.listen();
    let violate = |room: &Room, port: &mut Port| {
        let client = room.client(port);
        client.tell(port, 200, &[], &[]);
    };
    violate(&room, &mut port);
    let status = port.status();
    assert_eq!(status.state, PortState::Waiting);
    assert!(status.last_fault.unwrap().contains("request 200"));
    for wait in [1_000, 2_000, 4_000] {
        violate(&room, &mut port);
        let status = port.status();
        assert_eq!(status.state, PortState::Quarantined);
        assert!(status.why.unwrap().contains("request 200"));
        // Who connects now waits in the queue and is served later.
        let _early = room.connect();
        assert!(room.events().is_empty());
        assert_eq!(
            port.next_deadline(),
            Some(room.now.get().after_millis(wait))
        );
        room.now.set(room.now.get().after_millis(wait));
        port.on_deadline(room.now.get());
        room.settle(&mut port);
        assert_eq!(port.status().state, PortState::Negotiating);
        drop(_early);
        room.settle(&mut port);
    }
    assert_eq!(port.status().counters.events.faults, 4);
}

#[test]
fn a_fault_of_the_workers_ends_the_connection() {
    for fault in [Fault::MemoryLost, Fault::CallBlocked, Fault::Panicked] {
        let room = Room::new();
        let mut port = room.listen();
        let mut client = room.client(&mut port);
        let memory = memfd(MEM);
        client.negotiate(&mut port, &memory);
        client.start(&mut port, 0, &event());
        // The bell may ring for another port.
        port.on_bell(room.now.get());
        assert_eq!(port.status().state, PortState::Running);
        let epoch = room.lanes.epoch();
        room.lanes.raise(epoch, fault);
        port.on_bell(room.now.get());
        let status = port.status();
        assert_eq!(status.state, PortState::Waiting);
        assert_eq!(status.last_fault, Some(fault.to_string()));
        assert!(closed(&mut client.stream));
        assert!(room.lanes.rings().is_empty() && !room.lanes.faulted());
        // The next one is served.
        room.client(&mut port).negotiate(&mut port, &memory);
        assert_eq!(port.status().state, PortState::Negotiating);
        // And is not blamed for what a worker finds out late about the one before.
        room.lanes.raise(epoch, fault);
        assert!(!room.lanes.faulted());
        room.lanes.raise(room.lanes.epoch(), fault);
        assert_eq!(room.lanes.fault(), Some(fault));
    }
}

/// Takes as long to drop as the test likes.
struct Hanging(std::sync::mpsc::Receiver<()>);

impl Drop for Hanging {
    fn drop(&mut self) {
        let _ = self.0.recv();
    }
}

impl Room {
    /// Gives the port the events that wait now, once.
    fn pump(&self, port: &mut Port) {
        for source in self.events() {
            port.on_ready(source, self.now.get());
        }
        port.on_bell(self.now.get());
    }

    fn seconds(&self, port: &mut Port, count: u64) {
        for _ in 0..count {
            self.now.set(self.now.get().after_millis(1_000));
            port.on_deadline(self.now.get());
            port.on_second(self.now.get());
        }
    }
}

/// What the port's closer hangs on until the sender is dropped.
fn hang(port: &Port) -> std::sync::mpsc::Sender<()> {
    let (end, hanging) = std::sync::mpsc::channel();
    port.closer.close(Box::new(Hanging(hanging)));
    end
}

#[test]
fn p_17_while_its_closer_hangs_a_port_lets_nobody_in_and_says_why() {
    let room = Room::new();
    let mut port = room.listen();
    let end = hang(&port);
    let mut early = room.connect();
    room.pump(&mut port);
    assert!(room.events().is_empty(), "the listener is still watched");
    assert_eq!(port.status().state, PortState::Waiting);
    room.seconds(&mut port, 2);
    let status = port.status();
    assert_eq!(status.state, PortState::Quarantined);
    assert!(status.why.unwrap().contains("cannot be closed"));
    assert!(reply(&mut early).is_none());
    drop(end);
    room.settle(&mut port);
    assert_eq!(port.status().state, PortState::Negotiating);
    room.seconds(&mut port, 1);
    assert_eq!(port.status().why, None);
}

#[test]
fn p_17_while_its_closer_hangs_a_port_serves_no_request_and_lets_the_time_stand_still() {
    let room = Room::new();
    let mut port = room.listen();
    let mut client = room.client(&mut port);
    let memory = memfd(MEM);
    client.negotiate(&mut port, &memory);
    client.start(&mut port, 1, &event());
    // Half a message, then something that hangs, then the rest.
    let whole = message(GET_FEATURES, PLAIN, &[]);
    send_raw(&client.stream, &whole[..5], &[]);
    room.settle(&mut port);
    let end = hang(&port);
    send_raw(&client.stream, &whole[5..], &[]);
    room.pump(&mut port);
    room.pump(&mut port);
    assert!(room.events().is_empty(), "the connection is still watched");
    assert!(reply(&mut client.stream).is_none());
    assert_eq!(port.next_deadline(), None);
    room.seconds(&mut port, 10);
    let status = port.status();
    assert_eq!(status.state, PortState::Running, "the rings run on");
    assert!(status.why.unwrap().contains("no request served"));
    drop(end);
    room.settle(&mut port);
    assert_eq!(reply(&mut client.stream).unwrap().0, GET_FEATURES);
    assert_eq!(port.status().state, PortState::Running);
    assert_eq!(port.status().counters.events.faults, 0);
}

#[test]
fn p_17_a_front_end_that_goes_while_the_closer_hangs_is_missed() {
    for fault in [false, true] {
        let room = Room::new();
        let mut port = room.listen();
        let client = room.client(&mut port);
        client.tell(&mut port, SET_OWNER, &[], &[]);
        let end = hang(&port);
        let mut stream = client.stream;
        if fault {
            room.lanes.raise(room.lanes.epoch(), Fault::MemoryLost);
            room.pump(&mut port);
            assert!(closed(&mut stream), "the front-end is told at once");
        } else {
            drop(stream);
            room.pump(&mut port);
        }
        assert_eq!(port.status().state, PortState::Waiting);
        assert!(room.events().is_empty());
        drop(end);
        room.settle(&mut port);
        room.client(&mut port);
        assert_eq!(port.status().state, PortState::Negotiating);
    }
}

#[test]
fn p_17_a_port_that_connects_waits_for_its_closer_too() {
    let room = Room::new();
    let listener = UnixListener::bind(room.path()).unwrap();
    let mut port = room.open(Endpoint::Connect(room.path()));
    drop(listener.accept().unwrap());
    let end = hang(&port);
    room.pump(&mut port);
    assert_eq!(port.status().state, PortState::Waiting);
    room.seconds(&mut port, 5);
    assert_eq!(port.status().state, PortState::Quarantined);
    drop(end);
    room.settle(&mut port);
    assert_eq!(port.status().state, PortState::Negotiating);
}

#[test]
fn a_port_that_connects_tries_every_100_ms_and_again_after_a_loss() {
    let room = Room::new();
    let mut port = room.open(Endpoint::Connect(room.path()));
    for _ in 0..3 {
        assert_eq!(port.next_deadline(), Some(room.now.get().after_millis(100)));
        room.now.set(room.now.get().after_millis(100));
        port.on_deadline(room.now.get());
        assert_eq!(port.status().state, PortState::Waiting);
    }
    let listener = UnixListener::bind(room.path()).unwrap();
    for _ in 0..2 {
        room.now.set(port.next_deadline().unwrap());
        port.on_deadline(room.now.get());
        assert_eq!(port.status().state, PortState::Negotiating);
        assert_eq!(port.next_deadline(), None);
        let (stream, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        let mut client = Client {
            room: &room,
            stream,
        };
        client.negotiate(&mut port, &memfd(MEM));
        drop(client);
        room.settle(&mut port);
        assert_eq!(port.next_deadline(), Some(room.now.get().after_millis(100)));
    }
}

#[test]
fn a_closed_port_leaves_nothing_behind() {
    let room = Room::new();
    let mut port = room.listen();
    let mut client = room.client(&mut port);
    let memory = memfd(MEM);
    client.negotiate(&mut port, &memory);
    client.start(&mut port, 0, &event());
    port.close(room.now.get());
    assert!(closed(&mut client.stream));
    assert!(!room.path().exists());
    assert!(room.lanes.rings().is_empty());
    assert!(room.events().is_empty());
    assert_eq!(port.next_deadline(), None);
}

#[test]
fn p_24_an_old_kick_has_no_effect() {
    let room = Room::new();
    let mut port = room.listen();
    let mut client = room.client(&mut port);
    let memory = memfd(MEM);
    client.negotiate(&mut port, &memory);
    let signal = |fd: &OwnedFd| assert_eq!(rustix::io::write(fd, &1u64.to_ne_bytes()), Ok(8));
    let (old, new) = (event(), event());
    client.start(&mut port, 1, &old);
    signal(&old);
    assert!(room.kicked());
    client.tell(
        &mut port,
        SET_VRING_KICK,
        &1u64.to_ne_bytes(),
        &[new.as_fd()],
    );
    signal(&old);
    assert!(!room.kicked(), "the old kick still wakes the worker");
    signal(&new);
    assert!(room.kicked());
    client.ask(&mut port, GET_VRING_BASE, &state(1, 0), &[]);
    signal(&new);
    signal(&old);
    assert!(
        !room.kicked(),
        "a stopped ring's kick still wakes the worker"
    );
}

/// A guest's memory with 256 receive buffers described, none offered yet.
fn receiving_memory() -> OwnedFd {
    let file = std::fs::File::from(memfd(MEM));
    for n in 0..256u64 {
        let mut descriptor = (GUEST + BUFFERS + n * BUFFER).to_le_bytes().to_vec();
        descriptor.extend_from_slice(&2048u32.to_le_bytes());
        descriptor.extend_from_slice(&2u32.to_le_bytes());
        file.write_all_at(&descriptor, DESC + 16 * n).unwrap();
        let head = u16::try_from(n).unwrap();
        file.write_all_at(&head.to_le_bytes(), AVAIL + 4 + 2 * n)
            .unwrap();
    }
    OwnedFd::from(file)
}

fn contents(memory: &OwnedFd) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(MEM).unwrap()];
    assert_eq!(rustix::io::pread(memory, &mut bytes, 0), Ok(bytes.len()));
    bytes
}

fn used_idx(contents: &[u8]) -> u16 {
    let at = usize::try_from(USED).unwrap() + 2;
    u16::from_le_bytes([contents[at], contents[at + 1]])
}

/// Whether the used index moves. The index has 16 bits, so after many rounds it may happen to be what it was: then it
/// is looked at again.
fn moves(memory: &OwnedFd, rounds: &dyn Fn()) -> bool {
    let before = used_idx(&contents(memory));
    (0..8).any(|_| {
        rounds();
        used_idx(&contents(memory)) != before
    })
}

/// Fills receive ring 0 as fast as it can, playing the guest too: offers all buffers anew before each burst.
fn pour(lanes: &Lanes, rounds: &AtomicU64, stop: &AtomicBool) {
    let mut slots = Slots::new();
    let mut n = 0u8;
    while !stop.load(Ordering::Relaxed) {
        if let Some(lane) = lanes.rx(0).unwrap().as_mut() {
            let ring = &mut lane.ring;
            let memory = Arc::clone(ring.memory());
            let mut hint = RegionHint::default();
            let avail = memory.locate(GUEST + AVAIL + 2, 2, &mut hint).unwrap();
            memory.write(avail, &ring.next().wrapping_add(256).to_le_bytes());
            ring.begin().unwrap();
            slots.clear();
            for _ in 0..16 {
                let reserved = ring.reserve(1500, &mut slots).unwrap();
                n = n.wrapping_add(1);
                for extent in slots.extents(&reserved) {
                    memory.write(*extent, &[n; 1500]);
                }
            }
            ring.publish();
        }
        rounds.fetch_add(1, Ordering::Release);
    }
}

/// Runs `act` while another thread pours frames into the port's receive ring 0.
fn under_load(lanes: &Lanes, act: impl FnOnce(&dyn Fn())) {
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let (rounds, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| pour(lanes, &rounds, &stop));
        let _stop = Stop(&stop);
        // Lets the other thread begin and finish at least one whole round.
        act(&|| {
            let from = rounds.load(Ordering::Acquire);
            while rounds.load(Ordering::Acquire) < from + 3 {
                std::thread::yield_now();
            }
        });
    });
}

#[test]
fn p_20_after_the_reply_no_byte_of_the_old_memory_changes() {
    let room = Room::new();
    let mut port = room.listen();
    let mut client = room.client(&mut port);
    let memories = [receiving_memory(), receiving_memory()];
    client.negotiate(&mut port, &memories[0]);
    client.start(&mut port, 0, &event());
    under_load(&room.lanes, |rounds| {
        for turn in 0..1_000 {
            let (old, new) = (&memories[turn % 2], &memories[(turn + 1) % 2]);
            assert!(moves(old, rounds), "turn {turn}: the ring does not run");
            assert_eq!(client.share(&mut port, new), 0);
            let after = contents(old);
            rounds();
            assert!(
                contents(old) == after,
                "turn {turn}: the old memory was written after the reply"
            );
        }
    });
    assert_eq!(port.status().state, PortState::Running);
}

#[test]
fn p_21_after_get_vring_base_nothing_is_written_and_the_base_is_the_used_index() {
    let room = Room::new();
    let mut port = room.listen();
    let mut client = room.client(&mut port);
    let memory = receiving_memory();
    client.negotiate(&mut port, &memory);
    under_load(&room.lanes, |rounds| {
        for turn in 0..100 {
            client.start(&mut port, 0, &event());
            rounds();
            let base = client.ask(&mut port, GET_VRING_BASE, &state(0, 0), &[]);
            let after = contents(&memory);
            assert_eq!(base >> 32, u64::from(used_idx(&after)), "turn {turn}");
            rounds();
            assert!(
                contents(&memory) == after,
                "turn {turn}: written after the reply"
            );
        }
    });
    assert_eq!(port.status().state, PortState::Negotiating);
}

#[test]
fn p_10_a_ring_may_be_changed_under_load() {
    let room = Room::new();
    let mut port = room.listen();
    let mut client = room.client(&mut port);
    let memory = receiving_memory();
    client.negotiate(&mut port, &memory);
    client.start(&mut port, 0, &event());
    under_load(&room.lanes, |rounds| {
        for turn in 0..100u32 {
            let kick = event();
            client.tell(
                &mut port,
                SET_VRING_KICK,
                &0u64.to_ne_bytes(),
                &[kick.as_fd()],
            );
            client.tell(&mut port, SET_VRING_BASE, &state(0, turn), &[]);
            client.tell(
                &mut port,
                SET_VRING_CALL,
                &0u64.to_ne_bytes(),
                &[event().as_fd()],
            );
            assert!(moves(&memory, rounds), "turn {turn}: the ring does not run");
        }
    });
}

#[test]
fn a_prepared_port_lets_nobody_in_before_it_begins() {
    let room = Room::new();
    let mut port = Port::prepare(
        room.setup(Endpoint::Listen(room.path())),
        Arc::clone(&room.lanes),
        Arc::clone(&room.epoll),
        room.now.get(),
    )
    .unwrap();
    let _early = room.connect();
    assert!(room.events().is_empty());
    assert_eq!(port.status().state, PortState::Waiting);
    port.begin(room.now.get());
    room.settle(&mut port);
    assert_eq!(port.status().state, PortState::Negotiating);
}

#[test]
fn a_prepared_port_that_is_given_up_leaves_no_file() {
    let room = Room::new();
    let setup = room.setup(Endpoint::Listen(room.path()));
    let (lanes, epoll) = (Arc::clone(&room.lanes), Arc::clone(&room.epoll));
    drop(Port::prepare(setup, lanes, epoll, room.now.get()).unwrap());
    assert!(!room.path().exists());
}

#[test]
fn an_heir_serves_whoever_waits_at_the_socket_of_the_other() {
    let room = Room::new();
    let mut old = room.listen();
    let mut served = room.client(&mut old);
    served.tell(&mut old, SET_OWNER, &[], &[]);
    let waiting = room.connect();
    assert_eq!(old.listens_at(), Some(&*room.path()));
    let door = Arc::clone(&room.door);
    let lanes = Lanes::new(PortId::new(4).unwrap(), 2, door, FaultBell::new().unwrap());
    let setup = room.setup(Endpoint::Listen(room.path()));
    let mut heir = Port::heir(setup, lanes, Arc::clone(&room.epoll), room.now.get());
    heir.inherit(&mut old, room.now.get());
    drop(old);
    assert!(closed(&mut served.stream));
    assert!(room.path().exists());
    assert_eq!(heir.listens_at(), Some(&*room.path()));
    heir.begin(room.now.get());
    heir.on_ready(Source::Listener, room.now.get());
    assert_eq!(heir.status().state, PortState::Negotiating);
    drop(waiting);
    // A file that somebody took away is nobody's to inherit.
    std::fs::remove_file(room.path()).unwrap();
    assert_eq!(heir.listens_at(), None);
}
