//! Our guest drives a back-end that we did not write: a network card on `vhost-user-backend` and
//! `virtio-queue`. What goes out on a queue pair comes back on it, byte for byte; or comes in at the other
//! of two cards that are wired together, under the load generator.

#![allow(
    clippy::cast_possible_truncation,
    reason = "lengths and counts of a test are small"
)]

use std::{
    io::{Read, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, RwLock},
    thread::JoinHandle,
    time::Duration,
};

use portcullis::guest::{
    Backing, Builder, Guest, Listening, Script, Shape, VnetHeader, feature,
    load::{self, Check, Limit, Pace, Pattern, Plan},
};
use vhost::vhost_user::{Listener, message::VhostUserProtocolFeatures};
use vhost_user_backend::{
    ShutdownHandle, VhostUserBackendMut, VhostUserDaemon, VringRwLock, VringT,
};
use virtio_queue::{QueueOwnedT, QueueT};
use vm_memory::{
    Address, Bytes, GuestAddress, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap,
};
use vmm_sys_util::{
    epoll::EventSet,
    event::{EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier},
};

const WAIT: Duration = Duration::from_secs(20);

type Memory = GuestMemoryAtomic<GuestMemoryMmap>;
/// The RX rings of two cards that are wired together.
type Cable = Arc<Mutex<[Option<(VringRwLock, Memory)>; 2]>>;

/// The card: queue 2i + 1 is read, queue 2i is written, of the card itself or of the one at the other end
/// of its cable.
struct Loopback {
    cable: Option<(Cable, usize)>,
    features: u64,
    acked: u64,
    event_idx: bool,
    memory: Option<Memory>,
    pairs: usize,
    exits: Mutex<Vec<EventNotifier>>,
}

impl Loopback {
    fn new(features: u64, pairs: usize) -> Self {
        Self {
            cable: None,
            features: features | feature::PROTOCOL_FEATURES,
            acked: 0,
            event_idx: false,
            memory: None,
            pairs,
            exits: Mutex::new(Vec::new()),
        }
    }

    fn header_len(&self) -> usize {
        VnetHeader::len_for(self.acked)
    }

    /// Moves every frame of one pair; returns whether anything was moved.
    fn echo(&self, rx: &VringRwLock, tx: &VringRwLock) -> std::io::Result<bool> {
        let Some(memory) = self.memory.clone() else {
            return Ok(false);
        };
        let to = match &self.cable {
            None => Some((rx.clone(), memory.clone())),
            Some((cable, end)) => {
                let mut ends = cable.lock().unwrap();
                ends[*end] = Some((rx.clone(), memory.clone()));
                ends[1 - *end].clone()
            }
        };
        let memory = memory.memory();
        let mut moved = false;
        loop {
            let Some(chain) = tx
                .get_mut()
                .get_queue_mut()
                .pop_descriptor_chain(memory.clone())
            else {
                break;
            };
            let head = chain.head_index();
            let mut packet = Vec::new();
            chain
                .reader(&memory)
                .map_err(std::io::Error::other)?
                .read_to_end(&mut packet)?;
            if let Some((rx, memory)) = &to {
                self.deliver(rx, memory, packet)?;
            }
            tx.add_used(head, 0).map_err(std::io::Error::other)?;
            moved = true;
        }
        if moved {
            if let Some((rx, _)) = &to {
                rx.signal_used_queue()?;
            }
            tx.signal_used_queue()?;
        }
        Ok(moved)
    }

    /// Writes `packet`, which begins with its header, into as many chains as it takes; drops it when there
    /// are not enough.
    fn deliver(
        &self,
        rx: &VringRwLock,
        memory: &Memory,
        mut packet: Vec<u8>,
    ) -> std::io::Result<()> {
        let memory = memory.memory();
        let mut ring = rx.get_mut();
        let queue = ring.get_queue_mut();
        let mut chains = Vec::new();
        let mut room = 0;
        while room < packet.len() {
            let Some(chain) = queue.pop_descriptor_chain(memory.clone()) else {
                for _ in chains {
                    queue.go_to_previous_position();
                }
                return Ok(());
            };
            room += chain
                .clone()
                .writer(&memory)
                .map_err(std::io::Error::other)?
                .available_bytes();
            chains.push(chain);
        }
        if self.header_len() == 12 {
            packet[10..12].copy_from_slice(&(chains.len() as u16).to_le_bytes());
        }
        let mut rest = packet.as_slice();
        let mut used = Vec::new();
        for chain in chains {
            let head = chain.head_index();
            let mut writer = chain.writer(&memory).map_err(std::io::Error::other)?;
            let part = writer.available_bytes().min(rest.len());
            writer.write_all(&rest[..part])?;
            rest = &rest[part..];
            used.push((head, part as u32));
        }
        // All buffers of a frame are used together (VIRTIO 1.2, 5.1.6.4.1), but `add_used` stores the index
        // for each: all entries but the last are written behind its back.
        let (last, before) = used.split_last().unwrap();
        for (head, len) in before {
            let slot = u64::from(queue.next_used() % queue.size());
            let at = GuestAddress(queue.used_ring() + 4 + 8 * slot);
            memory
                .write_slice(&u32::from(*head).to_le_bytes(), at)
                .and_then(|()| memory.write_slice(&len.to_le_bytes(), at.unchecked_add(4)))
                .map_err(std::io::Error::other)?;
            queue.set_next_used(queue.next_used().wrapping_add(1));
        }
        ring.add_used(last.0, last.1).map_err(std::io::Error::other)
    }
}

