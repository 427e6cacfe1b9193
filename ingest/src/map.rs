//! What a message would become, and dead letters read again.

use std::sync::Arc;

use broker::inbox::Publish;
use buffer::frame::{FrameBuilder, Record, Staged};
use model::{Nanos, Reading};

use crate::intake::{Door, Target};

/// What a message becomes.
#[derive(Debug, Clone, PartialEq)]
pub enum MapOutcome {
    /// No route takes the topic.
    Plain,
    /// Readings; none when it holds no value.
    Readings(Vec<Reading>),
    /// It cannot be read.
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

/// What the door would make of a message. Nothing is stored.
pub fn map(door: &Door, message: &Message<'_>) -> MapOutcome {
    let mut staged = match replay(door, message) {
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

/// Reads a message again with the present routes, with its first receive time. A reading that is in the log by now is recognised
/// there.
///
/// # Errors
/// The outcome, when there is nothing to stage.
pub fn replay(door: &Door, message: &Message<'_>) -> Result<Staged, MapOutcome> {
    let mut intake = door.intake(&Arc::from(message.tenant), &Arc::from(message.client));
    intake.at(message.received);
    let publish = Publish {
        topic: message.topic,
        payload: message.payload,
        qos: 1,
        dup: true,
        retain: false,
        packet_id: 0,
        properties: &[],
    };
    let Target::Routed(routed) = intake.target(message.topic) else { return Err(MapOutcome::Plain) };
    match intake.take(&publish, &routed, message.received) {
        Ok(_) => Ok(std::mem::take(&mut intake.staged)),
        Err(reason) => Err(MapOutcome::Refused(reason)),
    }
}
