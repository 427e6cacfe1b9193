//! Messages of each device and their times, determined only by the scenario, the seed and the start
//! time. The fleet sends them; the oracle generates them again and compares.

mod device;
mod messages;
mod names;
mod payload;
mod values;

use std::sync::Arc;
use std::time::Duration;

use model::{Nanos, Value};

pub use device::{Absence, Device, devices};
pub use messages::Messages;
pub use names::Names;
pub(crate) use values::{csv_column, parsed};

/// A message of a device.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Number within its device, from 0, in the order of measurement.
    pub number: u64,
    /// Time of sending, after the start.
    pub due: Duration,
    /// Topic.
    pub topic: Arc<str>,
    /// Payload.
    pub payload: Vec<u8>,
    /// Its readings; empty when the payload is unreadable.
    pub readings: Vec<Reading>,
    /// Expected outcome.
    pub fate: Fate,
    /// Faults while it is sent.
    pub trouble: Trouble,
}

/// A measured reading.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// The device's time in the resolution of the payload, nanoseconds since 1970.
    pub time: Option<Nanos>,
    /// The device's sequence.
    pub sequence: Option<u64>,
    /// Values by name.
    pub values: Vec<(Arc<str>, Value)>,
}

/// Expected outcome of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Its readings are stored.
    Stored,
    /// It is unreadable: acknowledged, and stored as a dead letter.
    Unreadable,
    /// It is too large: the broker closes the connection, or treats it as unreadable.
    Oversize,
}

/// Faults while a message is sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Trouble {
    /// The connection breaks before the acknowledgement.
    pub drop_before_ack: bool,
    /// The connection breaks after the acknowledgement.
    pub drop_after_ack: bool,
    /// Published twice.
    pub duplicate: bool,
    /// Sent again after the acknowledgement.
    pub resend: bool,
    /// The connection is left open and a new one is made.
    pub half_open: bool,
}

#[cfg(test)]
mod tests;
