//! From words to a [`Packet`].

use std::net::IpAddr;

use super::{Body, Fragment, Packet, PacketError, Upper, messages};
use crate::config::terms::{RARP, kind_remedy, parse_flag_list, parse_icmp, parse_kind};
use crate::frame::ethernet::ethertype;
use crate::frame::tcp::flag;
use crate::frame::{MAX_FRAME, Mac, Vid, protocol};
use crate::policy::rule::Kind;
use crate::policy::subject::Family;

/// The source port of a packet that names none.
const SOURCE_PORT: u16 = 40_000;
/// What fits behind every header that we write.
const MAX_PAYLOAD: u16 = 60_000;
const FORM: &str = "write it such as \"tcp 10.0.0.5:40000 > 10.0.0.6:5432\"";
const WORDS: &str = "the words are flags=, icmp=, vlan=, payload=, fragment=, ttl=, target=, mac A > B, request and reply";

/// A frame in hexadecimal digits: behind the word `hex`, or nothing but digits. `None`: it is a description.
pub(super) fn hex(text: &str) -> Result<Option<Vec<u8>>, PacketError> {
    let rest = text.trim().strip_prefix("hex");
    let rest = rest.filter(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace));
    let (digits, is_said) = match rest {
        Some(rest) => (rest, true),
        None => (text, false),
    };
    let digits: String = digits
        .chars()
        .filter(|c| !c.is_whitespace() && *c != ':')
        .collect();
    let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    if !is_said && (!is_hex || digits.len() < 28) {
        return Ok(None);
    }
    let wrong =
        |problem: &str| PacketError::new(problem, "give a whole frame, two digits for each byte");
    if !is_hex || !digits.len().is_multiple_of(2) {
        return Err(wrong("not an even number of hexadecimal digits"));
    }
    if digits.len() < 28 || digits.len() / 2 > MAX_FRAME as usize {
        return Err(wrong("a frame has 14 to 65550 bytes"));
    }
    let pairs = digits.as_bytes().chunks(2);
    let bytes = pairs.map(|pair| {
        let pair = std::str::from_utf8(pair).unwrap_or_default();
        u8::from_str_radix(pair, 16).unwrap_or_default()
    });
    Ok(Some(bytes.collect()))
}

/// The words that follow the addresses.
#[derive(Default)]
struct Words<'t> {
    flags: Option<&'t str>,
    icmp: Option<&'t str>,
    vlan: Option<&'t str>,
    payload: Option<&'t str>,
    fragment: Option<&'t str>,
    ttl: Option<&'t str>,
    target: Option<&'t str>,
    macs: (Option<Mac>, Option<Mac>),
    is_reply: Option<bool>,
}

/// Reads a description.
pub(super) fn packet(text: &str) -> Result<Packet, PacketError> {
    let text = text.replace('>', " > ");
    let mut tokens = text.split_whitespace().peekable();
    let name = tokens
        .next()
        .ok_or_else(|| PacketError::new("is empty", FORM))?;
    let kind = parse_kind(name)
        .map_err(|why| PacketError::new(format!("{name:?} {why}"), kind_remedy(name)))?;
    let is_end = |token: &&str| *token != ">" && !is_word(token);
    let src = tokens.next_if(is_end);
    let dst = match tokens.next_if(|token| *token == ">") {
        None if src.is_some() => {
            return Err(PacketError::new("has no receiver", FORM));
        }
        None => None,
        Some(_) => tokens.next_if(is_end),
    };
    let words = read_words(&mut tokens)?;
    let number = |key: &str, word: Option<&str>, most: u16| match word {
        None => Ok(None),
        Some(word) => match plain(word).filter(|number| *number <= most) {
            Some(number) => Ok(Some(number)),
            None => Err(PacketError::new(
                format!("{key}={word} is out of range"),
                format!("choose a whole number from 0 to {most}"),
            )),
        },
    };
    let payload = number("payload", words.payload, MAX_PAYLOAD)?;
    let vlan = match words.vlan {
        None => None,
        Some(word) => {
            let wrong = || {
                PacketError::new(
                    format!("vlan={word} is no VLAN"),
                    "choose one from 1 to 4094, or 0 for a priority tag",
                )
            };
            let vid = plain(word).filter(|vid| *vid == 0 || Vid::new(*vid).is_some());
            Some(vid.ok_or_else(wrong)?)
        }
    };
    let ttl = number("ttl", words.ttl, u8::MAX.into())?;
    let ttl = ttl.and_then(|ttl| u8::try_from(ttl).ok());
    let body = body(kind, src, dst, &words, ttl)?;
    Ok(Packet {
        src_mac: words.macs.0,
        dst_mac: words.macs.1,
        vlan,
        body,
        payload,
    })
}

