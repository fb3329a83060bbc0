//! Port security: whether a port may say what a frame says, judged by the port alone that the frame really came from.
//!
//! A [`Guard`] is compiled from a [`GuardSpec`] and does not change; what a port's guard remembers from frame to frame
//! is its [`GuardState`]. What is checked, and in which order:
//!
//! ```text
//! source MAC       declared, or the first that was heard; multicast and zero are refused by the gate before
//! encapsulation    a tag of VID 0 or 4095, of another TPID than 0x8100, a second tag, LLC/SNAP, IP or ARP over bare
//!                  LLC, MAC-in-MAC: refused, so that nothing comes wrapped that is refused plain (VU#855201)
//! link protocols   see `layer2`: refused unless the port may speak them
//! EtherTypes       with `ip`: IPv4, IPv6, ARP; without, unknown ones are data of layer 2 and never read deeper
//! headers          what contradicts itself or the frame, source routes, headers that cannot be followed: refused
//! roles            router advertisements and redirects, DHCP servers: refused unless the port may be one
//! ARP, ND, DHCP    speak in the port's own name, whatever the address list says
//! source IP        impossible ones never; with `ip`, the port's own
//! addressing rate  ARP and neighbour discovery that passed all this
//! ```
//!
//! A guard that has nothing to refuse (any MAC, any IP, may be everything: an uplink) is *open* and reads nothing. Every other
//! one is *guarded*, and reads control packets whole: a packet of which the snapshot shows too little to judge is refused as
//! [`DropReason::HeadersTooLong`], and may be shown again with a longer snapshot, which must not change any other answer.
//!
//! For plain data (not [`Digest::is_control`]) the answer depends on the guard, the [`Subject`](super::subject::Subject) and
//! [`GuardState::generation`] and on nothing else, so that it can be kept with these three.

mod addresses;
mod arp;
mod dhcp;
mod discovery;
mod ip;
mod layer2;
mod speaker;
mod state;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use addresses::Addresses;
pub(super) use ip::{is_possible_v4, is_possible_v6};
use speaker::Speaker;
pub use state::GuardState;
use state::Kept;

use super::digest::Digest;
use super::lease::MAX_LEASES;
use super::spec::{GuardSpec, IpSpec, MacSpec, May};
use crate::clock::Tick;
use crate::counters::DropReason;
use crate::frame::{Frame, Mac, Network, Unseen, ipv6};

/// Port security of one port, compiled.
#[derive(Clone, Debug)]
pub struct Guard {
    mac: MacRule,
    ip: IpRule,
    may: May,
    max_leases: u16,
    /// Nanoseconds for each packet of addressing; 0: no limit.
    pace: u64,
    is_open: bool,
}

#[derive(Clone, Debug)]
enum MacRule {
    Sticky,
    /// Ascending.
    Declared(Box<[Mac]>),
    Any,
}

#[derive(Clone, Debug)]
enum IpRule {
    Any,
    Declared {
        addresses: Addresses,
        /// No link-local address is declared: the one of the port's MAC address is meant too.
        link_local_of_mac: bool,
    },
    Dhcp,
}

/// What becomes of a frame that is not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It passes.
    Pass,
    /// It passes, and its source address is from now on the one that the port keeps ([`MacSpec::Sticky`]): the caller
    /// enters it in the FDB as the port's own. Where that fails, since it is another port's, the caller refuses the
    /// frame and calls [`GuardState::release`].
    Claim(Mac),
}

impl Guard {
    /// Compiles a specification.
    pub fn new(spec: &GuardSpec) -> Self {
        let mac = match &spec.mac {
            MacSpec::Sticky => MacRule::Sticky,
            MacSpec::Declared(macs) => {
                let mut macs = macs.clone();
                macs.sort_unstable();
                MacRule::Declared(macs.into())
            }
            MacSpec::Any => MacRule::Any,
        };
        let ip = match &spec.ip {
            IpSpec::Any => IpRule::Any,
            IpSpec::Declared(prefixes) => IpRule::Declared {
                addresses: Addresses::compile(prefixes),
                link_local_of_mac: !prefixes.iter().any(
                    |prefix| matches!(prefix.network(), IpAddr::V6(net) if ipv6::is_link_local(net)),
                ),
            },
            IpSpec::Dhcp => IpRule::Dhcp,
        };
        Self {
            max_leases: match ip {
                IpRule::Dhcp => spec.max_leases.min(MAX_LEASES),
                IpRule::Any | IpRule::Declared { .. } => 0,
            },
            mac,
            ip,
            may: spec.may,
            pace: 1_000_000_000u64
                .checked_div(spec.addressing_per_second.into())
                .unwrap_or(0),
            is_open: spec.is_open(),
        }
    }

