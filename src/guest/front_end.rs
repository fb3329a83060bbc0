//! The front-end of the vhost-user protocol: what a VMM says, in the order in which it says it.
//!
//! A conversation has two acts, and the VMMs differ in both:
//!
//! 1. *Negotiation* ([`FrontEnd::negotiate`]): features, protocol features, number of queues, owner.
//! 2. *Start* ([`FrontEnd::start`]): features are acknowledged, memory is shared, each ring gets its size,
//!    addresses, base and event descriptors, and is enabled.
//!
//! [`Script`] selects whose order is spoken. [`FrontEnd::wire`] is the way out for everything else.

use std::{
    os::{fd::AsFd, unix::net::UnixListener},
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    Error, Event, Memory, Result, RingLayout,
    event::wait_readable,
    feature, protocol,
    wire::{Incoming, Message, NEED_REPLY, Request, VringAddr, Wire},
};

/// Whose order of messages is spoken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Script {
    /// The order of the specification, with NEED_REPLY on what it is defined for.
    #[default]
    Modern,
    /// QEMU's virtio-net: the owner comes after the protocol features, a CALL for every ring long before
    /// its start, SET_VRING_ENABLE before SET_FEATURES and never after; with several pairs, memory is
    /// announced again for each pair.
    Qemu,
    /// cloud-hypervisor: NEED_REPLY on nearly everything once negotiated (also on requests with a reply
    /// of their own), the base is the *avail* index, ENABLE for all rings at the end.
    CloudHypervisor,
    /// A front-end from before protocol features: rings are enabled by being kicked
    /// (vhost-user: starting and stopping rings).
    Bare,
}

/// One ring as it is announced to the back-end.
#[derive(Debug, Clone, Copy)]
pub struct RingSetup<'a> {
    /// Its number: 2i is the RX ring of pair i, 2i + 1 its TX ring.
    pub index: u8,
    /// Size and guest-physical addresses.
    pub layout: RingLayout,
    /// The base for SET_VRING_BASE.
    pub base: u16,
    /// The kick.
    pub kick: &'a Event,
    /// The call; absent when the driver gave the ring no vector.
    pub call: Option<&'a Event>,
    /// Whether it is enabled at the start.
    pub enable: bool,
}

/// Where a front-end waits for its back-end to connect. The socket file is removed on drop.
#[derive(Debug)]
pub struct Listening {
    listener: UnixListener,
    path: PathBuf,
}

impl Listening {
    /// Listens at `path`.
    ///
    /// # Errors
    ///
    /// When the socket cannot be bound.
    pub fn bind(path: &Path) -> Result<Self> {
        let listener =
            UnixListener::bind(path).map_err(|e| Error::io("listen for the back-end", e))?;
        Ok(Self {
            listener,
            path: path.to_owned(),
        })
    }

    /// Takes the next connection of the back-end.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`].
    pub fn accept(&self, timeout: Duration) -> Result<FrontEnd> {
        let what = "wait for the back-end to connect";
        if !wait_readable(&[self.listener.as_fd()], timeout)? {
            return Err(Error::Timeout {
                what,
                after: timeout,
            });
        }
        let (stream, _) = self.listener.accept().map_err(|e| Error::io(what, e))?;
        Ok(FrontEnd::new(Wire::new(stream, timeout)?))
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        // The file may have been replaced or removed by the test; nothing depends on it any more.
        drop(std::fs::remove_file(&self.path));
    }
}

/// A connection with what was negotiated on it.
#[derive(Debug)]
pub struct FrontEnd {
    wire: Wire,
    offered: u64,
    features: u64,
    protocol_offered: u64,
    protocol: u64,
    queue_num: Option<u64>,
    memory_slots: Option<u64>,
    reply_to_all: bool,
}

impl FrontEnd {
    /// Takes over a connection on which nothing was said yet.
    #[must_use]
    pub fn new(wire: Wire) -> Self {
        Self {
            wire,
            offered: 0,
            features: 0,
            protocol_offered: 0,
            protocol: 0,
            queue_num: None,
            memory_slots: None,
            reply_to_all: false,
        }
    }

