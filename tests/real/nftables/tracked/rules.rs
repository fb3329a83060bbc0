//! Rules by lot that know of connections, and how each side is told of them.
//!
//! Connection tracking is the kernel's: which packets belong to a connection, which are related to one, which are neither, it says by
//! itself. What a rule of ours makes of that is written out in `gate`: replies pass where a stateful rule let the
//! connection open (`ct mark` remembers which side was covered), where none did they are judged alone, and a changed
//! policy judges a connection again when it is met, by the packet that opened it.

use std::fmt::Write as _;

use super::super::dice::Dice;
use super::super::ours::table;
use super::super::world::{GROUPS, PLACES, STATIONS, mac};
use super::gate::{self, bits};
use super::layout::VLANS;
use super::packet::{NETS, TCP, UDP, icmp_of, prefix};

/// Ports of TCP and UDP that are talked to.
pub(super) const SERVICES: [u16; 4] = [22, 53, 80, 443];
/// The protocol that has no ports: ESP, whose checksum the kernel does not ask for before it rejects.
pub(super) const OTHER: u8 = 50;

#[derive(Clone, Copy, PartialEq)]
enum Verb {
    Allow,
    Deny,
    Reject,
}

#[derive(Clone)]
enum Who {
    Port(usize),
    Group(&'static str),
    Mac(usize, usize),
    Prefix(usize, bool),
}

/// What a rule is about: a family and a protocol, if any.
#[derive(Clone, Copy, PartialEq)]
struct Kind {
    v6: Option<bool>,
    protocol: Option<u8>,
}

#[derive(Clone)]
struct Rule {
    verb: Verb,
    kind: Kind,
    from: Vec<Who>,
    to: Vec<Who>,
    vlan: Option<u16>,
    port: Option<(u16, u16)>,
    /// Echo requests, or what is no request.
    echo: Option<bool>,
    /// Of `bits`; none: new and untracked.
    states: u32,
    stateless: bool,
}

/// In which form a rule is told: of a packet in its state, of one that is taken for untracked, of the packet that opened a connection
/// when a packet of the same direction is there, or one of the other.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Form {
    Live,
    Alone,
    Again,
    Mirrored,
}

pub(super) const FORMS: [(Form, &str); 4] = [
    (Form::Live, "l"),
    (Form::Alone, "u"),
    (Form::Again, "s"),
    (Form::Mirrored, "m"),
];

/// The outbound and the inbound list of each port; none where there is no list.
pub(super) struct Policy {
    lists: Vec<[Option<Vec<Rule>>; 2]>,
}

const ANY: Kind = Kind {
    v6: None,
    protocol: None,
};

const STATES: [(&str, u32); 5] = [
    ("new", bits::NEW),
    ("established", bits::ESTABLISHED),
    ("related", bits::RELATED),
    ("invalid", bits::INVALID),
    ("untracked", bits::UNTRACKED),
];

impl Policy {
    pub(super) fn new(dice: &mut Dice) -> Self {
        let names_states = dice.once_in(2);
        let list = |dice: &mut Dice| {
            let count = 1 + dice.below(6);
            let mut rules: Vec<Rule> = (0..count).map(|_| Rule::new(dice)).collect();
            if !names_states {
                rules.iter_mut().for_each(|rule| rule.states = 0);
            }
            match dice.below(4) {
                0 | 1 => rules.push(Rule::of(Verb::Allow, ANY)),
                2 => rules.push(Rule::of(Verb::Reject, ANY)),
                _ => {}
            }
            rules
        };
        let lists = PLACES.iter().map(|_| match dice.below(5) {
            0 => [Some(list(dice)), None],
            1 => [None, Some(list(dice))],
            2 => [None, None],
            _ => [Some(list(dice)), Some(list(dice))],
        });
        let lists = lists.collect();
        Self { lists }
    }

    /// Another one that has some of its lists.
    pub(super) fn changed(&self, dice: &mut Dice) -> Self {
        let mut new = Self::new(dice);
        for (new, old) in new.lists.iter_mut().zip(&self.lists) {
            if !dice.once_in(3) {
                new.clone_from(old);
            }
        }
        new
    }

