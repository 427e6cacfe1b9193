//! How connections end.

use std::io;
use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::Connection;
use super::answer::Answer;
use crate::Broker;
use crate::codec::{DecodeError, encode, reason};
use crate::inbox::{Failed, Inbox};
use crate::metrics::Reason;

/// Time to tell a peer why.
const FAREWELL: Duration = Duration::from_secs(1);

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
            Self::Decode(error) if error.reason == reason::RECEIVE_MAXIMUM_EXCEEDED => "receive_maximum",
            Self::Decode(error) if error.reason == reason::PACKET_TOO_LARGE => "packet_too_large",
            Self::Decode(_) => "protocol",
            Self::KeepAlive => "keep_alive",
            Self::TakenOver => "taken_over",
            Self::ShutDown => "shut_down",
            Self::Failed(_) => "log_failed",
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
        }
    }
}

impl<I: Inbox> Connection<I> {
    /// Says farewell, leaves the will and the session.
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
        if let Some((code, text)) = end.farewell() {
            let text = self.problem_information.then_some(text);
            encode::disconnect(&mut self.out, self.version, code, text.as_deref());
            let rest = self.out.split_off(self.written);
            // The peer may be gone; it was told if it listens.
            tokio::time::timeout(FAREWELL, self.stream.write_all(&rest)).await.ok();
        }
        self.forget_unstored();
        let expiry = self.session.state.lock().expiry_secs;
        if !matches!(end, End::Client { with_will: false })
            && let Some(will) = self.will.take()
        {
            self.broker.leave_will(will, self.client.clone(), self.number, expiry);
        }
        self.broker.leave_session(&self.session, self.number);
    }

    /// QoS 2 messages that did not become durable are not remembered: the client sends them again.
    fn forget_unstored(&mut self) {
        let mut state = self.session.state.lock();
        for pending in &self.pending {
            if matches!(pending.answer, Answer::Pubrec(_)) {
                state.unreleased.remove(&pending.packet_id);
            }
        }
    }
}

impl<I: Inbox> Broker<I> {
    pub(super) fn count_end(&self, reason: &'static str) {
        self.metrics.disconnects.get_or_create(&Reason { reason }).inc();
    }
}
