//! The program from outside: what it makes, says, leaves behind, and with which code it ends.

use std::fs;
use std::io::Read as _;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// How long anything may take on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

/// A directory for one test, with the program's runtime directory in it.
struct Room(tempfile::TempDir);

impl Room {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command
            .args(arguments)
            .env("XDG_RUNTIME_DIR", self.0.path())
            .env_remove("PORTCULLIS_LOG")
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Starts a switch and waits until it says that it is ready.
    fn start(&self, arguments: &[&str]) -> Running {
        let notify = self.path("notify");
        let _ = fs::remove_file(&notify);
        let socket = UnixDatagram::bind(&notify).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let child = self
            .command(&[&["run"], arguments].concat())
            .env("NOTIFY_SOCKET", &notify)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let running = Running { child: Some(child) };
        let mut message = [0; 256];
        let length = loop {
            match socket.recv(&mut message) {
                Ok(length) => break length,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => panic!("not ready: {error}\n{}", running.end(Signal::KILL).1),
            }
        };
        assert!(message[..length].starts_with(b"READY=1\n"));
        running
    }
}

/// A switch that runs; killed with the test.
struct Running {
    child: Option<Child>,
}

impl Running {
    fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Sends a signal and returns the exit code, and what was logged.
    fn end(mut self, signal: Signal) -> (Option<i32>, String) {
        let mut child = self.child.take().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
        let mut log = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut log)
            .unwrap();
        (child.wait().unwrap().code(), log)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[track_caller]
fn ends(output: &Output, code: i32, on_stderr: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(stderr.contains(on_stderr), "{stderr}");
}

fn is_served(path: &Path) -> bool {
    UnixStream::connect(path).is_ok()
}

#[test]
fn every_socket_is_there_when_readiness_is_announced() {
    let room = Room::new();
    let (a, b) = (
        format!("a={}", room.text("a")),
        format!("b={}", room.text("b")),
    );
    let _switch = room.start(&["--port", &a, "--port", &b, "--name", "lan"]);
    for name in ["a", "b", "portcullis/lan.sock"] {
        assert!(is_served(&room.path(name)), "{name}");
    }
}

#[test]
fn sigterm_and_sigint_stop_it_cleanly() {
    for signal in [Signal::TERM, Signal::INT] {
        let room = Room::new();
        let port = format!("a={}", room.text("a"));
        let switch = room.start(&["--port", &port, "--name", "lan"]);
        let (code, log) = switch.end(signal);
        assert_eq!(code, Some(0), "{log}");
        assert!(log.contains("stopped"), "{log}");
        assert!(!room.path("a").exists());
        assert!(!room.path("portcullis/lan.sock").exists());
    }
}

#[test]
fn the_sockets_of_a_killed_switch_are_replaced() {
    let room = Room::new();
    let port = format!("a={}", room.text("a"));
    let arguments = ["--port", &port, "--name", "lan"];
    room.start(&arguments).end(Signal::KILL);
    assert!(room.path("a").exists() && room.path("portcullis/lan.sock").exists());
    let _switch = room.start(&arguments);
    assert!(is_served(&room.path("a")));
}

#[test]
fn a_second_switch_is_refused_with_the_pid_of_the_first_and_makes_nothing() {
    let room = Room::new();
    let (a, b) = (
        format!("a={}", room.text("a")),
        format!("b={}", room.text("b")),
    );
    let first = room.start(&["--port", &a, "--name", "one"]);
    let second = room.run(&["run", "--port", &b, "--port", &a, "--name", "two"]);
    let expected = format!(
        "error: --port {a}: port \"a\": socket: {}: in use by pid {}; stop it or choose another path",
        room.text("a"),
        first.pid()
    );
    ends(&second, 3, &expected);
    assert!(!room.path("b").exists() && !room.path("portcullis/two.sock").exists());
    assert!(is_served(&room.path("a")));
    let same_name = room.run(&["run", "--port", &b, "--name", "one"]);
    ends(
        &same_name,
        3,
        &format!(
            "[switch]: control: {}: in use by pid",
            room.text("portcullis/one.sock")
        ),
    );
    assert!(!room.path("b").exists());
}

#[test]
fn a_socket_of_another_program_is_never_taken() {
    let room = Room::new();
    let theirs = UnixListener::bind(room.path("a")).unwrap();
    let port = format!("a={}", room.text("a"));
    ends(&room.run(&["run", "--port", &port]), 3, "in use by pid");
    drop(theirs.accept().unwrap());
    assert!(is_served(&room.path("a")));
}

#[test]
fn check_says_what_run_would_say_and_makes_nothing() {
    let room = Room::new();
    let file = room.path("lan.toml");
    fs::write(
        &file,
        format!("[port.web]\nsocket = \"{}\"\n", room.text("web")),
    )
    .unwrap();
    let good = room.run(&["check", &file.display().to_string()]);
    ends(&good, 0, "");
    assert_eq!(good.stdout, b"lan: 1 port, good\n");

    fs::write(
        &file,
        "[port.web]\nsocket = \"/nowhere/web\"\nmod = \"bridge\"\n",
    )
    .unwrap();
    let file = file.display().to_string();
    let expected = format!("error: {file}:3: port \"web\": mod: unknown key; did you mean mode?\n");
    ends(&room.run(&["check", &file]), 3, &expected);
    ends(&room.run(&["run", &file]), 3, &expected);

    // A CPU that no machine of ours has.
    let cpus = format!("web={}", room.text("web"));
    let expected = "error: --cpus 1023: [switch]: cpus: cannot run on CPU 1023: Invalid argument (os error 22); \
                    name CPUs of this machine that the switch may use\n";
    for command in ["check", "run"] {
        let output = room.run(&[command, "--port", &cpus, "--cpus", "1023"]);
        ends(&output, 3, expected);
    }
    ends(
        &room.run(&["check", &room.text("none.toml")]),
        3,
        "caused by: No such file",
    );
    ends(&room.run(&["check"]), 2, "required arguments");
    ends(&room.run(&["chek"]), 2, "check");
    let mut left: Vec<_> = fs::read_dir(room.0.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["lan.toml"]);
}

#[test]
fn a_level_that_is_none_is_refused() {
    let room = Room::new();
    let port = format!("a={}", room.text("a"));
    ends(
        &room.run(&["run", "--port", &port, "--log", "a=b=c"]),
        2,
        "choose error, warn, info, debug or trace",
    );
    assert!(!room.path("a").exists());
}

#[test]
fn status_of_a_switch_without_guests() {
    let room = Room::new();
    let (a, b) = (
        format!("a={},mac=52:54:00:00:00:01,vlan=7,queues=2", room.text("a")),
        format!("b={},connect=yes,mode=isolated,group=x", room.text("b")),
    );
    let switch = room.start(&["--port", &a, "--port", &b, "--name", "lan"]);
    // The only switch of this runtime directory needs no name.
    let output = room.run(&["status", "--json"]);
    ends(&output, 0, "");
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status["name"], "lan");
    assert_eq!(status["pid"], switch.pid());
    assert_eq!(status["workers"].as_array().unwrap().len(), 1);
    let [a, b] = status["ports"].as_array().unwrap().as_slice() else {
        panic!("two ports");
    };
    for (port, name) in [(a, "a"), (b, "b")] {
        assert_eq!(port["name"], name);
        assert_eq!(port["socket"], room.text(name));
        assert_eq!(port["state"], "waiting");
        assert_eq!(port["peer"], Value::Null);
        assert_eq!(port["counters"]["ingress"]["received"], 0);
        assert_eq!(port["rates"]["sent"]["frames"], 0.0);
    }
    assert_eq!(
        (&a["direction"], &b["direction"]),
        (&"listen".into(), &"connect".into())
    );
    assert_eq!((&a["vlan"], &a["queue_pairs"]), (&"7".into(), &2.into()));
    assert_eq!(a["macs"]["fixed"][0], "52:54:00:00:00:01");
    assert_eq!(
        (&b["mode"], &b["groups"][0]),
        (&"isolated".into(), &"x".into())
    );

