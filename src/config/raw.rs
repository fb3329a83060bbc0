//! First step: text to entries with their places. Nothing has a meaning yet.

use std::num::NonZeroU32;
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::nearest::nearest;
use super::{ConfigError, Fault, Place};

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
    /// An inline table, or a section within a section.
    Table(Vec<Entry>),
    /// A shape that no key takes, by name.
    Other(&'static str),
}

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Item {
    pub(super) place: Place,
    pub(super) value: Value,
}

impl Item {
    /// Has it, and each item of a list, stand at `place`, if that is on its line.
    fn move_to(&mut self, place: &Place) {
        if let (Place::Line { line, .. }, Place::Line { line: other, .. }) = (&self.place, place)
            && line == other
        {
            self.place = place.clone();
        }
        if let Value::List(items) = &mut self.value {
            for item in items {
                item.move_to(place);
            }
        }
    }

    /// Whether it is just that word.
    pub(super) fn is_word(&self, word: &str) -> bool {
        matches!(&self.value, Value::Text(text) | Value::Word(text) if text == word)
    }
}

/// `key = value`.
#[derive(Debug, Clone, PartialEq)]
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

/// Sections of one kind, each with its name.
pub(super) type Named = Vec<(String, Section)>;

/// The whole configuration before it means anything.
#[derive(Debug, Clone)]
pub(super) struct Raw {
    pub(super) switch: Section,
    pub(super) fdb: Section,
    pub(super) conntrack: Section,
    pub(super) defaults: Section,
    pub(super) ports: Named,
    pub(super) groups: Named,
    pub(super) sets: Named,
    pub(super) lists: Named,
    pub(super) asserts: Vec<Section>,
    /// Sections that nobody knows, and sections that are no tables.
    pub(super) strays: Vec<Fault>,
}

/// Every section, and how it is written.
const SECTIONS: [(&str, &str); 9] = [
    ("switch", "[switch]"),
    ("fdb", "[fdb]"),
    ("conntrack", "[conntrack]"),
    ("defaults", "[defaults]"),
    ("port", "[port.NAME]"),
    ("group", "[group.NAME]"),
    ("acl", "[acl.NAME]"),
    ("set", "[set.NAME]"),
    ("assert", "[[assert]]"),
];

/// Knows on which line each byte stands.
struct Source {
    file: String,
    /// Where the lines after the first begin.
    lines: Vec<usize>,
}

/// From 1, of what is counted from 0. A text is no longer than 16 MiB.
fn counted(from_zero: usize) -> u32 {
    u32::try_from(from_zero)
        .unwrap_or(u32::MAX)
        .saturating_add(1)
}

impl Source {
    fn new(file: String, text: &str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let lines = ends.map(|(at, _)| at + 1).collect();
        Self { file, lines }
    }

    fn line(&self, at: usize) -> usize {
        self.lines.partition_point(|begin| *begin <= at)
    }

    fn at(&self, span: &Range<usize>) -> Place {
        Place::Line {
            file: self.file.clone(),
            line: counted(self.line(span.start)),
            column: None,
        }
    }

    /// The same with the column, in bytes.
    fn at_column(&self, span: &Range<usize>) -> Place {
        let line = self.line(span.start);
        let begin = match line.checked_sub(1) {
            None => 0,
            Some(before) => self.lines.get(before).copied().unwrap_or(0),
        };
        Place::Line {
            file: self.file.clone(),
            line: counted(line),
            column: NonZeroU32::new(counted(span.start.saturating_sub(begin))),
        }
    }

