//! The judge by its hostile cases, and the cut held against an independent dissector.

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;

use super::{
    Checksum, Delivery, Family, Headers, MAX_UDP_SEGMENTS, MIN_TCP_SEGMENT, MIN_UDP_SEGMENT,
    Offload, Segment, Segmenter, Sender, Transport, complete_checksum, features as bit,
};
use crate::counters::DropReason;
use crate::frame::Frame;
use crate::ring::vnet::{self, VnetHeader};

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const ECE: u8 = 0x40;
const CWR: u8 = 0x80;

const ALL: u64 = bit::VIRTIO_NET_F_CSUM
    | bit::VIRTIO_NET_F_GUEST_CSUM
    | bit::VIRTIO_NET_F_GUEST_TSO4
    | bit::VIRTIO_NET_F_GUEST_TSO6
    | bit::VIRTIO_NET_F_GUEST_ECN
    | bit::VIRTIO_NET_F_HOST_TSO4
    | bit::VIRTIO_NET_F_HOST_TSO6
    | bit::VIRTIO_NET_F_HOST_ECN
    | bit::VIRTIO_NET_F_GUEST_USO4
    | bit::VIRTIO_NET_F_GUEST_USO6
    | bit::VIRTIO_NET_F_HOST_USO;

/// A frame by its interesting parts.
#[derive(Clone, Debug)]
struct Sample {
    family: Family,
    transport: Transport,
    tagged: bool,
    /// IPv4 options, or an IPv6 destination options header, in words of 8 bytes (at most 5).
    l3_options: usize,
    /// TCP options in words of 4 bytes (at most 10).
    tcp_options: usize,
    identification: u16,
    sequence: u32,
    flags: u8,
    payload: Vec<u8>,
}

impl Sample {
    fn tcp4(payload: usize) -> Self {
        Self {
            family: Family::V4,
            transport: Transport::Tcp,
            tagged: false,
            l3_options: 0,
            tcp_options: 3,
            identification: 7,
            sequence: 1000,
            flags: ACK,
            payload: (0..payload).map(|i| (i * 7 + i / 251) as u8).collect(),
        }
    }

    fn udp6(payload: usize) -> Self {
        Self {
            family: Family::V6,
            transport: Transport::Udp,
            ..Self::tcp4(payload)
        }
    }

    fn headers(&self) -> Headers {
        let l3 = if self.tagged { 18 } else { 14 };
        let l4 = l3 + if self.family == Family::V4 { 20 } else { 40 } + self.l3_options * 8;
        let payload = l4
            + match self.transport {
                Transport::Tcp => 20 + self.tcp_options * 4,
                Transport::Udp => 8,
            };
        Headers {
            family: self.family,
            transport: self.transport,
            l3: l3 as u16,
            l4: l4 as u16,
            payload: payload as u16,
            end: (payload + self.payload.len()) as u32,
            tcp_flags: if self.transport == Transport::Tcp {
                self.flags
            } else {
                0
            },
            is_dhcp: false,
        }
    }

