//! Second step: entries to meaning, and the rules that hold between ports.

use std::path::{Path, PathBuf};

use super::asserts::read_asserts;
use super::between::{check_between, check_control, check_count};
use super::limits::Connections;
use super::lists::Lists;
use super::notes::{Sections, notes};
use super::paths::default_control_path;
use super::ports::{Draft, Under, read_defaults, read_group_sections};
use super::raw::{Raw, Section};
use super::reader::Reader;
use super::shared::{Access, Shared};
use super::spec::SwitchSpec;
use super::who::Names;
use super::{Fault, MAX_FDB, MODES, NAME_RULE, Place, narrow, socket_path, valid_name};
use crate::datapath::PollMode;
use crate::fabric::{FdbLimits, Mode};
use crate::policy::spec::{ConnectionQuota, Timeouts, TrackingSpec};

const POLLS: [(&str, PollMode); 3] = [
    ("adaptive", PollMode::Adaptive),
    ("always", PollMode::Always),
    ("never", PollMode::Never),
];
const MAX_WORKERS: u32 = 64;
const MAX_SPIN_US: u32 = 10_000;
const DEFAULT_SPIN_US: u32 = 50;
const MAX_AGEING: u32 = 1_000_000;
/// Five days, as the kernel keeps an established TCP connection (nf_conntrack_tcp_timeout_established).
const MAX_TIMEOUT: u32 = 432_000;

/// Gives meaning to `raw`. The result is to be used only if `faults` is empty afterwards.
pub(super) fn validate(mut raw: Raw, file: Option<&Path>, faults: &mut Vec<Fault>) -> SwitchSpec {
    faults.append(&mut raw.strays);
    let whole = match raw.switch.place.clone() {
        Place::Line { file, .. } => Place::Whole(file),
        other => other,
    };
    let sections = Sections::new(&raw.groups, &raw.sets, &raw.lists);
    let mut fdb = read_fdb(raw.fdb, faults);
    let switch = read_switch(raw.switch, file, faults);
    let tracking = read_conntrack(raw.conntrack, faults);
    let under = Under {
        mode: switch.mode,
        switch: Shared {
            access: switch.access.clone(),
            ..Shared::default()
        },
        defaults: read_defaults(raw.defaults, faults),
        groups: read_group_sections(raw.groups, faults),
        quota: quota(&tracking),
        macs_per_port: fdb.per_port,
    };
    let drafts = raw.ports.into_iter();
    let drafts: Vec<Draft> = drafts
        .map(|(name, section)| Draft::read(name, section, &fdb, faults))
        .collect();
    let names = Names::new(&drafts, under.groups.keys(), raw.sets, faults);
    let mut lists = Lists::read(raw.lists, &names, switch.default_deny, faults);
    let ports: Vec<_> = drafts
        .into_iter()
        .filter_map(|draft| draft.resolve(&under, &names, &mut lists, faults))
        .collect();
    let asserts = read_asserts(raw.asserts, &names, &ports, faults);
    fdb.ports = narrow(u32::try_from(ports.len()).unwrap_or(u32::MAX));
    check_count(&ports, &whole, faults);
    check_between(&ports, faults);
    check_control(&switch, &ports, faults);
    let mut spec = SwitchSpec {
        name: switch.name,
        control: switch.control,
        control_origin: switch.control_origin,
        control_is_default: switch.control_is_default,
        workers: switch.workers,
        cpus: switch.cpus,
        cpus_origin: switch.cpus_origin,
        poll: switch.poll,
        spin_us: switch.spin_us,
        fdb,
        default_deny: switch.default_deny,
        tracking,
        ports,
        lists: lists.all(),
        asserts,
        notes: Vec::new(),
    };
    if faults.is_empty() {
        spec.notes = notes(&spec, &sections, &names);
    }
    spec
}

/// `[switch]`, read.
pub(super) struct Switch {
    pub(super) name: String,
    mode: Mode,
    default_deny: bool,
    access: Access,
    pub(super) control: PathBuf,
    pub(super) control_origin: Place,
    pub(super) control_is_default: bool,
    workers: u16,
    cpus: Vec<u16>,
    cpus_origin: Place,
    poll: PollMode,
    spin_us: u32,
}

