//! The guest's memory: files, mapped here and passed to the back-end by their descriptors.
//!
//! A [`Memory`] is a list of regions. Each has a guest-physical address, the address that the front-end
//! pretends to have mapped it at (the "user address" of the protocol), and a place in one of the backing
//! files. Two regions may share a file, lie next to each other or far apart; nothing is checked that a
//! hostile front-end could get wrong on purpose, except that our own mapping must exist.

use std::{
    fs::{File, OpenOptions},
    os::fd::{AsFd, BorrowedFd},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use vm_memory::{AtomicAccess, Bytes, FileOffset, MmapRegion, VolatileMemory, VolatileSlice};

use super::{Error, Result, wire::RegionEntry};

/// What kind of file holds the memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Backing {
    /// A memfd that can be sealed; the default.
    #[default]
    Memfd,
    /// A memfd that is sealed against shrinking and growing once it has its size.
    SealedMemfd,
    /// A memfd of 2 MiB huge pages (the pool must have them when they are touched).
    HugeMemfd,
    /// An unlinked file in this directory: a tmpfs or a hugetlbfs (HOSTILE P-7, P-16).
    FileIn(PathBuf),
}

/// Where one region lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegionSpec {
    /// Guest-physical address of its first byte.
    pub gpa: u64,
    /// Address by which the front-end names its first byte.
    pub uva: u64,
    /// Its length in bytes.
    pub size: u64,
    /// The number of the backing file; files are made as they are named, from 0 up.
    pub file: usize,
    /// Where it begins in that file.
    pub offset: u64,
}

#[derive(Debug)]
struct Region {
    spec: RegionSpec,
    map: MmapRegion<()>,
}

/// The mapped memory of one guest. Shared by its queues and by hostile threads through an [`Arc`].
#[derive(Debug)]
pub struct Memory {
    files: Vec<Arc<File>>,
    regions: Vec<Region>,
}

impl Memory {
    /// One region of `size` bytes at guest-physical address 0.
    ///
    /// # Errors
    ///
    /// When the memory cannot be made or mapped.
    pub fn flat(size: u64) -> Result<Arc<Self>> {
        Self::new(
            &Backing::Memfd,
            &[RegionSpec {
                gpa: 0,
                uva: DEFAULT_UVA,
                size,
                file: 0,
                offset: 0,
            }],
        )
    }

    /// The regions of `specs`, in the order in which they will be told to the back-end.
    ///
    /// # Errors
    ///
    /// When a file cannot be made or a region cannot be mapped.
    pub fn new(backing: &Backing, specs: &[RegionSpec]) -> Result<Arc<Self>> {
        let count = specs.iter().map(|s| s.file + 1).max().unwrap_or(0);
        let mut files = Vec::with_capacity(count);
        for number in 0..count {
            let size = specs
                .iter()
                .filter(|s| s.file == number)
                .map(|s| s.offset.saturating_add(s.size))
                .max()
                .unwrap_or(0);
            files.push(Arc::new(make_file(backing, size)?));
        }
        let mut regions = Vec::with_capacity(specs.len());
        for spec in specs {
            let at = FileOffset::from_arc(Arc::clone(&files[spec.file]), spec.offset);
            let map = MmapRegion::from_file(at, spec.size as usize)
                .map_err(|e| Error::Misuse(format!("map a region of guest memory: {e}")))?;
            regions.push(Region { spec: *spec, map });
        }
        Ok(Arc::new(Self { files, regions }))
    }

    /// `count` regions of `each` bytes, of one file each, whose guest addresses follow each other with
    /// `gap` bytes between (0: adjacent, so that a buffer may cross from one to the next).
    ///
    /// # Errors
    ///
    /// As [`Memory::new`].
    pub fn pieces(backing: &Backing, count: usize, each: u64, gap: u64) -> Result<Arc<Self>> {
        let specs: Vec<_> = (0..count)
            .map(|i| RegionSpec {
                gpa: i as u64 * (each + gap),
                uva: DEFAULT_UVA + i as u64 * (each + gap) * 2,
                size: each,
                file: i,
                offset: 0,
            })
            .collect();
        Self::new(backing, &specs)
    }

