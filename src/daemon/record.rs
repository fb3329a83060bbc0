//! What the switch says about itself: rates of the last second, and the report for `status`.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::clock::{Clock, Tick};
use crate::config::{PortSpec, SwitchSpec};
use crate::control::{
    FdbReport, IpReport, LeaseReport, MacReport, PortReport, Rates, SwitchReport, WorkerReport,
};
use crate::counters::{PortId, PortSnapshot};
use crate::datapath::{WorkerStatus, Workers};
use crate::fabric::{Fdb, FdbEntry, VidSet, VlanMembership};
use crate::policy::State;
use crate::policy::spec::{IpSpec, Rate};
use crate::port::port::Port;

use super::plan::Live;
use super::quarantine::Wards;

/// Learned addresses that are listed for each port; the rest are only counted.
const LISTED: usize = 16;

/// Readings of the last second, and rates made from them.
#[derive(Debug)]
pub(super) struct Record {
    name: String,
    started: Tick,
    /// Cycles when the readings were taken.
    read_at: u64,
    ports: HashMap<PortId, (PortSnapshot, Rates)>,
    workers: Vec<(WorkerStatus, f64)>,
}

impl Record {
    pub(super) fn new(
        spec: &SwitchSpec,
        ports: &BTreeMap<PortId, Port>,
        workers: &Workers,
        clock: &Clock,
    ) -> Self {
        let read = |(id, port): (&PortId, &Port)| (*id, (port.counters(), Rates::default()));
        let workers = workers.status().into_iter().map(|status| (status, 0.0));
        Self {
            name: spec.name.clone(),
            started: clock.now(),
            read_at: clock.cycles(),
            ports: ports.iter().map(read).collect(),
            workers: workers.collect(),
        }
    }

    /// Takes new readings: once a second or so.
    pub(super) fn sample(
        &mut self,
        ports: &BTreeMap<PortId, Port>,
        workers: &Workers,
        clock: &Clock,
    ) {
        let cycles = clock.cycles();
        #[expect(clippy::cast_precision_loss, reason = "a share for people to read")]
        let nanos = clock.nanos_between(self.read_at, cycles) as f64;
        self.read_at = cycles;
        self.ports.retain(|id, _| ports.contains_key(id));
        for (id, port) in ports {
            let after = port.counters();
            // A port that has come since starts from zero, and so do its counters.
            let (before, rates) = self.ports.entry(*id).or_default();
            *rates = Rates::between(before, &after, nanos / 1e9);
            *before = after;
        }
        for ((before, busy), after) in self.workers.iter_mut().zip(workers.status()) {
            #[expect(clippy::cast_precision_loss, reason = "a share for people to read")]
            let worked = after.busy_nanos.saturating_sub(before.busy_nanos) as f64;
            *busy = if nanos > 0.0 {
                (worked / nanos).min(1.0)
            } else {
                0.0
            };
            *before = after;
        }
    }

    /// A port's readings are those of another from now on.
    pub(super) fn forget(&mut self, id: PortId) {
        self.ports.remove(&id);
    }

