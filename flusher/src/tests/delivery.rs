use std::sync::Arc;
use std::sync::atomic::Ordering;

use buffer::{Log, ReadError};
use stores::StoreError;

use crate::testing::{FakeLog, World, device, numbers, stage_letter, until};
use crate::{Claim, Error, HISTORY, LATEST, SinkState};

pub(super) fn busy(reason: &str) -> StoreError {
    StoreError::busy(reason)
}

#[tokio::test(start_paused = true)]
async fn a_store_that_comes_back_gets_everything_and_stops_no_other_sink() {
    let world = World::new();
    world.history.set_down(Some(busy("connection refused")));
    let running = world.start().await;
    world.append(0, 1_000, 10);
    until("history reports why", async || {
        matches!(running.state(HISTORY).state, SinkState::Retrying { reason, .. } if reason == "connection refused")
    })
    .await;
    world.done_to(LATEST, 1_000).await;
    assert_eq!(running.state(LATEST).state, SinkState::Running);
    assert_eq!(running.state(HISTORY).lag_records, 1_000);
    assert_eq!(world.log.start(), 0, "the log keeps the records that history has not stored");
    world.history.set_down(None);
    world.done_to(HISTORY, 1_000).await;
    assert_eq!(running.state(HISTORY).state, SinkState::Running);
    assert_eq!(numbers(&world.history.blocks()).len(), 1_000);
    assert_eq!(world.history.done.load(Ordering::Relaxed), 1_000, "the store may merge");
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_store_that_needs_an_operator_pauses_its_sink_which_continues_after_the_repair() {
    let world = World::new();
    world.history.set_down(Some(StoreError::NeedsOperator("401 unauthorized".to_owned())));
    let running = world.start().await;
    world.append(0, 100, 3);
    until("history is paused", async || {
        matches!(running.state(HISTORY).state, SinkState::Paused { reason, .. } if reason == "401 unauthorized")
    })
    .await;
    world.done_to(LATEST, 100).await;
    world.history.set_down(None);
    world.done_to(HISTORY, 100).await;
    assert_eq!(running.state(HISTORY).state, SinkState::Running);
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn only_the_guilty_readings_become_dead_letters() {
    let world = World::new();
    let guilty = |n: i64| n % 701 == 13;
    world.history.refuse(move |block| {
        let found = numbers([block]);
        found.keys().any(|n| guilty(*n)).then(|| StoreError::Refused("value is cursed".to_owned()))
    });
    let running = world.start().await;
    world.append(0, 5_000, 4);
    world.done_to(HISTORY, 5_000).await;
    let stored = numbers(&world.history.blocks());
    assert!(stored.values().all(|times| *times == 1));
    assert!(stored.keys().all(|n| !guilty(*n)));
    let letters = world.letters.letters.lock().clone();
    let wanted: Vec<i64> = (0..5_000).filter(|n| guilty(*n)).collect();
    assert_eq!(stored.len() + wanted.len(), 5_000);
    let blamed: Vec<i64> = letters.keys().map(|(offset, _)| i64::try_from(*offset).unwrap()).collect();
    assert_eq!(blamed, wanted);
    let letter = &letters[&(13, HISTORY.to_owned())];
    assert_eq!((&*letter.reason, letter.device.as_deref()), ("value is cursed", Some("d1")));
    assert_eq!(letter.payload, br#"{"n":13,"ts":13000000000}"#);
    let tally = world.log.cursor(HISTORY).tallies["default"];
    assert_eq!((tally.stored, tally.dead_lettered), (stored.len() as u64, wanted.len() as u64));
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_too_large_is_split_and_nothing_is_lost() {
    let world = World::new();
    world.history.refuse(|block| (block.times.len() > 10).then(|| StoreError::TooLarge("413".to_owned())));
    let running = world.start().await;
    world.append(0, 1_000, 4);
    world.done_to(HISTORY, 1_000).await;
    assert_eq!(numbers(&world.history.blocks()).len(), 1_000);
    assert!(world.letters.letters.lock().is_empty());
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_crash_while_the_guilty_are_looked_for_changes_nothing() {
    for step in 0.. {
        let world = World::new();
        world.history.refuse(|block| {
            numbers([block]).contains_key(&37).then(|| StoreError::Refused("value is cursed".to_owned()))
        });
        world.append(0, 100, 2);
        let running = world.start().await;
        world.fate.crash_at(step);
        let crashed = tokio::select! {
            () = world.done_to(HISTORY, 100) => false,
            () = world.fate.crashed() => true,
        };
        running.kill().await;
        world.history.crash(1);
        world.fate.live();
        let running = world.start().await;
        world.done_to(HISTORY, 100).await;
        running.stop().await.unwrap();
        let stored = numbers(&world.history.blocks());
        assert_eq!((stored.len(), stored.contains_key(&37)), (99, false), "crash at step {step}");
        assert_eq!(world.letters.letters.lock().len(), 1);
        assert_eq!(world.log.cursor(HISTORY).tallies["default"].dead_lettered, 1);
        if !crashed {
            assert!(step > 10);
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_store_does_not_hold_up_the_latest_states() {
    let world = World::new();
    let held = world.history.slow.acquire_many(1_000).await.unwrap();
    let running = world.start().await;
    for n in 0..50 {
        world.append(n * 10, n * 10 + 10, 5);
        let state = running.handle.latest().get(&[device(4, 5)]).await.unwrap().remove(0).unwrap();
        assert_eq!(state.readings, n * 2 + 2);
    }
    world.done_to(LATEST, 500).await;
    assert_eq!(world.log.cursor(HISTORY).done_to, 0);
    drop(held);
    world.done_to(HISTORY, 500).await;
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_lost_its_lease_writes_no_cursor_and_the_other_log_goes_on() {
    let world = World::new();
    let other = Arc::new(FakeLog::new("other", Arc::clone(&world.fate)));
    let running = world.start_with(vec![Claim::sole(world.log.clone()), Claim::sole(other.clone())]).await;
    world.sinks().iter().for_each(|sink| world.log.take_over(sink, 2));
    world.append(0, 10, 1);
    until("the sink ends", async || matches!(running.state(HISTORY).state, SinkState::Ended { .. })).await;
    assert_eq!(world.log.cursor(HISTORY).done_to, 0);
    other.append(|staged| stage_letter(staged, "no JSON"));
    until("the other log is done", async || other.cursor(HISTORY).done_to == 1).await;
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_damaged_log_ends_the_flusher_and_names_the_task() {
    let world = World::new();
    *world.log.damaged.lock() = Some(ReadError::Damaged("00.log at byte 4096".to_owned()));
    let running = world.start().await;
    world.append(0, 10, 1);
    let Err(Error::Ended { task, reason }) = running.ended().await else { panic!("it has to end") };
    assert!(task.contains("of log"), "{task}");
    assert!(reason.contains("byte 4096"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn a_cursor_outside_its_log_is_refused_at_the_start() {
    let world = World::new();
    let running = world.start().await;
    world.append(0, 10, 1);
    world.done_to(HISTORY, 10).await;
    running.stop().await.unwrap();
    let shorter = FakeLog::new("log", Arc::clone(&world.fate));
    shorter.append(|staged| stage_letter(staged, "one record, where ten were"));
    shorter.adopt_cursors(&world.log);
    let claims = vec![Claim::sole(Arc::new(shorter))];
    let started =
        crate::Flusher::start(world.config.clone(), claims, world.projections(), world.stores(), Arc::default());
    let started = started.await;
    let error = started.err().unwrap().to_string();
    assert!(error.contains("sink history is at offset 10, the log ends at 1"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn readings_that_come_again_in_a_later_range_are_stored_once() {
    let world = World::new();
    let running = world.start().await;
    world.append(0, 100, 7);
    world.done_to(HISTORY, 100).await;
    world.append(50, 150, 7);
    world.done_to(HISTORY, 200).await;
    let found = numbers(&world.history.blocks());
    assert_eq!(found.len(), 150);
    assert!(found.values().all(|times| *times == 1), "no reading is stored twice");
    let tally = world.log.cursor(HISTORY).tallies["default"];
    assert_eq!((tally.stored, tally.merged), (150, 50));
    running.stop().await.unwrap();
}
