//! From an admitted frame to its destinations: FDB, VLANs and the reachability table.
//!
//! # Promises
//!
//! - A frame goes to ports that its source [reaches](Reach), in the [VLAN](Vlans) that it came in, and never back to
//!   its source. The [FDB](Fdb) chooses among these and adds none.
//! - An address that is known on a port out of reach, or out of the VLAN, is not flooded instead: the frame is
//!   dropped.
//! - Nothing is learned but from an [`Admitted`] frame whose VLAN is right.
//!
//! [`Ingress::forward`] is a pure function of the frame, the tick and the FDB. It allocates nothing, and its answer
//! is a word; the set of ports behind a flood is made by [`Fabric::ports`] for those that need it.
//!
//! The table and the VLANs are immutable: a changed configuration makes a new [`Fabric`], which may share the
//! [`Fdb`] of the old.

mod fdb;
mod reach;
#[cfg(test)]
mod tests;
mod vlans;

use std::sync::Arc;

pub use crate::counters::PortSet;
pub use fdb::{Fdb, FdbEntry, FdbLimits, LookupCache, StaticError};
pub use reach::{GroupId, Mode, PortRow, Reach};
pub use vlans::{EgressTag, VidSet, VlanMembership, Vlans};

use self::fdb::Witness;
use crate::clock::Tick;
use crate::counters::{DropReason, PortId};
use crate::frame::{Mac, Vid};
use crate::policy::Admitted;

/// Where a frame goes. Made by [`Ingress::forward`] only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destinations {
    source: PortId,
    vid: Vid,
    kind: Kind,
}

/// The kinds of [`Destinations`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nowhere, and why.
    Drop(DropReason),
    /// To one port, which the source reaches and which is in the VLAN.
    Port(PortId),
    /// To all ports in reach and in the VLAN, at least one: see [`Fabric::ports`].
    Flood,
}

impl Destinations {
    const fn nowhere(source: PortId, reason: DropReason) -> Self {
        Self {
            source,
            vid: Vid::DEFAULT,
            kind: Kind::Drop(reason),
        }
    }

    /// The port that the frame came from.
    pub fn source(&self) -> PortId {
        self.source
    }

    /// The VLAN that it is in; of no meaning when it is dropped.
    pub fn vid(&self) -> Vid {
        self.vid
    }

    /// Where to.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

/// The forwarding decision.
#[derive(Clone, Debug)]
pub struct Fabric {
    reach: Reach,
    vlans: Vlans,
    fdb: Arc<Fdb>,
}

impl Fabric {
    /// Compiles the rows of all ports (the row of port `n` is `rows[n]`) over a table of addresses.
    pub fn new(rows: &[PortRow], fdb: Arc<Fdb>) -> Self {
        Self {
            reach: Reach::compile(rows),
            vlans: Vlans::compile(rows),
            fdb,
        }
    }

    /// Who reaches whom.
    pub fn reach(&self) -> &Reach {
        &self.reach
    }

    /// Who is in which VLAN.
    pub fn vlans(&self) -> &Vlans {
        &self.vlans
    }

    /// The addresses.
    pub fn fdb(&self) -> &Arc<Fdb> {
        &self.fdb
    }

    /// Decides where a frame goes, and learns where it came from: [`Ingress::forward`] for a single frame.
    pub fn forward(
        &self,
        frame: &Admitted<'_>,
        now: Tick,
        cache: &mut LookupCache,
    ) -> Destinations {
        self.ingress(now, cache).forward(frame)
    }

    /// The fabric for a burst of frames that came in at the same moment; `cache` is that of their source.
    #[inline]
    pub fn ingress<'a>(&'a self, now: Tick, cache: &'a mut LookupCache) -> Ingress<'a> {
        Ingress {
            fabric: self,
            now: fdb::seconds(now),
            cache,
            last: None,
            answer: Destinations::nowhere(PortId::FIRST, DropReason::NoDestination),
        }
    }

    #[inline(never)]
    fn decide_flood(&self, source: PortId, vid: Vid) -> Result<(Vid, Kind), DropReason> {
        if self.flood(source, vid).is_empty() {
            return Err(DropReason::NoDestination);
        }
        Ok((vid, Kind::Flood))
    }

    /// The ports of a decision: none, one, or all that a flood reaches.
    pub fn ports(&self, destinations: &Destinations) -> PortSet {
        match destinations.kind {
            Kind::Drop(_) => PortSet::EMPTY,
            Kind::Port(to) => PortSet::from_iter([to]),
            Kind::Flood => self.flood(destinations.source, destinations.vid),
        }
    }

    /// With which tag a frame of that VLAN leaves by `to`.
    #[inline]
    pub fn egress_tag(&self, to: PortId, vid: Vid) -> EgressTag {
        self.vlans.egress_tag(to, vid)
    }

