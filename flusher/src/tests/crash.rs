use std::time::Duration;

use crate::testing::{Running, World, numbers, stage, stage_letter, stage_retained, until};

const DEVICES: u64 = 7;

/// Frames with readings, a reading twice in a frame, letters and retained messages.
fn append(world: &World, round: u64) {
    for frame in 0..4 {
        world.log.append(|staged| {
            let first = round * 1_000 + frame * 100;
            (first..first + 30).for_each(|n| stage(staged, "default", n, DEVICES));
            stage(staged, "default", first + 3, DEVICES);
            stage_letter(staged, "no JSON");
            stage_retained(staged, format!("{round}.{frame}").as_bytes());
        });
    }
}

async fn all_done(world: &World) {
    for sink in world.sinks() {
        world.done_to(&sink, buffer::Log::end(&*world.log)).await;
    }
}

/// Starts, unless the crash comes first.
async fn start(world: &World) -> Option<Running> {
    tokio::select! {
        running = world.start() => Some(running),
        () = world.fate.crashed() => None,
    }
}

/// Runs until all is done or the crash comes. True when it came.
async fn run(world: &World) -> bool {
    let Some(running) = start(world).await else { return true };
    let crashed = tokio::select! {
        () = all_done(world) => false,
        () = world.fate.crashed() => true,
    };
    running.kill().await;
    crashed
}

fn check(world: &World, rounds: u64) {
    let found = numbers(&world.history.blocks());
    let wanted = rounds * 4 * 30;
    assert_eq!(found.len() as u64, wanted, "every reading is stored");
    assert!(found.values().all(|times| *times == 1), "no reading is stored twice");
    assert_eq!(world.letters.letters.lock().len() as u64, rounds * 4);
    let last = world.retained.messages.lock()[&("default".into(), "a/b".to_owned())].payload.clone();
    assert_eq!(last, format!("{}.3", rounds - 1).as_bytes());
    for state in world.latest.states.lock().values() {
        assert!(
            state.values.iter().any(
                |v| &*v.name == "n" && v.time / 1_000_000_000 >= i64::try_from((rounds - 1) * 1_000 + 323).unwrap()
            )
        );
    }
    let tally = world.log.cursor(crate::HISTORY).tallies["default"];
    assert_eq!((tally.stored, tally.merged), (wanted, rounds * 4));
    assert_eq!((tally.dead_lettered, tally.other), (rounds * 4, rounds * 4));
}

#[tokio::test(start_paused = true)]
async fn after_a_crash_between_any_two_steps_each_reading_is_stored_exactly_once() {
    let mut crashes = 0;
    for step in 0.. {
        let mut world = World::new();
        let (series, bus) = (world.add_series(), world.add_bus());
        append(&world, 0);
        world.fate.crash_at(step);
        let crashed = run(&world).await;
        world.history.crash(1 + step % 3);
        // More comes in, and the restart crashes too, at various places.
        append(&world, 1);
        world.fate.crash_at(step * 5 % 23);
        run(&world).await;
        world.history.crash(2);
        world.fate.live();
        assert!(!run(&world).await);
        check(&world, 2);
        let all: Vec<i64> = numbers(&world.history.blocks()).into_keys().collect();
        assert_eq!(series.numbers(), all, "crash at step {step}");
        assert_eq!(bus.numbers(), all, "crash at step {step}: each reading once for a reader of committed records");
        if !crashed {
            break;
        }
        crashes += 1;
    }
    assert!(crashes >= 20, "only {crashes} steps");
}

#[tokio::test(start_paused = true)]
async fn a_sealed_range_is_cut_again_as_it_was_though_more_has_come_in() {
    let world = World::new();
    append(&world, 0);
    let running = world.start().await;
    // Written and synced, the cursor not moved.
    world.fate.crash_at(usize::MAX);
    until("the sync", async || world.fate.steps().contains(&"before the sync")).await;
    running.kill().await;
    let before = world.history.blocks();
    append(&world, 1);
    world.fate.live();
    let running = world.start().await;
    all_done(&world).await;
    running.stop().await.unwrap();
    let after = world.history.blocks();
    assert!(before.iter().all(|block| after.contains(block)));
    check(&world, 2);
}

#[tokio::test(start_paused = true)]
async fn an_ordered_stop_flushes_what_is_there() {
    let mut world = World::new();
    world.config.history.flush_secs = 1_000_000.0;
    world.config.latest.flush_secs = 1_000_000.0;
    let running = world.start().await;
    append(&world, 0);
    running.stop().await.unwrap();
    check(&world, 1);
    assert_eq!(buffer::Log::start(&*world.log), buffer::Log::end(&*world.log), "and the log is trimmed");
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_ever_for_a_store_that_is_away() {
    let world = World::new();
    world.history.set_down(Some(super::delivery::busy("away")));
    let running = world.start().await;
    append(&world, 0);
    tokio::time::timeout(Duration::from_secs(60), running.stop()).await.unwrap().unwrap();
    assert_eq!(world.log.cursor(crate::HISTORY).done_to, 0);
    assert_eq!(world.log.cursor(crate::LATEST).done_to, buffer::Log::end(&*world.log));
    world.history.set_down(None);
    assert!(!run(&world).await);
    check(&world, 1);
}
