//! Sessions and messages that the nodes of a fleet share, over Redis.
//!
//! Receives: claims of clients, changes of their sessions, messages for them, interests of nodes
//! ([`broker::fleet`]).
//! Promises: one node owns a client at a time; a message of a session has one number, and its owner
//! receives it once, in order; a ticket is durable only when the server has its changes as durably
//! as an append to a log.
//! Hands on: arrivals and routes to the broker of this node.
//! Never: decides who gets a message; keeps a message beyond its bounds; waits for a node that is
//! dead.

mod changes;
mod claims;
mod codec;
mod config;
mod feed;
mod fleet;
mod identity;
mod inlet;
mod keeper;
mod letters;
mod local;
mod metrics;
mod pooled;
mod reply;
mod scripts;
mod tickets;
mod writer;

pub use buffer::redis::AccessError;
pub use config::{Config, QueueFull};
pub use fleet::RedisFleet;
pub use metrics::Metrics;
pub use pooled::{Placement, Pool, Pooled};
