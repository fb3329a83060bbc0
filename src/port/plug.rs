//! Where a session is plugged into the lanes.

use std::sync::Arc;

use super::closer::Closer;
use super::lanes::Lanes;
use crate::memory::Call;
use crate::session::{Device, Discarded, RingSetup, StartError};

/// The device that a session drives: the port's lanes.
pub(super) struct Plug<'a> {
    pub(super) lanes: &'a Lanes,
    pub(super) closer: &'a Closer,
    /// The port's own limit, in bytes.
    pub(super) mtu: Option<u16>,
}

fn lane(index: usize) -> u16 {
    u16::try_from(index).unwrap_or(u16::MAX)
}

impl Device for Plug<'_> {
    fn queue_pairs(&self) -> u16 {
        self.lanes.pairs()
    }

    fn mtu(&self) -> Option<u16> {
        self.mtu
    }

    fn start_ring(&mut self, index: usize, setup: RingSetup) -> Result<(), StartError> {
        Ok(self.lanes.start(lane(index), setup)?)
    }

    fn stop_ring(&mut self, index: usize) -> u16 {
        self.lanes.stop(lane(index)).unwrap_or(0)
    }

    fn enable_ring(&mut self, index: usize, enabled: bool) {
        self.lanes.enable(lane(index), enabled);
    }

    fn set_call(&mut self, index: usize, call: Option<Arc<Call>>) {
        self.lanes.set_call(lane(index), call);
    }

    fn set_err(&mut self, index: usize, err: Option<Arc<Call>>) {
        self.lanes.set_err(lane(index), err);
    }

    fn announce(&mut self, mac: [u8; 6]) {
        self.lanes.announce(mac);
    }

    fn mtu_changed(&mut self, mtu: u16) {
        self.lanes.set_mtu(Some(mtu));
    }

    fn reset(&mut self) {
        self.lanes.set_mtu(self.mtu);
    }

    fn discard(&mut self, what: Discarded) {
        self.closer.close(what);
    }

    fn is_clear(&self) -> bool {
        !self.closer.is_busy()
    }
}
