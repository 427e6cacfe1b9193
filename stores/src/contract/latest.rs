//! The latest state of each device.

use std::sync::Arc;

use async_trait::async_trait;
use model::{DeviceKey, Nanos, Value};

use super::Result;
use crate::ports::LatestView;

/// The newest value of one name of a device.
#[derive(Debug, Clone, PartialEq)]
pub struct LatestValue {
    /// Value name.
    pub name: Arc<str>,
    /// The value.
    pub value: Value,
    /// The reading's time.
    pub time: Nanos,
    /// The time that orders it: [`time`](Self::time), unless the device's clock is known to be wrong.
    pub order: Nanos,
    /// Its sequence.
    pub seq: Option<u64>,
    /// Its receive time.
    pub received: Nanos,
}

impl LatestValue {
    /// Key by which values of one name are ordered; the newest has the greatest.
    pub fn age(&self) -> (Nanos, Nanos, Option<u64>, Nanos) {
        (self.order, self.time, self.seq, self.received)
    }
}

/// The present state of a device.
#[derive(Debug, Clone, PartialEq)]
pub struct LatestState {
    /// The device.
    pub device: DeviceKey,
    /// Receive time of its first reading.
    pub first_seen: Nanos,
    /// Receive time of its last reading.
    pub last_seen: Nanos,
    /// Readings received from it; an estimate after a crash, never less than are stored.
    pub readings: u64,
    /// Largest distance seen between the device's clock and Weir's, device minus Weir.
    pub clock_skew: Nanos,
    /// Newest value of each name, by name.
    pub values: Vec<LatestValue>,
}

/// A store of latest states. As a view it has what was stored.
#[async_trait]
pub trait Latest: LatestView {
    /// Returns up to `limit` states of the devices that follow `after`, in an order of the store's
    /// own: page by page, all of them.
    async fn load(&self, after: Option<&DeviceKey>, limit: usize) -> Result<Vec<LatestState>>;

    /// Replaces the states of these devices, durably when it returns. Where several processes
    /// write, a value replaces the stored one only when it is newer.
    async fn store(&self, states: Vec<LatestState>) -> Result<()>;
}
