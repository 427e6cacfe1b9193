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
    /// The limit: units in a second; 0 is none.
    limit: AtomicU64,
    /// The part of it that this process has, as the bits of an `f64`; 0 without a limit.
    part: AtomicU64,
    /// Time that a meter may be ahead of the clock. As a time it does not depend on the part: each
    /// process has the same part of the burst as of the rate.
    burst: AtomicI64,
}

impl Rate {
    /// Sets the limit, of which this process has all. Without a `burst` a second's worth may come
    /// at once.
    pub(super) fn set(&self, per_second: Option<NonZeroU64>, burst: Option<NonZeroU64>) {
        let rate = per_second.map_or(0, NonZeroU64::get);
        // The first unit needs no room.
        let units = burst.map_or(rate, NonZeroU64::get).saturating_sub(1);
        let room = u128::from(units) * u128::from(SECOND) / u128::from(rate.max(1));
        self.burst.store(i64::try_from(room).unwrap_or(FAR).clamp(LEAST_BURST, FAR), Ordering::Relaxed);
        self.limit.store(rate, Ordering::Relaxed);
        self.set_fraction(1.0);
    }

    /// Changes the part of this process to a fraction of the limit.
    pub(super) fn set_fraction(&self, fraction: f64) {
        let part = self.limit() as f64 * fraction;
        self.part.store(part.to_bits(), Ordering::Relaxed);
    }

    pub(super) fn is_set(&self) -> bool {
        self.limit() != 0
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Units in a second that this process may use; 0 without a limit.
    pub(super) fn part(&self) -> f64 {
        f64::from_bits(self.part.load(Ordering::Relaxed))
    }

    /// Returns the time that this many units take; `None` without a limit.
    fn cost(&self, units: u64) -> Option<i64> {
        let part = self.part();
        if part <= 0.0 {
            return None;
        }
        // A number that is too large for the integer becomes the largest one. Rounded up.
        let nanos = units as f64 * SECOND as f64 / part;
        Some(((nanos + 0.999) as i64).min(FAR))
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

impl Meter {
    /// Takes units in any case, and returns how long to wait before they are used. Callers are
    /// served in the order of their calls. A large number of units waits no longer than one: what
    /// comes after it does.
    pub(super) fn reserve(&self, rate: &Rate, units: u64, now: Moment) -> Duration {
        let Some(cost) = rate.cost(units) else { return Duration::ZERO };
        let grown = |used| Some(grown(used, cost, now));
        let (Ok(used) | Err(used)) = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown);
        rate.wait(used, now)
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

    /// Gives back units that were [reserved](Self::reserve) and not used.
    pub(super) fn cancel(&self, rate: &Rate, units: u64) {
        self.give_back(rate.cost(units).unwrap_or(0));
    }

    /// Returns the units that wait for their time.
    pub(super) fn waiting(&self, rate: &Rate, now: Moment) -> f64 {
        let nanos = rate.wait(self.0.load(Ordering::Relaxed), now).as_nanos();
        nanos as f64 * rate.part() / SECOND as f64
    }

    /// Returns how much of the burst is used, between 0 and 1.
    pub(super) fn used_burst(&self, rate: &Rate, now: Moment) -> f64 {
        let ahead = now.until(Moment(self.0.load(Ordering::Relaxed))).as_nanos() as f64;
        (ahead / rate.burst.load(Ordering::Relaxed) as f64).min(1.0)
    }

    /// Moves room, when the part of the process has changed from `old` to `new`. Units that wait
    /// stay as many. A smaller part has as much less room; a larger one gets the room that others
    /// gave away: of their burst a part `used_burst` is used, and is not there twice.
    pub(super) fn convert(&self, rate: &Rate, (old, new): (f64, f64), used_burst: f64, now: Moment) {
        if old <= 0.0 || new <= 0.0 {
            return;
        }
        let burst = rate.burst.load(Ordering::Relaxed) as f64;
        let converted = |used: i64| {
            let ahead = (used.max(now.0) - now.0) as f64;
            let ahead = match new > old {
                true => burst + (ahead - burst) * (old / new) - burst * (1.0 - old / new) * (1.0 - used_burst),
                false if ahead > burst => burst + (ahead - burst) * (old / new),
                false => ahead,
            };
            Some(now.0.saturating_add(ahead.max(0.0) as i64).min(FAR))
        };
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, converted).ok();
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
