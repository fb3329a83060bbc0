//! What puts ports in quarantine by itself: read from the counters once a second, by the attendant.
//!
//! Drops are counted over the time that has just passed, whenever that began; refused ends in spans that follow each other,
//! since they cannot be told apart again. A port in quarantine trips nothing; when it is let out its counts begin anew.

use std::collections::{BTreeMap, VecDeque};

use super::plan::Live;
use super::quarantine::Wards;
use crate::clock::Tick;
use crate::config::{Helper, Threshold, TriggerSpec};
use crate::control::QuarantineRequest;
use crate::counters::{DropReason, PortId};
use crate::policy::State;
use crate::port::port::Port;

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Triggers {
    ports: BTreeMap<PortId, Watch>,
}

/// The spans of one port.
#[derive(Debug)]
struct Watch {
    spec: TriggerSpec,
    /// What was counted lately of each of `spec.drops`.
    drops: Vec<Past>,
    /// When the span of `spec.scan` began.
    scan: Tick,
}

/// Readings of a counter, oldest first, from the time over which it is looked at.
#[derive(Debug)]
struct Past(VecDeque<(Tick, u64)>);

impl Past {
    /// In how many steps time passes, however long it is: what is counted reaches back for the whole of it, less one step at most.
    const STEPS: u64 = 32;

    fn new(now: Tick, count: u64) -> Self {
        Self(VecDeque::from([(now, count)]))
    }

    /// How much has been counted in the last `seconds`, now that the counter stands at `count`.
    fn counted(&mut self, seconds: u32, now: Tick, count: u64) -> u64 {
        let span = u64::from(seconds) * 1000;
        let is_past = |(at, _): &(Tick, u64)| now.millis_since(*at) > span;
        while self.0.front().is_some_and(is_past) {
            self.0.pop_front();
        }
        // A port that has taken the number of another has counted nothing yet.
        let before = self.0.front().map_or(count, |(_, before)| *before);
        let last = self.0.back().map(|(at, _)| now.millis_since(*at));
        if last.is_none_or(|passed| passed >= span / Self::STEPS) {
            self.0.push_back((now, count));
        }
        count.saturating_sub(before)
    }
}

/// A port that has done too much of something.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tripped {
    pub(super) request: QuarantineRequest,
    /// What: `trigger: 100 arp-spoofed in 10 s`.
    pub(super) by: String,
}

impl Triggers {
    /// Looks at all ports that have a trigger.
    pub(super) fn look(
        &mut self,
        live: &Live,
        ports: &BTreeMap<PortId, Port>,
        wards: &Wards,
        state: &State,
        now: Tick,
    ) -> Vec<Tripped> {
        let mut tripped = Vec::new();
        self.ports.retain(|id, _| ports.contains_key(id));
        for (port, id) in live.ports() {
            let Some(counters) = ports.get(&id).filter(|_| port.triggers.is_any()) else {
                self.ports.remove(&id);
                continue;
            };
            let counted = counters.counters().ingress.dropped;
            let refused = || port.triggers.scan.map_or(0, |_| state.ends_refused(id));
            let seen = Seen {
                drops: &|reason| counted.get(reason),
                refused: &refused,
                now,
            };
            let known = self
                .ports
                .get(&id)
                .filter(|watch| watch.spec == port.triggers);
            if known.is_none() || wards.get(&port.name).is_some() {
                state.forget_ends_refused(id);
                self.ports
                    .insert(id, Watch::new(port.triggers.clone(), &seen));
                continue;
            }
            let Some(watch) = self.ports.get_mut(&id) else {
                continue;
            };
            let (why, ended) = watch.look(&seen);
            if ended {
                state.forget_ends_refused(id);
            }
            // `[defaults]` may name it as everybody's.
            let helpers = port.triggers.helpers.iter();
            tripped.extend(why.map(|what| {
                Tripped {
                    request: QuarantineRequest {
                        port: port.name.clone(),
                        helpers: helpers
                            .filter(|helper| !Helper::of(helper).is_port(&port.name))
                            .cloned()
                            .collect(),
                        allow: port.triggers.allow.clone(),
                    },
                    by: format!("trigger: {what}"),
                }
            }));
        }
        tripped
    }
}

/// What the counters of a port say now.
struct Seen<'a> {
    drops: &'a dyn Fn(DropReason) -> u64,
    refused: &'a dyn Fn() -> u32,
    now: Tick,
}

impl Watch {
    fn new(spec: TriggerSpec, seen: &Seen<'_>) -> Self {
        // Whoever counts refused ends begins with it.
        let _ = (seen.refused)();
        let drops = spec.drops.iter();
        Self {
            drops: drops
                .map(|(reason, _)| Past::new(seen.now, (seen.drops)(*reason)))
                .collect(),
            scan: seen.now,
            spec,
        }
    }

