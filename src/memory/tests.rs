//! Cases of the room, named after the hostile cases where there is one.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, SealFlags, ftruncate, memfd_create};

use super::*;

#[path = "../../tests/silent/mod.rs"]
mod silent;
use silent::Silent;

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
fn a_window_lies_in_one_region() {
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

/// Runs the test `name` alone in a new process with the environment variable `CHILD` set. `None` in that
/// process, where the case itself is to be played.
fn in_a_process(name: &str) -> Option<std::process::ExitStatus> {
    const CHILD: &str = "PORTCULLIS_MEMORY_TEST_CHILD";
    if std::env::var_os(CHILD).is_some() {
        return None;
    }
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            &format!("memory::tests::{name}"),
            "--test-threads=1",
        ])
        .env(CHILD, "1")
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::inherit())
        .status()
        .unwrap();
    Some(status)
}

fn no_core_dump() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none).unwrap();
}

/// O-11: a thread's alternate stack has room for two or three signals' frames, and more may come at once than that: a memory
/// fault, a tick, and each signal that the process listens to. So the fault alone is there, and nothing comes on top of it.
#[test]
fn o_11_no_signal_comes_on_top_of_another_on_the_alternate_stack() {
    let action = |signal: libc::c_int| {
        let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: a null new action only asks for the present one; `action` is large enough.
        let asked = unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) };
        assert_eq!(asked, 0);
        // SAFETY: filled by the call above.
        unsafe { action.assume_init() }
    };
    let blocks = |action: &libc::sigaction, signal: libc::c_int| {
        // SAFETY: the mask was filled in by sigaction(2).
        unsafe { libc::sigismember(&raw const action.sa_mask, signal) == 1 }
    };
    install_fault_handler();
    let _metronome = Metronome::new().unwrap();
    let (fault, tick) = (action(libc::SIGBUS), action(super::metronome::signal()));
    assert_ne!(fault.sa_flags & libc::SA_ONSTACK, 0);
    assert_eq!(tick.sa_flags & libc::SA_ONSTACK, 0);
    for signal in [
        libc::SIGHUP,
        libc::SIGTERM,
        libc::SIGUSR1,
        super::metronome::signal(),
    ] {
        assert!(blocks(&fault, signal) && blocks(&tick, signal), "{signal}");
    }
}

/// O-14: the kernel leaves out of a core dump what is marked so ("dd" in /proc/PID/smaps).
#[test]
fn o_14_guest_memory_is_left_out_of_core_dumps() {
    // Of a size that no other test of this process maps.
    const SIZE: u64 = 37 * PAGE;
    let (_memory, _fd) = guest(&[(0, SIZE)]);
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let size = format!("Size: {} kB", SIZE / 1024);
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut lines = smaps.lines();
    lines
        .find(|line| words(line) == size)
        .expect("the guest's memory");
    let flags = lines.find(|line| line.starts_with("VmFlags:")).unwrap();
    assert!(flags.split_whitespace().any(|flag| flag == "dd"), "{flags}");
}

/// Lines of /proc/self/maps.
fn mappings() -> usize {
    std::fs::read_to_string("/proc/self/maps")
        .unwrap()
        .lines()
        .count()
}

#[test]
fn p_13_a_bus_error_that_is_not_ours_ends_the_process() {
    use std::os::unix::process::ExitStatusExt;
    let Some(status) = in_a_process("p_13_a_bus_error_that_is_not_ours_ends_the_process") else {
        no_core_dump();
        let (_memory, _fd) = guest(&[(0, PAGE)]);
        let fd = memfd(PAGE);
        // SAFETY: a new mapping at a place of the kernel's choice.
        let start = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                PAGE as usize,
                rustix::mm::ProtFlags::READ,
                rustix::mm::MapFlags::SHARED,
                &fd,
                0,
            )
        };
        ftruncate(&fd, 0).unwrap();
        // SAFETY: mapped for reading; the read faults, which is what the case is about.
        let byte = unsafe { start.unwrap().cast::<u8>().read_volatile() };
        panic!("read {byte} from a page that is gone");
    };
    assert_eq!(status.signal(), Some(libc::SIGBUS), "{status}");
}

