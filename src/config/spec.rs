//! The validated model: what the rest of the house is built from.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::packet::{self, PacketError, Station};
use super::{Fault, Place};
use crate::counters::{DropReason, PortId, PortSet};
use crate::datapath::PollMode;
use crate::fabric::{FdbLimits, Mode, VlanMembership};
use crate::frame::{Mac, Vid};
use crate::policy::rule::{Action, Rule, Who};
use crate::policy::spec::{
    ConnectionQuota, GuardSpec, IpSpec, LimitSpec, MacSpec, PolicySpec, PortPolicy, TrackingSpec,
};
use crate::port::endpoint::Endpoint;
use crate::port::socket::Access;

/// Queue pairs of one port.
pub const MAX_QUEUES: u16 = 8;
/// Characters of a name (switch, port, group).
pub const MAX_NAME: usize = 32;
/// Bytes of a socket path: `sun_path` holds 108 with the closing NUL (unix(7)).
pub const MAX_SOCKET_PATH: usize = 107;
/// The smallest MTU a guest may be told (VIRTIO 1.2, 5.1.4.1).
pub const MIN_MTU: u16 = 68;
/// The largest MTU a guest may be told (VIRTIO 1.2, 5.1.4.1).
pub const MAX_MTU: u16 = 65535;

/// One switch, complete and consistent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwitchSpec {
    /// `[A-Za-z0-9_.-]`, at most [`MAX_NAME`].
    pub name: String,
    /// Where the control socket is to be.
    pub control: PathBuf,
    /// Where that was said.
    pub control_origin: Place,
    /// Whether the path of the control socket is the default, whose directory is made when it is missing.
    pub control_is_default: bool,
    /// Worker threads, from 1.
    pub workers: u16,
    /// One CPU for each worker, or none at all.
    pub cpus: Vec<u16>,
    /// Where they come from.
    pub cpus_origin: Place,
    /// When a worker without work sleeps.
    pub poll: PollMode,
    /// How long a worker goes on looking after the last frame, in microseconds, before it sleeps.
    pub spin_us: u32,
    /// The forwarding table.
    pub fdb: FdbLimits,
    /// Whether ports without a list carry nothing but addressing (`default = "deny"`).
    pub default_deny: bool,
    /// Bounds of connection tracking.
    pub tracking: TrackingSpec,
    /// 1 to [`MAX_PORTS`](crate::counters::MAX_PORTS), in the order they were written.
    pub ports: Vec<PortSpec>,
    /// Every `[acl.NAME]`, bound to a port or not: a port may be put behind one that is not its own.
    pub lists: BTreeMap<String, RuleList>,
    /// What must be true of the policy: to be judged at every load, which is refused when one fails.
    pub asserts: Vec<Assert>,
    /// What is allowed and may not be what was meant, for people.
    pub notes: Vec<Fault>,
}

/// One expectation of `[[assert]]`, for one pair of ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assert {
    /// The sender, by its place in [`SwitchSpec::ports`].
    pub from: PortId,
    /// The receiver, likewise.
    pub to: PortId,
    /// The packet as it was written.
    pub packet: String,
    /// The packet as a frame, whole, as the sender's guest would send it first: there is no connection yet.
    pub frame: Vec<u8>,
    /// What is to become of it; [`Action::Deny`] stands for every drop without an answer.
    pub expect: Action,
    /// Where it was written.
    pub origin: Place,
}

