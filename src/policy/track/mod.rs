//! Connection tracking: which packets belong to a connection that was let open.
//!
//! # What is promised
//!
//! - *Each port pays for itself.* A connection is kept in the table of the port that opened it; the bounds ([`TrackingSpec`]) are
//!   each table's own. No port can use up, end or change what another has opened.
//! - *A connection is between two ports.* A packet belongs to it only when it comes from the one and goes to the other, by
//!   the ports that it really comes from and goes to. The same addresses from a third port are another connection.
//! - *Nothing grows, nothing waits.* Memory is asked for when a table is made and used as connections come; opening, looking up and
//!   going on allocate nothing, look at a bounded number of entries, and what a cached [`FlowRef`] leads to goes on
//!   without a lock.
//!
//! # What is tracked
//!
//! | packet | |
//! |---|---|
//! | TCP | by addresses and ports, with windows: see the head of `tcp.rs` |
//! | UDP | by addresses and ports |
//! | ICMP and ICMPv6 echo | by addresses and identifier; a reply opens nothing |
//! | ICMP unreachable, time exceeded, parameter problem; ICMPv6 errors | *related*, if about a connection between the very two ports, *invalid* otherwise |
//! | other IP protocols | by addresses and protocol |
//! | no IP, fragments, unreadable headers, group addresses as destination, an unspecified source, neighbour discovery and other ICMP | untracked |
//!
//! Checksums are not looked at: between two guests they are often not computed yet.
//!
//! # Making room
//!
//! A connection is *half open* until TCP's handshake is complete, or until the first reply of another protocol. When a port has as many
//! connections, or half-open ones, as it may, an opening first looks for an expired one among the next 32, then ends the port's oldest half-open
//! one. An established one never ends for another's sake: if all are, the opening is refused.
//!
//! # Threads
//!
//! A worker takes a [`Seat`], and a [`Burst`] from it for the frames of one burst; the rest of the switch uses the [`Tracker`] itself.
//! Packets from one port are all handled by one thread at a time. How the places of ended connections are
//! given to others is told in `seats.rs`.

mod ahead;
mod entry;
mod flow;
mod found;
mod index;
mod key;
mod phase;
mod quote;
mod seats;
mod slab;
mod table;
mod tcp;
#[cfg(test)]
mod tests;
mod walk;

use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::sync::{Arc, OnceLock};

pub use ahead::{ABREAST, Hint};
pub use flow::{Count, Direction, Flow, FlowRef, Look, Side, Terms};
pub use phase::Phase;
pub use table::Turnover;
pub use walk::Flows;

use self::entry::{HALF, Half, low};
use self::found::Found;
use self::key::{Class, Key};
use self::phase::Settings;
use self::quote::Quote;
use self::seats::Seats;
use self::table::{Opening, Table};
use self::tcp::{Segment, Step, Window};
use super::digest::Digest;
use super::spec::{ConnectionQuota, TrackingSpec};
use super::subject::State;
use crate::clock::Tick;
use crate::counters::{DropReason, MAX_PORTS, PortId};
use crate::frame::{Frame, protocol};

/// All tracked connections of a switch. Survives policies.
#[derive(Debug)]
pub struct Tracker {
    tables: Box<[OnceLock<Box<Table>>]>,
    settings: Settings,
    seats: Seats,
    /// The table at which the next sweep begins.
    turn: AtomicUsize,
}

/// How many connections a port has opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Usage {
    /// Now.
    pub flows: u32,
    /// Of these, half-open ones.
    pub half_open: u32,
    /// Since the start.
    pub turnover: Turnover,
}

impl Tracker {
    /// With tables for the ports below `ports`.
    pub fn new(spec: &TrackingSpec, ports: usize) -> Self {
        let tracker = Self {
            tables: (0..MAX_PORTS).map(|_| OnceLock::new()).collect(),
            settings: Settings::default(),
            seats: Seats::new(),
            turn: AtomicUsize::new(0),
        };
        tracker.reconfigure(spec, ports);
        tracker
    }