    /// The whole report.
    pub(super) fn report(
        &self,
        live: &Live,
        wards: &Wards,
        ports: &BTreeMap<PortId, Port>,
        workers: &Workers,
        now: Tick,
    ) -> SwitchReport {
        let generation = workers.generation();
        let fdb = generation.gate.fabric.fdb();
        let state = generation.gate.policy.state();
        let mut learned = learned(fdb, now);
        let mut kept = kept(fdb, now, live);
        let known = live
            .ports()
            .filter_map(|(spec, id)| Some((spec, id, ports.get(&id)?)));
        let ports = known.map(|(spec, id, port)| PortReport {
            status: port.status(),
            mode: spec.mode,
            uplink: spec.uplink,
            groups: spec.groups.clone(),
            vlan: segments(&spec.vlan),
            queue_pairs: spec.queues,
            macs: MacReport {
                fixed: spec.macs.iter().map(ToString::to_string).collect(),
                kept: kept.remove(&id).unwrap_or_default(),
                learned: learned.remove(&id).unwrap_or_default(),
                learned_count: fdb.learned(id),
            },
            leases: leases(state, id, now),
            ip: bound(&spec.guard.ip),
            rates: self
                .ports
                .get(&id)
                .map(|(_, rates)| *rates)
                .unwrap_or_default(),
            switched_off: spec.switched_off().into_iter().map(str::to_owned).collect(),
            lists: spec.lists.clone(),
            limits: limits(spec),
            connections: (state.tracker().usage(id).flows, spec.quota.connections),
            quarantine: wards.told(live, &spec.name),
        });
        let workers = self.workers.iter().zip(workers.status());
        SwitchReport {
            name: self.name.clone(),
            program: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_s: now.millis_since(self.started) / 1000,
            epoch: generation.gate.policy.epoch(),
            configuration: live.source.file.clone(),
            fdb: FdbReport {
                learned: fdb.learned_total(),
                capacity: fdb.limits().capacity,
            },
            workers: workers
                .map(|((_, busy), since_start)| WorkerReport {
                    busy: *busy,
                    since_start,
                })
                .collect(),
            ports: ports.collect(),
        }
    }
}

/// To which IP addresses a port is bound; the first few of them.
fn bound(ip: &IpSpec) -> IpReport {
    let (bound, prefixes) = match ip {
        IpSpec::Any => ("any", &[][..]),
        IpSpec::Dhcp => ("dhcp", &[][..]),
        IpSpec::Declared(prefixes) => ("declared", prefixes.as_slice()),
    };
    let declared = prefixes.iter().take(LISTED).map(|prefix| {
        if prefix.prefix_len() == prefix.max_prefix_len() {
            prefix.addr().to_string()
        } else {
            prefix.to_string()
        }
    });
    let more = prefixes.len().saturating_sub(LISTED);
    IpReport {
        bound: bound.to_owned(),
        declared: declared.collect(),
        more: u32::try_from(more).unwrap_or(u32::MAX),
    }
}

/// The first few learned addresses of each port.
fn learned(fdb: &Fdb, now: Tick) -> HashMap<PortId, Vec<String>> {
    let mut found: HashMap<PortId, Vec<String>> = HashMap::new();
    for entry in fdb.entries(now).filter(|entry| !entry.is_static) {
        let listed = found.entry(entry.port).or_default();
        if listed.len() < LISTED {
            listed.push(address(&entry));
        }
    }
    for listed in found.values_mut() {
        listed.sort_unstable();
    }
    found
}

/// The address of each port that port security keeps for it, though nobody declared it: in the FDB it stands as if.
fn kept(fdb: &Fdb, now: Tick, live: &Live) -> HashMap<PortId, Vec<String>> {
    let declared: HashSet<_> = live
        .ports()
        .flat_map(|(spec, id)| spec.macs.iter().map(move |mac| (id, *mac)))
        .collect();
    let mut found: HashMap<PortId, Vec<String>> = HashMap::new();
    let kept = fdb
        .entries(now)
        .filter(|entry| entry.is_static && !declared.contains(&(entry.port, entry.mac)));
    for entry in kept {
        found.entry(entry.port).or_default().push(address(&entry));
    }
    found
}

/// The leases of a port, by address.
fn leases(state: &State, id: PortId, now: Tick) -> Vec<LeaseReport> {
    let held = state.guard(id).map(|guard| guard.leases(now));
    let mut held = held.unwrap_or_default();
    held.sort_unstable_by_key(|lease| lease.address);
    let reports = held.into_iter().map(|lease| LeaseReport {
        address: lease.address,
        mac: lease.binding.client.to_string(),
        vlan: lease.binding.vid,
        seconds: (lease.seconds != u32::MAX).then_some(lease.seconds),
    });
    reports.collect()
}

fn address(entry: &FdbEntry) -> String {
    match entry.vid {
        Some(vid) if vid != crate::frame::Vid::DEFAULT => format!("{} (vlan {vid})", entry.mac),
        _ => entry.mac.to_string(),
    }
}

