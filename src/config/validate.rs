//! Second step: entries to meaning, and the rules that hold between ports.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::paths::default_control_path;
use super::raw::{Item, Raw, Section, Value};
use super::reader::Reader;
use super::spec::{MAX_MTU, MAX_NAME, MAX_QUEUES, MAX_SOCKET_PATH, MIN_MTU, PortSpec, SwitchSpec};
use super::{Fault, Place};
use crate::counters::MAX_PORTS;
use crate::datapath::PollMode;
use crate::fabric::{FdbLimits, Mode, VidSet, VlanMembership};
use crate::frame::{Mac, Vid};
use crate::port::endpoint::Endpoint;

const MODES: [(&str, Mode); 3] = [
    ("bridge", Mode::Bridge),
    ("isolated", Mode::Isolated),
    ("private", Mode::Private),
];
const POLLS: [(&str, PollMode); 3] = [
    ("adaptive", PollMode::Adaptive),
    ("always", PollMode::Always),
    ("never", PollMode::Never),
];
const MAX_WORKERS: u32 = 64;
const MAX_SPIN_US: u32 = 10_000;
const DEFAULT_SPIN_US: u32 = 50;
const MAX_FDB: u32 = 1 << 20;
const MAX_AGEING: u32 = 1_000_000;
const MAX_VLAN: u32 = 4094;
const MAX_GROUPS: usize = 64;
const NAME_RULE: &str = "choose 1 to 32 of A-Z a-z 0-9 _ . - and begin with a letter, a digit or _";
const SOCKET_RULE: &str = "name the Unix socket, such as socket = \"/run/portcullis/web.sock\"";
const MAC_RULE: &str = "give a guest's own address, such as 52:54:00:12:34:56";

/// Gives meaning to `raw`. The result is to be used only if `faults` is empty afterwards.
pub(super) fn validate(mut raw: Raw, file: Option<&Path>, faults: &mut Vec<Fault>) -> SwitchSpec {
    faults.append(&mut raw.strays);
    let whole = raw.switch.place.clone();
    let whole = match whole {
        Place::Line { file, .. } => Place::Whole(file),
        other => other,
    };
    let mut fdb = read_fdb(raw.fdb, faults);
    let switch = read_switch(raw.switch, file, faults);
    let mut ports = Vec::new();
    for (name, section) in raw.ports {
        ports.extend(read_port(name, section, switch.mode, &fdb, faults));
    }
    fdb.ports = u16::try_from(ports.len()).unwrap_or(u16::MAX);
    check_count(&ports, &whole, faults);
    check_between(&ports, faults);
    check_control(&switch, &ports, faults);
    SwitchSpec {
        name: switch.name,
        control: switch.control,
        control_origin: switch.control_origin,
        control_is_default: switch.control_is_default,
        workers: switch.workers,
        cpus: switch.cpus,
        poll: switch.poll,
        spin_us: switch.spin_us,
        fdb,
        ports,
    }
}

/// `[switch]`, read.
struct Switch {
    name: String,
    mode: Mode,
    control: PathBuf,
    control_origin: Place,
    control_is_default: bool,
    workers: u16,
    cpus: Vec<u16>,
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
    let control = reader.text("control", "name the control socket's path");
    let control = control.and_then(|(path, place)| {
        Some((socket_path(&mut reader, "control", path, &place)?, place))
    });
    let (workers, cpus) = read_workers(&mut reader);
    let poll = reader.choice("poll", &POLLS).unwrap_or_default();
    let spin_us = reader.number("spin_us", 0..=MAX_SPIN_US);
    reader.finish();
    let control_is_default = control.is_none();
    let (control, control_origin) = control.unwrap_or_else(|| (default_control_path(&name), place));
    Switch {
        name,
        mode,
        control,
        control_origin,
        control_is_default,
        workers,
        cpus,
        poll,
        spin_us: spin_us.map_or(DEFAULT_SPIN_US, |(us, _)| us),
    }
}

