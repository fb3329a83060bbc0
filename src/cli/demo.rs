//! `portcullis demo`: a switch with guests in software, on real sockets, and what becomes of an attacker.
//!
//! Everything here is what it shows: the switch is the one that `run` starts, the guests are front-ends of their own with
//! rings of their own, and the demonstration fails when a promise does not hold.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, IsTerminal as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{Failure, print, table};
use crate::config::{self, Overrides};
use crate::control::{AskError, PortReport, Question, SwitchReport, ask};
use crate::counters::DropReason;
use crate::daemon::{Switch, stop_on_signals};
use crate::guest::{self, Descriptor, Guest};

/// The configuration that the demonstration runs.
const CONFIG: &str = include_str!("../../examples/demo.toml");
/// Clears the terminal and goes to its first place (ECMA-48: ED, CUP).
const CLEAR: &str = "\x1b[2J\x1b[H";
/// Between two bursts of a talking guest.
const PACE: Duration = Duration::from_millis(1);
/// Frames in such a burst.
const BURST: usize = 16;

/// Arguments of `portcullis demo`.
#[derive(Debug, clap::Args)]
pub(super) struct DemoArgs {
    /// How long it runs; 0: until Ctrl-C
    #[arg(long, default_value_t = 10)]
    seconds: u64,
}

/// Why the demonstration failed.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The directory for its sockets.
    #[error("{}: cannot make a directory for the sockets; set TMPDIR to one where this user may write", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A guest did not get through to the switch.
    #[error("guest \"{name}\" failed")]
    Guest {
        /// Which.
        name: &'static str,
        /// Why.
        #[source]
        source: guest::Error,
    },
    /// What it shows is not so.
    #[error("a promise does not hold: {0}; please report it, see SECURITY.md")]
    Promise(String),
}

/// What the guests have to say for themselves.
#[derive(Debug, Default)]
struct Stage {
    over: AtomicBool,
    knocks: AtomicU64,
    attacks: AtomicU64,
    trespassers: AtomicU64,
}

impl Stage {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

/// A directory that goes when it is dropped.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Result<Self, DemoError> {
        let path = std::env::temp_dir().join(format!("portcullis-demo-{}", std::process::id()));
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => Ok(Self(path)),
            Err(source) => Err(DemoError::Directory { path, source }),
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What cannot be removed is a few stale sockets in a temporary directory.
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(super) fn demo(args: &DemoArgs) -> Result<(), Failure> {
    let directory = Directory::new()?;
    let text = CONFIG.replace("DIR", &directory.0.display().to_string());
    let spec = config::from_text(
        Some(Path::new("examples/demo.toml")),
        &text,
        &Overrides::default(),
    )?;
    let mut switch = Switch::start(&spec)?;
    let stopper = switch.stopper();
    stop_on_signals(&stopper)?;
    let stage = Stage::default();
    let end = (args.seconds > 0).then(|| Instant::now() + Duration::from_secs(args.seconds));
    thread::scope(|scope| {
        let running = scope.spawn(|| {
            let result = switch.run();
            stage.over.store(true, Ordering::Relaxed);
            result
        });
        let cast = cast(scope, &directory.0, &stage);
        let shown = show(&spec.control, &stage, end);
        stage.over.store(true, Ordering::Relaxed);
        let mut results = vec![shown];
        for (name, guest) in cast {
            let ended = guest.join().unwrap_or(Err(guest::Error::Protocol(
                "its thread panicked".to_owned(),
            )));
            results.push(ended.map_err(|source| DemoError::Guest { name, source }.into()));
        }
        stopper.stop();
        if let Ok(ended) = running.join() {
            results.push(ended.map_err(Failure::from));
        }
        results.into_iter().collect()
    })
}

type Actor<'scope> = (
    &'static str,
    thread::ScopedJoinHandle<'scope, guest::Result<()>>,
);

