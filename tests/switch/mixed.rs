//! Guests of every kind side by side: offloads passed on or completed, headers of both lengths, rings of all sizes.

use etherparse::{IpNumber, NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use portcullis::guest::{Builder, Guest, Received, Shape, VnetHeader, feature, vnet};

use crate::rig::{BROADCAST, Switch, all, expect, frame, mac};

const IP: ([u8; 4], [u8; 4]) = ([10, 0, 0, 1], [10, 0, 0, 2]);
const MSS: u16 = 1448;
/// Ethernet, IPv4, TCP without options.
const HEADERS: usize = 14 + 20 + 20;

pub fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8).collect()
}

/// A TCP segment of any size, whose checksum field holds the pseudo header's sum, as a driver leaves it.
fn tcp(to: [u8; 6], from: [u8; 6], data: &[u8]) -> (VnetHeader, Vec<u8>) {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(from, to)
        .ipv4(IP.0, IP.1, 64)
        .tcp(40_000, 80, 1_000, 8_192)
        .ack(7)
        .psh()
        .write(&mut bytes, data)
        .unwrap();
    let len = (20 + data.len()) as u32;
    let mut sum: u32 = [IP.0, IP.1]
        .concat()
        .chunks(2)
        .map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])))
        .sum();
    sum += 6 + len;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    bytes[14 + 20 + 16..14 + 20 + 18].copy_from_slice(&(sum as u16).to_be_bytes());
    let header = VnetHeader {
        flags: vnet::NEEDS_CSUM,
        csum_start: 34,
        csum_offset: 16,
        ..VnetHeader::default()
    };
    (header, bytes)
}

pub fn giant(to: [u8; 6], from: [u8; 6], data: &[u8]) -> (VnetHeader, Vec<u8>) {
    let (header, bytes) = tcp(to, from, data);
    let header = VnetHeader {
        gso_type: vnet::GSO_TCPV4,
        gso_size: MSS,
        hdr_len: HEADERS as u16,
        ..header
    };
    (header, bytes)
}

/// The TCP payload of a frame whose checksums an independent dissector finds right.
fn checked(received: &Received) -> (u32, Vec<u8>) {
    assert_eq!(received.header.flags & vnet::NEEDS_CSUM, 0);
    let packet = SlicedPacket::from_ethernet(&received.bytes).unwrap();
    let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) =
        (&packet.net, &packet.transport)
    else {
        panic!("no TCP: {packet:?}");
    };
    let header = ip.header().to_header();
    assert_eq!(header.header_checksum, header.calc_header_checksum());
    assert_eq!(header.protocol, IpNumber::TCP);
    let tcp_header = tcp.to_header();
    assert_eq!(
        tcp_header.checksum,
        tcp_header
            .calc_checksum_ipv4(&header, tcp.payload())
            .unwrap()
    );
    (tcp_header.sequence_number, tcp.payload().to_vec())
}

/// Frames until `len` bytes of payload are there, put together by sequence number.
fn assemble(guest: &mut Guest, len: usize) -> (usize, Vec<u8>) {
    let mut data = Vec::new();
    let mut frames = 0;
    while data.len() < len {
        let (sequence, part) = checked(&expect(guest));
        assert_eq!(sequence as usize, 1_000 + data.len(), "in order, once");
        data.extend(part);
        frames += 1;
    }
    (frames, data)
}

fn plain() -> Builder {
    Guest::builder()
}

#[test]
fn a_giant_frame_reaches_each_receiver_in_the_form_that_it_negotiated() {
    let switch = Switch::start(&[
        ("a", ""),
        ("whole", ""),
        ("none", ""),
        ("sums", ""),
        ("old", ""),
    ]);
    let mut a = switch.plug("a", plain().mac(mac(1)).offloads());
    let mut whole = switch.plug("whole", plain().mac(mac(2)).offloads());
    let mut none = switch.plug("none", plain().mac(mac(3)));
    let mut sums = switch.plug("sums", plain().mac(mac(4)).with(feature::GUEST_CSUM));
    let mut old = switch.plug("old", plain().mac(mac(5)).legacy());
    let data = payload(40_000);
    let (header, bytes) = giant(BROADCAST, mac(1), &data);
    a.send_with_header(header, &bytes).unwrap();

    let got = expect(&mut whole);
    assert_eq!(got.bytes, bytes, "byte for byte");
    assert_eq!(
        (got.header.gso_type, got.header.gso_size),
        (vnet::GSO_TCPV4, MSS)
    );
    assert_eq!((got.header.csum_start, got.header.csum_offset), (34, 16));
    assert_eq!(usize::from(got.header.hdr_len), HEADERS);

    let segments = data.len().div_ceil(usize::from(MSS));
    for guest in [&mut none, &mut old] {
        assert_eq!(assemble(guest, data.len()), (segments, data.clone()));
    }
    let mut length = 0;
    for _ in 0..segments {
        let got = expect(&mut sums);
        assert_eq!(
            (got.header.flags, got.header.gso_type),
            (vnet::NEEDS_CSUM, vnet::GSO_NONE)
        );
        length += got.bytes.len() - HEADERS;
    }
    assert_eq!(length, data.len());
    let books = switch.books("a");
    assert_eq!((books.received, books.forwarded), (1, 1));
}

