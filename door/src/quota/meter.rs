//! Rates, kept by the generic cell rate algorithm (GCRA): one atomic integer for each meter.

use std::num::NonZeroU64;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const SECOND: u64 = 1_000_000_000;
/// Times beyond this one are not told apart: 146 years.
const FAR: i64 = i64::MAX / 2;
/// A burst is at least as long as timers are late, or a paced connection would stay below its rate.
const LEAST_BURST: i64 = 20_000_000;

static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A moment of the monotonic clock of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(i64);

impl Moment {
    /// Returns the present moment.
    pub fn now() -> Self {
        Self::after(ORIGIN.elapsed())
    }

    /// The moment that is this long after the origin of the clock.
    pub fn after(time: Duration) -> Self {
        Self(i64::try_from(time.as_nanos()).unwrap_or(FAR).min(FAR))
    }

    /// Returns the time until a later moment; zero when it has passed.
    pub fn until(self, later: Self) -> Duration {
        Duration::from_nanos(u64::try_from(later.0 - self.0).unwrap_or(0))
    }
}

impl std::ops::Add<Duration> for Moment {
    type Output = Self;

    fn add(self, time: Duration) -> Self {
        Self(self.0.saturating_add(Self::after(time).0).min(FAR))
    }
}

/// A rate that meters are held to. It may change while they are in use.
#[derive(Debug, Default)]
pub(super) struct Rate {
    /// Units in a second; 0 is no limit.
    per_second: AtomicU64,
    /// Time that a meter may be ahead of the clock.
    burst: AtomicI64,
}

impl Rate {
    /// Sets the rate. Without a `burst` a second's worth may come at once.
    pub(super) fn set(&self, per_second: Option<NonZeroU64>, burst: Option<NonZeroU64>) {
        let rate = per_second.map_or(0, NonZeroU64::get);
        // The first unit needs no room.
        let units = burst.map_or(rate, NonZeroU64::get).saturating_sub(1);
        let room = u128::from(units) * u128::from(SECOND) / u128::from(rate.max(1));
        self.burst.store(i64::try_from(room).unwrap_or(FAR).clamp(LEAST_BURST, FAR), Ordering::Relaxed);
        self.per_second.store(rate, Ordering::Relaxed);
    }

    pub(super) fn is_set(&self) -> bool {
        self.per_second.load(Ordering::Relaxed) != 0
    }

    pub(super) fn per_second(&self) -> u64 {
        self.per_second.load(Ordering::Relaxed)
    }

    /// Returns the time that this many units take; `None` without a limit.
    fn cost(&self, units: u64) -> Option<i64> {
        let rate = NonZeroU64::new(self.per_second())?;
        let nanos = units.saturating_mul(SECOND).div_ceil(rate.get());
        Some(i64::try_from(nanos).unwrap_or(FAR).min(FAR))
    }

    /// Returns the time until a meter that is used up to `used` has room.
    fn wait(&self, used: i64, now: Moment) -> Duration {
        let wait = used.max(now.0) - now.0 - self.burst.load(Ordering::Relaxed);
        Duration::from_nanos(u64::try_from(wait).unwrap_or(0))
    }
}

/// Returns the use after units of this cost.
fn grown(used: i64, cost: i64, now: Moment) -> i64 {
    used.max(now.0).saturating_add(cost).min(FAR)
}

/// The use of a rate: the time up to which it is used, in nanoseconds of the clock of [`Moment`].
#[derive(Debug, Default)]
pub(super) struct Meter(AtomicI64);

/// Units that were taken from a meter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// Time until they may be used.
    pub(super) wait: Duration,
    /// Their cost, to give them back.
    pub(super) cost: i64,
}

impl Meter {
    /// Takes units in any case, and returns how long to wait before they are used. Callers are
    /// served in the order of their calls. A large number of units waits no longer than one: what
    /// comes after it does.
    pub(super) fn reserve(&self, rate: &Rate, units: u64, now: Moment) -> Taken {
        let Some(cost) = rate.cost(units) else { return Taken::default() };
        let grown = |used| Some(grown(used, cost, now));
        let (Ok(used) | Err(used)) = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown);
        Taken { wait: rate.wait(used, now), cost }
    }

    /// Takes units when they may be used now.
    ///
    /// # Errors
    /// The time after which they may be, if no others are taken until then.
    pub(super) fn take(&self, rate: &Rate, units: u64, now: Moment) -> Result<i64, Duration> {
        let Some(cost) = rate.cost(units) else { return Ok(0) };
        let grown = |used| rate.wait(used, now).is_zero().then(|| grown(used, cost, now));
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown);
        taken.map(|_| cost).map_err(|used| rate.wait(used, now))
    }

    /// Gives back units that were taken at this cost and not used.
    pub(super) fn give_back(&self, cost: i64) {
        if cost != 0 {
            self.0.fetch_sub(cost, Ordering::Relaxed);
        }
    }

    /// Forgets the use: the whole burst is available.
    pub(super) fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// Things that are open at one time.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    /// Adds one if there are fewer than `most`.
    pub(super) fn add_within(&self, most: u64) -> bool {
        let grown = |open| (open < most).then_some(open + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown).is_ok()
    }

    pub(super) fn remove(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
