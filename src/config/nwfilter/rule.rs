//! One `<rule>` to rules of ours.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

use super::xml::{RawRule, Variables, chain_kind};
use crate::config::terms::{PROTOCOLS, RARP};
use crate::frame::ethernet::ethertype;
use crate::frame::{Mac, protocol};
use crate::policy::rule::{Action, Kind, Rule, Who};
use crate::policy::subject::{Family, State};

/// What a rule comes to.
#[derive(Debug, Clone)]
pub(super) enum Outcome {
    /// Rules for one or both directions.
    Rules {
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

/// In which of the two mechanisms a rule is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layer {
    /// ebtables.
    Two,
    /// iptables and ip6tables.
    Three,
}

/// What a word of an attribute stands for.
enum Values {
    /// `$MAC` or `$IP` of the guest, whose value nobody told us.
    Own,
    Known(Vec<String>),
}

/// The attributes of one protocol element; each is to be taken, and what is left is not understood.
struct Attributes<'v> {
    left: Vec<(String, String)>,
    variables: &'v Variables,
}

impl Attributes<'_> {
    fn word(&mut self, name: &str) -> Option<String> {
        let index = self.left.iter().position(|(known, _)| known == name)?;
        Some(self.left.remove(index).1)
    }

    fn has(&self, name: &str) -> bool {
        self.left.iter().any(|(known, _)| known == name)
    }

    /// The values of an attribute, its variables put in.
    fn values(&mut self, name: &str) -> Result<Option<Values>, String> {
        let Some(word) = self.word(name) else {
            return Ok(None);
        };
        let Some(variable) = word.strip_prefix('$') else {
            return Ok(Some(Values::Known(vec![word])));
        };
        let (variable, index) = match variable.split_once('[') {
            None => (variable, None),
            Some((variable, index)) => (variable, index.strip_suffix(']')),
        };
        let Some(values) = self.variables.get(variable) else {
            return match variable {
                "MAC" | "IP" | "IPV6" => Ok(Some(Values::Own)),
                _ => Err(format!(
                    "${variable} has no value; name the domain that gives it with --domain"
                )),
            };
        };
        match index {
            None => Ok(Some(Values::Known(values.clone()))),
            Some(digits) => match digits
                .parse::<usize>()
                .ok()
                .and_then(|index| values.get(index))
            {
                Some(value) => Ok(Some(Values::Known(vec![value.clone()]))),
                None => Err(format!(
                    "{word} goes through a list step by step, which a rule here cannot"
                )),
            },
        }
    }
}

/// Who is at one end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct End {
    who: Vec<Who>,
    ports: Vec<RangeInclusive<u16>>,
    own_mac: bool,
    own_ip: bool,
}

/// A rule before its direction: both ends, and what is between them.
struct Shape {
    layer: Layer,
    kind: Kind,
    src: End,
    dst: End,
    icmp: Vec<(u8, Option<u8>)>,
    states: Option<Vec<State>>,
    /// Whether an own address stands in an ARP packet rather than at an end.
    arp_own: (bool, bool),
    comment: String,
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
        shape.src.own_mac || shape.arp_own.0,
        shape.src.own_ip || shape.arp_own.1,
    );
    let is_own = (own.0 || own.1) && shape.src.who.is_empty() && shape.is_bare();
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

const V4: Kind = Kind::Ip {
    family: Some(Family::V4),
    protocol: None,
};
const V6: Kind = Kind::Ip {
    family: Some(Family::V6),
    protocol: None,
};

fn kind_of_chain(chain: &str) -> Result<Kind, String> {
    match chain_kind(chain) {
        "root" | "mac" => Ok(Kind::Any),
        "ipv4" => Ok(V4),
        "ipv6" => Ok(V6),
        "arp" => Ok(Kind::EtherType(ethertype::ARP)),
        "rarp" => Ok(Kind::EtherType(RARP)),
        "vlan" => Err("VLAN tags are the port's vlan and trunk here, not a rule's".to_owned()),
        "stp" => Err("spanning tree is never forwarded here".to_owned()),
        _ => Err(format!("chain '{chain}' is not known")),
    }
}

