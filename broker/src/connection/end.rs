//! Closing a connection.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use model::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::admission::{self, Refused};
use super::answer::{self, Answer, Pending, Wait};
use super::{Connection, Stream};
use crate::Broker;
use crate::codec::{DecodeError, Version, encode, reason};
use crate::drain::{Cause, MOVED};
use crate::fleet::Refusal;
use crate::session::Lost;
use crate::{pending_wills, websocket};
use door::quota::Quota;
use door::{Failed, Inbox, Intake};

/// Time to send a peer the reason.
const FAREWELL: Duration = Duration::from_secs(1);
/// Time for the last messages of a client to become durable. They are not acknowledged: the client
/// sends them again.
const STORE: Duration = Duration::from_secs(10);

/// The reason why a connection ends.
#[derive(Debug)]
pub(super) enum End {
    /// DISCONNECT.
    Client,
    /// The peer closed the socket.
    Closed,
    /// The socket broke.
    Io(io::Error),
    /// The peer violated the protocol.
    Decode(DecodeError),
    /// Nothing arrived for one and a half keep-alives.
    KeepAlive,
    /// A packet did not arrive whole in time.
    Unfinished,
    /// There is no memory for an unfinished packet.
    Memory(Full),
    /// The client has connected again.
    TakenOver,
    /// The credential was revoked or has expired.
    Revoked,
    /// An operator has closed it, and ended the session if so asked.
    Kicked {
        /// The session ends, too.
        ends_session: bool,
    },
    /// The token that it was opened with has expired.
    Expired,
    /// The next token of the client was refused.
    Refused(Refused),
    /// A message to this topic was denied, and the protocol version has no code for it.
    Denied(Box<str>),
    /// A message to this topic is beyond a limit of the tenant, and the protocol version has no
    /// code for it.
    OverQuota(Box<str>, Quota),
    /// The session has lost messages.
    Lost(Lost),
    /// The process is stopping.
    ShutDown,
    /// The client is to connect to another process: the process stops, an operator asks for it, or
    /// did so a moment ago.
    Moved(Option<Cause>),
    /// The log has failed.
    Failed(Failed),
    /// An answer is larger than the client accepts.
    Oversize,
    /// A QoS 2 message that was sent again had not become durable at the connection that received
    /// it first; or the store of the fleet's sessions has failed to make a change.
    Unstored,
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotOwned => Self::TakenOver,
            Refusal::Fault => Self::Unstored,
        }
    }
}

impl From<DecodeError> for End {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error)
    }
}

impl End {
    /// The end after a read that failed: frames of WebSocket may break their rules.
    pub(super) fn of_read(error: io::Error) -> Self {
        match websocket::violation(&error) {
            Some(violation) => Self::Decode(DecodeError::protocol(violation.what)),
            None => Self::Io(error),
        }
    }

