//! The gRPC services for third parties.
//!
//! Receives: calls of `weir.v1` over gRPC and gRPC-Web; a [`Backend`] to query.
//! Promises: everything acknowledged before a call began is in its answer; a page, a stream and a
//! resumed stream end exactly where the next one begins; every error carries advice for the caller,
//! in words and as `google.rpc.ErrorInfo`.
//! Hands on: latest states, history, live events, dead letters, exports, books and status; what the
//! MQTT broker holds, and the wishes of operators about it.
//! Never: holds state of its own beyond a call; serves a method that has no authorization rule, or
//! a caller whose credential has ended; skips in silence.

pub mod auth;
mod backend;
mod brokers;
mod browsers;
mod calls;
mod config;
mod convert;
pub mod errors;
mod exports;
mod filter;
mod glob;
mod health;
pub mod limits;
mod memory;
pub mod metrics;
pub mod names;
mod page;
mod read;
mod select;
mod serve;
mod services;
mod subscribe;
mod token;
mod traces;

pub use backend::{Backend, Logs, Replay, ReplayError, StatusSource};
pub use brokers::{
    Brokers, BrokersError, ClearedRetained, Disconnected, Found, Listed, SessionsQuery, SubscriptionsQuery,
};
pub use config::{Config, Limits};
pub use exports::{ExportError, ExportLogStatus, ExportState, ExportStatus, Exports, Rewound};
pub use metrics::Metrics;
pub use serve::{Error, serve};
