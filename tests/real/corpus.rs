//! What the gate reads of frames of the wild, against another dissector.
//!
//! The captures are those that tcpdump is tested with (`lab/setup.sh` fetches its source): odd, broken and hostile packets that
//! somebody met in 30 years. Each Ethernet frame is read by the switch's own [`Digest`], from the first 256 bytes that it
//! would have copied, and by etherparse. Where the frame is whole and etherparse takes it, the two must say the same. Where it is cut
//! short or contradicts itself, etherparse is asked to read on, and ours must say the same or that it does not know:
//! never something else.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use etherparse::{
    Ipv6ExtensionSlice, LaxLinkExtSlice, LaxNetSlice, LaxSlicedPacket, LinkSlice, SlicedPacket,
    TransportSlice,
};
use portcullis::frame::Frame;
use portcullis::policy::digest::Digest;
use portcullis::policy::subject::{Depth, Piece};

use crate::lab::{Bench, artefacts};

/// As much as the switch copies before it judges.
const SNAPSHOT: usize = 256;
const ETHERNET: u32 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// What both say of a frame; `None` where it has no such thing, or it could not be read.
#[derive(Debug, PartialEq)]
struct Read {
    ethertype: Option<u16>,
    vid: Option<u16>,
    addresses: Option<(IpAddr, IpAddr)>,
    protocol: Option<u8>,
    /// Whether it is a first or a later fragment.
    fragment: Option<bool>,
    /// Ports, or type and code.
    layer_4: Option<(u16, u16)>,
}

fn ours(frame: &Frame<'_>) -> Read {
    let subject = Digest::of(frame, 1).subject;
    let family = subject.family();
    let protocol = family
        .filter(|_| subject.depth() != Depth::Nothing)
        .map(|_| subject.protocol());
    let is_shown = subject.depth() == Depth::Ports && subject.piece() != Piece::Later;
    let is_icmp = matches!(
        (protocol, frame.ethertype()),
        (Some(ICMP), 0x0800) | (Some(ICMPV6), 0x86dd)
    );
    Read {
        ethertype: Some(subject.ethertype()),
        vid: frame.tag().map(|tag| tag.vid()),
        addresses: subject.src_ip().zip(subject.dst_ip()),
        protocol,
        fragment: match subject.piece() {
            Piece::Whole => None,
            Piece::First => Some(false),
            Piece::Later => Some(true),
        },
        layer_4: match protocol {
            Some(TCP | UDP) if is_shown => Some((subject.src_port(), subject.dst_port())),
            _ if is_icmp && is_shown => Some((subject.dst_port() >> 8, subject.dst_port() & 0xff)),
            _ => None,
        },
    }
}

fn theirs(packet: &LaxSlicedPacket<'_>) -> Read {
    let outer = match &packet.link {
        Some(LinkSlice::Ethernet2(header)) => Some(header.ether_type().0),
        _ => None,
    };
    let (vid, inner) = match packet.link_exts.first() {
        Some(LaxLinkExtSlice::Vlan(tag)) => (
            Some(tag.vlan_identifier().value()),
            Some(tag.ether_type().0),
        ),
        _ => (None, outer),
    };
    // A frame with a tag behind its tag is no IP to us, nor is what MACsec protects.
    let is_deeper = packet.link_exts.len() > usize::from(vid.is_some());
    let mut read = Read {
        ethertype: inner.map(|number| if number < 0x0600 { 0 } else { number }),
        vid,
        addresses: None,
        protocol: None,
        fragment: None,
        layer_4: None,
    };
    match &packet.net {
        _ if is_deeper => return read,
        Some(LaxNetSlice::Ipv4(ip)) => {
            let header = ip.header();
            read.addresses = Some((
                header.source_addr().into(),
                header.destination_addr().into(),
            ));
            read.protocol = Some(header.protocol().0);
            let offset = header.fragments_offset().value();
            read.fragment = (offset != 0 || header.more_fragments()).then_some(offset != 0);
        }
        Some(LaxNetSlice::Ipv6(ip)) => {
            let header = ip.header();
            read.addresses = Some((
                header.source_addr().into(),
                header.destination_addr().into(),
            ));
            read.protocol = Some(ip.payload().ip_number.0);
            read.fragment =
                ip.extensions()
                    .clone()
                    .into_iter()
                    .find_map(|extension| match extension {
                        Ipv6ExtensionSlice::Fragment(part) => {
                            Some(part.fragment_offset().value() != 0)
                        }
                        _ => None,
                    });
        }
        _ => {}
    }
    if read.fragment == Some(false) {
        // etherparse reads no header of a fragment, of which the first has one.
        let payload = packet.net.as_ref().and_then(|net| net.ip_payload_ref());
        read.layer_4 = payload.and_then(|payload| first_words(read.protocol, payload.payload));
        return read;
    }
    read.layer_4 = match &packet.transport {
        // What follows AH over IPv4 is not looked for.
        _ if read.protocol == Some(51) => None,
        Some(TransportSlice::Tcp(tcp)) => Some((tcp.source_port(), tcp.destination_port())),
        Some(TransportSlice::Udp(udp)) => Some((udp.source_port(), udp.destination_port())),
        Some(TransportSlice::Icmpv4(icmp)) => Some((icmp.type_u8().into(), icmp.code_u8().into())),
        Some(TransportSlice::Icmpv6(icmp)) => Some((icmp.type_u8().into(), icmp.code_u8().into())),
        Some(TransportSlice::Igmp(_)) | None => None,
    };
    read
}

