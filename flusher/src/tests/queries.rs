use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use buffer::Log;
use model::TimeRange;

use super::delivery::busy;
use crate::testing::{World, device, numbers, query, stage_letter, until};
use crate::{HISTORY, LATEST};

const DEVICES: u64 = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_durable_reading_is_seen_while_it_moves_from_memory_to_the_store() {
    let mut world = World::new();
    world.config.history.flush_secs = 0.01;
    world.config.latest.flush_secs = 0.01;
    let world = Arc::new(world);
    let running = world.start().await;
    let appended = Arc::new(AtomicU64::new(0));
    let (writer, count) = (Arc::clone(&world), Arc::clone(&appended));
    let writing = tokio::spawn(async move {
        let begun = Instant::now();
        let mut n = 0;
        while begun.elapsed() < Duration::from_secs(2) {
            writer.append(n, n + 9, DEVICES);
            n += 9;
            count.store(n, Ordering::Release);
            tokio::task::yield_now().await;
            if n % 90 == 0 {
                tokio::time::sleep(Duration::from_micros(500)).await;
            }
        }
    });
    let mut queries = 0;
    while !writing.is_finished() {
        let there = appended.load(Ordering::Acquire);
        for d in 0..DEVICES {
            let seen = query(&running.handle, &world.history, &device(d, DEVICES)).await;
            let missing: Vec<_> =
                (0..there).filter(|n| n % DEVICES == d && seen.binary_search(&(*n as i64)).is_err()).collect();
            assert!(missing.is_empty(), "of {there} readings, device {d} lacks {missing:?}");
            queries += 1;
        }
        if there > 0 {
            let states = running.handle.latest().get(&[device(0, DEVICES)]).await.unwrap();
            assert!(states[0].as_ref().unwrap().readings >= there / DEVICES);
        }
    }
    writing.await.unwrap();
    assert!(queries > 30, "only {queries} queries");
    assert!(world.history.writes.load(Ordering::Relaxed) > 10, "it has to flush meanwhile");
    let end = world.log.end();
    running.stop().await.unwrap();
    let stored = numbers(&world.history.blocks());
    assert_eq!(stored.len() as u64, end);
    assert!(stored.values().all(|times| *times == 1));
}

#[tokio::test(start_paused = true)]
async fn memory_stays_bounded_while_the_store_is_away_and_queries_still_see_everything() {
    let mut world = World::new();
    world.config.history.max_unflushed_bytes = 100_000;
    world.config.history.flush_bytes = 40_000;
    world.history.set_down(Some(busy("away")));
    let running = world.start().await;
    let mut most = 0;
    for n in 0..200 {
        world.append(n * 100, n * 100 + 100, DEVICES);
        let seen = query(&running.handle, &world.history, &device(1, DEVICES)).await;
        let wanted: Vec<i64> = (0..(n as i64 + 1) * 100).filter(|n| n % 3 == 1).collect();
        assert_eq!(seen, wanted);
        most = most.max(running.unflushed_bytes());
    }
    // The last read of the log may exceed the bound.
    assert!(most > 60_000 && most < 100_000 + (1 << 20), "{most}");
    world.done_to(LATEST, 20_000).await;
    assert_eq!(world.log.cursor(HISTORY).done_to, 0);
    world.history.set_down(None);
    world.done_to(HISTORY, 20_000).await;
    assert_eq!(numbers(&world.history.blocks()).len(), 20_000);
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_tail_holds_only_the_asked_range_and_names() {
    let mut world = World::new();
    world.config.history.flush_secs = 1_000.0;
    let running = world.start().await;
    world.append(0, 100, 2);
    let range = TimeRange { start: 10_000_000_000, end: 20_000_000_000 };
    let names = [Arc::from("even")];
    let answer = running.handle.tail().tail(&device(0, 2), range, Some(&names)).await.unwrap();
    let [block] = &answer.blocks[..] else { panic!("one block") };
    assert_eq!(block.times, [10, 12, 14, 16, 18].map(|s| s * 1_000_000_000));
    assert_eq!(block.columns.len(), 1);
    let unknown = running.handle.tail().tail(&device(7, 100), range, None).await.unwrap();
    assert!(unknown.blocks.is_empty() && unknown.complete_until > 0);
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn latest_states_come_back_after_a_restart_and_are_listed_by_device() {
    let world = World::new();
    let running = world.start().await;
    world.append(0, 40, 4);
    world.done_to(LATEST, 40).await;
    running.stop().await.unwrap();
    let running = world.start().await;
    let view = running.handle.latest();
    let states = view.list("default", Some("d0"), 2).await.unwrap();
    let ids: Vec<_> = states.iter().map(|s| (&*s.device.id, s.readings)).collect();
    assert_eq!(ids, [("d1", 10), ("d2", 10)]);
    assert_eq!(view.get(&[device(5, 100)]).await.unwrap(), [None]);
    assert!(view.list("other", None, 10).await.unwrap().is_empty());
    until("all idle", async || running.handle.status().iter().all(|s| s.lag_records == 0)).await;
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn states_of_silent_devices_leave_the_memory_and_are_read_from_the_store() {
    const MANY: u64 = 1_000;
    let mut world = World::new();
    world.config.latest.memory_bytes = 200_000;
    let mut running = world.start().await;
    for round in 0..4 {
        if round == 2 {
            running.stop().await.unwrap();
            running = world.start().await;
        }
        let from = round * MANY;
        for n in (from..from + MANY).step_by(100) {
            world.append(n, n + 100, MANY);
            // Of this round, of the one before, of none.
            let view = running.handle.latest();
            let states = view.get(&[device(n, MANY), device(n + 150, MANY), device(MANY, MANY + 1)]).await.unwrap();
            assert_eq!(states[2], None);
            let readings = |at: usize| states[at].as_ref().map_or(0, |state| state.readings);
            let next_came = (n + 150) % MANY < n % MANY;
            assert_eq!((readings(0), readings(1)), (round + 1, round + u64::from(next_came)), "{n}");
        }
        world.done_to(LATEST, from + MANY).await;
        let map = &running.handle.latest.states.as_ref().unwrap().map;
        assert!(map.read().bytes() <= 200_000, "{}", map.read().bytes());
        let (mut after, mut listed) = (None::<String>, 0);
        loop {
            let page = running.handle.latest().list("default", after.as_deref(), 170).await.unwrap();
            let Some(last) = page.last() else { break };
            after = Some(last.device.id.to_string());
            listed += page.len() as u64;
            assert!(page.iter().all(|state| state.readings == round + 1));
        }
        assert_eq!(listed, MANY);
    }
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_is_listed_as_soon_as_it_is_acknowledged() {
    let world = World::new();
    let running = world.start().await;
    let letters = running.handle.dead_letters();
    for count in 1..4 {
        world.log.append(|staged| stage_letter(staged, "no JSON"));
        let begun = tokio::time::Instant::now();
        let listed = letters.list("default", None, 10).await.unwrap();
        assert_eq!(listed.len(), count);
        assert!(begun.elapsed() < Duration::from_millis(100), "a query does not wait for the pace of the sink");
    }
    running.kill().await;
    world.log.append(|staged| stage_letter(staged, "no JSON"));
    let error = letters.list("default", None, 10).await.unwrap_err().to_string();
    assert!(error.contains("not all stored yet"), "{error}");
}
