//! Ledger of sent and acknowledged messages on disk, for a later verification.
//!
//! ```text
//! file    = "WSIM" version:u8 header-length:u32 header:JSON block*
//! block   = length:u32 crc32c:u32 records          length counts the records' bytes
//! record  = outcome:u8 device:varint number:varint sent:varint latency:varint
//! ```
//! All numbers are little-endian; a varint has seven bits a byte, the lowest first. `sent` is in
//! microseconds after the start, `latency` in microseconds after that, 0 when there was no
//! acknowledgement. The header holds the whole scenario, so the readings are not stored: they are
//! generated again from it. The last block of a run that ended normally holds one record with the
//! outcome `End`.

pub mod deliveries;
mod read;
mod write;

use model::Nanos;
use serde::{Deserialize, Serialize};

pub use read::Ledger;
pub use write::{Recorder, Writer};

use crate::scenario::Scenario;

const MAGIC: &[u8; 4] = b"WSIM";
const VERSION: u8 = 1;

/// Everything needed to generate all readings again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// The played scenario.
    pub scenario: Scenario,
    /// Folder of its CSV files.
    pub folder: std::path::PathBuf,
    /// Start time, nanoseconds since 1970.
    pub start: Nanos,
    /// Address of the broker.
    pub broker: String,
}

/// Outcome of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// [`crate::plan::Device::index`].
    pub device: u32,
    /// [`crate::plan::Message::number`].
    pub number: u64,
    /// Time of the first transmission, microseconds after the start.
    pub sent_micros: u64,
    /// Time until the acknowledgement.
    pub latency_micros: u64,
    /// Outcome of the message.
    pub outcome: Outcome,
}

/// Outcome of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Outcome {
    /// Sent without an acknowledgement, or at QoS 0.
    Sent = 1,
    /// Acknowledged with an error: the broker refused it.
    Refused = 2,
    /// Acknowledged as stored but unreadable (MQTT 5: 0x99).
    Quarantined = 3,
    /// Acknowledged.
    Acknowledged = 4,
    /// Not a message: the run ended normally.
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
