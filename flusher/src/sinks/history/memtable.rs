//! The readings of one range, found by device. It keeps the log's own frames and, for each reading,
//! where in them it stands: taking a reading in costs one small row, and nothing is decoded before
//! it is asked for.

use std::sync::Arc;

use buffer::frame::{Frame, ReadingRef, Record};
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use model::{DeviceKey, Nanos, Schema, TimeRange};

use super::cut::Placed;
use super::same::Distinct;
use crate::accounting::tallies::{Tallies, count_passed, entry};
use crate::sinks::export::filter::ExportFilter;

/// Where a reading stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) time: Nanos,
    pub(crate) offset: u64,
    frame: u32,
    position: u32,
}

/// The rows of one device, in the order of the log.
#[derive(Debug)]
pub(crate) struct DeviceRows {
    pub(crate) device: Arc<DeviceKey>,
    pub(crate) rows: Vec<Row>,
    /// Names of the last reading.
    schema: Option<Arc<Schema>>,
    block_bytes: u64,
}

/// Memory of a row of a block besides its values.
const BLOCK_ROW_BYTES: u64 = 64;
/// Memory of a column of a block: its name, its rows and its values, when there are few.
const COLUMN_BYTES: u64 = 320;

impl DeviceRows {
    fn add(&mut self, row: Row, reading: &ReadingRef<'_>) {
        self.rows.push(row);
        self.block_bytes += BLOCK_ROW_BYTES + 2 * reading.value_bytes().len() as u64;
        let is_same = |schema: &Arc<Schema>| Arc::ptr_eq(schema, reading.schema) || schema == reading.schema;
        if !self.schema.as_ref().is_some_and(is_same) {
            self.block_bytes += COLUMN_BYTES * reading.schema.names().len() as u64;
            self.schema = Some(Arc::clone(reading.schema));
        }
    }

    /// Memory that blocks of the rows take, near enough for a bound.
    pub(crate) fn block_bytes(&self) -> u64 {
        self.block_bytes
    }
}

/// The readings of one range of a log.
#[derive(Debug, Default)]
pub(crate) struct Memtable {
    frames: Vec<Frame>,
    devices: Vec<DeviceRows>,
    index: HashMap<Arc<DeviceKey>, u32, RandomState>,
    readings: u64,
    bytes: u64,
    /// Rows of the device with the most.
    largest: usize,
    /// Counts of records that are not readings, and of readings that did not pass.
    passed: Tallies,
}