    /// Sets other bounds and sees to tables for the ports below `ports`. What is open stays, over a lowered bound too.
    /// A port has at most 4,194,304 connections, whatever `per_port` says; timeouts are between 1 s and 524,287 s.
    pub fn reconfigure(&self, spec: &TrackingSpec, ports: usize) {
        let slots = (0u16..).map_while(PortId::new).zip(&self.tables);
        let quota = ConnectionQuota {
            connections: spec.per_port,
            half_open: spec.half_open_per_port,
            new_per_second: spec.new_per_second,
        };
        for (port, slot) in slots.take(ports) {
            slot.get_or_init(|| Box::new(Table::new(port))).bind(quota);
        }
        self.settings.set(spec);
    }

    /// Sets the bounds of one port that are not those of all; to be said again after [`Tracker::reconfigure`].
    pub fn bind(&self, port: PortId, quota: ConnectionQuota) {
        if let Some(table) = self.table(port) {
            table.bind(quota);
        }
    }

    /// A seat for a worker; `None` when 64 are taken.
    pub fn seat(self: &Arc<Self>) -> Option<Seat> {
        let number = self.seats.take()?;
        Some(Seat {
            tracker: Arc::clone(self),
            number,
        })
    }

    #[inline(always)]
    fn table(&self, port: PortId) -> Option<&Table> {
        self.tables.get(port.index())?.get().map(Box::as_ref)
    }

    fn tables(&self) -> impl Iterator<Item = &Table> {
        self.tables
            .iter()
            .filter_map(|table| Some(table.get()?.as_ref()))
    }

    /// How many connections a port has opened since the start: while the number stays, no packet has become part of one that
    /// it was no part of.
    #[inline]
    pub fn opened(&self, port: PortId) -> u64 {
        self.table(port).map_or(0, Table::opens)
    }

    /// How many connections a port has open.
    #[inline]
    pub fn live(&self, port: PortId) -> u32 {
        self.table(port).map_or(0, Table::live)
    }

    /// What a port has opened.
    pub fn usage(&self, port: PortId) -> Usage {
        self.table(port).map_or_else(Usage::default, |table| Usage {
            flows: table.live(),
            half_open: table.half_open(),
            turnover: table.lock().turnover,
        })
    }

    #[inline(always)]
    fn found(&self, flow: FlowRef) -> Option<(&Table, Found<'_>)> {
        let table = self.table(flow.port)?;
        Some((table, table.get(flow.slot, flow.generation)?))
    }

    /// Ends a connection; false when it had ended before.
    pub fn end(&self, flow: FlowRef) -> bool {
        let Some(table) = self.table(flow.port) else {
            return false;
        };
        let books = &mut *table.lock();
        let found = table.get(flow.slot, flow.generation);
        if let Some(found) = &found {
            table.end(books, &self.seats, found);
        }
        found.is_some()
    }

    /// Notes that a connection was judged under the policy `epoch`, and its terms there; false when it has ended.
    pub fn affirm(&self, flow: FlowRef, terms: &Terms, epoch: u64) -> bool {
        let Some(table) = self.table(flow.port) else {
            return false;
        };
        let _books = table.lock();
        let found = table.get(flow.slot, flow.generation);
        if let Some(found) = &found {
            found.entry.set_terms(terms, epoch);
        }
        found.is_some()
    }

    /// Lets a packet go on its connection, if the windows agree.
    #[inline(always)]
    fn go_on(
        &self,
        table: &Table,
        found: &Found<'_>,
        direction: Direction,
        digest: &Digest,
        frame: &Frame<'_>,
        now: Tick,
    ) -> Option<State> {
        let own = found.entry.half(direction);
        let other = found.entry.half(direction.reversed());
        if found.idle(now) > 0 && found.is_expired(&self.settings, now) {
            return None;
        }
        let is_complete = if digest.subject.protocol() == protocol::TCP {
            match judge_segment(own, other, direction, digest, frame) {
                Ok(is_complete) => is_complete,
                Err(answer) => return answer,
            }
        } else {
            let marks = own.marks();
            if marks & tcp::SEEN == 0 {
                own.set_marks(marks | tcp::SEEN);
            }
            direction == Direction::Reply
        };
        own.count(low(now.as_secs()), 1, frame.total_len());
        if found.header & HALF != 0 && is_complete {
            table.complete(found);
        }
        Some(State::Established)
    }
}

