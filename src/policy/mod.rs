//! The gate: the only maker of an [`Admitted`] frame and of a [`Permit`].
//!
//! A frame passes twice. [`Policy::admit`] judges it by the port that it really came from, before anything is
//! learned from it; [`Policy::permit`] judges the pair of that port and one receiver, once for each receiver.
//! Both results can be made only here, and the rooms behind ask for them by type: the fabric learns from and
//! forwards only what was admitted, a copy is made only under a permit. So no step can be skipped.
//!
//! A [`Policy`] is one immutable snapshot with an epoch. A worker takes one for a burst; it is replaced as a
//! whole, so that no frame is judged by a mixture of two. A port that it does not name passes nothing.
//!
//! What is judged now: a source address that no station can have, and the group addresses that no bridge
//! forwards. A source address that was declared for another port is found by the fabric, which holds the
//! declared addresses as static entries.

pub mod digest;
pub mod quarantine;
pub mod rule;
pub mod spec;
pub mod subject;

use std::sync::Arc;

use crate::counters::{DropReason, MAX_PORTS, PortId};
use crate::frame::{Frame, Mac};
use quarantine::Quarantine;

/// One whole policy.
#[derive(Clone, Debug)]
pub struct Policy {
    epoch: u64,
    bound: [u64; MAX_PORTS / 64],
    quarantine: Arc<Quarantine>,
}

impl Policy {
    /// The policy of that epoch for these ports; whoever replaces a policy counts the epoch up.
    pub fn new(epoch: u64, ports: impl IntoIterator<Item = PortId>) -> Self {
        let mut bound = [0; MAX_PORTS / 64];
        for port in ports {
            if let Some(word) = bound.get_mut(port.index() / 64) {
                *word |= 1 << (port.index() % 64);
            }
        }
        Self {
            epoch,
            bound,
            quarantine: Arc::default(),
        }
    }

    /// The same policy with these ports in quarantine and no others, under another epoch.
    #[must_use]
    pub fn with_quarantine(&self, epoch: u64, quarantine: Quarantine) -> Self {
        Self {
            epoch,
            quarantine: Arc::new(quarantine),
            ..self.clone()
        }
    }

    /// Which policy this is: what was judged under another epoch is to be judged again.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether the policy names that port; frames of and to others do not pass.
    pub fn binds(&self, port: PortId) -> bool {
        let word = self.bound.get(port.index() / 64).copied().unwrap_or(0);
        word >> (port.index() % 64) & 1 != 0
    }

    /// Judges a frame by the port that it came from.
    ///
    /// # Errors
    ///
    /// [`DropReason::NoPolicy`], [`DropReason::Quarantined`], [`DropReason::SourceMacInvalid`],
    /// [`DropReason::ReservedGroup`].
    #[inline]
    pub fn admit<'a>(&self, source: PortId, frame: Frame<'a>) -> Result<Admitted<'a>, DropReason> {
        if !self.binds(source) {
            return Err(DropReason::NoPolicy);
        }
        if self.quarantine.silences(source) {
            return Err(DropReason::Quarantined);
        }
        if !frame.src().is_station() {
            return Err(DropReason::SourceMacInvalid);
        }
        if frame.dst().is_group() && is_reserved(frame.dst()) {
            return Err(DropReason::ReservedGroup);
        }
        Ok(Admitted { source, frame })
    }

    /// Judges the pair of a frame's source and one receiver.
    ///
    /// # Errors
    ///
    /// [`DropReason::NoPolicy`] when the policy does not name the receiver, [`DropReason::Quarantined`].
    #[inline]
    pub fn permit(&self, frame: &Admitted<'_>, to: PortId) -> Result<Permit, DropReason> {
        if !self.binds(to) {
            return Err(DropReason::NoPolicy);
        }
        if self.quarantine.separates(frame.source, to) {
            return Err(DropReason::Quarantined);
        }
        Ok(Permit {
            from: frame.source,
            to,
        })
    }
}

/// Whether a group address is one that no bridge forwards: those of the bridges themselves (IEEE 802.1Q, tables
/// 8-1 to 8-3: STP, PAUSE, LACP, 802.1X, LLDP) and of their registration protocols (table 10-1: MVRP, MMRP), and
/// Cisco's for CDP, VTP and PVST.
fn is_reserved(group: Mac) -> bool {
    const BRIDGES: u64 = 0x0180_c200_0000;
    const REGISTRATION: u64 = 0x0180_c200_0020;
    const CISCO: u64 = 0x0100_0ccc_cccc;
    const CISCO_PVST: u64 = 0x0100_0ccc_cccd;
    matches!(group.bits() & !0xf, BRIDGES | REGISTRATION)
        || matches!(group.bits(), CISCO | CISCO_PVST)
}

