//! Our guest drives a back-end that we did not write: a loopback network card on `vhost-user-backend` and
//! `virtio-queue`. What goes out on a queue pair comes back on it, byte for byte.

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

use portcullis::guest::{Backing, Builder, Guest, Listening, Script, Shape, VnetHeader, feature};
use vhost::vhost_user::{Listener, message::VhostUserProtocolFeatures};
use vhost_user_backend::{
    ShutdownHandle, VhostUserBackendMut, VhostUserDaemon, VringRwLock, VringT,
};
use virtio_queue::QueueT;
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::{
    epoll::EventSet,
    event::{EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier},
};

const WAIT: Duration = Duration::from_secs(20);

/// The loopback card: queue 2i + 1 is read, queue 2i is written.
struct Loopback {
    features: u64,
    acked: u64,
    event_idx: bool,
    memory: Option<GuestMemoryAtomic<GuestMemoryMmap>>,
    pairs: usize,
    exits: Mutex<Vec<EventNotifier>>,
}

impl Loopback {
    fn new(features: u64, pairs: usize) -> Self {
        Self {
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
        let Some(memory) = &self.memory else {
            return Ok(false);
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
            self.deliver(rx, &packet)?;
            tx.add_used(head, 0).map_err(std::io::Error::other)?;
            moved = true;
        }
        if moved {
            rx.signal_used_queue()?;
            tx.signal_used_queue()?;
        }
        Ok(moved)
    }

    /// Writes `packet`, which begins with its header, into as many chains as it takes.
    fn deliver(&self, rx: &VringRwLock, packet: &[u8]) -> std::io::Result<()> {
        let memory = self.memory.as_ref().unwrap().memory();
        let mut packet = packet.to_vec();
        let mut chains = Vec::new();
        let mut room = 0;
        while room < packet.len() {
            let chain = rx
                .get_mut()
                .get_queue_mut()
                .pop_descriptor_chain(memory.clone())
                .expect("the test keeps enough receive buffers posted");
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
        for chain in chains {
            let head = chain.head_index();
            let mut writer = chain.writer(&memory).map_err(std::io::Error::other)?;
            let part = writer.available_bytes().min(rest.len());
            writer.write_all(&rest[..part])?;
            rest = &rest[part..];
            rx.add_used(head, part as u32)
                .map_err(std::io::Error::other)?;
        }
        Ok(())
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
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("net.sock");
    let backend = Arc::new(RwLock::new(Loopback::new(features, pairs)));
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
