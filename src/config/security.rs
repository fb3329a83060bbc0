//! Port security: from what a port may send, and what it may be.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv6Net};

use super::Place;
use super::limits::addressing_rate;
use super::raw::{Item, Value};
use super::reader::Reader;
use crate::frame::Mac;
use crate::policy::lease;
use crate::policy::spec::{GuardSpec, IpSpec, MacSpec, May};

const MAX_LEASES: u32 = lease::MAX_LEASES as u32;
/// Leases of a port that says nothing of it.
const DEFAULT_LEASES: u16 = 8;
/// ARP and neighbour discovery packets a second of a guest port that says nothing of it.
const DEFAULT_ADDRESSING: u32 = 1_000;
/// Prefixes of one port.
const MAX_PREFIXES: usize = 1_024;

pub(super) const MAC_RULE: &str = "give a guest's own address, such as 52:54:00:12:34:56";
const IP_RULE: &str =
    "give the guest's own addresses or prefixes, such as [\"10.0.0.5\", \"fd00::5\"], or \"dhcp\"";
const LINK_LOCAL_RULE: &str = "give addresses in fe80::/10, such as fe80::5054:ff:fe12:3456";

/// What port, group and defaults can all say; `None` where nothing is said.
#[derive(Debug, Clone, Default)]
pub(super) struct Security {
    /// `spoofing = "allow"`
    pub(super) spoofing: Option<(bool, Place)>,
    pub(super) ip: Option<(IpSpec, Place)>,
    link_local: Option<(Vec<IpNet>, Place)>,
    dhcp_server: Option<bool>,
    router: Option<bool>,
    link_protocols: Option<bool>,
    max_leases: Option<u16>,
    addressing_rate: Option<u32>,
}

impl Security {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let at = reader.place_of("spoofing");
        let spoofing = reader.choice("spoofing", &[("refuse", false), ("allow", true)]);
        let security = Self {
            spoofing: spoofing.zip(at),
            ip: read_ip(reader),
            link_local: read_link_local(reader),
            dhcp_server: reader.boolean("dhcp_server"),
            router: reader.boolean("router"),
            link_protocols: reader.boolean("link_protocols"),
            max_leases: reader
                .number("max_leases", 1..=MAX_LEASES)
                .and_then(|(leases, _)| u16::try_from(leases).ok()),
            addressing_rate: addressing_rate(reader),
        };
        security.agree(reader);
        security
    }

    /// What one section says must go together.
    fn agree(&self, reader: &mut Reader<'_>) {
        if let (Some((true, _)), Some((ip, place))) = (&self.spoofing, &self.ip)
            && *ip != IpSpec::Any
        {
            let problem = "stands beside spoofing = \"allow\", which lets any address be used";
            let remedy = "keep one of the two";
            reader.fault(place.clone(), "ip", problem.to_owned(), remedy);
        }
        if let (Some((_, place)), Some((IpSpec::Dhcp | IpSpec::Any, _)) | None) =
            (&self.link_local, &self.ip)
        {
            let problem = "is for ports with addresses of their own in ip".to_owned();
            let remedy =
                "add ip = [...]; without it only the link-local address of the port's MAC is bound";
            reader.fault(place.clone(), "link_local", problem, remedy);
        }
    }

    /// What `below` says where this says nothing.
    pub(super) fn or(self, below: &Self) -> Self {
        // Link-local addresses belong to the addresses beside which they stand.
        let link_local = match self.ip {
            Some(_) => self.link_local,
            None => self.link_local.or_else(|| below.link_local.clone()),
        };
        Self {
            spoofing: self.spoofing.or_else(|| below.spoofing.clone()),
            ip: self.ip.or_else(|| below.ip.clone()),
            link_local,
            dhcp_server: self.dhcp_server.or(below.dhcp_server),
            router: self.router.or(below.router),
            link_protocols: self.link_protocols.or(below.link_protocols),
            max_leases: self.max_leases.or(below.max_leases),
            addressing_rate: self.addressing_rate.or(below.addressing_rate),
        }
    }

    /// The guard of a port. An uplink is a door to the outside: whatever is not said is open there.
    pub(super) fn guard(&self, macs: &[Mac], uplink: bool) -> GuardSpec {
        let is_open = self.spoofing.as_ref().map_or(uplink, |(allow, _)| *allow);
        let mac = match macs {
            _ if is_open => MacSpec::Any,
            [] => MacSpec::Sticky,
            macs => MacSpec::Declared(macs.to_vec()),
        };
        let ip = match &self.ip {
            _ if is_open => IpSpec::Any,
            None => IpSpec::Any,
            Some((IpSpec::Declared(prefixes), _)) => {
                let link_local = self.link_local.as_ref();
                let others = link_local.map_or(&[][..], |(others, _)| others);
                IpSpec::Declared([prefixes, others].concat())
            }
            Some((ip, _)) => ip.clone(),
        };
        GuardSpec {
            mac,
            ip,
            may: May {
                dhcp_server: self.dhcp_server.unwrap_or(uplink),
                router: self.router.unwrap_or(uplink),
                link_protocols: self.link_protocols.unwrap_or(uplink),
            },
            max_leases: self.max_leases.unwrap_or(DEFAULT_LEASES),
            addressing_per_second: self.addressing_rate.unwrap_or(if uplink {
                0
            } else {
                DEFAULT_ADDRESSING
            }),
        }
    }
}

