//! The same frames under the same lists through the kernel's bridge with nftables, and through us.
//!
//! Both have the same five ports: VLANs, isolated ports, groups. The policy is drawn by lot and told to each side in its own
//! words (`policy`); the frames are drawn by lot, each with a number (`frames`). The bridge's ports are TAP devices in a network
//! namespace of the test's own, ours are sockets with guests in software behind them: a process, its configuration, its rings.
//! What is compared is who received which frame, byte for byte, tags and priorities included. Where we mean to differ is
//! written in [`INTENDED`], and for these too what we deliver is held against what the bridge delivers.
//!
//! The lot is another one each time; `PORTCULLIS_SEED` repeats one.
#![allow(
    clippy::cast_possible_truncation,
    reason = "what is drawn here is small, and a number cut short would be a number all the same"
)]

mod dice;
mod frames;
mod ours;
mod policy;
mod tracked;
mod world;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use self::dice::Dice;
use self::frames::{INTENDED, Oddity, Sent};
use self::ours::{Ours, bound};
use self::policy::Policy;
use self::world::{MARK, NATIVE, PLACES, STATIONS, TAGS, mac};
use crate::lab::namespace::{Tap, command, enter_silent_network, fed, setting};
use crate::lab::{Bench, PATIENCE, until};

const POLICIES: u32 = 80;
const FRAMES: u32 = 400;
/// Frames that are on their way at once: fewer than any queue holds.
const ROUND: usize = 100;

/// What each port received, by the frame's number.
type Arrivals = BTreeMap<u32, Vec<Option<Vec<u8>>>>;

/// A frame that passes every list, from each station in each VLAN: by it the stations are known.
fn introductions() -> impl Iterator<Item = (usize, Vec<u8>)> {
    (0..PLACES.len()).flat_map(|port| {
        (0..STATIONS)
            .flat_map(move |station| TAGS.map(|tag| (port, marker(mac(port, station), tag))))
    })
}

fn marker(from: [u8; 6], tag: Option<u16>) -> Vec<u8> {
    let mut frame = [[0xff; 6], from].concat();
    if let Some(vid) = tag {
        frame.extend(0x8100u16.to_be_bytes());
        frame.extend(vid.to_be_bytes());
    }
    frame.extend(MARK.to_be_bytes());
    frame.resize(64, 0);
    frame
}

fn is_marker(frame: &[u8]) -> bool {
    let mark = MARK.to_be_bytes();
    frame[12..14] == mark || frame[12..14] == [0x81, 0] && frame[16..18] == mark
}

fn number(frame: &[u8]) -> u32 {
    u32::from_be_bytes(*frame.last_chunk().expect("a number"))
}

/// Notes who received what. Nobody receives a frame twice.
fn note(arrivals: &mut Arrivals, port: usize, frame: Vec<u8>) {
    let of = arrivals
        .entry(number(&frame))
        .or_insert_with(|| vec![None; PLACES.len()]);
    let before = of[port].replace(frame);
    assert!(
        before.is_none(),
        "twice at {}: {before:02x?}",
        PLACES[port].name
    );
}

/// The kernel's bridge.
struct Bridge {
    taps: Vec<Tap>,
}

impl Bridge {
    fn new() -> Self {
        enter_silent_network();
        let bridge = "type bridge mcast_snooping 0 forward_delay 0";
        let words: Vec<&str> = ["link", "add", "br0"]
            .into_iter()
            .chain(bridge.split(' '))
            .collect();
        command("ip", &words);
        command("ip", &["link", "set", "dev", "br0", "up"]);
        // The bridge family judges alone; what the kernel has for IP is left out.
        for family in ["iptables", "ip6tables", "arptables"] {
            let name = format!("bridge/bridge-nf-call-{family}");
            if std::path::Path::new("/proc/sys/net").join(&name).exists() {
                setting(&name, "0");
            }
        }
        let taps = PLACES.iter().map(|place| {
            let tap = Tap::new(place.name);
            command("ip", &["link", "set", "dev", place.name, "master", "br0"]);
            if place.isolated {
                command(
                    "bridge",
                    &["link", "set", "dev", place.name, "isolated", "on"],
                );
            }
            tap
        });
        Self {
            taps: taps.collect(),
        }
    }

    fn rule(&self, policy: &Policy) {
        fed("nft", &["-f", "-"], &policy.nft());
    }

    /// A marker from `d` and one from `a`, which no mode keeps from anybody: what they find in each queue is the end of it.
    fn pass(&mut self, frames: &[Sent], arrivals: &mut Arrivals) {
        for sent in frames {
            self.taps[sent.port].send(&sent.bytes);
        }
        for port in [3, 0] {
            self.taps[port].send(&marker(mac(port, 0), None));
        }
        let expected = [1, 2, 2, 1, 2];
        for (port, mut markers) in expected.into_iter().enumerate() {
            let what = format!("the last frame of the round at {}", PLACES[port].name);
            while markers > 0 {
                let frame = until(&what, PATIENCE, || self.taps[port].receive());
                if is_marker(&frame) {
                    markers -= 1;
                } else {
                    note(arrivals, port, frame);
                }
            }
        }
    }
}

