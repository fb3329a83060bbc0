//! What must hold between ports.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::spec::{MAX_SOCKET_PATH, PortSpec};
use super::validate::Switch;
use super::{Fault, Place};
use crate::counters::MAX_PORTS;
use crate::frame::Mac;

pub(super) fn check_count(ports: &[PortSpec], whole: &Place, faults: &mut Vec<Fault>) {
    let (problem, remedy) = if ports.len() > MAX_PORTS {
        let problem = format!(
            "{} ports, and a switch has {MAX_PORTS} at most",
            ports.len()
        );
        (problem, "run a second switch for the rest")
    } else if ports.is_empty() && faults.is_empty() {
        let remedy = "add [port.NAME] with its socket, or --port NAME=PATH";
        ("a switch without ports".to_owned(), remedy)
    } else {
        return;
    };
    faults.push(Fault {
        place: whole.clone(),
        subject: String::new(),
        problem,
        remedy: remedy.to_owned(),
    });
}

/// No two ports share a name, a socket or an address.
pub(super) fn check_between(ports: &[PortSpec], faults: &mut Vec<Fault>) {
    let mut names: HashMap<&str, &PortSpec> = HashMap::new();
    let mut sockets: HashMap<PathBuf, &PortSpec> = HashMap::new();
    let mut macs: HashMap<Mac, &PortSpec> = HashMap::new();
    for port in ports {
        let mut refuse = |place: &Place, key: &str, problem: String, remedy: &str| {
            faults.push(Fault {
                place: place.clone(),
                subject: format!("port {:?}{key}", port.name),
                problem,
                remedy: remedy.to_owned(),
            });
        };
        if let Some(first) = names.insert(&port.name, port) {
            let problem = format!("the name is taken at {}", first.origin);
            refuse(&port.origin, "", problem, "give each port its own name");
        }
        let path = port.endpoint.path();
        if let Some(first) = sockets.insert(same_path(path), port) {
            let problem = format!(
                "{} is the socket of port {:?} at {}",
                path.display(),
                first.name,
                first.origin
            );
            let remedy = "give each port its own socket";
            refuse(&port.origin, ": socket", problem, remedy);
        }
        for mac in &port.macs {
            if let Some(first) = macs.insert(*mac, port)
                && first.name != port.name
            {
                let place =
                    |port: &PortSpec| port.mac_origin.clone().unwrap_or(port.origin.clone());
                let problem = format!(
                    "{mac} is an address of port {:?} at {}",
                    first.name,
                    place(first)
                );
                let remedy = "an address belongs to one port";
                refuse(&place(port), ": mac", problem, remedy);
            }
        }
    }
}

pub(super) fn check_control(switch: &Switch, ports: &[PortSpec], faults: &mut Vec<Fault>) {
    let control = &switch.control;
    let mut refuse = |problem: String, remedy: &str| {
        faults.push(Fault {
            place: switch.control_origin.clone(),
            subject: "[switch]: control".to_owned(),
            problem,
            remedy: remedy.to_owned(),
        });
    };
    let clash = ports
        .iter()
        .find(|port| same_path(port.endpoint.path()) == same_path(control));
    if let Some(port) = clash {
        let problem = format!(
            "{} is the socket of port {:?}",
            control.display(),
            port.name
        );
        refuse(problem, "give the control socket a path of its own");
    }
    let length = control.as_os_str().as_bytes().len();
    if switch.control_is_default && length > MAX_SOCKET_PATH {
        let problem = format!(
            "the default path, {}, has {length} bytes",
            control.display()
        );
        refuse(
            problem,
            "choose a shorter one with control = \"PATH\" or --control PATH",
        );
    }
}

/// One spelling for each file, as far as that can be told without looking at the file system.
fn same_path(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
