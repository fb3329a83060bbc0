//! Rules as people mean them: typed, not yet compiled.
//!
//! One struct serves the file, the flags and the API. Names are resolved already: a rule names ports by their ids and
//! sets of addresses by their prefixes. What a rule means:
//!
//! - A rule matches when every condition that it has holds. An empty list is no condition.
//! - *First match wins*; a list ends in deny.
//! - *Families do not mix.* A condition on an IPv4 address holds for no IPv6 packet and the reverse; a rule whose
//!   addresses and protocol are of different families matches nothing (the configuration refuses it).
//! - *Unknown is never allowed.* Where the ports or the protocol of a packet cannot be read (later fragments, headers that
//!   run on or contradict themselves), an allow rule with a condition on them does not match, and a deny or reject
//!   rule with such a condition *does*, if its other conditions hold: it might be the packet that it means.
//!   `fragments` lets an allow rule with conditions on ports match later fragments by the rest of its conditions.
//! - *State.* A rule without `states` matches packets that are new or untracked; what belongs to a tracked connection was
//!   decided by the rule that let it open. A rule with `states` matches just these states. Invalid packets match only rules
//!   that name `invalid`, and are dropped otherwise.

use std::ops::RangeInclusive;
use std::sync::Arc;

use ipnet::IpNet;

use super::subject::{Family, State};
use crate::counters::PortSet;
use crate::frame::Mac;

/// The position of a rule among all rules of a policy; names it for counters, drops and `explain`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct RuleId(pub u32);

/// What a rule does with what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Lets it pass, as far as this list is concerned.
    Allow,
    /// Drops it.
    Deny,
    /// Drops it and answers: TCP RST, or ICMP or ICMPv6 "administratively prohibited"; nothing for what is no IP.
    Reject,
}

/// The kind of frame that a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Every frame.
    Any,
    /// IEEE 802.3 frames with LLC.
    Llc,
    /// Frames of that EtherType (behind the tag). 0x0800 and 0x86DD by number are raw: packets with broken headers too.
    EtherType(u16),
    /// IP packets: of one family, or both; with one protocol, or all.
    Ip {
        /// `None`: both.
        family: Option<Family>,
        /// `None`: all.
        protocol: Option<u8>,
    },
}

/// One of the alternatives of `from` or `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    /// The port that the frame really comes from or goes to, one of a set: `port:NAME`, `group:NAME`, `uplink`.
    Ports(PortSet),
    /// That MAC address.
    Mac(Mac),
    /// An IP address in that prefix.
    Prefix(IpNet),
}

/// TCP flags: those of `mask` are as in `value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flags {
    /// The flags that are looked at.
    pub mask: u8,
    /// How they must be.
    pub value: u8,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// For people; empty without a name.
    pub name: String,
    /// Where it was written, for people: `lan.toml:12`.
    pub origin: String,
    /// The list that it was written in, by its name; empty where it stands in none.
    pub list: Arc<str>,
    /// The ports and groups of `from` and `to` as they were written: whom they stand for may change, and it is the same rule.
    pub said: Vec<String>,
    /// What it does.
    pub action: Action,
    /// Whether what it matches is logged (rate-limited).
    pub log: bool,
    /// An allow rule that opens no connection: replies need a rule of their own.
    pub stateless: bool,
    /// An allow rule that lets later fragments pass in spite of its conditions on ports.
    pub fragments: bool,
    /// What kind of frame.
    pub kind: Kind,
    /// The sender: one of these.
    pub from: Vec<Who>,
    /// The receiver: one of these.
    pub to: Vec<Who>,
    /// Source port in one of these; TCP and UDP only.
    pub source_port: Vec<RangeInclusive<u16>>,
    /// Destination port in one of these; TCP and UDP only.
    pub port: Vec<RangeInclusive<u16>>,
    /// ICMP or ICMPv6 type, and code if given: one of these.
    pub icmp: Vec<(u8, Option<u8>)>,
    /// TCP flags.
    pub flags: Option<Flags>,
    /// The segment is one of these.
    pub vlan: Vec<RangeInclusive<u16>>,
    /// See the head of this file.
    pub states: Vec<State>,
}

impl Rule {
    /// The rule that does `action` with every frame.
    pub fn any(action: Action) -> Self {
        Self {
            name: String::new(),
            origin: String::new(),
            list: Arc::default(),
            said: Vec::new(),
            action,
            log: false,
            stateless: false,
            fragments: false,
            kind: Kind::Any,
            from: Vec::new(),
            to: Vec::new(),
            source_port: Vec::new(),
            port: Vec::new(),
            icmp: Vec::new(),
            flags: None,
            vlan: Vec::new(),
            states: Vec::new(),
        }
    }

    /// Whether it has a condition on what stands in a layer 4 header.
    pub fn reads_layer_4(&self) -> bool {
        !self.source_port.is_empty()
            || !self.port.is_empty()
            || !self.icmp.is_empty()
            || self.flags.is_some()
    }
}

/// Which list a rule stands in: whose view it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// What the guest sends.
    Outbound,
    /// What the guest may receive.
    Inbound,
}

/// What a list, or the end of it, says of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What is done.
    pub action: Action,
    /// By which rule; `None` for the end of the list.
    pub rule: Option<RuleId>,
}