/// The ports without their lists. Port security is off: the bridge has none.
fn ports(bench: &Bench) -> String {
    let mut text = String::from(
        "[defaults]\nspoofing = \"allow\"\ndhcp_server = true\nrouter = true\nlink_protocols = true\n",
    );
    for place in &PLACES {
        let socket = bench.path(&format!("{}.sock", place.name));
        let _ = writeln!(text, "[port.{}]\nsocket = {socket:?}", place.name);
        if let Some(group) = place.group {
            let _ = writeln!(text, "groups = \"{group}\"");
        }
        if place.isolated {
            text += "mode = \"isolated\"\n";
        }
        let _ = writeln!(text, "trunk = \"all\"\nnative = {NATIVE}");
    }
    text
}

/// How often an oddity was sent, and how often it made a difference.
type Odd = BTreeMap<Oddity, [u32; 2]>;

/// Holds what arrived of one frame with us against what arrived on the bridge. Says why it is wrong.
fn compare(
    sent: &Sent,
    ours: &[Option<Vec<u8>>],
    theirs: &[Option<Vec<u8>>],
    odd: &mut Odd,
) -> Result<(), String> {
    let Some(oddity) = sent.oddity else {
        return if ours == theirs {
            Ok(())
        } else {
            Err("the two differ".to_owned())
        };
    };
    let counts = odd.entry(oddity).or_default();
    counts[0] += 1;
    counts[1] += u32::from(ours != theirs);
    let (_, relation, _) = INTENDED
        .iter()
        .find(|(known, ..)| *known == oddity)
        .expect("a reason");
    if relation.is_broken(ours, theirs) {
        return Err(format!("{oddity:?}: we deliver more than the bridge"));
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Who received it; and what, where that is not what was sent.
fn names(arrived: &[Option<Vec<u8>>], sent: &[u8]) -> String {
    let of = PLACES.iter().zip(arrived);
    let each = of.filter_map(|(place, frame)| {
        let frame = frame.as_ref()?;
        Some(if frame == sent {
            place.name.to_owned()
        } else {
            format!("{} ({})", place.name, hex(frame))
        })
    });
    each.collect::<Vec<_>>().join(", ")
}

#[test]
fn the_bridge_with_nftables_and_we_deliver_the_same_frames_under_the_same_rules() {
    let seed = dice::seed();
    let mut ours = Ours::new(ports);
    let mut bridge = Bridge::new();
    for (port, frame) in introductions() {
        ours.send(port, &frame);
        bridge.taps[port].send(&frame);
    }
    ours.settle(|_, _| ());
    for tap in &mut bridge.taps {
        while tap.receive().is_some() {}
    }
    let mut dice = Dice::new(seed);
    let mut odd = Odd::new();
    let (mut delivered, mut withheld) = (0u32, 0u32);
    let none = vec![None; PLACES.len()];
    for round in 0..POLICIES {
        let policy = Policy::new(&mut dice);
        let text = bound(&ports(&ours.bench), &policy.toml());
        ours.switch.change(&text);
        bridge.rule(&policy);
        let frames: Vec<Sent> = (0..FRAMES)
            .map(|n| Sent::new(&mut dice, 0xa500_0000 | round << 16 | n))
            .collect();
        let (mut with_us, mut with_them) = (Arrivals::new(), Arrivals::new());
        for some in frames.chunks(ROUND) {
            for sent in some {
                ours.send(sent.port, &sent.bytes);
            }
            ours.settle(|port, frame| {
                if !is_marker(&frame) {
                    note(&mut with_us, port, frame);
                }
            });
            bridge.pass(some, &mut with_them);
        }
        for sent in &frames {
            let of = number(&sent.bytes);
            let ours = with_us.remove(&of).unwrap_or_else(|| none.clone());
            let theirs = with_them.remove(&of).unwrap_or_else(|| none.clone());
            if theirs == none {
                withheld += 1;
            } else {
                delivered += 1;
            }
            compare(sent, &ours, &theirs, &mut odd).unwrap_or_else(|why| {
                panic!(
                    "{why} (PORTCULLIS_SEED={seed}, policy {round})\nfrom {}: {}\nwith us at    {}\non the bridge {}\n{}\n{}",
                    PLACES[sent.port].name,
                    hex(&sent.bytes),
                    names(&ours, &sent.bytes),
                    names(&theirs, &sent.bytes),
                    policy.toml(),
                    policy.nft()
                )
            });
        }
        assert!(
            with_us.is_empty() && with_them.is_empty(),
            "frames that nobody sent"
        );
    }
    eprintln!("{delivered} frames delivered, {withheld} not; differences that are meant:");
    for (oddity, relation, why) in INTENDED {
        let [sent, differed] = odd.get(&oddity).copied().unwrap_or_default();
        eprintln!("{oddity:?} ({relation:?}): {differed} of {sent}: {why}");
        assert!(
            differed > 0,
            "{oddity:?} made no difference in {sent} frames: is it still one?"
        );
    }
    let all = POLICIES * FRAMES;
    assert!(
        delivered > all / 10 && withheld > all / 10,
        "{delivered} and {withheld}"
    );
}
