//! Case E-30: what became of a frame does not depend on what was sent before.
//!
//! A frame is judged by a gate that has judged nothing else, by one that has judged a great many frames of all ports since, and is to have
//! the same verdict. That is so where nothing is meant to be remembered: no sticky addresses, no leases, no limits, and rules
//! that open no connections; what a connection remembers is `track`'s, and tested there. Everything else is in it: guards, caches,
//! lists in both directions, control frames, fragments, frames that are cut short.

use std::sync::Arc;

use super::rule::{Kind, Rule};
use super::spec::{GuardSpec, IpSpec, MacSpec, May, PolicySpec, PortPolicy};
use super::testing::{Dice, PORTS};
use super::*;
use crate::clock::Tick;
use crate::counters::{DropReason, PortId};
use crate::frame::{Frame, Vid};

/// Frames whose verdicts are compared.
const WATCHED: usize = 300;

/// Frames that are a bit beside each of these, and where: most headers end there.
const NEIGHBOURS: usize = 24;
const HEADERS: usize = 60;

/// Frames between the two, of each policy.
fn between() -> usize {
    if std::env::var_os("PORTCULLIS_LONG").is_some() {
        1_000_000
    } else {
        20_000
    }
}

/// Policies by lot.
fn policies() -> u64 {
    if std::env::var_os("PORTCULLIS_LONG").is_some() {
        16
    } else {
        8
    }
}

/// Rules that open no connection, half of them about one port each. Some of them log, which is to change no verdict either.
fn list(dice: &mut Dice<'_>) -> Arc<[Rule]> {
    let drawn = dice.rules(12);
    let rules = drawn.into_iter().map(|rule| {
        let rule = if dice.once_in(2) {
            let (protocol, port) = (dice.one(&[6, 17]), dice.number());
            Rule {
                kind: Kind::Ip {
                    family: None,
                    protocol: Some(protocol),
                },
                port: vec![port..=port],
                ..Rule::any(rule.action)
            }
        } else {
            rule
        };
        Rule {
            stateless: true,
            log: rule.fragments,
            ..rule
        }
    });
    rules.collect()
}

fn guard(dice: &mut Dice<'_>) -> GuardSpec {
    if dice.once_in(2) {
        return GuardSpec::open();
    }
    let mac = if dice.once_in(2) {
        MacSpec::Any
    } else {
        MacSpec::Declared(
            (0..3)
                .map(|_| dice.mac())
                .filter(|mac| mac.is_station())
                .chain([Mac::from_bits(0x5254_0000_0001)])
                .collect(),
        )
    };
    let ip = if dice.once_in(2) {
        IpSpec::Any
    } else {
        let addresses = [dice.ipv4(), dice.ipv4(), dice.ipv4()];
        let six = [dice.ipv6(), dice.ipv6()];
        let four = addresses
            .into_iter()
            .map(|address| std::net::IpAddr::from(address).into());
        let six = six
            .into_iter()
            .map(|address| std::net::IpAddr::from(address).into());
        IpSpec::Declared(four.chain(six).collect())
    };
    GuardSpec {
        mac,
        ip,
        may: May {
            dhcp_server: dice.once_in(2),
            router: dice.once_in(2),
            link_protocols: dice.once_in(2),
        },
        ..GuardSpec::default()
    }
}

fn spec(dice: &mut Dice<'_>) -> PolicySpec {
    let port = |dice: &mut Dice<'_>| {
        // Both lists or none: what leaves by no list, and may come back by one, is a connection.
        let has_lists = !dice.once_in(4);
        PortPolicy {
            guard: guard(dice),
            outbound: has_lists.then(|| list(dice)),
            inbound: has_lists.then(|| list(dice)),
            untagged: Vid::new(dice.vid()),
            ..PortPolicy::default()
        }
    };
    PolicySpec {
        ports: (0..PORTS).map(|_| Some(port(dice))).collect(),
        default_deny: dice.once_in(3),
        ..PolicySpec::default()
    }
}

/// A policy with all that a switch has besides.
struct Gate {
    policy: Policy,
    contexts: Vec<Context>,
    desk: Desk,
    now: Tick,
}

impl Gate {
    fn new(spec: &PolicySpec) -> Self {
        let policy = Policy::compile(1, spec, State::new()).unwrap();
        policy.make_room(&spec.tracking);
        Self {
            policy,
            contexts: (0..PORTS).map(|_| Context::default()).collect(),
            desk: Desk::default(),
            now: Tick::from_secs(1),
        }
    }

    /// What becomes of a frame, with the rule that decided it; of an answer only whether a rule wants one, since answers are limited.
    fn verdict(
        &mut self,
        (from, to): (PortId, PortId),
        bytes: &[u8],
    ) -> Result<(), (DropReason, Option<u32>)> {
        let len = u32::try_from(bytes.len()).unwrap();
        let mut judged = self.judge((from, to), bytes, 128, len);
        // As the data path does.
        if judged.is_err_and(|refusal| refusal.reason == DropReason::HeadersTooLong) {
            judged = self.judge((from, to), bytes, 256, len);
        }
        judged.map_err(|refusal| (refusal.reason, refusal.rule().map(|rule| rule.0)))
    }

