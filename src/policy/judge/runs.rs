//! Frames like an earlier one of their burst: see [`crate::policy::run`].

use super::Judge;
use crate::counters::PortId;
use crate::frame::{Frame, protocol};
use crate::policy::cache::{Decided, Judged};
use crate::policy::run::{Follow, HEAD, Run, Shape};
use crate::policy::subject::State;
use crate::policy::verdict::Permit;

impl Judge<'_> {
    /// The leave for a frame that nothing tells from those of the present run ([`crate::policy::run`]): they were admitted, and permitted
    /// to that one receiver. `head` is the beginning of a frame of `len` bytes; what it holds past the frame's end does not
    /// matter. `None` for any other frame, which is to be judged.
    #[inline(always)]
    pub fn again<'f>(
        &mut self,
        head: &[u8; HEAD],
        len: u32,
        frame: impl FnOnce() -> Option<Frame<'f>>,
    ) -> Option<Permit> {
        let run = self.run.as_mut()?;
        if !run.shape.has(head, len) {
            return None;
        }
        if let Follow::Segments(flow, direction, digest) = &mut run.follow {
            digest.end = run.shape.end(head);
            let burst = self.burst.as_ref()?;
            let state = burst.advance(*flow, *direction, digest, &frame()?, self.now)?;
            if state != State::Established {
                return None;
            }
        }
        if let Follow::Rules(_, opened) = run.follow {
            let to = run.to;
            if opened != self.opened(to) {
                return None;
            }
        }
        let run = self.run.as_mut()?;
        run.frames = run.frames.wrapping_add(1); // a burst has 64 frames at most
        run.bytes = run.bytes.wrapping_add(len); // of 65,554 bytes at most
        Some(Permit {
            from: self.source,
            to: run.to,
        })
    }

    /// Begins a run with the untagged frame that was admitted last and permitted to this one receiver, if there may be one: `head`
    /// is its beginning. Says whether there is; if not, the one before it goes on.
    #[inline(never)]
    pub fn begin_run(&mut self, head: &[u8; HEAD], len: u32, to: PortId) -> bool {
        let run = self.run_of(head, len, to);
        let begins = run.is_some();
        if begins {
            self.end_run();
            self.run = run;
        }
        begins
    }

    fn run_of(&mut self, head: &[u8; HEAD], len: u32, to: PortId) -> Option<Run> {
        let (source, _) = self.bound?;
        let is_free = source.is_free() && self.policy.bound(to)?.is_free();
        let run = |shape, follow| Run {
            shape,
            to,
            follow,
            frames: 0,
            bytes: 0,
        };
        if source.sends_metered {
            return None;
        }
        let is_unread = source.is_shallow && is_free && !self.policy.watches_leases();
        if self.is_plain || is_unread {
            return Some(run(Shape::of_stations(head), Follow::Free));
        }
        let judging = &self.context.frame;
        let place = judging.place.filter(|_| judging.is_digested);
        let before = std::mem::replace(&mut self.context.latest, place);
        let judging = &self.context.frame;
        if place.is_none() || place != before {
            return None; // flows take turns, as it seems
        }
        let follow = if is_free {
            Follow::Free
        } else if !judging.is_kept {
            return None;
        } else {
            let known = self.context.cache.as_ref()?.get(place?)?;
            match known.pair.filter(|(peer, _)| *peer == to)?.1 {
                Judged::Pass(rules, opened) => Follow::Rules(rules, opened),
                Judged::Flow(flow, direction, State::Established) => {
                    if judging.digest.subject.protocol() == protocol::TCP {
                        Follow::Segments(flow, direction, judging.digest)
                    } else {
                        Follow::Packets(flow, direction)
                    }
                }
                Judged::Flow(..) | Judged::Refused(..) => return None,
            }
        };
        let shape = Shape::of_flow(head, len, &judging.digest)?;
        Some(run(shape, follow))
    }

    /// Enters into the books what a run has come to.
    pub(super) fn end_run(&mut self) {
        let Some(run) = self.run.take() else { return };
        match run.follow {
            Follow::Free | Follow::Segments(..) => {}
            Follow::Rules(rules, _) => {
                for rule in rules.into_iter().filter_map(Decided::rule) {
                    self.policy.hit_often(rule, run.frames.into());
                }
            }
            Follow::Packets(flow, direction) => {
                if let Some(burst) = &self.burst
                    && run.frames != 0
                {
                    burst.count(flow, direction, run.frames, run.bytes, self.now);
                }
            }
        }
    }
}
