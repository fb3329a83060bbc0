//! What changes: between the configuration that runs and another, and what a reload did.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What another configuration would change, or has changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeReport {
    /// Ports that there were not before.
    pub added: Vec<String>,
    /// Ports that there are not any more; their connections end.
    pub removed: Vec<String>,
    /// Ports that are made anew; their connections end.
    pub replaced: Vec<PortChange>,
    /// Ports whose connections go on.
    pub changed: Vec<PortChange>,
    /// What is changed beside the ports: `fdb ageing 300 to 60`.
    pub settings: Vec<String>,
}

impl ChangeReport {
    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self == &Self::default()
    }
}

/// Ports by name, one kind of change a line; nothing for no change.
impl fmt::Display for ChangeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |title: &str, items: &[String]| {
            if items.is_empty() {
                return Ok(());
            }
            writeln!(f, "  {title:<9} {}", items.join(", "))
        };
        let said = |ports: &[PortChange]| ports.iter().map(PortChange::to_string).collect();
        let (replaced, changed): (Vec<_>, Vec<_>) = (said(&self.replaced), said(&self.changed));
        line("added", &self.added)?;
        line("removed", &self.removed)?;
        line("replaced", &replaced)?;
        line("changed", &changed)?;
        line("settings", &self.settings)
    }
}

/// One port, and which of its keys differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortChange {
    /// The port.
    pub name: String,
    /// Its keys, as the configuration calls them.
    pub keys: Vec<String>,
}

impl fmt::Display for PortChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.keys.join(" "))
    }
}

/// What a reload has done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadReport {
    /// The file that was read.
    pub file: PathBuf,
    /// The policy in force since.
    pub epoch: u64,
    /// What it changed.
    pub change: ChangeReport,
    /// Connections that were open and may not be any more: they ended.
    #[serde(default)]
    pub flows_ended: u64,
}

/// The configuration that runs, as whoever wants to compare needs it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigurationReport {
    /// The file that it was read from; none for a switch of flags alone.
    pub file: Option<PathBuf>,
    /// What the file said when it was read.
    pub text: String,
    /// What the command line says, which wins over the file.
    pub flags: Flags,
    /// The policy in force.
    pub epoch: u64,
}

/// The flags of `run` that make a switch, each as it was given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the flags, by name")]
pub struct Flags {
    pub name: Option<String>,
    pub mode: Option<String>,
    pub control: Option<PathBuf>,
    pub workers: Option<String>,
    pub cpus: Vec<String>,
    pub poll: Option<String>,
    pub ports: Vec<String>,
}

/// A port in quarantine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuarantineReport {
    /// The port's name.
    pub port: String,
    /// Ports and groups that it may still talk to, by name.
    pub helpers: Vec<String>,
    /// The list of the configuration that it is behind, if it is behind one.
    #[serde(default)]
    pub allow: Option<String>,
    /// The configuration that is in force has no such list: the port reaches nobody.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub list_is_gone: bool,
    /// Seconds since the epoch of Unix.
    pub since: u64,
    /// Whose doing it is: `operator`, or the trigger.
    pub by: String,
}

impl QuarantineReport {
    /// Whose doing it is, and what it still reaches: `by operator, reaches db, dns`.
    #[must_use]
    pub fn said(&self) -> String {
        let reaches = match &self.allow {
            Some(list) if self.list_is_gone => format!("nobody: there is no list {list}"),
            Some(list) => format!("what list {list} allows"),
            None if self.helpers.is_empty() => "nobody".to_owned(),
            None => self.helpers.join(", "),
        };
        format!("by {}, reaches {reaches}", self.by)
    }
}

/// What `quarantine` and `release` answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantineAnswer {
    /// All ports in quarantine now.
    pub ports: Vec<QuarantineReport>,
    /// Why this would not survive a restart, when it would not.
    pub not_saved: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_said_one_kind_a_line() {
        let port = |name: &str, keys: &[&str]| PortChange {
            name: name.to_owned(),
            keys: keys.iter().map(|key| (*key).to_owned()).collect(),
        };
        let change = ChangeReport {
            added: vec!["new".to_owned()],
            replaced: vec![port("web", &["queues"])],
            changed: vec![port("db", &["mode", "vlan"]), port("app", &["mac"])],
            ..ChangeReport::default()
        };
        assert_eq!(
            change.to_string(),
            "  added     new\n  replaced  web (queues)\n  changed   db (mode vlan), app (mac)\n"
        );
        assert_eq!(ChangeReport::default().to_string(), "");
    }
}
