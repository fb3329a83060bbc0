//! Real guests and peers through the switch: unmodified QEMU guests (7.2 and 10, emulated) and
//! DPDK's drivers. Each test asserts on the switch's own counters that it moved the frames, since
//! QEMU goes on without a back-end that it does not like and says nothing.

mod attackers;
mod corpus;
mod dpdk;
mod forged;
mod lab;
mod laboratory;
mod libvirt;
mod nftables;
mod policy;
mod qemu;
