//! Members and sessions of a fleet over a real redis-server.

#![expect(clippy::unwrap_used, reason = "a test that cannot set up its world fails")]

mod claims;
mod contract;
mod exchange;
mod failover;
mod faults;
mod figures;
mod leftovers;
mod members;
mod node;
mod pools;
#[path = "../../../buffer/tests/common/redis_control.rs"]
mod redis_control;
mod refusals;
#[path = "../../../buffer/tests/common/sentinel.rs"]
mod sentinel;
mod server;
mod wills;
