//! All rules in one order, and the two mechanisms in one list.

use super::Remark;
use super::attributes::Layer;
use super::rule::{Outcome, convert};
use super::xml::{Placed, RawRule, Variables, What};
use crate::policy::rule::{Action, Kind, Rule};
use crate::policy::subject::{Family, State};

/// What a filter comes to for one interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) outbound: Vec<Rule>,
    pub(super) inbound: Vec<Rule>,
    /// Whether the guest's IP addresses are to be bound.
    pub(super) guards_ip: bool,
}

/// A rule with its outcome, in the order in which libvirt would judge it.
struct Judged {
    chain: String,
    /// None for what is here already.
    raw: Option<RawRule>,
    outcome: Result<Outcome, String>,
}

/// Sorts, converts and joins. What has no equal goes to `remarks`.
pub(super) fn policy(
    mut placed: Vec<Placed>,
    variables: &Variables,
    remarks: &mut Vec<Remark>,
) -> Policy {
    placed.sort_by(|a, b| a.at.cmp(&b.at));
    let judged: Vec<Judged> = placed.into_iter().map(judge).collect();
    let mut policy = Policy::default();
    let mut layers = Layers::default();
    let guards = guarding_chains(&judged);
    for found in judged {
        if let Some((_, ip)) = guards
            .iter()
            .find_map(|(chain, guard)| (*chain == found.chain).then_some(*guard))
        {
            policy.guards_ip |= ip;
            continue;
        }
        match found.outcome {
            Ok(Outcome::Rules {
                guards_ip,
                layer,
                rules,
            }) => {
                policy.guards_ip |= guards_ip;
                for (is_outbound, rule) in rules {
                    layers.list(layer, is_outbound).push(rule);
                }
            }
            Ok(Outcome::Guard { ip }) => policy.guards_ip |= ip,
            Ok(Outcome::Nothing | Outcome::Request) => {}
            // Nothing behind it drops the rest, so that it changes nothing: what is not the guest's own passes as well.
            Ok(Outcome::Own { .. }) => {}
            Err(why) => remarks.extend(found.raw.map(|raw| remark(&raw, &why))),
        }
    }
    // What the interface declares is bound even where the filter only mentions it.
    policy.guards_ip |= variables.contains_key("IP") || variables.contains_key("IPV6");
    for is_outbound in [true, false] {
        let two = std::mem::take(layers.list(Layer::Two, is_outbound));
        let three = std::mem::take(layers.list(Layer::Three, is_outbound));
        let list = join(two, &three, remarks);
        if is_outbound {
            policy.outbound = list;
        } else {
            policy.inbound = list;
        }
    }
    policy
}

fn judge(placed: Placed) -> Judged {
    let chain = placed.at.name;
    match placed.what {
        What::Rule(raw) => Judged {
            outcome: convert(&raw, &chain, &placed.variables),
            chain,
            raw: Some(raw),
        },
        What::Ready { is_outbound, rule } => Judged {
            chain: String::new(),
            raw: None,
            outcome: Ok(Outcome::Rules {
                guards_ip: false,
                layer: Layer::Two,
                rules: vec![(is_outbound, *rule)],
            }),
        },
        What::Guard { ip } => Judged {
            chain: String::new(),
            raw: None,
            outcome: Ok(Outcome::Guard { ip }),
        },
    }
}

fn remark(raw: &RawRule, why: &str) -> Remark {
    let effect = match raw.action.as_str() {
        "accept" => "left out, so that what it accepts may be dropped",
        "drop" | "reject" => "left out, so that what it drops may pass",
        "continue" => "left out, which changes nothing",
        "return" => {
            "left out, so that the rest of its chain judges what it lets go on: more may pass, or less"
        }
        _ => "left out, so that more may pass, or less",
    };
    Remark {
        file: raw.file.clone(),
        line: raw.line,
        text: format!("{} {}: {why}: {effect}", raw.action, raw.direction),
    }
}

