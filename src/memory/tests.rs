//! Cases of the room, named after the hostile cases where there is one.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, SealFlags, ftruncate, memfd_create};

use super::*;

const PAGE: u64 = 4096;

fn memfd(bytes: u64) -> OwnedFd {
    let fd = memfd_create(
        "memory-test",
        MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
    )
    .unwrap();
    ftruncate(&fd, bytes).unwrap();
    fd
}

fn spec(guest_addr: u64, size: u64, file_offset: u64) -> RegionSpec {
    RegionSpec {
        guest_addr,
        size,
        user_addr: guest_addr + 0x7f00_0000_0000,
        file_offset,
    }
}

fn map(fd: &OwnedFd, spec: RegionSpec, fault: &FaultFlag) -> Result<Arc<Region>, MapError> {
    Region::map(fd.as_fd(), spec, fault)
}

/// Regions of one file, one after the other in it, at the given guest addresses and sizes.
fn guest(places: &[(u64, u64)]) -> (Arc<GuestMemory>, OwnedFd) {
    let fault = FaultFlag::new();
    let fd = memfd(places.iter().map(|place| place.1).sum());
    let mut offset = 0;
    let mut regions = Vec::new();
    for (guest_addr, size) in places {
        regions.push(map(&fd, spec(*guest_addr, *size, offset), &fault).unwrap());
        offset += size;
    }
    (
        GuestMemory::new(regions, fault, Limits::default()).unwrap(),
        fd,
    )
}

fn locate(memory: &GuestMemory, addr: u64, len: u32) -> Option<Extent> {
    memory.locate(addr, len, &mut RegionHint::default())
}

#[test]
fn bytes_go_in_out_and_across() {
    let (a, _) = guest(&[(0x1000, PAGE)]);
    let (b, _) = guest(&[(0x10_0000, 4 * PAGE)]);
    for len in [
        0usize, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 128, 1514, 4000,
    ] {
        let data: Vec<u8> = (0..len).map(|i| (i * 7 + len) as u8).collect();
        let source = locate(&a, 0x1001, len as u32).unwrap();
        let target = locate(&b, 0x10_0003, len as u32 + 100).unwrap();
        b.write(target, &vec![0xee; len + 100]);
        a.write(source, &data);
        GuestMemory::copy((&a, source), (&b, target));
        let mut seen = vec![0; len + 100];
        b.read(target, &mut seen);
        assert_eq!(&seen[..len], &data[..], "{len}");
        assert!(seen[len..].iter().all(|byte| *byte == 0xee), "{len}");
    }
    assert!(!a.faulted() && !b.faulted());
}

#[test]
fn a_copy_inside_one_memory_may_overlap() {
    let (memory, _) = guest(&[(0, PAGE)]);
    for len in [5u32, 8, 13, 16, 24, 32, 40, 64, 100, 1000] {
        for shift in [1u64, 3, 8, 40] {
            let data: Vec<u8> = (0..len).map(|i| (i * 3 + 1) as u8).collect();
            for (from, to) in [(512, 512 + shift), (512 + shift, 512)] {
                let from = locate(&memory, from, len).unwrap();
                let to = locate(&memory, to, len).unwrap();
                memory.write(from, &data);
                GuestMemory::copy((&memory, from), (&memory, to));
                let mut seen = vec![0; len as usize];
                memory.read(to, &mut seen);
                assert_eq!(seen, data, "{len} bytes by {shift}");
            }
        }
    }
}

#[test]
fn q_6_a_range_over_adjacent_regions_is_found_piece_by_piece() {
    let (memory, _) = guest(&[(0x2000, PAGE), (0x1000, PAGE), (0x8000, PAGE)]);
    let mut hint = RegionHint::default();
    let first = memory.locate(0x1ff0, 100, &mut hint).unwrap();
    assert_eq!(first.len(), 16);
    let second = memory.locate(0x2000, 84, &mut hint).unwrap();
    assert_eq!(second.len(), 84);
    memory.write(first, &[1; 16]);
    memory.write(second, &[2; 84]);
    let mut seen = [0; 17];
    memory.read(second, &mut seen);
    assert_eq!(seen, [2; 17]);
    let mut seen = [0; 16];
    memory.read(first, &mut seen);
    assert_eq!(seen, [1; 16]);
    // Into the hole, before the first, behind the last, and where the sum would wrap.
    for addr in [0x3000, 0x7fff, 0xfff, 0, 0x9000, u64::MAX] {
        assert_eq!(memory.locate(addr, 2, &mut hint), None, "{addr:#x}");
    }
    let last = memory.locate(0x8fff, u32::MAX, &mut hint).unwrap();
    assert_eq!(last.len(), 1);
}

#[test]
fn p_7_only_memory_files_are_mapped() {
    let fault = FaultFlag::new();
    let regular = File::open("/proc/self/exe").unwrap();
    let directory = File::open("/").unwrap();
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .unwrap();
    let (pipe, _) = rustix::pipe::pipe().unwrap();
    let event = eventfd(0, EventfdFlags::empty()).unwrap();
    let path = rustix::fs::open(
        "/proc/self/exe",
        rustix::fs::OFlags::PATH,
        rustix::fs::Mode::empty(),
    )
    .unwrap();
    let others: [OwnedFd; 6] = [
        regular.into(),
        directory.into(),
        null.into(),
        pipe,
        event,
        path,
    ];
    for fd in &others {
        let refused = map(fd, spec(0, PAGE, 0), &fault);
        assert!(
            matches!(refused, Err(MapError::NotMemory { .. })),
            "{fd:?}: {refused:?}"
        );
    }
}

