//! Copies of a log while its writer goes on.

#![expect(clippy::unwrap_used, reason = "a test that cannot set up its world fails")]

mod common;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::{all, append, stage};
use weir_buffer::embedded::{Config, EmbeddedLog, OpenError, Snapshot, renew, verify};
use weir_buffer::{Cursor, Log};

fn config(dir: &Path) -> Config {
    let dir = dir.to_owned();
    Config { dir, segment_bytes: 16 << 10, retain_bytes: 0, retain_secs: 0, ..Config::default() }
}

/// Ends the writer, also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn copy(snapshot: &Snapshot, dir: &Path) {
    std::fs::create_dir(dir).unwrap();
    snapshot.write_to(dir).unwrap();
}

#[test]
fn a_copy_under_load_opens_with_every_durable_record_and_its_cursors() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (log, batcher) = EmbeddedLog::open(config(&dir.path().join("log")), Default::default()).unwrap();
    let (durable, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let mut snapshots = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0.. {
                append(&batcher, stage([n], false)).unwrap();
                durable.store(n.unsigned_abs() + 1, Ordering::SeqCst);
                if stop.load(Ordering::SeqCst) {
                    return;
                }
            }
        });
        let _stop = Stop(&stop);
        while snapshots.len() < 5 {
            let goal = durable.load(Ordering::SeqCst) + 100;
            while durable.load(Ordering::SeqCst) < goal {
                std::thread::yield_now();
            }
            // A sink that keeps up, so that segments are deleted.
            let done_to = log.end() - 10;
            let cursor = Cursor { done_to, sealed_to: done_to, ..Cursor::default() };
            runtime.block_on(log.move_cursor("history", cursor)).unwrap();
            let before = durable.load(Ordering::SeqCst);
            let (snapshot, (passed, ends)) = log.snapshot(|| (done_to, log.end()));
            assert!(ends <= snapshot.end() && before <= snapshot.end());
            runtime.block_on(log.trim()).unwrap();
            // Its segments are deleted by now, or appended to.
            snapshots.push((snapshot, before, passed));
        }
    });
    assert!(log.start() > 0, "segments were deleted");
    for (n, (snapshot, before, passed)) in snapshots.iter().enumerate() {
        let dir = dir.path().join(format!("copy{n}"));
        copy(snapshot, &dir);
        assert!(verify(&dir).unwrap() >= *before);
        let (copied, batcher) = EmbeddedLog::open(config(&dir), Default::default()).unwrap();
        assert_eq!(runtime.block_on(copied.cursors()).unwrap()["history"].done_to, *passed);
        assert!(copied.start() <= *passed, "the records that the sink has not passed are there");
        let numbers = runtime.block_on(all(&*copied));
        assert!(numbers.len() as u64 >= before - copied.start());
        assert!(numbers.iter().copied().eq(copied.start().cast_signed()..copied.end().cast_signed()), "{numbers:?}");
        append(&batcher, stage([-1], false)).unwrap();
        batcher.close();
    }
}

#[tokio::test]
async fn a_copy_of_an_empty_log_opens_and_an_incomplete_one_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let (log, batcher) = EmbeddedLog::open(config(&dir.path().join("log")), Default::default()).unwrap();
    let empty = dir.path().join("empty");
    copy(&log.snapshot(|| ()).0, &empty);
    let (copied, writer) = EmbeddedLog::open(config(&empty), Default::default()).unwrap();
    append(&writer, stage([1, 2], false)).unwrap();
    assert_eq!(all(&*copied).await, [1, 2]);

    append(&batcher, stage(0..100, false)).unwrap();
    let cut = dir.path().join("cut");
    copy(&log.snapshot(|| ()).0, &cut);
    let segment = cut.join("00000000000000000000.seg");
    std::fs::write(&segment, std::fs::read(&segment).unwrap().iter().map(|_| 0).collect::<Vec<u8>>()).unwrap();
    assert!(matches!(verify(&cut), Err(OpenError::Damaged { .. })), "the copy knows its end");
}

#[tokio::test]
async fn each_restored_copy_gets_an_id_that_no_log_had() {
    let dir = tempfile::tempdir().unwrap();
    let (log, batcher) = EmbeddedLog::open(config(&dir.path().join("log")), Default::default()).unwrap();
    append(&batcher, stage(0..10, false)).unwrap();
    let snapshot = log.snapshot(|| ()).0;
    let mut ids = vec![log.id().to_owned()];
    for n in 0..3 {
        let dir = dir.path().join(n.to_string());
        copy(&snapshot, &dir);
        let id = renew(&dir).unwrap();
        let (copied, _batcher) = EmbeddedLog::open(config(&dir), Default::default()).unwrap();
        assert_eq!((copied.id(), all(&*copied).await), (&*id, (0..10).collect()));
        assert!(!ids.contains(&id), "{id} in {ids:?}");
        ids.push(id);
    }
}
