//! F-10: guests have the switch touch memory that nobody has touched, while the switch is in a control group with a bound.
//!
//! The kernel charges a page of shared memory to the control group of whoever touches it first, and it stays charged as long as
//! the file is there. A guest whose receive buffers lie on such pages, or whose frames do, so has its memory charged to the switch.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use portcullis::guest::{
    Buffer, FrontEnd, Guest, Memory, Queue, RingLayout, Script, Shape, Used, VnetHeader, feature,
    protocol,
};

use crate::rig::{PATIENCE, Switch, Victims, frame, long, mac, until};

const PAGE: u64 = 4096;
const RING: u16 = 512;
/// More memory than a guest of `Guest::builder` has.
const ORDINARY: u64 = 24 << 20;
/// Charges are counted in batches for each processor, and mappings have page tables, which go when somebody finds the time.
const BLUR: u64 = 16 << 20;

const A: &str = "mac = \"52:54:00:00:00:0a\"";
const B: &str = "mac = \"52:54:00:00:00:0b\"";
const MALLORY: &str = "mac = \"52:54:00:00:00:42\"";
const WITNESS: &str = "mac = \"52:54:00:00:00:4d\"";
const PORTS: [(&str, &str); 4] = [
    ("a", A),
    ("b", B),
    ("mallory", MALLORY),
    ("witness", WITNESS),
];

/// A memory control group below that of the test, or below one around it; removed when dropped, after the switch in it.
struct Group {
    path: PathBuf,
    is_first_version: bool,
}

impl Group {
    /// None where no such group may be made, which is said.
    fn bounded(bytes: u64) -> Option<Self> {
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let found = own.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            let is_first_version = controllers.split(',').any(|name| name == "memory");
            let root = Path::new("/sys/fs/cgroup");
            let root = match (is_first_version, controllers) {
                (true, _) => root.join("memory"),
                (false, "") => root.to_owned(),
                (false, _) => return None,
            };
            let mut around = Path::new(path.trim_start_matches('/')).ancestors();
            around.find_map(|parent| Self::make(&root.join(parent), is_first_version, bytes))
        });
        if found.is_none() {
            eprintln!("no memory control group may be made here: not tried");
        }
        found
    }

    fn make(parent: &Path, is_first_version: bool, bytes: u64) -> Option<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("portcullis-f10-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).ok()?;
        let group = Self {
            path,
            is_first_version,
        };
        std::fs::write(
            group.file("memory.limit_in_bytes", "memory.max"),
            bytes.to_string(),
        )
        .ok()?;
        let mut enter = Command::new("sh");
        enter.args(["-c", "echo $$ >\"$0/cgroup.procs\""]);
        let entered = enter.arg(&group.path).output().unwrap();
        entered.status.success().then_some(group)
    }

    fn file(&self, first: &str, second: &str) -> PathBuf {
        let name = if self.is_first_version { first } else { second };
        self.path.join(name)
    }

    /// Bytes charged to it now.
    fn charged(&self) -> u64 {
        let file = self.file("memory.usage_in_bytes", "memory.current");
        let text = std::fs::read_to_string(file).unwrap();
        text.trim().parse().unwrap()
    }

    /// Processes in it that the kernel has ended for its bound.
    fn ended(&self) -> u64 {
        let file = self.file("memory.oom_control", "memory.events");
        let text = std::fs::read_to_string(file).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.unwrap().parse().unwrap()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let removed = std::fs::remove_dir(&self.path);
        if !std::thread::panicking() {
            removed.unwrap();
        }
    }
}

/// The bound that docs/configuration.md gives for guests of so much memory.
fn documented_bound(guests: u64) -> u64 {
    guests + guests / 128 + (64 << 20) + PORTS.len() as u64 * (256 << 10)
}

/// A guest that touches nothing of its memory but its rings.
struct Aloof {
    _front_end: FrontEnd,
    memory: Arc<Memory>,
    rx: Queue,
    tx: Queue,
    /// The next page that nobody has touched.
    next: u64,
    used: Vec<Used>,
}

