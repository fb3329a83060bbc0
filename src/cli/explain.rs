//! `portcullis explain`: what a configuration does with a packet, step by step.

use std::path::Path;

use serde::Serialize;

use super::args::ExplainArgs;
use super::capture::{self, Captured};
use super::summary::summary;
use super::{Failure, print};
use crate::config::{Overrides, SwitchSpec, is_ready_made};
use crate::control::QuarantineReport;
use crate::daemon::{Explanation, Source, Trial};

pub(super) fn explain(args: &ExplainArgs) -> Result<(), Failure> {
    let (_, spec) = Source::read_untried(Some(&args.file), Overrides::default())?;
    let wards = args.quarantined.iter();
    let wards: Result<Vec<_>, _> = wards.map(|text| ward(text, &spec, &args.file)).collect();
    let trial = Trial::with_quarantine(spec, wards?)?;
    let port = |name: &String| {
        let found = trial.port(name);
        found.ok_or_else(|| no_port(name, trial.spec(), &args.file))
    };
    let from = port(&args.from)?;
    let to = args.to.as_ref().map(port).transpose()?;
    let Some(file) = &args.pcap else {
        let words = args.packet.as_deref().unwrap_or_default();
        let (frame, to) = match trial.spec().packet(words, from, to) {
            Ok(frame) => (frame, to),
            // Whoever declares the address has it, and answers for it.
            Err(error) => match trial.spec().receiver(words).filter(|_| to.is_none()) {
                Some(owner) => (trial.spec().packet(words, from, Some(owner))?, Some(owner)),
                None => return Err(error.into()),
            },
        };
        let explanation = trial.explain(from, to, &frame);
        if args.json {
            let text = serde_json::to_string_pretty(&explanation).unwrap_or_default();
            return print(&(text + "\n"));
        }
        let len = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        return print(&format!("{}\n{}", summary(&frame, len), said(&explanation)));
    };
    let mut frame = 0u64;
    capture::read(file, |Captured { bytes, len }| {
        frame += 1;
        let len = len.max(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        let explanation = trial.explain_cut(from, to, bytes, len);
        let packet = summary(bytes, len);
        if !args.json {
            return print(&format!("{frame}: {packet}\n{}", said(&explanation)));
        }
        let numbered = Numbered {
            frame,
            packet,
            explanation,
        };
        // Our own types always serialise.
        print(&(serde_json::to_string(&numbered).unwrap_or_default() + "\n"))
    })
}

/// Ports that are named to somebody who named another.
const NAMED: usize = 16;

fn no_port(name: &str, spec: &SwitchSpec, file: &Path) -> Failure {
    let names = spec.ports.iter().map(|port| port.name.as_str());
    let named: Vec<&str> = names.take(NAMED).collect();
    let more = match spec.ports.len().saturating_sub(named.len()) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let (file, named) = (file.display(), named.join(", "));
    Failure::Unknown(format!(
        "{file}: no port is called {name:?}; there are {named}{more}"
    ))
}

/// `PORT` or `PORT=LIST`.
fn ward(text: &str, spec: &SwitchSpec, file: &Path) -> Result<QuarantineReport, Failure> {
    let unknown = |what: String| Failure::Unknown(format!("{}: {what}", file.display()));
    let (name, list) = match text.split_once('=') {
        Some((name, list)) => (name, Some(list)),
        None => (text, None),
    };
    let port = spec.ports.iter().find(|port| port.name == name);
    let port = port.ok_or_else(|| no_port(name, spec, file))?;
    if let Some(list) = list.filter(|list| !spec.lists.contains_key(*list)) {
        return Err(unknown(if is_ready_made(list) {
            format!(
                "{list:?} is a ready-made list, and none of its own; name a list that stands as [acl.NAME]"
            )
        } else {
            format!("no list is called {list:?}; add [acl.{list}]")
        }));
    }
    let (helpers, allow) = match list {
        Some(list) => (Vec::new(), Some(list.to_owned())),
        None => (port.triggers.helpers.clone(), port.triggers.allow.clone()),
    };
    Ok(QuarantineReport {
        port: port.name.clone(),
        helpers,
        allow,
        list_is_gone: false,
        since: 0,
        by: "explain".to_owned(),
    })
}

/// A frame of a file.
#[derive(Serialize)]
struct Numbered {
    /// From 1.
    frame: u64,
    packet: String,
    #[serde(flatten)]
    explanation: Explanation,
}

fn said(explanation: &Explanation) -> String {
    let mut text = String::new();
    for step in &explanation.steps {
        text += &format!("  {:<14} {}\n", step.name, step.said);
    }
    let verdict = explanation.word();
    let end = match (&explanation.reason, explanation.destinations.as_slice()) {
        (Some(reason), _) => format!("{verdict}: {reason}"),
        (None, destinations) => format!("{verdict}: {}", destinations.join(", ")),
    };
    text + &end + "\n"
}
