//! What a policy is made of: the validated configuration, with names resolved to ids.

use std::sync::Arc;

use ipnet::IpNet;

use super::rule::Rule;
use crate::counters::PortId;
use crate::frame::{Mac, Vid};

/// A whole policy, before it is compiled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicySpec {
    /// The policy of port `n` is `ports[n]`; a port without one passes nothing.
    pub ports: Vec<Option<PortPolicy>>,
    /// Whether ports without a list carry nothing but addressing (`default = "deny"`).
    pub default_deny: bool,
    /// Bounds of connection tracking.
    pub tracking: TrackingSpec,
}

impl PolicySpec {
    /// No policy at all: these ports may do what they like.
    pub fn open(ports: impl IntoIterator<Item = PortId>) -> Self {
        let mut spec = Self::default();
        for port in ports {
            if spec.ports.len() <= port.index() {
                spec.ports.resize(port.index().saturating_add(1), None); // below MAX_PORTS
            }
            if let Some(place) = spec.ports.get_mut(port.index()) {
                *place = Some(PortPolicy {
                    guard: GuardSpec::open(),
                    untagged: Some(Vid::DEFAULT),
                    ..PortPolicy::default()
                });
            }
        }
        spec
    }
}

/// What one port may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortPolicy {
    /// Port security.
    pub guard: GuardSpec,
    /// What the guest may send: rules in order. `None`: no list.
    pub outbound: Option<Arc<[Rule]>>,
    /// What the guest may receive. `None`: no list.
    pub inbound: Option<Arc<[Rule]>>,
    /// Its own lists, outbound and inbound, while it stands behind others: they judge nothing, and keep their hits.
    pub resting: [Option<Arc<[Rule]>>; 2],
    /// Limits of what it sends and receives.
    pub limits: LimitSpec,
    /// Bounds of its connections, where they are not those of the whole policy.
    pub quota: Option<ConnectionQuota>,
    /// The VLAN of its frames without a tag, if they are taken.
    pub untagged: Option<Vid>,
}

/// Which source MACs a port may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum MacSpec {
    /// The first that is heard, until the guest disconnects.
    #[default]
    Sticky,
    /// These; never empty.
    Declared(Vec<Mac>),
    /// Any that no other port has (`spoofing = "allow"`, uplinks).
    Any,
}

/// Which source IP addresses a port may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum IpSpec {
    /// Any: MAC rules only.
    #[default]
    Any,
    /// These prefixes, and the link-local address of the port's MAC unless `link_local` declares others.
    Declared(Vec<IpNet>),
    /// Those of leases seen from a DHCP server, and the link-local address of the port's MAC.
    Dhcp,
}

/// What a port may be besides a plain guest. All false for a guest, all true for an uplink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct May {
    /// Send as a DHCP or DHCPv6 server; leases are believed from here.
    pub dhcp_server: bool,
    /// Send router advertisements and redirects.
    pub router: bool,
    /// Send link protocols: LLDP, EAPOL, ... Frames to reserved group addresses are not forwarded all the same.
    pub link_protocols: bool,
}

/// Port security of one port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuardSpec {
    /// Source MACs.
    pub mac: MacSpec,
    /// Source IPs.
    pub ip: IpSpec,
    /// Exceptions.
    pub may: May,
    /// Leases that the port may have at once.
    pub max_leases: u16,
    /// ARP and neighbour discovery packets a second; 0: no limit.
    pub addressing_per_second: u32,
}

impl GuardSpec {
    /// Whether it has nothing to refuse.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let May {
            dhcp_server,
            router,
            link_protocols,
        } = self.may;
        self.mac == MacSpec::Any
            && self.ip == IpSpec::Any
            && dhcp_server
            && router
            && link_protocols
    }

    /// One that has nothing to refuse: an uplink's, and that of a port with `spoofing = "allow"` that may be everything.
    pub fn open() -> Self {
        Self {
            mac: MacSpec::Any,
            ip: IpSpec::Any,
            may: May {
                dhcp_server: true,
                router: true,
                link_protocols: true,
            },
            ..Self::default()
        }
    }
}

/// A token bucket. Zero is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// Tokens a second: bits or frames.
    pub per_second: u64,
    /// Tokens that may be saved up.
    pub burst: u64,
}

/// Limits of one port. GSO frames count as the frames that they stand for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitSpec {
    /// What it sends, in bits.
    pub send_bits: Rate,
    /// What it sends, in frames.
    pub send_frames: Rate,
    /// What it is sent, in bits.
    pub receive_bits: Rate,
    /// What it is sent, in frames.
    pub receive_frames: Rate,
    /// Broadcast frames that it sends.
    pub broadcast: Rate,
    /// Multicast frames that it sends.
    pub multicast: Rate,
    /// Frames to unknown destinations that it sends.
    pub unknown: Rate,
    /// Packets of IGMP and MLD that it sends, where port security is not off.
    pub membership: Rate,
    /// Multicast groups that it sends to in a minute; 0: no limit.
    pub groups: u32,
}

/// Bounds of the connections of one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionQuota {
    /// Connections that it may have opened at once.
    pub connections: u32,
    /// Of these, such as were not yet answered.
    pub half_open: u32,
    /// New ones a second, and how many may come at once; 0: no limit.
    pub new_per_second: Rate,
}

/// Bounds of connection tracking. The limits are each port's own: no port can take from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackingSpec {
    /// Connections that one port may have opened at once.
    pub per_port: u32,
    /// Of these, such as were not yet answered.
    pub half_open_per_port: u32,
    /// New connections of a port a second, and how many may come at once; 0: no limit.
    pub new_per_second: Rate,
    /// Whether a TCP packet without SYN may open a connection where a rule allows it: connections go on after a restart.
    pub loose: bool,
    /// Seconds.
    pub timeouts: Timeouts,
}

/// How long a connection is kept without a packet, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP before the handshake is complete.
    pub tcp_opening: u32,
    /// TCP.
    pub tcp_established: u32,
    /// TCP after a FIN or RST.
    pub tcp_closing: u32,
    /// UDP in one direction.
    pub udp_single: u32,
    /// UDP in both.
    pub udp_stream: u32,
    /// ICMP echo, and every other protocol.
    pub other: u32,
}

impl Default for TrackingSpec {
    fn default() -> Self {
        Self {
            per_port: 65_536,
            half_open_per_port: 8_192,
            new_per_second: Rate::default(),
            loose: true,
            timeouts: Timeouts::default(),
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tcp_opening: 30,
            tcp_established: 7_200,
            tcp_closing: 30,
            udp_single: 30,
            udp_stream: 180,
            other: 30,
        }
    }
}
