//! How far a sink has come in a log.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A sink's place in one log, moved in one atomic, durable step together with its tallies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// Every record below this offset is durable in the sink.
    pub done_to: u64,
    /// Records in `done_to..sealed_to` are being written as one range: a restart cuts the same range again.
    pub sealed_to: u64,
    /// The lease under which it was moved; a lower one may not move it any more.
    pub epoch: u64,
    /// What became of the records below `done_to`, by tenant. For every sink the sums over all tenants and kinds make
    /// `done_to` less the offset at which the log began.
    pub tallies: BTreeMap<String, Tally>,
    /// Of what was stored, how much lies in which hour, by tenant; only of sinks whose stores can be asked for that.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hours: BTreeMap<String, Hours>,
}

/// Readings stored by the hour of their ordering time, in hours since 1970; the latest [`HOURS`] hours that hold any. Those before
/// the first are left out once there are so many: an hour that is here is here with all its readings.
pub type Hours = BTreeMap<i64, u64>;

/// Hours that are kept apart.
pub const HOURS: usize = 96;

/// Adds an hour's readings.
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

/// Adds the readings of several hours: the latest first, so that what is older than what is kept does not push it out on the way.
pub fn add_hours(kept: &mut Hours, more: &Hours) {
    more.iter().rev().for_each(|(hour, count)| add_hour(kept, *hour, *count));
}

/// What became of the records that a sink has passed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Readings stored.
    pub stored: u64,
    /// Readings that were equal to one stored already.
    pub merged: u64,
    /// Messages and readings in the dead letters.
    pub dead_lettered: u64,
    /// Records that are no telemetry: retained messages.
    pub other: u64,
    /// Readings that were no longer in the log when the sink was first configured: it never saw them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub missed: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Tally {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.stored + self.merged + self.dead_lettered + self.other + self.missed
    }

    /// Adds another's counts.
    pub fn add(&mut self, other: &Self) {
        self.stored += other.stored;
        self.merged += other.merged;
        self.dead_lettered += other.dead_lettered;
        self.other += other.other;
        self.missed += other.missed;
    }
}

/// Whether a cursor may be forgotten: not by a lower epoch.
pub(crate) fn check_forget(sink: &str, held: Option<&Cursor>, epoch: u64) -> Result<(), crate::log::CursorError> {
    match held.filter(|held| epoch < held.epoch) {
        Some(held) => Err(crate::log::CursorError::Fenced { sink: sink.to_owned(), held: held.epoch, tried: epoch }),
        None => Ok(()),
    }
}

/// Whether a cursor may be moved: not by a lower epoch, not back, not past the durable end.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_that_is_kept_has_all_its_readings() {
        let (mut kept, mut all) = (Hours::new(), Hours::new());
        let mut random = 1_u64;
        for n in 0..5_000_i64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // Mostly the newest, now and then one of long ago.
            let hour = n / 20 - i64::try_from(random >> 33).unwrap() % if n % 7 == 0 { 200 } else { 3 };
            add_hour(&mut kept, hour, 2);
            *all.entry(hour).or_default() += 2;
        }
        assert_eq!(kept.len(), HOURS);
        assert!(kept.iter().all(|(hour, count)| all[hour] == *count), "{kept:?}");
        assert!(kept.keys().eq(all.keys().skip(all.len() - HOURS)), "the latest ones");
    }
}
