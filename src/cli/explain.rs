//! `portcullis explain`: what a configuration does with a packet, step by step.

use std::path::Path;

use serde::Serialize;

use super::args::ExplainArgs;
use super::capture::{self, Captured};
use super::summary::summary;
use super::{Failure, print};
use crate::config::SwitchSpec;
use crate::control::QuarantineReport;
use crate::daemon::{Explanation, Source, Trial};

pub(super) fn explain(args: &ExplainArgs) -> Result<(), Failure> {
    let (_, spec) = Source::read(Some(&args.file), crate::config::Overrides::default())?;
    let wards = args.quarantined.iter();
    let wards: Result<Vec<_>, _> = wards.map(|text| ward(text, &spec, &args.file)).collect();
    let trial = Trial::with_quarantine(spec, wards?)?;
    let port = |name: &String| {
        trial.port(name).ok_or_else(|| {
            let file = args.file.display();
            Failure::Which(format!("{file}: no port is called {name:?}"))
        })
    };
    let from = port(&args.from)?;
    let to = args.to.as_ref().map(port).transpose()?;
    let Some(file) = &args.pcap else {
        let words = args.packet.as_deref().unwrap_or_default();
        let frame = trial.spec().packet(words, from, to)?;
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

/// `PORT` or `PORT=LIST`.
fn ward(text: &str, spec: &SwitchSpec, file: &Path) -> Result<QuarantineReport, Failure> {
    let which = |what: String| Failure::Which(format!("{}: {what}", file.display()));
    let (name, list) = match text.split_once('=') {
        Some((name, list)) => (name, Some(list)),
        None => (text, None),
    };
    let port = spec.ports.iter().find(|port| port.name == name);
    let port = port.ok_or_else(|| which(format!("no port is called {name:?}")))?;
    if let Some(list) = list.filter(|list| !spec.lists.contains_key(*list)) {
        return Err(which(format!(
            "no list is called {list:?}; add [acl.{list}]"
        )));
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
