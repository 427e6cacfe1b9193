//! A server that dies, is full, stalls or loses data; a writer that counts as dead.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use weir_buffer::batcher::BatchConfig;
use weir_buffer::redis::{Config, Redis};
use weir_buffer::{Catalogue, Cursor, Holder, Log, ReadError};

use crate::common::{all, append, stage};
use crate::control::Producer;
use crate::redis_control::wait_for;
use crate::server::{Server, wait_until};

#[tokio::test]
async fn kill_9_of_the_server_loses_and_doubles_nothing_that_was_acknowledged() {
    let Some(mut server) = Server::start(&[]) else { return };
    let redis = Redis::connect(server.config()).await.unwrap();
    let (log, batcher) = redis.create(Arc::default()).await.unwrap();
    let producer = Producer::start(&batcher);
    for round in 1..=6 {
        producer.goes_on(40);
        server.kill();
        if round % 2 == 0 {
            wait_until("the writer has noticed", || log.state().blocked.is_some());
            assert!(log.state().blocked.unwrap().contains("redis is away"));
        }
        server.restart();
    }
    producer.goes_on(40);
    let count = producer.end();
    assert_eq!(log.state().blocked, None);
    assert_eq!(all(&*log).await, (0..count).collect::<Vec<_>>());
    // From the server, not from this process's memory.
    server.restart();
    let fresh = Redis::connect(server.config()).await.unwrap().open(log.id()).await.unwrap();
    assert_eq!(all(&*fresh).await, (0..count).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_append_to_a_stalled_server_is_retried_and_detected_as_stored() {
    let Some(server) = Server::start(&[]) else { return };
    let config = Config { response_timeout_ms: 200, connect_timeout_ms: 200, ..server.config() };
    let redis = Redis::connect(config).await.unwrap();
    let (log, batcher) = redis.create(Arc::default()).await.unwrap();
    let producer = Producer::start(&batcher);
    for _ in 0..5 {
        producer.goes_on(20);
        server.signal("STOP");
        // All pending appends at the server are of the same frame.
        wait_until("the writer has noticed", || log.state().blocked.is_some());
        server.signal("CONT");
    }
    producer.goes_on(20);
    let count = producer.end();
    assert_eq!(all(&*log).await, (0..count).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_server_out_of_memory_accepts_nothing_until_sinks_advance() {
    let Some(server) = Server::start(&["--maxmemory", "8mb", "--maxmemory-policy", "noeviction"]) else { return };
    let redis = Redis::connect(server.config()).await.unwrap();
    let (log, batcher) = redis.create(Arc::default()).await.unwrap();
    let producer = Producer::start_large(&batcher);
    wait_until("the server is full", || log.state().blocked.is_some());
    assert!(log.state().blocked.unwrap().contains("out of memory"));
    let stopped = producer.durable.load(Ordering::SeqCst);
    // All operations that free memory work.
    let holder = Holder { name: "f".into(), address: "a".into() };
    let lease = redis.claim(log.id(), &holder, Duration::from_secs(60)).await.unwrap().unwrap();
    let cursor = Cursor { done_to: log.end(), sealed_to: log.end(), epoch: lease.epoch, ..Cursor::default() };
    log.move_cursor("history", cursor).await.unwrap();
    log.trim().await.unwrap();
    wait_until("appends go on", || producer.reached(stopped + 5));
    producer.end();
    assert_eq!(log.state().blocked, None);
}

#[tokio::test]
async fn a_log_stops_at_its_capacity_and_continues_when_sinks_advance() {
    let Some(server) = Server::start(&[]) else { return };
    let batch = BatchConfig { max_records: 10, ..BatchConfig::default() };
    let config = Config { max_bytes: 20_000, retain_bytes: 10_000, retain_secs: 600, batch, ..server.config() };
    let redis = Redis::connect(config).await.unwrap();
    let (log, batcher) = redis.create(Arc::default()).await.unwrap();
    let producer = Producer::start(&batcher);
    wait_until("the log is full", || log.state().blocked.is_some());
    assert!(log.state().blocked.unwrap().contains("redis.max_bytes"));
    assert!(log.state().used_bytes <= 20_000);
    // Without a trim the writer frees retained frames.
    let end = log.end();
    log.move_cursor("a", Cursor { done_to: end, sealed_to: end, ..Cursor::default() }).await.unwrap();
    wait_until("appends go on", || producer.reached(end.cast_signed() + 5));
    let end = log.end();
    log.move_cursor("a", Cursor { done_to: end, sealed_to: end, ..Cursor::default() }).await.unwrap();
    producer.end();
}

#[tokio::test]
async fn a_server_that_became_unsafe_while_it_was_away_receives_nothing() {
    let Some(mut server) = Server::start(&[]) else { return };
    let (log, batcher) = server.log().await;
    append(&batcher, stage([1], false)).unwrap();
    server.arguments_for_next(&["--appendonly", "yes", "--appendfsync", "everysec"]);
    server.restart();
    let producer = Producer::start(&batcher);
    wait_until("the writer refuses", || log.state().blocked.is_some_and(|why| why.contains("appendfsync everysec")));
    assert!(!producer.reached(1));
    assert_eq!(server.command(&["CONFIG", "SET", "appendfsync", "always"]), "+OK");
    wait_until("appends go on", || producer.reached(5));
    producer.end();
}

#[tokio::test]
async fn a_writer_whose_log_was_removed_stops() {
    let Some(server) = Server::start(&[]) else { return };
    let redis = Redis::connect(server.config()).await.unwrap();
    let (log, batcher) = redis.create(Arc::default()).await.unwrap();
    append(&batcher, stage([1], false)).unwrap();
    let holder = Holder { name: "f".into(), address: "a".into() };
    let lease = redis.claim(log.id(), &holder, Duration::from_secs(60)).await.unwrap().unwrap();
    log.move_cursor("a", Cursor { done_to: 1, sealed_to: 1, epoch: lease.epoch, ..Cursor::default() }).await.unwrap();
    assert!(!redis.remove(&lease).await.unwrap());
    let (meta, writer) = (format!("weir:{{{}}}:meta", log.id()), format!("weir:{{{}}}:writer", log.id()));
    server.command(&["DEL", &writer]);
    assert!(!redis.remove(&lease).await.unwrap(), "it may only have lost the server");
    // As if it had sent no heartbeat for long.
    wait_for("the log is removed", async || {
        server.command(&["HSET", &meta, "lonely", "1"]);
        server.command(&["DEL", &writer]);
        redis.remove(&lease).await.unwrap()
    })
    .await;
    let refused = append(&batcher, stage([2], false)).unwrap_err();
    assert!(refused.contains("closed by others"), "{refused}");
}

#[tokio::test]
async fn a_server_that_lost_its_data_never_reuses_a_name() {
    let Some(server) = Server::start(&[]) else { return };
    let redis = Redis::connect(server.config()).await.unwrap();
    let mut names = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let (log, batcher) = redis.create(Arc::default()).await.unwrap();
        names.insert(log.id().to_owned());
        batcher.close();
    }
    let before = names.last().unwrap().clone();
    wait_for("the next second", async || *server.command(&["EVAL", "return redis.call('TIME')[1]", "0"]) > before[5..])
        .await;
    assert_eq!(server.command(&["FLUSHALL"]), "+OK");
    let (log, _batcher) = redis.create(Arc::default()).await.unwrap();
    assert!(names.insert(log.id().to_owned()), "{}", log.id());
}

#[tokio::test]
async fn a_damaged_entry_is_named_in_the_error() {
    let Some(server) = Server::start(&[]) else { return };
    let (log, batcher) = server.log().await;
    for n in 0..3 {
        append(&batcher, stage([n], false)).unwrap();
    }
    let key = format!("weir:{{{}}}:log", log.id());
    assert_eq!(server.command(&["XDEL", &key, "1-1"]), ":1");
    let fresh = Redis::connect(server.config()).await.unwrap().open(log.id()).await.unwrap();
    let error = fresh.read(1, 100).await.unwrap_err().to_string();
    assert!(error.contains("damaged") && error.contains(&key), "{error}");
    let other = format!("weir:{{{}}}:marks", log.id());
    assert_eq!(server.command(&["XADD", &key, "3-1", "f", "nonsense"]), "3-1");
    assert_eq!(server.command(&["XADD", &other, "3-1", "b", "999999", "t", "1"]), "3-1");
    wait_for("the follower sees it", async || fresh.end() == 4).await;
    let error = fresh.read(3, 100).await.unwrap_err().to_string();
    assert!(error.contains("entry 3-1"), "{error}");
}

#[tokio::test]
async fn a_replica_must_have_what_is_acknowledged() {
    let Some(server) = Server::start(&[]) else { return };
    let config = Config { replicas: 1, replica_timeout_ms: 200, ..server.config() };
    let redis = Redis::connect(config).await.unwrap();
    let (log, batcher) = redis.create(Arc::default()).await.unwrap();
    let producer = Producer::start(&batcher);
    wait_until("the writer waits", || log.state().blocked.is_some_and(|why| why.contains("redis.replicas")));
    assert!(!producer.reached(1));
    let replica = Server::start(&["--replicaof", &format!("127.0.0.1 {}", server.port)]).unwrap();
    wait_until("appends go on", || producer.reached(20));
    let count = producer.end();
    assert_eq!(all(&*log).await, (0..count).collect::<Vec<_>>());
    let held = replica.command(&["XLEN", &format!("weir:{{{}}}:log", log.id())]);
    assert_eq!(held, format!(":{count}"));
}

#[tokio::test]
async fn a_server_that_lost_everything_is_reported_and_gets_back_what_is_in_memory() {
    let Some(mut server) = Server::start(&[]) else { return };
    for way in ["FLUSHALL", "a start without the AOF"] {
        let config = Config { ring_bytes: 1 << 20, ..server.config() };
        let redis = Redis::connect(config.clone()).await.unwrap();
        let (log, batcher) = redis.create(Arc::default()).await.unwrap();
        let elsewhere = Redis::connect(config).await.unwrap();
        let follower = elsewhere.open(log.id()).await.unwrap();
        for n in 0..20 {
            append(&batcher, stage([n], false)).unwrap();
        }
        wait_for("the follower has it", async || follower.end() == 20).await;
        let holder = Holder { name: "f".into(), address: "a".into() };
        let lease = redis.claim(log.id(), &holder, Duration::from_secs(60)).await.unwrap().unwrap();
        let cursor = Cursor { done_to: 5, sealed_to: 5, epoch: lease.epoch, ..Cursor::default() };
        log.move_cursor("history", cursor.clone()).await.unwrap();
        assert_eq!(log.concerns(), Vec::<String>::new());
        match way {
            "FLUSHALL" => drop(server.command(&["FLUSHALL"])),
            _ => {
                server.kill();
                std::fs::remove_dir_all(server.dir.path().join("appendonlydir")).unwrap();
                server.restart();
            }
        }
        if way == "FLUSHALL" {
            // Without an append: the heartbeat notices.
            wait_for("the loss is noticed", async || !log.concerns().is_empty()).await;
        }
        for n in 20..25 {
            append(&batcher, stage([n], false)).unwrap();
        }
        let concern = log.concerns().join("; ");
        assert!(concern.contains("redis has lost data") && concern.contains("weir books"), "{way}: {concern}");
        wait_for("the follower goes on", async || follower.end() == 25).await;
        assert_eq!(all(&*follower).await, (0..25).collect::<Vec<_>>(), "{way}");
        wait_for("the other process knows too", async || follower.has_lost()).await;
        let fresh = Redis::connect(server.config()).await.unwrap().open(log.id()).await.unwrap();
        assert_eq!(all(&*fresh).await, (0..25).collect::<Vec<_>>(), "{way}: from the server");
        // Without cursors nothing is trimmed; with them the holder has its lease again.
        log.move_cursor("latest", Cursor { done_to: 25, sealed_to: 25, ..cursor.clone() }).await.unwrap();
        assert_eq!(log.trim().await.unwrap(), 0, "{way}");
        log.move_cursor("history", cursor).await.unwrap();
        assert!(!redis.renew(&lease, Duration::from_secs(60)).await.unwrap(), "{way}");
        assert!(redis.regain(&lease, Duration::from_secs(60)).await.unwrap(), "{way}");
        assert!(redis.renew(&lease, Duration::from_secs(60)).await.unwrap(), "{way}");
        assert_eq!(log.trim().await.unwrap(), 5, "{way}");
        batcher.close();
    }
}

#[tokio::test]
async fn a_lease_that_another_flusher_took_is_not_regained() {
    let Some(server) = Server::start(&[]) else { return };
    let redis = Redis::connect(server.config()).await.unwrap();
    let (log, _batcher) = redis.create(Arc::default()).await.unwrap();
    let [a, b] = ["a", "b"].map(|name| Holder { name: name.into(), address: "x".into() });
    let time = Duration::from_secs(60);
    let lease = redis.claim(log.id(), &a, time).await.unwrap().unwrap();
    redis.release(&lease).await.unwrap();
    assert!(redis.regain(&lease, time).await.unwrap(), "it was free");
    redis.release(&lease).await.unwrap();
    let other = redis.claim(log.id(), &b, time).await.unwrap().unwrap();
    assert!(!redis.regain(&lease, time).await.unwrap());
    redis.release(&other).await.unwrap();
    assert!(!redis.regain(&lease, time).await.unwrap(), "the other may have moved cursors");
}

#[tokio::test]
async fn a_tail_that_the_server_lost_is_put_there_again() {
    let Some(server) = Server::start(&[]) else { return };
    let config = Config { ring_bytes: 1 << 20, ..server.config() };
    let (log, batcher) = Redis::connect(config).await.unwrap().create(Arc::default()).await.unwrap();
    for n in 0..10 {
        append(&batcher, stage([n], false)).unwrap();
    }
    // As after a failover to a replica that was behind.
    let meta = format!("weir:{{{}}}:meta", log.id());
    for key in ["log", "marks"] {
        let key = format!("weir:{{{}}}:{key}", log.id());
        for n in 7..10 {
            assert_eq!(server.command(&["XDEL", &key, &format!("{n}-1")]), ":1");
        }
        assert_eq!(server.command(&["XSETID", &key, "6-1"]), "+OK");
    }
    server.command(&["HSET", &meta, "end", "7", "hash", "x"]);
    append(&batcher, stage([10], false)).unwrap();
    let fresh = Redis::connect(server.config()).await.unwrap().open(log.id()).await.unwrap();
    assert_eq!(all(&*fresh).await, (0..11).collect::<Vec<_>>());
    assert!(log.concerns()[0].contains("from offset 7 on; 3 records"), "{:?}", log.concerns());
}

#[tokio::test]
async fn frames_that_the_server_still_has_stay_though_those_behind_them_are_in_no_memory() {
    let Some(server) = Server::start(&[]) else { return };
    let (log, batcher) = server.log().await;
    for n in 0..60 {
        append(&batcher, stage([n], false)).unwrap();
    }
    let meta = format!("weir:{{{}}}:meta", log.id());
    for key in ["log", "marks"] {
        let key = format!("weir:{{{}}}:{key}", log.id());
        for n in 5..60 {
            assert_eq!(server.command(&["XDEL", &key, &format!("{n}-1")]), ":1");
        }
        assert_eq!(server.command(&["XSETID", &key, "4-1"]), "+OK");
    }
    server.command(&["HSET", &meta, "end", "5", "hash", "x"]);
    append(&batcher, stage([60], false)).unwrap();
    let fresh = Redis::connect(server.config()).await.unwrap().open(log.id()).await.unwrap();
    let read = fresh.read(0, 1 << 20).await.unwrap();
    assert_eq!(read.last().unwrap().header().end_offset(), 5, "up to the gap");
    let Err(ReadError::Trimmed { offset: 5, start }) = fresh.read(5, 1).await else { panic!("there is a gap") };
    assert!((6..60).contains(&start), "{start}");
    assert!(fresh.has_lost(), "readers count it as lost");
    let rest = fresh.read(start, 1 << 20).await.unwrap();
    assert_eq!(rest.last().unwrap().header().end_offset(), 61);
}

#[tokio::test]
async fn settings_that_became_unsafe_while_running_are_seen_by_the_next_append() {
    let Some(server) = Server::start(&[]) else { return };
    let (log, batcher) = server.log().await;
    append(&batcher, stage([0], false)).unwrap();
    for (key, wrong, right) in [("appendonly", "no", "yes"), ("appendfsync", "everysec", "always")] {
        assert_eq!(server.command(&["CONFIG", "SET", key, wrong]), "+OK");
        wait_for("it is reported without an append", async || log.concerns().iter().any(|why| why.contains(key))).await;
        let producer = Producer::start(&batcher);
        wait_until("the writer refuses", || log.state().blocked.is_some_and(|why| why.contains(key)));
        assert!(!producer.reached(1), "nothing is acknowledged");
        assert_eq!(server.command(&["CONFIG", "SET", key, right]), "+OK");
        wait_until("appends go on", || producer.reached(5));
        producer.end();
        wait_for("nothing is reported", async || log.concerns().is_empty()).await;
    }
}
