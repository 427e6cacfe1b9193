//! Flushers of one process that share logs in memory.

use std::sync::Arc;
use std::time::Duration;

use buffer::{Holder, Log};
use cluster::members::{Peers, Secret};
use model::TimeRange;
use stores::contract::{Retained, RetainedMessage};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Fleet, FleetHandle, ReaderSource, Readers};
use crate::testing::{FakeCatalogue, FakeLog, World, device, numbers, stage, stage_retained, until};
use crate::{Error, Metrics};

pub(super) const LEASE: Duration = Duration::from_secs(3);

pub(super) struct Running {
    pub(super) handle: FleetHandle,
    pub(super) stop: CancellationToken,
    pub(super) task: JoinHandle<std::result::Result<(), Error>>,
}

pub(super) fn start(world: &World, catalogue: &Arc<FakeCatalogue>, name: &str) -> Running {
    let holder = Holder { name: name.to_owned(), address: String::new() };
    let (metrics, config) = (Arc::new(Metrics::default()), world.config.clone());
    let (projections, stores) = (world.projections(), world.stores());
    let fleet = Fleet::new(config, catalogue.clone(), (holder, LEASE), projections, stores, metrics);
    let (handle, stop) = (fleet.handle(), CancellationToken::new());
    Running { handle, task: tokio::spawn(fleet.run(stop.clone())), stop }
}

pub(super) fn log(world: &World, catalogue: &FakeCatalogue, name: &str) -> Arc<FakeLog> {
    let log = Arc::new(FakeLog::new(name, Arc::clone(&world.fate)));
    catalogue.add(&log);
    log
}

pub(super) fn append(log: &FakeLog, from: u64, to: u64) {
    log.append(|staged| (from..to).for_each(|n| stage(staged, "default", n, 1)));
}

/// How many logs each of two holds.
fn held(catalogue: &FakeCatalogue) -> [usize; 2] {
    let holders = catalogue.holders();
    ["a", "b"].map(|name| holders.values().filter(|holder| *holder == name).count())
}

pub(super) fn readers(world: &World, catalogue: &Arc<FakeCatalogue>, local: Option<FleetHandle>) -> Readers {
    let (stores, is_store_shared) = (world.stores(), true);
    let (catalogue, projections) = (catalogue.clone(), world.projections());
    let peers = Peers::new(&Secret::new("s").unwrap(), None, false, Arc::default());
    Readers::new(&world.config, ReaderSource { catalogue, projections, stores, is_store_shared, local, peers })
}

async fn seen(readers: &Readers, world: &World) -> Vec<i64> {
    let tail = readers.tail().tail(&device(0, 1), TimeRange::ALL, None).await.unwrap();
    let stored = world.history.blocks_of(&device(0, 1));
    numbers(tail.blocks.iter().chain(&stored)).into_keys().collect()
}