#[test]
fn a_bus_error_that_somebody_sent_ends_the_process() {
    use std::os::unix::process::ExitStatusExt;
    let Some(status) = in_a_process("a_bus_error_that_somebody_sent_ends_the_process") else {
        no_core_dump();
        install_fault_handler();
        // SAFETY: raises a signal in this thread.
        unsafe { libc::raise(libc::SIGBUS) };
        panic!("still here");
    };
    assert_eq!(status.signal(), Some(libc::SIGBUS), "{status}");
}

#[test]
fn a_handler_that_was_there_before_still_gets_what_is_not_ours() {
    extern "C" fn leave(_: libc::c_int) {
        // SAFETY: ends the process at once; allowed in a handler.
        unsafe { libc::_exit(33) };
    }
    let Some(status) = in_a_process("a_handler_that_was_there_before_still_gets_what_is_not_ours")
    else {
        let entry: extern "C" fn(libc::c_int) = leave;
        // SAFETY: a handler of the right type.
        unsafe { libc::signal(libc::SIGBUS, entry as libc::sighandler_t) };
        let (memory, fd) = guest(&[(0, PAGE)]);
        ftruncate(&fd, 0).unwrap();
        memory.read(locate(&memory, 0, 1).unwrap(), &mut [0]);
        assert!(memory.faulted());
        // SAFETY: raises a signal in this thread.
        unsafe { libc::raise(libc::SIGBUS) };
        panic!("still here");
    };
    assert_eq!(status.code(), Some(33), "{status}");
}

#[test]
fn p_13_a_host_that_refuses_as_many_zero_pages_gets_by_with_fewer() {
    let Some(status) =
        in_a_process("p_13_a_host_that_refuses_as_many_zero_pages_gets_by_with_fewer")
    else {
        use rustix::process::{Resource, Rlimit, setrlimit};
        let (memory, fd) = guest(&[(0, 64 << 20)]);
        let own = std::fs::read_to_string("/proc/self/status").unwrap();
        let data = own
            .lines()
            .find_map(|line| line.strip_prefix("VmData:"))
            .unwrap();
        let data: u64 = data.trim().trim_end_matches(" kB").parse().unwrap();
        // Room for a few blocks of 2 MiB and not for the region.
        let limit = Some((data << 10) + (16 << 20));
        let limit = Rlimit {
            current: limit,
            maximum: limit,
        };
        setrlimit(Resource::Data, limit).unwrap();
        ftruncate(&fd, 0).unwrap();
        for place in [0, (4 << 20) - 8, 32 << 20, (64 << 20) - 16] {
            let mut seen = [1; 16];
            memory.read(locate(&memory, place, 16).unwrap(), &mut seen);
            assert_eq!(seen, [0; 16]);
        }
        assert_eq!(memory.fault().cause(), Some(FaultCause::MemoryLost));
        return;
    };
    assert!(status.success(), "{status}");
}

/// To take away all that is mapped of a large guest takes a second, and it is a worker that would wait for it.
#[test]
fn p_13_a_page_that_is_lost_takes_little_of_its_region_with_it() {
    const SIZE: u64 = 64 << 20;
    let (memory, fd) = guest(&[(0, SIZE)]);
    let places = [0, SIZE / 2, SIZE - (2 << 20)];
    for place in places {
        memory.write(locate(&memory, place, 8).unwrap(), b"my bytes");
    }
    ftruncate(&fd, SIZE - PAGE).unwrap();
    let mut seen = [1; 16];
    memory.read(locate(&memory, SIZE - 16, 16).unwrap(), &mut seen);
    assert_eq!((seen, memory.faulted()), ([0; 16], true));
    for place in places {
        let mut seen = [0; 8];
        memory.read(locate(&memory, place, 8).unwrap(), &mut seen);
        assert_eq!(&seen, b"my bytes", "{place:#x}");
    }
    // And all the rest of it, one after the other.
    ftruncate(&fd, 0).unwrap();
    for place in places {
        let mut seen = [1; 8];
        memory.read(locate(&memory, place, 8).unwrap(), &mut seen);
        assert_eq!(seen, [0; 8], "{place:#x}");
    }
}