fn read_workers(reader: &mut Reader<'_>) -> (u16, Vec<u16>) {
    let workers = reader.number("workers", 1..=MAX_WORKERS);
    let mut cpus = Vec::new();
    if let Some((items, place)) = reader.list("cpus") {
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
    (count, cpus.into_iter().map(narrow).collect())
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

fn read_port(
    name: String,
    section: Section,
    default_mode: Mode,
    fdb: &FdbLimits,
    faults: &mut Vec<Fault>,
) -> Option<PortSpec> {
    let mut reader = Reader::new(section, faults);
    let place = reader.place();
    if !valid_name(&name) {
        reader.fault(
            place.clone(),
            "",
            format!("{name:?} is not a name"),
            NAME_RULE,
        );
    }
    let had_socket = reader.has("socket");
    let socket = reader
        .text("socket", SOCKET_RULE)
        .and_then(|(path, place)| {
            let path = socket_path(&mut reader, "socket", path, &place)?;
            Some((path, place))
        });
    if !had_socket {
        reader.fault(place, "socket", "is missing".to_owned(), SOCKET_RULE);
    }
    let connect = reader.boolean("connect").unwrap_or(false);
    let mode = reader.choice("mode", &MODES).unwrap_or(default_mode);
    let uplink = reader.boolean("uplink").unwrap_or(false);
    let groups = read_groups(&mut reader);
    let macs = read_macs(&mut reader, fdb);
    let vlan = read_vlan(&mut reader);
    let queues = reader.number("queues", 1..=u32::from(MAX_QUEUES));
    let mtu = reader.number("mtu", u32::from(MIN_MTU)..=u32::from(MAX_MTU));
    reader.finish();
    let (path, origin) = socket?;
    Some(PortSpec {
        name,
        endpoint: if connect {
            Endpoint::Connect(path)
        } else {
            Endpoint::Listen(path)
        },
        mode,
        uplink,
        groups,
        macs,
        vlan,
        queues: queues.map_or(1, |(pairs, _)| narrow(pairs)),
        mtu: mtu.map(|(mtu, _)| narrow(mtu)),
        origin,
    })
}

fn read_groups(reader: &mut Reader<'_>) -> Vec<String> {
    let mut groups: Vec<String> = Vec::new();
    let Some((items, place)) = reader.list("groups") else {
        return groups;
    };
    for item in items {
        let Some((name, place)) = reader.text_of("groups", item, NAME_RULE) else {
            continue;
        };
        if !valid_name(&name) {
            reader.fault(
                place,
                "groups",
                format!("{name:?} is not a name"),
                NAME_RULE,
            );
        } else if !groups.contains(&name) {
            groups.push(name);
        }
    }
    if groups.len() > MAX_GROUPS {
        let problem = format!("names {} groups", groups.len());
        reader.fault(place, "groups", problem, "a port may be in 64 at most");
    }
    groups
}

fn read_macs(reader: &mut Reader<'_>, fdb: &FdbLimits) -> Vec<Mac> {
    let mut macs = Vec::new();
    let Some((items, place)) = reader.list("mac") else {
        return macs;
    };
    for item in items {
        let Some((text, place)) = reader.text_of("mac", item, MAC_RULE) else {
            continue;
        };
        match parse_mac(&text) {
            Ok(mac) if macs.contains(&mac) => {
                reader.fault(
                    place,
                    "mac",
                    format!("{mac} stands there twice"),
                    "name it once",
                );
            }
            Ok(mac) => macs.push(mac),
            Err(why) => reader.fault(place, "mac", format!("{text:?} {why}"), MAC_RULE),
        }
    }
    if macs.len() > fdb.per_port as usize {
        let problem = format!(
            "{} addresses, and [fdb] per_port is {}",
            macs.len(),
            fdb.per_port
        );
        reader.fault(place, "mac", problem, "raise per_port or name fewer");
    }
    macs
}

/// The address of one station.
fn parse_mac(text: &str) -> Result<Mac, &'static str> {
    let mac: Mac = text.parse().map_err(|_| "is not a MAC address")?;
    if mac.is_station() {
        return Ok(mac);
    }
    Err(match mac {
        _ if mac.is_zero() => "is zero",
        _ if mac.is_broadcast() => "is the broadcast address",
        _ => "is a multicast address",
    })
}

fn read_vlan(reader: &mut Reader<'_>) -> VlanMembership {
    let access = reader.number("vlan", 1..=MAX_VLAN);
    let trunk = reader.list("trunk");
    let native = reader.number("native", 1..=MAX_VLAN);
    let vid = |(number, _): (u32, Place)| Vid::new(narrow(number)).unwrap_or(Vid::DEFAULT);
    let Some((items, place)) = trunk else {
        if let Some((_, place)) = native {
            let problem = "is for trunk ports".to_owned();
            reader.fault(
                place,
                "native",
                problem,
                "add trunk = [...], or write vlan instead",
            );
        }
        return VlanMembership::Access(access.map_or(Vid::DEFAULT, vid));
    };
    if access.is_some() {
        let problem = "stands beside vlan".to_owned();
        let remedy = "vlan is for access ports and trunk for trunk ports: keep one";
        reader.fault(place.clone(), "trunk", problem, remedy);
    }
    let is_empty = items.is_empty();
    let mut allowed = VidSet::empty();
    for item in items {
        let (first, last) = read_vlan_range(reader, item).unwrap_or((1, 0));
        for vid in (first..=last).filter_map(Vid::new) {
            allowed.insert(vid);
        }
    }
    if is_empty {
        let remedy = "name segments, such as trunk = [10, \"20-29\"], or trunk = \"all\"";
        reader.fault(place, "trunk", "allows no segment".to_owned(), remedy);
    }
    VlanMembership::Trunk {
        allowed,
        native: native.map(vid),
    }
}

/// `10`, `"20-29"` or `"all"`.
fn read_vlan_range(reader: &mut Reader<'_>, item: Item) -> Option<(u16, u16)> {
    let last = narrow(MAX_VLAN);
    let place = item.place.clone();
    let (first, end) = match &item.value {
        Value::Text(word) | Value::Word(word) if word == "all" => return Some((1, last)),
        Value::Text(word) | Value::Word(word) if word.contains('-') => {
            let (first, end) = word.split_once('-')?;
            (first.trim().to_owned(), end.trim().to_owned())
        }
        Value::Text(word) => (word.clone(), word.clone()),
        _ => {
            let vid = narrow(reader.number_of("trunk", item, 1..=MAX_VLAN)?);
            return Some((vid, vid));
        }
    };
    let mut ends = [first, end].into_iter().map(|word| {
        let value = Value::Word(word);
        let place = place.clone();
        reader.number_of("trunk", Item { place, value }, 1..=MAX_VLAN)
    });
    let (first, end) = (narrow(ends.next()??), narrow(ends.next()??));
    if first > end {
        let problem = format!("{first}-{end} runs backwards");
        reader.fault(place, "trunk", problem, "write the smaller number first");
        return None;
    }
    Some((first, end))
}

fn socket_path(
    reader: &mut Reader<'_>,
    key: &'static str,
    path: String,
    place: &Place,
) -> Option<PathBuf> {
    let problem = if path.len() > MAX_SOCKET_PATH {
        format!("a path of {} bytes", path.len())
    } else if path.contains('\0') {
        "a path with a NUL in it".to_owned()
    } else if path.ends_with('/') {
        format!("{path:?} names a directory")
    } else {
        return Some(PathBuf::from(path));
    };
    let remedy = "a Unix socket's path is a file name of at most 107 bytes: choose another";
    reader.fault(place.clone(), key, problem, remedy);
    None
}

fn valid_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    let first = bytes.next();
    first.is_some_and(|c| c.is_ascii_alphanumeric() || c == b'_')
        && name.len() <= MAX_NAME
        && bytes.all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-'))
}

