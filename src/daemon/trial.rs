//! A frame on trial: what a configuration does with it, step by step, without a switch that runs.
//!
//! It goes through the very code of the data path (`frame`, `policy`, `fabric`), compiled from the same model, in the same
//! order, over the same first bytes. What a running switch knows besides is supposed: guests are behind the ports that
//! they are said to be behind, nothing was sent before, and no limit is used up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use super::plan::{self, Live};
use super::quarantine::Wards;
use super::seen::rule_name;
use super::source::Source;
use crate::clock::Tick;
use crate::config::{ConfigError, Fault, Place, SwitchSpec};
use crate::control::{FlowReport, QuarantineReport, RuleName};
use crate::counters::{DropReason, PortId};
use crate::datapath::{LONG_MAX, SNAPSHOT, SNAPSHOT_MAX};
use crate::fabric::{Destinations, Fabric, Kind, LookupCache};
use crate::frame::{Frame, Mac};
use crate::policy::acl::TooLarge;
use crate::policy::rule::{Action, Decision, Rule};
use crate::policy::track::Flow;
use crate::policy::{Admitted, Context, Desk, Judge, Policy, Refusal, State, Weight};

/// Milliseconds between two trials: every limit is fresh again.
const REST: u64 = 1_000_000;

/// Why there is no trial.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// An address of the configuration.
    #[error("port {port:?}: cannot declare its address")]
    Address {
        /// The port.
        port: String,
        /// Why.
        #[source]
        source: crate::fabric::StaticError,
    },
    /// Too many rules.
    #[error("the lists of rules are too large")]
    TooLarge(#[from] TooLarge),
}

/// A configuration, compiled as a switch that starts with it would have it.
#[derive(Debug)]
pub struct Trial {
    live: Live,
    policy: Policy,
    fabric: Fabric,
    wards: Wards,
    now: AtomicU64,
}

/// What becomes of a frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// In order.
    pub steps: Vec<Step>,
    /// What becomes of it in the end: `allow`, `deny` or `reject`.
    pub verdict: Action,
    /// Why nobody gets it.
    pub reason: Option<String>,
    /// The ports that get it.
    pub destinations: Vec<String>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Its name.
    pub name: &'static str,
    /// What it said.
    pub said: String,
    /// The receiver that it is about, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// What it decided, if it did: a list, or in the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<Action>,
    /// The rule that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleName>,
}

impl Explanation {
    /// Its verdict, as the configuration writes it.
    #[must_use]
    pub fn word(&self) -> &'static str {
        word(self.verdict)
    }

    fn step(&mut self, name: &'static str, said: impl Into<String>) {
        self.steps.push(Step {
            name,
            said: said.into(),
            port: None,
            action: None,
            rule: None,
        });
    }

    /// A step about one receiver, with what it decides.
    fn step_of(
        &mut self,
        port: &str,
        name: &'static str,
        said: String,
        action: Option<Action>,
        rule: Option<RuleName>,
    ) {
        self.steps.push(Step {
            name,
            said,
            port: Some(port.to_owned()),
            action,
            rule,
        });
    }

    fn drop(mut self, name: &'static str, reason: DropReason) -> Self {
        self.step(name, format!("dropped ({reason}): {}", reason.describe()));
        self.reason = Some(reason.name().to_owned());
        self
    }
}

impl Trial {
    /// Compiles a configuration.
    ///
    /// # Errors
    /// It is one that no switch starts with.
    pub fn new(spec: SwitchSpec) -> Result<Self, TrialError> {
        Self::with_quarantine(spec, [])
    }

    /// The same with these ports in quarantine.
    ///
    /// # Errors
    /// As [`Trial::new`].
    pub fn with_quarantine(
        spec: SwitchSpec,
        ports: impl IntoIterator<Item = QuarantineReport>,
    ) -> Result<Self, TrialError> {
        let live = Live::first(Source::default(), spec);
        let fdb = plan::fdb(&live.spec, &live.ids).map_err(|error| TrialError::Address {
            port: error.port,
            source: error.source,
        })?;
        let remembered = (Arc::new(fdb), State::new());
        let wards = Wards::on_trial(ports);
        let behind = wards.behind();
        let quarantine = (wards.resolve(&live, &behind), &behind);
        let gate = plan::gate(&live.spec, &live.ids, 1, quarantine, remembered)?;
        gate.policy.make_room(&live.spec.tracking);
        Ok(Self {
            live,
            policy: gate.policy,
            fabric: gate.fabric,
            wards,
            now: AtomicU64::new(REST),
        })
    }

