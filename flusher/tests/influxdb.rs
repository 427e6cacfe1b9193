//! An export between the embedded log and a real InfluxDB.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../../stores/tests/influxdb/server.rs"]
#[expect(dead_code, reason = "not every test needs every helper")]
mod server;

use std::path::Path;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use buffer::batcher::Batcher;
use buffer::embedded::EmbeddedLog;
use buffer::frame::{ReadingHeader, Staged};
use buffer::{Log, SubmitError};
use model::{DeviceKey, Schema, ValueRef};
use server::Influxd;
use stores::contract::DeadLetters;
use stores::embedded::EmbeddedStore;
use stores::influxdb::InfluxDb;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use weir_flusher::projections::{ExportFilter, ExportSpec, export, standard};
use weir_flusher::{Claim, Config, Flusher, Handle, Metrics, Pace, Projections, StartAt, Stores};

const T: i64 = 1_750_000_000_000_000_000;
const DEVICES: u64 = 20;
const INFLUXDB: &str = "influxdb";

struct World {
    log: Arc<EmbeddedLog>,
    batcher: Batcher,
    store: Arc<EmbeddedStore>,
    handle: Handle,
    stop: CancellationToken,
    task: JoinHandle<Result<(), weir_flusher::Error>>,
}

async fn start(dir: &Path, server: &Influxd) -> World {
    let log_config = buffer::embedded::Config {
        dir: dir.join("log"),
        segment_bytes: 1 << 20,
        ..buffer::embedded::Config::default()
    };
    // What was killed lets go of its files when its last task is gone.
    let (log, batcher) = opened(|| EmbeddedLog::open(log_config.clone(), Arc::default())).await;
    let store_config = stores::embedded::Config { dir: dir.join("store"), ..stores::embedded::Config::default() };
    let store = Arc::new(opened(|| EmbeddedStore::open(store_config.clone(), Arc::default())).await);
    let points = stores::influxdb::Config {
        url: server.url(),
        token: server::TOKEN.to_owned(),
        org: "plant".to_owned(),
        bucket: "iot".to_owned(),
        timeout_secs: 5.0,
        ..stores::influxdb::Config::default()
    };
    let mut config = Config::default();
    config.history.flush_secs = 0.5;
    config.retry.max_ms = 200;
    let claims = vec![Claim::sole(log.clone() as Arc<dyn Log>)];
    let stores = Stores::of(store.clone());
    let mut all = standard(&config, &stores);
    all.push(export(ExportSpec {
        name: INFLUXDB.into(),
        kind: "influxdb",
        store: Arc::new(InfluxDb::new(points, Arc::default()).unwrap()),
        filter: ExportFilter::default(),
        pace: Pace::export(Duration::from_millis(100), 100_000, 128 << 20),
        start: StartAt::Joining,
    }));
    let projections = Projections::new(all).unwrap();
    let flusher = Flusher::start(config, claims, projections, stores, Arc::new(Metrics::default())).await.unwrap();
    let (handle, stop) = (flusher.handle(), CancellationToken::new());
    let task = tokio::spawn(flusher.run(stop.clone()));
    World { log, batcher, store, handle, stop, task }
}

/// Appends readings `from..to` in frames of a hundred, all of one millisecond, as `value` has them.
async fn append(world: &World, from: u64, to: u64, value: impl Fn(u64) -> ValueRef<'static>) {
    let schema = Arc::new(Schema::new(["x"]));
    let devices: Vec<_> = (0..DEVICES).map(|n| Arc::new(DeviceKey::new("plant", &format!("d{n}")).unwrap())).collect();
    for first in (from..to).step_by(100) {
        let mut staged = Staged::default();
        for n in first..to.min(first + 100) {
            let header = ReadingHeader {
                time: T + i64::try_from(first).unwrap() * 1_000_000,
                received: T,
                identity: n,
                seq: n.is_multiple_of(2).then_some(n),
                device_timed: true,
                claimed_time: None,
                trace: None,
                resent: false,
            };
            staged.reading(&devices[(n % DEVICES) as usize], &schema, &header, [Some(value(n))]);
        }
        until(async || !matches!(world.batcher.submit(&mut staged, Waker::noop()), Err(SubmitError::Full))).await;
    }
    until(async || world.log.end() == to).await;
}

