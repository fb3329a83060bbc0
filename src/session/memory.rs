//! The memory that a front-end shares: from its requests to the next table of regions.
//!
//! A table is never changed. Each function makes the next one beside it, with everything checked and mapped,
//! and the caller then swaps: stop the rings, put the new table in place, start them again. A refused
//! request leaves the old table untouched, and whatever was mapped for it is unmapped.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::refusal::Refusal;
use crate::memory::{FaultFlag, GuestMemory, Limits, Region, RegionSpec};

/// The memory of one connection.
#[derive(Debug)]
pub(super) struct Shared {
    table: Option<Arc<GuestMemory>>,
    /// The table before, until somebody takes it away: unmapping may take any time.
    old: Option<Arc<GuestMemory>>,
    fault: FaultFlag,
    limits: Limits,
}

/// A table that is ready to take the old one's place.
#[derive(Debug)]
pub(super) struct Next(Option<Arc<GuestMemory>>);

impl Shared {
    /// Nothing is shared yet.
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            table: None,
            old: None,
            fault: FaultFlag::new(),
            limits,
        }
    }

    /// The table in place. A table without regions is none.
    pub(super) fn table(&self) -> Option<&Arc<GuestMemory>> {
        self.table.as_ref()
    }

    /// Regions that may be shared at most (vhost-user: GET_MAX_MEM_SLOTS).
    pub(super) fn slots(&self) -> u64 {
        u64::try_from(self.limits.regions).unwrap_or(u64::MAX)
    }

    /// A whole new table (vhost-user: SET_MEM_TABLE).
    ///
    /// # Errors
    /// A region that cannot be mapped, or regions that overlap or are too many.
    pub(super) fn replaced(&self, specs: &[RegionSpec], fds: &[OwnedFd]) -> Result<Next, Refusal> {
        self.limits.check(specs)?;
        let mut regions = Vec::with_capacity(specs.len());
        for (spec, fd) in specs.iter().zip(fds) {
            regions.push(Region::map(fd.as_fd(), *spec, &self.fault)?);
        }
        self.next(regions)
    }

    /// One region more (vhost-user: ADD_MEM_REG). None when it is there already: QEMU 7.2 repeats every
    /// region for every queue pair.
    ///
    /// # Errors
    /// The region cannot be mapped, overlaps another, or is one too many.
    pub(super) fn with(&self, spec: RegionSpec, fd: &OwnedFd) -> Result<Option<Next>, Refusal> {
        let mut regions = self.regions().to_vec();
        if regions.iter().any(|region| *region.spec() == spec) {
            return Ok(None);
        }
        self.limits
            .check(regions.iter().map(|region| region.spec()).chain([&spec]))?;
        regions.push(Region::map(fd.as_fd(), spec, &self.fault)?);
        self.next(regions).map(Some)
    }

    /// One region less (vhost-user: REM_MEM_REG), named by guest address, front-end address and size. None when
    /// nothing of it is there: QEMU 7.2 repeats the removal for every queue pair.
    ///
    /// # Errors
    /// A part of a region, or more than one.
    pub(super) fn without(&self, spec: &RegionSpec) -> Result<Option<Next>, Refusal> {
        let mut regions = self.regions().to_vec();
        let before = regions.len();
        regions.retain(|region| {
            let have = region.spec();
            (have.guest_addr, have.user_addr, have.size)
                != (spec.guest_addr, spec.user_addr, spec.size)
        });
        if regions.len() < before {
            return self.next(regions).map(Some);
        }
        let touches = |region: &Arc<Region>| {
            let have = region.spec();
            have.guest_addr < spec.guest_addr.saturating_add(spec.size)
                && spec.guest_addr < have.guest_addr.saturating_add(have.size)
        };
        if regions.iter().any(touches) {
            Err(Refusal::RegionOverlap(spec.guest_addr))
        } else {
            Ok(None)
        }
    }

    /// Puts `next` in place. No ring may run on the old table.
    pub(super) fn install(&mut self, next: Next) {
        self.old = std::mem::replace(&mut self.table, next.0);
    }

    /// The table that lost its place, to be dropped elsewhere.
    pub(super) fn take_old(&mut self) -> Option<Arc<GuestMemory>> {
        self.old.take()
    }

    fn regions(&self) -> &[Arc<Region>] {
        self.table.as_ref().map_or(&[], |table| table.regions())
    }

    fn next(&self, regions: Vec<Arc<Region>>) -> Result<Next, Refusal> {
        if regions.is_empty() {
            return Ok(Next(None));
        }
        Ok(Next(Some(GuestMemory::new(
            regions,
            self.fault.clone(),
            self.limits,
        )?)))
    }
}
