//! Takes typed values out of a section, and notices what nobody took.

use std::ops::RangeInclusive;

use super::nearest::nearest;
use super::raw::{Item, Section, Value};
use super::{Fault, Place};

/// Reads one section. Each key is asked for once, by type; [`Reader::finish`] refuses the rest.
pub(super) struct Reader<'f> {
    section: Section,
    asked: Vec<&'static str>,
    faults: &'f mut Vec<Fault>,
}

impl<'f> Reader<'f> {
    pub(super) fn new(section: Section, faults: &'f mut Vec<Fault>) -> Self {
        Self {
            section,
            asked: Vec::new(),
            faults,
        }
    }

    /// Where the section begins.
    pub(super) fn place(&self) -> Place {
        self.section.place.clone()
    }

    /// Notes a fault of `key` at `place`.
    pub(super) fn fault(&mut self, place: Place, key: &str, problem: String, remedy: &str) {
        let title = &self.section.title;
        self.faults.push(Fault {
            place,
            subject: if key.is_empty() {
                title.clone()
            } else {
                format!("{title}: {key}")
            },
            problem,
            remedy: remedy.to_owned(),
        });
    }

    /// How many faults there are so far, of all sections.
    pub(super) fn faults(&self) -> usize {
        self.faults.len()
    }

    /// Whether `key` is still to be read.
    pub(super) fn has(&self, key: &str) -> bool {
        self.section.entries.iter().any(|entry| entry.key == key)
    }

    /// Where `key` was written.
    pub(super) fn place_of(&self, key: &str) -> Option<Place> {
        let found = self.section.entries.iter().find(|entry| entry.key == key);
        found.map(|entry| entry.item.place.clone())
    }

    fn take(&mut self, key: &'static str) -> Option<Item> {
        self.asked.push(key);
        let entries = &mut self.section.entries;
        let index = entries.iter().position(|entry| entry.key == key)?;
        Some(entries.remove(index).item)
    }

    /// A section within this one: an inline table, or `[port.NAME.limits]`.
    pub(super) fn section(&mut self, key: &'static str, remedy: &str) -> Option<Section> {
        let item = self.take(key)?;
        self.section_of(key, item, remedy)
    }

    /// The same for one item of a list.
    pub(super) fn section_of(
        &mut self,
        key: &'static str,
        item: Item,
        remedy: &str,
    ) -> Option<Section> {
        match item.value {
            Value::Table(entries) => Some(Section {
                title: format!("{}: {key}", self.section.title),
                place: item.place,
                entries,
            }),
            other => self.wrong_type(item.place, key, &other, "a table", remedy),
        }
    }