    let output = room.run(&["status", "lan"]);
    ends(&output, 0, "");
    let table = String::from_utf8(output.stdout).unwrap();
    let has = |words: &[&str]| {
        table
            .lines()
            .any(|line| words.iter().all(|word| line.contains(word)))
    };
    assert!(
        has(&[
            "PORT", "MODE", "STATE", "PEER", "SENDS", "RECEIVES", "DROPPED"
        ]),
        "{table}"
    );
    assert!(has(&["a", "bridge", "7", "waiting"]), "{table}");
    assert!(has(&["b", "isolated (x)", "waiting"]), "{table}");
    assert!(has(&["addresses", "52:54:00:00:00:01 (fixed)"]), "{table}");
}

#[test]
fn status_says_which_switch_it_cannot_find() {
    let room = Room::new();
    ends(&room.run(&["status"]), 1, "no switch in");
    ends(
        &room.run(&["status", "lan"]),
        1,
        "lan.sock: no switch there; start it",
    );
    let port = |name: &str| format!("p={}", room.text(name));
    let _one = room.start(&["--port", &port("a"), "--name", "one"]);
    let _two = room.start(&["--port", &port("b"), "--name", "two"]);
    ends(&room.run(&["status"]), 1, "name one of one, two");
    ends(&room.run(&["status", "two"]), 0, "");
}