    /// Connects to the back-end that listens at `path`, trying again until `timeout` has passed.
    ///
    /// # Errors
    ///
    /// The last failure to connect.
    pub fn connect(path: &Path, timeout: Duration) -> Result<Self> {
        Wire::connect(path, timeout).map(Self::new)
    }

    /// The socket, for everything that this type does not say.
    #[must_use]
    pub fn wire(&self) -> &Wire {
        &self.wire
    }

    /// What the back-end offered.
    #[must_use]
    pub fn offered(&self) -> u64 {
        self.offered
    }

    /// What is acknowledged: wanted and offered.
    #[must_use]
    pub fn features(&self) -> u64 {
        self.features
    }

    /// Chooses again among what was offered, before another [`FrontEnd::start`]: another driver in the
    /// same guest.
    pub fn choose(&mut self, wanted: u64) {
        self.features = wanted & self.offered;
    }

    /// Protocol features that the back-end offered.
    #[must_use]
    pub fn protocol_offered(&self) -> u64 {
        self.protocol_offered
    }

    /// Protocol features in force.
    #[must_use]
    pub fn protocol(&self) -> u64 {
        self.protocol
    }

    /// The answer to GET_QUEUE_NUM, if it was asked.
    #[must_use]
    pub fn queue_num(&self) -> Option<u64> {
        self.queue_num
    }

    /// The answer to GET_MAX_MEM_SLOTS, if it was asked.
    #[must_use]
    pub fn memory_slots(&self) -> Option<u64> {
        self.memory_slots
    }

    fn ack(&self) -> bool {
        self.protocol & protocol::REPLY_ACK != 0
    }

    /// Sends a request that has no reply of its own, with an acknowledgement if the script wants one.
    fn tell(&self, message: Message<'_>) -> Result<()> {
        if self.reply_to_all {
            self.wire.acknowledged(message)
        } else {
            self.wire.send(&message)
        }
    }

    /// Sends a request that has no reply of its own, with an acknowledgement if REPLY_ACK is in force.
    fn tell_surely(&self, message: Message<'_>) -> Result<()> {
        if self.ack() {
            self.wire.acknowledged(message)
        } else {
            self.wire.send(&message)
        }
    }

    /// Sends a request that has a reply of its own.
    fn ask(&self, mut message: Message<'_>) -> Result<Incoming> {
        if self.reply_to_all {
            message.flags |= NEED_REPLY;
        }
        self.wire.call(&message)
    }

    /// The first act. `wanted` and `wanted_protocol` are masks: what is in force afterwards is what both
    /// sides have.
    ///
    /// # Errors
    ///
    /// When the back-end does not answer as the protocol says.
    pub fn negotiate(&mut self, script: Script, wanted: u64, wanted_protocol: u64) -> Result<()> {
        if script != Script::Qemu {
            self.wire.send(&Message::new(Request::SET_OWNER))?;
        }
        self.offered = self
            .wire
            .call(&Message::new(Request::GET_FEATURES))?
            .u64()?;
        let mut wanted = wanted;
        if script == Script::Bare {
            wanted &= !feature::PROTOCOL_FEATURES;
        }
        self.features = wanted & self.offered;
        if self.features & feature::PROTOCOL_FEATURES != 0 {
            self.negotiate_protocol(script, wanted_protocol)?;
        }
        if script == Script::Qemu {
            self.wire.send(&Message::new(Request::SET_OWNER))?;
            self.offered = self
                .wire
                .call(&Message::new(Request::GET_FEATURES))?
                .u64()?;
        }
        Ok(())
    }

    fn negotiate_protocol(&mut self, script: Script, wanted: u64) -> Result<()> {
        self.protocol_offered = self
            .wire
            .call(&Message::new(Request::GET_PROTOCOL_FEATURES))?
            .u64()?;
        self.protocol = wanted & self.protocol_offered;
        self.wire
            .send(&Message::u64(Request::SET_PROTOCOL_FEATURES, self.protocol))?;
        self.reply_to_all = script == Script::CloudHypervisor && self.ack();
        if self.protocol & protocol::MQ != 0 {
            self.queue_num = Some(self.ask(Message::new(Request::GET_QUEUE_NUM))?.u64()?);
        }
        if self.protocol & protocol::CONFIGURE_MEM_SLOTS != 0 {
            let slots = self.ask(Message::new(Request::GET_MAX_MEM_SLOTS))?.u64()?;
            self.memory_slots = Some(slots);
        }
        Ok(())
    }

