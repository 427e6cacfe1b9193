//! The tail: readings that the history does not hold yet.

use std::sync::Arc;

use async_trait::async_trait;
use model::{DeviceKey, Nanos, TimeRange};

use crate::block::Block;
use crate::contract::Result;

/// Readings that are in the log and not yet in the history.
#[async_trait]
pub trait Tail: Send + Sync + 'static {
    /// Returns the unflushed readings of a device in `range`: at least everything durable when the
    /// call began. Ask the tail before the history: a reading that moves from one to the other in
    /// between is then seen twice, never missed.
    async fn tail(&self, device: &DeviceKey, range: TimeRange, names: Option<&[Arc<str>]>) -> Result<TailAnswer>;
}

/// The tail of one device.
#[derive(Debug, Clone)]
pub struct TailAnswer {
    /// Rows that are not stored yet; empty when there are none.
    pub blocks: Vec<Block>,
    /// Everything received before this time is in the answer or in the history.
    pub complete_until: Nanos,
}