#[test]
fn the_socket_of_a_killed_switch_is_no_switch() {
    let room = Room::new();
    let port = |name: &str| format!("p={}", room.text(name));
    let one = room.start(&["--port", &port("a"), "--name", "one"]);
    one.end(Signal::KILL);
    let socket = room.path("portcullis/one.sock");
    assert!(socket.exists());
    let left = format!(
        "no switch in {} ({} is left of one that was killed); start one",
        room.text("portcullis"),
        socket.display()
    );
    for command in ["status", "quarantine", "flows"] {
        ends(&room.run(&[command]), 1, &left);
    }
    let _two = room.start(&["--port", &port("b"), "--name", "two"]);
    let status = room.run(&["status", "--json"]);
    ends(&status, 0, "");
    let report: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(report["name"], "two");
}

/// Case O-10: a path that would forge a line of the log, and one that means another file to the switch.
#[test]
fn o_10_a_reload_names_an_absolute_path_without_control_characters() {
    use std::io::{BufRead as _, BufReader, Write as _};
    let room = Room::new();
    let (port, control) = (format!("a={}", room.text("a")), room.text("c"));
    let _switch = room.start(&["--port", &port, "--control", &control]);
    for file in [
        "lan.toml",
        "/tmp/lan\\n2026-01-01T00:00:00Z ERROR stopped.toml",
    ] {
        let mut socket = UnixStream::connect(&control).unwrap();
        let question = format!(r#"{{"version":1,"request":{{"reload":{{"file":"{file}"}}}}}}"#);
        socket.write_all((question + "\n").as_bytes()).unwrap();
        let mut answer = String::new();
        BufReader::new(socket).read_line(&mut answer).unwrap();
        let expected = "a reload names an absolute path without control characters";
        assert!(answer.contains(expected), "{answer}");
    }
}

/// Case O-10: another user. Only root can become one, so as another user this shows only that the switch's own is heard.
#[test]
fn another_user_is_not_answered() {
    use std::os::unix::fs::PermissionsExt as _;
    let room = Room::new();
    let (port, control) = (format!("a={}", room.text("a")), room.text("c"));
    let _switch = room.start(&["--port", &port, "--control", &control]);
    ends(&room.run(&["status", "--control", &control]), 0, "");
    if !rustix::process::geteuid().is_root() {
        return;
    }
    fs::set_permissions(room.0.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = room.path("portcullis");
    fs::copy(env!("CARGO_BIN_EXE_portcullis"), &program).unwrap();
    let ask = || {
        let mut command = Command::new(&program);
        command
            .args(["status", "--control", &control])
            .uid(65534)
            .gid(65534);
        loop {
            match command.output() {
                // A child that another test forks meanwhile holds our copy open for writing until it execs.
                Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {}
                output => break output.unwrap(),
            }
        }
    };
    ends(
        &ask(),
        1,
        "cannot reach the switch; root and the switch's own user may ask",
    );
    // Even if somebody opens the file to all.
    fs::set_permissions(room.path("c"), fs::Permissions::from_mode(0o666)).unwrap();
    ends(&ask(), 1, "the switch did not answer");
    ends(&room.run(&["status", "--control", &control]), 0, "");
}

/// Case F-8: what a peer can cause again and again is counted every time and logged a few times.
#[test]
fn f_8_a_flood_of_connections_is_counted_and_not_logged() {
    let room = Room::new();
    let port = format!("a={}", room.text("a"));
    let switch = room.start(&["--port", &port, "--name", "lan"]);
    let _first = UnixStream::connect(room.path("a")).unwrap();
    let flood = 60;
    for _ in 0..flood {
        UnixStream::connect(room.path("a")).unwrap();
    }
    let begun = std::time::Instant::now();
    let (served, refused) = loop {
        let output = room.run(&["status", "lan", "--json"]);
        let status: Value = serde_json::from_slice(&output.stdout).unwrap();
        let events = &status["ports"][0]["counters"]["events"];
        let count = |key: &str| events[key].as_u64().unwrap();
        let (served, refused) = (count("connections"), count("connections_refused"));
        if served + refused > flood || begun.elapsed() > PATIENCE {
            break (served, refused);
        }
    };
    // On a machine so slow that the first is given up for its silence, another takes its place.
    assert_eq!(served + refused, flood + 1);
    assert!(refused > 10, "{refused}");
    let (_, log) = switch.end(Signal::TERM);
    let lines = log
        .lines()
        .filter(|line| line.contains("refused a connection"))
        .count();
    assert!((1..=10).contains(&lines), "{log}");
}

#[test]
fn reload_says_what_changed_or_why_nothing_did() {
    let room = Room::new();
    let file = room.text("lan.toml");
    let write = |more: &str| {
        let text = format!("[port.a]\nsocket = \"{}\"\n{more}", room.text("a"));
        fs::write(room.path("lan.toml"), text).unwrap();
    };
    write("");
    let _switch = room.start(&[&file]);
    let reload = || room.run(&["reload"]);
    let same = reload();
    ends(&same, 0, "");
    assert_eq!(
        String::from_utf8(same.stdout).unwrap(),
        format!("{file}: nothing has changed\n")
    );
    write(&format!(
        "vlan = 7\n[port.b]\nsocket = \"{}\"\n",
        room.text("b")
    ));
    let output = reload();
    ends(&output, 0, "");
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        format!("{file}: in force as policy 3\n  added     b\n  changed   a (vlan)\n")
    );
    assert!(is_served(&room.path("b")));
    write("vlan = 5000\n");
    ends(
        &reload(),
        3,
        &format!("error: {file}:3: port \"a\": vlan: 5000 is out of range"),
    );
    write("[switch]\nworkers = 2\n");
    ends(&reload(), 3, "restart needed: workers (1 to 2)");
    ends(
        &reload(),
        3,
        "error: nothing was changed: the configuration before stays in force",
    );
    assert!(is_served(&room.path("b")));
    // Another file: its name is not meant to be the switch's.
    write("mode = \"private\"\n");
    fs::rename(&file, room.path("other.toml")).unwrap();
    ends(&reload(), 3, "cannot read the configuration");
    let mut other = room.command(&["reload", "--switch", "lan", "--json", "other.toml"]);
    let output = other.current_dir(room.0.path()).output().unwrap();
    ends(&output, 0, "");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["file"], room.text("other.toml"));
    assert_eq!(report["change"]["removed"][0], "b");
    // From now on it is the switch's own.
    ends(&reload(), 0, "");
    assert!(!room.path("b").exists());
}