/// Sends every guest on stage.
fn cast<'scope, 'env>(
    scope: &'scope thread::Scope<'scope, 'env>,
    directory: &'env Path,
    stage: &'env Stage,
) -> Vec<Actor<'scope>> {
    let socket = |name: &str| directory.join(format!("{name}.sock"));
    let plain = |n: u8| Guest::builder().mac(mac(n));
    let talks: [(&'static str, guest::Builder, u8, u8); 5] = [
        ("web", plain(1).offloads(), 1, 2),
        ("db", plain(2).offloads(), 2, 1),
        ("tenant-a", plain(3), 3, 1),
        ("tenant-b", plain(4), 4, 1),
        ("old", plain(5).legacy(), 5, 1),
    ];
    let mut actors: Vec<Actor<'scope>> = talks
        .into_iter()
        .map(|(name, builder, me, peer)| {
            let path = socket(name);
            (
                name,
                scope.spawn(move || talk(builder.connect(path)?, me, peer, stage)),
            )
        })
        .collect();
    let path = socket("mallory");
    actors.push(("mallory", scope.spawn(move || attack(&path, stage))));
    actors
}

const fn mac(n: u8) -> [u8; 6] {
    [0x52, 0x54, 0, 0, 0, n]
}

/// A frame of an experimental type.
fn frame(to: u8, from: u8, len: usize) -> Vec<u8> {
    let mut frame = [&mac(to)[..], &mac(from), &[0x88, 0xb5]].concat();
    frame.resize(len, from);
    frame
}

/// Talks to a peer, reads what comes, and, if it is the first tenant, knocks at the second.
fn talk(mut guest: Guest, me: u8, peer: u8, stage: &Stage) -> guest::Result<()> {
    let (short, long) = (frame(peer, me, 60), frame(peer, me, 1514));
    while !stage.is_over() {
        for count in 0..BURST {
            let bytes = if count.is_multiple_of(4) {
                &long
            } else {
                &short
            };
            let queued = guest.queue_frame(
                0,
                guest::VnetHeader::default(),
                bytes,
                &guest::Shape::Together,
            );
            if !unless_full(queued)? {
                break;
            }
        }
        guest.flush(0)?;
        if me == 3 && unless_full(guest.send(&frame(4, 3, 60)))? {
            stage.knocks.fetch_add(1, Ordering::Relaxed);
        }
        while let Some(got) = guest.try_recv()? {
            if me == 4 && got.bytes.get(6..12) == Some(&mac(3)[..]) {
                stage.trespassers.fetch_add(1, Ordering::Relaxed);
            }
        }
        thread::sleep(PACE);
    }
    Ok(())
}

/// Whether there was room. On a busy machine the switch may wait for a processor while a guest goes on: its ring
/// fills, and it tries again later, as any driver does.
fn unless_full(sent: guest::Result<()>) -> guest::Result<bool> {
    match sent {
        Ok(()) => Ok(true),
        Err(guest::Error::Full { .. }) => Ok(false),
        Err(other) => Err(other),
    }
}

/// Attacks again and again: chains that lead nowhere, an index that jumps, memory taken away.
fn attack(socket: &Path, stage: &Stage) -> guest::Result<()> {
    while !stage.is_over() {
        // After several faults the switch looks away for a while: not being let in is part of the play.
        let Ok(mut guest) = Guest::builder()
            .mac(mac(66))
            .timeout(Duration::from_secs(1))
            .connect(socket)
        else {
            thread::sleep(Duration::from_millis(100));
            continue;
        };
        let nowhere = Descriptor {
            addr: 1 << 60,
            len: 64,
            flags: 0,
            next: 0,
        };
        let queue = guest.tx(0);
        for _ in 0..100 {
            queue.add_raw(&[nowhere], 0)?;
        }
        queue.publish()?;
        queue.kick_always()?;
        pause(stage, 1_000);
        if stage
            .attacks
            .fetch_add(1, Ordering::Relaxed)
            .is_multiple_of(2)
        {
            let index = guest.tx(0).ring().avail_idx()?;
            guest
                .tx(0)
                .ring()
                .set_avail_idx(index.wrapping_add(40_000))?;
        } else if guest.memory().file(0).set_len(0).is_err() {
            continue;
        }
        // The memory may be gone: from here on its file is not touched on this side, only the eventfd.
        guest.tx(0).kick_always()?;
        pause(stage, 1_500);
    }
    Ok(())
}

