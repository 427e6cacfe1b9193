//! From an accepted connection to a stream of MQTT: the header of a load balancer, the networks of
//! the listener, the turn of the address, TLS, WebSocket.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::proxy::{self, Header, ProxyError};
use super::{ALL, Arrival, Early, Entrance, Guests, Newcomer, Pace, Plain, TOO_FAST, TOO_MANY, is_within};
use crate::Broker;
use crate::connection::{DISPLACED, Waiting};
use crate::websocket::{self, Origins, UpgradeError};
use door::Inbox;
use tls::{Accepted, HandshakeError, ServerStream};

/// Memory of a TLS session, as measured: its keys, and the buffer for a record. The certificates of
/// the client are kept besides.
const TLS_BYTES: usize = 14 << 10;
/// Memory of the request of a WebSocket, besides that of a handshake.
const REQUEST_BYTES: usize = 1 << 10;

/// A stream of which there are several kinds: rare enough for a call by pointer.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Duplex for S {}

/// A stream of MQTT.
pub(crate) enum Opened {
    Tcp(TcpStream),
    Tls(Box<ServerStream>),
    Other(Box<dyn Duplex>),
}

/// A connection that is to be served.
pub(crate) struct Ready {
    pub(crate) stream: Opened,
    pub(crate) arrival: Arrival,
    pub(crate) guests: Guests,
    /// Certificates of the client in DER, its own first.
    pub(crate) certificates: Vec<Vec<u8>>,
}

/// The reason why a connection was closed before its CONNECT, as a metric label.
type Closed = &'static str;

const SHUT_DOWN: Closed = "shut_down";
const TIMED_OUT: Closed = "connect_timeout";

/// Opens the stream of a connection. A failure is logged; the caller counts it.
pub(crate) async fn open<I: Inbox>(
    broker: &Broker<I>,
    mut newcomer: Newcomer,
    entrance: &Entrance,
) -> Result<Ready, Closed> {
    let log = |peer: SocketAddr, what: &dyn std::fmt::Display| {
        tracing::info!(listener = entrance.name(), "refused a connection from {peer}: {what}");
    };
    let mut guests = newcomer.enter(broker, entrance);
    if let Some(trusted) = &entrance.settings.proxies {
        let proxy = newcomer.arrival.peer;
        if matches!(newcomer.stream, Plain::Tcp(_)) && !is_within(trusted, proxy.ip()) {
            log(proxy, &"it is not among the `trusted` load balancers of the listener");
            return Err("proxy_untrusted");
        }
        match read_header(broker, &mut newcomer.stream, &guests).await? {
            Ok(Header::From(client)) => {
                newcomer.arrival.peer = client;
                // From now on it counts for its own address.
                guests.leave().ok_or(DISPLACED)?;
                guests = newcomer.enter(broker, entrance);
            }
            Ok(Header::Local) => {}
            Err(error) => {
                log(proxy, &error);
                return Err("proxy_header");
            }
        }
    }
    let Newcomer { stream, mut arrival, .. } = newcomer;
    let peer = arrival.peer;
    if !entrance.settings.allowed.is_empty() && !is_within(&entrance.settings.allowed, peer.ip()) {
        log(peer, &"its address is not among those that are `allowed` at the listener");
        return Err("address");
    }
    let timeout = broker.connect_timeout();
    // The turn of the address first: one that connects too often takes no turns of others.
    wait_for_turn(broker, &guests, (&broker.connect_pace, peer.ip()), &mut arrival, &TOO_FAST).await?;
    if arrival.early.is_none() {
        wait_for_turn(broker, &guests, (&broker.all_connects, ALL), &mut arrival, &TOO_MANY).await?;
    }
    let (stream, certificates) = match (stream, &entrance.tls) {
        (Plain::Tcp(stream), Some(acceptor)) => {
            // It has a deadline of its own.
            let accepted = tokio::select! {
                accepted = acceptor.accept(stream, peer.ip()) => accepted,
                () = guests.displaced() => Err(HandshakeError::Displaced),
                () = broker.stopping.cancelled() => return Err(SHUT_DOWN),
            };
            let Accepted { stream, certificates } = accepted.map_err(|error| {
                tracing::info!(listener = entrance.name(), "refused a connection from {peer} to the TLS port: {error}");
                error.label()
            })?;
            let chain: usize = certificates.iter().map(Vec::len).sum();
            arrival.stream_bytes = TLS_BYTES + chain;
            (Opened::Tls(Box::new(stream)), certificates)
        }
        (Plain::Tcp(stream), None) => (Opened::Tcp(stream), Vec::new()),
        (Plain::Unix(stream), _) => (Opened::Other(Box::new(stream)), Vec::new()),
    };
    if entrance.settings.requires_certificate && certificates.is_empty() {
        log(peer, &"the client presents no certificate, and the listener requires one");
        return Err("client_certificate");
    }
    let Some(origins) = &entrance.settings.websocket else {
        return Ok(Ready { stream, arrival, guests, certificates });
    };
    let mut waiting = Waiting::new(broker, peer.ip());
    if let Err(error) = waiting.begin(arrival.stream_bytes + REQUEST_BYTES).await {
        log(peer, &error);
        return Err("memory");
    }
    let upgraded = waiting.unless_displaced(upgrade(stream, origins));
    let stream = match within(broker, &guests, Some(timeout), upgraded).await?? {
        Ok(stream) => Opened::Other(stream),
        Err(error) => {
            log(peer, &error);
            return Err("websocket");
        }
    };
    Ok(Ready { stream, arrival, guests, certificates })
}