    /// The bytes, with the pseudo header's sum in the checksum field, as a driver leaves it.
    fn frame(&self) -> Vec<u8> {
        let headers = self.headers();
        let (l3, l4) = (usize::from(headers.l3), usize::from(headers.l4));
        let l4_len = usize::from(headers.payload) - l4 + self.payload.len();
        let number = self.transport.number();
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
        if self.tagged {
            frame.extend([0x81, 0x00, 0x00, 0x07]);
        }
        let addresses = match self.family {
            Family::V4 => {
                frame.extend([0x08, 0x00]);
                let ihl = ((l4 - l3) / 4) as u8;
                frame.extend([0x40 | ihl, 0x02]);
                frame.extend(((l4 - l3 + l4_len) as u16).to_be_bytes());
                frame.extend(self.identification.to_be_bytes());
                frame.extend([0x40, 0x00, 64, number, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
                frame.extend(vec![1; self.l3_options * 8]);
                let sum = etherparse::Ipv4Header::from_slice(&frame[l3..])
                    .unwrap()
                    .0
                    .calc_header_checksum();
                frame[l3 + 10..l3 + 12].copy_from_slice(&sum.to_be_bytes());
                frame[l3 + 12..l3 + 20].to_vec()
            }
            Family::V6 => {
                frame.extend([0x86, 0xdd, 0x60, 0x01, 0x23, 0x45]);
                frame.extend(((l4 - l3 - 40 + l4_len) as u16).to_be_bytes());
                frame.extend([if self.l3_options == 0 { number } else { 60 }, 64]);
                for host in [1, 2] {
                    frame.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]);
                }
                if let Some(more) = self.l3_options.checked_sub(1) {
                    frame.extend([number, more as u8, 1, (4 + more * 8) as u8]);
                    frame.extend(vec![0; 4 + more * 8]);
                }
                frame[l3 + 8..l3 + 40].to_vec()
            }
        };
        frame.extend([0x12, 0x34, 0x14, 0x51]);
        match self.transport {
            Transport::Tcp => {
                frame.extend(self.sequence.to_be_bytes());
                frame.extend([
                    0,
                    0,
                    0x30,
                    0x39,
                    ((5 + self.tcp_options) << 4) as u8,
                    self.flags,
                ]);
                frame.extend([0x20, 0x00, 0, 0, 0, 0]);
                frame.extend(vec![1; self.tcp_options * 4]);
            }
            Transport::Udp => {
                frame.extend((l4_len as u16).to_be_bytes());
                frame.extend([0, 0]);
            }
        }
        let mut sum = l4_len as u32 + u32::from(number);
        for pair in addresses.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
        }
        let seed = (sum % 0xffff) as u16;
        let field = l4 + usize::from(self.transport.checksum_offset());
        frame[field..field + 2].copy_from_slice(&seed.to_be_bytes());
        frame.extend(&self.payload);
        frame
    }

    /// What a driver puts in front of it when its checksum is missing.
    fn needs_csum(&self) -> VnetHeader {
        VnetHeader {
            flags: vnet::NEEDS_CSUM,
            csum_start: self.headers().l4,
            csum_offset: self.transport.checksum_offset(),
            ..VnetHeader::default()
        }
    }

    /// What a driver puts in front of it when it is to be cut.
    fn gso(&self, size: u16) -> VnetHeader {
        let gso_type = match (self.family, self.transport) {
            (Family::V4, Transport::Tcp) => vnet::GSO_TCPV4,
            (Family::V6, Transport::Tcp) => vnet::GSO_TCPV6,
            (_, Transport::Udp) => vnet::GSO_UDP_L4,
        };
        let hdr_len = self.headers().payload;
        VnetHeader {
            gso_type,
            gso_size: size,
            hdr_len,
            ..self.needs_csum()
        }
    }

    /// By the headers that the gate reads from a snapshot of the frame, as on the path.
    fn judge_by(&self, header: &VnetHeader, features: u64) -> Result<Offload, DropReason> {
        let bytes = self.frame();
        let total_len = bytes.len() as u32;
        let snapshot = &bytes[..bytes.len().min(256)];
        let frame = Frame::parse(snapshot, total_len).unwrap();
        let sender = Sender {
            features,
            mtu: u16::MAX,
        };
        Offload::judge(header, total_len, sender, || {
            let headers = Headers::of(&frame);
            assert_eq!(headers, Ok(Some(self.headers())));
            headers
        })
    }

    fn judge(&self, header: &VnetHeader) -> Result<Offload, DropReason> {
        self.judge_by(header, ALL)
    }

    fn segment(&self, size: u16) -> Segment {
        match self.judge(&self.gso(size)).unwrap() {
            Offload::Segment(segment) => segment,
            other => panic!("not to be cut: {other:?}"),
        }
    }
}

/// Reads a frame with the independent dissector: every length, both checksums. Gives its payload.
fn dissect(frame: &[u8]) -> Vec<u8> {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    match (packet.net.unwrap(), packet.transport.unwrap()) {
        (NetSlice::Ipv4(ip), transport) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            assert!(!ip.is_payload_fragmented());
            match transport {
                TransportSlice::Tcp(tcp) => {
                    let sum = tcp.calc_checksum_ipv4(header.source, header.destination);
                    assert_eq!(tcp.checksum(), sum.unwrap());
                    tcp.payload().to_vec()
                }
                TransportSlice::Udp(udp) => {
                    let sum = udp.to_header().calc_checksum_ipv4(&header, udp.payload());
                    assert_eq!(udp.checksum(), sum.unwrap());
                    assert_eq!(usize::from(udp.length()), ip.payload().payload.len());
                    udp.payload().to_vec()
                }
                other => panic!("{other:?}"),
            }
        }
        (NetSlice::Ipv6(ip), transport) => {
            let header = ip.header().to_header();
            match transport {
                TransportSlice::Tcp(tcp) => {
                    let sum = tcp.calc_checksum_ipv6(header.source, header.destination);
                    assert_eq!(tcp.checksum(), sum.unwrap());
                    tcp.payload().to_vec()
                }
                TransportSlice::Udp(udp) => {
                    let sum = udp.to_header().calc_checksum_ipv6(&header, udp.payload());
                    assert_eq!(udp.checksum(), sum.unwrap());
                    assert_eq!(usize::from(udp.length()), ip.payload().payload.len());
                    udp.payload().to_vec()
                }
                other => panic!("{other:?}"),
            }
        }
        (other, _) => panic!("{other:?}"),
    }
}

