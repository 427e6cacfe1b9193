//! A connection from its acceptance to its end, plain or encrypted.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Instant;

use door::{Identity, Inbox};
use tokio::io::DuplexStream;

use super::admission::Proof;
use super::end::End;
use super::{DISPLACED, Stream, handshake};
use crate::Broker;
use crate::listener::{self, Arrival, Duplex, Entrance, Guests, Newcomer, Opened, Ready};

/// Serves an accepted connection until it ends.
pub(crate) async fn serve<I: Inbox>(broker: &Arc<Broker<I>>, newcomer: Newcomer, entrance: &Entrance) {
    let origin = (entrance.listener(), Instant::now());
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
    let proof = Proof::Certificates(certificates);
    match stream {
        Opened::Tcp(stream) => serve_stream(broker, stream, proof, (arrival, origin), guests).await,
        Opened::Tls(stream) => Box::pin(serve_stream(broker, stream, proof, (arrival, origin), guests)).await,
        Opened::Other(stream) => Box::pin(serve_stream(broker, stream, proof, (arrival, origin), guests)).await,
    }
}

/// Serves a client inside of this process.
pub(crate) async fn serve_internal<I: Inbox>(
    broker: &Arc<Broker<I>>,
    stream: DuplexStream,
    identity: Identity,
    guests: Guests,
) {
    let arrival = Arrival {
        peer: listener::THIS_MACHINE,
        early: None,
        max_keep_alive_secs: None,
        stream_bytes: 0,
        is_internal: true,
    };
    let stream: Box<dyn Duplex> = Box::new(stream);
    let origin = ("internal".into(), Instant::now());
    serve_stream(broker, stream, Proof::Internal(identity), (arrival, origin), guests).await;
}

/// Name of the listener of a connection, and the time at which it was accepted.
type Origin = (Arc<str>, Instant);

/// The reason for a client that had to give way.
const GAVE_WAY: &str = "its client was not admitted yet, and others need its place";

/// Serves a connection of MQTT over any stream.
async fn serve_stream<I: Inbox, S: Stream>(
    broker: &Arc<Broker<I>>,
    stream: S,
    proof: Proof,
    (arrival, (listener, accepted)): (Arrival, Origin),
    guests: Guests,
) {
    let connect_timeout = broker.connect_timeout();
    // Boxed, so that the connection does not hold the memory of the handshake for the rest of its
    // life.
    let opening = Box::pin(async {
        let displaced = guests.displaced();
        let opening = handshake::open(broker, stream, proof, (arrival, listener), guests);
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
    broker.metrics.connect_time.observe(accepted.elapsed().as_secs_f64());
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
                    // Boxed, as it is rare.
                    let before = connection.before.take().map(Box::new);
                    match before {
                        Some(before) => Box::pin(connection.settle(*before)).await,
                        None => connection.keep_state(),
                    }
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