#[tokio::test(start_paused = true)]
async fn logs_are_shared_evenly_and_go_to_the_other_when_one_dies_or_leaves() {
    let (world, catalogue) = (World::new(), Arc::new(FakeCatalogue::default()));
    let logs: Vec<_> = (0..5).map(|i| log(&world, &catalogue, &format!("log{i}"))).collect();
    let a = start(&world, &catalogue, "a");
    until("a holds all", async || held(&catalogue) == [5, 0]).await;
    let b = start(&world, &catalogue, "b");
    until("both have their share", async || held(&catalogue) == [3, 2]).await;
    for (i, log) in (0..).zip(&logs) {
        append(log, i * 10, i * 10 + 10);
    }
    until("all is stored", async || numbers(&world.history.blocks()).len() == 50).await;
    a.task.abort();
    until("b holds all once the leases ran out", async || held(&catalogue) == [0, 5]).await;
    append(&logs[0], 100, 110);
    until("and goes on", async || numbers(&world.history.blocks()).len() == 60).await;
    let a = start(&world, &catalogue, "a");
    until("a has a share again", async || held(&catalogue) == [2, 3]).await;
    b.stop.cancel();
    b.task.await.unwrap().unwrap();
    assert!(catalogue.holders().values().all(|name| name != "b"), "given back at once");
    until("a holds all", async || held(&catalogue) == [5, 0]).await;
    assert!(numbers(&world.history.blocks()).values().all(|times| *times == 1));
    a.stop.cancel();
    a.task.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_start_that_takes_longer_than_a_lease_keeps_its_logs() {
    let (world, catalogue) = (World::new(), Arc::new(FakeCatalogue::default()));
    let one = log(&world, &catalogue, "one");
    append(&one, 0, 10);
    *world.latest.slow.lock() = LEASE * 4 / 3;
    let (a, b) = (start(&world, &catalogue, "a"), start(&world, &catalogue, "b"));
    until("one of them flushes it", async || numbers(&world.history.blocks()).len() == 10).await;
    tokio::time::sleep(LEASE * 10).await;
    assert_eq!(one.cursor(crate::HISTORY).epoch, 1, "it was claimed once");
    for running in [a, b] {
        running.stop.cancel();
        running.task.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_damaged_log_stops_only_itself_and_is_named() {
    let (world, catalogue) = (World::new(), Arc::new(FakeCatalogue::default()));
    let (good, bad) = (log(&world, &catalogue, "good"), log(&world, &catalogue, "bad"));
    append(&bad, 0, 5);
    *bad.damaged.lock() = Some(buffer::ReadError::Damaged("a bit flipped".to_owned()));
    let a = start(&world, &catalogue, "a");
    until("it is named", async || a.handle.failures().iter().any(|(log, why)| log == "bad" && why.contains("flipped")))
        .await;
    append(&good, 10, 20);
    until("the other goes on", async || numbers(&world.history.blocks()).len() == 10).await;
    assert!(!a.task.is_finished());
    *bad.damaged.lock() = None;
    until("it is flushed when it can be read", async || numbers(&world.history.blocks()).len() == 15).await;
    until("and no longer named", async || a.handle.failures().is_empty()).await;
    a.stop.cancel();
    a.task.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_flusher_that_is_alone_ends_with_a_log_that_is_damaged() {
    let (world, catalogue) = (World::new(), Arc::new(FakeCatalogue::default()));
    let one = log(&world, &catalogue, "one");
    append(&one, 0, 5);
    *one.damaged.lock() = Some(buffer::ReadError::Damaged("a bit flipped".to_owned()));
    let holder = Holder { name: "a".to_owned(), address: String::new() };
    let (projections, stores, config) = (world.projections(), world.stores(), world.config.clone());
    let fleet = Fleet::new(config, catalogue, (holder, LEASE), projections, stores, Arc::default()).alone();
    let error = fleet.run(CancellationToken::new()).await.unwrap_err().to_string();
    assert!(error.contains("log one") && error.contains("a bit flipped"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn readers_see_every_durable_reading_of_logs_that_are_held_here_or_not_held() {
    let (mut world, catalogue) = (World::new(), Arc::new(FakeCatalogue::default()));
    world.config.history.flush_secs = 3_600.0;
    world.config.latest.flush_secs = 3_600.0;
    let (one, two) = (log(&world, &catalogue, "one"), log(&world, &catalogue, "two"));
    append(&one, 0, 10);
    let outside = readers(&world, &catalogue, None);
    assert_eq!(seen(&outside, &world).await.len(), 10, "not held");
    let a = start(&world, &catalogue, "a");
    until("a holds both", async || a.handle.0.held_logs().len() == 2).await;
    let inside = readers(&world, &catalogue, Some(a.handle.clone()));
    for n in 1..20 {
        append(if n % 2 == 0 { &one } else { &two }, n * 10, n * 10 + 10);
        let wanted: Vec<i64> = (0..).take(usize::try_from(n * 10 + 10).unwrap()).collect();
        for readers in [&inside, &outside] {
            assert_eq!(seen(readers, &world).await, wanted);
            let state = readers.latest().get(&[device(0, 1)]).await.unwrap().remove(0).unwrap();
            assert_eq!(state.values.iter().map(|v| v.time / 1_000_000_000).max(), wanted.last().copied());
            let listed = readers.latest().list("default", None, 10).await.unwrap();
            assert_eq!(listed.len(), 1);
        }
    }
    a.stop.cancel();
    a.task.await.unwrap().unwrap();
    assert_eq!(seen(&outside, &world).await.len(), 200, "all is stored now");
}

#[tokio::test(start_paused = true)]
async fn a_log_whose_writer_ended_is_removed_and_stays_in_the_books() {
    let (world, catalogue) = (World::new(), Arc::new(FakeCatalogue::default()));
    let (one, two) = (log(&world, &catalogue, "one"), log(&world, &catalogue, "two"));
    let a = start(&world, &catalogue, "a");
    append(&one, 0, 10);
    append(&two, 10, 30);
    let readers = [readers(&world, &catalogue, Some(a.handle.clone())), readers(&world, &catalogue, None)];
    let check = async |what: &str| {
        for readers in &readers {
            let lines = readers.books().books(true).await.unwrap();
            let history = lines.iter().find(|line| line.sink == crate::HISTORY).unwrap();
            assert_eq!((history.accepted, history.stored), (30, 30), "{what}: {history:?}");
            assert_eq!((history.held, history.expected), (Some(30), 30), "{what}");
        }
    };
    let end = |log: &FakeLog| log.end();
    until("both are stored", async || [&one, &two].iter().all(|log| log.cursor(crate::HISTORY).done_to == end(log)))
        .await;
    check("with both").await;
    catalogue.close("one");
    until("one is gone", async || catalogue.holders().keys().eq(["two"])).await;
    check("with one of them gone").await;
    a.stop.cancel();
    a.task.await.unwrap().unwrap();
    check("with no flusher running").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ordered_stop_is_not_a_fault_in_any_order_of_ends() {
    for _ in 0..50 {
        let (world, catalogue) = (World::new(), Arc::new(FakeCatalogue::default()));
        log(&world, &catalogue, "one");
        let a = start(&world, &catalogue, "a");
        until("a holds it", async || a.handle.0.held_logs().len() == 1).await;
        a.stop.cancel();
        a.task.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn retained_messages_that_only_a_log_has_are_among_those_of_a_start() {
    let (world, catalogue) = (World::new(), Arc::new(FakeCatalogue::default()));
    let stored = |topic: &str, received: i64| RetainedMessage {
        tenant: "default".into(),
        topic: topic.to_owned(),
        qos: 1,
        payload: b"stored".to_vec(),
        properties: Vec::new(),
        received,
    };
    world.retained.apply(vec![stored("a/b", 1), stored("other", 1)]).await.unwrap();
    let readers = readers(&world, &catalogue, None);
    let of_topic = async |topic: &str| {
        let mut found = None;
        let mut take = |message: RetainedMessage, is_stored: bool| {
            assert_eq!(is_stored, message.payload == b"stored");
            if message.topic == topic {
                assert_eq!(found.replace(message.payload), None, "each once");
            }
        };
        readers.retained(&mut take).await.unwrap();
        found
    };
    assert_eq!(of_topic("a/b").await, Some(b"stored".to_vec()));
    let one = log(&world, &catalogue, "one");
    one.append(|staged| {
        stage_retained(staged, b"first");
        stage_retained(staged, b"second");
    });
    assert_eq!(of_topic("a/b").await, Some(b"second".to_vec()), "the last of one message's time counts");
    assert_eq!(of_topic("other").await, Some(b"stored".to_vec()));
    // A store that has a newer one, from another log.
    world.retained.apply(vec![stored("a/b", 9)]).await.unwrap();
    assert_eq!(of_topic("a/b").await, Some(b"stored".to_vec()));
    world.retained.apply(vec![stored("a/b", 1)]).await.unwrap();
    one.append(|staged| stage_retained(staged, b""));
    assert_eq!(of_topic("a/b").await, None, "cleared");
    // The sink has passed them: the store alone knows.
    let running = start(&world, &catalogue, "a");
    until("stored", async || one.cursor(crate::RETAINED).done_to == 3).await;
    assert_eq!(of_topic("a/b").await, None);
    running.stop.cancel();
    running.task.await.unwrap().unwrap();
    world.retained.apply(vec![stored("a/b", 2)]).await.unwrap();
    assert_eq!(of_topic("a/b").await, Some(b"stored".to_vec()));
}
