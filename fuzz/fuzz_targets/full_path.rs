//! A hostile guest plugged into a whole switch, beside guests of several kinds: whatever its rings, frames
//! and headers say, the others get what policy allows, in a form that they negotiated, and nothing else.
#![no_main]

use std::sync::Arc;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use portcullis::clock::Tick;
use portcullis::counters::PortId;
use portcullis::datapath::Gate;
use portcullis::datapath::crank::Crank;
use portcullis::datapath::offload::{Family, Headers, Transport};
use portcullis::fabric::{Fabric, Fdb, FdbLimits, GroupId, Mode, PortRow, VidSet, VlanMembership};
use portcullis::frame::{Frame, Vid};
use portcullis::policy::Policy;
use portcullis::port::door::Door;
use portcullis::port::lanes::{FaultBell, Lanes};
use portcullis::ring::features::*;
use portcullis::ring::vnet::{self, VnetHeader};
use portcullis::session::{Enabled, RingSetup};
use portcullis_fuzz::frames::{Over, Template};
use portcullis_fuzz::guest::{Guest, Shape, Step, poke};
use portcullis_fuzz::victim::{Received, Victim};

/// Everything that a receiver can negotiate.
const MODERN: u64 = VIRTIO_F_VERSION_1
    | VIRTIO_NET_F_MRG_RXBUF
    | VIRTIO_NET_F_GUEST_CSUM
    | VIRTIO_NET_F_GUEST_TSO4
    | VIRTIO_NET_F_GUEST_TSO6
    | VIRTIO_NET_F_GUEST_ECN
    | VIRTIO_NET_F_GUEST_USO4
    | VIRTIO_NET_F_GUEST_USO6;
/// Everything that a sender can.
const ASKS: u64 = VIRTIO_NET_F_CSUM
    | VIRTIO_NET_F_HOST_TSO4
    | VIRTIO_NET_F_HOST_TSO6
    | VIRTIO_NET_F_HOST_ECN
    | VIRTIO_NET_F_HOST_USO;
/// The receivers, by port: the attacker is port 0. The last is one that it may not reach.
const RECEIVERS: [u64; 4] = [
    MODERN,
    0,
    VIRTIO_F_VERSION_1 | VIRTIO_NET_F_GUEST_CSUM,
    VIRTIO_F_VERSION_1,
];
const TRUNK: usize = 1;
const UNREACHABLE: usize = 4;
const VID: u16 = 7;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    tx: Shape,
    rx: Shape,
    /// What the attacker negotiated: anything, and perhaps all that it may ask of us.
    features: u64,
    asks: bool,
    mtu: Option<u16>,
    acts: Vec<Act<'a>>,
}

#[derive(Arbitrary, Debug)]
enum Act<'a> {
    /// Writes to the transmit ring, or anywhere.
    Tx(Step),
    /// The same with the receive ring.
    Rx(Step),
    /// Sends a frame as a driver would.
    Send {
        header: Header,
        template: Template,
        over: Over<'a>,
        more: u16,
        mend: bool,
    },
    /// Another guest sends to everybody, the attacker too.
    Broadcast { from: u8 },
    /// The switch works.
    Turn,
}

/// The virtio-net header of a frame.
#[derive(Arbitrary, Debug)]
enum Header {
    Any([u8; vnet::LEGACY_LEN]),
    Nothing,
    /// As a driver leaves the checksum to the device.
    Checksum,
    /// As a driver leaves the cut to the device.
    Gso {
        size: u16,
        ecn: bool,
    },
}

impl Header {
    fn of(&self, frame: &[u8]) -> VnetHeader {
        let parsed = Frame::parse(frame, frame.len() as u32).ok();
        let (Some(Ok(Some(headers))), false) = (
            parsed.map(|frame| Headers::of(&frame)),
            matches!(self, Self::Any(_) | Self::Nothing),
        ) else {
            return match self {
                Self::Any(bytes) => VnetHeader::parse(bytes),
                _ => VnetHeader::default(),
            };
        };
        let mut header = VnetHeader {
            flags: vnet::NEEDS_CSUM,
            csum_start: headers.l4,
            csum_offset: headers.transport.checksum_offset(),
            ..VnetHeader::default()
        };
        if let Self::Gso { size, ecn } = self {
            header.gso_size = *size % 4096;
            header.gso_type = match (headers.family, headers.transport) {
                (Family::V4, Transport::Tcp) => vnet::GSO_TCPV4,
                (Family::V6, Transport::Tcp) => vnet::GSO_TCPV6,
                (_, Transport::Udp) => vnet::GSO_UDP_L4,
            } | if *ecn { vnet::GSO_ECN } else { 0 };
        }
        header
    }
}

fn vid() -> Vid {
    Vid::new(VID).expect("a VLAN")
}

fn row(mode: Mode, groups: &[u16]) -> PortRow {
    PortRow {
        mode,
        groups: groups.iter().map(|group| GroupId(*group)).collect(),
        vlan: VlanMembership::Access(vid()),
        ..PortRow::default()
    }
}

thread_local! {
    /// Compiled once: it takes far longer than a run.
    static FABRIC: Fabric = fabric();
}

fn fabric() -> Fabric {
    let mut rows = vec![
        row(Mode::Isolated, &[1]),
        row(Mode::Bridge, &[]),
        row(Mode::Isolated, &[1]),
        row(Mode::Bridge, &[]),
        row(Mode::Isolated, &[2]),
    ];
    let mut allowed = VidSet::empty();
    allowed.insert(vid());
    rows[TRUNK].vlan = VlanMembership::Trunk {
        allowed,
        native: None,
    };
    let fdb = Fdb::new(FdbLimits {
        capacity: 64,
        per_port: 16,
        ..FdbLimits::default()
    });
    Fabric::new(&rows, Arc::new(fdb))
}

