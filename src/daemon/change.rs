//! The difference between two configurations, and what of it can be done while the switch runs.
//!
//! Ports are told apart by their names. A port *stays* when its socket, its queues and its MTU are as before: its connection
//! goes on, whatever else is changed. Otherwise it is *replaced*: the front-end has to negotiate anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::Arc;

use crate::config::{PortSpec, SwitchSpec};
use crate::control::{ChangeReport, PortChange};
use crate::counters::{MAX_PORTS, PortId, PortSet};
use crate::policy::rule::Rule;
use crate::policy::spec::{GuardSpec, MacSpec};

/// Where a port of the new configuration comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is there, under this number.
    Stays(PortId),
    /// It takes the place of the port of that number.
    Replaces(PortId),
    /// There was none of its name.
    New,
}

impl Fate {
    pub(super) fn is_opened(self) -> bool {
        !matches!(self, Self::Stays(_))
    }
}

/// The fate of each port of `new`; port `n` of `old` has the number `ids[n]`.
pub(super) fn fates(old: &SwitchSpec, ids: &[PortId], new: &SwitchSpec) -> Vec<Fate> {
    let before: BTreeMap<&str, (&PortSpec, PortId)> = old
        .ports
        .iter()
        .zip(ids)
        .map(|(port, id)| (port.name.as_str(), (port, *id)))
        .collect();
    let fate = |port: &PortSpec| match before.get(port.name.as_str()) {
        None => Fate::New,
        Some((old, id)) if connection_keys(old, port).is_empty() => Fate::Stays(*id),
        Some((_, id)) => Fate::Replaces(*id),
    };
    new.ports.iter().map(fate).collect()
}

/// A number for each port: those that stay keep theirs, the others get numbers that are not in `taken`. `None` when there are not enough.
pub(super) fn numbers(fates: &[Fate], taken: &PortSet) -> Option<Vec<PortId>> {
    let mut free = (0..MAX_PORTS)
        .filter_map(|index| PortId::new(u16::try_from(index).ok()?))
        .filter(|id| !taken.contains(*id));
    let number = |fate: &Fate| match fate {
        Fate::Stays(id) => Some(*id),
        Fate::Replaces(_) | Fate::New => free.next(),
    };
    fates.iter().map(number).collect()
}

/// What `new` changes.
#[must_use]
pub fn compare(old: &SwitchSpec, new: &SwitchSpec) -> ChangeReport {
    let names = |spec: &SwitchSpec| -> BTreeSet<String> {
        spec.ports.iter().map(|port| port.name.clone()).collect()
    };
    let (before, after) = (names(old), names(new));
    let mut report = ChangeReport {
        added: after.difference(&before).cloned().collect(),
        removed: before.difference(&after).cloned().collect(),
        settings: settings(old, new),
        ..ChangeReport::default()
    };
    for port in &new.ports {
        let Some(was) = old.ports.iter().find(|was| was.name == port.name) else {
            continue;
        };
        let connection = connection_keys(was, port);
        let is_replaced = !connection.is_empty();
        let keys: Vec<String> = connection
            .into_iter()
            .chain(policy_keys(was, port))
            .map(str::to_owned)
            .collect();
        if keys.is_empty() {
            continue;
        }
        let change = PortChange {
            name: port.name.clone(),
            keys,
        };
        if is_replaced {
            report.replaced.push(change);
        } else {
            report.changed.push(change);
        }
    }
    report
}

/// Keys that differ and that a front-end is told only when it connects.
fn connection_keys(old: &PortSpec, new: &PortSpec) -> Vec<&'static str> {
    let keys = [
        ("socket", old.endpoint != new.endpoint),
        ("queues", old.queues != new.queues),
        ("mtu", old.mtu != new.mtu),
    ];
    differing(&keys)
}

/// Keys that differ and that no front-end notices.
fn policy_keys(old: &PortSpec, new: &PortSpec) -> Vec<&'static str> {
    let keys = [
        ("mode", old.mode != new.mode),
        ("uplink", old.uplink != new.uplink),
        ("groups", old.groups != new.groups),
        ("mac", old.macs != new.macs),
        ("vlan", old.vlan != new.vlan),
        ("security", is_guarded_otherwise(old, new)),
        ("acl", lists(old) != lists(new)),
        ("limits", old.limits != new.limits),
        ("quarantine", old.triggers != new.triggers),
        ("connections", old.quota != new.quota),
        ("max_macs", old.max_macs != new.max_macs),
    ];
    differing(&keys)
}

/// Whether port security differs by more than follows from declared addresses.
fn is_guarded_otherwise(old: &PortSpec, new: &PortSpec) -> bool {
    let but_addresses = |guard: &GuardSpec| GuardSpec {
        mac: MacSpec::Sticky,
        ..guard.clone()
    };
    but_addresses(&old.guard) != but_addresses(&new.guard)
        || (old.macs == new.macs && old.guard.mac != new.guard.mac)
}

/// What its lists say, wherever it was written.
fn lists(port: &PortSpec) -> [Option<Vec<Rule>>; 2] {
    [&port.outbound, &port.inbound].map(|list| {
        let unplaced = |rule: &Rule| Rule {
            origin: String::new(),
            list: Arc::default(),
            said: Vec::new(),
            ..rule.clone()
        };
        Some(list.as_ref()?.iter().map(unplaced).collect())
    })
}

