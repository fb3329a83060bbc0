//! Leases, kept over a restart of the switch: a guest whose addresses come by DHCP goes on, and need not renew them first.
//!
//! The file ([`store`], `NAME.leases`) names ports, addresses and the clients' MAC addresses, with the moment at which each lease
//! ends by the clock that counts from the boot of the machine: no change of the wall clock makes one longer. Under another
//! boot nothing of it holds, since the guests are others too.
//!
//! It is written beside the attendant, at most every few seconds, however often servers renew; and once more when the switch stops. When
//! that fails the file goes: an older one could give a port an address that is another's by now. One that cannot be believed is no
//! danger: without it guests have no leases, and get them again from their servers. So the switch starts all the same, and says what
//! it costs.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::plan::Live;
use super::reload::{Done, Job};
use super::source::{Refusal, read_trusted};
use super::{Switch, store};
use crate::clock::Tick;
use crate::config::SwitchSpec;
use crate::frame::Mac;
use crate::policy::lease::{Binding, Lease};
use crate::policy::{Policy, State};

/// The longest file: every port of a switch with as many leases as a port can have.
const MAX_BYTES: u64 = 32 << 20;
/// Milliseconds between two writings.
const SPACING: u64 = 5000;

/// A lease as it is written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    port: String,
    address: IpAddr,
    client: String,
    vlan: u16,
    /// Seconds after the boot of the machine; `None`: it never ends.
    ends: Option<u64>,
}

/// What the file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    /// The boot of the machine that moments are counted from.
    boot: String,
    leases: Vec<Entry>,
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct LeaseBook {
    file: PathBuf,
    /// This boot of the machine; without it nothing is kept.
    boot: Option<String>,
    /// How often leases had been changed when the file was written last, and under which policy.
    written: (u64, u64),
    next: Tick,
    is_under_way: bool,
    /// The last writing failed, and that has been said.
    is_failing: bool,
}

impl LeaseBook {
    pub(super) fn new(spec: &SwitchSpec) -> Self {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id");
        Self {
            file: store::path(spec, "leases"),
            boot: boot.ok().map(|boot| boot.trim().to_owned()),
            written: (0, 0),
            next: Tick::ZERO,
            is_under_way: false,
            is_failing: false,
        }
    }

    /// Gives the ports of `live` what the file says of them, and says in the log what came of it.
    pub(super) fn restore(&mut self, live: &Live, policy: &Policy, now: Tick) {
        let Some(boot) = &self.boot else {
            if policy.watches_leases() {
                tracing::warn!(
                    "this boot of the machine has no name (/proc/sys/kernel/random/boot_id): leases will not survive a restart of the switch"
                );
            }
            return;
        };
        let found = read(&self.file);
        if !matches!(found, Ok(None)) {
            // Whatever it says, it is made anew, or goes.
            self.written = (u64::MAX, 0);
        }
        match found {
            Ok(None) => {}
            Ok(Some(contents)) if contents.boot != *boot => {}
            Ok(Some(contents)) => {
                let all = contents.leases.len();
                let restored = give_back(contents.leases, live, policy, since_boot(), now);
                tracing::info!(
                    leases = restored,
                    given_up = all.saturating_sub(restored),
                    "leases from before the restart"
                );
            }
            Err(why) => {
                let file = self.file.display();
                tracing::warn!(
                    "{file}: {why}; it says which DHCP leases guests have. They are cut off until they renew; the file is made anew"
                );
            }
        }
    }

    /// A job panicked, and it may have been this one's.
    pub(super) fn came_to_nothing(&mut self) {
        self.is_under_way = false;
    }

    /// Where and under which boot leases are written, if there is a way to.
    fn pen(&self) -> Option<Pen> {
        Some(Pen {
            file: self.file.clone(),
            boot: self.boot.clone()?,
        })
    }
}

/// What a file is written with.
#[derive(Debug)]
struct Pen {
    file: PathBuf,
    boot: String,
}

