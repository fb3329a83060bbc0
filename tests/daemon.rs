//! A switch within this process: all of it is started, or nothing.

use std::os::unix::net::UnixStream;
use std::path::Path;

use portcullis::config::{Overrides, SwitchSpec, from_text};
use portcullis::control::{Question, ask};
use portcullis::daemon::{Stopper, Switch};
use portcullis::guest::Guest;

fn spec(directory: &Path, ports: &[&str]) -> SwitchSpec {
    let at = directory.display();
    let overrides = Overrides {
        control: Some(directory.join("control")),
        ports: ports
            .iter()
            .map(|port| format!("{port}={at}/{port}"))
            .collect(),
        ..Overrides::default()
    };
    from_text(None, "", &overrides).unwrap()
}

fn left(directory: &Path) -> usize {
    std::fs::read_dir(directory).unwrap().count()
}

#[test]
fn a_switch_that_cannot_have_all_its_sockets_leaves_none() {
    let directory = tempfile::tempdir().unwrap();
    let mut spec = spec(directory.path(), &["a", "b", "c"]);
    let missing = directory.path().join("missing/b");
    spec.ports[1].endpoint = portcullis::port::endpoint::Endpoint::Listen(missing);
    let error = Switch::start(&spec).unwrap_err();
    assert_eq!(error.to_string(), "cannot open a port; nothing was started");
    assert_eq!(left(directory.path()), 0);
}

#[test]
fn a_switch_without_its_control_socket_leaves_no_port() {
    let directory = tempfile::tempdir().unwrap();
    let mut spec = spec(directory.path(), &["a"]);
    spec.control = directory.path().join("missing/control");
    Switch::start(&spec).unwrap_err();
    assert_eq!(left(directory.path()), 0);
}

#[test]
fn a_switch_whose_worker_cannot_be_pinned_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut spec = spec(directory.path(), &["a"]);
    spec.cpus = vec![1023];
    Switch::start(&spec).unwrap_err();
    assert_eq!(left(directory.path()), 0);
}

#[test]
fn it_runs_until_it_is_told_to_stop_and_removes_its_sockets() {
    let directory = tempfile::tempdir().unwrap();
    let spec = spec(directory.path(), &["a", "b"]);
    let mut switch = Switch::start(&spec).unwrap();
    let stopper = switch.stopper();
    let thread = std::thread::spawn(move || switch.run());
    let _guest = UnixStream::connect(directory.path().join("a")).unwrap();
    let status = ask(&spec.control, &Question::Status).unwrap();
    assert_eq!(status["ports"].as_array().unwrap().len(), 2);
    stopper.stop();
    thread.join().unwrap().unwrap();
    assert_eq!(left(directory.path()), 0);
}

#[test]
fn a_wish_to_stop_that_came_first_is_not_lost() {
    let directory = tempfile::tempdir().unwrap();
    let stopper = Stopper::new().unwrap();
    stopper.stop();
    let mut switch = Switch::start_under(&spec(directory.path(), &["a"]), stopper).unwrap();
    switch.run().unwrap();
}

#[test]
fn a_switch_of_1024_ports_starts_and_answers() {
    let directory = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..1024).map(|n| format!("p{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let spec = spec(directory.path(), &names);
    let mut switch = Switch::start(&spec).unwrap();
    let stopper = switch.stopper();
    let thread = std::thread::spawn(move || switch.run());
    let status = ask(&spec.control, &Question::Status).unwrap();
    assert_eq!(status["ports"].as_array().unwrap().len(), 1024);
    stopper.stop();
    thread.join().unwrap().unwrap();
    assert_eq!(left(directory.path()), 0);
}

#[test]
fn threads_that_move_no_frames_keep_off_the_workers_cpus() {
    let affinity = || rustix::thread::sched_getaffinity(None).unwrap();
    // On a thread of its own, which is then the one that serves sessions.
    let thread = std::thread::spawn(move || {
        let directory = tempfile::tempdir().unwrap();
        let before = affinity();
        let cpu = (0..1024).find(|&cpu| before.is_set(cpu)).unwrap();
        let mut spec = spec(directory.path(), &["a"]);
        spec.cpus = vec![u16::try_from(cpu).unwrap()];
        let switch = Switch::start(&spec).unwrap();
        let is_alone = before.count() == 1;
        assert_eq!(affinity().is_set(cpu), is_alone);
        drop(switch);
    });
    thread.join().unwrap();
}

/// Every port of the largest switch has a guest: a broadcast reaches all others once, and a frame for one its one port.
#[test]
fn a_switch_of_1024_guests_carries_frames() {
    const PORTS: usize = 1024;
    // Of each guest there are its memory, its connection and its four eventfds, and as many on the switch's side.
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    if limit.maximum.is_some_and(|most| most < 14 * PORTS as u64) {
        eprintln!("not tried: {limit:?} open files are too few");
        return;
    }
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..PORTS).map(|n| format!("p{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let spec = spec(directory.path(), &names);
    let mut switch = Switch::start(&spec).unwrap();
    let stopper = switch.stopper();
    let thread = std::thread::spawn(move || switch.run());
    let number = |n: usize| u16::try_from(n).unwrap().to_be_bytes();
    let mac = |n: usize| [0x52, 0x54, 0, 0, number(n)[0], number(n)[1]];
    let mut guests: Vec<Guest> = (0..PORTS)
        .map(|n| {
            let small = Guest::builder().mac(mac(n)).ring_size(8).rx_buffer(256);
            small.connect(directory.path().join(names[n])).unwrap()
        })
        .collect();
    let running = || {
        let status = ask(&spec.control, &Question::Status).unwrap();
        let ports = status["ports"].as_array().unwrap();
        ports.iter().all(|port| port["state"] == "running")
    };
    while !running() {
        std::thread::yield_now();
    }
    let frame = |to: [u8; 6], from: usize| {
        let mut frame = [&to[..], &mac(from), &[0x88, 0xb5]].concat();
        frame.resize(60, number(from)[1]);
        frame
    };
    let patience = std::time::Duration::from_secs(30);
    for from in [0, 511, PORTS - 1] {
        let sent = frame([0xff; 6], from);
        guests[from].send(&sent).unwrap();
        for (at, guest) in guests.iter_mut().enumerate() {
            if at != from {
                let got = guest.recv(patience).unwrap();
                assert_eq!(got.expect("a frame").bytes, sent, "from {from} at {at}");
            }
        }
    }
    for (from, to) in [(0, 511), (511, PORTS - 1), (PORTS - 1, 0)] {
        let sent = frame(mac(to), from);
        guests[from].send(&sent).unwrap();
        assert_eq!(guests[to].recv(patience).unwrap().unwrap().bytes, sent);
    }
    for guest in &mut guests {
        assert!(guest.try_recv().unwrap().is_none());
    }
    drop(guests);
    stopper.stop();
    thread.join().unwrap().unwrap();
    assert_eq!(left(directory.path()), 0);
}
