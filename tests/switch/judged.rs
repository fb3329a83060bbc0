//! The bytes that are judged are the bytes that arrive: whatever is rewritten meanwhile, and however a frame is cut.

use std::sync::atomic::{AtomicBool, Ordering};

use etherparse::PacketBuilder;
use portcullis::guest::{Descriptor, Guest, Shape, VnetHeader, vnet};

use crate::hostile::Ends;
use crate::rig::{BROADCAST, PATIENCE, Switch, all, expect, frame, mac, tagged, until};

/// What the tests of Q-14 say when they fail; `./test` looks for it in the mutant's run.
const CAUGHT: &str = "not what was judged";

const MALLORY: u8 = 66;
const WITNESS: u8 = 77;

fn ip6(n: u8) -> [u8; 16] {
    let mut address = [0; 16];
    (address[0], address[15]) = (0xfd, n);
    address
}

fn udp(from: [u8; 4], port: u16, len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(mac(MALLORY), mac(WITNESS))
        .ipv4(from, [10, 0, 0, WITNESS], 64)
        .udp(40_000, port)
        .write(&mut bytes, &vec![7; len])
        .unwrap();
    bytes
}

/// An ARP request by mallory in the name of `says`, behind it as much as makes it longer than a snapshot.
fn arp(says: [u8; 4]) -> Vec<u8> {
    let mut bytes = [
        &BROADCAST[..],
        &mac(MALLORY),
        &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
    ]
    .concat();
    bytes.extend(mac(MALLORY));
    bytes.extend(says);
    bytes.extend([0; 6]);
    bytes.extend([10, 0, 0, WITNESS]);
    bytes.resize(400, 0);
    bytes
}

/// A neighbour advertisement by mallory for the address of guest `of`.
fn advertisement(of: u8) -> Vec<u8> {
    let body = [&ip6(of)[..], &[2, 1], &mac(MALLORY)].concat();
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(mac(MALLORY), mac(WITNESS))
        .ipv6(ip6(MALLORY), ip6(WITNESS), 255)
        .icmpv6_raw(136, 0, [0x60, 0, 0, 0])
        .write(&mut bytes, &body)
        .unwrap();
    bytes
}

/// Bytes of the network header.
const HEADER: usize = 12;

/// Sends one frame over and over, behind a network header of zeros, while another thread writes one of two values to one of their bytes
/// in turn; goes on as long as `more` says, which is told after each burst how many were sent. Returns how many.
fn race(
    guest: &mut Guest,
    frame: &[u8],
    place: usize,
    values: [u8; 2],
    mut more: impl FnMut(u64) -> bool,
) -> u64 {
    let memory = guest.memory().clone();
    let last = memory.regions().last().unwrap();
    let at = last.gpa + last.size - 4096;
    let bytes = [&[0; HEADER][..], frame].concat();
    memory.write(at, &bytes).unwrap();
    let over = AtomicBool::new(false);
    let mut sent = 0;
    std::thread::scope(|scope| {
        let _ends = Ends(&over);
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                for value in values {
                    let place = at + place as u64;
                    memory.store(place, value, Ordering::Relaxed).unwrap();
                }
            }
        });
        let chain = [Descriptor {
            addr: at,
            len: bytes.len() as u32,
            flags: 0,
            next: 0,
        }];
        let mut reaped = Vec::new();
        while more(sent) {
            for _ in 0..128 {
                guest.tx(0).add_raw(&chain, 0).unwrap();
            }
            guest.tx(0).publish().unwrap();
            guest.tx(0).kick().unwrap();
            until("the burst", || {
                guest.tx(0).reap(128, &mut reaped).unwrap();
                (guest.tx(0).in_flight() == 0).then_some(())
            });
            reaped.clear();
            sent += 128;
        }
    });
    sent
}

