//! What one caller found last, so that the same two stations are not looked up for each frame.

use super::mixer::Key;
use super::table::Found;

/// Remembers slots for one caller; good for as long as a slot still holds the very same word, which is looked at
/// each time. So a cache is never wrong, whoever changes the table meanwhile. Keep one for each source port.
#[derive(Clone, Debug, Default)]
pub struct LookupCache {
    pub(super) source: Cached,
    destinations: [Cached; 8],
}

/// A key and where it was. Starts with a key that no frame has: VLAN 0.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cached {
    pub(super) key: Key,
    pub(super) found: Found,
}

impl LookupCache {
    /// The one place at which a destination is remembered.
    #[inline]
    pub(super) fn destination(&mut self, key: Key) -> &mut Cached {
        let bits = key.bits();
        let index = (bits ^ bits >> 3 ^ bits >> 8) & 7;
        // The index is below eight: the alternative is never taken, and costs nothing.
        self.destinations
            .get_mut(index as usize)
            .unwrap_or(&mut self.source)
    }
}