fn is_word(token: &str) -> bool {
    token.contains('=') || matches!(token, "mac" | "request" | "reply")
}

fn read_words<'t>(
    tokens: &mut std::iter::Peekable<impl Iterator<Item = &'t str>>,
) -> Result<Words<'t>, PacketError> {
    let mut words = Words::default();
    while let Some(token) = tokens.next() {
        let (key, value) = token.split_once('=').unwrap_or((token, ""));
        let slot = match key {
            "request" | "reply" if !token.contains('=') => {
                words.is_reply = Some(key == "reply");
                continue;
            }
            "mac" if !token.contains('=') => {
                words.macs.0 = tokens.next_if(|token| *token != ">").map(mac).transpose()?;
                if tokens.next_if(|token| *token == ">").is_some() {
                    words.macs.1 = tokens
                        .next_if(|token| !is_word(token))
                        .map(mac)
                        .transpose()?;
                }
                continue;
            }
            "flags" => &mut words.flags,
            "icmp" => &mut words.icmp,
            "vlan" => &mut words.vlan,
            "payload" => &mut words.payload,
            "fragment" => &mut words.fragment,
            "ttl" => &mut words.ttl,
            "target" => &mut words.target,
            _ => return Err(PacketError::new(format!("{token:?} is not known"), WORDS)),
        };
        if slot.replace(value).is_some() {
            return Err(PacketError::new(
                format!("{key} stands there twice"),
                "give it once",
            ));
        }
    }
    Ok(words)
}

fn mac(text: &str) -> Result<Mac, PacketError> {
    text.parse().map_err(|_| {
        PacketError::new(
            format!("{text:?} is not a MAC address"),
            "write mac 52:54:00:00:00:01 > 52:54:00:00:00:02",
        )
    })
}

fn body(
    kind: Kind,
    src: Option<&str>,
    dst: Option<&str>,
    words: &Words<'_>,
    ttl: Option<u8>,
) -> Result<Body, PacketError> {
    let misplaced =
        |key: &str| PacketError::new(format!("{key} has no place in this packet"), "leave it out");
    let (is_tcp, is_icmp) = match kind {
        Kind::Ip { protocol, .. } => (
            protocol == Some(protocol::TCP),
            matches!(protocol, Some(protocol::ICMP | protocol::ICMPV6)),
        ),
        _ => (false, false),
    };
    let is_arp = kind == Kind::EtherType(ethertype::ARP);
    for (is_said, fits, key) in [
        (words.flags.is_some(), is_tcp, "flags"),
        (words.icmp.is_some(), is_icmp, "icmp"),
        (words.is_reply.is_some(), is_arp, "request or reply"),
        (words.target.is_some(), is_icmp, "target"),
        (
            words.fragment.is_some() || words.ttl.is_some(),
            matches!(kind, Kind::Ip { .. }),
            "fragment or ttl",
        ),
    ] {
        if is_said && !fits {
            return Err(misplaced(key));
        }
    }
    match kind {
        Kind::EtherType(ethertype::ARP) => Ok(Body::Arp {
            src: address(src, Some(Family::V4))?,
            dst: address(dst, Some(Family::V4))?,
            is_reply: words.is_reply == Some(true),
        }),
        Kind::EtherType(RARP) if src.or(dst).or(words.payload).is_none() => Ok(Body::Rarp),
        Kind::EtherType(number) if src.or(dst).is_none() => Ok(Body::Other(number)),
        Kind::EtherType(_) => Err(misplaced("an address")),
        Kind::Ip {
            family,
            protocol: Some(number),
        } => ip_body(family, number, src, dst, words, ttl),
        Kind::Any | Kind::Llc | Kind::Ip { protocol: None, .. } => {
            let remedy =
                "name its protocol, such as tcp, udp, icmp, arp or proto:47, or give it in hex";
            Err(PacketError::new("is no packet that could be made", remedy))
        }
    }
}