#[test]
fn a_switch_of_flags_alone_needs_a_file_to_reload_and_its_flags_stay() {
    let room = Room::new();
    let port = format!("a={}", room.text("a"));
    let _switch = room.start(&["--port", &port, "--name", "lan"]);
    ends(&room.run(&["reload"]), 3, "name the file");
    let text = format!("[port.b]\nsocket = \"{}\"\n", room.text("b"));
    fs::write(room.path("more.toml"), text).unwrap();
    let output = room.run(&["reload", &room.text("more.toml")]);
    ends(&output, 0, "");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.ends_with("  added     b\n"), "{said}");
    assert!(is_served(&room.path("a")) && is_served(&room.path("b")));
}

#[test]
fn a_configuration_that_others_can_write_starts_nothing() {
    use std::os::unix::fs::PermissionsExt as _;
    let room = Room::new();
    let (file, text) = (room.path("lan.toml"), room.text("lan.toml"));
    fs::write(
        &file,
        format!("[port.a]\nsocket = \"{}\"\n", room.text("a")),
    )
    .unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    for command in ["run", "check"] {
        ends(&room.run(&[command, &text]), 3, "mode 0666");
    }
    assert!(!room.path("a").exists());
}

#[test]
fn quarantine_and_release_show_who_is_in_quarantine() {
    let room = Room::new();
    let ports = ["a", "b"].map(|name| format!("{name}={}", room.text(name)));
    let _switch = room.start(&["--port", &ports[0], "--port", &ports[1], "--name", "lan"]);
    let shows = |arguments: &[&str], expected: &str| {
        let output = room.run(arguments);
        ends(&output, 0, "");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    };
    let nobody = "no port is in quarantine\n";
    shows(&["quarantine"], nobody);
    let held = "a: in quarantine by operator, reaches b\n";
    shows(&["quarantine", "a", "--helpers", "b"], held);
    shows(&["quarantine", "--switch", "lan"], held);
    let table = String::from_utf8(room.run(&["status"]).stdout).unwrap();
    assert!(
        table.contains("quarantine   by operator, reaches b"),
        "{table}"
    );
    ends(
        &room.run(&["quarantine", "x"]),
        1,
        "no port is called \"x\"; there are a, b",
    );
    ends(
        &room.run(&["release", "b"]),
        1,
        "port \"b\" is not in quarantine",
    );
    shows(&["release", "a"], nobody);
    // What it said is gone with it, and a file that makes no sense keeps the switch from starting.
    assert!(!room.path("portcullis/lan.sock.quarantine").exists());
    fs::write(room.path("portcullis/two.sock.quarantine"), "?").unwrap();
    let second = format!("c={}", room.text("c"));
    ends(
        &room.run(&["run", "--port", &second, "--name", "two"]),
        1,
        "says which ports are in quarantine",
    );
    assert!(!room.path("c").exists());
}