#[test]
fn p_14_regions_lost_in_many_threads_harm_nobody_else() {
    let (victim, _fd) = guest(&[(0, 4 * PAGE)]);
    let whole = locate(&victim, 0, 4 * PAGE as u32).unwrap();
    let pattern: Vec<u8> = (0..4 * PAGE).map(|i| (i % 251) as u8).collect();
    victim.write(whole, &pattern);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for round in 0..500u64 {
                    let (hostile, fd) = guest(&[(0, 4 * PAGE), (8 * PAGE, PAGE)]);
                    // Lost before, after or between the copies of this round.
                    let source = locate(&hostile, 0, 4 * PAGE as u32).unwrap();
                    let target = locate(&hostile, 8 * PAGE, PAGE as u32).unwrap();
                    let cut = || ftruncate(&fd, round % 5 * PAGE).unwrap();
                    if round % 2 == 0 {
                        cut();
                    }
                    let truncating = scope.spawn({
                        let fd = fd.try_clone().unwrap();
                        move || ftruncate(&fd, 0).unwrap()
                    });
                    GuestMemory::copy((&victim, whole), (&hostile, source));
                    GuestMemory::copy((&hostile, source), (&hostile, target));
                    truncating.join().unwrap();
                    hostile.write(source, b"one more");
                    assert!(hostile.faulted());
                }
            });
        }
    });
    let mut seen = vec![0; pattern.len()];
    victim.read(whole, &mut seen);
    assert_eq!(seen, pattern);
    assert!(!victim.faulted());
}

#[test]
fn p_14_zeros_of_a_lost_region_are_never_seen_without_the_flag() {
    for _ in 0..300 {
        let (memory, fd) = guest(&[(0, 2 * PAGE)]);
        let whole = locate(&memory, 0, 2 * PAGE as u32).unwrap();
        memory.write(whole, &[7; 2 * PAGE as usize]);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut seen = [0; 64];
                    loop {
                        memory.read(locate(&memory, PAGE - 32, 64).unwrap(), &mut seen);
                        if seen != [7; 64] {
                            break;
                        }
                    }
                    assert!(memory.faulted(), "zeros and no flag");
                });
            }
            ftruncate(&fd, 0).unwrap();
        });
    }
}

#[test]
fn p_15_a_punched_hole_reads_as_zeros_and_is_no_fault() {
    use rustix::fs::{FallocateFlags, fallocate};
    let (memory, fd) = guest(&[(0, 4 * PAGE)]);
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK).unwrap();
    let extent = locate(&memory, PAGE, 32).unwrap();
    memory.write(extent, &[8; 32]);
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&fd, hole, PAGE, PAGE).unwrap();
    let mut seen = [1; 32];
    memory.read(extent, &mut seen);
    assert_eq!(seen, [0; 32]);
    memory.write(extent, &[9; 32]);
    memory.read(extent, &mut seen);
    assert_eq!(seen, [9; 32]);
    assert!(!memory.faulted());
}

#[test]
fn p_16_a_huge_page_that_is_not_to_be_had_is_a_lost_region() {
    let huge = 2 << 20;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
    let Ok(fd) = memfd_create("huge", flags) else {
        eprintln!("this kernel has no huge pages of 2 MiB: nothing to lose");
        return;
    };
    // More than this machine can have: the pool runs dry at the latest after its last page.
    let setting = |name| {
        let value = std::fs::read_to_string(format!("/proc/sys/vm/{name}")).unwrap();
        value.trim().parse::<u64>().unwrap()
    };
    let pages = setting("nr_hugepages") + setting("nr_overcommit_hugepages") + 1;
    if pages > 9 {
        eprintln!("the huge pages of this machine may be in use: not exhausted for a test");
        return;
    }
    ftruncate(&fd, pages * huge).unwrap();
    let fault = FaultFlag::new();
    // Not at a boundary of a huge page, in the file and in length, as QEMU's first region is.
    let region = spec(PAGE, pages * huge - 2 * PAGE, PAGE);
    let region = map(&fd, region, &fault).unwrap();
    let memory = GuestMemory::new(vec![region], fault, Limits::default()).unwrap();
    for page in 0..pages {
        let addr = (page * huge).max(PAGE);
        memory.write(locate(&memory, addr, 4).unwrap(), b"here");
    }
    assert_eq!(memory.fault().cause(), Some(FaultCause::MemoryLost));
}