/// What both mean; `None` when nothing is of both.
fn intersect(chain: Kind, rule: Kind) -> Option<Kind> {
    match (chain, rule) {
        (Kind::Any, kind) | (kind, Kind::Any) => Some(kind),
        (
            V4,
            Kind::Ip {
                family: Some(Family::V4),
                ..
            },
        ) => Some(rule),
        (
            V6,
            Kind::Ip {
                family: Some(Family::V6),
                ..
            },
        ) => Some(rule),
        (chain, rule) => (chain == rule).then_some(rule),
    }
}

/// Reads the element; `None` when it can match nothing in its chain.
fn shape(
    name: &str,
    chain: Kind,
    attributes: &mut Attributes<'_>,
) -> Result<Option<Shape>, String> {
    let mut shape = Shape {
        layer: Layer::Two,
        kind: chain,
        src: End::default(),
        dst: End::default(),
        icmp: Vec::new(),
        states: None,
        arp_own: (false, false),
        comment: attributes.word("comment").unwrap_or_default(),
    };
    let kind = match name {
        "" => Kind::Any,
        "mac" => match attributes.word("protocolid") {
            None => Kind::Any,
            Some(word) => ethertype_of(&word)?,
        },
        "arp" => Kind::EtherType(ethertype::ARP),
        "rarp" => Kind::EtherType(RARP),
        "ip" => of_protocol(Family::V4, attributes)?,
        "ipv6" => of_protocol(Family::V6, attributes)?,
        "vlan" => {
            return Err("VLAN tags are the port's vlan and trunk here, not a rule's".to_owned());
        }
        "stp" => return Err("spanning tree is never forwarded here".to_owned()),
        name => {
            shape.layer = Layer::Three;
            layer_3(name).ok_or_else(|| format!("<{name}> is not known"))?
        }
    };
    let layer = shape.layer;
    shape.kind = match layer {
        Layer::Two => match intersect(chain, kind) {
            Some(kind) => kind,
            None => {
                attributes.left.clear();
                return Ok(None);
            }
        },
        Layer::Three => kind,
    };
    read_macs(&mut shape, attributes)?;
    read_addresses(&mut shape, attributes)?;
    read_ports(&mut shape, attributes)?;
    read_icmp(&mut shape, attributes)?;
    read_arp(&mut shape, attributes)?;
    if layer == Layer::Three {
        shape.states = read_states(attributes)?;
    }
    for (end, who) in [(&shape.src, "source"), (&shape.dst, "destination")] {
        let has = |is: fn(&Who) -> bool| end.who.iter().any(is);
        if has(|who| matches!(who, Who::Mac(_)))
            && (has(|who| matches!(who, Who::Prefix(_))) || end.own_ip)
        {
            return Err(format!(
                "a MAC and an IP address of one {who}: a rule here asks for one of them"
            ));
        }
    }
    Ok(Some(shape))
}

fn ethertype_of(word: &str) -> Result<Kind, String> {
    match word {
        "arp" => return Ok(Kind::EtherType(ethertype::ARP)),
        "rarp" => return Ok(Kind::EtherType(RARP)),
        "ipv4" => return Ok(V4),
        "ipv6" => return Ok(V6),
        _ => {}
    }
    match number(word) {
        Some(0x0800) => Ok(V4),
        Some(0x86dd) => Ok(V6),
        Some(number) if number >= ethertype::FIRST => Ok(Kind::EtherType(number)),
        _ => Err(format!("protocolid='{word}' has no equal here")),
    }
}

/// Decimal, or hexadecimal with 0x.
fn number(word: &str) -> Option<u16> {
    match word.strip_prefix("0x") {
        Some(digits) => u16::from_str_radix(digits, 16).ok(),
        None => word.parse().ok(),
    }
}

