//! Control of exports, in one process and in a fleet.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use buffer::Log;

use super::tests::{append, log, readers, start};
use super::{FleetHandle, Readers};
use crate::testing::{BUS, FakeCatalogue, FakeLog, SERIES, World, until};
use crate::{HISTORY, SinkState, StartAt};

async fn done(log: &FakeLog, export: &str, to: u64) {
    until(&format!("{export} is done to {to}"), async || log.cursor(export).done_to == to).await;
}

async fn assert_books(readers: &Readers) {
    for line in readers.books().books(true).await.unwrap() {
        assert!(line.balances() && line.agrees(), "{line:?}");
    }
}

fn is_paused(handle: &FleetHandle, export: &str) -> bool {
    let exports = handle.exports();
    let of_export = exports.iter().filter(|status| *status.sink == *export).collect::<Vec<_>>();
    !of_export.is_empty() && of_export.iter().all(|s| s.paused && matches!(s.state, SinkState::Paused { .. }))
}

fn all(to: i64) -> Vec<i64> {
    (0..to).collect()
}

#[tokio::test(start_paused = true)]
async fn a_paused_export_delivers_nothing_over_a_restart_and_everything_when_it_is_resumed() {
    let mut world = World::new();
    let (series, catalogue) = (world.add_series(), Arc::new(FakeCatalogue::default()));
    let one = log(&world, &catalogue, "one");
    let a = start(&world, &catalogue, "a");
    append(&one, 0, 10);
    done(&one, SERIES, 10).await;
    let control = readers(&world, &catalogue, Some(a.handle.clone()));
    control.pause_export(SERIES).await.unwrap();
    until("it is paused", async || is_paused(&a.handle, SERIES)).await;
    append(&one, 10, 20);
    done(&one, HISTORY, 20).await;
    assert_eq!(one.cursor(SERIES).done_to, 10);
    assert!(one.start() <= 10, "the log keeps the records that are not delivered");
    assert_books(&control).await;
    a.stop.cancel();
    a.task.await.unwrap().unwrap();
    assert_eq!(one.cursor(SERIES).done_to, 10, "the last flush is none of an export that is paused");

    let a = start(&world, &catalogue, "a");
    until("it is paused", async || is_paused(&a.handle, SERIES)).await;
    append(&one, 20, 30);
    done(&one, HISTORY, 30).await;
    assert_eq!(series.numbers(), all(10));
    let control = readers(&world, &catalogue, Some(a.handle.clone()));
    control.resume_export(SERIES).await.unwrap();
    done(&one, SERIES, 30).await;
    assert_eq!(series.numbers(), all(30));
    assert!(!is_paused(&a.handle, SERIES));
    assert_books(&control).await;
    a.stop.cancel();
    a.task.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_paused_export_stays_paused_for_the_flusher_that_takes_its_logs_over() {
    let mut world = World::new();
    let (series, catalogue) = (world.add_series(), Arc::new(FakeCatalogue::default()));
    let logs: Vec<_> = (0..3).map(|i| log(&world, &catalogue, &format!("log{i}"))).collect();
    let a = start(&world, &catalogue, "a");
    // From a process that flushes nothing.
    let control = readers(&world, &catalogue, None);
    control.pause_export(SERIES).await.unwrap();
    until("it is paused", async || is_paused(&a.handle, SERIES) && a.handle.exports().len() == 3).await;
    for (log, from) in logs.iter().zip([0, 10, 20]) {
        append(log, from, from + 10);
        done(log, HISTORY, 10).await;
    }
    let b = start(&world, &catalogue, "b");
    a.task.abort();
    until("b holds all", async || is_paused(&b.handle, SERIES) && b.handle.exports().len() == 3).await;
    assert!(series.numbers().is_empty());
    control.resume_export(SERIES).await.unwrap();
    for log in &logs {
        done(log, SERIES, 10).await;
    }
    assert_eq!(series.numbers(), all(30));
    b.stop.cancel();
    b.task.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_rewound_export_delivers_again_from_that_time_once_and_the_books_balance() {
    let mut world = World::new();
    let (series, bus, catalogue) = (world.add_series(), world.add_bus(), Arc::new(FakeCatalogue::default()));
    series.refuse(|block| {
        let cursed = crate::testing::numbers([block]).contains_key(&37);
        cursed.then(|| stores::StoreError::Refused("value is cursed".to_owned()))
    });
    let one = log(&world, &catalogue, "one");
    one.keeps_all.store(true, Ordering::Relaxed);
    let a = start(&world, &catalogue, "a");
    for n in 0..10 {
        append(&one, n * 10, n * 10 + 10);
    }
    let without = |cursed: i64, from: i64| (from..100).filter(|n| *n != cursed).collect::<Vec<_>>();
    for export in [SERIES, BUS] {
        done(&one, export, 100).await;
    }
    assert_eq!((series.numbers(), bus.numbers()), (without(37, 0), all(100)));
    let control = readers(&world, &catalogue, Some(a.handle.clone()));
    assert_books(&control).await;

    // Reading n was received at n + 1.
    series.clear();
    control.rewind_export(SERIES, 31).await.unwrap();
    control.rewind_export(BUS, 31).await.unwrap();
    until("both have followed", async || [SERIES, BUS].iter().all(|export| one.cursor(export).generation == 1)).await;
    for export in [SERIES, BUS] {
        done(&one, export, 100).await;
    }
    assert_eq!(series.numbers(), without(37, 30));
    let mut twice = all(100);
    twice.extend(30..100);
    twice.sort_unstable();
    assert_eq!(bus.numbers(), twice, "from there on once more, and only there");
    let tally = one.cursor(SERIES).tallies["default"];
    assert_eq!((tally.stored, tally.dead_lettered, tally.refused), (99, 1, 1));
    control.rewind_export(SERIES, 0).await.unwrap();
    until("it has followed", async || one.cursor(SERIES).generation == 2).await;
    done(&one, SERIES, 100).await;
    assert_eq!(series.numbers(), without(37, 0));
    assert_books(&control).await;

    // Nothing is delivered again by a restart.
    a.stop.cancel();
    a.task.await.unwrap().unwrap();
    let a = start(&world, &catalogue, "a");
    append(&one, 100, 110);
    for export in [SERIES, BUS] {
        done(&one, export, 110).await;
    }
    assert_eq!(bus.numbers().len(), 180);
    a.stop.cancel();
    a.task.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_step_of_a_rewind_loses_nothing_and_rewinds_once() {
    for step in 0.. {
        let mut world = World::new();
        let (bus, catalogue) = (world.add_bus(), Arc::new(FakeCatalogue::default()));
        let one = log(&world, &catalogue, "one");
        one.keeps_all.store(true, Ordering::Relaxed);
        let a = start(&world, &catalogue, "a");
        for n in 0..5 {
            append(&one, n * 10, n * 10 + 10);
        }
        done(&one, BUS, 50).await;
        for sink in world.sinks() {
            done(&one, &sink, 50).await;
        }
        let control = readers(&world, &catalogue, None);
        world.fate.crash_at(step);
        control.rewind_export(BUS, 21).await.unwrap();
        let rewound = async || one.cursor(BUS).generation == 1 && one.cursor(BUS).done_to == 50;
        let crashed = tokio::select! {
            () = until("it has followed", rewound) => false,
            () = world.fate.crashed() => true,
        };
        a.task.abort();
        drop(a.task.await);
        drop(a.handle);
        world.fate.live();
        let a = start(&world, &catalogue, "a");
        append(&one, 50, 60);
        until("all is delivered", async || one.cursor(BUS).generation == 1 && one.cursor(BUS).done_to == 60).await;
        let mut wanted = all(60);
        wanted.extend(20..50);
        wanted.sort_unstable();
        assert_eq!(bus.numbers(), wanted, "crash at step {step}");
        a.stop.cancel();
        a.task.await.unwrap().unwrap();
        if !crashed {
            assert!(step > 5, "only {step} steps");
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_export_that_does_not_exist_cannot_be_set() {
    let (world, catalogue) = (World::new(), Arc::new(FakeCatalogue::default()));
    let error = readers(&world, &catalogue, None).pause_export("nosuch").await.unwrap_err();
    assert!(error.to_string().contains("no export is named \"nosuch\""), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_export_that_begins_now_leaves_out_the_logs_of_before_and_nothing_of_later_ones() {
    let (mut world, catalogue) = (World::new(), Arc::new(FakeCatalogue::default()));
    let (one, two) = (log(&world, &catalogue, "one"), log(&world, &catalogue, "two"));
    let a = start(&world, &catalogue, "a");
    append(&one, 0, 10);
    append(&two, 10, 20);
    done(&two, HISTORY, 10).await;
    a.stop.cancel();
    a.task.await.unwrap().unwrap();

    let series = world.add_series();
    world.exports[0].start = StartAt::Now;
    let a = start(&world, &catalogue, "a");
    let joined = async || [&one, &two].iter().all(|log| log.all_cursors().contains_key(SERIES));
    until("the export has joined", joined).await;
    append(&one, 20, 30);
    done(&one, SERIES, 20).await;
    done(&two, SERIES, 10).await;
    a.stop.cancel();
    a.task.await.unwrap().unwrap();
    // Made and filled while no flusher runs.
    let three = log(&world, &catalogue, "three");
    append(&three, 30, 40);
    let a = start(&world, &catalogue, "a");
    done(&three, SERIES, 10).await;
    assert_eq!(series.numbers(), (20..40).collect::<Vec<_>>());
    assert_books(&readers(&world, &catalogue, Some(a.handle.clone()))).await;
    a.stop.cancel();
    a.task.await.unwrap().unwrap();
}