/// Pages of the pool are charged to nobody: they do not count against a control group's bound.
#[test]
fn f_10_huge_pages_are_mapped_and_not_chargeable() {
    let name = "f_10_huge_pages_are_mapped_and_not_chargeable";
    let Some(status) = in_a_process(name) else {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
        let Ok(huge) = memfd_create("huge", flags) else {
            eprintln!("this kernel has no huge pages of 2 MiB: not tried");
            return;
        };
        ftruncate(&huge, 2 << 20).unwrap();
        let fault = FaultFlag::new();
        let pooled = map(&huge, spec(0, 2 << 20, 0), &fault).unwrap();
        assert_eq!((mapped_bytes(), chargeable_bytes()), (2 << 20, 0));
        let plain = map(&memfd(PAGE), spec(0, PAGE, 0), &fault).unwrap();
        assert_eq!(
            (mapped_bytes(), chargeable_bytes()),
            ((2 << 20) + PAGE, PAGE)
        );
        drop((pooled, plain));
        assert_eq!((mapped_bytes(), chargeable_bytes()), (0, 0));
        return;
    };
    assert!(status.success(), "{status}");
}

#[test]
fn p_17_files_of_other_file_systems_are_refused() {
    for path in [
        "/proc/self/status",
        "/proc/self/mem",
        "/sys/kernel/mm",
        "/dev/zero",
    ] {
        let fd: OwnedFd = File::open(path).unwrap().into();
        let refused = map(&fd, spec(0, PAGE, 0), &FaultFlag::new());
        assert!(
            matches!(refused, Err(MapError::NotMemory { .. })),
            "{path}: {refused:?}"
        );
    }
}

#[test]
fn p_17_a_file_system_that_never_answers_is_refused_without_asking_it() {
    let Some(silent) = Silent::new() else {
        eprintln!("no FUSE without privilege here: not tried");
        return;
    };
    let refused = silent.give(|file| {
        let asked = silent.asked();
        let owned = file.try_clone_to_owned().unwrap();
        let refused = map(&owned, spec(0, PAGE, 0), &FaultFlag::new());
        assert_eq!(silent.asked(), asked, "the file's server was asked");
        refused
    });
    assert!(
        matches!(refused, Err(MapError::NotMemory { .. })),
        "{refused:?}"
    );
}

#[test]
fn p_18_regions_that_overlap_wrap_or_hog_are_refused() {
    let limits = Limits {
        regions: 3,
        bytes: 16 * PAGE,
    };
    let at = |guest_addr, user_addr, pages| RegionSpec {
        guest_addr,
        size: pages * PAGE,
        user_addr,
        file_offset: 0,
    };
    let check = |specs: &[RegionSpec]| limits.check(specs);

    assert!(check(&[]).is_ok());
    assert!(check(&[at(0, 0, 1), at(PAGE, PAGE, 1), at(2 * PAGE, 2 * PAGE, 1)]).is_ok());
    let four: Vec<_> = (0..4).map(|i| at(i * PAGE, i * PAGE, 1)).collect();
    assert!(matches!(
        check(&four),
        Err(TableError::TooManyRegions {
            regions: 4,
            limit: 3
        })
    ));

    let identical = at(0, 0, 2);
    assert!(matches!(
        check(&[identical, identical]),
        Err(TableError::GuestOverlap { .. })
    ));
    let guests = [at(8 * PAGE, 0, 1), at(0, 0x100_0000, 9)];
    assert!(matches!(
        check(&guests),
        Err(TableError::GuestOverlap { .. })
    ));
    let users = [at(0, 8 * PAGE, 1), at(0x100_0000, 0, 9)];
    assert!(matches!(check(&users), Err(TableError::UserOverlap { .. })));

    assert!(matches!(
        check(&[at(0, 0, 17)]),
        Err(TableError::TooManyBytes { .. })
    ));
    // 8 EiB of a sparse file.
    assert!(matches!(
        check(&[at(0, 0, 1 << 51)]),
        Err(TableError::TooManyBytes { .. })
    ));
    let half = at(0, 0, 1 << 50);
    let sum = [
        half,
        at(1 << 62, 1 << 62, 1 << 50),
        at(1 << 63, 1 << 63, 1 << 50),
    ];
    assert!(matches!(check(&sum), Err(TableError::TooManyBytes { .. })));

    let top = u64::MAX - PAGE + 1;
    let mut wrapping = [at(top, 0, 1), at(0, top, 1), at(0, 0, 1)];
    wrapping[2].file_offset = top;
    for spec in wrapping {
        let refused = check(&[spec]);
        assert!(
            matches!(refused, Err(TableError::Region(MapError::Wraps { .. }))),
            "{refused:?}"
        );
    }
    let empty = check(&[at(0, 0, 0)]);
    assert!(matches!(
        empty,
        Err(TableError::Region(MapError::Empty { .. }))
    ));
    for field in 0..3 {
        let mut odd = at(0, 0, 1);
        *[&mut odd.guest_addr, &mut odd.size, &mut odd.file_offset][field] += 512;
        let refused = check(&[odd]);
        assert!(matches!(
            refused,
            Err(TableError::Region(MapError::Unaligned { .. }))
        ));
    }
}