#[test]
fn fdb_lists_addresses() {
    let room = Room::new();
    let a = format!("a={},mac=52:54:00:00:00:01", room.text("a"));
    let b = format!("b={},mac=52:54:00:00:00:02", room.text("b"));
    let _switch = room.start(&["--port", &a, "--port", &b, "--name", "lan"]);
    let output = room.run(&["fdb", "--port", "b"]);
    ends(&output, 0, "");
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "ADDRESS            VLAN  AGE        PORT\n\
         52:54:00:00:00:02  all   declared   b\n"
    );
    let output = room.run(&["fdb", "--json"]);
    ends(&output, 0, "");
    let lines = String::from_utf8(output.stdout).unwrap();
    let entries: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(entries.len(), 2);
    assert!(entries.iter().all(|entry| entry["declared"] == true));
    ends(
        &room.run(&["fdb", "--port", "c"]),
        1,
        "no port is called \"c\"",
    );
}

/// What is converted goes through `check`; what is not is named, and ends the program only where that was asked for.
#[test]
fn a_filter_is_converted_and_what_has_no_equal_is_named() {
    let room = Room::new();
    fs::write(
        room.path("f.xml"),
        "<filter name='f'>\n<rule action='accept' direction='in'><tcp dstportstart='22'/></rule>\n\
         <rule action='drop' direction='in'><ip dscp='2'/></rule>\n</filter>\n",
    )
    .unwrap();
    let filter = room.text("f.xml");
    let lenient = room.run(&["import", "nwfilter", &filter]);
    assert!(lenient.status.success());
    let remark = String::from_utf8(lenient.stderr).unwrap();
    assert_eq!(
        remark,
        format!(
            "{filter}:3: drop in: dscp has no equal here: left out, so that what it drops may pass\n"
        )
    );
    let converted = String::from_utf8(lenient.stdout).unwrap();
    let directory = room.0.path().display().to_string();
    fs::write(
        room.path("f.toml"),
        converted.replace("/run/portcullis", &directory),
    )
    .unwrap();
    assert!(room.run(&["check", &room.text("f.toml")]).status.success());
    let strict = room.run(&["import", "nwfilter", &filter, "--strict"]);
    assert_eq!(strict.status.code(), Some(1));
    let missing = room.run(&["import", "nwfilter", &room.text("none.xml")]);
    assert_eq!(missing.status.code(), Some(1));
}

