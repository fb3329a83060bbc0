//! `[port.NAME]`, `[group.NAME]` and `[defaults]`: what each says, and what comes of it together.

use std::collections::HashMap;

use super::lists::Lists;
use super::raw::{Named, Section};
use super::reader::Reader;
use super::security::{MAC_RULE, parse_mac};
use super::shared::Shared;
use super::spec::PortSpec;
use super::triggers::Triggers;
use super::who::Names;
use super::{Fault, NAME_RULE, Place, socket_path, valid_name};
use crate::fabric::{FdbLimits, Mode};
use crate::frame::Mac;
use crate::policy::spec::ConnectionQuota;
use crate::port::endpoint::Endpoint;

const MAX_GROUPS: usize = 64;
const SOCKET_RULE: &str = "name the Unix socket, such as socket = \"/run/portcullis/web.sock\"";

/// A port as its own section says it.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) name: String,
    pub(super) place: Place,
    /// None when it was refused.
    endpoint: Option<(Endpoint, Place)>,
    pub(super) uplink: bool,
    pub(super) groups: Vec<String>,
    macs: Vec<Mac>,
    mac_place: Option<Place>,
    own: Shared,
}

/// What stands under the ports.
#[derive(Debug)]
pub(super) struct Under {
    /// `[switch] mode`.
    pub(super) mode: Mode,
    /// What `[switch]` says for every port.
    pub(super) switch: Shared,
    /// `[defaults]`.
    pub(super) defaults: Shared,
    /// `[group.NAME]`.
    pub(super) groups: HashMap<String, Shared>,
    /// `[conntrack]`.
    pub(super) quota: ConnectionQuota,
    /// `[fdb] per_port`.
    pub(super) macs_per_port: u32,
}

impl Draft {
    pub(super) fn read(
        name: String,
        section: Section,
        fdb: &FdbLimits,
        faults: &mut Vec<Fault>,
    ) -> Self {
        let mut reader = Reader::new(section, faults);
        let place = reader.place();
        refuse_bad_name(&mut reader, &name);
        let had_socket = reader.has("socket");
        let socket = reader.text("socket", SOCKET_RULE);
        let socket = socket.and_then(|(path, place)| {
            let path = socket_path(&mut reader, "socket", path, &place)?;
            Some((path, place))
        });
        if !had_socket {
            reader.fault(
                place.clone(),
                "socket",
                "is missing".to_owned(),
                SOCKET_RULE,
            );
        }
        let connect = reader.boolean("connect").unwrap_or(false);
        let uplink = reader.boolean("uplink").unwrap_or(false);
        let groups = read_groups(&mut reader);
        let mac_place = reader.place_of("mac");
        let macs = read_macs(&mut reader, fdb);
        let own = Shared::read(&mut reader);
        reader.finish();
        Self {
            name,
            place,
            endpoint: socket.map(|(path, place)| {
                let endpoint = if connect {
                    Endpoint::Connect(path)
                } else {
                    Endpoint::Listen(path)
                };
                (endpoint, place)
            }),
            uplink,
            groups,
            macs,
            mac_place,
            own,
        }
    }

    /// The port, with everything that its groups and the defaults say.
    pub(super) fn resolve(
        self,
        under: &Under,
        names: &Names,
        lists: &mut Lists,
        faults: &mut Vec<Fault>,
    ) -> Option<PortSpec> {
        let mut shared = self.own;
        for group in self.groups.iter().filter_map(|name| under.groups.get(name)) {
            shared = shared.or(group);
        }
        if !self.uplink {
            shared = shared.or(&under.defaults);
        }
        shared = shared.or(&under.switch);
        let bound = lists.bind(&self.name, &self.place, self.uplink, &mut shared, faults);
        let connections = shared.connections;
        check_cap(&self.name, shared.max_macs.as_ref(), under, faults);
        if let Some(triggers) = &shared.triggers {
            triggers.check(&self.name, names, lists, faults);
        }
        let (endpoint, origin) = self.endpoint?;
        Some(PortSpec {
            guard: shared.security.guard(&self.macs, self.uplink),
            name: self.name,
            endpoint,
            mode: shared.mode.unwrap_or(under.mode),
            uplink: self.uplink,
            groups: self.groups,
            macs: self.macs,
            vlan: shared.vlan.unwrap_or_default(),
            queues: shared.queues.unwrap_or(1),
            mtu: shared.mtu,
            lists: shared.lists.into_iter().map(|(name, _)| name).collect(),
            outbound: bound.outbound,
            inbound: bound.inbound,
            limits: shared.limits.spec(self.uplink),
            triggers: shared.triggers.map(Triggers::spec).unwrap_or_default(),
            quota: connections.quota(&under.quota),
            max_macs: shared.max_macs.map(|(most, _)| most),
            access: shared.access.spec(),
            owner_origin: shared.access.owner.map(|(_, place)| place),
            group_origin: shared.access.group.map(|(_, place)| place),
            mac_origin: self.mac_place,
            ip_origin: shared.security.ip.map(|(_, place)| place),
            origin,
        })
    }
}

