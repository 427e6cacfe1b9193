//! From a payload to readings in the log.
//!
//! Receives: messages from doors, through [`door::Inbox`].
//! Promises: a message is stored whole or not at all; one that cannot be read is kept as it was
//! sent, with the reason.
//! Hands on: staged records to the log's batcher.
//! Never: acknowledges a message; knows a protocol; changes a value's type or digits unless a route
//! asks for it; builds a tree for a message of a plain route.

mod admission;
mod binding;
mod decode;
mod denials;
mod document;
mod identity;
mod inbox;
mod limits;
pub mod map;
pub mod metrics;
mod presence;
mod reader;
pub mod routes;
mod rules;
mod schemas;
mod select;
mod traces;
mod unrouted;

pub use decode::Class;
pub use inbox::{ConnectionIngest, TelemetryInbox};
pub use limits::Limits;
pub use map::{MapOutcome, StoredMessage, map, replay};
pub use metrics::Metrics;
pub use routes::{Route, RouteError, Routes};
pub use rules::Rules;
pub use unrouted::{Unrouted, UnroutedTopic};
