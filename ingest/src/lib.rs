//! From a payload to readings in the log.
//!
//! Receives: every PUBLISH, through [`broker::inbox`].
//! Promises: a message is taken whole or not at all; what cannot be read is kept as it came, with the reason.
//! Hands on: staged records to the log's batcher.
//! Never: acknowledges anything; changes a value's type or digits unless a route says so; builds a tree of a message of
//! a plain route.

mod admission;
mod clock;
mod decode;
mod document;
mod identity;
mod intake;
mod limits;
pub mod map;
pub mod metrics;
mod presence;
mod reader;
pub mod routes;
mod rules;
mod schemas;
mod select;
mod target;
mod traces;

pub use clock::{Clock, SystemClock};
pub use decode::Class;
pub use intake::{Door, Intake};
pub use limits::Limits;
pub use map::{MapOutcome, Message, map, replay};
pub use metrics::Metrics;
pub use routes::{Route, RouteError, Routes};
pub use rules::Rules;
