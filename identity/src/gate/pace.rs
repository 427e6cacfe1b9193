//! Failures for each address, and for each password: after ten within a minute, further ones are
//! told to wait for its end.

use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};

use hashbrown::HashMap;
use model::Nanos;
use model::time::SECOND;
use parking_lot::Mutex;

const FAILURES: u32 = 10;
const WINDOW: Nanos = 60 * SECOND;
const MAX_SOURCES: usize = 4096;

/// Returns the address that failures are counted for: an IPv6 client has a network of 64 bits to
/// itself.
pub(super) fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address => address,
    }
}

#[derive(Debug)]
pub(super) struct Failures<K>(Mutex<Table<K>>);

#[derive(Debug)]
struct Table<K> {
    windows: HashMap<K, Window>,
    cleaned: Nanos,
}

impl<K> Default for Failures<K> {
    fn default() -> Self {
        Self(Mutex::new(Table { windows: HashMap::new(), cleaned: 0 }))
    }
}

#[derive(Debug)]
struct Window {
    began: Nanos,
    count: u32,
}

impl Window {
    /// False after its minute, and when the clock was set back to a time before it.
    fn holds(&self, now: Nanos) -> bool {
        (self.began..self.began + WINDOW).contains(&now)
    }
}

impl<K: Hash + Eq + Copy> Failures<K> {
    /// Returns the seconds for which a source has to wait.
    pub(super) fn wait(&self, source: K, now: Nanos) -> Option<i64> {
        let table = self.0.lock();
        let window = table.windows.get(&source).filter(|window| window.count >= FAILURES && window.holds(now))?;
        Some((window.began + WINDOW - now) / SECOND + 1)
    }

    /// Counts a failure before it is known to be one; `Err` has the seconds to wait.
    pub(super) fn guess(&self, source: K, now: Nanos) -> Result<Guess<'_, K>, i64> {
        let count = self.count(source, now);
        // From here on it is taken back when it is left.
        let guess = Guess { failures: self, source, now, is_kept: false };
        if count <= FAILURES {
            return Ok(guess);
        }
        Err(self.wait(source, now).unwrap_or(1))
    }

    /// Takes back a failure that was counted at a time, if its minute still runs.
    fn take_back(&self, source: K, now: Nanos) {
        let mut table = self.0.lock();
        let Some(window) = table.windows.get_mut(&source).filter(|window| window.holds(now)) else { return };
        window.count = window.count.saturating_sub(1);
        if window.count == 0 {
            table.windows.remove(&source);
        }
    }

    pub(super) fn add(&self, source: K, now: Nanos) {
        self.count(source, now);
    }

    /// Counts a failure, and returns how many the minute has.
    fn count(&self, source: K, now: Nanos) -> u32 {
        let mut table = self.0.lock();
        let table = &mut *table;
        if table.windows.len() >= MAX_SOURCES && !table.windows.contains_key(&source) {
            if !(table.cleaned..table.cleaned + SECOND).contains(&now) {
                table.cleaned = now;
                table.windows.retain(|_, window| window.holds(now));
            }
            if table.windows.len() >= MAX_SOURCES {
                let any = table.windows.keys().next().copied();
                any.and_then(|any| table.windows.remove(&any));
            }
        }
        let window = table.windows.entry(source).or_insert(Window { began: now, count: 0 });
        if !window.holds(now) {
            *window = Window { began: now, count: 0 };
        }
        window.count += 1;
        window.count
    }
}

/// A failure that was counted before it is known to be one: taken back unless it is kept.
#[derive(Debug)]
pub(super) struct Guess<'a, K: Hash + Eq + Copy> {
    failures: &'a Failures<K>,
    source: K,
    now: Nanos,
    is_kept: bool,
}

impl<K: Hash + Eq + Copy> Guess<'_, K> {
    /// It was one.
    pub(super) fn keep(&mut self) {
        self.is_kept = true;
    }
}

impl<K: Hash + Eq + Copy> Drop for Guess<'_, K> {
    fn drop(&mut self) {
        if !self.is_kept {
            self.failures.take_back(self.source, self.now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn the_tenth_failure_of_an_address_makes_it_wait_for_the_rest_of_the_minute() {
        let failures = Failures::default();
        for second in 0..10 {
            assert_eq!(failures.wait(v4(1), second * SECOND), None);
            failures.add(v4(1), second * SECOND);
        }
        assert_eq!(failures.wait(v4(1), 9 * SECOND), Some(52));
        assert_eq!(failures.wait(v4(2), 9 * SECOND), None, "another address does not wait");
        assert_eq!(failures.wait(v4(1), 60 * SECOND), None);
        failures.add(v4(1), 60 * SECOND);
        assert_eq!(failures.wait(v4(1), 60 * SECOND), None, "a new minute begins at 1");
    }

    #[test]
    fn a_clock_that_is_set_back_keeps_no_address_waiting() {
        let failures = Failures::default();
        (0..10).for_each(|_| failures.add(v4(1), 3600 * SECOND));
        assert!(failures.wait(v4(1), 3600 * SECOND).is_some());
        assert_eq!(failures.wait(v4(1), 0), None);
        (0..9).for_each(|_| failures.add(v4(1), 0));
        assert_eq!(failures.wait(v4(1), 0), None, "a new minute begins at 1");
        failures.add(v4(1), 0);
        assert_eq!(failures.wait(v4(1), 0), Some(61));
    }

    #[test]
    fn an_ipv6_network_of_64_bits_is_one_source() {
        let of = |text: &str| source(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:10.0.0.1"), v4(1));
    }

    #[test]
    fn the_table_of_addresses_is_bounded() {
        let failures = Failures::default();
        for n in 0..20_000_u32 {
            failures.add(IpAddr::from(n.to_be_bytes()), i64::from(n) * 1_000_000);
        }
        assert_eq!(failures.0.lock().windows.len(), MAX_SOURCES);
    }
}