    /// What was too much, and whether the span of refused ends is over.
    fn look(&mut self, seen: &Seen<'_>) -> (Option<String>, bool) {
        let mut why = None;
        for ((reason, limit), past) in self.spec.drops.iter().zip(&mut self.drops) {
            let dropped = past.counted(limit.seconds, seen.now, (seen.drops)(*reason));
            if dropped >= limit.count.into() {
                let seconds = limit.seconds;
                why.get_or_insert(format!("{dropped} {reason} within {seconds} s"));
            }
        }
        let mut ended = false;
        if let Some(limit) = &self.spec.scan {
            let ends = (seen.refused)();
            if ends >= limit.count {
                let seconds = limit.seconds;
                why.get_or_insert(format!("a scan of {ends} ends or so within {seconds} s"));
            }
            ended = is_over(self.scan, limit, seen.now);
            if ended {
                self.scan = seen.now;
            }
        }
        (why, ended)
    }
}

fn is_over(began: Tick, limit: &Threshold, now: Tick) -> bool {
    now.millis_since(began) >= u64::from(limit.seconds) * 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPOOFED: DropReason = DropReason::ArpSpoofed;

    fn threshold(count: u32, seconds: u32) -> Threshold {
        Threshold { count, seconds }
    }

    /// Looks each second at these readings; the seconds at which something was too much.
    fn trips(spec: &TriggerSpec, readings: &[(u64, u32)]) -> Vec<usize> {
        let seen = |second: usize, use_it: &mut dyn FnMut(&Seen<'_>)| {
            let (drops, refused) = readings[second];
            use_it(&Seen {
                drops: &|reason| if reason == SPOOFED { drops } else { 1_000_000 },
                refused: &|| refused,
                now: Tick::from_secs(second as u64),
            });
        };
        let mut watch = None;
        seen(0, &mut |seen| watch = Some(Watch::new(spec.clone(), seen)));
        let mut watch = watch.unwrap();
        let mut found = Vec::new();
        for second in 1..readings.len() {
            seen(second, &mut |seen| {
                if watch.look(seen).0.is_some() {
                    found.push(second);
                }
            });
        }
        found
    }

    #[test]
    fn drops_of_a_reason_are_counted_over_their_span_alone() {
        let spec = TriggerSpec {
            drops: vec![(SPOOFED, threshold(10, 3))],
            ..TriggerSpec::default()
        };
        let each = |numbers: &[u64]| -> Vec<(u64, u32)> {
            numbers.iter().map(|drops| (*drops, 4096)).collect()
        };
        // What was there before counts for nothing, nor does what is spread wider.
        assert_eq!(trips(&spec, &each(&[500, 503, 506, 509])), [0; 0]);
        assert_eq!(trips(&spec, &each(&[0, 3, 6, 9, 12, 15, 18, 21])), [0; 0]);
        assert_eq!(trips(&spec, &each(&[0, 3, 6, 10])), [3]);
        assert_eq!(trips(&spec, &each(&[0, 0, 0, 0, 0, 10])), [5]);
        // Whenever they begin.
        for quiet in 0..7 {
            let mut readings = vec![0; quiet];
            readings.extend([0, 4, 4, 10, 10, 10, 10]);
            let trips = trips(&spec, &each(&readings));
            assert_eq!(trips, [quiet + 3], "{quiet}");
        }
    }

    #[test]
    fn a_long_time_is_looked_back_on_in_few_steps() {
        let at = Tick::from_secs;
        let mut past = Past::new(at(0), 0);
        for second in 1..10_000u64 {
            // One a second.
            let counted = past.counted(3600, at(second), second);
            let whole = second.min(3600);
            assert!((whole.saturating_sub(113)..=whole).contains(&counted));
            assert!(past.0.len() <= 34, "{}", past.0.len());
        }
        // A counter that begins anew has counted nothing.
        assert_eq!(past.counted(3600, at(10_000), 5), 0);
    }

    #[test]
    fn a_scan_is_what_comes_near_its_threshold_and_ends_with_its_span() {
        let spec = TriggerSpec {
            scan: Some(threshold(100, 5)),
            ..TriggerSpec::default()
        };
        assert_eq!(trips(&spec, &[(0, 99), (9, 99), (9, 100), (9, 99)]), [2]);
        let mut watch = Watch::new(
            spec,
            &Seen {
                drops: &|_| 0,
                refused: &|| 0,
                now: Tick::ZERO,
            },
        );
        let mut at = |second| {
            let seen = Seen {
                drops: &|_| 0,
                refused: &|| 150,
                now: Tick::from_secs(second),
            };
            watch.look(&seen)
        };
        let why = Some("a scan of 150 ends or so within 5 s".to_owned());
        assert_eq!(at(4), (why.clone(), false));
        assert_eq!(at(5), (why, true));
    }
}
