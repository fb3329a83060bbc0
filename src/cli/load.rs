//! `portcullis load`: arguments of the load generator, and its verdict.

use std::{io::Write, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use crate::guest::load::{self, Check, Limit, Pace, Pattern, Plan, Report};

/// Put the ports of any vhost-user network back-end under load, and report what arrives.
#[derive(Debug, Clone, Args)]
pub struct LoadArgs {
    /// Socket of a port; name two or more
    #[arg(long = "port", value_name = "PATH", required = true)]
    ports: Vec<PathBuf>,
    /// Listen on the sockets and let the back-end connect
    #[arg(long)]
    listen: bool,
    /// Who sends to whom
    #[arg(long, value_enum, default_value_t = PatternArg::Pairs)]
    pattern: PatternArg,
    /// Closed loop: frames that each sender keeps in flight
    #[arg(
        long,
        value_name = "FRAMES",
        default_value_t = 256,
        conflicts_with = "rate"
    )]
    in_flight: u32,
    /// Open loop: frames that each sender sends in a second
    #[arg(long, value_name = "FRAMES/S")]
    rate: Option<f64>,
    /// Bytes of a frame, 62 to 65549; above 1514 as one TCP segment to be cut
    #[arg(long, value_name = "BYTES", default_value_t = 64)]
    size: usize,
    /// Flows of each sender, told apart by their source port
    #[arg(long, default_value_t = 1)]
    flows: u16,
    /// Write each frame anew and read every byte of it
    #[arg(long)]
    touch: bool,
    /// How closely each frame is looked at
    #[arg(long, value_enum, default_value_t = CheckArg::Order)]
    check: CheckArg,
    /// Seconds to measure
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 2.0,
        conflicts_with = "count"
    )]
    duration: f64,
    /// Stop after this many frames were sent in all
    #[arg(long, value_name = "FRAMES")]
    count: Option<u64>,
    /// Seconds of load before the measuring begins
    #[arg(long, value_name = "SECONDS", default_value_t = 0.2)]
    warm_up: f64,
    /// Descriptors of each ring, a power of two
    #[arg(long, default_value_t = 1024)]
    ring_size: u16,
    /// Bytes of a receive buffer [default: room for a whole frame, 2048 at least]
    #[arg(long, value_name = "BYTES")]
    rx_buffer: Option<u32>,
    /// Do not negotiate IN_ORDER
    #[arg(long)]
    no_in_order: bool,
    /// Do not negotiate MRG_RXBUF
    #[arg(long)]
    no_mergeable: bool,
    /// Negotiate EVENT_IDX
    #[arg(long)]
    event_idx: bool,
    /// MAC address of the first port; the others count up from it
    #[arg(long, value_parser = mac, default_value = "52:54:00:4c:00:01")]
    mac: [u8; 6],
    /// Seconds to wait for the back-end: its socket, its answers, the first frame
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    patience: f64,
    /// Processor to run on
    #[arg(long)]
    cpu: Option<usize>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PatternArg {
    /// The ports two by two, both directions at once
    Pairs,
    /// The ports two by two, from the first to the second only
    OneToOne,
    /// Every port to every other, in turn
    AllToAll,
    /// One frame back and forth in each pair
    PingPong,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CheckArg {
    /// Count only
    None,
    /// Order, gaps, duplicates, wrong ports; times one frame of each burst
    Order,
    /// The same, and every byte of the body
    Full,
}

/// Why a load is a failure.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It could not be put on, or broke off.
    #[error(transparent)]
    Run(#[from] crate::guest::Error),
    /// An argument is out of range.
    #[error("--{name} {value}: not a number of seconds")]
    Seconds {
        /// The argument.
        name: &'static str,
        /// What was given.
        value: f64,
    },
    /// The back-end damaged or repeated frames.
    #[error("{corrupt} corrupt and {duplicates} duplicate frames arrived")]
    Broken {
        /// Frames whose length or content had changed.
        corrupt: u64,
        /// Frames that arrived a second time.
        duplicates: u64,
    },
    /// Nothing arrived.
    #[error("{sent} frames were sent and none arrived; are the ports in one segment?")]
    Nothing {
        /// Frames that were sent.
        sent: u64,
    },
    /// The report could not be printed.
    #[error("cannot print the report")]
    Print(#[from] std::io::Error),
    /// The report could not be encoded.
    #[error("cannot encode the report")]
    Encode(#[from] serde_json::Error),
}

/// Runs the load on this thread and prints the report to standard output.
///
/// # Errors
///
/// When the load cannot be put on, nothing arrives, or frames arrive twice or damaged; the report is
/// printed first wherever there is one.
pub fn run(args: &LoadArgs) -> Result<(), LoadError> {
    let report = load::run(&plan(args)?)?;
    print(args, &report)?;
    if report.faults.broken() {
        return Err(LoadError::Broken {
            corrupt: report.faults.corrupt,
            duplicates: report.faults.duplicates,
        });
    }
    if report.received == 0 {
        return Err(LoadError::Nothing { sent: report.sent });
    }
    Ok(())
}

fn plan(args: &LoadArgs) -> Result<Plan, LoadError> {
    let seconds = |name, value: f64| {
        Duration::try_from_secs_f64(value).map_err(|_| LoadError::Seconds { name, value })
    };
    Ok(Plan {
        ports: args.ports.clone(),
        listen: args.listen,
        pattern: match args.pattern {
            PatternArg::Pairs => Pattern::Pairs,
            PatternArg::OneToOne => Pattern::OneToOne,
            PatternArg::AllToAll => Pattern::AllToAll,
            PatternArg::PingPong => Pattern::PingPong,
        },
        pace: args.rate.map_or(Pace::InFlight(args.in_flight), Pace::Rate),
        size: args.size,
        flows: args.flows,
        touch: args.touch,
        check: match args.check {
            CheckArg::None => Check::None,
            CheckArg::Order => Check::Order,
            CheckArg::Full => Check::Full,
        },
        limit: match args.count {
            Some(frames) => Limit::Frames(frames),
            None => Limit::Time(seconds("duration", args.duration)?),
        },
        warm_up: seconds("warm-up", args.warm_up)?,
        ring_size: args.ring_size,
        rx_buffer: args.rx_buffer,
        in_order: !args.no_in_order,
        mergeable: !args.no_mergeable,
        event_idx: args.event_idx,
        mac: args.mac,
        patience: seconds("patience", args.patience)?,
        cpu: args.cpu,
    })
}

fn print(args: &LoadArgs, report: &Report) -> Result<(), LoadError> {
    let mut out = std::io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, report)?;
        writeln!(out)?;
    } else {
        write!(out, "{report}")?;
    }
    Ok(())
}

/// A unicast MAC address, six hexadecimal bytes with colons.
fn mac(text: &str) -> Result<[u8; 6], String> {
    let wrong = || format!("{text:?} is not a unicast MAC address like 52:54:00:4c:00:01");
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        let part = parts.next().filter(|p| p.len() == 2).ok_or_else(wrong)?;
        *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
    }
    match (parts.next(), bytes) {
        (None, [first, ..]) if first & 1 == 0 => Ok(bytes),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: LoadArgs,
    }

    fn parse(line: &str) -> Result<Plan, String> {
        let words = std::iter::once("load").chain(line.split_whitespace());
        let line = Line::try_parse_from(words).map_err(|e| e.to_string())?;
        plan(&line.args).map_err(|e| e.to_string())
    }

    #[test]
    fn a_line_becomes_a_plan() {
        let plan =
            parse("--port a --port b --rate 1e6 --size 1500 --check full --count 9").unwrap();
        assert_eq!(plan.ports.len(), 2);
        assert_eq!(plan.pace, Pace::Rate(1e6));
        assert_eq!(plan.limit, Limit::Frames(9));
        assert_eq!(plan.check, Check::Full);
        assert!(plan.in_order && plan.mergeable && !plan.event_idx);
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (line, named) in [
            ("", "--port"),
            ("--port a --rate 5 --in-flight 7", "--rate"),
            ("--port a --duration=-1", "duration"),
            ("--port a --mac 01:00:00:00:00:01", "--mac"),
            ("--port a --mac 52:54:00:00:01", "--mac"),
            ("--port a --pattern star", "star"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(named), "{line}: {error}");
        }
    }

    #[test]
    fn one_port_is_no_load() {
        let error = load::run(&parse("--port a").unwrap()).unwrap_err();
        assert!(error.to_string().contains("2 to 1024"), "{error}");
    }
}
