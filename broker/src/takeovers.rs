//! Client ids that connections take from each other again and again: two devices with one id, or
//! one that connects again before its connection before has ended.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use model::Nanos;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::fleet::Client;

/// Client ids that are watched at one time.
const WATCHED: usize = 64;
/// Takeovers in a row from which on a client id is named.
const NAMED: u64 = 5;
/// Takeovers further apart than this are not in a row.
const APART: Duration = Duration::from_secs(60);
/// A client id is listed for this long after its last takeover.
const LISTED: Duration = Duration::from_secs(600);

/// Takeovers of a session that may come at once.
const BURST: u32 = 10;
/// Time between two of them after that.
const EACH: Duration = Duration::from_secs(1);

/// The takeovers of one session: a few at once, and then one a second. Connections that take it
/// from each other again and again do not occupy the process.
#[derive(Debug, Default)]
pub(crate) struct TakeoverPace(Option<Box<Counted>>);

/// Takeovers of one session: most sessions have none.
#[derive(Debug)]
struct Counted {
    /// The time up to which takeovers are counted.
    used_to: Instant,
    /// Cancelled when another connection waits for its turn in place of this one.
    waiting: Option<CancellationToken>,
}

impl TakeoverPace {
    /// Counts a takeover.
    pub(crate) fn count(&mut self, now: Instant) {
        let counted = self.0.get_or_insert_with(|| Box::new(Counted { used_to: now, waiting: None }));
        counted.used_to = counted.used_to.max(now) + EACH;
        counted.waiting = None;
    }

    /// Returns the time to wait before the next takeover, and a token that another connection of
    /// the client cancels; `None` when it may be now.
    pub(crate) fn turn(&mut self, now: Instant) -> Option<(Duration, CancellationToken)> {
        let counted = self.0.as_mut()?;
        let wait = counted.used_to.saturating_duration_since(now).checked_sub(EACH * (BURST - 1))?;
        if wait.is_zero() {
            return None;
        }
        let token = CancellationToken::new();
        if let Some(before) = counted.waiting.replace(token.clone()) {
            before.cancel();
        }
        Some((wait, token))
    }
}

/// Clients whose takeovers between nodes are paced at one time.
const PACED: usize = 4096;

/// The takeovers of clients between this node and others: their sessions do not stay here.
#[derive(Debug, Default)]
pub(crate) struct TakeoverPaces(Mutex<HashMap<Client, TakeoverPace, RandomState>>);

impl TakeoverPaces {
    /// Counts a takeover of a client by another node, or by this one.
    pub(crate) fn count(&self, client: &Client, now: Instant) {
        let mut paces = self.0.lock();
        if paces.len() >= PACED {
            paces.retain(|_, pace| pace.0.as_ref().is_some_and(|counted| counted.used_to > now));
        }
        if paces.len() < PACED || paces.contains_key(client) {
            paces.entry(client.clone()).or_default().count(now);
        }
    }

    /// As [`TakeoverPace::turn`], for a client.
    pub(crate) fn turn(&self, client: &Client, now: Instant) -> Option<(Duration, CancellationToken)> {
        self.0.lock().get_mut(client)?.turn(now)
    }
}

/// The client ids that are taken over most often. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Takeovers(Arc<Mutex<Vec<Takeover>>>);

/// A client id that is taken over again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Takeover {
    /// Tenant of the client.
    pub tenant: Arc<str>,
    /// The client id.
    pub client: Arc<str>,
    /// Takeovers in a row.
    pub count: u64,
    /// Time of the first of them.
    pub first: Nanos,
    /// Time of the last of them.
    pub last: Nanos,
    /// Addresses of the connections that took it over, the last one first, at most two.
    pub addresses: Vec<IpAddr>,
}

impl Takeovers {
    /// Counts a takeover by a connection from `peer`. One more of many in a row is logged, each
    /// time that their number has doubled.
    pub(crate) fn count(&self, tenant: &Arc<str>, client: &Arc<str>, peer: SocketAddr, now: Nanos) {
        let named = self.note(tenant, client, peer.ip(), now);
        let Some(Takeover { count, addresses, .. }) = named else { return };
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        tracing::warn!(
            %tenant, %client, takeovers = count, addresses = addresses.join(", "),
            "connections take this client id from each other: give each device an id of its own, or let it close \
             a connection before it connects again; `weir doctor` lists such ids"
        );
    }