impl Pen {
    /// Writes down what the ports have now. Takes its time, and waits for the disk: not for the attendant.
    fn write(self, live: &Live, state: &State, now: Tick) -> io::Result<()> {
        let since = since_boot();
        let mut leases = Vec::new();
        for (port, id) in live.ports() {
            let held = state.guard(id).map(|guard| guard.leases(now));
            let held = held.unwrap_or_default();
            leases.extend(held.iter().map(|lease| entry(&port.name, lease, since)));
        }
        if leases.is_empty() {
            return store::replace(&self.file, None);
        }
        let boot = self.boot;
        let mut text = serde_json::to_vec_pretty(&Contents { boot, leases })?;
        text.push(b'\n');
        let written = store::replace(&self.file, Some(&text));
        if written.is_err() {
            // A full disk lets it go.
            let _ = fs::remove_file(&self.file);
        }
        written
    }
}

impl Switch {
    /// Has leases written down that have changed since the last time.
    pub(super) fn keep_leases(&mut self, now: Tick) {
        let book = &self.leases;
        let is_due = book.boot.is_some() && !book.is_under_way && book.next <= now;
        if is_due && self.lease_edits() != book.written {
            // Again in a second when the desk is full.
            self.leases.is_under_way = self.desk.put(Job::KeepLeases).is_ok();
        }
    }

    /// The work of [`Job::KeepLeases`].
    pub(super) fn keeping(&self, now: Tick) -> impl FnOnce() -> Done + Send + use<> {
        // Before they are read: what changes meanwhile is written the next time.
        let (edits, pen) = (self.lease_edits(), self.leases.pen());
        let (live, state) = (Arc::clone(&self.live), Arc::clone(&self.state));
        move || Done::LeasesKept {
            edits,
            saved: pen.map_or(Ok(()), |pen| pen.write(&live, &state, now)),
        }
    }

    /// Leases have been written down, or not.
    pub(super) fn leases_kept(&mut self, edits: (u64, u64), saved: io::Result<()>, now: Tick) {
        let book = &mut self.leases;
        book.is_under_way = false;
        book.next = now.after_millis(SPACING);
        match saved {
            Ok(()) => {
                book.written = edits;
                book.is_failing = false;
            }
            Err(error) if !book.is_failing => {
                book.is_failing = true;
                let file = book.file.display();
                tracing::error!(
                    "{file}: {error}: leases would not survive a restart of the switch; it is tried again"
                );
            }
            Err(_) => {}
        }
    }

    /// Writes them down a last time, if that is wanting; no job runs any more.
    pub(super) fn keep_last_leases(&self) {
        if self.lease_edits() == self.leases.written {
            return;
        }
        let pen = self.leases.pen();
        let written = pen.map(|pen| pen.write(&self.live, &self.state, self.clock.now()));
        if let Some(Err(error)) = written {
            let file = self.leases.file.display();
            tracing::error!("{file}: {error}: leases do not survive this restart of the switch");
        }
    }

    /// Numbers that stay while no lease of any port changes.
    fn lease_edits(&self) -> (u64, u64) {
        let ports = self.live.ids.iter();
        let guards = ports.filter_map(|id| self.state.guard(*id));
        let edits = guards.fold(0u64, |sum, guard| sum.wrapping_add(guard.lease_edits()));
        // Without any there is nothing to write, whatever the policy.
        (edits, if edits == 0 { 0 } else { self.epoch() })
    }
}

fn read(file: &Path) -> Result<Option<Contents>, String> {
    let bytes = match read_trusted(file, MAX_BYTES) {
        Ok(bytes) => bytes,
        Err(Refusal::Unreadable(error)) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(None);
        }
        Err(Refusal::Unreadable(error)) => return Err(format!("cannot be read: {error}")),
        Err(Refusal::Distrusted(problem, _)) => return Err(problem),
    };
    let contents = serde_json::from_slice(&bytes);
    contents
        .map(Some)
        .map_err(|error| format!("makes no sense: {error}"))
}