/// Waits for the turn of a connection, or notes that it is to be refused.
async fn wait_for_turn<I: Inbox>(
    broker: &Broker<I>,
    guests: &Guests,
    (pace, from): (&Pace, IpAddr),
    arrival: &mut Arrival,
    too_far: &'static Early,
) -> Result<(), Closed> {
    match pace.turn(from, broker.connect_timeout(), Instant::now()) {
        Some(Duration::ZERO) => Ok(()),
        Some(wait) => {
            broker.metrics.connects_paced.inc();
            within(broker, guests, None, tokio::time::sleep(wait)).await
        }
        None => {
            arrival.early = arrival.early.or(Some(too_far));
            Ok(())
        }
    }
}

async fn read_header<I: Inbox>(
    broker: &Broker<I>,
    stream: &mut Plain,
    guests: &Guests,
) -> Result<Result<Header, ProxyError>, Closed> {
    let timeout = Some(broker.connect_timeout());
    match stream {
        Plain::Tcp(stream) => within(broker, guests, timeout, proxy::read(stream)).await,
        Plain::Unix(stream) => within(broker, guests, timeout, proxy::read(stream)).await,
    }
}

async fn upgrade(stream: Opened, origins: &Origins) -> Result<Box<dyn Duplex>, UpgradeError> {
    Ok(match stream {
        Opened::Tcp(stream) => Box::new(websocket::accept(stream, origins, false).await?),
        Opened::Tls(stream) => Box::new(websocket::accept(stream, origins, true).await?),
        Opened::Other(stream) => Box::new(websocket::accept(stream, origins, false).await?),
    })
}

/// The outcome, unless the client takes its time or has to give way, or the process stops.
async fn within<I: Inbox, T>(
    broker: &Broker<I>,
    guests: &Guests,
    timeout: Option<Duration>,
    outcome: impl Future<Output = T>,
) -> Result<T, Closed> {
    let expired = async {
        match timeout {
            Some(timeout) => tokio::time::sleep(timeout).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        outcome = outcome => Ok(outcome),
        () = expired => Err(TIMED_OUT),
        () = guests.displaced() => Err(DISPLACED),
        () = broker.stopping.cancelled() => Err(SHUT_DOWN),
    }
}

/// Turns off the delay of small segments.
pub(crate) fn set_no_delay(stream: &Plain, peer: SocketAddr) {
    let set = match stream {
        Plain::Tcp(stream) => stream.set_nodelay(true),
        Plain::Unix(_) => io::Result::Ok(()),
    };
    if let Err(error) = set {
        tracing::debug!("set TCP_NODELAY for {peer}: {error}");
    }
}
