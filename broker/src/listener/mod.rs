//! Accepting connections at several listeners, and closing all of them.

mod open;
mod pace;
#[cfg_attr(not(feature = "fuzzing"), expect(unreachable_pub, reason = "the fuzz targets reach it"))]
pub mod proxy;
mod report;
mod room;
mod socket;

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::codec::reason;
use crate::connection;
use crate::link::Link;
use crate::websocket::Origins;
use crate::{Broker, DrainReport};
use door::Inbox;
use tls::Acceptor;

pub(crate) use open::{Duplex, Opened, Ready, open, set_no_delay};
pub(crate) use pace::{ALL, Pace};
use report::ListenerState;
pub use report::{ListenerReport, Listeners};
pub use room::beyond;
pub(crate) use room::{Guests, PATIENCE, Room};
pub(crate) use socket::{Plain, THIS_MACHINE};
pub use socket::{Socket, bind, bind_unix};

/// Time that connections wait for the subscriptions of other nodes.
const ROUTES_WITHIN: Duration = Duration::from_secs(5);
const SWEEP: Duration = Duration::from_secs(1);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A way in for clients.
#[derive(Debug)]
pub struct Listener {
    /// Where it listens.
    pub socket: Socket,
    /// Handshakes of its connections; `None` without TLS.
    pub tls: Option<Acceptor>,
    /// Its settings.
    pub settings: Settings,
}

/// Settings of a listener.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Name in logs, metrics and reports.
    pub name: Arc<str>,
    /// Clients speak WebSocket: those without a page, and pages of these origins.
    pub websocket: Option<Origins>,
    /// Each connection comes from one of these load balancers, and begins with a header of the
    /// PROXY protocol. A Unix socket has no addresses: its permissions decide.
    pub proxies: Option<Vec<IpNet>>,
    /// Networks of clients; with none, all are accepted.
    pub allowed: Vec<IpNet>,
    /// Maximum number of connections, within that of the broker.
    pub max_connections: Option<usize>,
    /// Longest keep-alive in seconds, in place of that of the broker.
    pub max_keep_alive_secs: Option<u16>,
    /// Clients have to present a certificate.
    pub requires_certificate: bool,
}

/// The listeners of a broker. A plain one alone is made from its socket.
#[derive(Debug)]
pub struct Ports(Vec<Listener>);

impl From<Vec<Listener>> for Ports {
    fn from(listeners: Vec<Listener>) -> Self {
        Self(listeners)
    }
}

impl From<TcpListener> for Ports {
    fn from(plain: TcpListener) -> Self {
        let settings = Settings { name: "mqtt".into(), ..Settings::default() };
        Self(vec![Listener { socket: plain.into(), tls: None, settings }])
    }
}

/// A listener without its socket: what its connections share.
#[derive(Debug)]
pub(crate) struct Entrance {
    settings: Settings,
    tls: Option<Acceptor>,
    room: Option<Room>,
    state: Arc<ListenerState>,
}

impl Entrance {
    /// True when connections are served as they come.
    fn is_plain(&self) -> bool {
        let Settings { websocket, proxies, allowed, .. } = &self.settings;
        self.tls.is_none() && websocket.is_none() && proxies.is_none() && allowed.is_empty()
    }

    /// Its name, for reports of its connections.
    pub(crate) fn listener(&self) -> Arc<str> {
        Arc::clone(&self.settings.name)
    }

    fn name(&self) -> &str {
        &self.settings.name
    }
}

/// A reason for which a connection is to be refused once its CONNECT is read.
#[derive(Debug)]
pub(crate) struct Early {
    /// Metric label.
    pub(crate) label: &'static str,
    /// Reason code of MQTT 5.
    pub(crate) code: u8,
    /// For the client and the log.
    pub(crate) what: &'static str,
}