fn read_switch(section: Section, file: Option<&Path>, faults: &mut Vec<Fault>) -> Switch {
    let mut reader = Reader::new(section, faults);
    let place = reader.place();
    let name = reader.text("name", NAME_RULE).and_then(|(name, place)| {
        let good = valid_name(&name);
        if !good {
            reader.fault(place, "name", format!("{name:?} is not a name"), NAME_RULE);
        }
        good.then_some(name)
    });
    let stem = file
        .and_then(Path::file_stem)
        .and_then(|stem| stem.to_str());
    let stem = stem.filter(|stem| valid_name(stem)).unwrap_or("default");
    let name = name.unwrap_or_else(|| stem.to_owned());
    let mode = reader.choice("mode", &MODES).unwrap_or_default();
    let default = reader.choice("default", &[("allow", false), ("deny", true)]);
    let access = Access::read(&mut reader);
    let control = reader.text("control", "name the control socket's path");
    let control = control.and_then(|(path, place)| {
        Some((socket_path(&mut reader, "control", path, &place)?, place))
    });
    let (workers, cpus, cpus_origin) = read_workers(&mut reader);
    let poll = reader.choice("poll", &POLLS).unwrap_or_default();
    let spin_us = reader.number("spin_us", 0..=MAX_SPIN_US);
    reader.finish();
    let control_is_default = control.is_none();
    let (control, control_origin) = control.unwrap_or_else(|| (default_control_path(&name), place));
    Switch {
        name,
        mode,
        default_deny: default.unwrap_or(false),
        access,
        control,
        control_origin,
        control_is_default,
        workers,
        cpus,
        cpus_origin,
        poll,
        spin_us: spin_us.map_or(DEFAULT_SPIN_US, |(us, _)| us),
    }
}

fn read_workers(reader: &mut Reader<'_>) -> (u16, Vec<u16>, Place) {
    let mut origin = reader.place();
    let workers = reader.number("workers", 1..=MAX_WORKERS);
    let mut cpus = Vec::new();
    if let Some((items, place)) = reader.filled_list("cpus") {
        origin = place.clone();
        for item in items {
            cpus.extend(reader.number_of("cpus", item, 0..=1023));
        }
        let mut distinct: Vec<u32> = cpus.clone();
        distinct.sort_unstable();
        distinct.dedup();
        if distinct.len() != cpus.len() {
            let problem = "names a CPU twice".to_owned();
            reader.fault(
                place.clone(),
                "cpus",
                problem,
                "give each worker a CPU of its own",
            );
        }
        let wanted = workers.as_ref().map(|(count, _)| *count as usize);
        if wanted.is_some_and(|count| count != cpus.len()) {
            let problem = format!("{} CPUs for {} workers", cpus.len(), wanted.unwrap_or(0));
            reader.fault(place, "cpus", problem, "name one CPU for each worker");
        }
    }
    let count = match &workers {
        Some((count, _)) => narrow(*count),
        None => u16::try_from(cpus.len()).unwrap_or(1).max(1),
    };
    (count, cpus.into_iter().map(narrow).collect(), origin)
}

fn read_fdb(section: Section, faults: &mut Vec<Fault>) -> FdbLimits {
    let default = FdbLimits::default();
    let mut reader = Reader::new(section, faults);
    let number = |read: Option<(u32, Place)>, default| read.map_or(default, |(number, _)| number);
    let capacity = number(reader.number("capacity", 64..=MAX_FDB), default.capacity);
    let per_port = reader.number("per_port", 1..=MAX_FDB);
    let ageing = number(reader.number("ageing", 1..=MAX_AGEING), default.ageing);
    if let Some((number, place)) = &per_port
        && *number > capacity
    {
        let problem = format!("{number} is more than capacity, {capacity}");
        reader.fault(
            place.clone(),
            "per_port",
            problem,
            "raise capacity or lower per_port",
        );
    }
    reader.finish();
    FdbLimits {
        capacity,
        per_port: number(per_port, default.per_port.min(capacity)),
        ageing,
        ports: default.ports,
    }
}

fn read_conntrack(section: Section, faults: &mut Vec<Fault>) -> TrackingSpec {
    let default = TrackingSpec::default();
    let mut reader = Reader::new(section, faults);
    let quota = Connections::read(&mut reader, "per_port").quota(&quota(&default));
    let loose = reader.boolean("loose").unwrap_or(default.loose);
    let remedy = "write timeouts = { udp_single = 30 }, or a section [conntrack.timeouts]";
    let timeouts = match reader.section("timeouts", remedy) {
        Some(section) => read_timeouts(reader.within(section)),
        None => default.timeouts,
    };
    reader.finish();
    TrackingSpec {
        per_port: quota.connections,
        half_open_per_port: quota.half_open,
        new_per_second: quota.new_per_second,
        loose,
        timeouts,
    }
}

fn read_timeouts(mut reader: Reader<'_>) -> Timeouts {
    let default = Timeouts::default();
    let mut seconds = |key, default| {
        let read = reader.number(key, 1..=MAX_TIMEOUT);
        read.map_or(default, |(seconds, _)| seconds)
    };
    let timeouts = Timeouts {
        tcp_opening: seconds("tcp_opening", default.tcp_opening),
        tcp_established: seconds("tcp_established", default.tcp_established),
        tcp_closing: seconds("tcp_closing", default.tcp_closing),
        udp_single: seconds("udp_single", default.udp_single),
        udp_stream: seconds("udp_stream", default.udp_stream),
        other: seconds("other", default.other),
    };
    reader.finish();
    timeouts
}

fn quota(tracking: &TrackingSpec) -> ConnectionQuota {
    ConnectionQuota {
        connections: tracking.per_port,
        half_open: tracking.half_open_per_port,
        new_per_second: tracking.new_per_second,
    }
}