#[test]
fn p_7_a_read_only_descriptor_is_not_mapped() {
    let fd = memfd(PAGE);
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
    let read_only: OwnedFd = File::open(path).unwrap().into();
    let refused = map(&read_only, spec(0, PAGE, 0), &FaultFlag::new());
    assert!(
        matches!(refused, Err(MapError::NotWritable { .. })),
        "{refused:?}"
    );
}

#[test]
fn p_7_only_eventfds_are_doorbells() {
    let (pipe, _) = rustix::pipe::pipe().unwrap();
    assert!(matches!(
        Kick::new(pipe),
        Err(DoorbellError::NotEventfd { .. })
    ));
    assert!(matches!(
        Call::new(memfd(8)),
        Err(DoorbellError::NotEventfd { .. })
    ));
    let null: OwnedFd = File::options()
        .write(true)
        .open("/dev/null")
        .unwrap()
        .into();
    assert!(matches!(
        Call::new(null),
        Err(DoorbellError::NotEventfd { .. })
    ));
    assert!(Call::new(eventfd(0, EventfdFlags::empty()).unwrap()).is_ok());
}

#[test]
fn p_12_a_file_shorter_than_the_region_is_not_mapped() {
    let fault = FaultFlag::new();
    for bytes in [0, PAGE, 2 * PAGE - 1] {
        let refused = map(&memfd(bytes), spec(0, 2 * PAGE, 0), &fault);
        assert!(
            matches!(refused, Err(MapError::FileTooShort { file_size, .. }) if file_size == bytes)
        );
    }
    let refused = map(&memfd(2 * PAGE), spec(0, 2 * PAGE, PAGE), &fault);
    assert!(matches!(refused, Err(MapError::FileTooShort { .. })));
}

#[test]
fn p_13_a_file_truncated_under_its_mapping_raises_its_own_flag_only() {
    let (lost, fd) = guest(&[(0, 16 * PAGE)]);
    let (kept, _fd) = guest(&[(0, PAGE)]);
    let extent = locate(&lost, 8 * PAGE, 64).unwrap();
    lost.write(extent, &[5; 64]);
    kept.write(locate(&kept, 0, 4).unwrap(), b"kept");
    ftruncate(&fd, 0).unwrap();
    let mut seen = [9; 64];
    lost.read(extent, &mut seen);
    assert_eq!(seen, [0; 64]);
    assert_eq!(lost.fault().cause(), Some(FaultCause::MemoryLost));
    // The region is quiet from here on, for writes as well.
    lost.write(extent, &[1; 64]);
    let mut seen = [0; 4];
    kept.read(locate(&kept, 0, 4).unwrap(), &mut seen);
    assert_eq!(&seen, b"kept");
    assert!(!kept.faulted());
}

#[test]
fn q_25_a_memfd_sealed_against_writing_is_not_mapped() {
    for seal in [SealFlags::WRITE, SealFlags::FUTURE_WRITE] {
        let fd = memfd(PAGE);
        rustix::fs::fcntl_add_seals(&fd, seal).unwrap();
        let refused = map(&fd, spec(0, PAGE, 0), &FaultFlag::new());
        assert!(
            matches!(refused, Err(MapError::WriteSealed { .. })),
            "{refused:?}"
        );
    }
}

#[test]
fn window_is_bounded() {
    let (memory, _fd) = guest(&[(0x1000, PAGE), (0x2000, PAGE)]);
    assert!(memory.window(0x1ff0, 32, 2).is_err());
    assert!(memory.window(0x1001, 32, 2).is_err());
    let window = memory.window(0x1ff0, 16, 16).unwrap();
    window.store_u16(2, 0x1234);
    assert_eq!(window.load_u16(2), 0x1234);
    window.write(0, &[1, 2]);
    assert_eq!(window.read::<4>(0), [1, 2, 0x34, 0x12]);
    let whole = window.read::<16>(0);
    assert_eq!(whole[..4], [1, 2, 0x34, 0x12]);
    assert!(!memory.faulted());
    assert_eq!(window.load_u16(15), 0);
    assert!(memory.faulted());
}

#[test]
fn p_25_a_saturated_call_eventfd_is_no_error() {
    let fd = eventfd(0, EventfdFlags::empty()).unwrap();
    rustix::io::write(&fd, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    let call = Call::new(fd).unwrap();
    call.ring().unwrap();
}

#[test]
fn p_25_a_call_eventfd_made_blocking_and_full_is_interrupted() {
    let fd = eventfd(0, EventfdFlags::empty()).unwrap();
    rustix::io::write(&fd, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    let call = Call::new(fd).unwrap();
    rustix::fs::fcntl_setfl(&call, rustix::fs::OFlags::empty()).unwrap();
    let metronome = Metronome::new().unwrap();
    metronome.start();
    assert!(matches!(call.ring(), Err(CallError::Blocked)));
    metronome.stop();
}

#[test]
fn p_26_a_drain_of_an_empty_blocking_kick_returns() {
    let fd = eventfd(0, EventfdFlags::empty()).unwrap();
    rustix::io::write(&fd, &1u64.to_ne_bytes()).unwrap();
    let kick = Kick::new(fd).unwrap();
    assert!(kick.drain());
    assert!(!kick.drain());
}
