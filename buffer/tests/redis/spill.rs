//! The spill with a real server.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use model::clock::now;
use weir_buffer::redis::{Config, Redis, RedisLog};
use weir_buffer::spill::{self, Status};
use weir_buffer::{Batcher, Catalogue, Log};

use crate::common::{all, append, stage};
use crate::redis_control::wait_for;
use crate::server::Server;
use crate::tenants::{self, fill, pass};

fn files(dir: &Path) -> spill::Config {
    spill::Config { dir: dir.to_owned(), segment_bytes: 64 << 10, patience_ms: 100, ..spill::Config::default() }
}

async fn open(server: &Server, dir: &Path) -> (Arc<RedisLog>, Batcher, Status) {
    let config = Config { response_timeout_ms: 500, connect_timeout_ms: 500, ..server.config() };
    let redis = Redis::connect(config).await.unwrap();
    redis.create_with_spill(files(dir), Arc::default()).await.unwrap()
}

async fn drained(status: &Status) {
    wait_for("all is drained", async || status.behind() == 0).await;
}

/// All records of all logs of the server, by log.
async fn everything(server: &Server) -> Vec<i64> {
    let redis = Redis::connect(server.config()).await.unwrap();
    let mut found = Vec::new();
    for log in redis.list().await.unwrap() {
        found.extend(all(&*redis.open(&log.id).await.unwrap()).await);
    }
    found
}