/// The limits that are set, in words.
fn limits(port: &PortSpec) -> Vec<String> {
    let spec = &port.limits;
    // The guard asks for these, where it has anything to ask.
    let membership = if port.guard.is_open() {
        Rate::default()
    } else {
        spec.membership
    };
    let all = [
        ("sends", "bit/s", spec.send_bits),
        ("sends", "frames/s", spec.send_frames),
        ("receives", "bit/s", spec.receive_bits),
        ("receives", "frames/s", spec.receive_frames),
        ("sends", "broadcasts/s", spec.broadcast),
        ("sends", "multicasts/s", spec.multicast),
        ("sends", "frames/s to unknown stations", spec.unknown),
        ("sends", "IGMP and MLD packets/s", membership),
    ];
    let set = all.iter().filter(|(_, _, rate)| rate.per_second != 0);
    let rates = set.map(|(way, unit, rate)| format!("{way} {} {unit}", rate.per_second));
    let groups = (spec.groups != 0).then(|| format!("sends to {} groups a minute", spec.groups));
    rates.chain(groups).collect()
}

/// `10`, or `trunk 10,20-29 native 10`.
fn segments(vlan: &VlanMembership) -> String {
    match vlan {
        VlanMembership::Access(vid) => vid.to_string(),
        VlanMembership::Trunk { allowed, native } => {
            let native = native.map_or(String::new(), |vid| format!(" native {vid}"));
            format!("trunk {}{native}", ranges(allowed))
        }
    }
}

fn ranges(set: &VidSet) -> String {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for vid in set.iter().map(u16::from) {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == vid => *last = vid,
            _ => ranges.push((vid, vid)),
        }
    }
    let texts = ranges.into_iter().map(|range| match range {
        (1, 4094) => "all".to_owned(),
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    });
    texts.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Vid;

    #[test]
    fn every_limit_in_force_is_said() {
        let limits = |lines: &str| {
            let text = format!("[port.web]\nsocket = \"/w\"\n{lines}\n");
            let spec = crate::config::from_text(None, &text, &crate::config::Overrides::default());
            super::limits(&spec.unwrap().ports[0])
        };
        let usual = "sends 100 IGMP and MLD packets/s";
        assert_eq!(limits(""), [usual, "sends to 512 groups a minute"]);
        assert_eq!(limits("uplink = true"), [""; 0]);
        // Of a port without port security no membership is asked, and of groups it is.
        let open = "spoofing = \"allow\"\ndhcp_server = true\nrouter = true\nlink_protocols = true";
        assert_eq!(limits(open), ["sends to 512 groups a minute"]);
        let said = "limits = { send = \"1Mbit/s\", send_frames = \"2/s\", receive = \"3Mbit/s\", receive_frames = \"4/s\", \
                    broadcast = \"5/s\", multicast = \"6/s\", unknown = \"7/s\", membership = \"8/s\", multicast_groups = 9 }";
        assert_eq!(
            limits(said),
            [
                "sends 1000000 bit/s",
                "sends 2 frames/s",
                "receives 3000000 bit/s",
                "receives 4 frames/s",
                "sends 5 broadcasts/s",
                "sends 6 multicasts/s",
                "sends 7 frames/s to unknown stations",
                "sends 8 IGMP and MLD packets/s",
                "sends to 9 groups a minute",
            ]
        );
    }

    #[test]
    fn segments_are_said_in_the_configuration_s_words() {
        let vids = |vids: &[u16]| vids.iter().copied().filter_map(Vid::new).collect();
        assert_eq!(segments(&VlanMembership::default()), "1");
        let allowed = vids(&[10, 20, 21, 22, 30, 31]);
        let native = Vid::new(10);
        assert_eq!(
            segments(&VlanMembership::Trunk { allowed, native }),
            "trunk 10,20-22,30-31 native 10"
        );
        let (allowed, native) = (VidSet::all(), None);
        assert_eq!(
            segments(&VlanMembership::Trunk { allowed, native }),
            "trunk all"
        );
    }
}