    /// What it was made from.
    #[must_use]
    pub fn spec(&self) -> &SwitchSpec {
        &self.live.spec
    }

    /// The ports in quarantine, as this configuration finds them.
    #[must_use]
    pub fn quarantine(&self) -> Vec<QuarantineReport> {
        let wards = self.wards.reports();
        let told = wards
            .iter()
            .filter_map(|ward| self.wards.told(&self.live, &ward.port));
        told.collect()
    }

    pub(super) fn parts(&self) -> (&Live, &Fabric, &Wards) {
        (&self.live, &self.fabric, &self.wards)
    }

    /// The port of that name.
    #[must_use]
    pub fn port(&self, name: &str) -> Option<PortId> {
        self.live.port(name)
    }

    /// What becomes of a whole frame that the guest at `from` sends. With `to`, the guest at that port has the frame's
    /// destination address, unless the configuration gives it to another.
    #[must_use]
    pub fn explain(&self, from: PortId, to: Option<PortId>, bytes: &[u8]) -> Explanation {
        self.explain_cut(
            from,
            to,
            bytes,
            u32::try_from(bytes.len()).unwrap_or(u32::MAX),
        )
    }

    /// The same for a frame of `len` bytes of which only the first are known.
    #[must_use]
    pub fn explain_cut(
        &self,
        from: PortId,
        to: Option<PortId>,
        bytes: &[u8],
        len: u32,
    ) -> Explanation {
        let now = Tick::from_millis(self.now.fetch_add(REST, Ordering::Relaxed));
        let mut told = Explanation {
            steps: Vec::new(),
            verdict: Action::Deny,
            reason: None,
            destinations: Vec::new(),
        };
        let (mut seen, mut context) = (SNAPSHOT, Context::default());
        // As the data path does: more is looked at, once, when the headers run on.
        let explained = loop {
            let snapshot = bytes.get(..seen).unwrap_or(bytes);
            let explained = self.pass(
                from,
                to,
                (snapshot, bytes, len),
                &mut context,
                now,
                told.clone(),
            );
            let runs_on = explained.reason.as_deref() == Some(DropReason::HeadersTooLong.name());
            if !runs_on || seen != SNAPSHOT || bytes.len() <= seen {
                break explained;
            }
            let is_dhcp = Frame::parse(snapshot, len).is_ok_and(|frame| Policy::is_dhcp(&frame));
            seen = if is_dhcp { LONG_MAX } else { SNAPSHOT_MAX };
            told.steps.clear();
        };
        self.forget(from, to);
        explained
    }

    /// Judges a frame of which the switch has seen `snapshot`; for the first time, or once more with the same context.
    fn pass(
        &self,
        from: PortId,
        to: Option<PortId>,
        (snapshot, whole, len): (&[u8], &[u8], u32),
        context: &mut Context,
        now: Tick,
        mut told: Explanation,
    ) -> Explanation {
        let mut frame = match Frame::parse(snapshot, len) {
            Ok(frame) => frame,
            Err(reason) => return told.drop("frame", reason),
        };
        if self.policy.wants_whole(from, &frame)
            && let Ok(longer) = Frame::parse(whole, len)
        {
            frame = longer;
        }
        let mut desk = Desk::default();
        let mut judge = self.policy.judge(from, context, &mut desk, now);
        if snapshot.len() > SNAPSHOT {
            judge.see_again();
        }
        let weight = Weight {
            frames: 1,
            bytes: len,
        };
        let admitted = match judge.admit(None, &frame, || weight) {
            Ok(admitted) => admitted,
            Err(reason) => return told.drop("port security", reason),
        };
        told.step("port security", "admitted");
        let fdb = self.fabric.fdb();
        if let Some(mac) = admitted.claim() {
            if fdb.claim(from, mac, now).is_err() {
                return told.drop("address", DropReason::MacOfOtherPort);
            }
            told.step("address", format!("{mac} is the port's own from now on"));
        }
        if let (Some(to), Ok(vid)) = (to, self.fabric.vlans().classify(from, &frame)) {
            // Where it is declared, the declaration stands.
            let _ = fdb.learn(to, vid, frame.dst(), now);
        }
        let mut stations = LookupCache::default();
        let destinations = self.fabric.ingress(now, &mut stations).forward(&admitted);
        self.deliver(admitted, destinations, to, &mut judge, told)
    }

