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

/// Warns when the memory control group that the process is in has less than the machine: pages of a guest that the switch is
/// the first to touch (receive buffers) are charged to it, so that a guest could have the kernel end the switch (F-10).
pub(super) fn warn_of_memory_bound() {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let own = read("/proc/self/cgroup");
    let (Some(bound), Some(all)) = (
        memory_bound(Path::new("/sys/fs/cgroup"), &own),
        memory_of_machine(&read("/proc/meminfo")),
    ) else {
        return;
    };
    if bound < all {
        tracing::warn!(
            mib = bound >> 20,
            "the control group of this process has a bound of memory, and guests' memory that the switch touches first is \
             charged to it: a guest could have the kernel end the switch. Raise it above the memory of all guests \
             (systemd: MemoryMax=)"
        );
    }
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
