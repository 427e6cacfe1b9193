//! Cursors of sinks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Position of a sink in one log, moved in one atomic, durable step together with its tallies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// Every record below this offset is durable in the sink.
    pub done_to: u64,
    /// Records in `done_to..sealed_to` are being written as one range: after a restart, the same
    /// range is written again.
    pub sealed_to: u64,
    /// Epoch of the lease under which it was moved; a lower one can no longer move it.
    pub epoch: u64,
    /// Outcomes of the records below `done_to`, by tenant. For every sink, the sum over all tenants
    /// and kinds is `done_to` minus the first offset of the log.
    pub tallies: BTreeMap<String, Tally>,
    /// Stored readings by hour and tenant; only of sinks whose stores can count by hour.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hours: BTreeMap<String, Hours>,
    /// Generation of the last rewind that it followed, 0 without one; see
    /// [`crate::catalogue::Rewind`].
    #[serde(default, skip_serializing_if = "is_zero")]
    pub generation: u64,
    /// Offset before its rewinds: the store may hold records below it that are delivered again.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rewound_from: u64,
}

/// Stored readings by the hour of their ordering time, in hours since 1970, for the latest
/// [`HOURS`] hours with readings. Earlier hours are omitted; an hour that is present is complete.
pub type Hours = BTreeMap<i64, u64>;

/// Number of separate hours.
pub const HOURS: usize = 96;

/// Adds the readings of an hour.
fn add_hour(hours: &mut Hours, hour: i64, count: u64) {
    let full_from = (hours.len() >= HOURS).then(|| hours.first_key_value().map_or(i64::MIN, |(first, _)| *first));
    if full_from.is_some_and(|first| hour < first) {
        return;
    }
    *hours.entry(hour).or_default() += count;
    if hours.len() > HOURS {
        hours.pop_first();
    }
}

/// Adds the readings of several hours, the latest first, so that hours that are too old do not
/// displace others.
pub fn add_hours(kept: &mut Hours, more: &Hours) {
    more.iter().rev().for_each(|(hour, count)| add_hour(kept, *hour, *count));
}

/// Outcomes of the records that a sink has passed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Stored readings.
    pub stored: u64,
    /// Readings equal to a stored one.
    pub merged: u64,
    /// Dead letters: messages and readings.
    pub dead_lettered: u64,
    /// Records that are not telemetry: retained messages.
    pub other: u64,
    /// Readings that were no longer in the log when the sink was added, and those whose contents
    /// could not be read, since the keys of their tenant were destroyed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub missed: u64,
    /// Records excluded by the filter of an export.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub filtered: u64,
    /// Readings that the store rejected: the dead letters of the sink, including those behind the
    /// cursor after a rewind. Not part of the sum.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub refused: u64,
    /// Records that the server of the log lost before the sink had them. The books do not balance
    /// by this number.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Tally {
    /// Sum of the records passed.
    pub fn total(&self) -> u64 {
        self.stored + self.merged + self.dead_lettered + self.other + self.missed + self.filtered + self.lost
    }

    /// Adds other counts.
    pub fn add(&mut self, other: &Self) {
        self.stored += other.stored;
        self.merged += other.merged;
        self.dead_lettered += other.dead_lettered;
        self.other += other.other;
        self.missed += other.missed;
        self.filtered += other.filtered;
        self.refused += other.refused;
        self.lost += other.lost;
    }
}

/// Returns an error unless a cursor may be removed: not by a lower epoch.
pub(crate) fn check_forget(sink: &str, held: Option<&Cursor>, epoch: u64) -> Result<(), crate::log::CursorError> {
    match held.filter(|held| epoch < held.epoch) {
        Some(held) => Err(crate::log::CursorError::Fenced { sink: sink.to_owned(), held: held.epoch, tried: epoch }),
        None => Ok(()),
    }
}

/// Returns an error unless a cursor may be moved: not by a lower epoch, not back, not past the
/// durable end.
pub(crate) fn check_move(
    sink: &str,
    held: Option<&Cursor>,
    to: &Cursor,
    end: u64,
) -> Result<(), crate::log::CursorError> {
    use crate::log::CursorError;
    let from = held.map_or(0, |c| c.done_to);
    if let Some(held) = held.filter(|c| to.epoch < c.epoch) {
        return Err(CursorError::Fenced { sink: sink.to_owned(), held: held.epoch, tried: to.epoch });
    }
    if to.done_to < from || to.done_to > end || to.sealed_to > end || to.sealed_to < to.done_to {
        return Err(CursorError::Backwards { sink: sink.to_owned(), from, to: to.done_to });
    }
    Ok(())
}

/// Returns an error unless an operator may set the cursor: not by a lower epoch, and only to an
/// offset that can be read.
pub(crate) fn check_rewind(
    sink: &str,
    held: Option<&Cursor>,
    to: &Cursor,
    start: u64,
    end: u64,
) -> Result<(), crate::log::CursorError> {
    use crate::log::CursorError;
    if let Some(held) = held.filter(|c| to.epoch < c.epoch) {
        return Err(CursorError::Fenced { sink: sink.to_owned(), held: held.epoch, tried: to.epoch });
    }
    if to.done_to < start || to.done_to > end || to.sealed_to != to.done_to {
        return Err(CursorError::Outside { sink: sink.to_owned(), to: to.done_to, start, end });
    }
    Ok(())
}

/// The cursors in the golden files of the cursor formats: one with every field, one with the
/// required fields only.
#[cfg(test)]
pub(crate) fn golden() -> [(&'static str, Cursor); 2] {
    let all = Tally { stored: 5, merged: 1, dead_lettered: 2, other: 3, missed: 4, filtered: 6, refused: 7, lost: 0 };
    let rewound = Cursor {
        done_to: 21,
        sealed_to: 30,
        epoch: 3,
        tallies: [("acme".to_owned(), all)].into(),
        hours: [("acme".to_owned(), [(-1, 2), (472_222, 3)].into())].into(),
        generation: 4,
        rewound_from: 70,
    };
    let tallies = [("default".to_owned(), Tally { stored: 8, ..Tally::default() })].into();
    let plain = Cursor { done_to: 8, sealed_to: 8, epoch: 3, tallies, ..Cursor::default() };
    [("events", rewound), ("history", plain)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_that_is_kept_has_all_its_readings() {
        let (mut kept, mut all) = (Hours::new(), Hours::new());
        let mut random = 1_u64;
        for n in 0..5_000_i64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // Mostly the newest hour, sometimes an old one.
            let hour = n / 20 - i64::try_from(random >> 33).unwrap() % if n % 7 == 0 { 200 } else { 3 };
            add_hour(&mut kept, hour, 2);
            *all.entry(hour).or_default() += 2;
        }
        assert_eq!(kept.len(), HOURS);
        assert!(kept.iter().all(|(hour, count)| all[hour] == *count), "{kept:?}");
        assert!(kept.keys().eq(all.keys().skip(all.len() - HOURS)), "the latest ones");
    }
}