/// H-9: a checksum that a receiver wants complete is completed, and nothing else of the frame changes.
#[test]
fn h_9_a_checksum_is_completed_for_who_needs_it() {
    let switch = Switch::start(&[("a", ""), ("b", ""), ("c", "")]);
    let mut a = switch.plug("a", plain().mac(mac(1)).offloads());
    let mut b = switch.plug("b", plain().mac(mac(2)).offloads());
    let mut c = switch.guest("c", mac(3));
    for len in [0, 1, 7, 100, 115, 1000, 1460] {
        let data = payload(len);
        let (header, bytes) = tcp(BROADCAST, mac(1), &data);
        a.send_with_header(header, &bytes).unwrap();
        assert_eq!(expect(&mut b).bytes, bytes);
        let got = expect(&mut c);
        assert_eq!(checked(&got).1, data);
        let mut same = got.bytes.clone();
        same[50..52].copy_from_slice(&bytes[50..52]);
        assert_eq!(same, bytes);
    }
}

/// H-1, H-2, H-6, H-7: what is not canonical is dropped, whatever the receiver could do with it.
#[test]
fn h_6_h_7_a_header_that_aims_elsewhere_is_dropped() {
    let switch = Switch::start(&[("a", ""), ("b", "")]);
    let mut a = switch.plug("a", plain().mac(mac(1)).offloads());
    let mut b = switch.plug("b", plain().mac(mac(2)).offloads());
    let (good, bytes) = giant(mac(2), mac(1), &payload(20_000));
    let bad = [
        VnetHeader {
            csum_start: 0,
            ..good
        },
        VnetHeader {
            csum_start: 26,
            csum_offset: 0,
            ..good
        },
        VnetHeader {
            csum_offset: 2,
            ..good
        },
        VnetHeader {
            csum_start: 0xffff,
            csum_offset: 0xffff,
            ..good
        },
        VnetHeader {
            gso_type: 2,
            ..good
        },
        VnetHeader {
            gso_type: 0x7f,
            ..good
        },
        VnetHeader {
            gso_type: vnet::GSO_UDP,
            ..good
        },
        VnetHeader {
            gso_type: vnet::GSO_TCPV6,
            ..good
        },
        VnetHeader {
            gso_type: vnet::GSO_UDP_L4,
            ..good
        },
        VnetHeader {
            gso_size: 0,
            ..good
        },
        VnetHeader {
            gso_size: 1,
            ..good
        },
        VnetHeader { flags: 0, ..good },
    ];
    for header in bad {
        a.send_with_header(header, &bytes).unwrap();
    }
    // H-3, H-4, H-5: these are not believed, and do no harm.
    let odd = VnetHeader {
        hdr_len: 3,
        num_buffers: 77,
        flags: good.flags | 0xfe,
        ..good
    };
    a.send_with_header(odd, &bytes).unwrap();
    let got = expect(&mut b);
    assert_eq!(got.bytes, bytes);
    assert_eq!(
        (got.header.flags, usize::from(got.header.hdr_len)),
        (vnet::NEEDS_CSUM, HEADERS)
    );
    assert!(all(&mut b).is_empty());
    let dropped = switch.dropped("a", "bad-offload") + switch.dropped("a", "gso-invalid");
    assert_eq!(dropped, bad.len() as u64);
    assert_eq!(switch.books("a").dropped, bad.len() as u64);
}

#[test]
fn rings_of_every_size_carry_more_frames_than_they_hold() {
    for size in (1..=15).map(|power| 1u16 << power) {
        let switch = Switch::start(&[("a", ""), ("b", "")]);
        let mut a = switch.plug("a", plain().mac(mac(1)).ring_size(size));
        let mut b = switch.plug("b", plain().mac(mac(2)).ring_size(size));
        for number in 0..u16::min(size, 300) * 2 + 3 {
            let sent = frame(mac(2), mac(1), &number.to_be_bytes());
            a.send(&sent).unwrap();
            assert_eq!(
                expect(&mut b).bytes,
                sent,
                "frame {number} on rings of {size}"
            );
        }
    }
}