/// Ports, or type and code, of a header that is there as a whole.
fn first_words(protocol: Option<u8>, bytes: &[u8]) -> Option<(u16, u16)> {
    let word = |at: usize| Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
    match protocol? {
        TCP if bytes.len() >= 20 => Some((word(0)?, word(2)?)),
        UDP if bytes.len() >= 8 => Some((word(0)?, word(2)?)),
        ICMP | ICMPV6 if bytes.len() >= 8 => Some((bytes[0].into(), bytes[1].into())),
        _ => None,
    }
}

/// Whether it is one of the jumbograms (RFC 2675), which to us are packets with nothing in them.
fn is_jumbo(packet: &LaxSlicedPacket<'_>) -> bool {
    matches!(&packet.net, Some(LaxNetSlice::Ipv6(ip)) if ip.header().payload_length() == 0)
}

/// The fields in which ours says something else, or does not know what a whole frame tells.
fn differences(ours: &Read, theirs: &Read, is_whole: bool) -> Vec<&'static str> {
    fn differs<T: PartialEq>(ours: &Option<T>, theirs: &Option<T>, is_whole: bool) -> bool {
        ours != theirs && (is_whole || ours.is_some())
    }
    let fields = [
        (
            "ethertype",
            differs(&ours.ethertype, &theirs.ethertype, is_whole),
        ),
        ("vid", differs(&ours.vid, &theirs.vid, is_whole)),
        (
            "addresses",
            differs(&ours.addresses, &theirs.addresses, is_whole),
        ),
        (
            "protocol",
            differs(&ours.protocol, &theirs.protocol, is_whole),
        ),
        (
            "fragment",
            differs(&ours.fragment, &theirs.fragment, is_whole),
        ),
        ("layer 4", differs(&ours.layer_4, &theirs.layer_4, is_whole)),
    ];
    fields
        .into_iter()
        .filter(|(_, differs)| *differs)
        .map(|(name, _)| name)
        .collect()
}

/// The Ethernet frames of a capture (pcap; pcapng is passed over), with their lengths on the wire.
fn frames(file: &[u8]) -> Vec<(&[u8], u32)> {
    let Some(magic) = file.first_chunk::<4>() else {
        return Vec::new();
    };
    let is_big = match u32::from_le_bytes(*magic) {
        0xa1b2_c3d4 | 0xa1b2_3c4d => false,
        0xd4c3_b2a1 | 0x4d3c_b2a1 => true,
        _ => return Vec::new(),
    };
    let word = |at: usize| {
        let bytes = file.get(at..)?.first_chunk::<4>()?;
        Some(if is_big {
            u32::from_be_bytes(*bytes)
        } else {
            u32::from_le_bytes(*bytes)
        })
    };
    // The upper bits tell of a checksum behind the frames.
    if word(20).map(|link| link & 0xffff) != Some(ETHERNET) {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut at = 24;
    while let (Some(len), Some(total)) = (word(at + 8), word(at + 12)) {
        let Some(bytes) = file.get(at + 16..at + 16 + len as usize) else {
            break;
        };
        found.push((bytes, total));
        at += 16 + len as usize;
    }
    found
}

fn read_captures(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries =
        std::fs::read_dir(directory).unwrap_or_else(|why| panic!("{}: {why}", directory.display()));
    entries
        .map(|entry| entry.expect("an entry"))
        .filter(|entry| entry.path().extension().is_some_and(|end| end == "pcap"))
        .map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, std::fs::read(entry.path()).expect("a capture"))
        })
        .collect()
}

#[test]
fn frames_of_the_wild_read_as_another_dissector_reads_them() {
    let _bench = Bench::new();
    let captures = read_captures(&artefacts().join("captures"));
    let (mut total, mut whole, mut with_ports) = (0, 0, 0);
    let mut wrong = Vec::new();
    for (name, file) in &captures {
        for (number, (bytes, len)) in frames(file).into_iter().enumerate() {
            let snapshot = bytes.get(..SNAPSHOT).unwrap_or(bytes);
            let Ok(frame) = Frame::parse(snapshot, len) else {
                continue;
            };
            let Ok(packet) = LaxSlicedPacket::from_ethernet(bytes) else {
                continue;
            };
            total += 1;
            let is_whole = !is_jumbo(&packet)
                && len as usize == bytes.len()
                && SlicedPacket::from_ethernet(bytes).is_ok();
            whole += u32::from(is_whole);
            let (ours, theirs) = (ours(&frame), theirs(&packet));
            with_ports += u32::from(ours.layer_4.is_some());
            let fields = differences(&ours, &theirs, is_whole);
            if !fields.is_empty() {
                wrong.push(format!(
                    "{name}, frame {}, {fields:?}:\n  ours   {ours:?}\n  theirs {theirs:?}",
                    number + 1
                ));
            }
        }
    }
    eprintln!(
        "{} captures, {total} frames, {whole} whole, {with_ports} with ports or types",
        captures.len()
    );
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(
        total > 5000 && whole > 1000 && with_ports > 1000,
        "{total}, {whole}, {with_ports}"
    );
}