    pub(super) fn has(&self, at: usize, way: usize) -> bool {
        self.lists[at][way].is_some()
    }

    /// Whether rules ask for states by name.
    pub(super) fn names_states(&self) -> bool {
        let rules = self.lists.iter().flatten().flatten().flatten();
        rules.into_iter().any(|rule| rule.states != 0)
    }

    /// The lists as `[acl.NAME]` tables, named after their ports.
    pub(super) fn toml(&self) -> String {
        let named = PLACES.iter().zip(&self.lists);
        named
            .filter(|(_, lists)| lists.iter().any(Option::is_some))
            .map(|(place, lists)| {
                table(
                    place.name,
                    lists.each_ref().map(Option::as_deref),
                    Rule::toml,
                )
            })
            .collect()
    }

    /// The same as a table of the bridge family, the policy's number in the marks of its connections.
    pub(super) fn nft(&self, number: u32, natives: &[Option<u16>]) -> String {
        let mut text = gate::head(number, natives);
        for at in 0..PLACES.len() {
            for way in 0..2 {
                for (form, letter) in FORMS {
                    let _ = writeln!(text, "chain {letter}{at}{way} {{");
                    text += &self.list(at, way, form);
                    text += "}\n";
                }
            }
        }
        text + "}\n"
    }

    fn list(&self, at: usize, way: usize, form: Form) -> String {
        let cover = [bits::COVERS_OUT, bits::COVERS_IN][way];
        let Some(rules) = &self.lists[at][way] else {
            // No list covers its side. Whether there is anything to cover, the other list of this port says.
            let wanted = if self.has(at, 1 - way) {
                bits::WANTED
            } else {
                0
            };
            return format!("meta mark set meta mark | {:#x}\n", cover | wanted);
        };
        let rules: String = rules.iter().map(|rule| rule.nft(way, form)).collect();
        rules + &gate::end(at, way, form)
    }
}

impl Rule {
    /// Without conditions.
    fn of(verb: Verb, kind: Kind) -> Self {
        Self {
            verb,
            kind,
            from: Vec::new(),
            to: Vec::new(),
            vlan: None,
            port: None,
            echo: None,
            states: 0,
            stateless: false,
        }
    }

    fn new(dice: &mut Dice) -> Self {
        let verb = dice.one(&[
            Verb::Allow,
            Verb::Allow,
            Verb::Allow,
            Verb::Deny,
            Verb::Reject,
        ]);
        let v6 = dice.one(&[None, None, Some(false), Some(true)]);
        let protocol = match dice.below(10) {
            0 => None,
            1..=4 => Some(TCP),
            5 | 6 => Some(UDP),
            7 | 8 => Some(icmp_of(v6 == Some(true))),
            _ => Some(OTHER),
        };
        // ICMP has a family.
        let v6 = match protocol {
            Some(58) => Some(true),
            Some(1) => Some(false),
            _ => v6,
        };
        let mut rule = Self::of(verb, Kind { v6, protocol });
        let family = v6.unwrap_or_else(|| dice.once_in(2));
        if dice.once_in(3) {
            rule.from = dice.few(|dice| Who::new(dice, family));
        }
        if dice.once_in(3) || protocol.is_none() && rule.from.is_empty() {
            rule.to = dice.few(|dice| Who::new(dice, family));
        }
        if dice.once_in(8) {
            rule.vlan = Some(dice.one(&VLANS));
        }
        match protocol {
            Some(TCP | UDP) if dice.once_in(2) => {
                let first = dice.one(&SERVICES);
                rule.port = Some((first, first + dice.one(&[0, 50, 500])));
            }
            Some(1 | 58) if dice.once_in(2) => rule.echo = Some(!dice.once_in(3)),
            _ => {}
        }
        if dice.once_in(5) {
            rule.states = dice
                .few(|dice| dice.one(&STATES).1)
                .into_iter()
                .fold(0, |all, one| all | one);
        }
        rule.stateless = verb == Verb::Allow && dice.once_in(4);
        rule
    }

