//! Any bytes as a frame: every layer read and judged by guards, no panic, every offset inside the frame, and no shorter
//! snapshot that passes what a longer one does not.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use portcullis::clock::Tick;
use portcullis::counters::DropReason;
use portcullis::frame::{Frame, Network, Transport};
use portcullis::policy::digest::Digest;
use portcullis::policy::guard::{Guard, GuardState, Outcome};
use portcullis::policy::lease;
use portcullis::policy::spec::{GuardSpec, IpSpec, MacSpec};
use portcullis_fuzz::frames::{Over, Template};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    template: Template,
    over: Over<'a>,
    more: u16,
    mend: bool,
    snapshot: u8,
}

/// The answers of a guest's guards: any address, declared ones, those of leases.
fn judged(frame: &Frame<'_>) -> [Result<Outcome, DropReason>; 3] {
    let declared = ["10.0.0.0/8", "fc00::/7"].map(|prefix| prefix.parse().expect("a prefix"));
    [
        IpSpec::Any,
        IpSpec::Declared(declared.to_vec()),
        IpSpec::Dhcp,
    ]
    .map(|ip| {
        let guard = Guard::new(&GuardSpec {
            mac: MacSpec::Declared(vec![frame.src()]),
            ip,
            ..GuardSpec::default()
        });
        let digest = Digest::of(frame, 1);
        guard.judge(&GuardState::new(), frame, &digest, Tick::ZERO)
    })
}

fuzz_target!(|input: Input<'_>| {
    let bytes = input.template.frame(input.over, input.more, input.mend);
    let total = bytes.len() as u32;
    let snapshot = &bytes[..bytes.len().min(usize::from(input.snapshot) + 1)];
    let Ok(frame) = Frame::parse(snapshot, total) else {
        return;
    };
    assert!(frame.l3_offset() <= frame.bytes().len());
    let layers = frame.layers();
    assert!(layers.end <= total as usize);
    assert!(layers.transport_offset <= layers.end);
    match layers.transport {
        Transport::Tcp(tcp) => {
            assert!(layers.transport_offset + tcp.header_len() <= layers.end);
            let _ = (tcp.src_port(), tcp.flags(), tcp.options(), tcp.sequence());
        }
        Transport::Udp(udp) => {
            assert!(layers.transport_offset + 8 <= layers.end);
            let _ = (udp.src_port(), udp.length());
        }
        _ => {}
    }
    match layers.network {
        Network::Ipv4(ip) => assert!(ip.header_len() <= usize::from(ip.total_len())),
        Network::Ipv6(ip) => {
            let _ = (ip.src(), ip.dst());
        }
        _ => {}
    }
    assert_eq!(frame.flow_hash(7), frame.flow_hash(7));
    // A longer view of the same frame never takes back what a shorter one showed.
    assert!(!layers.runs_on() || !frame.is_whole());
    let Ok(whole) = Frame::parse(&bytes, total) else {
        panic!("a longer snapshot is refused")
    };
    assert_eq!(
        (whole.tag(), whole.ethertype()),
        (frame.tag(), frame.ethertype())
    );
    let deep = whole.layers();
    if let (Transport::Tcp(a), Transport::Tcp(b)) = (layers.transport, deep.transport) {
        assert_eq!((a.flags(), a.header_len()), (b.flags(), b.header_len()));
    }
    if !layers.runs_on() {
        assert_eq!(
            core::mem::discriminant(&layers.transport),
            core::mem::discriminant(&deep.transport)
        );
        assert_eq!(
            (layers.transport_offset, layers.end),
            (deep.transport_offset, deep.end)
        );
    }
    for (short, long) in judged(&frame).into_iter().zip(judged(&whole)) {
        assert!(short == long || short == Err(DropReason::HeadersTooLong));
    }
    if let Some(event) = lease::observe(&frame) {
        assert!(event.client.is_station() && event.changes().count() > 0);
        assert_eq!(lease::observe(&whole), Some(event));
    }
});
