//! What each device publishes and when: decided by the scenario, the seed and the time of the start, by nothing else. The
//! fleet sends it, the oracle makes it again and compares.

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

/// One publish.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Of its device, from 0, in the order in which they were measured.
    pub number: u64,
    /// When it goes out, after the start.
    pub due: Duration,
    /// Where.
    pub topic: Arc<str>,
    /// What is sent.
    pub payload: Vec<u8>,
    /// What it holds; empty when it cannot be read.
    pub readings: Vec<Reading>,
    /// What is to become of it.
    pub fate: Fate,
    /// What goes wrong while it is sent.
    pub trouble: Trouble,
}

/// A reading as its device measured it.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// The device's time, in the resolution in which it is sent, nanoseconds since 1970.
    pub time: Option<Nanos>,
    /// The device's counter.
    pub sequence: Option<u64>,
    /// By name.
    pub values: Vec<(Arc<str>, Value)>,
}

/// What is to become of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Its readings are stored.
    Stored,
    /// It cannot be read: acknowledged, and kept as a dead letter.
    Unreadable,
    /// Too large: the broker ends the connection, or does as for an unreadable one.
    Oversize,
}

/// What goes wrong while a message is sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Trouble {
    /// The link breaks before the acknowledgement.
    pub drop_before_ack: bool,
    /// The link breaks after the acknowledgement.
    pub drop_after_ack: bool,
    /// Published twice.
    pub duplicate: bool,
    /// Sent again after the acknowledgement.
    pub resend: bool,
    /// The connection is left open and a new one begun.
    pub half_open: bool,
}

#[cfg(test)]
mod tests;