/// Memory of a device besides its rows.
const DEVICE_BYTES: u64 = 200;
const ROW_BYTES: u64 = 2 * size_of::<Row>() as u64;
/// Memory of a row that is sorted and compared with others of its time.
const SORTED_ROW_BYTES: u64 = (size_of::<Placed<'_>>() + Distinct::ROW_BYTES) as u64;

impl Memtable {
    /// Takes the records of `frame` with offsets in `from..to`.
    pub(crate) fn take(&mut self, frame: &Frame, from: u64, to: u64) {
        self.take_some(frame, from, to, None);
    }

    /// Takes the records of `frame` with offsets in `from..to`; readings that do not pass the
    /// filter are only counted.
    pub(crate) fn take_some(&mut self, frame: &Frame, from: u64, to: u64, filter: Option<&ExportFilter>) {
        let place = u32::try_from(self.frames.len()).expect("a range has fewer than 2^32 frames");
        let mut last: Option<(*const DeviceKey, Option<u32>)> = None;
        let before = (self.readings, self.devices.len());
        for (offset, (position, record)) in (frame.header().first_offset..).zip(frame.positions()) {
            if offset < from || offset >= to {
                continue;
            }
            let Record::Reading(reading) = record else {
                self.pass(&record, filter);
                continue;
            };
            let pointer = Arc::as_ptr(reading.device);
            let device = match last {
                Some((held, device)) if std::ptr::eq(held, pointer) => device,
                _ if filter.is_none_or(|filter| filter.has_device(reading.device)) => Some(self.device(reading.device)),
                _ => None,
            };
            last = Some((pointer, device));
            let Some(device) = device.filter(|_| filter.is_none_or(|filter| filter.has_value(&reading))) else {
                entry(&mut self.passed, &reading.device.tenant).filtered += 1;
                continue;
            };
            let row = Row { time: reading.time, offset, frame: place, position };
            let rows = &mut self.devices[device as usize];
            rows.add(row, &reading);
            self.largest = self.largest.max(rows.rows.len());
            self.readings += 1;
        }
        let new_devices = (self.devices.len() - before.1) as u64;
        if self.readings > before.0 {
            self.bytes += frame.memory() as u64 + (self.readings - before.0) * ROW_BYTES + new_devices * DEVICE_BYTES;
            self.frames.push(frame.clone());
        }
    }

    /// Counts a record that is not a reading. Messages of a tenant that the filter leaves out are
    /// not the export's.
    fn pass(&mut self, record: &Record<'_>, filter: Option<&ExportFilter>) {
        let tenant = record.tenant();
        match record {
            Record::DeadLetter(_) if filter.is_some_and(|filter| !filter.has_tenant(tenant)) => {
                entry(&mut self.passed, tenant).filtered += 1;
            }
            _ => count_passed(&mut self.passed, record),
        }
    }

    fn device(&mut self, device: &Arc<DeviceKey>) -> u32 {
        if let Some(place) = self.index.get(device) {
            return *place;
        }
        let place = u32::try_from(self.devices.len()).expect("a range has fewer than 2^32 devices");
        let rows = DeviceRows { device: Arc::clone(device), rows: Vec::new(), schema: None, block_bytes: 0 };
        self.devices.push(rows);
        self.index.insert(Arc::clone(device), place);
        place
    }

    pub(crate) fn readings(&self) -> u64 {
        self.readings
    }

    /// Memory taken, near enough for a bound: also while a device's rows are sorted to be written.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes + self.largest as u64 * SORTED_ROW_BYTES
    }

    /// Counts of the records that are not rows.
    pub(crate) fn passed(&self) -> &Tallies {
        &self.passed
    }

    /// Devices, in the order in which they came.
    pub(crate) fn devices(&self) -> &[DeviceRows] {
        &self.devices
    }

    /// The reading of a row of this table.
    pub(crate) fn reading(&self, row: &Row) -> ReadingRef<'_> {
        match self.frames[row.frame as usize].record_at(row.position) {
            Some(Record::Reading(reading)) => reading,
            _ => unreachable!("rows point at readings"),
        }
    }

    /// The rows of a device in `range`, with the frames that they point into.
    pub(crate) fn select(&self, device: &DeviceKey, range: TimeRange) -> Selected {
        let mut selected = Selected::default();
        let Some(place) = self.index.get(device) else { return selected };
        let mut last = None;
        for row in self.devices[*place as usize].rows.iter().filter(|row| range.contains(row.time)) {
            // Rows have the order of the log.
            if last != Some(row.frame) {
                last = Some(row.frame);
                selected.frames.push(self.frames[row.frame as usize].clone());
            }
            let frame = u32::try_from(selected.frames.len() - 1).expect("a range has fewer than 2^32 frames");
            selected.rows.push(Row { frame, ..*row });
        }
        selected
    }
}

/// Rows of one device, apart from their memtable.
#[derive(Debug, Default)]
pub(crate) struct Selected {
    frames: Vec<Frame>,
    pub(crate) rows: Vec<Row>,
}

impl Selected {
    /// The reading of a row.
    pub(crate) fn reading(&self, row: &Row) -> ReadingRef<'_> {
        match self.frames[row.frame as usize].record_at(row.position) {
            Some(Record::Reading(reading)) => reading,
            _ => unreachable!("rows point at readings"),
        }
    }
}
