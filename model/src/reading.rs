//! One device, one time, one or more named values.

use std::sync::Arc;

use crate::{DeviceKey, Nanos, Value};

/// The names of a reading's values, in the order in which the values stand. Shared by many readings.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Schema {
    names: Box<[Box<str>]>,
}

impl Schema {
    /// A schema of these names.
    pub fn new<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> Self {
        Self { names: names.into_iter().map(|n| n.as_ref().into()).collect() }
    }

    /// The names, in order.
    pub fn names(&self) -> &[Box<str>] {
        &self.names
    }
}

/// One reading, owned: for tests, for small answers and for what crosses tasks one at a time.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// Who.
    pub device: DeviceKey,
    /// The time that orders it: the device's, or `received` when it sent none or one too far ahead.
    pub time: Nanos,
    /// When Weir took it.
    pub received: Nanos,
    /// The device's own counter.
    pub seq: Option<u64>,
    /// `time` came from the device.
    pub device_timed: bool,
    /// What the device said when that was too far ahead to be used as `time`.
    pub claimed_time: Option<Nanos>,
    /// Named values, as sent.
    pub values: Vec<(Arc<str>, Value)>,
}
