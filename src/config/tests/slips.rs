//! Slips of people: what is wrong is told so that it can be mended, what is merely odd is noted.

use super::*;

/// `[acl.x]` with these lines, from line 2 on, bound to port `a`; `b` is there besides.
fn list(lines: &str) -> String {
    format!(
        "[acl.x]\n{lines}\n[port.a]\nsocket = \"/a\"\nacl = \"x\"\n[port.b]\nsocket = \"/b\"\ngroups = [\"g\"]\n"
    )
}

#[track_caller]
fn list_refused(lines: &str, expected: &[&str]) {
    refused(&list(lines), expected);
}

#[track_caller]
fn noted(text: &str, expected: &[&str]) {
    let notes = file(text).unwrap().notes;
    let notes: Vec<String> = notes.iter().map(ToString::to_string).collect();
    assert_eq!(notes, expected, "\n{text}");
}

#[test]
fn a_slip_in_the_verdict_is_an_unknown_key() {
    list_refused(
        "inbound = [{ alow = \"tcp\", port = 80 }]",
        &[
            "lan.toml:2: acl \"x\": inbound: has no verdict; write { allow = \"tcp\", ... }, or deny or reject in its place",
            "lan.toml:2: acl \"x\": inbound: alow: unknown key; did you mean allow?",
        ],
    );
}

#[test]
fn the_kind_that_was_meant_is_named() {
    for (wrong, meant) in [
        ("tpc", "tcp"),
        ("TCP", "tcp"),
        ("icmp6", "icmpv6"),
        ("ipv5", "ipv4"),
        ("apr", "arp"),
    ] {
        list_refused(
            &format!("inbound = [{{ allow = \"{wrong}\" }}]"),
            &[&format!(
                "lan.toml:2: acl \"x\": inbound: allow: {wrong:?} is not known; did you mean {meant:?}?"
            )],
        );
    }
    let error = file(&list("inbound = [{ allow = \"netbios\" }]")).unwrap_err();
    assert!(
        error.to_string().contains("; name tcp, udp, icmp,"),
        "{error}"
    );
}

#[test]
fn what_is_no_number_is_called_so() {
    let rule = "write numbers from 0 to 65535, ranges such as \"20-29\", or a list of these such as [0, 65535]";
    for word in ["http", "80,443", "", "8o"] {
        list_refused(
            &format!("inbound = [{{ allow = \"tcp\", port = {word:?} }}]"),
            &[&format!(
                "lan.toml:2: acl \"x\": inbound: port: {word:?} is no number; {rule}"
            )],
        );
    }
    flag_refused(
        &["web=/w,mtu=big"],
        "--port web=/w,mtu=big: port \"web\": mtu: \"big\" is no number; choose a whole number from 68 to 65535",
    );
}

#[test]
fn dhcp_stands_alone() {
    port_refused(
        "ip = [\"10.0.0.5\", \"dhcp\"]",
        "lan.toml:3: port \"web\": ip: \"dhcp\" stands beside others; it stands alone: keep it, or the guest's own addresses",
    );
}

/// In an error, in `explain`, in `status --rules`: everywhere a rule is known by its place.
#[test]
fn rules_on_one_line_are_told_apart_by_their_columns() {
    let text = list(
        "inbound = [{ allow = \"tcp\" }, { allow = \"udp\",\nport = 53 }, { deny = \"arp\" },\n{ deny = \"icmp\" }]",
    );
    let spec = file(&text).unwrap();
    let origins = |rules: &[crate::policy::rule::Rule]| -> Vec<String> {
        rules.iter().map(|rule| rule.origin.clone()).collect()
    };
    assert_eq!(
        origins(&spec.lists["x"].inbound),
        ["lan.toml:2:12", "lan.toml:2:31", "lan.toml:3", "lan.toml:4"]
    );
    list_refused(
        "inbound = [{ allow = \"tcp\" }, { allow = \"tcp\", port = [1, 70000], prt = 1 }]",
        &[
            "lan.toml:2:31: acl \"x\": inbound: port: 70000 is out of range; choose a whole number from 0 to 65535",
            "lan.toml:2:31: acl \"x\": inbound: prt: unknown key; did you mean port?",
        ],
    );
}

