//! The outcome of a message without a connection: for `weir map`, and for dead letters that are
//! replayed.

use std::sync::Arc;

use buffer::frame::{FrameBuilder, Record, Staged};
use door::{Delivery, Message};
use model::{Nanos, Reading};

use crate::reader::{Outcome, PayloadReader};
use crate::rules::Rules;

/// The outcome of a message.
#[derive(Debug, Clone, PartialEq)]
pub enum MapOutcome {
    /// No route matches it.
    Plain,
    /// Readings; empty when the message has no value.
    Readings(Vec<Reading>),
    /// The message cannot be read: the reason, with the position.
    Refused(String),
}

/// A message that comes from no connection: from the dead letters, or from an operator.
#[derive(Debug, Clone, Copy)]
pub struct StoredMessage<'a> {
    /// Tenant of the sender.
    pub tenant: &'a str,
    /// Client id of the sender.
    pub client: &'a str,
    /// Topic name.
    pub topic: &'a str,
    /// The payload as sent.
    pub payload: &'a [u8],
    /// Receive time.
    pub received: Nanos,
    /// It has the retain flag.
    pub retain: bool,
    /// The device of an authenticated sender: readings of others are refused.
    pub device: Option<&'a str>,
}

/// Reads a message with these rules, or the rules of a [`crate::TelemetryInbox`]. Nothing is stored
/// or counted.
pub fn map(rules: &impl AsRef<Rules>, message: &StoredMessage<'_>) -> MapOutcome {
    let mut staged = match replay(rules, message) {
        Err(outcome) => return outcome,
        Ok(staged) => staged,
    };
    let mut builder = FrameBuilder::default();
    builder.absorb(&mut staged);
    let frame = builder.build(0, 0, 0);
    let readings = frame.records().filter_map(|(_, record)| match record {
        Record::Reading(reading) => Some(reading.to_reading()),
        _ => None,
    });
    MapOutcome::Readings(readings.collect())
}

/// Reads a message again with the present rules, under its old receive time. Its records are marked
/// as resent and have the same identity every time, so that a second replay is recognised in the
/// log.
///
/// # Errors
/// The outcome without records: [`MapOutcome::Plain`] or [`MapOutcome::Refused`].
pub fn replay(rules: &impl AsRef<Rules>, message: &StoredMessage<'_>) -> Result<Staged, MapOutcome> {
    let (tenant, client) = (Arc::from(message.tenant), Arc::from(message.client));
    let device = message.device.map(Arc::from);
    let mut reader = PayloadReader::new(rules.as_ref(), &tenant, &client, device.as_ref());
    let delivery = Delivery { resent: true, retain: message.retain, ..Delivery::default() };
    let sent = Message { topic: message.topic, payload: message.payload, delivery };
    match reader.read(&sent, message.received) {
        Outcome::Plain => Err(MapOutcome::Plain),
        Outcome::Staged(_) => Ok(std::mem::take(&mut reader.staged)),
        Outcome::Refused(refusal) | Outcome::Denied(refusal) => Err(MapOutcome::Refused(refusal.reason)),
        Outcome::Held => Err(MapOutcome::Refused(model::IN_QUARANTINE.to_owned())),
        Outcome::OverQuota(exceeded) => Err(MapOutcome::Refused(exceeded.to_string())),
    }
}
