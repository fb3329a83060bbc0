//! Access lists: which rule of a list a frame meets first.
//!
//! # What is promised
//!
//! [`Classifier::judge`] gives the first rule of the list, in the order of the configuration, that matches; exactly that
//! which the reference finds by trying one rule after the other on the frame itself. It reads the
//! peer's port and the [`Subject`], nothing else; it allocates nothing, and what it costs depends on the shapes of the
//! rules and not on their number.
//!
//! # What a rule says of what is not known
//!
//! A condition holds, does not hold, or is *open*: what it asks for could not be read. A rule that allows matches when all its
//! conditions hold. A rule that denies or rejects matches when there may be a packet behind what was read that meets
//! all its conditions: none fails, whatever is open. What is open:
//!
//! | of a packet | of an IP packet | protocol | ports, ICMP types, TCP flags |
//! |---|---|---|---|
//! | readable ([`Depth::Ports`](super::subject::Depth)) | known | known | known |
//! | later fragment, layer 4 cut short ([`Depth::Protocol`](super::subject::Depth)) | known | known | open |
//! | extension headers that cannot be followed ([`Depth::Nothing`](super::subject::Depth)) | known | open | open |
//! | EtherType 0x0800 or 0x86DD without a readable header of that family | open, its family not | open | open |
//!
//! - *Never open* are the ports of the switch, MAC addresses, VLAN, EtherType and state. A frame of another EtherType,
//!   with LLC, or with a tag behind its tag is no IP packet, whatever it carries (E-9, E-34): rules about IP, addresses or layer 4 do
//!   not match it, rules about its EtherType and about everything do. To refuse encapsulations is the guard's.
//! - *Conditions on layer 4 name protocols.* Ports are those of TCP and UDP, flags those of TCP, types those of ICMP over IPv4 or ICMPv6
//!   over IPv6; over another protocol they fail. So a denied TCP port is not met by a fragment of a UDP packet, and a rule
//!   with conditions that no packet meets together matches nothing, not even the unknown.
//! - *`fragments`* takes the conditions on layer 4 off an allow rule for later fragments, whose protocol must be known and fit.
//! - ESP, and AH over IPv4, are protocols like any other; what is behind them is not looked for. Over IPv6 the next header numbers for
//!   experiments, 253 and 254, may be extension headers or protocols: the protocol behind them is open.
//! - *State.* A rule without states is about new and untracked packets.
//!
//! # How it is found
//!
//! Rules are multiplied out into triples ([`expand`]): under this mask the words of the subject are this, for the rule at
//! this place. Ports of the switch are no field of the subject; they divide peers into classes ([`peers`]), ports that
//! no condition tells apart, and each class has its own tables. The triples are divided by view ([`view`]): family and
//! protocol, known or not, fresh or of a connection. What a view settles is no condition any more, so that few masks
//! are left in each, and [`plan`] puts those into a few hash tables ([`space`]).

mod compiler;
mod expand;
mod peers;
mod plan;
mod space;
#[cfg(test)]
mod tests;
mod view;

use crate::counters::PortId;

use super::rule::{Decision, Direction, Rule, RuleId, Who};
use super::subject::Subject;

pub use compiler::Compiler;

use expand::{Expansion, Placed};
use peers::Peers;
use plan::Scratch;
use space::{NONE, Space};

/// The most combinations of conditions that the lists of one policy may come to, each class of peers counted: some
/// hundred bytes each.
pub const MAX_TRIPLES: usize = 2_000_000;

/// Rules whose alternatives come to too many combinations.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{}rule {}{}: with it the policy comes to more than {MAX_TRIPLES} combinations of conditions; \
     give it fewer alternatives, or prefixes and ranges that take several together",
    place(.origin), .rule.0, quoted(.name)
)]
pub struct TooLarge {
    /// The first rule that was too much.
    pub rule: RuleId,
    /// Its name; may be empty.
    pub name: String,
    /// Where it was written.
    pub origin: String,
}

fn place(origin: &str) -> String {
    if origin.is_empty() {
        String::new()
    } else {
        format!("{origin}: ")
    }
}

fn quoted(name: &str) -> String {
    if name.is_empty() {
        String::new()
    } else {
        format!(" {name:?}")
    }
}

impl TooLarge {
    fn new(id: RuleId, rule: &Rule) -> Self {
        Self {
            rule: id,
            name: rule.name.clone(),
            origin: rule.origin.clone(),
        }
    }
}

