//! The whole switch, as its own process, with guests in software: what users rely on, and what attackers try.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs,
    unreachable_pub
)]

mod aside;
mod bound;
mod closing;
mod departing;
mod fair;
mod forwarding;
mod hosted;
mod hostile;
mod judged;
mod leases;
mod mixed;
mod moving;
mod policy;
mod protocol;
mod racing;
mod restart;
mod rig;
mod rings;
mod seen;
#[path = "../silent/mod.rs"]
mod silent;
mod told;
