//! Rules by lot, and how each side is told of them.
//!
//! A list is a chain of nftables: `return` lets pass as far as this list is concerned, its end drops. Four things that a rule
//! of ours means are written out there:
//! - *Addressing* (mark 1) passes the end of a list, and a refusal of everything.
//! - Layer 4 is not read of later fragments (mark 2), where some kernels read ports out of their bytes.
//! - A refusal that reads ports, types or flags also meets later fragments, of which they cannot be read.
//! - `fragments = true` lets later fragments pass an allow rule that reads ports.

use std::fmt::Write as _;

use super::dice::Dice;
use super::ours::table;
use super::world::{
    ETHERTYPES, GROUPS, HOSTS, KINDS, MARK, NETS, NUMBERS, PLACES, PROTOCOLS, STATIONS, ipv4, ipv6,
    mac,
};

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Any,
    Llc,
    Type(u16),
    Ip {
        family: Option<u8>,
        protocol: Option<u8>,
    },
}

#[derive(Clone, PartialEq)]
enum Who {
    Port(&'static str),
    Group(&'static str),
    Mac(String),
    Prefix(u8, String),
}

/// Numbers from one to another.
type Range = (u16, u16);

#[derive(Clone)]
struct Rule {
    allow: bool,
    kind: Kind,
    from: Vec<Who>,
    to: Vec<Who>,
    vlan: Vec<Range>,
    port: Vec<Range>,
    source_port: Vec<Range>,
    icmp: Vec<(u8, Option<u8>)>,
    flags: Option<(u8, u8)>,
    fragments: bool,
}

/// The lists of each port, outbound and inbound; none where there is no list.
pub(crate) struct Policy {
    lists: Vec<[Option<Vec<Rule>>; 2]>,
}

const TCP: u8 = 6;
const UDP: u8 = 17;
const AH: u8 = 51;
const ARP: u16 = 0x0806;
const RARP: u16 = 0x8035;
const ADDRESSING: &str = "meta mark 1";
const LATER: &str = "meta mark 2";
/// The flags that rules know by name, from the lowest bit on.
const FLAGS: [&str; 8] = ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr"];

impl Policy {
    pub(crate) fn new(dice: &mut Dice) -> Self {
        let list = |dice: &mut Dice| {
            let count = 1 + dice.below(8);
            let mut rules: Vec<Rule> = (0..count).map(|_| Rule::new(dice)).collect();
            if dice.once_in(2) {
                rules.push(Rule::of(Kind::Any, true));
            }
            rules
        };
        let lists = PLACES.iter().map(|_| match dice.below(4) {
            0 => [Some(list(dice)), None],
            1 => [None, Some(list(dice))],
            _ => [Some(list(dice)), Some(list(dice))],
        });
        let lists = lists.collect();
        Self { lists }
    }

    /// The lists as `[acl.NAME]` tables, named after their ports. To us a port that has a list for one way only opens connections the
    /// other way, to which replies come whatever that list says: `tracked` compares this. Here it has one that lets all pass, as
    /// stateless as all the rest.
    pub(crate) fn toml(&self) -> String {
        let all = [Rule::of(Kind::Any, true)];
        let named = PLACES.iter().zip(&self.lists);
        named
            .map(|(place, lists)| {
                let lists = lists.each_ref();
                let lists = lists.map(|list| Some(list.as_deref().unwrap_or(&all)));
                table(place.name, lists, Rule::toml)
            })
            .collect()
    }

    /// The same as a table of the bridge family.
    pub(crate) fn nft(&self) -> String {
        let mut text = format!(
            "flush ruleset\ntable bridge gate {{\n\
             chain forward {{ type filter hook forward priority 0; policy accept;\n\
             meta mark set 0\n\
             meta protocol {{ {ARP:#06x}, {RARP:#06x} }} meta mark set 1\n\
             meta protocol ip6 meta l4proto ipv6-icmp icmpv6 type {{ 133, 134, 135, 136 }} exthdr frag missing meta mark set 1\n\
             meta protocol ip ip frag-off & 0x1fff != 0 meta mark set 2\n\
             meta protocol ip6 frag frag-off != 0 meta mark set 2\n"
        );
        let has = |at: usize, way: usize| self.lists[at][way].is_some();
        for (way, key) in ["iifname", "oifname"].iter().enumerate() {
            for (at, place) in PLACES.iter().enumerate().filter(|(at, _)| has(*at, way)) {
                let _ = writeln!(text, "{key} \"{}\" jump list{at}{way}", place.name);
            }
        }
        text += "}\n";
        for (at, lists) in self.lists.iter().enumerate() {
            for (way, list) in lists.iter().enumerate() {
                let Some(rules) = list else { continue };
                let _ = writeln!(
                    text,
                    "chain list{at}{way} {{\nmeta protocol {MARK:#06x} return"
                );
                for rule in rules {
                    text += &rule.nft();
                }
                text += &format!("{ADDRESSING} return\ndrop\n}}\n");
            }
        }
        text + "}\n"
    }
}

impl Rule {
    /// Without conditions.
    fn of(kind: Kind, allow: bool) -> Self {
        Self {
            allow,
            kind,
            from: Vec::new(),
            to: Vec::new(),
            vlan: Vec::new(),
            port: Vec::new(),
            source_port: Vec::new(),
            icmp: Vec::new(),
            flags: None,
            fragments: false,
        }
    }

    fn new(dice: &mut Dice) -> Self {
        let kind = match dice.below(10) {
            0 => Kind::Any,
            1 => dice.one(&[
                Kind::Llc,
                Kind::Type(ARP),
                Kind::Type(RARP),
                Kind::Type(ETHERTYPES[0]),
                Kind::Type(ETHERTYPES[1]),
                Kind::Type(ETHERTYPES[2]),
            ]),
            2 => Kind::Ip {
                family: dice.one(&[None, Some(4), Some(6)]),
                protocol: None,
            },
            3 => {
                let protocol = dice.one(&PROTOCOLS);
                // Over IPv6 AH is looked behind, and no rule can name it.
                let family = (protocol == AH).then_some(4);
                Kind::Ip {
                    family,
                    protocol: Some(protocol),
                }
            }
            4 => Kind::Ip {
                family: Some(4),
                protocol: Some(1),
            },
            5 => Kind::Ip {
                family: Some(6),
                protocol: Some(58),
            },
            _ => Kind::Ip {
                family: dice.one(&[None, None, Some(4), Some(6)]),
                protocol: Some(dice.one(&[TCP, UDP])),
            },
        };
        let mut rule = Self::of(kind, dice.once_in(2));
        // Families do not mix within a rule.
        let family = match kind {
            Kind::Ip { family, .. } => Some(family.unwrap_or_else(|| dice.one(&[4, 6]))),
            _ => None,
        };
        if dice.once_in(3) {
            rule.from = dice.few(|dice| Who::new(dice, family));
        }
        // Something is asked of each, since a rule that catches everything leaves none behind it.
        if dice.once_in(3) || kind == Kind::Any && rule.from.is_empty() {
            rule.to = dice.few(|dice| Who::new(dice, family));
        }
        if dice.once_in(5) {
            rule.vlan = dice
                .one(&[vec![(10, 10)], vec![(20, 20)], vec![(5, 15), (30, 30)]].each_ref())
                .clone();
        }
        rule.read_layer_4(dice);
        rule
    }

    /// Conditions on layer 4, where the kind has any.
    fn read_layer_4(&mut self, dice: &mut Dice) {
        let Kind::Ip {
            protocol: Some(protocol),
            ..
        } = self.kind
        else {
            return;
        };
        match protocol {
            TCP | UDP => {
                if !dice.once_in(3) {
                    self.port = dice.few(range);
                }
                if dice.once_in(4) {
                    self.source_port = dice.few(range);
                }
                if protocol == TCP && dice.once_in(3) {
                    let mask = dice.one(&[0x17, 0x02, 0x12, 0xff, 0x04]);
                    self.flags = Some((mask, mask & dice.one(&[0x02, 0x12, 0x10, 0x18])));
                }
                let reads_ports = !self.port.is_empty() || !self.source_port.is_empty();
                self.fragments = self.allow && reads_ports && dice.once_in(3);
            }
            1 | 58 if !dice.once_in(4) => {
                self.icmp = dice.few(|dice| {
                    (
                        dice.one(&KINDS),
                        dice.once_in(3).then(|| dice.one(&[0, 1, 4])),
                    )
                });
            }
            _ => {}
        }
    }

    fn toml(&self) -> String {
        let verb = if self.allow { "allow" } else { "deny" };
        let mut text = format!("{{ {verb} = \"{}\"", self.kind.word());
        let quoted = |whos: &[Who]| {
            let words: Vec<String> = whos
                .iter()
                .map(|who| format!("\"{}\"", who.word()))
                .collect();
            words.join(", ")
        };
        for (key, whos) in [("from", &self.from), ("to", &self.to)] {
            if !whos.is_empty() {
                let _ = write!(text, ", {key} = [{}]", quoted(whos));
            }
        }
        let ranges = [
            ("vlan", &self.vlan),
            ("port", &self.port),
            ("source_port", &self.source_port),
        ];
        for (key, ranges) in ranges.into_iter().filter(|(_, ranges)| !ranges.is_empty()) {
            let words: Vec<String> = ranges
                .iter()
                .map(|(first, last)| {
                    if first == last {
                        first.to_string()
                    } else {
                        format!("\"{first}-{last}\"")
                    }
                })
                .collect();
            let _ = write!(text, ", {key} = [{}]", words.join(", "));
        }
        if !self.icmp.is_empty() {
            let word = |(kind, code): &(u8, Option<u8>)| match code {
                Some(code) => format!("\"{kind}/{code}\""),
                None => kind.to_string(),
            };
            let words: Vec<String> = self.icmp.iter().map(word).collect();
            let _ = write!(text, ", icmp = [{}]", words.join(", "));
        }
        if let Some((mask, value)) = self.flags {
            let _ = write!(text, ", flags = \"{}/{}\"", flags(value), flags(mask));
        }
        if self.fragments {
            text += ", fragments = true";
        }
        if self.allow {
            text += ", stateless = true";
        }
        text + " }"
    }

    /// Its lines: one for each combination of alternatives, and more for fragments.
    fn nft(&self) -> String {
        let verdict = if self.allow { "return" } else { "drop" };
        let reads_layer_4 = self.reads_layer_4();
        let mut text = String::new();
        for from in sides(&self.from, true) {
            for to in sides(&self.to, false) {
                let place = format!("{}{from}{to}", self.vlan());
                if self.kind == Kind::Any && !self.allow {
                    let _ = writeln!(text, "{place} {ADDRESSING} return");
                }
                let kind = self.kind.nft();
                for read in self.alternatives() {
                    let _ = writeln!(text, "{place} {kind} {read} {verdict}");
                }
                if reads_layer_4 && (self.fragments || !self.allow) {
                    let _ = writeln!(text, "{place} {kind} {LATER} {verdict}");
                }
            }
        }
        text
    }

    fn vlan(&self) -> String {
        set("vlan id", &self.vlan)
    }

    /// What it reads of layer 4, but for ICMP.
    fn layer_4(&self) -> String {
        let name = match self.kind {
            Kind::Ip {
                protocol: Some(TCP),
                ..
            } => "tcp",
            _ => "udp",
        };
        let mut text = set(&format!("{name} dport"), &self.port)
            + &set(&format!("{name} sport"), &self.source_port);
        if let Some((mask, value)) = self.flags {
            let _ = write!(text, " tcp flags & {mask:#x} == {value:#x}");
        }
        text
    }

    /// What it reads of layer 4, one of these.
    fn alternatives(&self) -> Vec<String> {
        let name = match self.kind {
            Kind::Ip {
                family: Some(6), ..
            } => "icmpv6",
            _ => "icmp",
        };
        let one = |(kind, code): &(u8, Option<u8>)| match code {
            Some(code) => format!("meta mark != 2 {name} type {kind} {name} code {code}"),
            None => format!("meta mark != 2 {name} type {kind}"),
        };
        if !self.icmp.is_empty() {
            self.icmp.iter().map(one).collect()
        } else if self.reads_layer_4() {
            vec![format!("meta mark != 2{}", self.layer_4())]
        } else {
            vec![String::new()]
        }
    }

    fn reads_layer_4(&self) -> bool {
        !self.icmp.is_empty() || !self.layer_4().is_empty()
    }
}

impl Kind {
    fn word(self) -> String {
        match self {
            Self::Any => "any".to_owned(),
            Self::Llc => "llc".to_owned(),
            Self::Type(ARP) => "arp".to_owned(),
            Self::Type(RARP) => "rarp".to_owned(),
            Self::Type(number) => format!("{number:#06x}"),
            Self::Ip { family, protocol } => match (protocol, family) {
                (None, None) => "ip".to_owned(),
                (None, Some(family)) => format!("ipv{family}"),
                (Some(1), _) => "icmp".to_owned(),
                (Some(58), _) => "icmpv6".to_owned(),
                (Some(protocol), family) => {
                    let name = match protocol {
                        TCP => "tcp".to_owned(),
                        UDP => "udp".to_owned(),
                        other => format!("proto:{other}"),
                    };
                    match family {
                        None => name,
                        Some(family) => format!("{name}/ipv{family}"),
                    }
                }
            },
        }
    }

    fn nft(self) -> String {
        match self {
            Self::Any => String::new(),
            // The kernel's numbers for frames with a length (linux/if_ether.h, ETH_P_802_3 and ETH_P_802_2).
            Self::Llc => "meta protocol { 0x0001, 0x0004 }".to_owned(),
            Self::Type(number) => format!("meta protocol {number:#06x}"),
            Self::Ip { family, protocol } => {
                let family = match family {
                    None => "{ ip, ip6 }",
                    Some(4) => "ip",
                    Some(_) => "ip6",
                };
                let protocol =
                    protocol.map_or(String::new(), |number| format!(" meta l4proto {number}"));
                format!("meta protocol {family}{protocol}")
            }
        }
    }
}

impl Who {
    /// Addresses only of that family; none without one.
    fn new(dice: &mut Dice, family: Option<u8>) -> Self {
        match (dice.below(4), family) {
            (0, _) => Self::Port(PLACES[dice.below(PLACES.len())].name),
            (1, _) => Self::Group(dice.one(&GROUPS)),
            (2.., Some(family)) => {
                let (net, host) = (dice.below(NETS), dice.one(&HOSTS));
                let text = if family == 4 {
                    let len = dice.one(&[32, 24, 25, 16, 8, 0]);
                    let mask = u32::MAX.checked_shl(32 - len).unwrap_or(0);
                    format!(
                        "{}/{len}",
                        std::net::Ipv4Addr::from_bits(ipv4(net, host).to_bits() & mask)
                    )
                } else {
                    let len = dice.one(&[128, 64, 32, 31, 121, 0]);
                    let mask = u128::MAX.checked_shl(128 - len).unwrap_or(0);
                    format!(
                        "{}/{len}",
                        std::net::Ipv6Addr::from_bits(ipv6(net, host).to_bits() & mask)
                    )
                };
                Self::Prefix(family, text)
            }
            _ => {
                let octets = mac(dice.below(PLACES.len()), dice.below(STATIONS));
                Self::Mac(octets.map(|octet| format!("{octet:02x}")).join(":"))
            }
        }
    }

    fn word(&self) -> String {
        match self {
            Self::Port(name) => format!("port:{name}"),
            Self::Group(name) => format!("group:{name}"),
            Self::Mac(text) | Self::Prefix(_, text) => text.clone(),
        }
    }

    fn nft(&self, is_sender: bool) -> String {
        let (interface, side) = if is_sender {
            ("iifname", "saddr")
        } else {
            ("oifname", "daddr")
        };
        match self {
            Self::Port(name) => format!(" {interface} \"{name}\""),
            Self::Group(group) => {
                let members = PLACES.iter().filter(|place| place.group == Some(group));
                let names: Vec<String> =
                    members.map(|place| format!("\"{}\"", place.name)).collect();
                format!(" {interface} {{ {} }}", names.join(", "))
            }
            Self::Mac(text) => format!(" ether {side} {text}"),
            Self::Prefix(4, text) => format!(" meta protocol ip ip {side} {text}"),
            Self::Prefix(_, text) => format!(" meta protocol ip6 ip6 {side} {text}"),
        }
    }
}

fn range(dice: &mut Dice) -> Range {
    let first = dice.one(&NUMBERS);
    (
        first,
        first.saturating_add(dice.one(&[0, 0, 1, 100, 20000])),
    )
}

/// The alternatives of one side; nothing asked is one.
fn sides(whos: &[Who], is_sender: bool) -> Vec<String> {
    if whos.is_empty() {
        return vec![String::new()];
    }
    whos.iter().map(|who| who.nft(is_sender)).collect()
}

fn set(what: &str, ranges: &[Range]) -> String {
    if ranges.is_empty() {
        return String::new();
    }
    let words: Vec<String> = ranges
        .iter()
        .map(|(first, last)| {
            if first == last {
                first.to_string()
            } else {
                format!("{first}-{last}")
            }
        })
        .collect();
    if let [one] = words.as_slice() {
        return format!(" {what} {one}");
    }
    // A set of nftables holds no ranges that overlap: `auto-merge` is for named sets, so they are merged here.
    let mut sorted = ranges.to_vec();
    sorted.sort_unstable();
    let mut merged: Vec<Range> = Vec::new();
    for (first, last) in sorted {
        match merged.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    let words: Vec<String> = merged
        .iter()
        .map(|(first, last)| format!("{first}-{last}"))
        .collect();
    format!(" {what} {{ {} }}", words.join(", "))
}

fn flags(bits: u8) -> String {
    let set = FLAGS
        .iter()
        .enumerate()
        .filter(|(bit, _)| bits >> bit & 1 != 0);
    let names: Vec<&str> = set.map(|(_, name)| *name).collect();
    if names.is_empty() {
        return "none".to_owned();
    }
    names.join(",")
}
