//! What the machine around the switch may do to it: take its descriptors, its disk, its time. By the names of the threat model.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use portcullis::guest::wire::{Message, Request, Wire};
use portcullis::guest::{Error, Guest};
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};

use crate::hostile::attacked;
use crate::rig::{PATIENCE, Switch, Victims, expect, frame, mac, until};

fn pid(switch: &Switch) -> Pid {
    Pid::from_raw(switch.pid() as i32).unwrap()
}

fn signal(switch: &Switch, signal: Signal) {
    kill_process(pid(switch), signal).unwrap();
}

/// The state of the process, or of one of its threads (proc(5): status).
fn state(path: &str) -> char {
    let status = std::fs::read_to_string(format!("{path}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("State:"));
    line.unwrap().trim().chars().next().unwrap()
}

/// O-11: stopped with frames on their way, and let go on: nothing is lost, and nobody had to come again.
#[test]
fn o_11_a_switch_that_is_stopped_and_goes_on_loses_nothing() {
    attacked(|switch, victims| {
        for round in 0..20u8 {
            let sent: Vec<_> = (0..100)
                .map(|n| frame(mac(0xb), mac(0xa), &[round, n]))
                .collect();
            for (n, bytes) in sent.iter().enumerate() {
                // Now with some of them under way, now with none.
                if n == usize::from(round) * 5 {
                    signal(switch, Signal::STOP);
                }
                victims.a.send(bytes).unwrap();
            }
            until("the process stopped", || {
                (state(&format!("/proc/{}", switch.pid())) == 'T').then_some(())
            });
            signal(switch, Signal::CONT);
            for bytes in &sent {
                assert_eq!(expect(&mut victims.b).bytes, *bytes);
            }
            victims.talk(2);
        }
        for name in ["a", "b"] {
            assert_eq!(switch.port(name)["counters"]["events"]["connections"], 1);
        }
    });
}

/// O-11: signals that mean something to other daemons mean nothing to this one.
#[test]
fn o_11_a_storm_of_user_signals_does_nothing() {
    attacked(|switch, victims| {
        for _ in 0..100 {
            for _ in 0..100 {
                signal(switch, Signal::USR1);
                signal(switch, Signal::USR2);
            }
            victims.talk(5);
        }
        assert_eq!(switch.status()["epoch"], 1);
    });
}

/// A file system of 64 KiB that is mounted nowhere, and goes with its last file. None where that is not allowed.
fn small_disk() -> Option<OwnedFd> {
    let context = match fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC) {
        Err(Errno::PERM | Errno::ACCESS) => return None,
        opened => opened.unwrap(),
    };
    fsconfig_set_string(&context, "size", "65536").unwrap();
    fsconfig_create(&context).unwrap();
    let mounted = fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    );
    Some(mounted.unwrap())
}

fn create(disk: &OwnedFd, name: &str) -> File {
    let how = OFlags::RDWR | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC;
    File::from(openat(disk, name, how, Mode::RUSR | Mode::WUSR).unwrap())
}

/// Things that are told in the log.
fn give_cause_to_write(switch: &Switch, victims: &mut Victims) {
    for _ in 0..5 {
        drop(switch.guest("c", mac(0xc)));
        switch.await_state("c", "waiting");
        victims.talk(5);
    }
    assert_eq!(
        switch.reload().unwrap()["epoch"]
            .as_u64()
            .map(|epoch| epoch > 1),
        Some(true)
    );
}

/// O-6: a log on a disk that is full, or in a pipe that nobody reads any more. Frames and guests come and go, and when lines can
/// be written again, they say how many could not.
#[test]
fn o_6_a_log_that_cannot_be_written_costs_its_lines_alone() {
    let ports = [("a", ""), ("b", ""), ("c", "")];
    let full = File::options().write(true).open("/dev/full").unwrap();
    let (reader, pipe) = std::io::pipe().unwrap();
    drop(reader);
    for log in [full, File::from(OwnedFd::from(pipe))] {
        let mut switch = Switch::logging_to(log, &ports);
        let mut victims = Victims::plug(&switch, "a", "b");
        give_cause_to_write(&switch, &mut victims);
        assert!(switch.is_alive());
        switch.ask_to_stop();
        switch.await_end();
    }
    let Some(disk) = small_disk() else {
        eprintln!("no file system without privilege here: not tried");
        return;
    };
    let (log, mut ballast) = (create(&disk, "log"), create(&disk, "ballast"));
    while ballast.write(&[0; 4096]).is_ok_and(|written| written > 0) {}
    let mut switch = Switch::logging_to(log.try_clone().unwrap(), &ports);
    let mut victims = Victims::plug(&switch, "a", "b");
    give_cause_to_write(&switch, &mut victims);
    assert_eq!(log.metadata().unwrap().len(), 0);
    ballast.set_len(0).unwrap();
    switch.reload().unwrap();
    let text = until("a log", || {
        let text = std::io::read_to_string(create(&disk, "log")).unwrap();
        text.contains("configuration taken up").then_some(text)
    });
    let lost = text.split(' ').next().unwrap().parse::<u32>().unwrap();
    assert!(lost >= 10, "{text}");
    assert!(
        text.contains(" lines of this log could not be written\n"),
        "{text}"
    );
    victims.talk(5);
    assert!(switch.is_alive());
    for name in ["a", "b"] {
        let books = switch.books(name);
        assert_eq!((books.dropped, books.undelivered), (0, 0), "{name}");
    }
}