/// Writes down what a segment changes and tells whether both halves have acknowledged each other; or, if it changes
/// nothing, what is to be said of it.
#[inline(always)]
fn judge_segment(
    own: Half<'_>,
    other: Half<'_>,
    direction: Direction,
    digest: &Digest,
    frame: &Frame<'_>,
) -> Result<bool, Option<State>> {
    let Some(segment) = Segment::read(digest, frame) else {
        return Err(Some(State::Invalid));
    };
    let (was, theirs) = (own.window(), other.window());
    let mut is = was;
    match tcp::step(direction, &mut is, &theirs, &segment) {
        Step::Pass => {
            own.set_window(&was, &is);
            Ok(tcp::is_complete(is.word, theirs.word))
        }
        Step::Idle => Err(Some(State::Established)),
        Step::Renew => Err(None),
        Step::Doubt => {
            own.set_marks(is.word);
            Err(Some(State::Invalid))
        }
        Step::Invalid => Err(Some(State::Invalid)),
    }
}

/// A worker's place at the tracker.
#[derive(Debug)]
pub struct Seat {
    tracker: Arc<Tracker>,
    number: usize,
}

impl Seat {
    /// The tracker.
    pub fn tracker(&self) -> &Arc<Tracker> {
        &self.tracker
    }

    /// Begins a burst of frames. Places of connections that end are not used again while it lasts: make it short, and
    /// do not sleep in it.
    #[inline]
    pub fn burst(&mut self) -> Burst<'_> {
        self.tracker.seats.begin(self.number);
        Burst { seat: self }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.tracker.seats.leave(self.number);
    }
}

/// The tracker, for the frames of one burst.
#[derive(Debug)]
pub struct Burst<'a> {
    seat: &'a Seat,
}

impl Drop for Burst<'_> {
    fn drop(&mut self) {
        self.seat.tracker.seats.end(self.seat.number);
    }
}

