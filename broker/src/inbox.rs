//! What the broker asks of whoever takes the messages.

use std::net::SocketAddr;
use std::task::{Context, Poll};

use std::sync::Arc;

use model::trace::Span;

/// An MQTT client as the broker knows it after CONNECT.
#[derive(Debug, Clone)]
pub struct Client {
    /// From the credential; `default` until there are credentials.
    pub tenant: Arc<str>,
    /// MQTT client id, given or assigned.
    pub id: Arc<str>,
    /// User name, when given.
    pub user: Option<Arc<str>>,
    /// Where it connects from.
    pub peer: SocketAddr,
    /// True for MQTT 5.
    pub v5: bool,
}

/// A PUBLISH, in place in the read buffer.
#[derive(Debug, Clone, Copy)]
pub struct Publish<'a> {
    /// Checked topic name, aliases resolved.
    pub topic: &'a str,
    /// As sent.
    pub payload: &'a [u8],
    /// 0, 1 or 2.
    pub qos: u8,
    /// May have been sent before.
    pub dup: bool,
    /// To be kept for later subscribers.
    pub retain: bool,
    /// Packet id; 0 at QoS 0.
    pub packet_id: u16,
    /// MQTT 5 properties as they came, without their length; empty for 3.1.1.
    pub properties: &'a [u8],
}

/// What became of a PUBLISH.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Telemetry: staged for the log.
    Staged,
    /// Telemetry that cannot be read: staged as a dead letter. MQTT 5 clients are told 0x99, once it is durable.
    Quarantined,
    /// Not telemetry: a plain message for subscribers.
    Plain,
}

/// A place in the order of durable appends; tickets of one intake never go down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Ticket(pub u64);

/// The log takes nothing any more: close without acknowledging.
#[derive(Debug, Clone, thiserror::Error)]
#[error("messages cannot be stored: {0}")]
pub struct Failed(pub Arc<str>);

/// Opens an [`Intake`] for each connection.
pub trait Inbox: Send + Sync + 'static {
    /// A connection's own side of the inbox.
    type Intake: Intake;

    /// For a client that has connected.
    fn open(&self, client: &Client) -> Self::Intake;
}

/// One connection's way into the log. Called by that connection's task only.
pub trait Intake: Send + 'static {
    /// Reads a PUBLISH and stages what it holds. Allocates nothing for a message of the shape of the one before.
    fn publish(&mut self, publish: &Publish<'_>) -> Verdict;

    /// The span of the message that was published last, when it is traced: who asks gives it back with [`Intake::answered`].
    fn traced(&mut self) -> Option<Box<Span>> {
        None
    }

    /// The message of this span was answered; at QoS 0, where nothing is answered, it is durable.
    fn answered(&mut self, span: Box<Span>) {
        drop(span);
    }

    /// Stages a retained message (an empty payload clears), so that it survives a restart.
    fn retain(&mut self, publish: &Publish<'_>);

    /// Hands everything staged to the log, as one step. `Ready` with the ticket to wait for; `Pending` when the log is
    /// full: the task is woken when there may be room, and reads nothing from its socket until then.
    ///
    /// # Errors
    /// [`Failed`].
    fn poll_submit(&mut self, cx: &mut Context<'_>) -> Poll<Result<Ticket, Failed>>;

    /// The highest ticket that is durable. The task that submitted is woken when this passes its last ticket.
    ///
    /// # Errors
    /// [`Failed`].
    fn durable(&self) -> Result<Ticket, Failed>;
}
