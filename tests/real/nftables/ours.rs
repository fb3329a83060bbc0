//! Our switch, as a process, with guests in software at its ports.

use std::fmt::Write as _;

use portcullis::guest::Guest;

use super::world::{MARK, PLACES};
use crate::lab::{Bench, PATIENCE, Switch, until};

/// Our own switch, as its own process.
pub(crate) struct Ours {
    pub(crate) bench: Bench,
    pub(crate) switch: Switch,
    guests: Vec<Guest>,
    sent: [u64; PLACES.len()],
}

impl Ours {
    /// With the tables that `text` makes of it, and a guest at each port.
    pub(crate) fn new(text: impl Fn(&Bench) -> String) -> Self {
        let bench = Bench::new();
        let switch = Switch::start(&bench, &text(&bench));
        let guests = PLACES.iter().map(|place| {
            let guest = Guest::builder().ring_size(1024);
            guest
                .connect(bench.path(&format!("{}.sock", place.name)))
                .expect("a guest")
        });
        let guests = guests.collect();
        switch.await_running(&PLACES.each_ref().map(|place| place.name));
        Self {
            bench,
            switch,
            guests,
            sent: [0; PLACES.len()],
        }
    }

    pub(crate) fn send(&mut self, port: usize, frame: &[u8]) {
        self.guests[port].send(frame).expect("a place in the ring");
        self.sent[port] += 1;
    }

    /// Once all that was sent is judged, and delivered or not: what was received.
    pub(crate) fn settle(&mut self, mut note: impl FnMut(usize, Vec<u8>)) {
        until("the end of the round", PATIENCE, || {
            let status = self.switch.status();
            let settled = PLACES.iter().zip(self.sent).all(|(place, sent)| {
                let traffic = Switch::traffic_of(&status, place.name);
                traffic.received == sent
                    && traffic.received == traffic.forwarded + traffic.dropped
                    && traffic.offered == traffic.delivered + traffic.undelivered
            });
            settled.then_some(())
        });
        for (port, guest) in self.guests.iter_mut().enumerate() {
            while let Some(received) = guest.try_recv().expect("a frame") {
                note(port, received.bytes);
            }
        }
    }
}

/// The lists bound, where there are any: each port's by its name, and the tables of the lists after the ports'.
pub(crate) fn bound(ports: &str, lists: &str) -> String {
    let mut text = ports.to_owned();
    for place in &PLACES {
        if !lists.contains(&format!("[acl.{}]\n", place.name)) {
            continue;
        }
        let table = format!("[port.{}]\n", place.name);
        text = text.replace(&table, &format!("{table}acl = \"{}\"\n", place.name));
    }
    text + lists
}

/// A list for each way, as an `[acl.NAME]` table; `toml` tells a rule in the configuration's words. What makes stations known
/// passes first.
pub(super) fn table<R>(
    name: &str,
    lists: [Option<&[R]>; 2],
    toml: impl Fn(&R) -> String,
) -> String {
    let mut text = format!("[acl.{name}]\n");
    for (way, list) in ["outbound", "inbound"].iter().zip(lists) {
        let Some(rules) = list else { continue };
        let _ = writeln!(
            text,
            "{way} = [\n  {{ allow = \"{MARK:#06x}\", stateless = true }},"
        );
        for rule in rules {
            let _ = writeln!(text, "  {},", toml(rule));
        }
        text += "]\n";
    }
    text
}
