//! `quarantine` of a port: what puts it aside by itself, and whom it may reach then.

use super::lists::Lists;
use super::raw::Section;
use super::reader::Reader;
use super::spec::{Threshold, TriggerSpec};
use super::who::{Helper, Names};
use super::{Fault, NAME_RULE, Place, is_ready_made, valid_name};
use crate::counters::{DropReason, Side};
use crate::policy::scan;

/// The longest time that drops are counted over: an hour.
const MAX_SECONDS: u32 = 3_600;
const MAX_DROPS: u32 = 1_000_000_000;
const MAX_HELPERS: usize = 64;
const TABLE_RULE: &str = "write quarantine = { drops = { arp-spoofed = \"100 in 10s\" } }, or a section [port.NAME.quarantine]";
const DROPS_RULE: &str = "write drops = { arp-spoofed = \"100 in 10s\" }";

/// What the table says, and where; it is heard as a whole, so that `{}` is a port without triggers.
#[derive(Debug, Clone)]
pub(super) struct Triggers {
    drops: Vec<(DropReason, Threshold)>,
    scan: Option<Threshold>,
    allow: Option<(String, Place)>,
    helpers: Vec<(String, Place)>,
}

impl Triggers {
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let section = reader.section("quarantine", TABLE_RULE)?;
        let mut reader = reader.within(section);
        let before = reader.faults();
        let drops = reader.section("drops", DROPS_RULE);
        let triggers = Self {
            drops: drops.map_or_else(Vec::new, |section| read_drops(&mut reader, section)),
            scan: read_threshold(&mut reader, "scan", scan::MOST),
            allow: reader.text("allow", NAME_RULE),
            helpers: read_helpers(&mut reader),
        };
        let first = triggers.helpers.first();
        if let (Some((_, place)), Some(_)) = (&triggers.allow, first) {
            let remedy = "name a list that says whom it may reach, or helpers: keep one of the two";
            let problem = "stands beside helpers".to_owned();
            reader.fault(place.clone(), "allow", problem, remedy);
        }
        // What was refused may have been one.
        let is_any = !triggers.drops.is_empty() || triggers.scan.is_some();
        if !is_any && reader.faults() == before {
            let said = [("allow", triggers.allow.as_ref()), ("helpers", first)];
            for (key, place) in said
                .into_iter()
                .filter_map(|(key, said)| Some((key, &said?.1)))
            {
                let problem = "is for what puts the port aside, and nothing here does".to_owned();
                let remedy = "add drops or scan; `portcullis quarantine` is told helpers or a list by itself";
                reader.fault(place.clone(), key, problem, remedy);
            }
        }
        reader.finish();
        Some(triggers)
    }

    /// Whom a port may reach in quarantine has to be there.
    pub(super) fn check(&self, port: &str, names: &Names, lists: &Lists, faults: &mut Vec<Fault>) {
        let mut refuse = |place: &Place, key: &str, problem: String, remedy: &str| {
            faults.push(Fault {
                place: place.clone(),
                subject: format!("port {port:?}: quarantine: {key}"),
                problem,
                remedy: remedy.to_owned(),
            });
        };
        for (helper, place) in &self.helpers {
            let whom = Helper::of(helper);
            if !names.is_anybody(whom) {
                let problem = format!("no {} is called {:?}", whom.kind(), whom.name());
                let remedy = "name a port, or a group that a port is in";
                refuse(place, "helpers", problem, remedy);
            }
        }
        if let Some((list, place)) = self.allow.as_ref().filter(|(list, _)| !lists.has(list)) {
            let problem = if is_ready_made(list) {
                format!("{list:?} is a ready-made list, which is no list of its own")
            } else {
                format!("there is no list {list:?}")
            };
            let remedy = "name a list that stands as [acl.NAME]";
            refuse(place, "allow", problem, remedy);
        }
    }

    /// The same without places.
    pub(super) fn spec(self) -> TriggerSpec {
        TriggerSpec {
            drops: self.drops,
            scan: self.scan,
            allow: self.allow.map(|(name, _)| name),
            helpers: self.helpers.into_iter().map(|(name, _)| name).collect(),
        }
    }
}

fn read_drops(reader: &mut Reader<'_>, section: Section) -> Vec<(DropReason, Threshold)> {
    let mut reader = reader.within(section);
    // What is found out at a receiver is not its sender's doing.
    let reasons = DropReason::ALL
        .iter()
        .filter(|reason| reason.side() == Side::Ingress);
    let mut drops = Vec::new();
    for reason in reasons {
        let threshold = read_threshold(&mut reader, reason.name(), MAX_DROPS);
        drops.extend(threshold.map(|threshold| (*reason, threshold)));
    }
    reader.finish();
    drops
}

/// `"100 in 10s"`.
fn read_threshold(reader: &mut Reader<'_>, key: &'static str, most: u32) -> Option<Threshold> {
    let remedy = format!(
        "write how many in how long, such as \"100 in 10s\": 1 to {most}, within 1 to {MAX_SECONDS} seconds"
    );
    let (text, place) = reader.text(key, &remedy)?;
    let number = |text: &str| {
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u32>().ok().filter(|_| is_number)
    };
    let threshold = text.split_once(" in ").and_then(|(count, time)| {
        Some(Threshold {
            count: number(count).filter(|count| (1..=most).contains(count))?,
            seconds: number(time.strip_suffix('s')?)
                .filter(|seconds| (1..=MAX_SECONDS).contains(seconds))?,
        })
    });
    if threshold.is_none() {
        reader.fault(place, key, format!("{text:?} is no such number"), &remedy);
    }
    threshold
}

fn read_helpers(reader: &mut Reader<'_>) -> Vec<(String, Place)> {
    let Some((items, place)) = reader.list("helpers") else {
        return Vec::new();
    };
    if items.len() > MAX_HELPERS {
        let problem = format!("names {} helpers", items.len());
        reader.fault(place, "helpers", problem, "name 64 at most, or a group");
        return Vec::new();
    }
    let mut helpers = Vec::new();
    for item in items {
        let Some((name, place)) = reader.text_of("helpers", item, NAME_RULE) else {
            continue;
        };
        if valid_name(Helper::of(&name).name()) {
            helpers.push((name, place));
        } else {
            reader.fault(
                place,
                "helpers",
                format!("{name:?} is not a name"),
                NAME_RULE,
            );
        }
    }
    helpers
}