static NO_CONNECTION: Early = Early {
    label: "max_connections",
    code: reason::QUOTA_EXCEEDED,
    what: "the server has reached its maximum number of connections (mqtt.max_connections)",
};
static NO_PLACE: Early = Early {
    label: "max_connections",
    code: reason::QUOTA_EXCEEDED,
    what: "the listener has reached its maximum number of connections (max_connections of [[mqtt.listener]])",
};
pub(crate) static TOO_FAST: Early = Early {
    label: "connect_rate",
    code: reason::CONNECTION_RATE_EXCEEDED,
    what: "too many connections from this address wait for their turn (mqtt.address_connects_per_second)",
};

pub(crate) static TOO_MANY: Early = Early {
    label: "connect_rate",
    code: reason::CONNECTION_RATE_EXCEEDED,
    what: "too many connections wait for their turn (mqtt.connects_per_second)",
};
static ELSEWHERE: Early =
    Early { label: "draining", code: reason::USE_ANOTHER_SERVER, what: "the server is draining: use another one" };
static DRAINING: Early = Early {
    label: "draining",
    code: reason::SERVER_UNAVAILABLE,
    what: "the server is draining: connect again later, or to another one",
};

/// The way in which a connection came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival {
    /// Address of the client.
    pub(crate) peer: SocketAddr,
    /// It is to be refused.
    pub(crate) early: Option<&'static Early>,
    /// Longest keep-alive of its listener.
    pub(crate) max_keep_alive_secs: Option<u16>,
    /// Bytes that its stream holds.
    pub(crate) stream_bytes: usize,
    /// The client is inside of this process.
    pub(crate) is_internal: bool,
}

/// An accepted connection, before anything of it is read.
pub(crate) struct Newcomer {
    pub(crate) stream: Plain,
    pub(crate) arrival: Arrival,
    /// It is beyond the maximum of the broker, and that of its listener.
    full: (bool, bool),
}

impl Newcomer {
    /// The stream of a connection that is served as it comes.
    ///
    /// # Errors
    /// The connection, when there is more to do: [`open`].
    pub(crate) fn ready<I: Inbox>(self, broker: &Broker<I>, entrance: &Entrance) -> Result<Ready, Self> {
        if !entrance.is_plain() || broker.connect_pace.is_set() {
            return Err(self);
        }
        // One that is to be refused takes no turn.
        let comes_now = || broker.all_connects.turn(ALL, Duration::ZERO, Instant::now()).is_some();
        if self.arrival.early.is_none() && !comes_now() {
            return Err(self);
        }
        let guests = self.enter(broker, entrance);
        let stream = match self.stream {
            Plain::Tcp(stream) => Opened::Tcp(stream),
            Plain::Unix(stream) => Opened::Other(Box::new(stream)),
        };
        Ok(Ready { stream, arrival: self.arrival, guests, certificates: Vec::new() })
    }

    /// Adds the client to those that are not admitted yet, under the address that is known by now.
    pub(crate) fn enter<I: Inbox>(&self, broker: &Broker<I>, entrance: &Entrance) -> Guests {
        let from = self.arrival.peer.ip();
        Guests {
            all: broker.room.enter(from, self.full.0),
            own: entrance.room.as_ref().map(|room| room.enter(from, self.full.1)),
        }
    }
}

