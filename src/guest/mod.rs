//! The other side in software: a front-end with driver-side rings; modern, legacy or hostile.
//!
//! Tests, benches, the demonstration and `portcullis load` stand on this room. It promises them a peer
//! that was written from the specifications alone (VIRTIO 1.2 and the vhost-user protocol text): it
//! imports nothing of the house, and nothing of the house imports it, so that a misreading in `ring` or
//! `session` is not mirrored here.
//!
//! From the bottom up:
//!
//! - [`Memory`] is the guest's memory: regions of memfds or files, mapped, with addresses of our choice.
//! - [`wire`] says anything on a vhost-user socket, well-formed or not, with any descriptors attached.
//! - [`FrontEnd`] says it in the order of a known VMM ([`Script`]).
//! - [`RawRing`] reads and writes every field of a split virtqueue; [`Queue`] is the well-behaved driver
//!   on top of it.
//! - [`Guest`] is the convenient whole: a network card of a guest that sends and receives frames.
//! - [`load`] is the load generator.
//!
//! A guest is trusted by its own test, so that an index out of range here is a failed test and not a
//! security bug: that is why this room may index, where the house may not.
#![allow(
    clippy::indexing_slicing,
    reason = "a panic in the test peer is a failed test; see the module's text"
)]
#![allow(
    clippy::cast_possible_truncation,
    reason = "ring indices are u16 and lengths u32 by their layout; 64-bit hosts only"
)]

mod card;
mod error;
mod event;
mod front_end;
pub mod load;
mod memory;
mod queue;
mod ring;
#[cfg(test)]
mod tests;
mod virtio;
pub mod wire;

pub(crate) use card::announcement;
pub use card::{Builder, Guest, Received, Shape};
pub use error::Error;
pub use event::Event;
pub use front_end::{FrontEnd, Listening, RingSetup, Script};
pub use memory::{Backing, Memory, RegionSpec};
pub use queue::{Buffer, Queue, Used};
pub use ring::{Descriptor, RawRing, RingLayout};
pub use virtio::{VnetHeader, desc_flag, feature, protocol, vnet};

/// What every operation of the guest returns.
pub type Result<T> = std::result::Result<T, Error>;