    /// Whether a frame is plain data, of which verdicts are kept, and gets as far as to the lists.
    fn is_for_lists(&mut self, (pair, bytes): &((PortId, PortId), Vec<u8>)) -> bool {
        self.contexts[pair.0.index()] = Context::default();
        let verdict = self.verdict(*pair, bytes);
        let digest = self.contexts[pair.0.index()].digest();
        let is_plain = digest.is_some_and(|digest| !digest.is_control);
        is_plain && verdict.map_or_else(|(reason, _)| scan::is_of_a_scan(reason), |()| true)
    }

    fn judge(
        &mut self,
        (from, to): (PortId, PortId),
        bytes: &[u8],
        seen: usize,
        len: u32,
    ) -> Result<(), Refusal> {
        let frame = Frame::parse(bytes.get(..seen).unwrap_or(bytes), len)?;
        let weight = Weight {
            frames: 1,
            bytes: len,
        };
        let context = &mut self.contexts[from.index()];
        let mut judge = self.policy.judge(from, context, &mut self.desk, self.now);
        let admitted = judge.admit(None, &frame, || weight)?;
        judge.permit(admitted, to).map(|_| ())
    }
}

#[test]
fn e_30_a_verdict_is_the_same_before_and_after_many_other_frames() {
    let mut allowed = 0;
    let mut refused = std::collections::BTreeMap::new();
    for seed in 1..=policies() {
        let mut dice = Dice::seeded(seed * 0x9e37_79b9);
        let spec = spec(&mut dice);
        let (mut used, mut fresh) = (Gate::new(&spec), Gate::new(&spec));
        let watched: Vec<((PortId, PortId), Vec<u8>)> = (0..WATCHED)
            .map(|n| {
                let mut drawn = ((dice.port(), dice.port()), dice.frame());
                // Of half of them the lists decide, where there are such: most are refused before.
                for _ in 0..50 {
                    if n % 2 == 0 || fresh.is_for_lists(&drawn) {
                        break;
                    }
                    drawn = ((dice.port(), dice.port()), dice.frame());
                }
                drawn
            })
            .collect();
        // Each by a gate that has kept nothing.
        let before: Vec<_> = watched
            .iter()
            .map(|(pair, bytes)| {
                fresh.contexts[pair.0.index()] = Context::default();
                fresh.verdict(*pair, bytes)
            })
            .collect();
        for n in 0..between() {
            let mut pair = (dice.port(), dice.port());
            // Now and then the like of one that is watched, a bit beside it: whatever is kept wider than it was judged would meet it.
            let bytes = if dice.once_in(4) {
                let (of, mut bytes) = watched[n % WATCHED].clone();
                let at = usize::from(dice.byte()) % bytes.len();
                bytes[at] ^= 1 << (dice.byte() % 8);
                if dice.once_in(2) {
                    pair = of;
                }
                bytes
            } else {
                dice.frame()
            };
            let _ = used.verdict(pair, &bytes);
            if n % 1000 == 0 {
                used.now = used.now.after_millis(1);
            }
        }
        for ((pair, bytes), before) in watched.iter().zip(&before) {
            let after = used.verdict(*pair, bytes);
            assert_eq!(after, *before, "seed {seed}, {pair:?}: {bytes:02x?}");
            // What is kept now is asked about what is not quite the same.
            for _ in 0..NEIGHBOURS {
                let mut near = bytes.clone();
                let at = usize::from(dice.byte()) % near.len().min(HEADERS);
                near[at] ^= 1 << (dice.byte() % 8);
                fresh.contexts[pair.0.index()] = Context::default();
                let expected = fresh.verdict(*pair, &near);
                let found = used.verdict(*pair, &near);
                assert_eq!(found, expected, "seed {seed}, {pair:?}: {near:02x?}");
            }
            let again = used.verdict(*pair, bytes);
            assert_eq!(again, *before, "seed {seed}, {pair:?}: {bytes:02x?}");
        }
        allowed += before.iter().filter(|verdict| verdict.is_ok()).count();
        for (reason, _) in before.iter().filter_map(|verdict| verdict.err()) {
            *refused.entry(reason).or_insert(0) += 1;
        }
    }
    // The lot has all kinds in it: else the test would say little.
    assert!(allowed > 50, "{allowed} allowed");
    for reason in [
        DropReason::DeniedOutbound,
        DropReason::DeniedInbound,
        DropReason::NotAllowed,
        DropReason::Rejected,
        DropReason::SourceMacSpoofed,
        DropReason::SourceIpSpoofed,
    ] {
        assert!(refused.contains_key(&reason), "{reason} in {refused:?}");
    }
}
