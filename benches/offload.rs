//! What completing a checksum and cutting a large frame cost, beside the bound: a copy of the same
//! bytes. `cargo bench --bench offload`.

use divan::Bencher;
use divan::counter::BytesCount;
use portcullis::datapath::offload::{
    Family, Headers, Offload, Segment, Segmenter, Sender, Transport, complete_checksum,
};
use portcullis::ring::vnet::{self, VnetHeader};

fn main() {
    divan::main();
}

const SIZES: [usize; 4] = [64, 1514, 9014, 65_549];
const MSS: u16 = 1448;

fn headers(len: usize) -> Headers {
    Headers {
        family: Family::V4,
        transport: Transport::Tcp,
        l3: 14,
        l4: 34,
        payload: 54,
        end: u32::try_from(len).expect("a frame"),
        tcp_flags: 0x10,
        is_dhcp: false,
    }
}

fn judge(len: usize, gso_type: u8) -> Offload {
    let header = VnetHeader {
        flags: vnet::NEEDS_CSUM,
        gso_type,
        gso_size: MSS,
        csum_start: 34,
        csum_offset: 16,
        ..VnetHeader::default()
    };
    let headers = headers(len);
    let sender = Sender {
        features: u64::MAX,
        mtu: u16::MAX,
    };
    Offload::judge(&header, headers.end, sender, || Ok(Some(headers))).expect("a good frame")
}

fn segment() -> Segment {
    match judge(65_549, vnet::GSO_TCPV4) {
        Offload::Segment(segment) => segment,
        other => panic!("{other:?}"),
    }
}

#[divan::bench(args = SIZES)]
fn bound_memcpy(bencher: Bencher<'_, '_>, len: usize) {
    let (from, mut to) = (vec![0x5a; len], vec![0; len]);
    bencher.counter(BytesCount::new(len)).bench_local(|| {
        divan::black_box(&mut to).copy_from_slice(divan::black_box(&from));
    });
}

#[divan::bench(args = SIZES)]
fn checksum(bencher: Bencher<'_, '_>, len: usize) {
    let Offload::Checksum(plan) = judge(len, vnet::GSO_NONE) else {
        panic!("a checksum")
    };
    let mut frame = vec![0x5a; len];
    bencher
        .counter(BytesCount::new(len))
        .bench_local(|| complete_checksum(divan::black_box(&mut frame), plan));
}

/// Into one buffer, as into a receiver's warm memory.
fn cut(mut segmenter: Segmenter<'_>, frame: &[u8], out: &mut [u8]) -> usize {
    let mut bytes = 0;
    while let Some(cut) = segmenter.next_cut() {
        bytes += cut.write(frame, out).expect("room");
    }
    bytes
}

#[divan::bench]
fn cut_64k_complete(bencher: Bencher<'_, '_>) {
    let (frame, mut out) = (vec![0x5a; 65_549], vec![0; 2048]);
    bencher
        .counter(BytesCount::new(frame.len()))
        .bench_local(|| {
            let segmenter =
                Segmenter::complete(segment(), divan::black_box(&frame)).expect("whole");
            cut(segmenter, &frame, divan::black_box(&mut out))
        });
}

#[divan::bench]
fn cut_64k_partial(bencher: Bencher<'_, '_>) {
    let (frame, mut out) = (vec![0x5a; 65_549], vec![0; 2048]);
    bencher
        .counter(BytesCount::new(frame.len()))
        .bench_local(|| {
            let segmenter = Segmenter::partial(segment(), divan::black_box(&frame)).expect("whole");
            cut(segmenter, &frame, divan::black_box(&mut out))
        });
}

#[divan::bench]
fn judge_and_deliver(bencher: Bencher<'_, '_>) {
    bencher.bench_local(|| {
        let offload = judge(divan::black_box(65_549), divan::black_box(vnet::GSO_TCPV4));
        offload.delivery(divan::black_box(u64::MAX), 0)
    });
}