    /// Returns the takeover when it is to be logged.
    fn note(&self, tenant: &Arc<str>, client: &Arc<str>, address: IpAddr, now: Nanos) -> Option<Takeover> {
        let mut watched = self.0.lock();
        let at = watched.iter().position(|held| held.client == *client && held.tenant == *tenant);
        let held = match at {
            Some(at) => &mut watched[at],
            None => {
                if watched.len() >= WATCHED {
                    // Ids that are over first, then the one with the fewest takeovers.
                    let goes_on = |held: &Takeover| since(held.last, now) <= APART;
                    let least =
                        watched.iter().enumerate().min_by_key(|(_, held)| (goes_on(held), held.count, held.last));
                    let least = least.map(|(at, _)| at)?;
                    watched.swap_remove(least);
                }
                let (tenant, client) = (Arc::clone(tenant), Arc::clone(client));
                watched.push(Takeover { tenant, client, count: 0, first: now, last: now, addresses: Vec::new() });
                watched.last_mut()?
            }
        };
        if since(held.last, now) > APART {
            (held.count, held.first) = (0, now);
            held.addresses.clear();
        }
        held.count += 1;
        held.last = now;
        held.addresses.retain(|known| *known != address);
        held.addresses.insert(0, address);
        held.addresses.truncate(2);
        let doubled = held.count % NAMED == 0 && (held.count / NAMED).is_power_of_two();
        doubled.then(|| held.clone())
    }

    /// The client ids that are taken over again and again, the most often first.
    pub fn list(&self, now: Nanos) -> Vec<Takeover> {
        let named = |held: &&Takeover| held.count >= NAMED && since(held.last, now) <= LISTED;
        let mut list: Vec<Takeover> = self.0.lock().iter().filter(named).cloned().collect();
        list.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.client.cmp(&b.client)));
        list
    }
}

fn since(then: Nanos, now: Nanos) -> Duration {
    Duration::from_nanos(u64::try_from(now.saturating_sub(then)).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use model::time::SECOND;

    use super::*;

    #[test]
    fn a_session_is_taken_over_ten_times_at_once_and_then_once_a_second() {
        let mut pace = TakeoverPace::default();
        let begun = Instant::now();
        for _ in 0..10 {
            assert!(pace.turn(begun).is_none());
            pace.count(begun);
        }
        let (wait, first) = pace.turn(begun).unwrap();
        assert_eq!(wait, EACH);
        let (wait, second) = pace.turn(begun + EACH / 2).unwrap();
        assert_eq!(wait, EACH / 2, "waiting costs no turn");
        assert!(first.is_cancelled() && !second.is_cancelled(), "one of them waits");
        assert!(pace.turn(begun + EACH).is_none());
        pace.count(begun + EACH);
        assert_eq!(pace.turn(begun + EACH).unwrap().0, EACH);
        assert!(pace.turn(begun + 100 * EACH).is_none());
    }

    #[test]
    fn takeovers_between_nodes_are_paced_for_a_bounded_number_of_clients() {
        let paces = TakeoverPaces::default();
        let client = |id: usize| Client { tenant: "t".into(), id: id.to_string().into() };
        let begun = Instant::now();
        (0..10).for_each(|_| paces.count(&client(0), begun));
        assert!(paces.turn(&client(0), begun).is_some() && paces.turn(&client(1), begun).is_none());
        (0..2 * PACED).for_each(|id| paces.count(&client(id), begun));
        assert_eq!(paces.0.lock().len(), PACED);
        assert!(paces.turn(&client(0), begun).is_some());
        // The others have their whole burst again.
        paces.count(&client(PACED), begun + 2 * EACH);
        assert_eq!(paces.0.lock().len(), 2);
    }

    #[test]
    fn ids_that_are_taken_over_in_a_row_are_named_and_the_table_is_bounded() {
        let takeovers = Takeovers::default();
        let tenant: Arc<str> = "t".into();
        let peer = |last: u8| IpAddr::from([10, 0, 0, last]);
        let take = |client: &str, last: u8, at: i64| {
            takeovers.note(&tenant, &client.into(), peer(last), at * SECOND).is_some()
        };
        let logged = (0..50).filter(|n| take("twins", (n % 2) as u8, *n)).count();
        assert_eq!(logged, 4, "after 5, 10, 20 and 40");
        // A reconnect storm: each device takes over its own dead connection once.
        (0..10_000).for_each(|n| assert!(!take(&format!("d{n}"), 1, 50)));
        (0..50).for_each(|n| assert!(!take("slow", 1, n * 61), "far apart"));
        let list = takeovers.list(50 * SECOND);
        assert_eq!(list.len(), 1, "{list:?}");
        assert_eq!((&*list[0].client, list[0].count, list[0].first), ("twins", 50, 0));
        assert_eq!(list[0].addresses, [peer(1), peer(0)]);
        assert!(takeovers.0.lock().len() <= WATCHED);
        assert_eq!(takeovers.list(1_000 * SECOND), [], "it is over");
    }
}
