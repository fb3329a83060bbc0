//! VLAN tags (IEEE 802.1Q, clause 9), and their insertion and removal in a header.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::ethernet::{Frame, HEADER};

/// Length of a tag.
pub const TAG: usize = 4;

/// The TPID of a customer VLAN tag, the only one that the switch honours.
pub const TPID: u16 = 0x8100;

/// Whether an EtherType announces a tag: 802.1Q, 802.1ad, and the types that were used for stacking before it.
#[inline]
pub const fn is_tpid(ethertype: u16) -> bool {
    // The first comparison is all that IPv4 and ARP need.
    ethertype >= TPID && matches!(ethertype, TPID | 0x88a8 | 0x9100 | 0x9200 | 0x9300)
}

/// A VLAN that frames can be in: 1 to 4094.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Vid(u16);

impl Vid {
    /// The VLAN of ports that name none (IEEE 802.1Q, table 9-2: the default PVID).
    pub const DEFAULT: Self = Self(1);
    /// The highest.
    pub const MAX: Self = Self(4094);

    /// That VLAN; `None` for 0 and from 4095 on.
    pub const fn new(vid: u16) -> Option<Self> {
        if vid >= 1 && vid <= Self::MAX.0 {
            Some(Self(vid))
        } else {
            None
        }
    }

    /// The number, 1 to 4094.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u16> for Vid {
    type Error = String;

    fn try_from(vid: u16) -> Result<Self, String> {
        Self::new(vid).ok_or_else(|| format!("{vid} is not a VLAN; choose 1 to 4094"))
    }
}

impl From<Vid> for u16 {
    fn from(vid: Vid) -> Self {
        vid.0
    }
}

impl fmt::Display for Vid {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.0)
    }
}

/// A tag as it stands on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    tpid: u16,
    tci: u16,
}

impl Tag {
    /// The tag with this TPID and tag control information.
    pub const fn new(tpid: u16, tci: u16) -> Self {
        Self { tpid, tci }
    }

    /// The EtherType that announced it.
    pub const fn tpid(self) -> u16 {
        self.tpid
    }

    /// The VLAN identifier, 0 to 4095: 0 is a priority tag, 4095 is reserved.
    pub const fn vid(self) -> u16 {
        self.tci & 0x0fff
    }

    /// The VLAN, when the identifier names one.
    pub const fn vlan(self) -> Option<Vid> {
        Vid::new(self.vid())
    }

    /// Priority and drop eligibility: the upper four bits, in place.
    pub const fn priority(self) -> u16 {
        self.tci & 0xf000
    }
}

/// The new beginning of a frame whose tag was inserted, changed or removed.
///
/// Delivered are [`Head::bytes`], then the frame from byte [`Head::replaces`] on.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    bytes: [u8; HEADER + TAG],
    len: u8,
    replaces: u8,
}

impl Head {
    /// The new first bytes: 14 without, 18 with a tag.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len.into()).unwrap_or(&self.bytes)
    }

    /// How many bytes of the old frame they stand for: 14 or 18.
    pub fn replaces(&self) -> usize {
        self.replaces.into()
    }

    /// By how much the frame grows: -4, 0 or 4. Every offset behind layer 2 moves by as much.
    pub fn shift(&self) -> i16 {
        i16::from(self.len) - i16::from(self.replaces)
    }
}

/// The beginning of `frame` when it leaves with a tag of `vlan`, or without a tag. A tag that it had is
/// replaced; its priority is kept.
pub fn retag(frame: &Frame<'_>, vlan: Option<Vid>) -> Head {
    let [_, _, d0, d1, d2, d3, d4, d5] = frame.dst().bits().to_be_bytes();
    let [_, _, s0, s1, s2, s3, s4, s5] = frame.src().bits().to_be_bytes();
    let [t0, t1] = frame.ethertype().to_be_bytes();
    let replaces = if frame.tag().is_some() { 18 } else { 14 };
    match vlan {
        None => Head {
            bytes: [
                d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1, 0, 0, 0, 0,
            ],
            len: 14,
            replaces,
        },
        Some(vid) => {
            let [p0, p1] = TPID.to_be_bytes();
            let priority = frame.tag().map_or(0, Tag::priority);
            let [c0, c1] = (priority | vid.get()).to_be_bytes();
            Head {
                bytes: [
                    d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, p0, p1, c0, c1, t0, t1,
                ],
                len: 18,
                replaces,
            }
        }
    }
}
