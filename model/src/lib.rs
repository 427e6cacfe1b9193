//! Readings, values, devices and topics.
//!
//! Receives: nothing; other crates construct the types.
//! Promises: plain data with checked construction; no IO, no async; only [`clock`] reads the time
//! of day.
//! Hands on: [`Value`], [`Reading`], [`DeviceKey`], [`Schema`], rules of [`topic`] and [`time`],
//! types of [`trace`], one [`clock`], [`Budget`].
//! Never: reads a file or a socket.

pub mod backoff;
mod budget;
pub mod clock;
pub mod device;
pub mod glob;
pub mod reading;
pub mod setting;
pub mod size;
mod ticket;
pub mod time;
pub mod tls;
pub mod topic;
pub mod trace;
pub mod value;

pub use backoff::Backoff;
pub use budget::{Budget, Full, Held};
pub use clock::{Clock, SystemClock};
pub use device::{DeviceKey, IdError};
pub use reading::{Reading, Schema};
pub use ticket::Ticket;
pub use time::{Nanos, TimeRange};
pub use value::{Kind, Value, ValueRef};

/// The tenant of connections without a credential.
pub const DEFAULT_TENANT: &str = "default";

/// The reason of a message that is held until its device is adopted, as a dead letter.
pub const IN_QUARANTINE: &str = "the device is in quarantine: the message is released when it is adopted";
