//! Tags, LLC and EtherTypes: what may not wrap anything, and what the port may not speak.
//!
//! | frame | guarded, no `ip` | with `ip` | with `may.link_protocols` |
//! |---|---|---|---|
//! | tag of VID 0 or 4095, TPID other than 0x8100, second tag | encapsulation-refused | the same | the same |
//! | LLC/SNAP, whatever it carries; IP or ARP over bare LLC | encapsulation-refused | the same | the same |
//! | EtherTypes of [`WRAPPERS`]: MAC-in-MAC, VN-tag, E-tag, TRILL | encapsulation-refused | the same | the same |
//! | spanning tree, IS-IS and ES-IS over LLC | protocol-refused | the same | passes |
//! | EtherTypes of [`LINK_PROTOCOLS`] | protocol-refused | the same | passes |
//! | other LLC (IPX, NetBIOS, ...) | passes | protocol-refused | passes |
//! | other EtherTypes (MPLS, PPPoE, 0x88B5, ...) | passes, never read deeper | protocol-refused | as without |
//! | length field under 3, over 1500 or over the frame | header-invalid | the same | the same |
//!
//! What is addressed to a reserved group is not forwarded in any case; that is decided before.

use super::arp;
use super::speaker::Speaker;
use crate::counters::DropReason;
use crate::frame::ethernet::ethertype;
use crate::frame::llc::{Llc, sap};
use crate::frame::{Frame, Unseen, vlan};

/// EtherTypes that carry whole frames, as tags do.
const WRAPPERS: [u16; 4] = [
    0x22f3, // TRILL (RFC 6325)
    0x88e7, // MAC-in-MAC (IEEE 802.1ah, I-TAG)
    0x8926, // VN-tag
    0x893f, // E-tag (IEEE 802.1BR)
];

/// EtherTypes of protocols between bridges and their neighbours, which a guest has no part in.
const LINK_PROTOCOLS: [u16; 16] = [
    0x22ea, // MSRP (IEEE 802.1Qat)
    0x22f4, // IS-IS of TRILL
    0x8808, // MAC control: PAUSE, PFC (IEEE 802.3, annex 31)
    0x8809, // Slow protocols: LACP, OAM, ESMC (IEEE 802.3, annex 57A)
    0x888e, // EAPOL (IEEE 802.1X)
    0x88c7, // Pre-authentication (IEEE 802.11)
    0x88cc, // LLDP (IEEE 802.1AB)
    0x88e1, // HomePlug management
    0x88e3, // MRP, rings (IEC 62439-2)
    0x88f5, // MVRP (IEEE 802.1Q)
    0x88f6, // MMRP (IEEE 802.1Q)
    0x88f7, // PTP (IEEE 1588): whoever speaks it sets others' clocks
    0x88fb, // PRP and HSR supervision (IEC 62439-3)
    0x8902, // CFM (IEEE 802.1ag)
    0x8940, // ECP (IEEE 802.1Qbg)
    0x9000, // Configuration test: has others send frames
];

/// Refuses a tag that is no plain VLAN tag.
pub(super) fn judge_tag(frame: &Frame<'_>) -> Result<(), DropReason> {
    let is_plain = frame
        .tag()
        .is_none_or(|tag| tag.tpid() == vlan::TPID && tag.vlan().is_some());
    if is_plain && !frame.is_stacked() {
        Ok(())
    } else {
        Err(DropReason::EncapsulationRefused)
    }
}

/// Judges an IEEE 802.3 frame. It is no addressing.
pub(super) fn judge_llc(speaker: &Speaker<'_>, frame: &Frame<'_>) -> Result<bool, DropReason> {
    let at = frame.l3_offset();
    let bytes = frame.bytes().get(at..).unwrap_or(&[]);
    let available = (frame.total_len() as usize).saturating_sub(at);
    // A SNAP header counts as one whatever the length says: some receivers read on all the same.
    match bytes.first_chunk::<2>() {
        Some(saps) if saps.iter().any(|sap| sap & 0xfe == sap::SNAP) => {
            return Err(DropReason::EncapsulationRefused);
        }
        None if available >= 2 => return Err(DropReason::HeadersTooLong),
        _ => {}
    }
    let header = match Llc::parse(bytes, frame.ethertype(), available) {
        Ok(header) => header,
        Err(Unseen::BeyondSnapshot) => return Err(DropReason::HeadersTooLong),
        Err(Unseen::Malformed | Unseen::TooMany) => return Err(DropReason::HeaderInvalid),
    };
    let may = speaker.guard.may.link_protocols;
    if header.names(sap::IP) || header.names(sap::ARP) {
        Err(DropReason::EncapsulationRefused)
    } else if !may
        && (header.names(sap::BRIDGE) || header.names(sap::ISO) || speaker.has_addresses())
    {
        Err(DropReason::ProtocolRefused)
    } else {
        Ok(false)
    }
}

/// Judges a frame of an EtherType that is neither IP nor ARP. Says whether it is addressing.
pub(super) fn judge_ethertype(
    speaker: &Speaker<'_>,
    frame: &Frame<'_>,
) -> Result<bool, DropReason> {
    let number = frame.ethertype();
    if number == ethertype::RARP {
        return arp::judge_rarp(speaker, frame);
    }
    if WRAPPERS.contains(&number) {
        return Err(DropReason::EncapsulationRefused);
    }
    let passes = if LINK_PROTOCOLS.contains(&number) {
        speaker.guard.may.link_protocols
    } else {
        !speaker.has_addresses()
    };
    if passes {
        Ok(false)
    } else {
        Err(DropReason::ProtocolRefused)
    }
}

/// Judges a frame whose EtherType is one of IP or ARP and whose header is none that can be read.
pub(super) fn judge_unreadable(
    speaker: &Speaker<'_>,
    frame: &Frame<'_>,
) -> Result<bool, DropReason> {
    if frame.ethertype() != ethertype::ARP {
        Err(DropReason::HeaderInvalid)
    } else if speaker.has_name() {
        Err(DropReason::ArpSpoofed)
    } else {
        Ok(true)
    }
}