fn of_protocol(family: Family, attributes: &mut Attributes<'_>) -> Result<Kind, String> {
    let protocol = match attributes.word("protocol") {
        None => None,
        Some(word) => {
            let known = PROTOCOLS.iter().find(|(name, ..)| *name == word);
            let found = known
                .map(|(_, number, _)| *number)
                .or_else(|| u8::try_from(number(&word)?).ok());
            Some(found.ok_or_else(|| format!("protocol='{word}' is not known"))?)
        }
    };
    Ok(Kind::Ip {
        family: Some(family),
        protocol,
    })
}

fn layer_3(name: &str) -> Option<Kind> {
    let (plain, family) = match name.strip_suffix("-ipv6") {
        Some(plain) => (plain, Family::V6),
        None if name == "icmpv6" => (name, Family::V6),
        None => (name, Family::V4),
    };
    let protocol = match plain {
        "all" => None,
        "tcp" | "udp" | "udplite" | "esp" | "ah" | "sctp" | "icmp" | "icmpv6" | "igmp" => {
            let found = PROTOCOLS.iter().find(|(known, ..)| *known == plain);
            Some(found.map(|(_, number, _)| *number)?)
        }
        _ => return None,
    };
    Some(Kind::Ip {
        family: Some(family),
        protocol,
    })
}

fn read_macs(shape: &mut Shape, attributes: &mut Attributes<'_>) -> Result<(), String> {
    for (side, mask) in [("srcmacaddr", "srcmacmask"), ("dstmacaddr", "dstmacmask")] {
        let mask = attributes.word(mask);
        let end = if side == "srcmacaddr" {
            &mut shape.src
        } else {
            &mut shape.dst
        };
        match attributes.values(side)? {
            None => {}
            Some(_) if mask.is_some_and(|mask| !mask.eq_ignore_ascii_case("ff:ff:ff:ff:ff:ff")) => {
                return Err(format!(
                    "{side} with a mask: a rule here names whole MAC addresses"
                ));
            }
            Some(Values::Own) => end.own_mac = true,
            Some(Values::Known(words)) => {
                for word in words {
                    let mac: Mac = word
                        .parse()
                        .map_err(|_| format!("{side}='{word}' is no MAC address"))?;
                    end.who.push(Who::Mac(mac));
                }
            }
        }
    }
    Ok(())
}

fn read_addresses(shape: &mut Shape, attributes: &mut Attributes<'_>) -> Result<(), String> {
    for side in ["src", "dst"] {
        let mask = attributes.word(&format!("{side}ipmask"));
        let found = attributes.values(&format!("{side}ipaddr"))?;
        let from = attributes.word(&format!("{side}ipfrom"));
        let to = attributes.word(&format!("{side}ipto"));
        let end = if side == "src" {
            &mut shape.src
        } else {
            &mut shape.dst
        };
        match found {
            None => {}
            Some(Values::Own) => end.own_ip = true,
            Some(Values::Known(words)) => {
                for word in words {
                    end.who.push(Who::Prefix(prefix(&word, mask.as_deref())?));
                }
            }
        }
        if let Some(from) = from {
            let to = to.unwrap_or_else(|| from.clone());
            end.who
                .extend(range(&from, &to)?.into_iter().map(Who::Prefix));
        }
    }
    Ok(())
}

/// An address with a mask, which is a length or an address of ones and zeros.
fn prefix(word: &str, mask: Option<&str>) -> Result<IpNet, String> {
    let address: IpAddr = word
        .parse()
        .map_err(|_| format!("'{word}' is no IP address"))?;
    let Some(mask) = mask else {
        return Ok(IpNet::from(address));
    };
    let net = match mask.parse::<u8>() {
        Ok(len) => IpNet::new(address, len).ok(),
        Err(_) => mask
            .parse()
            .ok()
            .and_then(|mask| IpNet::with_netmask(address, mask).ok()),
    };
    net.map(|net| net.trunc())
        .ok_or_else(|| format!("'{mask}' is no mask of a prefix"))
}

