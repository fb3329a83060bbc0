//! Any header in front of any frame: what a receiver gets is canonical, and no judged byte changes.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use portcullis::datapath::offload::{
    Delivery, Headers, Offload, Segmenter, Sender, complete_checksum,
};
use portcullis::frame::Frame;
use portcullis::ring::vnet::{self, VnetHeader};
use portcullis_fuzz::frames::{Over, Template};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    features: u64,
    receiver: u64,
    mtu: u16,
    header: [u8; vnet::LEGACY_LEN],
    /// Start from a header that fits, so that the cut is reached.
    aim: bool,
    template: Template,
    more: u16,
    mend: bool,
    over: Over<'a>,
}

fn headers(bytes: &[u8]) -> Option<Headers> {
    let frame = Frame::parse(bytes, bytes.len() as u32).ok()?;
    Headers::of(&frame).ok().flatten()
}

fuzz_target!(|input: Input<'_>| {
    let mut bytes = input.template.frame(input.over, input.more, input.mend);
    let parsed = headers(&bytes);
    let mut header = VnetHeader::parse(&input.header);
    if let (true, Some(headers)) = (input.aim, parsed) {
        header.flags |= vnet::NEEDS_CSUM;
        header.csum_start = headers.l4;
        header.csum_offset = headers.transport.checksum_offset();
    }
    let sender = Sender {
        features: input.features,
        mtu: input.mtu,
    };
    let Ok(offload) = Offload::judge(&header, bytes.len() as u32, sender, || Ok(parsed)) else {
        return;
    };
    match offload.delivery(input.receiver, 0) {
        Delivery::AsIs(out) => {
            if let Some(headers) = parsed.filter(|_| out != VnetHeader::default()) {
                assert_eq!(out.flags, vnet::NEEDS_CSUM);
                assert_eq!(out.csum_start, headers.l4);
                assert_eq!(out.csum_offset, headers.transport.checksum_offset());
            }
        }
        Delivery::Complete(plan) => {
            let before = bytes.clone();
            assert!(complete_checksum(&mut bytes, plan));
            let headers = parsed.expect("judged");
            let field = usize::from(headers.l4 + headers.transport.checksum_offset());
            bytes[field..field + 2].copy_from_slice(&before[field..field + 2]);
            assert_eq!(bytes, before);
        }
        Delivery::Segments { segment, partial } => {
            let mut segmenter = if partial {
                Segmenter::partial(segment, &bytes[..segment.header_len()]).expect("judged")
            } else {
                Segmenter::complete(segment, &bytes).expect("judged")
            };
            let (out_header, mut out, mut at, mut count) = (
                segmenter.header(0),
                vec![0; bytes.len()],
                segment.header_len(),
                0,
            );
            while let Some(cut) = segmenter.next_cut() {
                let len = cut
                    .write(&bytes, &mut out)
                    .expect("no longer than the frame");
                assert_eq!(cut.payload.start, at);
                at = cut.payload.end;
                count += 1;
                // Each segment is a good frame by the same judge.
                let again = headers(&out[..len]).expect("whole");
                assert_eq!(again.end as usize, len);
                let sender = Sender {
                    features: 1,
                    mtu: u16::MAX,
                };
                Offload::judge(&out_header, len as u32, sender, || Ok(Some(again)))
                    .expect("canonical");
            }
            assert_eq!((at, count), (bytes.len(), segment.count()));
            assert!(count <= 304);
        }
    }
});
