//! `portcullis drops`, `portcullis flows` and `portcullis status --rules`: what the gate of a running switch has seen, page by page.

use std::fs;
use std::io::BufWriter;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::args::{DropsArgs, FlowsArgs};
use super::capture::{Note, Writer};
use super::summary::summary;
use super::{Failure, print};
use crate::control::{
    AskError, DropReport, DropsPage, DropsQuery, FlowReport, FlowsPage, FlowsQuery, PortDrops,
    Question, RuleReport, RulesPage, RulesQuery, ask,
};
use crate::frame::protocol;

pub(super) fn drops(args: &DropsArgs) -> Result<(), Failure> {
    let socket = args.target.socket()?;
    if let Some(file) = &args.pcap {
        return save_drops(args, &socket, file);
    }
    each_port_s_drops(args, &socket, |port| {
        if args.json {
            return print(&json_line(port));
        }
        let frames: String = port.frames.iter().map(dropped).collect();
        print(&format!("{}\n{frames}", port.port))
    })
}

/// Writes them to a file: an interface for each port.
fn save_drops(args: &DropsArgs, socket: &Path, file: &Path) -> Result<(), Failure> {
    let failed = |source| Failure::Unwritten(file.display().to_string(), source);
    let mut options = fs::OpenOptions::new();
    // What guests say is for nobody else to read.
    let opened = options.write(true).create(true).truncate(true).mode(0o600);
    let opened = opened.open(file).map_err(failed)?;
    let mut writer = Writer::new(BufWriter::new(opened)).map_err(failed)?;
    let (mut frames, mut ports) = (0usize, 0usize);
    each_port_s_drops(args, socket, |port| {
        writer.interface(&port.port).map_err(failed)?;
        for frame in &port.frames {
            let note = Note {
                millis: frame.time_ms,
                bytes: &unhex(&frame.bytes),
                len: frame.len,
                comment: &because(frame),
            };
            writer.frame(&note).map_err(failed)?;
        }
        (frames, ports) = (frames + port.frames.len(), ports + 1);
        Ok(())
    })?;
    writer.finish().map_err(failed)?;
    let many = |count: usize, what: &str| match count {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    };
    print(&format!(
        "{} of {} in {}\n",
        many(frames, "frame"),
        many(ports, "port"),
        file.display()
    ))
}

fn each_port_s_drops(
    args: &DropsArgs,
    socket: &Path,
    mut look: impl FnMut(&PortDrops) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut query = DropsQuery {
        port: args.port.clone(),
        from: 0,
    };
    loop {
        let page: DropsPage = page(socket, &Question::Drops(query.clone()))?;
        for port in &page.ports {
            look(port)?;
        }
        match page.next {
            // A place behind the one before: a switch that says otherwise would keep us for ever.
            Some(next) if next > query.from => query.from = next,
            _ => return Ok(()),
        }
    }
}

/// A frame: when, why and what in the first lines, its bytes below.
fn dropped(frame: &DropReport) -> String {
    let bytes = unhex(&frame.bytes);
    let mut text = format!(
        "  {} {}\n    {}\n",
        time(frame.time_ms),
        because(frame),
        summary(&bytes, frame.len)
    );
    for (index, line) in bytes.chunks(16).enumerate() {
        let hex: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        text += &format!("    {:04x}  {}\n", index * 16, hex.join(" "));
    }
    text
}

/// Why it was dropped: `denied-inbound to db, lan.toml:12 (admin)`.
fn because(frame: &DropReport) -> String {
    let rule = frame
        .rule
        .as_ref()
        .map_or(String::new(), |rule| format!(", {rule}"));
    let to = frame
        .to
        .as_ref()
        .map_or(String::new(), |to| format!(" to {to}"));
    format!("{}{to}{rule}", frame.reason)
}

/// A time of day, UTC, to the millisecond: `2026-11-28 05:46:28.064`.
fn time(millis: u64) -> String {
    let (days, of_day) = (millis / 86_400_000, millis % 86_400_000);
    // Days since 1970 to a date of the Gregorian calendar, whose eras of 400 years have 146,097 days; years begin in March.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let (seconds, millis) = (of_day / 1000, of_day % 1000);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}.{millis:03}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .filter_map(|digit| u8::try_from(digit.to_digit(16)?).ok())
        .collect();
    let pairs = digits.chunks_exact(2);
    pairs
        .filter_map(|pair| Some(pair.first()? << 4 | pair.last()?))
        .collect()
}

pub(super) fn flows(args: &FlowsArgs) -> Result<(), Failure> {
    let socket = args.target.socket()?;
    let mut query = FlowsQuery {
        port: args.port.clone(),
        protocol: args.proto,
        from: 0,
    };
    let mut left = args.limit.unwrap_or(usize::MAX);
    let mut is_titled = args.json;
    loop {
        let page: FlowsPage = page(&socket, &Question::Flows(query.clone()))?;
        // Not before there is an answer, so that an error has no title.
        if !std::mem::replace(&mut is_titled, true) {
            print("PROTO  STATE         AGE      IDLE     SENT       RECEIVED   CONNECTION\n")?;
        }
        let shown = page.flows.iter().take(left);
        let lines: String = if args.json {
            shown.map(json_line).collect()
        } else {
            shown.map(flow).collect()
        };
        print(&lines)?;
        left = left.saturating_sub(page.flows.len());
        match page.next {
            Some(next) if next > query.from && left > 0 => query.from = next,
            _ => return Ok(()),
        }
    }
}

