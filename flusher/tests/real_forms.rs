//! The sinks between the embedded log and the embedded store.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use buffer::batcher::Batcher;
use buffer::embedded::EmbeddedLog;
use buffer::frame::{ReadingHeader, Staged};
use buffer::{Log, SubmitError};
use model::{DeviceKey, Schema, TimeRange, ValueRef};
use stores::ColumnData;
use stores::contract::History;
use stores::embedded::EmbeddedStore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use weir_flusher::{Claim, Config, Flusher, Handle, Metrics, Projections, Stores, projections};

const DEVICES: i64 = 50;

struct World {
    log: Arc<EmbeddedLog>,
    batcher: Batcher,
    store: Arc<EmbeddedStore>,
    handle: Handle,
    stop: CancellationToken,
    task: JoinHandle<Result<(), weir_flusher::Error>>,
}

async fn start(dir: &Path, flush_secs: f64) -> World {
    // Sealed, if the test has made a keyring.
    let keys = dir.join(envelope::FILE).exists().then(|| envelope::testing::keyring(dir));
    let log_config = buffer::embedded::Config {
        dir: dir.join("log"),
        segment_bytes: 1 << 20,
        keys: keys.clone(),
        ..buffer::embedded::Config::default()
    };
    // Tasks of a flusher that was aborted let go of the folders when they are next run.
    let mut log = None;
    until(async || {
        log = EmbeddedLog::open(log_config.clone(), Arc::default()).ok();
        log.is_some()
    })
    .await;
    let (log, batcher) = log.unwrap();
    let store_config = stores::embedded::Config { dir: dir.join("store"), keys, ..stores::embedded::Config::default() };
    let mut store = None;
    until(async || {
        store = EmbeddedStore::open(store_config.clone(), Arc::default()).ok();
        store.is_some()
    })
    .await;
    let store = Arc::new(store.unwrap());
    let mut config = Config::default();
    config.history.flush_secs = flush_secs;
    let claims = vec![Claim::sole(log.clone() as Arc<dyn Log>)];
    let stores = Stores::of(store.clone());
    let projections = Projections::new(projections::standard(&config, &stores)).unwrap();
    let flusher = Flusher::start(config, claims, projections, stores, Arc::new(Metrics::default())).await.unwrap();
    let (handle, stop) = (flusher.handle(), CancellationToken::new());
    let task = tokio::spawn(flusher.run(stop.clone()));
    World { log, batcher, store, handle, stop, task }
}

fn device(n: i64) -> DeviceKey {
    DeviceKey::new("default", &format!("d{}", n % DEVICES)).unwrap()
}

async fn append(world: &World, from: i64, to: i64) {
    append_to(&world.log, &world.batcher, from, to).await;
}

async fn append_to(log: &EmbeddedLog, batcher: &Batcher, from: i64, to: i64) {
    let schema = Arc::new(Schema::new(["n"]));
    for first in (from..to).step_by(100) {
        let mut staged = Staged::default();
        for n in first..to.min(first + 100) {
            let header = ReadingHeader {
                time: n * 1_000_000_000,
                received: n,
                identity: n.unsigned_abs(),
                seq: None,
                device_timed: true,
                claimed_time: None,
                trace: None,
                resent: false,
            };
            staged.reading(&Arc::new(device(n)), &schema, &header, [Some(ValueRef::Int(n))]);
        }
        until(async || !matches!(batcher.submit(&mut staged, Waker::noop()), Err(SubmitError::Full))).await;
    }
    until(async || log.end() == to.unsigned_abs()).await;
}