/// H-12: header lengths of every combination of features, in both directions.
#[test]
fn h_12_guests_without_this_and_that_understand_each_other() {
    let kinds: Vec<(&str, Builder)> = vec![
        ("modern", plain().offloads()),
        ("legacy", plain().legacy()),
        ("no-merge", plain().without(feature::MRG_RXBUF)),
        ("no-event", plain().without(feature::EVENT_IDX)),
        (
            "bare",
            plain().without(
                feature::MRG_RXBUF
                    | feature::EVENT_IDX
                    | feature::INDIRECT_DESC
                    | feature::IN_ORDER,
            ),
        ),
        (
            "giant-buffers",
            plain().offloads().without(feature::MRG_RXBUF),
        ),
        ("silent", plain().without_calls()),
        ("crumbs", plain().rx_buffer(128)),
    ];
    let ports: Vec<_> = kinds.iter().map(|(name, _)| (*name, "")).collect();
    let switch = Switch::start(&ports);
    let mut guests: Vec<Guest> = kinds
        .into_iter()
        .zip(1..)
        .map(|((name, builder), n)| switch.plug(name, builder.mac(mac(n))))
        .collect();
    // Everybody is heard once, so that nothing is flooded afterwards.
    for (at, guest) in guests.iter_mut().enumerate() {
        guest
            .send(&frame(BROADCAST, mac(at as u8 + 1), b"here"))
            .unwrap();
        switch.await_received(ports[at].0, 1);
    }
    for guest in &mut guests {
        all(guest);
    }
    for from in 0..guests.len() {
        for to in (0..guests.len()).filter(|to| *to != from) {
            for len in [46, 200, 1500] {
                let sent = frame(mac(to as u8 + 1), mac(from as u8 + 1), &payload(len));
                guests[from].send(&sent).unwrap();
                assert_eq!(
                    expect(&mut guests[to]).bytes,
                    sent,
                    "{} to {}",
                    ports[from].0,
                    ports[to].0
                );
            }
        }
    }
}

#[test]
fn several_queues_carry_each_flow_in_order() {
    let switch = Switch::start(&[("a", "queues = 4"), ("b", "queues = 4")]);
    let mut a = switch.plug("a", plain().mac(mac(1)).queues(4).with(feature::MQ));
    let mut b = switch.plug("b", plain().mac(mac(2)).queues(4).with(feature::MQ));
    let mut queues = std::collections::BTreeSet::new();
    for flow in 0..32u16 {
        let mut last = None;
        for number in 0..8u8 {
            let mut bytes = Vec::new();
            PacketBuilder::ethernet2(mac(1), mac(2))
                .ipv4(IP.0, IP.1, 64)
                .udp(10_000 + flow, 53)
                .write(&mut bytes, &[number; 30])
                .unwrap();
            a.send(&bytes).unwrap();
            let got = expect(&mut b);
            assert_eq!(got.bytes, bytes);
            assert!(
                last.is_none_or(|queue| queue == got.queue),
                "a flow stays on its queue"
            );
            last = Some(got.queue);
        }
        queues.extend(last);
    }
    assert!(queues.len() > 1, "flows are spread: {queues:?}");
}

/// H-13: a frame over the MTU of either side is dropped, a giant one whose segments fit is not.
#[test]
fn h_13_the_mtu_of_a_port_holds_both_ways() {
    let switch = Switch::start(&[("a", ""), ("b", "mtu = 1500"), ("c", "mtu = 9000")]);
    let mut a = switch.plug("a", plain().mac(mac(1)).offloads());
    let mut b = switch.plug("b", plain().mac(mac(2)).offloads());
    let mut c = switch.plug("c", plain().mac(mac(3)).offloads());
    a.send(&frame(mac(2), mac(1), &payload(1500))).unwrap();
    b.send(&frame(mac(1), mac(2), &payload(1500))).unwrap();
    c.send(&frame(mac(1), mac(3), &payload(9000))).unwrap();
    expect(&mut a);
    expect(&mut a);
    expect(&mut b);
    all(&mut c);
    a.send(&frame(mac(2), mac(1), &payload(1501))).unwrap();
    switch.await_received("a", 2);
    assert_eq!(switch.undelivered("b", "over-mtu"), 1);
    b.send(&frame(mac(1), mac(2), &payload(1600))).unwrap();
    switch.await_received("b", 2);
    assert_eq!(switch.dropped("b", "oversize"), 1);
    let (header, bytes) = giant(mac(2), mac(1), &payload(30_000));
    a.send_with_header(header, &bytes).unwrap();
    assert_eq!(expect(&mut b).bytes, bytes);
}

/// A frame that is too long alone is too long behind one that is like it, too. Only behind a header of ten bytes does a chain hold more than a
/// frame may have.
#[test]
fn h_13_a_frame_is_as_long_in_company_as_alone() {
    let switch = Switch::start(&[("a", "uplink = true"), ("b", "uplink = true")]);
    let mut a = switch.plug("a", plain().mac(mac(1)).legacy());
    let mut b = switch.plug("b", plain().mac(mac(2)).offloads());
    b.send(&frame(mac(1), mac(2), b"here")).unwrap();
    expect(&mut a);
    // Both are known, so that a long one is like the one before it.
    for len in [65_550, 65_551, 65_552] {
        for len in [60, 60, len] {
            let bytes = frame(mac(2), mac(1), &vec![7; len - 14]);
            let (nothing, together) = (VnetHeader::default(), Shape::Together);
            a.queue_frame(0, nothing, &bytes, &together).unwrap();
        }
        a.flush(0).unwrap();
        for _ in 0..2 {
            assert_eq!(expect(&mut b).bytes.len(), 60);
        }
        if len == 65_550 {
            assert_eq!(expect(&mut b).bytes.len(), len);
        }
    }
    assert_eq!(switch.dropped("a", "oversize"), 2);
}
