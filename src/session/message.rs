//! Messages of the vhost-user protocol, from bytes to meaning.
//!
//! A message is a header of 12 bytes and a body (vhost-user: "Message Specification"); all numbers are in
//! the byte order of the machine. Every function here is total: bytes of the wrong number or with
//! impossible values give a [`Refusal`], never a panic. The bodies are the `vhost` crate's definitions; its header
//! type is private, so the header is ours.

use vhost::vhost_user::message::{
    MAX_MSG_SIZE, VhostUserHeaderFlag, VhostUserMemory, VhostUserMemoryRegion, VhostUserVringAddr,
    VhostUserVringState,
};
use vm_memory::ByteValued;

use super::refusal::{Broken, Refusal};
use crate::memory::RegionSpec;

/// Bytes of a header.
pub(super) const HEADER_LEN: usize = 12;

/// Bytes of the longest body that is read. SET_MEM_TABLE with [`MAX_FDS`] regions needs 2,056.
pub(super) const MAX_BODY: usize = MAX_MSG_SIZE;

/// File descriptors that one message may bring: as many regions as SET_MEM_TABLE may name at once. More
/// regions than that come one by one, with ADD_MEM_REG.
pub(super) const MAX_FDS: usize = 64;

/// Bytes of one region in SET_MEM_TABLE.
const REGION_LEN: usize = 32;

/// Bytes before the regions in SET_MEM_TABLE: their number and padding.
const TABLE_HEAD: usize = 8;

/// Bits 0 and 1 of the header's flags: the version of the protocol.
const VERSION: u32 = 1;

/// The header of a request (vhost-user: "Header").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// What is asked for: `vhost`'s `FrontendReq`, or something unknown.
    pub(super) request: u32,
    /// Bytes of the body that follows; at most [`MAX_BODY`].
    pub(super) size: u32,
    /// NEED_REPLY is set.
    pub(super) need_reply: bool,
}

impl Header {
    /// Reads the header of a request.
    ///
    /// # Errors
    /// A version other than 1, a reply, a reserved flag, or a body longer than [`MAX_BODY`]: after any of
    /// these nobody knows where the next message starts.
    pub(super) fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self, Broken> {
        let [r0, r1, r2, r3, f0, f1, f2, f3, s0, s1, s2, s3] = *bytes;
        let flags = u32::from_ne_bytes([f0, f1, f2, f3]);
        let size = u32::from_ne_bytes([s0, s1, s2, s3]);
        if flags & VhostUserHeaderFlag::VERSION.bits() != VERSION {
            return Err(Broken::Version(flags & VhostUserHeaderFlag::VERSION.bits()));
        }
        if flags & VhostUserHeaderFlag::REPLY.bits() != 0 {
            return Err(Broken::ReplyToNothing);
        }
        if flags & VhostUserHeaderFlag::RESERVED_BITS.bits() != 0 {
            return Err(Broken::ReservedFlags(flags));
        }
        if usize::try_from(size).map_or(true, |size| size > MAX_BODY) {
            return Err(Broken::TooLong(size));
        }
        Ok(Self {
            request: u32::from_ne_bytes([r0, r1, r2, r3]),
            size,
            need_reply: flags & VhostUserHeaderFlag::NEED_REPLY.bits() != 0,
        })
    }

    /// Bytes of the body.
    pub(super) fn body_len(&self) -> usize {
        usize::try_from(self.size).unwrap_or(MAX_BODY).min(MAX_BODY)
    }
}

/// Writes the header of the answer to `request`, with a body of `size` bytes.
pub(super) fn reply_header(request: u32, size: u32) -> [u8; HEADER_LEN] {
    let flags = VERSION | VhostUserHeaderFlag::REPLY.bits();
    let mut bytes = [0; HEADER_LEN];
    let words = [request, flags, size].map(u32::to_ne_bytes);
    for (to, from) in bytes.iter_mut().zip(words.as_flattened()) {
        *to = *from;
    }
    bytes
}

