//! A connection from its acceptance to its end, plain or encrypted.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use door::Inbox;
use tls::{Accepted, Acceptor};
use tokio::net::TcpStream;

use super::end::End;
use super::{Stream, handshake};
use crate::Broker;

/// Memory of a TLS session, as measured: its keys, and the buffer for a record.
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
    let Some(acceptor) = tls else { return serve_stream(broker, stream, Vec::new(), (peer, full, 0)).await };
    let accepted = tokio::select! {
        accepted = acceptor.accept(stream) => accepted,
        () = broker.stopping.cancelled() => return broker.count_end("shut_down"),
    };
    match accepted {
        // Boxed, as plain connections must not have the size of encrypted ones.
        Ok(Accepted { stream, certificates }) => {
            Box::pin(serve_stream(broker, stream, certificates, (peer, full, TLS_BYTES))).await;
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
) {
    let connect_timeout = Duration::from_millis(broker.config.connect_timeout_ms);
    // Boxed, so that the connection does not hold the memory of the handshake for the rest of its
    // life.
    let opening = Box::pin(handshake::open(broker, (stream, stream_bytes), certificates, (peer, full)));
    let opened = tokio::select! {
        opened = tokio::time::timeout(connect_timeout, opening) => opened,
        () = broker.stopping.cancelled() => return broker.count_end("shut_down"),
    };
    let mut connection = match opened {
        Ok(Ok(opened)) => opened,
        Ok(Err(reason)) => return broker.count_end(reason),
        Err(_) => return broker.count_end("connect_timeout"),
    };
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
        () = revoked => End::Revoked,
        end = async {
            if let Some(before) = connection.before.take() {
                // Boxed, as it is rare.
                Box::pin(connection.broker.settle(before, &connection.tenant)).await;
            }
            connection.keep_will();
            poll_fn(|cx| connection.poll(cx)).await
        } => end,
        () = broker.abandon.cancelled() => End::ShutDown,
    };
    Box::pin(connection.finish(end)).await;
}