    /// A reader of a section within this one; its faults go where ours go.
    pub(super) fn within(&mut self, section: Section) -> Reader<'_> {
        Reader::new(section, self.faults)
    }

    /// A string, not empty.
    pub(super) fn text(&mut self, key: &'static str, remedy: &str) -> Option<(String, Place)> {
        let item = self.take(key)?;
        match item.value {
            Value::Text(text) | Value::Word(text) if !text.is_empty() => Some((text, item.place)),
            Value::Text(_) | Value::Word(_) => {
                self.fault(item.place, key, "is empty".to_owned(), remedy);
                None
            }
            other => self.wrong_type(item.place, key, &other, "a string", remedy),
        }
    }

    /// A whole number within `range`.
    pub(super) fn number(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u32>,
    ) -> Option<(u32, Place)> {
        let item = self.take(key)?;
        let place = item.place.clone();
        self.number_of(key, item, range)
            .map(|number| (number, place))
    }

    /// The same for one item of a list.
    pub(super) fn number_of(
        &mut self,
        key: &'static str,
        item: Item,
        range: RangeInclusive<u32>,
    ) -> Option<u32> {
        let remedy = format!(
            "choose a whole number from {} to {}",
            range.start(),
            range.end()
        );
        let (written, number) = match &item.value {
            Value::Number(number) => (number.to_string(), u32::try_from(*number).ok()),
            Value::Word(word) => (word.clone(), word.parse().ok()),
            other => return self.wrong_type(item.place, key, other, "a number", &remedy),
        };
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            let is_number = written.bytes().any(|digit| digit.is_ascii_digit())
                && !written.contains(|c: char| !c.is_ascii_digit() && c != '-');
            let problem = if is_number {
                format!("{written} is out of range")
            } else {
                format!("{written:?} is no number")
            };
            self.fault(item.place, key, problem, &remedy);
        }
        number
    }

    /// One number, or `"20-29"`, of a list; not empty.
    pub(super) fn range_of(
        &mut self,
        key: &'static str,
        item: Item,
        range: RangeInclusive<u16>,
    ) -> Option<RangeInclusive<u16>> {
        let range = u32::from(*range.start())..=u32::from(*range.end());
        let place = item.place.clone();
        let (first, last) = match &item.value {
            Value::Text(word) | Value::Word(word) if word.contains('-') => {
                let (first, last) = word.split_once('-')?;
                (first.trim().to_owned(), last.trim().to_owned())
            }
            Value::Text(word) => (word.clone(), word.clone()),
            _ => {
                let number = u16::try_from(self.number_of(key, item, range)?).ok()?;
                return Some(number..=number);
            }
        };
        let mut end = |word: String| {
            if word.is_empty() || !word.bytes().all(|digit| digit.is_ascii_digit()) {
                let problem = format!("{word:?} is no number");
                let remedy = format!(
                    "write numbers from {} to {}, ranges such as \"20-29\", or a list of these such as [{}, {}]",
                    range.start(),
                    range.end(),
                    range.start(),
                    range.end()
                );
                self.fault(place.clone(), key, problem, &remedy);
                return None;
            }
            let (place, value) = (place.clone(), Value::Word(word));
            let number = self.number_of(key, Item { place, value }, range.clone())?;
            u16::try_from(number).ok()
        };
        let first = end(first)?;
        let last = end(last)?;
        if first > last {
            let problem = format!("{first}-{last} runs backwards");
            self.fault(place, key, problem, "write the smaller number first");
            return None;
        }
        Some(first..=last)
    }

    /// Ranges: one or a list of them.
    pub(super) fn ranges(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u16>,
    ) -> Vec<RangeInclusive<u16>> {
        let Some((items, _)) = self.filled_list(key) else {
            return Vec::new();
        };
        let ranges = items.into_iter();
        ranges
            .filter_map(|item| self.range_of(key, item, range.clone()))
            .collect()
    }

    /// `true` or `false` in a file, and what people write in flags.
    pub(super) fn boolean(&mut self, key: &'static str) -> Option<bool> {
        let item = self.take(key)?;
        match &item.value {
            Value::Boolean(flag) => Some(*flag),
            Value::Word(word) => match word.as_str() {
                "yes" | "true" | "on" => Some(true),
                "no" | "false" | "off" => Some(false),
                _ => {
                    let problem = format!("{word:?} is neither yes nor no");
                    self.fault(item.place, key, problem, "write yes or no");
                    None
                }
            },
            other => self.wrong_type(
                item.place,
                key,
                other,
                "true or false",
                "write true or false",
            ),
        }
    }

    /// One word of a closed set.
    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let all = names.join(", ");
        let (word, place) = self.text(key, &format!("choose one of {all}"))?;
        let found = choices.iter().find(|(name, _)| *name == word);
        if found.is_none() {
            self.unknown_word(place, key, &word, &names);
        }
        found.map(|(_, value)| *value)
    }

    /// Refuses a word that is none of `names`.
    pub(super) fn unknown_word(&mut self, place: Place, key: &str, word: &str, names: &[&str]) {
        let all = names.join(", ");
        let remedy = match nearest(word, names) {
            Some(near) => format!("did you mean {near:?}? The choices are {all}"),
            None => format!("choose one of {all}"),
        };
        self.fault(place, key, format!("{word:?} is not known"), &remedy);
    }

    /// A list, or one value that stands for a list of one.
    pub(super) fn list(&mut self, key: &'static str) -> Option<(Vec<Item>, Place)> {
        let item = self.take(key)?;
        let place = item.place.clone();
        match item.value {
            Value::List(items) => Some((items, place)),
            value => Some((
                vec![Item {
                    place: place.clone(),
                    value,
                }],
                place,
            )),
        }
    }

    /// The same where an empty list could be taken for what it is not, and is refused.
    pub(super) fn filled_list(&mut self, key: &'static str) -> Option<(Vec<Item>, Place)> {
        let (items, place) = self.list(key)?;
        if items.is_empty() {
            let remedy = "name at least one, or leave the key out";
            self.fault(place.clone(), key, "is an empty list".to_owned(), remedy);
        }
        Some((items, place))
    }

    /// A string in a list.
    pub(super) fn text_of(
        &mut self,
        key: &'static str,
        item: Item,
        remedy: &str,
    ) -> Option<(String, Place)> {
        match item.value {
            Value::Text(text) | Value::Word(text) => Some((text, item.place)),
            other => self.wrong_type(item.place, key, &other, "a string", remedy),
        }
    }

    fn wrong_type<T>(
        &mut self,
        place: Place,
        key: &str,
        found: &Value,
        wanted: &str,
        remedy: &str,
    ) -> Option<T> {
        let found = match found {
            Value::Text(_) | Value::Word(_) => "a string",
            Value::Number(_) => "a number",
            Value::Boolean(_) => "true or false",
            Value::List(_) => "a list",
            Value::Table(_) => "a table",
            Value::Other(name) => name,
        };
        self.fault(place, key, format!("is {found}, not {wanted}"), remedy);
        None
    }

    /// Refuses every key that nobody asked for.
    pub(super) fn finish(mut self) {
        for entry in std::mem::take(&mut self.section.entries) {
            let remedy = match nearest(&entry.key, &self.asked) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("the keys here are {}", self.asked.join(", ")),
            };
            self.fault(
                entry.item.place,
                &entry.key,
                "unknown key".to_owned(),
                &remedy,
            );
        }
    }

    /// The same where `others` might have been asked for.
    pub(super) fn finish_beside(mut self, others: &[&'static str]) {
        self.section
            .entries
            .retain(|entry| !others.contains(&entry.key.as_str()));
        self.asked.extend(others);
        self.finish();
    }
}
