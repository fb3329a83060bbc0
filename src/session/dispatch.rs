//! The table of requests: what each may bring, what it needs, and the one small function that serves it.
//!
//! Before a function runs, the table has checked that its protocol feature was negotiated and that it brought no more
//! descriptors than it may. The function checks the rest of its own request.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use vhost::vhost_user::message::{
    FrontendReq, VhostUserProtocolFeatures as Protocol, VhostUserVringState,
};

use super::Device;
use super::backend::Backend;
use super::features::{OFFERED, PROTOCOL_OFFERED};
use super::message::{self, MAX_FDS};
use super::refusal::Refusal;
use super::rings::Kicked;
use crate::memory::{Call, Kick, judge_eventfd};
use crate::ring::features::VHOST_F_LOG_ALL;

/// FEATURES_OK of the device status (VIRTIO 1.2, 2.1).
const FEATURES_OK: u8 = 8;

/// The least MTU that a device may have (VIRTIO 1.2, 5.1.4.1).
const MIN_MTU: u16 = 68;

/// What is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The request has no reply of its own: zero, if it asked for one (vhost-user: REPLY_ACK).
    Done,
    /// "A single 64-bit integer".
    Number(u64),
    /// "A vring state description".
    RingState(u32, u32),
}

impl Answer {
    /// The reply's body.
    pub(super) fn body(self) -> [u8; 8] {
        match self {
            Self::Done => [0; 8],
            Self::Number(value) => value.to_ne_bytes(),
            Self::RingState(index, num) => {
                let state = VhostUserVringState::new(index, num);
                let mut body = [0; 8];
                body.copy_from_slice(vm_memory::ByteValued::as_slice(&state));
                body
            }
        }
    }
}

/// A request with what came with it.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    pub(super) body: &'a [u8],
    /// What is left in it is given away to be closed: nothing here may drop a descriptor but an eventfd.
    pub(super) fds: &'a mut Vec<OwnedFd>,
}

impl Asked<'_> {
    /// The one descriptor that must have come.
    fn one_fd(&self) -> Result<&OwnedFd, Refusal> {
        match self.fds.as_slice() {
            [fd] => Ok(fd),
            fds => Err(Refusal::FdCount {
                expected: 1,
                found: fds.len(),
            }),
        }
    }

    /// The same, if it is an eventfd, to be kept.
    fn one_eventfd(&mut self) -> Result<Option<OwnedFd>, Refusal> {
        judge_eventfd(self.one_fd()?.as_fd())?;
        Ok(self.fds.pop())
    }
}