fn differing(keys: &[(&'static str, bool)]) -> Vec<&'static str> {
    let differing = keys.iter().filter(|(_, differs)| *differs);
    differing.map(|(key, _)| *key).collect()
}

/// Settings beside the ports that differ, and that can be changed while the switch runs.
fn settings(old: &SwitchSpec, new: &SwitchSpec) -> Vec<String> {
    let pairs = [
        ("fdb capacity", old.fdb.capacity, new.fdb.capacity),
        ("fdb per_port", old.fdb.per_port, new.fdb.per_port),
        ("fdb ageing", old.fdb.ageing, new.fdb.ageing),
    ];
    let differing = pairs.iter().filter(|(_, old, new)| old != new);
    let mut settings: Vec<String> = differing
        .map(|(key, old, new)| format!("{key} {old} to {new}"))
        .collect();
    if old.default_deny != new.default_deny {
        let default = |deny| if deny { "deny" } else { "allow" };
        let (from, to) = (default(old.default_deny), default(new.default_deny));
        settings.push(format!("default {from} to {to}"));
    }
    if old.tracking != new.tracking {
        settings.push("connection tracking".to_owned());
    }
    settings
}

/// What differs and is fixed when the switch starts, such as `workers (1 to 2)`.
#[must_use]
pub fn needing_restart(old: &SwitchSpec, new: &SwitchSpec) -> Vec<String> {
    fn note(
        list: &mut Vec<String>,
        key: &str,
        differs: bool,
        old: impl Display,
        new: impl Display,
    ) {
        if differs {
            list.push(format!("{key} ({old} to {new})"));
        }
    }
    let mut list = Vec::new();
    let cpus = |spec: &SwitchSpec| {
        let cpus: Vec<String> = spec.cpus.iter().map(u16::to_string).collect();
        if cpus.is_empty() {
            "none".to_owned()
        } else {
            cpus.join(",")
        }
    };
    let poll = |spec: &SwitchSpec| format!("{:?}", spec.poll).to_lowercase();
    note(
        &mut list,
        "name",
        old.name != new.name,
        &old.name,
        &new.name,
    );
    let (from, to) = (old.control.display(), new.control.display());
    note(&mut list, "control", old.control != new.control, from, to);
    let differs = old.workers != new.workers;
    note(&mut list, "workers", differs, old.workers, new.workers);
    note(
        &mut list,
        "cpus",
        old.cpus != new.cpus,
        cpus(old),
        cpus(new),
    );
    note(
        &mut list,
        "poll",
        old.poll != new.poll,
        poll(old),
        poll(new),
    );
    let differs = old.spin_us != new.spin_us;
    note(&mut list, "spin_us", differs, old.spin_us, new.spin_us);
    for port in &new.ports {
        let was = old.ports.iter().find(|was| was.name == port.name);
        if was.is_some_and(|was| was.endpoint == port.endpoint && was.access != port.access) {
            list.push(format!("who may open the socket of port {:?}", port.name));
        }
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Overrides, from_text};

    fn spec(text: &str) -> SwitchSpec {
        let overrides = Overrides {
            control: Some("/control".into()),
            name: Some("lan".to_owned()),
            ..Overrides::default()
        };
        from_text(None, text, &overrides).unwrap()
    }

    fn id(index: u16) -> PortId {
        PortId::new(index).unwrap()
    }

    const OLD: &str = "
        [port.a]
        socket = \"/a\"
        [port.b]
        socket = \"/b\"
        [port.c]
        socket = \"/c\"
        queues = 2
        [port.d]
        socket = \"/d\"
        vlan = 7
        ";
    const NEW: &str = "
        [fdb]
        ageing = 60
        [port.d]
        socket = \"/d\"
        vlan = 8
        mode = \"private\"
        [port.e]
        socket = \"/e\"
        [port.c]
        socket = \"/c\"
        queues = 4
        mac = \"52:54:00:00:00:01\"
        [port.a]
        socket = \"/a\"
        ";

    #[test]
    fn ports_that_stay_keep_their_numbers_and_others_get_free_ones() {
        let (old, new) = (spec(OLD), spec(NEW));
        let ids = [id(0), id(1), id(2), id(3)];
        let fates = fates(&old, &ids, &new);
        assert_eq!(
            fates,
            [
                Fate::Stays(id(3)),
                Fate::New,
                Fate::Replaces(id(2)),
                Fate::Stays(id(0))
            ]
        );
        let taken = PortSet::from_iter(ids);
        let found = numbers(&fates, &taken).unwrap();
        assert_eq!(found, [id(3), id(4), id(5), id(0)]);
        let all = PortSet::from_iter((0..1024).map(id));
        assert_eq!(numbers(&fates, &all), None);
    }

    #[test]
    fn each_difference_has_its_name() {
        let report = compare(&spec(OLD), &spec(NEW));
        let lines = "  added     e\n  removed   b\n  replaced  c (queues mac)\n  \
                     changed   d (mode vlan)\n  settings  fdb ageing 300 to 60\n";
        assert_eq!(report.to_string(), lines);
        assert!(compare(&spec(OLD), &spec(OLD)).is_empty());
    }

    #[test]
    fn what_is_fixed_at_the_start_is_named() {
        let old = spec("[port.a]\nsocket = \"/a\"\n");
        let text = "[switch]\ncpus = [0, 1]\npoll = \"never\"\n[port.a]\nsocket = \"/a\"\n";
        assert_eq!(
            needing_restart(&old, &spec(text)),
            [
                "workers (1 to 2)",
                "cpus (none to 0,1)",
                "poll (adaptive to never)"
            ]
        );
        assert_eq!(needing_restart(&old, &old), [""; 0]);
    }
}
