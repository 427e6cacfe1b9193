//! A holder that was stopped for longer than its lease wakes up beside its successor.

use std::sync::Arc;

use buffer::Log;
use tokio_util::sync::CancellationToken;

use crate::testing::{SharedStates, Sleep, World, device, numbers, stage, stage_letter, stage_retained, until};
use crate::{Claim, Flusher, Metrics};

const DEVICES: u64 = 3;
/// A step that no run reaches.
const NEVER: usize = usize::MAX;

fn append(world: &World, round: u64) {
    for frame in 0..2 {
        world.log.append(|staged| {
            let first = round * 100 + frame * 20;
            (first..first + 20).for_each(|n| stage(staged, "default", n, DEVICES));
            stage(staged, "default", first + 1, DEVICES);
            stage_letter(staged, "no JSON");
            stage_retained(staged, format!("{round}.{frame}").as_bytes());
        });
    }
}

/// Claims the log and flushes it in a task of its own, which may sleep from its first step on.
fn hold(world: &World, states: &Arc<SharedStates>, epoch: u64, sleep: &Arc<Sleep>) -> tokio::task::JoinHandle<()> {
    let (log, (stores, projections)) = (world.sleepy_log(sleep), world.sleepy_stores(states, sleep));
    let config = world.config.clone();
    tokio::spawn(async move {
        let claim = Claim { log, epoch };
        // One that sleeps while it claims is refused when it wakes.
        let started = Flusher::start(config, vec![claim], projections, stores, Arc::new(Metrics::default()));
        if let Ok(flusher) = started.await {
            flusher.run(CancellationToken::new()).await.unwrap();
        }
    })
}

async fn all_done(world: &World) {
    for sink in world.sinks() {
        until(&format!("{sink} has passed the log"), async || world.log.cursor(&sink).done_to == world.log.end()).await;
    }
}

/// True when the sleeper got as far as its step.
async fn takeover(step: usize) -> bool {
    let mut world = World::new();
    let (series, bus) = (world.add_series(), world.add_bus());
    let states = Arc::new(SharedStates::default());
    append(&world, 0);
    let sleep = Sleep::at(step);
    let sleeper = hold(&world, &states, 1, &sleep);
    let slept = tokio::select! {
        () = sleep.asleep() => true,
        () = all_done(&world) => false,
    };
    append(&world, 1);
    let successor = hold(&world, &states, 2, &Sleep::at(NEVER));
    if step.is_multiple_of(2) {
        // Else it wakes while the successor is at work.
        all_done(&world).await;
    }
    sleep.wake();
    append(&world, 2);
    all_done(&world).await;
    // The sleeper's last writes have arrived by then.
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    all_done(&world).await;

    let found = numbers(&world.history.blocks());
    assert_eq!(found.len(), 3 * 40, "step {step}: every reading is stored");
    assert!(found.values().all(|times| *times == 1), "step {step}: no reading is stored twice: {found:?}");
    assert_eq!(series.numbers().len(), 3 * 40, "step {step}");
    assert_eq!(bus.numbers(), found.keys().copied().collect::<Vec<_>>(), "step {step}: each once for a reader");
    assert_eq!(world.letters.letters.lock().len(), 3 * 2, "step {step}");
    for n in 237..240_u64 {
        let state = states.get(&device(n, DEVICES)).unwrap();
        assert!(state.values.iter().any(|v| v.time / 1_000_000_000 >= 237), "step {step}: {state:?}");
    }
    let tally = world.log.cursor(crate::HISTORY).tallies["default"];
    assert_eq!((tally.stored, tally.merged, tally.dead_lettered, tally.other), (120, 6, 6, 6), "step {step}");
    sleeper.abort();
    successor.abort();
    slept
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_sleeps_at_any_step_and_wakes_beside_its_successor_changes_nothing() {
    let mut steps = 0;
    while takeover(steps).await {
        steps += 1;
    }
    assert!(steps > 20, "{steps} steps");
}
