//! What the machine says of itself in /proc, and what is changed on it for the time of a run.

use std::fs;
use std::time::{Duration, Instant};

use super::Failure;

/// USER_HZ: the unit of times in /proc is fixed at 10 ms on x86-64 and arm64.
const TICK: Duration = Duration::from_millis(10);
/// The switch and the load run on these two.
const CPUS: [&str; 2] = ["cpu0", "cpu1"];
/// The share of the two processors that others may take before a run counts as disturbed.
pub(super) const TOLERATED: f64 = 0.02;

/// Whether processors 0 and 1 are there and ours to use.
pub(super) fn has_two_processors() -> bool {
    rustix::thread::sched_getaffinity(None).is_ok_and(|set| set.is_set(0) && set.is_set(1))
}

/// As many descriptors as we may have: 256 guests need some 2,000.
pub(super) fn allow_many_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: maximum,
        maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        eprintln!("peers: the limit of descriptors stays as it is: {error}");
    }
}

fn ticks(count: u64) -> Duration {
    TICK * u32::try_from(count).unwrap_or(u32::MAX)
}

/// Processor time of `process` in user and kernel mode, and of its children for which it has waited.
fn times(process: &str) -> [Duration; 2] {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name, in parentheses, may hold anything; utime is the 14th field, the 12th after it.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<u64> = rest
        .split_whitespace()
        .skip(11)
        .take(4)
        .map(|field| field.parse().unwrap_or(0))
        .collect();
    match fields[..] {
        [user, system, of_children, of_children_system] => [
            ticks(user + system),
            ticks(of_children + of_children_system),
        ],
        _ => [Duration::ZERO; 2],
    }
}

/// Processor time that process `pid` has used.
pub(super) fn time_of(pid: u32) -> Duration {
    times(&pid.to_string())[0]
}

/// KiB of private memory of process `pid`: RssAnon of its status.
pub(super) fn private_kib(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("RssAnon:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Who used the two processors since [`Watch::start`].
pub(super) struct Watch {
    pids: Vec<u32>,
    since: Instant,
    busy: Duration,
    own: Duration,
}

impl Watch {
    /// `pids` are the processes of the switch; we and the load are added.
    pub(super) fn start(pids: &[u32]) -> Self {
        Self {
            pids: pids.to_vec(),
            since: Instant::now(),
            busy: busy(),
            own: own(pids),
        }
    }

    /// The share of the two processors that others took, 0 to 1.
    pub(super) fn others(self) -> f64 {
        let own = own(&self.pids).saturating_sub(self.own);
        let others = busy().saturating_sub(self.busy).saturating_sub(own);
        others.as_secs_f64() / (2.0 * self.since.elapsed().as_secs_f64())
    }
}

fn own(pids: &[u32]) -> Duration {
    let own: Duration = times("self").iter().sum();
    pids.iter().map(|pid| time_of(*pid)).sum::<Duration>() + own
}

/// Time that the two processors were not idle, or taken from us by the host.
fn busy() -> Duration {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let mut sum = 0;
    for line in stat.lines() {
        let mut fields = line.split_whitespace();
        if fields.next().is_some_and(|name| CPUS.contains(&name)) {
            let fields: Vec<u64> = fields.map(|field| field.parse().unwrap_or(0)).collect();
            // user nice system idle iowait irq softirq steal
            sum += [0, 1, 2, 5, 6, 7]
                .iter()
                .filter_map(|at| fields.get(*at))
                .sum::<u64>();
        }
    }
    ticks(sum)
}

/// Huge pages of 2 MiB that a DPDK peer needs, for as long as this lives.
pub(super) struct HugePages {
    /// What there was, if we changed it.
    before: Option<u64>,
}

impl HugePages {
    const COUNT: &str = "/proc/sys/vm/nr_hugepages";
    /// Open vSwitch takes some 600, testpmd fewer; only one runs at a time.
    const NEEDED: u64 = 640;

    /// Reserves what is missing.
    pub(super) fn reserve() -> Result<Self, Failure> {
        let free = || -> Result<u64, Failure> {
            let text = fs::read_to_string("/proc/meminfo")?;
            let line = text
                .lines()
                .find(|line| line.starts_with("HugePages_Free:"));
            let count = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
            Ok(count.unwrap_or(0))
        };
        let mut pages = Self { before: None };
        let missing = Self::NEEDED.saturating_sub(free()?);
        if missing > 0 {
            let before: u64 = fs::read_to_string(Self::COUNT)?.trim().parse()?;
            fs::write(Self::COUNT, (before + missing).to_string())
                .map_err(|error| format!("{}: {error}; run as root", Self::COUNT))?;
            // From here on dropping it restores what was.
            pages.before = Some(before);
        }
        match free()? {
            free if free < Self::NEEDED => Err(format!(
                "only {free} of {} huge pages of 2 MiB could be had; free some memory",
                Self::NEEDED
            )
            .into()),
            _ => Ok(pages),
        }
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        let Some(before) = self.before else { return };
        if let Err(error) = fs::write(Self::COUNT, before.to_string()) {
            eprintln!("peers: {} was {before}: {error}", Self::COUNT);
        }
    }
}