#[test]
fn what_nobody_uses_is_noted() {
    noted(
        "[port.a]\nsocket = \"/a\"\n[acl.x]\ninbound = []\n[group.g]\nmode = \"isolated\"\n[set.s]\nmembers = \"10.0.0.1\"\n",
        &[
            "lan.toml:3: acl \"x\": no port is behind this list; bind it with acl in a port, a group or [defaults], unless it is kept for `portcullis quarantine --allow`",
            "lan.toml:5: group \"g\": no port is in this group; name it in groups of a port",
            "lan.toml:7: set \"s\": no rule names this set; name it as \"set:NAME\" in from or to, or take it out",
        ],
    );
    noted(
        "[port.a]\nsocket = \"/a\"\ngroups = [\"g\"]\nquarantine = { scan = \"200 in 60s\", allow = \"x\" }\n\
         [acl.x]\ninbound = [{ allow = \"ip\", from = \"set:s\" }]\n[group.g]\nmode = \"isolated\"\n[set.s]\nmembers = \"10.0.0.1\"\n",
        &[],
    );
}

#[test]
fn a_port_that_can_get_no_lease_is_noted() {
    let text = |switch: &str, rules: &str, lists: &str| {
        format!(
            "[switch]\n{switch}\n[port.a]\nsocket = \"/a\"\nip = \"dhcp\"\nacl = {lists}\n[acl.x]\n{rules}\n"
        )
    };
    let request = "{ allow = \"udp\", source_port = 68, port = 67 } to outbound rules of the port";
    let answer = "{ allow = \"udp\", source_port = 67, port = 68 } to inbound rules";
    let told = |what: &str, remedy: &str| {
        format!(
            "lan.toml:5: port \"a\": ip: \"dhcp\", and no rule lets {what}: the guest gets no address by DHCP; add {remedy}"
        )
    };
    let web = "{ allow = \"tcp\", port = 80 }";
    for (switch, rules, expected) in [
        (
            "",
            format!("outbound = [{web}]"),
            told("requests out", request),
        ),
        (
            "",
            // Answers to a multicast are of no connection.
            format!("inbound = [{{ allow = \"udp\", state = \"established\" }}, {web}]"),
            told("answers in", &format!("{answer} of the port")),
        ),
        (
            "",
            format!("outbound = [{web}]\ninbound = [{web}]"),
            told(
                "requests out, or answers in",
                &format!("{request} and {answer}"),
            ),
        ),
        (
            "default = \"deny\"",
            "outbound = [{ allow = \"udp\", port = 67, to = \"255.255.255.255\" }]".to_owned(),
            told("answers in", &format!("{answer} of the port")),
        ),
    ] {
        noted(&text(switch, &rules, "\"x\""), &[&expected]);
    }
    // What may let it pass, and what says nothing.
    for (switch, rules) in [
        ("", "outbound = [{ allow = \"any\" }]"),
        (
            "",
            "outbound = [{ allow = \"udp\", port = \"1-100\", to = \"port:b\" }]",
        ),
        (
            "",
            "outbound = [{ allow = \"udp/ipv6\", port = 547 }]\ninbound = [{ allow = \"udp/ipv6\", source_port = 547 }]",
        ),
        (
            "default = \"deny\"",
            "outbound = [{ allow = \"ipv4\" }]\ninbound = [{ allow = \"ipv4\", from = \"10.0.0.1\" }]",
        ),
    ] {
        let more = "[port.b]\nsocket = \"/b\"\n";
        noted(&(text(switch, rules, "\"x\"") + more), &[]);
    }
    let closed = format!("outbound = [{web}]\ninbound = [{web}]");
    noted(&text("", &closed, "[\"allow-dhcp\", \"x\"]"), &[]);
    // An address that is declared needs no lease.
    let declared = text("", &closed, "\"x\"").replace("\"dhcp\"", "\"10.0.0.5\"");
    noted(&declared, &[]);
}

