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
mod leftovers;
mod letters;
mod local;
mod metrics;
mod pooled;
mod scripts;
mod search;
mod summaries;
mod tickets;
mod wills;
mod writer;

pub use config::{Config, QueueFull};
pub use fleet::RedisFleet;
pub use metrics::Metrics;
pub use pooled::{Placement, Pool, Pooled};

/// Internals for the fuzz targets.
#[cfg(feature = "fuzzing")]
pub mod fuzzing {
    use std::sync::Arc;

    use broker::fleet::{Client, Forwarded, Owned, Placed, SharedMessage};

    use super::{codec, letters};

    /// Reads a message.
    pub fn message(bytes: &[u8]) -> Option<Arc<SharedMessage>> {
        codec::decode_message(bytes)
    }

    /// The bytes of a message.
    pub fn message_bytes(message: &SharedMessage) -> Vec<u8> {
        codec::encode_message(message)
    }

    /// Reads a message that a node forwards.
    pub fn forwarded(bytes: &[u8]) -> Option<Forwarded> {
        codec::decode_forwarded(bytes)
    }

    /// The bytes of a message that a node forwards.
    pub fn forwarded_bytes(forwarded: &Forwarded) -> Vec<u8> {
        codec::encode_forwarded(forwarded)
    }

    /// Reads how a session gets a message.
    pub fn placed(bytes: &[u8]) -> Option<Placed> {
        codec::decode_placed(bytes)
    }

    /// The bytes of how a session gets a message.
    pub fn placed_bytes(placed: &Placed) -> Vec<u8> {
        codec::encode_placed(placed)
    }

    /// Reads the name of a client.
    pub fn client(name: &str) -> Option<Client> {
        codec::client(name)
    }

    /// The name of a client.
    pub fn name(client: &Client) -> String {
        codec::name(client)
    }

    /// Reads the next session that gets a message, with its number. None when it cannot be read.
    pub fn taker(rest: &mut &[u8]) -> Option<(Owned, u64, Placed)> {
        letters::taker(rest)
    }
}
