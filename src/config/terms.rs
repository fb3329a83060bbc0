//! The words of rules: kinds of frames, ICMP types, TCP flags, states. One table for the file, the flags and packets to explain.

use super::nearest::nearest;
use crate::frame::ethernet::ethertype;
use crate::frame::tcp::flag;
use crate::frame::{ipv6, protocol};
use crate::policy::rule::{Flags, Kind};
use crate::policy::subject::{Family, State};

pub(super) const KIND_RULE: &str = "name tcp, udp, icmp, icmpv6, ip, ipv4, ipv6, arp, rarp, llc, any, a protocol \
    (igmp, esp, ah, gre, sctp, udplite, proto:47), one of these over one family (tcp/ipv4), or an EtherType (0x88b5)";

/// Protocols above IP that have a name here (IANA, "Protocol Numbers"), with the family that they are of, if it is one.
pub(super) const PROTOCOLS: [(&str, u8, Option<Family>); 10] = [
    ("tcp", protocol::TCP, None),
    ("udp", protocol::UDP, None),
    ("icmp", protocol::ICMP, Some(Family::V4)),
    ("icmpv6", protocol::ICMPV6, Some(Family::V6)),
    ("igmp", 2, Some(Family::V4)),
    ("gre", 47, None),
    ("esp", 50, None),
    ("ah", 51, None),
    ("sctp", 132, None),
    ("udplite", 136, None),
];
/// What to do about a word that is no kind: the one that was meant, or all that there are.
pub(super) fn kind_remedy(text: &str) -> String {
    let names = ["any", "ip", "ipv4", "ipv6", "arp", "rarp", "llc"];
    let names: Vec<&str> = PROTOCOLS
        .iter()
        .map(|(name, ..)| *name)
        .chain(names)
        .collect();
    let meant = match (parse_kind(text), text) {
        (Err(why), _) if why != UNKNOWN => None,
        (_, "icmp6" | "ipv6-icmp") => Some("icmpv6"),
        _ => nearest(&text.to_lowercase(), &names),
    };
    match meant {
        Some(meant) => format!("did you mean {meant:?}?"),
        None => KIND_RULE.to_owned(),
    }
}

const UNKNOWN: &str = "is not known";
const FAMILIES: [(&str, Option<Family>); 3] = [
    ("ip", None),
    ("ipv4", Some(Family::V4)),
    ("ipv6", Some(Family::V6)),
];
/// Reverse ARP (RFC 903).
pub(super) const RARP: u16 = 0x8035;
const TYPES: [(&str, u16); 2] = [("arp", ethertype::ARP), ("rarp", RARP)];

/// `"tcp"`, `"proto:47"`, `"esp/ipv6"`, `"0x88b5"`.
pub(super) fn parse_kind(text: &str) -> Result<Kind, String> {
    match text {
        "any" => return Ok(Kind::Any),
        "llc" => return Ok(Kind::Llc),
        _ => {}
    }
    if let Some((_, number)) = TYPES.iter().find(|(name, _)| *name == text) {
        return Ok(Kind::EtherType(*number));
    }
    if let Some(digits) = text.strip_prefix("0x") {
        let number = u16::from_str_radix(digits, 16).ok();
        return match number.filter(|_| !digits.starts_with('+')) {
            Some(number) if number >= ethertype::FIRST => Ok(Kind::EtherType(number)),
            Some(_) => Err("is a length, not an EtherType: those begin at 0x0600".to_owned()),
            None => Err("is no EtherType".to_owned()),
        };
    }
    if let Some((_, family)) = FAMILIES.iter().find(|(name, _)| *name == text) {
        let (family, protocol) = (*family, None);
        return Ok(Kind::Ip { family, protocol });
    }
    let (name, over) = match text.split_once('/') {
        None => (text, None),
        Some((name, over)) => {
            let found = FAMILIES.iter().find(|(name, _)| *name == over);
            let family = found.and_then(|(_, family)| *family);
            let family = family.ok_or_else(|| format!("runs over {over:?}, which is no family"))?;
            (name, Some(family))
        }
    };
    let (number, of) = match name.strip_prefix("proto:") {
        Some(digits) => (decimal(digits).ok_or("is no protocol's number")?, None),
        None => {
            let found = PROTOCOLS.iter().find(|(known, ..)| *known == name);
            let (_, number, of) = found.ok_or(UNKNOWN)?;
            (*number, *of)
        }
    };
    if let (Some(over), Some(of)) = (over, of)
        && over != of
    {
        return Err("is a protocol of the other family".to_owned());
    }
    let family = over.or(of);
    if is_looked_behind(number, family) {
        return Err(LOOKED_BEHIND.to_owned());
    }
    Ok(Kind::Ip {
        family,
        protocol: Some(number),
    })
}

