//! Messages, borrowed from the buffer that a door received them in.

use model::trace::Carried;

/// A message from a sender.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// Topic name, checked. A door without topics makes one, for example from the path of a
    /// request.
    pub topic: &'a str,
    /// The payload as sent.
    pub payload: &'a [u8],
    /// How it was sent.
    pub delivery: Delivery<'a>,
}

/// How a message was sent, as far as it decides what becomes of it. The default is a message that
/// is sent once.
#[derive(Debug, Clone, Copy, Default)]
pub struct Delivery<'a> {
    /// Number under which the sender sends the same message again until it is acknowledged: a
    /// packet id, a message id, a frame counter, the hash of an idempotency key. None for a message
    /// that is never sent again: two equal ones are two.
    pub id: Option<u64>,
    /// The message may have been sent before, so the log looks for it among the last ones of its
    /// sender.
    pub resent: bool,
    /// A message with this id came from the same connection of the sender and is not acknowledged
    /// yet. A message that was acknowledged over a connection is not sent again over it.
    pub in_flight: bool,
    /// The sender asks to keep the message for later subscribers.
    pub retain: bool,
    /// Trace context that came with the message; a door reads it only when [`Intake::is_traced`]
    /// asks for it.
    ///
    /// [`Intake::is_traced`]: crate::Intake::is_traced
    pub trace: Option<Carried<'a>>,
}

/// A retained message, kept for later subscribers across restarts.
#[derive(Debug, Clone, Copy)]
pub struct Retained<'a> {
    /// Topic name.
    pub topic: &'a str,
    /// The payload; an empty one clears the topic.
    pub payload: &'a [u8],
    /// Quality of service for subscribers.
    pub qos: u8,
    /// In the encoding of the door, which alone reads them.
    pub properties: &'a [u8],
}
