//! Clients that have not shown yet who they are, by source.
//!
//! What they share is bounded: connections, handshakes, memory. When it is used up, a newcomer
//! takes the place of another one: the oldest of the source that has the most, if that source has
//! more than the newcomer's, or if that client has taken its time. So a source that opens
//! connections without end closes its own, and keeps no other one out.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Clients that are not known, each with what it holds. Cheap to clone.
#[derive(Debug)]
pub struct Strangers<T> {
    inner: Arc<Mutex<Inner<T>>>,
    /// Time after which the oldest of the source with the most gives way to any newcomer.
    patience: Duration,
}

#[derive(Debug)]
struct Inner<T> {
    sources: HashMap<IpAddr, BTreeMap<u64, Entry<T>>>,
    /// Each source with its number of clients; the last one has the most, and of several the oldest
    /// client.
    order: BTreeSet<(usize, Reverse<u64>, IpAddr)>,
    last: u64,
}

#[derive(Debug)]
struct Entry<T> {
    held: T,
    since: Instant,
    displaced: CancellationToken,
}

impl<T> Inner<T> {
    /// Changes the clients of a source, and its place in the order.
    fn change<R>(&mut self, source: IpAddr, change: impl FnOnce(&mut BTreeMap<u64, Entry<T>>) -> R) -> R {
        let place = |clients: &BTreeMap<u64, Entry<T>>| {
            clients.first_key_value().map(|(first, _)| (clients.len(), Reverse(*first), source))
        };
        let clients = self.sources.entry(source).or_default();
        if let Some(place) = place(clients) {
            self.order.remove(&place);
        }
        let changed = change(clients);
        match place(clients) {
            Some(place) => drop(self.order.insert(place)),
            None => drop(self.sources.remove(&source)),
        }
        changed
    }

    /// Removes the oldest client of a source, and tells it.
    fn displace(&mut self, source: IpAddr) -> Option<T> {
        let (_, entry) = self.change(source, BTreeMap::pop_first)?;
        entry.displaced.cancel();
        Some(entry.held)
    }
}

impl<T> Strangers<T> {
    /// No clients. The oldest of the source with the most, if it is not known after `patience`,
    /// gives way to any newcomer.
    pub fn new(patience: Duration) -> Self {
        let inner = Inner { sources: HashMap::new(), order: BTreeSet::new(), last: 0 };
        Self { inner: Arc::new(Mutex::new(inner)), patience }
    }

    /// Adds a client until the returned guest is dropped or displaced.
    pub fn enter(&self, from: IpAddr, held: T) -> Guest<T> {
        let (source, displaced) = (network(from), CancellationToken::new());
        let mut inner = self.inner.lock();
        inner.last += 1;
        let number = inner.last;
        let entry = Entry { held, since: Instant::now(), displaced: displaced.clone() };
        inner.change(source, |clients| clients.insert(number, entry));
        Guest(Box::new(GuestInner { strangers: self.clone(), source, number, displaced }))
    }

    /// Makes room for a newcomer: returns what another client held, which is told that it is
    /// displaced. `None` when no client has to give way.
    pub fn displace(&self, newcomer: IpAddr) -> Option<T> {
        let mut inner = self.inner.lock();
        let own = inner.sources.get(&network(newcomer)).map_or(0, BTreeMap::len);
        let (most, _, source) = *inner.order.last()?;
        let gives_way = most > own + 1 || self.has_waited(&inner, source);
        if gives_way { inner.displace(source) } else { None }
    }

    /// Makes room for a newcomer among the clients of its own source.
    pub(crate) fn displace_own(&self, newcomer: IpAddr) -> Option<T> {
        let (mut inner, source) = (self.inner.lock(), network(newcomer));
        if self.has_waited(&inner, source) { inner.displace(source) } else { None }
    }

    /// True when the oldest client of a source has taken its time.
    fn has_waited(&self, inner: &Inner<T>, source: IpAddr) -> bool {
        let oldest = inner.sources.get(&source).and_then(BTreeMap::first_key_value);
        oldest.is_some_and(|(_, entry)| entry.since.elapsed() >= self.patience)
    }

    /// Returns the time after which the oldest of the source with the most gives way.
    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    #[cfg(test)]
    pub(crate) fn sources(&self) -> usize {
        let inner = self.inner.lock();
        assert_eq!(inner.sources.len(), inner.order.len());
        inner.sources.len()
    }
}

