//! What the requests have made of the back-end, and the steps that several of them share.

use super::Device;
use super::dispatch::Answer;
use super::features::effective;
use super::memory::Shared;
use super::refusal::Refusal;
use super::rings::{Ground, Ring};
use crate::ring::features::VHOST_USER_F_PROTOCOL_FEATURES;

/// What the requests have made of the back-end. The socket is not part of it.
#[derive(Debug)]
pub(super) struct Backend {
    pub(super) shared: Shared,
    /// As accepted, the front-end's own bits included.
    pub(super) features: Option<u64>,
    pub(super) protocol: u64,
    pub(super) status: u8,
    pub(super) rings: Box<[Ring]>,
}

impl Backend {
    /// Whether protocol features were negotiated with the guest's features.
    fn speaks_protocol(&self) -> bool {
        self.features
            .is_some_and(|bits| bits & VHOST_USER_F_PROTOCOL_FEATURES != 0)
    }

    /// Stops every ring, makes `change`, and starts what can be started (P-10, P-20). The first ring that cannot
    /// is reported; the others go on.
    pub(super) fn rearranged(
        &mut self,
        device: &mut dyn Device,
        change: impl FnOnce(&mut Self),
    ) -> Result<Answer, Refusal> {
        for ring in &mut self.rings {
            ring.halt(device);
        }
        change(self);
        let mut first = Ok(Answer::Done);
        for index in 0..self.rings.len() {
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            let settled = self.settle(index, device);
            first = first.and(settled);
        }
        first
    }

    /// Starts ring `index` if all it needs is there.
    pub(super) fn settle(
        &mut self,
        index: u32,
        device: &mut dyn Device,
    ) -> Result<Answer, Refusal> {
        let ground = Ground {
            memory: self.shared.table(),
            features: self.features.map(effective),
            protocol: self.speaks_protocol(),
        };
        let found = usize::try_from(index)
            .ok()
            .and_then(|index| self.rings.get_mut(index));
        if let Some(ring) = found {
            ring.settle(&ground, device)?;
        }
        Ok(Answer::Done)
    }

    /// Ring `index`.
    pub(super) fn ring(&mut self, index: u32) -> Result<&mut Ring, Refusal> {
        let rings = self.rings.len();
        usize::try_from(index)
            .ok()
            .and_then(|index| self.rings.get_mut(index))
            .ok_or(Refusal::NoSuchRing { index, rings })
    }
}