impl Aloof {
    /// With `size` bytes of memory, a multiple of 2 MiB.
    fn plug(switch: &Switch, port: &str, size: u64, touch_first: bool) -> Self {
        let memory = Memory::flat(size).unwrap();
        if touch_first {
            memory.poison(&[0x55]);
        }
        let mut front_end = FrontEnd::connect(&switch.socket(port), PATIENCE).unwrap();
        let wanted = feature::MODERN & !feature::OFFLOADS;
        front_end
            .negotiate(Script::Modern, wanted, protocol::REPLY_ACK)
            .unwrap();
        let rx = RingLayout::at(PAGE, RING);
        let tx = RingLayout::at(rx.end().next_multiple_of(PAGE), RING);
        let queue = |layout| Queue::new(&memory, layout, front_end.features()).unwrap();
        let next = tx.end().next_multiple_of(PAGE);
        let (rx, tx) = (queue(rx), queue(tx));
        let rings = [rx.setup(0, 0), tx.setup(1, 0)];
        front_end.start(Script::Modern, &memory, &rings).unwrap();
        switch.await_state(port, "running");
        Self {
            _front_end: front_end,
            memory,
            rx,
            tx,
            next,
            used: Vec::new(),
        }
    }

    /// How many of its pages were not named yet.
    fn left(&self) -> u64 {
        let end: u64 = self.memory.regions().map(|region| region.size).sum();
        (end - self.next) / PAGE
    }

    fn page(&mut self) -> u64 {
        let page = self.next;
        self.next += PAGE;
        page
    }

    /// Offers a receive buffer on each of a ring's worth of pages.
    fn offer(&mut self) {
        for _ in 0..RING {
            let gpa = self.page();
            let buffer = Buffer {
                gpa,
                len: 2048,
                write: true,
            };
            self.rx.add(&[buffer], 0).unwrap();
        }
        self.rx.publish().unwrap();
        self.rx.kick().unwrap();
    }

    /// Takes them back when all were used.
    fn take_back(&mut self) {
        until("used receive buffers", || {
            (self.rx.pending().unwrap() == RING).then_some(())
        });
        self.used.clear();
        self.rx.reap(usize::from(RING), &mut self.used).unwrap();
        assert!(self.used.iter().all(|used| used.len == 12 + 60));
    }

    /// Sends a frame from each of a ring's worth of pages, whatever lies there.
    fn send(&mut self) {
        for _ in 0..RING {
            let gpa = self.page();
            let buffer = Buffer {
                gpa,
                len: 12 + 60,
                write: false,
            };
            self.tx.add(&[buffer], 0).unwrap();
        }
        self.tx.publish().unwrap();
        self.tx.kick().unwrap();
    }

    /// Whether all of them were read.
    fn was_sent(&mut self) -> bool {
        if self.tx.pending().unwrap() < RING {
            return false;
        }
        self.used.clear();
        self.tx.reap(usize::from(RING), &mut self.used).unwrap();
        true
    }
}

/// Fills a ring's worth of a guest's receive buffers.
fn flood(witness: &mut Guest) {
    let bytes = frame(mac(0x42), mac(0x4d), b"yours");
    for _ in 0..RING / 128 {
        for _ in 0..128 {
            witness
                .queue_frame(0, VnetHeader::default(), &bytes, &Shape::Together)
                .unwrap();
        }
        witness.flush(0).unwrap();
        assert!(witness.drain(PATIENCE).unwrap());
    }
}

/// Half of a guest's pages are received into and half are sent from; how many each.
fn attack(mallory: &mut Aloof, witness: &mut Guest, victims: &mut Victims) -> u64 {
    let rings = mallory.left() / u64::from(RING) / 2;
    for _ in 0..rings {
        mallory.offer();
        flood(witness);
        mallory.take_back();
        mallory.send();
        victims.talk(4);
        until("sent frames", || mallory.was_sent().then_some(()));
    }
    rings * u64::from(RING)
}

