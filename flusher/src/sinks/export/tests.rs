use std::sync::Arc;

use buffer::Log;
use buffer::frame::{ReadingHeader, Record, Staged};
use model::{Schema, ValueRef};
use stores::StoreError;
use stores::contract::BookLine;

use super::place::seqs;
use crate::projections::ExportSpec;
use crate::sinks::history::cut::{self, Placed};
use crate::testing::{FakeSeries, SERIES, World, device, frame, numbers, plain, stage_letter, stage_retained, until};
use crate::{DEAD_LETTERS, HISTORY, Pace, Refill, SinkState, StartAt};

fn world() -> (World, Arc<FakeSeries>) {
    let mut world = World::new();
    let series = world.add_series();
    (world, series)
}

fn line<'a>(lines: &'a [BookLine], sink: &str) -> &'a BookLine {
    lines.iter().find(|line| line.sink == sink).unwrap()
}

fn assert_books(lines: &[BookLine]) {
    for line in lines {
        assert!(line.balances(), "{line:?}");
        assert!(line.held.is_none_or(|held| held == line.expected), "{line:?}");
    }
}

fn all(to: i64) -> Vec<i64> {
    (0..to).collect()
}

#[tokio::test(start_paused = true)]
async fn an_export_follows_at_its_own_pace_and_has_a_line_in_the_books() {
    let (mut world, series) = world();
    world.config.history.flush_secs = 1_000.0;
    let running = world.start().await;
    world.append(0, 1_000, 7);
    world.log.append(|staged| stage_letter(staged, "no JSON"));
    world.log.append(|staged| stage_retained(staged, b"on"));
    world.done_to(SERIES, 1_002).await;
    assert_eq!(series.numbers(), all(1_000));
    assert_eq!(world.log.cursor(HISTORY).done_to, 0);
    assert_eq!(running.state(SERIES).lag_records, 0);
    let lines = running.handle.books().books(true).await.unwrap();
    assert_books(&lines);
    let line = line(&lines, SERIES);
    assert_eq!((line.accepted, line.stored, line.dead_lettered, line.held), (1_001, 1_000, 1, Some(1_000)));
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_export_that_is_away_stops_no_other_sink_and_gets_everything_later() {
    let (world, series) = world();
    series.set_down(Some(StoreError::busy("connection refused")));
    let running = world.start().await;
    world.append(0, 500, 3);
    world.done_to(HISTORY, 500).await;
    until("the export reports why", async || {
        matches!(running.state(SERIES).state, SinkState::Retrying { reason, .. } if reason == "connection refused")
    })
    .await;
    assert_eq!(running.state(HISTORY).state, SinkState::Running);
    assert_eq!(world.log.start(), 0, "the log keeps the records that are not exported");
    let lines = running.handle.books().books(true).await.unwrap();
    assert_books(&lines);
    assert_eq!((line(&lines, HISTORY).held, line(&lines, SERIES).held), (Some(500), None), "others are still checked");
    series.set_down(None);
    world.done_to(SERIES, 500).await;
    assert_eq!(series.numbers(), all(500));
    until("the log lets go", async || world.log.start() == 500).await;
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn only_the_guilty_readings_become_dead_letters_of_the_export_and_the_books_balance() {
    let (world, series) = world();
    let guilty = |n: i64| n % 701 == 13;
    series.refuse(move |block| {
        numbers([block]).keys().any(|n| guilty(*n)).then(|| StoreError::Refused("value is cursed".to_owned()))
    });
    // History refuses one of them, too: the letters are two.
    world.history.refuse(|block| {
        numbers([block]).contains_key(&13).then(|| StoreError::Refused("value is cursed here, too".to_owned()))
    });
    let running = world.start().await;
    world.append(0, 5_000, 4);
    world.log.append(|staged| stage_letter(staged, "no JSON"));
    world.done_to(SERIES, 5_001).await;
    world.done_to(HISTORY, 5_001).await;
    world.done_to(DEAD_LETTERS, 5_001).await;
    assert_eq!(series.numbers(), (0..5_000).filter(|n| !guilty(*n)).collect::<Vec<_>>());
    let letters = world.letters.letters.lock().clone();
    let blamed: Vec<u64> = letters.keys().filter(|(_, stage)| stage == SERIES).map(|(offset, _)| *offset).collect();
    assert_eq!(blamed, (0..5_000).filter(|n| guilty(*n)).map(i64::unsigned_abs).collect::<Vec<_>>());
    let letter = &letters[&(13, SERIES.to_owned())];
    assert_eq!((&*letter.reason, letter.device.as_deref()), ("value is cursed", Some("d1")));
    assert_eq!(letter.payload, br#"{"n":13,"ts":13000000000}"#, "the place in the millisecond is not the device's");
    let lines = running.handle.books().books(true).await.unwrap();
    assert_books(&lines);
    assert_eq!(line(&lines, SERIES).dead_lettered, blamed.len() as u64 + 1);
    assert_eq!(line(&lines, DEAD_LETTERS).held, Some(blamed.len() as u64 + 2));
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_step_loses_and_doubles_no_exported_reading() {
    for step in 0.. {
        let (world, series) = world();
        series.refuse(|block| {
            numbers([block]).contains_key(&37).then(|| StoreError::Refused("value is cursed".to_owned()))
        });
        world.append(0, 100, 2);
        let running = world.start().await;
        world.fate.crash_at(step);
        let crashed = tokio::select! {
            () = world.done_to(SERIES, 100) => false,
            () = world.fate.crashed() => true,
        };
        running.kill().await;
        world.fate.live();
        world.append(100, 150, 2);
        let running = world.start().await;
        world.done_to(SERIES, 150).await;
        world.done_to(HISTORY, 150).await;
        let lines = running.handle.books().books(true).await.unwrap();
        running.stop().await.unwrap();
        assert_eq!(series.numbers(), (0..150).filter(|n| *n != 37).collect::<Vec<_>>(), "crash at step {step}");
        assert_books(&lines);
        if !crashed {
            assert!(step > 10);
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_an_export_nothing_is_registered_and_nothing_held_back() {
    let world = World::new();
    let running = world.start().await;
    world.append(0, 100, 3);
    world.done_to(HISTORY, 100).await;
    until("the log lets go", async || world.log.start() == 100).await;
    assert!(!world.log.cursors().await.unwrap().contains_key(SERIES));
    assert!(running.handle.status().iter().all(|status| *status.sink != *SERIES));
    assert!(running.handle.books().books(true).await.unwrap().iter().all(|line| line.sink != SERIES));
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_export_that_joins_later_begins_at_the_logs_start_and_so_do_its_books() {
    let mut world = World::new();
    let running = world.start().await;
    world.append(0, 100, 3);
    world.log.append(|staged| {
        stage_letter(staged, "no JSON");
        stage_retained(staged, b"on");
    });
    for sink in world.sinks() {
        world.done_to(&sink, 102).await;
    }
    until("the log lets go", async || world.log.start() == 102).await;
    world.history.set_down(Some(StoreError::busy("away")));
    world.append(102, 200, 3);
    world.log.append(|staged| stage_letter(staged, "no JSON"));
    running.kill().await;

    let series = world.add_series();
    let running = world.start().await;
    world.done_to(SERIES, 201).await;
    assert_eq!(series.numbers(), (102..200).collect::<Vec<_>>());
    world.history.set_down(None);
    world.done_to(HISTORY, 201).await;
    world.done_to(DEAD_LETTERS, 201).await;
    let lines = running.handle.books().books(true).await.unwrap();
    assert_books(&lines);
    let line = line(&lines, SERIES);
    // Of the 200 telemetry records, the 100 readings that were gone are not counted for the export.
    assert_eq!((line.accepted, line.stored, line.dead_lettered), (100, 98, 2));
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_export_that_is_no_longer_configured_is_taken_off_the_log() {
    let (mut world, series) = world();
    series.set_down(Some(StoreError::NeedsOperator("401 unauthorized".to_owned())));
    let running = world.start().await;
    world.append(0, 100, 3);
    world.done_to(HISTORY, 100).await;
    assert_eq!(world.log.start(), 0);
    running.kill().await;
    world.exports.clear();
    let running = world.start().await;
    assert!(!world.log.cursors().await.unwrap().contains_key(SERIES));
    world.append(100, 200, 3);
    world.done_to(HISTORY, 200).await;
    until("the log lets go", async || world.log.start() == 200).await;
    assert_books(&running.handle.books().books(true).await.unwrap());
    running.stop().await.unwrap();
}

/// Writes what the history holds into the export, as `weir refill` does.
async fn refill(world: &World, series: &Arc<FakeSeries>, before: i64) -> (u64, u64) {
    let spec = ExportSpec {
        name: SERIES.into(),
        kind: "fake",
        store: Arc::clone(series) as _,
        filter: world.exports[0].filter.clone(),
        pace: Pace::export(std::time::Duration::from_secs(1), 1_000, 1 << 20),
        start: StartAt::Beginning,
    };
    let mut blocks = world.history.blocks();
    blocks.sort_by(|a, b| (&a.id.device, &a.times).cmp(&(&b.id.device, &b.times)));
    let mut refill = Refill::begin(&spec, before).await.unwrap();
    for block in blocks {
        refill.write(block).await.unwrap();
    }
    refill.counts()
}

#[tokio::test(start_paused = true)]
async fn a_refill_from_the_history_writes_the_points_of_the_deliveries_and_the_books_balance() {
    let (world, series) = world();
    let running = world.start().await;
    world.append(0, 1_000, 7);
    world.log.append(|staged| {
        // Several in a millisecond, without a sequence and with one.
        (0..20).for_each(|n| reading(staged, &ReadingHeader { seq: None, ..plain() }, 1_000 + n));
        (0..20).for_each(|n| reading(staged, &ReadingHeader { seq: Some(n), ..plain() }, 1_020 + n as i64));
    });
    world.done_to(SERIES, 1_040).await;
    world.done_to(HISTORY, 1_040).await;
    let delivered = series.points();
    assert_eq!(delivered.len(), 1_040);
    series.clear();
    assert!(!running.handle.books().books(true).await.unwrap().iter().all(BookLine::agrees), "the points are missing");
    assert_eq!(refill(&world, &series, i64::MIN).await, (0, 0), "received later");
    assert!(series.points().is_empty());
    for time in ["the first", "the second"] {
        assert_eq!(refill(&world, &series, i64::MAX).await, (1_040, 0), "{time}");
        assert_eq!(series.points(), delivered, "{time}");
        assert_books(&running.handle.books().books(true).await.unwrap());
    }
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_refill_passes_the_filter_and_counts_the_readings_that_are_refused() {
    let (mut world, series) = world();
    world.exports[0].filter.devices = vec![model::glob::Glob::new("d3")];
    let running = world.start().await;
    world.append(0, 700, 7);
    world.done_to(SERIES, 700).await;
    world.done_to(HISTORY, 700).await;
    let delivered = series.points();
    series.clear();
    series.refuse(|block| {
        let guilty = numbers([block]).contains_key(&3);
        guilty.then(|| StoreError::Refused("type conflict".to_owned()))
    });
    assert_eq!(refill(&world, &series, i64::MAX).await, (delivered.len() as u64 - 1, 1));
    assert_eq!(series.numbers(), delivered.values().copied().filter(|n| *n != 3).collect::<Vec<_>>());
    running.stop().await.unwrap();
}

fn with_rows<T>(stage: impl FnOnce(&mut Staged), use_rows: impl FnOnce(&[Placed<'_>]) -> T) -> T {
    let frame = frame(0, stage);
    let reading = |(offset, record)| match record {
        Record::Reading(reading) => (offset, reading),
        _ => panic!("a reading"),
    };
    let mut rows: Vec<Placed<'_>> = frame.records().map(reading).collect();
    cut::sort_and_merge(&mut rows);
    use_rows(&rows)
}

fn reading(staged: &mut Staged, header: &ReadingHeader<'_>, value: i64) {
    let schema = Arc::new(Schema::new(["n"]));
    staged.reading(&Arc::new(device(0, 1)), &schema, header, [Some(ValueRef::Int(value))]);
}

#[test]
fn the_place_in_a_millisecond_is_the_sequence_else_the_nanoseconds_else_made_from_the_message() {
    let headers = [
        ReadingHeader { time: 5_000_123, seq: Some(7_000_042), identity: 1, ..plain() },
        ReadingHeader { time: 6_000_123, identity: 2, ..plain() },
        ReadingHeader { time: 7_000_000, identity: 3_000_003, ..plain() },
        ReadingHeader { time: 8_000_123, identity: 4, device_timed: false, ..plain() },
    ];
    let stage = |staged: &mut Staged| headers.iter().enumerate().for_each(|(n, h)| reading(staged, h, n as i64));
    let places = with_rows(stage, |rows| seqs(rows, true));
    assert_eq!([&places[..2], &places[3..]].concat(), [Some(42), Some(123), Some(4)]);
    // Another payload with the same values has the same place; the numbers are those of every
    // release.
    let again = [ReadingHeader { identity: 5, ..headers[2] }];
    let stage_again = |staged: &mut Staged| again.iter().for_each(|header| reading(staged, header, 2));
    assert_eq!(with_rows(stage_again, |rows| seqs(rows, true)), [places[2]]);
    assert_eq!(places[2], Some(766_838));
    assert_eq!(with_rows(stage, |rows| seqs(rows, false)), [Some(7_000_042), None, None, None]);
}

#[test]
fn readings_of_one_time_have_places_of_their_own_and_the_same_when_sent_again() {
    let stage = |staged: &mut Staged| {
        for (identity, value) in [(10, 1), (11, 2), (1_000_010, 3)] {
            reading(staged, &ReadingHeader { time: 9_000_000, identity, ..plain() }, value);
            reading(staged, &ReadingHeader { time: 9_000_000, identity: 99, received: 1, ..plain() }, value);
        }
    };
    // Sent twice, in other payloads, they are three.
    let places = with_rows(stage, |rows| seqs(rows, true));
    let distinct: std::collections::BTreeSet<_> = places.iter().collect();
    assert_eq!((places.len(), distinct.len()), (3, 3));
    assert_eq!(with_rows(stage, |rows| seqs(rows, true)), places);
}

#[test]
fn a_place_that_is_taken_within_the_batch_is_the_next_free_one() {
    let stage = |staged: &mut Staged| {
        for (received, identity) in [(9_000_000, 10), (9_000_001, 11), (9_000_002, 1_000_010)] {
            let header = ReadingHeader { time: received, received, identity, device_timed: false, ..plain() };
            reading(staged, &header, 1);
        }
    };
    assert_eq!(with_rows(stage, |rows| seqs(rows, true)), [Some(10), Some(11), Some(12)]);
}
