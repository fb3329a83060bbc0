//! The gate: the only maker of an [`Admitted`] frame and of a [`Permit`].
//!
//! A frame passes twice. [`Judge::admit`] judges it by the port that it really came from, before anything is
//! learned from it; [`Judge::permit`] judges the pair of that port and one receiver, once for each receiver.
//! Both results can be made only here, and the rooms behind ask for them by type: the fabric learns from and
//! forwards only what was admitted, a copy is made only under a permit. So no step can be skipped.
//!
//! ```text
//! admit    digest        the fields that rules read, packed: the subject           (digest, subject)
//!          flow cache    under the whole subject, of this source port alone         (cache)
//!          guard         port security, on a miss and for all that is not data      (guard, lease)
//!          meters        what the port may send                                    (meter)
//! permit   flow cache    what was judged of this receiver, if it still holds
//!          tracking      the connection, and the packet's state in it              (track)
//!          lists         outbound of the source, inbound of the receiver           (acl, rule)
//! ```
//!
//! A [`Policy`] is one immutable snapshot with an epoch. A worker takes one for a burst; it is replaced as a
//! whole, so that no frame is judged by a mixture of two. A port that it does not name passes nothing. What outlives
//! policies (sticky addresses, leases, buckets, connections) is the [`State`] that they share.
//!
//! # What lists say
//!
//! A frame from A to B needs the leave of A's outbound list and of B's inbound list; a list that is not there
//! gives it, or under `default = "deny"` gives it to addressing alone. The first rule that matches decides. The end of a list
//! denies all but *addressing*: ARP, RARP and neighbour discovery (RFC 4861: RS, RA, NS, NA), without which a guest
//! cannot be reached at all. A rule that names them may deny them; one about everything (`reject = "any"`) does not mean them.
//!
//! A packet of a tracked connection needs no leave any more, unless a rule that names its state denies it. The
//! side whose list let the connection open by a stateless rule is not *covered*, and is asked again. An invalid packet
//! passes only by rules that name `invalid`. Of a port without any list nothing is tracked, unless the other has one.

pub mod acl;
mod cache;
mod context;
pub mod digest;
mod gate;
pub mod groups;
pub mod guard;
#[cfg(test)]
mod history;
mod hits;
mod judge;
pub mod lease;
mod lists;
pub mod log;
mod meter;
pub mod quarantine;
#[cfg(any(test, fuzzing))]
pub mod reference;
pub mod reject;
pub mod rule;
mod run;
pub mod scan;
pub mod spec;
mod state;
pub mod subject;
#[cfg(any(test, fuzzing))]
pub mod testing;
#[cfg(test)]
mod tests;
pub mod track;
mod verdict;

pub use context::{Context, Trace};
pub use gate::{Policy, RuleInfo};
pub use hits::Heritage;
pub use judge::{Desk, Judge};
pub use run::HEAD;
pub use state::State;
pub use verdict::{Admitted, Permit, Refusal, Weight};

use crate::frame::Mac;

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
