//! The words of the control socket, version 1.
//!
//! ```json
//! {"version":1,"request":"status"}
//! {"version":1,"status":{"name":"lan","ports":[]}}
//! {"version":1,"request":{"reload":{"file":"/etc/portcullis/lan.toml"}}}
//! {"version":1,"reload":{"file":"/etc/portcullis/lan.toml","epoch":2,"change":{}}}
//! {"version":1,"error":"unknown request"}
//! ```
//!
//! A later version may add requests and fields; a client passes over fields that it does not know. Something that an old
//! client would misread gets a new version, and the switch says which one it speaks.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::change::{ConfigurationReport, QuarantineAnswer, ReloadReport};
use super::report::SwitchReport;
use super::seen::{DropsPage, DropsQuery, FlowsPage, FlowsQuery, RulesPage, RulesQuery};
use super::table::{FdbPage, FdbQuery};

/// The version of the protocol.
pub const VERSION: u32 = 1;
/// The longest request, in bytes, with its newline: a path and some names.
pub const MAX_REQUEST: usize = 8192;

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Question {
    /// All about the switch and its ports.
    Status,
    /// Read the configuration again and take it up, all or nothing. Answered when that is done.
    Reload(ReloadRequest),
    /// The configuration that runs.
    Configuration,
    /// One page of the forwarding table.
    Fdb(FdbQuery),
    /// The last dropped frames of some ports.
    Drops(DropsQuery),
    /// One page of the tracked connections.
    Flows(FlowsQuery),
    /// One page of the rules in force, with their hits.
    Rules(RulesQuery),
    /// Put a port in quarantine, or change its helpers.
    Quarantine(QuarantineRequest),
    /// Let a port out of quarantine.
    Release(ReleaseRequest),
}

impl Question {
    /// The key of its answer.
    #[must_use]
    pub const fn key(&self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Reload(_) => "reload",
            Self::Configuration => "configuration",
            Self::Fdb(_) => "fdb",
            Self::Drops(_) => "drops",
            Self::Flows(_) => "flows",
            Self::Rules(_) => "rules",
            Self::Quarantine(_) | Self::Release(_) => "quarantine",
        }
    }
}

/// What to read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReloadRequest {
    /// An absolute path; none for the file that the switch has its configuration from. If it is taken up, it is
    /// the file of the switch from then on.
    pub file: Option<PathBuf>,
}

/// Whom to put aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuarantineRequest {
    /// The port.
    pub port: String,
    /// Ports and groups that it may still talk to.
    #[serde(default)]
    pub helpers: Vec<String>,
    /// A list of the configuration that it is to be behind, instead of helpers: it may do what that allows.
    #[serde(default)]
    pub allow: Option<String>,
}

/// Whom to let out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseRequest {
    /// The port.
    pub port: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Request {
    pub(super) version: u32,
    pub(super) request: Question,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// To [`Question::Status`].
    Status(Box<SwitchReport>),
    /// To [`Question::Reload`].
    Reload(ReloadReport),
    /// To [`Question::Configuration`].
    Configuration(Box<ConfigurationReport>),
    /// To [`Question::Fdb`].
    Fdb(FdbPage),
    /// To [`Question::Drops`].
    Drops(DropsPage),
    /// To [`Question::Flows`].
    Flows(FlowsPage),
    /// To [`Question::Rules`].
    Rules(RulesPage),
    /// To [`Question::Quarantine`] and [`Question::Release`].
    Quarantine(QuarantineAnswer),
    /// The request was refused.
    Error(String),
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Reply<A = Answer> {
    pub(super) version: u32,
    #[serde(flatten)]
    pub(super) answer: A,
}

/// One line to a question.
pub(super) fn parse(line: &[u8]) -> Result<Question, String> {
    #[derive(Deserialize)]
    struct AnyVersion {
        version: u32,
    }
    // The version first: a request of another version may have any shape.
    let any: AnyVersion =
        serde_json::from_slice(line).map_err(|error| format!("not a request: {error}"))?;
    if any.version != VERSION {
        return Err(format!(
            "version {} is not spoken here; use version {VERSION}",
            any.version
        ));
    }
    let request: Request =
        serde_json::from_slice(line).map_err(|error| format!("not a request: {error}"))?;
    Ok(request.request)
}

/// One answer to a line.
pub(super) fn line(answer: Answer) -> Vec<u8> {
    let version = VERSION;
    let reply = Reply { version, answer };
    let mut line = serde_json::to_vec(&reply).unwrap_or_else(|error| {
        // Our own types always serialise; should one not, the client is told and the switch goes on.
        format!("{{\"version\":{VERSION},\"error\":\"cannot be said: {error}\"}}").into_bytes()
    });
    line.push(b'\n');
    line
}
