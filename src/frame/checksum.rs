//! The Internet checksum (RFC 1071), wide.
//!
//! The sum is taken over 32-bit lanes in the machine's byte order, in 64-bit accumulators, and folded
//! once at the end: RFC 1071, section 2 (B) and (C), says why that gives the same 16 bits on the wire.
//! Sixteen lanes a step keep the additions independent of each other, so that the compiler uses
//! vectors. Additions wrap by name, for speed; below 16 GiB of input none can.

/// A one's complement sum in the making. Every part but the last must have an even length.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// Adds bytes that begin at an even offset of what is summed.
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        let mut lanes = [0u64; 16];
        let (blocks, rest) = bytes.as_chunks::<64>();
        for block in blocks {
            let (words, _) = block.as_chunks::<4>();
            for (lane, word) in lanes.iter_mut().zip(words) {
                *lane = lane.wrapping_add(u64::from(u32::from_ne_bytes(*word)));
            }
        }
        let (words, rest) = rest.as_chunks::<4>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane = lane.wrapping_add(u64::from(u32::from_ne_bytes(*word)));
        }
        // At most three bytes are left; the missing one counts as zero.
        let mut last = [0u8; 4];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        let tail = u64::from(u32::from_ne_bytes(last));
        Self(lanes.iter().fold(self.0.wrapping_add(tail), |sum, lane| {
            sum.wrapping_add(*lane)
        }))
    }

    /// Adds a 16-bit field given by value.
    #[must_use]
    pub fn word(self, value: u16) -> Self {
        Self(
            self.0
                .wrapping_add(u64::from(u16::from_ne_bytes(value.to_be_bytes()))),
        )
    }

    /// The sum in 16 bits, as it stands on the wire: what a driver leaves in a field that the device
    /// is to complete (VIRTIO 1.2, 5.1.6.2).
    pub fn seed(self) -> [u8; 2] {
        self.fold().to_ne_bytes()
    }

    /// The checksum: the complement of the sum, as it stands on the wire.
    pub fn complement(self) -> [u8; 2] {
        (!self.fold()).to_ne_bytes()
    }

    /// The checksum of a UDP datagram, where zero would mean "none" (RFC 768).
    pub fn complement_nonzero(self) -> [u8; 2] {
        match self.complement() {
            [0, 0] => [0xff, 0xff],
            sum => sum,
        }
    }

    fn fold(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff).wrapping_add(sum >> 16);
        }
        // The loop ends with at most 16 bits.
        u16::try_from(sum).unwrap_or(u16::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071, section 4.1, word by word.
    fn plain(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([
                pair[0],
                pair.get(1).copied().unwrap_or(0),
            ]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    #[test]
    fn the_example_of_rfc_1071_comes_out() {
        let sum = Sum::default().bytes(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.seed(), [0xdd, 0xf2]);
        assert_eq!(sum.complement(), [0x22, 0x0d]);
    }

    #[test]
    fn a_datagram_of_all_ones_does_not_overflow() {
        let ones = vec![0xff; 65_553];
        let sum = Sum::default().bytes(&ones);
        assert_eq!(sum.seed(), plain(&ones).to_be_bytes());
    }

    #[test]
    fn udp_never_sends_zero_as_a_checksum() {
        assert_eq!(Sum::default().word(0xffff).complement(), [0, 0]);
        assert_eq!(
            Sum::default().word(0xffff).complement_nonzero(),
            [0xff, 0xff]
        );
    }

    proptest! {
        #[test]
        fn the_wide_sum_is_the_plain_sum(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            prop_assert_eq!(Sum::default().bytes(&bytes).seed(), plain(&bytes).to_be_bytes());
        }

        #[test]
        fn parts_of_even_length_add_up(
            head in proptest::collection::vec(any::<[u8; 2]>(), 0..40),
            tail in proptest::collection::vec(any::<u8>(), 0..200),
            word in any::<u16>(),
        ) {
            let mut all = head.concat();
            let parts = Sum::default().bytes(&all).word(word).bytes(&tail);
            all.extend(word.to_be_bytes());
            all.extend(&tail);
            prop_assert_eq!(parts.seed(), plain(&all).to_be_bytes());
        }
    }
}
