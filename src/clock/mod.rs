//! Time as an argument: the switch reads the clock in one place and hands the value down.
//!
//! Nothing in the law reads a clock. A worker reads [`Clock::now`] once a round and passes the [`Tick`]
//! to whatever ages or limits something; a test passes the tick it likes. Ticks are monotonic: a change
//! of the wall clock moves nothing here (case O-9).
//!
//! Busy accounting needs finer and cheaper readings than ticks: [`Clock::cycles`] is the raw counter of
//! the CPU, turned into nanoseconds only when somebody asks.

use std::sync::Arc;
use std::time::Duration;

/// A monotonic moment, in milliseconds since the clock was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(u64);

impl Tick {
    /// The moment at which the clock was made.
    pub const ZERO: Self = Self(0);

    /// The moment `millis` milliseconds after [`Tick::ZERO`].
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// The moment `secs` seconds after [`Tick::ZERO`]; saturates.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1000))
    }

    /// Milliseconds since [`Tick::ZERO`].
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since [`Tick::ZERO`].
    pub const fn as_secs(self) -> u64 {
        self.0 / 1000
    }

    /// Milliseconds from `earlier` to this moment; zero when `earlier` is in fact later.
    pub const fn millis_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The moment `millis` milliseconds after this one; saturates.
    pub const fn after_millis(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }
}

/// The one source of time. Cheap to clone; clones read the same time.
#[derive(Clone, Debug)]
pub struct Clock {
    source: quanta::Clock,
    origin: u64,
}

impl Clock {
    /// A clock on the machine's monotonic time. The first one of a process calibrates the cycle counter,
    /// which takes some milliseconds: make it at start-up, not on the path.
    pub fn new() -> Self {
        Self::starting_now(quanta::Clock::new())
    }

    /// A clock that stands still until [`Simulated::advance`] moves it.
    pub fn simulated() -> (Self, Simulated) {
        let (source, hand) = quanta::Clock::mock();
        (Self::starting_now(source), Simulated(hand))
    }

    fn starting_now(source: quanta::Clock) -> Self {
        let origin = source.raw();
        Self { source, origin }
    }

    /// The present moment.
    pub fn now(&self) -> Tick {
        Tick(self.nanos_between(self.origin, self.cycles()) / 1_000_000)
    }

    /// The raw cycle counter; meaningful only as a difference, see [`Clock::nanos_between`].
    pub fn cycles(&self) -> u64 {
        self.source.raw()
    }

    /// Nanoseconds between two readings of [`Clock::cycles`]; zero when `end` is before `start`.
    pub fn nanos_between(&self, start: u64, end: u64) -> u64 {
        self.source.delta_as_nanos(start, end)
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

/// The hand that moves a simulated [`Clock`].
#[derive(Clone, Debug)]
pub struct Simulated(Arc<quanta::Mock>);

impl Simulated {
    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        self.0.increment(by);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_count_milliseconds_and_never_go_below_zero() {
        let tick = Tick::from_millis(2500);
        assert_eq!(tick.as_secs(), 2);
        assert_eq!(tick.after_millis(500), Tick::from_secs(3));
        assert_eq!(tick.millis_since(Tick::from_secs(1)), 1500);
        assert_eq!(Tick::from_secs(1).millis_since(tick), 0);
        assert_eq!(
            Tick::from_secs(u64::MAX).after_millis(9).as_millis(),
            u64::MAX
        );
    }

    #[test]
    fn a_simulated_clock_moves_only_by_its_hand() {
        let (clock, hand) = Clock::simulated();
        assert_eq!(clock.now(), Tick::ZERO);
        let start = clock.cycles();
        hand.advance(Duration::from_millis(1234));
        assert_eq!(clock.now(), Tick::from_millis(1234));
        assert_eq!(clock.clone().now(), Tick::from_millis(1234));
        assert_eq!(clock.nanos_between(start, clock.cycles()), 1_234_000_000);
        assert_eq!(clock.nanos_between(clock.cycles(), start), 0);
    }

    #[test]
    fn the_real_clock_does_not_run_backwards() {
        let clock = Clock::new();
        let (first, start) = (clock.now(), clock.cycles());
        assert!(clock.cycles() >= start);
        assert!(clock.now() >= first);
    }
}
