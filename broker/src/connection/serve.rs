//! A connection from its acceptance to its end, plain or encrypted.
//!
//! A connection lives much longer than its opening: that is a future of its own, which is freed.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use door::{Identity, Inbox};
use tls::ServerStream;
use tokio::io::DuplexStream;
use tokio::net::TcpStream;

use super::admission::Proof;
use super::end::End;
use super::{Connection, DISPLACED, Stream, handshake};
use crate::Broker;
use crate::listener::{self, Arrival, Duplex, Entrance, Guests, Newcomer, Opened, Ready};

/// A connection whose client is admitted. Its task holds nothing else of it: a task is as large as
/// the largest of what it ever does.
pub(crate) enum Admitted<I: Inbox> {
    Tcp(Box<Connection<I, TcpStream>>),
    Tls(Box<Connection<I, Box<ServerStream>>>),
    Other(Box<Connection<I, Box<dyn Duplex>>>),
}

impl<I: Inbox> Admitted<I> {
    /// Serves the connection until it ends.
    pub(crate) async fn serve(self) {
        match self {
            Self::Tcp(connection) => connection.serve().await,
            Self::Tls(connection) => connection.serve().await,
            Self::Other(connection) => connection.serve().await,
        }
    }
}

/// Opens an accepted connection. None when it has ended before its client was admitted, which is
/// logged and counted.
pub(crate) async fn open<I: Inbox>(
    broker: Arc<Broker<I>>,
    newcomer: Newcomer,
    entrance: Arc<Entrance>,
) -> Option<Admitted<I>> {
    let (broker, entrance) = (&broker, &*entrance);
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
            broker.count_end(reason);
            return None;
        }
    };
    let proof = Proof::Certificates(certificates);
    match stream {
        Opened::Tcp(stream) => admit(broker, stream, proof, (arrival, origin), guests).await.map(Admitted::Tcp),
        Opened::Tls(stream) => {
            Box::pin(admit(broker, stream, proof, (arrival, origin), guests)).await.map(Admitted::Tls)
        }
        Opened::Other(stream) => {
            Box::pin(admit(broker, stream, proof, (arrival, origin), guests)).await.map(Admitted::Other)
        }
    }
}

/// As [`open`], over a stream in memory: for a client inside of this process, whose identity is
/// given, or for any other one.
pub(crate) async fn open_in_memory<I: Inbox>(
    broker: Arc<Broker<I>>,
    stream: DuplexStream,
    identity: Option<Identity>,
    guests: Guests,
) -> Option<Admitted<I>> {
    let arrival = Arrival {
        peer: listener::THIS_MACHINE,
        early: None,
        max_keep_alive_secs: None,
        stream_bytes: 0,
        is_internal: identity.is_some(),
    };
    let stream: Box<dyn Duplex> = Box::new(stream);
    let origin = ("internal".into(), Instant::now());
    let proof = identity.map_or_else(|| Proof::Certificates(Vec::new()), Proof::Internal);
    admit(&broker, stream, proof, (arrival, origin), guests).await.map(Admitted::Other)
}

/// Name of the listener of a connection, and the time at which it was accepted.
type Origin = (Arc<str>, Instant);

/// The reason for a client that had to give way.
const GAVE_WAY: &str = "its client was not admitted yet, and others need its place";

/// Admits the client of a stream, within the time that it has for that.
async fn admit<I: Inbox, S: Stream>(
    broker: &Arc<Broker<I>>,
    stream: S,
    proof: Proof,
    (arrival, (listener, accepted)): (Arrival, Origin),
    guests: Guests,
) -> Option<Box<Connection<I, S>>> {
    let displaced = guests.displaced();
    let opening = handshake::open(broker, stream, proof, (arrival, listener), guests);
    let opened = tokio::select! {
        opened = tokio::time::timeout(broker.connect_timeout(), opening) => opened.unwrap_or(Err("connect_timeout")),
        () = displaced => Err(DISPLACED),
        () = broker.stopping.cancelled() => Err("shut_down"),
    };
    match opened {
        Ok(connection) => {
            broker.metrics.connect_time.observe(accepted.elapsed().as_secs_f64());
            Some(connection)
        }
        Err(reason) => {
            if reason == DISPLACED {
                tracing::info!("closed a connection from {}: {GAVE_WAY}", arrival.peer);
            }
            broker.count_end(reason);
            None
        }
    }
}