/// One port: what `[port.NAME]` and `--port NAME=...` both say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSpec {
    /// `[A-Za-z0-9_.-]`, at most [`MAX_NAME`], unique in the switch.
    pub name: String,
    /// Which side of the socket we are.
    pub endpoint: Endpoint,
    /// Whom it reaches.
    pub mode: Mode,
    /// Towards the outside: reaches every port, whatever the modes.
    pub uplink: bool,
    /// For isolated ports: those that share a group reach each other.
    pub groups: Vec<String>,
    /// The guest's own addresses: static entries of the forwarding table.
    pub macs: Vec<Mac>,
    /// Segments.
    pub vlan: VlanMembership,
    /// Queue pairs, 1 to [`MAX_QUEUES`].
    pub queues: u16,
    /// What the guest is told (VIRTIO_NET_F_MTU); not offered when absent.
    pub mtu: Option<u16>,
    /// Port security, with every exception that was made; see [`PortSpec::switched_off`].
    pub guard: GuardSpec,
    /// The names of the lists that are bound to it, in the order in which they are heard.
    pub lists: Vec<String>,
    /// What it may send: their rules, one after the other. Ports of a rule are told by their place in
    /// [`SwitchSpec::ports`]. `None`: no list.
    pub outbound: Option<Arc<[Rule]>>,
    /// What it may receive, likewise.
    pub inbound: Option<Arc<[Rule]>>,
    /// Limits of what it sends and receives.
    pub limits: LimitSpec,
    /// What puts it in quarantine by itself.
    pub triggers: TriggerSpec,
    /// Bounds of its connections.
    pub quota: ConnectionQuota,
    /// The most source addresses that are learned from it; `None`: as the forwarding table has it.
    pub max_macs: Option<u32>,
    /// Who may open its socket.
    pub access: Access,
    /// Where that owner was named, if one was.
    pub owner_origin: Option<Place>,
    /// Where that group was named, if one was.
    pub group_origin: Option<Place>,
    /// Where its MAC addresses were named, if they were.
    pub mac_origin: Option<Place>,
    /// Where its IP addresses were named, if they were.
    pub ip_origin: Option<Place>,
    /// Where the socket was named.
    pub origin: Place,
}

/// What puts a port in quarantine by itself, and whom it may reach then.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TriggerSpec {
    /// So many frames of the port dropped for a reason.
    pub drops: Vec<(DropReason, Threshold)>,
    /// About so many different ends (addresses with their ports) that lists refused it.
    pub scan: Option<Threshold>,
    /// The list that it is behind then.
    pub allow: Option<String>,
    /// Ports and groups, as [`Helper`](super::Helper) reads them, that it may still talk to then; empty beside a list.
    pub helpers: Vec<String>,
}

impl TriggerSpec {
    /// Whether there is anything that would put the port aside.
    #[must_use]
    pub fn is_any(&self) -> bool {
        !self.drops.is_empty() || self.scan.is_some()
    }
}

/// So many within so long: counted in spans of that length that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Threshold {
    /// This many are too many.
    pub count: u32,
    /// Seconds.
    pub seconds: u32,
}

/// A list of rules: ports are told by their place in [`SwitchSpec::ports`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleList {
    /// What may be sent; empty where the list does not say.
    pub outbound: Arc<[Rule]>,
    /// What may be received, likewise.
    pub inbound: Arc<[Rule]>,
}

impl PortSpec {
    /// Whether we connect to the front-end; else it connects to us.
    #[must_use]
    pub fn is_connecting(&self) -> bool {
        matches!(self.endpoint, Endpoint::Connect(_))
    }

    /// What of port security does not hold here, in the configuration's words. Empty for a guest of which nothing was said.
    #[must_use]
    pub fn switched_off(&self) -> Vec<&'static str> {
        let may = self.guard.may;
        let exceptions = [
            (self.guard.mac == MacSpec::Any, "spoofing"),
            (may.dhcp_server, "dhcp_server"),
            (may.router, "router"),
            (may.link_protocols, "link_protocols"),
        ];
        let said = exceptions.into_iter().filter(|(is_off, _)| *is_off);
        said.map(|(_, name)| name).collect()
    }
}

impl SwitchSpec {
    /// The packet that `text` describes, as a frame of the guest at `from`, to the guest at `to` if one is named: see
    /// [`packet`].
    ///
    /// # Errors
    /// The text is no packet, or leaves out what the ports do not declare.
    pub fn packet(
        &self,
        text: &str,
        from: PortId,
        to: Option<PortId>,
    ) -> Result<Vec<u8>, PacketError> {
        let station = |place: PortId| Some(Station::of(self.ports.get(place.index())?, place));
        packet::build(text, station(from).as_ref(), to.and_then(station).as_ref())
    }

    /// The port that declares the IP address which a packet in words goes to, if one alone does.
    #[must_use]
    pub fn receiver(&self, text: &str) -> Option<PortId> {
        let address = packet::receiver(text)?;
        let declares = |port: &PortSpec| match &port.guard.ip {
            IpSpec::Declared(prefixes) => prefixes.iter().any(|prefix| prefix.contains(&address)),
            IpSpec::Any | IpSpec::Dhcp => false,
        };
        let ids = (0..).map_while(PortId::new);
        let mut found = self
            .ports
            .iter()
            .zip(ids)
            .filter(|(port, _)| declares(port));
        let (_, id) = found.next()?;
        found.next().is_none().then_some(id)
    }

