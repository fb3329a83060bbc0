//! Real guests and peers: unmodified QEMU guests (7.2 and 10, emulated) and DPDK's drivers.

#[expect(
    dead_code,
    unused_imports,
    reason = "the tests of the switch come with the switch"
)]
mod lab;
mod laboratory;