/// True when one of the networks has the address.
pub(crate) fn is_within(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

/// The next connection of any listener; they take turns.
async fn next(listeners: &[(Socket, Arc<Entrance>)], turn: &mut usize) -> (usize, io::Result<(Plain, SocketAddr)>) {
    poll_fn(|cx| {
        for step in 0..listeners.len() {
            let at = (*turn + step) % listeners.len();
            if let Poll::Ready(accepted) = listeners[at].0.poll_accept(cx) {
                *turn = at + 1;
                return Poll::Ready((at, accepted));
            }
        }
        Poll::Pending
    })
    .await
}

impl<I: Inbox> Broker<I> {
    /// Follows the other nodes until `stop`. Returns when it knows their subscribers, so that no
    /// message of the first clients misses one, or after some time.
    async fn join_fleet(self: &Arc<Self>, stop: &CancellationToken) {
        let Some(fleet) = &self.fleet else { return };
        let (first, known) = oneshot::channel();
        tokio::spawn(Arc::clone(self).follow_routes(Arc::clone(fleet), first, stop.clone()));
        tokio::spawn(Arc::clone(self).follow_arrivals(Arc::clone(fleet), stop.clone()));
        tokio::spawn(Arc::clone(self).send_unsent(Arc::clone(fleet), stop.clone()));
        // An error is the end of the wait: the sender is dropped.
        if tokio::time::timeout(ROUTES_WITHIN, known).await.is_err() {
            tracing::warn!(
                "accepting connections although the subscribers at other nodes are not known yet: the store of \
                 sessions is away"
            );
        }
    }

    /// Serves until `shutdown`; then sends every connection its acknowledgements and the reason,
    /// and closes it. Returns when all connections are closed; those that do not drain in time are
    /// dropped.
    ///
    /// # Errors
    /// None at present: a failure to accept a connection is logged, and accepting goes on.
    pub async fn run(self: Arc<Self>, ports: impl Into<Ports>, shutdown: CancellationToken) -> io::Result<()> {
        let mut listeners: Vec<_> = ports.into().0.into_iter().map(|listener| self.entrance(listener)).collect();
        let earlier = std::mem::take(&mut *self.earlier.lock());
        let closed = CancellationToken::new();
        tokio::select! {
            () = async {
                self.join_fleet(&closed).await;
                self.settle_earlier(earlier).await;
            } => {}
            () = shutdown.cancelled() => {}
        }
        let mut journal = tokio::spawn(Arc::clone(&self).keep_journal(closed.clone()));
        tokio::spawn(Arc::clone(&self).keep_archive(closed.clone()));
        let mut sweep = tokio::time::interval(SWEEP);
        let (mut turn, mut is_stopping) = (0, false);
        loop {
            tokio::select! {
                () = shutdown.cancelled(), if !is_stopping => {
                    is_stopping = self.drain_to_stop();
                    if !is_stopping {
                        break;
                    }
                    if self.config.server_reference.is_empty() {
                        // A load balancer sends its clients elsewhere at once.
                        listeners.clear();
                    }
                }
                () = self.drain.hastened() => break,
                () = self.drain.due() => {
                    if self.close_slice() {
                        break;
                    }
                }
                _ = sweep.tick() => self.sweep(),
                (at, accepted) = next(&listeners, &mut turn) => {
                    let entrance = &listeners[at].1;
                    match accepted {
                        Ok((stream, peer)) => self.accept(stream, entrance, peer),
                        Err(error) => self.survive(entrance, &error).await,
                    }
                }
            }
        }
        drop(listeners);
        self.tasks.close();
        // In this order: a connection that is being opened sees the token, or its session gets the
        // signal.
        self.stopping.cancel();
        for tenant in self.tenants.all() {
            for session in tenant.sessions.all() {
                session.signal(Link::STOP);
            }
        }
        let drain = Duration::from_millis(self.config.drain_timeout_ms);
        let drained = tokio::time::timeout(drain, self.tasks.wait()).await.is_ok();
        self.abandon.cancel();
        if !drained {
            let left = self.metrics.listeners.open();
            tracing::warn!("{} connections did not drain within {drain:?} ({left}): dropping them", self.connections());
            self.tasks.wait().await;
        }
        if let Some(DrainReport { closed, lasting, .. }) = self.drain_report() {
            tracing::info!(closed, milliseconds = lasting.as_millis(), "drained");
        }
        closed.cancel();
        // Without it, clients get messages that they have once more after the next start.
        if tokio::time::timeout(drain, &mut journal).await.is_err() {
            journal.abort();
            tracing::warn!("the progress of sessions was not stored within {drain:?}");
        }
        if let Some(fleet) = &self.fleet
            && !fleet.flush().await
        {
            tracing::warn!("the store of sessions is away: the end of connections is not stored there");
        }
        self.journal.close();
        self.metrics.listeners.clear();
        Ok(())
    }

    fn entrance(&self, Listener { socket, tls, settings }: Listener) -> (Socket, Arc<Entrance>) {
        let protocol = match (socket.is_unix(), settings.websocket.is_some(), tls.is_some()) {
            (true, true, _) => "ws+unix",
            (true, false, _) => "unix",
            (_, true, false) => "ws",
            (_, true, true) => "wss",
            (_, false, false) => "mqtt",
            (_, false, true) => "mqtts",
        };
        let state = self.metrics.listeners.add(&settings.name, socket.text(), protocol);
        let room = settings.max_connections.map(Room::new);
        (socket, Arc::new(Entrance { settings, tls, room, state }))
    }

    fn sweep(&self) {
        let (mut subscriptions, mut shared) = (0, 0);
        for tenant in self.tenants.all() {
            self.expire_sessions(&tenant);
            subscriptions += tenant.subscriptions();
            shared += tenant.trie.shared();
        }
        self.tenants.make_room();
        self.connect_pace.sweep(Instant::now());
        self.all_connects.sweep(Instant::now());
        self.metrics.subscriptions.set(subscriptions as i64);
        self.metrics.shared_subscriptions.set(shared as i64);
        self.metrics.retained.set(self.tenants.retained() as i64);
        self.publish_figures();
        self.metrics.session_bytes.set(self.memory.sessions.held() as i64);
        self.metrics.retained_bytes.set(self.memory.retained.held() as i64);
    }

    fn accept(self: &Arc<Self>, stream: Plain, entrance: &Arc<Entrance>, peer: SocketAddr) {
        entrance.state.works();
        let from = peer.ip();
        let Some(full) = self.room.take(from) else { return self.turn_away(entrance, peer, &NO_CONNECTION) };
        let own = match &entrance.room {
            None => false,
            Some(room) => match room.take(from) {
                Some(full) => full,
                None => {
                    self.room.leave();
                    return self.turn_away(entrance, peer, &NO_PLACE);
                }
            },
        };
        let early = match self.drain.cause() {
            Some(_) if self.config.server_reference.is_empty() => Some(&DRAINING),
            Some(_) => Some(&ELSEWHERE),
            None if full => Some(&NO_CONNECTION),
            None => own.then_some(&NO_PLACE),
        };
        let max_keep_alive_secs = entrance.settings.max_keep_alive_secs;
        let arrival = Arrival { peer, early, max_keep_alive_secs, stream_bytes: 0, is_internal: false };
        let newcomer = Newcomer { stream, arrival, full: (full, own) };
        self.metrics.connections.inc();
        self.metrics.connects.inc();
        entrance.state.opened();
        let (broker, entrance) = (Arc::clone(self), Arc::clone(entrance));
        // Boxed, as the task lasts much longer.
        let opening = Box::pin(connection::open(Arc::clone(self), newcomer, Arc::clone(&entrance)));
        self.tasks.spawn(async move {
            if let Some(admitted) = opening.await {
                admitted.serve().await;
            }
            if let Some(room) = &entrance.room {
                room.leave();
            }
            broker.room.leave();
            broker.metrics.connections.dec();
            entrance.state.closed();
        });
    }

    /// Closes a connection without an answer: its descriptor is needed elsewhere.
    fn turn_away(&self, entrance: &Entrance, peer: SocketAddr, early: &Early) {
        tracing::info!(listener = entrance.name(), "refused a connection from {peer}: {}", early.what);
        self.count_end(early.label);
    }

    /// Passing faults, such as too many open files, must not end the listener.
    async fn survive(&self, entrance: &Entrance, error: &io::Error) {
        self.metrics.accept_errors.inc();
        entrance.state.fails(error);
        let open = self.connections();
        tracing::warn!(listener = entrance.name(), "cannot accept a connection: {error}; {open} are open");
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}
