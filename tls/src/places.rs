//! Places among the handshakes of a port: a bounded number, and of them a share for each source.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, SemaphorePermit};

/// A source has at most one of this many parts of a port's places: stalled handshakes of one leave
/// the others theirs.
const PARTS: usize = 8;

/// The places of a port.
pub(crate) struct Places {
    all: Semaphore,
    each: usize,
    sources: Mutex<HashMap<IpAddr, Source>>,
}

/// The places of one source, and how many handshakes hold one or wait for one.
struct Source {
    places: Arc<Semaphore>,
    users: u32,
}

impl Places {
    pub(crate) fn new(most: usize) -> Self {
        let most = most.clamp(1, Semaphore::MAX_PERMITS);
        Self { all: Semaphore::new(most), each: most.div_ceil(PARTS), sources: Mutex::default() }
    }

    /// Waits for a place of this source, and then for one of the port.
    pub(crate) async fn take(&self, from: IpAddr) -> Result<Place<'_>, AcquireError> {
        let (user, places) = self.enter(network(from));
        let own = places.acquire_owned().await?;
        let all = self.all.acquire().await?;
        Ok(Place { _all: all, _own: own, _user: user })
    }

    fn enter(&self, source: IpAddr) -> (User<'_>, Arc<Semaphore>) {
        let mut sources = self.sources.lock();
        let entry =
            sources.entry(source).or_insert_with(|| Source { places: Arc::new(Semaphore::new(self.each)), users: 0 });
        entry.users += 1;
        (User { places: self, source }, Arc::clone(&entry.places))
    }
}

/// A place, while it is held.
pub(crate) struct Place<'a> {
    _all: SemaphorePermit<'a>,
    _own: OwnedSemaphorePermit,
    _user: User<'a>,
}

/// Keeps the entry of a source.
struct User<'a> {
    places: &'a Places,
    source: IpAddr,
}

impl Drop for User<'_> {
    fn drop(&mut self) {
        let mut sources = self.places.sources.lock();
        if let Some(entry) = sources.get_mut(&self.source) {
            entry.users -= 1;
            if entry.users == 0 {
                sources.remove(&self.source);
            }
        }
    }
}

/// The address that counts: with IPv6, one client has a whole /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

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

    #[tokio::test]
    async fn a_source_has_an_eighth_waits_for_its_own_and_is_forgotten() {
        let places = Places::new(16);
        let now = async |from| timeout(Duration::ZERO, places.take(ip(from))).await;
        let (first, second) = (now("10.0.0.1").await, now("10.0.0.1").await);
        assert!(first.is_ok() && second.is_ok());
        assert!(now("10.0.0.1").await.is_err(), "the third waits");
        let other = now("10.0.0.2").await;
        assert!(other.is_ok());
        drop(first);
        let third = now("10.0.0.1").await;
        assert!(third.is_ok());
        assert_eq!(places.sources.lock().len(), 2);
        drop((second, third, other));
        assert_eq!(places.sources.lock().len(), 0);
        // A small number leaves every source one.
        let places = Places::new(1);
        assert!(timeout(Duration::ZERO, places.take(ip("10.0.0.1"))).await.is_ok());
    }
}
