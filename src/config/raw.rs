//! First step: text to entries with their places. Nothing has a meaning yet.

use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::nearest::nearest;
use super::{ConfigError, Fault, Overrides, Place};

/// A value as it was written.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// A TOML string.
    Text(String),
    /// From a flag, where every value is a word and its key says what it is.
    Word(String),
    /// An integer.
    Number(i128),
    /// `true` or `false`.
    Boolean(bool),
    /// An array, or a flag's key given several times.
    List(Vec<Item>),
    /// A shape that no key takes, by name.
    Other(&'static str),
}

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Item {
    pub(super) place: Place,
    pub(super) value: Value,
}

/// `key = value`.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) item: Item,
}

/// A table of the file, or one flag.
#[derive(Debug, Clone)]
pub(super) struct Section {
    /// How faults call it: `[switch]`, `port "web"`.
    pub(super) title: String,
    pub(super) place: Place,
    pub(super) entries: Vec<Entry>,
}

/// The whole configuration before it means anything.
#[derive(Debug, Clone)]
pub(super) struct Raw {
    pub(super) switch: Section,
    pub(super) fdb: Section,
    /// By name.
    pub(super) ports: Vec<(String, Section)>,
    /// Sections that nobody knows, and sections that are no tables.
    pub(super) strays: Vec<Fault>,
}

/// Keys of a port's flag, and the key of the file that each stands for.
const FLAG_KEYS: [(&str, &str); 11] = [
    ("connect", "connect"),
    ("group", "groups"),
    ("groups", "groups"),
    ("mac", "mac"),
    ("mode", "mode"),
    ("mtu", "mtu"),
    ("native", "native"),
    ("queues", "queues"),
    ("trunk", "trunk"),
    ("uplink", "uplink"),
    ("vlan", "vlan"),
];
/// Keys that may be given several times in one flag.
const LIST_KEYS: [&str; 3] = ["groups", "mac", "trunk"];
const FLAG_FORM: &str = "write --port NAME=PATH[,key=value]...";

/// Knows on which line each byte stands.
struct Source<'t> {
    file: String,
    text: &'t str,
}

impl Source<'_> {
    fn at(&self, span: &Range<usize>) -> Place {
        let before = self.text.as_bytes().iter().take(span.start);
        let line = 1 + before.filter(|byte| **byte == b'\n').count();
        Place::Line {
            file: self.file.clone(),
            line,
        }
    }

    fn item(&self, value: &Spanned<DeValue<'_>>) -> Item {
        let place = self.at(&value.span());
        let value = match value.get_ref() {
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Integer(digits) => i128::from_str_radix(digits.as_str(), digits.radix())
                .map_or(Value::Other("an integer out of range"), Value::Number),
            DeValue::Boolean(flag) => Value::Boolean(*flag),
            DeValue::Array(items) => {
                Value::List(items.iter().map(|item| self.item(item)).collect())
            }
            DeValue::Float(_) => Value::Other("a number with a fraction"),
            DeValue::Datetime(_) => Value::Other("a date"),
            DeValue::Table(_) => Value::Other("a table"),
        };
        Item { place, value }
    }

    fn section(&self, title: String, place: Place, table: &DeTable<'_>) -> Section {
        let mut spanned: Vec<_> = table.iter().collect();
        spanned.sort_by_key(|(key, _)| key.span().start);
        let entries = spanned
            .into_iter()
            .map(|(key, value)| Entry {
                key: key.get_ref().to_string(),
                item: Item {
                    place: self.at(&key.span()),
                    ..self.item(value)
                },
            })
            .collect();
        Section {
            title,
            place,
            entries,
        }
    }

    fn syntax_error(&self, error: &toml::de::Error) -> ConfigError {
        let place = error
            .span()
            .map_or(Place::Whole(self.file.clone()), |span| self.at(&span));
        let message = error.message().trim().replace('\n', ", ");
        let remedy = if message.contains("duplicate key") {
            "a key stands once in its section, and every port has a name of its own"
        } else {
            "a section is [port.NAME], an entry is key = \"value\"; examples/lan.toml shows all of them"
        };
        ConfigError::Invalid(vec![Fault {
            place,
            subject: String::new(),
            problem: format!("not valid TOML: {message}"),
            remedy: remedy.to_owned(),
        }])
    }
}