#[tokio::test]
async fn devices_are_not_affected_by_a_server_that_is_away() {
    let Some(mut server) = Server::start(&[]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let (log, batcher, status) = open(&server, dir.path()).await;
    let mut next = 0..;
    for round in 0..3 {
        for _ in 0..20 {
            append(&batcher, stage([next.next().unwrap()], false)).unwrap();
        }
        if round == 1 {
            server.signal("STOP")
        } else {
            server.kill()
        }
        let begun = now();
        for _ in 0..50 {
            append(&batcher, stage([next.next().unwrap()], false)).unwrap();
        }
        assert!(status.behind() > 0);
        assert_eq!(log.state().blocked, None, "it takes records");
        let (end, until) = log.confirm_end().await;
        assert_eq!(end, log.end());
        assert!(until < begun, "the spilled records are not in the log that is read");
        if round == 1 {
            server.signal("CONT")
        } else {
            server.restart()
        }
        for _ in 0..20 {
            append(&batcher, stage([next.next().unwrap()], false)).unwrap();
        }
        drained(&status).await;
        assert!(log.confirm_end().await.1 > begun);
    }
    append(&batcher, stage([next.next().unwrap()], false)).unwrap();
    assert_eq!(status.behind(), 0, "appends go to the server again");
    assert_eq!(all(&*log).await, (0..271).collect::<Vec<_>>());
    assert_eq!(everything(&server).await, (0..271).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_spill_is_drained_after_a_restart() {
    let Some(mut server) = Server::start(&[]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut next = 0;
    for _ in 0..3 {
        let (_log, batcher, status) = open(&server, dir.path()).await;
        drained(&status).await;
        for _ in 0..10 {
            append(&batcher, stage([next], false)).unwrap();
            next += 1;
        }
        server.kill();
        for _ in 0..30 {
            append(&batcher, stage([next], false)).unwrap();
            next += 1;
        }
        batcher.close();
        server.restart();
    }
    let (_log, _batcher, status) = open(&server, dir.path()).await;
    drained(&status).await;
    assert_eq!(everything(&server).await, (0..next).collect::<Vec<_>>());
}

/// An append that was pending when the writer died arrives late, after the log was taken over.
#[tokio::test]
async fn a_late_append_changes_nothing() {
    let Some(server) = Server::start(&[]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let (log, batcher, status) = open(&server, dir.path()).await;
    append(&batcher, stage([0], false)).unwrap();
    server.signal("STOP");
    append(&batcher, stage([1], false)).unwrap();
    batcher.close();
    server.signal("CONT");
    drop((log, batcher, status));
    let (_log, _batcher, status) = open(&server, dir.path()).await;
    drained(&status).await;
    assert_eq!(everything(&server).await, [0, 1]);
}

#[tokio::test]
async fn records_are_spilled_when_the_server_is_out_of_memory() {
    let Some(server) = Server::start(&["--maxmemory", "4mb"]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let (log, batcher, status) = open(&server, dir.path()).await;
    let mut count = 0;
    wait_for("the server is full", async || {
        append(&batcher, stage(0..2000, false)).unwrap();
        count += 2000;
        status.behind() > 10_000
    })
    .await;
    assert_eq!(server.command(&["CONFIG", "SET", "maxmemory", "0"]), "+OK");
    drained(&status).await;
    assert_eq!((log.end(), log.state().blocked), (count, None));
    tokio::time::timeout(Duration::from_secs(20), async { assert_eq!(all(&*log).await.len() as u64, count) })
        .await
        .unwrap();
}

#[tokio::test]
async fn a_damaged_spill_is_reported_at_the_start() {
    let Some(server) = Server::start(&[]) else { return };
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("drain.json"), "{}").unwrap();
    let redis = Redis::connect(server.config()).await.unwrap();
    let error = redis.create_with_spill(files(dir.path()), Arc::default()).await.unwrap_err().to_string();
    assert!(error.contains("drain.json"), "{error}");
    assert_eq!(redis.list().await.unwrap(), [], "no log was made");
}

/// The share is one of the spill while records go there, and one of the log again afterwards; what
/// an earlier start has spilled is not free.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_fills_at_most_its_share_of_the_spill_and_others_go_on() {
    const LOG: u64 = 8 << 20;
    const SPILL: u64 = 8 << 20;
    let Some(mut server) = Server::start(&[]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let config = Config { response_timeout_ms: 500, connect_timeout_ms: 500, ..server.config() };
    let open = async |max_bytes| {
        let files = spill::Config { capacity_bytes: SPILL, segment_bytes: 1 << 20, ..files(dir.path()) };
        let redis = Redis::connect(Config { max_bytes, ..config.clone() }).await.unwrap();
        redis.create_with_spill(files, Arc::default()).await.unwrap()
    };
    let half = |filled: i64, of: u64| {
        let bytes = filled.unsigned_abs() * tenants::READING;
        assert!((of * 4 / 10..of * 6 / 10).contains(&bytes), "{bytes} of {of}");
    };
    let (mut spilled, mut sent) = (0, 0);
    for _ in 0..2 {
        let (log, batcher, status) = open(LOG).await;
        let (noisy, quiet) = (batcher.account(&"noisy".into()), batcher.account(&"quiet".into()));
        drained(&status).await;
        // The drain may not be over yet: then records are spilled and moved at once.
        wait_for("appends go to the server", async || {
            let files = status.files().end();
            sent += fill(&batcher, quiet.as_ref(), "quiet", sent, 1);
            status.files().end() == files
        })
        .await;
        pass(&*log, log.end()).await;
        let direct = fill(&batcher, noisy.as_ref(), "noisy", sent, 1000);
        half(direct, LOG);
        server.kill();
        // The first of them begins to spill.
        assert_eq!(fill(&batcher, quiet.as_ref(), "quiet", sent, 3), 3);
        spilled = fill(&batcher, noisy.as_ref(), "noisy", sent + direct, 1000);
        half(spilled, SPILL - (2 << 20));
        assert_eq!(fill(&batcher, quiet.as_ref(), "quiet", sent + 3, 10), 10);
        assert_eq!(log.state().blocked, None, "it takes records");
        sent += direct + spilled + 13;
        batcher.close();
        server.restart();
    }
    {
        // A log that is too small for the rest of the spill.
        let (log, batcher, _) = open(1 << 20).await;
        let again = fill(&batcher, batcher.account(&"noisy".into()).as_ref(), "noisy", sent, 1000);
        assert!((spilled / 4..=spilled * 3 / 4).contains(&again), "half of what is left: {again} after {spilled}");
        assert_eq!(log.state().blocked, None, "it takes records");
        sent += again;
        batcher.close();
    }
    let (_log, _batcher, status) = open(LOG).await;
    drained(&status).await;
    let redis = Redis::connect(config.clone()).await.unwrap();
    let mut all = 0;
    for log in redis.list().await.unwrap() {
        all += redis.open(&log.id).await.unwrap().end();
    }
    assert_eq!(all, sent.unsigned_abs(), "nothing is dropped");
}
