//! Many logs, many flushers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use weir_buffer::redis::{Config, Redis};
use weir_buffer::{Catalogue, Cursor, CursorError, ExportSetting, Holder, Lease, Log, Rewind, Tally};

use crate::common::{all, append, stage};
use crate::redis_control::wait_for;
use crate::server::Server;

const LONG: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_millis(100);

fn holder(name: &str) -> Holder {
    Holder { name: name.into(), address: format!("http://{name}:1") }
}

fn cursor(to: u64, lease: &Lease) -> Cursor {
    let tally = Tally { stored: to, ..Tally::default() };
    let hours = BTreeMap::from([("acme".to_owned(), BTreeMap::from([(7, tally.stored)]))]);
    let tallies = BTreeMap::from([("acme".to_owned(), tally)]);
    Cursor { done_to: to, sealed_to: to, epoch: lease.epoch, tallies, hours, ..Cursor::default() }
}

async fn claimed(redis: &Redis, log: &str, name: &str, time: Duration) -> Lease {
    let mut lease = None;
    wait_for("the log can be claimed", async || {
        lease = redis.claim(log, &holder(name), time).await.unwrap();
        lease.is_some()
    })
    .await;
    lease.unwrap()
}

#[tokio::test]
async fn logs_are_listed_with_their_writers_and_holders() {
    let Some(server) = Server::start(&[]) else { return };
    let redis = Redis::connect(server.config()).await.unwrap();
    assert_eq!(redis.list().await.unwrap(), []);
    let (first, first_way) = redis.create(Arc::default()).await.unwrap();
    let (second, _second_way) = redis.create(Arc::default()).await.unwrap();
    assert!(first.id() < second.id() && first.id().starts_with("test."), "{} {}", first.id(), second.id());
    let lease = redis.claim(second.id(), &holder("f1"), LONG).await.unwrap().unwrap();
    first_way.close();
    let listed = redis.list().await.unwrap();
    assert_eq!(listed.iter().map(|log| log.id.as_str()).collect::<Vec<_>>(), [first.id(), second.id()]);
    assert_eq!(listed.iter().map(|log| log.written).collect::<Vec<_>>(), [false, true]);
    assert_eq!(listed.iter().map(|log| log.holder.clone()).collect::<Vec<_>>(), [None, Some(holder("f1"))]);
    redis.release(&lease).await.unwrap();
    assert_eq!(redis.list().await.unwrap()[1].holder, None);
    assert_eq!(redis.claim("unknown.1", &holder("f1"), LONG).await.unwrap(), None);
    assert!(redis.open("unknown.1").await.is_err());
}

#[tokio::test]
async fn a_log_has_one_holder_until_the_lease_runs_out() {
    let Some(server) = Server::start(&[]) else { return };
    let redis = Redis::connect(server.config()).await.unwrap();
    let (log, _way) = redis.create(Arc::default()).await.unwrap();
    let first = redis.claim(log.id(), &holder("f1"), LONG).await.unwrap().unwrap();
    assert_eq!(redis.claim(log.id(), &holder("f2"), LONG).await.unwrap(), None);
    let again = redis.claim(log.id(), &holder("f1"), LONG).await.unwrap().unwrap();
    assert!(again.epoch > first.epoch);
    assert!(!redis.renew(&first, LONG).await.unwrap());
    assert!(redis.renew(&again, SHORT).await.unwrap());
    let second = claimed(&redis, log.id(), "f2", LONG).await;
    assert!(second.epoch > again.epoch);
    assert!(!redis.renew(&again, LONG).await.unwrap());
    redis.release(&again).await.unwrap();
    assert!(redis.renew(&second, LONG).await.unwrap(), "a stale holder cannot give back what is another's");
}

#[tokio::test]
async fn a_stalled_holder_that_wakes_up_moves_no_cursor() {
    let Some(server) = Server::start(&[]) else { return };
    let redis = Redis::connect(server.config()).await.unwrap();
    let (log, way) = redis.create(Arc::default()).await.unwrap();
    append(&way, stage(0..100, false)).unwrap();
    let stale = redis.claim(log.id(), &holder("f1"), SHORT).await.unwrap().unwrap();
    log.move_cursor("history", cursor(10, &stale)).await.unwrap();
    let fresh = claimed(&redis, log.id(), "f2", LONG).await;
    // Also before the new holder has moved a cursor.
    let refused = log.move_cursor("history", cursor(20, &stale)).await.unwrap_err();
    assert_eq!(refused, CursorError::Fenced { sink: "history".into(), held: fresh.epoch, tried: stale.epoch });
    log.move_cursor("history", cursor(30, &fresh)).await.unwrap();
    assert!(log.move_cursor("history", cursor(40, &stale)).await.is_err());
    assert_eq!(log.cursors().await.unwrap()["history"], cursor(30, &fresh));
}

