//! VLANs: which segment a frame is in when it comes, which ports share it, and the tag with which it leaves.
//!
//! A frame has one VLAN, decided by its port and its outermost tag, and its tag is judged whole: a tag where none
//! belongs, a priority tag, a second tag behind the first or a service tag is not peeled but refused. So nothing
//! that was hidden behind a tag is ever delivered without it.

use std::collections::HashMap;

use super::reach::{PortRow, ports};
use crate::counters::{DropReason, PortId, PortSet};
use crate::frame::{Frame, Vid, vlan};

/// A set of VLANs.
#[derive(Clone, PartialEq, Eq)]
pub struct VidSet(Box<[u64; 64]>);

impl VidSet {
    /// No VLAN.
    pub fn empty() -> Self {
        Self(Box::new([0; 64]))
    }

    /// All of 1 to 4094.
    pub fn all() -> Self {
        (1..=Vid::MAX.get()).filter_map(Vid::new).collect()
    }

    /// Adds a VLAN.
    pub fn insert(&mut self, vid: Vid) {
        if let Some(word) = self.0.get_mut(usize::from(vid.get()) / 64) {
            *word |= 1 << (vid.get() % 64);
        }
    }

    /// Whether the VLAN is in the set.
    pub fn contains(&self, vid: Vid) -> bool {
        let word = self
            .0
            .get(usize::from(vid.get()) / 64)
            .copied()
            .unwrap_or(0);
        word >> (vid.get() % 64) & 1 != 0
    }

    /// The VLANs in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = Vid> + '_ {
        (1..=Vid::MAX.get())
            .filter_map(Vid::new)
            .filter(|vid| self.contains(*vid))
    }
}

impl FromIterator<Vid> for VidSet {
    fn from_iter<I: IntoIterator<Item = Vid>>(vids: I) -> Self {
        let mut set = Self::empty();
        for vid in vids {
            set.insert(vid);
        }
        set
    }
}

impl std::fmt::Debug for VidSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter().map(Vid::get)).finish()
    }
}

/// The VLANs of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VlanMembership {
    /// One VLAN; its frames carry no tag on this port, and a tagged one is refused.
    Access(Vid),
    /// Many VLANs, told by their tags.
    Trunk {
        /// Those whose tag is taken.
        allowed: VidSet,
        /// The VLAN of frames without a tag, a member whether allowed or not; without one, they are refused.
        native: Option<Vid>,
    },
}

impl Default for VlanMembership {
    fn default() -> Self {
        Self::Access(Vid::DEFAULT)
    }
}

/// With which tag a frame leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EgressTag {
    /// None.
    Untagged,
    /// That of its VLAN.
    Tagged(Vid),
}

impl EgressTag {
    /// The VLAN of the tag, as [`vlan::retag`] takes it.
    pub fn vlan(self) -> Option<Vid> {
        match self {
            Self::Untagged => None,
            Self::Tagged(vid) => Some(vid),
        }
    }
}

/// What a port does with frames without a tag, and with tags.
#[derive(Clone, Copy, Debug)]
struct PortVlan {
    untagged: Option<Vid>,
    trunk: bool,
}

/// The VLANs of all ports, compiled.
#[derive(Clone, Debug)]
pub struct Vlans {
    ports: Box<[PortVlan]>,
    /// For each VLAN the index of its segment. Segment 0 is empty; equal segments are one.
    segment_of: Box<[u16]>,
    segments: Box<[PortSet]>,
}

impl Vlans {
    /// Compiles the memberships; the row of port `n` is `rows[n]`.
    pub fn compile(rows: &[PortRow]) -> Self {
        let of_ports = ports(rows).map(|(_, row)| match &row.vlan {
            VlanMembership::Access(vid) => PortVlan {
                untagged: Some(*vid),
                trunk: false,
            },
            VlanMembership::Trunk { native, .. } => PortVlan {
                untagged: *native,
                trunk: true,
            },
        });
        let mut index_of = HashMap::from([(PortSet::EMPTY, 0)]);
        let mut segments = vec![PortSet::EMPTY];
        let segment_of = (0..=4095).map(|number| {
            let Some(vid) = Vid::new(number) else {
                return 0;
            };
            let members = PortSet::from_iter(
                ports(rows)
                    .filter(|(_, row)| is_member(&row.vlan, vid))
                    .map(|(port, _)| port),
            );
            *index_of.entry(members).or_insert_with(|| {
                segments.push(members);
                // At most one segment a VLAN: below 4096.
                u16::try_from(segments.len() - 1).unwrap_or(0)
            })
        });
        let segment_of = segment_of.collect();
        Self {
            ports: of_ports.collect(),
            segment_of,
            segments: segments.into(),
        }
    }

    /// The VLAN of a frame that comes in by `source`.
    ///
    /// # Errors
    ///
    /// [`DropReason::VlanSmuggled`] for a tag that should not be there, [`DropReason::VlanNotAllowed`] when the
    /// port does not carry the frame's VLAN, or none without a tag.
    #[inline]
    pub fn classify(&self, source: PortId, frame: &Frame<'_>) -> Result<Vid, DropReason> {
        let port = self
            .ports
            .get(source.index())
            .ok_or(DropReason::VlanNotAllowed)?;
        let Some(tag) = frame.tag() else {
            return port.untagged.ok_or(DropReason::VlanNotAllowed);
        };
        if !port.trunk || tag.tpid() != vlan::TPID || frame.is_stacked() {
            return Err(DropReason::VlanSmuggled);
        }
        let vid = tag.vlan().ok_or(DropReason::VlanSmuggled)?;
        if self.segment(vid).contains(source) {
            Ok(vid)
        } else {
            Err(DropReason::VlanNotAllowed)
        }
    }

    /// The ports that are in a VLAN.
    #[inline]
    pub fn segment(&self, vid: Vid) -> &PortSet {
        let index = self
            .segment_of
            .get(usize::from(vid.get()))
            .copied()
            .unwrap_or(0);
        self.segments
            .get(usize::from(index))
            .unwrap_or(&PortSet::EMPTY)
    }

    /// Whether the port carries tagged frames.
    #[inline]
    pub fn is_trunk(&self, port: PortId) -> bool {
        self.ports.get(port.index()).is_some_and(|port| port.trunk)
    }

    /// With which tag a frame of that VLAN leaves by `to`.
    #[inline]
    pub fn egress_tag(&self, to: PortId, vid: Vid) -> EgressTag {
        match self.ports.get(to.index()) {
            Some(port) if port.trunk && port.untagged != Some(vid) => EgressTag::Tagged(vid),
            _ => EgressTag::Untagged,
        }
    }
}

fn is_member(membership: &VlanMembership, vid: Vid) -> bool {
    match membership {
        VlanMembership::Access(own) => *own == vid,
        VlanMembership::Trunk { allowed, native } => *native == Some(vid) || allowed.contains(vid),
    }
}
