//! The share of a tenant, in every kind of log that has one.

#![expect(clippy::unwrap_used, reason = "a test that cannot set up its world fails")]

#[expect(dead_code, reason = "other tests need the rest")]
mod common;
#[path = "common/redis.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod server;
#[path = "common/tenants.rs"]
mod tenants;

use std::path::Path;
use std::sync::Arc;
use std::task::Waker;

use common::{Bell, until_durable};
use server::Server;
use tenants::{Form, READING, fill, pass, stage};
use weir_buffer::embedded::{Config, EmbeddedLog};
use weir_buffer::redis::Redis;
use weir_buffer::{Batcher, Catalogue, Log, SubmitError, spill};

const CAPACITY: u64 = 16 << 20;

fn open(dir: &Path) -> (Arc<EmbeddedLog>, Batcher) {
    let config = Config { dir: dir.to_owned(), segment_bytes: 1 << 20, capacity_bytes: CAPACITY, ..Config::default() };
    EmbeddedLog::open(config, Arc::default()).unwrap()
}

/// Runs a test on all forms of the log that have a share. Sinks are where [`Form::sinks`] is.
async fn on_all<F: Future<Output = ()>>(test: impl Fn(Form) -> F) {
    let dir = tempfile::tempdir().unwrap();
    let (log, batcher) = open(&dir.path().join("log"));
    test(Form { sinks: Arc::<EmbeddedLog>::clone(&log), log, batcher }).await;
    let Some(server) = Server::start(&[]) else { return };
    let redis = weir_buffer::redis::Config { max_bytes: CAPACITY, ..server.config() };
    let (log, batcher) = Redis::connect(redis.clone()).await.unwrap().create(Arc::default()).await.unwrap();
    test(Form { sinks: Arc::<weir_buffer::redis::RedisLog>::clone(&log), log, batcher }).await;
    // With sinks in another process, and a spill.
    let spill = spill::Config { dir: dir.path().join("spill"), ..spill::Config::default() };
    let writer = Redis::connect(redis.clone()).await.unwrap();
    let (log, batcher, _) = writer.create_with_spill(spill, Arc::default()).await.unwrap();
    let sinks = Redis::connect(redis).await.unwrap().open(log.id()).await.unwrap();
    test(Form { sinks, log, batcher }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_fills_its_share_waits_while_others_go_on_and_continues_when_it_is_flushed() {
    on_all(async |Form { log, sinks, batcher }| {
        pass(&*sinks, 0).await;
        let (noisy, quiet) = (batcher.account(&"noisy".into()), batcher.account(&"quiet".into()));
        let filled = fill(&batcher, noisy.as_ref(), "noisy", 0, 1000);
        let share = filled.unsigned_abs() * READING;
        assert!((5 << 20..9 << 20).contains(&share), "{share} of {CAPACITY} bytes");
        assert_eq!(log.state().blocked, None);
        assert_eq!(fill(&batcher, quiet.as_ref(), "quiet", 0, 20), 20, "another tenant does not wait");

        let bell = Arc::new(Bell::default());
        let waker = Waker::from(Arc::clone(&bell));
        let mut staged = stage("noisy", filled);
        assert!(matches!(batcher.submit_of(noisy.as_ref(), &mut staged, &waker), Err(SubmitError::Full)));
        assert_eq!(staged.count(), 1, "nothing is dropped");
        pass(&*sinks, log.end()).await;
        bell.wait();
        let ticket = batcher.submit_of(noisy.as_ref(), &mut staged, &waker).unwrap();
        until_durable(&batcher, ticket, &bell).unwrap();
        assert_eq!(log.end(), filled.unsigned_abs() + 21);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_that_wait_for_a_share_see_the_end_of_the_log() {
    on_all(async |Form { sinks, batcher, .. }| {
        pass(&*sinks, 0).await;
        let account = batcher.account(&"noisy".into());
        fill(&batcher, account.as_ref(), "noisy", 0, 1000);
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(Arc::clone(&bell));
        let mut staged = stage("noisy", 1000);
        assert!(matches!(batcher.submit_of(account.as_ref(), &mut staged, &waker), Err(SubmitError::Full)));
        batcher.close();
        bell.wait();
        assert!(matches!(batcher.submit_of(account.as_ref(), &mut staged, &waker), Err(SubmitError::Failed(_))));
    })
    .await;
}

/// A log on Redis begins empty at each start: see `tests/redis/spill.rs` for the spill.
#[tokio::test]
async fn after_a_restart_what_was_not_flushed_is_not_free() {
    let dir = tempfile::tempdir().unwrap();
    let filled = {
        let (log, batcher) = open(dir.path());
        pass(&*log, 0).await;
        let filled = fill(&batcher, batcher.account(&"noisy".into()).as_ref(), "noisy", 0, 1000);
        batcher.close();
        filled
    };
    let (log, batcher) = open(dir.path());
    let again = fill(&batcher, batcher.account(&"noisy".into()).as_ref(), "noisy", filled, 1000);
    assert!((filled / 3..=filled * 2 / 3).contains(&again), "half of what is left: {again} after {filled}");
    assert_eq!(fill(&batcher, batcher.account(&"quiet".into()).as_ref(), "quiet", 0, 10), 10);
    assert_eq!(log.state().blocked, None);
}