/// Text of a file to entries. Without a file the result is empty sections, for flags to fill.
pub(super) fn parse_file(file: Option<&Path>, text: &str) -> Result<Raw, ConfigError> {
    let source = Source {
        file: file.map_or("command line".to_owned(), |path| path.display().to_string()),
        text,
    };
    let whole = Place::Whole(source.file.clone());
    let empty = |title: &str| Section {
        title: title.to_owned(),
        place: whole.clone(),
        entries: Vec::new(),
    };
    let mut raw = Raw {
        switch: empty("[switch]"),
        fdb: empty("[fdb]"),
        ports: Vec::new(),
        strays: Vec::new(),
    };
    let table = DeTable::parse(text).map_err(|error| source.syntax_error(&error))?;
    let mut sections: Vec<_> = table.get_ref().iter().collect();
    sections.sort_by_key(|(key, _)| key.span().start);
    for (key, value) in sections {
        let place = source.at(&key.span());
        match (key.get_ref().as_ref(), value.get_ref()) {
            ("switch", DeValue::Table(table)) => {
                raw.switch = source.section("[switch]".to_owned(), place, table);
            }
            ("fdb", DeValue::Table(table)) => {
                raw.fdb = source.section("[fdb]".to_owned(), place, table);
            }
            ("port", DeValue::Table(ports)) => add_ports(&source, ports, &mut raw),
            ("port", _) => raw.strays.push(Fault {
                place,
                subject: "port".to_owned(),
                problem: "is not a section".to_owned(),
                remedy: "write [port.NAME] for each port".to_owned(),
            }),
            (known @ ("switch" | "fdb"), _) => raw.strays.push(Fault {
                place,
                subject: known.to_owned(),
                problem: "is not a section".to_owned(),
                remedy: format!("write [{known}] on a line of its own"),
            }),
            (unknown, value) => raw.strays.push(stray(place, unknown, value)),
        }
    }
    Ok(raw)
}

fn add_ports(source: &Source<'_>, ports: &DeTable<'_>, raw: &mut Raw) {
    let mut ports: Vec<_> = ports.iter().collect();
    ports.sort_by_key(|(key, _)| key.span().start);
    for (key, value) in ports {
        let name = key.get_ref().to_string();
        let place = source.at(&key.span());
        match value.get_ref() {
            DeValue::Table(table) => {
                let section = source.section(format!("port {name:?}"), place, table);
                raw.ports.push((name, section));
            }
            _ => raw.strays.push(Fault {
                place,
                subject: format!("port.{name}"),
                problem: "is not a section".to_owned(),
                remedy: format!(
                    "[port] holds ports only: write [port.{name}], or put the key into one"
                ),
            }),
        }
    }
}

fn stray(place: Place, name: &str, value: &DeValue<'_>) -> Fault {
    let is_section = matches!(value, DeValue::Table(_) | DeValue::Array(_));
    let what = if is_section { "section" } else { "key" };
    let remedy = match nearest(name, &["switch", "fdb", "port"]) {
        Some("port") if is_section => "did you mean [port.NAME]?".to_owned(),
        Some(known) => format!("did you mean [{known}]?"),
        None => "there are [switch], [fdb] and [port.NAME]".to_owned(),
    };
    Fault {
        place,
        subject: name.to_owned(),
        problem: format!("unknown {what}"),
        remedy,
    }
}

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
        let known = FLAG_KEYS.iter().find(|(name, _)| *name == key);
        let Some((_, key_of_file)) = known else {
            let names = FLAG_KEYS.map(|(name, _)| name);
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
        add_flag_key(&mut section, key_of_file, item).map_err(|()| {
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