    /// Metric label.
    fn label(&self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Closed => "closed",
            Self::Io(_) => "io",
            Self::Decode(error) => match error.reason {
                reason::MALFORMED => "malformed",
                reason::RECEIVE_MAXIMUM_EXCEEDED => "receive_maximum",
                reason::PACKET_TOO_LARGE => "packet_too_large",
                reason::TOPIC_ALIAS_INVALID => "topic_alias",
                reason::BAD_AUTHENTICATION_METHOD => "authentication_method",
                _ => "protocol",
            },
            Self::KeepAlive => "keep_alive",
            Self::Unfinished => "packet_timeout",
            Self::Memory(_) => "memory",
            Self::TakenOver => "taken_over",
            Self::Revoked => "revoked",
            Self::Kicked { .. } => "kicked",
            Self::Expired => "token_expired",
            Self::Refused(_) => "token_refused",
            Self::Denied(_) => "publish_denied",
            Self::OverQuota(..) => "over_quota",
            Self::Lost(Lost::Queue) => "queue_full",
            Self::Lost(Lost::Memory) => "queue_memory",
            Self::ShutDown => "shut_down",
            Self::Moved(_) => MOVED,
            Self::Failed(_) => "log_failed",
            Self::Oversize => "too_large_for_client",
            Self::Unstored => "unstored",
        }
    }

    /// The reason code and the reason string for an MQTT 5 client.
    fn farewell(&self) -> Option<(u8, String)> {
        match self {
            Self::Client | Self::Closed | Self::Io(_) => None,
            Self::Decode(error) => Some((error.reason, error.what.to_owned())),
            Self::KeepAlive => Some((reason::KEEP_ALIVE_TIMEOUT, "no packet arrived for 1.5 keep-alives".into())),
            Self::Unfinished => Some((
                reason::IMPLEMENTATION_SPECIFIC,
                "a packet did not arrive whole in time (mqtt.packet_timeout_ms)".into(),
            )),
            Self::Memory(full) => Some((reason::QUOTA_EXCEEDED, full.to_string())),
            Self::TakenOver => Some((reason::SESSION_TAKEN_OVER, "the client has connected again".into())),
            Self::Revoked => Some((reason::ADMINISTRATIVE_ACTION, admission::REVOKED.into())),
            Self::Kicked { ends_session } => Some((reason::ADMINISTRATIVE_ACTION, kicked(*ends_session).into())),
            Self::Expired => Some((reason::NOT_AUTHORIZED, admission::EXPIRED.into())),
            Self::Refused(refused) => Some((refused.farewell(), refused.reason.as_ref().to_owned())),
            Self::Denied(_) => Some((reason::NOT_AUTHORIZED, answer::DENIED.into())),
            Self::OverQuota(_, quota) => Some((reason::QUOTA_EXCEEDED, answer::over(*quota).into())),
            Self::Lost(lost) => Some((reason::QUOTA_EXCEEDED, lost.reason().into())),
            Self::ShutDown | Self::Moved(Some(Cause::Stop)) => {
                Some((reason::SERVER_SHUTTING_DOWN, "the server is shutting down".into()))
            }
            Self::Moved(_) => Some((
                reason::ADMINISTRATIVE_ACTION,
                "the operator moves connections to other servers: connect again".into(),
            )),
            Self::Failed(error) => Some((reason::IMPLEMENTATION_SPECIFIC, error.to_string())),
            Self::Oversize => Some((
                reason::PACKET_TOO_LARGE,
                "an answer is larger than the maximum packet size of the client".into(),
            )),
            Self::Unstored => {
                Some((reason::IMPLEMENTATION_SPECIFIC, "a packet was not stored: connect and send it again".into()))
            }
        }
    }
}

/// The reason for a client that an operator has disconnected.
fn kicked(ends_session: bool) -> &'static str {
    if ends_session {
        "an operator has closed the connection and ended the session"
    } else {
        "an operator has closed the connection"
    }
}

