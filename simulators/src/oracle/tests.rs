//! The oracle finds each kind of difference.

use std::path::PathBuf;

use model::Value;

use super::*;
use crate::ledger::{Header, Outcome, Record, Writer};
use crate::plan::{Device, Messages};
use crate::scenario::{parse, shipped};

const START: i64 = 1_767_225_600_000_000_000;

struct World {
    ledger: Ledger,
    device: Device,
    /// Rows of a store without differences.
    rows: Vec<Stored>,
    _dir: tempfile::TempDir,
}

/// A device whose readings were all acknowledged but the last, which was sent.
fn world() -> World {
    let scenario = parse(shipped("steady").unwrap()).unwrap().scaled(0.01, 0.5);
    let folder = PathBuf::from(".");
    let device = plan::devices(&scenario, &folder, START).unwrap().remove(0);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger");
    let header = Header { scenario, folder, start: START, broker: String::new() };
    let (writer, recorder) = Writer::create(&path, &header).unwrap();
    let messages: Vec<_> = Messages::new(&device).collect();
    let count = messages.len() as u64;
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut rows = Vec::new();
    for message in messages {
        let outcome = if message.number + 1 == count { Outcome::Sent } else { Outcome::Acknowledged };
        let record =
            Record { device: device.index, number: message.number, sent_micros: 0, latency_micros: 0, outcome };
        runtime.block_on(recorder.record(record));
        for reading in message.readings {
            let time = reading.time.unwrap();
            rows.push(Stored { time, claimed: None, sequence: reading.sequence, values: reading.values });
        }
    }
    drop(recorder);
    writer.finish().unwrap();
    World { ledger: Ledger::read(&path).unwrap(), device, rows, _dir: dir }
}

fn checked(world: &World, rows: &[Stored]) -> StoreReport {
    let mut report = StoreReport::new("test");
    check_device(&mut report, &world.ledger, &world.device, rows);
    report
}

/// Asserts that there is one difference, of this kind, with its device and sequence.
fn only(report: &StoreReport, fault: Fault, sequence: Option<u64>) {
    for kind in Fault::ALL {
        assert_eq!(report.findings.count(kind), u64::from(kind == fault), "{kind:?}: {report}");
    }
    let finding = &report.findings.named(fault)[0];
    assert_eq!((finding.device.as_str(), finding.sequence), ("room-000", sequence), "{report}");
    assert!(report.to_string().contains("FAULTY") && report.to_string().contains("room-000"), "{report}");
}

#[test]
fn a_faultless_store_is_clean_with_and_without_what_was_not_acknowledged() {
    let world = world();
    let report = checked(&world, &world.rows);
    assert!(report.findings.is_clean(), "{report}");
    assert_eq!((report.unacknowledged, report.held), (1, world.rows.len() as u64));
    let report = checked(&world, &world.rows[..world.rows.len() - 1]);
    assert!(report.findings.is_clean() && report.unacknowledged == 0, "{report}");
}

#[test]
fn a_reading_that_is_gone_is_missing() {
    let mut world = world();
    world.rows.remove(5);
    only(&checked(&world, &world.rows), Fault::Missing, Some(5));
}

#[test]
fn a_reading_that_is_there_twice_is_doubled_also_with_another_time() {
    let mut world = world();
    world.rows.push(world.rows[7].clone());
    only(&checked(&world, &world.rows), Fault::Doubled, Some(7));
    world.rows.last_mut().unwrap().time += 1;
    only(&checked(&world, &world.rows), Fault::Doubled, Some(7));
}

#[test]
fn another_digit_another_time_a_lost_or_an_added_value_are_alterations() {
    let world = world();
    let change = |change: &dyn Fn(&mut Stored)| {
        let mut rows = world.rows.clone();
        change(&mut rows[3]);
        only(&checked(&world, &rows), Fault::Altered, Some(3));
    };
    change(&|row| row.time += 1);
    change(&|row| row.values.retain(|(name, _)| &**name != "humidity"));
    change(&|row| row.values.push(("extra".into(), Value::Int(1))));
    change(&|row| {
        for (name, value) in &mut row.values {
            if &**name == "humidity" {
                *value = Value::Float(45.000_000_001);
            }
        }
    });
}

