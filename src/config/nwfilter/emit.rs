//! TOML of ours.

use std::fmt::Write as _;
use std::ops::RangeInclusive;

use super::Remark;
use super::domain::Interface;
use super::order::Policy;

use crate::config::filters;
use crate::config::terms::{PROTOCOLS, RARP, STATES};
use crate::config::{MAX_NAME, valid_name};
use crate::frame::ethernet::ethertype;
use crate::policy::rule::{Action, Kind, Rule, Who};
use crate::policy::subject::Family;

/// The whole text. A write into a string does not fail.
pub(super) fn configuration(
    filter: &str,
    ports: &[(&Interface, Policy)],
    remarks: &[Remark],
) -> String {
    let mut text = format!("# Converted from libvirt's network filter {filter:?}.\n");
    if !remarks.is_empty() {
        text.push_str("#\n# Not converted:\n");
        for remark in remarks {
            let _ = writeln!(text, "# {}", remark.to_string().replace(['\n', '\r'], " "));
        }
    }
    let mut lists: Vec<(String, &Policy)> = Vec::new();
    for (interface, policy) in ports {
        let found = lists.iter().find(|(_, other)| is_same(other, policy));
        let list = match found {
            Some((name, _)) => name.clone(),
            None => {
                let name = list_name(filter, lists.len());
                lists.push((name.clone(), policy));
                name
            }
        };
        port(&mut text, interface, policy, &list);
    }
    for (name, policy) in lists.iter().filter(|(_, policy)| !passes_all(policy)) {
        let _ = write!(text, "\n[acl.{name}]\n");
        direction(&mut text, "outbound", &policy.outbound);
        direction(&mut text, "inbound", &policy.inbound);
    }
    text
}

fn is_same(a: &Policy, b: &Policy) -> bool {
    a.outbound == b.outbound && a.inbound == b.inbound
}

/// Whether the lists say nothing: they only let pass what passes without a list.
fn passes_all(policy: &Policy) -> bool {
    let lets_all = |rules: &[Rule]| {
        matches!(rules, [rule] if rule.action == Action::Allow && rule.kind == Kind::Any
        && rule.from.is_empty() && rule.to.is_empty())
    };
    lets_all(&policy.outbound) && lets_all(&policy.inbound)
}

/// A name of ours: of the characters that names have, and not that of a ready-made list.
fn list_name(filter: &str, index: usize) -> String {
    let plain = filter.chars().map(|c| {
        if c.is_ascii_alphanumeric() || "_-".contains(c) {
            c
        } else {
            '-'
        }
    });
    let mut name: String = plain.take(MAX_NAME - 4).collect();
    if !valid_name(&name) || filters::NAMES.contains(&name.as_str()) {
        name = format!("my-{}", name.trim_start_matches('-'));
        name.truncate(MAX_NAME - 4);
    }
    match index {
        0 => name,
        index => format!("{name}-{index}"),
    }
}

fn port(text: &mut String, interface: &Interface, policy: &Policy, list: &str) {
    let _ = write!(text, "\n[port.{}]\n", interface.name);
    let made_up = match (interface.has_socket, interface.is_real) {
        (true, _) => "",
        (false, true) => "  # made up: the interface is no vhostuser one yet",
        (false, false) => "  # made up: the port that the filter is for",
    };
    let _ = writeln!(text, "socket = {}{made_up}", quoted(&interface.socket));
    let values = |name: &str| interface.variables.get(name).cloned().unwrap_or_default();
    if !values("MAC").is_empty() {
        let _ = writeln!(text, "mac = {}", list_of(values("MAC")));
    }
    let addresses = [values("IP"), values("IPV6")].concat();
    if !addresses.is_empty() {
        let _ = writeln!(text, "ip = {}", list_of(addresses));
    } else if policy.guards_ip {
        text.push_str("ip = \"dhcp\"  # the filter binds addresses, and none is given\n");
    }
    if !passes_all(policy) {
        let _ = writeln!(text, "acl = {}", quoted(list));
    }
}

