//! Policies for the guests of [`double`](super::double).

use std::sync::Arc;

use portcullis::frame::{Mac, Vid};
use portcullis::policy::rule::{Action, Kind, Rule, Who};
use portcullis::policy::spec::{GuardSpec, IpSpec, MacSpec, PolicySpec, PortPolicy, TrackingSpec};
use portcullis::policy::{Policy, State};

use super::double::{ip, mac};

/// So many rules as lists look: other stations' addresses and services, and the one that matches at the end.
pub(crate) fn rules(count: u32) -> Arc<[Rule]> {
    let udp = Kind::Ip {
        family: None,
        protocol: Some(17),
    };
    let others = (1..count).map(|n| {
        let address = format!("172.16.{}.{}/32", n / 250, n % 250);
        let port = 5_000 + (n % 1_000) as u16;
        Rule {
            kind: udp,
            to: vec![Who::Prefix(address.parse().unwrap())],
            port: vec![port..=port],
            ..Rule::any(Action::Allow)
        }
    });
    let last = Rule {
        kind: udp,
        to: vec![Who::Prefix("10.0.0.0/8".parse().unwrap())],
        ..Rule::any(Action::Allow)
    };
    others.chain([last]).collect()
}

/// Port security for ports that speak UDP, and these rules for what they send and what they receive, with room for so many connections.
pub(crate) fn policy(
    ports: u16,
    rules: Option<Arc<[Rule]>>,
    flows: u32,
    epoch: u64,
    state: Arc<State>,
) -> Policy {
    let ports = (0..ports).map(|index| {
        let address = std::net::Ipv4Addr::from(ip(index));
        Some(PortPolicy {
            guard: GuardSpec {
                mac: MacSpec::Declared(vec![Mac::new(mac(index))]),
                ip: IpSpec::Declared(vec![format!("{address}/32").parse().unwrap()]),
                ..GuardSpec::default()
            },
            outbound: rules.clone(),
            inbound: rules.clone(),
            untagged: Some(Vid::DEFAULT),
            ..PortPolicy::default()
        })
    });
    let spec = PolicySpec {
        ports: ports.collect(),
        tracking: TrackingSpec {
            per_port: flows.max(65_536),
            half_open_per_port: flows.max(8_192),
            ..TrackingSpec::default()
        },
        ..PolicySpec::default()
    };
    let policy = Policy::compile(epoch, &spec, state).unwrap();
    policy.make_room(&spec.tracking);
    policy
}
