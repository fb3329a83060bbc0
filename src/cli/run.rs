//! `portcullis run`: one switch until SIGTERM or SIGINT; SIGHUP has it reload.

use std::path;

use sd_notify::NotifyState;

use super::Failure;
use super::args::RunArgs;
use super::{check, logging};
use crate::config::{PortSpec, SwitchSpec};
use crate::daemon::{
    Reloader, Stopper, Switch, ignore_user_signals, reload_on_hangup, stop_on_signals,
};

/// Ports for which the log says how to plug a guest in; with more, the first of them stand for all.
const HINTS: usize = 8;

pub(super) fn run(args: &RunArgs) -> Result<(), Failure> {
    logging::start(args.log.as_deref())?;
    let (mut source, spec) = check::validated(&args.switch)?;
    // A reload names the same file wherever it is asked for from.
    source.file = source
        .file
        .map(|file| path::absolute(&file).unwrap_or(file));
    for note in &spec.notes {
        tracing::warn!("{note}");
    }
    let (stopper, reloader) = (Stopper::new()?, Reloader::new()?);
    stop_on_signals(&stopper)?;
    reload_on_hangup(&reloader)?;
    ignore_user_signals()?;
    let mut switch = Switch::start_from(source, spec.clone(), stopper, reloader)?;
    announce(&spec);
    switch.run()?;
    tell(&[NotifyState::Stopping]);
    drop(switch);
    tracing::info!(switch = spec.name, "stopped");
    Ok(())
}

fn announce(spec: &SwitchSpec) {
    for port in spec.ports.iter().take(HINTS) {
        tracing::info!(port = port.name, "plug in with QEMU: {}", qemu_line(port));
    }
    if spec.ports.len() > HINTS {
        tracing::info!("and so on for {} more ports", spec.ports.len() - HINTS);
    }
    let control = spec.control.display();
    tracing::info!(switch = spec.name, ports = spec.ports.len(), %control, "ready");
    let status = format!("{} ports", spec.ports.len());
    tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
}

/// Tells systemd, when it asked.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot tell systemd: check NOTIFY_SOCKET");
    }
}

/// The arguments that plug a QEMU guest into `port`.
fn qemu_line(port: &PortSpec) -> String {
    let (name, path) = (&port.name, port.endpoint.path().display());
    let side = if port.is_connecting() {
        "server=on,wait=off"
    } else {
        "reconnect=1"
    };
    let (backend, device) = match port.queues {
        1 => (String::new(), String::new()),
        pairs => (
            format!(",queues={pairs}"),
            format!(",mq=on,vectors={}", 2 * pairs + 2),
        ),
    };
    let mac = port.macs.first();
    let mac = mac.map_or(String::new(), |mac| format!(",mac={mac}"));
    format!(
        "-object memory-backend-memfd,id=mem,size=1G,share=on -machine memory-backend=mem \
         -chardev socket,id={name},path={path},{side} -netdev vhost-user,id=net-{name},chardev={name}{backend} \
         -device virtio-net-pci,netdev=net-{name}{device}{mac}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Overrides, from_text};

    #[test]
    fn the_hint_suits_the_port() {
        let overrides = Overrides {
            ports: vec![
                "a=/run/a".to_owned(),
                "b=/run/b,connect=yes,queues=4,mac=52:54:00:00:00:01".to_owned(),
            ],
            ..Overrides::default()
        };
        let spec = from_text(None, "", &overrides).unwrap();
        let lines: Vec<String> = spec.ports.iter().map(qemu_line).collect();
        assert!(
            lines[0]
                .contains("path=/run/a,reconnect=1 -netdev vhost-user,id=net-a,chardev=a -device")
        );
        assert!(lines[1].contains(
            "path=/run/b,server=on,wait=off -netdev vhost-user,id=net-b,chardev=b,queues=4 "
        ));
        assert!(lines[1].ends_with("netdev=net-b,mq=on,vectors=10,mac=52:54:00:00:00:01"));
    }
}
