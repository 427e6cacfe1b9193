//! Sinks follow the log, each with its own cursor.
//!
//! Receives: logs ([`buffer::Log`]), stores (the traits of [`stores::contract`]).
//! Promises: every record reaches every store exactly once or the dead letters; a cursor moves only over what its store
//! holds durably; a range that was begun is cut again just so after a crash; a store that is away stops no other sink.
//! Hands on: the latest states, the unflushed tail, the books, and how each sink is.
//! Never: drops a record; trims what some sink has not passed; keeps more in memory than it is allowed.

mod again;
mod assemble;
mod books;
mod census;
mod common;
pub mod config;
mod deliver;
mod driver;
pub mod fleet;
mod flusher;
mod history;
mod latest;
mod letters;
mod maintenance;
mod metrics;
mod points;
mod progress;
mod rare;
mod register;
mod scan;
mod sink;
mod status;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod traces;
mod verdict;

use std::sync::Arc;

pub use again::store_again;
pub use config::Config;
pub use fleet::{Fleet, FleetHandle};
pub use flusher::{Claim, Error, Flusher, Handle, Stores, register};
pub use metrics::Metrics;
pub use status::{SinkState, SinkStatus};
pub use traces::Tracing;

/// Name of the history sink.
pub const HISTORY: &str = "history";
/// Name of the latest-state sink.
pub const LATEST: &str = "latest";
/// Name of the dead-letter sink.
pub const DEAD_LETTERS: &str = "dead_letters";
/// Name of the sink of retained messages.
pub const RETAINED: &str = "retained";
/// Name of the sink of points, which is there only when its store is configured.
pub const POINTS: &str = "points";
/// Those that are always there.
pub const SINKS: [&str; 4] = [HISTORY, LATEST, DEAD_LETTERS, RETAINED];

/// Tells the time of day. Tests hold it.
pub type Clock = Arc<dyn Fn() -> model::Nanos + Send + Sync>;
