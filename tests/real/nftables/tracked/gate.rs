//! The parts of the kernel's table that are the same in every policy: what a packet's state is, which lists it meets, what its
//! connection remembers.

use std::fmt::Write as _;

use super::super::world::{MARK, NATIVE, PLACES, STATIONS, mac};
use super::layout::VLANS;
use super::rules::Form;

/// The packet's mark.
pub(super) mod bits {
    pub(in super::super) const NEW: u32 = 0x1;
    pub(in super::super) const ESTABLISHED: u32 = 0x2;
    pub(in super::super) const RELATED: u32 = 0x4;
    pub(in super::super) const INVALID: u32 = 0x8;
    pub(in super::super) const UNTRACKED: u32 = 0x10;
    /// What lets it pass lets its replies pass too, as far as that list is concerned.
    pub(in super::super) const COVERS_OUT: u32 = 0x100;
    pub(in super::super) const COVERS_IN: u32 = 0x200;
    /// Some rule, or the other list of a port without this one, asks for a connection.
    pub(in super::super) const WANTED: u32 = 0x400;
    /// A policy would not let it open again.
    pub(in super::super) const REFUSED: u32 = 0x800;
    /// Its connection covers the list.
    pub(in super::super) const COVERED: [u32; 2] = [0x1000, 0x2000];
    /// And from here on its VLAN.
    pub(in super::super) const VLAN: u32 = 0x1_0000;
    pub(in super::super) const VLANS: u32 = 0xf_0000;
}

/// The mark of a connection: one that we would have; which of its directions' senders are covered; that who opened it is, to the kernel,
/// who replies; and from here on the number of the policy.
mod kept {
    pub(super) const OPEN: u32 = 0x1;
    pub(super) const COVERED: [u32; 2] = [0x2, 0x4];
    pub(super) const REVERSED: u32 = 0x8;
    pub(super) const NUMBER: u32 = 0x100;
}

/// Frames by which the end of a round is found.
pub(super) const BARRIER: u16 = 0x88b7;

pub(super) fn mac_text(octets: [u8; 6]) -> String {
    octets.map(|octet| format!("{octet:02x}")).join(":")
}

pub(super) fn comes_by(ports: &[usize]) -> String {
    let names: Vec<String> = ports
        .iter()
        .map(|at| format!("\"{}\"", PLACES[*at].name))
        .collect();
    format!(" iifname {{ {} }}", names.join(", "))
}

/// At the door where it can be rejected, a packet's receiver is whose address it has.
pub(super) fn goes_to(ports: &[usize]) -> String {
    let stations = ports
        .iter()
        .flat_map(|port| (0..STATIONS).map(|station| mac_text(mac(*port, station))));
    let stations: Vec<String> = stations.collect();
    format!(" ether daddr {{ {} }}", stations.join(", "))
}

fn vlan_bit(vid: u16) -> u32 {
    let at = VLANS.iter().position(|known| *known == vid);
    bits::VLAN << at.map_or(VLANS.len(), |at| at)
}

pub(super) fn vlan(vid: Option<u16>) -> String {
    vid.map_or(String::new(), |vid| {
        format!("meta mark & {:#x} != 0", vlan_bit(vid))
    })
}

/// Lines that find the packet's VLAN, of what has no tag that of its port.
fn vlans(natives: &[Option<u16>]) -> String {
    let mut text = String::new();
    for vid in VLANS {
        let _ = writeln!(
            text,
            "vlan id {vid} meta mark set meta mark | {:#x}",
            vlan_bit(vid)
        );
    }
    for (place, native) in PLACES.iter().zip(natives) {
        if let Some(vid) = native {
            let _ = writeln!(
                text,
                "meta mark & {:#x} == 0 iifname \"{}\" meta mark set meta mark | {:#x}",
                bits::VLANS,
                place.name,
                vlan_bit(*vid)
            );
        }
    }
    text
}

