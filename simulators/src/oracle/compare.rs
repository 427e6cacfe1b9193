//! Compares the readings of a device with a store.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use model::{Nanos, Value};

use super::findings::{Fault, Finding, StoreReport};
use crate::ledger::{Ledger, Outcome};
use crate::plan::{Device, Fate, Message, Messages, Reading};

/// A device time further ahead than this may have been replaced by the time of receipt, and is not
/// compared. A second less than Weir's default, for the time in transit.
const AHEAD: Duration = Duration::from_secs(599);

/// A stored reading.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// Ordering time.
    pub time: Nanos,
    /// The device's time, when it was too far ahead to be the ordering time.
    pub claimed: Option<Nanos>,
    /// The device's sequence.
    pub sequence: Option<u64>,
    /// Values by name.
    pub values: Vec<(Arc<str>, Value)>,
}

/// Identity of a reading of a device.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Sequence(u64),
    Time(Nanos),
    /// Without time and sequence, readings are counted.
    Values(String),
}

struct Expected {
    reading: Reading,
    outcome: Option<Outcome>,
    /// Planned readings with this key: more than one only if they are indistinguishable.
    planned: u64,
    acknowledged: u64,
    found: u64,
}

/// Messages and dead letters of a device in a store.
#[derive(Debug, Default)]
pub(super) struct Letters {
    /// Payloads of its dead letters.
    pub(super) payloads: HashSet<Vec<u8>>,
}

/// Differences from the sent reading that a store may have.
pub(super) struct Allowance<'a> {
    /// The reading in the form that the store writes.
    pub(super) as_stored: &'a dyn Fn(&Reading) -> Reading,
    /// True when the store may lack the reading.
    pub(super) missing: &'a dyn Fn(&Reading) -> bool,
}

const NONE: Allowance<'static> = Allowance { as_stored: &Reading::clone, missing: &|_| false };

/// Compares the stored readings of a device with the sent ones. Adds to `report`.
pub fn check_device(report: &mut StoreReport, ledger: &Ledger, device: &Device, stored: &[Stored]) {
    check(report, ledger, device, stored, &NONE, None);
}

pub(super) fn check_as(
    report: &mut StoreReport,
    ledger: &Ledger,
    device: &Device,
    stored: &[Stored],
    allowance: &Allowance<'_>,
) {
    check(report, ledger, device, stored, allowance, None);
}

pub(super) fn check_with_letters(
    report: &mut StoreReport,
    ledger: &Ledger,
    device: &Device,
    stored: &[Stored],
    letters: &Letters,
) {
    check(report, ledger, device, stored, &NONE, Some(letters));
}

fn check(
    report: &mut StoreReport,
    ledger: &Ledger,
    device: &Device,
    stored: &[Stored],
    allowance: &Allowance<'_>,
    letters: Option<&Letters>,
) {
    let mut expected: HashMap<Key, Expected> = HashMap::new();
    for message in Messages::new(device) {
        let outcome = ledger.outcome(device.index, message.number);
        check_letter(report, device, &message, outcome, letters);
        for reading in message.readings {
            let needed = outcome == Some(Outcome::Acknowledged) && !(allowance.missing)(&reading);
            let acknowledged = u64::from(needed);
            report.acknowledged += acknowledged;
            let reading = (allowance.as_stored)(&reading);
            let known = expected.entry(key(&reading)).or_insert_with(|| Expected {
                reading,
                outcome,
                planned: 0,
                acknowledged: 0,
                found: 0,
            });
            known.planned += 1;
            known.acknowledged += acknowledged;
            known.outcome = known.outcome.max(outcome);
        }
    }
    for row in stored {
        report.held += 1;
        let place = find(&mut expected, row);
        let Some(known) = place else {
            report.findings.add(Fault::Unexpected, || of_row(device, row, "it was never sent".into()));
            continue;
        };
        known.found += 1;
        if known.outcome.is_none() && ledger.complete {
            report.findings.add(Fault::Unexpected, || of_row(device, row, "its message was never sent".into()));
        } else if known.found > known.planned {
            report.findings.add(Fault::Doubled, || of_row(device, row, format!("{} times", known.found)));
        } else if let Some((fault, detail)) = difference(&known.reading, row) {
            report.findings.add(fault, || of_row(device, row, detail));
        }
    }
    let mut missing: Vec<_> = expected.values().filter(|known| known.found < known.acknowledged).collect();
    missing.sort_by_key(|known| (known.reading.sequence, known.reading.time));
    for known in missing {
        for _ in known.found..known.acknowledged {
            report
                .findings
                .add(Fault::Missing, || of_reading(device, &known.reading, "acknowledged, but not stored".into()));
        }
    }
    for known in expected.values() {
        report.unacknowledged += known.found.min(known.planned).saturating_sub(known.acknowledged);
    }
}