#[test]
fn p_18_a_sparse_file_of_8_eib_takes_no_address_space() {
    let fault = FaultFlag::new();
    let fd = memfd(i64::MAX as u64 / PAGE * PAGE);
    for size in [1 << 62, 64 << 40, 97 << 40] {
        // Two of 64 TiB do not fit into the share of all ports; one alone might.
        let first = map(&fd, spec(0, size, 0), &fault);
        let second = map(&fd, spec(0, size, 0), &fault);
        assert!(second.is_err(), "{size:#x}");
        drop(first);
    }
    assert!(map(&fd, spec(0, PAGE, 0), &fault).is_ok());
}

#[test]
fn p_19_regions_come_and_go_without_a_trace() {
    let Some(status) = in_a_process("p_19_regions_come_and_go_without_a_trace") else {
        let fd = memfd(64 * PAGE);
        let fault = FaultFlag::new();
        let place = |i: u64| spec(i * 2 * PAGE, PAGE, i % 64 * PAGE);
        let mut memory = GuestMemory::new(Vec::new(), fault.clone(), Limits::default()).unwrap();
        let before = mappings();
        for _ in 0..20 {
            for i in 0..Limits::default().regions as u64 {
                memory = memory
                    .with_region(map(&fd, place(i), &fault).unwrap())
                    .unwrap();
            }
            assert_eq!(mapped_bytes(), memory.bytes());
            assert_eq!(chargeable_bytes(), memory.bytes());
            assert_eq!(memory.bytes(), Limits::default().regions as u64 * PAGE);
            let extra = map(&fd, spec(1 << 40, PAGE, 0), &fault).unwrap();
            assert!(matches!(
                memory.with_region(extra),
                Err(TableError::TooManyRegions { .. })
            ));
            for i in 0..Limits::default().regions as u64 {
                memory = memory.without_region(&place(i)).unwrap();
            }
            assert_eq!((mapped_bytes(), memory.bytes()), (0, 0));
            assert_eq!(chargeable_bytes(), 0);
        }
        // The allocator may have taken a mapping or two of its own.
        assert!(
            mappings() <= before + 4,
            "{before} mappings before, {} now",
            mappings()
        );
        return;
    };
    assert!(status.success(), "{status}");
}

/// What takes more than one call to unmap.
#[test]
fn p_17_a_large_region_is_unmapped_piece_by_piece() {
    let fault = FaultFlag::new();
    let size = (3 << 28) + PAGE;
    let fd = memfd(size);
    let before = mappings();
    let region = map(&fd, spec(0, size, 0), &fault).unwrap();
    let memory = GuestMemory::new(vec![region], fault, Limits::default()).unwrap();
    for addr in [0, 1 << 28, size - 1] {
        memory.write(locate(&memory, addr, 1).unwrap(), &[1]);
    }
    drop(memory);
    assert_eq!(mapped_bytes(), 0);
    let shared = std::fs::read_to_string("/proc/self/maps").unwrap();
    assert!(!shared.contains("memfd:"), "{shared}");
    assert!(mappings() <= before + 4);
}

