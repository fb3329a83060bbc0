//! What one `<rule>` asks for: the attributes of its protocol, with the variables put in.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

use super::xml::{Variables, chain_kind};
use crate::config::terms::{PROTOCOLS, RARP, is_looked_behind};
use crate::frame::ethernet::ethertype;
use crate::frame::{Mac, protocol};
use crate::policy::rule::{Kind, Who};
use crate::policy::subject::{Family, State};

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
    /// The same, told by the domain.
    Told(Vec<String>),
}

/// The attributes of one protocol element; each is to be taken, and what is left is not understood.
pub(super) struct Attributes<'v> {
    pub(super) left: Vec<(String, String)>,
    pub(super) variables: &'v Variables,
}

impl Attributes<'_> {
    pub(super) fn word(&mut self, name: &str) -> Option<String> {
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
            None if matches!(variable, "MAC" | "IP" | "IPV6") => {
                Ok(Some(Values::Told(values.clone())))
            }
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
pub(super) struct End {
    pub(super) who: Vec<Who>,
    pub(super) ports: Vec<RangeInclusive<u16>>,
    pub(super) own_mac: bool,
    pub(super) own_ip: bool,
    /// Whether `who` is the guest's own MAC, or its own IP addresses, as the domain tells them.
    pub(super) told_mac: bool,
    pub(super) told_ip: bool,
}

/// A rule before its direction: both ends, and what is between them.
pub(super) struct Shape {
    pub(super) layer: Layer,
    pub(super) kind: Kind,
    pub(super) src: End,
    pub(super) dst: End,
    pub(super) icmp: Vec<(u8, Option<u8>)>,
    pub(super) states: Option<Vec<State>>,
    /// Whether an own address stands in an ARP packet rather than at an end.
    pub(super) arp_own: (bool, bool),
    pub(super) comment: String,
}

const V4: Kind = Kind::Ip {
    family: Some(Family::V4),
    protocol: None,
};
const V6: Kind = Kind::Ip {
    family: Some(Family::V6),
    protocol: None,
};

pub(super) fn kind_of_chain(chain: &str) -> Result<Kind, String> {
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
pub(super) fn shape(
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
        "ah-ipv6" => {
            return Err(
                "AH over IPv6 is looked behind here: rules are about what it authenticates"
                    .to_owned(),
            );
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
            let number = found.ok_or_else(|| format!("protocol='{word}' is not known"))?;
            if is_looked_behind(number, Some(family)) {
                return Err(format!(
                    "protocol='{word}' is looked behind over IPv6: rules are about what follows"
                ));
            }
            Some(number)
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
            Some(values @ (Values::Known(_) | Values::Told(_))) => {
                end.told_mac = matches!(values, Values::Told(_));
                let (Values::Known(words) | Values::Told(words)) = values else {
                    continue;
                };
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
            Some(values @ (Values::Known(_) | Values::Told(_))) => {
                end.told_ip = matches!(values, Values::Told(_));
                let (Values::Known(words) | Values::Told(words)) = values else {
                    continue;
                };
                for word in words {
                    end.who.push(Who::Prefix(prefix(&word, mask.as_deref())?));
                }
            }
        }
        if let Some(from) = from {
            let to = to.unwrap_or_else(|| from.clone());
            end.told_ip = false;
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
            Some(Values::Own | Values::Told(_)) if is_mac => shape.arp_own.0 = true,
            Some(Values::Own | Values::Told(_)) => shape.arp_own.1 = true,
            Some(Values::Known(_)) => {
                return Err(format!(
                    "{name} has no equal here: no rule looks into ARP, only port security"
                ));
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