/// No port may learn more addresses than the forwarding table lets any of them.
fn check_cap(port: &str, said: Option<&(u32, Place)>, under: &Under, faults: &mut Vec<Fault>) {
    let bound = under.macs_per_port;
    let Some((most, place)) = said.filter(|(most, _)| *most > bound) else {
        return;
    };
    faults.push(Fault {
        place: place.clone(),
        subject: format!("port {port:?}: max_macs"),
        problem: format!("{most} addresses, and [fdb] per_port is {bound}"),
        remedy: "raise per_port or choose fewer".to_owned(),
    });
}

/// `[defaults]`.
pub(super) fn read_defaults(section: Section, faults: &mut Vec<Fault>) -> Shared {
    let mut reader = Reader::new(section, faults);
    let shared = Shared::read(&mut reader);
    reader.finish();
    shared
}

/// `[group.NAME]`, each.
pub(super) fn read_group_sections(
    sections: Named,
    faults: &mut Vec<Fault>,
) -> HashMap<String, Shared> {
    let read = sections.into_iter().map(|(name, section)| {
        let mut reader = Reader::new(section, faults);
        refuse_bad_name(&mut reader, &name);
        let shared = Shared::read(&mut reader);
        reader.finish();
        (name, shared)
    });
    read.collect()
}

/// Refuses what is no name of a section.
pub(super) fn refuse_bad_name(reader: &mut Reader<'_>, name: &str) {
    if !valid_name(name) {
        let place = reader.place();
        reader.fault(place, "", format!("{name:?} is not a name"), NAME_RULE);
    }
}

fn read_groups(reader: &mut Reader<'_>) -> Vec<String> {
    let mut groups: Vec<String> = Vec::new();
    let Some((items, place)) = reader.list("groups") else {
        return groups;
    };
    for item in items {
        let Some((name, place)) = reader.text_of("groups", item, NAME_RULE) else {
            continue;
        };
        if !valid_name(&name) {
            reader.fault(
                place,
                "groups",
                format!("{name:?} is not a name"),
                NAME_RULE,
            );
        } else if !groups.contains(&name) {
            groups.push(name);
        }
    }
    if groups.len() > MAX_GROUPS {
        let problem = format!("names {} groups", groups.len());
        reader.fault(place, "groups", problem, "a port may be in 64 at most");
    }
    groups
}

fn read_macs(reader: &mut Reader<'_>, fdb: &FdbLimits) -> Vec<Mac> {
    let mut macs = Vec::new();
    let Some((items, place)) = reader.filled_list("mac") else {
        return macs;
    };
    for item in items {
        let Some((text, place)) = reader.text_of("mac", item, MAC_RULE) else {
            continue;
        };
        match parse_mac(&text) {
            Ok(mac) if macs.contains(&mac) => {
                reader.fault(
                    place,
                    "mac",
                    format!("{mac} stands there twice"),
                    "name it once",
                );
            }
            Ok(mac) => macs.push(mac),
            Err(why) => reader.fault(place, "mac", format!("{text:?} {why}"), MAC_RULE),
        }
    }
    if macs.len() > fdb.per_port as usize {
        let problem = format!(
            "{} addresses, and [fdb] per_port is {}",
            macs.len(),
            fdb.per_port
        );
        reader.fault(place, "mac", problem, "raise per_port or name fewer");
    }
    macs
}