/// A connection is between two ports and in one VLAN: to the kernel that is a zone.
pub(super) fn zones(natives: &[Option<u16>]) -> String {
    let mut text = format!(
        "table bridge zones {{\nchain zones {{ type filter hook prerouting priority -300; policy accept;\nmeta mark set 0\n{}",
        vlans(natives)
    );
    let all: Vec<u16> = VLANS.into_iter().chain([NATIVE]).collect();
    for vid in &all {
        let _ = writeln!(text, "meta mark & {:#x} != 0 goto in{vid}", vlan_bit(*vid));
    }
    text += "}\n";
    for (n, vid) in all.iter().enumerate() {
        let _ = writeln!(text, "chain in{vid} {{");
        for from in 0..PLACES.len() {
            for to in 0..PLACES.len() {
                let (low, high) = (from.min(to), from.max(to));
                let zone = 1 + (n * PLACES.len() + low) * PLACES.len() + high;
                let _ = writeln!(
                    text,
                    "{}{} ct zone set {zone}",
                    comes_by(&[from]),
                    goes_to(&[to])
                );
            }
        }
        text += "}\n";
    }
    text + "}\n"
}

/// The table up to its lists.
pub(super) fn head(number: u32, natives: &[Option<u16>]) -> String {
    let gate = kept::NUMBER * number;
    let numbers = !(kept::NUMBER - 1);
    let mut text = format!(
        "table bridge gate\ndelete table bridge gate\ntable bridge gate {{\n\
         chain prerouting {{ type filter hook prerouting priority 0; policy accept;\n\
         meta protocol {{ {MARK:#06x}, {BARRIER:#06x} }} accept\nmeta mark set 0\n{}\
         meta protocol ip icmp type redirect meta mark set meta mark | {untracked:#x}\n\
         meta mark & {untracked:#x} == 0 ct state vmap {{ related : jump about, new : jump tracked, established : jump tracked, \
         invalid : jump invalid, untracked : jump untracked }}\n",
        vlans(natives),
        untracked = bits::UNTRACKED
    );
    text += &lists("l", false);
    let _ = writeln!(
        text,
        "meta mark & {:#x} != 0 meta mark & {:#x} != 0 jump opens\n}}",
        bits::NEW,
        bits::WANTED
    );
    for (name, bit) in [("invalid", bits::INVALID), ("untracked", bits::UNTRACKED)] {
        let _ = writeln!(
            text,
            "chain {name} {{\nmeta mark set meta mark | {bit:#x}\n}}"
        );
    }
    // What a packet is to us: a redirect is about no connection of its receiver's. Without a connection that we have too, a segment begins one or belongs nowhere.
    let is_ours = format!(
        "ct mark & {:#x} == {:#x}",
        numbers | kept::OPEN,
        gate | kept::OPEN
    );
    let _ = writeln!(
        text,
        "chain about {{\n\
         {is_ours} jump covered\n\
         {is_ours} meta mark set meta mark | {:#x} return\n\
         meta mark set meta mark | {:#x}\n}}",
        bits::RELATED,
        bits::INVALID
    );
    let _ = writeln!(
        text,
        "chain tracked {{\n\
         ct mark & {:#x} != 0 ct mark & {numbers:#x} != {gate:#x} jump again\n\
         {is_ours} jump covered\n\
         {is_ours} meta mark set meta mark | {:#x} return\n\
         meta l4proto tcp tcp flags & (fin|syn|rst|ack|urg) == syn meta mark set meta mark | {new:#x} return\n\
         meta l4proto tcp meta mark set meta mark | {invalid:#x} return\n\
         meta protocol ip icmp type echo-reply meta mark set meta mark | {invalid:#x} return\n\
         meta protocol ip6 icmpv6 type echo-reply meta mark set meta mark | {invalid:#x} return\n\
         meta mark set meta mark | {new:#x}\n}}",
        kept::OPEN,
        bits::ESTABLISHED,
        new = bits::NEW,
        invalid = bits::INVALID
    );
    text += "chain covered {\n";
    for (direction, sides) in [("original", [0, 1]), ("reply", [1, 0])] {
        for (covered, side) in bits::COVERED.iter().zip(sides) {
            let _ = writeln!(
                text,
                "ct direction {direction} ct mark & {:#x} != 0 meta mark set meta mark | {covered:#x}",
                kept::COVERED[side]
            );
        }
    }
    text += "}\n";
    text += &opens(gate);
    text + &again(gate)
}

