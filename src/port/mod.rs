//! One fault domain: session, rings, policy, counters and state of one guest.

pub mod door;
pub mod lanes;
pub mod socket;