fn direction(text: &mut String, name: &str, rules: &[Rule]) {
    let _ = writeln!(text, "{name} = [");
    for rule in rules {
        let origin = match rule.origin.as_str() {
            "" => String::new(),
            origin => format!("  # {}", origin.replace(['\n', '\r'], " ")),
        };
        let _ = writeln!(text, "    {},{origin}", table(rule));
    }
    text.push_str("]\n");
}

/// A rule as an inline table. Ports of ours cannot be in it: libvirt has none.
fn table(rule: &Rule) -> String {
    let verb = match rule.action {
        Action::Allow => "allow",
        Action::Deny => "deny",
        Action::Reject => "reject",
    };
    let mut keys = vec![format!("{verb} = {}", quoted(&kind(rule.kind)))];
    for (key, whos) in [("from", &rule.from), ("to", &rule.to)] {
        if !whos.is_empty() {
            keys.push(format!(
                "{key} = {}",
                list_of(whos.iter().map(who).collect())
            ));
        }
    }
    for (key, ranges) in [("source_port", &rule.source_port), ("port", &rule.port)] {
        if !ranges.is_empty() {
            keys.push(format!("{key} = {}", ports(ranges)));
        }
    }
    if !rule.icmp.is_empty() {
        let types = rule.icmp.iter().map(|(kind, code)| match code {
            None => kind.to_string(),
            Some(code) => format!("{kind}/{code}"),
        });
        keys.push(format!("icmp = {}", list_of(types.collect())));
    }
    if rule.states.len() == STATES.len() {
        keys.push("state = \"any\"".to_owned());
    } else if !rule.states.is_empty() {
        let names = STATES
            .iter()
            .filter(|(_, state)| rule.states.contains(state));
        keys.push(format!(
            "state = {}",
            list_of(names.map(|(name, _)| (*name).to_owned()).collect())
        ));
    }
    if rule.stateless {
        keys.push("stateless = true".to_owned());
    }
    if !rule.name.is_empty() {
        keys.push(format!("name = {}", quoted(&rule.name)));
    }
    format!("{{ {} }}", keys.join(", "))
}

fn kind(kind: Kind) -> String {
    match kind {
        Kind::Any => "any".to_owned(),
        Kind::Llc => "llc".to_owned(),
        Kind::EtherType(ethertype::ARP) => "arp".to_owned(),
        Kind::EtherType(RARP) => "rarp".to_owned(),
        Kind::EtherType(number) => format!("0x{number:04x}"),
        Kind::Ip { family, protocol } => {
            let over = match family {
                None => "ip",
                Some(Family::V4) => "ipv4",
                Some(Family::V6) => "ipv6",
            };
            let Some(number) = protocol else {
                return over.to_owned();
            };
            let known = PROTOCOLS
                .iter()
                .find(|(_, known, of)| *known == number && (of.is_none() || *of == family));
            match (known, family) {
                (Some((name, _, Some(_))), _) => (*name).to_owned(),
                (Some((name, ..)), None) => (*name).to_owned(),
                (Some((name, ..)), Some(_)) => format!("{name}/{over}"),
                (None, None) => format!("proto:{number}"),
                (None, Some(_)) => format!("proto:{number}/{over}"),
            }
        }
    }
}

fn who(who: &Who) -> String {
    match who {
        // No filter names a port; if one did, no configuration would take it.
        Who::Ports(_) => "port:?".to_owned(),
        Who::Mac(mac) => mac.to_string(),
        Who::Prefix(net) if net.prefix_len() == net.max_prefix_len() => net.addr().to_string(),
        Who::Prefix(net) => net.to_string(),
    }
}

fn ports(ranges: &[RangeInclusive<u16>]) -> String {
    let words = ranges
        .iter()
        .map(|range| match (range.start(), range.end()) {
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("\"{first}-{last}\""),
        });
    match words.collect::<Vec<_>>().as_slice() {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

fn list_of(words: Vec<String>) -> String {
    match words.as_slice() {
        [one] => quoted(one),
        many => {
            let quoted: Vec<String> = many.iter().map(|word| quoted(word)).collect();
            format!("[{}]", quoted.join(", "))
        }
    }
}

/// A TOML string.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
