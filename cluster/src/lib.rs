//! The fleet as a set of processes, and what they share: [`members`] and [`sessions`].
//!
//! Receives: this process as a member, its secret and certificates, services for the others; claims
//! of clients, changes of their sessions, messages for them, interests of nodes
//! ([`broker::fleet`]).
//! Promises: a process has one name, one secret and one connection to each other; one node owns a
//! client at a time; a ticket is durable only when the server has its changes as durably as an
//! append to a log.
//! Hands on: the list of the members, connections to them; arrivals and routes to the broker of
//! this node.
//! Never: sends the secret where others can read it; decides who gets a message; waits for a node
//! that is dead; knows a store, or the records of a log.

pub mod members;
mod reply;
pub mod sessions;
mod unique;

pub use buffer::redis::AccessError;
