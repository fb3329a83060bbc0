//! Where a key lives: a keyed, invertible mixing of (VLAN, MAC).
//!
//! Because the mixing can be undone, a slot need not hold the whole key: the bucket's number is one part of the
//! mixed key, and the slot holds only the rest. That is what lets an entry fit one atomic word, exactly.
//!
//! The multipliers are secret and drawn anew at each start. Whoever does not know them cannot choose addresses
//! that meet in one bucket (case E-31), and cannot see where they landed; and even a lucky choice fills two
//! buckets at worst, and no more slots than the cap of its port.

use std::hash::{BuildHasher, RandomState};

use crate::frame::Mac;

const BITS: u32 = 60;
const MASK: u64 = (1 << BITS) - 1;

/// A VLAN number and a MAC address in 60 bits. VLAN 0 stands for "whichever", and is used by static entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Key(u64);

impl Key {
    pub(super) const fn new(vid: u16, mac: Mac) -> Self {
        Self((vid as u64 & 0xfff) << 48 | mac.bits())
    }

    pub(super) const fn vid(self) -> u16 {
        (self.0 >> 48) as u16
    }

    pub(super) const fn mac(self) -> Mac {
        Mac::from_bits(self.0)
    }

    pub(super) const fn bits(self) -> u64 {
        self.0
    }
}

/// Where a key may live: one of two buckets, and what a slot there holds of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) primary: u32,
    pub(super) remainder: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Mixer {
    whitener: u64,
    first: Multiplier,
    second: Multiplier,
    hop: u64,
    bucket_bits: u32,
}

#[derive(Clone, Copy, Debug)]
struct Multiplier {
    factor: u64,
    inverse: u64,
}

impl Multiplier {
    fn new(secret: u64) -> Self {
        let factor = secret & MASK | 1;
        // Newton's iteration doubles the number of right low bits; an odd number is its own inverse to 3 bits.
        let mut inverse = factor;
        for _ in 0..5 {
            inverse = inverse.wrapping_mul(2u64.wrapping_sub(factor.wrapping_mul(inverse)));
        }
        Self {
            factor,
            inverse: inverse & MASK,
        }
    }
}

impl Mixer {
    /// Mixes for `1 << bucket_bits` buckets; at least 9 bits, so that a remainder has at most 51.
    pub(super) fn new(bucket_bits: u32) -> Self {
        let secrets = RandomState::new();
        let secret = |n: u8| secrets.hash_one(n);
        Self {
            whitener: secret(0) & MASK,
            first: Multiplier::new(secret(1)),
            second: Multiplier::new(secret(2)),
            hop: secret(3) | 1,
            bucket_bits,
        }
    }

    #[inline]
    pub(super) fn place(&self, key: Key) -> Place {
        let mut x = key.bits() ^ self.whitener;
        x = x.wrapping_mul(self.first.factor) & MASK;
        x ^= x >> (BITS / 2);
        x = x.wrapping_mul(self.second.factor) & MASK;
        let shift = BITS - self.bucket_bits;
        #[expect(clippy::cast_possible_truncation, reason = "bucket_bits is at most 32")]
        let primary = (x >> shift) as u32;
        Place {
            primary,
            remainder: x & ((1 << shift) - 1),
        }
    }

    /// The key that `place` was made of.
    pub(super) fn key(&self, place: Place) -> Key {
        let mut x = u64::from(place.primary) << (BITS - self.bucket_bits) | place.remainder;
        x = x.wrapping_mul(self.second.inverse) & MASK;
        x ^= x >> (BITS / 2);
        x = x.wrapping_mul(self.first.inverse) & MASK;
        Key(x ^ self.whitener)
    }

    /// The other bucket of a remainder that has `bucket` as the one; never the same.
    #[inline]
    pub(super) fn other(&self, bucket: u32, remainder: u64) -> u32 {
        let hop = remainder.wrapping_mul(self.hop) >> (64 - self.bucket_bits);
        #[expect(clippy::cast_possible_truncation, reason = "bucket_bits is at most 32")]
        let hop = hop as u32 | 1;
        bucket ^ hop
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_key_comes_back(bits in 9u32..=20, vid in 0u16..4096, mac in 0u64..1 << 48) {
            let mixer = Mixer::new(bits);
            let key = Key::new(vid, Mac::from_bits(mac));
            prop_assert_eq!((key.vid(), key.mac().bits()), (vid, mac));
            let place = mixer.place(key);
            prop_assert!(place.primary < 1 << bits);
            prop_assert!(place.remainder < 1 << 51);
            prop_assert_eq!(mixer.key(place), key);
            let other = mixer.other(place.primary, place.remainder);
            prop_assert!(other != place.primary && other < 1 << bits);
            prop_assert_eq!(mixer.other(other, place.remainder), place.primary);
        }
    }

    /// Ascending addresses, as hypervisors give them out, spread like random ones.
    #[test]
    fn ascending_addresses_spread() {
        for step in [1u64, 2, 256, 1 << 16, 1 << 24, 1 << 40] {
            let mixer = Mixer::new(10);
            let mut load = vec![0u32; 1024];
            for n in 0..2048u64 {
                let key = Key::new(1, Mac::from_bits(0x5254_0000_0000 ^ n.wrapping_mul(step)));
                load[mixer.place(key).primary as usize] += 1;
            }
            let crowded = load.iter().filter(|n| **n > 16).count();
            assert!(
                step == 1 << 40 || crowded < 32,
                "step {step}: {crowded} crowded buckets"
            );
        }
    }
}