/// One compiled list.
#[derive(Debug)]
pub struct Classifier {
    rules: Box<[Decision]>,
    /// The class of each port as peer; ports behind the end are in class 0.
    class_of: Box<[u16]>,
    /// The tables of each class.
    spaces: Box<[Space]>,
    /// The triples of all classes, where it would be too much to repeat them in each.
    common: Option<Space>,
    /// Some rule is about MAC addresses.
    reads_macs: bool,
}

impl Classifier {
    /// Compiles a list for the port `own` of a switch with that many ports.
    ///
    /// # Errors
    ///
    /// [`TooLarge`] when the list alone comes to more than [`MAX_TRIPLES`].
    pub fn compile(
        rules: &[(RuleId, &Rule)],
        direction: Direction,
        own: PortId,
        ports: usize,
    ) -> Result<Self, TooLarge> {
        Self::within(MAX_TRIPLES, rules, direction, own, ports).map(|(classifier, _)| classifier)
    }

    /// Compiles a list to at most `limit` triples; tells how many are left.
    fn within(
        limit: usize,
        rules: &[(RuleId, &Rule)],
        direction: Direction,
        own: PortId,
        ports: usize,
    ) -> Result<(Self, usize), TooLarge> {
        let peers = Peers::of(rules.iter().map(|(_, rule)| *rule), direction, ports);
        let (placed, left) = Expansion::new(&peers, direction, own, limit).run(rules)?;
        let scratch = &mut Scratch::new();
        let (general, special): (Vec<_>, Vec<_>) =
            placed.iter().partition(|placed| placed.peers.is_none());
        let repeats = general.len().saturating_mul(peers.members().len());
        let is_common = repeats > (2 * placed.len()).max(REPEATED);
        let of_set = by_set(special);
        let spaces = peers.members().iter().map(|sets| {
            let own = sets
                .iter()
                .filter_map(|set| of_set.get(set.index()))
                .flatten()
                .copied();
            let everybody = general.iter().copied().filter(|_| !is_common);
            Space::build(in_order(everybody.chain(own)), scratch)
        });
        let spaces = spaces.collect();
        let common = is_common.then(|| Space::build(in_order(general.into_iter()), scratch));
        let classifier = Self {
            rules: rules
                .iter()
                .map(|(id, rule)| Decision {
                    action: rule.action,
                    rule: Some(*id),
                })
                .collect(),
            class_of: peers.into_classes(),
            spaces,
            common,
            reads_macs: rules.iter().any(|(_, rule)| {
                let mut parties = rule.from.iter().chain(&rule.to);
                parties.any(|who| matches!(who, Who::Mac(_)))
            }),
        };
        Ok((classifier, left))
    }

    /// Whether some rule is about MAC addresses.
    #[inline]
    pub fn reads_macs(&self) -> bool {
        self.reads_macs
    }

    /// The first rule that matches; `None` at the end of the list. `peer` is the receiver for an outbound list, the
    /// sender for an inbound one.
    #[inline]
    pub fn judge(&self, peer: PortId, subject: &Subject) -> Option<Decision> {
        let class = self.class_of.get(peer.index()).copied().unwrap_or(0);
        let space = self.spaces.get(usize::from(class))?;
        let view = view::view_of(subject.0[0]);
        let mut best = NONE;
        if let Some(common) = &self.common {
            best = common.find(view, &subject.0, best);
        }
        best = space.find(view, &subject.0, best);
        self.rules.get(best as usize).copied()
    }
}

/// So many triples may be repeated in the classes, however few there are.
const REPEATED: usize = 1024;

fn by_set(special: Vec<&Placed>) -> Vec<Vec<&Placed>> {
    let mut of_set: Vec<Vec<&Placed>> = Vec::new();
    for placed in special {
        let Some(set) = placed.peers else { continue };
        if of_set.len() <= set.index() {
            of_set.resize_with(set.index() + 1, Vec::new);
        }
        if let Some(of) = of_set.get_mut(set.index()) {
            of.push(placed);
        }
    }
    of_set
}

/// Triples with their views, by the place of their rules.
fn in_order<'a>(placed: impl Iterator<Item = &'a Placed>) -> Vec<(usize, &'a expand::Triple)> {
    let mut triples: Vec<_> = placed.map(|placed| (placed.view, &placed.triple)).collect();
    triples.sort_by_key(|(_, triple)| triple.position);
    triples
}