async fn opened<T, E>(mut open: impl FnMut() -> Result<T, E>) -> T {
    let mut found = None;
    until(async || {
        found = open().ok();
        found.is_some()
    })
    .await;
    found.unwrap()
}

async fn until(mut there: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(60), async {
        while !there().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "waited in vain");
}

async fn all_done(world: &World, to: u64) {
    until(async || world.handle.status().iter().all(|status| status.done_to == to)).await;
}

/// The line of the export, after all lines were found to balance and to agree with what the stores
/// count.
async fn checked(world: &World) -> stores::contract::BookLine {
    let lines = world.handle.books().books(true).await.unwrap();
    for line in &lines {
        assert!(line.balances(), "{line:?}");
        assert!(line.held.is_none_or(|held| held == line.expected), "{line:?}");
    }
    let line = lines.into_iter().find(|line| line.sink == INFLUXDB).unwrap();
    assert!(line.held.is_some(), "InfluxDB was asked");
    line
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_wrong_type_among_five_thousand_is_one_dead_letter_with_its_reason() {
    let Some(server) = server::influxd().await else { return };
    let dir = tempfile::tempdir().unwrap();
    let world = start(dir.path(), &server).await;
    let wrong = |n| n == 3_217;
    append(&world, 0, 5_000, |n| if wrong(n) { ValueRef::Str("far") } else { ValueRef::Float(n as f64) }).await;
    all_done(&world, 5_000).await;
    let line = checked(&world).await;
    assert_eq!((line.stored, line.dead_lettered, line.held), (4_999, 1, Some(4_999)));
    let letters = world.store.list("plant", None, 10).await.unwrap();
    assert_eq!(letters.len(), 1, "history takes every type");
    assert_eq!((letters[0].offset, &*letters[0].stage), (3_217, INFLUXDB));
    let reason = &letters[0].reason;
    assert!(reason.starts_with("a text (far) does not fit field \"x\", which is float since 20"), "{reason}");
    let payload = format!(r#"{{"ts":{},"x":"far"}}"#, T + 3_200 * 1_000_000);
    assert_eq!(String::from_utf8_lossy(&letters[0].payload), payload);
    world.stop.cancel();
    world.task.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_kills_of_influxd_and_of_the_sinks_it_holds_each_reading_once() {
    let Some(mut server) = server::influxd().await else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut world = start(dir.path(), &server).await;
    let value = |n| ValueRef::Float(n as f64);
    let points_at = |world: &World| world.handle.status().iter().find(|s| *s.sink == *INFLUXDB).unwrap().done_to;
    for round in 0..3 {
        let from = round * 20_000;
        append(&world, from, from + 10_000, value).await;
        until(async || points_at(&world) > from).await;
        server.kill();
        append(&world, from + 10_000, from + 20_000, value).await;
        // The history goes on without it.
        until(async || {
            world.handle.status().iter().any(|s| *s.sink == *weir_flusher::HISTORY && s.done_to == from + 20_000)
        })
        .await;
        if round == 1 {
            world.task.abort();
            assert!(world.task.await.unwrap_err().is_cancelled());
            world.batcher.close();
            drop((world.log, world.batcher, world.store, world.handle));
            world = start(dir.path(), &server).await;
        }
        server.start_again().await;
    }
    all_done(&world, 60_000).await;
    let line = checked(&world).await;
    assert_eq!((line.accepted, line.stored, line.held), (60_000, 60_000, Some(60_000)));
    world.stop.cancel();
    world.task.await.unwrap().unwrap();
}