/// Waits until the switch has closed the connections of all who asked so far.
fn finish_questions(switch: &Switch) {
    let control = UnixStream::connect(switch.socket("control")).unwrap();
    (&control)
        .write_all(b"{\"version\":1,\"request\":\"status\"}\n")
        .unwrap();
    let mut answers = BufReader::new(&control);
    answers.read_line(&mut String::new()).unwrap();
    control.shutdown(Shutdown::Write).unwrap();
    assert_eq!(answers.read_line(&mut String::new()).unwrap(), 0);
}

/// From now on the process may have `more` descriptors besides those that it has.
fn allow_more_descriptors(switch: &Switch, more: usize) {
    finish_questions(switch);
    let open: Vec<u64> = std::fs::read_dir(format!("/proc/{}/fd", switch.pid()))
        .unwrap()
        .map(|entry| {
            entry
                .unwrap()
                .file_name()
                .to_str()
                .unwrap()
                .parse()
                .unwrap()
        })
        .collect();
    // The limit is a number that no descriptor may have (getrlimit(2)).
    let next = (0..).filter(|number| !open.contains(number)).nth(more);
    limit_descriptors(switch, next);
}

fn limit_descriptors(switch: &Switch, current: Option<u64>) {
    let limit = Rlimit {
        current,
        ..getrlimit(Resource::Nofile)
    };
    prlimit(Some(pid(switch)), Resource::Nofile, limit).unwrap();
}

/// O-7: no descriptor is left for a newcomer, or not enough of them. Who is there talks on and the control socket answers; who comes
/// waits, or is sent away without blame, and the log says why; and when there are descriptors again, they are let in.
#[test]
fn o_7_without_descriptors_newcomers_wait_and_nobody_else() {
    attacked(|switch, victims| {
        let all = getrlimit(Resource::Nofile).maximum;
        allow_more_descriptors(switch, 0);
        let waiting = Wire::connect(&switch.socket("mallory"), PATIENCE).unwrap();
        waiting.send(&Message::new(Request::GET_FEATURES)).unwrap();
        until("word of it", || {
            switch.log().contains("nobody can be let in").then_some(())
        });
        for _ in 0..20 {
            // It does not ask again and again whether there are any by now.
            until("the attendant asleep", || {
                (state(&format!("/proc/{}", switch.pid())) == 'S').then_some(())
            });
            victims.talk(10);
            assert_eq!(switch.port("mallory")["state"], "waiting");
        }
        limit_descriptors(switch, all);
        let answer = waiting.recv().unwrap();
        assert_eq!(answer.request, u32::from(Request::GET_FEATURES));
        drop(waiting);
        switch.await_state("mallory", "waiting");

        // Enough to be let in, and then one more each time, until it is enough for a guest. At a port of which nothing was logged yet.
        let mut turned_away = 0;
        for more in 1.. {
            allow_more_descriptors(switch, more);
            let guest = Guest::builder()
                .mac(mac(77))
                .connect(switch.socket("witness"));
            victims.talk(10);
            let got_in = match guest {
                Ok(guest) => {
                    drop(guest);
                    true
                }
                Err(Error::Closed { .. }) => false,
                Err(other) => panic!("{other}"),
            };
            limit_descriptors(switch, all);
            switch.await_state("witness", "waiting");
            if got_in {
                break;
            }
            turned_away += 1;
        }
        assert!(turned_away > 0);
        let log = switch.log();
        let told = log.matches("could not be taken: this process is out of file descriptors");
        assert!((1..=turned_away).contains(&told.count()), "{log}");
        let events = &switch.port("witness")["counters"]["events"];
        assert_eq!(events["faults"], 0, "{log}");
        drop(switch.guest("witness", mac(77)));
        switch.await_state("witness", "waiting");
    });
}
