//! Sessions against a model: random sequences of legal and illegal packets over raw sockets.
//!
//! Four clients of MQTT 3.1.1 and 5 publish, subscribe, acknowledge late or never, break off, take
//! over their own sessions and break rules, and the broker is killed and starts again from its log,
//! while a [`model`] says what each of them must get, may get and must not get. Clients of another
//! tenant send garbage meanwhile. The same over two nodes of a fleet, of which each connection is
//! made to one at random, and one at a time is killed.
//!
//! `WEIR_MODEL_SEED=N` plays one seed, `WEIR_MODEL_SECS=N` goes on for that long. A seed decides
//! what the clients do, and not when the broker's tasks run: a rare failure may need some plays.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod client;
mod connection;
mod fleet;
mod illegal;
mod log;
mod model;
mod node;
mod owed;
mod random;
mod retained;
mod run;
mod shares;
mod steps;
mod topics;

use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use run::Run;

/// An error is a fault of the broker.
pub(crate) type Checked<T = ()> = Result<T, String>;

/// Panics of the broker's tasks, which end a connection only.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn play(seed: u64, in_fleet: bool) -> Checked {
    let mut run = Run::new(seed, in_fleet);
    let steps = 30 + run.random.below(120);
    let played = (0..steps).try_for_each(|_| run.step()).and_then(|()| run.heal()).and_then(|()| run.clear());
    let panics = std::mem::take(&mut *PANICS.lock().unwrap());
    let played = if panics.is_empty() { played } else { Err(panics.join("\n")) };
    played.map_err(|fault| format!("{}\nseed {seed}: {fault}", run.trace()))
}

fn watch_for_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if std::thread::current().name().is_some_and(|name| name.starts_with("tokio")) {
                PANICS.lock().unwrap().push(panic.to_string());
            }
            before(panic);
        }));
    });
}

fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value} is not a number")))
}

#[test]
fn sessions_deliver_what_they_must() {
    play_all(false);
}

#[test]
fn sessions_of_a_fleet_deliver_what_they_must() {
    play_all(true);
}

fn play_all(in_fleet: bool) {
    // Panics and time are those of one test.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    watch_for_panics();
    if let Some(seed) = variable("WEIR_MODEL_SEED") {
        return play(seed, in_fleet).unwrap_or_else(|fault| panic!("{fault}"));
    }
    let secs = variable("WEIR_MODEL_SECS");
    // The same seeds each time in a short run, others in a long one.
    let first = secs.map_or(0, |_| ::model::clock::now() as u64 >> 10);
    let most = if secs.is_some() { u64::MAX } else { 150 };
    let (begun, time) = (Instant::now(), Duration::from_secs(secs.unwrap_or(25)));
    let mut played = 0;
    while played < most && begun.elapsed() < time {
        play(first.wrapping_add(played), in_fleet).unwrap_or_else(|fault| panic!("{fault}\nafter {played} others"));
        played += 1;
    }
    println!("{played} sequences in {:?}, from seed {first}", begun.elapsed());
    assert!(played > 20, "too few within {time:?}: {played}");
}
