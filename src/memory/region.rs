//! One mapping of guest memory.
//!
//! The file is judged before it is mapped. `F_GET_SEALS` comes first: it succeeds only for memfd, tmpfs
//! and hugetlbfs files and never asks a file system server, where fstatfs(2) on a stalled FUSE mount would
//! wait for ever. Everything else is read only from files that passed it.

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FileType, OFlags, SealFlags};
use rustix::mm::{Advice, MapFlags, ProtFlags};

use super::fault::{FaultFlag, Registration, install_fault_handler};

/// Regions start and end at multiples of this many bytes, in the guest and in the file.
const GRAIN: u64 = 4096;

/// Bytes mapped by all ports together, at most. User space has 128 TiB of addresses; a quarter of
/// them stays for everything else.
const MAX_MAPPED: u64 = 96 << 40;

/// "hugetlbfs" as fstatfs(2) reports it.
const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;
/// "tmpfs", which includes memfd.
const TMPFS_MAGIC: u64 = 0x0102_1994;

static MAPPED: AtomicU64 = AtomicU64::new(0);
static CHARGEABLE: AtomicU64 = AtomicU64::new(0);

/// Bytes of guest memory mapped now, by all ports.
#[must_use]
pub fn mapped_bytes() -> u64 {
    MAPPED.load(Ordering::Relaxed)
}

/// Of these, bytes in pages that the kernel charges to the control group of whoever touches them first: all but those of
/// hugetlbfs, which has a pool of its own. Memory that two ports share counts twice.
#[must_use]
pub fn chargeable_bytes() -> u64 {
    CHARGEABLE.load(Ordering::Relaxed)
}

/// A region as the front-end describes it (vhost-user: "Memory region description"). All in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionSpec {
    /// Guest-physical address of the first byte.
    pub guest_addr: u64,
    /// Length.
    pub size: u64,
    /// Address of the first byte in the front-end's own address space; ring addresses are given in it.
    pub user_addr: u64,
    /// Offset of the first byte in the file.
    pub file_offset: u64,
}

impl RegionSpec {
    /// What can be said without looking at the file.
    pub(super) fn check(&self) -> Result<(), MapError> {
        let spec = *self;
        if self.size == 0 {
            return Err(MapError::Empty { spec });
        }
        let grains = [self.guest_addr, self.size, self.file_offset];
        if grains.iter().any(|value| !value.is_multiple_of(GRAIN)) {
            return Err(MapError::Unaligned { spec });
        }
        let starts = [self.guest_addr, self.user_addr, self.file_offset];
        let wraps = |start: &u64| start.checked_add(self.size).is_none();
        if starts.iter().any(wraps) {
            return Err(MapError::Wraps { spec });
        }
        Ok(())
    }

    /// Guest-physical address after the last byte. `check` refused specs where this wraps.
    pub(super) fn guest_end(&self) -> u64 {
        self.guest_addr.saturating_add(self.size)
    }

    /// Front-end address after the last byte. `check` refused specs where this wraps.
    pub(super) fn user_end(&self) -> u64 {
        self.user_addr.saturating_add(self.size)
    }
}

impl std::fmt::Display for RegionSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            guest_addr,
            size,
            user_addr,
            file_offset,
        } = self;
        write!(
            f,
            "region at guest address {guest_addr:#x}, {size:#x} bytes (front-end address {user_addr:#x}, file offset {file_offset:#x})"
        )
    }
}

/// Why a region was not mapped.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// Size 0.
    #[error("{spec}: no bytes in it")]
    Empty {
        /// The region asked for.
        spec: RegionSpec,
    },
    /// Guest address, size or file offset is not a multiple of 4096.
    #[error("{spec}: address, size and offset must be multiples of {GRAIN}")]
    Unaligned {
        /// The region asked for.
        spec: RegionSpec,
    },
    /// One of the three ranges wraps around 2^64.
    #[error("{spec}: wraps around the end of an address space")]
    Wraps {
        /// The region asked for.
        spec: RegionSpec,
    },
    /// The descriptor is not a file of a memory file system.
    #[error(
        "{spec}: not a memfd, tmpfs or hugetlbfs file; share the guest's memory from one of these"
    )]
    NotMemory {
        /// The region asked for.
        spec: RegionSpec,
    },
    /// The descriptor is not open for reading and writing.
    #[error("{spec}: the file is not open for reading and writing")]
    NotWritable {
        /// The region asked for.
        spec: RegionSpec,
    },
    /// The memfd carries F_SEAL_WRITE or F_SEAL_FUTURE_WRITE.
    #[error("{spec}: the memfd is sealed against writing")]
    WriteSealed {
        /// The region asked for.
        spec: RegionSpec,
    },
    /// The file ends before the region does.
    #[error("{spec}: the file has only {file_size:#x} bytes")]
    FileTooShort {
        /// The region asked for.
        spec: RegionSpec,
        /// The size of the file, in bytes.
        file_size: u64,
    },
    /// All ports together would map too much.
    #[error("{spec}: all ports together may map {MAX_MAPPED:#x} bytes")]
    TooMuch {
        /// The region asked for.
        spec: RegionSpec,
    },
    /// All ports together have too many regions.
    #[error("{spec}: all ports together have too many regions; raise vm.max_map_count")]
    TooMany {
        /// The region asked for.
        spec: RegionSpec,
    },
    /// The kernel refused.
    #[error("{spec}: {call}: {source}")]
    System {
        /// The region asked for.
        spec: RegionSpec,
        /// The system call.
        call: &'static str,
        /// Its error.
        source: io::Error,
    },
}

