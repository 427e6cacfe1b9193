//! A removed sink no longer keeps records in the log.

#![expect(clippy::unwrap_used, reason = "a test that cannot set up its world fails")]

#[expect(dead_code, reason = "other tests need the rest")]
mod common;

use common::{append, stage};
use weir_buffer::batcher::BatchConfig;
use weir_buffer::embedded::{Config, EmbeddedLog};
use weir_buffer::memory::MemoryLog;
use weir_buffer::{Batcher, Cursor, CursorError, Log};

fn at(done_to: u64, epoch: u64) -> Cursor {
    Cursor { done_to, sealed_to: done_to, epoch, ..Cursor::default() }
}

async fn removes_a_sink(log: &dyn Log, batcher: &Batcher) {
    for n in 0..2_000 {
        append(batcher, stage([n], false)).unwrap();
    }
    log.move_cursor("stays", at(2_000, 2)).await.unwrap();
    log.move_cursor("goes", at(10, 2)).await.unwrap();
    assert!(log.trim().await.unwrap() <= 10, "what one sink has not passed is kept");
    let fenced = CursorError::Fenced { sink: "goes".to_owned(), held: 2, tried: 1 };
    assert_eq!(log.forget_cursor("goes", 1).await, Err(fenced));
    log.forget_cursor("goes", 2).await.unwrap();
    log.forget_cursor("goes", 2).await.unwrap();
    assert!(log.trim().await.unwrap() > 1_000, "no sink needs the records");
    assert_eq!(log.cursors().await.unwrap().keys().collect::<Vec<_>>(), ["stays"]);
}

#[tokio::test]
async fn a_log_in_memory_removes_a_sink() {
    let (log, batcher) = MemoryLog::open("memory", BatchConfig::default()).unwrap();
    removes_a_sink(&*log, &batcher).await;
}

#[tokio::test]
async fn an_embedded_log_removes_a_sink_durably() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        dir: dir.path().join("log"),
        segment_bytes: 16 << 10,
        retain_bytes: 0,
        retain_secs: 0,
        ..Config::default()
    };
    let (log, batcher) = EmbeddedLog::open(config.clone(), Default::default()).unwrap();
    removes_a_sink(&*log, &batcher).await;
    batcher.close();
    drop((log, batcher));
    let (log, _batcher) = EmbeddedLog::open(config, Default::default()).unwrap();
    assert_eq!(log.cursors().await.unwrap().keys().collect::<Vec<_>>(), ["stays"]);
}