async fn until(mut there: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(30), async {
        while !there().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    assert!(waited.await.is_ok(), "waited in vain");
}

/// Everything there is of a device: the tail first, then the store.
async fn query(world: &World, device: &DeviceKey) -> Vec<i64> {
    let mut blocks = world.handle.tail().tail(device, TimeRange::ALL, None).await.unwrap().blocks;
    let metas = world.store.find(device, TimeRange::ALL).await.unwrap();
    blocks.extend(world.store.fetch(device, &metas, None).await.unwrap());
    let mut found: Vec<i64> = blocks
        .iter()
        .flat_map(|block| match &block.columns[0].data {
            ColumnData::Int(values) => values.clone(),
            other => panic!("integers, not {other:?}"),
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

async fn check(world: &World, total: i64) {
    for d in 0..DEVICES {
        let wanted: Vec<i64> = (0..total).filter(|n| n % DEVICES == d).collect();
        assert_eq!(query(world, &device(d)).await, wanted);
    }
    let states = world.handle.latest().list("default", None, 1_000).await.unwrap();
    assert_eq!(states.len(), usize::try_from(DEVICES).unwrap());
    assert_eq!(states.iter().map(|s| s.values[0].time).max(), Some((total - 1) * 1_000_000_000));
    for line in world.handle.books().books(true).await.unwrap() {
        assert!(line.balances(), "{line:?}");
        assert!(line.held.is_none_or(|held| held == line.expected), "{line:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readings_pass_from_the_log_into_the_store_over_kills_and_orderly_stops() {
    pass_over_kills(tempfile::tempdir().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sealed_readings_pass_from_the_log_into_the_store_over_kills_and_orderly_stops() {
    let dir = tempfile::tempdir().unwrap();
    drop(envelope::testing::keyring(dir.path()));
    pass_over_kills(dir).await;
}

/// Readings that were not stored when the keys were destroyed hold no cursor, and have their place
/// in the books.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readings_of_a_destroyed_tenant_are_passed_over_and_the_books_balance() {
    let dir = tempfile::tempdir().unwrap();
    drop(envelope::testing::keyring(dir.path()));
    let world = start(dir.path(), 0.1).await;
    append(&world, 0, 2_000).await;
    let stored =
        |world: &World, to| world.handle.status().iter().any(|s| *s.sink == *weir_flusher::HISTORY && s.done_to == to);
    until(async || stored(&world, 2_000)).await;
    world.task.abort();
    assert!(world.task.await.unwrap_err().is_cancelled());
    // Nothing flushes these.
    append_to(&world.log, &world.batcher, 2_000, 3_000).await;
    world.batcher.close();
    drop((world.log, world.batcher, world.store, world.handle));
    envelope::testing::keyring(dir.path()).destroy("default").unwrap();

    let world = start(dir.path(), 0.1).await;
    append(&world, 3_000, 4_000).await;
    until(async || stored(&world, 4_000)).await;
    for d in 0..DEVICES {
        assert_eq!(query(&world, &device(d)).await, Vec::<i64>::new());
    }
    assert_eq!(world.handle.latest().list("default", None, 1_000).await.unwrap().len(), 0);
    for line in world.handle.books().books(true).await.unwrap() {
        assert!(line.balances(), "{line:?}");
        assert!(line.held.is_none_or(|held| held == line.expected), "{line:?}");
    }
    let cursors = world.log.cursors().await.unwrap();
    assert_eq!(
        (cursors["history"].tallies["default"].stored, cursors["history"].tallies["default"].missed),
        (2_000, 2_000)
    );
    world.stop.cancel();
    world.task.await.unwrap().unwrap();
}

async fn pass_over_kills(dir: tempfile::TempDir) {
    let world = start(dir.path(), 0.1).await;
    append(&world, 0, 5_000).await;
    check(&world, 5_000).await;
    until(async || world.handle.status().iter().any(|s| *s.sink == *weir_flusher::HISTORY && s.done_to == 5_000)).await;
    // More, which the sinks do not get to write.
    append(&world, 5_000, 6_000).await;
    world.task.abort();
    assert!(world.task.await.unwrap_err().is_cancelled());
    world.batcher.close();
    drop((world.log, world.batcher, world.store, world.handle));

    let world = start(dir.path(), 1_000.0).await;
    check(&world, 6_000).await;
    append(&world, 6_000, 7_000).await;
    check(&world, 7_000).await;
    world.batcher.close();
    world.stop.cancel();
    world.task.await.unwrap().unwrap();
    let cursors = world.log.cursors().await.unwrap();
    assert_eq!(cursors.len(), 4);
    assert!(cursors.values().all(|cursor| cursor.done_to == 7_000), "{cursors:?}");
    drop((world.log, world.batcher, world.store, world.handle));

    let world = start(dir.path(), 1_000.0).await;
    check(&world, 7_000).await;
    world.stop.cancel();
    world.task.await.unwrap().unwrap();
}
