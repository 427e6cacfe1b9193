//! A range in parts, each of which is cut and written on its own. A part has a bound in memory for
//! any payload: blocks of readings with many names take far more than the log's bytes.

use std::ops::Range;

use super::cut::{self, Placed};
use super::memtable::{DeviceRows, Memtable};
use super::recent::Recent;

/// The largest part.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PartSize {
    pub(crate) readings: usize,
    pub(crate) bytes: u64,
}

/// A part of a range: the readings of some devices, or a slice of those of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PartBounds {
    /// Its devices among those of the range.
    pub(crate) devices: Range<usize>,
    /// Number of the slice.
    pub(crate) slice: usize,
    slices: usize,
}

impl PartSize {
    /// For readings whose frames take up to `unflushed` bytes of memory. A block is larger than
    /// its records, and is in memory once more in the form of the store.
    pub(crate) fn new(readings: usize, unflushed: u64) -> Self {
        Self { readings, bytes: (unflushed / 8).clamp(1 << 20, 32 << 20) }
    }

    fn slices(&self, device: &DeviceRows) -> usize {
        let slices = device.block_bytes().div_ceil(self.bytes);
        usize::try_from(slices).unwrap_or(usize::MAX).clamp(1, device.rows.len().max(1))
    }

    /// Part `index` of a range. The first part is there even when it is empty, for the records that
    /// are no readings.
    pub(crate) fn bounds(&self, table: &Memtable, index: usize) -> Option<PartBounds> {
        let devices = table.devices();
        let (mut part, mut from) = (0, 0);
        loop {
            let slices = devices.get(from).map_or(1, |device| self.slices(device));
            let (mut to, mut readings, mut bytes) = (from, 0, 0);
            while let Some(device) = devices.get(to) {
                readings += device.rows.len();
                bytes += device.block_bytes();
                if to > from && (readings > self.readings || bytes > self.bytes) {
                    break;
                }
                to += 1;
            }
            if index < part + slices {
                let bounds = PartBounds { devices: from..to, slice: index - part, slices };
                return (index == 0 || from < to).then_some(bounds);
            }
            if from == to {
                return None;
            }
            part += slices;
            from = to;
        }
    }
}

impl PartBounds {
    /// The part's own among the settled rows of one of its devices.
    pub(crate) fn share(&self, rows: usize) -> Range<usize> {
        rows * self.slice / self.slices..rows * (self.slice + 1) / self.slices
    }
}

/// The readings of a device in the order in which they are stored, each once, without those that
/// were stored before.
pub(crate) fn settled<'a>(table: &'a Memtable, held: &DeviceRows, recent: &Recent) -> Vec<Placed<'a>> {
    let mut rows: Vec<_> = held.rows.iter().map(|row| (row.offset, table.reading(row))).collect();
    let device = recent.device(&held.device);
    rows.retain(|(_, reading)| !recent.knows(device, reading));
    cut::sort_and_merge(&mut rows);
    rows
}