/// Whether a rule about that protocol would be about an IPv6 extension header that is walked: no packet would ever match it
/// over IPv6, and least of all one that it is to deny.
pub(super) fn is_looked_behind(number: u8, family: Option<Family>) -> bool {
    family != Some(Family::V4) && ipv6::is_extension(number)
}

pub(super) const LOOKED_BEHIND: &str = "is no protocol over IPv6 but an extension header, and rules are about what is \
    behind it: say so over IPv4 (ah/ipv4), and name what is behind it for IPv6";

/// A number of at most three digits.
fn decimal(digits: &str) -> Option<u8> {
    let is_plain = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    digits.parse().ok().filter(|_| is_plain)
}

/// A name, with type and code.
type Icmp = (&'static str, u8, Option<u8>);

/// ICMP (IANA, "ICMP Parameters").
const ICMP: [Icmp; 15] = [
    ("echo-reply", 0, None),
    ("destination-unreachable", 3, None),
    ("network-unreachable", 3, Some(0)),
    ("host-unreachable", 3, Some(1)),
    ("port-unreachable", 3, Some(3)),
    ("fragmentation-needed", 3, Some(4)),
    ("source-quench", 4, None),
    ("redirect", 5, None),
    ("echo-request", 8, None),
    ("router-advertisement", 9, None),
    ("router-solicitation", 10, None),
    ("time-exceeded", 11, None),
    ("parameter-problem", 12, None),
    ("timestamp-request", 13, None),
    ("timestamp-reply", 14, None),
];
/// ICMPv6 (IANA, "ICMPv6 Parameters").
const ICMPV6: [Icmp; 17] = [
    ("destination-unreachable", 1, None),
    ("port-unreachable", 1, Some(4)),
    ("packet-too-big", 2, None),
    ("time-exceeded", 3, None),
    ("parameter-problem", 4, None),
    ("echo-request", 128, None),
    ("echo-reply", 129, None),
    ("mld-query", 130, None),
    ("mld-report", 131, None),
    ("mld-done", 132, None),
    ("router-solicitation", 133, None),
    ("router-advertisement", 134, None),
    ("neighbour-solicitation", 135, None),
    ("neighbor-solicitation", 135, None),
    ("neighbour-advertisement", 136, None),
    ("neighbor-advertisement", 136, None),
    ("redirect", 137, None),
];

/// The names that there are for a family.
pub(super) fn icmp_names(family: Family) -> Vec<&'static str> {
    icmp_table(family).iter().map(|(name, ..)| *name).collect()
}

fn icmp_table(family: Family) -> &'static [Icmp] {
    match family {
        Family::V4 => &ICMP,
        Family::V6 => &ICMPV6,
    }
}

/// `"echo-request"`, `"3/4"`, `"8"`.
pub(super) fn parse_icmp(text: &str, family: Family) -> Option<(u8, Option<u8>)> {
    let found = icmp_table(family).iter().find(|(name, ..)| *name == text);
    if let Some((_, kind, code)) = found {
        return Some((*kind, *code));
    }
    match text.split_once('/') {
        None => Some((decimal(text)?, None)),
        Some((kind, code)) => Some((decimal(kind)?, Some(decimal(code)?))),
    }
}

pub(super) const FLAGS_RULE: &str = "write the flags that must be set, of those that are looked at, such as \"syn/syn,ack,rst,fin\"; \
    they are fin, syn, rst, psh, ack, urg, ece, cwr, none and all";
const FLAGS: [(&str, u8); 10] = [
    ("fin", flag::FIN),
    ("syn", flag::SYN),
    ("rst", flag::RST),
    ("psh", flag::PSH),
    ("ack", flag::ACK),
    ("urg", flag::URG),
    ("ece", flag::ECE),
    ("cwr", flag::CWR),
    ("none", 0),
    ("all", 0xff),
];