fn flow(flow: &FlowReport) -> String {
    let proto = match flow.protocol {
        protocol::TCP => "tcp".to_owned(),
        protocol::UDP => "udp".to_owned(),
        protocol::ICMP => "icmp".to_owned(),
        protocol::ICMPV6 => "icmpv6".to_owned(),
        number => number.to_string(),
    };
    let end = |address: std::net::IpAddr, port: u16| match port {
        0 => address.to_string(),
        port => std::net::SocketAddr::new(address, port).to_string(),
    };
    let ports = format!("{} > {}", flow.from, flow.to);
    let (src, dst) = (end(flow.src, flow.src_port), end(flow.dst, flow.dst_port));
    format!(
        "{proto:<5}  {:<12}  {:<7}  {:<7}  {:<9}  {:<9}  {ports}: {src} > {dst}\n",
        flow.state,
        format!("{} s", flow.age),
        format!("{} s", flow.idle),
        flow.sent.packets,
        flow.received.packets,
    )
}

/// The rules of the policy in force.
pub(super) fn rules(socket: &Path, json: bool) -> Result<(), Failure> {
    let mut query = RulesQuery::default();
    let mut epoch = None;
    if !json {
        print("HITS          ACTION  RULE\n")?;
    }
    loop {
        let page: RulesPage = page(socket, &Question::Rules(query.clone()))?;
        if *epoch.get_or_insert(page.epoch) != page.epoch {
            return Err(Failure::Changed);
        }
        let lines: String = if json {
            page.rules.iter().map(json_line).collect()
        } else {
            page.rules.iter().map(rule).collect()
        };
        print(&lines)?;
        match page.next {
            Some(next) if next > query.from => query.from = next,
            _ => return Ok(()),
        }
    }
}

fn rule(report: &RuleReport) -> String {
    format!(
        "{:<12}  {:<6}  {}\n",
        report.hits, report.action, report.rule
    )
}

/// One answer.
pub(super) fn page<T: DeserializeOwned>(socket: &Path, question: &Question) -> Result<T, Failure> {
    let value = ask(socket, question)?;
    let strange = |source| AskError::Strange {
        path: socket.to_owned(),
        source,
    };
    Ok(serde_json::from_value(value).map_err(strange)?)
}

fn json_line(value: &impl Serialize) -> String {
    // Our own types always serialise.
    serde_json::to_string(value).unwrap_or_default() + "\n"
}

/// An IP protocol by name or number.
pub(super) fn parse_protocol(text: &str) -> Result<u8, String> {
    match text {
        "tcp" => Ok(protocol::TCP),
        "udp" => Ok(protocol::UDP),
        "icmp" => Ok(protocol::ICMP),
        "icmp6" | "icmpv6" => Ok(protocol::ICMPV6),
        number => number
            .parse()
            .map_err(|_| "choose tcp, udp, icmp, icmpv6 or a number up to 255".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{RuleName, Traffic};

    #[test]
    fn a_time_is_a_date() {
        for (millis, text) in [
            (0, "1970-01-01 00:00:00.000"),
            (951_782_399_999, "2000-02-28 23:59:59.999"),
            (951_782_400_000, "2000-02-29 00:00:00.000"),
            (1_735_689_600_001, "2025-01-01 00:00:00.001"),
            (4_107_542_400_000, "2100-03-01 00:00:00.000"),
        ] {
            assert_eq!(time(millis), text);
        }
    }

    #[test]
    fn a_dropped_frame_says_when_why_and_what() {
        let report = DropReport {
            time_ms: 0,
            reason: "denied-inbound".to_owned(),
            rule: Some(RuleName {
                name: "admin".to_owned(),
                origin: "lan.toml:12".to_owned(),
            }),
            to: Some("db".to_owned()),
            len: 18,
            bytes: "52540000000252540000000188b501020304".to_owned(),
        };
        assert_eq!(
            dropped(&report),
            "  1970-01-01 00:00:00.000 denied-inbound to db, lan.toml:12 (admin)\n    \
             52:54:00:00:00:01 > 52:54:00:00:00:02 type 0x88b5, 18 bytes\n    \
             0000  52 54 00 00 00 02 52 54 00 00 00 01 88 b5 01 02\n    \
             0010  03 04\n"
        );
    }

    #[test]
    fn a_connection_is_one_line() {
        let report = FlowReport {
            from: "web".to_owned(),
            to: "db".to_owned(),
            vlan: 1,
            protocol: 6,
            src: "10.0.0.5".parse().unwrap(),
            src_port: 40000,
            dst: "10.0.0.6".parse().unwrap(),
            dst_port: 5432,
            macs: [String::new(), String::new()],
            state: "established".to_owned(),
            sent: Traffic {
                packets: 12,
                bytes: 3000,
            },
            received: Traffic::default(),
            age: 60,
            idle: 1,
            rules: [None, None],
        };
        assert_eq!(
            flow(&report),
            "tcp    established   60 s     1 s      12         0          \
             web > db: 10.0.0.5:40000 > 10.0.0.6:5432\n"
        );
    }
}
