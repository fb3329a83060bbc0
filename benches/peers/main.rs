//! Portcullis beside DPDK's testpmd (no lookup at all) and Open vSwitch with DPDK (NORMAL): the same load, on the same
//! two processors, in turn.
//!
//! ```sh
//! cargo bench --bench peers                              # everything, some 7 minutes
//! cargo bench --bench peers -- forward --rounds 5 --seconds 5
//! cargo bench --bench peers -- policy                    # what a policy costs, and Open vSwitch's connection tracking
//! cargo bench --bench peers -- many idle resume
//! ```
//!
//! The load runs on processor 0 and the switch's worker on processor 1; nothing else should run. A run during which others
//! took more than 2 % of the two is marked `*` and left out of the medians where there are better ones. Ratios of
//! one invocation count; absolute figures do not repeat on shared machines. The load generator has a limit of its
//! own, which the row `the load` shows: the same load against a back-end that moves descriptors only. Where a figure comes near
//! it, or the worker's busy share (the last column) is well below 100 %, the generator was the limit, and the cycles a frame are to be
//! compared instead.
//!
//! The peers come from Debian (`dpdk-dev`, `openvswitch-switch-dpdk`) and need root for huge pages, which are given
//! back. One that is missing is skipped and named. Without `--bench` (as `cargo test --benches` runs it) Portcullis alone is
//! driven, 0.3 s a case, to show that this bench still works.
#![expect(clippy::print_stdout, reason = "a bench reports on standard output")]

mod descriptors;
mod machine;
mod resume;
mod rules;
mod switches;

use std::fmt;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use clap::Parser;
use machine::{HugePages, Watch};
use portcullis::guest::Guest;
use serde_json::Value;
use switches::{Kind, Ours, Switch};

type Failure = Box<dyn std::error::Error>;

/// Portcullis beside its peers.
#[derive(Parser)]
struct Arguments {
    /// What to measure: forward, policy, many, idle, resume [default: all]
    parts: Vec<String>,
    /// Runs of each case with each switch
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of each run
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Once and short, without the peers
    #[arg(long)]
    test: bool,
    /// Be the back-end that moves descriptors only, on these two sockets
    #[arg(long, hide = true)]
    descriptors: Vec<PathBuf>,
    /// On processor 1
    #[arg(long, hide = true)]
    pinned: bool,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

/// How long, how often, and whether processors are ours to choose.
struct Conditions {
    rounds: usize,
    seconds: f64,
    pinned: bool,
}

struct Case {
    name: &'static str,
    load: &'static [&'static str],
    /// Whether it is the time of a frame that counts, and not the number of frames.
    latency: bool,
}

const fn case(name: &'static str, load: &'static [&'static str]) -> Case {
    Case {
        name,
        load,
        latency: false,
    }
}

const CASES: [Case; 5] = [
    case("64 B, 256 in flight", &["--size", "64", "--check", "none"]),
    case(
        "256 B, 256 in flight",
        &["--size", "256", "--check", "none"],
    ),
    case(
        "1500 B, 256 in flight",
        &["--size", "1500", "--check", "none"],
    ),
    case(
        "64 B, 32 in flight",
        &["--size", "64", "--check", "none", "--in-flight", "32"],
    ),
    Case {
        name: "ping-pong, p50 in us",
        load: &["--pattern", "ping-pong"],
        latency: true,
    },
];

static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Ends the bench in good order after SIGINT or SIGTERM: what was changed is restored on the way out.
fn interrupted() -> Result<(), Failure> {
    match INTERRUPTED.get() {
        Some(flag) if flag.load(Ordering::Relaxed) => Err("interrupted".into()),
        _ => Ok(()),
    }
}

fn main() -> Result<(), Failure> {
    let arguments = Arguments::parse();
    if !arguments.descriptors.is_empty() {
        return descriptors::serve(&arguments.descriptors, arguments.pinned);
    }
    let flag = INTERRUPTED.get_or_init(Arc::default);
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(flag))?;
    }
    machine::allow_many_descriptors();
    let test = arguments.test || !arguments.bench;
    let conditions = Conditions {
        rounds: if test { 1 } else { arguments.rounds.max(1) },
        seconds: if test { 0.3 } else { arguments.seconds },
        pinned: machine::has_two_processors(),
    };
    if !conditions.pinned {
        println!(
            "peers: processors 0 and 1 are not both ours: nothing is pinned, figures mean little"
        );
    }
    let wanted = |name: &str| {
        arguments.parts.is_empty()
            || arguments
                .parts
                .iter()
                .any(|part| name.contains(part.as_str()))
    };
    if wanted("forward") {
        forward(&conditions, test)?;
    }
    if wanted("policy") {
        policy(&conditions, test)?;
    }
    if wanted("many") {
        many(&conditions)?;
    }
    if wanted("idle") {
        idle(&conditions)?;
    }
    if wanted("resume") {
        resume::resume(&conditions)?;
    }
    Ok(())
}

