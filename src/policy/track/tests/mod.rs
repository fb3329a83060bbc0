//! Frames, and a gate that lets everything new open a connection.

mod ahead;
mod bounds;
mod hostile;
mod pair;
mod segments;
mod threads;
mod whole;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::*;
use crate::frame::tcp::flag::{ACK, SYN};
use crate::policy::rule::RuleId;

const VID: u16 = 7;

fn port(index: u16) -> PortId {
    PortId::new(index).unwrap()
}

/// A host: its port, address and MAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Host {
    port: PortId,
    ip: IpAddr,
}

fn v4(index: u16) -> Host {
    Host {
        port: port(index),
        ip: Ipv4Addr::from_bits(0x0a00_0001 + u32::from(index)).into(),
    }
}

fn v6(index: u16) -> Host {
    Host {
        port: port(index),
        ip: Ipv6Addr::from_bits((0xfd00 << 112) | (u128::from(index) + 1)).into(),
    }
}

/// The beginning of a frame, and the length of the whole.
#[derive(Clone, Debug)]
struct Made {
    bytes: Vec<u8>,
    len: u32,
}

impl Made {
    fn digest(&self) -> (Frame<'_>, Digest) {
        let frame = Frame::parse(&self.bytes, self.len).unwrap();
        (frame, Digest::of(&frame, VID))
    }
}

fn mac_of(ip: IpAddr) -> [u8; 6] {
    let low = match ip {
        IpAddr::V4(ip) => ip.octets()[3],
        IpAddr::V6(ip) => ip.octets()[15],
    };
    [0x52, 0x54, 0, 0, 0, low]
}

/// An IP packet with that protocol; `payload_len` bytes follow what `head` shows.
fn ip(src: IpAddr, dst: IpAddr, number: u8, head: &[u8], payload_len: usize) -> Made {
    let mut bytes = mac_of(dst).to_vec();
    bytes.extend(mac_of(src));
    let len = head.len() + payload_len;
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            bytes.extend([8, 0]);
            let total = u16::try_from(20 + len).unwrap().to_be_bytes();
            bytes.extend([0x45, 0, total[0], total[1], 0, 1, 0, 0, 64, number, 0, 0]);
            bytes.extend(src.octets());
            bytes.extend(dst.octets());
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            bytes.extend([0x86, 0xdd]);
            let total = u16::try_from(len).unwrap().to_be_bytes();
            bytes.extend([0x60, 0, 0, 0, total[0], total[1], number, 64]);
            bytes.extend(src.octets());
            bytes.extend(dst.octets());
        }
        _ => unreachable!("one family"),
    }
    bytes.extend(head);
    let len = bytes.len() + payload_len;
    bytes.resize(len.min(128), 0xaa);
    Made {
        bytes,
        len: u32::try_from(len).unwrap(),
    }
}

/// A TCP segment in the making.
#[derive(Clone, Copy, Debug)]
struct Tcp {
    src: (IpAddr, u16),
    dst: (IpAddr, u16),
    flags: u8,
    seq: u32,
    ack: u32,
    window: u16,
    scale: Option<u8>,
    len: usize,
}

impl Tcp {
    fn new(src: (Host, u16), dst: (Host, u16), flags: u8) -> Self {
        Self {
            src: (src.0.ip, src.1),
            dst: (dst.0.ip, dst.1),
            flags,
            seq: 0,
            ack: 0,
            window: 1000,
            scale: None,
            len: 0,
        }
    }

    fn at(mut self, seq: u32, ack: u32) -> Self {
        (self.seq, self.ack) = (seq, ack);
        self
    }

    fn window(mut self, window: u16) -> Self {
        self.window = window;
        self
    }

    fn data(mut self, len: usize) -> Self {
        self.len = len;
        self
    }

    fn header(&self) -> Vec<u8> {
        let mut head = self.src.1.to_be_bytes().to_vec();
        head.extend(self.dst.1.to_be_bytes());
        head.extend(self.seq.to_be_bytes());
        head.extend(self.ack.to_be_bytes());
        let options = match self.scale {
            // NOP, window scale; then SACK permitted, to walk over.
            Some(shift) => vec![4, 2, 1, 3, 3, shift, 1, 1],
            None => Vec::new(),
        };
        let words = u8::try_from(5 + options.len() / 4).unwrap();
        head.extend([words << 4, self.flags]);
        head.extend(self.window.to_be_bytes());
        head.extend([0; 4]);
        head.extend(options);
        head
    }

    fn made(&self) -> Made {
        ip(
            self.src.0,
            self.dst.0,
            protocol::TCP,
            &self.header(),
            self.len,
        )
    }
}

fn udp(src: (Host, u16), dst: (Host, u16)) -> Made {
    let mut head = src.1.to_be_bytes().to_vec();
    head.extend(dst.1.to_be_bytes());
    head.extend([0, 18, 0, 0]);
    ip(src.0.ip, dst.0.ip, protocol::UDP, &head, 10)
}

fn icmp(src: Host, dst: Host, kind: u8, rest: &[u8]) -> Made {
    let number = match src.ip {
        IpAddr::V4(_) => protocol::ICMP,
        IpAddr::V6(_) => protocol::ICMPV6,
    };
    let mut head = vec![kind, 0, 0, 0];
    head.extend(rest);
    ip(src.ip, dst.ip, number, &head, 0)
}

