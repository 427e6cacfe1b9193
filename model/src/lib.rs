//! What a reading, a value, a device and a topic are.
//!
//! Receives: nothing; every other crate builds these.
//! Promises: plain data with checked construction; no IO, no clock, no async.
//! Hands on: [`Value`], [`Reading`], [`DeviceKey`], [`Schema`], [`topic`] rules, [`time`] rules, the words of [`trace`].
//! Never: reads a file, a socket or the time of day.

pub mod device;
pub mod reading;
pub mod time;
pub mod topic;
pub mod trace;
pub mod value;

pub use device::{DeviceKey, IdError};
pub use reading::{Reading, Schema};
pub use time::{Nanos, TimeRange};
pub use value::{Kind, Value, ValueRef};

/// The tenant of every connection until credentials name one.
pub const DEFAULT_TENANT: &str = "default";