/// A frame that may enter the switch, with the port that it came from.
#[derive(Clone, Copy, Debug)]
pub struct Admitted<'a> {
    source: PortId,
    frame: Frame<'a>,
}

impl<'a> Admitted<'a> {
    /// The port that it came from.
    pub fn source(&self) -> PortId {
        self.source
    }

    /// The frame.
    pub fn frame(&self) -> &Frame<'a> {
        &self.frame
    }
}

/// The leave to deliver one frame to one receiver.
#[derive(Debug, PartialEq, Eq)]
pub struct Permit {
    from: PortId,
    to: PortId,
}

impl Permit {
    /// The port that the frame came from.
    pub fn from(&self) -> PortId {
        self.from
    }

    /// The receiver.
    pub fn to(&self) -> PortId {
        self.to
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(index: u16) -> PortId {
        PortId::new(index).unwrap()
    }

    fn judge(dst: &str, src: &str) -> Result<(), DropReason> {
        let mut bytes = [0; 60];
        bytes[..6].copy_from_slice(&dst.parse::<Mac>().unwrap().octets());
        bytes[6..12].copy_from_slice(&src.parse::<Mac>().unwrap().octets());
        let frame = Frame::parse(&bytes, 60).unwrap();
        Policy::new(1, [port(3)]).admit(port(3), frame).map(drop)
    }

    const STATION: &str = "52:54:00:00:00:01";

    #[test]
    fn e_1_a_source_that_no_station_has_is_refused() {
        assert_eq!(judge(STATION, "52:54:00:00:00:02"), Ok(()));
        for source in [
            "00:00:00:00:00:00",
            "ff:ff:ff:ff:ff:ff",
            "01:00:5e:00:00:01",
            "53:54:00:00:00:01",
        ] {
            assert_eq!(
                judge(STATION, source),
                Err(DropReason::SourceMacInvalid),
                "{source}"
            );
        }
    }

    #[test]
    fn e_10_reserved_groups_are_refused_and_their_neighbours_are_not() {
        for low in 0..=0x3fu64 {
            let group = Mac::from_bits(0x0180_c200_0000 | low).to_string();
            let expected = if low < 0x10 || (0x20..0x30).contains(&low) {
                Err(DropReason::ReservedGroup)
            } else {
                Ok(())
            };
            assert_eq!(judge(&group, STATION), expected, "{group}");
        }
        for group in ["01:00:0c:cc:cc:cc", "01:00:0c:cc:cc:cd"] {
            assert_eq!(
                judge(group, STATION),
                Err(DropReason::ReservedGroup),
                "{group}"
            );
        }
        for group in [
            "01:00:0c:cc:cc:ce",
            "33:33:00:00:00:01",
            "01:00:5e:00:00:fb",
            "ff:ff:ff:ff:ff:ff",
        ] {
            assert_eq!(judge(group, STATION), Ok(()), "{group}");
        }
    }

    #[test]
    fn a_port_in_quarantine_passes_nothing_but_to_and_from_its_helper() {
        use crate::counters::PortSet;
        let alone = [(port(3), PortSet::EMPTY)];
        let helped = [(port(3), PortSet::from_iter([port(1)]))];
        let bytes = [2; 14];
        let frame = Frame::parse(&bytes, 14).unwrap();
        let policy = Policy::new(1, (0..4).map(port));
        let silent = policy.with_quarantine(2, alone.into_iter().collect());
        let refused = Err(DropReason::Quarantined);
        assert_eq!(silent.admit(port(3), frame).map(drop), refused);
        let helped = silent.with_quarantine(3, helped.into_iter().collect());
        assert_eq!(helped.epoch(), 3);
        let pass = |from, to| {
            let admitted = helped.admit(port(from), frame).unwrap();
            helped.permit(&admitted, port(to)).map(drop)
        };
        assert_eq!([pass(3, 1), pass(1, 3), pass(0, 1)], [Ok(()); 3]);
        assert_eq!([pass(3, 0), pass(0, 3)], [refused; 2]);
    }

    #[test]
    fn a_port_without_policy_passes_nothing_either_way() {
        let policy = Policy::new(7, [port(0), port(1023)]);
        let bytes = [2; 14];
        let frame = Frame::parse(&bytes, 14).unwrap();
        assert_eq!(
            policy.admit(port(1), frame).map(drop),
            Err(DropReason::NoPolicy)
        );
        let admitted = policy.admit(port(1023), frame).unwrap();
        assert_eq!(policy.permit(&admitted, port(1)), Err(DropReason::NoPolicy));
        let permit = policy.permit(&admitted, port(0)).unwrap();
        assert_eq!((permit.from(), permit.to()), (port(1023), port(0)));
    }
}
