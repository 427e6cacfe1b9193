//! A node of a test, with all that has arrived at it.

use std::sync::Arc;
use std::time::Duration;

use broker::fleet::{
    Arrival, Bus, Change, Claimed, Client, Numbered, Owned, Placed, Route, SessionStore, SharedMessage, Subscription,
};
use buffer::redis::Redis;
use parking_lot::Mutex;
use weir_cluster::sessions::{Config, RedisFleet};

pub(crate) use broker::fleet::contract::until;

use crate::redis_control::wait_for;

/// A lease that passes within a test.
pub(crate) fn quick() -> Config {
    Config { lease: Duration::from_millis(1500), ..Config::default() }
}

/// A node, whose arrivals are collected until it is dropped.
pub(crate) struct Node {
    pub(crate) fleet: Arc<RedisFleet>,
    arrivals: Arc<Mutex<Vec<Arrival>>>,
    routes: Arc<Mutex<Vec<Route>>>,
    tasks: [tokio::task::AbortHandle; 2],
}

impl Drop for Node {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::AbortHandle::abort);
    }
}

impl Node {
    pub(crate) async fn open(redis: &Redis, config: Config) -> Self {
        let fleet = Arc::new(RedisFleet::open(redis, config, Arc::default()).await.unwrap());
        let (arrivals, routes) = (Arc::<Mutex<Vec<Arrival>>>::default(), Arc::<Mutex<Vec<Route>>>::default());
        let arriving = tokio::spawn({
            let (fleet, arrivals) = (Arc::clone(&fleet), Arc::clone(&arrivals));
            async move {
                loop {
                    for arrival in fleet.arrivals().await {
                        if let Arrival::HandOver(_, hand_over) = &arrival {
                            fleet.handed_over(hand_over);
                        }
                        arrivals.lock().push(arrival);
                    }
                }
            }
        });
        let routing = tokio::spawn({
            let (fleet, routes) = (Arc::clone(&fleet), Arc::clone(&routes));
            async move {
                loop {
                    let some = fleet.routes().await;
                    routes.lock().extend(some);
                }
            }
        });
        Self { fleet, arrivals, routes, tasks: [arriving.abort_handle(), routing.abort_handle()] }
    }

    pub(crate) async fn claim(&self, id: &str, clean: bool, new: u64) -> Claimed {
        let (client, mut answer) = (client(id), None);
        wait_for("a claim", async || {
            let claimed = self.fleet.claim(&client, clean, new, None).await;
            // The broker claims again, too: right after a failover a connection may still be to the
            // server that is gone.
            let is_brief = claimed.as_ref().is_err_and(|away| away.is_brief);
            answer = Some(claimed);
            !is_brief
        })
        .await;
        let claimed = answer.unwrap().unwrap();
        self.fleet.begin(&claimed.owned);
        claimed
    }

    /// A client whose session lasts.
    pub(crate) async fn lasting(&self, id: &str, new: u64, secs: u32) -> Owned {
        let owned = self.claim(id, true, new).await.owned;
        self.apply(vec![Change::Keep(owned.clone(), secs)]).await;
        owned
    }

    pub(crate) async fn apply(&self, changes: Vec<Change>) {
        let ticket = self.fleet.submit(changes);
        self.durable(ticket).await;
    }

    pub(crate) async fn durable(&self, ticket: u64) {
        std::future::poll_fn(|cx| {
            self.fleet.wake(ticket, cx.waker());
            if self.fleet.is_durable(ticket) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
    }

    /// Waits until its changes wait for a reason, which claims return.
    pub(crate) async fn waits_for(&self, reason: &str) {
        wait_for(reason, async || {
            let error = self.fleet.claim(&client("x"), true, 9, None).await.err();
            error.is_some_and(|error| error.reason.contains(reason))
        })
        .await;
    }

    pub(crate) fn arrivals(&self) -> Vec<Arrival> {
        self.arrivals.lock().clone()
    }

    pub(crate) fn routes(&self) -> Vec<Route> {
        self.routes.lock().clone()
    }

    /// Number of routes that have arrived.
    pub(crate) fn known(&self) -> usize {
        self.routes.lock().len()
    }

    /// Numbers and payloads of the messages that have arrived for an ownership.
    pub(crate) fn arrived(&self, owned: &Owned) -> Vec<(u64, String)> {
        let of = |arrival: &Arrival| match arrival {
            Arrival::Message(of, numbered) if of == owned => Some(shown(numbered)),
            _ => None,
        };
        self.arrivals.lock().iter().filter_map(of).collect()
    }

    /// Number of these messages.
    pub(crate) fn arrived_count(&self, owned: &Owned) -> usize {
        let is_of = |arrival: &&Arrival| matches!(arrival, Arrival::Message(of, _) if of == owned);
        self.arrivals.lock().iter().filter(is_of).count()
    }
}

pub(crate) fn shown(numbered: &Numbered) -> (u64, String) {
    (numbered.number, String::from_utf8_lossy(&numbered.message.payload).into_owned())
}

pub(crate) fn client(id: &str) -> Client {
    Client { tenant: "t".into(), id: id.into() }
}

pub(crate) fn options() -> Subscription {
    Subscription { qos: 1, no_local: false, retain_as_published: true, id: Some(7) }
}

pub(crate) fn message(payload: &str) -> Arc<SharedMessage> {
    Arc::new(SharedMessage {
        topic: "a/b".into(),
        payload: payload.as_bytes().into(),
        properties: [].into(),
        qos: 1,
        retain: false,
        published: 5,
    })
}

/// A message for sessions.
pub(crate) fn append(to: &[&Owned], payload: &str) -> Change {
    let placed = Placed { qos: 1, retain: false, ids: Vec::new(), share: None, is_for_connected: false };
    let takers = to.iter().map(|owned| (Arc::clone(&owned.client.id), owned.session, placed.clone())).collect();
    Change::Message { tenant: "t".into(), message: message(payload), takers, source: None }
}
