//! The rate at which one address opens connections, and all of them together.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A second's worth may come at once.
const BURST: Duration = Duration::from_secs(1);

/// Stands for all addresses together.
pub(crate) const ALL: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// Turns of addresses, each at its rate.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Time of one connection; zero is no limit.
    each: Duration,
    /// Addresses that are ahead of the clock: the time up to which each has used its rate. Those
    /// behind it are removed each second, so that there are no more than connections of a second.
    used: Mutex<HashMap<IpAddr, Instant>>,
}

impl Pace {
    pub(crate) fn new(per_second: u32) -> Self {
        let each = Duration::from_secs(1).checked_div(per_second).unwrap_or_default();
        Self { each, used: Mutex::default() }
    }

    /// True when there is a rate.
    pub(crate) fn is_set(&self) -> bool {
        !self.each.is_zero()
    }

    /// Takes a turn, and returns the time until it comes. `None` when that is longer than `most`;
    /// then no turn is taken.
    pub(crate) fn turn(&self, from: IpAddr, most: Duration, now: Instant) -> Option<Duration> {
        if !self.is_set() {
            return Some(Duration::ZERO);
        }
        let mut used = self.used.lock();
        let used = used.entry(tls::network(from)).or_insert(now);
        let after = (*used).max(now) + self.each;
        let wait = after.saturating_duration_since(now + BURST.max(self.each));
        if wait > most {
            return None;
        }
        *used = after;
        Some(wait)
    }

    /// Forgets addresses whose whole burst is available.
    pub(crate) fn sweep(&self, now: Instant) {
        let mut used = self.used.lock();
        used.retain(|_, used| *used > now);
        if used.is_empty() {
            used.shrink_to(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_opens_a_seconds_worth_at_once_and_then_one_after_the_other() {
        let (pace, now) = (Pace::new(10), Instant::now());
        let from = |last: u8| IpAddr::from([10, 0, 0, last]);
        let most = Duration::from_secs(2);
        let tenth = Duration::from_millis(100);
        assert!((0..10).all(|_| pace.turn(from(1), most, now) == Some(Duration::ZERO)));
        assert_eq!(pace.turn(from(1), most, now), Some(tenth));
        assert_eq!(pace.turn(from(2), most, now), Some(Duration::ZERO), "another address has its own rate");
        for n in 2..=20 {
            assert_eq!(pace.turn(from(1), most, now), Some(tenth * n));
        }
        assert_eq!(pace.turn(from(1), most, now), None, "longer than it may wait");
        assert_eq!(pace.turn(from(1), most, now + tenth), Some(most), "those that are refused take no turn");
        pace.sweep(now + Duration::from_secs(1));
        assert_eq!(pace.used.lock().len(), 1);
        pace.sweep(now + Duration::from_secs(4));
        assert_eq!(pace.used.lock().capacity(), 0);
        assert_eq!(Pace::new(0).turn(from(1), Duration::ZERO, now), Some(Duration::ZERO));
        let slow = Pace::new(1);
        assert_eq!(slow.turn(from(1), most, now), Some(Duration::ZERO));
        assert_eq!(slow.turn(from(1), most, now), Some(Duration::from_secs(1)));
    }
}