/// Those of `kinds` that can run here; the others are named with the reason.
fn present(all: &[Kind], conditions: &Conditions, test: bool) -> (Vec<Kind>, Option<HugePages>) {
    let is_peer = |kind: &Kind| kind.is_peer();
    let (peers, mut kinds): (Vec<Kind>, Vec<Kind>) = all.iter().partition(|kind| is_peer(kind));
    let skip = |peer: Kind, why: &str| println!("peers: SKIPPED {}: {why}", peer.name());
    for peer in peers {
        if test {
            skip(
                peer,
                "a test of the bench; measure with `cargo bench --bench peers`",
            );
        } else if !conditions.pinned {
            skip(peer, "processors 0 and 1 are needed");
        } else if let Some((program, package)) = peer.missing() {
            skip(peer, &format!("no {program}; install Debian's {package}"));
        } else {
            kinds.push(peer);
        }
    }
    let mut pages = None;
    if kinds.iter().any(|kind| kind.is_peer()) {
        match HugePages::reserve() {
            Ok(reserved) => pages = Some(reserved),
            Err(error) => {
                for peer in kinds.extract_if(.., |kind| kind.is_peer()) {
                    skip(peer, &error.to_string());
                }
            }
        }
    }
    (kinds, pages)
}

/// One run.
#[derive(Clone, Copy)]
struct Run {
    /// Mpps, or microseconds where latency counts.
    figure: f64,
    /// Cycles that the worker spent on a frame.
    cycles: Option<f64>,
    /// The share of the time that the worker had frames; of ours only.
    busy: Option<f64>,
    /// The share of the processors that others took.
    others: f64,
}

impl Run {
    fn disturbed(&self) -> bool {
        self.others > machine::TOLERATED
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2}", self.figure)?;
        if self.disturbed() {
            write!(f, " * (others used {:.0} %)", self.others * 100.0)?;
        }
        Ok(())
    }
}

/// A run with a fresh switch.
fn run(kind: Kind, case: &Case, conditions: &Conditions) -> Result<Run, Failure> {
    let mut switch = Switch::start(kind, 2, conditions.pinned)?;
    let before = efforts(&switch)?;
    let watch = Watch::start(&switch.pids());
    let report = load(&switch, case, conditions)?;
    let others = watch.others();
    let after = efforts(&switch)?;
    let figure = if case.latency {
        report["latency"]["p50"].as_f64()
    } else {
        report["mpps"].as_f64()
    };
    let figure = figure.ok_or("the load reported no figure")?;
    let (mut cycles, mut busy) = (switch.cycles_of_peer(), None);
    if let Some(((frames, spent, nanos), (frames_0, spent_0, nanos_0))) = after.zip(before) {
        let frames = (frames - frames_0).max(1) as f64;
        cycles = Some((spent - spent_0) as f64 / frames);
        // Also of the frames before the measuring began: nanoseconds of a frame times frames a second.
        busy = report["mpps"]
            .as_f64()
            .map(|mpps| (nanos - nanos_0) as f64 / frames * mpps / 1e3);
    }
    Ok(Run {
        figure,
        cycles,
        busy,
        others,
    })
}

