//! Which part of a list can concern a packet at all.
//!
//! A *view* is what a list comes to for packets of one family and protocol: what the view settles is no condition
//! any more, so that most rules of a list have few shapes within one view. Every packet belongs to exactly one.

use crate::frame::protocol;

use super::super::subject::{Depth, Family, field, get};

/// Protocols with a view of their own; the last class is all others.
pub(super) const PINNED: [u8; 4] = [
    protocol::TCP,
    protocol::UDP,
    protocol::ICMP,
    protocol::ICMPV6,
];
const CLASSES: usize = PINNED.len() + 1;
/// Views of fresh packets; as many follow for what belongs to a connection or is invalid.
const FRESH: usize = 3 * CLASSES;
/// How many views there are.
pub(super) const VIEWS: usize = 2 * FRESH;

/// Packets whose layer 4, protocol or IP header is not known. The place of TCP without IP, which there is not.
pub(super) const UNCLEAR: usize = 0;
/// Frames that are not IP.
pub(super) const NOT_IP: usize = CLASSES - 1;

/// The view of readable packets of that family and of `PINNED[class]`, or of the other protocols.
pub(super) const fn plain(family: Family, class: usize) -> usize {
    family as usize * CLASSES + class
}

/// The view with the same fields settled, for packets of a connection, related or invalid.
pub(super) const fn bound(view: usize) -> usize {
    view + FRESH
}

static CLASS: [u8; 256] = classes();

#[expect(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "runs while it compiles, over five classes"
)]
const fn classes() -> [u8; 256] {
    let mut table = [PINNED.len() as u8; 256];
    let mut class = 0;
    while class < PINNED.len() {
        table[PINNED[class] as usize] = class as u8;
        class += 1;
    }
    table
}

/// The view that a subject belongs to, by its word 0.
#[inline(always)]
pub(super) fn view_of(word: u64) -> usize {
    #[expect(clippy::cast_possible_truncation, reason = "fields of a few bits")]
    let [number, family] = [field::PROTOCOL, field::FAMILY].map(|field| get(word, field) as usize);
    let class = CLASS.get(number).copied().unwrap_or(0);
    let plain = family * CLASSES + usize::from(class);
    let view = if get(word, field::DEPTH) == Depth::Ports as u64 {
        plain
    } else {
        UNCLEAR
    };
    // New and untracked are the first two states.
    if get(word, field::STATE) <= 1 {
        view
    } else {
        bound(view)
    }
}
