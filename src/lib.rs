//! Portcullis: a vhost-user layer-2 switch for guests that do not trust each other.
//!
//! A front-end (QEMU, cloud-hypervisor, a DPDK application) plugs a guest's virtio-net device into a
//! *port* over a Unix socket. Frames go from the sender's memory straight into the receiver's, through
//! one gate. No host interface is involved.
//!
//! # The house
//!
//! Imports point down only; `tests/layering.rs` checks it. The two wings never import each other and
//! meet on floor 3.
//!
//! ```text
//! floor 5   cli         daemon
//! floor 4   config      control
//! floor 3   port · datapath                             <- the only room where the wings meet
//! floor 2                                  session      (vhost-user protocol)
//! floor 1   policy      fabric             ring         (virtqueues, vnet header)
//! floor 0   frame · clock · counters       memory       (guest mappings: the only unsafe)
//!           THE LAW (pure)                 MATTER (untrusted)
//! ```
//!
//! Beside the house, and with no arrow from it, stands [`guest`]: the other side in software.
//!
//! `docs/design.md` tells why the rooms are cut this way; `docs/threat-model.md` what must hold.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss
    )
)]

// A mutant breaks a promise on purpose: it is for `./test` and for nobody else.
#[cfg(all(portcullis_mutant = "reread", not(debug_assertions)))]
compile_error!("portcullis_mutant is for test builds with debug assertions");

// Floor 0.
pub mod clock;
pub mod counters;
pub mod frame;
pub mod memory;

// Floor 1.
pub mod fabric;
pub mod policy;
pub mod ring;

// Floor 2.
pub mod session;

// Floor 3.
pub mod datapath;
pub mod port;

// Floor 4.
pub mod config;
pub mod control;

// Floor 5.
pub mod cli;
pub mod daemon;

// Beside the house.
pub mod guest;