/// Both lists of a packet, or of a connection whose packet goes the other way.
fn lists(letter: &str, is_mirrored: bool) -> String {
    let mut text = String::new();
    for way in 0..2 {
        for at in 0..PLACES.len() {
            let place = if (way == 0) != is_mirrored {
                comes_by(&[at])
            } else {
                goes_to(&[at])
            };
            let _ = writeln!(text, "{place} jump {letter}{at}{way}");
        }
    }
    text
}

/// What a connection remembers: `covers` are the opener's side and the other's.
fn mark(gate: u32, covers: [bool; 2], is_reversed: bool) -> u32 {
    let sides = if is_reversed { [1, 0] } else { [0, 1] };
    let marks = covers
        .iter()
        .zip(sides)
        .map(|(covers, side)| if *covers { kept::COVERED[side] } else { 0 });
    let reversed = if is_reversed { kept::REVERSED } else { 0 };
    marks.sum::<u32>() | kept::OPEN | reversed | gate
}

const ALL_COVERS: [[bool; 2]; 4] = [[false, false], [true, false], [false, true], [true, true]];

fn covers_bits(covers: [bool; 2]) -> u32 {
    (u32::from(covers[0]) * bits::COVERS_OUT) | (u32::from(covers[1]) * bits::COVERS_IN)
}

/// A connection opens for the packet.
fn opens(gate: u32) -> String {
    let mut text = "chain opens {\n".to_owned();
    for (direction, is_reversed) in [("original", false), ("reply", true)] {
        for covers in ALL_COVERS {
            let _ = writeln!(
                text,
                "ct direction {direction} meta mark & {:#x} == {:#x} ct mark set {:#x} return",
                bits::COVERS_OUT | bits::COVERS_IN,
                covers_bits(covers),
                mark(gate, covers, is_reversed)
            );
        }
    }
    text + "}\n"
}

/// A connection of an earlier policy is judged again, by the packet that opened it; one that would not open is over.
fn again(gate: u32) -> String {
    let mut text = "chain again {\n".to_owned();
    for (direction, reversed, chain) in [
        ("original", 0, "same"),
        ("original", kept::REVERSED, "mirror"),
        ("reply", kept::REVERSED, "same"),
        ("reply", 0, "mirror"),
    ] {
        let _ = writeln!(
            text,
            "ct direction {direction} ct mark & {:#x} == {reversed:#x} jump {chain}",
            kept::REVERSED
        );
    }
    let both = bits::COVERS_OUT | bits::COVERS_IN;
    let _ = writeln!(
        text,
        "meta mark & {:#x} == 0 meta mark set meta mark & {:#x}",
        bits::WANTED,
        !both
    );
    let _ = writeln!(
        text,
        "meta mark & {:#x} != 0 ct mark set 0x10",
        bits::REFUSED
    );
    for reversed in [0, kept::REVERSED] {
        for covers in ALL_COVERS {
            let _ = writeln!(
                text,
                "meta mark & {:#x} == {:#x} ct mark & {:#x} == {:#x} ct mark set {:#x}",
                both | bits::REFUSED,
                covers_bits(covers),
                kept::REVERSED | kept::OPEN,
                reversed | kept::OPEN,
                mark(gate, covers, reversed != 0)
            );
        }
    }
    let _ = writeln!(text, "meta mark set meta mark & {:#x}\n}}", bits::VLANS);
    for (name, letter, is_mirrored) in [("same", "s", false), ("mirror", "m", true)] {
        let _ = writeln!(text, "chain {name} {{\n{}}}", lists(letter, is_mirrored));
    }
    text
}

/// How a list ends.
pub(super) fn end(at: usize, way: usize, form: Form) -> String {
    let alone = bits::ESTABLISHED | bits::RELATED | bits::INVALID;
    match form {
        Form::Live => format!(
            "meta mark & {:#x} != 0 return\nmeta mark & {alone:#x} != 0 goto u{at}{way}\ndrop\n",
            bits::COVERED[way]
        ),
        Form::Alone => "drop\n".to_owned(),
        Form::Again | Form::Mirrored => {
            format!("meta mark set meta mark | {:#x}\n", bits::REFUSED)
        }
    }
}