/// Frames, busy cycles and busy nanoseconds of our worker so far.
fn efforts(switch: &Switch) -> Result<Option<(u64, u64, u64)>, Failure> {
    if !switch.is_ours() {
        return Ok(None);
    }
    let status = switch.status()?;
    let worker = status.workers.first().ok_or("the switch has no worker")?;
    let effort = &worker.since_start;
    Ok(Some((effort.frames, effort.busy_cycles, effort.busy_nanos)))
}

/// Puts the first two ports under load and waits for the report.
fn load(switch: &Switch, case: &Case, conditions: &Conditions) -> Result<Value, Failure> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.args([
        "load",
        "--json",
        "--duration",
        &conditions.seconds.to_string(),
    ]);
    command.args(["--patience", "20"]);
    for port in switch.ports().iter().take(2) {
        command.arg("--port").arg(port);
    }
    if conditions.pinned {
        command.args(["--cpu", "0"]);
    }
    let output = command.args(case.load).stdin(Stdio::null()).output()?;
    interrupted()?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        return Err(format!("the load: {}: {error}", output.status).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The runs of one case with one switch.
#[derive(Default)]
struct Runs(Vec<Run>);

impl Runs {
    /// The median over the undisturbed runs, or over all if there are none.
    fn median(&self, value: impl Fn(&Run) -> Option<f64>) -> Option<f64> {
        let all_disturbed = self.disturbed();
        let runs = self
            .0
            .iter()
            .filter(|run| all_disturbed || !run.disturbed());
        let mut values: Vec<f64> = runs.filter_map(value).collect();
        values.sort_by(f64::total_cmp);
        match values.len() {
            0 => None,
            len if len % 2 == 1 => Some(values[len / 2]),
            len => Some(f64::midpoint(values[len / 2 - 1], values[len / 2])),
        }
    }

    fn disturbed(&self) -> bool {
        self.0.iter().all(Run::disturbed)
    }

    fn figure(&self) -> Option<f64> {
        self.median(|run| Some(run.figure))
    }

    fn cycles(&self) -> Option<f64> {
        self.median(|run| run.cycles)
    }
}

fn forward(conditions: &Conditions, test: bool) -> Result<(), Failure> {
    let kinds = [
        Kind::Portcullis(Ours::Plain),
        Kind::Portcullis(Ours::Always),
        Kind::Descriptors,
        Kind::Testpmd,
        Kind::Ovs,
    ];
    let (kinds, _pages) = present(&kinds, conditions, test);
    let table = measure(&kinds, CASES.iter(), conditions)?;
    println!(
        "\nMpps closed loop in both directions, medians of {} runs of {} s; ratios are ours to theirs\n\n{:<22} {:<10} \
         {:>8}  {:>9} {:>8}   {:>12} {:>7} {:>6}\n{}",
        conditions.rounds,
        conditions.seconds,
        "case",
        "switch",
        "figure",
        "/testpmd",
        "/OVS",
        "cycles/frame",
        "ratio",
        "busy %",
        "-".repeat(91)
    );
    for (case, results) in &table {
        print_case(case, &kinds, results);
    }
    println!(
        "\n* others used the processors during every run. Ratio: our cycles a frame to theirs. `the load` is the limit of the \
         generator: a back-end that moves descriptors and no byte of a frame."
    );
    Ok(())
}

/// What ten stateful rules cost, of no policy and of Open vSwitch's.
fn policy(conditions: &Conditions, test: bool) -> Result<(), Failure> {
    let kinds = [
        Kind::Portcullis(Ours::Open),
        Kind::Portcullis(Ours::Plain),
        Kind::Portcullis(Ours::Rules),
        Kind::OvsRules,
    ];
    let (kinds, _pages) = present(&kinds, conditions, test);
    let many_flows = case(
        "64 B, 1,000 flows",
        &[
            "--size",
            "64",
            "--check",
            "none",
            "--flows",
            "1000",
            "--ring-size",
            "1024",
        ],
    );
    let cases = CASES.iter().filter(|case| !case.latency);
    let cases = cases.chain([&many_flows]);
    let table = measure(&kinds, cases, conditions)?;
    println!(
        "\npolicy: Mpps closed loop in both directions, medians of {} runs of {} s; cycles a frame beside no policy; Mpps beside \
         Open vSwitch with connection tracking and the same ten rules\n\n{:<22} {:<10} {:>8}   {:>12} {:>9} {:>8} {:>6}\n{}",
        conditions.rounds,
        conditions.seconds,
        "case",
        "switch",
        "figure",
        "cycles/frame",
        "/none",
        "/OVS ct",
        "busy %",
        "-".repeat(82)
    );
    for (case, results) in &table {
        let of = |wanted: Kind| {
            let at = kinds.iter().position(|kind| *kind == wanted)?;
            results.get(at)
        };
        for (kind, runs) in kinds.iter().zip(results) {
            let beside_none = || {
                let none = of(Kind::Portcullis(Ours::Open))?.cycles()?;
                kind.is_ours().then_some(runs.cycles()? / none)
            };
            let beside_ovs = || {
                let ratio = runs.figure()? / of(Kind::OvsRules)?.figure()?;
                kind.is_ours().then_some(ratio)
            };
            println!(
                "{:<22} {:<10} {:>8}{}  {:>12} {:>9} {:>8} {:>6}",
                if *kind == kinds[0] { case } else { "" },
                kind.name(),
                shown(runs.figure(), 2),
                if runs.disturbed() { '*' } else { ' ' },
                shown(runs.cycles(), 0),
                shown(beside_none(), 2),
                shown(beside_ovs(), 2),
                shown(runs.median(|run| run.busy.map(|busy| busy * 100.0)), 0)
            );
        }
    }
    Ok(())
}

/// The results of one case, switch by switch.
type Results = (&'static str, Vec<Runs>);

/// Every case with every switch, in turn.
fn measure<'a>(
    kinds: &[Kind],
    cases: impl Iterator<Item = &'a Case>,
    conditions: &Conditions,
) -> Result<Vec<Results>, Failure> {
    let mut table = vec![];
    for case in cases {
        let mut results: Vec<Runs> = kinds.iter().map(|_| Runs::default()).collect();
        for _ in 0..conditions.rounds {
            for (kind, runs) in kinds.iter().zip(&mut results) {
                if case.latency && *kind == Kind::Descriptors {
                    continue; // its frames hold no times
                }
                let run = run(*kind, case, conditions)
                    .map_err(|error| format!("{}, {}: {error}", case.name, kind.name().trim()))?;
                println!("  {}, {}: {run}", case.name, kind.name().trim());
                runs.0.push(run);
            }
        }
        table.push((case.name, results));
    }
    Ok(table)
}

fn print_case(case: &str, kinds: &[Kind], results: &[Runs]) {
    let of = |wanted: Kind| {
        let at = kinds.iter().position(|kind| *kind == wanted)?;
        results.get(at)
    };
    let ours = of(Kind::Portcullis(Ours::Plain));
    for (kind, runs) in kinds.iter().zip(results) {
        let against = |peer: Kind| {
            let ratio = runs.figure()? / of(peer)?.figure()?;
            kind.is_ours().then_some(ratio)
        };
        let cheaper = || {
            let ratio = ours?.cycles()? / runs.cycles()?;
            kind.is_peer().then_some(ratio)
        };
        let name = if *kind == kinds[0] { case } else { "" };
        println!(
            "{name:<22} {:<10} {:>8}{} {:>9} {:>8}   {:>12} {:>7} {:>6}",
            kind.name(),
            shown(runs.figure(), 2),
            if runs.disturbed() { '*' } else { ' ' },
            shown(against(Kind::Testpmd), 2),
            shown(against(Kind::Ovs), 2),
            shown(runs.cycles(), 0),
            shown(cheaper(), 2),
            shown(runs.median(|run| run.busy.map(|busy| busy * 100.0)), 0)
        );
    }
}

fn shown(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".into(), |value| format!("{value:.digits$}"))
}

/// Idle guests on ports `from` and up.
fn idle_guests(switch: &Switch, from: usize) -> Result<Vec<Guest>, Failure> {
    let ports = switch.ports().iter().enumerate().skip(from);
    let guest = |(n, port)| -> Result<Guest, Failure> {
        let [high, low] = u16::try_from(n)?.to_be_bytes();
        Ok(Guest::builder()
            .mac([0x52, 0x54, 0, 1, high, low])
            .connect(port)?)
    };
    ports.map(guest).collect()
}

/// Two guests under load on a switch of 256 with the others idle, against the two alone.
fn many(conditions: &Conditions) -> Result<(), Failure> {
    let mut results = [Runs::default(), Runs::default()];
    for _ in 0..conditions.rounds {
        for (runs, ports) in results.iter_mut().zip([2, 256]) {
            let switch = Switch::start(Kind::Portcullis(Ours::Plain), ports, conditions.pinned)?;
            let idle = idle_guests(&switch, 2)?;
            let watch = Watch::start(&switch.pids());
            let report = load(&switch, &CASES[0], conditions)?;
            let others = watch.others();
            drop((idle, switch));
            let figure = report["mpps"]
                .as_f64()
                .ok_or("the load reported no figure")?;
            let run = Run {
                figure,
                cycles: None,
                busy: None,
                others,
            };
            println!("  {ports} ports: {run}");
            runs.0.push(run);
        }
    }
    let [two, all] = &results;
    println!(
        "\nmany: {}; 2 guests alone {} Mpps{}, beside 254 idle ones {}{}, ratio {}\n",
        CASES[0].name,
        shown(two.figure(), 2),
        if two.disturbed() { "*" } else { "" },
        shown(all.figure(), 2),
        if all.disturbed() { "*" } else { "" },
        shown(
            all.figure().zip(two.figure()).map(|(all, two)| all / two),
            2
        )
    );
    Ok(())
}

/// What guests cost that say nothing.
fn idle(conditions: &Conditions) -> Result<(), Failure> {
    // The processor time of a process comes in steps of 10 ms.
    let time = Duration::from_secs_f64(conditions.seconds * 3.0);
    for ports in [2, 256] {
        let switch = Switch::start(Kind::Portcullis(Ours::Plain), ports, conditions.pinned)?;
        let guests = idle_guests(&switch, 0)?;
        let pid = switch.pids()[0];
        // The guests' start has been dealt with when the switch has gone to sleep.
        std::thread::sleep(Duration::from_millis(200));
        let (since, before) = (Instant::now(), machine::time_of(pid));
        std::thread::sleep(time);
        let used = machine::time_of(pid).saturating_sub(before);
        let share = used.as_secs_f64() / since.elapsed().as_secs_f64();
        println!(
            "idle: {ports} ports, all with guests: {:.2} % of a processor ({} ms in {:.1} s), {} KiB of private memory",
            share * 100.0,
            used.as_millis(),
            since.elapsed().as_secs_f64(),
            machine::private_kib(pid).map_or_else(|| "?".into(), |kib| kib.to_string())
        );
        std::io::stdout().flush()?;
        drop(guests);
        interrupted()?;
    }
    Ok(())
}
