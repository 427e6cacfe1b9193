//! The log: acknowledged records that are not yet in every store.
//!
//! Receives: staged records from many producers ([`frame::Staged`]), cursor moves from sinks.
//! Promises: a `Ticket` is durable only after its frame survived an fsync; records are read in
//! order and complete, or an error names file and offset; only records that all cursors have passed
//! are trimmed.
//! Hands on: [`frame::Frame`]s to readers.
//! Never: reports memory as durable; retries an fsync; drops records when full.

mod backend;
mod backlog;
pub mod batcher;
pub mod catalogue;
pub mod cursor;
pub mod embedded;
pub mod frame;
pub mod log;
pub mod memory;
pub mod metrics;
pub mod redis;
mod resends;
mod ring;
pub mod spill;
mod traces;

pub use backlog::Account;
pub use batcher::{Batcher, Notice, SubmitError, TaskId, Ticket};
pub use catalogue::{Catalogue, CatalogueError, ExportSetting, Holder, Lease, LogInfo, Rewind, SingleLog};
pub use cursor::{Cursor, Tally};
pub use log::{CursorError, Log, ReadError, State};
pub use metrics::Metrics;
