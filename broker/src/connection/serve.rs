//! A connection from its acceptance to its end, plain or encrypted.

use std::future::poll_fn;
use std::sync::Arc;

use door::Inbox;

use super::end::End;
use super::{DISPLACED, Stream, handshake};
use crate::Broker;
use crate::listener::{self, Arrival, Entrance, Guests, Newcomer, Opened, Ready};

/// Serves an accepted connection until it ends.
pub(crate) async fn serve<I: Inbox>(broker: &Arc<Broker<I>>, newcomer: Newcomer, entrance: &Entrance) {
    listener::set_no_delay(&newcomer.stream, newcomer.arrival.peer);
    let peer = newcomer.arrival.peer;
    let ready = match newcomer.ready(broker, entrance) {
        Ok(ready) => Ok(ready),
        // Boxed, as plain connections must not have the size of others.
        Err(newcomer) => Box::pin(listener::open(broker, newcomer, entrance)).await,
    };
    let Ready { stream, arrival, guests, certificates } = match ready {
        Ok(ready) => ready,
        Err(reason) => {
            if reason == DISPLACED {
                tracing::info!("closed a connection from {peer}: {GAVE_WAY}");
            }
            return broker.count_end(reason);
        }
    };
    match stream {
        Opened::Tcp(stream) => serve_stream(broker, stream, certificates, arrival, guests).await,
        Opened::Tls(stream) => Box::pin(serve_stream(broker, stream, certificates, arrival, guests)).await,
        Opened::Other(stream) => Box::pin(serve_stream(broker, stream, certificates, arrival, guests)).await,
    }
}

/// The reason for a client that had to give way.
const GAVE_WAY: &str = "its client was not admitted yet, and others need its place";

/// Serves a connection of MQTT over any stream.
async fn serve_stream<I: Inbox, S: Stream>(
    broker: &Arc<Broker<I>>,
    stream: S,
    certificates: Vec<Vec<u8>>,
    arrival: Arrival,
    guests: Guests,
) {
    let connect_timeout = broker.connect_timeout();
    // Boxed, so that the connection does not hold the memory of the handshake for the rest of its
    // life.
    let opening = Box::pin(async {
        let displaced = guests.displaced();
        let opening = handshake::open(broker, stream, certificates, arrival, guests);
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
                tracing::info!("closed a connection from {}: {GAVE_WAY}", arrival.peer);
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
