//! Completion of the checksum that a guest left to the switch.

use super::Checksum;
use crate::frame::checksum::Sum;

/// Completes the checksum of `frame`, a private linear copy, as `plan` says: the sum from the L4 header
/// to the end of the datagram (padding behind it does not count), the field's own content included,
/// which is the pseudo header's sum by the driver's hand (VIRTIO 1.2, 5.1.6.2).
///
/// Changes two bytes, the checksum field of the L4 header, and nothing else. `false`: the frame is
/// shorter than the plan was made for, and untouched.
pub fn complete_checksum(frame: &mut [u8], plan: Checksum) -> bool {
    let start = usize::from(plan.start);
    let Some(datagram) = usize::try_from(plan.end)
        .ok()
        .and_then(|end| frame.get_mut(start..end))
    else {
        return false;
    };
    let sum = Sum::default().bytes(datagram);
    let sum = match plan.transport {
        super::Transport::Tcp => sum.complement(),
        super::Transport::Udp => sum.complement_nonzero(),
    };
    let at = usize::from(plan.transport.checksum_offset());
    let Some(field) = datagram
        .get_mut(at..)
        .and_then(|rest| rest.first_chunk_mut())
    else {
        return false;
    };
    *field = sum;
    true
}
