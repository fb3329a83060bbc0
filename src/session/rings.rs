//! What the front-end has said about each ring, and whether it runs.
//!
//! # Theory of operation
//!
//! A ring is *stopped* or *running*. What is said about a stopped ring is only written down. As soon as all that
//! it needs is there (shared memory, negotiated features, size, addresses, and a kick or the word that there is none) the ring
//! is started by itself, whatever the order in which the front-end said it: QEMU, cloud-hypervisor and DPDK differ.
//! A call descriptor is not needed: the guest may poll.
//!
//! What is said about a running ring takes effect only through stop, change and start (P-10). So the device never sees
//! a setup that is half old and half new. The exceptions are the two things that front-ends change all the time and
//! that are one value each: enabled, and the call and error descriptors.
//!
//! GET_VRING_BASE stops a ring and *forgets its addresses and its kick*: neither SET_VRING_ENABLE nor an old kick
//! starts it again, only a whole new configuration (P-22). Size, call and error descriptors and enabled flag stay.
//!
//! A started ring is *enabled* or not (vhost-user: "Ring states"). What SET_VRING_ENABLE said last counts, at whatever time
//! it was said: QEMU says it before SET_FEATURES and never again. When nothing was said, a ring is enabled
//! unless protocol features were negotiated; if they were, it is *not yet* enabled.
//!
//! Not yet enabled is not disabled. The specification has frames discarded that lie in the transmit ring of a started ring
//! that is not enabled, so that no guest waits for what was switched off. But cloud-hypervisor and DPDK's virtio-user give
//! the kick first and enable the ring after it, also when they come back to a switch that was started again, and by then the ring
//! holds what the guest has sent meanwhile. So a ring that its front-end has not spoken of on this connection keeps
//! what it holds until it does; rte_vhost leaves such a ring alone, too. A front-end that never speaks of it stalls its own
//! ring. One that said 0, before the start or after, gets what the specification says.
//!
//! The base that SET_VRING_BASE names is written down and answered, but a ring goes on from its used index:
//! after a reconnection cloud-hypervisor names the *available* index, which would lose every buffer in between.

use std::sync::Arc;

use super::message::RingAddresses;
use super::refusal::Refusal;
use super::{Device, Enabled, RingSetup};
use crate::memory::{Call, GuestMemory, Kick};
use crate::ring::Layout;

/// What a ring takes from the connection as a whole.
#[derive(Debug)]
pub(super) struct Ground<'a> {
    pub(super) memory: Option<&'a Arc<GuestMemory>>,
    /// As the driver accepted them, cleaned; None before SET_FEATURES.
    pub(super) features: Option<u64>,
    /// Protocol features were negotiated.
    pub(super) protocol: bool,
}

/// How a ring is kicked.
#[derive(Clone, Debug)]
pub(super) enum Kicked {
    /// By an eventfd.
    By(Arc<Kick>),
    /// Not at all: it is to be polled.
    Polled,
}

/// One ring.
#[derive(Debug, Default)]
pub(super) struct Ring {
    index: usize,
    size: Option<u16>,
    addresses: Option<RingAddresses>,
    base: u16,
    kick: Option<Kicked>,
    call: Option<Arc<Call>>,
    err: Option<Arc<Call>>,
    enabled: Option<bool>,
    running: bool,
    problem: Option<String>,
}

impl Ring {
    /// Ring `index`, about which nothing was said.
    pub(super) fn new(index: usize) -> Self {
        Self {
            index,
            ..Self::default()
        }
    }

    /// Whether it runs.
    pub(super) fn is_running(&self) -> bool {
        self.running
    }

    /// Why it was not started, though all was said.
    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Starts the ring if it does not run and has all it needs.
    ///
    /// # Errors
    /// What was said does not make a ring; it stays stopped until something else is said.
    pub(super) fn settle(
        &mut self,
        ground: &Ground<'_>,
        device: &mut dyn Device,
    ) -> Result<(), Refusal> {
        if self.running {
            return Ok(());
        }
        let result = self.try_start(ground, device);
        match &result {
            Err(refusal) => self.problem = Some(refusal.to_string()),
            Ok(()) if self.running => self.problem = None,
            Ok(()) => {}
        }
        result
    }

    fn try_start(&mut self, ground: &Ground<'_>, device: &mut dyn Device) -> Result<(), Refusal> {
        let (Some(memory), Some(features)) = (ground.memory, ground.features) else {
            return Ok(());
        };
        let (Some(size), Some(at), Some(kick)) = (self.size, self.addresses, &self.kick) else {
            return Ok(());
        };
        let translated = |part, address| {
            let index = self.index;
            memory
                .guest_addr_of_user(address)
                .ok_or(Refusal::RingNotInMemory {
                    index,
                    part,
                    address,
                })
        };
        let layout = Layout {
            size,
            desc: translated("descriptor table", at.desc)?,
            avail: translated("available ring", at.avail)?,
            used: translated("used ring", at.used)?,
        };
        let setup = RingSetup {
            memory: Arc::clone(memory),
            layout,
            features,
            kick: match kick {
                Kicked::By(kick) => Some(Arc::clone(kick)),
                Kicked::Polled => None,
            },
            call: self.call.clone(),
            err: self.err.clone(),
            enabled: self.is_enabled(ground),
        };
        device
            .start_ring(self.index, setup)
            .map_err(|source| Refusal::RingStart {
                index: self.index,
                source,
            })?;
        self.running = true;
        Ok(())
    }

