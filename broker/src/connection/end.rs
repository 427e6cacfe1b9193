//! How connections end.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::answer::{Answer, Wait};
use super::{Connection, Stream};
use crate::Broker;
use crate::codec::{DecodeError, encode, reason};
use crate::inbox::{Failed, Inbox};
use crate::metrics::Reason;

/// Time to tell a peer why.
const FAREWELL: Duration = Duration::from_secs(1);
/// Time for what a client left behind to become durable. It was not acknowledged: the client sends it again.
const SETTLE: Duration = Duration::from_secs(10);

/// Why a connection ends.
#[derive(Debug)]
pub(super) enum End {
    /// DISCONNECT; the will stays with reason 0x04.
    Client { with_will: bool },
    /// The peer closed without a word.
    Closed,
    /// The socket broke.
    Io(io::Error),
    /// The peer broke the rules.
    Decode(DecodeError),
    /// Nothing came for too long.
    KeepAlive,
    /// The client has connected again.
    TakenOver,
    /// The process stops.
    ShutDown,
    /// The log takes nothing any more.
    Failed(Failed),
    /// A QoS 2 message that was sent again had not become durable where it came by first.
    Unstored,
}

impl From<DecodeError> for End {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error)
    }
}

impl End {
    /// Metric label.
    fn label(&self) -> &'static str {
        match self {
            Self::Client { .. } => "client",
            Self::Closed => "closed",
            Self::Io(_) => "io",
            Self::Decode(error) => match error.reason {
                reason::MALFORMED => "malformed",
                reason::RECEIVE_MAXIMUM_EXCEEDED => "receive_maximum",
                reason::PACKET_TOO_LARGE => "packet_too_large",
                reason::TOPIC_NAME_INVALID => "topic_name",
                reason::TOPIC_FILTER_INVALID => "topic_filter",
                reason::TOPIC_ALIAS_INVALID => "topic_alias",
                _ => "protocol",
            },
            Self::KeepAlive => "keep_alive",
            Self::TakenOver => "taken_over",
            Self::ShutDown => "shut_down",
            Self::Failed(_) => "log_failed",
            Self::Unstored => "unstored",
        }
    }

    /// What an MQTT 5 client is told.
    fn farewell(&self) -> Option<(u8, String)> {
        match self {
            Self::Client { .. } | Self::Closed | Self::Io(_) => None,
            Self::Decode(error) => Some((error.reason, error.what.to_owned())),
            Self::KeepAlive => Some((reason::KEEP_ALIVE_TIMEOUT, "nothing came for 1.5 keep-alives".into())),
            Self::TakenOver => Some((reason::SESSION_TAKEN_OVER, "the client has connected again".into())),
            Self::ShutDown => Some((reason::SERVER_SHUTTING_DOWN, "the server stops".into())),
            Self::Failed(error) => Some((reason::IMPLEMENTATION_SPECIFIC, error.to_string())),
            Self::Unstored => {
                Some((reason::IMPLEMENTATION_SPECIFIC, "a message was not stored: connect and send it again".into()))
            }
        }
    }
}

impl<I: Inbox, S: Stream> Connection<I, S> {
    /// Says farewell, sees to what the client left behind, leaves the will and the session.
    pub(super) async fn finish(mut self, end: End) {
        self.broker.count_end(end.label());
        match &end {
            End::Decode(error) => {
                tracing::info!("closed client {} at {}: {}", self.client.id, self.client.peer, error.what);
            }
            End::Io(error) => tracing::debug!("connection of client {} broke: {error}", self.client.id),
            End::Failed(error) => tracing::debug!("closed client {}: {error}", self.client.id),
            _ => {}
        }
        let farewell = end.farewell();
        let listens = farewell.is_some();
        // The peer may be gone, or not listen: that is its own affair.
        tokio::time::timeout(FAREWELL, self.say(farewell)).await.ok();
        if !matches!(end, End::Failed(_)) {
            self.settle().await;
        }
        self.forget_unstored();
        if !matches!(end, End::Client { with_will: false })
            && let Some(will) = self.will.take()
        {
            self.broker.leave_will(will, self.client.clone(), &self.session, &self.link);
        }
        self.broker.leave_session(&self.session, &self.link);
        if listens {
            self.hang_up().await;
        }
    }

    /// Writes what waits and the reason, and closes our side.
    async fn say(&mut self, farewell: Option<(u8, String)>) {
        self.gone = true;
        if let Some((code, text)) = farewell {
            let text = self.problem_information.then_some(text);
            encode::disconnect(&mut self.out, self.version, code, text.as_deref());
            let rest = self.out.split_off(self.written);
            if let Err(error) = self.stream.write_all(&rest).await {
                tracing::debug!("say farewell to client {}: {error}", self.client.id);
            }
        }
        if let Err(error) = self.stream.shutdown().await {
            tracing::debug!("close the connection of client {}: {error}", self.client.id);
        }
    }

    /// Hands what is staged to the log, and to subscribers what was sent to them: a client may leave right after it has published.
    async fn settle(&mut self) {
        // Those are for the client's next connection to answer.
        self.pending.retain(|p| p.wait != Wait::Elsewhere);
        let broker = std::sync::Arc::clone(&self.broker);
        tokio::select! {
            settled = tokio::time::timeout(SETTLE, poll_fn(|cx| self.poll_settle(cx))) => {
                if settled.is_err() {
                    tracing::warn!("what client {} sent last did not become durable within {SETTLE:?}", self.client.id);
                }
            }
            () = broker.abandon.cancelled() => {}
        }
    }

    fn poll_settle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.staged && self.submit(cx).is_err() || self.answer().is_err() {
            return Poll::Ready(());
        }
        if self.staged || !self.pending.is_empty() { Poll::Pending } else { Poll::Ready(()) }
    }

    /// QoS 2 messages that did not become durable are not remembered: the client sends them again.
    fn forget_unstored(&mut self) {
        for pending in self.pending.iter().filter(|p| matches!(p.answer, Answer::Pubrec(_))) {
            self.session.settle(pending.packet_id, self.number, false, &self.link);
        }
    }

    /// Reads on for a moment: closing with unread bytes would take from the peer what it was told last.
    async fn hang_up(&mut self) {
        let mut scrap = [0; 512];
        let drained = async { while self.stream.read(&mut scrap).await.is_ok_and(|n| n > 0) {} };
        tokio::select! {
            _ = tokio::time::timeout(FAREWELL, drained) => {}
            () = self.broker.abandon.cancelled() => {}
        }
    }
}

impl<I: Inbox> Broker<I> {
    pub(super) fn count_end(&self, reason: &'static str) {
        self.metrics.disconnects.get_or_create(&Reason { reason }).inc();
    }
}
