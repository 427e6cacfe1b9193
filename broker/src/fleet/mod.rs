//! Sessions and messages that the nodes of a fleet share.

mod arrivals;
mod claim;
#[cfg(any(test, feature = "testing"))]
pub mod contract;
mod interests;
mod leftovers;
#[cfg(any(test, feature = "testing"))]
pub mod memory;
mod port;
mod retained;
mod routes;
mod send;
mod wills;

pub(crate) use claim::Claim;
pub(crate) use interests::Interests;
pub use leftovers::{Leftover, NextTaker};

/// Maximum number of messages that are in flight to a client.
pub const MAX_IN_FLIGHT: usize = crate::in_flight::MAX_IN_FLIGHT;
pub use port::{
    Arrival, Bus, Change, Claimed, Client, DueWill, EndedAway, Forwarded, HandOver, Interest, Node, Numbered, Owned,
    Placed, Progress, Refusal, Route, SessionStore, SharedMessage, Source, StoredSession, StoredSummary, StoredWill,
    Submitter, Subscription, Taking, Unavailable,
};
pub(crate) use routes::{How, Strangers, keep_routes};
pub(crate) use send::{Fleet, Outgoing, Sent, present_state};
