use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use buffer::frame::{ReadingHeader, Staged};
use model::time::SECOND;
use model::{Schema, ValueRef};
use stores::StoreError;
use stores::contract::BookLine;

use super::delivery::busy;
use crate::testing::{SERIES, World, device, numbers, plain, query, stage, stage_letter, stage_retained};
use crate::{DEAD_LETTERS, HISTORY, LATEST};

fn line<'a>(lines: &'a [BookLine], sink: &str, tenant: &str) -> &'a BookLine {
    lines.iter().find(|l| l.sink == sink && &*l.tenant == tenant).unwrap()
}

fn assert_balanced(lines: &[BookLine]) {
    for line in lines {
        assert!(line.balances(), "{line:?}");
    }
}

fn append(world: &World, first: u64) {
    world.log.append(|staged| {
        (first..first + 20).for_each(|n| stage(staged, if n % 5 == 0 { "acme" } else { "default" }, n, 3));
        stage(staged, "default", first + 1, 3);
        stage_letter(staged, "no JSON");
        stage_retained(staged, b"on");
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_books_balance_at_any_moment_under_load() {
    let mut world = World::new();
    world.config.history.flush_secs = 0.02;
    world.config.latest.flush_secs = 0.01;
    world.history.refuse(|block| {
        numbers([block]).keys().any(|n| n % 97 == 0).then(|| StoreError::Refused("value is cursed".to_owned()))
    });
    let world = Arc::new(world);
    let running = world.start().await;
    let writer = Arc::clone(&world);
    let writing = tokio::spawn(async move {
        let begun = Instant::now();
        let mut frames = 0;
        while begun.elapsed() < Duration::from_millis(1_500) {
            append(&writer, frames * 20);
            frames += 1;
            tokio::time::sleep(Duration::from_micros(300)).await;
        }
        frames
    });
    let mut checked = 0;
    while !writing.is_finished() {
        assert_balanced(&running.handle.books().books(false).await.unwrap());
        let lines = running.handle.books().books(true).await.unwrap();
        assert_balanced(&lines);
        for line in lines.iter().filter(|l| l.sink != LATEST) {
            assert_eq!(line.held, Some(line.expected), "{line:?}");
        }
        checked += 1;
    }
    assert!(checked > 3, "only {checked} checks");
    let frames = writing.await.unwrap();
    let lines = running.handle.books().books(false).await.unwrap();
    assert_eq!(line(&lines, HISTORY, "acme").accepted, frames * 4);
    assert_eq!(line(&lines, HISTORY, "default").accepted, frames * 18);
    assert_eq!(line(&lines, LATEST, "default").accepted, frames * 18);
    assert_eq!(line(&lines, DEAD_LETTERS, "default").accepted, frames);
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_books_are_recomputed_after_a_restart_with_sinks_at_different_places() {
    let world = World::new();
    let running = world.start().await;
    append(&world, 0);
    world.done_to(HISTORY, 23).await;
    world.done_to(LATEST, 23).await;
    world.done_to(DEAD_LETTERS, 23).await;
    world.history.set_down(Some(busy("away")));
    (1..10).for_each(|n| append(&world, n * 20));
    world.done_to(LATEST, 230).await;
    running.kill().await;
    append(&world, 200);
    let running = world.start().await;
    let lines = running.handle.books().books(false).await.unwrap();
    assert_balanced(&lines);
    let history = line(&lines, HISTORY, "default");
    assert_eq!((history.accepted, history.stored, history.merged, history.dead_lettered), (11 * 18, 16, 1, 1));
    assert_eq!(history.pending, 10 * 18);
    world.history.set_down(None);
    world.done_to(HISTORY, 253).await;
    let lines = running.handle.books().books(true).await.unwrap();
    assert_balanced(&lines);
    assert_eq!(line(&lines, HISTORY, "acme").held, Some(44));
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_reading_that_the_store_lost_shows_in_the_checked_books() {
    let world = World::new();
    let running = world.start().await;
    append(&world, 0);
    world.done_to(HISTORY, 23).await;
    world.done_to(DEAD_LETTERS, 23).await;
    world.history.forget_one_block();
    let lines = running.handle.books().books(true).await.unwrap();
    assert!(lines.iter().any(|l| l.sink == HISTORY && l.held.unwrap() < l.expected));
    running.stop().await.unwrap();
}

#[tokio::test]
async fn the_books_show_in_which_hour_a_store_lacks_a_reading_over_restarts_and_refusals() {
    const PER_HOUR: u64 = 3_600;
    let mut world = World::new();
    world.config.history.flush_secs = 0.02;
    world.history.refuse(|block| {
        numbers([block]).contains_key(&7_201).then(|| StoreError::Refused("value is cursed".to_owned()))
    });
    // A reading a second: hours 0 to 4, the last of them half.
    world.log.append(|staged| (0..PER_HOUR * 3).for_each(|n| stage(staged, "default", n, 3)));
    let running = world.start().await;
    world.done_to(HISTORY, 3 * PER_HOUR).await;
    running.kill().await;
    world.log.append(|staged| (PER_HOUR * 3..PER_HOUR * 9 / 2).for_each(|n| stage(staged, "default", n, 3)));
    let running = world.start().await;
    world.done_to(HISTORY, PER_HOUR * 9 / 2).await;

    let hours = async |running: &crate::testing::Running| -> Vec<(i64, u64, Option<u64>)> {
        let lines = running.handle.books().books(true).await.unwrap();
        line(&lines, HISTORY, "default").hours.iter().map(|h| (h.hour, h.expected, h.held)).collect()
    };
    let whole: Vec<_> =
        [3_600, 3_600, 3_599, 3_600, 1_800].into_iter().zip(0..).map(|(n, h)| (h, n, Some(n))).collect();
    assert_eq!(hours(&running).await, whole);
    world.history.forget_one_block();
    let found = hours(&running).await;
    let wrong: Vec<_> = found.iter().filter(|(_, expected, held)| Some(*expected) != *held).collect();
    assert!(!wrong.is_empty() && wrong.len() < found.len(), "{found:?}");
    running.stop().await.unwrap();
}

/// Reading `n` in a payload of its own: the names in another order, another identity.
fn stage_again(staged: &mut Staged, n: u64, payload: u64) {
    let (device, schema) = (Arc::new(device(n, 7)), Arc::new(Schema::new(["even", "n"])));
    let value = n.cast_signed();
    let header = ReadingHeader { time: value * SECOND, received: value + 9, identity: n + payload, ..plain() };
    let even = n.is_multiple_of(2).then_some(ValueRef::Bool(true));
    staged.reading(&device, &schema, &header, [even, Some(ValueRef::Int(value))]);
}

#[tokio::test(start_paused = true)]
async fn a_reading_in_another_payload_is_the_same_before_and_after_each_flush_and_restart() {
    let mut world = World::new();
    let series = world.add_series();
    // The log keeps what every store has, as its settings say.
    world.log.keeps_all.store(true, Ordering::Relaxed);
    world.append(0, 100, 7);
    let mut end = 100;
    for payload in 1..4 {
        let running = world.start().await;
        // Each twice in one range, and in the range before.
        for _ in 0..2 {
            world.log.append(|staged| (0..50).for_each(|n| stage_again(staged, n, payload * 1_000)));
        }
        end += 100;
        let before = query(&running.handle, &world.history, &device(3, 7)).await;
        world.done_to(HISTORY, end).await;
        world.done_to(SERIES, end).await;
        assert_eq!(query(&running.handle, &world.history, &device(3, 7)).await, before);
        assert_eq!(numbers(&world.history.blocks()).into_values().collect::<Vec<_>>(), [1; 100], "each once");
        assert_eq!(series.numbers(), (0..100).collect::<Vec<_>>());
        let lines = running.handle.books().books(true).await.unwrap();
        for line in lines.iter().filter(|line| line.sink == HISTORY || line.sink == SERIES) {
            assert!(line.balances() && line.agrees(), "{line:?}");
            assert_eq!((line.stored, line.merged, line.held), (100, end - 100, Some(100)));
        }
        running.stop().await.unwrap();
    }
}