#[test]
fn a_value_of_another_type_is_mistyped() {
    let mut world = world();
    for (name, value) in &mut world.rows[4].values {
        if &**name == "occupied" {
            *value = Value::Int(1);
        }
    }
    only(&checked(&world, &world.rows), Fault::Mistyped, Some(4));
}

#[test]
fn a_reading_that_nobody_sent_is_unexpected() {
    let mut world = world();
    let mut row = world.rows[0].clone();
    row.sequence = Some(1_000_000);
    row.time += 77;
    world.rows.push(row);
    only(&checked(&world, &world.rows), Fault::Unexpected, Some(1_000_000));
}

#[test]
fn a_latest_value_that_went_back_is_reported() {
    let world = world();
    let latest = |row: &Stored| {
        let one = |(name, value): &(std::sync::Arc<str>, Value)| Stored {
            values: vec![(name.clone(), value.clone())],
            ..row.clone()
        };
        row.values.iter().map(one).collect::<Vec<_>>()
    };
    let check = |rows: &[Stored]| {
        let mut report = StoreReport::new("test");
        check_latest(&mut report, &world.ledger, &world.device, rows);
        report.findings.count(Fault::ReorderedLatest)
    };
    let last = world.rows.len() - 1;
    assert_eq!(check(&latest(&world.rows[last])), 0, "newer than anything acknowledged");
    assert_eq!(check(&latest(&world.rows[last - 1])), 0);
    assert_eq!(check(&latest(&world.rows[last - 2])), 4, "each of the four values is older");
    assert_eq!(check(&[]), 4, "none is there");
}

#[test]
fn only_the_first_ten_of_a_kind_are_named_and_all_are_counted() {
    let world = world();
    let report = checked(&world, &world.rows[..2]);
    assert_eq!(report.findings.count(Fault::Missing), world.rows.len() as u64 - 3);
    assert_eq!(report.findings.named(Fault::Missing).len(), 10);
    assert_eq!(report.findings.named(Fault::Missing)[0].sequence, Some(2));
}

#[test]
fn an_unreadable_message_that_was_acknowledged_and_is_no_dead_letter_is_reported() {
    let scenario = parse(shipped("garbage-device").unwrap()).unwrap();
    let folder = PathBuf::from(".");
    let devices = plan::devices(&scenario, &folder, START).unwrap();
    let device = devices.iter().find(|d| d.kind.group.name == "garbage").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger");
    let header = Header { scenario: scenario.clone(), folder, start: START, broker: String::new() };
    let (writer, recorder) = Writer::create(&path, &header).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (mut rows, mut letters) = (Vec::new(), compare::Letters::default());
    for message in Messages::new(device) {
        let stored = message.fate == plan::Fate::Stored;
        let outcome = if stored { Outcome::Acknowledged } else { Outcome::Quarantined };
        let record =
            Record { device: device.index, number: message.number, sent_micros: 0, latency_micros: 0, outcome };
        runtime.block_on(recorder.record(record));
        if !stored {
            letters.payloads.insert(message.payload);
        }
        rows.extend(message.readings.into_iter().map(|reading| Stored {
            time: reading.time.unwrap(),
            claimed: None,
            sequence: reading.sequence,
            values: reading.values,
        }));
    }
    drop(recorder);
    writer.finish().unwrap();
    let ledger = Ledger::read(&path).unwrap();
    let check = |letters: &compare::Letters| {
        let mut report = StoreReport::new("test");
        compare::check_with_letters(&mut report, &ledger, device, &rows, letters);
        report
    };
    let report = check(&letters);
    assert!(report.findings.is_clean() && report.dead_letters > 3, "{report}");
    // Oversize payloads are equal; truncated ones differ.
    let one = letters.payloads.iter().find(|payload| payload[0] == b'{').unwrap().clone();
    letters.payloads.remove(&one);
    let report = check(&letters);
    assert_eq!(report.findings.count(Fault::MissingLetter), 1, "{report}");
    assert!(report.findings.named(Fault::Missing).is_empty(), "{report}");
}