fn check_letter(
    report: &mut StoreReport,
    device: &Device,
    message: &Message,
    outcome: Option<Outcome>,
    letters: Option<&Letters>,
) {
    // MQTT 3.1.1 acknowledges unreadable messages like any other.
    let taken = matches!(outcome, Some(Outcome::Quarantined | Outcome::Acknowledged));
    let (Some(letters), true, false) = (letters, taken, message.fate == Fate::Stored) else { return };
    if letters.payloads.contains(&message.payload) {
        report.dead_letters += 1;
    } else {
        let detail = format!("message {} was acknowledged and cannot be read", message.number);
        report.findings.add(Fault::MissingLetter, || Finding {
            device: device.id.to_string(),
            time: None,
            sequence: None,
            detail,
        });
    }
}

/// Checks that the latest value of each name is not older than the newest acknowledged one, and
/// that it was sent.
pub fn check_latest(report: &mut StoreReport, ledger: &Ledger, device: &Device, latest: &[Stored]) {
    let mut newest: HashMap<Arc<str>, (Nanos, Option<u64>)> = HashMap::new();
    for message in Messages::new(device) {
        if ledger.outcome(device.index, message.number) != Some(Outcome::Acknowledged) {
            continue;
        }
        let ahead = ledger.header.start + i64::try_from((message.due + AHEAD).as_nanos()).unwrap_or(i64::MAX);
        for reading in message.readings {
            let Some(time) = reading.time.filter(|time| *time < ahead) else { continue };
            for (name, _) in reading.values {
                let place = (time, reading.sequence);
                newest.entry(name).and_modify(|known| *known = (*known).max(place)).or_insert(place);
            }
        }
    }
    for row in latest {
        for (name, _) in &row.values {
            let Some((time, sequence)) = newest.remove(name) else { continue };
            if (row.time, row.sequence) < (time, sequence) {
                let detail = format!("the latest {name} is older than one acknowledged at {}", text(time));
                report.findings.add(Fault::ReorderedLatest, || of_row(device, row, detail));
            }
        }
    }
    for (name, (time, sequence)) in newest {
        report.findings.add(Fault::ReorderedLatest, || Finding {
            device: device.id.to_string(),
            time: Some(text(time)),
            sequence,
            detail: format!("{name} was acknowledged and has no latest value"),
        });
    }
}

fn key(reading: &Reading) -> Key {
    match (reading.sequence, reading.time) {
        (Some(sequence), _) => Key::Sequence(sequence),
        (None, Some(time)) => Key::Time(time),
        (None, None) => Key::Values(format!("{:?}", reading.values)),
    }
}

fn find<'a>(expected: &'a mut HashMap<Key, Expected>, row: &Stored) -> Option<&'a mut Expected> {
    let keys = [
        row.sequence.map(Key::Sequence),
        row.claimed.map(Key::Time),
        Some(Key::Time(row.time)),
        Some(Key::Values(format!("{:?}", row.values))),
    ];
    let key = keys.into_iter().flatten().find(|key| expected.contains_key(key))?;
    expected.get_mut(&key)
}

fn difference(reading: &Reading, row: &Stored) -> Option<(Fault, String)> {
    let time = row.claimed.unwrap_or(row.time);
    if let Some(expected) = reading.time
        && expected != time
    {
        return Some((Fault::Altered, format!("sent with the time {}", text(expected))));
    }
    for (name, expected) in &reading.values {
        let Some((_, found)) = row.values.iter().find(|(other, _)| other == name) else {
            return Some((Fault::Altered, format!("{name} is missing; sent as {expected}")));
        };
        if expected.kind() != found.kind() {
            let (was, is) = (expected.kind(), found.kind());
            return Some((Fault::Mistyped, format!("{name} is {found} ({is:?}), sent as {expected} ({was:?})")));
        }
        if !expected.as_ref().same(found.as_ref()) {
            return Some((Fault::Altered, format!("{name} is {found}, sent as {expected}")));
        }
    }
    let extra = row.values.iter().find(|(name, _)| reading.values.iter().all(|(other, _)| other != name));
    extra.map(|(name, value)| (Fault::Altered, format!("{name} = {value} was not sent")))
}

fn of_row(device: &Device, row: &Stored, detail: String) -> Finding {
    Finding { device: device.id.to_string(), time: Some(text(row.time)), sequence: row.sequence, detail }
}

fn of_reading(device: &Device, reading: &Reading, detail: String) -> Finding {
    Finding { device: device.id.to_string(), time: reading.time.map(text), sequence: reading.sequence, detail }
}

fn text(time: Nanos) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(time)).map_or_else(|_| format!("{time} ns"), |t| t.to_string())
}