/// Gives leases back that have not ended; says how many.
fn give_back(entries: Vec<Entry>, live: &Live, policy: &Policy, since: u64, now: Tick) -> usize {
    let mut taken = HashSet::new();
    let given = entries.into_iter().filter(|entry| {
        let seconds = match entry.ends {
            None => u32::MAX,
            // What is longer than a lease can be is not for ever.
            Some(ends) => {
                u32::try_from(ends.saturating_sub(since)).map_or(u32::MAX - 1, |left| left)
            }
        };
        let (Some(port), Ok(client)) = (live.port(&entry.port), entry.client.parse::<Mac>()) else {
            return false;
        };
        let lease = Lease {
            address: entry.address,
            binding: Binding {
                client,
                vid: entry.vlan,
            },
            seconds,
        };
        // An address belongs to one port.
        !taken.contains(&(entry.address, entry.vlan))
            && policy.restore_lease(port, &lease, now)
            && taken.insert((entry.address, entry.vlan))
    });
    given.count()
}

fn entry(port: &str, lease: &Lease, since: u64) -> Entry {
    Entry {
        port: port.to_owned(),
        address: lease.address,
        client: lease.binding.client.to_string(),
        vlan: lease.binding.vid,
        ends: (lease.seconds != u32::MAX).then(|| since.saturating_add(lease.seconds.into())),
    }
}

