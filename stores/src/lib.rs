//! Both ends of each store: how data is written, how it is asked for, and the schema beside them.
//!
//! Receives: [`block::Block`]s, latest values, dead letters and retained messages, in batches.
//! Promises: every write is idempotent; what [`contract::History::sync`] returned for survives kill -9, checksummed.
//! Hands on: blocks, latest values, dead letters to whoever asks.
//! Never: knows the log or its cursors; answers with bytes whose checksum does not match.

pub mod block;
pub mod codec;
pub mod contract;
pub mod embedded;
pub mod influxdb;
pub mod metrics;
pub mod mongodb;
pub mod query;

pub use block::{Block, BlockId, BlockMeta, Column, ColumnData};
pub use contract::{Books, DeadLetters, Deadletter, History, Latest, LatestView, Retained, StoreError, Tail};
pub use metrics::Metrics;