#[test]
fn plan_says_what_would_change_and_changes_nothing() {
    let room = Room::new();
    let write = |name: &str, text: &str| {
        let text = text.replace("DIR", &room.0.path().display().to_string());
        fs::write(room.path(name), text).unwrap();
        room.text(name)
    };
    let ports = "[port.a]\nsocket = \"DIR/a\"\n[port.b]\nsocket = \"DIR/b\"\n";
    let running = write("lan.toml", ports);
    let _switch = room.start(&[&running]);
    let plan = |text: &str| room.run(&["plan", &write("new.toml", text)]);
    let output = plan(ports);
    ends(&output, 0, "");
    let new = room.text("new.toml");
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        format!("{new}:\n  nothing would change\n")
    );
    let output = plan(
        "[acl.web]\ninbound = [ { allow = \"tcp\", from = \"port:c\", port = 80, name = \"http\" } ]\n\
         [port.a]\nsocket = \"DIR/a\"\nacl = \"web\"\n[port.c]\nsocket = \"DIR/c\"\n",
    );
    ends(&output, 0, "");
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        format!(
            "{new}:\n  added     c\n  removed   b\n  changed   a (acl)\n  rules added\n    {new}:2 (http)\n  \
             become reachable\n    a > c\n    c > a\n  become unreachable\n    a > b\n    b > a\n"
        )
    );
    ends(
        &plan("[port.a]\nsokcet = \"/a\"\n"),
        3,
        "new.toml:2: port \"a\": sokcet",
    );
    let restart = format!("[switch]\nworkers = 2\n{ports}");
    ends(&plan(&restart), 3, "restart needed: workers (1 to 2)");
    // Nothing of it happened.
    let status = room.run(&["status", "--json"]);
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["epoch"], 1);
    assert!(!room.path("c").exists());
}

#[test]
fn plan_says_who_is_in_quarantine_and_behind_which_list() {
    let room = Room::new();
    let write = |name: &str, text: &str| {
        let text = text.replace("DIR", &room.0.path().display().to_string());
        fs::write(room.path(name), text).unwrap();
        room.text(name)
    };
    let list = "[acl.sick]\noutbound = [ { allow = \"tcp\", to = \"port:b\", port = 22 } ]\n";
    let ports = "[port.a]\nsocket = \"DIR/a\"\n[port.b]\nsocket = \"DIR/b\"\n";
    let both = format!("{list}{ports}");
    let _switch = room.start(&[&write("lan.toml", &both)]);
    let plan = |text: &str| {
        let output = room.run(&["plan", &write("new.toml", text)]);
        ends(&output, 0, "");
        String::from_utf8(output.stdout).unwrap()
    };
    let new = room.text("new.toml");
    assert_eq!(plan(&both), format!("{new}:\n  nothing would change\n"));
    ends(&room.run(&["quarantine", "a", "--allow", "sick"]), 0, "");
    let still = "  in quarantine still\n    a: by operator, reaches";
    assert_eq!(
        plan(&both),
        format!("{new}:\n  nothing would change\n{still} what list sick allows\n")
    );
    // Behind the list it is, and not behind its own: what a port gains that is in quarantine is nothing.
    let opened = both.replace("to = \"port:b\", ", "");
    assert!(!plan(&opened).contains("reachable"));
    assert_eq!(
        plan(ports),
        format!("{new}:\n  become unreachable\n    a > b\n{still} nobody: there is no list sick\n")
    );
}

