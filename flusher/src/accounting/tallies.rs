//! Counts of records by their fate, tenant and hour.

use std::collections::BTreeMap;

use buffer::Tally;
use buffer::cursor::Hours;
use buffer::frame::Record;
use model::{Nanos, TimeRange};

use crate::sinks::history::cut::Placed;

/// Counts of records by their fate, by tenant.
pub type Tallies = BTreeMap<String, Tally>;

/// Readings stored, by tenant and hour of their ordering time.
pub type HourTallies = BTreeMap<String, Hours>;

const HOUR: Nanos = 3_600 * 1_000_000_000;

/// The hour of an ordering time, in hours since 1970.
pub(crate) fn hour_of(time: Nanos) -> i64 {
    time.div_euclid(HOUR)
}

/// The ordering times of an hour.
pub(crate) fn times_of(hour: i64) -> TimeRange {
    let start = hour.saturating_mul(HOUR);
    TimeRange { start, end: start.saturating_add(HOUR) }
}

/// The value of `key`, made when it is new.
pub(crate) fn entry<'a, T: Default>(map: &'a mut BTreeMap<String, T>, key: &str) -> &'a mut T {
    if !map.contains_key(key) {
        map.insert(key.to_owned(), T::default());
    }
    map.get_mut(key).expect("it was inserted above")
}

/// Adds all of `more` to `sum`.
pub(crate) fn add(sum: &mut Tallies, more: &Tallies) {
    for (tenant, counts) in more {
        entry(sum, tenant).add(counts);
    }
}

/// Adds all of `more` to `sum`, however many hours that makes.
pub(crate) fn add_hours(sum: &mut HourTallies, more: &HourTallies) {
    for (tenant, counts) in more {
        let held = entry(sum, tenant);
        counts.iter().for_each(|(hour, count)| *held.entry(*hour).or_default() += count);
    }
}

/// Takes one reading of an hour back.
pub(crate) fn uncount_hour(hours: &mut HourTallies, tenant: &str, hour: i64) {
    if let Some(held) = hours.get_mut(tenant).and_then(|hours| hours.get_mut(&hour)) {
        *held = held.saturating_sub(1);
    }
}

/// Counts a record that a sink passes over: records that it does not keep are `other`, unread
/// messages are in the dead letters, and readings of a tenant whose keys were destroyed are missed.
pub(crate) fn count_passed(tallies: &mut Tallies, record: &Record<'_>) {
    let counts = entry(tallies, record.tenant());
    match record {
        Record::DeadLetter(_) => counts.dead_lettered += 1,
        Record::Destroyed(record) if record.is_telemetry => counts.missed += 1,
        Record::Reading(_) | Record::Retained(_) | Record::SessionEnd(_) | Record::Destroyed(_) => counts.other += 1,
    }
}

/// Counts rows, sorted by time, by their hours. Every hour counts here; the cursor keeps only the
/// latest ones.
pub(crate) fn count_hours(hours: &mut HourTallies, tenant: &str, rows: &[Placed<'_>]) {
    for same in rows.chunk_by(|a, b| hour_of(a.1.time) == hour_of(b.1.time)) {
        *entry(hours, tenant).entry(hour_of(same[0].1.time)).or_default() += same.len() as u64;
    }
}
