//! Measures the throughput of the log on this machine, in files or on a Redis.
//!
//! `cargo run --release -p weir-buffer --example append -- [TASKS] [RECORDS PER SUBMIT] [SECONDS]
//! [DIR, sealed:DIR or redis://HOST:PORT] [REPLICAS]`

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use model::{DeviceKey, Schema, ValueRef};
use weir_buffer::embedded::{Config, EmbeddedLog};
use weir_buffer::frame::{ReadingHeader, Staged};
use weir_buffer::redis::{self, Redis};
use weir_buffer::{Batcher, Cursor, Log, Metrics, SubmitError};

fn argument(at: usize, default: u64) -> u64 {
    std::env::args().nth(at).map_or(default, |text| text.parse().expect("a number"))
}

fn main() {
    let (tasks, group, seconds) = (argument(1, 64), argument(2, 1), argument(3, 5));
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let place = std::env::args().nth(4);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (log, batcher): (Arc<dyn Log>, Batcher) = match place {
            Some(url) if url.contains("://") => on_redis(url).await,
            place => in_files(place.map_or(scratch.path().join("log"), PathBuf::from)),
        };
        run(log, batcher, tasks, group, Duration::from_secs(seconds)).await;
    });
}

fn in_files(dir: PathBuf) -> (Arc<dyn Log>, Batcher) {
    let sealed = dir.to_str().and_then(|dir| dir.strip_prefix("sealed:")).map(PathBuf::from);
    let keys = sealed.as_ref().map(|dir| {
        std::fs::create_dir_all(dir).expect("a folder");
        envelope::testing::keyring(dir)
    });
    let dir = sealed.map_or(dir, |dir| dir.join("log"));
    let config = Config { dir, keys, ..Config::default() };
    let (log, batcher) = EmbeddedLog::open(config, Arc::new(Metrics::default())).expect("the log opens");
    (log, batcher)
}

async fn on_redis(url: String) -> (Arc<dyn Log>, Batcher) {
    let replicas = u32::try_from(argument(5, 0)).expect("a small number");
    let config = redis::Config { urls: vec![url], replicas, ..redis::Config::default() };
    let redis = Redis::connect(config).await.unwrap_or_else(|error| panic!("{error}"));
    let (log, batcher) = redis.create(Arc::new(Metrics::default())).await.expect("the log is made");
    (log, batcher)
}

async fn run(log: Arc<dyn Log>, batcher: Batcher, tasks: u64, group: u64, time: Duration) {
    let first = log.end();
    let (frames, begun) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let counter = tokio::spawn(follow(Arc::clone(&log), Arc::clone(&frames)));
    let producers: Vec<_> =
        (0..tasks).map(|task| tokio::spawn(produce(batcher.clone(), task, group, begun + time))).collect();
    let mut waits = Vec::new();
    for producer in producers {
        waits.extend(producer.await.expect("a producer ends"));
    }
    let took = begun.elapsed().as_secs_f64();
    counter.abort();
    waits.sort_unstable();
    let at = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
    println!(
        "{tasks} tasks, {group} records each: {:.0} commits/s, {:.0} records/s, wait p50 {:.2} ms, p99 {:.2} ms, max {:.1} ms",
        frames.load(Ordering::Relaxed) as f64 / took,
        (log.end() - first) as f64 / took,
        at(0.5),
        at(0.99),
        at(1.0)
    );
    batcher.close();
}

/// A sink that keeps up, so that segments are trimmed.
async fn follow(log: Arc<dyn Log>, frames: Arc<AtomicU64>) {
    let mut end = log.watch_end();
    let (mut from, mut moved) = (log.end(), Instant::now());
    while end.changed().await.is_ok() {
        let read = log.read(from, 1 << 20).await.expect("the log is whole");
        from = read.last().map_or(from, |frame| frame.header().end_offset());
        frames.fetch_add(read.len() as u64, Ordering::Relaxed);
        if moved.elapsed() > Duration::from_secs(1) {
            let cursor = Cursor { done_to: from, sealed_to: from, ..Cursor::default() };
            log.move_cursor("example", cursor).await.expect("the cursor is written");
            log.trim().await.expect("the log is trimmed");
            moved = Instant::now();
        }
    }
}

/// Submits repeatedly and returns the time until each submit was durable.
async fn produce(batcher: Batcher, task: u64, group: u64, until: Instant) -> Vec<Duration> {
    let device = Arc::new(DeviceKey::new("default", &format!("device-{task}")).expect("an id"));
    let schema = Arc::new(Schema::new(["temperature", "humidity", "pressure"]));
    let mut staged = Staged::default();
    let mut waits = Vec::new();
    let mut identity = task << 40;
    while Instant::now() < until {
        let begun = Instant::now();
        for _ in 0..group {
            identity += 1;
            let time = i64::try_from(identity).expect("few records");
            let header = ReadingHeader {
                time,
                received: time,
                identity,
                seq: None,
                device_timed: true,
                claimed_time: None,
                trace: None,
                resent: false,
            };
            let values = [21.5, 44.25, 1013.1].map(|value| Some(ValueRef::Float(value)));
            staged.reading(&device, &schema, &header, values);
        }
        durable(&batcher, &mut staged).await;
        waits.push(begun.elapsed());
    }
    waits
}

async fn durable(batcher: &Batcher, staged: &mut Staged) {
    let mut ticket = None;
    std::future::poll_fn(|cx| {
        if ticket.is_none() {
            match batcher.submit(staged, cx.waker()) {
                Ok(given) => ticket = Some(given),
                Err(SubmitError::Full) => return Poll::Pending,
                Err(error) => panic!("{error}"),
            }
        }
        if Some(batcher.durable().expect("the log works")) >= ticket { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}