/// Under the bound that is documented all of the guests' memory may be charged to the switch: it goes on, others lose nothing,
/// and what a guest brought goes with it. What a guest has touched before is not charged to the switch at all.
#[test]
fn f_10_memory_charged_to_the_switch_fits_the_documented_bound() {
    let (size, rounds) = if long() {
        (1 << 30, 20)
    } else {
        (128 << 20, 2)
    };
    let Some(group) = Group::bounded(documented_bound(3 * ORDINARY + size)) else {
        return;
    };
    let mut switch = Switch::within(Some(group.path.clone()), "", &PORTS);
    let mut victims = Victims::plug(&switch, "a", "b");
    let mut witness = switch.guest("witness", mac(0x4d));
    for guest in [&victims.a, &victims.b, &witness] {
        let sizes = guest.memory().regions().map(|region| region.size);
        assert!(sizes.sum::<u64>() <= ORDINARY);
    }
    let mut pages = 0;
    for round in 0..rounds {
        let before = group.charged();
        let mut mallory = Aloof::plug(&switch, "mallory", size, false);
        let touched = attack(&mut mallory, &mut witness, &mut victims);
        pages += touched;
        let charged = group.charged();
        assert!(
            charged + BLUR >= before + 2 * touched * PAGE,
            "round {round}: {before} bytes before, {charged} after {touched} pages each way"
        );
        // It stays after the connection, for as long as somebody keeps the file.
        let file = Arc::clone(&mallory.memory);
        drop(mallory);
        switch.await_state("mallory", "waiting");
        let charged = group.charged();
        assert!(charged + BLUR >= before + 2 * touched * PAGE, "{charged}");
        drop(file);
        until("what was charged to go with its guest", || {
            (group.charged() <= before + BLUR).then_some(())
        });
        let mut mallory = Aloof::plug(&switch, "mallory", size, true);
        pages += attack(&mut mallory, &mut witness, &mut victims);
        let charged = group.charged();
        assert!(
            charged <= before + BLUR,
            "round {round}: {before} bytes before, {charged} after, of what the guest had touched"
        );
        drop(mallory);
        switch.await_state("mallory", "waiting");
    }
    assert!(switch.is_alive());
    assert_eq!(group.ended(), 0);
    let books = switch.books("mallory");
    assert_eq!(
        (books.offered, books.delivered),
        (pages, pages),
        "{books:?}"
    );
    assert_eq!((books.received, books.dropped), (pages, pages), "{books:?}");
    let books = switch.books("witness");
    assert_eq!(
        (books.received, books.forwarded),
        (pages, pages),
        "{books:?}"
    );
    for victim in ["a", "b"] {
        let books = switch.books(victim);
        assert_eq!((books.dropped, books.undelivered), (0, 0), "{books:?}");
        assert_eq!(books.received, books.delivered, "{books:?}");
    }
    let log = switch.log();
    assert!(log.contains("has a bound of memory"), "{log}");
    assert!(!log.contains("guests share more memory"), "{log}");
    drop(switch);
}

/// Under less it is told as soon as such a guest is there, and it is no false alarm: the guest has the kernel end the switch.
/// A new one serves the others.
#[test]
fn f_10_a_bound_below_the_guests_memory_is_warned_of() {
    let Some(group) = Group::bounded(96 << 20) else {
        return;
    };
    let mut switch = Switch::within(Some(group.path.clone()), "", &PORTS);
    let log = switch.log();
    assert!(log.contains("bound_mib=96 room_mib=30"), "{log}");
    let mut mallory = Aloof::plug(&switch, "mallory", 192 << 20, false);
    let log = switch.log();
    assert!(log.contains("guests share more memory"), "{log}");
    assert!(
        log.contains("port=\"mallory\" bound_mib=96 room_mib=30 guests_mib=192"),
        "{log}"
    );
    let status = 'end: loop {
        assert!(mallory.left() >= u64::from(RING), "nothing came of it");
        mallory.send();
        loop {
            if let Some(status) = switch.ended() {
                break 'end status;
            }
            if mallory.was_sent() {
                break;
            }
        }
    };
    assert_eq!(status.signal(), Some(9), "{status}");
    assert_eq!(group.ended(), 1);
    drop(mallory);
    switch.run();
    Victims::plug(&switch, "a", "b").talk(100);
    drop(switch);
}
