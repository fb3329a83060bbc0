//! The gate's side: port security, lists, limits, tracking.

use std::net::IpAddr;

use super::super::terms::{KIND_RULE, LOOKED_BEHIND};
use super::*;
use crate::counters::{PortId, PortSet};
use crate::frame::Mac;
use crate::policy::rule::{Action, Flags, Kind, Rule, Who};
use crate::policy::spec::{
    IpSpec, LimitSpec, MacSpec, May, PortPolicy, Rate, Timeouts, TrackingSpec,
};
use crate::policy::subject::{Family, State};

fn id(index: u16) -> PortId {
    PortId::new(index).unwrap()
}

/// The policy of the first port, which is called `web`; `lines` come after its socket, on line 3.
#[track_caller]
fn web(lines: &str) -> PortPolicy {
    let text = format!("[port.web]\nsocket = \"/run/web\"\n{lines}\n");
    file(&text).unwrap().policy().ports[0].clone().unwrap()
}

/// The rules of `[acl.x] outbound = [RULE]`, bound to the first of three ports: `a`, `b` (group g) and the uplink `u`.
fn rules(rule: &str) -> Result<Vec<Rule>, ConfigError> {
    let text = format!(
        "[acl.x]\noutbound = [\n{rule}\n]\n\
         [port.a]\nsocket = \"/a\"\nacl = \"x\"\n\
         [port.b]\nsocket = \"/b\"\ngroups = [\"g\"]\n\
         [port.u]\nsocket = \"/u\"\nuplink = true\n\
         [set.lan]\nmembers = [\"10.0.0.0/8\", \"fd00::/16\"]\n[set.six]\nmembers = [\"fd00::/16\"]\n"
    );
    let policy = file(&text)?.policy();
    Ok(policy.ports[0]
        .as_ref()
        .unwrap()
        .outbound
        .clone()
        .unwrap()
        .to_vec())
}

#[track_caller]
fn rule(text: &str) -> Rule {
    let rules = rules(text).unwrap();
    let [rule] = rules.as_slice() else {
        panic!("one rule");
    };
    rule.clone()
}

#[track_caller]
fn rule_refused(text: &str, expected: &str) {
    let error = rules(text).expect_err("accepted").to_string();
    let expected = format!("lan.toml:3: acl \"x\": outbound{expected}");
    assert_eq!(error, expected, "\n{text}");
}

#[test]
fn a_guest_of_which_nothing_is_said_is_guarded() {
    let policy = web("");
    assert_eq!(policy.guard.mac, MacSpec::Sticky);
    assert_eq!(policy.guard.ip, IpSpec::Any);
    assert_eq!(policy.guard.may, May::default());
    assert!(policy.guard.addressing_per_second > 0 && policy.guard.max_leases > 0);
    assert!(policy.outbound.is_none() && policy.inbound.is_none());
    // But for multicast groups, nothing is limited.
    let limits = LimitSpec {
        membership: policy.limits.membership,
        groups: policy.limits.groups,
        ..LimitSpec::default()
    };
    assert_eq!(policy.limits, limits);
    assert_eq!(policy.untagged, Vid::new(1));
    let spec = file("[port.web]\nsocket = \"/run/web\"\n").unwrap();
    assert!(spec.ports[0].switched_off().is_empty());
    assert!(!spec.policy().default_deny);
}

#[test]
fn an_uplink_is_open_unless_it_is_told_otherwise() {
    let open = web("uplink = true\nmac = \"52:54:00:00:00:01\"\nip = \"10.0.0.1\"");
    assert_eq!((open.guard.mac, open.guard.ip), (MacSpec::Any, IpSpec::Any));
    let all = May {
        dhcp_server: true,
        router: true,
        link_protocols: true,
    };
    assert_eq!((open.guard.may, open.guard.addressing_per_second), (all, 0));
    let told = web(
        "uplink = true\nspoofing = \"refuse\"\ndhcp_server = false\naddressing_rate = \"20/s\"",
    );
    assert_eq!(told.guard.mac, MacSpec::Sticky);
    assert!(!told.guard.may.dhcp_server && told.guard.may.router);
    assert_eq!(told.guard.addressing_per_second, 20);
}

#[test]
fn declared_addresses_are_kept_and_exceptions_are_shown() {
    let policy = web(
        "mac = \"52:54:00:00:00:01\"\nip = [\"10.0.0.5\", \"10.1.0.0/16\", \"fd00::5\"]\nlink_local = \"fe80::7\"\n\
         max_leases = 3",
    );
    let mac: Mac = "52:54:00:00:00:01".parse().unwrap();
    assert_eq!(policy.guard.mac, MacSpec::Declared(vec![mac]));
    let prefixes = ["10.0.0.5/32", "10.1.0.0/16", "fd00::5/128", "fe80::7/128"];
    let prefixes = prefixes.map(|prefix| prefix.parse().unwrap()).to_vec();
    assert_eq!(policy.guard.ip, IpSpec::Declared(prefixes));
    assert_eq!(policy.guard.max_leases, 3);
    assert_eq!(web("ip = \"dhcp\"").guard.ip, IpSpec::Dhcp);

    let text = "[port.web]\nsocket = \"/w\"\nspoofing = \"allow\"\nrouter = true\nmac = \"52:54:00:00:00:01\"\n";
    let spec = file(text).unwrap();
    assert_eq!(spec.ports[0].guard.mac, MacSpec::Any);
    assert_eq!(spec.ports[0].switched_off(), ["spoofing", "router"]);
}