    /// Whether frames may leave by `to` with a tag; if not, none ever does.
    #[inline]
    pub fn is_trunk(&self, to: PortId) -> bool {
        self.vlans.is_trunk(to)
    }

    #[inline(always)]
    fn is_legal(&self, source: PortId, vid: Vid, to: PortId) -> bool {
        self.reach.allows(source, to) && self.vlans.segment(vid).contains(to)
    }

    fn flood(&self, source: PortId, vid: Vid) -> PortSet {
        self.reach.of(source).intersection(self.vlans.segment(vid))
    }
}

/// The decisions for a burst: see [`Fabric::ingress`].
#[derive(Debug)]
pub struct Ingress<'a> {
    fabric: &'a Fabric,
    now: u32,
    cache: &'a mut LookupCache,
    /// What the last answer rests on, where it may serve again.
    last: Option<Last<'a>>,
    answer: Destinations,
}

/// What the last answer of a burst rests on. It holds for the next frame without a tag between the same two stations as
/// long as the table has not changed its mind about either: what else it was made of, the VLANs, the reach and the
/// second, is the same for the whole burst.
#[derive(Debug)]
struct Last<'a> {
    src: Mac,
    dst: Mac,
    heard: Witness<'a>,
    found: Witness<'a>,
}

/// What vouches for a destination beside its frame: see [`Ingress::standing`].
#[derive(Clone, Copy, Debug)]
pub struct Standing<'a> {
    heard: Witness<'a>,
    found: Witness<'a>,
}

impl Standing<'_> {
    /// Whether the table has not changed its mind.
    #[inline(always)]
    pub fn holds(&self) -> bool {
        self.heard.holds() && self.found.holds()
    }
}

impl<'a> Ingress<'a> {
    /// What the last answer rests on besides the frame: as long as it [`holds`](Standing::holds), the answer is that of any further
    /// frame of the burst without a tag between the same two stations. `None` when the answer was only this frame's.
    pub fn standing(&self) -> Option<Standing<'a>> {
        let &Last { heard, found, .. } = self.last.as_ref()?;
        Some(Standing { heard, found })
    }

    /// To which port frames for an address in a VLAN were sent last, if that is remembered. It decides nothing: it is for whoever
    /// wants to have something at hand that will be asked for.
    pub fn guess(&self, vid: u16, mac: Mac) -> Option<PortId> {
        self.cache.guess(vid, mac)
    }

    /// Decides where a frame goes, and learns where it came from.
    ///
    /// In this order: the frame's VLAN; its source address, learned, or refused when it is declared for another
    /// port; its destination address.
    #[inline(always)]
    pub fn forward(&mut self, admitted: &Admitted<'_>) -> Destinations {
        if !self.holds_for(admitted) {
            // A copy, so that the frame itself need not have an address.
            let admitted = *admitted;
            self.decide(&admitted);
        }
        self.answer
    }

    /// Whether the last answer is this frame's, too.
    #[inline(always)]
    fn holds_for(&self, admitted: &Admitted<'_>) -> bool {
        let frame = admitted.frame();
        self.last.as_ref().is_some_and(|last| {
            last.dst == frame.dst()
                && last.src == frame.src()
                && self.answer.source == admitted.source()
                && frame.tag().is_none()
                && last.heard.holds()
                && last.found.holds()
        })
    }

    #[inline(never)]
    fn decide(&mut self, admitted: &Admitted<'_>) {
        let source = admitted.source();
        self.last = None;
        self.answer = match self.decision(admitted) {
            Ok((vid, kind)) => Destinations { source, vid, kind },
            Err(reason) => Destinations::nowhere(source, reason),
        };
    }

    #[inline(always)]
    fn decision(&mut self, admitted: &Admitted<'_>) -> Result<(Vid, Kind), DropReason> {
        let (source, frame) = (admitted.source(), admitted.frame());
        let Fabric { vlans, fdb, .. } = self.fabric;
        let vid = vlans.classify(source, frame)?;
        let heard = fdb.learn_witnessed(source, vid, frame.src(), self.now, self.cache)?;
        if !frame.dst().is_group()
            && let Some((to, found)) = fdb.lookup_witnessed(vid, frame.dst(), self.now, self.cache)
        {
            if to == source {
                return Err(DropReason::Hairpin);
            }
            if !self.fabric.is_legal(source, vid, to) {
                return Err(DropReason::Unreachable);
            }
            if let (Some(heard), Some(found)) = (heard, found)
                && frame.tag().is_none()
            {
                self.last = Some(Last {
                    src: frame.src(),
                    dst: frame.dst(),
                    heard,
                    found,
                });
            }
            return Ok((vid, Kind::Port(to)));
        }
        self.fabric.decide_flood(source, vid)
    }
}