impl<T> Clone for Strangers<T> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), patience: self.patience }
    }
}

/// A client that is not known yet. It leaves when this is dropped.
#[derive(Debug)]
pub struct Guest<T>(Box<GuestInner<T>>);

#[derive(Debug)]
struct GuestInner<T> {
    strangers: Strangers<T>,
    source: IpAddr,
    number: u64,
    displaced: CancellationToken,
}

impl<T> Guest<T> {
    /// Resolves when the client has to give way.
    pub fn displaced(&self) -> WaitForCancellationFutureOwned {
        self.0.displaced.clone().cancelled_owned()
    }

    /// Returns what the client holds, as it is known now; `None` when it was displaced before.
    pub fn leave(self) -> Option<T> {
        self.0.leave()
    }
}

impl<T> GuestInner<T> {
    fn leave(&self) -> Option<T> {
        if self.displaced.is_cancelled() {
            return None;
        }
        let mut inner = self.strangers.inner.lock();
        inner.change(self.source, |clients| clients.remove(&self.number)).map(|entry| entry.held)
    }
}

impl<T> Drop for GuestInner<T> {
    fn drop(&mut self) {
        drop(self.leave());
    }
}

/// The address that counts: with IPv6, one client has a whole /64.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3_600);

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn addresses_of_one_client_are_one_source() {
        assert_eq!(network(ip("10.0.0.7")), ip("10.0.0.7"));
        assert_eq!(network(ip("::ffff:10.0.0.7")), ip("10.0.0.7"));
        assert_eq!(network(ip("2001:db8:1:2:3:4:5:6")), network(ip("2001:db8:1:2::1")));
        assert_ne!(network(ip("2001:db8:1:2::1")), network(ip("2001:db8:1:3::1")));
    }

    #[test]
    fn the_oldest_of_the_source_with_the_most_gives_way_to_sources_with_fewer() {
        let strangers = Strangers::new(LONG);
        let (greedy, other) = (ip("10.0.0.1"), ip("10.0.0.2"));
        let mut crowd: Vec<_> = (0..4).map(|n| strangers.enter(greedy, n)).collect();
        assert_eq!(strangers.displace(greedy), None, "not to its own");
        assert_eq!(strangers.displace(other), Some(0));
        let first = strangers.enter(other, 10);
        assert_eq!(strangers.displace(other), Some(1), "3 against 1");
        let second = strangers.enter(other, 11);
        assert_eq!(strangers.displace(other), None, "2 against 2");
        assert_eq!(strangers.displace(ip("10.0.0.3")), Some(2), "of two with as many, the one with the oldest");
        assert_eq!(crowd.pop().expect("it is there").leave(), Some(3));
        assert_eq!(crowd.pop().expect("it is there").leave(), None, "it was displaced");
        drop((crowd, first, second));
        assert_eq!(strangers.sources(), 0);
        assert_eq!(strangers.displace(other), None);
    }

    #[test]
    fn a_client_that_has_taken_its_time_gives_way_to_any_newcomer() {
        let strangers = Strangers::new(Duration::ZERO);
        let (one, other) = (ip("10.0.0.1"), ip("10.0.0.2"));
        let guest = strangers.enter(one, 1);
        assert_eq!(strangers.displace_own(other), None);
        assert_eq!(strangers.displace_own(one), Some(1));
        assert!(guest.0.displaced.is_cancelled());
        let guest = strangers.enter(one, 2);
        assert_eq!(strangers.displace(other), Some(2));
        drop(guest);
        assert_eq!(strangers.sources(), 0);
    }

    #[test]
    fn a_crowd_of_sources_is_kept_in_order_at_any_size() {
        let strangers = Strangers::new(LONG);
        let source = |n: u32| IpAddr::from(n.to_be_bytes());
        let mut guests: Vec<_> = (0..50_000_u32).map(|n| strangers.enter(source(n / 2), n)).collect();
        for n in 0..25_000_u32 {
            assert_eq!(strangers.displace(ip("192.168.0.1")), Some(2 * n), "each source has two");
        }
        assert_eq!(strangers.displace(ip("192.168.0.1")), None, "each has one");
        guests.retain(|guest| !guest.0.displaced.is_cancelled());
        assert_eq!(guests.len(), 25_000);
        drop(guests);
        assert_eq!(strangers.sources(), 0);
    }
}
