//! The ports of a store, one file each. Every port has one contract test suite that runs on all
//! implementations.
//!
//! ```text
//! error         StoreError: the meaning of a refusal
//! history       blocks of readings
//! latest        the latest state of each device
//! dead_letters  messages that could not be read, readings that a store refused
//! retained      retained MQTT messages
//! export        readings on their way to a system outside Weir
//! export_type   a type of export, implemented by its settings
//! tenant_data   all that a store holds of a tenant
//! store         all but exports, as one store that a process opens
//! ```
//! The ports that queries go through stand in [`ports`](crate::ports).

mod dead_letters;
mod error;
mod export;
mod export_type;
mod history;
mod latest;
mod retained;
mod store;
mod tenant_data;

pub use dead_letters::{DeadLetters, Deadletter, INGEST, LIST_BYTES, LetterBound, LetterSum, is_last};
pub use error::{Result, StoreError};
pub use export::{DeviceBatch, Export};
pub use export_type::ExportType;
pub use history::History;
pub use latest::{Latest, LatestState, LatestValue};
pub use retained::{Retained, RetainedKey, RetainedMessage, RetainedPage};
pub use store::{Store, StoredPart};
pub use tenant_data::{TenantCounts, TenantData};

pub use crate::ports::{BookLine, Books, HourLine, LatestView, Tail, TailAnswer};
