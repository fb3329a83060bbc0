//! Sets of IP addresses, compiled for look-up.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// The addresses of some prefixes: ranges that neither touch nor overlap, in order, so that a look-up is a binary
/// search and hundreds of prefixes cost about what one costs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Addresses {
    v4: Box<[(u32, u32)]>,
    v6: Box<[(u128, u128)]>,
}

impl Addresses {
    /// The addresses of all these prefixes. What stands behind a prefix's length counts for nothing.
    pub(super) fn compile(prefixes: &[IpNet]) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for prefix in prefixes {
            match prefix {
                IpNet::V4(net) => v4.push((net.network().to_bits(), net.broadcast().to_bits())),
                IpNet::V6(net) => v6.push((net.network().to_bits(), net.broadcast().to_bits())),
            }
        }
        Self {
            v4: merged(v4, |end| end.checked_add(1)),
            v6: merged(v6, |end| end.checked_add(1)),
        }
    }

    pub(super) fn contains_v4(&self, address: Ipv4Addr) -> bool {
        is_in(&self.v4, address.to_bits())
    }

    pub(super) fn contains_v6(&self, address: Ipv6Addr) -> bool {
        is_in(&self.v6, address.to_bits())
    }
}

/// The same addresses in ranges that neither touch nor overlap, ascending.
fn merged<T: Copy + Ord>(mut ranges: Vec<(T, T)>, next: impl Fn(T) -> Option<T>) -> Box<[(T, T)]> {
    ranges.sort_unstable();
    let mut out: Vec<(T, T)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match out.last_mut() {
            // Nothing comes after the last address: whatever follows begins within this range.
            Some((_, end)) if next(*end).is_none_or(|next| first <= next) => *end = last.max(*end),
            _ => out.push((first, last)),
        }
    }
    out.into()
}

#[inline]
fn is_in<T: Copy + Ord>(ranges: &[(T, T)], address: T) -> bool {
    let after = ranges.partition_point(|(first, _)| *first <= address);
    after
        .checked_sub(1)
        .and_then(|at| ranges.get(at))
        .is_some_and(|(_, last)| address <= *last)
}
