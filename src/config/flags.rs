//! The flags of the command line, as the same entries that a file gives.

use super::nearest::nearest;
use super::raw::{Entry, Item, Raw, Section, Value};
use super::{Fault, Overrides, Place};

/// Keys of a port's flag, and the key of the file that each stands for.
const FLAG_KEYS: [(&str, &str); 23] = [
    ("acl", "acl"),
    ("addressing_rate", "addressing_rate"),
    ("connect", "connect"),
    ("connections", "connections"),
    ("dhcp_server", "dhcp_server"),
    ("group", "groups"),
    ("groups", "groups"),
    ("half_open", "half_open"),
    ("ip", "ip"),
    ("link_protocols", "link_protocols"),
    ("mac", "mac"),
    ("max_leases", "max_leases"),
    ("max_macs", "max_macs"),
    ("mode", "mode"),
    ("mtu", "mtu"),
    ("native", "native"),
    ("new_connections", "new_connections"),
    ("queues", "queues"),
    ("router", "router"),
    ("spoofing", "spoofing"),
    ("trunk", "trunk"),
    ("uplink", "uplink"),
    ("vlan", "vlan"),
];
/// Keys of a port's flag that stand in the table `limits` of the file.
const LIMIT_KEYS: [&str; 10] = [
    "broadcast",
    "burst",
    "membership",
    "multicast",
    "multicast_groups",
    "receive",
    "receive_frames",
    "send",
    "send_frames",
    "unknown",
];
/// Keys that may be given several times in one flag.
const LIST_KEYS: [&str; 5] = ["acl", "groups", "ip", "mac", "trunk"];
const FLAG_FORM: &str = "write --port NAME=PATH[,key=value]...";

/// Adds what the command line says; it replaces what the file said.
pub(super) fn add_overrides(raw: &mut Raw, overrides: &Overrides, faults: &mut Vec<Fault>) {
    let control = overrides.control.as_ref();
    let control = control.map(|path| path.to_string_lossy().into_owned());
    let scalars = [
        ("name", &overrides.name),
        ("mode", &overrides.mode),
        ("control", &control),
        ("workers", &overrides.workers),
        ("poll", &overrides.poll),
    ];
    for (key, value) in scalars {
        if let Some(word) = value {
            let place = Place::Flag(format!("--{key} {word}"));
            replace(&mut raw.switch, key, place, Value::Word(word.clone()));
        }
    }
    if !overrides.cpus.is_empty() {
        let place = Place::Flag(format!("--cpus {}", overrides.cpus.join(",")));
        let item = |word: &String| Item {
            place: place.clone(),
            value: Value::Word(word.clone()),
        };
        let list = Value::List(overrides.cpus.iter().map(item).collect());
        replace(&mut raw.switch, "cpus", place.clone(), list);
    }
    for flag in &overrides.ports {
        match parse_port_flag(flag) {
            Ok(port) => raw.ports.push(port),
            Err(fault) => faults.push(fault),
        }
    }
}

fn replace(section: &mut Section, key: &str, place: Place, value: Value) {
    section.entries.retain(|entry| entry.key != key);
    section.entries.push(Entry {
        key: key.to_owned(),
        item: Item { place, value },
    });
}

/// `NAME=PATH[,key=value]...` to the same entries as a `[port.NAME]` section.
fn parse_port_flag(flag: &str) -> Result<(String, Section), Fault> {
    let place = Place::Flag(format!("--port {flag}"));
    let refuse = |subject: &str, problem: String, remedy: String| Fault {
        place: place.clone(),
        subject: subject.to_owned(),
        problem,
        remedy,
    };
    let mut parts = flag.split(',');
    let (name, path) = parts
        .next()
        .and_then(|first| first.split_once('='))
        .filter(|(name, path)| !name.is_empty() && !path.is_empty())
        .ok_or_else(|| refuse("", "has no NAME=PATH".to_owned(), FLAG_FORM.to_owned()))?;
    let title = format!("port {name:?}");
    let mut section = Section {
        title: title.clone(),
        place: place.clone(),
        entries: Vec::new(),
    };
    replace(
        &mut section,
        "socket",
        place.clone(),
        Value::Word(path.to_owned()),
    );
    for part in parts {
        let (key, word) = part.split_once('=').ok_or_else(|| {
            let problem = format!("{part:?} is not key=value");
            refuse(&title, problem, FLAG_FORM.to_owned())
        })?;
        let limit = LIMIT_KEYS.iter().find(|name| **name == key);
        let known = FLAG_KEYS.iter().find(|(name, _)| *name == key);
        let known = known.map(|(_, key)| key).or(limit);
        let Some(key_of_file) = known else {
            let names: Vec<&str> = FLAG_KEYS.iter().map(|(name, _)| *name).collect();
            let names = [&names[..], &LIMIT_KEYS].concat();
            let remedy = match nearest(key, &names) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("the keys of --port are {}", names.join(", ")),
            };
            return Err(refuse(
                &format!("{title}: {key}"),
                "unknown key".to_owned(),
                remedy,
            ));
        };
        let item = Item {
            place: place.clone(),
            value: Value::Word(word.to_owned()),
        };
        let added = if limit.is_some() {
            add_limit(&mut section, key_of_file, item)
        } else {
            add_flag_key(&mut section, key_of_file, item)
        };
        added.map_err(|()| {
            let remedy = "give it once".to_owned();
            refuse(&format!("{title}: {key}"), "given twice".to_owned(), remedy)
        })?;
    }
    Ok((name.to_owned(), section))
}

fn add_flag_key(section: &mut Section, key: &str, item: Item) -> Result<(), ()> {
    let is_list = LIST_KEYS.contains(&key);
    let place = item.place.clone();
    let found = section.entries.iter_mut().find(|entry| entry.key == key);
    match found.map(|entry| &mut entry.item.value) {
        Some(Value::List(items)) => items.push(item),
        Some(_) => return Err(()),
        None => {
            let value = if is_list {
                Value::List(vec![item])
            } else {
                item.value
            };
            replace(section, key, place, value);
        }
    }
    Ok(())
}

/// A key of the table `limits`.
fn add_limit(section: &mut Section, key: &str, item: Item) -> Result<(), ()> {
    let place = item.place.clone();
    let entry = Entry {
        key: key.to_owned(),
        item,
    };
    let found = section
        .entries
        .iter_mut()
        .find(|entry| entry.key == "limits");
    match found.map(|entry| &mut entry.item.value) {
        Some(Value::Table(limits)) if limits.iter().any(|limit| limit.key == key) => Err(()),
        Some(Value::Table(limits)) => {
            limits.push(entry);
            Ok(())
        }
        _ => {
            replace(section, "limits", place, Value::Table(vec![entry]));
            Ok(())
        }
    }
}