/// a guest that rewrites the address of a frame while the switch reads it. Either address may win, but what is
/// delivered is what was judged: no receiver ever sees a frame that is addressed to the other.
///
/// A million frames; a hundred million under `./test --long`. `./test` also builds a mutant of the switch that reads the
/// address again before it delivers, in which this test has to fail with [`CAUGHT`].
#[test]
fn q_14_what_was_judged_is_what_arrives() {
    let switch = Switch::start(&[("a", ""), ("b", ""), ("mallory", "")]);
    let mut a = switch.guest("a", mac(0xa));
    let mut b = switch.guest("b", mac(0xb));
    let mut mallory = switch.guest("mallory", mac(66));
    for guest in [&mut a, &mut b] {
        let me = guest.mac();
        guest.send(&frame(mac(66), me, b"here")).unwrap();
        expect(&mut mallory);
    }
    all(&mut a);
    all(&mut b);
    // Longer than a snapshot, so that its end is copied later than its beginning.
    let sent = frame(mac(0xa), mac(66), &[7; 400]);
    let frames = if crate::rig::long() {
        100_000_000
    } else {
        1_000_000
    };
    let (mut to_a, mut to_b) = (0u64, 0u64);
    race(&mut mallory, &sent, HEADER + 5, [0xa, 0xb], |_| {
        for (guest, own, count) in [(&mut a, 0xau8, &mut to_a), (&mut b, 0xb, &mut to_b)] {
            for got in all(guest).into_iter().filter(|got| got.bytes[11] == 66) {
                assert_eq!(got.bytes[5], own, "{CAUGHT}");
                assert_eq!(got.bytes.len(), sent.len());
                *count += 1;
            }
        }
        to_a + to_b < frames
    });
    assert!(
        to_a > 100 && to_b > 100,
        "the address did change while frames were read: {to_a}, {to_b}"
    );
}

/// A field that decides: the port's keys, and a frame that passes and one that does not, which differ in one byte.
struct Field {
    name: &'static str,
    mallory: &'static str,
    witness: &'static str,
    passes: Vec<u8>,
    refused: Vec<u8>,
}

fn fields() -> Vec<Field> {
    let own = [10, 0, 0, MALLORY];
    let list = "acl = \"x\"\n[acl.x]\noutbound = [{ allow = \"udp\", port = 53 }]";
    let ip = "ip = [\"10.0.0.66\", \"fd00::42\"]\naddressing_rate = \"none\"";
    let mut protocol = udp(own, 53, 300);
    protocol[23] = 136;
    let field = |name, mallory, passes, refused| Field {
        name,
        mallory,
        witness: "",
        passes,
        refused,
    };
    vec![
        Field {
            name: "VLAN",
            mallory: "trunk = 10",
            witness: "trunk = [10, 20]",
            passes: tagged(mac(WITNESS), mac(MALLORY), 10, &[7; 300]),
            refused: tagged(mac(WITNESS), mac(MALLORY), 20, &[7; 300]),
        },
        field(
            "source address",
            ip,
            udp(own, 53, 300),
            udp([10, 0, 0, 67], 53, 300),
        ),
        field("protocol", list, udp(own, 53, 300), protocol),
        field("port", list, udp(own, 53, 300), udp(own, 54, 300)),
        field("ARP sender", ip, arp(own), arp([10, 0, 0, 67])),
        field("ND target", ip, advertisement(MALLORY), advertisement(67)),
    ]
}

/// Q-14, field by field: one thread writes the refused and the allowed value in turn, and nobody is ever sent the refused one.
///
/// 150,000 frames for each field; fifteen million under `./test --long`. The mutant of the switch that reads a frame again
/// has to fail here too.
#[test]
fn q_14_no_field_changes_after_it_was_judged() {
    for field in fields() {
        let mallory = format!("mac = \"52:54:00:00:00:42\"\n{}", field.mallory);
        let witness = format!("mac = \"52:54:00:00:00:4d\"\n{}", field.witness);
        let switch = Switch::start(&[("witness", &witness), ("mallory", &mallory)]);
        let mut witness = switch.guest("witness", mac(WITNESS));
        let mut mallory = switch.guest("mallory", mac(MALLORY));
        rewritten(&switch, &field, &mut mallory, &mut witness);
    }
}

/// Where the two frames differ, which they do in checksums too: those follow from the field and are left alone.
fn decisive(field: &Field) -> usize {
    let differ = |at: &usize| field.passes[*at] != field.refused[*at];
    let at = match field.name {
        "VLAN" => 15,
        "source address" => 29,
        "protocol" => 23,
        "port" => 37,
        "ARP sender" => 31,
        _ => 77,
    };
    assert!(differ(&at), "{}", field.name);
    at
}

fn rewritten(switch: &Switch, field: &Field, mallory: &mut Guest, witness: &mut Guest) {
    let decisive = decisive(field);
    let frames = if crate::rig::long() {
        15_000_000
    } else {
        150_000
    };
    let values = [field.refused[decisive], field.passes[decisive]];
    let mut arrived = 0u64;
    let sent = race(mallory, &field.passes, HEADER + decisive, values, |sent| {
        arrived += heard(witness, field);
        // Until both have been seen often, too, whatever the machine does to the two threads.
        sent < frames || arrived < 100 || sent - arrived < 100
    });
    let books = switch.books("mallory");
    assert_eq!(books.received, sent, "{}", field.name);
    until("what was forwarded", || {
        arrived += heard(witness, field);
        (arrived == books.forwarded).then_some(())
    });
}