fn read_ip(reader: &mut Reader<'_>) -> Option<(IpSpec, Place)> {
    let (items, place) = reader.filled_list("ip")?;
    if let [
        Item {
            value: Value::Text(word) | Value::Word(word),
            ..
        },
    ] = items.as_slice()
    {
        match word.as_str() {
            "dhcp" => return Some((IpSpec::Dhcp, place)),
            "any" => return Some((IpSpec::Any, place)),
            _ => {}
        }
    }
    let alone = ["dhcp", "any"].into_iter();
    let mut alone = alone.filter(|word| items.iter().any(|item| item.is_word(word)));
    if let Some(word) = alone.next() {
        let problem = format!("{word:?} stands beside others");
        let remedy = "it stands alone: keep it, or the guest's own addresses";
        reader.fault(place.clone(), "ip", problem, remedy);
        return Some((IpSpec::Any, place));
    }
    let prefixes = read_prefixes(reader, "ip", items, &place, IP_RULE);
    Some((IpSpec::Declared(prefixes), place))
}

fn read_link_local(reader: &mut Reader<'_>) -> Option<(Vec<IpNet>, Place)> {
    let (items, place) = reader.filled_list("link_local")?;
    let prefixes = read_prefixes(reader, "link_local", items, &place, LINK_LOCAL_RULE);
    let range = IpNet::V6(LINK_LOCAL);
    if let Some(other) = prefixes.iter().find(|prefix| !range.contains(*prefix)) {
        let problem = format!("{other} is no link-local address");
        reader.fault(place.clone(), "link_local", problem, LINK_LOCAL_RULE);
    }
    Some((prefixes, place))
}

/// fe80::/10 (RFC 4291, section 2.5.6).
const LINK_LOCAL: Ipv6Net =
    Ipv6Net::new_assert(std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10);

fn read_prefixes(
    reader: &mut Reader<'_>,
    key: &'static str,
    items: Vec<Item>,
    place: &Place,
    remedy: &str,
) -> Vec<IpNet> {
    if items.len() > MAX_PREFIXES {
        let problem = format!("{} prefixes", items.len());
        reader.fault(place.clone(), key, problem, "a port has 1024 at most");
        return Vec::new();
    }
    let mut prefixes: Vec<IpNet> = Vec::new();
    for item in items {
        let Some((text, place)) = reader.text_of(key, item, remedy) else {
            continue;
        };
        let found = parse_prefix(&text).and_then(|prefix| match why_nobody_has(prefix) {
            Some(why) => Err(why.to_owned()),
            None => Ok(prefix),
        });
        match found {
            Ok(prefix) if prefixes.contains(&prefix) => {
                let problem = format!("{text} stands there twice");
                reader.fault(place, key, problem, "name it once");
            }
            Ok(prefix) => prefixes.push(prefix),
            Err(why) => reader.fault(place, key, format!("{text:?} {why}"), remedy),
        }
    }
    prefixes
}

/// An address, or a prefix whose bits past its length are zero.
pub(super) fn parse_prefix(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address));
    }
    let prefix: IpNet = text
        .parse()
        .map_err(|_| "is neither an IP address nor a prefix".to_owned())?;
    if prefix.trunc() == prefix {
        Ok(prefix)
    } else {
        Err(format!(
            "has bits past its length; the network is {}, the address {}",
            prefix.trunc(),
            prefix.addr()
        ))
    }
}

/// Why no guest can own an address of that prefix.
fn why_nobody_has(prefix: IpNet) -> Option<&'static str> {
    let address = prefix.addr();
    let is_whole = prefix.prefix_len() == 0;
    match address {
        _ if is_whole => None,
        _ if address.is_multicast() => Some("is a multicast address"),
        _ if address.is_loopback() => Some("is a loopback address"),
        _ if address.is_unspecified() => Some("is the unspecified address"),
        IpAddr::V4(address) if address.is_broadcast() => Some("is the broadcast address"),
        _ => None,
    }
}

/// The address of one station.
pub(super) fn parse_mac(text: &str) -> Result<Mac, &'static str> {
    let mac: Mac = text.parse().map_err(|_| "is not a MAC address")?;
    if mac.is_station() {
        return Ok(mac);
    }
    Err(match mac {
        _ if mac.is_zero() => "is zero",
        _ if mac.is_broadcast() => "is the broadcast address",
        _ => "is a multicast address",
    })
}
