//! The guest against peers that are not of this room: `virtio-queue`'s device side, and plain sockets.

mod queue;
mod scripts;
mod wire;