    /// The items of an array. Tables that share a line are told apart by their columns, and so is what stands in them.
    fn items(&self, items: &[Spanned<DeValue<'_>>]) -> Vec<Item> {
        let is_table = |item: &Spanned<DeValue<'_>>| matches!(item.get_ref(), DeValue::Table(_));
        let line = |item: &Spanned<DeValue<'_>>| self.line(item.span().start);
        let tables: Vec<usize> = items
            .iter()
            .filter(|item| is_table(item))
            .map(line)
            .collect();
        let shares = |of: usize| {
            // They stand in order.
            let first = tables.partition_point(|line| *line < of);
            tables.get(first + 1) == Some(&of)
        };
        let items = items.iter().map(|value| {
            let mut item = self.item(value);
            if is_table(value) && shares(line(value)) {
                item.place = self.at_column(&value.span());
                if let Value::Table(entries) = &mut item.value {
                    for entry in entries {
                        entry.item.move_to(&item.place);
                    }
                }
            }
            item
        });
        items.collect()
    }

    fn item(&self, value: &Spanned<DeValue<'_>>) -> Item {
        let place = self.at(&value.span());
        let value = match value.get_ref() {
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Integer(digits) => i128::from_str_radix(digits.as_str(), digits.radix())
                .map_or(Value::Other("an integer out of range"), Value::Number),
            DeValue::Boolean(flag) => Value::Boolean(*flag),
            DeValue::Array(items) => Value::List(self.items(items)),
            DeValue::Table(table) => Value::Table(self.entries(table)),
            DeValue::Float(_) => Value::Other("a number with a fraction"),
            DeValue::Datetime(_) => Value::Other("a date"),
        };
        Item { place, value }
    }

    fn entries(&self, table: &DeTable<'_>) -> Vec<Entry> {
        let mut spanned: Vec<_> = table.iter().collect();
        spanned.sort_by_key(|(key, _)| key.span().start);
        let entries = spanned.into_iter().map(|(key, value)| Entry {
            key: key.get_ref().to_string(),
            item: Item {
                place: self.at(&key.span()),
                ..self.item(value)
            },
        });
        entries.collect()
    }

    fn section(&self, title: String, place: Place, table: &DeTable<'_>) -> Section {
        Section {
            title,
            place,
            entries: self.entries(table),
        }
    }

    /// The sections of one kind, such as all `[port.NAME]`.
    fn named(&self, kind: &str, table: &DeTable<'_>, strays: &mut Vec<Fault>) -> Named {
        let mut sections: Vec<_> = table.iter().collect();
        sections.sort_by_key(|(key, _)| key.span().start);
        let mut named = Vec::with_capacity(sections.len());
        for (key, value) in sections {
            let name = key.get_ref().to_string();
            let place = self.at(&key.span());
            match value.get_ref() {
                DeValue::Table(table) => {
                    let section = self.section(format!("{kind} {name:?}"), place, table);
                    named.push((name, section));
                }
                _ => strays.push(Fault {
                    place,
                    subject: format!("{kind}.{name}"),
                    problem: "is not a section".to_owned(),
                    remedy: format!(
                        "[{kind}] holds {kind}s only: write [{kind}.{name}], or put the key into one"
                    ),
                }),
            }
        }
        named
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

impl Raw {
    fn empty(whole: &Place) -> Self {
        let empty = |title: &str| Section {
            title: title.to_owned(),
            place: whole.clone(),
            entries: Vec::new(),
        };
        Self {
            switch: empty("[switch]"),
            fdb: empty("[fdb]"),
            conntrack: empty("[conntrack]"),
            defaults: empty("[defaults]"),
            ports: Vec::new(),
            groups: Vec::new(),
            sets: Vec::new(),
            lists: Vec::new(),
            asserts: Vec::new(),
            strays: Vec::new(),
        }
    }

    /// Takes one section of the file in.
    fn add(&mut self, source: &Source, key: &str, place: Place, value: &DeValue<'_>) {
        let DeValue::Table(table) = value else {
            return self.add_other(source, key, place, value);
        };
        let single = match key {
            "switch" => &mut self.switch,
            "fdb" => &mut self.fdb,
            "conntrack" => &mut self.conntrack,
            "defaults" => &mut self.defaults,
            "port" => return self.ports = source.named(key, table, &mut self.strays),
            "group" => return self.groups = source.named(key, table, &mut self.strays),
            "set" => return self.sets = source.named(key, table, &mut self.strays),
            "acl" => return self.lists = source.named(key, table, &mut self.strays),
            _ => return self.add_other(source, key, place, value),
        };
        *single = source.section(format!("[{key}]"), place, table);
    }

    /// `[[assert]]`, and whatever has the wrong shape or name.
    fn add_other(&mut self, source: &Source, key: &str, place: Place, value: &DeValue<'_>) {
        let known = SECTIONS.iter().find(|(name, _)| *name == key);
        match (known, value) {
            (Some(("assert", form)), DeValue::Array(items)) => {
                for item in items.iter() {
                    let place = source.at(&item.span());
                    match item.get_ref() {
                        DeValue::Table(table) => {
                            let section = source.section((*form).to_owned(), place, table);
                            self.asserts.push(section);
                        }
                        _ => self.strays.push(no_section(place, key, form)),
                    }
                }
            }
            (Some((_, form)), _) => self.strays.push(no_section(place, key, form)),
            (None, _) => self.strays.push(stray(place, key, value)),
        }
    }
}

/// Text of a file to entries. Without a file the result is empty sections, for flags to fill.
pub(super) fn parse_file(file: Option<&Path>, text: &str) -> Result<Raw, ConfigError> {
    let name = file.map_or("command line".to_owned(), |path| path.display().to_string());
    let source = Source::new(name, text);
    let mut raw = Raw::empty(&Place::Whole(source.file.clone()));
    let table = DeTable::parse(text).map_err(|error| source.syntax_error(&error))?;
    let mut sections: Vec<_> = table.get_ref().iter().collect();
    sections.sort_by_key(|(key, _)| key.span().start);
    for (key, value) in sections {
        let place = source.at(&key.span());
        raw.add(&source, key.get_ref(), place, value.get_ref());
    }
    Ok(raw)
}

fn no_section(place: Place, name: &str, form: &str) -> Fault {
    Fault {
        place,
        subject: name.to_owned(),
        problem: "is not a section".to_owned(),
        remedy: format!("write {form} on a line of its own"),
    }
}

fn stray(place: Place, name: &str, value: &DeValue<'_>) -> Fault {
    let is_section = matches!(value, DeValue::Table(_) | DeValue::Array(_));
    let what = if is_section { "section" } else { "key" };
    let names = SECTIONS.map(|(name, _)| name);
    let near = nearest(name, &names);
    let form = |name| SECTIONS.iter().find(|(known, _)| Some(*known) == name);
    let remedy = match form(near) {
        Some((_, form)) => format!("did you mean {form}?"),
        None => format!(
            "the sections are {}",
            SECTIONS.map(|(_, form)| form).join(", ")
        ),
    };
    Fault {
        place,
        subject: name.to_owned(),
        problem: format!("unknown {what}"),
        remedy,
    }
}
