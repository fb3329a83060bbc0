//! Guest mappings, and the only unsafe code of the house.
//!
//! Everything above this room sees guest memory through four types, and none of them can reach a byte
//! that the front-end did not give:
//!
//! - [`Region`]: one mapping of one file, checked before it is mapped, unmapped when the last user goes.
//! - [`GuestMemory`]: an immutable table of regions. It turns guest-physical addresses into [`Extent`]s
//!   and copies in, out and across.
//! - [`Window`]: a part of one region that holds a ring structure, with ordered 16-bit loads and stores.
//! - [`Kick`] and [`Call`]: the two directions of an eventfd that the peer holds too.
//!
//! # What is promised
//!
//! - No function here panics, waits for a peer, or trusts a number that a guest or a front-end wrote.
//!   An access out of bounds reads zeros and writes nothing.
//! - Guest memory is never seen as `&[u8]`. It is copied, once, into private bytes, or loaded as an
//!   atomic. A guest that writes meanwhile changes what is copied, never what was checked.
//! - A file that shrinks under its mapping (SIGBUS) costs its owner the connection and nobody else
//!   anything: the handler raises the connection's [`FaultFlag`] and puts zero pages in place of
//!   what is gone ([`install_fault_handler`]).
//! - Every write to guest memory goes through one private function, `GuestMemory::mutate`, which is
//!   where dirty pages will be marked for live migration.
//!
//! # What comes from where
//!
//! Volatile slices (bounds, atomics) are `vm-memory`'s. Its mappings and its
//! `GuestMemoryMmap` are not used: the fault handler must know a range from before its first use until
//! it is unmapped, and may replace what is mapped there; the file of each region would stay open; and
//! lookup on the path wants a hint instead of a search for each descriptor. Copies are libc's
//! memcpy and memmove, which measure as fast as anything wider, called without a detour, and a few
//! moves in place for small frames.
#![allow(unsafe_code)]

mod copy;
mod doorbell;
mod extent;
mod fault;
mod metronome;
mod near;
mod region;
mod table;
mod window;

#[cfg(test)]
mod tests;

pub use doorbell::{Call, CallError, DoorbellError, Kick, judge_eventfd};
pub use extent::{Extent, RegionHint};
pub use fault::{FaultCause, FaultFlag, install_fault_handler};
pub use metronome::Metronome;
pub use near::Near;
pub use region::{MapError, Region, RegionSpec, chargeable_bytes, mapped_bytes};
pub use table::{GuestMemory, Limits, TableError};
pub use window::{Window, WindowError};