impl VhostUserBackendMut for Loopback {
    type Bitmap = ();
    type Vring = VringRwLock;

    fn num_queues(&self) -> usize {
        2 * self.pairs
    }

    fn max_queue_size(&self) -> usize {
        1024
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn acked_features(&mut self, features: u64) {
        self.acked = features;
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
    }

    fn set_event_idx(&mut self, enabled: bool) {
        self.event_idx = enabled;
    }

    fn update_memory(&mut self, memory: GuestMemoryAtomic<GuestMemoryMmap>) -> std::io::Result<()> {
        self.memory = Some(memory);
        Ok(())
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        let (consumer, notifier) = new_event_consumer_and_notifier(EventFlag::empty()).unwrap();
        self.exits
            .lock()
            .unwrap()
            .push(notifier.try_clone().unwrap());
        Some((consumer, notifier))
    }

    fn handle_event(
        &mut self,
        event: u16,
        _set: EventSet,
        vrings: &[VringRwLock],
        _thread: usize,
    ) -> std::io::Result<()> {
        let pair = usize::from(event) / 2;
        let Some([rx, tx]) = vrings.get(2 * pair..2 * pair + 2) else {
            return Ok(());
        };
        loop {
            tx.disable_notification().unwrap();
            while self.echo(rx, tx)? {}
            if !tx.enable_notification().unwrap() {
                return Ok(());
            }
        }
    }
}

/// A running daemon; it is told to stop and waited for on drop.
struct Daemon {
    backend: Arc<RwLock<Loopback>>,
    thread: Option<JoinHandle<()>>,
    shutdown: std::sync::mpsc::Receiver<ShutdownHandle>,
    _directory: tempfile::TempDir,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(handle) = self.shutdown.recv_timeout(WAIT) {
            handle.shutdown();
        }
        for exit in self.backend.read().unwrap().exits.lock().unwrap().iter() {
            exit.notify().unwrap();
        }
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// Starts the daemon with `features`, `connects` to the guest or listens for it, and returns it with the
/// path of the socket.
fn daemon(features: u64, pairs: usize, connects: bool) -> (Daemon, PathBuf) {
    serve(Loopback::new(features, pairs), connects)
}

fn serve(card: Loopback, connects: bool) -> (Daemon, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("net.sock");
    let backend = Arc::new(RwLock::new(card));
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let mut server =
        VhostUserDaemon::new("loopback".to_owned(), Arc::clone(&backend), memory).unwrap();
    let (tell, shutdown) = std::sync::mpsc::channel();
    let socket = path.clone();
    let mut listener = (!connects).then(|| Listener::new(&path, true).unwrap());
    let thread = std::thread::spawn(move || {
        match &mut listener {
            Some(listener) => server.start(listener).unwrap(),
            None => {
                while server.start_client(socket.to_str().unwrap()).is_err() {
                    std::thread::yield_now();
                }
            }
        }
        tell.send(server.shutdown_handle().unwrap()).unwrap();
        // However the connection ends is the guest's affair.
        drop(server.wait());
    });
    let daemon = Daemon {
        backend,
        thread: Some(thread),
        shutdown,
        _directory: directory,
    };
    (daemon, path)
}

fn frame(number: u32, len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| (number as usize * 31 + i * 7) as u8)
        .collect()
}

/// Sends frames of many sizes on every pair and expects each back as it was.
fn echo(guest: &mut Guest, sizes: &[usize]) {
    let pairs = guest.queues();
    for number in 0..600u32 {
        let sent = frame(number, sizes[number as usize % sizes.len()]);
        let pair = number as usize % pairs;
        guest
            .send_shaped(pair, VnetHeader::default(), &sent, &Shape::Together)
            .unwrap();
        let received = guest.recv(WAIT).unwrap().expect("no echo");
        assert_eq!(received.queue, pair);
        assert_eq!(received.bytes, sent, "frame {number}");
    }
    assert!(guest.drain(WAIT).unwrap());
}

const STOCK: u64 = feature::VERSION_1
    | feature::MRG_RXBUF
    | feature::INDIRECT_DESC
    | feature::EVENT_IDX
    | feature::MQ;

fn guest() -> Builder {
    Guest::builder().timeout(WAIT)
}

fn connect(builder: Builder, path: &Path) -> Guest {
    builder.connect(path).unwrap()
}

#[test]
fn a_modern_guest_echoes_small_and_merged_frames() {
    let (_daemon, path) = daemon(STOCK, 1, false);
    let mut guest = connect(guest(), &path);
    assert_eq!(guest.header_len(), 12);
    assert_ne!(guest.features() & feature::EVENT_IDX, 0);
    echo(&mut guest, &[14, 60, 1514, 2036, 2037, 9014, 65_000]);
}

#[test]
fn a_legacy_guest_has_ten_header_bytes_and_flags() {
    let (_daemon, path) = daemon(STOCK, 1, false);
    let mut guest = connect(guest().legacy(), &path);
    assert_eq!(guest.header_len(), 10);
    echo(&mut guest, &[14, 60, 1514, 2038]);
}

#[test]
fn a_guest_without_event_idx_uses_flags() {
    let (_daemon, path) = daemon(STOCK, 1, false);
    let mut guest = connect(guest().without(feature::EVENT_IDX), &path);
    assert_eq!(guest.features() & feature::EVENT_IDX, 0);
    echo(&mut guest, &[60, 1514]);
}

#[test]
fn every_script_that_the_stock_daemon_understands() {
    for script in [Script::Modern, Script::CloudHypervisor, Script::Bare] {
        let (_daemon, path) = daemon(STOCK, 1, false);
        let mut guest = connect(guest().script(script), &path);
        echo(&mut guest, &[60, 1514]);
    }
}

#[test]
fn the_back_end_connects_to_the_guest() {
    let (_daemon, path) = daemon(STOCK, 1, true);
    let mut guest = guest().accept(Listening::bind(&path).unwrap()).unwrap();
    echo(&mut guest, &[60, 1514]);
}

#[test]
fn several_queues_each_echo_on_their_own() {
    let (_daemon, path) = daemon(STOCK, 4, false);
    let mut guest = connect(guest().queues(4).ring_size(64), &path);
    assert_eq!(guest.queues(), 4);
    echo(&mut guest, &[60, 1514]);
}

#[test]
fn memory_of_adjacent_regions_and_slots_added_one_by_one() {
    for protocol in [
        portcullis::guest::protocol::REPLY_ACK,
        portcullis::guest::protocol::REPLY_ACK | portcullis::guest::protocol::CONFIGURE_MEM_SLOTS,
    ] {
        let (_daemon, path) = daemon(STOCK, 1, false);
        let builder = guest()
            .regions(5)
            .protocol(protocol)
            .backing(Backing::SealedMemfd);
        let mut guest = connect(builder, &path);
        assert_eq!(guest.memory().regions().len(), 6);
        echo(&mut guest, &[60, 9000]);
    }
}

#[test]
fn every_shape_of_chain_is_read_as_one_frame() {
    let (_daemon, path) = daemon(STOCK, 1, false);
    let mut guest = connect(guest(), &path);
    let sent = frame(7, 700);
    for shape in [
        Shape::Apart,
        Shape::Pieces(vec![1; 40]),
        Shape::Pieces(vec![5, 7, 1, 13, 300]),
        Shape::Indirect(vec![12, 14, 20, 20]),
        Shape::Indirect(vec![1; 200]),
    ] {
        guest
            .send_shaped(0, VnetHeader::default(), &sent, &shape)
            .unwrap();
        let received = guest.recv(WAIT).unwrap().expect("no echo");
        assert_eq!(received.bytes, sent, "{shape:?}");
    }
}

#[test]
fn indices_wrap_and_a_base_other_than_zero_works() {
    let (_daemon, path) = daemon(STOCK, 1, false);
    let mut guest = connect(guest().base(65_300).ring_size(16), &path);
    echo(&mut guest, &[60]);
    assert!(guest.tx(0).used() < 65_300, "the index has wrapped");
}

/// Two cards, wired together.
fn cable(features: u64, connects: bool) -> ([Daemon; 2], Vec<PathBuf>) {
    let cable = Cable::default();
    let card = |end| {
        let mut card = Loopback::new(features, 1);
        card.cable = Some((Arc::clone(&cable), end));
        serve(card, connects)
    };
    let ((first, at), (second, to)) = (card(0), card(1));
    ([first, second], vec![at, to])
}

/// A load of a given number of frames, every byte of which is checked.
fn plan(ports: Vec<PathBuf>) -> Plan {
    Plan {
        ports,
        pace: Pace::InFlight(64),
        check: Check::Full,
        limit: Limit::Frames(20_000),
        patience: WAIT,
        ..Plan::default()
    }
}

const GIANTS: u64 = feature::CSUM | feature::GUEST_CSUM | feature::HOST_TSO4 | feature::GUEST_TSO4;

/// Runs `plan` over a fresh cable and expects every frame to arrive, once, whole and in order.
fn arrives(features: u64, change: impl Fn(&mut Plan)) -> load::Report {
    let (_daemons, ports) = cable(features, false);
    let mut plan = plan(ports);
    change(&mut plan);
    let report = load::run(&plan).unwrap();
    assert!(report.sent >= 1000, "{report}");
    assert_eq!(report.received, report.sent, "{report}");
    assert_eq!(report.lost, 0, "{report}");
    assert!(!report.faults.broken(), "{report}");
    assert_eq!(report.faults.strays + report.faults.late, 0, "{report}");
    report
}

#[test]
fn a_load_counts_every_frame_of_both_directions() {
    let report = arrives(STOCK, |_| {});
    assert!(report.ports.iter().all(|p| p.received >= 1000), "{report}");
    assert!(report.latency.is_some(), "{report}");
}

#[test]
fn a_load_in_every_pattern_and_with_every_check() {
    for pattern in [
        Pattern::Pairs,
        Pattern::OneToOne,
        Pattern::AllToAll,
        Pattern::PingPong,
    ] {
        for check in [Check::None, Check::Order, Check::Full] {
            let report = arrives(STOCK, |plan| {
                plan.pattern = pattern;
                plan.check = check;
                plan.limit = Limit::Frames(2000);
            });
            assert_eq!(
                report.ports[1].sent == 0,
                pattern == Pattern::OneToOne,
                "{report}"
            );
        }
    }
}

#[test]
fn a_load_with_every_kind_of_ring() {
    for (in_order, event_idx, mergeable) in [
        (true, false, true),
        (false, false, false),
        (false, true, true),
        (true, true, false),
    ] {
        arrives(STOCK | feature::IN_ORDER, |plan| {
            plan.in_order = in_order;
            plan.event_idx = event_idx;
            plan.mergeable = mergeable;
            plan.ring_size = 128;
            plan.touch = event_idx;
            plan.flows = 7;
        });
    }
}

#[test]
fn a_load_of_giants_whole_and_spread_over_buffers() {
    for (size, rx_buffer) in [
        (1514, None),
        (9000, None),
        (65_549, None),
        (65_549, Some(4096)),
    ] {
        arrives(STOCK | GIANTS, |plan| {
            plan.size = size;
            plan.rx_buffer = rx_buffer;
            plan.ring_size = 256;
            plan.pace = Pace::InFlight(8);
            plan.limit = Limit::Frames(1000);
        });
    }
}

#[test]
fn an_open_loop_sends_what_was_asked_for() {
    let report = arrives(STOCK, |plan| {
        plan.pace = Pace::Rate(20_000.0);
        plan.limit = Limit::Frames(4000);
    });
    assert!(report.sent <= 4000 + 2 * 64, "{report}");
}

#[test]
fn a_load_where_the_back_end_connects() {
    let (_daemons, ports) = cable(STOCK, true);
    let mut plan = plan(ports);
    plan.listen = true;
    let report = load::run(&plan).unwrap();
    assert_eq!(report.received, report.sent);
}

#[test]
fn a_back_end_that_moves_nothing_is_an_error_and_no_hang() {
    // Two cards that are not wired: what each gets comes back to itself, and nothing reaches the other.
    let (_first, at) = daemon(STOCK, 1, false);
    let (_second, to) = daemon(STOCK, 1, false);
    let mut plan = plan(vec![at, to]);
    plan.patience = Duration::from_millis(300);
    plan.limit = Limit::Time(Duration::from_millis(1));
    plan.warm_up = WAIT;
    let error = load::run(&plan).unwrap_err().to_string();
    assert!(error.contains("no frame has arrived"), "{error}");
}
