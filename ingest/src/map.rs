//! What a message would become, and dead letters read again.

use std::sync::Arc;

use broker::inbox::Publish;
use buffer::frame::{FrameBuilder, Record, Staged};
use model::{Nanos, Reading};

use crate::reader::{Outcome, Reader};
use crate::rules::Rules;

/// What a message becomes.
#[derive(Debug, Clone, PartialEq)]
pub enum MapOutcome {
    /// No route takes it.
    Plain,
    /// Readings; none when it holds no value.
    Readings(Vec<Reading>),
    /// It cannot be read: why and where.
    Refused(String),
}

/// A message from outside a connection.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// Whose.
    pub tenant: &'a str,
    /// MQTT client id of the sender.
    pub client: &'a str,
    /// Where it was published.
    pub topic: &'a str,
    /// As sent.
    pub payload: &'a [u8],
    /// When it was taken.
    pub received: Nanos,
}

/// What these rules, or the rules of a [`crate::Door`], make of a message. Nothing is stored or counted.
pub fn map(rules: &impl AsRef<Rules>, message: &Message<'_>) -> MapOutcome {
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

/// Reads a message again with the present rules, as received when it first was. Its records are marked as sent again and have
/// the same identity every time, so that a second replay is recognised in the log.
///
/// # Errors
/// The outcome, when there is nothing to stage: [`MapOutcome::Plain`], or [`MapOutcome::Refused`].
pub fn replay(rules: &impl AsRef<Rules>, message: &Message<'_>) -> Result<Staged, MapOutcome> {
    let mut reader = Reader::new(rules.as_ref(), &Arc::from(message.tenant), &Arc::from(message.client));
    let publish = Publish {
        topic: message.topic,
        payload: message.payload,
        qos: 0,
        dup: true,
        retain: false,
        packet_id: 0,
        properties: &[],
    };
    match reader.read(&publish, message.received) {
        Outcome::Plain => Err(MapOutcome::Plain),
        Outcome::Staged(_) => Ok(std::mem::take(&mut reader.staged)),
        Outcome::Refused(refusal) => Err(MapOutcome::Refused(refusal.reason)),
    }
}
