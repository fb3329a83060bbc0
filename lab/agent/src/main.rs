//! The hands of the tests inside a laboratory guest.
//!
//! One static program with two faces. `lab agent TTY` answers the tests over a serial line: a
//! request is one line, `#<number> <shell command>`, and its answer is `@<number> <exit status>
//! <bytes>` on a line, followed by that many bytes of output. Whatever else a test wants of a guest
//! is one of the other commands, run by that shell:
//!
//! ```text
//! lab frames send IF HEX [count=N] [gap-us=N]          raw frames, as they are
//! lab frames offload IF HEX flags=N gso=N hdr-len=N gso-size=N start=N offset=N [count=N]
//! lab frames watch IF file=PATH [match=OFFSET:HEX]... [snap=N]   counts, and keeps some, until killed
//! lab tcp serve PORT [conns=N]                         receives, checks, prints what it got
//! lab tcp push ADDR PORT BYTES SEED                    sends a checkable stream
//! lab udp serve PORT file=PATH                         counts datagrams, duplicates, corruption
//! lab udp push ADDR PORT COUNT SIZE [gap-us=N]
//! ```
//!
//! Every stream and datagram carries a pattern that its receiver can check by itself.

mod agent;
mod frames;
mod stream;

use std::process::ExitCode;

type Outcome = Result<(), String>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["agent", tty] => agent::serve(tty),
        ["frames", "send", interface, hex, rest @ ..] => frames::send(interface, hex, rest),
        ["frames", "offload", interface, hex, rest @ ..] => frames::offload(interface, hex, rest),
        ["frames", "watch", interface, rest @ ..] => frames::watch(interface, rest),
        ["tcp", "serve", port, rest @ ..] => stream::tcp_serve(port, rest),
        ["tcp", "push", address, port, bytes, seed] => stream::tcp_push(address, port, bytes, seed),
        ["udp", "serve", port, rest @ ..] => stream::udp_serve(port, rest),
        ["udp", "push", address, port, count, size, rest @ ..] => {
            stream::udp_push(address, port, count, size, rest)
        }
        _ => Err(format!("unknown command: {}", args.join(" "))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("lab: {why}");
            ExitCode::FAILURE
        }
    }
}

/// The value of `name=value` among `words`, parsed, or `default` if it is not given.
fn option<T: std::str::FromStr>(words: &[&str], name: &str, default: T) -> Result<T, String> {
    match words
        .iter()
        .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    {
        None => Ok(default),
        Some(text) => text
            .parse()
            .map_err(|_| format!("{name}={text}: not understood")),
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|_| format!("{text}: not a number in range"))
}

fn unhex(text: &str) -> Result<Vec<u8>, String> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return Err(format!("{text}: not hexadecimal"));
    }
    (0..text.len() / 2)
        .map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16))
        .collect::<Result<_, _>>()
        .map_err(|why| format!("{text}: {why}"))
}