#[test]
fn p_19_a_region_in_use_stays_mapped_after_it_left_the_table() {
    let (memory, _fd) = guest(&[(0, PAGE), (PAGE, PAGE)]);
    let window = memory.window(PAGE, 64, 2).unwrap();
    window.store_u16(0, 77);
    let removed = *memory.regions()[1].spec();
    for wrong in [
        RegionSpec {
            size: PAGE * 2,
            ..removed
        },
        RegionSpec {
            user_addr: 0,
            ..removed
        },
        RegionSpec {
            guest_addr: 0,
            ..removed
        },
    ] {
        let refused = memory.without_region(&wrong);
        assert!(matches!(refused, Err(TableError::NoSuchRegion { .. })));
    }
    let ignored = RegionSpec {
        file_offset: 0,
        ..removed
    };
    let smaller = memory.without_region(&ignored).unwrap();
    drop(memory);
    assert_eq!(locate(&smaller, PAGE, 1), None);
    assert_eq!(smaller.guest_addr_of_user(removed.user_addr), None);
    assert_eq!(window.load_u16(0), 77);
}

#[test]
fn p_18_guests_cannot_use_up_the_mappings_of_the_process() {
    assert_eq!(fault::capacity_for("65530\n"), 61_434);
    assert_eq!(fault::capacity_for("100"), 0);
    assert_eq!(fault::capacity_for("2147483647"), 1024 * 512);
    assert_eq!(fault::capacity_for("nonsense"), 61_434);
}

#[test]
fn an_extent_of_another_table_is_contained() {
    let (large, _a) = guest(&[(0, PAGE), (PAGE, 4 * PAGE)]);
    let (small, _b) = guest(&[(0, PAGE)]);
    for extent in [
        locate(&large, 2 * PAGE, 8).unwrap(),
        locate(&large, PAGE, 8).unwrap(),
    ] {
        for case in 0..4 {
            let (small, _fd) = guest(&[(0, PAGE)]);
            match case {
                0 => {
                    let mut seen = [1; 8];
                    small.read(extent, &mut seen);
                    assert_eq!(seen, [0; 8]);
                }
                1 => small.write(extent, &[1; 8]),
                2 => GuestMemory::copy((&large, extent), (&small, extent)),
                _ => GuestMemory::copy((&small, extent), (&large, extent)),
            }
            assert_eq!(
                small.fault().cause(),
                Some(FaultCause::OutOfBounds),
                "{case}"
            );
            assert!(!large.faulted());
        }
        small.prefetch_read(extent);
        small.prefetch_write(extent);
    }
    assert!(!small.faulted());
}

#[test]
fn extents_are_cut_without_leaving_their_bounds() {
    let (memory, _fd) = guest(&[(0, PAGE)]);
    let extent = locate(&memory, 100, 50).unwrap();
    assert_eq!(extent.skip(20).take(10), locate(&memory, 120, 10).unwrap());
    assert_eq!(extent.take(u32::MAX), extent);
    assert!(extent.skip(50).is_empty());
    assert!(extent.skip(u32::MAX).is_empty());
    memory.read(extent.skip(u32::MAX), &mut []);
    assert!(!memory.faulted());
}

#[test]
fn front_end_addresses_are_translated() {
    let (memory, _fd) = guest(&[(0x10_0000, PAGE), (0x5000, PAGE)]);
    let user = 0x7f00_0000_0000u64;
    assert_eq!(memory.guest_addr_of_user(user + 0x5000), Some(0x5000));
    assert_eq!(memory.guest_addr_of_user(user + 0x5fff), Some(0x5fff));
    assert_eq!(memory.guest_addr_of_user(user + 0x10_0010), Some(0x10_0010));
    for absent in [0, user, user + 0x4fff, user + 0x6000, u64::MAX] {
        assert_eq!(memory.guest_addr_of_user(absent), None);
    }
}

#[test]
fn windows_refuse_every_access_that_is_not_inside() {
    let accesses: [fn(&Window); 9] = [
        |window| assert_eq!(window.load_u16(31), 0),
        |window| assert_eq!(window.load_u16(32), 0),
        |window| assert_eq!(window.load_u16(1), 0),
        |window| assert_eq!(window.load_u16_relaxed(usize::MAX), 0),
        |window| window.store_u16(usize::MAX - 1, 1),
        |window| assert_eq!(window.read::<16>(17), [0; 16]),
        |window| window.write(30, &[1; 3]),
        |window| window.store_u16(3, 1),
        |window| {
            let mut into = [1; 33];
            window.read_into(0, &mut into);
            assert_eq!(into, [0; 33]);
        },
    ];
    for access in accesses {
        let (memory, _fd) = guest(&[(0, PAGE)]);
        memory.write(locate(&memory, 0, 64).unwrap(), &[0x55; 64]);
        let window = memory.window(0, 32, 16).unwrap();
        access(&window);
        assert_eq!(memory.fault().cause(), Some(FaultCause::OutOfBounds));
        let mut seen = [0; 64];
        memory.read(locate(&memory, 0, 64).unwrap(), &mut seen);
        assert_eq!(seen, [0x55; 64]);
    }
}