/// Cuts, with every frame written out.
fn cut(mut segmenter: Segmenter<'_>, frame: &[u8]) -> Vec<Vec<u8>> {
    let mut out = vec![0xee; 70_000];
    let mut all = Vec::new();
    while let Some(cut) = segmenter.next_cut() {
        let len = cut.write(frame, &mut out).unwrap();
        assert_eq!(len, cut.len());
        all.push(out[..len].to_vec());
    }
    assert_eq!(segmenter.next_cut(), None);
    all
}

/// The bytes of a header that a cut may change, set to zero.
fn masked(head: &[u8], headers: &Headers) -> Vec<u8> {
    let (l3, l4) = (usize::from(headers.l3), usize::from(headers.l4));
    let mut changes = vec![];
    match headers.family {
        Family::V4 => changes.extend([l3 + 2..l3 + 6, l3 + 10..l3 + 12]),
        Family::V6 => changes.push(l3 + 4..l3 + 6),
    }
    match headers.transport {
        Transport::Tcp => changes.extend([l4 + 4..l4 + 8, l4 + 13..l4 + 14, l4 + 16..l4 + 18]),
        Transport::Udp => changes.push(l4 + 4..l4 + 8),
    }
    let mut head = head.to_vec();
    for range in changes {
        head[range].fill(0);
    }
    head
}

/// All that a cut promises, on frames whose checksums are complete.
fn assert_is_cut_of(sample: &Sample, segment: &Segment, frames: &[Vec<u8>]) {
    let original = sample.frame();
    let headers = sample.headers();
    let (l3, l4) = (usize::from(headers.l3), usize::from(headers.l4));
    let head = usize::from(headers.payload);
    assert_eq!(frames.len() as u32, segment.count());
    assert_eq!(
        frames.iter().map(|frame| frame.len() as u32).sum::<u32>(),
        segment.bytes()
    );
    let mut stream = Vec::new();
    for (index, frame) in frames.iter().enumerate() {
        let last = index + 1 == frames.len();
        let payload = dissect(frame);
        assert_eq!(
            payload,
            frame[head..],
            "the dissector sees a shorter payload"
        );
        assert!(payload.len() == usize::from(segment.size()) || (last && !payload.is_empty()));
        assert_eq!(
            masked(&frame[..head], &headers),
            masked(&original[..head], &headers)
        );
        if headers.family == Family::V4 {
            let identification = sample.identification.wrapping_add(index as u16);
            assert_eq!(frame[l3 + 4..l3 + 6], identification.to_be_bytes());
        }
        if headers.transport == Transport::Tcp {
            let sequence = sample.sequence.wrapping_add(stream.len() as u32);
            assert_eq!(frame[l4 + 4..l4 + 8], sequence.to_be_bytes());
            let not_here = if index == 0 { 0 } else { CWR } | if last { 0 } else { FIN | PSH };
            assert_eq!(frame[l4 + 13], sample.flags & !not_here);
        }
        stream.extend(payload);
    }
    assert_eq!(stream, sample.payload);
}