/// `"syn,ack"`.
pub(super) fn parse_flag_list(text: &str) -> Result<u8, String> {
    let mut flags = 0;
    for word in text.split(',').map(str::trim) {
        let found = FLAGS.iter().find(|(name, _)| *name == word);
        flags |= found.ok_or_else(|| format!("{word:?} is no TCP flag"))?.1;
    }
    Ok(flags)
}

/// `"syn/syn,ack"`, or `"syn"`, which looks at nothing else.
pub(super) fn parse_flags(text: &str) -> Result<Flags, String> {
    let (value, mask) = match text.split_once('/') {
        Some((value, mask)) => (parse_flag_list(value)?, parse_flag_list(mask)?),
        None => {
            let value = parse_flag_list(text)?;
            (value, value)
        }
    };
    if value & !mask != 0 {
        return Err("asks for a flag that it does not look at: no packet matches".to_owned());
    }
    if mask == 0 {
        return Err("looks at no flag".to_owned());
    }
    Ok(Flags { mask, value })
}

pub(super) const STATES: [(&str, State); 5] = [
    ("new", State::New),
    ("established", State::Established),
    ("related", State::Related),
    ("invalid", State::Invalid),
    ("untracked", State::Untracked),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(family: Option<Family>, protocol: Option<u8>) -> Result<Kind, String> {
        Ok(Kind::Ip { family, protocol })
    }

    #[test]
    fn kinds() {
        let (v4, v6) = (Some(Family::V4), Some(Family::V6));
        assert_eq!(parse_kind("any"), Ok(Kind::Any));
        assert_eq!(parse_kind("tcp"), ip(None, Some(6)));
        assert_eq!(parse_kind("tcp/ipv6"), ip(v6, Some(6)));
        assert_eq!(parse_kind("icmp"), ip(v4, Some(1)));
        assert_eq!(parse_kind("icmpv6/ipv6"), ip(v6, Some(58)));
        assert_eq!(parse_kind("proto:47/ipv4"), ip(v4, Some(47)));
        assert_eq!(parse_kind("ip"), ip(None, None));
        assert_eq!(parse_kind("ipv6"), ip(v6, None));
        assert_eq!(parse_kind("arp"), Ok(Kind::EtherType(0x0806)));
        assert_eq!(parse_kind("0x88b5"), Ok(Kind::EtherType(0x88b5)));
    }

    #[test]
    fn what_is_no_kind() {
        for text in [
            "",
            "TCP",
            "http",
            "0x",
            "0x05ff",
            "0x10000",
            "0x+800",
            "proto:",
            "proto:256",
            "proto:+6",
            "icmp/ipv6",
            "icmpv6/ipv4",
            "tcp/ip",
            "tcp/",
            "/ipv4",
            "arp/ipv4",
            "ipv4/tcp",
            "88b5",
        ] {
            assert!(parse_kind(text).is_err(), "{text}");
        }
    }

    #[test]
    fn icmp_types_are_of_their_family() {
        assert_eq!(parse_icmp("echo-request", Family::V4), Some((8, None)));
        assert_eq!(parse_icmp("echo-request", Family::V6), Some((128, None)));
        assert_eq!(parse_icmp("3/4", Family::V4), Some((3, Some(4))));
        assert_eq!(parse_icmp("8", Family::V4), Some((8, None)));
        for text in ["", "packet-too-big", "256", "3/", "/4", "3/4/5", "+8", "-1"] {
            assert_eq!(parse_icmp(text, Family::V4), None, "{text}");
        }
    }

    #[test]
    fn flags_are_set_among_those_looked_at() {
        let flags = |value, mask| Ok(Flags { mask, value });
        assert_eq!(parse_flags("syn/syn,ack,rst,fin"), flags(0x02, 0x17));
        assert_eq!(parse_flags("syn"), flags(0x02, 0x02));
        assert_eq!(parse_flags("none/all"), flags(0, 0xff));
        for text in ["", "syn/ack", "none", "syn/", "x/all", "syn ack"] {
            assert!(parse_flags(text).is_err(), "{text}");
        }
    }
}
