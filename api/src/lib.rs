//! The gRPC services that third parties read through.
//!
//! Receives: calls of `weir.v1` over gRPC and gRPC-Web; a [`Backend`] to ask.
//! Promises: whatever was acknowledged before a call began is in its answer; a page, a stream and a resume end where the
//! next one begins, without a hole; every error says what the caller can do, in words and in `google.rpc.ErrorInfo`.
//! Hands on: latest states, history, live events, dead letters, books and status.
//! Never: holds state of its own beyond a call; serves a method that has no authorization rule; skips in silence.

pub mod auth;
mod backend;
mod calls;
mod config;
mod convert;
pub mod errors;
mod filter;
mod glob;
pub mod metrics;
pub mod names;
mod read;
mod select;
mod serve;
mod services;
mod subscribe;
mod token;
mod traces;

pub use backend::{Backend, Logs, Replay, ReplayError, StatusSource};
pub use config::Config;
pub use metrics::Metrics;
pub use serve::{Error, serve};