#[test]
fn addresses_that_no_guest_owns_are_refused() {
    let rule = "give the guest's own addresses or prefixes, such as [\"10.0.0.5\", \"fd00::5\"], or \"dhcp\"";
    let cases = [
        ("224.0.0.1", "is a multicast address"),
        ("ff02::1", "is a multicast address"),
        ("127.0.0.1", "is a loopback address"),
        ("::1", "is a loopback address"),
        ("0.0.0.0", "is the unspecified address"),
        ("255.255.255.255", "is the broadcast address"),
        ("10.0.0.256", "is neither an IP address nor a prefix"),
        ("10.0.0.0/33", "is neither an IP address nor a prefix"),
        (
            "10.0.0.5/24",
            "has bits past its length; the network is 10.0.0.0/24, the address 10.0.0.5",
        ),
    ];
    for (ip, why) in cases {
        port_refused(
            &format!("ip = [\"{ip}\"]"),
            &format!("lan.toml:3: port \"web\": ip: {ip:?} {why}; {rule}"),
        );
    }
    port_refused(
        "ip = []",
        "lan.toml:3: port \"web\": ip: is an empty list; name at least one, or leave the key out",
    );
    port_refused(
        "ip = \"10.0.0.1\"\nlink_local = \"10.0.0.2\"",
        "lan.toml:4: port \"web\": link_local: 10.0.0.2/32 is no link-local address; \
         give addresses in fe80::/10, such as fe80::5054:ff:fe12:3456",
    );
    port_refused(
        "spoofing = \"allow\"\nip = \"10.0.0.1\"",
        "lan.toml:4: port \"web\": ip: stands beside spoofing = \"allow\", which lets any address be used; \
         keep one of the two",
    );
    port_refused(
        "link_local = \"fe80::1\"",
        "lan.toml:3: port \"web\": link_local: is for ports with addresses of their own in ip; \
         add ip = [...]; without it only the link-local address of the port's MAC is bound",
    );
}

#[test]
fn a_port_comes_before_its_groups_and_they_before_the_defaults() {
    let spec = file(
        r#"
        [switch]
        socket_mode = "0660"
        [defaults]
        mode = "isolated"
        acl = "clean-traffic"
        ip = "dhcp"
        limits = { send = "100Mbit/s", broadcast = "50/s" }
        socket_group = "kvm"
        [group.web]
        mtu = 9000
        acl = "base"
        limits.send = "1Gbit/s"
        socket_mode = "0600"
        [group.tenant]
        mtu = 1400
        queues = 2
        [acl.own]
        outbound = [{ deny = "udp" }]
        [acl.base]
        outbound = [{ allow = "tcp" }]
        [port.a]
        socket = "/a"
        groups = ["web", "tenant"]
        acl = "own"
        ip = "10.0.0.1"
        limits = { broadcast = "none" }
        [port.b]
        socket = "/b"
        [port.u]
        socket = "/u"
        uplink = true
        "#,
    )
    .unwrap();
    let [a, b, u] = spec.ports.as_slice() else {
        panic!("three ports");
    };
    assert_eq!((a.mode, a.mtu, a.queues), (Mode::Isolated, Some(9000), 2));
    assert_eq!(a.lists, ["own", "base", "clean-traffic"]);
    let actions: Vec<Action> = a
        .outbound
        .iter()
        .flat_map(|rules| rules.iter())
        .map(|rule| rule.action)
        .collect();
    assert_eq!(actions[..3], [Action::Deny, Action::Allow, Action::Allow]);
    assert_eq!(a.limits.send_bits.per_second, 1_000_000_000);
    assert_eq!(a.limits.broadcast, Rate::default());
    assert_eq!(
        a.guard.ip,
        IpSpec::Declared(vec!["10.0.0.1/32".parse().unwrap()])
    );
    assert_eq!(
        (a.access.mode, a.access.group.as_deref()),
        (0o600, Some("kvm"))
    );
    assert_eq!((b.access.mode, b.mtu), (0o660, None));
    assert_eq!(b.guard.ip, IpSpec::Dhcp);
    assert_eq!(b.limits.broadcast.per_second, 50);
    // Defaults are for guests; what [switch] says is for every port.
    assert_eq!(
        (u.mode, u.access.mode, u.access.group.as_deref()),
        (Mode::Bridge, 0o660, None)
    );
    assert!(u.lists.is_empty() && u.outbound.is_none());
}

