//! A server that is killed, stalls, steps down, refuses.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use model::TimeRange;
use mongodb::bson::{Document, doc};
use weir_stores::Block;
use weir_stores::contract::{History, StoreError};
use weir_stores::mongodb::{Config, MongoStore};

use super::{behind, own_server, shared_world};
use crate::data::{block, device};
use crate::history::{all, held};
use crate::server::Kind;
use crate::world::{World, config, connected};

const WAIT: Duration = Duration::from_secs(60);

/// Writes until the store accepts it, as a flusher does.
async fn insist(store: &MongoStore, blocks: &[Block]) {
    let begun = Instant::now();
    loop {
        match store.write(blocks.to_vec()).await {
            Ok(()) => return,
            Err(StoreError::Busy { .. }) if begun.elapsed() < WAIT => {
                tokio::time::sleep(Duration::from_millis(20)).await
            }
            Err(error) => panic!("{error:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_block_is_there_once_after_the_server_was_killed_again_and_again() {
    let mut server = own_server!(Kind::ReplicaSet);
    let config = Config { request_timeout_ms: 5_000, server_selection_timeout_ms: 500, ..config(&server) };
    let store = connected(&config).await;
    let (sender, mut acknowledged) = tokio::sync::watch::channel(0);
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            for round in 0.. {
                let blocks: Vec<Block> = (0..20).map(|d| block(&device(&format!("d{d}")), round * 10, 10)).collect();
                insist(&store, &blocks).await;
                if sender.send(round).is_err() {
                    break;
                }
            }
        }
    });
    for kill in 1..=4 {
        // Some rounds after the last kill, in the middle of one.
        let target = *acknowledged.borrow() + 7 + kill;
        tokio::time::timeout(WAIT, acknowledged.wait_for(|round| *round >= target)).await.unwrap().unwrap();
        server.kill();
        server.start_again();
        server.primary().await;
    }
    let last = *acknowledged.borrow();
    drop(acknowledged);
    tokio::time::timeout(WAIT, writer).await.unwrap().unwrap();
    for d in 0..20 {
        let blocks = all(&store, &device(&format!("d{d}")), TimeRange::ALL).await;
        let offsets: Vec<u64> = blocks.iter().map(|b| b.id.first_offset).collect();
        let distinct: BTreeSet<u64> = offsets.iter().copied().collect();
        assert_eq!(offsets.len(), distinct.len(), "d{d}: each once");
        let missing: Vec<i64> = (0..=last).filter(|round| !distinct.contains(&(round * 10).unsigned_abs())).collect();
        assert!(missing.is_empty(), "d{d}: acknowledged and not there: {missing:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stalls_is_busy_and_accepts_the_same_write_afterwards() {
    let server = own_server!(Kind::ReplicaSet);
    let config = Config { request_timeout_ms: 300, server_selection_timeout_ms: 300, ..config(&server) };
    let store = connected(&config).await;
    let blocks = [block(&device("a"), 0, 10)];
    insist(&store, &blocks).await;
    server.signal("-STOP");
    let begun = Instant::now();
    let error = store.write(vec![block(&device("a"), 10, 10)]).await.unwrap_err();
    assert!(matches!(error, StoreError::Busy { .. }), "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    server.signal("-CONT");
    insist(&store, &[block(&device("a"), 10, 10)]).await;
    insist(&store, &blocks).await;
    assert_eq!(held(&store).await, [("default".into(), 20)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_steps_down_is_busy_until_there_is_one() {
    let server = own_server!(Kind::ReplicaSet);
    let config = Config { server_selection_timeout_ms: 200, ..config(&server) };
    let store = connected(&config).await;
    insist(&store, &[block(&device("a"), 0, 10)]).await;
    server.admin(doc! { "replSetStepDown": 5, "force": true }).await.unwrap();
    let error = store.write(vec![block(&device("a"), 10, 10)]).await.unwrap_err();
    assert!(matches!(error, StoreError::Busy { .. }), "{error:?}");
    insist(&store, &[block(&device("a"), 10, 10)]).await;
    assert_eq!(held(&store).await, [("default".into(), 20)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_document_is_refused_and_the_others_are_written() {
    let mut world = shared_world!();
    let store = world.open().await.clone();
    let database = behind(&world.config).await;
    let rule = doc! { "collMod": "blocks", "validator": { "d": { "$ne": "bad" } } };
    database.run_command(rule).await.unwrap();
    let mut blocks: Vec<Block> = (0..50).map(|d| block(&device(&format!("d{d}")), 0, 10)).collect();
    store.write(blocks[..10].to_vec()).await.unwrap();
    blocks[20] = block(&device("bad"), 0, 10);
    let error = store.write(blocks).await.unwrap_err();
    assert!(matches!(&error, StoreError::Refused(why) if why.contains("validation")), "{error:?}");
    assert_eq!(held(&store).await, [("default".into(), 490)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_duplicate_in_a_foreign_index_is_not_taken_for_a_stored_block() {
    let mut world = shared_world!();
    let store = world.open().await.clone();
    let index = mongodb::IndexModel::builder().keys(doc! { "d": 1 });
    let unique = mongodb::options::IndexOptions::builder().unique(true).build();
    let blocks = behind(&world.config).await.collection::<Document>("blocks");
    blocks.create_index(index.options(unique).build()).await.unwrap();
    let id = "a index: _id_ dup key";
    store.write(vec![block(&device(id), 0, 10)]).await.unwrap();
    store.write(vec![block(&device(id), 0, 10)]).await.unwrap();
    let error = store.write(vec![block(&device(id), 10, 10)]).await.unwrap_err();
    assert!(matches!(error, StoreError::Refused(_)), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_that_no_document_holds_is_too_large_and_its_halves_are_not() {
    let mut world = shared_world!();
    let store = world.open().await;
    let wide = |part: u16, rows: i64| {
        let mut block = block(&device("a"), i64::from(part) * 100, rows);
        block.id.part = part;
        let text = |_| "x".repeat(1 << 20).into();
        let data = weir_stores::ColumnData::Str((0..rows).map(text).collect());
        block.columns.push(weir_stores::Column { name: "x".into(), present: Vec::new(), data });
        block
    };
    let error = store.write(vec![wide(0, 16)]).await.unwrap_err();
    assert!(matches!(&error, StoreError::TooLarge(why) if why.contains("default/a")), "{error:?}");
    // Together larger than one request.
    store.write((1..5).map(|part| wide(part, 15)).collect()).await.unwrap();
    assert_eq!(all(store, &device("a"), TimeRange::ALL).await.len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_that_delete_the_same_old_readings_count_them_once() {
    let mut world = shared_world!();
    let store = world.open().await.clone();
    let devices: Vec<_> = (0..30).map(|d| device(&format!("d{d}"))).collect();
    let blocks = devices.iter().flat_map(|device| (0..100).map(|i| block(device, i * 10, 10)));
    store.write(blocks.collect()).await.unwrap();
    let before = crate::data::START + 500 * crate::data::SECOND;
    let expire = || {
        let store = store.clone();
        tokio::spawn(async move { store.expire(before).await })
    };
    for outcome in [expire(), expire(), expire()] {
        match outcome.await.unwrap() {
            Ok(_) | Err(StoreError::Busy { .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    store.expire(before).await.unwrap();
    assert_eq!(held(&store).await, [("default".into(), 30_000)]);
    assert_eq!(all(&store, &devices[7], TimeRange::ALL).await.len(), 50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_count_is_right_while_old_readings_are_being_deleted() {
    let mut world = shared_world!();
    let store = world.open().await.clone();
    let blocks = (0..40).flat_map(|d| (0..200).map(move |i| block(&device(&format!("d{d}")), i * 10, 10)));
    store.write(blocks.collect()).await.unwrap();
    let deleting = tokio::spawn({
        let store = store.clone();
        // Many small deletions.
        async move {
            for step in 1..=20 {
                store.expire(crate::data::START + step * 100 * crate::data::SECOND).await.unwrap();
            }
        }
    });
    let mut counts = 0;
    while !deleting.is_finished() {
        match History::count(&store).await {
            Ok(count) => assert_eq!(count, [("default".into(), 80_000)], "after {counts} right counts"),
            Err(StoreError::Busy { .. }) => continue,
            Err(error) => panic!("{error:?}"),
        }
        counts += 1;
    }
    deleting.await.unwrap();
    assert_eq!(held(&store).await, [("default".into(), 80_000)]);
    assert!(all(&store, &device("d7"), TimeRange::ALL).await.is_empty());
}
