//! The listener of the status page, with a limit on its connections.

use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use tls::{Acceptor, Connections, GuardedStream, Peer};
use tokio::net::TcpListener;

/// A connection on which no byte moves for this long is closed. Longer than any answer takes.
const IDLE: Duration = Duration::from_secs(60);
/// Answer to a connection beyond the limit.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\nretry-after: 1\r\n\
    content-length: 50\r\nconnection: close\r\n\r\ntoo many connections: see `http.max_connections`\r\n";

/// See [`Connections`].
pub(super) struct Listener(Connections);

impl Listener {
    pub(super) fn new(listener: TcpListener, tls: Option<Acceptor>, max_connections: usize) -> Self {
        Self(Connections::new(listener, "http.max_connections", max_connections, IDLE, FULL).with_tls(tls))
    }
}

impl axum::serve::Listener for Listener {
    type Io = GuardedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (GuardedStream, SocketAddr) {
        self.0.accept().await
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// The other side of a connection.
#[derive(Clone)]
pub(super) struct Caller(Peer);

impl Caller {
    /// Notes that a request has arrived.
    pub(super) fn request(&self) {
        self.0.request();
    }

    /// Notes that the caller is known: its connection no longer gives way to others.
    pub(super) fn admit(&self) {
        self.0.admit();
    }
}

impl Connected<IncomingStream<'_, Listener>> for Caller {
    fn connect_info(stream: IncomingStream<'_, Listener>) -> Self {
        Self(stream.io().peer().clone())
    }
}

#[cfg(test)]
mod tests {
    use super::FULL;

    #[test]
    fn the_refusal_is_as_long_as_it_says() {
        let text = std::str::from_utf8(FULL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{}", body.len());
    }
}