/// The value is already known to fit: the range of its key said so.
fn narrow(number: u32) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

fn check_count(ports: &[PortSpec], whole: &Place, faults: &mut Vec<Fault>) {
    let (problem, remedy) = if ports.len() > MAX_PORTS {
        let problem = format!(
            "{} ports, and a switch has {MAX_PORTS} at most",
            ports.len()
        );
        (problem, "run a second switch for the rest")
    } else if ports.is_empty() && faults.is_empty() {
        let remedy = "add [port.NAME] with its socket, or --port NAME=PATH";
        ("a switch without ports".to_owned(), remedy)
    } else {
        return;
    };
    faults.push(Fault {
        place: whole.clone(),
        subject: String::new(),
        problem,
        remedy: remedy.to_owned(),
    });
}

/// No two ports share a name, a socket or an address.
fn check_between(ports: &[PortSpec], faults: &mut Vec<Fault>) {
    let mut names: HashMap<&str, &PortSpec> = HashMap::new();
    let mut sockets: HashMap<PathBuf, &PortSpec> = HashMap::new();
    let mut macs: HashMap<Mac, &PortSpec> = HashMap::new();
    for port in ports {
        let mut refuse = |key: &str, problem: String, remedy: &str| {
            faults.push(Fault {
                place: port.origin.clone(),
                subject: format!("port {:?}{key}", port.name),
                problem,
                remedy: remedy.to_owned(),
            });
        };
        if let Some(first) = names.insert(&port.name, port) {
            let problem = format!("the name is taken at {}", first.origin);
            refuse("", problem, "give each port its own name");
        }
        let path = port.endpoint.path();
        if let Some(first) = sockets.insert(same_path(path), port) {
            let problem = format!(
                "{} is the socket of port {:?} at {}",
                path.display(),
                first.name,
                first.origin
            );
            refuse(": socket", problem, "give each port its own socket");
        }
        for mac in &port.macs {
            if let Some(first) = macs.insert(*mac, port)
                && first.name != port.name
            {
                let problem = format!(
                    "{mac} is an address of port {:?} at {}",
                    first.name, first.origin
                );
                refuse(": mac", problem, "an address belongs to one port");
            }
        }
    }
}

fn check_control(switch: &Switch, ports: &[PortSpec], faults: &mut Vec<Fault>) {
    let control = &switch.control;
    let mut refuse = |problem: String, remedy: &str| {
        faults.push(Fault {
            place: switch.control_origin.clone(),
            subject: "[switch]: control".to_owned(),
            problem,
            remedy: remedy.to_owned(),
        });
    };
    let clash = ports
        .iter()
        .find(|port| same_path(port.endpoint.path()) == same_path(control));
    if let Some(port) = clash {
        let problem = format!(
            "{} is the socket of port {:?}",
            control.display(),
            port.name
        );
        refuse(problem, "give the control socket a path of its own");
    }
    let length = control.as_os_str().as_bytes().len();
    if switch.control_is_default && length > MAX_SOCKET_PATH {
        let problem = format!(
            "the default path, {}, has {length} bytes",
            control.display()
        );
        refuse(
            problem,
            "choose a shorter one with control = \"PATH\" or --control PATH",
        );
    }
}

/// One spelling for each file, as far as that can be told without looking at the file system.
fn same_path(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
