//! Pools on one server: none sees the logs, leases, settings and sums of another.

use std::sync::Arc;
use std::time::Duration;

use weir_buffer::redis::{Config, Redis};
use weir_buffer::{Catalogue, Cursor, ExportSetting, Holder, Log, Tally};

use crate::common::{all, append, stage};
use crate::server::Server;

const LONG: Duration = Duration::from_secs(600);

#[tokio::test]
async fn pools_on_one_server_see_nothing_of_each_other() {
    let Some(server) = Server::start(&[]) else { return };
    let open = async |pool: Option<&str>| {
        let config = Config { pool: pool.map(str::to_owned), ..server.config() };
        Redis::connect(config).await.unwrap()
    };
    let (shared, gold, silver) = (open(None).await, open(Some("gold")).await, open(Some("silver")).await);
    let mut logs = Vec::new();
    for (n, redis) in (0..).zip([&shared, &gold, &silver]) {
        let (log, batcher) = redis.create(Arc::default()).await.unwrap();
        append(&batcher, stage([n], false)).unwrap();
        logs.push((log, batcher));
    }
    let ids: Vec<&str> = logs.iter().map(|(log, _)| log.id()).collect();
    assert!(ids[0].starts_with("test.") && ids[1].starts_with("test~gold."), "{ids:?}");
    let holder = Holder { name: "f1".into(), address: "http://f1:1".into() };
    for ((redis, (log, _)), n) in [&shared, &gold, &silver].into_iter().zip(&logs).zip(0..) {
        let listed: Vec<String> = redis.list().await.unwrap().into_iter().map(|log| log.id).collect();
        assert_eq!(listed, [log.id()]);
        assert_eq!(all(&*redis.open(log.id()).await.unwrap()).await, [n]);
        for other in ids.iter().filter(|id| **id != log.id()) {
            assert!(redis.open(other).await.is_err());
            assert_eq!(redis.claim(other, &holder, LONG).await.unwrap(), None);
        }
    }

    // Flushers, settings and the sums of removed logs.
    assert_eq!(gold.announce(&holder, LONG).await.unwrap().len(), 1);
    let other = Holder { name: "f2".into(), ..holder.clone() };
    assert_eq!(shared.announce(&other, LONG).await.unwrap(), [other]);
    gold.set_export("bus", ExportSetting { paused: true, ..ExportSetting::default() }).await.unwrap();
    assert!(shared.export_settings().await.unwrap().is_empty() && silver.export_settings().await.unwrap().is_empty());
    let lease = gold.claim(ids[1], &holder, LONG).await.unwrap().unwrap();
    let tallies = [("acme".to_owned(), Tally { stored: 1, ..Tally::default() })].into();
    let cursor = Cursor { done_to: 1, sealed_to: 1, epoch: lease.epoch, tallies, ..Cursor::default() };
    logs[1].0.move_cursor("history", cursor).await.unwrap();
    logs[1].1.close();
    assert!(gold.remove(&lease).await.unwrap());
    assert_eq!(gold.settled().await.unwrap()["history"].tallies["acme"].stored, 1);
    assert!(shared.settled().await.unwrap().is_empty());
    assert_eq!((gold.list().await.unwrap().len(), shared.list().await.unwrap().len()), (0, 1));
}
