//! The arguments, as clap reads them.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::demo::DemoArgs;
use super::import::ImportArgs;
use super::load::LoadArgs;
use super::seen::parse_protocol;
use super::target::Target;
use crate::config::Overrides;

const EXIT_CODES: &str = "Exit codes: 0 done; 1 failed while it ran; 2 wrong arguments; \
    3 configuration refused, nothing started or changed";

/// How a command is typed, and what its exit codes mean.
macro_rules! example {
    ($lines:literal) => {
        concat!(
            "Example:\n  ",
            $lines,
            "\n\nExit codes: 0 done; 1 failed while it ran; 2 wrong arguments; 3 configuration refused, nothing started or changed"
        )
    };
}

/// A secure vhost-user layer-2 switch.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100, after_help = EXIT_CODES)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run a switch until SIGTERM or SIGINT
    #[command(after_help = example!("portcullis run lan.toml\n  portcullis run --port web=/tmp/web.sock --port db=/tmp/db.sock,mac=52:54:00:00:00:02"))]
    Run(RunArgs),
    /// Say whether `run` would start with this configuration, and start nothing
    #[command(after_help = example!("portcullis check lan.toml\n\nNotes of what is allowed and may not be what was meant go to standard error."))]
    Check(SwitchArgs),
    /// Convert another program's configuration to ours
    Import(ImportArgs),
    /// Show a switch with guests in software, one of them hostile
    Demo(DemoArgs),
    /// Put the ports of any vhost-user network back-end under load, and report what arrives
    Load(Box<LoadArgs>),
    /// Show what a running switch is doing
    #[command(after_help = example!("portcullis status\n  portcullis status lan --rules\n  portcullis status --json | jq -r '.ports[] | [.name, .state] | @tsv'"))]
    Status(StatusArgs),
    /// Have a running switch take up its configuration file again, or another, all or nothing
    #[command(after_help = example!("portcullis reload\n  portcullis reload /etc/portcullis/lan-new.toml"))]
    Reload(ReloadArgs),
    /// Show what a reload with another configuration would change, and change nothing
    #[command(after_help = example!("portcullis plan /etc/portcullis/lan-new.toml"))]
    Plan(PlanArgs),
    /// Show what a configuration does with a packet, step by step
    #[command(after_help = example!("portcullis explain -c lan.toml --from web --to db 'tcp 10.0.0.5:40000 > 10.0.0.6:5432'\n  portcullis explain -c lan.toml --from web --to db 'tcp > :5432'\n  portcullis explain -c lan.toml --from web --pcap web.pcap\n\ndocs/configuration.md has all the words of packets, under [[assert]]. Whatever the verdict, the exit code is 0."))]
    Explain(ExplainArgs),
    /// List the addresses of a running switch
    #[command(after_help = example!("portcullis fdb --port web"))]
    Fdb(FdbArgs),
    /// Show the last frames of each port that were dropped, and why: a sample, not all
    #[command(after_help = example!("portcullis drops web\n  portcullis drops --pcap drops.pcapng"))]
    Drops(DropsArgs),
    /// List the connections that a running switch tracks
    #[command(after_help = example!("portcullis flows --port web --proto tcp"))]
    Flows(FlowsArgs),
    /// Cut a port off from all but its helpers, until it is released
    #[command(after_help = example!("portcullis quarantine web\n  portcullis quarantine web --helpers update-server,bastion"))]
    Quarantine(QuarantineArgs),
    /// Let a port out of quarantine
    #[command(after_help = example!("portcullis release web"))]
    Release(ReleaseArgs),
}

#[derive(Debug, Args)]
pub(super) struct ReloadArgs {
    /// The file; if it is taken up, it is the switch's from then on [default: the switch's own]
    pub(super) file: Option<PathBuf>,

    #[command(flatten)]
    pub(super) target: Target,

    /// As JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    /// The configuration that might be taken up
    pub(super) file: PathBuf,

    #[command(flatten)]
    pub(super) target: Target,

    /// As JSON, all of it
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    /// The configuration
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    pub(super) file: PathBuf,

    /// The port whose guest sends it
    #[arg(long, value_name = "PORT")]
    pub(super) from: String,

    /// The port whose guest it is for; without one, whoever has the address
    #[arg(long, value_name = "PORT")]
    pub(super) to: Option<String>,

    /// The packet: 'tcp 10.0.0.5:40000 > 10.0.0.6:5432', 'udp > :53', 'icmp 10.0.0.5 > 10.0.0.6', 'arp 10.0.0.5 >
    /// 10.0.0.6', 'hex 525400...'
    #[arg(required_unless_present = "pcap")]
    pub(super) packet: Option<String>,

    /// Each frame of a pcap or pcapng file instead, as if nothing had been sent before it
    #[arg(long, value_name = "FILE", conflicts_with = "packet")]
    pub(super) pcap: Option<PathBuf>,

    /// As if this port were in quarantine: behind that list or, without one, as its own `quarantine` table has it. May be
    /// given several times
    #[arg(long, value_name = "PORT[=LIST]")]
    pub(super) quarantined: Vec<String>,

