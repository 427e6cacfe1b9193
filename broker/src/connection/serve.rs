//! A connection from its acceptance to its end, plain or encrypted.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use door::Inbox;
use tls::{Accepted, Acceptor, Guest, HandshakeError};
use tokio::net::TcpStream;

use super::end::End;
use super::{DISPLACED, Stream, handshake};
use crate::Broker;

/// Memory of a TLS session, as measured: its keys, and the buffer for a record. The certificates of
/// the client are kept besides.
const TLS_BYTES: usize = 14 << 10;

/// Serves an accepted connection until it ends.
pub(crate) async fn serve<I: Inbox>(
    broker: &Arc<Broker<I>>,
    stream: TcpStream,
    tls: Option<&Acceptor>,
    peer: SocketAddr,
    full: bool,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!("set TCP_NODELAY for {peer}: {error}");
    }
    let guest = broker.strangers.enter(peer.ip(), full);
    let Some(acceptor) = tls else { return serve_stream(broker, stream, Vec::new(), (peer, full, 0), guest).await };
    let accepted = tokio::select! {
        accepted = acceptor.accept(stream) => accepted,
        () = guest.displaced() => Err(HandshakeError::Displaced),
        () = broker.stopping.cancelled() => return broker.count_end("shut_down"),
    };
    match accepted {
        // Boxed, as plain connections must not have the size of encrypted ones.
        Ok(Accepted { stream, certificates }) => {
            let chain: usize = certificates.iter().map(Vec::len).sum();
            Box::pin(serve_stream(broker, stream, certificates, (peer, full, TLS_BYTES + chain), guest)).await;
        }
        Err(error) => {
            tracing::info!("refused a connection from {peer} to the TLS port: {error}");
            broker.count_end(error.label());
        }
    }
}

/// Serves a connection of MQTT over any stream, which holds a number of bytes itself.
async fn serve_stream<I: Inbox, S: Stream>(
    broker: &Arc<Broker<I>>,
    stream: S,
    certificates: Vec<Vec<u8>>,
    (peer, full, stream_bytes): (SocketAddr, bool, usize),
    guest: Guest<bool>,
) {
    let connect_timeout = Duration::from_millis(broker.config.connect_timeout_ms);
    // Boxed, so that the connection does not hold the memory of the handshake for the rest of its
    // life.
    let opening = Box::pin(async {
        let displaced = guest.displaced();
        let opening = handshake::open(broker, (stream, stream_bytes), certificates, (peer, full), guest);
        tokio::select! {
            opened = tokio::time::timeout(connect_timeout, opening) => opened.unwrap_or(Err("connect_timeout")),
            () = displaced => Err(DISPLACED),
        }
    });
    let opened = tokio::select! {
        opened = opening => opened,
        () = broker.stopping.cancelled() => return broker.count_end("shut_down"),
    };
    let mut connection = match opened {
        Ok(opened) => opened,
        Err(reason) => {
            if reason == DISPLACED {
                tracing::info!(
                    "closed a connection from {peer}: its client was not admitted yet, and others need its place"
                );
            }
            return broker.count_end(reason);
        }
    };
    let mut has_begun = false;
    let end = loop {
        // Another one after each authentication.
        let ended = connection.ended.take();
        let revoked = async {
            match &ended {
                Some(ended) => ended.cancelled().await,
                None => std::future::pending().await,
            }
        };
        let end = tokio::select! {
            // A client whose credential was revoked is not read again.
            biased;
            () = revoked => Some(End::Revoked),
            end = async {
                if !std::mem::replace(&mut has_begun, true) {
                    if let Some(before) = connection.before.take() {
                        // Boxed, as it is rare.
                        Box::pin(connection.broker.settle(before, &connection.tenant)).await;
                    }
                    connection.keep_will();
                }
                poll_fn(|cx| connection.poll(cx)).await
            } => end,
            () = broker.abandon.cancelled() => Some(End::ShutDown),
        };
        if let Some(end) = end {
            break end;
        }
    };
    Box::pin(connection.finish(end)).await;
}