/// a network header that changes while it is judged: from one that asks for nothing to one that would have a checksum
/// written into the destination address. What arrives asked for nothing, and is as it was sent.
#[test]
fn q_15_a_network_header_is_read_once() {
    let switch = Switch::start(&[("a", ""), ("mallory", "")]);
    let mut a = switch.plug("a", Guest::builder().mac(mac(0xa)).offloads());
    let mut mallory = switch.plug("mallory", Guest::builder().mac(mac(66)).offloads());
    a.send(&frame(mac(66), mac(0xa), b"here")).unwrap();
    expect(&mut mallory);
    let sent = frame(mac(0xa), mac(66), &[7; 400]);
    let (mut plain, mut refused) = (0u64, 0u64);
    race(&mut mallory, &sent, 0, [0, vnet::NEEDS_CSUM], |_| {
        for got in all(&mut a) {
            assert_eq!((got.header.flags, got.header.gso_type), (0, 0));
            assert_eq!(got.bytes, sent);
            plain += 1;
        }
        if plain % 1024 < 128 {
            refused = switch.dropped("mallory", "bad-offload");
        }
        plain < 20_000 || refused < 20_000
    });
}

/// How many frames have arrived, each of which must be the allowed one.
fn heard(witness: &mut Guest, field: &Field) -> u64 {
    let got = all(witness);
    for one in &got {
        assert_eq!(one.bytes, field.passes, "{CAUGHT}: {}", field.name);
    }
    got.len() as u64
}

/// All ways to cut `len` bytes into pieces, as lengths.
fn compositions(len: usize) -> impl Iterator<Item = Vec<usize>> {
    (0..1usize << (len - 1)).map(move |cuts| {
        let mut pieces = vec![1];
        for byte in 1..len {
            if cuts >> (byte - 1) & 1 == 1 {
                pieces.push(1);
            } else {
                *pieces.last_mut().unwrap() += 1;
            }
        }
        pieces
    })
}

/// a frame whose headers are cut in any way, with empty pieces and without, is judged as the same frame whole.
#[test]
fn q_10_a_frame_in_pieces_is_judged_as_if_it_were_whole() {
    let list = "mac = \"52:54:00:00:00:42\"\nacl = \"x\"\n[acl.x]\noutbound = [{ allow = \"udp\", port = 53 }]";
    let switch = Switch::start(&[("witness", ""), ("mallory", list)]);
    let mut witness = switch.guest("witness", mac(WITNESS));
    let mut mallory = switch.guest("mallory", mac(MALLORY));
    let own = [10, 0, 0, MALLORY];
    let (passes, refused) = (udp(own, 53, 20), udp(own, 54, 20));
    // The virtio-net header, the Ethernet header behind it, and the UDP header, whose port decides.
    let cuts = compositions(12)
        .chain(compositions(14).map(|pieces| [vec![12], pieces].concat()))
        .chain(compositions(8).map(|pieces| [vec![12 + 14 + 20], pieces].concat()));
    let mut rounds = 0;
    for (number, pieces) in cuts.enumerate() {
        let spaced: Vec<usize> = pieces.iter().flat_map(|len| [0, *len]).collect();
        let shapes = if number % 2 == 0 {
            [Shape::Pieces(pieces), Shape::Indirect(spaced)]
        } else {
            [Shape::Indirect(pieces), Shape::Pieces(spaced)]
        };
        for shape in &shapes {
            for bytes in [&refused, &passes] {
                mallory
                    .queue_frame(0, VnetHeader::default(), bytes, shape)
                    .unwrap();
            }
        }
        mallory.flush(0).unwrap();
        for _ in 0..2 {
            let got = witness.recv(PATIENCE).unwrap().expect("a frame");
            assert_eq!(got.bytes, passes, "{shapes:?}");
        }
        rounds += 1;
    }
    assert_eq!(rounds, (1 << 11) + (1 << 13) + (1 << 7));
    let books = switch.books("mallory");
    assert_eq!((books.forwarded, books.dropped), (2 * rounds, 2 * rounds));
    assert!(all(&mut witness).is_empty());
}
