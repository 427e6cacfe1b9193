//! Stores: the contract that each keeps, how data is written and read, and the schema beside them.
//!
//! Receives: [`block::Block`]s, latest states, dead letters and retained messages, in batches.
//! Promises: every write is idempotent; blocks that [`contract::History::sync`] returned for
//! survive kill -9, checksummed.
//! Hands on: blocks, latest states, dead letters and retained messages to readers; readings to
//! other systems.
//! Never: reads the log or moves its cursors; answers with bytes whose checksum does not match.

pub mod block;
pub mod codec;
pub mod contract;
pub mod embedded;
pub mod file;
pub mod influxdb;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod metrics;
pub mod mongodb;
mod per_log;
pub mod ports;
pub mod query;
mod reading;
pub mod settings;
#[cfg(feature = "testing")]
pub mod testing;
pub mod tls;

pub use block::{Block, BlockId, BlockMeta, Column, ColumnData};
pub use contract::{DeadLetters, Deadletter, DeviceBatch, Export, History, Latest, Retained, Store, StoreError};
pub use metrics::Metrics;
pub use ports::{Books, LatestView, Tail};
pub use settings::SettingsError;
