//! Accepting connections, and closing all of them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::Broker;
use crate::connection;
use crate::session::Link;
use door::Inbox;
use tls::Acceptor;

/// Connections that may wait to be accepted: a fleet reconnects all at once.
const BACKLOG: i32 = 4096;
const SWEEP: Duration = Duration::from_secs(1);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections beyond the maximum number that are open for a moment, to be refused with a reason.
pub const fn beyond(max_connections: usize) -> usize {
    8 + max_connections / 16
}

/// Binds an address for [`Broker::run`].
///
/// # Errors
/// The errors of the operating system.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let domain = if address.is_ipv4() { socket2::Domain::IPV4 } else { socket2::Domain::IPV6 };
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Listeners of a broker. A plain one alone is made from it.
#[derive(Debug)]
pub struct Ports {
    /// Clients without TLS.
    pub plain: TcpListener,
    /// Clients with TLS, and its handshakes.
    pub tls: Option<(TcpListener, Acceptor)>,
}

impl From<TcpListener> for Ports {
    fn from(plain: TcpListener) -> Self {
        Self { plain, tls: None }
    }
}

/// Accepts the next connection; waits for ever without a listener.
async fn accept_tls(tls: Option<&(TcpListener, Acceptor)>) -> io::Result<(TcpStream, SocketAddr)> {
    match tls {
        Some((listener, _)) => listener.accept().await,
        None => std::future::pending().await,
    }
}

impl<I: Inbox> Broker<I> {
    /// Serves until `shutdown`; then sends every connection its acknowledgements and the reason,
    /// and closes it. Returns when all connections are closed; those that do not drain in time are
    /// dropped.
    ///
    /// # Errors
    /// None at present: a failure to accept a connection is logged, and accepting goes on.
    pub async fn run(self: Arc<Self>, ports: impl Into<Ports>, shutdown: CancellationToken) -> io::Result<()> {
        let Ports { plain, tls } = ports.into();
        let earlier = std::mem::take(&mut *self.earlier.lock());
        tokio::select! {
            () = self.settle_earlier(earlier) => {}
            () = shutdown.cancelled() => {}
        }
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = sweep.tick() => self.sweep(),
                accepted = plain.accept() => match accepted {
                    Ok((stream, peer)) => self.accept(stream, None, peer),
                    Err(error) => self.survive(&error).await,
                },
                accepted = accept_tls(tls.as_ref()) => match accepted {
                    Ok((stream, peer)) => self.accept(stream, tls.as_ref().map(|(_, acceptor)| acceptor.clone()), peer),
                    Err(error) => self.survive(&error).await,
                },
            }
        }
        drop((plain, tls));
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
            tracing::warn!("{} connections did not drain within {drain:?}: dropping them", self.connections());
            self.tasks.wait().await;
        }
        Ok(())
    }

    fn sweep(&self) {
        let mut subscriptions = 0;
        for tenant in self.tenants.all() {
            self.expire_sessions(&tenant);
            subscriptions += tenant.trie.len();
        }
        self.tenants.make_room();
        self.metrics.subscriptions.set(subscriptions as i64);
        self.metrics.retained.set(self.tenants.retained() as i64);
    }

    fn accept(self: &Arc<Self>, stream: TcpStream, tls: Option<Acceptor>, peer: SocketAddr) {
        let broker = Arc::clone(self);
        let connections = self.connections.fetch_add(1, Ordering::Relaxed) + 1;
        let most = self.config.max_connections;
        // A client that is not admitted yet ends soon, and leaves its place to this one.
        let displaced = if connections > most { self.strangers.displace(peer.ip()) } else { None };
        if displaced.is_none() && connections > most.saturating_add(beyond(most)) {
            // Without an answer: its descriptor is needed elsewhere.
            tracing::info!("refused a connection from {peer}: {}", connection::NO_CONNECTION);
            self.connections.fetch_sub(1, Ordering::Relaxed);
            return self.count_end("max_connections");
        }
        // The place of one that was itself to be refused is beyond the maximum as well.
        let full = connections > most && displaced != Some(false);
        self.metrics.connections.inc();
        self.metrics.connects.inc();
        self.tasks.spawn(async move {
            connection::serve(&broker, stream, tls.as_ref(), peer, full).await;
            broker.connections.fetch_sub(1, Ordering::Relaxed);
            broker.metrics.connections.dec();
        });
    }

    /// Passing faults, such as too many open files, must not end the listener.
    async fn survive(&self, error: &io::Error) {
        self.metrics.accept_errors.inc();
        tracing::warn!("cannot accept a connection: {error}; {} are open", self.connections());
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}
