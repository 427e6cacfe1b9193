//! Failures for each address: after ten within a minute, further ones are told to wait for its end.

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

#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    windows: HashMap<IpAddr, Window>,
    cleaned: Nanos,
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

impl Failures {
    /// Returns the seconds for which an address has to wait.
    pub(super) fn wait(&self, source: IpAddr, now: Nanos) -> Option<i64> {
        let table = self.0.lock();
        let window = table.windows.get(&source).filter(|window| window.count >= FAILURES && window.holds(now))?;
        Some((window.began + WINDOW - now) / SECOND + 1)
    }

    pub(super) fn add(&self, source: IpAddr, now: Nanos) {
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
