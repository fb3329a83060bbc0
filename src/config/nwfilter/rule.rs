//! One `<rule>` to rules of ours.

use super::attributes::{Attributes, End, Layer, Shape, kind_of_chain, shape};
use super::xml::{RawRule, Variables};
use crate::frame::protocol;
use crate::policy::rule::{Action, Kind, Rule, Who};
use crate::policy::subject::State;

/// What a rule comes to.
#[derive(Debug, Clone)]
pub(super) enum Outcome {
    /// Rules for one or both directions. `guards_ip`: they leave out a condition that the source is the guest's own address,
    /// which port security has to hold.
    Rules {
        guards_ip: bool,
        layer: Layer,
        rules: Vec<(bool, Rule)>,
    },
    /// What is the guest's own goes on behind the chain, and nothing is said of the rest: `return` with `$MAC` or `$IP`.
    Own { mac: bool, ip: bool },
    /// A packet of an address request goes on behind the chain; port security lets it pass by itself.
    Request,
    /// Whatever is not the guest's own is dropped: `drop` with `match='no'`.
    Guard { ip: bool },
    /// It changes nothing.
    Nothing,
}

/// Converts one rule that stands in `chain`; the error says what has no equal.
pub(super) fn convert(
    rule: &RawRule,
    chain: &str,
    variables: &Variables,
) -> Result<Outcome, String> {
    let none = (String::new(), Vec::new());
    let (name, attributes) = match rule.protocols.as_slice() {
        [] => &none,
        [one] => one,
        _ => return Err("a rule with several protocols; write one rule for each".to_owned()),
    };
    let mut attributes = Attributes {
        left: attributes.clone(),
        variables,
    };
    let is_negated = matches!(attributes.word("match").as_deref(), Some("no"));
    let of_chain = kind_of_chain(chain)?;
    let shape = shape(name, of_chain, &mut attributes)?;
    if let Some((attribute, _)) = attributes.left.first() {
        return Err(format!("{attribute} has no equal here"));
    }
    let Some(shape) = shape else {
        return Ok(Outcome::Nothing);
    };
    let is_outbound = match rule.direction.as_str() {
        "out" => Some(true),
        "in" => Some(false),
        "inout" => None,
        other => return Err(format!("direction='{other}' is not known")),
    };
    let own = (
        shape.src.own_mac || shape.src.told_mac || shape.arp_own.0,
        shape.src.own_ip || shape.src.told_ip || shape.arp_own.1,
    );
    let only_own = shape.src.who.is_empty() || shape.src.told_mac || shape.src.told_ip;
    let is_own = (own.0 || own.1) && only_own && shape.is_bare();
    if is_negated {
        return match (rule.action.as_str(), is_outbound, is_own) {
            ("drop" | "reject", Some(true), true) => Ok(Outcome::Guard { ip: own.1 }),
            _ => Err("match='no' has no equal here; write what is allowed instead".to_owned()),
        };
    }
    match rule.action.as_str() {
        "continue" => Ok(Outcome::Nothing),
        "return" if is_outbound == Some(true) && is_own => Ok(Outcome::Own {
            mac: own.0,
            ip: own.1,
        }),
        "return" if is_outbound == Some(true) && shape.is_request() => Ok(Outcome::Request),
        "return" => Err("return has no equal here: a list has no chains to go back to".to_owned()),
        "accept" => shape.rules(Action::Allow, is_outbound, rule),
        "drop" => shape.rules(Action::Deny, is_outbound, rule),
        "reject" if shape.layer == Layer::Three => shape.rules(Action::Reject, is_outbound, rule),
        // ebtables cannot answer: libvirt drops.
        "reject" => shape.rules(Action::Deny, is_outbound, rule),
        other => Err(format!("action='{other}' is not known")),
    }
}

const EVERY: [State; 5] = [
    State::New,
    State::Established,
    State::Related,
    State::Invalid,
    State::Untracked,
];
/// Whatever an accepted connection has not settled already.
const UNSETTLED: [State; 3] = [State::New, State::Invalid, State::Untracked];

impl Shape {
    /// Nothing besides who sends it.
    fn is_bare(&self) -> bool {
        self.dst == End::default() && self.src.ports.is_empty() && self.icmp.is_empty()
    }