    /// The regions as they were asked for.
    pub fn regions(&self) -> impl ExactSizeIterator<Item = RegionSpec> + '_ {
        self.regions.iter().map(|r| r.spec)
    }

    /// What the protocol says of each region (vhost-user: memory region description).
    #[must_use]
    pub fn table(&self) -> Vec<RegionEntry> {
        self.regions().map(RegionEntry::from).collect()
    }

    /// The descriptor to pass for each region, in the order of [`Memory::table`].
    #[must_use]
    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.regions
            .iter()
            .map(|r| self.files[r.spec.file].as_fd())
            .collect()
    }

    /// Backing file `number`, for tests that truncate it, punch holes into it or seal it.
    #[must_use]
    pub fn file(&self, number: usize) -> &File {
        &self.files[number]
    }

    /// The address by which the front-end names guest-physical `gpa`.
    ///
    /// # Errors
    ///
    /// [`Error::NoRegion`].
    pub fn uva(&self, gpa: u64) -> Result<u64> {
        let region = self.region(gpa, 1)?;
        Ok(region.spec.uva.wrapping_add(gpa - region.spec.gpa))
    }

    #[inline]
    fn region(&self, gpa: u64, len: u64) -> Result<&Region> {
        self.regions
            .iter()
            .find(|r| {
                gpa.checked_sub(r.spec.gpa)
                    .and_then(|at| at.checked_add(len))
                    .is_some_and(|end| end <= r.spec.size)
            })
            .ok_or_else(|| nowhere(gpa, len))
    }

    /// `len` bytes at `gpa`, within one region.
    ///
    /// # Errors
    ///
    /// [`Error::NoRegion`], also when the bytes cross from one region into the next.
    #[inline]
    pub fn slice(&self, gpa: u64, len: u64) -> Result<VolatileSlice<'_>> {
        let region = self.region(gpa, len)?;
        region
            .map
            .get_slice((gpa - region.spec.gpa) as usize, len as usize)
            .map_err(|_| Error::NoRegion { gpa, len })
    }

    /// Writes `bytes` at `gpa`; they may cross adjacent regions.
    ///
    /// # Errors
    ///
    /// [`Error::NoRegion`].
    pub fn write(&self, gpa: u64, bytes: &[u8]) -> Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            let at = gpa.wrapping_add(done as u64);
            let part = self.run(at, (bytes.len() - done) as u64)?;
            self.slice(at, part)?
                .copy_from(&bytes[done..done + part as usize]);
            done += part as usize;
        }
        Ok(())
    }

    /// Fills `into` from `gpa`; the bytes may cross adjacent regions.
    ///
    /// # Errors
    ///
    /// [`Error::NoRegion`].
    pub fn read(&self, gpa: u64, into: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < into.len() {
            let at = gpa.wrapping_add(done as u64);
            let part = self.run(at, (into.len() - done) as u64)?;
            self.slice(at, part)?
                .copy_to(&mut into[done..done + part as usize]);
            done += part as usize;
        }
        Ok(())
    }

    /// `len` bytes at `gpa` as a vector.
    ///
    /// # Errors
    ///
    /// [`Error::NoRegion`].
    pub fn bytes(&self, gpa: u64, len: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.read(gpa, &mut bytes)?;
        Ok(bytes)
    }

    /// How many of `len` bytes at `gpa` lie in its region.
    fn run(&self, gpa: u64, len: u64) -> Result<u64> {
        let region = self.region(gpa, 1)?;
        Ok(len.min(region.spec.size - (gpa - region.spec.gpa)))
    }

    /// Reads one integer atomically.
    ///
    /// # Errors
    ///
    /// [`Error::NoRegion`], also when it is not aligned.
    #[inline]
    pub fn load<T: AtomicAccess>(&self, gpa: u64, order: Ordering) -> Result<T> {
        let len = size_of::<T>() as u64;
        self.slice(gpa, len)?
            .load(0, order)
            .map_err(|_| Error::NoRegion { gpa, len })
    }

    /// Writes one integer atomically.
    ///
    /// # Errors
    ///
    /// [`Error::NoRegion`], also when it is not aligned.
    #[inline]
    pub fn store<T: AtomicAccess>(&self, gpa: u64, value: T, order: Ordering) -> Result<()> {
        let len = size_of::<T>() as u64;
        self.slice(gpa, len)?
            .store(value, 0, order)
            .map_err(|_| Error::NoRegion { gpa, len })
    }

    /// Fills every byte with the repeated `pattern`, by which a leak of this memory is recognised
    /// (HOSTILE E-35). It touches every page.
    pub fn poison(&self, pattern: &[u8]) {
        if pattern.is_empty() {
            return;
        }
        let block: Vec<u8> = pattern
            .iter()
            .copied()
            .cycle()
            .take(pattern.len() * (65_536 / pattern.len()).max(1))
            .collect();
        for region in &self.regions {
            let whole = region.map.as_volatile_slice();
            let mut at = 0;
            while let Ok(rest) = whole.offset(at)
                && !rest.is_empty()
            {
                rest.copy_from(&block);
                at += block.len().min(rest.len());
            }
        }
    }

    /// The first guest-physical address at which `pattern` is found, if any.
    #[must_use]
    pub fn find(&self, pattern: &[u8]) -> Option<u64> {
        self.regions.iter().find_map(|region| {
            let mut copy = vec![0; region.spec.size as usize];
            region.map.as_volatile_slice().copy_to(&mut copy);
            copy.windows(pattern.len())
                .position(|w| w == pattern)
                .map(|at| region.spec.gpa + at as u64)
        })
    }
}

#[cold]
fn nowhere(gpa: u64, len: u64) -> Error {
    Error::NoRegion { gpa, len }
}

/// Far from any guest-physical address, so that a back-end that confuses the two is noticed.
const DEFAULT_UVA: u64 = 0x7e00_0000_0000;

fn make_file(backing: &Backing, size: u64) -> Result<File> {
    let file = match backing {
        Backing::Memfd | Backing::SealedMemfd | Backing::HugeMemfd => {
            let mut flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
            if *backing == Backing::HugeMemfd {
                flags |= MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
            }
            File::from(memfd_create("guest", flags).map_err(|e| Error::io("memfd_create", e))?)
        }
        Backing::FileIn(directory) => {
            static NUMBER: AtomicU32 = AtomicU32::new(0);
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let path = directory.join(format!("guest-{}-{number}", std::process::id()));
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .open(&path)
                .map_err(|e| Error::io("create the file of a guest's memory", e))?;
            std::fs::remove_file(&path)
                .map_err(|e| Error::io("unlink the file of a guest's memory", e))?;
            file
        }
    };
    ftruncate(&file, size).map_err(|e| Error::io("size the guest's memory", e))?;
    if *backing == Backing::SealedMemfd {
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW)
            .map_err(|e| Error::io("seal the guest's memory", e))?;
    }
    Ok(file)
}
