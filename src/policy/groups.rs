//! Multicast groups: to how many a port sends, and how often it speaks of its memberships.
//!
//! The switch does not snoop: a frame to a group goes to everybody in reach, and nothing is kept of who wants it. What a guest can use up
//! with groups lies behind the switch (tables of snooping bridges, of routers, of NICs), one entry for each group that is
//! sent to or reported. So each port sends to a number of groups in a minute at most, and a number of reports (IGMP, MLD) a second.
//!
//! Groups are counted exactly, in a table of fixed size that is made with the port's first frame to one. The same group costs one place however
//! often it is sent to; when the minute is over, all places are free.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::subject::{Depth, Subject};
use crate::clock::Tick;
use crate::frame::{Mac, protocol};

/// The most groups that a port may be let send to in a [`WINDOW`].
pub const MOST: u32 = 1024;
/// Seconds for which a group that was sent to counts, at most.
pub const WINDOW: u64 = 60;
/// Places: no more than half of them are ever used, so that a search is short.
const PLACES: usize = 2 * MOST as usize;

/// Bits of a place that are the window's; the others are the address.
const ADDRESS: u32 = 48;

/// The groups that one port has sent to lately. Shared by workers; two that enter a group at once may count one too many.
#[derive(Debug, Default)]
pub(super) struct Groups {
    table: OnceLock<Box<Table>>,
}

#[derive(Debug)]
struct Table {
    key: [u64; 2],
    /// A window's number in the upper bits, the groups that were entered in it in the lower.
    count: AtomicU64,
    /// A window's number and a group's address; of another window: free.
    places: [AtomicU64; PLACES],
}

impl Table {
    fn new() -> Box<Self> {
        let random = RandomState::new();
        Box::new(Self {
            key: [random.hash_one(0), random.hash_one(1)],
            count: AtomicU64::new(0),
            places: std::array::from_fn(|_| AtomicU64::new(0)),
        })
    }

    /// Where the search for an address begins: not to be foreseen without the key.
    fn place(&self, address: u64) -> usize {
        let [mask, factor] = self.key;
        let product = u128::from(address ^ mask).wrapping_mul(u128::from(factor | 1));
        // The middle of the product, which every bit of both has a part in.
        usize::try_from((product >> 48) % PLACES as u128).unwrap_or(0)
    }

    fn admit(&self, group: Mac, most: u32, window: u64) -> bool {
        let entry = window << ADDRESS | group.bits();
        let first = self.place(group.bits());
        let (before, after) = self.places.split_at_checked(first).unwrap_or_default();
        for place in after.iter().chain(before) {
            let found = place.load(Ordering::Relaxed);
            if found == entry {
                return true;
            }
            if found >> ADDRESS == window {
                continue;
            }
            if self.used(window) >= most.min(MOST) {
                return false;
            }
            let taken = place.compare_exchange(found, entry, Ordering::Relaxed, Ordering::Relaxed);
            match taken {
                Ok(_) => {
                    self.count_one(window);
                    return true;
                }
                Err(other) if other == entry => return true,
                Err(_) => {}
            }
        }
        false
    }

    fn used(&self, window: u64) -> u32 {
        let count = self.count.load(Ordering::Relaxed);
        if count >> ADDRESS == window {
            u32::try_from(count & u64::from(u32::MAX)).unwrap_or(u32::MAX)
        } else {
            0
        }
    }

    fn count_one(&self, window: u64) {
        let next = |count: u64| {
            let before = if count >> ADDRESS == window {
                count
            } else {
                window << ADDRESS
            };
            Some(before.wrapping_add(1)) // at most PLACES in a window
        };
        let _ = self
            .count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }
}

impl Groups {
    /// Whether the port may send to that group, of `most` in a window.
    pub(super) fn admit(&self, group: Mac, most: u32, now: Tick) -> bool {
        // Never 0, which is in no place; two windows with one number are a month and a half apart.
        let window = now.as_secs() / WINDOW % 0xffff + 1;
        let table = self.table.get_or_init(Table::new);
        table.admit(group, most, window)
    }
}

/// Whether a packet speaks of memberships: IGMP, and the four types of MLD (RFC 2710, RFC 3810).
pub(super) fn is_membership(subject: &Subject) -> bool {
    match subject.protocol() {
        protocol::IGMP => true,
        protocol::ICMPV6 => {
            subject.depth() == Depth::Ports && matches!(subject.dst_port() >> 8, 130..=132 | 143)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(n: u64) -> Mac {
        Mac::from_bits(0x0100_5e00_0000 | n)
    }

    #[test]
    fn e_33_a_port_sends_to_so_many_groups_in_a_minute() {
        let groups = Groups::default();
        let at = Tick::from_secs;
        for round in 0..3 {
            for n in 0..100 {
                assert_eq!(groups.admit(group(n), 40, at(round)), n < 40, "{n}");
            }
        }
        // A higher bound holds at once, and a lower one takes nothing away that was entered.
        assert!(groups.admit(group(50), 41, at(10)));
        assert!(!groups.admit(group(51), 41, at(10)) && groups.admit(group(50), 1, at(10)));
        // The next minute begins with none.
        for n in 1000..1100 {
            assert_eq!(groups.admit(group(n), 40, at(WINDOW)), n < 1040, "{n}");
        }
        assert!(!groups.admit(group(0), 40, at(WINDOW)));
    }

    #[test]
    fn the_most_groups_fit_and_a_flood_of_them_stays_within() {
        let groups = Groups::default();
        let admitted = |from: u64, count: u64, second| {
            (from..from + count)
                .filter(|n| groups.admit(group(*n), u32::MAX, Tick::from_secs(second)))
                .count()
        };
        assert_eq!(admitted(0, 100_000, 0), MOST as usize);
        assert_eq!(admitted(0, MOST.into(), 1), MOST as usize);
        assert_eq!(admitted(100_000, 100_000, WINDOW), MOST as usize);
    }

    #[test]
    fn workers_that_share_a_port_stay_within_one_each() {
        let groups = Groups::default();
        let admitted = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for worker in 0..4u64 {
                let (groups, admitted) = (&groups, &admitted);
                scope.spawn(move || {
                    for n in 0..10_000 {
                        if groups.admit(group(worker * 10_000 + n), 64, Tick::ZERO) {
                            admitted.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        let admitted = admitted.load(Ordering::Relaxed);
        assert!((64..=67).contains(&admitted), "{admitted}");
    }
}
