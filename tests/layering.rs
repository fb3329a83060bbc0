//! The house's arrows point down: read from the source text, room by room.
//!
//! A room may name the rooms below it in its own wing, and on floor 3 and above those of both wings. The few
//! horizontal arrows are doors, listed one by one. Test modules are held to the same table, but for `guest`, on which tests stand.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What each room may name. Written out in full: whoever adds an arrow sees it in the diff.
const ARROWS: &[(&str, &[&str])] = &[
    // Floor 0.
    ("frame", &["counters"]),
    ("clock", &[]),
    ("counters", &["clock"]),
    ("memory", &[]),
    // Floor 1.
    ("policy", &["frame", "clock", "counters"]),
    ("fabric", &["frame", "clock", "counters", "policy"]),
    ("ring", &["memory"]),
    // Floor 2.
    ("session", &["memory", "ring"]),
    // Floor 3.
    (
        "port",
        &[
            "frame", "clock", "counters", "memory", "policy", "fabric", "ring", "session",
        ],
    ),
    (
        "datapath",
        &[
            "frame", "clock", "counters", "memory", "policy", "fabric", "ring", "port",
        ],
    ),
    // Floor 4.
    (
        "config",
        &[
            "frame", "clock", "counters", "policy", "fabric", "port", "datapath",
        ],
    ),
    (
        "control",
        &[
            "frame", "clock", "counters", "policy", "fabric", "port", "datapath",
        ],
    ),
    // Floor 5.
    (
        "daemon",
        &[
            "frame", "clock", "counters", "memory", "policy", "fabric", "port", "datapath",
            "config", "control",
        ],
    ),
    (
        "cli",
        &[
            "clock", "counters", "frame", "config", "control", "daemon", "guest",
        ],
    ),
    // Beside the house.
    ("guest", &[]),
];

fn sources(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|end| end == "rs") {
            into.push(path);
        }
    }
}

/// The rooms that a source text names, with the line of the first mention of each.
fn named(text: &str) -> BTreeMap<String, usize> {
    let mut rooms = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        for (at, _) in code.match_indices("crate::") {
            let rest = &code[at + "crate::".len()..];
            let names: Vec<&str> = match rest.strip_prefix('{') {
                // `use crate::{a, b::C}`: one level is enough, since rustfmt nests by room.
                Some(list) => list.split(',').collect(),
                None => vec![rest],
            };
            for name in names {
                let room: String = name
                    .trim()
                    .chars()
                    .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                    .collect();
                if !room.is_empty() {
                    rooms.entry(room).or_insert(number + 1);
                }
            }
        }
    }
    rooms
}

fn rooms_of_the_house() -> BTreeSet<String> {
    let lib = fs::read_to_string("src/lib.rs").expect("src/lib.rs");
    lib.lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_room_is_in_the_table() {
    let table: BTreeSet<String> = ARROWS.iter().map(|(room, _)| (*room).to_owned()).collect();
    assert_eq!(rooms_of_the_house(), table);
}

#[test]
fn arrows_point_down_only() {
    let rooms = rooms_of_the_house();
    let mut wrong = Vec::new();
    for (room, allowed) in ARROWS {
        let mut files = Vec::new();
        sources(&Path::new("src").join(room), &mut files);
        assert!(!files.is_empty(), "room {room} has no source");
        for file in files {
            let is_test = file
                .file_name()
                .is_some_and(|name| name.to_string_lossy().contains("test"))
                || file.components().any(|part| part.as_os_str() == "tests");
            let text = fs::read_to_string(&file).expect("a readable source");
            for (name, line) in named(&text) {
                let tolerated = name == *room
                    || allowed.contains(&name.as_str())
                    || (is_test && name == "guest");
                if rooms.contains(&name) && !tolerated {
                    wrong.push(format!("{}:{line}: {room} names {name}", file.display()));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "arrows that the house does not have:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn the_wings_do_not_meet_below_floor_3() {
    let law = ["frame", "policy", "fabric"];
    let matter = ["memory", "ring", "session"];
    for (room, allowed) in ARROWS {
        for (mine, other) in [(law, matter), (matter, law)] {
            assert!(
                !mine.contains(room) || allowed.iter().all(|name| !other.contains(name)),
                "{room} names the other wing"
            );
        }
    }
}

#[test]
fn the_reader_of_this_test_sees_what_it_should() {
    let text = "use crate::ring::TxRing;\n// crate::fabric\nuse crate::{memory::Extent, frame};\nlet x = crate::clock::Tick::ZERO;";
    let found = named(text);
    assert_eq!(
        found.keys().map(String::as_str).collect::<Vec<_>>(),
        ["clock", "frame", "memory", "ring"]
    );
    assert_eq!(found["memory"], 3);
}

#[test]
fn unsafe_code_is_in_memory_only() {
    let mut files = Vec::new();
    sources(Path::new("src"), &mut files);
    let allowing: Vec<String> = files
        .iter()
        .filter(|file| !file.starts_with("src/memory"))
        .filter(|file| {
            let text = fs::read_to_string(file).expect("a readable source");
            text.lines().any(|line| {
                let code = line.split("//").next().unwrap_or_default();
                code.contains("unsafe") && !code.contains('"')
            })
        })
        .map(|file| file.display().to_string())
        .collect();
    assert!(
        allowing.is_empty(),
        "unsafe outside of src/memory: {allowing:?}"
    );
}

/// Case O-9: a jump of the wall clock moves nothing. It is read in two places, each for a time that people are told; all else is
/// given ticks of `clock`, whose source is monotonic, as are the waits of the kernel that are named here.
#[test]
fn o_9_the_wall_clock_is_read_for_people_alone() {
    let told = ["daemon/quarantine.rs", "daemon/seen.rs"];
    let mut found = Vec::new();
    let mut files = Vec::new();
    sources(Path::new("src"), &mut files);
    for file in files {
        let name = file.strip_prefix("src").unwrap().display().to_string();
        // The other side in software, and tests.
        if name.starts_with("guest/") || name.contains("tests") {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        let walls = [
            "SystemTime",
            "UNIX_EPOCH",
            "CLOCK_REALTIME",
            "gettimeofday",
            "ClockId::Realtime",
        ];
        if walls.iter().any(|wall| text.contains(wall)) {
            found.push(name);
        }
    }
    found.sort();
    assert_eq!(found, told);
    let text = fs::read_to_string("src/clock/mod.rs").unwrap();
    assert!(
        text.contains("quanta::Clock"),
        "monotonic: its own documentation says so"
    );
    let text = fs::read_to_string("src/memory/metronome.rs").unwrap();
    assert!(text.contains("libc::CLOCK_MONOTONIC"));
}