#[tokio::test]
async fn a_drained_log_without_a_writer_is_removed_and_its_tallies_kept() {
    let Some(server) = Server::start(&[]) else { return };
    let redis = Redis::connect(server.config()).await.unwrap();
    for round in 1..=2_u64 {
        let (log, way) = redis.create(Arc::default()).await.unwrap();
        append(&way, stage(0..50, false)).unwrap();
        let lease = redis.claim(log.id(), &holder("f1"), LONG).await.unwrap().unwrap();
        log.move_cursor("history", cursor(50, &lease)).await.unwrap();
        log.move_cursor("points", cursor(49, &lease)).await.unwrap();
        assert!(!redis.remove(&lease).await.unwrap(), "it has a writer");
        way.close();
        assert!(!redis.remove(&lease).await.unwrap(), "a sink has not passed it");
        log.move_cursor("points", cursor(50, &lease)).await.unwrap();
        assert!(!redis.remove(&Lease { epoch: lease.epoch - 1, ..lease.clone() }).await.unwrap(), "another's lease");
        assert!(redis.remove(&lease).await.unwrap());
        assert!(redis.remove(&lease).await.unwrap(), "once more changes nothing");
        assert_eq!(redis.list().await.unwrap(), []);
        let settled = redis.settled().await.unwrap();
        assert_eq!(settled["history"].tallies["acme"].stored, 50 * round);
        assert_eq!(settled["history"].hours["acme"], BTreeMap::from([(7, 50 * round)]));
        assert_eq!((settled["points"].done_to, settled["points"].epoch), (50 * round, 0));
    }
    let left = server.command(&["EVAL", "return #redis.call('KEYS', 'weir:{test.*')", "0"]);
    assert_eq!(left, ":0");
}

#[tokio::test]
async fn a_log_is_kept_for_detecting_resends_until_its_retention_is_over() {
    let Some(server) = Server::start(&[]) else { return };
    let config = Config { retain_secs: 3600, retain_bytes: 1 << 20, ..server.config() };
    let redis = Redis::connect(config.clone()).await.unwrap();
    let (log, way) = redis.create(Arc::default()).await.unwrap();
    for n in 0..50 {
        append(&way, stage([n], false)).unwrap();
    }
    way.close();
    let lease = redis.claim(log.id(), &holder("f1"), LONG).await.unwrap().unwrap();
    log.move_cursor("history", cursor(50, &lease)).await.unwrap();
    assert_eq!(log.trim().await.unwrap(), 0);
    assert!(!redis.remove(&lease).await.unwrap());
    let soon = Redis::connect(Config { retain_bytes: 5_000, ..config }).await.unwrap();
    let start = soon.open(log.id()).await.unwrap().trim().await.unwrap();
    assert!(start > 0 && start < 50, "{start}");
}

#[tokio::test]
async fn a_message_resent_to_another_node_is_detected() {
    let Some(server) = Server::start(&[]) else { return };
    let node = |name: &str| Config { node: name.into(), ..server.config() };
    let first = Redis::connect(node("a")).await.unwrap();
    let second = Redis::connect(node("b")).await.unwrap();
    let (_, first_way) = first.create(Arc::default()).await.unwrap();
    let (log, second_way) = second.create(Arc::default()).await.unwrap();
    append(&first_way, stage(0..10, false)).unwrap();
    append(&second_way, stage([5, 6, 20], true)).unwrap();
    // Also frames that the first node appended after the first look-up of the second.
    append(&first_way, stage(10..15, false)).unwrap();
    append(&second_way, stage([11, 20, 21], true)).unwrap();
    assert_eq!(all(&*log).await, [20, 21]);
    // And frames of this node before its restart.
    second_way.close();
    let (after, way) = second.create(Arc::default()).await.unwrap();
    append(&way, stage([21, 22], true)).unwrap();
    assert_eq!(all(&*after).await, [22]);
}

#[tokio::test]
async fn settings_of_exports_are_shared_and_stay() {
    let Some(server) = Server::start(&[]) else { return };
    let redis = Redis::connect(server.config()).await.unwrap();
    let paused = ExportSetting { paused: true, rewind: Some(Rewind { generation: 2, to: -7 }) };
    redis.set_export("events", paused).await.unwrap();
    redis.set_export("archive", ExportSetting::default()).await.unwrap();
    let other = Redis::connect(server.config()).await.unwrap();
    let wanted = [("archive".to_owned(), ExportSetting::default()), ("events".to_owned(), paused)].into();
    assert_eq!(other.export_settings().await.unwrap(), wanted);
}
