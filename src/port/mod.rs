//! One fault domain: session, rings, policy, counters and state of one guest.
//!
//! A port has two halves. [`port`] is the attendant's: the socket, the front-end, the state (`arrivals` lets front-ends in,
//! `closer` drops what may take its time to drop, `report` tells what is). [`lanes`] is the workers': rings, counters, faults. The first reaches the second only through [`Lanes`](lanes::Lanes), whose
//! locks are held for a burst.

mod arrivals;
mod closer;
pub mod door;
pub mod endpoint;
pub mod lanes;
mod plug;
#[expect(
    clippy::module_inception,
    reason = "the room is named after what it holds"
)]
pub mod port;
mod report;
pub mod socket;
pub mod status;

#[cfg(test)]
mod tests;
