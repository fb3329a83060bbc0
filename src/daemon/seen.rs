//! What the gate has seen, a page at a time: each answer is bounded in length and in the work that it takes.

use std::time::{SystemTime, UNIX_EPOCH};

use super::Switch;
use super::quarantine::unknown_port;
use crate::clock::Tick;
use crate::control::{
    Answer, DropReport, DropsPage, DropsQuery, FlowReport, FlowsPage, FlowsQuery, PortDrops,
    RuleName, RuleReport, RulesPage, RulesQuery, Traffic,
};
use crate::counters::PortId;
use crate::counters::drops::DroppedFrame;
use crate::policy::Policy;
use crate::policy::rule::{Action, RuleId};
use crate::policy::track::{Count, Flow};

/// Connections or rules in one answer: some 300 KiB.
const PAGE: usize = 1024;
/// Connections that are looked at for one answer: a few milliseconds.
const SEARCH: usize = 32_768;
/// Ports whose dropped frames are in one answer: some 700 KiB.
const PORTS: usize = 64;

impl Switch {
    /// The last frames of each port that were dropped.
    pub(super) fn drops(&self, query: &DropsQuery, now: Tick) -> Answer {
        if let Some(name) = &query.port
            && self.live.port(name).is_none()
        {
            return Answer::Error(unknown_port(&self.live, name));
        }
        let Some(policy) = self.policy() else {
            return Answer::Error("the switch stops".to_owned());
        };
        let mut page = DropsPage::default();
        let first = usize::try_from(query.from).unwrap_or(usize::MAX);
        for (place, (spec, id)) in self.live.ports().enumerate().skip(first) {
            if page.ports.len() >= PORTS {
                page.next = u32::try_from(place).ok();
                break;
            }
            let is_wanted = query.port.as_ref().is_none_or(|name| *name == spec.name);
            let port = self.ports.get(&id).filter(|_| is_wanted);
            let frames = port.map_or(Vec::new(), |port| port.lanes().counters().drops.read());
            if !frames.is_empty() {
                let frames = frames.into_iter();
                let frames = frames.map(|frame| self.dropped(&frame, &policy, now));
                page.ports.push(PortDrops {
                    port: spec.name.clone(),
                    frames: frames.collect(),
                });
            }
        }
        Answer::Drops(page)
    }

    fn dropped(&self, frame: &DroppedFrame, policy: &Policy, now: Tick) -> DropReport {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        let wall = wall.map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        });
        let rule = frame.rule.map(|(epoch, id)| {
            if epoch == policy.epoch() {
                rule_name(policy, RuleId(id))
            } else {
                RuleName {
                    name: String::new(),
                    origin: format!("a rule of policy {epoch}"),
                }
            }
        });
        DropReport {
            time_ms: wall.saturating_sub(now.millis_since(frame.at)),
            reason: frame.reason.name().to_owned(),
            rule,
            to: frame.to.map(|id| self.port_name(id)),
            len: frame.len,
            bytes: hex(&frame.bytes),
        }
    }

    /// Tracked connections.
    pub(super) fn flows(&self, query: &FlowsQuery, now: Tick) -> Answer {
        let wanted = match &query.port {
            None => None,
            Some(name) => match self.live.port(name) {
                Some(id) => Some(id),
                None => return Answer::Error(unknown_port(&self.live, name)),
            },
        };
        let Some(policy) = self.policy() else {
            return Answer::Error("the switch stops".to_owned());
        };
        let is_wanted = |flow: &Flow| {
            wanted.is_none_or(|id| flow.opener == id || flow.peer == id)
                && query.protocol.is_none_or(|number| flow.protocol == number)
        };
        let mut page = FlowsPage::default();
        let mut flows = self.state.tracker().flows_from(now, query.from);
        let mut looked = 0usize;
        while let Some(flow) = flows.next() {
            looked += 1;
            if is_wanted(&flow) {
                page.flows.push(self.flow(&flow, &policy));
            }
            // Only where a step is used up can the next page go on.
            if (page.flows.len() >= PAGE || looked >= SEARCH)
                && let Some(position) = flows.position()
            {
                page.next = Some(position);
                break;
            }
        }
        Answer::Flows(page)
    }

    fn flow(&self, flow: &Flow, policy: &Policy) -> FlowReport {
        let traffic = |count: Count| Traffic {
            packets: count.packets.into(),
            bytes: count.bytes,
        };
        FlowReport {
            from: self.port_name(flow.opener),
            to: self.port_name(flow.peer),
            vlan: flow.vid,
            protocol: flow.protocol,
            src: flow.src_ip,
            src_port: flow.src_port,
            dst: flow.dst_ip,
            dst_port: flow.dst_port,
            macs: [flow.src_mac, flow.dst_mac].map(|mac| mac.to_string()),
            state: flow.state.name().to_owned(),
            sent: traffic(flow.sent),
            received: traffic(flow.received),
            age: flow.age,
            idle: flow.idle,
            rules: [flow.terms.opener, flow.terms.peer]
                .map(|side| side.rule.map(|id| rule_name(policy, id))),
        }
    }

    /// Rules, with what they have decided.
    pub(super) fn rules(&self, query: &RulesQuery) -> Answer {
        let Some(policy) = self.policy() else {
            return Answer::Error("the switch stops".to_owned());
        };
        let first = usize::try_from(query.from).unwrap_or(usize::MAX);
        let mut page = RulesPage {
            epoch: policy.epoch(),
            ..RulesPage::default()
        };
        for (id, rule, hits) in policy.rules().skip(first) {
            if page.rules.len() >= PAGE {
                page.next = Some(id.0);
                break;
            }
            let action = match rule.action {
                Action::Allow => "allow",
                Action::Deny => "deny",
                Action::Reject => "reject",
            };
            page.rules.push(RuleReport {
                rule: rule_name(&policy, id),
                action: action.to_owned(),
                hits,
            });
        }
        Answer::Rules(page)
    }

    pub(super) fn policy(&self) -> Option<Policy> {
        let workers = self.workers.as_ref()?;
        Some(workers.generation().gate.policy.clone())
    }

    /// The name of a port; its number when it has gone.
    pub(super) fn port_name(&self, id: PortId) -> String {
        let port = self.ports.get(&id);
        port.map_or_else(|| format!("#{id}"), |port| port.name().to_owned())
    }
}

pub(super) fn rule_name(policy: &Policy, id: RuleId) -> RuleName {
    policy.rule(id).map_or_else(
        || RuleName {
            name: String::new(),
            origin: format!("rule {}", id.0),
        },
        |rule| RuleName {
            name: rule.name.clone(),
            origin: rule.origin.clone(),
        },
    )
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}