#[test]
fn what_was_written_before_an_index_is_seen_after_it() {
    let (memory, _fd) = guest(&[(0, PAGE)]);
    let window = memory.window(0, PAGE as usize, 16).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for turn in 1..=u16::MAX {
                // Each slot is written once in the time the reader may look at it.
                window.write(
                    16 + usize::from(turn % 128) * 16,
                    &[turn.to_le_bytes(); 8].concat(),
                );
                window.store_u16(0, turn);
                while window.load_u16(2) != turn {
                    std::thread::yield_now();
                }
            }
        });
        for turn in 1..=u16::MAX {
            while window.load_u16(0) != turn {
                std::thread::yield_now();
            }
            let slot: [u8; 16] = window.read(16 + usize::from(turn % 128) * 16);
            assert_eq!(slot[..], [turn.to_le_bytes(); 8].concat());
            window.store_u16(2, turn);
        }
    });
}

#[test]
fn p_25_a_call_whose_peer_went_away_still_rings() {
    let fd = eventfd(0, EventfdFlags::empty()).unwrap();
    let peer = fd.try_clone().unwrap();
    let call = Call::new(fd).unwrap();
    call.ring().unwrap();
    let mut counter = [0; 8];
    rustix::io::read(&peer, &mut counter).unwrap();
    assert_eq!(u64::from_ne_bytes(counter), 1);
    drop(peer);
    call.ring().unwrap();
}