    pub(super) fn is_icmp(&self) -> bool {
        matches!(
            self.kind,
            Kind::Ip {
                protocol: Some(protocol::ICMP | protocol::ICMPV6),
                ..
            }
        )
    }

    /// DHCP and DHCPv6 from an address that is not yet the guest's own.
    fn is_request(&self) -> bool {
        let sources = ["0.0.0.0/32", "fe80::/10"];
        let is_udp = matches!(
            self.kind,
            Kind::Ip {
                protocol: Some(protocol::UDP),
                ..
            }
        );
        let is_request = |who: &Who| matches!(who, Who::Prefix(net) if sources.contains(&net.to_string().as_str()));
        is_udp && self.is_bare() && !self.src.who.is_empty() && self.src.who.iter().all(is_request)
    }

    /// The rule for the direction that is written, and the one with exchanged ends that libvirt writes with it.
    fn rules(
        &self,
        action: Action,
        is_outbound: Option<bool>,
        raw: &RawRule,
    ) -> Result<Outcome, String> {
        let both = is_outbound.is_none();
        // `inout` is `in` as it is written, and `out` with its ends exchanged.
        let main = is_outbound.unwrap_or(false);
        let has_type = !self.icmp.is_empty();
        if both && has_type && self.layer == Layer::Three {
            return Err(
                "an ICMP type in direction inout, of which libvirt makes no rule; write in and out"
                    .to_owned(),
            );
        }
        let mut rules = vec![(main, self.rule(action, main, false, raw)?)];
        let exchanged = match self.layer {
            Layer::Two => both,
            Layer::Three if self.states.is_some() => both,
            Layer::Three if action == Action::Allow => both || raw.is_stateless,
            Layer::Three => true,
        };
        if exchanged && !(has_type && self.layer == Layer::Three) {
            rules.push((!main, self.rule(action, !main, true, raw)?));
        }
        let is_stateful = self.layer == Layer::Three && !both && !raw.is_stateless && !has_type;
        for (_, rule) in &mut rules {
            let is_allow = action == Action::Allow;
            rule.stateless = is_allow && !(is_stateful && self.states.is_none());
            rule.states = match (&self.states, self.layer) {
                (Some(states), _) => states.clone(),
                (None, Layer::Two) if is_allow || rule.kind != Kind::Any => EVERY.to_vec(),
                (None, Layer::Three) if is_allow && is_stateful => Vec::new(),
                (None, Layer::Three) if is_allow && has_type && !raw.is_stateless => {
                    vec![State::New, State::Established, State::Untracked]
                }
                (None, Layer::Three) if is_allow => EVERY.to_vec(),
                (None, _) => UNSETTLED.to_vec(),
            };
        }
        Ok(Outcome::Rules {
            guards_ip: self.src.own_ip || self.arp_own.1,
            layer: self.layer,
            rules,
        })
    }

    fn rule(
        &self,
        action: Action,
        is_outbound: bool,
        is_exchanged: bool,
        raw: &RawRule,
    ) -> Result<Rule, String> {
        let (from, to) = if is_exchanged {
            (&self.dst, &self.src)
        } else {
            (&self.src, &self.dst)
        };
        // The guest's own address is what port security leaves of a source, and unknown anywhere else.
        let own = if is_outbound { to } else { from };
        if own.own_mac || own.own_ip || (!is_outbound && (to.own_mac || to.own_ip)) {
            return Err(
                "the guest's own address is not known; name the domain with --domain".to_owned(),
            );
        }
        if self.arp_own != (false, false) && !is_outbound {
            return Err("no rule looks into ARP, only port security of the sender".to_owned());
        }
        let name: String = self
            .comment
            .chars()
            .filter(|c| !c.is_control())
            .take(64)
            .collect();
        Ok(Rule {
            name,
            origin: format!("{}:{}", raw.file, raw.line),
            kind: self.kind,
            from: from.who.clone(),
            to: to.who.clone(),
            source_port: from.ports.clone(),
            port: to.ports.clone(),
            icmp: self.icmp.clone(),
            ..Rule::any(action)
        })
    }
}
