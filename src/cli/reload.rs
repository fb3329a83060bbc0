//! `portcullis reload`: has a running switch take up a configuration, all or nothing.

use std::path;

use super::args::ReloadArgs;
use super::{Failure, print};
use crate::control::{AskError, Question, ReloadReport, ReloadRequest, ask};

pub(super) fn reload(args: &ReloadArgs) -> Result<(), Failure> {
    let socket = args.target.socket()?;
    // The switch has a working directory of its own.
    let file = args.file.as_ref();
    let file = file.map(|file| path::absolute(file).unwrap_or_else(|_| file.clone()));
    let request = Question::Reload(ReloadRequest { file });
    let value = ask(&socket, &request).map_err(|error| match error {
        AskError::Refused { why, .. } => Failure::NotTakenUp(why),
        other => other.into(),
    })?;
    if args.json {
        return print(&format!("{value:#}\n"));
    }
    let report: ReloadReport =
        serde_json::from_value(value).map_err(|source| AskError::Strange {
            path: socket,
            source,
        })?;
    print(&said(&report))
}

fn said(report: &ReloadReport) -> String {
    let what = if report.change.is_empty() {
        "nothing has changed".to_owned()
    } else {
        format!("in force as policy {}", report.epoch)
    };
    let ended = match report.flows_ended {
        0 => String::new(),
        n => format!("  ended     {n} connections that were open and may not be any more\n"),
    };
    format!(
        "{}: {what}\n{}{ended}",
        report.file.display(),
        report.change
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::ChangeReport;

    #[test]
    fn a_reload_says_what_it_did() {
        let mut report = ReloadReport {
            file: "/etc/lan.toml".into(),
            epoch: 7,
            change: ChangeReport::default(),
            flows_ended: 0,
        };
        assert_eq!(said(&report), "/etc/lan.toml: nothing has changed\n");
        report.change.removed = vec!["web".to_owned()];
        assert_eq!(
            said(&report),
            "/etc/lan.toml: in force as policy 7\n  removed   web\n"
        );
        report.flows_ended = 3;
        assert!(
            said(&report)
                .ends_with("  ended     3 connections that were open and may not be any more\n")
        );
    }
}
