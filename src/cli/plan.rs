//! `portcullis plan`: what a reload with another configuration would change, and change nothing.
//!
//! The new file is read, checked and compiled here, by the very code of the switch and with the rights of whoever asks: a switch that
//! carries frames does not spend its time on drafts, and a draft needs to be readable by its author only. The running switch
//! is asked for what it alone knows: its configuration as it was read, and its connections.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;

use serde::Serialize;

use super::args::PlanArgs;
use super::seen::page;
use super::{Failure, print};
use crate::config::{self, Overrides, PortSpec, SwitchSpec};
use crate::control::{
    ChangeReport, ConfigurationReport, FlowReport, FlowsPage, FlowsQuery, QuarantineReport,
    Question, RuleName, SwitchReport,
};
use crate::counters::PortId;
use crate::daemon::{
    Pairs, Source, Trial, compare, gained, in_full, keep_defaults, needing_restart, would_go_on,
};

/// Pairs, rules and connections of each kind that are printed; `--json` has all.
const SHOWN: usize = 20;

/// What would change.
#[derive(Debug, Default, Serialize)]
struct Plan {
    /// What cannot be changed while the switch runs: a reload would be refused.
    restart: Vec<String>,
    change: ChangeReport,
    rules_added: Vec<RuleName>,
    rules_removed: Vec<RuleName>,
    /// For each port those that it could send to and could not before.
    reachable: Pairs,
    unreachable: Pairs,
    /// Connections that would end, in words.
    ending: Vec<String>,
    /// The ports in quarantine, as the new configuration would find them.
    quarantine: Vec<QuarantineReport>,
}

pub(super) fn plan(args: &PlanArgs) -> Result<(), Failure> {
    let socket = args.target.socket()?;
    let running: ConfigurationReport = page(&socket, &Question::Configuration)?;
    let overrides = overrides(&running);
    let old = config::from_text(running.file.as_deref(), &running.text, &overrides)?;
    let (_, mut new) = Source::read(Some(&args.file), overrides)?;
    keep_defaults(&mut new, &old, &args.file);
    let plan = Plan::of(old, new, &socket)?;
    if args.json {
        let text = serde_json::to_string_pretty(&plan).unwrap_or_default();
        print(&(text + "\n"))?;
    } else {
        print(&plan.said(&args.file))?;
    }
    if plan.restart.is_empty() {
        Ok(())
    } else {
        Err(Failure::NotTakenUp(format!(
            "restart needed: {} cannot be changed while the switch runs",
            plan.restart.join(", ")
        )))
    }
}

fn overrides(running: &ConfigurationReport) -> Overrides {
    let flags = &running.flags;
    Overrides {
        name: flags.name.clone(),
        mode: flags.mode.clone(),
        control: flags.control.clone(),
        workers: flags.workers.clone(),
        cpus: flags.cpus.clone(),
        poll: flags.poll.clone(),
        ports: flags.ports.clone(),
    }
}

impl Plan {
    fn of(old: SwitchSpec, new: SwitchSpec, socket: &Path) -> Result<Self, Failure> {
        let change = compare(&old, &new);
        let restart = needing_restart(&old, &new);
        let (rules_added, rules_removed) = (rules_of(&old, &new), rules_of(&new, &old));
        let status: SwitchReport = page(socket, &Question::Status)?;
        let ports = status.ports.into_iter();
        let wards: Vec<_> = ports.filter_map(|port| port.quarantine).collect();
        let before = Trial::with_quarantine(old, wards.clone())?;
        let after = Trial::with_quarantine(new, wards)?;
        let (had, has) = (before.pairs(), after.pairs());
        Ok(Self {
            restart,
            rules_added,
            rules_removed,
            reachable: gained(&had, &has),
            unreachable: gained(&has, &had),
            ending: ending(&after, &change, socket)?,
            quarantine: after.quarantine(),
            change,
        })
    }