impl<I: Inbox, S: Stream> Connection<I, S> {
    /// Serves the connection until it ends. One function, as each one that it called would keep its
    /// arguments besides.
    async fn serve(mut self: Box<Self>) {
        let broker = Arc::clone(&self.broker);
        let mut has_state = self.before.is_some();
        // Boxed, as it is rare.
        if has_state && let Some(end) = Box::pin(self.settle_in_time()).await {
            return Box::pin(self.finish(end)).await;
        }
        let end = {
            let mut abandoned = pin!(broker.abandon.cancelled());
            loop {
                // Another one after each authentication. Boxed, as not every connection has one.
                let mut revoked = self.ended.take().map(|ended| Box::pin(ended.cancelled_owned()));
                let end = poll_fn(|cx| {
                    // A client whose credential was revoked is not read again.
                    if revoked.as_mut().is_some_and(|revoked| revoked.as_mut().poll(cx).is_ready()) {
                        return Poll::Ready(Some(End::Revoked));
                    }
                    if !std::mem::replace(&mut has_state, true) {
                        self.keep_state();
                    }
                    match self.poll(cx) {
                        Poll::Pending => abandoned.as_mut().poll(cx).map(|()| Some(End::ShutDown)),
                        ended => ended,
                    }
                });
                if let Some(end) = end.await {
                    break end;
                }
            }
        };
        Box::pin(self.finish(end)).await;
    }

    /// Does what comes before the CONNACK. Returns the end of a connection that has to end
    /// meanwhile.
    async fn settle_in_time(&mut self) -> Option<End> {
        let (broker, ended) = (Arc::clone(&self.broker), self.ended.clone());
        let revoked = async {
            match &ended {
                Some(ended) => ended.cancelled().await,
                None => std::future::pending().await,
            }
        };
        let settled = async {
            if let Some(before) = self.before.take() {
                self.settle(*before).await;
            }
        };
        tokio::select! {
            biased;
            () = revoked => Some(End::Revoked),
            () = settled => None,
            () = broker.abandon.cancelled() => Some(End::ShutDown),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Context;

    use door::{Failed, Intake, Message, Retained, Sender, Ticket, Verdict};

    use super::*;

    /// An intake as large as that of the server.
    struct Nothing(#[expect(dead_code, reason = "its size counts")] [usize; 2]);

    impl Inbox for Nothing {
        type Intake = Self;

        fn open(&self, _sender: &Sender) -> Self {
            Self([0; 2])
        }
    }

    impl Intake for Nothing {
        fn take(&mut self, _message: &Message<'_>) -> Verdict {
            Verdict::Plain
        }

        fn retain(&mut self, _message: &Retained<'_>) {}

        fn poll_submit(&mut self, _cx: &mut Context<'_>) -> Poll<Result<Ticket, Failed>> {
            Poll::Ready(Ok(Ticket(1)))
        }

        fn durable(&self) -> Result<Ticket, Failed> {
            Ok(Ticket(1))
        }
    }

    fn size_of_future<A, F: Future>(_: impl Fn(A) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_connection_has_the_size_that_it_had() {
        // The next sizes of the allocator are 896 and 640 bytes (docs/adr/0016). A task of 512
        // bytes has 120 bytes besides its future.
        assert!(size_of::<Connection<Nothing, TcpStream>>() <= 768);
        assert!(size_of_future(Admitted::<Nothing>::serve) <= 392);
        assert!(size_of::<crate::session::Session>() + 2 * size_of::<usize>() <= 640);
    }
}
