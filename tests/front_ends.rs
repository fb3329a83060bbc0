//! Front-ends of every kind against one port: each in its own order of words, each served.
//!
//! No worker runs here: rings are started and stopped, and nothing passes.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use portcullis::clock::Clock;
use portcullis::counters::PortId;
use portcullis::guest::{Guest, Script, feature, protocol};
use portcullis::memory::Limits;
use portcullis::port::door::Door;
use portcullis::port::endpoint::Endpoint;
use portcullis::port::lanes::{FaultBell, Lanes};
use portcullis::port::port::{Port, PortSetup, Source};
use portcullis::port::status::{PortState, PortStatus};
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};

/// A port that is served by a thread of its own.
struct Served {
    port: Arc<Mutex<Port>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    path: PathBuf,
    _directory: tempfile::TempDir,
}

impl Served {
    fn start(pairs: u16, endpoint: fn(PathBuf) -> Endpoint) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("port.sock");
        let epoll: Arc<OwnedFd> = Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC).unwrap());
        let door = Arc::new(Door::new().unwrap());
        let id = PortId::new(0).unwrap();
        let bell = FaultBell::new().unwrap();
        let token = EventData::new_u64(BELL);
        epoll::add(&*epoll, &*bell, token, EventFlags::IN).unwrap();
        let lanes = Lanes::new(id, pairs, door, Arc::clone(&bell));
        let clock = Clock::new();
        let setup = PortSetup {
            name: "web".to_owned(),
            endpoint: endpoint(path.clone()),
            access: portcullis::port::socket::Access::default(),
            mtu: None,
            limits: Limits::default(),
        };
        let port = Port::open(setup, lanes, Arc::clone(&epoll), clock.now()).unwrap();
        let port = Arc::new(Mutex::new(port));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (port, stop) = (Arc::clone(&port), Arc::clone(&stop));
            move || attend(&port, &epoll, &bell, &clock, &stop)
        });
        Self {
            port,
            stop,
            thread: Some(thread),
            path,
            _directory: directory,
        }
    }

    fn status(&self) -> PortStatus {
        self.port.lock().unwrap().status()
    }

    /// Waits until the port says so.
    fn until(&self, what: impl Fn(&PortStatus) -> bool) -> PortStatus {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let status = self.status();
            if what(&status) {
                return status;
            }
            assert!(
                Instant::now() < end,
                "waited in vain; last seen: {status:#?}"
            );
            std::thread::yield_now();
        }
    }

    fn running(&self, rings: usize) -> PortStatus {
        self.until(|status| {
            let ready = |ring: &_| is_ready(ring);
            status.state == PortState::Running
                && status.rings.iter().filter(|ring| ready(ring)).count() == rings
        })
    }
}

fn is_ready(ring: &portcullis::port::status::RingStatus) -> bool {
    ring.running && ring.enabled
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// The token of the bell; ports have those below it.
const BELL: u64 = Source::TOKENS;

fn attend(port: &Mutex<Port>, epoll: &OwnedFd, bell: &FaultBell, clock: &Clock, stop: &AtomicBool) {
    let mut events = Vec::with_capacity(16);
    // Short enough to see `stop` soon; the port's own deadlines are looked at each time.
    let timeout = Timespec {
        tv_sec: 0,
        tv_nsec: 5_000_000,
    };
    while !stop.load(Ordering::Relaxed) {
        events.clear();
        let _ = epoll::wait(
            epoll,
            rustix::buffer::spare_capacity(&mut events),
            Some(&timeout),
        );
        let now = clock.now();
        let mut port = port.lock().unwrap();
        for event in &events {
            match Source::from_token(event.data.u64()) {
                Some((_, source)) => port.on_ready(source, now),
                None => {
                    bell.silence();
                    port.on_bell(now);
                }
            }
        }
        port.on_deadline(now);
    }
    port.lock().unwrap().close(clock.now());
}

const SCRIPTS: [Script; 4] = [
    Script::Modern,
    Script::Qemu,
    Script::CloudHypervisor,
    Script::Bare,
];

#[test]
fn every_script_starts_its_rings_enabled() {
    for script in SCRIPTS {
        let served = Served::start(1, Endpoint::Listen);
        let guest = Guest::builder()
            .script(script)
            .connect(&served.path)
            .unwrap();
        let status = served.running(2);
        assert_eq!(status.last_fault, None, "{script:?}");
        assert!(
            status.rings.iter().all(|ring| ring.problem.is_none()),
            "{script:?}"
        );
        drop(guest);
        served.until(|status| status.state == PortState::Waiting && status.rings.is_empty());
    }
}

#[test]
fn every_script_with_eight_pairs_and_memory_in_many_pieces() {
    for script in SCRIPTS.into_iter().filter(|script| *script != Script::Bare) {
        let served = Served::start(8, Endpoint::Listen);
        let _guest = Guest::builder()
            .script(script)
            .queues(8)
            .regions(8)
            .connect(&served.path)
            .unwrap();
        let status = served.running(16);
        assert!(status.memory_regions >= 8, "{script:?}");
    }
}

#[test]
fn every_script_in_the_other_direction() {
    for script in SCRIPTS {
        let served = Served::start(1, Endpoint::Connect);
        let _guest = Guest::builder()
            .script(script)
            .listen(&served.path)
            .unwrap();
        served.running(2);
    }
}

#[test]
fn legacy_and_plain_drivers_start() {
    let served = Served::start(1, Endpoint::Listen);
    for builder in [
        Guest::builder().legacy(),
        Guest::builder()
            .without(feature::EVENT_IDX)
            .without(feature::MRG_RXBUF),
        Guest::builder().without_calls(),
        Guest::builder().protocol(0),
        Guest::builder().protocol(protocol::REPLY_ACK),
        Guest::builder().ring_size(2),
        Guest::builder().ring_size(32768),
    ] {
        let _guest = builder.connect(&served.path).unwrap();
        let status = served.running(2);
        assert_eq!(status.last_fault, None);
    }
}

#[test]
fn a_guest_stops_resumes_reboots_and_comes_back() {
    for script in SCRIPTS {
        let served = Served::start(1, Endpoint::Listen);
        let mut guest = Guest::builder()
            .script(script)
            .connect(&served.path)
            .unwrap();
        served.running(2);
        let bases = guest.stop().unwrap();
        served.until(|status| status.state == PortState::Negotiating);
        guest.resume(&bases).unwrap();
        served.running(2);
        guest.reboot(guest.features()).unwrap();
        served.running(2);
        guest.disconnect();
        guest.reconnect().unwrap();
        let status = served.running(2);
        assert_eq!(status.last_fault, None, "{script:?}");
        assert_eq!(status.counters.events.connections, 2, "{script:?}");
        assert_eq!(status.counters.events.connections_refused, 0, "{script:?}");
    }
}