fn range(from: &str, to: &str) -> Result<Vec<IpNet>, String> {
    let wrong = || format!("'{from}' to '{to}' is no range of addresses");
    let ends = (
        from.parse().map_err(|_| wrong())?,
        to.parse().map_err(|_| wrong())?,
    );
    match ends {
        (IpAddr::V4(from), IpAddr::V4(to)) if from <= to => {
            Ok(Ipv4Subnets::new(from, to, 0).map(IpNet::V4).collect())
        }
        (IpAddr::V6(from), IpAddr::V6(to)) if from <= to => {
            Ok(Ipv6Subnets::new(from, to, 0).map(IpNet::V6).collect())
        }
        _ => Err(wrong()),
    }
}

fn read_ports(shape: &mut Shape, attributes: &mut Attributes<'_>) -> Result<(), String> {
    for side in ["src", "dst"] {
        let last = attributes.word(&format!("{side}portend"));
        let Some(found) = attributes.values(&format!("{side}portstart"))? else {
            continue;
        };
        if !matches!(
            shape.kind,
            Kind::Ip {
                protocol: Some(protocol::TCP | protocol::UDP),
                ..
            }
        ) {
            return Err("ports of another protocol than TCP and UDP have no equal here".to_owned());
        }
        let Values::Known(words) = found else {
            return Err("an address where a port should be".to_owned());
        };
        let end = if side == "src" {
            &mut shape.src
        } else {
            &mut shape.dst
        };
        for word in words {
            let port = |word: &str| number(word).ok_or_else(|| format!("'{word}' is no port"));
            let first = port(&word)?;
            let last = last.as_deref().map_or(Ok(first), port)?;
            if first > last {
                return Err(format!("ports {first} to {last} run backwards"));
            }
            end.ports.push(first..=last);
        }
    }
    Ok(())
}

fn read_icmp(shape: &mut Shape, attributes: &mut Attributes<'_>) -> Result<(), String> {
    let Some(kind) = attributes.word("type") else {
        return Ok(());
    };
    if attributes.has("typeend") || attributes.has("codeend") {
        return Err("a range of ICMP types has no equal here; write one rule for each".to_owned());
    }
    let small = |word: &str| number(word).and_then(|number| u8::try_from(number).ok());
    let kind = small(&kind).ok_or_else(|| format!("type='{kind}' is no ICMP type"))?;
    let code = match attributes.word("code") {
        None => None,
        Some(code) => Some(small(&code).ok_or_else(|| format!("code='{code}' is no ICMP code"))?),
    };
    if !shape.is_icmp() {
        return Err("an ICMP type in what is no ICMP".to_owned());
    }
    shape.icmp.push((kind, code));
    Ok(())
}

/// Whose address an ARP packet carries is port security here; all else in it has no equal.
fn read_arp(shape: &mut Shape, attributes: &mut Attributes<'_>) -> Result<(), String> {
    for (name, is_mac) in [("arpsrcmacaddr", true), ("arpsrcipaddr", false)] {
        match attributes.values(name)? {
            None => {}
            // A value that we know is still the guest's own when it is the variable's.
            Some(Values::Own) => {
                if is_mac {
                    shape.arp_own.0 = true
                } else {
                    shape.arp_own.1 = true
                }
            }
            Some(Values::Known(words)) => {
                let own = if is_mac { "MAC" } else { "IP" };
                if attributes.variables.get(own) != Some(&words) {
                    return Err(format!(
                        "{name} has no equal here: no rule looks into ARP, only port security"
                    ));
                }
                if is_mac {
                    shape.arp_own.0 = true
                } else {
                    shape.arp_own.1 = true
                }
            }
        }
    }
    Ok(())
}

fn read_states(attributes: &mut Attributes<'_>) -> Result<Option<Vec<State>>, String> {
    let Some(text) = attributes.word("state") else {
        return Ok(None);
    };
    let mut states = Vec::new();
    for word in text.split(',').map(str::trim) {
        states.push(match word {
            "NEW" => State::New,
            "ESTABLISHED" => State::Established,
            "RELATED" => State::Related,
            "INVALID" => State::Invalid,
            _ => return Err(format!("state='{text}' has no equal here")),
        });
    }
    Ok(Some(states))
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

    fn is_icmp(&self) -> bool {
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