/// A share of `MAPPED` and `CHARGEABLE`, given back when dropped.
#[derive(Debug)]
struct Share {
    mapped: u64,
    chargeable: u64,
}

impl Share {
    fn take(bytes: u64, is_pooled: bool) -> Option<Self> {
        let taken = MAPPED.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |mapped| {
            mapped.checked_add(bytes).filter(|sum| *sum <= MAX_MAPPED)
        });
        taken.ok()?;
        let chargeable = if is_pooled { 0 } else { bytes };
        // No more than MAPPED, and so without wrapping.
        CHARGEABLE.fetch_add(chargeable, Ordering::Relaxed);
        Some(Self {
            mapped: bytes,
            chargeable,
        })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        CHARGEABLE.fetch_sub(self.chargeable, Ordering::Relaxed);
        MAPPED.fetch_sub(self.mapped, Ordering::Relaxed);
    }
}

/// An mmap(2)ed range, unmapped when dropped.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: it only owns an address range; the range belongs to the process, not to a thread.
unsafe impl Send for Mapping {}
// SAFETY: through a shared reference it gives out its numbers and nothing else.
unsafe impl Sync for Mapping {}

/// Bytes that are unmapped in one call. The kernel holds the lock of the address space meanwhile, and whoever else maps or
/// unmaps waits for it: a millisecond or a few for a piece of small pages, and seconds for a whole large guest.
const PIECE: usize = 256 << 20;

impl Drop for Mapping {
    fn drop(&mut self) {
        let (mut start, mut left) = (self.start.as_ptr(), self.len);
        while left > PIECE {
            // SAFETY: the first bytes of what is left of the range that mmap returned. This object alone owns it, every
            // pointer into it is borrowed from the `Region` around it, and what is unmapped is not touched again.
            if unsafe { rustix::mm::munmap(start.cast(), PIECE) }.is_err() {
                break; // huge pages larger than a piece: they go all at once, and fast
            }
            start = start.wrapping_add(PIECE);
            left = left.wrapping_sub(PIECE);
        }
        // SAFETY: as above, all that is left.
        let unmapped = unsafe { rustix::mm::munmap(start.cast(), left) };
        debug_assert!(unmapped.is_ok(), "munmap of a whole mapping cannot fail");
    }
}

/// One mapped region; immutable, unmapped when the last `Arc` goes.
#[derive(Debug)]
pub struct Region {
    spec: RegionSpec,
    base: NonNull<u8>,
    // The order matters: fields are dropped from the first to the last, and the fault handler must
    // have forgotten the range before it is unmapped and may be given to somebody else.
    _registration: Registration,
    _mapping: Mapping,
    _share: Share,
}

// SAFETY: `base` points into `_mapping`, which belongs to the process. What may be done with the
// pointer from several threads is said where it is used (`GuestMemory::slice`).
unsafe impl Send for Region {}
// SAFETY: as above; nothing in it changes after construction.
unsafe impl Sync for Region {}

