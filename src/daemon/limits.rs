//! Limits of the process.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the limit of open descriptors as far as this user may. A port with a guest needs about one for the
/// connection, two for each ring and one for each memory region while it is mapped; the usual soft limit of 1,024 would
/// be spent by some hundred ports.
pub(super) fn raise_descriptors() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the limit of open descriptors");
    }
}