type Serve = fn(&mut Backend, &mut Asked<'_>, &mut dyn Device) -> Result<Answer, Refusal>;

/// One row of the table.
pub(super) struct Row {
    request: FrontendReq,
    /// Descriptors it may bring.
    fds: usize,
    /// The protocol feature that must have been negotiated; 0 for none.
    needs: u64,
    /// It has a reply of its own, so a refusal cannot be told.
    pub(super) replies: bool,
    pub(super) serve: Serve,
}

const fn row(request: FrontendReq, fds: usize, needs: Protocol, serve: Serve) -> Row {
    Row {
        request,
        fds,
        needs: needs.bits(),
        replies: false,
        serve,
    }
}

const fn asking(request: FrontendReq, needs: Protocol, serve: Serve) -> Row {
    Row {
        request,
        fds: 0,
        needs: needs.bits(),
        replies: true,
        serve,
    }
}

const NONE: Protocol = Protocol::empty();
const SLOTS: Protocol = Protocol::CONFIGURE_MEM_SLOTS;

/// Every request that is served. What is not here is refused: log and inflight sharing, postcopy, IOTLB, configuration
/// space and the back-end channel are not offered.
static TABLE: [Row; 27] = [
    asking(FrontendReq::GET_FEATURES, NONE, get_features),
    row(FrontendReq::SET_FEATURES, 0, NONE, set_features),
    row(FrontendReq::SET_OWNER, 0, NONE, set_owner),
    row(FrontendReq::RESET_OWNER, 0, NONE, reset_owner),
    row(FrontendReq::SET_MEM_TABLE, MAX_FDS, NONE, set_mem_table),
    row(FrontendReq::SET_VRING_NUM, 0, NONE, set_vring_num),
    row(FrontendReq::SET_VRING_ADDR, 0, NONE, set_vring_addr),
    row(FrontendReq::SET_VRING_BASE, 0, NONE, set_vring_base),
    asking(FrontendReq::GET_VRING_BASE, NONE, get_vring_base),
    row(FrontendReq::SET_VRING_KICK, 1, NONE, set_vring_kick),
    row(FrontendReq::SET_VRING_CALL, 1, NONE, set_vring_call),
    row(FrontendReq::SET_VRING_ERR, 1, NONE, set_vring_err),
    asking(
        FrontendReq::GET_PROTOCOL_FEATURES,
        NONE,
        get_protocol_features,
    ),
    row(
        FrontendReq::SET_PROTOCOL_FEATURES,
        0,
        NONE,
        set_protocol_features,
    ),
    // Legal as soon as MQ is offered (vhost-user: GET_QUEUE_NUM), not only when it was accepted.
    asking(FrontendReq::GET_QUEUE_NUM, NONE, get_queue_num),
    // Legal "only when protocol features have been negotiated", but QEMU says it before it says so.
    row(FrontendReq::SET_VRING_ENABLE, 0, NONE, set_vring_enable),
    row(FrontendReq::SEND_RARP, 0, Protocol::RARP, send_rarp),
    row(FrontendReq::NET_SET_MTU, 0, Protocol::MTU, net_set_mtu),
    row(
        FrontendReq::RESET_DEVICE,
        0,
        Protocol::RESET_DEVICE,
        reset_device,
    ),
    asking(FrontendReq::GET_MAX_MEM_SLOTS, SLOTS, get_max_mem_slots),
    row(FrontendReq::ADD_MEM_REG, 1, SLOTS, add_mem_reg),
    // "The back-end MAY accept messages with one file descriptor" and must not use it.
    row(FrontendReq::REM_MEM_REG, 1, SLOTS, rem_mem_reg),
    row(FrontendReq::SET_STATUS, 0, Protocol::STATUS, set_status),
    asking(FrontendReq::GET_STATUS, Protocol::STATUS, get_status),
    // Refused like what is unknown; here because QEMU and others know to read a refusal of these.
    row(
        FrontendReq::SET_LOG_BASE,
        1,
        Protocol::LOG_SHMFD,
        not_served,
    ),
    row(FrontendReq::SET_LOG_FD, 1, Protocol::LOG_SHMFD, not_served),
    row(
        FrontendReq::SET_BACKEND_REQ_FD,
        1,
        Protocol::BACKEND_REQ,
        not_served,
    ),
];

/// The row of a request.
pub(super) fn find(request: u32) -> Option<&'static Row> {
    TABLE.iter().find(|row| u32::from(row.request) == request)
}

/// The name of a request, for people.
pub(super) fn name(request: u32) -> String {
    FrontendReq::try_from(request).map_or_else(
        |_| format!("request {request}"),
        |request| format!("{request:?}"),
    )
}

impl Row {
    /// What every request is checked for before it is served.
    pub(super) fn admit(&self, backend: &Backend, asked: &Asked<'_>) -> Result<(), Refusal> {
        if self.needs & !backend.protocol != 0 {
            return Err(Refusal::NotNegotiated);
        }
        if asked.fds.len() > self.fds {
            return Err(Refusal::FdCount {
                expected: self.fds,
                found: asked.fds.len(),
            });
        }
        Ok(())
    }
}

fn not_served(_: &mut Backend, _: &mut Asked<'_>, _: &mut dyn Device) -> Result<Answer, Refusal> {
    Err(Refusal::NotNegotiated)
}

fn get_features(
    _: &mut Backend,
    asked: &mut Asked<'_>,
    _: &mut dyn Device,
) -> Result<Answer, Refusal> {
    message::nothing(asked.body)?;
    Ok(Answer::Number(OFFERED))
}

/// What is not offered is refused. LOG_ALL is not offered either (a front-end then knows that it cannot migrate the
/// guest), but one that sets or clears it all the same must not lose its rings for it: it is taken and has no effect.
fn set_features(
    b: &mut Backend,
    asked: &mut Asked<'_>,
    device: &mut dyn Device,
) -> Result<Answer, Refusal> {
    let accepted = message::number(asked.body)?;
    let foreign = accepted & !(OFFERED | VHOST_F_LOG_ALL);
    if foreign != 0 {
        return Err(Refusal::NotOffered(foreign));
    }
    let before = b.features.map(|bits| bits & !VHOST_F_LOG_ALL);
    if before == Some(accepted & !VHOST_F_LOG_ALL) {
        b.features = Some(accepted);
        return Ok(Answer::Done);
    }
    b.rearranged(device, |b| b.features = Some(accepted))
}

fn get_protocol_features(
    _: &mut Backend,
    asked: &mut Asked<'_>,
    _: &mut dyn Device,
) -> Result<Answer, Refusal> {
    message::nothing(asked.body)?;
    Ok(Answer::Number(PROTOCOL_OFFERED))
}

