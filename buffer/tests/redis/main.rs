//! The log on Redis, with real servers.

#![expect(clippy::unwrap_used, reason = "a test that cannot set up its world fails")]

#[path = "../common/mod.rs"]
mod common;
mod control;
#[path = "../common/redis_control.rs"]
mod redis_control;
#[path = "../common/sentinel.rs"]
mod sentinel;
#[path = "../common/redis.rs"]
mod server;
#[path = "../common/tenants.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod tenants;

mod catalogue;
mod cluster;
mod faults;
mod pools;
mod settings;
mod spill;
