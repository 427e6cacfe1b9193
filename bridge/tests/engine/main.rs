//! Bridges between two brokers over real sockets, and to a broker that breaks at each step.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod breaks;
mod cuts;
mod encrypted;
mod lost;
mod passing;
mod remote;
mod websocket;
mod world;
