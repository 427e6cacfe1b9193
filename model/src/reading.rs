//! Readings: one device, one time, and one or more named values.

use std::sync::Arc;

use crate::{DeviceKey, Nanos, Value};

/// Names of a reading's values, in the order of the values. Shared by many readings.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Schema {
    names: Box<[Box<str>]>,
}

impl Schema {
    /// Creates a schema.
    pub fn new<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> Self {
        Self { names: names.into_iter().map(|n| n.as_ref().into()).collect() }
    }

    /// The names in order.
    pub fn names(&self) -> &[Box<str>] {
        &self.names
    }
}

/// An owned reading, for tests, for small responses and for single readings between tasks.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// Device that sent it.
    pub device: DeviceKey,
    /// Ordering time: the device's, or `received` when the device sent none or one too far ahead.
    pub time: Nanos,
    /// Time of receipt.
    pub received: Nanos,
    /// The device's sequence.
    pub seq: Option<u64>,
    /// True when `time` is the device's.
    pub device_timed: bool,
    /// The device's time, when it was too far ahead to be used as `time`.
    pub claimed_time: Option<Nanos>,
    /// Named values, as sent.
    pub values: Vec<(Arc<str>, Value)>,
}
