//! One burst of one source before the gate.
//!
//! A [`Judge`] is called for a burst: what does not change from frame to frame is looked up once. Frame by frame it is asked
//! [`admit`](Judge::admit), and then for each receiver [`permit`](Judge::permit); or, for one that is like an earlier one of the
//! burst, [`again`](Judge::again).

mod ahead;
mod pair;
mod runs;

use std::sync::Arc;

use self::ahead::Ahead;
pub(super) use self::ahead::Searches;
use super::cache::{Cache, Stamp};
use super::context::{Context, Trace};
use super::gate::{Bound, Policy};
use super::groups::is_membership;
use super::guard::Outcome;
use super::is_reserved;
use super::run::Run;
use super::state::PortState;
use super::track::{Burst, Seat};
use super::verdict::{Admitted, Weight};
use crate::clock::Tick;
use crate::counters::{DropReason, PortId};
use crate::frame::{Frame, Mac};

/// A worker's place before the gate. One for each worker.
#[derive(Debug, Default)]
pub struct Desk {
    /// Before the tracker.
    seat: Option<Seat>,
    ahead: Ahead,
}

/// See the head of this file.
#[derive(Debug)]
pub struct Judge<'a> {
    policy: &'a Policy,
    source: PortId,
    bound: Option<(&'a Bound, &'a PortState)>,
    /// Nothing is refused but what nobody may send: neither the port nor anybody else has a policy that would ask for more.
    is_plain: bool,
    context: &'a mut Context,
    /// Where nothing is tracked there is none.
    burst: Option<Burst<'a>>,
    ahead: &'a mut Ahead,
    run: Option<Run>,
    /// What was looked for of connections.
    sought: Searches,
    now: Tick,
}

impl Policy {
    /// Begins a burst of frames from `source`. `context` is that port's, `desk` the worker's.
    #[inline]
    pub fn judge<'a>(
        &'a self,
        source: PortId,
        context: &'a mut Context,
        desk: &'a mut Desk,
        now: Tick,
    ) -> Judge<'a> {
        let Desk { seat, ahead } = desk;
        ahead.forget();
        let burst = if self.tracks() { self.sit(seat) } else { None };
        let bound = self.bound(source).zip(self.state().port(source));
        Judge {
            policy: self,
            source,
            bound,
            is_plain: self.is_plain()
                && bound.is_some_and(|(bound, _)| bound.is_shallow && !bound.sends_metered),
            context,
            burst,
            ahead,
            run: None,
            sought: Searches::default(),
            now,
        }
    }

    #[inline(never)]
    fn sit<'a>(&self, seat: &'a mut Option<Seat>) -> Option<Burst<'a>> {
        let tracker = self.state().tracker();
        if !matches!(seat, Some(seat) if Arc::ptr_eq(seat.tracker(), tracker)) {
            *seat = tracker.seat();
        }
        seat.as_mut().map(Seat::burst)
    }
}

