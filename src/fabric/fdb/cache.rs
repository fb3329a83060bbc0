//! What one caller found last, so that the same two stations are not looked up for each frame.

use super::mixer::Key;
use super::table::Found;
use crate::counters::PortId;
use crate::frame::Mac;

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
        // The index is below eight: the alternative is never taken, and costs nothing.
        self.destinations
            .get_mut(place(key))
            .unwrap_or(&mut self.source)
    }

    /// Where a destination was found last. It may be somewhere else by now.
    pub(in crate::fabric) fn guess(&self, vid: u16, mac: Mac) -> Option<PortId> {
        let key = Key::new(vid, mac);
        let cached = self.destinations.get(place(key))?;
        (cached.key == key).then(|| cached.found.word.port())?
    }
}

#[inline(always)]
fn place(key: Key) -> usize {
    let bits = key.bits();
    ((bits ^ bits >> 3 ^ bits >> 8) & 7) as usize
}
