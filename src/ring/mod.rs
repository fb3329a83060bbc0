//! Virtqueues: walk and validate a chain once, return every popped head exactly once.

pub mod vnet;