impl Burst<'_> {
    #[inline(always)]
    fn tracker(&self) -> &Tracker {
        &self.seat.tracker
    }

    /// Goes on with a connection that was found before, for a packet of the same subject, ports and direction. Takes no lock.
    ///
    /// [`State::Established`], or [`State::Invalid`] for a segment that does not belong. `None` when the connection
    /// has ended, or the packet would open another in its place: [`Burst::look`] again.
    #[inline]
    pub fn advance(
        &self,
        flow: FlowRef,
        direction: Direction,
        digest: &Digest,
        frame: &Frame<'_>,
        now: Tick,
    ) -> Option<State> {
        let tracker = self.tracker();
        let (table, found) = tracker.found(flow)?;
        tracker.go_on(table, &found, direction, digest, frame, now)
    }

    /// Counts packets of a connection without windows that came behind one that [`Burst::advance`] let go on, in the same
    /// burst.
    pub fn count(&self, flow: FlowRef, direction: Direction, packets: u32, bytes: u32, now: Tick) {
        if let Some((_, found)) = self.tracker().found(flow) {
            let own = found.entry.half(direction);
            own.count(low(now.as_secs()), packets, bytes);
        }
    }

    /// Which connection a packet belongs to, and its state. A packet of a connection goes on with it at once.
    pub fn look(
        &self,
        digest: &Digest,
        frame: &Frame<'_>,
        from: PortId,
        to: PortId,
        now: Tick,
    ) -> Look {
        self.look_near(digest, frame, from, to, None, now)
    }

    /// The same, with a [`Hint`] of where its connection is.
    #[inline]
    pub fn look_near(
        &self,
        digest: &Digest,
        frame: &Frame<'_>,
        from: PortId,
        to: PortId,
        hint: Option<Hint>,
        now: Tick,
    ) -> Look {
        let class = Class::of(digest, frame);
        let (key, may_open, may_answer) = match &class {
            Class::Untracked => return Look::without_flow(State::Untracked),
            Class::Unreadable => return Look::without_flow(State::Invalid),
            Class::Error => return self.look_at_error(digest, frame, from, to, now),
            Class::Either(key) => (key, true, true),
            Class::Request(key) => (key, true, false),
            Class::Answer(key) => (key, false, true),
        };
        let tracker = self.tracker();
        let near = |port| hint.and_then(|hint| hint.at(port));
        let answered = |slot| {
            let table = tracker.table(to).filter(|_| may_answer)?;
            let found = table.find_near(slot, &key.reversed())?;
            if found.entry.peer() != from.get() {
                return None;
            }
            let state = tracker.go_on(table, &found, Direction::Reply, digest, frame, now)?;
            let flow = table.reference(&found);
            Some(Look::at(flow, Direction::Reply, state, &found))
        };
        // Two ports have one connection with the same addresses, so it does not matter which table is asked first.
        if let Some(slot) = near(to)
            && from != to
            && let Some(look) = answered(Some(slot))
        {
            return look;
        }
        let mut elsewhere = None;
        if may_open
            && let Some(table) = tracker.table(from)
            && let Some(found) = table.find_near(near(from), key)
        {
            if found.entry.peer() == to.get() {
                let state = tracker.go_on(table, &found, Direction::Original, digest, frame, now);
                if let Some(state) = state {
                    let flow = table.reference(&found);
                    return Look::at(flow, Direction::Original, state, &found);
                }
            } else if !found.phase().is_over() && !found.is_expired(&tracker.settings, now) {
                elsewhere = Some(table.reference(&found));
            }
        }
        if let Some(look) = answered(None) {
            return look;
        }
        self.beginning(&class, digest, frame, elsewhere)
    }

    /// The state of a packet that belongs to no connection.
    fn beginning(
        &self,
        class: &Class,
        digest: &Digest,
        frame: &Frame<'_>,
        elsewhere: Option<FlowRef>,
    ) -> Look {
        let is_new = match class {
            Class::Answer(_) => false,
            Class::Either(_) if digest.subject.protocol() == protocol::TCP => {
                let is_loose = self.tracker().settings.is_loose();
                // A connection that goes on to another port does so in the middle.
                Segment::read(digest, frame)
                    .is_some_and(|segment| segment.opens(is_loose || elsewhere.is_some()))
            }
            _ => true,
        };
        if is_new {
            Look {
                elsewhere,
                ..Look::without_flow(State::New)
            }
        } else {
            Look::without_flow(State::Invalid)
        }
    }

    fn look_at_error(
        &self,
        digest: &Digest,
        frame: &Frame<'_>,
        from: PortId,
        to: PortId,
        now: Tick,
    ) -> Look {
        let invalid = Look::without_flow(State::Invalid);
        let Some(quote) = Quote::of(digest, frame) else {
            return invalid;
        };
        // The quoted packet went from `to` to `from`: as an original one in the table of `to`, or as a reply in
        // that of `from`. The error goes the other way.
        let ways = [
            (to, from, quote.key, Direction::Reply),
            (from, to, quote.key.reversed(), Direction::Original),
        ];
        for (opener, peer, key, direction) in ways {
            let is_request = direction == Direction::Reply;
            if quote.is_request.is_some_and(|is| is != is_request) {
                continue;
            }
            let tracker = self.tracker();
            let Some(table) = tracker.table(opener) else {
                continue;
            };
            if let Some(found) = table.find(&key)
                && found.entry.peer() == peer.get()
                && !found.is_expired(&tracker.settings, now)
                && was_sent(&found, direction.reversed(), &quote)
            {
                let flow = table.reference(&found);
                return Look::at(flow, direction, State::Related, &found);
            }
        }
        invalid
    }

    /// Opens a connection for a packet that [`Burst::look`] called new and the lists of both sides allow.
    ///
    /// Returns it with the packet's direction: if the other port has opened the same connection at the same
    /// moment, one of the two remains, and the packet may be a reply to it.
    ///
    /// # Errors
    ///
    /// [`DropReason::ConnectionLimit`], [`DropReason::HalfOpenLimit`] and [`DropReason::ConnectionRate`] at the bounds of `from`;
    /// [`DropReason::ConnectionInvalid`] for a packet that opens nothing.
    #[expect(clippy::too_many_arguments, reason = "a packet, its way and its terms")]
    pub fn open(
        &self,
        digest: &Digest,
        frame: &Frame<'_>,
        from: PortId,
        to: PortId,
        terms: &Terms,
        epoch: u64,
        now: Tick,
    ) -> Result<(FlowRef, Direction), DropReason> {
        let (Class::Either(key) | Class::Request(key)) = Class::of(digest, frame) else {
            return Err(DropReason::ConnectionInvalid);
        };
        let mut window = Window::seen();
        if key.protocol() == protocol::TCP {
            let segment = Segment::read(digest, frame);
            let is_loose = self.tracker().settings.is_loose();
            window = match segment {
                Some(segment) if segment.opens(is_loose) => Window::first(&segment),
                _ => return Err(DropReason::ConnectionInvalid),
            };
        }
        let tracker = self.tracker();
        let table = tracker.table(from).ok_or(DropReason::ConnectionLimit)?;
        let opening = Opening {
            key: &key,
            macs: (digest.subject.src_mac(), digest.subject.dst_mac()),
            peer: to,
            terms,
            epoch,
            window,
            len: frame.total_len(),
            now,
        };
        let flow = table.open(&tracker.seats, &tracker.settings, &opening)?;
        Ok(self
            .settle(&key, from, to, now)
            .filter(|(kept, _)| kept.port != from)
            .unwrap_or((flow, Direction::Original)))
    }

    /// Sees to it that two ports have one connection with the same addresses, after `from` has opened one. What the
    /// other had opened and is over, ends. If both open at the same moment, that of the lower port stays: each looks after it has
    /// shown its own, so that at least one sees both.
    fn settle(
        &self,
        key: &Key,
        from: PortId,
        to: PortId,
        now: Tick,
    ) -> Option<(FlowRef, Direction)> {
        if key.has_one_opener() || from == to {
            return None;
        }
        fence(Ordering::SeqCst);
        let tracker = self.tracker();
        let theirs = tracker.table(to)?;
        let other = theirs.find(&key.reversed())?;
        if other.entry.peer() != from.get() {
            return None;
        }
        let is_gone = other.phase().is_over() || other.is_expired(&tracker.settings, now);
        let other = theirs.reference(&other);
        if is_gone || from < to {
            tracker.end(other);
            return None;
        }
        let mine = tracker.table(from)?;
        let found = mine.find(key)?;
        tracker.end(mine.reference(&found));
        Some((other, Direction::Reply))
    }

    /// Binds a connection to another port, to which its packets now go and may, by the lists of both sides. References to it from before
    /// are void. `None` when it has ended, or the packet does not belong to it: then it may yet [`Burst::open`] another.
    #[expect(clippy::too_many_arguments, reason = "a packet, its way and its terms")]
    pub fn rebind(
        &self,
        flow: FlowRef,
        digest: &Digest,
        frame: &Frame<'_>,
        to: PortId,
        terms: &Terms,
        epoch: u64,
        now: Tick,
    ) -> Option<FlowRef> {
        let tracker = self.tracker();
        let (table, found) = tracker.found(flow)?;
        let state = tracker.go_on(table, &found, Direction::Original, digest, frame, now)?;
        if state != State::Established {
            return None;
        }
        let _books = table.lock();
        let found = table.get(flow.slot, flow.generation)?;
        let header = table.renumber(&found);
        found.entry.bind(to);
        let subject = &digest.subject;
        found.entry.set_macs(subject.src_mac(), subject.dst_mac());
        table.rebound();
        found.entry.set_terms(terms, epoch);
        Some(table.reference(&Found { header, ..found }))
    }
}

/// Whether the half that goes that way may have sent the quoted packet.
fn was_sent(found: &Found<'_>, direction: Direction, quote: &Quote) -> bool {
    let own = found.entry.half(direction);
    let other = found.entry.half(direction.reversed());
    if own.marks() & tcp::SEEN == 0 {
        return false;
    }
    quote
        .seq
        .is_none_or(|seq| own.window().may_have_sent(&other.window(), seq))
}
