//! Limits of tenants, devices and callers, and the meters that hold them.
//!
//! A [`TenantMeter`] is shared by all that one tenant does in a process: its connections through a
//! [`DeviceMeter`], its calls through a [`CallerMeter`]. Messages are paced: a [`DeviceMeter`]
//! returns how long the connection has to wait before the message is handled, and never refuses
//! one. Connections, calls and streams are refused with [`Exceeded`], which names the limit, and so
//! are messages of new devices, with new value names, and beyond the storage.
//!
//! A change of limits takes effect at once. Limits hold for the process, or for all processes of a
//! fleet that tell each other their use ([`Fleet`]).

mod caller;
mod census;
mod device;
mod fleet;
mod limits;
mod meter;
mod parts;
mod report;
#[cfg(test)]
mod simulation;
mod storage;
mod tenant;
#[cfg(test)]
mod tests;

pub use caller::{CallerMeter, StreamPermit};
pub use census::MAX_COUNTED;
pub use device::{ConnectionPermit, DeviceMeter, Kept, Wait};
pub use fleet::{Fleet, HOLD};
pub use limits::{CHANGES_PER_MINUTE, DEVICE_CONNECTIONS, Exceeded, Limits, Quota, UnknownLimit};
pub use meter::Moment;
pub use report::{Counts, MAX_REPORT_BYTES};
pub use tenant::{TenantMeter, Usage};