    /// The policy: that of the first port is `ports[0]`, as if the ports had the ids 0, 1, 2, ...
    #[must_use]
    pub fn policy(&self) -> PolicySpec {
        let ids: Vec<PortId> = (0..)
            .map_while(PortId::new)
            .take(self.ports.len())
            .collect();
        self.policy_for(&ids)
    }

    /// The policy where port `n` of this model has the id `ids[n]`. An id in between that no port has has no policy, nor has
    /// a port without an id.
    #[must_use]
    pub fn policy_for(&self, ids: &[PortId]) -> PolicySpec {
        self.policy_behind(ids, &BTreeMap::new())
    }

    /// The same with some ports, by their names, behind the list of that name and no other, whatever is bound to them. A list that
    /// there is not allows nothing.
    #[must_use]
    pub fn policy_behind(&self, ids: &[PortId], behind: &BTreeMap<String, String>) -> PolicySpec {
        let room = ids.iter().map(|id| id.index() + 1).max().unwrap_or(0);
        let mut ports = vec![None; room];
        let mut moved = Moved::new(ids);
        for (port, id) in self.ports.iter().zip(ids) {
            if let Some(place) = ports.get_mut(id.index()) {
                let none: Arc<[Rule]> = Arc::from([]);
                let list = behind.get(&port.name).map(|name| self.lists.get(name));
                let [outbound, inbound] = match &list {
                    None => [port.outbound.as_ref(), port.inbound.as_ref()],
                    Some(Some(list)) => [Some(&list.outbound), Some(&list.inbound)],
                    Some(None) => [Some(&none), Some(&none)],
                };
                let resting = match &list {
                    None => [None, None],
                    Some(_) => [port.outbound.as_ref(), port.inbound.as_ref()],
                };
                *place = Some(PortPolicy {
                    guard: port.guard.clone(),
                    outbound: outbound.map(|rules| moved.list(rules)),
                    inbound: inbound.map(|rules| moved.list(rules)),
                    resting: resting.map(|rules| Some(moved.list(rules?))),
                    limits: port.limits,
                    quota: Some(port.quota),
                    untagged: untagged(&port.vlan),
                });
            }
        }
        PolicySpec {
            ports,
            default_deny: self.default_deny,
            tracking: self.tracking.clone(),
        }
    }
}

/// The segment of frames without a tag.
fn untagged(vlan: &VlanMembership) -> Option<Vid> {
    match vlan {
        VlanMembership::Access(vid) => Some(*vid),
        VlanMembership::Trunk { native, .. } => *native,
    }
}

/// Lists whose ports are told by their ids; what several ports share stays shared.
struct Moved<'i> {
    ids: &'i [PortId],
    is_same: bool,
    done: Vec<(Shared, Shared)>,
}

/// A list that several ports may share.
type Shared = Arc<[Rule]>;

impl<'i> Moved<'i> {
    fn new(ids: &'i [PortId]) -> Self {
        Self {
            ids,
            is_same: ids
                .iter()
                .enumerate()
                .all(|(place, id)| id.index() == place),
            done: Vec::new(),
        }
    }

    fn list(&mut self, rules: &Arc<[Rule]>) -> Arc<[Rule]> {
        if self.is_same {
            return Arc::clone(rules);
        }
        let found = self.done.iter().find(|(from, _)| Arc::ptr_eq(from, rules));
        if let Some((_, to)) = found {
            return Arc::clone(to);
        }
        let to: Arc<[Rule]> = rules.iter().map(|rule| self.rule(rule)).collect();
        self.done.push((Arc::clone(rules), Arc::clone(&to)));
        to
    }

    fn rule(&self, rule: &Rule) -> Rule {
        let who = |who: &Who| match who {
            Who::Ports(places) => Who::Ports(self.ports(places)),
            other => *other,
        };
        Rule {
            from: rule.from.iter().map(who).collect(),
            to: rule.to.iter().map(who).collect(),
            ..rule.clone()
        }
    }

    fn ports(&self, places: &PortSet) -> PortSet {
        let ids = places
            .iter()
            .filter_map(|place| self.ids.get(place.index()));
        ids.copied().collect()
    }
}