/// Copies a body that must have the exact size of `T`.
fn exact<T: ByteValued + Default>(body: &[u8]) -> Result<T, Refusal> {
    let mut value = T::default();
    if body.len() != value.as_slice().len() {
        return Err(Refusal::BodySize {
            expected: value.as_slice().len(),
            found: body.len(),
        });
    }
    value.as_mut_slice().copy_from_slice(body);
    Ok(value)
}

/// A request without a body.
pub(super) fn nothing(body: &[u8]) -> Result<(), Refusal> {
    if body.is_empty() {
        Ok(())
    } else {
        Err(Refusal::BodySize {
            expected: 0,
            found: body.len(),
        })
    }
}

/// "A single 64-bit integer".
pub(super) fn number(body: &[u8]) -> Result<u64, Refusal> {
    exact::<u64>(body)
}

/// "A vring state description": ring index and a number.
pub(super) fn ring_state(body: &[u8]) -> Result<(u32, u32), Refusal> {
    let state = exact::<VhostUserVringState>(body)?;
    Ok((state.index, state.num))
}

/// Where the three parts of a ring lie, in the front-end's own addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RingAddresses {
    pub(super) desc: u64,
    pub(super) avail: u64,
    pub(super) used: u64,
}

/// "A vring address description": ring index and where its parts lie. The log address is not used: dirty
/// logging is not offered.
pub(super) fn ring_addresses(body: &[u8]) -> Result<(u32, RingAddresses), Refusal> {
    let addr = exact::<VhostUserVringAddr>(body)?;
    Ok((
        addr.index,
        RingAddresses {
            desc: addr.descriptor,
            avail: addr.available,
            used: addr.used,
        },
    ))
}

/// The body of SET_VRING_KICK, SET_VRING_CALL and SET_VRING_ERR: ring index in bits 0 to 7; bit 8 says that no
/// file descriptor comes with it.
pub(super) fn ring_fd(body: &[u8]) -> Result<(u32, bool), Refusal> {
    let value = number(body)?;
    if value >> 9 != 0 {
        return Err(Refusal::ReservedBits(value));
    }
    let [index, no_fd, ..] = value.to_le_bytes();
    Ok((u32::from(index), no_fd != 0))
}

fn spec(region: &VhostUserMemoryRegion) -> RegionSpec {
    RegionSpec {
        guest_addr: region.guest_phys_addr,
        size: region.memory_size,
        user_addr: region.user_addr,
        file_offset: region.mmap_offset,
    }
}

/// "Memory regions description": 1 to [`MAX_FDS`] regions, and as many bytes as they need.
pub(super) fn regions(body: &[u8]) -> Result<Vec<RegionSpec>, Refusal> {
    let short = Refusal::BodySize {
        expected: TABLE_HEAD,
        found: body.len(),
    };
    let (head, rest) = body.split_at_checked(TABLE_HEAD).ok_or(short)?;
    let head = exact::<VhostUserMemory>(head)?;
    let announced = head.num_regions;
    let count = usize::try_from(announced).unwrap_or(usize::MAX);
    if !(1..=MAX_FDS).contains(&count) {
        return Err(Refusal::RegionCount { found: announced });
    }
    let expected = count.saturating_mul(REGION_LEN);
    if rest.len() != expected {
        return Err(Refusal::BodySize {
            expected: expected.saturating_add(TABLE_HEAD),
            found: body.len(),
        });
    }
    rest.chunks_exact(REGION_LEN)
        .map(|bytes| Ok(spec(&exact::<VhostUserMemoryRegion>(bytes)?)))
        .collect()
}