    /// Stops the ring if it runs. Afterwards nothing reads or writes it or its buffers.
    pub(super) fn halt(&mut self, device: &mut dyn Device) {
        if self.running {
            self.base = device.stop_ring(self.index);
            self.running = false;
        }
    }

    /// GET_VRING_BASE: stops, forgets where the ring lay, and says how far it was.
    pub(super) fn retire(&mut self, device: &mut dyn Device) -> u16 {
        self.halt(device);
        self.addresses = None;
        self.kick = None;
        self.problem = None;
        self.base
    }

    /// Forgets everything (vhost-user: RESET_DEVICE).
    pub(super) fn reset(&mut self, device: &mut dyn Device) {
        self.halt(device);
        *self = Self::new(self.index);
    }

    /// SET_VRING_NUM: entries of the ring.
    ///
    /// # Errors
    /// Not a power of two from 2 to 32768. The ring then has no size, and stays stopped.
    pub(super) fn set_size(&mut self, size: u32, device: &mut dyn Device) -> Result<(), Refusal> {
        let valid = u16::try_from(size)
            .ok()
            .filter(|size| size.is_power_of_two() && *size >= 2);
        if valid.is_some() && valid == self.size {
            return Ok(());
        }
        self.halt(device);
        self.size = valid;
        match valid {
            Some(_) => Ok(()),
            None => self.refuse(Refusal::RingSize {
                index: self.index,
                size,
            }),
        }
    }

    /// SET_VRING_ADDR: where the ring lies. It may be said before the memory is shared.
    ///
    /// # Errors
    /// A part is not aligned (VIRTIO 1.2, 2.7). The ring then has no addresses, and stays stopped.
    pub(super) fn set_addresses(
        &mut self,
        at: RingAddresses,
        device: &mut dyn Device,
    ) -> Result<(), Refusal> {
        if self.addresses == Some(at) {
            return Ok(());
        }
        self.halt(device);
        self.addresses = None;
        let parts = [
            ("descriptor table", at.desc, 16u64),
            ("available ring", at.avail, 2),
            ("used ring", at.used, 4),
        ];
        let unaligned = parts
            .iter()
            .find(|(_, address, align)| !address.is_multiple_of(*align));
        if let Some((part, address, _)) = unaligned {
            return self.refuse(Refusal::RingAlignment {
                index: self.index,
                part,
                address: *address,
            });
        }
        self.addresses = Some(at);
        Ok(())
    }

    /// SET_VRING_BASE. Written down for GET_VRING_BASE; a running ring is further than that.
    ///
    /// # Errors
    /// More than 16 bits: with split rings the base is one index.
    pub(super) fn set_base(&mut self, base: u32) -> Result<(), Refusal> {
        let base = u16::try_from(base).map_err(|_| Refusal::Range {
            what: "the base of a ring",
            value: u64::from(base),
        })?;
        if !self.running {
            self.base = base;
        }
        Ok(())
    }

    /// SET_VRING_KICK. A running ring is stopped and may be started with the new one; the old one is forgotten (P-24).
    pub(super) fn set_kick(&mut self, kick: Kicked, device: &mut dyn Device) {
        self.halt(device);
        self.kick = Some(kick);
    }

    /// SET_VRING_CALL; None when the guest polls.
    pub(super) fn set_call(&mut self, call: Option<Arc<Call>>, device: &mut dyn Device) {
        self.call.clone_from(&call);
        if self.running {
            device.set_call(self.index, call);
        }
    }

    /// SET_VRING_ERR; None when nobody is to be told.
    pub(super) fn set_err(&mut self, err: Option<Arc<Call>>, device: &mut dyn Device) {
        self.err.clone_from(&err);
        if self.running {
            device.set_err(self.index, err);
        }
    }

    /// SET_VRING_ENABLE.
    pub(super) fn set_enabled(&mut self, enabled: bool, device: &mut dyn Device) {
        self.enabled = Some(enabled);
        if self.running {
            device.enable_ring(self.index, enabled);
        }
    }

    fn is_enabled(&self, ground: &Ground<'_>) -> Enabled {
        match self.enabled {
            Some(enabled) => enabled.into(),
            None if ground.protocol => Enabled::NotYet,
            None => Enabled::Yes,
        }
    }

    fn refuse(&mut self, refusal: Refusal) -> Result<(), Refusal> {
        self.problem = Some(refusal.to_string());
        Err(refusal)
    }
}