#[test]
fn p_25_the_metronome_reaches_a_thread_that_blocks_all_signals() {
    let fd = eventfd(0, EventfdFlags::empty()).unwrap();
    rustix::io::write(&fd, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    let call = Call::new(fd).unwrap();
    rustix::fs::fcntl_setfl(&call, rustix::fs::OFlags::empty()).unwrap();
    let blocked = std::thread::spawn(move || {
        let mut all = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
        // SAFETY: fills a set of this type.
        unsafe { libc::sigfillset(all.as_mut_ptr()) };
        // SAFETY: filled above; a null pointer for the old mask is allowed.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), std::ptr::null_mut()) };
        let metronome = Metronome::new().unwrap();
        metronome.start();
        // More than once: it goes on ticking.
        (0..3).all(|_| matches!(call.ring(), Err(CallError::Blocked)))
    });
    assert!(blocked.join().unwrap());
}

/// Returns at all: without the tick the close takes the hour.
#[test]
fn p_7_the_metronome_ends_a_close_that_lingers() {
    use std::io::Write;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (_never_read, _) = listener.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    while stream.write(&[0; 4096]).is_ok() {}
    let hour = std::time::Duration::from_secs(3600);
    rustix::net::sockopt::set_socket_linger(&stream, Some(hour)).unwrap();
    let metronome = Metronome::new().unwrap();
    metronome.start();
    drop(stream);
    metronome.stop();
}

#[test]
fn p_26_a_kick_drained_by_its_peer_does_not_wait() {
    let fd = eventfd(0, EventfdFlags::empty()).unwrap();
    let peer = fd.try_clone().unwrap();
    let kick = Kick::new(fd).unwrap();
    for _ in 0..1000 {
        rustix::io::write(&peer, &1u64.to_ne_bytes()).unwrap();
        let mut counter = [0; 8];
        rustix::io::read(&peer, &mut counter).unwrap();
        assert!(!kick.drain());
    }
    rustix::io::write(&peer, &7u64.to_ne_bytes()).unwrap();
    assert!(kick.drain());
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    /// Pages of a small guest: which are there, and which begin a new region though the one before is there.
    fn layout() -> impl Strategy<Value = Vec<(bool, bool)>> {
        prop::collection::vec((prop::bool::weighted(0.8), any::<bool>()), 1..12)
    }

    fn regions(layout: &[(bool, bool)]) -> Vec<(u64, u64)> {
        let mut places: Vec<(u64, u64)> = Vec::new();
        for (page, (there, begins)) in layout.iter().enumerate() {
            let addr = page as u64 * PAGE;
            match places.last_mut() {
                _ if !there => {}
                Some((start, size)) if *start + *size == addr && !begins => *size += PAGE,
                _ => places.push((addr, PAGE)),
            }
        }
        places
    }

    /// All of `addr..addr + len` that is there before the first hole, as extents.
    fn walk(
        memory: &GuestMemory,
        mut addr: u64,
        mut len: u32,
        hint: &mut RegionHint,
    ) -> Vec<Extent> {
        let mut extents = Vec::new();
        while len > 0
            && let Some(extent) = memory.locate(addr, len, hint)
        {
            assert!(!extent.is_empty() && extent.len() <= len);
            addr += u64::from(extent.len());
            len -= extent.len();
            extents.push(extent);
        }
        extents
    }

    proptest! {
        #[test]
        fn q_6_memory_behaves_as_a_plain_array_with_holes(
            layout in layout(),
            writes in prop::collection::vec((0..13 * PAGE, 0..9000u32, any::<u8>()), 1..20),
        ) {
            let (memory, _fd) = guest(&regions(&layout));
            let mut model = vec![None; 13 * PAGE as usize + 9000];
            for (page, (there, _)) in layout.iter().enumerate() {
                if *there {
                    model[page * PAGE as usize..][..PAGE as usize].fill(Some(0));
                }
            }
            let mut hint = RegionHint::default();
            for (addr, len, value) in writes {
                let range = &mut model[addr as usize..][..len as usize];
                let there = range.iter().take_while(|byte| byte.is_some()).count();
                range[..there].fill(Some(value));
                let extents = walk(&memory, addr, len, &mut hint);
                let found: u32 = extents.iter().map(Extent::len).sum();
                prop_assert_eq!(found as usize, there);
                for extent in extents {
                    memory.write(extent, &vec![value; extent.len() as usize]);
                }
            }
            for (page, (there, _)) in layout.iter().enumerate() {
                let mut seen = vec![0; PAGE as usize];
                let extents = walk(&memory, page as u64 * PAGE, PAGE as u32, &mut hint);
                prop_assert_eq!(!extents.is_empty(), *there);
                for extent in extents {
                    memory.read(extent, &mut seen);
                    let seen: Vec<_> = seen.iter().copied().map(Some).collect();
                    prop_assert_eq!(&seen[..], &model[page * PAGE as usize..][..PAGE as usize]);
                }
            }
            prop_assert!(!memory.faulted());
        }

        #[test]
        fn p_18_a_table_that_passes_has_no_two_regions_in_one_place(
            specs in prop::collection::vec((spread(), spread(), spread(), spread()), 0..6),
        ) {
            let specs: Vec<RegionSpec> = specs
                .into_iter()
                .map(|(guest_addr, size, user_addr, file_offset)| RegionSpec {
                    guest_addr, size, user_addr, file_offset,
                })
                .collect();
            let limits = Limits { regions: 5, bytes: u64::MAX };
            if limits.check(&specs).is_ok() {
                prop_assert!(specs.len() <= 5);
                for (i, a) in specs.iter().enumerate() {
                    prop_assert!(a.size > 0);
                    for b in &specs[..i] {
                        let apart = |a: u64, a_size: u64, b: u64, b_size: u64| {
                            a.checked_add(a_size).unwrap() <= b || b.checked_add(b_size).unwrap() <= a
                        };
                        prop_assert!(apart(a.guest_addr, a.size, b.guest_addr, b.size));
                        prop_assert!(apart(a.user_addr, a.size, b.user_addr, b.size));
                    }
                }
            }
        }
    }

    /// Numbers that meet: small multiples of the page, and the two ends.
    fn spread() -> impl Strategy<Value = u64> {
        prop_oneof![
            8 => (0..24u64).prop_map(|pages| pages * PAGE),
            1 => (0..4u64).prop_map(|pages| 0u64.wrapping_sub(pages * PAGE)),
            1 => any::<u64>(),
        ]
    }
}