impl<I: Inbox, S: Stream> Connection<I, S> {
    /// Sends the reason, stores the last messages, and leaves the will message and the session.
    pub(super) async fn finish(mut self: Box<Self>, end: End) {
        self.broker.count_end(end.label());
        // Room for a message that is not handled goes to others.
        self.pace = None;
        match &end {
            End::Decode(error) => {
                tracing::info!("closed client {} at {}: {}", self.sender.client, self.sender.peer, error.what);
            }
            End::Io(error) => tracing::debug!("connection of client {} failed: {error}", self.sender.client),
            End::Memory(full) => tracing::warn!("closed client {} at {}: {full}", self.sender.client, self.sender.peer),
            End::Revoked => self.revoke(),
            End::Kicked { ends_session } => self.end_kicked(*ends_session),
            // Acknowledges what is durable by now; a log that has failed acknowledges nothing.
            End::Expired => drop(self.answer()),
            End::Refused(refused) => {
                self.broker.metrics.denied("authenticate", refused.label).inc();
                tracing::info!(
                    client = %self.sender.client, peer = %self.sender.peer,
                    "closed a client whose next token was refused: {}", refused.reason
                );
                self.answer().ok();
            }
            End::Denied(topic) => tracing::info!(
                client = %self.sender.client, peer = %self.sender.peer, topic = %topic,
                "closed a client of MQTT 3.1.1, which has no other answer: {}", answer::DENIED
            ),
            End::OverQuota(topic, quota) => tracing::info!(
                client = %self.sender.client, peer = %self.sender.peer, topic = %topic,
                "closed a client of MQTT 3.1.1, which has no other answer: {}", answer::over(*quota)
            ),
            End::Lost(lost) => self.end_lost(*lost),
            End::Failed(error) => tracing::debug!("closed client {}: {error}", self.sender.client),
            _ => {}
        }
        if matches!(end, End::Client) && self.ends_session() {
            self.staged |= self.intake.end_session();
        }
        let ends = self.drop_session();
        if self.staged && !matches!(end, End::Failed(_)) {
            // In the log before all that the client's next connection brings; a log that is full
            // does not hold that one up.
            poll_fn(|cx| Poll::Ready(self.submit(cx).ok())).await;
        }
        self.link.arrival.begin();
        if !self.has_unrouted() {
            self.link.settle();
        }
        self.session.hand_over(&self.link, true);
        let stores_first = ends && matches!(end, End::Client);
        if stores_first {
            // The client may rely on the end of its session when the connection is closed.
            self.store_rest().await;
        }
        let mut farewell = end.farewell();
        let is_referred =
            matches!(end, End::ShutDown | End::Moved(_)) && !self.broker.config.server_reference.is_empty();
        if is_referred {
            farewell = farewell.map(|(_, text)| (reason::USE_ANOTHER_SERVER, text));
        }
        let sent = farewell.is_some();
        // The peer may be gone, or not read.
        tokio::time::timeout(FAREWELL, self.send_last(farewell)).await.ok();
        if !stores_first && !matches!(end, End::Failed(_)) {
            self.store_rest().await;
        }
        self.forget_unstored();
        self.link.settle();
        if let Some(mut settled) = self.broker.leave_will(&self.tenant, &self.session, &self.link) {
            // Until then the next connection of the client finds the session, and waits, too.
            while settled.changed().await.is_ok() {}
        }
        // Before its session is free: the client's next connection is not counted beside this one.
        self.permit = None;
        self.broker.leave_session(&self.tenant, &self.session, &self.link);
        if let Some(fleet) = self.broker.fleet.as_ref().filter(|_| self.has_unstored_subscriptions()) {
            fleet.bus.renew_routes();
        }
        if sent {
            self.drain_socket().await;
        }
    }

    /// Acknowledges what is durable by now, and leaves no session. The will message knows that the
    /// credential has ended.
    fn revoke(&mut self) {
        tracing::info!(
            client = %self.sender.client, peer = %self.sender.peer, "closed a client: {}", admission::REVOKED
        );
        // A log that has failed acknowledges nothing.
        self.answer().ok();
        if let Some(last) = self.before.take().and_then(|before| before.last) {
            self.broker.forget_will(last);
        }
        if let Some(mut state) = self.session.owned_by(&self.link) {
            state.expiry_secs = 0;
        }
    }

    /// Leaves no session: the next connection of the client learns of the loss by that.
    fn end_lost(&mut self, lost: Lost) {
        tracing::warn!(
            tenant = %self.sender.tenant, client = %self.sender.client, peer = %self.sender.peer,
            "closed a client and ended its session: {}", lost.reason()
        );
        self.answer().ok();
        if let Some(mut state) = self.session.owned_by(&self.link) {
            state.expiry_secs = 0;
        }
    }

    /// Acknowledges what is durable by now, and leaves no session if the operator has asked for
    /// that.
    fn end_kicked(&mut self, ends_session: bool) {
        tracing::info!(
            tenant = %self.sender.tenant, client = %self.sender.client, peer = %self.sender.peer,
            "closed a client: {}", kicked(ends_session)
        );
        self.answer().ok();
        if ends_session && let Some(mut state) = self.session.owned_by(&self.link) {
            state.expiry_secs = 0;
        }
    }

    /// Stages the end of a session that has lasted and ends now. False for others.
    fn drop_session(&mut self) -> bool {
        let ended = self.session.owned_by(&self.link).filter(|state| state.expiry_secs == 0);
        let ledger = ended.and_then(|state| state.ledger.clone()).filter(|ledger| ledger.is_in_log());
        let Some(ledger) = ledger else { return false };
        ledger.drop_session(&mut self.intake);
        self.staged = true;
        self.owe(Pending::answer(Wait::Submit, 0, Answer::Nothing));
        true
    }

