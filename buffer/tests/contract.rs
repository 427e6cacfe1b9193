//! The contract of every form of the log.

#![expect(clippy::unwrap_used, reason = "a test that cannot set up its world fails")]

mod common;
#[path = "common/redis.rs"]
mod server;

use std::sync::Arc;

use common::{all, append, numbers, stage};
use server::Server;
use weir_buffer::batcher::BatchConfig;
use weir_buffer::embedded::{Config, EmbeddedLog};
use weir_buffer::memory::MemoryLog;
use weir_buffer::redis::Redis;
use weir_buffer::{Batcher, Catalogue, Cursor, CursorError, Log, Metrics, ReadError};

/// Small segments and a tiny ring, so that reads also use the disk.
fn small(dir: &std::path::Path) -> Config {
    Config {
        dir: dir.join("log"),
        segment_bytes: 16 << 10,
        ring_bytes: 2 << 10,
        retain_bytes: 0,
        retain_secs: 0,
        ..Config::default()
    }
}

/// Runs a test on all forms of the log.
async fn on_all<F: Future<Output = ()>>(test: impl Fn(Arc<dyn Log>, Batcher) -> F) {
    let (log, batcher) = MemoryLog::open("memory", BatchConfig::default()).unwrap();
    test(log, batcher).await;
    let dir = tempfile::tempdir().unwrap();
    let (log, batcher) = EmbeddedLog::open(small(dir.path()), Arc::default()).unwrap();
    test(log, batcher).await;
    // Sealed.
    let dir = tempfile::tempdir().unwrap();
    let keys = Some(envelope::testing::keyring(dir.path()));
    let (log, batcher) = EmbeddedLog::open(Config { keys, ..small(dir.path()) }, Arc::default()).unwrap();
    test(log, batcher).await;
    let Some(server) = Server::start(&[]) else { return };
    let (log, batcher) = server.log().await;
    test(log, batcher).await;
    // The view of another process, on another server, because logs on one server detect each
    // other's messages.
    let server = Server::start(&[]).unwrap();
    let (log, batcher) = server.log().await;
    let elsewhere = Redis::connect(server.config()).await.unwrap();
    let reader = elsewhere.open(log.id()).await.unwrap();
    test(reader, batcher).await;
    // With a spill.
    let server = Server::start(&[]).unwrap();
    let spill = weir_buffer::spill::Config { dir: dir.path().join("spill"), ..Default::default() };
    let redis = Redis::connect(server.config()).await.unwrap();
    let (log, batcher, _) = redis.create_with_spill(spill, Arc::default()).await.unwrap();
    test(log, batcher).await;
}

/// Waits until readers of the log see this number of records: immediate except in another process.
async fn reached(log: &dyn Log, end: u64) {
    let mut watch = log.watch_end();
    let seen = tokio::time::timeout(std::time::Duration::from_secs(20), watch.wait_for(|seen| *seen >= end)).await;
    assert_eq!(*seen.expect("the end is told within 20 s").unwrap(), end);
}

#[tokio::test]
async fn records_are_read_in_order_and_without_gaps() {
    on_all(async |log, batcher| {
        for n in 0..300 {
            append(&batcher, stage([3 * n, 3 * n + 1, 3 * n + 2], false)).unwrap();
        }
        reached(&*log, 900).await;
        assert_eq!((log.start(), log.end()), (0, 900));
        assert_eq!(all(&*log).await, (0..900).collect::<Vec<_>>());
        let middle = log.read(450, 1).await.unwrap();
        assert!(middle[0].header().first_offset <= 450 && middle[0].header().end_offset() > 450);
        assert!(log.read(900, 1000).await.unwrap().is_empty());
    })
    .await;
}