/// Waits, but not beyond the end.
fn pause(stage: &Stage, millis: u64) {
    let end = Instant::now() + Duration::from_millis(millis);
    while !stage.is_over() && Instant::now() < end {
        thread::sleep(Duration::from_millis(20));
    }
}

/// The live table, until the end; then the verdict.
fn show(control: &Path, stage: &Stage, end: Option<Instant>) -> Result<(), Failure> {
    let clear = if io::stdout().is_terminal() {
        CLEAR
    } else {
        ""
    };
    let mut last = report(control)?;
    while !stage.is_over() && end.is_none_or(|end| Instant::now() < end) {
        pause(stage, 1_000);
        if stage.is_over() {
            break;
        }
        last = report(control)?;
        print(&format!(
            "{clear}{}\n{}\n",
            table::render(&last),
            remarks(&last, stage)
        ))?;
    }
    verdict(&last, stage)?;
    print(&plug_in())
}

fn report(control: &Path) -> Result<SwitchReport, Failure> {
    let value = ask(control, &Question::Status)?;
    serde_json::from_value(value).map_err(|source| {
        AskError::Strange {
            path: control.to_owned(),
            source,
        }
        .into()
    })
}

fn port<'r>(report: &'r SwitchReport, name: &str) -> Option<&'r PortReport> {
    report.ports.iter().find(|port| port.status.name == name)
}

/// What to look at.
fn remarks(report: &SwitchReport, stage: &Stage) -> String {
    let mut text = String::new();
    let knocks = stage.knocks.load(Ordering::Relaxed);
    let refused = port(report, "tenant-a").map_or(0, |port| {
        port.status
            .counters
            .ingress
            .dropped
            .get(DropReason::Unreachable)
    });
    let _ = writeln!(
        text,
        "tenant-a has knocked at tenant-b {knocks} times; refused as unreachable: {refused}"
    );
    if let Some(mallory) = port(report, "mallory") {
        let why = mallory
            .status
            .why
            .as_deref()
            .or(mallory.status.last_fault.as_deref())
            .unwrap_or("nothing yet");
        let faults = mallory.status.counters.events.faults;
        let _ = writeln!(
            text,
            "mallory is {}; {faults} faults, the last: {why}",
            mallory.status.state.name()
        );
    }
    text
}

/// Whether what was shown is what was promised.
fn verdict(report: &SwitchReport, stage: &Stage) -> Result<(), DemoError> {
    let broken = |what: String| Err(DemoError::Promise(what));
    if stage.trespassers.load(Ordering::Relaxed) > 0 {
        return broken("tenant-b heard tenant-a".to_owned());
    }
    for name in ["web", "db", "tenant-b", "old"] {
        let Some(port) = port(report, name) else {
            return broken(format!("port {name} is gone"));
        };
        let counters = &port.status.counters;
        if counters.ingress.forwarded == 0 || counters.events.faults > 0 {
            return broken(format!("{name} suffered: {counters:?}"));
        }
    }
    Ok(())
}

fn plug_in() -> String {
    "To plug in a QEMU guest, start a switch and give QEMU its port's socket:\n\
     \n  portcullis run --port web=/tmp/web.sock --port db=/tmp/db.sock\n\
     \n  qemu-system-x86_64 ... -object memory-backend-memfd,id=m,size=1G,share=on -machine memory-backend=m \\\n    \
     -chardev socket,id=c,path=/tmp/web.sock,reconnect=1 -netdev vhost-user,id=n,chardev=c \\\n    \
     -device virtio-net-pci,netdev=n,mac=52:54:00:00:00:01\n\
     \nexamples/qemu-demo boots real guests with one command.\n"
        .to_owned()
}
