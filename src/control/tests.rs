//! The control socket against clients that are wrong, slow, or many (case O-10).

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use super::*;
use crate::counters::PortSnapshot;
use crate::fabric::Mode;
use crate::port::status::{Direction, PortState, PortStatus};

struct Bench {
    server: Server,
    path: PathBuf,
    _directory: tempfile::TempDir,
}

fn bench() -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c.sock");
    Bench {
        server: Server::bind(&path, false).unwrap(),
        path,
        _directory: directory,
    }
}

impl Bench {
    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream
            .set_read_timeout(Some(std::time::Duration::from_secs(10)))
            .unwrap();
        stream
    }

    /// Serves whatever is there, as the attendant would.
    fn serve(&mut self) {
        for _ in 0..20 {
            self.server.serve(|_, question| match question {
                Question::Status => Answer::Status(Box::new(report())).into(),
                _ => Response::Later,
            });
        }
    }

    fn exchange(&mut self, request: &str) -> String {
        let mut client = self.connect();
        client.write_all(request.as_bytes()).unwrap();
        self.serve();
        line(&mut client)
    }
}

fn report() -> SwitchReport {
    let port = |id| PortReport {
        status: PortStatus {
            name: format!("port-{id}"),
            id,
            state: PortState::Waiting,
            why: None,
            last_fault: None,
            socket: "/run/a.sock".into(),
            direction: Direction::Listen,
            peer: None,
            features: Vec::new(),
            protocol_features: Vec::new(),
            memory_regions: 0,
            memory_bytes: 0,
            rings: Vec::new(),
            counters: PortSnapshot::default(),
        },
        mode: Mode::Bridge,
        uplink: false,
        groups: Vec::new(),
        vlan: "1".to_owned(),
        queue_pairs: 1,
        macs: MacReport::default(),
        leases: Vec::new(),
        ip: super::IpReport::default(),
        rates: Rates::default(),
        switched_off: Vec::new(),
        lists: Vec::new(),
        limits: Vec::new(),
        connections: (0, 0),
        quarantine: None,
    };
    SwitchReport {
        name: "lan".to_owned(),
        ports: (0..1024).map(port).collect(),
        ..SwitchReport::default()
    }
}

fn line(stream: &mut UnixStream) -> String {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line
}

const STATUS: &str = "{\"version\":1,\"request\":\"status\"}\n";

#[test]
fn an_error_is_answered_and_the_connection_goes_on() {
    let mut bench = bench();
    let mut client = bench.connect();
    for (request, start) in [
        ("\n", "not a request"),
        ("{}\n", "not a request"),
        ("[[[[[[[[\n", "not a request"),
        (
            "{\"version\":2}\n",
            "version 2 is not spoken here; use version 1",
        ),
        (
            "{\"version\":1,\"request\":\"destroy\"}\n",
            "not a request: unknown variant",
        ),
        (
            "{\"version\":1,\"request\":\"status\",\"x\":1}\n",
            "not a request: unknown field",
        ),
        ("\u{0}\u{1}\n", "not a request"),
    ] {
        client.write_all(request.as_bytes()).unwrap();
        bench.serve();
        let reply: serde_json::Value = serde_json::from_str(&line(&mut client)).unwrap();
        assert_eq!(reply["version"], 1);
        let error = reply["error"].as_str().unwrap();
        assert!(error.starts_with(start), "{request:?}: {error}");
    }
}

#[test]
fn a_request_in_pieces_is_put_together() {
    let mut bench = bench();
    let mut client = bench.connect();
    for byte in "{\"version\":2}\n".bytes() {
        client.write_all(&[byte]).unwrap();
        bench.serve();
    }
    assert!(line(&mut client).contains("not spoken here"));
}

#[test]
fn a_request_without_end_is_cut_off() {
    let mut bench = bench();
    let mut client = bench.connect();
    client.write_all(&vec![b'{'; MAX_REQUEST]).unwrap();
    bench.serve();
    assert_eq!(bench.server.clients(), 0);
    assert!(!matches!(client.read(&mut [0]), Ok(1..)));
}

#[test]
fn deep_nesting_is_refused_without_a_deep_stack() {
    let mut bench = bench();
    let bomb = format!("{{\"version\":1,\"request\":{}\n", "[".repeat(4000));
    assert!(bench.exchange(&bomb).contains("not a request"));
}

#[test]
fn a_client_that_does_not_read_has_one_answer_waiting_and_hinders_nobody() {
    let mut bench = bench();
    let mut slow = bench.connect();
    for _ in 0..50 {
        slow.write_all(STATUS.as_bytes()).unwrap();
    }
    let mut answers = 0;
    for _ in 0..100 {
        bench.server.serve(|_, _| {
            answers += 1;
            Answer::Status(Box::new(report())).into()
        });
    }
    // What the socket's buffer took, and the one that waits.
    assert!(answers < 10, "{answers}");
    assert!(bench.exchange("{}\n").contains("not a request"));
    // It reads after all, and every answer comes.
    slow.shutdown(std::net::Shutdown::Write).unwrap();
    let reader =
        std::thread::spawn(move || BufReader::new(slow).lines().map_while(Result::ok).count());
    while bench.server.clients() > 0 {
        bench.serve();
    }
    assert_eq!(reader.join().unwrap(), 50);
}

