//! The log on Redis, with real servers.

#![expect(clippy::unwrap_used, reason = "a test that cannot set up its world fails")]

#[path = "../common/mod.rs"]
mod common;
mod control;
#[path = "../common/redis.rs"]
mod server;

mod catalogue;
mod cluster;
mod faults;
mod settings;
mod spill;