#[test]
fn explain_tells_each_step_with_file_and_line() {
    let room = Room::new();
    let text = "[acl.db]\ninbound = [ { allow = \"tcp\", from = \"port:web\", port = 5432, name = \"sql\" } ]\n\
                [port.web]\nsocket = \"/web\"\nmac = \"52:54:00:00:00:01\"\n\
                [port.db]\nsocket = \"/db\"\nacl = \"db\"\nmac = \"52:54:00:00:00:02\"\n";
    fs::write(room.path("lan.toml"), text).unwrap();
    let file = room.text("lan.toml");
    let explain = |packet: &str| {
        room.run(&[
            "explain", "-c", &file, "--from", "web", "--to", "db", packet,
        ])
    };
    let output = explain("tcp 10.0.0.5:40000 > 10.0.0.6:5432");
    ends(&output, 0, "");
    let said = String::from_utf8(output.stdout).unwrap();
    for line in [
        "52:54:00:00:00:01 > 52:54:00:00:00:02 10.0.0.5:40000 > 10.0.0.6:5432 tcp syn",
        &format!("inbound        db: allow, by {file}:2 (sql)"),
        "allow: db\n",
    ] {
        assert!(said.contains(line), "{line:?} in {said}");
    }
    let output = explain("tcp 10.0.0.5:40000 > 10.0.0.6:22");
    ends(&output, 0, "");
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .ends_with("deny: not-allowed\n")
    );
    ends(&explain("tpc 1 > 2"), 2, "the packet: ");
    // As if it were in quarantine: behind a list, as its own table has it, and alone.
    let sick = "[acl.sick]\noutbound = [ { allow = \"tcp\", to = \"port:db\", port = 5432, name = \"cure\" } ]\n";
    let table = "[port.web.quarantine]\nscan = \"1 in 1s\"\nallow = \"sick\"\n";
    fs::write(room.path("sick.toml"), format!("{text}{sick}{table}")).unwrap();
    let sick = room.text("sick.toml");
    let quarantined = |port: &str, packet: &str| {
        let flags = ["--from", "web", "--to", "db", "--quarantined", port];
        let output = room.run(&[&["explain", "-c", &sick], &flags[..], &[packet]].concat());
        ends(&output, 0, "");
        String::from_utf8(output.stdout).unwrap()
    };
    for port in ["web", "web=sick"] {
        let said = quarantined(port, "tcp 10.0.0.5:40000 > 10.0.0.6:5432");
        assert!(
            said.contains("(cure)") && said.ends_with("allow: db\n"),
            "{said}"
        );
        let said = quarantined(port, "udp 10.0.0.5:40000 > 10.0.0.6:53");
        assert!(said.ends_with("deny: not-allowed\n"), "{said}");
    }
    let said = quarantined("db", "tcp 10.0.0.5:40000 > 10.0.0.6:5432");
    assert!(said.ends_with("deny: quarantined\n"), "{said}");
    for (port, why) in [
        ("x", "no port is called \"x\""),
        ("web=x", "no list is called \"x\""),
    ] {
        let output = room.run(&[
            "explain",
            "-c",
            &sick,
            "--from",
            "web",
            "--quarantined",
            port,
            "arp 10.0.0.1 > 10.0.0.2",
        ]);
        ends(&output, 2, why);
    }
    ends(
        &room.run(&[
            "explain",
            "-c",
            &file,
            "--from",
            "x",
            "arp 10.0.0.1 > 10.0.0.2",
        ]),
        2,
        "no port is called \"x\"",
    );
}