fn set_protocol_features(
    b: &mut Backend,
    asked: &mut Asked<'_>,
    _: &mut dyn Device,
) -> Result<Answer, Refusal> {
    let accepted = message::number(asked.body)?;
    if accepted & !PROTOCOL_OFFERED != 0 {
        return Err(Refusal::NotOffered(accepted & !PROTOCOL_OFFERED));
    }
    b.protocol = accepted;
    Ok(Answer::Done)
}

/// A second SET_OWNER changes nothing: QEMU sends one for every queue pair.
fn set_owner(
    _: &mut Backend,
    asked: &mut Asked<'_>,
    _: &mut dyn Device,
) -> Result<Answer, Refusal> {
    message::nothing(asked.body)?;
    Ok(Answer::Done)
}

/// "It is recommended that back-ends either ignore this message, or use it to disable all rings."
fn reset_owner(
    b: &mut Backend,
    asked: &mut Asked<'_>,
    device: &mut dyn Device,
) -> Result<Answer, Refusal> {
    message::nothing(asked.body)?;
    for ring in &mut b.rings {
        ring.set_enabled(false, device);
    }
    Ok(Answer::Done)
}

fn get_queue_num(
    _: &mut Backend,
    asked: &mut Asked<'_>,
    device: &mut dyn Device,
) -> Result<Answer, Refusal> {
    message::nothing(asked.body)?;
    Ok(Answer::Number(u64::from(device.queue_pairs())))
}

fn set_mem_table(
    b: &mut Backend,
    asked: &mut Asked<'_>,
    device: &mut dyn Device,
) -> Result<Answer, Refusal> {
    let specs = message::regions(asked.body)?;
    if specs.len() != asked.fds.len() {
        return Err(Refusal::FdCount {
            expected: specs.len(),
            found: asked.fds.len(),
        });
    }
    let next = b.shared.replaced(&specs, asked.fds)?;
    b.rearranged(device, |b| b.shared.install(next))
}

fn get_max_mem_slots(
    b: &mut Backend,
    asked: &mut Asked<'_>,
    _: &mut dyn Device,
) -> Result<Answer, Refusal> {
    message::nothing(asked.body)?;
    Ok(Answer::Number(b.shared.slots()))
}

fn add_mem_reg(
    b: &mut Backend,
    asked: &mut Asked<'_>,
    device: &mut dyn Device,
) -> Result<Answer, Refusal> {
    let spec = message::single_region(asked.body)?;
    let fd = asked.one_fd()?;
    match b.shared.with(spec, fd)? {
        Some(next) => b.rearranged(device, |b| b.shared.install(next)),
        None => Ok(Answer::Done),
    }
}

fn rem_mem_reg(
    b: &mut Backend,
    asked: &mut Asked<'_>,
    device: &mut dyn Device,
) -> Result<Answer, Refusal> {
    let spec = message::single_region(asked.body)?;
    match b.shared.without(&spec)? {
        // A ring that lay in the region is left stopped, and that is what was asked for: no refusal.
        Some(next) => b
            .rearranged(device, |b| b.shared.install(next))
            .or(Ok(Answer::Done)),
        None => Ok(Answer::Done),
    }
}

fn set_vring_num(
    b: &mut Backend,
    asked: &mut Asked<'_>,
    device: &mut dyn Device,
) -> Result<Answer, Refusal> {
    let (index, size) = message::ring_state(asked.body)?;
    b.ring(index)?.set_size(size, device)?;
    b.settle(index, device)
}

fn set_vring_addr(
    b: &mut Backend,
    asked: &mut Asked<'_>,
    device: &mut dyn Device,
) -> Result<Answer, Refusal> {
    let (index, addresses) = message::ring_addresses(asked.body)?;
    b.ring(index)?.set_addresses(addresses, device)?;
    b.settle(index, device)
}

fn set_vring_base(
    b: &mut Backend,
    asked: &mut Asked<'_>,
    _: &mut dyn Device,
) -> Result<Answer, Refusal> {
    let (index, base) = message::ring_state(asked.body)?;
    b.ring(index)?.set_base(base)?;
    Ok(Answer::Done)
}

fn get_vring_base(
    b: &mut Backend,
    asked: &mut Asked<'_>,
    device: &mut dyn Device,
) -> Result<Answer, Refusal> {
    let (index, _) = message::ring_state(asked.body)?;
    let base = b.ring(index)?.retire(device);
    Ok(Answer::RingState(index, u32::from(base)))
}

/// The ring of SET_VRING_KICK, CALL or ERR, and the descriptor, which must be there exactly when the
/// body says so (P-5).
fn ring_and_fd(asked: &mut Asked<'_>) -> Result<(u32, Option<OwnedFd>), Refusal> {
    let (index, no_fd) = message::ring_fd(asked.body)?;
    if no_fd {
        let found = asked.fds.len();
        return if found == 0 {
            Ok((index, None))
        } else {
            Err(Refusal::FdCount { expected: 0, found })
        };
    }
    Ok((index, asked.one_eventfd()?))
}