    fn said(&self, file: &Path) -> String {
        let mut text = format!("{}:\n{}", file.display(), self.change);
        let list = |text: &mut String, title: &str, items: Vec<String>| {
            if items.is_empty() {
                return;
            }
            let _ = writeln!(text, "  {title}");
            for item in items.iter().take(SHOWN) {
                let _ = writeln!(text, "    {item}");
            }
            if items.len() > SHOWN {
                let _ = writeln!(text, "    and {} more", items.len() - SHOWN);
            }
        };
        let names = |rules: &[RuleName]| rules.iter().map(RuleName::to_string).collect();
        let pairs = |pairs: &Pairs| {
            let told = pairs.iter().map(|(from, to)| {
                let to: Vec<&str> = to.iter().map(String::as_str).collect();
                format!("{from} > {}", to.join(", "))
            });
            told.collect()
        };
        list(&mut text, "rules added", names(&self.rules_added));
        list(&mut text, "rules removed", names(&self.rules_removed));
        list(&mut text, "become reachable", pairs(&self.reachable));
        list(&mut text, "become unreachable", pairs(&self.unreachable));
        list(&mut text, "connections that would end", self.ending.clone());
        if text.lines().count() == 1 {
            text.push_str("  nothing would change\n");
        }
        let wards = self.quarantine.iter();
        let wards = wards.map(|ward| format!("{}: {}", ward.port, ward.said()));
        list(&mut text, "in quarantine still", wards.collect());
        text
    }
}

/// Rules of `new` that `old` does not have, wherever they were written; one that several ports share once.
fn rules_of(old: &SwitchSpec, new: &SwitchSpec) -> Vec<RuleName> {
    let all = |spec: &SwitchSpec| -> Vec<(String, RuleName)> {
        let lists = spec.ports.iter().flat_map(lists);
        let mut rules: Vec<(String, RuleName)> = lists.collect();
        rules.dedup_by(|a, b| a.1 == b.1);
        rules
    };
    let before: std::collections::HashSet<String> =
        all(old).into_iter().map(|(means, _)| means).collect();
    let mut found: Vec<RuleName> = Vec::new();
    for (means, name) in all(new) {
        if !before.contains(&means) && !found.contains(&name) {
            found.push(name);
        }
    }
    found
}

/// Each rule of a port's lists: what it means, and what it is called.
fn lists(port: &PortSpec) -> impl Iterator<Item = (String, RuleName)> {
    let sides = [("out", &port.outbound), ("in", &port.inbound)];
    let rules = sides
        .into_iter()
        .filter_map(|(side, list)| Some((side, list.as_ref()?)))
        .flat_map(|(side, list)| list.iter().map(move |rule| (side, rule)));
    rules.map(|(side, rule)| {
        let name = RuleName {
            name: rule.name.clone(),
            origin: rule.origin.clone(),
        };
        (format!("{side} {}", in_full(rule)), name)
    })
}

/// The connections of the running switch that would not go on.
fn ending(after: &Trial, change: &ChangeReport, socket: &Path) -> Result<Vec<String>, Failure> {
    let cut = |name: &str| {
        change.removed.iter().any(|port| port == name)
            || change.replaced.iter().any(|port| port.name == name)
    };
    let mut ending = Vec::new();
    let mut query = FlowsQuery::default();
    loop {
        let page: FlowsPage = page(socket, &Question::Flows(query.clone()))?;
        for flow in &page.flows {
            let ends: Option<[PortId; 2]> = after
                .port(&flow.from)
                .zip(after.port(&flow.to))
                .map(Into::into);
            let goes_on = !cut(&flow.from)
                && !cut(&flow.to)
                && ends.is_some_and(|ends| would_go_on(after, ends, flow));
            if !goes_on {
                ending.push(in_words(flow));
            }
        }
        match page.next {
            Some(next) if next > query.from => query.from = next,
            _ => return Ok(ending),
        }
    }
}

fn in_words(flow: &FlowReport) -> String {
    let end = |address: IpAddr, port: u16| std::net::SocketAddr::new(address, port);
    format!(
        "{} > {}: protocol {} {} > {}",
        flow.from,
        flow.to,
        flow.protocol,
        end(flow.src, flow.src_port),
        end(flow.dst, flow.dst_port)
    )
}
