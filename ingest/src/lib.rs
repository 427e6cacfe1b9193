//! From a payload to readings in the log.
//!
//! Receives: every PUBLISH, through [`broker::inbox`].
//! Promises: a message is taken whole or not at all; what cannot be read is kept as it came, with the reason.
//! Hands on: staged records to the log's batcher.
//! Never: acknowledges anything; changes a value's type or digits; builds a tree of a message.

pub mod decode;
mod identity;
mod intake;
mod limits;
pub mod map;
pub mod metrics;
pub mod routes;
mod schemas;

pub use intake::{Door, Intake};
pub use limits::Limits;
pub use map::{MapOutcome, map};
pub use metrics::Metrics;
pub use routes::{Route, RouteError, Routes};