fn samples() -> impl Strategy<Value = Sample> {
    (
        any::<[bool; 3]>(),
        0usize..=5,
        0usize..=10,
        any::<(u16, u32)>(),
        prop::sample::subsequence(vec![FIN, PSH, ACK, ECE, CWR], 0..5),
        prop_oneof![0usize..=3000, 0usize..=65_000],
        any::<u8>(),
    )
        .prop_map(
            |(bits, l3_options, tcp_options, (identification, sequence), flags, len, seed)| {
                Sample {
                    family: if bits[0] { Family::V4 } else { Family::V6 },
                    transport: if bits[1] {
                        Transport::Tcp
                    } else {
                        Transport::Udp
                    },
                    tagged: bits[2],
                    l3_options,
                    tcp_options,
                    identification,
                    sequence,
                    flags: flags.into_iter().sum(),
                    payload: (0..len).map(|i| (i * 31 + i / 253) as u8 ^ seed).collect(),
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn every_segment_is_whole_and_all_together_are_the_frame(
        sample in samples(),
        size in 1u16..=9000,
        ecn: bool,
    ) {
        let tcp = sample.transport == Transport::Tcp;
        let mut header = sample.gso(size);
        if ecn && tcp {
            header.gso_type |= vnet::GSO_ECN;
        }
        let payload = sample.payload.len() as u32;
        let min = if tcp { MIN_TCP_SEGMENT } else { MIN_UDP_SEGMENT };
        let too_many = !tcp && payload.div_ceil(size.into()) > MAX_UDP_SEGMENTS;
        let segment = match sample.judge(&header) {
            Ok(Offload::Segment(segment)) => segment,
            Ok(Offload::Checksum(_)) => {
                prop_assert!(payload <= u32::from(size));
                return Ok(());
            }
            other => {
                prop_assert_eq!(other, Err(DropReason::GsoInvalid));
                prop_assert!(size < min || too_many);
                return Ok(());
            }
        };
        prop_assert!(size >= min && !too_many && payload > u32::from(size));
        prop_assert!(segment.count() <= 304);

        let frame = sample.frame();
        let complete = Segmenter::complete(segment, &frame).unwrap();
        prop_assert_eq!(complete.header(4), VnetHeader::default());
        assert_is_cut_of(&sample, &segment, &cut(complete, &frame));

        // Left partial, each segment is itself a canonical frame, which our own judge accepts, and
        // whose completion gives the same.
        let headers_only = &frame[..segment.header_len()];
        let partial = Segmenter::partial(segment, headers_only).unwrap();
        let header = partial.header(0);
        let mut frames = cut(partial, &frame);
        for frame in &mut frames {
            let headers = Headers { end: frame.len() as u32, ..sample.headers() };
            let sender = Sender { features: bit::VIRTIO_NET_F_CSUM, mtu: u16::MAX };
            let judged = Offload::judge(&header, headers.end, sender, || Ok(Some(headers)));
            let Ok(Offload::Checksum(plan)) = judged else { panic!("{judged:?}") };
            prop_assert!(complete_checksum(frame, plan));
        }
        assert_is_cut_of(&sample, &segment, &frames);
    }

    #[test]
    fn a_completed_checksum_is_right_and_changes_nothing_else(
        sample in samples(),
        padding in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        let Ok(Offload::Checksum(plan)) = sample.judge(&sample.needs_csum()) else { panic!() };
        let original = [sample.frame(), padding].concat();
        let mut frame = original.clone();
        prop_assert!(complete_checksum(&mut frame, plan));
        prop_assert_eq!(dissect(&frame), sample.payload.clone());
        let headers = sample.headers();
        let field = usize::from(headers.l4 + headers.transport.checksum_offset());
        frame[field..field + 2].copy_from_slice(&original[field..field + 2]);
        prop_assert_eq!(frame, original);
    }

    /// Whatever the header says: what comes out is canonical for these headers, or refused.
    #[test]
    fn h_7_no_header_whatever_aims_elsewhere(
        sample in samples(),
        bytes in any::<[u8; vnet::LEGACY_LEN]>(),
        near in any::<[bool; 4]>(),
        features: u64,
        shift in prop::sample::select(vec![-4i16, 0, 4]),
    ) {
        let good = sample.gso(1448);
        let mut header = VnetHeader::parse(&bytes);
        // Random fields alone would hardly ever get past the first check.
        if near[0] { header.flags = good.flags; }
        if near[1] { header.gso_type = good.gso_type; }
        if near[2] { header.csum_start = good.csum_start; }
        if near[3] { header.csum_offset = good.csum_offset; }
        let Ok(offload) = sample.judge(&header) else { return Ok(()) };
        match offload.delivery(features, shift) {
            Delivery::AsIs(out) if out == VnetHeader::default() => {}
            Delivery::AsIs(out) => {
                let headers = sample.headers();
                prop_assert_eq!(out.flags, vnet::NEEDS_CSUM);
                prop_assert_eq!(out.csum_start, headers.l4.wrapping_add_signed(shift));
                prop_assert_eq!(out.csum_offset, headers.transport.checksum_offset());
                prop_assert!(features & bit::VIRTIO_NET_F_GUEST_CSUM != 0);
                prop_assert_eq!(out.num_buffers, 0);
                if out.gso_type == vnet::GSO_NONE {
                    prop_assert_eq!((out.hdr_len, out.gso_size), (0, 0));
                } else {
                    prop_assert_eq!(out.hdr_len, headers.payload.wrapping_add_signed(shift));
                    prop_assert_eq!(out.gso_type & !vnet::GSO_ECN, good.gso_type);
                }
            }
            Delivery::Complete(plan) => {
                let Headers { transport, l4, end, .. } = sample.headers();
                prop_assert_eq!(plan, Checksum { transport, start: l4, end });
            }
            Delivery::Segments { segment, partial } => {
                prop_assert_eq!(segment.headers, sample.headers());
                prop_assert_eq!(partial, features & bit::VIRTIO_NET_F_GUEST_CSUM != 0);
            }
        }
    }
}

#[test]
fn h_1_unknown_and_unnegotiated_gso_types_are_refused() {
    let sample = Sample::tcp4(4000);
    for gso_type in (1..=255).filter(|t| ![vnet::GSO_TCPV4, 0x81].contains(t)) {
        let header = VnetHeader {
            gso_type,
            ..sample.gso(1448)
        };
        assert_eq!(
            sample.judge(&header),
            Err(DropReason::GsoInvalid),
            "gso_type {gso_type:#x}"
        );
    }
    let cases = [
        (sample.clone(), bit::VIRTIO_NET_F_HOST_TSO4),
        (
            Sample {
                family: Family::V6,
                ..sample
            },
            bit::VIRTIO_NET_F_HOST_TSO6,
        ),
        (Sample::udp6(4000), bit::VIRTIO_NET_F_HOST_USO),
    ];
    for (sample, bit) in cases {
        assert!(matches!(
            sample.judge(&sample.gso(1000)),
            Ok(Offload::Segment(_))
        ));
        assert_eq!(
            sample.judge_by(&sample.gso(1000), ALL & !bit),
            Err(DropReason::GsoInvalid)
        );
    }
}

#[test]
fn h_1_ecn_needs_tcp_and_negotiation() {
    let with_ecn = |sample: &Sample| {
        let header = sample.gso(1000);
        VnetHeader {
            gso_type: header.gso_type | vnet::GSO_ECN,
            ..header
        }
    };
    let tcp = Sample {
        flags: ACK | CWR,
        ..Sample::tcp4(4000)
    };
    assert!(matches!(tcp.judge(&with_ecn(&tcp)), Ok(Offload::Segment(s)) if s.ecn));
    assert_eq!(
        tcp.judge_by(&with_ecn(&tcp), ALL & !bit::VIRTIO_NET_F_HOST_ECN),
        Err(DropReason::GsoInvalid)
    );
    let udp = Sample::udp6(4000);
    assert_eq!(udp.judge(&with_ecn(&udp)), Err(DropReason::GsoInvalid));
    let alone = VnetHeader {
        gso_type: vnet::GSO_ECN,
        ..tcp.needs_csum()
    };
    assert_eq!(tcp.judge(&alone), Err(DropReason::GsoInvalid));
}

#[test]
fn h_2_a_size_that_fits_nothing_is_refused() {
    let sample = Sample::tcp4(4000);
    for size in [0, 1, MIN_TCP_SEGMENT - 1] {
        assert_eq!(
            sample.judge(&sample.gso(size)),
            Err(DropReason::GsoInvalid),
            "size {size}"
        );
    }
    // One segment holds it all: there is nothing to cut, and the checksum is still to be completed.
    for size in [4000, 4001, u16::MAX] {
        assert!(
            matches!(sample.judge(&sample.gso(size)), Ok(Offload::Checksum(_))),
            "size {size}"
        );
    }
}

#[test]
fn h_2_gso_on_what_is_not_whole_tcp_or_udp_is_refused() {
    let sender = Sender {
        features: ALL,
        mtu: u16::MAX,
    };
    let header = Sample::tcp4(4000).gso(1448);
    let none = Offload::judge(&header, 4054, sender, || Ok(None));
    assert_eq!(none, Err(DropReason::GsoInvalid));
    let unknown = Offload::judge(&header, 4054, sender, || Err(DropReason::HeadersTooLong));
    assert_eq!(unknown, Err(DropReason::HeadersTooLong));
}

#[test]
fn h_2_fragments_stacked_tags_and_other_protocols_have_no_headers_to_aim_at() {
    let of = |bytes: &[u8]| Headers::of(&Frame::parse(bytes, bytes.len() as u32).unwrap());
    let tcp = Sample::tcp4(100).frame();
    assert_eq!(of(&tcp), Ok(Some(Sample::tcp4(100).headers())));
    let with = |at: usize, bytes: &[u8]| {
        let mut frame = tcp.clone();
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        of(&frame)
    };
    assert_eq!(with(20, &[0x20, 0]), Ok(None), "first fragment");
    assert_eq!(with(20, &[0, 1]), Ok(None), "later fragment");
    assert_eq!(with(23, &[1]), Ok(None), "ICMP");
    assert_eq!(with(23, &[132]), Ok(None), "SCTP");
    assert_eq!(with(12, &[0x08, 0x06]), Ok(None), "ARP");
    assert_eq!(with(14, &[0x65]), Ok(None), "IPv6 in an IPv4 frame");
    assert_eq!(with(16, &[0xff, 0xff]), Ok(None), "longer than the frame");
    assert_eq!(with(46, &[0x40]), Ok(None), "TCP header too short");
    // An IPv6 atomic fragment in place of the destination options.
    let sample = Sample {
        l3_options: 1,
        ..Sample::udp6(100)
    };
    let mut atomic = sample.frame();
    atomic[20] = 44;
    atomic[54..62].copy_from_slice(&[17, 0, 0, 0, 0, 0, 0, 7]);
    assert_eq!(of(&atomic), Ok(None));
    let stacked = [&tcp[..12], &[0x88, 0xa8, 0, 1, 0x81, 0, 0, 2], &tcp[12..]].concat();
    assert_eq!(of(&stacked), Ok(None));
    // The snapshot does not show it.
    let frame = Frame::parse(&tcp[..50], tcp.len() as u32).unwrap();
    assert_eq!(Headers::of(&frame), Err(DropReason::HeadersTooLong));
}

#[test]
fn h_2_family_and_protocol_must_match() {
    let tcp = Sample::tcp4(4000);
    let udp = Sample {
        transport: Transport::Udp,
        ..tcp.clone()
    };
    let tcp6 = Sample {
        family: Family::V6,
        ..tcp.clone()
    };
    for (sample, like) in [(&tcp6, &tcp), (&tcp, &tcp6), (&udp, &tcp), (&tcp, &udp)] {
        let header = VnetHeader {
            gso_type: like.gso(1).gso_type,
            ..sample.gso(1448)
        };
        assert_eq!(sample.judge(&header), Err(DropReason::GsoInvalid));
    }
}

#[test]
fn h_2_bytes_behind_the_datagram_are_not_cut_into_payload() {
    let sample = Sample::tcp4(4000);
    let sender = Sender {
        features: ALL,
        mtu: u16::MAX,
    };
    let headers = sample.headers();
    let judged = Offload::judge(&sample.gso(1448), headers.end + 1, sender, || {
        Ok(Some(headers))
    });
    assert_eq!(judged, Err(DropReason::GsoInvalid));
}

#[test]
fn h_2_syn_and_rst_are_never_multiplied() {
    for flag in [SYN, RST] {
        let sample = Sample {
            flags: ACK | flag,
            ..Sample::tcp4(4000)
        };
        assert_eq!(sample.judge(&sample.gso(1448)), Err(DropReason::GsoInvalid));
    }
}

#[test]
fn h_3_hdr_len_is_computed_not_believed() {
    let sample = Sample::tcp4(4000);
    for hdr_len in [0, 1, 40, 65_535] {
        let header = VnetHeader {
            hdr_len,
            ..sample.gso(1448)
        };
        let offload = sample.judge(&header).unwrap();
        assert_eq!(offload.delivery(ALL, 0), Delivery::AsIs(sample.gso(1448)));
    }
}

#[test]
fn h_4_h_5_num_buffers_and_foreign_flags_end_here() {
    let sample = Sample::tcp4(100);
    for flags in 0..=255u8 {
        let header = VnetHeader {
            flags,
            num_buffers: 77,
            ..sample.needs_csum()
        };
        let offload = sample.judge(&header).unwrap();
        let expected = if flags & vnet::NEEDS_CSUM == 0 {
            VnetHeader::default()
        } else {
            sample.needs_csum()
        };
        assert_eq!(
            offload.delivery(ALL, 0),
            Delivery::AsIs(expected),
            "flags {flags:#x}"
        );
    }
}

#[test]
fn h_5_data_valid_is_never_ours_to_say() {
    for sample in [Sample::tcp4(4000), Sample::udp6(4000)] {
        let gso = VnetHeader {
            flags: 0xff,
            ..sample.gso(1448)
        };
        for header in [
            gso,
            VnetHeader { gso_type: 0, ..gso },
            VnetHeader::default(),
        ] {
            let offload = sample.judge(&header).unwrap();
            let Delivery::AsIs(out) = offload.delivery(ALL, 0) else {
                panic!()
            };
            assert_eq!(out.flags & (vnet::DATA_VALID | vnet::RSC_INFO), 0);
        }
    }
}

#[test]
fn h_6_needs_csum_aims_at_one_place_only() {
    for sample in [Sample::tcp4(100), Sample::udp6(100)] {
        let good = sample.needs_csum();
        assert!(matches!(sample.judge(&good), Ok(Offload::Checksum(_))));
        for csum_start in (0..=u16::MAX).filter(|start| *start != good.csum_start) {
            let header = VnetHeader { csum_start, ..good };
            assert_eq!(sample.judge(&header), Err(DropReason::BadOffload));
        }
        for csum_offset in (0..=u16::MAX).filter(|offset| *offset != good.csum_offset) {
            let header = VnetHeader {
                csum_offset,
                ..good
            };
            assert_eq!(sample.judge(&header), Err(DropReason::BadOffload));
        }
    }
}

#[test]
fn h_6_a_field_past_the_end_is_refused() {
    let sample = Sample::tcp4(100);
    let sender = Sender {
        features: ALL,
        mtu: u16::MAX,
    };
    let l4 = u32::from(sample.headers().l4);
    for (end, total, good) in [
        (l4 + 18, l4 + 18, true),
        (l4 + 17, l4 + 60, false),
        (l4 + 18, l4 + 17, false),
    ] {
        let headers = Headers {
            end,
            ..sample.headers()
        };
        let judged = Offload::judge(&sample.needs_csum(), total, sender, || Ok(Some(headers)));
        assert_eq!(judged.is_ok(), good, "end {end} total {total}");
    }
    let mut short = vec![0; 30];
    let Ok(Offload::Checksum(plan)) = sample.judge(&sample.needs_csum()) else {
        panic!()
    };
    assert!(!complete_checksum(&mut short, plan));
    assert_eq!(short, [0; 30]);
}

#[test]
fn h_7_needs_csum_on_anything_but_tcp_and_udp_is_refused() {
    let sender = Sender {
        features: ALL,
        mtu: u16::MAX,
    };
    let header = Sample::tcp4(100).needs_csum();
    let judged = Offload::judge(&header, 154, sender, || Ok(None));
    assert_eq!(judged, Err(DropReason::BadOffload));
}

#[test]
fn h_8_a_cut_never_aims_at_judged_bytes() {
    let sample = Sample::tcp4(4000);
    for (csum_start, csum_offset) in [(0, 0), (0, 12), (14, 12), (34, 2), (34, 6), (54, 16)] {
        let header = VnetHeader {
            csum_start,
            csum_offset,
            ..sample.gso(1448)
        };
        assert_eq!(sample.judge(&header), Err(DropReason::BadOffload));
    }
    let unsummed = VnetHeader {
        flags: 0,
        ..sample.gso(1448)
    };
    assert_eq!(sample.judge(&unsummed), Err(DropReason::GsoInvalid));
}

#[test]
fn h_9_a_receiver_without_guest_csum_gets_a_finished_checksum() {
    let sample = Sample::udp6(100);
    let offload = sample.judge(&sample.needs_csum()).unwrap();
    assert_eq!(offload.delivery(bit::VIRTIO_NET_F_GUEST_CSUM, 4), {
        let header = sample.needs_csum();
        Delivery::AsIs(VnetHeader {
            csum_start: header.csum_start + 4,
            ..header
        })
    });
    // The bytes themselves: `a_completed_checksum_is_right_and_changes_nothing_else`.
    assert!(matches!(
        offload.delivery(ALL & !bit::VIRTIO_NET_F_GUEST_CSUM, 0),
        Delivery::Complete(_)
    ));
}

#[test]
fn h_10_a_mixed_set_of_receivers_gets_each_its_form() {
    let tcp4 = Sample {
        flags: ACK | CWR,
        ..Sample::tcp4(4000)
    };
    let cases = [
        (tcp4.clone(), bit::VIRTIO_NET_F_GUEST_TSO4),
        (
            Sample {
                family: Family::V6,
                ..tcp4.clone()
            },
            bit::VIRTIO_NET_F_GUEST_TSO6,
        ),
        (
            Sample {
                transport: Transport::Udp,
                ..tcp4.clone()
            },
            bit::VIRTIO_NET_F_GUEST_USO4,
        ),
        (Sample::udp6(4000), bit::VIRTIO_NET_F_GUEST_USO6),
    ];
    for (sample, bit) in cases {
        let offload = sample.judge(&sample.gso(1400)).unwrap();
        let Offload::Segment(segment) = offload else {
            panic!()
        };
        let whole = Delivery::AsIs(sample.gso(1400));
        let cut = |partial| Delivery::Segments { segment, partial };
        assert_eq!(
            offload.delivery(bit | bit::VIRTIO_NET_F_GUEST_CSUM, 0),
            whole
        );
        assert_eq!(offload.delivery(ALL & !bit, 0), cut(true));
        assert_eq!(
            offload.delivery(bit, 0),
            cut(false),
            "TSO means nothing without CSUM"
        );
        assert_eq!(offload.delivery(0, 0), cut(false));
    }
    let with_ecn = VnetHeader {
        gso_type: vnet::GSO_TCPV4 | vnet::GSO_ECN,
        ..tcp4.gso(1400)
    };
    let offload = tcp4.judge(&with_ecn).unwrap();
    assert_eq!(offload.delivery(ALL, 0), Delivery::AsIs(with_ecn));
    assert!(matches!(
        offload.delivery(ALL & !bit::VIRTIO_NET_F_GUEST_ECN, 0),
        Delivery::Segments { partial: true, .. }
    ));
}

#[test]
fn h_10_a_tag_moves_the_offsets_of_a_whole_frame() {
    let sample = Sample {
        tagged: true,
        ..Sample::tcp4(4000)
    };
    let offload = sample.judge(&sample.gso(1400)).unwrap();
    let Delivery::AsIs(header) = offload.delivery(ALL, -4) else {
        panic!()
    };
    let untagged = Sample {
        tagged: false,
        ..sample
    };
    assert_eq!(header, untagged.gso(1400));
}

#[test]
fn h_11_the_frames_that_one_frame_can_make_are_bounded() {
    // The largest TCP frame there is, at the smallest size that is let through.
    let tcp = Sample {
        tcp_options: 0,
        ..Sample::tcp4(65_535 - 40)
    };
    for size in 1..=8 {
        assert_eq!(tcp.judge(&tcp.gso(size)), Err(DropReason::GsoInvalid));
    }
    let segment = tcp.segment(MIN_TCP_SEGMENT);
    assert_eq!(segment.count(), 304);
    assert!(segment.bytes() < 65_549 * 5 / 4 + 100);
    let udp = |payload| Sample {
        transport: Transport::Udp,
        ..Sample::tcp4(payload)
    };
    let most = usize::from(MIN_UDP_SEGMENT) * MAX_UDP_SEGMENTS as usize;
    assert_eq!(udp(most).segment(MIN_UDP_SEGMENT).count(), MAX_UDP_SEGMENTS);
    let over = udp(most + 1);
    assert_eq!(
        over.judge(&over.gso(MIN_UDP_SEGMENT)),
        Err(DropReason::GsoInvalid)
    );
}

#[test]
fn h_12_the_short_header_is_the_long_one_without_its_end() {
    let header = Sample::tcp4(4000).gso(1448).with_buffers(9);
    let bytes = header.encode();
    let short = bytes.first_chunk::<{ vnet::LEGACY_LEN }>().unwrap();
    assert_eq!(VnetHeader::parse(short), Sample::tcp4(4000).gso(1448));
    assert_eq!(bytes[vnet::LEGACY_LEN..], [9, 0]);
}

#[test]
fn h_13_a_frame_over_the_mtu_needs_gso() {
    let headers = Sample::tcp4(1448).headers();
    let judge = |header: &VnetHeader, headers: Headers, mtu| {
        let sender = Sender { features: ALL, mtu };
        Offload::judge(header, headers.end, sender, || Ok(Some(headers)))
    };
    let plain = VnetHeader::default();
    for (total, mtu, good) in [(1518, 1500, true), (1519, 1500, false), (9018, 9000, true)] {
        let judged = judge(
            &plain,
            Headers {
                end: total,
                ..headers
            },
            mtu,
        );
        assert_eq!(
            judged,
            if good {
                Ok(Offload::None)
            } else {
                Err(DropReason::Oversize)
            }
        );
    }
    // With GSO it is the segments that must fit.
    let large = Sample::tcp4(60_000);
    assert!(judge(&large.gso(1448), large.headers(), 1500).is_ok());
    assert_eq!(
        judge(&large.gso(1449), large.headers(), 1500),
        Err(DropReason::Oversize)
    );
    // Also where the size is large enough to make it one.
    assert_eq!(
        judge(&large.gso(60_000), large.headers(), 1500),
        Err(DropReason::Oversize)
    );
}

#[test]
fn a_guest_without_csum_has_nothing_to_say() {
    let sample = Sample::tcp4(4000);
    let header = VnetHeader {
        csum_start: 0,
        ..sample.gso(1)
    };
    assert!(
        !Sender {
            features: ALL & !bit::VIRTIO_NET_F_CSUM,
            mtu: 1500
        }
        .has_offloads()
    );
    assert_eq!(
        sample.judge_by(&header, ALL & !bit::VIRTIO_NET_F_CSUM),
        Ok(Offload::None)
    );
}

#[test]
fn the_headers_are_looked_at_only_when_asked_for() {
    let sender = Sender {
        features: ALL,
        mtu: 1500,
    };
    let judged = Offload::judge(&VnetHeader::default(), 60, sender, || panic!("parsed"));
    assert_eq!(judged, Ok(Offload::None));
}

#[test]
fn a_copy_that_is_too_short_for_its_plan_is_not_cut() {
    let sample = Sample::tcp4(4000);
    let segment = sample.segment(1448);
    let frame = sample.frame();
    assert!(Segmenter::complete(segment, &frame[..frame.len() - 1]).is_none());
    assert!(Segmenter::partial(segment, &frame[..segment.header_len() - 1]).is_none());
    let mut segmenter = Segmenter::complete(segment, &frame).unwrap();
    let cut = segmenter.next_cut().unwrap();
    assert_eq!(cut.write(&frame, &mut [0; 100]), None);
    assert_eq!(cut.write(&frame, &mut [0; 10]), None);
}