    /// As JSON; of a file one frame a line
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct FdbArgs {
    #[command(flatten)]
    pub(super) target: Target,

    /// Only the addresses on this port
    #[arg(long)]
    pub(super) port: Option<String>,

    /// As JSON, one address a line
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct DropsArgs {
    /// Only those from this port
    pub(super) port: Option<String>,

    #[command(flatten)]
    pub(super) target: Target,

    /// As JSON, one port a line
    #[arg(long)]
    pub(super) json: bool,

    /// Write them to a pcapng file instead, each with its reason and rule as a comment
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    pub(super) pcap: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct FlowsArgs {
    #[command(flatten)]
    pub(super) target: Target,

    /// Only those from or to this port
    #[arg(long)]
    pub(super) port: Option<String>,

    /// Only those of this protocol: tcp, udp, icmp, icmpv6 or a number
    #[arg(long, value_parser = parse_protocol)]
    pub(super) proto: Option<u8>,

    /// At most so many
    #[arg(long, value_name = "COUNT")]
    pub(super) limit: Option<usize>,

    /// As JSON, one connection a line
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct QuarantineArgs {
    /// The port; without one, those in quarantine are listed
    pub(super) port: Option<String>,

    #[command(flatten)]
    pub(super) target: Target,

    /// Ports or groups that it may still talk to, as far as the policy lets it: port:NAME, group:NAME, or NAME for the port of that
    /// name, and for the group where there is no such port
    #[arg(long, value_name = "NAME", value_delimiter = ',', requires = "port")]
    pub(super) helpers: Vec<String>,

    /// A list of the configuration, [acl.LIST], that it is behind instead of its own: it may do what that allows, as far as the
    /// others' lists let it
    #[arg(
        long,
        value_name = "LIST",
        requires = "port",
        conflicts_with = "helpers"
    )]
    pub(super) allow: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct ReleaseArgs {
    /// The port
    pub(super) port: String,

    #[command(flatten)]
    pub(super) target: Target,
}

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    pub(super) switch: SwitchArgs,

    /// What to log: error, warn, info, debug, trace, or tracing directives [default: $PORTCULLIS_LOG, else info]
    #[arg(long, value_name = "LEVEL")]
    pub(super) log: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// The switch's name; not needed when only one runs
    #[arg(conflicts_with = "control")]
    pub(super) name: Option<String>,

    /// The same, as the other commands have it
    #[arg(long, value_name = "NAME", conflicts_with_all = ["name", "control"])]
    pub(super) switch: Option<String>,

    /// Its control socket [default: portcullis/NAME.sock in $XDG_RUNTIME_DIR or /run]
    #[arg(long, value_name = "PATH")]
    pub(super) control: Option<PathBuf>,

    /// As JSON, all of it
    #[arg(long)]
    pub(super) json: bool,

    /// The rules in force instead, with the frames that each has decided
    #[arg(long, conflicts_with = "watch")]
    pub(super) rules: bool,

    /// Again and again, every so many seconds
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1", require_equals = true)]
    pub(super) watch: Option<u32>,
}

/// What makes a switch: a file, flags, or both.
#[derive(Debug, Args)]
pub(super) struct SwitchArgs {
    /// The configuration, in TOML
    #[arg(value_name = "FILE", required_unless_present = "ports")]
    pub(super) file: Option<PathBuf>,

    /// A port; may be repeated. Keys: connect=yes, mode=bridge|isolated|private, uplink=yes, group=NAME, mac=ADDRESS,
    /// vlan=ID, trunk=ID|FROM-TO|all, native=ID, queues=PAIRS, mtu=BYTES, ip=ADDRESS|PREFIX|dhcp, acl=LIST,
    /// spoofing=allow, dhcp_server=yes, router=yes, link_protocols=yes, max_macs=COUNT, max_leases=COUNT,
    /// addressing_rate=RATE, connections=COUNT, half_open=COUNT, new_connections=RATE, and the limits send=RATE,
    /// receive=RATE, send_frames=RATE, receive_frames=RATE, broadcast=RATE, multicast=RATE, unknown=RATE, membership=RATE,
    /// multicast_groups=COUNT, burst=TIME; group, mac, trunk, ip and acl may be repeated
    #[arg(long = "port", value_name = "NAME=PATH[,KEY=VALUE]...")]
    ports: Vec<String>,

    /// The switch's name [default: the file's name without its ending]
    #[arg(long)]
    name: Option<String>,

    /// The mode of ports that name none: bridge, isolated or private
    #[arg(long)]
    mode: Option<String>,

    /// The control socket [default: portcullis/NAME.sock in $XDG_RUNTIME_DIR or /run]
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,

    /// Worker threads
    #[arg(long, value_name = "COUNT")]
    workers: Option<String>,

    /// One CPU for each worker
    #[arg(long, value_name = "CPU", value_delimiter = ',')]
    cpus: Vec<String>,

    /// How workers wait: adaptive, always or never
    #[arg(long)]
    poll: Option<String>,
}

impl SwitchArgs {
    pub(super) fn overrides(&self) -> Overrides {
        Overrides {
            name: self.name.clone(),
            mode: self.mode.clone(),
            control: self.control.clone(),
            workers: self.workers.clone(),
            cpus: self.cpus.clone(),
            poll: self.poll.clone(),
            ports: self.ports.clone(),
        }
    }
}