    /// Whether it has nothing to refuse: nothing of a frame needs to be read for it.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// What the port may be besides a plain guest.
    pub fn may(&self) -> May {
        self.may
    }

    /// How many leases the port may have at once; 0 unless its addresses are those of its leases.
    pub fn max_leases(&self) -> u16 {
        self.max_leases
    }

    /// Whether `mac` is known to be the port's: declared for it, or the one that it was first heard with. Nobody's is where any
    /// goes.
    pub fn owns_mac(&self, state: &GuardState, mac: Mac) -> bool {
        match &self.mac {
            MacRule::Sticky => state.kept() == Some(mac),
            MacRule::Declared(macs) => macs.binary_search(&mac).is_ok(),
            MacRule::Any => false,
        }
    }

    /// Whether `mac` is the port's, or may become it: of one that keeps the first that it hears, any.
    pub fn may_own_mac(&self, mac: Mac) -> bool {
        match &self.mac {
            MacRule::Sticky => true,
            MacRule::Declared(macs) => macs.binary_search(&mac).is_ok(),
            MacRule::Any => false,
        }
    }

    /// Judges a frame of the port that `state` belongs to. `digest` is the frame's own.
    ///
    /// # Errors
    ///
    /// See the reasons from [`DropReason::SourceMacSpoofed`] to [`DropReason::AddressingRate`], and
    /// [`DropReason::HeadersTooLong`] when a longer snapshot could change the answer.
    #[inline]
    pub fn judge(
        &self,
        state: &GuardState,
        frame: &Frame<'_>,
        digest: &Digest,
        now: Tick,
    ) -> Result<Outcome, DropReason> {
        if self.is_open {
            return Ok(Outcome::Pass);
        }
        state.age(now);
        let mac = digest.subject.src_mac();
        let is_new = self.judge_mac(state, mac, now)?;
        let speaker = Speaker {
            guard: self,
            state,
            mac,
            vid: digest.subject.vid(),
        };
        if digest.is_control {
            self.judge_control(&speaker, frame, now)?;
        } else {
            ip::judge_data(&speaker, &digest.subject)?;
        }
        if !is_new {
            return Ok(Outcome::Pass);
        }
        match state.keep(mac) {
            Kept::Now => Ok(Outcome::Claim(mac)),
            Kept::Already => Ok(Outcome::Pass),
            Kept::Another => Err(DropReason::SourceMacSpoofed),
        }
    }

    /// Says whether the address is one to be kept.
    #[inline]
    fn judge_mac(&self, state: &GuardState, mac: Mac, now: Tick) -> Result<bool, DropReason> {
        if !mac.is_station() {
            return Err(DropReason::SourceMacInvalid);
        }
        match (&self.mac, state.kept()) {
            (MacRule::Any, _) => Ok(false),
            (MacRule::Sticky, None) if state.is_barred(now) => Err(DropReason::MacOfOtherPort),
            (MacRule::Sticky, None) => Ok(true),
            _ if self.owns_mac(state, mac) => Ok(false),
            _ => Err(DropReason::SourceMacSpoofed),
        }
    }

    #[cold]
    fn judge_control(
        &self,
        speaker: &Speaker<'_>,
        frame: &Frame<'_>,
        now: Tick,
    ) -> Result<(), DropReason> {
        layer2::judge_tag(frame)?;
        let layers = frame.layers();
        let is_addressing = match layers.network {
            Network::Arp(packet) => arp::judge(speaker, frame, &packet)?,
            Network::Ipv4(header) => ip::judge_v4(speaker, frame, &layers, &header)?,
            Network::Ipv6(header) => ip::judge_v6(speaker, frame, &layers, &header)?,
            Network::Llc => layer2::judge_llc(speaker, frame)?,
            Network::Unknown => layer2::judge_ethertype(speaker, frame)?,
            Network::Unseen(Unseen::BeyondSnapshot) => return Err(DropReason::HeadersTooLong),
            Network::Unseen(Unseen::Malformed | Unseen::TooMany) => {
                layer2::judge_unreadable(speaker, frame)?
            }
        };
        if is_addressing && self.pace != 0 && !speaker.state.pace(self.pace, now) {
            return Err(DropReason::AddressingRate);
        }
        Ok(())
    }
}
