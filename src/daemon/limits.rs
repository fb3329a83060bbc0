//! Limits of the process.

use std::path::Path;

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the limit of open descriptors as far as this user may. A port with a guest needs about one for the
/// connection, two for each ring and one for each memory region while it is mapped; the usual soft limit of 1,024 would
/// be spent by some hundred ports.
pub(super) fn raise_descriptors() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the limit of open descriptors");
    }
}

/// What the switch has for itself, in bytes: its promise is 16 MiB and 256 KiB a port, and this leaves room around it.
const OWN: u64 = 64 << 20;
const OWN_PER_PORT: u64 = 256 << 10;
/// The part of guests' memory that its page tables are at most, twice over.
const PAGE_TABLES: u64 = 256;

/// The bound of the memory control group that the process is in, where that is less than the machine has. Pages of a guest that the
/// switch is the first to touch (buffers of a driver that has not touched them) are charged to it, and stay charged as long as
/// the guest's file is there: past the bound the kernel ends the switch (F-10).
#[derive(Debug)]
pub(super) struct MemoryBound {
    bytes: Option<u64>,
    /// The most guests' memory that was warned of, in bytes.
    told: u64,
}

impl MemoryBound {
    /// As it is now; said in the log.
    pub(super) fn find(ports: usize) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let bound = memory_bound(Path::new("/sys/fs/cgroup"), &read("/proc/self/cgroup"));
        let all = memory_of_machine(&read("/proc/meminfo"));
        let bytes = bound.filter(|bound| all.is_some_and(|all| *bound < all));
        if let Some(bytes) = bytes {
            tracing::warn!(
                bound_mib = bytes >> 20,
                room_mib = room(bytes, ports) >> 20,
                "the control group of this process has a bound of memory. Guests' memory that the switch is the first to touch \
                 is charged to it: when all guests together have more than there is room for, one of them can have the \
                 kernel end the switch. See that they fit, or take the bound away (systemd: MemoryMax=infinity)"
            );
        }
        Self { bytes, told: 0 }
    }

    /// Warns when guests share more than there is room for, `shared` bytes, now that `port` has brought some. What grows by
    /// small steps is told in larger ones: a front-end fills no log.
    pub(super) fn look(&mut self, ports: usize, shared: u64, port: &str) {
        let Some(bytes) = self.bytes else {
            return;
        };
        let room = room(bytes, ports);
        if shared <= room || shared <= self.told.saturating_add(self.told / 4) {
            return;
        }
        self.told = shared;
        tracing::warn!(
            port,
            bound_mib = bytes >> 20,
            room_mib = room >> 20,
            guests_mib = shared >> 20,
            "guests share more memory than the bound of this process's control group has room for: a guest can have the \
             kernel end the switch. Raise the bound (systemd: MemoryMax=), or give these guests a switch of their own"
        );
    }
}

/// How much guests' memory fits under a bound, page tables and the switch's own needs counted, in bytes.
fn room(bound: u64, ports: usize) -> u64 {
    let ports = u64::try_from(ports).unwrap_or(u64::MAX);
    let own = OWN.saturating_add(OWN_PER_PORT.saturating_mul(ports));
    let left = bound.saturating_sub(own);
    left.saturating_sub(left / PAGE_TABLES)
}

/// The least bound, in bytes, of a process's memory control group and those around it, under `root`; `own` is
/// /proc/self/cgroup. `None` where none is set.
fn memory_bound(root: &Path, own: &str) -> Option<u64> {
    let groups = own.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let path = path.trim_start_matches('/');
        if controllers.is_empty() {
            Some((root.to_owned(), path, "memory.max"))
        } else if controllers.split(',').any(|name| name == "memory") {
            Some((root.join("memory"), path, "memory.limit_in_bytes"))
        } else {
            None
        }
    });
    let bounds = groups.flat_map(|(root, path, file)| {
        let around: Vec<_> = Path::new(path)
            .ancestors()
            .map(|at| root.join(at))
            .collect();
        around.into_iter().filter_map(move |group| {
            let bound = std::fs::read_to_string(group.join(file)).ok()?;
            bound.trim().parse().ok() // "max" is none
        })
    });
    bounds.min()
}

/// The machine's memory in bytes, from /proc/meminfo.
fn memory_of_machine(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f_10_the_room_is_what_the_switch_leaves() {
        assert_eq!(room(64 << 20, 0), 0);
        assert_eq!(room(0, 1024), 0);
        assert_eq!(room((64 + 1 + 256) << 20, 4), 255 << 20);
    }

    #[test]
    fn f_10_a_memory_that_grows_by_pages_is_told_by_quarters() {
        let mut bound = MemoryBound {
            bytes: Some(1 << 30),
            told: 0,
        };
        bound.look(2, 512 << 20, "a");
        assert_eq!(bound.told, 0, "there is room");
        let mut lines = 0;
        for page in 0..1_u64 << 20 {
            let before = bound.told;
            bound.look(2, (1 << 30) + (page << 12), "a");
            lines += u64::from(bound.told != before);
        }
        // From one GiB to five, each time a quarter more.
        assert_eq!(lines, 8);
        let mut none = MemoryBound {
            bytes: None,
            told: 0,
        };
        none.look(2, u64::MAX, "a");
        assert_eq!(none.told, 0);
    }

    #[test]
    fn f_10_the_least_bound_of_the_groups_around_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |group: &str, file: &str, text: &str| {
            let group = root.path().join(group);
            std::fs::create_dir_all(&group).unwrap();
            std::fs::write(group.join(file), text).unwrap();
        };
        let own = "0::/system.slice/portcullis.service\n";
        assert_eq!(memory_bound(root.path(), own), None);
        write("system.slice/portcullis.service", "memory.max", "max\n");
        assert_eq!(memory_bound(root.path(), own), None);
        write("system.slice", "memory.max", "1073741824\n");
        assert_eq!(memory_bound(root.path(), own), Some(1 << 30));
        write("system.slice/portcullis.service", "memory.max", "4096\n");
        assert_eq!(memory_bound(root.path(), own), Some(4096));
        write("memory/a", "memory.limit_in_bytes", "8192\n");
        assert_eq!(
            memory_bound(root.path(), "5:cpu:/\n4:memory:/a\n"),
            Some(8192)
        );
        for odd in ["", "x", "1:memory", ":::\n", "0::/../../etc\n"] {
            assert_eq!(memory_bound(root.path(), odd), None, "{odd}");
        }
        assert_eq!(memory_of_machine("MemTotal:  2048 kB\n"), Some(2 << 20));
        assert_eq!(memory_of_machine("MemFree: 1 kB\nMemTotal: x"), None);
    }
}