    /// The second act: shares `memory` and starts `rings` with the features that were negotiated.
    ///
    /// # Errors
    ///
    /// When the back-end refuses a step or does not answer.
    pub fn start(&self, script: Script, memory: &Memory, rings: &[RingSetup<'_>]) -> Result<()> {
        match script {
            Script::Modern | Script::Bare => self.start_in_order(memory, rings),
            Script::Qemu => self.start_as_qemu(memory, rings),
            Script::CloudHypervisor => self.start_as_cloud_hypervisor(memory, rings),
        }
    }

    fn start_in_order(&self, memory: &Memory, rings: &[RingSetup<'_>]) -> Result<()> {
        self.set_features(self.features)?;
        self.share(memory)?;
        for ring in rings {
            self.set_vring_num(ring.index, u32::from(ring.layout.size))?;
            self.set_vring_base(ring.index, u32::from(ring.base))?;
            self.set_vring_addr(memory, ring)?;
            self.set_vring_call(ring.index, ring.call)?;
            self.set_vring_kick(ring.index, Some(ring.kick))?;
            self.enable_where_possible(ring)?;
        }
        // Whatever was sent without an acknowledgement has been acted on once this is answered.
        self.wire.call(&Message::new(Request::GET_FEATURES))?;
        Ok(())
    }

    fn start_as_qemu(&self, memory: &Memory, rings: &[RingSetup<'_>]) -> Result<()> {
        for ring in rings {
            self.set_vring_call(ring.index, ring.call)?;
        }
        for ring in rings {
            self.enable_where_possible(ring)?;
        }
        for pair in rings.chunks(2) {
            self.set_features(self.features)?;
            self.share(memory)?;
            for ring in pair {
                self.set_vring_num(ring.index, u32::from(ring.layout.size))?;
                self.set_vring_base(ring.index, u32::from(ring.base))?;
                self.set_vring_addr(memory, ring)?;
                self.set_vring_kick(ring.index, Some(ring.kick))?;
                self.set_vring_call(ring.index, ring.call)?;
            }
        }
        Ok(())
    }

    fn start_as_cloud_hypervisor(&self, memory: &Memory, rings: &[RingSetup<'_>]) -> Result<()> {
        self.set_features(self.features)?;
        self.share(memory)?;
        for ring in rings {
            let avail = memory.load(ring.layout.avail + 2, std::sync::atomic::Ordering::Acquire)?;
            self.set_vring_num(ring.index, u32::from(ring.layout.size))?;
            self.set_vring_addr(memory, ring)?;
            self.set_vring_base(ring.index, u32::from(u16::from_le(avail)))?;
            if ring.call.is_some() {
                self.set_vring_call(ring.index, ring.call)?;
            }
            self.set_vring_kick(ring.index, Some(ring.kick))?;
        }
        for ring in rings {
            self.enable_where_possible(ring)?;
        }
        Ok(())
    }

    fn enable_where_possible(&self, ring: &RingSetup<'_>) -> Result<()> {
        // Without protocol features there is no such request: rings start enabled.
        if self.features & feature::PROTOCOL_FEATURES == 0 {
            return Ok(());
        }
        self.set_vring_enable(ring.index, ring.enable)
    }

    /// SET_FEATURES with any mask.
    ///
    /// # Errors
    ///
    /// As [`Wire::acknowledged`]; so for all requests below.
    pub fn set_features(&self, features: u64) -> Result<()> {
        self.tell(Message::u64(Request::SET_FEATURES, features))
    }

    /// Shares `memory`: ADD_MEM_REG for each region where slots are configurable, else SET_MEM_TABLE.
    ///
    /// # Errors
    ///
    /// See [`FrontEnd::set_features`].
    pub fn share(&self, memory: &Memory) -> Result<()> {
        if self.protocol & protocol::CONFIGURE_MEM_SLOTS == 0 {
            return self.set_mem_table(memory);
        }
        for (region, fd) in memory.table().into_iter().zip(memory.fds()) {
            self.tell_surely(Message::mem_reg(Request::ADD_MEM_REG, region, Some(fd)))?;
        }
        Ok(())
    }

    /// SET_MEM_TABLE with all regions of `memory`.
    ///
    /// # Errors
    ///
    /// See [`FrontEnd::set_features`].
    pub fn set_mem_table(&self, memory: &Memory) -> Result<()> {
        self.tell_surely(Message::mem_table(&memory.table(), memory.fds()))
    }

    /// SET_VRING_NUM.
    ///
    /// # Errors
    ///
    /// See [`FrontEnd::set_features`].
    pub fn set_vring_num(&self, ring: u8, num: u32) -> Result<()> {
        self.tell(Message::state(Request::SET_VRING_NUM, u32::from(ring), num))
    }

    /// SET_VRING_BASE.
    ///
    /// # Errors
    ///
    /// See [`FrontEnd::set_features`].
    pub fn set_vring_base(&self, ring: u8, base: u32) -> Result<()> {
        self.tell(Message::state(
            Request::SET_VRING_BASE,
            u32::from(ring),
            base,
        ))
    }

    /// SET_VRING_ADDR, with the front-end's own addresses.
    ///
    /// # Errors
    ///
    /// [`Error::NoRegion`], and see [`FrontEnd::set_features`].
    pub fn set_vring_addr(&self, memory: &Memory, ring: &RingSetup<'_>) -> Result<()> {
        self.tell(Message::vring_addr(VringAddr {
            index: u32::from(ring.index),
            flags: 0,
            desc: memory.uva(ring.layout.desc)?,
            used: memory.uva(ring.layout.used)?,
            avail: memory.uva(ring.layout.avail)?,
            log: 0,
        }))
    }

    /// SET_VRING_CALL.
    ///
    /// # Errors
    ///
    /// See [`FrontEnd::set_features`].
    pub fn set_vring_call(&self, ring: u8, call: Option<&Event>) -> Result<()> {
        self.tell(Message::vring_fd(
            Request::SET_VRING_CALL,
            ring,
            call.map(AsFd::as_fd),
        ))
    }

    /// SET_VRING_KICK.
    ///
    /// # Errors
    ///
    /// See [`FrontEnd::set_features`].
    pub fn set_vring_kick(&self, ring: u8, kick: Option<&Event>) -> Result<()> {
        self.tell(Message::vring_fd(
            Request::SET_VRING_KICK,
            ring,
            kick.map(AsFd::as_fd),
        ))
    }

    /// SET_VRING_ENABLE.
    ///
    /// # Errors
    ///
    /// See [`FrontEnd::set_features`].
    pub fn set_vring_enable(&self, ring: u8, enable: bool) -> Result<()> {
        self.tell(Message::state(
            Request::SET_VRING_ENABLE,
            u32::from(ring),
            u32::from(enable),
        ))
    }

    /// GET_VRING_BASE: stops the ring and returns how far the back-end has come in the available ring.
    ///
    /// # Errors
    ///
    /// As [`Wire::call`], and [`Error::Protocol`] when another ring is named in the reply.
    pub fn get_vring_base(&self, ring: u8) -> Result<u32> {
        let reply = self.ask(Message::state(Request::GET_VRING_BASE, u32::from(ring), 0))?;
        match reply.state()? {
            (index, base) if index == u32::from(ring) => Ok(base),
            (index, _) => Err(Error::Protocol(format!(
                "GET_VRING_BASE of ring {ring} was answered for ring {index}"
            ))),
        }
    }

    /// Asks for the features once more: when the answer is there, everything said before has been acted
    /// on.
    ///
    /// # Errors
    ///
    /// As [`Wire::call`].
    pub fn sync(&self) -> Result<()> {
        self.ask(Message::new(Request::GET_FEATURES)).map(drop)
    }
}
