//! One fault domain: session, rings, policy, counters and state of one guest.
//!
//! A port has two halves. [`port`] is the attendant's: the socket, the front-end, the state. [`lanes`] is the
//! workers': rings, counters, faults. The first reaches the second only through [`Lanes`](lanes::Lanes), whose
//! locks are held for a burst.

pub mod door;
pub mod endpoint;
pub mod lanes;
mod plug;
#[expect(
    clippy::module_inception,
    reason = "the room is named after what it holds"
)]
pub mod port;
pub mod socket;
pub mod status;

#[cfg(test)]
mod tests;
