//! Places among the handshakes of a port: a bounded number, and of them a share for each source.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::strangers::{Guest, Strangers, network};

/// A source has at most one of this many parts of a port's places: stalled handshakes of one leave
/// the others theirs.
const PARTS: usize = 8;
/// Time for a handshake while others wait for its place.
const PATIENCE: Duration = Duration::from_secs(2);

/// The places of a port.
pub(crate) struct Places {
    all: Arc<Semaphore>,
    each: usize,
    sources: Mutex<HashMap<IpAddr, Source>>,
    held: Strangers<Permits>,
}

/// The places of one source, and how many handshakes hold one or wait for one.
struct Source {
    places: Arc<Semaphore>,
    users: u32,
}

/// A place of a source, and the place of the port for it.
struct Permits {
    own: OwnedSemaphorePermit,
    all: OwnedSemaphorePermit,
}

impl Places {
    pub(crate) fn new(most: usize) -> Self {
        let most = most.clamp(1, Semaphore::MAX_PERMITS);
        let all = Arc::new(Semaphore::new(most));
        Self { all, each: most.div_ceil(PARTS), sources: Mutex::default(), held: Strangers::new(PATIENCE) }
    }

    /// Waits for a place of this source, and then for one of the port. Handshakes that take their
    /// time give way, and so does the oldest one of the source with the most.
    pub(crate) async fn take(&self, from: IpAddr) -> Result<Place<'_>, AcquireError> {
        let (user, places) = self.enter(network(from));
        let own = loop {
            // In the order in which they came.
            match timeout(self.held.patience(), Arc::clone(&places).acquire_owned()).await {
                Ok(own) => break own?,
                Err(_) => {
                    if let Some(Permits { own, .. }) = self.held.displace_own(from) {
                        break own;
                    }
                }
            }
        };
        let all = loop {
            if let Ok(all) = Arc::clone(&self.all).try_acquire_owned() {
                break all;
            }
            if let Some(Permits { all, .. }) = self.held.displace(from) {
                break all;
            }
            if let Ok(all) = timeout(self.held.patience(), Arc::clone(&self.all).acquire_owned()).await {
                break all?;
            }
        };
        Ok(Place { guest: self.held.enter(from, Permits { own, all }), _user: user })
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
    guest: Guest<Permits>,
    _user: User<'a>,
}

impl Place<'_> {
    /// Resolves when another handshake has the place.
    pub(crate) async fn displaced(&self) {
        self.guest.displaced().await;
    }
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn patient(most: usize, patience: Duration) -> Places {
        Places { held: Strangers::new(patience), ..Places::new(most) }
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
        assert_eq!((places.sources.lock().len(), places.held.sources()), (0, 0));
        assert_eq!(places.all.available_permits(), 16);
        // A small number leaves every source one.
        let places = Places::new(1);
        assert!(timeout(Duration::ZERO, places.take(ip("10.0.0.1"))).await.is_ok());
    }

    #[tokio::test]
    async fn sources_that_fill_a_port_together_keep_no_other_one_out() {
        let places = Places::new(64);
        let mut held = Vec::new();
        for n in 0..64 {
            let from = ip(&format!("10.0.0.{}", n % 8));
            held.push(timeout(Duration::ZERO, places.take(from)).await.expect("there is room").expect("it is open"));
        }
        // Many of theirs wait, and came before.
        let mut waiting = Vec::new();
        for _ in 0..4 {
            for from in ["10.0.0.9", "10.0.0.1"] {
                let mut take = Box::pin(places.take(ip(from)));
                assert!(timeout(Duration::ZERO, &mut take).await.is_err() || from == "10.0.0.9");
                waiting.push(take);
            }
        }
        let begun = Instant::now();
        for from in ["10.1.0.1", "10.1.0.2", "10.1.0.3"] {
            let place = timeout(Duration::from_secs(1), places.take(ip(from))).await;
            held.push(place.expect("at once").expect("it is open"));
        }
        assert!(begun.elapsed() < Duration::from_secs(1));
        let displaced = async |place: &Place<'_>| timeout(Duration::ZERO, place.displaced()).await.is_ok();
        assert!(displaced(&held[0]).await && displaced(&held[1]).await && displaced(&held[2]).await);
        assert!(!displaced(&held[8]).await);
        drop(waiting);
        drop(held);
        assert_eq!((places.all.available_permits(), places.sources.lock().len()), (64, 0));
    }

    #[tokio::test]
    async fn a_handshake_that_takes_its_time_gives_way_to_those_of_its_own_source() {
        let places = patient(8, Duration::from_millis(10));
        let stalled = places.take(ip("10.0.0.1")).await.expect("it is open");
        let next = timeout(Duration::from_secs(10), places.take(ip("10.0.0.1"))).await.expect("within the time");
        stalled.displaced().await;
        // Others fill the rest of the port, each with one.
        let mut held = Vec::new();
        for n in 2..9 {
            held.push(places.take(ip(&format!("10.0.0.{n}"))).await.expect("it is open"));
        }
        let late = timeout(Duration::from_secs(10), places.take(ip("10.0.0.99"))).await.expect("within the time");
        drop((stalled, next, held, late));
        assert_eq!((places.all.available_permits(), places.sources.lock().len()), (8, 0));
    }
}
