//! `portcullis import nwfilter`: libvirt's network filters as our configuration.

use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Failure, print};
use crate::config::nwfilter::import;

#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Convert a libvirt network filter to TOML on standard output, and name on standard error what has no equal
    #[command(
        after_help = "Example:\n  virsh nwfilter-dumpxml web > web.xml; virsh dumpxml vm1 > vm1.xml\n  \
                      portcullis import nwfilter web.xml --domain vm1.xml > lan.toml"
    )]
    Nwfilter(NwfilterArgs),
}

#[derive(Debug, Args)]
struct NwfilterArgs {
    /// The filter, as `virsh nwfilter-dumpxml` prints it; filters that it refers to are looked for beside it
    #[arg(value_name = "FILTER.xml")]
    file: PathBuf,

    /// A domain, as `virsh dumpxml` prints it: its interfaces that use the filter become ports, with their parameters
    #[arg(long, value_name = "DOMAIN.xml")]
    domain: Option<PathBuf>,

    /// Leave this filter out where the others refer to it and it is not there: what it drops may pass, and what it accepts may be dropped
    #[arg(long, value_name = "NAME")]
    without: Vec<String>,

    /// End with exit code 1 when anything was left out
    #[arg(long)]
    strict: bool,
}

pub(super) fn run(args: &ImportArgs) -> Result<(), Failure> {
    let What::Nwfilter(args) = &args.what;
    let imported = import(&args.file, args.domain.as_deref(), &args.without)?;
    print(&imported.toml)?;
    let mut err = io::stderr().lock();
    for remark in &imported.remarks {
        // Who does not listen has the same lines in the text.
        let _ = writeln!(err, "{remark}");
    }
    match imported.remarks.len() {
        count if count > 0 && args.strict => Err(Failure::LeftOut(count)),
        _ => Ok(()),
    }
}
