//! Limits of tenants, devices and callers, and the meters that hold them.
//!
//! A [`TenantMeter`] is shared by all that one tenant does in a process: its connections through a
//! [`DeviceMeter`], its calls through a [`CallerMeter`]. Messages are paced: a [`DeviceMeter`]
//! returns how long the connection has to wait before the message is handled, and never refuses
//! one. Connections, calls and streams are refused with [`Exceeded`], which names the limit, and so
//! are messages of new devices and with new value names.
//!
//! Limits hold for each process. A change of limits takes effect at once.

mod caller;
mod census;
mod device;
mod limits;
mod meter;
mod tenant;
#[cfg(test)]
mod tests;

pub use caller::{CallerMeter, StreamPermit};
pub use census::MAX_COUNTED;
pub use device::{ConnectionPermit, DeviceMeter, Kept, Wait};
pub use limits::{DEVICE_CONNECTIONS, Exceeded, Limits, Quota, UnknownLimit};
pub use meter::Moment;
pub use tenant::{TenantMeter, Usage};