fn ip_body(
    family: Option<Family>,
    number: u8,
    src: Option<&str>,
    dst: Option<&str>,
    words: &Words<'_>,
    ttl: Option<u8>,
) -> Result<Body, PacketError> {
    let has_ports = matches!(number, protocol::TCP | protocol::UDP);
    let split = |end: Option<&'_ str>| match end {
        Some(end) if has_ports => split_port(end),
        end => Ok((end.map(str::to_owned), None)),
    };
    let (src, src_port) = split(src)?;
    let (dst, dst_port) = split(dst)?;
    let src = address(src.as_deref(), family)?;
    let dst = address(dst.as_deref(), family)?;
    let of = |address: &IpAddr| {
        if address.is_ipv4() {
            Family::V4
        } else {
            Family::V6
        }
    };
    if let (Some(from), Some(to)) = (&src, &dst)
        && of(from) != of(to)
    {
        let problem = "sender and receiver are of different families";
        return Err(PacketError::new(
            problem,
            "give two IPv4 or two IPv6 addresses",
        ));
    }
    let ports = || {
        let port = dst_port.ok_or_else(|| {
            PacketError::new(
                "names no destination port",
                "write it behind the receiver, such as 10.0.0.6:443 or :443",
            )
        })?;
        Ok((src_port.unwrap_or(SOURCE_PORT), port))
    };
    let upper = match number {
        protocol::TCP => Upper::Tcp {
            ports: ports()?,
            flags: match words.flags {
                None => flag::SYN,
                Some(text) => parse_flag_list(text)
                    .map_err(|why| PacketError::new(why, "write flags such as flags=syn,ack"))?,
            },
        },
        protocol::UDP => Upper::Udp { ports: ports()? },
        protocol::ICMP | protocol::ICMPV6 if family.is_some() => icmp(number, words)?,
        number => Upper::Other(number),
    };
    if words.target.is_some() && !messages::is_discovery(upper) {
        let problem = "target has no place in this packet";
        let remedy =
            "it is of neighbour discovery: add icmp=neighbour-solicitation or another of its types";
        return Err(PacketError::new(problem, remedy));
    }
    if words.target.is_some() && words.payload.is_some() {
        let problem = "target stands beside payload, which takes its place";
        return Err(PacketError::new(problem, "keep one of the two"));
    }
    let target = match address(words.target, Some(Family::V6))? {
        Some(IpAddr::V6(target)) => Some(target),
        _ => None,
    };
    Ok(Body::Ip {
        target,
        family: src.as_ref().or(dst.as_ref()).map(of).or(family),
        src,
        dst,
        ttl,
        piece: match words.fragment {
            None => None,
            Some("first") => Some(Fragment::First),
            Some("later") => Some(Fragment::Later),
            Some(other) => {
                let problem = format!("fragment={other} is not known");
                return Err(PacketError::new(
                    problem,
                    "write fragment=first or fragment=later",
                ));
            }
        },
        upper,
    })
}

fn icmp(number: u8, words: &Words<'_>) -> Result<Upper, PacketError> {
    let is_v6 = number == protocol::ICMPV6;
    let family = if is_v6 { Family::V6 } else { Family::V4 };
    let text = words.icmp.unwrap_or("echo-request");
    let (kind, code) = parse_icmp(text, family).ok_or_else(|| {
        PacketError::new(
            format!("icmp={text} is no type of this protocol"),
            "write a name such as echo-reply, or type/code such as 3/4",
        )
    })?;
    Ok(Upper::Icmp {
        kind,
        code: code.unwrap_or(0),
        is_v6,
    })
}

/// `10.0.0.5:80`, `[fd00::5]:80`, `:80`, `10.0.0.5`, `fd00::5`.
fn split_port(end: &str) -> Result<(Option<String>, Option<u16>), PacketError> {
    let (address, port) = match end.rsplit_once(':') {
        _ if end.parse::<IpAddr>().is_ok() => (end, None),
        Some((address, port)) => (address, Some(port)),
        None => (end, None),
    };
    let port = match port {
        None => None,
        Some(digits) => Some(plain(digits).ok_or_else(|| {
            PacketError::new(
                format!("{digits:?} is no port"),
                "choose one from 0 to 65535",
            )
        })?),
    };
    Ok((
        Some(address.to_owned()).filter(|address| !address.is_empty()),
        port,
    ))
}

fn address(text: Option<&str>, family: Option<Family>) -> Result<Option<IpAddr>, PacketError> {
    let Some(text) = text else { return Ok(None) };
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let wrong = |what: &str| PacketError::new(format!("{text:?} is no {what}"), FORM);
    let address: IpAddr = bare
        .unwrap_or(text)
        .parse()
        .map_err(|_| wrong("IP address"))?;
    match family {
        Some(Family::V4) if !address.is_ipv4() => Err(wrong("IPv4 address")),
        Some(Family::V6) if !address.is_ipv6() => Err(wrong("IPv6 address")),
        _ => Ok(Some(address)),
    }
}

fn plain(digits: &str) -> Option<u16> {
    let is_plain = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    digits.parse().ok().filter(|_| is_plain)
}
