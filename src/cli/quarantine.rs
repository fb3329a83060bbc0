//! `portcullis quarantine` and `portcullis release`.

use std::path::Path;

use super::args::{QuarantineArgs, ReleaseArgs};
use super::{Failure, print};
use crate::control::{
    AskError, QuarantineAnswer, QuarantineReport, QuarantineRequest, Question, ReleaseRequest,
    SwitchReport, ask,
};

pub(super) fn quarantine(args: &QuarantineArgs) -> Result<(), Failure> {
    let socket = args.target.socket()?;
    match &args.port {
        None => list(&socket),
        Some(port) => order(
            &socket,
            &Question::Quarantine(QuarantineRequest {
                port: port.clone(),
                helpers: args.helpers.clone(),
                allow: args.allow.clone(),
            }),
        ),
    }
}

pub(super) fn release(args: &ReleaseArgs) -> Result<(), Failure> {
    let port = args.port.clone();
    order(
        &args.target.socket()?,
        &Question::Release(ReleaseRequest { port }),
    )
}

/// Has it done, and shows who is in quarantine then.
fn order(socket: &Path, question: &Question) -> Result<(), Failure> {
    let answer: QuarantineAnswer = understood(socket, ask(socket, question)?)?;
    print(&listed(&answer.ports))?;
    match answer.not_saved {
        None => Ok(()),
        Some(why) => Err(Failure::NotSaved(why)),
    }
}

fn list(socket: &Path) -> Result<(), Failure> {
    let report: SwitchReport = understood(socket, ask(socket, &Question::Status)?)?;
    let ports = report.ports.into_iter();
    let ports: Vec<_> = ports.filter_map(|port| port.quarantine).collect();
    print(&listed(&ports))
}

fn understood<T: serde::de::DeserializeOwned>(
    socket: &Path,
    value: serde_json::Value,
) -> Result<T, Failure> {
    let strange = |source| AskError::Strange {
        path: socket.to_owned(),
        source,
    };
    Ok(serde_json::from_value(value).map_err(strange)?)
}

fn listed(ports: &[QuarantineReport]) -> String {
    if ports.is_empty() {
        return "no port is in quarantine\n".to_owned();
    }
    ports.iter().map(line).collect()
}

fn line(port: &QuarantineReport) -> String {
    format!("{}: in quarantine {}\n", port.port, port.said())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_in_quarantine_are_listed_with_whom_they_reach() {
        let port = |name: &str, helpers: &[&str]| QuarantineReport {
            port: name.to_owned(),
            helpers: helpers.iter().map(|name| (*name).to_owned()).collect(),
            allow: None,
            list_is_gone: false,
            since: 0,
            by: "operator".to_owned(),
        };
        assert_eq!(listed(&[]), "no port is in quarantine\n");
        assert_eq!(
            listed(&[port("web", &[]), port("db", &["scanner", "dns"])]),
            "web: in quarantine by operator, reaches nobody\n\
             db: in quarantine by operator, reaches scanner, dns\n"
        );
        let behind = QuarantineReport {
            allow: Some("sick".to_owned()),
            ..port("web", &[])
        };
        let gone = QuarantineReport {
            list_is_gone: true,
            ..behind.clone()
        };
        assert_eq!(
            listed(&[behind, gone]),
            "web: in quarantine by operator, reaches what list sick allows\n\
             web: in quarantine by operator, reaches nobody: there is no list sick\n"
        );
    }
}