#[test]
fn a_client_that_leaves_early_is_forgotten() {
    let mut bench = bench();
    let mut client = bench.connect();
    client.write_all(STATUS.as_bytes()).unwrap();
    drop(client);
    bench.serve();
    assert_eq!(bench.server.clients(), 0);
}

#[test]
fn a_thousand_idle_clients_do_not_lock_the_operator_out() {
    let mut bench = bench();
    let mut idle = Vec::new();
    for _ in 0..1000 {
        idle.push(bench.connect());
        bench
            .server
            .serve(|_, _| Answer::Error(String::new()).into());
    }
    bench.serve();
    assert_eq!(bench.server.clients(), MAX_CLIENTS);
    assert!(bench.exchange("{}\n").contains("not a request"));
}

#[test]
fn ask_returns_the_report_as_the_switch_sent_it() {
    let bench = bench();
    let Bench {
        mut server,
        path,
        _directory,
    } = bench;
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        while stopped.try_recv().is_err() {
            server.serve(|_, _| Answer::Status(Box::new(report())).into());
            std::thread::yield_now();
        }
    });
    let value = ask(&path, &Question::Status).unwrap();
    stop.send(()).unwrap();
    thread.join().unwrap();
    let parsed: SwitchReport = serde_json::from_value(value).unwrap();
    assert_eq!(parsed, report());
}

#[test]
fn ask_says_what_to_do_when_nobody_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let error = ask(&directory.path().join("none"), &Question::Status).unwrap_err();
    assert!(
        error.to_string().contains("no switch there; start it"),
        "{error}"
    );
}

#[test]
fn the_default_directory_is_made_for_this_user_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let inside = directory.path().join("portcullis");
    let server = Server::bind(&inside.join("a.sock"), true).unwrap();
    let mode = std::fs::metadata(&inside).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    Server::bind(&inside.join("b.sock"), true).unwrap();
    drop(server);
    std::fs::set_permissions(&inside, std::fs::Permissions::from_mode(0o777)).unwrap();
    let error = Server::bind(&inside.join("c.sock"), true).unwrap_err();
    assert!(matches!(error, ControlError::Directory { .. }));
}

#[test]
fn an_answer_may_come_later_and_only_its_client_waits() {
    let mut bench = bench();
    let mut patient = bench.connect();
    let request = "{\"version\":1,\"request\":{\"reload\":{\"file\":null}}}\n";
    patient.write_all(request.as_bytes()).unwrap();
    // What it asks while it waits has its turn afterwards.
    patient.write_all(b"{}\n").unwrap();
    let mut ticket = None;
    for _ in 0..20 {
        bench.server.serve(|to, question| {
            assert!(matches!(question, Question::Reload(_)));
            ticket = Some(to);
            Response::Later
        });
    }
    assert!(bench.exchange("{}\n").contains("not a request"));
    let ticket = ticket.unwrap();
    bench.server.reply(ticket, Answer::Error("no".to_owned()));
    // An answer to somebody who has his answer goes nowhere.
    bench
        .server
        .reply(ticket, Answer::Error("twice".to_owned()));
    bench.serve();
    patient.shutdown(std::net::Shutdown::Write).unwrap();
    bench.serve();
    let lines: Vec<String> = BufReader::new(patient)
        .lines()
        .map_while(Result::ok)
        .collect();
    let [first, second] = lines.as_slice() else {
        panic!("{lines:?}")
    };
    assert_eq!(first, "{\"version\":1,\"error\":\"no\"}");
    assert!(second.contains("not a request"), "{second}");
}

#[test]
fn whoever_leaves_while_he_waits_is_forgotten_and_his_place_is_another_s() {
    let mut bench = bench();
    let mut gone = bench.connect();
    gone.write_all(b"{\"version\":1,\"request\":{\"reload\":{\"file\":null}}}\n")
        .unwrap();
    let mut ticket = None;
    for _ in 0..20 {
        bench.server.serve(|to, _| {
            ticket = Some(to);
            Response::Later
        });
    }
    drop(gone);
    bench.serve();
    assert_eq!(bench.server.clients(), 0);
    let mut next = bench.connect();
    bench.serve();
    bench
        .server
        .reply(ticket.unwrap(), Answer::Error("late".to_owned()));
    next.write_all(b"{}\n").unwrap();
    bench.serve();
    assert!(line(&mut next).contains("not a request"));
}
