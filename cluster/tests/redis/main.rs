//! Sessions of a fleet over a real redis-server.

#![expect(clippy::unwrap_used, reason = "a test that cannot set up its world fails")]

mod claims;
mod contract;
mod faults;
mod figures;
mod node;
mod pools;
mod server;
