//! Requests over the serial line: one at a time, each a shell command.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use crate::Outcome;

/// Answers requests until the line goes away.
pub fn serve(tty: &str) -> Outcome {
    let line = OpenOptions::new()
        .read(true)
        .write(true)
        .open(tty)
        .map_err(|why| format!("{tty}: {why}"))?;
    make_raw(&line)?;
    let mut answers = line.try_clone().map_err(|why| why.to_string())?;
    for request in BufReader::new(line).split(b'\n') {
        let request = request.map_err(|why| why.to_string())?;
        // What is no request is noise from before the tests were there.
        let Some((number, command)) = parse(&request) else {
            continue;
        };
        let (status, output) = run(&command);
        let mut answer = format!("@{number} {status} {}\n", output.len()).into_bytes();
        answer.extend_from_slice(&output);
        answers.write_all(&answer).map_err(|why| why.to_string())?;
    }
    Ok(())
}

fn parse(line: &[u8]) -> Option<(u64, String)> {
    let text = std::str::from_utf8(line).ok()?.trim_end_matches('\r');
    // The newest request wins: an older one may be cut off in front of it.
    let (number, command) = text[text.rfind('\u{1}')? + 1..]
        .strip_prefix('#')?
        .split_once(' ')?;
    Some((number.parse().ok()?, command.to_owned()))
}

fn run(command: &str) -> (i32, Vec<u8>) {
    let output = Command::new("/bin/sh")
        .args(["-c", &format!("exec 2>&1\n{command}")])
        .stdin(Stdio::null())
        .env("PATH", "/bin:/sbin")
        .output();
    match output {
        Ok(output) => {
            let status = output
                .status
                .code()
                .unwrap_or_else(|| 128_i32.saturating_add(output.status.signal().unwrap_or(0)));
            (status, output.stdout)
        }
        Err(why) => (127, format!("lab: no shell: {why}\n").into_bytes()),
    }
}

/// No echo, no line editing, no translation: bytes as they are.
fn make_raw(line: &File) -> Outcome {
    // SAFETY: `termios` is plain data, which the calls fill in and read; the descriptor is open.
    unsafe {
        let mut settings: libc::termios = std::mem::zeroed();
        if libc::tcgetattr(line.as_raw_fd(), &raw mut settings) != 0 {
            return Err(format!("tcgetattr: {}", std::io::Error::last_os_error()));
        }
        libc::cfmakeraw(&raw mut settings);
        if libc::tcsetattr(line.as_raw_fd(), libc::TCSANOW, &raw const settings) != 0 {
            return Err(format!("tcsetattr: {}", std::io::Error::last_os_error()));
        }
    }
    Ok(())
}