/// Chains that let the guest's own addresses go on and drop every other: what port security does. With what they guard.
fn guarding_chains(judged: &[Judged]) -> Vec<(String, (bool, bool))> {
    let mut chains: Vec<(String, (bool, bool))> = Vec::new();
    for found in judged {
        let is_known = chains.iter().any(|(chain, _)| *chain == found.chain);
        if found.chain.is_empty() || found.chain == "root" || is_known {
            continue;
        }
        let of_chain: Vec<&Judged> = judged
            .iter()
            .filter(|other| other.chain == found.chain)
            .collect();
        if let Some(guard) = guard_of(&of_chain) {
            chains.push((found.chain.clone(), guard));
        }
    }
    chains
}

fn guard_of(rules: &[&Judged]) -> Option<(bool, bool)> {
    let (last, rest) = rules.split_last()?;
    let drops_all = match &last.outcome {
        Ok(Outcome::Rules {
            layer: Layer::Two,
            rules,
            ..
        }) => matches!(
            rules.as_slice(),
            [(true, rule)] if rule.action == Action::Deny && is_unconditional(rule)
        ),
        _ => false,
    };
    let mut guard = (false, false);
    for rule in rest {
        match rule.outcome {
            Ok(Outcome::Own { mac, ip }) => guard = (guard.0 || mac, guard.1 || ip),
            Ok(Outcome::Request | Outcome::Nothing) => {}
            _ => return None,
        }
    }
    (drops_all && guard != (false, false)).then_some(guard)
}

/// Whether it matches every packet of its kind.
fn is_unconditional(rule: &Rule) -> bool {
    rule.from.is_empty() && rule.to.is_empty() && !rule.reads_layer_4()
}

#[derive(Default)]
struct Layers {
    two: [Vec<Rule>; 2],
    three: [Vec<Rule>; 2],
}

impl Layers {
    fn list(&mut self, layer: Layer, is_outbound: bool) -> &mut Vec<Rule> {
        let [inbound, outbound] = match layer {
            Layer::Two => &mut self.two,
            Layer::Three => &mut self.three,
        };
        if is_outbound { outbound } else { inbound }
    }
}

/// One list of two that a packet must pass both: where layer 2 lets all IP of a family pass, layer 3 is heard.
fn join(two: Vec<Rule>, three: &[Rule], remarks: &mut Vec<Remark>) -> Vec<Rule> {
    let mut list: Vec<Rule> = Vec::new();
    let of = |family: Family| {
        let is_of = move |rule: &&Rule| matches!(rule.kind, Kind::Ip { family: Some(found), .. } if found == family);
        three.iter().filter(is_of).cloned()
    };
    for rule in two {
        if list.iter().any(is_catch_all) {
            break;
        }
        let families = families(rule.kind);
        let heard: Vec<Rule> = families.iter().flat_map(|family| of(*family)).collect();
        if rule.action != Action::Allow || heard.is_empty() {
            list.push(rule);
        } else if is_unconditional(&rule)
            && !matches!(
                rule.kind,
                Kind::Ip {
                    protocol: Some(_),
                    ..
                }
            )
        {
            list.extend(heard);
            list.push(rule);
        } else {
            let (file, line) = rule.origin.rsplit_once(':').unwrap_or((&rule.origin, "1"));
            remarks.push(Remark {
                file: file.to_owned(),
                line: line.parse().unwrap_or(1),
                text: "accept: what it lets pass at layer 2 is judged again at layer 3, and a list here is one: \
                       left out, so that what it accepts may be dropped"
                    .to_owned(),
            });
        }
    }
    if !list.iter().any(is_catch_all) {
        list.extend(three.iter().cloned());
        // What no rule of libvirt's matches passes.
        if !list.iter().any(is_catch_all) {
            list.push(Rule {
                name: "what no rule matches".to_owned(),
                stateless: true,
                states: vec![
                    State::Untracked,
                    State::New,
                    State::Established,
                    State::Related,
                    State::Invalid,
                ],
                ..Rule::any(Action::Allow)
            });
        }
    }
    list
}

fn families(kind: Kind) -> &'static [Family] {
    match kind {
        Kind::Any | Kind::Ip { family: None, .. } => &[Family::V4, Family::V6],
        Kind::Ip {
            family: Some(Family::V4),
            ..
        } => &[Family::V4],
        Kind::Ip {
            family: Some(Family::V6),
            ..
        } => &[Family::V6],
        Kind::Llc | Kind::EtherType(_) => &[],
    }
}

fn is_catch_all(rule: &Rule) -> bool {
    rule.kind == Kind::Any && is_unconditional(rule)
}