    /// The pairs.
    fn deliver(
        &self,
        admitted: Admitted<'_>,
        destinations: Destinations,
        to: Option<PortId>,
        judge: &mut Judge<'_>,
        mut told: Explanation,
    ) -> Explanation {
        let ports = self.fabric.ports(&destinations);
        match destinations.kind() {
            Kind::Drop(reason) => return told.drop("forwarding", reason),
            Kind::Port(port) => told.step(
                "forwarding",
                format!("to {}, vlan {}", self.name(port), destinations.vid()),
            ),
            Kind::Flood => told.step(
                "forwarding",
                format!(
                    "to all in reach, vlan {}: {} ports",
                    destinations.vid(),
                    ports.len()
                ),
            ),
        }
        let mut refusal = Refusal::from(DropReason::NoDestination);
        let asked = ports.iter().filter(|port| to.is_none_or(|to| to == *port));
        for port in asked {
            let judged = judge.permit(admitted, port);
            let trace = judge.trace();
            let name = self.name(port);
            if let Some(state) = trace.state {
                let said = format!("{name}: {}", format!("{state:?}").to_lowercase());
                told.step_of(&name, "connection", said, None, None);
            }
            for (list, decision) in [("outbound", trace.outbound), ("inbound", trace.inbound)] {
                if let Some(decision) = decision {
                    let said = format!("{name}: {}", self.said(decision));
                    let rule = decision.rule.map(|id| rule_name(&self.policy, id));
                    told.step_of(&name, list, said, Some(decision.action), rule);
                }
            }
            match judged {
                Ok(_) => {
                    let said = format!("{name} gets it");
                    told.step_of(&name, "verdict", said, Some(Action::Allow), None);
                    told.destinations.push(name);
                }
                Err(refused) => {
                    let answered = if refused.answer {
                        ", with an answer to the sender"
                    } else {
                        ""
                    };
                    let said = format!("{name}: dropped ({}){answered}", refused.reason);
                    let action = if refused.answer {
                        Action::Reject
                    } else {
                        Action::Deny
                    };
                    told.step_of(&name, "verdict", said, Some(action), None);
                    refusal = refused;
                }
            }
        }
        if !told.destinations.is_empty() {
            told.verdict = Action::Allow;
            return told;
        }
        if refusal.answer {
            told.verdict = Action::Reject;
        }
        told.reason = Some(refusal.reason.name().to_owned());
        told
    }

    fn said(&self, decision: Decision) -> String {
        let action = word(decision.action);
        match decision.rule {
            None => format!("{action}, by the end of the list"),
            Some(id) => format!("{action}, by {}", rule_name(&self.policy, id)),
        }
    }

    fn name(&self, id: PortId) -> String {
        let mut ports = self.live.ports();
        let found = ports.find(|(_, other)| *other == id);
        found.map_or_else(|| id.to_string(), |(port, _)| port.name.clone())
    }

    /// The next trial begins as this one did.
    fn forget(&self, from: PortId, to: Option<PortId>) {
        let fdb = self.fabric.fdb();
        let declared = |id: PortId, mac: Mac| self.live.declares(id, mac);
        if let Some(mac) = self
            .policy
            .kept_mac(from)
            .filter(|mac| !declared(from, *mac))
        {
            fdb.remove_static(from, mac);
        }
        for id in [Some(from), to].into_iter().flatten() {
            self.policy.state().forget_port(id);
            fdb.flush_port(id);
        }
    }