impl Region {
    /// Maps `spec` of the file `fd`, which may be closed afterwards. `fault` is raised when the file
    /// later fails to supply a page.
    ///
    /// # Errors
    ///
    /// [`MapError`] says which check failed. Nothing stays mapped then.
    pub fn map(
        fd: BorrowedFd<'_>,
        spec: RegionSpec,
        fault: &FaultFlag,
    ) -> Result<Arc<Self>, MapError> {
        spec.check()?;
        let Pages { page, is_pooled } = judge_file(fd, spec)?;
        // Huge pages are mapped whole: the mapping may start before the region and end after it.
        let lead = spec.file_offset & page.wrapping_sub(1);
        let offset = spec.file_offset.wrapping_sub(lead);
        let wraps = || MapError::Wraps { spec };
        let bytes = spec.size.checked_add(lead).ok_or_else(wraps)?;
        let bytes = bytes.checked_next_multiple_of(page).ok_or_else(wraps)?;
        let share = Share::take(bytes, is_pooled).ok_or(MapError::TooMuch { spec })?;
        let len = usize::try_from(bytes).map_err(|_| MapError::TooMuch { spec })?;
        let lead = usize::try_from(lead).map_err(|_| MapError::TooMuch { spec })?;

        install_fault_handler();
        let mapping = map_file(fd, offset, len, spec)?;
        // SAFETY: lead < page <= len, so the sum stays inside the mapping.
        let base = unsafe { mapping.start.add(lead) };
        let registration = Registration::enter(mapping.start, mapping.len, fault)
            .ok_or(MapError::TooMany { spec })?;
        Ok(Arc::new(Self {
            spec,
            base,
            _registration: registration,
            _mapping: mapping,
            _share: share,
        }))
    }

    /// What the front-end asked for.
    #[must_use]
    pub fn spec(&self) -> &RegionSpec {
        &self.spec
    }

    /// Host address of the first byte; `spec.size` bytes from here are mapped as long as `self` lives.
    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }
}

/// Of what a file is made.
struct Pages {
    /// The size of one in bytes, a power of two.
    page: u64,
    /// They come from the pool of hugetlbfs.
    is_pooled: bool,
}

/// Checks type, mode, seals and size of the file.
fn judge_file(fd: BorrowedFd<'_>, spec: RegionSpec) -> Result<Pages, MapError> {
    let system = |call: &'static str| {
        move |errno: rustix::io::Errno| MapError::System {
            spec,
            call,
            source: errno.into(),
        }
    };
    let Ok(seals) = rustix::fs::fcntl_get_seals(fd) else {
        return Err(MapError::NotMemory { spec });
    };
    let stat = rustix::fs::fstat(fd).map_err(system("fstat"))?;
    let statfs = rustix::fs::fstatfs(fd).map_err(system("fstatfs"))?;
    let magic = u64::try_from(statfs.f_type).unwrap_or(0);
    let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    if !regular || !(magic == TMPFS_MAGIC || magic == HUGETLBFS_MAGIC) {
        return Err(MapError::NotMemory { spec });
    }
    let flags = rustix::fs::fcntl_getfl(fd).map_err(system("fcntl"))?;
    if flags & OFlags::ACCMODE != OFlags::RDWR {
        return Err(MapError::NotWritable { spec });
    }
    if seals.intersects(SealFlags::WRITE | SealFlags::FUTURE_WRITE) {
        return Err(MapError::WriteSealed { spec });
    }
    let file_size = u64::try_from(stat.st_size).unwrap_or(0);
    // `check` made sure that the sum does not wrap.
    if file_size < spec.file_offset.saturating_add(spec.size) {
        return Err(MapError::FileTooShort { spec, file_size });
    }
    // Both file systems report their page size as the block size.
    let page = u64::try_from(statfs.f_bsize).unwrap_or(0);
    if page < GRAIN || !page.is_power_of_two() {
        return Err(MapError::NotMemory { spec });
    }
    let is_pooled = magic == HUGETLBFS_MAGIC;
    Ok(Pages { page, is_pooled })
}

fn map_file(
    fd: BorrowedFd<'_>,
    offset: u64,
    len: usize,
    spec: RegionSpec,
) -> Result<Mapping, MapError> {
    let system = |call| {
        move |errno: rustix::io::Errno| MapError::System {
            spec,
            call,
            source: errno.into(),
        }
    };
    // SAFETY: a null hint lets the kernel choose a free range, so no existing mapping is touched. The
    // memory is shared with a peer that writes at will; it is only ever accessed through volatile slices,
    // atomics and copies, never through a reference to plain bytes.
    let start = unsafe {
        rustix::mm::mmap(
            std::ptr::null_mut(),
            len,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED | MapFlags::NORESERVE,
            fd,
            offset,
        )
    }
    .map_err(system("mmap"))?;
    let start = NonNull::new(start.cast::<u8>()).ok_or(MapError::NotMemory { spec })?;
    let mapping = Mapping { start, len };
    // Guests' memory does not belong into a core dump of the switch.
    // SAFETY: advice about a range that `mapping` owns; DONTDUMP does not change its contents.
    unsafe { rustix::mm::madvise(start.as_ptr().cast(), len, Advice::LinuxDontDump) }
        .map_err(system("madvise"))?;
    Ok(mapping)
}