impl Judge<'_> {
    /// Whose frames are judged.
    #[inline]
    pub fn source(&self) -> PortId {
        self.source
    }

    /// Takes back a claim that could not be met: see [`Admitted::claim`]. For a second the port claims nothing, if that took long
    /// to find out.
    pub fn refuse_claim(&self, mac: Mac, took_long: bool) {
        let Some((_, port)) = self.bound else { return };
        if took_long {
            port.guard.bar_claims(mac, self.now);
        } else {
            port.guard.release(mac);
        }
    }

    /// How the last pair was judged.
    pub fn trace(&self) -> Trace {
        self.context.trace()
    }

    /// The frame that is admitted next is the one before, of which more is shown: what it was counted under already counts once.
    pub fn see_again(&mut self) {
        self.context.frame.is_seen_again = true;
    }

    /// Judges a frame by the port that it came from: what it may say ([`super::guard`]) and how much. `slot` is the one by which
    /// a [look ahead](Self::look_ahead) knows it, if there was one.
    ///
    /// # Errors
    ///
    /// The reasons of the guard and of the sender's limits; [`DropReason::HeadersTooLong`] when a longer snapshot may
    /// change the answer: then the caller extends it, says [so](Self::see_again), and asks once more.
    #[inline(always)]
    pub fn admit<'f>(
        &mut self,
        slot: Option<u8>,
        frame: &'f Frame<'f>,
        weight: impl FnOnce() -> Weight,
    ) -> Result<Admitted<'f>, DropReason> {
        self.context.frame.begin();
        if !frame.src().is_station() {
            return Err(DropReason::SourceMacInvalid);
        }
        if frame.dst().is_group() {
            self.admit_group(frame.dst())?;
        }
        let claims = !self.is_plain && self.admit_guarded(slot, frame, weight)?;
        Ok(Admitted {
            source: self.source,
            frame,
            claims,
        })
    }

    /// Whether any port may send to that group, and this one to one more.
    #[inline(never)]
    fn admit_group(&self, group: Mac) -> Result<(), DropReason> {
        if is_reserved(group) {
            return Err(DropReason::ReservedGroup);
        }
        match self.bound {
            Some((bound, port)) if bound.limits.groups != 0 && !group.is_broadcast() => {
                let may = port.groups.admit(group, bound.limits.groups, self.now);
                may.then_some(()).ok_or(DropReason::GroupLimit)
            }
            _ => Ok(()),
        }
    }

    /// Quarantine, guard and meters. Says whether the frame claims its source address.
    #[inline(always)]
    fn admit_guarded(
        &mut self,
        slot: Option<u8>,
        frame: &Frame<'_>,
        weight: impl FnOnce() -> Weight,
    ) -> Result<bool, DropReason> {
        let Some((bound, port)) = self.bound else {
            return Err(DropReason::NoPolicy);
        };
        if self.policy.quarantine().silences(self.source) {
            return Err(DropReason::Quarantined);
        }
        let judging = &mut self.context.frame;
        judging.is_digested = false;
        judging.slot = slot;
        let mut claims = false;
        if !bound.is_shallow {
            let hash = self.look_up(bound, port, frame);
            if self.context.frame.place.is_none() {
                claims = self.guard(bound, port, frame, hash)?;
            }
        }
        if bound.sends_metered
            && let Err(reason) = self.send_metered(bound, port, frame, weight())
        {
            if claims {
                // Nobody enters the address of a frame that is refused: a later one has to claim it.
                port.guard.release(frame.src());
            }
            return Err(reason);
        }
        Ok(claims)
    }

    /// Asks the guard about a frame that nothing is known of. Says whether it claims its source address.
    #[inline(never)]
    fn guard(
        &mut self,
        bound: &Bound,
        port: &PortState,
        frame: &Frame<'_>,
        hash: u64,
    ) -> Result<bool, DropReason> {
        let digest = &self.context.frame.digest;
        // Before the guard, which may keep an address with the frame that it lets pass.
        if digest.is_control && is_membership(&digest.subject) {
            let (meter, bucket) = (&bound.limits.membership, &port.buckets.membership);
            if !self.context.frame.paid.membership && !meter.take(bucket, 1, self.now) {
                return Err(DropReason::MembershipRate);
            }
            self.context.frame.paid.membership = true;
        }
        let digest = &self.context.frame.digest;
        let outcome = bound.guard.judge(&port.guard, frame, digest, self.now)?;
        if !digest.is_control && outcome == Outcome::Pass {
            self.keep(hash);
        }
        Ok(outcome != Outcome::Pass)
    }

    /// Makes the digest, unless that was done ahead, and looks for its subject in the cache; returns the subject's hash.
    #[inline(always)]
    fn look_up(&mut self, bound: &Bound, port: &PortState, frame: &Frame<'_>) -> u64 {
        let stamp = Stamp::new(self.policy.epoch(), port.guard.generation(self.now));
        let judging = &mut self.context.frame;
        let slot = judging.slot.take();
        (judging.stamp, judging.is_digested, judging.is_kept) = (stamp, true, false);
        let seen = slot.and_then(|slot| self.ahead.take(slot, frame));
        let ahead = match seen {
            Some(seen) => {
                (judging.digest, judging.hint) = (seen.digest, seen.hint);
                Some((seen.hash, seen.place))
            }
            None => {
                judging.digest.read(frame, bound.vid(frame));
                judging.hint = None;
                None
            }
        };
        let (subject, word) = (
            &judging.digest.subject,
            self.policy.key(judging.digest.subject.0[0]),
        );
        (judging.word, judging.place) = (word, None);
        if judging.digest.is_control {
            return 0;
        }
        // A port that has never sent plain data has no cache.
        let cache = Cache::at(&mut self.context.cache);
        let (hash, place) = ahead.unwrap_or_else(|| (cache.hash(subject, word), None));
        judging.place = cache.find_near(place, hash, subject, word, stamp);
        hash
    }

    /// Keeps the subject of the frame that is being judged: nothing is known yet of any receiver.
    fn keep(&mut self, hash: u64) {
        let (key, stamp) = (self.context.frame.key(), self.context.frame.stamp);
        if let Some(cache) = self.context.cache.as_mut() {
            self.context.frame.place = cache.keep(hash, &key, stamp);
        }
    }

    #[inline(never)]
    fn send_metered(
        &mut self,
        bound: &Bound,
        port: &PortState,
        frame: &Frame<'_>,
        weight: Weight,
    ) -> Result<(), DropReason> {
        if self.context.frame.paid.sending {
            return Ok(());
        }
        let (limits, buckets) = (&bound.limits, &port.buckets);
        let frames = u64::from(weight.frames);
        if frame.dst().is_group() {
            let (meter, bucket, reason) = if frame.dst().is_broadcast() {
                let reason = DropReason::StormBroadcast;
                (&limits.broadcast, &buckets.broadcast, reason)
            } else {
                let reason = DropReason::StormMulticast;
                (&limits.multicast, &buckets.multicast, reason)
            };
            if !meter.take(bucket, frames, self.now) {
                return Err(reason);
            }
        }
        let bits = u64::from(weight.bytes).saturating_mul(8);
        let passes = limits
            .send_frames
            .take(&buckets.send_frames, frames, self.now)
            && limits.send_bits.take(&buckets.send_bits, bits, self.now);
        if passes {
            self.context.frame.paid.sending = true;
            Ok(())
        } else {
            Err(DropReason::SendRate)
        }
    }

    /// Whether a frame whose destination is unknown may be flooded. Group frames may, as far as this goes.
    ///
    /// # Errors
    ///
    /// [`DropReason::StormUnknown`].
    pub fn may_flood(&mut self, frame: &Frame<'_>, weight: Weight) -> Result<(), DropReason> {
        if frame.dst().is_group() || self.context.frame.paid.unknown {
            return Ok(());
        }
        let Some((bound, port)) = self.bound else {
            return Err(DropReason::NoPolicy);
        };
        let (meter, bucket) = (&bound.limits.unknown, &port.buckets.unknown);
        if meter.take(bucket, weight.frames.into(), self.now) {
            self.context.frame.paid.unknown = true;
            Ok(())
        } else {
            Err(DropReason::StormUnknown)
        }
    }
}

impl Drop for Judge<'_> {
    fn drop(&mut self) {
        self.end_run();
        self.context.sought = self.sought;
    }
}