struct Switch {
    lanes: Vec<Arc<Lanes>>,
    crank: Crank,
    victims: Vec<Victim>,
}

impl Switch {
    fn new(mtu: Option<u16>) -> Self {
        let door = Arc::new(Door::new().expect("door"));
        let bell = FaultBell::new().expect("bell");
        let lanes: Vec<_> = (0..5)
            .map(|index| {
                let id = PortId::new(index).expect("a port");
                Lanes::new(id, 1, door.clone(), bell.clone())
            })
            .collect();
        lanes[0].set_mtu(mtu);
        let fabric = FABRIC.with(Fabric::clone);
        lanes
            .iter()
            .for_each(|lanes| fabric.fdb().flush_port(lanes.id()));
        let gate = Gate {
            policy: Policy::open(1, lanes.iter().map(|lanes| lanes.id())),
            fabric,
        };
        let victims = RECEIVERS
            .into_iter()
            .enumerate()
            .map(|(index, features)| Victim::plug(index, features, &lanes[index + 1]))
            .collect();
        Self {
            crank: Crank::new(lanes.clone(), gate),
            lanes,
            victims,
        }
    }

    fn turn(&mut self, seconds: u64) {
        for lanes in &self.lanes {
            self.crank.turn(lanes.id(), 0, Tick::from_secs(seconds));
        }
        for (index, victim) in self.victims.iter_mut().enumerate() {
            for received in victim.receive() {
                judge(index + 1, &received);
            }
        }
    }
}

/// What any frame must be, wherever it came from.
fn judge(port: usize, received: &Received) {
    let Received {
        header,
        frame: bytes,
    } = received;
    let features = RECEIVERS[port - 1];
    let frame = Frame::parse(bytes, bytes.len() as u32).expect("a frame");
    assert!(
        !frame.src().is_group() && !frame.src().is_zero(),
        "source {:?}",
        frame.src()
    );
    assert_eq!(frame.tag().is_some(), port == TRUNK, "tag at port {port}");
    assert!(port == TRUNK || !frame.is_stacked());
    if port == UNREACHABLE {
        let harmless = (0..RECEIVERS.len()).any(|from| *bytes == broadcast(from));
        assert!(harmless, "the attacker's frame where it may not reach");
    }
    if *header == VnetHeader::default() {
        return;
    }
    assert!(
        features & VIRTIO_NET_F_GUEST_CSUM != 0,
        "{header:?} at port {port}"
    );
    let headers = Headers::of(&frame).expect("seen").expect("TCP or UDP");
    assert_eq!(header.flags, vnet::NEEDS_CSUM);
    assert_eq!(header.csum_start, headers.l4);
    assert_eq!(header.csum_offset, headers.transport.checksum_offset());
    match header.gso_type & !vnet::GSO_ECN {
        vnet::GSO_NONE => assert_eq!((header.hdr_len, header.gso_size), (0, 0)),
        _ => {
            assert!(features & VIRTIO_NET_F_GUEST_TSO4 != 0);
            assert_eq!(header.hdr_len, headers.payload);
            assert!(header.gso_size > 0);
        }
    }
}

/// What the victims send to everybody.
fn broadcast(from: usize) -> [u8; 60] {
    let mut frame = [0; 60];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&[2, 0xaa, 0, 0, 0, from as u8]);
    frame
}

fuzz_target!(|input: Input<'_>| run(&input));

fn run(input: &Input<'_>) {
    let features = input.features | if input.asks { ASKS } else { 0 };
    let mut switch = Switch::new(input.mtu);
    let attacker = Guest::new(&input.tx);
    let receiver = attacker.and(&input.rx, 0x4000);
    for (index, guest) in [(0, &receiver), (1, &attacker)] {
        let setup = RingSetup {
            memory: guest.memory.clone(),
            layout: guest.layout(),
            features,
            kick: None,
            call: None,
            err: None,
            enabled: Enabled::Yes,
        };
        let _ = switch.lanes[0].start(index, setup);
    }
    let header_len = portcullis::ring::Negotiated::from_features(features).header_len;
    for (seconds, act) in input.acts.iter().take(48).enumerate() {
        match act {
            Act::Tx(Step::Visit { .. }) | Act::Rx(Step::Visit { .. }) | Act::Turn => {
                switch.turn(seconds as u64);
            }
            Act::Tx(step) => attacker.drive(step),
            Act::Rx(step) => receiver.drive(step),
            Act::Send {
                header,
                template,
                over,
                more,
                mend,
            } => {
                let right = matches!(header, Header::Checksum | Header::Gso { .. });
                let frame = template.frame(*over, *more % 0x6000, *mend || right);
                let header = header.of(&frame).encode();
                let bytes = [&header[..header_len], &frame].concat();
                poke(&attacker.memory, 0x8000, &bytes);
                attacker.send(0x8000, bytes.len() as u32);
                switch.turn(seconds as u64);
            }
            Act::Broadcast { from } => {
                let from = usize::from(*from) % switch.victims.len();
                let frame = broadcast(from);
                let tagged = [&frame[..12], &[0x81, 0, 0, VID as u8], &frame[12..]].concat();
                switch.victims[from].send(if from + 1 == TRUNK { &tagged } else { &frame });
            }
        }
    }
    switch.turn(1000);
    attacker.assert_unharmed();
    switch.victims.iter().for_each(Victim::assert_unharmed);
    for lanes in &switch.lanes {
        let books = lanes.counters().snapshot();
        assert_eq!(
            books.ingress.received,
            books.ingress.forwarded + books.ingress.dropped.total()
        );
        assert_eq!(
            books.egress.offered,
            books.egress.delivered + books.egress.undelivered.total()
        );
    }
}
