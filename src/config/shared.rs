//! What a port, its groups and `[defaults]` can all say, and which of them is heard.
//!
//! A port's own word comes first, then that of its groups in the order in which it names them, then `[defaults]`,
//! which is for guest ports only. Lists of rules are the exception: they add up, in that order.

use super::limits::{Connections, Limits};
use super::reader::Reader;
use super::security::Security;
use super::spec::{MAX_MTU, MAX_QUEUES, MIN_MTU};
use super::triggers::Triggers;
use super::{MODES, NAME_RULE, Place, narrow, valid_name};
use crate::fabric::{Mode, VidSet, VlanMembership};
use crate::frame::{Mac, Vid};
use crate::port::socket;

const MAX_VLAN: u16 = Vid::MAX.get();
/// Lists of rules that one section may bind.
const MAX_LISTS: usize = 32;
const ACCESS_RULE: &str = "write three octal digits in a string, such as \"0660\"";
const OWNER_RULE: &str = "name a user or group of this system, or its number in a string";
const LIST_RULE: &str =
    "name lists that stand as [acl.NAME], or ready-made ones such as \"clean-traffic\"";

/// The name of a list of rules, and where it was bound.
pub(super) type Binding = (String, Place);

/// `None` where nothing is said.
#[derive(Debug, Clone, Default)]
pub(super) struct Shared {
    pub(super) mode: Option<Mode>,
    pub(super) vlan: Option<VlanMembership>,
    pub(super) queues: Option<u16>,
    pub(super) mtu: Option<u16>,
    pub(super) security: Security,
    pub(super) lists: Vec<Binding>,
    pub(super) parameters: Parameters,
    pub(super) limits: Limits,
    pub(super) triggers: Option<Triggers>,
    pub(super) connections: Connections,
    pub(super) max_macs: Option<(u32, Place)>,
    pub(super) access: Access,
}

/// What some of the ready-made lists ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Parameters {
    /// `gateway_mac`; empty where nothing is said.
    pub(super) gateways: Vec<Mac>,
    /// `dhcp_servers`; empty where nothing is said.
    pub(super) dhcp_servers: Vec<std::net::IpAddr>,
}

/// Who may open a socket; `None` where nothing is said.
#[derive(Debug, Clone, Default)]
pub(super) struct Access {
    mode: Option<u32>,
    pub(super) owner: Option<(String, Place)>,
    pub(super) group: Option<(String, Place)>,
}

impl Shared {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let number = |read: Option<(u32, Place)>| read.map(|(number, _)| narrow(number));
        Self {
            mode: reader.choice("mode", &MODES),
            vlan: read_vlan(reader),
            queues: number(reader.number("queues", 1..=u32::from(MAX_QUEUES))),
            mtu: number(reader.number("mtu", u32::from(MIN_MTU)..=u32::from(MAX_MTU))),
            security: Security::read(reader),
            lists: read_lists(reader),
            parameters: Parameters::read(reader),
            limits: Limits::read(reader),
            triggers: Triggers::read(reader),
            connections: Connections::read(reader, "connections"),
            max_macs: reader.number("max_macs", 1..=super::MAX_FDB),
            access: Access::read(reader),
        }
    }

    /// What `below` says where this says nothing; its lists come after ours.
    pub(super) fn or(mut self, below: &Self) -> Self {
        for list in &below.lists {
            if !self.lists.iter().any(|(name, _)| *name == list.0) {
                self.lists.push(list.clone());
            }
        }
        Self {
            mode: self.mode.or(below.mode),
            vlan: self.vlan.or_else(|| below.vlan.clone()),
            queues: self.queues.or(below.queues),
            mtu: self.mtu.or(below.mtu),
            security: self.security.or(&below.security),
            lists: self.lists,
            parameters: self.parameters.or(&below.parameters),
            limits: self.limits.or(&below.limits),
            triggers: self.triggers.or_else(|| below.triggers.clone()),
            connections: self.connections.or(&below.connections),
            max_macs: self.max_macs.or_else(|| below.max_macs.clone()),
            access: self.access.or(&below.access),
        }
    }
}

impl Parameters {
    fn read(reader: &mut Reader<'_>) -> Self {
        let remedy = "give the gateway's MAC address, such as 52:54:00:12:34:56";
        let mut gateways = Vec::new();
        for item in reader
            .filled_list("gateway_mac")
            .map_or(Vec::new(), |(items, _)| items)
        {
            let Some((text, place)) = reader.text_of("gateway_mac", item, remedy) else {
                continue;
            };
            match super::security::parse_mac(&text) {
                Ok(mac) => gateways.push(mac),
                Err(why) => reader.fault(place, "gateway_mac", format!("{text:?} {why}"), remedy),
            }
        }
        let remedy = "give the addresses of the DHCP servers, such as [\"10.0.0.1\"]";
        let mut dhcp_servers = Vec::new();
        for item in reader
            .filled_list("dhcp_servers")
            .map_or(Vec::new(), |(items, _)| items)
        {
            let Some((text, place)) = reader.text_of("dhcp_servers", item, remedy) else {
                continue;
            };
            match text.parse() {
                Ok(address) => dhcp_servers.push(address),
                Err(_) => {
                    let problem = format!("{text:?} is not an IP address");
                    reader.fault(place, "dhcp_servers", problem, remedy);
                }
            }
        }
        Self {
            gateways,
            dhcp_servers,
        }
    }