/// Seconds since the machine was booted, with those in which it was suspended.
fn since_boot() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::config::{Overrides, from_text};
    use crate::daemon::plan;
    use crate::daemon::source::Source;

    const NOW: Tick = Tick::from_secs(100);
    const SINCE: u64 = 5000;

    fn live(text: &str) -> Live {
        Live::first(
            Source::default(),
            from_text(None, text, &Overrides::default()).unwrap(),
        )
    }

    fn policy(live: &Live) -> Policy {
        let fdb = Arc::new(plan::fdb(&live.spec, &live.ids).unwrap());
        let nobody = (Default::default(), &Default::default());
        plan::gate(&live.spec, &live.ids, 1, nobody, (fdb, State::new()))
            .unwrap()
            .policy
    }

    fn book(directory: &Path, boot: &str) -> LeaseBook {
        LeaseBook {
            file: directory.join("lan.leases"),
            boot: Some(boot.to_owned()),
            written: (0, 0),
            next: Tick::ZERO,
            is_under_way: false,
            is_failing: false,
        }
    }

    fn leases(live: &Live, policy: &Policy, port: &str) -> Vec<Lease> {
        let id = live.port(port).unwrap();
        policy.state().guard(id).unwrap().leases(NOW)
    }

    fn written(port: &str, address: &str, ends: Option<u64>) -> Entry {
        Entry {
            port: port.to_owned(),
            address: address.parse().unwrap(),
            client: "52:54:00:00:00:01".to_owned(),
            vlan: 1,
            ends,
        }
    }

    const LAN: &str = r#"
        [port.a]
        socket = "/a"
        ip = "dhcp"
        max_leases = 64
        [port.b]
        socket = "/b"
        ip = "dhcp"
        mac = "52:54:00:00:00:02"
        [port.c]
        socket = "/c"
        "#;

    #[test]
    fn what_was_saved_is_given_back() {
        let directory = tempfile::tempdir().unwrap();
        let live = live(LAN);
        let before = policy(&live);
        let mut entries: Vec<Entry> = (0..40)
            .map(|n| written("a", &format!("10.0.0.{n}"), Some(SINCE + 600 + n)))
            .collect();
        entries[0].address = "fd00::1".parse().unwrap();
        entries.push(written("a", "10.0.1.1", None));
        assert_eq!(give_back(entries, &live, &before, SINCE, NOW), 41);
        let mut book = book(directory.path(), "this");
        let pen = book.pen().unwrap();
        pen.write(&live, before.state(), NOW).unwrap();

        let after = policy(&live);
        book.restore(&live, &after, NOW);
        let had = leases(&live, &before, "a");
        assert_eq!((had.len(), had[0].seconds), (41, 600));
        assert_eq!(had.last().unwrap().seconds, u32::MAX);
        let has = leases(&live, &after, "a");
        let known = |lease: &Lease| {
            let mut had = had.iter();
            had.any(|old| {
                (old.address, old.binding) == (lease.address, lease.binding)
                    && old.seconds.abs_diff(lease.seconds) <= 2
            })
        };
        assert!(has.len() == 41 && has.iter().all(known), "{has:?}");

        // Of another boot nothing holds.
        let other = policy(&live);
        super::LeaseBook {
            boot: Some("another".to_owned()),
            ..book
        }
        .restore(&live, &other, NOW);
        assert_eq!(leases(&live, &other, "a"), []);
    }

    #[test]
    fn a_lease_is_given_back_to_whom_it_can_be() {
        let live = live(LAN);
        let policy = policy(&live);
        let no = [
            written("a", "10.0.0.1", Some(SINCE)),        // is over
            written("b", "10.0.0.2", Some(SINCE + 9)),    // has another address
            written("c", "10.0.0.3", Some(SINCE + 9)),    // takes no leases
            written("gone", "10.0.0.4", Some(SINCE + 9)), // is not there
            written("a", "224.0.0.1", Some(SINCE + 9)),   // nobody's
            written("a", "0.0.0.0", None),
            Entry {
                client: "nobody".to_owned(),
                ..written("a", "10.0.0.5", None)
            },
            Entry {
                vlan: 4095,
                ..written("a", "10.0.0.6", None)
            },
        ];
        assert_eq!(give_back(no.to_vec(), &live, &policy, SINCE, NOW), 0);
        // The first of two that have one address has it.
        let to_b = Entry {
            client: "52:54:00:00:00:02".to_owned(),
            ..written("b", "10.0.0.7", Some(SINCE + 9))
        };
        let twice = vec![to_b, written("a", "10.0.0.7", Some(SINCE + 9))];
        assert_eq!(give_back(twice, &live, &policy, SINCE, NOW), 1);
        assert_eq!(leases(&live, &policy, "b").len(), 1);
        assert_eq!(leases(&live, &policy, "a"), []);
        // More seconds than a lease can have are as many as it can.
        let long = vec![written("a", "10.0.0.8", Some(u64::MAX))];
        assert_eq!(give_back(long, &live, &policy, SINCE, NOW), 1);
        assert_eq!(leases(&live, &policy, "a")[0].seconds, u32::MAX - 1);
    }

    #[test]
    fn o_6_leases_that_cannot_be_written_leave_no_older_ones_behind() {
        let directory = tempfile::tempdir().unwrap();
        let (live, book) = (live(LAN), book(directory.path(), "this"));
        let policy = policy(&live);
        let leases = vec![written("a", "10.0.0.1", None)];
        assert_eq!(give_back(leases, &live, &policy, SINCE, NOW), 1);
        let write = || book.pen().unwrap().write(&live, policy.state(), NOW);
        write().unwrap();
        // Something that no file can be written to: it stands for a full disk.
        let beside = directory.path().join("lan.leases.new");
        fs::create_dir(&beside).unwrap();
        write().unwrap_err();
        // The address may be another port's by the time of the restart.
        assert!(matches!(read(&book.file), Ok(None)));
        fs::remove_dir(&beside).unwrap();
        write().unwrap();
        assert_eq!(read(&book.file).unwrap().unwrap().leases.len(), 1);
    }

    #[test]
    fn a_file_that_cannot_be_believed_gives_nothing_and_stops_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let (live, mut book) = (live(LAN), book(directory.path(), "this"));
        let policy = policy(&live);
        let good = Contents {
            boot: "this".to_owned(),
            leases: vec![written("a", "10.0.0.1", None)],
        };
        let good = serde_json::to_vec(&good).unwrap();
        let half = &good[..good.len() / 2];
        for (bytes, mode) in [(half, 0o600), (b"[]", 0o600), (&good, 0o666)] {
            fs::write(&book.file, bytes).unwrap();
            fs::set_permissions(&book.file, fs::Permissions::from_mode(mode)).unwrap();
            book.restore(&live, &policy, NOW);
            assert!(read(&book.file).is_err());
            assert_eq!(leases(&live, &policy, "a"), []);
        }
        fs::set_permissions(&book.file, fs::Permissions::from_mode(0o600)).unwrap();
        book.restore(&live, &policy, NOW);
        assert_eq!(leases(&live, &policy, "a").len(), 1);
        // And when there is none any more, there is no file.
        policy
            .state()
            .guard(live.port("a").unwrap())
            .unwrap()
            .forget_leases();
        let pen = book.pen().unwrap();
        pen.write(&live, policy.state(), NOW).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