#[test]
fn the_sample_of_a_policy_reads() {
    let text = r#"
[acl.web]
inbound  = [ { allow = "tcp", from = "uplink", port = [80, 443] },
             { allow = "tcp", from = "group:bastion", port = 22, name = "admin" } ]
outbound = [ { allow = "tcp", to = "group:app", port = 8080 },
             { allow = "udp", to = "port:dns", port = 53 },
             { reject = "any", log = true } ]
[port.web]
socket = "/w"
acl = "web"
[port.app1]
socket = "/a1"
groups = "app"
[port.app2]
socket = "/a2"
groups = "app"
[port.dns]
socket = "/d"
[port.out]
socket = "/o"
uplink = true
[group.bastion]
"#;
    let policy = file(text).unwrap().policy();
    let inbound = policy.ports[0].as_ref().unwrap().inbound.as_ref().unwrap();
    let tcp = Kind::Ip {
        family: None,
        protocol: Some(6),
    };
    assert_eq!(
        inbound[0],
        Rule {
            origin: "lan.toml:3".to_owned(),
            list: "web".into(),
            said: vec!["from uplink".to_owned()],
            kind: tcp,
            from: vec![Who::Ports(PortSet::from_iter([id(4)]))],
            port: vec![80..=80, 443..=443],
            ..Rule::any(Action::Allow)
        }
    );
    // A group without members is somebody that nobody is.
    assert_eq!(inbound[1].from, [Who::Ports(PortSet::EMPTY)]);
    assert_eq!(
        (inbound[1].name.as_str(), inbound[1].origin.as_str()),
        ("admin", "lan.toml:4")
    );
    let outbound = policy.ports[0].as_ref().unwrap().outbound.as_ref().unwrap();
    assert_eq!(
        outbound[0].to,
        [Who::Ports(PortSet::from_iter([id(1), id(2)]))]
    );
    assert_eq!(outbound[1].to, [Who::Ports(PortSet::from_iter([id(3)]))]);
    assert_eq!(
        outbound[2],
        Rule {
            origin: "lan.toml:7".to_owned(),
            list: "web".into(),
            log: true,
            ..Rule::any(Action::Reject)
        }
    );
    for port in &policy.ports[1..] {
        assert!(
            port.as_ref()
                .is_some_and(|port| port.outbound.is_none() && port.inbound.is_none())
        );
    }
}