/// "Single memory region description": 8 bytes of padding and a region. QEMU leaves the padding as it was, so
/// it is not looked at.
pub(super) fn single_region(body: &[u8]) -> Result<RegionSpec, Refusal> {
    let expected = TABLE_HEAD + REGION_LEN;
    let wrong = Refusal::BodySize {
        expected,
        found: body.len(),
    };
    let (_, region) = body.split_at_checked(TABLE_HEAD).ok_or(wrong)?;
    match exact::<VhostUserMemoryRegion>(region) {
        Ok(region) => Ok(spec(&region)),
        Err(_) => Err(Refusal::BodySize {
            expected,
            found: body.len(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(request: u32, flags: u32, size: u32) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes.copy_from_slice([request, flags, size].map(u32::to_ne_bytes).as_flattened());
        bytes
    }

    #[test]
    fn p_1_a_body_longer_than_the_buffer_is_refused_by_its_header() {
        let max = u32::try_from(MAX_BODY).unwrap();
        for size in [0, 1, max - 1, max] {
            assert_eq!(Header::decode(&header(1, 1, size)).unwrap().size, size);
        }
        for size in [max + 1, 1 << 31, u32::MAX] {
            assert!(matches!(
                Header::decode(&header(1, 1, size)),
                Err(Broken::TooLong(_))
            ));
        }
    }

    #[test]
    fn p_2_version_reply_and_reserved_bits_are_refused() {
        for flags in [0, 2, 3] {
            assert!(matches!(
                Header::decode(&header(1, flags, 0)),
                Err(Broken::Version(_))
            ));
        }
        assert!(matches!(
            Header::decode(&header(1, 5, 0)),
            Err(Broken::ReplyToNothing)
        ));
        for bit in 4..32 {
            let flags = 1 | 1 << bit;
            assert!(matches!(
                Header::decode(&header(1, flags, 0)),
                Err(Broken::ReservedFlags(_))
            ));
        }
        assert!(Header::decode(&header(1, 9, 0)).unwrap().need_reply);
    }

    #[test]
    fn p_18_the_number_of_regions_and_the_bytes_must_agree() {
        let table = |count: u32, bytes: usize| {
            let mut body = vec![0; TABLE_HEAD + bytes];
            body[..4].copy_from_slice(&count.to_ne_bytes());
            body
        };
        assert!(matches!(
            regions(&table(0, 0)),
            Err(Refusal::RegionCount { .. })
        ));
        assert!(matches!(
            regions(&table(65, 65 * 32)),
            Err(Refusal::RegionCount { .. })
        ));
        assert!(matches!(
            regions(&table(u32::MAX, 32)),
            Err(Refusal::RegionCount { .. })
        ));
        assert!(matches!(
            regions(&table(2, 32)),
            Err(Refusal::BodySize { .. })
        ));
        assert!(matches!(
            regions(&table(1, 33)),
            Err(Refusal::BodySize { .. })
        ));
        assert_eq!(regions(&table(64, 64 * 32)).unwrap().len(), 64);
    }

    proptest! {
        /// After the size check no decoder fails on a value, and none accepts another size.
        #[test]
        fn p_1_decoders_take_their_size_and_no_other(body in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(nothing(&body).is_ok(), body.is_empty());
            prop_assert_eq!(number(&body).is_ok(), body.len() == 8);
            prop_assert_eq!(ring_state(&body).is_ok(), body.len() == 8);
            prop_assert_eq!(ring_addresses(&body).is_ok(), body.len() == 40);
            prop_assert_eq!(single_region(&body).is_ok(), body.len() == 40);
            if let Ok(regions) = regions(&body) {
                prop_assert_eq!(body.len(), TABLE_HEAD + REGION_LEN * regions.len());
            }
        }

        #[test]
        fn numbers_come_through_unchanged(index: u32, num: u32, desc: u64, avail: u64, used: u64, log: u64) {
            let state = VhostUserVringState::new(index, num);
            prop_assert_eq!(ring_state(state.as_slice()).unwrap(), (index, num));
            let addr = VhostUserVringAddr { index, flags: num, descriptor: desc, used, available: avail, log };
            let (found, addresses) = ring_addresses(addr.as_slice()).unwrap();
            prop_assert_eq!((found, addresses), (index, RingAddresses { desc, avail, used }));
        }

        #[test]
        fn any_header_is_judged(bytes: [u8; HEADER_LEN]) {
            if let Ok(header) = Header::decode(&bytes) {
                prop_assert!(header.body_len() <= MAX_BODY);
            }
        }

        #[test]
        fn ring_fd_bits(value: u64) {
            match ring_fd(&value.to_ne_bytes()) {
                Ok((index, no_fd)) => prop_assert_eq!(u64::from(index) | u64::from(no_fd) << 8, value),
                Err(_) => prop_assert!(value > 0x1ff),
            }
        }
    }
}
