//! The log: what was acknowledged and is not yet in every store.
//!
//! Receives: staged records from many producers ([`frame::Staged`]), cursor moves from sinks.
//! Promises: a `Ticket` is durable only after its frame survived an fsync; records are read back in order,
//! whole, or a loud error names file and offset; nothing is trimmed that a cursor has not passed.
//! Hands on: [`frame::Frame`]s to whoever reads.
//! Never: answers "durable" from memory; retries an fsync; drops when full.

pub mod batcher;
pub mod catalogue;
pub mod cursor;
pub mod embedded;
pub mod frame;
pub mod log;
pub mod memory;
pub mod metrics;
mod recent;
pub mod redis;
mod ring;
pub mod spill;
mod traces;

pub use batcher::{Batcher, SubmitError, Ticket};
pub use catalogue::{Catalogue, CatalogueError, Holder, Lease, LogInfo};
pub use cursor::{Cursor, Tally};
pub use log::{CursorError, Log, ReadError, State};
pub use metrics::Metrics;
