//! What was sent and what was acknowledged, on disk, so that a later run can check what landed.
//!
//! ```text
//! file    = "WSIM" version:u8 header-length:u32 header:JSON block*
//! block   = length:u32 crc32c:u32 records          length counts the records' bytes
//! record  = outcome:u8 device:varint number:varint sent:varint latency:varint
//! ```
//! All numbers are little-endian; a varint has seven bits a byte, the lowest first. `sent` is in microseconds after the start,
//! `latency` in microseconds after that, 0 when there was no acknowledgement. The header holds the scenario whole, so the
//! readings themselves need no place: they are made again from it. The last block of a run that ended in order holds one record
//! with the outcome `End`.

mod read;
mod write;

use model::Nanos;
use serde::{Deserialize, Serialize};

pub use read::Ledger;
pub use write::{Recorder, Writer};

use crate::scenario::Scenario;

const MAGIC: &[u8; 4] = b"WSIM";
const VERSION: u8 = 1;

/// What is needed to make every reading again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// The scenario as it was played.
    pub scenario: Scenario,
    /// Folder of its CSV files.
    pub folder: std::path::PathBuf,
    /// When it began, nanoseconds since 1970.
    pub start: Nanos,
    /// The broker it was played against.
    pub broker: String,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// [`crate::plan::Device::index`].
    pub device: u32,
    /// [`crate::plan::Message::number`].
    pub number: u64,
    /// When it was first sent, microseconds after the start.
    pub sent_micros: u64,
    /// How long its acknowledgement took.
    pub latency_micros: u64,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Outcome {
    /// Sent, and no acknowledgement came, or none was due (QoS 0).
    Sent = 1,
    /// Acknowledged with an error: the broker did not take it.
    Refused = 2,
    /// Acknowledged as taken but unreadable (MQTT 5: 0x99).
    Quarantined = 3,
    /// Acknowledged.
    Acknowledged = 4,
    /// No message: the run ended in order.
    End = 5,
}

impl Outcome {
    fn of(byte: u8) -> Option<Self> {
        [Self::Sent, Self::Refused, Self::Quarantined, Self::Acknowledged, Self::End]
            .into_iter()
            .find(|outcome| *outcome as u8 == byte)
    }
}

#[cfg(test)]
mod tests;