    /// The expectations of the configuration that do not hold.
    fn broken_asserts(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        for assert in &self.live.spec.asserts {
            let told = self.explain(assert.from, Some(assert.to), &assert.frame);
            if told.verdict == assert.expect {
                continue;
            }
            let (from, to) = (self.name(assert.from), self.name(assert.to));
            let steps: Vec<String> = told
                .steps
                .iter()
                .map(|step| format!("{}: {}", step.name, step.said))
                .collect();
            faults.push(Fault {
                place: assert.origin.clone(),
                subject: format!("assert {:?} from {from} to {to}", assert.packet),
                problem: format!(
                    "expected {}, but it is {}",
                    word(assert.expect),
                    word(told.verdict)
                ),
                remedy: steps.join("; "),
            });
        }
        faults
    }
}

/// Whether a connection of a running switch would go on under this configuration; its ports by their numbers here.
#[must_use]
pub fn would_go_on(after: &Trial, ports: [PortId; 2], flow: &FlowReport) -> bool {
    let mac = |text: &String| text.parse::<Mac>().ok();
    let [Some(src), Some(dst)] = flow.macs.each_ref().map(mac) else {
        return false;
    };
    let flow = Flow::of(
        ports,
        flow.vlan,
        flow.protocol,
        [flow.src, flow.dst],
        [flow.src_port, flow.dst_port],
        [src, dst],
    );
    after.policy.rejudge(&flow).is_some()
}

/// What a rule says, whatever it is called and wherever it was written.
#[must_use]
pub fn in_full(rule: &Rule) -> String {
    let unplaced = Rule {
        name: String::new(),
        origin: String::new(),
        ..rule.clone()
    };
    format!("{unplaced:?}")
}

fn word(action: Action) -> &'static str {
    match action {
        Action::Allow => "allow",
        Action::Deny => "deny",
        Action::Reject => "reject",
    }
}

