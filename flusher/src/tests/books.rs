use std::sync::Arc;
use std::time::{Duration, Instant};

use stores::StoreError;
use stores::contract::BookLine;

use super::delivery::busy;
use crate::testing::{World, numbers, stage, stage_letter, stage_retained};
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