    fn or(self, below: &Self) -> Self {
        fn first<T: Clone>(ours: Vec<T>, below: &[T]) -> Vec<T> {
            if ours.is_empty() {
                below.to_vec()
            } else {
                ours
            }
        }
        Self {
            gateways: first(self.gateways, &below.gateways),
            dhcp_servers: first(self.dhcp_servers, &below.dhcp_servers),
        }
    }
}

impl Access {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let mode = reader
            .text("socket_mode", ACCESS_RULE)
            .and_then(|(text, place)| {
                let digits = text.strip_prefix("0o").unwrap_or(&text);
                let is_octal = (3..=4).contains(&digits.len())
                    && digits.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
                let mode = u32::from_str_radix(digits, 8)
                    .ok()
                    .filter(|mode| *mode <= 0o777);
                let mode = mode.filter(|_| is_octal);
                match mode {
                    None => {
                        let problem = format!("{text:?} is no mode of a file");
                        reader.fault(place, "socket_mode", problem, ACCESS_RULE);
                    }
                    Some(mode) if mode & 0o600 != 0o600 => {
                        let problem = format!("{text:?} locks the owner out");
                        reader.fault(
                            place,
                            "socket_mode",
                            problem,
                            "let the owner read and write: 06..",
                        );
                    }
                    // Whoever may connect is the port's front-end: it says what the guest's memory is.
                    Some(mode) if mode & 0o007 != 0 => {
                        let problem =
                            format!("{text:?} lets every user of this machine take the port");
                        let remedy = "end it in 0, and name the VMM's group with socket_group";
                        reader.fault(place, "socket_mode", problem, remedy);
                    }
                    Some(_) => {}
                }
                mode
            });
        let mut name = |key| {
            let (name, place) = reader.text(key, OWNER_RULE)?;
            let is_name = name.len() <= 256 && !name.contains(['\0', ':', '\n', '/', ' ']);
            if !is_name {
                let problem = format!("{name:?} is not a name");
                reader.fault(place.clone(), key, problem, OWNER_RULE);
            }
            Some((name, place))
        };
        Self {
            mode,
            owner: name("socket_owner"),
            group: name("socket_group"),
        }
    }

    pub(super) fn or(self, below: &Self) -> Self {
        Self {
            mode: self.mode.or(below.mode),
            owner: self.owner.or_else(|| below.owner.clone()),
            group: self.group.or_else(|| below.group.clone()),
        }
    }

    pub(super) fn spec(&self) -> socket::Access {
        let default = socket::Access::default();
        socket::Access {
            mode: self.mode.unwrap_or(default.mode),
            owner: self.owner.as_ref().map(|(name, _)| name.clone()),
            group: self.group.as_ref().map(|(name, _)| name.clone()),
        }
    }
}

fn read_lists(reader: &mut Reader<'_>) -> Vec<Binding> {
    let Some((items, place)) = reader.filled_list("acl") else {
        return Vec::new();
    };
    if items.len() > MAX_LISTS {
        let problem = format!("binds {} lists", items.len());
        reader.fault(
            place,
            "acl",
            problem,
            "bind 32 at most, and write longer ones",
        );
        return Vec::new();
    }
    let mut lists: Vec<Binding> = Vec::new();
    for item in items {
        let Some((name, place)) = reader.text_of("acl", item, LIST_RULE) else {
            continue;
        };
        if !valid_name(&name) {
            reader.fault(place, "acl", format!("{name:?} is not a name"), NAME_RULE);
        } else if lists.iter().any(|(other, _)| *other == name) {
            reader.fault(
                place,
                "acl",
                format!("{name:?} stands there twice"),
                "name it once",
            );
        } else {
            lists.push((name, place));
        }
    }
    lists
}

fn read_vlan(reader: &mut Reader<'_>) -> Option<VlanMembership> {
    let access = reader.number("vlan", 1..=u32::from(MAX_VLAN));
    let trunk = reader.list("trunk");
    let native = reader.number("native", 1..=u32::from(MAX_VLAN));
    let vid = |(number, _): (u32, Place)| Vid::new(narrow(number)).unwrap_or(Vid::DEFAULT);
    let Some((items, place)) = trunk else {
        if let Some((_, place)) = native {
            let problem = "is for trunk ports".to_owned();
            let remedy = "add trunk = [...], or write vlan instead";
            reader.fault(place, "native", problem, remedy);
        }
        return access.map(vid).map(VlanMembership::Access);
    };
    if access.is_some() {
        let problem = "stands beside vlan".to_owned();
        let remedy = "vlan is for access ports and trunk for trunk ports: keep one";
        reader.fault(place.clone(), "trunk", problem, remedy);
    }
    if items.is_empty() {
        let remedy = "name segments, such as trunk = [10, \"20-29\"], or trunk = \"all\"";
        reader.fault(place, "trunk", "allows no segment".to_owned(), remedy);
    }
    let mut allowed = VidSet::empty();
    for item in items {
        let range = if item.is_word("all") {
            Some(1..=MAX_VLAN)
        } else {
            reader.range_of("trunk", item, 1..=MAX_VLAN)
        };
        for vid in range.into_iter().flatten().filter_map(Vid::new) {
            allowed.insert(vid);
        }
    }
    let native = native.map(vid);
    Some(VlanMembership::Trunk { allowed, native })
}
