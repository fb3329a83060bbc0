//! A report as a table for people.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table};

use crate::control::{Flow, PortReport, SwitchReport};
use crate::counters::Drops;

/// The report: the switch in one line, the ports as a table, and what does not fit into a row below it.
pub(super) fn render(report: &SwitchReport) -> String {
    let mut text = headline(report);
    text.push_str(&ports(report));
    text.push('\n');
    for port in &report.ports {
        details(port, &mut text);
    }
    text
}

fn headline(report: &SwitchReport) -> String {
    let busy: Vec<String> = report
        .workers
        .iter()
        .map(|worker| format!("{:.0} %", worker.busy * 100.0))
        .collect();
    format!(
        "{}: pid {}, up {}, portcullis {}, policy {}, {} of {} addresses, workers busy {}\n",
        report.name,
        report.pid,
        duration(report.uptime_s),
        report.program,
        report.epoch,
        report.fdb.learned,
        report.fdb.capacity,
        busy.join(" ")
    )
}

fn ports(report: &SwitchReport) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header([
        "PORT", "MODE", "VLAN", "STATE", "PEER", "SENDS", "", "RECEIVES", "", "DROPPED",
    ]);
    for port in &report.ports {
        let counters = &port.status.counters;
        let dropped = counters.ingress.dropped.total() + counters.egress.undelivered.total();
        table.add_row([
            port.status.name.clone(),
            mode(port),
            port.vlan.clone(),
            port.status.state.name().to_owned(),
            peer(port),
            frames(port.rates.sent),
            bits(port.rates.sent),
            frames(port.rates.received),
            bits(port.rates.received),
            dropped.to_string(),
        ]);
    }
    for index in 5..=9 {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

fn mode(port: &PortReport) -> String {
    let mode = port.role();
    if port.groups.is_empty() {
        mode.to_owned()
    } else {
        format!("{mode} ({})", port.groups.join(" "))
    }
}

fn peer(port: &PortReport) -> String {
    match &port.status.peer {
        None => "-".to_owned(),
        Some(peer) => match peer.pid {
            Some(pid) => format!("pid {pid} uid {}", peer.uid),
            None => format!("uid {}", peer.uid),
        },
    }
}

/// Lines of a port for what has no column; a port of which there is nothing to say has none.
fn details(port: &PortReport, text: &mut String) {
    let status = &port.status;
    let mut lines: Vec<(&str, String)> = Vec::new();
    if let Some(ward) = &port.quarantine {
        lines.push(("quarantine", ward.said()));
    }
    if !port.switched_off.is_empty() {
        lines.push(("switched off", port.switched_off.join(" ")));
    }
    if !port.lists.is_empty() {
        lines.push(("lists", port.lists.join(" ")));
    }
    if !port.limits.is_empty() {
        lines.push(("limits", port.limits.join(", ")));
    }
    if port.connections.0 > 0 {
        let (open, most) = port.connections;
        lines.push(("connections", format!("{open} of {most}")));
    }
    if let Some(why) = &status.why {
        lines.push(("why", why.clone()));
    } else if let Some(fault) = &status.last_fault {
        lines.push(("last fault", fault.clone()));
    }
    for ring in &status.rings {
        if let Some(problem) = &ring.problem {
            lines.push(("ring", format!("{}: {problem}", ring.index)));
        }
    }
    if !status.features.is_empty() {
        lines.push(("features", status.features.join(" ")));
    }
    let addresses = addresses(port);
    if !addresses.is_empty() {
        lines.push(("addresses", addresses));
    }
    if let Some(ip) = ip(port) {
        lines.push(("ip", ip));
    }
    if !port.leases.is_empty() {
        lines.push(("leases", leases(port)));
    }
    let lost = [
        ("dropped", &status.counters.ingress.dropped),
        ("undelivered", &status.counters.egress.undelivered),
    ];
    for (title, drops) in lost {
        if drops.total() > 0 {
            lines.push((title, reasons(drops)));
        }
    }
    if lines.is_empty() {
        return;
    }
    let _ = write!(text, "\n{} ({})\n", status.name, status.socket.display());
    for (title, line) in lines {
        let _ = writeln!(text, "  {title:<12} {line}");
    }
}

fn addresses(port: &PortReport) -> String {
    let macs = &port.macs;
    let fixed = macs.fixed.iter().map(|mac| format!("{mac} (fixed)"));
    let kept = macs.kept.iter().map(|mac| format!("{mac} (kept)"));
    let learned = macs.learned.iter().cloned();
    let mut all: Vec<String> = fixed.chain(kept).chain(learned).collect();
    let listed = u32::try_from(macs.learned.len()).unwrap_or(u32::MAX);
    let more = macs.learned_count.saturating_sub(listed);
    if more > 0 {
        all.push(format!("and {more} more"));
    }
    all.join(", ")
}

fn leases(port: &PortReport) -> String {
    let all = port.leases.iter().map(|lease| {
        let left = match lease.seconds {
            Some(seconds) => format!("{} left", duration(seconds.into())),
            None => "for ever".to_owned(),
        };
        format!("{} ({}, {left})", lease.address, lease.mac)
    });
    all.collect::<Vec<_>>().join(", ")
}

/// IP addresses that a port is bound to, or that it is to none; nothing where port security is off.
fn ip(port: &PortReport) -> Option<String> {
    let ip = &port.ip;
    let more = (ip.more > 0).then(|| format!("and {} more", ip.more));
    match ip.bound.as_str() {
        "declared" => {
            let words = ip.declared.iter().cloned().chain(more);
            Some(words.collect::<Vec<_>>().join(", "))
        }
        "dhcp" if port.leases.is_empty() => Some("dhcp: no lease yet".to_owned()),
        "dhcp" => Some("dhcp".to_owned()),
        "any" if !port.switched_off.iter().any(|off| off == "spoofing") => {
            Some("any: none is bound".to_owned())
        }
        _ => None,
    }
}

fn reasons(drops: &Drops) -> String {
    let reasons = drops
        .iter()
        .map(|(reason, count)| format!("{} {count}", reason.name()));
    reasons.collect::<Vec<_>>().join(", ")
}

fn frames(flow: Flow) -> String {
    format!("{}fr/s", scaled(flow.frames))
}

fn bits(flow: Flow) -> String {
    format!("{}bit/s", scaled(flow.bytes * 8.0))
}

/// Three digits that matter, with the unit's prefix.
fn scaled(number: f64) -> String {
    let mut number = number;
    for prefix in ["", "k", "M", "G"] {
        if number < 999.5 {
            return match prefix {
                "" => format!("{number:.0} "),
                _ if number < 9.995 => format!("{number:.2} {prefix}"),
                _ if number < 99.95 => format!("{number:.1} {prefix}"),
                _ => format!("{number:.0} {prefix}"),
            };
        }
        number /= 1000.0;
    }
    format!("{number:.0} T")
}

fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits() {
        let cases = [
            (0.0, "0 "),
            (999.4, "999 "),
            (999.6, "1.00 k"),
            (12_345.0, "12.3 k"),
            (123_456.0, "123 k"),
            (9_999_999.0, "10.0 M"),
            (1.5e10, "15.0 G"),
            (2e15, "2000 T"),
        ];
        for (number, text) in cases {
            assert_eq!(scaled(number), text, "{number}");
        }
    }

    #[test]
    fn what_addresses_are_bound_is_said() {
        let said = |ip: serde_json::Value, leases: &[serde_json::Value], off: &[&str]| {
            let status = serde_json::json!({
                "id": 0, "name": "a", "state": "waiting", "why": null, "last_fault": null,
                "socket": "/a", "direction": "listen", "peer": null, "features": [],
                "protocol_features": [], "memory_regions": 0, "memory_bytes": 0, "rings": [],
                "counters": crate::counters::PortSnapshot::default(),
                "mode": "bridge", "uplink": false, "groups": [], "vlan": "1", "queue_pairs": 1,
                "macs": crate::control::MacReport::default(),
                "rates": crate::control::Rates::default(), "switched_off": off, "ip": ip, "leases": leases,
            });
            super::ip(&serde_json::from_value(status).unwrap())
        };
        let some = |text: &str| Some(text.to_owned());
        let declared = serde_json::json!({
            "bound": "declared", "declared": ["10.0.0.5", "fd00::/64"], "more": 3
        });
        assert_eq!(
            said(declared, &[], &[]),
            some("10.0.0.5, fd00::/64, and 3 more")
        );
        let bound = |how: &str| serde_json::json!({ "bound": how });
        assert_eq!(said(bound("dhcp"), &[], &[]), some("dhcp: no lease yet"));
        let lease = serde_json::json!({
            "address": "10.0.0.9", "mac": "52:54:00:00:00:01", "vlan": 1, "seconds": 3599
        });
        assert_eq!(said(bound("dhcp"), &[lease], &[]), some("dhcp"));
        assert_eq!(said(bound("any"), &[], &[]), some("any: none is bound"));
        assert_eq!(said(bound("any"), &[], &["spoofing"]), None);
        // A switch of before tells nothing of it.
        assert_eq!(said(bound(""), &[], &[]), None);
    }

    #[test]
    fn durations_are_short() {
        assert_eq!(duration(59), "59 s");
        assert_eq!(duration(3599), "59 min");
        assert_eq!(duration(7260), "2 h 1 min");
        assert_eq!(duration(90_000), "1 d 1 h");
    }
}
