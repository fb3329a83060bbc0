//! Workers: rounds with a budget for each port, ingress, egress, offload completion.

pub mod offload;