#[tokio::test]
async fn changes_of_the_end_are_notified() {
    on_all(async |log, batcher| {
        let mut watch = log.watch_end();
        append(&batcher, stage([1], false)).unwrap();
        watch.changed().await.unwrap();
        assert_eq!(*watch.borrow(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_resent_record_that_is_there_already_is_dropped_and_others_stay() {
    on_all(async |log, batcher| {
        append(&batcher, stage([1, 2, 3], false)).unwrap();
        append(&batcher, stage([2, 4, 4], true)).unwrap();
        append(&batcher, stage([1], false)).unwrap();
        append(&batcher, stage([4], true)).unwrap();
        reached(&*log, 5).await;
        assert_eq!(all(&*log).await, [1, 2, 3, 4, 1]);
    })
    .await;
}

#[tokio::test]
async fn an_operator_may_set_a_cursor_back_to_what_the_log_still_holds() {
    on_all(async |log, batcher| {
        for n in 0..400 {
            append(&batcher, stage([n], false)).unwrap();
        }
        reached(&*log, 400).await;
        let cursor =
            |to: u64, epoch, generation| Cursor { done_to: to, sealed_to: to, epoch, generation, ..Cursor::default() };
        log.move_cursor("a", cursor(300, 2, 0)).await.unwrap();
        let start = log.trim().await.unwrap();
        assert!(start > 0 && start <= 300, "{start}");
        assert!(matches!(log.rewind_cursor("a", cursor(300, 1, 1)).await, Err(CursorError::Fenced { .. })));
        for outside in [start - 1, 401] {
            let error = log.rewind_cursor("a", cursor(outside, 2, 1)).await.unwrap_err();
            assert_eq!(error, CursorError::Outside { sink: "a".to_owned(), to: outside, start, end: 400 });
        }
        log.rewind_cursor("a", cursor(start, 2, 1)).await.unwrap();
        assert_eq!(log.cursors().await.unwrap()["a"], cursor(start, 2, 1));
        assert_eq!(log.trim().await.unwrap(), start, "what is delivered again is kept");
        log.move_cursor("a", cursor(400, 2, 1)).await.unwrap();
        assert!(log.trim().await.unwrap() > start);
    })
    .await;
}

#[tokio::test]
async fn cursors_move_forward_only_and_trim_frees_what_all_have_passed() {
    on_all(async |log, batcher| {
        for n in 0..400 {
            append(&batcher, stage([n], false)).unwrap();
        }
        reached(&*log, 400).await;
        let cursor = |to: u64, epoch| Cursor { done_to: to, sealed_to: to, epoch, ..Cursor::default() };
        log.move_cursor("a", cursor(300, 2)).await.unwrap();
        log.move_cursor("b", cursor(100, 1)).await.unwrap();
        assert!(matches!(log.move_cursor("a", cursor(299, 2)).await, Err(CursorError::Backwards { .. })));
        assert!(matches!(log.move_cursor("a", cursor(301, 1)).await, Err(CursorError::Fenced { .. })));
        assert!(matches!(log.move_cursor("a", cursor(401, 2)).await, Err(CursorError::Backwards { .. })));
        let start = log.trim().await.unwrap();
        assert!(start > 0 && start <= 100, "{start}");
        assert_eq!(all(&*log).await, (start.cast_signed()..400).collect::<Vec<_>>());
        assert_eq!(log.read(0, 1).await.unwrap_err(), ReadError::Trimmed { offset: 0, start });
        assert_eq!(log.cursors().await.unwrap()["a"], cursor(300, 2));
    })
    .await;
}

#[tokio::test]
async fn a_log_that_no_sink_follows_keeps_everything() {
    on_all(async |log, batcher| {
        append(&batcher, stage(0..100, false)).unwrap();
        reached(&*log, 100).await;
        assert_eq!(log.trim().await.unwrap(), 0);
        assert_eq!(all(&*log).await.len(), 100);
    })
    .await;
}

#[tokio::test]
async fn many_producers_each_keep_their_order() {
    on_all(async |log, batcher| {
        let producers: Vec<_> = (0..8_i64)
            .map(|producer| {
                let batcher = batcher.clone();
                std::thread::spawn(move || {
                    for n in 0..200 {
                        append(&batcher, stage([producer * 1000 + n], false)).unwrap();
                    }
                })
            })
            .collect();
        producers.into_iter().for_each(|p| p.join().unwrap());
        reached(&*log, 1600).await;
        let found = all(&*log).await;
        for producer in 0..8 {
            let own: Vec<_> = found.iter().filter(|n| **n / 1000 == producer).collect();
            assert!(own.len() == 200 && own.is_sorted(), "producer {producer}");
        }
    })
    .await;
}

#[tokio::test]
async fn an_embedded_log_continues_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..5_i64 {
        let (log, batcher) = EmbeddedLog::open(small(dir.path()), Arc::default()).unwrap();
        assert_eq!(all(&*log).await, (0..round * 60).collect::<Vec<_>>());
        for n in 0..60 {
            append(&batcher, stage([round * 60 + n], false)).unwrap();
        }
        // Recent records of before a restart are detected as resent after it.
        append(&batcher, stage([round * 60 + 59], true)).unwrap();
        log.move_cursor("a", Cursor { epoch: 7, ..Cursor::default() }).await.unwrap();
        batcher.close();
    }
    let (log, batcher) = EmbeddedLog::open(small(dir.path()), Arc::default()).unwrap();
    append(&batcher, stage([299], true)).unwrap();
    assert_eq!(log.end(), 300);
    assert_eq!(log.cursors().await.unwrap()["a"].epoch, 7);
}

#[tokio::test]
async fn a_second_process_is_told_that_the_log_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let _first = EmbeddedLog::open(small(dir.path()), Arc::default()).unwrap();
    let second = EmbeddedLog::open(small(dir.path()), Arc::new(Metrics::default())).unwrap_err();
    assert!(second.to_string().contains("another process"), "{second}");
}

#[tokio::test]
async fn offsets_are_found_by_time() {
    on_all(async |log, batcher| {
        for n in 0..300 {
            append(&batcher, stage([n], false)).unwrap();
        }
        reached(&*log, 300).await;
        let frames = log.read(150, 1).await.unwrap();
        let header = frames[0].header();
        let found = log.offset_at(header.appended).await.unwrap();
        assert!(found <= header.first_offset);
        let first = &log.read(found, 1).await.unwrap()[0];
        assert!(first.header().appended >= header.appended);
        assert_eq!(numbers(std::slice::from_ref(first))[0], found.cast_signed());
        assert_eq!(log.offset_at(0).await.unwrap(), 0);
        assert_eq!(log.offset_at(i64::MAX).await.unwrap(), 300);
    })
    .await;
}