/// Whether a switch would start with this configuration as far as its rules go, and every `[[assert]]` holds.
///
/// # Errors
/// What does not hold, each with its place.
pub(super) fn try_out(spec: &SwitchSpec) -> Result<(), ConfigError> {
    if spec.asserts.is_empty() {
        return Ok(());
    }
    let whole = |problem: String| {
        ConfigError::Invalid(vec![Fault {
            place: Place::Whole(spec.name.clone()),
            subject: "assert".to_owned(),
            problem,
            remedy: "mend that first".to_owned(),
        }])
    };
    let trial = Trial::new(spec.clone()).map_err(|error| whole(error.to_string()))?;
    let broken = trial.broken_asserts();
    if broken.is_empty() {
        Ok(())
    } else {
        Err(ConfigError::Invalid(broken))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Overrides, from_text};

    fn trial(text: &str) -> Trial {
        let overrides = Overrides {
            name: Some("lan".to_owned()),
            control: Some("/control".into()),
            ..Overrides::default()
        };
        let spec = from_text(Some("lan.toml".as_ref()), text, &overrides).unwrap();
        Trial::new(spec).unwrap()
    }

    fn explain(trial: &Trial, from: &str, to: Option<&str>, packet: &str) -> Explanation {
        let port = |name: &str| trial.port(name).unwrap();
        let (from, to) = (port(from), to.map(port));
        let frame = trial.spec().packet(packet, from, to).unwrap();
        trial.explain(from, to, &frame)
    }

    const LAN: &str = r#"
        [acl.db]
        inbound = [ { allow = "tcp", from = "port:web", port = 5432, name = "sql" }, { reject = "tcp" } ]
        outbound = [ { deny = "any" } ]
        [port.web]
        socket = "/web"
        ip = "10.0.0.5"
        [port.db]
        socket = "/db"
        acl = "db"
        ip = "10.0.0.6"
        [port.alone]
        socket = "/alone"
        mode = "private"
        "#;

    #[test]
    fn each_step_says_what_it_decided() {
        let trial = trial(LAN);
        let told = explain(&trial, "web", Some("db"), "tcp > :5432");
        assert_eq!((told.verdict, told.reason), (Action::Allow, None));
        assert_eq!(told.destinations, ["db"]);
        let names: Vec<&str> = told.steps.iter().map(|step| step.name).collect();
        assert!(names.starts_with(&["port security"]), "{names:?}");
        let inbound = told
            .steps
            .iter()
            .find(|step| step.name == "inbound")
            .unwrap();
        assert_eq!(inbound.said, "db: allow, by lan.toml:3:21 (sql)");
        let told = explain(&trial, "web", Some("db"), "tcp > :22");
        assert_eq!(told.verdict, Action::Reject);
        assert_eq!(told.reason.as_deref(), Some("rejected"));
        let told = explain(&trial, "web", Some("alone"), "tcp > 10.0.0.9:22");
        assert_eq!(told.reason.as_deref(), Some("unreachable"));
        let told = explain(&trial, "web", Some("db"), "tcp 10.0.0.99:1 > :5432");
        assert_eq!(told.reason.as_deref(), Some("source-ip-spoofed"));
    }

    #[test]
    fn a_trial_leaves_nothing_for_the_next() {
        let trial = trial(LAN);
        let first = explain(&trial, "web", Some("db"), "tcp > :5432");
        for _ in 0..3 {
            // A connection that the first had opened would make an answer pass.
            let answer = explain(
                &trial,
                "db",
                Some("web"),
                "tcp 10.0.0.6:5432 > 10.0.0.5:40000 flags=syn,ack",
            );
            assert_ne!(answer.verdict, Action::Allow);
            assert_eq!(explain(&trial, "web", Some("db"), "tcp > :5432"), first);
        }
        let entries = trial.fabric.fdb().entries(Tick::ZERO);
        assert_eq!(entries.filter(|entry| !entry.is_static).count(), 0);
    }

    /// It was counted twice under its sender's limits.
    #[test]
    fn a_frame_that_is_looked_at_twice_is_counted_once() {
        let trial = trial(
            r#"
            [acl.db]
            inbound = [ { allow = "udp", port = 5353 } ]
            [port.web]
            socket = "/web"
            uplink = true
            limits = { send_frames = "1/s burst 1" }
            [port.db]
            socket = "/db"
            acl = "db"
            mac = "52:54:00:00:00:02"
            "#,
        );
        let mut bytes = vec![0x52, 0x54, 0, 0, 0, 2, 0x52, 0x54, 0, 0, 0, 1, 0x86, 0xdd];
        bytes.extend([0x60, 0, 0, 0, 0, 112, 0, 64]);
        bytes.extend([[0xfd; 16], [0xfe; 16]].as_flattened());
        // 96 bytes of hop-by-hop options: the ports lie beyond the first 128 bytes.
        bytes.extend([17, 11, 1, 92]);
        bytes.extend([0; 92]);
        bytes.extend([0x14, 0xe9, 0x14, 0xe9, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let [from, to] = ["web", "db"].map(|name| trial.port(name).unwrap());
        let told = trial.explain(from, Some(to), &bytes);
        assert_eq!((told.reason, told.verdict), (None, Action::Allow));
    }

    #[test]
    fn an_assert_that_does_not_hold_refuses_the_configuration() {
        let holds = "[[assert]]\nfrom = \"web\"\nto = \"db\"\npacket = \"tcp > :22\"\nexpect = \"reject\"\n";
        let fails = holds.replace("reject", "allow");
        let spec = |more: &str| {
            let text = format!("{LAN}\n{more}");
            from_text(Some("lan.toml".as_ref()), &text, &Overrides::default()).unwrap()
        };
        try_out(&spec(holds)).unwrap();
        let error = try_out(&spec(&fails)).unwrap_err().to_string();
        assert!(error.starts_with("lan.toml:"), "{error}");
        assert!(
            error.contains("expected allow, but it is reject"),
            "{error}"
        );
        assert!(
            error.contains("inbound: db: reject, by lan.toml:3"),
            "{error}"
        );
    }
}
