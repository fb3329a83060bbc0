//! Any bytes as a frame: every layer read, no panic, and every offset inside the frame.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use portcullis::frame::{Frame, Network, Transport};
use portcullis_fuzz::frames::{Over, Template};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    template: Template,
    over: Over<'a>,
    more: u16,
    mend: bool,
    snapshot: u8,
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
});
