//! Projections of the log: sinks that follow it into the stores, each with its own cursor.
//!
//! Receives: logs ([`buffer::Log`]), stores (the traits of [`stores::contract`]), a list of
//! [`Projection`]s.
//! Promises: every record reaches every store exactly once or the dead letters; a cursor moves
//! only over what its store holds durably; after a crash, a sealed range is split into exactly
//! the same blocks; a store that is away stops no other sink.
//! Hands on: the latest states, the unflushed tail, the books, the status of each sink.
//! Never: drops a record; trims what some sink has not passed; keeps more in memory than it is
//! allowed.

mod accounting;
pub mod config;
mod context;
mod engine;
pub mod fleet;
mod flusher;
mod metrics;
mod projection;
pub mod projections;
mod purged;
mod readers;
mod retentions;
mod sink;
mod sinks;
mod status;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod upkeep;

use std::sync::Arc;

pub use accounting::refill::Refill;
pub use accounting::replay::{ReplayInto, replay_into_store};
pub use accounting::tallies::{HourTallies, Tallies};
pub use accounting::{Accounting, Countable};
pub use config::{Config, Pace};
pub use fleet::{Fleet, FleetHandle};
pub use flusher::{Claim, Error, Flusher, Handle, Stores};
pub use metrics::Metrics;
pub use projection::{LogContext, Projection, Projections, StartAt};
pub use purged::PurgedTenants;
pub use retentions::Retentions;
pub use sink::{Load, Part, Refusal, Sink};
pub use status::{SinkState, SinkStatus};

/// Name of the history projection.
pub const HISTORY: &str = "history";
/// Name of the latest-state projection.
pub const LATEST: &str = "latest";
/// Name of the dead-letter projection.
pub const DEAD_LETTERS: &str = "dead_letters";
/// Name of the projection of retained messages.
pub const RETAINED: &str = "retained";
/// Stage of a dead letter that is a message which could not be read.
pub const INGEST: &str = "ingest";

/// Returns the time of day. Tests control it.
pub type Clock = Arc<dyn Fn() -> model::Nanos + Send + Sync>;