    /// No longer keeps the will message.
    pub(super) fn drop_will(&mut self) -> Result<(), End> {
        let last = self.state()?.last_will.take();
        if let Some(last) = last {
            self.staged |= pending_wills::clear(&mut self.intake, &last);
            self.broker.end_stored_will(&last);
        }
        Ok(())
    }

    /// True when the client keeps nothing for its next connection. A client of 3.1.1 does not know
    /// how long its session is kept here.
    fn ends_session(&self) -> bool {
        match self.version {
            Version::V4 => self.clean,
            Version::V5 => self.session.owned_by(&self.link).is_some_and(|state| state.expiry_secs == 0),
        }
    }

    /// Writes pending bytes and the reason, and closes this side of the socket.
    async fn send_last(&mut self, farewell: Option<(u8, String)>) {
        self.gone = true;
        if let Some((code, text)) = farewell {
            let text = self.problem_information.then_some(text);
            let version = self.version;
            // One that is too large also without its text is not sent.
            let broker = Arc::clone(&self.broker);
            let server = (code == reason::USE_ANOTHER_SERVER).then_some(&*broker.config.server_reference);
            let written = self.reply(text.as_deref(), |out, text| encode::disconnect(out, version, code, text, server));
            self.broker.metrics.replies.inc_by(written.is_ok().into());
            let rest = self.out.split_off(self.written);
            if let Err(error) = self.stream.write_all(&rest).await {
                tracing::debug!("cannot send client {} the reason: {error}", self.sender.client);
            }
        }
        if let Err(error) = self.stream.shutdown().await {
            tracing::debug!("cannot close the connection of client {}: {error}", self.sender.client);
        }
    }

    /// Submits staged messages and routes durable ones: a client may leave right after it has
    /// published.
    async fn store_rest(&mut self) {
        // These are acknowledged by the client's next connection.
        // None of them is routed: those have no such wait.
        self.pending.retain(|p| p.wait != Wait::Elsewhere);
        let broker = Arc::clone(&self.broker);
        tokio::select! {
            stored = tokio::time::timeout(STORE, poll_fn(|cx| self.poll_rest(cx))) => {
                if stored.is_err() {
                    tracing::warn!("the last messages of client {} did not become durable within {STORE:?}", self.sender.client);
                }
            }
            () = broker.abandon.cancelled() => {}
        }
    }

    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.staged && self.submit(cx).is_err() || self.answer().is_err() {
                return Poll::Ready(());
            }
            // A retained message may have been staged once more.
            if !self.staged || self.full {
                break;
            }
        }
        // The client's next connection waits for this one only.
        let is_first = self.await_earlier(cx);
        if self.staged || !self.pending.is_empty() || !is_first { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Releases the packet ids of QoS 2 messages that did not become durable: the client sends them
    /// again. Those that were routed are durable in the log, and wait for the store of the fleet
    /// alone: sessions get them when it is back, unless it has refused them.
    fn forget_unstored(&mut self) {
        let is_refused = self.link.refusal().is_some();
        for (at, pending) in self.pending.iter().enumerate() {
            if let Answer::Pubrec(_) = pending.answer {
                let keep = at < self.routed && !is_refused;
                self.session.end_receipt(pending.packet_id, self.number, keep, &self.link);
            }
        }
    }

    /// True when subscriptions of a session of the fleet may be others than those in the store.
    fn has_unstored_subscriptions(&self) -> bool {
        self.pending.iter().any(|pending| matches!(pending.answer, Answer::Packet(_)))
    }

    /// Reads on for a moment: closing with unread bytes would reset the connection before the peer
    /// has read the reason.
    async fn drain_socket(&mut self) {
        let mut discarded = [0; 512];
        let drained = async { while self.stream.read(&mut discarded).await.is_ok_and(|n| n > 0) {} };
        tokio::select! {
            _ = tokio::time::timeout(FAREWELL, drained) => {}
            () = self.broker.abandon.cancelled() => {}
        }
    }
}

impl<I: Inbox> Broker<I> {
    pub(crate) fn count_end(&self, reason: &'static str) {
        self.metrics.disconnects(reason).inc();
    }
}