fn set_vring_kick(
    b: &mut Backend,
    asked: &mut Asked<'_>,
    device: &mut dyn Device,
) -> Result<Answer, Refusal> {
    let (index, fd) = ring_and_fd(asked)?;
    let kick = match fd {
        Some(fd) => Kicked::By(Arc::new(Kick::new(fd)?)),
        None => Kicked::Polled,
    };
    b.ring(index)?.set_kick(kick, device);
    b.settle(index, device)
}

fn set_vring_call(
    b: &mut Backend,
    asked: &mut Asked<'_>,
    device: &mut dyn Device,
) -> Result<Answer, Refusal> {
    let (index, fd) = ring_and_fd(asked)?;
    let call = fd.map(Call::new).transpose()?.map(Arc::new);
    b.ring(index)?.set_call(call, device);
    Ok(Answer::Done)
}

/// Signalled when the ring breaks, so that a front-end can mend it.
fn set_vring_err(
    b: &mut Backend,
    asked: &mut Asked<'_>,
    device: &mut dyn Device,
) -> Result<Answer, Refusal> {
    let (index, fd) = ring_and_fd(asked)?;
    let err = fd.map(Call::new).transpose()?.map(Arc::new);
    b.ring(index)?.set_err(err, device);
    Ok(Answer::Done)
}

fn set_vring_enable(
    b: &mut Backend,
    asked: &mut Asked<'_>,
    device: &mut dyn Device,
) -> Result<Answer, Refusal> {
    let (index, enabled) = message::ring_state(asked.body)?;
    if enabled > 1 {
        return Err(Refusal::Range {
            what: "the enabled state",
            value: u64::from(enabled),
        });
    }
    b.ring(index)?.set_enabled(enabled == 1, device);
    Ok(Answer::Done)
}

/// "The first 6 bytes of the payload contain the mac address."
fn send_rarp(
    _: &mut Backend,
    asked: &mut Asked<'_>,
    device: &mut dyn Device,
) -> Result<Answer, Refusal> {
    let value = message::number(asked.body)?;
    let [a, b, c, d, e, f, ..] = value.to_ne_bytes();
    let mac = [a, b, c, d, e, f];
    if mac == [0; 6] || a & 1 != 0 {
        return Err(Refusal::Range {
            what: "the MAC address to announce",
            value,
        });
    }
    device.announce(mac);
    Ok(Answer::Done)
}

fn net_set_mtu(
    _: &mut Backend,
    asked: &mut Asked<'_>,
    device: &mut dyn Device,
) -> Result<Answer, Refusal> {
    let value = message::number(asked.body)?;
    let out_of_range = Refusal::Range {
        what: "the MTU",
        value,
    };
    let most = device.mtu().unwrap_or(u16::MAX);
    match u16::try_from(value) {
        Ok(mtu) if (MIN_MTU..=most).contains(&mtu) => {
            device.mtu_changed(mtu);
            Ok(Answer::Done)
        }
        _ => Err(out_of_range),
    }
}

/// Rings and features go back to the beginning; memory and ownership stay, since front-ends do
/// not share memory again after it.
fn reset_device(
    b: &mut Backend,
    asked: &mut Asked<'_>,
    device: &mut dyn Device,
) -> Result<Answer, Refusal> {
    message::nothing(asked.body)?;
    for ring in &mut b.rings {
        ring.reset(device);
    }
    b.features = None;
    b.status = 0;
    device.reset();
    Ok(Answer::Done)
}

/// The status is kept as it was set, but for FEATURES_OK, which stands only if features were accepted: the
/// front-end reads it back to learn that (VIRTIO 1.2, 3.1.1). Zero is a reset of the guest's driver.
fn set_status(
    b: &mut Backend,
    asked: &mut Asked<'_>,
    device: &mut dyn Device,
) -> Result<Answer, Refusal> {
    let value = message::number(asked.body)?;
    let status = u8::try_from(value).map_err(|_| Refusal::Range {
        what: "the device status",
        value,
    })?;
    if status == 0 {
        for ring in &mut b.rings {
            ring.retire(device);
        }
    }
    b.status = if b.features.is_some() {
        status
    } else {
        status & !FEATURES_OK
    };
    Ok(Answer::Done)
}

fn get_status(
    b: &mut Backend,
    asked: &mut Asked<'_>,
    _: &mut dyn Device,
) -> Result<Answer, Refusal> {
    message::nothing(asked.body)?;
    Ok(Answer::Number(u64::from(b.status)))
}
