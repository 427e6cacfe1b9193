//! Sessions and messages that the nodes of a fleet share.

mod arrivals;
mod claim;
#[cfg(any(test, feature = "testing"))]
pub mod contract;
mod interests;
#[cfg(any(test, feature = "testing"))]
pub mod memory;
mod port;
mod routes;
mod send;

pub(crate) use claim::Claim;
pub(crate) use interests::Interests;
pub use port::{
    Arrival, Bus, Change, Claimed, Client, Forwarded, HandOver, Interest, Node, Numbered, Owned, Placed, Progress,
    Route, SessionStore, SharedMessage, StoredSession, Subscription, Taking, Unavailable,
};
pub(crate) use routes::{Strangers, keep_routes};
pub(crate) use send::{Fleet, Outgoing, present_state};