/// An error from `src` to `dst` about a packet.
fn error(src: Host, dst: Host, about: &Made) -> Made {
    let kind = match src.ip {
        IpAddr::V4(_) => 3,
        IpAddr::V6(_) => 1,
    };
    let mut rest = vec![0; 4];
    let header = match src.ip {
        IpAddr::V4(_) => 20,
        IpAddr::V6(_) => 40,
    };
    // The IP header, and the eight bytes that every host quotes at least.
    rest.extend(&about.bytes[14..14 + header + 8]);
    icmp(src, dst, kind, &rest)
}

fn spec() -> TrackingSpec {
    TrackingSpec {
        loose: false,
        ..TrackingSpec::default()
    }
}

/// A tracker with one worker.
struct World {
    seat: Seat,
    now: Tick,
    /// How often something was looked up, and where it seemed to be the last time.
    looks: u32,
    stale: Option<Hint>,
}

fn terms() -> Terms {
    Terms {
        opener: Side {
            covered: true,
            rule: Some(RuleId(3)),
        },
        peer: Side {
            covered: false,
            rule: None,
        },
    }
}

impl World {
    fn new(spec: &TrackingSpec) -> Self {
        let tracker = Arc::new(Tracker::new(spec, 8));
        Self {
            seat: tracker.seat().unwrap(),
            now: Tick::from_secs(100),
            looks: 0,
            stale: None,
        }
    }

    fn tracker(&self) -> Arc<Tracker> {
        Arc::clone(self.seat.tracker())
    }

    /// By turns with a hint, without one, and with one that is another packet's, which changes nothing.
    fn look(&mut self, from: Host, to: Host, made: &Made) -> Look {
        let [ahead, ..] = self.ahead(from, to, std::slice::from_ref(made));
        self.looks += 1;
        let stale = std::mem::replace(&mut self.stale, ahead);
        let hint = match self.looks % 3 {
            0 => None,
            1 => ahead,
            _ => stale,
        };
        self.look_near(from, to, made, hint)
    }

    fn look_near(&mut self, from: Host, to: Host, made: &Made, hint: Option<Hint>) -> Look {
        let (frame, digest) = made.digest();
        let burst = self.seat.burst();
        burst.look_near(&digest, &frame, from.port, to.port, hint, self.now)
    }

    fn ahead(&mut self, from: Host, to: Host, packets: &[Made]) -> [Option<Hint>; ABREAST] {
        let subjects: Vec<_> = packets.iter().map(|made| made.digest().1.subject).collect();
        let subjects = subjects.iter().map(|subject| (subject, to.port));
        self.seat.burst().look_ahead(from.port, subjects)
    }

    fn open(
        &mut self,
        from: Host,
        to: Host,
        made: &Made,
    ) -> Result<(FlowRef, Direction), DropReason> {
        let (frame, digest) = made.digest();
        self.seat
            .burst()
            .open(&digest, &frame, from.port, to.port, &terms(), 1, self.now)
    }

    fn advance(&mut self, flow: (FlowRef, Direction), made: &Made) -> Option<State> {
        let (frame, digest) = made.digest();
        let (flow, direction) = flow;
        self.seat
            .burst()
            .advance(flow, direction, &digest, &frame, self.now)
    }

    /// What a gate without lists makes of a packet: what is new opens.
    fn pass(&mut self, from: Host, to: Host, made: &Made) -> State {
        let look = self.look(from, to, made);
        if look.state == State::New {
            self.open(from, to, made).unwrap();
        }
        look.state
    }

    fn wait(&mut self, seconds: u64) {
        self.now = self.now.after_millis(seconds * 1000);
    }

    fn flows(&self) -> Vec<Flow> {
        self.tracker().flows(self.now).collect()
    }

    /// The one connection's phase.
    fn phase(&self) -> Phase {
        let flows = self.flows();
        assert_eq!(flows.len(), 1, "{flows:?}");
        flows[0].state
    }

    /// A handshake of `a`, port 40000, with `b`, port 80: the sequence numbers are 1000 and 5000 behind it, the
    /// windows 10,000 bytes.
    fn connect(&mut self, a: Host, b: Host) -> Connection {
        let (a, b) = ((a, 40_000), (b, 80));
        let syn = Tcp::new(a, b, SYN).at(999, 0).window(10_000);
        assert_eq!(self.pass(a.0, b.0, &syn.made()), State::New);
        let answer = Tcp::new(b, a, SYN | ACK).at(4999, 1000).window(10_000);
        assert_eq!(self.pass(b.0, a.0, &answer.made()), State::Established);
        let ack = Tcp::new(a, b, ACK).at(1000, 5000).window(10_000);
        assert_eq!(self.pass(a.0, b.0, &ack.made()), State::Established);
        Connection { a, b }
    }

    fn by_a(&mut self, c: Connection, segment: Tcp) -> State {
        self.look(c.a.0, c.b.0, &segment.made()).state
    }

    fn by_b(&mut self, c: Connection, segment: Tcp) -> State {
        self.look(c.b.0, c.a.0, &segment.made()).state
    }
}

#[derive(Clone, Copy, Debug)]
struct Connection {
    a: (Host, u16),
    b: (Host, u16),
}

impl Connection {
    fn a(&self, flags: u8) -> Tcp {
        Tcp::new(self.a, self.b, flags).window(10_000)
    }

    fn b(&self, flags: u8) -> Tcp {
        Tcp::new(self.b, self.a, flags).window(10_000)
    }
}