#[test]
fn every_condition_has_its_meaning() {
    let found = rule(
        r#"{ allow = "tcp", from = ["10.0.0.0/8", "52:54:00:00:00:01"], to = "set:lan", source_port = "1024-65535",
             port = [80, "8000-8100"], flags = "syn/syn,ack", vlan = [1, "10-20"], state = ["new", "untracked"],
             stateless = true, fragments = true, log = true, name = "all of it" }"#,
    );
    let prefix = |text: &str| Who::Prefix(text.parse().unwrap());
    assert_eq!(
        found,
        Rule {
            name: "all of it".to_owned(),
            origin: "lan.toml:3".to_owned(),
            list: "x".into(),
            said: Vec::new(),
            action: Action::Allow,
            log: true,
            stateless: true,
            fragments: true,
            kind: Kind::Ip {
                family: None,
                protocol: Some(6)
            },
            from: vec![
                prefix("10.0.0.0/8"),
                Who::Mac("52:54:00:00:00:01".parse().unwrap())
            ],
            to: vec![prefix("10.0.0.0/8"), prefix("fd00::/16")],
            source_port: vec![1024..=65535],
            port: vec![80..=80, 8000..=8100],
            icmp: vec![],
            flags: Some(Flags {
                mask: 0x12,
                value: 0x02
            }),
            vlan: vec![1..=1, 10..=20],
            states: vec![State::Untracked, State::New],
        }
    );
    let icmp = rule(r#"{ deny = "icmpv6", icmp = ["echo-request", 1, "3/4"] }"#);
    assert_eq!(icmp.icmp, [(128, None), (1, None), (3, Some(4))]);
    assert_eq!(
        icmp.kind,
        Kind::Ip {
            family: Some(Family::V6),
            protocol: Some(58)
        }
    );
    assert_eq!(rule(r#"{ deny = "any", from = "any" }"#).from, []);
    assert_eq!(rule(r#"{ allow = "any", state = "any" }"#).states.len(), 5);
}

#[test]
fn a_rule_for_one_family_never_widens_in_the_other() {
    let families = "families do not mix: write one rule for IPv4 and one for IPv6";
    for (text, key, prefix) in [
        (
            r#"{ allow = "icmp", from = "fd00::5" }"#,
            "from",
            "fd00::5/128",
        ),
        (
            r#"{ allow = "ipv6", to = ["fd00::5", "10.0.0.1"] }"#,
            "to",
            "10.0.0.1/32",
        ),
        (
            r#"{ allow = "tcp/ipv4", from = "port:a", to = "fd00::/16" }"#,
            "to",
            "fd00::/16",
        ),
        (
            r#"{ allow = "tcp", from = ["10.0.0.1", "fd00::5"], to = "10.0.0.2" }"#,
            "from",
            "fd00::5/128",
        ),
    ] {
        rule_refused(
            text,
            &format!(": {key}: {prefix} can be in no packet that this rule is about; {families}"),
        );
    }
    let error = rules(r#"{ allow = "tcp", from = "10.0.0.1", to = "fd00::5" }"#).unwrap_err();
    assert_eq!(error.to_string().lines().count(), 2, "{error}");
    rule_refused(
        r#"{ allow = "icmp", from = "set:six" }"#,
        &format!(
            ": from: no member of the set can be in a packet that this rule is about; {families}"
        ),
    );
    rule_refused(
        r#"{ allow = "arp", to = "10.0.0.1" }"#,
        ": to: 10.0.0.1/32 can be in no packet that this rule is about; \
         only IP packets have IP addresses: name ports or MAC addresses here",
    );
    // Of a set with both, what fits is meant; a MAC address is of both.
    rule(r#"{ allow = "icmp", from = "set:lan" }"#);
    rule(r#"{ allow = "tcp", from = ["fd00::7", "52:54:00:00:00:01"], to = "fd00::5" }"#);
}

#[test]
fn conditions_that_the_protocol_does_not_have_are_refused() {
    for (text, key, is_for) in [
        (
            r#"{ allow = "ip", port = 80 }"#,
            "port",
            "tcp and udp; write one rule for tcp and one for udp, or leave the key out",
        ),
        (
            r#"{ allow = "icmp", source_port = 80 }"#,
            "source_port",
            "tcp and udp; write one rule for tcp and one for udp, or leave the key out",
        ),
        (
            r#"{ allow = "proto:132", port = 80 }"#,
            "port",
            "tcp and udp; write one rule for tcp and one for udp, or leave the key out",
        ),
        (
            r#"{ allow = "tcp", icmp = 8 }"#,
            "icmp",
            "icmp and icmpv6; write one rule for each of the two, or leave the key out",
        ),
        (
            r#"{ allow = "udp", flags = "syn" }"#,
            "flags",
            "tcp; leave it out",
        ),
        (
            r#"{ deny = "tcp", stateless = true }"#,
            "stateless",
            "allow rules: only they open connections; leave it out",
        ),
        (
            r#"{ allow = "tcp", fragments = true }"#,
            "fragments",
            "allow rules with port, source_port, icmp or flags; \
             leave it out: without these, later fragments match as every packet does",
        ),
    ] {
        rule_refused(text, &format!(": {key}: is for {is_for}"));
    }
    rule_refused(
        r#"{ deny = "arp", state = "new" }"#,
        ": state: asks for connections, and this kind of frame has none; leave it out",
    );
}

/// AH and the like are walked over IPv6: `deny = "ah"` would have let them pass there without a word.
#[test]
fn a_rule_about_a_header_that_is_looked_behind_is_refused() {
    for kind in [
        "ah",
        "ah/ipv6",
        "proto:51",
        "proto:0",
        "proto:60/ipv6",
        "proto:135",
    ] {
        for verb in ["allow", "deny"] {
            rule_refused(
                &format!("{{ {verb} = \"{kind}\" }}"),
                &format!(": {verb}: \"{kind}\" {}; {KIND_RULE}", LOOKED_BEHIND),
            );
        }
    }
    for kind in ["ah/ipv4", "proto:0/ipv4", "esp", "proto:59"] {
        rule(&format!("{{ deny = \"{kind}\" }}"));
    }
}

#[test]
fn what_a_rule_does_not_say_rightly_is_refused() {
    rule_refused(
        "{ port = 80 }",
        ": has no verdict; write { allow = \"tcp\", ... }, or deny or reject in its place",
    );
    rule_refused(
        r#"{ allow = "tcp", deny = "tcp" }"#,
        ": deny: stands beside another verdict; a rule has one: allow, deny or reject",
    );
    rule_refused(
        r#"{ allow = "tcp", prt = 80 }"#,
        ": prt: unknown key; did you mean port?",
    );
    rule_refused(
        r#"{ allow = "tcp", port = 70000 }"#,
        ": port: 70000 is out of range; choose a whole number from 0 to 65535",
    );
    rule_refused(
        r#"{ allow = "tcp", port = "90-80" }"#,
        ": port: 90-80 runs backwards; write the smaller number first",
    );
    for (key, list) in [("port", "[]"), ("vlan", "[]"), ("state", "[]")] {
        rule_refused(
            &format!("{{ allow = \"tcp\", {key} = {list} }}"),
            &format!(": {key}: is an empty list; name at least one, or leave the key out"),
        );
    }
    rule_refused(
        r#"{ allow = "tcp", from = [] }"#,
        ": from: is an empty list; name somebody, or leave the key out",
    );
    rule_refused(
        r#"{ allow = "tcp", from = ["any", "uplink"] }"#,
        ": from: names others beside \"any\"; keep any alone, or leave it out",
    );
    rule_refused(
        r#"{ allow = "tcp", state = "knew" }"#,
        ": state: \"knew\" is not known; did you mean \"new\"? The choices are new, established, related, invalid, untracked, any",
    );
    rule_refused(
        "\"allow\"",
        ": is a string, not a table; write a rule such as { allow = \"tcp\", port = 443 }",
    );
}

#[test]
fn names_that_nobody_has_are_refused() {
    for (who, problem, remedy) in [
        (
            "port:c",
            "there is no port \"c\"",
            "did you mean \"port:a\"?",
        ),
        (
            "group:h",
            "there is no group \"h\"",
            "did you mean \"group:g\"?",
        ),
        (
            "set:land",
            "there is no set \"land\"",
            "did you mean \"set:lan\"?",
        ),
        (
            "b",
            "\"b\" is no party of a rule",
            "did you mean \"port:b\"?",
        ),
        (
            "lan",
            "\"lan\" is no party of a rule",
            "did you mean \"set:lan\"?",
        ),
        (
            "10.0.0.1/8",
            "\"10.0.0.1/8\" has bits past its length; the network is 10.0.0.0/8, the address 10.0.0.1",
            "name port:NAME, group:NAME, uplink, set:NAME, a MAC address, an IP address or prefix, or any",
        ),
    ] {
        rule_refused(
            &format!("{{ allow = \"tcp\", to = \"{who}\" }}"),
            &format!(": to: {problem}; {remedy}"),
        );
    }
    port_refused(
        "acl = \"clean-trafic\"",
        "lan.toml:3: port \"web\": acl: \"clean-trafic\" is no list; did you mean \"clean-traffic\"?",
    );
    port_refused(
        "acl = \"dmz\"",
        "lan.toml:3: port \"web\": acl: \"dmz\" is no list; add [acl.dmz], or name one that there is",
    );
}

#[test]
fn a_rule_that_is_never_reached_is_refused() {
    let error = rules(
        "{ allow = \"any\", log = true },\n{ deny = \"tcp\" },\n{ deny = \"tcp\", state = \"established\" }",
    );
    assert_eq!(
        error.unwrap_err().to_string(),
        "lan.toml:4: acl \"x\": outbound: is never reached: the rule at lan.toml:3 catches everything; \
         put it earlier, or take the other out"
    );
    let lists = "[acl.base]\noutbound = [{ deny = \"any\" }]\n[acl.web]\noutbound = [{ allow = \"tcp\" }]\n";
    refused(
        &format!("{lists}[port.a]\nsocket = \"/a\"\nacl = [\n\"base\",\n\"web\"]\n"),
        &[
            "lan.toml:9: port \"a\": acl: \"web\" is never reached: the rule at lan.toml:2 catches everything \
           before that at lan.toml:4; bind it earlier, or leave the last rule of the list before it out",
        ],
    );
    assert!(
        file(&format!(
            "{lists}[port.a]\nsocket = \"/a\"\nacl = [\"web\", \"base\"]\n"
        ))
        .is_ok()
    );
}

#[test]
fn lists_add_up_and_a_direction_that_none_names_has_none() {
    let spec = file(
        "[acl.a]\noutbound = [{ allow = \"tcp\" }]\n[acl.b]\noutbound = [{ deny = \"udp\" }]\n[acl.c]\ninbound = []\n\
         [port.a]\nsocket = \"/a\"\nacl = [\"a\", \"b\"]\n[port.b]\nsocket = \"/b\"\nacl = [\"a\", \"b\"]\n\
         [port.c]\nsocket = \"/c\"\nacl = \"c\"\n",
    )
    .unwrap();
    let [a, b, c] = spec.ports.as_slice() else {
        panic!("three ports");
    };
    let outbound = a.outbound.as_ref().unwrap();
    assert_eq!(outbound.len(), 2);
    assert!(a.inbound.is_none());
    // What is the same is there once.
    assert!(std::sync::Arc::ptr_eq(
        outbound,
        b.outbound.as_ref().unwrap()
    ));
    assert!(c.outbound.is_none());
    assert_eq!(c.inbound.as_ref().unwrap().len(), 0);
}

#[test]
fn default_deny_is_one_line_and_leaves_uplinks_to_the_guests_lists() {
    let spec = file(
        "[switch]\ndefault = \"deny\"\n[port.a]\nsocket = \"/a\"\n[port.u]\nsocket = \"/u\"\nuplink = true\n\
         [acl.shut]\ninbound = []\n[port.v]\nsocket = \"/v\"\nuplink = true\nacl = \"shut\"\n",
    )
    .unwrap();
    let policy = spec.policy();
    assert!(policy.default_deny);
    assert!(
        policy.ports[0].as_ref().unwrap().outbound.is_none()
            && policy.ports[0].as_ref().unwrap().inbound.is_none()
    );
    for list in [
        &policy.ports[1].as_ref().unwrap().outbound,
        &policy.ports[1].as_ref().unwrap().inbound,
        &policy.ports[2].as_ref().unwrap().outbound,
    ] {
        let [rule] = list.as_deref().unwrap() else {
            panic!("one rule");
        };
        assert_eq!((rule.action, rule.kind), (Action::Allow, Kind::Any));
    }
    assert_eq!(
        policy.ports[2].as_ref().unwrap().inbound.as_deref(),
        Some(&[][..])
    );
}

#[test]
fn ready_made_lists_do_what_libvirt_s_do() {
    let clean = web("acl = \"clean-traffic\"");
    assert_eq!(
        (clean.guard.mac, clean.guard.ip),
        (MacSpec::Sticky, IpSpec::Dhcp)
    );
    assert_eq!(clean.outbound.unwrap().len(), 6);
    let own = web("acl = \"clean-traffic\"\nip = \"10.0.0.5\"");
    assert_eq!(
        own.guard.ip,
        IpSpec::Declared(vec!["10.0.0.5/32".parse().unwrap()])
    );

    // What only guards has no rules; what only takes away leaves the rest as it was.
    let guarded = web("acl = [\"no-mac-spoofing\", \"no-arp-spoofing\"]");
    assert!(guarded.outbound.is_none() && guarded.inbound.is_none());
    let less = web("acl = \"no-ip-multicast\"");
    let less = less.outbound.unwrap();
    let actions: Vec<Action> = less.iter().map(|rule| rule.action).collect();
    assert_eq!(actions, [Action::Deny, Action::Allow]);
    let text =
        "[switch]\ndefault = \"deny\"\n[port.a]\nsocket = \"/a\"\nacl = \"no-ip-multicast\"\n";
    let policy = file(text).unwrap().policy();
    assert_eq!(
        policy.ports[0]
            .as_ref()
            .unwrap()
            .outbound
            .as_ref()
            .unwrap()
            .len(),
        1
    );

    // An uplink is guarded when it is asked for.
    let uplink = web("uplink = true\nacl = \"no-mac-spoofing\"");
    assert_eq!(uplink.guard.mac, MacSpec::Sticky);

    let gateway = web(
        "acl = \"clean-traffic-gateway\"\ngateway_mac = \"52:54:00:00:00:01\"\nip = \"10.0.0.5\"",
    );
    let inbound = gateway.inbound.unwrap();
    assert!(
        inbound
            .iter()
            .any(|rule| rule.from == [Who::Mac("52:54:00:00:00:01".parse().unwrap())])
    );
    let server: IpAddr = "10.0.0.1".parse().unwrap();
    let dhcp = web("acl = \"allow-dhcp-server\"\ndhcp_servers = [\"10.0.0.1\"]");
    assert_eq!(dhcp.inbound.unwrap()[0].from, [Who::Prefix(server.into())]);
}

#[test]
fn ready_made_lists_say_what_they_need() {
    port_refused(
        "acl = \"clean-traffic-gateway\"",
        "lan.toml:3: port \"web\": gateway_mac: \"clean-traffic-gateway\" needs it, and it is missing; \
         add gateway_mac = \"52:54:00:12:34:56\"",
    );
    port_refused(
        "acl = \"allow-dhcpv6-server\"\ndhcp_servers = [\"10.0.0.1\"]",
        "lan.toml:3: port \"web\": dhcp_servers: \"allow-dhcpv6-server\" needs it, and it is missing; \
         add dhcp_servers = [...] with an IPv6 address",
    );
    port_refused(
        "acl = \"no-mac-spoofing\"\nspoofing = \"allow\"",
        "lan.toml:3: port \"web\": acl: \"no-mac-spoofing\" refuses what spoofing = \"allow\" at lan.toml:4 allows; \
         keep one of the two",
    );
    port_refused(
        "acl = \"no-ip-spoofing\"\nip = \"any\"",
        "lan.toml:3: port \"web\": acl: \"no-ip-spoofing\" binds addresses, and ip = \"any\" at lan.toml:4 binds none; \
         name the guest's addresses with ip, or \"dhcp\"",
    );
    refused(
        "[acl.allow-arp]\noutbound = []\n[port.a]\nsocket = \"/a\"\n",
        &["lan.toml:1: acl \"allow-arp\": is the name of a ready-made list; choose another name"],
    );
}

#[test]
fn limits_have_units_and_bursts() {
    let policy = web(
        "[port.web.limits]\nsend = \"100Mbit/s\"\nsend_frames = \"50k/s burst 1k\"\nreceive = \"1Gbit/s burst 8Mbit\"\n\
         receive_frames = \"10/s\"\nbroadcast = \"100/s\"\nmulticast = \"1k/s\"\nunknown = \"10/s\"\nburst = \"1s\"",
    );
    let rate = |per_second, burst| Rate { per_second, burst };
    let limits = policy.limits;
    assert_eq!(limits.send_bits, rate(100_000_000, 100_000_000));
    assert_eq!(limits.send_frames, rate(50_000, 1_000));
    assert_eq!(limits.receive_bits, rate(1_000_000_000, 8_000_000));
    assert_eq!(limits.receive_frames, rate(10, 128));
    assert_eq!(limits.broadcast, rate(100, 100));
    assert_eq!(limits.multicast, rate(1_000, 1_000));
    assert_eq!(limits.unknown, rate(10, 16));
    port_refused(
        "limits = { send = \"100M\" }",
        "lan.toml:3: port \"web\": limits: send: \"100M\" is no rate; \
         write a rate such as \"100Mbit/s\", with a burst if you like (\"100Mbit/s burst 4Mbit\"), or \"none\"",
    );
    port_refused(
        "limits = { broadcast = 100 }",
        "lan.toml:3: port \"web\": limits: broadcast: is a number, not a string; \
         write a rate such as \"500/s\" or \"50k/s\", with a burst if you like (\"500/s burst 50\"), or \"none\"",
    );
    port_refused(
        "limits = { send = \"1Mbit/s burst 1kbit\" }",
        "lan.toml:3: port \"web\": limits: send: a burst of 1kbit is less than the longest frame, 524400bit, \
         which would never pass; write a rate such as \"100Mbit/s\", with a burst if you like (\"100Mbit/s burst 4Mbit\"), or \"none\"",
    );
    port_refused(
        "addressing_rate = \"10/s burst 5\"",
        "lan.toml:3: port \"web\": addressing_rate: \"10/s burst 5\" is no rate of whole packets; \
         write packets a second, such as \"100/s\", or \"none\"",
    );
}

#[test]
fn connections_are_bounded_for_each_port() {
    let text = "[conntrack]\nper_port = 1000\nhalf_open = 100\nnew_connections = \"200/s\"\nloose = false\n\
         timeouts = { udp_single = 10 }\n[port.a]\nsocket = \"/a\"\nconnections = 50\n[port.b]\nsocket = \"/b\"\n";
    let policy = file(text).unwrap().policy();
    let new_per_second = Rate {
        per_second: 200,
        burst: 20,
    };
    assert_eq!(
        policy.tracking,
        TrackingSpec {
            per_port: 1000,
            half_open_per_port: 100,
            new_per_second,
            loose: false,
            timeouts: Timeouts {
                udp_single: 10,
                ..Timeouts::default()
            },
        }
    );
    let [a, b] = [0, 1].map(|port: usize| policy.ports[port].as_ref().unwrap().quota.unwrap());
    assert_eq!(
        (a.connections, a.half_open, a.new_per_second),
        (50, 50, new_per_second)
    );
    assert_eq!((b.connections, b.half_open), (1000, 100));
}

#[test]
fn sockets_may_be_shared_with_a_group_and_with_nobody_else() {
    let spec = file("[port.a]\nsocket = \"/a\"\nsocket_mode = \"0660\"\nsocket_group = \"kvm\"\nsocket_owner = \"107\"\n").unwrap();
    let access = &spec.ports[0].access;
    assert_eq!(access.mode, 0o660);
    assert_eq!(
        (access.owner.as_deref(), access.group.as_deref()),
        (Some("107"), Some("kvm"))
    );
    for (mode, problem) in [
        (
            "0666",
            "lets every user of this machine take the port; end it in 0, and name the VMM's group with socket_group",
        ),
        (
            "0060",
            "locks the owner out; let the owner read and write: 06..",
        ),
        (
            "4660",
            "is no mode of a file; write three octal digits in a string, such as \"0660\"",
        ),
        (
            "rw",
            "is no mode of a file; write three octal digits in a string, such as \"0660\"",
        ),
        (
            "0680",
            "is no mode of a file; write three octal digits in a string, such as \"0660\"",
        ),
    ] {
        port_refused(
            &format!("socket_mode = \"{mode}\""),
            &format!("lan.toml:3: port \"web\": socket_mode: {mode:?} {problem}"),
        );
    }
}

#[test]
fn rules_follow_their_ports_to_other_ids() {
    let spec = file(
        "[acl.x]\noutbound = [{ allow = \"tcp\", to = [\"port:a\", \"port:c\", \"10.0.0.1\"] }]\n\
         [port.a]\nsocket = \"/a\"\nacl = \"x\"\n[port.b]\nsocket = \"/b\"\nacl = \"x\"\n[port.c]\nsocket = \"/c\"\n",
    )
    .unwrap();
    let policy = spec.policy_for(&[id(5), id(2), id(0)]);
    assert_eq!(policy.ports.len(), 6);
    let list = policy.ports[5].as_ref().unwrap().outbound.as_ref().unwrap();
    assert_eq!(list[0].to[0], Who::Ports(PortSet::from_iter([id(5)])));
    assert_eq!(list[0].to[1], Who::Ports(PortSet::from_iter([id(0)])));
    assert!(std::sync::Arc::ptr_eq(
        list,
        policy.ports[2].as_ref().unwrap().outbound.as_ref().unwrap()
    ));
    assert!(policy.ports[0].as_ref().unwrap().outbound.is_none());
    // Nobody is there, and nobody may be.
    assert_eq!(policy.ports[3], None);
    assert_eq!(spec.policy(), spec.policy_for(&[id(0), id(1), id(2)]));
}

#[test]
fn flags_of_the_command_line_bind_ready_made_lists() {
    let spec =
        flags(&["a=/a,acl=clean-traffic,ip=10.0.0.5,ip=fd00::5,router=yes,max_macs=4"]).unwrap();
    let port = &spec.ports[0];
    assert_eq!(port.lists, ["clean-traffic"]);
    assert!(matches!(&port.guard.ip, IpSpec::Declared(prefixes) if prefixes.len() == 2));
    assert!(port.guard.may.router);
    assert_eq!(port.max_macs, Some(4));
    assert_eq!(
        flags(&["a=/a,spoofing=allow"]).unwrap().ports[0].guard.mac,
        MacSpec::Any
    );
}

#[test]
fn o_4_too_many_rules_are_refused_and_ten_thousand_are_read() {
    let text = |count: usize| {
        let rules = "{ allow = \"tcp\", to = \"10.0.0.1\", port = 80 },\n".repeat(count);
        format!("[acl.x]\noutbound = [\n{rules}]\n[port.a]\nsocket = \"/a\"\nacl = \"x\"\n")
    };
    let spec = file(&text(10_000)).unwrap();
    let rules = spec.ports[0].outbound.as_ref().unwrap();
    assert_eq!(
        (rules.len(), rules[9_999].origin.as_str()),
        (10_000, "lan.toml:10002")
    );
    refused(
        &text(65_537),
        &["lan.toml:2: acl \"x\": outbound: 65537 rules up to here; \
           65536 are the most in one configuration: use sets and ranges"],
    );
    refused(
        &text(1_000_000),
        &[
            "lan.toml: more than 16 MiB of text; use sets and ranges, or run a second switch for the rest",
        ],
    );
}

#[test]
fn asserts_are_frames_between_pairs_of_ports() {
    let ports = "[port.web]\nsocket = \"/w\"\nip = \"10.0.0.5\"\n[port.db1]\nsocket = \"/d1\"\nip = \"10.0.0.6\"\ngroups = \"db\"\n\
         [port.db2]\nsocket = \"/d2\"\nip = \"10.0.0.7\"\ngroups = \"db\"\n";
    let with = |text: &str| file(&format!("{ports}{text}"));
    let spec = with(
        "[[assert]]\nfrom = \"web\"\nto = \"group:db\"\npacket = \"tcp > :5432\"\nexpect = \"deny\"\n\
         [[assert]]\nfrom = [\"group:db\"]\nto = [\"port:db1\", \"web\"]\npacket = \"icmp\"\nexpect = \"allow\"\n",
    )
    .unwrap();
    let pairs: Vec<_> = spec
        .asserts
        .iter()
        .map(|found| (found.from, found.to, found.expect, found.origin.to_string()))
        .collect();
    let (first, second) = ("lan.toml:12".to_owned(), "lan.toml:17".to_owned());
    assert_eq!(
        pairs,
        [
            (id(0), id(1), Action::Deny, first.clone()),
            (id(0), id(2), Action::Deny, first),
            (id(1), id(0), Action::Allow, second.clone()),
            (id(2), id(0), Action::Allow, second.clone()),
            (id(2), id(1), Action::Allow, second),
        ]
    );
    let again = spec.packet(&spec.asserts[1].packet, id(0), Some(id(2)));
    assert_eq!(again.unwrap(), spec.asserts[1].frame);
    assert_ne!(spec.asserts[0].frame, spec.asserts[1].frame);

    // A pair is two; a group may have one member for now.
    let between = |from: &str, to: &str| {
        let packet = "packet = \"icmp\"\nexpect = \"allow\"\n";
        with(&format!("[[assert]]\nfrom = {from}\nto = {to}\n{packet}"))
    };
    for (from, to) in [
        ("\"web\"", "\"web\""),
        ("\"uplink\"", "\"web\""),
        ("[]", "\"web\""),
    ] {
        let error = between(from, to).unwrap_err().to_string();
        assert_eq!(
            error,
            "lan.toml:12: [[assert]]: to: is about no pair of ports, and so says nothing; name two ports: one sends, the other receives"
        );
    }
    assert_eq!(between("\"group:db\"", "[]").unwrap().asserts.len(), 0);

    let error =
        with("[[assert]]\nfrom = \"wob\"\nto = \"db1\"\npacket = \"tcp > :1\"\n").unwrap_err();
    assert_eq!(
        error.to_string(),
        "lan.toml:12: [[assert]]: expect: is missing; add expect = \"deny\", \"allow\" or \"reject\"\n\
         lan.toml:13: [[assert]]: from: there is no port \"wob\"; did you mean \"web\"?"
    );
    let error =
        with("[[assert]]\nfrom = \"web\"\nto = \"db1\"\npacket = \"tcp\"\nexpect = \"drop\"\n")
            .unwrap_err();
    assert!(
        error.to_string().contains("expect: \"drop\" is not known"),
        "{error}"
    );
    let error =
        with("[[assert]]\nfrom = \"web\"\nto = \"db1\"\npacket = \"tcp\"\nexpect = \"deny\"\n")
            .unwrap_err();
    assert_eq!(
        error.to_string(),
        "lan.toml:15: [[assert]]: packet: names no destination port; \
         write it behind the receiver, such as 10.0.0.6:443 or :443"
    );
}
