//! The share of a tenant in a log in files.

#![expect(clippy::unwrap_used, reason = "a test that cannot set up its world fails")]

#[expect(dead_code, reason = "other tests need the rest")]
mod common;

use std::path::Path;
use std::sync::Arc;
use std::task::Waker;

use common::{Bell, header, until_durable};
use model::{DeviceKey, Schema, ValueRef};
use weir_buffer::embedded::{Config, EmbeddedLog};
use weir_buffer::frame::Staged;
use weir_buffer::{Account, Batcher, Cursor, Log, SubmitError};

const CAPACITY: u64 = 16 << 20;

fn open(dir: &Path) -> (Arc<EmbeddedLog>, Batcher) {
    let config = Config { dir: dir.to_owned(), segment_bytes: 1 << 20, capacity_bytes: CAPACITY, ..Config::default() };
    EmbeddedLog::open(config, Arc::default()).unwrap()
}

/// A reading of 64 KiB.
fn stage(tenant: &str, n: i64) -> Staged {
    let mut staged = Staged::default();
    let text = "x".repeat(64 << 10);
    let (device, schema) = (Arc::new(DeviceKey::new(tenant, "d").unwrap()), Arc::new(Schema::new(["n"])));
    staged.reading(&device, &schema, &header(n), [Some(ValueRef::Str(&text))]);
    staged
}

/// Appends readings of a tenant until it has to wait. Returns the number of them.
fn fill(batcher: &Batcher, account: Option<&Arc<Account>>, tenant: &str, from: i64, most: i64) -> i64 {
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(Arc::clone(&bell));
    for n in from..from + most {
        match batcher.submit_of(account, &mut stage(tenant, n), &waker) {
            Ok(ticket) => until_durable(batcher, ticket, &bell).unwrap(),
            Err(SubmitError::Full) => return n - from,
            Err(error) => panic!("{error}"),
        }
    }
    most
}

async fn pass(log: &EmbeddedLog, offset: u64) {
    log.move_cursor("history", Cursor { done_to: offset, sealed_to: offset, epoch: 1, ..Cursor::default() })
        .await
        .unwrap();
}

#[tokio::test]
async fn a_tenant_that_fills_its_share_waits_while_others_go_on_and_continues_when_it_is_flushed() {
    let dir = tempfile::tempdir().unwrap();
    let (log, batcher) = open(dir.path());
    pass(&log, 0).await;
    let (noisy, quiet) = (batcher.account(&"noisy".into()), batcher.account(&"quiet".into()));
    let filled = fill(&batcher, noisy.as_ref(), "noisy", 0, 1000);
    let share = filled.unsigned_abs() * (64 << 10);
    assert!((5 << 20..9 << 20).contains(&share), "{share} of {CAPACITY} bytes");
    assert_eq!(log.state().blocked, None);
    assert_eq!(fill(&batcher, quiet.as_ref(), "quiet", 0, 20), 20, "another tenant does not wait");

    let bell = Arc::new(Bell::default());
    let waker = Waker::from(Arc::clone(&bell));
    let mut staged = stage("noisy", filled);
    assert!(matches!(batcher.submit_of(noisy.as_ref(), &mut staged, &waker), Err(SubmitError::Full)));
    assert_eq!(staged.count(), 1, "nothing is dropped");
    pass(&log, log.end()).await;
    bell.wait();
    let ticket = batcher.submit_of(noisy.as_ref(), &mut staged, &waker).unwrap();
    until_durable(&batcher, ticket, &bell).unwrap();
    assert_eq!(log.end(), filled.unsigned_abs() + 21);
}

#[tokio::test]
async fn after_a_restart_what_was_not_flushed_is_not_free() {
    let dir = tempfile::tempdir().unwrap();
    let filled = {
        let (log, batcher) = open(dir.path());
        pass(&log, 0).await;
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

#[tokio::test]
async fn tasks_that_wait_for_a_share_see_the_end_of_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let (log, batcher) = open(dir.path());
    pass(&log, 0).await;
    let account = batcher.account(&"noisy".into());
    fill(&batcher, account.as_ref(), "noisy", 0, 1000);
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(Arc::clone(&bell));
    let mut staged = stage("noisy", 1000);
    assert!(matches!(batcher.submit_of(account.as_ref(), &mut staged, &waker), Err(SubmitError::Full)));
    batcher.close();
    bell.wait();
    assert!(matches!(batcher.submit_of(account.as_ref(), &mut staged, &waker), Err(SubmitError::Failed(_))));
}