    fn toml(&self) -> String {
        let verb = match self.verb {
            Verb::Allow => "allow",
            Verb::Deny => "deny",
            Verb::Reject => "reject",
        };
        let mut text = format!("{{ {verb} = \"{}\"", self.kind.word());
        for (key, whos) in [("from", &self.from), ("to", &self.to)] {
            let words: Vec<String> = whos.iter().map(Who::word).collect();
            if !words.is_empty() {
                let _ = write!(text, ", {key} = [{}]", words.join(", "));
            }
        }
        if let Some(vlan) = self.vlan {
            let _ = write!(text, ", vlan = {vlan}");
        }
        if let Some((first, last)) = self.port {
            let _ = write!(text, ", port = \"{first}-{last}\"");
        }
        if let Some(is_request) = self.echo {
            let word = if is_request {
                "echo-request"
            } else {
                "echo-reply"
            };
            let _ = write!(text, ", icmp = \"{word}\"");
        }
        let states = STATES.iter().filter(|(_, bit)| self.states & bit != 0);
        let states: Vec<String> = states.map(|(word, _)| format!("\"{word}\"")).collect();
        if !states.is_empty() {
            let _ = write!(text, ", state = [{}]", states.join(", "));
        }
        if self.stateless {
            text += ", stateless = true";
        }
        text + " }"
    }

    fn states(&self) -> u32 {
        match self.states {
            0 => bits::NEW | bits::UNTRACKED,
            some => some,
        }
    }

    /// Its lines: one for each combination of alternatives.
    fn nft(&self, way: usize, form: Form) -> String {
        let state = match form {
            Form::Live => format!(" meta mark & {:#x} != 0", self.states()),
            Form::Alone if self.states() & bits::UNTRACKED != 0 => String::new(),
            Form::Again | Form::Mirrored if self.states() & bits::NEW != 0 => String::new(),
            _ => return String::new(),
        };
        let mut text = String::new();
        for from in sides(&self.from, true, form) {
            for to in sides(&self.to, false, form) {
                let place = format!("{}{from}{to}{state}", gate::vlan(self.vlan));
                let line = format!("{place} {}{}", self.kind.nft(), self.layer_4(form));
                for end in self.verdicts(way, form) {
                    let _ = writeln!(text, "{line} {end}");
                }
            }
        }
        text
    }

    /// What it reads behind the IP header. A connection was opened by an echo request.
    fn layer_4(&self, form: Form) -> String {
        let is_past = matches!(form, Form::Again | Form::Mirrored);
        match (self.kind.protocol, self.port, self.echo) {
            (Some(TCP), Some((first, last)), _) => {
                format!(" tcp {} {first}-{last}", port_of(form))
            }
            (Some(UDP), Some((first, last)), _) => {
                format!(" udp {} {first}-{last}", port_of(form))
            }
            // What no packet is.
            (_, _, Some(false)) if is_past => " meta mark & 0x1 == 0x2".to_owned(),
            (_, _, Some(_)) if is_past => String::new(),
            (Some(1), _, Some(true)) => " icmp type echo-request".to_owned(),
            (Some(1), _, Some(false)) => " icmp type echo-reply".to_owned(),
            (_, _, Some(true)) => " icmpv6 type echo-request".to_owned(),
            (_, _, Some(false)) => " icmpv6 type echo-reply".to_owned(),
            _ => String::new(),
        }
    }