#[test]
fn an_ip_address_of_two_ports_is_noted() {
    let ports = |a: &str, b: &str| {
        format!("[port.a]\nsocket = \"/a\"\n{a}\n[port.b]\nsocket = \"/b\"\n{b}\n")
    };
    let rest = "both may use it; give it to one of them unless they take turns";
    noted(
        &ports(
            "ip = [\"10.0.0.5\", \"fd00::5\"]",
            "ip = [\"10.0.0.4\", \"10.0.0.5\"]",
        ),
        &[&format!(
            "lan.toml:6: port \"b\": ip: 10.0.0.5 is an address of port \"a\" at lan.toml:3, too; {rest}"
        )],
    );
    noted(
        &ports(
            "ip = \"10.0.0.5\"",
            "ip = [\"10.0.0.0/24\", \"10.0.0.128/25\"]",
        ),
        &[&format!(
            "lan.toml:3: port \"a\": ip: 10.0.0.5, in 10.0.0.0/24, is an address of port \"b\" at lan.toml:6, too; {rest}"
        )],
    );
    for (a, b) in [
        ("ip = \"10.0.0.5\"", "ip = \"10.0.0.6\""),
        ("ip = \"10.0.0.0/25\"", "ip = \"10.0.0.128/25\""),
        ("ip = \"dhcp\"", "ip = \"dhcp\""),
        ("ip = \"10.0.0.5\"\nvlan = 2", "ip = \"10.0.0.5\"\nvlan = 3"),
    ] {
        noted(&ports(a, b), &[]);
    }
}

#[test]
fn a_rule_that_is_never_met_is_noted() {
    let noted = |first: &str, rule: &str, but: &str| {
        noted(
            &list(&format!("inbound = [\n{first},\n{rule},\n]")),
            &[&format!(
                "lan.toml:4: acl \"x\": inbound: the rule at lan.toml:3 decides all that this one is about{but}; put it earlier, or take it out"
            )],
        );
    };
    let unread = ", but for packets that cannot be read, such as later fragments";
    for (first, rule, but) in [
        (r#"{ deny = "tcp" }"#, r#"{ allow = "tcp", port = 80 }"#, ""),
        (
            r#"{ allow = "ip", from = "10.0.0.0/8" }"#,
            r#"{ allow = "udp", from = "10.1.0.0/16", port = 53 }"#,
            "",
        ),
        (
            r#"{ allow = "tcp", port = "1-1023" }"#,
            r#"{ allow = "tcp", port = [22, "80-90"] }"#,
            "",
        ),
        (
            r#"{ allow = "tcp", port = 80 }"#,
            r#"{ deny = "tcp", port = 80 }"#,
            unread,
        ),
        (
            r#"{ deny = "icmp", icmp = "3" }"#,
            r#"{ allow = "icmp", icmp = ["3/1", "3/4"] }"#,
            "",
        ),
        (
            r#"{ deny = "tcp", from = ["group:g", "port:a"], state = "any" }"#,
            r#"{ allow = "tcp/ipv4", from = "port:b", state = "invalid" }"#,
            "",
        ),
    ] {
        noted(first, rule, but);
    }
}

#[test]
fn a_rule_that_may_be_met_is_not_noted() {
    for (first, rule) in [
        (r#"{ deny = "tcp", port = 80 }"#, r#"{ allow = "tcp" }"#),
        (r#"{ deny = "tcp/ipv4" }"#, r#"{ allow = "tcp" }"#),
        (r#"{ deny = "ip" }"#, r#"{ allow = "arp" }"#),
        (
            r#"{ deny = "tcp", from = "port:b" }"#,
            r#"{ allow = "tcp", from = "group:g", state = "established" }"#,
        ),
        (
            r#"{ deny = "tcp", from = "10.0.0.0/8" }"#,
            r#"{ allow = "tcp", from = ["10.0.0.1", "11.0.0.1"] }"#,
        ),
        (
            r#"{ allow = "udp", port = 53 }"#,
            r#"{ allow = "udp", port = 53, fragments = true }"#,
        ),
        (
            r#"{ allow = "tcp", flags = "syn/syn,ack" }"#,
            r#"{ allow = "tcp", flags = "syn" }"#,
        ),
        (r#"{ deny = "tcp", vlan = 2 }"#, r#"{ allow = "tcp" }"#),
    ] {
        noted(&list(&format!("inbound = [\n{first},\n{rule},\n]")), &[]);
    }
}