    /// What follows where it matches: in the order of lines.
    fn verdicts(&self, way: usize, form: Form) -> Vec<String> {
        let covers = if self.stateless {
            0
        } else {
            [bits::COVERS_OUT, bits::COVERS_IN][way] | bits::WANTED
        };
        let passes = format!("meta mark set meta mark | {covers:#x} return");
        let refused = format!("meta mark set meta mark | {:#x} return", bits::REFUSED);
        // What belongs to no connection is let pass alone by what wants none.
        let not_invalid = format!("meta mark & {:#x} != 0 drop", bits::INVALID);
        let reject = [
            "meta l4proto tcp reject with tcp reset".to_owned(),
            "reject with icmpx type admin-prohibited".to_owned(),
        ];
        match (form, self.verb) {
            (Form::Live, Verb::Allow) => vec![passes],
            (Form::Live, Verb::Deny) => vec!["drop".to_owned()],
            (Form::Live, Verb::Reject) => reject.to_vec(),
            (Form::Alone, Verb::Allow) if self.stateless => vec!["return".to_owned()],
            (Form::Alone, Verb::Allow) => vec![not_invalid, "return".to_owned()],
            (Form::Alone, Verb::Deny) => vec!["drop".to_owned()],
            (Form::Alone, Verb::Reject) => {
                let [tcp, any] = reject;
                vec![not_invalid, tcp, any]
            }
            (Form::Again | Form::Mirrored, Verb::Allow) => vec![passes],
            (Form::Again | Form::Mirrored, _) => vec![refused],
        }
    }
}

fn port_of(form: Form) -> &'static str {
    match form {
        Form::Mirrored => "sport",
        _ => "dport",
    }
}

impl Kind {
    fn word(self) -> String {
        let name = match self.protocol {
            None => {
                return match self.v6 {
                    None => "ip".to_owned(),
                    Some(false) => "ipv4".to_owned(),
                    Some(true) => "ipv6".to_owned(),
                };
            }
            Some(1) => return "icmp".to_owned(),
            Some(58) => return "icmpv6".to_owned(),
            Some(TCP) => "tcp".to_owned(),
            Some(UDP) => "udp".to_owned(),
            Some(other) => format!("proto:{other}"),
        };
        match self.v6 {
            None => name,
            Some(false) => format!("{name}/ipv4"),
            Some(true) => format!("{name}/ipv6"),
        }
    }

    fn nft(self) -> String {
        let family = match self.v6 {
            None => "{ ip, ip6 }",
            Some(false) => "ip",
            Some(true) => "ip6",
        };
        let protocol = self.protocol;
        let protocol = protocol.map_or(String::new(), |number| format!(" meta l4proto {number}"));
        format!("meta protocol {family}{protocol}")
    }
}

impl Who {
    fn new(dice: &mut Dice, v6: bool) -> Self {
        match dice.below(6) {
            0 | 1 => Self::Port(dice.below(PLACES.len())),
            2 => Self::Group(dice.one(&GROUPS)),
            3 => Self::Mac(dice.below(PLACES.len()), dice.below(STATIONS)),
            _ => Self::Prefix(dice.below(NETS), v6),
        }
    }

    fn word(&self) -> String {
        match self {
            Self::Port(at) => format!("\"port:{}\"", PLACES[*at].name),
            Self::Group(name) => format!("\"group:{name}\""),
            Self::Mac(port, station) => format!("\"{}\"", gate::mac_text(mac(*port, *station))),
            Self::Prefix(net, v6) => format!("\"{}\"", prefix(*net, *v6)),
        }
    }

    /// As the packet's sender or as its receiver, which a known station is.
    fn nft(&self, is_sender: bool) -> String {
        let side = if is_sender { "saddr" } else { "daddr" };
        let ports: Vec<usize> = match self {
            Self::Port(at) => vec![*at],
            Self::Group(name) => {
                let members = (0..PLACES.len()).filter(|at| PLACES[*at].group == Some(name));
                members.collect()
            }
            Self::Mac(port, station) => {
                return format!(" ether {side} {}", gate::mac_text(mac(*port, *station)));
            }
            Self::Prefix(net, v6) => {
                let family = if *v6 { "ip6" } else { "ip" };
                let prefix = prefix(*net, *v6);
                return format!(" meta protocol {family} {family} {side} {prefix}");
            }
        };
        if is_sender {
            gate::comes_by(&ports)
        } else {
            gate::goes_to(&ports)
        }
    }
}

/// The alternatives of one side; nothing asked is one.
fn sides(whos: &[Who], is_sender: bool, form: Form) -> Vec<String> {
    if whos.is_empty() {
        return vec![String::new()];
    }
    let is_sender = is_sender != (form == Form::Mirrored);
    whos.iter().map(|who| who.nft(is_sender)).collect()
}
